//! What the benches share: a clock that does not count what others on the core take, tuples, and the bound that memory
//! sets.
#![allow(dead_code)] // No bench needs all of it.
#![allow(clippy::expect_used)] // As in tests.

pub mod compare;
pub mod flood;
pub mod frames;
pub mod member;
pub mod pair;
pub mod rates;
pub mod short;

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton::simd::{LANES, Simd, Work};
use baton::table::{Entries, Established, Found, Handshakes, Hash, Outlook, Remembered, Tuple, Tuples};
use baton::time::Time;
use baton::worker::AHEAD;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Bencher, BenchmarkGroup, Criterion};

/// Frames, or look-ups, done together.
pub const BATCH: usize = 64;

/// Criterion as every bench here uses it: short runs, CPU time.
pub fn criterion() -> Criterion<CpuTime> {
    Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args()
}

/// The thread's CPU time: what others on a shared core take does not count.
pub struct CpuTime;

impl CpuTime {
    /// What this thread has taken so far.
    #[allow(unsafe_code)] // clock_gettime has no safe form.
    pub fn now() -> Duration {
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
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }
}

/// A burst of tuples, to be looked up as the worker does; how many are found.
pub struct LookUp<'a>(pub &'a Established, pub &'a Tuples);

impl Work for LookUp<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let LookUp(table, tuples) = self;
        let (mut hashes, mut entries) = ([Hash::default(); BATCH], Entries::default());
        let mut found = Found::none(BATCH, NOW);
        let groups = BATCH / LANES;
        for turn in 0..=groups + AHEAD {
            if turn < groups {
                table.hash_group(simd, tuples, turn * LANES, &mut hashes);
            }
            for lane in 0..LANES {
                if turn < groups {
                    table.prefetch(hashes[turn * LANES + lane]);
                }
                if (AHEAD..groups + AHEAD).contains(&turn) {
                    table.look(simd, tuples, (turn - AHEAD) * LANES + lane, &hashes, &mut entries);
                }
            }
            if turn > AHEAD && turn <= groups + AHEAD {
                table.judge(simd, tuples, (turn - AHEAD - 1) * LANES, &hashes, &entries, &mut found);
            }
        }
        table.ask_again(&hashes, &found);
        let mut again = found.again();
        while again != 0 {
            let place = again.trailing_zeros() as usize;
            again &= again - 1;
            found.found |= u64::from(table.look_again(simd, tuples, place, hashes[place]).is_some()) << place;
        }
        found.found.count_ones() as usize
    }
}

/// SYNs of a burst of tuples, to be remembered as the worker does; how many of them were new.
pub struct Remember<'a> {
    pub ring: &'a Handshakes,
    pub tuples: &'a [Tuple; BATCH],
    pub hashes: &'a [Hash; BATCH],
    pub isn: u32,
    pub admitted: bool,
    pub now: Time,
}

impl Work for Remember<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let Remember { ring, tuples, hashes, isn, admitted, now } = self;
        let mut outlooks = [Outlook::NONE; BATCH];
        for (outlook, hash) in outlooks.iter_mut().zip(hashes) {
            *outlook = ring.foresee(simd, *hash, now);
        }
        let mut new = 0;
        for ((tuple, hash), outlook) in tuples.iter().zip(hashes).zip(outlooks) {
            let remembered = ring.remember_foreseen(simd, outlook, tuple, *hash, isn, admitted, now);
            new += usize::from(matches!(remembered, Remembered::New));
        }
        new
    }
}

/// When all connections were entered, and when they are looked up.
pub const NOW: Time = Time::from_millis(100_000);

/// Connection `number`: clients with 64 connections each.
pub fn tuple(number: usize) -> Tuple {
    let number = number as u32;
    Tuple {
        client: Ipv4Addr::from_bits(0x0a00_0000 + number / 64),
        client_port: (number % 64) as u16,
        port: 443,
        vip: 0,
    }
}

#[repr(align(64))]
struct Line(AtomicU64);

/// Times `work` on batches whose making is not timed: 64 of them are made, and then worked on.
pub fn batches<T: Copy>(
    bencher: &mut Bencher<'_, CpuTime>,
    mut next: impl FnMut() -> T,
    mut work: impl FnMut(&[T; BATCH]),
) {
    bencher.iter_custom(|iterations| time_batches(iterations, &mut next, &mut work));
}

/// The CPU time of `work` on so many batches.
pub fn time_batches<T: Copy>(count: u64, mut next: impl FnMut() -> T, work: impl FnMut(&[T; BATCH])) -> Duration {
    time_batches_of(count, || std::array::from_fn(|_| next()), work)
}

/// The same of batches that are made as a whole.
pub fn time_batches_of<T>(count: u64, mut make: impl FnMut() -> T, mut work: impl FnMut(&T)) -> Duration {
    let (mut spent, mut left) = (Duration::ZERO, count as usize);
    while left > 0 {
        let made: Vec<T> = (0..left.min(64)).map(|_| make()).collect();
        let start = CpuTime::now();
        made.iter().for_each(&mut work);
        spent += CpuTime::now() - start;
        left -= made.len();
    }
    spent
}

/// The bound that memory sets: one random cache line of `bytes` for each of a batch, all prefetched first.
pub fn memory_bound(group: &mut BenchmarkGroup<'_, CpuTime>, bytes: usize) {
    let mut lines = Lines::new(bytes);
    group.bench_function("memory bound", |bencher| bencher.iter_custom(|batches| lines.read(batches)));
}

/// Cache lines to be read at random.
pub struct Lines {
    lines: Vec<Line>,
    random: Random,
}

impl Lines {
    /// So many bytes of them.
    pub fn new(bytes: usize) -> Lines {
        let lines: Vec<Line> = (0..bytes / 64).map(|number| Line(AtomicU64::new(number as u64))).collect();
        advise_huge(&lines);
        Lines { lines, random: Random(7) }
    }

    /// The CPU time of so many batches of reads, all of a batch prefetched first.
    pub fn read(&mut self, batches: u64) -> Duration {
        let Lines { lines, random } = self;
        time_batches(
            batches,
            || random.below(lines.len()),
            |picks| {
                picks.iter().for_each(|pick| prefetch(&lines[*pick]));
                black_box(picks.iter().map(|pick| lines[*pick].0.load(Ordering::Relaxed)).fold(0, u64::wrapping_add));
            },
        )
    }
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
