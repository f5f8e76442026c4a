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
/// that work on several at a time want them.
#[derive(Clone)]
pub struct Entries {
    /// The slot that may be the tuple's, and its word.
    slots: [u32; BURST],
    words: [u64; BURST],
    /// Of the last [`READS`] places: zero where the slot's key is the tuple's.
    differences: [u64; READS],
    /// The words once more, after the keys.
    agains: [u64; READS],
    /// Not zero if one of the bucket's first slots has the key.
    candidates: [u64; READS],
    /// `Bucket::passed`.
    passed: [u64; READS],
}

impl Default for Entries {
    fn default() -> Entries {
        let none = [0; READS];
        Entries {
            slots: [0; BURST],
            words: [0; BURST],
            differences: none,
            agains: none,
            candidates: none,
            passed: none,
        }
    }
}

impl Entries {
    /// The entry at a place below [`BURST`], where one was found.
    #[inline(always)]
    pub fn get(&self, place: usize) -> Entry {
        Entry { slot: self.slots[place], word: Word::from_bits(self.words[place] as u32) }
    }

    #[inline(always)]
    pub(super) fn set(&mut self, place: usize, entry: Entry) {
        self.slots[place] = entry.slot;
        self.words[place] = entry.word.bits().into();
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
        self.differences[place % READS] = bucket.keys[slot].load(Ordering::Acquire) ^ key;
        self.agains[place % READS] = bucket.words[slot].load(Ordering::Acquire).into();
        self.candidates[place % READS] = candidates.into();
        // Relaxed: what was entered before this look began was counted before it too.
        self.passed[place % READS] = bucket.passed.load(Ordering::Relaxed).into();
        self.set(place, Entry { slot: (number * SLOTS + slot) as u32, word: Word::from_bits(word) });
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
        let words = simd.load(self.words[first..].first_chunk().unwrap_or(&[0; LANES]));
        let (agains, differences) = (lanes(simd, &self.agains, first), lanes(simd, &self.differences, first));
        let of_vip = simd.or(simd.shl::<{ Word::VIP_SHIFT }>(simd.widen(vips)), simd.splat(Word::LIVE));
        let other_vip = simd.and(simd.xor(words, of_vip), simd.splat(Word::LIVE | Word::VIP));
        let changed = simd.and(simd.xor(words, agains), simd.splat(Word::LIVE | Word::GENERATION));
        let here = simd.zeros(simd.or(differences, simd.or(other_vip, changed)));

        let not_fresh = simd.and(simd.xor(words, simd.splat(ticks.fresh())), simd.splat(Word::FRESH));
        let fresh = simd.zeros(not_fresh) & here;

        // The count of the hash's class (`Bucket::passed`): the lowest two bits of the hash, in bytes.
        let class = simd.and(simd.load(&hashes.map(Hash::bits)), simd.splat(3));
        let passed = simd.shr_each(lanes(simd, &self.passed, first), simd.shl::<3>(class));
        let elsewhere = simd.or(simd.and(passed, simd.splat(0xff)), lanes(simd, &self.candidates, first));
        let nowhere = simd.zeros(elsewhere) & !simd.zeros(differences);
        Looks { here, fresh, elsewhere: !(nowhere | here) & 0xff }
    }
}

/// The words of a group.
#[inline(always)]
fn lanes<S: Simd>(simd: S, words: &[u64; READS], first: usize) -> S::Lanes {
    simd.load(words[first % READS..].first_chunk().unwrap_or(&[0; LANES]))
}
