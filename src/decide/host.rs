//! What the own host wants to send: the host's kernel knows nothing of the other members, so much of what it would say
//! must not be heard.

use super::{Decider, is_unfinished};
use crate::broken::{Rule, broken};
use crate::classify::Class;
use crate::frame::tcp::Segment;
use crate::table::{Answer, Hash, Record, Stage, State, Tuple};
use crate::verdict::{DropReason, Verdict};

impl Decider<'_> {
    /// Decides a frame from the host. `tuple` and `hash` are those of its connection, if it is a segment.
    #[inline]
    pub fn from_host(&self, class: Class, frame: &[u8], tuple: &Tuple, hash: Hash) -> Verdict {
        match class {
            Class::Tcp(place) => {
                let Some(segment) = place.segment(frame) else { return Verdict::Drop(DropReason::BadTcp) };
                match self.reply(tuple, hash, &segment) {
                    Verdict::Drop(DropReason::StrayReset | DropReason::NoConnection) if broken(Rule::Egress) => {
                        Verdict::ToWire
                    }
                    verdict => verdict,
                }
            }
            Class::HostArp(vip) => Verdict::ArpToWire(vip),
            Class::Other => Verdict::ToWire,
            Class::Drop(reason) => Verdict::Drop(reason),
            _ => Verdict::Drop(DropReason::HostNoise),
        }
    }

    #[inline]
    fn reply(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>) -> Verdict {
        let flags = segment.flags();
        if is_unfinished(segment) {
            return Verdict::Drop(DropReason::UnfinishedChecksum);
        }
        if flags.syn() && flags.ack() {
            return self.syn_ack(tuple, hash, segment);
        }
        let known = self.member.established.find(tuple, hash);
        match known {
            Some(entry) if flags.rst() && entry.state() == State::TimeWait => {
                // A TIME_WAIT only ever acknowledges (Linux: `tcp_timewait_state_process`), and a client that has sent a RST
                // says no more. So the socket is gone, and what the host takes for a stray may be another member's: we
                // may have missed the SYN of it.
                self.member.established.remove(entry);
                Verdict::Drop(DropReason::StrayReset)
            }
            Some(entry) if flags.rst() && entry.syn_seen() => self.reset_after_a_syn(tuple, hash, segment),
            Some(mut entry) if flags.rst() => {
                // Its socket is gone, or was before. As after a client's RST (see `established_segment`): what the host resets
                // from here on may be another member's. Where it has a socket all the same, which is half open and was
                // answered wrongly, the control thread's look says so.
                self.member.established.set_state(&mut entry, State::TimeWait);
                Verdict::ResetToWire
            }
            Some(_) if !flags.syn() => Verdict::ToWire,
            _ if flags.rst() => self.refusal(tuple, hash, segment),
            None if self.is_of_half_open(tuple, hash, segment) => Verdict::ToWire,
            _ => Verdict::Drop(DropReason::NoConnection),
        }
    }

    /// A SYN-ACK's ISN and timestamp are recorded before it is sent: the client's answer will be held against them.
    fn syn_ack(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>) -> Verdict {
        // Of a socket that is older than we are, the client may echo a timestamp that we have not seen.
        let older = self.member.half_open.contains(tuple, self.now);
        let timestamp = segment.timestamps().map(|timestamps| timestamps.value).filter(|_| !older);
        let answer = Answer { isn: segment.seq(), timestamp };
        let client_isn = segment.ack().wrapping_sub(1);
        if broken(Rule::AnswerRecorded) || broken(Rule::AnswersRecorded) && self.has_answered(tuple, hash, client_isn) {
            return Verdict::ToWire;
        }
        let record = || self.member.handshakes.answer(tuple, hash, client_isn, answer, self.now);
        let stage = match record() {
            None if older => {
                // It repeats what it sent before we started: now we know the numbers.
                self.member.handshakes.remember(tuple, hash, client_isn, true, self.now);
                record()
            }
            stage => stage,
        };
        match stage {
            Some(Stage::Admitted | Stage::Confirmed) => Verdict::ToWire,
            Some(Stage::Lost) if broken(Rule::LostStaysLost) => Verdict::ToWire,
            Some(Stage::Lost) if broken(Rule::HalfOpenCleared) => Verdict::Drop(DropReason::LostRace),
            // Its half-open socket is still there: the RST that was to clear it came before it, or never.
            Some(Stage::Lost) => Verdict::ClearHalfOpen(client_isn, DropReason::LostRace),
            Some(Stage::Seen | Stage::Answered) => Verdict::Drop(DropReason::NoConnection),
            None if older || self.is_open(tuple, hash) => Verdict::Drop(DropReason::NoConnection),
            // Its record has made way for later SYNs of its tuple. Without one such an answer never goes out, and the
            // socket would have only challenge ACKs for the client's own SYN until it gives up, a minute later.
            None => Verdict::ClearHalfOpen(client_isn, DropReason::NoConnection),
        }
    }

    fn is_open(&self, tuple: &Tuple, hash: Hash) -> bool {
        self.member.established.find(tuple, hash).is_some_and(|entry| entry.state() != State::TimeWait)
    }

    /// Whether our host has answered this SYN before.
    fn has_answered(&self, tuple: &Tuple, hash: Hash, client_isn: u32) -> bool {
        let records = self.member.handshakes.find(tuple, hash, self.now);
        records.iter().any(|record| record.client_isn == client_isn && !record.answers.is_empty())
    }

    /// A RST for no established connection. One that answers a SYN is a refusal, and leaves only where no other
    /// member may be about to accept; any other would end a connection of somebody else.
    fn refusal(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>) -> Verdict {
        let refused =
            |record: &&Record| record.stage == Stage::Admitted && segment.ack() == record.client_isn.wrapping_add(1);
        let records = self.member.handshakes.find(tuple, hash, self.now);
        let Some(record) = records.iter().find(refused).filter(|_| segment.flags().ack()) else {
            return Verdict::Drop(DropReason::StrayReset);
        };
        let may_refuse = self.member.shared.role(tuple.vip).may_refuse && !self.outdated;
        if !may_refuse && !broken(Rule::RefusalHeld) {
            return Verdict::Drop(DropReason::RefusalHeld);
        }
        // A client that repeats its SYN has not heard this, and the host is to answer it once more.
        self.member.handshakes.settle(record, Stage::Confirmed);
        Verdict::ToWire
    }

    /// A RST of a tuple that has an entry and a SYN that came later, of which nobody knows yet whose it becomes. It may
    /// refuse that SYN. Without an ACK, it answers a segment for which the host had no socket (RFC 9293, 3.10.7.1; Linux:
    /// `tcp_v4_send_reset`): that may have been one of the new connection, and the RST would be exactly in its place.
    fn reset_after_a_syn(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>) -> Verdict {
        let records = self.member.handshakes.find(tuple, hash, self.now);
        let mut undecided =
            records.iter().filter(|record| matches!(record.stage, Stage::Seen | Stage::Admitted)).peekable();
        if undecided.peek().is_none() {
            return Verdict::ResetToWire;
        }
        if !segment.flags().ack() {
            return Verdict::Drop(DropReason::StrayReset);
        }
        if undecided.any(|record| segment.ack() == record.client_isn.wrapping_add(1)) {
            return self.refusal(tuple, hash, segment);
        }
        Verdict::ResetToWire
    }

    /// Whether this is the bare ACK by which a half-open socket of an earlier SYN tells a client that has begun anew
    /// where it stands (RFC 9293, 3.10.7.4; Linux: `tcp_check_req`). The client's RST to it clears the old one. A client
    /// that has not begun anew, if the SYN was spoofed, echoes its timestamp from now on (RFC 7323, 4.3). So that is
    /// recorded as if a SYN-ACK had it.
    fn is_of_half_open(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>) -> bool {
        let flags = segment.flags();
        if !flags.ack() || flags.fin() || segment.data_len() > 0 {
            return false;
        }
        let client_isn = segment.ack().wrapping_sub(1);
        let records = self.member.handshakes.find(tuple, hash, self.now);
        let pending = |record: &&Record| record.stage == Stage::Admitted && record.client_isn == client_isn;
        let Some(record) = records.iter().find(pending) else { return false };
        let isn = segment.seq().wrapping_sub(1);
        let mut answers = record.answers.iter().filter(|answer| answer.isn == isn);
        if answers.any(|answer| answer.timestamp.is_some()) {
            let timestamp = segment.timestamps().map(|timestamps| timestamps.value);
            self.member.handshakes.answer(tuple, hash, client_isn, Answer { isn, timestamp }, self.now);
        }
        true
    }
}
