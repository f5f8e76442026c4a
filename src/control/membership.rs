//! Who is there: which run of which member is believed, and whether it lives.
//!
//! A run is believed once it echoes our run's nonce *and* our present challenge, a number that we change whenever a
//! believed run ends. So what was recorded before our start, or of a run that ended since, is never believed: whoever
//! recorded it could not know the number. After that a run lives as long as it goes on answering: a peer that we hear
//! and that does not hear us is as good as dead, for both of us the same way.

mod hearsay;
mod peer;
mod run;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::control::MEMBERS_MAX;
use crate::control::auth::Freshness;
use crate::control::heartbeat::{ECHOES_MAX, Echo, Heartbeat, flags};
use crate::control::member::{Identity, MemberId, Name};
use crate::control::report::{Counters, PeerState, Refusal, Report};
use crate::control::settings::Settings;
pub(super) use peer::Peer;
pub(super) use run::Run;
use run::Word;

/// Runs of one name that are heard beside the believed one. More can only be recordings.
const CANDIDATES_MAX: usize = 4;

/// What a heartbeat changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// The peer (by its place in [`Membership::peers`]) whose word now counts.
    pub obeyed: Option<usize>,
    /// Something the election looks at.
    pub changed: bool,
    /// A run that waits for our echo, or for what we hold.
    pub greet: bool,
    /// Not obeyed, and why.
    pub refused: Option<Refusal>,
}

impl Heard {
    const NOTHING: Heard = Heard { obeyed: None, changed: false, greet: false, refused: None };

    fn refused(why: Refusal) -> Heard {
        Heard { refused: Some(why), ..Heard::NOTHING }
    }
}

pub(super) struct Membership {
    me: Identity,
    name: Name,
    id: MemberId,
    settings: Settings,
    addresses: BTreeMap<IpAddr, usize>,
    /// Ordered by name.
    pub peers: Vec<Peer>,
    /// Other runs under our own name.
    pub rivals: Vec<Run>,
    /// What a run must echo to be believed from now on.
    pub challenge: u32,
    /// When the last of the runs was heard that are forgotten by now: not believed, or of a name that made room.
    lost_sight: Option<Duration>,
    /// Names that found no room and are not believed since, as far as they were reported: each once.
    pub turned_away: Vec<Name>,
    /// When one that did not answer last made room for one that had not either.
    made_room: Duration,
    pub counters: Counters,
    /// When the next peer may be silent for too long, as the last judgement found: heartbeats only put that off.
    judged_next: Duration,
    /// Something happened since that may bring it forward.
    unsure: bool,
}

impl Membership {
    pub fn new(settings: &Settings, me: Identity) -> Membership {
        Membership {
            me,
            name: settings.name,
            id: settings.name.id(),
            settings: settings.clone(),
            addresses: settings.vips.iter().enumerate().map(|(index, vip)| (vip.address, index)).collect(),
            peers: Vec::new(),
            rivals: Vec::new(),
            challenge: 1,
            lost_sight: None,
            turned_away: Vec::new(),
            made_room: Duration::ZERO,
            counters: Counters::default(),
            judged_next: Duration::ZERO,
            unsure: true,
        }
    }

    pub fn peer(&self, id: MemberId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    /// Peers that live, with their runs.
    pub fn live(&self) -> impl Iterator<Item = (&Peer, &Run)> {
        self.peers.iter().filter_map(|peer| Some((peer, peer.live()?)))
    }

    /// Whether every run that was heard within `after` is the believed one of its name: no newcomer, no second node of a
    /// name, none forgotten since. What others may be there for, nobody has said.
    pub fn believes_all(&self, at: Duration, after: Duration) -> bool {
        self.rivals.is_empty()
            && self.peers.iter().all(|peer| peer.candidates.is_empty())
            && self.lost_sight.is_none_or(|heard| at >= heard + after)
    }

    /// Whether a peer that we hear well says that this member lives, and did so no longer ago than we may hear nothing of
    /// it and call that well.
    pub fn is_reported(&self, id: MemberId, at: Duration) -> bool {
        self.live().filter(|(peer, _)| peer.state == PeerState::Alive).any(|(_, run)| {
            let since = at.saturating_sub(self.settings.suspect_after(run.header.interval));
            run.hearsay.says_alive(id, since)
        })
    }

    /// Whether the last word of any peer that lives is that this member does, too.
    pub fn is_said_to_live(&self, id: MemberId) -> bool {
        self.live().any(|(_, run)| run.hearsay.says_alive(id, Duration::ZERO))
    }

    /// Takes an authenticated heartbeat in.
    pub fn receive(&mut self, beat: Heartbeat, at: Duration, settled: bool, reports: &mut Vec<Report>) -> Heard {
        let heard = if beat.header.name == self.name {
            self.receive_own_name(beat, at, settled, reports)
        } else {
            match self.place(&beat, at, reports) {
                Some(place) => self.receive_peer(place, beat, at, reports),
                None => Heard::NOTHING,
            }
        };
        if let Some(why) = heard.refused {
            self.counters.count(why, 1);
        }
        heard
    }

    /// The place of a name among the peers; makes one if there is room, or one that is gone to make room.
    fn place(&mut self, beat: &Heartbeat, at: Duration, reports: &mut Vec<Report>) -> Option<usize> {
        let name = beat.header.name;
        let place = match self.peers.binary_search_by(|peer| peer.name.cmp(&name)) {
            Ok(place) => return Some(place),
            Err(place) => place,
        };
        if self.peers.len() >= MEMBERS_MAX - 1 {
            let Some(gone) = self.makes_room(beat, at) else {
                // Nobody knows what connections it has.
                self.lost_sight = Some(at);
                if self.turned_away.len() < MEMBERS_MAX && !self.turned_away.contains(&name) {
                    self.turned_away.push(name);
                    reports.push(Report::TooManyMembers { name });
                }
                return None;
            };
            let gone = self.peers.remove(gone);
            self.lost_sight = self.lost_sight.max(gone.heard());
            if gone.current.is_some() {
                // What was recorded of it must not be believed again.
                self.challenge = self.challenge.wrapping_add(1);
            }
            return self.place(beat, at, reports);
        }
        self.peers.insert(place, Peer::new(name));
        Some(place)
    }

    /// The place of a peer that makes room for another of which this frame is. One that is gone does, and a newcomer that is
    /// heard does not: where more are heard than there is room for, each would take another's place before that is believed.
    /// But one that was heard for long enough and did not answer may be a recording, and must not keep members out. It
    /// makes room for one that has proven that it is none, and now and then for any.
    fn makes_room(&mut self, beat: &Heartbeat, at: Duration) -> Option<usize> {
        let (detection, grace) = (self.settings.detection(), self.grace());
        let peers = || self.peers.iter().enumerate();
        let gone = peers().filter(|(_, peer)| peer.is_gone(at, detection)).min_by_key(|(_, peer)| peer.heard());
        if let Some((place, _)) = gone {
            return Some(place);
        }
        let mut dumb = peers().filter(|(_, peer)| peer.is_dumb(at, detection, grace));
        let answers = |echo: &Echo| (echo.id, echo.nonce, echo.challenge) == (self.id, self.me.nonce, self.challenge);
        if !beat.echoes.iter().any(answers) {
            if at < self.made_room + grace {
                return None;
            }
            self.made_room = at;
        }
        dumb.next().map(|(place, _)| place)
    }

    fn receive_peer(&mut self, place: usize, beat: Heartbeat, at: Duration, reports: &mut Vec<Report>) -> Heard {
        let peer = &mut self.peers[place];
        match &mut peer.current {
            Some(run) if run.nonce == beat.header.nonce => {}
            _ => return self.receive_candidate(place, beat, at, reports),
        }
        let lives = peer.state.lives();
        let Some(run) = &mut peer.current else { return Heard::NOTHING };
        let freshness = run.window.accept(beat.header.sequence);
        if freshness == Freshness::Replayed {
            return Heard::refused(Refusal::Replayed);
        }
        self.counters.accepted += 1;
        if freshness == Freshness::Newest {
            run.heard = at;
            run.challenge = beat.header.challenge;
        }
        if matches!(peer.state, PeerState::Left { .. }) {
            return Heard::NOTHING;
        }
        let word = run.word(&beat, self.id, self.me.nonce);
        let answers = matches!(word, Word::Hears { challenge } if lives || challenge == self.challenge);
        if word == Word::Nothing {
            // What it says of others holds as long as it heard us when it last told, and has taken nobody for dead since: that
            // may be us, in a frame that is lost or comes later.
            if !lives || run.lost.is_some() || beat.header.challenge != run.told_challenge {
                return Heard::NOTHING;
            }
        } else if !answers {
            if lives && run.lost.is_none() {
                run.lost = Some(at);
                self.unsure = true;
            }
            // A dead one that is heard again waits for our echo.
            return Heard { greet: !lives, ..Heard::NOTHING };
        }
        let interval = run.header.interval;
        let (mut changed, turned) = run.take(beat, at, &self.addresses);
        // Only what puts a judgement off leaves the time for the next one as it is.
        self.unsure |= run.header.interval != interval;
        if answers {
            run.answers(at);
            self.unsure |= peer.state != PeerState::Alive;
            changed |= peer.state != PeerState::Alive;
            peer.state = PeerState::Alive;
        }
        if !lives {
            reports.push(Report::PeerAlive { name: peer.name, incarnation: run.incarnation });
        }
        self.note(place, reports);
        let ended = self.end_by_word(place, reports);
        // What others say of whom we hear ourselves decides nothing.
        let decides = |&id: &MemberId| id != self.id && self.peer(id).and_then(Peer::live).is_none();
        let changed = changed || ended.any || turned.iter().any(decides);
        Heard { obeyed: Some(place).filter(|_| !ended.yielded), changed, greet: !lives, refused: None }
    }

    /// A run that is not the believed one of its name.
    fn receive_candidate(&mut self, place: usize, beat: Heartbeat, at: Duration, reports: &mut Vec<Report>) -> Heard {
        let grace = self.grace();
        self.unsure = true;
        let peer = &mut self.peers[place];
        let (index, greet) = Run::find_or_insert(&mut peer.candidates, &beat, at, CANDIDATES_MAX);
        let run = &mut peer.candidates[index];
        let freshness = run.window.accept(beat.header.sequence);
        if freshness == Freshness::Replayed {
            return Heard::refused(Refusal::Replayed);
        }
        if freshness == Freshness::Newest {
            run.heard = at;
            run.challenge = beat.header.challenge;
        }
        let word = run.word(&beat, self.id, self.me.nonce);
        if beat.header.has(flags::YIELDING) {
            return Heard { greet, ..Heard::refused(Refusal::DuplicateName) };
        }
        if peer.state.lives() || word != (Word::Hears { challenge: self.challenge }) {
            return Heard { greet, refused: peer.refuse(index, &beat, at, grace), ..Heard::NOTHING };
        }
        self.believe(place, index, beat, at, reports)
    }

    /// A frame of the run in this place among a peer's candidates has answered us: from now on it is the believed one.
    fn believe(
        &mut self,
        place: usize,
        index: usize,
        beat: Heartbeat,
        at: Duration,
        reports: &mut Vec<Report>,
    ) -> Heard {
        let peer = &mut self.peers[place];
        self.turned_away.retain(|away| *away != peer.name);
        let mut run = peer.candidates.swap_remove(index);
        self.counters.accepted += run.pending + 1;
        run.pending = 0;
        run.duplicate = false;
        run.take(beat, at, &self.addresses);
        run.answers(at);
        reports.push(Report::PeerAlive { name: peer.name, incarnation: run.incarnation });
        peer.state = PeerState::Alive;
        peer.current = Some(run);
        (peer.told_drift, peer.told_boot) = (false, false);
        self.note(place, reports);
        let ended = self.end_by_word(place, reports);
        Heard { obeyed: Some(place).filter(|_| !ended.yielded), changed: true, greet: true, refused: None }
    }

    /// Ends the believed run of a peer that says goodbye, or that stands back for another of its name.
    fn end_by_word(&mut self, place: usize, reports: &mut Vec<Report>) -> Ended {
        let peer = &mut self.peers[place];
        let Some(run) = &peer.current else { return Ended::default() };
        if run.header.has(flags::GOODBYE) {
            let returning = run.header.has(flags::RETURNING);
            peer.state = PeerState::Left { returning };
            reports.push(Report::PeerLeft { name: peer.name, returning });
        } else if run.header.has(flags::YIELDING) {
            let run = peer.current.take();
            peer.state = PeerState::Dead;
            peer.candidates.extend(run);
            self.unsure = true;
            self.challenge = self.challenge.wrapping_add(1);
            return Ended { any: true, yielded: true };
        } else {
            return Ended::default();
        }
        self.challenge = self.challenge.wrapping_add(1);
        Ended { any: true, yielded: false }
    }

    /// Reports, once per run, what is odd about it.
    fn note(&mut self, place: usize, reports: &mut Vec<Report>) {
        let peer = &mut self.peers[place];
        let Some(run) = &peer.current else { return };
        let drift = run.header.config_hash != self.settings.config_hash;
        if drift && !peer.told_drift {
            reports.push(Report::ConfigDrift { name: peer.name });
        }
        peer.told_drift = drift;
        let shared = run.boot_id == self.me.boot_id;
        if shared && !peer.told_boot {
            reports.push(Report::SharedBootId { name: peer.name });
        }
        peer.told_boot = shared;
    }

    /// A frame under our own name: ours, sent back; an earlier run's; or a second node's.
    fn receive_own_name(&mut self, beat: Heartbeat, at: Duration, settled: bool, reports: &mut Vec<Report>) -> Heard {
        if beat.header.nonce == self.me.nonce {
            self.counters.reflected += 1;
            return Heard::NOTHING;
        }
        let grace = self.grace();
        self.unsure = true;
        let was_outranked = self.outranked(at, settled).is_some();
        let (index, greet) = Run::find_or_insert(&mut self.rivals, &beat, at, CANDIDATES_MAX);
        let run = &mut self.rivals[index];
        let freshness = run.window.accept(beat.header.sequence);
        if freshness == Freshness::Replayed {
            return Heard::refused(Refusal::Replayed);
        }
        if freshness == Freshness::Newest {
            run.heard = at;
            run.challenge = beat.header.challenge;
        }
        let word = run.word(&beat, self.id, self.me.nonce);
        let refused = if matches!(word, Word::Hears { challenge } if run.duplicate || challenge == self.challenge) {
            run.duplicate = true;
            run.take(beat, at, &self.addresses);
            run.answers(at);
            Some(Refusal::DuplicateName)
        } else if word == Word::Nothing && run.duplicate {
            // Another frame tells: it is what it was found to be.
            Some(Refusal::DuplicateName)
        } else if beat.header.incarnation < self.me.incarnation {
            Some(Refusal::OldIncarnation)
        } else if at > run.first + grace {
            Some(Refusal::Replayed)
        } else {
            run.pending += 1;
            None
        };
        let source = run.source;
        let outranked = self.outranked(at, settled).is_some();
        if outranked && !was_outranked {
            reports.push(Report::Yielding { source });
        }
        Heard { greet, refused, changed: outranked != was_outranked, obeyed: None }
    }

    /// The live rival that we must stand back for. A node that has settled was here before one that has not; of two
    /// alike the later incarnation stays (where one machine's old process wakes up beside its new one, the new one),
    /// and of two that are alike in this too, the lower nonce, only so that both agree.
    pub fn outranked(&self, at: Duration, settled: bool) -> Option<&Run> {
        let mine = (settled, self.me.incarnation, std::cmp::Reverse(self.me.nonce));
        self.rivals.iter().find(|run| {
            let theirs = (run.header.has(flags::SETTLED), run.incarnation, std::cmp::Reverse(run.nonce));
            run.duplicate
                && at <= run.answered + self.settings.dead_after(run.header.interval)
                && !run.header.has(flags::YIELDING)
                && !run.header.has(flags::GOODBYE)
                && theirs > mine
        })
    }

    /// How long a run may go without answering before it is no newcomer any more.
    fn grace(&self) -> Duration {
        self.settings.detection() + 2 * self.settings.heartbeat
    }

    /// Judges silence at `at`. Asked at every frame, it looks at all peers only where one may be due.
    pub fn expire(&mut self, at: Duration, reports: &mut Vec<Report>) -> Judged {
        let grace = self.grace();
        let mut judged = Judged::default();
        if at < self.judged_next && !self.unsure {
            return judged;
        }
        for peer in &mut self.peers {
            let changed = peer.judge(at, &self.settings, &mut self.challenge, reports);
            judged.changed |= changed;
            judged.died |= changed && peer.state == PeerState::Dead;
            let lives = peer.state.lives();
            for run in &mut peer.candidates {
                let why = if lives { Refusal::DuplicateName } else { Refusal::Replayed };
                run.give_up(why, at, grace, peer.name, &mut self.counters, reports);
            }
            forget_silent(&mut peer.candidates, at, 4 * grace, &mut self.lost_sight);
        }
        self.peers.retain(|peer| peer.current.is_some() || !peer.candidates.is_empty());
        let rivals = self.rivals.len();
        for run in &mut self.rivals {
            run.give_up(Refusal::Replayed, at, grace, self.name, &mut self.counters, reports);
        }
        forget_silent(&mut self.rivals, at, 4 * grace, &mut self.lost_sight);
        if self.rivals.len() != rivals {
            self.challenge = self.challenge.wrapping_add(1);
        }
        // Runs that are not believed are judged every time: there are none most of the time.
        self.unsure = !self.rivals.is_empty() || self.peers.iter().any(|peer| !peer.candidates.is_empty());
        let deadlines = self.peers.iter().filter_map(|peer| peer.next_deadline(&self.settings));
        self.judged_next = deadlines.min().unwrap_or(Duration::MAX);
        judged
    }

    /// The next time at which [`Membership::expire`] has something to judge.
    pub fn next_deadline(&self, at: Duration) -> Option<Duration> {
        let peers = self.peers.iter().filter_map(|peer| peer.next_deadline(&self.settings));
        let rivals = self.rivals.iter().map(|run| run.answered + self.settings.dead_after(run.header.interval));
        peers.chain(rivals).filter(|&deadline| deadline > at).min()
    }

    /// Whom we hear, for our heartbeats. Recordings must not crowd members out: of each name goes the believed run and the
    /// newest other, and of further ones only what fits one frame with them. 16 names go in one frame so, whatever is
    /// played to them, as those of earlier minor versions must.
    pub fn echoes(&self, at: Duration) -> Vec<Echo> {
        let heard = |run: &&Run| at <= run.heard + self.settings.dead_after(run.header.interval);
        let mut echoes = Vec::with_capacity(self.peers.len());
        let mut further = Vec::new();
        let mut others = |echoes: &mut Vec<Echo>, runs: &[Run], id| {
            let newest = runs.iter().filter(heard).max_by_key(|run| run.first).map(|run| run.nonce);
            for run in runs.iter().filter(heard) {
                let place = echoes.len();
                echoes.push(run.echo(id, false));
                if Some(run.nonce) != newest {
                    further.push(place);
                }
            }
        };
        for peer in &self.peers {
            let alive = peer.state == PeerState::Alive;
            let current = peer.current.iter().filter(|_| !matches!(peer.state, PeerState::Left { .. }));
            echoes.extend(current.filter(heard).map(|run| run.echo(peer.id, alive)));
            others(&mut echoes, &peer.candidates, peer.id);
        }
        others(&mut echoes, &self.rivals, self.id);
        let room = ECHOES_MAX.saturating_sub(echoes.len() - further.len());
        for place in further.drain(..).skip(room).rev() {
            echoes.remove(place);
        }
        echoes.sort_by_key(|echo| !echo.alive);
        echoes
    }
}

/// Forgets the runs that were not heard for longer than `after`.
fn forget_silent(runs: &mut Vec<Run>, at: Duration, after: Duration, lost_sight: &mut Option<Duration>) {
    runs.retain(|run| {
        let stays = at <= run.heard + after;
        if !stays {
            *lost_sight = (*lost_sight).max(Some(run.heard));
        }
        stays
    });
}

/// What [`Membership::expire`] found.
#[derive(Clone, Copy, Default)]
pub(super) struct Judged {
    /// Somebody's state changed.
    pub changed: bool,
    /// Somebody died.
    pub died: bool,
}

/// What [`Membership::end_by_word`] did.
#[derive(Clone, Copy, Default)]
struct Ended {
    any: bool,
    yielded: bool,
}
