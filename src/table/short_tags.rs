//! Of each record of [`Handshakes`](super::Handshakes) a byte of its tuple's hash, in a table that mostly lies in a cache: nearly all
//! segments of other members' connections are told from handshakes by one word of it.

use super::hash::Hash;
use super::headers::SLOTS;
use super::memory::{Region, TableError, prefetch, prefetch_by_low};
use crate::config::checked::HugePages;
use crate::simd::Simd;
use crate::sync::{AtomicU8, Ordering};

/// A bucket's, by its slots. Written one by one, by who has the slot's header; read as one word.
#[repr(C, align(8))]
#[derive(Default)]
struct Bucket([AtomicU8; SLOTS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 8);

impl Bucket {
    /// All of them, the first the lowest.
    #[inline(always)]
    fn word(&self) -> u64 {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        #[allow(unsafe_code)]
        {
            let word;
            // SAFETY: reads these eight bytes, which are aligned to as many, and nothing else. In assembly, since to the
            // compiler it is a race to read as one what others write byte by byte.
            unsafe {
                std::arch::asm!(
                    "mov {word}, qword ptr [{bytes}]",
                    bytes = in(reg) self,
                    word = out(reg) word,
                    options(nostack, preserves_flags, readonly),
                );
            }
            word
        }
        // Relaxed: who answers a SYN that we have remembered does so long after.
        #[cfg(not(all(target_arch = "x86_64", not(loom))))]
        u64::from_le_bytes(std::array::from_fn(|slot| self.0[slot].load(Ordering::Relaxed)))
    }
}

/// A byte of a hash, of bits that its tag has as well. Not zero, as the byte of a slot without a record is.
#[inline(always)]
fn short_tag(hash: Hash) -> u8 {
    ((hash.bits() >> 40) as u8).max(1)
}

/// See the module.
pub(super) struct ShortTags(Region<Bucket>);

impl ShortTags {
    /// For so many buckets.
    pub fn new(buckets: usize, huge_pages: HugePages) -> Result<ShortTags, TableError> {
        Ok(ShortTags(Region::new(buckets, huge_pages)?))
    }

    #[inline(always)]
    fn home(&self, hash: Hash) -> &Bucket {
        self.0.home_by_low(hash).1
    }

    /// Asks the CPU for what the other calls with this hash read or write.
    #[inline(always)]
    pub fn prefetch(&self, hash: Hash) {
        prefetch(self.home(hash));
    }

    /// The same for eight hashes.
    #[inline(always)]
    pub fn prefetch_group<S: Simd>(&self, simd: S, hashes: S::Lanes) {
        prefetch_by_low(&self.0, simd, hashes);
    }

    /// Whether a tuple with this hash may have records. Wrong once in 30 times where it has none.
    #[inline(always)]
    pub fn may_have(&self, hash: Hash) -> bool {
        const ONES: u64 = u64::MAX / 0xff;
        let differences = self.home(hash).word() ^ (ONES * u64::from(short_tag(hash)));
        // A byte is zero, or a higher one than that (Mycroft).
        differences.wrapping_sub(ONES) & !differences & ONES << 7 != 0
    }

    /// A slot's record is now of a tuple of this hash. For who has its header busy.
    #[inline(always)]
    pub fn set(&self, slot: usize, hash: Hash) {
        // Relaxed: the header orders it.
        self.0[slot / SLOTS].0[slot % SLOTS].store(short_tag(hash), Ordering::Relaxed);
    }
}
