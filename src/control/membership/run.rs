//! One run of a node, as heard.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::hearsay::Hearsay;
use crate::control::auth::ReplayWindow;
use crate::control::heartbeat::{Echo, Header, Heartbeat, VipBeat};
use crate::control::member::{MemberId, Name};
use crate::control::report::{Counters, Refusal, Report};
use crate::frame::Mac;

/// One run of a node. Times are of the listening clock.
#[derive(Clone, Debug)]
pub(in crate::control) struct Run {
    pub nonce: u64,
    pub incarnation: u64,
    pub boot_id: [u8; 16],
    /// The latest challenge heard from it.
    pub challenge: u32,
    pub window: ReplayWindow,
    /// When it was first heard.
    pub first: Duration,
    /// When it was last heard.
    pub heard: Duration,
    /// When it last answered us.
    pub answered: Duration,
    /// Since when it is heard and does not answer us, after it did.
    pub lost: Option<Duration>,
    /// Frames of which it is not clear yet whether they are a newcomer's first.
    pub pending: u64,
    /// Known to live beside another run of its name.
    pub duplicate: bool,
    pub source: Mac,
    /// Its latest header. Until it answered once, its first.
    pub header: Header,
    /// Whom it says it hears.
    pub hearsay: Hearsay,
    /// Its VIPs by our index.
    pub vips: Vec<Option<VipBeat>>,
    /// The numbers of the frames that they are from.
    vips_from: Vec<u64>,
    /// The number of the frame that last told whether it hears us.
    told: u64,
    /// The challenge in that frame: another one means that it took somebody for dead since.
    pub told_challenge: u32,
}

/// What a frame says of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum Word {
    /// Nothing new: another frame tells, or a later one has.
    Nothing,
    /// That its sender does not hear us.
    Deaf,
    /// That it hears us.
    Hears {
        /// Which of our challenges it heard last.
        challenge: u32,
    },
}

impl Run {
    fn new(beat: &Heartbeat, at: Duration) -> Run {
        Run {
            nonce: beat.header.nonce,
            incarnation: beat.header.incarnation,
            boot_id: beat.header.boot_id,
            challenge: beat.header.challenge,
            window: ReplayWindow::default(),
            first: at,
            heard: at,
            answered: at,
            lost: None,
            pending: 0,
            duplicate: false,
            source: beat.source,
            header: beat.header,
            hearsay: Hearsay::default(),
            vips: Vec::new(),
            vips_from: Vec::new(),
            told: 0,
            told_challenge: 0,
        }
    }

    /// The place of the run in `runs`, and whether it is new there. At most `most` are kept, those heard last.
    pub fn find_or_insert(runs: &mut Vec<Run>, beat: &Heartbeat, at: Duration, most: usize) -> (usize, bool) {
        if let Some(index) = runs.iter().position(|run| run.nonce == beat.header.nonce) {
            return (index, false);
        }
        if runs.len() >= most {
            let oldest = runs.iter().enumerate().min_by_key(|(_, run)| run.heard).map(|(index, _)| index);
            oldest.map(|oldest| runs.swap_remove(oldest));
        }
        runs.push(Run::new(beat, at));
        (runs.len() - 1, true)
    }

    /// What a frame of it says of the run with our id and nonce. Only the latest word counts, in whatever order frames come.
    pub fn word(&mut self, beat: &Heartbeat, id: MemberId, nonce: u64) -> Word {
        if !beat.scope.contains(id) || beat.header.sequence <= self.told {
            return Word::Nothing;
        }
        (self.told, self.told_challenge) = (beat.header.sequence, beat.header.challenge);
        match beat.echoes.iter().find(|echo| echo.nonce == nonce && echo.id == id) {
            Some(echo) => Word::Hears { challenge: echo.challenge },
            None => Word::Deaf,
        }
    }

    /// It answers us, so each hears the other.
    pub fn answers(&mut self, at: Duration) {
        self.answered = at;
        self.lost = None;
    }

    /// Takes over what a frame says, but for what a later one has said already: the frames of one heartbeat may come in any
    /// order. Returns whether anything is new that the election looks at, and whom it calls alive and did not, or the other
    /// way round.
    pub fn take(
        &mut self,
        beat: Heartbeat,
        at: Duration,
        addresses: &BTreeMap<IpAddr, usize>,
    ) -> (bool, Vec<MemberId>) {
        let sequence = beat.header.sequence;
        let turned = self.hearsay.take(beat.scope, &beat.echoes, sequence, at);
        let mut changed = false;
        if sequence > self.header.sequence {
            changed = self.header.flags != beat.header.flags;
            self.header = beat.header;
        }
        self.vips.resize(addresses.len(), None);
        self.vips_from.resize(addresses.len(), 0);
        for vip in beat.vips {
            let Some(&index) = addresses.get(&vip.address).filter(|&&index| sequence > self.vips_from[index]) else {
                continue;
            };
            self.vips_from[index] = sequence;
            let known = &mut self.vips[index];
            changed |= known.as_ref() != Some(&vip);
            *known = Some(vip);
        }
        (changed, turned)
    }

    /// Counts its pending frames as refused if it has not answered in time; reports the first.
    pub fn give_up(
        &mut self,
        why: Refusal,
        at: Duration,
        grace: Duration,
        name: Name,
        counters: &mut Counters,
        reports: &mut Vec<Report>,
    ) {
        if self.pending > 0 && at > self.first + grace {
            counters.count(why, std::mem::take(&mut self.pending));
            self.duplicate |= why == Refusal::DuplicateName;
            reports.push(Report::Refused { why, name: Some(name), source: self.source });
        }
    }

    /// What we echo of it.
    pub fn echo(&self, id: MemberId, alive: bool) -> Echo {
        Echo { id, nonce: self.nonce, challenge: self.challenge, alive }
    }
}
