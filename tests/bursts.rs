//! Frames that come together fare as frames that come one by one: the stages of a burst are a matter of speed alone.

#![allow(clippy::unwrap_used)]

mod common;

use baton::shared::{Notice, Role};
use baton::table::{HalfOpen, Tuple};
use baton::verdict::DropReason;
use common::{ACK, ACTIVE, FIN, Lab, PASSIVE, RST, SYN};
use proptest::prelude::*;

/// What arrives: from a client of one of three ports, or from the host to it.
#[derive(Clone, Copy, Debug)]
struct Event {
    from_host: bool,
    port: u16,
    flags: u8,
    seq: u32,
    ack: u32,
    data: bool,
}

/// What came of some frames. Only within a connection is there an order to be kept.
#[derive(Debug, Default, PartialEq)]
struct Fate {
    to_host: [Vec<Vec<u8>>; PORTS],
    to_wire: [Vec<Vec<u8>>; PORTS],
    drops: Vec<DropReason>,
    notices: [Vec<Notice>; PORTS],
}

const PORTS: usize = 3;
const FIRST_PORT: u16 = 40_000;

/// Initial sequence numbers of the client's attempts, of our host and of another member's.
const CLIENTS: [u32; 2] = [1_000, 90_000_000];
const OURS: u32 = 7_000;
const THEIRS: u32 = 70_000_000;

fn event() -> impl Strategy<Value = Event> {
    let port = FIRST_PORT..FIRST_PORT + PORTS as u16;
    let client = prop::sample::select(CLIENTS.to_vec());
    let server = prop::sample::select(vec![OURS, THEIRS]);
    let from_wire = (port.clone(), client.clone(), server, 0..6).prop_map(|(port, client, server, kind)| {
        let (flags, seq, ack, data) = match kind {
            0 | 1 => (SYN, client, 0, false),
            2 => (ACK, client + 1, server + 1, false),
            3 => (ACK, client + 1, server + 1, true),
            4 => (ACK | FIN, client + 1, server + 1, false),
            _ => (RST, client + 1, 0, false),
        };
        Event { from_host: false, port, flags, seq, ack, data }
    });
    let from_host = (port, client, 0..4).prop_map(|(port, client, kind)| {
        let (flags, seq, data) = match kind {
            0 | 1 => (SYN | ACK, OURS, false),
            2 => (ACK, OURS + 1, true),
            _ => (RST | ACK, OURS + 1, false),
        };
        Event { from_host: true, port, flags, seq, ack: client + 1, data }
    });
    prop_oneof![2 => from_wire, 1 => from_host]
}

fn round() -> impl Strategy<Value = (Role, u64, Vec<Event>)> {
    let role =
        prop::sample::select(vec![ACTIVE, PASSIVE, Role { may_refuse: false, ..ACTIVE }, Role { rank: 1, ..ACTIVE }]);
    let pause = prop::sample::select(vec![0, 1, 6, 400, 5_000, 80_000]);
    (role, pause, prop::collection::vec(event(), 1..40))
}

fn frame(event: &Event) -> Vec<u8> {
    let data: &[u8] = if event.data { b"some data" } else { b"" };
    match event.from_host {
        false => common::client_frame(event.port, event.flags, event.seq, event.ack, data),
        true => common::host_frame(event.port, event.flags, event.seq, event.ack, data),
    }
}

fn port_index(port: u16) -> usize {
    usize::from(port - FIRST_PORT)
}

fn fate(lab: &Lab, outs: impl IntoIterator<Item = common::Out>) -> Fate {
    let mut fate = Fate::default();
    let client_port = |frame: &[u8], at: usize| port_index(u16::from_be_bytes([frame[at], frame[at + 1]]));
    for out in outs {
        out.to_host.into_iter().for_each(|frame| fate.to_host[client_port(&frame, 34)].push(frame));
        out.to_wire.into_iter().for_each(|frame| fate.to_wire[client_port(&frame, 36)].push(frame));
        fate.drops.extend(out.drops);
    }
    fate.drops.sort_by_key(|reason| *reason as usize);
    while let Some(notice) = lab.member.shared.notices.pop() {
        let (Notice::MayHaveEnded(tuple) | Notice::EndSocket(tuple)) = notice;
        fate.notices[port_index(tuple.client_port)].push(notice);
    }
    fate
}

/// A member that has just started, and found a half-open socket of the first port.
fn restarted() -> Lab {
    let mut member = Lab::member(PASSIVE, &[], true, true);
    let tuple = Tuple { client: [10, 0, 0, 1].into(), client_port: FIRST_PORT, port: 80, vip: 0 };
    member.half_open = HalfOpen::new(vec![tuple], Lab::START);
    Lab::of(member)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn frames_that_come_together_fare_as_frames_one_by_one(rounds in prop::collection::vec(round(), 1..6)) {
        let (mut together, mut alone) = (restarted(), restarted());
        for (role, pause, events) in rounds {
            for lab in [&mut together, &mut alone] {
                lab.role(role);
                lab.now += std::time::Duration::from_millis(pause);
            }
            let released = [together.idle(), alone.idle()];
            prop_assert_eq!(&released[0], &released[1]);
            // A turn takes what came from the wire before what the host sends.
            let (host, wire): (Vec<Event>, Vec<Event>) = events.iter().partition(|event| event.from_host);
            let frames = |events: &[Event]| events.iter().map(frame).collect::<Vec<_>>();
            let burst = together.burst(&frames(&wire), &frames(&host));
            let one_by_one: Vec<_> = wire.iter().chain(&host).map(|event| match event.from_host {
                false => alone.wire(&frame(event)),
                true => alone.host(&frame(event)),
            }).collect();
            prop_assert_eq!(fate(&together, [burst]), fate(&alone, one_by_one));
        }
    }
}
