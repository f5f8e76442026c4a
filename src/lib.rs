//! baton turns a plain layer-2 switch and N ordinary servers into one layer-4 switch, without a dispatcher box.
//!
//! A frame's way, in the order of the modules:
//!
//! ```text
//! port (rx burst) → frame (views) → classify → table (batched lookup) → decide → verdict → port (tx burst | host)
//!                                                       ▲ role (one atomic per VIP)   │ inbox / outbox (bounded, lock-free)
//!                                   control thread: membership → election → actions ◄───┘
//! ```

mod bits;
pub mod broken;
pub mod classify;
pub mod config;
pub mod control;
pub mod counters;
pub mod decide;
pub mod frame;
pub mod host;
pub mod idle;
pub mod kept;
#[cfg(feature = "dpdk")]
pub mod launch;
pub mod metrics;
mod named;
pub mod orphans;
pub mod port;
pub mod shared;
pub mod sim;
pub mod simd;
pub mod status;
pub mod sync;
pub mod table;
pub mod time;
pub mod verdict;
pub mod wait;
pub mod worker;
