//! What names a connection, as seen from its server.

use std::net::Ipv4Addr;

/// Which virtual IP, as its position in the configuration.
pub type VipIndex = u8;

/// The most virtual IPs that one member serves: as many as [`VipIndex`] can name.
pub const MAX_VIPS: usize = 256;

/// A connection's client and the virtual IP and port it talks to. Exact: two connections never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// The client's address.
    pub client: Ipv4Addr,
    /// The client's TCP port.
    pub client_port: u16,
    /// The TCP port at the virtual IP.
    pub port: u16,
    /// The virtual IP.
    pub vip: VipIndex,
}
