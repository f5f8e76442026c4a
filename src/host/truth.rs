//! The kernel's sockets as the control thread's [`truth`](crate::control::truth) asks for them: addresses become VIPs.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Destroyed, Sockets, State, destroyed, sockets};
use crate::control::truth::{Ending, Held, Kernel};
use crate::table::{Tuple, VipIndex};

/// sock_diag, seen through the VIPs.
pub struct HostKernel {
    sockets: Sockets,
    destroyed: Destroyed,
    /// By [`VipIndex`].
    vips: Vec<Ipv4Addr>,
}

impl HostKernel {
    /// Of the sockets that are reached through the interface with this index; see [`Sockets::open`]. Announcements
    /// are heard from now on.
    ///
    /// # Errors
    /// There is no sock_diag to be had.
    pub fn open(interface: u32, vips: Vec<Ipv4Addr>) -> io::Result<HostKernel> {
        // Subscribed first: what ends while the table is being rebuilt is heard of.
        let destroyed = Destroyed::subscribe()?;
        Ok(HostKernel { sockets: Sockets::open(interface)?, destroyed, vips })
    }

    fn ends(&self, tuple: &Tuple) -> (SocketAddrV4, SocketAddrV4) {
        let local = SocketAddrV4::new(self.vips[usize::from(tuple.vip)], tuple.port);
        (local, SocketAddrV4::new(tuple.client, tuple.client_port))
    }
}

fn tuple(vips: &[Ipv4Addr], local: SocketAddrV4, remote: SocketAddrV4) -> Option<Tuple> {
    let vip = vips.iter().position(|vip| vip == local.ip())? as VipIndex;
    Some(Tuple { client: *remote.ip(), client_port: remote.port(), port: local.port(), vip })
}

fn held(socket: &sockets::Socket) -> Option<Held> {
    match socket.state {
        State::SynReceived => Some(Held::HalfOpen),
        State::TimeWait => Some(Held::TimeWait),
        // Closed, and kept only until the application lets go of it: no segment reaches it any more.
        State::Close | State::Listen | State::SynSent => None,
        _ => Some(Held::Connection),
    }
}

impl Kernel for HostKernel {
    fn dump(&mut self) -> io::Result<Vec<(Tuple, Held)>> {
        let sockets = self.sockets.dump(&self.vips)?;
        let known = |socket: &sockets::Socket| Some((tuple(&self.vips, socket.local, socket.remote)?, held(socket)?));
        Ok(sockets.iter().filter_map(known).collect())
    }

    fn query(&mut self, tuple: &Tuple) -> io::Result<Option<Held>> {
        let (local, remote) = self.ends(tuple);
        Ok(self.sockets.query(local, remote)?.as_ref().and_then(held))
    }

    fn destroy(&mut self, tuple: &Tuple) -> io::Result<()> {
        let (local, remote) = self.ends(tuple);
        self.sockets.destroy(local, remote).map(drop)
    }

    fn endings(&mut self, limit: usize, each: &mut dyn FnMut(Ending)) -> io::Result<()> {
        let vips = &self.vips;
        self.destroyed
            .read(limit, |ending| match ending {
                destroyed::Ending::Socket { local, remote } => {
                    if let Some(tuple) = tuple(vips, local, remote) {
                        each(Ending::Socket(tuple));
                    }
                }
                // Its RST, if it sent one, has told the worker already; the sweep finds the rest.
                destroyed::Ending::Forgotten { .. } => {}
                destroyed::Ending::Lost => each(Ending::Unknown),
            })
            .map(drop)
    }
}
