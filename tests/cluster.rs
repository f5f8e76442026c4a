//! What baton promises of a cluster, on in-memory ports with a virtual clock.

#![allow(clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a failed scenario tells its trace")]

use std::net::Ipv4Addr;
use std::time::Duration;

use baton::control::{Action, Control, Event, Identity};
use baton::frame::build::{TcpFrame, tcp_frame};
use baton::frame::tcp::Flags;
use baton::sim::kernel::{End, Kind};
use baton::sim::options::HEARTBEAT;
use baton::sim::random::Random;
use baton::sim::service::PORT;
use baton::sim::switch::Cable;
use baton::sim::{Cluster, Finish, Options, Plan, Story};
use baton::verdict::DropReason;

const MS: Duration = Duration::from_millis(1);

/// A cluster whose election has come to its end.
fn settled(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options).unwrap();
    assert!(cluster.run_while(Duration::from_secs(1), |cluster| cluster.actives().is_empty()), "nobody became active");
    cluster.run_for(cluster.options.heartbeat * 5);
    assert_eq!(cluster.actives().len(), usize::from(cluster.options.actives));
    cluster
}

/// Connects `count` times, one every `every`, from all clients in turn.
fn load(cluster: &mut Cluster, count: usize, every: Duration, plan: Plan) {
    for connection in 0..count {
        let client = connection % cluster.clients.len();
        cluster.connect(client, plan);
        cluster.run_for(every);
    }
}

fn stories(cluster: &Cluster) -> impl Iterator<Item = &Story> {
    cluster.clients.iter().flat_map(|client| client.stories.values().chain(client.past.iter().map(|(_, story)| story)))
}

/// No rule was broken; else what happened to the connection concerned.
#[track_caller]
fn no_violation(cluster: &Cluster) {
    if let Some(violation) = cluster.checks.violations.first() {
        panic!(
            "{} violations; the first: {}\n{}",
            cluster.checks.violations.len(),
            violation.what,
            cluster.trace.tell(violation.flow)
        );
    }
    assert_eq!(cluster.switch.location(Options::virtual_mac(0)), None, "the switch has learned the virtual MAC");
}

/// Every connection did what was planned.
#[track_caller]
fn all_succeeded(cluster: &Cluster) {
    for client in &cluster.clients {
        if let Some((flow, story)) = client.stories.iter().find(|(_, story)| !story.succeeded()) {
            panic!("{flow}: {story:?}\n{}", cluster.trace.tell(Some(*flow)));
        }
    }
}

fn dropped(cluster: &Cluster, member: usize, reason: DropReason) -> u64 {
    cluster.members[member].daemon.as_ref().unwrap().counters.dropped(reason)
}

#[test]
fn one_active_serves_all_and_each_passive_counts_every_syn() {
    let mut cluster = settled(Options::default());
    cluster.checks.exclusive = true;
    let active = cluster.actives()[0];
    load(&mut cluster, 1000, MS, Plan::default());
    cluster.run_for(Duration::from_secs(2));
    no_violation(&cluster);
    all_succeeded(&cluster);
    for member in 0..3 {
        let served = if member == active { 1000 } else { 0 };
        assert_eq!(cluster.members[member].server.served, served);
        assert_eq!(dropped(&cluster, member, DropReason::SynPassive), 1000 - served);
    }
    assert!(stories(&cluster).all(|story| story.syn_retransmits == 0));
    assert!(stories(&cluster).all(|story| matches!(story.ended, Some((_, End::Finished)))));
}

#[test]
fn a_planned_handover_breaks_no_connection_and_takes_the_new_ones() {
    let mut cluster = settled(Options::default());
    let old = cluster.actives()[0];
    let new = (old + 1) % 3;
    let long = Plan { requests: 20, think: 100 * MS, ..Plan::default() };
    load(&mut cluster, 50, 2 * MS, long);
    cluster.run_for(500 * MS);
    cluster.tell(new, Event::Activate { vip: 0 });
    cluster.run_for(50 * MS);
    assert_eq!(cluster.actives(), [new]);
    load(&mut cluster, 50, MS, Plan::default());
    cluster.run_for(Duration::from_secs(3));
    no_violation(&cluster);
    all_succeeded(&cluster);
    let served_by = |member: usize, requests: u32| {
        let by = |story: &&Story| story.plan.requests == requests && story.served_by == Some(member as u8);
        stories(&cluster).filter(by).count()
    };
    assert_eq!((served_by(old, 20), served_by(new, 1)), (50, 50));
    assert!(stories(&cluster).all(|story| story.syn_retransmits == 0));
}

#[test]
fn connections_are_accepted_again_soon_after_the_active_has_died() {
    for (heartbeat, seed) in [(10, 1), (10, 2), (1, 3), (1, 4)] {
        let mut cluster = settled(Options { seed, heartbeat: heartbeat * MS, clients: 2, ..Options::default() });
        let detection = cluster.options.settings(0).detection();
        load(&mut cluster, 20, MS, Plan::default());
        let victim = cluster.actives()[0];
        cluster.kill(victim);
        cluster.plug(victim, false);
        let killed = cluster.now;
        load(&mut cluster, 500, MS / 5, Plan::default());
        let accepted =
            stories(&cluster).filter(|story| story.begun >= killed).filter_map(|story| story.connected).min();
        let outage = accepted.unwrap().since(killed);
        assert!(outage <= detection + 2 * heartbeat * MS, "{outage:?} at heartbeats of {heartbeat} ms");
        cluster.run_for(Duration::from_secs(3));
        no_violation(&cluster);
        all_succeeded(&cluster);
    }
}

#[test]
fn two_actives_that_do_not_hear_each_other_do_no_harm() {
    for seed in 1..=2 {
        let mut cluster = settled(Options { seed, clients: 2, ..Options::default() });
        let first = cluster.actives()[0];
        cluster.cables[first].blocked = Some(HEARTBEAT);
        cluster.run_for(100 * MS);
        assert_eq!(cluster.actives().len(), 2);
        load(&mut cluster, 500, MS, Plan { requests: 10, think: 5 * MS, ..Plan::default() });
        cluster.run_for(Duration::from_secs(2));
        no_violation(&cluster);
        all_succeeded(&cluster);
        assert_eq!(stories(&cluster).filter(|story| story.broke()).count(), 0);
        assert!(stories(&cluster).all(|story| story.syn_retransmits == 0));
        assert_eq!((cluster.checks.seen.resets, cluster.checks.seen.ambiguous), (0, 0));
        let both: Vec<u64> = cluster.actives().iter().map(|&member| cluster.members[member].server.accepted).collect();
        assert!(both.iter().all(|&accepted| accepted > 100), "{both:?}");
        // The losers' half-open sockets are cleared, not left to fill the queue.
        for member in 0..3 {
            let requests = cluster.members[member].kernel.listener(PORT).unwrap().requests();
            assert_eq!(requests, 0, "half-open sockets left on s{}", member + 1);
        }
    }
}

#[test]
fn bulk_transfers_arrive_intact_in_both_directions() {
    let size = 2_000_000;
    let bad = Cable { loss: 0.01, duplicated: 0.01, held_up: 0.02, ..Cable::default() };
    for cable in [Cable::default(), bad] {
        let mut cluster = settled(Options::default());
        cluster.cables.fill(cable);
        cluster.connect(0, Plan { upload: size, ..Plan::default() });
        cluster.connect(0, Plan { download: size, stamped: false, ..Plan::default() });
        let done = cluster.run_while(Duration::from_secs(300), |cluster| !stories(cluster).all(Story::succeeded));
        no_violation(&cluster);
        assert!(done, "{:?}", stories(&cluster).collect::<Vec<_>>());
    }
}

/// What the old member still has of a connection whose port is used again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lingering {
    /// An established connection whose client is gone.
    Established,
    /// The server closed first.
    TimeWait,
    /// The server has closed, the client was gone by then.
    FinWait1,
    /// A handshake that the client never completed.
    HalfOpen,
    /// Data on its way to the client, again and again.
    Sending,
}

fn linger(cluster: &mut Cluster, port: u16, lingering: Lingering, stamped: bool) {
    let plan = match lingering {
        Lingering::TimeWait => Plan { finish: Finish::Server, stamped, ..Plan::default() },
        _ => Plan { finish: Finish::Stay, stamped, ..Plan::default() },
    };
    match lingering {
        Lingering::HalfOpen => {
            // The SYN-ACK never arrives.
            cluster.client_cable(0).outward = false;
            cluster.connect_from(0, port, plan);
            cluster.run_for(20 * MS);
        }
        Lingering::Established | Lingering::TimeWait => {
            cluster.connect_from(0, port, plan);
            cluster.run_for(100 * MS);
        }
        Lingering::FinWait1 | Lingering::Sending => {
            let flow = cluster.connect_from(0, port, plan);
            cluster.run_for(50 * MS);
            cluster.client_cable(0).outward = false;
            let (active, now) = (cluster.actives()[0], cluster.now);
            let machine = &mut cluster.members[active];
            if lingering == Lingering::FinWait1 {
                machine.kernel.close(flow.reversed(), now);
            } else {
                machine.kernel.send(flow.reversed(), &[7; 3000], now);
            }
            cluster.host(active);
            cluster.run_for(10 * MS);
        }
    }
    // The client has forgotten all about it: it restarted.
    let flow = *cluster.clients[0].stories.keys().next().unwrap();
    cluster.clients[0].kernel.forget(flow);
    cluster.client_cable(0).outward = true;
}

#[test]
fn a_port_used_again_is_served_whatever_lingers_of_its_old_connection() {
    use Lingering::*;
    for lingering in [Established, TimeWait, FinWait1, HalfOpen, Sending] {
        for (stamped, moved, seed) in [(true, true, 1), (false, true, 2), (true, false, 3), (false, false, 4)] {
            let mut cluster = settled(Options { seed, ..Options::default() });
            let old = cluster.actives()[0];
            // So that the host knows where the client is.
            cluster.connect(0, Plan::default());
            cluster.run_for(50 * MS);
            cluster.clients[0].stories.clear();
            linger(&mut cluster, 5000, lingering, stamped);
            if moved {
                cluster.tell((old + 1) % 3, Event::Activate { vip: 0 });
                cluster.run_for(50 * MS);
                assert_ne!(cluster.actives(), [old]);
            }
            let again = Plan { requests: 3, think: 300 * MS, stamped, ..Plan::default() };
            let flow = cluster.connect_from(0, 5000, again);
            cluster.run_for(Duration::from_secs(8));
            no_violation(&cluster);
            let story = &cluster.clients[0].stories[&flow];
            let told = || format!("{lingering:?} {stamped} {moved}: {story:?}\n{}", cluster.trace.tell(Some(flow)));
            assert!(story.succeeded(), "{}", told());
            if moved {
                assert_eq!(story.served_by, Some(((old + 1) % 3) as u8));
                if matches!(lingering, Established | TimeWait | HalfOpen) {
                    assert_eq!((cluster.checks.seen.old_segments, story.syn_retransmits), (0, 0), "{}", told());
                    assert_eq!(cluster.checks.seen.resets, 0, "{}", told());
                }
                let kernel = &cluster.members[old].kernel;
                assert_eq!(kernel.query(flow.reversed()).filter(|kind| *kind != Kind::HalfOpen), None, "{}", told());
            }
        }
    }
}

/// A second of spoofed SYNs, honest handshakes from far away, and one long connection from near. Returns how many of the
/// handshakes from far away succeeded, and how many of them had to repeat their SYN.
fn flooded(plain: bool, rate: u32) -> (usize, usize) {
    let mut cluster = Cluster::new(Options {
        plain,
        members: if plain { 1 } else { 3 },
        clients: 2,
        strangers: 1,
        elected: !plain,
        ..Options::default()
    })
    .unwrap();
    cluster.make_gateway(0);
    cluster.run_for(200 * MS);
    let near = cluster.connect(0, Plan { requests: 100, think: 20 * MS, ..Plan::default() });
    cluster.client_cable(1).delay = 50 * MS;
    // Who is where: before the flood.
    cluster.connect(1, Plan::default());
    cluster.run_for(1000 * MS);
    let between = Duration::from_secs(1) / rate;
    let mut fullest = 0;
    for number in 0..rate {
        let spoofed = TcpFrame {
            to: if plain { Options::member_mac(0) } else { Options::virtual_mac(0) },
            from: Options::stranger_mac(0),
            source: (Ipv4Addr::from_bits(0x0b00_0000 + number), 1024 + (number % 50_000) as u16),
            destination: (*cluster.service().ip(), cluster.service().port()),
            flags: Flags::SYN,
            seq: number.wrapping_mul(0x9e37_79b1),
            ..TcpFrame::default()
        };
        cluster.inject(0, &tcp_frame(&spoofed));
        if number % (rate / 100) == 0 {
            cluster.connect(1, Plan::default());
        }
        cluster.run_for(between);
        let listeners = cluster.members.iter().filter_map(|machine| machine.kernel.listener(PORT));
        fullest = listeners.map(|listener| listener.requests()).fold(fullest, usize::max);
    }
    cluster.run_for(2000 * MS);
    no_violation(&cluster);
    let story = &cluster.clients[0].stories[&near];
    assert!(story.succeeded() && cluster.members.iter().all(|machine| machine.server.open() == 0), "{story:?}");
    if !plain {
        let active = cluster.actives()[0];
        assert!(dropped(&cluster, active, DropReason::TableFull) == 0);
        // Cookies were needed; and half-open sockets whose records the flood has pushed out do not stay.
        assert_eq!(fullest, cluster.options.backlog);
        assert!(cluster.members[active].kernel.listener(PORT).unwrap().requests() < fullest);
    }
    let far = cluster.clients[1].stories.values();
    (far.clone().filter(|story| story.succeeded()).count(), far.filter(|story| story.syn_retransmits > 0).count())
}

#[test]
fn a_flood_of_spoofed_syns_costs_honest_handshakes_nothing() {
    let (with, without) = (flooded(false, 10_000), flooded(true, 10_000));
    assert_eq!(without.0, 101);
    assert!(with.0 >= without.0 && with.1 <= without.1, "with {with:?}, without {without:?}");
}

fn heartbeats(cluster: &Cluster, member: usize) -> baton::control::Counters {
    let daemon = cluster.members[member].daemon.as_ref().unwrap();
    daemon.shell.control.as_ref().unwrap().view(cluster.now).heartbeats
}

fn terms(cluster: &Cluster) -> Vec<(u64, Vec<String>)> {
    let view = |member: usize| {
        let daemon = cluster.members[member].daemon.as_ref().unwrap();
        daemon.shell.control.as_ref().unwrap().view(cluster.now).vips[0].clone()
    };
    (0..cluster.members.len()).map(view).map(|vip| (vip.term, vip.actives)).collect()
}

#[test]
fn forged_and_recorded_heartbeats_change_nothing() {
    let mut cluster = settled(Options { strangers: 1, ..Options::default() });
    cluster.strangers[0].keeps = Some(HEARTBEAT);
    cluster.run_for(500 * MS);
    let recorded = cluster.strangers[0].kept.clone();
    assert!(recorded.len() > 100);
    let before = terms(&cluster);
    for frame in &recorded {
        let mut forged = frame.to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        cluster.inject(0, &forged);
        cluster.inject(0, frame);
        cluster.run_for(MS);
    }
    assert_eq!(terms(&cluster), before);
    let of_others = recorded.iter().filter(|frame| frame[6..12] != Options::member_mac(0).0).count() as u64;
    let counted = heartbeats(&cluster, 0);
    assert_eq!((counted.wrong_key, counted.replayed), (of_others, of_others));
    // All members start anew; what was recorded before is worthless.
    for member in 0..3 {
        cluster.kill(member);
        cluster.start(member).unwrap();
    }
    cluster.run_for(500 * MS);
    let before = terms(&cluster);
    for frame in &recorded {
        cluster.inject(0, frame);
        cluster.run_for(MS);
    }
    assert_eq!(terms(&cluster), before);
    no_violation(&cluster);
    let counted = heartbeats(&cluster, 0);
    assert!(counted.replayed + counted.old_incarnation > 0, "{counted:?}");
}

#[test]
fn a_second_node_of_a_name_changes_nothing() {
    let mut cluster = settled(Options { strangers: 1, ..Options::default() });
    cluster.strangers[0].keeps = Some(HEARTBEAT);
    let before = terms(&cluster);
    let mut settings = cluster.options.settings(0);
    settings.source = Options::stranger_mac(0);
    let identity = Identity { boot_id: [9; 16], incarnation: 99, nonce: 77 };
    let mut double = Control::new(settings, identity, cluster.now);
    let mut actions = Vec::new();
    double.step(Event::Ready, cluster.now, &mut actions);
    for _ in 0..1000 {
        for frame in std::mem::take(&mut cluster.strangers[0].kept) {
            double.step(Event::Frame(&frame), cluster.now, &mut actions);
        }
        double.step(Event::Tick, cluster.now, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Send(frame) => cluster.inject(0, frame.bytes()),
                Action::SetRole { role, .. } => assert!(!role.active, "the double became active"),
                _ => {}
            }
        }
        cluster.run_for(MS);
    }
    assert_eq!(terms(&cluster), before);
    assert!((1..3).all(|member| heartbeats(&cluster, member).duplicate_name > 0));
}

/// Handovers, two actives at times, ports used again, and a network that loses, doubles and overtakes.
fn chaos(seed: u64) -> Cluster {
    let mut random = Random::new(seed);
    let cable = Cable {
        loss: random.below(3) as f64 * 0.01,
        duplicated: random.below(3) as f64 * 0.01,
        held_up: random.below(3) as f64 * 0.02,
        hold: 3 * MS,
        ..Cable::default()
    };
    let mut cluster = settled(Options { seed, clients: 2, missed: 10, ..Options::default() });
    cluster.cables.fill(cable);
    for _ in 0..150 {
        let plan = Plan {
            requests: 1 + random.below(5) as u32,
            upload: random.below(3000) as usize,
            download: random.below(6000) as usize,
            think: random.up_to(200 * MS),
            finish: [Finish::Client, Finish::Server, Finish::Abort, Finish::Stay][random.below(4) as usize],
            stamped: random.chance(0.7),
            ..Plan::default()
        };
        let client = random.below(2) as usize;
        match random.below(12) {
            0 => {
                let member = random.below(3) as usize;
                cluster.tell(member, Event::Activate { vip: 0 });
            }
            1 => {
                let member = random.below(3) as usize;
                let blocked = cluster.cables[member].blocked;
                cluster.cables[member].blocked = if blocked.is_some() { None } else { Some(HEARTBEAT) };
            }
            2..=5 => drop(cluster.connect_from(client, 5000 + random.below(20) as u16, plan)),
            _ => drop(cluster.connect(client, plan)),
        }
        cluster.run_for(random.up_to(30 * MS));
    }
    cluster.run_for(Duration::from_secs(30));
    cluster
}

#[test]
fn no_seed_breaks_a_rule() {
    for seed in 1..=10 {
        let cluster = chaos(seed);
        println!("seed {seed}: {:?}", cluster.checks.seen);
        no_violation(&cluster);
        // A connection that goes on to its end, not one whose port another took over.
        all_succeeded(&cluster);
    }
}

#[test]
fn a_seed_repeats_itself() {
    let run = |seed| {
        let cluster = chaos(seed);
        (cluster.trace.tell(None), format!("{:?}", stories(&cluster).collect::<Vec<_>>()))
    };
    assert!(run(7) == run(7));
    assert!(run(7) != run(8));
}

#[test]
fn a_connection_that_the_service_has_reset_is_forgotten() {
    let mut cluster = settled(Options::default());
    let active = cluster.actives()[0];
    load(&mut cluster, 20, MS, Plan { finish: Finish::ServerAbort, ..Plan::default() });
    cluster.run_for(50 * MS);
    no_violation(&cluster);
    assert_eq!(cluster.members[active].server.served, 20);
    // A socket closed so is announced without its client's address: the RST itself must have told.
    assert_eq!(cluster.members[active].daemon.as_ref().unwrap().member.established.len(), 0);
}

#[test]
fn a_rolling_upgrade_has_members_of_several_versions_side_by_side() {
    // Each start brings another minor version of the heartbeats, and before the first three are there at once.
    let mut cluster = settled(Options { versions: true, clients: 2, ..Options::default() });
    let long = Plan { requests: 60, think: 100 * MS, ..Plan::default() };
    for member in 0..3 {
        cluster.tell(member, Event::Activate { vip: 0 });
        cluster.run_for(50 * MS);
        assert_eq!(cluster.actives(), [member]);
        load(&mut cluster, 20, MS, long);
    }
    for member in [0, 1, 2, 0, 1, 2, 0, 1, 2] {
        cluster.tell(member, Event::Activate { vip: 0 });
        cluster.run_for(50 * MS);
        assert_eq!(cluster.actives(), [member]);
        cluster.tell(member, Event::Leave { returning: true });
        cluster.run_for(100 * MS);
        assert!(!cluster.role(member, 0).active && cluster.actives().len() == 1, "it hands over");
        cluster.kill(member);
        load(&mut cluster, 100, MS, Plan::default());
        cluster.start(member).unwrap();
        cluster.run_for(150 * MS);
        let dialects: Vec<_> = (0..3).map(|m| cluster.options.dialect(m, cluster.members[m].incarnation)).collect();
        for other in 0..3 {
            let seen = heartbeats(&cluster, other);
            assert_eq!((seen.malformed, seen.wrong_key, seen.other_version), (0, 0, 0), "{dialects:?}");
        }
        assert!(terms(&cluster).windows(2).all(|pair| pair[0] == pair[1]), "{dialects:?}: {:?}", terms(&cluster));
    }
    cluster.run_for(Duration::from_secs(5));
    no_violation(&cluster);
    all_succeeded(&cluster);
    assert!(stories(&cluster).all(|story| story.syn_retransmits == 0));
}

#[test]
fn a_restart_loses_no_connection_and_a_reboot_all_of_the_machine() {
    let mut cluster = settled(Options::default());
    let active = cluster.actives()[0];
    load(&mut cluster, 20, MS, Plan { requests: 30, think: 100 * MS, ..Plan::default() });
    cluster.kill(active);
    cluster.run_for(500 * MS);
    cluster.start(active).unwrap();
    assert_eq!(cluster.members[active].daemon.as_ref().unwrap().member.established.len(), 20);
    cluster.run_for(Duration::from_secs(8));
    no_violation(&cluster);
    all_succeeded(&cluster);

    let flow = cluster.connect(0, Plan { requests: 30, think: 100 * MS, ..Plan::default() });
    cluster.run_for(500 * MS);
    let active = cluster.actives()[0];
    cluster.reboot(active);
    cluster.start(active).unwrap();
    assert_eq!(cluster.members[active].kernel.query(flow.reversed()), None);
    assert_eq!(cluster.members[active].daemon.as_ref().unwrap().member.established.len(), 0);
}
