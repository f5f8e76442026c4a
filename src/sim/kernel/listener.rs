//! Listeners: from a SYN to a request or a cookie, from the handshake's last ACK to a connection that waits to be
//! accepted (Linux: `tcp_conn_request`, `cookie_v4_check`, `tcp_v4_syn_recv_sock`).

use std::collections::VecDeque;
use std::time::Duration;

use super::request::Request;
use super::socket::Socket;
use super::{Context, Entry, Kernel, Signal};
use crate::frame::tcp::{Flags, Timestamps};
use crate::sim::segment::{Flow, Segment};
use crate::time::Time;

/// How long after the last cookie one is accepted (Linux: `TCP_SYNCOOKIE_VALID`).
const COOKIES_FOR: Duration = Duration::from_secs(120);

/// The lower bits of a cookie's timestamp that carry options (Linux: `TSBITS`).
const COOKIE_STAMP: u32 = 0x3f;

/// A listening socket.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The most requests, and the most connections that wait to be accepted (Linux: `sk_max_ack_backlog`).
    pub backlog: usize,
    /// Whether a full queue of requests turns to SYN cookies (Linux: `tcp_syncookies` 1) or drops.
    pub cookies: bool,
    requests: usize,
    waiting: VecDeque<Flow>,
    cookie_sent: Option<Time>,
}

impl Listener {
    /// With a backlog, and cookies beyond it or not.
    pub fn new(backlog: usize, cookies: bool) -> Listener {
        Listener { backlog, cookies, requests: 0, waiting: VecDeque::new(), cookie_sent: None }
    }

    /// Requests now.
    pub fn requests(&self) -> usize {
        self.requests
    }

    pub(super) fn accept(&mut self) -> Option<Flow> {
        self.waiting.pop_front()
    }

    pub(super) fn has(&self, flow: Flow) -> bool {
        self.waiting.contains(&flow)
    }

    /// Linux: `sk_acceptq_is_full`.
    pub fn is_full(&self) -> bool {
        self.waiting.len() > self.backlog
    }
}

impl Kernel {
    /// A port's listener.
    pub fn listener(&self, port: u16) -> Option<&Listener> {
        self.listeners.get(&port)
    }

    /// Whether a SYN of this connection was answered with this cookie: then only a segment right after the SYN proves
    /// it, and Linux resets the connection if another one arrives first.
    pub fn sent_cookie(&self, flow: Flow, isn: u32) -> bool {
        self.cookies.contains(&(flow, isn))
    }

    /// A segment without a socket of its own. `isn`: the one that a TIME_WAIT wants for its successor.
    pub(super) fn at_listener(&mut self, flow: Flow, segment: Segment, isn: Option<u32>, now: Time) {
        let flags = segment.flags;
        let Some(listener) = self.listeners.get(&flow.local.port()) else {
            return self.sent.extend(segment.reset().map(|reset| (flow, reset)));
        };
        if flags.rst() {
            return;
        }
        if flags.ack() {
            let (client_isn, cookie) = (segment.seq.wrapping_sub(1), segment.ack.wrapping_sub(1));
            let expected = listener.cookie_sent.is_some_and(|sent| now.since(sent) < COOKIES_FOR);
            if expected && !flags.syn() && self.secrets.is_cookie(flow, client_isn, cookie, now) {
                let recent = segment.timestamps.map(|stamps| stamps.value);
                return self.complete(flow, cookie, client_isn, recent, segment, now);
            }
            return self.sent.extend(segment.reset().map(|reset| (flow, reset)));
        }
        if flags.syn() && !flags.fin() {
            self.answer_syn(flow, &segment, isn, now);
        }
    }

    /// Linux: `tcp_conn_request`.
    fn answer_syn(&mut self, flow: Flow, syn: &Segment, isn: Option<u32>, now: Time) {
        let (clock, secrets) = (self.clock(now), self.secrets);
        let Some(listener) = self.listeners.get_mut(&flow.local.port()) else { return };
        let crowded = listener.requests >= listener.backlog && isn.is_none();
        if listener.is_full() || (crowded && !listener.cookies) {
            return;
        }
        if crowded {
            listener.cookie_sent = Some(now);
            let isn = secrets.cookie(flow, syn.seq, now);
            self.cookies.insert((flow, isn));
            let mut answer = Segment::bare(Flags::SYN | Flags::ACK, isn, syn.seq.wrapping_add(1));
            answer.window = u16::MAX;
            answer.timestamps = syn
                .timestamps
                .map(|theirs| Timestamps { value: secrets.timestamp(flow, now) & !COOKIE_STAMP, echo: theirs.value });
            return self.sent.push((flow, answer));
        }
        let isn = isn.unwrap_or_else(|| secrets.isn(flow, now));
        let mut request = Request::new(flow, syn, isn, now);
        self.sent.push((flow, request.syn_ack(clock)));
        listener.requests += 1;
        self.entries.insert(flow, Entry::Request(request));
    }

    /// The handshake is complete, unless the accept queue is full: then the request goes on asking.
    pub(super) fn complete(
        &mut self,
        flow: Flow,
        isn: u32,
        client_isn: u32,
        recent: Option<u32>,
        segment: Segment,
        now: Time,
    ) {
        let clock = self.clock(now);
        let Some(listener) = self.listeners.get_mut(&flow.local.port()) else {
            self.forget(flow);
            return self.sent.extend(segment.reset().map(|reset| (flow, reset)));
        };
        if listener.is_full() {
            return;
        }
        listener.waiting.push_back(flow);
        self.drop_request(flow);
        self.signals.push_back((flow, Signal::Acceptable));
        let mut socket = Socket::accepted(flow, isn, client_isn, recent, &segment);
        let fate = socket.receive(segment, &mut Context { clock, sent: &mut self.sent, signals: &mut self.signals });
        self.entries.insert(flow, Entry::Socket(Box::new(socket)));
        self.settle(flow, fate, now);
    }

    /// Removes a request, and its place in the listener's queue.
    pub(super) fn drop_request(&mut self, flow: Flow) {
        if matches!(self.entries.get(&flow), Some(Entry::Request(_))) {
            self.forget(flow);
            if let Some(listener) = self.listeners.get_mut(&flow.local.port()) {
                listener.requests = listener.requests.saturating_sub(1);
            }
        }
    }
}
