//! Whole short connections through [`Worker`](baton::worker::Worker), many interleaved, both directions, beside segments of
//! connections that are there already. Times are for a burst of 64; criterion's throughput gives them apiece.
//!
//! ```text
//! cargo bench --no-default-features --bench short
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::time::Duration;

use common::member::{Bench, Kind, Traffic};
use common::short::{FRAMES, ROUND, Short, Spent};
use common::{BATCH, CpuTime};
use criterion::{Bencher, Criterion, Throughput};

const CONNECTIONS: usize = 10_000_000;

/// Times short connections by what `cost` takes of each round.
fn connections(bencher: &mut Bencher<'_, CpuTime>, bench: &mut Bench, timestamps: bool, cost: fn(Spent) -> Duration) {
    let mut short = Short::new(timestamps);
    short.start(bench);
    bencher.iter_custom(|bursts| {
        let rounds = (bursts * BATCH as u64).div_ceil(ROUND);
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            let round = short.round(bench, true);
            assert_eq!(round.frames, ROUND);
            spent += cost(round);
        }
        spent.mul_f64((bursts * BATCH as u64) as f64 / (rounds * ROUND) as f64)
    });
    short.finish(bench);
}

fn main() {
    let mut criterion: Criterion<CpuTime> = common::criterion();
    let mut bench = None;
    let mut group = criterion.benchmark_group("short connections, 10 M connections");
    group.throughput(Throughput::Elements(BATCH as u64));
    common::memory_bound(&mut group, CONNECTIONS * 20);
    for (name, from_host) in [("established, from the wire", false), ("established, from the host", true)] {
        let mut traffic = Traffic::new(CONNECTIONS, 5);
        group.bench_function(name, |bencher| {
            let bench = bench.get_or_insert_with(|| Bench::new(CONNECTIONS));
            let kinds: &[_] = if from_host { &[(Kind::Reply, 1)] } else { &[(Kind::Ack, 1), (Kind::Data, 1)] };
            bencher.iter_custom(|turns| {
                bench.time(turns, from_host, |frame| {
                    let kind = traffic.pick(kinds);
                    traffic.write(kind, frame)
                })
            });
        });
    }
    let (wire, host) = FRAMES;
    for (name, timestamps) in [("", false), (", timestamps", true)] {
        let name = |what| format!("{wire} from the wire, {host} from the host{name}{what}");
        group.bench_function(name(""), |bencher| {
            let bench = bench.get_or_insert_with(|| Bench::new(CONNECTIONS));
            connections(bencher, bench, timestamps, |spent| spent.worker + spent.control);
        });
        group.bench_function(name(", the worker's part"), |bencher| {
            let bench = bench.get_or_insert_with(|| Bench::new(CONNECTIONS));
            connections(bencher, bench, timestamps, |spent| spent.worker);
        });
    }
    group.finish();
    criterion.final_summary();
}
