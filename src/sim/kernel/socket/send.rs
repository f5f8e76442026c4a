//! What a socket sends, and sends again (Linux: `tcp_write_xmit`, `tcp_retransmit_timer`, `tcp_probe_timer`).

use std::time::Duration;

use super::{Fate, Socket, State};
use crate::frame::tcp::{Flags, Timestamps};
use crate::sim::kernel::{Context, End};
use crate::sim::segment::{MSS, Segment};

/// The longest (Linux: `TCP_RTO_MAX`).
const RTO_MAX: Duration = Duration::from_secs(120);
/// Linux: `tcp_retries2`.
const RETRIES: u32 = 15;
/// Linux: `tcp_syn_retries`, and how many of its timeouts do not double: `tcp_syn_linear_timeouts`.
const SYN_RETRIES: u32 = 6;
const SYN_LINEAR: u32 = 4;

impl Socket {
    /// Sends what may be sent.
    pub(super) fn transmit(&mut self, cx: &mut Context<'_>) {
        if self.state == State::SynSent {
            return;
        }
        while !self.fin_sent {
            let sent = self.nxt.wrapping_sub(self.una) as usize;
            let unsent = self.buffer.len() - sent;
            let room = (self.peer_window as usize).saturating_sub(sent);
            let len = unsent.min(MSS).min(room);
            if len > 0 {
                self.send_data(sent, len, cx);
                self.timed.get_or_insert((self.nxt.wrapping_add(len as u32), cx.clock.now));
                self.nxt = self.nxt.wrapping_add(len as u32);
            } else if unsent == 0 && self.closing {
                let fin = self.segment(Flags::FIN | Flags::ACK, self.nxt, cx);
                cx.sent.push((self.flow, fin));
                self.nxt = self.nxt.wrapping_add(1);
                self.fin_sent = true;
            } else {
                break;
            }
        }
        let waits = self.una != self.nxt || !self.buffer.is_empty();
        if waits && self.timer.is_none() {
            self.timer = Some(cx.clock.now + self.rto);
        }
    }

    /// The first segment that is not acknowledged, again.
    pub(super) fn retransmit(&mut self, cx: &mut Context<'_>) {
        self.retransmits += 1;
        self.timed = None; // Karn's algorithm
        let sent = (self.nxt.wrapping_sub(self.una) as usize).min(self.buffer.len());
        if sent > 0 {
            self.send_data(0, sent.min(MSS), cx);
        } else if self.fin_sent {
            let fin = self.segment(Flags::FIN | Flags::ACK, self.una, cx);
            cx.sent.push((self.flow, fin));
        }
    }

    /// A timer has run out.
    pub fn timeout(&mut self, cx: &mut Context<'_>) -> Fate {
        let now = cx.clock.now;
        if let Some((every, at)) = &mut self.keep_alive
            && *at <= now
        {
            *at = now + *every;
            if self.is_synchronized() && !self.is_sending() && !self.fin_sent {
                // A sequence number that the peer has had (Linux: tcp_write_wakeup).
                let probe = self.segment(Flags::ACK, self.nxt.wrapping_sub(1), cx);
                cx.sent.push((self.flow, probe));
            }
        }
        if self.timer.is_some_and(|at| at <= now) { self.retransmission_timeout(cx) } else { Fate::Lives }
    }

    fn retransmission_timeout(&mut self, cx: &mut Context<'_>) -> Fate {
        self.timer = None;
        if self.state == State::FinWait2 {
            return Fate::Ends(End::Finished);
        }
        let waits = self.una != self.nxt || !self.buffer.is_empty();
        if !waits {
            return Fate::Lives;
        }
        self.retries += 1;
        let syn_sent = self.state == State::SynSent;
        if self.retries > if syn_sent { SYN_RETRIES + SYN_LINEAR } else { RETRIES } {
            return Fate::Ends(End::TimedOut);
        }
        if syn_sent {
            self.retransmits += 1;
            self.send_syn(cx);
        } else if self.una == self.nxt {
            // A window probe (Linux: tcp_xmit_probe_skb).
            let probe = self.segment(Flags::ACK, self.una.wrapping_sub(1), cx);
            cx.sent.push((self.flow, probe));
        } else {
            self.recover = Some(self.nxt);
            self.retransmit(cx);
        }
        if !syn_sent || self.retries > SYN_LINEAR {
            self.rto = (self.rto * 2).min(RTO_MAX);
        }
        self.timer = Some(cx.clock.now + self.rto);
        Fate::Lives
    }

    pub(super) fn send_syn(&mut self, cx: &mut Context<'_>) {
        self.nxt = self.iss.wrapping_add(1);
        let mut syn = self.segment(Flags::SYN, self.iss, cx);
        syn.ack = 0;
        cx.sent.push((self.flow, syn));
    }

    pub(super) fn send_ack(&mut self, cx: &mut Context<'_>) {
        let ack = self.segment(Flags::ACK, self.nxt, cx);
        cx.sent.push((self.flow, ack));
    }

    fn send_data(&mut self, at: usize, len: usize, cx: &mut Context<'_>) {
        let mut segment = self.segment(Flags::ACK, self.una.wrapping_add(at as u32), cx);
        segment.data = self.buffer.range(at..at + len).copied().collect();
        cx.sent.push((self.flow, segment));
    }

    pub(super) fn segment(&self, flags: u8, seq: u32, cx: &Context<'_>) -> Segment {
        let mut segment = Segment::bare(flags, seq, self.inbox.next);
        segment.window = self.window();
        segment.timestamps = self.stamped.then(|| Timestamps {
            value: cx.clock.secrets.timestamp(self.flow, cx.clock.now),
            echo: self.recent.unwrap_or(0),
        });
        segment
    }
}
