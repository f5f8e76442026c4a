//! What the control thread does about clients that may be orphans: it carries between the workers, the core, and what
//! this member's table and kernel know.

use std::time::Duration;

use super::{Running, Shell};
use crate::control::truth::Kernel;
use crate::control::{Event, Holds, LookUp};
use crate::orphans::Suspect;
use crate::time::Time;
use crate::verdict::DropReason;

/// The most clients that one turn takes from the workers.
const SUSPECTS: usize = 256;

/// The most look-ups of one turn: a query of the kernel takes some 20 µs.
const LOOK_UPS: usize = 64;

/// Between two looks at what the wire's queues have lost: a system call for each.
const LOSSES_EVERY: Duration = Duration::from_millis(50);

/// What is under way, and what was lost.
#[derive(Default)]
pub(super) struct Orphans {
    pub(super) look_ups: Vec<LookUp>,
    lost: u64,
    next_look: Time,
}

impl<K: Kernel> Running<K> {
    pub(super) fn seek_orphans(&mut self, now: Time) {
        self.notice_losses(now);
        for _ in 0..SUSPECTS {
            let Some(suspect) = self.shell.member.shared.suspects.pop() else { break };
            self.step(Event::Suspect(suspect), now);
        }
        let some = self.orphans.look_ups.len().min(LOOK_UPS);
        for look_up in self.orphans.look_ups.drain(..some).collect::<Vec<_>>() {
            let Shell { member, kernel, .. } = &mut self.shell;
            let tuple = &look_up.tuple;
            let known = match member.decider(false, now).may_hold(tuple) {
                true => Ok(true),
                false => kernel.query(tuple).map(|held| held.is_some()),
            };
            // Where the kernel does not tell, neither do we; `keep_true` complains of it.
            let Ok(known) = known else { continue };
            let holds = if known { Holds::Mine } else { Holds::NotMine };
            self.step(Event::LookedUp(look_up, holds), now);
        }
    }

    /// Whoever loses frames may not have heard who lives.
    fn notice_losses(&mut self, now: Time) {
        if now < self.orphans.next_look {
            return;
        }
        self.orphans.next_look = now + LOSSES_EVERY;
        let workers = self.shell.workers.iter();
        let unread: u64 = workers.map(|worker| worker.counters.dropped(DropReason::InboxFull)).sum();
        let lost = (self.shell.lost_by_wire)() + unread;
        if lost != std::mem::replace(&mut self.orphans.lost, lost) {
            self.step(Event::FramesLost, now);
        }
    }

    pub(super) fn reset(&self, orphan: Suspect) {
        // If there is no room, the client's next repeat begins it all again.
        let _ = self.shell.member.shared.orphans.push(orphan);
        if let Some(bell) = &self.shell.bell {
            bell.ring();
        }
    }
}
