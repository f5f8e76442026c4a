//! Reading a heartbeat: total over all inputs, every refusal has a reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::inquiry::{Inquiry, read_answers, read_questions};
use super::parts::{SECTION_ECHOES, SECTION_SCOPE, Scope, read_echoes, read_scope};
use super::{ETHERNET_LEN, HEADER_LEN, Header, Heartbeat, MAGIC, MAJOR, VipBeat};
use super::{SECTION_ANSWERS, SECTION_QUESTIONS, SECTION_VIPS};
use crate::control::assignment::{Assignment, RANKS_MAX};
use crate::control::auth::{Authenticator, TAG_LEN};
use crate::control::member::{MemberId, NAME_MAX, Name};
use crate::frame::Mac;

/// A slower sender than the slowest configuration is malformed: a peer must not be able to claim that it is never late.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

/// Why a frame is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not as the format says.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Of another major version.
    #[error("of format version {0}; we read version 1")]
    OtherVersion(u8),
    /// Of a cluster with another name on the same segment; nothing to worry about.
    #[error("of another cluster")]
    OtherCluster,
    /// The tag does not fit.
    #[error("its key is not ours")]
    WrongKey,
}

use Rejected::Malformed;

/// Reads a frame as it was received. Authentication comes before all that is not needed for it.
pub fn parse(frame: &[u8], ethertype: u16, auth: &Authenticator) -> Result<Heartbeat, Rejected> {
    let mut ethernet = Reader(frame);
    let short = || Malformed("shorter than its header");
    ethernet.take(6).ok_or_else(short)?;
    let source = Mac(ethernet.array().ok_or_else(short)?);
    if ethernet.u16().ok_or_else(short)? != ethertype {
        return Err(Malformed("another EtherType"));
    }
    let mut fixed = Reader(ethernet.0);
    if fixed.array().ok_or_else(short)? != MAGIC {
        return Err(Malformed("no magic"));
    }
    let major = fixed.u8().ok_or_else(short)?;
    if major != MAJOR {
        return Err(Rejected::OtherVersion(major));
    }
    let _minor = fixed.u8().ok_or_else(short)?;
    let length = usize::from(fixed.u16().ok_or_else(short)?);
    let total = ETHERNET_LEN + length;
    if length < HEADER_LEN + TAG_LEN || frame.len() < total {
        return Err(Malformed("its length is wrong"));
    }
    if fixed.u64().ok_or_else(short)? != auth.cluster() {
        return Err(Rejected::OtherCluster);
    }
    let (message, tag) = frame[..total].split_at(total - TAG_LEN);
    let tag = Reader(tag).array().ok_or_else(short)?;
    if !auth.verify(message, tag) {
        return Err(Rejected::WrongKey);
    }
    read_message(source, &message[ETHERNET_LEN..])
}

/// Reads what was authenticated, from the magic to the end of the last section.
fn read_message(source: Mac, message: &[u8]) -> Result<Heartbeat, Rejected> {
    // Magic, version, length and cluster are known by now.
    let mut rest = Reader(message.get(16..).unwrap_or_default());
    let header_len = usize::from(rest.u16().unwrap_or_default());
    if header_len < HEADER_LEN || header_len > message.len() {
        return Err(Malformed("its header's length is wrong"));
    }
    let header = read_header(&mut rest)?;
    let inquiry = Inquiry::default();
    let mut heartbeat = Heartbeat { source, header, scope: Scope::ALL, echoes: Vec::new(), vips: Vec::new(), inquiry };
    let mut sections = Reader(&message[header_len..]);
    while !sections.0.is_empty() {
        let (kind, body) = sections.section().ok_or(Malformed("a section is cut off"))?;
        match kind {
            SECTION_ECHOES => read_echoes(body, &mut heartbeat.echoes)?,
            SECTION_SCOPE => heartbeat.scope = read_scope(body)?,
            SECTION_VIPS => read_vips(body, &mut heartbeat.vips)?,
            SECTION_QUESTIONS => read_questions(body, &mut heartbeat.inquiry.questions)?,
            SECTION_ANSWERS => read_answers(body, &mut heartbeat.inquiry.answers)?,
            // Of a later minor version.
            _ => {}
        }
    }
    let scope = heartbeat.scope;
    heartbeat.echoes.retain(|echo| scope.contains(echo.id));
    Ok(heartbeat)
}

fn read_header(rest: &mut Reader<'_>) -> Result<Header, Rejected> {
    let short = || Malformed("its header is cut off");
    let name_len = usize::from(rest.u8().ok_or_else(short)?);
    let padded: [u8; NAME_MAX] = rest.array().ok_or_else(short)?;
    let name = padded.get(..name_len).and_then(|name| std::str::from_utf8(name).ok());
    let header = Header {
        name: name.and_then(Name::new).ok_or(Malformed("its member's name is not one"))?,
        boot_id: rest.array().ok_or_else(short)?,
        nonce: rest.u64().ok_or_else(short)?,
        challenge: rest.u32().ok_or_else(short)?,
        incarnation: rest.u64().ok_or_else(short)?,
        sequence: rest.u64().ok_or_else(short)?,
        interval: Duration::from_micros(rest.u32().ok_or_else(short)?.into()),
        metric: f64::from_bits(rest.u64().ok_or_else(short)?),
        flags: rest.u16().ok_or_else(short)?,
        config_hash: rest.array().ok_or_else(short)?,
    };
    if header.interval.is_zero() || header.interval > INTERVAL_MAX {
        return Err(Malformed("its interval is out of range"));
    }
    Ok(header)
}

fn read_vips(body: &[u8], vips: &mut Vec<VipBeat>) -> Result<(), Rejected> {
    let mut body = Reader(body);
    let cut_off = || Malformed("a VIP is cut off");
    while !body.0.is_empty() {
        let entry_len = body.u8().ok_or_else(cut_off)?;
        let mut entry = Reader(body.take(entry_len.into()).ok_or_else(cut_off)?);
        let address = entry.address().ok_or_else(cut_off)?.ok_or(Malformed("a VIP is neither IPv4 nor IPv6"))?;
        let [flags, rank] = entry.array().ok_or_else(cut_off)?;
        let term = entry.u64().ok_or_else(cut_off)?;
        let proposer = MemberId(entry.u64().ok_or_else(cut_off)?);
        let count = usize::from(entry.u8().ok_or_else(cut_off)?);
        if count > RANKS_MAX {
            return Err(Malformed("too many actives"));
        }
        let mut actives = Vec::with_capacity(count);
        for _ in 0..count {
            let active = MemberId(entry.u64().ok_or_else(cut_off)?);
            if actives.contains(&active) {
                return Err(Malformed("two ranks on one member"));
            }
            actives.push(active);
        }
        vips.push(VipBeat { address, flags, rank, assignment: Assignment { term, proposer, actives } });
    }
    Ok(())
}

/// What is left to read; reading past the end gives `None`.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn section(&mut self) -> Option<(u8, &'a [u8])> {
        let kind = self.u8()?;
        let len = self.u16()?;
        Some((kind, self.take(len.into())?))
    }

    /// An address after its family; the inner `None` is another family than the two there are.
    pub(super) fn address(&mut self) -> Option<Option<IpAddr>> {
        Some(match self.u8()? {
            4 => Some(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            _ => None,
        })
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
