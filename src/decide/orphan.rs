//! Whose clients are orphans, as far as the tables of one member can tell. `docs/orphans.md` tells the whole.

use super::{Decider, distrust};
use crate::frame::tcp::Segment;
use crate::orphans::Suspicion;
use crate::table::{Hash, Record, Stage, Tuple};
use crate::verdict::{DropReason, Verdict};

impl Decider<'_> {
    /// A segment of nobody here, to be dropped for this reason: does its client repeat itself in vain? Passives look
    /// too, so that the next primary knows what was sent before it became it; the primary alone tells. The checksum is
    /// verified before that: no host will.
    #[inline]
    pub(super) fn suspect(&self, tuple: &Tuple, hash: Hash, segment: &Segment<'_>, reason: DropReason) -> Verdict {
        let of_nobody = matches!(reason, DropReason::NoConnection | DropReason::LostRace);
        if !of_nobody || !self.member.facts.vips[usize::from(tuple.vip)].orphans {
            return Verdict::Drop(reason);
        }
        let observed =
            self.recent.and_then(|recent| self.member.suspicions.observe(recent, tuple, hash, segment, self.now));
        match observed {
            Some(suspicion) if self.member.shared.role(tuple.vip).primary() && distrust(segment).is_none() => {
                Verdict::Suspect(suspicion.end, reason)
            }
            _ => Verdict::Drop(reason),
        }
    }

    /// Whether a connection of this tuple is, or may become, this member's, as far as its tables tell.
    pub fn may_hold(&self, tuple: &Tuple) -> bool {
        let hash = self.member.established.hash(tuple);
        let admitted = |record: &Record| record.stage == Stage::Admitted;
        self.member.established.find(tuple, hash).is_some()
            || self.member.handshakes.find(tuple, hash, self.now).iter().any(admitted)
    }

    /// Whether a client that the members have found to be an orphan still is one: it goes on as it did, no connection
    /// of its tuple is or may become ours, and it has not begun anew.
    pub fn is_orphan(&self, suspicion: &Suspicion) -> bool {
        let tuple = &suspicion.tuple;
        let hash = self.member.established.hash(tuple);
        let Some(silent) = self.member.suspicions.still(suspicion, hash, self.now) else { return false };
        self.member.shared.role(tuple.vip).primary()
            && !self.may_hold(tuple)
            && self.member.handshakes.find(tuple, hash, self.now).iter().all(|record| record.age > silent)
    }
}
