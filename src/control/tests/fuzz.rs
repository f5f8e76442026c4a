//! Whatever a frame holds: a reason, never a panic. Frames are changed and then sealed with the true key, or the tag
//! would keep them all out. `fuzz/fuzz_targets/heartbeat.rs` goes the same ways for longer.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::harness::{Cluster, Options};
use crate::config::checked::Key;
use crate::control::auth::{Authenticator, TAG_LEN};
use crate::control::{Event, heartbeat};
use crate::frame::Mac;
use crate::orphans::{Suspect, Suspicion};
use crate::table::Tuple;

/// A frame with bytes changed, under a true tag.
fn changed(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame[..frame.len() - TAG_LEN].to_vec();
    for &(at, byte) in changes {
        // Not magic, version and cluster, which would be refused at once.
        let at = 30 + at % (frame.len() - 30);
        frame[at] = byte;
    }
    heartbeat::seal(&Authenticator::new("web", &Key([7; 32])), &mut frame);
    frame
}

fn event(kind: u8, vip: u8) -> Event<'static> {
    match kind % 12 {
        0 => Event::Metric(f64::from(vip) - 128.0),
        1 => Event::Health { vip, healthy: false },
        2 => Event::Health { vip, healthy: true },
        3 => Event::Drain { vip: Some(vip) },
        4 => Event::Drain { vip: None },
        5 => Event::Undrain { vip: None },
        6 => Event::Activate { vip: vip % 3 },
        7 if vip & 1 == 0 => Event::Hearing(vip > 128),
        7 => Event::WorkersAlive(vip > 128),
        8 => Event::Ready,
        9 => Event::FramesLost,
        10 => {
            let tuple = Tuple { client: [10, 0, 1, vip].into(), client_port: 1, port: 80, vip };
            let suspicion = Suspicion { tuple, seq: 1, end: 2, ack: 3 };
            Event::Suspect(Suspect { suspicion, mac: Mac::default() })
        }
        _ => Event::Tick,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_and_no_event_makes_a_member_panic(
        steps in vec((0usize..3, any::<prop::sample::Index>(), vec((any::<usize>(), any::<u8>()), 1..6), any::<u8>(),
            any::<u8>(), 0u64..30_000), 1..60),
        leave in any::<bool>(),
    ) {
        let mut cluster = Cluster::settled(Options { members: 3, vips: 2, ..Options::default() });
        for (from, frame, changes, kind, vip, pause) in steps {
            let frame = changed(frame.get::<Vec<u8>>(&cluster.nodes[from].sent), &changes);
            for to in 0..3 {
                cluster.inject(to, &frame);
            }
            cluster.event(usize::from(kind) % 3, event(kind / 3, vip));
            cluster.run(Duration::from_micros(pause));
        }
        if leave {
            cluster.event(0, Event::Leave { returning: true });
        }
        cluster.run(Duration::from_secs(1));
        prop_assert_eq!(cluster.nodes[0].left, leave);
    }

    #[test]
    fn any_bytes_are_counted_as_refused(frames in vec(vec(any::<u8>(), 0..200), 1..50)) {
        let mut cluster = Cluster::settled(Options { members: 1, ..Options::default() });
        for frame in &frames {
            cluster.event(0, Event::Frame(frame));
        }
        prop_assert_eq!(cluster.view(0).heartbeats.malformed, frames.len() as u64);
        prop_assert_eq!(cluster.active(0), 0);
    }
}
