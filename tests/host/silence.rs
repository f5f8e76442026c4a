//! While baton is dead, the kernel says nothing for the VIP; when it is back, connections live on.
//!
//! A member is a process of its own here (this test binary again), so that it can be killed as a process is. In place
//! of the data plane it has a relay between wire and TAP that does just what delivering frames takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use baton::frame::Mac;
use baton::host::{HostSide, attach_tap, interface};
use baton::port::offload::header;

use crate::net::{Directory, Namespace, Packets, is_root};
use crate::setup::{VIP, member_and_peer, plan};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const VMAC: Mac = Mac([2, 0xba, 0, 0, 0, 0x64]);
const MULTICAST_VMAC: Mac = Mac([3, 0xba, 0, 0, 0, 0x64]);
const JOURNAL: &str = "BATON_TEST_HOST_JOURNAL";

/// Not a test of its own: what [`Member::start`] runs as a process, with a journal in its environment.
#[test]
fn member_process() {
    let Some(journal) = std::env::var_os(JOURNAL) else { return };
    let mut host = HostSide::raise(&plan(&[VIP]), journal.as_ref()).unwrap();
    let wire = interface("w0").unwrap().unwrap();
    let tap = attach_tap("vip0").unwrap();
    host.attached(wire.mac, wire.mtu).unwrap();
    std::thread::spawn(move || relay(&Packets::open("w0"), &tap, wire.mac));
    println!("\nraised adopted={}", host.adopted());
    // Until told to leave. Killed, this process never comes to that.
    std::io::stdin().lines().next();
    host.undo().unwrap();
}

/// Wire to TAP: what is for the vMAC, with our MAC instead, and ARP replies to us. TAP to wire: everything. Until the
/// TAP is gone.
fn relay(wire: &Packets, tap: &std::fs::File, own: Mac) {
    use std::os::fd::AsFd;
    nix::fcntl::fcntl(tap.as_fd(), nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let mut buffer = vec![0; 65536];
    loop {
        let mut idle = true;
        if let Some(mut frame) = wire.receive() {
            idle = false;
            let arp_reply = frame[..6] == own.0 && frame[12..14] == [8, 6] && frame[21] == 2;
            if frame[..6] == VMAC.0 || frame[..6] == MULTICAST_VMAC.0 || arp_reply {
                frame[..6].copy_from_slice(&own.0);
                if (&*tap).write_all(&[&header::FINISHED[..], &frame].concat()).is_err() {
                    return;
                }
            }
        }
        if let Ok(length) = (&*tap).read(&mut buffer) {
            idle = false;
            wire.send(&buffer[header::LEN..length]);
        }
        if idle {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// A running member.
struct Member {
    process: Child,
    adopted: bool,
}

impl Member {
    fn start(namespace: &Namespace, directory: &Directory) -> Member {
        let mut process = namespace.run(|| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "silence::member_process", "--nocapture"])
                .env(JOURNAL, directory.journal())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let lines = BufReader::new(process.stdout.as_mut().unwrap()).lines();
        let said = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("raised adopted=")? == "true"));
        Member { process, adopted: said.expect("the member did not start") }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn leave(mut self) {
        self.process.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

fn ones_complement(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 20 + body.len() as u8, 0, 1, 0, 0, 64, protocol, 0, 0];
    header.extend(PEER.octets());
    header.extend(VIP.octets());
    let checksum = ones_complement(&header);
    header[10..12].copy_from_slice(&checksum);
    [header, body.to_vec()].concat()
}

/// With the checksum over the pseudo header (RFC 9293, section 3.1) at `offset`.
fn transport(protocol: u8, mut body: Vec<u8>, offset: usize) -> Vec<u8> {
    let pseudo = [&PEER.octets()[..], &VIP.octets(), &[0, protocol, 0, body.len() as u8]].concat();
    let checksum = ones_complement(&[&pseudo[..], &body].concat());
    body[offset..offset + 2].copy_from_slice(&checksum);
    ipv4(protocol, &body)
}

/// A TCP segment without data to the VIP's `port`.
fn segment(port: u16, flags: u8) -> Vec<u8> {
    let mut tcp = vec![0x9c, 0x40];
    tcp.extend(port.to_be_bytes());
    tcp.extend([0, 0, 0x10, 0, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    transport(6, tcp, 16)
}

/// Everything that a neighbour might say to the VIP and get an answer to, as it arrives at a port with `own` as MAC.
fn provocations(own: Mac, sender: Mac) -> Vec<Vec<u8>> {
    let frame = |to: Mac, kind: [u8; 2], body: &[u8]| [&to.0[..], &sender.0, &kind, body].concat();
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(sender.0);
    arp.extend(PEER.octets());
    arp.extend([0; 6]);
    arp.extend(VIP.octets());
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1];
    let checksum = ones_complement(&echo);
    echo[2..4].copy_from_slice(&checksum);
    let packets = [
        ipv4(1, &echo),
        // To the open port and to a closed one: SYN, ACK and RST.
        segment(80, 0x02),
        segment(80, 0x10),
        segment(80, 0x04),
        segment(81, 0x02),
        segment(81, 0x10),
        // UDP to a closed port wants a port unreachable, a protocol nobody knows a protocol unreachable.
        transport(17, vec![0x9c, 0x40, 0x9c, 0x41, 0, 8, 0, 0], 6),
        ipv4(253, &[]),
    ];
    let mut frames = Vec::new();
    for to in [own, VMAC, MULTICAST_VMAC, Mac::BROADCAST] {
        frames.push(frame(to, [8, 6], &arp));
        frames.extend(packets.iter().map(|packet| frame(to, [8, 0], packet)));
    }
    frames
}

/// Frames that came of provoking the VIP through `interface` of `peer`: those that name the VIP.
fn answers(peer: &Namespace, interface: &str, own: Mac) -> Vec<Vec<u8>> {
    peer.run(|| {
        let packets = Packets::open(interface);
        let sender = baton::host::interface(interface).unwrap().unwrap().mac;
        for frame in provocations(own, sender) {
            packets.send(&frame);
        }
        let mut frames = packets.within(Duration::from_millis(300));
        frames.retain(|frame| frame.windows(4).any(|bytes| bytes == VIP.octets()));
        frames
    })
}

/// A service at the VIP that sends back what it gets, on each of its connections.
fn echo(member: &Namespace) {
    let listener = member.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut &connection, &mut &connection);
            });
        }
    });
}

fn says_back(mut connection: &TcpStream, text: &[u8]) {
    connection.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    connection.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

fn macs(member: &Namespace) -> (Mac, Mac) {
    member.run(|| (interface("w0").unwrap().unwrap().mac, interface("o0").unwrap().unwrap().mac))
}

/// A member with a second interface `o0`, whose other end `q0` is in `other`.
fn member_peer_other() -> (Namespace, Namespace, Namespace) {
    let (member, peer) = member_and_peer();
    let other = Namespace::new();
    member.connect("o0", &other, "q0");
    member.sh("ip address add 10.78.0.11/24 dev o0");
    other.sh("ip address add 10.77.0.1/32 dev q0");
    (member, peer, other)
}

#[test]
fn a_kernel_left_to_itself_would_answer() {
    if !is_root() {
        return;
    }
    // What the other tests find silent speaks up here, so their silence means something.
    let (member, peer, _other) = member_peer_other();
    member.sh("ip address add 10.77.0.100/32 dev lo");
    echo(&member);
    let (own, _) = macs(&member);
    let answers = answers(&peer, "p0", own);
    let kinds = |ethertype: [u8; 2], at: usize, value: u8| {
        answers.iter().filter(|frame| frame[12..14] == ethertype && frame[at] == value).count()
    };
    assert_eq!(kinds([8, 6], 21, 2), 4, "ARP replies");
    // Own MAC: echo reply, two unreachables. Multicast and broadcast: the same by frame, where the kernel lets them in.
    assert!(kinds([8, 0], 23, 1) >= 3, "ICMP");
    assert!(kinds([8, 0], 23, 6) >= 3, "TCP");
}

#[test]
fn a_killed_member_is_silent_and_a_restarted_one_has_its_connections() {
    if !is_root() {
        return;
    }
    let (member, peer, other) = member_peer_other();
    echo(&member);
    // The worst that hosts have: strict reverse path filters everywhere, and logs of what they drop.
    member.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.all.arp_announce=2");
    peer.sh(&format!("ip neighbour add 10.77.0.100 lladdr {VMAC} dev p0 nud permanent"));
    let (wire, second) = macs(&member);
    let directory = Directory::new();

    let first = Member::start(&member, &directory);
    assert!(!first.adopted);
    let connection = peer.run(|| TcpStream::connect(SocketAddrV4::new(VIP, 80)).unwrap());
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    says_back(&connection, b"before");
    first.kill();

    assert_eq!(answers(&peer, "p0", wire), Vec::<Vec<u8>>::new(), "on the wire");
    assert_eq!(answers(&other, "q0", second), Vec::<Vec<u8>>::new(), "on another interface");
    // Data that arrives now is lost, and so is what the service says: TCP repeats both.
    (&connection).write_all(b"while dead").unwrap();

    let again = Member::start(&member, &directory);
    assert!(again.adopted);
    let mut back = [0; 10];
    (&connection).read_exact(&mut back).unwrap();
    assert_eq!(&back, b"while dead");
    says_back(&connection, b"after");
    peer.run(|| says_back(&TcpStream::connect(SocketAddrV4::new(VIP, 80)).unwrap(), b"a new one"));
    again.leave();
    assert_eq!(member.run(|| interface("vip0").unwrap()), None);
}

#[test]
fn loose_reverse_path_filters_do_as_well() {
    if !is_root() {
        return;
    }
    let (member, peer) = member_and_peer();
    echo(&member);
    member.sh("sysctl -qw net.ipv4.conf.all.rp_filter=2 net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=2");
    peer.sh(&format!("ip neighbour add 10.77.0.100 lladdr {VMAC} dev p0 nud permanent"));
    let directory = Directory::new();
    let running = Member::start(&member, &directory);
    peer.run(|| says_back(&TcpStream::connect(SocketAddrV4::new(VIP, 80)).unwrap(), b"hello"));
    running.leave();
}

#[test]
fn a_dead_member_whose_firewall_was_flushed_is_still_silent_on_the_wire() {
    if !is_root() {
        return;
    }
    let (member, peer, _other) = member_peer_other();
    echo(&member);
    let directory = Directory::new();
    Member::start(&member, &directory).kill();
    member.sh("nft flush ruleset");
    let (own, _) = macs(&member);
    assert_eq!(answers(&peer, "p0", own), Vec::<Vec<u8>>::new());
}

#[test]
fn a_dead_member_whose_rule_was_removed_is_still_silent() {
    if !is_root() {
        return;
    }
    let (member, peer) = member_and_peer();
    let directory = Directory::new();
    Member::start(&member, &directory).kill();
    // As systemd-networkd does with foreign rules. Now the way of the VIP's packets is the wire.
    member.sh("ip rule del priority 200");
    let packets = peer.run(|| Packets::open("p0"));
    let leaves = || {
        let socket = member.run(|| UdpSocket::bind((VIP, 0)).unwrap());
        let sent = socket.send_to(b"out", (PEER, 9));
        let seen = packets.within(Duration::from_millis(200));
        (sent.is_ok(), seen.iter().any(|frame| frame.windows(4).any(|bytes| bytes == VIP.octets())))
    };
    assert_eq!(leaves(), (false, false));
    // And it is the guard that keeps it from going.
    member.sh("nft flush ruleset");
    assert_eq!(leaves(), (true, true));
}

#[test]
fn what_the_kernel_would_take_from_the_wire_itself_never_reaches_a_socket() {
    if !is_root() {
        return;
    }
    let (member, peer, _other) = member_peer_other();
    echo(&member);
    let directory = Directory::new();
    let running = Member::start(&member, &directory);
    let (own, _) = macs(&member);
    // The relay passes frames to a vMAC on; those to the wire's own MAC must go nowhere, live member or not.
    peer.run(|| {
        let packets = Packets::open("p0");
        let sender = interface("p0").unwrap().unwrap().mac;
        for frame in provocations(own, sender).into_iter().filter(|frame| frame[..6] == own.0) {
            packets.send(&frame);
        }
        let mut frames = packets.within(Duration::from_millis(300));
        frames.retain(|frame| frame.windows(4).any(|bytes| bytes == VIP.octets()));
        assert_eq!(frames, Vec::<Vec<u8>>::new());
    });
    running.leave();
}
