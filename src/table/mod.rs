//! What baton remembers of connections: [`Established`], a cache of the kernel's sockets, and [`Handshakes`], the
//! pending connections and the SYNs seen, which a flood may overwrite without touching the former.
//!
//! Both are of fixed capacity, lock-free, shared by all workers and the control thread, and allocate nothing after
//! [`Established::new`] and [`Handshakes::new`]. Keys are exact, so no connection is ever taken for another; a keyed
//! hash ([`Hasher`]), computed once a frame for both, spreads them, so nobody can aim at a bucket.
//!
//! | | costs | a look-up reads | when full |
//! |---|---|---|---|
//! | [`Established`] | 20 bytes a connection at capacity | one cache line for 94 of 100 hits and of 100 misses | refuses the newcomer |
//! | [`Handshakes`] | 73 bytes a record | a word of tags that a cache holds; a line if they may be its, a second for each that it has | overwrites the oldest of eight |
//!
//! The worker's way: [`Established::hash_group`] for each eight tuples of a burst, [`Established::prefetch`] for each of them, and,
//! some groups behind, [`Established::look`], [`Established::judge`] and, for few, [`Established::look_again`]; then for those without an
//! entry [`Handshakes::tags`] and [`Handshakes::may_have`], and where it may, or the entry says [`Entry::syn_seen`], [`Handshakes::find`]; for SYNs
//! [`Handshakes::foresee`] some frames ahead of [`Handshakes::remember_foreseen`].
//!
//! Memory is ordered by what is published last: a slot's word, a record's header. Each of the modules `entry` and
//! `record` opens with the bits of its words; `docs/table.md` has the whole story, with the odds.

mod bucket;
mod entry;
mod established;
mod fragments;
mod half_open;
mod handshakes;
mod hash;
mod headers;
mod look;
mod memory;
mod record;
mod short_tags;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
pub mod tuple;

pub use entry::{Entry, State, TICK};
pub use established::{Cursor, Established, Found, Full};
pub use fragments::Fragments;
pub use half_open::HalfOpen;
pub use handshakes::{Handshakes, Outlook, RECORDS_PER_TUPLE};
pub use hash::{Hash, Hasher};
pub use look::Entries;
pub use memory::TableError;
pub(crate) use memory::{prefetch, prefetch_at, prefetch_by_low, spread_low};
pub use record::{ANSWERS, Answer, LIFETIME, Record, Remembered, Stage};
pub use tuple::{Tuple, Tuples, VipIndex};
