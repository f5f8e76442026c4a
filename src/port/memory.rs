//! Ports on vectors: what a test puts into `arrived` the worker receives, and what the worker sends is in `sent`.

use std::collections::VecDeque;

use super::{Buffer, Burst, Port};
use crate::table::prefetch;

/// The most bytes that a frame of a [`MemoryPort`] holds, as of an mbuf with DPDK's default data room.
pub const CAPACITY: usize = 2048;

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBuffer {
    bytes: Vec<u8>,
    whole: bool,
}

impl MemoryBuffer {
    /// A buffer that holds `frame`; not whole if it is longer than [`CAPACITY`].
    pub fn new(frame: &[u8]) -> MemoryBuffer {
        let mut bytes = Vec::with_capacity(CAPACITY);
        bytes.extend_from_slice(&frame[..frame.len().min(CAPACITY)]);
        MemoryBuffer { bytes, whole: frame.len() <= CAPACITY }
    }
}

impl Buffer for MemoryBuffer {
    fn prefetch(&self) {
        self.bytes.first().inspect(|byte| prefetch(*byte));
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    fn resize(&mut self, len: usize) -> bool {
        if len > CAPACITY {
            return false;
        }
        self.bytes.resize(len, 0);
        true
    }
}

/// A port whose far side is the test.
#[derive(Debug, Default)]
pub struct MemoryPort {
    /// Frames that the worker will receive, oldest first.
    pub arrived: VecDeque<MemoryBuffer>,
    /// Frames that the worker has sent, oldest first.
    pub sent: VecDeque<MemoryBuffer>,
    /// How many more frames the port accepts before it is full; `None`: any number.
    pub room: Option<usize>,
}

impl Port for MemoryPort {
    type Buffer = MemoryBuffer;

    fn receive(&mut self, burst: &mut Burst<MemoryBuffer>) {
        let count = burst.remaining_capacity().min(self.arrived.len());
        burst.extend(self.arrived.drain(..count));
    }

    fn send(&mut self, burst: &mut Burst<MemoryBuffer>) {
        let count = burst.len().min(self.room.unwrap_or(usize::MAX));
        self.sent.extend(burst.drain(..count));
        if let Some(room) = &mut self.room {
            *room -= count;
        }
    }

    fn allocate(&mut self, len: usize) -> Option<MemoryBuffer> {
        let mut buffer = MemoryBuffer { bytes: Vec::with_capacity(CAPACITY), whole: true };
        buffer.resize(len).then_some(buffer)
    }
}
