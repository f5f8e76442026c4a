//! On any machine.

use super::{LANES, Line, RoundKeys, Simd};
use crate::sync::Ordering;

/// No instruction that some machine lacks.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

#[inline(always)]
fn both(a: [u64; LANES], b: [u64; LANES], of: impl Fn(u64, u64) -> u64) -> [u64; LANES] {
    std::array::from_fn(|lane| of(a[lane], b[lane]))
}

impl Simd for Portable {
    type Lanes = [u64; LANES];

    #[inline(always)]
    fn load(self, words: &[u64; LANES]) -> Self::Lanes {
        *words
    }

    #[inline(always)]
    fn store(self, lanes: Self::Lanes, words: &mut [u64; LANES]) {
        *words = lanes;
    }

    #[inline(always)]
    fn widen(self, bytes: &[u8; LANES]) -> Self::Lanes {
        bytes.map(u64::from)
    }

    #[inline(always)]
    fn splat(self, word: u64) -> Self::Lanes {
        [word; LANES]
    }

    #[inline(always)]
    fn and(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        both(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        both(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn xor(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        both(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn add(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        both(a, b, u64::wrapping_add)
    }

    #[inline(always)]
    fn sub(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        both(a, b, u64::wrapping_sub)
    }

    #[inline(always)]
    fn mul_low_halves(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|lane| (a[lane] & 0xffff_ffff) * (b[lane] & 0xffff_ffff))
    }

    #[inline(always)]
    fn keep(self, a: Self::Lanes, lanes: u64) -> Self::Lanes {
        std::array::from_fn(|lane| if lanes >> lane & 1 == 0 { 0 } else { a[lane] })
    }

    #[inline(always)]
    fn compress(self, a: Self::Lanes, lanes: u64, words: &mut [u64; LANES]) {
        let mut next = 0;
        for (lane, word) in a.into_iter().enumerate() {
            words[next % LANES] = word;
            next += (lanes >> lane & 1) as usize;
        }
    }

    #[inline(always)]
    fn rotate<const BY: i32, const REST: i32>(self, a: Self::Lanes) -> Self::Lanes {
        a.map(|word| word.rotate_left(BY as u32))
    }

    #[inline(always)]
    fn shl<const BY: i32>(self, a: Self::Lanes) -> Self::Lanes {
        a.map(|word| word << BY)
    }

    #[inline(always)]
    fn shr<const BY: i32>(self, a: Self::Lanes) -> Self::Lanes {
        a.map(|word| word >> BY)
    }

    #[inline(always)]
    fn shr_each(self, a: Self::Lanes, by: Self::Lanes) -> Self::Lanes {
        both(a, by, |word, by| word >> (by & 63))
    }

    #[inline(always)]
    fn swap_bytes_of_halves(self, a: Self::Lanes) -> Self::Lanes {
        a.map(|word| word.swap_bytes().rotate_left(32))
    }

    #[inline(always)]
    fn contained(self, set: &[u64; 16], numbers: Self::Lanes) -> u64 {
        let bit = |number: u64| set[(number >> 6) as usize % 16] >> (number % 64) & 1;
        numbers.iter().rev().fold(0, |found, number| found << 1 | bit(*number))
    }

    #[inline(always)]
    fn encrypt(self, [low, high]: [Self::Lanes; 2], keys: &RoundKeys) -> Self::Lanes {
        both(low, high, |low, high| RoundKeys::encrypt([low, high], keys))
    }

    #[inline(always)]
    fn zeros(self, a: Self::Lanes) -> u64 {
        a.iter().enumerate().fold(0, |zeros, (lane, word)| zeros | u64::from(*word == 0) << lane)
    }

    #[inline(always)]
    fn equal<L: Line>(self, line: &L, mask: u64, value: u64) -> u32 {
        let equal = |word: u64| u32::from(word & mask == value);
        // Acquire: see `Line`.
        line.words().iter().enumerate().fold(0, |set, (at, word)| set | equal(word.load(Ordering::Acquire)) << at)
    }

    #[inline(always)]
    fn equal_of_first_four<L: Line>(self, line: &L, value: u64) -> u32 {
        self.equal(line, u64::MAX, value) & 0xf
    }
}
