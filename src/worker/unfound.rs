//! Which of a burst's plain segments that were not found may be of a tuple of which a handshake is remembered, or of a client
//! that is watched. Nearly all segments of other members' connections are neither: two words of tags tell.
//!
//! In a mix those that were not found are few of each group of eight, so they are gathered first: what is done to all of
//! them alike is then done to eight of them at a time.

use super::Member;
use crate::bits::{all, bits};
use crate::orphans::{Recent, Suspicions};
use crate::port::BURST;
use crate::simd::{LANES, Simd};
use crate::table::{Handshakes, Hash};

/// A group is stored as a whole, also behind the last.
const ROOM: usize = BURST + LANES;

/// What is written down meanwhile: kept, so that it need not be cleared for each burst.
pub(super) struct Unfound {
    /// Those gathered.
    hashes: [Hash; ROOM],
    places: [u64; ROOM],
    /// Their tags: of handshakes, of clients.
    tags: [[u64; BURST]; 2],
}

impl Default for Unfound {
    fn default() -> Unfound {
        Unfound { hashes: [Hash::default(); ROOM], places: [0; ROOM], tags: [[0; BURST]; 2] }
    }
}

/// Asks for the lines that those of eight that were not found lead to, and for those of what clients have sent last
/// that the ones with data lead to.
#[inline(always)]
pub(super) fn prefetch<S: Simd>(
    simd: S,
    (member, recent): (&Member, &Recent),
    hashes: &[Hash; LANES],
    (unfound, repeatable): (u64, u64),
) {
    // Of all eight, those that were found with zero for a hash: which ones they are is nothing that a CPU could predict.
    let hashes = simd.keep(simd.load(&hashes.map(Hash::bits)), unfound);
    member.handshakes.prefetch_tags(simd, hashes);
    member.suspicions.prefetch_tags(simd, hashes);
    recent.prefetch(simd, simd.keep(hashes, repeatable));
}

impl Unfound {
    /// The places of those, of `unfound`, that may be known as the module says. Wrong for one of thirty of others.
    #[inline(always)]
    pub fn may_be_known<S: Simd>(&mut self, simd: S, member: &Member, hashes: &[Hash; BURST], unfound: u64) -> u64 {
        let count = self.gather(simd, hashes, unfound);
        for first in (0..count).step_by(LANES) {
            let hashes = self.group(simd, first);
            let [of_handshakes, of_clients] = &mut self.tags;
            if let (Some(of_handshakes), Some(of_clients)) =
                (of_handshakes[first..].first_chunk_mut(), of_clients[first..].first_chunk_mut())
            {
                member.handshakes.tags(simd, hashes, of_handshakes);
                member.suspicions.tags(simd, hashes, of_clients);
            }
        }
        // Only now: words that have just been stored one by one cannot be loaded as eight yet.
        let mut set = 0;
        for first in (0..count).step_by(LANES) {
            let hashes = self.group(simd, first);
            let [of_handshakes, of_clients] = self.tags.each_ref().map(|tags| tags[first..].first_chunk());
            if let (Some(of_handshakes), Some(of_clients)) = (of_handshakes, of_clients) {
                set |= (Handshakes::may_have(simd, hashes, simd.load(of_handshakes))
                    | Suspicions::may_watch_any(simd, hashes, simd.load(of_clients)))
                    << first;
            }
        }
        bits(set & all(count)).fold(0, |known, index| known | 1 << self.places[index])
    }

    /// Puts them one after the other; how many they are.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, simd: S, hashes: &[Hash; BURST], unfound: u64) -> usize {
        let mut count = 0;
        let within = simd.load(&[0, 1, 2, 3, 4, 5, 6, 7]);
        for (group, hashes) in hashes.as_chunks::<LANES>().0.iter().enumerate() {
            let first = group * LANES;
            let lanes = unfound >> first & 0xff;
            if let (Some(to_hashes), Some(to_places)) =
                (self.hashes[count..].first_chunk_mut(), self.places[count..].first_chunk_mut())
            {
                let mut words = [0; LANES];
                simd.compress(simd.load(&hashes.map(Hash::bits)), lanes, &mut words);
                *to_hashes = words.map(Hash::from_bits);
                simd.compress(simd.add(simd.splat(first as u64), within), lanes, to_places);
            }
            count += lanes.count_ones() as usize;
        }
        count
    }

    /// The hashes of eight of those gathered.
    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, first: usize) -> S::Lanes {
        simd.load(&self.hashes[first..].first_chunk::<LANES>().copied().unwrap_or_default().map(Hash::bits))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::classify::Facts;
    use crate::config::checked::HugePages;
    use crate::frame::Mac;
    use crate::frame::build::{TcpFrame, tcp_frame};
    use crate::frame::ipv4::Ipv4;
    use crate::frame::tcp::Segment;
    use crate::shared::Shared;
    use crate::simd::Portable;
    use crate::table::{Established, Fragments, HalfOpen, Hasher, Tuple};
    use crate::time::Time;

    fn member() -> Member {
        Member {
            facts: Facts { own_mac: Mac([2; 6]), vips: Vec::new(), heartbeat: 0x88b5, shared_wire: false },
            shared: Arc::new(Shared::new(1)),
            established: Established::new(16, Hasher::new([1; 16]), HugePages::Never).unwrap(),
            handshakes: Handshakes::new(1 << 12, HugePages::Never).unwrap(),
            half_open: HalfOpen::default(),
            fragments: Fragments::new(),
            suspicions: Suspicions::new(1 << 10),
        }
    }

    fn tuple(number: u16) -> Tuple {
        Tuple { client_port: number, port: 80, ..Tuple::NONE }
    }

    /// A client repeats itself until it is watched.
    fn watch(member: &Member, tuple: &Tuple, hash: Hash) {
        let (recent, frame) = (Recent::new(4), tcp_frame(&TcpFrame { data: b"again", ..TcpFrame::default() }));
        let packet = Ipv4::parse(&frame).unwrap();
        let segment = Segment::parse(&packet).unwrap();
        for ms in [1_000, 1_200, 1_600] {
            member.suspicions.observe(&recent, tuple, hash, &segment, Time::from_millis(ms));
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_or_watched_may_be_known_and_little_else(
            kinds in vec(0..8u8, BURST),
            unfound: u64,
        ) {
            let (member, hasher) = (member(), Hasher::new([3; 16]));
            let hashes: [Hash; BURST] = std::array::from_fn(|place| hasher.hash(&tuple(place as u16)));
            let mut expected = 0;
            for (place, kind) in kinds.iter().enumerate() {
                let (tuple, hash) = (tuple(place as u16), hashes[place]);
                match kind {
                    0 => drop(member.handshakes.remember(&tuple, hash, 7, true, Time::from_millis(1_000))),
                    1 => watch(&member, &tuple, hash),
                    _ => continue,
                }
                expected |= 1 << place;
            }
            let known = Unfound::default().may_be_known(Portable, &member, &hashes, unfound);
            prop_assert_eq!(known & expected, unfound & expected);
            // Another of the same tag and place: with tables as empty as these, hardly ever.
            prop_assert!((known & !expected).count_ones() <= 2, "{:x}", known & !expected);
            prop_assert_eq!(known & !unfound, 0);
            #[cfg(target_arch = "x86_64")]
            {
                if let Some(simd) = crate::simd::Avx2::detect() {
                    prop_assert_eq!(Unfound::default().may_be_known(simd, &member, &hashes, unfound), known);
                }
                if let Some(simd) = crate::simd::Avx512::detect() {
                    prop_assert_eq!(Unfound::default().may_be_known(simd, &member, &hashes, unfound), known);
                }
            }
        }
    }
}
