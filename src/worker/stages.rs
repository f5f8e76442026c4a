//! The stages of a burst before its frames are decided, one after the other for all of them, so that the memory each frame
//! needs is on its way while the others are worked on.

use super::Member;
use crate::bits::{all, bits};
use crate::classify::common::{self, Segments};
use crate::classify::{self, Class, Facts};
use crate::orphans::Recent;
use crate::port::{BURST, Buffer, Burst};
use crate::simd::{LANES, Simd};
use crate::table::{Entry, Hash, Tuples};
use crate::time::Time;
use crate::verdict::DropReason;

/// Which way a burst goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    FromWire,
    FromHost,
}

/// What the stages know of a burst, frame by frame. In the sets a frame is a bit.
pub(super) struct Stages {
    known: common::Known,
    heads: common::Heads,
    /// Of [common](classify::common) segments and others.
    pub tuples: Tuples,
    /// Of what has a tuple.
    pub hashes: [Hash; BURST],
    /// Of what was found.
    pub entries: [Entry; BURST],
    /// Of what is not common.
    classes: [Class; BURST],
    common: u64,
    /// Common segments that were found, and whose connection nobody may be about to take over: an entry is all that it
    /// takes to pass them.
    pub passing: u64,
    /// Those of them that may be the first for a while.
    pub stale: u64,
    /// Common segments that were not found, and change nothing that is known of a connection.
    pub missed: u64,
    /// Those of them that their clients would repeat.
    pub may_be_repeated: u64,
}

impl Stages {
    /// For a member that this is known of.
    pub fn new(facts: &Facts) -> Stages {
        Stages {
            known: common::Known::of(facts),
            heads: common::Heads::default(),
            tuples: Tuples::default(),
            hashes: [Hash::default(); BURST],
            entries: [Entry::NONE; BURST],
            classes: [Class::Other; BURST],
            common: 0,
            passing: 0,
            stale: 0,
            missed: 0,
            may_be_repeated: 0,
        }
    }
}

impl Stages {
    /// The stages before decisions: parse; hash, and ask for the lines where entries are; look up, and ask for the
    /// lines that what was not found leads to.
    #[inline(always)] // For which CPUs, the caller says.
    pub fn prepare<S: Simd, B: Buffer>(
        &mut self,
        simd: S,
        member: &Member,
        recent: &Recent,
        burst: &Burst<B>,
        direction: Direction,
        now: Time,
    ) {
        let (parsed, segments) = match direction {
            Direction::FromWire => self.parse::<S, B, true>(simd, member, burst),
            Direction::FromHost => self.parse::<S, B, false>(simd, member, burst),
        };
        (self.passing, self.stale, self.missed, self.may_be_repeated) = (0, 0, 0, 0);
        if segments == 0 {
            return;
        }
        let decisive = segments & !parsed.plain;
        bits(decisive).for_each(|index| member.handshakes.prefetch(self.hashes[index]));
        let (tuples, hashes, entries) = (&self.tuples, &self.hashes, &mut self.entries);
        let found = member.established.look_up_burst(simd, tuples, burst.len(), hashes, entries, now);
        let plain = parsed.plain & !self.beside(decisive, burst.len());
        self.passing = plain & found.found;
        for index in bits(self.passing & !found.fresh) {
            let bit = 1 << index;
            if self.entries[index].syn_seen() {
                self.passing &= !bit;
            } else {
                self.stale |= bit;
            }
        }
        self.missed = plain & !found.found;
        self.may_be_repeated = self.missed & parsed.may_be_repeated;
        if direction == Direction::FromWire {
            for index in bits(self.missed) {
                member.handshakes.prefetch_tags(self.hashes[index]);
            }
            for index in bits(self.may_be_repeated) {
                recent.prefetch(self.hashes[index]);
            }
        }
        bits(decisive).for_each(|index| member.handshakes.prefetch_record(self.hashes[index], now));
    }

    /// Finds the common segments and their connections, asks for the lines where their entries are, and classifies what
    /// else there is. Returns also all that have a tuple.
    #[inline(always)]
    fn parse<S: Simd, B: Buffer, const FROM_WIRE: bool>(
        &mut self,
        simd: S,
        member: &Member,
        burst: &Burst<B>,
    ) -> (Segments, u64) {
        let mut parsed = Segments::default();
        let mut groups = burst.chunks(LANES).enumerate().map(|(group, buffers)| (group * LANES, buffers));
        let mut taken = None;
        // One group ahead: words that have just been stored one by one cannot be loaded as eight yet.
        loop {
            let next = groups.next();
            if let Some((first, buffers)) = next {
                for (within, buffer) in buffers.iter().enumerate() {
                    self.heads.take(first + within, buffer.is_whole().then(|| buffer.bytes()));
                }
                // In the last group, what an earlier burst has left.
                (buffers.len()..LANES).for_each(|within| self.heads.take(first + within, None));
            }
            if let Some(first) = taken {
                let group = common::segments::<S, FROM_WIRE>(simd, &self.heads, first, &self.known, &mut self.tuples);
                parsed.add(group, first);
                member.established.ask(simd, &self.tuples, first, &mut self.hashes);
            }
            match next {
                Some((first, _)) => taken = Some(first),
                None => break,
            }
        }
        self.common = parsed.common;
        let mut segments = parsed.common;
        for index in bits(all(burst.len()) & !parsed.common) {
            segments |= u64::from(self.classify::<B, FROM_WIRE>(member, &burst[index], index)) << index;
        }
        (parsed, segments)
    }

    /// Classifies a frame that is not common; whether it has a tuple.
    #[cold]
    fn classify<B: Buffer, const FROM_WIRE: bool>(&mut self, member: &Member, buffer: &B, index: usize) -> bool {
        let (frame, facts) = (buffer.bytes(), &member.facts);
        let class = match buffer.is_whole() {
            false => Class::Drop(DropReason::Oversize),
            true if FROM_WIRE => classify::from_wire(frame, facts),
            true => classify::from_host(frame, facts),
        };
        self.classes[index] = class;
        let Class::Tcp(place) = class else { return false };
        let tuple = if FROM_WIRE { place.tuple_from_wire(frame) } else { place.tuple_from_host(frame) };
        self.tuples.set(index, tuple);
        self.hashes[index] = member.established.hash(&tuple);
        true
    }

    /// What a frame is.
    #[inline]
    pub fn class(&self, index: usize, frame: &[u8]) -> Class {
        if self.common >> index & 1 == 0 {
            return self.classes[index];
        }
        Class::Tcp(common::place(frame, self.tuples.get(index).vip))
    }

    /// Segments that may be of the same connection as a decisive one of their burst: those keep their order. Of a
    /// thousand others one is taken for such, for each that is decisive.
    #[inline(always)]
    fn beside(&self, decisive: u64, count: usize) -> u64 {
        if decisive == 0 {
            return 0;
        }
        let mut seen = [0u64; 16];
        let place = |hash: &Hash| ((hash.bits() >> 6) as usize % 16, hash.bits() % 64);
        for index in bits(decisive) {
            let (word, bit) = place(&self.hashes[index]);
            seen[word] |= 1 << bit;
        }
        let is_seen = |hash: &Hash| {
            let (word, bit) = place(hash);
            seen[word] >> bit & 1
        };
        let set = self.hashes.iter().enumerate().fold(0, |set, (index, hash)| set | is_seen(hash) << index);
        set & all(count)
    }
}
