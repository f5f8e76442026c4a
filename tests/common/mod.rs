//! A member on in-memory ports with a virtual clock: frames in, frames and counters out.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use baton::classify::{Facts, VipFacts};
use baton::config::checked::HugePages;
use baton::counters::Counters;
use baton::frame::Mac;
use baton::frame::build::{TcpFrame, tcp_frame};
use baton::frame::ipv4::Ipv4;
use baton::frame::tcp::{Flags, Segment};
use baton::kept::Kept;
use baton::orphans::Suspicions;
use baton::port::Buffer;
use baton::port::memory::{MemoryBuffer, MemoryPort};
use baton::shared::{Role, Shared};
use baton::table::{Established, Fragments, HalfOpen, Handshakes, Hasher};
use baton::time::{Clock, Time};
use baton::verdict::DropReason;
use baton::worker::{Member, Worker};

pub const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const VMAC: Mac = Mac([2, 0, 0, 0, 1, 0]);
pub const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 9]);

pub const SYN: u8 = Flags::SYN;
pub const ACK: u8 = Flags::ACK;
pub const RST: u8 = Flags::RST;
pub const FIN: u8 = Flags::FIN;

pub const ACTIVE: Role = Role { active: true, rank: 0, may_refuse: true };
pub const PASSIVE: Role = Role { active: false, rank: 0, may_refuse: false };

pub const KEEP_FOR: Duration = Duration::from_millis(300);
pub const HEDGE: Duration = Duration::from_millis(5);

/// A member whose wire and host are in the test's hands.
pub struct Lab {
    pub member: Arc<Member>,
    pub counters: Arc<Counters>,
    pub worker: Worker<MemoryPort, MemoryPort>,
    pub now: Time,
}

/// What came of a frame.
#[derive(Debug, Default, PartialEq)]
pub struct Out {
    pub to_host: Vec<Vec<u8>>,
    pub to_wire: Vec<Vec<u8>>,
    pub drops: Vec<DropReason>,
}

impl Out {
    /// The only thing that happened was this drop.
    #[track_caller]
    pub fn dropped(&self, reason: DropReason) {
        assert_eq!((self.drops.as_slice(), self.to_host.len(), self.to_wire.len()), ([reason].as_slice(), 0, 0));
    }

    /// Nothing happened.
    #[track_caller]
    pub fn nothing(&self) {
        assert_eq!(*self, Out::default());
    }

    /// The only thing that happened was a frame to the host: this one.
    #[track_caller]
    pub fn to_host(&self) -> &[u8] {
        assert_eq!((self.drops.as_slice(), self.to_host.len(), self.to_wire.len()), ([].as_slice(), 1, 0));
        &self.to_host[0]
    }

    /// The only thing that happened was a frame to the wire: this one.
    #[track_caller]
    pub fn to_wire(&self) -> &[u8] {
        assert_eq!((self.drops.as_slice(), self.to_host.len(), self.to_wire.len()), ([].as_slice(), 0, 1));
        &self.to_wire[0]
    }

    /// A drop for this reason, and a RST to the host at this sequence number, and nothing to the wire.
    #[track_caller]
    pub fn cleared(&self, reason: DropReason, seq: u32) {
        assert_eq!((self.drops.as_slice(), self.to_host.len(), self.to_wire.len()), ([reason].as_slice(), 1, 0));
        let packet = Ipv4::parse(&self.to_host[0]).unwrap();
        let segment = Segment::parse(&packet).unwrap();
        assert_eq!((segment.flags(), segment.seq()), (Flags(RST), seq));
    }
}

impl Lab {
    pub fn new(role: Role) -> Lab {
        Lab::with(role, &[], true)
    }

    pub fn with(role: Role, ports: &[u16], shared_wire: bool) -> Lab {
        Lab::of(Lab::member(role, ports, shared_wire, true))
    }

    /// Where dead members' clients are looked for, or not.
    pub fn with_orphans(role: Role, orphans: bool) -> Lab {
        Lab::of(Lab::member(role, &[], true, orphans))
    }

    /// The time at which every test begins.
    pub const START: Time = Time::from_millis(1_000_000);

    pub fn member(role: Role, ports: &[u16], shared_wire: bool, orphans: bool) -> Member {
        let (address, ports) = ([10, 0, 0, 100].into(), ports.to_vec());
        let vip = VipFacts { address, mac: VMAC, ports, hedge: HEDGE, orphans };
        let shared = Arc::new(Shared::new(1));
        shared.roles.store(0, role);
        Member {
            facts: Facts { own_mac: OWN, vips: vec![vip], heartbeat: 0x88b5, shared_wire },
            shared,
            established: Established::new(1024, Hasher::new([7; 16]), HugePages::Never).unwrap(),
            handshakes: Handshakes::new(1024, HugePages::Never).unwrap(),
            half_open: HalfOpen::default(),
            fragments: Fragments::new(),
            suspicions: Suspicions::new(64),
        }
    }

    /// A worker of this member.
    pub fn of(member: Member) -> Lab {
        let member = Arc::new(member);
        let counters = Arc::new(Counters::default());
        let clock = Clock::start();
        let worker = Worker::new(
            Arc::clone(&member),
            Arc::clone(&counters),
            clock,
            Kept::new(64, KEEP_FOR, 1),
            MemoryPort::default(),
            MemoryPort::default(),
        );
        Lab { member, counters, worker, now: Lab::START }
    }

    pub fn role(&mut self, role: Role) {
        self.member.shared.roles.store(0, role);
    }

    fn drops(&self) -> Vec<u64> {
        DropReason::ALL.iter().map(|&reason| self.counters.dropped(reason)).collect()
    }

    /// A turn without a frame from outside.
    pub fn idle(&mut self) -> Out {
        self.turn()
    }

    fn turn(&mut self) -> Out {
        let before = self.drops();
        self.worker.turn_at(self.now);
        let after = self.drops();
        let mut out = Out::default();
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            out.drops.extend((before[index]..after[index]).map(|_| reason));
        }
        out.to_host.extend(self.worker.host.sent.drain(..).map(|buffer| buffer.bytes().to_vec()));
        out.to_wire.extend(self.worker.wire.sent.drain(..).map(|buffer| buffer.bytes().to_vec()));
        self.check();
        out
    }

    /// Invariants 5 and 6: nothing leaves with the virtual MAC as source, and the counters add up.
    #[track_caller]
    fn check(&self) {
        let c = &self.counters;
        let drops: u64 = self.drops().iter().sum();
        assert_eq!(
            c.wire_rx.get() + c.host_rx.get() + c.originated.get(),
            c.wire_tx.get() + c.host_tx.get() + c.to_control.get() + drops,
        );
    }

    pub fn wire(&mut self, frame: &[u8]) -> Out {
        self.worker.wire.arrived.push_back(MemoryBuffer::new(frame));
        let out = self.turn();
        for sent in &out.to_wire {
            assert_eq!(sent[6..12], OWN.0, "an Ethernet source that is not ours");
        }
        out
    }

    pub fn host(&mut self, frame: &[u8]) -> Out {
        self.worker.host.arrived.push_back(MemoryBuffer::new(frame));
        let out = self.turn();
        for sent in &out.to_wire {
            assert_eq!(sent[6..12], OWN.0, "an Ethernet source that is not ours");
        }
        out
    }

    /// Frames from the wire and from the host that come in one turn.
    pub fn burst(&mut self, wire: &[Vec<u8>], host: &[Vec<u8>]) -> Out {
        self.worker.wire.arrived.extend(wire.iter().map(|frame| MemoryBuffer::new(frame)));
        self.worker.host.arrived.extend(host.iter().map(|frame| MemoryBuffer::new(frame)));
        self.turn()
    }

    /// A segment of the client at 10.0.0.1:40000.
    pub fn client(&mut self, flags: u8, seq: u32, ack: u32) -> Out {
        self.client_with(flags, seq, ack, &[], &[])
    }

    pub fn client_with(&mut self, flags: u8, seq: u32, ack: u32, options: &[u8], data: &[u8]) -> Out {
        self.wire(&tcp_frame(&TcpFrame { flags, seq, ack, options, data, to: VMAC, ..TcpFrame::default() }))
    }

    /// A segment of the host to that client.
    pub fn server(&mut self, flags: u8, seq: u32, ack: u32) -> Out {
        self.server_with(flags, seq, ack, &[])
    }

    pub fn server_with(&mut self, flags: u8, seq: u32, ack: u32, options: &[u8]) -> Out {
        self.host(&tcp_frame(&TcpFrame {
            flags,
            seq,
            ack,
            options,
            to: CLIENT,
            from: OWN,
            source: ([10, 0, 0, 100].into(), 80),
            destination: ([10, 0, 0, 1].into(), 40_000),
            ..TcpFrame::default()
        }))
    }

    /// Brings the client's connection up: its ISN is `client`, the host's `server`.
    pub fn connect(&mut self, client: u32, server: u32) {
        self.client(SYN, client, 0).to_host();
        self.server(SYN | ACK, server, client.wrapping_add(1)).to_wire();
        self.client(ACK, client.wrapping_add(1), server.wrapping_add(1)).to_host();
        assert_eq!(self.member.established.len(), 1);
    }
}

/// A segment of the client at 10.0.0.1 and this port.
pub fn client_frame(port: u16, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let source = ([10, 0, 0, 1].into(), port);
    tcp_frame(&TcpFrame { flags, seq, ack, data, source, to: VMAC, ..TcpFrame::default() })
}

/// A segment of the host to that client.
pub fn host_frame(port: u16, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let (source, destination) = (([10, 0, 0, 100].into(), 80), ([10, 0, 0, 1].into(), port));
    tcp_frame(&TcpFrame { flags, seq, ack, data, source, destination, to: CLIENT, from: OWN, ..TcpFrame::default() })
}
