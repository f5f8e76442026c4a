//! A bucket of [`Established`](super::Established): one cache line, the unit that a look-up reads.

use super::entry::Word;
use super::hash::Hash;
use crate::simd::Line;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Slots of a bucket: as many as fit a cache line.
pub(super) const SLOTS: usize = 5;

/// Five slots and what is known of the entries that did not fit: one cache line.
///
/// A slot is a key ([`Tuple::key`](super::Tuple)) and a word ([`Word`]). `passed`: four counts of 8 bits; count `c` says how many
/// entries with `hash % 4 == c` have passed over this bucket, full when they came, to lie further on. A look-up goes on
/// to the next bucket only where its count is not zero, so one line mostly settles also a miss, whatever came and went.
#[repr(C, align(64))]
#[derive(Default)]
pub(super) struct Bucket {
    pub keys: [AtomicU64; SLOTS],
    pub words: [AtomicU32; SLOTS],
    pub passed: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

// SAFETY: asserted above; the keys come first. (Under loom, where it is not so, words are read one by one.)
#[allow(unsafe_code)]
unsafe impl Line for Bucket {
    const WORDS: u32 = (1 << SLOTS) - 1;

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        &self.keys
    }
}

impl Bucket {
    /// The slots that have this key, as bits: a first look, without a branch that depends on where it is.
    #[inline]
    pub fn candidates(&self, key: u64) -> u32 {
        let mut candidates = 0;
        for (slot, other) in self.keys.iter().enumerate() {
            // Acquire: if the slot has changed hands, what its last owner's remover saw is seen in the slots after it.
            candidates |= u32::from(other.load(Ordering::Acquire) == key) << slot;
        }
        candidates
    }

    /// A slot's key and word, if it holds an entry, and both of the same.
    #[inline]
    pub fn read(&self, slot: usize) -> Option<(u64, Word)> {
        // Acquire: the key is of this word's entry, or of one that came later.
        let mut word = Word::from_bits(self.words[slot].load(Ordering::Acquire));
        while word.is_live() {
            // Acquire: if it is of one that came later, the word below is no longer ours.
            let key = self.keys[slot].load(Ordering::Acquire);
            // Acquire: as above; and if the entry is gone because its remover saw another of the same tuple (see
            // `insert`), so do we.
            let again = Word::from_bits(self.words[slot].load(Ordering::Acquire));
            if word.same_entry(again) {
                return Some((key, word));
            }
            // Confirmed at this very moment, perhaps: once more.
            word = again;
        }
        None
    }

    /// Takes a free slot: its number and the word that it had.
    pub fn claim(&self) -> Option<(usize, Word)> {
        for (slot, word) in self.words.iter().enumerate() {
            let seen = Word::from_bits(word.load(Ordering::Relaxed));
            // Acquire: what its last owner did with the slot comes before what we do.
            if seen.is_empty()
                && word.compare_exchange(seen.bits(), seen.busy().bits(), Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Some((slot, seen));
            }
        }
        None
    }

    /// Whether entries of this hash's class lie further on.
    #[inline]
    pub fn is_passed(&self, hash: Hash) -> bool {
        self.passed_bits(hash) != 0
    }

    /// How many they are.
    #[inline]
    fn passed_bits(&self, hash: Hash) -> u32 {
        // Relaxed: what was entered before this look-up began was counted before it too.
        self.passed.load(Ordering::Relaxed) >> class_shift(hash) & 0xff
    }

    /// The sum of the counts.
    #[cfg(test)]
    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed).to_le_bytes().map(usize::from).iter().sum()
    }

    /// Counts one more; false at the most that the count can say.
    pub fn note_passing(&self, hash: Hash) -> bool {
        let shift = class_shift(hash);
        let more = |passed: u32| (passed >> shift & 0xff != 0xff).then(|| passed + (1 << shift));
        // Relaxed: the entry's own publication orders it.
        self.passed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one less.
    pub fn forget_passing(&self, hash: Hash) {
        // Never below zero: each was noted before.
        self.passed.fetch_sub(1 << class_shift(hash), Ordering::Relaxed);
    }
}

/// Where the count of a hash's class is: the lowest two bits of the hash, in bytes.
#[inline]
fn class_shift(hash: Hash) -> u32 {
    (hash.bits() & 3) as u32 * 8
}
