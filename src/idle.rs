//! What a worker does when nothing has arrived: `poll: busy` asks again at once, `poll: adaptive` lets its core go.
//!
//! Where the kernel can tell of arrivals ([`wait`](crate::wait)), the worker waits to be told. Elsewhere (virtio-user, a
//! NIC of its own) it sleeps, longer and longer, which costs the first frame after a pause up to one sleep. A worker with
//! traffic does neither. See docs/decisions.md for what was measured.

use std::time::Duration;

use crate::config::checked::Poll;
use crate::wait::Woken;

/// Empty turns before the first sleep: a burst's stragglers come within microseconds.
const PATIENCE: u32 = 32;

/// Empty turns before a wait, which a straggler ends at once.
const BEFORE_WAIT: u32 = 2;

/// The first sleep.
const SHORTEST: Duration = Duration::from_micros(10);

/// The longest sleep: a share of the heartbeats' interval, so that they do not wait for a large part of themselves,
/// within these bounds.
const LONGEST: (Duration, Duration) = (Duration::from_micros(200), Duration::from_micros(500));

/// The share.
const OF_A_HEARTBEAT: u32 = 20;

/// Empty turns at one length of sleep before it doubles.
const PER_STEP: u32 = 16;

/// The longest wait: what it misses, if the kernel should ever not tell, is found then. Also a share of the time after
/// which the control thread takes a worker that shows nothing for hanging.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// The share.
const OF_PATIENCE: u32 = 4;

/// What to do before the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Nothing: it comes at once.
    None,
    /// Sleep that long.
    Sleep(Duration),
    /// Wait to be woken, that long at most.
    Wait(Duration),
}

/// How idle a worker has been.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    poll: Poll,
    longest_sleep: Duration,
    /// None: nobody would wake us.
    longest_wait: Option<Duration>,
    empty_turns: u32,
    /// The kernel has told of a frame, and none has been seen since.
    told: bool,
}

/// How long a worker that can be woken waits at most, of a member with these heartbeats.
pub fn longest_wait(heartbeat: Duration, missed: u32) -> Duration {
    (heartbeat * missed / OF_PATIENCE).min(LONGEST_WAIT)
}

impl Idle {
    /// For a worker that has not polled yet, of a member that sends a heartbeat every `heartbeat` and is taken for dead
    /// after `missed` of them.
    pub fn new(poll: Poll, heartbeat: Duration, missed: u32, can_wait: bool) -> Idle {
        Idle {
            poll,
            longest_sleep: (heartbeat / OF_A_HEARTBEAT).clamp(LONGEST.0, LONGEST.1),
            longest_wait: can_wait.then(|| longest_wait(heartbeat, missed)),
            empty_turns: 0,
            told: false,
        }
    }

    /// What to do after a turn in which `frames` were handled.
    #[inline]
    pub fn after_turn(&mut self, frames: usize) -> Pause {
        if self.poll == Poll::Busy || frames > 0 {
            self.empty_turns = 0;
            self.told = false;
            return Pause::None;
        }
        self.empty_turns = self.empty_turns.saturating_add(1);
        match self.longest_wait {
            // Told in vain, as of a device that has failed: to wait again would end at once, for ever.
            Some(longest) if !self.told => match self.empty_turns {
                ..BEFORE_WAIT => Pause::None,
                _ => Pause::Wait(longest),
            },
            _ => match self.empty_turns.checked_sub(PATIENCE) {
                None => Pause::None,
                Some(turns) => Pause::Sleep(self.longest_sleep.min(SHORTEST * 2_u32.pow((turns / PER_STEP).min(8)))),
            },
        }
    }

    /// How a wait ended.
    pub fn woken(&mut self, by: Woken) {
        self.told = by == Woken::ByFrame;
        if by != Woken::ByTime {
            self.empty_turns = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(10);

    fn sleeps(idle: &mut Idle) -> Vec<Duration> {
        let sleep = |pause| match pause {
            Pause::None => Duration::ZERO,
            Pause::Sleep(sleep) => sleep,
            Pause::Wait(_) => Duration::MAX,
        };
        (0..200).map(|_| sleep(idle.after_turn(0))).collect()
    }

    #[test]
    fn adaptive_polling_backs_off_and_comes_back() {
        let mut idle = Idle::new(Poll::Adaptive, HEARTBEAT, 3, false);
        let slept = sleeps(&mut idle);
        assert!(slept.is_sorted());
        assert_eq!((slept[0], slept[199]), (Duration::ZERO, LONGEST.1));
        let mut quick = Idle::new(Poll::Adaptive, HEARTBEAT / 10, 3, false);
        assert_eq!(sleeps(&mut quick).last(), Some(&LONGEST.0));
        assert_eq!(idle.after_turn(1), Pause::None);
        assert_eq!(idle.after_turn(0), Pause::None);
    }

    #[test]
    fn it_waits_where_it_is_told_of_frames_and_looks_well_before_it_is_missed() {
        let mut idle = Idle::new(Poll::Adaptive, HEARTBEAT, 3, true);
        assert_eq!(idle.after_turn(0), Pause::None);
        assert_eq!(idle.after_turn(0), Pause::Wait(Duration::from_micros(7500)));
        // By time: one look is enough. By the bell: there is something to do.
        idle.woken(Woken::ByTime);
        assert!(matches!(idle.after_turn(0), Pause::Wait(_)));
        idle.woken(Woken::ByBell);
        assert_eq!(idle.after_turn(0), Pause::None);
    }

    #[test]
    fn what_tells_of_frames_and_has_none_is_not_waited_for_until_one_has_come() {
        let mut idle = Idle::new(Poll::Adaptive, HEARTBEAT, 3, true);
        idle.woken(Woken::ByFrame);
        let slept = sleeps(&mut idle);
        assert_eq!(slept.last(), Some(&LONGEST.1));
        assert!(!slept.contains(&Duration::MAX));
        idle.after_turn(1);
        assert!(sleeps(&mut idle).contains(&Duration::MAX));
    }

    #[test]
    fn busy_polling_never_pauses() {
        let mut idle = Idle::new(Poll::Busy, HEARTBEAT, 3, true);
        assert!((0..1000).all(|_| idle.after_turn(0) == Pause::None));
    }
}
