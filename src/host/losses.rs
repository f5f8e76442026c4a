//! What the host said and no worker heard: its TAP's queue was full.

use std::io;

use super::route::Rtnetlink;

/// Counts it; in the network namespace of the thread that made this.
pub struct TapLosses {
    rtnetlink: Rtnetlink,
    tap: String,
    /// The TAP outlives baton, and drops everything while there is none.
    before: u64,
    lost: u64,
}

impl TapLosses {
    /// From now on, at the TAP of this name.
    ///
    /// # Errors
    /// What the kernel says instead.
    pub fn of(tap: &str) -> io::Result<TapLosses> {
        let mut losses = TapLosses { rtnetlink: Rtnetlink::open()?, tap: tap.to_owned(), before: 0, lost: 0 };
        losses.before = losses.dropped()?;
        Ok(losses)
    }

    /// Frames lost by now; as many as the last time where the kernel does not tell. One exchange with it.
    pub fn read(&mut self) -> u64 {
        self.lost = self.dropped().map_or(self.lost, |dropped| dropped.saturating_sub(self.before));
        self.lost
    }

    fn dropped(&mut self) -> io::Result<u64> {
        let tap = self.rtnetlink.interface(&self.tap)?;
        tap.map(|tap| tap.dropped).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
