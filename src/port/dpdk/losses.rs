//! Frames that were lost on their way to the wire's queues, as far as the device or the kernel counts them.

use std::os::fd::{AsRawFd, OwnedFd};

use super::devices::Device;
use super::queue::{self, PortId};
use super::{Error, af_packet, descriptors};

/// Counts them; any one thread may have it.
#[derive(Debug)]
pub struct Losses {
    port: PortId,
    /// Packet sockets: their losses are the kernel's to count, and af_packet does not ask for them (22.11).
    sockets: Vec<OwnedFd>,
    lost_by_sockets: u64,
}

impl Losses {
    pub(super) fn of(wire: &Device, queues: usize) -> Result<Losses, Error> {
        let sockets = match wire.interface {
            // Without its sockets the rest is still counted.
            Some(_) => descriptors::of_device(wire, queues).ok().flatten().unwrap_or_default(),
            None => Vec::new(),
        };
        Ok(Losses { port: queue::port_id(wire)?, sockets, lost_by_sockets: 0 })
    }

    /// How many by now. A system call for each packet socket.
    pub fn read(&mut self) -> u64 {
        self.lost_by_sockets += self.sockets.iter().map(|socket| af_packet::lost(socket.as_raw_fd())).sum::<u64>();
        self.lost_by_sockets + queue::lost(self.port)
    }
}
