//! Whole short connections, as clients and the host make them: many at a time, each at its own step, and every round takes
//! all of them one step further.
//!
//! | from the wire | from the host |
//! |---|---|
//! | SYN | |
//! | | SYN-ACK |
//! | ACK, and at once the request | |
//! | | response, and at once FIN |
//! | ACK, and at once FIN | |
//! | | the last ACK |
//!
//! Then the kernel announces the end of the socket, and the control thread's own code ([`Truth`]) removes the entry.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use baton::config::checked::HugePages;
use baton::control::truth::{Ending, Held, Kernel, Truth};
use baton::frame::Mac;
use baton::frame::build::{TcpFrame, tcp_frame, timestamps_option};
use baton::frame::tcp::Flags;
use baton::shared::Shared;
use baton::table::{Established, Hasher, Tuple};
use baton::time::Time;

use super::frames::BLOCK;
use super::member::{Bench, OWN, VIP, VMAC, finish};
use super::{CpuTime, Random};

/// Connections that begin in a round.
pub const COHORT: u32 = 512;

/// Frames of a connection, from the wire and from the host.
pub const FRAMES: (u64, u64) = (5, 4);

/// Frames of a round, once it is under way.
pub const ROUND: u64 = COHORT as u64 * (FRAMES.0 + FRAMES.1);

const _: () = assert!(COHORT as usize * FRAMES.0 as usize <= BLOCK);

/// A segment of a short connection. Client and server say six bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Syn,
    SynAck,
    Ack,
    Request,
    Response,
    HostFin,
    AckOfResponse,
    Fin,
    LastAck,
}

const DATA: &[u8; 6] = b"hello!";

/// What is sent at once, by how many rounds ago the connection began.
const FROM_WIRE: [(usize, &[Step]); 3] =
    [(0, &[Step::Syn]), (2, &[Step::Ack, Step::Request]), (4, &[Step::AckOfResponse, Step::Fin])];
const FROM_HOST: [(usize, &[Step]); 3] =
    [(1, &[Step::SynAck]), (3, &[Step::Response, Step::HostFin]), (5, &[Step::LastAck])];

/// Rounds of a connection.
const ROUNDS: usize = 6;

impl Step {
    const ALL: [Step; 9] = [
        Step::Syn,
        Step::SynAck,
        Step::Ack,
        Step::Request,
        Step::Response,
        Step::HostFin,
        Step::AckOfResponse,
        Step::Fin,
        Step::LastAck,
    ];

    fn is_from_host(self) -> bool {
        matches!(self, Step::SynAck | Step::Response | Step::HostFin | Step::LastAck)
    }

    fn flags(self) -> u8 {
        match self {
            Step::Syn => Flags::SYN,
            Step::SynAck => Flags::SYN | Flags::ACK,
            Step::HostFin | Step::Fin => Flags::FIN | Flags::ACK,
            _ => Flags::ACK,
        }
    }

    fn data(self) -> &'static [u8] {
        if matches!(self, Step::Request | Step::Response) { DATA } else { b"" }
    }

    /// How far sequence and acknowledgment number are beyond the ISNs of who sends and who receives.
    fn numbers(self) -> (u32, Option<u32>) {
        let data = DATA.len() as u32;
        match self {
            Step::Syn => (0, None),
            Step::SynAck => (0, Some(1)),
            Step::Ack | Step::Request => (1, Some(1)),
            Step::Response => (1, Some(1 + data)),
            Step::HostFin => (1 + data, Some(1 + data)),
            Step::AckOfResponse => (1 + data, Some(1 + data)),
            Step::Fin => (1 + data, Some(2 + data)),
            Step::LastAck => (2 + data, Some(2 + data)),
        }
    }
}

/// The frames of short connections.
pub struct Frames {
    templates: Vec<(Vec<u8>, Step)>,
    timestamps: bool,
}

impl Frames {
    /// With the timestamps option on each, as Linux sends them, or without options.
    pub fn new(timestamps: bool) -> Frames {
        let template = |step: Step| {
            let echo = if step == Step::Syn { 0 } else { 1 };
            let option = timestamps_option(1, echo);
            let (wire, host) = (([0, 0, 0, 0].into(), 0), (VIP, 443));
            let router = Mac([2, 0, 0, 0, 0, 9]);
            let (to, from) = if step.is_from_host() { (router, OWN) } else { (VMAC, router) };
            let (source, destination) = if step.is_from_host() { (host, wire) } else { (wire, host) };
            tcp_frame(&TcpFrame {
                to,
                from,
                source,
                destination,
                flags: step.flags(),
                options: if timestamps { &option } else { &[] },
                data: step.data(),
                ..TcpFrame::default()
            })
        };
        Frames { templates: Step::ALL.into_iter().map(|step| (template(step), step)).collect(), timestamps }
    }

    /// Writes the frame of connection `number` at a step; returns its length.
    pub fn write(&self, number: u32, step: Step, frame: &mut [u8; 120]) -> usize {
        let template = &self.templates[step as usize].0;
        frame[..template.len()].copy_from_slice(template);
        let tuple = tuple(number);
        let (client, server) = isns(number);
        let (address_at, port_at, own, other) =
            if step.is_from_host() { (30, 36, server, client) } else { (26, 34, client, server) };
        frame[address_at..address_at + 4].copy_from_slice(&tuple.client.octets());
        frame[port_at..port_at + 2].copy_from_slice(&tuple.client_port.to_be_bytes());
        let (seq, ack) = step.numbers();
        frame[38..42].copy_from_slice(&own.wrapping_add(seq).to_be_bytes());
        let ack = ack.map_or(0, |ack| other.wrapping_add(ack));
        frame[42..46].copy_from_slice(&ack.to_be_bytes());
        debug_assert!(!self.timestamps || frame[46] >> 4 == 8);
        finish(frame);
        // The shortest Ethernet frame, without its FCS.
        template.len().max(60)
    }
}

/// Connection `number`, of a client that has none of the table's.
pub fn tuple(number: u32) -> Tuple {
    let client = Ipv4Addr::from_bits(0xb000_0000 + number / 1024);
    Tuple { client, client_port: 20_000 + (number % 1024) as u16, port: 443, vip: 0 }
}

fn isns(number: u32) -> (u32, u32) {
    (number.wrapping_mul(0x9e37_79b9), number.wrapping_mul(0x85eb_ca6b) ^ 0x5555_5555)
}

/// The segments of a round, in any order but for those that a side sends at once.
pub fn shuffled(
    cohorts: &VecDeque<Range<u32>>,
    from_host: bool,
    mine: impl Fn(u32) -> bool,
    random: &mut Random,
) -> Vec<(u32, Step)> {
    let plan = if from_host { FROM_HOST } else { FROM_WIRE };
    let mut units = Vec::new();
    for (age, steps) in plan {
        let numbers = cohorts.get(age).cloned().unwrap_or_default();
        units.extend(numbers.filter(|number| mine(*number)).map(|number| (number, steps)));
    }
    for index in (1..units.len()).rev() {
        units.swap(index, random.below(index + 1));
    }
    units.into_iter().flat_map(|(number, steps)| steps.iter().map(move |step| (number, *step))).collect()
}

/// A kernel that has just ended these sockets. What it would cost itself is not measured.
#[derive(Default)]
pub struct Ended(VecDeque<Tuple>);

impl Kernel for Ended {
    fn dump(&mut self) -> io::Result<Vec<(Tuple, Held)>> {
        Ok(Vec::new())
    }

    fn query(&mut self, _: &Tuple) -> io::Result<Option<Held>> {
        Ok(None)
    }

    fn destroy(&mut self, _: &Tuple) -> io::Result<()> {
        Ok(())
    }

    fn endings(&mut self, limit: usize, each: &mut dyn FnMut(Ending)) -> io::Result<()> {
        let count = limit.min(self.0.len());
        self.0.drain(..count).map(Ending::Socket).for_each(each);
        Ok(())
    }
}

/// The CPU time of a round, or of some.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// The worker's.
    pub worker: Duration,
    /// The control thread's, which removes the entries.
    pub control: Duration,
    /// Frames that the worker had.
    pub frames: u64,
}

/// Short connections under way at a member.
pub struct Short {
    frames: Frames,
    /// By age in rounds.
    cohorts: VecDeque<Range<u32>>,
    next: u32,
    random: Random,
    truth: Truth,
    ended: Ended,
}

impl Short {
    /// None yet; the first rounds have fewer frames, see [`Short::start`].
    pub fn new(timestamps: bool) -> Short {
        // Its one sweep for idle entries sees an empty table.
        let nothing = Established::new(1, Hasher::new([0; 16]), HugePages::Never).expect("memory");
        let (mut truth, _) = Truth::rebuild(&nothing, &mut Ended::default(), Time::ZERO).expect("nothing to enter");
        truth.step(&Shared::new(1), &nothing, &mut Ended::default(), Time::ZERO).expect("this kernel tells");
        Short {
            frames: Frames::new(timestamps),
            cohorts: VecDeque::new(),
            next: u32::from(timestamps) << 31,
            random: Random(11),
            truth,
            ended: Ended::default(),
        }
    }

    /// Rounds until each step has its connections.
    pub fn start(&mut self, bench: &mut Bench) {
        for _ in 0..ROUNDS {
            self.round(bench, true);
        }
    }

    /// Lets those under way come to their end.
    pub fn finish(&mut self, bench: &mut Bench) {
        for _ in 0..=ROUNDS {
            self.round(bench, false);
        }
        assert!(self.cohorts.iter().all(Range::is_empty));
    }

    /// All connections go a step further.
    pub fn round(&mut self, bench: &mut Bench, begin: bool) -> Spent {
        let begun = if begin { COHORT } else { 0 };
        self.cohorts.push_front(self.next..self.next.wrapping_add(begun));
        self.next = self.next.wrapping_add(begun);
        // Nothing waits, so what was done meanwhile is no pause after which the host has to wait.
        let wire = shuffled(&self.cohorts, false, |_| true, &mut self.random);
        let host = shuffled(&self.cohorts, true, |_| true, &mut self.random);
        fill(&self.frames, &mut bench.worker.wire, &wire);
        fill(&self.frames, &mut bench.worker.host, &host);
        let before = bench.passed();
        let start = CpuTime::now();
        while bench.turn() > 0 {}
        let worker = CpuTime::now() - start;
        let frames = (wire.len() + host.len()) as u64;
        assert_eq!(bench.passed() - before, frames, "every segment reaches the other side");
        Spent { worker, control: self.end(bench), frames }
    }

    /// The kernel announces the ends of the oldest, and the control thread removes their entries.
    fn end(&mut self, bench: &Bench) -> Duration {
        if self.cohorts.len() <= ROUNDS {
            return Duration::ZERO;
        }
        let old = self.cohorts.pop_back().unwrap_or_default();
        let (before, ending) = (bench.member.established.len(), old.len());
        self.ended.0.extend(old.map(tuple));
        let start = CpuTime::now();
        while !self.ended.0.is_empty() {
            // At the time of its start: without the sweep for idle entries, which takes as long whatever ends.
            let (shared, established) = (&bench.member.shared, &bench.member.established);
            self.truth.step(shared, established, &mut self.ended, Time::ZERO).expect("this kernel tells");
        }
        let spent = CpuTime::now() - start;
        assert_eq!(bench.member.established.len(), before - ending);
        spent
    }
}

/// Puts these segments into a port.
pub fn fill(frames: &Frames, port: &mut super::frames::BenchPort, segments: &[(u32, Step)]) {
    let mut next = segments.iter();
    port.fill(segments.len(), |frame| {
        let (number, step) = next.next().copied().expect("as many as there are");
        frames.write(number, step, frame)
    });
}
