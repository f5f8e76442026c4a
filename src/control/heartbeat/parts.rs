//! Which frame of a heartbeat tells what of its echoes.
//!
//! Up to [`ECHOES_MAX`] echoes, each frame has all of them, as minor versions 0 and 1 have it. More go out once each: in the
//! order of member ids they are cut into parts, and a frame with a part says in section 5 of which range of ids it tells.
//! So each frame alone is true: a member of that range that it does not echo is not heard, and of all others it says nothing.
//! A lost one costs those it tells of one interval. Parts go first and VIPs after them, so that whoever reads a VIP knows
//! already whether its sender still hears it.

use super::reader::{Reader, Rejected};
use super::{ECHO_LEN, ETHERNET_LEN, Echo, HEADER_LEN, HEARTBEAT_MAX, TAG_LEN};
use crate::control::member::MemberId;

/// The most echoes in a frame that has all: 32 of 21 bytes leave room for the largest entry of a VIP.
pub const ECHOES_MAX: usize = 32;

/// The most echoes in a part: all that fit.
pub const PART_MAX: usize = (HEARTBEAT_MAX - ETHERNET_LEN - HEADER_LEN - SCOPE_LEN - 4 - 3 - TAG_LEN) / ECHO_LEN;

pub(super) const SECTION_ECHOES: u8 = 1;
pub(super) const SECTION_SCOPE: u8 = 5;

/// The section with the scope.
const SCOPE_LEN: usize = 3 + 2 * 8;

/// The minor version of a frame with a scope. All others are as version 1 has them, and say so.
const MINOR_WITH_SCOPE: u8 = 2;

/// Where a frame tells its minor version.
const MINOR_AT: usize = 19;

/// Of which members a frame tells whether its sender hears them: a range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The lowest.
    pub first: MemberId,
    /// The highest. Lower than the first: of none.
    pub last: MemberId,
}

impl Scope {
    /// Of all members.
    pub const ALL: Scope = Scope { first: MemberId(0), last: MemberId(u64::MAX) };

    /// Of none.
    pub const NONE: Scope = Scope { first: MemberId(1), last: MemberId(0) };

    /// Whether a frame tells of this member.
    pub fn contains(&self, id: MemberId) -> bool {
        (self.first..=self.last).contains(&id)
    }

    /// Whether it tells of all that `other` tells of.
    pub fn covers(&self, other: &Scope) -> bool {
        other.is_none() || self.contains(other.first) && self.contains(other.last)
    }

    /// Whether it tells of nobody.
    pub fn is_none(&self) -> bool {
        self.first > self.last
    }

    /// What is left of it where `later` tells anew. Of one that `later` cuts in two, all.
    pub fn without(self, later: &Scope) -> Scope {
        let Scope { mut first, mut last } = self;
        if later.covers(&self) {
            return Scope::NONE;
        }
        if later.contains(first) {
            first = MemberId(later.last.0.saturating_add(1));
        }
        if later.contains(last) {
            last = MemberId(later.first.0.saturating_sub(1));
        }
        Scope { first, last }
    }
}

/// A heartbeat's echoes, frame by frame.
pub(super) struct Parts {
    /// In the order of ids, if they are cut.
    echoes: Vec<Echo>,
    whole: bool,
    /// How many are out.
    out: usize,
    first: MemberId,
}

impl Parts {
    pub fn of(echoes: &[Echo]) -> Parts {
        let whole = echoes.len() <= ECHOES_MAX;
        let mut echoes = echoes.to_vec();
        if !whole {
            echoes.sort_by_key(|echo| echo.id);
        }
        Parts { echoes, whole, out: 0, first: MemberId(0) }
    }

    /// Whether all were written.
    pub fn are_out(&self) -> bool {
        self.whole || self.out == self.echoes.len()
    }

    /// Writes what the next frame has of them.
    pub fn write_next(&mut self, frame: &mut Vec<u8>) {
        if self.whole || self.are_out() {
            return self.write_beside(frame);
        }
        let rest = &self.echoes[self.out..];
        let mut len = rest.len().min(PART_MAX);
        // Runs of one name stay together.
        let cuts = |len: usize| rest.get(len).is_some_and(|next| next.id == rest[len - 1].id);
        while len > 1 && cuts(len) {
            len -= 1;
        }
        let last = if len == rest.len() { Scope::ALL.last } else { rest[len - 1].id };
        write_scope(frame, &Scope { first: self.first, last });
        write_echoes(frame, &rest[..len]);
        self.first = MemberId(last.0.saturating_add(1));
        self.out += len;
    }

    /// Writes what a frame has of them that is not there for their sake.
    pub fn write_beside(&self, frame: &mut Vec<u8>) {
        if self.whole {
            return write_echoes(frame, &self.echoes);
        }
        write_scope(frame, &Scope::NONE);
    }
}

/// Writes the section after the header, whose minor version says that it is there.
pub(super) fn write_scope(frame: &mut Vec<u8>, scope: &Scope) {
    frame[MINOR_AT] = frame[MINOR_AT].max(MINOR_WITH_SCOPE);
    frame.extend([SECTION_SCOPE, 0, 16]);
    frame.extend(scope.first.0.to_be_bytes());
    frame.extend(scope.last.0.to_be_bytes());
}

pub(super) fn write_echoes(frame: &mut Vec<u8>, echoes: &[Echo]) {
    frame.push(SECTION_ECHOES);
    frame.extend(((1 + echoes.len() * ECHO_LEN) as u16).to_be_bytes());
    frame.push(ECHO_LEN as u8);
    for echo in echoes {
        frame.extend(echo.id.0.to_be_bytes());
        frame.extend(echo.nonce.to_be_bytes());
        frame.extend(echo.challenge.to_be_bytes());
        frame.push(u8::from(echo.alive));
    }
}

pub(super) fn read_scope(body: &[u8]) -> Result<Scope, Rejected> {
    let mut body = Reader(body);
    let cut_off = || Rejected::Malformed("its scope is cut off");
    let first = MemberId(body.u64().ok_or_else(cut_off)?);
    let last = MemberId(body.u64().ok_or_else(cut_off)?);
    Ok(Scope { first, last })
}

pub(super) fn read_echoes(body: &[u8], echoes: &mut Vec<Echo>) -> Result<(), Rejected> {
    let mut body = Reader(body);
    let cut_off = || Rejected::Malformed("an echo is cut off");
    let entry_len = usize::from(body.u8().ok_or_else(cut_off)?);
    if !body.0.is_empty() && entry_len < ECHO_LEN {
        return Err(cut_off());
    }
    echoes.reserve(body.0.len() / ECHO_LEN);
    while !body.0.is_empty() {
        // In one piece: of a heartbeat's parts, these are by far the most.
        let entry = body.take(entry_len).and_then(|entry| entry.first_chunk::<ECHO_LEN>()).ok_or_else(cut_off)?;
        if echoes.len() == PART_MAX {
            return Err(Rejected::Malformed("too many echoes"));
        }
        let &[i, j, k, l, m, n, o, p, a, b, c, d, e, f, g, h, w, x, y, z, state] = entry;
        echoes.push(Echo {
            id: MemberId(u64::from_be_bytes([i, j, k, l, m, n, o, p])),
            nonce: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            challenge: u32::from_be_bytes([w, x, y, z]),
            alive: state & 1 != 0,
        });
    }
    Ok(())
}
