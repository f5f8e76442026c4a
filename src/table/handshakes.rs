//! [`Handshakes`]: the SYNs of the last while, handed to our host or not, which a flood may overwrite.

mod sightings;

use arrayvec::ArrayVec;

use super::hash::Hash;
use super::headers::{Headers, Look, SLOTS};
use super::memory::{Region, TableError, prefetch};
use super::record::{ANSWERS, Answer, AnswerWords, Header, Record, Remembered, Stage};
use super::short_tags::{self, ShortTags};
use super::tuple::{MAX_VIPS, Tuple};
use crate::config::checked::HugePages;
use crate::simd::{LANES, Simd};
use crate::sync::{AtomicU64, Ordering, fence, store_and_fence};
use crate::time::Time;
use sightings::{Sighting, Sightings};

/// The most records of one tuple: a client that uses its port again, and spoofers who know it.
pub const RECORDS_PER_TUPLE: usize = 4;

/// The most records: slots are counted in 32 bits.
const RECORDS_MAX: usize = 1 << 31;

/// How often `remember` starts anew because another thread took the slot it was about to take.
const ATTEMPTS: usize = 32;

/// What a header has no room for: one cache line. Belongs to the record whose generation the header has, and is
/// written while the header says busy, but for the answers, which carry their record's generation each.
#[repr(C, align(64))]
#[derive(Default)]
struct Body {
    /// [`Tuple::key`].
    key: AtomicU64,
    /// Bits 0 to 7 the VIP, 32 to 63 the client's ISN.
    rest: AtomicU64,
    answers: [AtomicU64; ANSWERS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Body>() == 64);

/// Eight records: nine cache lines, so that header and body of one mostly lie on the same page. Where a page is small, or the
/// hypervisor's are, that spares each SYN a look at the page tables, which it would have to wait for.
#[repr(C)]
#[derive(Default)]
struct Bucket {
    headers: Headers,
    bodies: [Body; SLOTS],
}

/// The ring of handshakes.
pub struct Handshakes {
    buckets: Region<Bucket>,
    short_tags: ShortTags,
}

/// What a look at a bucket has told of a SYN that is to be remembered some time after.
#[derive(Clone, Copy)]
pub struct Outlook {
    /// Whose place it takes.
    slot: u32,
    victim: Header,
    /// No record has its tag, and there is a victim.
    new: bool,
}

impl Outlook {
    /// What an array is filled with before there is anything in it.
    pub const NONE: Outlook = Outlook { slot: 0, victim: Header::from_bits(0), new: false };
}

/// What identifies a record.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    key: u64,
    rest: u64,
}

impl Identity {
    fn new(tuple: &Tuple, client_isn: u32) -> Identity {
        Identity { key: tuple.key(), rest: u64::from(client_isn) << 32 | u64::from(tuple.vip) }
    }

    fn same_tuple(self, other: Identity) -> bool {
        self.key == other.key && self.rest as u32 == other.rest as u32
    }
}

/// Where the record of a SYN is, or is to go.
enum Place {
    Known,
    /// Over what is in this slot.
    Take(usize, Header),
    /// It was about to take a slot that another thread has taken.
    Changed,
    AllBusy,
}

impl Handshakes {
    /// Room for `records` SYNs, rounded up to eights, at 73 bytes each.
    ///
    /// # Errors
    /// No records or more than 2³¹; memory that the system does not give.
    pub fn new(records: usize, huge_pages: HugePages) -> Result<Handshakes, TableError> {
        if records == 0 || records > RECORDS_MAX {
            return Err(TableError::Size { asked: records, most: RECORDS_MAX });
        }
        let buckets = records.div_ceil(SLOTS);
        Ok(Handshakes { buckets: Region::new(buckets, huge_pages)?, short_tags: ShortTags::new(buckets, huge_pages)? })
    }

    /// How many records there is room for.
    pub fn capacity(&self) -> usize {
        self.buckets.len() * SLOTS
    }

    /// Asks the CPU for the line that every call with this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: Hash) {
        prefetch(&self.home(hash).headers);
    }

    /// A look ahead of what is to be done with a tuple of this hash: asks the CPU for the lines that
    /// [`remember_foreseen`](Handshakes::remember_foreseen) will most likely write, or a call for a tuple that has a record
    /// will read. Worth it some time after [`prefetch`](Handshakes::prefetch), as it needs that line.
    #[inline(always)]
    pub fn foresee<S: Simd>(&self, simd: S, hash: Hash, now: Time) -> Outlook {
        let (number, bucket) = self.buckets.home_by_low(hash);
        let look = bucket.headers.look_by(simd, Header::tag(hash), now.as_millis() as u32);
        // The first of those that have the tag, else the victim.
        let candidate = (look.candidates | 1 << SLOTS).trailing_zeros() as usize;
        let within = if candidate == SLOTS { look.likely_victim() } else { candidate };
        prefetch(&bucket.bodies[within % SLOTS]);
        self.short_tags.prefetch(hash);
        let victim = Header::from_bits(bucket.headers.0[within % SLOTS].load(Ordering::Relaxed));
        Outlook { slot: (number * SLOTS + within) as u32, victim, new: look.candidates == 0 && look.victim().is_some() }
    }

    /// [`remember`](Handshakes::remember) of what was foreseen some time ago: if the bucket still is as it was, and the tuple
    /// has no record, as nearly always, the record is written without another look for its place.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // Those of `remember`, and two that make it faster.
    pub fn remember_foreseen<S: Simd>(
        &self,
        simd: S,
        outlook: Outlook,
        tuple: &Tuple,
        hash: Hash,
        client_isn: u32,
        admitted: bool,
        now: Time,
    ) -> Remembered {
        let Outlook { slot, victim, new } = outlook;
        let slot = slot as usize;
        let identity = Identity::new(tuple, client_isn);
        // The victim's header is exchanged only if it is the same. With the tag it would be no victim: another thread may have
        // begun a record of this very SYN meanwhile.
        if new
            && !self.most_likely_has(simd, hash)
            && let Some(header) = self.write(slot, victim, identity, hash, Stage::of(admitted), now)
        {
            let others = simd.equal(&self.buckets[slot / SLOTS].headers, Header::TAG, Header::tag(hash));
            if others & !(1 << (slot % SLOTS)) == 0 || self.stays_among_candidates(hash, slot, header, identity, now) {
                return Remembered::New;
            }
        }
        self.remember(tuple, hash, client_isn, admitted, now)
    }

    /// Remembers a SYN, or sees again one that is remembered. `admitted`: it goes to our host. A record that was merely
    /// [`Seen`](Stage::Seen) is then [`Admitted`](Stage::Admitted); at any other stage it stays.
    ///
    /// A new record takes, in this order: where the tuple has four already, the oldest of those that another member won more
    /// than a second ago, else of those that nobody answered, else of them all; a slot that is empty or out of date; the bucket's oldest.
    ///
    /// Two workers may remember one SYN at the same time. As in [`Established`](super::Established), each looks again
    /// after a fence, and one record goes: the one that our host has not answered, else the one in the
    /// earlier slot, so that who finds it gone comes to the other later.
    #[cold]
    pub fn remember(&self, tuple: &Tuple, hash: Hash, client_isn: u32, admitted: bool, now: Time) -> Remembered {
        let identity = Identity::new(tuple, client_isn);
        let stage = Stage::of(admitted);
        for _ in 0..ATTEMPTS {
            let (slot, victim) = match self.place(hash, identity, now) {
                Place::Take(slot, victim) => (slot, victim),
                Place::Known => match self.see_again(hash, identity, admitted, now) {
                    Some(record) => return Remembered::Known(record),
                    None => continue,
                },
                Place::Changed | Place::AllBusy => continue,
            };
            let Some(header) = self.write(slot, victim, identity, hash, stage, now) else {
                continue;
            };
            if self.stays(hash, slot, header, identity, now) {
                return Remembered::New;
            }
        }
        Remembered::Crowded
    }

    /// Asks the CPU for what [`tags`](Handshakes::tags) reads.
    #[inline(always)]
    pub fn prefetch_tags<S: Simd>(&self, simd: S, hashes: S::Lanes) {
        self.short_tags.prefetch_group(simd, hashes);
    }

    /// For each of eight hashes a word of a table that mostly lies in a cache.
    #[inline(always)]
    pub fn tags<S: Simd>(&self, simd: S, hashes: S::Lanes, tags: &mut [u64; LANES]) {
        self.short_tags.words(simd, hashes, tags);
    }

    /// Of eight hashes, and the [words](Handshakes::tags) that belong to them, which tuples may have records, as bits. Wrong once in
    /// 30 times where a tuple has none.
    #[inline(always)]
    pub fn may_have<S: Simd>(simd: S, hashes: S::Lanes, tags: S::Lanes) -> u64 {
        short_tags::may_have(simd, hashes, tags)
    }

    /// The same by one line of the table itself, wrong once in 500 times.
    #[inline(always)]
    pub fn most_likely_has<S: Simd>(&self, simd: S, hash: Hash) -> bool {
        simd.equal(&self.home(hash).headers, Header::TAG, Header::tag(hash)) != 0
    }

    /// The tuple's records, newest first.
    #[inline]
    pub fn find(&self, tuple: &Tuple, hash: Hash, now: Time) -> ArrayVec<Record, RECORDS_PER_TUPLE> {
        // Nearly every segment of a connection that is not ours ends here, after one line.
        if self.home(hash).headers.candidates(Header::tag(hash)) == 0 {
            return ArrayVec::new();
        }
        self.find_among_candidates(tuple, hash, now)
    }

    fn find_among_candidates(&self, tuple: &Tuple, hash: Hash, now: Time) -> ArrayVec<Record, RECORDS_PER_TUPLE> {
        let identity = Identity::new(tuple, 0);
        let mut sightings = self.sightings(hash, now).filter(|sighting| sighting.identity.same_tuple(identity));
        let mut records = ArrayVec::new();
        let Some(first) = sightings.next() else { return records };
        let Some(second) = sightings.next() else {
            records.extend(first.record());
            return records;
        };
        let mut found = ArrayVec::<Sighting, SLOTS>::from_iter([first, second]);
        found.extend(sightings);
        found.sort_unstable_by_key(|sighting| (sighting.age, sighting.slot));
        records.extend(found.iter().filter_map(Sighting::record).take(RECORDS_PER_TUPLE));
        records
    }

    /// Records what our host answered to the SYN with this ISN, before that goes out; returns how far the handshake is.
    /// `None`: there is no record of that SYN (any more), and the answer must not go out, as nobody could tell whose
    /// the connection is.
    pub fn answer(&self, tuple: &Tuple, hash: Hash, client_isn: u32, answer: Answer, now: Time) -> Option<Stage> {
        let identity = Identity::new(tuple, client_isn);
        let found = self.sightings(hash, now).find(|sighting| sighting.identity == identity)?;
        let body = self.body(found.slot);
        let mut words = found.answers;
        // A turn after the first: another answer to the same SYN came between.
        while let Some((index, word)) = words.place(found.header, answer) {
            // Release: pairs with the Acquire of who reads it. A slot that has begun another record since is no harm:
            // the word names ours.
            let exchanged =
                body.answers[index].compare_exchange(words.0[index], word, Ordering::Release, Ordering::Relaxed);
            if exchanged.is_ok() {
                break;
            }
            words = body.answers();
        }
        // Only now is it known that the record was still there when the answer got into it.
        self.update(found.slot, found.header, |header| Some(header.with_answer()))?.stage()
    }

    /// Moves a record to another stage. True for exactly one of several callers that saw it at the same stage: false if
    /// another came first, or if the record is gone.
    pub fn settle(&self, record: &Record, stage: Stage) -> bool {
        self.update(record.slot as usize, record.header, |header| {
            (header.stage() == Some(record.stage)).then(|| header.with_stage(stage))
        })
        .is_some()
    }

    /// Adds the pending handshakes of each VIP to `pending`, and empties records that are out of date. Reads all
    /// headers: for the control thread, now and then.
    pub fn tally(&self, now: Time, pending: &mut [usize; MAX_VIPS]) {
        for slot in 0..self.capacity() {
            let header = self.header(slot);
            match header.stage() {
                Some(_) if header.age(now).is_none() => {
                    let empty = header.empty().bits();
                    // Relaxed: nothing was written that others must see. If it fails, the record is not old any more.
                    let _ =
                        self.atomic(slot).compare_exchange(header.bits(), empty, Ordering::Relaxed, Ordering::Relaxed);
                }
                Some(Stage::Admitted) => {
                    if let Some((identity, _)) = self.read(slot, header) {
                        pending[identity.rest as usize & 0xff] += 1;
                    }
                }
                _ => {}
            }
        }
    }

    #[inline]
    fn home(&self, hash: Hash) -> &Bucket {
        self.buckets.home_by_low(hash).1
    }

    /// One look at a bucket: its first slot, and what its headers tell.
    #[inline]
    fn look(&self, hash: Hash, now: Time) -> (usize, Look) {
        let (number, bucket) = self.buckets.home_by_low(hash);
        (number * SLOTS, bucket.headers.look(Header::tag(hash), now.as_millis() as u32))
    }

    #[inline]
    fn atomic(&self, slot: usize) -> &AtomicU64 {
        &self.buckets[slot / SLOTS].headers.0[slot % SLOTS]
    }

    #[inline]
    fn body(&self, slot: usize) -> &Body {
        &self.buckets[slot / SLOTS].bodies[slot % SLOTS]
    }

    #[inline]
    fn header(&self, slot: usize) -> Header {
        // Acquire: the body is of this record, or of one that came later.
        Header::from_bits(self.atomic(slot).load(Ordering::Acquire))
    }

    /// The bucket's records with the hash's tag that are not out of date, in the order of slots.
    #[inline]
    fn sightings(&self, hash: Hash, now: Time) -> Sightings<'_> {
        let ((number, bucket), tag) = (self.buckets.home_by_low(hash), Header::tag(hash));
        Sightings { ring: self, bucket: number, tag, now, candidates: bucket.headers.candidates(tag) }
    }

    /// The body of a slot if it is, as a whole, of this header's record.
    #[inline]
    fn read(&self, slot: usize, header: Header) -> Option<(Identity, AnswerWords)> {
        let body = self.body(slot);
        let identity = Identity { key: body.key.load(Ordering::Relaxed), rest: body.rest.load(Ordering::Relaxed) };
        let answers = body.answers();
        // Acquire: if any word above is of a later record, the header below is of that record too (its writer has a
        // Release fence between making the header busy and the first word).
        fence(Ordering::Acquire);
        // Acquire here too: if the record is gone, where its remover saw another of the same SYN, so do we.
        let again = self.header(slot);
        header.same_record(again).then_some((identity, answers))
    }

    /// Where the record of a SYN is, or is to go. All from one look at the headers, unless some have the tag.
    #[inline]
    fn place(&self, hash: Hash, identity: Identity, now: Time) -> Place {
        let (first, look) = self.look(hash, now);
        if look.candidates != 0
            && let Some(place) = self.place_among_candidates(hash, identity, now)
        {
            return place;
        }
        let Some((slot, readiness)) = look.victim() else { return Place::AllBusy };
        let victim = self.header(first + slot);
        // Another thread may have begun a record there since, of this very SYN perhaps, which is not to go.
        let tagged = look.candidates >> slot & 1 != 0;
        let same = victim.readiness(now.as_millis() as u32) == readiness && victim.has_tag(Header::tag(hash)) == tagged;
        if same { Place::Take(first + slot, victim) } else { Place::Changed }
    }

    /// The same where the tuple may have records: `None` if one more may take any slot.
    #[cold]
    fn place_among_candidates(&self, hash: Hash, identity: Identity, now: Time) -> Option<Place> {
        let (mut own, mut least) = (0, None);
        for sighting in self.sightings(hash, now) {
            if sighting.identity == identity {
                return Some(Place::Known);
            }
            if sighting.identity.same_tuple(identity) {
                own += 1;
                // The least: long won by another, then not answered, then the rest; old before young.
                let rank = (sighting.header.worth(sighting.age), u32::MAX - sighting.age);
                if least.is_none_or(|(_, _, least_rank)| rank < least_rank) {
                    least = Some((sighting.slot, sighting.header, rank));
                }
            }
        }
        least.filter(|_| own >= RECORDS_PER_TUPLE).map(|(slot, header, _)| Place::Take(slot, header))
    }

    /// Writes a record over `victim`, and fences; `None` if the slot has changed meanwhile.
    #[inline]
    fn write(
        &self,
        slot: usize,
        victim: Header,
        identity: Identity,
        hash: Hash,
        stage: Stage,
        now: Time,
    ) -> Option<Header> {
        let busy = victim.next_busy();
        // Acquire: the last writer's words come before ours.
        let taken =
            self.atomic(slot).compare_exchange(victim.bits(), busy.bits(), Ordering::Acquire, Ordering::Relaxed);
        taken.ok()?;
        // Release: who reads a word below sees the header busy at least; pairs with the fence in `read`.
        fence(Ordering::Release);
        let body = self.body(slot);
        body.key.store(identity.key, Ordering::Relaxed);
        body.rest.store(identity.rest, Ordering::Relaxed);
        // An old answer's generation would come round again.
        for answer in &body.answers {
            answer.store(0, Ordering::Relaxed);
        }
        // Nobody else writes this byte while the header is busy, and it is published by that.
        self.short_tags.set(slot, hash);
        let header = busy.record(Header::tag(hash), stage, now);
        // The store is a Release: who acquires the header sees the body. Nobody else writes a busy header. The fence: of two
        // threads that publish the same and then look, at least one sees both.
        store_and_fence(self.atomic(slot), header.bits());
        Some(header)
    }

    /// Settles with other records of the same SYN whether ours, just written, stays.
    #[inline]
    fn stays(&self, hash: Hash, slot: usize, written: Header, identity: Identity, now: Time) -> bool {
        let others = self.home(hash).headers.candidates(Header::tag(hash)) & !(1 << (slot % SLOTS));
        others == 0 || self.stays_among_candidates(hash, slot, written, identity, now)
    }

    #[cold]
    fn stays_among_candidates(&self, hash: Hash, slot: usize, written: Header, identity: Identity, now: Time) -> bool {
        loop {
            let other =
                self.sightings(hash, now).find(|sighting| sighting.identity == identity && sighting.slot != slot);
            let ours = self.header(slot);
            let Some(other) = other.filter(|_| written.same_record(ours)) else {
                return true;
            };
            let ours_goes = match (ours.has_answer(), other.header.has_answer()) {
                (false, false) => slot < other.slot,
                (false, true) => true,
                (true, false) => false,
                // Answers to one SYN by two threads at once: both count.
                (true, true) => return true,
            };
            let (loser, header) = if ours_goes { (slot, ours) } else { (other.slot, other.header) };
            let empty = header.empty().bits();
            // Release: who finds it gone sees the other, as we do. If it fails, it has changed: look again.
            let gone =
                self.atomic(loser).compare_exchange(header.bits(), empty, Ordering::Release, Ordering::Relaxed).is_ok();
            if gone && ours_goes {
                return false;
            }
        }
    }

    /// A retransmission: the record is young again, and admitted if it was merely seen. `None` if it has gone meanwhile.
    #[cold]
    fn see_again(&self, hash: Hash, identity: Identity, admitted: bool, now: Time) -> Option<Record> {
        let mut known = self.sightings(hash, now).find(|sighting| sighting.identity == identity)?;
        known.header = self.update(known.slot, known.header, |header| {
            let admit = admitted && header.stage() == Some(Stage::Seen);
            Some(if admit { header.with_stage(Stage::Admitted) } else { header }.with_time(now))
        })?;
        known.age = 0;
        known.record()
    }

    /// Exchanges a record's header for `change` of it, as often as it takes while it is the same record. `None` if it
    /// is another, or `change` refuses.
    fn update(&self, slot: usize, seen: Header, change: impl Fn(Header) -> Option<Header>) -> Option<Header> {
        let mut header = seen;
        loop {
            let new = change(header)?;
            // AcqRel: what led to this stage is seen by who sees the stage.
            match self.atomic(slot).compare_exchange(header.bits(), new.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(new),
                Err(now) if seen.same_record(Header::from_bits(now)) => header = Header::from_bits(now),
                Err(_) => return None,
            }
        }
    }
}

impl Body {
    #[inline]
    fn answers(&self) -> AnswerWords {
        // Acquire: pairs with the Release of who appended one.
        AnswerWords(std::array::from_fn(|index| self.answers[index].load(Ordering::Acquire)))
    }
}
