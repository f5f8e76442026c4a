//! Network namespaces, commands in them, and a packet socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// Whether this test can run; says so if not.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// A network namespace without a name: it ends with this and the sockets in it.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Namespace {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let namespace = Namespace(File::open("/proc/thread-self/ns/net").unwrap());
            sh("ip link set lo up");
            // Router solicitations and the like would only be noise.
            sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
            namespace
        });
        made.join().unwrap()
    }

    /// Runs something in this namespace, on a thread of its own.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                self.enter();
                body()
            });
            running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread here.
    pub fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    pub fn sh(&self, command: &str) -> String {
        self.run(|| sh(command))
    }

    /// A pair of interfaces, `here` in this namespace and `there` in the other.
    pub fn connect(&self, here: &str, other: &Namespace, there: &str) {
        let (pid, fd) = (std::process::id(), other.0.as_raw_fd());
        self.sh(&format!(
            "ip link add {here} type veth peer name {there} && ip link set {there} netns /proc/{pid}/fd/{fd} &&
             ip link set {here} up && ethtool -K {here} tx off tso off gso off"
        ));
        other.sh(&format!("ip link set {there} up && ethtool -K {there} tx off tso off gso off gro off"));
    }
}

/// Runs a shell command in the thread's namespace; its output. Fails with what it said.
pub fn sh(command: &str) -> String {
    let output = Command::new("sh").arg("-ec").arg(command).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory of its own for a test, gone after it.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only the numbers must differ.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("baton-host-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn journal(&self) -> PathBuf {
        self.0.join("host.json")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until something holds, at most five seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(5), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A packet socket on an interface: sends and receives whole frames.
pub struct Packets(OwnedFd);

impl Packets {
    /// In the thread's namespace. Frames that this machine sends are not received.
    pub fn open(interface: &str) -> Packets {
        let index = nix::net::if_::if_nametoindex(interface).unwrap();
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain system calls; the address is a whole sockaddr_ll, all zeros where not set.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(fd);
            let one = 1 as libc::c_int;
            let ignored = libc::setsockopt(
                fd,
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const one).cast(),
                size_of_val(&one) as _,
            );
            assert_eq!(ignored, 0, "{}", io::Error::last_os_error());
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as _;
            address.sll_protocol = every;
            address.sll_ifindex = index as _;
            let bound = libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as _);
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            Packets(socket)
        }
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = nix::unistd::write(&self.0, frame);
        // ENOBUFS and ENETDOWN: lost, as frames are.
        assert!(sent.is_ok() || matches!(sent, Err(nix::Error::ENOBUFS | nix::Error::ENETDOWN)), "{sent:?}");
    }

    /// The next frame, if one is there.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65536];
        match nix::unistd::read(&self.0, &mut frame) {
            Ok(length) => {
                frame.truncate(length);
                Some(frame)
            }
            Err(_) => None,
        }
    }

    /// All frames that come within a time.
    pub fn within(&self, time: Duration) -> Vec<Vec<u8>> {
        let start = Instant::now();
        let mut frames = Vec::new();
        while start.elapsed() < time {
            match self.receive() {
                Some(frame) => frames.push(frame),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        frames
    }
}
