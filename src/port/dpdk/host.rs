//! What leads to the host's stack: a TAP, virtio-user at vhost-net, or another DPDK device.

use std::fs::File;

use super::buffer::MbufBuffer;
use super::memory::Pool;
use super::queue::{DpdkPort, PortId};
use super::tap::TapPort;
use super::vhost_net::VhostNetPort;
use crate::port::{Burst, Port};

/// A worker's queue pair towards the host.
#[derive(Debug)]
pub enum HostPort {
    /// Of a TAP.
    Tap(TapPort),
    /// Of virtio-user at vhost-net.
    VhostNet(VhostNetPort),
    /// Of a device.
    Device(DpdkPort),
}

/// What becomes a [`HostPort`] on its worker's thread.
pub(super) enum HostQueue {
    Tap(File),
    VhostNet(PortId),
    Device(PortId),
}

impl HostQueue {
    /// The port of the worker with this place among the workers.
    pub(super) fn port(self, index: usize, pool: Pool) -> HostPort {
        match self {
            HostQueue::Tap(queue) => HostPort::Tap(TapPort::new(queue, pool)),
            HostQueue::VhostNet(port) => HostPort::VhostNet(VhostNetPort::new(port, index as u16, pool)),
            HostQueue::Device(port) => HostPort::Device(DpdkPort::new(port, index as u16, pool)),
        }
    }
}

impl Port for HostPort {
    type Buffer = MbufBuffer;

    #[inline]
    fn receive(&mut self, burst: &mut Burst<MbufBuffer>) {
        match self {
            HostPort::Tap(port) => port.receive(burst),
            HostPort::VhostNet(port) => port.receive(burst),
            HostPort::Device(port) => port.receive(burst),
        }
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<MbufBuffer>) {
        match self {
            HostPort::Tap(port) => port.send(burst),
            HostPort::VhostNet(port) => port.send(burst),
            HostPort::Device(port) => port.send(burst),
        }
    }

    fn allocate(&mut self, len: usize) -> Option<MbufBuffer> {
        match self {
            HostPort::Tap(port) => port.allocate(len),
            HostPort::VhostNet(port) => port.allocate(len),
            HostPort::Device(port) => port.allocate(len),
        }
    }
}
