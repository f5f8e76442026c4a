//! The frame that nearly all are: a TCP segment of a VIP, IPv4 without options, whole. Everything that makes it one stands
//! at a fixed place, so it is recognised by comparing words, all in one go and with one branch at the end.
//!
//! Anything else, and anything odd, is left to the parsers.

use super::{DECISIVE, Facts, Place};
use crate::frame::{Mac, ethernet, ipv4, tcp};
use crate::table::{Tuple, VipIndex};

const IP: usize = ethernet::HEADER;
const TCP: usize = IP + ipv4::HEADER;

/// Bytes that are looked at.
const HEAD: usize = TCP + tcp::HEADER;

/// A segment from the wire, or from the host; its connection is then in `tuple`.
#[inline(always)]
pub(super) fn segment<const FROM_WIRE: bool>(frame: &[u8], facts: &Facts, tuple: &mut Tuple) -> Option<Place> {
    let head: &[u8; HEAD] = frame.first_chunk()?;
    let total_len = usize::from(be16(head, IP + 2));
    let segment_len = total_len.wrapping_sub(ipv4::HEADER);
    let header_len = usize::from(head[TCP + 12] >> 4) * 4;
    let (source, destination) = (be32(head, IP + 12), be32(head, IP + 16));
    let (client, server) = if FROM_WIRE { (source, destination) } else { (destination, source) };

    let is_segment = (be32(head, 12) >> 8 == u32::from(ethernet::IPV4) << 8 | 0x45)
        // Neither more fragments nor an offset.
        & (be16(head, IP + 6) & 0x3fff == 0)
        & (head[IP + 9] == ipv4::TCP)
        & (total_len >= ipv4::HEADER + tcp::HEADER)
        & (total_len + IP <= frame.len())
        & (header_len >= tcp::HEADER)
        & (header_len <= segment_len);
    if !is_segment {
        return None;
    }
    let (vip, known) = facts.vips.iter().enumerate().find(|(_, vip)| vip.address.to_bits() == server)?;
    let is_ours = !FROM_WIRE
        || (mac(head, 0) == word(known.mac)) & (mac(head, 6) != word(facts.own_mac)) & header_checksum_is_right(head);
    if !is_ours {
        return None;
    }
    let ports = be32(head, TCP);
    let (client_port, port) = if FROM_WIRE { (ports >> 16, ports) } else { (ports, ports >> 16) };
    *tuple = Tuple { port: port as u16, client_port: client_port as u16, client: client.into(), vip: vip as VipIndex };
    let plain = (head[TCP + 13] & DECISIVE == 0) & !may_be_unfinished(head, source, destination, segment_len);
    let may_be_repeated = tcp::may_be_repeated(tcp::Flags(head[TCP + 13]), segment_len - header_len);
    Some(Place {
        vip: vip as VipIndex,
        at: TCP as u8,
        len: segment_len as u16,
        first_fragment: false,
        plain,
        may_be_repeated,
    })
}

/// Whether the IPv4 header's 16-bit words add up to a multiple of 65,535, which is what folding them to all ones says
/// (RFC 1071): the sum is not zero, as the version is not.
#[inline(always)]
fn header_checksum_is_right(head: &[u8; HEAD]) -> bool {
    let sum: u64 = (0..5).map(|word| u64::from(ne32(head, IP + 4 * word))).sum();
    sum % 0xffff == 0
}

/// Whether the TCP checksum may be the sum of the pseudo-header alone: true where
/// [`looks_unfinished`](tcp::Segment::looks_unfinished) is, and where both are zero.
#[inline(always)]
fn may_be_unfinished(head: &[u8; HEAD], source: u32, destination: u32, segment_len: usize) -> bool {
    let pseudo = u64::from(source) + u64::from(destination) + u64::from(ipv4::TCP) + segment_len as u64;
    (pseudo + 0xffff - u64::from(be16(head, TCP + 16))) % 0xffff == 0
}

/// A MAC address as a word.
#[inline(always)]
fn mac(head: &[u8; HEAD], at: usize) -> u64 {
    u64::from(ne32(head, at)) | u64::from(u16::from_ne_bytes([head[at + 4], head[at + 5]])) << 32
}

#[inline(always)]
fn word(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u16::from_ne_bytes([e, f])) << 32
}

#[inline(always)]
fn be16(head: &[u8; HEAD], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

#[inline(always)]
fn be32(head: &[u8; HEAD], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// In the order of this machine: sums of the Internet checksum come out right in any (RFC 1071, 2).
#[inline(always)]
fn ne32(head: &[u8; HEAD], at: usize) -> u32 {
    u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Class, VipFacts, any_from_host, any_from_wire};
    use super::*;
    use crate::frame::build::{TcpFrame, tcp_frame};
    use crate::frame::checksum;
    use crate::frame::tcp::Flags;

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
        let (facts, mut tuple) = (facts(), Tuple::NONE);
        let wire = segment::<true>(frame, &facts, &mut tuple);
        if let Some(place) = wire {
            let Class::Tcp(other) = any_from_wire(frame, &facts) else { panic!("{frame:x?}") };
            assert_eq!((place, tuple), (Place { plain: place.plain, ..other }, other.tuple_from_wire(frame)));
            assert!(other.plain || !place.plain);
        }
        let host = segment::<false>(frame, &facts, &mut tuple);
        if let Some(place) = host {
            let Class::Tcp(other) = any_from_host(frame, &facts) else { panic!("{frame:x?}") };
            assert_eq!((place, tuple), (Place { plain: place.plain, ..other }, other.tuple_from_host(frame)));
            assert!(other.plain || !place.plain);
        }
        [wire, host].map(|place| place.is_some_and(|place| place.plain))
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
