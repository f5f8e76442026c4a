//! What state a connection is in where a fault may strike it: as its client, and one member's host, see it.

use super::cluster::Cluster;
use super::kernel::{Kernel, Kind};
use super::member::Frame;
use super::segment::Flow;
use super::trace::Glance;
use crate::named::named;

named! {
    /// A connection's state, seen from a member.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum State;
    /// What the coverage calls it.
    name;

    /// The client has sent a SYN; the member is active, and its host has not seen it.
    Opening = "opening",
    /// The host has answered, the client has not.
    HalfOpen = "half-open",
    /// The same, and another member has answered too.
    Contested = "contested",
    /// Open, and it waits to be accepted.
    Queued = "queued",
    /// Open, with nothing on its way.
    Idle = "idle",
    /// The client is sending.
    Uploading = "uploading",
    /// The server is sending.
    Downloading = "downloading",
    /// A window is closed.
    Stalled = "stalled",
    /// One side has closed.
    HalfClosed = "half-closed",
    /// Both sides have closed.
    Closing = "closing",
    /// The host has closed first, and only that is left.
    TimeWait = "time-wait",
    /// The client has forgotten it, or uses its port for another connection.
    Forgotten = "forgotten",
}

/// A wait for a member to see a connection in a state.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Which wait.
    pub id: u64,
    /// Which member; none: any.
    pub member: Option<usize>,
    /// Which state.
    pub state: State,
    /// Whether it has been seen.
    pub met: bool,
}

impl Cluster {
    /// A connection's state, seen from a member; `None` if it does not concern it.
    pub fn state_of(&self, flow: Flow, member: usize) -> Option<State> {
        let host = &self.members[member].kernel;
        let client = self.client_kernel(flow)?.socket(flow);
        match host.query(flow.reversed()) {
            None => {
                let waits = client.is_some_and(|client| !client.is_synchronized());
                let active = self.vip_of(flow).is_some_and(|vip| self.role(member, vip).active);
                (waits && active).then_some(State::Opening)
            }
            Some(Kind::TimeWait) => Some(State::TimeWait),
            Some(Kind::HalfOpen) => {
                let client_isn = host.request(flow.reversed());
                let others = self.members.iter().enumerate().filter(|(other, _)| *other != member);
                let contested = others.into_iter().any(|(_, other)| {
                    let kernel = &other.kernel;
                    let theirs = kernel.request(flow.reversed());
                    theirs.or_else(|| kernel.socket(flow.reversed()).map(|socket| socket.irs)) == client_isn
                });
                Some(if contested { State::Contested } else { State::HalfOpen })
            }
            Some(Kind::Live) => self.state_of_open(flow, host),
        }
    }

    fn state_of_open(&self, flow: Flow, host: &Kernel) -> Option<State> {
        let server = host.socket(flow.reversed())?;
        let client = self.client_kernel(flow)?.socket(flow).filter(|client| client.iss == server.irs);
        let Some(client) = client else {
            // A client that has closed last remembers nothing either.
            return Some(if server.closed() == (true, true) { State::Closing } else { State::Forgotten });
        };
        Some(match server.closed() {
            _ if host.is_queued(flow.reversed()) => State::Queued,
            (true, true) => State::Closing,
            (true, false) | (false, true) => State::HalfClosed,
            _ if server.is_stalled() || client.is_stalled() => State::Stalled,
            _ if client.closed().0 => State::HalfClosed,
            _ if client.is_sending() => State::Uploading,
            _ if server.is_sending() => State::Downloading,
            _ => State::Idle,
        })
    }

    fn client_kernel(&self, flow: Flow) -> Option<&Kernel> {
        self.client_of.get(flow.local.ip()).map(|&client| &self.clients[client].kernel)
    }

    /// Whether what is waited for has come with these frames of or to a member's host.
    pub(super) fn look(&mut self, member: usize, frames: &[Frame]) {
        if self.watches.is_empty() {
            return;
        }
        for glance in frames.iter().filter_map(|frame| Glance::at(frame)) {
            let of_client = self.client_of.contains_key(glance.flow.local.ip());
            let state = self.state_of(if of_client { glance.flow } else { glance.flow.reversed() }, member);
            for watch in &mut self.watches {
                watch.met |= watch.member.is_none_or(|of| of == member) && state == Some(watch.state);
            }
        }
    }
}
