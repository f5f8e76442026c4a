//! Configuration files, good and bad, through the library and through the real binary.
//!
//! A file of `tests/configs/bad` ends with what `baton check` says about it, a line `# expect: LINE: …` each.

// A helper of a test fails it by panicking, too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use baton::config::checked::{HostDevice, HttpUrl, HugePages, Metric, Poll, Probe, Rebalance, Wire};
use baton::config::{Config, For, auto_mac, load, parse};
use proptest::prelude::*;

/// A directory with the key files that the configurations name, good and bad, as git does not keep their modes.
fn keys() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let right = format!("{}\n", "0123456789abcdef".repeat(4));
    for (name, content, mode) in [
        ("web.key", right.as_str(), 0o600),
        ("try.key", &right, 0o400),
        ("open.key", &right, 0o644),
        ("short.key", "abc\n", 0o600),
        ("odd.key", &right.replace('0', "g"), 0o600),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    directory
}

/// The files of a directory below the package, sorted.
fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}

/// Copies a configuration to the keys and runs the real binary on it from there.
fn check(keys: &Path, file: &Path) -> (String, Output) {
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    fs::copy(file, keys.join(&name)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_baton")).arg("check").arg(&name).current_dir(keys).output().unwrap();
    (name, output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn good(name: &str) -> Config {
    let keys = keys();
    let text = fs::read_to_string(Path::new("tests/configs/good").join(name)).unwrap();
    parse(&text, keys.path(), For::AnyMachine).unwrap()
}

#[test]
fn every_bad_file_gives_exactly_its_errors() {
    let keys = keys();
    let files = files("tests/configs/bad");
    assert!(files.len() >= 40);
    for file in files {
        let (name, output) = check(keys.path(), &file);
        let written = fs::read(&file).unwrap();
        let written = String::from_utf8_lossy(&written);
        let expected: Vec<String> = written
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: "))
            .map(|line| format!("{name}:{line}"))
            .collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        assert_eq!(text(&output.stderr).lines().collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert_eq!(text(&output.stdout), "", "{name}");
    }
}

#[test]
fn every_good_file_and_every_sample_passes() {
    let keys = keys();
    let samples = files("configs");
    assert!(samples.len() >= 4);
    for file in samples.into_iter().chain(files("tests/configs/good")) {
        // The samples name places of their own for the key.
        let sample = fs::read_to_string(&file).unwrap();
        let sample = sample.replace("/etc/baton/web.key", "web.key").replace("/run/secrets/baton.key", "web.key");
        let copy = keys.path().join("copy").join(file.file_name().unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::write(&copy, sample).unwrap();
        let (name, output) = check(keys.path(), &copy);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), format!("{name}: ok\n"));
        for line in text(&output.stderr).lines() {
            assert!(line.contains("warning: to run here:"), "{line}");
        }
    }
}

#[test]
fn everything_that_is_written_is_read() {
    let config = good("everything.yaml");
    assert_eq!(config.cluster.name, "Web-1.x_y");
    assert_eq!(config.cluster.key.0[..2], [0x01, 0x23]);
    assert_eq!((config.cluster.heartbeat, config.cluster.missed), (Duration::from_secs(10), 100));
    assert_eq!(config.cluster.ethertype, 0x88b6);
    assert_eq!(config.node.name, "12");
    assert_eq!(config.node.metric, Metric::Command(vec!["/usr/bin/load".into(), "--now".into(), String::new()]));
    let [first, second, third, fourth] = &config.vips[..] else { panic!("{:?}", config.vips) };
    assert_eq!((first.address, first.prefix), (Ipv4Addr::new(10, 0, 0, 100), 24));
    assert_eq!(first.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(first.mac.0, [0x03, 0x00, 0x5e, 0x00, 0x01, 0x0a]);
    assert_eq!(first.ports, [80, 443]);
    assert_eq!((first.actives, first.hedge), (16, Duration::ZERO));
    let rebalance = Rebalance { every: Duration::from_secs(60), margin: 0.125, hold: Duration::ZERO };
    assert_eq!(first.rebalance, Some(rebalance));
    assert_eq!(first.orphans_after, None);
    let health = first.health.as_ref().unwrap();
    let url = HttpUrl::parse("http://10.0.0.100:8080/healthz?full=1").unwrap();
    assert_eq!(health.probe, Probe::Http(url));
    assert_eq!((health.every, health.timeout), (Duration::from_secs(2), Duration::from_secs(1)));
    assert_eq!((second.rebalance, second.orphans_after), (None, Some(Duration::from_secs(10))));
    assert_eq!(second.health.as_ref().unwrap().probe, Probe::Tcp(65535));
    assert_eq!(third.health.as_ref().unwrap().probe, Probe::Command(vec!["true-enough".into()]));
    assert_eq!(fourth.gateway, Some(Ipv4Addr::new(192, 0, 2, 3)));
    let dataplane = &config.dataplane;
    assert_eq!(dataplane.wire, Wire::Pci("0000:03:00.0".into()));
    assert_eq!(dataplane.host.device, HostDevice::Vdev("net_virtio_user0,path=/dev/vhost-net".into()));
    assert_eq!(dataplane.host.address, Some((Ipv4Addr::new(10, 0, 0, 11), 24)));
    assert_eq!((&dataplane.workers[..], dataplane.control_core), (&[3, 5][..], 1023));
    assert_eq!((dataplane.poll, dataplane.connections), (Poll::Adaptive, 1 << 28));
    assert_eq!((dataplane.huge_pages, dataplane.eal.len()), (HugePages::Require, 2));
    assert_eq!(config.control_socket, Path::new("/tmp/baton.sock"));
    assert_eq!(config.metrics_listen, Some("[::1]:9464".parse().unwrap()));
    assert_eq!((config.log.level, config.log.json), (tracing::Level::TRACE, true));
    assert_eq!(config.warnings(), [] as [&str; 0]);
}

#[test]
fn other_forms_of_yaml_mean_the_same() {
    let config = good("forms.yaml");
    assert_eq!(config.cluster.name, "web");
    assert_eq!(config.dataplane.host.device, HostDevice::Tap("s1".into()));
    let rebalance = Rebalance { every: Duration::from_secs(1), margin: 0.2, hold: Duration::from_secs(3) };
    assert_eq!(config.vips[0].rebalance, Some(rebalance));
}

#[test]
fn an_automatic_mac_is_the_same_everywhere_and_the_clusters_own() {
    let address = Ipv4Addr::new(10, 0, 0, 100);
    let mac = auto_mac("web", address);
    assert_eq!(good("minimal.yaml").vips[0].mac, mac);
    // Members of different versions must agree: a change here breaks a cluster at its upgrade.
    assert_eq!(mac.to_string(), "02:89:1b:2c:bd:c9");
    assert_ne!(mac, auto_mac("web2", address));
    assert_ne!(mac, auto_mac("web", Ipv4Addr::new(10, 0, 0, 101)));
}

#[test]
fn a_mac_that_may_be_a_real_cards_draws_a_warning() {
    let keys = keys();
    let minimal = fs::read_to_string("tests/configs/good/minimal.yaml").unwrap();
    let text = minimal.replace("10.0.0.100/24", "10.0.0.100/24, mac: 00:1b:21:00:00:01");
    let config = parse(&text, keys.path(), For::AnyMachine).unwrap();
    assert_eq!(config.warnings().len(), 1);
    assert!(config.warnings()[0].contains("vips[0].mac: 00:1b:21:00:00:01"), "{:?}", config.warnings());
}

#[test]
fn cores_are_checked_where_the_file_is_to_run() {
    let keys = keys();
    let minimal = fs::read_to_string("tests/configs/good/minimal.yaml").unwrap();
    let faults = |dataplane: &str, cores: &[usize]| -> Vec<String> {
        let text = minimal.replace("tap: vip0}", &format!("tap: vip0}}{dataplane}"));
        match parse(&text, keys.path(), For::ThisMachine { cores }) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(|fault| format!("{}: {}", fault.line, fault.what)).collect(),
        }
    };
    assert_eq!(faults("", &[0, 1]), [] as [&str; 0]);
    assert_eq!(faults("", &[0]), ["4: dataplane.workers: this machine lacks core 1"]);
    assert_eq!(faults("", &[1]), ["4: dataplane.control_core: this machine lacks core 0"]);
    let below = ",\n  workers:\n  [1,\n  7]";
    assert_eq!(faults(below, &[0, 1]), ["7: dataplane.workers: this machine lacks core 7"]);
    // One core for both is for machines that have just one.
    assert_eq!(faults(", workers: [0]", &[0]), [] as [&str; 0]);
    assert_eq!(
        faults(", workers: [0]", &[0, 1]),
        ["4: dataplane.workers: core 0 is the control thread's (control_core)"]
    );
}

#[test]
fn run_refuses_what_check_refuses_and_cores_that_are_lacking() {
    let keys = keys();
    let path = keys.path().join("s1.yaml");
    let minimal = fs::read_to_string("tests/configs/good/minimal.yaml").unwrap();
    fs::write(&path, minimal.replace("tap: vip0}", "tap: vip0}, workers: [1023]")).unwrap();
    let run = || Command::new(env!("CARGO_BIN_EXE_baton")).arg("run").arg("--config").arg(&path).output().unwrap();
    let output = run();
    assert_eq!(output.status.code(), Some(2));
    let expected = format!("{}:4: dataplane.workers: this machine lacks core 1023; expected cores", path.display());
    assert!(text(&output.stderr).starts_with(&expected), "{}", text(&output.stderr));
    fs::write(&path, "cluster: {}\n").unwrap();
    let output = run();
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(2), 5));
}

#[test]
fn a_file_that_can_not_be_read_is_a_fault_of_its_own() {
    let keys = keys();
    let message = |path: &Path| load(path, For::AnyMachine).unwrap_err().to_string();
    let missing = keys.path().join("none.yaml");
    let expected = format!("{}: the file can not be read: No such file", missing.display());
    assert!(message(&missing).starts_with(&expected), "{}", message(&missing));
    assert!(message(keys.path()).contains("can not be read"));
    fs::write(&missing, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(message(&missing).contains("longer than 1 MiB"));
}

/// A change of a text: at a place (scaled to its length), this many characters go and these come.
type Edit = (f64, usize, String);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let word = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "\n",
            "  ",
            "- ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            "\"",
            "'",
            "\t",
            "&a ",
            "*a",
            "? ",
            "| ",
            "> ",
            "!x ",
            "#",
            "---\n",
            "%YAML 1.2\n",
            "<<: ",
            "~",
            "-1",
            "0",
            "18446744073709551616",
            "1e999",
            ".nan",
            "10.0.0.1/24",
            "::1/64",
            "never",
            "\r",
            "\u{feff}",
            "\u{0}",
            "\u{2028}",
            "web.key",
            "vips",
            "cluster:\n",
        ])
        .prop_map(String::from),
        ".{0,8}",
    ];
    prop::collection::vec((0.0..1.0, 0_usize..40, word), 0..6)
}

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for (place, gone, come) in edits {
        let start = (place * letters.len() as f64) as usize;
        let end = (start + gone).min(letters.len());
        letters.splice(start..end, come.chars());
    }
    letters.into_iter().collect()
}

/// Whatever the text is: a configuration, or at least one fault, each on one line, with a line that the text has.
fn judge(text: &str, directory: &Path) -> Result<(), TestCaseError> {
    if let Err(faults) = parse(text, directory, For::ThisMachine { cores: &[0, 1] }) {
        prop_assert!(!faults.is_empty(), "refused without a fault: {text:?}");
        // A form feed or a Unicode line separator may count as the end of a line for YAML; at most one each.
        let lines = 1 + text.chars().filter(|letter| letter.is_whitespace()).count();
        for fault in faults {
            prop_assert!((1..=lines).contains(&fault.line), "{text:?}: {}: {fault}", fault.line);
            prop_assert!(!fault.to_string().contains(char::is_control), "{text:?}: {fault:?}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn mutilated_files_never_panic(which: prop::sample::Index, edits in edits()) {
        let keys = keys();
        let files: Vec<PathBuf> = files("configs").into_iter().chain(files("tests/configs/good")).collect();
        let text = fs::read_to_string(which.get(&files)).unwrap();
        judge(&edited(&text, &edits), keys.path())?;
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}|(\\PC|\\s){0,200}|[\\[\\]{}:,&*!|>'\"%@`#\\-?a \n]{0,200}") {
        judge(&text, Path::new("/nonexistent"))?;
    }
}
