//! The kernel's TCP sockets of the VIPs, by sock_diag: listed, looked up one by one, destroyed.
//!
//! A listing is not atomic (`inet_diag_dump_icsk` walks the hash table bucket by bucket): a connection that is made
//! while it runs may be missing. [`Sockets::query`] is exact.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use netlink_packet_core::{NLM_F_DUMP, Parseable};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::Netlink;

/// `SOCK_DIAG_BY_FAMILY`: requests, answers and announcements alike.
pub(super) const BY_FAMILY: u16 = 20;

/// Every cookie matches this one (`INET_DIAG_NOCOOKIE`).
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// The bytes of `struct inet_diag_msg`, which attributes may follow.
const HEADER: usize = 72;

/// A socket's state, as far as connections have them (RFC 9293, section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the standard's own names")]
pub enum State {
    Established,
    SynSent,
    /// A half-open connection; in Linux a request socket, which no announcement is made of.
    SynReceived,
    FinWait1,
    FinWait2,
    /// In Linux a small socket of its own, which no announcement is made of.
    TimeWait,
    /// Ended, and kept until the application closes it.
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl State {
    /// From the kernel's number (`include/net/tcp_states.h`); `None` for one that is unknown.
    fn from_kernel(number: u8) -> Option<State> {
        Some(match number {
            1 => State::Established,
            2 => State::SynSent,
            // 12 is NEW_SYN_RECV, which answers call SYN_RECV.
            3 | 12 => State::SynReceived,
            4 => State::FinWait1,
            5 => State::FinWait2,
            6 => State::TimeWait,
            7 => State::Close,
            8 => State::CloseWait,
            9 => State::LastAck,
            10 => State::Listen,
            11 => State::Closing,
            _ => return None,
        })
    }
}

/// A TCP socket of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// The VIP and port.
    pub local: SocketAddrV4,
    /// The client's address and port.
    pub remote: SocketAddrV4,
    /// Its state.
    pub state: State,
    /// What tells it from every other socket since boot.
    cookie: [u8; 8],
}

/// sock_diag, in the network namespace of the thread that opened it. Needs CAP_NET_ADMIN to destroy, not to look.
pub struct Sockets {
    netlink: Netlink,
    /// The interface whose packets the looked-up sockets would be given: one that is bound to a device is found by
    /// no other.
    interface: u32,
}

impl Sockets {
    /// For sockets that are reached through the interface with this index: the TAP's ([`super::Interface::index`]),
    /// or 0, which finds all but those bound to a device.
    pub fn open(interface: u32) -> io::Result<Sockets> {
        Ok(Sockets { netlink: Netlink::open(NETLINK_SOCK_DIAG)?, interface })
    }

    /// All connections of the VIPs, as [`Listing`] has them, at once: 100,000 take some 0.3 s.
    pub fn dump(&mut self, vips: &[Ipv4Addr]) -> io::Result<Vec<Socket>> {
        let mut found = Vec::new();
        let mut listing = Listing::begin(vips)?;
        while listing.step(|socket| found.push(socket))? {}
        Ok(found)
    }

    /// The one connection between these two, if the kernel has it.
    pub fn query(&mut self, local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<Option<Socket>> {
        let mut found = None;
        // AF_INET finds AF_INET6 sockets of IPv4 clients as well: both are in one hash table.
        let request = request(AF_INET, StateFlags::all(), self.id(local, remote, ANY_COOKIE));
        let asked = self.netlink.request(request, 0, |message| found = parse(message.kind, message.payload));
        match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // inet_diag_find_one_icsk falls back to the listener, which is not what was asked for.
            asked => asked.map(|()| {
                found.filter(|socket| socket.local == local && socket.remote == remote && socket.state != State::Listen)
            }),
        }
    }

    /// Destroys the connection between these two; `false` if there is none, or if it ended meanwhile.
    ///
    /// Exactly the socket that was found is destroyed, named by its cookie: by addresses alone the kernel would take
    /// the listener where the connection has just ended. Where RFC 9293 wants a RST (`tcp_need_reset`), the kernel
    /// sends one to the client; keeping that off the wire is the egress rules' business.
    pub fn destroy(&mut self, local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<bool> {
        let Some(socket) = self.query(local, remote)? else { return Ok(false) };
        let request = request(AF_INET, StateFlags::all(), self.id(local, remote, socket.cookie));
        match self.netlink.request(SockDiagDestroy::new(request), 0, |_| {}) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            destroyed => destroyed.map(|()| true),
        }
    }

    fn id(&self, local: SocketAddrV4, remote: SocketAddrV4, cookie: [u8; 8]) -> SocketId {
        SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: (*local.ip()).into(),
            destination_address: (*remote.ip()).into(),
            interface_id: self.interface,
            cookie,
        }
    }
}

/// A listing of all connections of the VIPs, in any state, half-open and TIME_WAIT included; listeners are none. It is
/// taken in steps, so that a thread with other duties need not stop for it.
pub struct Listing {
    netlink: Netlink,
    vips: HashSet<Ipv4Addr>,
    /// Families not yet begun.
    families: std::slice::Iter<'static, u8>,
}

impl Listing {
    /// Begins one.
    pub fn begin(vips: &[Ipv4Addr]) -> io::Result<Listing> {
        let mut listing = Listing {
            netlink: Netlink::open(NETLINK_SOCK_DIAG)?,
            vips: vips.iter().copied().collect(),
            // A listener on [::] makes AF_INET6 sockets for IPv4 clients too.
            families: [AF_INET, AF_INET6].iter(),
        };
        listing.begin_family()?;
        Ok(listing)
    }

    /// Reads on: up to 32 KiB of answers, some 300 sockets, about a millisecond. `false` once the listing is complete.
    pub fn step(&mut self, mut each: impl FnMut(Socket)) -> io::Result<bool> {
        let vips = &self.vips;
        let ended = self.netlink.next_part(|message| {
            let socket = parse(message.kind, message.payload);
            socket.into_iter().filter(|socket| vips.contains(socket.local.ip())).for_each(&mut each);
        })?;
        if ended { self.begin_family() } else { Ok(true) }
    }

    fn begin_family(&mut self) -> io::Result<bool> {
        let Some(&family) = self.families.next() else { return Ok(false) };
        let id = SocketId { cookie: ANY_COOKIE, ..SocketId::new_v4() };
        self.netlink.begin(request(family, StateFlags::all() - StateFlags::LISTEN, id), NLM_F_DUMP)?;
        Ok(true)
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

/// The socket that an answer or announcement tells of; `None` where that is no IPv4 connection. Attributes are not
/// looked at.
pub(super) fn parse(kind: u16, payload: &[u8]) -> Option<Socket> {
    if kind != BY_FAMILY {
        return None;
    }
    let header = InetResponseHeader::parse(payload.get(..HEADER)?).ok()?;
    let id = header.socket_id;
    Some(Socket {
        local: SocketAddrV4::new(ipv4(id.source_address)?, id.source_port),
        remote: SocketAddrV4::new(ipv4(id.destination_address)?, id.destination_port),
        state: State::from_kernel(header.state)?,
        cookie: id.cookie,
    })
}

/// An IPv4 address, also as an IPv6 socket has it (RFC 4291, section 2.5.5.2), or the lack of any.
fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.is_unspecified().then_some(Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        let address = Ipv4Addr::new(10, 0, 0, 100);
        assert_eq!(ipv4(address.to_ipv6_mapped().into()), Some(address));
        assert_eq!(ipv4("2001:db8::1".parse().unwrap()), None);
    }

    #[test]
    fn every_state_of_the_kernel_is_known() {
        assert!((1..=12).all(|number| State::from_kernel(number).is_some()));
        assert_eq!(State::from_kernel(0), None);
        assert_eq!(State::from_kernel(13), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(kind in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..128)) {
            parse(kind, &payload);
            parse(BY_FAMILY, &payload);
        }

        #[test]
        fn an_answer_needs_all_its_bytes(length in 0usize..HEADER) {
            let mut payload = [0; HEADER];
            payload[..2].copy_from_slice(&[AF_INET, 1]);
            prop_assert!(parse(BY_FAMILY, &payload).is_some());
            prop_assert_eq!(parse(BY_FAMILY, &payload[..length]), None);
        }
    }
}
