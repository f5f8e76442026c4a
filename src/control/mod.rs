//! The control plane: who is there (membership), who is active (election), and the shell that gives them time.
//!
//! The core is [`Control`], a state machine without I/O, clock or randomness: [`Control::step`] takes an [`Event`] and
//! the time, and says what to do as [`Action`]s. The same code runs under the control thread, in tests with a virtual
//! clock and in the simulator. Inside, data goes one way:
//!
//! ```text
//! frame → heartbeat (format), auth (tag, replays) → membership (which run of whom to believe, who lives)
//!       → assignment (the greatest wins) → election (does it need a change, and is that my business) → roles, heartbeats
//! ```
//!
//! `docs/election.md` tells the protocol and its reasons. [`socket`] and [`protocol`] carry what commands ask for.

pub mod assignment;
pub mod auth;
mod clock;
mod core;
mod election;
pub mod heartbeat;
pub mod member;
mod membership;
mod orphans;
pub mod probes;
pub mod protocol;
mod report;
mod roles;
mod settings;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod thread;
pub mod truth;
mod view;

pub use self::core::{Action, Control, Event};
pub use heartbeat::Holds;
pub use member::{Identity, MemberId, Name};
pub use orphans::LookUp;
pub use report::{
    CannotActivate, ClusterView, Counters, OrphansView, PeerState, PeerView, Refusal, Report, VipView, Warning,
};
pub use settings::{BadName, Settings, VipSettings};

/// The most members of a cluster, this one included.
pub const MEMBERS_MAX: usize = 64;
