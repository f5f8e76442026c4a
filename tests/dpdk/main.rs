//! The DPDK ports against real devices: DPDK's null and ring devices, and a veth pair and a TAP in namespaces of their own.
//!
//! Each test starts this program again as the process under test (`member`), since DPDK initialises once a process. It
//! needs root: without, every test is listed as ignored, with a line that says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test's way to fail.
#![allow(unsafe_code)] // Threads enter namespaces.

mod member;
mod net;
mod process;
mod refusals;
mod signals;
mod traffic;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "member") {
        if let Err(reason) = member::run(&arguments[1..]) {
            eprintln!("{reason}");
            std::process::exit(1);
        }
        return;
    }
    let mut options = Arguments::from_args();
    // Polling members on the same two cores would only disturb each other.
    options.test_threads = Some(1);
    // SAFETY: asks for a number.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: the tests of the DPDK ports need root, for namespaces, packet sockets and TAPs");
    }
    let tests = [signals::tests(), refusals::tests(), traffic::tests()];
    let trials = tests.concat().into_iter().map(|(name, test)| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(!root)
    });
    libtest_mimic::run(&options, trials.collect()).exit();
}

/// A test and its name.
type Test = (&'static str, fn());
