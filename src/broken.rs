//! Rules that can be broken on purpose, to prove that the simulator notices.
//!
//! Only with the feature `breakable`, for a thread at a time. Without it [`broken`] is the constant `false`, and what it
//! guards is not in the binary.

use crate::named::named;

named! {
    /// A rule.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Rule;
    /// What `baton sim --break` calls it.
    name;

    /// A handshake is confirmed only by an acknowledgment of our SYN-ACK.
    Ownership = "ownership",
    /// What the host says of no connection of ours does not leave.
    Egress = "egress",
    /// A loser's later SYN-ACKs do not leave.
    LostStaysLost = "lost-stays-lost",
    /// A loser's half-open socket is cleared.
    HalfOpenCleared = "half-open-cleared",
    /// A SYN-ACK is recorded before it is sent.
    AnswerRecorded = "answer-recorded",
    /// So is each further one that differs.
    AnswersRecorded = "answers-recorded",
    /// A SYN never alters an established entry.
    SynAltersNothing = "syn-alters-nothing",
    /// A passive hands no SYN to its host.
    PassiveDrops = "passive-drops",
    /// A passive remembers SYNs.
    PassiveRemembers = "passive-remembers",
    /// A SYN that was kept goes to the host only if nobody has answered it.
    ReplayAsks = "replay-asks",
    /// The client of a member that lives is not reset.
    OwnersAsked = "owners-asked",
    /// A refusal is held where another member may accept.
    RefusalHeld = "refusal-held",
    /// A socket whose tuple is another member's ends.
    SocketEnds = "socket-ends",
    /// An entry ends with its socket.
    EntryEnds = "entry-ends",
    /// An entry is looked at when its host has sent a RST.
    ResetNoticed = "reset-noticed",
    /// The table is rebuilt at the start.
    Rebuild = "rebuild",
    /// Frames leave with our own MAC.
    OwnSource = "own-source",
    /// Of two assignments of one term all members keep the same.
    Tie = "tie",
    /// The predecessor stays until the successor serves.
    MakeBeforeBreak = "make-before-break",
}

/// Whether this rule is broken.
#[cfg(not(feature = "breakable"))]
#[inline(always)]
pub const fn broken(_: Rule) -> bool {
    false
}

#[cfg(feature = "breakable")]
mod switch {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Whether this rule is broken on this thread.
    pub fn broken(rule: Rule) -> bool {
        BROKEN.get() == Some(rule)
    }

    /// Breaks a rule on this thread, or none any more.
    pub fn break_rule(rule: Option<Rule>) {
        BROKEN.set(rule);
    }
}

#[cfg(feature = "breakable")]
pub use switch::{break_rule, broken};
