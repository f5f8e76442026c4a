//! Who is active for a VIP: the one thing that members agree on.
//!
//! Each heartbeat carries its sender's assignment of every VIP, each member keeps the greatest it has heard, and all
//! order them alike. So whoever hears whom, members that hear each other hold the same one a message later.

use std::cmp::Ordering;

use crate::broken::{Rule, broken};
use crate::control::member::MemberId;

/// The most ranks of a VIP.
pub const RANKS_MAX: usize = 16;

/// Who is active for a VIP, by rank, and since which term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Grows with every change. 0: nobody was ever active.
    pub term: u64,
    /// Who proposed it.
    pub proposer: MemberId,
    /// The active members; a member's rank is its place. Nobody is in it twice.
    pub actives: Vec<MemberId>,
}

impl Assignment {
    /// The rank of a member, if it is active.
    pub fn rank(&self, member: MemberId) -> Option<u8> {
        self.actives.iter().position(|&active| active == member).map(|rank| rank as u8)
    }

    /// The assignment that `proposer` puts in this one's place.
    pub fn succeed(&self, proposer: MemberId, actives: Vec<MemberId>) -> Assignment {
        Assignment { term: self.term.saturating_add(1), proposer, actives }
    }
}

impl PartialOrd for Assignment {
    fn partial_cmp(&self, other: &Assignment) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The higher term is greater. Two members may propose the same term at the same time: then the higher proposer is
/// greater, which says nothing about who is better, only that all pick the same.
impl Ord for Assignment {
    fn cmp(&self, other: &Assignment) -> Ordering {
        if broken(Rule::Tie) {
            return self.term.cmp(&other.term);
        }
        (self.term, self.proposer, &self.actives).cmp(&(other.term, other.proposer, &other.actives))
    }
}
