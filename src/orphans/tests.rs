use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::frame::build::{TcpFrame, tcp_frame, timestamps_option};
use crate::frame::ipv4::Ipv4;
use crate::frame::tcp::Flags;
use crate::table::Hasher;

const ACK: u8 = Flags::ACK;
const NEVER: [usize; 0] = [];
const FIN: u8 = Flags::ACK | Flags::FIN;

fn tuple(client_port: u16) -> Tuple {
    Tuple { client: Ipv4Addr::new(10, 0, 0, 1), client_port, port: 80, vip: 3 }
}

fn hash(tuple: &Tuple) -> Hash {
    Hasher::new([7; 16]).hash(tuple)
}

/// A client, and what it is suspected of.
struct Client {
    suspicions: Suspicions,
    recent: Recent,
    tuple: Tuple,
    now: u64,
    ack: u32,
    /// Its timestamp echo, where it uses timestamps.
    echo: Option<u32>,
}

impl Client {
    fn new() -> Client {
        // Both clocks wrap around within each test.
        let now = (1 << 32) - 700;
        Client {
            suspicions: Suspicions::new(64),
            recent: Recent::new(64),
            tuple: tuple(40_000),
            now,
            ack: 5000,
            echo: Some(77),
        }
    }

    /// Sends a segment `after` milliseconds.
    fn sends(&mut self, after: u64, flags: u8, seq: u32, data: usize) -> Option<Suspicion> {
        self.now += after;
        let options = self.echo.map(|echo| timestamps_option(self.now as u32, echo));
        let frame = tcp_frame(&TcpFrame {
            flags,
            seq,
            ack: self.ack,
            options: options.as_ref().map_or(&[], |options| &options[..]),
            data: &vec![b'x'; data],
            ..TcpFrame::default()
        });
        let packet = Ipv4::parse(&frame).unwrap();
        let segment = Segment::parse(&packet).unwrap();
        self.suspicions.observe(&self.recent, &self.tuple, hash(&self.tuple), &segment, Time::from_millis(self.now))
    }

    /// Sends the same segment again and again, after these milliseconds each. At which of them it was suspected.
    fn repeats(&mut self, gaps: &[u64], flags: u8, seq: u32, data: usize) -> Vec<usize> {
        let at = |index: &usize| self.sends(gaps[*index], flags, seq, data).is_some();
        (0..gaps.len()).filter(at).collect()
    }

    fn still(&self, suspicion: &Suspicion) -> Option<Duration> {
        self.suspicions.still(suspicion, hash(&self.tuple), Time::from_millis(self.now))
    }
}

#[test]
fn a_client_that_repeats_itself_at_growing_gaps_is_suspected() {
    for (flags, data) in [(ACK, 2), (ACK, 1448), (FIN, 0), (FIN, 1), (FIN, 100)] {
        let mut client = Client::new();
        let seq = u32::MAX - 50;
        assert_eq!(client.repeats(&[0, 200, 400, 800, 1600], flags, seq, data), [3, 4]);
        let end = seq.wrapping_add(data as u32 + u32::from(flags == FIN));
        let suspicion = Suspicion { tuple: client.tuple, seq, end, ack: 5000 };
        assert_eq!(client.sends(3200, flags, seq, data), Some(suspicion));
        client.now += 5;
        assert_eq!(client.still(&suspicion), Some(Duration::from_millis(5)));
    }
}

#[test]
fn clients_that_are_answered_push_nobody_out() {
    let mut client = Client { recent: Recent::new(4), ..Client::new() };
    let mut requests = 0;
    let mut suspected = Vec::new();
    for (repeat, gap) in [0, 200, 400, 800, 1600].into_iter().enumerate() {
        for _ in 0..gap / 50 {
            // Others of the same place ask, and acknowledge what they are answered.
            for port in [40_001, 40_002, 40_003] {
                let own = std::mem::replace(&mut client.tuple, tuple(port));
                let seq = 100 + 42 * requests;
                assert_eq!(client.sends(0, ACK, seq, 42), None);
                assert_eq!(client.sends(0, ACK, seq + 42, 0), None);
                client.tuple = own;
            }
            requests += 1;
            client.now += 50;
        }
        suspected.extend(client.sends(0, ACK, 7, 37).map(|_| repeat));
    }
    assert_eq!(suspected, [3, 4]);
}

#[test]
fn a_tail_loss_probe_as_late_as_the_first_timeout_delays_nothing() {
    let mut client = Client::new();
    assert_eq!(client.repeats(&[0, 205, 205, 410, 820], ACK, 100, 500), [4]);
}

#[test]
fn of_several_segments_the_first_is_repeated_and_what_was_sent_ends_with_the_last() {
    let mut client = Client::new();
    for number in 0..10 {
        assert_eq!(client.sends(0, ACK, 100 + number * 1000, 1000), None);
    }
    // A probe with the last, timeouts with the first; copies that the network makes.
    assert_eq!(client.sends(205, ACK, 9100, 1000), None);
    assert_eq!(client.repeats(&[205, 1, 409, 1], ACK, 100, 1000), NEVER);
    let suspicion = Suspicion { tuple: client.tuple, seq: 100, end: 10_100, ack: 5000 };
    assert_eq!(client.sends(820, ACK, 100, 1000), Some(suspicion));
}

#[test]
fn segments_joined_or_cut_when_they_are_repeated_are_the_same_data() {
    let mut client = Client::new();
    assert_eq!((client.sends(0, ACK, 100, 10), client.sends(1, ACK, 110, 20)), (None, None));
    assert_eq!((client.sends(200, ACK, 100, 30), client.sends(400, ACK, 100, 30)), (None, None));
    assert!(client.sends(800, ACK, 100, 20).is_some());
}

#[test]
fn keep_alives_and_window_probes_never_count() {
    let gaps = [0, 200, 400, 800, 1600, 3200, 6400];
    // Linux sends no data, below what was acknowledged; others one byte: below it to keep alive, of the next data to
    // probe.
    for (seq, data) in [(99, 0), (100, 0), (99, 1), (100, 1)] {
        for echo in [Some(77), None] {
            let mut client = Client { echo, ..Client::new() };
            assert_eq!(client.repeats(&gaps, ACK, seq, data), NEVER, "{seq} {data}");
            // After data, which was acknowledged if anything of the kind follows.
            assert_eq!(client.repeats(&gaps[..3], ACK, 50, 50), NEVER);
            assert_eq!(client.repeats(&gaps, ACK, seq, data), NEVER, "{seq} {data}");
            assert_eq!(client.repeats(&gaps[..3], ACK, 50, 50), NEVER, "{seq} {data}");
        }
    }
}

#[test]
fn what_comes_in_an_even_rhythm_is_no_timeout() {
    let mut client = Client::new();
    let gaps: Vec<u64> = (0..100).map(|n| 1000 + n * 37 % 200).collect();
    assert_eq!(client.repeats(&gaps, ACK, 100, 500), NEVER);
}

#[test]
fn copies_that_the_network_makes_do_not_count() {
    let mut client = Client::new();
    assert_eq!(client.repeats(&[0, 1, 2, 4, 8, 16, 19], ACK, 100, 500), NEVER);
}

#[test]
fn what_has_not_come_for_minutes_is_not_repeated() {
    let mut client = Client::new();
    assert_eq!(client.repeats(&[0, 60_000, 120_000, 241_000], ACK, 100, 500), NEVER);
}

#[test]
fn any_progress_begins_anew() {
    type Progress = fn(&mut Client) -> Option<Suspicion>;
    let progress: [(&str, Progress); 8] = [
        ("it received data", |client| {
            client.ack += 1;
            client.sends(300, ACK, 100, 500)
        }),
        ("it received an ACK, as its timestamps show", |client| {
            client.echo = Some(78);
            client.sends(300, ACK, 100, 500)
        }),
        ("it sends more", |client| client.sends(300, ACK, 600, 500)),
        ("it sends more in the same segment", |client| client.sends(300, ACK, 100, 501)),
        ("it repeats what comes after", |client| client.sends(300, ACK, 200, 400)),
        ("it acknowledges, so it was sent something", |client| client.sends(300, ACK, 600, 0)),
        ("it keeps alive, so all was acknowledged", |client| client.sends(300, ACK, 599, 0)),
        ("it ends", |client| client.sends(300, Flags::RST, 600, 0)),
    ];
    for (what, progress) in progress {
        let mut client = Client::new();
        assert_eq!(client.repeats(&[0, 200, 400], ACK, 100, 500), NEVER, "{what}");
        let suspicion = client.sends(800, ACK, 100, 500).unwrap();
        assert_eq!(progress(&mut client), None, "{what}");
        assert_eq!(client.still(&suspicion), None, "{what}");
        assert_eq!(client.repeats(&[200, 400], ACK, 100, 500), NEVER, "{what}");
    }
}

#[test]
fn the_same_numbers_of_another_client_are_another_client() {
    let mut client = Client::new();
    for (gap, vip, client_port) in [(0, 3, 40_000), (200, 4, 40_000), (400, 3, 40_001), (800, 3, 40_000)] {
        client.tuple = Tuple { vip, ..tuple(client_port) };
        assert_eq!(client.sends(gap, ACK, 100, 500), None);
    }
}

#[test]
fn a_flood_pushes_nobody_out_who_repeats_himself() {
    let (suspicions, recent) = (Suspicions::new(WAYS), Recent::new(WAYS));
    let sighting = Sighting { seq: 1, end: 101, ack: 5, echo: 0, repeated: true };
    let send =
        |port, now| suspicions.sighted(&recent, &tuple(port), hash(&tuple(port)), &sighting, Time::from_millis(now));
    let found = |port: &u16| suspicions.buckets[0].0.iter().any(|slot| slot.has(slot.meta(), &tuple(*port)));
    let all = || (1..1000).filter(found).collect::<Vec<u16>>();
    send(1, 0);
    send(1, 200);
    for port in 2..1000 {
        send(port, 200 + u64::from(port));
    }
    assert_eq!(all(), [1]);
    assert_eq!(send(1, 1300), None);
    assert!(send(1, 4000).is_some());
    // All of them repeat themselves: the oldest goes.
    for now in [5000, 5200] {
        for port in 997..1000 {
            send(port, now + u64::from(port));
        }
    }
    assert_eq!(all(), [1, 997, 998, 999]);
    for now in [6300, 6600] {
        send(1, now);
        send(2, now + 1);
    }
    assert_eq!(all(), [1, 2, 998, 999]);
}

#[test]
fn workers_that_meet_at_a_client_leave_no_slot_behind() {
    let suspicions = Suspicions::new(8);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let suspicions = &suspicions;
            scope.spawn(move || {
                let recent = Recent::new(8);
                for now in 0..20_000 {
                    let tuple = tuple((now % 16) as u16);
                    let repeated = now % 5 != thread;
                    let sighting = Sighting { seq: 1, end: 101, ack: now / 512, echo: 0, repeated };
                    let now = Time::from_millis(u64::from(now) * 30);
                    suspicions.sighted(&recent, &tuple, hash(&tuple), &sighting, now);
                }
            });
        }
    });
    assert!(suspicions.buckets.iter().flat_map(|bucket| &bucket.0).any(|slot| slot.meta() != Meta::EMPTY));
    for slot in suspicions.buckets.iter().flat_map(|bucket| &bucket.0) {
        assert!(!slot.meta().is_busy());
    }
}

/// A segment of a made-up client: gap before it, which of a few segments, whether its ack or echo is another.
fn steps() -> impl Strategy<Value = Vec<(u32, u32, u32, bool)>> {
    let gap = prop_oneof![Just(1u32), Just(200), Just(400), Just(800), Just(1600), 0u32..300_000];
    vec((gap, 0u32..3, prop_oneof![8 => Just(0u32), 1 => 0u32..3], prop::bool::weighted(0.95)), 1..60)
}

/// Options as stacks place them: none; timestamps where RFC 7323 recommends them, or elsewhere; others; one that is cut off.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let timestamps = |echo: u32| timestamps_option(5, echo);
    prop_oneof![
        Just(Vec::new()),
        any::<u32>().prop_map(move |echo| timestamps(echo).to_vec()),
        any::<u32>().prop_map(move |echo| [&timestamps(echo)[2..], &[1, 1]].concat()),
        any::<u32>().prop_map(move |echo| [&[5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1][..], &timestamps(echo)].concat()),
        Just(vec![1, 1, 8, 10]),
        Just(vec![1, 1, 8, 4, 0, 0, 0, 0, 1, 2, 3, 4]),
        vec(any::<u8>(), 8..=8),
    ]
}

proptest! {
    #[test]
    fn a_common_segment_is_sighted_as_any(
        fin: bool, seq: u32, ack: u32, options in options(), data in 0..40usize,
    ) {
        let flags = if fin { FIN } else { ACK };
        let data = vec![b'x'; data];
        let frame = tcp_frame(&TcpFrame { flags, seq, ack, options: &options, data: &data, ..TcpFrame::default() });
        let packet = Ipv4::parse(&frame).unwrap();
        let segment = Segment::parse(&packet).unwrap();
        prop_assume!(segment.may_be_repeated());
        prop_assert_eq!(Sighting::of_common(&frame), Some(Sighting::of(&segment)));
    }
}

proptest! {
    /// Whatever a client sends: who is suspected has sent nothing since but repeats, at gaps of which three grew.
    #[test]
    fn nobody_is_suspected_without_the_whole_proof(steps in steps()) {
        let (suspicions, recent) = (Suspicions::new(4), Recent::new(4));
        let (mut now, mut since) = (0u32, Vec::<(u32, Sighting)>::new());
        for (gap, segment, heard, repeated) in steps {
            now += gap;
            let seq = 100 + segment * 50;
            let sighting = Sighting { seq, end: seq + 50, ack: 7 + heard % 2, echo: heard / 2, repeated };
            let gap = since.last().map_or(0, |(at, _)| now - at);
            // The first gap is told to a tick: what is so near the longest may be taken for either.
            prop_assume!(!(GAP_MAX_MS - 16..=GAP_MAX_MS).contains(&gap));
            let goes_on = since.last().is_some_and(|(_, last)| {
                repeated && gap <= GAP_MAX_MS && (last.ack, last.echo) == (sighting.ack, sighting.echo)
            });
            // Of who is not watched, what need not be repeated is not looked at (`Decider::may_be_known`).
            if !repeated && !suspicions.may_watch(hash(&tuple(1))) {
                continue;
            }
            if !goes_on {
                since.clear();
            }
            if repeated {
                since.push((now, sighting));
            }
            let time = Time::from_millis(now.into());
            let suspicion = suspicions.sighted(&recent, &tuple(1), hash(&tuple(1)), &sighting, time);
            if let Some(suspicion) = suspicion {
                let gaps = since.windows(2).map(|pair| pair[1].0 - pair[0].0).filter(|&gap| gap >= GAP_MIN_MS);
                let mut grown = Vec::<u32>::new();
                // The longest chain of growing gaps; the first is told to eight milliseconds, a slot's to four.
                let mut chains: Vec<usize> = Vec::new();
                for gap in gaps {
                    let before = grown.iter().zip(&chains).filter(|(before, _)| gap * 4 >= (before.saturating_sub(8) & !3) * 5);
                    let longest = before.map(|(_, chain)| *chain).max().unwrap_or(0) + 1;
                    grown.push(gap);
                    chains.push(longest);
                }
                prop_assert!(chains.iter().any(|&chain| chain >= usize::from(REPEATS)), "{since:?}");
                let last_new = since.iter().map(|(_, sighting)| sighting.end).max();
                prop_assert_eq!((Some(suspicion.end), suspicion.ack), (last_new, sighting.ack));
                prop_assert_eq!(suspicion.seq, sighting.seq);
            }
        }
    }
}
