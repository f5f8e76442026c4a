//! The tables and the role cell under loom, which tries every interleaving (up to a number of preemptions) and every
//! value that a load may return under the memory model.
//!
//! ```text
//! cargo test --no-default-features --features loom --test loom
//! ```

#![cfg(loom)]

use std::net::Ipv4Addr;

use baton::config::checked::HugePages;
use baton::port::BURST;
use baton::shared::{Role, Roles};
use baton::simd::Portable;
use baton::table::{
    Answer, Cursor, Entries, Entry, Established, Found, Handshakes, Hash, Hasher, Remembered, Stage, State, Tuple,
    Tuples,
};
use baton::time::Time;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

const HASHER: Hasher = Hasher::new(*b"0123456789abcdef");
const NOW: Time = Time::from_millis(100_000);

/// A table's slots a bucket, and the ring's.
const SLOTS: usize = 5;
const RECORDS: usize = 8;

fn tuple(number: u32) -> Tuple {
    Tuple { client: Ipv4Addr::from_bits(0x0a00_0000 + number), client_port: 40_000, port: 80, vip: 0 }
}

/// Runs the model in every interleaving of at most `preemptions` preemptions.
fn model(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(run);
}

/// A table of `capacity` that holds `tuples`.
fn table_of(capacity: usize, tuples: impl IntoIterator<Item = Tuple>) -> Arc<Established> {
    let table = Established::new(capacity, HASHER, HugePages::Never).unwrap();
    for tuple in tuples {
        insert(&table, &tuple);
    }
    Arc::new(table)
}

fn insert(table: &Established, tuple: &Tuple) -> Entry {
    table.insert(tuple, table.hash(tuple), State::Live, NOW).unwrap()
}

fn find(table: &Established, tuple: &Tuple) -> Option<Entry> {
    table.find(tuple, table.hash(tuple))
}

fn remove(table: &Established, tuple: &Tuple) -> bool {
    table.remove_tuple(tuple, table.hash(tuple))
}

/// Every entry of the table, and that its counts agree.
fn all(table: &Established) -> Vec<Tuple> {
    let mut tuples = Vec::new();
    assert!(table.scan(&mut Cursor::default(), usize::MAX, |tuple, _| tuples.push(tuple)));
    assert_eq!((table.len(), table.len_of(0)), (tuples.len(), tuples.len()));
    tuples.sort_unstable();
    tuples
}

/// The first tuples whose home is bucket 0 of `buckets`.
fn at_home(buckets: usize) -> impl Iterator<Item = Tuple> {
    (0..).map(tuple).filter(move |tuple| (u128::from(HASHER.hash(tuple).bits()) * buckets as u128) >> 64 == 0)
}

#[test]
fn two_connections_entered_at_once_are_both_there() {
    model(3, || {
        let table = table_of(3, []);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || insert(&other, &tuple(1)));
        let mine = insert(&table, &tuple(2));
        let theirs = thread.join().unwrap();
        assert_eq!(all(&table), [tuple(1), tuple(2)]);
        assert!(table.remove(mine) && table.remove(theirs) && table.is_empty());
    });
}

#[test]
fn a_full_table_takes_one_of_two() {
    model(3, || {
        let table = table_of(1, []);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || other.insert(&tuple(1), other.hash(&tuple(1)), State::Live, NOW).is_ok());
        let mine = table.insert(&tuple(2), table.hash(&tuple(2)), State::Live, NOW).is_ok();
        let theirs = thread.join().unwrap();
        // Never both. Neither only while one takes its reservation back, of which the other saw the count.
        assert_eq!(all(&table).len(), usize::from(mine) + usize::from(theirs));
        assert!(mine || theirs);
    });
}

#[test]
fn one_connection_entered_twice_at_once_is_there_once() {
    model(3, || {
        let table = table_of(3, []);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            insert(&other, &tuple(1));
            assert!(find(&other, &tuple(1)).is_some());
        });
        insert(&table, &tuple(1));
        assert!(find(&table, &tuple(1)).is_some());
        thread.join().unwrap();
        assert_eq!(all(&table), [tuple(1)]);
        assert!(remove(&table, &tuple(1)) && table.is_empty());
    });
}

/// Who has found none enters it without another look, whether the other has entered it before, does so now, or will.
#[test]
fn one_connection_entered_as_new_beside_another_is_there_once() {
    model(3, || {
        let table = table_of(3, []);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || insert(&other, &tuple(1)));
        let hash = table.hash(&tuple(1));
        let entry = table.insert_new(&tuple(1), hash, State::Live, NOW).unwrap();
        thread.join().unwrap();
        assert_eq!(all(&table), [tuple(1)]);
        // What it was given is the entry, unless the other has confirmed that since.
        assert!(table.remove(entry) || remove(&table, &tuple(1)));
        assert!(table.is_empty());
    });
}

#[test]
fn one_connection_entered_twice_while_a_nearer_slot_falls_free_is_there_once() {
    model(2, || {
        let table = table_of(3, [tuple(1)]);
        let threads = [2, 2].map(|number| {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                insert(&table, &tuple(number));
            })
        });
        assert!(remove(&table, &tuple(1)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(all(&table), [tuple(2)]);
    });
}

#[test]
fn one_connection_entered_in_two_buckets_at_once_is_there_once() {
    model(2, || {
        // Its home is full; one slot there falls free while two threads enter it.
        let mut tuples = at_home(3);
        let fillers: Vec<_> = tuples.by_ref().take(SLOTS).collect();
        let (leaver, newcomer) = (fillers[0], tuples.next().unwrap());
        let table = table_of(8, fillers.iter().copied());
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            insert(&other, &newcomer);
        });
        assert!(remove(&table, &leaver));
        insert(&table, &newcomer);
        thread.join().unwrap();
        assert!(all(&table).iter().filter(|tuple| **tuple == newcomer).count() == 1);
        assert!(remove(&table, &newcomer) && find(&table, &newcomer).is_none());
        assert_eq!(table.len(), SLOTS - 1);
    });
}

#[test]
fn a_connection_beyond_its_home_is_found_whatever_happens_there() {
    model(3, || {
        let mut tuples = at_home(3);
        let fillers: Vec<_> = tuples.by_ref().take(SLOTS).collect();
        let (far, newcomer) = (tuples.next().unwrap(), tuples.next().unwrap());
        let table = table_of(8, fillers.iter().copied().chain([far]));
        let other = Arc::clone(&table);
        let leaver = fillers[2];
        let thread = thread::spawn(move || {
            assert!(remove(&other, &leaver));
            insert(&other, &newcomer);
        });
        assert!(find(&table, &far).is_some());
        thread.join().unwrap();
        assert!(find(&table, &far).is_some() && find(&table, &newcomer).is_some());
    });
}

#[test]
fn a_slot_that_changes_hands_is_never_taken_for_its_last_owner() {
    model(3, || {
        let table = table_of(3, [tuple(1)]);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            let removed = remove(&other, &tuple(1));
            insert(&other, &tuple(2));
            removed
        });
        // Whoever finds an entry and removes it has removed that connection and no other.
        let mine = find(&table, &tuple(1)).is_some_and(|entry| table.remove(entry));
        let theirs = thread.join().unwrap();
        assert!(mine != theirs);
        assert_eq!(all(&table), [tuple(2)]);
    });
}

/// What a burst's looks find of the first `count`.
fn look_up(table: &Established, tuples: &Tuples, count: usize) -> Vec<Option<Entry>> {
    let (mut hashes, mut entries) = ([Hash::default(); BURST], Entries::default());
    table.hash_group(Portable, tuples, 0, &mut hashes);
    let mut found = Found::none(count, NOW);
    (0..count).for_each(|place| table.look(Portable, tuples, place, &hashes, &mut entries));
    table.judge(Portable, tuples, 0, &hashes, &entries, &mut found);
    let entry = |place: usize| match (found.found >> place & 1 != 0, found.again() >> place & 1 != 0) {
        (true, _) => Some(entries.get(place)),
        (false, true) => table.look_again(Portable, tuples, place, hashes[place]),
        (false, false) => None,
    };
    (0..count).map(entry).collect()
}

#[test]
fn a_burst_takes_no_slot_for_its_last_or_next_owner() {
    model(3, || {
        let table = table_of(3, [tuple(1)]);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            let removed = remove(&other, &tuple(1));
            insert(&other, &tuple(2));
            removed
        });
        let tuples = [tuple(1), tuple(2)].into_iter().collect();
        let found = look_up(&table, &tuples, 2);
        let first = found[0].is_some_and(|entry| table.remove(entry));
        let second = found[1].is_some_and(|entry| table.remove(entry));
        assert!(thread.join().unwrap() != first);
        assert_eq!(all(&table), if second { vec![] } else { vec![tuple(2)] });
    });
}

#[test]
fn a_connection_is_found_while_it_is_confirmed_again() {
    model(3, || {
        let table = table_of(3, [tuple(1)]);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || insert(&other, &tuple(1)));
        let tuples = [tuple(1)].into_iter().collect();
        let found = look_up(&table, &tuples, 1);
        assert!(found[0].is_some() && find(&table, &tuple(1)).is_some());
        thread.join().unwrap();
    });
}

#[test]
fn a_removal_of_what_was_found_hits_nobody_else() {
    model(3, || {
        let table = table_of(3, [tuple(1)]);
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            assert!(remove(&other, &tuple(1)));
            insert(&other, &tuple(2));
            assert!(remove(&other, &tuple(2)));
            insert(&other, &tuple(3));
        });
        let removed = find(&table, &tuple(2)).is_some_and(|entry| table.remove(entry));
        // The other thread's own removal asserts that it was there, so ours cannot have hit 2 either: see below.
        assert!(!removed);
        thread.join().unwrap();
        assert_eq!(all(&table), [tuple(3)]);
    });
}

#[test]
fn a_confirmed_entry_outlives_a_removal_decided_before() {
    model(3, || {
        let table = table_of(3, [tuple(1)]);
        let idle = find(&table, &tuple(1)).unwrap();
        let other = Arc::clone(&table);
        let thread = thread::spawn(move || {
            insert(&other, &tuple(1));
        });
        table.remove(idle);
        thread.join().unwrap();
        assert_eq!(all(&table), [tuple(1)]);
        assert!(!table.remove(idle));
    });
}

#[test]
fn a_flag_is_neither_lost_nor_given_to_another() {
    model(3, || {
        let table = table_of(3, [tuple(1)]);
        let mut entry = find(&table, &tuple(1)).unwrap();
        let mut same = entry;
        let (other, later) = (Arc::clone(&table), NOW + 2 * baton::table::TICK);
        let thread = thread::spawn(move || other.set_syn_seen(&mut same));
        let touched = table.touch(&mut entry, later);
        assert!(thread.join().unwrap() && touched);
        let entry = find(&table, &tuple(1)).unwrap();
        assert!(entry.syn_seen() && entry.idle(later).is_zero());
        let other = Arc::clone(&table);
        let mut stale = entry;
        let thread = thread::spawn(move || other.clear_syn_seen(&mut stale));
        remove(&table, &tuple(1));
        insert(&table, &tuple(2));
        thread.join().unwrap();
        assert!(!find(&table, &tuple(2)).unwrap().syn_seen());
    });
}

#[test]
fn who_sees_the_flag_finds_the_syn() {
    model(3, || {
        let table = table_of(3, [tuple(1)]);
        let ring = Arc::new(Handshakes::new(RECORDS, HugePages::Never).unwrap());
        let hash = table.hash(&tuple(1));
        let (table2, ring2) = (Arc::clone(&table), Arc::clone(&ring));
        let thread = thread::spawn(move || {
            ring2.remember(&tuple(1), hash, 7, false, NOW);
            assert!(table2.set_syn_seen(&mut find(&table2, &tuple(1)).unwrap()));
        });
        if find(&table, &tuple(1)).unwrap().syn_seen() {
            assert_eq!(ring.find(&tuple(1), hash, NOW).len(), 1);
        }
        thread.join().unwrap();
    });
}

/// One bucket of handshakes that holds SYNs of tuples 1 to 8, tuple 1's the oldest.
fn full_ring() -> Arc<Handshakes> {
    let ring = Handshakes::new(RECORDS, HugePages::Never).unwrap();
    for number in 1..=RECORDS as u32 {
        let now = Time::from_millis(90_000 + u64::from(number));
        assert!(matches!(ring.remember(&tuple(number), hash(number), number, true, now), Remembered::New));
    }
    Arc::new(ring)
}

fn hash(number: u32) -> Hash {
    HASHER.hash(&tuple(number))
}

fn answer(isn: u32) -> Answer {
    Answer { isn, timestamp: Some(isn) }
}

#[test]
fn an_answer_never_lands_in_the_record_that_took_the_slot() {
    model(3, || {
        let ring = full_ring();
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || {
            ring_new(&other, 9);
        });
        let recorded = ring.answer(&tuple(1), hash(1), 1, answer(1_000), NOW);
        assert!(matches!(recorded, None | Some(Stage::Admitted)));
        thread.join().unwrap();
        assert!(ring.find(&tuple(1), hash(1), NOW).is_empty());
        let found = ring.find(&tuple(9), hash(9), NOW);
        assert!(found.len() == 1 && found[0].answers.is_empty() && found[0].client_isn == 9);
        // And the stray word is in nobody's way.
        for isn in 0..5 {
            assert_eq!(ring.answer(&tuple(9), hash(9), 9, answer(isn), NOW), Some(Stage::Seen));
        }
        let answers = &ring.find(&tuple(9), hash(9), NOW)[0].answers;
        assert!(answers.len() == 4 && !answers.contains(&answer(0)) && answers.contains(&answer(4)));
    });
}

fn ring_new(ring: &Handshakes, number: u32) {
    assert!(matches!(ring.remember(&tuple(number), hash(number), number, false, NOW), Remembered::New));
}

#[test]
fn a_reader_never_sees_a_mix_of_two_records() {
    model(2, || {
        let ring = full_ring();
        assert!(ring.answer(&tuple(1), hash(1), 1, answer(1_000), NOW).is_some());
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || {
            ring_new(&other, 9);
            assert!(other.answer(&tuple(9), hash(9), 9, answer(2_000), NOW).is_some());
        });
        for record in ring.find(&tuple(1), hash(1), NOW) {
            assert!(record.client_isn == 1 && record.answers[..] == [answer(1_000)]);
            assert_eq!(record.stage, Stage::Admitted);
        }
        for record in ring.find(&tuple(9), hash(9), NOW) {
            assert!(record.client_isn == 9 && !record.acknowledged_by(1_001, None));
            assert_eq!(record.stage, Stage::Seen);
        }
        thread.join().unwrap();
    });
}

#[test]
fn exactly_one_settles() {
    model(3, || {
        let ring = Arc::new(Handshakes::new(RECORDS, HugePages::Never).unwrap());
        ring_new(&ring, 1);
        let record = ring.find(&tuple(1), hash(1), NOW).remove(0);
        let (other, same) = (Arc::clone(&ring), record.clone());
        let thread = thread::spawn(move || other.settle(&same, Stage::Lost));
        let other = Arc::clone(&ring);
        // Neither an answer nor a retransmission meanwhile is in the way of it.
        let second = thread::spawn(move || {
            assert!(other.answer(&tuple(1), hash(1), 1, answer(5), NOW).is_some());
            assert!(matches!(other.remember(&tuple(1), hash(1), 1, false, NOW), Remembered::Known(_)));
        });
        let mine = ring.settle(&record, Stage::Confirmed);
        let theirs = thread.join().unwrap();
        second.join().unwrap();
        assert!(mine != theirs);
        let found = &ring.find(&tuple(1), hash(1), NOW)[0];
        assert_eq!(found.stage, if mine { Stage::Confirmed } else { Stage::Lost });
        assert!(found.acknowledged_by(6, None));
    });
}

#[test]
fn settling_does_not_reach_the_record_that_took_the_slot() {
    model(3, || {
        let ring = full_ring();
        let record = ring.find(&tuple(1), hash(1), NOW).remove(0);
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || ring_new(&other, 9));
        ring.settle(&record, Stage::Lost);
        thread.join().unwrap();
        let survivors: Vec<_> = ring.find(&tuple(9), hash(9), NOW).into_iter().collect();
        assert!(survivors.len() == 1 && survivors[0].stage == Stage::Seen);
        assert!(!ring.settle(&record, Stage::Lost));
    });
}

#[test]
fn one_syn_remembered_twice_at_once_has_one_record_and_keeps_its_answer() {
    model(3, || {
        let ring = Arc::new(Handshakes::new(RECORDS, HugePages::Never).unwrap());
        let work = |ring: &Handshakes, isn| {
            assert!(!matches!(ring.remember(&tuple(1), hash(1), 1, true, NOW), Remembered::Crowded));
            ring.answer(&tuple(1), hash(1), 1, answer(isn), NOW).is_some()
        };
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || work(&other, 20));
        let mine = work(&ring, 10);
        let theirs = thread.join().unwrap();
        let found = ring.find(&tuple(1), hash(1), NOW);
        let acknowledged = |ack| found.iter().any(|record| record.acknowledged_by(ack, None));
        assert!(!found.is_empty() && (!mine || acknowledged(11)) && (!theirs || acknowledged(21)));
    });
}

#[test]
fn one_syn_remembered_twice_at_once_has_one_record() {
    model(3, || {
        let ring = full_ring();
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || other.remember(&tuple(9), hash(9), 9, true, NOW));
        let mine = ring.remember(&tuple(9), hash(9), 9, true, NOW);
        let theirs = thread.join().unwrap();
        assert!(!matches!(mine, Remembered::Crowded) && !matches!(theirs, Remembered::Crowded));
        assert_eq!(ring.find(&tuple(9), hash(9), NOW).len(), 1);
    });
}

#[test]
fn one_syn_foreseen_and_remembered_twice_at_once_has_one_record() {
    model(2, || {
        let ring = full_ring();
        let outlook = ring.foresee(Portable, hash(9), NOW);
        let remember =
            move |ring: &Handshakes| ring.remember_foreseen(Portable, outlook, &tuple(9), hash(9), 9, true, NOW);
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || remember(&other));
        let mine = remember(&ring);
        let theirs = thread.join().unwrap();
        assert!(!matches!(mine, Remembered::Crowded) && !matches!(theirs, Remembered::Crowded));
        assert_eq!(ring.find(&tuple(9), hash(9), NOW).len(), 1);
    });
}

#[test]
fn what_was_foreseen_does_not_overwrite_what_came_meanwhile() {
    model(2, || {
        let ring = full_ring();
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || {
            ring_new(&other, 9);
        });
        let outlook = ring.foresee(Portable, hash(10), NOW);
        let remembered = ring.remember_foreseen(Portable, outlook, &tuple(10), hash(10), 10, true, NOW);
        assert!(matches!(remembered, Remembered::New));
        thread.join().unwrap();
        for number in [9, 10] {
            assert_eq!(ring.find(&tuple(number), hash(number), NOW).len(), 1);
        }
    });
}

#[test]
fn two_answers_at_once_are_both_recorded() {
    model(3, || {
        let ring = Arc::new(Handshakes::new(RECORDS, HugePages::Never).unwrap());
        ring_new(&ring, 1);
        let other = Arc::clone(&ring);
        let thread = thread::spawn(move || other.answer(&tuple(1), hash(1), 1, answer(10), NOW));
        assert!(ring.answer(&tuple(1), hash(1), 1, answer(20), NOW).is_some());
        assert!(thread.join().unwrap().is_some());
        let found = &ring.find(&tuple(1), hash(1), NOW)[0];
        assert!(found.acknowledged_by(11, Some(10)) && found.acknowledged_by(21, Some(20)));
    });
}

#[test]
fn a_role_is_seen_whole_and_with_what_came_before_it() {
    model(3, || {
        let roles = Arc::new(Roles::new(1));
        let done = Arc::new(AtomicU32::new(0));
        let (roles2, done2) = (Arc::clone(&roles), Arc::clone(&done));
        let active = Role { active: true, rank: 2, may_refuse: true };
        let thread = thread::spawn(move || {
            done2.store(1, Ordering::Relaxed);
            roles2.store(0, active);
        });
        let changes = roles.changes();
        let role = roles.load(0);
        assert!(role == Role::default() || role == active && done.load(Ordering::Relaxed) == 1);
        assert!(changes == 0 || role == active, "who sees that something changed sees what");
        thread.join().unwrap();
        assert_eq!((roles.load(0), roles.changes()), (active, 1));
    });
}
