//! The tables against oracles that are too simple to be wrong, one thread at a time.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::checked::HugePages;
use crate::simd::Portable;
use crate::time::Time;

const HASHER: Hasher = Hasher::new(*b"sixteen bytes ok");

fn tuple(number: u32, vip: u8) -> Tuple {
    Tuple { client: Ipv4Addr::from_bits(0xc000_0200 | number), client_port: 1024, port: 443, vip }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Insert(State),
    Remove,
    RemoveStale,
    RemoveTuple,
    Touch,
    SynSeen(bool),
    SetState(State),
    Find,
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![Just(State::Live), Just(State::TimeWait)]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => state().prop_map(Operation::Insert),
        1 => Just(Operation::Remove),
        1 => Just(Operation::RemoveStale),
        1 => Just(Operation::RemoveTuple),
        1 => Just(Operation::Touch),
        1 => any::<bool>().prop_map(Operation::SynSeen),
        1 => state().prop_map(Operation::SetState),
        1 => Just(Operation::Find),
    ]
}

/// What the oracle knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    state: State,
    syn_seen: bool,
    seen: u64,
}

struct Pair {
    table: Established,
    oracle: HashMap<Tuple, Known>,
    /// The first observation of each tuple's entry, to be refused later on.
    observed: HashMap<Tuple, Entry>,
}

impl Pair {
    fn step(&mut self, operation: Operation, tuple: Tuple, now: Time) {
        let tick = now.as_secs() / TICK.as_secs();
        let hash = self.table.hash(&tuple);
        let known = self.oracle.get_mut(&tuple);
        let found = self.table.find(&tuple, hash);
        assert_eq!(found.is_some(), known.is_some());
        match (operation, known, found) {
            (Operation::Insert(state), known, found) => {
                let room = known.is_some() || self.oracle.len() < self.table.capacity();
                let result = self.table.insert(&tuple, hash, state, now);
                assert_eq!(result.is_ok(), room);
                if let Ok(entry) = result {
                    self.oracle.insert(tuple, Known { state, syn_seen: false, seen: tick });
                    assert!(found.is_none_or(|old| old.generation() != entry.generation() && old.slot == entry.slot));
                    self.observed.entry(tuple).or_insert(entry);
                }
            }
            (Operation::Remove, Some(_), Some(entry)) => {
                assert!(self.table.remove(entry) && !self.table.remove(entry));
                self.oracle.remove(&tuple);
            }
            (Operation::RemoveTuple, known, _) => {
                assert_eq!(self.table.remove_tuple(&tuple, hash), known.is_some());
                self.oracle.remove(&tuple);
            }
            (Operation::RemoveStale, _, found) => {
                if let Some(entry) = self.observed.remove(&tuple) {
                    assert_eq!(self.table.remove(entry), found == Some(entry));
                    if found == Some(entry) {
                        self.oracle.remove(&tuple);
                    }
                }
            }
            (Operation::Touch, Some(known), Some(mut entry)) => {
                assert!(self.table.touch(&mut entry, now));
                known.seen = tick;
            }
            (Operation::SynSeen(seen), Some(known), Some(mut entry)) => {
                assert!(if seen { self.table.set_syn_seen(&mut entry) } else { self.table.clear_syn_seen(&mut entry) });
                known.syn_seen = seen;
            }
            (Operation::SetState(state), Some(known), Some(mut entry)) => {
                assert!(self.table.set_state(&mut entry, state));
                known.state = state;
            }
            _ => {}
        }
        self.agree(tuple, now);
    }

    fn agree(&self, tuple: Tuple, now: Time) {
        let found = self.table.find(&tuple, self.table.hash(&tuple)).map(|entry| Known {
            state: entry.state(),
            syn_seen: entry.syn_seen(),
            seen: now.as_secs() / TICK.as_secs() - entry.idle(now).as_secs() / TICK.as_secs(),
        });
        assert_eq!(found, self.oracle.get(&tuple).copied());
        assert_eq!(self.table.len(), self.oracle.len());
    }

    fn agree_on_all(&self, slots: usize) {
        let mut seen = Vec::new();
        let mut cursor = Cursor::default();
        while !self.table.scan(&mut cursor, slots, |tuple, _| seen.push(tuple)) {}
        assert_eq!(cursor, Cursor::default());
        seen.sort_unstable();
        let mut expected: Vec<_> = self.oracle.keys().copied().collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
        for vip in 0..3 {
            assert_eq!(self.table.len_of(vip), expected.iter().filter(|tuple| tuple.vip == vip).count());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_table_does_as_a_hash_map(
        capacity in 1usize..60,
        steps in vec((operation(), 0u32..40, 0u8..3, 0u64..9), 0..400),
        slots in 1usize..50,
    ) {
        let table = Established::new(capacity, HASHER, HugePages::Never).unwrap();
        let mut pair = Pair { table, oracle: HashMap::new(), observed: HashMap::new() };
        let mut now = Time::from_millis(1_000);
        for (operation, number, vip, seconds) in steps {
            now += Duration::from_secs(seconds);
            pair.step(operation, tuple(number, vip), now);
        }
        pair.agree_on_all(slots);
        // Nobody is counted as having passed over a bucket once all are gone.
        for tuple in pair.oracle.keys() {
            prop_assert!(pair.table.remove_tuple(tuple, pair.table.hash(tuple)));
        }
        prop_assert!(pair.table.is_empty() && pair.table.passed() == 0);
    }

    #[test]
    fn a_record_keeps_the_last_four_different_answers(answers in vec((0u32..4, proptest::option::of(0u32..3)), 0..40)) {
        let ring = Handshakes::new(8, HugePages::Never).unwrap();
        let (tuple, now) = (tuple(1, 0), Time::from_millis(5));
        let hash = HASHER.hash(&tuple);
        ring.remember(&tuple, hash, 9, true, now);
        let mut expected: Vec<Answer> = Vec::new();
        for (isn, timestamp) in answers {
            let answer = Answer { isn, timestamp };
            prop_assert_eq!(ring.answer(&tuple, hash, 9, answer, now), Some(Stage::Admitted));
            if !expected.contains(&answer) {
                expected.push(answer);
                let surplus = expected.len().saturating_sub(ANSWERS);
                expected.drain(..surplus);
            }
            let mut found = ring.find(&tuple, hash, now)[0].answers.to_vec();
            let mut wanted = expected.clone();
            found.sort_unstable_by_key(|answer| (answer.isn, answer.timestamp));
            wanted.sort_unstable_by_key(|answer| (answer.isn, answer.timestamp));
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn the_ring_overwrites_by_its_rules(steps in vec((0u32..7, 0u32..6, any::<(bool, bool)>(), 0u8..6, 0u64..4_000), 0..300)) {
        let ring = Handshakes::new(8, HugePages::Never).unwrap();
        let mut oracle = Ring::default();
        let mut now = Time::from_millis(1);
        let mut outlooks = [Outlook::NONE; 7];
        for (number, isn, (admitted, ahead), action, millis) in steps {
            now += Duration::from_millis(millis * millis / 2_000);
            let tuple = tuple(number, 0);
            let hash = HASHER.hash(&tuple);
            let known = oracle.remember(number, isn, admitted, now);
            let remembered = match ahead {
                true => ring.remember_foreseen(Portable, outlooks[number as usize], &tuple, hash, isn, admitted, now),
                false => ring.remember(&tuple, hash, isn, admitted, now),
            };
            // What was foreseen before the last step, as in a burst.
            outlooks = std::array::from_fn(|number| {
                ring.foresee(Portable, HASHER.hash(&self::tuple(number as u32, 0)), now)
            });
            match remembered {
                Remembered::Known(record) => prop_assert!(known && record.client_isn == isn),
                Remembered::New => prop_assert!(!known),
                Remembered::Crowded => prop_assert!(false, "one thread crowds nobody out"),
            }
            if action == 0 {
                ring.answer(&tuple, hash, isn, Answer { isn: 1, timestamp: None }, now);
                oracle.newest(number, isn).answered = true;
            }
            let settled = match action {
                1 => Some(Stage::Answered),
                2 => Some(Stage::Confirmed),
                3 => Some(Stage::Lost),
                _ => None,
            };
            if let Some(stage) = settled {
                let record = ring.find(&tuple, hash, now).into_iter().find(|record| record.client_isn == isn).unwrap();
                prop_assert!(ring.settle(&record, stage));
                oracle.newest(number, isn).stage = stage;
            }
            for number in 0..7 {
                let tuple = self::tuple(number, 0);
                let found: Vec<_> = ring
                    .find(&tuple, HASHER.hash(&tuple), now)
                    .iter()
                    .map(|record| (record.client_isn, record.stage, record.age, !record.answers.is_empty()))
                    .collect();
                prop_assert_eq!(found, oracle.find(number, now));
            }
            let mut pending = [0; tuple::MAX_VIPS];
            ring.tally(now, &mut pending);
            prop_assert_eq!(pending[0], oracle.valid(now).filter(|record| record.stage == Stage::Admitted).count());
        }
    }
}

/// One bucket of the ring, by its rules.
#[derive(Default)]
struct Ring([Option<Kept>; 8]);

#[derive(Clone, Copy)]
struct Kept {
    number: u32,
    isn: u32,
    stage: Stage,
    answered: bool,
    time: Time,
}

impl Ring {
    fn valid(&self, now: Time) -> impl Iterator<Item = &Kept> {
        self.0.iter().flatten().filter(move |kept| now.since(kept.time) <= LIFETIME)
    }

    fn newest(&mut self, number: u32, isn: u32) -> &mut Kept {
        let of = |kept: &&mut Kept| kept.number == number && kept.isn == isn;
        self.0.iter_mut().flatten().filter(of).max_by_key(|kept| kept.time).unwrap()
    }

    fn find(&self, number: u32, now: Time) -> Vec<(u32, Stage, Duration, bool)> {
        let mut found: Vec<_> = self.valid(now).filter(|kept| kept.number == number).collect();
        found.sort_by_key(|kept| now.since(kept.time));
        found.iter().map(|kept| (kept.isn, kept.stage, now.since(kept.time), kept.answered)).collect()
    }

    /// Whether it was known.
    fn remember(&mut self, number: u32, isn: u32, admitted: bool, now: Time) -> bool {
        for slot in &mut self.0 {
            if slot.is_some_and(|kept| now.since(kept.time) > LIFETIME) {
                *slot = None;
            }
        }
        if let Some(kept) = self.0.iter_mut().flatten().find(|kept| kept.number == number && kept.isn == isn) {
            kept.time = now;
            if admitted && kept.stage == Stage::Seen {
                kept.stage = Stage::Admitted;
            }
            return true;
        }
        let own = self.0.iter().flatten().filter(|kept| kept.number == number).count();
        let place = if own >= RECORDS_PER_TUPLE {
            let dear = |kept: &Kept| match kept.stage {
                Stage::Answered | Stage::Lost if now.since(kept.time) >= Duration::from_secs(1) => 0,
                Stage::Seen | Stage::Admitted if !kept.answered => 1,
                _ => 2,
            };
            (0..8)
                .filter(|slot| self.0[*slot].is_some_and(|kept| kept.number == number))
                .min_by_key(|slot| self.0[*slot].map(|kept| (dear(&kept), kept.time)))
        } else {
            (0..8).min_by_key(|slot| self.0[*slot].map(|kept| kept.time))
        };
        let stage = if admitted { Stage::Admitted } else { Stage::Seen };
        self.0[place.unwrap()] = Some(Kept { number, isn, stage, answered: false, time: now });
        false
    }
}

#[test]
fn coarse_time_wraps_as_documented() {
    let table = Established::new(1, HASHER, HugePages::Never).unwrap();
    let tuple = tuple(1, 0);
    let hash = table.hash(&tuple);
    let start = Time::from_millis(10_000_000);
    let mut entry = table.insert(&tuple, hash, State::Live, start).unwrap();
    let round = TICK * 2_048;
    assert_eq!(entry.idle(start + (round - 2 * TICK)), round - 2 * TICK);
    assert_eq!(entry.idle(start + round), Duration::ZERO);
    // Another worker's clock may be a tick behind: no write back and forth.
    let before = entry;
    assert!(table.touch(&mut entry, start - TICK) && entry == before);
    assert_eq!(entry.idle(start - TICK), Duration::ZERO);
}

#[test]
fn a_record_is_valid_for_its_lifetime_across_the_wrap_of_its_time() {
    let ring = Handshakes::new(8, HugePages::Never).unwrap();
    let tuple = tuple(1, 0);
    let hash = HASHER.hash(&tuple);
    let wrap = 1u64 << 32;
    for start in [1_000, wrap - 10, wrap, 5 * wrap - 70_000] {
        let start = Time::from_millis(start);
        assert!(matches!(ring.remember(&tuple, hash, 1, false, start), Remembered::New));
        let ages = |now: Time| ring.find(&tuple, hash, now).iter().map(|record| record.age).collect::<Vec<_>>();
        assert_eq!(ages(start + LIFETIME), [LIFETIME]);
        assert!(ages(start + LIFETIME + Duration::from_millis(1)).is_empty());
        // Remembered by a worker whose clock is ahead.
        assert_eq!(ages(start - Duration::from_millis(900)), [Duration::ZERO]);
        let mut pending = [0; tuple::MAX_VIPS];
        ring.tally(start + 2 * LIFETIME, &mut pending);
        assert_eq!(ring.find(&tuple, hash, start).len(), 0);
    }
}

#[test]
fn answers_of_former_records_stay_void_through_all_generations() {
    let ring = Handshakes::new(8, HugePages::Never).unwrap();
    let tuple = tuple(1, 0);
    let hash = HASHER.hash(&tuple);
    let now = Time::from_millis(1);
    assert!(matches!(ring.remember(&tuple, hash, 0, true, now), Remembered::New));
    for isn in 0..4 {
        assert!(ring.answer(&tuple, hash, 0, Answer { isn, timestamp: Some(isn) }, now).is_some());
    }
    // All begin in the slot of the first, which is out of date: more of them than there are generations.
    let now = now + 2 * LIFETIME;
    for isn in 1..70_000 {
        assert!(matches!(ring.remember(&tuple, hash, isn, true, now), Remembered::New));
        let records = ring.find(&tuple, hash, now);
        let record = records.iter().find(|record| record.client_isn == isn).unwrap();
        assert!(record.slot == 0 || isn < 5);
        assert!(records.iter().all(|record| record.answers.is_empty()));
    }
}

/// The share of look-ups that need one line, at capacity: what the layout promises.
#[test]
fn one_line_is_enough_for_most_hits_and_misses_at_capacity() {
    let table = Established::new(100_000, HASHER, HugePages::Never).unwrap();
    let of = |number: u32| Tuple { client: Ipv4Addr::from_bits(number), ..tuple(0, 0) };
    for number in 0..100_000 {
        table.insert(&of(number), table.hash(&of(number)), State::Live, Time::ZERO).unwrap();
    }
    let lines = |from: u32| {
        let lines: Vec<_> = (from..from + 100_000).map(|number| table.lines(&of(number))).collect();
        (lines.iter().filter(|lines| **lines == 1).count(), lines.iter().sum::<usize>(), lines.into_iter().max())
    };
    let (hits, hit_lines, _) = lines(0);
    let (misses, miss_lines, longest) = lines(1 << 24);
    assert!(hits > 90_000 && hit_lines < 112_000, "{hits} hits in one line, {hit_lines} lines");
    assert!(misses > 93_500 && miss_lines < 112_000, "{misses} misses in one line, {miss_lines} lines");
    println!(
        "{hits} hits in one line, {hit_lines} lines; {misses} misses in one line, {miss_lines} lines; {longest:?}"
    );
    assert!(longest < Some(20), "{longest:?}");
}

#[test]
fn sizes_out_of_range_are_refused() {
    for capacity in [0, usize::MAX] {
        assert!(matches!(Established::new(capacity, HASHER, HugePages::Never), Err(TableError::Size { .. })));
        assert!(matches!(Handshakes::new(capacity, HugePages::Never), Err(TableError::Size { .. })));
    }
    assert_eq!(Handshakes::new(9, HugePages::Auto).unwrap().capacity(), 16);
}

/// The odds that the documentation states, on a smaller ring with the same number of SYNs a bucket.
#[test]
fn an_honest_handshake_survives_a_flood_as_often_as_stated() {
    let flood = |mut number: u32, mean: f64, buckets: u32| {
        let ring = Handshakes::new(8 * buckets as usize, HugePages::Never).unwrap();
        let per_honest = 64;
        let (mut kept, mut all) = (0, 0);
        let mut spoof = |time: Time| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let tuple = Tuple { client: Ipv4Addr::from_bits(number), ..tuple(0, 1) };
            ring.remember(&tuple, HASHER.hash(&tuple), number, true, time);
        };
        let between = (mean * f64::from(buckets)) as u32;
        let mut window = std::collections::VecDeque::new();
        for turn in 0..(between / per_honest + 4_000) {
            // Time stands for the order of arrivals; one tick a turn.
            let now = Time::from_millis(100_000 + u64::from(turn));
            let honest = Tuple { client_port: turn as u16, ..tuple(turn, 0) };
            ring.remember(&honest, HASHER.hash(&honest), turn, true, now);
            window.push_back(honest);
            (0..per_honest - 1).for_each(|_| spoof(now));
            if window.len() as u32 * per_honest > between {
                let honest = window.pop_front().unwrap();
                all += 1;
                kept += usize::from(!ring.find(&honest, HASHER.hash(&honest), now).is_empty());
            }
        }
        kept as f64 / f64::from(all)
    };
    // 0.38 SYNs a bucket while the handshake lasts: none of 4,000 lost. 3.8: Poisson says 4.1 % lost.
    assert_eq!(flood(1, 0.38, 1 << 12), 1.0);
    let kept = flood(2, 3.81, 1 << 12);
    assert!((0.94..0.975).contains(&kept), "{kept}");
}
