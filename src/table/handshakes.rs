//! [`Handshakes`]: the SYNs of the last while, handed to our host or not, which a flood may overwrite.

use std::time::Duration;

use arrayvec::ArrayVec;

use super::hash::Hash;
use super::memory::{Region, TableError, prefetch};
use super::record::{ANSWERS, Answer, AnswerWords, Header, Record, Remembered, Stage};
use super::tuple::{MAX_VIPS, Tuple};
use crate::config::checked::HugePages;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::time::Time;

/// Records of a bucket: their headers fill a cache line.
const SLOTS: usize = 8;

/// The most records of one tuple: a client that uses its port again, and spoofers who know it.
pub const RECORDS_PER_TUPLE: usize = 4;

/// The most records: slots are counted in 32 bits.
const RECORDS_MAX: usize = 1 << 31;

/// How often `remember` starts anew because another thread took the slot it was about to take.
const ATTEMPTS: usize = 32;

/// The headers of a bucket's records: one cache line.
#[repr(C, align(64))]
#[derive(Default)]
struct Headers([AtomicU64; SLOTS]);

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
const _: () = assert!(size_of::<Headers>() == 64 && size_of::<Body>() == 64);

/// The ring of handshakes.
pub struct Handshakes {
    headers: Region<Headers>,
    bodies: Region<Body>,
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
    Known(Sighting),
    /// Over what is in this slot.
    Take(usize, Header),
    AllBusy,
}

/// A record found in a bucket.
#[derive(Clone, Copy)]
struct Sighting {
    slot: usize,
    header: Header,
    age: u32,
    identity: Identity,
    answers: AnswerWords,
}

impl Sighting {
    fn record(&self) -> Option<Record> {
        Some(Record {
            slot: self.slot as u32,
            header: self.header,
            client_isn: (self.identity.rest >> 32) as u32,
            stage: self.header.stage()?,
            age: Duration::from_millis(self.age.into()),
            answers: self.answers.of(self.header),
        })
    }
}

impl Handshakes {
    /// Room for `records` SYNs, rounded up to eights, at 72 bytes each.
    ///
    /// # Errors
    /// No records or more than 2³¹; memory that the system does not give.
    pub fn new(records: usize, huge_pages: HugePages) -> Result<Handshakes, TableError> {
        if records == 0 || records > RECORDS_MAX {
            return Err(TableError::Size { asked: records, most: RECORDS_MAX });
        }
        let buckets = records.div_ceil(SLOTS);
        Ok(Handshakes { headers: Region::new(buckets, huge_pages)?, bodies: Region::new(buckets * SLOTS, huge_pages)? })
    }

    /// How many records there is room for.
    pub fn capacity(&self) -> usize {
        self.bodies.len()
    }

    /// Asks the CPU for the line that every call with this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: Hash) {
        prefetch(&self.headers[self.bucket(hash)]);
    }

    /// Asks the CPU for the line that [`remember`](Handshakes::remember) will most likely write, or a call for a tuple
    /// that has a record will read. Worth it some time after [`prefetch`](Handshakes::prefetch), as it needs that line.
    #[inline]
    pub fn prefetch_record(&self, hash: Hash, now: Time) {
        let bucket = self.bucket(hash);
        let candidates = self.headers[bucket].candidates(Header::tag(hash));
        let slot = match candidates {
            0 => self.oldest(hash, now).map(|(slot, _)| slot),
            _ => Some(bucket * SLOTS + candidates.trailing_zeros() as usize),
        };
        if let Some(slot) = slot {
            prefetch(&self.bodies[slot]);
        }
    }

    /// Remembers a SYN, or sees again one that is remembered. `admitted`: it goes to our host. A record that was merely
    /// [`Seen`](Stage::Seen) is then [`Admitted`](Stage::Admitted); at any other stage it stays.
    ///
    /// A new record takes, in this order: where the tuple has four already, the oldest of those that nobody answered,
    /// else the oldest of them; a slot that is empty or out of date; the bucket's oldest.
    ///
    /// Two workers may remember one SYN at the same time. As in [`Established`](super::Established), each looks again
    /// after a fence, and one record goes: the one that our host has not answered, else the one in the
    /// earlier slot, so that who finds it gone comes to the other later.
    pub fn remember(&self, tuple: &Tuple, hash: Hash, client_isn: u32, admitted: bool, now: Time) -> Remembered {
        let identity = Identity::new(tuple, client_isn);
        let stage = if admitted { Stage::Admitted } else { Stage::Seen };
        for _ in 0..ATTEMPTS {
            let (slot, victim) = match self.place(hash, identity, now) {
                Place::Known(known) => match self.see_again(known, admitted, now) {
                    Some(record) => return Remembered::Known(record),
                    None => continue,
                },
                Place::Take(slot, victim) => (slot, victim),
                Place::AllBusy => continue,
            };
            let Some(header) = self.write(slot, victim, identity, Header::tag(hash), stage, now) else {
                continue;
            };
            // SeqCst: of two threads that publish the same and then look, at least one sees both.
            fence(Ordering::SeqCst);
            if self.stays(hash, slot, header, identity, now) {
                let (slot, age, answers) = (slot as u32, Duration::ZERO, ArrayVec::new());
                return Remembered::New(Record { slot, header, client_isn, stage, age, answers });
            }
        }
        Remembered::Crowded
    }

    /// Whether a tuple with this hash may have records: one line read, and wrong once in 500 times where it has none.
    #[inline]
    pub fn may_have(&self, hash: Hash) -> bool {
        self.headers[self.bucket(hash)].candidates(Header::tag(hash)) != 0
    }

    /// The tuple's records, newest first.
    #[inline]
    pub fn find(&self, tuple: &Tuple, hash: Hash, now: Time) -> ArrayVec<Record, RECORDS_PER_TUPLE> {
        // Nearly every segment of a connection that is not ours ends here, after one line.
        if self.headers[self.bucket(hash)].candidates(Header::tag(hash)) == 0 {
            return ArrayVec::new();
        }
        self.find_among_candidates(tuple, hash, now)
    }

    fn find_among_candidates(&self, tuple: &Tuple, hash: Hash, now: Time) -> ArrayVec<Record, RECORDS_PER_TUPLE> {
        let identity = Identity::new(tuple, 0);
        let mut found = ArrayVec::<Sighting, SLOTS>::new();
        found.extend(self.sightings(hash, now).filter(|sighting| sighting.identity.same_tuple(identity)));
        found.sort_unstable_by_key(|sighting| (sighting.age, sighting.slot));
        let mut records = ArrayVec::new();
        records.extend(found.iter().filter_map(Sighting::record).take(RECORDS_PER_TUPLE));
        records
    }

    /// Records what our host answered to the SYN with this ISN, before that goes out; returns how far the handshake is.
    /// `None`: there is no record of that SYN (any more), and the answer must not go out, as nobody could tell whose
    /// the connection is.
    pub fn answer(&self, tuple: &Tuple, hash: Hash, client_isn: u32, answer: Answer, now: Time) -> Option<Stage> {
        let identity = Identity::new(tuple, client_isn);
        let found = self.sightings(hash, now).find(|sighting| sighting.identity == identity)?;
        let body = &self.bodies[found.slot];
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
        for slot in 0..self.bodies.len() {
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
    fn bucket(&self, hash: Hash) -> usize {
        hash.swapped().spread(self.headers.len())
    }

    #[inline]
    fn atomic(&self, slot: usize) -> &AtomicU64 {
        &self.headers[slot / SLOTS].0[slot % SLOTS]
    }

    #[inline]
    fn header(&self, slot: usize) -> Header {
        // Acquire: the body is of this record, or of one that came later.
        Header::from_bits(self.atomic(slot).load(Ordering::Acquire))
    }

    /// The bucket's records with the hash's tag that are not out of date, in the order of slots.
    #[inline]
    fn sightings(&self, hash: Hash, now: Time) -> Sightings<'_> {
        let (bucket, tag) = (self.bucket(hash), Header::tag(hash));
        Sightings { ring: self, bucket, tag, now, candidates: self.headers[bucket].candidates(tag) }
    }

    /// The body of a slot if it is, as a whole, of this header's record.
    #[inline]
    fn read(&self, slot: usize, header: Header) -> Option<(Identity, AnswerWords)> {
        let body = &self.bodies[slot];
        let identity = Identity { key: body.key.load(Ordering::Relaxed), rest: body.rest.load(Ordering::Relaxed) };
        let answers = body.answers();
        // Acquire: if any word above is of a later record, the header below is of that record too (its writer has a
        // Release fence between making the header busy and the first word).
        fence(Ordering::Acquire);
        // Acquire here too: if the record is gone, where its remover saw another of the same SYN, so do we.
        let again = self.header(slot);
        header.same_record(again).then_some((identity, answers))
    }

    /// Where the record of a SYN is, or is to go.
    fn place(&self, hash: Hash, identity: Identity, now: Time) -> Place {
        let (mut own, mut least) = (0, None);
        for sighting in self.sightings(hash, now) {
            if sighting.identity == identity {
                return Place::Known(sighting);
            }
            if sighting.identity.same_tuple(identity) {
                own += 1;
                // The least: not answered before answered, then old before young.
                let rank = (sighting.header.is_answered(), u32::MAX - sighting.age);
                if least.is_none_or(|(_, _, least_rank)| rank < least_rank) {
                    least = Some((sighting.slot, sighting.header, rank));
                }
            }
        }
        match least {
            Some((slot, header, _)) if own >= RECORDS_PER_TUPLE => Place::Take(slot, header),
            _ => match self.oldest(hash, now) {
                Some((slot, header)) => Place::Take(slot, header),
                None => Place::AllBusy,
            },
        }
    }

    /// The bucket's first slot that is free or out of date, else its oldest; `None` if all are busy.
    #[inline]
    fn oldest(&self, hash: Hash, now: Time) -> Option<(usize, Header)> {
        let first = self.bucket(hash) * SLOTS;
        let mut oldest = None;
        for slot in first..first + SLOTS {
            let header = self.header(slot);
            let age = header.age(now).unwrap_or(u32::MAX);
            if !header.is_busy() && oldest.is_none_or(|(_, _, oldest_age)| age > oldest_age) {
                oldest = Some((slot, header, age));
            }
        }
        oldest.map(|(slot, header, _)| (slot, header))
    }

    /// Writes a record over `victim`; `None` if the slot has changed meanwhile.
    fn write(
        &self,
        slot: usize,
        victim: Header,
        identity: Identity,
        tag: u64,
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
        let body = &self.bodies[slot];
        body.key.store(identity.key, Ordering::Relaxed);
        body.rest.store(identity.rest, Ordering::Relaxed);
        // An old answer's generation would come round again.
        for answer in &body.answers {
            answer.store(0, Ordering::Relaxed);
        }
        let header = busy.record(tag, stage, now);
        // Release: who acquires the header sees the body. Nobody else writes a busy header.
        self.atomic(slot).store(header.bits(), Ordering::Release);
        Some(header)
    }

    /// Settles with other records of the same SYN whether ours, just written, stays.
    fn stays(&self, hash: Hash, slot: usize, written: Header, identity: Identity, now: Time) -> bool {
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

    /// A retransmission: the record is young again, and admitted if it was merely seen.
    fn see_again(&self, mut known: Sighting, admitted: bool, now: Time) -> Option<Record> {
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

impl Headers {
    /// The slots that have this tag, as bits: a first look, without a branch that depends on where they are.
    #[inline]
    fn candidates(&self, tag: u64) -> u32 {
        let mut candidates = 0;
        for (slot, header) in self.0.iter().enumerate() {
            // Acquire: if a record is gone, what its remover saw is seen in the slots after it.
            let header = Header::from_bits(header.load(Ordering::Acquire));
            candidates |= u32::from(header.has_tag(tag)) << slot;
        }
        candidates
    }
}

/// See [`Handshakes::sightings`].
struct Sightings<'a> {
    ring: &'a Handshakes,
    bucket: usize,
    tag: u64,
    now: Time,
    /// Slots that have the tag and were not looked at, as bits.
    candidates: u32,
}

impl Sightings<'_> {
    /// The record in a slot, if it is one of ours.
    #[inline]
    fn look(&self, slot: usize) -> Option<Sighting> {
        let header = self.ring.header(slot);
        if !header.has_tag(self.tag) {
            return None;
        }
        let age = header.age(self.now)?;
        let (identity, answers) = self.ring.read(slot, header)?;
        Some(Sighting { slot, header, age, identity, answers })
    }
}

impl Iterator for Sightings<'_> {
    type Item = Sighting;

    #[inline]
    fn next(&mut self) -> Option<Sighting> {
        while self.candidates != 0 {
            let within = self.candidates.trailing_zeros() as usize;
            self.candidates &= self.candidates - 1;
            let slot = self.bucket * SLOTS + within;
            if let Some(sighting) = self.look(slot) {
                return Some(sighting);
            }
            // Gone. If its remover saw another of the same SYN (see `remember`), so must we, and the first look may
            // have been too early.
            self.candidates = self.ring.headers[self.bucket].candidates(self.tag) & !1 << within;
        }
        None
    }
}

impl Body {
    #[inline]
    fn answers(&self) -> AnswerWords {
        // Acquire: pairs with the Release of who appended one.
        AnswerWords(std::array::from_fn(|index| self.answers[index].load(Ordering::Acquire)))
    }
}
