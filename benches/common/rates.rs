//! What writes to the tables, as often as it can, alone or while a second thread looks connections up in the same table.

use std::hint::black_box;
use std::io;
use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton::config::checked::HugePages;
use baton::control::truth::{Ending, Held, Kernel, Truth};
use baton::simd::Cpu;
use baton::table::{Answer, Cursor, Entry, Established, Handshakes, Hash, Hasher, Stage, State, Tuple, Tuples};
use baton::time::Time;

use super::pair::{need_two_cores, pin};
use super::{BATCH, CpuTime, LookUp, Random, Remember, tuple};

static HASHER: LazyLock<Hasher> = LazyLock::new(|| Hasher::of_this_cpu(*b"a key for benche"));

/// When what is there was last seen, and a minute later.
const THEN: Time = Time::from_millis(100_000);
const NOW: Time = Time::from_millis(160_000 + 8_000);

/// As launched.
const RECORDS: usize = 1 << 20;

/// Between two handshakes: as many as are measured, so that of a bucket's records the oldest is known.
const SYNS_EVERY: Duration = Duration::from_nanos(250);

/// Items of one measurement of what adds to a full table.
const BLOCK: usize = 4096;

/// What is done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Connections are entered.
    Insert,
    /// They are removed by their entries.
    Remove,
    /// The oldest are removed, and as many new ones entered, in turn.
    Churn,
    /// A SYN is remembered, our host's answer, the client's acknowledgment: its connection is entered.
    Establish,
    /// A scan finds entries that have been idle for a minute, and removes them.
    Expire,
    /// An empty table is filled with what the kernel has.
    Rebuild,
}

impl Work {
    /// All of it.
    pub const ALL: [Work; 6] = [Work::Insert, Work::Remove, Work::Churn, Work::Establish, Work::Expire, Work::Rebuild];

    /// As a bench is called.
    pub fn name(self) -> &'static str {
        match self {
            Work::Insert => "insert",
            Work::Remove => "remove",
            Work::Churn => "churn: remove one, insert one",
            Work::Establish => "establish: remember, answer, find, insert, settle",
            Work::Expire => "expire",
            Work::Rebuild => "rebuild",
        }
    }
}

/// A kernel with these connections.
struct Has(Vec<(Tuple, Held)>);

impl Kernel for Has {
    fn dump(&mut self) -> io::Result<Vec<(Tuple, Held)>> {
        Ok(std::mem::take(&mut self.0))
    }

    fn query(&mut self, _: &Tuple) -> io::Result<Option<Held>> {
        Ok(Some(Held::Connection))
    }

    fn destroy(&mut self, _: &Tuple) -> io::Result<()> {
        Ok(())
    }

    fn endings(&mut self, _: usize, _: &mut dyn FnMut(Ending)) -> io::Result<()> {
        Ok(())
    }
}

/// A table, and what is needed to write to it.
pub struct Tables {
    established: Established,
    handshakes: Handshakes,
    connections: usize,
    /// Connections entered beyond those, so far.
    fresh: u32,
}

/// What was spent on how many, and how many look-ups the second thread did in a second, if there was one.
pub struct Spent {
    /// CPU time.
    pub time: Duration,
    /// Items.
    pub items: u64,
    /// In millions a second, of CPU time of that thread.
    pub look_ups: Option<f64>,
}

impl Tables {
    /// With this many connections, and room for a few more.
    pub fn new(connections: usize) -> Tables {
        let established = Established::new(connections + 2 * BLOCK, *HASHER, HugePages::Auto).expect("memory");
        for number in 0..connections {
            let tuple = tuple(number);
            established.insert(&tuple, established.hash(&tuple), State::Live, THEN).expect("room");
        }
        let handshakes = Handshakes::new(RECORDS, HugePages::Auto).expect("memory");
        let mut random = Random(13);
        for _ in 0..2 * RECORDS {
            let client = Ipv4Addr::from_bits(random.next() as u32);
            let tuple = Tuple { client, client_port: 9, ..Tuple::NONE };
            handshakes.remember(&tuple, HASHER.hash(&tuple), 1, true, NOW);
        }
        Tables { established, handshakes, connections, fresh: 0 }
    }

    /// Does at least `items` of some work, alone or beside look-ups on another core.
    pub fn time(&mut self, work: Work, items: u64, beside: bool) -> Spent {
        let connections = self.connections;
        let mut once = || match work {
            Work::Expire => self.expire(beside),
            Work::Rebuild => rebuild(connections, beside),
            _ => self.block(work, beside),
        };
        let mut all = once();
        while all.items < items {
            let more = once();
            all.time += more.time;
            all.items += more.items;
            all.look_ups = more.look_ups;
        }
        all
    }

    /// Fresh tuples, in batches.
    fn fresh(&mut self) -> Vec<[Tuple; BATCH]> {
        let batch = |_| {
            std::array::from_fn(|_| {
                self.fresh = self.fresh.wrapping_add(1);
                Tuple { vip: 1, ..tuple(self.fresh as usize) }
            })
        };
        (0..BLOCK / BATCH).map(batch).collect()
    }

    /// So many blocks that the other thread is well under way.
    fn block(&mut self, work: Work, beside: bool) -> Spent {
        const BLOCKS: usize = 64;
        let mut now = NOW + SYNS_EVERY * self.fresh;
        let batches: Vec<_> = (0..BLOCKS).map(|_| self.fresh()).collect();
        let (table, ring) = (&self.established, &self.handshakes);
        let (time, look_ups) = beside_look_ups(table, self.connections, beside, || {
            let mut spent = Duration::ZERO;
            let mut before: Vec<Entry> = Vec::new();
            for batches in &batches {
                let start = CpuTime::now();
                let mut entries = Vec::with_capacity(BLOCK);
                let mut old = before.iter();
                for tuples in batches {
                    let hashes = prefetched(table, tuples);
                    if work == Work::Establish {
                        now += SYNS_EVERY * BATCH as u32;
                        establish(table, ring, tuples, &hashes, now);
                        continue;
                    }
                    for (tuple, hash) in tuples.iter().zip(&hashes) {
                        if work == Work::Churn
                            && let Some(old) = old.next()
                        {
                            assert!(table.remove(*old));
                        }
                        entries.push(table.insert(tuple, *hash, State::Live, NOW).expect("room"));
                    }
                }
                let inserted = CpuTime::now() - start;
                if work == Work::Establish {
                    let all = batches.as_flattened();
                    all.iter().for_each(|tuple| assert!(table.remove_tuple(tuple, table.hash(tuple))));
                    spent += inserted;
                    continue;
                }
                if work == Work::Churn {
                    spent += inserted;
                    before = entries;
                    continue;
                }
                let start = CpuTime::now();
                entries.iter().for_each(|entry| assert!(table.remove(*entry)));
                spent += if work == Work::Insert { inserted } else { CpuTime::now() - start };
            }
            before.iter().for_each(|entry| assert!(table.remove(*entry)));
            spent
        });
        assert_eq!(table.len(), self.connections);
        Spent { time, items: (BLOCKS * BLOCK) as u64, look_ups }
    }

    fn expire(&mut self, beside: bool) -> Spent {
        let table = &self.established;
        let (time, look_ups) = beside_look_ups(table, self.connections, beside, || {
            let start = CpuTime::now();
            let mut cursor = Cursor::default();
            while !table.scan(&mut cursor, 4096, |_, entry| {
                if entry.idle(NOW) >= Duration::from_secs(60) {
                    assert!(table.remove(entry));
                }
            }) {}
            CpuTime::now() - start
        });
        assert!(table.is_empty());
        for number in 0..self.connections {
            let tuple = tuple(number);
            table.insert(&tuple, table.hash(&tuple), State::Live, THEN).expect("room");
        }
        Spent { time, items: self.connections as u64, look_ups }
    }
}

fn rebuild(connections: usize, beside: bool) -> Spent {
    let table = Established::new(connections, *HASHER, HugePages::Auto).expect("memory");
    // In no order that has to do with where they go.
    let mut kernel = Has((0..connections).map(|number| (tuple(number), Held::Connection)).collect());
    let (time, look_ups) = beside_look_ups(&table, connections, beside, || {
        let start = CpuTime::now();
        let (_, rebuilt) = Truth::rebuild(&table, &mut kernel, NOW).expect("room");
        assert_eq!(rebuilt.connections, connections);
        CpuTime::now() - start
    });
    Spent { time, items: connections as u64, look_ups }
}

fn prefetched(table: &Established, tuples: &[Tuple; BATCH]) -> [Hash; BATCH] {
    tuples.map(|tuple| {
        let hash = table.hash(&tuple);
        table.prefetch(hash);
        hash
    })
}

fn establish(table: &Established, ring: &Handshakes, tuples: &[Tuple; BATCH], hashes: &[Hash; BATCH], now: Time) {
    hashes.iter().for_each(|hash| ring.prefetch(*hash));
    let new = Cpu::detect().run(Remember { ring, tuples, hashes, isn: 5, admitted: true, now });
    assert_eq!(new, BATCH, "nobody has used these tuples");
    for (tuple, hash) in tuples.iter().zip(hashes) {
        let answer = Answer { isn: 7, timestamp: Some(8) };
        assert!(ring.answer(tuple, *hash, 5, answer, now).is_some());
        let records = ring.find(tuple, *hash, now);
        let record = records.iter().find(|record| record.acknowledged_by(8, Some(8))).expect("just answered");
        table.insert(tuple, *hash, State::Live, now).expect("room");
        assert!(ring.settle(record, Stage::Confirmed));
    }
}

/// Does `work`, if `beside` while another core looks random connections up in the same table. Returns how many million
/// look-ups that does in a second.
fn beside_look_ups<T>(
    table: &Established,
    connections: usize,
    beside: bool,
    work: impl FnOnce() -> T,
) -> (T, Option<f64>) {
    if !beside {
        return (work(), None);
    }
    need_two_cores();
    let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(1);
            look_up_until(table, connections, &started, &done)
        });
        // Release, Acquire: nothing but these flags is handed over.
        while !started.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        let result = work();
        done.store(true, Ordering::Release);
        (result, Some(other.join().expect("the second thread")))
    })
}

fn look_up_until(table: &Established, connections: usize, started: &AtomicBool, done: &AtomicBool) -> f64 {
    let mut random = Random(3);
    let cpu = Cpu::detect();
    let (mut spent, mut count) = (Duration::ZERO, 0);
    while !done.load(Ordering::Acquire) {
        let batches: [Tuples; 64] =
            std::array::from_fn(|_| (0..BATCH).map(|_| tuple(random.below(connections))).collect());
        let start = CpuTime::now();
        for tuples in &batches {
            black_box(cpu.run(LookUp(table, tuples)));
        }
        spent += CpuTime::now() - start;
        count += batches.len() * BATCH;
        started.store(true, Ordering::Release);
    }
    count as f64 / spent.as_secs_f64() / 1e6
}

/// Million look-ups a second that a thread does while nothing else is done to the table.
pub fn look_ups_alone(tables: &Tables) -> f64 {
    let pause = || std::thread::sleep(Duration::from_millis(300));
    beside_look_ups(&tables.established, tables.connections, true, pause).1.unwrap_or_default()
}
