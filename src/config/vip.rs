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
    let mut hasher = blake3::Hasher::new_derive_key("baton v1 virtual MAC of a cluster's virtual IP");
    // The address has a fixed length and comes first: no two pairs give the same input.
    hasher.update(&address.octets());
    hasher.update(cluster.as_bytes());
    let hash = hasher.finalize();
    let [a, b, c, d, e, ..] = *hash.as_bytes();
    Mac([0x02, a, b, c, d, e])
}

/// A virtual IP and where it was written.
struct Placed {
    vip: Vip,
    address_line: usize,
    mac_line: usize,
}

/// The list of virtual IPs.
pub(super) fn vips(entry: &Entry, cluster: Option<&str>, faults: &mut Faults) -> Option<Vec<Vip>> {
    const EXPECTED: &str = "a list of virtual IPs, each beginning with `- address:`";
    let Value::List(items) = &entry.node.value else {
        faults.add(entry.line, format!("vips is {}", entry.node.value), EXPECTED);
        return None;
    };
    if items.is_empty() || items.len() > MAX_VIPS {
        faults.add(entry.line, format!("vips has {} items", items.len()), format!("1 to {MAX_VIPS} virtual IPs"));
        return None;
    }
    // All are read before any is missed, so that each tells its faults.
    let vips: Vec<Option<Placed>> =
        items.iter().enumerate().map(|(position, item)| vip(position, item, cluster, faults)).collect();
    for (position, placed) in vips.iter().enumerate() {
        let Some(placed) = placed else { continue };
        let earlier = vips[..position].iter().enumerate();
        let earlier = earlier.filter_map(|(position, other)| other.as_ref().map(|other| (position, &other.vip)));
        for (other, Vip { address, mac, .. }) in earlier {
            if placed.vip.address == *address {
                let what = format!("vips[{position}].address: vips[{other}] has {address} already");
                faults.add(placed.address_line, what, "each virtual IP once");
            } else if placed.vip.mac == *mac {
                let what = format!("vips[{position}].mac: vips[{other}] has {mac} already");
                faults.add(placed.mac_line, what, "a MAC of its own for each virtual IP, or auto");
            }
        }
    }
    vips.into_iter().map(|placed| placed.map(|placed| placed.vip)).collect()
}

fn vip(position: usize, node: &Node, cluster: Option<&str>, faults: &mut Faults) -> Option<Placed> {
    let section = &Section::open("vips", &format!("vips[{position}]"), node.line, node, faults)?;
    let network = |value: &Value| read::network(value, "virtual IPs", "10.0.0.100/24");
    let network = section.required("address", "an IPv4 address with prefix such as 10.0.0.100/24", network, faults);
    let gateway = gateway(section, network, faults);
    let mac = |value: &Value| match value {
        Value::Text(word) if word == "auto" => Ok(None),
        _ => read::mac(value).map(Some),
    };
    let mac = section.or("mac", None, mac, faults);
    let expected = "a list of TCP ports such as [80, 443]; leave the key out for all ports";
    let ports = section.set("ports", expected, read::port, faults);
    let ports = ports.map(|ports| ports.unwrap_or_default().into_iter().map(|(port, _)| port).collect());
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
    let vip = Vip {
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
    };
    Some(Placed { vip, address_line: section.line("address"), mac_line: section.line("mac") })
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
