//! The probes against real listeners, servers, files and commands of this machine.

mod commands;
mod namespace;
mod services;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError, bounded, unbounded};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::metric::Reader;
use super::*;
use crate::config::checked::{HttpUrl, Metric, Probe, Rebalance};
use crate::config::{self, For, key::Key};

/// Stands in for a VIP: a local address everywhere.
const VIP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Long enough for any machine; nothing here waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// A time that never comes.
const HOUR: Duration = Duration::from_secs(3600);

/// A member with this metric, and a VIP for each of the health checks.
fn config(metric: Metric, checks: Vec<Health>) -> Config {
    let directory = tempfile::tempdir().unwrap();
    Key::generate().unwrap().write_new(&directory.path().join("key")).unwrap();
    let text = "
        cluster: {name: test, key_file: key}
        node: {name: s1}
        vips: [{address: 10.0.0.100/24}]
        dataplane: {wire: {interface: eth0}, host: {tap: vip0}, workers: [1], control_core: 0}";
    let mut config = config::parse(text, directory.path(), For::AnyMachine).unwrap();
    config.node.metric = metric;
    config.dataplane.workers.clear();
    let mut vip = config.vips.remove(0);
    vip.address = VIP;
    config.vips =
        checks.into_iter().map(|health| config::checked::Vip { health: Some(health), ..vip.clone() }).collect();
    config
}

/// Asks every few milliseconds and takes its time.
fn health(probe: Probe) -> Health {
    Health { probe, every: Duration::from_millis(5), timeout: PATIENCE }
}

fn http(url: &str) -> Probe {
    Probe::Http(HttpUrl::parse(url).unwrap())
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(String::from).into()
}

/// The next verdict. Metrics are passed over.
fn verdict(results: &Receiver<Measured>) -> Result<(VipIndex, bool), RecvTimeoutError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Measured::Health { vip, healthy } = results.recv_deadline(deadline)? {
            return Ok((vip, healthy));
        }
    }
}

/// The next metric. Verdicts are passed over.
fn metric(results: &Receiver<Measured>) -> f64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Measured::Metric(metric) = results.recv_deadline(deadline).unwrap() {
            return metric;
        }
    }
}

/// Drops the probes, and sees to it that every thread has really ended: each had a sender.
fn stop(probes: Probes, results: &Receiver<Measured>) {
    let start = Instant::now();
    drop(probes);
    let took = start.elapsed();
    while results.try_recv().is_ok() {}
    assert_eq!(results.try_recv(), Err(TryRecvError::Disconnected), "a thread was left behind");
    assert!(took < STOPPED_WITHIN, "stopping took {took:?}");
}

#[test]
fn verdicts_come_once_for_each_change() {
    let listener = TcpListener::bind((VIP, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let file = tempfile::NamedTempFile::new().unwrap();
    let check = Probe::Command(vec!["test".into(), "-s".into(), file.path().to_str().unwrap().into()]);
    let config = config(Metric::Connections, vec![health(Probe::Tcp(port)), health(check)]);
    let (sender, results) = unbounded();
    let probes = Probes::start(&config, || 42, sender).unwrap();
    let mut first = [verdict(&results).unwrap(), verdict(&results).unwrap()];
    first.sort_unstable();
    assert_eq!(first, [(0, true), (1, false)]);
    fs::write(file.path(), "well").unwrap();
    assert_eq!(verdict(&results), Ok((1, true)));
    drop(listener);
    assert_eq!(verdict(&results), Ok((0, false)));
    let _listener = TcpListener::bind((VIP, port)).unwrap();
    assert_eq!(verdict(&results), Ok((0, true)));
    // From here on nothing changes: what comes is the metric.
    for _ in 0..3 {
        assert_eq!(results.recv_timeout(PATIENCE), Ok(Measured::Metric(42.0)));
    }
    stop(probes, &results);
}

#[test]
fn stopping_waits_for_nothing() {
    let silent = TcpListener::bind((VIP, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let checks = vec![
        Health { probe: Probe::Tcp(port), every: HOUR, timeout: HOUR },
        Health { probe: http(&format!("http://{VIP}:{port}/")), every: HOUR, timeout: HOUR },
        Health { probe: Probe::Command(shell("sleep 3600 & trap '' TERM; sleep 3600")), every: HOUR, timeout: HOUR },
    ];
    let config = config(Metric::Connections, checks);
    let (sender, results) = unbounded();
    let probes = Probes::start(&config, || 0, sender).unwrap();
    assert_eq!(verdict(&results), Ok((0, true)));
    // The HTTP probe waits for an answer now.
    let _accepted = silent.accept().unwrap();
    stop(probes, &results);
}

#[test]
fn a_full_channel_delays_a_verdict_and_stops_nobody() {
    let config = config(Metric::Connections, vec![health(Probe::Command(vec!["true".into()]))]);
    let (sender, results) = bounded(1);
    sender.send(Measured::Metric(1.0)).unwrap();
    let probes = Probes::start(&config, || 0, sender.clone()).unwrap();
    assert_eq!(verdict(&results), Ok((0, true)));
    let _ = sender.try_send(Measured::Metric(1.0));
    drop(sender);
    stop(probes, &results);
}

#[test]
fn threads_end_when_nobody_listens() {
    let config = config(Metric::Connections, vec![health(Probe::Command(vec!["true".into()]))]);
    let (sender, results) = bounded(1);
    drop(results);
    let probes = Probes::start(&config, || 0, sender).unwrap();
    // Not by being stopped.
    assert_eq!(probes.done.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
}

/// What tracing writes on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_unreadable_metric_is_unknown_and_said_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metric");
    let put = |text: &str| {
        // Renamed into place, so that no reading falls between two writes.
        let next = directory.path().join("next");
        fs::write(&next, text).unwrap();
        fs::rename(&next, &path).unwrap();
    };
    put("1.5");
    let (_stopper, stop) = stop::pair().unwrap();
    let (sender, results) = bounded(0);
    let reader = Reader::new(&config(Metric::File(path.clone()), Vec::new()), || 0);
    let probe = MetricProbe { reader, every: Duration::from_millis(1), results: sender, stop };
    let log = Log::default();
    let writer = log.clone();
    let thread = std::thread::spawn(move || {
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || probe.run())
    });
    let until = |wanted: &dyn Fn(f64) -> bool| while !wanted(metric(&results)) {};
    until(&|metric| metric == 1.5);
    for text in ["three", "", "NaN"] {
        put(text);
        (0..20).for_each(|_| until(&f64::is_nan));
    }
    put("2");
    until(&|metric| metric == 2.0);
    fs::remove_file(&path).unwrap();
    until(&f64::is_nan);
    drop(results);
    assert!(matches!(thread.join().unwrap(), Err(Cut::Stopped)));
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].contains("can not be read: \"three\" is not a number"), "{said}");
    assert!(lines[1].contains("can be read again"), "{said}");
    assert!(lines[2].contains("No such file"), "{said}");
}

#[test]
fn metrics_are_read_as_often_as_they_are_compared() {
    let rebalance = |millis| Some(Rebalance { every: Duration::from_millis(millis), margin: 0.2, hold: HOUR });
    let mut config = config(Metric::Load, vec![health(Probe::Tcp(1)), health(Probe::Tcp(1))]);
    assert_eq!(metric_every(&config), Duration::from_secs(1));
    for (every, expected) in [(5000, 1000), (300, 300), (1, 100)] {
        config.vips[1].rebalance = rebalance(every);
        assert_eq!(metric_every(&config), Duration::from_millis(expected));
    }
}

#[test]
fn load_and_cpu_of_this_machine_are_measured() {
    for kind in [Metric::Load, Metric::Cpu] {
        let (sender, results) = unbounded();
        let probes = Probes::start(&config(kind.clone(), Vec::new()), || 0, sender).unwrap();
        let measured = metric(&results);
        assert!(measured >= 0.0 && (kind == Metric::Load || measured <= 100.0), "{kind:?}: {measured}");
        stop(probes, &results);
    }
}

#[test]
fn threads_leave_the_core_they_inherit_and_the_workers_cores() {
    let inherited = sched_getaffinity(None).unwrap();
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| inherited.is_set(core)).collect();
    let (worker, last) = (cores[0], cores[cores.len() - 1]);
    let free = std::thread::spawn(move || {
        let mut one = CpuSet::new();
        one.set(worker);
        sched_setaffinity(None, &one).unwrap();
        thread::unprivileged_scheduling(&[worker]).unwrap();
        sched_getaffinity(None).unwrap()
    });
    let free = free.join().unwrap();
    assert!(free.is_set(last));
    // A machine of one core has no other.
    assert!(!free.is_set(worker) || cores.len() == 1);
}

#[test]
fn threads_leave_real_time_scheduling() {
    /// Field 41 of proc_pid_stat(5); the second, in parentheses, may have spaces.
    fn policy() -> String {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(41 - 3).unwrap().into()
    }
    let policies = std::thread::spawn(|| {
        crate::host::urgent();
        let inherited = policy();
        thread::unprivileged_scheduling(&[]).unwrap();
        (inherited, policy())
    });
    let (inherited, own) = policies.join().unwrap();
    if inherited != libc::SCHED_FIFO.to_string() {
        println!("skipped: needs CAP_SYS_NICE");
    }
    assert_eq!(own, libc::SCHED_OTHER.to_string());
}
