//! The whole path from memory through [`Worker`](baton::worker::Worker): a burst of 64 frames of 64 bytes is received,
//! parsed, classified, looked up, decided, carried out and counted, at tables of several sizes, beside the bound that
//! memory sets. Times are for a burst of 64; criterion's throughput gives them apiece.
//!
//! ```text
//! cargo bench --no-default-features --bench path
//! cargo bench --no-default-features --bench path -- '10 M' --measurement-time 0.3
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use baton::port::{Buffer, Burst, Port};
use common::frames::{BLOCK, BenchPort};
use common::member::{Bench, Kind, MIXED, Traffic};
use common::{BATCH, CpuTime};
use criterion::{Criterion, Throughput};

const ALONE: &[(&str, &[(Kind, usize)])] = &[
    ("mixed", MIXED),
    ("established", &[(Kind::Ack, 1), (Kind::Data, 1)]),
    ("foreign", &[(Kind::ForeignAck, 1), (Kind::ForeignData, 1)]),
    ("foreign, acknowledgments", &[(Kind::ForeignAck, 1)]),
    ("foreign, data", &[(Kind::ForeignData, 1)]),
    ("SYN", &[(Kind::Syn, 1)]),
    ("ARP", &[(Kind::Arp, 1)]),
    ("not for us", &[(Kind::NotForUs, 1)]),
    ("from the host", &[(Kind::Reply, 1)]),
];

fn path(criterion: &mut Criterion<CpuTime>, name: &str, connections: usize) {
    // Made when first needed: a filter may leave none of these.
    let mut bench = None;
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH as u64));
    common::memory_bound(&mut group, connections * 20);
    for (name, mix) in ALONE {
        let mut traffic = Traffic::new(connections, 5);
        let from_host = mix[0].0 == Kind::Reply;
        group.bench_function(*name, |bencher| {
            let bench = bench.get_or_insert_with(|| Bench::new(connections));
            bencher.iter_custom(|turns| {
                bench.time(turns, from_host, |frame| {
                    let kind = traffic.pick(mix);
                    traffic.write(kind, frame)
                })
            });
        });
    }
    group.finish();
}

/// What the ports themselves cost, which is in each of the figures above.
fn ports(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("ports alone");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut port = BenchPort::default();
    group.bench_function("receive, send", |bencher| {
        bencher.iter(|| {
            port.rewind(BLOCK);
            let mut burst = Burst::new();
            port.receive(&mut burst);
            let bytes: usize = burst.iter().map(|buffer| buffer.bytes().len()).sum();
            port.send(&mut burst);
            bytes
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = common::criterion();
    ports(&mut criterion);
    path(&mut criterion, "path, 100 k connections", 100_000);
    path(&mut criterion, "path, 1 M connections", 1_000_000);
    path(&mut criterion, "path, 10 M connections", 10_000_000);
    criterion.final_summary();
}
