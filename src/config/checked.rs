//! The configuration after every check: no value here can be out of range or at odds with another.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use super::key::Key;
pub use super::url::HttpUrl;
use crate::frame::Mac;

/// All of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// What all members share.
    pub cluster: Cluster,
    /// What is this member's own.
    pub node: Node,
    /// The virtual IPs in the order of the file: [`crate::table::VipIndex`] counts from here. 1 to 256.
    pub vips: Vec<Vip>,
    /// Ports, cores and sizes.
    pub dataplane: Dataplane,
    /// The control socket's path.
    pub control_socket: PathBuf,
    /// Where Prometheus metrics are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Logging.
    pub log: Log,
}

impl Config {
    /// What is allowed but likely a mistake, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        // The U/L bit (IEEE Std 802, 8.2): without it the address belongs to whoever has bought it.
        let universal = self.vips.iter().enumerate().filter(|(_, vip)| vip.mac.0[0] & 0x02 == 0);
        let warning = |(position, vip): (usize, &Vip)| {
            format!("vips[{position}].mac: {} is not locally administered, so a real card may have it", vip.mac)
        };
        universal.map(warning).collect()
    }
}

/// What makes members one cluster.
#[derive(Clone)]
pub struct Cluster {
    /// 1 to 32 bytes.
    pub name: String,
    /// The shared secret, read from `key_file`.
    pub key: Key,
    /// Between two heartbeats of a member: 1 ms to 10 s.
    pub heartbeat: Duration,
    /// Heartbeats missed in a row before a peer counts as dead: 1 to 100.
    pub missed: u32,
    /// EtherType of heartbeats: 0x88B5 unless told.
    pub ethertype: u16,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).field("heartbeat", &self.heartbeat).finish_non_exhaustive()
    }
}

/// This member.
#[derive(Clone, Debug)]
pub struct Node {
    /// 1 to 32 bytes, unique in the cluster.
    pub name: String,
    /// What members are compared by; lower is better.
    pub metric: Metric,
}

/// Where a member's metric comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Established connections in the table.
    Connections,
    /// The one-minute load average.
    Load,
    /// The share of busy CPU time since the last reading, 0 to 100.
    Cpu,
    /// A number in a file.
    File(PathBuf),
    /// A number on a command's standard output.
    Command(Vec<String>),
}

/// A virtual IP.
#[derive(Clone, Debug)]
pub struct Vip {
    /// The address clients use.
    pub address: Ipv4Addr,
    /// Its subnet's prefix length, 0 to 32.
    pub prefix: u8,
    /// The next hop to clients beyond the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// The virtual MAC (`auto` resolved: locally administered, derived from cluster and address).
    pub mac: Mac,
    /// TCP ports served, sorted; empty: all.
    pub ports: Vec<u16>,
    /// How many members are active at once: 1 to 16.
    pub actives: u8,
    /// With several actives: rank r waits r × hedge for the client's ACK before it answers a SYN.
    pub hedge: Duration,
    /// When a better member may take the role over; `None`: never while the incumbent lives.
    pub rebalance: Option<Rebalance>,
    /// How long a silent owner may be away before its clients are reset; `None`: never.
    pub orphans_after: Option<Duration>,
    /// How the local service is probed.
    pub health: Option<Health>,
}

/// When a challenger takes over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalance {
    /// Between two comparisons.
    pub every: Duration,
    /// By how much of the incumbent's metric the challenger must be better: 0.2 is 20 %.
    pub margin: f64,
    /// For how long it must be.
    pub hold: Duration,
}

/// A probe of the local service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is tried.
    pub probe: Probe,
    /// Between two tries.
    pub every: Duration,
    /// After which a try has failed.
    pub timeout: Duration,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection to this port of the VIP, locally.
    Tcp(u16),
    /// An HTTP GET of this URL; healthy on a status of 200 to 399.
    Http(HttpUrl),
    /// A command; healthy on exit status 0.
    Command(Vec<String>),
}

/// Ports, cores and sizes.
#[derive(Clone, Debug)]
pub struct Dataplane {
    /// Towards the switch.
    pub wire: Wire,
    /// Towards the host's TCP/IP stack.
    pub host: Host,
    /// The workers' cores, each once, ascending; at least one, never `control_core`
    /// (capsule's main core makes a system call a turn) unless the machine has just one core.
    pub workers: Vec<usize>,
    /// The control thread's core.
    pub control_core: usize,
    /// What a worker does when nothing arrives.
    pub poll: Poll,
    /// Capacity of the connection table, in established connections.
    pub connections: usize,
    /// Packet buffers on each NUMA node of the workers, if what the workers need is less.
    pub buffers: usize,
    /// Whether huge pages are used.
    pub huge_pages: HugePages,
    /// Further EAL arguments.
    pub eal: Vec<String>,
}

/// The port towards the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A kernel interface, through af_packet; the kernel goes on using it beside us.
    Interface(String),
    /// A PCI device, bound to a DPDK driver.
    Pci(String),
    /// Any DPDK virtual device: its name and arguments as EAL's `--vdev` takes them.
    Vdev(String),
}

/// The port towards the host's own stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// How it is made.
    pub device: HostDevice,
    /// The member's own address and prefix length on it, where the wire is taken from the kernel.
    pub address: Option<(Ipv4Addr, u8)>,
}

/// The device behind the host port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostDevice {
    /// A TAP interface of this name.
    Tap(String),
    /// Any DPDK virtual device.
    Vdev(String),
}

/// The TAP interface at the kernel's end of a host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTap<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is made for several queues: who attaches to it has to say the same.
    pub multi_queue: bool,
}

impl HostDevice {
    /// The TAP that is ours to set up; none where the kernel's end of the device is its owner's. virtio-user makes one of
    /// the name `iface` for the kernel's vhost-net, or attaches to that which is there.
    pub fn tap(&self) -> Option<KernelTap<'_>> {
        match self {
            HostDevice::Tap(name) => Some(KernelTap { name, multi_queue: true }),
            HostDevice::Vdev(text) => {
                let (device, arguments) = text.split_once(',')?;
                let argument = |name: &str| {
                    let mut arguments = arguments.split(',').filter_map(|argument| argument.split_once('='));
                    arguments.find(|(key, _)| *key == name).map(|(_, value)| value)
                };
                let vhost_net = device.starts_with("net_virtio_user") && argument("path") == Some(VHOST_NET);
                let name = argument("iface").filter(|_| vhost_net)?;
                Some(KernelTap { name, multi_queue: argument("queues").is_some_and(|queues| queues != "1") })
            }
        }
    }
}

/// The kernel's way to read and write a virtio device's rings by itself.
pub const VHOST_NET: &str = "/dev/vhost-net";

/// What a worker does when nothing arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Polls again at once.
    Busy,
    /// Backs off to short sleeps.
    Adaptive,
}

/// Whether huge pages are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Where there are some.
    Auto,
    /// Or do not start.
    Require,
    /// Not even where there are some.
    Never,
}

/// Logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least level that is logged.
    pub level: tracing::Level,
    /// Whether a line is a JSON object.
    pub json: bool,
}
