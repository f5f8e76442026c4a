//! What goes wrong in a run: faults, each with a beginning and an end.

use std::time::Duration;

use super::cluster::Cluster;
use super::member::StartError;
use super::options::Options;
use super::random::Random;
use super::segment::Flow;
use super::switch::{Cable, PortIndex};
use crate::control::Event;
use crate::frame::build::{TcpFrame, tcp_frame};
use crate::frame::tcp::Flags;
use crate::named::named;
use crate::table::VipIndex;

named! {
    /// A kind of fault, or of what operators do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Kind;
    /// What the trace and the coverage call it.
    name;

    /// baton is killed (SIGKILL) and started again.
    Kill = "kill",
    /// The machine is rebooted: a new boot id, no sockets.
    Reboot = "reboot",
    /// baton is stopped and goes on (SIGSTOP, SIGCONT).
    Pause = "pause",
    /// A port goes down and comes up.
    Flap = "flap",
    /// A machine hears nothing.
    Deaf = "deaf",
    /// A machine is not heard.
    Mute = "mute",
    /// Some members do not hear some others.
    OneWay = "one-way",
    /// The switch is two, and the cable between them is cut.
    Split = "split",
    /// Frames are lost.
    Loss = "loss",
    /// Frames arrive twice.
    Duplication = "duplication",
    /// Frames overtake each other.
    Reordering = "reordering",
    /// Frames take long.
    Delay = "delay",
    /// A service stops listening.
    Service = "service",
    /// The switch forgets where everybody is.
    Forget = "forget",
    /// A service reads nothing.
    Stall = "stall",
    /// A service accepts nothing.
    Clog = "clog",
    /// Spoofed SYNs by the hundred.
    Flood = "flood",
    /// Segments in a client's name.
    Spoof = "spoof",
    /// A member is drained.
    Drain = "drain",
    /// A role is taken over.
    Activate = "activate",
    /// A member's metric grows.
    Metric = "metric",
    /// baton leaves and comes back.
    Leave = "leave",
}

impl Kind {
    /// Whether roles may be lost by it, where otherwise they are handed over.
    pub fn disturbs(self) -> bool {
        self < Kind::Forget
    }

    /// Whether it strikes one member, so that its connections are those concerned.
    pub fn strikes_a_member(self) -> bool {
        !matches!(self, Kind::OneWay | Kind::Split | Kind::Forget | Kind::Flood | Kind::Spoof)
    }

    /// How long it lasts: most often short, sometimes long.
    fn length(self, random: &mut Random) -> Duration {
        let (shortest, longest): (u32, u32) = match self {
            Kind::Reboot => (50, 1500),
            Kind::Leave => (150, 800),
            Kind::Pause => (1, 2000),
            Kind::Clog => (1, 4000),
            Kind::Delay | Kind::Reordering | Kind::Duplication => (50, 1000),
            Kind::Loss => (50, 3000),
            Kind::Forget | Kind::Flood | Kind::Spoof | Kind::Activate => (1, 1),
            _ => (1, 1000),
        };
        let octaves = f64::from(longest / shortest).log2();
        Duration::from_millis(shortest.into()).mul_f64((random.fraction() * octaves).exp2())
    }
}

/// A fault that strikes.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Which member.
    pub member: usize,
    /// For how long.
    pub length: Duration,
    vip: usize,
    /// The machines concerned, where that is not just the member.
    ports: Vec<PortIndex>,
    strength: f64,
}

impl Fault {
    /// Any fault of this kind.
    pub fn draw(kind: Kind, cluster: &Cluster, random: &mut Random) -> Fault {
        let options = &cluster.options;
        let vip = random.below(options.vips() as u64) as usize;
        let actives = cluster.actives_of(vip);
        let member = match random.below(options.members as u64) as usize {
            _ if !actives.is_empty() && random.chance(0.6) => random.pick(&actives),
            any => any,
        };
        let stations = options.members + options.clients;
        let among = if kind == Kind::OneWay { options.members } else { stations };
        let ports = match kind {
            Kind::OneWay | Kind::Split => (0..among).filter(|_| random.chance(0.5)).collect(),
            // A bad cable, or a bad switch.
            Kind::Loss | Kind::Duplication | Kind::Reordering | Kind::Delay if random.chance(0.3) => {
                (0..stations).collect()
            }
            _ => vec![member],
        };
        Fault { kind, member, length: kind.length(random), vip, ports, strength: random.fraction() }
    }

    /// It begins.
    pub fn begin(&self, cluster: &mut Cluster, random: &mut Random) {
        let Fault { kind, member, vip, .. } = *self;
        cluster.note(format!("fault: {} at s{} for {:?}, {:?}", kind.name(), member + 1, self.length, self.ports));
        let (index, running) = (vip as VipIndex, cluster.members[member].daemon.is_some());
        match kind {
            Kind::Kill if running => cluster.kill(member),
            Kind::Reboot => cluster.reboot(member),
            Kind::Pause => cluster.pause(member, true),
            Kind::Service => cluster.serve(member, vip, false),
            Kind::Forget => cluster.switch.forget(),
            Kind::Stall => cluster.members[member].server.reading = false,
            Kind::Clog => cluster.members[member].server.accepting = false,
            Kind::Flood => flood(cluster, vip, 20 + (80.0 * self.strength) as usize, random),
            Kind::Spoof => spoof(cluster, random),
            Kind::Drain => {
                let of = Some(index).filter(|_| self.strength < 0.5);
                cluster.tell(member, Event::Drain { vip: of });
            }
            Kind::Activate => cluster.tell(member, Event::Activate { vip: index }),
            Kind::Metric => burden(cluster, member, 1000.0 * self.strength),
            Kind::Leave => cluster.tell(member, Event::Leave { returning: self.strength < 0.5 }),
            _ => {}
        }
    }

    /// It ends; `others` are those that go on.
    ///
    /// # Errors
    /// baton could not be started again.
    pub fn end(&self, cluster: &mut Cluster, others: &[Fault]) -> Result<(), StartError> {
        let Fault { kind, member, vip, .. } = *self;
        let goes_on = |kinds: &[Kind]| others.iter().any(|other| other.member == member && kinds.contains(&other.kind));
        match kind {
            Kind::Kill | Kind::Reboot | Kind::Leave => {
                if cluster.members[member].leaving && cluster.members[member].daemon.is_some() && kind == Kind::Leave {
                    cluster.kill(member);
                }
                let down = goes_on(&[Kind::Kill, Kind::Reboot, Kind::Leave]);
                if cluster.members[member].daemon.is_none() && !down {
                    cluster.start(member)?;
                }
            }
            Kind::Pause if !goes_on(&[Kind::Pause]) => cluster.pause(member, false),
            Kind::Service
                if !others.iter().any(|other| (other.kind, other.member, other.vip) == (kind, member, vip)) =>
            {
                cluster.serve(member, vip, true);
            }
            Kind::Stall | Kind::Clog if !goes_on(&[Kind::Stall, Kind::Clog]) => cluster.resume(member),
            Kind::Drain => cluster.tell(member, Event::Undrain { vip: None }),
            Kind::Metric => burden(cluster, member, 0.0),
            _ => {}
        }
        Ok(())
    }

    /// What it does to the network while it lasts.
    fn impair(&self, cluster: &mut Cluster) {
        let members = cluster.options.members;
        let outside = |port: &PortIndex| !self.ports.contains(port);
        match self.kind {
            Kind::OneWay => {
                let pairs = self.ports.iter().flat_map(|&from| (0..members).filter(outside).map(move |to| (from, to)));
                cluster.switch.cut.extend(pairs);
            }
            Kind::Split => {
                let stations = cluster.cables.len();
                for &from in &self.ports {
                    for to in (0..stations).filter(outside) {
                        cluster.switch.cut.extend([(from, to), (to, from)]);
                    }
                }
            }
            _ => self.ports.iter().for_each(|&port| self.spoil(&mut cluster.cables[port])),
        }
    }

    fn spoil(&self, cable: &mut Cable) {
        match self.kind {
            Kind::Flap | Kind::Reboot => cable.plug(false),
            Kind::Deaf => cable.outward = false,
            Kind::Mute => cable.inward = false,
            Kind::Loss => cable.loss = 0.3 * self.strength,
            Kind::Duplication => cable.duplicated = 0.5 * self.strength,
            Kind::Reordering => (cable.held_up, cable.hold) = (0.3, Duration::from_millis(20).mul_f64(self.strength)),
            Kind::Delay => cable.delay += Duration::from_millis(8).mul_f64(self.strength),
            _ => {}
        }
    }
}

/// Makes the network what the faults that go on leave of it.
pub fn impair(cluster: &mut Cluster, faults: &[Fault]) {
    cluster.mend();
    faults.iter().for_each(|fault| fault.impair(cluster));
}

fn burden(cluster: &mut Cluster, member: usize, burden: f64) {
    if let Some(daemon) = &mut cluster.members[member].daemon {
        daemon.shell.burden = burden;
    }
}

/// SYNs in the name of clients that are not there.
fn flood(cluster: &mut Cluster, vip: usize, count: usize, random: &mut Random) {
    for _ in 0..count {
        let spoofed = TcpFrame {
            to: Options::virtual_mac(vip),
            from: Options::stranger_mac(0),
            source: (
                std::net::Ipv4Addr::from_bits(0x0b00_0000 | random.word() as u32 >> 8),
                random.word() as u16 | 1024,
            ),
            destination: (Options::vip_address(vip), Options::port(vip)),
            flags: Flags::SYN,
            seq: random.word() as u32,
            ..TcpFrame::default()
        };
        cluster.inject(0, &tcp_frame(&spoofed));
    }
}

/// Segments of an attacker who knows who talks to whom, and little of their sequence numbers.
fn spoof(cluster: &mut Cluster, random: &mut Random) {
    let client = random.below(cluster.clients.len() as u64) as usize;
    let flows: Vec<Flow> = cluster.clients[client].stories.keys().copied().collect();
    for _ in 0..8.min(flows.len()) {
        let flow = random.pick(&flows);
        let next = cluster.clients[client].kernel.socket(flow).map(|socket| (socket.snd_nxt(), socket.rcv_nxt()));
        let flags =
            random.pick(&[Flags::SYN, Flags::RST, Flags::ACK, Flags::SYN | Flags::ACK, Flags::FIN | Flags::ACK]);
        // An established connection takes no harm from a SYN or RST near the right number; a half-open one does (Linux:
        // `tcp_check_req`), with baton or without.
        let open = cluster.clients[client].stories.get(&flow).is_some_and(|story| story.answered > 0);
        let near = open && (flags == Flags::SYN || flags == Flags::RST);
        let seq = match next {
            // In the window, but not where it counts.
            Some((next, _)) if near && random.chance(0.5) => next.wrapping_add(1 + random.below(30_000) as u32),
            _ => random.word() as u32,
        };
        let vip = cluster.vip_of(flow).unwrap_or_default();
        let spoofed = TcpFrame {
            to: Options::virtual_mac(vip),
            from: Options::stranger_mac(0),
            source: (*flow.local.ip(), flow.local.port()),
            destination: (*flow.remote.ip(), flow.remote.port()),
            flags,
            seq,
            ack: random.word() as u32,
            ..TcpFrame::default()
        };
        cluster.inject(0, &tcp_frame(&spoofed));
    }
}
