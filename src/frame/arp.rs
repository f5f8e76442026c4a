//! ARP for IPv4 over Ethernet (RFC 826). Field names are the RFC's: sender and target, hardware and protocol address.

use std::net::Ipv4Addr;

use super::Malformed;
use super::ethernet::{self, Mac};

/// Bytes of a message for IPv4 over Ethernet.
pub const MESSAGE: usize = 28;

/// What a message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has `tpa`?
    Request,
    /// `spa` is at `sha`.
    Reply,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// What it wants.
    pub operation: Operation,
    /// Sender hardware address.
    pub sha: Mac,
    /// Sender protocol address.
    pub spa: Ipv4Addr,
    /// Target hardware address.
    pub tha: Mac,
    /// Target protocol address.
    pub tpa: Ipv4Addr,
}

impl Arp {
    /// The message in an Ethernet frame.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if it is cut off, [`Malformed::Field`] if it is not of IPv4 over Ethernet or its
    /// operation is neither a request nor a reply.
    pub fn parse(frame: &[u8]) -> Result<Arp, Malformed> {
        let message: &[u8; MESSAGE] =
            frame.get(ethernet::HEADER..).and_then(|rest| rest.first_chunk()).ok_or(Malformed::Truncated)?;
        // Hardware type 1 (Ethernet), protocol IPv4, addresses of 6 and 4 bytes.
        if message[..6] != [0, 1, 8, 0, 6, 4] {
            return Err(Malformed::Field);
        }
        let operation = match message[6..8] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return Err(Malformed::Field),
        };
        let mac = |at: usize| Mac(std::array::from_fn(|byte| message[at + byte]));
        let ip = |at: usize| Ipv4Addr::new(message[at], message[at + 1], message[at + 2], message[at + 3]);
        Ok(Arp { operation, sha: mac(8), spa: ip(14), tha: mac(18), tpa: ip(24) })
    }

    /// Whether it announces its sender to everybody (RFC 5227: an announcement or a probe of the sender itself).
    pub fn is_gratuitous(&self) -> bool {
        self.spa == self.tpa
    }
}

/// Writes the sender hardware address of a frame that [`Arp::parse`] took.
pub fn set_sha(frame: &mut [u8], mac: Mac) {
    frame[ethernet::HEADER + 8..ethernet::HEADER + 14].copy_from_slice(&mac.0);
}

/// Turns a request that [`Arp::parse`] took into its answer: `tpa` is at `sha`. The Ethernet source is `source`, which
/// may differ from `sha`: that is what keeps the switch from learning a virtual MAC.
pub fn write_reply(frame: &mut [u8], request: &Arp, sha: Mac, source: Mac) {
    ethernet::set_destination(frame, request.sha);
    ethernet::set_source(frame, source);
    let message = &mut frame[ethernet::HEADER..];
    message[6..8].copy_from_slice(&[0, 2]);
    message[8..14].copy_from_slice(&sha.0);
    message[14..18].copy_from_slice(&request.tpa.octets());
    message[18..24].copy_from_slice(&request.sha.0);
    message[24..28].copy_from_slice(&request.spa.octets());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::ethernet::Ethernet;

    fn request() -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 1]);
        frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 100]);
        frame
    }

    #[test]
    fn a_reply_says_the_virtual_mac_inside_and_our_own_outside() {
        let mut frame = request();
        let asked = Arp::parse(&frame).unwrap();
        assert_eq!(asked.operation, Operation::Request);
        let (vmac, own) = (Mac([2, 1, 1, 1, 1, 1]), Mac([2, 0, 0, 0, 0, 1]));
        write_reply(&mut frame, &asked, vmac, own);
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert_eq!((ethernet.destination, ethernet.source), (asked.sha, own));
        let reply = Arp::parse(&frame).unwrap();
        assert_eq!(
            reply,
            Arp { operation: Operation::Reply, sha: vmac, spa: asked.tpa, tha: asked.sha, tpa: asked.spa }
        );
    }

    #[test]
    fn what_is_not_ipv4_over_ethernet_is_refused() {
        let good = request();
        assert_eq!(Arp::parse(&good[..41]), Err(Malformed::Truncated));
        for (at, byte) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Arp::parse(&bad), Err(Malformed::Field), "byte {at}");
        }
    }
}
