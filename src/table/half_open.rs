//! [`HalfOpen`]: handshakes that were under way when baton started.

use super::record::LIFETIME;
use super::tuple::Tuple;
use crate::time::Time;

/// The tuples whose half-open sockets the rebuild found. The kernel does not tell their sequence numbers, so a client's
/// answer cannot be judged until the host has repeated its SYN-ACK, which says them. Fixed before workers start.
#[derive(Clone, Debug, Default)]
pub struct HalfOpen {
    /// Sorted.
    tuples: Vec<Tuple>,
    found: Time,
}

impl HalfOpen {
    /// Those that were found at `now`.
    pub fn new(mut tuples: Vec<Tuple>, now: Time) -> HalfOpen {
        tuples.sort_unstable();
        HalfOpen { tuples, found: now }
    }

    /// How many there were.
    pub fn len(&self) -> usize {
        self.tuples.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.tuples.is_empty()
    }

    /// Whether the host may still have this one.
    pub fn contains(&self, tuple: &Tuple, now: Time) -> bool {
        now.since(self.found) < LIFETIME && self.tuples.binary_search(tuple).is_ok()
    }
}
