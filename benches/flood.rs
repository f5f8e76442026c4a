//! A flood of SYNs through [`Worker`](baton::worker::Worker), alone and mixed with segments of 10 M connections, at a member
//! that is active and at a passive one, which keeps them. `benches/common/flood.rs` says what is made of it. Times are for a
//! burst of 64; criterion's throughput gives them apiece.
//!
//! ```text
//! cargo bench --no-default-features --bench flood
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use common::flood::{SHARES, lost, time};
use common::member::{Bench, Traffic};
use common::{BATCH, CpuTime};
use criterion::{Criterion, Throughput};

const CONNECTIONS: usize = 10_000_000;

fn main() {
    let mut criterion: Criterion<CpuTime> = common::criterion();
    let mut bench = None;
    let mut traffic = Traffic::new(CONNECTIONS, 5);
    for (name, active) in [("active", true), ("passive", false)] {
        let mut group = criterion.benchmark_group(format!("flood, 10 M connections, {name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for syns in [&[0, 10], &SHARES[..]].concat() {
            group.bench_function(format!("{syns} SYNs in ten frames"), |bencher| {
                let bench = bench.get_or_insert_with(|| Bench::new(CONNECTIONS));
                bench.set_active(active);
                bencher.iter_custom(|bursts| time(bench, &mut traffic, syns, bursts));
            });
        }
        group.finish();
    }
    if let Some(bench) = bench {
        assert_eq!(lost(&bench, CONNECTIONS), 0, "a flood pushes no connection out");
    }
    criterion.final_summary();
}
