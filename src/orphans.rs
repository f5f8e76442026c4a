//! Clients that repeat themselves without progress, as those of a dead member do: what the workers know of it.
//! [`docs/orphans.md`](../../docs/orphans.md) tells the whole, and why each rule is as it is.
//!
//! [`Suspicions::observe`] is shown every segment that is of no connection here. [`Recent`] remembers of each such client the
//! segment that it sent last; once that comes again, it is counted how often it does at a growing gap, as RFC 6298 (5.5) has
//! it sent again. What shows that somebody answers the client starts it anew, or ends it:
//!
//! | the client sends | then |
//! |---|---|
//! | new data, another acknowledgment number, another timestamp echo | begins anew: progress |
//! | a segment beyond the one that is repeated | begins anew: what lies before it was acknowledged |
//! | a segment before it, nothing new | goes on: a tail loss probe (RFC 8985, 7) repeats the last |
//! | no data and no FIN (an ACK, a keep-alive, a window probe) | ends: it was answered, or has nothing unanswered |
//! | one byte (other stacks' keep-alives and window probes) and no FIN | ends |
//!
//! Of who has repeated himself, a bounded table that all workers share: two cache lines for each hash, no allocation, no
//! waiting. What finds no room takes the place of the client seen longest ago, of those first that have begun anew. Whatever
//! gets lost by that, or because two workers meet at a client, only makes a proof longer.

mod recent;

use crate::frame::tcp::{self, Segment};
use crate::frame::{Mac, ethernet, ipv4};
use crate::simd::{LANES, Portable, Simd};
use crate::sync::{AtomicU8, AtomicU64, Ordering, load_bytes};
use crate::table::{Hash, Tuple, prefetch_by_low, spread_low};
use crate::time::Time;

pub use recent::Recent;

/// How often a client must have repeated itself, each time after a longer gap.
pub const REPEATS: u8 = 3;

/// What comes again sooner is a copy that the network made: no stack's shortest timeout is as short.
const GAP_MIN_MS: u32 = 20;

/// What comes again later was not repeated: Linux's longest timeout is two minutes (`TCP_RTO_MAX`).
const GAP_MAX_MS: u32 = 240_000;

/// By how much a gap must have grown, in quarters. Timeouts double; timers come late.
const GROWTH: (u32, u32) = (5, 4);

/// Clients of one hash: with their words they fill two cache lines.
const WAYS: usize = 4;

/// A client that repeats itself without progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Its connection.
    pub tuple: Tuple,
    /// Where the segment that it repeats begins.
    pub seq: u32,
    /// Where all that it was seen sending ends.
    pub end: u32,
    /// What it expects next.
    pub ack: u32,
}

/// A [`Suspicion`], and how the client is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// What it does.
    pub suspicion: Suspicion,
    /// The Ethernet source of its frames: its own, or that of the gateway in front of it.
    pub mac: Mac,
}

/// What counts of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    seq: u32,
    end: u32,
    ack: u32,
    /// 0 where timestamps are not in use, which is so on all of a connection's segments or none.
    echo: u32,
    /// See [`Segment::may_be_repeated`].
    repeated: bool,
}

impl Sighting {
    fn of(segment: &Segment<'_>) -> Sighting {
        let (flags, len) = (segment.flags(), segment.data_len() as u32);
        Sighting {
            seq: segment.seq(),
            end: segment.seq().wrapping_add(len + u32::from(flags.fin())),
            ack: segment.ack(),
            echo: segment.timestamps().map_or(0, |timestamps| timestamps.echo),
            repeated: segment.may_be_repeated(),
        }
    }
}

impl Sighting {
    /// Of a [common segment](crate::classify::common) that may be repeated: each field from its place in the frame.
    #[inline(always)]
    fn of_common(frame: &[u8]) -> Option<Sighting> {
        const IP: usize = ethernet::HEADER;
        const TCP: usize = IP + ipv4::HEADER;
        let head: &[u8; TCP + tcp::HEADER] = frame.first_chunk()?;
        // A chunk is one load; words put together from bytes are several.
        let seq_ack = u64::from_be_bytes(*head[TCP + 4..].first_chunk()?);
        let start = u32::from_be_bytes(*head[IP..].first_chunk()?);
        let end = u16::from_be_bytes(*head[TCP + 12..].first_chunk()?);
        let (seq, ack) = ((seq_ack >> 32) as u32, seq_ack as u32);
        let header_len = usize::from(end >> 12) * 4;
        let fin = u32::from(end & u16::from(tcp::Flags::FIN));
        let len = (start & 0xffff).wrapping_sub((ipv4::HEADER + header_len) as u32).wrapping_add(fin);
        let echo =
            if header_len == tcp::HEADER { 0 } else { tcp::echo_among_options(frame.get(TCP..TCP + header_len)?) };
        Some(Sighting { seq, end: seq.wrapping_add(len), ack, echo, repeated: true })
    }
}

/// What is remembered of a client. Times are in milliseconds, modulo 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Track {
    /// Where the segment begins that is, or may be, repeated.
    seq: u32,
    /// Where all that it was seen sending ends.
    end: u32,
    ack: u32,
    echo: u32,
    /// Repeats at growing gaps.
    count: u8,
    /// The gap before the last one that counted.
    gap: u32,
    /// When it last sent.
    last: u32,
}

/// What becomes of a [`Track`] by a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Forget,
    /// A copy that the network made.
    Same,
    Track(Track),
    /// It repeated itself, and that counts.
    Repeated(Track),
}

impl Track {
    fn begin(sighting: &Sighting, end: u32, now: u32) -> Track {
        let Sighting { seq, ack, echo, .. } = *sighting;
        Track { seq, end, ack, echo, count: 0, gap: 0, last: now }
    }

    fn next(self, sighting: &Sighting, now: u32) -> Next {
        if !sighting.repeated {
            return Next::Forget;
        }
        let gap = now.wrapping_sub(self.last);
        let answered = (sighting.ack, sighting.echo) != (self.ack, self.echo);
        if answered || gap > GAP_MAX_MS {
            return Next::Track(Track::begin(sighting, sighting.end, now));
        }
        if is_after(sighting.end, self.end) {
            return Next::Track(Track::begin(sighting, sighting.end, now));
        }
        if is_after(sighting.seq, self.seq) {
            return Next::Track(Track::begin(sighting, self.end, now));
        }
        if gap < GAP_MIN_MS {
            return Next::Same;
        }
        let later = Track { seq: sighting.seq, last: now, ..self };
        if self.count > 0 && gap * GROWTH.1 < self.gap * GROWTH.0 {
            return Next::Track(later);
        }
        Next::Repeated(Track { count: (self.count + 1).min(Meta::COUNT_MAX), gap, ..later })
    }
}

/// Whether sequence number `a` is after `b`.
fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// A slot's first word: bit 0 busy (one worker has it), bit 1 in use, bits 2 to 5 the count, 8 to 15 the VIP, 16 to 31
/// the gap in [`Meta::GAP_UNIT`] milliseconds, 32 to 63 when it last sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta(u64);

impl Meta {
    const EMPTY: Meta = Meta(0);
    const BUSY: u64 = 1;
    const IN_USE: u64 = 1 << 1;
    const COUNT_MAX: u8 = 15;
    const GAP_UNIT: u32 = 4;

    fn new(vip: u8, track: &Track) -> Meta {
        // At most GAP_MAX_MS / GAP_UNIT, which is less than 2^16.
        let gap = u64::from(track.gap / Meta::GAP_UNIT);
        let (count, vip, last) = (u64::from(track.count), u64::from(vip), u64::from(track.last));
        Meta(Meta::IN_USE | count << 2 | vip << 8 | gap << 16 | last << 32)
    }

    fn is_busy(self) -> bool {
        self.0 & Meta::BUSY != 0
    }

    fn is_of(self, vip: u8) -> bool {
        self.0 & (Meta::IN_USE | 0xff00) == Meta::IN_USE | u64::from(vip) << 8
    }

    fn count(self) -> u8 {
        (self.0 >> 2) as u8 & Meta::COUNT_MAX
    }

    fn gap(self) -> u32 {
        u32::from((self.0 >> 16) as u16) * Meta::GAP_UNIT
    }

    fn last(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How little is lost with it: the least first.
    fn worth(self, now: u32) -> (bool, bool, u32) {
        let age = now.wrapping_sub(self.last());
        let in_use = self.0 & Meta::IN_USE != 0 && age <= GAP_MAX_MS;
        (in_use, self.count() > 0, u32::MAX - age)
    }
}

/// Four words, written only by who has made the first of them busy.
#[derive(Debug, Default)]
struct Slot {
    meta: AtomicU64,
    /// [`Tuple::key`].
    key: AtomicU64,
    /// Sequence number and end.
    sent: AtomicU64,
    /// Acknowledgment number and echo.
    heard: AtomicU64,
}

impl Slot {
    fn meta(&self) -> Meta {
        // Acquire: the words are this one's, or later ones.
        Meta(self.meta.load(Ordering::Acquire))
    }

    fn has(&self, meta: Meta, tuple: &Tuple) -> bool {
        // Relaxed: who acts on it takes the slot and looks again.
        !meta.is_busy() && meta.is_of(tuple.vip) && self.key.load(Ordering::Relaxed) == tuple.key()
    }

    /// Takes the slot as it was seen, unless somebody else has it or has had it.
    fn take(&self, seen: Meta) -> Option<Taken<'_>> {
        // Acquire: pairs with the Release of who had it last.
        let taken =
            self.meta.compare_exchange(seen.0, seen.0 | Meta::BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok();
        taken.then_some(Taken { slot: self, meta: seen })
    }
}

/// A slot that is ours until this is dropped; then its first word is `meta`.
struct Taken<'a> {
    slot: &'a Slot,
    meta: Meta,
}

impl Taken<'_> {
    // Relaxed, here and below: the slot is ours, and its first word orders what others see.
    fn track(&self) -> Track {
        let (sent, heard) = (self.slot.sent.load(Ordering::Relaxed), self.slot.heard.load(Ordering::Relaxed));
        Track {
            seq: (sent >> 32) as u32,
            end: sent as u32,
            ack: (heard >> 32) as u32,
            echo: heard as u32,
            count: self.meta.count(),
            gap: self.meta.gap(),
            last: self.meta.last(),
        }
    }

    fn write(&mut self, tuple: &Tuple, track: &Track) {
        self.slot.key.store(tuple.key(), Ordering::Relaxed);
        self.slot.sent.store(u64::from(track.seq) << 32 | u64::from(track.end), Ordering::Relaxed);
        self.slot.heard.store(u64::from(track.ack) << 32 | u64::from(track.echo), Ordering::Relaxed);
        self.meta = Meta::new(tuple.vip, track);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Release: who takes it next sees our words.
        self.slot.meta.store(self.meta.0, Ordering::Release);
    }
}

/// The clients of one hash: two cache lines, which CPUs fetch as a pair.
#[repr(C, align(128))]
#[derive(Debug, Default)]
struct Bucket([Slot; WAYS]);

/// For each slot of a bucket eight bits of its client's hash, zero where there is none: so that an acknowledgment of a
/// client that is not watched, and most are not, ends after four bytes of a table that stays in the cache. A hint: it is
/// written by who has the slot, just before the slot's own words.
#[repr(align(4))]
#[derive(Debug, Default)]
struct Tags([AtomicU8; WAYS]);

impl Tags {
    fn of(hash: Hash) -> u8 {
        // Bits that do not choose the bucket (the lower half does).
        (hash.bits() >> 48) as u8 | 1
    }

    /// The slots that may have a client of this hash, as bits.
    #[inline]
    fn candidates(&self, hash: Hash) -> u32 {
        let mut candidates = 0;
        for (slot, tag) in self.0.iter().enumerate() {
            // Relaxed: as `Slot::has`. Who comes at the very instant at which a client is first watched was before it.
            candidates |= u32::from(tag.load(Ordering::Relaxed) == Tags::of(hash)) << slot;
        }
        candidates
    }
}

/// Who repeats himself. See the module.
#[derive(Debug)]
pub struct Suspicions {
    tags: Box<[Tags]>,
    buckets: Box<[Bucket]>,
}

impl Suspicions {
    /// Room for `clients`, rounded up to fours, at 33 bytes each.
    pub fn new(clients: usize) -> Suspicions {
        let buckets = clients.div_ceil(WAYS).max(1);
        Suspicions {
            tags: (0..buckets).map(|_| Tags::default()).collect(),
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
        }
    }

    #[inline]
    fn index(&self, hash: Hash) -> usize {
        // The lower half of the hash: the upper one chose the lines that were looked at before.
        hash.spread_low(self.buckets.len())
    }

    fn bucket(&self, hash: Hash) -> &Bucket {
        &self.buckets[self.index(hash)]
    }

    /// Asks the CPU for what [`tags`](Suspicions::tags) reads.
    #[inline(always)]
    pub(crate) fn prefetch_tags<S: Simd>(&self, simd: S, hashes: S::Lanes) {
        prefetch_by_low(&self.tags, simd, hashes);
    }

    /// The tags that clients of eight hashes would be among, as one word each.
    #[inline(always)]
    pub(crate) fn tags<S: Simd>(&self, simd: S, hashes: S::Lanes, tags: &mut [u64; LANES]) {
        let numbers = spread_low(simd, hashes, self.tags.len());
        for (tags, number) in tags.iter_mut().zip(numbers) {
            *tags = load_bytes(&self.tags[number as usize].0);
        }
    }

    /// Whether a client of this hash may be watched.
    #[inline]
    pub fn may_watch(&self, hash: Hash) -> bool {
        self.tags[self.index(hash)].candidates(hash) != 0
    }

    /// The same for eight hashes and the [words](Suspicions::tags) that belong to them, as bits.
    #[inline(always)]
    pub(crate) fn may_watch_any<S: Simd>(simd: S, hashes: S::Lanes, tags: S::Lanes) -> u64 {
        let tag = simd.or(simd.shr::<56>(simd.shl::<8>(hashes)), simd.splat(1));
        !simd.zeros(simd.bytes_equal::<4>(tag, tags)) & 0xff
    }

    /// A client's segment, without SYN, of no connection here, and what this worker has seen of late. Returns what it is
    /// suspected of once it has repeated itself [`REPEATS`] times, and at each repeat from then on.
    pub fn observe(
        &self,
        recent: &Recent,
        tuple: &Tuple,
        hash: Hash,
        segment: &Segment<'_>,
        now: Time,
    ) -> Option<Suspicion> {
        self.sighted(recent, tuple, hash, &Sighting::of(segment), now)
    }

    /// Whether it is enough to have seen a common segment that may be repeated, of a client that [is not
    /// watched](Suspicions::may_watch): it is new, or a copy that the network made. Else it is to be
    /// [observed](Suspicions::observe).
    #[inline(always)]
    pub(crate) fn is_first_sight<S: Simd>(simd: S, recent: &Recent, hash: Hash, frame: &[u8], now: Time) -> bool {
        Sighting::of_common(frame).is_none_or(|sighting| recent.see(simd, hash, &sighting, now).is_none())
    }

    fn sighted(
        &self,
        recent: &Recent,
        tuple: &Tuple,
        hash: Hash,
        sighting: &Sighting,
        time: Time,
    ) -> Option<Suspicion> {
        let now = time.as_millis() as u32;
        if !sighting.repeated {
            recent.forget(hash);
        }
        let index = self.index(hash);
        let (tags, bucket) = (&self.tags[index], &self.buckets[index]);
        let mut candidates = tags.candidates(hash);
        while candidates != 0 {
            let slot = &bucket.0[candidates.trailing_zeros() as usize];
            candidates &= candidates - 1;
            let meta = slot.meta();
            if slot.has(meta, tuple) {
                let mut taken = slot.take(meta)?;
                if slot.key.load(Ordering::Relaxed) != tuple.key() {
                    return None;
                }
                return go_on(&mut taken, tuple, sighting, now);
            }
        }
        if !sighting.repeated {
            return None;
        }
        let Next::Repeated(track) = recent.see(Portable, hash, sighting, time)?.next(sighting, now) else {
            return None;
        };
        let metas = bucket.0.iter().zip(&tags.0).map(|(slot, tag)| (slot, tag, slot.meta()));
        let least = metas.filter(|(_, _, meta)| !meta.is_busy()).min_by_key(|(_, _, meta)| meta.worth(now));
        if let Some((slot, tag, meta)) = least
            && let Some(mut taken) = slot.take(meta)
        {
            tag.store(Tags::of(hash), Ordering::Relaxed);
            taken.write(tuple, &track);
        }
        None
    }

    /// Whether the client has gone on as it did, without anything that would be progress; for how long it has been
    /// silent, if so.
    pub fn still(&self, suspicion: &Suspicion, hash: Hash, now: Time) -> Option<std::time::Duration> {
        let tuple = &suspicion.tuple;
        let slot =
            self.bucket(hash).0.iter().map(|slot| (slot, slot.meta())).find(|(slot, meta)| slot.has(*meta, tuple));
        let taken = slot.and_then(|(slot, meta)| slot.take(meta))?;
        let track = taken.track();
        let same = taken.slot.key.load(Ordering::Relaxed) == tuple.key()
            && track.count >= REPEATS
            && (track.end, track.ack) == (suspicion.end, suspicion.ack);
        let silent = (now.as_millis() as u32).wrapping_sub(track.last);
        same.then(|| std::time::Duration::from_millis(silent.into()))
    }
}

fn go_on(taken: &mut Taken<'_>, tuple: &Tuple, sighting: &Sighting, now: u32) -> Option<Suspicion> {
    match taken.track().next(sighting, now) {
        Next::Forget => taken.meta = Meta::EMPTY,
        Next::Same => {}
        Next::Track(track) => taken.write(tuple, &track),
        Next::Repeated(track) => {
            taken.write(tuple, &track);
            let Track { seq, end, ack, count, .. } = track;
            return (count >= REPEATS).then_some(Suspicion { tuple: *tuple, seq, end, ack });
        }
    }
    None
}

#[cfg(test)]
mod tests;
