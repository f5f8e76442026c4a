//! The tables under several threads at once, for real. Each thread knows exactly what must hold for its own
//! connections, while all share the buckets.

#![cfg(not(loom))]
#![allow(clippy::expect_used)] // In functions that only tests call, too.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use baton::config::checked::HugePages;
use baton::table::{Answer, Cursor, Established, Handshakes, Hasher, Remembered, Stage, State, Tuple};
use baton::time::Time;

const HASHER: Hasher = Hasher::new(*b"0123456789abcdef");
const THREADS: u32 = 4;

/// A small generator: the tests must not depend on a seed of the machine's.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % limit
    }
}

fn tuple(thread: u32, number: u32) -> Tuple {
    Tuple { client: Ipv4Addr::from_bits(number), client_port: thread as u16, port: 80, vip: thread as u8 }
}

#[test]
fn each_thread_finds_its_own_connections_and_only_those() {
    // 4 × 60 connections at most, and 50 that all fight over, in a table of 290: nearly full at times.
    let table = Established::new(290, HASHER, HugePages::Never).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let table = &table;
                    move || own_connections(table, thread)
                })
            })
            .collect();
        scope.spawn(|| {
            // The control thread: removes idle ones (none is), and only looks at the rest.
            let mut cursor = Cursor::default();
            while !done.load(Ordering::Relaxed) {
                table.scan(&mut cursor, 64, |tuple, entry| {
                    assert!(tuple.vip as u32 <= THREADS && tuple.client.to_bits() < 60);
                    assert!(entry.idle(Time::from_millis(9_000)) < Duration::from_secs(9));
                });
            }
        });
        let left: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        done.store(true, Ordering::Relaxed);
        let shared = table.len_of(THREADS as u8);
        assert_eq!(table.len(), left + shared);
    });
    let mut seen = HashMap::<Tuple, u32>::new();
    table.scan(&mut Cursor::default(), usize::MAX, |tuple, _| *seen.entry(tuple).or_default() += 1);
    assert!(seen.values().all(|count| *count == 1) && seen.len() == table.len());
    for tuple in seen.keys() {
        assert!(table.remove_tuple(tuple, table.hash(tuple)));
    }
    assert!(table.is_empty());
}

/// Returns how many connections are left.
fn own_connections(table: &Established, thread: u32) -> usize {
    let mut random = Random(u64::from(thread) + 1);
    let mut mine = HashMap::new();
    let now = Time::from_millis(8_000);
    for _ in 0..60_000 {
        let tuple = tuple(thread, random.below(60));
        let hash = table.hash(&tuple);
        match random.below(5) {
            0 | 1 => {
                let entry = table.insert(&tuple, hash, State::Live, now).expect("290 are enough");
                mine.insert(tuple, entry);
            }
            2 => {
                let entry = mine.remove(&tuple);
                assert_eq!(entry.is_some_and(|entry| table.remove(entry)), entry.is_some());
            }
            3 => assert_eq!(table.find(&tuple, hash), mine.get(&tuple).copied()),
            _ => {
                // Everybody's connections: whatever happens to them, there is one at most, see above.
                let shared = self::tuple(THREADS, random.below(50));
                let hash = table.hash(&shared);
                match random.below(3) {
                    0 => drop(table.insert(&shared, hash, State::Live, now)),
                    1 => drop(table.remove_tuple(&shared, hash)),
                    _ => drop(table.find(&shared, hash).map(|mut entry| table.set_syn_seen(&mut entry))),
                }
            }
        }
    }
    mine.len()
}

#[test]
fn one_thread_of_many_settles_each_handshake_and_answers_stay_with_their_own() {
    let ring = Handshakes::new(64, HugePages::Never).unwrap();
    let settled: Vec<_> = (0..20_000).map(|_| AtomicU32::new(0)).collect();
    let now = Time::from_millis(1_000);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (ring, settled) = (&ring, &settled);
            scope.spawn(move || {
                let mut random = Random(u64::from(thread) + 99);
                for number in 0..settled.len() as u32 {
                    // All threads handle the same SYN at about the same time, and flood besides.
                    let tuple = tuple(0, number);
                    let hash = HASHER.hash(&tuple);
                    assert!(!matches!(ring.remember(&tuple, hash, number, true, now), Remembered::Crowded));
                    ring.answer(&tuple, hash, number, Answer { isn: number, timestamp: None }, now);
                    for record in ring.find(&tuple, hash, now) {
                        assert!(
                            record.client_isn == number && record.answers.iter().all(|answer| answer.isn == number)
                        );
                        if record.stage == Stage::Admitted && ring.settle(&record, Stage::Confirmed) {
                            settled[number as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    let spoofed = self::tuple(1 + thread, random.below(1 << 20));
                    ring.remember(&spoofed, HASHER.hash(&spoofed), 1, false, now);
                }
            });
        }
    });
    // By one thread; by another again only where the flood overwrote the record and that one began it anew; by none
    // only where that happened to each thread between two of its steps.
    let often = |times: fn(u32) -> bool| settled.iter().filter(|count| times(count.load(Ordering::Relaxed))).count();
    assert_eq!(often(|times| times > THREADS), 0);
    assert!(often(|times| times == 0) < settled.len() / 100 && often(|times| times == 1) > 0);
}
