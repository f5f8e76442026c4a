//! The clock by which peers are judged: it counts only the time we could have heard them.

use std::time::Duration;

use crate::time::Time;

/// Time spent listening. It stands still while this member was paused, starved or its workers hung: silence that we
/// slept through says nothing about a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListeningClock {
    listened: Duration,
    last: Time,
    hearing: bool,
    /// After a pause nobody is declared dead or replaced before this: the inbox is read first, and what it holds is
    /// as old as the pause is long.
    listen_until: Duration,
    /// Since when one pause follows another. It ends: who is always late must notice a death too.
    late_since: Option<Duration>,
}

/// How many heartbeats of listening one pause after another may put off a judgement.
const PUT_OFF_MAX: u32 = 3;

impl ListeningClock {
    pub(super) fn new(now: Time) -> ListeningClock {
        ListeningClock {
            listened: Duration::ZERO,
            last: now,
            hearing: true,
            listen_until: Duration::ZERO,
            late_since: None,
        }
    }

    /// Goes on to `now`; returns how long this member was away, if it was.
    pub(super) fn advance(&mut self, now: Time, heartbeat: Duration) -> Option<Duration> {
        let gap = now.since(self.last);
        self.last = self.last.max(now);
        if !self.hearing {
            return None;
        }
        // A gap longer than a heartbeat counts as one heartbeat, so that a member that is always short of time still
        // notices a death, only later.
        self.listened += gap.min(heartbeat);
        if gap <= heartbeat * 3 / 2 {
            if self.listened >= self.listen_until {
                self.late_since = None;
            }
            return None;
        }
        self.put_off(heartbeat);
        Some(gap)
    }

    /// Whether workers poll: while they do not, the clock stands still.
    pub(super) fn set_hearing(&mut self, hearing: bool, heartbeat: Duration) {
        if hearing && !self.hearing {
            self.put_off(heartbeat);
        }
        self.hearing = hearing;
    }

    /// Nobody is judged for a heartbeat from now on.
    fn put_off(&mut self, heartbeat: Duration) {
        let since = *self.late_since.get_or_insert(self.listened);
        self.listen_until = (self.listened + heartbeat).min(since + heartbeat * PUT_OFF_MAX);
    }

    pub(super) fn listened(&self) -> Duration {
        self.listened
    }

    /// Whether workers poll, and it goes on.
    pub(super) fn hears(&self) -> bool {
        self.hearing
    }

    /// Whether silence may be judged and acted on now.
    pub(super) fn may_judge(&self) -> bool {
        self.hearing && self.listened >= self.listen_until
    }

    /// When the clock will read `at`, if nothing is in its way.
    pub(super) fn when(&self, at: Duration) -> Time {
        self.last + at.saturating_sub(self.listened)
    }

    /// When the clock will read `at` and silence may be judged.
    pub(super) fn when_judged(&self, at: Duration) -> Time {
        self.when(at.max(self.listen_until))
    }
}
