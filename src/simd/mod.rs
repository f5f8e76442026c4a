//! Eight words at a time: what parsing, hashing and looking up do to each frame alike, they do to eight of them at once.
//!
//! [`Simd`] is the few operations that takes. [`Portable`] has them on any machine and is what the others are held
//! against; [`Avx2`] and [`Avx512`] are tokens that only a CPU with these instructions gives out, so whoever has one may
//! use them. The worker's whole path is compiled once for each ([`Cpu::run`]), with all of it inlined into one function that is
//! compiled for that CPU: elsewhere these operations would be calls.
#![allow(unsafe_code)] // Instructions that not every CPU has.

#[cfg(all(target_arch = "x86_64", not(loom)))]
mod aes;
#[cfg(all(target_arch = "x86_64", not(loom)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(loom)))]
mod avx512;
mod portable;

#[cfg(all(target_arch = "x86_64", not(loom)))]
pub use aes::RoundKeys;
#[cfg(all(target_arch = "x86_64", not(loom)))]
pub use avx2::Avx2;
#[cfg(all(target_arch = "x86_64", not(loom)))]
pub use avx512::Avx512;
pub use portable::Portable;

use crate::sync::AtomicU64;

/// AES is used on x86-64 alone, so there are no round keys elsewhere.
#[cfg(not(all(target_arch = "x86_64", not(loom))))]
#[derive(Clone, Copy)]
pub enum RoundKeys {}

#[cfg(not(all(target_arch = "x86_64", not(loom))))]
impl RoundKeys {
    /// None.
    pub fn new(_: [u8; 16]) -> Option<RoundKeys> {
        None
    }

    /// Cannot be called.
    pub fn encrypt(_: [u64; 2], keys: &RoundKeys) -> u64 {
        match *keys {}
    }
}

/// How many words.
pub const LANES: usize = 8;

/// The best that this machine has.
#[derive(Clone, Copy, Debug)]
pub enum Cpu {
    /// See [`Avx512`].
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    Avx512(Avx512),
    /// See [`Avx2`].
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    Avx2(Avx2),
    /// See [`Portable`].
    Any,
}

impl Cpu {
    /// This machine's.
    pub fn detect() -> Cpu {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        {
            if let Some(simd) = Avx512::detect() {
                return Cpu::Avx512(simd);
            }
            if let Some(simd) = Avx2::detect() {
                return Cpu::Avx2(simd);
            }
        }
        Cpu::Any
    }
}

/// Work that is the same on all machines, and compiled for each.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it. To be `#[inline(always)]`, as all that it calls with `simd`: what is not, is compiled for any machine.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Cpu {
    /// Does the work by what this machine has.
    #[inline]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            // SAFETY: there is a token only where the CPU has what this function is compiled for.
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Cpu::Avx512(simd) => unsafe { by_avx512(simd, work) },
            // SAFETY: as above.
            #[cfg(all(target_arch = "x86_64", not(loom)))]
            Cpu::Avx2(simd) => unsafe { by_avx2(simd, work) },
            Cpu::Any => work.run(Portable),
        }
    }
}

/// # Safety
/// The CPU has all that is enabled here.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[target_feature(enable = "avx2,aes,bmi1,bmi2,lzcnt,movbe,popcnt")]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,vaes")]
unsafe fn by_avx512<W: Work>(simd: Avx512, work: W) -> W::Output {
    work.run(simd)
}

/// # Safety
/// The CPU has all that is enabled here.
#[cfg(all(target_arch = "x86_64", not(loom)))]
#[target_feature(enable = "avx2,aes,bmi1,bmi2,lzcnt,movbe,popcnt")]
unsafe fn by_avx2<W: Work>(simd: Avx2, work: W) -> W::Output {
    work.run(simd)
}

/// A cache line that begins with some words that other threads may write.
///
/// # Safety
/// It is 64 bytes, aligned to as many, all of them atomics, and `words` are those that it begins with.
pub unsafe trait Line {
    /// The words, at most eight.
    fn words(&self) -> &[AtomicU64];

    /// Their places, as bits.
    const WORDS: u32;
}

/// Operations on [`LANES`] words of 64 bits, all the same in each lane.
pub trait Simd: Copy {
    /// Eight words.
    type Lanes: Copy;

    /// Whether the CPU has AVX2.
    const AVX2: bool = false;

    /// From memory.
    fn load(self, words: &[u64; LANES]) -> Self::Lanes;
    /// To memory.
    fn store(self, lanes: Self::Lanes, words: &mut [u64; LANES]);
    /// Bytes as words.
    fn widen(self, bytes: &[u8; LANES]) -> Self::Lanes;
    /// The same word in all.
    fn splat(self, word: u64) -> Self::Lanes;
    /// Bitwise.
    fn and(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Bitwise.
    fn or(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Bitwise.
    fn xor(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Modulo 2⁶⁴.
    fn add(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Modulo 2⁶⁴.
    fn sub(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// The product of the lower halves of two words.
    fn mul_low_halves(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// The words of the lanes that `lanes` has as bits; zero in the others.
    fn keep(self, a: Self::Lanes, lanes: u64) -> Self::Lanes;
    /// The words of the lanes that `lanes` has as bits, one after the other, to memory. What comes after them there is anything.
    fn compress(self, a: Self::Lanes, lanes: u64, words: &mut [u64; LANES]);
    /// To the left, by `BY` of 1 to 63 bits; `REST` is 64 less that.
    fn rotate<const BY: i32, const REST: i32>(self, a: Self::Lanes) -> Self::Lanes;
    /// To the left, by `BY` bits.
    fn shl<const BY: i32>(self, a: Self::Lanes) -> Self::Lanes;
    /// To the right, by `BY` bits.
    fn shr<const BY: i32>(self, a: Self::Lanes) -> Self::Lanes;
    /// To the right, each by as many bits as its lane of `by` says, at most 63.
    fn shr_each(self, a: Self::Lanes, by: Self::Lanes) -> Self::Lanes;
    /// The bytes of each half of each word in the opposite order.
    fn swap_bytes_of_halves(self, a: Self::Lanes) -> Self::Lanes;
    /// The lower words of eight blocks that are encrypted, of which these are the lower and the higher words.
    fn encrypt(self, words: [Self::Lanes; 2], keys: &RoundKeys) -> Self::Lanes;
    /// Not zero in lanes where one of the lowest `BYTES` (4 or 8) bytes of `words` is the lowest byte of `byte`, which has no others.
    #[inline(always)]
    fn bytes_equal<const BYTES: u32>(self, byte: Self::Lanes, words: Self::Lanes) -> Self::Lanes {
        let ones = (u64::MAX >> (64 - 8 * BYTES)) / 0xff;
        let half = self.mul_low_halves(byte, self.splat(0x0101_0101));
        let repeated = if BYTES == 4 { half } else { self.or(half, self.shl::<32>(half)) };
        let differences = self.xor(words, repeated);
        // Mycroft: a byte is zero, or a higher one than that.
        let borrows = self.and(self.sub(differences, self.splat(ones)), self.splat(ones << 7));
        self.xor(borrows, self.and(borrows, differences))
    }
    /// In which lanes the lower ten bits are the number of one of the set's bits that are one, as bits.
    fn contained(self, set: &[u64; 16], numbers: Self::Lanes) -> u64;
    /// Which lanes are zero, as bits.
    fn zeros(self, a: Self::Lanes) -> u64;
    /// Which words of a line, under this mask, are this value, as bits.
    ///
    /// Each word is read as a whole, and with Acquire. [`Portable`] reads one after the other; the others read a line or
    /// half of it by one instruction, which these CPUs carry out as one access to the first-level cache, though their makers
    /// promise as much of 16 bytes alone. Where it were two, a tuple that is entered twice at that very instant, by two
    /// workers, could be missed in both places, once: its sender repeats itself.
    fn equal<L: Line>(self, line: &L, mask: u64, value: u64) -> u32;
    /// The same for the first four words of a line, all of them.
    fn equal_of_first_four<L: Line>(self, line: &L, value: u64) -> u32;
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sync::Ordering;

    #[repr(C, align(64))]
    struct Five([AtomicU64; 8]);

    // SAFETY: eight atomics, aligned.
    unsafe impl Line for Five {
        const WORDS: u32 = 0b11111;

        fn words(&self) -> &[AtomicU64] {
            &self.0[..5]
        }
    }

    #[repr(C, align(64))]
    struct Eight([AtomicU64; 8]);

    // SAFETY: eight atomics, aligned.
    unsafe impl Line for Eight {
        const WORDS: u32 = 0xff;

        fn words(&self) -> &[AtomicU64] {
            &self.0
        }
    }

    /// Everything that can be asked of two eights.
    fn all<S: Simd>(simd: S, a: &[u64; LANES], b: &[u64; LANES]) -> Vec<[u64; LANES]> {
        let (x, y) = (simd.load(a), simd.load(b));
        let bytes = a.map(|word| word as u8);
        let lanes = [
            simd.widen(&bytes),
            simd.splat(a[3]),
            simd.and(x, y),
            simd.or(x, y),
            simd.xor(x, y),
            simd.add(x, y),
            simd.sub(x, y),
            simd.rotate::<13, 51>(x),
            simd.rotate::<16, 48>(x),
            simd.rotate::<32, 32>(x),
            simd.shl::<16>(x),
            simd.shr::<48>(x),
            simd.shr_each(x, simd.and(y, simd.splat(63))),
            simd.swap_bytes_of_halves(x),
            simd.mul_low_halves(x, y),
            simd.keep(x, b[0] & 0xff),
        ];
        let mut words: Vec<_> = lanes
            .into_iter()
            .map(|lanes| {
                let mut words = [0; LANES];
                simd.store(lanes, &mut words);
                words
            })
            .collect();
        let mut compressed = [0; LANES];
        simd.compress(x, b[1] & 0xff, &mut compressed);
        compressed[(b[1] & 0xff).count_ones() as usize..].fill(0);
        words.push(compressed);
        let of_bytes = simd.and(x, simd.splat(0xff));
        let line = |words: &[u64; LANES]| words.map(AtomicU64::new);
        let (mask, value) = (0xff00, b[0] & 0xff00);
        let equal = [simd.equal(&Five(line(a)), mask, value), simd.equal(&Eight(line(a)), mask, value)];
        let first_four = simd.equal_of_first_four(&Five(line(a)), b[0]);
        words.push([
            simd.zeros(x),
            simd.zeros(simd.sub(x, x)),
            equal[0].into(),
            equal[1].into(),
            first_four.into(),
            simd.contained(&std::array::from_fn(|word| a[word % LANES] ^ b[word / 2]), y),
            simd.zeros(simd.bytes_equal::<4>(of_bytes, y)),
            simd.zeros(simd.bytes_equal::<8>(of_bytes, y)),
        ]);
        words
    }

    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), 0u64..0x1_0000, Just(1 << 63)]
    }

    proptest! {
        #[test]
        fn all_machines_say_the_same(a in prop::array::uniform8(word()), b in prop::array::uniform8(word())) {
            let said = all(Portable, &a, &b);
            #[cfg(target_arch = "x86_64")]
            {
                if let Some(simd) = Avx2::detect() {
                    prop_assert_eq!(&all(simd, &a, &b), &said);
                }
                if let Some(simd) = Avx512::detect() {
                    prop_assert_eq!(&all(simd, &a, &b), &said);
                }
            }
            prop_assert_eq!(said[5][2], a[2].wrapping_add(b[2]));
            prop_assert_eq!(said[14][2], (a[2] & 0xffff_ffff) * (b[2] & 0xffff_ffff));
            prop_assert_eq!(said[15][2], if b[0] >> 2 & 1 == 0 { 0 } else { a[2] });
            let kept: Vec<_> = (0..LANES).filter(|lane| b[1] >> lane & 1 != 0).map(|lane| a[lane]).collect();
            prop_assert_eq!(&said[16][..kept.len()], &kept[..]);
            let (word, bit) = (b[2] as usize >> 6 & 15, b[2] & 63);
            prop_assert_eq!(said[17][5] >> 2 & 1, (a[word % LANES] ^ b[word / 2]) >> bit & 1);
            for (of, bytes) in [(6, 4), (7, 8)] {
                let has = |lane: usize| b[lane].to_le_bytes()[..bytes].contains(&(a[lane] as u8));
                prop_assert!((0..LANES).all(|lane| has(lane) == (said[17][of] >> lane & 1 == 0)));
            }
            let found = Five(a.map(AtomicU64::new)).words().iter().filter(|w| (w.load(Ordering::Relaxed) ^ b[0]) & 0xff00 == 0).count();
            prop_assert_eq!(said[17][2].count_ones() as usize, found);
        }
    }
}
