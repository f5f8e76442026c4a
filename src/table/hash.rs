//! The keyed hash that both tables share: AES-128 where the CPU has instructions for it, else SipHash-1-3 (Aumasson and
//! Bernstein, "SipHash: a fast short-input PRF").
//!
//! Why these. Whoever sends SYNs picks addresses and ports, so with a known hash he could aim all of them at one
//! bucket. Both are pseudo-random functions of a tuple: without the 128-bit key their values are as good as random, also for
//! inputs chosen after watching the effect of earlier ones, which universal hashes (multiply-shift, Toeplitz) do not
//! promise, nor a CRC.
//!
//! - **AES**: a tuple's 9 bytes and zeros are one block, and the hash is half of what it is encrypted to. The whole cipher,
//!   ten rounds, of which a CPU with AVX-512 does each on four blocks by one instruction: half of SipHash's time or less
//!   (`benches/hash.rs`).
//! - **SipHash** with one compression and three finalisation rounds is the one that Rust's and Python's own hash maps rely on
//!   against the same attack. Two compressions and the finalisation: five rounds of adds, rotates and XORs, the same on
//!   every machine. The simulator takes it, so that a seed is the same run everywhere.

use std::fmt;

use super::{Tuple, Tuples};
use crate::port::BURST;
use crate::simd::{LANES, RoundKeys, Simd};

/// A tuple's hash under one [`Hasher`]. Computed once per frame, used for both tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
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

    /// The same over at most 2³² by the lower half, which has nothing to do with the other.
    #[inline(always)]
    pub(crate) const fn spread_low(self, count: usize) -> usize {
        (((self.0 & 0xffff_ffff) * count as u64) >> 32) as usize
    }
}

/// The keyed hash. Cheap to copy; every copy gives the same hashes.
#[derive(Clone, Copy)]
pub struct Hasher {
    k0: u64,
    k1: u64,
    aes: Option<RoundKeys>,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(…)")
    }
}

impl Hasher {
    /// SipHash with a secret key, on every machine.
    pub const fn new(key: [u8; 16]) -> Hasher {
        let key = u128::from_le_bytes(key);
        Hasher { k0: key as u64, k1: (key >> 64) as u64, aes: None }
    }

    /// The faster of the two on this machine: AES with a secret key, drawn anew at each start, where the CPU has it.
    pub fn of_this_cpu(key: [u8; 16]) -> Hasher {
        Hasher { aes: RoundKeys::new(key), ..Hasher::new(key) }
    }

    /// Of a tuple.
    #[inline]
    pub fn hash(&self, tuple: &Tuple) -> Hash {
        match &self.aes {
            Some(keys) => Hash(RoundKeys::encrypt([tuple.key(), tuple.vip.into()], keys)),
            None => self.siphash(tuple),
        }
    }

    /// SipHash-1-3 of the tuple's 9 bytes: its key word, little-endian, and its VIP.
    #[inline]
    const fn siphash(&self, tuple: &Tuple) -> Hash {
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

impl Hasher {
    /// [`hash`](Hasher::hash) of each of eight tuples of a burst, from place `first` on.
    #[inline(always)]
    pub fn hash_group<S: Simd>(&self, simd: S, tuples: &Tuples, first: usize, hashes: &mut [Hash; BURST]) {
        let (Some(keys), Some(vips), Some(hashes)) = (
            tuples.keys[first..].first_chunk(),
            tuples.vips[first..].first_chunk(),
            hashes[first..].first_chunk_mut::<LANES>(),
        ) else {
            return;
        };
        let mut words = [0; LANES];
        let hashed = match &self.aes {
            Some(round_keys) => simd.encrypt([simd.load(keys), simd.widen(vips)], round_keys),
            None => self.siphash_of_eight(simd, simd.load(keys), simd.widen(vips)),
        };
        simd.store(hashed, &mut words);
        *hashes = words.map(Hash);
    }

    /// [`siphash`](Hasher::siphash) of tuples of which these are the keys and VIPs.
    #[inline(always)]
    fn siphash_of_eight<S: Simd>(&self, simd: S, keys: S::Lanes, vips: S::Lanes) -> S::Lanes {
        let rests = simd.or(vips, simd.splat(9 << 56));
        let mut v = [
            simd.splat(self.k0 ^ 0x736f_6d65_7073_6575),
            simd.splat(self.k1 ^ 0x646f_7261_6e64_6f6d),
            simd.splat(self.k0 ^ 0x6c79_6765_6e65_7261),
            simd.splat(self.k1 ^ 0x7465_6462_7974_6573),
        ];
        for block in [keys, rests] {
            v[3] = simd.xor(v[3], block);
            v = round_of_eight(simd, v);
            v[0] = simd.xor(v[0], block);
        }
        v[2] = simd.xor(v[2], simd.splat(0xff));
        for _ in 0..3 {
            v = round_of_eight(simd, v);
        }
        simd.xor(simd.xor(v[0], v[1]), simd.xor(v[2], v[3]))
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

/// SipRound in each lane.
#[inline(always)]
fn round_of_eight<S: Simd>(simd: S, [mut v0, mut v1, mut v2, mut v3]: [S::Lanes; 4]) -> [S::Lanes; 4] {
    v0 = simd.add(v0, v1);
    v1 = simd.xor(simd.rotate::<13, 51>(v1), v0);
    v0 = simd.rotate::<32, 32>(v0);
    v2 = simd.add(v2, v3);
    v3 = simd.xor(simd.rotate::<16, 48>(v3), v2);
    v0 = simd.add(v0, v3);
    v3 = simd.xor(simd.rotate::<21, 43>(v3), v0);
    v2 = simd.add(v2, v1);
    v1 = simd.xor(simd.rotate::<17, 47>(v1), v2);
    v2 = simd.rotate::<32, 32>(v2);
    [v0, v1, v2, v3]
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::hash::Hasher as _;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;
    use crate::simd::Portable;

    /// The tuple that has these bits.
    fn tuple(key: u64, vip: u8) -> Tuple {
        Tuple::from_key(key, vip)
    }

    /// That of every machine, and this one's.
    fn both(key: [u8; 16]) -> [Hasher; 2] {
        [Hasher::new(key), Hasher::of_this_cpu(key)]
    }

    fn all<S: Simd>(simd: S, hasher: &Hasher, tuples: &Tuples) -> [Hash; BURST] {
        let mut hashes = [Hash::default(); BURST];
        (0..BURST).step_by(LANES).for_each(|first| hasher.hash_group(simd, tuples, first, &mut hashes));
        hashes
    }

    proptest! {
        #[test]
        fn it_is_siphash_1_3(key: [u8; 16], client: u32, client_port: u16, port: u16, vip: u8) {
            let tuple = Tuple { client: Ipv4Addr::from_bits(client), client_port, port, vip };
            prop_assert_eq!(tuple, Tuple::from_key(tuple.key(), vip));
            let mut reference = SipHasher13::new_with_key(&key);
            reference.write(&tuple.key().to_le_bytes());
            reference.write(&[vip]);
            prop_assert_eq!(Hasher::new(key).hash(&tuple).bits(), reference.finish());
        }
    }

    proptest! {
        #[test]
        fn several_at_once_hash_as_one_by_one(
            key: [u8; 16],
            keys in proptest::collection::vec(any::<(u64, u8)>(), BURST),
        ) {
            let tuples: Tuples = keys.iter().map(|(key, vip)| tuple(*key, *vip)).collect();
            for hasher in both(key) {
                let each: Vec<Hash> = keys.iter().map(|(key, vip)| hasher.hash(&tuple(*key, *vip))).collect();
                prop_assert_eq!(&all(Portable, &hasher, &tuples)[..], &each[..]);
                #[cfg(target_arch = "x86_64")]
                {
                    if let Some(simd) = crate::simd::Avx2::detect() {
                        prop_assert_eq!(&all(simd, &hasher, &tuples)[..], &each[..]);
                    }
                    if let Some(simd) = crate::simd::Avx512::detect() {
                        prop_assert_eq!(&all(simd, &hasher, &tuples)[..], &each[..]);
                    }
                }
            }
        }
    }

    #[test]
    fn each_bit_of_a_tuple_flips_each_bit_of_the_hash_half_the_time() {
        both(*b"avalanche of key").iter().for_each(flips_half);
    }

    fn flips_half(hasher: &Hasher) {
        const SAMPLES: u32 = 4_096;
        let mut flips = [[0u32; 64]; 72];
        for sample in 0..SAMPLES {
            // Neighbours, as clients behind one subnet are.
            let key = u64::from(sample) << 16 | 443;
            let hash = hasher.hash(&tuple(key, 0)).bits();
            for (bit, flips) in flips.iter_mut().enumerate() {
                let other = if bit < 64 { tuple(key ^ 1 << bit, 0) } else { tuple(key, 1 << (bit - 64)) };
                let changed = hash ^ hasher.hash(&other).bits();
                flips.iter_mut().enumerate().for_each(|(out, count)| *count += (changed >> out & 1) as u32);
            }
        }
        // Half of the samples, give or take five and a half standard deviations (of 4,608 counts).
        let spread = 5.5 * f64::from(SAMPLES).sqrt() / 2.0;
        for count in flips.as_flattened() {
            assert!((f64::from(*count) - f64::from(SAMPLES) / 2.0).abs() < spread, "{count}");
        }
    }

    #[test]
    fn buckets_classes_and_tags_of_neighbouring_clients_are_evenly_taken() {
        both(*b"a spread of keys").iter().for_each(takes_evenly);
    }

    fn takes_evenly(hasher: &Hasher) {
        const CELLS: usize = 4_096;
        const EACH: usize = 64;
        let pick: [fn(Hash) -> usize; 4] = [
            |hash| hash.spread(CELLS),
            |hash| hash.spread_low(CELLS),
            |hash| hash.bits() as usize % 4 * CELLS / 4 + hash.spread(CELLS / 4),
            |hash| (hash.bits() >> 40) as usize % 64 * CELLS / 64 + hash.spread_low(CELLS / 64),
        ];
        for pick in pick {
            let mut taken = vec![0f64; CELLS];
            for number in 0..CELLS * EACH {
                // A few clients with many ports each.
                taken[pick(hasher.hash(&tuple((number as u64) << 16 | 443, 0)))] += 1.0;
            }
            let chi_square: f64 = taken.iter().map(|count| (count - EACH as f64).powi(2) / EACH as f64).sum();
            // Its mean is the degrees of freedom, its variance twice that; five standard deviations either way.
            let freedom = (CELLS - 1) as f64;
            assert!((chi_square - freedom).abs() < 5.0 * (2.0 * freedom).sqrt(), "{chi_square}");
        }
    }

    #[test]
    fn another_key_gives_another_hash() {
        let tuple = tuple(1, 1);
        for (one, other) in both([0; 16]).iter().zip(both([1; 16])) {
            assert_ne!(one.hash(&tuple), other.hash(&tuple));
        }
        assert_eq!(format!("{:?}", Hasher::new([7; 16])), "Hasher(…)");
    }
}
