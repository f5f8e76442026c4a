//! Frame → class: what a frame is, before anything is looked up.
//!
//! Pure: the frame and what is known of this member ([`Facts`]) in, a [`Class`] out. What nearly all frames are,
//! [`common`] recognises in a few steps; what it does not is taken apart here, protocol by protocol. Where both know a
//! frame they say the same, which a test holds against each other.

pub mod common;

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
    #[inline]
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

/// What a frame is. Small, and without a borrow of the frame, so that a burst's lie beside each other while the stages of
/// the worker go over them; what is rare is read again from the frame by who needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A segment of a VIP's TCP: from the wire a client's, from the host a server's.
    Tcp(Place),
    /// A later fragment of a packet to a VIP.
    LaterFragment(VipIndex),
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
    /// An ICMP error about a connection that may be ours: [`quoted_tuple`].
    IcmpError(VipIndex),
    /// Not for (from the host: not from) a VIP, and for us.
    Other,
    /// Decided already.
    Drop(DropReason),
}

/// Where a segment stands in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The virtual IP.
    pub vip: VipIndex,
    /// The TCP header's first byte.
    at: u8,
    /// Bytes of header and data.
    len: u16,
    /// Whether this is the first fragment of a packet.
    pub first_fragment: bool,
}

impl Place {
    fn of(segment: &Segment<'_>, packet: &Ipv4<'_>, vip: VipIndex) -> Place {
        // An IPv4 header has 60 bytes at most, a packet 65,535.
        let at = (ethernet::HEADER + packet.header_len()) as u8;
        Place { vip, at, len: segment.whole_len() as u16, first_fragment: packet.is_fragment() }
    }

    /// The segment, in the frame that was classified.
    #[inline]
    pub fn segment<'a>(&self, frame: &'a [u8]) -> Option<Segment<'a>> {
        Segment::again(frame, usize::from(self.at), usize::from(self.len))
    }

    /// The connection, if the frame came from the wire.
    pub fn tuple_from_wire(&self, frame: &[u8]) -> Tuple {
        let (client, ports) = self.address_and_ports(frame, ethernet::HEADER + 12);
        Tuple { client, client_port: (ports >> 16) as u16, port: ports as u16, vip: self.vip }
    }

    /// The connection, if the frame came from the host.
    pub fn tuple_from_host(&self, frame: &[u8]) -> Tuple {
        let (client, ports) = self.address_and_ports(frame, ethernet::HEADER + 16);
        Tuple { client, client_port: ports as u16, port: (ports >> 16) as u16, vip: self.vip }
    }

    fn address_and_ports(&self, frame: &[u8], address_at: usize) -> (Ipv4Addr, u32) {
        let word =
            |at: usize| frame.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u32::from_be_bytes);
        (Ipv4Addr::from_bits(word(address_at)), word(self.at.into()))
    }
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

impl FragmentId {
    /// Of a frame that was classified as a fragment to this VIP.
    pub fn of(frame: &[u8], vip: VipIndex) -> Option<FragmentId> {
        let packet = Ipv4::parse(frame).ok()?;
        let (protocol, identification) = (packet.protocol(), packet.identification());
        Some(FragmentId { client: packet.source(), vip, protocol, identification })
    }
}

/// The connection that an ICMP error is about, of a frame that was classified as one.
pub fn quoted_tuple(frame: &[u8], vip: VipIndex) -> Option<Tuple> {
    match Icmp::parse(&Ipv4::parse(frame).ok()?) {
        Ok(Icmp::TcpError(quoted)) => Some(Tuple {
            client: quoted.destination,
            client_port: quoted.destination_port,
            port: quoted.source_port,
            vip,
        }),
        _ => None,
    }
}

/// Classifies a frame from the wire, which [`common::segments`] does not know.
#[cold]
pub fn from_wire(frame: &[u8], facts: &Facts) -> Class {
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
fn not_for_a_vip(destination: Mac, facts: &Facts) -> Class {
    if facts.is_virtual(destination) {
        Class::Drop(DropReason::WrongAddress)
    } else if destination == facts.own_mac || destination.is_multicast() {
        Class::Other
    } else {
        Class::Drop(DropReason::NotForUs)
    }
}

fn arp_from_wire(frame: &[u8], destination: Mac, facts: &Facts) -> Class {
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

fn ipv4_from_wire(frame: &[u8], destination: Mac, facts: &Facts) -> Class {
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

fn to_a_vip(packet: &Ipv4<'_>, vip: VipIndex) -> Class {
    if packet.fragment_offset() != 0 {
        return Class::LaterFragment(vip);
    }
    match packet.protocol() {
        ipv4::TCP => match Segment::parse(packet) {
            Ok(segment) => Class::Tcp(Place::of(&segment, packet, vip)),
            Err(_) => Class::Drop(DropReason::BadTcp),
        },
        ipv4::ICMP if !packet.is_fragment() => icmp_to_a_vip(packet, vip),
        _ => Class::Drop(DropReason::ProtocolNotServed),
    }
}

fn icmp_to_a_vip(packet: &Ipv4<'_>, vip: VipIndex) -> Class {
    match Icmp::parse(packet) {
        Ok(Icmp::EchoRequest) => Class::Echo(vip),
        // Only about what this very address sent.
        Ok(Icmp::TcpError(quoted)) if quoted.source == packet.destination() => Class::IcmpError(vip),
        Ok(_) => Class::Drop(DropReason::IcmpNotOurs),
        Err(_) => Class::Drop(DropReason::BadIcmp),
    }
}

/// Classifies a frame from the host, which [`common::segments`] does not know.
#[cold]
pub fn from_host(frame: &[u8], facts: &Facts) -> Class {
    let Some(header) = Ethernet::parse(frame) else { return Class::Drop(DropReason::Runt) };
    match header.ethertype {
        ethernet::IPV4 => ipv4_from_host(frame, facts),
        ethernet::ARP => arp_from_host(frame, facts),
        _ => not_from_a_vip(facts),
    }
}

/// What the host sends under another address than a VIP's goes to the wire, unless the kernel has its own way there.
fn not_from_a_vip(facts: &Facts) -> Class {
    if facts.shared_wire { Class::Drop(DropReason::HostNoise) } else { Class::Other }
}

fn arp_from_host(frame: &[u8], facts: &Facts) -> Class {
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

fn ipv4_from_host(frame: &[u8], facts: &Facts) -> Class {
    let packet = match Ipv4::parse(frame) {
        Ok(packet) => packet,
        Err(error) => return Class::Drop(bad_ip(error, frame)),
    };
    let Some(vip) = facts.vip_of(packet.source()) else { return not_from_a_vip(facts) };
    if packet.protocol() != ipv4::TCP || packet.is_fragment() {
        return Class::Drop(DropReason::ProtocolNotServed);
    }
    match Segment::parse(&packet) {
        Ok(segment) => Class::Tcp(Place::of(&segment, &packet, vip)),
        Err(_) => Class::Drop(DropReason::BadTcp),
    }
}
