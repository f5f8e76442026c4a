//! Two workers at the same time, each on a core of its own. Costs are CPU time, so what others take on those cores does not
//! count; what the two take from each other does.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use core_affinity::CoreId;

use super::frames::BLOCK;
use super::member::{Bench, Kind, Traffic};
use super::short::{self, COHORT, Frames};
use super::{CpuTime, Random};

/// Which cores there are, asked once: a pinned thread's children see one alone.
fn cores() -> &'static [CoreId] {
    static CORES: OnceLock<Vec<CoreId>> = OnceLock::new();
    CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default())
}

/// Pins the calling thread to one of two cores.
pub fn pin(core: usize) {
    assert!(core_affinity::set_for_current(cores()[core]));
}

/// To be called before a second thread is: without a core it would leave the first waiting for it.
pub fn need_two_cores() {
    assert!(cores().len() >= 2, "two threads at the same time need two cores; this process has {}", cores().len());
}

/// Where two threads wait for each other, without sleeping: both go on within a cache miss.
#[derive(Default)]
pub struct Meeting(AtomicUsize);

impl Meeting {
    /// Waits until both have come.
    pub fn wait(&self) {
        // AcqRel, Acquire: each sees what the other did before.
        let place = self.0.fetch_add(1, Ordering::AcqRel) / 2;
        while self.0.load(Ordering::Acquire) / 2 <= place {
            std::hint::spin_loop();
        }
    }
}

/// Runs `work` for two workers at the same time, the first here, the second on the other core.
pub fn run<T: Send>(benches: [&mut Bench; 2], work: impl Fn(usize, &mut Bench, &Meeting) -> T + Sync) -> [T; 2] {
    need_two_cores();
    let meeting = Meeting::default();
    let [first, second] = benches;
    // They would read the same clock: to one that is behind, what the other remembers is old.
    let now = first.now.max(second.now);
    (first.now, second.now) = (now, now);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(1);
            work(1, second, &meeting)
        });
        let mine = work(0, first, &meeting);
        [mine, other.join().expect("the second worker")]
    })
}

/// Segments of both directions of connections that a table holds, picked at random: a connection's two directions come to
/// whichever worker. The CPU time of one.
pub fn established(
    bench: &mut Bench,
    connections: usize,
    seed: u64,
    blocks: usize,
    meeting: Option<&Meeting>,
) -> Duration {
    let mut traffic = Traffic::new(connections, seed);
    let mut spent = Duration::ZERO;
    for _ in 0..blocks {
        let wire = |frame: &mut [u8; 120]| {
            let kind = traffic.pick(&[(Kind::Ack, 1), (Kind::Data, 1)]);
            traffic.write(kind, frame)
        };
        bench.worker.wire.fill(BLOCK, wire);
        bench.worker.host.fill(BLOCK, |frame| traffic.write(Kind::Reply, frame));
        if let Some(meeting) = meeting {
            meeting.wait();
        }
        let start = CpuTime::now();
        while bench.turn() > 0 {}
        spent += CpuTime::now() - start;
    }
    spent
}

/// Frames that [`established`] takes through a worker in a block.
pub const ESTABLISHED: u64 = 2 * BLOCK as u64;

/// Whether two workers have a connection together, and if two are at work where they meet.
#[derive(Clone, Copy)]
pub enum Sharing<'a> {
    /// Each has both directions of its own half.
    No(Option<&'a Meeting>),
    /// One has what comes from the wire and the other what comes from the host: of even connections this way round, of
    /// odd ones the other.
    Yes(&'a Meeting),
}

/// Short connections: all begin and end within the call, but for their entries. Returns one worker's CPU time and frames.
/// `numbers` are those of both workers' connections.
pub fn short(
    who: usize,
    bench: &mut Bench,
    numbers: Range<u32>,
    frames: &Frames,
    sharing: Sharing<'_>,
) -> (Duration, u64) {
    let (meeting, shared) = match sharing {
        Sharing::No(meeting) => (meeting, false),
        Sharing::Yes(meeting) => (Some(meeting), true),
    };
    let meet = || meeting.into_iter().for_each(Meeting::wait);
    let mine = |number: u32| number as usize % 2 == who;
    let mut random = Random(17 + who as u64);
    let (mut spent, mut count) = (Duration::ZERO, 0);
    let mut cohorts = VecDeque::new();
    let mut next = numbers.start;
    loop {
        // Twice as many as one worker begins in a round alone: half of them are its own.
        let begun = numbers.end.saturating_sub(next).min(2 * COHORT);
        cohorts.push_front(next..next + begun);
        next += begun;
        if cohorts.iter().take(6).all(Range::is_empty) {
            return (spent, count);
        }
        let wire = short::shuffled(&cohorts, false, mine, &mut random);
        let host = short::shuffled(&cohorts, true, |number| mine(number) != shared, &mut random);
        short::fill(frames, &mut bench.worker.wire, &wire);
        short::fill(frames, &mut bench.worker.host, &host);
        let before = bench.passed();
        meet();
        let start = CpuTime::now();
        while bench.turn() > 0 {}
        spent += CpuTime::now() - start;
        count += (wire.len() + host.len()) as u64;
        assert_eq!(bench.passed() - before, (wire.len() + host.len()) as u64, "every segment reaches the other side");
        // What one worker does in the next round needs what the other did in this one.
        meet();
    }
}

/// In the table of each member.
pub const CONNECTIONS: usize = 10_000_000;

/// Short connections that come and go in one call of [`short`]; the table has room for so many more.
const SHORT: u32 = 3072;

/// Who works, with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    OneAlone,
    TwoMembers,
    OneMember,
}

impl Setting {
    /// In this order.
    pub const ALL: [Setting; 3] = [Setting::OneAlone, Setting::TwoMembers, Setting::OneMember];

    /// As a bench is called.
    pub fn name(self) -> &'static str {
        match self {
            Setting::OneAlone => "one alone",
            Setting::TwoMembers => "two, a member each",
            Setting::OneMember => "two, one member",
        }
    }
}

/// Two workers of a member, and one of another.
pub struct Workers {
    one: Bench,
    beside: Bench,
    other: Bench,
    frames: Frames,
    next: u32,
    seed: u64,
}

impl Workers {
    /// With full tables.
    pub fn new() -> Workers {
        let one = Bench::new(CONNECTIONS);
        let (beside, other) = (one.beside(), Bench::new(CONNECTIONS));
        Workers { one, beside, other, frames: Frames::new(false), next: 0, seed: 5 }
    }

    /// What one worker takes for so many bursts of [`established`].
    pub fn established(&mut self, setting: Setting, bursts: u64) -> Duration {
        self.seed += 2;
        let (seed, blocks) = (self.seed, (bursts * super::BATCH as u64).div_ceil(ESTABLISHED) as usize);
        let work = |who: usize, bench: &mut Bench, meeting: &Meeting| {
            established(bench, CONNECTIONS, seed + who as u64, blocks, Some(meeting))
        };
        let spent = match setting {
            Setting::OneAlone => established(&mut self.one, CONNECTIONS, seed, blocks, None),
            Setting::TwoMembers => mean(run([&mut self.one, &mut self.other], work)),
            Setting::OneMember => mean(run([&mut self.one, &mut self.beside], work)),
        };
        spent.mul_f64((bursts * super::BATCH as u64) as f64 / (blocks as u64 * ESTABLISHED) as f64)
    }

    /// What one worker takes for so many bursts of [`short`].
    pub fn short(&mut self, setting: Setting, bursts: u64) -> Duration {
        let (mut spent, mut frames) = (Duration::ZERO, 0);
        while frames < bursts * super::BATCH as u64 {
            let numbers = self.next..self.next + SHORT;
            self.next = numbers.end;
            let templates = &self.frames;
            // With members of their own each has its own half, both directions of it.
            let apart = |who: usize, bench: &mut Bench, meeting: &Meeting| {
                short(who, bench, numbers.clone(), templates, Sharing::No(Some(meeting)))
            };
            let shared = |who: usize, bench: &mut Bench, meeting: &Meeting| {
                short(who, bench, numbers.clone(), templates, Sharing::Yes(meeting))
            };
            let both = match setting {
                Setting::OneAlone => [short(0, &mut self.one, numbers.clone(), templates, Sharing::No(None)); 2],
                Setting::TwoMembers => run([&mut self.one, &mut self.other], apart),
                Setting::OneMember => run([&mut self.one, &mut self.beside], shared),
            };
            spent += mean(both.map(|(spent, _)| spent));
            frames += both[0].1.midpoint(both[1].1);
            for bench in [&self.one, &self.other] {
                let table = &bench.member.established;
                for tuple in numbers.clone().map(short::tuple) {
                    table.remove_tuple(&tuple, table.hash(&tuple));
                }
                assert_eq!(table.len(), CONNECTIONS);
            }
        }
        spent.mul_f64((bursts * super::BATCH as u64) as f64 / frames as f64)
    }
}

fn mean([one, other]: [Duration; 2]) -> Duration {
    (one + other) / 2
}
