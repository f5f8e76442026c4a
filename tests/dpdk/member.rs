//! The process under test: two ports and a worker that hands frames from each to the other.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton::config::checked::{Dataplane, Host, HostDevice, HugePages, Poll, Wire};
use baton::port::dpdk::{MbufBuffer, Runtime, Signal, Turn, WorkerPorts};
use baton::port::{Buffer, Burst, Port};
use baton::wait::{Bell, Wait, Woken};

#[derive(Default)]
struct Counters {
    from_wire: AtomicU64,
    from_host: AtomicU64,
    not_whole: AtomicU64,
    refused: AtomicU64,
    late: AtomicU64,
    turns: AtomicU64,
}

/// Hands whole frames on; what the other port refuses is dropped and counted.
struct Forwarder {
    ports: WorkerPorts,
    burst: Burst<MbufBuffer>,
    counters: Arc<Counters>,
    sleep: bool,
    // Instead: waits for the kernel to tell of frames.
    wait: Option<Wait>,
    panic_at: u64,
    // Bursts are handed on as they come, as dpdk-testpmd does in its io mode: for comparing the two.
    plain: bool,
    forwarded: u64,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        say(&format!("dropped worker={} forwarded={}", self.ports.index, self.forwarded));
    }
}

impl Forwarder {
    fn send(ports: &mut WorkerPorts, burst: &mut Burst<MbufBuffer>, to_host: bool) {
        if to_host { ports.host.send(burst) } else { ports.wire.send(burst) }
    }

    fn forward(&mut self, to_host: bool) -> bool {
        let counters = &self.counters;
        let WorkerPorts { wire, host, .. } = &mut self.ports;
        let count = if to_host {
            wire.receive(&mut self.burst);
            &counters.from_wire
        } else {
            host.receive(&mut self.burst);
            &counters.from_host
        };
        if self.burst.is_empty() {
            return false;
        }
        count.fetch_add(self.burst.len() as u64, Ordering::Relaxed);
        if self.plain {
            Self::send(&mut self.ports, &mut self.burst, to_host);
            self.burst.clear();
            return true;
        }
        let all = self.burst.len();
        self.forwarded += all as u64;
        self.burst.retain(|buffer| buffer.is_whole());
        counters.not_whole.fetch_add((all - self.burst.len()) as u64, Ordering::Relaxed);
        Self::send(&mut self.ports, &mut self.burst, to_host);
        counters.refused.fetch_add(self.burst.len() as u64, Ordering::Relaxed);
        self.burst.clear();
        true
    }
}

impl Turn for Forwarder {
    fn turn(&mut self) -> bool {
        let turns = self.counters.turns.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(turns != self.panic_at, "a worker panics, as asked for");
        if self.forward(true) | self.forward(false) {
            return false;
        }
        match &self.wait {
            Some(wait) => {
                if wait.wait(LONGEST_WAIT) == Woken::ByTime && (self.forward(true) | self.forward(false)) {
                    self.counters.late.fetch_add(1, Ordering::Relaxed);
                }
            }
            None if self.sleep => std::thread::sleep(Duration::from_micros(100)),
            None => return false,
        }
        true
    }
}

/// So long that who is not told of a frame misses it.
const LONGEST_WAIT: Duration = Duration::from_millis(900);

fn value<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

/// Runs until told to stop. Says `open …` when the ports are set up, `worker …` when one starts, `dropped …` when it ends,
/// `signal …` for each, and `finished …` with the counters in the end.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let number = |name: &str, default: usize| value(arguments, name).map_or(default, |text| text.parse().unwrap());
    let wire = value(arguments, "wire").unwrap();
    let host = value(arguments, "host").unwrap();
    let control_core = number("control", 0);
    let dataplane = Dataplane {
        wire: match wire.split_once(':').unwrap() {
            ("interface", name) => Wire::Interface(name.to_owned()),
            (_, vdev) => Wire::Vdev(vdev.to_owned()),
        },
        host: Host {
            device: match host.split_once(':').unwrap() {
                ("tap", name) => HostDevice::Tap(name.to_owned()),
                (_, vdev) => HostDevice::Vdev(vdev.to_owned()),
            },
            address: None,
        },
        workers: value(arguments, "workers").unwrap_or("1").split(',').map(|core| core.parse().unwrap()).collect(),
        control_core,
        poll: Poll::Busy,
        connections: 1,
        buffers: 0,
        huge_pages: match value(arguments, "huge") {
            Some("require") => HugePages::Require,
            Some("auto") => HugePages::Auto,
            _ => HugePages::Never,
        },
        eal: value(arguments, "eal").map(|text| text.split(';').map(str::to_owned).collect()).unwrap_or_default(),
    };
    let sleep = value(arguments, "poll") == Some("adaptive");
    let told = value(arguments, "poll") == Some("told");
    let plain = value(arguments, "forward") == Some("plain");
    let panic_at = number("panic_at", 0) as u64;
    let handover = value(arguments, "handover").map(|millis| Duration::from_millis(millis.parse().unwrap()));

    let runtime = Runtime::open(&dataplane, value(arguments, "name").unwrap()).map_err(|error| error.to_string())?;
    say(&format!("open {:?}", runtime.facts()));
    let stopper = runtime.stopper();
    if value(arguments, "stop") == Some("before") {
        stopper.stop();
    }
    if let Some(pause) = value(arguments, "pause") {
        std::thread::sleep(Duration::from_millis(pause.parse().unwrap()));
    }
    let counters = Arc::new(Counters::default());
    let theirs = counters.clone();
    let make = move |mut ports: WorkerPorts| {
        say(&format!("worker {} on core {}", ports.index, ports.core));
        let arrivals = ports.arrivals.take().filter(|_| told);
        let wait = arrivals.map(|queues| Wait::new(queues, Bell::new().unwrap()));
        assert_eq!(wait.is_some(), told, "the kernel has descriptors for these ports");
        Forwarder { ports, burst: Burst::new(), counters: theirs.clone(), sleep, wait, panic_at, plain, forwarded: 0 }
    };
    let on_signal = move |signal| {
        say(&format!("signal {signal:?}"));
        match (signal, handover) {
            (Signal::Hangup, _) => ControlFlow::Continue(()),
            (_, None) => ControlFlow::Break(()),
            (_, Some(handover)) => {
                let stopper = stopper.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(handover);
                    say("handed over");
                    stopper.stop();
                });
                ControlFlow::Continue(())
            }
        }
    };
    let finished = runtime.run(make, on_signal).map_err(|error| error.to_string())?;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    say(&format!(
        "finished from_wire={} from_host={} not_whole={} refused={} late={} turns={} held_before={} held_after={}",
        load(&counters.from_wire),
        load(&counters.from_host),
        load(&counters.not_whole),
        load(&counters.refused),
        load(&counters.late),
        load(&counters.turns),
        finished.buffers_held_before,
        finished.buffers_held_after,
    ));
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}
