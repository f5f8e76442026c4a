//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).

use std::net::Ipv4Addr;

/// The one's complement sum of `bytes` as big-endian 16-bit words, an odd last byte padded by zero, on top of `sum`.
/// Not folded: give it to [`finish`], or on to the next part (parts before the last must be of even length).
#[inline]
pub fn sum(bytes: &[u8], sum: u64) -> u64 {
    let mut total = sum;
    // Eight bytes a step; carries gather in the upper half (one's complement addition is associative: RFC 1071, 2).
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        let [a, b, c, d, e, f, g, h] = *eight else { continue };
        total += u64::from(u32::from_be_bytes([a, b, c, d])) + u64::from(u32::from_be_bytes([e, f, g, h]));
    }
    // At most seven are left: no loop.
    let mut rest = eights.remainder();
    if let Some((four, after)) = rest.split_first_chunk() {
        total += u64::from(u32::from_be_bytes(*four));
        rest = after;
    }
    if let Some((two, after)) = rest.split_first_chunk() {
        total += u64::from(u16::from_be_bytes(*two));
        rest = after;
    }
    if let [last] = *rest {
        total += u64::from(last) << 8;
    }
    total
}

/// [`sum`] of twenty bytes, which is what most headers have: no loop.
#[inline]
pub fn sum_of_header(bytes: &[u8; 20]) -> u64 {
    let word = |at: usize| u64::from(u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    word(0) + word(4) + word(8) + word(12) + word(16)
}

/// Folds a sum to 16 bits, without complementing it.
#[inline]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The checksum: the complement of the folded sum. Over data that contains its own correct checksum it is 0.
#[inline]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The sum of a TCP pseudo-header over IPv4 (RFC 9293, 3.1). `length` is that of the TCP header and data, in bytes.
#[inline]
pub fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> u64 {
    let address = |address: Ipv4Addr| u64::from(u32::from(address));
    address(source) + address(destination) + u64::from(protocol) + u64::from(length)
}

/// `checksum` after one 16-bit word of what it covers went from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum) as u64 + (!old) as u64 + new as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 3: the example.
    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0)), 0xddf2);
    }

    /// The definition, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            prop_assert_eq!(finish(sum(&bytes, 0)), plain(&bytes));
            if let Some(header) = bytes.first_chunk() {
                prop_assert_eq!(finish(sum_of_header(header)), plain(header));
            }
        }

        #[test]
        fn an_update_equals_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 2..64), new: u16) {
            bytes[0] |= 1; // all zeros have two checksums, 0 and 0xffff
            let before = plain(&bytes);
            let at = (bytes.len() / 2 - 1) & !1;
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            if at > 0 {
                bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
                prop_assert_eq!(update(before, old, new), plain(&bytes));
            }
        }
    }
}
