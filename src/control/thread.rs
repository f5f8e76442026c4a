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
use crate::idle;
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
    pub lost_by_wire: Box<dyn FnMut() -> u64 + Send>,
    /// How many frames of the host the TAP's queues have had no room for.
    pub lost_by_host: Box<dyn FnMut() -> u64 + Send>,
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
        let watch = Watch::new(self.workers.len(), self.config.cluster.heartbeat, self.config.cluster.missed, started);
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
        self.shell.member.shared.looks.begin();
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
        self.shell.member.shared.looks.end();
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
        let polls = self.shell.workers.iter().map(|worker| worker.counters.polls.get());
        let changed = self.watch.look(polls, now);
        if let Some(hears) = changed.hears {
            self.step(Event::Hearing(hears), now);
        }
        let Some(alive) = changed.alive else { return };
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
    /// Within this time a worker polls, however idle it is.
    hears_within: Duration,
    /// After this time it hangs.
    patience: Duration,
    hears: bool,
    alive: bool,
    /// No worker has been seen polling yet.
    first: bool,
}

/// What has changed about the workers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changed {
    /// Whether heartbeats that arrive are read.
    hears: Option<bool>,
    /// Whether all workers poll.
    alive: Option<bool>,
}

impl Watch {
    fn new(workers: usize, heartbeat: Duration, missed: u32, now: Time) -> Watch {
        // Silence began up to a heartbeat before the worker stood still. It must not look like a death before this
        // tells of the worker, and a worker that waits for a frame does not stand still.
        let hears_within = (heartbeat / 2).max(idle::longest_wait(heartbeat, missed) * 3 / 2);
        Watch {
            polls: vec![0; workers],
            seen: vec![now; workers],
            hears_within,
            patience: heartbeat * missed,
            hears: true,
            alive: false,
            first: true,
        }
    }

    /// What has changed, by how often each worker has polled.
    fn look(&mut self, polls: impl Iterator<Item = u64>, now: Time) -> Changed {
        for (index, polls) in polls.enumerate() {
            if polls != self.polls[index] {
                self.polls[index] = polls;
                self.seen[index] = now;
            }
        }
        let within = |time| self.seen.iter().all(|&seen| now.since(seen) < time);
        let hears = within(self.hears_within);
        let alive = self.polls.iter().all(|&polls| polls > 0) && within(self.patience);
        Changed {
            hears: (std::mem::replace(&mut self.hears, hears) != hears).then_some(hears),
            alive: (std::mem::replace(&mut self.alive, alive) != alive).then_some(alive),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_that_stands_still_is_told_of_before_anybody_looks_dead() {
        for (heartbeat, missed) in [(1, 3), (1, 10), (10, 2), (10, 3), (10, 10), (100, 3), (10_000, 3)] {
            let (heartbeat, mut now) = (heartbeat * MS, Time::from_millis(1000));
            let mut watch = Watch::new(2, heartbeat, missed, now);
            assert_eq!(watch.look([1, 1].into_iter(), now), Changed { hears: None, alive: Some(true) });
            // As idle as it gets, and the control thread late by its longest wait.
            let idlest = idle::longest_wait(heartbeat, missed) + (heartbeat / 5).min(LONGEST_WAIT);
            for polls in 2..100 {
                now += idlest;
                assert_eq!(watch.look([polls, polls].into_iter(), now), Changed::default());
            }
            // One of them stands still; the last heartbeat came an interval before.
            let (stood_still, mut events) = (now, Vec::new());
            for polls in 100..3000 {
                now += heartbeat / 100;
                let changed = watch.look([polls, 99].into_iter(), now);
                if changed != Changed::default() {
                    events.push((now.since(stood_still), changed));
                }
            }
            let [(deaf, first), (hung, second)] = &events[..] else { panic!("{events:?}") };
            assert_eq!(first, &Changed { hears: Some(false), alive: None });
            assert_eq!(second, &Changed { hears: None, alive: Some(false) });
            assert!(heartbeat + *deaf < heartbeat * missed + heartbeat / 2, "{deaf:?} at {heartbeat:?} x {missed}");
            assert!(*hung <= heartbeat * missed + heartbeat / 50);
            now += heartbeat;
            let back = watch.look([3001, 100].into_iter(), now);
            assert_eq!(back, Changed { hears: Some(true), alive: Some(true) });
        }
    }
}
