//! What a socket has received: in order, ready to be read; and ahead of a gap.

use crate::sim::segment::{Segment, after, before};

/// The receive buffer, and with nothing in it the window.
const CAPACITY: usize = u16::MAX as usize;

/// A socket's receiving side.
#[derive(Debug)]
pub struct Inbox {
    /// The next sequence number expected (RFC 9293: RCV.NXT).
    pub next: u32,
    /// Whether the peer's FIN was reached.
    pub closed: bool,
    ready: Vec<u8>,
    /// Data ahead of a gap, and where it begins.
    ahead: Vec<(u32, Vec<u8>)>,
    fin_at: Option<u32>,
}

impl Inbox {
    /// An empty one that expects this sequence number.
    pub fn new(next: u32) -> Inbox {
        Inbox { next, closed: false, ready: Vec::new(), ahead: Vec::new(), fin_at: None }
    }

    /// The window that it offers.
    pub fn window(&self) -> u16 {
        CAPACITY.saturating_sub(self.ready.len()) as u16
    }

    /// Whether the peer has closed and all was read.
    pub fn at_end(&self) -> bool {
        self.closed && self.ready.is_empty()
    }

    /// Takes all that is ready.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }

    /// Takes a segment's data and FIN in. True if the application has something to read by it, or the end.
    pub fn take_in(&mut self, segment: Segment) -> bool {
        let Segment { seq, flags, data, .. } = segment;
        let end = seq.wrapping_add(data.len() as u32);
        if flags.fin() && !before(end, self.next) && !self.closed {
            self.fin_at = Some(end);
        }
        let limit = self.next.wrapping_add(self.window().into());
        let before_len = self.ready.len();
        if after(end, self.next) && before(seq, limit) && !self.closed {
            if after(seq, self.next) {
                self.ahead.push((seq, data));
            } else {
                self.append(seq, &data, limit);
                self.fill(limit);
            }
        }
        let closes = !self.closed && self.fin_at == Some(self.next);
        if closes {
            self.closed = true;
            self.next = self.next.wrapping_add(1);
        }
        closes || self.ready.len() > before_len
    }

    fn append(&mut self, seq: u32, data: &[u8], limit: u32) {
        let known = self.next.wrapping_sub(seq) as usize;
        let room = limit.wrapping_sub(self.next) as usize;
        let new = &data[known.min(data.len())..];
        let new = &new[..new.len().min(room)];
        self.ready.extend_from_slice(new);
        self.next = self.next.wrapping_add(new.len() as u32);
    }

    /// Moves on over what had arrived ahead.
    fn fill(&mut self, limit: u32) {
        while let Some(at) = self.ahead.iter().position(|(seq, _)| !after(*seq, self.next)) {
            let (seq, data) = self.ahead.swap_remove(at);
            if after(seq.wrapping_add(data.len() as u32), self.next) {
                self.append(seq, &data, limit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tcp::Flags;

    #[test]
    fn data_comes_out_in_order_once_whatever_way_it_came_in() {
        let mut inbox = Inbox::new(u32::MAX - 1);
        let segment = |at: u32, data: &[u8], flags| Segment {
            data: data.to_vec(),
            ..Segment::bare(flags, (u32::MAX - 1).wrapping_add(at), 0)
        };
        assert!(!inbox.take_in(segment(4, b"ef", Flags::FIN)));
        assert!(!inbox.take_in(segment(2, b"cd", 0)));
        assert!(inbox.take_in(segment(0, b"abc", 0)));
        assert!(inbox.closed);
        assert!(!inbox.at_end());
        assert_eq!(inbox.take(), b"abcdef");
        assert!(inbox.at_end());
        assert!(!inbox.take_in(segment(0, b"abc", 0)));
        assert_eq!(inbox.next, 5);
    }

    #[test]
    fn an_unread_buffer_closes_the_window() {
        let mut inbox = Inbox::new(0);
        assert!(inbox.take_in(Segment { data: vec![1; 70_000], ..Segment::bare(0, 0, 0) }));
        assert_eq!((inbox.window(), inbox.next), (0, 65_535));
        assert!(!inbox.take_in(Segment { data: vec![1; 10], ..Segment::bare(0, 65_535, 0) }));
    }
}
