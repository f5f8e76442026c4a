//! A cluster of [`Control`]s in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::config::checked::{Key, Rebalance};
use crate::control::assignment::Assignment;
use crate::control::auth::Authenticator;
use crate::control::heartbeat::dialect::Dialect;
use crate::control::{
    Action, ClusterView, Control, Event, Holds, Identity, Name, PeerState, Report, Settings, VipSettings, Warning,
};
use crate::frame::Mac;
use crate::shared::Role;
use crate::table::Tuple;
use crate::time::Time;

/// How long a silent owner may be away before its clients are reset.
pub const ORPHANS_AFTER: Duration = Duration::from_secs(2);

/// As many frames as the control thread's inbox holds.
/// More ticks than this within that time are not work, but a core that wants them for ever.
const TICKS_MAX: u32 = 1000;
const HASTE: Duration = Duration::from_millis(1);

const INBOX: usize = 2048;

/// SplitMix64: all randomness of a test comes from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= probability && probability > 0.0
    }
}

/// What a cluster is made of.
#[derive(Clone)]
pub struct Options {
    pub members: usize,
    pub vips: usize,
    pub actives: u8,
    pub heartbeat: Duration,
    pub missed: u32,
    pub rebalance: Option<Rebalance>,
    pub probed: bool,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            members: 3,
            vips: 1,
            actives: 1,
            heartbeat: Duration::from_millis(10),
            missed: 3,
            rebalance: None,
            probed: false,
            seed: 1,
        }
    }
}

pub fn address(vip: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100 + vip as u8))
}

pub struct Node {
    pub settings: Settings,
    /// None: not running.
    pub control: Option<Control>,
    incarnation: u64,
    boot: u8,
    /// How far its clock is ahead of the test's.
    pub skew: Duration,
    paused: bool,
    /// Its worker stands still.
    stalled: bool,
    inbox: VecDeque<Vec<u8>>,
    outbox: Vec<Vec<u8>>,
    pub roles: Vec<Role>,
    pub reports: Vec<(Time, Report)>,
    pub left: bool,
    /// Connections of its host.
    pub held: BTreeSet<Tuple>,
    /// Its kernel does not tell.
    pub cannot_tell: bool,
    /// The minor version of heartbeats that it speaks.
    pub dialect: Dialect,
    auth: Authenticator,
    /// How often it looked.
    pub looked_up: usize,
    /// Clients that it found to be orphans.
    pub resets: Vec<(Time, Tuple)>,
    ticked: Option<Time>,
    /// Ticks since a moment less than [`HASTE`] ago.
    hasty: (Time, u32),
    /// When it wants its next tick, by its own clock.
    due: Option<Time>,
    /// All it ever sent.
    pub sent: Vec<Vec<u8>>,
}

/// A frame under way: when it arrives, a number that keeps equal times in order, to whom, what.
type UnderWay = (Time, u64, usize, Vec<u8>);

pub struct Cluster {
    pub options: Options,
    pub now: Time,
    pub nodes: Vec<Node>,
    pub random: Random,
    wire: BinaryHeap<Reverse<UnderWay>>,
    count: u64,
    /// From whom to whom nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    pub loss: f64,
    pub duplication: f64,
    /// The longest delay of a frame.
    pub delay: Duration,
    /// The fewest members that served a VIP at once since it was set.
    pub fewest: usize,
    /// The most.
    pub most: usize,
}

impl Cluster {
    /// Members that are not started yet.
    pub fn new(options: Options) -> Cluster {
        let vip = |index| VipSettings {
            address: address(index),
            actives: options.actives,
            rebalance: options.rebalance,
            probed: options.probed,
            orphans_after: Some(ORPHANS_AFTER),
        };
        let node = |index: usize| Node {
            settings: Settings {
                cluster: "web".into(),
                key: Key([7; 32]),
                name: Name::new(&format!("s{:02}", index + 1)).unwrap(),
                source: Mac([2, 0, 0, 0, 0, index as u8 + 1]),
                ethertype: 0x88b5,
                heartbeat: options.heartbeat,
                missed: options.missed,
                vips: (0..options.vips).map(vip).collect(),
                config_hash: [9; 16],
            },
            control: None,
            incarnation: 0,
            boot: index as u8,
            skew: Duration::ZERO,
            paused: false,
            stalled: false,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            roles: vec![Role::default(); options.vips],
            reports: Vec::new(),
            left: false,
            held: BTreeSet::new(),
            cannot_tell: false,
            dialect: Dialect::Present,
            auth: Authenticator::new("web", &Key([7; 32])),
            looked_up: 0,
            resets: Vec::new(),
            ticked: None,
            hasty: (Time::from_millis(0), 0),
            due: None,
            sent: Vec::new(),
        };
        Cluster {
            now: Time::from_millis(1000),
            nodes: (0..options.members).map(node).collect(),
            random: Random(options.seed),
            wire: BinaryHeap::new(),
            count: 0,
            cut: BTreeSet::new(),
            loss: 0.0,
            duplication: 0.0,
            delay: Duration::from_micros(200),
            fewest: usize::MAX,
            most: 0,
            options,
        }
    }

    /// Members that run since a while and agree.
    pub fn settled(options: Options) -> Cluster {
        let mut cluster = Cluster::new(options);
        for index in 0..cluster.nodes.len() {
            cluster.start(index);
        }
        let heartbeat = cluster.options.heartbeat;
        cluster.run(Duration::from_millis(100) + heartbeat * 20);
        cluster
    }

    pub fn start(&mut self, index: usize) {
        self.start_unready(index);
        self.event(index, Event::Ready);
    }

    pub fn start_unready(&mut self, index: usize) {
        let nonce = self.random.next();
        let node = &mut self.nodes[index];
        node.incarnation += 1;
        let identity = Identity { boot_id: [node.boot; 16], incarnation: node.incarnation, nonce };
        node.control = Some(Control::new(node.settings.clone(), identity, self.now + node.skew));
        node.roles.fill(Role::default());
        node.ticked = None;
        node.left = false;
        node.paused = false;
        node.inbox.clear();
        self.event(index, Event::Tick);
    }

    /// Adds a node that bears another one's name.
    pub fn add_namesake(&mut self, of: usize, incarnation: u64) -> usize {
        let index = self.nodes.len();
        let settings = Settings { source: Mac([2, 0, 0, 0, 9, index as u8]), ..self.nodes[of].settings.clone() };
        self.nodes.push(Node {
            settings,
            control: None,
            incarnation: incarnation - 1,
            boot: index as u8,
            skew: Duration::ZERO,
            paused: false,
            stalled: false,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            roles: vec![Role::default(); self.options.vips],
            reports: Vec::new(),
            left: false,
            held: BTreeSet::new(),
            cannot_tell: false,
            dialect: Dialect::Present,
            auth: Authenticator::new("web", &Key([7; 32])),
            looked_up: 0,
            resets: Vec::new(),
            ticked: None,
            hasty: (Time::from_millis(0), 0),
            due: None,
            sent: Vec::new(),
        });
        index
    }

    /// The process is gone from one moment to the next.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].control = None;
        self.nodes[index].roles.fill(Role::default());
    }

    /// As SIGSTOP: frames wait in its inbox.
    pub fn pause(&mut self, index: usize) {
        self.nodes[index].paused = true;
    }

    /// As SIGCONT: it reads its inbox first.
    pub fn resume(&mut self, index: usize) {
        self.nodes[index].paused = false;
        while let Some(frame) = self.nodes[index].inbox.pop_front() {
            self.event(index, Event::Frame(&frame));
        }
    }

    /// Its worker stands still: what arrives waits, and what it sends does not leave.
    pub fn stall(&mut self, index: usize) {
        self.nodes[index].stalled = true;
    }

    /// Its worker goes on.
    pub fn unstall(&mut self, index: usize) {
        self.nodes[index].stalled = false;
        for frame in std::mem::take(&mut self.nodes[index].outbox) {
            self.broadcast(index, frame);
        }
        // The control thread sees that first.
        self.event(index, Event::Hearing(true));
        while let Some(frame) = self.nodes[index].inbox.pop_front() {
            self.event(index, Event::Frame(&frame));
        }
    }

    fn broadcast(&mut self, from: usize, frame: Vec<u8>) {
        if self.nodes[from].stalled {
            return self.nodes[from].outbox.push(frame);
        }
        for to in (0..self.nodes.len()).filter(|&to| to != from) {
            self.transmit(from, to, &frame);
        }
        self.nodes[from].sent.push(frame);
    }

    pub fn is_running(&self, index: usize) -> bool {
        self.nodes[index].control.is_some() && !self.nodes[index].paused
    }

    pub fn event_if_running(&mut self, index: usize, event: Event<'_>) {
        if self.is_running(index) {
            self.event(index, event);
        }
    }

    /// Two members on one kernel.
    pub fn share_boot(&mut self, a: usize, b: usize) {
        self.nodes[b].boot = self.nodes[a].boot;
    }

    /// The highest term of a VIP that any member holds.
    pub fn term(&self, vip: usize) -> u64 {
        (0..self.nodes.len()).filter_map(|index| Some(self.assignment(index, vip)?.term)).max().unwrap()
    }

    /// Cuts or heals the link between two members, both ways.
    pub fn set_link(&mut self, a: usize, b: usize, up: bool) {
        for link in [(a, b), (b, a)] {
            if up {
                self.cut.remove(&link);
            } else {
                self.cut.insert(link);
            }
        }
    }

    /// Cuts all links between the members of `group` and the others.
    pub fn partition(&mut self, group: &[usize]) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if group.contains(&a) != group.contains(&b) {
                    self.set_link(a, b, false);
                }
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Something happens to a running member.
    pub fn event(&mut self, index: usize, event: Event<'_>) {
        let now = self.now + self.nodes[index].skew;
        let mut actions = Vec::new();
        let Some(control) = &mut self.nodes[index].control else { return };
        control.step(event, now, &mut actions);
        // Asked once, not at each look for the next event of all.
        self.nodes[index].due = Some(control.next_tick());
        for action in actions {
            self.act(index, action);
        }
        self.check(index);
        self.watch();
    }

    fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::Send(frame) => {
                let node = &self.nodes[index];
                let Some(frame) = node.dialect.send(frame.bytes(), node.settings.ethertype, &node.auth) else { return };
                self.broadcast(index, frame);
            }
            Action::SetRole { vip, role } => self.nodes[index].roles[usize::from(vip)] = role,
            Action::LookUp(_) if self.nodes[index].cannot_tell => {}
            Action::LookUp(look_up) => {
                let held = self.nodes[index].held.contains(&look_up.tuple);
                let holds = if held { Holds::Mine } else { Holds::NotMine };
                self.nodes[index].looked_up += 1;
                self.event(index, Event::LookedUp(look_up, holds));
            }
            Action::Reset(orphan) => self.nodes[index].resets.push((self.now, orphan.suspicion.tuple)),
            Action::Report(report) => self.nodes[index].reports.push((self.now, report)),
            Action::Left => {
                self.nodes[index].left = true;
                self.nodes[index].control = None;
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, frame: &[u8]) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        let copies = 1 + usize::from(self.random.chance(self.duplication));
        for _ in 0..copies {
            if !self.random.chance(self.loss) {
                self.inject(to, frame);
            }
        }
    }

    /// Puts a frame on its way to a member.
    pub fn inject(&mut self, to: usize, frame: &[u8]) {
        let least = 20_000;
        let delay = least + self.random.below(self.delay.as_nanos() as u64 - least);
        self.count += 1;
        self.wire.push(Reverse((self.now + Duration::from_nanos(delay), self.count, to, frame.to_vec())));
    }

    fn deliver(&mut self, to: usize, frame: &[u8]) {
        let node = &self.nodes[to];
        let frame = node.dialect.receive(frame, node.settings.ethertype, &node.auth);
        if !node.paused && !node.stalled {
            self.event(to, Event::Frame(&frame));
        } else if self.nodes[to].inbox.len() < INBOX {
            self.nodes[to].inbox.push_back(frame);
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let tick = (0..self.nodes.len())
                .filter(|&index| self.is_running(index))
                .filter_map(|index| Some((self.tick_of(index)?, index)))
                .min();
            let frame = self.wire.peek().map(|Reverse((at, ..))| *at);
            match (tick, frame) {
                (_, Some(at)) if at <= end && tick.is_none_or(|(tick, _)| at <= tick) => {
                    self.now = self.now.max(at);
                    if let Some(Reverse((.., to, frame))) = self.wire.pop() {
                        self.deliver(to, &frame);
                    }
                }
                (Some((at, index)), _) if at <= end => {
                    let node = &mut self.nodes[index];
                    node.hasty =
                        if at.since(node.hasty.0) < HASTE { (node.hasty.0, node.hasty.1 + 1) } else { (at, 0) };
                    assert!(node.hasty.1 < TICKS_MAX, "ticks are wanted without end");
                    node.ticked = Some(at);
                    self.now = self.now.max(at);
                    self.event(index, Event::Tick);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// When a member wants its next tick, by the test's clock.
    fn tick_of(&self, index: usize) -> Option<Time> {
        let node = &self.nodes[index];
        let tick = node.control.as_ref().and(node.due)?;
        let late = node.ticked.map_or(self.now, |ticked| ticked + Duration::from_nanos(1));
        Some((tick - node.skew).max(late))
    }

    pub fn run_until(&mut self, most: Duration, mut done: impl FnMut(&Cluster) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now.since(start) <= most, "not done within {most:?}");
            self.run(Duration::from_micros(50));
        }
        self.now.since(start)
    }

    /// What must hold for each member at each moment.
    fn check(&self, index: usize) {
        let node = &self.nodes[index];
        let Some(control) = &node.control else { return };
        for (vip, role) in control.vips.iter().zip(&node.roles) {
            assert_eq!(vip.role, *role, "the workers have the role that status shows");
            let actives = &vip.assignment.actives;
            let twice = |(place, id)| actives[..place].contains(id);
            assert!(!actives.iter().enumerate().any(twice), "two ranks on one member");
            assert!(!role.may_refuse || role.primary());
        }
    }

    fn watch(&mut self) {
        for vip in 0..self.options.vips {
            let serving = self.serving(vip).len();
            self.fewest = self.fewest.min(serving);
            self.most = self.most.max(serving);
        }
    }

    /// Starts counting [`Cluster::fewest`] and [`Cluster::most`] anew.
    pub fn reset_watch(&mut self) {
        (self.fewest, self.most) = (usize::MAX, 0);
        self.watch();
    }

    /// Who serves a VIP, paused ones too.
    pub fn serving(&self, vip: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&index| self.nodes[index].roles[vip].active).collect()
    }

    /// The one member that serves a VIP.
    pub fn active(&self, vip: usize) -> usize {
        let serving = self.serving(vip);
        assert_eq!(serving.len(), 1, "{serving:?}");
        serving[0]
    }

    pub fn view(&self, index: usize) -> ClusterView {
        let node = &self.nodes[index];
        node.control.as_ref().unwrap().view(self.now + node.skew)
    }

    pub fn peer_state(&self, of: usize, peer: usize) -> Option<PeerState> {
        let name = self.nodes[peer].settings.name;
        self.view(of).peers.iter().find(|view| view.name == name).map(|view| view.state)
    }

    pub fn warns(&self, index: usize, warning: &Warning) -> bool {
        self.view(index).warnings.contains(warning)
    }

    pub fn assignment(&self, index: usize, vip: usize) -> Option<&Assignment> {
        Some(&self.nodes[index].control.as_ref()?.vips[vip].assignment)
    }

    /// How long roles may take to converge.
    pub fn convergence(&self) -> Duration {
        self.nodes[0].settings.detection() + self.options.heartbeat * 2
    }

    /// Whether all running members hold one assignment of each VIP, play the roles that it says and no others.
    pub fn disagreement(&self) -> Option<String> {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|&index| self.is_running(index)).collect();
        for vip in 0..self.options.vips {
            let held = self.assignment(*running.first()?, vip)?;
            for &index in &running {
                let other = self.assignment(index, vip)?;
                if other != held {
                    return Some(format!("VIP {vip}: {index} holds {other:?}, {} {held:?}", running[0]));
                }
                let rank = held.rank(self.nodes[index].settings.name.id());
                let role = self.nodes[index].roles[vip];
                if role.active != rank.is_some() || rank.is_some_and(|rank| rank != role.rank) {
                    return Some(format!("VIP {vip}: {index} plays {role:?} under {held:?}"));
                }
            }
        }
        None
    }
}
