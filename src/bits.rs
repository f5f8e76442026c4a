//! Sets of a burst's frames, a bit each: stages mark frames with them, and go through those that are marked.

/// The numbers of the bits that are set, from the lowest.
#[inline(always)]
pub(crate) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = set.trailing_zeros() as usize;
        let some = set != 0;
        set &= set.wrapping_sub(1);
        some.then_some(index)
    })
}

/// The lowest `count` bits.
#[inline(always)]
pub(crate) fn all(count: usize) -> u64 {
    u64::MAX.checked_shr(u64::BITS - count as u32).unwrap_or(0)
}
