//! Frames through the ports, and what is left when they have passed.

use std::time::Duration;

use crate::Test;
use crate::net::Net;
use crate::process::Member;

const WIRE: &str = "wire=interface:w0";
const TAP: &str = "host=tap:t0";
// The machine may have two cores only, which the kernel's own work needs too.
const ADAPTIVE: &str = "poll=adaptive";

pub fn tests() -> Vec<Test> {
    vec![
        ("frames_pass_and_none_is_leaked_on_memory_devices", frames_pass_on_memory_devices),
        ("a_kernels_ping_and_tcp_pass_between_wire_and_tap", a_kernels_ping_and_tcp),
        ("a_worker_that_waits_is_told_of_every_frame", a_worker_that_waits),
        ("a_worker_on_the_control_core_and_a_second_queue_work", a_worker_on_the_control_core),
        ("the_tap_keeps_address_and_route_when_the_member_is_killed", the_tap_survives),
        ("frames_longer_than_a_buffer_are_not_whole_and_harm_no_other", frames_longer_than_a_buffer),
        ("what_the_kernel_sends_on_the_wire_is_not_received", what_the_kernel_sends),
        ("the_wire_is_left_as_it_was", the_wire_is_left_as_it_was),
    ]
}

/// Null devices make frames without end; the ring hands back what it is sent.
fn frames_pass_on_memory_devices() {
    for wire in ["wire=vdev:net_null0", "wire=vdev:net_ring0"] {
        let member = Member::started("", &[wire, "host=vdev:net_null1"]);
        std::thread::sleep(Duration::from_millis(300));
        let counters = member.finish();
        assert!(counters.get("from_wire") > 10_000, "{counters:?}");
        let held = counters.get("held_after") - counters.get("held_before");
        let in_ring = match wire {
            "wire=vdev:net_ring0" => counters.get("from_host") - counters.get("refused") - counters.get("from_wire"),
            _ => 0,
        };
        assert_eq!(held, in_ring, "buffers are missing: {counters:?}");
    }
}

fn a_kernels_ping_and_tcp() {
    let net = Net::new();
    let member = Member::started(&net.member, &[WIRE, TAP, ADAPTIVE]);
    assert!(net.ping(56) && net.ping(1472), "no answer to a ping");
    let data: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let (port, server) = net.echo(1);
    net.exchange(port, &data);
    server.join().unwrap();
    let counters = member.finish();
    assert!(counters.get("from_wire") > 700 && counters.get("from_host") > 700, "{counters:?}");
    assert_eq!(counters.get("not_whole"), 0, "{counters:?}");
    assert_eq!(counters.get("held_after"), counters.get("held_before"), "buffers are missing: {counters:?}");
}

/// Frames of which a worker is not told lie until its wait ends, and count as late.
fn a_worker_that_waits() {
    for workers in ["workers=1", "workers=0,1"] {
        let net = Net::new();
        let member = Member::started(&net.member, &[WIRE, TAP, "poll=told", "control=0", workers]);
        assert!(net.ping(56), "no answer to a ping");
        let (port, server) = net.echo(16);
        for number in 0..16u8 {
            net.exchange(port, &vec![number; 20_000]);
        }
        server.join().unwrap();
        let counters = member.finish();
        println!("frames by worker: {:?}", counters.by_worker);
        assert!(counters.by_worker.iter().all(|&frames| frames > 0), "{counters:?}");
        assert_eq!(counters.get("late"), 0, "{counters:?}");
    }
}

fn a_worker_on_the_control_core() {
    let net = Net::new();
    let member = Member::started(&net.member, &[WIRE, TAP, ADAPTIVE, "control=0", "workers=0,1"]);
    let (port, server) = net.echo(16);
    for number in 0..16u8 {
        net.exchange(port, &vec![number; 20_000]);
    }
    server.join().unwrap();
    let counters = member.finish();
    println!("frames by worker: {:?}", counters.by_worker);
    assert!(counters.by_worker.len() == 2 && counters.by_worker.iter().all(|&frames| frames > 0), "{counters:?}");
    assert_eq!(counters.get("held_after"), counters.get("held_before"), "buffers are missing: {counters:?}");
}

fn the_tap_survives() {
    let net = Net::new();
    let state = || (net.member("ip -4 -o addr show dev t0"), net.member("ip -o route show dev t0"));
    let mut member = Member::start(&net.member, &[WIRE, TAP, ADAPTIVE]);
    let opened = member.wait_for("open");
    member.wait_for("worker 0");
    let mac = net.member("cat /sys/class/net/w0/address");
    assert!(opened.contains(mac.trim()), "{opened} is not of the wire's MAC {mac}");
    assert!(net.ping(56));
    let (address, route) = state();
    member.signal(libc::SIGKILL);
    member.end();
    let (address_after, route_after) = state();
    assert_eq!(address_after, address);
    assert_eq!(route_after.replace("linkdown ", ""), route, "the route is gone");
    assert!(!net.ping(56), "somebody answers for a dead member");
    let member = Member::started(&net.member, &[WIRE, TAP, ADAPTIVE]);
    assert!(net.ping(56), "no answer after the restart");
    member.finish();
    assert_eq!(state().0, address);
    assert_eq!(state().1.replace("linkdown ", ""), route, "a clean end takes the route away");
}

/// The driver has the kernel put fragments together: what comes of it may be longer than the MTU, and than a buffer.
fn frames_longer_than_a_buffer() {
    let net = Net::new();
    let member = Member::started(&net.member, &[WIRE, TAP, ADAPTIVE]);
    assert!(net.ping(1472), "the longest frame that there is");
    assert!(net.ping(1600), "longer than the MTU, but it fits a buffer");
    assert!(!net.ping(4000));
    assert!(net.ping(1472), "a frame that is too long blocks those after it");
    let counters = member.finish();
    assert_eq!(counters.get("not_whole"), 1, "{counters:?}");
    assert_eq!(counters.get("refused"), 0, "{counters:?}");
}

fn what_the_kernel_sends() {
    let net = Net::new();
    let mut member = Member::started(&net.member, &[WIRE, TAP, ADAPTIVE]);
    net.kernel_sends_on_wire(100);
    assert!(net.ping(56));
    // One ARP request and one ping, perhaps an ARP request the other way answered.
    member.signal(libc::SIGHUP);
    member.wait_for("signal Hangup");
    let counters = member.finish();
    assert!((2..10).contains(&counters.get("from_wire")), "{counters:?}");
}

fn the_wire_is_left_as_it_was() {
    let net = Net::new();
    net.member("ethtool -K w0 gro on");
    let gro = |setting: &str| net.member("ethtool -k w0").contains(&format!("generic-receive-offload: {setting}"));
    let promiscuous = || net.member("ip -d link show dev w0").contains("promiscuity 1");
    net.member("ip link set w0 down");
    let member = Member::started(&net.member, &[WIRE, TAP, ADAPTIVE]);
    assert!(gro("off") && promiscuous());
    assert!(net.member("ip link show dev w0").contains(",UP"), "the interface is down");
    member.finish();
    assert!(gro("on") && !promiscuous());
}
