//! Pauses, hung workers, differing settings, and all of it at random.

use std::time::Duration;

use super::harness::{Cluster, Options, Random};
use crate::control::heartbeat::dialect::Dialect;
use crate::control::{Event, PeerState, Report, Warning};

const MS: Duration = Duration::from_millis(1);

#[test]
fn an_active_that_was_stopped_falls_in_line_at_once() {
    for seed in 0..50 {
        let mut cluster = Cluster::settled(Options { seed, ..Options::default() });
        cluster.pause(0);
        cluster.run(Duration::from_secs(5));
        assert_eq!(cluster.serving(0), [0, 1], "it could not step down");
        cluster.resume(0);
        cluster.run(MS);
        assert_eq!((cluster.active(0), cluster.disagreement()), (1, None));
        cluster.run(Duration::from_secs(1));
        assert_eq!(cluster.assignment(0, 0).unwrap().term, 2, "and disturbs nobody");
        assert!(cluster.nodes[0].reports.iter().any(|(_, report)| matches!(report, Report::Paused { .. })));
    }
}

#[test]
fn a_passive_that_was_stopped_believes_nobody_dead() {
    for seed in 0..50 {
        let mut cluster = Cluster::settled(Options { seed, ..Options::default() });
        cluster.pause(2);
        let away = cluster.random.below(3000);
        cluster.run(Duration::from_millis(away));
        cluster.resume(2);
        cluster.run(200 * MS);
        assert_eq!(cluster.assignment(0, 0).unwrap().term, 1);
        let dead = |report: &Report| matches!(report, Report::PeerDead { .. });
        assert!(!cluster.nodes[2].reports.iter().any(|(_, report)| dead(report)));
        assert_eq!(cluster.peer_state(0, 2), Some(PeerState::Alive));
    }
}

#[test]
fn old_news_in_the_inbox_of_a_member_that_wakes_is_not_acted_on() {
    for seed in 0..20 {
        let mut cluster = Cluster::settled(Options { seed, ..Options::default() });
        cluster.event(2, Event::Activate { vip: 0 });
        cluster.run(100 * MS);
        cluster.pause(0);
        cluster.event(2, Event::Leave { returning: false });
        cluster.run(Duration::from_secs(1));
        let term = cluster.term(0);
        assert_eq!(cluster.serving(0), [1]);
        cluster.resume(0);
        cluster.run(100 * MS);
        assert_eq!((cluster.active(0), cluster.term(0)), (1, term), "the goodbye was long ago");
    }
}

#[test]
fn a_member_that_wakes_before_its_inbox_is_read_waits_for_it() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.pause(2);
    cluster.run(200 * MS);
    for _ in 0..10 {
        cluster.event(2, Event::Tick);
    }
    assert!(cluster.view(2).peers.iter().all(|peer| peer.state.lives()), "{:?}", cluster.view(2).peers);
}

#[test]
fn what_was_slept_through_is_no_silence() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.pause(2);
    cluster.partition(&[2]);
    cluster.run(200 * MS);
    // It wakes, and its inbox stays empty for more than the heartbeat that it waits in any case.
    cluster.event(2, Event::Tick);
    cluster.run(11 * MS);
    cluster.event(2, Event::Tick);
    assert!(cluster.view(2).peers.iter().all(|peer| peer.state.lives()), "{:?}", cluster.view(2).peers);
}

#[test]
fn with_one_missed_heartbeat_a_member_that_wakes_listens_first_too() {
    let mut cluster = Cluster::settled(Options { missed: 1, ..Options::default() });
    cluster.run(9 * MS);
    cluster.pause(2);
    cluster.run(200 * MS);
    cluster.event(2, Event::Tick);
    cluster.resume(2);
    let dead = |report: &Report| matches!(report, Report::PeerDead { .. });
    assert!(!cluster.nodes[2].reports.iter().any(|(_, report)| dead(report)));
}

#[test]
fn a_member_that_is_always_late_still_notices_a_death() {
    let mut cluster = Cluster::settled(Options { members: 2, ..Options::default() });
    cluster.kill(0);
    cluster.pause(1);
    for _ in 0..12 {
        cluster.run(25 * MS);
        cluster.resume(1);
        cluster.event(1, Event::Tick);
        cluster.pause(1);
    }
    assert_eq!(cluster.serving(0), [1]);
}

#[test]
fn hung_workers_stop_the_heartbeats() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.event(0, Event::WorkersAlive(false));
    let sent = cluster.nodes[0].sent.len();
    cluster.run(200 * MS);
    assert_eq!(cluster.nodes[0].sent.len(), sent);
    assert_eq!(cluster.serving(0), [0, 1]);
    cluster.event(0, Event::WorkersAlive(true));
    cluster.run(2 * MS);
    assert_eq!((cluster.active(0), cluster.disagreement()), (1, None));
}

#[test]
fn silence_while_our_own_workers_hang_kills_nobody() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.event(2, Event::WorkersAlive(false));
    cluster.partition(&[2]);
    cluster.run(500 * MS);
    cluster.heal();
    cluster.event(2, Event::WorkersAlive(true));
    cluster.run(50 * MS);
    assert_eq!(cluster.assignment(2, 0).unwrap().term, 1);
    assert_eq!(cluster.disagreement(), None);
}

#[test]
fn clocks_may_differ() {
    let mut cluster = Cluster::new(Options::default());
    for index in 0..3 {
        cluster.nodes[index].skew = Duration::from_secs(100_000 * index as u64);
        cluster.start(index);
    }
    cluster.run(300 * MS);
    assert_eq!((cluster.active(0), cluster.disagreement()), (0, None));
    cluster.kill(0);
    cluster.run(cluster.convergence());
    assert_eq!((cluster.active(0), cluster.disagreement()), (1, None));
}

#[test]
fn time_that_runs_backwards_does_no_harm() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.nodes[1].skew = Duration::from_secs(5);
    cluster.run(100 * MS);
    cluster.nodes[1].skew = Duration::from_secs(4);
    cluster.run(2000 * MS);
    cluster.nodes[1].skew = Duration::from_secs(5);
    cluster.run(100 * MS);
    assert_eq!(cluster.disagreement(), None);
}

#[test]
fn a_member_with_another_configuration_is_reported_and_heard() {
    let mut cluster = Cluster::new(Options::default());
    cluster.nodes[1].settings.config_hash = [1; 16];
    (0..3).for_each(|index| cluster.start(index));
    cluster.run(300 * MS);
    let name = cluster.nodes[1].settings.name;
    assert!(cluster.warns(0, &Warning::ConfigDrift(name)));
    assert!(cluster.view(2).peers.iter().any(|peer| peer.name == name && peer.config_drift));
    let told = |report: &Report| *report == Report::ConfigDrift { name };
    assert_eq!(cluster.nodes[0].reports.iter().filter(|(_, report)| told(report)).count(), 1);
    assert_eq!(cluster.disagreement(), None);
}

#[test]
fn members_that_differ_in_the_number_of_actives_do_not_fight() {
    let mut cluster = Cluster::new(Options::default());
    cluster.nodes[1].settings.vips[0].actives = 2;
    (0..3).for_each(|index| cluster.start(index));
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.assignment(0, 0).unwrap().term, 1);
    cluster.event(1, Event::Activate { vip: 0 });
    cluster.run(Duration::from_secs(2));
    assert!(cluster.assignment(0, 0).unwrap().term <= 4);
    assert_eq!(cluster.disagreement(), None);
}

#[test]
fn members_that_list_vips_in_another_order_agree() {
    let mut cluster = Cluster::new(Options { vips: 3, ..Options::default() });
    cluster.nodes[1].settings.vips.reverse();
    (0..3).for_each(|index| cluster.start(index));
    cluster.run(300 * MS);
    let of = |index: usize, vip: usize| cluster.assignment(index, vip).unwrap().clone();
    assert_eq!(of(0, 0), of(1, 2));
    assert_eq!(of(0, 2), of(1, 0));
}

/// Workers of these members stand still for `length`; their control threads go on, and see it after a while. Returns by how
/// much the term has grown when all is over.
fn stalled(seed: u64, members: &[usize], length: Duration) -> (Cluster, u64) {
    let mut cluster = Cluster::new(Options { seed, ..Options::default() });
    (0..3).for_each(|index| cluster.start(index));
    cluster.run(500 * MS + Duration::from_micros(seed * 700));
    let term = cluster.term(0);
    members.iter().for_each(|&index| cluster.stall(index));
    let noticed = Duration::from_millis(12).min(length);
    cluster.run(noticed);
    if noticed < length {
        members.iter().for_each(|&index| cluster.event(index, Event::Hearing(false)));
    }
    cluster.run(length - noticed);
    members.iter().for_each(|&index| cluster.unstall(index));
    cluster.run(300 * MS);
    assert_eq!(cluster.disagreement(), None);
    let grown = cluster.term(0) - term;
    (cluster, grown)
}

#[test]
fn whose_own_worker_stands_still_takes_nobody_for_dead() {
    let dead = |report: &Report| matches!(report, Report::PeerDead { .. });
    for seed in 0..15 {
        for length in [10, 20, 40, 70] {
            // A core of all of them: nobody has heard anybody, and nobody is at fault.
            let (cluster, grown) = stalled(seed, &[0, 1, 2], length * MS);
            assert_eq!(grown, 0, "for {length} ms, seed {seed}");
            assert!(!cluster.nodes.iter().any(|node| node.reports.iter().any(|(_, report)| dead(report))));
            // One: for the others it may be dead, for itself nobody is.
            for index in 0..3 {
                let (cluster, grown) = stalled(seed, &[index], length * MS);
                assert!(grown <= 1, "for {length} ms, seed {seed}: {grown} terms");
                assert!(
                    !cluster.nodes[index].reports.iter().any(|(_, report)| dead(report)),
                    "{length} ms, seed {seed}"
                );
            }
        }
    }
}

#[test]
fn whose_worker_stands_still_again_and_again_still_notices_a_death() {
    let mut cluster = Cluster::new(Options::default());
    (0..3).for_each(|index| cluster.start(index));
    cluster.run(500 * MS);
    let (victim, other) = (cluster.active(0), (cluster.active(0) + 1) % 3);
    cluster.kill((victim + 2) % 3);
    cluster.run(200 * MS);
    cluster.kill(victim);
    for _ in 0..20 {
        cluster.stall(other);
        cluster.run(12 * MS);
        cluster.event(other, Event::Hearing(false));
        cluster.run(8 * MS);
        cluster.unstall(other);
        cluster.run(5 * MS);
    }
    assert_eq!(cluster.serving(0), [other]);
}

#[test]
fn a_slower_member_is_judged_by_its_own_interval() {
    let mut cluster = Cluster::new(Options::default());
    cluster.nodes[0].settings.heartbeat = 100 * MS;
    (0..3).for_each(|index| cluster.start(index));
    cluster.run(Duration::from_secs(5));
    let dead = |report: &Report| matches!(report, Report::PeerDead { .. });
    assert!(!cluster.nodes.iter().any(|node| node.reports.iter().any(|(_, report)| dead(report))));
}

#[test]
fn a_member_of_another_minor_version_takes_part() {
    for (other, &dialect) in (0..3).flat_map(|index| Dialect::ALL.iter().map(move |dialect| (index, dialect))) {
        let mut cluster = Cluster::new(Options { vips: 2, ..Options::default() });
        cluster.nodes[other].dialect = dialect;
        (0..3).for_each(|index| cluster.start(index));
        cluster.run(300 * MS);
        assert_eq!(cluster.disagreement(), None);
        cluster.reset_watch();
        cluster.event(other, Event::Activate { vip: 0 });
        cluster.run(5 * MS);
        assert_eq!((cluster.active(0), cluster.fewest, cluster.disagreement()), (other, 1, None));
        cluster.event(other, Event::Leave { returning: true });
        cluster.run(30 * MS);
        assert_eq!((cluster.serving(0).len(), cluster.fewest, cluster.disagreement()), (1, 1, None));
        for index in (0..3).filter(|&index| index != other) {
            let heartbeats = cluster.view(index).heartbeats;
            assert_eq!((heartbeats.malformed, heartbeats.other_version), (0, 0));
        }
    }
}

#[test]
fn two_members_on_one_kernel_are_warned_of() {
    let mut cluster = Cluster::new(Options { members: 2, ..Options::default() });
    cluster.nodes[1].settings = cluster.nodes[1].settings.clone();
    cluster.share_boot(0, 1);
    (0..2).for_each(|index| cluster.start(index));
    cluster.run(300 * MS);
    assert!(cluster.warns(0, &Warning::SharedBootId(cluster.nodes[1].settings.name)));
}

/// One fault, of any kind that a cluster must bear.
fn fault(cluster: &mut Cluster, random: &mut Random) {
    let members = cluster.nodes.len() as u64;
    let index = random.below(members) as usize;
    let other = random.below(members) as usize;
    let vip = random.below(cluster.options.vips as u64) as u8;
    match random.below(14) {
        0 => cluster.kill(index),
        1 | 2 if cluster.nodes[index].control.is_none() => cluster.start(index),
        3 => cluster.pause(index),
        4 => cluster.resume(index),
        5 => cluster.set_link(index, other, false),
        6 => drop(cluster.cut.insert((index, other))),
        7 => cluster.heal(),
        8 => cluster.partition(&[index, other]),
        9 => cluster.loss = random.below(50) as f64 / 100.0,
        10 => cluster.duplication = random.below(50) as f64 / 100.0,
        11 if cluster.is_running(index) => cluster.event(index, Event::Activate { vip }),
        12 if cluster.is_running(index) => cluster.event(index, Event::Drain { vip: None }),
        13 if cluster.is_running(index) => cluster.event(index, Event::Undrain { vip: None }),
        _ => cluster.event_if_running(index, Event::Metric(random.below(5) as f64)),
    }
}

#[test]
fn after_the_last_fault_roles_converge_within_detection_and_two_heartbeats() {
    for seed in 0..300 {
        let mut random = Random(seed * 7919 + 1);
        let options = Options {
            members: 2 + random.below(5) as usize,
            vips: 1 + random.below(3) as usize,
            actives: 1 + random.below(2) as u8,
            seed,
            ..Options::default()
        };
        let mut cluster = Cluster::settled(options);
        for _ in 0..20 {
            fault(&mut cluster, &mut random);
            cluster.run(Duration::from_micros(random.below(120_000)));
        }
        // A member needs its discovery before it counts.
        let members = cluster.nodes.len();
        for index in 0..members {
            if cluster.nodes[index].control.is_none() {
                cluster.start(index);
            }
        }
        cluster.run(100 * MS);
        // The last faults: a death, a pause that ends, links that come back.
        let victim = random.below(members as u64) as usize;
        if random.chance(0.5) {
            cluster.kill(victim);
        }
        (cluster.loss, cluster.duplication) = (0.0, 0.0);
        cluster.heal();
        (0..members).for_each(|index| cluster.resume(index));
        cluster.run(cluster.convergence() + MS);
        assert_eq!(cluster.disagreement(), None, "seed {seed}");
        check_actives(&cluster, seed);
        let terms: Vec<_> = (0..cluster.options.vips).map(|vip| cluster.term(vip)).collect();
        cluster.run(500 * MS);
        assert_eq!(cluster.disagreement(), None, "seed {seed}");
        assert_eq!(terms, (0..cluster.options.vips).map(|vip| cluster.term(vip)).collect::<Vec<_>>(), "seed {seed}");
    }
}

/// As many members serve as can and should.
fn check_actives(cluster: &Cluster, seed: u64) {
    let running = (0..cluster.nodes.len()).filter(|&index| cluster.is_running(index));
    let fit = running.filter(|&index| !cluster.view(index).draining).count();
    for vip in 0..cluster.options.vips {
        let serving = cluster.serving(vip).len();
        let wanted = fit.min(cluster.options.actives.into());
        assert!(serving == wanted || wanted == 0, "seed {seed}, VIP {vip}: {serving} serve of {wanted}");
    }
}

#[test]
fn a_member_that_turns_deaf_is_not_obeyed_whomever_it_heard_last() {
    for members in [3, 5, 16] {
        for phase in 1..10 {
            let mut cluster = Cluster::new(Options { members, ..Options::default() });
            for index in 0..members {
                cluster.start(index);
                cluster.run(phase * MS);
            }
            cluster.run(300 * MS);
            let deaf = members - 1;
            assert_eq!((cluster.active(0), cluster.term(0)), (0, 1));
            cluster.cut.extend((0..deaf).map(|other| (other, deaf)));
            cluster.run(100 * MS);
            assert!(cluster.nodes[deaf].roles[0].active, "it takes all others for dead");
            for other in 0..deaf {
                assert_eq!(cluster.assignment(other, 0).unwrap().term, 1, "of {members}, {phase} ms apart");
            }
        }
    }
}
