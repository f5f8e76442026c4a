//! What a worker does when nothing has arrived: `poll: busy` asks again at once, `poll: adaptive` backs off.
//!
//! Backing off costs the first frame after a pause up to one sleep (`LONGEST`) and the kernel's own delay in waking
//! a thread; a worker with traffic never sleeps. See docs/decisions.md for what was measured.

use std::time::Duration;

use crate::config::checked::Poll;

/// Empty turns before the first sleep: a burst's stragglers come within microseconds.
const PATIENCE: u32 = 32;

/// The first sleep.
const SHORTEST: Duration = Duration::from_micros(10);

/// The longest sleep: a share of the heartbeats' interval, so that they do not wait for a large part of themselves,
/// within these bounds.
const LONGEST: (Duration, Duration) = (Duration::from_micros(200), Duration::from_micros(500));

/// The share.
const OF_A_HEARTBEAT: u32 = 20;

/// Empty turns at one length of sleep before it doubles.
const PER_STEP: u32 = 16;

/// How idle a worker has been.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    poll: Poll,
    longest: Duration,
    empty_turns: u32,
}

impl Idle {
    /// For a worker that has not polled yet, of a member that sends a heartbeat every `heartbeat`.
    pub fn new(poll: Poll, heartbeat: Duration) -> Idle {
        Idle { poll, longest: (heartbeat / OF_A_HEARTBEAT).clamp(LONGEST.0, LONGEST.1), empty_turns: 0 }
    }

    /// How long to sleep after a turn in which `frames` were handled; zero: not at all.
    #[inline]
    pub fn after_turn(&mut self, frames: usize) -> Duration {
        if self.poll == Poll::Busy || frames > 0 {
            self.empty_turns = 0;
            return Duration::ZERO;
        }
        self.empty_turns = self.empty_turns.saturating_add(1);
        match self.empty_turns.checked_sub(PATIENCE) {
            None => Duration::ZERO,
            Some(turns) => self.longest.min(SHORTEST * 2_u32.pow((turns / PER_STEP).min(8))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_polling_backs_off_and_comes_back() {
        let mut idle = Idle::new(Poll::Adaptive, Duration::from_millis(10));
        let sleeps: Vec<_> = (0..200).map(|_| idle.after_turn(0)).collect();
        assert!(sleeps.is_sorted());
        assert_eq!((sleeps[0], sleeps[199]), (Duration::ZERO, LONGEST.1));
        let mut quick = Idle::new(Poll::Adaptive, Duration::from_millis(1));
        assert_eq!((0..200).map(|_| quick.after_turn(0)).max(), Some(LONGEST.0));
        assert_eq!(idle.after_turn(1), Duration::ZERO);
        assert_eq!(idle.after_turn(0), Duration::ZERO);
    }

    #[test]
    fn busy_polling_never_sleeps() {
        let mut idle = Idle::new(Poll::Busy, Duration::from_millis(10));
        assert!((0..1000).all(|_| idle.after_turn(0) == Duration::ZERO));
    }
}
