//! What a kernel draws from its own secret: initial sequence numbers, timestamp offsets, SYN cookies. Every simulated
//! machine has its own, as machines do.

use std::time::Duration;

use crate::sim::segment::Flow;
use crate::time::Time;

/// Half-steps of a SYN cookie's counter (Linux: `TCP_SYNCOOKIE_PERIOD`).
const COOKIE_PERIOD: u64 = 60;

/// A machine's secret.
#[derive(Clone, Copy, Debug)]
pub struct Secrets(pub u64);

impl Secrets {
    /// The initial sequence number of a connection that begins now: a keyed hash of its ends plus a clock of 64 ns
    /// (RFC 6528; Linux: `secure_tcp_seq`, `seq_scale`).
    pub fn isn(self, flow: Flow, now: Time) -> u32 {
        (self.keyed(flow, 1) as u32).wrapping_add((now.as_nanos() >> 6) as u32)
    }

    /// The timestamp clock towards a peer: milliseconds, plus an offset per pair of addresses (Linux:
    /// `secure_tcp_ts_off`).
    pub fn timestamp(self, flow: Flow, now: Time) -> u32 {
        let pair = u64::from(flow.local.ip().to_bits()) << 32 | u64::from(flow.remote.ip().to_bits());
        (mix(self.0 ^ mix(pair ^ 2)) as u32).wrapping_add(now.as_millis() as u32)
    }

    /// The ISN of a SYN-ACK that nothing is kept for (Linux: `secure_tcp_syn_cookie`).
    pub fn cookie(self, flow: Flow, client_isn: u32, now: Time) -> u32 {
        self.cookie_of(flow, client_isn, now.as_secs() / COOKIE_PERIOD)
    }

    /// Whether an acknowledgment proves a cookie of the last two minutes (Linux: `__cookie_v4_check`).
    pub fn is_cookie(self, flow: Flow, client_isn: u32, cookie: u32, now: Time) -> bool {
        let period = now.as_secs() / COOKIE_PERIOD;
        (0..2).any(|back| self.cookie_of(flow, client_isn, period.wrapping_sub(back)) == cookie)
    }

    fn cookie_of(self, flow: Flow, client_isn: u32, period: u64) -> u32 {
        (mix(self.keyed(flow, 3) ^ period) as u32).wrapping_add(client_isn)
    }

    fn keyed(self, flow: Flow, purpose: u64) -> u64 {
        let addresses = u64::from(flow.local.ip().to_bits()) << 32 | u64::from(flow.remote.ip().to_bits());
        let ports = u64::from(flow.local.port()) << 16 | u64::from(flow.remote.port());
        mix(self.0 ^ mix(addresses ^ mix(ports ^ purpose << 40)))
    }
}

/// The finaliser of SplitMix64: enough for numbers that nobody here attacks.
fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Between two ACKs to segments that should not have come, per socket (Linux: `tcp_invalid_ratelimit`).
const CHALLENGE_EVERY: Duration = Duration::from_millis(500);

/// Limits ACKs to segments that are out of place (RFC 5961, 10; Linux: `tcp_oow_rate_limited`).
#[derive(Clone, Copy, Debug, Default)]
pub struct ChallengeLimit(Option<Time>);

impl ChallengeLimit {
    /// Whether another may be sent now.
    pub fn allows(&mut self, now: Time) -> bool {
        let allowed = self.0.is_none_or(|last| now.since(last) >= CHALLENGE_EVERY);
        if allowed {
            self.0 = Some(now);
        }
        allowed
    }
}
