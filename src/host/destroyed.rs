//! Announcements of destroyed sockets (`SKNLGRP_INET_TCP_DESTROY` and its IPv6 sibling).

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as NetlinkSocket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use super::netlink::messages;
use super::sockets::parse;

// include/uapi/linux/sock_diag.h
const SKNLGRP_INET_TCP_DESTROY: u32 = 1;
const SKNLGRP_INET6_TCP_DESTROY: u32 = 3;

/// Room for announcements not yet read, in bytes as SO_RCVBUF counts them (the kernel doubles it): 60,000 were found to
/// fit, which is most of a second of the busiest service.
const RECEIVE_BUFFER: usize = 16 << 20;

/// What is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A full socket of this connection is gone. The tuple may live on as TIME_WAIT, or in a new socket already: ask
    /// [`super::Sockets::query`] before it is forgotten.
    Socket {
        /// The address and port on this machine.
        local: SocketAddrV4,
        /// The other end's.
        remote: SocketAddrV4,
    },
    /// A socket at this local address and port is gone that had forgotten its remote end: it was disconnected first
    /// (closed with SO_LINGER 0, or never accepted when its listener closed). Any connection of that port may be meant.
    Forgotten {
        /// The address and port on this machine; the address is 0.0.0.0 where the listener's was.
        local: SocketAddrV4,
    },
    /// Announcements were lost, because they came faster than they were read: ask for all sockets anew.
    Lost,
}

/// A subscription, in the network namespace of the thread that opened it.
pub struct Destroyed {
    socket: NetlinkSocket,
    buffer: Vec<u8>,
}

impl Destroyed {
    /// Subscribes. What is destroyed from now on will be read.
    pub fn subscribe() -> io::Result<Destroyed> {
        let mut socket = NetlinkSocket::new(NETLINK_SOCK_DIAG)?;
        socket.set_non_blocking(true)?;
        // Beyond net.core.rmem_max where we may; else as much as it lets us have.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(SKNLGRP_INET_TCP_DESTROY)?;
        socket.add_membership(SKNLGRP_INET6_TCP_DESTROY)?;
        Ok(Destroyed { socket, buffer: vec![0; 8192] })
    }

    /// Hands over what has been announced, up to `limit` endings, without waiting. Returns how many there were; fewer
    /// than `limit` means that no more were there.
    pub fn read(&mut self, limit: usize, mut each: impl FnMut(Ending)) -> io::Result<usize> {
        let mut count = 0;
        while count < limit {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => {
                    for message in messages(&self.buffer[..length]) {
                        if let Some(ending) = ending(message.kind, message.payload) {
                            each(ending);
                            count += 1;
                        }
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    each(Ending::Lost);
                    count += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

impl AsFd for Destroyed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn ending(kind: u16, payload: &[u8]) -> Option<Ending> {
    let socket = parse(kind, payload)?;
    let (local, remote) = (socket.local, socket.remote);
    match (local.port(), remote.port()) {
        // It never had an address: it was closed before it was bound.
        (0, _) => None,
        (_, 0) => Some(Ending::Forgotten { local }),
        _ => Some(Ending::Socket { local, remote }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(datagram in proptest::collection::vec(any::<u8>(), 0..256)) {
            for message in messages(&datagram) {
                ending(message.kind, message.payload);
            }
        }
    }
}
