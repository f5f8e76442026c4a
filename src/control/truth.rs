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

use crate::broken::{Rule, broken};
use crate::shared::{Notice, Shared};
use crate::table::{Cursor, Established, HalfOpen, Hash, State, Tuple};
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

/// What a rebuild found.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Connections that are in the table now.
    pub connections: usize,
    /// Handshakes that are under way.
    pub half_open: HalfOpen,
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
    /// Fills the table with the connections that the kernel has, so that a restart loses none.
    ///
    /// To be called before the ports run: until then no segment can be told from a stranger's.
    ///
    /// # Errors
    /// The kernel does not tell, or the table is too small for what it tells.
    pub fn rebuild(established: &Established, kernel: &mut dyn Kernel, now: Time) -> io::Result<(Truth, Rebuilt)> {
        let (mut connections, mut half_open) = (0, Vec::new());
        for (tuple, held) in kernel.dump()?.into_iter().filter(|_| !broken(Rule::Rebuild)) {
            let state = match held {
                Held::Connection => State::Live,
                Held::TimeWait => State::TimeWait,
                Held::HalfOpen => {
                    half_open.push(tuple);
                    continue;
                }
            };
            let hash = established.hash(&tuple);
            established.insert(&tuple, hash, state, now).map_err(|_| {
                io::Error::other(format!(
                    "the kernel has more than the {connections} connections that `connections` allows"
                ))
            })?;
            connections += 1;
        }
        let truth = Truth { cursor: Cursor::default(), next_sweep: now, resync_at: None, last_resync: now };
        Ok((truth, Rebuilt { connections, half_open: HalfOpen::new(half_open, now) }))
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
                Notice::EndSocket(_) if broken(Rule::SocketEnds) => {}
                Notice::MayHaveEnded(_) if broken(Rule::ResetNoticed) => {}
                Notice::EndSocket(tuple) => kernel.destroy(&tuple)?,
                Notice::MayHaveEnded(tuple) => verify(established, kernel, &tuple, now)?,
            }
        }
        let mut ended = arrayvec::ArrayVec::<(Tuple, Hash), QUERIES>::new();
        let mut unknown = false;
        kernel.endings(QUERIES, &mut |ending| match ending {
            Ending::Socket(tuple) => {
                // Its line comes while the others are told.
                let hash = established.hash(&tuple);
                established.prefetch(hash);
                unknown |= ended.try_push((tuple, hash)).is_err();
            }
            Ending::Unknown => unknown = true,
        })?;
        for (tuple, hash) in ended.iter().filter(|_| !broken(Rule::EntryEnds)) {
            verify_by(established, kernel, tuple, *hash, now)?;
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
    verify_by(established, kernel, tuple, established.hash(tuple), now)
}

/// The same, by the tuple's hash.
fn verify_by(
    established: &Established,
    kernel: &mut dyn Kernel,
    tuple: &Tuple,
    hash: Hash,
    now: Time,
) -> io::Result<()> {
    let Some(mut entry) = established.find(tuple, hash) else { return Ok(()) };
    match kernel.query(tuple)? {
        None => drop(established.remove(entry)),
        Some(Held::TimeWait) => drop(established.set_state(&mut entry, State::TimeWait)),
        // A half-open socket whose client has answered: the final ACK is on its way to it, or its accept queue is full.
        // Idle or not, it need not be asked for again soon.
        Some(Held::Connection | Held::HalfOpen) => {
            established.set_state(&mut entry, State::Live);
            established.touch(&mut entry, now);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::checked::HugePages;
    use crate::table::Hasher;

    /// A kernel with these sockets, and these announcements to make.
    #[derive(Default)]
    struct Scripted {
        sockets: HashMap<Tuple, Held>,
        endings: Vec<Ending>,
        queries: usize,
    }

    impl Kernel for Scripted {
        fn dump(&mut self) -> io::Result<Vec<(Tuple, Held)>> {
            Ok(self.sockets.iter().map(|(&tuple, &held)| (tuple, held)).collect())
        }

        fn query(&mut self, tuple: &Tuple) -> io::Result<Option<Held>> {
            self.queries += 1;
            Ok(self.sockets.get(tuple).copied())
        }

        fn destroy(&mut self, tuple: &Tuple) -> io::Result<()> {
            self.sockets.remove(tuple);
            Ok(())
        }

        fn endings(&mut self, limit: usize, each: &mut dyn FnMut(Ending)) -> io::Result<()> {
            let count = limit.min(self.endings.len());
            self.endings.drain(..count).for_each(each);
            Ok(())
        }
    }

    const START: Time = Time::from_millis(1_000_000);

    fn tuple(client_port: u16) -> Tuple {
        Tuple { client: [10, 0, 0, 1].into(), client_port, port: 80, vip: 0 }
    }

    struct Bench {
        rebuilt: Rebuilt,
        established: Established,
        shared: Shared,
        kernel: Scripted,
        truth: Truth,
    }

    impl Bench {
        fn with(sockets: &[(Tuple, Held)]) -> Bench {
            let established = Established::new(1024, Hasher::new([7; 16]), HugePages::Never).unwrap();
            let mut kernel = Scripted { sockets: sockets.iter().copied().collect(), ..Scripted::default() };
            let (truth, rebuilt) = Truth::rebuild(&established, &mut kernel, START).unwrap();
            Bench { rebuilt, established, shared: Shared::new(1), kernel, truth }
        }

        fn step(&mut self, after_ms: u64) {
            let now = START + Duration::from_millis(after_ms);
            self.truth.step(&self.shared, &self.established, &mut self.kernel, now).unwrap();
        }

        fn state(&self, tuple: &Tuple) -> Option<State> {
            self.established.find(tuple, self.established.hash(tuple)).map(|entry| entry.state())
        }
    }

    #[test]
    fn a_restart_finds_what_the_kernel_has() {
        let held = [Held::Connection, Held::TimeWait, Held::HalfOpen];
        let sockets: Vec<_> = (1..).zip(held).map(|(port, held)| (tuple(port), held)).collect();
        let bench = Bench::with(&sockets);
        assert_eq!(bench.state(&tuple(1)), Some(State::Live));
        assert_eq!(bench.state(&tuple(2)), Some(State::TimeWait));
        assert_eq!(bench.state(&tuple(3)), None);
        assert_eq!(bench.rebuilt.connections, 2);
        let half_open = |port| bench.rebuilt.half_open.contains(&tuple(port), START);
        assert_eq!([1, 2, 3].map(half_open), [false, false, true]);
    }

    #[test]
    fn more_connections_than_the_table_holds_are_an_error() {
        let established = Established::new(16, Hasher::new([7; 16]), HugePages::Never).unwrap();
        let sockets = (1..=17).map(|port| (tuple(port), Held::Connection)).collect();
        let mut kernel = Scripted { sockets, ..Scripted::default() };
        assert!(Truth::rebuild(&established, &mut kernel, START).is_err());
    }

    #[test]
    fn an_announcement_is_believed_only_after_a_query() {
        let mut bench = Bench::with(&[1, 2, 3].map(|port| (tuple(port), Held::Connection)));
        bench.kernel.sockets.remove(&tuple(1));
        bench.kernel.sockets.insert(tuple(2), Held::TimeWait);
        bench.kernel.endings = [1, 2, 3].map(|port| Ending::Socket(tuple(port))).into();
        bench.step(1);
        assert_eq!(bench.state(&tuple(1)), None);
        assert_eq!(bench.state(&tuple(2)), Some(State::TimeWait));
        assert_eq!(bench.state(&tuple(3)), Some(State::Live), "the tuple has a new socket already");
    }

    #[test]
    fn what_workers_ask_for_is_done() {
        let mut bench = Bench::with(&[1, 2].map(|port| (tuple(port), Held::Connection)));
        assert!(bench.shared.notices.push(Notice::EndSocket(tuple(1))).is_ok());
        assert!(bench.shared.notices.push(Notice::MayHaveEnded(tuple(2))).is_ok());
        bench.step(1);
        assert!(!bench.kernel.sockets.contains_key(&tuple(1)));
        assert_eq!(bench.state(&tuple(2)), Some(State::Live));
        bench.kernel.sockets.clear();
        assert!(bench.shared.notices.push(Notice::MayHaveEnded(tuple(2))).is_ok());
        bench.step(2);
        assert_eq!(bench.state(&tuple(2)), None);
    }

    /// Its host has reset somebody in its name, and has a socket all the same: half open, and answered wrongly by a spoofer.
    #[test]
    fn an_entry_that_was_marked_as_gone_is_live_again_if_there_is_a_socket() {
        for (held, state) in
            [(Some(Held::HalfOpen), Some(State::Live)), (Some(Held::TimeWait), Some(State::TimeWait)), (None, None)]
        {
            let mut bench = Bench::with(&[(tuple(1), Held::Connection)]);
            bench.kernel.sockets = held.map(|held| (tuple(1), held)).into_iter().collect();
            let mut entry = bench.established.find(&tuple(1), bench.established.hash(&tuple(1))).unwrap();
            assert!(bench.established.set_state(&mut entry, State::TimeWait));
            assert!(bench.shared.notices.push(Notice::MayHaveEnded(tuple(1))).is_ok());
            bench.step(1);
            assert_eq!(bench.state(&tuple(1)), state);
        }
    }

    #[test]
    fn an_idle_entry_goes_only_if_its_socket_is_gone() {
        let mut bench = Bench::with(&[1, 2].map(|port| (tuple(port), Held::Connection)));
        bench.kernel.sockets.remove(&tuple(1));
        bench.step(30_000);
        assert_eq!((bench.state(&tuple(1)), bench.kernel.queries), (Some(State::Live), 0));
        bench.step(70_000);
        assert_eq!((bench.state(&tuple(1)), bench.state(&tuple(2))), (None, Some(State::Live)));
        assert_eq!(bench.kernel.queries, 2);
        bench.step(80_000);
        assert_eq!(bench.kernel.queries, 2, "what was found is not asked for again soon");
    }

    #[test]
    fn after_lost_announcements_all_entries_are_compared_with_all_sockets() {
        let mut bench = Bench::with(&[1, 2].map(|port| (tuple(port), Held::Connection)));
        bench.kernel.sockets.remove(&tuple(1));
        bench.kernel.endings = vec![Ending::Unknown];
        bench.step(1);
        assert_eq!(bench.state(&tuple(1)), Some(State::Live), "not at once: dumps cost time");
        bench.step(5_001);
        assert_eq!((bench.state(&tuple(1)), bench.state(&tuple(2))), (None, Some(State::Live)));
        assert_eq!(bench.kernel.queries, 1, "only what the dump did not show is asked for");
    }
}
