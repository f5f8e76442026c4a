//! The invariants of DESIGN, checked at every frame that a member receives or sends.
//!
//! The checker knows what no member can know: which sequence numbers a client's connection really has, and so which
//! member's SYN-ACK it took, its **owner**. A member **was told** of a connection once it has received both its SYN and
//! a segment at the SYN's sequence number + 1 that acknowledges the owner's SYN-ACK; from then on, a member that is not
//! the owner must not be heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::segment::Flow;
use super::trace::Glance;
use crate::counters::Counters;
use crate::frame::Mac;
use crate::time::Time;
use crate::verdict::DropReason;

/// A refusal stands for this long: a client that has not heard it repeats its SYN only after a second.
const REFUSED_LATELY: Duration = Duration::from_millis(500);

/// An acceptance counts for this long: a member that has been the only active for a second may refuse what another has
/// answered before.
const ACCEPTED_LATELY: Duration = Duration::from_secs(1);

/// What a client's kernel has of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    /// The client's initial sequence number.
    pub iss: u32,
    /// The server's, once there is one.
    pub irs: Option<u32>,
}

/// A rule broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// When.
    pub at: Time,
    /// The connection concerned, as its client sees it.
    pub flow: Option<Flow>,
    /// Which rule, and how.
    pub what: String,
}

/// What was seen that is no violation but worth knowing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// SYNs that more than one member answered.
    pub answered_twice: u64,
    /// SYN-ACKs to a client that had taken another member's already.
    pub late_syn_acks: u64,
    /// Segments of a member with an old connection to a client that had begun a new one, which nobody had told it.
    pub old_segments: u64,
    /// RSTs that answered a SYN.
    pub refusals: u64,
    /// RSTs of members to clients of connections that are theirs.
    pub resets: u64,
    /// RSTs of members to clients of connections that have no owner any more.
    pub orphans: u64,
    /// Connections to which two members gave the same sequence number: two owners, as happens once in 2³².
    pub ambiguous: u64,
}

/// Members as a set of bits.
type Members = u64;

/// The checker.
#[derive(Debug, Default)]
pub struct Checks {
    virtual_macs: Vec<Mac>,
    /// Who sent a SYN-ACK with which sequence number and when, by flow and client's ISN.
    answers: BTreeMap<(Flow, u32), Vec<Answer>>,
    /// Who received a SYN.
    syns: BTreeMap<(Flow, u32), Syn>,
    /// Who refused a SYN.
    refused: BTreeMap<(Flow, u32), Refusal>,
    /// Who was told, by flow, client's and server's ISN.
    told: BTreeMap<(Flow, u32, u32), Members>,
    /// What went wrong.
    pub violations: Vec<Violation>,
    /// What else was seen.
    pub seen: Seen,
    /// Whether the client that is sent to has nobody at the other end of its connection any more: a RST is right then.
    pub abandoned: bool,
    /// Whether it drops a RST like this one without a word.
    pub deaf: bool,
    /// Connections of which a client was told that nobody has them any more.
    pub orphaned: BTreeSet<(Flow, u32)>,
    /// Whether every new SYN is to be answered by one member at most: with no fault and no handover under way.
    pub exclusive: bool,
    /// Virtual IPs with more than one active, where that does not hold.
    pub shared: BTreeSet<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    member: usize,
    isn: u32,
    at: Time,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    member: usize,
    /// Who was active then.
    actives: Members,
    at: Time,
}

#[derive(Clone, Copy, Debug, Default)]
struct Syn {
    /// Who received it at any time.
    seen_ever_by: Members,
    /// Who received it since it was started last.
    seen_by: Members,
    /// Whether it came while every SYN was to be answered by one member at most.
    exclusive: bool,
}

impl Checks {
    /// For virtual IPs with these MACs.
    pub fn new(virtual_macs: Vec<Mac>) -> Checks {
        Checks { virtual_macs, ..Checks::default() }
    }

    /// Notes a rule broken.
    pub fn violate(&mut self, at: Time, flow: Option<Flow>, what: String) {
        self.violations.push(Violation { at, flow, what });
    }

    /// A member's worker is about to receive a client's segment.
    pub fn received(&mut self, member: usize, glance: &Glance) {
        let (flow, bit) = (glance.flow, 1 << member);
        if glance.flags.syn() {
            if !glance.flags.ack() {
                let exclusive = self.exclusive && !self.shared.contains(flow.remote.ip());
                let new = Syn { exclusive, ..Syn::default() };
                let syn = self.syns.entry((flow, glance.seq)).or_insert(new);
                syn.seen_ever_by |= bit;
                syn.seen_by |= bit;
            }
            return;
        }
        let iss = glance.seq.wrapping_sub(1);
        let saw_syn = self.syns.get(&(flow, iss)).is_some_and(|syn| syn.seen_by & bit != 0);
        if glance.flags.ack() && !glance.flags.rst() && saw_syn {
            *self.told.entry((flow, iss, glance.ack.wrapping_sub(1))).or_default() |= bit;
        }
    }

    /// A member sends a frame, of which the client has this, if it is to a client; `actives` are for that virtual IP.
    pub fn sent(
        &mut self,
        member: usize,
        frame: &[u8],
        glance: Option<(&Glance, Option<Truth>)>,
        actives: Members,
        now: Time,
    ) {
        let source = frame.get(6..12);
        if self.virtual_macs.iter().any(|mac| source == Some(&mac.0)) {
            self.violate(now, None, format!("s{} sent a frame from a virtual MAC", member + 1));
        }
        let Some((glance, Some(truth))) = glance else { return };
        let flow = glance.flow.reversed();
        if glance.flags.syn() {
            self.answered(member, flow, glance, now);
        }
        match truth.irs {
            None => self.sent_to_syn_sent(member, flow, glance, truth, actives, now),
            Some(irs) => self.sent_to_connection(member, flow, glance, truth.iss, irs, now),
        }
    }

    fn answered(&mut self, member: usize, flow: Flow, glance: &Glance, now: Time) {
        let syn = (flow, glance.ack.wrapping_sub(1));
        let answers = self.answers.entry(syn).or_default();
        let others = answers.iter().any(|answer| answer.member != member);
        let first = !answers.iter().any(|answer| answer.member == member);
        answers.push(Answer { member, isn: glance.seq, at: now });
        if first && others {
            self.seen.answered_twice += 1;
            if self.syns.get(&syn).is_some_and(|syn| syn.exclusive) {
                self.violate(now, Some(flow), format!("s{} answered a SYN that another member answered", member + 1));
            }
        }
        if let Some(&Refusal { member: other, actives, at }) = self.refused.get(&syn)
            && actives & (1 << member) != 0
            && other != member
            && now.since(at) < REFUSED_LATELY
        {
            self.violate(now, Some(flow), format!("s{} answered a SYN that s{} had refused", member + 1, other + 1));
        }
    }

    /// A RST to a client that waits for a SYN-ACK ends its attempt: no other member may have accepted it.
    fn sent_to_syn_sent(
        &mut self,
        member: usize,
        flow: Flow,
        glance: &Glance,
        truth: Truth,
        actives: Members,
        now: Time,
    ) {
        if glance.flags.rst() && glance.flags.ack() && glance.ack == truth.iss.wrapping_add(1) {
            self.seen.refusals += 1;
            self.refused.insert((flow, truth.iss), Refusal { member, actives, at: now });
            let accepted = self.answers.get(&(flow, truth.iss)).is_some_and(|answers| {
                answers.iter().any(|answer| answer.member != member && now.since(answer.at) < ACCEPTED_LATELY)
            });
            if accepted {
                self.violate(now, Some(flow), format!("s{} refused a SYN that was accepted", member + 1));
            }
        } else if !glance.flags.syn() {
            self.seen.old_segments += 1;
        }
    }

    fn sent_to_connection(&mut self, member: usize, flow: Flow, glance: &Glance, iss: u32, irs: u32, now: Time) {
        let answers = self.answers.get(&(flow, iss)).map_or(&[][..], Vec::as_slice);
        let mut owners: Vec<usize> =
            answers.iter().filter(|answer| answer.isn == irs).map(|answer| answer.member).collect();
        owners.sort_unstable();
        owners.dedup();
        if owners.len() > 1 {
            self.seen.ambiguous += 1;
            return;
        }
        if owners.contains(&member) {
            self.seen.resets += u64::from(glance.flags.rst());
            return;
        }
        // An old copy of an earlier SYN came late, or somebody has spoofed one. Nobody can tell it from a new one, so it is
        // answered or refused; the client is not harmed, as long as it takes a refusal for none of its connection's.
        let other_syn =
            self.syns.get(&(flow, glance.ack.wrapping_sub(1))).filter(|_| glance.ack != iss.wrapping_add(1));
        let answers_other_syn = other_syn.is_some_and(|syn| syn.seen_ever_by & (1 << member) != 0);
        if answers_other_syn && (!glance.flags.rst() || self.deaf) {
            self.seen.old_segments += 1;
            return;
        }
        if self.abandoned && glance.flags.rst() {
            self.seen.orphans += 1;
            self.orphaned.insert((flow, iss));
            return;
        }
        let told = self.was_told(member, flow, Truth { iss, irs: Some(irs) });
        let (who, owner) = (member + 1, owners.first().map_or(0, |owner| owner + 1));
        if told {
            self.violate(now, Some(flow), format!("s{who} sent on a connection of s{owner}, of which it was told"));
        } else if glance.flags.rst() && !self.deaf {
            self.violate(now, Some(flow), format!("s{who} sent a RST on a connection of s{owner}"));
        } else if glance.flags.syn() {
            self.seen.late_syn_acks += 1;
        } else {
            self.seen.old_segments += 1;
        }
    }

    /// baton ends on a member: what it was told, it does not know any more.
    pub fn forget_member(&mut self, member: usize) {
        let others = !(1 << member);
        self.syns.values_mut().for_each(|syn| syn.seen_by &= others);
        self.told.values_mut().for_each(|members| *members &= others);
    }

    /// Whether a member has answered one SYN of a connection with several sequence numbers.
    pub fn answered_anew(&self, member: usize, flow: Flow) -> bool {
        self.answers.range((flow, 0)..=(flow, u32::MAX)).any(|(_, answers)| {
            let mut own = answers.iter().filter(|answer| answer.member == member).map(|answer| answer.isn);
            own.next().is_some_and(|first| own.any(|isn| isn != first))
        })
    }

    /// Whether a member was told whose this connection is.
    pub fn was_told(&self, member: usize, flow: Flow, truth: Truth) -> bool {
        let told = truth.irs.and_then(|irs| self.told.get(&(flow, truth.iss, irs)));
        told.is_some_and(|members| members & (1 << member) != 0)
    }

    /// A member's worker has taken a turn: frames in are frames out.
    pub fn counted(&mut self, member: usize, counters: &Counters, now: Time) {
        let dropped: u64 = DropReason::ALL.iter().map(|&reason| counters.dropped(reason)).sum();
        let taken = counters.wire_rx.get() + counters.host_rx.get() + counters.originated.get();
        let given = counters.wire_tx.get() + counters.host_tx.get() + counters.to_control.get() + dropped;
        if taken != given {
            self.violate(now, None, format!("s{}: {taken} frames in, {given} out", member + 1));
        }
    }

    /// Whose a connection is; `None`: nobody's, or by chance two members'.
    pub fn owner(&self, flow: Flow, truth: Truth) -> Option<usize> {
        let answers = self.answers.get(&(flow, truth.iss))?;
        let mut owners = answers.iter().filter(|answer| Some(answer.isn) == truth.irs).map(|answer| answer.member);
        let owner = owners.next()?;
        owners.all(|other| other == owner).then_some(owner)
    }
}
