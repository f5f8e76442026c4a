//! TIME_WAIT, as Linux's `tcp_timewait_state_process` has it.

use std::time::Duration;

use super::secrets::ChallengeLimit;
use super::{MachineClock, Socket};
use crate::frame::tcp::{Flags, Timestamps};
use crate::sim::segment::{Flow, Segment, after};
use crate::time::Time;

/// How long it lasts (Linux: `TCP_TIMEWAIT_LEN`).
pub const LENGTH: Duration = Duration::from_secs(60);

/// What is left of a connection that this end closed first.
#[derive(Clone, Debug)]
pub struct TimeWait {
    flow: Flow,
    rcv_nxt: u32,
    snd_nxt: u32,
    window: u16,
    /// The peer's last timestamp.
    recent: Option<u32>,
    limit: ChallengeLimit,
    /// When it ends.
    pub until: Time,
}

/// What a segment does to it.
#[derive(Debug, PartialEq)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// This is sent.
    Answer(Segment),
    /// It is gone (RFC 1337's assassination, which Linux allows unless `tcp_rfc1337` is set).
    Killed,
    /// A new connection may begin in its place, with this ISN.
    NewSyn(u32),
}

impl TimeWait {
    /// Takes over from a socket.
    pub fn of(socket: &Socket, now: Time) -> TimeWait {
        TimeWait {
            flow: socket.flow,
            rcv_nxt: socket.rcv_nxt(),
            snd_nxt: socket.snd_nxt(),
            window: socket.window(),
            recent: socket.peer_timestamp(),
            limit: ChallengeLimit::default(),
            until: now + LENGTH,
        }
    }

    /// A segment for it.
    pub fn receive(&mut self, segment: &Segment, clock: MachineClock) -> Reaction {
        let flags = segment.flags;
        let stamps = segment.timestamps.filter(|_| self.recent.is_some());
        let newer = |stamps: Timestamps| self.recent.is_some_and(|recent| after(stamps.value, recent));
        let older =
            stamps.is_some_and(|stamps| self.recent.is_some_and(|recent| after(recent, stamps.value)) && !flags.rst());
        if !older && segment.seq == self.rcv_nxt && (segment.end() == segment.seq || flags.rst()) {
            if flags.rst() {
                return Reaction::Killed;
            }
            self.until = clock.now + LENGTH;
            self.recent = stamps.map(|stamps| stamps.value).or(self.recent);
            return Reaction::Nothing;
        }
        if flags.syn() && !flags.rst() && !flags.ack() && !older {
            // The largest sequence number of the old connection is below, or its timestamps are.
            if after(segment.seq, self.rcv_nxt) || stamps.is_some_and(newer) {
                return Reaction::NewSyn(self.snd_nxt.wrapping_add(65_535 + 2).max(1));
            }
        }
        if flags.rst() {
            return Reaction::Nothing;
        }
        if older || flags.ack() {
            self.until = clock.now + LENGTH;
        }
        if !self.limit.allows(clock.now) {
            return Reaction::Nothing;
        }
        let mut answer = Segment::bare(Flags::ACK, self.snd_nxt, self.rcv_nxt);
        answer.window = self.window;
        answer.timestamps =
            self.recent.map(|echo| Timestamps { value: clock.secrets.timestamp(self.flow, clock.now), echo });
        Reaction::Answer(answer)
    }
}
