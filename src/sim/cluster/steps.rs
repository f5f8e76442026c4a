//! What happens at an event: who gets a frame, who runs, who is to run next.

use std::time::Duration;

use super::{Cluster, Event, Station};
use crate::sim::checks::Truth;
use crate::sim::kernel::{Announced, End};
use crate::sim::member::Frame;
use crate::sim::options::Options;
use crate::sim::segment::Flow;
use crate::sim::switch::{PortIndex, Way};
use crate::sim::trace::{Glance, Place};
use crate::time::Time;

/// How long a service may take to accept a connection.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(2);

/// Between a heartbeat's arrival and its being read, and what clocks differ by.
const LATE: Duration = Duration::from_millis(30);

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
            Event::ToHost(index, boots, frames) => {
                if self.members[index].boots == boots {
                    for frame in &frames {
                        self.note_host(index, frame);
                        self.members[index].kernel.receive(frame, at);
                    }
                    self.host(index);
                    self.look(index, &frames);
                }
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
        let boots = machine.boots;
        let Some(daemon) = machine.daemon.as_mut().filter(|daemon| !daemon.paused) else { return };
        for frame in daemon.next_burst() {
            if let Some(peer) = Options::member_of_heartbeat(frame) {
                self.heard[index][peer] = self.now;
            }
        }
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
            self.events.push(at, Event::ToHost(index, boots, sent.to_host));
        }
        if let Some(due) = due {
            self.schedule_turn(index, due);
        }
        if told {
            self.schedule_shell(index, self.now);
        }
    }

    /// What a member's baton lets through to its host.
    fn note_host(&mut self, index: usize, frame: &[u8]) {
        if let Some(glance) = Glance::at(frame)
            && self.client_of.contains_key(glance.flow.local.ip())
        {
            self.trace.received(self.now, Place::Host(index), glance.flow, glance);
        }
    }

    /// A member's frame leaves for the switch.
    fn leave(&mut self, index: usize, frame: Frame) {
        let glance = Glance::at(&frame);
        let seen = glance.as_ref().map(|glance| (glance, self.truth(glance.flow.reversed())));
        let refuses = glance.as_ref().is_some_and(|glance| glance.flags.rst());
        let vip = glance.as_ref().filter(|_| refuses).and_then(|glance| self.vip_of(glance.flow.reversed()));
        let actives =
            vip.map_or(0, |vip| self.actives_of(vip).into_iter().fold(0, |actives, member| actives | 1 << member));
        self.checks.abandoned =
            refuses && seen.is_some_and(|(glance, truth)| self.is_abandoned(index, glance.flow.reversed(), truth));
        self.checks.deaf = refuses && seen.is_some_and(|(glance, _)| self.is_deaf(glance));
        self.checks.sent(index, &frame, seen, actives, self.now);
        if let Some(glance) = glance
            && self.client_of.contains_key(glance.flow.remote.ip())
        {
            self.trace.sent(self.now, Place::Member(index), glance.flow.reversed(), glance);
        }
        self.look(index, std::slice::from_ref(&frame));
        self.cross(index, Way::In, frame);
    }

    /// Whether a RST of this member to a client is right, though the client's connection is another's: that one's kernel
    /// has forgotten it, it has left for good, or this member has not heard it for long.
    fn is_abandoned(&self, member: usize, flow: Flow, truth: Option<Truth>) -> bool {
        let owner = truth.and_then(|truth| self.checks.owner(flow, truth));
        owner.is_some_and(|owner| {
            let machine = &self.members[owner];
            let silent = self.now.since(self.heard[member][owner]);
            machine.kernel.query(flow.reversed()).is_none()
                || (machine.daemon.is_none() && machine.left_for_good)
                || silent + LATE >= self.options.orphans_after
        })
    }

    /// Whether a client drops this RST without a word.
    fn is_deaf(&self, reset: &Glance) -> bool {
        let client = self.client_of.get(reset.flow.remote.ip()).map(|&client| &self.clients[client].kernel);
        let socket = client.and_then(|kernel| kernel.socket(reset.flow.reversed()));
        socket.is_some_and(|socket| !socket.may_heed_reset(reset.seq))
    }

    /// A host has moved: its service goes on, its frames go to baton.
    pub fn host(&mut self, index: usize) {
        let (now, machine) = (self.now, &mut self.members[index]);
        machine.server.run(&mut machine.kernel, now);
        let frames = std::mem::take(&mut machine.kernel.frames);
        let (plain, runs, ended) = (machine.plain, machine.daemon.is_some(), !machine.kernel.announced.is_empty());
        if plain {
            machine.kernel.announced = Announced::default();
            frames.into_iter().for_each(|frame| self.leave(index, frame.into()));
        } else if runs {
            for glance in frames.iter().filter_map(|frame| Glance::at(frame)) {
                if self.client_of.contains_key(glance.flow.remote.ip()) {
                    self.trace.sent(now, Place::Host(index), glance.flow.reversed(), glance);
                }
            }
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
            machine.kernel.announced = Announced::default();
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
        daemon.run_shell(&mut machine.kernel, self.now);
        if daemon.shell.left {
            self.note(format!("s{} has left", index + 1));
            // Its last words are sent before it ends.
            self.turn(index);
            self.members[index].daemon = None;
            self.gone(index);
        }
        self.roles_of(index);
        self.wake_member(index);
    }

    /// Notes what has changed of a member's roles.
    pub(super) fn roles_of(&mut self, index: usize) {
        for vip in 0..self.options.vips() {
            let role = self.role(index, vip);
            let was = std::mem::replace(&mut self.roles[index][vip], role);
            if role == was {
                continue;
            }
            self.schedule_turn(index, Duration::ZERO);
            let address = Options::vip_address(vip);
            if role.active {
                let refuses = if role.may_refuse { ", refuses" } else { "" };
                self.note(format!("s{} is active for {address}, rank {}{refuses}", index + 1, role.rank));
            } else {
                self.note(format!("s{} is passive for {address}", index + 1));
                self.check_served(vip);
            }
        }
    }

    /// As long as members only hand roles over, somebody is active at every moment.
    fn check_served(&mut self, vip: usize) {
        if self.undisturbed
            && self.actives_of(vip).is_empty()
            && self.members.iter().any(|machine| machine.is_fit(vip, self.now))
        {
            let address = Options::vip_address(vip);
            self.checks.violate(self.now, None, format!("nobody is active for {address} during a handover"));
        }
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
        if let Some(owner) = owner.filter(|&owner| !self.may_end(client, flow, owner)) {
            self.checks.violate(self.now, Some(flow), format!("a connection of s{} broke: {end:?}", owner + 1));
        }
    }

    /// Whether something has happened to a connection's owner that the connection need not outlive: its machine was
    /// rebooted, its service had stopped before it accepted the connection, the connection rested on a SYN cookie,
    /// of which neither its host nor baton keeps anything that a restart or a reset could leave, or it was silent for so
    /// long that its clients were told.
    pub fn may_end(&self, client: usize, flow: Flow, owner: usize) -> bool {
        let Some(story) = self.clients[client].stories.get(&flow) else { return true };
        let machine = &self.members[owner];
        let stops = self.vip_of(flow).map_or(&[][..], |vip| &machine.stopped[vip]);
        let accepted_by = story.connected.map_or(self.now, |connected| connected + ACCEPTED_WITHIN);
        let unproven = story.answered == 0
            && story.numbers.is_some_and(|(_, irs)| machine.kernel.sent_cookie(flow.reversed(), irs));
        let reset = story.numbers.is_some_and(|(iss, _)| self.checks.orphaned.contains(&(flow, iss)));
        unproven
            || reset
            || machine.booted > story.begun
            || stops.iter().any(|&at| at >= story.begun && (at <= accepted_by || story.answered == 0))
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
        let (waits, deadline) = (daemon.has_work(), daemon.shell_due());
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
