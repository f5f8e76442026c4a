//! [`Recent`]: what each client of nobody here has sent last, so that it is noticed when that comes again.
//!
//! Nearly every segment with data of another member's connection is looked at once and never again. So the first sight is
//! cheap: one cache line, of a table that the worker has for itself (a device's queues part frames by connections; where they do not, a
//! proof takes longer). Only who repeats himself gets a place among [`Suspicions`](super::Suspicions), which all workers share.

use std::cell::Cell;

use super::{GAP_MAX_MS, GAP_MIN_MS, Sighting, Track, is_after};
use crate::simd::Simd;
use crate::table::{Hash, prefetch_by_low};
use crate::time::Time;

/// Clients of one hash: a cache line.
const WAYS: usize = 4;

/// The unit of times: 16 bits then wrap around after 524 s. What was seen longer ago than [`GAP_MAX_MS`] and comes again just
/// then would count as one repeat; no stack waits so long.
const TICK_MS: u32 = 8;

/// The last new segment of a client.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// Half of the tuple's hash: the set is chosen by the other. Never zero where there is a client. That one of the four is
    /// taken for another client's is as likely as 1 in 2³⁰, and makes one repeat of it.
    tag: u32,
    /// Acknowledgment number and timestamp echo: one of two that differ looks the same as often.
    heard: u32,
    seq: u32,
    /// Bytes of sequence numbers: data and FIN.
    len: u16,
    /// When, in units of [`TICK_MS`].
    at: u16,
}

impl Last {
    #[inline(always)]
    fn words(self) -> [u64; 2] {
        let Last { tag, heard, seq, len, at } = self;
        [u64::from(heard) << 32 | u64::from(tag), u64::from(at) << 48 | u64::from(len) << 32 | u64::from(seq)]
    }

    #[inline(always)]
    fn of([first, second]: [u64; 2]) -> Last {
        Last {
            tag: first as u32,
            heard: (first >> 32) as u32,
            seq: second as u32,
            len: (second >> 32) as u16,
            at: (second >> 48) as u16,
        }
    }
}

/// The [words](Last::words) of each, the newest first.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Set(Cell<[u64; 2 * WAYS]>);

impl Set {
    /// Whose tag is this one, as bits: that of way `w` is bit 2 × w.
    #[inline(always)]
    fn with_tag<S: Simd>(&self, simd: S, tag: u32) -> u64 {
        let differences = simd.xor(simd.load(&self.0.get()), simd.splat(tag.into()));
        simd.zeros(simd.and(differences, simd.splat(0xffff_ffff))) & 0b0101_0101
    }

    /// The words of a way, to be changed where they lie.
    #[inline(always)]
    fn way(&self, way: usize) -> [&Cell<u64>; 2] {
        let words: &Cell<[u64]> = &self.0;
        let words = words.as_slice_of_cells();
        [&words[2 * way % (2 * WAYS)], &words[(2 * way + 1) % (2 * WAYS)]]
    }

    /// A new client's. The newer ones move up to the first free place, or onto the oldest: a client that is forgotten and comes
    /// back, as each that gets answers does, is not to push out another.
    #[inline(always)]
    fn enter<S: Simd>(&self, simd: S, new: Last) {
        let [a, b, c, d, e, f, g, h] = self.0.get();
        let [y, z] = new.words();
        let free = self.with_tag(simd, 0);
        self.0.set(match free.trailing_zeros() {
            0 => [y, z, c, d, e, f, g, h],
            2 => [y, z, a, b, e, f, g, h],
            4 => [y, z, a, b, c, d, g, h],
            _ => [y, z, a, b, c, d, e, f],
        });
    }
}

const _: () = assert!(size_of::<Set>() == 64);

/// Of a hash.
#[inline(always)]
fn tag(hash: Hash) -> u32 {
    (hash.bits() >> 32) as u32 | 1
}

/// See the module. Of one worker.
#[derive(Debug)]
pub struct Recent {
    sets: Box<[Set]>,
}

impl Recent {
    /// Room for `clients`, rounded up to fours, at 16 bytes each.
    pub fn new(clients: usize) -> Recent {
        Recent { sets: (0..clients.div_ceil(WAYS).max(1)).map(|_| Set::default()).collect() }
    }

    #[inline(always)]
    fn set(&self, hash: Hash) -> &Set {
        &self.sets[hash.spread_low(self.sets.len())]
    }

    /// Asks the CPU for the lines that [`see`](Recent::see) works on, for eight hashes.
    #[inline(always)]
    pub(crate) fn prefetch<S: Simd>(&self, simd: S, hashes: S::Lanes) {
        prefetch_by_low(&self.sets, simd, hashes);
    }

    /// Nothing is known of the client any more.
    pub(super) fn forget(&self, hash: Hash) {
        let set = self.set(hash);
        let same = (0..WAYS).map(|way| set.way(way)).filter(|way| Last::of(way.map(Cell::get)).tag == tag(hash));
        same.flatten().for_each(|word| word.set(0));
    }

    /// A client's segment that may be repeated. If it is what the client had sent last, and no copy that the network made:
    /// what it had sent, and when.
    #[inline(always)]
    pub(super) fn see<S: Simd>(&self, simd: S, hash: Hash, sighting: &Sighting, now: Time) -> Option<Track> {
        let set = self.set(hash);
        let Sighting { seq, end, ack, echo, .. } = *sighting;
        let at = (now.as_millis() / u64::from(TICK_MS)) as u16;
        let heard = ack ^ echo.wrapping_mul(0x9e37_79b1);
        let new = Last { tag: tag(hash), heard, seq, len: end.wrapping_sub(seq) as u16, at };
        let same = set.with_tag(simd, new.tag);
        if same == 0 {
            set.enter(simd, new);
            return None;
        }
        let place = set.way(same.trailing_zeros() as usize / 2);
        let last = Last::of(place.map(Cell::get));
        let last_end = last.seq.wrapping_add(last.len.into());
        let gap = u32::from(at.wrapping_sub(last.at)) * TICK_MS;
        // The longest gap is a tick less, as this one may be told a tick too short; and one more below.
        let again = (heard == last.heard) & !is_after(end, last_end) & (gap + TICK_MS <= GAP_MAX_MS);
        if again & !is_after(seq, last.seq) {
            let track = Track {
                seq: last.seq,
                end: last_end,
                ack,
                echo,
                count: 0,
                gap: 0,
                last: (now.as_millis() as u32).wrapping_sub(gap),
            };
            return (gap >= GAP_MIN_MS + TICK_MS).then_some(track);
        }
        // Progress: it begins anew. The end of all that was sent stays where it was, if this is a part of it.
        let new = if again { Last { len: last_end.wrapping_sub(seq) as u16, ..new } } else { new };
        place.iter().zip(new.words()).for_each(|(place, word)| place.set(word));
        None
    }
}
