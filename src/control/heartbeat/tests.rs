use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::dialect::Dialect;
use super::*;
use crate::config::checked::Key;

const ETHERTYPE: u16 = 0x88b5;
const SOURCE: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn auth() -> Authenticator {
    Authenticator::new("web", &Key([7; 32]))
}

fn header() -> Header {
    Header {
        name: Name::new("s1").unwrap(),
        boot_id: [3; 16],
        nonce: 0x1122_3344_5566_7788,
        challenge: 5,
        incarnation: 17,
        sequence: 0,
        interval: Duration::from_millis(10),
        metric: 1.5,
        flags: flags::READY | flags::SETTLED,
        config_hash: [4; 16],
    }
}

fn echo(n: u64) -> Echo {
    Echo { id: MemberId(n), nonce: n + 1, challenge: 7, alive: n.is_multiple_of(2) }
}

fn vip(n: u32, actives: usize) -> VipBeat {
    VipBeat {
        address: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)),
        flags: vip_flags::HEALTHY,
        rank: 0,
        assignment: Assignment {
            term: 9,
            proposer: MemberId(8),
            actives: (0..actives as u64).map(|n| MemberId(n * n)).collect(),
        },
    }
}

fn frames(echoes: &[Echo], vips: &[VipBeat]) -> Vec<Vec<u8>> {
    let frames = write(&auth(), SOURCE, ETHERTYPE, &header(), echoes, vips, &mut 0);
    frames.iter().map(|frame| frame.bytes().to_vec()).collect()
}

/// A frame as a later minor version might send it.
fn later(frame: &[u8]) -> Vec<u8> {
    Dialect::Later.send(frame, ETHERTYPE, &auth()).unwrap()
}

#[test]
fn the_layout_is_as_documented() {
    let frame = &frames(&[echo(2)], &[vip(100, 1)])[0];
    assert_eq!(frame[..14], [3, b'b', b'a', b't', b'o', b'n', 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    assert_eq!(&frame[14..20], b"BATN\x01\x01");
    assert_eq!(usize::from(u16::from_be_bytes([frame[20], frame[21]])), frame.len() - 14);
    assert_eq!(frame[22..30], auth().cluster().to_be_bytes());
    assert_eq!(frame[30..32], [0, 125]);
    assert_eq!(frame[32..36], [2, b's', b'1', 0]);
    assert_eq!(frame[65..81], [3; 16]);
    assert_eq!(frame[81..89], header().nonce.to_be_bytes());
    assert_eq!(frame[89..93], [0, 0, 0, 5]);
    assert_eq!((frame[100], frame[108]), (17, 1), "incarnation, sequence");
    assert_eq!(frame[109..113], 10_000u32.to_be_bytes());
    assert_eq!(frame[113..121], 1.5f64.to_be_bytes());
    assert_eq!((frame[122], frame[123]), (3, 4));
    assert_eq!(frame[139..143], [1, 0, 22, 21], "echoes");
    assert_eq!(frame[164..167], [2, 0, 33], "VIPs");
    assert_eq!(frame[167..175], [32, 4, 10, 0, 0, 100, 1, 0]);
    assert_eq!(frame.len(), 200 + TAG_LEN);
}

#[test]
fn a_heartbeat_survives_writing_and_reading() {
    let v6 = VipBeat { address: IpAddr::V6(Ipv6Addr::LOCALHOST), ..vip(0, 3) };
    let (echoes, vips) = ([echo(1), echo(2)], [vip(1, 0), v6, vip(2, 16)]);
    let frames = frames(&echoes, &vips);
    assert_eq!(frames.len(), 1);
    let read = parse(&frames[0], ETHERTYPE, &auth()).unwrap();
    assert_eq!(read.header, Header { sequence: 1, ..header() });
    assert_eq!((read.source, read.echoes.as_slice(), read.vips.as_slice()), (SOURCE, &echoes[..], &vips[..]));
}

#[test]
fn what_does_not_fit_one_frame_goes_in_several() {
    let echoes: Vec<Echo> = (0..32).map(echo).collect();
    let vips: Vec<VipBeat> = (0..256).map(|n| vip(n, 16)).collect();
    let frames = frames(&echoes, &vips);
    let mut read = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        assert!(frame.len() <= HEARTBEAT_MAX);
        let part = parse(frame, ETHERTYPE, &auth()).unwrap();
        assert_eq!(part.header.sequence, index as u64 + 1);
        assert_eq!((part.scope, part.echoes.as_slice()), (Scope::ALL, &echoes[..]));
        read.extend(part.vips);
    }
    assert_eq!(read, vips);
    // 15 peers and one active each: how much fits is part of the documentation.
    let echoes: Vec<Echo> = (0..15).map(echo).collect();
    let vips: Vec<VipBeat> = (0..256).map(|n| vip(n, 1)).collect();
    assert_eq!(super::tests::frames(&echoes, &vips[..30]).len(), 1);
    assert_eq!(super::tests::frames(&echoes, &vips[..31]).len(), 2);
    assert_eq!(super::tests::frames(&echoes, &vips).len(), 9);
    // And 63 peers.
    let echoes: Vec<Echo> = (0..63).map(echo).collect();
    assert_eq!(super::tests::frames(&echoes, &vips[..39]).len(), 2);
    assert_eq!(super::tests::frames(&echoes, &vips[..40]).len(), 3);
    assert_eq!(super::tests::frames(&echoes, &vips).len(), 8);
}

/// The sections of a frame: kind, and length of the body.
fn sections(frame: &[u8]) -> Vec<(u8, usize)> {
    let mut rest = reader::Reader(&frame[ETHERNET_LEN + HEADER_LEN..frame.len() - TAG_LEN]);
    std::iter::from_fn(|| rest.section()).map(|(kind, body)| (kind, body.len())).collect()
}

#[test]
fn up_to_32_echoes_go_as_minor_version_1_has_them() {
    for peers in 0..=ECHOES_MAX {
        let echoes: Vec<Echo> = (0..peers as u64).rev().map(echo).collect();
        let frames = frames(&echoes, &(0..60).map(|n| vip(n, 1)).collect::<Vec<_>>());
        assert!(frames.len() > 1);
        for frame in &frames {
            assert_eq!(frame[19], 1);
            let found = sections(frame);
            assert_eq!((found.len(), found[0], found[1].0), (2, (1, 1 + 21 * peers), 2));
            assert_eq!(parse(frame, ETHERTYPE, &auth()).unwrap().echoes, echoes, "in the same order");
        }
        let asks = inquiry_frame(&echoes, &Inquiry { questions: vec![question(1)], answers: Vec::new() });
        assert_eq!((asks[19], sections(&asks)), (1, vec![(1, 1 + 21 * peers), (4, 1), (3, 19)]));
    }
}

#[test]
fn more_echoes_go_in_parts_that_tell_of_whom() {
    // Ids far apart, some with two runs.
    let echo = |n: u64| Echo { id: MemberId(((n / 2 + n % 2) << 40) + 7), ..echo(n) };
    for (count, frames_of) in [(33, 1), (62, 1), (63, 2), (64, 2), (127, 3), (319, 6)] {
        let mut echoes: Vec<Echo> = (0..count).rev().map(echo).collect();
        let vips: Vec<VipBeat> = (0..100).map(|n| vip(n, 1)).collect();
        let read: Vec<Heartbeat> =
            frames(&echoes, &vips).iter().map(|frame| parse(frame, ETHERTYPE, &auth()).unwrap()).collect();
        let parts: Vec<&Heartbeat> = read.iter().filter(|frame| !frame.scope.is_none()).collect();
        assert_eq!(parts.len(), frames_of, "{count}");
        // They come first, leave no id out, and tell of none twice.
        assert!(read[..frames_of - 1].iter().all(|frame| frame.vips.is_empty()));
        assert_eq!((parts[0].scope.first, parts[frames_of - 1].scope.last), (Scope::ALL.first, Scope::ALL.last));
        assert!(parts.windows(2).all(|pair| pair[0].scope.last.0 + 1 == pair[1].scope.first.0));
        let sent: Vec<Echo> = read.iter().flat_map(|frame| frame.echoes.iter().copied()).collect();
        echoes.sort_by_key(|echo| echo.id);
        assert_eq!(sent, echoes);
        assert_eq!(read.iter().flat_map(|frame| frame.vips.iter().cloned()).collect::<Vec<_>>(), vips);
        assert!(read[frames_of..].iter().all(|frame| frame.scope == Scope::NONE && frame.echoes.is_empty()));
    }
}

#[test]
fn a_part_is_laid_out_as_documented_and_later_versions_may_lengthen_it() {
    let echoes: Vec<Echo> = (0..63).map(echo).collect();
    let frames = frames(&echoes, &[]);
    assert_eq!((frames.len(), frames[0][19], sections(&frames[0])), (2, 2, vec![(5, 16), (1, 1 + 62 * 21), (2, 0)]));
    assert_eq!(frames[0][142..158], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 61]);
    assert_eq!(frames[1][142..158], [0, 0, 0, 0, 0, 0, 0, 62, 255, 255, 255, 255, 255, 255, 255, 255]);
    for frame in &frames {
        let (read, later) = (parse(frame, ETHERTYPE, &auth()).unwrap(), later(frame));
        assert!(later.len() <= HEARTBEAT_MAX);
        let later = parse(&later, ETHERTYPE, &auth()).unwrap();
        assert_eq!((later.scope, later.echoes), (read.scope, read.echoes));
        // It is of no cluster that a member of the first version can be in.
        assert_eq!(Dialect::Earlier.send(frame, ETHERTYPE, &auth()), None);
    }
    // An echo outside of the scope says nothing.
    let mut frame = frames[1].clone();
    frame.truncate(frame.len() - TAG_LEN);
    frame[149] = 63;
    seal(&auth(), &mut frame);
    assert_eq!(parse(&frame, ETHERTYPE, &auth()).unwrap().echoes, []);
}

fn question(number: u32) -> Question {
    Question {
        number,
        vip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100)),
        client: (Ipv4Addr::new(10, 0, 0, 7), 40_000 + number as u16).into(),
        port: 443,
    }
}

fn answer(number: u32) -> Answer {
    let holds = if number.is_multiple_of(2) { Holds::Mine } else { Holds::NotMine };
    Answer { asker: 0x1111_2222_3333_4444, number, holds }
}

fn inquiry_frame(echoes: &[Echo], inquiry: &Inquiry) -> Vec<u8> {
    write_inquiry(&auth(), SOURCE, ETHERTYPE, &header(), echoes, inquiry, &mut 0).unwrap().bytes().to_vec()
}

#[test]
fn questions_and_answers_are_laid_out_as_documented() {
    let frame = inquiry_frame(&[], &Inquiry { questions: vec![question(1)], answers: vec![answer(2)] });
    assert_eq!(frame[139..143], [1, 0, 1, 21], "echoes");
    assert_eq!(frame[143..147], [4, 0, 14, 13], "answers");
    assert_eq!(frame[147..160], [0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44, 0, 0, 0, 2, 2]);
    assert_eq!(frame[160..164], [3, 0, 19, 18], "questions");
    assert_eq!(frame[164..182], [0, 0, 0, 1, 4, 10, 0, 0, 100, 4, 10, 0, 0, 7, 0x9c, 0x41, 1, 0xbb]);
    assert_eq!(frame.len(), 182 + TAG_LEN);
}

#[test]
fn an_inquiry_survives_writing_and_reading_also_by_a_later_minor_version() {
    let v6 = Question { vip: Ipv6Addr::LOCALHOST.into(), client: (Ipv6Addr::LOCALHOST, 7).into(), ..question(3) };
    let inquiry = Inquiry { questions: vec![question(1), v6], answers: (0..5).map(answer).collect() };
    let frame = inquiry_frame(&[echo(1)], &inquiry);
    let read = parse(&frame, ETHERTYPE, &auth()).unwrap();
    assert_eq!((&read.inquiry, read.header.sequence, read.echoes.len()), (&inquiry, 1, 1));
    assert_eq!(parse(&later(&frame), ETHERTYPE, &auth()).unwrap().inquiry, inquiry);
}

#[test]
fn of_an_inquiry_as_much_goes_as_there_is_room_for() {
    let echoes: Vec<Echo> = (0..40).map(echo).collect();
    for (peers, fit) in [(2, QUESTIONS_MAX), (32, 18), (40, QUESTIONS_MAX)] {
        let inquiry = Inquiry { questions: (0..100).map(question).collect(), answers: (0..100).map(answer).collect() };
        let frame = inquiry_frame(&echoes[..peers], &inquiry);
        let read = parse(&frame, ETHERTYPE, &auth()).unwrap();
        let scope = if peers <= ECHOES_MAX { Scope::ALL } else { Scope::NONE };
        assert_eq!((read.scope, read.echoes.len()), (scope, if peers <= ECHOES_MAX { peers } else { 0 }));
        let read = read.inquiry;
        assert_eq!(read.questions, inquiry.questions[..fit]);
        assert_eq!(read.answers, inquiry.answers[..ANSWERS_MAX]);
    }
}

#[test]
fn an_answer_of_a_kind_that_we_do_not_know_is_none() {
    let mut frame = inquiry_frame(&[], &Inquiry { questions: Vec::new(), answers: vec![answer(1), answer(2)] });
    frame.truncate(frame.len() - TAG_LEN);
    frame[159] = 3;
    seal(&auth(), &mut frame);
    assert_eq!(parse(&frame, ETHERTYPE, &auth()).unwrap().inquiry.answers, [answer(2)]);
}

#[test]
fn padding_after_the_tag_is_ignored() {
    let mut frame = frames(&[], &[]).remove(0);
    frame.extend([0; 60]);
    assert!(parse(&frame, ETHERTYPE, &auth()).is_ok());
}

#[test]
fn a_later_minor_version_is_read_and_another_major_is_not() {
    let (echoes, vips) = ([echo(1), echo(2)], [vip(1, 1), vip(2, 2)]);
    let frame = frames(&echoes, &vips).remove(0);
    let read = parse(&later(&frame), ETHERTYPE, &auth()).unwrap();
    assert_eq!((read.echoes.as_slice(), read.vips.as_slice()), (&echoes[..], &vips[..]));
    let mut other = frame;
    other[18] = 2;
    assert_eq!(parse(&other, ETHERTYPE, &auth()), Err(Rejected::OtherVersion(2)));
}

#[test]
fn an_earlier_minor_version_is_read_and_skips_what_it_does_not_know() {
    let (echoes, vips) = ([echo(1), echo(2)], [vip(1, 1), vip(2, 2)]);
    let frame = frames(&echoes, &vips).remove(0);
    let sent = Dialect::Earlier.send(&frame, ETHERTYPE, &auth()).unwrap();
    assert_eq!((sent[19], frame[19]), (0, MINOR));
    let read = parse(&sent, ETHERTYPE, &auth()).unwrap();
    assert_eq!((read.echoes.as_slice(), read.vips.as_slice()), (&echoes[..], &vips[..]));
    // It neither asks nor answers, and of what others ask it takes the rest.
    let inquiry = Inquiry { questions: vec![question(1)], answers: vec![answer(1)] };
    let asks = inquiry_frame(&echoes, &inquiry);
    assert_eq!(Dialect::Earlier.send(&asks, ETHERTYPE, &auth()), None);
    for asks in [later(&asks), asks] {
        let read = parse(&Dialect::Earlier.receive(&asks, ETHERTYPE, &auth()), ETHERTYPE, &auth()).unwrap();
        assert_eq!((read.echoes.as_slice(), read.inquiry), (&echoes[..], Inquiry::default()));
    }
    // What is not the cluster's is left for the member to refuse.
    let mut altered = frame.clone();
    altered[100] ^= 1;
    assert_eq!(Dialect::Earlier.receive(&altered, ETHERTYPE, &auth()), altered);
}

#[test]
fn refusals_have_reasons() {
    let frame = frames(&[], &[vip(1, 1)]).remove(0);
    let malformed = |frame: &[u8]| match parse(frame, ETHERTYPE, &auth()) {
        Err(Rejected::Malformed(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(malformed(&[]), "shorter than its header");
    assert_eq!(malformed(&frame[..100]), "its length is wrong");
    assert_eq!(parse(&frame, 0x88b6, &auth()), Err(Rejected::Malformed("another EtherType")));
    let other = Authenticator::new("mail", &Key([7; 32]));
    assert_eq!(parse(&frame, ETHERTYPE, &other), Err(Rejected::OtherCluster));
    let other = Authenticator::new("web", &Key([6; 32]));
    assert_eq!(parse(&frame, ETHERTYPE, &other), Err(Rejected::WrongKey));
    let twice = Assignment { actives: vec![MemberId(1), MemberId(1)], ..Assignment::default() };
    let frame = frames(&[], &[VipBeat { assignment: twice, ..vip(1, 0) }]).remove(0);
    assert_eq!(malformed(&frame), "two ranks on one member");
    let never = Header { interval: Duration::ZERO, ..header() };
    let frame = &write(&auth(), SOURCE, ETHERTYPE, &never, &[], &[], &mut 0)[0];
    assert_eq!(malformed(frame.bytes()), "its interval is out of range");
}

/// A frame with this message after a true header, and a true tag.
fn sealed(header_len: u16, message: &[u8]) -> Vec<u8> {
    let mut frame = frames(&[], &[])[0][..ETHERNET_LEN + HEADER_LEN].to_vec();
    frame[30..32].copy_from_slice(&header_len.to_be_bytes());
    frame.extend(message);
    seal(&auth(), &mut frame);
    frame
}

proptest! {
    #[test]
    fn any_bytes_are_refused(frame in vec(any::<u8>(), 0..1600)) {
        prop_assert!(parse(&frame, ETHERTYPE, &auth()).is_err());
    }

    #[test]
    fn any_changed_byte_is_noticed(at in 0usize..232, change in 1u8..) {
        let mut frame = frames(&[echo(1)], &[vip(1, 1)]).remove(0);
        frame[at] ^= change;
        prop_assert!(parse(&frame, ETHERTYPE, &auth()).is_err());
    }

    #[test]
    fn any_cut_is_noticed(len in 0usize..232) {
        let frame = frames(&[echo(1)], &[vip(1, 1)]).remove(0);
        prop_assert_eq!(frame.len(), 232);
        prop_assert!(parse(&frame[..len], ETHERTYPE, &auth()).is_err());
    }

    #[test]
    fn any_authentic_message_is_read_or_refused(header_len in prop_oneof![Just(125u16), any::<u16>()],
        message in vec(prop_oneof![0u8..6, any::<u8>()], 0..300)) {
        if let Ok(heartbeat) = parse(&sealed(header_len, &message), ETHERTYPE, &auth()) {
            prop_assert!(heartbeat.echoes.len() <= PART_MAX);
            prop_assert!(heartbeat.echoes.iter().all(|echo| heartbeat.scope.contains(echo.id)));
        }
    }

    #[test]
    fn any_sections_are_read_or_refused(sections in vec((1u8..7, vec(prop_oneof![0u8..40, any::<u8>()], 0..80)), 0..5)) {
        let mut message = Vec::new();
        for (kind, body) in sections {
            message.push(kind);
            message.extend((body.len() as u16).to_be_bytes());
            message.extend(body);
        }
        let _ = parse(&sealed(125, &message), ETHERTYPE, &auth());
    }
}
