//! Heartbeats that must not be obeyed.

use std::time::Duration;

use super::harness::{Cluster, Options};
use crate::config::checked::Key;
use crate::control::{Event, PeerState, Refusal, Report, Warning};

const MS: Duration = Duration::from_millis(1);

/// Two members; the second, s02, is the attacker's.
fn stranger(change: impl FnOnce(&mut crate::control::Settings)) -> Cluster {
    let mut cluster = Cluster::new(Options { members: 2, ..Options::default() });
    change(&mut cluster.nodes[1].settings);
    (0..2).for_each(|index| cluster.start(index));
    cluster.run(500 * MS);
    assert_eq!(cluster.serving(0), [0, 1], "each is alone");
    assert!(cluster.view(0).peers.is_empty());
    cluster
}

#[test]
fn a_wrong_key_is_counted_reported_and_not_obeyed() {
    let cluster = stranger(|settings| settings.key = Key([8; 32]));
    assert!(cluster.view(0).heartbeats.wrong_key > 40);
    let told = |report: &Report| matches!(report, Report::Refused { why: Refusal::WrongKey, .. });
    let told = cluster.nodes[0].reports.iter().filter(|(_, report)| told(report)).count();
    assert_eq!(told, 1, "a flood of them does not flood the log");
}

#[test]
fn another_cluster_with_the_same_key_is_not_obeyed() {
    let cluster = stranger(|settings| settings.cluster = "mail".into());
    assert!(cluster.view(0).heartbeats.other_cluster > 40);
    assert_eq!(cluster.view(0).heartbeats.wrong_key, 0);
}

#[test]
fn another_ethertype_is_malformed() {
    let cluster = stranger(|settings| settings.ethertype = 0x88b6);
    assert!(cluster.view(0).heartbeats.malformed > 40);
}

#[test]
fn a_recording_of_a_live_run_is_counted_and_changes_nothing() {
    let mut cluster = Cluster::settled(Options::default());
    cluster.event(1, Event::Activate { vip: 0 });
    cluster.run(100 * MS);
    cluster.event(2, Event::Activate { vip: 0 });
    cluster.run(100 * MS);
    let before = cluster.view(0);
    let recording = cluster.nodes[1].sent.clone();
    for frame in &recording {
        cluster.inject(0, frame);
    }
    cluster.run(5 * MS);
    let after = cluster.view(0);
    assert_eq!(after.heartbeats.replayed - before.heartbeats.replayed, recording.len() as u64);
    assert_eq!((cluster.active(0), cluster.disagreement()), (2, None));
}

#[test]
fn a_recording_does_not_keep_the_dead_alive() {
    let mut cluster = Cluster::settled(Options { members: 2, ..Options::default() });
    let recording = cluster.nodes[0].sent.clone();
    cluster.kill(0);
    for frame in recording.iter().cycle().take(400) {
        cluster.inject(1, frame);
        cluster.run(MS);
    }
    assert_eq!(cluster.peer_state(1, 0), Some(PeerState::Dead));
    assert_eq!(cluster.serving(0), [1]);
}

#[test]
fn a_recording_of_a_members_former_run_is_an_old_incarnation() {
    let mut cluster = Cluster::settled(Options { members: 2, ..Options::default() });
    let recording = cluster.nodes[1].sent.clone();
    cluster.kill(1);
    cluster.run(MS);
    cluster.start(1);
    cluster.run(200 * MS);
    for frame in &recording {
        cluster.inject(0, frame);
    }
    cluster.run(MS);
    let view = cluster.view(0);
    assert_eq!(view.heartbeats.old_incarnation, recording.len() as u64);
    assert_eq!(view.peers[0].incarnation, 2);
    assert!(!cluster.warns(0, &Warning::DuplicateName(cluster.nodes[1].settings.name)));
}

#[test]
fn what_was_held_back_while_its_sender_died_does_not_revive_it() {
    let mut cluster = Cluster::settled(Options { members: 2, ..Options::default() });
    cluster.cut.insert((0, 1));
    let known = cluster.nodes[0].sent.len();
    cluster.run(30 * MS);
    let held = cluster.nodes[0].sent[known..].to_vec();
    cluster.kill(0);
    cluster.heal();
    cluster.run(100 * MS);
    assert_eq!(cluster.serving(0), [1]);
    for frame in &held {
        cluster.inject(1, frame);
        cluster.run(5 * MS);
        assert_eq!(cluster.peer_state(1, 0), Some(PeerState::Dead));
    }
}

#[test]
fn a_recording_from_before_a_restart_of_all_is_worthless() {
    let mut cluster = Cluster::settled(Options::default());
    for turn in 0..5 {
        cluster.event(turn % 3, Event::Activate { vip: 0 });
        cluster.run(50 * MS);
    }
    let recordings: Vec<Vec<u8>> = (0..3).flat_map(|index| cluster.nodes[index].sent.clone()).collect();
    (0..3).for_each(|index| cluster.kill(index));
    cluster.run(100 * MS);
    // Only the first is back when the recordings are played: it has nobody to ask.
    cluster.start(0);
    cluster.run(100 * MS);
    for frame in &recordings {
        cluster.inject(0, frame);
    }
    cluster.run(200 * MS);
    let view = cluster.view(0);
    assert_eq!((view.vips[0].term, cluster.active(0)), (1, 0), "terms start anew");
    assert!(view.peers.is_empty());
    assert_eq!(view.heartbeats.accepted, 0);
    let counted = view.heartbeats.replayed + view.heartbeats.old_incarnation;
    assert_eq!(counted, recordings.len() as u64, "{:?}", view.heartbeats);
    // And with all of them back.
    (1..3).for_each(|index| cluster.start(index));
    cluster.run(300 * MS);
    let before = cluster.view(0).heartbeats;
    for frame in &recordings {
        cluster.inject(0, frame);
    }
    cluster.run(200 * MS);
    let after = cluster.view(0).heartbeats;
    let counted = after.replayed + after.old_incarnation - before.replayed - before.old_incarnation;
    assert_eq!(counted, recordings.len() as u64);
    assert_eq!((cluster.active(0), cluster.disagreement(), cluster.term(0)), (0, None, 1));
}

#[test]
fn one_recorded_frame_of_a_name_that_is_gone_shows_in_status() {
    let mut cluster = Cluster::settled(Options { members: 2, ..Options::default() });
    let recorded = cluster.nodes[1].sent.last().unwrap().clone();
    (0..2).for_each(|index| cluster.kill(index));
    cluster.run(MS);
    cluster.start(0);
    cluster.run(200 * MS);
    cluster.inject(0, &recorded);
    cluster.run(20 * MS);
    assert_eq!(cluster.view(0).heartbeats.replayed, 0, "it could be a newcomer's first");
    cluster.run(100 * MS);
    assert_eq!(cluster.view(0).heartbeats.replayed, 1);
    let told = |report: &Report| matches!(report, Report::Refused { why: Refusal::Replayed, .. });
    assert!(cluster.nodes[0].reports.iter().any(|(_, report)| told(report)));
}

#[test]
fn a_healthy_cluster_refuses_nothing() {
    let mut cluster = Cluster::settled(Options { members: 5, ..Options::default() });
    cluster.run(Duration::from_secs(2));
    for index in 0..5 {
        let heartbeats = cluster.view(index).heartbeats;
        let accepted = heartbeats.accepted;
        assert!(accepted > 800);
        assert_eq!(heartbeats, crate::control::Counters { accepted, ..Default::default() });
    }
}

#[test]
fn our_own_frames_sent_back_change_nothing() {
    let mut cluster = Cluster::settled(Options { members: 1, ..Options::default() });
    for frame in cluster.nodes[0].sent.clone() {
        cluster.inject(0, &frame);
    }
    cluster.run(100 * MS);
    let view = cluster.view(0);
    assert!(view.heartbeats.reflected > 20 && view.peers.is_empty() && !view.yielding);
    assert_eq!((cluster.active(0), cluster.term(0)), (0, 1));
    assert_eq!(view.warnings, [Warning::NoPeer]);
}

#[test]
fn a_frame_under_another_source_is_not_authentic() {
    let mut cluster = Cluster::settled(Options { members: 2, ..Options::default() });
    cluster.cut.insert((1, 0));
    cluster.run(MS);
    let before = cluster.view(0).heartbeats.wrong_key;
    for mut frame in cluster.nodes[1].sent.clone() {
        frame[11] ^= 1;
        cluster.inject(0, &frame);
    }
    cluster.run(MS);
    assert!(cluster.view(0).heartbeats.wrong_key - before > 20);
}

#[test]
fn a_node_that_does_not_hear_us_is_warned_of() {
    let mut cluster = Cluster::new(Options { members: 2, ..Options::default() });
    cluster.cut.insert((0, 1));
    (0..2).for_each(|index| cluster.start(index));
    cluster.run(Duration::from_secs(2));
    assert!(cluster.warns(0, &Warning::Unanswered(cluster.nodes[1].settings.name)));
    assert!(!cluster.nodes[0].roles[0].may_refuse, "it may be active");
}
