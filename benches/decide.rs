//! Class to verdict, for a burst of 64 of each kind whose connections lie in the cache: the decision alone. Times are for
//! all 64; criterion's throughput gives them apiece.
//!
//! ```text
//! cargo bench --no-default-features --bench decide
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::hint::black_box;

use baton::classify::{self, Class, Place};
use baton::decide::Decider;
use baton::orphans::Recent;
use baton::table::{Hash, Tuple};
use baton::verdict::Verdict;
use common::member::{Bench, Kind, Traffic};
use common::{BATCH, CpuTime};
use criterion::{Criterion, Throughput};

/// Few: what memory costs is `path`'s to tell.
const CONNECTIONS: usize = 1000;

struct Frame {
    bytes: [u8; 120],
    len: usize,
    class: Class,
    tuple: Tuple,
    hash: Hash,
}

fn frames(bench: &Bench, traffic: &mut Traffic, kind: Kind) -> Vec<Frame> {
    let frame = |_| {
        let mut bytes = [0; 120];
        let len = traffic.write(kind, &mut bytes);
        let (frame, facts) = (&bytes[..len], &bench.member.facts);
        let (class, tuple) = match kind {
            Kind::Reply => (classify::from_host(frame, facts), Place::tuple_from_host as fn(&Place, &[u8]) -> Tuple),
            _ => (classify::from_wire(frame, facts), Place::tuple_from_wire as fn(&Place, &[u8]) -> Tuple),
        };
        let tuple = if let Class::Tcp(place) = class { tuple(&place, frame) } else { Tuple::NONE };
        Frame { bytes, len, class, tuple, hash: bench.member.established.hash(&tuple) }
    };
    (0..BATCH).map(frame).collect()
}

fn main() {
    let mut criterion: Criterion<CpuTime> = common::criterion();
    let bench = Bench::new(CONNECTIONS);
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, kind, active, expected) in [
        ("established", Kind::Data, true, Verdict::ToHost),
        ("from the host", Kind::Reply, true, Verdict::ToWire),
        ("SYN that came before, active", Kind::Syn, true, Verdict::SynToHost),
        ("ARP", Kind::Arp, true, Verdict::AnswerArp(0)),
    ] {
        bench.set_active(active);
        let frames = frames(&bench, &mut Traffic::new(CONNECTIONS, 3), kind);
        group.bench_function(name, |bencher| {
            let decider = bench.member.decider(false, bench.clock.now());
            bencher.iter(|| {
                for frame in black_box(&frames) {
                    let bytes = &frame.bytes[..frame.len];
                    let verdict = match kind {
                        Kind::Reply => decider.from_host(frame.class, bytes, &frame.tuple, frame.hash),
                        _ => decider.from_wire(frame.class, bytes, &frame.tuple, frame.hash),
                    };
                    assert_eq!(verdict, expected);
                }
            });
        });
    }
    for (name, kind) in [("foreign, acknowledgments", Kind::ForeignAck), ("foreign, data", Kind::ForeignData)] {
        let frames = frames(&bench, &mut Traffic::new(CONNECTIONS, 3), kind);
        group.bench_function(name, |bencher| {
            let recent = Recent::new(1 << 16);
            let decider = Decider { recent: Some(&recent), ..bench.member.decider(false, bench.clock.now()) };
            bencher.iter(|| {
                let dropped = |frame: &&Frame| {
                    let verdict = decider.from_wire(frame.class, &frame.bytes[..frame.len], &frame.tuple, frame.hash);
                    matches!(verdict, Verdict::Drop(_))
                };
                // A client that is taken for an orphan is a matter of several hundred milliseconds.
                black_box(black_box(&frames).iter().filter(dropped).count())
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
