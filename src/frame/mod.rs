//! Frames as views over bytes: one protocol a file, each in the same order: constants, view, checks, accessors,
//! writers. No I/O, no allocation.
//!
//! The contract, for every view: `parse` checks every length once and says why it refuses; after it no accessor panics.

pub mod ethernet;

pub use ethernet::Mac;
