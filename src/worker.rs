//! The worker: one pinned thread, one queue pair of the wire and one of the host, and this loop.
//!
//! Its paths by cost, the most frequent first:
//! 1. a segment of a connection that is not ours: parsed, one lookup that misses, a word of the handshakes' tags, with data
//!    a line of what its client sent last; dropped;
//! 2. a segment of an established connection: one lookup, to the host (or, from the host, to the wire);
//! 3. a SYN: remembered (two cache lines and a byte of a third written), kept by a passive (three more);
//! 4. a segment that decides a handshake: its checksum over all data, an entry written;
//! 5. ARP, ICMP, heartbeats: a few a second.
//!
//! None of them allocates, locks or makes a system call; what the devices do below [`Port`] is theirs.

mod originate;
mod stages;
mod unfound;

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::bits::{all, bits};
use crate::broken::{Rule, broken};
use crate::classify::{Class, Facts};
use crate::counters::Counters;
use crate::decide::Decider;
pub use crate::decide::Member;
use crate::frame::tcp::{self, Reset};
use crate::frame::{Mac, arp, ethernet, icmp};
use crate::kept::Kept;
use crate::orphans::{Recent, Suspect, Suspicion};
use crate::port::{BURST, Buffer, Burst, Port};
use crate::shared::{HeartbeatFrame, Notice};
use crate::simd::{Cpu, Simd, Work};
use crate::time::{Clock, Time};
use crate::verdict::{DropReason, Verdict};
pub use stages::AHEAD;
use stages::{Direction, Stages};

/// A SYN that has waited so long has been repeated by its client (RFC 6298, 2.1), or answered by another member.
pub const LONG_PAUSE: Duration = Duration::from_secs(1);

/// Turns that empty any queue: 65,536 frames. An end even where new frames come as fast as the old ones are read.
const CATCH_UP: u32 = 1024;

/// A worker that was away for so long, off its core or asleep, reads all that has come from the wire before it listens to
/// the host again.
pub const PAUSE: Duration = Duration::from_millis(5);

/// Turns that the host waits then, at most: 4,096 frames, as many as the wire's ring holds (af_packet, as we set it up).
const BACKLOG: u32 = 64;

/// Clients of other members whose last segments a worker remembers: 1 MiB.
const RECENT: usize = 1 << 16;

/// SYNs that the host is handed before it is heard again, at most: as many as the wire's ring holds, and half of what the TAP's queue
/// holds (`TAP_QUEUE_LEN` in src/host/plan.rs). So of its answers none is lost there, nor what it says to clients that it has.
const UNHEARD: u32 = 4096;

/// As what frames leave.
#[inline]
fn source(facts: &Facts) -> Mac {
    if broken(Rule::OwnSource) { facts.vips[0].mac } else { facts.own_mac }
}

/// [`Worker::forward`], compiled for each CPU.
struct Forward<'a, W: Port, H: Port<Buffer = W::Buffer>> {
    worker: &'a mut Worker<W, H>,
    burst: &'a mut Burst<W::Buffer>,
    direction: Direction,
    now: Time,
}

impl<W: Port, H: Port<Buffer = W::Buffer>> Work for Forward<'_, W, H> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        self.worker.forward_by(simd, self.burst, self.direction, self.now)
    }
}

/// A worker over its ports.
pub struct Worker<W: Port, H: Port<Buffer = W::Buffer>> {
    member: Arc<Member>,
    counters: Arc<Counters>,
    clock: Clock,
    /// Its queue pair towards the switch.
    pub wire: W,
    /// Its queue pair towards the host.
    pub host: H,
    kept: Kept,
    recent: Recent,
    stages: Stages,
    cpu: Cpu,
    to_wire: Burst<W::Buffer>,
    to_host: Burst<W::Buffer>,
    last_turn: Option<Time>,
    /// Turns, at most, in which what comes from the wire has waited through a long pause.
    catching_up: u32,
    /// Turns, at most, in which it has waited through any pause.
    behind: u32,
    /// Bursts that the host is owed, having waited through as many turns: two of its bursts a turn, until it has no more. Else what
    /// it answered meanwhile would stand before all that it says later, for as long as the wire is busy, and fill its queue.
    owed: u32,
    /// SYNs that the host may be handed before it is heard again.
    room: u32,
    /// After a pause, the control thread's look by which the roles are up to date again.
    awaited: Option<u32>,
}

impl<W: Port, H: Port<Buffer = W::Buffer>> Worker<W, H> {
    /// A worker that counts into `counters` and keeps SYNs in `kept`, which no other worker may have.
    pub fn new(member: Arc<Member>, counters: Arc<Counters>, clock: Clock, kept: Kept, wire: W, host: H) -> Self {
        let (to_wire, to_host, stages) = (Burst::new(), Burst::new(), Stages::new(&member.facts));
        Worker {
            member,
            counters,
            clock,
            wire,
            host,
            kept,
            recent: Recent::new(RECENT),
            stages,
            cpu: Cpu::detect(),
            to_wire,
            to_host,
            last_turn: None,
            catching_up: 0,
            behind: 0,
            owed: 0,
            room: UNHEARD,
            awaited: None,
        }
    }

    /// One turn: a burst from the wire, a burst from the host, kept SYNs that are due, and the heartbeats that wait to be
    /// sent. Returns how many frames there were.
    pub fn turn(&mut self) -> usize {
        let now = self.clock.now();
        if let Some(last) = self.last_turn.replace(now) {
            self.was_away(now.since(last));
        }
        let clock = self.clock;
        let frames = self.turn_by(now, || clock.now());
        self.counters.polls.add(1);
        if frames == 0 {
            self.counters.empty_polls.add(1);
        }
        frames
    }

    /// This worker did not run for so long, and the wire's queue holds the past.
    ///
    /// A client's answer to another member may be in it, behind a burst's end. What our host says of that handshake would
    /// leave before the answer is read, and tell a client of a connection that it does not know. So the host waits.
    ///
    /// The heartbeats of who has become active meanwhile may be in it too. So the host refuses nobody until the control thread
    /// has looked at all that was read.
    ///
    /// After a long pause a SYN in it would be answered beside, or long after, the member that has taken over meanwhile,
    /// and a client that has closed by then would reset it. So this member is passive for all that has waited.
    pub fn was_away(&mut self, away: Duration) {
        if away >= PAUSE {
            self.behind = BACKLOG;
        }
        if away >= LONG_PAUSE {
            self.catching_up = CATCH_UP;
        }
    }

    /// A turn at a time that the caller names, and that does not go on: nothing below here reads a clock to decide by.
    pub fn turn_at(&mut self, now: Time) -> usize {
        self.turn_by(now, || now)
    }

    /// A turn that began at `now`, by the caller's clock.
    pub fn turn_by(&mut self, mut now: Time, clock: impl Fn() -> Time) -> usize {
        let mut frames = self.hear_wire(now);
        if self.behind > 0 {
            return frames + self.send_heartbeats();
        }
        frames += self.hear_host(&mut now, &clock);
        if self.owed > 0 {
            self.owed -= 1;
            frames += self.hear_host(&mut now, &clock);
        }
        frames + self.release_kept(now) + self.send_heartbeats() + self.reset_orphans(now)
    }

    /// A burst from the host, of a turn that began at `now`; before it what has come from the wire meanwhile, if that took long.
    fn hear_host(&mut self, now: &mut Time, clock: impl Fn() -> Time) -> usize {
        let mut frames = 0;
        let mut burst = Burst::new();
        self.host.receive(&mut burst);
        self.counters.host_rx.add(burst.len() as u64);
        if burst.is_full() {
            // Half as many as were heard: the rest were data perhaps, or answers sent again, and what waits is to become less.
            self.room = (self.room + burst.len() as u32 / 2).min(UNHEARD);
        } else {
            (self.owed, self.room) = (0, UNHEARD);
        }
        if !burst.is_empty() {
            let away = clock().since(*now);
            self.was_away(away);
            while self.behind > 0 {
                frames += self.hear_wire(clock());
            }
            if away >= PAUSE {
                *now = clock();
                self.last_turn = Some(*now);
            }
        }
        if self.awaited.is_some_and(|look| self.member.shared.looks.ended(look)) {
            self.awaited = None;
        }
        frames + self.forward(&mut burst, Direction::FromHost, *now)
    }

    /// A burst from the wire.
    fn hear_wire(&mut self, now: Time) -> usize {
        let mut burst = Burst::new();
        self.wire.receive(&mut burst);
        self.counters.wire_rx.add(burst.len() as u64);
        let more = burst.is_full();
        let frames = self.forward(&mut burst, Direction::FromWire, now);
        if self.behind > 0 {
            self.awaited = Some(self.member.shared.looks.next());
            self.owed = (self.owed + 1).min(BACKLOG);
        }
        let left = |turns: u32| if more { turns.saturating_sub(1) } else { 0 };
        (self.catching_up, self.behind) = (left(self.catching_up), left(self.behind));
        frames
    }

    /// How long after `now` there is something to do without a frame having come: a kept SYN is due.
    pub fn due_in(&self, now: Time) -> Option<Duration> {
        self.kept.due_in(now)
    }

    /// Takes a burst through all stages; returns how many frames there were.
    fn forward(&mut self, burst: &mut Burst<W::Buffer>, direction: Direction, now: Time) -> usize {
        if burst.is_empty() {
            return 0;
        }
        self.cpu.run(Forward { worker: self, burst, direction, now })
    }

    /// One stage at a time, so that the memory each frame needs is on its way while the others are worked on. The many,
    /// plain segments of established connections and of nobody here, are carried out first and without a decision:
    /// whether a frame is one is a bit, not a branch to be mispredicted.
    #[inline(always)]
    fn forward_by<S: Simd>(&mut self, simd: S, burst: &mut Burst<W::Buffer>, direction: Direction, now: Time) -> usize {
        let frames = burst.len();
        self.stages.prepare(simd, &self.member, &self.recent, burst, direction, now);
        let mut burst: ArrayVec<Option<W::Buffer>, BURST> = burst.drain(..).map(Some).collect();
        self.pass(&mut burst, direction, now);
        let mut others = all(frames) & !self.stages.passing;
        others &= !self.look_again(simd, &mut burst, direction, now);
        if direction == Direction::FromWire {
            others &= !self.drop_of_nobody(simd, &mut burst, now);
        }
        for index in bits(others) {
            if let Some(buffer) = burst[index].take() {
                let verdict = self.decide(simd, buffer.bytes(), index, direction, now);
                self.carry_out(buffer, verdict, index, now);
            }
        }
        self.flush();
        self.counters.burst(frames, self.clock.now().since(now));
        frames
    }

    /// The plain segments of connections of ours.
    #[inline(always)]
    fn pass(&mut self, burst: &mut [Option<W::Buffer>], direction: Direction, now: Time) {
        for buffer in bits(self.stages.passing).filter_map(|index| burst[index].take()) {
            self.pass_on(buffer, direction);
        }
        if direction == Direction::FromWire {
            for index in bits(self.stages.stale) {
                self.member.established.touch(&mut self.stages.entries.get(index), now);
            }
        }
    }

    /// Puts a plain segment on its way to the other side.
    #[inline(always)]
    fn pass_on(&mut self, mut buffer: W::Buffer, direction: Direction) {
        let facts = &self.member.facts;
        match direction {
            Direction::FromWire => {
                ethernet::set_destination(buffer.bytes_mut(), facts.own_mac);
                self.to_host.push(buffer);
            }
            Direction::FromHost => {
                ethernet::set_source(buffer.bytes_mut(), source(facts));
                self.to_wire.push(buffer);
            }
        }
    }

    /// The few plain segments whose entry may be beyond the first line, which has come by now. Returns which of them were passed.
    #[inline(always)]
    fn look_again<S: Simd>(
        &mut self,
        simd: S,
        burst: &mut [Option<W::Buffer>],
        direction: Direction,
        now: Time,
    ) -> u64 {
        let mut passed = 0;
        for index in bits(self.stages.again()) {
            let entry = self.stages.look_again(simd, &self.member, index);
            if let Some(mut entry) = entry.filter(|entry| !entry.syn_seen())
                && let Some(buffer) = burst[index].take()
            {
                if direction == Direction::FromWire {
                    self.member.established.touch(&mut entry, now);
                }
                self.pass_on(buffer, direction);
                passed |= 1 << index;
            }
        }
        passed
    }

    /// Drops the plain segments of connections that are nobody's here, nearly all of those that were not found. Returns
    /// which frames they were.
    #[inline(always)]
    fn drop_of_nobody<S: Simd>(&mut self, simd: S, burst: &mut [Option<W::Buffer>], now: Time) -> u64 {
        if self.stages.missed == 0 {
            return 0;
        }
        let may_be_known = self.stages.may_be_known(simd, &self.member);
        let (stages, decider) = (&self.stages, self.decider(now));
        bits(may_be_known).for_each(|index| self.member.handshakes.prefetch(stages.hashes[index]));
        // The others first, while those lines come.
        let mut nobodys = self.first_sights(simd, burst, stages.missed & !may_be_known, now);
        let mut unknown = 0;
        for index in bits(may_be_known) {
            unknown |= u64::from(!decider.is_known(simd, stages.hashes[index])) << index;
        }
        nobodys |= self.first_sights(simd, burst, unknown, now);
        bits(nobodys).for_each(|index| drop(burst[index].take()));
        self.counters.count_drops(DropReason::NoConnection, nobodys.count_ones().into());
        nobodys
    }

    /// Those of some plain segments of nobody here to which there is nothing more: all but what clients repeat.
    #[inline(always)]
    fn first_sights<S: Simd>(&self, simd: S, burst: &[Option<W::Buffer>], frames: u64, now: Time) -> u64 {
        let (stages, decider) = (&self.stages, self.decider(now));
        let mut repeated = 0;
        for index in bits(frames & stages.may_be_repeated()) {
            let frame = burst[index].as_ref().map_or(&[][..], |buffer| buffer.bytes());
            let first = decider.is_first_sight(simd, stages.tuples.get(index).vip, stages.hashes[index], frame);
            repeated |= u64::from(!first) << index;
        }
        frames & !repeated
    }

    /// Any other frame.
    #[inline(always)]
    fn decide<S: Simd>(&self, simd: S, frame: &[u8], index: usize, direction: Direction, now: Time) -> Verdict {
        let (stages, decider) = (&self.stages, self.decider(now));
        let (class, tuple, hash) = (stages.class(index, frame), stages.tuples.get(index), stages.hashes[index]);
        match direction {
            Direction::FromWire => decider.from_wire(simd, class, frame, &tuple, hash, stages.outlooks[index]),
            Direction::FromHost => decider.from_host(class, frame, &tuple, hash),
        }
    }

    /// What this burst is decided with.
    #[inline(always)]
    fn decider(&self, now: Time) -> Decider<'_> {
        let (outdated, host_busy) = (self.awaited.is_some(), self.room == 0);
        Decider { recent: Some(&self.recent), outdated, host_busy, ..self.member.decider(self.catching_up > 0, now) }
    }

    /// Does what a verdict says: rewrites the frame where it lies, and puts it on its way out.
    fn carry_out(&mut self, mut buffer: W::Buffer, verdict: Verdict, index: usize, now: Time) {
        let tuple = self.stages.tuples.get(index);
        let facts = &self.member.facts;
        let frame = buffer.bytes_mut();
        match verdict {
            Verdict::ToHost => ethernet::set_destination(frame, facts.own_mac),
            Verdict::Untouched => {}
            Verdict::SynToHost => {
                self.room = self.room.saturating_sub(1);
                ethernet::set_destination(frame, facts.own_mac);
                tcp::blank_fast_open(frame);
            }
            Verdict::ToWire => {
                ethernet::set_source(frame, source(facts));
                return self.to_wire.push(buffer);
            }
            Verdict::ResetToWire => {
                ethernet::set_source(frame, facts.own_mac);
                // If there is no room for the notice, the entry goes once it has been idle for long.
                let _ = self.member.shared.notices.push(Notice::MayHaveEnded(tuple));
                return self.to_wire.push(buffer);
            }
            Verdict::ArpToWire(vip) => {
                ethernet::set_source(frame, facts.own_mac);
                arp::set_sha(frame, facts.vips[usize::from(vip)].mac);
                return self.to_wire.push(buffer);
            }
            Verdict::AnswerArp(vip) => {
                if let Ok(request) = arp::Arp::parse(frame) {
                    arp::write_reply(frame, &request, facts.vips[usize::from(vip)].mac, facts.own_mac);
                }
                return self.to_wire.push(buffer);
            }
            Verdict::AnswerEcho => {
                icmp::write_echo_reply(frame, facts.own_mac);
                return self.to_wire.push(buffer);
            }
            Verdict::Refuse => return self.refuse(buffer),
            Verdict::ClearHalfOpen(client_isn, reason) => {
                self.counters.count_drop(reason);
                let reset = Reset {
                    macs: (facts.own_mac, facts.own_mac),
                    source: (tuple.client, tuple.client_port),
                    destination: (facts.vips[usize::from(tuple.vip)].address, tuple.port),
                    seq: client_isn.wrapping_add(1),
                    ack: None,
                };
                if !buffer.resize(tcp::RESET_FRAME) {
                    return;
                }
                self.counters.originated.add(1);
                tcp::write_reset(buffer.bytes_mut(), &reset);
            }
            Verdict::EndSocket => {
                let asked = self.member.shared.notices.push(Notice::EndSocket(tuple)).is_ok();
                return self.counters.count_drop(if asked { DropReason::TakenOver } else { DropReason::NoticesFull });
            }
            Verdict::ToControl => {
                let Some(heartbeat) = HeartbeatFrame::new(frame) else {
                    return self.counters.count_drop(DropReason::Oversize);
                };
                return match self.member.shared.inbox.push(heartbeat) {
                    Ok(()) => self.counters.to_control.add(1),
                    Err(_) => self.counters.count_drop(DropReason::InboxFull),
                };
            }
            Verdict::Keep(client_isn, reason) => {
                self.kept.keep(frame, tuple, client_isn, now);
                return self.counters.count_drop(reason);
            }
            Verdict::Suspect(end, reason) => {
                if let Some(header) = ethernet::Ethernet::parse(frame)
                    && let Class::Tcp(place) = self.stages.class(index, frame)
                    && let Some(segment) = place.segment(frame)
                {
                    let suspicion = Suspicion { tuple, seq: segment.seq(), end, ack: segment.ack() };
                    // If there is no room, the client's next repeat tells of it again.
                    let _ = self.member.shared.suspects.push(Suspect { suspicion, mac: header.source });
                    self.counters.suspected.add(1);
                }
                return self.counters.count_drop(reason);
            }
            Verdict::Drop(reason) => return self.counters.count_drop(reason),
        }
        self.to_host.push(buffer);
    }

    /// Answers a SYN by the RST of RFC 9293, 3.10.7.1: sequence number 0, acknowledging the SYN and its data.
    fn refuse(&mut self, mut buffer: W::Buffer) {
        let facts = &self.member.facts;
        let refusal = (|| {
            let header = ethernet::Ethernet::parse(buffer.bytes())?;
            let packet = crate::frame::ipv4::Ipv4::parse(buffer.bytes()).ok()?;
            let segment = tcp::Segment::parse(&packet).ok()?;
            Some(Reset {
                macs: (header.source, facts.own_mac),
                source: (segment.destination(), segment.destination_port()),
                destination: (segment.source(), segment.source_port()),
                seq: 0,
                ack: Some(segment.seq().wrapping_add(1 + segment.data_len() as u32)),
            })
        })();
        match refusal {
            Some(reset) if buffer.resize(tcp::RESET_FRAME) => {
                tcp::write_reset(buffer.bytes_mut(), &reset);
                self.to_wire.push(buffer);
            }
            _ => self.counters.count_drop(DropReason::PortNotServed),
        }
    }

    /// Hands over what has gathered. What a queue does not accept now is dropped: to wait would stall the other way.
    fn flush(&mut self) {
        let counters = &self.counters;
        let waiting = self.to_wire.len();
        self.wire.send(&mut self.to_wire);
        counters.wire_tx.add((waiting - self.to_wire.len()) as u64);
        self.to_wire.drain(..).for_each(|_| counters.count_drop(DropReason::WireFull));

        let waiting = self.to_host.len();
        self.host.send(&mut self.to_host);
        counters.host_tx.add((waiting - self.to_host.len()) as u64);
        self.to_host.drain(..).for_each(|_| counters.count_drop(DropReason::HostFull));
    }
}
