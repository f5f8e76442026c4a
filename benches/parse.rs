//! Frame to class: what a burst of 64 costs to be taken apart, of each kind.

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::hint::black_box;

use baton::classify::common::{Heads, Known, Segments, segments};
use baton::classify::{self, Facts, VipFacts};
use baton::simd::{Cpu, LANES, Simd, Work};
use baton::table::Tuples;
use common::BATCH;
use common::member::{Kind, OWN, Traffic, VIP, VMAC};
use criterion::Throughput;

/// A burst, to be taken apart.
struct Parse<'a>(&'a [([u8; 120], usize)], &'a Facts, &'a Known);

impl Work for Parse<'_> {
    type Output = Tuples;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Tuples {
        let Parse(frames, facts, known) = self;
        let (mut heads, mut tuples) = (Heads::default(), Tuples::default());
        let frame = |place: usize| black_box(&frames[place].0[..frames[place].1]);
        let mut found = Segments::default();
        // One group ahead, as the worker does.
        for turn in 0..=BATCH / LANES {
            if turn < BATCH / LANES {
                (turn * LANES..(turn + 1) * LANES).for_each(|place| heads.take(place, Some(frame(place))));
            }
            if let Some(group) = turn.checked_sub(1) {
                let first = group * LANES;
                found.add(segments::<S, true>(simd, &heads, first, known, &mut tuples), first);
            }
        }
        for place in (0..BATCH).filter(|place| found.common >> place & 1 == 0) {
            black_box(classify::from_wire(frame(place), facts));
        }
        tuples
    }
}

fn main() {
    let mut criterion = common::criterion();
    let vip = VipFacts { address: VIP, mac: VMAC, ports: vec![443], hedge: std::time::Duration::ZERO, orphans: true };
    let facts = Facts { own_mac: OWN, vips: vec![vip], heartbeat: 0x88b5, shared_wire: true };
    let (cpu, known) = (Cpu::detect(), Known::of(&facts));
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(BATCH as u64));
    for kind in [Kind::Ack, Kind::Data, Kind::Syn, Kind::Arp, Kind::NotForUs] {
        let mut traffic = Traffic::new(1_000_000, 3);
        let frames: Vec<([u8; 120], usize)> = (0..BATCH)
            .map(|_| {
                let mut frame = [0; 120];
                let len = traffic.write(kind, &mut frame);
                (frame, len)
            })
            .collect();
        group.bench_function(format!("{kind:?}"), |bencher| bencher.iter(|| cpu.run(Parse(&frames, &facts, &known))));
    }
    group.finish();
    criterion.final_summary();
}
