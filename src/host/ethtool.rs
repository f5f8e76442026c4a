//! An interface's offload features, through ethtool's generic netlink family (`Documentation/networking/
//! ethtool-netlink.rst`). The crates there are can read features but not set them; the two messages are small.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    NlaBuffer, NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::Netlink;

// include/uapi/linux/genetlink.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// include/uapi/linux/ethtool_netlink.h
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// A generic netlink message: the command, and its attributes as bytes.
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // `struct genlmsghdr`: command, version, two reserved bytes.
        buffer[..4].copy_from_slice(&[self.command, 1, 0, 0]);
        self.attributes.as_slice().emit(&mut buffer[4..]);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Generic, DecodeError> {
        Err("answers are read as attributes".into())
    }
}

/// ethtool, in the network namespace of the thread that opened it.
pub(super) struct Ethtool {
    netlink: Netlink,
    family: u16,
}

impl Ethtool {
    /// `Unsupported` on a kernel without ethtool's netlink family (before 5.6).
    pub(super) fn open() -> io::Result<Ethtool> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let question = Generic {
            family: GENL_ID_CTRL,
            command: CTRL_CMD_GETFAMILY,
            attributes: vec![text(CTRL_ATTR_FAMILY_NAME, "ethtool")],
        };
        let mut family = None;
        netlink.request(question, 0, |message| {
            let id = attribute(message.payload.get(4..).unwrap_or_default(), CTRL_ATTR_FAMILY_ID);
            family = id.and_then(|id| id.first_chunk::<2>().map(|bytes| u16::from_ne_bytes(*bytes)));
        })?;
        let family = family.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Ethtool { netlink, family })
    }

    /// The names of the features that are on.
    pub(super) fn active(&mut self, interface: &str) -> io::Result<BTreeSet<String>> {
        let question = self.message(ETHTOOL_MSG_FEATURES_GET, vec![device(interface)]);
        let mut features = BTreeSet::new();
        self.netlink.request(question, 0, |message| features = active(message.payload))?;
        Ok(features)
    }

    /// Asks for one feature on or off. Whether the driver obliged is to be read back.
    pub(super) fn set(&mut self, interface: &str, feature: &str, on: bool) -> io::Result<()> {
        let mut bit = vec![text(ETHTOOL_A_BITSET_BIT_NAME, feature)];
        if on {
            bit.push(DefaultNla::new(ETHTOOL_A_BITSET_BIT_VALUE, Vec::new()));
        }
        let bits = nest(ETHTOOL_A_BITSET_BITS, &[nest(ETHTOOL_A_BITSET_BITS_BIT, &bit)]);
        let wanted = nest(ETHTOOL_A_FEATURES_WANTED, &[bits]);
        let request = self.message(ETHTOOL_MSG_FEATURES_SET, vec![device(interface), wanted]);
        self.netlink.request(request, 0, |_| {})
    }

    fn message(&self, command: u8, attributes: Vec<DefaultNla>) -> Generic {
        Generic { family: self.family, command, attributes }
    }
}

/// The features that a FEATURES_GET reply, generic header first, calls active.
fn active(payload: &[u8]) -> BTreeSet<String> {
    let set = attribute(payload.get(4..).unwrap_or_default(), ETHTOOL_A_FEATURES_ACTIVE);
    let bits = set.and_then(|set| attribute(set, ETHTOOL_A_BITSET_BITS)).unwrap_or_default();
    // The set comes without a mask: what is listed is on.
    attributes(bits)
        .filter_map(|bit| {
            let name = attribute(bit.value, ETHTOOL_A_BITSET_BIT_NAME)?;
            Some(String::from_utf8_lossy(name.split(|&byte| byte == 0).next()?).into_owned())
        })
        .collect()
}

struct Attribute<'a> {
    kind: u16,
    value: &'a [u8],
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    NlasIterator::new(bytes).map_while(|attribute: Result<NlaBuffer<&[u8]>, _>| {
        let attribute = attribute.ok()?;
        let length = usize::from(attribute.length());
        Some(Attribute { kind: attribute.kind(), value: attribute.into_inner().get(4..length)? })
    })
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
}

fn device(interface: &str) -> DefaultNla {
    nest(ETHTOOL_A_FEATURES_HEADER, &[text(ETHTOOL_A_HEADER_DEV_NAME, interface)])
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat())
}

fn nest(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopbacks_features_are_read() {
        let features = Ethtool::open().unwrap().active("lo").unwrap();
        assert!(features.contains("loopback"), "{features:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..128)) {
            active(&payload);
        }
    }
}
