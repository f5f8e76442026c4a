//! The ownership rule, case by case, as packet scripts against one member.

mod common;

use std::time::Duration;

use baton::frame::build::timestamps_option;
use baton::frame::ipv4::Ipv4;
use baton::frame::tcp::{Checksum, Segment};
use baton::shared::Notice;
use baton::table::{LIFETIME, RECORDS_PER_TUPLE, Tuple};
use baton::verdict::DropReason;
use common::*;

const TUPLE: Tuple = Tuple { client: std::net::Ipv4Addr::new(10, 0, 0, 1), client_port: 40_000, port: 80, vip: 0 };

fn ended(lab: &Lab) -> Option<Notice> {
    lab.member.shared.notices.pop()
}

#[test]
fn a_handshake_with_us_becomes_a_connection() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.client_with(ACK, 101, 5001, &[], b"GET /").to_host();
    lab.server(ACK, 5001, 106).to_wire();
}

#[test]
fn sequence_numbers_wrap_around() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(u32::MAX, u32::MAX);
    lab.client(ACK, 0, 0).to_host();
}

#[test]
fn a_passive_drops_every_syn_and_serves_what_it_has() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.role(PASSIVE);
    lab.client(ACK, 101, 5001).to_host();
    let other = baton::frame::build::TcpFrame {
        to: VMAC,
        source: ([10, 0, 0, 1].into(), 40_001),
        flags: SYN,
        ..Default::default()
    };
    lab.wire(&baton::frame::build::tcp_frame(&other)).dropped(DropReason::SynPassive);
    lab.client(SYN, 9_000_000, 0).dropped(DropReason::SynPassive);
    lab.client(SYN | ACK, 101, 5001).dropped(DropReason::SynPassive);
}

#[test]
fn the_client_acknowledges_another_members_syn_ack() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(ACK, 101, 7001).cleared(DropReason::LostRace, 101);
    // Later SYN-ACKs of the loser never reach the wire, and the client's challenge ACK not its kernel.
    lab.server(SYN | ACK, 5000, 101).cleared(DropReason::LostRace, 101);
    lab.client(ACK, 101, 7001).dropped(DropReason::LostRace);
    lab.server(RST, 7001, 0).dropped(DropReason::StrayReset);
    assert_eq!(lab.member.established.len(), 0);
}

#[test]
fn the_client_acknowledges_another_before_our_host_has_answered() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.client(ACK, 101, 7001).cleared(DropReason::LostRace, 101);
    lab.server(SYN | ACK, 5000, 101).cleared(DropReason::LostRace, 101);
}

#[test]
fn data_is_the_first_thing_that_acknowledges() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    // The final ACK and the first segment of data were lost.
    lab.client_with(ACK, 101 + 1460, 5001, &[], b"second segment").to_host();
    assert_eq!(lab.member.established.len(), 1);
}

#[test]
fn a_segment_outside_the_clients_window_decides_nothing() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    for seq in [100, 99, 101 + 65_536, 2_000_000_000] {
        lab.client(ACK, seq, 7001).dropped(DropReason::NoConnection);
    }
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn a_segment_with_a_wrong_checksum_decides_nothing() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    let mut frame = baton::frame::build::tcp_frame(&baton::frame::build::TcpFrame {
        to: VMAC,
        seq: 101,
        ack: 7001,
        ..Default::default()
    });
    frame[42] ^= 1;
    lab.wire(&frame).dropped(DropReason::BadChecksum);
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn every_isn_that_our_host_used_counts() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    // A SYN retransmitted: the host's request socket was re-created, or it has turned to cookies.
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 6000, 101).to_wire();
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn equal_isns_are_told_apart_by_timestamps() {
    for (echo, ours) in [(1234, true), (999, false)] {
        let mut lab = Lab::new(ACTIVE);
        lab.client_with(SYN, 100, 0, &timestamps_option(1, 0), &[]).to_host();
        lab.server_with(SYN | ACK, 5000, 101, &timestamps_option(1234, 1)).to_wire();
        let out = lab.client_with(ACK, 101, 5001, &timestamps_option(2, echo), &[]);
        if ours {
            out.to_host();
        } else {
            out.cleared(DropReason::LostRace, 101);
        }
    }
}

#[test]
fn a_syn_retransmitted_across_a_flip_is_answered_by_the_new_active() {
    let mut lab = Lab::new(PASSIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    lab.role(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn an_old_copy_of_a_syn_that_another_member_has_won_is_not_answered() {
    let mut lab = Lab::new(PASSIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    lab.client(ACK, 101, 7001).dropped(DropReason::NoConnection);
    lab.role(ACTIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::LostRace);
}

#[test]
fn a_reset_before_the_handshake_is_confirmed_counts_at_one_number_only() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    for seq in [100, 102, 5001, 0] {
        lab.client(RST, seq, 0).dropped(DropReason::ResetOutOfWindow);
    }
    lab.client(RST, 101, 0).to_host();
    assert_eq!(lab.member.established.len(), 0);
    lab.client(ACK, 101, 5001).dropped(DropReason::LostRace);
}

#[test]
fn a_reset_to_an_old_ack_from_a_time_wait_elsewhere_does_not_end_the_new_handshake() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    // Another member's TIME_WAIT answered the SYN with an old ACK; the client's RST has that ACK's number.
    lab.client(RST, 77_777, 0).dropped(DropReason::ResetOutOfWindow);
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn a_syn_on_an_established_entry_alters_nothing_and_goes_to_the_host() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.client(SYN, 900, 0).to_host();
    // The host's challenge ACK may leave: the connection is ours.
    lab.server(ACK, 5001, 101).to_wire();
    lab.client_with(ACK, 101, 5001, &[], b"still here").to_host();
    assert_eq!(lab.member.established.len(), 1);
}

#[test]
fn a_reused_port_opens_a_new_connection_beside_the_old_one_here() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.client(SYN, 900_000, 0).to_host();
    lab.server(SYN | ACK, 8000, 900_001).to_wire();
    lab.client(ACK, 900_001, 8001).to_host();
    assert_eq!(lab.member.established.len(), 1);
    lab.client_with(ACK, 900_001, 8001, &[], b"new").to_host();
    assert_eq!(ended(&lab), None);
}

#[test]
fn a_port_reused_on_another_member_ends_the_old_entry_and_its_socket() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.role(PASSIVE);
    lab.client(SYN, 900_000, 0).dropped(DropReason::SynPassive);
    // Segments of the old connection still pass.
    lab.client_with(ACK, 101, 5001, &[], b"old").to_host();
    lab.client(ACK, 900_001, 7001).dropped(DropReason::TakenOver);
    assert_eq!(ended(&lab), Some(Notice::EndSocket(TUPLE)));
    assert_eq!(lab.member.established.len(), 0);
    // Whatever the old socket says as it ends stays here, and so does the new connection's traffic.
    lab.server(RST | ACK, 5001, 106).dropped(DropReason::StrayReset);
    lab.server(ACK, 5001, 106).dropped(DropReason::NoConnection);
    lab.client_with(ACK, 900_001, 7001, &[], b"new").dropped(DropReason::NoConnection);
}

#[test]
fn a_port_reused_and_won_elsewhere_although_we_answered_too() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.client(SYN, 900_000, 0).to_host();
    lab.server(SYN | ACK, 8000, 900_001).to_wire();
    lab.client(ACK, 900_001, 7001).dropped(DropReason::TakenOver);
    assert_eq!(ended(&lab), Some(Notice::EndSocket(TUPLE)));
    lab.server(SYN | ACK, 8000, 900_001).cleared(DropReason::LostRace, 900_001);
}

#[test]
fn a_stale_entry_resets_no_connection_that_another_member_may_have_begun() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.role(PASSIVE);
    lab.client(SYN, 900_000, 0).dropped(DropReason::SynPassive);
    // The new connection's first segment was lost on its way here; the host has no socket any more.
    lab.client_with(ACK, 900_011, 7001, &[], b"second segment").to_host();
    lab.server(RST, 7001, 0).dropped(DropReason::StrayReset);
    // A socket that its application ends says so all the same.
    lab.server(RST | ACK, 5001, 101).to_wire();
}

#[test]
fn a_service_that_is_gone_refuses_a_reused_port_only_where_nobody_else_may_accept() {
    for may_refuse in [true, false] {
        let mut lab = Lab::new(baton::shared::Role { may_refuse, ..ACTIVE });
        lab.connect(100, 5000);
        lab.client(SYN, 900_000, 0).to_host();
        let out = lab.server(RST | ACK, 0, 900_001);
        if may_refuse {
            out.to_wire();
        } else {
            out.dropped(DropReason::RefusalHeld);
        }
    }
}

#[test]
fn a_time_wait_that_is_gone_resets_nobody() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    let hash = lab.member.established.hash(&TUPLE);
    let mut entry = lab.member.established.find(&TUPLE, hash).unwrap();
    assert!(lab.member.established.set_state(&mut entry, baton::table::State::TimeWait));
    // The TIME_WAIT may answer, and its successor's client may be somebody else's: its SYN never came here.
    lab.server(ACK, 5001, 101).to_wire();
    lab.client(ACK, 900_001, 7001).to_host();
    lab.server(RST, 7001, 0).dropped(DropReason::StrayReset);
    assert_eq!(lab.member.established.len(), 0);
    lab.client(ACK, 900_001, 7001).dropped(DropReason::NoConnection);
}

#[test]
fn a_reset_of_an_attempt_on_another_member_spares_the_old_connection() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.role(PASSIVE);
    lab.client(SYN, 900_000, 0).dropped(DropReason::SynPassive);
    lab.client(RST, 900_001, 0).dropped(DropReason::NoConnection);
    lab.client_with(ACK, 101, 5001, &[], b"old").to_host();
    lab.client(RST, 105, 0).to_host();
}

#[test]
fn a_half_open_socket_of_an_earlier_attempt_is_cleared_by_the_client() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    // The client began anew; the host's half-open socket answers where it stands (tcp_check_req).
    lab.client(SYN, 900_000, 0).to_host();
    lab.server(ACK, 5001, 101).to_wire();
    lab.client(RST, 101, 0).to_host();
    lab.client(SYN, 900_000, 0).to_host();
    lab.server(SYN | ACK, 6000, 900_001).to_wire();
    lab.client(ACK, 900_001, 6001).to_host();
}

#[test]
fn a_half_open_socket_of_an_earlier_attempt_is_cleared_when_another_member_wins_the_later() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(SYN, 900_000, 0).to_host();
    // The host has nothing of the second SYN: its half-open socket is of the first.
    lab.client(ACK, 900_001, 7001).cleared(DropReason::LostRace, 101);
    lab.server(ACK, 5001, 101).dropped(DropReason::NoConnection);
    // Its next SYN-ACK says that the RST did not reach it.
    lab.server(SYN | ACK, 5000, 101).cleared(DropReason::LostRace, 101);
}

#[test]
fn a_spoofed_syn_makes_the_client_echo_another_timestamp_of_our_half_open_socket() {
    let mut lab = Lab::new(ACTIVE);
    lab.client_with(SYN, 100, 0, &timestamps_option(1, 0), &[]).to_host();
    lab.server_with(SYN | ACK, 5000, 101, &timestamps_option(1234, 1)).to_wire();
    lab.client(SYN, 900_000, 0).to_host();
    lab.server_with(ACK, 5001, 101, &timestamps_option(1240, 1)).to_wire();
    lab.client_with(ACK, 101, 5001, &timestamps_option(8, 1240), &[]).to_host();
    lab.server(ACK, 5001, 101).to_wire();
}

#[test]
fn of_two_attempts_in_one_window_the_nearer_is_meant() {
    for earlier in [100, 9_000] {
        let mut lab = Lab::new(ACTIVE);
        lab.client(SYN, earlier, 0).to_host();
        lab.client(RST, earlier + 1, 0).to_host();
        lab.client(SYN, 10_000, 0).to_host();
        // The host has not answered yet, and another member has.
        lab.client(ACK, 10_001, 7001).cleared(DropReason::LostRace, 10_001);
        lab.server(RST | ACK, 0, 10_001).dropped(DropReason::StrayReset);
        lab.server(SYN | ACK, 6000, 10_001).cleared(DropReason::LostRace, 10_001);
    }
}

#[test]
fn a_half_open_socket_whose_record_made_way_is_cleared() {
    let mut lab = Lab::new(ACTIVE);
    // A spoofer knows the tuple, and the host answers the first of its SYNs after the others have come.
    let spoofed = 1..=RECORDS_PER_TUPLE as u32;
    for number in spoofed {
        lab.client(SYN, number * 100_000, 0).to_host();
    }
    lab.client(SYN, 900_000, 0).to_host();
    lab.server(SYN | ACK, 5000, 100_001).cleared(DropReason::NoConnection, 100_001);
    lab.client(SYN, 900_000, 0).to_host();
    lab.server(SYN | ACK, 6000, 900_001).to_wire();
    lab.client(ACK, 900_001, 6001).to_host();
}

/// A client that has had its port on other members lately begins anew, and a spoofer knows its tuple.
#[test]
fn what_was_decided_long_ago_makes_way_before_an_attempt_that_nobody_has_answered() {
    for (later, dropped) in
        [(Duration::from_secs(1), None), (Duration::from_millis(999), Some(DropReason::NoConnection))]
    {
        let mut lab = Lab::new(PASSIVE);
        for attempt in 1..RECORDS_PER_TUPLE as u32 {
            lab.client(SYN, attempt * 100_000, 0).dropped(DropReason::SynPassive);
            lab.client(ACK, attempt * 100_000 + 1, 7001).dropped(DropReason::NoConnection);
        }
        lab.now += later;
        lab.role(ACTIVE);
        lab.client(SYN, 900_000, 0).to_host();
        lab.client(SYN, 2_000_000, 0).to_host();
        // Only now does the host answer the client. What was decided just now stays: copies of it may be on their way.
        let out = lab.server(SYN | ACK, 6000, 900_001);
        match dropped {
            None => drop(out.to_wire()),
            Some(reason) => out.cleared(reason, 900_001),
        };
    }
}

#[test]
fn an_open_connection_whose_record_made_way_is_left_alone() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.now += LIFETIME + std::time::Duration::from_millis(1);
    // The accept queue was full: the host still waits for the last ACK.
    lab.server(SYN | ACK, 5000, 101).dropped(DropReason::NoConnection);
}

#[test]
fn after_its_own_reset_the_host_resets_nobody() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    // The client vanished long ago and began anew on another member, by a SYN that a restart has made us forget. It answers
    // the RST, of which it knows nothing, by an acknowledgment of its own connection (RFC 5961, 3.2).
    lab.server(RST | ACK, 5001, 101).to_wire();
    assert_eq!(ended(&lab), Some(Notice::MayHaveEnded(TUPLE)));
    lab.client(ACK, 900_001, 7001).to_host();
    lab.server(RST, 7001, 0).dropped(DropReason::StrayReset);
    assert_eq!(lab.member.established.len(), 0);
}

#[test]
fn after_a_clients_reset_what_the_host_takes_for_a_stray_stays_here() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    // The client begins anew on another member, by a SYN that never came here.
    lab.client(RST, 101, 0).to_host();
    lab.client(ACK, 900_001, 7001).to_host();
    lab.server(RST, 7001, 0).dropped(DropReason::StrayReset);
    assert_eq!(lab.member.established.len(), 0);
}

#[test]
fn half_close_and_simultaneous_close_pass() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.client(FIN | ACK, 101, 5001).to_host();
    lab.server(FIN | ACK, 5001, 101).to_wire();
    lab.server(ACK, 5002, 102).to_wire();
    lab.client(ACK, 102, 5002).to_host();
}

#[test]
fn accept_queue_overflow_is_the_hosts_to_repeat() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    // The host dropped the final ACK, and repeats its SYN-ACK; the client's answer passes again.
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn a_refusal_leaves_only_where_nobody_else_may_accept() {
    for may_refuse in [true, false] {
        let mut lab = Lab::new(baton::shared::Role { may_refuse, ..ACTIVE });
        lab.client(SYN, 100, 0).to_host();
        let out = lab.server(RST | ACK, 0, 101);
        if may_refuse {
            out.to_wire();
        } else {
            out.dropped(DropReason::RefusalHeld);
        }
    }
}

#[test]
fn a_client_that_has_not_heard_a_refusal_is_answered_again() {
    let mut lab = Lab::new(baton::shared::Role { may_refuse: true, ..ACTIVE });
    lab.client(SYN, 100, 0).to_host();
    lab.server(RST | ACK, 0, 101).to_wire();
    lab.client(SYN, 100, 0).to_host();
    lab.server(RST | ACK, 0, 101).to_wire();
    // The service is back.
    lab.client(SYN, 100, 0).to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn a_stray_segment_of_the_host_never_leaves() {
    let mut lab = Lab::new(ACTIVE);
    lab.server(RST, 1, 0).dropped(DropReason::StrayReset);
    lab.server(RST | ACK, 1, 1).dropped(DropReason::StrayReset);
    lab.server(ACK, 1, 1).dropped(DropReason::NoConnection);
    lab.server(FIN | ACK, 1, 1).dropped(DropReason::NoConnection);
    lab.server(SYN, 1, 0).dropped(DropReason::NoConnection);
    lab.server(SYN | ACK, 1, 1).cleared(DropReason::NoConnection, 1);
}

#[test]
fn spoofed_segments_without_a_connection_never_reach_the_host() {
    let mut lab = Lab::new(ACTIVE);
    lab.client(ACK, 1, 1).dropped(DropReason::NoConnection);
    lab.client(RST, 1, 0).dropped(DropReason::NoConnection);
    lab.client(SYN | ACK, 1, 1).dropped(DropReason::NoConnection);
    lab.client(SYN | FIN, 1, 0).dropped(DropReason::BadTcp);
    lab.client(SYN | RST, 1, 0).dropped(DropReason::BadTcp);
    lab.client(0, 1, 0).dropped(DropReason::NoConnection);
    lab.client(FIN, 1, 0).dropped(DropReason::NoConnection);
}

#[test]
fn a_port_that_is_not_served_is_refused_by_the_primary_alone() {
    let mut lab = Lab::with(ACTIVE, &[443], true);
    let out = lab.client(SYN, 100, 0);
    let frame = out.to_wire();
    let segment = Segment::parse(&Ipv4::parse(frame).unwrap()).unwrap();
    assert_eq!((segment.flags().0, segment.seq(), segment.ack()), (RST | ACK, 0, 101));
    assert_eq!(segment.checksum(), Checksum::Right);
    assert_eq!(frame[..6], CLIENT.0);
    lab.role(PASSIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::PortNotServed);
    lab.role(baton::shared::Role { rank: 1, ..ACTIVE });
    lab.client(SYN, 100, 0).dropped(DropReason::PortNotServed);
}

#[test]
fn a_full_table_refuses_the_newcomer_and_counts_it() {
    let mut lab = Lab::new(ACTIVE);
    let mut filled = 0u32;
    while lab.member.established.len() < 1024 {
        let tuple = Tuple { client: (0x0b00_0000 + filled).into(), ..TUPLE };
        let hash = lab.member.established.hash(&tuple);
        lab.member.established.insert(&tuple, hash, baton::table::State::Live, lab.now).unwrap();
        filled += 1;
    }
    assert_eq!(filled, 1024);
    lab.client(SYN, 100, 0).dropped(DropReason::TableFull);
}

#[test]
fn fast_open_data_waits_for_the_handshake() {
    let mut lab = Lab::new(ACTIVE);
    let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    let out = lab.client_with(SYN, 100, 0, &cookie, b"early");
    let segment_bytes = &out.to_host()[34..];
    assert_eq!(segment_bytes[20..32], [1; 12]);
    let segment = Segment::parse(&Ipv4::parse(out.to_host()).unwrap()).unwrap();
    assert_eq!(segment.checksum(), Checksum::Right);
}
