//! The end of a run: all faults are over, so roles must agree, new connections must be answered at once, and every
//! connection that nothing has ended must go on.

use std::time::Duration;

use super::{MS, Run};
use crate::control::ClusterView;
use crate::sim::checks::Truth;
use crate::sim::client::Finish;
use crate::sim::kernel::{End, Kind};
use crate::sim::options::Options;
use crate::sim::shell;
use crate::sim::workload::{self, Begun};
use crate::table::{Cursor, State};

/// What retransmissions may take after the last fault.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long a SYN may take to be answered in a healthy cluster, beyond the way there and back.
const PROMPT: Duration = Duration::from_millis(10);

impl Run {
    pub(super) fn conclude(&mut self) {
        if self.is_over() {
            return;
        }
        self.cluster.note("all faults are over".into());
        let settled = self.cluster.now + self.settling();
        self.advance(settled);
        self.check_agreement();
        self.go_on();
        let first_calm = self.begun.len();
        self.connect_calmly();
        self.check_promptness(first_calm);
        let latest = self.cluster.now + PATIENCE;
        while !self.is_over() && self.cluster.now < latest && self.unfinished().is_some() {
            self.advance(self.cluster.now + 100 * MS);
        }
        if self.is_over() {
            return;
        }
        // The last notices are on their way.
        self.advance(self.cluster.now + 50 * MS);
        if let Some((begun, what)) = self.unfinished() {
            self.cluster.checks.violate(self.cluster.now, Some(begun.flow), what);
        }
        self.check_hosts();
        self.check_switch();
        self.check_heartbeats();
    }

    /// Members hold one assignment, and play the roles that it says.
    fn check_agreement(&mut self) {
        let mut disagreement = self.disagreement();
        // Where metrics move roles, one may be moving just now.
        for _ in 0..if self.cluster.options.rebalance.is_some() { 3 } else { 0 } {
            if disagreement.is_some() {
                self.advance(self.cluster.now + 20 * MS);
                disagreement = self.disagreement();
            }
        }
        if let (false, Some(what)) = (self.is_over(), disagreement) {
            self.cluster.checks.violate(self.cluster.now, None, what);
        }
    }

    fn disagreement(&self) -> Option<String> {
        let members = &self.cluster.members;
        let views: Vec<ClusterView> =
            members.iter().filter_map(|machine| machine.daemon.as_ref()?.view(self.cluster.now)).collect();
        for vip in 0..self.cluster.options.vips() {
            let address = Options::vip_address(vip);
            let held = views.first().map(|view| &view.vips[vip])?;
            for (view, member) in views.iter().zip(1..) {
                let of = &view.vips[vip];
                if (of.term, &of.actives) != (held.term, &held.actives) {
                    return Some(format!(
                        "s{member} holds term {} of {address} with {:?} active, s1 term {} with {:?}",
                        of.term, of.actives, held.term, held.actives
                    ));
                }
                let rank = of.actives.iter().position(|name| name == view.node.as_str());
                let plays = of.role.active.then_some(usize::from(of.role.rank));
                if rank != plays {
                    return Some(format!("s{member} plays {:?} for {address} under {:?}", of.role, of.actives));
                }
            }
            let fit = views.iter().filter(|view| view.vips[vip].healthy && !view.vips[vip].draining).count();
            let wanted = fit.min(self.cluster.options.actives_of(vip).into());
            if held.actives.len() != wanted {
                return Some(format!("{} are active for {address}, not {wanted}", held.actives.len()));
            }
        }
        None
    }

    /// Connections that stay open are used once more.
    fn go_on(&mut self) {
        for Begun { client, flow, .. } in self.begun.clone() {
            let story = self.cluster.clients[client].stories.get(&flow);
            let waits = |story: &&crate::sim::Story| {
                story.plan.finish == Finish::Stay && story.succeeded() && story.ended.is_none()
            };
            if story.is_some_and(|story| waits(&story)) {
                self.cluster.ask(client, flow);
            }
        }
    }

    /// New connections in a healthy cluster.
    fn connect_calmly(&mut self) {
        let count = (self.begun.len() / 4).max(8);
        let every = self.end.since(self.cluster.now).max(100 * MS) / count as u32;
        self.cluster.checks.exclusive = self.cluster.options.rebalance.is_none();
        for number in 0..count {
            let vip = number % self.cluster.options.vips();
            let begun = workload::connect_plainly(&mut self.cluster, vip, &mut self.random);
            self.begun.push(begun);
            self.advance(self.cluster.now + every);
        }
        self.advance(self.cluster.now + PROMPT + 4 * self.cluster.options.client_delay);
    }

    /// Every SYN that reaches a healthy cluster is answered.
    fn check_promptness(&mut self, first: usize) {
        for number in first..self.begun.len() {
            let Begun { client, flow, .. } = self.begun[number];
            let Some(story) = self.cluster.clients[client].stories.get(&flow) else { continue };
            if !self.is_over() && (story.connected.is_none() || story.syn_retransmits > 0) {
                let what = "a SYN to a healthy cluster was not answered at once".into();
                self.cluster.checks.violate(self.cluster.now, Some(flow), what);
            }
        }
    }

    /// A connection that nothing has ended, and that has not done what was planned.
    fn unfinished(&self) -> Option<(Begun, String)> {
        self.begun.iter().find_map(|begun| self.why_unfinished(begun).map(|why| (*begun, why)))
    }

    fn why_unfinished(&self, begun: &Begun) -> Option<String> {
        let story = self.cluster.clients[begun.client].stories.get(&begun.flow)?;
        if !begun.served || story.succeeded() {
            return None;
        }
        if let Some(wrong) = story.wrong {
            return Some(wrong.into());
        }
        let Some((iss, irs)) = story.numbers else {
            return match story.ended {
                None => Some("a connection was never answered".into()),
                Some((_, End::Refused)) if self.may_be_refused(begun) => None,
                Some((_, end)) => Some(format!("a connection could not be made: {end:?}")),
            };
        };
        let owner = self.cluster.checks.owner(begun.flow, Truth { iss, irs: Some(irs) })?;
        if self.cluster.may_end(begun.client, begun.flow, owner) || story.plan.finish == Finish::ServerAbort {
            return None;
        }
        Some(format!("a connection of s{} hangs", owner + 1))
    }

    /// A service stopped listening at some time; or an earlier attempt from the same port was still half open.
    fn may_be_refused(&self, begun: &Begun) -> bool {
        let vip = self.cluster.vip_of(begun.flow).unwrap_or_default();
        !begun.fresh || self.cluster.members.iter().any(|machine| !machine.stopped[vip].is_empty())
    }

    /// Hosts hold nothing that is another member's, and tables hold what hosts hold.
    fn check_hosts(&mut self) {
        for member in 0..self.cluster.members.len() {
            let Some((flow, what)) = self.strange_at(member) else { continue };
            self.cluster.checks.violate(self.cluster.now, Some(flow), format!("s{} {what}", member + 1));
        }
    }

    fn strange_at(&self, member: usize) -> Option<(crate::sim::segment::Flow, String)> {
        let machine = &self.cluster.members[member];
        let daemon = machine.daemon.as_ref()?;
        for (server, kind) in machine.kernel.dump() {
            let flow = server.reversed();
            let Some(truth) = self.cluster.truth(flow) else { continue };
            let Some(owner) = self.cluster.checks.owner(flow, truth) else { continue };
            // One that answers an old or a spoofed SYN is nobody else's.
            let of_other_syn = machine.kernel.request(server).is_some_and(|client_isn| client_isn != truth.iss);
            let told = self.cluster.checks.was_told(member, flow, truth);
            if owner != member && kind != Kind::TimeWait && told && !of_other_syn {
                return Some((
                    flow,
                    format!("still holds ({kind:?}) a connection of s{}, of which it was told", owner + 1),
                ));
            }
            let tuple = shell::tuple_of(&daemon.member.facts, server)?;
            let known = daemon.member.established.find(&tuple, daemon.member.established.hash(&tuple)).is_some();
            if owner == member && kind == Kind::Live && !known {
                return Some((flow, "does not know a connection of its own host".into()));
            }
        }
        let mut stale = None;
        let mut cursor = Cursor::default();
        while !daemon.member.established.scan(&mut cursor, 4096, |tuple, entry| {
            let server = shell::flow_of(&daemon.member.facts, &tuple);
            // The end of a TIME_WAIT is announced by nobody; an entry may be marked so where there was none.
            let left_time_wait = entry.state() == State::TimeWait && machine.kernel.had_time_wait(server);
            // Nor is that of a half-open socket, which a SYN that came late may have left for a while.
            let left_half_open = entry.syn_seen() || self.cluster.checks.answered_anew(member, server.reversed());
            if !left_time_wait && !left_half_open && machine.kernel.query(server).is_none() {
                stale = Some(server.reversed());
            }
        }) {}
        stale.map(|flow| (flow, "knows a connection that its host does not have".into()))
    }

    /// Members understand each other, whatever versions they speak.
    fn check_heartbeats(&mut self) {
        for member in 0..self.cluster.members.len() {
            let daemon = self.cluster.members[member].daemon.as_ref();
            let Some(view) = daemon.and_then(|daemon| daemon.view(self.cluster.now)) else { continue };
            let seen = view.heartbeats;
            if (seen.malformed, seen.wrong_key, seen.other_version) != (0, 0, 0) {
                let what = format!("s{} does not understand the heartbeats of its cluster: {seen:?}", member + 1);
                self.cluster.checks.violate(self.cluster.now, None, what);
            }
        }
    }

    fn check_switch(&mut self) {
        for vip in 0..self.cluster.options.vips() {
            if self.cluster.switch.location(Options::virtual_mac(vip)).is_some() {
                let what = format!("the switch has learned the virtual MAC of {}", Options::vip_address(vip));
                self.cluster.checks.violate(self.cluster.now, None, what);
            }
        }
    }
}
