//! Frame → class: what a frame is, before anything is looked up.
//!
//! Pure: the frame and what is known of this member ([`Facts`]) in, a [`Class`] out.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::frame::arp::{Arp, Operation};
use crate::frame::ethernet::{self, Ethernet};
use crate::frame::icmp::Icmp;
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::tcp::Segment;
use crate::frame::{Mac, Malformed};
use crate::table::{Tuple, VipIndex};
use crate::verdict::DropReason;

/// What a worker knows of this member, fixed while it runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The wire's own MAC, which the host port has too: every frame of ours leaves with it as source.
    pub own_mac: Mac,
    /// The virtual IPs, by [`VipIndex`].
    pub vips: Vec<VipFacts>,
    /// EtherType of heartbeats.
    pub heartbeat: u16,
    /// Whether the kernel shares the wire's interface, and so has every frame that is not for a VIP already.
    pub shared_wire: bool,
}

/// What a worker knows of a virtual IP.
#[derive(Clone, Debug)]
pub struct VipFacts {
    /// The address.
    pub address: Ipv4Addr,
    /// The virtual MAC.
    pub mac: Mac,
    /// TCP ports served, sorted; empty: all.
    pub ports: Vec<u16>,
    /// With several actives: rank r leaves a SYN to those before it for r × this.
    pub hedge: Duration,
    /// Whether a dead member's clients are looked for, to be reset.
    pub orphans: bool,
}

impl VipFacts {
    /// Whether connections to this port are accepted at all.
    pub fn serves(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.binary_search(&port).is_ok()
    }
}

impl Facts {
    #[inline]
    fn vip_of(&self, address: Ipv4Addr) -> Option<VipIndex> {
        self.vips.iter().position(|vip| vip.address == address).map(|index| index as VipIndex)
    }

    fn is_virtual(&self, mac: Mac) -> bool {
        self.vips.iter().any(|vip| vip.mac == mac)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug)]
pub enum Class<'a> {
    /// A segment of a VIP's TCP: from the wire a client's, from the host a server's.
    Tcp {
        /// The connection.
        tuple: Tuple,
        /// The segment.
        segment: Segment<'a>,
        /// Set if this is the first fragment of a packet.
        fragment: Option<FragmentId>,
    },
    /// A later fragment of a packet to a VIP.
    LaterFragment(FragmentId),
    /// Our heartbeat EtherType.
    Heartbeat,
    /// An ARP request for a VIP.
    ArpRequest(VipIndex),
    /// An ARP reply, to a virtual MAC or to ours.
    ArpReply,
    /// An ARP request of the host whose sender is a VIP.
    HostArp(VipIndex),
    /// An ICMP echo request to a VIP.
    Echo(VipIndex),
    /// An ICMP error about a connection that may be ours.
    IcmpError(Tuple),
    /// Not for (from the host: not from) a VIP, and for us.
    Other,
    /// Decided already.
    Drop(DropReason),
}

/// What the fragments of one packet have in common (RFC 791: identification, addresses and protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentId {
    /// The client.
    pub client: Ipv4Addr,
    /// The virtual IP.
    pub vip: VipIndex,
    /// The protocol.
    pub protocol: u8,
    /// The packet's identification.
    pub identification: u16,
}

/// Classifies a frame from the wire.
#[inline]
pub fn from_wire<'a>(frame: &'a [u8], facts: &Facts) -> Class<'a> {
    let Some(header) = Ethernet::parse(frame) else { return Class::Drop(DropReason::Runt) };
    if header.source == facts.own_mac {
        return Class::Drop(DropReason::OwnFrame);
    }
    match header.ethertype {
        ethernet::IPV4 => ipv4_from_wire(frame, header.destination, facts),
        ethernet::ARP => arp_from_wire(frame, header.destination, facts),
        heartbeat if heartbeat == facts.heartbeat => Class::Heartbeat,
        _ => not_for_a_vip(header.destination, facts),
    }
}

/// What is not for a VIP is for us, or for somebody else.
fn not_for_a_vip(destination: Mac, facts: &Facts) -> Class<'static> {
    if facts.is_virtual(destination) {
        Class::Drop(DropReason::WrongAddress)
    } else if destination == facts.own_mac || destination.is_multicast() {
        Class::Other
    } else {
        Class::Drop(DropReason::NotForUs)
    }
}

fn arp_from_wire(frame: &[u8], destination: Mac, facts: &Facts) -> Class<'static> {
    let Ok(arp) = Arp::parse(frame) else { return Class::Drop(DropReason::BadArp) };
    if facts.vip_of(arp.spa).is_some() {
        // Another member's, or somebody who claims our address: neither is to confuse the host.
        return Class::Drop(DropReason::GratuitousArp);
    }
    match (arp.operation, facts.vip_of(arp.tpa)) {
        (Operation::Request, Some(vip)) => Class::ArpRequest(vip),
        (Operation::Reply, Some(_)) if facts.is_virtual(destination) || destination == facts.own_mac => Class::ArpReply,
        (Operation::Reply, Some(_)) => Class::Drop(DropReason::NotForUs),
        (_, None) => not_for_a_vip(destination, facts),
    }
}

#[inline]
fn ipv4_from_wire<'a>(frame: &'a [u8], destination: Mac, facts: &Facts) -> Class<'a> {
    let packet = match Ipv4::parse(frame) {
        Ok(packet) => packet,
        Err(_) if !facts.is_virtual(destination) => return not_for_a_vip(destination, facts),
        Err(error) => return Class::Drop(bad_ip(error, frame)),
    };
    let Some(vip) = facts.vip_of(packet.destination()) else { return not_for_a_vip(destination, facts) };
    if destination != facts.vips[usize::from(vip)].mac {
        return if destination == facts.own_mac || destination.is_multicast() {
            Class::Drop(DropReason::WrongMac)
        } else {
            Class::Drop(DropReason::NotForUs)
        };
    }
    if !packet.checksum_is_right() {
        return Class::Drop(DropReason::BadIp);
    }
    to_a_vip(&packet, vip)
}

/// A packet that ends before its header says did not fit the buffer, if the buffer is full of it.
fn bad_ip(error: Malformed, frame: &[u8]) -> DropReason {
    match error {
        Malformed::Truncated if frame.len() > 1514 => DropReason::Oversize,
        _ => DropReason::BadIp,
    }
}

#[inline]
fn to_a_vip<'a>(packet: &Ipv4<'a>, vip: VipIndex) -> Class<'a> {
    let fragment = packet.is_fragment().then(|| FragmentId {
        client: packet.source(),
        vip,
        protocol: packet.protocol(),
        identification: packet.identification(),
    });
    if let Some(id) = fragment
        && packet.fragment_offset() != 0
    {
        return Class::LaterFragment(id);
    }
    match (packet.protocol(), fragment) {
        (ipv4::TCP, _) => match Segment::parse(packet) {
            Ok(segment) => Class::Tcp { tuple: client_tuple(&segment, vip), segment, fragment },
            Err(_) => Class::Drop(DropReason::BadTcp),
        },
        (ipv4::ICMP, None) => icmp_to_a_vip(packet, vip),
        _ => Class::Drop(DropReason::ProtocolNotServed),
    }
}

fn icmp_to_a_vip(packet: &Ipv4<'_>, vip: VipIndex) -> Class<'static> {
    match Icmp::parse(packet) {
        Ok(Icmp::EchoRequest) => Class::Echo(vip),
        // Only about what this very address sent.
        Ok(Icmp::TcpError(quoted)) if quoted.source == packet.destination() => Class::IcmpError(Tuple {
            client: quoted.destination,
            client_port: quoted.destination_port,
            port: quoted.source_port,
            vip,
        }),
        Ok(_) => Class::Drop(DropReason::IcmpNotOurs),
        Err(_) => Class::Drop(DropReason::BadIcmp),
    }
}

#[inline]
fn client_tuple(segment: &Segment<'_>, vip: VipIndex) -> Tuple {
    Tuple { client: segment.source(), client_port: segment.source_port(), port: segment.destination_port(), vip }
}

/// Classifies a frame from the host.
#[inline]
pub fn from_host<'a>(frame: &'a [u8], facts: &Facts) -> Class<'a> {
    let Some(header) = Ethernet::parse(frame) else { return Class::Drop(DropReason::Runt) };
    match header.ethertype {
        ethernet::IPV4 => ipv4_from_host(frame, facts),
        ethernet::ARP => arp_from_host(frame, facts),
        _ => not_from_a_vip(facts),
    }
}

/// What the host sends under another address than a VIP's goes to the wire, unless the kernel has its own way there.
fn not_from_a_vip(facts: &Facts) -> Class<'static> {
    if facts.shared_wire { Class::Drop(DropReason::HostNoise) } else { Class::Other }
}

fn arp_from_host(frame: &[u8], facts: &Facts) -> Class<'static> {
    let Ok(arp) = Arp::parse(frame) else { return Class::Drop(DropReason::BadArp) };
    match (facts.vip_of(arp.spa), arp.operation) {
        (None, _) if facts.vip_of(arp.tpa).is_some() && arp.spa.is_unspecified() => {
            Class::Drop(DropReason::GratuitousArp)
        }
        (None, _) => not_from_a_vip(facts),
        (Some(_), _) if arp.is_gratuitous() => Class::Drop(DropReason::GratuitousArp),
        (Some(_), Operation::Reply) => Class::Drop(DropReason::ArpFromHost),
        (Some(vip), Operation::Request) => Class::HostArp(vip),
    }
}

#[inline]
fn ipv4_from_host<'a>(frame: &'a [u8], facts: &Facts) -> Class<'a> {
    let packet = match Ipv4::parse(frame) {
        Ok(packet) => packet,
        Err(error) => return Class::Drop(bad_ip(error, frame)),
    };
    let Some(vip) = facts.vip_of(packet.source()) else { return not_from_a_vip(facts) };
    if packet.protocol() != ipv4::TCP || packet.is_fragment() {
        return Class::Drop(DropReason::ProtocolNotServed);
    }
    match Segment::parse(&packet) {
        Ok(segment) => {
            let tuple = Tuple {
                client: segment.destination(),
                client_port: segment.destination_port(),
                port: segment.source_port(),
                vip,
            };
            Class::Tcp { tuple, segment, fragment: None }
        }
        Err(_) => Class::Drop(DropReason::BadTcp),
    }
}
