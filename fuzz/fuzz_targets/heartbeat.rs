//! The input is taken three ways: as a frame from the wire; as what follows the header of a heartbeat, under a true
//! tag; and as events for a member that has heard all of it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use baton::config::checked::Key;
use baton::control::auth::Authenticator;
use baton::control::heartbeat::{self, Header};
use baton::control::{Control, Event, Identity, Name, Settings, VipSettings};
use baton::frame::Mac;
use baton::time::Time;
use libfuzzer_sys::fuzz_target;

const ETHERTYPE: u16 = 0x88b5;
const HEADER_END: usize = 139;

fn settings() -> Option<Settings> {
    let vip = |last| VipSettings {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
        actives: 1 + last % 2,
        rebalance: None,
        probed: false,
        orphans_after: Some(Duration::from_secs(2)),
    };
    Some(Settings {
        cluster: "web".into(),
        key: Key([7; 32]),
        name: Name::new("s1")?,
        source: Mac([2, 0, 0, 0, 0, 1]),
        ethertype: ETHERTYPE,
        heartbeat: Duration::from_millis(10),
        missed: 3,
        vips: vec![vip(100), vip(101)],
        config_hash: [0; 16],
    })
}

/// `body` behind the header of a peer that answers the member under test.
fn sealed(auth: &Authenticator, sequence: u64, body: &[u8]) -> Option<Vec<u8>> {
    let header = Header {
        name: Name::new("s2")?,
        boot_id: [2; 16],
        nonce: 2,
        challenge: 1,
        incarnation: 1,
        sequence: 0,
        interval: Duration::from_millis(10),
        metric: 0.0,
        flags: 3,
        config_hash: [0; 16],
    };
    let echo = heartbeat::Echo { id: Name::new("s1")?.id(), nonce: 1, challenge: 1, alive: true };
    let mut sequence = sequence;
    let source = Mac([2, 0, 0, 0, 0, 2]);
    let frames = heartbeat::write(auth, source, ETHERTYPE, &header, &[echo], &[], &mut sequence);
    // Header and echo, without the empty section of VIPs and the tag.
    let mut frame = frames.first()?.bytes()[..HEADER_END + 25].to_vec();
    frame.extend(body);
    heartbeat::seal(auth, &mut frame);
    Some(frame)
}

fuzz_target!(|data: &[u8]| {
    let data = &data[..data.len().min(1200)];
    let Some(settings) = settings() else { return };
    let auth = Authenticator::new(&settings.cluster, &settings.key);
    let mut now = Time::from_millis(1);
    let mut actions = Vec::new();
    let mut control = Control::new(settings, Identity { boot_id: [1; 16], incarnation: 1, nonce: 1 }, now);
    control.step(Event::Ready, now, &mut actions);
    control.step(Event::Frame(data), now, &mut actions);
    // 0xff separates bodies; the first bytes of each are events and pauses too.
    for (index, body) in data.split(|&byte| byte == 0xff).enumerate() {
        if let Some(frame) = sealed(&auth, index as u64, body) {
            control.step(Event::Frame(&frame), now, &mut actions);
        }
        for &byte in body.iter().take(8) {
            now += Duration::from_micros(u64::from(byte) * 300);
            let vip = byte >> 7;
            let event = match byte % 11 {
                0 => Event::Drain { vip: None },
                1 => Event::Undrain { vip: None },
                2 => Event::Activate { vip },
                3 => Event::Health { vip, healthy: byte & 64 == 0 },
                4 => Event::WorkersAlive(byte & 64 == 0),
                5 => Event::Metric(f64::from(byte)),
                6 if byte > 250 => Event::Leave { returning: true },
                _ => Event::Tick,
            };
            control.step(event, now, &mut actions);
            let _ = (control.next_tick(), control.view(now));
            actions.clear();
        }
    }
});
