//! Waiting for a file descriptor or a time, cut short when the probes are stopped.
//!
//! A socket pair that nothing is ever written to: its one end goes when the probes are dropped, and every wait on the
//! other end sees it closed. So a wait never has to wake up now and then to look.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// Why a probe has no good outcome.
#[derive(Debug)]
pub(super) enum Cut {
    /// The probes are being stopped: there is nothing to tell.
    Stopped,
    /// It failed, and this is why.
    Failed(String),
    /// Nothing had failed by the deadline, and what it waited for: the service may hang, or this machine has stood still.
    Late(String),
}

impl Cut {
    pub(super) fn failed(why: impl Into<String>) -> Cut {
        Cut::Failed(why.into())
    }

    pub(super) fn late(why: impl Into<String>) -> Cut {
        Cut::Late(why.into())
    }
}

/// Stops when dropped.
pub(super) struct Stopper {
    _open: UnixStream,
}

/// What every wait of the probes goes through.
#[derive(Clone)]
pub(super) struct Stop(Arc<UnixStream>);

/// A connected pair.
pub(super) fn pair() -> io::Result<(Stopper, Stop)> {
    let (open, watched) = UnixStream::pair()?;
    Ok((Stopper { _open: open }, Stop(Arc::new(watched))))
}

impl Stop {
    /// Sleeps until then.
    pub(super) fn sleep_until(&self, until: Instant) -> Result<(), Cut> {
        self.wait([], until).map(|_| ())
    }

    /// Waits until one of `watched` is ready (or hung up, or in error), and says which are; `None` at the deadline.
    pub(super) fn wait<const N: usize>(
        &self,
        watched: [(BorrowedFd<'_>, PollFlags); N],
        deadline: Instant,
    ) -> Result<Option<[bool; N]>, Cut> {
        let mut polled = vec![PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        polled.extend(watched.iter().map(|&(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let any = poll_until(&mut polled, deadline);
        if !polled[0].revents().is_empty() {
            return Err(Cut::Stopped);
        }
        let ready = std::array::from_fn(|place| !polled[place + 1].revents().is_empty());
        Ok(any.then_some(ready))
    }
}

/// Waits until a descriptor is ready, or until the deadline. Returns whether one is.
pub(super) fn poll_until(polled: &mut [PollFd<'_>], deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Out of range only beyond the clock's own range.
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match rustix::event::poll(polled, Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            // Only for want of kernel memory; a probe that ended for that would leave its last result standing.
            Err(_) if left.is_zero() => return false,
            Err(_) => std::thread::sleep(left.min(Duration::from_millis(10))),
        }
    }
}
