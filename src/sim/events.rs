//! The virtual clock: what will happen, in the order of time, and at the same time in the order it was foreseen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Time;

/// The queue of what will happen.
#[derive(Debug)]
pub struct Events<E> {
    heap: BinaryHeap<Reverse<Scheduled<E>>>,
    foreseen: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: Time,
    order: u64,
    event: E,
}

impl<E> Default for Events<E> {
    fn default() -> Self {
        Events { heap: BinaryHeap::new(), foreseen: 0 }
    }
}

impl<E> Events<E> {
    /// Foresees `event`.
    pub fn push(&mut self, at: Time, event: E) {
        self.heap.push(Reverse(Scheduled { at, order: self.foreseen, event }));
        self.foreseen += 1;
    }

    /// When the next event is due.
    pub fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse(scheduled)| scheduled.at)
    }

    /// Takes the next event.
    pub fn pop(&mut self) -> Option<(Time, E)> {
        self.heap.pop().map(|Reverse(scheduled)| (scheduled.at, scheduled.event))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
