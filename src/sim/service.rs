//! The service behind the virtual IP, and what its clients say: requests and answers in the manner of HTTP, short
//! enough to check every byte.
//!
//! | request | bytes | answer | bytes |
//! |---|---|---|---|
//! | what happens after the answer ([`After`]) | 1 | the member that serves | 1 |
//! | zero | 3 | zero | 3 |
//! | length of the upload | 4 | checksum of the upload | 4 |
//! | length of the download | 4 | length of the download | 4 |
//! | the upload | | the download | |
//!
//! Uploads and downloads are a fixed pattern ([`pattern`]).

use std::collections::BTreeMap;

use super::kernel::{Kernel, Listener, Signal};
use super::segment::Flow;
use crate::time::Time;

/// The port of the service at the first virtual IP; at each further one it is one more.
pub const PORT: u16 = 80;

/// Bytes of a request's and of an answer's head.
pub const HEAD: usize = 12;

/// What a server does after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It waits for the next request.
    Stay,
    /// It closes first.
    Close,
    /// It ends the connection by a RST.
    Abort,
}

/// `len` bytes of the pattern: no shift of it looks like itself for long.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}

/// A sum that tells the pattern from anything shorter, longer or out of order (Adler's).
pub fn checksum(data: &[u8]) -> u32 {
    let (low, high) = data.iter().fold((1u32, 0u32), |(low, high), &byte| {
        let low = (low + u32::from(byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    high << 16 | low
}

/// A request's bytes.
pub fn request(after: After, upload: usize, download: usize) -> Vec<u8> {
    let mut bytes = vec![after as u8, 0, 0, 0];
    bytes.extend((upload as u32).to_be_bytes());
    bytes.extend((download as u32).to_be_bytes());
    bytes.extend(pattern(upload));
    bytes
}

/// A big-endian number in a head.
pub fn word(head: &[u8], at: usize) -> usize {
    head.get(at..at + 4).map_or(0, |bytes| bytes.iter().fold(0, |word, &byte| word << 8 | usize::from(byte)))
}

/// The server process on a member's host.
#[derive(Debug)]
pub struct Server {
    member: u8,
    ports: std::ops::Range<u16>,
    sessions: BTreeMap<Flow, Vec<u8>>,
    /// False: it accepts no connections, so that the accept queue fills.
    pub accepting: bool,
    /// False: it reads nothing, so that windows close.
    pub reading: bool,
    /// Connections accepted.
    pub accepted: u64,
    /// Requests answered.
    pub served: u64,
}

impl Server {
    /// A server that listens for `vips` virtual IPs.
    pub fn start(member: u8, vips: usize, kernel: &mut Kernel, listener: &Listener) -> Server {
        let ports = PORT..PORT + vips as u16;
        ports.clone().for_each(|port| kernel.listen(port, listener.clone()));
        Server { member, ports, sessions: BTreeMap::new(), accepting: true, reading: true, accepted: 0, served: 0 }
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.sessions.len()
    }

    /// Goes on after the kernel has moved.
    pub fn run(&mut self, kernel: &mut Kernel, now: Time) {
        loop {
            while self.accepting
                && let Some(flow) = self.ports.clone().find_map(|port| kernel.accept(port))
            {
                self.accepted += 1;
                self.sessions.insert(flow, Vec::new());
                self.serve(flow, kernel, now);
            }
            let Some((flow, signal)) = kernel.signals.pop_front() else { return };
            match signal {
                Signal::Readable if self.reading => self.serve(flow, kernel, now),
                Signal::Ended(_) => {
                    self.sessions.remove(&flow);
                }
                _ => {}
            }
        }
    }

    /// Reads on after [`Server::reading`] was set again.
    pub fn resume(&mut self, kernel: &mut Kernel, now: Time) {
        let flows: Vec<Flow> = self.sessions.keys().copied().collect();
        flows.into_iter().for_each(|flow| self.serve(flow, kernel, now));
        self.run(kernel, now);
    }

    fn serve(&mut self, flow: Flow, kernel: &mut Kernel, now: Time) {
        let Some(inbox) = self.sessions.get_mut(&flow) else { return };
        if !self.reading {
            return;
        }
        inbox.extend(kernel.read(flow, now));
        while inbox.len() >= HEAD && inbox.len() >= HEAD + word(inbox, 4) {
            let (upload, download, after) = (word(inbox, 4), word(inbox, 8), inbox[0]);
            let mut answer = vec![self.member, 0, 0, 0];
            answer.extend(checksum(&inbox[HEAD..HEAD + upload]).to_be_bytes());
            answer.extend((download as u32).to_be_bytes());
            answer.extend(pattern(download));
            inbox.drain(..HEAD + upload);
            self.served += 1;
            kernel.send(flow, &answer, now);
            if after == After::Close as u8 {
                kernel.close(flow, now);
            } else if after == After::Abort as u8 {
                return kernel.abort(flow, now);
            }
        }
        if kernel.socket(flow).is_some_and(|socket| socket.at_end()) {
            kernel.close(flow, now);
        }
    }
}
