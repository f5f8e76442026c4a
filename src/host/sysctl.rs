//! An interface's IPv4 settings under `/proc/sys`, in the network namespace of the thread that asks.

use std::io;
use std::path::PathBuf;

fn path(interface: &str, name: &str) -> PathBuf {
    // Joined as components, so a dot in an interface's name stays a dot.
    PathBuf::from("/proc/sys/net/ipv4/conf").join(interface).join(name)
}

/// The value in force: of each setting used here the kernel takes the greater of the interface's and that of `all`. The
/// owner of a container's network sets the latter, as its interfaces come later and baton sees `/proc/sys` read-only.
pub(super) fn in_force(interface: &str, name: &str) -> io::Result<u32> {
    Ok(read(interface, name)?.max(read("all", name)?))
}

/// The interface's own value.
pub(super) fn read(interface: &str, name: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(path(interface, name))?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is {text:?}")))
}

pub(super) fn write(interface: &str, name: &str, value: u32) -> io::Result<()> {
    std::fs::write(path(interface, name), value.to_string())
}

/// Turns IPv6 off on an interface; of no effect on a kernel without it. Where it is off already nothing is written: a
/// container may set it for interfaces to come (`default`), and sees `/proc/sys` read-only.
pub(super) fn disable_ipv6(interface: &str) -> io::Result<()> {
    let path = PathBuf::from("/proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(value) if value.trim() == "1" => Ok(()),
        _ => std::fs::write(path, "1"),
    }
}
