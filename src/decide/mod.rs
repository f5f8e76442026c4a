//! (frame, entry, role, now) → verdict: the ownership rule, and what surrounds it.
//!
//! *A connection belongs to the member whose SYN-ACK the client acknowledged.* The client's answer reaches every
//! member, because the switch floods it; so each of them decides alone, from what its own host has answered, and all
//! come to the same end. [`wire`] decides what comes from the switch, [`host`] what the own host wants to send,
//! `orphan` looks after clients of nobody here.
//!
//! Nothing here reads a clock or touches a port. The tables are the only state; what else a verdict asks for
//! ([`Verdict::EndSocket`], rewriting a frame) the worker carries out.

pub mod host;
mod orphan;
pub mod wire;

use std::sync::Arc;

use crate::classify::Facts;
use crate::frame::tcp::{Checksum, Segment};
use crate::orphans::{Recent, Suspicions};
use crate::shared::Shared;
use crate::table::{Established, Fragments, HalfOpen, Handshakes};
use crate::time::Time;
use crate::verdict::{DropReason, Verdict};

/// What the workers of a member share.
pub struct Member {
    /// What is known of this member.
    pub facts: Facts,
    /// Roles and queues.
    pub shared: Arc<Shared>,
    /// Confirmed connections.
    pub established: Established,
    /// Pending ones, and SYNs seen.
    pub handshakes: Handshakes,
    /// Handshakes that were under way when baton started.
    pub half_open: HalfOpen,
    /// Verdicts on the first fragments of packets.
    pub fragments: Fragments,
    /// Clients of nobody here that repeat themselves.
    pub suspicions: Suspicions,
}

impl Member {
    /// What decisions of a burst at `now` are made with.
    #[inline(always)]
    pub fn decider(&self, catching_up: bool, now: Time) -> Decider<'_> {
        Decider { member: self, catching_up, outdated: false, host_busy: false, recent: None, now }
    }
}

/// What decisions are made with.
#[derive(Clone, Copy)]
pub struct Decider<'a> {
    /// Whose they are.
    pub member: &'a Member,
    /// This burst has waited while the worker did not run for long: whoever was awake has answered what asks the active.
    pub catching_up: bool,
    /// The worker was away, and the control thread has not yet looked at what has been read since: another member may have
    /// become active, and the role does not say so.
    pub outdated: bool,
    /// The host has been handed as many SYNs as its queue has room for answers: it is to be heard before it gets more.
    pub host_busy: bool,
    /// What clients of nobody here have sent of late; a worker's own, so who decides elsewhere has none.
    pub recent: Option<&'a Recent>,
    /// The time of this burst.
    pub now: Time,
}

/// Whether `seq` is where a client that began at `isn` may be before anybody has answered its data: from `isn + 1` to
/// the largest window a SYN-ACK can offer, which is never scaled (RFC 7323, 2.2).
fn in_window(seq: u32, isn: u32) -> bool {
    seq.wrapping_sub(isn.wrapping_add(1)) <= u32::from(u16::MAX)
}

/// Why a segment that is to decide something must not: its checksum.
#[inline]
fn distrust(segment: &Segment<'_>) -> Option<Verdict> {
    match segment.checksum() {
        Checksum::Right => None,
        Checksum::Wrong => Some(Verdict::Drop(DropReason::BadChecksum)),
        Checksum::Unfinished => Some(Verdict::Drop(DropReason::UnfinishedChecksum)),
    }
}

/// The same for a segment that decides nothing: its host verifies the checksum, so only what the host would take for
/// corruption, though it is a setting of ours, is looked for.
#[inline]
fn is_unfinished(segment: &Segment<'_>) -> bool {
    segment.looks_unfinished() && segment.checksum() == Checksum::Unfinished
}
