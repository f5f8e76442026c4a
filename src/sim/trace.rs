//! What happened, kept as long as there is room, and told for one connection when something went wrong.

use std::collections::VecDeque;
use std::fmt;

use super::segment::Flow;
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::tcp::{Flags, Segment, Timestamps};
use crate::time::Time;

/// Lines kept.
const LINES: usize = 1 << 16;

/// Lines told of one connection.
const TOLD: usize = 300;

/// A machine, as a trace names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A client machine.
    Client(usize),
    /// A member's baton.
    Member(usize),
    /// A member's host.
    Host(usize),
    /// A machine of no part in the cluster.
    Stranger(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Client(index) => write!(f, "client {}", index + 1),
            Place::Member(index) => write!(f, "s{}", index + 1),
            Place::Host(index) => write!(f, "host {}", index + 1),
            Place::Stranger(index) => write!(f, "stranger {}", index + 1),
        }
    }
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The connection, as its sender sees it.
    pub flow: Flow,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// The timestamps option.
    pub timestamps: Option<Timestamps>,
    /// Bytes of data.
    pub data_len: usize,
}

impl Glance {
    /// At a frame, if it holds a segment. Its checksum is not looked at.
    pub fn at(frame: &[u8]) -> Option<Glance> {
        let packet = Ipv4::parse(frame).ok()?;
        if packet.protocol() != ipv4::TCP || packet.is_fragment() {
            return None;
        }
        let segment = Segment::parse(&packet).ok()?;
        let flow = Flow {
            local: std::net::SocketAddrV4::new(segment.source(), segment.source_port()),
            remote: std::net::SocketAddrV4::new(segment.destination(), segment.destination_port()),
        };
        Some(Glance {
            flow,
            seq: segment.seq(),
            ack: segment.ack(),
            flags: segment.flags(),
            timestamps: segment.timestamps(),
            data_len: segment.data_len(),
        })
    }
}

impl fmt::Display for Glance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, letter) in
            [(self.flags.syn(), 'S'), (self.flags.fin(), 'F'), (self.flags.rst(), 'R'), (self.flags.ack(), '.')]
        {
            if set {
                write!(f, "{letter}")?;
            }
        }
        write!(f, " seq {}", self.seq)?;
        if self.flags.ack() {
            write!(f, " ack {}", self.ack)?;
        }
        if self.data_len > 0 {
            write!(f, " data {}", self.data_len)?;
        }
        match self.timestamps {
            Some(stamps) => write!(f, " ts {}/{}", stamps.value, stamps.echo),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Debug)]
enum What {
    Sent(Place, Glance),
    Received(Place, Glance),
    Note(String),
}

#[derive(Clone, Debug)]
struct Line {
    at: Time,
    /// As its client sees it.
    flow: Option<Flow>,
    what: What,
}

/// The lines of a run.
#[derive(Debug, Default)]
pub struct Trace {
    lines: VecDeque<Line>,
    /// When the run began.
    start: Time,
    /// Whether nothing is added any more.
    frozen: bool,
}

impl Trace {
    /// An empty one; its times count from `start`.
    pub fn new(start: Time) -> Trace {
        Trace { lines: VecDeque::new(), start, frozen: false }
    }

    /// A machine sends a segment of the flow that its client sees so.
    pub fn sent(&mut self, at: Time, place: Place, client_flow: Flow, glance: Glance) {
        self.push(Line { at, flow: Some(client_flow), what: What::Sent(place, glance) });
    }

    /// A machine receives one.
    pub fn received(&mut self, at: Time, place: Place, client_flow: Flow, glance: Glance) {
        self.push(Line { at, flow: Some(client_flow), what: What::Received(place, glance) });
    }

    /// Anything else; of a connection, or of all.
    pub fn note(&mut self, at: Time, client_flow: Option<Flow>, text: String) {
        self.push(Line { at, flow: client_flow, what: What::Note(text) });
    }

    /// Adds nothing any more: what led to a fault is not to be pushed out by what came after.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    fn push(&mut self, line: Line) {
        if self.frozen {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The last that is known of a connection, and of all.
    pub fn tell(&self, flow: Option<Flow>) -> String {
        let concerned = |line: &&Line| flow.is_none() || line.flow.is_none() || line.flow == flow;
        let mut lines: Vec<&Line> = self.lines.iter().rev().filter(concerned).take(TOLD).collect();
        lines.reverse();
        lines.into_iter().fold(String::new(), |told, line| told + &self.line(line) + "\n")
    }

    fn line(&self, line: &Line) -> String {
        let at = line.at.since(self.start).as_nanos() as f64 / 1e6;
        match &line.what {
            What::Sent(place, glance) => format!("{at:12.4} ms  {place:9} sends  {glance}"),
            What::Received(place, glance) => format!("{at:12.4} ms  {place:9} gets   {glance}"),
            What::Note(text) => format!("{at:12.4} ms  {text}"),
        }
    }
}
