//! Clients: machines that connect to the virtual IP, ask, check every answer, and note what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::kernel::{End, Kernel, Secrets, Signal};
use super::segment::Flow;
use super::service::{After, HEAD, checksum, pattern, request, word};
use crate::frame::Mac;
use crate::time::Time;

/// What is done with one connection.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests, one after the other.
    pub requests: u32,
    /// Bytes sent with each.
    pub upload: usize,
    /// Bytes asked for by each.
    pub download: usize,
    /// Between an answer and the next request.
    pub think: Duration,
    /// How it ends after the last answer.
    pub finish: Finish,
    /// Whether segments carry timestamps.
    pub stamped: bool,
    /// Whether the client closes its direction right after the last request.
    pub half_close: bool,
    /// How long data waits to be read: longer than it takes to come, and the window closes.
    pub slow: Duration,
    /// After how long a silence the server is asked whether it is still there; never if zero.
    pub keep_alive: Duration,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The client closes first.
    Client,
    /// The server closes first, and keeps the TIME_WAIT.
    Server,
    /// The client ends it by a RST.
    Abort,
    /// The server ends it by a RST, which may overtake its last answer.
    ServerAbort,
    /// It stays open.
    Stay,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            requests: 1,
            upload: 0,
            download: 200,
            think: Duration::ZERO,
            finish: Finish::Client,
            stamped: true,
            half_close: false,
            slow: Duration::ZERO,
            keep_alive: Duration::ZERO,
        }
    }
}

/// What became of a connection.
#[derive(Clone, Debug)]
pub struct Story {
    /// What was planned.
    pub plan: Plan,
    /// When its SYN was sent.
    pub begun: Time,
    /// When it was open.
    pub connected: Option<Time>,
    /// When it was over.
    pub ended: Option<(Time, End)>,
    /// Requests answered, and rightly.
    pub answered: u32,
    /// The member that answered; never two.
    pub served_by: Option<u8>,
    /// How often the SYN was sent again.
    pub syn_retransmits: u32,
    /// What was wrong with an answer.
    pub wrong: Option<&'static str>,
    /// Both ends' initial sequence numbers, once it was open.
    pub numbers: Option<(u32, u32)>,
    inbox: Vec<u8>,
}

impl Story {
    /// Whether all that was planned has come about.
    pub fn succeeded(&self) -> bool {
        self.answered == self.plan.requests && self.wrong.is_none()
    }

    /// Whether it has failed for good.
    pub fn broke(&self) -> bool {
        let wanted = |end| match end {
            End::Finished | End::Aborted => true,
            End::Reset => self.plan.finish == Finish::ServerAbort,
            _ => false,
        };
        let ended_badly = self.ended.is_some_and(|(_, end)| !wanted(end));
        self.wrong.is_some() || (ended_badly && !self.succeeded())
    }
}

/// A client machine.
#[derive(Debug)]
pub struct Client {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its stack.
    pub kernel: Kernel,
    /// Connections by flow, the present one of each.
    pub stories: BTreeMap<Flow, Story>,
    /// Earlier connections of flows that were used again.
    pub past: Vec<(Flow, Story)>,
    /// Connections that have ended otherwise than planned, to be judged.
    pub broken: Vec<(Flow, End)>,
    thoughts: BTreeSet<(Time, Flow, Thought)>,
    next_port: u16,
}

/// What a client does after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thought {
    /// The next request.
    Ask,
    /// Reading.
    Read,
}

impl Client {
    /// A machine with an address of its own.
    pub fn new(mac: Mac, address: Ipv4Addr, secrets: Secrets) -> Client {
        Client {
            address,
            kernel: Kernel::new(mac, &[address], secrets),
            stories: BTreeMap::new(),
            past: Vec::new(),
            broken: Vec::new(),
            thoughts: BTreeSet::new(),
            next_port: 10_000,
        }
    }

    /// Connects from a port never used before.
    pub fn connect(&mut self, to: SocketAddrV4, plan: Plan, now: Time) -> Flow {
        let port = self.next_port;
        self.next_port += 1;
        self.connect_from(port, to, plan, now)
    }

    /// Connects from this port, whatever this machine had there: it forgets it without a word, as if it had been
    /// restarted, or a gateway had given the port to somebody else.
    pub fn connect_from(&mut self, port: u16, to: SocketAddrV4, plan: Plan, now: Time) -> Flow {
        let flow = Flow { local: SocketAddrV4::new(self.address, port), remote: to };
        let story = Story {
            plan,
            begun: now,
            connected: None,
            ended: None,
            answered: 0,
            served_by: None,
            syn_retransmits: 0,
            wrong: None,
            numbers: None,
            inbox: Vec::new(),
        };
        if let Some(earlier) = self.stories.insert(flow, story) {
            self.past.push((flow, earlier));
            self.thoughts.retain(|(_, of, _)| *of != flow);
        }
        self.kernel.connect(flow, plan.stamped, now);
        flow
    }

    /// When [`Client::run`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        let thought = self.thoughts.first().map(|(at, ..)| *at);
        thought.into_iter().chain(self.kernel.deadline()).min()
    }

    /// Goes on: timers, thoughts and what the kernel has to tell.
    pub fn run(&mut self, now: Time) {
        self.kernel.wake(now);
        while let Some((at, flow, thought)) = self.thoughts.first().copied()
            && at <= now
        {
            self.thoughts.remove(&(at, flow, thought));
            match thought {
                Thought::Ask => self.ask(flow, now),
                Thought::Read => self.read(flow, now),
            }
        }
        while let Some((flow, signal)) = self.kernel.signals.pop_front() {
            self.hear(flow, signal, now);
        }
    }

    /// Asks once more on a connection that [stays](Finish::Stay) open.
    pub fn ask_again(&mut self, flow: Flow, now: Time) {
        if let Some(story) = self.stories.get_mut(&flow) {
            story.plan.requests += 1;
            self.ask(flow, now);
        }
    }

    fn hear(&mut self, flow: Flow, signal: Signal, now: Time) {
        let Some(story) = self.stories.get_mut(&flow) else { return };
        match signal {
            Signal::Connected => {
                story.connected = Some(now);
                if let Some(socket) = self.kernel.socket(flow) {
                    story.syn_retransmits = socket.retransmits;
                    story.numbers = Some((socket.iss, socket.irs));
                }
                let plan = story.plan;
                if !plan.keep_alive.is_zero() {
                    self.kernel.keep_alive(flow, plan.keep_alive, now);
                }
                if plan.requests > 0 {
                    self.ask(flow, now);
                }
            }
            Signal::Readable if story.plan.slow.is_zero() => self.read(flow, now),
            Signal::Readable => {
                let read_at = now + story.plan.slow;
                if !self.thoughts.iter().any(|(_, of, thought)| (*of, *thought) == (flow, Thought::Read)) {
                    self.thoughts.insert((read_at, flow, Thought::Read));
                }
            }
            Signal::Ended(end) => {
                story.ended = Some((now, end));
                if story.broke() {
                    self.broken.push((flow, end));
                }
            }
            Signal::Acceptable | Signal::Sent => {}
        }
    }

    fn ask(&mut self, flow: Flow, now: Time) {
        let Some(story) = self.stories.get(&flow) else { return };
        let last = story.answered + 1 == story.plan.requests;
        let after = match story.plan.finish {
            Finish::Server if last => After::Close,
            Finish::ServerAbort if last => After::Abort,
            _ => After::Stay,
        };
        let half_close = last && story.plan.half_close;
        let bytes = request(after, story.plan.upload, story.plan.download);
        self.kernel.send(flow, &bytes, now);
        if half_close {
            self.kernel.close(flow, now);
        }
    }

    fn read(&mut self, flow: Flow, now: Time) {
        let Some(story) = self.stories.get_mut(&flow) else { return };
        story.inbox.extend(self.kernel.read(flow, now));
        self.take_answers(flow, now);
    }

    fn take_answers(&mut self, flow: Flow, now: Time) {
        let Some(story) = self.stories.get_mut(&flow) else { return };
        if story.inbox.len() >= HEAD && story.inbox.len() >= HEAD + word(&story.inbox, 8) {
            let length = HEAD + word(&story.inbox, 8);
            let answer: Vec<u8> = story.inbox.drain(..length).collect();
            story.judge(&answer);
            story.answered += 1;
            let (answered, plan) = (story.answered, story.plan);
            if answered < plan.requests {
                if plan.think.is_zero() {
                    self.ask(flow, now);
                } else {
                    self.thoughts.insert((now + plan.think, flow, Thought::Ask));
                }
            } else {
                match plan.finish {
                    Finish::Client => self.kernel.close(flow, now),
                    Finish::Abort => drop(self.kernel.destroy(flow, now)),
                    Finish::Server | Finish::ServerAbort | Finish::Stay => {}
                }
            }
        }
        if self.kernel.socket(flow).is_some_and(|socket| socket.at_end()) {
            self.kernel.close(flow, now);
        }
    }
}

impl Story {
    fn judge(&mut self, answer: &[u8]) {
        let member = answer[0];
        if self.served_by.is_some_and(|served_by| served_by != member) {
            self.wrong = Some("two members answered on one connection");
        }
        self.served_by = Some(member);
        if word(answer, 4) as u32 != checksum(&pattern(self.plan.upload)) {
            self.wrong = Some("the upload did not arrive as it was sent");
        }
        if answer[HEAD..] != pattern(self.plan.download) {
            self.wrong = Some("the download did not arrive as it was sent");
        }
    }
}
