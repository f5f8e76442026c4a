//! A member: a machine with its kernel and service, and, while it runs, baton itself: the real worker over in-memory
//! ports, the real tables, the real control core.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::clock::Skew;
use super::kernel::{Announced, Kernel};
use super::service::Server;
use super::shell::{Shell, Sockets, Speech};
use crate::classify::Facts;
use crate::config::checked::HugePages;
use crate::control::truth::Truth;
use crate::control::{ClusterView, Control, Event};
use crate::counters::Counters;
use crate::kept::Kept;
use crate::orphans::Suspicions;
use crate::port::memory::{MemoryBuffer, MemoryPort};
use crate::port::{BURST, Buffer};
use crate::shared::Shared;
use crate::table::{Established, Fragments, Handshakes, Hasher, TableError};
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
    /// When it was booted last.
    pub booted: Time,
    /// How often it was booted before.
    pub boots: u64,
    /// When its service stopped listening, for each virtual IP.
    pub stopped: Vec<Vec<Time>>,
    /// How often baton was started.
    pub incarnation: u64,
    /// It has been told to leave.
    pub leaving: bool,
    /// And not to come back.
    pub left_for_good: bool,
}

impl Machine {
    /// Whether it could be active for a virtual IP, as far as it knows itself.
    pub fn is_fit(&self, vip: usize, now: Time) -> bool {
        let running = self.daemon.as_ref().filter(|daemon| !daemon.paused);
        running.and_then(|daemon| daemon.view(now)).is_some_and(|view| {
            view.settled && !view.yielding && view.vips[vip].healthy && !view.vips[vip].draining && !self.leaving
        })
    }
}

/// baton as it runs on a machine.
pub struct Daemon {
    /// What its workers share.
    pub member: Arc<worker::Member>,
    /// The worker's counters.
    pub counters: Arc<Counters>,
    /// The control thread.
    pub shell: Shell,
    /// Its clock.
    pub skew: Skew,
    /// Stopped (SIGSTOP): neither worker nor control thread runs.
    pub paused: bool,
    /// Since when.
    paused_at: Time,
    /// Frames were lost because the worker did not come.
    lost: bool,
    /// Frames from the wire that wait for the worker.
    pub arrived: VecDeque<Frame>,
    worker: Worker<MemoryPort, MemoryPort>,
}

/// What a member starts with.
pub struct Birth {
    /// What its workers know.
    pub facts: Facts,
    /// Of the hash.
    pub key: [u8; 16],
    /// Capacity of its connection table.
    pub connections: usize,
    /// Capacity of its ring of handshakes.
    pub handshakes: usize,
    /// How long SYNs are kept.
    pub keep_for: Duration,
    /// Its control core; without one, roles are what a test says.
    pub control: Option<Control>,
    /// In which version it speaks to the others.
    pub speech: Speech,
    /// Whether its services are probed.
    pub probed: bool,
    /// Its clock.
    pub skew: Skew,
}

/// Why baton did not start on a machine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Memory that the system does not give.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table could not be rebuilt.
    #[error(transparent)]
    Rebuild(#[from] std::io::Error),
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
    /// Starts with tables for `connections` connections, which hold what the kernel has, and `handshakes` handshakes.
    ///
    /// # Errors
    /// Memory that the system does not give, or connections for which there is no room.
    pub fn start(kernel: &mut Kernel, birth: Birth, now: Time) -> Result<Daemon, StartError> {
        let Birth { facts, key, connections, handshakes, keep_for, control, speech, probed, skew } = birth;
        let vips = facts.vips.len();
        let established = Established::new(connections, Hasher::new(key), HugePages::Never)?;
        kernel.announced = Announced::default();
        let mut sockets = Sockets { kernel, facts: &facts, now };
        let (truth, rebuilt) = Truth::rebuild(&established, &mut sockets, skew.local(now))?;
        let member = Arc::new(worker::Member {
            facts,
            shared: Arc::new(Shared::new(vips)),
            established,
            handshakes: Handshakes::new(handshakes, HugePages::Never)?,
            half_open: rebuilt.half_open,
            fragments: Fragments::new(),
            suspicions: Suspicions::new(1024),
        });
        let shell = Shell::start(control, speech, probed, truth, &member, skew.local(now));
        let counters = Arc::new(Counters::default());
        // Its own clock is for the histogram of forwarding times alone.
        let (wire, host) = (MemoryPort::default(), MemoryPort::default());
        let kept = Kept::new(KEPT_SYNS, keep_for, vips);
        let worker = Worker::new(Arc::clone(&member), Arc::clone(&counters), Clock::start(), kept, wire, host);
        Ok(Daemon {
            member,
            counters,
            shell,
            skew,
            paused: false,
            paused_at: now,
            lost: false,
            arrived: VecDeque::new(),
            worker,
        })
    }

    /// A frame from the wire: the device has room for it, or not.
    pub fn arrive(&mut self, frame: Frame) {
        if self.arrived.len() < RING {
            self.arrived.push_back(frame);
        } else {
            self.lost = true;
        }
    }

    /// Whether a turn of the worker would find anything to do.
    pub fn has_work(&self) -> bool {
        let shared = &self.member.shared;
        self.more_waits() || !shared.outbox.is_empty() || !shared.orphans.is_empty()
    }

    /// Whether frames wait for it, those of the host among them that it has been given and has not read.
    pub fn more_waits(&self) -> bool {
        !self.arrived.is_empty() || !self.worker.host.arrived.is_empty()
    }

    /// The frames of the next burst from the wire.
    pub fn next_burst(&self) -> impl Iterator<Item = &Frame> {
        self.arrived.iter().take(BURST)
    }

    /// Stops, or goes on.
    pub fn pause(&mut self, paused: bool, now: Time) {
        if paused && !self.paused {
            self.paused_at = now;
        } else if self.paused && !paused {
            // A worker that polls sees this by itself; here it has turns only when there is something to do.
            self.worker.was_away(now.since(self.paused_at));
        }
        self.paused = paused;
    }

    /// The cluster as this member sees it.
    pub fn view(&self, now: Time) -> Option<ClusterView> {
        self.shell.control.as_ref().map(|control| control.view(self.skew.local(now)))
    }

    /// When the control thread is to run at the latest.
    pub fn shell_due(&self) -> Time {
        self.skew.global(self.shell.deadline())
    }

    /// The control thread does what is due.
    pub fn run_shell(&mut self, kernel: &mut Kernel, now: Time) {
        let mut sockets = Sockets { kernel, facts: &self.member.facts, now };
        if std::mem::take(&mut self.lost) {
            self.shell.step(Event::FramesLost, &self.member, self.skew.local(now));
        }
        self.shell.run(&self.member, &mut sockets, self.skew.local(now));
    }

    /// Tells the control core.
    pub fn tell(&mut self, event: Event<'_>, now: Time) {
        self.shell.step(event, &self.member, self.skew.local(now));
    }

    /// How long until the worker has something to do without a frame.
    pub fn due_in(&self, now: Time) -> Option<Duration> {
        self.worker.due_in(self.skew.local(now))
    }

    /// One turn of the worker.
    pub fn turn(&mut self, from_host: &mut VecDeque<Frame>, now: Time) -> Sent {
        let buffer = |frame: Frame| MemoryBuffer::new(&frame);
        let wire = self.arrived.len().min(BURST);
        self.worker.wire.arrived.extend(self.arrived.drain(..wire).map(buffer));
        let host = from_host.len().min(BURST);
        self.worker.host.arrived.extend(from_host.drain(..host).map(buffer));
        self.worker.turn_at(self.skew.local(now));
        let frame = |buffer: MemoryBuffer| Frame::from(buffer.bytes());
        Sent {
            to_wire: self.worker.wire.sent.drain(..).map(frame).collect(),
            to_host: self.worker.host.sent.drain(..).map(frame).collect(),
        }
    }
}
