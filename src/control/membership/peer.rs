//! A member other than this one.

use std::time::Duration;

use super::Run;
use crate::control::member::{MemberId, Name};
use crate::control::report::{PeerState, Report};
use crate::control::settings::Settings;

/// A name other than ours.
#[derive(Clone, Debug)]
pub(in crate::control) struct Peer {
    pub name: Name,
    pub id: MemberId,
    /// The run that is or was believed.
    pub current: Option<Run>,
    pub state: PeerState,
    /// Runs that are heard and not believed.
    pub candidates: Vec<Run>,
    pub told_drift: bool,
    pub told_boot: bool,
}

impl Peer {
    /// One that was never heard.
    pub fn new(name: Name) -> Peer {
        Peer {
            name,
            id: name.id(),
            current: None,
            state: PeerState::Dead,
            candidates: Vec::new(),
            told_drift: false,
            told_boot: false,
        }
    }

    /// When any run of it was last heard.
    pub fn heard(&self) -> Option<Duration> {
        self.current.iter().chain(&self.candidates).map(|run| run.heard).max()
    }

    /// The believed run while it lives.
    pub fn live(&self) -> Option<&Run> {
        self.current.as_ref().filter(|_| self.state.lives())
    }

    /// Judges its silence at `at`; a death changes the challenge. Returns whether its state is another now.
    pub fn judge(&mut self, at: Duration, settings: &Settings, challenge: &mut u32, reports: &mut Vec<Report>) -> bool {
        let Some(run) = self.current.as_ref().filter(|_| self.state.lives()) else { return false };
        let interval = run.header.interval;
        let silent = at.saturating_sub(run.answered);
        let deaf = run.lost.is_some_and(|lost| at > lost + settings.suspect_after(interval));
        let state = if deaf || silent > settings.dead_after(interval) {
            PeerState::Dead
        } else if run.lost.is_some() || silent > settings.suspect_after(interval) {
            PeerState::Suspect
        } else {
            PeerState::Alive
        };
        let changed = state != self.state;
        self.state = state;
        if state == PeerState::Dead {
            *challenge = challenge.wrapping_add(1);
            reports.push(Report::PeerDead { name: self.name, silent });
        }
        changed
    }

    /// The next time at which [`Peer::judge`] finds another state.
    pub fn next_deadline(&self, settings: &Settings) -> Option<Duration> {
        let run = self.live()?;
        let interval = run.header.interval;
        let deaf = run.lost.map(|lost| lost + settings.suspect_after(interval));
        let silent = match self.state {
            PeerState::Alive => run.answered + settings.suspect_after(interval),
            _ => run.answered + settings.dead_after(interval),
        };
        // Judged strictly after.
        deaf.into_iter().chain([silent]).min().map(|deadline| deadline + Duration::from_nanos(1))
    }
}
