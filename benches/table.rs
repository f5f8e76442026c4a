//! The tables beside the bound that memory sets: reads of random cache lines of the same footprint, in the same
//! batches, prefetched in the same way. Times are for a batch of 64; criterion's throughput gives them apiece.
//!
//! ```text
//! cargo bench --no-default-features --bench table
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::Duration;

use baton::config::checked::HugePages;
use baton::simd::Cpu;
use baton::table::{Answer, Established, Handshakes, Hasher, Stage, State, Tuple, Tuples};
use common::{BATCH, CpuTime, LookUp, NOW, Random, Remember, batches, memory_bound, time_batches_of, tuple};
use criterion::{Bencher, Criterion, Throughput};

static HASHER: LazyLock<Hasher> = LazyLock::new(|| Hasher::of_this_cpu(*b"a key for benche"));
const NO_TUPLE: Tuple = Tuple { client: Ipv4Addr::UNSPECIFIED, client_port: 0, port: 0, vip: 0 };

fn count_found(table: &Established, tuples: &Tuples) -> usize {
    Cpu::detect().run(LookUp(table, tuples))
}

/// As [`batches`], of tuples as a burst has them.
fn look_ups(bencher: &mut Bencher<'_, CpuTime>, mut next: impl FnMut() -> Tuple, mut work: impl FnMut(&Tuples)) {
    let made = || (0..BATCH).map(|_| next()).collect::<Tuples>();
    let mut made = made;
    bencher.iter_custom(|count| time_batches_of(count, &mut made, &mut work));
}

fn established(criterion: &mut Criterion<CpuTime>, name: &str, connections: usize) {
    let table = Established::new(connections, *HASHER, HugePages::Auto).expect("memory");
    // One batch short of full, which the insertions below need.
    let held = connections - BATCH;
    for number in 0..held {
        let tuple = tuple(number);
        table.insert(&tuple, table.hash(&tuple), State::Live, NOW).expect("room");
    }
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH as u64));
    memory_bound(&mut group, connections * 20);
    let mut random = Random(1);
    group.bench_function("hit", |bencher| {
        look_ups(bencher, || tuple(random.below(held)), |tuples| assert_eq!(count_found(&table, tuples), BATCH));
    });
    group.bench_function("miss", |bencher| {
        let pick = || Tuple { vip: 1, ..tuple(random.below(held)) };
        look_ups(bencher, pick, |tuples| assert_eq!(count_found(&table, tuples), 0));
    });
    group.bench_function("half of each", |bencher| {
        let pick = || Tuple { vip: (random.next() >> 40) as u8 & 1, ..tuple(random.below(held)) };
        look_ups(bencher, pick, |tuples| {
            black_box(count_found(&table, tuples));
        });
    });
    group.bench_function("insert and remove", |bencher| {
        bencher.iter(|| {
            let tuples: [Tuple; BATCH] =
                std::array::from_fn(|_| Tuple { vip: 2, client_port: 99, ..tuple(random.next() as usize) });
            let hashes = tuples.map(|tuple| table.hash(&tuple));
            hashes.iter().for_each(|hash| table.prefetch(*hash));
            let mut entries = [None; BATCH];
            for ((tuple, hash), entry) in tuples.iter().zip(&hashes).zip(&mut entries) {
                *entry = table.insert(tuple, *hash, State::Live, NOW).ok();
            }
            // Two of a batch may be the same connection: then the first handle is stale.
            entries.into_iter().flatten().filter(|entry| table.remove(*entry)).count()
        });
    });
    group.finish();
}

fn handshakes(criterion: &mut Criterion<CpuTime>) {
    const RECORDS: usize = 1 << 20;
    let ring = Handshakes::new(RECORDS, HugePages::Auto).expect("memory");
    let mut random = Random(3);
    let mut fresh = || Tuple { client: Ipv4Addr::from_bits(random.next() as u32), ..NO_TUPLE };
    let hash = |tuple: Tuple| {
        let hash = HASHER.hash(&tuple);
        ring.prefetch(hash);
        hash
    };
    let (mut now, cpu) = (NOW, Cpu::detect());
    for _ in 0..2 * RECORDS {
        let tuple = fresh();
        ring.remember(&tuple, HASHER.hash(&tuple), 1, true, now);
    }
    let mut group = criterion.benchmark_group("handshakes, 1 Mi records");
    group.throughput(Throughput::Elements(BATCH as u64));
    memory_bound(&mut group, RECORDS * 72);
    group.bench_function("flood: remember", |bencher| {
        bencher.iter(|| {
            now += Duration::from_micros(64);
            let tuples: [Tuple; BATCH] = std::array::from_fn(|_| fresh());
            let hashes = tuples.map(hash);
            cpu.run(Remember { ring: &ring, tuples: &tuples, hashes: &hashes, isn: 5, admitted: false, now })
        });
    });
    group.bench_function("none of the tuple: find", |bencher| {
        bencher.iter(|| {
            let tuples: [Tuple; BATCH] = std::array::from_fn(|_| fresh());
            let hashes = tuples.map(hash);
            tuples.iter().zip(&hashes).map(|(tuple, hash)| ring.find(tuple, *hash, now).len()).sum::<usize>()
        });
    });
    group.bench_function("remember, answer, find, settle", |bencher| {
        bencher.iter(|| {
            now += Duration::from_micros(64);
            let tuples: [Tuple; BATCH] = std::array::from_fn(|_| fresh());
            let hashes = tuples.map(hash);
            cpu.run(Remember { ring: &ring, tuples: &tuples, hashes: &hashes, isn: 5, admitted: true, now });
            let mut settled = 0;
            for (tuple, hash) in tuples.iter().zip(&hashes) {
                ring.answer(tuple, *hash, 5, Answer { isn: 7, timestamp: Some(8) }, now);
                for record in ring.find(tuple, *hash, now) {
                    settled += u32::from(record.acknowledged_by(8, Some(8)) && ring.settle(&record, Stage::Confirmed));
                }
            }
            settled
        });
    });
    group.finish();
}

/// The maps that one would take otherwise, with the same tuples, and the hash that makes them as safe from floods.
fn peers(criterion: &mut Criterion<CpuTime>, connections: usize) {
    let mut group = criterion.benchmark_group(format!("peers, {} M connections", connections / 1_000_000));
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut random = Random(1);
    let mut pick = |vip| Tuple { vip, ..tuple(random.below(connections)) };
    let map = dashmap::DashMap::<Tuple, u32>::with_capacity(connections);
    for number in 0..connections {
        map.insert(tuple(number), number as u32);
    }
    for (name, vip, all) in [("dashmap, hit", 0, BATCH), ("dashmap, miss", 1, 0)] {
        group.bench_function(name, |bencher| {
            batches(
                bencher,
                || pick(vip),
                |tuples| assert_eq!(tuples.iter().filter(|tuple| map.contains_key(*tuple)).count(), all),
            );
        });
    }
    drop(map);
    let map = papaya::HashMap::<Tuple, u32>::with_capacity(connections);
    let guard = map.pin();
    for number in 0..connections {
        guard.insert(tuple(number), number as u32);
    }
    for (name, vip, all) in [("papaya, hit", 0, BATCH), ("papaya, miss", 1, 0)] {
        group.bench_function(name, |bencher| {
            batches(
                bencher,
                || pick(vip),
                |tuples| assert_eq!(tuples.iter().filter(|tuple| guard.contains_key(*tuple)).count(), all),
            );
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = common::criterion();
    established(&mut criterion, "established, 1 M connections", 1_000_000);
    established(&mut criterion, "established, 10 M connections", 10_000_000);
    peers(&mut criterion, 10_000_000);
    handshakes(&mut criterion);
    criterion.final_summary();
}
