//! Heartbeats: written with their tag, and verified and read, with as many members heard as a cluster has. Times are for all
//! frames of one heartbeat: with more than 33 members it has several.

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::hint::black_box;
use std::time::Duration;

use baton::config::checked::Key;
use baton::control::auth::Authenticator;
use baton::control::heartbeat::{self, Echo, Header};
use baton::control::{MEMBERS_MAX, MemberId, Name};
use baton::frame::Mac;

fn main() {
    let mut criterion = common::criterion();
    let auth = Authenticator::new("web", &Key([7; 32]));
    let mut group = criterion.benchmark_group("heartbeat");
    for members in [2, 8, 32, MEMBERS_MAX as u64] {
        let header = Header {
            name: Name::new("s1").expect("a name"),
            boot_id: [1; 16],
            nonce: 1,
            challenge: 2,
            incarnation: 3,
            sequence: 0,
            interval: Duration::from_millis(10),
            metric: 1.0,
            flags: 0,
            config_hash: [0; 16],
        };
        let echoes: Vec<Echo> =
            (1..members).map(|id| Echo { id: MemberId(id), nonce: id, challenge: 1, alive: true }).collect();
        let write = |sequence: &mut u64| heartbeat::write(&auth, Mac([2; 6]), 0x88b5, &header, &echoes, &[], sequence);
        let mut sequence = 0;
        group.bench_function(format!("write, {members} members"), |bencher| bencher.iter(|| write(&mut sequence)));
        let frames = write(&mut sequence);
        let read = || frames.iter().map(|frame| heartbeat::parse(black_box(frame.bytes()), 0x88b5, &auth));
        assert!(read().all(|frame| frame.is_ok()));
        let echoed: usize = read().flatten().map(|frame| frame.echoes.len()).sum();
        assert_eq!(echoed, echoes.len());
        group.bench_function(format!("verify and read, {members} members"), |bencher| {
            bencher.iter(|| read().for_each(|frame| drop(black_box(frame))));
        });
    }
    group.finish();
    criterion.final_summary();
}
