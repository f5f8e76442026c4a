//! The stages of a burst before its frames are decided, one after the other for all of them, so that the memory each frame
//! needs is on its way while the others are worked on.

use super::Member;
use crate::classify::{self, Class, Facts};
use crate::port::{BURST, Buffer, Burst};
use crate::table::{Entry, Hash, Tuple};
use crate::time::Time;
use crate::verdict::DropReason;

/// Which way a burst goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    FromWire,
    FromHost,
}

/// What the stages know of a burst. Segments are numbered among themselves, in the order of their frames.
pub(super) struct Stages {
    /// By frame.
    pub classes: [Class; BURST],
    /// By frame: the number of its segment, if it is one.
    pub segment_of: [u8; BURST],
    /// By segment, as all below.
    pub frame_of: [u8; BURST],
    pub tuples: [Tuple; BURST],
    pub hashes: [Hash; BURST],
    /// Of those that were found.
    pub found: [Entry; BURST],
    /// Bit by bit: plain segments that were found, and whose connection nobody may be about to take over.
    pub passing: u64,
    /// Bit by bit: plain segments that were not found.
    pub missed: u64,
}

impl Default for Stages {
    fn default() -> Stages {
        Stages {
            classes: [Class::Other; BURST],
            segment_of: [0; BURST],
            frame_of: [0; BURST],
            tuples: [Tuple::NONE; BURST],
            hashes: [Hash::default(); BURST],
            found: [Entry::NONE; BURST],
            passing: 0,
            missed: 0,
        }
    }
}

impl Stages {
    /// The stages before decisions: parse; hash, and ask for the lines where entries are; look up, and ask for the
    /// lines that what was not found leads to.
    #[inline(always)] // For which CPUs, the caller says.
    pub fn prepare<B: Buffer>(&mut self, member: &Member, burst: &Burst<B>, direction: Direction, now: Time) {
        let (segments, plain) = self.parse(&member.facts, burst, direction);
        let (tuples, hashes) = (&self.tuples[..segments], &mut self.hashes[..segments]);
        let decisive = all(segments) & !plain;
        let hits = member.established.look_up_burst(tuples, hashes, &mut self.found, |segment, hash| {
            if decisive >> segment & 1 != 0 {
                member.handshakes.prefetch(hash);
            }
        });
        let plain = plain & !beside(decisive, hashes);
        self.passing = plain & hits.found & !hits.syn_seen;
        self.missed = plain & !hits.found;
        for segment in bits(self.missed) {
            member.handshakes.prefetch(hashes[segment]);
            member.suspicions.prefetch(hashes[segment]);
        }
        bits(decisive).for_each(|segment| member.handshakes.prefetch_record(hashes[segment], now));
    }

    /// Classifies; returns how many segments there are, and which of them are plain, bit by bit.
    #[inline(always)]
    fn parse<B: Buffer>(&mut self, facts: &Facts, burst: &Burst<B>, direction: Direction) -> (usize, u64) {
        let (mut segments, mut plain) = (0, 0);
        for (index, buffer) in burst.iter().enumerate() {
            let (frame, tuple) = (buffer.bytes(), &mut self.tuples[segments]);
            let class = match direction {
                _ if !buffer.is_whole() => Class::Drop(DropReason::Oversize),
                Direction::FromWire => classify::from_wire(frame, facts, tuple),
                Direction::FromHost => classify::from_host(frame, facts, tuple),
            };
            self.classes[index] = class;
            if let Class::Tcp(place) = class {
                plain |= u64::from(place.plain) << segments;
                (self.frame_of[segments], self.segment_of[index]) = (index as u8, segments as u8);
                segments += 1;
            }
        }
        (segments, plain)
    }
}

/// Segments that may be of the same connection as a decisive one of their burst, bit by bit: those keep their order. Of a
/// thousand others one is taken for such, for each that is decisive.
#[inline(always)]
fn beside(decisive: u64, hashes: &[Hash]) -> u64 {
    if decisive == 0 {
        return 0;
    }
    let mut seen = [0u64; 16];
    let place = |hash: &Hash| ((hash.bits() >> 6) as usize % 16, hash.bits() % 64);
    for segment in bits(decisive) {
        let (word, bit) = place(&hashes[segment]);
        seen[word] |= 1 << bit;
    }
    let is_seen = |hash: &Hash| {
        let (word, bit) = place(hash);
        seen[word] >> bit & 1
    };
    hashes.iter().enumerate().fold(0, |set, (segment, hash)| set | is_seen(hash) << segment)
}

#[cfg(target_arch = "x86_64")]
pub(super) fn is_modern() -> bool {
    use std::is_x86_feature_detected as has;
    has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("movbe") && has!("popcnt")
}

/// The numbers of the bits that are set.
#[inline]
pub(super) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = set.trailing_zeros() as usize;
        let some = set != 0;
        set &= set.wrapping_sub(1);
        some.then_some(index)
    })
}

/// The lowest `count` bits.
#[inline]
pub(super) fn all(count: usize) -> u64 {
    u64::MAX.checked_shr(u64::BITS - count as u32).unwrap_or(0)
}
