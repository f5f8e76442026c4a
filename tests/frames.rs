//! What happens to each kind of frame, both ways, against DESIGN's table.

mod common;

use baton::frame::arp::{Arp, Operation};
use baton::frame::build::{TcpFrame, fragments, tcp_frame};
use baton::frame::ethernet::{set_destination, set_source};
use baton::frame::{Mac, checksum, ipv4};
use baton::verdict::DropReason;
use common::*;

fn arp(operation: u8, from: Mac, spa: [u8; 4], to: Mac, tpa: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0; 42];
    set_destination(&mut frame, to);
    set_source(&mut frame, from);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame[22..28].copy_from_slice(&from.0);
    frame[28..32].copy_from_slice(&spa);
    frame[38..42].copy_from_slice(&tpa);
    frame
}

fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(body);
    let sum = checksum::finish(checksum::sum(&message, 0));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0; 34];
    set_destination(&mut frame, VMAC);
    set_source(&mut frame, CLIENT);
    frame[12..14].copy_from_slice(&[8, 0]);
    ipv4::write_header(&mut frame, ipv4::ICMP, [10, 0, 0, 1].into(), [10, 0, 0, 100].into(), message.len() as u16);
    frame.extend(message);
    frame
}

const VIP: [u8; 4] = [10, 0, 0, 100];
const PEER: [u8; 4] = [10, 0, 0, 1];

#[test]
fn every_member_answers_arp_with_the_virtual_mac_inside() {
    let request = arp(1, CLIENT, PEER, Mac::BROADCAST, VIP);
    for role in [ACTIVE, PASSIVE] {
        let out = Lab::new(role).wire(&request);
        let reply = Arp::parse(out.to_wire()).unwrap();
        assert_eq!((reply.operation, reply.sha, reply.spa), (Operation::Reply, VMAC, VIP.into()));
    }
}

#[test]
fn arp_replies_to_the_virtual_mac_reach_every_host() {
    for role in [ACTIVE, PASSIVE] {
        let mut lab = Lab::new(role);
        let out = lab.wire(&arp(2, CLIENT, PEER, VMAC, VIP));
        assert_eq!(out.to_host()[..6], OWN.0);
    }
}

#[test]
fn a_claim_to_our_address_confuses_nobody() {
    let mut lab = Lab::new(ACTIVE);
    lab.wire(&arp(1, CLIENT, VIP, Mac::BROADCAST, VIP)).dropped(DropReason::GratuitousArp);
    lab.wire(&arp(2, CLIENT, VIP, Mac::BROADCAST, PEER)).dropped(DropReason::GratuitousArp);
}

#[test]
fn the_hosts_arp_says_the_virtual_mac_and_never_announces_it() {
    let mut lab = Lab::new(PASSIVE);
    let out = lab.host(&arp(1, OWN, VIP, Mac::BROADCAST, PEER));
    assert_eq!(Arp::parse(out.to_wire()).unwrap().sha, VMAC);
    lab.host(&arp(1, OWN, VIP, Mac::BROADCAST, VIP)).dropped(DropReason::GratuitousArp);
    lab.host(&arp(1, OWN, [0; 4], Mac::BROADCAST, VIP)).dropped(DropReason::GratuitousArp);
    lab.host(&arp(2, OWN, VIP, CLIENT, PEER)).dropped(DropReason::ArpFromHost);
}

#[test]
fn echo_is_answered_once_by_the_primary() {
    let request = icmp(8, b"payload");
    let mut lab = Lab::new(ACTIVE);
    assert_eq!(lab.wire(&request).to_wire()[34], 0);
    lab.role(baton::shared::Role { rank: 1, ..ACTIVE });
    lab.wire(&request).dropped(DropReason::EchoPassive);
    lab.role(PASSIVE);
    lab.wire(&request).dropped(DropReason::EchoPassive);
}

#[test]
fn an_icmp_error_goes_to_the_host_that_has_the_connection() {
    let ours =
        tcp_frame(&TcpFrame { source: (VIP.into(), 80), destination: (PEER.into(), 40_000), ..TcpFrame::default() });
    let error = icmp(3, &ours[14..14 + 28]);
    Lab::new(PASSIVE).wire(&error).dropped(DropReason::IcmpNotOurs);
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.role(PASSIVE);
    lab.wire(&error).to_host();
    // About somebody else's packet, or a message that nobody waits for.
    let foreign = tcp_frame(&TcpFrame { source: ([9, 9, 9, 9].into(), 80), ..TcpFrame::default() });
    lab.wire(&icmp(3, &foreign[14..14 + 28])).dropped(DropReason::IcmpNotOurs);
    lab.wire(&icmp(13, &[0; 12])).dropped(DropReason::IcmpNotOurs);
    lab.wire(&icmp(3, &ours[14..14 + 10])).dropped(DropReason::BadIcmp);
}

#[test]
fn fragments_follow_their_first() {
    let whole = tcp_frame(&TcpFrame { to: VMAC, seq: 101, ack: 5001, data: &[7; 600], ..TcpFrame::default() });
    let (first, later) = fragments(&whole, 77, 320).unwrap();
    let mut lab = Lab::new(ACTIVE);
    lab.wire(&first).dropped(DropReason::NoConnection);
    lab.wire(&later).dropped(DropReason::Fragment);
    lab.connect(100, 5000);
    lab.wire(&later).dropped(DropReason::Fragment);
    lab.wire(&first).to_host();
    lab.wire(&later).to_host();
}

#[test]
fn a_fragment_decides_no_handshake() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    let whole = tcp_frame(&TcpFrame { to: VMAC, seq: 101, ack: 7001, data: &[7; 600], ..TcpFrame::default() });
    let (first, _) = fragments(&whole, 77, 320).unwrap();
    lab.wire(&first).dropped(DropReason::FragmentUndecided);
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn what_is_not_for_a_vip_goes_to_the_host_only_if_the_kernel_has_it_not() {
    let frame = |to: Mac| tcp_frame(&TcpFrame { to, destination: ([10, 0, 0, 11].into(), 22), ..TcpFrame::default() });
    let mut shared = Lab::new(ACTIVE);
    shared.wire(&frame(OWN)).dropped(DropReason::KernelHasIt);
    shared.wire(&frame(Mac::BROADCAST)).dropped(DropReason::KernelHasIt);
    shared.wire(&frame(CLIENT)).dropped(DropReason::NotForUs);
    shared.wire(&frame(VMAC)).dropped(DropReason::WrongAddress);
    let mut own = Lab::with(ACTIVE, &[], false);
    assert_eq!(own.wire(&frame(OWN)).to_host(), frame(OWN));
    assert_eq!(own.wire(&frame(Mac::BROADCAST)).to_host(), frame(Mac::BROADCAST));
    own.wire(&frame(CLIENT)).dropped(DropReason::NotForUs);
}

#[test]
fn a_vips_frame_to_another_mac_is_not_the_clusters() {
    let mut lab = Lab::new(ACTIVE);
    let frame = |to: Mac| tcp_frame(&TcpFrame { to, flags: SYN, ..TcpFrame::default() });
    lab.wire(&frame(OWN)).dropped(DropReason::WrongMac);
    lab.wire(&frame(CLIENT)).dropped(DropReason::NotForUs);
}

#[test]
fn what_this_machine_sent_is_not_received() {
    let mut lab = Lab::new(ACTIVE);
    lab.wire(&tcp_frame(&TcpFrame { to: VMAC, from: OWN, ..TcpFrame::default() })).dropped(DropReason::OwnFrame);
}

#[test]
fn other_protocols_are_dropped_by_name() {
    let mut lab = Lab::new(ACTIVE);
    let mut udp = tcp_frame(&TcpFrame { to: VMAC, ..TcpFrame::default() });
    ipv4::write_header(&mut udp, 17, PEER.into(), VIP.into(), 20);
    lab.wire(&udp).dropped(DropReason::ProtocolNotServed);
    let mut from_host = udp.clone();
    ipv4::write_header(&mut from_host, 17, VIP.into(), PEER.into(), 20);
    lab.host(&from_host).dropped(DropReason::ProtocolNotServed);
    let mut noise = udp;
    ipv4::write_header(&mut noise, 17, [10, 0, 0, 11].into(), PEER.into(), 20);
    lab.host(&noise).dropped(DropReason::HostNoise);
    Lab::with(ACTIVE, &[], false).host(&noise).to_wire();
}

#[test]
fn heartbeats_go_to_the_control_thread_until_its_inbox_is_full() {
    let mut lab = Lab::new(PASSIVE);
    let mut frame = vec![0xff; 100];
    frame[6..12].copy_from_slice(&CLIENT.0);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for _ in 0..lab.member.shared.inbox.capacity() {
        assert_eq!(lab.wire(&frame), Out::default());
    }
    lab.wire(&frame).dropped(DropReason::InboxFull);
    assert_eq!(lab.member.shared.inbox.pop().unwrap().bytes(), frame);
}

#[test]
fn heartbeats_of_ours_leave_through_the_wire() {
    let mut lab = Lab::new(PASSIVE);
    let frame = [9; 300];
    assert!(lab.member.shared.outbox.push(baton::shared::HeartbeatFrame::new(&frame).unwrap()).is_ok());
    lab.worker.turn_at(lab.now);
    assert_eq!(baton::port::Buffer::bytes(&lab.worker.wire.sent[0]), frame);
}

#[test]
fn malformed_frames_are_dropped_by_name() {
    let mut lab = Lab::new(ACTIVE);
    lab.wire(&[0; 13]).dropped(DropReason::Runt);
    lab.wire(&vec![0; 3000]).dropped(DropReason::Oversize);
    let good = tcp_frame(&TcpFrame { to: VMAC, flags: SYN, ..TcpFrame::default() });
    let altered = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    lab.wire(&altered(14, 0x44)).dropped(DropReason::BadIp);
    lab.wire(&altered(22, 99)).dropped(DropReason::BadIp);
    lab.wire(&altered(46, 0x10)).dropped(DropReason::BadTcp);
    lab.wire(&altered(50, 0x77)).dropped(DropReason::BadChecksum);
    let mut merged = good.clone();
    merged.resize(1600, 0);
    merged[16..18].copy_from_slice(&9000u16.to_be_bytes());
    lab.wire(&merged).dropped(DropReason::Oversize);
    let mut arp = arp(1, CLIENT, PEER, Mac::BROADCAST, VIP);
    arp[21] = 9;
    lab.wire(&arp).dropped(DropReason::BadArp);
}

#[test]
fn an_unfinished_checksum_has_a_name_of_its_own() {
    let mut lab = Lab::new(ACTIVE);
    let mut frame = tcp_frame(&TcpFrame { to: VMAC, flags: SYN, ..TcpFrame::default() });
    let pseudo = checksum::pseudo_header(PEER.into(), VIP.into(), ipv4::TCP, 20);
    frame[50..52].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    lab.wire(&frame).dropped(DropReason::UnfinishedChecksum);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.worker.host.room = Some(0);
    lab.client(ACK, 101, 5001).dropped(DropReason::HostFull);
    lab.worker.host.room = None;
    lab.worker.wire.room = Some(0);
    lab.server(ACK, 5001, 101).dropped(DropReason::WireFull);
}
