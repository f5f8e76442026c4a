//! A large TCP segment of the host, cut into frames that fit the wire (TCP segmentation offload; in the kernel
//! `tcp_gso_segment` and `inet_gso_segment`).

use std::net::Ipv4Addr;

use crate::frame::ipv4::{self, Ipv4};
use crate::frame::tcp::Flags;
use crate::frame::{checksum, ethernet};

/// Push, and "congestion window reduced" (RFC 3168, 6.1.2).
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What is left of a large segment. The bytes themselves stay with the caller.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    len: usize,
    ip_header: usize,
    headers: usize,
    mss: usize,
    /// Bytes of data that were cut off already.
    done: usize,
}

impl Segments {
    /// A segment to be cut into pieces with `mss` bytes of data; none if it is not TCP over IPv4 with data.
    pub fn of(frame: &[u8], mss: u16) -> Option<Segments> {
        let packet = Ipv4::parse(frame).ok()?;
        let whole = packet.header_len() + packet.payload().len() == frame.len() - ethernet::HEADER;
        let is_ipv4 = ethernet::Ethernet::parse(frame)?.ethertype == ethernet::IPV4;
        if !is_ipv4 || !whole || packet.protocol() != ipv4::TCP || packet.is_fragment() {
            return None;
        }
        let tcp_header = usize::from(packet.payload().get(12)? >> 4) * 4;
        let headers = ethernet::HEADER + packet.header_len() + tcp_header;
        let sensible = tcp_header >= crate::frame::tcp::HEADER && frame.len() > headers && mss > 0;
        sensible.then(|| Segments {
            len: frame.len(),
            ip_header: packet.header_len(),
            headers,
            mss: mss.into(),
            done: 0,
        })
    }

    /// Bytes of the longest frame that comes of it.
    pub fn longest(&self) -> usize {
        self.len.min(self.headers + self.mss)
    }

    /// Bytes of the next frame; none when all is cut.
    pub fn next_len(&self) -> Option<usize> {
        let left = self.len - self.headers - self.done;
        (left > 0).then(|| self.headers + left.min(self.mss))
    }

    /// Writes the next frame, of [`next_len`](Segments::next_len) bytes, to `into`. `frame` is what it is cut from.
    pub fn write_next(&mut self, frame: &[u8], into: &mut [u8]) {
        let data = self.headers + self.done;
        let end = data + into.len() - self.headers;
        let (headers, rest) = into.split_at_mut(self.headers);
        headers.copy_from_slice(&frame[..self.headers]);
        rest.copy_from_slice(&frame[data..end]);

        let number = (self.done / self.mss) as u16;
        let ip = &mut headers[ethernet::HEADER..];
        let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(number);
        ip[2..4].copy_from_slice(&((self.headers - ethernet::HEADER + rest.len()) as u16).to_be_bytes());
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        write_header_checksum(&mut ip[..self.ip_header]);

        let tcp = &mut ip[self.ip_header..];
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(self.done as u32);
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        if end < self.len {
            tcp[13] &= !(Flags::FIN | PSH);
        }
        if self.done > 0 {
            tcp[13] &= !CWR;
        }
        self.done += rest.len();
        write_tcp_checksum(into, self.ip_header);
    }
}

/// Writes the checksum of an IPv4 header into it.
pub(super) fn write_header_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(header, 0));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The sum of the TCP pseudo-header of an IPv4 frame with so many bytes of TCP header and data.
pub(super) fn pseudo_header(frame: &[u8], tcp_len: usize) -> u64 {
    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let ip = ethernet::HEADER;
    checksum::pseudo_header(address(ip + 12), address(ip + 16), ipv4::TCP, tcp_len as u16)
}

fn write_tcp_checksum(frame: &mut [u8], ip_header: usize) {
    let at = ethernet::HEADER + ip_header;
    frame[at + 16..at + 18].fill(0);
    let pseudo = pseudo_header(frame, frame.len() - at);
    let sum = checksum::finish(checksum::sum(&frame[at..], pseudo));
    frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
}
