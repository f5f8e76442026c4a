//! Frames made to measure, for tests, benches and the simulator: what a client, a host or an attacker would send.

use std::net::Ipv4Addr;

use super::ipv4::{self, Ipv4};
use super::tcp::{self, Flags};
use super::{Mac, checksum, ethernet};

/// A TCP frame to be built. The default is a bare ACK from 10.0.0.1:40000 to 10.0.0.100:80.
#[derive(Clone, Copy, Debug)]
pub struct TcpFrame<'a> {
    /// Ethernet destination.
    pub to: Mac,
    /// Ethernet source.
    pub from: Mac,
    /// IPv4 source and port.
    pub source: (Ipv4Addr, u16),
    /// IPv4 destination and port.
    pub destination: (Ipv4Addr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options; their length must be a multiple of four, 40 at most.
    pub options: &'a [u8],
    /// Data.
    pub data: &'a [u8],
}

impl Default for TcpFrame<'_> {
    fn default() -> Self {
        TcpFrame {
            to: Mac([2, 0, 0, 0, 1, 0]),
            from: Mac([2, 0, 0, 0, 0, 9]),
            source: (Ipv4Addr::new(10, 0, 0, 1), 40_000),
            destination: (Ipv4Addr::new(10, 0, 0, 100), 80),
            seq: 0,
            ack: 0,
            flags: Flags::ACK,
            window: u16::MAX,
            options: &[],
            data: &[],
        }
    }
}

/// The bytes of a timestamps option, padded to twelve.
pub fn timestamps_option(value: u32, echo: u32) -> [u8; 12] {
    let mut option = [1; 12];
    option[2..4].copy_from_slice(&[8, 10]);
    option[4..8].copy_from_slice(&value.to_be_bytes());
    option[8..12].copy_from_slice(&echo.to_be_bytes());
    option
}

/// The frame, with true checksums.
pub fn tcp_frame(spec: &TcpFrame<'_>) -> Vec<u8> {
    let segment_len = tcp::HEADER + spec.options.len() + spec.data.len();
    let mut frame = vec![0; ethernet::HEADER + ipv4::HEADER + segment_len];
    ethernet::set_destination(&mut frame, spec.to);
    ethernet::set_source(&mut frame, spec.from);
    frame[12..14].copy_from_slice(&ethernet::IPV4.to_be_bytes());
    ipv4::write_header(&mut frame, ipv4::TCP, spec.source.0, spec.destination.0, segment_len as u16);
    let segment = &mut frame[ethernet::HEADER + ipv4::HEADER..];
    segment[0..2].copy_from_slice(&spec.source.1.to_be_bytes());
    segment[2..4].copy_from_slice(&spec.destination.1.to_be_bytes());
    segment[4..8].copy_from_slice(&spec.seq.to_be_bytes());
    segment[8..12].copy_from_slice(&spec.ack.to_be_bytes());
    segment[12] = ((tcp::HEADER + spec.options.len()) as u8 / 4) << 4;
    segment[13] = spec.flags;
    segment[14..16].copy_from_slice(&spec.window.to_be_bytes());
    segment[tcp::HEADER..][..spec.options.len()].copy_from_slice(spec.options);
    segment[tcp::HEADER + spec.options.len()..].copy_from_slice(spec.data);
    let pseudo = checksum::pseudo_header(spec.source.0, spec.destination.0, ipv4::TCP, segment_len as u16);
    let sum = checksum::finish(checksum::sum(segment, pseudo));
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Cuts a packet in an Ethernet frame into two fragments, the first with `first` bytes of payload (a multiple of 8).
pub fn fragments(frame: &[u8], identification: u16, first: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let packet = Ipv4::parse(frame).ok()?;
    let (head, tail) = packet.payload().split_at_checked(first)?;
    let make = |payload: &[u8], fragment_word: u16| {
        let mut made = frame[..ethernet::HEADER + ipv4::HEADER].to_vec();
        ipv4::write_header(&mut made, packet.protocol(), packet.source(), packet.destination(), payload.len() as u16);
        let header = &mut made[ethernet::HEADER..];
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[6..8].copy_from_slice(&fragment_word.to_be_bytes());
        header[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(header, 0));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        made.extend_from_slice(payload);
        made
    };
    Some((make(head, 0x2000), make(tail, first as u16 / 8)))
}
