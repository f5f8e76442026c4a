//! Holds established TCP sockets of the virtual IP without a client at their other end: what a member finds in its
//! kernel when it starts, and what it rebuilds its table from.
//!
//! The kernel makes a socket established without a handshake where it is being repaired (`TCP_REPAIR`, made for CRIU):
//! `connect` then sends nothing. The connections are those of `testbed-traffic`. It prints `ready` once it holds them
//! all, and holds them until its standard input ends.
#![allow(unsafe_code)] // TCP_REPAIR is in no safe wrapper.

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use clap::Parser;
use testbed_tools::traffic::{Group, client};

/// Holds established sockets.
#[derive(Parser)]
struct Arguments {
    /// The virtual IP, which has to be an address of this network namespace.
    #[arg(long)]
    vip: Ipv4Addr,
    /// Its port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// The first connection's number.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// How many connections.
    #[arg(long)]
    count: u32,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a place for the answer.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` lives through the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    let local = (arguments.vip, arguments.port);
    let numbers = arguments.first..arguments.first + arguments.count;
    let held: Vec<OwnedFd> =
        numbers.map(|index| established(local, client(Group::Established, index))).collect::<io::Result<_>>()?;
    println!("ready: {}", held.len());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A socket that the kernel takes for established. It stays in repair: closed then, it sends nothing.
fn established(local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let raw = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `raw` was opened just now and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let on = 1_i32;
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `on` lives through the call, and the length is its own.
    check(unsafe { libc::setsockopt(raw, libc::IPPROTO_TCP, libc::TCP_REPAIR, (&raw const on).cast(), length) })?;
    let (from, to) = (address(local), address(remote));
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address lives through the call, and the length is its own.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const from).cast(), length) })?;
    // SAFETY: as above.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const to).cast(), length) })?;
    Ok(socket)
}

fn address((address, port): (Ipv4Addr, u16)) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: address.to_bits().to_be() },
        sin_zero: [0; 8],
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
