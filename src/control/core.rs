//! The state machine: [`Control::step`].

use std::time::Duration;

use crate::control::auth::Authenticator;
use crate::control::clock::ListeningClock;
use crate::control::heartbeat::{self, Header, Holds, NO_RANK, Rejected, VipBeat, flags, vip_flags};
use crate::control::member::{Identity, MemberId};
use crate::control::membership::Membership;
use crate::control::orphans::{LookUp, Orphans};
use crate::control::report::{Refusal, Report};
use crate::control::roles::Vip;
use crate::control::settings::Settings;
use crate::frame::Mac;
use crate::orphans::Suspect;
use crate::shared::{HeartbeatFrame, Role};
use crate::table::VipIndex;
use crate::time::Time;

/// A member listens at least this long before it may become active.
const DISCOVERY_MIN: Duration = Duration::from_millis(50);

/// Heartbeats sent between two regular ones because something changed. A bound, so that no exchange of news feeds on
/// itself.
const URGENT_MAX: u32 = 8;

/// Goodbyes in a row: each may be lost.
const GOODBYES: u32 = 3;

/// The longest pause between two goodbyes.
const GOODBYE_EVERY_MAX: Duration = Duration::from_millis(20);

/// Between two reports of the same refusal.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A frame of the heartbeats' EtherType, as received.
    Frame(&'a [u8]),
    /// Time passed. Wanted at [`Control::next_tick`] at the latest; more often does no harm.
    Tick,
    /// This member's metric now; not finite: unknown.
    Metric(f64),
    /// The local service of a VIP was probed.
    Health {
        /// Which VIP.
        vip: VipIndex,
        /// How it went.
        healthy: bool,
    },
    /// Give roles away and accept nothing new.
    Drain {
        /// For this VIP; for all if none.
        vip: Option<VipIndex>,
    },
    /// Take part again. Without a VIP, all that was drained.
    Undrain {
        /// For this VIP; for all if none.
        vip: Option<VipIndex>,
    },
    /// Make this member active. Answered in the same step: by [`Report::ActivateRefused`], or else it was done.
    Activate {
        /// For which VIP.
        vip: VipIndex,
    },
    /// Hand over all roles, say goodbye, end with [`Action::Left`].
    Leave {
        /// Whether this member comes back soon.
        returning: bool,
    },
    /// A worker tells of a client that repeats itself in vain.
    Suspect(Suspect),
    /// What [`Action::LookUp`] has found; without it this member cannot tell.
    LookedUp(LookUp, Holds),
    /// Frames to this member were lost: what it did not hear says nothing for a while.
    FramesLost,
    /// Whether workers polled lately. While they do not, silence of peers does not count: their heartbeats wait in the
    /// wire's queues. Told long before silence would be taken for a death.
    Hearing(bool),
    /// Whether workers poll at all. While they do not, heartbeats stop, and silence of peers does not count.
    WorkersAlive(bool),
    /// Ports run and the table is rebuilt: this member may become active once it has listened to the others.
    Ready,
}

/// What is to be done, in this order.
#[derive(Clone)]
pub enum Action {
    /// Send this heartbeat.
    Send(Box<HeartbeatFrame>),
    /// Workers shall play this role.
    SetRole {
        /// For which VIP.
        vip: VipIndex,
        /// The role.
        role: Role,
    },
    /// Look whether this member holds this connection: in its table, then in its kernel.
    LookUp(LookUp),
    /// A client is an orphan: a RST for it, if it still is one.
    Reset(Suspect),
    /// Tell the operator.
    Report(Report),
    /// All is handed over and the goodbyes are out: the process may end.
    Left,
}

/// One member's part of the control plane.
pub struct Control {
    pub(super) settings: Settings,
    pub(super) identity: Identity,
    pub(super) me: MemberId,
    auth: Authenticator,
    pub(super) clock: ListeningClock,
    pub(super) membership: Membership,
    pub(super) vips: Vec<Vip>,
    pub(super) metric: f64,
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) yielding: bool,
    pub(super) discovery: Discovery,
    pub(super) settled: bool,
    pub(super) leaving: Leaving,
    pub(super) orphans: Orphans,
    workers_alive: bool,
    sequence: u64,
    /// When the next regular heartbeat is due.
    beat_due: Time,
    /// Something changed that others should hear at once.
    pub(super) urgent: bool,
    urgent_left: u32,
    complained: [Option<Time>; Refusal::ALL.len()],
}

/// Listening before taking part. Times are of the listening clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discovery {
    /// Not ready yet.
    Waiting,
    Until(Duration),
    /// Since then.
    Done(Duration),
}

/// The way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// Roles are handed over, until then at most.
    HandingOver {
        returning: bool,
        until: Time,
    },
    /// Nothing is left but to say so.
    Goodbye {
        returning: bool,
        left: u32,
        next: Time,
    },
    Gone,
}

impl Control {
    /// A member that has just started. It sends heartbeats from now on, and takes part after [`Event::Ready`].
    pub fn new(settings: Settings, identity: Identity, now: Time) -> Control {
        Control {
            me: settings.name.id(),
            auth: Authenticator::new(&settings.cluster, &settings.key),
            clock: ListeningClock::new(now),
            membership: Membership::new(&settings, identity),
            vips: Vip::all(&settings),
            metric: f64::NAN,
            ready: false,
            draining: false,
            yielding: false,
            discovery: Discovery::Waiting,
            settled: false,
            leaving: Leaving::No,
            orphans: Orphans::default(),
            workers_alive: true,
            sequence: 0,
            beat_due: now,
            urgent: false,
            urgent_left: URGENT_MAX,
            complained: [None; Refusal::ALL.len()],
            settings,
            identity,
        }
    }

    /// Takes in what happened, and appends what is to be done. Never panics, whatever a frame holds; a `now` before
    /// the last one counts as the last one.
    pub fn step(&mut self, event: Event<'_>, now: Time, actions: &mut Vec<Action>) {
        if self.leaving == Leaving::Gone {
            return;
        }
        let away = self.clock.advance(now, self.settings.heartbeat);
        let mut reports = Vec::new();
        if let Some(away) = away.filter(|&away| away > self.settings.detection()) {
            reports.push(Report::Paused { away });
            self.doubt();
        }
        let mut changed = self.take(event, now, &mut reports);
        if self.clock.may_judge() {
            let judged = self.membership.expire(self.clock.listened(), &mut reports);
            changed |= judged.changed;
            // Whoever does not hear it any more either, but us, waits for our word.
            self.urgent |= judged.died;
        }
        changed |= self.look_for_rivals(&mut reports);
        changed |= self.discover();
        actions.extend(reports.drain(..).map(Action::Report));
        if changed {
            self.govern(now, actions);
            self.leave(now, actions);
        }
        self.seek_orphans(actions);
        self.beat(now, actions);
    }

    /// When the next [`Event::Tick`] is wanted at the latest.
    pub fn next_tick(&self) -> Time {
        let at = self.clock.listened();
        let beat = match self.leaving {
            Leaving::Goodbye { next, .. } => next,
            _ => self.beat_due,
        };
        let judged = self.membership.next_deadline(at).map(|deadline| self.clock.when_judged(deadline));
        let listening = match self.discovery {
            Discovery::Until(until) => Some(self.clock.when(until)),
            _ => None,
        };
        let leaving = match self.leaving {
            Leaving::HandingOver { until, .. } => Some(until),
            _ => None,
        };
        let mut timers = [judged, listening, self.next_role_timer(), self.next_orphans_timer()];
        if !self.clock.hears() {
            // It stands still, and what is a moment away by it stays so. What it waits for comes as an event.
            timers = [None; 4];
        }
        timers.into_iter().chain([leaving]).flatten().fold(beat, Time::min)
    }

    /// Takes an event in. Returns whether roles have to be looked at.
    fn take(&mut self, event: Event<'_>, now: Time, reports: &mut Vec<Report>) -> bool {
        match event {
            Event::Frame(frame) => return self.take_frame(frame, now, reports),
            Event::Tick => return true,
            Event::Metric(metric) => {
                self.metric = metric;
                return false;
            }
            Event::Health { vip, healthy } => {
                if let Some(vip) = self.vips.get_mut(usize::from(vip)) {
                    self.urgent |= vip.healthy != Some(healthy);
                    vip.healthy = Some(healthy);
                }
            }
            Event::Drain { vip } => self.set_draining(vip, true),
            Event::Undrain { vip } => self.set_draining(vip, false),
            Event::Activate { vip } => {
                if let Err(why) = self.activate(vip, now) {
                    reports.push(Report::ActivateRefused { vip, why });
                }
            }
            Event::Leave { returning } => {
                if self.leaving == Leaving::No {
                    let until = now + self.settings.heartbeat * self.settings.missed.saturating_add(5);
                    self.leaving = Leaving::HandingOver { returning, until };
                    self.urgent = true;
                }
            }
            Event::Suspect(suspect) => {
                self.suspect(suspect);
                return false;
            }
            Event::LookedUp(look_up, holds) => {
                self.looked_up(look_up, holds);
                return false;
            }
            Event::FramesLost => {
                self.doubt();
                return false;
            }
            Event::Hearing(hearing) => self.clock.set_hearing(hearing, self.settings.heartbeat),
            Event::WorkersAlive(alive) => {
                self.clock.set_hearing(alive, self.settings.heartbeat);
                self.doubt();
                self.urgent |= alive && !self.workers_alive;
                self.workers_alive = alive;
            }
            Event::Ready => {
                if !self.ready {
                    self.ready = true;
                    self.discovery = self.start_discovery();
                }
            }
        }
        true
    }

    fn take_frame(&mut self, frame: &[u8], now: Time, reports: &mut Vec<Report>) -> bool {
        let source = || Mac(frame.get(6..12).and_then(|mac| mac.try_into().ok()).unwrap_or_default());
        let mut beat = match heartbeat::parse(frame, self.settings.ethertype, &self.auth) {
            Ok(beat) => beat,
            Err(rejected) => {
                let why = match rejected {
                    Rejected::Malformed(_) => Refusal::Malformed,
                    Rejected::OtherVersion(_) => Refusal::OtherVersion,
                    Rejected::WrongKey => Refusal::WrongKey,
                    Rejected::OtherCluster => {
                        self.membership.counters.other_cluster += 1;
                        return false;
                    }
                };
                self.membership.counters.count(why, 1);
                self.complain(Report::Refused { why, name: None, source: source() }, why, now, reports);
                return false;
            }
        };
        let (name, inquiry) = (beat.header.name, std::mem::take(&mut beat.inquiry));
        let heard = self.membership.receive(beat, self.clock.listened(), self.has_settled(), reports);
        if let Some(why) = heard.refused {
            self.complain(Report::Refused { why, name: Some(name), source: source() }, why, now, reports);
        }
        self.urgent |= heard.greet;
        if let Some(place) = heard.obeyed.filter(|_| !inquiry.is_empty()) {
            self.take_inquiry(place, inquiry);
        }
        let adopted = heard.obeyed.is_some_and(|place| self.adopt(place, now));
        heard.changed || adopted
    }

    fn complain(&mut self, report: Report, why: Refusal, now: Time, reports: &mut Vec<Report>) {
        let last = &mut self.complained[why as usize];
        if last.is_none_or(|last| now.since(last) >= COMPLAIN_EVERY) {
            *last = Some(now);
            reports.push(report);
        }
    }

    fn set_draining(&mut self, vip: Option<VipIndex>, draining: bool) {
        match vip {
            Some(vip) => {
                if let Some(vip) = self.vips.get_mut(usize::from(vip)) {
                    vip.draining = draining;
                }
            }
            None => {
                self.draining = draining;
                if !draining {
                    self.vips.iter_mut().for_each(|vip| vip.draining = false);
                }
            }
        }
        self.urgent = true;
    }

    /// Whether this member may take part: it has listened to the others, and nobody else has its name.
    pub(super) fn has_settled(&self) -> bool {
        matches!(self.discovery, Discovery::Done(_)) && !self.yielding
    }

    /// When this member may propose. Members that start together end their discovery together; only a heartbeat later
    /// do they know that of each other.
    pub(super) fn proposes_from(&self) -> Option<Duration> {
        match self.discovery {
            Discovery::Done(at) if self.membership.live().next().is_some() => Some(at + self.settings.heartbeat),
            Discovery::Done(at) => Some(at),
            _ => None,
        }
    }

    fn start_discovery(&self) -> Discovery {
        let listen = self.settings.heartbeat * self.settings.missed.saturating_add(2);
        Discovery::Until(self.clock.listened() + listen.max(DISCOVERY_MIN))
    }

    fn discover(&mut self) -> bool {
        match self.discovery {
            Discovery::Until(until) if self.clock.listened() >= until => {
                self.discovery = Discovery::Done(self.clock.listened());
                self.urgent = true;
                true
            }
            _ => false,
        }
    }

    /// Stands back while another live node of our name was here before us.
    fn look_for_rivals(&mut self, reports: &mut Vec<Report>) -> bool {
        // While yielding we count as one that has not settled: what made us yield goes on doing so.
        let yielding = self.membership.outranked(self.clock.listened(), self.has_settled()).is_some();
        if yielding == self.yielding {
            return false;
        }
        self.yielding = yielding;
        self.urgent = true;
        if !yielding {
            reports.push(Report::YieldEnded);
            // Whatever we knew of the assignments may be old: listen first, as after a start.
            if self.ready {
                self.discovery = self.start_discovery();
            }
        }
        true
    }

    /// Goes on leaving: goodbye once nothing is left to hand over, or nobody takes it.
    fn leave(&mut self, now: Time, actions: &mut Vec<Action>) {
        if let Leaving::HandingOver { returning, until } = self.leaving {
            if now < until && self.may_hand_over() {
                return;
            }
            self.leaving = Leaving::Goodbye { returning, left: GOODBYES, next: now };
            self.update_roles(now, actions);
        }
        if let Leaving::Goodbye { returning, left, next } = self.leaving {
            if now < next {
                return;
            }
            self.send(actions);
            let every = (self.settings.heartbeat / 2).min(GOODBYE_EVERY_MAX);
            self.leaving = Leaving::Goodbye { returning, left: left - 1, next: now + every };
            if left == 1 {
                self.leaving = Leaving::Gone;
                actions.push(Action::Left);
            }
        }
    }

    /// Sends a heartbeat if one is due, or if there is news.
    fn beat(&mut self, now: Time, actions: &mut Vec<Action>) {
        if matches!(self.leaving, Leaving::Goodbye { .. } | Leaving::Gone) {
            return;
        }
        let due = now >= self.beat_due;
        if due {
            // The rhythm is kept where a tick comes late, and not made up for where it comes very late.
            self.beat_due += self.settings.heartbeat;
            if self.beat_due <= now {
                self.beat_due = now + self.settings.heartbeat;
            }
            self.urgent_left = URGENT_MAX;
        }
        if due || self.urgent && self.urgent_left > 0 {
            self.urgent_left -= u32::from(!due);
            self.urgent = false;
            self.send(actions);
        }
    }

    fn send(&mut self, actions: &mut Vec<Action>) {
        if !self.workers_alive {
            return;
        }
        let header = Header {
            name: self.settings.name,
            boot_id: self.identity.boot_id,
            nonce: self.identity.nonce,
            challenge: self.membership.challenge,
            incarnation: self.identity.incarnation,
            sequence: 0,
            interval: self.settings.heartbeat,
            metric: self.metric,
            flags: self.flags(),
            config_hash: self.settings.config_hash,
        };
        let vip = |vip: &Vip| VipBeat {
            address: vip.settings.address,
            flags: [
                (vip_flags::HEALTHY, vip.healthy == Some(true)),
                (vip_flags::DRAINING, vip.draining),
                (vip_flags::SERVING, vip.role.active),
            ]
            .into_iter()
            .fold(0, |flags, (flag, on)| if on { flags | flag } else { flags }),
            rank: if vip.role.active { vip.role.rank } else { NO_RANK },
            assignment: vip.assignment.clone(),
        };
        let vips: Vec<VipBeat> = self.vips.iter().map(vip).collect();
        let echoes = self.membership.echoes(self.clock.listened());
        let (source, ethertype) = (self.settings.source, self.settings.ethertype);
        let mut frames = heartbeat::write(&self.auth, source, ethertype, &header, &echoes, &vips, &mut self.sequence);
        let inquiry = self.inquiry();
        if !inquiry.is_empty() {
            let sequence = &mut self.sequence;
            frames
                .extend(heartbeat::write_inquiry(&self.auth, source, ethertype, &header, &echoes, &inquiry, sequence));
        }
        actions.extend(frames.into_iter().map(|frame| Action::Send(Box::new(frame))));
    }

    fn flags(&self) -> u16 {
        let (leaving, goodbye, returning) = match self.leaving {
            Leaving::No | Leaving::Gone => (false, false, false),
            Leaving::HandingOver { returning, .. } => (true, false, returning),
            Leaving::Goodbye { returning, .. } => (true, true, returning),
        };
        [
            (flags::READY, self.ready),
            (flags::SETTLED, self.has_settled()),
            (flags::DRAINING, self.draining),
            (flags::LEAVING, leaving),
            (flags::GOODBYE, goodbye),
            (flags::RETURNING, returning),
            (flags::YIELDING, self.yielding),
        ]
        .into_iter()
        .fold(0, |flags, (flag, on)| if on { flags | flag } else { flags })
    }
}
