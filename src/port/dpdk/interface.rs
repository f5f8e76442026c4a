//! The kernel's side of a port: its interface is claimed, put into the state that a port needs, and put back.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::Error;

/// A claim to an interface, so that two members never share one by mistake: the kernel would let them, and give each a
/// part of the frames. It is a socket bound to a name in this network namespace, and ends with the process.
#[derive(Debug)]
pub(super) struct Claim {
    _socket: UnixDatagram,
}

impl Claim {
    pub(super) fn stake(interface: &str) -> Result<Claim, Error> {
        let name = format!("baton/interface/{interface}");
        SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixDatagram::bind_addr(&address))
            .map(|socket| Claim { _socket: socket })
            .map_err(|reason| match reason.kind() {
                io::ErrorKind::AddrInUse => refused(interface, "another member on this machine uses it".to_owned()),
                _ => refused(interface, format!("claiming it: {reason}")),
            })
    }
}

/// The interface behind the wire: up, promiscuous, and without merging of received segments; as it was, once dropped.
///
/// - Promiscuous: frames for the vMAC are not for its own MAC. The kernel counts memberships and ends ours with the socket,
///   also when we crash; the interface's own flag, which DPDK would set, stays set.
/// - Receive offloads (GRO, LRO) merge segments before a packet socket sees them, into frames that fit no buffer.
#[derive(Debug)]
pub(super) struct WireInterface {
    name: String,
    socket: OwnedFd,
    had_gro: bool,
    had_lro: bool,
}

impl WireInterface {
    pub(super) fn prepare(name: &str) -> Result<WireInterface, Error> {
        // SAFETY: creates a socket; protocol 0 receives nothing.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(failed(name, "opening a packet socket"));
        }
        // SAFETY: a descriptor of ours.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let mut interface = WireInterface { name: name.to_owned(), socket, had_gro: false, had_lro: false };
        interface.bring_up()?;
        interface.enter_promiscuous_mode()?;
        // A driver without the offload refuses the question: then there is nothing to turn off.
        let flag = |command| interface.ethtool(command, 0).unwrap_or(0);
        let had_gro = flag(ETHTOOL_GGRO) != 0;
        let had_lro = flag(ETHTOOL_GFLAGS) & ETH_FLAG_LRO != 0;
        if had_gro {
            interface.ethtool(ETHTOOL_SGRO, 0).map_err(|_| failed(name, "turning GRO off"))?;
            interface.had_gro = true;
        }
        if had_lro {
            let flags = interface.ethtool(ETHTOOL_GFLAGS, 0).unwrap_or(0) & !ETH_FLAG_LRO;
            interface.ethtool(ETHTOOL_SFLAGS, flags).map_err(|_| failed(name, "turning LRO off"))?;
            interface.had_lro = true;
        }
        Ok(interface)
    }

    /// An interface that is down hears nothing. It stays up: whether others rely on it by then, nobody can say.
    fn bring_up(&self) -> Result<(), Error> {
        let mut request = self.request();
        let flags = self.ioctl(libc::SIOCGIFFLAGS, &mut request).map(|()| {
            // SAFETY: the kernel has filled this field in.
            unsafe { request.ifr_ifru.ifru_flags }
        });
        let flags = flags.map_err(|_| failed(&self.name, "reading its flags"))?;
        if i32::from(flags) & libc::IFF_UP == 0 {
            request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
            self.ioctl(libc::SIOCSIFFLAGS, &mut request).map_err(|_| failed(&self.name, "bringing it up"))?;
        }
        Ok(())
    }

    fn enter_promiscuous_mode(&self) -> Result<(), Error> {
        let request = libc::packet_mreq {
            mr_ifindex: index(&self.name)? as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_option(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
            .map_err(|_| failed(&self.name, "entering promiscuous mode"))
    }

    /// ethtool's commands that carry one number; returns the answer's.
    fn ethtool(&self, command: u32, number: u32) -> io::Result<u32> {
        // struct ethtool_value of linux/ethtool.h.
        let mut value = [command, number];
        let mut request = self.request();
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        self.ioctl(libc::SIOCETHTOOL, &mut request)?;
        Ok(value[1])
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: all zeros is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero; a longer name than fits would not have been found before.
        for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }

    fn ioctl(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: a request that these commands take, which points to live memory.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), number, request as *mut libc::ifreq) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for WireInterface {
    fn drop(&mut self) {
        // Best effort: the interface may be gone.
        if self.had_gro {
            let _ = self.ethtool(ETHTOOL_SGRO, 1);
        }
        if self.had_lro {
            let flags = self.ethtool(ETHTOOL_GFLAGS, 0).unwrap_or(0) | ETH_FLAG_LRO;
            let _ = self.ethtool(ETHTOOL_SFLAGS, flags);
        }
    }
}

// linux/ethtool.h
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// The kernel's number of the interface.
pub(super) fn index(interface: &str) -> Result<u32, Error> {
    let name = std::ffi::CString::new(interface).map_err(|reason| refused(interface, reason.to_string()))?;
    // SAFETY: a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(refused(interface, "there is none of this name".to_owned())),
        index => Ok(index),
    }
}

/// Refuses what cannot be attached to, of which the kernel would only say "Invalid argument". A TAP that does not exist is
/// made.
pub(super) fn check_tap(name: &str) -> Result<(), Error> {
    const IFF_TAP: u32 = 0x0002;
    const IFF_MULTI_QUEUE: u32 = 0x0100;
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|reason| refused(name, format!("/dev/net/tun: {reason}")))?;
    if !fs::exists(format!("/sys/class/net/{name}")).unwrap_or(false) {
        return Ok(());
    }
    let flags = fs::read_to_string(format!("/sys/class/net/{name}/tun_flags")).ok();
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok());
    match flags {
        Some(flags) if flags & IFF_TAP != 0 && flags & IFF_MULTI_QUEUE != 0 => Ok(()),
        Some(_) => Err(refused(name, "it exists, but is not a TAP with multi_queue: delete it".to_owned())),
        None => Err(refused(name, "it exists, but is not a TAP: pick another name".to_owned())),
    }
}

/// Sets a socket option; the error is the system's.
pub(super) fn set_option<T>(socket: i32, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `len` bytes of a live value.
    match unsafe { libc::setsockopt(socket, level, option, (&raw const *value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn refused(interface: &str, reason: String) -> Error {
    Error::Interface { name: interface.to_owned(), reason }
}

fn failed(interface: &str, doing: &str) -> Error {
    refused(interface, format!("{doing}: {}", io::Error::last_os_error()))
}
