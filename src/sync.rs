//! One facade for atomics, so that the table and the flags themselves, not copies of them, run under loom
//! (the feature of that name), as crossbeam-epoch does with its `mod primitive`.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
