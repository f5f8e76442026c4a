//! With AVX2, which CPUs have had since 2013 (Intel) and 2015 (AMD): eight words in two registers, so that one works while
//! the other waits.

use std::arch::asm;
use std::arch::x86_64::{
    __m128i, __m256i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_loadu_si32, _mm_unpacklo_epi64, _mm_xor_si128,
    _mm256_add_epi64, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi256_pd, _mm256_castsi256_si128,
    _mm256_cmpeq_epi64, _mm256_cvtepu8_epi64, _mm256_extracti128_si256, _mm256_i64gather_epi64, _mm256_loadu_si256,
    _mm256_movemask_pd, _mm256_mul_epu32, _mm256_or_si256, _mm256_permutevar8x32_epi32, _mm256_set_m128i,
    _mm256_set1_epi64x, _mm256_setr_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_shuffle_epi32,
    _mm256_slli_epi64, _mm256_srli_epi64, _mm256_srlv_epi64, _mm256_storeu_si256, _mm256_sub_epi64,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::{LANES, Line, RoundKeys, Simd};

/// The CPU has what x86-64-v3 has, and AES, as all of these have.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The token, where the CPU has it.
    pub fn detect() -> Option<Avx2> {
        use std::is_x86_feature_detected as has;
        let v3 = has!("avx2")
            && has!("aes")
            && has!("bmi1")
            && has!("bmi2")
            && has!("lzcnt")
            && has!("movbe")
            && has!("popcnt");
        v3.then_some(Avx2(()))
    }
}

type Pair = [__m256i; 2];

/// Which byte of each half word comes from where: from the other end.
// SAFETY: both are 16 bytes.
pub(super) const OPPOSITE: __m128i =
    unsafe { std::mem::transmute([3u8, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]) };

/// The same for words, each turned to the left by two bytes.
// SAFETY: as above.
const TWO_BYTES_ON: __m128i = unsafe { std::mem::transmute([6u8, 7, 0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13]) };

/// For each set of four words: which halves of words those of the set are, one after the other.
// SAFETY: both are 16 times 32 bytes.
static FIRST: [__m256i; 16] = unsafe { std::mem::transmute(first()) };

const fn first() -> [[u32; 8]; 16] {
    let mut all = [[0; 8]; 16];
    let (mut set, mut word, mut next) = (0, 0, 0);
    while set < 16 {
        if set >> word & 1 != 0 {
            (all[set][next], all[set][next + 1]) = (2 * word, 2 * word + 1);
            next += 2;
        }
        word += 1;
        if word == 4 {
            (set, word, next) = (set + 1, 0, 0);
        }
    }
    all
}

/// Both halves of eight words, one after the other.
///
/// SAFETY, here and of all below: a token exists only where the CPU has AVX2; loads and stores stay within the eight words,
/// or bytes, that they are given.
macro_rules! both {
    ($half:ident => $of:expr) => {
        // SAFETY: see above.
        unsafe {
            [
                {
                    let $half = 0;
                    $of
                },
                {
                    let $half = 1;
                    $of
                },
            ]
        }
    };
}

impl Simd for Avx2 {
    type Lanes = Pair;

    const AVX2: bool = true;

    #[inline(always)]
    fn load(self, words: &[u64; LANES]) -> Pair {
        both!(half => _mm256_loadu_si256(words.as_ptr().add(4 * half).cast()))
    }

    #[inline(always)]
    fn store(self, lanes: Pair, words: &mut [u64; LANES]) {
        let [(), ()] = both!(half => _mm256_storeu_si256(words.as_mut_ptr().add(4 * half).cast(), lanes[half]));
    }

    #[inline(always)]
    fn widen(self, bytes: &[u8; LANES]) -> Pair {
        both!(half => _mm256_cvtepu8_epi64(_mm_loadu_si32(bytes.as_ptr().add(4 * half))))
    }

    #[inline(always)]
    fn splat(self, word: u64) -> Pair {
        // SAFETY: the CPU has AVX2.
        [unsafe { _mm256_set1_epi64x(word as i64) }; 2]
    }

    #[inline(always)]
    fn and(self, a: Pair, b: Pair) -> Pair {
        both!(half => _mm256_and_si256(a[half], b[half]))
    }

    #[inline(always)]
    fn or(self, a: Pair, b: Pair) -> Pair {
        both!(half => _mm256_or_si256(a[half], b[half]))
    }

    #[inline(always)]
    fn xor(self, a: Pair, b: Pair) -> Pair {
        both!(half => _mm256_xor_si256(a[half], b[half]))
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        both!(half => _mm256_add_epi64(a[half], b[half]))
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        both!(half => _mm256_sub_epi64(a[half], b[half]))
    }

    #[inline(always)]
    fn mul_low_halves(self, a: Pair, b: Pair) -> Pair {
        both!(half => _mm256_mul_epu32(a[half], b[half]))
    }

    #[inline(always)]
    fn keep(self, a: Pair, lanes: u64) -> Pair {
        // SAFETY: the CPU has AVX2.
        let bits = unsafe { [_mm256_setr_epi64x(1, 2, 4, 8), _mm256_setr_epi64x(16, 32, 64, 128)] };
        let set = self.and(self.splat(lanes), bits);
        both!(half => _mm256_and_si256(a[half], _mm256_cmpeq_epi64(set[half], bits[half])))
    }

    #[inline(always)]
    fn compress(self, a: Pair, lanes: u64, words: &mut [u64; LANES]) {
        let sets = [lanes as usize % 16, lanes as usize >> 4 & 15];
        let [low, high] = both!(half => _mm256_permutevar8x32_epi32(a[half], FIRST[sets[half]]));
        // SAFETY: four words each, the second at most four words on.
        unsafe {
            _mm256_storeu_si256(words.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(words.as_mut_ptr().add(sets[0].count_ones() as usize).cast(), high);
        }
    }

    #[inline(always)]
    fn rotate<const BY: i32, const REST: i32>(self, a: Pair) -> Pair {
        if BY == 32 {
            return both!(half => _mm256_shuffle_epi32::<0b10_11_00_01>(a[half]));
        }
        if BY == 16 {
            return both!(half => _mm256_shuffle_epi8(a[half], _mm256_broadcastsi128_si256(TWO_BYTES_ON)));
        }
        self.or(self.shl::<BY>(a), self.shr::<REST>(a))
    }

    #[inline(always)]
    fn shl<const BY: i32>(self, a: Pair) -> Pair {
        both!(half => _mm256_slli_epi64::<BY>(a[half]))
    }

    #[inline(always)]
    fn shr<const BY: i32>(self, a: Pair) -> Pair {
        both!(half => _mm256_srli_epi64::<BY>(a[half]))
    }

    #[inline(always)]
    fn shr_each(self, a: Pair, by: Pair) -> Pair {
        both!(half => _mm256_srlv_epi64(a[half], by[half]))
    }

    #[inline(always)]
    fn swap_bytes_of_halves(self, a: Pair) -> Pair {
        both!(half => _mm256_shuffle_epi8(a[half], _mm256_broadcastsi128_si256(OPPOSITE)))
    }

    #[inline(always)]
    fn contained(self, set: &[u64; 16], numbers: Pair) -> u64 {
        let places = self.and(self.shr::<6>(numbers), self.splat(15));
        // Eight bytes from each of 16 words.
        let words = both!(half => _mm256_i64gather_epi64::<8>(set.as_ptr().cast(), places[half]));
        let bits = self.and(self.shr_each(words, self.and(numbers, self.splat(63))), self.splat(1));
        !self.zeros(bits) & 0xff
    }

    #[inline(always)]
    fn encrypt(self, [low, high]: [Pair; 2], keys: &RoundKeys) -> Pair {
        let [first, middle @ .., last] = keys.keys();
        // SAFETY: the CPU has AVX2 and AES.
        let blocks = unsafe {
            // Blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7.
            let pairs = [
                _mm256_unpacklo_epi64(low[0], high[0]),
                _mm256_unpackhi_epi64(low[0], high[0]),
                _mm256_unpacklo_epi64(low[1], high[1]),
                _mm256_unpackhi_epi64(low[1], high[1]),
            ];
            let mut blocks = [*first; LANES];
            for (pair, two) in pairs.into_iter().zip(blocks.as_chunks_mut::<2>().0) {
                two[0] = _mm_xor_si128(two[0], _mm256_castsi256_si128(pair));
                two[1] = _mm_xor_si128(two[1], _mm256_extracti128_si256::<1>(pair));
            }
            for key in middle {
                for block in &mut blocks {
                    *block = _mm_aesenc_si128(*block, *key);
                }
            }
            for block in &mut blocks {
                *block = _mm_aesenclast_si128(*block, *last);
            }
            blocks
        };
        both!(half => _mm256_set_m128i(
            _mm_unpacklo_epi64(blocks[4 * half + 1], blocks[4 * half + 3]),
            _mm_unpacklo_epi64(blocks[4 * half], blocks[4 * half + 2]),
        ))
    }

    #[inline(always)]
    fn zeros(self, a: Pair) -> u64 {
        let [low, high] = both!(half => {
            let zeros = _mm256_cmpeq_epi64(a[half], _mm256_setzero_si256());
            _mm256_movemask_pd(_mm256_castsi256_pd(zeros)) as u64
        });
        low | high << 4
    }

    #[inline(always)]
    fn equal<L: Line>(self, line: &L, mask: u64, value: u64) -> u32 {
        // SAFETY: the CPU has AVX2, and it is a line.
        let lanes = unsafe { load_line(std::ptr::from_ref(line).cast()) };
        self.zeros(self.xor(self.and(lanes, self.splat(mask)), self.splat(value))) as u32 & L::WORDS
    }

    #[inline(always)]
    fn equal_of_first_four<L: Line>(self, line: &L, value: u64) -> u32 {
        // SAFETY: the CPU has AVX2, and it is a line.
        unsafe {
            let words = load_half_line(std::ptr::from_ref(line).cast());
            let equal = _mm256_cmpeq_epi64(words, _mm256_set1_epi64x(value as i64));
            _mm256_movemask_pd(_mm256_castsi256_pd(equal)) as u32
        }
    }
}

/// The words of a line that others may be writing. In assembly, since to the compiler that is a race unless word by word.
///
/// # Safety
/// The CPU has AVX2; there are 64 bytes at `line`, aligned to as many.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_line(line: *const __m256i) -> Pair {
    let (low, high);
    // SAFETY: reads the line and nothing else; loads are not reordered with others on x86.
    unsafe {
        asm!(
            "vmovdqa {low}, [{line}]",
            "vmovdqa {high}, [{line} + 32]",
            line = in(reg) line,
            low = out(ymm_reg) low,
            high = out(ymm_reg) high,
            options(nostack, preserves_flags, readonly),
        );
    }
    [low, high]
}

/// The first half of such a line.
///
/// # Safety
/// The CPU has AVX2; there are 32 bytes at `line`, aligned to as many.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_half_line(line: *const __m256i) -> __m256i {
    let words;
    // SAFETY: reads these bytes and nothing else.
    unsafe {
        asm!(
            "vmovdqa {words}, [{line}]",
            line = in(reg) line,
            words = out(ymm_reg) words,
            options(nostack, preserves_flags, readonly),
        );
    }
    words
}
