//! Frames as views over bytes: one protocol a file, each in the same order: constants, view, accessors, writers.
//! No I/O, no allocation.
//!
//! The contract, for every view: `parse` checks every length once and says why it refuses ([`Malformed`]); after it no
//! accessor panics. Writers take a frame that was parsed and keep its checksums true.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod tcp;

pub use ethernet::Mac;

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A header or the length it states reaches past the frame's end.
    Truncated,
    /// A field has a value that its protocol does not allow.
    Field,
    /// An IPv4 header or ICMP message whose checksum is wrong.
    Checksum,
}
