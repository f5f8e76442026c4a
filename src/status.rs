//! A member's view of itself and its cluster: what `baton status` shows and `baton status --json` prints.
//!
//! The control thread fills a [`Status`]; its JSON is part of baton's outside: it may grow, but what is here does not
//! change its meaning.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::Mac;

/// All of it, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This member's name.
    pub node: String,
    /// The cluster's name.
    pub cluster: String,
    /// baton's version.
    pub version: String,
    /// Grows with every start of this member.
    pub incarnation: u64,
    /// Since this start, in milliseconds.
    pub uptime_ms: u64,
    /// Whether ports run, the table is rebuilt and the election has settled.
    pub ready: bool,
    /// Whether roles are given away and nothing new is accepted, for every virtual IP.
    pub draining: bool,
    /// What its operator should look into, each a sentence: configurations that differ, two members on one kernel, …
    #[serde(default)]
    pub warnings: Vec<String>,
    /// In the order of the configuration.
    pub vips: Vec<Vip>,
    /// The other members, by name.
    pub peers: Vec<Peer>,
    /// By core.
    pub workers: Vec<Worker>,
    /// Heartbeats received, by what became of them.
    pub heartbeats: Heartbeats,
    /// Frames, by port and direction.
    pub frames: Frames,
    /// Frames that no worker ever had.
    #[serde(default)]
    pub lost: Lost,
    /// Clients that a dead member may have left alone.
    #[serde(default)]
    pub orphans: Orphans,
    /// Frames dropped, by the name of the reason. Every reason is here, also those that never occurred.
    pub drops: BTreeMap<String, u64>,
}

/// A virtual IP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// Its address.
    pub address: IpAddr,
    /// Its virtual MAC.
    #[serde(with = "mac_text")]
    pub mac: Mac,
    /// What this member does for it.
    pub role: Role,
    /// 0 for the primary; none while passive.
    pub rank: Option<u8>,
    /// Grows with every change of who is active.
    pub term: u64,
    /// The members that are active, by rank, as this member knows them.
    pub actives: Vec<String>,
    /// Whether the local service passes its health check; true without one.
    pub healthy: bool,
    /// Connections in this member's table.
    pub connections: Connections,
}

/// What a member does for a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Accepts new connections.
    Active,
    /// Serves the connections it has.
    Passive,
}

/// Connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Handshakes that no client segment has confirmed yet.
    pub pending: u64,
    /// Confirmed ones.
    pub established: u64,
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: PeerState,
    /// Since its last accepted heartbeat, in milliseconds.
    pub last_heard_ms: u64,
    /// Its metric, lower is better; none where it has none to tell.
    pub metric: Option<f64>,
    /// Whether it accepts nothing new.
    pub draining: bool,
}

/// Whether a member is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Its heartbeats arrive.
    Alive,
    /// Some are missing, or it has not proved yet that it speaks of now.
    Suspect,
    /// Too many are missing.
    Dead,
    /// It has said goodbye.
    Left,
}

/// A worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its core.
    pub core: usize,
    /// Turns of its loop.
    pub polls: u64,
    /// Turns that found nothing to do.
    pub empty_polls: u64,
}

/// Heartbeats received, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeats {
    /// Right, new, and of a member that is believed.
    pub accepted: u64,
    /// Not authenticated by this cluster's key.
    pub wrong_key: u64,
    /// Seen before, or recorded before this member's start.
    pub replayed: u64,
    /// Of a run of its sender that a later one has replaced.
    pub old_incarnation: u64,
    /// Of a second member with one name.
    pub duplicate_name: u64,
    /// Not a heartbeat in form.
    pub malformed: u64,
    /// Of a format version that this baton does not know.
    pub other_version: u64,
}

impl Heartbeats {
    /// Each result with the name it has in JSON and metrics, `accepted` first.
    pub fn results(&self) -> [(&'static str, u64); 7] {
        [
            ("accepted", self.accepted),
            ("wrong_key", self.wrong_key),
            ("replayed", self.replayed),
            ("old_incarnation", self.old_incarnation),
            ("duplicate_name", self.duplicate_name),
            ("malformed", self.malformed),
            ("other_version", self.other_version),
        ]
    }
}

/// Clients that repeat themselves in vain, as a dead member's do, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// Being asked about now.
    pub open: u64,
    /// How often the workers told of one.
    pub suspected: u64,
    /// A live member said that the client is its own.
    pub owned: u64,
    /// Not every member could be accounted for in time, or the role moved.
    pub given_up: u64,
    /// Not taken up, because too many others were open.
    pub crowded_out: u64,
    /// RSTs sent.
    pub reset: u64,
}

impl Orphans {
    /// What became of them, each with the name it has in JSON and metrics.
    pub fn results(&self) -> [(&'static str, u64); 5] {
        [
            ("suspected", self.suspected),
            ("owned", self.owned),
            ("given_up", self.given_up),
            ("crowded_out", self.crowded_out),
            ("reset", self.reset),
        ]
    }
}

/// Frames by port and direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Received from the wire.
    pub wire_rx: u64,
    /// Sent to the wire.
    pub wire_tx: u64,
    /// Received from the host.
    pub host_rx: u64,
    /// Sent to the host.
    pub host_tx: u64,
}

/// Frames that were lost before a worker could have them, as its queue was full: neither received nor dropped. As far as the device
/// or the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// From the wire: at a NIC's ring, or a packet socket's.
    pub wire: u64,
    /// From the host: at the TAP's queue. None where the host port is another device.
    pub host: u64,
}

impl Lost {
    /// By port, with the name it has in JSON and metrics.
    pub fn ports(&self) -> [(&'static str, u64); 2] {
        [("wire", self.wire), ("host", self.host)]
    }
}

/// A MAC as text.
mod mac_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::frame::Mac;

    pub fn serialize<S: Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// For people; `--json` is for scripts.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.ready, self.draining) {
            (false, _) => "starting",
            (true, true) => "draining",
            (true, false) => "ready",
        };
        let uptime = age(self.uptime_ms);
        let Status { cluster, node, version, incarnation, .. } = self;
        writeln!(f, "{cluster}/{node}: {state}, up {uptime}, baton {version}, incarnation {incarnation}")?;
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        let header = ["VIP", "MAC", "ROLE", "TERM", "ACTIVES", "HEALTH", "PENDING", "ESTABLISHED"];
        table(f, header, self.vips.iter().map(vip_row))?;
        table(f, ["PEER", "STATE", "HEARD", "METRIC", "DRAINING"], self.peers.iter().map(peer_row))?;
        table(f, ["WORKER", "POLLS", "EMPTY"], self.workers.iter().map(worker_row))?;
        let Frames { wire_rx, wire_tx, host_rx, host_tx } = self.frames;
        writeln!(f, "\nframes      wire {wire_rx} in, {wire_tx} out; host {host_rx} in, {host_tx} out")?;
        writeln!(f, "lost        {}", counts(self.lost.ports()))?;
        writeln!(f, "heartbeats  {}", counts(self.heartbeats.results()))?;
        if self.orphans != Orphans::default() {
            let open = [("open", self.orphans.open)];
            writeln!(f, "orphans     {}", counts(open.into_iter().chain(self.orphans.results())))?;
        }
        writeln!(f, "drops       {}", counts(self.drops.iter().map(|(reason, count)| (reason.as_str(), *count))))
    }
}

fn vip_row(vip: &Vip) -> [String; 8] {
    let role = match (vip.role, vip.rank) {
        (Role::Active, Some(0)) => "active (primary)".into(),
        (Role::Active, Some(rank)) => format!("active (rank {rank})"),
        (Role::Active, None) => "active".into(),
        (Role::Passive, _) => "passive".into(),
    };
    let actives = if vip.actives.is_empty() { "-".into() } else { vip.actives.join(",") };
    let health = if vip.healthy { "ok" } else { "failing" };
    [
        vip.address.to_string(),
        vip.mac.to_string(),
        role,
        vip.term.to_string(),
        actives,
        health.into(),
        vip.connections.pending.to_string(),
        vip.connections.established.to_string(),
    ]
}

fn peer_row(peer: &Peer) -> [String; 5] {
    let state = match peer.state {
        PeerState::Alive => "alive",
        PeerState::Suspect => "suspect",
        PeerState::Dead => "dead",
        PeerState::Left => "left",
    };
    [
        peer.name.clone(),
        state.into(),
        format!("{} ago", age(peer.last_heard_ms)),
        peer.metric.map_or("-".into(), |metric| metric.to_string()),
        if peer.draining { "yes" } else { "no" }.into(),
    ]
}

fn worker_row(worker: &Worker) -> [String; 3] {
    let empty = 100.0 * worker.empty_polls as f64 / worker.polls.max(1) as f64;
    [format!("core {}", worker.core), worker.polls.to_string(), format!("{empty:.1} %")]
}

/// The counts that are not zero.
fn counts<'a>(all: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let counts: Vec<String> =
        all.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if counts.is_empty() { "none".into() } else { counts.join(", ") }
}

/// Milliseconds for people: to three digits or so.
pub fn age(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{:.1} s", millis as f64 / 1000.0),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A table after an empty line, its columns as wide as they need to be; nothing where there are no rows.
fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows);
    if lines.len() == 1 {
        return Ok(());
    }
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    writeln!(f)?;
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(f, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The example of the documentation.
    pub(crate) const EXAMPLE: &str = r#"{"node":"s1","cluster":"web","version":"0.1.0","incarnation":17,
        "uptime_ms":12345,"ready":true,"draining":false,
        "vips":[{"address":"10.0.0.100","mac":"02:00:00:00:00:01","role":"active","rank":0,"term":4,"actives":["s1"],
                 "healthy":true,"connections":{"pending":0,"established":12}}],
        "peers":[{"name":"s2","state":"alive","last_heard_ms":4,"metric":3.0,"draining":false}],
        "workers":[{"core":1,"polls":0,"empty_polls":0}],
        "heartbeats":{"accepted":0,"wrong_key":0,"replayed":0,"old_incarnation":0,"duplicate_name":0,"malformed":0,
                      "other_version":0},
        "frames":{"wire_rx":0,"wire_tx":0,"host_rx":0,"host_tx":0},
        "drops":{"syn_passive":0,"no_connection":0,"lost_race":0,"oversize":0,"bad_checksum":0,"kernel_has_it":0}}"#;

    #[test]
    fn json_has_the_names_that_scripts_hold_on_to() {
        let status: Status = serde_json::from_str(EXAMPLE).unwrap();
        let mut written = serde_json::to_value(&status).unwrap();
        // The keys beyond the example.
        assert_eq!(written.as_object_mut().unwrap().remove("warnings"), Some(serde_json::json!([])));
        let lost = written.as_object_mut().unwrap().remove("lost");
        assert_eq!(lost, Some(serde_json::json!({"wire": 0, "host": 0})));
        let orphans = written.as_object_mut().unwrap().remove("orphans").unwrap();
        let mut names: Vec<_> = Orphans::default().results().map(|(name, _)| name).into();
        names.push("open");
        assert!(names.iter().all(|name| orphans[name] == 0) && orphans.as_object().unwrap().len() == names.len());
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(EXAMPLE).unwrap());
    }

    #[test]
    fn states_and_results_have_their_names() {
        let names = serde_json::to_value([PeerState::Alive, PeerState::Suspect, PeerState::Dead, PeerState::Left]);
        assert_eq!(names.unwrap(), serde_json::json!(["alive", "suspect", "dead", "left"]));
        let heartbeats = serde_json::to_value(Heartbeats::default()).unwrap();
        for (name, _) in Heartbeats::default().results() {
            assert!(heartbeats.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_metric_that_is_no_number_survives_json() {
        let mut status: Status = serde_json::from_str(EXAMPLE).unwrap();
        status.peers[0].metric = Some(f64::INFINITY);
        let again: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        assert_eq!(again.peers[0].metric, None);
    }

    #[test]
    fn people_read_a_table() {
        let mut status: Status = serde_json::from_str(EXAMPLE).unwrap();
        status.warnings.push("the configuration of s2 differs".into());
        status.drops.insert("no_connection".into(), 3);
        status.heartbeats.accepted = 7;
        status.lost.host = 9;
        status.orphans = Orphans { suspected: 4, reset: 3, ..Orphans::default() };
        status.workers[0] = Worker { core: 1, polls: 1000, empty_polls: 991 };
        let expected = "\
web/s1: ready, up 12.3 s, baton 0.1.0, incarnation 17
warning: the configuration of s2 differs

VIP         MAC                ROLE              TERM  ACTIVES  HEALTH  PENDING  ESTABLISHED
10.0.0.100  02:00:00:00:00:01  active (primary)  4     s1       ok      0        12

PEER  STATE  HEARD     METRIC  DRAINING
s2    alive  4 ms ago  3       no

WORKER  POLLS  EMPTY
core 1  1000   99.1 %

frames      wire 0 in, 0 out; host 0 in, 0 out
lost        host 9
heartbeats  accepted 7
orphans     suspected 4, reset 3
drops       no_connection 3
";
        assert_eq!(status.to_string(), expected);
    }

    #[test]
    fn ages_are_short() {
        let shown: Vec<String> = [4, 59_900, 61_000, 3_720_000, 90_000_000].map(age).into();
        assert_eq!(shown, ["4 ms", "59.9 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
    }
}
