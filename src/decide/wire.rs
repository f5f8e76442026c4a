//! What comes from the switch.

use super::{Decider, distrust, in_window, is_unfinished};
use crate::broken::{Rule, broken};
use crate::classify::{self, Class, FragmentId};
use crate::frame::tcp::Segment;
use crate::orphans::Suspicions;
use crate::shared::Role;
use crate::simd::Simd;
use crate::table::{Entry, Hash, Outlook, Record, Remembered, Stage, State, Tuple, VipIndex};
use crate::verdict::{DropReason, Verdict};

/// Whether a client's segment acknowledges a SYN-ACK of our host, by its ISN and, in use, its timestamp.
fn acknowledges(segment: &Segment<'_>, record: &Record) -> bool {
    broken(Rule::Ownership)
        || record.acknowledged_by(segment.ack(), segment.timestamps().map(|timestamps| timestamps.echo))
}

impl Decider<'_> {
    /// Decides a frame from the wire. `tuple` and `hash` are those of its connection, if it is a segment, and `outlook` is
    /// what [was foreseen](crate::table::Handshakes::foresee) of it.
    #[inline(always)]
    pub fn from_wire<S: Simd>(
        &self,
        simd: S,
        class: Class,
        frame: &[u8],
        tuple: &Tuple,
        hash: Hash,
        outlook: Outlook,
    ) -> Verdict {
        match class {
            Class::Tcp(place) => match place.segment(frame) {
                Some(segment) if place.first_fragment => self.first_fragment(tuple, hash, &segment, frame),
                Some(segment) if segment.flags().syn() => self.syn(simd, tuple, hash, &segment, outlook),
                Some(segment) => self.segment(tuple, hash, &segment),
                None => Verdict::Drop(DropReason::BadTcp),
            },
            Class::Drop(reason) => Verdict::Drop(reason),
            other => self.rarely(other, frame),
        }
    }

    /// Whether a tuple of this hash has records of handshakes, or its client is watched. Where neither is so it says yes once in
    /// five hundred times.
    #[inline(always)]
    pub fn is_known<S: Simd>(&self, simd: S, hash: Hash) -> bool {
        self.member.handshakes.most_likely_has(simd, hash) | self.member.suspicions.may_watch(hash)
    }

    /// Whether there is nothing more to a common segment of nobody here that may be repeated: it is seen for the first time.
    #[inline(always)]
    pub fn is_first_sight<S: Simd>(&self, simd: S, vip: VipIndex, hash: Hash, frame: &[u8]) -> bool {
        match self.recent {
            Some(recent) if self.member.facts.vips[usize::from(vip)].orphans => {
                Suspicions::is_first_sight(simd, recent, hash, frame, self.now)
            }
            _ => true,
        }
    }

    /// All that is not a TCP segment.
    fn rarely(&self, class: Class, frame: &[u8]) -> Verdict {
        match class {
            Class::Heartbeat => Verdict::ToControl,
            // Every member answers, and all say the same: whoever asks is answered while any of them lives.
            Class::ArpRequest(vip) => Verdict::AnswerArp(vip),
            Class::ArpReply => Verdict::ToHost,
            Class::Echo(vip) if self.role(vip).primary() => Verdict::AnswerEcho,
            Class::Echo(_) => Verdict::Drop(DropReason::EchoPassive),
            Class::IcmpError(vip) => match classify::quoted_tuple(frame, vip) {
                Some(tuple) if self.is_ours(&tuple, self.member.established.hash(&tuple)) => Verdict::ToHost,
                _ => Verdict::Drop(DropReason::IcmpNotOurs),
            },
            Class::LaterFragment(vip) => match FragmentId::of(frame, vip) {
                Some(id) if self.member.fragments.passed(&id, self.now) => Verdict::ToHost,
                _ => Verdict::Drop(DropReason::Fragment),
            },
            Class::Other if self.member.facts.shared_wire => Verdict::Drop(DropReason::KernelHasIt),
            Class::Other => Verdict::Untouched,
            Class::Drop(reason) => Verdict::Drop(reason),
            // Only the host sends such, and a segment is not rare.
            Class::HostArp(_) | Class::Tcp(_) => Verdict::Drop(DropReason::BadArp),
        }
    }

    /// The role for what has just been read.
    #[inline]
    fn role(&self, vip: VipIndex) -> Role {
        let role = if self.catching_up { Role::default() } else { self.member.shared.role(vip) };
        Role { active: role.active || broken(Rule::PassiveDrops), ..role }
    }

    /// Whether a connection of this tuple is, or may become, this member's.
    fn is_ours(&self, tuple: &Tuple, hash: Hash) -> bool {
        self.member.established.find(tuple, hash).is_some()
            || self.member.handshakes.find(tuple, hash, self.now).iter().any(|record| record.stage == Stage::Admitted)
    }

    /// A segment of a client, without SYN.
    fn segment(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>) -> Verdict {
        match self.member.established.find(tuple, hash) {
            Some(entry) if !entry.syn_seen() => self.established_segment(entry, segment),
            Some(entry) => self.after_a_syn(tuple, hash, segment, entry),
            None => match self.pending(tuple, hash, segment) {
                Verdict::Drop(reason) => self.suspect(tuple, hash, segment, reason),
                verdict => verdict,
            },
        }
    }

    #[inline]
    fn established_segment(&self, mut entry: Entry, segment: &Segment<'_>) -> Verdict {
        if is_unfinished(segment) {
            return Verdict::Drop(DropReason::UnfinishedChecksum);
        }
        self.member.established.touch(&mut entry, self.now);
        if segment.flags().rst() {
            // From here on our host may have nothing of it. What it would reset then may be another member's: the client may
            // have begun anew there while we did not hear (see `reply`).
            self.member.established.set_state(&mut entry, State::TimeWait);
        }
        Verdict::ToHost
    }

    /// A SYN, which never alters an established entry: it is remembered, and handed to the host by the active, at once or
    /// later. A passive keeps it, in case it becomes active, unless it has waited for nobody knows how long.
    #[inline(always)]
    fn syn<S: Simd>(&self, simd: S, tuple: &Tuple, hash: Hash, segment: &Segment<'_>, outlook: Outlook) -> Verdict {
        let entry = self.member.established.find(tuple, hash);
        let flags = segment.flags();
        let pure = !flags.ack() && !flags.fin();
        if flags.rst() || (flags.fin() && entry.is_none()) {
            return Verdict::Drop(DropReason::BadTcp);
        }
        if let Some(distrusted) = distrust(segment) {
            return distrusted;
        }
        let role = self.role(tuple.vip);
        if entry.is_none() {
            if !pure {
                return Verdict::Drop(DropReason::NoConnection);
            }
            if !self.member.facts.vips[usize::from(tuple.vip)].serves(tuple.port) {
                return if role.primary() { Verdict::Refuse } else { Verdict::Drop(DropReason::PortNotServed) };
            }
            if role.active && self.member.established.len() >= self.member.established.capacity() {
                return Verdict::Drop(DropReason::TableFull);
            }
        }
        if broken(Rule::PassiveRemembers) && !role.active {
            return Verdict::Drop(DropReason::SynPassive);
        }
        // Data on a SYN is not kept.
        let at_once = role.active && (self.is_prompt(tuple.vip, role) || segment.data_len() > 0);
        if at_once && self.host_busy {
            // Not remembered: the client's next copy is as good, here or where another active takes it.
            return Verdict::Drop(DropReason::HostBusy);
        }
        let (isn, admitted, now) = (segment.seq(), at_once && pure, self.now);
        let remembered = self.member.handshakes.remember_foreseen(simd, outlook, tuple, hash, isn, admitted, now);
        if let Some(mut entry) = entry {
            self.member.established.set_syn_seen(&mut entry);
            if broken(Rule::SynAltersNothing) {
                self.member.established.remove(entry);
            }
        }
        let reason = if role.active { DropReason::SynHedged } else { DropReason::SynPassive };
        let (stage, known) = match remembered {
            Remembered::New => (Stage::of(admitted), None),
            Remembered::Known(record) => (record.stage, Some(record)),
            Remembered::Crowded if role.active => return Verdict::Drop(DropReason::Crowded),
            Remembered::Crowded => return Verdict::Drop(reason),
        };
        match stage {
            Stage::Seen if pure && segment.data_len() == 0 && !self.catching_up => Verdict::Keep(isn, reason),
            _ if !role.active => Verdict::Drop(reason),
            // The client has acknowledged another member's answer to this very SYN: an old copy of it changes nothing.
            Stage::Answered | Stage::Lost if entry.is_none() => Verdict::Drop(DropReason::LostRace),
            // A copy of the SYN of a connection that has ended here: the host answers it as a new one.
            Stage::Confirmed if entry.is_none() => {
                known.inspect(|record| _ = self.member.handshakes.settle(record, Stage::Admitted));
                Verdict::SynToHost
            }
            _ => Verdict::SynToHost,
        }
    }

    /// Whether an active leaves SYNs to nobody before it, for rank × hedge.
    #[inline]
    fn is_prompt(&self, vip: VipIndex, role: Role) -> bool {
        role.rank == 0 || self.member.facts.vips[usize::from(vip)].hedge.is_zero()
    }

    /// Whether a SYN that was kept is to go to the host now, of which then exactly one copy does: nobody has answered it
    /// as far as we have heard, nor have we.
    pub fn release(&self, tuple: &Tuple, client_isn: u32) -> bool {
        if broken(Rule::ReplayAsks) {
            return true;
        }
        if self.member.established.len() >= self.member.established.capacity() {
            return false;
        }
        let records = self.member.handshakes.find(tuple, self.member.established.hash(tuple), self.now);
        let unanswered = |record: &&Record| record.client_isn == client_isn && record.stage == Stage::Seen;
        records.iter().find(unanswered).is_some_and(|record| self.member.handshakes.settle(record, Stage::Admitted))
    }

    /// No entry: the segment may be the client's answer to a SYN-ACK, ours or another member's.
    fn pending(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>) -> Verdict {
        let records = self.member.handshakes.find(tuple, hash, self.now);
        if records.is_empty() {
            return Verdict::Drop(DropReason::NoConnection);
        }
        if let Some(distrusted) = distrust(segment) {
            return distrusted;
        }
        if segment.flags().rst() {
            return self.reset_of_pending(&records, segment);
        }
        if !segment.flags().ack() {
            return Verdict::Drop(DropReason::NoConnection);
        }
        let candidates = || records.iter().filter(|record| in_window(segment.seq(), record.client_isn));
        let ours = candidates().find(|record| record.stage == Stage::Admitted && acknowledges(segment, record));
        // A client that began anew at once may be in the window of both attempts: the nearer one is meant.
        let nearest = || candidates().min_by_key(|record| segment.seq().wrapping_sub(record.client_isn));
        let Some(record) = ours.or_else(nearest) else {
            return Verdict::Drop(DropReason::NoConnection);
        };
        match record.stage {
            Stage::Admitted => self.decide_race(tuple, hash, segment, &records, record, false),
            Stage::Seen => {
                self.member.handshakes.settle(record, Stage::Answered);
                if self.member.half_open.contains(tuple, self.now) {
                    // Our host may have answered it before we started.
                    return Verdict::ClearHalfOpen(record.client_isn, DropReason::LostRace);
                }
                Verdict::Drop(DropReason::NoConnection)
            }
            Stage::Lost => Verdict::Drop(DropReason::LostRace),
            // Answered: another member's. Confirmed, yet no entry: it has ended here.
            Stage::Answered | Stage::Confirmed => Verdict::Drop(DropReason::NoConnection),
        }
    }

    /// The ownership rule: the client acknowledges our SYN-ACK, or another's. `known`: the tuple has an entry already.
    fn decide_race(
        &self,
        tuple: &Tuple,
        hash: Hash,
        segment: &Segment<'_>,
        records: &[Record],
        record: &Record,
        known: bool,
    ) -> Verdict {
        if !acknowledges(segment, record) {
            let half_open = self.lose(records, record);
            if broken(Rule::HalfOpenCleared) {
                return Verdict::Drop(DropReason::LostRace);
            }
            return Verdict::ClearHalfOpen(half_open, DropReason::LostRace);
        }
        // The entry first: once the record says "confirmed", a segment on another worker must find it.
        let table = &self.member.established;
        let entry = match known {
            true => table.insert(tuple, hash, State::Live, self.now),
            false => table.insert_new(tuple, hash, State::Live, self.now),
        };
        if entry.is_err() {
            self.member.handshakes.settle(record, Stage::Lost);
            return Verdict::ClearHalfOpen(record.client_isn, DropReason::TableFull);
        }
        self.member.handshakes.settle(record, Stage::Confirmed);
        Verdict::ToHost
    }

    /// Another member has won the handshake of `record`: it is lost, and so are the client's earlier attempts. Returns
    /// the client's ISN of our host's half-open socket. That is of an earlier attempt if the host has answered only
    /// that: its request socket then answers a later SYN by no SYN-ACK of its own (Linux: `tcp_check_req`).
    fn lose(&self, records: &[Record], record: &Record) -> u32 {
        let pending = || records.iter().filter(|other| other.stage == Stage::Admitted && other.age >= record.age);
        for other in pending() {
            self.member.handshakes.settle(other, Stage::Lost);
        }
        let mut answered = [record].into_iter().chain(pending()).filter(|other| !other.answers.is_empty());
        answered.next().unwrap_or(record).client_isn
    }

    /// A client's RST before its handshake is confirmed counts at exactly its ISN + 1, and establishes nothing.
    fn reset_of_pending(&self, records: &[Record], segment: &Segment<'_>) -> Verdict {
        let exact = records.iter().find(|record| segment.seq() == record.client_isn.wrapping_add(1));
        match exact.map(|record| (record, record.stage)) {
            Some((record, Stage::Admitted)) => {
                self.member.handshakes.settle(record, Stage::Lost);
                Verdict::ToHost
            }
            Some((record, Stage::Seen)) => {
                self.member.handshakes.settle(record, Stage::Answered);
                Verdict::Drop(DropReason::NoConnection)
            }
            Some(_) => Verdict::Drop(DropReason::NoConnection),
            None => Verdict::Drop(DropReason::ResetOutOfWindow),
        }
    }

    /// A segment of a tuple that has an entry and a SYN that came later: of the old connection, or of the new one,
    /// which may be ours or another member's.
    fn after_a_syn(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>, mut entry: Entry) -> Verdict {
        let records = self.member.handshakes.find(tuple, hash, self.now);
        if records.is_empty() {
            self.member.established.clear_syn_seen(&mut entry);
            return self.established_segment(entry, segment);
        }
        if let Some(distrusted) = distrust(segment) {
            return distrusted;
        }
        let at_start = |record: &&Record| segment.seq() == record.client_isn.wrapping_add(1);
        if segment.flags().rst() {
            return match records.iter().find(at_start).map(|record| (record, record.stage)) {
                // It ends an attempt that another member has, not our old connection.
                Some((record, Stage::Seen | Stage::Answered)) => {
                    self.member.handshakes.settle(record, Stage::Answered);
                    Verdict::Drop(DropReason::NoConnection)
                }
                Some((record, Stage::Admitted)) => {
                    self.member.handshakes.settle(record, Stage::Lost);
                    Verdict::ToHost
                }
                _ => self.established_segment(entry, segment),
            };
        }
        if !segment.flags().ack() {
            return self.established_segment(entry, segment);
        }
        for record in &records {
            match record.stage {
                Stage::Admitted if in_window(segment.seq(), record.client_isn) && acknowledges(segment, record) => {
                    return self.decide_race(tuple, hash, segment, &records, record, true);
                }
                // Only the exact number tells: elsewhere in the window the old connection may be meant.
                Stage::Admitted | Stage::Seen if at_start(&record) => return self.hand_over(record, entry),
                _ => {}
            }
        }
        self.established_segment(entry, segment)
    }

    /// Another member owns the tuple now: the old entry and its socket end, and nothing of that reaches the wire.
    fn hand_over(&self, record: &Record, entry: Entry) -> Verdict {
        let end = if record.stage == Stage::Admitted { Stage::Lost } else { Stage::Answered };
        self.member.handshakes.settle(record, end);
        self.member.established.remove(entry);
        Verdict::EndSocket
    }

    /// The first fragment of a packet has the TCP header: its verdict is the packet's. It may pass an established
    /// connection, but decides nothing: its checksum covers data that is not here yet.
    fn first_fragment(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>, frame: &[u8]) -> Verdict {
        let verdict = match self.member.established.find(tuple, hash) {
            _ if segment.flags().syn() => Verdict::Drop(DropReason::FragmentUndecided),
            Some(mut entry) if !entry.syn_seen() => {
                self.member.established.touch(&mut entry, self.now);
                Verdict::ToHost
            }
            Some(_) => Verdict::Drop(DropReason::FragmentUndecided),
            None if self.is_ours(tuple, hash) => Verdict::Drop(DropReason::FragmentUndecided),
            None => Verdict::Drop(DropReason::NoConnection),
        };
        if verdict == Verdict::ToHost
            && let Some(id) = FragmentId::of(frame, tuple.vip)
        {
            self.member.fragments.pass(&id, self.now);
        }
        verdict
    }
}
