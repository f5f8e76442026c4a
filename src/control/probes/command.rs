//! A command with a time limit.
//!
//! It runs in a process group of its own, which is killed as a whole when the command has ended or its time is up: a
//! check that is run twice a second must not leave anything behind. (What leaves the group, with setsid, is on its
//! own.) Its standard input and error output are empty: baton's own log has a format to keep.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::stop::{Cut, Stop, poll_until};

/// The most bytes that a command may write.
const OUTPUT_MAX: usize = 4096;

/// How long a killed process may take to go. It takes longer only where it hangs inside the kernel, on a dead disk or
/// file server.
const KILLED_WITHIN: Duration = Duration::from_millis(500);

/// A program that is run again and again, one at a time.
pub(super) struct Program {
    /// The program, then its arguments.
    words: Vec<String>,
    /// The last run, killed, if it did not go.
    stuck: Option<Running>,
}

impl Program {
    pub(super) fn new(words: &[String]) -> Program {
        Program { words: words.to_vec(), stuck: None }
    }

    /// Runs it to a successful end.
    pub(super) fn succeeds(&mut self, deadline: Instant, stop: &Stop) -> Result<(), Cut> {
        self.run(Stdio::null(), deadline, stop).map(|_| ())
    }

    /// Runs it to a successful end, and returns what it wrote to its standard output.
    pub(super) fn output(&mut self, deadline: Instant, stop: &Stop) -> Result<Vec<u8>, Cut> {
        self.run(Stdio::piped(), deadline, stop)
    }

    fn run(&mut self, stdout: Stdio, deadline: Instant, stop: &Stop) -> Result<Vec<u8>, Cut> {
        if let Some(stuck) = self.stuck.take()
            && let Err(stuck) = stuck.end()
        {
            self.stuck = Some(stuck);
            return Err(Cut::failed("its last run was killed and still has not gone"));
        }
        let mut running = Running::start(&self.words, stdout)
            .map_err(|error| Cut::Failed(format!("can not run {:?}: {error}", self.name())))?;
        let mut output = Vec::new();
        let finished = running.finish(&mut output, deadline, stop);
        let status = running.end().map_err(|stuck| self.stuck = Some(stuck));
        finished?;
        match status {
            Ok(status) if status.success() => Ok(output),
            Ok(status) => Err(Cut::Failed(status.to_string())),
            Err(()) => Err(Cut::failed("it has not gone")),
        }
    }

    fn name(&self) -> &str {
        self.words.first().map(String::as_str).unwrap_or_default()
    }
}

/// A process that has not been waited for, so that its number and its group's are still its own.
struct Running {
    child: Child,
    stdout: Option<ChildStdout>,
    /// Readable when the process has ended.
    ended: Option<OwnedFd>,
}

impl Running {
    fn start(words: &[String], stdout: Stdio) -> io::Result<Running> {
        let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take();
        let mut running = Running { child, stdout, ended: None };
        let opened = pidfd_open(Pid::from_child(&running.child), PidfdFlags::empty()).map_err(io::Error::from);
        let opened = opened.and_then(|ended| {
            running.ended = Some(ended);
            running.stdout.as_ref().map_or(Ok(()), |stdout| Ok(rustix::io::ioctl_fionbio(stdout, true)?))
        });
        match opened {
            Ok(()) => Ok(running),
            Err(error) => {
                // Without a descriptor nothing tells when it ends; killed, it ends at once.
                running.kill();
                running.child.wait()?;
                Err(error)
            }
        }
    }

    /// Waits for its end and reads what it writes meanwhile. Whoever else has its standard output, a process that it
    /// left in the background, is not waited for.
    fn finish(&mut self, output: &mut Vec<u8>, deadline: Instant, stop: &Stop) -> Result<(), Cut> {
        let Some(ended) = &self.ended else { return Ok(()) };
        loop {
            let ended = (ended.as_fd(), PollFlags::IN);
            let ready = match &self.stdout {
                Some(stdout) => stop.wait([ended, (stdout.as_fd(), PollFlags::IN)], deadline)?,
                None => stop.wait([ended], deadline)?.map(|[ended]| [ended, false]),
            };
            let Some([ended, written]) = ready else { return Err(Cut::late("it took too long")) };
            // Also at its end: what it wrote last is still in the pipe.
            if (written || ended) && read_all(&mut self.stdout, output)? {
                self.stdout = None;
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Kills what is left of the group and takes its exit status. The process comes back if it does not go.
    fn end(mut self) -> Result<ExitStatus, Running> {
        // Before it is waited for: afterwards the number may be another group's.
        self.kill();
        if let Some(ended) = &self.ended {
            poll_until(&mut [PollFd::new(ended, PollFlags::IN)], Instant::now() + KILLED_WITHIN);
        }
        match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) | Err(_) => Err(self),
        }
    }

    fn kill(&self) {
        // It fails only where the group has gone.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }
}

/// Reads what is there. Returns whether that was all that will ever come.
fn read_all(stdout: &mut Option<ChildStdout>, output: &mut Vec<u8>) -> Result<bool, Cut> {
    let Some(stdout) = stdout else { return Ok(false) };
    let mut chunk = [0; 1024];
    loop {
        match stdout.read(&mut chunk) {
            Ok(0) => return Ok(true),
            Ok(length) if output.len() + length > OUTPUT_MAX => {
                return Err(Cut::Failed(format!("it writes more than {OUTPUT_MAX} bytes")));
            }
            Ok(length) => output.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Cut::Failed(format!("can not read its output: {error}"))),
        }
    }
}
