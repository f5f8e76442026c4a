//! The tables beside the bound that memory sets: reads of random cache lines of the same footprint, in the same
//! batches, prefetched in the same way. Times are for a batch of 64; criterion's throughput gives them apiece.
//!
//! ```text
//! cargo bench --no-default-features --bench table
//! ```

#![allow(clippy::expect_used)] // As in tests.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton::config::checked::HugePages;
use baton::table::{Answer, Established, Handshakes, Hash, Hasher, Remembered, Stage, State, Tuple};
use baton::time::Time;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkGroup, Criterion, Throughput};

const BATCH: usize = 64;
const HASHER: Hasher = Hasher::new(*b"a key for benche");
const NOW: Time = Time::from_millis(100_000);
const NO_TUPLE: Tuple = Tuple { client: Ipv4Addr::UNSPECIFIED, client_port: 0, port: 0, vip: 0 };

/// The thread's CPU time: what others on a shared core take does not count.
struct CpuTime;

impl CpuTime {
    #[allow(unsafe_code)] // clock_gettime has no safe form.
    fn now() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to the timespec and nowhere else.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        CpuTime::now()
    }

    fn end(&self, start: Duration) -> Duration {
        CpuTime::now() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// xorshift64: a few cycles, in step with no cache.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }
}

/// Clients with 64 connections each.
fn tuple(number: usize) -> Tuple {
    let number = number as u32;
    Tuple {
        client: Ipv4Addr::from_bits(0x0a00_0000 + number / 64),
        client_port: (number % 64) as u16,
        port: 443,
        vip: 0,
    }
}

/// 64 tuples and their hashes, of which `table` has been asked to fetch the lines.
fn batch(table: &Established, mut next: impl FnMut() -> Tuple) -> ([Tuple; BATCH], [Hash; BATCH]) {
    let tuples: [Tuple; BATCH] = std::array::from_fn(|_| next());
    let hashes = tuples.map(|tuple| {
        let hash = table.hash(&tuple);
        table.prefetch(hash);
        hash
    });
    (tuples, hashes)
}

fn count_found(table: &Established, tuples: &[Tuple], hashes: &[Hash]) -> usize {
    let mut found = [None; BATCH];
    table.find_many(tuples, hashes, &mut found);
    found.iter().flatten().count()
}

#[repr(align(64))]
struct Line(AtomicU64);

fn memory_bound(group: &mut BenchmarkGroup<'_, CpuTime>, bytes: usize) {
    let lines: Vec<Line> = (0..bytes / 64).map(|number| Line(AtomicU64::new(number as u64))).collect();
    advise_huge(&lines);
    let mut random = Random(7);
    group.bench_function("memory bound", |bencher| {
        bencher.iter(|| {
            let picks: [usize; BATCH] = std::array::from_fn(|_| random.below(lines.len()));
            picks.iter().for_each(|pick| prefetch(&lines[*pick]));
            picks.iter().map(|pick| lines[*pick].0.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
        });
    });
}

/// So that the bound is no slower than it need be: the tables lie on huge pages where there are some.
#[allow(unsafe_code)] // madvise and the prefetch instruction have no safe form.
fn advise_huge(lines: &[Line]) {
    // SAFETY: advice on pages of our own slice, rounded inwards; contents stay.
    unsafe {
        let start = lines.as_ptr() as usize;
        let first = start.next_multiple_of(2 << 20);
        let bytes = (start + size_of_val(lines)).saturating_sub(first);
        libc::madvise(first as *mut libc::c_void, bytes, libc::MADV_HUGEPAGE);
        libc::madvise(first as *mut libc::c_void, bytes, 25 /* MADV_COLLAPSE: now, as they are written already */);
    }
}

#[allow(unsafe_code)]
#[inline(always)]
fn prefetch(line: &Line) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

fn established(criterion: &mut Criterion<CpuTime>, name: &str, connections: usize) {
    let table = Established::new(connections, HASHER, HugePages::Auto).expect("memory");
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
        bencher.iter(|| {
            let (tuples, hashes) = batch(&table, || tuple(random.below(held)));
            assert_eq!(count_found(&table, &tuples, &hashes), BATCH);
        });
    });
    group.bench_function("miss", |bencher| {
        bencher.iter(|| {
            let (tuples, hashes) = batch(&table, || Tuple { vip: 1, ..tuple(random.below(held)) });
            assert_eq!(count_found(&table, &tuples, &hashes), 0);
        });
    });
    group.bench_function("half of each", |bencher| {
        bencher.iter(|| {
            let (tuples, hashes) =
                batch(&table, || Tuple { vip: (random.next() >> 40) as u8 & 1, ..tuple(random.below(held)) });
            count_found(&table, &tuples, &hashes)
        });
    });
    group.bench_function("insert and remove", |bencher| {
        bencher.iter(|| {
            let (tuples, hashes) = batch(&table, || Tuple { vip: 2, client_port: 99, ..tuple(random.next() as usize) });
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
    let mut now = NOW;
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
            hashes.iter().for_each(|hash| ring.prefetch_record(*hash, now));
            for (tuple, hash) in tuples.iter().zip(&hashes) {
                black_box(ring.remember(tuple, *hash, 5, false, now));
            }
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
            hashes.iter().for_each(|hash| ring.prefetch_record(*hash, now));
            let mut settled = 0;
            for (tuple, hash) in tuples.iter().zip(&hashes) {
                let Remembered::New(_) = ring.remember(tuple, *hash, 5, true, now) else { continue };
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

fn hash(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Elements(BATCH as u64));
    let tuples: [Tuple; BATCH] = std::array::from_fn(tuple);
    group.bench_function("batch", |bencher| bencher.iter(|| black_box(&tuples).map(|tuple| HASHER.hash(&tuple))));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args();
    hash(&mut criterion);
    established(&mut criterion, "established, 1 M connections", 1_000_000);
    established(&mut criterion, "established, 10 M connections", 10_000_000);
    handshakes(&mut criterion);
    criterion.final_summary();
}
