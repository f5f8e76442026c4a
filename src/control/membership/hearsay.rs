//! Whom a peer says it hears: of us, that it lives; of others, hearsay.
//!
//! It comes in as many parts as the peer's heartbeats have frames with echoes. Each replaces what was said before about the
//! members that it tells of, and nothing else; and each is as old as its own frame.

use std::time::Duration;

use crate::control::heartbeat::{Echo, Scope};
use crate::control::member::MemberId;

/// More parts than a heartbeat of the largest cluster has, newcomers included. Of more, the oldest is dropped: it says
/// nothing then.
const PARTS_MAX: usize = 8;

/// What a peer has said.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Hearsay {
    /// In the order in which they came.
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    scope: Scope,
    /// The frame's number.
    sequence: u64,
    at: Duration,
    /// Who lives, by its word.
    alive: Vec<MemberId>,
}

impl Hearsay {
    /// Takes in what a frame says, but for what a later one has said. Returns whom it calls alive and did not, or the other
    /// way round.
    pub fn take(&mut self, scope: Scope, echoes: &[Echo], sequence: u64, at: Duration) -> Vec<MemberId> {
        if self.parts.iter().any(|part| part.sequence > sequence && part.scope.covers(&scope)) || scope.is_none() {
            return Vec::new();
        }
        let told = |part: &Part, id| part.sequence > sequence && part.scope.contains(id);
        let alive = echoes.iter().filter(|echo| echo.alive).map(|echo| echo.id);
        let mut said = Vec::with_capacity(echoes.len());
        said.extend(alive.filter(|&id| !self.parts.iter().any(|part| told(part, id))));
        let mut before = Vec::new();
        for part in self.parts.iter_mut().filter(|part| part.sequence < sequence) {
            if scope.covers(&part.scope) {
                before.append(&mut part.alive);
            } else {
                before.extend(part.alive.extract_if(.., |id| scope.contains(*id)));
            }
            part.scope = part.scope.without(&scope);
        }
        self.parts.retain(|part| !part.scope.is_none());
        if self.parts.len() == PARTS_MAX {
            self.parts.remove(0);
        }
        let mut turned = Vec::new();
        if before != said {
            turned.extend(before.iter().filter(|id| !said.contains(id)));
            turned.extend(said.iter().filter(|id| !before.contains(id)));
        }
        self.parts.push(Part { scope, sequence, at, alive: said });
        turned
    }

    /// Whether it has said since then that this member lives.
    pub fn says_alive(&self, id: MemberId, since: Duration) -> bool {
        self.parts.iter().any(|part| part.at >= since && part.alive.contains(&id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const AT: Duration = Duration::from_secs(1);

    fn echo(id: u64) -> Echo {
        Echo { id: MemberId(id), nonce: id, challenge: 0, alive: true }
    }

    fn scope(first: u64, last: u64) -> Scope {
        Scope { first: MemberId(first), last: MemberId(last) }
    }

    #[test]
    fn what_is_not_told_of_stays_and_ages() {
        let mut hearsay = Hearsay::default();
        assert_eq!(hearsay.take(scope(0, 9), &[echo(3)], 1, AT), [MemberId(3)]);
        assert_eq!(hearsay.take(scope(10, u64::MAX), &[echo(12), echo(13)], 2, AT), [MemberId(12), MemberId(13)]);
        assert_eq!(hearsay.take(scope(0, 9), &[echo(3)], 3, 2 * AT), [], "nothing new");
        assert!(hearsay.says_alive(MemberId(12), AT) && !hearsay.says_alive(MemberId(12), 2 * AT));
        assert!(hearsay.says_alive(MemberId(3), 2 * AT));
        assert_eq!(hearsay.take(Scope::NONE, &[], 4, 3 * AT), []);
        // The cut is elsewhere now: what the first part says of 12 is not what the second says of 13.
        assert_eq!(hearsay.take(scope(0, 12), &[echo(3)], 5, 3 * AT), [MemberId(12)]);
        assert!(!hearsay.says_alive(MemberId(12), AT) && hearsay.says_alive(MemberId(13), AT));
        assert_eq!(hearsay.take(Scope::ALL, &[], 6, 3 * AT), [MemberId(13), MemberId(3)]);
        assert!(!(0..20).any(|id| hearsay.says_alive(MemberId(id), AT)));
        assert_eq!(hearsay.parts.len(), 1);
    }

    proptest! {
        /// In whatever order frames come, of each member holds what the latest frame that tells of it says.
        #[test]
        fn the_latest_frame_that_tells_of_a_member_counts(
            frames in vec((0u64..20, 0u64..20, vec(0u64..20, 0..10)), 1..PARTS_MAX), order in any::<u64>()) {
            let frame = |(a, b, ids): &(u64, u64, Vec<u64>)| {
                let mut ids: Vec<u64> = ids.iter().copied().filter(|id| (*a..=*b).contains(id)).collect();
                ids.sort();
                ids.dedup();
                (scope(*a, *b), ids)
            };
            let frames: Vec<_> = frames.iter().map(frame).collect();
            let mut numbers: Vec<u64> = (1..=frames.len() as u64).collect();
            numbers.sort_by_key(|number| (number.wrapping_mul(order | 1)).rotate_left(17) ^ order);
            let mut hearsay = Hearsay::default();
            for &number in &numbers {
                let (scope, ids) = &frames[number as usize - 1];
                let echoes: Vec<Echo> = ids.iter().copied().map(echo).collect();
                hearsay.take(*scope, &echoes, number, AT);
            }
            for id in 0..20 {
                let latest = frames.iter().rev().find(|(scope, _)| scope.contains(MemberId(id)));
                let expected = latest.is_some_and(|(_, ids)| ids.contains(&id));
                prop_assert_eq!(hearsay.says_alive(MemberId(id), AT), expected, "{}", id);
            }
        }
    }
}
