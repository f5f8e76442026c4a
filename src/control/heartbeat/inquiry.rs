//! What members ask each other about clients that may be orphans, in sections of the heartbeat that minor version 0 skips.
//!
//! ```text
//! 3: questions: entries: length of the rest 1, number 4, VIP: family 1, address 4 or 16, client: family 1, address
//!    4 or 16, client's port 2, port 2
//! 4: answers: entry length 1, then entries: nonce of the run that asked 8, number 4, answer 1 (1: not mine, 2: mine).
//!    Who cannot tell does not answer.
//! ```
//!
//! They travel in a frame of their own beside the heartbeat's others, which so have as much room for VIPs as ever. Where
//! those have a part of the echoes each, this one has none.

use std::net::{IpAddr, SocketAddr};

use super::parts::{ECHOES_MAX, Parts};
use super::reader::{Reader, Rejected};
use super::{
    Authenticator, ECHO_LEN, ETHERNET_LEN, Echo, HEADER_LEN, HEARTBEAT_MAX, Header, HeartbeatFrame, Mac,
    SECTION_ANSWERS, SECTION_QUESTIONS, TAG_LEN, seal, set_u16, write_address, write_header,
};

use Rejected::Malformed;

/// The most questions in a frame.
pub const QUESTIONS_MAX: usize = 24;

/// The most answers in a frame.
pub const ANSWERS_MAX: usize = 24;

const ANSWER_LEN: usize = 8 + 4 + 1;

// All answers fit beside the most echoes, and the longest question with them.
const _: () = assert!(
    ETHERNET_LEN + HEADER_LEN + 4 + ECHOES_MAX * ECHO_LEN + 4 + ANSWERS_MAX * ANSWER_LEN + 3 + 43 + TAG_LEN
        <= HEARTBEAT_MAX
);

/// Whose is this client?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What answers refer to. A run uses each number for one client at one time.
    pub number: u32,
    /// The virtual IP.
    pub vip: IpAddr,
    /// The client.
    pub client: SocketAddr,
    /// The port at the virtual IP.
    pub port: u16,
}

impl Question {
    fn len(&self) -> usize {
        let address = |address: IpAddr| if address.is_ipv4() { 5 } else { 17 };
        5 + address(self.vip) + address(self.client.ip()) + 4
    }
}

/// What a member says of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It has no connection of this client, nor may it get one by what it has seen.
    NotMine,
    /// The client is its own.
    Mine,
}

/// To one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The nonce of the run that asked.
    pub asker: u64,
    /// The question's number.
    pub number: u32,
    /// What the sender says.
    pub holds: Holds,
}

/// What a frame asks and answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inquiry {
    /// Asked of everyone.
    pub questions: Vec<Question>,
    /// To what others asked.
    pub answers: Vec<Answer>,
}

impl Inquiry {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.answers.is_empty()
    }
}

/// Writes one frame with an inquiry: at most [`ANSWERS_MAX`] answers, and as many questions as fit beside them, at most
/// [`QUESTIONS_MAX`]. As with [`write`](super::write), `sequence` is the last number used.
pub fn write_inquiry(
    auth: &Authenticator,
    source: Mac,
    ethertype: u16,
    header: &Header,
    echoes: &[Echo],
    inquiry: &Inquiry,
    sequence: &mut u64,
) -> Option<HeartbeatFrame> {
    *sequence += 1;
    let mut frame = Vec::with_capacity(HEARTBEAT_MAX);
    write_header(&mut frame, auth, source, ethertype, &Header { sequence: *sequence, ..*header });
    Parts::of(echoes).write_beside(&mut frame);
    write_sections(&mut frame, inquiry);
    seal(auth, &mut frame);
    HeartbeatFrame::new(&frame)
}

/// The sections alone.
pub(super) fn write_sections(frame: &mut Vec<u8>, inquiry: &Inquiry) {
    let section = begin(frame, SECTION_ANSWERS);
    frame.push(ANSWER_LEN as u8);
    for answer in inquiry.answers.iter().take(ANSWERS_MAX) {
        frame.extend(answer.asker.to_be_bytes());
        frame.extend(answer.number.to_be_bytes());
        frame.push(match answer.holds {
            Holds::NotMine => 1,
            Holds::Mine => 2,
        });
    }
    end(frame, section);
    let section = begin(frame, SECTION_QUESTIONS);
    for question in inquiry.questions.iter().take(QUESTIONS_MAX) {
        if frame.len() + question.len() + TAG_LEN > HEARTBEAT_MAX {
            break;
        }
        frame.push((question.len() - 1) as u8);
        frame.extend(question.number.to_be_bytes());
        write_address(frame, question.vip);
        write_address(frame, question.client.ip());
        frame.extend(question.client.port().to_be_bytes());
        frame.extend(question.port.to_be_bytes());
    }
    end(frame, section);
}

/// Begins a section; returns where its body begins.
fn begin(frame: &mut Vec<u8>, kind: u8) -> usize {
    frame.extend([kind, 0, 0]);
    frame.len()
}

fn end(frame: &mut [u8], body: usize) {
    let len = frame.len() - body;
    set_u16(frame, body - 2, len);
}

pub(super) fn read_questions(body: &[u8], questions: &mut Vec<Question>) -> Result<(), Rejected> {
    let mut body = Reader(body);
    let cut_off = || Malformed("a question is cut off");
    while !body.0.is_empty() {
        let entry_len = body.u8().ok_or_else(cut_off)?;
        let mut entry = Reader(body.take(entry_len.into()).ok_or_else(cut_off)?);
        let number = entry.u32().ok_or_else(cut_off)?;
        let mut address = || entry.address().ok_or_else(cut_off)?.ok_or(Malformed("a client is neither IPv4 nor IPv6"));
        let (vip, client) = (address()?, address()?);
        let client_port = entry.u16().ok_or_else(cut_off)?;
        let port = entry.u16().ok_or_else(cut_off)?;
        questions.push(Question { number, vip, client: (client, client_port).into(), port });
    }
    Ok(())
}

pub(super) fn read_answers(body: &[u8], answers: &mut Vec<Answer>) -> Result<(), Rejected> {
    let mut body = Reader(body);
    let cut_off = || Malformed("an answer is cut off");
    let entry_len = usize::from(body.u8().ok_or_else(cut_off)?);
    while !body.0.is_empty() {
        let mut entry = Reader(body.take(entry_len).filter(|entry| !entry.is_empty()).ok_or_else(cut_off)?);
        let asker = entry.u64().ok_or_else(cut_off)?;
        let number = entry.u32().ok_or_else(cut_off)?;
        let holds = match entry.u8().ok_or_else(cut_off)? {
            1 => Holds::NotMine,
            2 => Holds::Mine,
            // Of a later minor version: no answer to us.
            _ => continue,
        };
        answers.push(Answer { asker, number, holds });
    }
    Ok(())
}
