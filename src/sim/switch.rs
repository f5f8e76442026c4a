//! The switch: an ordinary one, that learns where a source is and floods what it does not know; and the cables, with
//! all that can be wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::random::Random;
use crate::frame::Mac;
use crate::frame::ethernet::Ethernet;
use crate::time::Time;

/// A port's number.
pub type PortIndex = usize;

/// A cable's two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From a machine to the switch.
    In,
    /// From the switch to a machine.
    Out,
}

/// A cable, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Cable {
    /// How long a frame takes, each way.
    pub delay: Duration,
    /// The share of frames lost, each way.
    pub loss: f64,
    /// The share of frames that arrive twice.
    pub duplicated: f64,
    /// The share of frames that are held up by up to `hold`, and overtaken meanwhile.
    pub held_up: f64,
    /// See `held_up`.
    pub hold: Duration,
    /// False: nothing gets from the machine to the switch.
    pub inward: bool,
    /// False: nothing gets from the switch to the machine.
    pub outward: bool,
    /// An EtherType that does not pass, either way.
    pub blocked: Option<u16>,
}

impl Default for Cable {
    fn default() -> Self {
        Cable {
            delay: Duration::from_micros(5),
            loss: 0.0,
            duplicated: 0.0,
            held_up: 0.0,
            hold: Duration::from_millis(1),
            inward: true,
            outward: true,
            blocked: None,
        }
    }
}

impl Cable {
    /// Cuts it, or mends it.
    pub fn plug(&mut self, plugged: bool) {
        (self.inward, self.outward) = (plugged, plugged);
    }

    /// When the copies of a frame arrive that enters now: none, one, or two.
    pub fn cross(&self, frame: &[u8], way: Way, now: Time, random: &mut Random) -> impl Iterator<Item = Time> + use<> {
        let open = match way {
            Way::In => self.inward,
            Way::Out => self.outward,
        };
        let blocked = self.blocked.is_some() && Ethernet::parse(frame).map(|header| header.ethertype) == self.blocked;
        let lost = !open || blocked || random.chance(self.loss);
        let copies = if lost { 0 } else { 1 + usize::from(random.chance(self.duplicated)) };
        let mut arrivals = [Time::ZERO; 2];
        for arrival in &mut arrivals[..copies] {
            let held = if random.chance(self.held_up) { random.up_to(self.hold) } else { Duration::ZERO };
            *arrival = now + self.delay + held;
        }
        arrivals.into_iter().take(copies)
    }
}

/// A learning switch.
#[derive(Debug)]
pub struct Switch {
    ports: usize,
    learned: BTreeMap<Mac, PortIndex>,
    /// Between which ports nothing passes, one way: as if the switch were two, and the cable between them cut.
    pub cut: BTreeSet<(PortIndex, PortIndex)>,
}

impl Switch {
    /// One with this many ports.
    pub fn new(ports: usize) -> Switch {
        Switch { ports, learned: BTreeMap::new(), cut: BTreeSet::new() }
    }

    /// Where it believes a MAC to be.
    pub fn location(&self, mac: Mac) -> Option<PortIndex> {
        self.learned.get(&mac).copied()
    }

    /// Forgets what it has learned, as after a change of topology.
    pub fn forget(&mut self) {
        self.learned.clear();
    }

    /// Takes a frame in at a port, and says where it goes out.
    pub fn forward(&mut self, port: PortIndex, frame: &[u8]) -> impl Iterator<Item = PortIndex> + use<> {
        let header = Ethernet::parse(frame);
        let known = header.filter(|header| !header.destination.is_multicast());
        let to = known.and_then(|header| self.location(header.destination));
        if let Some(header) = header.filter(|header| !header.source.is_multicast()) {
            self.learned.insert(header.source, port);
        }
        let all = if header.is_some() { self.ports } else { 0 };
        let passes = |&out: &PortIndex| {
            out != port && to.is_none_or(|to| to == out) && (self.cut.is_empty() || !self.cut.contains(&(port, out)))
        };
        (0..all).filter(passes).collect::<Vec<_>>().into_iter()
    }
}
