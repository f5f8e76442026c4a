//! Packet sockets for the testbed's tools: whole Ethernet frames, in and out of one interface.
//!
//! Only what `testbed-flood` and `testbed-delay` need. baton itself uses none of it.
#![allow(unsafe_code)] // System calls that neither the standard library nor a safe crate offers.

use std::ffi::{CString, c_int};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub mod traffic;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Reads `aa:bb:cc:dd:ee:ff`.
pub fn parse_mac(text: &str) -> Result<Mac, String> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    Mac::try_from(bytes).map_err(|_| "expected six bytes, as in 02:00:00:00:00:01".to_owned())
}

/// Reads `50ms` or `2s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 50ms or 2s".to_owned();
    let (digits, unit) = text.split_at(text.find(|character: char| !character.is_ascii_digit()).ok_or_else(expected)?);
    let number = digits.parse().map_err(|_| expected())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(expected()),
    }
}

/// A packet socket bound to one interface, never blocking.
pub struct PacketSocket {
    descriptor: OwnedFd,
}

impl PacketSocket {
    /// Receives every frame that comes in on the interface, whatever its destination, but not those going out.
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = Self::bound(interface, libc::ETH_P_ALL as u16)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
        // SAFETY: packet_mreq is plain numbers, for which zero is a value.
        let mut membership: libc::packet_mreq = unsafe { zeroed() };
        membership.mr_ifindex = index_of(interface)?;
        membership.mr_type = libc::PACKET_MR_PROMISC as u16;
        socket.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(32 << 20))?;
        Ok(socket)
    }

    /// Only sends, past the queueing discipline: as fast as the interface takes it.
    pub fn sender(interface: &str) -> io::Result<Self> {
        let socket = Self::bound(interface, 0)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        Ok(socket)
    }

    fn bound(interface: &str, protocol: u16) -> io::Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers. Protocol 0 here: nothing arrives before the socket is bound to its interface.
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, flags, 0) })?;
        // SAFETY: `raw` was opened just now and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: sockaddr_ll is plain numbers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index_of(interface)?;
        // SAFETY: `address` is a sockaddr_ll that lives through the call, and the length is its own.
        check(unsafe {
            libc::bind(
                descriptor.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(Self { descriptor })
    }

    fn set<T>(&self, level: c_int, name: c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` lives through the call, and the length is its own.
        check(unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                level,
                name,
                (&raw const *value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    /// From now on receives only what is for this address or for a group.
    pub fn only_to(&self, mac: Mac) -> io::Result<()> {
        let [a, b, c, d, e, f] = mac;
        let load = |size: u32, offset: u32| (size | libc::BPF_LD | libc::BPF_ABS, 0, 0, offset);
        let jump = |test: u32, value: u32, yes: u8, no: u8| (libc::BPF_JMP | test | libc::BPF_K, yes, no, value);
        let give = |bytes: u32| (libc::BPF_RET | libc::BPF_K, 0, 0, bytes);
        // The group bit, or all six bytes: four, then two.
        let program = [
            load(libc::BPF_B, 0),
            jump(libc::BPF_JSET, 1, 4, 0),
            load(libc::BPF_W, 0),
            jump(libc::BPF_JEQ, u32::from_be_bytes([a, b, c, d]), 0, 3),
            load(libc::BPF_H, 4),
            jump(libc::BPF_JEQ, u32::from(u16::from_be_bytes([e, f])), 0, 1),
            give(u32::MAX),
            give(0),
        ];
        let mut program = program.map(|(code, jt, jf, k)| libc::sock_filter { code: code as u16, jt, jf, k });
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    /// The next frame into `buffer`: its length, or `None` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: the pointer and the length are those of `buffer`, which we hold alone.
        let length = unsafe { libc::recv(self.descriptor.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of `frame`.
        let sent = unsafe { libc::send(self.descriptor.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends many frames with one system call; returns how many of them, from the first on, were taken.
    pub fn send_many<const N: usize, const L: usize>(&self, frames: &mut [[u8; L]; N]) -> io::Result<usize> {
        let mut vectors =
            frames.each_mut().map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: L });
        let mut messages = vectors.each_mut().map(|vector| {
            // SAFETY: mmsghdr is plain numbers and pointers, for which zero (null) is a value.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        });
        // SAFETY: every message points to a vector and that to a frame, all of which live through the call.
        let sent = unsafe { libc::sendmmsg(self.descriptor.as_raw_fd(), messages.as_mut_ptr(), N as u32, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// Waits until one of the sockets has a frame, or `patience` is over (`None`: for ever).
pub fn wait(sockets: [&PacketSocket; 2], patience: Option<Duration>) -> io::Result<()> {
    let mut polls = sockets.map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let limit = patience.map(|patience| libc::timespec {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(patience.subsec_nanos() as i32),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), |limit| &raw const *limit);
    // SAFETY: `polls` and the time limit live through the call; no signal mask is given.
    check(unsafe { libc::ppoll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, limit, std::ptr::null()) })?;
    Ok(())
}

fn index_of(interface: &str) -> io::Result<c_int> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a string that ends in zero and lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => c_int::try_from(index).map_err(io::Error::other),
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
