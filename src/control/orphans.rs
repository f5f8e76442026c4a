//! Whose clients are orphans: what the members find out together. `docs/orphans.md` tells the whole.
//!
//! The workers tell of clients that repeat themselves without progress ([`Event::Suspect`](super::Event::Suspect)). Of
//! each the others are asked, in heartbeats; each looks into its table and its kernel
//! ([`Action::LookUp`](super::Action::LookUp)) and answers. A client is an orphan when everyone is accounted for: alive
//! and "not mine", or silent for `orphans.after`. Whoever cannot tell does not answer, and nobody is reset on a guess.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::broken::{Rule, broken};
use crate::control::core::{Action, Control, Leaving};
use crate::control::heartbeat::{ANSWERS_MAX, Answer, Holds, Inquiry, QUESTIONS_MAX, Question};
use crate::control::member::MemberId;
use crate::control::membership::Peer;
use crate::control::report::{OrphansView, PeerState};
use crate::orphans::Suspect;
use crate::table::{Tuple, VipIndex};
use crate::time::Time;

/// Clients that are being asked about. Of more, their next repeat tells again.
const CASES_MAX: usize = 4096;

/// Answers that wait to be sent. Of more, they are asked again.
const ANSWERS_WAITING_MAX: usize = 256;

/// Between two batches of questions. With [`QUESTIONS_MAX`] this bounds what a flood of suspicions costs everyone: 4,800
/// questions a second at heartbeats of 5 ms or less, 2,400 at 10 ms.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Between two judgements of all cases.
const JUDGE_EVERY: Duration = Duration::from_millis(20);

/// A question without an answer is put again after this, or after three heartbeats.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The most clients of one judgement: what the workers' queue has room for.
const RESETS_MAX: usize = 128;

/// After frames were lost, or this member was away, it trusts neither its silence nor its tables for so long.
const DOUBT: Duration = Duration::from_secs(1);

/// How much longer than `orphans.after` a client is asked about.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this member holds a connection, to be looked up in its table and its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookUp {
    /// The nonce of the run that asks.
    asker: u64,
    /// The question's number.
    number: u32,
    /// The connection.
    pub tuple: Tuple,
}

/// A client that may be an orphan. Times are of the listening clock.
#[derive(Clone, Debug)]
struct Case {
    suspect: Suspect,
    /// When a worker last told of it.
    told: Duration,
    asked: Option<Duration>,
    /// This member has nothing of it.
    cleared_here: bool,
    /// Runs of others that have nothing of it, in order.
    cleared: Vec<(MemberId, u64)>,
}

impl Case {
    /// Whether the client does what it did, so that what was found out since holds.
    fn goes_on(&self, suspect: &Suspect) -> bool {
        let (was, is) = (&self.suspect.suspicion, &suspect.suspicion);
        (was.end, was.ack) == (is.end, is.ack)
    }

    fn clear(&mut self, from: (MemberId, u64)) {
        if let Err(place) = self.cleared.binary_search(&from) {
            self.cleared.insert(place, from);
        }
    }

    fn is_cleared_by(&self, peer: &Peer) -> bool {
        peer.current.as_ref().is_some_and(|run| self.cleared.binary_search(&(peer.id, run.nonce)).is_ok())
    }
}

/// All cases, and what others ask.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// By the numbers of their questions, so the oldest first.
    cases: BTreeMap<u32, Case>,
    numbers: BTreeMap<Tuple, u32>,
    /// The last question's.
    number: u32,
    look_ups: Vec<LookUp>,
    answers: VecDeque<Answer>,
    next_questions: Duration,
    next_judgement: Duration,
    doubt_until: Duration,
    view: OrphansView,
}

impl Control {
    /// A worker tells of a client that repeats itself in vain.
    pub(super) fn suspect(&mut self, suspect: Suspect) {
        let wanted = self.vips.get(usize::from(suspect.suspicion.tuple.vip));
        if wanted.is_none_or(|vip| vip.settings.orphans_after.is_none()) {
            return;
        }
        let (told, asker, tuple) = (self.clock.listened(), self.identity.nonce, suspect.suspicion.tuple);
        let orphans = &mut self.orphans;
        if let Some(&number) = orphans.numbers.get(&tuple) {
            if let Some(case) = orphans.cases.get_mut(&number).filter(|case| case.goes_on(&suspect)) {
                (case.suspect, case.told) = (suspect, told);
                if !case.cleared_here {
                    orphans.look_ups.push(LookUp { asker, number, tuple });
                }
                return;
            }
            orphans.close(number);
        } else if orphans.cases.len() >= CASES_MAX {
            orphans.view.crowded_out += 1;
            return;
        }
        orphans.number = orphans.number.wrapping_add(1);
        let number = orphans.number;
        orphans.look_ups.push(LookUp { asker, number, tuple });
        orphans.numbers.insert(tuple, number);
        orphans.cases.insert(number, Case { suspect, told, asked: None, cleared_here: false, cleared: Vec::new() });
        self.hurry();
    }

    /// Frames were lost on their way to us, or we were away.
    pub(super) fn doubt(&mut self) {
        self.orphans.doubt_until = self.clock.listened() + DOUBT;
    }

    fn is_in_doubt(&self) -> bool {
        self.clock.listened() < self.orphans.doubt_until || !self.clock.may_judge()
    }

    /// What a believed peer asks and answers.
    pub(super) fn take_inquiry(&mut self, place: usize, inquiry: Inquiry) {
        let Some(peer) = self.membership.peers.get(place) else { return };
        let Some(run) = &peer.current else { return };
        let (id, nonce) = (peer.id, run.nonce);
        for answer in inquiry.answers.iter().filter(|answer| answer.asker == self.identity.nonce) {
            self.orphans.take_answer((id, nonce), answer);
        }
        for question in inquiry.questions.iter().take(QUESTIONS_MAX) {
            // Of what this member does not serve it cannot tell.
            let Some(tuple) = self.tuple(question) else { continue };
            if self.ready && self.orphans.look_ups.len() < ANSWERS_WAITING_MAX {
                self.orphans.look_ups.push(LookUp { asker: nonce, number: question.number, tuple });
            }
        }
    }

    fn tuple(&self, question: &Question) -> Option<Tuple> {
        let vip = self.vips.iter().position(|vip| vip.settings.address == question.vip)?;
        let SocketAddr::V4(client) = question.client else { return None };
        Some(Tuple { client: *client.ip(), client_port: client.port(), port: question.port, vip: vip as VipIndex })
    }

    /// What this member's table and kernel say.
    pub(super) fn looked_up(&mut self, look_up: LookUp, holds: Holds) {
        let LookUp { asker, number, .. } = look_up;
        if asker == self.identity.nonce {
            self.orphans.look_up_here(number, holds);
        } else if (holds == Holds::Mine || !self.is_in_doubt()) && self.orphans.answers.len() < ANSWERS_WAITING_MAX {
            self.orphans.answers.push_back(Answer { asker, number, holds });
            self.hurry();
        }
    }

    /// Where heartbeats are rare, questions and answers do not wait for the next.
    fn hurry(&mut self) {
        self.urgent |= self.settings.heartbeat > ASK_AGAIN;
    }

    /// What the next heartbeat asks and answers.
    pub(super) fn inquiry(&mut self) -> Inquiry {
        let at = self.clock.listened();
        let answers = self.orphans.answers.len().min(ANSWERS_MAX);
        let answers = self.orphans.answers.drain(..answers).collect();
        let mut questions = Vec::new();
        if at >= self.orphans.next_questions && !self.orphans.cases.is_empty() {
            self.orphans.next_questions = at + ASK_EVERY;
            let again = ASK_AGAIN.max(self.settings.heartbeat * 3);
            let membership = &self.membership;
            let open = |(_, case): &(&u32, &mut Case)| {
                case.asked.is_none_or(|asked| at >= asked + again)
                    && membership.live().any(|(peer, _)| !case.is_cleared_by(peer))
            };
            for (&number, case) in self.orphans.cases.iter_mut().filter(open).take(QUESTIONS_MAX) {
                case.asked = Some(at);
                let Tuple { client, client_port, port, vip } = case.suspect.suspicion.tuple;
                let vip = self.vips[usize::from(vip)].settings.address;
                let client = SocketAddr::from((IpAddr::from(client), client_port));
                questions.push(Question { number, vip, client, port });
            }
        }
        Inquiry { questions, answers }
    }

    /// Looks up what is asked for, and says which clients are orphans.
    pub(super) fn seek_orphans(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.orphans.look_ups.drain(..).map(Action::LookUp));
        let at = self.clock.listened();
        if self.orphans.cases.is_empty() || at < self.orphans.next_judgement || self.is_in_doubt() {
            return;
        }
        self.orphans.next_judgement = at + JUDGE_EVERY;
        let (mut orphans, mut hopeless) = (Vec::new(), Vec::new());
        let gone_for = self.gone_for(at);
        for (&number, case) in &self.orphans.cases {
            let vip = &self.vips[usize::from(case.suspect.suspicion.tuple.vip)];
            let after = vip.settings.orphans_after.filter(|_| vip.role.primary());
            match after.filter(|&after| at <= case.told + after + PATIENCE) {
                None => hopeless.push(number),
                Some(after)
                    if orphans.len() < RESETS_MAX
                        && gone_for.is_some_and(|gone| gone >= after)
                        && self.is_orphan(case, at, after) =>
                {
                    orphans.push(number);
                    actions.push(Action::Reset(case.suspect));
                }
                Some(_) => {}
            }
        }
        self.orphans.view.given_up += hopeless.len() as u64;
        orphans.into_iter().chain(hopeless).for_each(|number| self.orphans.close(number));
    }

    fn is_orphan(&self, case: &Case, at: Duration, after: Duration) -> bool {
        case.cleared_here
            && self.has_settled()
            && self.leaving == Leaving::No
            // Who lives was heard by now.
            && at >= after
            && self.membership.live().any(|(peer, _)| peer.state == PeerState::Alive)
            && self.membership.believes_all(at, after)
            && self.membership.live().all(|(peer, _)| case.is_cleared_by(peer))
    }

    /// For how long all have been silent that are neither alive nor gone for good; none if somebody who lives has said that
    /// one of them does, even if its latest heartbeat was lost. (The connections of those that are gone for good ended with them.) It is the same for all clients: many of them
    /// do not ask it of many members.
    fn gone_for(&self, at: Duration) -> Option<Duration> {
        let mut gone_for = Duration::MAX;
        for peer in &self.membership.peers {
            match peer.state {
                PeerState::Alive | PeerState::Suspect | PeerState::Left { returning: false } => {}
                PeerState::Dead | PeerState::Left { returning: true } => {
                    if self.membership.is_said_to_live(peer.id) {
                        return None;
                    }
                    let silent = peer.current.as_ref().map(|run| at.saturating_sub(run.heard));
                    gone_for = silent.map_or(gone_for, |silent| silent.min(gone_for));
                }
            }
        }
        Some(gone_for)
    }

    /// When [`Control::seek_orphans`] is wanted.
    pub(super) fn next_orphans_timer(&self) -> Option<Time> {
        let orphans = &self.orphans;
        let due = orphans.next_judgement.max(orphans.doubt_until).max(self.clock.listened() + Duration::from_nanos(1));
        (!orphans.cases.is_empty()).then(|| self.clock.when_judged(due))
    }

    pub(super) fn orphans_view(&self) -> OrphansView {
        OrphansView { open: self.orphans.cases.len() as u64, ..self.orphans.view }
    }
}

impl Orphans {
    fn take_answer(&mut self, from: (MemberId, u64), answer: &Answer) {
        let Some(case) = self.cases.get_mut(&answer.number) else { return };
        match answer.holds {
            Holds::Mine if broken(Rule::OwnersAsked) => case.clear(from),
            Holds::Mine => self.owned(answer.number),
            Holds::NotMine => case.clear(from),
        }
    }

    fn look_up_here(&mut self, number: u32, holds: Holds) {
        let Some(case) = self.cases.get_mut(&number) else { return };
        match holds {
            Holds::Mine => self.owned(number),
            Holds::NotMine => case.cleared_here = true,
        }
    }

    fn owned(&mut self, number: u32) {
        self.view.owned += 1;
        self.close(number);
    }

    fn close(&mut self, number: u32) {
        if let Some(case) = self.cases.remove(&number) {
            self.numbers.remove(&case.suspect.suspicion.tuple);
        }
    }
}
