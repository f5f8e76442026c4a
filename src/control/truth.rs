//! The kernel is the truth, the table is a cache: what keeps [`Established`] true to the host's sockets.
//!
//! An entry ends when the kernel announces the end of its socket, when its host resets it, when another member has
//! taken its tuple over, or when it has been idle for long: each time only after an exact query found no socket (dumps
//! are not atomic, announcements come late). A removal names the entry as it was before the query, so a connection that
//! was confirmed meanwhile is never removed.
//!
//! Runs on the control thread, in bounded steps. The kernel is behind [`Kernel`], so that the simulator's hosts are
//! kept true by this very code.

use std::io;
use std::time::Duration;

use crate::shared::{Notice, Shared};
use crate::table::{Cursor, Established, State, Tuple};
use crate::time::Time;

/// An entry that no segment has touched for so long is asked for. Nothing but an announcement that was lost makes one
/// linger, so there is no hurry.
const IDLE: Duration = Duration::from_secs(60);

/// Between two looks at a part of the table for idle entries.
const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// Slots that one look covers: a table for a million connections is seen through in about three seconds.
const SWEEP_SLOTS: usize = 4096;

/// The most queries of one step: some 100 µs.
const QUERIES: usize = 64;

/// Between two comparisons with all of the kernel's sockets, each of which may take a fraction of a second.
const RESYNC_EVERY: Duration = Duration::from_secs(5);

/// What the kernel holds for a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A half-open connection.
    HalfOpen,
    /// A connection, in any state but TIME_WAIT.
    Connection,
    /// What is left of one.
    TimeWait,
}

/// What ended, as the kernel announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A socket of this tuple; there may be another one, or TIME_WAIT.
    Socket(Tuple),
    /// It is not known which.
    Unknown,
}

/// The host's sockets.
pub trait Kernel {
    /// All connections of the VIPs.
    ///
    /// # Errors
    /// The kernel does not tell.
    fn dump(&mut self) -> io::Result<Vec<(Tuple, Held)>>;

    /// What there is for exactly this tuple.
    ///
    /// # Errors
    /// The kernel does not tell.
    fn query(&mut self, tuple: &Tuple) -> io::Result<Option<Held>>;

    /// Ends what there is for exactly this tuple.
    ///
    /// # Errors
    /// The kernel refuses.
    fn destroy(&mut self, tuple: &Tuple) -> io::Result<()>;

    /// What has ended since the last call, at most `limit` of it.
    ///
    /// # Errors
    /// The kernel does not tell.
    fn endings(&mut self, limit: usize, each: &mut dyn FnMut(Ending)) -> io::Result<()>;
}

/// How true the table is known to be.
#[derive(Debug)]
pub struct Truth {
    cursor: Cursor,
    next_sweep: Time,
    /// When all entries are to be compared with all sockets, if so.
    resync_at: Option<Time>,
    last_resync: Time,
}

impl Truth {
    /// Fills the table with the connections that the kernel has, so that a restart loses none. Returns how many.
    ///
    /// To be called before the ports run: until then no segment can be told from a stranger's.
    ///
    /// # Errors
    /// The kernel does not tell, or the table is too small for what it tells.
    pub fn rebuild(established: &Established, kernel: &mut dyn Kernel, now: Time) -> io::Result<(Truth, usize)> {
        let mut count = 0;
        for (tuple, held) in kernel.dump()? {
            let state = match held {
                Held::Connection => State::Live,
                Held::TimeWait => State::TimeWait,
                Held::HalfOpen => continue,
            };
            let hash = established.hash(&tuple);
            established.insert(&tuple, hash, state, now).map_err(|_| {
                io::Error::other(format!(
                    "the kernel has more than the {} connections that `connections` allows",
                    count
                ))
            })?;
            count += 1;
        }
        let truth = Truth { cursor: Cursor::default(), next_sweep: now, resync_at: None, last_resync: now };
        Ok((truth, count))
    }

    /// One step: what workers ask for, what the kernel announces, and a look at a part of the table.
    ///
    /// # Errors
    /// The kernel does not tell. What was being looked at is looked at again later.
    pub fn step(
        &mut self,
        shared: &Shared,
        established: &Established,
        kernel: &mut dyn Kernel,
        now: Time,
    ) -> io::Result<()> {
        let mut queries = 0;
        while queries < QUERIES
            && let Some(notice) = shared.notices.pop()
        {
            queries += 1;
            match notice {
                Notice::EndSocket(tuple) => kernel.destroy(&tuple)?,
                Notice::MayHaveEnded(tuple) => verify(established, kernel, &tuple, now)?,
            }
        }
        let mut ended = arrayvec::ArrayVec::<Tuple, QUERIES>::new();
        let mut unknown = false;
        kernel.endings(QUERIES, &mut |ending| match ending {
            Ending::Socket(tuple) => unknown |= ended.try_push(tuple).is_err(),
            Ending::Unknown => unknown = true,
        })?;
        for tuple in &ended {
            verify(established, kernel, tuple, now)?;
        }
        if unknown {
            self.resync_at.get_or_insert(now.max(self.last_resync + RESYNC_EVERY));
        }
        if self.resync_at.is_some_and(|at| now >= at) {
            self.resync(established, kernel, now)?;
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
            self.sweep(established, kernel, now)?;
        }
        Ok(())
    }

    /// Compares all entries with all sockets, after announcements were lost.
    fn resync(&mut self, established: &Established, kernel: &mut dyn Kernel, now: Time) -> io::Result<()> {
        self.resync_at = None;
        self.last_resync = now;
        let held: std::collections::HashSet<Tuple> = kernel.dump()?.into_iter().map(|(tuple, _)| tuple).collect();
        let mut missing = Vec::new();
        let mut cursor = Cursor::default();
        while !established.scan(&mut cursor, SWEEP_SLOTS, |tuple, _| {
            if !held.contains(&tuple) {
                missing.push(tuple);
            }
        }) {}
        missing.iter().try_for_each(|tuple| verify(established, kernel, tuple, now))
    }

    /// Looks for idle entries in the next part of the table.
    fn sweep(&mut self, established: &Established, kernel: &mut dyn Kernel, now: Time) -> io::Result<()> {
        let mut idle = arrayvec::ArrayVec::<Tuple, QUERIES>::new();
        established.scan(&mut self.cursor, SWEEP_SLOTS, |tuple, entry| {
            if entry.idle(now) >= IDLE {
                // More of them than one step asks for are found again in the next round.
                let _ = idle.try_push(tuple);
            }
        });
        idle.iter().try_for_each(|tuple| verify(established, kernel, tuple, now))
    }
}

/// Removes a tuple's entry if the kernel has no socket for it, and notes it where only TIME_WAIT is left.
fn verify(established: &Established, kernel: &mut dyn Kernel, tuple: &Tuple, now: Time) -> io::Result<()> {
    let Some(mut entry) = established.find(tuple, established.hash(tuple)) else { return Ok(()) };
    match kernel.query(tuple)? {
        None => drop(established.remove(entry)),
        Some(Held::TimeWait) => drop(established.set_state(&mut entry, State::TimeWait)),
        // A half-open socket whose client has answered: the final ACK is on its way to it, or its accept queue is full.
        // Idle or not, it need not be asked for again soon.
        Some(Held::Connection | Held::HalfOpen) => drop(established.touch(&mut entry, now)),
    }
    Ok(())
}
