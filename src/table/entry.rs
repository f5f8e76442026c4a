//! A slot's word in [`Established`](super::Established), and an entry as it was observed.
//!
//! | bits | what |
//! |---|---|
//! | 0–1 | 0 empty, 1 busy (being entered), 2 live, 3 live and only a `TIME_WAIT` is left in the kernel, if anything |
//! | 2 | a SYN was seen for the tuple |
//! | 3–10 | the VIP |
//! | 11–21 | when a segment was last seen: ticks of 16 s, modulo 2,048, which is 9 h 6 min |
//! | 22–31 | generation: plus one, modulo 1,024, when an entry begins or is confirmed again |
//!
//! What the wrap-arounds mean. *Last seen*: an entry idle for 9 h 6 min looks fresh again, so its idleness must be
//! looked at, and the entry touched or removed, more often than that; overlooked once, it is found a round later.
//! *Generation*: an observation is mistaken for the present only if exactly a multiple of 1,024 beginnings of the same
//! VIP happened in this one slot since, and the last segment fell on the same tick: within the millisecond that a
//! query to the kernel takes, that is not going to happen.

use std::time::Duration;

use super::VipIndex;
use crate::time::Time;

/// What the kernel has for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A socket.
    Live,
    /// Only a `TIME_WAIT`, or nothing any more: its client has sent a RST, or its host.
    TimeWait,
}

/// An entry as it was observed. A handle: each operation says if the entry has become another since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) slot: u32,
    pub(super) word: Word,
}

impl Entry {
    /// What the kernel had for it.
    #[inline]
    pub fn state(self) -> State {
        if self.word.0 & STATE == TIME_WAIT { State::TimeWait } else { State::Live }
    }

    /// Whether a SYN was seen for its tuple.
    #[inline]
    pub fn syn_seen(self) -> bool {
        self.word.0 & SYN_SEEN != 0
    }

    /// Which incarnation of the slot it was.
    pub fn generation(self) -> u32 {
        self.word.0 >> GENERATION_SHIFT
    }

    /// How long before `now` the last segment was seen, in steps of [`TICK`]: up to one step too much or too little.
    pub fn idle(self, now: Time) -> Duration {
        TICK * self.word.ticks_until(now)
    }
}

/// The step of the coarse clock. A busy connection's line is written once in each: a locked instruction, and a line that goes
/// back to memory, so not too often; it tells which entries are worth a question to the kernel after a minute, so not too
/// seldom.
pub const TICK: Duration = Duration::from_secs(16);

const STATE: u32 = 0b11;
const BUSY: u32 = 1;
const LIVE: u32 = 2;
const TIME_WAIT: u32 = 3;
const SYN_SEEN: u32 = 1 << 2;
const VIP_SHIFT: u32 = 3;
const VIP: u32 = 0xff << VIP_SHIFT;
const LAST_SEEN_SHIFT: u32 = 11;
const LAST_SEEN_MASK: u32 = (1 << 11) - 1;
const GENERATION_SHIFT: u32 = 22;

/// See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u32);

impl Word {
    #[inline]
    pub fn from_bits(bits: u32) -> Word {
        Word(bits)
    }

    #[inline]
    pub fn bits(self) -> u32 {
        self.0
    }

    pub fn is_empty(self) -> bool {
        self.0 & STATE == 0
    }

    #[inline]
    pub fn is_live(self) -> bool {
        self.0 & STATE >= LIVE
    }

    #[inline]
    pub fn vip(self) -> VipIndex {
        (self.0 >> VIP_SHIFT) as u8
    }

    /// Whether `later`, read from the same slot, still is the entry that this was.
    #[inline]
    pub fn same_entry(self, later: Word) -> bool {
        later.is_live() && (self.0 ^ later.0) >> GENERATION_SHIFT == 0
    }

    /// What says that a socket or a `TIME_WAIT` is there.
    pub const LIVE: u64 = LIVE as u64;
    /// Where the VIP is.
    pub const VIP_SHIFT: i32 = VIP_SHIFT as i32;
    /// Its bits.
    pub const VIP: u64 = VIP as u64;
    /// The generation's bits.
    pub const GENERATION: u64 = (u32::MAX << GENERATION_SHIFT) as u64;
    /// What makes an entry fresh: see [`Word::fresh`].
    pub const FRESH: u64 = (STATE | SYN_SEEN | LAST_SEEN_MASK << LAST_SEEN_SHIFT) as u64;

    /// A word with nothing but the tick that a segment seen now falls on.
    pub fn of_tick(now: Time) -> Word {
        Word(ticks(now) << LAST_SEEN_SHIFT)
    }

    /// With this one's tick, what the bits [`FRESH`](Word::FRESH) are where a socket is there, no SYN was seen, and a segment
    /// was on the tick.
    pub fn fresh(self) -> u64 {
        u64::from(self.0 | LIVE)
    }

    /// An empty slot's word that keeps the generation.
    pub fn empty(self) -> Word {
        Word(self.0 >> GENERATION_SHIFT << GENERATION_SHIFT)
    }

    pub fn busy(self) -> Word {
        Word(self.empty().0 | BUSY)
    }

    /// An empty slot's word with the generation after this one's.
    pub fn next_generation(self) -> Word {
        Word(self.empty().0.wrapping_add(1 << GENERATION_SHIFT))
    }

    /// A live entry of the same generation.
    pub fn live(self, state: State, vip: VipIndex, now: Time) -> Word {
        Word(self.empty().0 | u32::from(vip) << VIP_SHIFT | ticks(now) << LAST_SEEN_SHIFT).with_state(state)
    }

    pub fn with_state(self, state: State) -> Word {
        Word(self.0 & !STATE | if state == State::Live { LIVE } else { TIME_WAIT })
    }

    pub fn with_syn_seen(self, seen: bool) -> Word {
        Word(self.0 & !SYN_SEEN | if seen { SYN_SEEN } else { 0 })
    }

    /// Whether the last segment was seen on `now`'s tick, or on the next: another worker may have read the clock just
    /// after us.
    #[inline]
    pub fn seen_at(self, now: Time) -> bool {
        self.ticks_until(now) == 0
    }

    pub fn with_last_seen(self, now: Time) -> Word {
        if self.seen_at(now) {
            return self;
        }
        Word(self.0 & !(LAST_SEEN_MASK << LAST_SEEN_SHIFT) | ticks(now) << LAST_SEEN_SHIFT)
    }

    /// Ticks from the last segment to `now`; none if that is a tick ahead.
    #[inline]
    fn ticks_until(self, now: Time) -> u32 {
        let ticks = ticks(now).wrapping_sub(self.0 >> LAST_SEEN_SHIFT) & LAST_SEEN_MASK;
        if ticks == LAST_SEEN_MASK { 0 } else { ticks }
    }
}

#[inline]
fn ticks(now: Time) -> u32 {
    (now.as_secs() / TICK.as_secs()) as u32 & LAST_SEEN_MASK
}
