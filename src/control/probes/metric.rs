//! A member's metric: one number, lower is better.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command::Program;
use super::stop::{Cut, Stop};
use crate::config::checked::{Config, Metric, Poll};

/// How long a command may take for a number. Meanwhile the last one stands.
pub(super) const COMMAND_WITHIN: Duration = Duration::from_secs(2);

/// The most bytes of a file that holds a number.
const FILE_MAX: u64 = 4096;

/// Reads the metric.
pub(super) enum Reader {
    Connections(Box<dyn Fn() -> usize + Send>),
    Load,
    Cpu(Cpu),
    File(PathBuf),
    Command(Program),
}

impl Reader {
    pub(super) fn new(config: &Config, connections: impl Fn() -> usize + Send + 'static) -> Reader {
        match &config.node.metric {
            Metric::Connections => Reader::Connections(Box::new(connections)),
            Metric::Load => Reader::Load,
            Metric::Cpu => Reader::Cpu(Cpu::new(match config.dataplane.poll {
                Poll::Busy => &config.dataplane.workers,
                Poll::Adaptive => &[],
            })),
            Metric::File(path) => Reader::File(path.clone()),
            Metric::Command(words) => Reader::Command(Program::new(words)),
        }
    }

    /// The metric now, a finite number; `None` where it takes another reading to tell.
    pub(super) fn read(&mut self, stop: &Stop) -> Result<Option<f64>, Cut> {
        match self {
            Reader::Connections(count) => Ok(Some(count() as f64)),
            Reader::Load => load(&text_of(Path::new("/proc/loadavg"))?).map(Some).map_err(Cut::Failed),
            Reader::Cpu(cpu) => cpu.read(&text_of(Path::new("/proc/stat"))?).map_err(Cut::Failed),
            Reader::File(path) => number(&text_of(path)?).map(Some).map_err(Cut::Failed),
            Reader::Command(program) => {
                let output = program.output(Instant::now() + COMMAND_WITHIN, stop)?;
                number(&String::from_utf8_lossy(&output)).map(Some).map_err(Cut::Failed)
            }
        }
    }
}

/// The file's text. A named pipe is not waited for: it reads as empty.
fn text_of(path: &Path) -> Result<String, Cut> {
    let read = || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let mut bytes = Vec::new();
        // /proc/stat grows with the machine's cores and interrupts: some 10 bytes for each.
        let limit = if path.starts_with("/proc") { 1 << 20 } else { FILE_MAX };
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|error: std::io::Error| Cut::Failed(format!("can not read {}: {error}", path.display())))
}

/// The one number that the text is, apart from white space.
fn number(text: &str) -> Result<f64, String> {
    const SHOWN: usize = 40;
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => {
            let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
            Err(format!("{:?}{more} is not a number", text.chars().take(SHOWN).collect::<String>()))
        }
    }
}

/// The one-minute load average: the first field of /proc/loadavg (proc_loadavg(5)).
fn load(text: &str) -> Result<f64, String> {
    number(text.split_whitespace().next().unwrap_or_default())
}

/// The busy share of this machine's time between two readings of /proc/stat.
#[derive(Default)]
pub(super) struct Cpu {
    /// The cores of workers that poll without a pause: always busy, also where there is no work.
    workers: Vec<usize>,
    last: Vec<Core>,
}

/// A core's time since boot, in ticks of 10 ms.
#[derive(Clone, Copy)]
struct Core {
    number: usize,
    busy: u64,
    idle: u64,
}

impl Cpu {
    fn new(workers: &[usize]) -> Cpu {
        Cpu { workers: workers.to_vec(), last: Vec::new() }
    }

    /// 0 to 100; `None` if no time has passed that can be compared.
    fn read(&mut self, text: &str) -> Result<Option<f64>, String> {
        let mut cores: Vec<Core> = text.lines().filter_map(Core::parse).collect();
        if cores.is_empty() {
            return Err("/proc/stat tells of no core".into());
        }
        if cores.iter().any(|core| !self.workers.contains(&core.number)) {
            cores.retain(|core| !self.workers.contains(&core.number));
        }
        let (mut busy, mut idle) = (0, 0);
        for core in &cores {
            // A core that was not there before has nothing to compare with. Times may step back a little (iowait).
            let Some(last) = self.last.iter().find(|last| last.number == core.number) else { continue };
            busy += core.busy.saturating_sub(last.busy);
            idle += core.idle.saturating_sub(last.idle);
        }
        self.last = cores;
        Ok((busy + idle > 0).then(|| 100.0 * busy as f64 / (busy + idle) as f64))
    }
}

impl Core {
    /// From a line `cpuN user nice system idle iowait irq softirq steal …` (proc_stat(5)). What follows, the time of
    /// guests, is part of `user` and `nice`.
    fn parse(line: &str) -> Option<Core> {
        let mut fields = line.strip_prefix("cpu")?.split_whitespace();
        // The first line, the sum of all, has no number.
        let number = if line.starts_with("cpu ") { None } else { fields.next()?.parse().ok() }?;
        let times: Vec<u64> = fields.take(8).map_while(|field| field.parse().ok()).collect();
        let idle = times.get(3)? + times.get(4).unwrap_or(&0);
        Some(Core { number, busy: times.iter().sum::<u64>() - idle, idle })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_finite() {
        for (text, expected) in [("3", 3.0), (" -1.5e3\n", -1500.0), ("0", 0.0), ("+7.", 7.0)] {
            assert_eq!(number(text), Ok(expected));
        }
        for text in ["", " ", "3 4", "NaN", "inf", "-infinity", "1e400", "0x10", "3,5", "12ms", "\0"] {
            assert!(number(text).is_err(), "{text:?}");
        }
        let long = number(&"é".repeat(5000)).unwrap_err();
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn the_first_load_average_counts() {
        assert_eq!(load("0.42 1.00 2.00 1/234 5678\n"), Ok(0.42));
        assert!(load("").is_err());
    }

    fn stat(cores: &[(usize, [u64; 10])]) -> String {
        let line = |(number, times): &(usize, [u64; 10])| {
            format!("cpu{number} {}\n", times.map(|time| time.to_string()).join(" "))
        };
        format!("cpu  9 9 9 9 9 9 9 9 9 9\n{}intr 5 4\nctxt 7\n", cores.iter().map(line).collect::<String>())
    }

    #[test]
    fn cpu_is_the_share_since_the_last_reading() {
        let mut cpu = Cpu::new(&[]);
        assert_eq!(cpu.read(&stat(&[(0, [100, 0, 0, 900, 0, 0, 0, 0, 50, 0])])), Ok(None));
        // 30 busy, 10 idle, 60 waiting for a disk; a guest's 20 are within the 30.
        assert_eq!(cpu.read(&stat(&[(0, [120, 0, 5, 910, 60, 0, 4, 1, 70, 0])])), Ok(Some(30.0)));
        assert_eq!(cpu.read(&stat(&[(0, [120, 0, 5, 910, 60, 0, 4, 1, 70, 0])])), Ok(None));
    }

    #[test]
    fn cores_that_come_go_or_poll_do_not_count() {
        let mut cpu = Cpu::new(&[1]);
        let idle = [0, 0, 0, 100, 0, 0, 0, 0, 0, 0];
        assert_eq!(cpu.read(&stat(&[(0, [0; 10]), (1, [0; 10]), (2, [0; 10])])), Ok(None));
        let polling = [100, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(cpu.read(&stat(&[(0, idle), (1, polling), (3, polling)])), Ok(Some(0.0)));
        // Nothing else is there: better its time than none.
        let mut cpu = Cpu::new(&[0]);
        assert_eq!(cpu.read(&stat(&[(0, [0; 10])])), Ok(None));
        assert_eq!(cpu.read(&stat(&[(0, polling)])), Ok(Some(100.0)));
    }

    #[test]
    fn a_named_pipe_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(text_of(&pipe).unwrap(), "");
    }

    #[test]
    fn this_machine_has_a_load_and_cores() {
        assert!(load(&text_of(Path::new("/proc/loadavg")).unwrap()).unwrap() >= 0.0);
        let text = text_of(Path::new("/proc/stat")).unwrap();
        assert_eq!(Cpu::new(&[]).read(&text), Ok(None));
        assert!(text.lines().filter_map(Core::parse).count() >= 1);
    }

    proptest! {
        #[test]
        fn any_text_has_an_outcome(first in "(cpu[0-9 ]{0,30}\n){0,4}", second: String) {
            let mut cpu = Cpu::new(&[0]);
            for text in [first.as_str(), &second] {
                if let Ok(Some(share)) = cpu.read(text) {
                    prop_assert!((0.0..=100.0).contains(&share));
                }
                let _ = (load(text), number(text));
            }
        }
    }
}
