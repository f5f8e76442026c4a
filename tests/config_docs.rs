//! The table of `docs/configuration.md` against the code: every key, and the default of each.

// A helper of a test fails it by panicking, too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use baton::config::checked::{HugePages, Metric, Poll};
use baton::config::units::show;
use baton::config::{Config, For, KEYS, auto_mac, parse};

/// The table's keys with their defaults.
fn documented() -> BTreeMap<String, String> {
    let text = fs::read_to_string("docs/configuration.md").unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.splitn(3, " | ");
        let key = cells.next()?.trim_end_matches('`').to_owned();
        Some((key, cells.next()?.trim_matches('`').to_owned()))
    });
    rows.collect()
}

fn checked(text: &str) -> Result<Config, Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("web.key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    parse(text, directory.path(), For::AnyMachine)
        .map_err(|faults| faults.into_iter().map(|fault| fault.what).collect())
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    // Ways to write one value, described where the value is.
    let forms = ["node.metric", "dataplane.wire"];
    // Sections that are described by their keys alone.
    let plain = ["cluster", "node", "dataplane", "control", "metrics", "log", "vips.orphans"];
    let mut expected: Vec<String> = KEYS
        .iter()
        .filter(|(section, _)| !forms.contains(section))
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
        .map(|key| key.trim_start_matches('.').to_owned())
        .filter(|key| !plain.contains(&key.as_str()))
        .filter(|key| !["dataplane.host.tap", "dataplane.host.vdev"].contains(&key.as_str()))
        .collect();
    expected.sort();
    assert_eq!(documented().into_keys().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_required_is_documented_as_such() {
    let faults = checked("cluster: {}\nnode: {}\nvips: [{}]\ndataplane: {}\n").unwrap_err();
    let mut missing: Vec<String> =
        faults.iter().map(|what| what.strip_suffix(" is missing").unwrap().replace("[0]", "")).collect();
    missing.push("vips".into());
    missing.sort();
    let documented = documented().into_iter().filter(|(_, default)| default == "required");
    assert_eq!(documented.map(|(key, _)| key).collect::<Vec<_>>(), missing);
    assert!(checked("vips: []").unwrap_err().contains(&"vips has 0 items".to_owned()));
}

#[test]
fn every_documented_default_is_the_one_that_applies() {
    const LEAST: &str = "cluster: {name: web, key_file: web.key}\nnode: {name: s1}\n\
        dataplane: {wire: {interface: eth0}, host: {tap: vip0}}\nvips:\n- address: 10.0.0.100/24\n";
    let Config { cluster, node, vips, dataplane, control_socket, metrics_listen, log } = checked(LEAST).unwrap();
    let vip = &vips[0];
    assert_eq!(vip.mac, auto_mac("web", vip.address));
    assert_eq!((node.metric, dataplane.poll, dataplane.huge_pages), (Metric::Connections, Poll::Busy, HugePages::Auto));
    assert_eq!((vip.gateway, vip.rebalance, &vip.health), (None, None, &None));
    assert_eq!((dataplane.host.address, metrics_listen), (None, None));
    assert!(vip.ports.is_empty());
    // With the sections that have defaults of their own only once they are there.
    let sections = checked(&format!("{LEAST}  rebalance: {{}}\n  orphans: {{}}\n  health: {{tcp: 80}}\n")).unwrap();
    let rebalance = sections.vips[0].rebalance.unwrap();
    let health = sections.vips[0].health.clone().unwrap();
    assert_eq!(sections.vips[0].orphans_after, vip.orphans_after);
    let none = || "none".to_owned();
    let defaults = [
        ("cluster.heartbeat", show(cluster.heartbeat)),
        ("cluster.missed", cluster.missed.to_string()),
        ("cluster.ethertype", format!("{:#06x}", cluster.ethertype)),
        ("node.metric", "connections".into()),
        ("vips.gateway", none()),
        ("vips.mac", "auto".into()),
        ("vips.ports", "all".into()),
        ("vips.actives", vip.actives.to_string()),
        ("vips.hedge", show(vip.hedge)),
        ("vips.rebalance", none()),
        ("vips.rebalance.every", show(rebalance.every)),
        ("vips.rebalance.margin", format!("{}%", 100.0 * rebalance.margin)),
        ("vips.rebalance.hold", show(rebalance.hold)),
        ("vips.orphans.after", vip.orphans_after.map_or("never".into(), show)),
        ("vips.health", none()),
        ("vips.health.tcp", none()),
        ("vips.health.http", none()),
        ("vips.health.command", none()),
        ("vips.health.every", show(health.every)),
        ("vips.health.timeout", show(health.timeout)),
        ("dataplane.host.address", none()),
        ("dataplane.workers", format!("{:?}", dataplane.workers)),
        ("dataplane.control_core", dataplane.control_core.to_string()),
        ("dataplane.poll", "busy".into()),
        ("dataplane.connections", dataplane.connections.to_string()),
        ("dataplane.buffers", dataplane.buffers.to_string()),
        ("dataplane.huge_pages", "auto".into()),
        ("dataplane.eal", format!("{:?}", dataplane.eal)),
        ("control.socket", control_socket.display().to_string()),
        ("metrics.listen", none()),
        ("log.level", log.level.to_string().to_lowercase()),
        ("log.format", if log.json { "json" } else { "text" }.into()),
    ];
    let expected: BTreeMap<String, String> =
        defaults.into_iter().map(|(key, default)| (key.to_owned(), default)).collect();
    let mut documented = documented();
    documented.retain(|_, default| default != "required");
    assert_eq!(documented, expected);
}
