//! What a worker counts. One set per worker: the worker alone writes, anybody reads.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};
use crate::verdict::{DROPS, DropReason};

/// A counter with one writer: an increment is a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `amount`. Only the counter's owner may call this.
    #[inline]
    pub fn add(&self, amount: u64) {
        // Relaxed: a counter orders nothing, and nobody else stores.
        self.0.store(self.0.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
    }

    /// The count now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram in powers of two: bucket `b` counts values below 2^b that no bucket before it counts.
#[derive(Debug)]
pub struct Histogram<const BUCKETS: usize> {
    buckets: [Count; BUCKETS],
    sum: Count,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| Count::default()), sum: Count::default() }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// Counts `times` times `value`; what is too large for any bucket is in the last.
    #[inline]
    pub fn record(&self, value: u64, times: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].add(times);
        self.sum.add(value * times);
    }

    /// The buckets' counts, and the sum of all values.
    pub fn read(&self) -> ([u64; BUCKETS], u64) {
        (std::array::from_fn(|bucket| self.buckets[bucket].get()), self.sum.get())
    }
}

/// A worker's counters. Frames in are frames out: `wire_rx + host_rx + originated` equals
/// `wire_tx + host_tx + to_control` and the sum of the drops.
#[derive(Debug, Default)]
#[repr(align(128))] // no cache line shared with another worker's, nor its neighbour that is fetched along
pub struct Counters {
    /// Frames received from the wire.
    pub wire_rx: Count,
    /// Frames the wire accepted.
    pub wire_tx: Count,
    /// Frames received from the host.
    pub host_rx: Count,
    /// Frames the host accepted.
    pub host_tx: Count,
    /// Heartbeats received and handed to the control thread.
    pub to_control: Count,
    /// Frames made here: heartbeats sent, RSTs that took the place of a dropped frame, kept SYNs that went to the host.
    pub originated: Count,
    /// Clients that were seen repeating themselves in vain, each time that the control thread was told.
    pub suspected: Count,
    /// Orphans that were sent a RST.
    pub orphans_reset: Count,
    /// Frames of ours that found no buffer.
    pub unsent: Count,
    /// Turns taken.
    pub polls: Count,
    /// Turns in which nothing had arrived.
    pub empty_polls: Count,
    /// Frames per burst.
    pub batch_size: Histogram<8>,
    /// Nanoseconds from the reception of a burst to its hand-over, counted once per frame.
    pub forward_nanos: Histogram<32>,
    drops: Drops,
}

#[derive(Debug)]
struct Drops([Count; DROPS]);

impl Default for Drops {
    fn default() -> Self {
        Drops(std::array::from_fn(|_| Count::default()))
    }
}

impl Counters {
    /// Counts a dropped frame.
    #[inline]
    pub fn count_drop(&self, reason: DropReason) {
        self.drops.0[reason as usize].add(1);
    }

    /// Counts as many of them.
    #[inline]
    pub fn count_drops(&self, reason: DropReason, frames: u64) {
        self.drops.0[reason as usize].add(frames);
    }

    /// How many frames were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason as usize].get()
    }

    /// Counts a burst of `frames` that took `elapsed` from one end to the other.
    #[inline]
    pub fn burst(&self, frames: usize, elapsed: Duration) {
        self.batch_size.record(frames as u64, 1);
        self.forward_nanos.record(elapsed.as_nanos() as u64, frames as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_by_powers_of_two() {
        let histogram = Histogram::<4>::default();
        for value in [0, 1, 2, 3, 4, 1000] {
            histogram.record(value, 1);
        }
        assert_eq!(histogram.read(), ([1, 1, 2, 2], 1010));
    }
}
