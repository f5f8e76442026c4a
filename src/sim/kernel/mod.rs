//! A machine's TCP/IP stack, as far as it matters here: one for every client and one for every member's host.
//!
//! It takes frames and gives frames, with its applications it talks by [`Signal`]s and calls, and it can be asked what
//! `sock_diag` (netlink) tells: which sockets there are, which have ended, and to end one. Names in comments are
//! Linux's.
//!
//! ```text
//! frame → neighbours (ARP) | demultiplex → socket | request | time_wait | listener → segments → neighbours → frame
//! ```

mod listener;
mod neighbours;
mod receive;
mod request;
mod secrets;
mod socket;
mod time_wait;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::frame::Mac;
use crate::frame::ethernet::{self, Ethernet};
use crate::sim::segment::{Flow, Segment};
use crate::time::Time;
pub use listener::Listener;
pub use neighbours::GATEWAY;
use neighbours::Neighbours;
use request::Request;
pub use secrets::Secrets;
pub use socket::{Fate, Socket, State};
use time_wait::TimeWait;

/// Announcements that a reader's buffer holds.
const ANNOUNCED_MAX: usize = 256;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Both sides closed.
    Finished,
    /// The peer sent a RST.
    Reset,
    /// The peer answered the SYN by a RST.
    Refused,
    /// Nobody answered.
    TimedOut,
    /// Ended on this machine: aborted, or by `SOCK_DESTROY`.
    Aborted,
}

/// What an application is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `connect` is done.
    Connected,
    /// A listener has a connection to accept.
    Acceptable,
    /// There is data to read, or the end of it.
    Readable,
    /// All that was to be sent has arrived.
    Sent,
    /// The connection is over.
    Ended(End),
}

/// What `sock_diag` knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request socket.
    HalfOpen,
    /// A socket.
    Live,
    /// A TIME_WAIT.
    TimeWait,
}

/// What is random and what moves on a machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineClock {
    /// The time.
    pub now: Time,
    /// The secret.
    pub secrets: Secrets,
}

/// What a socket acts with.
pub struct Context<'a> {
    /// The machine's clock and secret.
    pub clock: MachineClock,
    /// Where segments to be sent go.
    pub sent: &'a mut Vec<(Flow, Segment)>,
    /// Where signals for the application go.
    pub signals: &'a mut VecDeque<(Flow, Signal)>,
}

#[derive(Debug)]
enum Entry {
    Request(Request),
    Socket(Box<Socket>),
    TimeWait(TimeWait),
}

impl Entry {
    fn timer(&self) -> Option<Time> {
        match self {
            Entry::Request(request) => Some(request.timer),
            Entry::Socket(socket) => socket.deadline(),
            Entry::TimeWait(bucket) => Some(bucket.until),
        }
    }
}

/// A machine's stack.
#[derive(Debug)]
pub struct Kernel {
    addresses: Vec<Ipv4Addr>,
    secrets: Secrets,
    neighbours: Neighbours,
    entries: BTreeMap<Flow, Entry>,
    /// Each entry's timer, and the same by flow.
    timers: BTreeSet<(Time, Flow)>,
    armed: BTreeMap<Flow, Time>,
    listeners: BTreeMap<u16, Listener>,
    /// What sockets that are gone had received, and nobody has read.
    unread: BTreeMap<Flow, Vec<u8>>,
    /// Cookies sent, with the connections they were for: no kernel remembers them, but a judge has to.
    cookies: BTreeSet<(Flow, u32)>,
    /// Connections of which a TIME_WAIT was left at some time, again for a judge.
    time_waits: BTreeSet<Flow>,
    sent: Vec<(Flow, Segment)>,
    /// Frames to be sent.
    pub frames: Vec<Vec<u8>>,
    /// What applications are told, oldest first.
    pub signals: VecDeque<(Flow, Signal)>,
    /// Sockets that have ended, as `sock_diag` announces them (`sock_diag_broadcast_destroy`: at the end of a socket,
    /// also where a TIME_WAIT is left; not of requests, not of TIME_WAITs).
    pub announced: Announced,
}

/// Announcements that nobody has read yet.
#[derive(Debug, Default)]
pub struct Announced {
    /// Oldest first.
    pub ended: VecDeque<Flow>,
    /// Whether there were more than the reader's buffer holds (netlink: `ENOBUFS`).
    pub lost: bool,
}

impl Announced {
    /// Whether there is anything to read.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && !self.lost
    }

    fn push(&mut self, flow: Flow) {
        if self.ended.len() < ANNOUNCED_MAX {
            self.ended.push_back(flow);
        } else {
            self.lost = true;
        }
    }
}

impl Kernel {
    /// A machine with this MAC and these addresses.
    pub fn new(mac: Mac, addresses: &[Ipv4Addr], secrets: Secrets) -> Kernel {
        Kernel {
            addresses: addresses.to_vec(),
            secrets,
            neighbours: Neighbours::new(mac),
            entries: BTreeMap::new(),
            timers: BTreeSet::new(),
            armed: BTreeMap::new(),
            listeners: BTreeMap::new(),
            unread: BTreeMap::new(),
            cookies: BTreeSet::new(),
            time_waits: BTreeSet::new(),
            sent: Vec::new(),
            frames: Vec::new(),
            signals: VecDeque::new(),
            announced: Announced::default(),
        }
    }

    /// Opens or changes a listener.
    pub fn listen(&mut self, port: u16, listener: Listener) {
        self.listeners.insert(port, listener);
    }

    /// Closes a listener (Linux: `inet_csk_listen_stop`): its requests are gone, connections that nobody has accepted
    /// are reset, SYNs to its port are refused.
    pub fn unlisten(&mut self, port: u16, now: Time) {
        while let Some(flow) = self.accept(port) {
            self.destroy(flow, now);
        }
        self.listeners.remove(&port);
        let of_port = |(flow, entry): (&Flow, &Entry)| {
            (flow.local.port() == port && matches!(entry, Entry::Request(_))).then_some(*flow)
        };
        let requests: Vec<Flow> = self.entries.iter().filter_map(of_port).collect();
        requests.into_iter().for_each(|flow| self.forget(flow));
    }

    /// The next connection that waits to be accepted.
    pub fn accept(&mut self, port: u16) -> Option<Flow> {
        self.listeners.get_mut(&port)?.accept()
    }

    /// Begins a connection; one that this machine had with the same ends is forgotten without a word.
    pub fn connect(&mut self, flow: Flow, stamped: bool, now: Time) {
        self.forget(flow);
        self.unread.remove(&flow);
        let socket = Socket::connect(flow, stamped, &mut self.context(now));
        self.entries.insert(flow, Entry::Socket(Box::new(socket)));
        self.after(flow, now);
    }

    /// Forgets a connection, as a machine does that restarts.
    pub fn forget(&mut self, flow: Flow) {
        self.entries.remove(&flow);
        self.rearm(flow);
    }

    /// A connection's socket, if there is a full one.
    pub fn socket(&self, flow: Flow) -> Option<&Socket> {
        match self.entries.get(&flow)? {
            Entry::Socket(socket) => Some(socket),
            _ => None,
        }
    }

    /// Reads what has arrived, also after the end.
    pub fn read(&mut self, flow: Flow, now: Time) -> Vec<u8> {
        let read = self.with_socket(flow, now, |socket, cx| socket.read(cx));
        read.or_else(|| self.unread.remove(&flow)).unwrap_or_default()
    }

    /// Sends data.
    pub fn send(&mut self, flow: Flow, data: &[u8], now: Time) {
        self.with_socket(flow, now, |socket, cx| socket.send(data, cx));
    }

    /// Closes our direction of a connection.
    pub fn close(&mut self, flow: Flow, now: Time) {
        self.with_socket(flow, now, |socket, cx| socket.close(cx));
    }

    /// Ends a connection with a RST (`SO_LINGER` of 0, or `SOCK_DESTROY`: `tcp_abort`). False if there is none.
    pub fn destroy(&mut self, flow: Flow, now: Time) -> bool {
        if self.with_socket(flow, now, |socket, cx| socket.abort(cx)).is_some() {
            self.end(flow, End::Aborted);
            return true;
        }
        let known = self.entries.contains_key(&flow);
        self.drop_request(flow);
        self.forget(flow);
        known
    }

    /// Ends a connection as an application does that closes it with an `SO_LINGER` of 0. It is announced without its
    /// client's address, which tells nothing.
    pub fn abort(&mut self, flow: Flow, now: Time) {
        if self.with_socket(flow, now, |socket, cx| socket.abort(cx)).is_some() {
            self.forget(flow);
            self.signals.push_back((flow, Signal::Ended(End::Aborted)));
        }
    }

    /// Has a socket ask its peer, after this long without a word from it, whether it is still there (`SO_KEEPALIVE`).
    pub fn keep_alive(&mut self, flow: Flow, every: Duration, now: Time) {
        self.with_socket(flow, now, |socket, cx| socket.keep_alive(every, cx));
    }

    /// What there is of a connection, asked for exactly.
    pub fn query(&self, flow: Flow) -> Option<Kind> {
        self.entries.get(&flow).map(kind)
    }

    /// Whether a TIME_WAIT was left of a connection at some time, which may have ended since.
    pub fn had_time_wait(&self, flow: Flow) -> bool {
        self.time_waits.contains(&flow)
    }

    /// All connections.
    pub fn dump(&self) -> impl Iterator<Item = (Flow, Kind)> {
        self.entries.iter().map(|(flow, entry)| (*flow, kind(entry)))
    }

    /// The client's initial sequence number of a request.
    pub fn request(&self, flow: Flow) -> Option<u32> {
        match self.entries.get(&flow)? {
            Entry::Request(request) => Some(request.client_isn),
            _ => None,
        }
    }

    /// Whether a connection waits to be accepted.
    pub fn is_queued(&self, flow: Flow) -> bool {
        self.listeners.get(&flow.local.port()).is_some_and(|listener| listener.has(flow))
    }

    /// When [`Kernel::wake`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.neighbours.deadline()).min()
    }

    /// Runs the timers that are due.
    pub fn wake(&mut self, now: Time) {
        self.neighbours.wake(now, &mut self.frames);
        while let Some(&(at, flow)) = self.timers.first()
            && at <= now
        {
            self.timeout(flow, now);
            self.after(flow, now);
        }
    }

    /// A frame from the network.
    pub fn receive(&mut self, frame: &[u8], now: Time) {
        let Some(header) = Ethernet::parse(frame) else { return };
        if header.ethertype == ethernet::ARP {
            return self.neighbours.receive(frame, &self.addresses, &mut self.frames);
        }
        let Some((flow, segment)) = Segment::parse(frame) else { return };
        if self.addresses.contains(flow.local.ip()) {
            self.demultiplex(flow, segment, now);
            self.after(flow, now);
        }
    }

    /// Linux: `tcp_v4_rcv`.
    fn demultiplex(&mut self, flow: Flow, segment: Segment, now: Time) {
        let clock = self.clock(now);
        match self.entries.get_mut(&flow) {
            Some(Entry::Socket(socket)) => {
                let mut cx = Context { clock, sent: &mut self.sent, signals: &mut self.signals };
                let fate = socket.receive(segment, &mut cx);
                self.settle(flow, fate, now);
            }
            Some(Entry::TimeWait(bucket)) => match bucket.receive(&segment, clock) {
                time_wait::Reaction::Nothing => {}
                time_wait::Reaction::Answer(answer) => self.sent.push((flow, answer)),
                time_wait::Reaction::Killed => self.forget(flow),
                time_wait::Reaction::NewSyn(isn) => {
                    if self.listeners.contains_key(&flow.local.port()) {
                        self.forget(flow);
                        self.at_listener(flow, segment, Some(isn), now);
                    }
                }
            },
            Some(Entry::Request(request)) => match request.receive(&segment, clock) {
                request::Reaction::Nothing => {}
                request::Reaction::Answer(answer) => self.sent.push((flow, answer)),
                request::Reaction::Gone(answer) => {
                    self.sent.extend(answer.map(|answer| (flow, answer)));
                    self.drop_request(flow);
                }
                request::Reaction::Listener => self.at_listener(flow, segment, None, now),
                request::Reaction::Complete => {
                    let (isn, client_isn, recent) = (request.isn, request.client_isn, request.peer_timestamp());
                    self.complete(flow, isn, client_isn, recent, segment, now);
                }
            },
            None => self.at_listener(flow, segment, None, now),
        }
    }

    fn timeout(&mut self, flow: Flow, now: Time) {
        let clock = self.clock(now);
        match self.entries.get_mut(&flow) {
            Some(Entry::Socket(socket)) => {
                let mut cx = Context { clock, sent: &mut self.sent, signals: &mut self.signals };
                let fate = socket.timeout(&mut cx);
                self.settle(flow, fate, now);
            }
            Some(Entry::Request(request)) => match request.timeout(clock) {
                Some(answer) => self.sent.push((flow, answer)),
                None => self.drop_request(flow),
            },
            Some(Entry::TimeWait(_)) | None => self.forget(flow),
        }
    }

    fn settle(&mut self, flow: Flow, fate: Fate, now: Time) {
        match fate {
            Fate::Lives => {}
            Fate::Ends(end) => self.end(flow, end),
            Fate::TimeWait => {
                let Some(Entry::Socket(socket)) = self.entries.get(&flow) else { return };
                let bucket = TimeWait::of(socket, now);
                self.end(flow, End::Finished);
                self.entries.insert(flow, Entry::TimeWait(bucket));
                self.time_waits.insert(flow);
            }
        }
    }

    fn end(&mut self, flow: Flow, end: End) {
        if let Some(Entry::Socket(socket)) = self.entries.get_mut(&flow) {
            self.unread.insert(flow, socket.leave());
        }
        if let Some(listener) = self.listeners.get_mut(&flow.local.port()) {
            listener.give_up(flow);
        }
        self.forget(flow);
        self.announced.push(flow);
        self.signals.push_back((flow, Signal::Ended(end)));
    }

    fn with_socket<T>(
        &mut self,
        flow: Flow,
        now: Time,
        act: impl FnOnce(&mut Socket, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let clock = self.clock(now);
        let Some(Entry::Socket(socket)) = self.entries.get_mut(&flow) else { return None };
        let mut cx = Context { clock, sent: &mut self.sent, signals: &mut self.signals };
        let result = act(socket, &mut cx);
        self.after(flow, now);
        Some(result)
    }

    /// Sends what was made, and sets the flow's timer.
    fn after(&mut self, flow: Flow, now: Time) {
        self.rearm(flow);
        for (flow, segment) in self.sent.drain(..) {
            self.neighbours.send(flow, segment, now, &mut self.frames);
        }
    }

    fn rearm(&mut self, flow: Flow) {
        let timer = self.entries.get(&flow).and_then(Entry::timer);
        let was = match timer {
            Some(at) => self.armed.insert(flow, at),
            None => self.armed.remove(&flow),
        };
        if was != timer {
            was.map(|at| self.timers.remove(&(at, flow)));
            timer.map(|at| self.timers.insert((at, flow)));
        }
    }

    fn clock(&self, now: Time) -> MachineClock {
        MachineClock { now, secrets: self.secrets }
    }

    fn context(&mut self, now: Time) -> Context<'_> {
        Context { clock: self.clock(now), sent: &mut self.sent, signals: &mut self.signals }
    }
}

fn kind(entry: &Entry) -> Kind {
    match entry {
        Entry::Request(_) => Kind::HalfOpen,
        Entry::Socket(_) => Kind::Live,
        Entry::TimeWait(_) => Kind::TimeWait,
    }
}
