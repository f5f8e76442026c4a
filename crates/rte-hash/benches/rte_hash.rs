//! Our table beside DPDK's `rte_hash_lookup_bulk` and the memory's bound, in one run: random connections of 10 M, 64 at a time.
//!
//! ```text
//! cargo bench --package rte-hash
//! ```
//!
//! DPDK's memory lies on huge pages if 800 are free (`sysctl vm.nr_hugepages=800`), ours where the kernel gives some anyway.

#![allow(clippy::expect_used)] // As in tests.

#[path = "../../../benches/common/mod.rs"]
mod common;

use baton::config::checked::HugePages;
use baton::simd::Cpu;
use baton::table::{Established, Hasher, State, Tuple, Tuples};
use common::{BATCH, CpuTime, LookUp, NOW, Random, batches, memory_bound, time_batches_of, tuple};
use criterion::{BenchmarkGroup, Throughput};
use rte_hash::{Key, RteHash};

const CONNECTIONS: usize = 10_000_000;

fn key(tuple: &Tuple) -> Key {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&tuple.client.octets());
    bytes[4..6].copy_from_slice(&tuple.client_port.to_ne_bytes());
    bytes[6..8].copy_from_slice(&tuple.port.to_ne_bytes());
    bytes[8] = tuple.vip;
    Key(bytes)
}

fn ours(group: &mut BenchmarkGroup<'_, CpuTime>) {
    let table =
        Established::new(CONNECTIONS, Hasher::of_this_cpu(*b"a key for benche"), HugePages::Auto).expect("memory");
    for number in 0..CONNECTIONS {
        let tuple = tuple(number);
        table.insert(&tuple, table.hash(&tuple), State::Live, NOW).expect("room");
    }
    let (cpu, mut random) = (Cpu::detect(), Random(1));
    for (name, vip, all) in [("baton, hit", 0, BATCH), ("baton, miss", 1, 0)] {
        group.bench_function(name, |bencher| {
            let mut pick = || Tuple { vip, ..tuple(random.below(CONNECTIONS)) };
            let made = || (0..BATCH).map(|_| pick()).collect::<Tuples>();
            let mut made = made;
            bencher.iter_custom(|count| {
                time_batches_of(count, &mut made, |tuples| assert_eq!(cpu.run(LookUp(&table, tuples)), all))
            });
        });
    }
}

fn theirs(group: &mut BenchmarkGroup<'_, CpuTime>, name: &str, lock_free: bool) {
    // Its buckets do not fill to the last place: a fifth more room than keys.
    let mut table = RteHash::new(name, (CONNECTIONS + CONNECTIONS / 5) as u32, lock_free).expect("DPDK's memory");
    for number in 0..CONNECTIONS {
        assert!(table.insert(&key(&tuple(number))), "room");
    }
    let mut random = Random(1);
    for (what, vip, all) in [("hit", 0, BATCH), ("miss", 1, 0)] {
        group.bench_function(format!("{name}, {what}"), |bencher| {
            let pick = || key(&Tuple { vip, ..tuple(random.below(CONNECTIONS)) });
            batches(bencher, pick, |keys| assert_eq!(table.count(keys), all));
        });
    }
}

fn free_huge_pages() -> usize {
    let text = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn main() {
    let huge = free_huge_pages() >= 800;
    println!("DPDK's memory: {}", if huge { "huge pages" } else { "ordinary pages" });
    let pages: &[&str] = if huge { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
    let common = ["bench", "--no-pci", "--lcores=0", "--log-level=error", "-m", "1500"];
    assert!(rte_hash::start(&[&common, pages].concat()), "DPDK does not start");
    let mut criterion = common::criterion();
    let mut group = criterion.benchmark_group("look-up, 10 M connections");
    group.throughput(Throughput::Elements(BATCH as u64));
    memory_bound(&mut group, CONNECTIONS * 20);
    ours(&mut group);
    theirs(&mut group, "rte_hash", false);
    theirs(&mut group, "rte_hash, lock-free", true);
    group.finish();
    criterion.final_summary();
}
