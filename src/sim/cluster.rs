//! A whole cluster in memory: members, clients, the switch between them, and the loop that moves time.

mod steps;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::checks::{Checks, Truth};
use super::client::{Client, Plan};
use super::events::Events;
use super::kernel::{Kernel, Listener, Secrets};
use super::member::{Daemon, Frame, Machine};
use super::options::Options;
use super::random::Random;
use super::segment::Flow;
use super::service::{PORT, Server};
use super::shell::{self, Shell};
use super::switch::{Cable, PortIndex, Switch, Way};
use super::trace::Trace;
use crate::control::{Control, Event as ControlEvent, Identity};
use crate::kept;
use crate::shared::Role;
use crate::table::TableError;
use crate::time::Time;

/// When runs begin: late enough that a while ago is not before zero.
const START: Time = Time::from_millis(1_000_000);

/// What will happen.
enum Event {
    /// A frame reaches the switch at a port.
    Enter(PortIndex, Frame),
    /// A frame reaches the machine at a port.
    Arrive(PortIndex, Frame),
    /// A member's worker polls.
    Turn(usize),
    /// Frames reach a member's host.
    ToHost(usize, Vec<Frame>),
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
    stations: Vec<Station>,
    client_of: BTreeMap<Ipv4Addr, usize>,
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
    pub fn new(options: Options) -> Result<Cluster, TableError> {
        let mut random = Random::new(options.seed);
        let member = |index| Station::Member(index);
        let stations: Vec<Station> = (0..options.members)
            .map(member)
            .chain((0..options.clients).map(Station::Client))
            .chain((0..options.strangers).map(Station::Stranger))
            .collect();
        let vips = options.facts(0).vips;
        let addresses: Vec<Ipv4Addr> = vips.iter().map(|vip| vip.address).collect();
        let secrets = |random: &mut Random| Secrets(random.word());
        let machine = |index: usize, random: &mut Random| {
            let mut kernel = Kernel::new(Options::member_mac(index), &addresses, secrets(random));
            let server = Server::start(index as u8, &mut kernel, Listener::new(options.backlog, options.cookies));
            Machine {
                kernel,
                server,
                daemon: None,
                from_host: Default::default(),
                plain: options.plain,
                disturbed: false,
                incarnation: 0,
            }
        };
        let client = |index: usize, random: &mut Random| {
            Client::new(Options::client_mac(index), Options::client_address(index), secrets(random))
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
            cables: vec![options.cable.clone(); stations.len()],
            checks: Checks::new(vips.iter().map(|vip| vip.mac).collect()),
            trace: Trace::new(START),
            events: Events::default(),
            members,
            clients,
            stations,
            options,
            random,
        };
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
    /// Memory that the system does not give.
    pub fn start(&mut self, index: usize) -> Result<(), TableError> {
        self.note(format!("s{} starts", index + 1));
        let (options, now) = (&self.options, self.now);
        let machine = &mut self.members[index];
        machine.incarnation += 1;
        let identity =
            Identity { boot_id: Options::boot_id(index), incarnation: machine.incarnation, nonce: self.random.word() };
        let control = options.elected.then(|| Control::new(options.settings(index), identity, now));
        let shell = Shell::new(control, now);
        let key = self.random.bytes();
        let keep_for = kept::keep_for(options.heartbeat, options.missed);
        let (connections, handshakes) = (options.connections, options.handshakes);
        let mut daemon = Daemon::new(options.facts(index), key, connections, handshakes, keep_for, shell)?;
        shell::rebuild(&daemon.member, &machine.kernel, now);
        daemon.shell.step(ControlEvent::Ready, &daemon.member, now);
        machine.daemon = Some(daemon);
        self.wake_member(index);
        Ok(())
    }

    /// Ends baton on a member as SIGKILL does; its machine goes on.
    pub fn kill(&mut self, index: usize) {
        self.note(format!("s{} is killed", index + 1));
        self.members[index].daemon = None;
        self.members[index].disturbed = true;
    }

    /// Stops or continues baton on a member (SIGSTOP, SIGCONT).
    pub fn pause(&mut self, index: usize, paused: bool) {
        self.note(format!("s{} {}", index + 1, if paused { "is stopped" } else { "goes on" }));
        self.members[index].disturbed = true;
        if let Some(daemon) = &mut self.members[index].daemon {
            daemon.paused = paused;
        }
        self.wake_member(index);
    }

    /// Pulls a member's cable, or plugs it in again.
    pub fn plug(&mut self, index: usize, plugged: bool) {
        self.note(format!("s{}'s cable is {}", index + 1, if plugged { "plugged in" } else { "pulled" }));
        self.members[index].disturbed = true;
        self.cables[index].plug(plugged);
    }

    /// Tells a member's control core.
    pub fn tell(&mut self, index: usize, event: ControlEvent<'_>) {
        self.note(format!("s{} is told: {event:?}", index + 1));
        if let Some(daemon) = &mut self.members[index].daemon {
            daemon.shell.step(event, &daemon.member, self.now);
        }
        self.wake_member(index);
    }

    /// Sets a member's role by hand, where there is no election.
    pub fn set_role(&mut self, index: usize, role: Role) {
        if let Some(daemon) = &self.members[index].daemon {
            daemon.member.shared.roles.store(0, role);
            self.schedule_turn(index, Duration::ZERO);
        }
    }

    /// A member's role for the first virtual IP; of one that does not run, passive.
    pub fn role(&self, index: usize) -> Role {
        self.members[index].daemon.as_ref().map_or(Role::default(), |daemon| daemon.member.shared.role(0))
    }

    /// The members that are active for the first virtual IP.
    pub fn actives(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|&index| self.role(index).active).collect()
    }

    /// What a client has of a connection.
    pub fn truth(&self, flow: Flow) -> Option<Truth> {
        let client = &self.clients[*self.client_of.get(flow.local.ip())?];
        let socket = client.kernel.socket(flow)?;
        let irs = socket.is_synchronized().then_some(socket.irs);
        Some(Truth { iss: socket.iss, irs })
    }

    /// A client connects to the service.
    pub fn connect(&mut self, client: usize, plan: Plan) -> Flow {
        let (service, now) = (self.service(), self.now);
        let flow = self.clients[client].connect(service, plan, now);
        self.wake_client(client);
        flow
    }

    /// A client connects from a port that it may have used before.
    pub fn connect_from(&mut self, client: usize, port: u16, plan: Plan) -> Flow {
        let (service, now) = (self.service(), self.now);
        let flow = self.clients[client].connect_from(port, service, plan, now);
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

    fn note(&mut self, text: String) {
        self.trace.note(self.now, None, text);
    }
}
