//! What baton remembers of connections: [`Established`], a cache of the kernel's sockets, and [`Handshakes`], the
//! pending connections and the SYNs seen, which a flood may overwrite without touching the former.
//!
//! Both are of fixed capacity, lock-free, shared by all workers and the control thread, and allocate nothing after
//! [`Established::new`] and [`Handshakes::new`].

pub mod tuple;

pub use tuple::{Tuple, VipIndex};
