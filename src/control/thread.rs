//! The control thread: the shell that gives the control core time, frames and requests, and carries out what it says.
//!
//! It owns no packet and no worker waits for it. What it does in one turn is bounded, so that heartbeats leave in time.

mod orphans;
mod systemd;

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};

use super::protocol::{Ask, Listed, Page};
use super::truth::{Kernel, Truth};
use super::view;
use super::{Action, CannotActivate, Control, Event, Report};
use crate::config::Config;
use crate::control::probes::Measured;
use crate::counters::Counters;
use crate::shared::{HeartbeatFrame, Role};
use crate::table::VipIndex;
use crate::time::{Clock, Time};
use crate::wait::Bell;
use crate::worker::Member;

/// The longest that heartbeats lie in the inbox. Workers do not wake this thread: that would be a system call on their
/// path.
const LONGEST_WAIT: Duration = Duration::from_millis(2);

/// The shortest wait, which is that at heartbeats of 1 ms.
const SHORTEST_WAIT: Duration = Duration::from_micros(200);

/// How long `activate` waits for the role to have moved.
const ACTIVATE_PATIENCE: Duration = Duration::from_secs(5);

/// What signals ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hand over, say goodbye, end.
    Leave,
    /// Read the configuration again, and if it is right, start anew with it.
    Reload,
}

/// Why the control thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This member leaves.
    Left,
    /// It starts anew at once: what it has in the kernel stays, connections too.
    Returning,
}

/// Where requests come from.
pub struct Inlets {
    /// From the control socket and the metrics server.
    pub asks: Receiver<Ask>,
    /// From signals.
    pub commands: Receiver<Command>,
    /// From the probes of metric and health.
    pub measured: Receiver<Measured>,
}

/// A worker, as the control thread sees it.
pub struct WorkerView {
    /// Its core.
    pub core: usize,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// Everything that the control thread has.
pub struct Shell<K: Kernel> {
    /// The configuration.
    pub config: Config,
    /// The core.
    pub control: Control,
    /// What the workers share.
    pub member: Arc<Member>,
    /// The workers.
    pub workers: Vec<WorkerView>,
    /// The process's clock.
    pub clock: Clock,
    /// Requests.
    pub inlets: Inlets,
    /// The host's sockets.
    pub kernel: K,
    /// The table's truth, rebuilt.
    pub truth: Truth,
    /// How many frames the wire's queues have had no room for.
    pub lost: Box<dyn FnMut() -> u64 + Send>,
    /// Wakes the workers for a heartbeat, where they may be waiting.
    pub bell: Option<Bell>,
    /// Called on [`Command::Reload`]: whether there is a right configuration to start anew with. Says itself if not.
    pub reload: Box<dyn Fn() -> bool + Send>,
}

/// A request that is answered when the role has moved.
struct Waiting {
    vip: VipIndex,
    until: Time,
    reply: Sender<Result<(), String>>,
}

/// The state of a running control thread.
pub(super) struct Running<K: Kernel> {
    pub(super) shell: Shell<K>,
    pub(super) started: Time,
    pub(super) role_changes: Vec<u64>,
    roles: Vec<Role>,
    waiting: Vec<Waiting>,
    watch: Watch,
    advice: Advice,
    orphans: orphans::Orphans,
    systemd: systemd::Systemd,
    complained_of_kernel: bool,
    actions: Vec<Action>,
    end: Ended,
    left: bool,
}

impl<K: Kernel> Shell<K> {
    /// Runs until the roles are handed over after a [`Command`].
    pub fn run(self) -> Ended {
        let started = self.clock.now();
        let vips = self.member.facts.vips.len();
        let watch = Watch::new(&self.workers, self.config.cluster.heartbeat * self.config.cluster.missed, started);
        let mut running = Running {
            started,
            role_changes: vec![0; vips],
            roles: vec![Role::default(); vips],
            waiting: Vec::new(),
            watch,
            advice: Advice::default(),
            orphans: orphans::Orphans::default(),
            systemd: systemd::Systemd::new(started),
            complained_of_kernel: false,
            actions: Vec::new(),
            end: Ended::Left,
            left: false,
            shell: self,
        };
        while !running.left {
            running.turn();
        }
        running.end
    }
}

impl<K: Kernel> Running<K> {
    /// One turn: what has arrived, what is due, and then a wait for requests.
    fn turn(&mut self) {
        let now = self.shell.clock.now();
        self.watch_workers(now);
        self.systemd.alive(self.watch.alive, now);
        while let Some(heartbeat) = self.shell.member.shared.inbox.pop() {
            self.step(Event::Frame(heartbeat.bytes()), now);
        }
        while let Ok(measured) = self.shell.inlets.measured.try_recv() {
            self.step(
                match measured {
                    Measured::Metric(metric) => Event::Metric(metric),
                    Measured::Health { vip, healthy } => Event::Health { vip, healthy },
                },
                now,
            );
        }
        if now >= self.shell.control.next_tick() {
            self.step(Event::Tick, now);
        }
        self.keep_true(now);
        self.seek_orphans(now);
        self.answer_waiting(now);
        self.advice.look(&self.shell.workers);
        self.wait(now);
    }

    /// Waits for a request, but not beyond what is due, nor longer than heartbeats may lie.
    fn wait(&mut self, now: Time) {
        let poll = (self.shell.config.cluster.heartbeat / 5).clamp(SHORTEST_WAIT, LONGEST_WAIT);
        let due = self.shell.control.next_tick().since(now);
        crossbeam::channel::select! {
            recv(self.shell.inlets.asks) -> ask => match ask {
                Ok(ask) => self.answer(ask),
                // Nobody can ask any more: the servers are gone.
                Err(_) => std::thread::sleep(poll.min(due)),
            },
            recv(self.shell.inlets.commands) -> command => match command {
                Ok(Command::Leave) => self.leave(Ended::Left),
                Ok(Command::Reload) if (self.shell.reload)() => self.leave(Ended::Returning),
                Ok(Command::Reload) => {}
                Err(_) => std::thread::sleep(poll.min(due)),
            },
            default(poll.min(due)) => {}
        }
    }

    /// Begins to leave; a way out that is under way already is only ever made final.
    fn leave(&mut self, end: Ended) {
        self.end = end;
        self.systemd.ends(end);
        self.step(Event::Leave { returning: end == Ended::Returning }, self.shell.clock.now());
    }

    /// Gives the core an event, and does what it says.
    fn step(&mut self, event: Event<'_>, now: Time) {
        let mut actions = std::mem::take(&mut self.actions);
        self.shell.control.step(event, now, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Send(heartbeat) => self.send(*heartbeat),
                Action::SetRole { vip, role } => self.set_role(vip, role),
                Action::LookUp(look_up) => self.orphans.look_ups.push(look_up),
                Action::Reset(orphan) => self.reset(orphan),
                Action::Report(report) => {
                    if matches!(report, Report::Settled) {
                        self.systemd.ready();
                    }
                    log(&report);
                }
                Action::Left => self.left = true,
            }
        }
        self.actions = actions;
    }

    fn send(&self, heartbeat: HeartbeatFrame) {
        if self.shell.member.shared.outbox.push(heartbeat).is_err() {
            tracing::warn!("a heartbeat was not sent: no worker has taken the last ones");
        }
        self.ring();
    }

    /// Workers that wait have something to do.
    fn ring(&self) {
        if let Some(bell) = &self.shell.bell {
            bell.ring();
        }
    }

    fn set_role(&mut self, vip: VipIndex, role: Role) {
        let index = usize::from(vip);
        self.shell.member.shared.roles.store(vip, role);
        self.ring();
        let before = std::mem::replace(&mut self.roles[index], role);
        if (before.active, before.rank) != (role.active, role.rank) {
            self.role_changes[index] += 1;
        }
    }

    /// A worker that hangs must not keep the role: without it, heartbeats stop, and another member takes over.
    fn watch_workers(&mut self, now: Time) {
        let Some(alive) = self.watch.look(&self.shell.workers, now) else { return };
        if !alive {
            tracing::error!("a worker does not poll: no heartbeats until it does");
        }
        self.step(Event::WorkersAlive(alive), now);
        if alive && self.watch.first {
            self.watch.first = false;
            self.step(Event::Ready, now);
        }
    }

    fn keep_true(&mut self, now: Time) {
        let Shell { truth, member, kernel, .. } = &mut self.shell;
        match truth.step(&member.shared, &member.established, kernel, now) {
            Ok(()) => self.complained_of_kernel = false,
            Err(error) if !self.complained_of_kernel => {
                self.complained_of_kernel = true;
                tracing::warn!(%error, "the kernel does not tell about its sockets: ended connections stay in the table");
            }
            Err(_) => {}
        }
    }

    fn answer(&mut self, ask: Ask) {
        // Whoever has stopped waiting for the answer does not get it.
        match ask {
            Ask::Snapshot(reply) => drop(reply.send(Box::new(view::snapshot(self)))),
            Ask::Drain(vip, reply) => {
                let done = self.vip(vip).map(|vip| self.step(Event::Drain { vip }, self.shell.clock.now()));
                let _ = reply.send(done);
            }
            Ask::Undrain(vip, reply) => {
                let done = self.vip(vip).map(|vip| self.step(Event::Undrain { vip }, self.shell.clock.now()));
                let _ = reply.send(done);
            }
            Ask::Activate(address, reply) => match self.vip(Some(address)) {
                Ok(Some(vip)) => self.activate(vip, reply),
                Ok(None) => {}
                Err(why) => drop(reply.send(Err(why))),
            },
            Ask::Connections(page, reply) => {
                let listed = self.vip(page.vip).map(|vip| self.list(page, vip));
                let _ = reply.send(listed);
            }
        }
    }

    /// Which VIP is meant by an address; none by none.
    fn vip(&self, address: Option<std::net::IpAddr>) -> Result<Option<VipIndex>, String> {
        let Some(address) = address else { return Ok(None) };
        let vips = &self.shell.member.facts.vips;
        match vips.iter().position(|vip| std::net::IpAddr::from(vip.address) == address) {
            Some(index) => Ok(Some(index as VipIndex)),
            None => {
                let served: Vec<_> = vips.iter().map(|vip| vip.address.to_string()).collect();
                Err(format!("{address} is not a virtual IP of this member; expected one of {}", served.join(", ")))
            }
        }
    }

    fn activate(&mut self, vip: VipIndex, reply: Sender<Result<(), String>>) {
        let now = self.shell.clock.now();
        let mut actions = Vec::new();
        self.shell.control.step(Event::Activate { vip }, now, &mut actions);
        let refused = actions.iter().find_map(|action| match action {
            // What is asked for is so already.
            Action::Report(Report::ActivateRefused { why: CannotActivate::AlreadyActive, .. }) => None,
            Action::Report(Report::ActivateRefused { why, .. }) => Some(why.to_string()),
            _ => None,
        });
        self.actions.append(&mut actions);
        self.step(Event::Tick, now);
        match refused {
            Some(why) => drop(reply.send(Err(why))),
            None => self.waiting.push(Waiting { vip, until: now + ACTIVATE_PATIENCE, reply }),
        }
    }

    /// Answers those whose role has moved: we serve, and nobody else does by what the others say.
    fn answer_waiting(&mut self, now: Time) {
        if self.waiting.is_empty() {
            return;
        }
        let view = self.shell.control.view(now);
        self.waiting.retain(|waiting| {
            let vip = &view.vips[usize::from(waiting.vip)];
            if vip.role.active && vip.complete {
                let _ = waiting.reply.send(Ok(()));
                return false;
            }
            if now >= waiting.until {
                let _ = waiting.reply.send(Err("the other members have not agreed in time".into()));
                return false;
            }
            true
        });
    }

    fn list(&self, page: Page, vip: Option<VipIndex>) -> Listed {
        view::connections(&self.shell.member, page, vip, self.shell.clock.now())
    }
}

fn log(report: &Report) {
    match report {
        Report::RoleChanged { .. } | Report::PeerAlive { .. } | Report::PeerLeft { .. } | Report::Settled => {
            tracing::info!("{report}");
        }
        Report::ActivateRefused { .. } | Report::YieldEnded => tracing::info!("{report}"),
        _ => tracing::warn!("{report}"),
    }
}

/// Whether all workers go on polling.
struct Watch {
    polls: Vec<u64>,
    seen: Vec<Time>,
    patience: Duration,
    alive: bool,
    /// No worker has been seen polling yet.
    first: bool,
}

impl Watch {
    fn new(workers: &[WorkerView], patience: Duration, now: Time) -> Watch {
        Watch { polls: vec![0; workers.len()], seen: vec![now; workers.len()], patience, alive: false, first: true }
    }

    /// Whether they do, if that has changed.
    fn look(&mut self, workers: &[WorkerView], now: Time) -> Option<bool> {
        for (index, worker) in workers.iter().enumerate() {
            let polls = worker.counters.polls.get();
            if polls != self.polls[index] {
                self.polls[index] = polls;
                self.seen[index] = now;
            }
        }
        let polled = self.polls.iter().all(|&polls| polls > 0);
        let alive = polled && self.seen.iter().all(|&seen| now.since(seen) < self.patience);
        (std::mem::replace(&mut self.alive, alive) != alive).then_some(alive)
    }
}

/// Says once what to do about frames that a setting of this machine spoils.
#[derive(Default)]
struct Advice {
    oversize: bool,
    unfinished: bool,
}

impl Advice {
    fn look(&mut self, workers: &[WorkerView]) {
        use crate::verdict::DropReason;
        let any = |reason| workers.iter().any(|worker| worker.counters.dropped(reason) > 0);
        if !self.oversize && any(DropReason::Oversize) {
            self.oversize = true;
            tracing::warn!(
                "frames larger than a buffer arrive and are dropped (oversize): switch merging off where they are made or \
                 received: ethtool -K IFACE gro off lro off, and tso off gso off on the senders of a virtual wire"
            );
        }
        if !self.unfinished && any(DropReason::UnfinishedChecksum) {
            self.unfinished = true;
            tracing::warn!(
                "segments with unfinished checksums arrive and are dropped (unfinished_checksum): switch checksum offload off \
                 on their senders: ethtool -K IFACE tx off"
            );
        }
    }
}
