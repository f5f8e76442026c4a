//! The largest clusters, whose heartbeats' echoes go in parts.

use std::time::Duration;

use super::harness::{Cluster, Options};
use crate::config::checked::Key;
use crate::control::assignment::Assignment;
use crate::control::auth::Authenticator;
use crate::control::heartbeat::dialect::Dialect;
use crate::control::heartbeat::{self, Echo, Header, Heartbeat, VipBeat, flags, vip_flags};
use crate::control::{Action, Control, Event, Identity, MEMBERS_MAX, MemberId, Name, PeerState, Report};
use crate::frame::Mac;
use crate::time::Time;

const MS: Duration = Duration::from_millis(1);

#[track_caller]
fn one_active_each(cluster: &Cluster) {
    assert_eq!(cluster.disagreement(), None);
    for vip in 0..cluster.options.vips {
        cluster.active(vip);
    }
}

#[test]
fn sixty_four_members_agree_and_survive_their_actives_one_after_the_other() {
    let mut cluster = Cluster::settled(Options { members: MEMBERS_MAX, vips: 3, ..Options::default() });
    one_active_each(&cluster);
    let alive = |peers: Vec<crate::control::PeerView>| peers.iter().filter(|p| p.state == PeerState::Alive).count();
    assert!((0..MEMBERS_MAX).all(|index| alive(cluster.view(index).peers) == MEMBERS_MAX - 1));
    for death in 0..6 {
        let victim = cluster.active(death % 3);
        cluster.kill(victim);
        cluster.run(cluster.convergence());
        one_active_each(&cluster);
    }
    assert!((0..3).all(|vip| (3..=7).contains(&cluster.term(vip))), "one proposes at a time");
}

#[test]
fn sixty_four_members_whose_frames_are_lost_and_overtake_each_other_move_no_role() {
    let mut cluster = Cluster::settled(Options { members: MEMBERS_MAX, vips: 2, ..Options::default() });
    (cluster.loss, cluster.duplication, cluster.delay) = (0.02, 0.1, 3 * MS);
    cluster.run(200 * MS);
    assert_eq!((cluster.term(0), cluster.term(1)), (1, 1));
    one_active_each(&cluster);
    cluster.loss = 0.0;
    cluster.run(cluster.convergence());
    for index in 0..MEMBERS_MAX {
        assert!(cluster.view(index).peers.iter().all(|peer| peer.state == PeerState::Alive), "{index}");
    }
}

#[test]
fn a_deaf_member_of_64_is_not_obeyed_though_its_frames_overtake_each_other() {
    let mut cluster = Cluster::settled(Options { members: MEMBERS_MAX, vips: 2, ..Options::default() });
    cluster.delay = 3 * MS;
    let deaf = MEMBERS_MAX - 1;
    cluster.cut.extend((0..deaf).map(|other| (other, deaf)));
    cluster.run(300 * MS);
    assert!(cluster.nodes[deaf].roles.iter().all(|role| role.active), "it takes all others for dead");
    assert!((0..deaf).all(|other| (0..2).all(|vip| cluster.assignment(other, vip).unwrap().term == 1)));
}

fn too_many(report: &Report) -> Option<Name> {
    match report {
        Report::TooManyMembers { name } => Some(*name),
        _ => None,
    }
}

#[test]
fn a_member_too_many_is_turned_away_with_one_report_each() {
    let mut cluster = Cluster::new(Options { members: MEMBERS_MAX + 2, vips: 2, ..Options::default() });
    (0..MEMBERS_MAX).for_each(|index| cluster.start(index));
    cluster.run(150 * MS);
    let before = [0, 1].map(|vip| cluster.assignment(0, vip).cloned());
    // Two, so that they are heard in turns.
    (MEMBERS_MAX..MEMBERS_MAX + 2).for_each(|index| cluster.start_unready(index));
    cluster.run(50 * MS);
    for index in 0..MEMBERS_MAX {
        let mut told: Vec<Name> =
            cluster.nodes[index].reports.iter().filter_map(|(_, report)| too_many(report)).collect();
        told.sort();
        let late = [MEMBERS_MAX, MEMBERS_MAX + 1].map(|late| cluster.nodes[late].settings.name);
        assert_eq!(told, late, "by {index}");
        assert!(!cluster.nodes[index].roles.iter().any(|role| role.may_refuse), "they may be active");
        assert_eq!(cluster.view(index).peers.len(), MEMBERS_MAX - 1);
        assert_eq!([0, 1].map(|vip| cluster.assignment(index, vip).cloned()), before);
    }
    // They hear more than they have room for, and do not greet all of them again and again.
    let sent = cluster.nodes[MEMBERS_MAX].sent.len();
    cluster.run(200 * MS);
    let sent = cluster.nodes[MEMBERS_MAX].sent.len() - sent;
    assert!((40..=60).contains(&sent), "{sent}");
    let told: Vec<Name> =
        cluster.nodes[MEMBERS_MAX].reports.iter().filter_map(|(_, report)| too_many(report)).collect();
    assert!(
        told.len() > 2 && told.iter().all(|name| told.iter().filter(|other| *other == name).count() == 1),
        "{told:?}"
    );
    // One that is gone makes room.
    cluster.kill(MEMBERS_MAX + 1);
    cluster.kill(7);
    cluster.run(100 * MS);
    assert_eq!(cluster.peer_state(0, MEMBERS_MAX), Some(PeerState::Alive));
}

/// Members of these versions by turns.
fn mixed(options: Options, dialects: &[Dialect]) -> Cluster {
    let mut cluster = Cluster::new(options);
    for index in 0..cluster.nodes.len() {
        cluster.nodes[index].dialect = dialects[index % dialects.len()];
        cluster.start(index);
    }
    cluster.run(150 * MS);
    cluster
}

#[test]
fn members_of_different_versions_agree_and_survive_their_actives() {
    // As many as the earliest version knows; and as many as it has echoes for, without it.
    let later = &[Dialect::Present, Dialect::Later];
    for (members, vips, dialects) in [(16, 40, Dialect::ALL), (32, 4, Dialect::ALL), (MEMBERS_MAX, 2, later)] {
        let mut cluster = mixed(Options { members, vips, ..Options::default() }, dialects);
        one_active_each(&cluster);
        for _ in 0..2 {
            let victim = cluster.active(0);
            cluster.kill(victim);
            cluster.run(cluster.convergence());
            one_active_each(&cluster);
        }
    }
}

#[test]
fn a_cluster_of_64_starts_with_nobody_alone() {
    let mut cluster = Cluster::new(Options { members: MEMBERS_MAX, vips: 1, ..Options::default() });
    for index in 0..MEMBERS_MAX {
        cluster.start(index);
        cluster.run(MS);
    }
    cluster.run(100 * MS);
    one_active_each(&cluster);
    // A second node of a name is told of it, though all others have their echoes too.
    let namesake = cluster.add_namesake(20, 1);
    cluster.start(namesake);
    cluster.reset_watch();
    cluster.run(100 * MS);
    assert!(cluster.view(namesake).yielding && !cluster.view(20).yielding);
    assert_eq!((cluster.fewest, cluster.most), (1, 1));
}

/// A member, and a peer that hears it and a hundred others, and has eighty VIPs more: its heartbeats are made here.
struct Pair {
    control: Control,
    now: Time,
    auth: Authenticator,
    sequence: u64,
    challenge: u32,
    /// What the peer makes known.
    term: u64,
    its_challenge: u32,
    its_interval: Duration,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair::apart();
        (0..20).for_each(|_| pair.interval(true, |_| true));
        assert_eq!(pair.state(), Some(PeerState::Alive));
        pair
    }

    /// The peer was not heard yet.
    fn apart() -> Pair {
        let now = Time::from_millis(1000);
        let settings = Cluster::new(Options { members: 1, ..Options::default() }).nodes[0].settings.clone();
        let identity = Identity { boot_id: [1; 16], incarnation: 1, nonce: 1 };
        let auth = Authenticator::new(&settings.cluster, &settings.key);
        assert_eq!(settings.key, Key([7; 32]));
        let control = Control::new(settings, identity, now);
        let (sequence, challenge, term) = (0, 0, 0);
        let mut pair = Pair { control, now, auth, sequence, challenge, term, its_challenge: 1, its_interval: 10 * MS };
        pair.event(Event::Ready);
        pair
    }

    fn me() -> MemberId {
        Name::new("s01").unwrap().id()
    }

    fn peer() -> MemberId {
        Name::new("s02").unwrap().id()
    }

    fn event(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.control.step(event, self.now, &mut actions);
        for action in actions {
            if let Action::Send(frame) = action {
                self.challenge = heartbeat::parse(frame.bytes(), 0x88b5, &self.auth).unwrap().header.challenge;
            }
        }
    }

    fn header(&self) -> Header {
        Header {
            name: Name::new("s02").unwrap(),
            boot_id: [2; 16],
            nonce: 2,
            challenge: self.its_challenge,
            incarnation: 1,
            sequence: 0,
            interval: self.its_interval,
            metric: 0.0,
            flags: flags::READY | flags::SETTLED,
            config_hash: [9; 16],
        }
    }

    /// The peer's next heartbeat.
    fn beat(&mut self, hears: bool) -> Vec<Vec<u8>> {
        let header = self.header();
        let other = |n: u64| Echo { id: MemberId(n << 57 | n), nonce: n, challenge: 1, alive: true };
        let mut echoes: Vec<Echo> = (0..100).map(other).collect();
        echoes.extend(hears.then_some(Echo { id: Pair::me(), nonce: 1, challenge: self.challenge, alive: true }));
        let assignment = Assignment { term: self.term, proposer: Pair::peer(), actives: vec![Pair::peer()] };
        let vip = |n: u8| VipBeat {
            address: [10, 0, u8::from(n > 0), 100 + n].into(),
            flags: vip_flags::HEALTHY | vip_flags::SERVING,
            rank: 0,
            assignment: assignment.clone(),
        };
        let vips: Vec<VipBeat> = (0..81).rev().map(vip).collect();
        let source = Mac([2, 0, 0, 0, 0, 2]);
        let frames = heartbeat::write(&self.auth, source, 0x88b5, &header, &echoes, &vips, &mut self.sequence);
        assert_eq!(frames.len(), 4);
        frames.iter().map(|frame| frame.bytes().to_vec()).collect()
    }

    /// A frame of another name that was recorded long ago.
    fn recorded(&self, number: u64, mut sequence: u64) -> Vec<u8> {
        let name = Name::new(&format!("r{number}")).unwrap();
        let header = Header { name, nonce: 1000 + number, ..self.header() };
        let frames = heartbeat::write(&self.auth, Mac([2, 0, 0, 0, 1, 1]), 0x88b5, &header, &[], &[], &mut sequence);
        frames[0].bytes().to_vec()
    }

    fn hear(&mut self, frames: &[Vec<u8>]) {
        frames.iter().for_each(|frame| self.event(Event::Frame(frame)));
    }

    /// A heartbeat's time, and the frames of one that arrive.
    fn interval(&mut self, hears: bool, arrives: fn(&Heartbeat) -> bool) {
        let mut frames = self.beat(hears);
        frames.retain(|frame| arrives(&heartbeat::parse(frame, 0x88b5, &self.auth).unwrap()));
        self.now += 2 * MS;
        self.hear(&frames);
        for _ in 0..8 {
            self.now += MS;
            self.event(Event::Tick);
        }
    }

    fn state(&self) -> Option<PeerState> {
        self.control.view(self.now).peers.iter().find(|peer| peer.name.id() == Pair::peer()).map(|peer| peer.state)
    }

    fn held(&self) -> u64 {
        self.control.vips[0].assignment.term
    }
}

fn tells_of_us(frame: &Heartbeat) -> bool {
    frame.scope.contains(Pair::me())
}

#[test]
fn a_frame_that_does_not_tell_of_us_is_no_word_that_we_are_not_heard() {
    let mut pair = Pair::new();
    // One lost costs one interval: what the others say holds.
    pair.term = 50;
    pair.interval(true, |frame| !tells_of_us(frame));
    assert_ne!(pair.state(), Some(PeerState::Dead));
    assert_eq!(pair.held(), 50);
    pair.interval(true, |_| true);
    assert_eq!(pair.state(), Some(PeerState::Alive));
    // But they do not stand in for it.
    (0..4).for_each(|_| pair.interval(true, |frame| !tells_of_us(frame)));
    assert_eq!(pair.state(), Some(PeerState::Dead));
    let held = pair.held();
    pair.term = 100;
    pair.interval(true, |frame| !tells_of_us(frame));
    assert_eq!(pair.held(), held, "the dead are not obeyed");
    // One frame of it is enough to come back by.
    pair.interval(true, tells_of_us);
    assert_eq!(pair.state(), Some(PeerState::Alive));
    pair.interval(true, |_| true);
    assert_eq!(pair.held(), 100);
}

#[test]
fn a_frame_that_tells_of_us_and_does_not_echo_us_silences_all_others() {
    let mut pair = Pair::new();
    pair.term = 50;
    pair.interval(false, |_| true);
    assert_ne!(pair.held(), 50, "parts come before VIPs");
    assert_eq!(pair.state(), Some(PeerState::Suspect));
    pair.interval(false, |_| true);
    assert_eq!(pair.state(), Some(PeerState::Dead), "long before its silence would be a death");
    pair.interval(true, |_| true);
    assert_eq!((pair.state(), pair.held()), (Some(PeerState::Alive), 50));
}

#[test]
fn who_has_taken_somebody_for_dead_is_obeyed_once_it_says_that_it_was_not_us() {
    let mut pair = Pair::new();
    (pair.term, pair.its_challenge) = (50, 2);
    pair.interval(false, |frame| !tells_of_us(frame));
    assert_ne!(pair.held(), 50, "what tells that it was us may be lost");
    assert_ne!(pair.state(), Some(PeerState::Dead));
    pair.interval(true, |_| true);
    assert_eq!((pair.state(), pair.held()), (Some(PeerState::Alive), 50));
}

#[test]
fn a_peer_whose_interval_is_shorter_now_is_missed_earlier() {
    let mut pair = Pair::new();
    pair.its_interval = 100 * MS;
    pair.interval(true, |_| true);
    pair.its_interval = 10 * MS;
    pair.interval(true, |frame| !tells_of_us(frame));
    (0..4).for_each(|_| pair.interval(true, |_| false));
    assert_eq!(pair.state(), Some(PeerState::Dead));
}

#[test]
fn recordings_of_as_many_names_as_there_is_room_for_keep_no_member_out() {
    let mut pair = Pair::apart();
    for round in 0..30 {
        for number in 0..MEMBERS_MAX as u64 + 6 {
            let frame = pair.recorded(number, round);
            pair.hear(&[frame]);
        }
        pair.interval(true, if round < 10 { |_| false } else { |_| true });
    }
    assert_eq!(pair.control.membership.peers.len(), MEMBERS_MAX - 1);
    assert_eq!(pair.state(), Some(PeerState::Alive));
}

#[test]
fn frames_of_one_heartbeat_may_come_in_any_order() {
    let mut pair = Pair::new();
    for round in 0..24 {
        let mut frames = pair.beat(true);
        // The orders of four frames.
        let mut number = round;
        for place in 0..4 {
            frames.swap(place, place + number % (4 - place));
            number /= 4 - place;
        }
        pair.now += 10 * MS;
        pair.event(Event::Tick);
        pair.hear(&frames);
        assert_eq!(pair.state(), Some(PeerState::Alive), "{round}");
    }
    let heartbeats = pair.control.view(pair.now).heartbeats;
    assert_eq!((heartbeats.accepted, heartbeats.replayed), (4 * (20 + 24), 0));
    // Even the last to come of them counts, where no later one has spoken of it.
    pair.term = 50;
    let mut frames = pair.beat(true);
    frames.reverse();
    pair.hear(&frames);
    assert_eq!(pair.held(), 50);
    // And one of an earlier heartbeat does not.
    pair.term = 70;
    let (old, new) = (pair.beat(false), pair.beat(true));
    pair.hear(&new);
    pair.hear(&old);
    assert_eq!((pair.state(), pair.held()), (Some(PeerState::Alive), 70));
    assert_eq!(pair.control.membership.live().count(), 1);
}
