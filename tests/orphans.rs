//! What becomes of a dead member's clients, and of everybody else's: on packets against one member, and on whole
//! clusters in virtual time.

#![allow(clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a failed scenario tells its trace")]

mod common;

use std::time::Duration;

use baton::control::{Event, PeerState};
use baton::frame::Mac;
use baton::frame::build::{TcpFrame, tcp_frame, timestamps_option};
use baton::frame::ethernet::Ethernet;
use baton::frame::ipv4::Ipv4;
use baton::frame::tcp::{Checksum, Flags, Segment};
use baton::orphans::Suspect;
use baton::shared::Role;
use baton::sim::kernel::End;
use baton::sim::options::HEARTBEAT;
use baton::sim::segment::Flow;
use baton::sim::switch::Cable;
use baton::sim::{Cluster, Finish, Options, Plan, Story};
use baton::verdict::DropReason;
use common::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);

// One member.

/// The client at 10.0.0.1:40000, behind a gateway, says this to a member that knows nothing of it.
fn say(lab: &mut Lab, after: Duration, flags: u8, seq: u32, ack: u32, data: &[u8]) {
    lab.now += after;
    let options = timestamps_option(lab.now.as_millis() as u32, 9);
    let frame = TcpFrame { flags, seq, ack, options: &options, data, to: VMAC, from: GATEWAY, ..TcpFrame::default() };
    let out = lab.wire(&tcp_frame(&frame));
    assert_eq!((out.drops, out.to_host.len()), (vec![DropReason::NoConnection], 0));
    assert_eq!(out.to_wire.len(), 0);
}

/// It repeats itself until the control thread is told of it.
fn suspected(lab: &mut Lab) -> Suspect {
    for after in [0, 200, 400] {
        say(lab, after * MS, ACK, 1000, 5000, b"GET /");
        assert_eq!(lab.member.shared.suspects.pop(), None);
    }
    say(lab, 800 * MS, ACK, 1000, 5000, b"GET /");
    assert_eq!(lab.counters.suspected.get(), 1);
    lab.member.shared.suspects.pop().unwrap()
}

/// The control thread says that the client is an orphan: the frames that leave.
fn condemn(lab: &mut Lab, orphan: Suspect) -> Vec<Vec<u8>> {
    assert!(lab.member.shared.orphans.push(orphan).is_ok());
    lab.wire(&[]).to_wire
}

#[test]
fn an_orphan_gets_the_one_reset_that_its_kernel_takes() {
    let mut lab = Lab::new(ACTIVE);
    let orphan = suspected(&mut lab);
    let [frame] = &condemn(&mut lab, orphan)[..] else { panic!("not one frame") };
    let header = Ethernet::parse(frame).unwrap();
    assert_eq!((header.destination, header.source), (GATEWAY, OWN));
    let packet = Ipv4::parse(frame).unwrap();
    let segment = Segment::parse(&packet).unwrap();
    assert!(packet.checksum_is_right() && segment.checksum() == Checksum::Right);
    assert_eq!((packet.source(), segment.source_port()), ([10, 0, 0, 100].into(), 80));
    assert_eq!((packet.destination(), segment.destination_port()), ([10, 0, 0, 1].into(), 40_000));
    assert_eq!((segment.seq(), segment.ack(), segment.flags()), (5000, 1005, Flags(RST | ACK)));
    assert_eq!((lab.counters.orphans_reset.get(), lab.counters.originated.get()), (1, 1));
    // It was lost: the client's next repeat is told again at once.
    say(&mut lab, 1600 * MS, ACK, 1000, 5000, b"GET /");
    assert_eq!(lab.member.shared.suspects.pop(), Some(orphan));
}

#[test]
fn who_is_no_orphan_any_more_is_not_reset() {
    type Meanwhile = fn(&mut Lab);
    let meanwhile: [(&str, Meanwhile); 6] = [
        ("the client makes progress", |lab| say(lab, MS, ACK, 1005, 5100, b"")),
        ("it sends more", |lab| say(lab, MS, ACK, 1005, 5000, b"more")),
        ("it begins a connection anew", |lab| drop(lab.client(SYN, 77_000, 0))),
        ("it has one with us", |lab| lab.connect(77_000, 9000)),
        ("another member is the primary", |lab| lab.role(PASSIVE)),
        ("it is active, and not the primary", |lab| lab.role(Role { rank: 1, ..ACTIVE })),
    ];
    for (what, meanwhile) in meanwhile {
        let mut lab = Lab::new(ACTIVE);
        let orphan = suspected(&mut lab);
        lab.now += 10 * MS;
        meanwhile(&mut lab);
        assert!(condemn(&mut lab, orphan).is_empty(), "{what}");
        assert_eq!(lab.counters.orphans_reset.get(), 0, "{what}");
    }
}

#[test]
fn only_the_primary_tells_and_only_where_it_is_wanted() {
    for (role, wanted) in [(PASSIVE, true), (Role { rank: 1, ..ACTIVE }, true), (ACTIVE, false)] {
        let mut lab = Lab::with_orphans(role, wanted);
        for after in [0, 200, 400, 800, 1600] {
            say(&mut lab, after * MS, ACK, 1000, 5000, b"GET /");
        }
        assert_eq!(lab.member.shared.suspects.pop(), None);
        // What came before it became the primary counts.
        lab.role(ACTIVE);
        say(&mut lab, 3200 * MS, ACK, 1000, 5000, b"GET /");
        assert_eq!(lab.member.shared.suspects.pop().is_some(), wanted);
    }
}

#[test]
fn a_connection_younger_than_its_syns_record_is_watched_too() {
    // The record says that another member has won, by what a passive saw, or by a race that this member lost.
    for role in [PASSIVE, ACTIVE] {
        let mut lab = Lab::new(role);
        lab.client(SYN, 999, 0);
        lab.client(ACK, 1000, 5000);
        lab.role(ACTIVE);
        for after in [0, 200, 400, 800] {
            lab.now += after * MS;
            let out = lab.client_with(ACK, 1000, 5000, &[], b"GET /");
            assert_eq!((out.drops.len(), out.to_host.len(), out.to_wire.len()), (1, 0, 0));
        }
        let orphan = lab.member.shared.suspects.pop().unwrap();
        assert_eq!(condemn(&mut lab, orphan).len(), 1);
    }
}

#[test]
fn a_segment_with_a_wrong_checksum_is_no_proof() {
    let mut lab = Lab::new(ACTIVE);
    for after in [0, 200, 400, 800] {
        lab.now += after * MS;
        let frame = TcpFrame { flags: ACK, seq: 1000, ack: 5000, data: b"GET /", to: VMAC, ..TcpFrame::default() };
        let mut frame = tcp_frame(&frame);
        *frame.last_mut().unwrap() ^= 1;
        lab.wire(&frame).dropped(DropReason::NoConnection);
    }
    assert_eq!(lab.member.shared.suspects.pop(), None);
}

// A cluster.

fn settled(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options).unwrap();
    assert!(cluster.run_while(SECOND, |cluster| cluster.actives().is_empty()), "nobody became active");
    cluster.run_for(cluster.options.orphans_after + 100 * MS);
    cluster
}

fn stories(cluster: &Cluster) -> impl Iterator<Item = (&Flow, &Story)> {
    cluster.clients.iter().flat_map(|client| &client.stories)
}

#[track_caller]
fn no_violation(cluster: &Cluster) {
    if let Some(violation) = cluster.checks.violations.first() {
        panic!("{}\n{}", violation.what, cluster.trace.tell(violation.flow));
    }
}

fn resets(cluster: &Cluster) -> u64 {
    let daemons = cluster.members.iter().filter_map(|machine| machine.daemon.as_ref());
    daemons.map(|daemon| daemon.counters.orphans_reset.get()).sum()
}

/// `count` open connections to the active, which have answered already, so that their clients know the round trip.
fn open(cluster: &mut Cluster, count: usize, plan: Plan) -> Vec<(usize, Flow)> {
    let plan = Plan { requests: 3, think: 20 * MS, finish: Finish::Stay, ..plan };
    let flows = (0..count).map(|number| {
        let client = number % cluster.clients.len();
        (client, cluster.connect(client, plan))
    });
    let flows = flows.collect();
    cluster.run_for(300 * MS);
    assert!(stories(cluster).all(|(_, story)| story.succeeded()));
    flows
}

/// When the client was reset.
#[track_caller]
fn reset_after(cluster: &Cluster, client: usize, flow: Flow, since: baton::time::Time) -> Duration {
    match cluster.clients[client].stories[&flow].ended {
        Some((at, End::Reset)) => at.since(since),
        ended => panic!("{ended:?}\n{}", cluster.trace.tell(Some(flow))),
    }
}

#[test]
fn a_dead_members_clients_are_reset_within_a_second_and_the_time_to_wait() {
    let after = Options::default().orphans_after;
    for (seed, stamped, upload) in [(1, true, 0), (2, false, 0), (3, true, 20_000), (4, false, 3000)] {
        for handed_over in [false, true] {
            let mut cluster = settled(Options { seed, clients: 4, ..Options::default() });
            let plan = Plan { stamped, upload, ..Plan::default() };
            let flows = open(&mut cluster, 40, plan);
            let owner = cluster.actives()[0];
            if handed_over {
                cluster.tell((owner + 1) % 3, Event::Activate { vip: 0 });
                cluster.run_for(100 * MS);
            }
            cluster.kill(owner);
            cluster.plug(owner, false);
            let killed = cluster.now;
            // Some ask at once, some when the member has long been given up.
            let (early, late) = flows.split_at(20);
            early.iter().for_each(|&(client, flow)| cluster.ask(client, flow));
            cluster.run_for(5 * SECOND);
            let asked = cluster.now;
            late.iter().for_each(|&(client, flow)| cluster.ask(client, flow));
            cluster.run_for(5 * SECOND);
            no_violation(&cluster);
            for &(client, flow) in early {
                let waited = reset_after(&cluster, client, flow, killed);
                assert!(waited <= after + SECOND && waited >= after - 20 * MS, "{waited:?}");
            }
            for &(client, flow) in late {
                let waited = reset_after(&cluster, client, flow, asked);
                assert!(waited <= after + SECOND, "{waited:?}");
            }
            assert_eq!((resets(&cluster), cluster.checks.seen.orphans), (40, 40));
        }
    }
}

#[test]
fn a_client_that_closes_is_told_too() {
    let mut cluster = settled(Options::default());
    let flows = open(&mut cluster, 5, Plan::default());
    let owner = cluster.actives()[0];
    cluster.kill(owner);
    cluster.run_for(3 * SECOND);
    let closed = cluster.now;
    for &(client, flow) in &flows {
        cluster.clients[client].kernel.close(flow, closed);
    }
    // Its frames leave with those of another connection.
    cluster.connect(0, Plan::default());
    cluster.run_for(3 * SECOND);
    no_violation(&cluster);
    for (client, flow) in flows {
        assert!(reset_after(&cluster, client, flow, closed) <= 2 * SECOND);
    }
}

#[test]
fn a_daemon_that_is_back_in_time_loses_nobody() {
    for (away, lost) in [(1000 * MS, 0), (1800 * MS, 0), (4000 * MS, 20)] {
        let mut cluster = settled(Options { clients: 2, ..Options::default() });
        let flows = open(&mut cluster, 20, Plan::default());
        let owner = cluster.actives()[0];
        cluster.kill(owner);
        flows.iter().for_each(|&(client, flow)| cluster.ask(client, flow));
        cluster.run_for(away);
        cluster.start(owner).unwrap();
        cluster.run_for(10 * SECOND);
        no_violation(&cluster);
        let broken = stories(&cluster).filter(|(_, story)| story.broke()).count();
        assert_eq!((broken, resets(&cluster)), (lost, lost as u64), "away for {away:?}");
        let answered = stories(&cluster).filter(|(_, story)| story.succeeded()).count();
        assert_eq!(answered, 20 - lost);
    }
}

#[test]
fn a_member_that_cannot_be_heard_is_as_good_as_dead() {
    let mut cluster = settled(Options { clients: 2, ..Options::default() });
    let flows = open(&mut cluster, 10, Plan::default());
    let owner = cluster.actives()[0];
    cluster.cables[owner].inward = false;
    let cut = cluster.now;
    flows.iter().for_each(|&(client, flow)| cluster.ask(client, flow));
    cluster.run_for(5 * SECOND);
    no_violation(&cluster);
    for (client, flow) in flows {
        let waited = reset_after(&cluster, client, flow, cut);
        assert!(waited <= 3 * SECOND && waited >= 1980 * MS, "{waited:?}");
    }
}

/// A live member whose heartbeats nobody hears, and every kind of client that sends little or in vain.
fn unheard(seed: u64, stamped: bool) -> Cluster {
    let mut cluster = settled(Options { seed, clients: 4, ..Options::default() });
    let owner = cluster.actives()[0];
    let open_to_owner = open(&mut cluster, 8, Plan { stamped, ..Plan::default() });
    let plan = Plan { stamped, finish: Finish::Stay, ..Plan::default() };
    // Slow to read: the server's window closes and stays closed for a long time, again and again.
    cluster.connect(0, Plan { upload: 400_000, ..plan });
    cluster.connect(0, Plan { requests: 100, upload: 20_000, think: 10 * MS, ..plan });
    // Lossy downloads and uploads, all along. Of an upload four answers in a row must not be lost: a member that nobody
    // hears is then taken for dead. A lossy cable of a client hides its repeats from all members, the answers it does not.
    for (client, loss) in [(1, 0.1), (2, 0.02)] {
        *cluster.client_cable(client) = Cable { loss, held_up: 0.1, duplicated: 0.05, ..Cable::default() };
    }
    cluster.connect(1, Plan { requests: 50, download: 300_000, think: 100 * MS, ..plan });
    cluster.connect(2, Plan { requests: 50, upload: 200_000, think: 100 * MS, ..plan });
    cluster.run_for(100 * MS);
    cluster.cables[owner].blocked = Some(HEARTBEAT);
    cluster.members[owner].server.reading = false;
    for (round, &(client, flow)) in open_to_owner.iter().take(6).enumerate() {
        cluster.run_for(4 * SECOND);
        // Keep-alives and probes of other stacks, of a client that is idle.
        keep_alive(&mut cluster, client, flow, stamped);
        let (now, machine) = (cluster.now, &mut cluster.members[owner]);
        machine.server.reading = round % 2 == 1;
        if machine.server.reading {
            machine.server.resume(&mut machine.kernel, now);
            cluster.host(owner);
        }
    }
    cluster.run_for(40 * SECOND);
    assert!(cluster.actives().len() == 2, "the others have a primary of their own");
    for &(client, flow) in &open_to_owner {
        cluster.ask(client, flow);
    }
    cluster.run_while(600 * SECOND, |cluster| !stories(cluster).all(|(_, story)| story.succeeded()));
    cluster
}

/// What Windows sends where nothing is to be sent: one byte below what was acknowledged; and as other stacks probe a
/// closed window, one byte above. At the gaps of a timeout.
fn keep_alive(cluster: &mut Cluster, client: usize, flow: Flow, stamped: bool) {
    let socket = cluster.clients[client].kernel.socket(flow).unwrap();
    let (next, ack, stamp) = (socket.snd_nxt(), socket.rcv_nxt(), socket.peer_timestamp());
    for gap in [0, 200, 400, 800, 1600] {
        for (seq, data) in [(next.wrapping_sub(1), &b"x"[..]), (next, &b"y"[..]), (next.wrapping_sub(1), &[])] {
            cluster.run_for(gap * MS / 3);
            let options = stamped.then(|| timestamps_option(1, stamp.unwrap_or(0)));
            let frame = tcp_frame(&TcpFrame {
                to: Options::virtual_mac(0),
                from: Options::client_mac(client),
                source: (*flow.local.ip(), flow.local.port()),
                destination: (*flow.remote.ip(), flow.remote.port()),
                flags: ACK,
                seq,
                ack,
                data,
                options: options.as_ref().map_or(&[], |options| &options[..]),
                ..TcpFrame::default()
            });
            // To the primary alone: the owner need not be confused by bytes that were never sent.
            for member in 0..cluster.members.len() {
                if cluster.truth(flow).and_then(|truth| cluster.checks.owner(flow, truth)) != Some(member)
                    && let Some(daemon) = &mut cluster.members[member].daemon
                {
                    daemon.arrive(frame.as_slice().into());
                }
            }
        }
    }
}

#[test]
fn a_live_members_clients_are_never_reset_though_nobody_hears_its_heartbeats() {
    for seed in 1..=4 {
        for stamped in [true, false] {
            let cluster = unheard(seed, stamped);
            no_violation(&cluster);
            assert_eq!((resets(&cluster), cluster.checks.seen.orphans), (0, 0), "seed {seed}");
            for (flow, story) in stories(&cluster) {
                assert!(story.succeeded(), "{flow}: {:?}\n{}", story.ended, cluster.trace.tell(Some(*flow)));
            }
        }
    }
}

/// Why a client that only waits is told nothing (docs/orphans.md): it may be the client of a member that nobody has ever
/// heard. All that the members have and say is the same as if its server had gone.
#[test]
fn a_client_that_waits_may_be_that_of_a_member_nobody_has_heard() {
    let mut cluster = settled(Options { clients: 2, ..Options::default() });
    let flows = open(&mut cluster, 10, Plan::default());
    let owner = cluster.actives()[0];
    let others: Vec<usize> = (0..3).filter(|&member| member != owner).collect();
    // A long poll: the request is acknowledged, its answer takes a while.
    cluster.members[owner].server.reading = false;
    flows.iter().for_each(|&(client, flow)| cluster.ask(client, flow));
    cluster.run_for(100 * MS);
    cluster.cables[owner].blocked = Some(HEARTBEAT);
    for &member in &others {
        cluster.kill(member);
        cluster.run_for(100 * MS);
        cluster.start(member).unwrap();
        cluster.run_for(SECOND);
    }
    // One whose machine was rebooted: if the clients were its own, they would wait for ever.
    cluster.reboot(others[1]);
    cluster.start(others[1]).unwrap();
    cluster.run_for(10 * SECOND);
    for &member in &others {
        let view = cluster.members[member].daemon.as_ref().unwrap().view(cluster.now).unwrap();
        let states: Vec<_> = view.peers.iter().map(|peer| peer.state).collect();
        assert_eq!(states, [PeerState::Alive], "everyone it has ever heard is there");
    }
    no_violation(&cluster);
    assert_eq!((resets(&cluster), cluster.checks.seen.orphans), (0, 0));
    let (now, machine) = (cluster.now, &mut cluster.members[owner]);
    machine.server.reading = true;
    machine.server.resume(&mut machine.kernel, now);
    cluster.host(owner);
    cluster.run_for(SECOND);
    no_violation(&cluster);
    assert!(stories(&cluster).all(|(_, story)| story.succeeded() && !story.broke()));
}

#[test]
fn a_flood_of_unknown_segments_is_answered_by_nothing() {
    let mut cluster = settled(Options { strangers: 1, ..Options::default() });
    let flows = open(&mut cluster, 5, Plan::default());
    for number in 0..20_000u32 {
        let spoofed = TcpFrame {
            to: Options::virtual_mac(0),
            from: Options::stranger_mac(0),
            source: (std::net::Ipv4Addr::from_bits(0x0b00_0000 + number % 5000), 1024),
            destination: (*cluster.service().ip(), cluster.service().port()),
            flags: ACK,
            seq: number,
            ack: number,
            data: b"spoofed",
            ..TcpFrame::default()
        };
        cluster.inject(0, &tcp_frame(&spoofed));
        cluster.run_for(MS / 10);
    }
    flows.iter().for_each(|&(client, flow)| cluster.ask(client, flow));
    cluster.run_for(5 * SECOND);
    no_violation(&cluster);
    assert_eq!(resets(&cluster), 0);
    assert!(stories(&cluster).all(|(_, story)| story.succeeded()));
}
