//! What the host side is to look like: a pure function of the configuration, as a list of changes in the order in
//! which they are made.
//!
//! The order is such that the VIP becomes a local address last, when all that keeps it quiet stands, and, undone in
//! reverse, ceases to be one first.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::guard;
use super::route::Route;
use crate::config::checked::{Dataplane, Host, Vip, Wire};
use crate::frame::Mac;

/// The priority of the rules `from VIP lookup TABLE`.
///
/// Behind `lookup local` also where that was moved: Cilium moves it from 0 to 100, and a member's own connections to
/// its VIP must find it local. Before all that might capture a VIP's packets: Tailscale's rules (5210 to 5270), VRFs
/// (1000), wg-quick (from 32764 down), `main` (32766).
pub const RULE_PRIORITY: u32 = 200;

/// The routing table of a VIP: the number that its address is. Unique without bookkeeping, and beyond the small
/// numbers that people and programs take.
pub const fn table(vip: Ipv4Addr) -> u32 {
    vip.to_bits()
}

/// Frames that each queue of the TAP holds at least. A worker that was off its core reads all that the wire's ring has kept, up to
/// 4,096 frames, before it listens to the host again (`was_away` in src/worker.rs). Where those are SYNs the host answers each of them
/// meanwhile, and beyond its queue the kernel drops what it sends (`tun_net_xmit` in drivers/net/tun.c), answers to clients that it has
/// among them. So: as many again as that. Of the usual 1,000 a flood of 25,000 SYNs a second lost a third.
pub(super) const TAP_QUEUE_LEN: u32 = 8192;

/// Offloads of the wire's interface that hand over frames other than they were on the wire: several merged into one.
const MERGING: [&str; 3] = ["rx-gro", "rx-lro", "rx-gro-hw"];

/// What the host side is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// The TAP interface; `None` where the host port is another device, whose kernel side is its owner's business.
    pub tap: Option<TapPlan>,
    /// The wire's interface, where the kernel shares it with us.
    pub wire: Option<WirePlan>,
}

/// The TAP interface and what is set on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapPlan {
    /// Its name.
    pub name: String,
    /// Whether it is made for several queues.
    pub multi_queue: bool,
    /// Its MAC: the wire's own. `None` while that is not known: see [`super::HostSide::attached`].
    pub mac: Option<Mac>,
    /// Its MTU in bytes: the wire's. `None` while that is not known.
    pub mtu: Option<u32>,
    /// The member's own address on it, where the kernel has no interface at the wire.
    pub own_address: Option<(Ipv4Addr, u8)>,
    /// The virtual IPs.
    pub vips: Vec<VipPlan>,
}

/// A virtual IP, as far as the host side is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipPlan {
    /// The address.
    pub address: Ipv4Addr,
    /// Its subnet's prefix length, 0 to 32.
    pub prefix: u8,
    /// The next hop beyond the subnet.
    pub gateway: Option<Ipv4Addr>,
}

/// The wire's interface, where the kernel shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WirePlan {
    /// Its name.
    pub interface: String,
    /// Whether a VIP's MAC is a group address, so that the kernel would take frames to it for its own.
    pub multicast: bool,
}

/// One thing set in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    /// An offload feature of an interface is switched off.
    FeatureOff { interface: String, feature: String },
    /// The interface may be set to receive all frames, by the port driver; nothing is set here.
    Promiscuous { interface: String },
    /// A setting of an interface (`/proc/sys/net/ipv4/conf`) is raised to `least` if it is lower.
    Setting { interface: String, name: String, least: u32 },
    /// The packet filter rules of [`super::guard`].
    Guard { tap: String, vips: Vec<Ipv4Addr> },
    /// The TAP interface.
    Tap {
        name: String,
        /// Earlier versions made all of them so, and did not say.
        #[serde(default = "always")]
        multi_queue: bool,
    },
    /// The rule `from ADDRESS lookup TABLE`.
    Rule { from: Ipv4Addr, priority: u32, table: u32 },
    /// A route.
    Route(Route),
    /// An address. Without `prefix_route`, no route to its subnet comes with it.
    Address { interface: String, address: Ipv4Addr, prefix: u8, prefix_route: bool },
}

fn always() -> bool {
    true
}

impl Change {
    /// Whether both set the same thing, maybe differently: then the new one replaces the old one in place.
    pub(super) fn replaces(&self, old: &Change) -> bool {
        match (self, old) {
            (Change::Guard { tap, .. }, Change::Guard { tap: old, .. }) => tap == old,
            _ => self == old,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::FeatureOff { interface, feature } => write!(f, "offload {feature} of {interface} off"),
            Change::Promiscuous { interface } => write!(f, "promiscuous mode of {interface}"),
            Change::Setting { interface, name, least } => {
                write!(f, "net.ipv4.conf.{interface}.{name} at least {least}")
            }
            Change::Guard { tap, .. } => write!(f, "packet filter tables {}", guard::table_name(tap)),
            Change::Tap { name, .. } => write!(f, "TAP interface {name}"),
            Change::Rule { from, priority, table } => write!(f, "rule {priority}: from {from} lookup {table}"),
            Change::Route(route) => route.fmt(f),
            Change::Address { interface, address, prefix, .. } => {
                write!(f, "address {address}/{prefix} of {interface}")
            }
        }
    }
}

impl HostPlan {
    /// From the configuration and, as far as they are known, the wire's own MAC and MTU in bytes.
    pub fn new(dataplane: &Dataplane, vips: &[Vip], mac: Option<Mac>, mtu: Option<u32>) -> HostPlan {
        let Host { device, address } = &dataplane.host;
        let tap = device.tap().map(|tap| TapPlan {
            name: tap.name.to_owned(),
            multi_queue: tap.multi_queue,
            mac,
            mtu,
            own_address: *address,
            vips: vips
                .iter()
                .map(|vip| VipPlan { address: vip.address, prefix: vip.prefix, gateway: vip.gateway })
                .collect(),
        });
        let wire = match &dataplane.wire {
            Wire::Interface(interface) => Some(WirePlan {
                interface: interface.clone(),
                multicast: vips.iter().any(|vip| vip.mac.is_multicast()),
            }),
            Wire::Pci(_) | Wire::Vdev(_) => None,
        };
        HostPlan { tap, wire }
    }

    /// All changes, in the order in which they are made.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(wire) = &self.wire {
            wire.changes(&mut changes);
        }
        if let Some(tap) = &self.tap {
            tap.changes(&mut changes);
        }
        changes
    }
}

impl WirePlan {
    fn changes(&self, changes: &mut Vec<Change>) {
        let interface = || self.interface.clone();
        let setting = |name: &str, least| Change::Setting { interface: interface(), name: name.into(), least };
        changes.extend(MERGING.map(|feature| Change::FeatureOff { interface: interface(), feature: feature.into() }));
        changes.push(Change::Promiscuous { interface: interface() });
        // ARP on the wire's interface is answered only for addresses of that interface, of which the VIP is none.
        changes.push(setting("arp_ignore", 1));
        if self.multicast {
            // A unicast packet in a multicast frame is not ours to answer (RFC 1122, section 3.3.6).
            changes.push(setting("drop_unicast_in_l2_multicast", 1));
        }
    }
}

impl TapPlan {
    fn changes(&self, changes: &mut Vec<Change>) {
        let interface = || self.name.clone();
        let vips = self.vips.iter().map(|vip| vip.address).collect();
        changes.push(Change::Guard { tap: interface(), vips });
        changes.push(Change::Tap { name: interface(), multi_queue: self.multi_queue });
        if let Some((address, prefix)) = self.own_address {
            // An ordinary address: it brings the route to its subnet, as on any interface.
            changes.push(Change::Address { interface: interface(), address, prefix, prefix_route: true });
        }
        for vip in &self.vips {
            let table = table(vip.address);
            changes.push(Change::Route(Route::Nowhere { table }));
            if vip.prefix < 32 {
                let Self { name, .. } = self;
                let subnet = Route::Subnet { table, address: vip.address, prefix: vip.prefix, interface: name.clone() };
                changes.push(Change::Route(subnet));
            }
            // With a prefix of 0 everybody is a neighbour.
            if let Some(gateway) = vip.gateway.filter(|_| vip.prefix > 0) {
                changes.push(Change::Route(Route::Gateway { table, gateway, interface: interface() }));
            }
            changes.push(Change::Rule { from: vip.address, priority: RULE_PRIORITY, table });
        }
        for vip in &self.vips {
            // As a /32: neither a route to the subnet nor its broadcast address moves to the TAP.
            let (address, prefix) = (vip.address, 32);
            changes.push(Change::Address { interface: interface(), address, prefix, prefix_route: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::checked::{HostDevice, HugePages, Poll};

    fn tap(vips: Vec<VipPlan>) -> HostPlan {
        let tap = TapPlan { name: "vip0".into(), multi_queue: true, mac: None, mtu: None, own_address: None, vips };
        HostPlan { tap: Some(tap), wire: Some(WirePlan { interface: "eth0".into(), multicast: false }) }
    }

    fn vip(text: &str) -> VipPlan {
        let (address, prefix) = text.split_once('/').unwrap();
        VipPlan { address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), gateway: None }
    }

    #[test]
    fn the_plan_follows_the_configuration() {
        let dataplane = |wire, device| Dataplane {
            wire,
            host: Host { device, address: None },
            workers: vec![1],
            control_core: 0,
            poll: Poll::Busy,
            connections: 1024,
            buffers: 0,
            huge_pages: HugePages::Never,
            eal: Vec::new(),
        };
        let shared = Wire::Interface("eth0".into());
        let plan = HostPlan::new(&dataplane(shared.clone(), HostDevice::Tap("vip0".into())), &[], None, Some(1500));
        assert_eq!(plan.wire, Some(WirePlan { interface: "eth0".into(), multicast: false }));
        assert_eq!(plan.tap.unwrap().mtu, Some(1500));
        // The other end of a device that is not a TAP is not ours to set; an interface that is not the kernel's neither.
        let vdev = HostPlan::new(&dataplane(shared, HostDevice::Vdev("net_virtio_user0".into())), &[], None, None);
        assert!(vdev.tap.is_none() && vdev.wire.is_some());
        // vhost-net's is a TAP, which is ours where it is named.
        let vhost_net = |more: &str| {
            let device = HostDevice::Vdev(format!("net_virtio_user0,path=/dev/vhost-net,{more}"));
            let tap = HostPlan::new(&dataplane(Wire::Vdev("net_null0".into()), device), &[], None, None).tap;
            tap.map(|tap| (tap.name, tap.multi_queue))
        };
        assert_eq!(vhost_net("queue_size=1024"), None);
        assert_eq!(vhost_net("iface=vip0"), Some(("vip0".into(), false)));
        assert_eq!(vhost_net("iface=vip0,queues=1"), Some(("vip0".into(), false)));
        assert_eq!(vhost_net("queues=2,iface=vip0"), Some(("vip0".into(), true)));
        let pci = Wire::Pci("0000:03:00.0".into());
        let pci = HostPlan::new(&dataplane(pci, HostDevice::Tap("vip0".into())), &[], None, None);
        assert!(pci.tap.is_some() && pci.wire.is_none());
    }

    #[test]
    fn the_vip_becomes_local_after_all_that_keeps_it_quiet() {
        let changes = tap(vec![vip("10.0.0.100/24"), vip("10.0.0.101/24")]).changes();
        let first_address = changes.iter().position(|change| matches!(change, Change::Address { .. })).unwrap();
        assert!(changes[first_address..].iter().all(|change| matches!(change, Change::Address { .. })));
        assert_eq!(changes.len() - first_address, 2);
        let guard = changes.iter().position(|change| matches!(change, Change::Guard { .. })).unwrap();
        let tap = changes.iter().position(|change| matches!(change, Change::Tap { .. })).unwrap();
        assert!(guard < tap && tap < first_address);
    }

    #[test]
    fn every_vip_has_a_table_of_its_own_that_ends_in_nothing() {
        let changes = tap(vec![vip("10.0.0.100/24"), vip("10.0.0.101/24")]).changes();
        for table in [0x0a00_0064, 0x0a00_0065] {
            let nowhere = Change::Route(Route::Nowhere { table });
            let rule = Change::Rule { from: Ipv4Addr::from_bits(table), priority: 200, table };
            let at = |wanted: &Change| changes.iter().position(|change| change == wanted).unwrap();
            assert!(at(&nowhere) < at(&rule), "the table is safe before it is looked up");
        }
    }

    #[test]
    fn odd_prefixes_make_no_contradicting_routes() {
        let routes = |prefix, gateway: Option<&str>| -> Vec<Route> {
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            let changes = tap(vec![VipPlan { prefix, gateway, ..vip("10.0.0.100/24") }]).changes();
            changes
                .into_iter()
                .filter_map(|change| match change {
                    Change::Route(route) => Some(route),
                    _ => None,
                })
                .collect()
        };
        let table = 0x0a00_0064;
        assert_eq!(routes(32, None), [Route::Nowhere { table }]);
        let everybody = routes(0, Some("10.0.0.1"));
        assert!(matches!(everybody[..], [Route::Nowhere { .. }, Route::Subnet { prefix: 0, .. }]), "{everybody:?}");
        let usual = routes(24, Some("10.0.0.1"));
        assert!(matches!(usual[..], [Route::Nowhere { .. }, Route::Subnet { .. }, Route::Gateway { .. }]), "{usual:?}");
    }

    #[test]
    fn the_guard_is_replaced_in_place_and_nothing_else_is() {
        let guard = |tap: &str, vip: [u8; 4]| Change::Guard { tap: tap.into(), vips: vec![vip.into()] };
        assert!(guard("vip0", [10, 0, 0, 1]).replaces(&guard("vip0", [10, 0, 0, 2])));
        assert!(!guard("vip0", [10, 0, 0, 1]).replaces(&guard("vip1", [10, 0, 0, 1])));
        let route = |table| Change::Route(Route::Nowhere { table });
        assert!(!route(1).replaces(&route(2)));
    }
}
