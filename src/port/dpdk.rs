//! Ports on DPDK's queues, set up through capsule.
//!
//! capsule brings EAL up, makes the buffer pools, configures the two ports with a queue pair for each worker, pins the
//! worker threads and ends them. What runs on a worker is ours: a [`Turn`], wrapped as a capsule pipeline, that moves
//! bursts through [`DpdkPort`] without capsule's packet types (docs/capsule.md says what each of the two costs).
//!
//! ```text
//! Runtime::open ─ EAL, pools, ports; nothing moves yet; facts() is known; may be refused with a reason
//!      │            (the place to set the host side up, build tables, start the control thread)
//! Runtime::run ── workers poll ── on_signal(Terminate) = Continue ─► roles are handed over through running workers
//!      │                                                                     │
//!      │                                              Stopper::stop() ◄──────┘ (from any thread)
//!      └───────── workers are dropped on their threads, ports closed, EAL cleaned up, Finished
//! ```
//!
//! This module and those below it are the only ones that name capsule.
#![allow(unsafe_code)] // DPDK is C: every call crosses to it.

mod af_packet;
mod buffer;
mod descriptors;
mod devices;
mod host;
mod interface;
mod large;
mod losses;
mod memory;
mod queue;
mod signal;
mod tap;
mod vhost;
mod vhost_net;
mod worker;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use capsule_ffi as ffi;

use crate::config::checked::Dataplane;
use crate::frame::Mac;

use devices::HostEnd;
use host::HostQueue;

pub use buffer::MbufBuffer;
pub use host::HostPort;
pub use losses::Losses;
pub use queue::DpdkPort;
pub use signal::{Signal, Stopper};
pub use tap::TapPort;
pub use vhost_net::VhostNetPort;
pub use worker::{Turn, WorkerPorts};

/// Why the ports could not be set up or run. The process cannot try again: EAL initialises once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EAL can be initialised only once in a process.
    #[error("DPDK was already set up in this process")]
    AlreadyUsed,
    /// A core that does not exist, or that this process may not use.
    #[error("core {core} is not among the cores that this process may use ({allowed:?})")]
    Core {
        /// The core asked for.
        core: usize,
        /// Those there are.
        allowed: Vec<usize>,
    },
    /// An EAL argument that capsule would tear apart.
    #[error("EAL argument {0:?} contains white space: write each argument as an item of its own")]
    EalArgument(String),
    /// Huge pages are required, but too few are free.
    #[error("huge pages are required, {needed_mib} MiB of them, and {free_mib} MiB are free (see vm.nr_hugepages)")]
    HugePages {
        /// What the pools take.
        needed_mib: usize,
        /// What the kernel has.
        free_mib: usize,
    },
    /// A network interface that cannot be used.
    #[error("interface {name}: {reason}")]
    Interface {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// DPDK or capsule refused; DPDK has said more on standard error.
    #[error("{doing}: {reason}")]
    Dpdk {
        /// What was being done.
        doing: &'static str,
        /// What DPDK calls the error.
        reason: String,
    },
}

/// What is known once the ports are set up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The wire port's own MAC, which the host's TAP has too.
    pub wire_mac: Mac,
    /// Whether the buffers lie in huge pages.
    pub huge_pages: bool,
    /// Buffers in all pools.
    pub buffers: usize,
}

/// What is left after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finished {
    /// Buffers that the ports' receive rings held before the workers started.
    pub buffers_held_before: usize,
    /// Buffers still out once the workers had ended. More than before: frames under way in a device's rings, or a leak.
    pub buffers_held_after: usize,
}

/// DPDK, up and configured. See the module's picture.
pub struct Runtime {
    capsule: capsule::Runtime,
    facts: Facts,
    workers: Vec<usize>,
    control_core: usize,
    ports: devices::Ports,
    /// Of the TAP, one for each worker.
    tap: Vec<File>,
    signals: signal::Signals,
    // Dropped last: what the ports need of the kernel's interfaces lasts as long as they do.
    _wire: Option<interface::WireInterface>,
    _claims: Vec<interface::Claim>,
}

impl Runtime {
    /// Brings DPDK up: EAL, pools, the ports named `wire` and `host`, and a parked thread for each worker.
    ///
    /// `node` keeps the members of one machine apart (EAL's `--file-prefix`). The calling thread is pinned to the
    /// control core, and threads that it starts from now on inherit that. SIGHUP, SIGINT and SIGTERM no longer end the
    /// process: they wait for [`Runtime::run`].
    ///
    /// # Errors
    ///
    /// See [`Error`]. After one, the process has to end.
    pub fn open(setup: &Dataplane, node: &str) -> Result<Runtime, Error> {
        static USED: AtomicBool = AtomicBool::new(false);
        memory::check_cores(setup)?;
        let ports = devices::plan(setup)?;
        let memory = memory::plan(setup)?;
        let config = devices::capsule_config(setup, node, &ports, &memory)?;
        // Relaxed: the flag guards nothing but itself.
        if USED.swap(true, Ordering::Relaxed) {
            return Err(Error::AlreadyUsed);
        }
        let signals = signal::Signals::catch()?;
        let taken = [ports.wire.interface.as_deref(), ports.host.interface()].into_iter().flatten();
        let claims = taken.map(interface::Claim::stake).collect::<Result<_, _>>()?;
        let wire = ports.wire.interface.as_deref().map(interface::WireInterface::prepare).transpose()?;
        for device in [Some(&ports.wire), ports.host.device()].into_iter().flatten() {
            vhost::remove_dead_socket(device).map_err(|reason| Error::Dpdk {
                doing: "removing the socket of a member that has ended",
                reason: reason.to_string(),
            })?;
        }
        if let HostEnd::VhostNet(device, _) = &ports.host {
            let name = CString::new(device.device.as_str());
            ffi::with_offloads(
                name.map_err(|reason| Error::Dpdk { doing: "naming the host port", reason: reason.to_string() })?,
            );
        }
        let real_time = signal::RealTimeSignals::hide();
        let capsule = capsule::Runtime::build(config)
            .map_err(|reason| Error::Dpdk { doing: "setting DPDK up", reason: format!("{reason:#}") })?;
        drop(real_time);
        for device in [Some(&ports.wire), ports.host.device()].into_iter().flatten() {
            device.interface.as_deref().map(af_packet::ignore_outgoing).transpose()?;
        }
        memory::remove_runtime_directory();
        let wire_mac = queue::mac(queue::port_id(&ports.wire)?)?;
        let tap = match &ports.host {
            HostEnd::Tap(name) => tap::open(name, setup.workers.len())?,
            HostEnd::VhostNet(..) | HostEnd::Device(_) => Vec::new(),
        };
        let facts = Facts { wire_mac, huge_pages: memory.huge_pages, buffers: memory::pools().map(memory::size).sum() };
        Ok(Runtime {
            capsule,
            facts,
            workers: setup.workers.clone(),
            control_core: setup.control_core,
            ports,
            tap,
            signals,
            _wire: wire,
            _claims: claims,
        })
    }

    /// What is known by now.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What counts the frames that were lost on their way to the wire's queues.
    ///
    /// # Errors
    ///
    /// If the wire's port is not there.
    pub fn losses(&self) -> Result<Losses, Error> {
        Losses::of(&self.ports.wire, self.workers.len())
    }

    /// Ends the run, from any thread.
    pub fn stopper(&self) -> Stopper {
        self.signals.stopper()
    }

    /// Starts the ports and runs one `W` per worker core until a signal or a [`Stopper`] ends it.
    ///
    /// `make` is called once on each worker's own thread. `on_signal` is called on the control core, the calling thread;
    /// `Break` ends the run at once, `Continue` lets it go on: so a first SIGTERM starts the handover of the roles,
    /// and [`Stopper::stop`] ends the run when that is done. A signal that came since [`Runtime::open`] is reported
    /// first. Workers end between two turns, are dropped on their threads, and then the ports close.
    ///
    /// A panic in a worker aborts the process, whatever the profile says.
    ///
    /// # Errors
    ///
    /// If a port does not start.
    pub fn run<W, M, S>(mut self, make: M, on_signal: S) -> Result<Finished, Error>
    where
        W: Turn + 'static,
        M: Fn(WorkerPorts) -> W + Send + Sync + 'static,
        S: Fn(Signal) -> ControlFlow<()> + 'static,
    {
        let failed = |doing| move |reason: anyhow::Error| Error::Dpdk { doing, reason: format!("{reason:#}") };
        let wire = queue::port_id(&self.ports.wire)?;
        let make = Arc::new(make);
        // First, as they are of the queues that the workers take with them.
        let arrivals = self.arrivals()?;
        let queues = arrivals.into_iter().zip(self.host_queues()?);
        for ((index, &core), (arrivals, host)) in self.workers.iter().enumerate().zip(queues) {
            let make = make.clone();
            let pool = memory::pool_of_core(core)?;
            self.capsule
                .add_pipeline_to_core(core, move |_queues| {
                    // capsule gives the cores of a port, in ascending order, its queues from 0 on.
                    let (wire, host) = (DpdkPort::new(wire, index as u16, pool), host.port(index, pool));
                    worker::Pipeline::new(core, || make(WorkerPorts { core, index, wire, host, arrivals }))
                })
                .map_err(failed("installing a worker"))?;
        }
        self.signals.install(&mut self.capsule, self.control_core, on_signal).map_err(failed("installing signals"))?;
        let buffers_held_before = memory::held();
        self.capsule.execute().map_err(failed("running the ports"))?;
        Ok(Finished { buffers_held_before, buffers_held_after: memory::held() })
    }

    /// For each worker what tells it of frames.
    fn arrivals(&self) -> Result<Vec<Option<[OwnedFd; 2]>>, Error> {
        let failed =
            |reason: io::Error| Error::Dpdk { doing: "looking for the ports' descriptors", reason: reason.to_string() };
        let queues = self.workers.len();
        let wire = descriptors::of_device(&self.ports.wire, queues).map_err(failed)?;
        let host = match &self.ports.host {
            HostEnd::Tap(_) => self.tap.iter().map(TapPort::arrivals).collect::<io::Result<_>>().map(Some),
            HostEnd::VhostNet(..) => Ok(None),
            HostEnd::Device(device) => descriptors::of_device(device, queues),
        };
        Ok(match (wire, host.map_err(failed)?) {
            (Some(wire), Some(host)) => wire.into_iter().zip(host).map(|(wire, host)| Some([wire, host])).collect(),
            _ => self.workers.iter().map(|_| None).collect(),
        })
    }

    /// For each worker its way to the host.
    fn host_queues(&mut self) -> Result<Vec<HostQueue>, Error> {
        match &self.ports.host {
            HostEnd::Tap(_) => Ok(self.tap.drain(..).map(HostQueue::Tap).collect()),
            HostEnd::VhostNet(device, _) => {
                let port = queue::port_id(device)?;
                Ok(self.workers.iter().map(|_| HostQueue::VhostNet(port)).collect())
            }
            HostEnd::Device(device) => {
                let port = queue::port_id(device)?;
                Ok(self.workers.iter().map(|_| HostQueue::Device(port)).collect())
            }
        }
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("facts", &self.facts).field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// What DPDK calls an error, from a negative result or, where that is -1, from `rte_errno`.
fn dpdk_error(doing: &'static str, result: i32) -> Error {
    // SAFETY: reads a thread-local variable.
    let number = if result == -1 { unsafe { ffi::_rte_errno() } } else { -result };
    // SAFETY: DPDK returns a C string, static or in thread-local memory, for any number.
    let text = unsafe { std::ffi::CStr::from_ptr(ffi::rte_strerror(number)) };
    Error::Dpdk { doing, reason: text.to_string_lossy().into_owned() }
}
