//! Ethernet II (IEEE Std 802.3), without 802.1Q tags: a tagged frame is one of another EtherType.

use std::fmt;
use std::str::FromStr;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether a group of stations is meant (the I/G bit), broadcast included.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

/// What is wrong with a MAC's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not six two-digit hexadecimal numbers with colons between")]
pub struct BadMac;

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Mac, BadMac> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().ok_or(BadMac)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(BadMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| BadMac)?;
        }
        if parts.next().is_some() {
            return Err(BadMac);
        }
        Ok(Mac(mac))
    }
}

/// Bytes of the header: destination, source, EtherType.
pub const HEADER: usize = 14;

/// EtherType of IPv4 (RFC 894).
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ARP: u16 = 0x0806;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// What the payload is.
    pub ethertype: u16,
}

impl Ethernet {
    /// The header, or `None` of a frame that is shorter than one.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Ethernet> {
        let (header, _) = frame.split_first_chunk::<HEADER>()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        Some(Ethernet {
            destination: Mac([d0, d1, d2, d3, d4, d5]),
            source: Mac([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([t0, t1]),
        })
    }
}

/// Writes the destination of a frame that [`Ethernet::parse`] took.
#[inline]
pub fn set_destination(frame: &mut [u8], mac: Mac) {
    frame[0..6].copy_from_slice(&mac.0);
}

/// Writes the source of a frame that [`Ethernet::parse`] took.
#[inline]
pub fn set_source(frame: &mut [u8], mac: Mac) {
    frame[6..12].copy_from_slice(&mac.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_as_it_is_shown() {
        let mac = Mac([0x02, 0, 0x5e, 0xff, 0x10, 0x0a]);
        assert_eq!(mac.to_string(), "02:00:5e:ff:10:0a");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in
            ["", "02:00:5e:ff:10", "02:00:5e:ff:10:0a:00", "2:00:5e:ff:10:0a", "02:00:5e:ff:10:0g", "+2:00:5e:ff:10:0a"]
        {
            assert_eq!(bad.parse::<Mac>(), Err(BadMac), "{bad}");
        }
    }

    #[test]
    fn a_runt_has_no_header() {
        assert_eq!(Ethernet::parse(&[0; 13]), None);
        assert!(Ethernet::parse(&[0; 14]).is_some());
    }
}
