//! A member with a full table, and the frames that reach it.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use baton::classify::{Facts, VipFacts};
use baton::config::checked::HugePages;
use baton::counters::Counters;
use baton::frame::build::{TcpFrame, tcp_frame};
use baton::frame::tcp::Flags;
use baton::frame::{Mac, arp, checksum, ethernet};
use baton::kept::Kept;
use baton::orphans::Suspicions;
use baton::shared::{Role, Shared};
use baton::table::{Established, Fragments, HalfOpen, Handshakes, Hasher, State, TICK, Tuple};
use baton::time::{Clock, Time};
use baton::worker::{Member, Worker};

use super::frames::{BLOCK, BenchPort};
use super::{BATCH, CpuTime, Random, tuple};

/// Our own MAC.
pub const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The virtual MAC.
pub const VMAC: Mac = Mac([2, 0, 0, 0, 1, 0]);
/// The virtual IP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 100);

/// As launched: `MOST_RECORDS`, `KEPT_SYNS` and `SUSPICIONS` of `src/launch.rs`.
pub const RECORDS: usize = 1 << 20;
const KEPT_SYNS: usize = 1 << 16;
const SUSPICIONS: usize = 1 << 16;

/// What a frame is, as the member will find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An acknowledgment of one of its connections.
    Ack,
    /// Data of one of its connections.
    Data,
    /// An acknowledgment of another member's connection.
    ForeignAck,
    /// Data of another member's connection.
    ForeignData,
    /// A SYN from an address that nobody has seen before.
    Syn,
    /// An ARP request for the virtual IP.
    Arp,
    /// A frame for another machine: the switch flooded it.
    NotForUs,
    /// What the host sends on one of its connections.
    Reply,
}

/// What reaches a member of a busy cluster: its own connections, others', new ones, and a little of the rest.
pub const MIXED: &[(Kind, usize)] = &[
    (Kind::Ack, 30),
    (Kind::Data, 30),
    (Kind::ForeignAck, 15),
    (Kind::ForeignData, 15),
    (Kind::Syn, 9),
    (Kind::Arp, 1),
];

/// A frame of each kind, to be copied and filled in.
struct Template {
    bytes: [u8; 60],
}

impl Template {
    fn new(kind: Kind) -> Template {
        let segment = |flags, data: &[u8]| {
            tcp_frame(&TcpFrame { to: VMAC, destination: (VIP, 443), flags, data, ack: 1, ..TcpFrame::default() })
        };
        let frame = match kind {
            Kind::Ack | Kind::ForeignAck => segment(Flags::ACK, b""),
            Kind::Data | Kind::ForeignData => segment(Flags::ACK, b"hello!"),
            Kind::Syn => segment(Flags::SYN, b""),
            Kind::NotForUs => tcp_frame(&TcpFrame { to: Mac([2, 0, 0, 0, 0, 77]), ..TcpFrame::default() }),
            Kind::Reply => tcp_frame(&TcpFrame {
                to: Mac([2, 0, 0, 0, 0, 9]),
                from: OWN,
                source: (VIP, 443),
                data: b"hello!",
                ..TcpFrame::default()
            }),
            Kind::Arp => {
                let mut frame = vec![0; ethernet::HEADER];
                ethernet::set_destination(&mut frame, Mac::BROADCAST);
                ethernet::set_source(&mut frame, Mac([2, 0, 0, 0, 0, 9]));
                frame[12..14].copy_from_slice(&ethernet::ARP.to_be_bytes());
                frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
                frame.extend(VIP.octets());
                assert!(arp::Arp::parse(&frame).is_ok());
                frame
            }
        };
        let mut bytes = [0; 60];
        bytes[..frame.len()].copy_from_slice(&frame);
        Template { bytes }
    }
}

/// The sequence number of the next segment.
static SEQ: AtomicU32 = AtomicU32::new(1);

/// Makes frames of connections picked at random.
pub struct Traffic {
    templates: Vec<(Kind, Template)>,
    connections: usize,
    random: Random,
    fresh: u32,
}

impl Traffic {
    /// For a member that has `connections`.
    pub fn new(connections: usize, seed: u64) -> Traffic {
        let kinds = [
            Kind::Ack,
            Kind::Data,
            Kind::ForeignAck,
            Kind::ForeignData,
            Kind::Syn,
            Kind::Arp,
            Kind::NotForUs,
            Kind::Reply,
        ];
        let templates = kinds.into_iter().map(|kind| (kind, Template::new(kind))).collect();
        Traffic { templates, connections, random: Random(seed), fresh: 0 }
    }

    /// A kind of these, each with the odds of its weight.
    pub fn pick(&mut self, mix: &[(Kind, usize)]) -> Kind {
        let all = mix.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.below(all);
        for &(kind, weight) in mix {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        mix[0].0
    }

    /// Writes a frame of this kind; returns its length.
    pub fn write(&mut self, kind: Kind, frame: &mut [u8; 120]) -> usize {
        let template = &self.templates.iter().find(|(other, _)| *other == kind).expect("all kinds").1;
        frame[..60].copy_from_slice(&template.bytes);
        let number = self.random.below(self.connections);
        // Whoever sends again has got further, in whichever traffic.
        let seq = SEQ.fetch_add(100, Ordering::Relaxed);
        match kind {
            Kind::Ack | Kind::Data => address(frame, &tuple(number), seq, 26, 34),
            // As many connections again, of clients of their own.
            Kind::ForeignAck | Kind::ForeignData => {
                let ours = tuple(number);
                let foreign = Tuple { client_port: ours.client_port + 1024, ..ours };
                address(frame, &foreign, seq, 26, 34);
            }
            Kind::Syn => {
                self.fresh = self.fresh.wrapping_add(1);
                let client = Ipv4Addr::from_bits(0xac00_0000 + self.fresh / 1024);
                let port = 20_000 + (self.fresh % 1024) as u16;
                address(frame, &Tuple { client, client_port: port, port: 443, vip: 0 }, seq, 26, 34);
            }
            Kind::Reply => address(frame, &tuple(number), seq, 30, 36),
            Kind::Arp | Kind::NotForUs => {}
        }
        60
    }
}

/// Writes a client's address and port at these places and a sequence number, and keeps the checksums true.
pub fn address(frame: &mut [u8; 120], tuple: &Tuple, seq: u32, address_at: usize, port_at: usize) {
    frame[address_at..address_at + 4].copy_from_slice(&tuple.client.octets());
    frame[port_at..port_at + 2].copy_from_slice(&tuple.client_port.to_be_bytes());
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    finish(frame);
}

/// Writes the checksums of an IPv4 header without options and of a segment.
pub fn finish(frame: &mut [u8; 120]) {
    frame[24..26].fill(0);
    let sum = checksum::finish(checksum::sum(&frame[14..34], 0));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let total = u16::from_be_bytes([frame[16], frame[17]]);
    let segment = usize::from(total) - 20;
    frame[50..52].fill(0);
    // Source and destination are summed where they stand.
    let pseudo = checksum::sum(&frame[26..34], 6 + segment as u64);
    let sum = checksum::finish(checksum::sum(&frame[34..34 + segment], pseudo));
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
}

/// A member's worker over bench ports.
pub struct Bench {
    /// What it shares.
    pub member: Arc<Member>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// The worker.
    pub worker: Worker<BenchPort, BenchPort>,
    /// Its clock, which is read as often as a worker reads it.
    pub clock: Clock,
    /// The time that turns happen at.
    pub now: Time,
}

/// The time that a full turn stands for: 20 million frames a second. Measured are a few seconds of what a member does all
/// day, so most of 10 M connections are seen once or twice; by the machine's clock each of them would be due for its note
/// of having been seen, which in truth is made once in a [`TICK`]: here, of so many connections, with one frame in 32.
const TURN: Duration = Duration::from_nanos(3_200);

/// Between two of the SYNs that came before.
const SYNS_EVERY: Duration = Duration::from_micros(20);

/// Of so many connections one is due for that.
const DUE: usize = 32;

impl Bench {
    /// The primary, with this many connections in a table made for them (and some that come and go), and with all records
    /// of handshakes in use, as they are on a busy member.
    pub fn new(connections: usize) -> Bench {
        let clock = Clock::start();
        let hasher = Hasher::of_this_cpu(*b"a key for benche");
        let established = Established::new(connections + BLOCK, hasher, HugePages::Auto).expect("memory");
        // Just after a tick began.
        let now = Time::from_millis(0) + 64 * TICK;
        for number in 0..connections {
            let tuple = tuple(number);
            let seen = if number % DUE == 0 { now - TICK } else { now };
            established.insert(&tuple, established.hash(&tuple), State::Live, seen).expect("room");
        }
        let vip = VipFacts { address: VIP, mac: VMAC, ports: vec![443], hedge: Duration::ZERO, orphans: true };
        let shared = Arc::new(Shared::new(1));
        shared.roles.store(0, Role { active: true, rank: 0, may_refuse: false });
        let handshakes = Handshakes::new(RECORDS, HugePages::Auto).expect("memory");
        let mut random = Random(13);
        for left in (1..=2 * RECORDS as u32).rev() {
            let client = Ipv4Addr::from_bits(random.next() as u32);
            let tuple = Tuple { client, client_port: 9, ..Tuple::NONE };
            handshakes.remember(&tuple, hasher.hash(&tuple), 1, true, now - SYNS_EVERY * left);
        }
        let member = Arc::new(Member {
            facts: Facts { own_mac: OWN, vips: vec![vip], heartbeat: 0x88b5, shared_wire: true },
            shared,
            established,
            handshakes,
            half_open: HalfOpen::default(),
            fragments: Fragments::new(),
            suspicions: Suspicions::new(SUSPICIONS),
        });
        Bench::of(member, clock, now)
    }

    /// Another worker of the same member.
    pub fn beside(&self) -> Bench {
        Bench::of(Arc::clone(&self.member), self.clock, self.now)
    }

    fn of(member: Arc<Member>, clock: Clock, now: Time) -> Bench {
        let counters = Arc::new(Counters::default());
        let kept = Kept::new(KEPT_SYNS, Duration::from_millis(300), 1);
        let ports = (BenchPort::default(), BenchPort::default());
        let worker = Worker::new(Arc::clone(&member), Arc::clone(&counters), clock, kept, ports.0, ports.1);
        Bench { member, counters, worker, clock, now }
    }

    /// A turn of the worker; returns how many frames there were.
    pub fn turn(&mut self) -> usize {
        black_box(self.clock.now());
        self.now += TURN;
        self.worker.turn_at(self.now)
    }

    /// Frames that went on to the other side so far.
    pub fn passed(&self) -> u64 {
        self.counters.wire_tx.get() + self.counters.host_tx.get()
    }

    /// Makes it active and primary, or passive.
    pub fn set_active(&self, active: bool) {
        self.member.shared.roles.store(0, Role { active, rank: 0, may_refuse: false });
    }

    /// The CPU time of `turns` turns over full bursts that `write` makes, which is not counted.
    pub fn time(&mut self, turns: u64, from_host: bool, mut write: impl FnMut(&mut [u8; 120]) -> usize) -> Duration {
        let mut taken = Duration::ZERO;
        let mut left = turns;
        while left > 0 {
            let turns = left.min((BLOCK / BATCH) as u64);
            let port = if from_host { &mut self.worker.host } else { &mut self.worker.wire };
            port.fill(turns as usize * BATCH, &mut write);
            let start = CpuTime::now();
            for _ in 0..turns {
                self.turn();
            }
            taken += CpuTime::now() - start;
            left -= turns;
        }
        taken
    }
}
