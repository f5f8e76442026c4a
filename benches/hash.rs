//! The keyed hash: one tuple after another, and a burst of 64 as the worker has it.

mod common;

use std::hint::black_box;

use baton::table::{Hash, Hasher, Tuple};
use common::{BATCH, tuple};
use criterion::Throughput;

fn main() {
    let mut criterion = common::criterion();
    let hasher = Hasher::new(*b"a key for benche");
    let tuples: [Tuple; BATCH] = std::array::from_fn(tuple);
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("one by one", |bencher| bencher.iter(|| black_box(&tuples).map(|tuple| hasher.hash(&tuple))));
    group.bench_function("burst", |bencher| {
        bencher.iter(|| {
            let mut hashes = [Hash::default(); BATCH];
            hasher.hash_burst(black_box(&tuples), &mut hashes);
            hashes
        });
    });
    group.finish();
    criterion.final_summary();
}
