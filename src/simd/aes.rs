//! AES-128 (FIPS 197) by the CPU's own instructions, of which the keyed hash is made.

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_aeskeygenassist_si128, _mm_cvtsi128_si64, _mm_set_epi64x,
    _mm_setzero_si128, _mm_shuffle_epi32, _mm_slli_si128, _mm_xor_si128,
};

/// A key, expanded: the eleven round keys. There are such only where the CPU has AES.
#[derive(Clone, Copy)]
pub struct RoundKeys([__m128i; 11]);

impl RoundKeys {
    /// Of this key, where the CPU has AES.
    pub fn new(key: [u8; 16]) -> Option<RoundKeys> {
        // SAFETY: called only where the CPU has AES.
        std::is_x86_feature_detected!("aes").then(|| unsafe { expand(key) })
    }

    /// They, in their order.
    #[inline(always)]
    pub(super) fn keys(&self) -> &[__m128i; 11] {
        &self.0
    }

    /// The lower word of an encrypted block, of which these are the words, the first byte the lowest.
    #[inline]
    pub fn encrypt([low, high]: [u64; 2], keys: &RoundKeys) -> u64 {
        // SAFETY: there are round keys only where the CPU has AES.
        unsafe { encrypt(low, high, keys) }
    }
}

/// FIPS 197, 5.2.
///
/// # Safety
/// The CPU has AES.
#[target_feature(enable = "aes")]
unsafe fn expand(key: [u8; 16]) -> RoundKeys {
    let key = u128::from_le_bytes(key);
    let mut keys = [_mm_setzero_si128(); 11];
    keys[0] = _mm_set_epi64x((key >> 64) as i64, key as i64);
    macro_rules! next {
        ($($round:literal: $constant:literal)*) => {
            $(
                let last = keys[$round - 1];
                // SubWord(RotWord(w)) ^ Rcon, in all four words.
                let assisted = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(last));
                let two = _mm_xor_si128(last, _mm_slli_si128::<4>(last));
                let four = _mm_xor_si128(two, _mm_slli_si128::<8>(two));
                keys[$round] = _mm_xor_si128(four, assisted);
            )*
        };
    }
    next!(1: 0x01 2: 0x02 3: 0x04 4: 0x08 5: 0x10 6: 0x20 7: 0x40 8: 0x80 9: 0x1b 10: 0x36);
    RoundKeys(keys)
}

/// # Safety
/// The CPU has AES.
#[inline]
#[target_feature(enable = "aes")]
unsafe fn encrypt(low: u64, high: u64, RoundKeys(keys): &RoundKeys) -> u64 {
    let mut block = _mm_xor_si128(_mm_set_epi64x(high as i64, low as i64), keys[0]);
    for key in &keys[1..10] {
        block = _mm_aesenc_si128(block, *key);
    }
    _mm_cvtsi128_si64(_mm_aesenclast_si128(block, keys[10])) as u64
}

#[cfg(test)]
mod tests {
    use aes::cipher::{BlockEncrypt, KeyInit};
    use proptest::prelude::*;

    use super::*;
    use crate::simd::{Avx2, Avx512, LANES, Portable, Simd};

    fn words(block: &[u8; 16]) -> [u64; 2] {
        let block = u128::from_le_bytes(*block);
        [block as u64, (block >> 64) as u64]
    }

    /// Of eight blocks.
    fn by<S: Simd>(simd: S, blocks: &[[u8; 16]; LANES], keys: &RoundKeys) -> [u64; LANES] {
        let (low, high) = (blocks.map(|block| words(&block)[0]), blocks.map(|block| words(&block)[1]));
        let mut encrypted = [0; LANES];
        simd.store(simd.encrypt([simd.load(&low), simd.load(&high)], keys), &mut encrypted);
        encrypted
    }

    #[test]
    fn it_is_that_of_the_standard() {
        // FIPS 197, C.1.
        let Some(keys) = RoundKeys::new(std::array::from_fn(|byte| byte as u8)) else {
            println!("skipped: this CPU has no AES");
            return;
        };
        let block = std::array::from_fn(|byte| byte as u8 * 0x11);
        assert_eq!(RoundKeys::encrypt(words(&block), &keys), 0x3004_7b6a_d8e0_c469);
    }

    proptest! {
        #[test]
        fn eight_at_once_are_as_by_another_implementation(key: [u8; 16], blocks: [[u8; 16]; LANES]) {
            let Some(keys) = RoundKeys::new(key) else {
                println!("skipped: this CPU has no AES");
                return Ok(());
            };
            let other = aes::Aes128::new(&key.into());
            let expected = blocks.map(|block| {
                let mut block = block.into();
                other.encrypt_block(&mut block);
                words(&block.into())[0]
            });
            prop_assert_eq!(by(Portable, &blocks, &keys), expected);
            if let Some(simd) = Avx2::detect() {
                prop_assert_eq!(by(simd, &blocks, &keys), expected);
            }
            if let Some(simd) = Avx512::detect() {
                prop_assert_eq!(by(simd, &blocks, &keys), expected);
            }
        }
    }
}
