//! Interfaces, addresses, policy rules and routes, through rtnetlink.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, ParseableParametrized};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_nametoindex;

use super::netlink::Netlink;
use crate::frame::Mac;

/// What marks our rules and routes (`ip route show table all proto 184`): a number that no routing daemon has taken.
pub(super) const PROTOCOL: u8 = 184;

/// Facts about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, never 0.
    pub index: u32,
    /// Its MAC; zeros where it has none.
    pub mac: Mac,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// Frames that its queue holds; of a TAP, each of its queues.
    pub queue_len: u32,
    /// Frames that it has dropped instead of sending them; of a TAP, those that its queues had no room for, or nobody to read them.
    pub dropped: u64,
    /// Whether it was set up (`IFF_UP`).
    pub up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`): for a TAP, whether a process holds it open.
    pub carrier: bool,
    /// Whether it was set to receive all frames (`IFF_PROMISC`, which is not said of packet sockets' wishes).
    pub promiscuous: bool,
    /// Whether it is a TUN or TAP interface.
    pub tun: bool,
    /// A name beside its name, as its maker chose.
    pub alias: String,
}

/// A route of a table of ours.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Route {
    /// A subnet's neighbours, through an interface.
    Subnet { table: u32, address: Ipv4Addr, prefix: u8, interface: String },
    /// All else, through a gateway at an interface.
    Gateway { table: u32, gateway: Ipv4Addr, interface: String },
    /// All else, into nothing, where no better route is left.
    Nowhere { table: u32 },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Subnet { table, address, prefix, interface } => {
                write!(f, "route to the subnet of {address}/{prefix} by {interface} in table {table}")
            }
            Route::Gateway { table, gateway, interface } => {
                write!(f, "default route by {gateway} at {interface} in table {table}")
            }
            Route::Nowhere { table } => write!(f, "last route into nothing in table {table}"),
        }
    }
}

/// rtnetlink, in the network namespace of the thread that opened it.
pub(super) struct Rtnetlink(Netlink);

impl Rtnetlink {
    pub(super) fn open() -> io::Result<Rtnetlink> {
        Netlink::open(NETLINK_ROUTE).map(Rtnetlink)
    }

    /// An interface by name; `None` if there is none.
    pub(super) fn interface(&mut self, name: &str) -> io::Result<Option<Interface>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.into()));
        let mut found = None;
        let asked = self.0.request(RouteNetlinkMessage::GetLink(question), 0, |message| {
            if let Ok(RouteNetlinkMessage::NewLink(link)) = parse(message.kind, message.payload) {
                found = Some(facts(&link));
            }
        });
        match asked {
            // ENODEV: none of this name. ERANGE and EINVAL: a name that no interface can have.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// Sets what is given of an interface.
    pub(super) fn set_interface(
        &mut self,
        index: u32,
        attributes: Vec<LinkAttribute>,
        flags: &[(LinkFlags, bool)],
    ) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = attributes;
        for &(flag, on) in flags {
            link.header.change_mask |= flag;
            link.header.flags.set(flag, on);
        }
        self.change(RouteNetlinkMessage::SetLink(link), 0)
    }

    pub(super) fn delete_interface(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// All IPv4 addresses of this machine, with their interface's index.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<(Ipv4Addr, u32)>> {
        // A dump disturbed by a change is begun again; a machine where that goes on has other troubles.
        for _ in 0..8 {
            let mut question = AddressMessage::default();
            question.header.family = AddressFamily::Inet;
            let mut found = Vec::new();
            let dumped = self.0.request(RouteNetlinkMessage::GetAddress(question), NLM_F_DUMP, |message| {
                if let Ok(RouteNetlinkMessage::NewAddress(address)) = parse(message.kind, message.payload) {
                    found.extend(local(&address).map(|local| (local, address.header.index)));
                }
            });
            match dumped {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                dumped => return dumped.map(|()| found),
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the addresses change faster than they can be read"))
    }

    /// Adds an address; `false` if it was there. Without `prefix_route`, no route to its subnet comes with it.
    pub(super) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
        prefix_route: bool,
    ) -> io::Result<bool> {
        let mut message = address_message(index, address, prefix);
        if !prefix_route {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        }
        self.add(RouteNetlinkMessage::NewAddress(message))
    }

    pub(super) fn delete_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelAddress(address_message(index, address, prefix)), 0)
    }

    /// Adds the rule `from ADDRESS lookup TABLE`; `false` if it was there.
    pub(super) fn add_rule(&mut self, from: Ipv4Addr, priority: u32, table: u32) -> io::Result<bool> {
        self.add(RouteNetlinkMessage::NewRule(rule_message(from, priority, table)))
    }

    pub(super) fn delete_rule(&mut self, from: Ipv4Addr, priority: u32, table: u32) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRule(rule_message(from, priority, table)), 0)
    }

    /// Adds a route; `false` if one of its prefix and metric was there.
    pub(super) fn add_route(&mut self, route: &Route) -> io::Result<bool> {
        let message = route_message(route)?;
        self.add(RouteNetlinkMessage::NewRoute(message))
    }

    pub(super) fn delete_route(&mut self, route: &Route) -> io::Result<()> {
        let message = route_message(route)?;
        self.change(RouteNetlinkMessage::DelRoute(message), 0)
    }

    fn add(&mut self, message: RouteNetlinkMessage) -> io::Result<bool> {
        match self.change(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            added => added.map(|()| true),
        }
    }

    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.0.request(message, flags, |_| {})
    }
}

/// The network mask of a prefix length, 0 to 32.
pub(super) fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn parse(kind: u16, payload: &[u8]) -> Result<RouteNetlinkMessage, netlink_packet_core::DecodeError> {
    RouteNetlinkMessage::parse_with_param(payload, kind)
}

fn facts(link: &LinkMessage) -> Interface {
    let flags = link.header.flags;
    let mut interface = Interface {
        index: link.header.index,
        mac: Mac::default(),
        mtu: 0,
        queue_len: 0,
        dropped: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        promiscuous: flags.contains(LinkFlags::Promisc),
        tun: false,
        alias: String::new(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => interface.mac = Mac(<[u8; 6]>::try_from(&bytes[..]).unwrap_or_default()),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::TxQueueLen(frames) => interface.queue_len = *frames,
            LinkAttribute::Stats64(stats) => interface.dropped = stats.tx_dropped,
            LinkAttribute::IfAlias(alias) => interface.alias.clone_from(alias),
            LinkAttribute::LinkInfo(info) => interface.tun = info.contains(&LinkInfo::Kind(InfoKind::Tun)),
            _ => {}
        }
    }
    interface
}

fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

fn address_message(index: u32, address: Ipv4Addr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(address.into()));
    message.attributes.push(AddressAttribute::Address(address.into()));
    message
}

fn rule_message(from: Ipv4Addr, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.src_len = 32;
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Source(from.into()));
    message.attributes.push(RuleAttribute::Priority(priority));
    message.attributes.push(RuleAttribute::Table(table));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    message
}

fn route_message(route: &Route) -> io::Result<RouteMessage> {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = AddressFamily::Inet;
    header.protocol = RouteProtocol::Other(PROTOCOL);
    header.kind = RouteType::Unicast;
    let table = match route {
        Route::Subnet { table, address, prefix, interface } => {
            header.destination_prefix_length = *prefix;
            header.scope = RouteScope::Link;
            let subnet = Ipv4Addr::from_bits(address.to_bits() & mask(*prefix));
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(subnet)));
            message.attributes.push(RouteAttribute::Oif(if_nametoindex(interface.as_str())?));
            table
        }
        Route::Gateway { table, gateway, interface } => {
            // The gateway is a neighbour even where it lies beyond the VIP's subnet.
            header.flags |= RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(*gateway)));
            message.attributes.push(RouteAttribute::Oif(if_nametoindex(interface.as_str())?));
            table
        }
        Route::Nowhere { table } => {
            header.kind = RouteType::BlackHole;
            message.attributes.push(RouteAttribute::Priority(u32::MAX));
            table
        }
    };
    // RTA_TABLE carries what the header's byte cannot.
    message.attributes.push(RouteAttribute::Table(*table));
    Ok(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn masks_of_all_lengths() {
        assert_eq!(mask(0), 0);
        assert_eq!(mask(24), 0xffff_ff00);
        assert_eq!(mask(32), u32::MAX);
    }

    #[test]
    fn loopback_is_found_and_a_missing_interface_is_none() {
        let mut rtnetlink = Rtnetlink::open().unwrap();
        let loopback = rtnetlink.interface("lo").unwrap().unwrap();
        assert_eq!(loopback.index, 1);
        assert!(!loopback.tun);
        assert_eq!(rtnetlink.interface("baton-none").unwrap(), None);
        assert_eq!(rtnetlink.interface("a name longer than any interface's").unwrap(), None);
        assert_eq!(rtnetlink.interface("").unwrap(), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(kind in 16u16..60, payload in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(RouteNetlinkMessage::NewLink(link)) = parse(kind, &payload) {
                facts(&link);
            }
        }
    }
}
