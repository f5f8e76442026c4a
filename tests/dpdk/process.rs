//! The process under test, from outside.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long anything may take; a test that waits this long has failed.
pub const LONG: Duration = Duration::from_secs(20);

/// A running member; killed if it is dropped alive.
pub struct Member {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Member {
    /// Starts one in `namespace`, or in our own if that is empty.
    pub fn start(namespace: &str, arguments: &[&str]) -> Member {
        let program = std::env::current_exe().unwrap();
        let mut command = match namespace {
            "" => Command::new(&program),
            _ => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&program);
                command
            }
        };
        let name = format!("name=test{}", std::process::id());
        command.arg("member").arg(name).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Member { child, lines, seen: Vec::new() }
    }

    /// Starts one and waits until a worker polls.
    pub fn started(namespace: &str, arguments: &[&str]) -> Member {
        let mut member = Member::start(namespace, arguments);
        member.wait_for("worker 0");
        member
    }

    /// Waits for a line that begins so, and returns it.
    pub fn wait_for(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.starts_with(beginning) {
                        return line;
                    }
                }
                Err(reason) => {
                    let _ = self.child.kill();
                    let errors = self.errors();
                    panic!("no line {beginning:?} ({reason}); said {:?}; errors: {errors}", self.seen);
                }
            }
        }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Waits for the end; returns how it ended, what it said and what it complained about.
    pub fn end(mut self) -> (ExitStatus, Vec<String>, String) {
        let deadline = Instant::now() + LONG;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end; said {:?}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        };
        let errors = self.errors();
        let mut seen = std::mem::take(&mut self.seen);
        seen.extend(self.lines.iter());
        (status, seen, errors)
    }

    /// Ends it by SIGTERM, which must succeed, and returns its last counters.
    pub fn finish(self) -> Counters {
        self.signal(libc::SIGTERM);
        let (status, said, errors) = self.end();
        assert_eq!(status.code(), Some(0), "said {said:?}; errors: {errors}");
        assert_eq!(errors, "", "a clean run says nothing on standard error");
        Counters::of(&said)
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = errors.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a member says in the end.
#[derive(Debug)]
pub struct Counters {
    finished: String,
    /// Frames forwarded, by worker.
    pub by_worker: Vec<u64>,
}

impl Counters {
    fn of(said: &[String]) -> Counters {
        let finished = said.iter().find(|line| line.starts_with("finished")).expect("no counters").clone();
        let mut by_worker: Vec<(u64, u64)> = said
            .iter()
            .filter(|line| line.starts_with("dropped"))
            .map(|line| (field(line, "worker"), field(line, "forwarded")))
            .collect();
        by_worker.sort_unstable();
        Counters { finished, by_worker: by_worker.into_iter().map(|(_, forwarded)| forwarded).collect() }
    }

    /// One of them.
    pub fn get(&self, name: &str) -> u64 {
        field(&self.finished, name)
    }
}

fn field(line: &str, name: &str) -> u64 {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line:?}")).parse().unwrap()
}
