//! From the configuration to capsule's: which devices, with which arguments.

use serde_json::{Value, json};

use super::memory::Plan;
use super::{Error, af_packet, interface};
use crate::config::checked::{Dataplane, HostDevice, Wire};

/// Buffers in each mempool's cache of a thread: worth a factor of two.
const CACHE: usize = 256;

/// Descriptors of a NIC's ring; drivers without rings of their own ignore it.
const RING: usize = 1024;

/// A device as EAL and capsule name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) device: String,
    pub(super) args: Option<String>,
    /// The kernel's interface behind it, through a packet socket.
    pub(super) interface: Option<String>,
    /// Received frames of this length or more count as cut off.
    pub(super) cut_at: usize,
}

/// The two ports.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) wire: Device,
    pub(super) host: HostEnd,
    wire_is_pci: bool,
}

/// What leads to the host's stack.
#[derive(Clone, Debug)]
pub(super) enum HostEnd {
    /// A TAP of this name, opened by ourselves.
    Tap(String),
    /// virtio-user, with the kernel's vhost-net at a TAP of this name.
    VhostNet(Device, String),
    Device(Device),
}

impl HostEnd {
    /// The kernel's interface behind it, which nobody else may use.
    pub(super) fn interface(&self) -> Option<&str> {
        match self {
            HostEnd::Tap(name) | HostEnd::VhostNet(_, name) => Some(name),
            HostEnd::Device(device) => device.interface.as_deref(),
        }
    }

    pub(super) fn device(&self) -> Option<&Device> {
        match self {
            HostEnd::Tap(_) => None,
            HostEnd::VhostNet(device, _) | HostEnd::Device(device) => Some(device),
        }
    }
}

/// Which devices.
pub(super) fn plan(setup: &Dataplane) -> Result<Ports, Error> {
    let wire = match &setup.wire {
        Wire::Interface(name) => {
            interface::index(name)?;
            let arguments = af_packet::arguments(name, setup.workers.len());
            Device::new("net_af_packet_wire", Some(arguments))
        }
        Wire::Pci(address) => Device::new(address, None),
        Wire::Vdev(text) => Device::from_vdev(text),
    };
    let host = match &setup.host.device {
        HostDevice::Tap(name) => {
            interface::check_tap(name)?;
            HostEnd::Tap(name.clone())
        }
        HostDevice::Vdev(text) => match setup.host.device.tap() {
            Some(tap) => HostEnd::VhostNet(Device::from_vdev(text), tap.name.to_owned()),
            None => HostEnd::Device(Device::from_vdev(text)),
        },
    };
    if host.device().is_some_and(|host| host.device == wire.device) {
        let reason = format!("wire and host are both the device {}", wire.device);
        return Err(Error::Dpdk { doing: "choosing devices", reason });
    }
    Ok(Ports { wire, host, wire_is_pci: matches!(setup.wire, Wire::Pci(_)) })
}

impl Device {
    fn new(device: &str, args: Option<String>) -> Device {
        let kernel = args.as_deref().filter(|_| device.starts_with("net_af_packet"));
        Device {
            device: device.to_owned(),
            interface: kernel.and_then(af_packet::interface).map(str::to_owned),
            cut_at: kernel.map_or(usize::MAX, af_packet::cut_at),
            args,
        }
    }

    /// `NAME,ARGUMENTS`, as EAL's `--vdev` takes it.
    pub(super) fn from_vdev(text: &str) -> Device {
        match text.split_once(',') {
            Some((device, args)) => Device::new(device, Some(args.to_owned())),
            None => Device::new(text, None),
        }
    }
}

/// capsule's configuration. Its types have no constructors: it is read from a document, as capsule does.
pub(super) fn capsule_config(
    setup: &Dataplane,
    node: &str,
    ports: &Ports,
    memory: &Plan,
) -> Result<capsule::config::RuntimeConfig, Error> {
    let port = |name: &str, device: &Device, promiscuous: bool| -> Value {
        json!({
            "name": name, "device": device.device, "args": device.args, "cores": setup.workers,
            "rxd": RING, "txd": RING, "promiscuous": promiscuous, "multicast": name == "wire",
        })
    };
    // Frames for the vMAC are not for the NIC's own MAC. Of a kernel's interface, WireInterface takes care.
    let promiscuous = ports.wire.interface.is_none();
    let wire = port("wire", &ports.wire, promiscuous);
    let host = ports.host.device().map(|device| port("host", device, false));
    let devices: Vec<Value> = [wire].into_iter().chain(host).collect();
    let document = json!({
        "app_name": "baton",
        "app_group": format!("baton-{}", file_name(node)),
        "master_core": setup.control_core,
        "mempool": { "capacity": memory.buffers, "cache_size": CACHE },
        "dpdk_args": eal_arguments(setup, ports, memory)?,
        "ports": devices,
    });
    serde_json::from_value(document)
        .map_err(|reason| Error::Dpdk { doing: "configuring capsule", reason: reason.to_string() })
}

/// What EAL is told beyond what capsule tells it. The file's own arguments come last: there the last one counts.
fn eal_arguments(setup: &Dataplane, ports: &Ports, memory: &Plan) -> Result<String, Error> {
    // Of log levels the last one counts for libraries, but the first for drivers, which are loaded after all were read.
    let own_levels = || setup.eal.iter().filter(|argument| argument.starts_with("--log-level="));
    let mut arguments: Vec<String> = own_levels().cloned().collect();
    arguments.extend(["--log-level=*:warning", "--no-telemetry"].map(str::to_owned));
    if memory.huge_pages {
        // In memory only: no files in a hugetlbfs that outlive a crash.
        arguments.push("--in-memory".to_owned());
    } else {
        // EAL refuses --in-memory beside --no-huge; --no-shconf is the part of it that keeps processes apart.
        arguments.extend(["--no-huge".to_owned(), "--no-shconf".to_owned(), "-m".to_owned(), memory.mib.to_string()]);
    }
    if !ports.wire_is_pci {
        arguments.push("--no-pci".to_owned());
    }
    let mut devices = [Some(&ports.wire), ports.host.device()].into_iter().flatten();
    if devices.any(|port| port.device.starts_with("net_virtio_user")) {
        // The memory is handed to the vhost side as files, of which the protocol carries eight.
        arguments.push("--single-file-segments".to_owned());
    }
    for argument in &setup.eal {
        if argument.is_empty() || argument.contains(|c: char| c.is_ascii_whitespace()) {
            return Err(Error::EalArgument(argument.clone()));
        }
        arguments.push(argument.clone());
    }
    Ok(arguments.join(" "))
}

/// `name` as a part of a file's name.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::checked::{Host, HugePages, Poll};
    use std::path::Path;

    fn setup(wire: Wire, eal: &[&str]) -> Dataplane {
        Dataplane {
            wire,
            host: Host { device: HostDevice::Vdev("net_virtio_user0,path=/dev/vhost-net".to_owned()), address: None },
            workers: vec![1, 2],
            control_core: 0,
            poll: Poll::Busy,
            connections: 1,
            buffers: 0,
            huge_pages: HugePages::Auto,
            eal: eal.iter().map(|&argument| argument.to_owned()).collect(),
        }
    }

    fn arguments(setup: &Dataplane, huge_pages: bool) -> Result<String, Error> {
        let memory = Plan { huge_pages, buffers: 1023, mib: 100 };
        eal_arguments(setup, &plan(setup)?, &memory)
    }

    #[test]
    fn eal_gets_what_devices_and_memory_need_and_the_files_own_arguments_last() {
        let pci = setup(Wire::Pci("0000:03:00.0".to_owned()), &["--iova-mode=va"]);
        let text = arguments(&pci, true).unwrap();
        assert!(text.contains("--in-memory") && !text.contains("--no-pci") && text.contains("--single-file-segments"));
        assert!(text.ends_with("--iova-mode=va"));
        let vdev = setup(Wire::Vdev("net_null0".to_owned()), &[]);
        let text = arguments(&vdev, false).unwrap();
        assert!(text.contains("--no-huge --no-shconf -m 100") && text.contains("--no-pci"));
    }

    #[test]
    fn an_eal_argument_with_white_space_is_refused() {
        let setup = setup(Wire::Vdev("net_null0".to_owned()), &["-m 64"]);
        assert!(matches!(arguments(&setup, false), Err(Error::EalArgument(argument)) if argument == "-m 64"));
    }

    #[test]
    fn wire_and_host_are_two_devices() {
        let same = setup(Wire::Vdev("net_virtio_user0".to_owned()), &[]);
        assert!(plan(&same).is_err());
    }

    #[test]
    fn capsule_takes_the_configuration() {
        let setup = setup(Wire::Vdev("net_af_packet7,iface=eth0,framesz=4096".to_owned()), &[]);
        let ports = plan(&setup).unwrap();
        assert_eq!((ports.wire.interface.as_deref(), ports.wire.cut_at), (Some("eth0"), 4030));
        let memory = Plan { huge_pages: false, buffers: 1023, mib: 100 };
        let config = capsule_config(&setup, "a/b c", &ports, &memory).unwrap();
        assert_eq!(config.app_group.as_deref(), Some("baton-a_b_c"));
        assert_eq!(Path::new(config.app_group.as_deref().unwrap()).components().count(), 1);
        assert_eq!((config.ports.len(), config.mempool.cache_size), (2, CACHE));
        assert!(!config.ports[0].promiscuous);
    }
}
