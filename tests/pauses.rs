//! A worker that was off its core: what has waited meanwhile, and who waits until it is read.

mod common;

use std::slice;
use std::time::Duration;

use baton::frame::build::{TcpFrame, tcp_frame};
use baton::port::BURST;
use baton::port::memory::MemoryBuffer;
use baton::verdict::DropReason;
use baton::worker::{LONG_PAUSE, PAUSE};
use common::*;

#[test]
fn what_waited_through_a_long_pause_is_not_accepted() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    let syn = |port| {
        let source = ([10, 0, 0, 1].into(), port);
        tcp_frame(&TcpFrame { to: VMAC, source, flags: SYN, ..TcpFrame::default() })
    };
    // More than a burst has waited; among it is a segment of a connection that lives.
    let waited = 100;
    for port in 1..waited {
        lab.worker.wire.arrived.push_back(MemoryBuffer::new(&syn(port)));
    }
    lab.worker.was_away(LONG_PAUSE);
    let first = lab.client(ACK, 101, 5001);
    assert_eq!((first.drops.len(), first.to_host.len()), (BURST, 0));
    let rest = lab.wire(&syn(waited));
    assert_eq!(rest.drops, [DropReason::SynPassive; 100 - BURST]);
    assert_eq!(rest.to_host.len(), 1, "what was established is served");
    lab.wire(&syn(waited + 1)).to_host();
}

/// Frames that fill bursts: SYNs of other ports, of which `count` come before the last.
fn backlog(count: u16, last: Vec<u8>) -> Vec<Vec<u8>> {
    let others = (1..=count).map(|port| client_frame(port, SYN, 100, 0, &[]));
    others.chain([last]).collect()
}

/// A member that was off its core finds a SYN and the client's answer to another member, bursts apart.
#[test]
fn the_host_waits_until_what_came_in_a_pause_is_read() {
    let mut lab = Lab::new(ACTIVE);
    let wire: Vec<_> = [client_frame(40_000, SYN, 100, 0, &[])]
        .into_iter()
        .chain(backlog(2 * BURST as u16, client_frame(40_000, ACK, 101, 7001, &[])))
        .collect();
    lab.worker.was_away(PAUSE);
    let answer = host_frame(40_000, SYN | ACK, 5000, 101, &[]);
    for turn in 0..2 {
        let out =
            lab.burst(if turn == 0 { &wire } else { &[] }, if turn == 0 { slice::from_ref(&answer) } else { &[] });
        assert_eq!((out.to_host.len(), out.to_wire.len()), (BURST, 0));
    }
    let last = lab.idle();
    assert_eq!(last.drops, [DropReason::LostRace; 2], "the client's answer to another, and ours after it");
    assert_eq!(last.to_wire.len(), 0);
    lab.server(SYN | ACK, 5000, 101).cleared(DropReason::LostRace, 101);
}

/// The same, where the pause comes in the middle of a turn: after the burst from the wire, before the host's answer goes out.
#[test]
fn a_pause_within_a_turn_is_seen_before_the_host_is_heard() {
    for (away, answers) in [(PAUSE, 0), (PAUSE - Duration::from_millis(1), 1)] {
        let mut lab = Lab::new(ACTIVE);
        lab.client(SYN, 100, 0).to_host();
        let wire = backlog(2 * BURST as u16, client_frame(40_000, ACK, 101, 7001, &[]));
        lab.worker.wire.arrived.extend(wire.iter().map(|frame| MemoryBuffer::new(frame)));
        lab.worker.host.arrived.push_back(MemoryBuffer::new(&host_frame(40_000, SYN | ACK, 5000, 101, &[])));
        let now = lab.now;
        lab.worker.turn_by(now, || now + away);
        assert_eq!(lab.worker.wire.sent.len(), answers, "{away:?}");
    }
}

/// A flood that never lets the wire's queue run empty does not keep the host waiting for ever.
#[test]
fn the_host_waits_for_a_bounded_time() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.worker.was_away(PAUSE);
    lab.worker.host.arrived.push_back(MemoryBuffer::new(&host_frame(40_000, ACK, 5001, 101, b"data")));
    let strangers = backlog(BURST as u16, client_frame(50_000, ACK, 1, 1, &[]));
    let turns = (1..1000).find(|_| lab.burst(&strangers, &[]).to_wire.len() == 1);
    assert_eq!(turns, Some(64));
}

/// What the host has answered to the SYNs of a pause is gone again soon, though ever more comes: else its queue would stay as long.
#[test]
fn the_host_gets_back_the_turns_that_it_has_waited() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    let waited = vec![host_frame(40_000, ACK, 5001, 101, b"data"); 9 * BURST];
    lab.worker.host.arrived.extend(waited.iter().map(|frame| MemoryBuffer::new(frame)));
    let strangers = |count| vec![client_frame(50_000, ACK, 1, 1, &[]); count];
    lab.worker.was_away(PAUSE);
    let sent = [BURST, BURST, BURST - 1, BURST, BURST, BURST, BURST, BURST, BURST]
        .map(|from_wire| lab.burst(&strangers(from_wire), &[]).to_wire.len() / BURST);
    assert_eq!(sent, [0, 0, 2, 2, 2, 1, 1, 1, 0]);
    // What it has waited through does not count any more once it has nothing to say.
    lab.worker.was_away(PAUSE);
    lab.burst(&strangers(BURST), &[]);
    lab.idle();
    assert_eq!(lab.burst(&[], &waited).to_wire.len(), BURST);
}

/// A flood that is more than the host can be heard of: SYNs whose answers would find its queue full are not handed to it, and what it has
/// goes on.
#[test]
fn the_host_gets_no_more_syns_than_its_queue_has_room_for_answers() {
    let mut lab = Lab::new(ACTIVE);
    lab.connect(100, 5000);
    lab.worker
        .host
        .arrived
        .extend((0..4 * BURST).map(|_| MemoryBuffer::new(&host_frame(40_000, ACK, 5001, 101, b"data"))));
    let mut port = 0;
    let mut turn = |lab: &mut Lab, away| {
        lab.worker.was_away(away);
        let syns = (1..BURST).map(|_| {
            port += 1;
            client_frame(port, SYN, 100, 0, &[])
        });
        let out = lab.burst(&syns.chain([client_frame(40_000, ACK, 101, 5001, b"data")]).collect::<Vec<_>>(), &[]);
        assert!(out.drops.iter().all(|reason| *reason == DropReason::HostBusy));
        assert!(!out.to_host.is_empty(), "what it has goes on");
        (out.to_host.len() - 1, out.to_wire.len())
    };
    // Away again each turn, so it is never heard.
    let handed: usize = (0..100).map(|_| turn(&mut lab, PAUSE).0).sum();
    assert_eq!(handed, 4096);
    // Two bursts are heard, for which it may have half as many SYNs.
    assert_eq!(lab.idle().to_wire.len(), 2 * BURST);
    let mut few = |lab: &mut Lab| [turn(lab, PAUSE), turn(lab, PAUSE)].map(|(handed, _)| handed);
    assert_eq!(few(&mut lab), [BURST - 1, 1]);
    // It has nothing more to say: it has room again.
    lab.worker.host.arrived.clear();
    lab.idle();
    let handed: usize = (0..65).map(|_| turn(&mut lab, Duration::ZERO).0).sum();
    assert_eq!(handed, 65 * (BURST - 1));
}

/// The heartbeat of who has taken over may have come in the pause.
#[test]
fn after_a_pause_a_refusal_waits_until_the_control_thread_has_looked() {
    let mut lab = Lab::new(baton::shared::Role { may_refuse: true, ..ACTIVE });
    lab.client(SYN, 100, 0).to_host();
    let shared = std::sync::Arc::clone(&lab.member.shared);
    shared.looks.begin();
    lab.worker.was_away(PAUSE);
    lab.server(RST | ACK, 0, 101).dropped(DropReason::RefusalHeld);
    // A look that was under way may have missed what this worker has read.
    shared.looks.end();
    lab.server(RST | ACK, 0, 101).dropped(DropReason::RefusalHeld);
    shared.looks.begin();
    lab.server(RST | ACK, 0, 101).dropped(DropReason::RefusalHeld);
    shared.looks.end();
    lab.server(RST | ACK, 0, 101).to_wire();
    lab.worker.was_away(PAUSE - Duration::from_millis(1));
    lab.client(SYN, 100, 0).to_host();
    lab.server(RST | ACK, 0, 101).to_wire();
}

/// The same, where the pause comes in the middle of a turn.
#[test]
fn a_pause_within_a_turn_holds_a_refusal() {
    for (away, refusals) in [(PAUSE, 0), (PAUSE - Duration::from_millis(1), 1)] {
        let mut lab = Lab::new(baton::shared::Role { may_refuse: true, ..ACTIVE });
        lab.client(SYN, 100, 0).to_host();
        lab.worker.host.arrived.push_back(MemoryBuffer::new(&host_frame(40_000, RST | ACK, 0, 101, &[])));
        let now = lab.now;
        lab.worker.turn_by(now, || now + away);
        assert_eq!(lab.worker.wire.sent.len(), refusals, "{away:?}");
    }
}
