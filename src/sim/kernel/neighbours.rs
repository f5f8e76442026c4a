//! Neighbours: the MACs behind addresses, asked for by ARP (RFC 826). No entry grows old within a run.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::frame::Mac;
use crate::frame::arp::{self, Arp, Operation};
use crate::frame::ethernet;
use crate::sim::segment::{Flow, Segment};
use crate::time::Time;

/// Between two requests for the same address (Linux: `retrans_time_ms`).
const RETRY: Duration = Duration::from_secs(1);

/// Requests before giving up (Linux: `mcast_solicit`).
const TRIES: u32 = 3;

/// Segments that wait for one address.
const WAITING_MAX: usize = 101;

#[derive(Debug)]
enum Neighbour {
    Known(Mac),
    Asked { from: Ipv4Addr, tries: u32, again: Time, waiting: Vec<(Flow, Segment)> },
}

/// A machine's neighbour table.
#[derive(Debug)]
pub struct Neighbours {
    own: Mac,
    table: BTreeMap<Ipv4Addr, Neighbour>,
}

impl Neighbours {
    /// An empty one for a machine with this MAC.
    pub fn new(own: Mac) -> Neighbours {
        Neighbours { own, table: BTreeMap::new() }
    }

    /// Sends a segment as a frame, at once or when its neighbour has answered.
    pub fn send(&mut self, flow: Flow, segment: Segment, now: Time, frames: &mut Vec<Vec<u8>>) {
        let (own, from) = (self.own, *flow.local.ip());
        let hop = next_hop(from, *flow.remote.ip());
        let neighbour = self.table.entry(hop).or_insert_with(|| {
            frames.push(request(own, from, hop));
            Neighbour::Asked { from, tries: 1, again: now + RETRY, waiting: Vec::new() }
        });
        match neighbour {
            Neighbour::Known(mac) => frames.push(segment.frame(flow, *mac, own)),
            Neighbour::Asked { waiting, .. } if waiting.len() < WAITING_MAX => waiting.push((flow, segment)),
            Neighbour::Asked { .. } => {}
        }
    }

    /// An ARP message; `ours` are this machine's addresses.
    pub fn receive(&mut self, frame: &[u8], ours: &[Ipv4Addr], frames: &mut Vec<Vec<u8>>) {
        let Ok(message) = Arp::parse(frame) else { return };
        if !ours.contains(&message.tpa) {
            return;
        }
        if message.operation == Operation::Request {
            let mut answer = frame.to_vec();
            arp::write_reply(&mut answer, &message, self.own, self.own);
            frames.push(answer);
        }
        if let Some(Neighbour::Asked { waiting, .. }) = self.table.insert(message.spa, Neighbour::Known(message.sha)) {
            frames.extend(waiting.into_iter().map(|(flow, segment)| segment.frame(flow, message.sha, self.own)));
        }
    }

    /// When a request is to be repeated.
    pub fn deadline(&self) -> Option<Time> {
        let again = |neighbour: &Neighbour| match neighbour {
            Neighbour::Known(_) => None,
            Neighbour::Asked { again, .. } => Some(*again),
        };
        self.table.values().filter_map(again).min()
    }

    /// Repeats requests that are due, and gives up on those that nobody answers.
    pub fn wake(&mut self, now: Time, frames: &mut Vec<Vec<u8>>) {
        let own = self.own;
        self.table.retain(|&address, neighbour| match neighbour {
            Neighbour::Asked { from, tries, again, .. } if *again <= now => {
                *tries += 1;
                *again = now + RETRY;
                if *tries <= TRIES {
                    frames.push(request(own, *from, address));
                }
                *tries <= TRIES
            }
            _ => true,
        });
    }
}

/// Who stands between the subnet (a /24) and the rest of the world: the last of its addresses.
pub const GATEWAY: u8 = 254;

fn next_hop(from: Ipv4Addr, to: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = from.octets();
    if to.octets()[..3] == [a, b, c] { to } else { Ipv4Addr::new(a, b, c, GATEWAY) }
}

/// A request from `from` for `target`.
fn request(own: Mac, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; ethernet::HEADER + arp::MESSAGE];
    ethernet::set_destination(&mut frame, Mac::BROADCAST);
    ethernet::set_source(&mut frame, own);
    frame[12..14].copy_from_slice(&ethernet::ARP.to_be_bytes());
    let message = &mut frame[ethernet::HEADER..];
    message[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    message[8..14].copy_from_slice(&own.0);
    message[14..18].copy_from_slice(&from.octets());
    message[24..28].copy_from_slice(&target.octets());
    frame
}
