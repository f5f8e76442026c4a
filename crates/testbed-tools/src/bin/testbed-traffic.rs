//! Writes a capture of generated traffic: a mix of segments of established connections, of connections of nobody here,
//! SYNs and ARP requests, in random order, each connection once.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Parser;
use testbed_tools::traffic::{Ends, Group, Kind, LEAST, MOST, arp_request, client, segment};

/// Writes traffic as a capture.
#[derive(Parser)]
struct Arguments {
    /// The file.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    ends: Ends,
    /// Segments of so many connections that the member has.
    #[arg(long, default_value_t = 0)]
    established: u32,
    /// Segments of so many connections of nobody here.
    #[arg(long, default_value_t = 0)]
    foreign: u32,
    /// So many SYNs.
    #[arg(long, default_value_t = 0)]
    syn: u32,
    /// So many ARP requests for the virtual IP.
    #[arg(long, default_value_t = 0)]
    arp: u32,
    /// Bytes of a frame, without its FCS; several are taken in turn.
    #[arg(long, value_delimiter = ',', default_value = "60", value_parser = clap::value_parser!(u16).range(LEAST as i64..=MOST as i64))]
    sizes: Vec<u16>,
    /// What the order is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy)]
enum Frame {
    Segment(Group, Kind, u32),
    Arp(u32),
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let ends = arguments.ends;
    let mut frames: Vec<Frame> = (0..arguments.established)
        .map(|index| Frame::Segment(Group::Established, Kind::Data, index))
        .chain((0..arguments.foreign).map(|index| Frame::Segment(Group::Foreign, Kind::Data, index)))
        .chain((0..arguments.syn).map(|index| Frame::Segment(Group::New, Kind::Syn, index)))
        .chain((0..arguments.arp).map(Frame::Arp))
        .collect();
    fastrand::Rng::with_seed(arguments.seed).shuffle(&mut frames);

    let mut file = BufWriter::new(File::create(&arguments.out)?);
    // The format's header: nanoseconds, version 2.4, whole frames, Ethernet.
    for word in [0xa1b2_3c4d_u32, 2 | 4 << 16, 0, 0, 65_535, 1] {
        file.write_all(&word.to_le_bytes())?;
    }
    let mut buffer = [0; MOST];
    for (position, frame) in frames.iter().enumerate() {
        let length = usize::from(arguments.sizes[position % arguments.sizes.len()]);
        let frame = write(&mut buffer, length, &ends, *frame);
        let length = frame.len() as u32;
        for word in [(position / 1_000_000) as u32, (position % 1_000_000) as u32 * 1000, length, length] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(frame)?;
    }
    file.flush()
}

/// The frame's bytes. A SYN carries no data and an ARP request is short, whatever the others' size.
fn write<'a>(buffer: &'a mut [u8; MOST], length: usize, ends: &Ends, frame: Frame) -> &'a [u8] {
    buffer.fill(0);
    let length = match frame {
        Frame::Segment(_, Kind::Data, _) => length,
        _ => LEAST,
    };
    let bytes = &mut buffer[..length];
    match frame {
        Frame::Segment(group, kind, index) => {
            segment(bytes, ends, client(group, index), kind, index.wrapping_mul(0x9e37_79b1))
        }
        Frame::Arp(index) => arp_request(bytes, ends, client(Group::New, index).0),
    }
    bytes
}
