//! sock_diag with real sockets in every state that matters, and the announcements of their end.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use baton::host::{Destroyed, Ending, Listing, Sockets, State};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, sockopt};

use crate::net::{Namespace, Packets, eventually, is_root, sh};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SERVICE: SocketAddrV4 = SocketAddrV4::new(VIP, 80);

/// A service's and a client's end of one connection, in a namespace with both addresses.
struct Pair {
    _listener: TcpListener,
    service: TcpStream,
    client: TcpStream,
    remote: SocketAddrV4,
}

fn namespace() -> Namespace {
    let namespace = Namespace::new();
    namespace.sh("ip address add 10.77.0.100/32 dev lo && ip address add 10.77.0.1/32 dev lo");
    namespace
}

fn pair_on(listener: TcpListener) -> Pair {
    let client = connect(CLIENT);
    let (service, _) = listener.accept().unwrap();
    let remote = v4(client.local_addr().unwrap());
    Pair { _listener: listener, service, client, remote }
}

fn pair() -> Pair {
    pair_on(listen())
}

/// A listener at the service's address. A program that another test is just starting has copies of all descriptors until it
/// is executed, the last pair's listener among them: that long the address is in use.
fn listen() -> TcpListener {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        match TcpListener::bind(SERVICE) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => std::thread::yield_now(),
            listener => return listener.unwrap(),
        }
    }
}

/// A connection to the service from an address.
fn connect(from: Ipv4Addr) -> TcpStream {
    let route = format!("ip route replace local {VIP} dev lo table local src {from}");
    sh(&route);
    TcpStream::connect(SERVICE).unwrap()
}

fn v4(address: std::net::SocketAddr) -> SocketAddrV4 {
    match address {
        std::net::SocketAddr::V4(address) => address,
        std::net::SocketAddr::V6(address) => SocketAddrV4::new(address.ip().to_ipv4_mapped().unwrap(), address.port()),
    }
}

fn reset_on_close(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// The state that both an exact query and a dump report.
fn state(sockets: &mut Sockets, remote: SocketAddrV4) -> Option<State> {
    let asked = sockets.query(SERVICE, remote).unwrap();
    let listed = sockets.dump(&[VIP]).unwrap().into_iter().find(|socket| socket.remote == remote);
    assert_eq!(listed, asked);
    asked.map(|socket| socket.state)
}

fn becomes(sockets: &mut Sockets, remote: SocketAddrV4, wanted: Option<State>) {
    let mut asked = || sockets.query(SERVICE, remote).unwrap().map(|socket| socket.state);
    eventually(&format!("{wanted:?}"), || asked() == wanted);
    assert_eq!(state(sockets, remote), wanted);
}

fn announced(destroyed: &mut Destroyed) -> Vec<Ending> {
    let mut endings = Vec::new();
    destroyed.read(1000, |ending| endings.push(ending)).unwrap();
    endings
}

/// Waits for one announcement about the service's end of a connection.
fn hears(destroyed: &mut Destroyed, wanted: Ending) {
    let mut heard = Vec::new();
    let start = Instant::now();
    while !heard.contains(&wanted) {
        assert!(start.elapsed() < Duration::from_secs(5), "{wanted:?} is not among {heard:?}");
        heard.extend(announced(destroyed));
    }
}

/// That nothing is announced of the service's end. The announcements travel by a kernel work queue.
fn hears_nothing(destroyed: &mut Destroyed, remote: SocketAddrV4) {
    std::thread::sleep(Duration::from_millis(100));
    let ending = Ending::Socket { local: SERVICE, remote };
    assert!(!announced(destroyed).contains(&ending));
}

/// How many resets the service sends while something is done.
fn resets(body: impl FnOnce()) -> usize {
    // On the loopback interface, what is sent is received.
    let packets = Packets::open("lo");
    body();
    let frames = packets.within(Duration::from_millis(50));
    // Behind Ethernet's 14 bytes, IPv4 without options: the source address, and TCP's source port and flags.
    frames
        .iter()
        .filter(|frame| frame[26..30] == VIP.octets() && frame[34..36] == [0, 80] && frame[47] & 4 != 0)
        .count()
}

#[test]
fn a_connection_is_followed_from_state_to_state() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let Pair { _listener, service, client, remote } = pair();
        assert_eq!(state(&mut sockets, remote), Some(State::Established));
        client.shutdown(std::net::Shutdown::Write).unwrap();
        becomes(&mut sockets, remote, Some(State::CloseWait));
        drop(service);
        becomes(&mut sockets, remote, None);
        hears(&mut destroyed, Ending::Socket { local: SERVICE, remote });
    });
}

#[test]
fn an_orphan_in_fin_wait_2_and_then_time_wait_is_found() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        // Beyond a minute the kernel keeps a full socket in FIN_WAIT_2 (tcp_rcv_state_process).
        sh("sysctl -qw net.ipv4.tcp_fin_timeout=90");
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let Pair { _listener, service, client, remote } = pair();
        drop(service);
        becomes(&mut sockets, remote, Some(State::FinWait2));
        hears_nothing(&mut destroyed, remote);
        drop(client);
        becomes(&mut sockets, remote, Some(State::TimeWait));
        // The full socket is gone, the tuple is not: hence a query before it is forgotten.
        hears(&mut destroyed, Ending::Socket { local: SERVICE, remote });
        // The end of TIME_WAIT is not announced.
        assert_eq!(resets(|| assert!(sockets.destroy(SERVICE, remote).unwrap())), 0);
        assert_eq!(state(&mut sockets, remote), None);
        hears_nothing(&mut destroyed, remote);
    });
}

#[test]
fn an_orphan_whose_fin_wait_2_is_a_small_socket_is_found() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        // As tcp_fin_timeout is by default: the full socket is gone, and so announced, while the client still sends.
        assert_eq!(sh("sysctl -n net.ipv4.tcp_fin_timeout"), "60\n");
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let Pair { _listener, service, client: _client, remote } = pair();
        drop(service);
        hears(&mut destroyed, Ending::Socket { local: SERVICE, remote });
        assert_eq!(state(&mut sockets, remote), Some(State::FinWait2));
    });
}

#[test]
fn a_half_open_connection_is_found_and_its_end_not_announced() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let _listener = listen();
        // The SYN-ACK is lost.
        sh("nft add table ip t && nft add chain ip t out '{ type filter hook output priority 0; }' &&
            nft add rule ip t out ip saddr 10.77.0.100 tcp flags syn,ack / syn,ack drop");
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let address = std::net::SocketAddr::V4(SERVICE);
                TcpStream::connect_timeout(&address, Duration::from_millis(500)).unwrap_err()
            });
            let mut remote = None;
            eventually("a half-open socket", || {
                let listed = sockets.dump(&[VIP]).unwrap();
                let half = listed.iter().find(|socket| socket.local == SERVICE && socket.state == State::SynReceived);
                remote = half.map(|socket| socket.remote);
                remote.is_some()
            });
            let remote = remote.unwrap();
            assert_eq!(state(&mut sockets, remote), Some(State::SynReceived));
            assert_eq!(resets(|| assert!(sockets.destroy(SERVICE, remote).unwrap())), 0);
            assert_eq!(state(&mut sockets, remote), None);
            hears_nothing(&mut destroyed, remote);
            connecting.join().unwrap();
        });
    });
}

#[test]
fn a_listener_is_never_mistaken_for_a_connection() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let stranger = SocketAddrV4::new(CLIENT, 40000);
        assert_eq!(sockets.query(SERVICE, stranger).unwrap(), None, "nobody listens");
        let listener = listen();
        assert_eq!(sockets.query(SERVICE, stranger).unwrap(), None, "somebody listens");
        assert!(!sockets.destroy(SERVICE, stranger).unwrap());
        assert_eq!(sockets.dump(&[VIP]).unwrap(), []);
        // It lives: destroyed by addresses alone, it would not.
        drop(pair_on(listener));
    });
}

#[test]
fn a_listener_on_all_ipv6_addresses_has_ipv4_connections() {
    if !is_root() {
        return;
    }
    let namespace = namespace();
    namespace.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.lo.disable_ipv6=0");
    namespace.run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let Pair { _listener, service, client, remote } = pair_on(TcpListener::bind("[::]:80").unwrap());
        assert!(service.local_addr().unwrap().is_ipv6());
        assert_eq!(state(&mut sockets, remote), Some(State::Established));
        drop(service);
        becomes(&mut sockets, remote, Some(State::FinWait2));
        drop(client);
        becomes(&mut sockets, remote, Some(State::TimeWait));
        hears(&mut destroyed, Ending::Socket { local: SERVICE, remote });
        assert!(sockets.destroy(SERVICE, remote).unwrap());
        becomes(&mut sockets, remote, None);
    });
}

#[test]
fn a_socket_bound_to_a_device_is_found_through_that_device() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let listener = listen();
        setsockopt(&listener, sockopt::BindToDevice, &"lo".into()).unwrap();
        let pair = pair_on(listener);
        let mut anywhere = Sockets::open(0).unwrap();
        assert_eq!(anywhere.query(SERVICE, pair.remote).unwrap(), None);
        let mut here = Sockets::open(1).unwrap();
        assert_eq!(state(&mut here, pair.remote), Some(State::Established));
        drop(pair);
        // And one that is not bound is found as well.
        let pair = self::pair();
        assert_eq!(state(&mut here, pair.remote), Some(State::Established));
    });
}

#[test]
fn an_established_connection_is_destroyed_and_announced_once_it_is_closed() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let Pair { _listener, service, client: _client, remote } = pair();
        assert_eq!(resets(|| assert!(sockets.destroy(SERVICE, remote).unwrap())), 1);
        assert_eq!(state(&mut sockets, remote), None);
        assert!(!sockets.destroy(SERVICE, remote).unwrap());
        // The application still holds it: the announcement waits for it, the query does not.
        hears_nothing(&mut destroyed, remote);
        drop(service);
        hears(&mut destroyed, Ending::Socket { local: SERVICE, remote });
    });
}

#[test]
fn destroying_a_closing_connection_resets_the_client_while_it_is_a_full_socket() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let close_wait = pair();
        close_wait.client.shutdown(std::net::Shutdown::Write).unwrap();
        becomes(&mut sockets, close_wait.remote, Some(State::CloseWait));
        assert_eq!(resets(|| assert!(sockets.destroy(SERVICE, close_wait.remote).unwrap())), 1);
        drop(close_wait);
        let held = pair();
        held.service.shutdown(std::net::Shutdown::Write).unwrap();
        becomes(&mut sockets, held.remote, Some(State::FinWait2));
        assert_eq!(resets(|| assert!(sockets.destroy(SERVICE, held.remote).unwrap())), 1);
        drop(held);
        let fin_wait_2 = pair();
        drop(fin_wait_2.service);
        becomes(&mut sockets, fin_wait_2.remote, Some(State::FinWait2));
        // As by default, the orphan is a small socket, which the kernel ends without a word.
        assert_eq!(resets(|| assert!(sockets.destroy(SERVICE, fin_wait_2.remote).unwrap())), 0);
    });
}

#[test]
fn a_connection_that_the_client_resets_is_gone_before_it_is_announced() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let Pair { _listener, service, client, remote } = pair();
        reset_on_close(&client);
        drop(client);
        becomes(&mut sockets, remote, None);
        hears_nothing(&mut destroyed, remote);
        drop(service);
        hears(&mut destroyed, Ending::Socket { local: SERVICE, remote });
    });
}

#[test]
fn a_connection_that_the_service_resets_has_forgotten_its_client() {
    if !is_root() {
        return;
    }
    for listen in [SERVICE, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80)] {
        namespace().run(|| {
            let mut sockets = Sockets::open(0).unwrap();
            let mut destroyed = Destroyed::subscribe().unwrap();
            let Pair { _listener, service, client: _client, remote } = pair_on(TcpListener::bind(listen).unwrap());
            reset_on_close(&service);
            drop(service);
            becomes(&mut sockets, remote, None);
            hears(&mut destroyed, Ending::Forgotten { local: listen });
        });
    }
}

#[test]
fn connections_nobody_accepted_end_with_their_listener() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut sockets = Sockets::open(0).unwrap();
        let mut destroyed = Destroyed::subscribe().unwrap();
        let listener = listen();
        let client = connect(CLIENT);
        let remote = v4(client.local_addr().unwrap());
        assert_eq!(state(&mut sockets, remote), Some(State::Established));
        drop(listener);
        becomes(&mut sockets, remote, None);
        hears(&mut destroyed, Ending::Forgotten { local: SERVICE });
    });
}

#[test]
fn lost_announcements_are_told() {
    if !is_root() {
        return;
    }
    namespace().run(|| {
        let mut destroyed = Destroyed::subscribe().unwrap();
        setsockopt(&destroyed.as_fd(), sockopt::RcvBufForce, &4096).unwrap();
        let listener = listen();
        sh(&format!("ip route replace local {VIP} dev lo table local src {CLIENT}"));
        for _ in 0..100 {
            let client = TcpStream::connect(SERVICE).unwrap();
            drop(listener.accept().unwrap());
            drop(client);
        }
        let mut heard = Vec::new();
        eventually("a loss", || {
            heard.extend(announced(&mut destroyed));
            heard.contains(&Ending::Lost)
        });
    });
}

#[test]
#[ignore = "a measurement: prints what docs/host.md says"]
fn how_long_a_dump_of_100_000_sockets_takes() {
    namespace().run(|| {
        sh("sysctl -qw net.ipv4.tcp_max_tw_buckets=300000");
        let listener = listen();
        let mut count = 0;
        for last in 1..=2 {
            sh(&format!("ip address add 10.77.1.{last}/32 dev lo"));
            for port in 10_000..60_000 {
                let client =
                    nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
                let client = client.unwrap();
                bind(client.as_raw_fd(), &SockaddrIn::new(10, 77, 1, last, port)).unwrap();
                nix::sys::socket::connect(client.as_raw_fd(), &SockaddrIn::from(SERVICE)).unwrap();
                // Closed by the service first, so that the TIME_WAIT is the VIP's.
                drop(listener.accept().unwrap());
                drop(client);
                count += 1;
            }
        }
        let mut sockets = Sockets::open(0).unwrap();
        for _ in 0..3 {
            let start = Instant::now();
            let listed = sockets.dump(&[VIP]).unwrap();
            println!("{} of {count} listed in {:?}", listed.len(), start.elapsed());
            assert_eq!(listed.len(), count);
            let start = Instant::now();
            let found =
                listed.iter().take(10_000).filter(|one| sockets.query(one.local, one.remote).unwrap().is_some());
            println!("{} queries in {:?}", found.count(), start.elapsed());
            let mut listing = Listing::begin(&[VIP]).unwrap();
            let (mut steps, mut longest) = (0, Duration::ZERO);
            loop {
                let start = Instant::now();
                let more = listing.step(|_| {}).unwrap();
                (steps, longest) = (steps + 1, longest.max(start.elapsed()));
                if !more {
                    break;
                }
            }
            println!("the same in {steps} steps, the longest of {longest:?}");
        }
    });
}

#[test]
#[ignore = "a measurement: prints what docs/host.md says"]
fn how_many_announcements_wait_to_be_read() {
    namespace().run(|| {
        let mut destroyed = Destroyed::subscribe().unwrap();
        let listener = listen();
        for _ in 0..30_000 {
            let client = TcpStream::connect(SERVICE).unwrap();
            reset_on_close(&client);
            drop(client);
            drop(listener.accept());
        }
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        let mut heard = Vec::new();
        destroyed.read(1_000_000, |ending| heard.push(ending)).unwrap();
        let lost = heard.iter().position(|ending| *ending == Ending::Lost);
        println!("{} read in {:?}, lost at {lost:?}", heard.len(), start.elapsed());
    });
}
