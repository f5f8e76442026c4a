//! TCP segments as the simulated kernels handle them, read from and written to real frames.

use std::net::SocketAddrV4;

use crate::frame::Mac;
use crate::frame::build::{TcpFrame, tcp_frame, timestamps_option};
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::tcp::{self, Checksum, Flags, Timestamps};

/// The most data in a segment: an Ethernet frame of 1,514 bytes with timestamps.
pub const MSS: usize = 1448;

/// A connection as one of its ends sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// This end.
    pub local: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
}

impl Flow {
    /// The same connection as the other end sees it.
    pub fn reversed(self) -> Flow {
        Flow { local: self.remote, remote: self.local }
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} → {}", self.local, self.remote)
    }
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window, never scaled.
    pub window: u16,
    /// The timestamps option.
    pub timestamps: Option<Timestamps>,
    /// Data.
    pub data: Vec<u8>,
}

impl Segment {
    /// A segment without data.
    pub fn bare(flags: u8, seq: u32, ack: u32) -> Segment {
        Segment { seq, ack, flags: Flags(flags), window: 0, timestamps: None, data: Vec::new() }
    }

    /// The sequence number after its last.
    pub fn end(&self) -> u32 {
        let controls = u32::from(self.flags.syn()) + u32::from(self.flags.fin());
        self.seq.wrapping_add(self.data.len() as u32 + controls)
    }

    /// The segment in a frame with the flow as its receiver sees it. `None` of what a kernel would not take for TCP.
    pub fn parse(frame: &[u8]) -> Option<(Flow, Segment)> {
        let packet = Ipv4::parse(frame).ok()?;
        if packet.protocol() != ipv4::TCP || packet.is_fragment() || !packet.checksum_is_right() {
            return None;
        }
        let view = tcp::Segment::parse(&packet).ok()?;
        if view.checksum() != Checksum::Right {
            return None;
        }
        let flow = Flow {
            local: SocketAddrV4::new(view.destination(), view.destination_port()),
            remote: SocketAddrV4::new(view.source(), view.source_port()),
        };
        let segment = Segment {
            seq: view.seq(),
            ack: view.ack(),
            flags: view.flags(),
            window: view.window(),
            timestamps: view.timestamps(),
            data: view.data().to_vec(),
        };
        Some((flow, segment))
    }

    /// The frame that carries it from `flow.local` to `flow.remote`.
    pub fn frame(&self, flow: Flow, to: Mac, from: Mac) -> Vec<u8> {
        let mut options = Vec::with_capacity(16);
        if self.flags.syn() {
            let [high, low] = ((MSS + 12) as u16).to_be_bytes();
            options.extend([2, 4, high, low]);
        }
        if let Some(timestamps) = self.timestamps {
            options.extend(timestamps_option(timestamps.value, timestamps.echo));
        }
        tcp_frame(&TcpFrame {
            to,
            from,
            source: (*flow.local.ip(), flow.local.port()),
            destination: (*flow.remote.ip(), flow.remote.port()),
            seq: self.seq,
            ack: self.ack,
            flags: self.flags.0,
            window: self.window,
            options: &options,
            data: &self.data,
        })
    }

    /// The RST that answers it where there is no socket (RFC 9293, 3.10.7.1; Linux: `tcp_v4_send_reset`); none to a
    /// RST.
    pub fn reset(&self) -> Option<Segment> {
        if self.flags.rst() {
            None
        } else if self.flags.ack() {
            Some(Segment::bare(Flags::RST, self.ack, 0))
        } else {
            Some(Segment::bare(Flags::RST | Flags::ACK, 0, self.end()))
        }
    }
}

/// Whether sequence number `a` is before `b`.
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether sequence number `a` is after `b`.
pub fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

/// Whether a segment lies in a receive window at least in part (Linux: `tcp_in_window`).
pub fn in_window(segment: &Segment, start: u32, end: u32) -> bool {
    segment.seq == start
        || (after(segment.end(), start) && before(segment.seq, end))
        || (segment.seq == end && segment.seq == segment.end())
}
