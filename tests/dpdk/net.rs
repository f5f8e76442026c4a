//! A client and a member in namespaces of their own, with a veth pair for a wire.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use crate::process::LONG;

/// `client` has c0 (10.77.0.2), `member` has w0 at its other end, without an address, and the TAP t0 (10.77.0.1). The
/// member's kernel ignores what comes in on w0, so that it answers through t0 alone.
pub struct Net {
    pub client: String,
    pub member: String,
}

pub const CLIENT: &str = "10.77.0.2";
pub const MEMBER: &str = "10.77.0.1";

impl Net {
    pub fn new() -> Net {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("bdx{}-{number}-{side}", std::process::id());
        let net = Net { client: name("c"), member: name("m") };
        for namespace in [&net.client, &net.member] {
            run(&format!("ip netns add {namespace}"));
            run_in(namespace, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
            run_in(namespace, "ip link set lo up");
        }
        run(&format!("ip link add c0 netns {} type veth peer name w0 netns {}", net.client, net.member));
        // A switch's frames have finished checksums and are no longer than the MTU; a veth pair's are neither.
        net.client("ethtool -K c0 tx off tso off gso off gro off");
        net.client(&format!("ip addr add {CLIENT}/24 dev c0"));
        net.client("ip link set c0 up");
        net.member("nft add table netdev fence");
        net.member("nft add chain netdev fence in { type filter hook ingress device w0 priority 0; policy drop; }");
        net.member("ip tuntap add dev t0 mode tap multi_queue");
        let mac = net.member("cat /sys/class/net/w0/address");
        net.member(&format!("ip link set t0 address {} up", mac.trim()));
        net.member(&format!("ip addr add {MEMBER}/24 dev t0"));
        net
    }

    pub fn client(&self, command: &str) -> String {
        run_in(&self.client, command)
    }

    pub fn member(&self, command: &str) -> String {
        run_in(&self.member, command)
    }

    /// Pings the member's address; `length` bytes of payload.
    pub fn ping(&self, length: usize) -> bool {
        let command = format!("netns exec {} ping -q -c 1 -W 1 -s {length} {MEMBER}", self.client);
        Command::new("ip").args(command.split(' ')).output().unwrap().status.success()
    }

    /// A listener in the member's namespace that sends back, per connection, all that it receives.
    pub fn echo(&self, connections: usize) -> (u16, JoinHandle<()>) {
        let listener = in_namespace(&self.member, || TcpListener::bind((MEMBER, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let serve = move || {
            let threads: Vec<_> = (0..connections)
                .map(|_| {
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.set_read_timeout(Some(LONG)).unwrap();
                    std::thread::spawn(move || {
                        let mut data = Vec::new();
                        stream.read_to_end(&mut data).unwrap();
                        stream.write_all(&data).unwrap();
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        };
        (port, std::thread::spawn(serve))
    }

    /// Sends `data` over one connection from the client, and checks that it comes back.
    pub fn exchange(&self, port: u16, data: &[u8]) {
        let mut stream = in_namespace(&self.client, || TcpStream::connect((MEMBER, port)).unwrap());
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(data).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == data, "{} bytes went out, {} others came back", data.len(), back.len());
    }

    /// Sends datagrams from the member's kernel straight out of w0.
    pub fn kernel_sends_on_wire(&self, datagrams: usize) {
        self.member("ip addr add 10.78.0.1/24 dev w0");
        self.member("ip neigh replace 10.78.0.2 lladdr 02:00:00:00:00:02 dev w0");
        let socket = in_namespace(&self.member, || UdpSocket::bind("10.78.0.1:0").unwrap());
        for _ in 0..datagrams {
            socket.send_to(b"of the kernel", "10.78.0.2:9").unwrap();
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.member] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Does something on a thread within a namespace.
fn in_namespace<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
    std::thread::scope(|scope| {
        let inside = || {
            // SAFETY: an open descriptor; only this thread moves.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            work()
        };
        scope.spawn(inside).join().unwrap()
    })
}

fn run_in(namespace: &str, command: &str) -> String {
    run(&format!("ip netns exec {namespace} {command}"))
}

/// Runs a command, which must succeed; its words are separated by blanks.
fn run(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
