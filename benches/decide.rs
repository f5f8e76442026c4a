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
use baton::simd::{Cpu, Simd, Work};
use baton::table::{Hash, Outlook, Tuple};
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

/// Whether a verdict is the one that is due.
type Expected = fn(Verdict) -> bool;

/// Frames to be decided; how many verdicts are as expected.
struct Decide<'a> {
    decider: Decider<'a>,
    frames: &'a [Frame],
    from_host: bool,
    expected: Expected,
}

impl Work for Decide<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let Decide { decider, frames, from_host, expected } = self;
        let mut count = 0;
        for Frame { bytes, len, class, tuple, hash } in frames {
            let verdict = match from_host {
                true => decider.from_host(*class, &bytes[..*len], tuple, *hash),
                // Nothing was foreseen: of a SYN that came before nothing can be.
                false => decider.from_wire(simd, *class, &bytes[..*len], tuple, *hash, Outlook::NONE),
            };
            count += usize::from(expected(verdict));
        }
        count
    }
}

fn main() {
    let cpu = Cpu::detect();
    let mut criterion: Criterion<CpuTime> = common::criterion();
    let bench = Bench::new(CONNECTIONS);
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(BATCH as u64));
    let all: [(_, _, Expected); 4] = [
        ("established", Kind::Data, |verdict| verdict == Verdict::ToHost),
        ("from the host", Kind::Reply, |verdict| verdict == Verdict::ToWire),
        ("SYN that came before, active", Kind::Syn, |verdict| verdict == Verdict::SynToHost),
        ("ARP", Kind::Arp, |verdict| verdict == Verdict::AnswerArp(0)),
    ];
    bench.set_active(true);
    for (name, kind, expected) in all {
        let frames = frames(&bench, &mut Traffic::new(CONNECTIONS, 3), kind);
        group.bench_function(name, |bencher| {
            let decider = bench.member.decider(false, bench.now);
            bencher.iter(|| {
                let decide = Decide { decider, frames: black_box(&frames), from_host: kind == Kind::Reply, expected };
                assert_eq!(cpu.run(decide), BATCH);
            });
        });
    }
    for (name, kind) in [("foreign, acknowledgments", Kind::ForeignAck), ("foreign, data", Kind::ForeignData)] {
        let frames = frames(&bench, &mut Traffic::new(CONNECTIONS, 3), kind);
        group.bench_function(name, |bencher| {
            let recent = Recent::new(1 << 16);
            let decider = Decider { recent: Some(&recent), ..bench.member.decider(false, bench.now) };
            bencher.iter(|| {
                let expected: Expected = |verdict| matches!(verdict, Verdict::Drop(_));
                // A client that is taken for an orphan is a matter of several hundred milliseconds.
                black_box(cpu.run(Decide { decider, frames: black_box(&frames), from_host: false, expected }))
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
