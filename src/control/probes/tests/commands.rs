//! Commands: their end, their output, their time, and what is left of them.

use std::path::Path;
use std::time::{Duration, Instant};

use super::super::command::Program;
use super::super::stop::{self, Cut, Stop, Stopper};
use super::{PATIENCE, shell};

/// Room for a process to start on a busy machine before its time is up.
const SHORT: Duration = Duration::from_secs(1);

fn pair() -> (Stopper, Stop) {
    stop::pair().unwrap()
}

fn output(script: &str, within: Duration) -> Result<String, String> {
    let (_stopper, stop) = pair();
    match Program::new(&shell(script)).output(Instant::now() + within, &stop) {
        Ok(output) => Ok(String::from_utf8(output).unwrap()),
        Err(Cut::Failed(why) | Cut::Late(why)) => Err(why),
        Err(Cut::Stopped) => panic!("nobody stopped it"),
    }
}

/// Whether a process is there, and not just its exit status (the sandbox's init may be slow to collect it).
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
}

#[test]
fn output_and_exit_status_count() {
    assert_eq!(output("echo 3.5", PATIENCE), Ok("3.5\n".into()));
    assert_eq!(output("printf ''", PATIENCE), Ok(String::new()));
    assert_eq!(output("echo 1; exit 3", PATIENCE), Err("exit status: 3".into()));
    assert!(output("echo 1; kill -SEGV $$", PATIENCE).unwrap_err().contains("signal: 11"));
    assert_eq!(output("echo 1; echo noise >&2; read x || echo 2", PATIENCE), Ok("1\n2\n".into()));
    let (_stopper, stop) = pair();
    let missing = Program::new(&["/nowhere/check".into()]).succeeds(Instant::now() + PATIENCE, &stop);
    assert!(matches!(missing, Err(Cut::Failed(why)) if why.contains("/nowhere/check") && why.contains("No such file")));
}

#[test]
fn endless_output_is_cut() {
    let start = Instant::now();
    assert_eq!(output("yes", PATIENCE), Err("it writes more than 4096 bytes".into()));
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_hanging_command_is_killed_with_its_group_and_leaves_no_zombie() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    let script = format!("trap '' TERM INT HUP; sleep 3600 & echo $$ $! >{}; sleep 3600", pids.display());
    let start = Instant::now();
    assert_eq!(output(&script, SHORT), Err("it took too long".into()));
    assert!(start.elapsed() < PATIENCE);
    let written = std::fs::read_to_string(pids).unwrap();
    let (leader, child) = written.trim().split_once(' ').unwrap();
    assert!(!Path::new("/proc").join(leader).exists(), "the leader was waited for");
    gone(child);
}

#[test]
fn what_a_command_leaves_in_the_background_is_not_waited_for_and_ends_with_it() {
    let start = Instant::now();
    // It holds standard output open.
    let child = output("sleep 3600 & echo $!", PATIENCE).unwrap();
    assert!(start.elapsed() < PATIENCE);
    gone(child.trim());
}

/// A killed process that is not our own child ends in its own time, but soon.
fn gone(pid: &str) {
    let deadline = Instant::now() + PATIENCE;
    while runs(pid) {
        assert!(Instant::now() < deadline, "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_stopped_command_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    // The file appears with its content.
    let script = format!("echo $$ >{0}.new; mv {0}.new {0}; sleep 3600", pid.display());
    let (stopper, stop) = pair();
    let run =
        std::thread::spawn(move || Program::new(&shell(&script)).succeeds(Instant::now() + 100 * PATIENCE, &stop));
    let deadline = Instant::now() + PATIENCE;
    while !pid.exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(stopper);
    assert!(matches!(run.join().unwrap(), Err(Cut::Stopped)));
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}
