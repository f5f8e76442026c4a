//! `dataplane`: ports, cores and sizes.

use super::For;
use super::checked::{Dataplane, Host, HostDevice, HugePages, Poll, Vip, Wire};
use super::fault::{Faults, Wrong, quoted};
use super::read;
use super::section::Section;
use super::yaml::Value;

/// As many as the kernel's `cpu_set_t` and so the pinning calls can name.
const CORES: usize = 1024;
/// More connections than any machine's memory holds.
const MOST_CONNECTIONS: u64 = 1 << 28;

pub(super) fn dataplane(file: &Section, machine: For, faults: &mut Faults) -> Option<Dataplane> {
    let section = &file.section("dataplane", faults)?;
    let wire = wire(section, faults);
    let host = host(section, faults);
    if let (Some(wire), Some(host)) = (&wire, &host) {
        between_ports(section, wire, host, faults);
    }
    let control_core = section.or("control_core", 0, core, faults);
    let workers = section.or("workers", vec![1], workers, faults);
    if let (Some(control_core), Some(workers)) = (control_core, &workers) {
        cores(section, control_core, workers, machine, faults);
    }
    let poll = |value: &Value| read::word(value, &[("busy", Poll::Busy), ("adaptive", Poll::Adaptive)]);
    let poll = section.or("poll", Poll::Busy, poll, faults);
    let connections = |value: &Value| read::integer(value, 1..=MOST_CONNECTIONS, "a number of connections");
    let connections = section.or("connections", 1 << 20, connections, faults);
    let huge_pages = [("auto", HugePages::Auto), ("require", HugePages::Require), ("never", HugePages::Never)];
    let huge_pages = section.or("huge_pages", HugePages::Auto, |value| read::word(value, &huge_pages), faults);
    let eal = section.or("eal", Vec::new(), eal, faults);
    Some(Dataplane {
        wire: wire?,
        host: host?,
        workers: workers?,
        control_core: control_core?,
        poll: poll?,
        connections: usize::try_from(connections?).ok()?,
        huge_pages: huge_pages?,
        eal: eal?,
    })
}

fn wire(dataplane: &Section, faults: &mut Faults) -> Option<Wire> {
    const EXPECTED: &str = "exactly one of {interface: eth0}, {pci: \"0000:03:00.0\"} and {vdev: \"…\"}";
    let Some(entry) = dataplane.get("wire") else {
        dataplane.missing("wire", EXPECTED, faults);
        return None;
    };
    let section = dataplane.inner("dataplane.wire", "wire", entry, faults)?;
    let kind = section.one_of(&["interface", "pci", "vdev"], EXPECTED, faults)?;
    let read = |value: &Value| match kind.key.as_str() {
        "interface" => read::interface(value).map(Wire::Interface),
        "pci" => read::pci(value).map(Wire::Pci),
        _ => read::vdev(value).map(Wire::Vdev),
    };
    section.optional(&kind.key, read, faults).flatten()
}

fn host(dataplane: &Section, faults: &mut Faults) -> Option<Host> {
    const EXPECTED: &str = "exactly one of {tap: vip0} and {vdev: \"…\"}";
    let Some(entry) = dataplane.get("host") else {
        dataplane.missing("host", EXPECTED, faults);
        return None;
    };
    let section = dataplane.inner("dataplane.host", "host", entry, faults)?;
    let address = |value: &Value| read::network(value, "host addresses", "10.0.0.11/24");
    let address = section.optional("address", address, faults);
    let kind = section.one_of(&["tap", "vdev"], EXPECTED, faults)?;
    let read = |value: &Value| match kind.key.as_str() {
        "tap" => read::interface(value).map(HostDevice::Tap),
        _ => read::vdev(value).map(HostDevice::Vdev),
    };
    let device = section.optional(&kind.key, read, faults).flatten();
    let address = address?.map(|network| (network.address, network.prefix));
    Some(Host { device: device?, address })
}

/// What the two ports must not share.
fn between_ports(dataplane: &Section, wire: &Wire, host: &Host, faults: &mut Faults) {
    let mut fault = |what: String, expected: &str| {
        dataplane.fault("host", Wrong::new(what, expected), faults);
    };
    let name = |device: &str| device.split(',').next().unwrap_or_default().to_owned();
    match (wire, &host.device) {
        (Wire::Interface(wire), HostDevice::Tap(tap)) if wire == tap => {
            fault(format!("the TAP has the name of the wire's interface, {}", quoted(tap)), "a name of its own");
        }
        (Wire::Vdev(wire), HostDevice::Vdev(host)) if name(wire) == name(host) => {
            let what = format!("the device has the name of the wire's, {}", quoted(&name(host)));
            fault(what, "a name of its own, such as one ending in another number");
        }
        _ => {}
    }
    if let (Wire::Interface(interface), Some((address, _))) = (wire, host.address) {
        fault(
            format!(
                "the address {address} would never be reached, since the kernel keeps {} itself",
                quoted(interface)
            ),
            "host.address only where wire is pci or vdev",
        );
    }
}

/// That the member's own address and the virtual IPs differ.
pub(super) fn own_address(file: &Section, host: &Host, vips: &[Vip], faults: &mut Faults) {
    let Some((address, _)) = host.address else { return };
    let taken = |vip: &Vip| vip.address == address || vip.gateway == Some(address);
    if let Some(position) = vips.iter().position(taken) {
        let line = file.get("dataplane").map_or(1, |entry| address_line(&entry.node));
        let what = format!("dataplane.host.address: {address} is an address of vips[{position}]");
        faults.add(line, what, "an address of this member alone");
    }
}

/// The line of `host.address` under `dataplane`.
fn address_line(dataplane: &super::yaml::Node) -> usize {
    ["host", "address"]
        .iter()
        .fold((dataplane, dataplane.line), |(node, line), key| {
            let Value::Mapping(entries) = &node.value else { return (node, line) };
            let found = entries.iter().find(|entry| entry.key == *key);
            found.map_or((node, line), |entry| (&entry.node, entry.node.line))
        })
        .1
}

fn core(value: &Value) -> Result<usize, Wrong> {
    read::integer(value, 0..=CORES as u32 - 1, "a core").map(|core| core as usize)
}

fn workers(value: &Value) -> Result<Vec<usize>, Wrong> {
    const EXPECTED: &str = "a list of cores such as [1, 2], one worker each";
    let Value::List(items) = value else {
        return Err(Wrong::new(format!("{value} is not a list"), EXPECTED));
    };
    let mut workers = items.iter().map(|item| core(&item.value)).collect::<Result<Vec<usize>, Wrong>>()?;
    workers.sort_unstable();
    if let Some(twice) = workers.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Wrong::new(format!("core {} stands twice", twice[0]), "each core once"));
    }
    if workers.is_empty() { Err(Wrong::new("the list is empty", EXPECTED)) } else { Ok(workers) }
}

/// That workers and the control thread get cores, and not the same ones where there are several.
fn cores(section: &Section, control_core: usize, workers: &[usize], machine: For, faults: &mut Faults) {
    let one_core = match machine {
        // It may be meant for a machine that has just this one.
        For::AnyMachine => workers == [control_core],
        For::ThisMachine { cores } => cores == [control_core] && workers == [control_core],
    };
    if workers.contains(&control_core) && !one_core {
        let what = format!("core {control_core} is the control thread's (control_core)");
        section.fault("workers", Wrong::new(what, "other cores, unless the machine has just one"), faults);
    }
    let For::ThisMachine { cores } = machine else { return };
    let offered = || {
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        format!("cores that this process may run on: {}", cores.join(", "))
    };
    for lacking in workers.iter().filter(|core| !cores.contains(core)) {
        section.fault("workers", Wrong::new(format!("this machine lacks core {lacking}"), offered()), faults);
    }
    if !cores.contains(&control_core) {
        section.fault("control_core", Wrong::new(format!("this machine lacks core {control_core}"), offered()), faults);
    }
}

fn eal(value: &Value) -> Result<Vec<String>, Wrong> {
    const EXPECTED: &str = "a list of EAL arguments such as [\"-m\", \"256\"], each in quotes";
    let Value::List(items) = value else {
        return Err(Wrong::new(format!("{value} is not a list"), EXPECTED));
    };
    items.iter().map(|item| read::text(&item.value, EXPECTED)).collect()
}
