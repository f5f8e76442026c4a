//! The heartbeat's format: one Ethernet frame, a fixed header, sections, a tag. `docs/election.md` has the same table
//! with the reasons.
//!
//! ```text
//!   0   6  destination: a locally administered group address, 03:"baton"
//!   6   6  source: the wire's own MAC
//!  12   2  EtherType: 0x88B5, or cluster.ethertype
//!  14   4  magic "BATN"
//!  18   1  major version: another one is not readable
//!  19   1  minor version: a higher one only appends, to the header, to entries, or whole sections
//!  20   2  length, from the magic to the end of the tag; what follows is padding
//!  22   8  cluster: a hash of its name
//!  30   2  length of the header, from the magic to the first section
//!  32   1  length of the name;  33  32  the name, padded with zeros
//!  65  16  boot id
//!  81   8  nonce of the run;  89  4  its challenge
//!  93   8  incarnation;  101  8  sequence number
//! 109   4  heartbeat interval in microseconds
//! 113   8  metric, IEEE 754; not a finite number: unknown
//! 121   2  flags
//! 123  16  hash of the shared configuration
//! 139      sections: type 1, length 2, body; unknown types are skipped
//!          1: echoes: entry length 1, then entries: member id 8, nonce 8, challenge 4, state 1 (bit 0: alive)
//!          2: VIPs: entries: length of the rest 1, family 1 (4 or 6), address 4 or 16, flags 1, rank 1,
//!             term 8, proposer 8, count 1, member ids 8 each, in rank order
//!          3, 4: questions and answers about clients that may be orphans: see `inquiry`
//!          5: scope: lowest member id 8, highest 8: of whom the echoes of this frame tell; without it, of all: see `parts`
//!      32  tag over all before it
//! ```
//!
//! Numbers are big-endian. A heartbeat that does not fit one frame is sent as several, each complete in itself with a
//! sequence number of its own, a part of the VIPs, and all echoes or, if they are many, a part of them: a receiver needs no
//! reassembly, and a lost one costs what it carried one interval.

use std::net::IpAddr;
use std::time::Duration;

use crate::control::assignment::{Assignment, RANKS_MAX};
use crate::control::auth::{Authenticator, TAG_LEN};
use crate::control::member::{MemberId, NAME_MAX, Name};
use crate::control::settings::CONFIG_HASH_LEN;
use crate::frame::Mac;
use crate::shared::{HEARTBEAT_MAX, HeartbeatFrame};

pub mod dialect;
mod inquiry;
mod parts;
mod reader;

pub use inquiry::{ANSWERS_MAX, Answer, Holds, Inquiry, QUESTIONS_MAX, Question, write_inquiry};
use parts::Parts;
pub use parts::{ECHOES_MAX, PART_MAX, Scope};
pub use reader::{Rejected, parse};

/// Where heartbeats go: a group address, so that hosts outside the cluster drop them in hardware, where a broadcast
/// would interrupt each of them; locally administered, so that no protocol owns it, and outside 01:00:5e and 33:33,
/// so that IGMP and MLD snooping switches flood it.
pub const DESTINATION: Mac = Mac([0x03, b'b', b'a', b't', b'o', b'n']);

/// What a heartbeat opens with, after the Ethernet header.
pub const MAGIC: [u8; 4] = *b"BATN";

/// The format written here, and the only major version that is read.
pub const MAJOR: u8 = 1;

/// The format written here, but for frames with a [`Scope`], which are of minor version 2; higher and lower ones are read
/// too.
pub const MINOR: u8 = 1;

const ETHERNET_LEN: usize = 14;
const HEADER_LEN: usize = 125;
const ECHO_LEN: usize = 21;
const SECTION_VIPS: u8 = 2;
const SECTION_QUESTIONS: u8 = 3;
const SECTION_ANSWERS: u8 = 4;

/// Bits of [`Header::flags`].
pub mod flags {
    /// Ports run and the table is rebuilt.
    pub const READY: u16 = 1 << 0;
    /// Listened to the cluster before: may be active.
    pub const SETTLED: u16 = 1 << 1;
    /// Drained as a whole.
    pub const DRAINING: u16 = 1 << 2;
    /// Shutting down: hands over its roles.
    pub const LEAVING: u16 = 1 << 3;
    /// This is the last that is heard of this run.
    pub const GOODBYE: u16 = 1 << 4;
    /// Comes back soon: its connections are not orphans yet.
    pub const RETURNING: u16 = 1 << 5;
    /// Found an older live run under its own name and stands back.
    pub const YIELDING: u16 = 1 << 6;
}

/// Bits of [`VipBeat::flags`].
pub mod vip_flags {
    /// The local service is healthy.
    pub const HEALTHY: u8 = 1 << 0;
    /// Drained for this VIP.
    pub const DRAINING: u8 = 1 << 1;
    /// Accepts new connections now, whatever the assignment says.
    pub const SERVING: u8 = 1 << 2;
}

/// The rank of a member that is not active.
pub const NO_RANK: u8 = 0xff;

/// What each frame of a heartbeat says about its sender.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// Whose heartbeat it is.
    pub name: Name,
    /// The sender's boot id.
    pub boot_id: [u8; 16],
    /// Names the sender's run.
    pub nonce: u64,
    /// What a run that is new to the sender must echo to be believed.
    pub challenge: u32,
    /// The run's incarnation.
    pub incarnation: u64,
    /// Counts the run's frames, from 1.
    pub sequence: u64,
    /// How often the sender sends.
    pub interval: Duration,
    /// Lower is better; unknown if not finite.
    pub metric: f64,
    /// See [`flags`].
    pub flags: u16,
    /// See [`crate::control::Settings::config_hash`].
    pub config_hash: [u8; CONFIG_HASH_LEN],
}

impl Header {
    /// Whether all of `bits` are set.
    pub fn has(&self, bits: u16) -> bool {
        self.flags & bits == bits
    }
}

/// A run that the sender hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Whose run.
    pub id: MemberId,
    /// The run's nonce.
    pub nonce: u64,
    /// The latest challenge heard from it.
    pub challenge: u32,
    /// Whether the sender counts it as alive: each hears the other, and in time.
    pub alive: bool,
}

/// What the sender holds of one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipBeat {
    /// Which.
    pub address: IpAddr,
    /// See [`vip_flags`].
    pub flags: u8,
    /// The sender's rank, or [`NO_RANK`].
    pub rank: u8,
    /// Who should be active, as far as the sender knows.
    pub assignment: Assignment,
}

impl VipBeat {
    /// Whether all of `bits` are set.
    pub fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }
}

/// One frame, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// Its Ethernet source.
    pub source: Mac,
    /// About the sender.
    pub header: Header,
    /// Of whom `echoes` tells.
    pub scope: Scope,
    /// Whom of these the sender hears; at most [`PART_MAX`].
    pub echoes: Vec<Echo>,
    /// A part of the sender's VIPs.
    pub vips: Vec<VipBeat>,
    /// About clients that may be orphans.
    pub inquiry: Inquiry,
}

// One VIP fits beside the most echoes: `write` always comes to an end.
const _: () = assert!(
    ETHERNET_LEN + HEADER_LEN + 4 + ECHOES_MAX * ECHO_LEN + 3 + (2 + 16 + 2 + 17 + 8 * RANKS_MAX) + TAG_LEN
        <= HEARTBEAT_MAX
);

/// Writes a heartbeat as as many frames as it takes. `sequence` is the last number used, and goes on from there; that
/// of `header` is not looked at.
pub fn write(
    auth: &Authenticator,
    source: Mac,
    ethertype: u16,
    header: &Header,
    echoes: &[Echo],
    vips: &[VipBeat],
    sequence: &mut u64,
) -> Vec<HeartbeatFrame> {
    let mut frames = Vec::with_capacity(1);
    let mut vips = vips.iter().peekable();
    let mut parts = Parts::of(echoes);
    loop {
        *sequence += 1;
        let mut frame = Vec::with_capacity(HEARTBEAT_MAX);
        write_header(&mut frame, auth, source, ethertype, &Header { sequence: *sequence, ..*header });
        parts.write_next(&mut frame);
        let section = frame.len();
        frame.extend([SECTION_VIPS, 0, 0]);
        while let Some(vip) =
            vips.next_if(|vip| parts.are_out() && frame.len() + vip_len(vip) + TAG_LEN <= HEARTBEAT_MAX)
        {
            write_vip(&mut frame, vip);
        }
        let body = frame.len() - section - 3;
        set_u16(&mut frame, section + 1, body);
        seal(auth, &mut frame);
        frames.extend(HeartbeatFrame::new(&frame));
        if parts.are_out() && vips.peek().is_none() {
            return frames;
        }
    }
}

/// Sets the length of a frame that is complete but for it and the tag, and appends the tag. Public for the fuzz target:
/// without a true tag, nothing gets past it.
pub fn seal(auth: &Authenticator, frame: &mut Vec<u8>) {
    let length = frame.len() - ETHERNET_LEN + TAG_LEN;
    set_u16(frame, 20, length);
    let tag = auth.tag(frame);
    frame.extend(tag);
}

fn set_u16(frame: &mut [u8], at: usize, value: usize) {
    // Every value is below HEARTBEAT_MAX.
    frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

fn write_header(frame: &mut Vec<u8>, auth: &Authenticator, source: Mac, ethertype: u16, header: &Header) {
    frame.extend(DESTINATION.0);
    frame.extend(source.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(MAGIC);
    frame.extend([MAJOR, MINOR, 0, 0]);
    frame.extend(auth.cluster().to_be_bytes());
    frame.extend((HEADER_LEN as u16).to_be_bytes());
    let name = header.name.as_str().as_bytes();
    let mut padded = [0; NAME_MAX];
    padded[..name.len()].copy_from_slice(name);
    frame.push(name.len() as u8);
    frame.extend(padded);
    frame.extend(header.boot_id);
    frame.extend(header.nonce.to_be_bytes());
    frame.extend(header.challenge.to_be_bytes());
    frame.extend(header.incarnation.to_be_bytes());
    frame.extend(header.sequence.to_be_bytes());
    frame.extend(u32::try_from(header.interval.as_micros()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(header.metric.to_bits().to_be_bytes());
    frame.extend(header.flags.to_be_bytes());
    frame.extend(header.config_hash);
    debug_assert_eq!(frame.len(), ETHERNET_LEN + HEADER_LEN);
}

fn vip_len(vip: &VipBeat) -> usize {
    let address = if vip.address.is_ipv4() { 4 } else { 16 };
    2 + address + 2 + 8 + 8 + 1 + 8 * vip.assignment.actives.len().min(RANKS_MAX)
}

fn write_vip(frame: &mut Vec<u8>, vip: &VipBeat) {
    frame.push((vip_len(vip) - 1) as u8);
    write_address(frame, vip.address);
    frame.extend([vip.flags, vip.rank]);
    frame.extend(vip.assignment.term.to_be_bytes());
    frame.extend(vip.assignment.proposer.0.to_be_bytes());
    let actives = &vip.assignment.actives[..vip.assignment.actives.len().min(RANKS_MAX)];
    frame.push(actives.len() as u8);
    for active in actives {
        frame.extend(active.0.to_be_bytes());
    }
}

/// An address after its family.
fn write_address(frame: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            frame.push(4);
            frame.extend(address.octets());
        }
        IpAddr::V6(address) => {
            frame.push(6);
            frame.extend(address.octets());
        }
    }
}

#[cfg(test)]
mod tests;
