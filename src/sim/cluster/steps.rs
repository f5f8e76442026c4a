//! What happens at an event: who gets a frame, who runs, who is to run next.

use std::time::Duration;

use super::{Cluster, Event, Station};
use crate::sim::checks::Truth;
use crate::sim::kernel::End;
use crate::sim::member::Frame;
use crate::sim::segment::Flow;
use crate::sim::switch::{PortIndex, Way};
use crate::sim::trace::{Glance, Place};
use crate::time::Time;

/// The longest until a worker polls, a thread wakes, a kernel takes a frame: enough for things to overlap.
const POLL: Duration = Duration::from_micros(20);
const WAKE: Duration = Duration::from_micros(100);

impl Cluster {
    /// One event.
    pub(super) fn step(&mut self) {
        let Some((at, event)) = self.events.pop() else { return };
        self.now = at;
        match event {
            Event::Enter(port, frame) => {
                let outs: Vec<PortIndex> = self.switch.forward(port, &frame).collect();
                outs.into_iter().for_each(|out| self.cross(out, Way::Out, Frame::clone(&frame)));
            }
            Event::Arrive(port, frame) => self.arrive(port, frame),
            Event::ToHost(index, frames) => {
                for frame in frames {
                    self.members[index].kernel.receive(&frame, at);
                }
                self.host(index);
            }
            // An earlier time was set since: that event came, or will.
            Event::Turn(index) if self.due[index].turn != Some(at) => {}
            Event::Host(index) if self.due[index].host != Some(at) => {}
            Event::Shell(index) if self.due[index].shell != Some(at) => {}
            Event::Client(index) if self.client_due[index] != Some(at) => {}
            Event::Turn(index) => {
                self.due[index].turn = None;
                self.turn(index);
            }
            Event::Host(index) => {
                self.due[index].host = None;
                self.members[index].kernel.wake(at);
                self.host(index);
            }
            Event::Shell(index) => {
                self.due[index].shell = None;
                self.shell(index);
            }
            Event::Client(index) => {
                self.client_due[index] = None;
                self.client(index);
            }
        }
        if !self.checks.violations.is_empty() {
            self.trace.freeze();
        }
    }

    /// A frame enters a cable.
    pub(super) fn cross(&mut self, port: PortIndex, way: Way, frame: Frame) {
        for at in self.cables[port].cross(&frame, way, self.now, &mut self.random) {
            let frame = Frame::clone(&frame);
            self.events.push(
                at,
                match way {
                    Way::In => Event::Enter(port, frame),
                    Way::Out => Event::Arrive(port, frame),
                },
            );
        }
    }

    fn arrive(&mut self, port: PortIndex, frame: Frame) {
        match self.stations[port] {
            Station::Member(index) if self.members[index].plain => {
                self.members[index].kernel.receive(&frame, self.now);
                self.host(index);
            }
            Station::Member(index) => {
                if let Some(daemon) = &mut self.members[index].daemon {
                    daemon.arrive(frame);
                    self.schedule_turn(index, Duration::ZERO);
                }
            }
            Station::Client(index) => {
                if let Some(glance) = Glance::at(&frame) {
                    self.trace.received(self.now, Place::Client(index), glance.flow.reversed(), glance);
                }
                self.clients[index].kernel.receive(&frame, self.now);
                self.client(index);
            }
            Station::Stranger(index) => {
                let stranger = &mut self.strangers[index];
                let ethertype = frame.get(12..14).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
                if stranger.keeps.is_some() && ethertype == stranger.keeps {
                    stranger.kept.push(Frame::clone(&frame));
                }
                if let Some(kernel) = &mut stranger.kernel {
                    kernel.receive(&frame, self.now);
                    for answer in std::mem::take(&mut kernel.frames) {
                        self.cross(port, Way::In, answer.into());
                    }
                }
            }
        }
    }

    /// A member's worker takes a turn.
    fn turn(&mut self, index: usize) {
        let machine = &mut self.members[index];
        let Some(daemon) = machine.daemon.as_mut().filter(|daemon| !daemon.paused) else { return };
        for glance in daemon.next_burst().filter_map(|frame| Glance::at(frame)) {
            self.checks.received(index, &glance);
            if self.client_of.contains_key(glance.flow.local.ip()) {
                self.trace.received(self.now, Place::Member(index), glance.flow, glance);
            }
        }
        let sent = daemon.turn(&mut machine.from_host, self.now);
        self.checks.counted(index, &daemon.counters, self.now);
        let more = !daemon.arrived.is_empty() || !machine.from_host.is_empty();
        let due = if more { Some(Duration::ZERO) } else { daemon.due_in(self.now) };
        let shared = &daemon.member.shared;
        let told = !shared.inbox.is_empty() || !shared.notices.is_empty() || !shared.suspects.is_empty();
        for frame in sent.to_wire {
            self.leave(index, frame);
        }
        if !sent.to_host.is_empty() {
            let at = self.due[index].to_host.max(self.now + self.random.up_to(POLL));
            self.due[index].to_host = at;
            self.events.push(at, Event::ToHost(index, sent.to_host));
        }
        if let Some(due) = due {
            self.schedule_turn(index, due);
        }
        if told {
            self.schedule_shell(index, self.now);
        }
    }

    /// A member's frame leaves for the switch.
    fn leave(&mut self, index: usize, frame: Frame) {
        let glance = Glance::at(&frame);
        let seen = glance.as_ref().map(|glance| (glance, self.truth(glance.flow.reversed())));
        self.checks.abandoned = seen.is_some_and(|(glance, truth)| self.is_abandoned(glance.flow.reversed(), truth));
        self.checks.sent(index, &frame, seen, self.now);
        if let Some(glance) = glance
            && self.client_of.contains_key(glance.flow.remote.ip())
        {
            self.trace.sent(self.now, Place::Member(index), glance.flow.reversed(), glance);
        }
        self.cross(index, Way::In, frame);
    }

    /// Whether a client's connection has no end any more: its owner cannot be heard, or its kernel has forgotten it.
    fn is_abandoned(&self, flow: Flow, truth: Option<Truth>) -> bool {
        let owner = truth.and_then(|truth| self.checks.owner(flow, truth));
        owner.is_some_and(|owner| {
            let machine = &self.members[owner];
            let runs = machine.daemon.as_ref().is_some_and(|daemon| !daemon.paused);
            !runs || !self.cables[owner].inward || machine.kernel.query(flow.reversed()).is_none()
        })
    }

    /// A host has moved: its service goes on, its frames go to baton.
    pub fn host(&mut self, index: usize) {
        let (now, machine) = (self.now, &mut self.members[index]);
        machine.server.run(&mut machine.kernel, now);
        let frames = std::mem::take(&mut machine.kernel.frames);
        let (plain, runs, ended) = (machine.plain, machine.daemon.is_some(), !machine.kernel.destroyed.is_empty());
        if plain {
            machine.kernel.destroyed.clear();
            frames.into_iter().for_each(|frame| self.leave(index, frame.into()));
        } else if runs {
            machine.from_host.extend(frames.into_iter().map(Frame::from));
            if !machine.from_host.is_empty() {
                self.schedule_turn(index, Duration::ZERO);
            }
            if ended {
                self.schedule_shell(index, now);
            }
        } else {
            // The device behind which nobody is has no carrier; nobody hears the announcements.
            machine.from_host.clear();
            machine.kernel.destroyed.clear();
        }
        if let Some(at) = self.members[index].kernel.deadline().map(|at| at.max(now))
            && self.due[index].host.is_none_or(|due| at < due)
        {
            self.due[index].host = Some(at);
            self.events.push(at, Event::Host(index));
        }
    }

    fn shell(&mut self, index: usize) {
        let machine = &mut self.members[index];
        let Some(daemon) = machine.daemon.as_mut().filter(|daemon| !daemon.paused) else { return };
        let was = daemon.member.shared.role(0);
        daemon.shell.run(&daemon.member, &mut machine.kernel, self.now);
        let role = daemon.member.shared.role(0);
        if role != was {
            self.note(format!("s{} becomes {role:?}", index + 1));
            self.schedule_turn(index, Duration::ZERO);
        }
        self.wake_member(index);
    }

    fn client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.run(self.now);
        for (flow, end) in std::mem::take(&mut client.broken) {
            self.judge(index, flow, end);
        }
        let client = &mut self.clients[index];
        for frame in std::mem::take(&mut client.kernel.frames) {
            if let Some(glance) = Glance::at(&frame) {
                self.trace.sent(self.now, Place::Client(index), glance.flow, glance);
            }
            self.cross(self.options.members + index, Way::In, frame.into());
        }
        self.wake_client(index);
    }

    /// A connection may break if something happened to its owner, and not otherwise.
    fn judge(&mut self, client: usize, flow: Flow, end: End) {
        let story = self.clients[client].stories.get(&flow);
        let Some((iss, irs)) = story.and_then(|story| story.numbers) else { return };
        let owner = self.checks.owner(flow, Truth { iss, irs: Some(irs) });
        if let Some(owner) = owner.filter(|&owner| !self.members[owner].disturbed) {
            self.checks.violate(self.now, Some(flow), format!("a connection of s{} broke: {end:?}", owner + 1));
        }
    }

    /// After something has been done to a client from outside.
    pub(super) fn wake_client(&mut self, index: usize) {
        let client = &self.clients[index];
        let at = if client.kernel.frames.is_empty() { client.deadline() } else { Some(self.now) };
        if let Some(at) = at.map(|at| at.max(self.now))
            && self.client_due[index].is_none_or(|due| at < due)
        {
            self.client_due[index] = Some(at);
            self.events.push(at, Event::Client(index));
        }
    }

    /// After something has been done to a member from outside.
    pub(super) fn wake_member(&mut self, index: usize) {
        let Some(daemon) = self.members[index].daemon.as_ref().filter(|daemon| !daemon.paused) else { return };
        let (waits, deadline) = (daemon.has_work(), daemon.shell.deadline());
        if waits {
            self.schedule_turn(index, Duration::ZERO);
        }
        self.schedule_shell(index, deadline);
        self.host(index);
    }

    /// The worker polls, some time after `due` has gone by.
    pub(super) fn schedule_turn(&mut self, index: usize, due: Duration) {
        let at = self.now + due + self.random.up_to(POLL);
        if self.due[index].turn.is_none_or(|earlier| at < earlier) {
            self.due[index].turn = Some(at);
            self.events.push(at, Event::Turn(index));
        }
    }

    fn schedule_shell(&mut self, index: usize, at: Time) {
        let at = at.max(self.now) + self.random.up_to(WAKE);
        if self.due[index].shell.is_none_or(|due| at < due) {
            self.due[index].shell = Some(at);
            self.events.push(at, Event::Shell(index));
        }
    }
}
