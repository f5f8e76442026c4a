//! A worker's loop as a capsule pipeline of our own.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::host::HostPort;
use super::queue::DpdkPort;

/// Turns between two looks at the executor, which costs about as much as a few empty turns; a stop takes effect after at
/// most that many.
const TURNS: u32 = 32;

/// What runs on a worker's core.
pub trait Turn {
    /// One round: receive, decide, send. It must return within milliseconds. True if it slept for want of work: a stop
    /// is looked for then.
    fn turn(&mut self) -> bool;
}

/// What a worker owns.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkerPorts {
    /// The core it runs on.
    pub core: usize,
    /// Its place among the workers, from 0.
    pub index: usize,
    /// Its queue pair towards the switch.
    pub wire: DpdkPort,
    /// Its queue pair towards the host's stack.
    pub host: HostPort,
    /// Descriptors that are readable while a frame waits in the queues of wire and host, if the kernel has any.
    pub arrivals: Option<[OwnedFd; 2]>,
}

/// A [`Turn`] that capsule's executor polls for ever.
pub(super) struct Pipeline<W> {
    name: String,
    worker: Box<W>,
}

impl<W: Turn> Pipeline<W> {
    pub(super) fn new(core: usize, make: impl FnOnce() -> W) -> Pipeline<W> {
        let _loud = AbortOnPanic;
        Pipeline { name: format!("worker on core {core}"), worker: Box::new(make()) }
    }
}

impl<W: Turn> Future for Pipeline<W> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let _loud = AbortOnPanic;
        for _ in 0..TURNS {
            if self.worker.turn() {
                break;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<W: Turn> capsule::batch::Pipeline for Pipeline<W> {
    fn name(&self) -> &str {
        &self.name
    }

    fn run_once(&mut self) {
        self.worker.turn();
    }
}

/// Ends the process if it is dropped by a panic: capsule would only end the thread, and exit with 0 in the end.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
