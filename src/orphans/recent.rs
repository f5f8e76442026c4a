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

/// The newest first.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Set([Cell<Last>; WAYS]);

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
        let Set(lasts) = self.set(hash);
        lasts.iter().filter(|last| last.get().tag == tag(hash)).for_each(|last| last.set(Last::default()));
    }

    /// A client's segment that may be repeated. If it is what the client had sent last, and no copy that the network made:
    /// what it had sent, and when.
    #[inline]
    pub(super) fn see(&self, hash: Hash, sighting: &Sighting, now: Time) -> Option<Track> {
        let Set(lasts) = self.set(hash);
        let Sighting { seq, end, ack, echo, .. } = *sighting;
        let at = (now.as_millis() / u64::from(TICK_MS)) as u16;
        let heard = ack ^ echo.wrapping_mul(0x9e37_79b1);
        let tag = tag(hash);
        let new = Last { tag, heard, seq, len: end.wrapping_sub(seq) as u16, at };
        let Some(place) = lasts.iter().find(|last| last.get().tag == tag) else {
            // The newer ones move up to the first free place, or onto the oldest: a client that is forgotten and comes back, as
            // each that gets answers does, is not to push out another.
            let free = lasts.iter().position(|last| last.get().tag == 0).unwrap_or(WAYS - 1);
            (1..=free).rev().for_each(|way| lasts[way].set(lasts[way - 1].get()));
            lasts[0].set(new);
            return None;
        };
        let last = place.get();
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
        place.set(if again { Last { len: last_end.wrapping_sub(seq) as u16, ..new } } else { new });
        None
    }
}
