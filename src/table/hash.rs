//! The keyed hash that both tables share: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF").
//!
//! Why this one. Whoever sends SYNs picks addresses and ports, so with a known hash he could aim all of them at one
//! bucket. SipHash is a pseudo-random function: without the 128-bit key its values are as good as random, also for
//! inputs chosen after watching the effect of earlier ones, which universal hashes (multiply-shift, Toeplitz) do not
//! promise. The variant with one compression and three finalisation rounds is the one that Rust's and Python's own
//! hash maps rely on against the same attack. A tuple is 9 bytes, so two compressions and the finalisation: five
//! rounds of adds, rotates and XORs, the same on every machine, no table, no special instruction, and several of them
//! overlap in a burst.

use std::fmt;

use super::Tuple;

/// A tuple's hash under one [`Hasher`]. Computed once per frame, used for both tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    /// A hash of this value: for tests that need tuples in chosen buckets.
    pub const fn from_bits(bits: u64) -> Hash {
        Hash(bits)
    }

    /// All 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Spreads hashes over `0..count` by the upper bits (Lemire's multiply instead of a modulo: `count` need not be a
    /// power of two, so a table is exactly as large as asked for).
    #[inline]
    pub(super) const fn spread(self, count: usize) -> usize {
        ((self.0 as u128 * count as u128) >> 64) as usize
    }

    /// The lower half on top: for a second [`spread`](Hash::spread) that has nothing to do with the first.
    #[inline]
    pub(super) const fn swapped(self) -> Hash {
        Hash(self.0.rotate_left(32))
    }
}

/// The keyed hash. Cheap to copy; every copy gives the same hashes.
#[derive(Clone, Copy)]
pub struct Hasher {
    k0: u64,
    k1: u64,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(…)")
    }
}

impl Hasher {
    /// With a secret key, drawn anew at each start.
    pub const fn new(key: [u8; 16]) -> Hasher {
        let key = u128::from_le_bytes(key);
        Hasher { k0: key as u64, k1: (key >> 64) as u64 }
    }

    /// SipHash-1-3 of the tuple's 9 bytes: its key word, little-endian, and its VIP.
    #[inline]
    pub const fn hash(&self, tuple: &Tuple) -> Hash {
        let mut state = [
            self.k0 ^ 0x736f_6d65_7073_6575,
            self.k1 ^ 0x646f_7261_6e64_6f6d,
            self.k0 ^ 0x6c79_6765_6e65_7261,
            self.k1 ^ 0x7465_6462_7974_6573,
        ];
        // The last block carries the message's length in its top byte.
        let blocks = [tuple.key(), tuple.vip as u64 | 9 << 56];
        state[3] ^= blocks[0];
        state = round(state);
        state[0] ^= blocks[0];
        state[3] ^= blocks[1];
        state = round(state);
        state[0] ^= blocks[1];
        state[2] ^= 0xff;
        state = round(round(round(state)));
        Hash(state[0] ^ state[1] ^ state[2] ^ state[3])
    }
}

/// SipRound.
#[inline]
const fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}
