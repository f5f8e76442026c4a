//! What systemd is told, where it has started us and waits to hear (sd_notify(3)): that the member is ready, that it goes
//! on, that it starts anew or leaves. Elsewhere nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use super::Ended;
use crate::time::Time;

/// Tells systemd.
pub(super) struct Systemd {
    /// Between two signs of life: a quarter of the time after which systemd gives us up (`WatchdogSec`).
    every: Option<Duration>,
    due: Time,
    complained: bool,
}

impl Systemd {
    pub(super) fn new(now: Time) -> Systemd {
        Systemd { every: sd_notify::watchdog_enabled().map(|limit| limit / 4), due: now, complained: false }
    }

    /// The election has settled: whoever waits for this unit may go on.
    pub(super) fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// A sign of life, if one is due. Not while a worker hangs: then systemd ends this process and starts another, which
    /// adopts the kernel's side and its connections.
    pub(super) fn alive(&mut self, workers: bool, now: Time) {
        let Some(every) = self.every.filter(|_| workers && now >= self.due) else { return };
        self.due = now + every;
        self.tell(&[NotifyState::Watchdog]);
    }

    pub(super) fn ends(&mut self, end: Ended) {
        match (end, NotifyState::monotonic_usec_now()) {
            (Ended::Left, _) => self.tell(&[NotifyState::Stopping]),
            (Ended::Returning, Ok(now)) => self.tell(&[NotifyState::Reloading, now]),
            (Ended::Returning, Err(_)) => self.tell(&[NotifyState::Reloading]),
        }
    }

    fn tell(&mut self, state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state)
            && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(%error, "systemd is not told how this member is");
        }
    }
}
