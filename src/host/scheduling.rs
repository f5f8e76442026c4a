//! How soon the kernel gives a core to the threads that must not be late. A heartbeat passes through two of a member's
//! threads; what keeps either from running for some milliseconds looks like its death to the others.
//!
//! Real-time classes were tried and are worse on a shared core: since Linux 6.8 the fair server (`dl_server` in
//! kernel/sched/deadline.c) lets ordinary threads run before them for up to 50 ms a second wherever they wait, and in one
//! piece. Short slices and the greatest weight among ordinary threads have no such gap.
//!
//! Where the kernel refuses (no CAP_SYS_NICE), heartbeats are as late as the machine is busy; that is said once.

use std::io;

use nix::libc;

/// The slice asked for: EEVDF runs first whose deadline is nearest, and that is a slice away (sched(7), Linux 6.12;
/// older kernels ignore it).
const SLICE_NANOS: u64 = 100_000;

/// The greatest weight (setpriority(2)).
const NICE: i32 = -20;

/// `struct sched_attr` of sched_setattr(2), version 0.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Puts the calling thread before the ordinary ones of its core: the control thread, or a worker that sleeps when it is
/// idle. A worker that polls without pause owns its core anyway.
pub fn urgent() {
    let attributes = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: libc::SCHED_OTHER as u32,
        nice: NICE,
        runtime: SLICE_NANOS,
        ..SchedAttr::default()
    };
    // SAFETY: the structure is of the size it states and lives through the call; 0 names the calling thread.
    #[allow(unsafe_code, reason = "no crate at hand wraps sched_setattr")]
    let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } != 0;
    if refused {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "no priority for a thread that must not be late: heartbeats may be, on a busy machine");
    }
}
