//! No call on the tables allocates once they are made.
#![cfg(not(loom))]
#![allow(unsafe_code)] // A global allocator that counts cannot be written otherwise.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::Ipv4Addr;

use baton::config::checked::HugePages;
use baton::table::{Answer, Cursor, Established, Handshakes, Hasher, Stage, State, Tuple, tuple::MAX_VIPS};
use baton::time::Time;

struct Counting;

thread_local! {
    /// This thread's: the test harness allocates on others.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands everything through to the system's allocator; a `const` thread-local without a destructor is counted
// up without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on; `pointer` came from `System.alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn no_call_allocates() {
    let table = Established::new(1_000, Hasher::new([3; 16]), HugePages::Auto).unwrap();
    let ring = Handshakes::new(64, HugePages::Auto).unwrap();
    let mut pending = [0; MAX_VIPS];
    let before = ALLOCATIONS.get();
    drop(black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the counter counts");
    for number in 0..1_200 {
        let now = Time::from_millis(1_000 + u64::from(number) * 100);
        let tuple = Tuple { client: Ipv4Addr::from_bits(number / 9), client_port: 1, port: 2, vip: 0 };
        let hash = table.hash(&tuple);
        table.prefetch(hash);
        ring.prefetch(hash);
        black_box(ring.remember(&tuple, hash, number, true, now));
        black_box(ring.answer(&tuple, hash, number, Answer { isn: number, timestamp: Some(1) }, now));
        for record in ring.find(&tuple, hash, now) {
            ring.settle(&record, Stage::Confirmed);
        }
        let several = Tuple { client_port: number as u16, ..tuple };
        let hash = table.hash(&several);
        if let Ok(mut entry) = table.insert(&several, hash, State::Live, now) {
            table.set_syn_seen(&mut entry);
            table.touch(&mut entry, now);
            table.set_state(&mut entry, State::TimeWait);
            table.clear_syn_seen(&mut entry);
        }
        black_box(table.find(&several, hash));
        if number % 7 == 0 {
            table.remove_tuple(&several, hash);
        }
    }
    assert!(
        table
            .insert(
                &Tuple { client: Ipv4Addr::LOCALHOST, client_port: 0, port: 0, vip: 0 },
                table.hash(&Tuple { client: Ipv4Addr::LOCALHOST, client_port: 0, port: 0, vip: 0 }),
                State::Live,
                Time::ZERO
            )
            .is_err()
    );
    table.scan(&mut Cursor::default(), usize::MAX, |_, entry| assert!(table.remove(entry)));
    ring.tally(Time::from_millis(400_000), &mut pending);
    assert_eq!(ALLOCATIONS.get(), before + 1);
}
