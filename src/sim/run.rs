//! A run: a cluster, connections and faults drawn from a seed, and what must be true of them in the end.
//!
//! ```text
//! 0 s ── settling ──┬── faults, connections ──┬── all healed ── roles agree ── new connections ──┬── all done, judged
//!                  0.4 s                     75 %                                              95 %
//! ```

mod judge;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::checks::Violation;
use super::clock::START;
use super::cluster::Cluster;
use super::coverage::Coverage;
use super::fault::{self, Fault, Kind};
use super::member::StartError;
use super::options::Options;
use super::random::Random;
use super::state::{State, Watch};
use super::switch::Cable;
use super::workload::{self, Begun};
use crate::config::checked::Rebalance;
use crate::time::Time;

const MS: Duration = Duration::from_millis(1);

/// One fault, five connections and half a second.
const STEP: Duration = Duration::from_millis(500);

/// How long a fault waits for its moment.
const PATIENCE: Duration = Duration::from_millis(600);

/// The states that faults wait for: those that are rare or short; the others are met without waiting.
const MOMENTS: &[State] = &[
    State::HalfOpen,
    State::Contested,
    State::Contested,
    State::Queued,
    State::Queued,
    State::Downloading,
    State::Downloading,
    State::Stalled,
    State::Stalled,
    State::Stalled,
    State::HalfClosed,
    State::HalfClosed,
    State::Closing,
    State::Closing,
    State::Forgotten,
    State::Forgotten,
    State::Forgotten,
];

/// Connections in a step.
const CONNECTIONS: u32 = 5;

/// Steps of a run, unless said otherwise.
pub const STEPS: u32 = 20;

/// What a run is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The seed.
    pub seed: u64,
    /// How many members; drawn if not said.
    pub members: Option<usize>,
    /// How many steps: of each a fault, five connections and half a second.
    pub steps: u32,
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// The first rule broken.
    pub violation: Option<Violation>,
    /// What is known of the connection concerned; of a run that broke nothing, of everything.
    pub trace: String,
    /// Which faults met what.
    pub coverage: Coverage,
    /// What the cluster was made of.
    pub about: String,
}

/// What is to be done next.
#[derive(Debug)]
enum Act {
    Connect,
    /// A fault strikes, at once or when a connection gets into this state.
    Strike(Kind, Option<State>),
    End(u64),
    /// Nothing has been disturbed for long enough, if nothing has been since.
    Quiet(Time),
}

/// A run under way.
pub struct Run {
    cluster: Cluster,
    random: Random,
    coverage: Coverage,
    agenda: BTreeMap<(Time, u64), Act>,
    order: u64,
    faults: BTreeMap<u64, Fault>,
    /// Faults that wait for their moment, each at most until then.
    aimed: BTreeMap<u64, (Fault, Time)>,
    begun: Vec<Begun>,
    end: Time,
    /// When the last fault ended, or began where it is over at once.
    struck: Time,
}

/// Runs a seed to its end, or to the first rule broken.
///
/// # Errors
/// Memory that the system does not give.
pub fn run(setup: Setup) -> Result<Outcome, StartError> {
    let mut run = Run::new(setup)?;
    run.complete()?;
    let violation = run.cluster.checks.violations.first().cloned();
    let concerned = violation.as_ref().and_then(|violation| violation.flow);
    Ok(Outcome {
        trace: run.cluster.trace.tell(concerned),
        about: about(&run.cluster.options),
        coverage: run.coverage,
        violation,
    })
}

fn about(options: &Options) -> String {
    let mut about =
        format!("{} members, heartbeats of {:?} × {}, ", options.members, options.heartbeat, options.missed);
    for vip in 0..options.vips() {
        let _ = write!(about, "{} with {} active, ", Options::vip_address(vip), options.actives_of(vip));
    }
    let _ = write!(about, "clients at {:?}, backlog {}", options.client_delay, options.backlog);
    if options.versions {
        about.push_str(", heartbeats of different versions");
    }
    about
}

/// What a cluster is made of, by the seed.
fn draw(setup: Setup, random: &mut Random) -> Options {
    let members = match random.below(10) {
        0..=3 => 3,
        4..=5 => 4,
        6 => 5,
        7..=8 => 3 + random.below(6) as usize,
        _ => 9 + random.below(8) as usize,
    };
    let members = setup.members.unwrap_or(members);
    let beats: &[u64] = if members <= 5 { &[5, 10, 10, 20] } else { &[20, 50] };
    let actives = |random: &mut Random| random.pick(&[1, 1, 2, 3]).min(members as u8);
    let rebalance = Rebalance { every: 200 * MS, margin: 0.2, hold: 500 * MS };
    Options {
        seed: random.word(),
        members,
        clients: 4,
        strangers: 1,
        heartbeat: MS * random.pick(beats) as u32,
        missed: random.pick(&[2, 3, 3, 5]),
        actives: actives(random),
        further: (0..random.below(3)).map(|_| actives(random)).collect(),
        rebalance: random.chance(0.25).then_some(rebalance),
        probed: random.chance(0.7),
        orphans_after: random.pick(&[300 * MS, 500 * MS, 2000 * MS]),
        hedge: MS * random.pick(&[0, 1, 5]),
        skew_ppm: random.pick(&[0, 200, 5000]),
        connections: 512,
        handshakes: 2048,
        backlog: random.pick(&[4, 16, 128]),
        client_delay: random.pick(&[Cable::default().delay, 200 * MS / 1000, 3 * MS, 10 * MS]),
        // Not drawn, so that it changes nothing else of a run.
        versions: setup.seed.is_multiple_of(4),
        ..Options::default()
    }
}

impl Run {
    fn new(setup: Setup) -> Result<Run, StartError> {
        let mut random = Random::new(setup.seed);
        let options = draw(setup, &mut random);
        let mut cluster = Cluster::new(options)?;
        cluster.make_gateway(0);
        for vip in (0..cluster.options.vips()).filter(|&vip| cluster.options.actives_of(vip) > 1) {
            cluster.checks.shared.insert(Options::vip_address(vip));
        }
        let mut run = Run {
            cluster,
            random,
            coverage: Coverage::of_a_run(),
            agenda: BTreeMap::new(),
            order: 0,
            faults: BTreeMap::new(),
            aimed: BTreeMap::new(),
            begun: Vec::new(),
            end: START + STEP * setup.steps,
            struck: START,
        };
        run.plan(setup.steps);
        Ok(run)
    }

    /// When faults and connections begin.
    fn plan(&mut self, steps: u32) {
        let settling = 400 * MS;
        let whole = STEP * steps;
        for _ in 0..steps {
            let at = START + self.random.between(settling, whole * 7 / 10);
            let kind = self.random.pick(Kind::ALL);
            let moment = if self.random.chance(0.8) { Some(self.random.pick(MOMENTS)) } else { None };
            self.plan_at(at, Act::Strike(kind, moment));
        }
        for _ in 0..steps * CONNECTIONS * 8 / 10 {
            let at = START + self.random.between(settling / 2, whole * 7 / 10);
            self.plan_at(at, Act::Connect);
        }
        self.plan_at(START + settling, Act::Quiet(START));
    }

    fn plan_at(&mut self, at: Time, act: Act) {
        self.order += 1;
        self.agenda.insert((at, self.order), act);
    }

    fn complete(&mut self) -> Result<(), StartError> {
        let heal_at = START + self.end.since(START) * 3 / 4;
        while !self.is_over() {
            let next = self.agenda.first_key_value().map_or(heal_at, |((at, _), _)| *at).min(heal_at);
            let late = self.aimed.iter().map(|(&id, (_, latest))| (*latest, id)).min();
            let stop = late.map_or(next, |(latest, _)| next.min(latest)).max(self.cluster.now);
            let met = self.advance(stop);
            let late = late.filter(|(latest, _)| *latest <= stop).map(|(_, id)| id);
            let too_late = |run: &mut Run| late.and_then(|id| run.aimed.remove(&id).map(|(fault, _)| (id, fault)));
            if let Some((id, fault)) = met.or_else(|| too_late(self)) {
                self.cluster.watches.retain(|watch| watch.id != id);
                self.begin(fault);
            } else if stop >= heal_at {
                break;
            } else if let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= stop) {
                let act = entry.remove();
                self.act(act)?;
            }
        }
        self.heal()?;
        self.conclude();
        Ok(())
    }

    fn is_over(&self) -> bool {
        !self.cluster.checks.violations.is_empty()
    }

    /// Goes on to a time, or to a moment that a fault waits for; which then.
    fn advance(&mut self, until: Time) -> Option<(u64, Fault)> {
        let now = self.cluster.now;
        let waits =
            |cluster: &Cluster| cluster.checks.violations.is_empty() && cluster.watches.iter().all(|watch| !watch.met);
        self.cluster.run_while(until.since(now), waits);
        let met = self.cluster.watches.iter().find(|watch| watch.met).map(|watch| watch.id);
        met.and_then(|id| self.aimed.remove(&id).map(|(fault, _)| (id, fault)))
    }

    fn act(&mut self, act: Act) -> Result<(), StartError> {
        match act {
            Act::Connect => {
                let begun = workload::connect(&mut self.cluster, &mut self.random);
                self.begun.push(begun);
            }
            Act::Strike(kind, moment) => self.strike(kind, moment),
            Act::End(id) => self.end(id)?,
            Act::Quiet(since) if since >= self.struck && !self.faults.values().any(|fault| fault.kind.disturbs()) => {
                self.cluster.undisturbed = true;
            }
            Act::Quiet(_) => {}
        }
        Ok(())
    }

    fn strike(&mut self, kind: Kind, moment: Option<State>) {
        let fault = Fault::draw(kind, &self.cluster, &mut self.random);
        match moment {
            None => self.begin(fault),
            Some(state) => {
                self.prepare(state, fault.member);
                self.order += 1;
                let (id, member) = (self.order, kind.strikes_a_member().then_some(fault.member));
                self.cluster.watches.push(Watch { id, member, state, met: false });
                self.aimed.insert(id, (fault, self.cluster.now + PATIENCE));
            }
        }
    }

    /// Some states need a service that is busy, or a client that forgets.
    fn prepare(&mut self, state: State, member: usize) {
        let kind = match state {
            State::Queued => Kind::Clog,
            State::Stalled => Kind::Stall,
            State::Forgotten => return self.begin_anew(member),
            _ => return,
        };
        let mut fault = Fault::draw(kind, &self.cluster, &mut self.random);
        (fault.member, fault.length) = (member, PATIENCE);
        self.begin(fault);
    }

    /// A client forgets a connection of this member, and uses its port again.
    fn begin_anew(&mut self, member: usize) {
        let open = |begun: &&Begun| self.cluster.state_of(begun.flow, member) == Some(State::Idle);
        let open: Vec<Begun> = self.begun.iter().filter(open).copied().collect();
        if !open.is_empty() {
            let forgotten = self.random.pick(&open);
            self.begun.retain(|begun| begun.flow != forgotten.flow);
            self.begun.push(workload::connect_anew(&mut self.cluster, forgotten, &mut self.random));
        }
    }

    fn begin(&mut self, fault: Fault) {
        let now = self.cluster.now;
        if fault.kind.disturbs() {
            self.cluster.undisturbed = false;
            self.struck = now;
        }
        self.coverage.strike(&fault, &self.cluster);
        fault.begin(&mut self.cluster, &mut self.random);
        self.order += 1;
        let id = self.order;
        self.plan_at(now + fault.length, Act::End(id));
        self.faults.insert(id, fault);
        self.impair();
    }

    fn end(&mut self, id: u64) -> Result<(), StartError> {
        let Some(fault) = self.faults.remove(&id) else { return Ok(()) };
        let others: Vec<Fault> = self.faults.values().cloned().collect();
        fault.end(&mut self.cluster, &others)?;
        self.impair();
        if fault.kind.disturbs() || fault.kind == Kind::Leave {
            self.struck = self.cluster.now;
            self.plan_at(self.cluster.now + self.settling(), Act::Quiet(self.struck));
        }
        Ok(())
    }

    fn impair(&mut self) {
        let faults: Vec<Fault> = self.faults.values().cloned().collect();
        fault::impair(&mut self.cluster, &faults);
    }

    fn heal(&mut self) -> Result<(), StartError> {
        let ids: Vec<u64> = self.faults.keys().copied().collect();
        self.agenda.clear();
        self.cluster.watches.clear();
        for id in ids {
            self.end(id)?;
        }
        // One that was told to leave just before comes back too.
        for member in 0..self.cluster.members.len() {
            if self.cluster.members[member].leaving {
                self.cluster.kill(member);
            }
            if self.cluster.members[member].daemon.is_none() {
                self.cluster.start(member)?;
            }
        }
        Ok(())
    }

    /// The longest until roles have converged after a fault: what was started last has to listen first.
    fn settling(&self) -> Duration {
        let options = &self.cluster.options;
        let settings = options.settings(0);
        let listening = (options.heartbeat * (options.missed + 2)).max(50 * MS);
        // Messages take their time.
        listening + settings.detection() + 3 * options.heartbeat + 5 * MS
    }
}
