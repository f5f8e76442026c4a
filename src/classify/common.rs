//! The frame that nearly all are: a TCP segment of a VIP, IPv4 without options, whole. Everything that makes it one stands
//! at a fixed place, so it is recognised by comparing words, those of eight frames at a time.
//!
//! Anything else, and anything odd, is left to the parsers.

use super::{Facts, Place};
use crate::bits::bits;
use crate::frame::{Mac, ethernet, ipv4, tcp};
use crate::simd::{LANES, Simd};
use crate::table::{Tuples, VipIndex};

const IP: usize = ethernet::HEADER;
const TCP: usize = IP + ipv4::HEADER;

/// Bytes that are looked at.
const HEAD: usize = TCP + tcp::HEADER;

/// How many heads are kept: of the group that is taken apart, and of the one that is taken meanwhile. The fewer, the more of
/// the fastest cache is left to others.
const HEADS: usize = 2 * LANES;

/// The bytes of the last [`HEADS`] frames' heads as words, the first byte the lowest, by what they hold. Words of the same place
/// lie beside each other.
pub struct Heads {
    /// From byte 0: destination MAC, and the start of the source's.
    to: [u64; HEADS],
    /// From byte 6: source MAC, EtherType.
    from: [u64; HEADS],
    /// From byte 14: version, header length, service, total length; identification, flags and fragment offset.
    start: [u64; HEADS],
    /// From byte 22: time to live, protocol, checksum; source address.
    middle: [u64; HEADS],
    /// From byte 30: destination address; ports.
    end: [u64; HEADS],
    /// From byte 46: data offset, flags, window; checksum, urgent pointer.
    tcp: [u64; HEADS],
    /// Bytes of the frame; none where it is too short, or not whole.
    len: [u64; HEADS],
}

impl Default for Heads {
    fn default() -> Heads {
        let none = [0; HEADS];
        Heads { to: none, from: none, start: none, middle: none, end: none, tcp: none, len: none }
    }
}

impl Heads {
    /// Takes the head of the frame at a place, over that of the frame [`HEADS`] before it. `None`: it is not to be a common one.
    #[inline(always)]
    pub fn take(&mut self, place: usize, frame: Option<&[u8]>) {
        let place = place % HEADS;
        let Some((frame, head)) = frame.and_then(|frame| Some((frame, frame.first_chunk::<HEAD>()?))) else {
            self.len[place] = 0;
            return;
        };
        self.to[place] = word::<0>(head);
        self.from[place] = word::<6>(head);
        self.start[place] = word::<IP>(head);
        self.middle[place] = word::<{ IP + 8 }>(head);
        self.end[place] = word::<{ IP + 16 }>(head);
        self.tcp[place] = word::<{ TCP + 12 }>(head);
        self.len[place] = frame.len() as u64;
    }
}

#[inline(always)]
fn word<const AT: usize>(head: &[u8; HEAD]) -> u64 {
    const { assert!(AT + 8 <= HEAD) };
    u64::from_le_bytes(head[AT..].first_chunk().copied().unwrap_or_default())
}

/// Some bytes of a word, and what they have to be.
struct Pattern {
    mask: u64,
    value: u64,
}

impl Pattern {
    const fn new(mask: [u8; 8], value: [u8; 8]) -> Pattern {
        Pattern { mask: u64::from_le_bytes(mask), value: u64::from_le_bytes(value) }
    }

    /// Zero in lanes where they are.
    #[inline(always)]
    fn mismatch<S: Simd>(&self, simd: S, lanes: S::Lanes) -> S::Lanes {
        simd.and(simd.xor(lanes, simd.splat(self.value)), simd.splat(self.mask))
    }
}

/// Of `from`: IPv4.
const ETHERTYPE: Pattern = Pattern::new([0, 0, 0, 0, 0, 0, 0xff, 0xff], {
    let [high, low] = ethernet::IPV4.to_be_bytes();
    [0, 0, 0, 0, 0, 0, high, low]
});

/// Of `start`: version 4 and no options; neither more fragments nor an offset.
const START: Pattern = Pattern::new([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff], [0x45, 0, 0, 0, 0, 0, 0, 0]);

/// Of `middle`: TCP.
const MIDDLE: Pattern = Pattern::new([0, 0xff, 0, 0, 0, 0, 0, 0], [0, ipv4::TCP, 0, 0, 0, 0, 0, 0]);

/// The lower half of a word.
const HALF: u64 = 0xffff_ffff;

/// A MAC address at the start of a word.
const MAC: u64 = 0xffff_ffff_ffff;

/// What frames are held against: of [`Facts`], as words.
#[derive(Clone, Debug)]
pub struct Known {
    own_mac: u64,
    vips: Vec<KnownVip>,
}

#[derive(Clone, Debug)]
struct KnownVip {
    mac: u64,
    address: u64,
}

impl Known {
    /// The words of these facts.
    pub fn of(facts: &Facts) -> Known {
        let word = |Mac([a, b, c, d, e, f]): Mac| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let address = |octets| u64::from(u32::from_le_bytes(octets));
        let vips = facts.vips.iter();
        let vips = vips.map(|vip| KnownVip { mac: word(vip.mac), address: address(vip.address.octets()) });
        Known { own_mac: word(facts.own_mac), vips: vips.collect() }
    }
}

/// What was found, as sets of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// Those that are common segments: they have their tuples.
    pub common: u64,
    /// Of those, the ones that an entry of their connection is enough to pass: no SYN, no RST, and no checksum that looks
    /// unfinished.
    pub plain: u64,
    /// Of those, the ones that [may be repeated](tcp::Segment::may_be_repeated).
    pub may_be_repeated: u64,
}

impl Segments {
    /// Adds those of a group that begins at place `first`.
    #[inline(always)]
    pub fn add(&mut self, group: Segments, first: usize) {
        self.common |= group.common << first;
        self.plain |= group.plain << first;
        self.may_be_repeated |= group.may_be_repeated << first;
    }
}

/// The common segments among eight frames, from place `first` on, from the wire or from the host, and their connections.
#[inline(always)]
pub fn segments<S: Simd, const FROM_WIRE: bool>(
    simd: S,
    heads: &Heads,
    first: usize,
    known: &Known,
    tuples: &mut Tuples,
) -> Segments {
    let (to, from, start, middle, end, tcp, len) = (
        lanes(simd, &heads.to, first),
        lanes(simd, &heads.from, first),
        lanes(simd, &heads.start, first),
        lanes(simd, &heads.middle, first),
        lanes(simd, &heads.end, first),
        lanes(simd, &heads.tcp, first),
        lanes(simd, &heads.len, first),
    );
    // Numbers in the order of this machine, in each half of a word.
    let (start_be, middle_be, end_be, tcp_be) = (
        simd.swap_bytes_of_halves(start),
        simd.swap_bytes_of_halves(middle),
        simd.swap_bytes_of_halves(end),
        simd.swap_bytes_of_halves(tcp),
    );
    let (source, destination) = (simd.shr::<32>(middle_be), simd.and(end_be, simd.splat(HALF)));
    let ports = simd.shr::<32>(end_be);

    let total_len = simd.and(start_be, simd.splat(0xffff));
    let header_len = simd.and(simd.shr::<2>(tcp), simd.splat(0x3c));
    let segment_len = simd.sub(total_len, simd.splat(ipv4::HEADER as u64));
    let data_len = simd.sub(segment_len, header_len);
    let padding = simd.sub(len, simd.add(total_len, simd.splat(IP as u64)));
    let options_len = simd.sub(header_len, simd.splat(tcp::HEADER as u64));
    // None is less than zero: no sign bit is set.
    let negative = simd.and(simd.or(simd.or(data_len, options_len), padding), simd.splat(1 << 63));
    let mut mismatch = simd.or(negative, ETHERTYPE.mismatch(simd, from));
    mismatch = simd.or(mismatch, simd.or(START.mismatch(simd, start), MIDDLE.mismatch(simd, middle)));
    let mut own = 0;
    if FROM_WIRE {
        let sum =
            fold(simd, simd.add(halves(simd, start), simd.add(halves(simd, middle), simd.and(end, simd.splat(HALF)))));
        mismatch = simd.or(mismatch, simd.xor(sum, simd.splat(0xffff)));
        own = simd.zeros(simd.and(simd.xor(from, simd.splat(known.own_mac)), simd.splat(MAC)));
    }
    let address = if FROM_WIRE { simd.and(end, simd.splat(HALF)) } else { simd.shr::<32>(middle) };
    let common = vips_of::<S, FROM_WIRE>(simd, [address, to], known, first, tuples) & simd.zeros(mismatch) & !own;

    let key = if FROM_WIRE {
        simd.or(simd.shl::<32>(source), ports)
    } else {
        let turned = simd.or(simd.and(simd.shl::<16>(ports), simd.splat(HALF)), simd.shr::<16>(ports));
        simd.or(simd.shl::<32>(destination), turned)
    };
    if let Some(keys) = tuples.keys_from(first) {
        simd.store(key, keys);
    }

    let flags = simd.and(simd.shr::<8>(tcp), simd.splat(0xff));
    let neither_syn_nor_rst = simd.zeros(simd.and(flags, simd.splat(SYN_RST)));
    let fin = !simd.zeros(simd.and(flags, simd.splat(tcp::Flags::FIN.into())));
    // The sum of the pseudo-header alone (`Segment::looks_unfinished`), which all ones are too where it is zero.
    let pseudo =
        simd.add(simd.add(source, destination), simd.add(segment_len, simd.splat(u64::from(ipv4::TCP) + 0xffff)));
    let unfinished = simd.xor(fold(simd, simd.sub(pseudo, simd.shr::<48>(tcp_be))), simd.splat(0xffff));
    let ack_alone = simd.xor(simd.and(flags, simd.splat(ACK_RST)), simd.splat(tcp::Flags::ACK.into()));
    let more_than_a_byte = !simd.zeros(simd.shr::<1>(data_len));
    Segments {
        common,
        plain: common & neither_syn_nor_rst & !simd.zeros(unfinished),
        may_be_repeated: common & simd.zeros(ack_alone) & (more_than_a_byte | fin),
    }
}

const SYN_RST: u64 = (tcp::Flags::SYN | tcp::Flags::RST) as u64;
const ACK_RST: u64 = (tcp::Flags::ACK | tcp::Flags::RST) as u64;

/// The words of a group. (No closures in here, nor below: they would not be compiled for this CPU.)
#[inline(always)]
fn lanes<S: Simd>(simd: S, words: &[u64; HEADS], first: usize) -> S::Lanes {
    simd.load(words[first % HEADS..].first_chunk().unwrap_or(&[0; LANES]))
}

/// The VIPs of a group go to their tuples; which frames have one, and are for its MAC if they come from the wire.
#[inline(always)]
fn vips_of<S: Simd, const FROM_WIRE: bool>(
    simd: S,
    [address, to]: [S::Lanes; 2],
    known: &Known,
    first: usize,
    tuples: &mut Tuples,
) -> u64 {
    let mut found = 0;
    for (index, vip) in known.vips.iter().enumerate() {
        let mut mismatch = simd.xor(address, simd.splat(vip.address));
        if FROM_WIRE {
            mismatch = simd.or(mismatch, simd.and(simd.xor(to, simd.splat(vip.mac)), simd.splat(MAC)));
        }
        let these = simd.zeros(mismatch);
        if known.vips.len() > 1 {
            for lane in bits(these) {
                tuples.set_vip(first + lane, index as VipIndex);
            }
        }
        found |= these;
        if found == 0xff {
            break;
        }
    }
    found
}

/// The sum of a word's halves.
#[inline(always)]
fn halves<S: Simd>(simd: S, lanes: S::Lanes) -> S::Lanes {
    simd.add(simd.and(lanes, simd.splat(HALF)), simd.shr::<32>(lanes))
}

/// The Internet checksum of a number below 2⁴⁸, of which all ones stand for a multiple of 65,535: 65,536 leaves 1, so a longer
/// word counts as those that it is made of, in any order of bytes (RFC 1071). Zero only of zero.
#[inline(always)]
fn fold<S: Simd>(simd: S, sum: S::Lanes) -> S::Lanes {
    let low = simd.splat(0xffff);
    // Below 3 × 2^16, then below 2^16 + 3, of which none but 65,535 is a multiple of it.
    let sum = simd.add(simd.and(sum, low), simd.add(simd.and(simd.shr::<16>(sum), low), simd.shr::<32>(sum)));
    simd.add(simd.and(sum, low), simd.shr::<16>(sum))
}

/// The place of a segment that [`segments`] has found to be common.
#[inline]
pub fn place(frame: &[u8], vip: VipIndex) -> Place {
    let total_len = frame[(IP + 2).min(frame.len())..].first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    Place { vip, at: TCP as u8, len: total_len.saturating_sub(ipv4::HEADER as u16), first_fragment: false }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Class, VipFacts, from_host, from_wire};
    use super::*;
    use crate::frame::build::{TcpFrame, tcp_frame};
    use crate::frame::checksum;
    use crate::frame::tcp::Flags;
    use crate::port::BURST;
    use crate::simd::Portable;
    use crate::table::Tuple;

    fn facts() -> Facts {
        let vip = |last| VipFacts {
            address: [10, 0, 0, last].into(),
            mac: Mac([2, 0, 0, 0, 1, last]),
            ports: Vec::new(),
            hedge: Duration::ZERO,
            orphans: true,
        };
        Facts { own_mac: Mac([2, 0, 0, 0, 0, 1]), vips: vec![vip(99), vip(100)], heartbeat: 0x88b5, shared_wire: true }
    }

    fn spec(flags: u8, from_wire: bool, data: &[u8]) -> TcpFrame<'_> {
        let (client, vip) = (([10, 0, 0, 1].into(), 40_000), ([10, 0, 0, 100].into(), 80));
        let (source, destination) = if from_wire { (client, vip) } else { (vip, client) };
        TcpFrame { to: Mac([2, 0, 0, 0, 1, 100]), source, destination, flags, data, ..TcpFrame::default() }
    }

    /// Both ways say the same, where this one knows; whether the frame is plain, from the wire and from the host.
    fn agree(frame: &[u8]) -> [bool; 2] {
        let facts = facts();
        let wire = found::<true>(frame, &facts);
        if let Some(found) = wire {
            agree_with(frame, found, from_wire(frame, &facts), |place| place.tuple_from_wire(frame));
        }
        let host = found::<false>(frame, &facts);
        if let Some(found) = host {
            agree_with(frame, found, from_host(frame, &facts), |place| place.tuple_from_host(frame));
        }
        [wire, host].map(|found| found.is_some_and(|(_, plain, _)| plain))
    }

    /// A common segment's tuple, and whether it is plain and may be repeated. The same at each place of a burst, among
    /// others, by each of this machine's instructions.
    fn found<const FROM_WIRE: bool>(frame: &[u8], facts: &Facts) -> Option<(Tuple, bool, bool)> {
        let known = Known::of(facts);
        let mut tuples = Tuples::default();
        let other = tcp_frame(&spec(Flags::ACK, FROM_WIRE, b"other"));
        let frames = |place: usize| if place.is_multiple_of(3) { frame } else { &other };
        let segments = all::<_, FROM_WIRE>(Portable, frames, &known, &mut tuples);
        #[cfg(target_arch = "x86_64")]
        {
            let mut again = tuples.clone();
            if let Some(simd) = crate::simd::Avx2::detect() {
                assert_eq!(all::<_, FROM_WIRE>(simd, frames, &known, &mut again), segments);
            }
            if let Some(simd) = crate::simd::Avx512::detect() {
                assert_eq!(all::<_, FROM_WIRE>(simd, frames, &known, &mut again), segments);
            }
            bits(segments.common).for_each(|place| assert_eq!(again.get(place), tuples.get(place)));
        }
        let at = |place: usize| {
            let is = |set: u64| set >> place & 1 != 0;
            is(segments.common).then(|| (tuples.get(place), is(segments.plain), is(segments.may_be_repeated)))
        };
        (0..BURST).for_each(|place| assert_eq!(at(place), at(place % 3), "{place}"));
        assert_eq!(at(1).map(|(_, plain, may_be_repeated)| (plain, may_be_repeated)), Some((true, true)));
        at(0)
    }

    fn all<'a, S: Simd, const FROM_WIRE: bool>(
        simd: S,
        frames: impl Fn(usize) -> &'a [u8],
        known: &Known,
        tuples: &mut Tuples,
    ) -> Segments {
        let (mut heads, mut all) = (Heads::default(), Segments::default());
        for first in (0..BURST).step_by(LANES) {
            (first..first + LANES).for_each(|place| heads.take(place, Some(frames(place))));
            all.add(segments::<S, FROM_WIRE>(simd, &heads, first, known, tuples), first);
        }
        all
    }

    fn agree_with(
        frame: &[u8],
        (found, is_plain, may_be_repeated): (Tuple, bool, bool),
        class: Class,
        tuple: impl Fn(&Place) -> Tuple,
    ) {
        let Class::Tcp(other) = class else { panic!("{frame:x?}") };
        assert_eq!((place(frame, found.vip), found), (other, tuple(&other)));
        let segment = other.segment(frame).unwrap();
        let plain = segment.flags().0 & (Flags::SYN | Flags::RST) == 0 && !segment.looks_unfinished();
        assert!(plain || !is_plain);
        assert_eq!(may_be_repeated, segment.may_be_repeated());
    }

    #[test]
    fn the_common_frame_is_known() {
        assert_eq!(agree(&tcp_frame(&spec(Flags::ACK, true, b"hello"))), [true, false]);
        assert_eq!(agree(&tcp_frame(&spec(Flags::ACK, false, b""))), [false, true]);
        assert_eq!(agree(&tcp_frame(&spec(Flags::SYN, true, b""))), [false, false]);
        assert_eq!(agree(&tcp_frame(&spec(Flags::RST, true, b""))), [false, false]);
        assert_eq!(agree(&tcp_frame(&spec(Flags::RST, false, b""))), [false, false]);
    }

    #[test]
    fn an_unfinished_checksum_is_not_plain() {
        for client_port in (0..=u16::MAX).step_by(7) {
            let source = (std::net::Ipv4Addr::from(0x0a00_0000 + u32::from(client_port) * 77), client_port);
            let mut frame = tcp_frame(&TcpFrame { source, ..spec(Flags::ACK, true, b"") });
            agree(&frame);
            let pseudo = checksum::pseudo_header(source.0, [10, 0, 0, 100].into(), ipv4::TCP, 20);
            frame[50..52].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
            assert_eq!(agree(&frame), [false, false]);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_odd_is_left_to_the_parsers(
            flags: u8,
            from_wire: bool,
            data in proptest::collection::vec(any::<u8>(), 0..20),
            changes in proptest::collection::vec((0usize..60, any::<u8>()), 0..3),
            cut in 0usize..80,
        ) {
            let mut frame = tcp_frame(&spec(flags, from_wire, &data));
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            agree(&frame);
            // With a header checksum that is right again, or hardly anything else would be looked at.
            frame[24..26].fill(0);
            let sum = checksum::finish(checksum::sum(&frame[14..34], 0));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            agree(&frame);
            frame.truncate(cut);
            agree(&frame);
        }
    }
}
