//! One rte_mbuf as a [`Buffer`].

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use capsule_ffi as ffi;

use super::memory::Pool;
use crate::port::Buffer;
use crate::table::prefetch;

/// Owns one rte_mbuf chain, and frees it to its pool when dropped.
///
/// It stays on its worker's thread (it is not `Send`): the pool's cache belongs to the thread, and no buffer may outlive
/// the run, since the pools go with it. A burst of them is an array of mbuf pointers, as DPDK's burst functions take.
#[repr(transparent)]
pub struct MbufBuffer(NonNull<ffi::rte_mbuf>);

impl MbufBuffer {
    /// Takes an mbuf over.
    ///
    /// # Safety
    ///
    /// `mbuf` comes from a live pool, with a reference count of one, and nobody else uses it.
    pub(super) unsafe fn from_raw(mbuf: NonNull<ffi::rte_mbuf>) -> MbufBuffer {
        MbufBuffer(mbuf)
    }

    /// The mbuf, which stays ours.
    pub(super) fn as_ptr(&self) -> *mut ffi::rte_mbuf {
        self.0.as_ptr()
    }

    fn mbuf(&self) -> &ffi::rte_mbuf {
        // SAFETY: ours alone, by the contract of `from_raw`.
        unsafe { self.0.as_ref() }
    }

    fn data(&self) -> *mut u8 {
        let mbuf = self.mbuf();
        // SAFETY: DPDK keeps data_off within the buffer.
        unsafe { mbuf.buf_addr.cast::<u8>().add(usize::from(mbuf.data_off)) }
    }

    /// Marks the frame as cut off at reception.
    pub(super) fn mark_cut(&mut self) {
        // SAFETY: ours alone.
        let mbuf = unsafe { self.0.as_mut() };
        // More bytes on the wire than in the buffer: just what a frame that was cut off is.
        mbuf.pkt_len = u32::from(mbuf.data_len) + 1;
    }
}

/// A fresh buffer with a frame of `len` bytes of any value, or none when the pool is exhausted or `len` too large.
pub(super) fn allocate(pool: Pool, len: usize) -> Option<MbufBuffer> {
    // SAFETY: the pool lives as long as the run.
    let mbuf = NonNull::new(unsafe { ffi::_rte_pktmbuf_alloc(pool.as_ptr()) })?;
    // SAFETY: fresh from the pool: one reference, ours.
    let mut buffer = unsafe { MbufBuffer::from_raw(mbuf) };
    buffer.resize(len).then_some(buffer)
}

impl Buffer for MbufBuffer {
    /// The mbuf itself has just been written by the driver; the frame may have come by DMA.
    #[inline]
    fn prefetch(&self) {
        // SAFETY: the data's start lies in the buffer.
        prefetch(unsafe { &*self.data() });
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: data_len bytes from the data's start lie in the first segment, written by the driver or by us, and no
        // one writes to them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.data(), usize::from(self.mbuf().data_len)) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data(), usize::from(self.mbuf().data_len)) }
    }

    fn is_whole(&self) -> bool {
        let mbuf = self.mbuf();
        mbuf.nb_segs == 1 && mbuf.pkt_len == u32::from(mbuf.data_len)
    }

    fn resize(&mut self, len: usize) -> bool {
        // SAFETY: ours alone.
        let mbuf = unsafe { self.0.as_mut() };
        let room = mbuf.buf_len.saturating_sub(mbuf.data_off);
        match u16::try_from(len) {
            Ok(len) if len <= room && mbuf.nb_segs == 1 => {
                mbuf.data_len = len;
                mbuf.pkt_len = u32::from(len);
                true
            }
            _ => false,
        }
    }
}

impl Drop for MbufBuffer {
    fn drop(&mut self) {
        // SAFETY: ours alone, and not used after.
        unsafe { ffi::_rte_pktmbuf_free(self.0.as_ptr()) }
    }
}

impl std::fmt::Debug for MbufBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MbufBuffer").field("len", &self.mbuf().data_len).field("whole", &self.is_whole()).finish()
    }
}

// DPDK's burst functions see a burst's memory as mbuf pointers.
const _: () = assert!(size_of::<MbufBuffer>() == size_of::<*mut ffi::rte_mbuf>());
const _: () = assert!(size_of::<ManuallyDrop<MbufBuffer>>() == size_of::<MbufBuffer>());
