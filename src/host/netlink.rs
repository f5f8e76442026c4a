//! One netlink socket and its request-and-answer exchanges: what routes, sock_diag, ethtool and nftables share.
//!
//! Bytes from the kernel are walked here once, with every length checked; the callers get payloads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// How long an answer may take. The kernel answers within the system call that asks; this bounds a kernel in trouble.
const PATIENCE: Duration = Duration::from_secs(2);

/// Room for one datagram of answers. The kernel fills at most 32 KiB for a dump (`netlink_recvmsg`).
const DATAGRAM: usize = 64 * 1024;

/// One message as it came: what its header says that callers need, and what follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages in a datagram. Ends at the first that is malformed: what follows it cannot be found.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let length = buffer.length() as usize;
        let message = Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: rest.get(16..length)?,
        };
        // Messages start at multiples of four (NLMSG_ALIGN); the last may end without its padding.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The error that an NLMSG_ERROR's or NLMSG_DONE's payload starts with; `Ok` for zero (an acknowledgement).
pub(super) fn outcome(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        // A NLMSG_DONE may be empty.
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// A netlink socket of one protocol, in the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// For requests. Their answers are waited for, at most two seconds.
    pub(super) fn open(protocol: isize) -> io::Result<Netlink> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Sends a request and hands every message of the answer to `each`, up to the acknowledgement or the end of the
    /// dump. A dump that the kernel says was disturbed ends with [`io::ErrorKind::Interrupted`].
    pub(super) fn request<M: NetlinkSerializable>(
        &mut self,
        payload: M,
        flags: u16,
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.begin(payload, flags)?;
        let mut disturbed = false;
        while self.step(self.sequence, &mut disturbed, &mut each)? == 0 {}
        if disturbed { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// Sends a request whose answer is read by [`Netlink::step`].
    pub(super) fn begin<M: NetlinkSerializable>(&mut self, payload: M, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = serialize(payload, flags | NLM_F_REQUEST | NLM_F_ACK, self.sequence);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads the next datagram of the last request's answer; `true` at its end.
    pub(super) fn next_part(&mut self, mut each: impl FnMut(Message<'_>)) -> io::Result<bool> {
        self.step(self.sequence, &mut false, &mut each).map(|ended| ended > 0)
    }

    /// Sends several messages at once, as nftables wants its transactions: `begin`, all `messages`, `end`, of which
    /// each of `messages` is acknowledged. The first refusal is returned after all have been read.
    pub(super) fn transaction<M: NetlinkSerializable>(
        &mut self,
        begin: M,
        messages: Vec<(M, u16)>,
        end: M,
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = serialize(begin, NLM_F_REQUEST, first);
        let mut left = messages.len();
        self.sequence = first;
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(serialize(message, flags | NLM_F_REQUEST | NLM_F_ACK, self.sequence));
        }
        self.sequence = self.sequence.wrapping_add(1);
        bytes.extend(serialize(end, NLM_F_REQUEST, self.sequence));
        self.socket.send(&bytes, 0)?;
        while left > 0 {
            left = left.saturating_sub(self.step(first, &mut false, &mut |_| {})?);
        }
        Ok(())
    }

    /// Reads one datagram and returns how many of the requests numbered `first` and up have ended by it: acknowledged,
    /// or their dump at its end. The first refusal is an error. What answers an earlier request, given up, is passed
    /// over.
    fn step(&mut self, first: u32, disturbed: &mut bool, each: &mut dyn FnMut(Message<'_>)) -> io::Result<usize> {
        let requests = self.sequence.wrapping_sub(first);
        let length = self.receive()?;
        let mut ended = 0;
        for message in messages(&self.buffer[..length]) {
            if message.sequence.wrapping_sub(first) > requests {
                continue;
            }
            *disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    outcome(message.payload)?;
                    ended += 1;
                }
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                _ => each(message),
            }
        }
        Ok(ended)
    }

    fn receive(&mut self) -> io::Result<usize> {
        let length =
            self.socket.recv(&mut &mut self.buffer[..], libc::MSG_TRUNC).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"),
                _ => error,
            })?;
        if length > self.buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer larger than the kernel makes them"));
        }
        Ok(length)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn serialize<M: NetlinkSerializable>(payload: M, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(payload));
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // A batch's next message starts at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_messages_of_one_datagram_are_both_found() {
        let mut datagram = Vec::new();
        for (kind, payload) in [(20u16, &b"abc"[..]), (21, b"defg")] {
            datagram.extend((16 + payload.len() as u32).to_ne_bytes());
            datagram.extend(kind.to_ne_bytes());
            datagram.extend(2u16.to_ne_bytes());
            datagram.extend(7u32.to_ne_bytes());
            datagram.extend(0u32.to_ne_bytes());
            datagram.extend(payload);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        let found: Vec<_> = messages(&datagram).map(|message| (message.kind, message.payload)).collect();
        assert_eq!(found, [(20, &b"abc"[..]), (21, &b"defg"[..])]);
    }

    #[test]
    fn an_error_code_becomes_an_error() {
        assert!(outcome(&0i32.to_ne_bytes()).is_ok());
        assert!(outcome(&[]).is_ok());
        let refused = outcome(&(-libc::EPERM).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(outcome(&i32::MIN.to_ne_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(datagram in proptest::collection::vec(any::<u8>(), 0..256)) {
            for message in messages(&datagram) {
                let _ = outcome(message.payload);
                prop_assert!(message.payload.len() + 16 <= datagram.len());
            }
        }
    }
}
