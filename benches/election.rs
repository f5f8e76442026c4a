//! The pure control core, [`Control`], at clusters of 2 to as many members as there can be: what one event costs it. Each
//! member hears all others; their heartbeats are real ones, so a step includes verifying what it is given. Times are for one
//! event.
//!
//! ```text
//! cargo bench --no-default-features --bench election
//! ```

#![allow(clippy::expect_used)] // As in tests.

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use baton::config::checked::Key;
use baton::control::{Action, Control, Event, Identity, MEMBERS_MAX, Name, Settings, VipSettings};
use baton::frame::Mac;
use baton::shared::HeartbeatFrame;
use baton::time::Time;
use common::CpuTime;
use criterion::Criterion;

const HEARTBEAT: Duration = Duration::from_millis(10);

/// Virtual IPs of the cluster.
const VIPS: u8 = 4;

/// A cluster in lock-step: in each interval every member ticks once, and hears what the others have sent.
struct Cluster {
    members: Vec<Control>,
    now: Time,
    sent: Vec<(usize, Box<HeartbeatFrame>)>,
    /// What the first member spent on how many events: ticks, heartbeats, and the interval in which it notices a death.
    ticks: (Duration, u64),
    frames: (Duration, u64),
}

fn control(number: usize, now: Time) -> Control {
    let vip = |last| VipSettings {
        address: Ipv4Addr::new(10, 0, 0, 100 + last).into(),
        actives: 1,
        rebalance: None,
        probed: false,
        orphans_after: None,
    };
    let settings = Settings {
        cluster: "web".into(),
        key: Key([7; 32]),
        name: Name::new(&format!("s{number:02}")).expect("a name"),
        source: Mac([2, 0, 0, 0, 0, number as u8]),
        ethertype: 0x88b5,
        heartbeat: HEARTBEAT,
        missed: 3,
        vips: (0..VIPS).map(vip).collect(),
        config_hash: [0; 16],
    };
    let identity = Identity { boot_id: [number as u8; 16], incarnation: 1, nonce: number as u64 + 1 };
    let mut control = Control::new(settings, identity, now);
    let mut actions = Vec::new();
    control.step(Event::Metric(1.0), now, &mut actions);
    control.step(Event::Ready, now, &mut actions);
    control
}

impl Cluster {
    fn new(members: usize) -> Cluster {
        let now = Time::from_millis(1000);
        let members = (0..members).map(|number| control(number, now)).collect();
        let mut cluster =
            Cluster { members, now, sent: Vec::new(), ticks: (Duration::ZERO, 0), frames: (Duration::ZERO, 0) };
        (0..50).for_each(|_| cluster.interval());
        let active = |member: &Control, vip: usize| member.view(cluster.now).vips[vip].role.active;
        for vip in 0..usize::from(VIPS) {
            assert_eq!(cluster.members.iter().filter(|member| active(member, vip)).count(), 1, "one active each");
        }
        cluster
    }

    /// An interval of heartbeats; only the first member is timed.
    fn interval(&mut self) {
        self.now += HEARTBEAT;
        let sent = std::mem::take(&mut self.sent);
        let mut actions = Vec::new();
        for (number, member) in self.members.iter_mut().enumerate() {
            let start = CpuTime::now();
            let mut heard = 0;
            for (_, frame) in sent.iter().filter(|(sender, _)| *sender != number) {
                member.step(Event::Frame(frame.bytes()), self.now, &mut actions);
                heard += 1;
            }
            let hearing = CpuTime::now();
            member.step(Event::Tick, self.now, &mut actions);
            if number == 0 {
                self.frames = (self.frames.0 + (hearing - start), self.frames.1 + heard);
                self.ticks = (self.ticks.0 + (CpuTime::now() - hearing), self.ticks.1 + 1);
            }
            for action in actions.drain(..) {
                if let Action::Send(frame) = action {
                    self.sent.push((number, frame));
                }
            }
        }
    }

    /// The first member's CPU time for so many events of a kind.
    fn time(&mut self, events: u64, kind: fn(&mut Cluster) -> &mut (Duration, u64)) -> Duration {
        *kind(self) = (Duration::ZERO, 0);
        while kind(self).1 < events {
            self.interval();
        }
        let (spent, count) = *kind(self);
        spent.mul_f64(events as f64 / count as f64)
    }
}

/// All of the first member's steps from the death of another that was active until each
/// virtual IP has an active again.
fn takeover(members: usize) -> Duration {
    let mut cluster = Cluster::new(members);
    let roles = |member: &Control, now| member.view(now).vips.iter().map(|vip| vip.role.active).collect::<Vec<_>>();
    let taken = |cluster: &Cluster| {
        let all: Vec<_> = cluster.members.iter().map(|member| roles(member, cluster.now)).collect();
        (0..usize::from(VIPS)).all(|vip| all.iter().any(|roles| roles[vip]))
    };
    let victim = (1..members).find(|number| roles(&cluster.members[*number], cluster.now).contains(&true));
    let victim = victim.expect("virtual IPs spread over members");
    cluster.members.remove(victim);
    // What it sent last is heard by nobody, and the others keep their numbers.
    cluster.sent.retain(|(sender, _)| *sender != victim);
    cluster.sent.iter_mut().for_each(|(sender, _)| *sender -= usize::from(*sender > victim));
    (cluster.ticks, cluster.frames) = ((Duration::ZERO, 0), (Duration::ZERO, 0));
    assert!(!taken(&cluster));
    while !taken(&cluster) {
        cluster.interval();
    }
    cluster.ticks.0 + cluster.frames.0
}

fn main() {
    let mut criterion: Criterion<CpuTime> = common::criterion();
    let mut group = criterion.benchmark_group(format!("election, {VIPS} virtual IPs"));
    for members in [2, 4, 8, 16, 32, MEMBERS_MAX] {
        let mut cluster = None;
        group.bench_function(format!("a tick and its heartbeat, {members} members"), |bencher| {
            let cluster = cluster.get_or_insert_with(|| Cluster::new(members));
            bencher.iter_custom(|events| cluster.time(events, |cluster| &mut cluster.ticks));
        });
        group.bench_function(format!("a heartbeat heard, {members} members"), |bencher| {
            let cluster = cluster.get_or_insert_with(|| Cluster::new(members));
            bencher.iter_custom(|events| cluster.time(events, |cluster| &mut cluster.frames));
        });
        group.bench_function(format!("a takeover, all steps of one member, {members} members"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| takeover(members)).sum());
        });
    }
    group.finish();
    criterion.final_summary();
}
