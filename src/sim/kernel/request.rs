//! Half-open connections: a listener's request sockets, as Linux's `tcp_check_req` has them.

use std::time::Duration;

use super::MachineClock;
use super::secrets::ChallengeLimit;
use crate::frame::tcp::{Flags, Timestamps};
use crate::sim::segment::{Flow, Segment, after, before, in_window};
use crate::time::Time;

/// The first SYN-ACK's patience (Linux: `TCP_TIMEOUT_INIT`).
const TIMEOUT: Duration = Duration::from_secs(1);

/// How often a SYN-ACK is repeated (Linux: `tcp_synack_retries`).
const RETRIES: u32 = 5;

/// A request socket: a SYN was answered, nobody has confirmed it.
#[derive(Clone, Debug)]
pub struct Request {
    flow: Flow,
    /// The client's ISN.
    pub client_isn: u32,
    /// Ours.
    pub isn: u32,
    /// The client's last timestamp.
    recent: Option<u32>,
    /// Our timestamps in the first and in the last SYN-ACK.
    sent_stamps: Option<(u32, u32)>,
    timeouts: u32,
    limit: ChallengeLimit,
    /// When the SYN-ACK is repeated, or the request given up.
    pub timer: Time,
}

/// What a segment does to a request.
#[derive(Debug, PartialEq)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// This is sent.
    Answer(Segment),
    /// The request is gone, and this is sent.
    Gone(Option<Segment>),
    /// The listener looks at the segment.
    Listener,
    /// The handshake is complete.
    Complete,
}

impl Request {
    /// For a SYN, answered with `isn`.
    pub fn new(flow: Flow, syn: &Segment, isn: u32, now: Time) -> Request {
        Request {
            flow,
            client_isn: syn.seq,
            isn,
            recent: syn.timestamps.map(|stamps| stamps.value),
            sent_stamps: None,
            timeouts: 0,
            limit: ChallengeLimit::default(),
            timer: now + TIMEOUT,
        }
    }

    /// The SYN-ACK as it is sent now.
    pub fn syn_ack(&mut self, clock: MachineClock) -> Segment {
        let mut answer = self.segment(Flags::SYN | Flags::ACK, self.isn, clock);
        if let Some(stamps) = answer.timestamps {
            let (first, _) = self.sent_stamps.unwrap_or((stamps.value, stamps.value));
            self.sent_stamps = Some((first, stamps.value));
        }
        answer.window = u16::MAX;
        answer
    }

    /// The client's last timestamp.
    pub fn peer_timestamp(&self) -> Option<u32> {
        self.recent
    }

    /// Its timer ran out (Linux: `reqsk_timer_handler`): the SYN-ACK again, or nothing any more.
    pub fn timeout(&mut self, clock: MachineClock) -> Option<Segment> {
        if self.timeouts >= RETRIES {
            return None;
        }
        self.timeouts += 1;
        self.timer = clock.now + TIMEOUT * (1 << self.timeouts);
        Some(self.syn_ack(clock))
    }

    /// A segment for it.
    pub fn receive(&mut self, segment: &Segment, clock: MachineClock) -> Reaction {
        let flags = segment.flags;
        let older = match (segment.timestamps, self.recent) {
            (Some(stamps), Some(recent)) => after(recent, stamps.value) && !flags.rst(),
            _ => false,
        };
        if segment.seq == self.client_isn && flags.syn() && !flags.ack() && !flags.rst() && !older {
            // A SYN retransmitted; its timer starts anew with the answer.
            if !self.limit.allows(clock.now) {
                return Reaction::Nothing;
            }
            self.timer = clock.now + TIMEOUT * (1 << self.timeouts);
            return Reaction::Answer(self.syn_ack(clock));
        }
        if flags.ack() && segment.ack != self.isn.wrapping_add(1) {
            return Reaction::Listener;
        }
        // The echo must be of a SYN-ACK of ours (since Linux 6.15).
        let odd_echo = match (segment.timestamps, self.sent_stamps) {
            (Some(stamps), Some((first, last))) if stamps.echo != 0 && flags.ack() => {
                before(stamps.echo, first) || after(stamps.echo, last)
            }
            _ => false,
        };
        let next = self.client_isn.wrapping_add(1);
        if older || odd_echo || !in_window(segment, next, next.wrapping_add(u32::from(u16::MAX))) {
            if flags.rst() || !self.limit.allows(clock.now) {
                return Reaction::Nothing;
            }
            return Reaction::Answer(self.segment(Flags::ACK, self.isn.wrapping_add(1), clock));
        }
        if let Some(stamps) = segment.timestamps
            && !after(segment.seq, next)
        {
            self.recent = Some(stamps.value);
        }
        // A SYN at the client's ISN is cut off; any other in the window ends the attempt, as a RST does.
        if flags.rst() {
            return Reaction::Gone(None);
        }
        if flags.syn() && segment.seq != self.client_isn {
            return Reaction::Gone(segment.reset());
        }
        if flags.ack() { Reaction::Complete } else { Reaction::Nothing }
    }

    fn segment(&self, flags: u8, seq: u32, clock: MachineClock) -> Segment {
        let mut segment = Segment::bare(flags, seq, self.client_isn.wrapping_add(1));
        segment.window = u16::MAX;
        segment.timestamps =
            self.recent.map(|echo| Timestamps { value: clock.secrets.timestamp(self.flow, clock.now), echo });
        segment
    }
}
