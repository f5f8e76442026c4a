//! Frames of a benchmark's traffic: which client each connection has, and the segments of it.
//!
//! Every tool derives the same connection from the same number, so that one can hold the sockets of what another sends.

use std::net::Ipv4Addr;

use clap::Args;

use crate::{Mac, parse_mac};

/// The least a frame has without its FCS (IEEE Std 802.3, 3.2.7).
pub const LEAST: usize = 60;
/// The most of an MTU of 1,500 bytes.
pub const MOST: usize = 1514;

const IP: usize = 14;
const TCP: usize = 34;
/// Where a segment's payload begins.
pub const PAYLOAD: usize = 54;

/// Clients' ports: the usual ephemeral ones, so that no two of a client's connections are alike.
const PORTS: u32 = 1 << 15;
const FIRST_PORT: u32 = 1024;

/// TCP flags (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A first SYN.
    Syn,
    /// A segment with data: PSH and ACK.
    Data,
}

/// Whose connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Of sockets that the member has.
    Established,
    /// Of nobody here: other members' connections, to a passive one.
    Foreign,
    /// New ones.
    New,
}

/// The client's end of a group's connection number `index`: 32,768 connections a client, from networks that were set
/// aside for private use (RFC 1918), one for each group.
pub fn client(group: Group, index: u32) -> (Ipv4Addr, u16) {
    let network = match group {
        Group::Established => 0x0a40_0000,
        Group::Foreign => 0x0a80_0000,
        Group::New => 0x0ac0_0000,
    };
    let port = FIRST_PORT + index % PORTS;
    (Ipv4Addr::from_bits(network + index / PORTS + 1), port as u16)
}

/// What all frames of a run have in common.
#[derive(Args, Clone, Copy, Debug)]
pub struct Ends {
    /// Ethernet source.
    #[arg(long, value_parser = parse_mac)]
    pub from: Mac,
    /// Ethernet destination: the virtual MAC.
    #[arg(long, value_parser = parse_mac)]
    pub to: Mac,
    /// The virtual IP.
    #[arg(long)]
    pub vip: Ipv4Addr,
    /// Its port.
    #[arg(long, default_value_t = 80)]
    pub port: u16,
}

/// Writes a segment into a frame of its final length, with correct checksums.
pub fn segment(frame: &mut [u8], ends: &Ends, client: (Ipv4Addr, u16), kind: Kind, seq: u32) {
    let total = frame.len() - IP;
    ethernet(frame, ends.to, ends.from, 0x0800);
    frame[IP..IP + 12].copy_from_slice(&[0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame[IP + 12..IP + 16].copy_from_slice(&client.0.octets());
    frame[IP + 16..IP + 20].copy_from_slice(&ends.vip.octets());
    frame[TCP..TCP + 2].copy_from_slice(&client.1.to_be_bytes());
    frame[TCP + 2..TCP + 4].copy_from_slice(&ends.port.to_be_bytes());
    frame[TCP + 4..TCP + 8].copy_from_slice(&seq.to_be_bytes());
    let (ack, flags) = match kind {
        Kind::Syn => (0_u32, 0x02),
        Kind::Data => (seq ^ 0x5555_5555, 0x18),
    };
    frame[TCP + 8..TCP + 12].copy_from_slice(&ack.to_be_bytes());
    frame[TCP + 12..TCP + 20].copy_from_slice(&[0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    finish(frame);
}

/// Computes both checksums of a segment anew.
pub fn finish(frame: &mut [u8]) {
    frame[IP + 10..IP + 12].fill(0);
    frame[TCP + 16..TCP + 18].fill(0);
    let header = fold(sum(&frame[IP..IP + 20]));
    frame[IP + 10..IP + 12].copy_from_slice(&header.to_be_bytes());
    // The pseudo header: both addresses, the protocol, the length (RFC 9293, section 3.1).
    let pseudo = sum(&frame[IP + 12..IP + 20]) + 6 + (frame.len() - TCP) as u32;
    let checksum = fold(pseudo + sum(&frame[TCP..]));
    frame[TCP + 16..TCP + 18].copy_from_slice(&checksum.to_be_bytes());
}

/// Writes an ARP request for the virtual IP (RFC 826), as long as `frame` is.
pub fn arp_request(frame: &mut [u8], ends: &Ends, sender: Ipv4Addr) {
    frame.fill(0);
    ethernet(frame, [0xff; 6], ends.from, 0x0806);
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&ends.from);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[38..42].copy_from_slice(&ends.vip.octets());
}

fn ethernet(frame: &mut [u8], to: Mac, from: Mac, ethertype: u16) {
    frame[0..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks_exact(2);
    let last = pairs.remainder().first().map_or(0, |&byte| u32::from(byte) << 8);
    pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>() + last
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ENDS: Ends = Ends { from: [2; 6], to: [4; 6], vip: Ipv4Addr::new(10, 0, 0, 100), port: 80 };

    #[test]
    fn a_segment_sums_up() {
        for length in [60, 61, 1514] {
            let mut frame = vec![0x5a; length];
            segment(&mut frame, &ENDS, client(Group::Foreign, 7), Kind::Data, 1);
            assert_eq!(fold(sum(&frame[IP..IP + 20])), 0);
            assert_eq!(fold(sum(&frame[IP + 12..IP + 20]) + 6 + (length - TCP) as u32 + sum(&frame[TCP..])), 0);
        }
    }

    #[test]
    fn no_two_connections_are_alike() {
        let all = [Group::Established, Group::Foreign, Group::New]
            .map(|group| (0..100_000).map(move |index| client(group, index)))
            .into_iter()
            .flatten();
        assert_eq!(all.collect::<HashSet<_>>().len(), 300_000);
    }
}
