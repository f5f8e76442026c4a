//! What the control core needs of the configuration.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::checked::{Config, Key, Rebalance};
use crate::control::member::Name;
use crate::frame::Mac;

/// Bytes of [`Settings::config_hash`].
pub const CONFIG_HASH_LEN: usize = 16;

/// Settings of one member.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's key.
    pub key: Key,
    /// This member's name.
    pub name: Name,
    /// The wire's own MAC, the source of our heartbeats.
    pub source: Mac,
    /// EtherType of heartbeats.
    pub ethertype: u16,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Heartbeats missed in a row before a peer counts as dead.
    pub missed: u32,
    /// The virtual IPs, by [`crate::table::VipIndex`].
    pub vips: Vec<VipSettings>,
    /// A hash of what all members must agree on.
    pub config_hash: [u8; CONFIG_HASH_LEN],
}

/// Settings of one VIP.
#[derive(Clone, Debug)]
pub struct VipSettings {
    /// Its address: what names it in heartbeats, because members may list their VIPs in different orders.
    pub address: IpAddr,
    /// How many members are active at once.
    pub actives: u8,
    /// When a better member may take the role over.
    pub rebalance: Option<Rebalance>,
    /// Whether the local service is probed: if so, it counts as unhealthy until the first [`super::Event::Health`].
    pub probed: bool,
    /// How long a silent owner may be away before its clients are reset; `None`: they never are.
    pub orphans_after: Option<Duration>,
}

/// Why a checked configuration has no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's name is not 1 to 32 bytes without control characters")]
pub struct BadName;

impl Settings {
    /// From the configuration; `source` is the wire's own MAC.
    pub fn from_config(config: &Config, source: Mac) -> Result<Settings, BadName> {
        let vip = |vip: &crate::config::checked::Vip| VipSettings {
            address: vip.address.into(),
            actives: vip.actives,
            rebalance: vip.rebalance,
            probed: vip.health.is_some(),
            orphans_after: vip.orphans_after,
        };
        Ok(Settings {
            cluster: config.cluster.name.clone(),
            key: config.cluster.key.clone(),
            name: Name::new(&config.node.name).ok_or(BadName)?,
            source,
            ethertype: config.cluster.ethertype,
            heartbeat: config.cluster.heartbeat,
            missed: config.cluster.missed,
            vips: config.vips.iter().map(vip).collect(),
            config_hash: config_hash(config),
        })
    }

    /// How long a member that sends every `interval` may be silent before it is suspected.
    pub(super) fn suspect_after(&self, interval: Duration) -> Duration {
        interval.max(self.heartbeat) * 3 / 2
    }

    /// How long a member that sends every `interval` may be silent before it is dead: half a heartbeat longer than
    /// `missed` of them, because the last was due at `missed` exactly, and its sender's timer and ours come late.
    pub(super) fn dead_after(&self, interval: Duration) -> Duration {
        let interval = interval.max(self.heartbeat);
        interval * self.missed + interval / 2
    }

    /// The longest a failure goes unnoticed among members with the same settings.
    pub fn detection(&self) -> Duration {
        self.dead_after(self.heartbeat)
    }
}

/// A hash of what all members must agree on, whatever the order of their VIPs.
fn config_hash(config: &Config) -> [u8; CONFIG_HASH_LEN] {
    let mut hasher = blake3::Hasher::new_derive_key("baton shared configuration, version 1");
    let cluster = &config.cluster;
    hasher.update(&[cluster.name.len() as u8]).update(cluster.name.as_bytes());
    hasher.update(&cluster.heartbeat.as_nanos().to_be_bytes());
    hasher.update(&cluster.missed.to_be_bytes()).update(&cluster.ethertype.to_be_bytes());
    let mut vips: Vec<_> = config.vips.iter().collect();
    vips.sort_by_key(|vip| vip.address);
    for vip in vips {
        hasher.update(&vip.address.octets()).update(&[vip.prefix]).update(&vip.mac.0).update(&[vip.actives]);
        hasher.update(&vip.hedge.as_nanos().to_be_bytes());
        hasher.update(&(vip.ports.len() as u32).to_be_bytes());
        for port in &vip.ports {
            hasher.update(&port.to_be_bytes());
        }
    }
    let mut hash = [0; CONFIG_HASH_LEN];
    hasher.finalize_xof().fill(&mut hash);
    hash
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::checked::*;

    fn vip(last: u8) -> Vip {
        Vip {
            address: Ipv4Addr::new(10, 0, 0, last),
            prefix: 24,
            gateway: None,
            mac: Mac([2, 0, 0, 0, 0, last]),
            ports: vec![80, 443],
            actives: 1,
            hedge: Duration::ZERO,
            rebalance: None,
            orphans_after: None,
            health: None,
        }
    }

    fn config() -> Config {
        Config {
            cluster: Cluster {
                name: "web".into(),
                key: Key([7; 32]),
                heartbeat: Duration::from_millis(10),
                missed: 3,
                ethertype: 0x88b5,
            },
            node: Node { name: "s1".into(), metric: Metric::Load },
            vips: vec![vip(100), vip(101)],
            dataplane: Dataplane {
                wire: Wire::Interface("eth0".into()),
                host: Host { device: HostDevice::Tap("vip0".into()), address: None },
                workers: vec![1],
                control_core: 0,
                poll: Poll::Adaptive,
                connections: 1024,
                buffers: 0,
                huge_pages: HugePages::Never,
                eal: Vec::new(),
            },
            control_socket: "/run/baton/baton.sock".into(),
            metrics_listen: None,
            log: Log { level: tracing::Level::INFO, json: false },
        }
    }

    #[test]
    fn the_hash_covers_what_members_must_agree_on_and_nothing_else() {
        let hash = config_hash(&config());
        let changed = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config_hash(&config) != hash
        };
        assert!(!changed(|config| config.vips.reverse()));
        assert!(!changed(|config| config.node.name = "s2".into()));
        assert!(!changed(|config| config.dataplane.workers = vec![3]));
        assert!(changed(|config| config.cluster.name = "mail".into()));
        assert!(changed(|config| config.cluster.heartbeat = Duration::from_millis(11)));
        assert!(changed(|config| config.cluster.missed = 4));
        assert!(changed(|config| config.cluster.ethertype = 0x88b6));
        assert!(changed(|config| config.vips[1].address = Ipv4Addr::new(10, 0, 0, 9)));
        assert!(changed(|config| config.vips[1].prefix = 25));
        assert!(changed(|config| config.vips[1].mac = Mac([2; 6])));
        assert!(changed(|config| config.vips[1].ports = vec![80]));
        assert!(changed(|config| config.vips[1].actives = 2));
        assert!(changed(|config| config.vips[1].hedge = Duration::from_millis(5)));
        assert!(changed(|config| drop(config.vips.pop())));
    }

    #[test]
    fn settings_come_from_the_configuration() {
        let mut config = config();
        config.vips[0].health =
            Some(Health { probe: Probe::Tcp(80), every: Duration::from_secs(1), timeout: Duration::from_secs(1) });
        let settings = Settings::from_config(&config, Mac([2; 6])).unwrap();
        assert_eq!((settings.name.as_str(), settings.vips.len()), ("s1", 2));
        assert!(settings.vips[0].probed && !settings.vips[1].probed);
        assert_eq!(settings.detection(), Duration::from_millis(35));
        config.node.name = String::new();
        assert_eq!(Settings::from_config(&config, Mac([2; 6])).unwrap_err(), BadName);
    }
}
