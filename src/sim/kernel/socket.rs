//! A connection's socket, as Linux handles segments for one: the order of `tcp_rcv_state_process`,
//! `tcp_validate_incoming`, `tcp_ack` and `tcp_data_queue`. Left out is what baton cannot tell apart: congestion control
//! (a fixed window instead), delayed ACKs, selective ACKs, window scaling, urgent data.

mod send;

use std::collections::VecDeque;
use std::time::Duration;

use super::receive::Inbox;
use super::secrets::ChallengeLimit;
use super::{Context, End, Signal};
use crate::frame::tcp::Flags;
use crate::sim::segment::{Flow, MSS, Segment, after, before};
use crate::time::Time;

/// The first retransmission timeout (Linux: `TCP_TIMEOUT_INIT`).
const RTO_FIRST: Duration = Duration::from_secs(1);
/// The shortest (Linux: `TCP_RTO_MIN`).
const RTO_MIN: Duration = Duration::from_millis(200);
/// How soon a SYN is repeated after an unacceptable ACK (Linux: `TCP_TIMEOUT_MIN`, two ticks of 250 Hz).
const SYN_SOON: Duration = Duration::from_millis(8);
/// How long a socket that its application has closed waits for the peer's FIN (Linux: `tcp_fin_timeout`).
const FIN_TIMEOUT: Duration = Duration::from_secs(60);

/// RFC 9293, 3.3.2. LISTEN and SYN-RECEIVED are a listener's and a request's, TIME-WAIT is a bucket of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// SYN sent.
    SynSent,
    /// Open both ways.
    Established,
    /// We have closed.
    FinWait1,
    /// We have closed, and the peer knows.
    FinWait2,
    /// Both have closed, and the peer does not know of us.
    Closing,
    /// The peer has closed.
    CloseWait,
    /// The peer has closed, then we.
    LastAck,
}

/// What becomes of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Lives,
    /// Only a TIME_WAIT is left.
    TimeWait,
    /// It is gone.
    Ends(End),
}

/// A socket.
#[derive(Debug)]
pub struct Socket {
    /// Its ends.
    pub flow: Flow,
    /// Its state.
    pub state: State,
    /// Our initial sequence number.
    pub iss: u32,
    /// The peer's.
    pub irs: u32,
    /// How often something was sent again.
    pub retransmits: u32,
    una: u32,
    nxt: u32,
    peer_window: u32,
    peer_window_max: u32,
    /// Sequence and acknowledgment number of the segment that told the window last (RFC 9293: SND.WL1, SND.WL2).
    window_told: (u32, u32),
    buffer: VecDeque<u8>,
    closing: bool,
    fin_sent: bool,
    recover: Option<u32>,
    dup_acks: u32,
    inbox: Inbox,
    recent: Option<u32>,
    stamped: bool,
    rto: Duration,
    rtt: Option<(Duration, Duration)>,
    timed: Option<(u32, Time)>,
    retries: u32,
    syn_first: u32,
    limit: ChallengeLimit,
    /// When the next timer runs out.
    timer: Option<Time>,
    /// How long the peer may be silent before it is asked, and when it is.
    keep_alive: Option<(Duration, Time)>,
}

impl Socket {
    fn new(flow: Flow, state: State, iss: u32, irs: u32, recent: Option<u32>) -> Socket {
        Socket {
            flow,
            state,
            iss,
            irs,
            retransmits: 0,
            una: iss.wrapping_add(1),
            nxt: iss.wrapping_add(1),
            peer_window: 0,
            peer_window_max: 0,
            window_told: (irs, iss),
            buffer: VecDeque::new(),
            closing: false,
            fin_sent: false,
            recover: None,
            dup_acks: 0,
            inbox: Inbox::new(irs.wrapping_add(1)),
            recent,
            stamped: recent.is_some(),
            rto: RTO_FIRST,
            rtt: None,
            timed: None,
            retries: 0,
            syn_first: 0,
            limit: ChallengeLimit::default(),
            timer: None,
            keep_alive: None,
        }
    }

    /// A client's, with its SYN on its way. `stamped`: with timestamps.
    pub fn connect(flow: Flow, stamped: bool, cx: &mut Context<'_>) -> Socket {
        let iss = cx.clock.secrets.isn(flow, cx.clock.now);
        let mut socket = Socket::new(flow, State::SynSent, iss, 0, None);
        socket.una = iss;
        socket.stamped = stamped;
        socket.syn_first = cx.clock.secrets.timestamp(flow, cx.clock.now);
        socket.send_syn(cx);
        socket.timer = Some(cx.clock.now + RTO_FIRST);
        socket
    }

    /// A server's, whose handshake `segment` completes; it is to be [received](Socket::receive) next.
    pub fn accepted(flow: Flow, isn: u32, client_isn: u32, recent: Option<u32>, segment: &Segment) -> Socket {
        let mut socket = Socket::new(flow, State::Established, isn, client_isn, recent);
        socket.take_window(segment);
        socket
    }

    /// The next sequence number expected.
    pub fn rcv_nxt(&self) -> u32 {
        self.inbox.next
    }

    /// The next sequence number to be sent.
    pub fn snd_nxt(&self) -> u32 {
        self.nxt
    }

    /// The window offered.
    pub fn window(&self) -> u16 {
        self.inbox.window()
    }

    /// The peer's last timestamp.
    pub fn peer_timestamp(&self) -> Option<u32> {
        self.recent
    }

    /// When [`Socket::timeout`] is wanted.
    pub fn deadline(&self) -> Option<Time> {
        self.timer.into_iter().chain(self.keep_alive.map(|(_, at)| at)).min()
    }

    /// Whether something is on its way that the peer has not acknowledged, or waits to be sent.
    pub fn is_sending(&self) -> bool {
        self.una != self.nxt || !self.buffer.is_empty()
    }

    /// Whether the peer's window or ours is closed, with data waiting for it to open.
    pub fn is_stalled(&self) -> bool {
        (self.peer_window < MSS as u32 && !self.buffer.is_empty()) || usize::from(self.window()) < MSS
    }

    /// Which directions were closed: by us, by the peer.
    pub fn closed(&self) -> (bool, bool) {
        (self.closing, self.inbox.closed)
    }

    /// Asks the peer after each silence of this length whether it is still there.
    pub fn keep_alive(&mut self, every: Duration, cx: &mut Context<'_>) {
        self.keep_alive = Some((every, cx.clock.now + every));
    }

    /// Whether the handshake is over.
    pub fn is_synchronized(&self) -> bool {
        self.state != State::SynSent
    }

    /// Whether a RST with this sequence number may do anything here, now or when it arrives: end the connection or bring a
    /// challenge ACK. That takes a place in the window, into which it may move by one more window until then, or right
    /// before it after a FIN; any other RST is dropped without a word (RFC 5961, 3.2; RFC 9293, 3.10.7.4).
    pub fn may_heed_reset(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.inbox.next.wrapping_sub(1)) <= 1 + 2 * u32::from(u16::MAX)
    }

    /// Whether the peer has closed and all it sent was read.
    pub fn at_end(&self) -> bool {
        self.inbox.at_end()
    }

    /// What has arrived and was not read, of a socket that is gone.
    pub fn leave(&mut self) -> Vec<u8> {
        self.inbox.take()
    }

    /// What has arrived and was not read yet. Tells the peer if the window opens by it.
    pub fn read(&mut self, cx: &mut Context<'_>) -> Vec<u8> {
        let was = usize::from(self.window());
        let data = self.inbox.take();
        if was < MSS && usize::from(self.window()) >= MSS {
            self.send_ack(cx);
        }
        data
    }

    /// Sends data.
    pub fn send(&mut self, data: &[u8], cx: &mut Context<'_>) {
        self.buffer.extend(data);
        self.transmit(cx);
    }

    /// Closes our direction, after what is still to be sent.
    pub fn close(&mut self, cx: &mut Context<'_>) {
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            _ => return,
        };
        self.closing = true;
        self.transmit(cx);
    }

    /// The RST by which it ends at once (Linux: `tcp_send_active_reset`).
    pub fn abort(&self, cx: &mut Context<'_>) {
        if self.is_synchronized() {
            let reset = self.segment(Flags::RST | Flags::ACK, self.nxt, cx);
            cx.sent.push((self.flow, reset));
        }
    }

    /// A segment for it.
    pub fn receive(&mut self, segment: Segment, cx: &mut Context<'_>) -> Fate {
        if let Some((every, at)) = &mut self.keep_alive {
            *at = cx.clock.now + *every;
        }
        if self.state == State::SynSent {
            return self.receive_in_syn_sent(&segment, cx);
        }
        if let Some(fate) = self.validate(&segment, cx) {
            return fate;
        }
        if !segment.flags.ack() {
            return Fate::Lives;
        }
        self.take_timestamp(&segment);
        if let Some(fate) = self.take_ack(&segment, cx) {
            return fate;
        }
        let fate = self.take_data(segment, cx);
        self.transmit(cx);
        fate
    }

    /// Linux: `tcp_rcv_synsent_state_process`.
    fn receive_in_syn_sent(&mut self, segment: &Segment, cx: &mut Context<'_>) -> Fate {
        let flags = segment.flags;
        if !flags.ack() {
            return Fate::Lives; // A RST that acknowledges nothing; or SYNs that cross, which nobody here sends.
        }
        let echo = segment.timestamps.map_or(0, |stamps| stamps.echo);
        let odd_echo = echo != 0
            && (before(echo, self.syn_first) || after(echo, cx.clock.secrets.timestamp(self.flow, cx.clock.now)));
        if segment.ack != self.nxt || odd_echo {
            if segment.ack != self.nxt && self.retries == 0 {
                self.timer = Some(cx.clock.now + SYN_SOON);
            }
            cx.sent.extend(segment.reset().map(|reset| (self.flow, reset)));
            return Fate::Lives;
        }
        if flags.rst() {
            return Fate::Ends(End::Refused);
        }
        if !flags.syn() {
            return Fate::Lives;
        }
        self.irs = segment.seq;
        self.window_told = (segment.seq, self.iss);
        self.inbox = Inbox::new(segment.seq.wrapping_add(1));
        self.una = segment.ack;
        self.recent = segment.timestamps.filter(|_| self.stamped).map(|stamps| stamps.value);
        self.stamped = self.recent.is_some();
        self.state = State::Established;
        (self.timer, self.retries, self.rto) = (None, 0, RTO_FIRST);
        self.take_window(segment);
        self.send_ack(cx);
        cx.signals.push_back((self.flow, Signal::Connected));
        Fate::Lives
    }

    /// Linux: `tcp_validate_incoming` (RFC 5961). `None`: the segment is in place.
    fn validate(&mut self, segment: &Segment, cx: &mut Context<'_>) -> Option<Fate> {
        let flags = segment.flags;
        if !flags.rst() && self.is_older(segment) {
            self.challenge(segment, cx);
            return Some(Fate::Lives);
        }
        let next = self.inbox.next;
        let outside = before(segment.end(), next) || after(segment.seq, next.wrapping_add(self.window().into()));
        if outside {
            if !flags.rst() {
                self.challenge(segment, cx);
            } else if segment.seq == next.wrapping_sub(1) && self.inbox.closed {
                return Some(Fate::Ends(End::Reset)); // Linux: tcp_reset_check
            }
            return Some(Fate::Lives);
        }
        if flags.rst() {
            if segment.seq == next {
                return Some(Fate::Ends(End::Reset));
            }
            self.challenge(segment, cx);
            return Some(Fate::Lives);
        }
        if flags.syn() {
            self.challenge(segment, cx);
            return Some(Fate::Lives);
        }
        None
    }

    /// PAWS (RFC 7323, 5; Linux: `tcp_paws_discard`, but for the ACKs that `tcp_disordered_ack` lets pass).
    fn is_older(&self, segment: &Segment) -> bool {
        let (Some(recent), Some(stamps)) = (self.recent, segment.timestamps) else { return false };
        let disordered = segment.end() == segment.seq && segment.seq == self.inbox.next && segment.ack == self.una;
        after(recent, stamps.value.wrapping_add(1)) && !disordered
    }

    fn take_timestamp(&mut self, segment: &Segment) {
        if let (Some(recent), Some(stamps)) = (self.recent, segment.timestamps)
            && !after(segment.seq, self.inbox.next)
            && !after(recent, stamps.value)
        {
            self.recent = Some(stamps.value);
        }
    }

    /// An ACK to a segment out of place, as often as the limit allows; segments with data are not limited.
    fn challenge(&mut self, segment: &Segment, cx: &mut Context<'_>) {
        let unlimited = !segment.data.is_empty() && !segment.flags.syn();
        if unlimited || self.limit.allows(cx.clock.now) {
            self.send_ack(cx);
        }
    }

    /// Linux: `tcp_ack`. `None`: the rest of the segment counts too.
    fn take_ack(&mut self, segment: &Segment, cx: &mut Context<'_>) -> Option<Fate> {
        let ack = segment.ack;
        if before(ack, self.una) {
            if before(ack, self.una.wrapping_sub(self.peer_window_max)) {
                self.challenge(&Segment::bare(0, 0, 0), cx);
                return Some(Fate::Lives);
            }
            return None;
        }
        if after(ack, self.nxt) {
            if self.closing {
                self.challenge(&Segment::bare(0, 0, 0), cx);
            }
            return Some(Fate::Lives);
        }
        let windowed = self.peer_window;
        self.take_window(segment);
        if ack != self.una {
            self.acked(ack, cx);
        } else if self.nxt != self.una && segment.end() == segment.seq && windowed == self.peer_window {
            self.dup_acks += 1;
            if self.dup_acks == 3 && self.recover.is_none() {
                self.recover = Some(self.nxt);
                self.retransmit(cx);
            }
        } else if self.nxt == self.una {
            // The peer lives, whatever its window (Linux: icsk_probes_out).
            self.retries = 0;
        }
        if self.fin_sent && self.una == self.nxt {
            match self.state {
                State::FinWait1 => {
                    self.state = State::FinWait2;
                    self.timer = Some(cx.clock.now + FIN_TIMEOUT);
                }
                State::Closing => return Some(Fate::TimeWait),
                State::LastAck => return Some(Fate::Ends(End::Finished)),
                _ => {}
            }
        }
        None
    }

    fn take_window(&mut self, segment: &Segment) {
        let (seq, ack) = self.window_told;
        if after(segment.seq, seq) || (segment.seq == seq && !before(segment.ack, ack)) {
            self.window_told = (segment.seq, segment.ack);
            self.peer_window = segment.window.into();
            self.peer_window_max = self.peer_window_max.max(self.peer_window);
        }
    }

    fn acked(&mut self, ack: u32, cx: &mut Context<'_>) {
        let data = (ack.wrapping_sub(self.una) as usize).min(self.buffer.len());
        self.buffer.drain(..data);
        self.una = ack;
        self.dup_acks = 0;
        self.retries = 0;
        if let Some((seq, sent)) = self.timed
            && !before(ack, seq)
        {
            self.timed = None;
            self.measure(cx.clock.now.since(sent));
        }
        self.rto = self.rtt.map_or(RTO_FIRST, |(smooth, variance)| smooth + (4 * variance).max(RTO_MIN));
        self.timer = (self.una != self.nxt).then(|| cx.clock.now + self.rto);
        match self.recover {
            Some(recover) if before(ack, recover) => self.retransmit(cx),
            _ => self.recover = None,
        }
        if self.buffer.is_empty() {
            cx.signals.push_back((self.flow, Signal::Sent));
        }
    }

    /// RFC 6298, 2.
    fn measure(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            None => (sample, sample / 2),
            Some((smooth, variance)) => ((7 * smooth + sample) / 8, (3 * variance + smooth.abs_diff(sample)) / 4),
        });
    }

    /// Linux: `tcp_data_queue`, `tcp_fin`.
    fn take_data(&mut self, segment: Segment, cx: &mut Context<'_>) -> Fate {
        if segment.data.is_empty() && !segment.flags.fin() {
            return Fate::Lives;
        }
        let was_closed = self.inbox.closed;
        if self.inbox.take_in(segment) {
            cx.signals.push_back((self.flow, Signal::Readable));
        }
        let mut fate = Fate::Lives;
        if self.inbox.closed && !was_closed {
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => fate = Fate::TimeWait,
                _ => {}
            }
        }
        self.send_ack(cx);
        fate
    }
}
