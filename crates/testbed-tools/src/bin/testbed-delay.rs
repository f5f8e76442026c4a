//! A long cable: hands frames from one interface to another and back, each after the same time.
//!
//! The kernel's own way (netem) is not in every kernel; and this one neither reorders nor drops what it takes.
//! It prints `ready` once it carries frames.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use clap::Parser;
use testbed_tools::{Mac, PacketSocket, parse_duration, parse_mac, wait};

/// Carries frames between two interfaces, late.
#[derive(Parser)]
struct Arguments {
    /// The host's side.
    #[arg(long)]
    near: String,
    /// The switch's side.
    #[arg(long)]
    far: String,
    /// How long each frame travels, each way.
    #[arg(long, value_parser = parse_duration)]
    each_way: Duration,
    /// The host's address: from the switch, only frames for it or for a group are carried.
    #[arg(long, value_parser = parse_mac)]
    host: Mac,
}

struct Travelling {
    due: Instant,
    to: usize,
    frame: Vec<u8>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let sockets = [PacketSocket::open(&arguments.near)?, PacketSocket::open(&arguments.far)?];
    sockets[1].only_to(arguments.host)?;
    println!("ready");
    // One queue in the order of time serves both ways, as both take equally long.
    let mut queue: VecDeque<Travelling> = VecDeque::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let patience = queue.front().map(|first| first.due.saturating_duration_since(Instant::now()));
        match wait([&sockets[0], &sockets[1]], patience) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        for (from, socket) in sockets.iter().enumerate() {
            while let Some(length) = socket.receive(&mut buffer)? {
                let frame = buffer[..length].to_vec();
                queue.push_back(Travelling { due: Instant::now() + arguments.each_way, to: 1 - from, frame });
            }
        }
        while queue.front().is_some_and(|first| first.due <= Instant::now()) {
            if let Some(arrived) = queue.pop_front() {
                sockets[arrived.to].send(&arrived.frame)?;
            }
        }
    }
}
