//! The goals that are ratios, each measured in one run by contenders in turns, as a table: goal, measured, met. From memory;
//! `scripts/bench-ratios` runs this and what needs DPDK.
//!
//! ```text
//! cargo bench --no-default-features --bench goals            # all
//! cargo bench --no-default-features --bench goals -- flood   # those with the word in their names
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::hint::black_box;
use std::time::Duration;

use baton::config::checked::HugePages;
use baton::simd::Cpu;
use baton::table::{Established, Hasher, State, Tuple, Tuples};
use baton::time::Time;
use common::compare::{Rounds, in_turns};
use common::member::{Bench, Kind, MIXED, Traffic};
use common::pair::{self, Setting, Workers};
use common::rates::{Tables, Work};
use common::short::{FRAMES, Short};
use common::{BATCH, Lines, LookUp, Random, flood, tuple};

/// Bursts of one measurement where all contenders have the same memory: half a millisecond to a few of them.
const BURSTS: u64 = 256;

/// The same where memory is what is measured. Each contender runs for as long untimed before, so that it finds in the cache
/// what it would if it ran alone: the bound of 10 M connections is twice as high straight after others, and all would look
/// the better beside it.
const STEADY: u64 = 32_768;

/// Of frames, which take longer.
const STEADY_FRAMES: u64 = 8_192;

const ROUNDS: usize = 40;

/// Rounds of what takes longer.
const FEW: usize = 12;

/// Connections of each table, by their names.
const SIZES: [(&str, usize); 3] = [("100 k", 100_000), ("1 M", 1_000_000), ("10 M", 10_000_000)];

/// A row of the table.
struct Row {
    what: String,
    goal: Option<Goal>,
    measured: f64,
    note: String,
}

enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn print(&self) {
        let (goal, met) = match self.goal {
            Some(Goal::AtMost(most)) => (format!("at most {most}"), if self.measured <= most { "yes" } else { "no" }),
            Some(Goal::AtLeast(least)) => {
                (format!("at least {least}"), if self.measured >= least { "yes" } else { "no" })
            }
            None => ("-".into(), "-"),
        };
        println!("| {} | {goal} | {:.2} | {met} | {} |", self.what, self.measured, self.note);
    }
}

/// What was asked for on the command line.
struct Wanted(Vec<String>);

impl Wanted {
    fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| name.contains(word.as_str()))
    }
}

/// Nanoseconds each.
fn each(time: Duration, items: u64) -> f64 {
    time.as_nanos() as f64 / items as f64
}

/// Nanoseconds each of so many bursts, after as many that do not count.
fn steady(bursts: u64, mut run: impl FnMut(u64) -> Duration) -> f64 {
    run(bursts);
    each(run(bursts), bursts * BATCH as u64)
}

fn at_most(most: f64, what: impl Into<String>, measured: f64, note: String) {
    Row { what: what.into(), goal: Some(Goal::AtMost(most)), measured, note }.print();
}

fn at_least(least: f64, what: impl Into<String>, measured: f64, note: String) {
    Row { what: what.into(), goal: Some(Goal::AtLeast(least)), measured, note }.print();
}

fn tell(what: impl Into<String>, measured: f64, note: String) {
    Row { what: what.into(), goal: None, measured, note }.print();
}

/// The whole path beside the memory bound of each table's footprint.
fn path() {
    const SIZE: usize = 3;
    let mut benches = SIZES.map(|(_, connections)| Bench::new(connections));
    let mut traffic = SIZES.map(|(_, connections)| Traffic::new(connections, 5));
    let mut bounds = SIZES.map(|(_, connections)| Lines::new(connections * 20));
    let established: &[_] = &[(Kind::Ack, 1), (Kind::Data, 1)];
    let foreign: &[_] = &[(Kind::ForeignAck, 1), (Kind::ForeignData, 1)];
    let all: [(usize, &[(Kind, usize)]); 6] =
        [(0, MIXED), (1, MIXED), (2, MIXED), (2, established), (2, foreign), (2, &[(Kind::Syn, 1)])];
    let rounds: Rounds<9> = in_turns(FEW, |contender| {
        if contender < SIZE {
            return steady(STEADY, |bursts| bounds[contender].read(bursts));
        }
        let (size, mix) = all[contender - SIZE];
        steady(STEADY_FRAMES, |bursts| {
            benches[size].time(bursts, false, |frame| {
                let kind = traffic[size].pick(mix);
                traffic[size].write(kind, frame)
            })
        })
    });
    let note = |one: usize, other: usize| format!("{:.1} ns over {:.1} ns", rounds.cost(one), rounds.cost(other));
    at_most(3.0, "whole path, mixed, 10 M: of the memory bound", rounds.ratio(5, 2), note(5, 2));
    at_most(5.0, "whole path, mixed, 1 M: of the memory bound", rounds.ratio(4, 1), note(4, 1));
    at_most(2.0, "whole path, mixed: 10 M over 100 k", rounds.ratio(5, 3), note(5, 3));
    at_most(1.0, "foreign segment (a miss) over one of ours (a hit), 10 M", rounds.ratio(7, 6), note(7, 6));
    tell("established segment, 10 M: of the memory bound", rounds.ratio(6, 2), note(6, 2));
    tell("SYN, 10 M: of the memory bound", rounds.ratio(8, 2), note(8, 2));
}

/// Look-ups beside the bound and the maps that one would take otherwise.
fn look_ups() {
    let (_, connections) = SIZES[2];
    let hasher = Hasher::of_this_cpu(*b"a key for benche");
    let table = Established::new(connections, hasher, HugePages::Auto).expect("memory");
    let map = dashmap::DashMap::<Tuple, u32>::with_capacity(connections);
    for number in 0..connections {
        let tuple = tuple(number);
        table.insert(&tuple, table.hash(&tuple), State::Live, Time::from_millis(100_000)).expect("room");
        map.insert(tuple, number as u32);
    }
    let (cpu, mut bound, mut random) = (Cpu::detect(), Lines::new(connections * 20), Random(1));
    let rounds: Rounds<5> = in_turns(FEW, |contender| {
        let vip = u8::from(contender == 2 || contender == 4);
        let mut pick = || Tuple { vip, ..tuple(random.below(connections)) };
        steady(STEADY, |bursts| match contender {
            0 => bound.read(bursts),
            1 | 2 => {
                let made = || (0..BATCH).map(|_| pick()).collect::<Tuples>();
                let expected = if vip == 0 { BATCH } else { 0 };
                common::time_batches_of(bursts, made, |tuples| assert_eq!(cpu.run(LookUp(&table, tuples)), expected))
            }
            _ => common::time_batches(bursts, &mut pick, |tuples| {
                black_box(tuples.iter().filter(|tuple| map.contains_key(*tuple)).count());
            }),
        })
    });
    let note = |one: usize, other: usize| format!("{:.1} ns over {:.1} ns", rounds.cost(one), rounds.cost(other));
    at_most(2.0, "look-up that hits, 10 M: of the memory bound", rounds.ratio(1, 0), note(1, 0));
    at_most(2.0, "look-up that misses, 10 M: of the memory bound", rounds.ratio(2, 0), note(2, 0));
    at_least(6.0, "dashmap over look-up, hits, 10 M", rounds.ratio(3, 1), note(3, 1));
    tell("dashmap over look-up, misses, 10 M", rounds.ratio(4, 2), note(4, 2));
}

/// Whole short connections beside segments of connections that are there.
fn short() {
    let (_, connections) = SIZES[2];
    let mut bench = Bench::new(connections);
    let mut traffic = Traffic::new(connections, 5);
    let mut short = Short::new(false);
    short.start(&mut bench);
    // By contender: established from the wire, from the host; short ones.
    let mut control = 0.0;
    let rounds: Rounds<3> = in_turns(ROUNDS, |contender| {
        let kinds: &[_] = if contender == 1 { &[(Kind::Reply, 1)] } else { &[(Kind::Ack, 1), (Kind::Data, 1)] };
        if contender < 2 {
            let time = bench.time(BURSTS, contender == 1, |frame| {
                let kind = traffic.pick(kinds);
                traffic.write(kind, frame)
            });
            return each(time, BURSTS * BATCH as u64);
        }
        let (mut worker, mut ends, mut frames) = (Duration::ZERO, Duration::ZERO, 0);
        for _ in 0..4 {
            let spent = short.round(&mut bench, true);
            worker += spent.worker;
            ends += spent.control;
            frames += spent.frames;
        }
        control = each(ends, frames);
        each(worker + ends, frames)
    });
    short.finish(&mut bench);
    // As many from either side as of a short connection.
    let (wire, host) = (FRAMES.0 as f64, FRAMES.1 as f64);
    let established = |[from_wire, from_host, _]: &[f64; 3]| (wire * from_wire + host * from_host) / (wire + host);
    let note = format!(
        "{:.1} ns, {control:.1} of it the control thread's, over {:.1} ns ({:.1} from the wire, {:.1} from the host)",
        rounds.cost(2),
        rounds.median(established),
        rounds.cost(0),
        rounds.cost(1),
    );
    let ratio = rounds.median(|figures| figures[2] / established(figures));
    at_most(3.0, "short connection, 10 M: a frame over an established one", ratio, note);
}

/// Established traffic in a flood, at an active and at a passive member.
fn under_flood() {
    let (_, connections) = SIZES[2];
    let mut bench = Bench::new(connections);
    let mut traffic = Traffic::new(connections, 5);
    for (role, active) in [("active", true), ("passive", false)] {
        bench.set_active(active);
        // By contender: SYNs in ten frames.
        let syns = [0, 10, flood::SHARES[0], flood::SHARES[1], flood::SHARES[2]];
        let rounds: Rounds<5> = in_turns(ROUNDS, |contender| {
            each(flood::time(&mut bench, &mut traffic, syns[contender], BURSTS), BURSTS * BATCH as u64)
        });
        for contender in 2..5 {
            let many = syns[contender];
            let share = rounds.median(|figures| flood::share(many, figures[0], figures[1], figures[contender]));
            let alone = 1e3 / rounds.cost(0);
            let left = (10 - many) as f64 / 10.0 * 1e3 / rounds.cost(contender);
            let note = format!(
                "{:.1} ns a frame; alone {:.1} (established), {:.1} (SYN); {left:.1} of {alone:.1} M/s established",
                rounds.cost(contender),
                rounds.cost(0),
                rounds.cost(1),
            );
            at_least(0.9, format!("flood, {many} of 10 frames SYNs, {role}: rate of its share"), share, note);
        }
    }
    let lost = flood::lost(&bench, connections);
    at_most(0.0, "flood: established entries lost, of 10 M", lost as f64, String::new());
}

/// Two workers.
fn workers() {
    let mut workers = Workers::new();
    for (what, cost) in [
        ("established, both directions", Workers::established as fn(&mut Workers, Setting, u64) -> Duration),
        ("short connections", Workers::short),
    ] {
        let rounds: Rounds<3> = in_turns(FEW, |contender| {
            each(cost(&mut workers, Setting::ALL[contender], 4 * BURSTS), 4 * BURSTS * BATCH as u64)
        });
        let note = format!(
            "{:.1} ns alone, {:.1} with a member each, {:.1} with one member",
            rounds.cost(0),
            rounds.cost(1),
            rounds.cost(2)
        );
        // Each of the two costs that much a frame, so together they do twice as many.
        let rate = rounds.median(|figures| 2.0 * figures[0] / figures[2]);
        tell(format!("2 workers, {what}, 10 M: rate of one, directions on both"), rate, note);
        tell(format!("2 workers, {what}: cost of one member over a member each"), rounds.ratio(2, 1), String::new());
    }
}

/// What writes to the tables.
fn rates() {
    let mut tables = Tables::new(1_000_000);
    for work in Work::ALL {
        let mut look_ups = 0.0;
        let rounds: Rounds<2> = in_turns(FEW, |contender| {
            let spent = tables.time(work, 1, contender == 1);
            look_ups = spent.look_ups.unwrap_or(look_ups);
            each(spent.time, spent.items)
        });
        let rate = |contender| 1e3 / rounds.cost(contender);
        let note = format!("{:.1} M/s alone; look-ups meanwhile {look_ups:.0} M/s", rate(0));
        at_least(1.0, format!("{}, 1 M, beside look-ups: millions a second", work.name()), rate(1), note);
    }
    tell("look-ups with nothing beside them: millions a second", common::rates::look_ups_alone(&tables), String::new());
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if std::env::args().any(|argument| argument == "--test") {
        return; // `cargo test --benches`: this measures and checks no more than the benches that it is made of.
    }
    let wanted = Wanted(words);
    pair::pin(0);
    println!("| ratio | goal | measured | met | |\n|---|---|---|---|---|");
    let parts: [(&str, fn()); 6] = [
        ("path", path),
        ("look-ups", look_ups),
        ("short", short),
        ("flood", under_flood),
        ("workers", workers),
        ("rates", rates),
    ];
    for (name, part) in parts {
        if wanted.has(name) {
            part();
        }
    }
}
