//! TCP (RFC 9293) with the timestamps of RFC 7323 and the Fast Open of RFC 7413.

use std::net::Ipv4Addr;

use super::ipv4::{self, Ipv4};
use super::{Mac, Malformed, checksum, ethernet};

/// Bytes of a header without options.
pub const HEADER: usize = 20;

/// Control bits (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 0x10;

    /// Whether SYN is set.
    #[inline]
    pub const fn syn(self) -> bool {
        self.0 & Flags::SYN != 0
    }

    /// Whether RST is set.
    #[inline]
    pub const fn rst(self) -> bool {
        self.0 & Flags::RST != 0
    }

    /// Whether ACK is set.
    #[inline]
    pub const fn ack(self) -> bool {
        self.0 & Flags::ACK != 0
    }

    /// Whether FIN is set.
    #[inline]
    pub const fn fin(self) -> bool {
        self.0 & Flags::FIN != 0
    }
}

/// TSval and TSecr (RFC 7323, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// What the sender echoes of its peer's clock.
    pub echo: u32,
}

/// Whether a segment's checksum can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It is right.
    Right,
    /// It is wrong.
    Wrong,
    /// It is that of the pseudo-header alone: an interface was to finish it and has not (`CHECKSUM_PARTIAL`).
    Unfinished,
}

/// A segment in an IPv4 packet.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    /// From the source port on to the end of the data.
    bytes: &'a [u8],
    /// Its start: no accessor of the fixed header has to look at the length again.
    header: &'a [u8; HEADER],
}

impl<'a> Segment<'a> {
    /// The segment in a packet. Its checksum is not looked at: see [`Segment::checksum`].
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if the packet ends before the header, [`Malformed::Field`] if the data offset is
    /// not possible.
    #[inline]
    pub fn parse(packet: &Ipv4<'a>) -> Result<Segment<'a>, Malformed> {
        let bytes = packet.payload();
        let header: &'a [u8; HEADER] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < HEADER {
            return Err(Malformed::Field);
        }
        if bytes.len() < header_len {
            return Err(Malformed::Truncated);
        }
        Ok(Segment { source: packet.source(), destination: packet.destination(), bytes, header })
    }

    /// The segment of `len` bytes, header included, at byte `at` of a frame: what an earlier `parse` found there. `None` if
    /// it is not.
    #[inline]
    pub fn again(frame: &'a [u8], at: usize, len: usize) -> Option<Segment<'a>> {
        let addresses: &[u8; 8] = frame.get(ethernet::HEADER + 12..)?.first_chunk()?;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = *addresses;
        let bytes = frame.get(at..)?.get(..len)?;
        let header: &'a [u8; HEADER] = bytes.first_chunk()?;
        Some(Segment {
            source: Ipv4Addr::new(s0, s1, s2, s3),
            destination: Ipv4Addr::new(d0, d1, d2, d3),
            bytes,
            header,
        })
    }

    /// Bytes of header and data.
    #[inline]
    pub fn whole_len(&self) -> usize {
        self.bytes.len()
    }

    /// Source address of the packet.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        self.source
    }

    /// Destination address of the packet.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        self.destination
    }

    /// Source port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// Acknowledgment number.
    #[inline]
    pub fn ack(&self) -> u32 {
        u32::from_be_bytes([self.header[8], self.header[9], self.header[10], self.header[11]])
    }

    /// Control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.header[13])
    }

    /// Window, as it is in the header: not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.header[14], self.header[15]])
    }

    /// Bytes of the header, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.header[12] >> 4) * 4
    }

    /// Bytes of data.
    #[inline]
    pub fn data_len(&self) -> usize {
        self.bytes.len() - self.header_len()
    }

    /// Whether TCP repeats this until it is acknowledged, and nothing that need not be acknowledged looks like it: of one
    /// byte are other stacks' keep-alives and window probes.
    #[inline]
    pub fn may_be_repeated(&self) -> bool {
        may_be_repeated(self.flags(), self.data_len())
    }

    /// The data.
    #[inline]
    pub fn data(&self) -> &'a [u8] {
        &self.bytes[self.header_len()..]
    }

    /// The timestamps option, if there is one.
    #[inline]
    pub fn timestamps(&self) -> Option<Timestamps> {
        if self.header_len() == HEADER {
            return None;
        }
        self.timestamps_among_options()
    }

    fn timestamps_among_options(&self) -> Option<Timestamps> {
        let (at, len) = options(&self.bytes[..self.header_len()]).find(|&(at, _)| self.bytes[at] == 8)?;
        let word = |at: usize| {
            u32::from_be_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
        };
        (len == 10).then(|| Timestamps { value: word(at + 2), echo: word(at + 6) })
    }

    /// The checksum over header and data. Reads all of the data: not for the path of an established connection.
    #[inline]
    pub fn checksum(&self) -> Checksum {
        if checksum::finish(checksum::sum(self.bytes, self.pseudo_header())) == 0 {
            Checksum::Right
        } else if self.looks_unfinished() {
            Checksum::Unfinished
        } else {
            Checksum::Wrong
        }
    }

    /// Whether the checksum field holds what the kernel leaves in it for an interface to finish: the sum of the
    /// pseudo-header, not complemented (Linux: `tcp_v4_send_check`, `CHECKSUM_PARTIAL`). Reads the header alone; one of
    /// 65,536 finished segments looks like it too, so what looks unfinished is worth a [`Segment::checksum`].
    #[inline]
    pub fn looks_unfinished(&self) -> bool {
        u16::from_be_bytes([self.header[16], self.header[17]]) == checksum::fold(self.pseudo_header())
    }

    fn pseudo_header(&self) -> u64 {
        checksum::pseudo_header(self.source, self.destination, ipv4::TCP, self.bytes.len() as u16)
    }
}

/// The timestamp echo of a whole TCP header, options included; 0 if it has none. Most stacks place the option where RFC 7323
/// (appendix A) recommends it.
#[inline]
pub(crate) fn echo_among_options(header: &[u8]) -> u32 {
    if let Some([1, 1, 8, 10, _, _, _, _, a, b, c, d]) = header.get(HEADER..HEADER + 12) {
        return u32::from_be_bytes([*a, *b, *c, *d]);
    }
    let option = options(header).find(|&(at, _)| header[at] == 8);
    let echo = option.filter(|(_, len)| *len == 10).and_then(|(at, _)| header.get(at + 6..)?.first_chunk());
    echo.map_or(0, |echo| u32::from_be_bytes(*echo))
}

/// See [`Segment::may_be_repeated`].
#[inline]
pub(crate) const fn may_be_repeated(flags: Flags, data_len: usize) -> bool {
    flags.ack() & !flags.rst() & ((data_len > 1) | flags.fin())
}

/// Where each option stands in a TCP header of full length, and how many bytes it has, kind and length included.
/// Ends at the first option that is not well-formed, as Linux's `tcp_parse_options` does.
fn options(header: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        // Kind 1 is one byte of padding, kind 0 the end of the list.
        while *header.get(at)? == 1 {
            at += 1;
        }
        let len = usize::from(*header.get(at + 1)?);
        if header[at] == 0 || len < 2 || at + len > header.len() {
            return None;
        }
        let option = (at, len);
        at += len;
        Some(option)
    })
}

/// Replaces a Fast Open option (kind 34, or the experimental kind 254 with its magic: RFC 7413, 4.1.1) of a SYN by
/// no-operations, so that the host answers as if it knew none and its data waits for the handshake.
#[inline]
pub fn blank_fast_open(frame: &mut [u8]) {
    const OFFSET: usize = ethernet::HEADER + ipv4::HEADER + 12;
    let has_no_options = frame
        .first_chunk::<{ OFFSET + 1 }>()
        .is_some_and(|head| head[ethernet::HEADER] == 0x45 && head[OFFSET] >> 4 == 5);
    if !has_no_options {
        blank_fast_open_among_options(frame);
    }
}

fn blank_fast_open_among_options(frame: &mut [u8]) {
    let Ok(packet) = Ipv4::parse(frame) else { return };
    let Ok(segment) = Segment::parse(&packet) else { return };
    let is_fast_open = |at: usize, len: usize| {
        let option = &segment.bytes[at..at + len];
        option[0] == 34 || (option[0] == 254 && option.get(2..4) == Some(&[0xf9, 0x89]))
    };
    let Some((at, len)) = options(&segment.bytes[..segment.header_len()]).find(|&(at, len)| is_fast_open(at, len))
    else {
        return;
    };
    let start = ethernet::HEADER + packet.header_len();
    let bytes = &mut frame[start..];
    for byte in at..at + len {
        let word_at = byte & !1;
        let old = u16::from_be_bytes([bytes[word_at], bytes[word_at + 1]]);
        bytes[byte] = 1;
        let new = u16::from_be_bytes([bytes[word_at], bytes[word_at + 1]]);
        let checksum = checksum::update(u16::from_be_bytes([bytes[16], bytes[17]]), old, new);
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Bytes of a frame that [`write_reset`] makes.
pub const RESET_FRAME: usize = ethernet::HEADER + ipv4::HEADER + HEADER;

/// A RST to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Ethernet destination and source.
    pub macs: (Mac, Mac),
    /// IPv4 source and port.
    pub source: (Ipv4Addr, u16),
    /// IPv4 destination and port.
    pub destination: (Ipv4Addr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number, if it acknowledges.
    pub ack: Option<u32>,
}

/// Writes an IPv4 frame of exactly [`RESET_FRAME`] bytes that is a RST without data or options.
pub fn write_reset(frame: &mut [u8], reset: &Reset) {
    ethernet::set_destination(frame, reset.macs.0);
    ethernet::set_source(frame, reset.macs.1);
    frame[12..14].copy_from_slice(&ethernet::IPV4.to_be_bytes());
    ipv4::write_header(frame, ipv4::TCP, reset.source.0, reset.destination.0, HEADER as u16);
    let header = &mut frame[ethernet::HEADER + ipv4::HEADER..][..HEADER];
    header.fill(0);
    header[0..2].copy_from_slice(&reset.source.1.to_be_bytes());
    header[2..4].copy_from_slice(&reset.destination.1.to_be_bytes());
    header[4..8].copy_from_slice(&reset.seq.to_be_bytes());
    header[8..12].copy_from_slice(&reset.ack.unwrap_or(0).to_be_bytes());
    header[12] = (HEADER as u8 / 4) << 4;
    header[13] = Flags::RST | if reset.ack.is_some() { Flags::ACK } else { 0 };
    let pseudo = checksum::pseudo_header(reset.source.0, reset.destination.0, ipv4::TCP, HEADER as u16);
    let checksum = checksum::finish(checksum::sum(header, pseudo));
    header[16..18].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::build::{TcpFrame, tcp_frame};

    #[test]
    fn timestamps_are_found_among_other_options() {
        let frame = tcp_frame(&TcpFrame {
            options: &[2, 4, 5, 0xb4, 1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 0, 9],
            ..TcpFrame::default()
        });
        let segment = Segment::parse(&Ipv4::parse(&frame).unwrap()).unwrap();
        assert_eq!(segment.timestamps(), Some(Timestamps { value: 256, echo: 9 }));
        assert_eq!(segment.checksum(), Checksum::Right);
    }

    #[test]
    fn an_unfinished_checksum_is_told_from_a_wrong_one() {
        let mut frame = tcp_frame(&TcpFrame { data: b"hello", ..TcpFrame::default() });
        let at = ethernet::HEADER + ipv4::HEADER + 16;
        let check = |frame: &[u8]| Segment::parse(&Ipv4::parse(frame).unwrap()).unwrap().checksum();
        frame[at] ^= 0x55;
        assert_eq!(check(&frame), Checksum::Wrong);
        let segment = Segment::parse(&Ipv4::parse(&frame).unwrap()).unwrap();
        let partial = checksum::fold(segment.pseudo_header());
        frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        assert_eq!(check(&frame), Checksum::Unfinished);
    }

    #[test]
    fn fast_open_is_blanked_wherever_it_stands() {
        for options in [
            vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1],
            vec![1, 34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1],
            vec![2, 4, 5, 0xb4, 254, 4, 0xf9, 0x89],
            vec![34, 2, 1, 1],
        ] {
            let mut frame =
                tcp_frame(&TcpFrame { flags: Flags::SYN, options: &options, data: b"early", ..TcpFrame::default() });
            blank_fast_open(&mut frame);
            let segment = Segment::parse(&Ipv4::parse(&frame).unwrap()).unwrap();
            assert_eq!(segment.checksum(), Checksum::Right, "{options:?}");
            let header = &segment.bytes[..segment.header_len()];
            assert!(super::options(header).all(|(at, _)| header[at] != 34 && header[at] != 254), "{options:?}");
        }
    }

    #[test]
    fn a_reset_is_a_valid_segment() {
        let mut frame = vec![0xaa; RESET_FRAME];
        let reset = Reset {
            macs: (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])),
            source: ([10, 0, 0, 1].into(), 4000),
            destination: ([10, 0, 0, 100].into(), 80),
            seq: 7,
            ack: Some(9),
        };
        write_reset(&mut frame, &reset);
        let packet = Ipv4::parse(&frame).unwrap();
        assert!(packet.checksum_is_right());
        let segment = Segment::parse(&packet).unwrap();
        assert_eq!(segment.checksum(), Checksum::Right);
        assert_eq!((segment.seq(), segment.ack(), segment.flags()), (7, 9, Flags(Flags::RST | Flags::ACK)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_view_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128), options_len in 5u8..16) {
            let mut frame = bytes;
            let _ = crate::frame::arp::Arp::parse(&frame);
            if frame.len() > 47 {
                // Often enough a packet with a TCP header, so that the accessors are reached.
                let len = (frame.len() - ethernet::HEADER) as u16;
                frame[14] = 0x45;
                frame[16..18].copy_from_slice(&len.to_be_bytes());
                frame[46] = options_len << 4;
            }
            if let Ok(packet) = Ipv4::parse(&frame) {
                let _ = (packet.checksum_is_right(), packet.is_fragment(), crate::frame::icmp::Icmp::parse(&packet));
                if let Ok(segment) = Segment::parse(&packet) {
                    let _ = (segment.timestamps(), segment.checksum(), segment.data_len(), segment.looks_unfinished());
                }
            }
            blank_fast_open(&mut frame);
        }
    }
}
