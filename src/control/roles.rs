//! From assignments to roles: proposing, adopting, handing over without a gap, rebalancing.

mod view;

use std::net::IpAddr;
use std::time::Duration;

use crate::broken::{Rule, broken};
use crate::control::assignment::Assignment;
use crate::control::core::{Action, Control, Leaving};
use crate::control::election::{Election, Need, Presence, Standing, comparable, is_better};
use crate::control::heartbeat::{VipBeat, flags, vip_flags};
use crate::control::member::MemberId;
use crate::control::membership::{Peer, Run};
use crate::control::report::{CannotActivate, PeerState, Report};
use crate::control::settings::{Settings, VipSettings};
use crate::shared::Role;
use crate::table::VipIndex;
use crate::time::Time;

/// After a change of the assignment another member may still hand SYNs to its host: replayed ones are kept this long.
const NO_REFUSAL_FOR: Duration = Duration::from_secs(1);

/// What this member holds of one VIP. Durations are times of the listening clock.
pub(super) struct Vip {
    pub settings: VipSettings,
    /// Its place among all VIPs, by address.
    ordinal: usize,
    pub assignment: Assignment,
    /// Unknown until the service was probed.
    pub healthy: Option<bool>,
    pub draining: bool,
    /// What the workers were told last.
    pub role: Role,
    /// When the assignment last changed.
    changed: Option<Time>,
    /// We serve although the assignment names others: until they say that they do, or until then.
    lingering: Option<Duration>,
    /// Since when the assignment needs a change by us.
    needed: Option<Duration>,
    /// Since when a challenger is better than an active.
    better: Option<Duration>,
    /// When metrics are compared next.
    compare: Duration,
    told_no_successor: bool,
}

impl Vip {
    /// All VIPs, nobody active.
    pub fn all(settings: &Settings) -> Vec<Vip> {
        let mut addresses: Vec<IpAddr> = settings.vips.iter().map(|vip| vip.address).collect();
        addresses.sort();
        let vip = |vip: &VipSettings| Vip {
            settings: vip.clone(),
            ordinal: addresses.binary_search(&vip.address).unwrap_or_default(),
            assignment: Assignment::default(),
            healthy: (!vip.probed).then_some(true),
            draining: false,
            role: Role::default(),
            changed: None,
            lingering: None,
            needed: None,
            better: None,
            compare: Duration::ZERO,
            told_no_successor: false,
        };
        settings.vips.iter().map(vip).collect()
    }

    fn set_assignment(&mut self, assignment: Assignment, now: Time) {
        self.assignment = assignment;
        self.changed = Some(now);
        self.needed = None;
        self.told_no_successor = false;
        // Whom it names has to confirm it anew.
        self.lingering = None;
    }
}

impl Control {
    /// Brings assignments and roles in line with what is known now.
    pub(super) fn govern(&mut self, now: Time, actions: &mut Vec<Action>) {
        let mut calm = self.has_settled();
        // Who is there is the same for all VIPs.
        let members = self.members();
        for index in 0..self.vips.len() {
            calm &= self.reconcile(index, &members, now, actions);
        }
        self.update_roles(now, actions);
        if calm && !self.settled && self.vips.iter().all(|vip| vip.lingering.is_none()) {
            self.settled = true;
            actions.push(Action::Report(Report::Settled));
        }
    }

    /// Keeps the greater of a peer's assignments and ours. Returns whether any was greater.
    pub(super) fn adopt(&mut self, place: usize, now: Time) -> bool {
        let Some(run) = self.membership.peers.get(place).and_then(|peer| peer.current.as_ref()) else { return false };
        let mut adopted = false;
        for (vip, beat) in self.vips.iter_mut().zip(&run.vips) {
            if let Some(beat) = beat.as_ref().filter(|beat| beat.assignment > vip.assignment) {
                vip.set_assignment(beat.assignment.clone(), now);
                adopted = true;
            }
        }
        if adopted {
            self.urgent = true;
            self.restart_comparison();
        }
        adopted
    }

    /// Proposes these actives: from now on they hold, until somebody proposes a higher term.
    fn propose(&mut self, index: usize, actives: Vec<MemberId>, now: Time) {
        let assignment = self.vips[index].assignment.succeed(self.me, actives);
        self.vips[index].set_assignment(assignment, now);
        self.urgent = true;
        self.restart_comparison();
    }

    /// A role that moved changes loads: no VIP follows before its challenger was better for its whole hold time anew.
    /// So VIPs do not all run to the same member at once.
    fn restart_comparison(&mut self) {
        self.vips.iter_mut().for_each(|vip| vip.better = None);
    }

    /// Proposes a change where the assignment needs one and it is our turn. Returns whether it needs none any more.
    fn reconcile(&mut self, index: usize, members: &[Standing], now: Time, actions: &mut Vec<Action>) -> bool {
        let roster = self.roster(index, members);
        let election = self.election(index, &roster);
        let need = election.need();
        let challenge = if need == Need::Nothing { self.rebalance(index, &election) } else { None };
        let (at, heartbeat) = (self.clock.listened(), self.settings.heartbeat);
        let settled = !self.yielding && self.proposes_from().is_some_and(|from| at >= from);
        let may_propose = settled && self.clock.may_judge();
        let vip = &mut self.vips[index];
        match need {
            Need::Nothing => {
                vip.needed = None;
                vip.told_no_successor = false;
                if let Some(rebalance) = vip.settings.rebalance.filter(|_| at >= vip.compare) {
                    vip.compare = at + rebalance.every;
                    vip.better = challenge.as_ref().map(|_| vip.better.unwrap_or(at));
                    let held = vip.better.is_some_and(|since| at >= since + rebalance.hold);
                    if let Some(actives) = challenge.filter(|_| held) {
                        self.propose(index, actives, now);
                        return true;
                    }
                }
                vip.healthy.is_some()
            }
            Need::NoSuccessor => {
                vip.needed = None;
                let leaving = self.leaving != Leaving::No;
                if !std::mem::replace(&mut vip.told_no_successor, true) && !leaving {
                    actions.push(Action::Report(Report::NoSuccessor { address: vip.settings.address }));
                }
                true
            }
            Need::Change { actives, turn } => {
                let needed = *vip.needed.get_or_insert(at);
                if may_propose && at >= needed + heartbeat * turn {
                    self.propose(index, actives, now);
                    return true;
                }
                false
            }
        }
    }

    /// The actives after a challenger has taken the place of the worst, if one is better now and the change is ours.
    fn rebalance(&self, index: usize, election: &Election<'_>) -> Option<Vec<MemberId>> {
        let vip = &self.vips[index];
        let rebalance = vip.settings.rebalance.as_ref().filter(|_| self.has_settled())?;
        let keepers = election.keepers();
        if keepers.first() != Some(&self.me) || keepers != vip.assignment.actives {
            return None;
        }
        let (rank, worst) = election.worst()?;
        let fresh = election.fresh(&keepers);
        let best = fresh.first()?;
        if !is_better(best.metric, worst, rebalance.margin) {
            return None;
        }
        let mut actives = vip.assignment.actives.clone();
        *actives.get_mut(rank)? = best.id;
        Some(actives)
    }

    /// Makes this member active.
    pub(super) fn activate(&mut self, index: VipIndex, now: Time) -> Result<(), CannotActivate> {
        let index = usize::from(index);
        let vip = self.vips.get(index).ok_or(CannotActivate::NoSuchVip)?;
        if self.leaving != Leaving::No {
            return Err(CannotActivate::Leaving);
        }
        if self.yielding {
            return Err(CannotActivate::DuplicateName);
        }
        if !self.has_settled() {
            return Err(CannotActivate::NotReady);
        }
        if self.draining || vip.draining {
            return Err(CannotActivate::Draining);
        }
        if vip.healthy != Some(true) {
            return Err(CannotActivate::Unhealthy);
        }
        if vip.assignment.rank(self.me).is_some() {
            return Err(CannotActivate::AlreadyActive);
        }
        let roster = self.roster(index, &self.members());
        let election = self.election(index, &roster);
        let mut actives = vip.assignment.actives.clone();
        match election.worst() {
            Some((rank, _)) if actives.len() >= election.actives => actives[rank] = self.me,
            _ => actives.push(self.me),
        }
        self.propose(index, actives, now);
        Ok(())
    }

    /// Tells the workers what they do not know yet.
    pub(super) fn update_roles(&mut self, now: Time, actions: &mut Vec<Action>) {
        let bound = self.clock.listened() + self.settings.detection() + 2 * self.settings.heartbeat;
        let may_serve = self.has_settled() && !matches!(self.leaving, Leaving::Goodbye { .. });
        let calm = self.nobody_is_in_doubt();
        for index in 0..self.vips.len() {
            let confirmed = self.is_confirmed(index);
            let alone = calm && !self.others_serve(index);
            let at = self.clock.listened();
            let vip = &mut self.vips[index];
            let rank = vip.assignment.rank(self.me).filter(|_| may_serve);
            let stays = may_serve && vip.role.active && rank.is_none() && !confirmed && !broken(Rule::MakeBeforeBreak);
            vip.lingering = stays.then(|| vip.lingering.unwrap_or(bound)).filter(|&until| at < until);
            let single = vip.settings.actives == 1 && vip.assignment.actives.len() == 1;
            let role = match rank {
                Some(rank) => Role {
                    active: true,
                    rank,
                    may_refuse: single
                        && alone
                        && vip.changed.is_some_and(|changed| now.since(changed) >= NO_REFUSAL_FOR),
                },
                None if vip.lingering.is_some() => Role { active: true, rank: vip.role.rank, may_refuse: false },
                None => Role::default(),
            };
            if role == vip.role {
                continue;
            }
            let (moved, term) = ((role.active, role.rank) != (vip.role.active, vip.role.rank), vip.assignment.term);
            vip.role = role;
            actions.push(Action::SetRole { vip: index as VipIndex, role });
            if moved {
                let address = vip.settings.address;
                actions.push(Action::Report(Report::RoleChanged { vip: index as VipIndex, address, role, term }));
                self.urgent = true;
            }
        }
    }

    /// Whether somebody else is there to take over what we serve.
    pub(super) fn may_hand_over(&self) -> bool {
        let members = self.members();
        (0..self.vips.len()).filter(|&index| self.vips[index].role.active).any(|index| {
            let roster = self.roster(index, &members);
            let election = self.election(index, &roster);
            let keepers = election.keepers();
            self.vips[index].lingering.is_some() || !keepers.is_empty() || !election.fresh(&keepers).is_empty()
        })
    }

    /// The next time a role may change by time alone.
    pub(super) fn next_role_timer(&self) -> Option<Time> {
        let heartbeat = self.settings.heartbeat;
        let at = self.clock.listened();
        let timers = self.vips.iter().flat_map(|vip| {
            let turn = vip.needed.map(|needed| {
                let into_turn = at.saturating_sub(needed).as_nanos() % heartbeat.as_nanos().max(1);
                at + heartbeat - Duration::from_nanos(into_turn as u64)
            });
            let compare = vip.settings.rebalance.as_ref().filter(|_| vip.role.primary()).map(|_| vip.compare);
            let listened = [turn, compare, vip.lingering].into_iter().flatten().filter(move |&t| t > at);
            let refusal = vip.changed.filter(|_| vip.role.primary() && !vip.role.may_refuse);
            let refusal = refusal.map(|changed| changed + NO_REFUSAL_FOR).filter(|&time| time > self.clock.when(at));
            listened.map(|time| self.clock.when(time)).chain(refusal)
        });
        let proposes = self.proposes_from().filter(|&from| from > at).map(|from| self.clock.when(from));
        let listens = (!self.clock.may_judge()).then(|| self.clock.when_judged(at));
        timers.chain(proposes).chain(listens).filter(|&time| time > self.clock.when(at)).min()
    }

    fn election<'a>(&'a self, index: usize, roster: &'a [Standing]) -> Election<'a> {
        let vip = &self.vips[index];
        Election {
            me: self.me,
            assignment: &vip.assignment,
            roster,
            actives: usize::from(vip.settings.actives.max(1)),
            ordinal: vip.ordinal,
            patience: self.settings.missed.saturating_add(2),
        }
    }

    /// All members known, us first and the others as [`Membership::peers`](super::membership::Membership::peers) has them,
    /// as far as it is the same for all VIPs.
    fn members(&self) -> Vec<Standing> {
        let mut members = Vec::with_capacity(1 + self.membership.peers.len());
        members.push(Standing {
            name: Some(self.settings.name),
            metric: comparable(self.metric),
            presence: Presence::Direct,
            eligible: self.has_settled() && self.leaving == Leaving::No && !self.draining,
            steady: true,
            ..Standing::unknown(self.me)
        });
        members.extend(self.membership.peers.iter().map(|peer| self.standing(peer)));
        members
    }

    fn standing(&self, peer: &Peer) -> Standing {
        let standing = Standing { name: Some(peer.name), ..Standing::unknown(peer.id) };
        let Some(run) = peer.live() else {
            let left = matches!(peer.state, PeerState::Left { .. });
            return Standing { presence: if left { Presence::Absent } else { self.indirect(peer.id) }, ..standing };
        };
        let out = flags::DRAINING | flags::LEAVING | flags::GOODBYE | flags::YIELDING;
        Standing {
            metric: comparable(run.header.metric),
            presence: Presence::Direct,
            eligible: run.header.has(flags::READY | flags::SETTLED) && run.header.flags & out == 0,
            steady: peer.state == PeerState::Alive,
            ..standing
        }
    }

    /// All members, as far as known, with regard to one VIP.
    fn roster(&self, index: usize, members: &[Standing]) -> Vec<Standing> {
        let vip = &self.vips[index];
        let mut roster = Vec::with_capacity(members.len() + vip.assignment.actives.len());
        roster.extend_from_slice(members);
        if let Some((me, others)) = roster.split_first_mut() {
            me.eligible &= !vip.draining && vip.healthy == Some(true);
            me.serving = vip.role.active;
            for (standing, peer) in others.iter_mut().zip(&self.membership.peers) {
                let beat = peer.live().and_then(|run| run.vips.get(index)).and_then(Option::as_ref);
                let fit = |beat: &VipBeat| beat.has(vip_flags::HEALTHY) && !beat.has(vip_flags::DRAINING);
                standing.eligible &= beat.is_some_and(fit);
                standing.serving = beat.is_some_and(|beat| beat.has(vip_flags::SERVING));
            }
        }
        for &id in &vip.assignment.actives {
            if roster.iter().all(|standing| standing.id != id) {
                roster.push(Standing { presence: self.indirect(id), ..Standing::unknown(id) });
            }
        }
        roster
    }

    fn indirect(&self, id: MemberId) -> Presence {
        if self.membership.is_reported(id, self.clock.listened()) { Presence::Reported } else { Presence::Absent }
    }

    /// Whether all others that the assignment names say that they serve by it.
    fn is_confirmed(&self, index: usize) -> bool {
        let assignment = &self.vips[index].assignment;
        assignment.actives.iter().filter(|&&id| id != self.me).all(|&id| {
            let run = self.membership.peer(id).and_then(Peer::live);
            let beat = run.and_then(|run: &Run| run.vips.get(index)).and_then(Option::as_ref);
            beat.is_some_and(|beat| beat.has(vip_flags::SERVING) && beat.assignment >= *assignment)
        })
    }

    /// Whether the members that say that they serve are those of the assignment: a handover is over.
    pub(super) fn is_complete(&self, index: usize) -> bool {
        let assignment = &self.vips[index].assignment;
        self.is_confirmed(index)
            && self.membership.live().all(|(peer, run)| {
                let beat = run.vips.get(index).and_then(Option::as_ref);
                !beat.is_some_and(|beat| beat.has(vip_flags::SERVING)) || assignment.actives.contains(&peer.name.id())
            })
    }

    fn others_serve(&self, index: usize) -> bool {
        self.membership.live().any(|(_, run)| {
            let beat = run.vips.get(index).and_then(Option::as_ref);
            beat.is_some_and(|beat| beat.has(vip_flags::SERVING))
        })
    }

    /// Whether every node that was ever heard is alive or said goodbye. One that fell silent may be alive and active
    /// on the other side of a broken link, and one too many may be so anywhere.
    fn nobody_is_in_doubt(&self) -> bool {
        let sure =
            |peer: &Peer| matches!(peer.state, PeerState::Alive | PeerState::Left { .. }) && peer.candidates.is_empty();
        let membership = &self.membership;
        membership.peers.iter().all(sure) && membership.rivals.is_empty() && membership.turned_away.is_empty()
    }
}
