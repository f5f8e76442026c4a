//! What names a connection, as seen from its server.

use std::net::Ipv4Addr;

use crate::port::BURST;
use crate::simd::LANES;

/// Which virtual IP, as its position in the configuration.
pub type VipIndex = u8;

/// The most virtual IPs that one member serves: as many as [`VipIndex`] can name.
pub const MAX_VIPS: usize = 256;

/// A connection's client and the virtual IP and port it talks to. Exact: two connections never share one.
///
/// In this order its first eight bytes are the key, on the machines that matter: one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Tuple {
    /// The TCP port at the virtual IP.
    pub port: u16,
    /// The client's TCP port.
    pub client_port: u16,
    /// The client's address.
    pub client: Ipv4Addr,
    /// The virtual IP.
    pub vip: VipIndex,
}

impl Tuple {
    /// Of no connection.
    pub const NONE: Tuple = Tuple { client: Ipv4Addr::UNSPECIFIED, client_port: 0, port: 0, vip: 0 };

    /// All but the VIP in one word: client 32 bits, client port 16, port 16, from the top. With the VIP's 8 bits
    /// beside it this is the whole tuple, so comparing both is exact.
    #[inline]
    pub(crate) const fn key(&self) -> u64 {
        (self.client.to_bits() as u64) << 32 | (self.client_port as u64) << 16 | self.port as u64
    }

    /// The tuple that `key` and `vip` were taken from.
    #[inline]
    pub(crate) const fn from_key(key: u64, vip: VipIndex) -> Tuple {
        Tuple {
            client: Ipv4Addr::from_bits((key >> 32) as u32),
            client_port: (key >> 16) as u16,
            port: key as u16,
            vip,
        }
    }
}

/// The tuples of a burst, by the places of their frames. Keys lie beside each other, as instructions that work on
/// several at a time want them.
#[derive(Clone)]
pub struct Tuples {
    pub(super) keys: [u64; BURST],
    pub(super) vips: [VipIndex; BURST],
}

impl Default for Tuples {
    fn default() -> Tuples {
        Tuples { keys: [0; BURST], vips: [0; BURST] }
    }
}

impl Tuples {
    /// Puts a tuple at a place below [`BURST`].
    #[inline(always)]
    pub fn set(&mut self, place: usize, tuple: Tuple) {
        self.keys[place] = tuple.key();
        self.vips[place] = tuple.vip;
    }

    /// The tuple at a place below [`BURST`].
    #[inline(always)]
    pub fn get(&self, place: usize) -> Tuple {
        Tuple::from_key(self.keys[place], self.vips[place])
    }
}

impl Tuples {
    /// The VIP of the tuple at a place below [`BURST`].
    #[inline(always)]
    pub(crate) fn set_vip(&mut self, place: usize, vip: VipIndex) {
        self.vips[place] = vip;
    }

    /// The keys ([`Tuple::key`]) of eight tuples from this place on.
    #[inline(always)]
    pub(crate) fn keys_from(&mut self, first: usize) -> Option<&mut [u64; LANES]> {
        self.keys[first..].first_chunk_mut()
    }
}

impl FromIterator<Tuple> for Tuples {
    /// The first [`BURST`] of them, in their order.
    fn from_iter<I: IntoIterator<Item = Tuple>>(tuples: I) -> Tuples {
        let mut burst = Tuples::default();
        tuples.into_iter().take(BURST).enumerate().for_each(|(place, tuple)| burst.set(place, tuple));
        burst
    }
}
