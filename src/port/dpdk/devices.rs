//! From the configuration to capsule's: which devices, with which arguments.

use serde_json::{Value, json};

use super::memory::Plan;
use super::{Error, af_packet};
use crate::config::checked::{Dataplane, HostDevice, Wire};

/// Buffers in each mempool's cache of a thread: worth a factor of two.
const CACHE: usize = 256;

/// Descriptors of a NIC's ring; drivers without rings of their own ignore it.
const RING: usize = 1024;

/// net_tap fills as many buffers as descriptors but uses one.
const TAP_RING: usize = 64;

/// A device as EAL and capsule name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) device: String,
    args: Option<String>,
}

/// The two ports.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) wire: Device,
    pub(super) host: Device,
    /// The kernel's interface behind the wire, if there is one.
    pub(super) wire_interface: Option<String>,
    /// Whether the host port is to get the wire's MAC.
    pub(super) host_takes_mac: bool,
    wire_is_pci: bool,
}

/// Which devices.
pub(super) fn plan(setup: &Dataplane) -> Result<Ports, Error> {
    let queues = setup.workers.len();
    let wire_interface = match &setup.wire {
        Wire::Interface(name) => Some(name.clone()),
        Wire::Pci(_) | Wire::Vdev(_) => None,
    };
    let mut wire_mac = None;
    let wire = match &setup.wire {
        Wire::Interface(name) => {
            wire_mac = Some(af_packet::mac(name)?);
            Device { device: "net_af_packet_wire".to_owned(), args: Some(af_packet::arguments(name, queues)) }
        }
        Wire::Pci(address) => Device { device: address.clone(), args: None },
        Wire::Vdev(text) => vdev(text),
    };
    let host = match &setup.host.device {
        HostDevice::Tap(name) => {
            // The address is given at once where it is known: each change of it makes the kernel forget its neighbours.
            let mac = wire_mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
            let args = format!("iface={name},persist{mac}");
            Device { device: "net_tap_host".to_owned(), args: Some(args) }
        }
        HostDevice::Vdev(text) => vdev(text),
    };
    let host_takes_mac = matches!(setup.host.device, HostDevice::Tap(_));
    let wire_is_pci = matches!(setup.wire, Wire::Pci(_));
    Ok(Ports { wire, host, wire_interface, host_takes_mac, wire_is_pci })
}

/// `NAME,ARGUMENTS`, as EAL's `--vdev` takes it.
fn vdev(text: &str) -> Device {
    match text.split_once(',') {
        Some((device, args)) => Device { device: device.to_owned(), args: Some(args.to_owned()) },
        None => Device { device: text.to_owned(), args: None },
    }
}

/// capsule's configuration. Its types have no constructors: it is read from a document, as capsule does.
pub(super) fn capsule_config(
    setup: &Dataplane,
    node: &str,
    ports: &Ports,
    memory: &Plan,
) -> Result<capsule::config::RuntimeConfig, Error> {
    let port = |name: &str, device: &Device, promiscuous: bool, ring: usize| -> Value {
        json!({
            "name": name, "device": device.device, "args": device.args, "cores": setup.workers,
            "rxd": ring, "txd": ring, "promiscuous": promiscuous, "multicast": name == "wire",
        })
    };
    // Frames for the vMAC are not for the NIC's own. Of the kernel's interface, af_packet::Promiscuous takes care.
    let promiscuous = ports.wire_interface.is_none();
    let host_ring = if ports.host_takes_mac { TAP_RING } else { RING };
    let document = json!({
        "app_name": "baton",
        "app_group": format!("baton-{}", file_name(node)),
        "master_core": setup.control_core,
        "mempool": { "capacity": memory.buffers, "cache_size": CACHE },
        "dpdk_args": eal_arguments(setup, ports, memory)?,
        "ports": [
            port("wire", &ports.wire, promiscuous, RING),
            port("host", &ports.host, false, host_ring),
        ],
    });
    serde_json::from_value(document)
        .map_err(|reason| Error::Dpdk { doing: "configuring capsule", reason: reason.to_string() })
}

/// What EAL is told beyond what capsule tells it. The file's own arguments come last: there the last one counts.
fn eal_arguments(setup: &Dataplane, ports: &Ports, memory: &Plan) -> Result<String, Error> {
    let mut arguments: Vec<String> = vec!["--no-telemetry".to_owned(), "--log-level=*:warning".to_owned()];
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
    if [&ports.wire, &ports.host].iter().any(|port| port.device.starts_with("net_virtio_user")) {
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
