//! How a run ends.

use std::os::unix::process::ExitStatusExt;

use crate::Test;
use crate::process::Member;

const DEVICES: [&str; 2] = ["wire=vdev:net_null0", "host=vdev:net_null1"];

pub fn tests() -> Vec<Test> {
    vec![
        ("sigterm_and_sigint_end_a_run_cleanly", sigterm_and_sigint_end_a_run_cleanly),
        ("sighup_is_reported_and_ends_nothing", sighup_is_reported_and_ends_nothing),
        ("a_stop_from_within_ends_a_run_that_went_on_after_sigterm", a_stop_from_within),
        ("a_signal_before_the_run_is_reported_in_it", a_signal_before_the_run),
        ("a_stop_before_the_run_ends_it", a_stop_before_the_run_ends_it),
        ("a_panic_in_a_worker_ends_the_process_loudly", a_panic_in_a_worker),
    ]
}

fn sigterm_and_sigint_end_a_run_cleanly() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let member = Member::started("", &DEVICES);
        member.signal(signal);
        let (status, said, errors) = member.end();
        assert_eq!(status.code(), Some(0), "{said:?} {errors}");
        assert!(said.iter().any(|line| line.starts_with("dropped worker=0")), "the worker was not dropped: {said:?}");
    }
}

fn sighup_is_reported_and_ends_nothing() {
    let mut member = Member::started("", &DEVICES);
    for _ in 0..3 {
        member.signal(libc::SIGHUP);
        member.wait_for("signal Hangup");
    }
    assert!(member.finish().get("turns") > 0);
}

fn a_stop_from_within() {
    let mut member = Member::started("", &[DEVICES[0], DEVICES[1], "handover=100"]);
    member.signal(libc::SIGTERM);
    member.wait_for("signal Terminate");
    member.wait_for("handed over");
    let (status, said, _) = member.end();
    assert_eq!(status.code(), Some(0));
    let signals = said.iter().filter(|line| line.starts_with("signal")).count();
    assert_eq!(signals, 1, "the stop's own signal is not reported: {said:?}");
}

fn a_signal_before_the_run() {
    let mut member = Member::start("", &[DEVICES[0], DEVICES[1], "pause=300"]);
    member.wait_for("open");
    member.signal(libc::SIGTERM);
    member.wait_for("signal Terminate");
    let (status, ..) = member.end();
    assert_eq!(status.code(), Some(0));
}

fn a_stop_before_the_run_ends_it() {
    let (status, said, _) = Member::start("", &[DEVICES[0], DEVICES[1], "stop=before"]).end();
    assert_eq!(status.code(), Some(0));
    assert!(!said.iter().any(|line| line.starts_with("signal")), "{said:?}");
}

fn a_panic_in_a_worker() {
    let (status, said, errors) = Member::start("", &[DEVICES[0], DEVICES[1], "panic_at=1000"]).end();
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{said:?}");
    assert!(errors.contains("a worker panics, as asked for"), "{errors}");
}
