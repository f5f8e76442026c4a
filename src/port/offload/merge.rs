//! Segments of a burst that follow one another, joined into trains (generic receive offload; the conditions are those of
//! the kernel's `inet_gro_receive` and `tcp_gro_receive`).
//!
//! A segment joins the open train of its connection if it carries on exactly where that ends, with the same headers but
//! for sequence number, PSH and lengths. Anything else of the connection ends its train, so a connection's segments
//! stay in order. The checksums of all that is joined were verified: afterwards nobody could tell which was wrong.

use arrayvec::ArrayVec;

use super::header;
use super::segment::{pseudo_header, write_header_checksum};
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::tcp::{self, Checksum, Flags, Segment};
use crate::frame::{checksum, ethernet};
use crate::port::BURST;

const PSH: u8 = 0x08;
/// Bytes of Ethernet and IP headers: options of IP are rare, and end a train.
const BEFORE_TCP: usize = ethernet::HEADER + ipv4::HEADER;
/// The longest IP packet.
const LONGEST: usize = u16::MAX as usize;

/// One write: a frame, or several as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// The place of its first frame in the burst.
    pub first: u8,
    last: u8,
    /// How many frames.
    pub count: u8,
    /// Bytes of headers before the data of each of its frames; 0: not to be joined.
    pub headers: u8,
    push: bool,
    open: bool,
    mss: u16,
    /// Bytes of the IP packet that comes of it.
    total: u16,
    next_seq: u32,
}

/// The trains of a burst, in the order of their first frames.
#[derive(Debug, Default)]
pub struct Trains {
    trains: ArrayVec<Train, BURST>,
    /// For each frame of the burst the next one of its train.
    next: ArrayVec<u8, BURST>,
}

/// What of a frame says whether it can be in a train.
struct Candidate {
    headers: usize,
    data: usize,
    seq: u32,
    push: bool,
}

impl Candidate {
    fn of(frame: &[u8]) -> Option<Candidate> {
        let plain = frame.len() > BEFORE_TCP + tcp::HEADER
            && frame[12..14] == ethernet::IPV4.to_be_bytes()
            && frame[ethernet::HEADER] == 0x45
            && frame[ethernet::HEADER + 9] == ipv4::TCP;
        if !plain {
            return None;
        }
        let packet = Ipv4::parse(frame).ok()?;
        let segment = Segment::parse(&packet).ok()?;
        let data = segment.data_len();
        let headers = BEFORE_TCP + packet.payload().len() - data;
        let only_ack = segment.flags().0 & !PSH == Flags::ACK;
        (only_ack && data > 0 && !packet.is_fragment()).then(|| Candidate {
            headers,
            data,
            seq: segment.seq(),
            push: segment.flags().0 & PSH != 0,
        })
    }
}

impl Trains {
    /// The trains of `frames`, at most [`BURST`] of them.
    pub fn of<'a>(frames: impl Fn(usize) -> &'a [u8], count: usize) -> Trains {
        let mut trains = Trains::default();
        for index in 0..count.min(BURST) {
            trains.add(&frames, index);
        }
        trains
    }

    /// In the order in which they are to be written.
    pub fn iter(&self) -> impl Iterator<Item = &Train> {
        self.trains.iter()
    }

    /// The places in the burst of a train's frames.
    pub fn frames(&self, train: &Train) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(usize::from(train.first)), |at| Some(self.next[*at].into())).take(train.count.into())
    }

    fn add<'a>(&mut self, frames: &impl Fn(usize) -> &'a [u8], index: usize) {
        let frame = frames(index);
        self.next.push(index as u8);
        let candidate = Candidate::of(frame);
        let same =
            self.trains.iter_mut().find(|train| train.open && same_connection(frames(train.first.into()), frame));
        if let Some(train) = same {
            let joined = candidate.as_ref().is_some_and(|candidate| train.join(candidate, frames, index));
            if joined {
                self.next[usize::from(train.last)] = index as u8;
                train.last = index as u8;
                return;
            }
            train.open = false;
        } else if candidate.is_none() && !has_ports(frame) {
            // Whose it is cannot be said: nothing overtakes it.
            self.trains.iter_mut().for_each(|train| train.open = false);
        }
        self.trains.push(Train::begin(candidate.as_ref(), index));
    }
}

impl Train {
    fn begin(candidate: Option<&Candidate>, index: usize) -> Train {
        let data = candidate.map_or(0, |candidate| candidate.data);
        let headers = candidate.map_or(0, |candidate| candidate.headers);
        Train {
            first: index as u8,
            last: index as u8,
            count: 1,
            headers: headers as u8,
            push: candidate.is_some_and(|candidate| candidate.push),
            open: candidate.is_some_and(|candidate| !candidate.push),
            mss: data as u16,
            total: (headers + data).saturating_sub(ethernet::HEADER) as u16,
            next_seq: candidate.map_or(0, |candidate| candidate.seq.wrapping_add(data as u32)),
        }
    }

    fn join<'a>(&mut self, new: &Candidate, frames: &impl Fn(usize) -> &'a [u8], index: usize) -> bool {
        let first = frames(self.first.into());
        let fits = new.seq == self.next_seq
            && new.data <= usize::from(self.mss)
            && usize::from(self.total) + new.data <= LONGEST
            && new.headers == usize::from(self.headers)
            && same_headers(first, frames(index), new.headers);
        let right = |frame| has_right_checksum(frame);
        if !fits || !right(frames(index)) || self.count == 1 && !right(first) {
            return false;
        }
        self.count += 1;
        self.total += new.data as u16;
        self.next_seq = self.next_seq.wrapping_add(new.data as u32);
        self.push |= new.push;
        // A short one, or one that is to be handed on, is the last.
        self.open = new.data == usize::from(self.mss) && !new.push;
        true
    }

    /// Up to where the frame with this number in the train, of `len` bytes, is written: a padded one of several without
    /// its padding.
    pub fn len_of(&self, number: usize, len: usize) -> usize {
        if self.count == 1 {
            return len;
        }
        let headers = usize::from(self.headers);
        let before = headers - ethernet::HEADER + number * usize::from(self.mss);
        headers + usize::from(self.mss).min(usize::from(self.total) - before)
    }

    /// Bytes of data in each of its frames but the last, which may have less.
    pub fn mss(&self) -> u16 {
        self.mss
    }

    /// Makes the first frame's headers those of the whole train, and returns what to write before them.
    pub fn write_headers(&self, first: &mut [u8]) -> [u8; header::LEN] {
        if self.count == 1 {
            return header::FINISHED;
        }
        let ip = &mut first[ethernet::HEADER..BEFORE_TCP];
        ip[2..4].copy_from_slice(&self.total.to_be_bytes());
        write_header_checksum(ip);
        // The kernel takes it for the sum of the pseudo-header, and the rest for verified.
        let pseudo = checksum::fold(pseudo_header(first, usize::from(self.total) - ipv4::HEADER));
        let tcp = &mut first[BEFORE_TCP..];
        if self.push {
            tcp[13] |= PSH;
        }
        tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
        header::joined(self.mss, self.headers.into(), BEFORE_TCP as u16)
    }
}

/// Whether the ports are where [`same_connection`] looks for them.
fn has_ports(frame: &[u8]) -> bool {
    frame.len() >= BEFORE_TCP + 4 && frame[12..15] == [0x08, 0x00, 0x45]
}

/// Addresses and ports. Of `train` it is known that they are there.
fn same_connection(train: &[u8], frame: &[u8]) -> bool {
    const TUPLE: std::ops::Range<usize> = ethernet::HEADER + 12..BEFORE_TCP + 4;
    has_ports(frame) && train[TUPLE] == frame[TUPLE]
}

/// Whether all is the same but IP's length, identification and checksum, and TCP's sequence number, PSH and checksum.
fn same_headers(one: &[u8], other: &[u8], headers: usize) -> bool {
    let ip = ethernet::HEADER;
    let same = |range: std::ops::Range<usize>| one[range.clone()] == other[range];
    let tcp = BEFORE_TCP;
    same(0..ip + 2)
        && same(ip + 6..ip + 10)
        && same(ip + 12..tcp + 4)
        && same(tcp + 8..tcp + 13)
        && same(tcp + 14..tcp + 16)
        && same(tcp + 18..headers)
}

fn has_right_checksum(frame: &[u8]) -> bool {
    let segment = Ipv4::parse(frame).and_then(|packet| Segment::parse(&packet));
    segment.is_ok_and(|segment| segment.checksum() == Checksum::Right)
}
