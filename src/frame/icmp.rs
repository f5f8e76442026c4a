//! ICMP for IPv4 (RFC 792): echoes, and errors about packets of ours.

use std::net::Ipv4Addr;

use super::ipv4::{self, Ipv4};
use super::{Mac, Malformed, checksum, ethernet};

/// Bytes of the header.
const HEADER: usize = 8;

/// What a message says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Answer me.
    EchoRequest,
    /// A TCP segment of ours did not arrive (unreachable, "fragmentation needed", time exceeded, parameter problem).
    TcpError(Quoted),
    /// Anything else.
    Other,
}

/// The segment that an error quotes, as we sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Who sent it: us.
    pub source: Ipv4Addr,
    /// Our port.
    pub source_port: u16,
    /// To whom.
    pub destination: Ipv4Addr,
    /// Their port.
    pub destination_port: u16,
}

impl Icmp {
    /// The message in a packet that is not a fragment.
    ///
    /// # Errors
    /// [`Malformed`] if it is cut off, its checksum is wrong, or an error quotes less than RFC 792 asks for.
    pub fn parse(packet: &Ipv4<'_>) -> Result<Icmp, Malformed> {
        let message = packet.payload();
        let header: &[u8; HEADER] = message.first_chunk().ok_or(Malformed::Truncated)?;
        if checksum::finish(checksum::sum(message, 0)) != 0 {
            return Err(Malformed::Checksum);
        }
        match header[0] {
            8 if header[1] == 0 => Ok(Icmp::EchoRequest),
            // Destination unreachable, source quench, time exceeded, parameter problem.
            3 | 4 | 11 | 12 => {
                let quoted = Ipv4::parse_packet(&message[HEADER..], false)?;
                if quoted.protocol() != ipv4::TCP || quoted.fragment_offset() != 0 {
                    return Ok(Icmp::Other);
                }
                let ports: &[u8; 4] = quoted.payload().first_chunk().ok_or(Malformed::Truncated)?;
                Ok(Icmp::TcpError(Quoted {
                    source: quoted.source(),
                    source_port: u16::from_be_bytes([ports[0], ports[1]]),
                    destination: quoted.destination(),
                    destination_port: u16::from_be_bytes([ports[2], ports[3]]),
                }))
            }
            _ => Ok(Icmp::Other),
        }
    }
}

/// Turns an echo request that [`Icmp::parse`] took into its reply, sent from `source`.
pub fn write_echo_reply(frame: &mut [u8], source: Mac) {
    let client = Mac(std::array::from_fn(|byte| frame[6 + byte]));
    ethernet::set_destination(frame, client);
    ethernet::set_source(frame, source);
    // Swapped addresses and a fresh TTL; the sum of the addresses stays, so only the TTL's word changes the checksum.
    let packet = &mut frame[ethernet::HEADER..];
    let header_len = usize::from(packet[0] & 0xf) * 4;
    for byte in 12..16 {
        packet.swap(byte, byte + 4);
    }
    let word = u16::from_be_bytes([packet[8], packet[9]]);
    packet[8] = 64;
    let checksum =
        checksum::update(u16::from_be_bytes([packet[10], packet[11]]), word, u16::from_be_bytes([64, packet[9]]));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    // Type 8 becomes type 0.
    let message = &mut packet[header_len..];
    message[0] = 0;
    let checksum = checksum::update(u16::from_be_bytes([message[2], message[3]]), 0x0800, 0);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo_request() -> Vec<u8> {
        let mut frame = vec![0; ethernet::HEADER + ipv4::HEADER];
        frame[..12].copy_from_slice(&[2, 9, 9, 9, 9, 9, 2, 0, 0, 0, 0, 7]);
        frame[12..14].copy_from_slice(&[8, 0]);
        let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, b'h', b'i', b'!'];
        let sum = checksum::finish(checksum::sum(&message, 0));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let len = message.len() as u16;
        frame.extend(message);
        ipv4::write_header(&mut frame, ipv4::ICMP, [10, 0, 0, 1].into(), [10, 0, 0, 100].into(), len);
        frame[ethernet::HEADER + 8] = 3; // a TTL that is not ours
        let header = ethernet::HEADER..ethernet::HEADER + ipv4::HEADER;
        frame[header.start + 10..header.start + 12].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(&frame[header.clone()], 0));
        frame[header.start + 10..header.start + 12].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn an_echo_reply_has_true_checksums_and_goes_back() {
        let mut frame = echo_request();
        assert_eq!(Icmp::parse(&Ipv4::parse(&frame).unwrap()), Ok(Icmp::EchoRequest));
        write_echo_reply(&mut frame, Mac([2, 0, 0, 0, 0, 1]));
        let packet = Ipv4::parse(&frame).unwrap();
        assert!(packet.checksum_is_right());
        assert_eq!((packet.source(), packet.destination()), ([10, 0, 0, 100].into(), [10, 0, 0, 1].into()));
        assert_eq!(Icmp::parse(&packet), Ok(Icmp::Other), "type 0, checksum right");
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 7]);
        assert_eq!(packet.payload()[0], 0);
        assert_eq!(&packet.payload()[4..], &[0x12, 0x34, 0, 1, b'h', b'i', b'!']);
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut frame = echo_request();
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(Icmp::parse(&Ipv4::parse(&frame).unwrap()), Err(Malformed::Checksum));
    }
}
