//! One client of the control socket: reads its requests, answers them, does the waiting.

use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::PATIENCE;
use crate::control::protocol::{self, Ask, NoAnswer, Page, Request, Response, ask, snapshot};
use crate::status::Status;

/// The longest request, in bytes.
const LONGEST_REQUEST: usize = 4096;
/// How often a wait looks whether it is over, whether its client is still there, and whether we stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a role may take to move; beyond it the control thread is taken for hung.
const HANDOVER: Duration = Duration::from_secs(60);

/// Serves a client until it leaves, errs, or we stop.
pub(super) fn serve(client: UnixStream, stopping: &AtomicBool, asks: &Sender<Ask>) {
    let mut session = Session { client, stopping, asks, read: Vec::new() };
    if let Err(error) = session.run() {
        tracing::debug!(%error, "control socket: a client left");
    }
}

/// Tells a client why it is not served.
pub(super) fn refuse(client: UnixStream, why: &str) {
    // One line fits the socket's buffer, so this does not wait for the client to read; if it has left, so be it.
    let _ = client.set_nonblocking(true).and_then(|()| write_line(&client, &Response::Error(why.into())));
}

fn write_line(mut client: &UnixStream, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    client.write_all(&line)
}

struct Session<'a> {
    client: UnixStream,
    stopping: &'a AtomicBool,
    asks: &'a Sender<Ask>,
    /// What has been read beyond the last request.
    read: Vec<u8>,
}

impl Session<'_> {
    fn run(&mut self) -> io::Result<()> {
        self.client.set_read_timeout(Some(TICK))?;
        self.client.set_write_timeout(Some(PATIENCE))?;
        while let Some(line) = self.next_line()? {
            match serde_json::from_slice(&line) {
                Ok(request) => self.answer(&request)?,
                Err(error) => self.write(&Response::Error(format!("the request is not understood: {error}")))?,
            }
        }
        Ok(())
    }

    fn write(&self, response: &Response) -> io::Result<()> {
        write_line(&self.client, response)
    }

    fn stopping(&self) -> bool {
        // Relaxed: a flag alone.
        self.stopping.load(Ordering::Relaxed)
    }

    /// The next request's line; `None` when the client has left or says nothing for too long, or we stop.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.read, rest)));
            }
            if self.read.len() > LONGEST_REQUEST {
                let what = format!("the request is longer than {LONGEST_REQUEST} bytes");
                self.write(&Response::Error(what))?;
                return Ok(None);
            }
            let mut bytes = [0; 1024];
            match self.client.read(&mut bytes) {
                Ok(0) if self.read.is_empty() => return Ok(None),
                Ok(0) => {
                    self.write(&Response::Error("the request does not end with a line feed".into()))?;
                    return Ok(None);
                }
                Ok(count) => self.read.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
            if self.stopping() || Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    fn answer(&self, request: &Request) -> io::Result<()> {
        let asks = self.asks;
        let response = match *request {
            Request::Status => match snapshot(asks) {
                Ok(snapshot) => Response::Status(Box::new(snapshot.status)),
                Err(why) => Response::Error(why.to_string()),
            },
            Request::Drain { vip, wait, timeout_ms } => {
                let begun = Instant::now();
                match done(ask(asks, protocol::PATIENCE, |reply| Ask::Drain(vip, reply))) {
                    Response::Done if wait => self.drained(vip, begun, timeout_ms.map(Duration::from_millis))?,
                    response => response,
                }
            }
            Request::Undrain { vip } => done(ask(asks, protocol::PATIENCE, |reply| Ask::Undrain(vip, reply))),
            Request::Activate { vip } => done(ask(asks, HANDOVER, |reply| Ask::Activate(vip, reply))),
            Request::Connections { vip } => return self.connections(vip),
        };
        self.write(&response)
    }

    /// Waits until no connection is left. Fails when the client leaves, so that nobody is waited for in vain.
    fn drained(&self, vip: Option<IpAddr>, begun: Instant, timeout: Option<Duration>) -> io::Result<Response> {
        loop {
            let connections = match snapshot(self.asks) {
                Ok(snapshot) => connections(&snapshot.status, vip),
                Err(why) => return Ok(Response::Error(why.to_string())),
            };
            if connections == 0 {
                return Ok(Response::Done);
            }
            let left = timeout.map_or(TICK, |timeout| timeout.saturating_sub(begun.elapsed()));
            if left.is_zero() {
                return Ok(Response::TimedOut { connections });
            }
            if self.stopping() {
                return Ok(Response::Error(NoAnswer::Stopping.to_string()));
            }
            if self.hung_up(left.min(TICK))? {
                return Err(ErrorKind::ConnectionAborted.into());
            }
        }
    }

    /// Waits for `duration`, or until the client hangs up, and says whether it has.
    fn hung_up(&self, duration: Duration) -> io::Result<bool> {
        // Asked for no event, poll() reports a hang-up alone: what the client may say next can wait.
        let mut client = [PollFd::new(&self.client, PollFlags::empty())];
        let duration = Timespec::try_from(duration).map_err(io::Error::other)?;
        match poll(&mut client, Some(&duration)) {
            Ok(events) => Ok(events > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the listing page by page; a client that reads slowly holds nothing but this thread.
    fn connections(&self, vip: Option<IpAddr>) -> io::Result<()> {
        let mut page = Page { vip, from: 0 };
        loop {
            let listed = match ask(self.asks, protocol::PATIENCE, |reply| Ask::Connections(page, reply)) {
                Ok(Ok(listed)) => listed,
                Ok(Err(why)) => return self.write(&Response::Refused(why)),
                Err(why) => return self.write(&Response::Error(why.to_string())),
            };
            self.write(&Response::Connections { connections: listed.connections, more: listed.next.is_some() })?;
            match listed.next {
                Some(next) => page.from = next,
                None => return Ok(()),
            }
        }
    }
}

/// What the control thread's yes or no is on the socket.
fn done(answer: Result<Result<(), String>, NoAnswer>) -> Response {
    match answer {
        Ok(Ok(())) => Response::Done,
        Ok(Err(why)) => Response::Refused(why),
        Err(why) => Response::Error(why.to_string()),
    }
}

/// The connections of one virtual IP, or of all.
fn connections(status: &Status, vip: Option<IpAddr>) -> u64 {
    let vips = status.vips.iter().filter(|one| vip.is_none_or(|vip| one.address == vip));
    vips.map(|vip| vip.connections.pending + vip.connections.established).sum()
}
