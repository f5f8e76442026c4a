//! The header before each frame of a TAP with `IFF_VNET_HDR`: `struct virtio_net_hdr` of linux/virtio_net.h (Virtual I/O
//! Device 1.2, 5.1.6), in the machine's byte order.

use crate::frame::checksum;

/// Bytes of the header.
pub const LEN: usize = 10;

/// The checksum from `csum_start` on is that of the pseudo-header alone.
const NEEDS_CSUM: u8 = 1;
/// One segment.
const GSO_NONE: u8 = 0;
/// TCP over IPv4, to be cut.
const GSO_TCPV4: u8 = 1;

/// A header that says: finished as it is.
pub const FINISHED: [u8; LEN] = [0; LEN];

/// What is left to do about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Nothing.
    None,
    /// A checksum covers everything from `start` on and belongs `offset` bytes behind that.
    Checksum {
        /// Bytes from the frame's start.
        start: usize,
        /// Bytes from there.
        offset: usize,
    },
    /// TCP over IPv4, to be cut into segments with this many bytes of data.
    Segment {
        /// Bytes.
        mss: u16,
    },
    /// What nobody has asked the kernel for.
    Unknown,
}

/// Reads a header.
pub fn parse(header: &[u8; LEN]) -> Offload {
    let [flags, gso_type, _, _, mss @ .., start_low, start_high, offset_low, offset_high] = *header;
    match gso_type {
        GSO_NONE if flags & NEEDS_CSUM == 0 => Offload::None,
        GSO_NONE => Offload::Checksum {
            start: u16::from_ne_bytes([start_low, start_high]).into(),
            offset: u16::from_ne_bytes([offset_low, offset_high]).into(),
        },
        GSO_TCPV4 => Offload::Segment { mss: u16::from_ne_bytes(mss) },
        _ => Offload::Unknown,
    }
}

/// The header of a TCP segment over IPv4 that was joined of several with `mss` bytes of data: its TCP header begins at
/// `csum_start` and its data at `header_len`, both in bytes from the frame's start.
pub fn joined(mss: u16, header_len: u16, csum_start: u16) -> [u8; LEN] {
    let mut header = [0; LEN];
    (header[0], header[1]) = (NEEDS_CSUM, GSO_TCPV4);
    header[2..4].copy_from_slice(&header_len.to_ne_bytes());
    header[4..6].copy_from_slice(&mss.to_ne_bytes());
    header[6..8].copy_from_slice(&csum_start.to_ne_bytes());
    header[8..10].copy_from_slice(&16u16.to_ne_bytes());
    header
}

/// Computes the checksum that the kernel has left out; false if there is no such place in the frame. It finds the sum of
/// the pseudo-header in that place, as `skb_checksum_help` does.
#[must_use]
pub fn finish_checksum(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = frame.get_mut(start..) else { return false };
    let sum = checksum::finish(checksum::sum(covered, 0));
    let Some(place) = covered.get_mut(offset..offset + 2) else { return false };
    place.copy_from_slice(&sum.to_be_bytes());
    true
}
