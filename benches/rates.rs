//! What writes to the tables: insert, remove, churn, establish, expire, rebuild, at a full table of a million connections,
//! alone and while another core looks connections up in it. Times are for 64; criterion's throughput gives the rate.
//!
//! ```text
//! cargo bench --no-default-features --bench rates
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use common::rates::{Tables, Work, look_ups_alone};
use common::{BATCH, CpuTime};
use criterion::{Criterion, Throughput};

const CONNECTIONS: usize = 1_000_000;

fn main() {
    common::pair::pin(0);
    let mut criterion: Criterion<CpuTime> = common::criterion();
    let mut tables = None;
    let mut group = criterion.benchmark_group("rates, 1 M connections");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut beside_all = Vec::new();
    for work in Work::ALL {
        for beside in [false, true] {
            let mut look_ups = None;
            let name = format!("{}{}", work.name(), if beside { ", beside look-ups" } else { "" });
            group.bench_function(name, |bencher| {
                let tables = tables.get_or_insert_with(|| Tables::new(CONNECTIONS));
                bencher.iter_custom(|batches| {
                    let items = batches * BATCH as u64;
                    let spent = tables.time(work, items, beside);
                    look_ups = spent.look_ups;
                    spent.time.mul_f64(items as f64 / spent.items as f64)
                });
            });
            beside_all.extend(look_ups.map(|rate| (work.name(), rate)));
        }
    }
    group.finish();
    if let Some(tables) = tables {
        println!("look-ups alone: {:.1} million a second", look_ups_alone(&tables));
        beside_all.iter().for_each(|(work, rate)| println!("look-ups beside {work}: {rate:.1} million a second"));
    }
    criterion.final_summary();
}
