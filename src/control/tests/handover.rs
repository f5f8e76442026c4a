//! Roles that move because somebody wants them to: no moment without an active.

use std::time::Duration;

use super::harness::{Cluster, Options};
use crate::config::checked::Rebalance;
use crate::control::{CannotActivate, Event, PeerState, Report};

const MS: Duration = Duration::from_millis(1);

fn refusal(cluster: &mut Cluster, index: usize) -> Option<CannotActivate> {
    let before = cluster.nodes[index].reports.len();
    cluster.event(index, Event::Activate { vip: 0 });
    cluster.nodes[index].reports[before..].iter().find_map(|(_, report)| match report {
        Report::ActivateRefused { why, .. } => Some(*why),
        _ => None,
    })
}

#[test]
fn a_planned_handover_takes_one_message_and_leaves_no_gap() {
    for seed in 0..50 {
        let mut cluster = Cluster::settled(Options { seed, ..Options::default() });
        cluster.reset_watch();
        assert_eq!(refusal(&mut cluster, 2), None);
        assert!(cluster.nodes[2].roles[0].active, "at once");
        cluster.run(MS);
        assert_eq!(cluster.active(0), 2);
        assert_eq!((cluster.fewest, cluster.most), (1, 2));
        assert_eq!(cluster.disagreement(), None);
    }
}

#[test]
fn twenty_handovers_a_second_leave_no_gap() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.loss = 0.05;
    cluster.reset_watch();
    for turn in 0..200 {
        cluster.event((turn + 1) % 3, Event::Activate { vip: 0 });
        cluster.run(50 * MS);
    }
    assert_eq!((cluster.fewest, cluster.most), (1, 2));
    cluster.run(cluster.convergence());
    assert_eq!((cluster.active(0), cluster.disagreement()), (2, None));
}

#[test]
fn activate_is_refused_with_a_reason() {
    let mut cluster = Cluster::settled(Options { probed: true, ..Options::default() });
    assert_eq!(refusal(&mut cluster, 2), Some(CannotActivate::Unhealthy));
    for index in 0..3 {
        cluster.event(index, Event::Health { vip: 0, healthy: true });
    }
    cluster.run(50 * MS);
    assert_eq!(refusal(&mut cluster, 0), Some(CannotActivate::AlreadyActive));
    cluster.event(2, Event::Drain { vip: Some(0) });
    assert_eq!(refusal(&mut cluster, 2), Some(CannotActivate::Draining));
    cluster.kill(1);
    cluster.start_unready(1);
    cluster.event(1, Event::Health { vip: 0, healthy: true });
    assert_eq!(refusal(&mut cluster, 1), Some(CannotActivate::NotReady));
    cluster.event(2, Event::Leave { returning: false });
    assert_eq!(refusal(&mut cluster, 2), Some(CannotActivate::Leaving));
    assert_eq!(cluster.active(0), 0);
}

#[test]
fn activate_with_two_actives_replaces_the_worse() {
    let mut cluster = Cluster::settled(Options { members: 4, actives: 2, ..Options::default() });
    for (index, metric) in [9.0, 5.0, 1.0, 1.0].into_iter().enumerate() {
        cluster.event(index, Event::Metric(metric));
    }
    cluster.run(50 * MS);
    cluster.reset_watch();
    assert_eq!(refusal(&mut cluster, 3), None);
    cluster.run(20 * MS);
    assert_eq!((cluster.serving(0), cluster.fewest), (vec![1, 3], 2));
    assert!(cluster.nodes[3].roles[0].primary(), "it takes the rank of the one it replaces");
}

#[test]
fn a_drained_active_hands_over_without_a_gap() {
    for seed in 0..50 {
        let mut cluster = Cluster::settled(Options { seed, ..Options::default() });
        cluster.reset_watch();
        cluster.event(0, Event::Drain { vip: None });
        assert_eq!(cluster.serving(0), [0], "it serves until the other says so");
        cluster.run(2 * MS);
        assert_eq!((cluster.active(0), cluster.fewest), (1, 1));
        assert!(!cluster.view(0).vips[0].handing_over && cluster.view(0).draining);
        cluster.event(0, Event::Undrain { vip: None });
        cluster.run(100 * MS);
        assert_eq!(cluster.active(0), 1, "the incumbent stays");
    }
}

#[test]
fn a_drain_survives_the_loss_of_its_messages() {
    for seed in 0..50 {
        let mut cluster = Cluster::settled(Options { seed, ..Options::default() });
        cluster.loss = 0.5;
        cluster.reset_watch();
        cluster.event(0, Event::Drain { vip: Some(0) });
        cluster.run(15 * MS);
        cluster.loss = 0.0;
        cluster.run(cluster.convergence());
        assert_eq!((cluster.active(0), cluster.fewest), (1, 1), "seed {seed}");
    }
}

#[test]
fn a_successor_that_dies_before_it_serves_is_replaced() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.reset_watch();
    cluster.kill(1);
    cluster.event(0, Event::Drain { vip: None });
    cluster.run(2 * MS);
    assert_eq!(cluster.serving(0), [0], "waiting for the dead one");
    cluster.run(cluster.convergence() + 10 * MS);
    assert_eq!((cluster.active(0), cluster.fewest), (2, 1));
}

#[test]
fn when_all_are_drained_the_last_active_stays_and_says_so() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.reset_watch();
    for index in [1, 2, 0] {
        cluster.event(index, Event::Drain { vip: None });
        cluster.run(MS);
    }
    cluster.run(500 * MS);
    assert_eq!((cluster.active(0), cluster.fewest, cluster.most), (0, 1, 1));
    let told = cluster.nodes[0].reports.iter().filter(|(_, report)| matches!(report, Report::NoSuccessor { .. }));
    assert_eq!(told.count(), 1);
    cluster.event(2, Event::Undrain { vip: None });
    cluster.run(5 * MS);
    assert_eq!((cluster.active(0), cluster.fewest), (2, 1), "it is given away as soon as it can be");
}

#[test]
fn an_unhealthy_active_gives_up_at_once_unless_it_is_the_last() {
    let mut cluster = Cluster::settled(Options { probed: true, ..Options::default() });
    assert!(cluster.serving(0).is_empty(), "not probed yet");
    for index in 0..3 {
        cluster.event(index, Event::Health { vip: 0, healthy: index != 2 });
    }
    cluster.run(50 * MS);
    cluster.reset_watch();
    cluster.event(0, Event::Health { vip: 0, healthy: false });
    cluster.run(2 * MS);
    assert_eq!(cluster.active(0), 1);
    cluster.event(1, Event::Health { vip: 0, healthy: false });
    cluster.run(500 * MS);
    assert_eq!((cluster.active(0), cluster.fewest), (1, 1), "better than none");
    cluster.event(2, Event::Health { vip: 0, healthy: true });
    cluster.run(2 * MS);
    assert_eq!((cluster.active(0), cluster.fewest), (2, 1));
}

#[test]
fn a_goodbye_moves_roles_without_waiting_for_detection() {
    for returning in [false, true] {
        let mut cluster = Cluster::settled(Options::default());
        cluster.reset_watch();
        cluster.event(0, Event::Leave { returning });
        let took = cluster.run_until(60 * MS, |cluster| cluster.nodes[0].left);
        assert!(took <= 15 * MS, "{took:?}");
        assert_eq!((cluster.active(0), cluster.fewest), (1, 1));
        cluster.run(MS);
        assert_eq!(cluster.peer_state(1, 0), Some(PeerState::Left { returning }));
        assert_eq!(cluster.peer_state(2, 0), Some(PeerState::Left { returning }));
    }
}

#[test]
fn the_last_member_leaves_without_waiting() {
    let mut cluster = Cluster::settled(Options { members: 1, ..Options::default() });
    cluster.event(0, Event::Leave { returning: false });
    assert!(cluster.run_until(60 * MS, |cluster| cluster.nodes[0].left) <= 15 * MS);
}

#[test]
fn leaving_ends_in_time_even_if_nobody_answers() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.partition(&[0]);
    cluster.event(0, Event::Leave { returning: false });
    assert!(cluster.run_until(200 * MS, |cluster| cluster.nodes[0].left) <= 100 * MS);
    let mut cluster = Cluster::settled(Options::default());
    cluster.event(0, Event::WorkersAlive(false));
    cluster.event(0, Event::Leave { returning: false });
    cluster.run(Duration::from_secs(1));
    assert!(cluster.nodes[0].left, "with hung workers too");
}

#[test]
fn with_two_actives_each_leaves_without_a_gap() {
    let mut cluster = Cluster::settled(Options { members: 3, actives: 2, ..Options::default() });
    cluster.reset_watch();
    cluster.event(0, Event::Leave { returning: false });
    cluster.run(30 * MS);
    assert_eq!((cluster.serving(0), cluster.fewest), (vec![1, 2], 2));
    cluster.reset_watch();
    cluster.event(2, Event::Leave { returning: true });
    cluster.run(30 * MS);
    assert_eq!((cluster.serving(0), cluster.fewest), (vec![1], 1));
}

#[test]
fn a_better_member_takes_over_after_its_hold_time_and_not_before() {
    let rebalance = Rebalance { every: 100 * MS, margin: 0.2, hold: 500 * MS };
    let mut cluster = Cluster::settled(Options { rebalance: Some(rebalance), ..Options::default() });
    for (index, metric) in [100.0, 81.0, 90.0].into_iter().enumerate() {
        cluster.event(index, Event::Metric(metric));
    }
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.active(0), 0, "19 % is within the margin");
    cluster.event(1, Event::Metric(79.0));
    cluster.run(400 * MS);
    assert_eq!(cluster.active(0), 0);
    cluster.reset_watch();
    cluster.run(300 * MS);
    assert_eq!((cluster.active(0), cluster.fewest), (1, 1));
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.assignment(0, 0).unwrap().term, 2, "and that is all");
}

#[test]
fn rebalancing_moves_one_vip_at_a_time() {
    let rebalance = Rebalance { every: 100 * MS, margin: 0.2, hold: 500 * MS };
    let options = Options { members: 2, vips: 4, rebalance: Some(rebalance), ..Options::default() };
    let mut cluster = Cluster::settled(options);
    cluster.event(0, Event::Metric(10.0));
    cluster.event(1, Event::Metric(1.0));
    cluster.run(700 * MS);
    let moved = (0..4).filter(|&vip| cluster.serving(vip) == [1]).count();
    assert_eq!(moved, 3, "of its two VIPs one has moved");
}

#[test]
fn refusing_waits_for_a_second_of_calm() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.run(Duration::from_secs(1));
    assert!(cluster.nodes[0].roles[0].may_refuse);
    cluster.event(1, Event::Activate { vip: 0 });
    cluster.run(990 * MS);
    assert!(!cluster.nodes[1].roles[0].may_refuse);
    cluster.run(11 * MS);
    assert!(cluster.nodes[1].roles[0].may_refuse);
    cluster.pause(2);
    cluster.run(17 * MS + 10 * MS);
    assert!(!cluster.nodes[1].roles[0].may_refuse, "a suspect may be about to accept");
    cluster.resume(2);
    cluster.run(20 * MS);
    assert!(cluster.nodes[1].roles[0].may_refuse);
}
