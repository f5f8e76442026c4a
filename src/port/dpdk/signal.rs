//! Signals: from the process to `on_signal`, and the stop that comes from within.
//!
//! capsule listens for signals only while it runs, and only a signal ends it. So they are caught from
//! [`Runtime::open`](super::Runtime::open) on, those that came too early are raised again once capsule listens, and a
//! stop from within is a SIGTERM to ourselves with a flag beside it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use capsule::UnixSignal;

use super::Error;

/// A signal that the process got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

const CAUGHT: [i32; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// How often a signal is looked for that came before capsule listened.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Default)]
struct State {
    stop: AtomicBool,
    // A bit for each signal number: came since `catch`, and reported.
    came: AtomicU32,
    reported: AtomicU32,
    // Whether the early ones have been looked for.
    looked: AtomicBool,
}

/// Ends a run. May be cloned and used on any thread, also before the run has begun.
#[derive(Clone)]
pub struct Stopper {
    state: Arc<State>,
}

impl Stopper {
    /// Ends the run without asking `on_signal`; returns at once.
    pub fn stop(&self) {
        // Release: pairs with the Acquire in `install`. Before the signal, so that whoever reports that one sees it.
        self.state.stop.store(true, Ordering::Release);
        raise(libc::SIGTERM);
    }
}

impl std::fmt::Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stopper")
    }
}

fn raise(signal: i32) {
    // SAFETY: a signal to ourselves, for which there is a handler since `catch`.
    unsafe { libc::kill(libc::getpid(), signal) };
}

/// The signals caught.
pub(super) struct Signals {
    state: Arc<State>,
}

impl Signals {
    /// Catches SIGHUP, SIGINT and SIGTERM from now on.
    pub(super) fn catch() -> Result<Signals, Error> {
        let state = Arc::new(State::default());
        for signal in CAUGHT {
            let state = state.clone();
            // SAFETY: the action is one atomic operation, which is all that a signal handler may do.
            // Relaxed: the bit is all there is to see.
            unsafe {
                signal_hook_registry::register(signal, move || {
                    state.came.fetch_or(1 << signal, Ordering::Relaxed);
                })
            }
            .map_err(|reason| Error::Dpdk { doing: "catching signals", reason: reason.to_string() })?;
        }
        Ok(Signals { state })
    }

    pub(super) fn stopper(&self) -> Stopper {
        Stopper { state: self.state.clone() }
    }

    /// Has capsule report signals to `on_signal`, those that came too early too.
    pub(super) fn install(
        &self,
        capsule: &mut capsule::Runtime,
        control_core: usize,
        on_signal: impl Fn(Signal) -> ControlFlow<()> + 'static,
    ) -> Result<(), anyhow::Error> {
        let state = self.state.clone();
        capsule.set_on_signal(move |signal| {
            let (number, signal) = match signal {
                UnixSignal::SIGHUP => (libc::SIGHUP, Signal::Hangup),
                UnixSignal::SIGINT => (libc::SIGINT, Signal::Interrupt),
                UnixSignal::SIGTERM => (libc::SIGTERM, Signal::Terminate),
            };
            state.reported.fetch_or(1 << number, Ordering::Relaxed);
            // Acquire: what happened before the stop is visible to whoever runs after it.
            state.stop.load(Ordering::Acquire) || on_signal(signal).is_break()
        });
        let state = self.state.clone();
        let look = move || {
            if state.looked.swap(true, Ordering::Relaxed) {
                return;
            }
            // capsule listens by now, as this runs on its loop: raised again, an early signal arrives.
            let early = state.came.load(Ordering::Relaxed) & !state.reported.load(Ordering::Relaxed);
            CAUGHT.into_iter().filter(|signal| early & 1 << signal != 0).for_each(raise);
        };
        capsule.add_periodic_task_to_core(control_core, look, LOOK)?;
        Ok(())
    }
}

/// Keeps net_tap from a real-time signal for each frame.
///
/// The driver asks the kernel for a signal whenever a frame can be read, one per frame to the whole process: it
/// interrupts the control thread, and once too many are pending the kernel sends a SIGIO instead, which ends the process.
/// It picks a signal that nobody has set; while this lives, all of them are ignored, so it finds none and reads
/// whenever it is polled.
pub(super) struct RealTimeSignals {
    before: Vec<(i32, libc::sigaction)>,
}

impl RealTimeSignals {
    pub(super) fn hide() -> RealTimeSignals {
        let mut before = Vec::new();
        for signal in libc::SIGRTMIN()..=libc::SIGRTMAX() {
            // SAFETY: all zeros is a valid sigaction; both pointers are to live values.
            unsafe {
                let mut old: libc::sigaction = std::mem::zeroed();
                let mut new: libc::sigaction = std::mem::zeroed();
                new.sa_sigaction = libc::SIG_IGN;
                if libc::sigaction(signal, &new, &mut old) == 0 {
                    before.push((signal, old));
                }
            }
        }
        RealTimeSignals { before }
    }
}

impl Drop for RealTimeSignals {
    fn drop(&mut self) {
        for (signal, old) in &self.before {
            // SAFETY: what sigaction returned above.
            unsafe { libc::sigaction(*signal, old, std::ptr::null_mut()) };
        }
    }
}
