//! The host side against the real kernel, in throwaway network namespaces. Needs root, and says so where it is skipped;
//! uses `ip`, `nft`, `ethtool`, `sysctl` and `setpriv` to look at what was set.
#![allow(unsafe_code)] // Packet sockets have no safe wrapper.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests fail as tests do.

mod net;
mod setup;
mod silence;
mod sockets;
