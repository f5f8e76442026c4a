//! DPDK's af_packet driver: its arguments, and what has to be put right around it.

use std::io;
use std::os::fd::RawFd;

use super::Error;
use super::descriptors;
use super::interface::{index, set_option};

/// Bytes of a frame's place in the ring that driver and kernel share. The driver's default.
const FRAME_SIZE: usize = 2048;

/// Frames in each ring: 40 ms at 100,000 frames/s, as long as a worker may be off its core on a shared one.
const FRAME_COUNT: usize = 4096;

/// Places are carved from blocks; a bigger block is a bigger contiguous allocation in the kernel.
const BLOCK_SIZE: usize = 65536;

/// What the kernel keeps of a place before the frame (tpacket_rcv: TPACKET2_HDRLEN and 16 bytes for a link header,
/// aligned to 16, less the 14 of Ethernet).
const BEFORE_FRAME: usize = 66;

/// The driver's arguments.
pub(super) fn arguments(interface: &str, queues: usize) -> String {
    format!("iface={interface},qpairs={queues},blocksz={BLOCK_SIZE},framesz={FRAME_SIZE},framecnt={FRAME_COUNT}")
}

/// The interface that the driver's arguments name.
pub(super) fn interface(arguments: &str) -> Option<&str> {
    argument(arguments, "iface")
}

/// From which length on a frame may have been cut off: the kernel cuts it to what is left of its place, and the driver
/// does not tell.
pub(super) fn cut_at(arguments: &str) -> usize {
    let frame_size = argument(arguments, "framesz").and_then(|text| text.parse().ok()).unwrap_or(FRAME_SIZE);
    frame_size.saturating_sub(BEFORE_FRAME)
}

fn argument<'a>(arguments: &'a str, name: &str) -> Option<&'a str> {
    arguments.split(',').find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}

/// Keeps what the kernel itself sends on the interface out of the driver's rings: a packet socket sees both directions,
/// and the driver cannot tell them apart. Called once the driver has opened its sockets.
pub(super) fn ignore_outgoing(interface: &str) -> Result<(), Error> {
    let index = index(interface)?;
    let failed = |reason: io::Error| Error::Interface {
        name: interface.to_owned(),
        reason: format!("keeping the kernel's own frames out: {reason}"),
    };
    // BPF: load the packet type (an ancillary field); PACKET_OUTGOING: take nothing of it; else all. The option made for
    // this, PACKET_IGNORE_OUTGOING, has no effect on a socket in a fanout group, as the driver's are.
    const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const SKIP_UNLESS_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut code = [
        libc::sock_filter { code: LOAD, jt: 0, jf: 0, k: PACKET_TYPE },
        libc::sock_filter { code: SKIP_UNLESS_EQUAL, jt: 0, jf: 1, k: u32::from(libc::PACKET_OUTGOING) },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: u32::MAX },
    ];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    for socket in descriptors::own(|descriptor| is_receiving_packet_socket(descriptor, index)).map_err(failed)? {
        set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).map_err(failed)?;
    }
    Ok(())
}

/// Whether it is a packet socket that receives on the interface of that index.
pub(super) fn is_receiving_packet_socket(socket: RawFd, index: u32) -> bool {
    // SAFETY: all zeros is a valid address; the kernel writes at most `len` bytes, and refuses what is not a socket.
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

/// How many frames a packet socket had no room for since it was last asked: the kernel counts anew each time.
pub(super) fn lost(socket: RawFd) -> u64 {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `stats`, and refuses what is not a packet socket.
    let result = unsafe {
        libc::getsockopt(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, (&raw mut stats).cast(), &mut len)
    };
    if result == 0 { stats.tp_drops.into() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_fills_its_place_may_have_been_cut_off() {
        assert_eq!(cut_at(&arguments("eth0", 2)), 1982);
        assert_eq!(cut_at("iface=eth0,framesz=1024"), 958);
        assert_eq!(interface("qpairs=1,iface=eth0"), Some("eth0"));
        assert_eq!(interface("qpairs=1"), None);
    }
}
