//! A whole cluster in memory, with a virtual clock: the real worker path, the real tables and the real election of
//! every member, between simulated kernels, clients and a switch with everything that can be wrong with one.
//!
//! ```text
//! client ─ kernel ── cable ─┐                ┌─ cable ── worker ── kernel ─ service      member 1
//!                           ├─── switch ─────┤             │ control core
//! client ─ kernel ── cable ─┘                └─ cable ── worker ── kernel ─ service      member 2, …
//! ```
//!
//! Nothing here reads a clock or any randomness but [`random`]'s, so a run is repeated by its seed: [`events`] holds
//! what will happen, [`cluster`] takes it event by event. Between any two steps of a member others may act: a worker
//! polls when frames have waited for some microseconds, a control thread wakes when it has something to do, a host gets
//! its frames a little later. [`checks`] looks at every frame that a member receives or sends, and knows what no member
//! can know; [`trace`] tells what happened to the connection concerned.
//!
//! The kernels ([`kernel`]) mirror Linux where it matters for who answers what: request sockets, SYN cookies, challenge
//! ACKs and their limits, resets, TIME_WAIT and its successors, retransmission, half-close, closed windows.

pub mod checks;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod coverage;
pub mod events;
pub mod fault;
pub mod hunt;
pub mod kernel;
pub mod member;
pub mod options;
pub mod random;
pub mod run;
pub mod segment;
pub mod service;
pub mod shell;
pub mod state;
pub mod switch;
pub mod trace;
pub mod workload;

pub use client::{Finish, Plan, Story};
pub use cluster::Cluster;
pub use options::Options;
