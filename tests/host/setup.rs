//! What is set, that it is undone, adopted, repaired, and refused where it must be.

use std::net::Ipv4Addr;

use baton::frame::Mac;
use baton::host::{Error, HostPlan, HostSide, TapPlan, VipPlan, WirePlan, attach_tap, interface, table};

use nix::sched::{CloneFlags, unshare};

use crate::net::{Directory, Namespace, is_root, sh};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);

/// A plan for the VIPs on the TAP `vip0`, beside the wire's interface `w0` in the thread's namespace.
pub fn plan(vips: &[Ipv4Addr]) -> HostPlan {
    let wire = interface("w0").unwrap().unwrap();
    let vips = vips.iter().map(|&address| VipPlan { address, prefix: 24, gateway: Some([10, 77, 0, 1].into()) });
    HostPlan {
        tap: Some(TapPlan {
            name: "vip0".into(),
            multi_queue: true,
            mac: Some(wire.mac),
            mtu: Some(wire.mtu),
            own_address: None,
            vips: vips.collect(),
        }),
        wire: Some(WirePlan { interface: "w0".into(), multicast: false }),
    }
}

/// A member's namespace with `w0` at 10.77.0.11, whose other end is `p0` at 10.77.0.1 in the peer's.
pub fn member_and_peer() -> (Namespace, Namespace) {
    let (member, peer) = (Namespace::new(), Namespace::new());
    member.connect("w0", &peer, "p0");
    member.sh("ip address add 10.77.0.11/24 dev w0");
    peer.sh("ip address add 10.77.0.1/24 dev p0");
    (member, peer)
}

/// All that baton could leave behind, as text.
fn state() -> String {
    sh("ip -j -d link show | sed -e 's/\"parentdev\":[^,]*,//g'; ip -j address show; ip rule show
        for table in $(ip route show table all | sed -n 's/.* table \\([0-9a-z]*\\).*/\\1/p' | sort -u); do
            echo $table; ip route show table $table
        done
        ip route show table all; nft list ruleset; ethtool -k w0
        grep -H . /proc/sys/net/ipv4/conf/*/*")
}

#[test]
fn undo_restores_what_raise_changed() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        sh("ethtool -K w0 gro on");
        let directory = Directory::new();
        let before = state();
        let mut host = HostSide::raise(&plan(&[VIP, SECOND]), &directory.journal()).unwrap();
        assert!(!host.adopted());
        assert_eq!(host.warnings(), [""; 0]);
        assert_ne!(state(), before);
        let wire = interface("w0").unwrap().unwrap();
        host.attached(wire.mac, wire.mtu).unwrap();
        assert_eq!(host.ensure().unwrap(), [""; 0], "all is set already");
        assert!(directory.journal().exists());
        host.undo().unwrap();
        assert_eq!(state(), before);
        assert!(!directory.journal().exists());
    });
}

/// As in a container: what its owner has set in advance is found as wanted, and nothing has to be written.
#[test]
fn it_is_raised_where_proc_sys_is_read_only() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        sh("sysctl -qw net.ipv4.conf.all.arp_ignore=1");
        // Mounts of this thread alone.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        sh("mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys");
        assert!(std::fs::write("/proc/sys/net/ipv4/conf/w0/arp_ignore", "1").is_err(), "it is read-only");
        let directory = Directory::new();
        let mut host = HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap();
        assert_eq!(host.warnings(), [""; 0]);
        assert!(interface("vip0").unwrap().unwrap().up);
        assert_eq!(host.ensure().unwrap(), [""; 0], "all is set already");
        host.undo().unwrap();
    });
}

#[test]
fn what_is_set_is_what_the_manual_says() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        sh("ethtool -K w0 gro on && ip link set w0 mtu 1400");
        let main = sh("ip route show table main");
        let directory = Directory::new();
        let _host = HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap();
        let tap = interface("vip0").unwrap().unwrap();
        let wire = interface("w0").unwrap().unwrap();
        assert_eq!((tap.mac, tap.mtu, tap.up, tap.carrier), (wire.mac, 1400, true, false));
        assert_eq!(tap.queue_len, 8192);
        let details = sh("ip -d link show vip0");
        assert!(
            details.contains("tun type tap pi off vnet_hdr on multi_queue") && details.contains("persist on"),
            "{details}"
        );
        assert_eq!(sh("ip route show table main"), main, "the main table is left alone");
        assert!(!sh("ip route show table local").contains("10.77.0.255 dev vip0"), "so is the broadcast address");
        assert!(sh("ip rule show").contains("200:\tfrom 10.77.0.100 lookup 172818532"));
        let routes = sh(&format!("ip route show table {}", table(VIP)));
        for route in
            ["default via 10.77.0.1 dev vip0", "blackhole default", "10.77.0.0/24 dev vip0", "metric 4294967295"]
        {
            assert!(routes.contains(route), "{route} is not in {routes}");
        }
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/w0/arp_ignore"), "1\n");
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/vip0/disable_ipv6"), "1\n");
        let offloads = sh("ethtool -k vip0");
        for off in ["tx-checksumming: off", "tcp-segmentation-offload: off", "tx-udp-segmentation: off"] {
            assert!(offloads.contains(off), "{off} is not in {offloads}");
        }
        assert!(sh("ethtool -k w0").contains("generic-receive-offload: off"));
        // Replies of the VIP go out of the TAP, all other traffic goes as before, and locally the VIP is local.
        assert!(sh("ip route get 10.77.0.1 from 10.77.0.100").contains("dev vip0"));
        assert!(sh("ip route get 10.77.0.1").contains("dev w0"));
        assert!(sh("ip route get 10.77.0.100 from 10.77.0.100").contains("dev lo"));
    });
}

#[test]
fn without_the_tap_the_vip_reaches_nobody() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let _host = HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap();
        sh("ip link set vip0 down");
        let blackholed = sh("ip route get 10.77.0.1 from 10.77.0.100 2>&1 || true");
        assert!(blackholed.contains("Invalid argument"), "{blackholed}");
        sh("ip link delete vip0");
        let gone = sh("ip route get 10.77.0.1 from 10.77.0.100 2>&1 || true");
        assert!(!gone.contains("dev"), "{gone}");
    });
}

#[test]
fn a_later_start_adopts_what_is_still_asked_for_and_undoes_the_rest() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let before = state();
        drop(HostSide::raise(&plan(&[VIP, SECOND]), &directory.journal()).unwrap());
        let tap = interface("vip0").unwrap().unwrap();
        let mut changed = plan(&[VIP]);
        changed.tap.as_mut().unwrap().vips[0].gateway = Some([10, 77, 0, 2].into());
        let host = HostSide::raise(&changed, &directory.journal()).unwrap();
        assert!(host.adopted());
        assert_eq!(interface("vip0").unwrap().unwrap().index, tap.index, "the same TAP");
        let routes = sh(&format!("ip route show table {}", table(VIP)));
        assert!(routes.contains("10.77.0.2") && !routes.contains("10.77.0.1 "), "{routes}");
        assert!(!sh("ip address show; ip rule show; nft list ruleset").contains("10.77.0.101"));
        host.undo().unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn another_name_for_the_tap_takes_the_old_one_away() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let before = state();
        drop(HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap());
        let mut renamed = plan(&[VIP]);
        renamed.tap.as_mut().unwrap().name = "vip1".into();
        let host = HostSide::raise(&renamed, &directory.journal()).unwrap();
        assert_eq!(interface("vip0").unwrap(), None);
        assert!(sh("ip address show dev vip1").contains("10.77.0.100/32"));
        host.undo().unwrap();
        assert_eq!(state(), before);
    });
}

#[test]
fn what_others_remove_is_set_again() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let before = state();
        let mut host = HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap();
        let raised = state();
        for (damage, parts) in [
            ("nft flush ruleset && nft delete table ip baton-vip0 || true", 1),
            ("ip rule del priority 200", 1),
            ("ip link set vip0 down && ip link set vip0 up", 2),
            // With its last address an interface loses its routes (fib_disable_ip).
            ("ip address flush dev vip0", 3),
            ("sysctl -qw net.ipv4.conf.w0.arp_ignore=0", 1),
            ("ip link set vip0 mtu 1280 address 02:00:00:00:00:01", 1),
            ("ip link set vip0 txqueuelen 1000", 1),
        ] {
            sh(damage);
            let repaired = host.ensure().unwrap();
            assert_eq!(repaired.len(), parts, "after {damage}: {repaired:?}");
            assert_eq!(without_counters(&state()), without_counters(&raised), "after {damage}");
        }
        sh("ip link set vip0 txqueuelen 20000");
        assert_eq!(host.ensure().unwrap(), [""; 0], "a longer queue is somebody's wish");
        host.undo().unwrap();
        assert_eq!(without_counters(&state()), without_counters(&before));
    });
}

/// Routes put back may come in another order, and flags of an interface that was down and up differ.
fn without_counters(state: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = state.lines().filter(|line| !line.starts_with('[')).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_driver_that_sets_the_tap_its_own_way_is_corrected() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let mut unknown = plan(&[VIP]);
        let tap = unknown.tap.as_mut().unwrap();
        (tap.mac, tap.mtu) = (None, None);
        let mut host = HostSide::raise(&unknown, &directory.journal()).unwrap();
        // As net_tap does: attach, set a random MAC and an MTU of 1500, and with a restart of the port down and up.
        let _queue = attach_tap("vip0").unwrap();
        sh("ip link set vip0 mtu 1500 address 02:00:00:00:00:01 && ip link set vip0 down && ip link set vip0 up");
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        host.attached(mac, 9000).unwrap();
        let tap = host.tap().unwrap().unwrap();
        assert_eq!((tap.mac, tap.mtu, tap.up, tap.carrier), (mac, 9000, true, true));
        assert!(sh("ip route get 10.77.0.1 from 10.77.0.100").contains("dev vip0"));
    });
}

#[test]
fn the_members_own_address_is_an_ordinary_one() {
    if !is_root() {
        return;
    }
    let member = Namespace::new();
    member.run(|| {
        let directory = Directory::new();
        let vips = vec![VipPlan { address: VIP, prefix: 24, gateway: None }];
        let own_address = Some(([10, 77, 0, 11].into(), 24));
        let tap = TapPlan { name: "vip0".into(), multi_queue: true, mac: None, mtu: None, own_address, vips };
        let host = HostSide::raise(&HostPlan { tap: Some(tap), wire: None }, &directory.journal()).unwrap();
        assert!(sh("ip route get 10.77.0.1").contains("dev vip0 src 10.77.0.11"));
        assert!(sh("ip route get 10.77.0.1 from 10.77.0.100").contains("dev vip0 table"));
        host.undo().unwrap();
        assert_eq!(interface("vip0").unwrap(), None);
    });
}

#[test]
fn what_cannot_go_well_is_refused_before_anything_changes() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let raise = |plan: &HostPlan| HostSide::raise(plan, &directory.journal()).map(drop).unwrap_err();
        let good = plan(&[VIP]);

        let mut wrong = good.clone();
        wrong.wire.as_mut().unwrap().interface = "none0".into();
        let before = state();
        assert!(matches!(raise(&wrong), Error::NoSuchInterface { name } if name == "none0"));

        let mut wrong = good.clone();
        wrong.tap.as_mut().unwrap().name = "w0".into();
        assert!(matches!(raise(&wrong), Error::NameTaken { name } if name == "w0"));
        assert_eq!(state(), before);

        sh("ip tuntap add vip0 mode tap");
        assert!(matches!(raise(&good), Error::NameTaken { .. }), "a TAP of somebody else");
        sh("ip link delete vip0 && ip address add 10.77.0.100/32 dev lo");
        let before = state();
        assert!(matches!(raise(&good), Error::AddressElsewhere { address: VIP, index: 1 }));
        assert_eq!(state(), before);
        sh("ip address delete 10.77.0.100/32 dev lo");

        let host = HostSide::raise(&good, &directory.journal()).unwrap();
        assert!(matches!(raise(&good), Error::Busy { .. }), "the same journal twice");
        let queue = attach_tap("vip0").unwrap();
        let other = Directory::new();
        let refused = HostSide::raise(&good, &other.journal()).map(drop).unwrap_err();
        assert!(matches!(refused, Error::TapInUse { .. }), "{refused}");
        drop(queue);
        host.undo().unwrap();
    });
}

#[test]
fn a_start_that_fails_half_way_leaves_nothing() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        sh("ethtool -K w0 gro on");
        let directory = Directory::new();
        let before = state();
        let mut impossible = plan(&[VIP]);
        // Nobody's gateway: the kernel refuses the route, after the TAP and the guard were made.
        impossible.tap.as_mut().unwrap().vips[0].gateway = Some([224, 0, 0, 1].into());
        let refused = HostSide::raise(&impossible, &directory.journal()).map(drop).unwrap_err();
        assert!(refused.to_string().contains("default route by 224.0.0.1 at vip0"), "{refused}");
        assert_eq!(state(), before);
        assert!(!directory.journal().exists());
    });
}

#[test]
fn a_group_mac_has_the_kernel_refuse_unicast_in_group_frames() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let mut multicast = plan(&[VIP]);
        multicast.wire.as_mut().unwrap().multicast = true;
        let setting = || sh("cat /proc/sys/net/ipv4/conf/w0/drop_unicast_in_l2_multicast");
        let host = HostSide::raise(&multicast, &directory.journal()).unwrap();
        assert_eq!(setting(), "1\n");
        host.undo().unwrap();
        assert_eq!(setting(), "0\n");
    });
}

#[test]
fn settings_that_others_changed_since_are_left_to_them() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let host = HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap();
        sh("sysctl -qw net.ipv4.conf.w0.arp_ignore=2");
        host.undo().unwrap();
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/w0/arp_ignore"), "2\n");
    });
}

#[test]
fn promiscuous_mode_that_a_killed_driver_left_on_is_switched_off() {
    if !is_root() {
        return;
    }
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        drop(HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap());
        sh("ip link set w0 promisc on");
        HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap().undo().unwrap();
        assert!(!interface("w0").unwrap().unwrap().promiscuous);
    });
}

/// Not a test of its own: what the next one runs without the capability.
#[test]
fn powerless_process() {
    let Some(journal) = std::env::var_os("BATON_TEST_POWERLESS") else { return };
    let refused = HostSide::raise(&HostPlan { tap: None, wire: None }, journal.as_ref()).map(drop).unwrap_err();
    assert!(matches!(refused, Error::NotPermitted), "{refused}");
    println!("\nrefused: {refused}");
}

#[test]
fn without_the_capability_the_reason_is_clear() {
    if !is_root() {
        return;
    }
    let directory = Directory::new();
    let test = std::env::current_exe().unwrap();
    let said = sh(&format!(
        "BATON_TEST_POWERLESS={} setpriv --bounding-set=-net_admin --inh-caps=-net_admin {} --exact \
             setup::powerless_process --nocapture",
        directory.journal().display(),
        test.display()
    ));
    assert!(said.contains("refused: setting up the host side needs CAP_NET_ADMIN"), "{said}");
}

#[test]
fn two_members_in_two_namespaces_do_not_meet() {
    if !is_root() {
        return;
    }
    let (first, second) = (member_and_peer(), member_and_peer());
    let directories = (Directory::new(), Directory::new());
    let raise = |member: &Namespace, directory: &Directory| {
        member.run(|| HostSide::raise(&plan(&[VIP]), &directory.journal()).map(drop).unwrap());
    };
    raise(&first.0, &directories.0);
    let before = first.0.run(state);
    raise(&second.0, &directories.1);
    second.0.run(|| HostSide::raise(&plan(&[VIP]), &directories.1.journal()).unwrap().undo().unwrap());
    assert_eq!(first.0.run(state), before);
}

#[test]
#[ignore = "a measurement: prints what docs/host.md says"]
fn what_looking_after_it_costs() {
    let (member, _peer) = member_and_peer();
    member.run(|| {
        let directory = Directory::new();
        let start = std::time::Instant::now();
        let mut host = HostSide::raise(&plan(&[VIP]), &directory.journal()).unwrap();
        println!("raised in {:?}", start.elapsed());
        let start = std::time::Instant::now();
        for _ in 0..100 {
            assert_eq!(host.ensure().unwrap(), [""; 0]);
        }
        println!("looked after in {:?}", start.elapsed() / 100);
        let start = std::time::Instant::now();
        host.undo().unwrap();
        println!("undone in {:?}", start.elapsed());
    });
}
