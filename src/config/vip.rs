//! `vips`: each on its own, and what two of them must not share.

use std::time::Duration;

use super::checked::{Health, Probe, Rebalance, Vip};
use super::fault::{Faults, Wrong};
use super::read::{self, Network};
use super::section::Section;
use super::yaml::{Entry, Node, Value};
use crate::frame::Mac;
use crate::table::tuple::MAX_VIPS;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// A virtual IP's MAC where the file says `auto`: locally administered unicast, `02` followed by five bytes of the
/// BLAKE3 hash (key derivation mode) of the cluster's name and the address, so that every member finds the same one,
/// and two clusters on one switch different ones.
pub fn auto_mac(cluster: &str, address: std::net::Ipv4Addr) -> Mac {
    let mut hasher = blake3::Hasher::new_derive_key("baton 2025 virtual MAC of a cluster's virtual IP");
    // The address has a fixed length and comes first: no two pairs give the same input.
    hasher.update(&address.octets());
    hasher.update(cluster.as_bytes());
    let hash = hasher.finalize();
    let [a, b, c, d, e, ..] = *hash.as_bytes();
    Mac([0x02, a, b, c, d, e])
}

/// The list of virtual IPs.
pub(super) fn vips(entry: &Entry, cluster: Option<&str>, faults: &mut Faults) -> Option<Vec<Vip>> {
    const EXPECTED: &str = "a list of virtual IPs, each beginning with `- address:`";
    let Value::List(items) = &entry.node.value else {
        faults.add(entry.node.line, format!("vips is {}", entry.node.value), EXPECTED);
        return None;
    };
    if items.is_empty() || items.len() > MAX_VIPS {
        let what = format!("vips has {} items", items.len());
        faults.add(entry.node.line, what, format!("1 to {MAX_VIPS} virtual IPs"));
        return None;
    }
    // All are read before any is missed, so that each tells its faults.
    let vips: Vec<Option<(usize, Vip)>> = items
        .iter()
        .enumerate()
        .map(|(position, item)| vip(position, item, cluster, faults).map(|vip| (item.line, vip)))
        .collect();
    let read: Vec<(usize, &Node, &Vip)> = vips
        .iter()
        .zip(items)
        .enumerate()
        .filter_map(|(position, (vip, item))| vip.as_ref().map(|(_, vip)| (position, item, vip)))
        .collect();
    for (later, (position, item, vip)) in read.iter().enumerate() {
        for (earlier, _, other) in &read[..later] {
            let line = |key: &str| line_of(item, key);
            if vip.address == other.address {
                let what = format!("vips[{position}].address: vips[{earlier}] has {} already", vip.address);
                faults.add(line("address"), what, "each virtual IP once");
            } else if vip.mac == other.mac {
                let what = format!("vips[{position}].mac: vips[{earlier}] has {} already", vip.mac);
                faults.add(line("mac"), what, "a MAC of its own for each virtual IP, or auto");
            }
        }
    }
    vips.into_iter().map(|vip| vip.map(|(_, vip)| vip)).collect()
}

/// The line of a key's value in a mapping, or of the mapping.
fn line_of(node: &Node, key: &str) -> usize {
    let Value::Mapping(entries) = &node.value else { return node.line };
    entries.iter().find(|entry| entry.key == key).map_or(node.line, |entry| entry.node.line)
}

fn vip(position: usize, node: &Node, cluster: Option<&str>, faults: &mut Faults) -> Option<Vip> {
    let section = &Section::open("vips", &format!("vips[{position}]"), node.line, node, faults)?;
    let network = |value: &Value| read::network(value, "virtual IPs", "10.0.0.100/24");
    let network = section.required("address", "an IPv4 address with prefix such as 10.0.0.100/24", network, faults);
    let gateway = gateway(section, network, faults);
    let mac = |value: &Value| match value {
        Value::Text(word) if word == "auto" => Ok(None),
        _ => read::mac(value).map(Some),
    };
    let mac = section.or("mac", None, mac, faults);
    let ports = section.or("ports", Vec::new(), ports, faults);
    let actives = section.or("actives", 1, |value| read::integer(value, 1..=16_u8, "a number of members"), faults);
    let hedge = |value: &Value| read::duration(value, Duration::ZERO..=10 * SECOND);
    let hedge = section.or("hedge", Duration::from_millis(5), hedge, faults);
    let rebalance = rebalance(section, faults);
    let orphans_after = orphans_after(section, faults);
    let health = health(section, faults);
    let network = network?;
    let mac = match mac? {
        Some(mac) => mac,
        // Without the cluster's name there is a fault already, and no MAC to derive.
        None => auto_mac(cluster?, network.address),
    };
    Some(Vip {
        address: network.address,
        prefix: network.prefix,
        gateway: gateway?,
        mac,
        ports: ports?,
        actives: actives?,
        hedge: hedge?,
        rebalance: rebalance?,
        orphans_after: orphans_after?,
        health: health?,
    })
}

fn gateway(section: &Section, network: Option<Network>, faults: &mut Faults) -> Option<Option<std::net::Ipv4Addr>> {
    let read = |value: &Value| {
        let gateway = read::address(value, "gateways", "10.0.0.1")?;
        let Some(network) = network else { return Ok(gateway) };
        let subnet = format!("another host's address in the subnet of {}/{}", network.address, network.prefix);
        if !network.contains(gateway) {
            return Err(Wrong::new(format!("{gateway} is outside the subnet"), subnet));
        }
        if gateway == network.address {
            return Err(Wrong::new(format!("{gateway} is the virtual IP itself"), subnet));
        }
        match network.reserves(gateway) {
            Some(why) => Err(Wrong::new(format!("{gateway} is {why}"), subnet)),
            None => Ok(gateway),
        }
    };
    let version_6 =
        |entry: &Entry| matches!(&entry.node.value, Value::Text(text) if text.parse::<std::net::Ipv6Addr>().is_ok());
    if network.is_none() && section.get("gateway").is_some_and(version_6) {
        // An IPv6 virtual IP has been refused; that its gateway is of its kind is no fault of its own.
        return None;
    }
    section.optional("gateway", read, faults)
}

fn ports(value: &Value) -> Result<Vec<u16>, Wrong> {
    const EXPECTED: &str = "a list of TCP ports such as [80, 443]; leave the key out for all ports";
    let Value::List(items) = value else {
        return Err(Wrong::new(format!("{value} is not a list"), EXPECTED));
    };
    let mut ports = items.iter().map(|item| read::port(&item.value)).collect::<Result<Vec<u16>, Wrong>>()?;
    ports.sort_unstable();
    if let Some(twice) = ports.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Wrong::new(format!("{} stands twice", twice[0]), "each port once"));
    }
    if ports.is_empty() { Err(Wrong::new("the list is empty", EXPECTED)) } else { Ok(ports) }
}

fn rebalance(vip: &Section, faults: &mut Faults) -> Option<Option<Rebalance>> {
    let Some(entry) = vip.get("rebalance") else { return Some(None) };
    let section = vip.inner("vips.rebalance", "rebalance", entry, faults)?;
    let every = |value: &Value| read::duration_or_never(value, Duration::from_millis(1)..=HOUR);
    let every = section.or("every", Some(SECOND), every, faults);
    let margin = section.or("margin", 0.2, read::percentage, faults);
    let hold = section.or("hold", 3 * SECOND, |value| read::duration(value, Duration::ZERO..=HOUR), faults);
    let (margin, hold) = (margin?, hold?);
    Some(every?.map(|every| Rebalance { every, margin, hold }))
}

fn orphans_after(vip: &Section, faults: &mut Faults) -> Option<Option<Duration>> {
    const DEFAULT: Duration = Duration::from_secs(2);
    let Some(entry) = vip.get("orphans") else { return Some(Some(DEFAULT)) };
    let section = vip.inner("vips.orphans", "orphans", entry, faults)?;
    let after = |value: &Value| read::duration_or_never(value, Duration::from_millis(1)..=HOUR);
    section.or("after", Some(DEFAULT), after, faults)
}

fn health(vip: &Section, faults: &mut Faults) -> Option<Option<Health>> {
    const PROBES: [&str; 3] = ["tcp", "http", "command"];
    let Some(entry) = vip.get("health") else { return Some(None) };
    let section = vip.inner("vips.health", "health", entry, faults)?;
    let probe = section.one_of(&PROBES, "exactly one probe: tcp, http or command", faults);
    let probe = probe.and_then(|entry| {
        let read = |value: &Value| match entry.key.as_str() {
            "tcp" => read::port(value).map(Probe::Tcp),
            "http" => read::http_url(value).map(Probe::Http),
            _ => read::command(value).map(Probe::Command),
        };
        section.optional(&entry.key, read, faults).flatten()
    });
    let range = Duration::from_millis(1)..=HOUR;
    let every = section.or("every", SECOND / 2, |value| read::duration(value, range.clone()), faults);
    let timeout = section.or("timeout", SECOND / 5, |value| read::duration(value, range.clone()), faults);
    Some(Some(Health { probe: probe?, every: every?, timeout: timeout? }))
}
