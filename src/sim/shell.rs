//! The control thread's shell with a simulated kernel: what reaches the control core, and what is done about its
//! actions, about the workers' requests and about sockets that end.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::kernel::{Kernel, Kind};
use super::segment::Flow;
use crate::classify::Facts;
use crate::control::{Action, Control, Event, Holds, LookUp, Report};
use crate::shared::Notice;
use crate::table::{Cursor, Entry, State, Tuple};
use crate::time::Time;
use crate::worker::Member;

/// An entry idle for this long is asked about.
const IDLE: Duration = Duration::from_secs(60);

/// Between two looks at a part of the table.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// Slots looked at each time.
const SCAN_SLOTS: usize = 1024;

/// A member's control thread.
pub struct Shell {
    /// The control core; without one, roles are what a test says.
    pub control: Option<Control>,
    /// What it reported.
    pub reports: Vec<(Time, Report)>,
    /// The process has left.
    pub left: bool,
    look_ups: Vec<LookUp>,
    cursor: Cursor,
    scan_due: Time,
}

impl Shell {
    /// A shell around a control core.
    pub fn new(control: Option<Control>, now: Time) -> Shell {
        Shell {
            control,
            reports: Vec::new(),
            left: false,
            look_ups: Vec::new(),
            cursor: Cursor::default(),
            scan_due: now + SCAN_EVERY,
        }
    }

    /// When [`Shell::run`] is wanted at the latest.
    pub fn deadline(&self) -> Time {
        self.control.as_ref().map_or(self.scan_due, |control| control.next_tick().min(self.scan_due))
    }

    /// Does all that is due.
    pub fn run(&mut self, member: &Member, kernel: &mut Kernel, now: Time) {
        while let Some(heartbeat) = member.shared.inbox.pop() {
            self.step(Event::Frame(heartbeat.bytes()), member, now);
        }
        if self.control.as_ref().is_some_and(|control| control.next_tick() <= now) {
            self.step(Event::Metric(member.established.len() as f64), member, now);
            self.step(Event::Tick, member, now);
        }
        self.seek_orphans(member, kernel, now);
        while let Some(Notice::EndSocket(tuple)) = member.shared.notices.pop() {
            kernel.destroy(flow_of(&member.facts, &tuple), now);
        }
        for flow in std::mem::take(&mut kernel.destroyed) {
            if let Some(tuple) = tuple_of(&member.facts, flow) {
                let hash = member.established.hash(&tuple);
                if let Some(entry) = member.established.find(&tuple, hash) {
                    reconcile(member, kernel, tuple, entry);
                }
            }
        }
        if self.scan_due <= now {
            self.scan_due = now + SCAN_EVERY;
            let mut idle = Vec::new();
            member.established.scan(&mut self.cursor, SCAN_SLOTS, |tuple, entry| {
                if entry.idle(now) >= IDLE {
                    idle.push((tuple, entry));
                }
            });
            idle.into_iter().for_each(|(tuple, entry)| reconcile(member, kernel, tuple, entry));
        }
    }

    /// What workers tell of clients that repeat themselves, and what members ask about them.
    fn seek_orphans(&mut self, member: &Member, kernel: &Kernel, now: Time) {
        while let Some(suspect) = member.shared.suspects.pop() {
            self.step(Event::Suspect(suspect), member, now);
        }
        for look_up in std::mem::take(&mut self.look_ups) {
            let known = member.decider(false, now).may_hold(&look_up.tuple)
                || kernel.query(flow_of(&member.facts, &look_up.tuple)).is_some();
            let holds = if known { Holds::Mine } else { Holds::NotMine };
            self.step(Event::LookedUp(look_up, holds), member, now);
        }
    }

    /// Tells the control core, and does what it says.
    pub fn step(&mut self, event: Event<'_>, member: &Member, now: Time) {
        let Some(control) = &mut self.control else { return };
        let mut actions = Vec::new();
        control.step(event, now, &mut actions);
        for action in actions {
            match action {
                // A full outbox: lost, as on the wire.
                Action::Send(heartbeat) => drop(member.shared.outbox.push(*heartbeat)),
                Action::SetRole { vip, role } => member.shared.roles.store(vip, role),
                Action::LookUp(look_up) => self.look_ups.push(look_up),
                // A full queue: the client's next repeat tells again.
                Action::Reset(orphan) => drop(member.shared.orphans.push(orphan)),
                Action::Report(report) => self.reports.push((now, report)),
                Action::Left => self.left = true,
            }
        }
    }
}

/// Fills the table with what the kernel has.
pub fn rebuild(member: &Member, kernel: &Kernel, now: Time) {
    for (flow, kind) in kernel.dump() {
        let state = match kind {
            Kind::Live => State::Live,
            Kind::TimeWait => State::TimeWait,
            Kind::HalfOpen => continue,
        };
        if let Some(tuple) = tuple_of(&member.facts, flow) {
            // A table that is full is as it would be without a restart.
            let _ = member.established.insert(&tuple, member.established.hash(&tuple), state, now);
        }
    }
}

/// Makes an entry what an exact query says; nothing if anything happened to it meanwhile.
fn reconcile(member: &Member, kernel: &Kernel, tuple: Tuple, mut entry: Entry) {
    match kernel.query(flow_of(&member.facts, &tuple)) {
        None => drop(member.established.remove(entry)),
        // A full accept queue, or a new attempt beside an old connection: it is decided soon, one way or the other.
        Some(Kind::HalfOpen) => {}
        Some(Kind::TimeWait) => drop(member.established.set_state(&mut entry, State::TimeWait)),
        Some(Kind::Live) => drop(member.established.set_state(&mut entry, State::Live)),
    }
}

/// A connection as the member's host sees it.
pub fn flow_of(facts: &Facts, tuple: &Tuple) -> Flow {
    Flow {
        local: SocketAddrV4::new(facts.vips[usize::from(tuple.vip)].address, tuple.port),
        remote: SocketAddrV4::new(tuple.client, tuple.client_port),
    }
}

/// A connection of the host as the table names it, if it is to a virtual IP.
pub fn tuple_of(facts: &Facts, flow: Flow) -> Option<Tuple> {
    let vip = facts.vips.iter().position(|vip| vip.address == *flow.local.ip())?;
    Some(Tuple { client: *flow.remote.ip(), client_port: flow.remote.port(), port: flow.local.port(), vip: vip as u8 })
}
