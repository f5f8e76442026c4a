//! Established traffic in a flood of SYNs, each of an address that nobody has seen before.
//!
//! The path is given frames as fast as it takes them, so a flood takes time from established traffic: that much is arithmetic,
//! and a fair share. Alone a segment costs `e` and a SYN `s`. If `f` of the frames are SYNs and nothing makes the others
//! dearer, a frame costs (1 − f) e + f s. What it costs more than that is what the flood does to established traffic
//! beyond its share: **share** is (1 − f) e + f s over the cost that was measured, and established traffic's rate in terms of
//! what it would be.

use std::time::Duration;

use super::member::{Bench, Kind, Traffic};
use super::{BATCH, tuple};

/// Of the frames, so many in ten are SYNs.
pub const SHARES: [usize; 3] = [1, 5, 9];

/// What is received, with so many SYNs in ten frames.
pub fn mix(syns: usize) -> [(Kind, usize); 3] {
    [(Kind::Ack, 10 - syns), (Kind::Data, 10 - syns), (Kind::Syn, 2 * syns)]
}

/// The CPU time of so many bursts of it.
pub fn time(bench: &mut Bench, traffic: &mut Traffic, syns: usize, bursts: u64) -> Duration {
    let mix = mix(syns);
    bench.time(bursts, false, |frame| {
        let kind = traffic.pick(&mix);
        traffic.write(kind, frame)
    })
}

/// See the module: the costs alone are of established segments and of SYNs.
pub fn share(syns: usize, established: f64, syn: f64, mixed: f64) -> f64 {
    let part = syns as f64 / 10.0;
    ((1.0 - part) * established + part * syn) / mixed
}

/// Connections that are no longer in the table.
pub fn lost(bench: &Bench, connections: usize) -> usize {
    let table = &bench.member.established;
    let is_there = |number: &usize| {
        let tuple = tuple(*number);
        table.find(&tuple, table.hash(&tuple)).is_some()
    };
    let lost = (0..connections).filter(|number| !is_there(number)).count();
    assert_eq!(table.len(), connections - lost, "and no SYN has become an entry");
    lost
}

/// Bursts of one measurement.
pub const BURSTS: u64 = 4 * BATCH as u64;
