//! The election's rule, as a function of what one member knows: does the assignment need a change, to what, and in
//! whose turn is it to say so?
//!
//! Only one member should propose, or two would answer the same need with the same term. So all rank themselves by the
//! same order; the first proposes at once, and each other one waits a heartbeat longer than the one before it, in case
//! those before it know better that they cannot.

use std::cmp::Ordering;

use crate::control::assignment::Assignment;
use crate::control::member::{MemberId, Name};

/// See [`Election::doubt`]; the second is for a heartbeat that was lost or late.
const DOUBT: u32 = 2;

/// How surely a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is us, or each hears the other.
    Direct,
    /// We do not hear each other, but a peer that we hear does.
    Reported,
    /// Neither.
    Absent,
}

/// What is known of one member with regard to one VIP.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub id: MemberId,
    /// None of a member that we never heard.
    pub name: Option<Name>,
    /// Infinite if unknown.
    pub metric: f64,
    pub presence: Presence,
    /// May be active: present, ready, settled, healthy, not drained, not leaving.
    pub eligible: bool,
    /// Not suspected.
    pub steady: bool,
    /// Accepts new connections now.
    pub serving: bool,
}

impl Standing {
    /// Of a member of which nothing is known.
    pub fn unknown(id: MemberId) -> Standing {
        Standing {
            id,
            name: None,
            metric: f64::INFINITY,
            presence: Presence::Absent,
            eligible: false,
            steady: false,
            serving: false,
        }
    }
}

/// What the assignment needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing, or nothing of us.
    Nothing,
    /// We should give it away, and there is nobody to take it.
    NoSuccessor,
    /// These actives.
    Change {
        actives: Vec<MemberId>,
        /// How many members are to propose it before us.
        turn: u32,
    },
}

/// The question, for one VIP.
pub(super) struct Election<'a> {
    pub me: MemberId,
    pub assignment: &'a Assignment,
    /// All members known, us included, in any order.
    pub roster: &'a [Standing],
    /// How many should be active.
    pub actives: usize,
    /// The VIP's place among all, by address: where metrics are equal, VIPs go to different members.
    pub ordinal: usize,
    /// The turn of an active that wants out and waits for the first active to replace it.
    pub patience: u32,
}

impl Election<'_> {
    /// Whether the assignment needs a change.
    pub fn need(&self) -> Need {
        let keepers = self.keepers();
        // Ranking all members is for those that are wanted.
        let fresh = if keepers.len() < self.actives { self.fresh(&keepers) } else { Vec::new() };
        let mut desired: Vec<MemberId> = keepers.iter().copied().take(self.actives).collect();
        desired.extend(fresh.iter().take(self.actives - desired.len()).map(|standing| standing.id));
        if desired.is_empty() {
            return self.nobody();
        }
        if desired == self.assignment.actives {
            return Need::Nothing;
        }
        let turn = match keepers.first() {
            Some(&first) if first == self.me => Some(0),
            // While a member serves, only the first of them changes anything: members that differ in what they know or
            // in their configuration then do not undo each other's changes.
            Some(_) if self.assignment.rank(self.me).is_some() && !self.standing(self.me).eligible => {
                Some(self.patience)
            }
            Some(_) => None,
            None => self.turn(&fresh),
        };
        turn.map_or(Need::Nothing, |turn| Need::Change { actives: desired, turn: turn + self.doubt() })
    }

    /// Turns to wait where all others that live are suspected: we may be the one that does not hear. Others obey us as long as we
    /// echo them, and those that we heard last we take for dead up to a heartbeat later than the first.
    fn doubt(&self) -> u32 {
        let mut others = self.roster.iter().filter(|s| s.id != self.me && s.presence == Presence::Direct).peekable();
        if others.peek().is_some() && others.all(|standing| !standing.steady) { DOUBT } else { 0 }
    }

    /// Actives that stay: one that we do not hear but a peer does is believed to be fit.
    pub fn keepers(&self) -> Vec<MemberId> {
        let stays = |&&id: &&MemberId| {
            self.find(id).is_some_and(|standing| match standing.presence {
                Presence::Direct => standing.eligible,
                Presence::Reported => true,
                Presence::Absent => false,
            })
        };
        self.assignment.actives.iter().filter(stays).copied().collect()
    }

    /// Who could be made active, the best first.
    pub fn fresh(&self, keepers: &[MemberId]) -> Vec<&Standing> {
        let mut fresh: Vec<&Standing> = self
            .roster
            .iter()
            .filter(|standing| standing.presence == Presence::Direct && standing.eligible && standing.steady)
            .collect();
        // Equal metrics: the n-th VIP prefers the n-th member, so that VIPs spread.
        fresh.sort_by_key(|standing| standing.name);
        if !fresh.is_empty() {
            let places = fresh.len();
            fresh.rotate_left(self.ordinal % places);
        }
        fresh.sort_by(|a, b| compare_metrics(a.metric, b.metric));
        fresh.retain(|standing| !keepers.contains(&standing.id));
        fresh
    }

    /// The active with the worst metric and its rank; of equals the last.
    pub fn worst(&self) -> Option<(usize, f64)> {
        let metrics = self.assignment.actives.iter().map(|&id| self.find(id).map_or(f64::INFINITY, |s| s.metric));
        metrics.enumerate().max_by(|a, b| compare_metrics(a.1, b.1))
    }

    /// Nobody is fit to be active. Then whoever serves goes on serving: better one that is drained or fails its probes
    /// than none.
    fn nobody(&self) -> Need {
        let me = self.standing(self.me);
        if !me.serving {
            return Need::Nothing;
        }
        if self.assignment.actives.iter().all(|&id| self.presence(id) == Presence::Absent) {
            return Need::Change { actives: vec![self.me], turn: 0 };
        }
        Need::NoSuccessor
    }

    /// How many propose before us where no active stays. An active that serves and is not fit to goes first: it knows
    /// best, and it waits for its successor. Then those that may become active, the best first.
    fn turn(&self, fresh: &[&Standing]) -> Option<u32> {
        let outgoing = self.assignment.actives.iter().copied().filter(|&id| {
            self.find(id).is_some_and(|standing| standing.presence == Presence::Direct && standing.serving)
        });
        let order = outgoing.chain(fresh.iter().map(|standing| standing.id));
        order.enumerate().find(|&(_, id)| id == self.me).map(|(turn, _)| turn as u32)
    }

    fn find(&self, id: MemberId) -> Option<&Standing> {
        self.roster.iter().find(|standing| standing.id == id)
    }

    fn presence(&self, id: MemberId) -> Presence {
        self.find(id).map_or(Presence::Absent, |standing| standing.presence)
    }

    fn standing(&self, id: MemberId) -> Standing {
        self.find(id).cloned().unwrap_or_else(|| Standing::unknown(id))
    }
}

/// The lower metric first; unknown ones last.
fn compare_metrics(a: f64, b: f64) -> Ordering {
    comparable(a).total_cmp(&comparable(b))
}

/// Infinite if unknown; -0 and 0 are one.
pub(super) fn comparable(metric: f64) -> f64 {
    if metric.is_finite() { metric + 0.0 } else { f64::INFINITY }
}

/// Whether `challenger` is better than `incumbent` by more than `margin` of it.
pub(super) fn is_better(challenger: f64, incumbent: f64, margin: f64) -> bool {
    let (challenger, incumbent) = (comparable(challenger), comparable(incumbent));
    // Infinite minus infinite is not greater than anything.
    incumbent - challenger > if incumbent.is_finite() { margin * incumbent.abs() } else { 0.0 }
}
