//! A worker's loop as a capsule pipeline of our own.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::memory::Pool;
use super::queue::{DpdkPort, PortId};

/// Turns between two looks at the executor, which costs about as much as a few empty turns; a stop takes effect after at
/// most that many.
const TURNS: u32 = 32;

/// What runs on a worker's core.
pub trait Turn {
    /// One round: receive, decide, send. It must return; where it sleeps for want of work, for a millisecond at most,
    /// as a stop waits for 32 turns.
    fn turn(&mut self);
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
    pub host: DpdkPort,
}

/// The ports of the worker on `core`. capsule gives the cores of a port, in ascending order, its queues from 0 on.
pub(super) fn ports(core: usize, index: usize, wire: PortId, host: PortId, pool: Pool) -> WorkerPorts {
    let queue = index as u16;
    WorkerPorts { core, index, wire: DpdkPort::new(wire, queue, pool), host: DpdkPort::new(host, queue, pool) }
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
            self.worker.turn();
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
