//! A member: a machine with its kernel and service, and, while it runs, baton itself: the real worker over in-memory
//! ports, the real tables, the real control core.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::kernel::Kernel;
use super::service::Server;
use super::shell::Shell;
use crate::classify::Facts;
use crate::config::checked::HugePages;
use crate::counters::Counters;
use crate::kept::Kept;
use crate::orphans::Suspicions;
use crate::port::memory::{MemoryBuffer, MemoryPort};
use crate::port::{BURST, Buffer};
use crate::shared::Shared;
use crate::table::{Established, Fragments, HalfOpen, Handshakes, Hasher, TableError};
use crate::time::{Clock, Time};
use crate::worker::{self, Worker};

/// Frames that a device holds for a worker that does not come (a common receive ring).
const RING: usize = 1024;

/// SYNs that a worker keeps.
const KEPT_SYNS: usize = 1024;

/// A frame, shared by all who get a copy.
pub type Frame = Rc<[u8]>;

/// A machine of the cluster.
pub struct Machine {
    /// Its stack.
    pub kernel: Kernel,
    /// The service on it.
    pub server: Server,
    /// baton, while it runs.
    pub daemon: Option<Daemon>,
    /// Frames from the stack that wait for baton.
    pub from_host: VecDeque<Frame>,
    /// Without baton: the machine answers for the address itself.
    pub plain: bool,
    /// Whether anything ever went wrong with it.
    pub disturbed: bool,
    /// How often baton was started.
    pub incarnation: u64,
}

/// baton as it runs on a machine.
pub struct Daemon {
    /// What its workers share.
    pub member: Arc<worker::Member>,
    /// The worker's counters.
    pub counters: Arc<Counters>,
    /// The control thread.
    pub shell: Shell,
    /// Stopped (SIGSTOP): neither worker nor control thread runs.
    pub paused: bool,
    /// Frames from the wire that wait for the worker.
    pub arrived: VecDeque<Frame>,
    worker: Worker<MemoryPort, MemoryPort>,
}

/// What a turn of the worker sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// To the wire.
    pub to_wire: Vec<Frame>,
    /// To the host.
    pub to_host: Vec<Frame>,
}

impl Daemon {
    /// Starts with empty tables for `connections` connections and `handshakes` handshakes.
    ///
    /// # Errors
    /// Memory that the system does not give.
    pub fn new(
        facts: Facts,
        key: [u8; 16],
        connections: usize,
        handshakes: usize,
        keep_for: Duration,
        shell: Shell,
    ) -> Result<Daemon, TableError> {
        let vips = facts.vips.len();
        let member = Arc::new(worker::Member {
            facts,
            shared: Arc::new(Shared::new(vips)),
            established: Established::new(connections, Hasher::new(key), HugePages::Never)?,
            handshakes: Handshakes::new(handshakes, HugePages::Never)?,
            half_open: HalfOpen::default(),
            fragments: Fragments::new(),
            suspicions: Suspicions::new(1024),
        });
        let counters = Arc::new(Counters::default());
        // Its own clock is for the histogram of forwarding times alone.
        let (wire, host) = (MemoryPort::default(), MemoryPort::default());
        let kept = Kept::new(KEPT_SYNS, keep_for, vips);
        let worker = Worker::new(Arc::clone(&member), Arc::clone(&counters), Clock::start(), kept, wire, host);
        Ok(Daemon { member, counters, shell, paused: false, arrived: VecDeque::new(), worker })
    }

    /// A frame from the wire: the device has room for it, or not.
    pub fn arrive(&mut self, frame: Frame) {
        if self.arrived.len() < RING {
            self.arrived.push_back(frame);
        }
    }

    /// Whether a turn of the worker would find anything to do.
    pub fn has_work(&self) -> bool {
        let shared = &self.member.shared;
        !self.arrived.is_empty() || !shared.outbox.is_empty() || !shared.orphans.is_empty()
    }

    /// The frames of the next burst from the wire.
    pub fn next_burst(&self) -> impl Iterator<Item = &Frame> {
        self.arrived.iter().take(BURST)
    }

    /// How long until the worker has something to do without a frame.
    pub fn due_in(&self, now: Time) -> Option<Duration> {
        self.worker.due_in(now)
    }

    /// One turn of the worker.
    pub fn turn(&mut self, from_host: &mut VecDeque<Frame>, now: Time) -> Sent {
        let buffer = |frame: Frame| MemoryBuffer::new(&frame);
        let wire = self.arrived.len().min(BURST);
        self.worker.wire.arrived.extend(self.arrived.drain(..wire).map(buffer));
        let host = from_host.len().min(BURST);
        self.worker.host.arrived.extend(from_host.drain(..host).map(buffer));
        self.worker.turn_at(now);
        let frame = |buffer: MemoryBuffer| Frame::from(buffer.bytes());
        Sent {
            to_wire: self.worker.wire.sent.drain(..).map(frame).collect(),
            to_host: self.worker.host.sent.drain(..).map(frame).collect(),
        }
    }
}
