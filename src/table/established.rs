//! [`Established`]: the connections that this member owns, as a cache of its kernel's sockets.

use crossbeam::utils::CachePadded;

use super::bucket::{Bucket, SLOTS};
use super::entry::{Entry, State, Word};
use super::hash::{Hash, Hasher};
use super::look::Entries;
use super::memory::{Region, TableError, prefetch};
use super::tuple::{MAX_VIPS, Tuple, Tuples, VipIndex};
use crate::bits::{all, bits};
use crate::config::checked::HugePages;
use crate::port::BURST;
use crate::simd::Simd;
use crate::sync::{AtomicU64, Ordering, add_and_fence};
use crate::time::Time;

/// A bucket is 64 bytes, and five of sixteen of them make 20 bytes a connection: at capacity 64 % of the slots are
/// taken.
const BUCKETS_PER_CONNECTION: (usize, usize) = (5, 16);

/// The most connections: slots are counted in 32 bits.
const CAPACITY_MAX: usize = 2_000_000_000;

/// How many buckets an entry may be away from its home, counting that. So at most 5 × 47 = 235 entries can lie beyond
/// a bucket that they belong before, which the 8 bits of a count can tell. At capacity the odds that an insertion finds
/// so many buckets full are of the order of 10⁻⁹ (Chernoff bound of a Poisson distribution); it is then refused.
const REACH: usize = 48;

/// How many VIPs are counted: all. Loom follows each atomic at each step, so there two must do.
const COUNTS: usize = if cfg!(loom) { 2 } else { MAX_VIPS };

/// Why a connection was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection table is full")]
pub struct Full;

/// Where a [`scan`](Established::scan) has got to. The default is the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(usize);

impl Cursor {
    /// At a slot, as [`Cursor::slot`] told.
    pub fn at(slot: usize) -> Cursor {
        Cursor(slot)
    }

    /// The slot that the next scan begins at.
    pub fn slot(self) -> usize {
        self.0
    }
}

/// What a burst's look-ups, group by group, have found: in the sets a tuple is a bit.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Those that have an entry.
    pub found: u64,
    /// Those of them whose entry is live, says of no SYN that was seen, and has noted a segment of late: there is nothing to
    /// [`touch`](Established::touch). One of thousands that are so may be missing.
    pub fresh: u64,
    /// Those that need a second look.
    again: u64,
    count: usize,
    ticks: Word,
}

impl Found {
    /// None yet, of a burst of `count` tuples at `now`.
    #[inline(always)]
    pub fn none(count: usize, now: Time) -> Found {
        Found { found: 0, fresh: 0, again: 0, count, ticks: Word::of_tick(now) }
    }

    /// Those that need a [second look](Established::look_again).
    #[inline(always)]
    pub fn again(&self) -> u64 {
        self.again & all(self.count)
    }
}

/// The table of established connections.
pub struct Established {
    buckets: Region<Bucket>,
    hasher: Hasher,
    capacity: u64,
    /// The entries, and those about to be entered: never above `capacity` for longer than a refusal takes.
    len: CachePadded<AtomicU64>,
    len_of: Box<[CachePadded<AtomicU64>]>,
}

impl Established {
    /// An empty table for `capacity` connections, at 20 bytes each.
    ///
    /// # Errors
    /// A capacity of none or of more than two thousand million; memory that the system does not give.
    pub fn new(capacity: usize, hasher: Hasher, huge_pages: HugePages) -> Result<Established, TableError> {
        if capacity == 0 || capacity > CAPACITY_MAX {
            return Err(TableError::Size { asked: capacity, most: CAPACITY_MAX });
        }
        let (buckets, connections) = BUCKETS_PER_CONNECTION;
        Ok(Established {
            buckets: Region::new((capacity * buckets).div_ceil(connections), huge_pages)?,
            hasher,
            capacity: capacity as u64,
            len: CachePadded::default(),
            len_of: (0..COUNTS).map(|_| CachePadded::default()).collect(),
        })
    }

    /// Whether the table lies on reserved huge pages.
    pub fn on_huge_pages(&self) -> bool {
        self.buckets.on_huge_pages()
    }

    /// The tuple's hash, for every call that takes one, here and in [`Handshakes`](super::Handshakes).
    #[inline]
    pub fn hash(&self, tuple: &Tuple) -> Hash {
        self.hasher.hash(tuple)
    }

    /// Asks the CPU for the line that [`find`](Established::find) will read. Best right after each hash, so that memory
    /// is at work while the next is computed.
    #[inline]
    pub fn prefetch(&self, hash: Hash) {
        prefetch(self.buckets.home(hash).1);
    }

    /// The tuple's entry, if it has one.
    #[inline]
    pub fn find(&self, tuple: &Tuple, hash: Hash) -> Option<Entry> {
        self.probe(tuple, hash).next()
    }

    /// Hashes eight tuples of a burst, from place `first` on.
    #[inline(always)]
    pub fn hash_group<S: Simd>(&self, simd: S, tuples: &Tuples, first: usize, hashes: &mut [Hash; BURST]) {
        self.hasher.hash_group(simd, tuples, first, hashes);
    }

    /// Reads what a first look at one of a burst's tuples takes, whose hash is at the same place. Its line is to be
    /// [asked for](Established::prefetch) before. Memory is slow to answer, can be asked for several lines at a time, and has others
    /// to serve only while it is asked: best is to ask some groups of eight ahead of the one that is looked at, all through
    /// a burst.
    #[inline(always)]
    pub fn look<S: Simd>(&self, simd: S, tuples: &Tuples, place: usize, hashes: &[Hash; BURST], entries: &mut Entries) {
        entries.read(simd, place, self.buckets.home(hashes[place]), tuples.keys[place]);
    }

    /// What the looks at these eight have found: the entry at place `i` is that of tuple `i` where `found` says so. Best
    /// some time after [`look`](Established::look): words that have just been stored one by one cannot be loaded as eight yet.
    ///
    /// The few that need a second look, mostly at a second line, get it [at the end](Established::look_again), when that line
    /// has come too: to ask for it here would be a branch in each group that no CPU foresees.
    #[inline(always)]
    pub fn judge<S: Simd>(
        &self,
        simd: S,
        tuples: &Tuples,
        first: usize,
        hashes: &[Hash; BURST],
        entries: &Entries,
        found: &mut Found,
    ) {
        let (Some(vips), Some(group)) = (tuples.vips[first..].first_chunk(), hashes[first..].first_chunk()) else {
            return;
        };
        let looks = entries.judge(simd, first, vips, group, found.ticks);
        found.found |= looks.here << first;
        found.fresh |= looks.fresh << first;
        found.again |= looks.elsewhere << first;
    }

    /// Asks the CPU for the lines of second looks: the one after the first, and, as every fifth needs it, one more.
    #[inline(always)]
    pub fn ask_again(&self, hashes: &[Hash; BURST], found: &Found) {
        for index in bits(found.again()) {
            let next = self.after(self.home(hashes[index]));
            prefetch(&self.buckets[next]);
            prefetch(&self.buckets[self.after(next)]);
        }
    }

    /// The second look at a tuple [that needs one](Found::again).
    #[inline(always)]
    pub fn look_again<S: Simd>(&self, simd: S, tuples: &Tuples, place: usize, hash: Hash) -> Option<Entry> {
        // Mostly the next bucket has it.
        let (key, bucket) = (tuples.keys[place], self.after(self.home(hash)));
        let candidates = simd.equal(&self.buckets[bucket], u64::MAX, key);
        if candidates.is_power_of_two() {
            let slot = candidates.trailing_zeros() as usize;
            if let Some((other, word)) = self.buckets[bucket].read(slot)
                && other == key
                && word.vip() == tuples.vips[place]
            {
                return Some(Entry { slot: (bucket * SLOTS + slot) as u32, word });
            }
        }
        self.find(&tuples.get(place), hash)
    }

    /// Enters a connection, or, if it is there already, confirms it in place: a new generation, no SYN seen.
    ///
    /// Two callers may enter one tuple at the same time. Then both may lie in the table for a moment, but each looks
    /// for the other after it has entered its own, and a fence between the two steps has at least one of them see
    /// both; who does removes the one nearer to home. So when both have returned there is one. The one further on stays
    /// because look-ups go the same way: who finds the nearer one gone comes to the other later.
    ///
    /// # Errors
    /// As many connections as the table was made for.
    pub fn insert(&self, tuple: &Tuple, hash: Hash, state: State, now: Time) -> Result<Entry, Full> {
        self.insert_over(self.find(tuple, hash), tuple, hash, state, now)
    }

    /// [`insert`](Established::insert) for who has just found none.
    ///
    /// # Errors
    /// As there.
    pub fn insert_new(&self, tuple: &Tuple, hash: Hash, state: State, now: Time) -> Result<Entry, Full> {
        self.insert_over(None, tuple, hash, state, now)
    }

    fn insert_over(
        &self,
        mut known: Option<Entry>,
        tuple: &Tuple,
        hash: Hash,
        state: State,
        now: Time,
    ) -> Result<Entry, Full> {
        // Each turn after the first means that another thread has entered, changed or removed this very tuple.
        loop {
            let entry = match known {
                Some(known) => known,
                None => {
                    let new = self.enter(tuple, hash, state, now)?;
                    // The fence: the Dekker pattern (see above). Whichever of two fences comes second, what was
                    // published before the first is seen after the second.
                    add_and_fence(&self.len_of[usize::from(tuple.vip)], 1);
                    match self.remove_all_but_last(tuple, hash) {
                        Some(last) if last.slot == new.slot => return Ok(new),
                        Some(last) => last,
                        None => continue,
                    }
                }
            };
            let confirmed = self.update(entry, |word| word.next_generation().live(state, tuple.vip, now));
            if let Some(entry) = confirmed {
                return Ok(entry);
            }
            known = self.find(tuple, hash);
        }
    }

    /// Notes that a segment of the connection came by. Writes only when the coarse clock ([`TICK`](super::TICK)) has moved since the
    /// last, so that lines of busy connections stay shared. False, and no change, if the entry has become another.
    #[inline]
    pub fn touch(&self, entry: &mut Entry, now: Time) -> bool {
        if entry.word.seen_at(now) {
            return true;
        }
        self.update_in_place(entry, |word| word.with_last_seen(now))
    }

    /// Notes that [`Handshakes`](super::Handshakes) remembers a SYN for this tuple: call it after `remember`, so that
    /// who sees the flag finds the SYN. False, and no change, if the entry has become another.
    pub fn set_syn_seen(&self, entry: &mut Entry) -> bool {
        self.update_in_place(entry, |word| word.with_syn_seen(true))
    }

    /// Takes the note back.
    pub fn clear_syn_seen(&self, entry: &mut Entry) -> bool {
        self.update_in_place(entry, |word| word.with_syn_seen(false))
    }

    /// Says what the kernel has for this connection. False, and no change, if the entry has become another.
    pub fn set_state(&self, entry: &mut Entry, state: State) -> bool {
        self.update_in_place(entry, |word| word.with_state(state))
    }

    /// Removes the entry if nothing at all has happened to it since it was observed: no confirmation, no SYN, no
    /// segment on a later tick of the coarse clock. So the control thread may ask the kernel about an idle entry and
    /// act on the answer.
    pub fn remove(&self, entry: Entry) -> bool {
        let (bucket, slot) = self.place(entry.slot);
        // Relaxed: if the exchange below succeeds, whoever writes another key does so after it.
        let key = bucket.keys[slot].load(Ordering::Relaxed);
        // AcqRel: the next owner of the slot, who acquires it, comes after the load above.
        let removed = bucket.words[slot].compare_exchange(
            entry.word.bits(),
            entry.word.empty().bits(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if removed.is_err() {
            return false;
        }
        let hash = self.hasher.hash(&Tuple::from_key(key, entry.word.vip()));
        let (home, bucket) = (self.home(hash), entry.slot as usize / SLOTS);
        self.forget_passing(hash, if bucket < home { bucket + self.buckets.len() } else { bucket } - home);
        // Relaxed: counts order nothing.
        self.len_of[usize::from(entry.word.vip())].fetch_sub(1, Ordering::Relaxed);
        self.len.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Removes the tuple's entry, whatever its state. False if there was none.
    pub fn remove_tuple(&self, tuple: &Tuple, hash: Hash) -> bool {
        let mut removed = false;
        while let Some(entry) = self.find(tuple, hash) {
            removed |= self.remove(entry);
        }
        removed
    }

    /// How many connections there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed).min(self.capacity) as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many connections there can be.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// How many connections of a VIP there are.
    pub fn len_of(&self, vip: VipIndex) -> usize {
        self.len_of[usize::from(vip)].load(Ordering::Relaxed) as usize
    }

    /// Shows `visit` the entries of the next `slots` slots, from where the last call with this cursor ended. True when
    /// that was the end of the table; the cursor is then at the start again.
    ///
    /// An entry that is there from a round's start to its end is seen exactly once; others may or may not be.
    pub fn scan(&self, cursor: &mut Cursor, slots: usize, mut visit: impl FnMut(Tuple, Entry)) -> bool {
        let all = self.buckets.len() * SLOTS;
        let end = all.min(cursor.0.saturating_add(slots.max(1)));
        for slot in cursor.0..end {
            let (bucket, within) = self.place(slot as u32);
            if let Some((key, word)) = bucket.read(within) {
                visit(Tuple::from_key(key, word.vip()), Entry { slot: slot as u32, word });
            }
        }
        cursor.0 = if end == all { 0 } else { end };
        end == all
    }

    /// The sum of all counts of entries that passed over a bucket.
    #[cfg(test)]
    pub(super) fn passed(&self) -> usize {
        self.buckets.iter().map(Bucket::passed).sum()
    }

    /// How many cache lines `find` reads.
    #[cfg(test)]
    pub(super) fn lines(&self, tuple: &Tuple) -> usize {
        let hash = self.hash(tuple);
        let end = self.find(tuple, hash).map(|entry| entry.slot as usize / SLOTS);
        let way = std::iter::successors(Some(self.home(hash)), |index| {
            (Some(*index) != end && self.buckets[*index].is_passed(hash)).then(|| self.after(*index))
        });
        way.count()
    }

    /// The bucket where a look-up starts.
    #[inline]
    fn home(&self, hash: Hash) -> usize {
        hash.spread(self.buckets.len())
    }

    /// The bucket after `index`.
    #[inline]
    fn after(&self, index: usize) -> usize {
        if index + 1 == self.buckets.len() { 0 } else { index + 1 }
    }

    /// A slot by its number.
    #[inline]
    fn place(&self, slot: u32) -> (&Bucket, usize) {
        (&self.buckets[slot as usize / SLOTS], slot as usize % SLOTS)
    }

    /// The tuple's entries in the order of the way from its home: at most one, but while two threads enter it.
    #[inline]
    fn probe(&self, tuple: &Tuple, hash: Hash) -> Probe<'_> {
        let (key, bucket) = (tuple.key(), self.home(hash));
        let candidates = self.buckets[bucket].candidates(key);
        Probe { table: self, key, vip: tuple.vip, hash, bucket, candidates, left: REACH.min(self.buckets.len()) }
    }

    /// Enters a tuple that was not found, in the first free slot on its way. It is for the caller to count it among its VIP's.
    fn enter(&self, tuple: &Tuple, hash: Hash, state: State, now: Time) -> Result<Entry, Full> {
        // Relaxed: an exact count needs no order.
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Err(Full);
        }
        let mut index = self.home(hash);
        let mut passed = 0;
        while passed < REACH.min(self.buckets.len()) {
            let bucket = &self.buckets[index];
            if let Some((slot, word)) = bucket.claim() {
                let word = word.next_generation().live(state, tuple.vip, now);
                // Release, here and below: who acquires the key sees the slot busy at least, and who acquires the word
                // sees the key.
                bucket.keys[slot].store(tuple.key(), Ordering::Release);
                bucket.words[slot].store(word.bits(), Ordering::Release);
                return Ok(Entry { slot: (index * SLOTS + slot) as u32, word });
            }
            // Before the entry is published further on, so that who looks for it goes on there.
            if !bucket.note_passing(hash) {
                break;
            }
            passed += 1;
            index = self.after(index);
        }
        self.forget_passing(hash, passed);
        self.len.fetch_sub(1, Ordering::Relaxed);
        Err(Full)
    }

    /// Takes back what an entry noted in the first `passed` buckets of its way.
    fn forget_passing(&self, hash: Hash, passed: usize) {
        let mut index = self.home(hash);
        for _ in 0..passed {
            self.buckets[index].forget_passing(hash);
            index = self.after(index);
        }
    }

    /// Leaves only the tuple's last entry on the way, and returns it.
    fn remove_all_but_last(&self, tuple: &Tuple, hash: Hash) -> Option<Entry> {
        loop {
            let mut entries = self.probe(tuple, hash);
            let first = entries.next()?;
            if entries.next().is_none() {
                return Some(first);
            }
            // If it fails, the entry has changed: look again.
            self.remove(first);
        }
    }

    /// Exchanges the entry's word for `change` of it, as often as it takes while it is the same entry.
    fn update(&self, entry: Entry, change: impl Fn(Word) -> Word) -> Option<Entry> {
        let (bucket, slot) = self.place(entry.slot);
        let mut word = entry.word;
        loop {
            let new = change(word);
            // Release: who sees the flag also sees the SYN remembered before. Acquire pairs with it.
            match bucket.words[slot].compare_exchange(word.bits(), new.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Entry { slot: entry.slot, word: new }),
                Err(now) if entry.word.same_entry(Word::from_bits(now)) => word = Word::from_bits(now),
                Err(_) => return None,
            }
        }
    }

    fn update_in_place(&self, entry: &mut Entry, change: impl Fn(Word) -> Word) -> bool {
        match self.update(*entry, change) {
            Some(changed) => {
                *entry = changed;
                true
            }
            None => false,
        }
    }
}

/// See [`Established::probe`].
struct Probe<'a> {
    table: &'a Established,
    key: u64,
    vip: VipIndex,
    hash: Hash,
    bucket: usize,
    /// The slots of the bucket that have the key and were not looked at, as bits.
    candidates: u32,
    /// Buckets left, this one included.
    left: usize,
}

impl Iterator for Probe<'_> {
    type Item = Entry;

    #[inline]
    fn next(&mut self) -> Option<Entry> {
        loop {
            let bucket = &self.table.buckets[self.bucket];
            while self.candidates != 0 {
                let slot = self.candidates.trailing_zeros() as usize;
                self.candidates &= self.candidates - 1;
                match bucket.read(slot) {
                    Some((key, word)) if key == self.key && word.vip() == self.vip => {
                        return Some(Entry { slot: (self.bucket * SLOTS + slot) as u32, word });
                    }
                    // Gone, or another VIP's. If its remover saw another entry of the tuple (see `insert`), so must we,
                    // and the first look may have been too early.
                    _ => self.candidates = bucket.candidates(self.key) & !1 << slot,
                }
            }
            if self.left <= 1 || !bucket.is_passed(self.hash) {
                return None;
            }
            self.left -= 1;
            self.bucket = self.table.after(self.bucket);
            self.candidates = self.table.buckets[self.bucket].candidates(self.key);
        }
    }
}
