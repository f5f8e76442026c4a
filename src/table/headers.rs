//! The headers of a bucket of [`Handshakes`](super::Handshakes): one cache line, and what one look at all eight of them tells.
//!
//! A SYN's record is as likely in one slot as in another, so a branch on where it is would be mispredicted with every SYN.
//! There is none, and where the CPU has AVX2 all eight are looked at together.

use super::record::Header;
use crate::simd::{Line, Simd};
use crate::sync::{AtomicU64, Ordering};

/// Records of a bucket: their headers fill a cache line.
pub(super) const SLOTS: usize = 8;

/// Bits of a slot's number within its bucket.
const SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// The headers of a bucket's records: one cache line.
#[repr(C, align(64))]
#[derive(Default)]
pub(super) struct Headers(pub [AtomicU64; SLOTS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Headers>() == 64);

// SAFETY: asserted above; nothing but atomics. (Under loom, where it is not so, words are read one by one.)
#[allow(unsafe_code)]
unsafe impl Line for Headers {
    const WORDS: u32 = (1 << SLOTS) - 1;

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Headers {
    #[inline(always)]
    fn header(&self, slot: usize) -> Header {
        // Acquire: if a record is gone, what its remover saw is seen in the slots after it.
        Header::from_bits(self.0[slot].load(Ordering::Acquire))
    }

    /// The slots that have this tag, as bits: a first look, without a branch that depends on where they are.
    #[inline]
    pub fn candidates(&self, tag: u64) -> u32 {
        (0..SLOTS).fold(0, |set, slot| set | u32::from(self.header(slot).has_tag(tag)) << slot)
    }

    /// Which of them have the tag, and whose place a new record takes. Each is read once, in the order of slots.
    #[inline(always)]
    pub fn look(&self, tag: u64, now_ms: u32) -> Look {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        if std::is_x86_feature_detected!("avx2") {
            #[allow(unsafe_code)]
            // SAFETY: the CPU has AVX2.
            return unsafe { avx2::look(self, tag, now_ms) };
        }
        self.look_one_by_one(tag, now_ms)
    }

    /// The same, by what this machine has.
    #[inline(always)]
    pub fn look_by<S: Simd>(&self, _: S, tag: u64, now_ms: u32) -> Look {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        if S::AVX2 {
            #[allow(unsafe_code)]
            // SAFETY: there is a token of such instructions only where the CPU has AVX2.
            return unsafe { avx2::look(self, tag, now_ms) };
        }
        self.look_one_by_one(tag, now_ms)
    }

    fn look_one_by_one(&self, tag: u64, now_ms: u32) -> Look {
        let mut look = Look { candidates: 0, most_ready: 0 };
        for slot in 0..SLOTS {
            let header = self.header(slot);
            look.candidates |= u32::from(header.has_tag(tag)) << slot;
            // Of the same readiness the earlier slot. What is being written is no victim, wherever it is.
            let rank = header.readiness(now_ms) << SLOT_BITS | (SLOTS - 1 - slot) as u32;
            look.most_ready = look.most_ready.max(if header.is_busy() { 0 } else { rank });
        }
        look
    }
}

/// What one look tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The slots that have the tag, as bits.
    pub candidates: u32,
    /// For each slot its [`Header::readiness`], shifted, and below it how far it is from the last slot: the greatest.
    most_ready: u32,
}

impl Look {
    /// The first slot that is free or out of date, else the oldest, and its [`Header::readiness`]; `None` if all are being
    /// written.
    #[inline]
    pub fn victim(self) -> Option<(usize, u32)> {
        let readiness = self.most_ready >> SLOT_BITS;
        (readiness != 0).then_some((self.likely_victim(), readiness))
    }

    /// The same slot, or any.
    #[inline]
    pub fn likely_victim(self) -> usize {
        SLOTS - 1 - self.most_ready as usize % SLOTS
    }
}

/// [`Headers::look`] in eight lanes: 32 bits of each header in one register, 32 in another. From registers: loads wider than
/// the stores before them would have to wait for those to leave the core.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[allow(unsafe_code, unused_unsafe)] // Instructions that not every CPU has; safe in such a function since Rust 1.87.
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_cvtsi128_si32, _mm_max_epu32, _mm_shuffle_epi32, _mm256_add_epi32, _mm256_and_si256,
        _mm256_andnot_si256, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmpeq_epi32,
        _mm256_extracti128_si256, _mm256_max_epu32, _mm256_min_epu32, _mm256_movemask_ps, _mm256_or_si256,
        _mm256_set_epi64x, _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_ps,
        _mm256_slli_epi32, _mm256_sub_epi32,
    };

    use super::super::record::{BUSY, LIFETIME_MS, SKEW_MS, STATE, TAG_MASK};
    use super::{Headers, Look, SLOT_BITS};

    /// # Safety
    /// The CPU has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn look(headers: &Headers, tag: u64, now_ms: u32) -> Look {
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|slot| headers.header(slot).bits() as i64);
        // SAFETY: the CPU has AVX2; nothing in here touches memory.
        unsafe {
            let all = |value: u32| _mm256_set1_epi32(value as i32);
            // Such that the shuffles below, which work within 128 bits, leave them in order.
            let one = _mm256_set_epi64x(f, e, b, a);
            let other = _mm256_set_epi64x(h, g, d, c);
            let (low, times) = (shuffle::<0b10_00_10_00>(one, other), shuffle::<0b11_01_11_01>(one, other));

            let tagged = _mm256_cmpeq_epi32(_mm256_and_si256(low, all(TAG_MASK as u32)), all(tag as u32));
            let candidates = _mm256_movemask_ps(_mm256_castsi256_ps(tagged)) as u32;

            // As `Header::readiness`: the maximum and the difference are a subtraction that stops at zero.
            let since = _mm256_sub_epi32(all(now_ms.wrapping_add(SKEW_MS)), times);
            let age = _mm256_sub_epi32(_mm256_max_epu32(since, all(SKEW_MS)), all(SKEW_MS));
            let age = _mm256_min_epu32(age, all(LIFETIME_MS + 1));
            let state = _mm256_and_si256(low, all(STATE as u32));
            let empty = _mm256_cmpeq_epi32(state, _mm256_setzero_si256());
            let age = _mm256_max_epu32(age, _mm256_and_si256(empty, all(LIFETIME_MS + 1)));
            let ready = _mm256_slli_epi32::<{ SLOT_BITS as i32 }>(_mm256_add_epi32(age, all(1)));
            let ranked = _mm256_or_si256(ready, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
            let busy = _mm256_cmpeq_epi32(state, all(BUSY as u32));
            let ranked = _mm256_andnot_si256(busy, ranked);

            let four = _mm_max_epu32(_mm256_castsi256_si128(ranked), _mm256_extracti128_si256::<1>(ranked));
            let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            let most = _mm_max_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
            Look { candidates, most_ready: _mm_cvtsi128_si32(most) as u32 }
        }
    }

    /// # Safety
    /// The CPU has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn shuffle<const PLACES: i32>(one: __m256i, other: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let (one, other) = (_mm256_castsi256_ps(one), _mm256_castsi256_ps(other));
            _mm256_castps_si256(_mm256_shuffle_ps::<PLACES>(one, other))
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::super::record::{LIFETIME_MS, SKEW_MS, TAG_MASK};
    use super::*;
    use crate::time::Time;

    /// The rules, one after the other: the first that is free or out of date, else the first of the oldest.
    fn plain(headers: &Headers, now: Time) -> Option<usize> {
        let mut oldest = None;
        for slot in 0..SLOTS {
            let header = headers.header(slot);
            let age = header.age(now).unwrap_or(u32::MAX);
            if !header.is_busy() && oldest.is_none_or(|(_, oldest)| age > oldest) {
                oldest = Some((slot, age));
            }
        }
        oldest.map(|(slot, _)| slot)
    }

    /// A header in any state that there is, last seen about when it matters.
    fn header() -> impl Strategy<Value = u64> {
        let around = |edge: u32| edge - 2..=edge + 2;
        let since = prop_oneof![
            0..4u32,
            around(LIFETIME_MS),
            around(1000),
            (0..3u32).prop_map(|more| 0u32.wrapping_sub(SKEW_MS).wrapping_add(more).wrapping_sub(1)),
            any::<u32>(),
        ];
        (0..7u64, 0..3u64, any::<u16>(), since).prop_map(|(state, tag, generation, since)| {
            state | tag << 4 | u64::from(generation) << 16 | u64::from(since) << 32
        })
    }

    proptest! {
        #[test]
        fn eight_at_once_are_as_one_by_one(
            since in proptest::array::uniform8(header()),
            tag in 0..3u64,
            now_ms in prop_oneof![0..100_000u64, (1u64 << 32) - 100_000..(1 << 32) + 100_000],
        ) {
            let now = Time::from_millis(now_ms);
            // They were made with the time since, and have the time at which.
            let header = |bits: u64| {
                let at = (now_ms as u32).wrapping_sub((bits >> 32) as u32);
                AtomicU64::new(bits & 0xffff_ffff | u64::from(at) << 32)
            };
            let headers = Headers(since.map(header));
            let tag = tag << 4 & TAG_MASK;
            let look = headers.look(tag, now_ms as u32);
            prop_assert_eq!(look, headers.look_one_by_one(tag, now_ms as u32));
            let victim = look.victim().map(|(slot, readiness)| {
                assert_eq!(readiness, headers.header(slot).readiness(now_ms as u32));
                slot
            });
            prop_assert_eq!(victim, plain(&headers, now));
            prop_assert_eq!(look.candidates, headers.candidates(tag));
            for slot in 0..SLOTS {
                prop_assert_eq!(look.candidates >> slot & 1 != 0, headers.header(slot).has_tag(tag));
            }
        }
    }
}
