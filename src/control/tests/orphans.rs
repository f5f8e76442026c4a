//! Who is found to be an orphan, and who never is.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::harness::{Cluster, ORPHANS_AFTER, Options};
use crate::control::heartbeat::QUESTIONS_MAX;
use crate::control::heartbeat::dialect::Dialect;
use crate::control::{Event, PeerState};
use crate::frame::Mac;
use crate::orphans::{Suspect, Suspicion};
use crate::table::Tuple;

const MS: Duration = Duration::from_millis(1);

fn tuple(client: u16) -> Tuple {
    Tuple { client: Ipv4Addr::new(10, 0, 1, 1), client_port: client, port: 80, vip: 0 }
}

fn suspect(client: u16) -> Suspect {
    let suspicion = Suspicion { tuple: tuple(client), seq: 100, end: 600, ack: 5000 };
    Suspect { suspicion, mac: Mac([2, 0, 0, 0, 3, 1]) }
}

/// The workers of the primary tell of a client.
fn tell(cluster: &mut Cluster, client: u16) -> usize {
    let primary = cluster.active(0);
    cluster.event(primary, Event::Suspect(suspect(client)));
    primary
}

fn others(cluster: &Cluster, primary: usize) -> Vec<usize> {
    (0..cluster.nodes.len()).filter(|&index| index != primary).collect()
}

/// How long after `since` each client was found to be an orphan by this member.
fn resets(cluster: &Cluster, member: usize, since: crate::time::Time) -> Vec<(u16, Duration)> {
    let resets = cluster.nodes[member].resets.iter();
    resets.map(|(at, tuple)| (tuple.client_port, at.since(since))).collect()
}

#[track_caller]
fn nobody_is_reset(cluster: &Cluster) {
    for (index, node) in cluster.nodes.iter().enumerate() {
        assert!(node.resets.is_empty(), "by {index}: {:?}", node.resets);
    }
}

/// A cluster that has run for longer than `orphans.after`.
fn settled(options: Options) -> Cluster {
    let mut cluster = Cluster::settled(options);
    cluster.run(ORPHANS_AFTER + 10 * MS);
    cluster
}

/// Its listening clock stands still while they hang, and what it waits for by that would be a moment away for ever.
#[test]
fn who_asks_about_a_client_while_its_workers_hang_waits_for_them() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    cluster.event(primary, Event::Hearing(false));
    tell(&mut cluster, 1);
    // The harness counts ticks.
    cluster.run(Duration::from_millis(50));
    nobody_is_reset(&cluster);
    let since = cluster.now;
    cluster.event(primary, Event::Hearing(true));
    cluster.run(Duration::from_secs(1));
    assert_eq!(resets(&cluster, primary, since).len(), 1);
}

#[test]
fn a_client_that_nobody_has_is_reset_as_soon_as_all_have_said_so() {
    for heartbeat in [1, 10, 1000] {
        let mut cluster = settled(Options { heartbeat: heartbeat * MS, ..Options::default() });
        let (since, primary) = (cluster.now, tell(&mut cluster, 1));
        cluster.run(Duration::from_secs(1));
        let found = resets(&cluster, primary, since);
        assert!(found.len() == 1 && found[0].1 <= 70 * MS, "at heartbeats of {heartbeat} ms: {found:?}");
        assert!(others(&cluster, primary).iter().all(|&other| cluster.nodes[other].resets.is_empty()));
        assert_eq!(cluster.view(primary).orphans, Default::default());
    }
}

#[test]
fn a_client_of_a_live_member_is_never_reset() {
    let mut cluster = settled(Options { members: 16, ..Options::default() });
    cluster.loss = 0.2;
    let primary = cluster.active(0);
    for (index, owner) in (0..cluster.nodes.len()).enumerate() {
        let client = index as u16;
        cluster.nodes[owner].held.insert(tuple(client));
        cluster.event(primary, Event::Suspect(suspect(client)));
        cluster.run(500 * MS);
    }
    cluster.run(10 * ORPHANS_AFTER);
    nobody_is_reset(&cluster);
    assert_eq!(cluster.view(primary).orphans.owned, 16);
}

#[test]
fn a_dead_members_clients_are_reset_when_it_was_silent_for_long_enough() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let [victim, _] = others(&cluster, primary)[..] else { panic!() };
    cluster.kill(victim);
    let killed = cluster.now;
    // Told early and late: neither is reset before the time, and neither waits for more.
    cluster.run(100 * MS);
    tell(&mut cluster, 1);
    cluster.run(1500 * MS);
    tell(&mut cluster, 2);
    cluster.run(350 * MS);
    nobody_is_reset(&cluster);
    cluster.run(500 * MS);
    let found = resets(&cluster, primary, killed);
    assert_eq!(found.len(), 2);
    // The last heartbeat was up to an interval before.
    assert!(found.iter().all(|(_, after)| (1985 * MS..=2050 * MS).contains(after)), "{found:?}");
}

#[test]
fn a_dead_primarys_clients_are_found_by_the_next() {
    let mut cluster = settled(Options::default());
    let victim = cluster.active(0);
    cluster.kill(victim);
    let killed = cluster.now;
    cluster.run(1500 * MS);
    let primary = tell(&mut cluster, 1);
    assert_ne!(primary, victim);
    cluster.run(1000 * MS);
    let found = resets(&cluster, primary, killed);
    assert!(found.len() == 1 && found[0].1 >= 1985 * MS && found[0].1 <= 2050 * MS, "{found:?}");
}

#[test]
fn a_daemon_that_restarts_in_time_loses_nothing_and_a_new_boot_is_asked_at_once() {
    for (rebooted, goodbye) in [(false, false), (false, true), (true, false)] {
        let mut cluster = settled(Options::default());
        let primary = cluster.active(0);
        let victim = others(&cluster, primary)[0];
        if !rebooted {
            cluster.nodes[victim].held.insert(tuple(1));
        }
        if goodbye {
            cluster.event(victim, Event::Leave { returning: true });
            cluster.run(100 * MS);
            assert_eq!(cluster.peer_state(primary, victim), Some(PeerState::Left { returning: true }));
        } else {
            cluster.kill(victim);
        }
        cluster.run(1000 * MS);
        tell(&mut cluster, 1);
        cluster.run(500 * MS);
        nobody_is_reset(&cluster);
        cluster.start(victim);
        let back = cluster.now;
        cluster.run(300 * MS);
        let found = resets(&cluster, primary, back);
        assert_eq!(found.len(), usize::from(rebooted), "{found:?}");
        cluster.run(5 * ORPHANS_AFTER);
        assert_eq!(resets(&cluster, primary, back).len(), usize::from(rebooted));
    }
}

#[test]
fn a_member_that_left_for_good_is_not_waited_for_and_one_that_returns_is() {
    for returning in [false, true] {
        let mut cluster = settled(Options::default());
        let primary = cluster.active(0);
        let leaver = others(&cluster, primary)[0];
        cluster.event(leaver, Event::Leave { returning });
        cluster.run(100 * MS);
        let gone = cluster.now;
        tell(&mut cluster, 1);
        cluster.run(3000 * MS);
        let found = resets(&cluster, primary, gone);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1 > 1800 * MS, returning, "{found:?}");
    }
}

#[test]
fn nobody_is_reset_while_no_other_member_is_heard() {
    for members in [1, 2] {
        let mut cluster = settled(Options { members, ..Options::default() });
        let primary = cluster.active(0);
        others(&cluster, primary).into_iter().for_each(|other| cluster.kill(other));
        for round in 0..10 {
            tell(&mut cluster, round);
            cluster.run(ORPHANS_AFTER);
        }
        nobody_is_reset(&cluster);
        assert!(cluster.view(primary).orphans.given_up > 0);
    }
}

#[test]
fn a_member_that_cannot_tell_is_waited_for() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let other = others(&cluster, primary)[0];
    cluster.nodes[other].cannot_tell = true;
    tell(&mut cluster, 1);
    cluster.run(2000 * MS);
    nobody_is_reset(&cluster);
    cluster.nodes[other].cannot_tell = false;
    cluster.run(100 * MS);
    assert_eq!(cluster.nodes[primary].resets.len(), 1);
    // The same of ourselves: its next repeat has us look again.
    cluster.nodes[primary].cannot_tell = true;
    tell(&mut cluster, 2);
    cluster.run(500 * MS);
    cluster.nodes[primary].cannot_tell = false;
    cluster.run(500 * MS);
    assert_eq!(cluster.nodes[primary].resets.len(), 1);
    tell(&mut cluster, 2);
    cluster.run(100 * MS);
    assert_eq!(cluster.nodes[primary].resets.len(), 2);
}

#[test]
fn a_member_that_is_not_ready_is_waited_for() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let other = others(&cluster, primary)[0];
    cluster.kill(other);
    cluster.start_unready(other);
    cluster.run(ORPHANS_AFTER);
    assert_eq!(cluster.peer_state(primary, other), Some(PeerState::Alive));
    tell(&mut cluster, 1);
    cluster.run(1000 * MS);
    nobody_is_reset(&cluster);
    cluster.event(other, Event::Ready);
    cluster.run(100 * MS);
    assert_eq!(cluster.nodes[primary].resets.len(), 1);
}

#[test]
fn who_was_away_or_loses_frames_holds_its_verdict_and_its_answers() {
    // The primary, then one that is asked; by a pause, then by losses.
    for (asked, paused) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut cluster = settled(Options::default());
        let primary = cluster.active(0);
        let doubtful = if asked { others(&cluster, primary)[0] } else { primary };
        if paused {
            // Whatever it heard before, it does not know what it missed.
            cluster.pause(doubtful);
            cluster.run(cluster.nodes[0].settings.detection() + MS);
            cluster.resume(doubtful);
            cluster.event(doubtful, Event::Tick);
            cluster.run(200 * MS);
            cluster.event(primary, Event::Activate { vip: 0 });
            cluster.run(100 * MS);
        } else {
            cluster.event(doubtful, Event::FramesLost);
        }
        let since = cluster.now;
        assert_eq!(tell(&mut cluster, 1), primary);
        cluster.run(600 * MS);
        nobody_is_reset(&cluster);
        cluster.run(700 * MS);
        assert_eq!(resets(&cluster, primary, since).len(), 1, "asked {asked}, paused {paused}");
    }
}

#[test]
fn a_member_that_another_hears_is_not_silent() {
    let mut cluster = settled(Options { members: 4, ..Options::default() });
    let primary = cluster.active(0);
    let [unheard, witness, _] = others(&cluster, primary)[..] else { panic!() };
    cluster.set_link(primary, unheard, false);
    for client in 0..5 {
        tell(&mut cluster, client);
        cluster.run(ORPHANS_AFTER);
    }
    nobody_is_reset(&cluster);
    // Now it is dead for all.
    cluster.kill(unheard);
    tell(&mut cluster, 9);
    cluster.run(ORPHANS_AFTER + 100 * MS);
    assert_eq!(cluster.peer_state(witness, unheard), Some(PeerState::Dead));
    assert!(cluster.nodes[primary].resets.iter().any(|(_, tuple)| tuple.client_port == 9));
}

#[test]
fn a_member_whose_only_witness_is_not_heard_for_a_while_is_not_silent() {
    let mut cluster = settled(Options { members: 4, ..Options::default() });
    let primary = cluster.active(0);
    let [unheard, witness, other] = others(&cluster, primary)[..] else { panic!() };
    cluster.set_link(primary, unheard, false);
    cluster.set_link(other, unheard, false);
    cluster.run(ORPHANS_AFTER + 100 * MS);
    cluster.nodes[unheard].held.insert(tuple(1));
    tell(&mut cluster, 1);
    cluster.run(300 * MS);
    for _ in 0..10 {
        cluster.cut.insert((witness, primary));
        cluster.run(30 * MS);
        assert_eq!(cluster.peer_state(primary, witness), Some(PeerState::Suspect));
        cluster.cut.remove(&(witness, primary));
        cluster.run(30 * MS);
    }
    nobody_is_reset(&cluster);
}

#[test]
fn a_member_that_is_heard_but_hears_nobody_is_not_silent() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let deaf = others(&cluster, primary)[0];
    for other in others(&cluster, deaf) {
        cluster.cut.insert((other, deaf));
    }
    for client in 0..5 {
        cluster.event(primary, Event::Suspect(suspect(client)));
        cluster.run(ORPHANS_AFTER);
    }
    assert_eq!(cluster.peer_state(primary, deaf), Some(PeerState::Dead));
    nobody_is_reset(&cluster);
}

#[test]
fn a_member_that_nobody_hears_is_silent_though_it_hears_all() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let mute = others(&cluster, primary)[0];
    cluster.nodes[mute].held.insert(tuple(1));
    for other in others(&cluster, mute) {
        cluster.cut.insert((mute, other));
    }
    let (since, primary) = (cluster.now, tell(&mut cluster, 1));
    cluster.run(ORPHANS_AFTER + 100 * MS);
    let found = resets(&cluster, primary, since);
    assert!(found.len() == 1 && found[0].1 >= 1985 * MS, "{found:?}");
}

#[test]
fn a_primary_that_has_just_started_knows_nobody_and_waits() {
    let mut cluster = settled(Options { members: 4, ..Options::default() });
    let primary = cluster.active(0);
    let [unheard, ..] = others(&cluster, primary)[..] else { panic!() };
    // Both start anew at once; of the one nobody knows now that it was there, and it comes back later.
    cluster.nodes[unheard].held.insert(tuple(1));
    cluster.kill(unheard);
    for index in others(&cluster, unheard) {
        cluster.kill(index);
        cluster.start(index);
    }
    cluster.run(200 * MS);
    tell(&mut cluster, 1);
    cluster.run(1500 * MS);
    nobody_is_reset(&cluster);
    cluster.start(unheard);
    cluster.run(5 * ORPHANS_AFTER);
    nobody_is_reset(&cluster);
}

#[test]
fn a_second_node_of_a_name_keeps_all_verdicts_back() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let double = cluster.add_namesake(others(&cluster, primary)[0], 1);
    cluster.nodes[double].held.insert(tuple(1));
    cluster.start(double);
    cluster.run(500 * MS);
    for client in 0..3 {
        tell(&mut cluster, client);
        cluster.run(1000 * MS);
    }
    nobody_is_reset(&cluster);
    // What it held nobody has asked it for: it counts as silent when it was for long enough.
    cluster.kill(double);
    let (since, primary) = (cluster.now, tell(&mut cluster, 1));
    cluster.run(ORPHANS_AFTER + 100 * MS);
    let found = resets(&cluster, primary, since);
    assert!(found.iter().all(|(_, after)| *after >= 1980 * MS) && !found.is_empty(), "{found:?}");
}

#[test]
fn a_role_that_has_moved_ends_the_search() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let [victim, next] = others(&cluster, primary)[..] else { panic!() };
    cluster.kill(victim);
    cluster.run(100 * MS);
    tell(&mut cluster, 1);
    cluster.event(next, Event::Activate { vip: 0 });
    cluster.run(2 * ORPHANS_AFTER);
    nobody_is_reset(&cluster);
    assert_eq!(cluster.view(primary).orphans.given_up, 1);
    tell(&mut cluster, 1);
    cluster.run(100 * MS);
    assert_eq!(cluster.nodes[next].resets.len(), 1);
}

#[test]
fn members_of_an_older_minor_version_do_not_answer_so_nobody_is_reset() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    // It skips the sections: to itself it was asked nothing.
    let older = others(&cluster, primary)[0];
    cluster.nodes[older].dialect = Dialect::Earlier;
    tell(&mut cluster, 1);
    cluster.run(2 * ORPHANS_AFTER);
    nobody_is_reset(&cluster);
    // Among later ones it works.
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let later = others(&cluster, primary)[0];
    cluster.nodes[later].dialect = Dialect::Later;
    cluster.run(100 * MS);
    tell(&mut cluster, 1);
    cluster.run(100 * MS);
    assert_eq!(cluster.nodes[primary].resets.len(), 1);
    cluster.nodes[later].dialect = Dialect::Present;
    cluster.nodes[primary].dialect = Dialect::Later;
    tell(&mut cluster, 2);
    cluster.run(100 * MS);
    assert_eq!(cluster.nodes[primary].resets.len(), 2);
}

#[test]
fn a_flood_of_suspicions_is_asked_about_at_a_bounded_rate() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let other = others(&cluster, primary)[0];
    for client in 0..10_000 {
        tell(&mut cluster, client);
    }
    let view = cluster.view(primary).orphans;
    assert_eq!((view.open, view.crowded_out), (4096, 10_000 - 4096));
    cluster.run(1000 * MS);
    let rounds = 1000 / 10 + 8;
    let looked_up = cluster.nodes[other].looked_up;
    assert!((1500..=rounds * QUESTIONS_MAX).contains(&looked_up), "{looked_up}");
    cluster.run(3000 * MS);
    assert_eq!((cluster.nodes[primary].resets.len(), cluster.view(primary).orphans.open), (4096, 0));
}

#[test]
fn a_client_that_has_gone_on_is_asked_about_anew() {
    let mut cluster = settled(Options::default());
    let primary = cluster.active(0);
    let victim = others(&cluster, primary)[0];
    cluster.kill(victim);
    cluster.run(100 * MS);
    tell(&mut cluster, 1);
    cluster.run(1000 * MS);
    // It has become somebody's meanwhile: its numbers are others.
    let other = others(&cluster, primary)[1];
    cluster.nodes[other].held.insert(tuple(1));
    let mut later = suspect(1);
    later.suspicion.ack += 1;
    cluster.event(primary, Event::Suspect(later));
    cluster.run(2 * ORPHANS_AFTER);
    nobody_is_reset(&cluster);
    assert_eq!(cluster.view(primary).orphans.owned, 1);
}
