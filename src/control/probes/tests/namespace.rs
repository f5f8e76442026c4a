//! A real VIP, as the host side sets it up, in a network namespace of its own. Needs root; says so where it is skipped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::super::connect::{Target, accepts};
use super::super::health::Prober;
use super::super::stop::{self, Cut};
use super::{PATIENCE, health, http};
use crate::config::checked::Probe;
use crate::host::{HostPlan, HostSide, TapPlan, VipPlan, WirePlan, interface};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 100);

/// In the thread's namespace.
fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Frames that an interface has sent.
fn sent(interface: &str) -> u64 {
    sh(&format!("cat /sys/class/net/{interface}/statistics/tx_packets")).trim().parse().unwrap()
}

#[test]
fn a_vip_is_asked_over_loopback_whatever_its_rules_say() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        // So that the wire's counters are those of this namespace.
        sh("mount --make-rprivate / && mount -t sysfs sysfs /sys");
        sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 && ip link set lo up
            ip link add w0 type veth peer name w1 && ip link set w0 up && ip link set w1 up
            ip address add 10.78.0.11/24 dev w0 && ip route add default via 10.78.0.1
            ip neighbour add 10.78.0.100 lladdr 02:00:00:00:00:64 dev w0 nud permanent");
        ask();
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn ask() {
    let (_stopper, stop) = stop::pair().unwrap();
    let target = |port| Target { address: SocketAddr::from((ADDRESS, port)), vip: true };

    // Not ours yet: refused here and now, and nothing leaves, though there is a route to it.
    let before = sent("w0");
    let start = Instant::now();
    let outcome = accepts(target(80), start + PATIENCE, &stop);
    assert!(matches!(&outcome, Err(Cut::Failed(why)) if why.contains("annot assign")), "{outcome:?}");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(sent("w0"), before);

    let directory = tempfile::tempdir().unwrap();
    let wire = interface("w0").unwrap().unwrap();
    let vip = VipPlan { address: ADDRESS, prefix: 24, gateway: Some([10, 78, 0, 1].into()) };
    let tap = TapPlan {
        name: "vip0".into(),
        multi_queue: true,
        mac: Some(wire.mac),
        mtu: Some(wire.mtu),
        own_address: None,
        vips: vec![vip],
    };
    let plan = HostPlan { tap: Some(tap), wire: Some(WirePlan { interface: "w0".into(), multicast: false }) };
    let mut host = HostSide::raise(&plan, &directory.path().join("journal")).unwrap();
    host.attached(wire.mac, wire.mtu).unwrap();
    let rules = sh("ip rule show");
    assert!(rules.contains("from 10.78.0.100 lookup"), "{rules}");

    let before = (sent("w0"), sent("vip0"));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    accepts(target(port), Instant::now() + PATIENCE, &stop).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        // Its end is awaited, so that the request is read before the answer's connection closes.
        let mut request = [0; 1024];
        let length = std::io::Read::read(&mut stream, &mut request).unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert!(request[..length].starts_with(b"GET /healthz HTTP/1.1\r\n"));
        (from.ip(), stream.local_addr().unwrap().ip())
    });
    let url = http(&format!("http://{ADDRESS}:{port}/healthz"));
    Prober::new(&health(url), ADDRESS.into()).probe(Instant::now() + PATIENCE, &stop).unwrap();
    assert_eq!(server.join().unwrap(), (Ipv4Addr::LOCALHOST.into(), ADDRESS.into()));
    // The service is gone: refused, not lost on some other way.
    let mut closed = Prober::new(&health(Probe::Tcp(port)), ADDRESS.into());
    let outcome = closed.probe(Instant::now() + Duration::from_secs(10), &stop);
    assert!(matches!(&outcome, Err(Cut::Failed(why)) if why.contains("refused")), "{outcome:?}");
    assert_eq!((sent("w0"), sent("vip0")), before, "a probe left the loopback path");
    host.undo().unwrap();
}
