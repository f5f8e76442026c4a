//! The invariants of DESIGN, checked at every frame that a member receives or sends.
//!
//! The checker knows what no member can know: which sequence numbers a client's connection really has, and so which
//! member's SYN-ACK it took, its **owner**. A member **was told** of a connection once it has received both its SYN and
//! a segment at the SYN's sequence number + 1 that acknowledges the owner's SYN-ACK; from then on, a member that is not
//! the owner must not be heard.

use std::collections::BTreeMap;

use super::segment::Flow;
use super::trace::Glance;
use crate::counters::Counters;
use crate::frame::Mac;
use crate::time::Time;
use crate::verdict::DropReason;

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
type Members = u32;

/// The checker.
#[derive(Debug, Default)]
pub struct Checks {
    virtual_macs: Vec<Mac>,
    /// Who sent a SYN-ACK with which sequence number, by flow and client's ISN.
    answers: BTreeMap<(Flow, u32), Vec<(usize, u32)>>,
    /// Who received a SYN.
    saw_syn: BTreeMap<(Flow, u32), Members>,
    /// Who was told, by flow, client's and server's ISN.
    told: BTreeMap<(Flow, u32, u32), Members>,
    /// What went wrong.
    pub violations: Vec<Violation>,
    /// What else was seen.
    pub seen: Seen,
    /// Whether the client that is sent to has nobody at the other end of its connection any more: a RST is right then.
    pub abandoned: bool,
    /// Whether every SYN is to be answered by one member at most: with k = 1, no fault and no handover under way.
    pub exclusive: bool,
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
                *self.saw_syn.entry((flow, glance.seq)).or_default() |= bit;
            }
            return;
        }
        let iss = glance.seq.wrapping_sub(1);
        let saw_syn = self.saw_syn.get(&(flow, iss)).is_some_and(|members| members & bit != 0);
        if glance.flags.ack() && !glance.flags.rst() && saw_syn {
            *self.told.entry((flow, iss, glance.ack.wrapping_sub(1))).or_default() |= bit;
        }
    }

    /// A member sends a frame. `truth` is what the client has of the connection, if there is one.
    pub fn sent(&mut self, member: usize, frame: &[u8], glance: Option<(&Glance, Option<Truth>)>, now: Time) {
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
            None => self.sent_to_syn_sent(member, flow, glance, truth, now),
            Some(irs) => self.sent_to_connection(member, flow, glance, truth.iss, irs, now),
        }
    }

    fn answered(&mut self, member: usize, flow: Flow, glance: &Glance, now: Time) {
        let answers = self.answers.entry((flow, glance.ack.wrapping_sub(1))).or_default();
        let others = answers.iter().any(|(other, _)| *other != member);
        let first = !answers.iter().any(|(other, _)| *other == member);
        answers.push((member, glance.seq));
        if first && others {
            self.seen.answered_twice += 1;
            if self.exclusive {
                self.violate(now, Some(flow), format!("s{} answered a SYN that another member answered", member + 1));
            }
        }
    }

    /// A RST to a client that waits for a SYN-ACK ends its attempt: no other member may have accepted it.
    fn sent_to_syn_sent(&mut self, member: usize, flow: Flow, glance: &Glance, truth: Truth, now: Time) {
        if glance.flags.rst() && glance.flags.ack() && glance.ack == truth.iss.wrapping_add(1) {
            self.seen.refusals += 1;
            let accepted = self.answers.get(&(flow, truth.iss)).is_some_and(|answers| !answers.is_empty());
            if accepted {
                self.violate(now, Some(flow), format!("s{} refused a SYN that was accepted", member + 1));
            }
        } else if !glance.flags.syn() {
            self.seen.old_segments += 1;
        }
    }

    fn sent_to_connection(&mut self, member: usize, flow: Flow, glance: &Glance, iss: u32, irs: u32, now: Time) {
        let answers = self.answers.get(&(flow, iss)).map_or(&[][..], Vec::as_slice);
        let mut owners: Vec<usize> = answers.iter().filter(|(_, isn)| *isn == irs).map(|(owner, _)| *owner).collect();
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
        if self.abandoned && glance.flags.rst() {
            self.seen.orphans += 1;
            return;
        }
        let told = self.told.get(&(flow, iss, irs)).is_some_and(|members| members & (1 << member) != 0);
        let (who, owner) = (member + 1, owners.first().map_or(0, |owner| owner + 1));
        // An old copy of an earlier SYN came late. Nobody can tell it from a new one; the client is not harmed.
        let to_old_syn = glance.flags.syn() && glance.ack != iss.wrapping_add(1);
        if to_old_syn {
            self.seen.old_segments += 1;
        } else if told {
            self.violate(now, Some(flow), format!("s{who} sent on a connection of s{owner}, of which it was told"));
        } else if glance.flags.rst() {
            self.violate(now, Some(flow), format!("s{who} sent a RST on a connection of s{owner}"));
        } else if glance.flags.syn() {
            self.seen.late_syn_acks += 1;
        } else {
            self.seen.old_segments += 1;
        }
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
        let mut owners = answers.iter().filter(|(_, isn)| Some(*isn) == truth.irs).map(|(owner, _)| *owner);
        let owner = owners.next()?;
        owners.all(|other| other == owner).then_some(owner)
    }
}
