//! The descriptors by which the kernel tells of frames in the drivers' queues, found among the process's own: the drivers
//! keep theirs to themselves.
//!
//! They are counted on to be in the order of the queues, because the drivers open them so and the kernel gives the lowest
//! free number. Were that wrong, or ever change, a worker would wake for another's frames and find its own when its
//! wait ends (`LONGEST_WAIT` in src/idle.rs).

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::af_packet;
use super::devices::Device;

/// For each of `queues` queues of a device a descriptor that is readable while a frame waits; none if the kernel has none
/// of this device.
pub(super) fn of_device(device: &Device, queues: usize) -> io::Result<Option<Vec<OwnedFd>>> {
    let Some(Ok(index)) = device.interface.as_deref().map(super::interface::index) else { return Ok(None) };
    let mut found = own(|descriptor| af_packet::is_receiving_packet_socket(descriptor, index))?;
    found.truncate(queues);
    if found.len() < queues {
        return Ok(None);
    }
    found.into_iter().map(duplicate).collect::<io::Result<_>>().map(Some)
}

/// The process's descriptors that are `wanted`, in ascending order.
pub(super) fn own(wanted: impl Fn(RawFd) -> bool) -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(descriptor) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if wanted(descriptor) {
            found.push(descriptor);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A descriptor of our own beside the driver's, as that one closes with its port.
fn duplicate(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the kernel refuses a descriptor that is not open.
    match unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a new descriptor, ours alone.
        copy => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
    }
}
