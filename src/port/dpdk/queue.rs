//! One queue pair of a DPDK device as a [`Port`], by raw bursts.

use std::ffi::CString;
use std::marker::PhantomData;
use std::ptr;

use capsule_ffi as ffi;

use super::buffer::{self, MbufBuffer};
use super::devices::Device;
use super::memory::Pool;
use super::{Error, dpdk_error};
use crate::frame::Mac;
use crate::port::{Buffer, Burst, Port};

/// A queue pair of a DPDK port, owned by one worker and used on its thread alone.
///
/// [`Port::send`] leaves in the burst what the device did not take. Some devices never will (a TAP that is down, or a
/// frame longer than its MTU): what is left has to be dropped at some point, not tried for ever.
#[derive(Debug)]
pub struct DpdkPort {
    port: u16,
    queue: u16,
    pool: Pool,
    // Received frames of this length or more count as cut off: the driver does not say, or the host would not take them.
    cut_at: usize,
    // A queue has no lock: one thread.
    _one_thread: PhantomData<*mut ()>,
}

impl DpdkPort {
    pub(super) fn new(port: PortId, queue: u16, pool: Pool) -> DpdkPort {
        DpdkPort { port: port.id, queue, pool, cut_at: port.cut_at, _one_thread: PhantomData }
    }
}

impl Port for DpdkPort {
    type Buffer = MbufBuffer;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<MbufBuffer>) {
        let have = burst.len();
        let room = burst.remaining_capacity();
        // SAFETY: the burst has memory for `room` more pointers from `have` on, and MbufBuffer is one mbuf pointer.
        let end = unsafe { burst.as_mut_ptr().add(have) }.cast::<*mut ffi::rte_mbuf>();
        // SAFETY: the port is started, the queue ours alone; DPDK writes at most `room` pointers, each to an mbuf that
        // is ours from then on.
        let count = unsafe { ffi::_rte_eth_rx_burst(self.port, self.queue, end, room as u16) };
        // SAFETY: `count` pointers were written.
        unsafe { burst.set_len(have + usize::from(count)) };
        if self.cut_at != usize::MAX {
            for buffer in &mut burst[have..] {
                if buffer.bytes().len() >= self.cut_at {
                    buffer.mark_cut();
                }
            }
        }
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<MbufBuffer>) {
        let have = burst.len();
        if have == 0 {
            return;
        }
        let start = burst.as_mut_ptr();
        // SAFETY: the port is started, the queue ours alone; the burst holds `have` mbuf pointers.
        let sent = unsafe { ffi::_rte_eth_tx_burst(self.port, self.queue, start.cast(), have as u16) };
        let left = have - usize::from(sent).min(have);
        // SAFETY: the first `sent` buffers are the device's now and must not be dropped here; the others move to the
        // front, within the burst's memory.
        unsafe {
            ptr::copy(start.add(have - left), start, left);
            burst.set_len(left);
        }
    }

    fn allocate(&mut self, len: usize) -> Option<MbufBuffer> {
        buffer::allocate(self.pool, len)
    }
}

/// A DPDK port and what is particular about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortId {
    id: u16,
    cut_at: usize,
}

impl PortId {
    /// DPDK's number of it.
    pub(super) fn id(self) -> u16 {
        self.id
    }
}

/// The port of a device.
pub(super) fn port_id(device: &Device) -> Result<PortId, Error> {
    let doing = "looking a port up";
    let text =
        CString::new(device.device.as_str()).map_err(|reason| Error::Dpdk { doing, reason: reason.to_string() })?;
    let mut id = 0;
    // SAFETY: a C string and a place for the answer.
    let result = unsafe { ffi::rte_eth_dev_get_port_by_name(text.as_ptr(), &mut id) };
    if result != 0 {
        return Err(dpdk_error(doing, result));
    }
    Ok(PortId { id, cut_at: device.cut_at })
}

/// How many frames the device had no descriptor or no buffer for.
pub(super) fn lost(port: PortId) -> u64 {
    let mut stats = ffi::rte_eth_stats::default();
    // SAFETY: a place for the answer.
    match unsafe { ffi::rte_eth_stats_get(port.id, &mut stats) } {
        0 => stats.imissed + stats.rx_nombuf,
        // A driver that does not count.
        _ => 0,
    }
}

/// The port's MAC.
pub(super) fn mac(port: PortId) -> Result<Mac, Error> {
    let mut address = ffi::rte_ether_addr::default();
    // SAFETY: a place for the answer.
    match unsafe { ffi::rte_eth_macaddr_get(port.id, &mut address) } {
        0 => Ok(Mac(address.addr_bytes)),
        result => Err(dpdk_error("reading a port's MAC", result)),
    }
}
