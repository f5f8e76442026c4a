//! A member other than this one.

use std::time::Duration;

use super::Run;
use crate::control::heartbeat::Heartbeat;
use crate::control::member::{MemberId, Name};
use crate::control::report::{PeerState, Refusal, Report};
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

    /// Whether its place is free: it has said goodbye, or was silent for so long.
    pub fn is_gone(&self, at: Duration, detection: Duration) -> bool {
        let left = matches!(self.state, PeerState::Left { .. }) && self.candidates.is_empty();
        left || !self.state.lives() && self.heard().is_none_or(|heard| at > heard + detection)
    }

    /// Whether nothing that is heard of it has answered, though it had the time to.
    pub fn is_dumb(&self, at: Duration, detection: Duration, grace: Duration) -> bool {
        let ended = |run: &Run| matches!(self.state, PeerState::Left { .. }) || at > run.heard + detection;
        !self.state.lives()
            && self.current.as_ref().is_none_or(ended)
            && self.candidates.iter().all(|run| at > run.first + grace)
    }

    /// Why a frame of the run in this place among [`Peer::candidates`] is not obeyed, where it is not to be believed; nothing
    /// if it may be a newcomer's.
    pub fn refuse(&mut self, index: usize, beat: &Heartbeat, at: Duration, grace: Duration) -> Option<Refusal> {
        let lives = self.state.lives();
        let run = &mut self.candidates[index];
        // It stands back for the run that is known and alive. If that one is heard again it is a duplicate; if not, this is
        // its member's next run, and these frames were its first.
        let duplicate = lives
            && match &self.current {
                Some(current) if beat.scope.contains(self.id) => {
                    beat.echoes.iter().any(|echo| echo.nonce == current.nonce && echo.id == self.id)
                }
                // Another frame tells: it is what it was found to be.
                _ => run.duplicate,
            };
        let older = self.current.as_ref().is_some_and(|current| beat.header.incarnation < current.incarnation);
        let refused = match (duplicate, older) {
            (true, _) => Some(Refusal::DuplicateName),
            (false, true) => Some(Refusal::OldIncarnation),
            (false, false) if at <= run.first + grace => None,
            (false, false) if lives => Some(Refusal::DuplicateName),
            (false, false) => Some(Refusal::Replayed),
        };
        run.duplicate |= refused == Some(Refusal::DuplicateName);
        run.pending += u64::from(refused.is_none());
        refused
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
