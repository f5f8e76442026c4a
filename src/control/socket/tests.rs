//! The socket with a control thread of the test's own.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crossbeam::channel::{Receiver, bounded, unbounded};
use proptest::prelude::*;

use super::*;
use crate::control::protocol::{CHUNK, Connection, ConnectionState, Listed};
use crate::metrics::Snapshot;
use crate::status::Status;

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 100));
/// How many connections the test's table has: several pages.
const LISTED: u64 = 2 * CHUNK as u64 + 7;

/// The state of the test's control thread.
#[derive(Default)]
struct State {
    /// The established connections of its one virtual IP.
    remaining: AtomicU64,
    /// How often it was told to drain.
    drains: AtomicU64,
}

/// Answers as a control thread would.
fn control(asked: &Receiver<Ask>, state: &State) {
    for ask in asked {
        // A client that has left is no fault, so no answer is waited for.
        match ask {
            Ask::Snapshot(reply) => {
                let mut status: Status = serde_json::from_str(crate::status::tests::EXAMPLE).unwrap();
                status.vips[0].connections.established = state.remaining.load(Ordering::Relaxed);
                let _ = reply.send(Box::new(Snapshot { status, ..Snapshot::default() }));
            }
            Ask::Drain(vip, reply) | Ask::Undrain(vip, reply) => {
                state.drains.fetch_add(1, Ordering::Relaxed);
                let known = vip.is_none_or(|vip| vip == VIP);
                let _ = reply.send(if known { Ok(()) } else { Err("no such virtual IP".into()) });
            }
            Ask::Activate(_, reply) => drop(reply.send(Err("this member is draining".into()))),
            Ask::Connections(page, reply) => drop(reply.send(Ok(list(page.from)))),
        }
    }
}

fn connection(number: u64) -> Connection {
    Connection {
        vip: VIP,
        client: ([10, 0, 0, 1], number as u16).into(),
        port: 80,
        state: ConnectionState::Established,
        age_ms: number,
    }
}

fn list(from: u64) -> Listed {
    let end = (from + CHUNK as u64).min(LISTED);
    Listed { connections: (from..end).map(connection).collect(), next: (end < LISTED).then_some(end) }
}

struct Member {
    path: PathBuf,
    state: Arc<State>,
    server: Option<Server>,
    control: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Member {
    fn start(established: u64) -> Member {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/baton.sock");
        let (asks, asked) = unbounded();
        let state = Arc::new(State { remaining: established.into(), ..State::default() });
        let theirs = Arc::clone(&state);
        let control = thread::spawn(move || control(&asked, &theirs));
        let server = Server::start(&path, asks).unwrap();
        Member { path, state, server: Some(server), control: Some(control), _directory: directory }
    }

    fn ask(&self, request: &Request) -> Response {
        Client::connect(&self.path).unwrap().request(request).unwrap()
    }

    /// Sends raw bytes and returns all that comes back until the server closes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The server may close on a bad start before it has read the rest.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.server.take());
        // Ends only when the server's threads have let go of their senders.
        self.control.take().unwrap().join().unwrap();
    }
}

#[test]
fn each_request_gets_its_response() {
    let member = Member::start(0);
    let Response::Status(status) = member.ask(&Request::Status) else { panic!("no status") };
    assert_eq!(status.node, "s1");
    assert_eq!(member.ask(&Request::Drain { vip: None, wait: false, timeout_ms: None }), Response::Done);
    assert_eq!(member.ask(&Request::Undrain { vip: Some(VIP) }), Response::Done);
    let other = Request::Drain { vip: Some([10, 0, 0, 101].into()), wait: true, timeout_ms: None };
    assert_eq!(member.ask(&other), Response::Refused("no such virtual IP".into()));
    assert_eq!(member.ask(&Request::Activate { vip: VIP }), Response::Refused("this member is draining".into()));
}

#[test]
fn one_connection_carries_several_requests() {
    let member = Member::start(0);
    let mut client = Client::connect(&member.path).unwrap();
    for _ in 0..3 {
        assert!(matches!(client.request(&Request::Status).unwrap(), Response::Status(_)));
    }
    let answers =
        member.raw(b"{\"request\":\"undrain\"}\n{\"request\":\"drain\"}\nnonsense\n{\"request\":\"undrain\"}\n");
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines.len(), 4, "{answers}");
    assert_eq!([lines[0], lines[1], lines[3]], [r#""done""#; 3]);
    assert!(lines[2].starts_with(r#"{"error":"the request is not understood"#), "{answers}");
}

#[test]
fn a_long_listing_comes_in_pages() {
    let member = Member::start(0);
    let mut client = Client::connect(&member.path).unwrap();
    let mut response = client.request(&Request::Connections { vip: None }).unwrap();
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let Response::Connections { connections, more } = response else { panic!("{response:?}") };
        assert!(connections.len() <= CHUNK);
        all.extend(connections);
        pages += 1;
        if !more {
            break;
        }
        response = client.response().unwrap();
    }
    assert_eq!(pages, 3);
    assert_eq!(all, (0..LISTED).map(connection).collect::<Vec<_>>());
}

#[test]
fn draining_waits_for_the_last_connection() {
    let member = Member::start(2);
    let drain = Request::Drain { vip: Some(VIP), wait: true, timeout_ms: None };
    let state = Arc::clone(&member.state);
    let (report, reported) = bounded(1);
    let path = member.path.clone();
    let waiting = thread::spawn(move || {
        report.send(Client::connect(&path).unwrap().request(&drain).unwrap()).unwrap();
    });
    state.remaining.store(1, Ordering::Relaxed);
    assert!(reported.recv_timeout(Duration::from_millis(400)).is_err(), "returned with a connection left");
    state.remaining.store(0, Ordering::Relaxed);
    assert_eq!(reported.recv_timeout(Duration::from_secs(10)).unwrap(), Response::Done);
    waiting.join().unwrap();
}

#[test]
fn draining_gives_up_when_its_time_is_over() {
    let member = Member::start(3);
    let begun = Instant::now();
    let response = member.ask(&Request::Drain { vip: None, wait: true, timeout_ms: Some(250) });
    assert_eq!(response, Response::TimedOut { connections: 3 });
    assert!(begun.elapsed() >= Duration::from_millis(250));
    // So long that no clock reaches it; ended by the end of the member.
    let mut client = Client::connect(&member.path).unwrap();
    let forever = Request::Drain { vip: None, wait: true, timeout_ms: Some(u64::MAX) };
    let waiting = thread::spawn(move || client.request(&forever).unwrap());
    while member.state.drains.load(Ordering::Relaxed) < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    drop(member);
    assert_eq!(waiting.join().unwrap(), Response::Error("the member is stopping".into()));
}

#[test]
fn a_client_that_leaves_is_not_waited_for() {
    let member = Member::start(1);
    for _ in 0..2 * CLIENTS {
        let mut stream = UnixStream::connect(&member.path).unwrap();
        stream.write_all(b"{\"request\":\"drain\",\"wait\":true}\n").unwrap();
        drop(stream);
    }
    // All of their threads end by themselves, so there is room again.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !matches!(member.ask(&Request::Status), Response::Status(_)) {
        assert!(Instant::now() < deadline, "clients that left still take room");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn clients_beyond_the_bound_are_told_so() {
    let member = Member::start(0);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(&member.path).unwrap()).collect();
    for client in &mut clients {
        assert!(matches!(client.request(&Request::Status).unwrap(), Response::Status(_)));
    }
    let Response::Error(why) = member.ask(&Request::Status) else { panic!("served") };
    assert!(why.contains("16 clients"), "{why}");
}

#[test]
fn the_file_is_its_owners_alone_and_goes_with_the_member() {
    let member = Member::start(0);
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&member.path), 0o600);
    assert_eq!(mode(member.path.parent().unwrap()), 0o700);
    let Member { path, _directory, .. } = &member;
    let (path, parent) = (path.clone(), _directory.path().to_owned());
    let Err(StartError::AlreadyRunning(taken)) = Server::start(&path, unbounded().0) else { panic!("started twice") };
    assert_eq!(taken, path);
    // The loser has not disturbed the winner.
    assert!(matches!(member.ask(&Request::Status), Response::Status(_)));
    assert!(parent.exists());
    let Some(server) = &member.server else { unreachable!() };
    assert_eq!(server.path, path);
    let mut member = member;
    drop(member.server.take());
    assert!(!path.exists());
    assert!(matches!(Client::connect(&path), Err(ClientError::NotRunning(_))));
    // And the next one may start.
    drop(Server::start(&path, unbounded().0).unwrap());
}

#[test]
fn a_stale_socket_is_replaced_and_all_else_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("baton.sock");
    leave_a_stale_socket(&path);
    assert!(matches!(Client::connect(&path), Err(ClientError::NotRunning(_))));
    drop(Server::start(&path, unbounded().0).unwrap());

    let foreign = UnixListener::bind(&path).unwrap();
    assert!(matches!(Server::start(&path, unbounded().0), Err(StartError::AlreadyRunning(_))));
    drop(foreign);
    std::fs::remove_file(&path).unwrap();

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::start(&path, unbounded().0), Err(StartError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// What a killed process leaves: the file of a socket that nobody listens on. It never did: a listener would live on for a
/// moment in whatever a test beside this one is just starting, between fork and exec.
fn leave_a_stale_socket(path: &Path) {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
}

#[test]
fn of_many_starting_at_once_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("baton.sock");
    leave_a_stale_socket(&path);
    let starting: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || Server::start(&path, unbounded().0))
        })
        .collect();
    let started: Vec<Result<Server, StartError>> = starting.into_iter().map(|one| one.join().unwrap()).collect();
    assert_eq!(started.iter().filter(|one| one.is_ok()).count(), 1);
    assert!(started.iter().all(|one| matches!(one, Ok(_) | Err(StartError::AlreadyRunning(_)))), "{started:?}");
    assert!(path.exists());
}

#[test]
fn a_request_without_end_is_refused() {
    let member = Member::start(0);
    assert!(member.raw(&vec![b'x'; 100_000]).contains("longer than 4096 bytes"));
    assert!(member.raw(br#"{"request":"status"}"#).contains("does not end with a line feed"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is sent, every line that comes back is a response, and the next client is served.
    #[test]
    fn any_bytes_get_responses(lines in prop::collection::vec(prop_oneof![
        any::<Vec<u8>>(),
        r#"\{"request":"(status|drain|undrain|activate|connections|x)"(,"(vip|wait|timeout_ms)":(true|-1|"10.0.0.100"|""|null|\[\]))*\}"#
            .prop_map(String::into_bytes),
    ], 0..8)) {
        let member = Member::start(0);
        let answers = member.raw(&lines.join(&b'\n'));
        for answer in answers.lines() {
            prop_assert!(serde_json::from_str::<Response>(answer).is_ok(), "{}", answer);
        }
        prop_assert!(matches!(member.ask(&Request::Status), Response::Status(_)));
    }
}
