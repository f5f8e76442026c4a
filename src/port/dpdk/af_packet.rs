//! The wire as an interface of the kernel's, through DPDK's af_packet driver: what has to be done beside it.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::Error;
use crate::frame::Mac;

/// Bytes of a frame's place in the ring that driver and kernel share.
const FRAME_SIZE: usize = 2048;

/// Frames in each ring: 40 ms at 100,000 frames/s, as long as a worker may be off its core on a shared one.
const FRAME_COUNT: usize = 4096;

/// Places are carved from blocks; a bigger block is a bigger contiguous allocation in the kernel.
const BLOCK_SIZE: usize = 65536;

/// The kernel puts a frame 66 bytes after the start of its place (tpacket_rcv: TPACKET2_HDRLEN and 16 bytes of link
/// header, aligned to 16, less the 14 of Ethernet), cuts it to the rest, and the driver does not tell. A frame that
/// fills the place is thus taken for one that was cut off.
pub(super) const CUT_AT: usize = FRAME_SIZE - 66;

/// The driver's arguments.
pub(super) fn arguments(interface: &str, queues: usize) -> String {
    format!("iface={interface},qpairs={queues},blocksz={BLOCK_SIZE},framesz={FRAME_SIZE},framecnt={FRAME_COUNT}")
}

/// The interface's MAC.
pub(super) fn mac(interface: &str) -> Result<Mac, Error> {
    let refused = |reason: String| Error::Interface { name: interface.to_owned(), reason };
    let path = format!("/sys/class/net/{interface}/address");
    let text = fs::read_to_string(path).map_err(|_| refused("there is none of this name".to_owned()))?;
    text.trim().parse().map_err(|_| refused(format!("it has no MAC ({})", text.trim())))
}

/// Keeps an interface promiscuous: frames for the vMAC are not for its own MAC. The kernel counts memberships and ends
/// ours with this socket, also when we crash, while the interface's own flag would stay.
#[derive(Debug)]
pub(super) struct Promiscuous {
    _socket: OwnedFd,
}

impl Promiscuous {
    pub(super) fn enter(interface: &str) -> Result<Promiscuous, Error> {
        let failed = |what: &str| Error::Interface {
            name: interface.to_owned(),
            reason: format!("{what}: {}", std::io::Error::last_os_error()),
        };
        let index = index(interface)?;
        // SAFETY: creates a socket; protocol 0 receives nothing.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(failed("opening a packet socket"));
        }
        // SAFETY: a descriptor of ours.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let request = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_option(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
            .map_err(|()| failed("entering promiscuous mode"))?;
        Ok(Promiscuous { _socket: socket })
    }
}

/// Keeps what the kernel itself sends on the interface out of the driver's rings: a packet socket sees both directions,
/// and the driver cannot tell them apart. Called once the driver has opened its sockets.
pub(super) fn ignore_outgoing(interface: &str) -> Result<(), Error> {
    let index = index(interface)?;
    let failed = |reason: std::io::Error| Error::Interface {
        name: interface.to_owned(),
        reason: format!("filtering: {reason}"),
    };
    // BPF: drop if the packet type, an ancillary load, is PACKET_OUTGOING; else take all of it.
    const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    let mut code = [
        libc::sock_filter { code: 0x28, jt: 0, jf: 0, k: PACKET_TYPE },
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: u32::from(libc::PACKET_OUTGOING) },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: u32::MAX },
    ];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    for entry in fs::read_dir("/proc/self/fd").map_err(failed)? {
        let Some(socket) = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if is_receiving_packet_socket(socket, index) {
            set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
                .map_err(|()| failed(std::io::Error::last_os_error()))?;
        }
    }
    Ok(())
}

fn is_receiving_packet_socket(socket: RawFd, index: u32) -> bool {
    // SAFETY: all zeros is a valid address; the kernel writes at most `len` bytes. No socket, no answer.
    let (result, address) = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        (libc::getsockname(socket, (&raw mut address).cast(), &mut len), address)
    };
    result == 0
        && i32::from(address.sll_family) == libc::AF_PACKET
        && address.sll_ifindex == index as i32
        && address.sll_protocol != 0
}

fn set_option<T>(socket: RawFd, level: i32, option: i32, value: &T) -> Result<(), ()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `len` bytes of a live value.
    match unsafe { libc::setsockopt(socket, level, option, (&raw const *value).cast(), len) } {
        0 => Ok(()),
        _ => Err(()),
    }
}

fn index(interface: &str) -> Result<u32, Error> {
    let refused = |reason: String| Error::Interface { name: interface.to_owned(), reason };
    let name = std::ffi::CString::new(interface).map_err(|reason| refused(reason.to_string()))?;
    // SAFETY: a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(refused("there is none of this name".to_owned())),
        index => Ok(index),
    }
}
