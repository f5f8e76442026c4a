//! The tables' behaviour, one thread at a time.

#![cfg(not(loom))]

use std::net::Ipv4Addr;
use std::time::Duration;

use baton::config::checked::HugePages;
use baton::table::{Answer, Established, Handshakes, Hasher, Remembered, Stage, State, Tuple};
use baton::time::Time;

const HASHER: Hasher = Hasher::new(*b"0123456789abcdef");

fn tuple(number: u32) -> Tuple {
    Tuple { client: Ipv4Addr::from_bits(0x0a00_0000 | number >> 8), client_port: number as u16, port: 80, vip: 0 }
}

#[test]
fn an_entered_connection_is_found_until_it_is_removed() {
    let table = Established::new(100, HASHER, HugePages::Never).unwrap();
    let now = Time::from_millis(5_000);
    for number in 0..100 {
        let tuple = tuple(number);
        table.insert(&tuple, table.hash(&tuple), State::Live, now).unwrap();
    }
    let more = tuple(100);
    assert!(table.insert(&more, table.hash(&more), State::Live, now).is_err());
    assert_eq!((table.len(), table.len_of(0), table.len_of(1)), (100, 100, 0));
    for number in 0..100 {
        let tuple = tuple(number);
        let hash = table.hash(&tuple);
        let mut entry = table.find(&tuple, hash).unwrap();
        assert_eq!((entry.state(), entry.syn_seen(), entry.idle(now)), (State::Live, false, Duration::ZERO));
        let stale = entry;
        assert!(table.set_syn_seen(&mut entry) && entry.syn_seen());
        assert!(!table.remove(stale) && table.remove(entry) && !table.remove(entry));
        assert_eq!(table.find(&tuple, hash), None);
    }
    assert!(table.is_empty());
}

#[test]
fn a_handshake_goes_its_way() {
    let ring = Handshakes::new(64, HugePages::Never).unwrap();
    let now = Time::from_millis(1_000);
    let tuple = tuple(7);
    let hash = HASHER.hash(&tuple);
    assert!(matches!(ring.remember(&tuple, hash, 99, false, now), Remembered::New));
    assert_eq!(ring.find(&tuple, hash, now)[0].stage, Stage::Seen);
    assert!(
        matches!(ring.remember(&tuple, hash, 99, true, now), Remembered::Known(record) if record.stage == Stage::Admitted)
    );
    let answer = Answer { isn: u32::MAX, timestamp: Some(1_234_567) };
    assert_eq!(ring.answer(&tuple, hash, 99, answer, now), Some(Stage::Admitted));
    assert_eq!(ring.answer(&tuple, hash, 98, answer, now), None);
    let found = ring.find(&tuple, hash, now);
    assert_eq!(found.len(), 1);
    assert!(found[0].acknowledged_by(0, None) && found[0].acknowledged_by(0, Some(1_234_567)));
    assert!(!found[0].acknowledged_by(0, Some(1_234_568)) && !found[0].acknowledged_by(1, None));
    assert!(ring.settle(&found[0], Stage::Confirmed) && !ring.settle(&found[0], Stage::Lost));
    assert!(ring.find(&tuple, hash, now + Duration::from_secs(76)).is_empty());
}
