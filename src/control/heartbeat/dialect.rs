//! Heartbeats as members of other minor versions write and understand them. A rolling upgrade has several versions side
//! by side; the tests and the simulator show that they get along. A member that serves uses none of this.

use super::inquiry::write_sections;
use super::parts::{ECHOES_MAX, SECTION_ECHOES, SECTION_SCOPE, Scope, write_echoes, write_scope};
use super::reader::{Reader, parse};
use super::{
    Authenticator, ECHO_LEN, ETHERNET_LEN, HEADER_LEN, SECTION_ANSWERS, SECTION_QUESTIONS, SECTION_VIPS, TAG_LEN, seal,
    set_u16, write_vip,
};

/// A minor version of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Minor version 0: it knows nothing of orphans, neither asks nor answers, and skips the sections about them. Nor does
    /// it know more members than it has echoes for in one frame: in a larger cluster it cannot be.
    Earlier,
    /// The one written here.
    #[default]
    Present,
    /// One to come: its header and entries are longer, and it has a section of a new type.
    Later,
}

/// The minor version of [`Dialect::Later`].
const LATER: u8 = 3;

impl Dialect {
    /// All of them.
    pub const ALL: &[Dialect] = &[Dialect::Earlier, Dialect::Present, Dialect::Later];

    /// What a member of this version sends where we would send `frame`: nothing if it does not know what that is for.
    pub fn send(self, frame: &[u8], ethertype: u16, auth: &Authenticator) -> Option<Vec<u8>> {
        match self {
            Dialect::Earlier => as_earlier(frame, ethertype, auth),
            Dialect::Present => Some(frame.to_vec()),
            Dialect::Later => as_later(frame, ethertype, auth),
        }
    }

    /// What a member of this version understands of a frame. What is no heartbeat of the cluster stays as it is.
    pub fn receive(self, frame: &[u8], ethertype: u16, auth: &Authenticator) -> Vec<u8> {
        let known = match self {
            Dialect::Earlier => parse(frame, ethertype, auth).ok().and_then(|heartbeat| {
                // Malformed, to it.
                let too_many = heartbeat.echoes.len() > ECHOES_MAX;
                if too_many { Some(Vec::new()) } else { without_what_is_later(frame, auth) }
            }),
            Dialect::Present | Dialect::Later => None,
        };
        known.unwrap_or_else(|| frame.to_vec())
    }
}

fn as_earlier(frame: &[u8], ethertype: u16, auth: &Authenticator) -> Option<Vec<u8>> {
    let heartbeat = parse(frame, ethertype, auth).ok()?;
    // Questions and answers go in frames of their own, and so do parts of echoes.
    if !heartbeat.inquiry.is_empty() || heartbeat.scope != Scope::ALL {
        return None;
    }
    let mut earlier = frame.get(..frame.len() - TAG_LEN)?.to_vec();
    earlier[19] = 0;
    seal(auth, &mut earlier);
    Some(earlier)
}

fn as_later(frame: &[u8], ethertype: u16, auth: &Authenticator) -> Option<Vec<u8>> {
    let heartbeat = parse(frame, ethertype, auth).ok()?;
    // It would cut a full frame elsewhere; this one has to do.
    let more: &[u8] = if heartbeat.echoes.len() <= ECHOES_MAX { &[6, 7] } else { &[] };
    let mut later = frame.get(..ETHERNET_LEN + HEADER_LEN)?.to_vec();
    later[19] = LATER;
    set_u16(&mut later, 30, HEADER_LEN + 5);
    later.extend([1, 2, 3, 4, 5]);
    later.extend([200, 0, 3, 9, 9, 9]);
    if heartbeat.scope != Scope::ALL {
        write_scope(&mut later, &heartbeat.scope);
    }
    let entry_len = ECHO_LEN + more.len();
    later.push(SECTION_ECHOES);
    later.extend(((1 + heartbeat.echoes.len() * entry_len) as u16).to_be_bytes());
    later.push(entry_len as u8);
    for echo in &heartbeat.echoes {
        let mut section = Vec::new();
        write_echoes(&mut section, std::slice::from_ref(echo));
        later.extend(&section[4..]);
        later.extend(more);
    }
    let start = later.len();
    later.extend([SECTION_VIPS, 0, 0]);
    for vip in &heartbeat.vips {
        let entry = later.len();
        write_vip(&mut later, vip);
        later[entry] += 3;
        later.extend([8; 3]);
    }
    let body = later.len() - start - 3;
    set_u16(&mut later, start + 1, body);
    if !more.is_empty() || !heartbeat.inquiry.is_empty() {
        write_sections(&mut later, &heartbeat.inquiry);
    }
    seal(auth, &mut later);
    Some(later)
}

/// An authentic frame without the sections that minor version 0 does not know.
fn without_what_is_later(frame: &[u8], auth: &Authenticator) -> Option<Vec<u8>> {
    let mut sizes = Reader(frame.get(20..)?);
    let total = ETHERNET_LEN + usize::from(sizes.u16()?);
    sizes.take(8)?;
    let sections_at = ETHERNET_LEN + usize::from(sizes.u16()?);
    let mut known = frame.get(..sections_at)?.to_vec();
    let mut sections = Reader(frame.get(sections_at..total - TAG_LEN)?);
    while let Some((kind, body)) = sections.section() {
        if !matches!(kind, SECTION_QUESTIONS | SECTION_ANSWERS | SECTION_SCOPE) {
            known.push(kind);
            known.extend((body.len() as u16).to_be_bytes());
            known.extend(body);
        }
    }
    seal(auth, &mut known);
    Some(known)
}
