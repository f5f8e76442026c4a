//! [`Established`]: the connections that this member owns, as a cache of its kernel's sockets.

use crossbeam::utils::CachePadded;

use super::entry::{Entry, State, Word};
use super::hash::{Hash, Hasher};
use super::memory::{Region, TableError, prefetch};
use super::tuple::{MAX_VIPS, Tuple, VipIndex};
use crate::config::checked::HugePages;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};
use crate::time::Time;

/// Slots of a bucket: as many as fit a cache line.
const SLOTS: usize = 5;

/// A bucket is 64 bytes, and five of sixteen of them make 20 bytes a connection: at capacity 64 % of the slots are
/// taken.
const BUCKETS_PER_CONNECTION: (usize, usize) = (5, 16);

/// The most connections: slots are counted in 32 bits.
const CAPACITY_MAX: usize = 2_000_000_000;

/// How many buckets an entry may be away from its home, counting that. So at most 5 × 47 = 235 entries can lie beyond
/// a bucket that they belong before, which the 8 bits of a count can tell. At capacity the odds that an insertion finds
/// so many buckets full are below 10⁻⁹ (Chernoff bound of a Poisson distribution); it is then refused.
const REACH: usize = 48;

/// How many VIPs are counted: all. Loom follows each atomic at each step, so there two must do.
const COUNTS: usize = if cfg!(loom) { 2 } else { MAX_VIPS };

/// Five slots and what is known of the entries that did not fit: one cache line.
///
/// A slot is a key ([`Tuple::key`]) and a word ([`Word`]). `passed`: four counts of 8 bits; count `c` says how many
/// entries with `hash % 4 == c` have passed over this bucket, full when they came, to lie further on. A look-up goes on
/// to the next bucket only where its count is not zero, so one line mostly settles also a miss, whatever came and went.
#[repr(C, align(64))]
#[derive(Default)]
struct Bucket {
    keys: [AtomicU64; SLOTS],
    words: [AtomicU32; SLOTS],
    passed: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

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
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// The tuple's entry, if it has one.
    #[inline]
    pub fn find(&self, tuple: &Tuple, hash: Hash) -> Option<Entry> {
        self.probe(tuple, hash).next()
    }

    /// [`find`](Established::find) for a burst, `found[i]` for `tuples[i]`: best called some time after
    /// [`prefetch`](Established::prefetch) for each. Whether a tuple is found makes no difference to the way through
    /// the code, so a mix of hits and misses mispredicts nothing. The few that need a second look, mostly at a second
    /// line, get it at the end, when that line has come too.
    #[inline]
    pub fn find_many(&self, tuples: &[Tuple], hashes: &[Hash], found: &mut [Option<Entry>]) {
        let bursts = tuples.chunks(64).zip(hashes.chunks(64)).zip(found.chunks_mut(64));
        for ((tuples, hashes), found) in bursts {
            let mut again = 0u64;
            for (index, ((tuple, hash), found)) in tuples.iter().zip(hashes).zip(&mut *found).enumerate() {
                let home = self.home(*hash);
                let (slot, word, look_again) = self.buckets[home].first_look(tuple, *hash);
                *found = word.map(|word| Entry { slot: (home * SLOTS + slot) as u32, word });
                if look_again {
                    prefetch(&self.buckets[self.after(home)]);
                    again |= 1 << index;
                }
            }
            while again != 0 {
                let index = again.trailing_zeros() as usize;
                again &= again - 1;
                found[index] = self.find(&tuples[index], hashes[index]);
            }
        }
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
        // Each turn after the first means that another thread has entered, changed or removed this very tuple.
        loop {
            let entry = match self.find(tuple, hash) {
                Some(known) => known,
                None => {
                    let new = self.enter(tuple, hash, state, now)?;
                    // SeqCst: the Dekker pattern (see above). Whichever of two fences comes second, what was
                    // published before the first is seen after the second.
                    fence(Ordering::SeqCst);
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
        }
    }

    /// Notes that a segment of the connection came by. Writes only when the coarse clock ([`Word`]) has moved since the
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
        self.forget_passing(hash, entry.slot as usize / SLOTS);
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
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed).min(self.capacity) as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many connections there can be.
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
        let counts = self.buckets.iter().flat_map(|bucket| bucket.passed.load(Ordering::Relaxed).to_le_bytes());
        counts.map(usize::from).sum()
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

    /// Enters a tuple that was not found, in the first free slot on its way.
    fn enter(&self, tuple: &Tuple, hash: Hash, state: State, now: Time) -> Result<Entry, Full> {
        // Relaxed: an exact count needs no order.
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Err(Full);
        }
        let mut index = self.home(hash);
        for _ in 0..REACH.min(self.buckets.len()) {
            let bucket = &self.buckets[index];
            if let Some((slot, word)) = bucket.claim() {
                let word = word.next_generation().live(state, tuple.vip, now);
                // Release, here and below: who acquires the key sees the slot busy at least, and who acquires the word
                // sees the key.
                bucket.keys[slot].store(tuple.key(), Ordering::Release);
                bucket.words[slot].store(word.bits(), Ordering::Release);
                self.len_of[usize::from(tuple.vip)].fetch_add(1, Ordering::Relaxed);
                return Ok(Entry { slot: (index * SLOTS + slot) as u32, word });
            }
            // Before the entry is published further on, so that who looks for it goes on there.
            if !bucket.note_passing(hash) {
                break;
            }
            index = self.after(index);
        }
        self.forget_passing(hash, index);
        self.len.fetch_sub(1, Ordering::Relaxed);
        Err(Full)
    }

    /// Takes back what an entry noted on the way from its home to bucket `end`.
    fn forget_passing(&self, hash: Hash, end: usize) {
        let mut index = self.home(hash);
        while index != end {
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

impl Bucket {
    /// The slots that have this key, as bits: a first look, without a branch that depends on where it is.
    #[inline]
    fn candidates(&self, key: u64) -> u32 {
        let mut candidates = 0;
        for (slot, other) in self.keys.iter().enumerate() {
            // Acquire: if the slot has changed hands, what its last owner's remover saw is seen in the slots after it.
            candidates |= u32::from(other.load(Ordering::Acquire) == key) << slot;
        }
        candidates
    }

    /// A slot and, if the tuple's entry is there, its word; or whether a proper look is needed to tell: there may be
    /// one elsewhere, or the slot is changing. Without a branch.
    #[inline]
    fn first_look(&self, tuple: &Tuple, hash: Hash) -> (usize, Option<Word>, bool) {
        let key = tuple.key();
        let candidates = self.candidates(key);
        // With none, the last: its key will be another.
        let slot = (candidates | 1 << (SLOTS - 1)).trailing_zeros() as usize;
        // In this order, and Acquire, as in `read`.
        let word = Word::from_bits(self.words[slot].load(Ordering::Acquire));
        let same_key = self.keys[slot].load(Ordering::Acquire) == key;
        let same_entry = word.same_entry(Word::from_bits(self.words[slot].load(Ordering::Acquire)));
        let here = word.is_live() & same_key & same_entry & (word.vip() == tuple.vip);
        (slot, here.then_some(word), !here & ((candidates != 0) | self.is_passed(hash)))
    }

    /// A slot's key and word, if it holds an entry, and both of the same.
    #[inline]
    fn read(&self, slot: usize) -> Option<(u64, Word)> {
        // Acquire: the key is of this word's entry, or of one that came later.
        let mut word = Word::from_bits(self.words[slot].load(Ordering::Acquire));
        while word.is_live() {
            // Acquire: if it is of one that came later, the word below is no longer ours.
            let key = self.keys[slot].load(Ordering::Acquire);
            // Acquire: as above; and if the entry is gone because its remover saw another of the same tuple (see
            // `insert`), so do we.
            let again = Word::from_bits(self.words[slot].load(Ordering::Acquire));
            if word.same_entry(again) {
                return Some((key, word));
            }
            // Confirmed at this very moment, perhaps: once more.
            word = again;
        }
        None
    }

    /// Takes a free slot: its number and the word that it had.
    fn claim(&self) -> Option<(usize, Word)> {
        for (slot, word) in self.words.iter().enumerate() {
            let seen = Word::from_bits(word.load(Ordering::Relaxed));
            // Acquire: what its last owner did with the slot comes before what we do.
            if seen.is_empty()
                && word.compare_exchange(seen.bits(), seen.busy().bits(), Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Some((slot, seen));
            }
        }
        None
    }

    /// Whether entries of this hash's class lie further on.
    #[inline]
    fn is_passed(&self, hash: Hash) -> bool {
        // Relaxed: what was entered before this look-up began was counted before it too.
        self.passed.load(Ordering::Relaxed) >> class_shift(hash) & 0xff != 0
    }

    /// Counts one more; false at the most that the count can say.
    fn note_passing(&self, hash: Hash) -> bool {
        let shift = class_shift(hash);
        let more = |passed: u32| (passed >> shift & 0xff != 0xff).then(|| passed + (1 << shift));
        // Relaxed: the entry's own publication orders it.
        self.passed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one less.
    fn forget_passing(&self, hash: Hash) {
        // Never below zero: each was noted before.
        self.passed.fetch_sub(1 << class_shift(hash), Ordering::Relaxed);
    }
}

/// Where the count of a hash's class is: the lowest two bits of the hash, in bytes.
#[inline]
fn class_shift(hash: Hash) -> u32 {
    (hash.bits() & 3) as u32 * 8
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
