//! SYNs kept: frames of SYNs that were not handed to our host when they came.
//!
//! - **Replay.** A passive member keeps the SYNs of the last while. If it becomes active, it hands those to its host that
//!   nobody has answered, so a client whose SYN fell into the gap does not wait a second for its retransmission.
//! - **Hedge.** An active of rank r leaves a SYN to those before it for r × hedge, and hands it over then if
//!   the client has not acknowledged anybody's SYN-ACK.
//!
//! Both are safe by the ownership rule: more than one member may answer a SYN. Which SYNs are still unanswered the
//! handshake table knows ([`Decider::release`](crate::decide::Decider::release)); here is only the time and the frame.
//!
//! Each worker has a ring of its own for what its queue received: fixed in size, the oldest is overwritten. Only SYNs
//! without data are kept, which is all but those of Fast Open.

use std::time::Duration;

use crate::classify::Facts;
use crate::shared::Shared;
use crate::table::{Tuple, VipIndex, prefetch_at};
use crate::time::Time;

/// The longest frame of a SYN without data: Ethernet, IPv4 and TCP headers, both with all options.
const LONGEST: usize = 14 + 60 + 60;

/// How long a SYN may wait for a takeover, by DESIGN: as long as detection takes plus two heartbeats, within these bounds.
/// A client repeats its SYN after a second (RFC 6298, 2.1).
const KEEP_FOR: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));

/// How long members keep SYNs that send a heartbeat every `heartbeat`, and are taken for dead after `missed` of them.
pub fn keep_for(heartbeat: Duration, missed: u32) -> Duration {
    (heartbeat * (missed + 2)).clamp(KEEP_FOR.0, KEEP_FOR.1)
}

/// How far ahead of the next SYN the lines of a slot are asked for. It was last written long ago, and what is written to memory that
/// is not at hand holds up the next SYN, whose record takes locked instructions.
const AHEAD: usize = 4;

/// A SYN as it was received.
#[derive(Clone, Debug)]
pub struct Syn {
    at: Time,
    /// Its connection.
    pub tuple: Tuple,
    /// Its sequence number.
    pub client_isn: u32,
    len: u8,
    frame: [u8; LONGEST],
}

impl Syn {
    /// The frame.
    pub fn frame(&self) -> &[u8] {
        &self.frame[..usize::from(self.len)]
    }

    /// Asks the CPU for the lines that are written of most SYNs.
    #[inline]
    fn prefetch(&self) {
        let first = std::ptr::from_ref(self).cast::<u8>();
        (0..size_of::<Syn>()).step_by(64).for_each(|at| prefetch_at(first.wrapping_add(at)));
    }
}

/// Where a VIP's release of SYNs is.
#[derive(Clone, Copy, Debug, Default)]
struct Release {
    active: bool,
    /// After which a SYN is released.
    delay: Duration,
    /// The number of the first SYN that has not been looked at.
    next: u64,
}

/// The ring, and who is to get what of it when.
#[derive(Debug)]
pub struct Kept {
    /// SYN number n is in slot n modulo the capacity.
    slots: Vec<Syn>,
    capacity: usize,
    /// SYNs kept so far.
    written: u64,
    /// The slot of the next: that number modulo the capacity, without a division for each SYN.
    next: usize,
    keep_for: Duration,
    /// [`Roles::changes`](crate::shared::Roles::changes) when the roles were looked at.
    changes: Option<u32>,
    /// By [`VipIndex`].
    releases: Vec<Release>,
    /// VIPs with something to be released, now or later.
    waiting: Vec<VipIndex>,
}

impl Kept {
    /// Room for `capacity` SYNs, at 168 bytes each, that are kept for `keep_for`; for `vips` virtual IPs. The memory is
    /// used as SYNs come.
    pub fn new(capacity: usize, keep_for: Duration, vips: usize) -> Kept {
        Kept {
            slots: Vec::with_capacity(capacity),
            capacity,
            written: 0,
            next: 0,
            keep_for,
            changes: None,
            releases: vec![Release::default(); vips],
            waiting: Vec::with_capacity(vips),
        }
    }

    /// Keeps a SYN, over the oldest if there is no room. A frame that no SYN without data can be is not kept.
    #[inline]
    pub fn keep(&mut self, frame: &[u8], tuple: Tuple, client_isn: u32, now: Time) {
        if self.slots.len() < self.capacity {
            self.slots.push(Syn { at: now, tuple, client_isn, len: 0, frame: [0; LONGEST] });
        }
        // Written where it is to lie: a SYN that was made elsewhere would be copied as a whole, twice.
        let Some(syn) = self.slots.get_mut(self.next) else { return };
        // What goes beyond the headers is Ethernet's padding.
        let len = frame.len().min(LONGEST);
        syn.frame[..len].copy_from_slice(&frame[..len]);
        (syn.at, syn.tuple, syn.client_isn, syn.len) = (now, tuple, client_isn, len as u8);
        self.written += 1;
        self.next += 1;
        if self.next == self.capacity {
            self.next = 0;
        }
        if let Some(syn) = self.slots.get(self.next + AHEAD) {
            syn.prefetch();
        }
    }

    /// Looks at the roles if any has changed: whoever has become active begins with the oldest SYN.
    #[inline]
    pub fn follow(&mut self, shared: &Shared, facts: &Facts) {
        let changes = shared.roles.changes();
        if self.changes != Some(changes) {
            self.changes = Some(changes);
            self.look_at_roles(shared, facts);
        }
    }

    fn look_at_roles(&mut self, shared: &Shared, facts: &Facts) {
        self.waiting.clear();
        for (index, (release, vip)) in self.releases.iter_mut().zip(&facts.vips).enumerate() {
            let role = shared.role(index as VipIndex);
            if role.active && !release.active {
                release.next = 0;
            }
            release.active = role.active;
            release.delay = vip.hedge * u32::from(role.rank);
            if role.active {
                self.waiting.push(index as VipIndex);
            }
        }
    }

    /// The next SYN that is due, if one is found within `looks` looks, which are counted down.
    #[inline]
    pub fn next_due(&mut self, now: Time, looks: &mut usize) -> Option<&Syn> {
        let mut index = 0;
        while let Some(&vip) = self.waiting.get(index) {
            let release = &mut self.releases[usize::from(vip)];
            release.next = release.next.max(self.written - self.slots.len() as u64);
            while release.next < self.written && *looks > 0 {
                let syn = &self.slots[(release.next % self.capacity as u64) as usize];
                if syn.at + release.delay > now {
                    break;
                }
                release.next += 1;
                *looks -= 1;
                if syn.tuple.vip == vip && now.since(syn.at) <= release.delay + self.keep_for {
                    return Some(syn);
                }
            }
            if release.next == self.written && release.delay.is_zero() {
                // What comes from now on is answered at once.
                self.waiting.swap_remove(index);
            } else {
                index += 1;
            }
        }
        None
    }

    /// How long after `now` the next SYN is due, if any is waiting.
    pub fn due_in(&self, now: Time) -> Option<Duration> {
        let due = |vip: &VipIndex| {
            let release = &self.releases[usize::from(*vip)];
            let next = release.next.max(self.written - self.slots.len() as u64);
            let waits = next < self.written;
            waits.then(|| (self.slots[(next % self.capacity as u64) as usize].at + release.delay).since(now))
        };
        self.waiting.iter().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::VipFacts;
    use crate::frame::Mac;
    use crate::shared::Role;

    const START: Time = Time::from_millis(1_000_000);
    const KEEP_FOR: Duration = Duration::from_millis(300);
    const HEDGE: Duration = Duration::from_millis(5);

    struct Bench {
        kept: Kept,
        shared: Shared,
        facts: Facts,
        now: Time,
    }

    impl Bench {
        fn new(capacity: usize) -> Bench {
            let vip = VipFacts {
                address: [10, 0, 0, 100].into(),
                mac: Mac([2; 6]),
                ports: Vec::new(),
                hedge: HEDGE,
                orphans: false,
            };
            let facts = Facts { own_mac: Mac([4; 6]), vips: vec![vip.clone(), vip], heartbeat: 0, shared_wire: true };
            Bench { kept: Kept::new(capacity, KEEP_FOR, 2), shared: Shared::new(2), facts, now: START }
        }

        fn role(&self, vip: VipIndex, active: bool, rank: u8) {
            self.shared.roles.store(vip, Role { active, rank, may_refuse: false });
        }

        /// Keeps a SYN with this ISN.
        fn keep(&mut self, vip: VipIndex, client_isn: u32) {
            let tuple = Tuple { client: [10, 0, 0, 1].into(), client_port: 1, port: 80, vip };
            self.kept.keep(&client_isn.to_be_bytes(), tuple, client_isn, self.now);
        }

        /// The ISNs that are due after `millis` more.
        fn due(&mut self, millis: u64) -> Vec<u32> {
            self.now += Duration::from_millis(millis);
            self.kept.follow(&self.shared, &self.facts);
            let mut due = Vec::new();
            while let Some(syn) = self.kept.next_due(self.now, &mut 1000) {
                assert_eq!(syn.frame(), syn.client_isn.to_be_bytes());
                due.push(syn.client_isn);
            }
            due
        }
    }

    #[test]
    fn who_becomes_active_gets_what_was_kept_once_and_not_what_is_old() {
        let mut bench = Bench::new(16);
        bench.keep(0, 1);
        assert!(bench.due(200).is_empty());
        bench.keep(0, 2);
        bench.keep(1, 3);
        bench.role(0, true, 0);
        assert_eq!(bench.due(200), [2], "the first is older than what is kept");
        assert!(bench.due(0).is_empty());
        assert_eq!(bench.kept.due_in(bench.now), None);
        bench.role(0, false, 0);
        assert!(bench.due(0).is_empty());
        bench.keep(0, 4);
        bench.role(0, true, 0);
        bench.role(1, true, 0);
        let mut due = bench.due(10);
        due.sort_unstable();
        assert_eq!(due, [2, 3, 4], "each address its own; what was released once is told apart by its record");
    }

    #[test]
    fn a_higher_rank_waits() {
        let mut bench = Bench::new(16);
        bench.role(0, true, 2);
        assert!(bench.due(0).is_empty());
        bench.keep(0, 1);
        assert!(bench.due(9).is_empty());
        assert_eq!(bench.kept.due_in(bench.now), Some(Duration::from_millis(1)));
        bench.keep(0, 2);
        assert_eq!(bench.due(1), [1]);
        bench.role(0, true, 1);
        assert!(bench.due(3).is_empty());
        bench.role(0, true, 0);
        assert_eq!(bench.due(0), [2], "the others before it are gone");
    }

    #[test]
    fn the_oldest_is_overwritten() {
        let mut bench = Bench::new(4);
        (1..=6).for_each(|isn| bench.keep(0, isn));
        bench.role(0, true, 0);
        assert_eq!(bench.due(0), [3, 4, 5, 6]);
        bench.role(0, true, 1);
        bench.due(0);
        (7..=20).for_each(|isn| bench.keep(0, isn));
        assert_eq!(bench.due(5), [17, 18, 19, 20]);
    }

    #[test]
    fn a_turn_looks_at_a_bounded_number() {
        let mut bench = Bench::new(16);
        (1..=4).for_each(|isn| bench.keep(1, isn));
        bench.keep(0, 5);
        bench.role(0, true, 0);
        bench.kept.follow(&bench.shared, &bench.facts);
        assert!(bench.kept.next_due(bench.now, &mut 3).is_none());
        assert_eq!(bench.kept.next_due(bench.now, &mut 3).map(|syn| syn.client_isn), Some(5));
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut bench = Bench::new(0);
        bench.keep(0, 1);
        bench.role(0, true, 0);
        assert!(bench.due(0).is_empty());
    }
}
