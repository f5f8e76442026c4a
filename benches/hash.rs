//! The keyed hashes: one tuple after another, and a burst of 64 as the worker has it.

mod common;

use std::hint::black_box;

use baton::simd::{Cpu, LANES, Simd, Work};
use baton::table::{Hash, Hasher, Tuple, Tuples};
use common::{BATCH, tuple};
use criterion::Throughput;

/// A burst's tuples, to be hashed.
struct All<'a>(&'a Hasher, &'a Tuples);

impl Work for All<'_> {
    type Output = [Hash; BATCH];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [Hash; BATCH] {
        let mut hashes = [Hash::default(); BATCH];
        (0..BATCH).step_by(LANES).for_each(|first| self.0.hash_group(simd, self.1, first, &mut hashes));
        hashes
    }
}

fn main() {
    let mut criterion = common::criterion();
    let key = *b"a key for benche";
    let tuples: [Tuple; BATCH] = std::array::from_fn(tuple);
    let cpu = Cpu::detect();
    let burst: Tuples = tuples.into_iter().collect();
    for (name, hasher) in [("SipHash-1-3", Hasher::new(key)), ("this CPU's", Hasher::of_this_cpu(key))] {
        let mut group = criterion.benchmark_group(format!("hash/{name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        let one_by_one = || black_box(&tuples).map(|tuple| hasher.hash(&tuple));
        group.bench_function("one by one", |bencher| bencher.iter(one_by_one));
        group.bench_function("burst", |bencher| bencher.iter(|| cpu.run(All(&hasher, black_box(&burst)))));
        group.finish();
    }
    criterion.final_summary();
}
