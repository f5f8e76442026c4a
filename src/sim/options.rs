//! What a simulated cluster is made of, and who has which address in it.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::kernel::GATEWAY;
use super::service::PORT;
use super::switch::Cable;
use crate::classify::{Facts, VipFacts};
use crate::config::checked::{Key, Rebalance};
use crate::control::heartbeat::ECHOES_MAX;
use crate::control::heartbeat::dialect::Dialect;
use crate::control::{Name, Settings, VipSettings};
use crate::frame::Mac;

/// EtherType of heartbeats.
pub const HEARTBEAT: u16 = 0x88b5;

/// A cluster to be made. Two made with the same options do the same.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where all randomness comes from.
    pub seed: u64,
    /// Members, 1 to 64.
    pub members: usize,
    /// Client machines, up to 100.
    pub clients: usize,
    /// Other machines.
    pub strangers: usize,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Heartbeats missed in a row before a peer counts as dead.
    pub missed: u32,
    /// How many members are active at once for the first virtual IP.
    pub actives: u8,
    /// The same for each further virtual IP. Of these, only the service's port is listed.
    pub further: Vec<u8>,
    /// When a better member may take a role over.
    pub rebalance: Option<Rebalance>,
    /// Whether members probe their services, one for each virtual IP.
    pub probed: bool,
    /// The most by which members' clocks run fast or slow, in millionths; with any, they also show different times.
    pub skew_ppm: u32,
    /// How long a second active leaves a SYN to the first.
    pub hedge: Duration,
    /// How long a silent owner may be away before its clients are reset.
    pub orphans_after: Duration,
    /// Whether members speak different minor versions of the heartbeats' format, as in a rolling upgrade: another one
    /// after each start.
    pub versions: bool,
    /// Whether roles are elected; otherwise a test sets them.
    pub elected: bool,
    /// Whether machines run without baton: there should be one then.
    pub plain: bool,
    /// Capacity of a member's connection table.
    pub connections: usize,
    /// Capacity of its ring of handshakes.
    pub handshakes: usize,
    /// The service's backlog.
    pub backlog: usize,
    /// Whether hosts turn to SYN cookies beyond it.
    pub cookies: bool,
    /// All cables at the start.
    pub cable: Cable,
    /// How long a frame takes on a client's cable, each way.
    pub client_delay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            members: 3,
            clients: 1,
            strangers: 0,
            heartbeat: Duration::from_millis(10),
            missed: 3,
            actives: 1,
            further: Vec::new(),
            rebalance: None,
            probed: false,
            skew_ppm: 0,
            hedge: Duration::from_millis(5),
            orphans_after: Duration::from_secs(2),
            versions: false,
            elected: true,
            plain: false,
            connections: 4096,
            handshakes: 16_384,
            backlog: 1024,
            cookies: true,
            cable: Cable::default(),
            client_delay: Cable::default().delay,
        }
    }
}

impl Options {
    /// The address of a virtual IP.
    pub fn vip_address(vip: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, 200 + vip as u8)
    }

    /// The address of a client.
    pub fn client_address(index: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, 1 + index as u8)
    }

    /// The address of the gateway.
    pub fn gateway_address() -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, GATEWAY)
    }

    /// A virtual MAC.
    pub fn virtual_mac(vip: usize) -> Mac {
        Mac([2, 0, 0, 0, 1, vip as u8])
    }

    /// A member's own MAC.
    pub fn member_mac(index: usize) -> Mac {
        Mac([2, 0, 0, 0, 2, index as u8])
    }

    /// Whose heartbeat a frame is.
    pub fn member_of_heartbeat(frame: &[u8]) -> Option<usize> {
        let of_member = frame.get(6..11) == Some(&Options::member_mac(0).0[..5]);
        let heartbeat = frame.get(12..14) == Some(&HEARTBEAT.to_be_bytes());
        frame.get(11).filter(|_| of_member && heartbeat).map(|&index| index.into())
    }

    /// A client's MAC.
    pub fn client_mac(index: usize) -> Mac {
        Mac([2, 0, 0, 0, 3, index as u8])
    }

    /// A stranger's MAC.
    pub fn stranger_mac(index: usize) -> Mac {
        Mac([2, 0, 0, 0, 4, index as u8])
    }

    /// Which minor version of the heartbeats' format a member speaks, after so many starts.
    pub fn dialect(&self, index: usize, start: u64) -> Dialect {
        if !self.versions {
            return Dialect::Present;
        }
        // The earliest has no echoes for more.
        let dialects = if self.members <= ECHOES_MAX { Dialect::ALL } else { &Dialect::ALL[1..] };
        // The first member begins as the earliest, and so on round; each start is an upgrade, or takes one back.
        dialects[(index + start as usize + 2) % dialects.len()]
    }

    /// A machine's boot id, after so many boots.
    pub fn boot_id(index: usize, boots: u64) -> [u8; 16] {
        let mut id = [index as u8 + 1; 16];
        id[8..].copy_from_slice(&boots.to_be_bytes());
        id
    }

    /// The port of the service at a virtual IP.
    pub fn port(vip: usize) -> u16 {
        PORT + vip as u16
    }

    /// How many virtual IPs there are.
    pub fn vips(&self) -> usize {
        1 + self.further.len()
    }

    /// How many members are active at once for a virtual IP.
    pub fn actives_of(&self, vip: usize) -> u8 {
        vip.checked_sub(1).map_or(self.actives, |further| self.further[further])
    }

    /// What a member's workers know.
    pub fn facts(&self, index: usize) -> Facts {
        let vip = |vip| VipFacts {
            address: Options::vip_address(vip),
            mac: Options::virtual_mac(vip),
            ports: if vip == 0 { Vec::new() } else { vec![Options::port(vip)] },
            hedge: self.hedge,
            orphans: true,
        };
        let vips = (0..self.vips()).map(vip).collect();
        Facts { own_mac: Options::member_mac(index), vips, heartbeat: HEARTBEAT, shared_wire: true }
    }

    /// What a member's control core knows.
    pub fn settings(&self, index: usize) -> Settings {
        let vip = |vip| VipSettings {
            address: Options::vip_address(vip).into(),
            actives: self.actives_of(vip),
            rebalance: self.rebalance,
            probed: self.probed,
            orphans_after: Some(self.orphans_after),
        };
        Settings {
            cluster: "simulated".to_owned(),
            key: Key([7; 32]),
            name: member_name(index),
            source: Options::member_mac(index),
            ethertype: HEARTBEAT,
            heartbeat: self.heartbeat,
            missed: self.missed,
            vips: (0..self.vips()).map(vip).collect(),
            config_hash: [1; 16],
        }
    }
}

/// s1, s2, …
#[allow(clippy::expect_used, reason = "a letter and a number are a name")]
fn member_name(index: usize) -> Name {
    Name::new(&format!("s{}", index + 1)).expect("a name")
}
