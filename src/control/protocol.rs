//! What is said over the control socket, and what its server asks the control thread for.
//!
//! The socket carries lines of JSON. A client writes a [`Request`] per line; each is answered by one [`Response`], but
//! [`Request::Connections`] by as many as it takes, the last of them without `more`.
//!
//! ```text
//! {"request":"drain","wait":true,"timeout_ms":300000}
//! "done"
//! {"request":"activate","vip":"10.0.0.100"}
//! {"refused":"this member is draining"}
//! ```
//!
//! An [`Ask`] carries the sender that its answer goes back through. It has room for that one answer, so the control
//! thread never waits for whoever asked; it may drop the sender, which the asker takes for the end of the process.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::metrics::Snapshot;
use crate::status::Status;

/// The most connections in one [`Response::Connections`], and so in one answer of the control thread.
pub const CHUNK: usize = 1024;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The member's view.
    Status,
    /// To give the role away and accept nothing new.
    Drain {
        /// For which virtual IP; for all if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vip: Option<IpAddr>,
        /// Whether to answer only when the last connection has ended.
        #[serde(default)]
        wait: bool,
        /// How long to wait; without end if left out. The member stays draining afterwards.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// To take part again.
    Undrain {
        /// For which virtual IP; for all if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vip: Option<IpAddr>,
    },
    /// To take the role over; answered when it has moved.
    Activate {
        /// For which virtual IP.
        vip: IpAddr,
    },
    /// The connections in the table.
    Connections {
        /// Of which virtual IP; of all if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vip: Option<IpAddr>,
    },
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The member's view.
    Status(Box<Status>),
    /// It is done.
    Done,
    /// It is understood but not done, with why.
    Refused(String),
    /// The time to wait is over.
    TimedOut {
        /// How many connections there still are.
        connections: u64,
    },
    /// Some of the connections.
    Connections {
        /// At most [`CHUNK`].
        connections: Vec<Connection>,
        /// Whether another response follows.
        more: bool,
    },
    /// The request was not understood, or the member cannot answer, with why.
    Error(String),
}

/// A connection in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The virtual IP.
    pub vip: IpAddr,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The port at the virtual IP.
    pub port: u16,
    /// How far it has come.
    pub state: ConnectionState,
    /// Since its first segment was seen, in milliseconds.
    pub age_ms: u64,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// No client segment has confirmed the handshake yet.
    Pending,
    /// Confirmed.
    Established,
}

/// What the control thread is asked for.
#[derive(Debug)]
pub enum Ask {
    /// All that status and metrics tell.
    Snapshot(Sender<Box<Snapshot>>),
    /// To drain one virtual IP or all; why not, if refused. Answered at once, not when the connections have ended.
    Drain(Option<IpAddr>, Sender<Result<(), String>>),
    /// To undrain one virtual IP or all.
    Undrain(Option<IpAddr>, Sender<Result<(), String>>),
    /// To move the role here. Answered when it has moved, or cannot.
    Activate(IpAddr, Sender<Result<(), String>>),
    /// The connections from a place in the table on.
    Connections(Page, Sender<Result<Listed, String>>),
}

/// Which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Of this virtual IP, or of all.
    pub vip: Option<IpAddr>,
    /// 0 for the first page, then [`Listed::next`]. Means what the control thread likes, such as a slot of the table.
    pub from: u64,
}

/// A page of connections. A connection that comes or goes meanwhile may be in the listing or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// At most [`CHUNK`]; may be empty although more follow.
    pub connections: Vec<Connection>,
    /// Where the next page begins, always beyond this one; `None` at the end.
    pub next: Option<u64>,
}

/// Why the control thread gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// It has ended.
    #[error("the member is stopping")]
    Stopping,
    /// It has not answered in time.
    #[error("the control thread does not answer")]
    Silent,
}

/// Asks the control thread and waits for the answer, for at most `patience`.
///
/// # Errors
/// There is no answer.
pub fn ask<T>(asks: &Sender<Ask>, patience: Duration, question: impl FnOnce(Sender<T>) -> Ask) -> Result<T, NoAnswer> {
    let (reply, answer) = bounded(1);
    asks.send_timeout(question(reply), patience)
        .map_err(|error| if error.is_disconnected() { NoAnswer::Stopping } else { NoAnswer::Silent })?;
    answer.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Disconnected => NoAnswer::Stopping,
        RecvTimeoutError::Timeout => NoAnswer::Silent,
    })
}

/// How long an answer may take that needs no other member.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for a snapshot.
///
/// # Errors
/// There is no answer.
pub fn snapshot(asks: &Sender<Ask>) -> Result<Box<Snapshot>, NoAnswer> {
    ask(asks, PATIENCE, Ask::Snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_have_their_written_form() {
        let vip: IpAddr = [10, 0, 0, 100].into();
        for (request, written) in [
            (Request::Status, r#"{"request":"status"}"#),
            (
                Request::Drain { vip: Some(vip), wait: true, timeout_ms: Some(5) },
                r#"{"request":"drain","vip":"10.0.0.100","wait":true,"timeout_ms":5}"#,
            ),
            (Request::Undrain { vip: None }, r#"{"request":"undrain"}"#),
            (Request::Activate { vip }, r#"{"request":"activate","vip":"10.0.0.100"}"#),
            (Request::Connections { vip: None }, r#"{"request":"connections"}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), written);
            assert_eq!(serde_json::from_str::<Request>(written).unwrap(), request);
        }
        let connection = Connection {
            vip,
            client: ([10, 0, 0, 1], 40_000).into(),
            port: 80,
            state: ConnectionState::Established,
            age_ms: 7,
        };
        for (response, written) in [
            (Response::Done, r#""done""#),
            (Response::Refused("why".into()), r#"{"refused":"why"}"#),
            (Response::TimedOut { connections: 3 }, r#"{"timed_out":{"connections":3}}"#),
            (
                Response::Connections { connections: vec![connection], more: false },
                concat!(
                    r#"{"connections":{"connections":[{"vip":"10.0.0.100","client":"10.0.0.1:40000","port":80,"#,
                    r#""state":"established","age_ms":7}],"more":false}}"#
                ),
            ),
        ] {
            assert_eq!(serde_json::to_string(&response).unwrap(), written);
            assert_eq!(serde_json::from_str::<Response>(written).unwrap(), response);
        }
    }

    #[test]
    fn what_is_left_out_of_a_drain_has_a_meaning_and_what_is_unknown_has_none() {
        let drain: Request = serde_json::from_str(r#"{"request":"drain"}"#).unwrap();
        assert_eq!(drain, Request::Drain { vip: None, wait: false, timeout_ms: None });
        assert!(serde_json::from_str::<Request>(r#"{"request":"drain","wiat":true}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"request":"reboot"}"#).is_err());
    }

    #[test]
    fn an_ask_without_answer_says_why() {
        let (asks, asked) = bounded(1);
        let soon = Duration::from_millis(20);
        let silent = ask(&asks, soon, |reply| Ask::Drain(None, reply));
        assert_eq!(silent, Err(NoAnswer::Silent));
        // The queue of one is full now.
        assert_eq!(ask(&asks, soon, |reply| Ask::Drain(None, reply)), Err(NoAnswer::Silent));
        drop(asked);
        assert_eq!(ask(&asks, soon, |reply| Ask::Drain(None, reply)), Err(NoAnswer::Stopping));
    }
}
