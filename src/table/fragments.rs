//! Which packets' first fragments went to the host, so that their later fragments follow.
//!
//! One atomic word per slot, overwritten by whatever comes later: a packet whose word is lost is lost, as any fragment
//! may be. Fragments are rare, so a small table does; a flood of them costs the fragments alone.

use std::hash::{BuildHasher, RandomState};

use crate::classify::FragmentId;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;

/// Words in the table.
const SLOTS: usize = 4096;

/// For how long later fragments may follow, in milliseconds: Linux waits 30 s for all of them
/// (`net.ipv4.ipfrag_time`), and a sender sends them in a row.
const LIFETIME_MS: u64 = 30_000;

/// Bits of a word that hold the time in milliseconds, the lowest; the others hold the hash.
const TIME_BITS: u32 = 24;

/// The table. A word is hash 40 | time in ms 24 (wraps after 4.6 hours; a slot untouched for exactly that long may
/// then pass a fragment that its host throws away).
#[derive(Debug)]
pub struct Fragments {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Fragments {
    fn default() -> Self {
        Fragments::new()
    }
}

impl Fragments {
    /// An empty table.
    pub fn new() -> Fragments {
        Fragments { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }

    fn slot(&self, id: &FragmentId) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(id);
        (&self.slots[hash as usize % SLOTS], hash >> TIME_BITS << TIME_BITS)
    }

    /// Lets the later fragments of this packet pass.
    pub fn pass(&self, id: &FragmentId, now: Time) {
        let (slot, hash) = self.slot(id);
        // Relaxed: the word is all there is; nothing is published by it.
        slot.store(hash | now.as_millis() & ((1 << TIME_BITS) - 1), Ordering::Relaxed);
    }

    /// Whether the first fragment of this packet went to the host.
    pub fn passed(&self, id: &FragmentId, now: Time) -> bool {
        let (slot, hash) = self.slot(id);
        let word = slot.load(Ordering::Relaxed);
        let mask = (1 << TIME_BITS) - 1;
        word & !mask == hash && now.as_millis().wrapping_sub(word) & mask <= LIFETIME_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_fragments_follow_for_a_while() {
        let fragments = Fragments::new();
        let id = FragmentId { client: [10, 0, 0, 1].into(), vip: 0, protocol: 6, identification: 7 };
        let other = FragmentId { identification: 8, ..id };
        let now = Time::from_millis(1_000_000);
        assert!(!fragments.passed(&id, now));
        fragments.pass(&id, now);
        assert!(fragments.passed(&id, now) && !fragments.passed(&other, now));
        assert!(fragments.passed(&id, Time::from_millis(1_030_000)));
        assert!(!fragments.passed(&id, Time::from_millis(1_030_001)));
    }
}
