//! What baton remembers of connections: [`Established`], a cache of the kernel's sockets, and [`Handshakes`], the
//! pending connections and the SYNs seen, which a flood may overwrite without touching the former.
//!
//! Both are of fixed capacity, lock-free, shared by all workers and the control thread, and allocate nothing after
//! [`Established::new`] and [`Handshakes::new`].

mod entry;
mod established;
mod fragments;
mod handshakes;
mod hash;
mod memory;
mod record;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
pub mod tuple;

pub use entry::{Entry, State, TICK};
pub use established::{Cursor, Established, Full};
pub use fragments::Fragments;
pub use handshakes::{Handshakes, RECORDS_PER_TUPLE};
pub use hash::{Hash, Hasher};
pub use memory::TableError;
pub use record::{ANSWERS, Answer, LIFETIME, Record, Remembered, Stage};
pub use tuple::{Tuple, VipIndex};
