//! Segments in trains: what lets a host port carry up to 64 KiB in one system call.
//!
//! The host's kernel hands over what it has to send before it is cut to the MTU and before its checksum is computed, and
//! takes what it receives as one large segment. Both is told by a [`header`] before each frame. [`segment`] cuts the
//! host's segments as a NIC would (TSO), [`merge`] joins those of a burst that the host would join itself (GRO). What
//! lies between, classification and all decisions, sees frames as they are on the wire.
//!
//! Pure: bytes in, bytes out.

pub mod header;
pub mod merge;
pub mod segment;

#[cfg(test)]
mod tests;
