//! How long frames take from one interface to another, through whatever lies between: sends segments of one connection at
//! a steady rate, each with the time of its sending in it, and counts each that arrives in an HdrHistogram.
//!
//! One thread sends and receives, never sleeping, so what it adds is two system calls. Frames leave by the schedule: one
//! that is late (the other side had the core) counts from when it was due, so that a stall is not left out.

use std::io;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use serde_json::json;
use testbed_tools::traffic::{Ends, Group, Kind, MOST, PAYLOAD, client, finish, segment};
use testbed_tools::{PacketSocket, parse_duration};

/// Measures the way from one interface to another.
#[derive(Parser)]
struct Arguments {
    /// Frames leave here.
    #[arg(long)]
    send: String,
    /// They arrive here.
    #[arg(long)]
    receive: String,
    #[command(flatten)]
    ends: Ends,
    /// Bytes of a frame, without its FCS.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range((PAYLOAD + 16) as i64..=MOST as i64))]
    size: u16,
    /// Frames a second.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// For how long.
    #[arg(long, value_parser = parse_duration)]
    duration: Duration,
    /// Before that, for how long without counting.
    #[arg(long, value_parser = parse_duration, default_value = "500ms")]
    settle: Duration,
}

/// What tells our frames from others.
const MARK: [u8; 8] = *b"latency:";
/// Frames that are under way this long after the last was sent are lost.
const PATIENCE: Duration = Duration::from_millis(500);

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let (sender, receiver) = (PacketSocket::sender(&arguments.send)?, PacketSocket::open(&arguments.receive)?);
    let ends = arguments.ends;
    let mut frame = vec![0; usize::from(arguments.size)];
    segment(&mut frame, &ends, client(Group::Established, 0), Kind::Data, 1);
    frame[PAYLOAD..PAYLOAD + 8].copy_from_slice(&MARK);

    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?;
    let interval = Duration::from_secs(1) / arguments.rate;
    let (begun, settled) = (Instant::now(), arguments.settle);
    let ending = settled + arguments.duration;
    let (mut due, mut sent, mut received) = (Duration::ZERO, 0_u64, 0_u64);
    loop {
        let now = begun.elapsed();
        if now >= due && due < ending {
            frame[PAYLOAD + 8..PAYLOAD + 16].copy_from_slice(&(due.as_nanos() as u64).to_be_bytes());
            finish(&mut frame);
            sender.send(&frame)?;
            sent += u64::from(due >= settled);
            due += interval;
        }
        if let Some(stamp) = arrival(&receiver)? {
            let taken = begun.elapsed().saturating_sub(stamp);
            if stamp >= settled {
                received += 1;
                histogram.record(taken.as_nanos().max(1) as u64).map_err(io::Error::other)?;
            }
        } else if due >= ending && (received >= sent || now > ending + PATIENCE) {
            break;
        }
    }
    let percentile = |percent: f64| (percent.to_string(), json!(histogram.value_at_percentile(percent)));
    let percentiles: serde_json::Map<_, _> = [50.0, 90.0, 99.0, 99.9, 99.99].into_iter().map(percentile).collect();
    let recorded: Vec<_> =
        histogram.iter_recorded().map(|step| json!([step.value_iterated_to(), step.count_at_value()])).collect();
    let result = json!({
        "sent": sent, "received": received, "lost": sent.saturating_sub(received), "longest": histogram.max(),
        "percentiles": percentiles, "recorded": recorded,
    });
    println!("{result}");
    Ok(())
}

/// When the next frame of ours that has arrived was due to leave, if one has.
fn arrival(receiver: &PacketSocket) -> io::Result<Option<Duration>> {
    let mut buffer = [0; MOST];
    let Some(length) = receiver.receive(&mut buffer)? else { return Ok(None) };
    let payload = buffer[..length].get(PAYLOAD..PAYLOAD + 16);
    Ok(payload.filter(|payload| payload[..8] == MARK).map(|payload| {
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&payload[8..]);
        Duration::from_nanos(u64::from_be_bytes(stamp))
    }))
}
