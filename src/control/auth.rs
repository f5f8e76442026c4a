//! Authentication of heartbeats: who may speak ([`Authenticator`]), and that nothing is heard twice ([`ReplayWindow`]).
//!
//! The tag is keyed BLAKE3, 32 bytes, over the whole frame before it: destination, source and EtherType too, so that a
//! recorded frame cannot be sent under another source. The key is derived from the cluster's key *and* its name: two
//! clusters that share a key file by mistake still do not obey each other.

use crate::config::checked::Key;

/// Bytes of a tag.
pub const TAG_LEN: usize = 32;

/// Makes and checks tags for one cluster.
#[derive(Clone)]
pub struct Authenticator {
    key: [u8; 32],
    cluster: u64,
}

impl Authenticator {
    /// For the cluster of this name and key.
    pub fn new(cluster: &str, key: &Key) -> Authenticator {
        let mut hasher = blake3::Hasher::new_derive_key("baton heartbeat key, version 1");
        hasher.update(&key.0).update(cluster.as_bytes());
        let hash = blake3::derive_key("baton cluster name, version 1", cluster.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = hash;
        Authenticator { key: *hasher.finalize().as_bytes(), cluster: u64::from_be_bytes([a, b, c, d, e, f, g, h]) }
    }

    /// What stands for the cluster's name in heartbeats.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// The tag of `message`.
    pub fn tag(&self, message: &[u8]) -> [u8; TAG_LEN] {
        *blake3::keyed_hash(&self.key, message).as_bytes()
    }

    /// Whether `tag` is that of `message`. Takes the same time wherever they differ: `blake3::Hash` compares so.
    pub fn verify(&self, message: &[u8], tag: [u8; TAG_LEN]) -> bool {
        blake3::keyed_hash(&self.key, message) == blake3::Hash::from_bytes(tag)
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// How a sequence number stands to those seen before it in the same run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Higher than any before.
    Newest,
    /// Overtaken by a later one, and not seen yet: authentic, but what it says is out of date.
    Late,
    /// Seen before, or so old that nobody knows.
    Replayed,
}

/// Which of a run's latest 64 sequence numbers were seen (RFC 4303, section 3.4.3, does the same for IPsec).
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit n: `highest - n` was seen.
    seen: u64,
}

impl ReplayWindow {
    /// Judges `sequence` and remembers it. Sequence numbers start at 1.
    pub fn accept(&mut self, sequence: u64) -> Freshness {
        if sequence > self.highest {
            let step = sequence - self.highest;
            self.seen = if step < 64 { self.seen << step | 1 } else { 1 };
            self.highest = sequence;
            return Freshness::Newest;
        }
        let age = self.highest - sequence;
        if age >= 64 || sequence == 0 || self.seen >> age & 1 == 1 {
            return Freshness::Replayed;
        }
        self.seen |= 1 << age;
        Freshness::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_fits_one_message_one_key_and_one_cluster() {
        let web = Authenticator::new("web", &Key([1; 32]));
        let tag = web.tag(b"hello");
        assert!(web.verify(b"hello", tag));
        assert!(!web.verify(b"hellO", tag));
        assert!(!Authenticator::new("web", &Key([2; 32])).verify(b"hello", tag));
        assert!(!Authenticator::new("mail", &Key([1; 32])).verify(b"hello", tag));
    }

    #[test]
    fn a_sequence_number_counts_once_and_order_may_slip_by_63() {
        let mut window = ReplayWindow::default();
        assert_eq!(window.accept(0), Freshness::Replayed);
        assert_eq!(window.accept(1), Freshness::Newest);
        assert_eq!(window.accept(1), Freshness::Replayed);
        assert_eq!(window.accept(70), Freshness::Newest);
        assert_eq!(window.accept(7), Freshness::Late);
        assert_eq!(window.accept(7), Freshness::Replayed);
        assert_eq!(window.accept(6), Freshness::Replayed);
        assert_eq!(window.accept(69), Freshness::Late);
        assert_eq!(window.accept(70), Freshness::Replayed);
        assert_eq!(window.accept(u64::MAX), Freshness::Newest);
        assert_eq!(window.accept(u64::MAX), Freshness::Replayed);
        assert_eq!(window.accept(70), Freshness::Replayed);
    }
}
