//! A whole cluster in memory: members, clients, the switch between them, and the loop that moves time.

mod steps;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::checks::{Checks, Truth};
use super::client::{Client, Plan};
use super::clock::START;
use super::events::Events;
use super::kernel::{Kernel, Listener, Secrets};
use super::member::{Birth, Daemon, Frame, Machine, StartError};
use super::options::Options;
use super::random::Random;
use super::segment::Flow;
use super::service::{PORT, Server};
use super::shell::Speech;
use super::state::Watch;
use super::switch::{Cable, PortIndex, Switch, Way};
use super::trace::Trace;
use crate::control::{Control, Event as ControlEvent, Identity};
use crate::kept;
use crate::shared::Role;
use crate::table::VipIndex;
use crate::time::Time;

/// What will happen.
enum Event {
    /// A frame reaches the switch at a port.
    Enter(PortIndex, Frame),
    /// A frame reaches the machine at a port.
    Arrive(PortIndex, Frame),
    /// A member's worker polls.
    Turn(usize),
    /// Frames reach a member's host, if it has not been booted anew since.
    ToHost(usize, u64, Vec<Frame>),
    /// A host's timers.
    Host(usize),
    /// A member's control thread.
    Shell(usize),
    /// A client's timers.
    Client(usize),
}

/// Who is at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Station {
    Member(usize),
    Client(usize),
    Stranger(usize),
}

/// A machine of no part in the cluster: it sends what it is told, and keeps the frames of one EtherType.
#[derive(Default)]
pub struct Stranger {
    /// Frames kept, oldest first.
    pub kept: Vec<Frame>,
    /// Which ones.
    pub keeps: Option<u16>,
    /// Its stack, if it answers ARP: the gateway's.
    kernel: Option<Kernel>,
}

/// When each actor is to run next.
#[derive(Default)]
struct Due {
    turn: Option<Time>,
    host: Option<Time>,
    shell: Option<Time>,
    /// When the frames that were last sent to the host reach it: later ones do not overtake them.
    to_host: Time,
}

/// The cluster and everything around it.
pub struct Cluster {
    /// The time.
    pub now: Time,
    /// The members, in the order of their numbers.
    pub members: Vec<Machine>,
    /// The clients.
    pub clients: Vec<Client>,
    /// Other machines.
    pub strangers: Vec<Stranger>,
    /// The switch.
    pub switch: Switch,
    /// Cables by port.
    pub cables: Vec<Cable>,
    /// The invariants.
    pub checks: Checks,
    /// What happened.
    pub trace: Trace,
    /// What it was made with.
    pub options: Options,
    /// Whether all that happens to members is planned: roles are handed over then, not lost.
    pub undisturbed: bool,
    /// What is waited for.
    pub watches: Vec<Watch>,
    /// When each member last heard each other one.
    heard: Vec<Vec<Time>>,
    /// Roles as they were told last, by member and virtual IP.
    roles: Vec<Vec<Role>>,
    stations: Vec<Station>,
    pub(super) client_of: BTreeMap<Ipv4Addr, usize>,
    events: Events<Event>,
    due: Vec<Due>,
    client_due: Vec<Option<Time>>,
    random: Random,
}

impl Cluster {
    /// A cluster with all its machines on and every baton about to start.
    ///
    /// # Errors
    /// Memory that the system does not give.
    pub fn new(options: Options) -> Result<Cluster, StartError> {
        let mut random = Random::new(options.seed);
        let member = |index| Station::Member(index);
        let stations: Vec<Station> = (0..options.members)
            .map(member)
            .chain((0..options.clients).map(Station::Client))
            .chain((0..options.strangers).map(Station::Stranger))
            .collect();
        let vips = options.facts(0).vips;
        let machine = |index: usize, random: &mut Random| {
            let (kernel, server) = boot(index, &options, random);
            Machine {
                kernel,
                server,
                daemon: None,
                from_host: Default::default(),
                plain: options.plain,
                booted: START,
                boots: 0,
                stopped: vec![Vec::new(); options.vips()],
                incarnation: 0,
                leaving: false,
                left_for_good: false,
            }
        };
        let client = |index: usize, random: &mut Random| {
            Client::new(Options::client_mac(index), Options::client_address(index), Secrets(random.word()))
        };
        let members: Vec<Machine> = (0..options.members).map(|index| machine(index, &mut random)).collect();
        let clients: Vec<Client> = (0..options.clients).map(|index| client(index, &mut random)).collect();
        let mut cluster = Cluster {
            now: START,
            client_of: clients.iter().enumerate().map(|(index, client)| (client.address, index)).collect(),
            due: members.iter().map(|_| Due::default()).collect(),
            client_due: vec![None; clients.len()],
            strangers: (0..options.strangers).map(|_| Stranger::default()).collect(),
            switch: Switch::new(stations.len()),
            cables: vec![Cable::default(); stations.len()],
            checks: Checks::new(vips.iter().map(|vip| vip.mac).collect()),
            trace: Trace::new(START),
            events: Events::default(),
            undisturbed: false,
            watches: Vec::new(),
            heard: vec![vec![START; options.members]; options.members],
            roles: vec![vec![Role::default(); options.vips()]; options.members],
            members,
            clients,
            stations,
            options,
            random,
        };
        cluster.mend();
        if !cluster.options.plain {
            for index in 0..cluster.members.len() {
                cluster.start(index)?;
            }
        }
        Ok(cluster)
    }

    /// The service's address at the first virtual IP.
    pub fn service(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Options::vip_address(0), PORT)
    }

    /// Starts baton on a member, with what its host's kernel has.
    ///
    /// # Errors
    /// Memory that the system does not give, or connections for which there is no room.
    pub fn start(&mut self, index: usize) -> Result<(), StartError> {
        self.note(format!("s{} starts", index + 1));
        let (options, now) = (&self.options, self.now);
        let skew = self.random.skew(options.skew_ppm);
        let machine = &mut self.members[index];
        machine.incarnation += 1;
        let settings = options.settings(index);
        let speech = Speech::new(options.dialect(index, machine.incarnation), &settings);
        let identity = Identity {
            boot_id: Options::boot_id(index, machine.boots),
            incarnation: machine.incarnation,
            nonce: self.random.word(),
        };
        let birth = Birth {
            facts: options.facts(index),
            key: self.random.bytes(),
            connections: options.connections,
            handshakes: options.handshakes,
            control: options.elected.then(|| Control::new(settings, identity, skew.local(now))),
            speech,
            keep_for: kept::keep_for(options.heartbeat, options.missed),
            probed: options.probed,
            skew,
        };
        machine.daemon = Some(Daemon::start(&mut machine.kernel, birth, now)?);
        (machine.leaving, machine.left_for_good) = (false, false);
        self.wake_member(index);
        Ok(())
    }

    /// Ends baton on a member as SIGKILL does; its machine goes on.
    pub fn kill(&mut self, index: usize) {
        self.note(format!("s{} is killed", index + 1));
        self.members[index].daemon = None;
        self.gone(index);
    }

    /// Switches a machine off and on again: its kernel and its service begin anew, baton is not started yet.
    pub fn reboot(&mut self, index: usize) {
        self.note(format!("the machine of s{} is rebooted", index + 1));
        let (kernel, server) = boot(index, &self.options, &mut self.random);
        let machine = &mut self.members[index];
        (machine.kernel, machine.server, machine.daemon) = (kernel, server, None);
        machine.from_host.clear();
        machine.booted = self.now;
        machine.boots += 1;
        self.gone(index);
    }

    /// baton has ended on a member.
    fn gone(&mut self, index: usize) {
        self.checks.forget_member(index);
        self.roles[index].fill(Role::default());
    }

    /// A member's service for a virtual IP stops listening, or listens again.
    pub fn serve(&mut self, index: usize, vip: usize, serving: bool) {
        let (now, port) = (self.now, Options::port(vip));
        self.note(format!(
            "the service of s{} at port {port} {}",
            index + 1,
            if serving { "is back" } else { "is gone" }
        ));
        let listener = Listener::new(self.options.backlog, self.options.cookies);
        let machine = &mut self.members[index];
        if serving {
            machine.kernel.listen(port, listener);
        } else {
            machine.kernel.unlisten(port, now);
            machine.stopped[vip].push(now);
        }
        self.host(index);
    }

    /// Stops or continues baton on a member (SIGSTOP, SIGCONT).
    pub fn pause(&mut self, index: usize, paused: bool) {
        self.note(format!("s{} {}", index + 1, if paused { "is stopped" } else { "goes on" }));
        let now = self.now;
        if let Some(daemon) = &mut self.members[index].daemon {
            daemon.pause(paused, now);
        }
        self.wake_member(index);
    }

    /// Pulls a member's cable, or plugs it in again.
    pub fn plug(&mut self, index: usize, plugged: bool) {
        self.note(format!("s{}'s cable is {}", index + 1, if plugged { "plugged in" } else { "pulled" }));
        self.cables[index].plug(plugged);
    }

    /// All cables and the switch as they were at the start.
    pub fn mend(&mut self) {
        self.switch.cut.clear();
        for (port, cable) in self.cables.iter_mut().enumerate() {
            *cable = self.options.cable.clone();
            if matches!(self.stations[port], Station::Client(_)) {
                cable.delay = self.options.client_delay;
            }
        }
    }

    /// A member's service goes on, that read or accepted nothing for a while.
    pub fn resume(&mut self, index: usize) {
        let (machine, now) = (&mut self.members[index], self.now);
        (machine.server.reading, machine.server.accepting) = (true, true);
        machine.server.resume(&mut machine.kernel, now);
        self.host(index);
    }

    /// Tells a member's control core.
    pub fn tell(&mut self, index: usize, event: ControlEvent<'_>) {
        self.note(format!("s{} is told: {event:?}", index + 1));
        let machine = &mut self.members[index];
        machine.leaving |= matches!(event, ControlEvent::Leave { .. });
        machine.left_for_good |= matches!(event, ControlEvent::Leave { returning: false });
        if let Some(daemon) = &mut machine.daemon {
            daemon.tell(event, self.now);
        }
        self.roles_of(index);
        self.wake_member(index);
    }

    /// Sets a member's role by hand, where there is no election.
    pub fn set_role(&mut self, index: usize, role: Role) {
        if let Some(daemon) = &self.members[index].daemon {
            daemon.member.shared.roles.store(0, role);
            self.schedule_turn(index, Duration::ZERO);
        }
    }

    /// A member's role for a virtual IP; of one that does not run, passive.
    pub fn role(&self, index: usize, vip: usize) -> Role {
        self.members[index].daemon.as_ref().map_or(Role::default(), |daemon| daemon.member.shared.role(vip as VipIndex))
    }

    /// The members that are active for the first virtual IP.
    pub fn actives(&self) -> Vec<usize> {
        self.actives_of(0)
    }

    /// The members that are active for a virtual IP.
    pub fn actives_of(&self, vip: usize) -> Vec<usize> {
        (0..self.members.len()).filter(|&index| self.role(index, vip).active).collect()
    }

    /// Which virtual IP a connection is to.
    pub fn vip_of(&self, flow: Flow) -> Option<usize> {
        (0..self.options.vips()).find(|&vip| Options::vip_address(vip) == *flow.remote.ip())
    }

    /// What a client has of a connection.
    pub fn truth(&self, flow: Flow) -> Option<Truth> {
        let client = &self.clients[*self.client_of.get(flow.local.ip())?];
        let socket = client.kernel.socket(flow)?;
        let irs = socket.is_synchronized().then_some(socket.irs);
        Some(Truth { iss: socket.iss, irs })
    }

    /// A client connects to the service at the first virtual IP.
    pub fn connect(&mut self, client: usize, plan: Plan) -> Flow {
        self.connect_to(client, None, self.service(), plan)
    }

    /// A client connects from a port that it may have used before.
    pub fn connect_from(&mut self, client: usize, port: u16, plan: Plan) -> Flow {
        self.connect_to(client, Some(port), self.service(), plan)
    }

    /// A client connects, from this port or a new one.
    pub fn connect_to(&mut self, client: usize, from: Option<u16>, to: SocketAddrV4, plan: Plan) -> Flow {
        let (now, machine) = (self.now, &mut self.clients[client]);
        let flow = match from {
            Some(port) => machine.connect_from(port, to, plan, now),
            None => machine.connect(to, plan, now),
        };
        self.wake_client(client);
        flow
    }

    /// A client asks once more on a connection that stays open.
    pub fn ask(&mut self, client: usize, flow: Flow) {
        self.clients[client].ask_again(flow, self.now);
        self.wake_client(client);
    }

    /// A stranger puts a frame on the network.
    pub fn inject(&mut self, stranger: usize, frame: &[u8]) {
        let port = self.members.len() + self.clients.len() + stranger;
        self.cross(port, Way::In, Frame::from(frame));
    }

    /// Makes a stranger the gateway of the subnet: it answers for its address, and takes what goes beyond.
    pub fn make_gateway(&mut self, stranger: usize) {
        let kernel = Kernel::new(Options::stranger_mac(stranger), &[Options::gateway_address()], Secrets(0));
        self.strangers[stranger].kernel = Some(kernel);
    }

    /// The cable of a client.
    pub fn client_cable(&mut self, client: usize) -> &mut Cable {
        &mut self.cables[self.options.members + client]
    }

    /// Runs for a while.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    /// Runs until this time.
    pub fn run_until(&mut self, until: Time) {
        while self.events.next().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Runs until `done`, at most until this long has passed. True if it is done.
    pub fn run_while(&mut self, longest: Duration, mut going_on: impl FnMut(&Cluster) -> bool) -> bool {
        let until = self.now + longest;
        while going_on(self) {
            if self.events.next().is_none_or(|at| at > until) {
                self.now = until;
                return !going_on(self);
            }
            self.step();
        }
        true
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, text: String) {
        self.trace.note(self.now, None, text);
    }
}

/// A member's machine as it is after booting: its kernel, and the service on it.
fn boot(index: usize, options: &Options, random: &mut Random) -> (Kernel, Server) {
    let addresses: Vec<Ipv4Addr> = (0..options.vips()).map(Options::vip_address).collect();
    let mut kernel = Kernel::new(Options::member_mac(index), &addresses, Secrets(random.word()));
    let listener = Listener::new(options.backlog, options.cookies);
    let server = Server::start(index as u8, options.vips(), &mut kernel, &listener);
    (kernel, server)
}
