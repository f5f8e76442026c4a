//! Restarts, and second nodes of one name.

use std::time::Duration;

use super::harness::{Cluster, Options};
use crate::control::{PeerState, Report, Warning};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_second_node_of_a_name_changes_nothing_and_yields() {
    for incarnation in [1, 2, 50] {
        for of in 0..3 {
            let mut cluster = Cluster::settled(Options::default());
            let namesake = cluster.add_namesake(of, incarnation);
            cluster.start(namesake);
            cluster.reset_watch();
            cluster.run(Duration::from_secs(1));
            assert_eq!((cluster.active(0), cluster.fewest, cluster.most), (0, 1, 1));
            assert_eq!(cluster.term(0), 1);
            let name = cluster.nodes[of].settings.name;
            for index in 0..4 {
                let duplicates = cluster.view(index).heartbeats.duplicate_name;
                assert!(duplicates > 50, "{index} of {of}, {incarnation}: {:?}", cluster.view(index).heartbeats);
                assert!(
                    cluster.warns(index, &Warning::DuplicateName(name)),
                    "{index} of {of}, {incarnation}: {:?}",
                    cluster.view(index).warnings
                );
            }
            assert!(cluster.view(namesake).yielding && !cluster.view(namesake).settled);
            assert!(!cluster.view(of).yielding);
        }
    }
}

#[test]
fn the_namesake_takes_the_place_of_the_first_once_it_is_gone() {
    for incarnation in [1, 50] {
        let mut cluster = Cluster::settled(Options::default());
        let namesake = cluster.add_namesake(1, incarnation);
        cluster.start(namesake);
        cluster.run(500 * MS);
        cluster.kill(1);
        cluster.run(400 * MS);
        assert!(!cluster.view(namesake).yielding && cluster.view(namesake).settled);
        assert_eq!(cluster.peer_state(0, namesake), Some(PeerState::Alive));
        assert!(!cluster.warns(0, &Warning::DuplicateName(cluster.nodes[1].settings.name)));
        cluster.kill(0);
        cluster.run(cluster.convergence());
        assert_eq!(cluster.active(0), namesake, "it is next by name");
    }
}

#[test]
fn of_two_nodes_of_one_name_that_start_together_one_yields() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(Options { members: 2, seed, ..Options::default() });
        let namesake = cluster.add_namesake(0, 1);
        (0..3).for_each(|index| cluster.start(index));
        cluster.run(Duration::from_secs(1));
        let yielding = [0, namesake].map(|index| cluster.view(index).yielding);
        assert_eq!(yielding.iter().filter(|&&yielding| yielding).count(), 1, "seed {seed}");
        assert_eq!(cluster.serving(0).len(), 1, "seed {seed}");
        assert_eq!(cluster.view(1).peers.len(), 1);
        assert_eq!(cluster.peer_state(1, 0), Some(PeerState::Alive));
    }
}

#[test]
fn namesakes_that_meet_after_a_partition_leave_one() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(Options { members: 4, seed, ..Options::default() });
        let namesake = cluster.add_namesake(0, 1);
        cluster.partition(&[0, 1]);
        (0..5).for_each(|index| cluster.start(index));
        cluster.run(500 * MS);
        cluster.heal();
        cluster.run(300 * MS);
        let yielding = [0, namesake].map(|index| cluster.view(index).yielding);
        assert_eq!(yielding.iter().filter(|&&yielding| yielding).count(), 1, "seed {seed}");
        assert_eq!(cluster.serving(0).len(), 1, "seed {seed}");
        for index in 1..4 {
            assert!(cluster.view(index).peers.iter().all(|peer| peer.state == PeerState::Alive), "seed {seed}");
        }
    }
}

#[test]
fn a_member_that_restarts_at_once_is_accepted_when_its_old_run_is_dead() {
    for pause in [0, 5, 20, 34, 60] {
        let mut cluster = Cluster::settled(Options::default());
        let (incarnation, nonce) = run_of(&cluster, 1, 0);
        cluster.kill(0);
        cluster.run(pause * MS);
        cluster.start(0);
        cluster.run_until(60 * MS, |cluster| run_of(cluster, 1, 0).1 != nonce);
        assert_eq!(run_of(&cluster, 1, 0).0, incarnation + 1);
        cluster.run(200 * MS);
        assert_eq!(cluster.serving(0).len(), 1);
        assert_eq!(cluster.disagreement(), None);
        let view = cluster.view(1);
        assert_eq!(view.heartbeats.duplicate_name + view.heartbeats.replayed, 0, "{:?}", view.heartbeats);
        assert!(!cluster.view(0).yielding && cluster.view(0).settled);
    }
}

#[test]
fn a_member_that_said_it_returns_is_accepted_at_once() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.event(0, crate::control::Event::Leave { returning: true });
    cluster.run_until(100 * MS, |cluster| cluster.nodes[0].left);
    cluster.run(MS);
    assert_eq!(cluster.peer_state(1, 0), Some(PeerState::Left { returning: true }));
    cluster.start(0);
    cluster.run(2 * MS);
    assert_eq!(cluster.peer_state(1, 0), Some(PeerState::Alive));
    assert_eq!(cluster.active(0), 1, "the incumbent stays");
}

#[test]
fn a_rolling_restart_leaves_no_gap() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.reset_watch();
    for index in 0..3 {
        cluster.event(index, crate::control::Event::Leave { returning: true });
        cluster.run_until(100 * MS, |cluster| cluster.nodes[index].left);
        cluster.start(index);
        cluster.run(200 * MS);
        assert!(cluster.view(index).settled);
    }
    assert_eq!(cluster.fewest, 1);
    assert_eq!(cluster.disagreement(), None);
}

#[test]
fn a_restarted_member_learns_the_term_before_it_proposes() {
    let mut cluster = Cluster::settled(Options::default());
    for turn in 0..10 {
        cluster.event(1 + turn % 2, crate::control::Event::Activate { vip: 0 });
        cluster.run(20 * MS);
    }
    let term = cluster.term(0);
    cluster.kill(0);
    cluster.run(100 * MS);
    cluster.start(0);
    cluster.run(100 * MS);
    assert_eq!(cluster.assignment(0, 0).unwrap().term, term);
    cluster.event(0, crate::control::Event::Activate { vip: 0 });
    assert_eq!(cluster.assignment(0, 0).unwrap().term, term + 1);
}

#[test]
fn a_live_member_that_lost_its_incarnation_is_accepted_and_its_recordings_are_not() {
    let mut cluster = Cluster::settled(Options { members: 2, ..Options::default() });
    cluster.kill(1);
    cluster.start(1);
    cluster.run(200 * MS);
    let recorded = cluster.nodes[1].sent.clone();
    cluster.kill(1);
    cluster.run(200 * MS);
    for frame in &recorded {
        cluster.inject(0, frame);
    }
    cluster.run(100 * MS);
    assert_eq!(cluster.peer_state(0, 1), Some(PeerState::Dead));
    let fresh = cluster.add_namesake(1, 1);
    cluster.start(fresh);
    cluster.run(100 * MS);
    assert_eq!(cluster.peer_state(0, fresh), Some(PeerState::Alive));
    assert_eq!(run_of(&cluster, 0, fresh).0, 1);
}

#[test]
fn an_old_process_that_wakes_beside_its_successor_yields() {
    let mut cluster = Cluster::settled(Options::default());
    let successor = cluster.add_namesake(0, 2);
    cluster.pause(0);
    cluster.run(200 * MS);
    cluster.start(successor);
    cluster.run(300 * MS);
    assert_eq!(cluster.peer_state(1, 0), Some(PeerState::Alive));
    cluster.resume(0);
    cluster.run(100 * MS);
    assert!(cluster.view(0).yielding && !cluster.view(successor).yielding);
    assert_eq!(cluster.serving(0), [1]);
    let told = |report: &Report| matches!(report, Report::Yielding { .. });
    assert!(cluster.nodes[0].reports.iter().any(|(_, report)| told(report)));
}

/// The incarnation and nonce of the run of `peer` that `of` believes.
fn run_of(cluster: &Cluster, of: usize, peer: usize) -> (u64, u64) {
    let name = cluster.nodes[peer].settings.name;
    let view = cluster.view(of);
    let view = view.peers.iter().find(|view| view.name == name).unwrap();
    (view.incarnation, view.nonce)
}
