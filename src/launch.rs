//! The one place that knows everything: the host side, the tables, the ports, the threads, and in which order they come
//! up and go down.
//!
//! ```text
//! up:   host side (TAP, addresses, rules) → DPDK ports → table rebuilt from the kernel's sockets → control socket and
//!       metrics → control thread → workers → "ready"
//! down: roles handed over, goodbye → workers → control thread → sockets → ports → host side undone
//! ```

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Sender, bounded, unbounded};

use crate::classify::{Facts, VipFacts};
use crate::config::Config;
use crate::config::checked::{self, Poll, Wire};
use crate::control::probes::Probes;
use crate::control::thread::{Command, Ended, Inlets, Shell, WorkerView};
use crate::control::truth::Truth;
use crate::control::{BadName, Control, Identity, Settings, socket};
use crate::counters::Counters;
use crate::frame::Mac;
use crate::host::{self, HostKernel, HostPlan, HostSide, TapLosses};
use crate::idle::{Idle, Pause};
use crate::kept::{self, Kept};
use crate::metrics;
use crate::orphans::Suspicions;
use crate::port::dpdk::{self, Runtime, Signal, Turn, WorkerPorts};
use crate::shared::Shared;
use crate::table::{Established, Fragments, HalfOpen, Handshakes, Hasher, TableError};
use crate::time::Clock;
use crate::wait::{Bell, Wait};
use crate::worker::{Member, Worker};

/// SYNs remembered: at most so many, at least [`FEWEST_RECORDS`], else as many as connections.
const MOST_RECORDS: usize = 1 << 20;

/// Enough for 100 ms at the rate that a testbed's flood reaches.
const FEWEST_RECORDS: usize = 1 << 16;

/// SYNs that a worker keeps, in at most 11 MB: a third of a second of 200,000 a second.
const KEPT_SYNS: usize = 1 << 16;
/// Clients of other members that are watched for repeats: all that send data within a second at 50,000 connections, in
/// 2 MiB.
const SUSPICIONS: usize = 1 << 16;

/// The MTU of a wire whose interface the kernel does not know.
const MTU: u32 = 1500;

/// Why a member cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host side.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The ports.
    #[error(transparent)]
    Ports(#[from] dpdk::Error),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] socket::StartError),
    /// The node's name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The tables.
    #[error("the connection table: {0}")]
    Table(#[from] TableError),
    /// Anything else that the system refused.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        why: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |why| Error::System { what, why }
}

/// A worker on DPDK's ports, with its idling.
struct Pinned {
    worker: Worker<dpdk::DpdkPort, dpdk::HostPort>,
    idle: Idle,
    wait: Option<Wait>,
    clock: Clock,
}

impl Turn for Pinned {
    fn turn(&mut self) -> bool {
        let frames = self.worker.turn();
        let pause = self.idle.after_turn(frames);
        let until_due =
            |longest: Duration| self.worker.due_in(self.clock.now()).map_or(longest, |due| due.min(longest));
        match (pause, &self.wait) {
            (Pause::None, _) => return false,
            (Pause::Wait(longest), Some(wait)) => self.idle.woken(wait.wait(until_due(longest))),
            (Pause::Wait(longest) | Pause::Sleep(longest), _) => std::thread::sleep(until_due(longest)),
        }
        true
    }
}

/// Runs a member until SIGTERM or SIGINT, and leaves cleanly; or until SIGHUP, if `reload` then says that there is a right
/// configuration to start anew with. In that case the host side stays as it is, for the next run to adopt: its kernel
/// keeps the connections meanwhile.
///
/// # Errors
/// What keeps it from running. The host side is undone then, as far as it was set up.
pub fn run(config: &Config, reload: Box<dyn Fn() -> bool + Send>) -> Result<Ended, Error> {
    let (mac, mtu) = match &config.dataplane.wire {
        Wire::Interface(name) => {
            let wire = host::interface(name)?.ok_or_else(|| host::Error::NoSuchInterface { name: name.clone() })?;
            (Some(wire.mac), wire.mtu)
        }
        Wire::Pci(_) | Wire::Vdev(_) => (None, MTU),
    };
    let plan = HostPlan::new(&config.dataplane, &config.vips, mac, Some(mtu));
    let mut host = HostSide::raise(&plan, &beside(&config.control_socket, "journal"))?;
    host.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    if host.adopted() {
        tracing::info!("the host side of an earlier run was found and kept");
    }
    let ran = run_with(config, &mut host, mtu, reload);
    if let Ok(Ended::Returning) = ran {
        return ran;
    }
    let undone = host.undo();
    let ended = ran?;
    undone?;
    Ok(ended)
}

/// Everything between the host side's coming up and its going down.
fn run_with(
    config: &Config,
    host: &mut HostSide,
    mtu: u32,
    reload: Box<dyn Fn() -> bool + Send>,
) -> Result<Ended, Error> {
    let clock = Clock::start();
    let runtime = Runtime::open(&config.dataplane, &config.node.name)?;
    let own_mac = runtime.facts().wire_mac;
    host.attached(own_mac, mtu)?;

    let mut member = member(config, own_mac)?;
    let addresses = config.vips.iter().map(|vip| vip.address).collect();
    let tap = host.tap()?.map_or(0, |tap| tap.index);
    let mut kernel = HostKernel::open(tap, addresses).map_err(system("listening to the kernel's sockets"))?;
    let rebuilt = Truth::rebuild(&member.established, &mut kernel, clock.now());
    let (truth, rebuilt) = rebuilt.map_err(system("rebuilding the connection table from the kernel's sockets"))?;
    let (connections, half_open) = (rebuilt.connections, rebuilt.half_open.len());
    tracing::info!(connections, half_open, "the connection table is rebuilt");
    member.half_open = rebuilt.half_open;
    let member = Arc::new(member);

    let (asks, asked) = bounded(64);
    let (commands, commanded) = unbounded();
    let (measurements, measured) = bounded(64);
    let _socket = socket::Server::start(&config.control_socket, asks.clone())?;
    let _metrics = config
        .metrics_listen
        .map(|address| metrics::server::Server::start(address, asks.clone()))
        .transpose()
        .map_err(system("serving metrics"))?;
    let counted = Arc::clone(&member);
    let _probes = Probes::start(config, move || counted.established.len(), measurements)
        .map_err(system("starting the probes of metric and health"))?;

    let adaptive = config.dataplane.poll == Poll::Adaptive;
    let bell = adaptive.then(Bell::new).transpose().map_err(system("making a bell for the workers"))?;
    let workers: Vec<_> = config.dataplane.workers.iter().map(|_| Arc::new(Counters::default())).collect();
    let mut losses = runtime.losses()?;
    let tap_losses = config.dataplane.host.device.tap().map(|tap| TapLosses::of(tap.name)).transpose();
    let mut tap_losses = tap_losses.map_err(system("reading what the TAP has lost"))?;
    let shell = Shell {
        control: Control::new(Settings::from_config(config, own_mac)?, identity(&config.control_socket)?, clock.now()),
        config: config.clone(),
        member: Arc::clone(&member),
        workers: config
            .dataplane
            .workers
            .iter()
            .zip(&workers)
            .map(|(&core, counters)| WorkerView { core, counters: Arc::clone(counters) })
            .collect(),
        clock,
        inlets: Inlets { asks: asked, commands: commanded, measured },
        kernel,
        truth,
        lost_by_wire: Box::new(move || losses.read()),
        lost_by_host: Box::new(move || tap_losses.as_mut().map_or(0, TapLosses::read)),
        bell: bell.clone(),
        reload,
    };
    let stopper = runtime.stopper();
    let control = std::thread::Builder::new().name("control".into()).spawn(move || {
        host::urgent();
        let ended = shell.run();
        stopper.stop();
        ended
    });
    let control = control.map_err(system("starting the control thread"))?;

    let poll = config.dataplane.poll;
    let keep_for = kept::keep_for(config.cluster.heartbeat, config.cluster.missed);
    let (heartbeat, missed) = (config.cluster.heartbeat, config.cluster.missed);
    let make = move |ports: WorkerPorts| {
        if poll == Poll::Adaptive {
            host::urgent();
        }
        let wait = ports.arrivals.zip(bell.clone()).map(|(queues, bell)| Wait::new(queues, bell));
        let counters = Arc::clone(&workers[ports.index]);
        let kept = Kept::new(KEPT_SYNS, keep_for, member.facts.vips.len());
        let worker = Worker::new(Arc::clone(&member), counters, clock, kept, ports.wire, ports.host);
        Pinned { worker, idle: Idle::new(poll, heartbeat, missed, wait.is_some()), wait, clock }
    };
    let finished = runtime.run(make, move |signal| command(&commands, signal));
    // If the ports did not run, the control thread waits for workers that never come: it ends with the process.
    let finished = finished?;
    tracing::debug!(?finished, "the ports are closed");
    control.join().map_err(|_| Error::System { what: "the control thread", why: io::Error::other("it has failed") })
}

/// The first signal to end starts the handover, which ends the run itself; the second ends it at once.
fn command(commands: &Sender<Command>, signal: Signal) -> ControlFlow<()> {
    let command = if signal == Signal::Hangup { Command::Reload } else { Command::Leave };
    match commands.send(command) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

fn member(config: &Config, own_mac: Mac) -> Result<Member, Error> {
    let vip = |vip: &checked::Vip| VipFacts {
        address: vip.address,
        mac: vip.mac,
        ports: vip.ports.clone(),
        hedge: vip.hedge,
        orphans: vip.orphans_after.is_some(),
    };
    let facts = Facts {
        own_mac,
        vips: config.vips.iter().map(vip).collect(),
        heartbeat: config.cluster.ethertype,
        shared_wire: matches!(config.dataplane.wire, Wire::Interface(_)),
    };
    let huge_pages = config.dataplane.huge_pages;
    let records = config.dataplane.connections.next_power_of_two().clamp(FEWEST_RECORDS, MOST_RECORDS);
    Ok(Member {
        facts,
        shared: Arc::new(Shared::new(config.vips.len())),
        established: Established::new(config.dataplane.connections, Hasher::of_this_cpu(random()?), huge_pages)?,
        handshakes: Handshakes::new(records, huge_pages)?,
        half_open: HalfOpen::default(),
        fragments: Fragments::new(),
        suspicions: Suspicions::new(SUSPICIONS),
    })
}

/// Who this run is.
fn identity(socket: &Path) -> Result<Identity, Error> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(system("reading the boot id"))?;
    let digits: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
    let boot_id = u128::from_str_radix(&digits, 16)
        .map_err(|_| Error::System { what: "reading the boot id", why: io::ErrorKind::InvalidData.into() })?
        .to_be_bytes();
    Ok(Identity {
        boot_id,
        incarnation: next_incarnation(&beside(socket, "incarnation"))?,
        nonce: u64::from_be_bytes(random()?),
    })
}

/// Greater than that of every run before: one more than the last one's, and at least the seconds since 1970, so that a
/// lost file does no harm where the clock is right, nor a wrong clock where the file is there.
fn next_incarnation(file: &Path) -> Result<u64, Error> {
    let last = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let next = (last + 1).max(clock);
    std::fs::write(file, format!("{next}\n")).map_err(system("writing the incarnation beside the control socket"))?;
    Ok(next)
}

/// A file beside the control socket: `baton.sock` has `baton.sock.journal`.
fn beside(socket: &Path, what: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| system("reading random bytes")(error.into()))?;
    Ok(bytes)
}
