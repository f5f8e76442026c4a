//! What the clients of a run do: connections of all sorts, from new ports and from ports that were used before.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::client::{Finish, Plan};
use super::cluster::Cluster;
use super::options::Options;
use super::random::Random;
use super::segment::Flow;

/// Ports that a client uses again and again.
const USED_AGAIN: u64 = 3;

/// A connection that was begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// The client.
    pub client: usize,
    /// The connection.
    pub flow: Flow,
    /// Whether its port was new.
    pub fresh: bool,
    /// Whether anybody serves the port that it is to.
    pub served: bool,
}

/// Begins a connection of any sort.
pub fn connect(cluster: &mut Cluster, random: &mut Random) -> Begun {
    let client = random.below(cluster.clients.len() as u64) as usize;
    let vip = random.below(cluster.options.vips() as u64) as usize;
    let served = !random.chance(0.04);
    let port = if served { Options::port(vip) } else { 7 };
    let again = random.chance(0.3).then(|| 5000 + random.below(USED_AGAIN) as u16);
    let to = SocketAddrV4::new(Options::vip_address(vip), port);
    let flow = cluster.connect_to(client, again, to, plan(random));
    Begun { client, flow, fresh: again.is_none(), served }
}

/// Begins a connection from the port of one that its client forgets.
pub fn connect_anew(cluster: &mut Cluster, forgotten: Begun, random: &mut Random) -> Begun {
    let Begun { client, flow, served, .. } = forgotten;
    let flow = cluster.connect_to(client, Some(flow.local.port()), flow.remote, plan(random));
    Begun { client, flow, fresh: false, served }
}

/// Begins the plainest connection there is, from a new port.
pub fn connect_plainly(cluster: &mut Cluster, vip: usize, random: &mut Random) -> Begun {
    let client = random.below(cluster.clients.len() as u64) as usize;
    let to = SocketAddrV4::new(Options::vip_address(vip), Options::port(vip));
    let flow = cluster.connect_to(client, None, to, Plan::default());
    Begun { client, flow, fresh: true, served: true }
}

fn plan(random: &mut Random) -> Plan {
    let ms = Duration::from_millis;
    let finishes = [Finish::Client, Finish::Client, Finish::Server, Finish::Abort, Finish::ServerAbort, Finish::Stay];
    let size = |random: &mut Random| match random.below(15) {
        0 => 60_000 + random.below(100_000) as usize,
        1..=5 => random.below(6000) as usize,
        _ => random.below(300) as usize,
    };
    let finish = random.pick(&finishes);
    let (upload, download) = (size(random), size(random));
    let bulk = upload.max(download) > 50_000;
    Plan {
        requests: if bulk { 1 + random.below(2) } else { 1 + random.below(12) } as u32,
        upload,
        download,
        think: ms(1).mul_f64((random.fraction() * 9.3).exp2()),
        finish,
        stamped: random.chance(0.75),
        half_close: finish == Finish::Client && random.chance(0.3),
        slow: if bulk && random.chance(0.5) { random.between(ms(10), ms(400)) } else { Duration::ZERO },
        keep_alive: if random.chance(0.3) { random.between(ms(100), ms(500)) } else { Duration::ZERO },
    }
}
