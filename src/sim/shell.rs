//! The control thread's shell with a simulated kernel: what reaches the control core, and what is done about its
//! actions. The table is kept true to the kernel by the code that ships ([`Truth`]).

use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::kernel::{Kernel, Kind};
use super::options::Options;
use super::segment::Flow;
use crate::classify::Facts;
use crate::control::auth::Authenticator;
use crate::control::heartbeat::dialect::Dialect;
use crate::control::truth::{Ending, Held, Truth};
use crate::control::{Action, Control, Event, Holds, LookUp, Report, Settings, truth};
use crate::shared::HeartbeatFrame;
use crate::table::{Tuple, VipIndex};
use crate::time::Time;
use crate::worker::Member;

/// The longest between two looks of the control thread, as in `control::thread`.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// Between two probes of the local service.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// The minor version of heartbeats that a member speaks.
pub struct Speech {
    dialect: Dialect,
    ethertype: u16,
    auth: Authenticator,
}

impl Speech {
    /// Of a member with these settings.
    pub fn new(dialect: Dialect, settings: &Settings) -> Speech {
        let auth = Authenticator::new(&settings.cluster, &settings.key);
        Speech { dialect, ethertype: settings.ethertype, auth }
    }

    fn say(&self, frame: HeartbeatFrame) -> Option<HeartbeatFrame> {
        match self.dialect {
            Dialect::Present => Some(frame),
            dialect => HeartbeatFrame::new(&dialect.send(frame.bytes(), self.ethertype, &self.auth)?),
        }
    }

    fn hear(&self, frame: HeartbeatFrame) -> HeartbeatFrame {
        match self.dialect {
            Dialect::Earlier => {
                let understood = self.dialect.receive(frame.bytes(), self.ethertype, &self.auth);
                HeartbeatFrame::new(&understood).unwrap_or(frame)
            }
            _ => frame,
        }
    }
}

/// A member's control thread. Its times are of the member's own clock.
pub struct Shell {
    /// The control core; without one, roles are what a test says.
    pub control: Option<Control>,
    /// What it reported.
    pub reports: Vec<(Time, Report)>,
    /// The process has left.
    pub left: bool,
    /// Added to the metric, which is the number of connections.
    pub burden: f64,
    speech: Speech,
    look_ups: Vec<LookUp>,
    truth: Truth,
    probe_due: Option<Time>,
    look_due: Time,
}

impl Shell {
    /// A shell around a control core, and a table that has been rebuilt. `probed`: the local services are.
    pub fn start(
        control: Option<Control>,
        speech: Speech,
        probed: bool,
        truth: Truth,
        member: &Member,
        now: Time,
    ) -> Shell {
        let mut shell = Shell {
            control,
            speech,
            reports: Vec::new(),
            left: false,
            burden: 0.0,
            look_ups: Vec::new(),
            truth,
            probe_due: probed.then_some(now),
            look_due: now + LONGEST_WAIT,
        };
        shell.step(Event::Ready, member, now);
        shell
    }

    /// When [`Shell::run`] is wanted at the latest.
    pub fn deadline(&self) -> Time {
        let tick = self.control.as_ref().map(Control::next_tick);
        [tick, self.probe_due].into_iter().flatten().fold(self.look_due, Time::min)
    }

    /// Does all that is due.
    pub fn run(&mut self, member: &Member, sockets: &mut Sockets<'_>, now: Time) {
        self.look_due = now + LONGEST_WAIT;
        member.shared.looks.begin();
        while let Some(heartbeat) = member.shared.inbox.pop() {
            self.step(Event::Frame(self.speech.hear(heartbeat).bytes()), member, now);
        }
        if self.probe_due.is_some_and(|due| due <= now) {
            self.probe_due = Some(now + PROBE_EVERY);
            for vip in 0..member.facts.vips.len() as VipIndex {
                let healthy = sockets.kernel.listener(Options::port(vip.into())).is_some();
                self.step(Event::Health { vip, healthy }, member, now);
            }
        }
        if self.control.as_ref().is_some_and(|control| control.next_tick() <= now) {
            self.step(Event::Metric(member.established.len() as f64 + self.burden), member, now);
            self.step(Event::Tick, member, now);
        }
        member.shared.looks.end();
        self.seek_orphans(member, sockets, now);
        // The simulated kernel always tells.
        let told = self.truth.step(&member.shared, &member.established, sockets, now);
        debug_assert!(told.is_ok());
    }

    /// What workers tell of clients that repeat themselves, and what members ask about them.
    fn seek_orphans(&mut self, member: &Member, sockets: &mut Sockets<'_>, now: Time) {
        while let Some(suspect) = member.shared.suspects.pop() {
            self.step(Event::Suspect(suspect), member, now);
        }
        for look_up in std::mem::take(&mut self.look_ups) {
            let known = member.decider(false, now).may_hold(&look_up.tuple)
                || sockets.kernel.query(flow_of(&member.facts, &look_up.tuple)).is_some();
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
                Action::Send(heartbeat) => {
                    if let Some(heartbeat) = self.speech.say(*heartbeat) {
                        // A full outbox: lost, as on the wire.
                        let _ = member.shared.outbox.push(heartbeat);
                    }
                }
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

/// A simulated kernel as the control thread's [`truth`] asks for its sockets.
pub struct Sockets<'a> {
    /// The kernel.
    pub kernel: &'a mut Kernel,
    /// Which addresses are virtual IPs.
    pub facts: &'a Facts,
    /// The kernel's time, which is not the member's.
    pub now: Time,
}

impl truth::Kernel for Sockets<'_> {
    fn dump(&mut self) -> io::Result<Vec<(Tuple, Held)>> {
        let held = |(flow, kind)| Some((tuple_of(self.facts, flow)?, held(kind)));
        Ok(self.kernel.dump().filter_map(held).collect())
    }

    fn query(&mut self, tuple: &Tuple) -> io::Result<Option<Held>> {
        Ok(self.kernel.query(flow_of(self.facts, tuple)).map(held))
    }

    fn destroy(&mut self, tuple: &Tuple) -> io::Result<()> {
        self.kernel.destroy(flow_of(self.facts, tuple), self.now);
        Ok(())
    }

    fn endings(&mut self, limit: usize, each: &mut dyn FnMut(Ending)) -> io::Result<()> {
        let announced = &mut self.kernel.announced;
        if std::mem::take(&mut announced.lost) {
            each(Ending::Unknown);
        }
        let read = limit.min(announced.ended.len());
        let tuples = announced.ended.drain(..read).filter_map(|flow| tuple_of(self.facts, flow));
        tuples.for_each(|tuple| each(Ending::Socket(tuple)));
        Ok(())
    }
}

fn held(kind: Kind) -> Held {
    match kind {
        Kind::HalfOpen => Held::HalfOpen,
        Kind::Live => Held::Connection,
        Kind::TimeWait => Held::TimeWait,
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
    let vip = vip as VipIndex;
    Some(Tuple { client: *flow.remote.ip(), client_port: flow.remote.port(), port: flow.local.port(), vip })
}
