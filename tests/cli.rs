//! The real binary against a member whose control thread is the test.

// A helper of a test fails it by panicking, too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use baton::config::key::Key;
use baton::control::protocol::{Ask, CHUNK, Connection, ConnectionState, Listed};
use baton::control::socket::Server;
use baton::metrics::Snapshot;
use baton::status::{Connections, Role, Status, Vip};
use crossbeam::channel::{Receiver, unbounded};

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 100));

fn status() -> Status {
    let vip = Vip {
        address: VIP,
        mac: "02:00:00:00:00:01".parse().unwrap(),
        role: Role::Active,
        rank: Some(0),
        term: 4,
        actives: vec!["s1".into()],
        healthy: true,
        connections: Connections { pending: 1, established: 2 },
    };
    Status { node: "s1".into(), cluster: "web".into(), ready: true, vips: vec![vip], ..Status::default() }
}

fn connection(number: u64) -> Connection {
    Connection {
        vip: VIP,
        client: ([10, 0, 0, 1], number as u16).into(),
        port: 80,
        state: if number == 0 { ConnectionState::Pending } else { ConnectionState::Established },
        age_ms: 61_000,
    }
}

/// Answers until the server has ended; tells what it was asked to change.
fn control(asked: &Receiver<Ask>, connections: u64) -> Vec<String> {
    let mut told = Vec::new();
    for ask in asked {
        match ask {
            Ask::Snapshot(reply) => {
                drop(reply.send(Box::new(Snapshot { status: status(), ..Snapshot::default() })));
            }
            Ask::Drain(vip, reply) => {
                told.push(format!("drain {vip:?}"));
                drop(reply.send(Ok(())));
            }
            Ask::Undrain(vip, reply) => {
                told.push(format!("undrain {vip:?}"));
                drop(reply.send(Ok(())));
            }
            Ask::Activate(vip, reply) => {
                told.push(format!("activate {vip}"));
                let known = vip == VIP;
                drop(reply.send(if known { Ok(()) } else { Err("there is no such virtual IP".into()) }));
            }
            Ask::Connections(page, reply) => {
                let end = (page.from + CHUNK as u64).min(connections);
                let next = (end < connections).then_some(end);
                drop(reply.send(Ok(Listed { connections: (page.from..end).map(connection).collect(), next })));
            }
        }
    }
    told
}

struct Member {
    path: PathBuf,
    server: Server,
    control: JoinHandle<Vec<String>>,
    _directory: tempfile::TempDir,
}

impl Member {
    fn start(connections: u64) -> Member {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("baton.sock");
        let (asks, asked) = unbounded();
        let server = Server::start(&path, asks).unwrap();
        let control = thread::spawn(move || control(&asked, connections));
        Member { path, server, control, _directory: directory }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        command.args(arguments).arg("--socket").arg(&self.path);
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        outcome(self.command(arguments).output().unwrap())
    }

    /// Ends the member and returns what it was told.
    fn told(self) -> Vec<String> {
        drop(self.server);
        self.control.join().unwrap()
    }
}

fn outcome(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn baton(arguments: &[&str], directory: &Path) -> (Option<i32>, String, String) {
    outcome(Command::new(env!("CARGO_BIN_EXE_baton")).args(arguments).current_dir(directory).output().unwrap())
}

fn done(stdout: &str) -> (Option<i32>, String, String) {
    (Some(0), stdout.into(), String::new())
}

fn failed(stderr: &str) -> (Option<i32>, String, String) {
    (Some(1), String::new(), stderr.into())
}

#[test]
fn commands_reach_the_member() {
    let member = Member::start(0);
    assert_eq!(member.run(&["drain"]), done("draining\n"));
    assert_eq!(member.run(&["drain", "--vip", "10.0.0.100"]), done("draining\n"));
    assert_eq!(member.run(&["undrain"]), done("taking part\n"));
    assert_eq!(member.run(&["activate", "--vip", "10.0.0.100"]), done("active for 10.0.0.100\n"));
    let refused = "error: the role for 10.0.0.9 was not taken over\n  there is no such virtual IP\n";
    assert_eq!(member.run(&["activate", "--vip", "10.0.0.9"]), failed(refused));
    let told = member.told();
    assert_eq!(
        told,
        ["drain None", "drain Some(10.0.0.100)", "undrain None", "activate 10.0.0.100", "activate 10.0.0.9"]
    );
}

#[test]
fn status_is_a_table_or_json() {
    let member = Member::start(0);
    assert_eq!(member.run(&["status"]), done(&status().to_string()));
    let (code, json, errors) = member.run(&["status", "--json"]);
    assert_eq!((code, errors.as_str(), json.lines().count()), (Some(0), "", 1));
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
}

#[test]
fn a_drain_that_times_out_fails() {
    let member = Member::start(0);
    let expected = "error: timed out with 3 connections left\n  \
        the member stays draining; `baton undrain` makes it take part again\n";
    assert_eq!(member.run(&["drain", "--wait", "--timeout", "150ms"]), failed(expected));
}

#[test]
fn connections_are_a_table_or_a_json_array_however_many() {
    let count = 2 * CHUNK as u64 + 7;
    let member = Member::start(count);
    let (code, json, errors) = member.run(&["connections", "--json"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let listed: Vec<Connection> = serde_json::from_str(&json).unwrap();
    assert_eq!(listed, (0..count).map(connection).collect::<Vec<_>>());
    let (_, table, _) = member.run(&["connections", "--vip", "10.0.0.100"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len() as u64, 1 + count);
    assert_eq!(lines[0], "VIP               PORT  CLIENT                 STATE        AGE");
    assert_eq!(lines[1], "10.0.0.100          80  10.0.0.1:0             pending      1 min 1 s");
    let empty = Member::start(0);
    assert_eq!(empty.run(&["connections", "--json"]), done("[]\n"));
    assert_eq!(empty.run(&["connections"]), done(""));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let member = Member::start(100_000);
    let mut child = member.command(&["connections"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // The pipe closes with the reader, while far more than it holds is still to come.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("VIP"));
    assert_eq!(outcome(child.wait_with_output().unwrap()), done(""));
}

#[test]
fn without_a_member_commands_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["drain", "--wait"],
        &["undrain"],
        &["activate", "--vip", "10.0.0.100"],
        &["connections"],
    ] {
        let arguments: Vec<&str> = command.iter().copied().chain(["--socket", socket]).collect();
        let expected = format!("error: baton is not running: nobody serves {socket}\n");
        assert_eq!(baton(&arguments, directory.path()), failed(&expected), "{command:?}");
    }
}

#[test]
fn keygen_makes_keys_and_never_overwrites_one() {
    let directory = tempfile::tempdir().unwrap();
    let (code, line, errors) = baton(&["keygen"], directory.path());
    assert_eq!((code, errors.as_str(), line.len()), (Some(0), "", 65));
    let printed = Key::parse(line.as_bytes()).unwrap();
    assert_eq!(baton(&["keygen", "--out", "web.key"], directory.path()), done(""));
    let path = directory.path().join("web.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let written = Key::read(&path).unwrap();
    assert_ne!(written, printed);
    let expected = "error: web.key was not written\n  the file exists already, and a key is never overwritten\n";
    assert_eq!(baton(&["keygen", "--out", "web.key"], directory.path()), failed(expected));
    assert_eq!(Key::read(&path).unwrap(), written);
    let (code, _, errors) = baton(&["keygen", "--out", "no/web.key"], directory.path());
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("error: no/web.key was not written\n  No such file"), "{errors}");
}

#[test]
fn help_and_version_are_everywhere_and_misuse_is_told() {
    let here = Path::new(".");
    let commands = ["run", "check", "status", "drain", "undrain", "activate", "keygen", "connections", "sim"];
    for command in commands {
        let (code, help, _) = baton(&[command, "--help"], here);
        assert!(code == Some(0) && help.contains("Usage: baton "), "{command}");
        let (code, version, _) = baton(&[command, "--version"], here);
        assert!(code == Some(0) && version.contains(env!("CARGO_PKG_VERSION")), "{command}");
    }
    for (arguments, part) in [
        (&["drain", "--timeout", "5m"][..], "--wait"),
        (&["drain", "--wait", "--timeout", "5"], "expected a duration such as"),
        (&["activate"], "--vip"),
        (&["activate", "--vip", "web"], "invalid value 'web'"),
        (&["run"], "--config"),
        (&["probe"], "unrecognized subcommand"),
    ] {
        let (code, _, errors) = baton(arguments, here);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }
}
