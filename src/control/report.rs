//! What the control core tells its operator: log lines ([`Report`]) and the state behind `status` ([`ClusterView`]).

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::control::MEMBERS_MAX;
use crate::control::member::Name;
use crate::frame::Mac;
use crate::shared::Role;
use crate::table::VipIndex;

/// Something worth a log line. Its `Display` is that line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// This member's role for a VIP is another one.
    RoleChanged {
        /// Which VIP.
        vip: VipIndex,
        /// Its address.
        address: IpAddr,
        /// The role now.
        role: Role,
        /// Since which term.
        term: u64,
    },
    /// A peer answers us: a new one, one that is back, or a new run of one.
    PeerAlive {
        /// Its name.
        name: Name,
        /// Its run's incarnation.
        incarnation: u64,
    },
    /// A peer fell silent, or no longer hears us.
    PeerDead {
        /// Its name.
        name: Name,
        /// Since when, as far as we listened.
        silent: Duration,
    },
    /// A peer said goodbye.
    PeerLeft {
        /// Its name.
        name: Name,
        /// Whether it said that it comes back.
        returning: bool,
    },
    /// Heartbeats were not obeyed. At most one line per reason and ten seconds; `status` counts all.
    Refused {
        /// Why.
        why: Refusal,
        /// Whose name the last of them bore, if it could be read.
        name: Option<Name>,
        /// Its Ethernet source.
        source: Mac,
    },
    /// A peer's configuration differs from ours in what all must agree on.
    ConfigDrift {
        /// Its name.
        name: Name,
    },
    /// A peer runs on the same boot of the same kernel.
    SharedBootId {
        /// Its name.
        name: Name,
    },
    /// A live node bears our name and was here first: we stay passive until it is gone.
    Yielding {
        /// Its Ethernet source.
        source: Mac,
    },
    /// The other node of our name is gone, or stands back itself.
    YieldEnded,
    /// This member was not running for a while.
    Paused {
        /// For how long.
        away: Duration,
    },
    /// The election has settled for the first time.
    Settled,
    /// `activate` was refused.
    ActivateRefused {
        /// For which VIP.
        vip: VipIndex,
        /// Why.
        why: CannotActivate,
    },
    /// A VIP should be given away, and nobody can take it: it is kept.
    NoSuccessor {
        /// Its address.
        address: IpAddr,
    },
    /// More members than [`super::MEMBERS_MAX`]: this one is not listened to.
    TooManyMembers {
        /// Its name.
        name: Name,
    },
}

/// Why a heartbeat was not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Authenticated with another key.
    WrongKey,
    /// Heard before, or recorded: it does not answer our present run.
    Replayed,
    /// From an earlier run of its member.
    OldIncarnation,
    /// From a second node of a name.
    DuplicateName,
    /// Not as the format says.
    Malformed,
    /// Of another major format version.
    OtherVersion,
}

impl Refusal {
    /// All of them, in the order of [`Counters`].
    pub const ALL: [Refusal; 6] = [
        Refusal::WrongKey,
        Refusal::Replayed,
        Refusal::OldIncarnation,
        Refusal::DuplicateName,
        Refusal::Malformed,
        Refusal::OtherVersion,
    ];
}

/// Why this member cannot be made active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotActivate {
    /// No such VIP.
    #[error("there is no such VIP")]
    NoSuchVip,
    /// It is active already.
    #[error("it is active already")]
    AlreadyActive,
    /// Not ready, or still listening to the cluster.
    #[error("it is not ready yet")]
    NotReady,
    /// Drained.
    #[error("it is drained")]
    Draining,
    /// The local service is unhealthy or not probed yet.
    #[error("its service is not healthy")]
    Unhealthy,
    /// Shutting down.
    #[error("it is shutting down")]
    Leaving,
    /// Another live node has this name.
    #[error("another live node has its name")]
    DuplicateName,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::WrongKey => "their key is not ours",
            Refusal::Replayed => "they were heard before, or do not answer our present run",
            Refusal::OldIncarnation => "they are from an earlier run",
            Refusal::DuplicateName => "they are from a second node of this name",
            Refusal::Malformed => "they are malformed",
            Refusal::OtherVersion => "their format version is not ours",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::RoleChanged { address, role, term, .. } if role.active => {
                write!(f, "active for {address}: rank {}, term {term}", role.rank)
            }
            Report::RoleChanged { address, term, .. } => write!(f, "passive for {address}: term {term}"),
            Report::PeerAlive { name, incarnation } => write!(f, "{name} is alive: incarnation {incarnation}"),
            Report::PeerDead { name, silent } => write!(f, "{name} is dead: no answer for {silent:?}"),
            Report::PeerLeft { name, returning: true } => write!(f, "{name} left and will return"),
            Report::PeerLeft { name, returning: false } => write!(f, "{name} left"),
            Report::Refused { why, name: Some(name), source } => {
                write!(f, "heartbeats of {name} from {source} are not obeyed: {why}")
            }
            Report::Refused { why, name: None, source } => {
                write!(f, "heartbeats from {source} are not obeyed: {why}")
            }
            Report::ConfigDrift { name } => write!(f, "{name} has another configuration than this member"),
            Report::SharedBootId { name } => write!(f, "{name} runs on the same kernel as this member"),
            Report::Yielding { source } => {
                write!(f, "another live node at {source} has this member's name: staying passive")
            }
            Report::YieldEnded => f.write_str("the other node of this member's name is gone"),
            Report::Paused { away } => write!(f, "was not running for {away:?}"),
            Report::Settled => f.write_str("the election has settled"),
            Report::ActivateRefused { why, .. } => write!(f, "cannot activate this member: {why}"),
            Report::NoSuccessor { address } => write!(f, "keeping {address}: no other member can take it"),
            Report::TooManyMembers { name } => {
                write!(
                    f,
                    "not listening to {name}: a cluster has at most {MEMBERS_MAX} members, and all of them are there"
                )
            }
        }
    }
}

/// Heartbeats by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Obeyed, or authentic and overtaken by a later one.
    pub accepted: u64,
    /// See [`Refusal::WrongKey`].
    pub wrong_key: u64,
    /// See [`Refusal::Replayed`].
    pub replayed: u64,
    /// See [`Refusal::OldIncarnation`].
    pub old_incarnation: u64,
    /// See [`Refusal::DuplicateName`].
    pub duplicate_name: u64,
    /// See [`Refusal::Malformed`].
    pub malformed: u64,
    /// See [`Refusal::OtherVersion`].
    pub other_version: u64,
    /// Of a cluster with another name on the same segment.
    pub other_cluster: u64,
    /// Our own, sent back to us.
    pub reflected: u64,
}

impl Counters {
    pub(super) fn count(&mut self, why: Refusal, frames: u64) {
        let counter = match why {
            Refusal::WrongKey => &mut self.wrong_key,
            Refusal::Replayed => &mut self.replayed,
            Refusal::OldIncarnation => &mut self.old_incarnation,
            Refusal::DuplicateName => &mut self.duplicate_name,
            Refusal::Malformed => &mut self.malformed,
            Refusal::OtherVersion => &mut self.other_version,
        };
        *counter += frames;
    }
}

/// Clients that may be orphans, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrphansView {
    /// Being asked about now.
    pub open: u64,
    /// A member said that the client is its own.
    pub owned: u64,
    /// Not everyone could be accounted for in time, or this member is not the primary any more.
    pub given_up: u64,
    /// Not taken up, because so many others were open.
    pub crowded_out: u64,
}

/// The cluster as this member sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterView {
    /// This member's name.
    pub node: Name,
    /// The cluster's name.
    pub cluster: String,
    /// This run's incarnation.
    pub incarnation: u64,
    /// Ports run and the table is rebuilt, as the shell said.
    pub ready: bool,
    /// The election has settled once: each VIP had its actives, or nobody could be.
    pub settled: bool,
    /// Drained as a whole.
    pub draining: bool,
    /// Another live node has our name.
    pub yielding: bool,
    /// By [`VipIndex`].
    pub vips: Vec<VipView>,
    /// By name. Nodes that never answered this run are not in it.
    pub peers: Vec<PeerView>,
    /// Clients that may be orphans.
    pub orphans: OrphansView,
    /// What became of the heartbeats received.
    pub heartbeats: Counters,
    /// What an operator should look at.
    pub warnings: Vec<Warning>,
}

/// One VIP, as this member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipView {
    /// Which.
    pub address: IpAddr,
    /// This member's role, as the workers have it.
    pub role: Role,
    /// The term of the assignment held.
    pub term: u64,
    /// The active members by rank: their names, or `#` and a hash for one that was never heard here.
    pub actives: Vec<String>,
    /// The local service is healthy.
    pub healthy: bool,
    /// Drained for this VIP, or as a whole.
    pub draining: bool,
    /// The role is given to another member, which has not yet said that it serves.
    pub handing_over: bool,
    /// The assignment's members all say that they serve, and nobody else does: a handover is over.
    pub complete: bool,
}

/// One peer, as this member sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerView {
    /// Its name.
    pub name: Name,
    /// Whether it lives.
    pub state: PeerState,
    /// How long ago it was last heard, as far as we listened.
    pub last_heard: Duration,
    /// Its metric, if it knows one.
    pub metric: Option<f64>,
    /// Drained as a whole.
    pub draining: bool,
    /// Its machine's boot id.
    pub boot_id: [u8; 16],
    /// Its run's nonce: another one, another run.
    pub nonce: u64,
    /// Its run's incarnation.
    pub incarnation: u64,
    /// Its configuration differs from ours in what all must agree on.
    pub config_drift: bool,
}

/// Whether a peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Each hears the other.
    Alive,
    /// Late by half a heartbeat or more, or it stopped hearing us.
    Suspect,
    /// Silent for the detection time, or deaf to us.
    Dead,
    /// Said goodbye.
    Left {
        /// And that it comes back.
        returning: bool,
    },
}

impl PeerState {
    /// The name in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Alive => "alive",
            PeerState::Suspect => "suspect",
            PeerState::Dead => "dead",
            PeerState::Left { .. } => "left",
        }
    }

    /// Whether it lives as far as anyone knows.
    pub fn lives(self) -> bool {
        matches!(self, PeerState::Alive | PeerState::Suspect)
    }
}

/// What an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A live peer's configuration differs from ours in what all must agree on.
    ConfigDrift(Name),
    /// Two live nodes bear this name.
    DuplicateName(Name),
    /// A live peer runs on our boot of our kernel: they share secrets for initial sequence numbers.
    SharedBootId(Name),
    /// A node is heard and does not answer: it does not hear us, or somebody replays a recording.
    Unanswered(Name),
    /// No live peer.
    NoPeer,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::ConfigDrift(name) => write!(f, "{name} has another configuration than this member"),
            Warning::DuplicateName(name) => write!(f, "two live nodes are named {name}"),
            Warning::SharedBootId(name) => {
                write!(f, "{name} reports this machine's boot id: members on one kernel share its secrets")
            }
            Warning::Unanswered(name) => {
                write!(f, "{name} is heard but does not answer: it does not hear this member, or is a recording")
            }
            Warning::NoPeer => f.write_str("no other member is alive"),
        }
    }
}
