//! Ports whose own cost is next to nothing, so that what is measured is the worker: a burst is the next 64 of an array of
//! frames, and what is sent or dropped is forgotten. The frames are made between measurements, and lie in the second-level
//! cache when they are "received", about where a device that writes to the cache (DDIO) puts them.
#![allow(unsafe_code)] // Buffers are pointers into the array, as mbufs are into their pool.

use std::ptr::NonNull;

use baton::port::{Buffer, Burst, Port};

use super::BATCH;

/// Frames made at once: 64 bursts.
pub const BLOCK: usize = 4096;

#[inline(always)]
fn prefetch<T>(target: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(target.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}

/// A frame's place: two cache lines.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Slot {
    bytes: [u8; 120],
    len: usize,
}

/// A frame that is the worker's for now.
pub struct SlotBuffer(NonNull<Slot>);

// SAFETY: who has a buffer has its slot alone, as with an mbuf.
unsafe impl Send for SlotBuffer {}

impl Buffer for SlotBuffer {
    #[inline]
    fn prefetch(&self) {
        let slot = self.0.as_ptr();
        // SAFETY: the slot's own fields; a prefetch reads nothing.
        unsafe {
            prefetch(&raw const (*slot).bytes);
            prefetch(&raw const (*slot).len);
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: a slot is in one buffer at a time (`BenchPort::receive`), and the array outlives the port's borrow.
        let slot = unsafe { self.0.as_ref() };
        &slot.bytes[..slot.len]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        let slot = unsafe { self.0.as_mut() };
        &mut slot.bytes[..slot.len]
    }

    #[inline]
    fn is_whole(&self) -> bool {
        true
    }

    fn resize(&mut self, len: usize) -> bool {
        // SAFETY: as above.
        let slot = unsafe { self.0.as_mut() };
        let fits = len <= slot.bytes.len();
        if fits {
            slot.len = len;
        }
        fits
    }
}

/// A port that gives out the frames of a block, and counts what it gets.
pub struct BenchPort {
    slots: Box<[Slot]>,
    next: usize,
    end: usize,
    /// Frames sent.
    pub sent: u64,
}

impl Default for BenchPort {
    fn default() -> BenchPort {
        let slots = vec![Slot { bytes: [0; 120], len: 0 }; BLOCK].into_boxed_slice();
        BenchPort { slots, next: 0, end: 0, sent: 0 }
    }
}

impl BenchPort {
    /// Puts frames in: `write` fills in each and returns its length. No buffer of an earlier block may be left.
    pub fn fill(&mut self, count: usize, mut write: impl FnMut(&mut [u8; 120]) -> usize) {
        for slot in &mut self.slots[..count] {
            slot.len = write(&mut slot.bytes);
        }
        (self.next, self.end) = (0, count);
    }

    /// Makes the next burst of an array that was filled, or never was, begin at the start once `count` are used up.
    pub fn rewind(&mut self, count: usize) {
        if self.next + BATCH > self.end {
            (self.next, self.end) = (0, count);
        }
    }
}

impl Port for BenchPort {
    type Buffer = SlotBuffer;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<SlotBuffer>) {
        let count = burst.remaining_capacity().min(self.end - self.next);
        // Each slot of a block is given out once.
        burst.extend(self.slots[self.next..self.next + count].iter_mut().map(|slot| SlotBuffer(NonNull::from(slot))));
        self.next += count;
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<SlotBuffer>) {
        self.sent += burst.len() as u64;
        burst.clear();
    }

    fn allocate(&mut self, _: usize) -> Option<SlotBuffer> {
        None
    }
}
