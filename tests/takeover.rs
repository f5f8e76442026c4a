//! SYNs kept for later, by a passive member or an active of a higher rank, and handshakes that a restart interrupts, as
//! packet scripts against one member.

mod common;

use std::time::Duration;

use baton::frame::build::timestamps_option;
use baton::shared::Role;
use baton::table::{HalfOpen, Tuple};
use baton::verdict::DropReason;
use common::*;

const SECOND: Role = Role { active: true, rank: 1, may_refuse: false };
const TUPLE: Tuple = Tuple { client: std::net::Ipv4Addr::new(10, 0, 0, 1), client_port: 40_000, port: 80, vip: 0 };

#[test]
fn who_becomes_active_answers_the_syns_that_nobody_has_answered() {
    let mut lab = Lab::new(PASSIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    lab.now += Duration::from_millis(35);
    lab.idle().nothing();
    lab.role(ACTIVE);
    let frame = lab.idle().to_host().to_vec();
    assert_eq!(frame[..6], OWN.0, "to the host's own MAC");
    lab.idle().nothing();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(ACK, 101, 5001).to_host();
    assert_eq!(lab.member.established.len(), 1);
}

#[test]
fn a_syn_that_was_answered_or_given_up_or_is_old_is_not_replayed() {
    // Another member's SYN-ACK was acknowledged; the client reset its attempt; the client will have repeated it.
    for case in ["answered", "reset", "old", "with data"] {
        let mut lab = Lab::new(PASSIVE);
        let data: &[u8] = if case == "with data" { b"GET /" } else { &[] };
        lab.client_with(SYN, 100, 0, &[], data).dropped(DropReason::SynPassive);
        match case {
            "answered" => lab.client(ACK, 101, 7001).dropped(DropReason::NoConnection),
            "reset" => lab.client(RST, 101, 0).dropped(DropReason::NoConnection),
            "old" => lab.now += KEEP_FOR + Duration::from_millis(1),
            _ => {}
        }
        lab.role(ACTIVE);
        lab.idle().nothing();
    }
}

#[test]
fn a_syn_that_came_twice_is_replayed_once() {
    let mut lab = Lab::new(PASSIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    lab.role(ACTIVE);
    lab.idle().to_host();
    lab.role(PASSIVE);
    lab.role(ACTIVE);
    lab.idle().nothing();
}

#[test]
fn a_replayed_syn_loses_against_an_answer_that_was_under_way() {
    let mut lab = Lab::new(PASSIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    lab.role(ACTIVE);
    lab.idle().to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(ACK, 101, 7001).cleared(DropReason::LostRace, 101);
}

#[test]
fn a_full_table_takes_no_replayed_syn() {
    let mut lab = Lab::new(PASSIVE);
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    for port in 1..=lab.member.established.capacity() as u16 {
        let tuple = Tuple { client_port: port, ..TUPLE };
        let hash = lab.member.established.hash(&tuple);
        lab.member.established.insert(&tuple, hash, baton::table::State::Live, lab.now).unwrap();
    }
    lab.role(ACTIVE);
    lab.idle().nothing();
}

#[test]
fn a_second_active_answers_what_the_first_has_left_unanswered() {
    let mut lab = Lab::new(SECOND);
    lab.client(SYN, 100, 0).dropped(DropReason::SynHedged);
    lab.now += HEDGE - Duration::from_micros(1);
    lab.idle().nothing();
    assert_eq!(lab.worker.due_in(lab.now), Some(Duration::from_micros(1)));
    lab.now += Duration::from_micros(1);
    lab.idle().to_host();
    lab.server(SYN | ACK, 5000, 101).to_wire();
    // Its retransmission goes to the host, which repeats its SYN-ACK.
    lab.client(SYN, 100, 0).to_host();
    lab.client(ACK, 101, 5001).to_host();
}

#[test]
fn a_second_active_is_silent_where_the_first_has_answered() {
    let mut lab = Lab::new(SECOND);
    lab.client(SYN, 100, 0).dropped(DropReason::SynHedged);
    lab.client(ACK, 101, 7001).dropped(DropReason::NoConnection);
    lab.now += HEDGE;
    lab.idle().nothing();
}

#[test]
fn a_second_active_that_becomes_the_first_waits_no_longer() {
    let mut lab = Lab::new(SECOND);
    lab.client(SYN, 100, 0).dropped(DropReason::SynHedged);
    lab.role(ACTIVE);
    lab.idle().to_host();
    let mut lab = Lab::new(SECOND);
    // Data on a SYN is not kept: it is answered at once.
    lab.client_with(SYN, 100, 0, &[], b"GET /").to_host();
}

#[test]
fn a_handshake_that_a_restart_interrupted_goes_on_when_the_host_repeats_itself() {
    let mut member = Lab::member(PASSIVE, &[], true, true);
    let now = Lab::START;
    member.half_open = HalfOpen::new(vec![TUPLE], now);
    let mut lab = Lab::of(member);
    // Whose this is nobody can tell yet.
    lab.client(ACK, 101, 5001).dropped(DropReason::NoConnection);
    lab.now += Duration::from_secs(1);
    lab.server(SYN | ACK, 5000, 101).to_wire();
    lab.client(ACK, 101, 5001).to_host();
    lab.server(ACK, 5001, 101).to_wire();
}

#[test]
fn the_client_of_an_interrupted_handshake_may_echo_what_was_sent_before_the_restart() {
    let mut member = Lab::member(PASSIVE, &[], true, true);
    member.half_open = HalfOpen::new(vec![TUPLE], Lab::START);
    let mut lab = Lab::of(member);
    lab.now += Duration::from_secs(1);
    lab.server_with(SYN | ACK, 5000, 101, &timestamps_option(2000, 7)).to_wire();
    // It has had the first SYN-ACK; to the second, a second later, it says so again.
    lab.client_with(ACK, 101, 5001, &timestamps_option(8, 1000), b"GET /").to_host();
    assert_eq!(lab.member.established.len(), 1);
}

#[test]
fn an_interrupted_handshake_that_another_member_wins_is_cleared() {
    let mut member = Lab::member(PASSIVE, &[], true, true);
    member.half_open = HalfOpen::new(vec![TUPLE], Lab::START);
    let mut lab = Lab::of(member);
    // The first SYN-ACK was lost, and now another member is active.
    lab.client(SYN, 100, 0).dropped(DropReason::SynPassive);
    lab.client(ACK, 101, 7001).cleared(DropReason::LostRace, 101);
    lab.server(SYN | ACK, 5000, 101).dropped(DropReason::NoConnection);
}

#[test]
fn a_syn_ack_of_a_handshake_that_nobody_knows_does_not_leave() {
    let mut member = Lab::member(PASSIVE, &[], true, true);
    member.half_open = HalfOpen::new(vec![Tuple { client_port: 1, ..TUPLE }], Lab::START);
    let mut lab = Lab::of(member);
    lab.server(SYN | ACK, 5000, 101).cleared(DropReason::NoConnection, 101);
    let mut member = Lab::member(PASSIVE, &[], true, true);
    member.half_open = HalfOpen::new(vec![TUPLE], Lab::START);
    let mut lab = Lab::of(member);
    lab.now += baton::table::LIFETIME;
    lab.server(SYN | ACK, 5000, 101).cleared(DropReason::NoConnection, 101);
}
