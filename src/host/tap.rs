//! The TAP interface between baton and the host's stack. It outlives baton: persistent, and without a carrier while nobody
//! holds it open.
#![allow(unsafe_code)] // The TUN driver is set up by ioctls alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use libc::ifreq;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, ifreq);
nix::ioctl_write_int_bad!(tun_set_persist, libc::TUNSETPERSIST);
nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);

/// The most bytes of an interface's name.
pub(super) const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Opens the TAP `name`, which makes it if there is none. `EBUSY` or `EINVAL`: there is such an interface, and it is
/// no multi-queue TAP.
///
/// `IFF_MULTI_QUEUE` must be the same on every descriptor (`tun_set_iff` in drivers/net/tun.c). The rest is set anew by
/// the first descriptor on an unattached TAP: no packet information, and before each frame the header of
/// [`offload`](crate::port::offload::header).
pub fn attach(name: &str) -> io::Result<File> {
    open(name, true)
}

fn open(name: &str, multi_queue: bool) -> io::Result<File> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an `ifreq` is plain integers and bytes, for which all zeros is a value.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as _;
    }
    let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | queues | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as _;
    // SAFETY: `request` lives across the call and is an `ifreq`, as TUNSETIFF takes it.
    unsafe { tun_set_iff(file.as_raw_fd(), &request) }?;
    Ok(file)
}

/// Makes the TAP `name` if there is none, and has it stay after its last descriptor is closed; on return none is open.
pub(super) fn make_persistent(name: &str, multi_queue: bool) -> io::Result<()> {
    let file = open(name, multi_queue)?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { tun_set_persist(file.as_raw_fd(), 1) }?;
    Ok(())
}

/// Has the kernel leave checksums and the segmentation of TCP over IPv4 to who reads the TAP. It holds for the interface,
/// from now on.
pub fn offer_offloads(queue: &File) -> io::Result<()> {
    const TUN_F_CSUM: i32 = 1;
    const TUN_F_TSO4: i32 = 2;
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    unsafe { tun_set_offload(queue.as_raw_fd(), TUN_F_CSUM | TUN_F_TSO4) }?;
    Ok(())
}
