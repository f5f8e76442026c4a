//! The host side against the real kernel, in throwaway network namespaces. Needs root; says so where it is skipped.
#![allow(unsafe_code)] // Packet sockets have no safe wrapper.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests fail as tests do.

mod net;
mod setup;
mod silence;
mod sockets;
