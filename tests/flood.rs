//! A flood of spoofed SYNs at 500,000 a second: what honest clients 100 ms away see of it, and what those who were
//! connected before do. From memory and on a clock of its own, so it is the same on every machine.

mod common;

use std::time::Duration;

use baton::config::checked::HugePages;
use baton::frame::build::{TcpFrame, tcp_frame};
use baton::port::memory::MemoryBuffer;
use baton::table::{Handshakes, State, Tuple};
use common::*;

/// Spoofed SYNs in a millisecond.
const SPOOFED: u32 = 500;

/// An honest client begins each millisecond.
const HONEST: u32 = 400;

/// Milliseconds from a SYN to the ACK that its client sends.
const ROUND_TRIP: u32 = 100;

const SERVER_ISN: u32 = 77;

fn from(client: u32, port: u16, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    tcp_frame(&TcpFrame { to: VMAC, source: (client.into(), port), flags, seq, ack, ..TcpFrame::default() })
}

fn syn_ack(client: u32, port: u16, ack: u32) -> Vec<u8> {
    tcp_frame(&TcpFrame {
        to: CLIENT,
        from: OWN,
        source: ([10, 0, 0, 100].into(), 80),
        destination: (client.into(), port),
        flags: SYN | ACK,
        seq: SERVER_ISN,
        ack,
        ..TcpFrame::default()
    })
}

/// Takes a turn or more until everything that arrived is done with, and forgets what was sent.
fn turns(lab: &mut Lab) {
    while !lab.worker.wire.arrived.is_empty() || !lab.worker.host.arrived.is_empty() {
        lab.worker.turn_at(lab.now);
        lab.worker.wire.sent.clear();
        lab.worker.host.sent.clear();
    }
}

#[test]
fn honest_handshakes_succeed_and_established_connections_stay() {
    let mut member = Lab::member(ACTIVE, &[], true, true);
    // As launched with the default of a million connections.
    member.handshakes = Handshakes::new(1 << 20, HugePages::Never).unwrap();
    let old = |number: u16| Tuple { client: [10, 0, 0, 2].into(), client_port: number, port: 80, vip: 0 };
    for number in 0..500 {
        let tuple = old(number);
        let hash = member.established.hash(&tuple);
        member.established.insert(&tuple, hash, State::Live, Lab::START).unwrap();
    }
    let mut lab = Lab::of(member);
    // Full of the flood's SYNs from the start.
    let mut spoofed = 0x2000_0000u32;
    let mut flood = |lab: &mut Lab, syns: u32| {
        for _ in 0..syns {
            spoofed = spoofed.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
            let frame = from(spoofed | 0x8000_0000, spoofed as u16, SYN, spoofed, 0);
            lab.worker.wire.arrived.push_back(MemoryBuffer::new(&frame));
        }
        turns(lab);
    };
    for _ in 0..3000 {
        flood(&mut lab, SPOOFED);
        lab.now += Duration::from_millis(1);
    }
    let honest = |number: u32| (0x0b00_0000 + number, 40_000, 1_000 * number);
    for millisecond in 0..HONEST + ROUND_TRIP {
        if millisecond < HONEST {
            let (client, port, isn) = honest(millisecond);
            lab.worker.wire.arrived.push_back(MemoryBuffer::new(&from(client, port, SYN, isn, 0)));
            turns(&mut lab);
            lab.worker.host.arrived.push_back(MemoryBuffer::new(&syn_ack(client, port, isn + 1)));
        }
        flood(&mut lab, SPOOFED);
        if let Some(number) = millisecond.checked_sub(ROUND_TRIP) {
            let (client, port, isn) = honest(number);
            let answer = from(client, port, ACK, isn + 1, SERVER_ISN + 1);
            lab.worker.wire.arrived.push_back(MemoryBuffer::new(&answer));
            turns(&mut lab);
        }
        lab.now += Duration::from_millis(1);
    }
    let is_there = |tuple: &Tuple| lab.member.established.find(tuple, lab.member.established.hash(tuple)).is_some();
    assert!((0..500).all(|number| is_there(&old(number))), "an established connection was lost");
    let succeeded = (0..HONEST).filter(|number| {
        let (client, client_port, _) = honest(*number);
        is_there(&Tuple { client: client.into(), client_port, port: 80, vip: 0 })
    });
    let succeeded = succeeded.count() as u32;
    assert!(succeeded * 100 >= HONEST * 99, "{succeeded} of {HONEST}");
}
