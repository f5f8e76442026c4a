//! A segment of up to 64 KiB that a host port was handed, while it is cut into frames.

use super::buffer::{self, MbufBuffer};
use super::memory::Pool;
use crate::port::Buffer;
use crate::port::offload::segment::Segments;

/// The largest frame: Ethernet header, VLAN tag, and the longest IP packet.
const LARGEST: usize = 18 + u16::MAX as usize;

/// Its bytes, and how far it is cut.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) bytes: Box<[u8]>,
    segments: Option<Segments>,
}

impl Large {
    pub(super) fn new() -> Large {
        Large { bytes: vec![0; LARGEST].into(), segments: None }
    }

    /// Whether something is left to cut.
    pub(super) fn is_being_cut(&self) -> bool {
        self.segments.is_some()
    }

    /// Begins with the first `len` of the bytes, to be cut into pieces with `mss` bytes of data; false if they are no such
    /// thing, or if a piece would not fit into `room` bytes.
    pub(super) fn begin(&mut self, len: usize, mss: u16, room: usize) -> bool {
        let frame = self.bytes.get(..len);
        self.segments = frame.and_then(|frame| Segments::of(frame, mss)).filter(|segments| segments.longest() <= room);
        self.segments.is_some()
    }

    /// The next frame. None if all is cut, and for now if the pool is empty.
    pub(super) fn next(&mut self, pool: Pool) -> Option<MbufBuffer> {
        let segments = self.segments.as_mut()?;
        let Some(len) = segments.next_len() else {
            self.segments = None;
            return None;
        };
        let mut buffer = buffer::allocate(pool, len)?;
        segments.write_next(&self.bytes, buffer.bytes_mut());
        Some(buffer)
    }
}
