//! One run of a node, as heard.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

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
    pub echoes: Vec<Echo>,
    /// Its VIPs by our index.
    pub vips: Vec<Option<VipBeat>>,
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
            echoes: Vec::new(),
            vips: Vec::new(),
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

    /// Takes over what a heartbeat says. Returns whether anything is new that the election looks at.
    pub fn take(&mut self, beat: Heartbeat, at: Duration, addresses: &BTreeMap<IpAddr, usize>) -> bool {
        self.answered = at;
        self.lost = None;
        let mut changed = self.header.flags != beat.header.flags || self.echoes != beat.echoes;
        self.header = beat.header;
        self.echoes = beat.echoes;
        self.vips.resize(addresses.len(), None);
        for vip in beat.vips {
            if let Some(&index) = addresses.get(&vip.address) {
                let known = &mut self.vips[index];
                changed |= known.as_ref() != Some(&vip);
                *known = Some(vip);
            }
        }
        changed
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
