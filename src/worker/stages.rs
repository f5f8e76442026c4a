//! The stages of a burst before its frames are decided, one after the other for all of them, so that the memory each frame
//! needs is on its way while the others are worked on.

use super::Member;
use super::unfound::{self, Unfound};
use crate::bits::{all, bits};
use crate::classify::common::{self, Segments};
use crate::classify::{self, Class, Facts};
use crate::orphans::Recent;
use crate::port::{BURST, Buffer, Burst};
use crate::simd::{LANES, Simd};
use crate::table::{Entries, Entry, Found, Hash, Outlook, Tuples};
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
    common: Segments,
    /// Those that have a tuple.
    segments: u64,
    found: Found,
    /// Segments that are not plain: they may decide something.
    decisive: u64,
    /// Plain segments that need not wait for a decisive one.
    plain: u64,
    /// Those of them that were found, and whose connection nobody may be about to take over: an entry is all that it
    /// takes to pass them.
    pub passing: u64,
    /// Those of these that may be the first for a while.
    pub stale: u64,
    /// Plain segments that were not found, and change nothing that is known of a connection.
    pub missed: u64,
    unfound: Unfound,
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
            common: Segments::default(),
            segments: 0,
            found: Found::none(0, Time::from_millis(0)),
            decisive: 0,
            plain: 0,
            passing: 0,
            stale: 0,
            missed: 0,
            unfound: Unfound::default(),
        }
    }
}

/// Groups of eight whose lines are asked for before the first of them is looked at: so far ahead that they have come, and
/// no further, so that memory has something to do from a burst's start to its end.
pub const AHEAD: usize = 3;

/// How many groups each stage is behind the first, which takes heads. They are parsed one behind: words that have just been
/// stored one by one cannot be loaded as eight yet.
const PARSE: usize = 1;
const ASK: usize = PARSE + 1;
const LOOK: usize = ASK + AHEAD;
const JUDGE: usize = LOOK + 1;

/// Half of a group's lines are asked for while heads are taken, half while others are looked at: evenly, as a CPU can have no more
/// than some 16 lines on their way, and waits where it is asked for more.
const HALF: usize = LANES / 2;

/// What the stages work on.
struct Given<'a, B> {
    member: &'a Member,
    recent: &'a Recent,
    burst: &'a [B],
    now: Time,
}

impl Stages {
    /// Those of a group that have a tuple.
    #[inline(always)]
    fn in_group(&self, first: usize) -> u64 {
        self.segments >> first & 0xff
    }

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
        (self.common, self.segments, self.found) = (Segments::default(), 0, Found::none(burst.len(), now));
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
        given.burst.iter().take(2 * LANES).for_each(|buffer| buffer.prefetch());
        for turn in 0..groups + JUDGE {
            let group = |behind: usize| (turn >= behind && turn < groups + behind).then(|| (turn - behind) * LANES);
            let asked = group(ASK).filter(|first| self.in_group(*first) != 0);
            match group(0) {
                Some(first) => self.take(given, first, asked),
                None => self.ask(given.member, asked, 0),
            }
            if let Some(first) = group(PARSE) {
                self.parse::<S, B, FROM_WIRE>(simd, given, first);
            }
            if turn == groups {
                self.part_decisive(given.member);
            }
            match group(LOOK).filter(|first| self.in_group(*first) != 0) {
                Some(first) => self.look(simd, given.member, first, asked),
                None => self.ask(given.member, asked, HALF),
            }
            if let Some(first) = group(JUDGE).filter(|first| self.in_group(*first) != 0) {
                self.judge::<S, B, FROM_WIRE>(simd, given, first);
            }
        }
        given.member.established.ask_again(&self.hashes, &self.found);
        self.foresee(simd, given.member, given.now);
        self.part(simd, given.burst.len());
    }

    /// All is parsed: parts what may decide something, and asks for the lines where that is remembered.
    #[inline(always)]
    fn part_decisive(&mut self, member: &Member) {
        self.decisive = self.segments & !self.common.plain;
        bits(self.decisive).for_each(|index| member.handshakes.prefetch(self.hashes[index]));
    }

    /// Asks for half of the lines of a group, from this of them on.
    #[inline(always)]
    fn ask(&self, member: &Member, group: Option<usize>, from: usize) {
        if let Some(first) = group {
            (from..from + HALF).for_each(|lane| member.established.prefetch(self.hashes[first + lane]));
        }
    }

    /// Looks ahead of what SYNs, and what decides handshakes, will write and read, and asks for that.
    #[inline(always)]
    fn foresee<S: Simd>(&mut self, simd: S, member: &Member, now: Time) {
        for index in bits(self.decisive) {
            self.outlooks[index] = member.handshakes.foresee(simd, self.hashes[index], now);
        }
    }

    /// Takes the heads of a group, and asks for those of the second after it, and for half of the lines of another.
    #[inline(always)]
    fn take<B: Buffer>(&mut self, given: &Given<'_, B>, first: usize, asked: Option<usize>) {
        let Given { member, burst, .. } = given;
        burst[(first + 2 * LANES).min(burst.len())..].iter().take(LANES).for_each(|buffer| buffer.prefetch());
        let buffers = &burst[first..];
        // Without a group to ask for, the line of no hash, which is at hand: a branch would cost as much.
        let asked = asked.and_then(|first| self.hashes[first..].first_chunk::<HALF>().copied()).unwrap_or_default();
        for within in 0..LANES {
            // In the last group there may be what an earlier burst has left.
            let buffer = buffers.get(within).filter(|buffer| buffer.is_whole());
            self.heads.take(first + within, buffer.map(|buffer| buffer.bytes()));
            if within % 2 == 0 {
                member.established.prefetch(asked[within / 2]);
            }
        }
    }

    /// Finds a group's common segments and their connections, and classifies what else there is.
    #[inline(always)]
    fn parse<S: Simd, B: Buffer, const FROM_WIRE: bool>(&mut self, simd: S, given: &Given<'_, B>, first: usize) {
        let Given { member, burst, .. } = given;
        let group = common::segments::<S, FROM_WIRE>(simd, &self.heads, first, &self.known, &mut self.tuples);
        if group.common != 0 {
            member.established.hash_group(simd, &self.tuples, first, &mut self.hashes);
        }
        self.common.add(group, first);
        self.segments |= group.common << first;
        for within in bits(all(LANES.min(burst.len() - first)) & !group.common) {
            let index = first + within;
            self.segments |= u64::from(self.classify::<B, FROM_WIRE>(member, &burst[index], index)) << index;
        }
    }

    /// Looks up a group, and asks for the other half of the lines of another.
    #[inline(always)]
    fn look<S: Simd>(&mut self, simd: S, member: &Member, first: usize, asked: Option<usize>) {
        // Without a group to ask for, the lines that are looked at.
        let asked = asked.unwrap_or(first);
        for lane in 0..LANES {
            if lane % 2 == 0 {
                member.established.prefetch(self.hashes[(asked + HALF + lane / 2) % BURST]);
            }
            member.established.look(simd, &self.tuples, (first + lane) % BURST, &self.hashes, &mut self.entries);
        }
    }

    /// Sees which of a group were found, and asks for the lines that lead on from there.
    #[inline(always)]
    fn judge<S: Simd, B: Buffer, const FROM_WIRE: bool>(&mut self, simd: S, given: &Given<'_, B>, first: usize) {
        let Given { member, recent, .. } = given;
        member.established.judge(simd, &self.tuples, first, &self.hashes, &self.entries, &mut self.found);
        let missed = (self.common.plain & !self.found.found & !self.found.again()) >> first & 0xff;
        if FROM_WIRE
            && missed != 0
            && let Some(hashes) = self.hashes[first..].first_chunk()
        {
            unfound::prefetch(simd, (member, recent), hashes, (missed, self.common.may_be_repeated >> first));
        }
    }

    /// Parts the plain segments from the others, and those that were found from those that were not.
    #[inline(always)]
    fn part<S: Simd>(&mut self, simd: S, count: usize) {
        self.plain = self.common.plain & !self.beside(simd, count);
        let Found { found, fresh, .. } = self.found;
        let (plain, again) = (self.plain, self.found.again());
        self.missed = plain & !found & !again;
        self.passing = plain & found;
        self.stale = 0;
        for index in bits(self.passing & !fresh) {
            let bit = 1 << index;
            if self.entries.get(index).syn_seen() {
                self.passing &= !bit;
            } else {
                self.stale |= bit;
            }
        }
    }

    /// Plain segments that need a second look.
    #[inline(always)]
    pub fn again(&self) -> u64 {
        self.plain & self.found.again()
    }

    /// The second look at one of them.
    #[inline(always)]
    pub fn look_again<S: Simd>(&mut self, simd: S, member: &Member, index: usize) -> Option<Entry> {
        let entry = member.established.look_again(simd, &self.tuples, index, self.hashes[index]);
        self.missed |= u64::from(entry.is_none()) << index;
        entry
    }

    /// Segments of those missed that their clients would repeat.
    #[inline(always)]
    pub fn may_be_repeated(&self) -> u64 {
        self.missed & self.common.may_be_repeated
    }

    /// Those missed that [may be known](Unfound::may_be_known).
    #[inline(always)]
    pub fn may_be_known<S: Simd>(&mut self, simd: S, member: &Member) -> u64 {
        self.unfound.may_be_known(simd, member, &self.hashes, self.missed)
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
        if self.common.common >> index & 1 == 0 {
            return self.classes[index];
        }
        Class::Tcp(common::place(frame, self.tuples.get(index).vip))
    }

    /// Segments that may be of the same connection as a decisive one of their burst: those keep their order. Of a
    /// thousand others one is taken for such, for each that is decisive.
    #[inline(always)]
    fn beside<S: Simd>(&self, simd: S, count: usize) -> u64 {
        if self.decisive == 0 {
            return 0;
        }
        let mut seen = [0u64; 16];
        for index in bits(self.decisive) {
            let hash = self.hashes[index].bits();
            seen[(hash >> 6) as usize % 16] |= 1 << (hash % 64);
        }
        let mut set = 0;
        for (group, hashes) in self.hashes.as_chunks::<LANES>().0.iter().enumerate() {
            set |= simd.contained(&seen, simd.load(&hashes.map(Hash::bits))) << (group * LANES);
        }
        set & all(count)
    }
}
