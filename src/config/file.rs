//! The file as a whole, and its smaller sections.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Level;

use super::checked::{Cluster, Config, Log, Metric, Node};
use super::fault::{Faults, Wrong};
use super::key::Key;
use super::section::Section;
use super::yaml::{self, Value};
use super::{For, dataplane, read, vip};

/// Where the control socket is unless the file says otherwise.
pub const CONTROL_SOCKET: &str = "/run/baton/baton.sock";
/// The EtherType of heartbeats unless the file says otherwise: local experimental (IEEE Std 802).
pub const ETHERTYPE: u16 = 0x88b5;

/// Everything. Relative paths start from `base`.
pub(super) fn config(root: &yaml::Node, base: &Path, machine: For, faults: &mut Faults) -> Option<Config> {
    let file = &Section::open("", "", root.line, root, faults)?;
    let cluster = cluster(file, base, faults);
    let node = node(file, base, faults);
    let vips = match file.get("vips") {
        // The name alone decides the MACs, so other faults of the cluster don't hide those of the virtual IPs.
        Some(entry) => vip::vips(entry, cluster_name(file).as_deref(), faults),
        None => {
            file.missing("vips", "a list of virtual IPs, each beginning with `- address:`", faults);
            None
        }
    };
    let dataplane = dataplane::dataplane(file, vips.as_deref(), machine, faults);
    let control_socket = control_socket(file, faults);
    let metrics_listen = metrics_listen(file, faults);
    let log = log(file, faults);
    Some(Config {
        cluster: cluster?,
        node: node?,
        vips: vips?,
        dataplane: dataplane?,
        control_socket: control_socket?,
        metrics_listen: metrics_listen?,
        log: log?,
    })
}

/// The cluster's name, if it is right; its faults are told elsewhere.
fn cluster_name(file: &Section) -> Option<String> {
    let unheard = &mut Faults::default();
    file.section("cluster", unheard)?.optional("name", read::name, unheard).flatten()
}

fn cluster(file: &Section, base: &Path, faults: &mut Faults) -> Option<Cluster> {
    let section = file.section("cluster", faults)?;
    let name = section.required("name", "a name, the same on every member", read::name, faults);
    let key = |value: &Value| {
        let path = read::path(value, base)?;
        Key::read(&path).map_err(|why| Wrong::new(format!("{}: {why}", path.display()), why.expected()))
    };
    let key = section.required("key_file", "the path of a file from `baton keygen --out FILE`", key, faults);
    let heartbeat = |value: &Value| read::duration(value, Duration::from_millis(1)..=Duration::from_secs(10));
    let heartbeat = section.or("heartbeat", Duration::from_millis(10), heartbeat, faults);
    let missed = |value: &Value| read::integer(value, 1..=100_u32, "a number of heartbeats");
    let missed = section.or("missed", 3, missed, faults);
    let ethertype = section.or("ethertype", ETHERTYPE, read::ethertype, faults);
    Some(Cluster { name: name?, key: key?, heartbeat: heartbeat?, missed: missed?, ethertype: ethertype? })
}

fn node(file: &Section, base: &Path, faults: &mut Faults) -> Option<Node> {
    let section = file.section("node", faults)?;
    let name = section.required("name", "a name, unique in the cluster", read::name, faults);
    let metric = metric(&section, base, faults);
    Some(Node { name: name?, metric: metric? })
}

fn metric(node: &Section, base: &Path, faults: &mut Faults) -> Option<Metric> {
    const EXPECTED: &str = "connections, load, cpu, {file: PATH} or {command: [PROGRAM, ARGUMENT]}";
    let Some(entry) = node.get("metric") else { return Some(Metric::Connections) };
    if !matches!(entry.node.value, Value::Mapping(_)) {
        let words = [(Metric::Connections, "connections"), (Metric::Load, "load"), (Metric::Cpu, "cpu")];
        let read = |value: &Value| {
            let found = words.into_iter().find(|(_, word)| matches!(value, Value::Text(text) if text == word));
            found.map(|(metric, _)| metric).ok_or_else(|| Wrong::new(format!("{value} is not known"), EXPECTED))
        };
        return node.optional("metric", read, faults).flatten();
    }
    let section = node.inner("node.metric", "metric", entry, faults)?;
    let kind = section.one_of(&["file", "command"], EXPECTED, faults)?;
    let read = |value: &Value| match kind.key.as_str() {
        "file" => read::path(value, base).map(Metric::File),
        _ => read::command(value).map(Metric::Command),
    };
    section.optional(&kind.key, read, faults).flatten()
}

fn control_socket(file: &Section, faults: &mut Faults) -> Option<PathBuf> {
    let Some(entry) = file.get("control") else { return Some(CONTROL_SOCKET.into()) };
    let section = file.inner("control", "control", entry, faults)?;
    section.or("socket", CONTROL_SOCKET.into(), read::socket_path, faults)
}

fn metrics_listen(file: &Section, faults: &mut Faults) -> Option<Option<SocketAddr>> {
    let Some(entry) = file.get("metrics") else { return Some(None) };
    let section = file.inner("metrics", "metrics", entry, faults)?;
    let listen = section.required("listen", "an address and port such as 127.0.0.1:9464", read::listen, faults);
    listen.map(Some)
}

fn log(file: &Section, faults: &mut Faults) -> Option<Log> {
    let Some(entry) = file.get("log") else { return Some(Log { level: Level::INFO, json: false }) };
    let section = file.inner("log", "log", entry, faults)?;
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let level = section.or("level", Level::INFO, |value| read::word(value, &levels), faults);
    let json = section.or("format", false, |value| read::word(value, &[("text", false), ("json", true)]), faults);
    Some(Log { level: level?, json: json? })
}
