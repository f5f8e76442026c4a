//! What `status`, the metrics and `connections` tell, put together from all of its sources.

use super::protocol::{CHUNK, Connection, ConnectionState, Listed, Page};
use super::thread::Running;
use super::truth::Kernel;
use super::{ClusterView, PeerState};
use crate::counters;
use crate::metrics::{Histogram, Snapshot};
use crate::status::{self, Connections, Frames, Heartbeats, Lost, Peer, Status, Vip, Worker};
use crate::table::tuple::MAX_VIPS;
use crate::table::{Cursor, VipIndex};
use crate::time::Time;
use crate::verdict::DropReason;
use crate::worker::Member;

/// Slots of the table that one page of connections looks at: no more than an answer has room for.
const PAGE_SLOTS: usize = CHUNK;

/// All that status and metrics tell.
pub(super) fn snapshot<K: Kernel>(running: &mut Running<K>) -> Snapshot {
    let lost = Lost { wire: (running.shell.lost_by_wire)(), host: (running.shell.lost_by_host)() };
    let shell = &running.shell;
    let now = shell.clock.now();
    let view = shell.control.view(now);
    let counters = || shell.workers.iter().map(|worker| &worker.counters);
    let sum = |count: fn(&counters::Counters) -> &counters::Count| counters().map(|c| count(c).get()).sum();
    let status = Status {
        node: shell.config.node.name.clone(),
        cluster: shell.config.cluster.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        incarnation: view.incarnation,
        uptime_ms: now.since(running.started).as_millis() as u64,
        ready: view.ready && view.settled,
        draining: view.draining,
        warnings: view.warnings.iter().map(ToString::to_string).collect(),
        vips: vips(&shell.member, &view, now),
        peers: peers(&view),
        workers: shell.workers.iter().map(worker).collect(),
        heartbeats: heartbeats(&view),
        frames: Frames {
            wire_rx: sum(|c| &c.wire_rx),
            wire_tx: sum(|c| &c.wire_tx),
            host_rx: sum(|c| &c.host_rx),
            host_tx: sum(|c| &c.host_tx),
        },
        lost,
        orphans: status::Orphans {
            open: view.orphans.open,
            suspected: sum(|c| &c.suspected),
            owned: view.orphans.owned,
            given_up: view.orphans.given_up,
            crowded_out: view.orphans.crowded_out,
            reset: sum(|c| &c.orphans_reset),
        },
        drops: DropReason::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), counters().map(|c| c.dropped(reason)).sum()))
            .collect(),
    };
    Snapshot {
        status,
        role_changes: running.role_changes.clone(),
        batch_sizes: histogram(counters().map(|c| c.batch_size.read()), 1.0),
        forward_seconds: histogram(counters().map(|c| c.forward_nanos.read()), 1e-9),
    }
}

fn worker(worker: &super::thread::WorkerView) -> Worker {
    let counters = &worker.counters;
    Worker { core: worker.core, polls: counters.polls.get(), empty_polls: counters.empty_polls.get() }
}

fn vips(member: &Member, view: &ClusterView, now: Time) -> Vec<Vip> {
    let mut pending = [0; MAX_VIPS];
    member.handshakes.tally(now, &mut pending);
    let vip = |(index, (facts, vip)): (usize, (&crate::classify::VipFacts, &super::VipView))| Vip {
        address: facts.address.into(),
        mac: facts.mac,
        role: if vip.role.active { status::Role::Active } else { status::Role::Passive },
        rank: vip.role.active.then_some(vip.role.rank),
        term: vip.term,
        actives: vip.actives.clone(),
        healthy: vip.healthy,
        connections: Connections {
            pending: pending[index] as u64,
            established: member.established.len_of(index as VipIndex) as u64,
        },
    };
    member.facts.vips.iter().zip(&view.vips).enumerate().map(vip).collect()
}

fn peers(view: &ClusterView) -> Vec<Peer> {
    let peer = |peer: &super::PeerView| Peer {
        name: peer.name.as_str().to_owned(),
        state: match peer.state {
            PeerState::Alive => status::PeerState::Alive,
            PeerState::Suspect => status::PeerState::Suspect,
            PeerState::Dead => status::PeerState::Dead,
            PeerState::Left { .. } => status::PeerState::Left,
        },
        last_heard_ms: peer.last_heard.as_millis() as u64,
        metric: peer.metric,
        draining: peer.draining,
    };
    view.peers.iter().map(peer).collect()
}

fn heartbeats(view: &ClusterView) -> Heartbeats {
    let counted = &view.heartbeats;
    Heartbeats {
        accepted: counted.accepted,
        wrong_key: counted.wrong_key,
        replayed: counted.replayed,
        old_incarnation: counted.old_incarnation,
        duplicate_name: counted.duplicate_name,
        malformed: counted.malformed,
        other_version: counted.other_version,
    }
}

/// All workers' buckets, added up, their bounds in the unit that `scale` turns a value into.
fn histogram<const BUCKETS: usize>(parts: impl Iterator<Item = ([u64; BUCKETS], u64)>, scale: f64) -> Histogram {
    // Bucket b holds values below 2^b: its greatest is one less.
    let bounds = (0..BUCKETS - 1).map(|bucket| ((1_u64 << bucket) - 1) as f64 * scale).collect();
    let mut all = Histogram { bounds, counts: vec![0; BUCKETS], sum: 0.0 };
    for (counts, sum) in parts {
        all.counts.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        all.sum += sum as f64 * scale;
    }
    all
}

/// A page of the table. Pending connections are not in it: they have no place that pages could go by.
pub(super) fn connections(member: &Member, page: Page, vip: Option<VipIndex>, now: Time) -> Listed {
    let mut listed = Listed::default();
    let mut cursor = Cursor::at(page.from as usize);
    let done = member.established.scan(&mut cursor, PAGE_SLOTS, |tuple, entry| {
        if vip.is_none_or(|vip| vip == tuple.vip) {
            listed.connections.push(Connection {
                vip: member.facts.vips[usize::from(tuple.vip)].address.into(),
                client: (tuple.client, tuple.client_port).into(),
                port: tuple.port,
                state: ConnectionState::Established,
                age_ms: entry.idle(now).as_millis() as u64,
            });
        }
    });
    listed.next = (!done).then(|| cursor.slot() as u64);
    listed
}
