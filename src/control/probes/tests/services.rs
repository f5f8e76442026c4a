//! TCP and HTTP services that are well, hang, lie or are not there.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam::channel::unbounded;

use super::super::connect::{Target, accepts};
use super::super::health::Prober;
use super::super::stop::{self, Cut, Stop, Stopper};
use super::{Health, HealthProbe, PATIENCE, VIP, health, http};

/// For what must run into its time limit.
const SHORT: Duration = Duration::from_millis(200);

fn reason(outcome: Result<(), Cut>) -> String {
    match outcome {
        Err(Cut::Failed(why) | Cut::Late(why)) => why,
        other => panic!("not a failure: {other:?}"),
    }
}

fn pair() -> (Stopper, Stop) {
    stop::pair().unwrap()
}

fn vip(port: u16) -> Target {
    Target { address: SocketAddr::from((VIP, port)), vip: true }
}

/// A listener, and a target that leads to it.
fn listener() -> (TcpListener, Target) {
    let listener = TcpListener::bind((VIP, 0)).unwrap();
    let target = vip(listener.local_addr().unwrap().port());
    (listener, target)
}

#[test]
fn a_tcp_probe_is_not_seen_by_the_service_and_leaves_nothing() {
    let (listener, target) = listener();
    listener.set_nonblocking(true).unwrap();
    let (_stopper, stop) = pair();
    // Far more than its queue holds: none is left there.
    for _ in 0..5000 {
        accepts(target, Instant::now() + PATIENCE, &stop).unwrap();
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let port = format!("0200007F:{:04X}", target.address.port());
    let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let left: Vec<&str> = sockets.lines().filter(|line| line.contains(&port)).collect();
    assert_eq!(left.len(), 1, "only the listener: {left:#?}");
}

#[test]
fn a_closed_port_fails_at_once() {
    let (listener, target) = listener();
    drop(listener);
    let (_stopper, stop) = pair();
    let why = reason(accepts(target, Instant::now() + PATIENCE, &stop));
    assert!(why.contains("Connection refused"), "{why}");
}

#[test]
fn a_service_that_accepts_nobody_fails_in_time() {
    let (listener, target) = listener();
    // A queue of one: the kernel takes another one (sk_acceptq_is_full) and then drops every SYN.
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = TcpStream::connect(target.address).unwrap();
    let (_stopper, stop) = pair();
    let start = Instant::now();
    let why = reason(accepts(target, start + SHORT, &stop));
    assert!(why.contains("no answer in time"), "{why}");
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn a_vip_of_another_machine_is_not_asked() {
    // RFC 5737: documentation. The kernel knows no way to it from 127.0.0.1.
    let elsewhere = Target { address: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80)), vip: true };
    let (_stopper, stop) = pair();
    let start = Instant::now();
    let why = reason(accepts(elsewhere, start + PATIENCE, &stop));
    assert!(start.elapsed() < PATIENCE, "{why}");
}

/// A server that does this with each connection, until the test ends.
fn serve(each: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let (listener, target) = listener();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(each));
    target.address.port()
}

fn get(url: &str, within: Duration) -> Result<(), Cut> {
    let (_stopper, stop) = pair();
    Prober::new(&health(http(url)), VIP.into()).probe(Instant::now() + within, &stop)
}

/// The request's head.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn an_http_status_decides() {
    let port = serve(|mut stream| {
        let request = head(&mut stream);
        let status = request.split(['/', ' ']).nth(2).unwrap();
        let _ = write!(stream, "HTTP/1.1 {status} Whatever\r\nContent-Length: 2\r\n\r\nok");
    });
    for (status, well) in [(200, true), (204, true), (302, true), (399, true), (400, false), (404, false), (503, false)]
    {
        let outcome = get(&format!("http://{VIP}:{port}/{status}"), PATIENCE);
        assert_eq!(outcome.is_ok(), well, "{status}: {outcome:?}");
    }
    assert_eq!(reason(get(&format!("http://{VIP}:{port}/503"), PATIENCE)), "status 503");
}

#[test]
fn a_name_is_asked_of_the_vip() {
    let (sender, asked) = crossbeam::channel::unbounded();
    let port = serve(move |mut stream| {
        sender.send((head(&mut stream), stream.peer_addr().unwrap())).unwrap();
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
    });
    get(&format!("http://shop.invalid:{port}/health?deep=1"), PATIENCE).unwrap();
    let (request, from) = asked.recv_timeout(PATIENCE).unwrap();
    assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nHost: shop.invalid:{port}\r\n")), "{request}");
    assert_eq!(from.ip(), Ipv4Addr::LOCALHOST);
}

#[test]
fn other_addresses_are_asked_from_where_the_kernel_likes() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    });
    get(&format!("http://localhost:{port}/"), PATIENCE).unwrap();
    server.join().unwrap();
}

#[test]
fn servers_that_hang_fail_in_time() {
    let silent = serve(|mut stream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    // Each byte comes in time; the status does not.
    let slow = serve(|mut stream| {
        for byte in b"HTTP/1.1 200 OK\r\n".iter().cycle() {
            std::thread::sleep(SHORT / 10);
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    for port in [silent, slow] {
        let start = Instant::now();
        let why = reason(get(&format!("http://{VIP}:{port}/"), SHORT));
        assert_eq!(why, "no answer in time");
        assert!(start.elapsed() < PATIENCE);
    }
}

/// A server of which the first connections are not answered, and the others with this status; and how many there were.
fn falters(first: usize, status: u16) -> (u16, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, unanswered) = (Arc::clone(&asked), Mutex::new(Vec::new()));
    let port = serve(move |mut stream| {
        if count.fetch_add(1, Ordering::SeqCst) < first {
            unanswered.lock().unwrap().push(stream);
            return;
        }
        head(&mut stream);
        let _ = write!(stream, "HTTP/1.1 {status} Whatever\r\n\r\n");
    });
    (port, asked)
}

#[test]
fn what_is_late_is_asked_once_more_and_what_fails_is_not() {
    let (_stopper, stop) = pair();
    for (first, status, failure, times) in [
        (0, 200, None, 1),
        (0, 503, Some("status 503"), 1),
        (1, 200, None, 2),
        (1, 503, Some("status 503"), 2),
        (2, 200, Some("no answer in time"), 2),
    ] {
        let (port, asked) = falters(first, status);
        // Only who is to run into it is given little time.
        let health = Health {
            timeout: if first > 1 { SHORT } else { 5 * SHORT },
            ..health(http(&format!("http://{VIP}:{port}/")))
        };
        let mut probe = HealthProbe {
            vip: 0,
            address: VIP,
            prober: Prober::new(&health, VIP.into()),
            health,
            results: unbounded().0,
            stop: stop.clone(),
        };
        assert_eq!(probe.ask().unwrap().as_deref(), failure, "{first} unanswered, then {status}");
        assert_eq!(asked.load(Ordering::SeqCst), times, "{first} unanswered, then {status}");
    }
}

#[test]
fn servers_that_talk_nonsense_fail() {
    let answers: [(&'static [u8], &str); 4] = [
        (b"", "ended before a status"),
        (b"HTTP/1.1 2", "ended before a status"),
        (b"220 mail.example ESMTP\r\n", "not HTTP"),
        (b"HTTP/1.1 000 Zero\r\n", "not HTTP"),
    ];
    for (answer, expected) in answers {
        let port = serve(move |mut stream| {
            head(&mut stream);
            let _ = stream.write_all(answer);
        });
        let why = reason(get(&format!("http://{VIP}:{port}/"), PATIENCE));
        assert!(why.contains(expected), "{answer:?}: {why}");
    }
}

#[test]
fn an_endless_head_is_cut() {
    let line = serve(|mut stream| while stream.write_all(&[b'H'; 1000]).is_ok() {});
    let interim = serve(|mut stream| while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n").is_ok() {});
    for port in [line, interim] {
        let start = Instant::now();
        assert_eq!(reason(get(&format!("http://{VIP}:{port}/"), PATIENCE)), "no status in 16384 bytes");
        assert!(start.elapsed() < PATIENCE);
    }
}
