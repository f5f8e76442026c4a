//! Two workers on two cores: one alone, both with a member each, and both with the same member, where a connection's two
//! directions come to different workers. The second says what two busy cores cost the machine, the third what sharing costs
//! on top of it. Times are the CPU time of **one** worker for a burst of 64; criterion's throughput gives them apiece.
//!
//! ```text
//! cargo bench --no-default-features --bench workers
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::time::Duration;

use common::BATCH;
use common::pair::{self, Setting, Workers};
use criterion::{Criterion, Throughput};

fn main() {
    pair::pin(0);
    let mut criterion: Criterion<common::CpuTime> = common::criterion();
    let mut workers = None;
    for (what, cost) in [
        ("established, both directions", Workers::established as fn(&mut Workers, Setting, u64) -> Duration),
        ("short connections", Workers::short),
    ] {
        let mut group =
            criterion.benchmark_group(format!("workers, {} M connections, {what}", pair::CONNECTIONS / 1_000_000));
        group.throughput(Throughput::Elements(BATCH as u64));
        for setting in Setting::ALL {
            group.bench_function(setting.name(), |bencher| {
                let workers = workers.get_or_insert_with(Workers::new);
                bencher.iter_custom(|bursts| cost(workers, setting, bursts));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
