//! The stages of a burst before its frames are decided, one after the other for all of them, so that the memory each frame
//! needs is on its way while the others are worked on.

use super::Member;
use crate::bits::{all, bits};
use crate::classify::common::{self, Segments};
use crate::classify::{self, Class, Facts};
use crate::orphans::Recent;
use crate::port::{BURST, Buffer, Burst};
use crate::simd::{LANES, Simd};
use crate::table::{Entries, Found, Hash, Outlook, Tuples};
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
    pub entries: Entries,
    /// Of what has a tuple, but for plain segments.
    pub outlooks: [Outlook; BURST],
    /// Of what is not common.
    classes: [Class; BURST],
    common: u64,
    /// Segments that are not plain: they may decide something.
    decisive: u64,
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
            entries: Entries::default(),
            outlooks: [Outlook::NONE; BURST],
            classes: [Class::Other; BURST],
            common: 0,
            decisive: 0,
            passing: 0,
            stale: 0,
            missed: 0,
            may_be_repeated: 0,
        }
    }
}

/// Groups of eight whose lines are asked for before the first of them is looked at: so far ahead that they have come, and
/// no further, so that memory has something to do from a burst's start to its end.
pub const AHEAD: usize = 3;

/// What the stages work on.
struct Given<'a, B> {
    member: &'a Member,
    recent: &'a Recent,
    burst: &'a [B],
    now: Time,
}

/// What they have found out so far.
struct Seen {
    common: Segments,
    /// Those that have a tuple.
    segments: u64,
    entries: Found,
}

impl Seen {
    /// Those of a group that have a tuple.
    #[inline(always)]
    fn in_group(&self, first: usize) -> u64 {
        self.segments >> first & 0xff
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
        let given = Given { member, recent, burst, now };
        match direction {
            Direction::FromWire => self.prepare_from::<S, B, true>(simd, &given),
            Direction::FromHost => self.prepare_from::<S, B, false>(simd, &given),
        }
    }

    /// Eight frames after eight, each stage some groups behind the one before it: memory is asked from a burst's start to its end,
    /// and not for more at a time than it can have on its way.
    #[inline(always)]
    fn prepare_from<S: Simd, B: Buffer, const FROM_WIRE: bool>(&mut self, simd: S, given: &Given<'_, B>) {
        let groups = given.burst.len().div_ceil(LANES);
        let mut seen =
            Seen { common: Segments::default(), segments: 0, entries: Found::none(given.burst.len(), given.now) };
        given.burst.iter().take(2 * LANES).for_each(|buffer| buffer.prefetch());
        for turn in 0..=groups + AHEAD + 1 {
            if turn < groups {
                self.take(given.burst, turn * LANES);
            }
            // One behind: words that have just been stored one by one cannot be loaded as eight yet.
            if turn > 0 && turn <= groups {
                self.parse::<S, B, FROM_WIRE>(simd, given, (turn - 1) * LANES, &mut seen);
            }
            if turn > AHEAD && turn <= groups + AHEAD {
                self.look(simd, given.member, (turn - 1 - AHEAD) * LANES, &seen);
            }
            if turn > AHEAD + 1 {
                self.judge::<S, B, FROM_WIRE>(simd, given, (turn - 2 - AHEAD) * LANES, &mut seen);
            }
        }
        self.decisive = seen.segments & !seen.common.plain;
        bits(self.decisive).for_each(|index| given.member.handshakes.prefetch(self.hashes[index]));
        given.member.established.look_again(&self.tuples, &self.hashes, &mut self.entries, &mut seen.entries);
        self.part(given.burst.len(), &seen);
    }

    /// Looks ahead of what SYNs, and what decides handshakes, will write and read: some time after [`prepare`](Stages::prepare),
    /// as it needs what that has asked for.
    #[inline(always)]
    pub fn foresee<S: Simd>(&mut self, simd: S, member: &Member, now: Time) {
        for index in bits(self.decisive) {
            self.outlooks[index] = member.handshakes.foresee(simd, self.hashes[index], now);
        }
    }

    /// Takes the heads of a group, and asks for those of the second after it.
    #[inline(always)]
    fn take<B: Buffer>(&mut self, burst: &[B], first: usize) {
        burst[(first + 2 * LANES).min(burst.len())..].iter().take(LANES).for_each(|buffer| buffer.prefetch());
        let buffers = &burst[first..];
        for within in 0..LANES {
            // In the last group there may be what an earlier burst has left.
            let buffer = buffers.get(within).filter(|buffer| buffer.is_whole());
            self.heads.take(first + within, buffer.map(|buffer| buffer.bytes()));
        }
    }

    /// Finds a group's common segments and their connections, asks for the lines where their entries are, and classifies
    /// what else there is.
    #[inline(always)]
    fn parse<S: Simd, B: Buffer, const FROM_WIRE: bool>(
        &mut self,
        simd: S,
        given: &Given<'_, B>,
        first: usize,
        seen: &mut Seen,
    ) {
        let Given { member, burst, .. } = given;
        let group = common::segments::<S, FROM_WIRE>(simd, &self.heads, first, &self.known, &mut self.tuples);
        if group.common != 0 {
            member.established.ask(simd, &self.tuples, first, &mut self.hashes);
        }
        seen.common.add(group, first);
        seen.segments |= group.common << first;
        for within in bits(all(LANES.min(burst.len() - first)) & !group.common) {
            let index = first + within;
            seen.segments |= u64::from(self.classify::<B, FROM_WIRE>(member, &burst[index], index)) << index;
        }
    }

    /// Looks up a group, if there is a segment in it.
    #[inline(always)]
    fn look<S: Simd>(&mut self, simd: S, member: &Member, first: usize, seen: &Seen) {
        if seen.in_group(first) != 0 {
            member.established.look(simd, &self.tuples, first, &self.hashes, &mut self.entries, &seen.entries);
        }
    }

    /// Sees which of a group were found, and asks for the lines that lead on from there.
    #[inline(always)]
    fn judge<S: Simd, B: Buffer, const FROM_WIRE: bool>(
        &mut self,
        simd: S,
        given: &Given<'_, B>,
        first: usize,
        seen: &mut Seen,
    ) {
        let Given { member, recent, .. } = given;
        if seen.in_group(first) == 0 {
            return;
        }
        member.established.judge(simd, &self.tuples, first, &self.hashes, &self.entries, &mut seen.entries);
        if FROM_WIRE {
            let missed = (seen.common.plain & !seen.entries.found) >> first & 0xff;
            for within in bits(missed) {
                member.handshakes.prefetch_tags(self.hashes[first + within]);
                member.suspicions.prefetch(self.hashes[first + within]);
            }
            for within in bits(missed & seen.common.may_be_repeated >> first) {
                recent.prefetch(self.hashes[first + within]);
            }
        }
    }

    /// Parts the plain segments from the others, and those that were found from those that were not.
    #[inline(always)]
    fn part(&mut self, count: usize, seen: &Seen) {
        let Seen { common, segments, entries } = seen;
        let plain = common.plain & !self.beside(segments & !common.plain, count);
        self.common = common.common;
        self.passing = plain & entries.found;
        self.stale = 0;
        for index in bits(self.passing & !entries.fresh) {
            let bit = 1 << index;
            if self.entries.get(index).syn_seen() {
                self.passing &= !bit;
            } else {
                self.stale |= bit;
            }
        }
        self.missed = plain & !entries.found;
        self.may_be_repeated = self.missed & common.may_be_repeated;
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
