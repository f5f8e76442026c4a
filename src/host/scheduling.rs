//! How soon the kernel gives a core to the threads that must not be late. Where it refuses (no CAP_SYS_NICE), heartbeats
//! are as late as the machine is busy; that is said once.

use nix::libc;

/// The control thread's: before every ordinary thread. It runs for microseconds at a time; the kernel's own throttle
/// (`sched_rt_runtime_us`) bounds it if it should not.
pub fn urgent() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure lives through the call, and 0 names the calling thread.
    #[allow(unsafe_code, reason = "no crate at hand wraps sched_setscheduler")]
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } != 0;
    if refused {
        tracing::warn!(
            error = %std::io::Error::last_os_error(),
            "no real-time priority for the control thread: heartbeats may be late on a busy machine"
        );
        prompt();
    }
}

/// An adaptive worker's: before ordinary threads of this core, as far as fairness goes.
pub fn prompt() {
    // SAFETY: takes numbers only; 0 names the calling thread (on Linux, niceness is a thread's).
    #[allow(unsafe_code, reason = "no crate at hand wraps setpriority")]
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } != 0;
    if refused {
        tracing::warn!(error = %std::io::Error::last_os_error(), "no higher priority for a worker that sleeps when idle");
    }
}
