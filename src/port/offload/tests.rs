//! Cutting and joining, against each other and against frames made one by one.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::header::{self, Offload};
use super::merge::Trains;
use super::segment::Segments;
use crate::frame::build::{TcpFrame, tcp_frame, timestamps_option};
use crate::frame::ipv4::Ipv4;
use crate::frame::tcp::{Checksum, Flags, Segment};
use crate::frame::{checksum, ethernet};
use crate::port::BURST;

const PSH: u8 = 0x08;

/// What the kernel sees of a write: the header and the bytes behind it.
fn written(frames: &[Vec<u8>]) -> Vec<([u8; header::LEN], Vec<u8>)> {
    let trains = Trains::of(|index| &frames[index], frames.len());
    let write = |train: &super::merge::Train| {
        let mut first = frames[usize::from(train.first)].clone();
        let header = train.write_headers(&mut first);
        let mut bytes = first[..train.len_of(0, first.len())].to_vec();
        for (number, index) in trains.frames(train).enumerate().skip(1) {
            let end = train.len_of(number, frames[index].len());
            bytes.extend_from_slice(&frames[index][train.headers.into()..end]);
        }
        (header, bytes)
    };
    trains.iter().map(write).collect()
}

/// What a kernel without offloads would have been given instead.
fn cut(header: &[u8; header::LEN], frame: &[u8]) -> Vec<Vec<u8>> {
    match header::parse(header) {
        Offload::None => vec![frame.to_vec()],
        Offload::Segment { mss } => {
            let mut segments = Segments::of(frame, mss).unwrap();
            let mut all = Vec::new();
            while let Some(len) = segments.next_len() {
                assert!(len <= segments.longest());
                let mut next = vec![0xff; len];
                segments.write_next(frame, &mut next);
                all.push(next);
            }
            all
        }
        other => panic!("{other:?}"),
    }
}

fn stream(port: u16, sizes: &[usize], options: &[u8]) -> Vec<Vec<u8>> {
    let mut seq = 4_294_966_000;
    let frame = |(number, &size): (usize, &usize)| {
        let data: Vec<u8> = (0..size).map(|byte| (byte * 7 + number) as u8).collect();
        let source = (Ipv4Addr::new(10, 0, 0, 9), port);
        let frame = tcp_frame(&TcpFrame { source, seq, options, data: &data, ..TcpFrame::default() });
        seq = seq.wrapping_add(size as u32);
        frame
    };
    sizes.iter().enumerate().map(frame).collect()
}

/// Identifications count up in what is cut from one segment, and mean nothing.
fn without_id(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    assert!(Ipv4::parse(&frame).unwrap().checksum_is_right());
    frame[18..20].fill(0);
    frame[24..26].fill(0);
    frame
}

#[test]
fn a_bulk_of_one_connection_is_one_write() {
    let frames = stream(1000, &[1448; 40], &timestamps_option(1, 2));
    let written = written(&frames);
    assert_eq!(written.len(), 1);
    let (header, bytes) = &written[0];
    assert_eq!(header::parse(header), Offload::Segment { mss: 1448 });
    assert_eq!(bytes.len(), 66 + 40 * 1448);
    let back = cut(header, bytes);
    assert!(back.iter().zip(&frames).all(|(one, other)| without_id(one) == without_id(other)) && back.len() == 40);
}

#[test]
fn a_write_is_at_most_an_ip_packet_long() {
    let frames = stream(1000, &[1460; BURST], &[]);
    let lengths: Vec<usize> = written(&frames).iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [54 + 44 * 1460, 54 + 20 * 1460]);
}

#[test]
fn connections_that_alternate_have_a_train_each() {
    let (one, other) = (stream(1, &[1000; 5], &[]), stream(2, &[1000; 5], &[]));
    let mixed: Vec<Vec<u8>> = one.into_iter().zip(other).flat_map(|(one, other)| [one, other]).collect();
    assert_eq!(written(&mixed).len(), 2);
}

#[test]
fn what_differs_or_ends_something_is_not_joined() {
    let plain = TcpFrame { data: &[1; 100], ..TcpFrame::default() };
    let alone: [(&str, TcpFrame<'_>); 8] = [
        ("a gap", TcpFrame { seq: 101, ..plain }),
        ("a repeat", TcpFrame { seq: 0, ..plain }),
        ("another ack", TcpFrame { seq: 100, ack: 1, ..plain }),
        ("another window", TcpFrame { seq: 100, window: 5, ..plain }),
        ("FIN", TcpFrame { seq: 100, flags: Flags::ACK | Flags::FIN, ..plain }),
        ("RST", TcpFrame { seq: 100, flags: Flags::RST, ..plain }),
        ("other options", TcpFrame { seq: 100, options: &[1; 4], ..plain }),
        ("longer than the first", TcpFrame { seq: 100, data: &[1; 101], ..plain }),
    ];
    for (what, second) in alone {
        let frames = vec![tcp_frame(&plain), tcp_frame(&second)];
        assert_eq!(written(&frames).len(), 2, "{what}");
    }
    let mut wrong = vec![tcp_frame(&plain), tcp_frame(&TcpFrame { seq: 100, ..plain })];
    assert_eq!(written(&wrong).len(), 1);
    wrong[1][60] ^= 1;
    assert_eq!(written(&wrong).len(), 2, "a wrong checksum");
}

#[test]
fn nothing_overtakes_within_a_connection() {
    let mut frames = stream(1, &[100, 100, 0, 100, 100, 50, 100], &[]);
    frames.insert(2, tcp_frame(&TcpFrame { source: (Ipv4Addr::new(10, 0, 0, 9), 1), ..TcpFrame::default() }));
    let order: Vec<usize> = {
        let trains = Trains::of(|index| &frames[index], frames.len());
        trains.iter().flat_map(|train| trains.frames(train).collect::<Vec<_>>()).collect()
    };
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(
        written(&frames).len(),
        5,
        "[0, 1], the repeat, the bare ACK, [4, 5, 6], and what came after a short one"
    );
}

#[test]
fn a_push_ends_a_train_and_is_kept() {
    let frame = |seq, flags| tcp_frame(&TcpFrame { seq, flags, data: &[1; 10], ..TcpFrame::default() });
    let frames = [frame(0, Flags::ACK), frame(10, Flags::ACK | PSH), frame(20, Flags::ACK), frame(30, Flags::ACK)];
    let written = written(&frames);
    assert_eq!(written.len(), 2);
    assert_eq!(written[0].1[47] & PSH, PSH);
    assert_eq!(written[1].1[47] & PSH, 0);
    let flags: Vec<u8> = cut(&written[0].0, &written[0].1).iter().map(|frame| frame[47]).collect();
    assert_eq!(flags, [Flags::ACK, Flags::ACK | PSH], "only the last of what is cut pushes");
}

#[test]
fn an_unfinished_checksum_is_finished() {
    let right = tcp_frame(&TcpFrame { data: b"some data", ..TcpFrame::default() });
    let mut frame = right.clone();
    let pseudo = checksum::pseudo_header([10, 0, 0, 1].into(), [10, 0, 0, 100].into(), 6, (right.len() - 34) as u16);
    frame[50..52].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    let mut said = header::FINISHED;
    said[0] = 1;
    said[6..8].copy_from_slice(&34u16.to_ne_bytes());
    said[8..10].copy_from_slice(&16u16.to_ne_bytes());
    let Offload::Checksum { start, offset } = header::parse(&said) else { panic!("{said:?}") };
    assert!(header::finish_checksum(&mut frame, start, offset));
    assert_eq!(frame, right);
    assert!(!header::finish_checksum(&mut frame, 34, 1000) && !header::finish_checksum(&mut frame, 1000, 0));
}

proptest! {
    #[test]
    fn whatever_is_joined_is_the_same_when_cut_again(
        connections in prop::collection::vec((1u16..5, prop::collection::vec(0usize..1449, 1..24)), 1..4),
        timestamps: bool,
        order in prop::collection::vec(any::<prop::sample::Index>(), BURST),
    ) {
        let option = timestamps_option(7, 8);
        let options: &[u8] = if timestamps { &option } else { &[] };
        let mut streams: Vec<_> = connections.iter().map(|(port, sizes)| stream(*port, sizes, options).into_iter()).collect();
        let mut frames = Vec::new();
        for pick in &order {
            let pick = pick.index(streams.len());
            frames.extend(streams[pick].next());
        }
        let back: Vec<Vec<u8>> = written(&frames).iter().flat_map(|(header, bytes)| cut(header, bytes)).collect();
        prop_assert_eq!(back.len(), frames.len());
        for port in 1u16..5 {
            let of_port = |frame: &&Vec<u8>| frame[34..36] == port.to_be_bytes();
            let mine: Vec<_> = frames.iter().filter(of_port).map(|frame| without_id(frame)).collect();
            let cut: Vec<_> = back.iter().filter(of_port).map(|frame| without_id(frame)).collect();
            prop_assert_eq!(mine, cut);
        }
    }

    #[test]
    fn what_is_cut_is_right_and_whole(len in 1usize..65_000, mss in 1u16..9000, flags: u8) {
        let data: Vec<u8> = (0..len).map(|byte| (byte % 253) as u8).collect();
        let flags = flags & !(Flags::SYN | Flags::RST);
        let large = tcp_frame(&TcpFrame { flags, data: &data, ..TcpFrame::default() });
        let header = header::joined(mss, 54, 34);
        let pieces = cut(&header, &large);
        prop_assert_eq!(pieces.len(), len.div_ceil(mss.into()));
        let mut whole = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            let packet = Ipv4::parse(piece).unwrap();
            prop_assert!(packet.checksum_is_right());
            let segment = Segment::parse(&packet).unwrap();
            prop_assert_eq!(segment.checksum(), Checksum::Right);
            prop_assert_eq!(segment.seq() as usize, whole.len());
            let last = number + 1 == pieces.len();
            prop_assert_eq!(segment.flags().fin(), last && flags & Flags::FIN != 0);
            whole.extend_from_slice(&piece[ethernet::HEADER + 40..]);
        }
        prop_assert_eq!(whole, data);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        header: [u8; header::LEN],
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        tcp: bool,
    ) {
        if tcp && frame.len() > 30 {
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            frame[23] = 6;
            frame[16..18].copy_from_slice(&200u16.to_be_bytes());
        }
        match header::parse(&header) {
            Offload::Checksum { start, offset } => {
                let _ = header::finish_checksum(&mut frame, start, offset);
            }
            Offload::Segment { mss } if Segments::of(&frame, mss).is_some() => drop(cut(&header, &frame)),
            _ => {}
        }
        let frames = vec![frame.clone(), frame];
        written(&frames);
    }
}
