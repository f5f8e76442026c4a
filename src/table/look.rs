//! A first look at the buckets of eight tuples: of each some words are read, and what follows from them is worked out for all
//! eight together. Without a branch, so a mix of hits and misses mispredicts nothing.

use super::bucket::{Bucket, SLOTS};
use super::entry::{Entry, Word};
use super::hash::Hash;
use super::tuple::VipIndex;
use crate::port::BURST;
use crate::simd::{LANES, Simd};
use crate::sync::Ordering;

/// Of so many places all is kept that was read: of the group that is judged, and of the one that is read meanwhile. The fewer,
/// the more of the fastest cache is left to others.
const READS: usize = 2 * LANES;

/// What the looks of a burst have read, by the places of its tuples. Words of the same kind lie beside each other, as instructions
/// that work on several at a time want them; few words, as what is written waits in a CPU that waits for memory, and has little room
/// to wait in.
#[derive(Clone)]
pub struct Entries {
    /// The slot that may be the tuple's.
    slots: [u32; BURST],
    /// Its word, and the same word once more, after the key, from bit 32 on.
    words: [u64; BURST],
    /// Of the last [`READS`] places: `Bucket::passed`; from bit 32 on which of the bucket's first slots have the key; at bit
    /// [`DIFFERENT`] whether the slot's key is not the tuple's.
    others: [u64; READS],
}

const CANDIDATES: i32 = 32;
const DIFFERENT: i32 = 63;

impl Default for Entries {
    fn default() -> Entries {
        Entries { slots: [0; BURST], words: [0; BURST], others: [0; READS] }
    }
}

impl Entries {
    /// The entry at a place below [`BURST`], where one was found.
    #[inline(always)]
    pub fn get(&self, place: usize) -> Entry {
        Entry { slot: self.slots[place], word: Word::from_bits(self.words[place] as u32) }
    }
}

/// What follows, as bits.
pub(super) struct Looks {
    /// The tuple's entry is here.
    pub here: u64,
    /// It is live, no SYN was seen, and a segment was on this tick.
    pub fresh: u64,
    /// It is not here, and may be elsewhere, or the slot is changing. A proper look will tell.
    pub elsewhere: u64,
}

impl Entries {
    /// Reads what bucket number `number` has of the key of the tuple at a place below [`BURST`].
    #[inline(always)]
    pub(super) fn read<S: Simd>(&mut self, simd: S, place: usize, (number, bucket): (usize, &Bucket), key: u64) {
        const { assert!(SLOTS == 5) };
        let candidates = simd.equal_of_first_four(bucket, key);
        // With none of the first four, the last.
        let slot = (candidates | 1 << 4).trailing_zeros() as usize;
        // In this order, and Acquire, as in `Bucket::read`.
        let word = bucket.words[slot].load(Ordering::Acquire);
        let different = bucket.keys[slot].load(Ordering::Acquire) != key;
        let again = bucket.words[slot].load(Ordering::Acquire);
        // Relaxed: what was entered before this look began was counted before it too.
        let passed = bucket.passed.load(Ordering::Relaxed);
        self.slots[place] = (number * SLOTS + slot) as u32;
        self.words[place] = u64::from(again) << 32 | u64::from(word);
        self.others[place % READS] =
            u64::from(different) << DIFFERENT | u64::from(candidates) << CANDIDATES | u64::from(passed);
    }

    /// What follows from what was read of the group from `first` on, for tuples of these VIPs and hashes.
    #[inline(always)]
    pub(super) fn judge<S: Simd>(
        &self,
        simd: S,
        first: usize,
        vips: &[VipIndex; LANES],
        hashes: &[Hash; LANES],
        ticks: Word,
    ) -> Looks {
        let both = simd.load(self.words[first..].first_chunk().unwrap_or(&[0; LANES]));
        let others = simd.load(self.others[first % READS..].first_chunk().unwrap_or(&[0; LANES]));
        let half = simd.splat(0xffff_ffff);
        let words = simd.and(both, half);
        let different = simd.shr::<DIFFERENT>(others);
        let of_vip = simd.or(simd.shl::<{ Word::VIP_SHIFT }>(simd.widen(vips)), simd.splat(Word::LIVE));
        let other_vip = simd.and(simd.xor(words, of_vip), simd.splat(Word::LIVE | Word::VIP));
        let changed = simd.and(simd.xor(both, simd.shr::<32>(both)), simd.splat(Word::LIVE | Word::GENERATION));
        let here = simd.zeros(simd.or(different, simd.or(other_vip, changed)));

        let not_fresh = simd.and(simd.xor(words, simd.splat(ticks.fresh())), simd.splat(Word::FRESH));
        let fresh = simd.zeros(not_fresh) & here;

        // The count of the hash's class (`Bucket::passed`): the lowest two bits of the hash, in bytes.
        let class = simd.and(simd.load(&hashes.map(Hash::bits)), simd.splat(3));
        let passed = simd.and(simd.shr_each(others, simd.shl::<3>(class)), simd.splat(0xff));
        let candidates = simd.and(simd.shr::<CANDIDATES>(others), simd.splat(0xf));
        let nowhere = simd.zeros(simd.or(passed, candidates)) & !simd.zeros(different);
        Looks { here, fresh, elsewhere: !(nowhere | here) & 0xff }
    }
}
