//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use super::{Malformed, checksum, ethernet};

/// Bytes of a header without options.
pub const HEADER: usize = 20;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;

/// A packet in an Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// From the version on to the end by the header's total length: padding of the frame is left out.
    packet: &'a [u8],
    /// Its start: no accessor of the fixed header has to look at the length again.
    header: &'a [u8; HEADER],
    header_len: usize,
}

impl<'a> Ipv4<'a> {
    /// The packet in an Ethernet frame. Its checksum is not looked at: see [`Ipv4::checksum_is_right`].
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if the frame ends before the packet, [`Malformed::Field`] if version or lengths are
    /// not possible.
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<Ipv4<'a>, Malformed> {
        Ipv4::parse_packet(frame.get(ethernet::HEADER..).ok_or(Malformed::Truncated)?, true)
    }

    /// The packet at the start of `bytes`. Where not `whole`, only its header must be there: an ICMP error quotes
    /// no more than the beginning of a packet.
    #[inline]
    pub fn parse_packet(bytes: &'a [u8], whole: bool) -> Result<Ipv4<'a>, Malformed> {
        let header: &'a [u8; HEADER] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < HEADER || total_len < header_len {
            return Err(Malformed::Field);
        }
        if bytes.len() < if whole { total_len } else { header_len } {
            return Err(Malformed::Truncated);
        }
        Ok(Ipv4 { packet: &bytes[..total_len.min(bytes.len())], header, header_len })
    }

    /// Bytes of the header, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// What follows the header, without padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.packet[self.header_len..]
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[12], self.header[13], self.header[14], self.header[15])
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.header[16], self.header[17], self.header[18], self.header[19])
    }

    /// Protocol number of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Identification, which the fragments of one packet share.
    #[inline]
    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Where the payload stands in the packet it is a fragment of, in units of 8 bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]]) & 0x1fff
    }

    /// Whether this is a part of a packet only.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        // More fragments, or an offset.
        u16::from_be_bytes([self.header[6], self.header[7]]) & 0x3fff != 0
    }

    /// Whether the header's checksum is right.
    #[inline]
    pub fn checksum_is_right(&self) -> bool {
        let options =
            if self.header_len == HEADER { 0 } else { checksum::sum(&self.packet[HEADER..self.header_len], 0) };
        checksum::finish(checksum::sum_of_header(self.header) + options) == 0
    }
}

/// Writes a header without options over the one of a frame that [`Ipv4::parse`] took with no options:
/// `len` bytes of payload from `source` to `destination`, fresh TTL, true checksum.
pub fn write_header(frame: &mut [u8], protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, len: u16) {
    let header = &mut frame[ethernet::HEADER..ethernet::HEADER + HEADER];
    header[0] = 0x45;
    header[1] = 0;
    header[2..4].copy_from_slice(&(len + HEADER as u16).to_be_bytes());
    // Identification 0 with "don't fragment": RFC 6864, 4.1 (an atomic datagram's identification means nothing).
    header[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
    header[8] = 64;
    header[9] = protocol;
    header[10..12].copy_from_slice(&[0, 0]);
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let checksum = checksum::finish(checksum::sum(header, 0));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let mut frame = vec![0; ethernet::HEADER + HEADER + 8];
        write_header(&mut frame, TCP, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 100), 8);
        frame
    }

    #[test]
    fn padding_is_not_payload() {
        let mut padded = frame();
        padded.resize(60, 0);
        let packet = Ipv4::parse(&padded).unwrap();
        assert_eq!(packet.payload().len(), 8);
        assert!(packet.checksum_is_right());
        assert!(!packet.is_fragment());
        assert_eq!(
            (packet.source(), packet.destination()),
            ("10.0.0.1".parse().unwrap(), "10.0.0.100".parse().unwrap())
        );
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let good = frame();
        assert_eq!(Ipv4::parse(&good[..41]).unwrap_err(), Malformed::Truncated);
        assert_eq!(Ipv4::parse(&good[..33]).unwrap_err(), Malformed::Truncated);
        for (at, byte) in [(14, 0x65), (14, 0x44), (17, 19)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Ipv4::parse(&bad).unwrap_err(), Malformed::Field, "byte {at}");
        }
    }
}
