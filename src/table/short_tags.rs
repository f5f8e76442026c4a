//! Of each record of [`Handshakes`](super::Handshakes) a byte of its tuple's hash, in a table that mostly lies in a cache: nearly all
//! segments of other members' connections are told from handshakes by one word of it.

use super::hash::Hash;
use super::headers::SLOTS;
use super::memory::{Region, TableError, prefetch, prefetch_by_low, spread_low};
use crate::config::checked::HugePages;
use crate::simd::{LANES, Simd};
use crate::sync::{AtomicU8, Ordering, load_bytes};

/// A bucket's, by its slots. Written one by one, by who has the slot's header; read as one word.
#[repr(align(8))]
#[derive(Default)]
struct Bucket([AtomicU8; SLOTS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 8);

/// A byte of a hash, of bits that its tag has as well. Not zero, as the byte of a slot without a record is.
#[inline(always)]
fn short_tag(hash: Hash) -> u8 {
    ((hash.bits() >> 40) as u8).max(1)
}

/// Of eight hashes, and the [words](ShortTags::words) that belong to them, which tuples may have records, as bits. Wrong once in 30
/// times where one has none.
#[inline(always)]
pub(super) fn may_have<S: Simd>(simd: S, hashes: S::Lanes, words: S::Lanes) -> u64 {
    let byte = simd.and(simd.shr::<40>(hashes), simd.splat(0xff));
    // One where it is zero, as above.
    let tag = simd.add(byte, simd.shr::<63>(simd.sub(byte, simd.splat(1))));
    !simd.zeros(simd.bytes_equal::<8>(tag, words)) & 0xff
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

    /// The tags that tuples of eight hashes would be among, as one word each.
    #[inline(always)]
    pub fn words<S: Simd>(&self, simd: S, hashes: S::Lanes, words: &mut [u64; LANES]) {
        let numbers = spread_low(simd, hashes, self.0.len());
        for (word, number) in words.iter_mut().zip(numbers) {
            // Relaxed: who answers a SYN that we have remembered does so long after.
            *word = load_bytes(&self.0[number as usize].0);
        }
    }

    /// A slot's record is now of a tuple of this hash. For who has its header busy.
    #[inline(always)]
    pub fn set(&self, slot: usize, hash: Hash) {
        // Relaxed: the header orders it.
        self.0[slot / SLOTS].0[slot % SLOTS].store(short_tag(hash), Ordering::Relaxed);
    }
}
