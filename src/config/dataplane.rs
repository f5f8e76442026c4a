//! `dataplane`: ports, cores and sizes.

use super::For;
use super::checked::{Dataplane, Host, HostDevice, HugePages, Poll, Vip, Wire};
use super::fault::{Faults, Wrong, quoted};
use super::read::{self, Network};
use super::section::Section;
use super::yaml::Value;

/// As many as the kernel's `cpu_set_t` and so the pinning calls can name.
const CORES: usize = 1024;
/// More connections than any machine's memory holds.
const MOST_CONNECTIONS: u64 = 1 << 28;

/// As many packet buffers as 40 GB hold.
const MOST_BUFFERS: u32 = 1 << 24;

/// The section; `vips` if they are right, to be compared with the member's own address.
pub(super) fn dataplane(file: &Section, vips: Option<&[Vip]>, machine: For, faults: &mut Faults) -> Option<Dataplane> {
    let section = &file.section("dataplane", faults)?;
    let wire = wire(section, faults);
    let host = host(section, wire.as_ref(), vips.unwrap_or_default(), faults);
    let control_core = section.or("control_core", 0, core, faults);
    let workers = section.set("workers", "a list of cores such as [1, 2], one worker each", core, faults);
    // The one core by default; a fault of it is told of the section, where a line for it would be.
    let workers = workers.map(|workers| workers.unwrap_or_else(|| vec![(1, section.line("workers"))]));
    if let (Some(control_core), Some(workers)) = (control_core, &workers) {
        cores(section, control_core, workers, machine, faults);
    }
    let poll = |value: &Value| read::word(value, &[("busy", Poll::Busy), ("adaptive", Poll::Adaptive)]);
    let poll = section.or("poll", Poll::Busy, poll, faults);
    let connections = |value: &Value| read::integer(value, 1..=MOST_CONNECTIONS, "a number of connections");
    let connections = section.or("connections", 1 << 20, connections, faults);
    let buffers = |value: &Value| read::integer(value, 0..=MOST_BUFFERS, "a number of packet buffers");
    let buffers = section.or("buffers", 0, buffers, faults);
    let huge_pages = [("auto", HugePages::Auto), ("require", HugePages::Require), ("never", HugePages::Never)];
    let huge_pages = section.or("huge_pages", HugePages::Auto, |value| read::word(value, &huge_pages), faults);
    let expected = "a list of EAL arguments such as [\"-m\", \"256\"], each in quotes";
    let eal = section.list("eal", expected, |value| read::text(value, "an EAL argument"), faults);
    let eal = eal.map(Option::unwrap_or_default);
    Some(Dataplane {
        wire: wire?,
        host: host?,
        workers: workers?.into_iter().map(|(core, _)| core).collect(),
        control_core: control_core?,
        poll: poll?,
        connections: usize::try_from(connections?).ok()?,
        buffers: usize::try_from(buffers?).ok()?,
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

fn host(dataplane: &Section, wire: Option<&Wire>, vips: &[Vip], faults: &mut Faults) -> Option<Host> {
    const EXPECTED: &str = "exactly one of {tap: vip0} and {vdev: \"…\"}";
    let Some(entry) = dataplane.get("host") else {
        dataplane.missing("host", EXPECTED, faults);
        return None;
    };
    let section = &dataplane.inner("dataplane.host", "host", entry, faults)?;
    let address = section.optional("address", |value| own_address(value, wire, vips), faults);
    let kind = section.one_of(&["tap", "vdev"], EXPECTED, faults)?;
    let read = |value: &Value| match kind.key.as_str() {
        "tap" => tap(value, wire).map(HostDevice::Tap),
        _ => host_vdev(value, wire).map(HostDevice::Vdev),
    };
    let device = section.optional(&kind.key, read, faults).flatten();
    Some(Host { device: device?, address: address?.map(|network| (network.address, network.prefix)) })
}

fn own_address(value: &Value, wire: Option<&Wire>, vips: &[Vip]) -> Result<Network, Wrong> {
    let network = read::network(value, "host addresses", "10.0.0.11/24")?;
    let address = network.address;
    if let Some(Wire::Interface(interface)) = wire {
        let what = format!("{address} would never be reached, since the kernel keeps {} itself", quoted(interface));
        return Err(Wrong::new(what, "an address here only where wire is pci or vdev"));
    }
    match vips.iter().position(|vip| vip.address == address || vip.gateway == Some(address)) {
        Some(position) => {
            Err(Wrong::new(format!("{address} is an address of vips[{position}]"), "an address of this member alone"))
        }
        None => Ok(network),
    }
}

fn tap(value: &Value, wire: Option<&Wire>) -> Result<String, Wrong> {
    let tap = read::interface(value)?;
    if wire == Some(&Wire::Interface(tap.clone())) {
        return Err(Wrong::new(format!("{} is the wire's interface", quoted(&tap)), "a name of its own"));
    }
    Ok(tap)
}

fn host_vdev(value: &Value, wire: Option<&Wire>) -> Result<String, Wrong> {
    let device = read::vdev(value)?;
    let name = |device: &str| device.split(',').next().unwrap_or_default().to_owned();
    match wire {
        Some(Wire::Vdev(wire)) if name(wire) == name(&device) => {
            let what = format!("{} is the wire's device", quoted(&name(wire)));
            Err(Wrong::new(what, "a device of its own, such as one whose name ends in another number"))
        }
        _ => Ok(device),
    }
}

fn core(value: &Value) -> Result<usize, Wrong> {
    read::integer(value, 0..=CORES as u32 - 1, "a core").map(|core| core as usize)
}

/// That workers and the control thread get cores, and not the same ones where there are several.
fn cores(section: &Section, control_core: usize, workers: &[(usize, usize)], machine: For, faults: &mut Faults) {
    let alone = matches!(workers, [(worker, _)] if *worker == control_core);
    let shared = match machine {
        // It may be meant for a machine that has just this one.
        For::AnyMachine => alone,
        For::ThisMachine { cores } => alone && cores == [control_core],
    };
    let path = section.path("workers");
    for (_, line) in workers.iter().filter(|(worker, _)| *worker == control_core && !shared) {
        let what = format!("{path}: core {control_core} is the control thread's (control_core)");
        faults.add(*line, what, "other cores, unless the machine has just one");
    }
    let For::ThisMachine { cores } = machine else { return };
    let offered: Vec<String> = cores.iter().map(usize::to_string).collect();
    let offered = format!("cores that this process may run on: {}", offered.join(", "));
    for (lacking, line) in workers.iter().filter(|(worker, _)| !cores.contains(worker)) {
        faults.add(*line, format!("{path}: this machine lacks core {lacking}"), offered.clone());
    }
    if !cores.contains(&control_core) {
        section.fault("control_core", Wrong::new(format!("this machine lacks core {control_core}"), offered), faults);
    }
}
