//! What `status` shows.

use crate::control::core::Control;
use crate::control::member::MemberId;
use crate::control::report::{ClusterView, PeerView, VipView, Warning};
use crate::time::Time;

impl Control {
    /// The cluster as this member sees it at `now`.
    pub fn view(&self, now: Time) -> ClusterView {
        ClusterView {
            node: self.settings.name,
            cluster: self.settings.cluster.clone(),
            incarnation: self.identity.incarnation,
            ready: self.ready,
            settled: self.settled,
            draining: self.draining,
            yielding: self.yielding,
            vips: (0..self.vips.len()).map(|index| self.vip_view(index)).collect(),
            peers: self.peer_views(now),
            orphans: self.orphans_view(),
            heartbeats: self.membership.counters,
            warnings: self.warnings(),
        }
    }

    fn vip_view(&self, index: usize) -> VipView {
        let vip = &self.vips[index];
        VipView {
            address: vip.settings.address,
            role: vip.role,
            term: vip.assignment.term,
            actives: vip.assignment.actives.iter().map(|&id| self.name_of(id)).collect(),
            healthy: vip.healthy == Some(true),
            draining: vip.draining || self.draining,
            handing_over: vip.lingering.is_some(),
            complete: self.is_complete(index),
        }
    }

    fn name_of(&self, id: MemberId) -> String {
        if id == self.me {
            return self.settings.name.to_string();
        }
        self.membership.peer(id).map_or_else(|| format!("#{:016x}", id.0), |peer| peer.name.to_string())
    }

    fn peer_views(&self, now: Time) -> Vec<PeerView> {
        let since_step = now.since(self.clock.when(self.clock.listened()));
        let believed = self.membership.peers.iter().filter_map(|peer| Some((peer, peer.current.as_ref()?)));
        let view = |(peer, run): (&super::Peer, &super::Run)| PeerView {
            name: peer.name,
            state: peer.state,
            last_heard: self.clock.listened().saturating_sub(run.heard) + since_step,
            metric: Some(run.header.metric).filter(|metric| metric.is_finite()),
            draining: run.header.has(super::flags::DRAINING),
            boot_id: run.boot_id,
            nonce: run.nonce,
            incarnation: run.incarnation,
            config_drift: run.header.config_hash != self.settings.config_hash,
        };
        believed.map(view).collect()
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for peer in &self.membership.peers {
            if let Some(run) = peer.live() {
                if run.header.config_hash != self.settings.config_hash {
                    warnings.push(Warning::ConfigDrift(peer.name));
                }
                if run.boot_id == self.identity.boot_id {
                    warnings.push(Warning::SharedBootId(peer.name));
                }
            }
            if peer.candidates.iter().any(|run| run.duplicate) {
                warnings.push(Warning::DuplicateName(peer.name));
            } else if peer.live().is_none() && peer.candidates.iter().any(|run| run.pending == 0) {
                warnings.push(Warning::Unanswered(peer.name));
            }
        }
        if self.membership.rivals.iter().any(|run| run.duplicate) {
            warnings.push(Warning::DuplicateName(self.settings.name));
        }
        if self.membership.live().next().is_none() {
            warnings.push(Warning::NoPeer);
        }
        warnings
    }
}
