//! A TCP connection to a service of this machine, with a time limit.
//!
//! # Its way
//!
//! A VIP is a local address, so the connection never leaves the loopback path of the kernel: the rule `lookup local`
//! comes before the VIP's own rule (`from VIP lookup TABLE`, see [`crate::host`]), in both directions, and the guard
//! lets `lo` pass. baton's ports see none of it.
//!
//! # Its source
//!
//! A connection to a VIP comes from 127.0.0.1, not from the VIP as the kernel would choose:
//! - the kernel refuses to send it anywhere but to this machine. Were the VIP not a local address (yet), the
//!   connection would go to the wire instead, the active member would accept it, and a member without a service
//!   would call itself healthy;
//! - a port of the ephemeral range can not be connected to itself (RFC 9293, section 3.5, simultaneous open), which
//!   would look like a service;
//! - its end is not announced by the kernel as one of a VIP's port (see [`crate::host::Ending::Forgotten`]).
//!
//! # Its end
//!
//! A RST, because every orderly end would leave a TIME_WAIT for a minute: a probe every millisecond would run out of
//! ports, and call a healthy service dead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::stop::{Cut, Stop};

/// Where to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Address and port.
    pub(super) address: SocketAddr,
    /// Whether that is a VIP.
    pub(super) vip: bool,
}

/// Whether the service's kernel accepts connections. The service sees nothing of it: the connection is reset before
/// the handshake ends, so that a check does not fill the accept queue of a service that hangs, nor its log.
pub(super) fn accepts(target: Target, deadline: Instant, stop: &Stop) -> Result<(), Cut> {
    open(target, Handshake::Unfinished, deadline, stop).map(|_| ())
}

/// A non-blocking connection.
pub(super) fn stream(target: Target, deadline: Instant, stop: &Stop) -> Result<TcpStream, Cut> {
    open(target, Handshake::Finished, deadline, stop).map(TcpStream::from)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Handshake {
    Finished,
    Unfinished,
}

fn open(target: Target, handshake: Handshake, deadline: Instant, stop: &Stop) -> Result<OwnedFd, Cut> {
    let Target { address, .. } = target;
    let failed = |error: Errno| Cut::Failed(format!("{address}: {}", std::io::Error::from(error)));
    let socket = start(target, handshake).map_err(failed)?;
    let Some([_]) = stop.wait([(socket.as_fd(), PollFlags::OUT)], deadline)? else {
        return Err(Cut::Late(format!("{address}: no answer in time")));
    };
    sockopt::socket_error(&socket).and_then(|error| error).map_err(failed)?;
    Ok(socket)
}

fn start(Target { address, vip }: Target, handshake: Handshake) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    if handshake == Handshake::Unfinished {
        // Delays the handshake's last ACK (tcp_rcv_synsent_state_process): the RST is there before it.
        sockopt::set_tcp_quickack(&socket, false)?;
    }
    if let (true, IpAddr::V4(_)) = (vip, address.ip()) {
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    }
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        // What the kernel says of a source that may not leave this machine.
        Err(Errno::INVAL) if vip => Err(Errno::ADDRNOTAVAIL),
        Err(error) => Err(error),
    }
}
