//! What [`Handshakes`](super::Handshakes) keeps of a SYN: as snapshots, and as the words they are packed in.
//!
//! **Header** (64 bits), one a record:
//!
//! | bits | what |
//! |---|---|
//! | 0–2 | 0 empty, 1 busy (being written), from 2 on the [`Stage`] |
//! | 3 | our host has answered: at least one answer was recorded |
//! | 4–15 | tag: 12 bits of the tuple's hash, so that another tuple's body is read once in 4,096 |
//! | 16–31 | generation: plus one when a record begins; its lower 11 bits are never all zero |
//! | 32–63 | when the SYN was last seen: ms modulo 2³², which is 49.7 days |
//!
//! **Answer** (64 bits), four a record:
//!
//! | bits | what |
//! |---|---|
//! | 0–31 | the ISN of a SYN-ACK |
//! | 32–50 | the lower 19 bits of its timestamp value |
//! | 51 | whether it carried a timestamp |
//! | 52 | lap: flips with each round of writing the four words in turn, so that the oldest is known |
//! | 53–63 | the lower 11 bits of the generation of the record that it belongs to; zero: of none |
//!
//! What the wrap-arounds mean. *Time*: a record that lies untouched for 49.7 days looks fresh again, for its tuple
//! alone; [`Handshakes::tally`](super::Handshakes::tally), run for each `status`, empties the old ones long before.
//! *Generation*: an answer that its writer holds back while the slot is given away is void in the slot's next 2,046
//! records. At 500,000 SYNs a second on 2²⁰ records a slot's turn comes every two seconds, so the writer would have to
//! be held for an hour, to the very record. A header's own 16 bits protect a [`Record`]'s `settle` for nine hours so.

use std::time::Duration;

use arrayvec::ArrayVec;

use super::hash::Hash;
use crate::time::Time;

/// The most answers that a record keeps.
pub const ANSWERS: usize = 4;

/// How long a record lasts. Linux gives a half-open connection up 63 s after the SYN (`tcp_synack_retries` 5: 1 + 2 + 4
/// + 8 + 16 s between its SYN-ACKs, then 32 s for the last; tcp(7), `reqsk_timer_handler`): a little longer than that.
pub const LIFETIME: Duration = Duration::from_secs(75);

/// The record of a handshake that another member has won is needed as long as what was on its way then may still come.
const DECIDED_MS: u32 = 1000;

pub(super) const LIFETIME_MS: u32 = LIFETIME.as_millis() as u32;

/// How far a record's time may be ahead of a caller's: workers read the clock once a burst, each for itself.
pub(super) const SKEW_MS: u32 = 10_000;

/// How far the handshake that a SYN began has come, as far as this member knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Seen, and not handed to our host.
    Seen,
    /// Handed to our host: pending.
    Admitted,
    /// Not handed to our host, and the client has acknowledged some other member's SYN-ACK.
    Answered,
    /// It became established here, or our host has refused it.
    Confirmed,
    /// Handed to our host, and another member won.
    Lost,
}

impl Stage {
    /// Of a new record.
    #[inline(always)]
    pub const fn of(admitted: bool) -> Stage {
        if admitted { Stage::Admitted } else { Stage::Seen }
    }
}

/// What a SYN-ACK of our host said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// Its sequence number.
    pub isn: u32,
    /// Its timestamp value (RFC 7323, TSval), if it had that option. Of a recorded answer, the lower 19 bits.
    pub timestamp: Option<u32>,
}

impl Answer {
    /// As it is recorded.
    fn recorded(self) -> Answer {
        Answer { isn: self.isn, timestamp: self.timestamp.map(|value| value & TIMESTAMP_MASK) }
    }

    /// Whether a segment with this acknowledgement number, and this timestamp echo if any, acknowledges this SYN-ACK.
    pub fn acknowledged_by(self, ack: u32, echo: Option<u32>) -> bool {
        let echoed = match (self.timestamp, echo) {
            (Some(value), Some(echo)) => (value ^ echo) & TIMESTAMP_MASK == 0,
            _ => true,
        };
        ack.wrapping_sub(1) == self.isn && echoed
    }
}

/// A record as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(super) slot: u32,
    pub(super) header: Header,
    /// The SYN's sequence number.
    pub client_isn: u32,
    /// How far the handshake had come.
    pub stage: Stage,
    /// How long ago the SYN was last seen, in whole milliseconds.
    pub age: Duration,
    /// What our host has answered, at most the last four different answers, in no order.
    pub answers: ArrayVec<Answer, ANSWERS>,
}

impl Record {
    /// Whether a segment with this acknowledgement number, and this timestamp echo if any, acknowledges one of our
    /// host's SYN-ACKs.
    pub fn acknowledged_by(&self, ack: u32, echo: Option<u32>) -> bool {
        self.answers.iter().any(|answer| answer.acknowledged_by(ack, echo))
    }
}

/// What became of a SYN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// It has a record now, [`Seen`](Stage::Seen) or [`Admitted`](Stage::Admitted) as it was asked for.
    New,
    /// It had one: a retransmission.
    Known(Record),
    /// All records of its bucket were being written by others at this very instant, so it has none. The client will
    /// repeat it. Takes more threads at once than there are workers.
    Crowded,
}

pub(super) const STATE: u64 = 0b111;
pub(super) const BUSY: u64 = 1;
const HAS_ANSWER: u64 = 1 << 3;
const TAG_SHIFT: u32 = 4;
pub(super) const TAG_MASK: u64 = 0xfff << TAG_SHIFT;
const GENERATION_SHIFT: u32 = 16;
const GENERATION_MASK: u64 = 0xffff << GENERATION_SHIFT;
const TIME_SHIFT: u32 = 32;
const STAGES: [Stage; 5] = [Stage::Seen, Stage::Admitted, Stage::Answered, Stage::Confirmed, Stage::Lost];

/// The generation's bits that an answer carries.
const EPOCH_MASK: u64 = 0x7ff;

/// See the module's first table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header(u64);

impl Header {
    #[inline]
    pub const fn from_bits(bits: u64) -> Header {
        Header(bits)
    }

    #[inline]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Where the tag is. An empty header may have one too: a look at its record will tell.
    pub const TAG: u64 = TAG_MASK;

    /// The tag of a hash, in its place: bits that choose neither this table's bucket (the lower half does, see
    /// `Handshakes`) nor a class of the other table.
    #[inline]
    pub fn tag(hash: Hash) -> u64 {
        hash.bits() >> 40 << TAG_SHIFT & TAG_MASK
    }

    #[inline]
    pub fn is_busy(self) -> bool {
        self.0 & STATE == BUSY
    }

    /// How far the handshake has come; `None`: empty or busy.
    #[inline]
    pub fn stage(self) -> Option<Stage> {
        STAGES.get(((self.0 & STATE) as usize).wrapping_sub(2)).copied()
    }

    #[inline]
    pub fn has_answer(self) -> bool {
        self.0 & HAS_ANSWER != 0
    }

    /// What the record is worth, at this age, beside another SYN of the same tuple: least if another member won it long ago, more
    /// if nobody has answered it, most if our host has, or the client has just decided it. What is confirmed here stays: it
    /// tells a late copy of a connection's own SYN from a new one.
    pub fn worth(self, age: u32) -> u8 {
        match self.stage() {
            Some(Stage::Answered | Stage::Lost) if age >= DECIDED_MS => 0,
            Some(Stage::Seen | Stage::Admitted) if !self.has_answer() => 1,
            _ => 2,
        }
    }

    #[inline]
    pub fn has_tag(self, tag: u64) -> bool {
        self.0 & TAG_MASK == tag
    }

    /// Milliseconds since the SYN was last seen; `None` if there is no record or it is out of date.
    #[inline]
    pub fn age(self, now: Time) -> Option<u32> {
        self.stage()?;
        let age = self.age_or_more(now.as_millis() as u32);
        (age <= LIFETIME_MS).then_some(age)
    }

    /// Milliseconds since the SYN was last seen, if there is a record; more than [`LIFETIME`] has if it is out of date.
    #[inline]
    fn age_or_more(self, now_ms: u32) -> u32 {
        let since = now_ms.wrapping_sub((self.0 >> TIME_SHIFT) as u32);
        since.wrapping_add(SKEW_MS).saturating_sub(SKEW_MS).min(LIFETIME_MS + 1)
    }

    /// How readily a new record takes this one's place: not at all (zero) while it is being written, else the older the
    /// sooner, and soonest where there is none or it is out of date. Without a branch.
    #[inline]
    pub fn readiness(self, now_ms: u32) -> u32 {
        let age = if self.0 & STATE == 0 { LIFETIME_MS + 1 } else { self.age_or_more(now_ms) };
        if self.is_busy() { 0 } else { age + 1 }
    }

    /// Whether `later`, read from the same slot, still is the record that this was.
    #[inline]
    pub fn same_record(self, later: Header) -> bool {
        later.stage().is_some() && (self.0 ^ later.0) & GENERATION_MASK == 0
    }

    /// A slot's next record, being written.
    #[inline]
    pub fn next_busy(self) -> Header {
        let next = (self.0 >> GENERATION_SHIFT) + 1;
        let next = if next & EPOCH_MASK == 0 { next + 1 } else { next };
        Header(next << GENERATION_SHIFT & GENERATION_MASK | BUSY)
    }

    /// An empty slot that keeps the generation.
    #[inline]
    pub fn empty(self) -> Header {
        Header(self.0 & GENERATION_MASK)
    }

    /// A record of the same generation.
    #[inline]
    pub fn record(self, tag: u64, stage: Stage, now: Time) -> Header {
        Header(self.0 & GENERATION_MASK | tag).with_stage(stage).with_time(now)
    }

    #[inline]
    pub fn with_stage(self, stage: Stage) -> Header {
        Header(self.0 & !STATE | (stage as u64 + 2))
    }

    #[inline]
    pub fn with_answer(self) -> Header {
        Header(self.0 | HAS_ANSWER)
    }

    /// Seen at `now`, or later if another worker says so.
    #[inline]
    pub fn with_time(self, now: Time) -> Header {
        Header(self.0 << 32 >> 32 | now.as_millis() << TIME_SHIFT)
    }

    fn epoch(self) -> u64 {
        self.0 >> GENERATION_SHIFT & EPOCH_MASK
    }
}

const TIMESTAMP_MASK: u32 = (1 << 19) - 1;
const HAS_TIMESTAMP: u64 = 1 << 51;
const LAP: u64 = 1 << 52;
const EPOCH_SHIFT: u32 = 53;

/// A record's four answer words as they were read. See the module's second table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerWords(pub [u64; ANSWERS]);

impl AnswerWords {
    /// The answers that belong to the record of this header.
    pub fn of(self, header: Header) -> ArrayVec<Answer, ANSWERS> {
        self.0.into_iter().filter(|word| belongs(*word, header)).map(unpack).collect()
    }

    /// Where `answer` goes in the record of this header, and as what: after the newest, over the oldest where there
    /// are four. `None` if it is there already.
    pub fn place(self, header: Header, answer: Answer) -> Option<(usize, u64)> {
        if self.of(header).contains(&answer.recorded()) {
            return None;
        }
        let [first, ..] = self.0;
        let lap = if belongs(first, header) { first & LAP } else { 0 };
        let written = self.0.into_iter().take_while(|word| belongs(*word, header) && word & LAP == lap).count();
        let (index, lap) = if written == ANSWERS { (0, lap ^ LAP) } else { (written, lap) };
        Some((index, pack(answer, header) | lap))
    }
}

fn belongs(word: u64, header: Header) -> bool {
    word >> EPOCH_SHIFT == header.epoch()
}

fn pack(answer: Answer, header: Header) -> u64 {
    let timestamp = answer.timestamp.map_or(0, |value| HAS_TIMESTAMP | u64::from(value & TIMESTAMP_MASK) << 32);
    header.epoch() << EPOCH_SHIFT | timestamp | u64::from(answer.isn)
}

fn unpack(word: u64) -> Answer {
    let timestamp = (word >> 32) as u32 & TIMESTAMP_MASK;
    Answer { isn: word as u32, timestamp: (word & HAS_TIMESTAMP != 0).then_some(timestamp) }
}
