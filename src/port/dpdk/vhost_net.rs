//! A queue pair of virtio-user, whose other end is the kernel's vhost-net, as a [`Port`] towards the host.
//!
//! The kernel reads and writes the rings by a thread of its own, so that a frame costs no system call of ours. As with a
//! [TAP](super::tap) it hands over, and takes, segments of up to 64 KiB ([`offload`](crate::port::offload)); here each is a
//! chain of buffers.

use std::mem;
use std::ptr::NonNull;

use arrayvec::ArrayVec;
use capsule_ffi as ffi;

use super::buffer::{self, MbufBuffer};
use super::large::Large;
use super::memory::Pool;
use super::queue::PortId;
use crate::frame::ethernet;
use crate::frame::ipv4::{self, Ipv4};
use crate::port::offload::header;
use crate::port::offload::merge::{Train, Trains};
use crate::port::{BURST, Buffer, Burst, Port};

/// IP's number for it.
const UDP: u8 = 17;

/// What a frame for the wire may be long.
const ROOM: usize = 2048;

/// A queue pair, owned by one worker and used on its thread alone.
#[derive(Debug)]
pub struct VhostNetPort {
    port: u16,
    queue: u16,
    pool: Pool,
    large: Large,
}

impl VhostNetPort {
    pub(super) fn new(port: PortId, queue: u16, pool: Pool) -> VhostNetPort {
        VhostNetPort { port: port.id(), queue, pool, large: Large::new() }
    }

    /// A packet from the kernel; one alone, since nothing is kept that belongs to the pool (a worker on the control core
    /// ends after the pools do), and what comes of a large one may fill the burst.
    fn next(&mut self) -> Option<NonNull<ffi::rte_mbuf>> {
        let mut mbuf = std::ptr::null_mut();
        // SAFETY: the port is started, the queue ours alone; DPDK writes at most one pointer, to an mbuf that is ours
        // from then on.
        unsafe { ffi::_rte_eth_rx_burst(self.port, self.queue, &mut mbuf, 1) };
        NonNull::new(mbuf)
    }

    /// The packet as a frame, finished; none if it is to be cut and lies in `large`.
    fn take(&mut self, mbuf: NonNull<ffi::rte_mbuf>) -> Option<MbufBuffer> {
        // SAFETY: just received: a reference count of one, ours.
        let mut buffer = unsafe { MbufBuffer::from_raw(mbuf) };
        // SAFETY: read while ours alone.
        let (mss, unfinished) = unsafe {
            (ffi::_rte_pktmbuf_segment_size(mbuf.as_ptr()), ffi::_rte_pktmbuf_unfinished(mbuf.as_ptr()) != 0)
        };
        if mss > 0 {
            // SAFETY: as above.
            let len = unsafe { mbuf.as_ref().pkt_len } as usize;
            if self.copy(mbuf, len) && self.large.begin(len, mss, ROOM) {
                return None;
            }
            buffer.mark_cut();
        } else if unfinished && !finish(buffer.bytes_mut()) {
            buffer.mark_cut();
        }
        Some(buffer)
    }

    /// Copies all buffers of a packet of `len` bytes to `large`; false if they do not fit.
    fn copy(&mut self, mbuf: NonNull<ffi::rte_mbuf>, len: usize) -> bool {
        let Some(into) = self.large.bytes.get_mut(..len) else { return false };
        // SAFETY: a packet of ours with `len` bytes, and as much room. DPDK copies only what lies in several buffers.
        let at = unsafe { ffi::_rte_pktmbuf_read(mbuf.as_ptr(), 0, len as u32, into.as_mut_ptr().cast()) };
        if at.is_null() {
            return false;
        }
        if at != into.as_ptr().cast() {
            // SAFETY: then it points to the packet's only buffer, whose `len` bytes are not those of `into`.
            into.copy_from_slice(unsafe { std::slice::from_raw_parts(at.cast(), len) });
        }
        true
    }

    /// Makes one packet of the frames of a train, and returns its first buffer.
    fn join(trains: &Trains, train: &Train, burst: &mut Burst<MbufBuffer>) -> *mut ffi::rte_mbuf {
        let head = burst[usize::from(train.first)].as_ptr();
        if train.count == 1 {
            return head;
        }
        train.write_headers(burst[usize::from(train.first)].bytes_mut());
        let mut last = head;
        for (number, index) in trains.frames(train).enumerate() {
            let frame = &mut burst[index];
            let len = train.len_of(number, frame.bytes().len());
            // Without the padding of short frames; a shorter length is always possible.
            let shortened = frame.resize(len);
            debug_assert!(shortened);
            if number > 0 {
                let next = frame.as_ptr();
                // SAFETY: packets of one buffer each, ours alone, with more data than `headers`.
                unsafe { ffi::_rte_pktmbuf_join(head, last, next, train.headers.into()) };
                last = next;
            }
        }
        let tcp_header = u16::from(train.headers) - (ethernet::HEADER + ipv4::HEADER) as u16;
        let (l2, l3) = (ethernet::HEADER as u16, ipv4::HEADER as u16);
        // SAFETY: a packet of ours, whose headers are so long.
        unsafe { ffi::_rte_pktmbuf_to_segment(head, l2, l3, tcp_header, train.mss()) };
        head
    }

    /// Makes frames again of a train that was not taken.
    fn part(trains: &Trains, train: &Train, burst: &Burst<MbufBuffer>) {
        for (number, index) in trains.frames(train).enumerate() {
            let headers = if number == 0 { 0 } else { u16::from(train.headers) };
            // SAFETY: buffers of ours, of which all but the first have lost so much.
            unsafe { ffi::_rte_pktmbuf_part(burst[index].as_ptr(), headers) };
        }
    }
}

/// Computes the checksum that the kernel has left out; false where it is not known where it belongs.
fn finish(frame: &mut [u8]) -> bool {
    let Ok(packet) = Ipv4::parse(frame) else { return false };
    let is_ipv4 = ethernet::Ethernet::parse(frame).is_some_and(|header| header.ethertype == ethernet::IPV4);
    let offset = match packet.protocol() {
        ipv4::TCP => 16,
        UDP => 6,
        _ => return false,
    };
    let start = ethernet::HEADER + packet.header_len();
    is_ipv4 && header::finish_checksum(frame, start, offset)
}

impl Port for VhostNetPort {
    type Buffer = MbufBuffer;

    fn receive(&mut self, burst: &mut Burst<MbufBuffer>) {
        while !burst.is_full() {
            if self.large.is_being_cut() {
                match self.large.next(self.pool) {
                    Some(buffer) => burst.push(buffer),
                    // The pool is empty.
                    None if self.large.is_being_cut() => return,
                    None => {}
                }
            } else {
                let Some(mbuf) = self.next() else { return };
                burst.extend(self.take(mbuf));
            }
        }
    }

    fn send(&mut self, burst: &mut Burst<MbufBuffer>) {
        if burst.is_empty() {
            return;
        }
        let trains = Trains::of(|index| burst[index].bytes(), burst.len());
        let mut packets: ArrayVec<*mut ffi::rte_mbuf, BURST> =
            trains.iter().map(|train| Self::join(&trains, train, burst)).collect();
        // SAFETY: the port is started, the queue ours alone; the packets are ours.
        let sent = unsafe { ffi::_rte_eth_tx_burst(self.port, self.queue, packets.as_mut_ptr(), packets.len() as u16) };
        let mut refused = [false; BURST];
        for train in trains.iter().skip(sent.into()) {
            Self::part(&trains, train, burst);
            trains.frames(train).for_each(|index| refused[index] = true);
        }
        let all: ArrayVec<MbufBuffer, BURST> = burst.drain(..).collect();
        for (buffer, refused) in all.into_iter().zip(refused) {
            match refused {
                true => burst.push(buffer),
                // The device's now.
                false => mem::forget(buffer),
            }
        }
    }

    fn allocate(&mut self, len: usize) -> Option<MbufBuffer> {
        buffer::allocate(self.pool, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::build::{TcpFrame, tcp_frame};
    use crate::frame::checksum;

    #[test]
    fn an_unfinished_checksum_is_finished_where_it_belongs() {
        let right = tcp_frame(&TcpFrame { data: b"some data", ..TcpFrame::default() });
        let mut frame = right.clone();
        let address = |at: usize| <[u8; 4]>::try_from(&right[at..at + 4]).unwrap().into();
        let pseudo = checksum::pseudo_header(address(26), address(30), ipv4::TCP, (right.len() - 34) as u16);
        frame[50..52].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        assert!(finish(&mut frame));
        assert_eq!(frame, right);
    }

    #[test]
    fn what_has_no_known_place_for_a_checksum_is_refused() {
        let right = tcp_frame(&TcpFrame::default());
        let mut other_protocol = right.clone();
        other_protocol[23] = 132;
        let mut ipv6 = right.clone();
        ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
        for mut frame in [other_protocol, ipv6, right[..20].to_vec(), Vec::new()] {
            let before = frame.clone();
            assert!(!finish(&mut frame));
            assert_eq!(frame, before);
        }
    }
}
