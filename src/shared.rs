//! What workers and the control thread share: the roles, one atomic per VIP, and two bounded lock-free queues.
//!
//! The control thread stores, the workers load; nobody waits for the other.

use crossbeam::queue::ArrayQueue;

use crate::orphans::Suspect;
use crate::sync::{AtomicU32, Ordering, fence};
use crate::table::{Tuple, VipIndex};

/// What this member does for a VIP, as the workers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Whether new connections are accepted.
    pub active: bool,
    /// 0 for the primary; meaningless unless active.
    pub rank: u8,
    /// Whether the host's refusal (a RST that answers a SYN) may leave: no other member may be about to accept.
    pub may_refuse: bool,
}

impl Role {
    /// Whether this member is the one that answers what just one member may answer.
    pub const fn primary(self) -> bool {
        self.active && self.rank == 0
    }
}

/// The roles of all VIPs: the control thread stores, the workers load.
#[derive(Debug)]
pub struct Roles {
    /// By [`VipIndex`]. Bit 0: active. Bit 1: may refuse. Bits 8 to 15: rank.
    words: Box<[AtomicU32]>,
    changes: AtomicU32,
}

impl Roles {
    /// For `vips` virtual IPs, all passive.
    pub fn new(vips: usize) -> Roles {
        Roles { words: (0..vips).map(|_| AtomicU32::default()).collect(), changes: AtomicU32::default() }
    }

    /// Replaces a role. Called by the control thread alone.
    pub fn store(&self, vip: VipIndex, role: Role) {
        let word = u32::from(role.active) | u32::from(role.may_refuse) << 1 | u32::from(role.rank) << 8;
        // Release: a worker that sees the role also sees what the control thread did before.
        self.words[usize::from(vip)].store(word, Ordering::Release);
        // Release: who sees the change sees the role.
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// A role now.
    #[inline]
    pub fn load(&self, vip: VipIndex) -> Role {
        // Acquire: pairs with the Release above.
        let word = self.words[usize::from(vip)].load(Ordering::Acquire);
        Role { active: word & 1 != 0, may_refuse: word & 2 != 0, rank: (word >> 8) as u8 }
    }

    /// How often a role has been replaced, so that a worker sees with one load whether it has to look at all of them.
    #[inline]
    pub fn changes(&self) -> u32 {
        // Acquire: pairs with the Release above.
        self.changes.load(Ordering::Acquire)
    }
}

/// How often the control thread has looked at what workers hear, so that a worker knows when the roles take account of what it has
/// just put into the inbox.
#[derive(Debug, Default)]
pub struct Looks(AtomicU32);

impl Looks {
    /// A look begins. Called by the control thread alone, as is [`end`](Looks::end).
    pub fn begin(&self) {
        // Odd: one is under way. Relaxed, by the fence after it.
        self.0.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with that in `next`. Either the look finds what that worker has put into the inbox, or the worker
        // finds that the look has begun.
        fence(Ordering::SeqCst);
    }

    /// It has ended: the roles are what follows from it.
    pub fn end(&self) {
        // Release: who sees this sees the roles.
        self.0.fetch_add(1, Ordering::Release);
    }

    /// The first look that begins after now, by the number to ask [`ended`](Looks::ended) for.
    pub fn next(&self) -> u32 {
        // SeqCst: see `begin`.
        fence(Ordering::SeqCst);
        // Relaxed, by the fence before it. The end of the next look; if one is under way, of the one after that.
        self.0.load(Ordering::Relaxed).wrapping_add(3) & !1
    }

    /// Whether that look has ended.
    pub fn ended(&self, look: u32) -> bool {
        // Acquire: pairs with the Release of `end`. Either may wrap around.
        self.0.load(Ordering::Acquire).wrapping_sub(look) as i32 >= 0
    }
}

/// The most bytes of a heartbeat frame, Ethernet header included.
pub const HEARTBEAT_MAX: usize = 1514;

/// Frames that the inbox has room for: of 63 peers two each, and as many again for each of the eight extra heartbeats that
/// they may send between two regular ones. The control thread reads it several times in that time.
const INBOX: usize = 2048;

/// A heartbeat frame, by value, as the queues carry it.
#[derive(Clone)]
pub struct HeartbeatFrame {
    len: u16,
    bytes: [u8; HEARTBEAT_MAX],
}

impl HeartbeatFrame {
    /// A copy of `frame`, or `None` if it is longer than [`HEARTBEAT_MAX`].
    pub fn new(frame: &[u8]) -> Option<HeartbeatFrame> {
        let mut bytes = [0; HEARTBEAT_MAX];
        bytes.get_mut(..frame.len())?.copy_from_slice(frame);
        Some(HeartbeatFrame { len: frame.len() as u16, bytes })
    }

    /// The frame, Ethernet header included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What a worker asks of the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Another member owns this tuple now: the kernel's socket for it, if any, is to be destroyed without a word to
    /// the client.
    EndSocket(Tuple),
    /// The host has reset this connection: its entry may have to go.
    MayHaveEnded(Tuple),
}

/// The queues and flags between workers and the control thread.
pub struct Shared {
    /// This member's roles.
    pub roles: Roles,
    /// The control thread's looks at the inbox.
    pub looks: Looks,
    /// Heartbeats received, workers to control. Full: the newest is dropped and counted.
    pub inbox: ArrayQueue<HeartbeatFrame>,
    /// Heartbeats to send, control to workers.
    pub outbox: ArrayQueue<HeartbeatFrame>,
    /// Requests, workers to control. Full: the request is dropped and counted.
    pub notices: ArrayQueue<Notice>,
    /// Clients that repeat themselves in vain, workers to control. Full: the next repeat tells of it again.
    pub suspects: ArrayQueue<Suspect>,
    /// Clients that are orphans, control to workers: each gets a RST if it still is one.
    pub orphans: ArrayQueue<Suspect>,
}

impl Shared {
    /// For `vips` virtual IPs, all passive.
    pub fn new(vips: usize) -> Shared {
        Shared {
            roles: Roles::new(vips),
            looks: Looks::default(),
            inbox: ArrayQueue::new(INBOX),
            outbox: ArrayQueue::new(64),
            notices: ArrayQueue::new(4096),
            suspects: ArrayQueue::new(1024),
            orphans: ArrayQueue::new(256),
        }
    }

    /// This member's role for a VIP.
    pub fn role(&self, vip: VipIndex) -> Role {
        self.roles.load(vip)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_is_under_way_does_not_count() {
        let looks = Looks::default();
        for begun in [u32::MAX - 5, 0] {
            looks.0.store(begun & !1, Ordering::Relaxed);
            for under_way in [false, true, false, true] {
                if under_way {
                    looks.begin();
                }
                let next = looks.next();
                if under_way {
                    looks.end();
                }
                assert!(!looks.ended(next));
                looks.begin();
                assert!(!looks.ended(next));
                looks.end();
                assert!(looks.ended(next));
            }
        }
    }
}
