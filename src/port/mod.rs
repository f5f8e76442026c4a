//! Ports: where frames come from and go to, in bursts.
//!
//! The worker knows only these traits. [`memory`] implements them on vectors for tests and benches, `dpdk` (the only
//! module that names capsule) on DPDK's queues. A buffer holds exactly one frame and is owned by whoever has it;
//! dropping it gives it back to where it came from.

use arrayvec::ArrayVec;

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod memory;
pub mod offload;

/// The most frames that one burst carries.
pub const BURST: usize = 64;

/// A burst of frames, on the stack.
pub type Burst<B> = ArrayVec<B, BURST>;

/// A buffer that holds one Ethernet frame, without its FCS.
pub trait Buffer {
    /// Asks the CPU for the lines that the frame's head is read from.
    fn prefetch(&self);

    /// The frame, from its destination MAC on. Of a frame in several segments, the first.
    fn bytes(&self) -> &[u8];

    /// The frame, to be rewritten in place.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// False if the frame did not fit the buffer (several segments, or cut off on reception): it is then counted as
    /// `oversize` and never looked into.
    fn is_whole(&self) -> bool;

    /// Makes the frame `len` bytes long: cuts it, or grows it by bytes of any value.
    /// Returns false, and leaves it as it is, where the buffer has no room.
    #[must_use]
    fn resize(&mut self, len: usize) -> bool;
}

/// One queue pair of a device, owned by one worker.
pub trait Port {
    /// What the frames come in.
    type Buffer: Buffer;

    /// Appends what has arrived to `burst`, as far as it has room. Never blocks.
    fn receive(&mut self, burst: &mut Burst<Self::Buffer>);

    /// Hands frames to the device from the front of `burst`; those it did not accept stay in it.
    fn send(&mut self, burst: &mut Burst<Self::Buffer>);

    /// A fresh buffer with a frame of `len` bytes of any value, or none when the pool is exhausted or `len` too large.
    fn allocate(&mut self, len: usize) -> Option<Self::Buffer>;
}
