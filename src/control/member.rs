//! What names a member: its [`Name`] for people, its [`MemberId`] for heartbeats.

use std::fmt;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 32;

/// A member's name: 1 to 32 bytes of UTF-8 without control characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    len: u8,
    bytes: [u8; NAME_MAX],
}

impl Name {
    /// `text` as a name, or `None` if it is empty, too long or has control characters in it.
    pub fn new(text: &str) -> Option<Name> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return None;
        }
        let mut bytes = [0; NAME_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Name { len: text.len() as u8, bytes })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        // `new` took these bytes from a str: never the default.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The number that stands for this name in heartbeats.
    pub fn id(&self) -> MemberId {
        let hash = blake3::derive_key("baton member id, version 1", self.as_str().as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = hash;
        MemberId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        // As their text: it has no zeros, which pad it.
        self.bytes.cmp(&other.bytes)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The first eight bytes of a hash of the member's name: short enough to list 16 of them for each VIP. That two of 64
/// names share one has a chance of 2^-53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// One run of a member's process, as heartbeats tell it from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): changes when the machine restarts.
    pub boot_id: [u8; 16],
    /// Grows with every start of the member. Only decides which of two runs under one name gives way; see
    /// `docs/election.md` for what happens when it is lost.
    pub incarnation: u64,
    /// Random, fresh with every start.
    pub nonce: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_1_to_32_bytes_without_control_characters() {
        assert_eq!(Name::new("s1").unwrap().as_str(), "s1");
        assert_eq!(Name::new(&"x".repeat(32)).unwrap().as_str().len(), 32);
        assert!(Name::new(&"x".repeat(33)).is_none());
        assert!(Name::new("").is_none());
        assert!(Name::new("s\n1").is_none());
        assert_ne!(Name::new("s1").unwrap().id(), Name::new("s2").unwrap().id());
    }
}
