//! How an idle worker sleeps until there is something to do: a frame in one of its queues, a heartbeat to be sent, or the
//! time by which it has to show that it lives.
//!
//! Only where the kernel has a descriptor for each queue (af_packet, TAP) and `poll: adaptive` allows it. When it should
//! wait is [`Idle`](crate::idle::Idle)'s to say.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Rung by the control thread when it has put a heartbeat into the outbox. A ring before a wait ends that wait at once:
/// none is lost.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A bell for all workers of a member.
    ///
    /// # Errors
    /// If the process may not have another descriptor.
    pub fn new() -> io::Result<Bell> {
        Ok(Bell(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Wakes the workers that wait, or else the next one that begins to.
    pub fn ring(&self) {
        // It fails only after 2^64 - 2 rings that nobody heard; then it rings already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn silence(&self) {
        // Another worker may have been faster: then there is nothing to read.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The kernel says that a frame has arrived.
    ByFrame,
    /// A heartbeat is to be sent.
    ByBell,
    /// Time, or a signal.
    ByTime,
}

/// What a worker waits for.
#[derive(Debug)]
pub struct Wait {
    queues: [OwnedFd; 2],
    bell: Bell,
}

impl Wait {
    /// A wait for frames in `queues` (descriptors that are readable while there are any) and for `bell`.
    pub fn new(queues: [OwnedFd; 2], bell: Bell) -> Wait {
        Wait { queues, bell }
    }

    /// Waits, `longest` at most.
    pub fn wait(&self, longest: Duration) -> Woken {
        let [wire, host] = &self.queues;
        let mut descriptors = [
            PollFd::new(wire, PollFlags::IN),
            PollFd::new(host, PollFlags::IN),
            PollFd::new(&*self.bell.0, PollFlags::IN),
        ];
        let longest = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        if poll(&mut descriptors, Some(&longest)).is_err() {
            return Woken::ByTime;
        }
        let [wire_says, host_says, bell_says] = descriptors.map(|descriptor| descriptor.revents());
        if !bell_says.is_empty() {
            self.bell.silence();
        }
        for (queue, says) in [(wire, wire_says), (host, host_says)] {
            if says.contains(PollFlags::ERR) {
                // An interface that went down leaves its error in the socket until somebody asks: ENETDOWN, packet(7).
                // A TAP is no socket and refuses the question.
                let _ = rustix::net::sockopt::socket_error(queue);
            }
        }
        match () {
            () if !(wire_says | host_says).is_empty() => Woken::ByFrame,
            () if !bell_says.is_empty() => Woken::ByBell,
            () => Woken::ByTime,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_millis(900);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn a_wait_ends_by_a_frame_by_a_bell_or_by_time() {
        let (wire, to_wire) = pipe().unwrap();
        let (host, to_host) = pipe().unwrap();
        let bell = Bell::new().unwrap();
        let wait = Wait::new([wire, host], bell.clone());
        assert_eq!(wait.wait(SHORT), Woken::ByTime);

        bell.ring();
        bell.ring();
        assert_eq!(wait.wait(LONG), Woken::ByBell);
        assert_eq!(wait.wait(SHORT), Woken::ByTime, "the bell is heard once");

        for sender in [to_wire, to_host] {
            rustix::io::write(&sender, b"x").unwrap();
            assert_eq!(wait.wait(LONG), Woken::ByFrame);
            assert_eq!(wait.wait(LONG), Woken::ByFrame, "until it is read");
            let queue = &wait.queues[usize::from(wait.queues.iter().position(readable).unwrap() == 1)];
            rustix::io::read(queue, &mut [0; 1]).unwrap();
        }
    }

    /// What a queue's descriptor does, and what makes it readable.
    fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
        let (queue, sender) = UnixStream::pair()?;
        Ok((queue.into(), sender.into()))
    }

    fn readable(queue: &OwnedFd) -> bool {
        let mut descriptors = [PollFd::new(queue, PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_bell_wakes_a_thread_that_waits() {
        let (wire, _to_wire) = pipe().unwrap();
        let (host, _to_host) = pipe().unwrap();
        let bell = Bell::new().unwrap();
        let wait = Wait::new([wire, host], bell.clone());
        let waiter = std::thread::spawn(move || wait.wait(LONG));
        bell.ring();
        assert_eq!(waiter.join().unwrap(), Woken::ByBell);
    }
}
