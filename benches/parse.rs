//! Frame to class: what a burst of 64 costs to be taken apart, of each kind.

#![allow(clippy::expect_used)] // As in tests.

mod common;

use baton::classify::{self, Facts, VipFacts};
use baton::table::Tuple;
use common::BATCH;
use common::member::{Kind, OWN, Traffic, VIP, VMAC};
use criterion::Throughput;

fn main() {
    let mut criterion = common::criterion();
    let vip = VipFacts { address: VIP, mac: VMAC, ports: vec![443], hedge: std::time::Duration::ZERO, orphans: true };
    let facts = Facts { own_mac: OWN, vips: vec![vip], heartbeat: 0x88b5, shared_wire: true };
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
        group.bench_function(format!("{kind:?}"), |bencher| {
            bencher.iter(|| {
                let mut tuple = Tuple::NONE;
                let mut segments = 0;
                for (frame, len) in &frames {
                    let class = classify::from_wire(std::hint::black_box(&frame[..*len]), &facts, &mut tuple);
                    segments += usize::from(matches!(class, classify::Class::Tcp(_)));
                }
                segments
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
