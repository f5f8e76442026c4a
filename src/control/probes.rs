//! Where a member's metric and the health of its VIPs' services come from.
//!
//! One thread reads the metric, and one for each VIP with a health check asks its service, because files, services
//! and commands may be slow and the control thread must not wait. Their results reach it through a channel, as what
//! [`super::Event::Metric`] and [`super::Event::Health`] say:
//!
//! ```text
//! metric: connections, load, cpu, a file, a command ── each reading ──┐
//! health: TCP, HTTP, a command → verdict ── the first, each change ───┴─► Measured ─► control thread ─► Control::step
//! ```
//!
//! The threads leave real-time scheduling, the control thread's core and the workers' cores by themselves. They ask in
//! the network namespace of the thread that starts them. `docs/probes.md` is the operator's view.

mod command;
mod connect;
mod health;
mod http;
mod metric;
mod stop;
#[cfg(test)]
mod tests;
mod thread;

use std::io;
use std::net::Ipv4Addr;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use self::health::{Prober, Verdict};
use self::metric::Reader;
use self::stop::{Cut, Stop, Stopper};
use crate::config::checked::{Config, Health};
use crate::table::VipIndex;

/// Between two readings of the metric, where no VIP compares metrics more often.
const METRIC_EVERY_MAX: Duration = Duration::from_secs(1);

/// Between two readings at least: the kernel counts load and CPU time in steps, and a command costs something.
const METRIC_EVERY_MIN: Duration = Duration::from_millis(100);

/// Before a verdict is offered again to a channel that was full.
const OFFER_EVERY: Duration = Duration::from_millis(10);

/// How long stopping may take. Longer only where the kernel does not let go of a file or a killed command.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);

/// A probe needs little stack, and the control thread may have locked all memory.
const STACK: usize = 256 << 10;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measured {
    /// This member's metric now; NaN: it can not be read.
    Metric(f64),
    /// The verdict on a VIP's service: the first, or another than before.
    Health {
        /// Which VIP.
        vip: VipIndex,
        /// How it is.
        healthy: bool,
    },
}

/// The probes of a running member. Dropped, they stop at once, whatever they wait for.
pub struct Probes {
    stopper: Option<Stopper>,
    threads: Vec<JoinHandle<()>>,
    /// Disconnected when all threads are done.
    done: Receiver<()>,
}

impl Probes {
    /// Starts measuring. `connections` counts the established connections in the table. To be called when the VIPs
    /// are local addresses: until then their services are found unhealthy.
    ///
    /// Nobody ever waits for `results`: where it is full, a metric is dropped, since the next follows, and a verdict
    /// is kept until there is room. When its receiver is gone, the threads end.
    ///
    /// # Errors
    /// No thread or no socket could be made.
    pub fn start(
        config: &Config,
        connections: impl Fn() -> usize + Send + 'static,
        results: Sender<Measured>,
    ) -> io::Result<Probes> {
        let (stopper, stop) = stop::pair()?;
        let (working, done) = bounded(0);
        let mut probes = Probes { stopper: Some(stopper), threads: Vec::new(), done };
        let workers = &config.dataplane.workers;

        let metric = MetricProbe {
            reader: Reader::new(config, connections),
            every: metric_every(config),
            results: results.clone(),
            stop: stop.clone(),
        };
        probes.spawn("metric".into(), workers, &working, move || metric.run())?;

        for (vip, settings) in (0..).zip(&config.vips) {
            let Some(health) = &settings.health else { continue };
            let probe = HealthProbe {
                vip,
                address: settings.address,
                prober: Prober::new(health, settings.address.into()),
                health: health.clone(),
                results: results.clone(),
                stop: stop.clone(),
            };
            probes.spawn(format!("health-{vip}"), workers, &working, move || probe.run())?;
        }
        Ok(probes)
    }

    fn spawn(
        &mut self,
        name: String,
        workers: &[usize],
        working: &Sender<()>,
        run: impl FnOnce() -> Result<(), Cut> + Send + 'static,
    ) -> io::Result<()> {
        let (workers, working) = (workers.to_vec(), working.clone());
        let body = move || {
            if let Err(why) = thread::unprivileged_scheduling(&workers) {
                tracing::warn!("a probe's thread {why}");
            }
            // It ends only by being stopped.
            let _ = run();
            drop(working);
        };
        self.threads.push(Builder::new().name(name).stack_size(STACK).spawn(body)?);
        Ok(())
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stopper = None;
        match self.done.recv_timeout(STOPPED_WITHIN) {
            // The threads have nothing left to do but to end. None of them panics: a panic aborts the process.
            Err(RecvTimeoutError::Disconnected) => self.threads.drain(..).for_each(|thread| drop(thread.join())),
            Ok(()) | Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("a probe hangs in the kernel, on a file or a killed command; it is left behind");
            }
        }
    }
}

/// As often as metrics are compared, within limits.
fn metric_every(config: &Config) -> Duration {
    let compared = config.vips.iter().filter_map(|vip| vip.rebalance).map(|rebalance| rebalance.every).min();
    compared.unwrap_or(METRIC_EVERY_MAX).clamp(METRIC_EVERY_MIN, METRIC_EVERY_MAX)
}

struct MetricProbe {
    reader: Reader,
    every: Duration,
    results: Sender<Measured>,
    stop: Stop,
}

impl MetricProbe {
    fn run(mut self) -> Result<(), Cut> {
        let mut readable = true;
        let mut due = Instant::now();
        loop {
            let metric = match self.reader.read(&self.stop) {
                Ok(metric) => {
                    if !readable {
                        tracing::info!("the metric can be read again");
                    }
                    readable = true;
                    metric
                }
                Err(Cut::Failed(why) | Cut::Late(why)) => {
                    if readable {
                        tracing::warn!("the metric can not be read: {why}");
                    }
                    readable = false;
                    Some(f64::NAN)
                }
                Err(Cut::Stopped) => return Err(Cut::Stopped),
            };
            if let Some(metric) = metric
                && let Err(TrySendError::Disconnected(_)) = self.results.try_send(Measured::Metric(metric))
            {
                return Err(Cut::Stopped);
            }
            due = next(due, self.every);
            self.stop.sleep_until(due)?;
        }
    }
}

struct HealthProbe {
    vip: VipIndex,
    address: Ipv4Addr,
    prober: Prober,
    health: Health,
    results: Sender<Measured>,
    stop: Stop,
}

impl HealthProbe {
    fn run(mut self) -> Result<(), Cut> {
        let mut verdict = Verdict::default();
        let mut due = Instant::now();
        loop {
            let failure = self.ask()?;
            if let Some(healthy) = verdict.take(failure.is_none()) {
                match failure {
                    Some(why) => tracing::warn!(vip = %self.address, "the service is unhealthy: {why}"),
                    None => tracing::info!(vip = %self.address, "the service is healthy"),
                }
                self.tell(healthy)?;
            }
            due = next(due, self.health.every);
            self.stop.sleep_until(due)?;
        }
    }

    /// Why the service is not well, if it is not.
    ///
    /// What fails has failed. What is late is asked once more, at once: a machine that stands still for as long as
    /// `timeout` (a hypervisor's, or one that is short of memory) makes its own service late, and is not to lose its
    /// roles for that. A service that hangs is late again.
    fn ask(&mut self) -> Result<Option<String>, Cut> {
        let mut ask = || self.prober.probe(Instant::now() + self.health.timeout, &self.stop);
        let answer = match ask() {
            Err(Cut::Late(_)) => ask(),
            answer => answer,
        };
        match answer {
            Ok(()) => Ok(None),
            Err(Cut::Failed(why) | Cut::Late(why)) => Ok(Some(why)),
            Err(Cut::Stopped) => Err(Cut::Stopped),
        }
    }

    /// A verdict must not be lost: it is told once.
    fn tell(&self, healthy: bool) -> Result<(), Cut> {
        let measured = Measured::Health { vip: self.vip, healthy };
        loop {
            match self.results.try_send(measured) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => self.stop.sleep_until(Instant::now() + OFFER_EVERY)?,
                Err(TrySendError::Disconnected(_)) => return Err(Cut::Stopped),
            }
        }
    }
}

/// Keeps the rhythm; what took too long is not made up for.
fn next(due: Instant, every: Duration) -> Instant {
    (due + every).max(Instant::now())
}
