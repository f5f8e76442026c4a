//! What a probe's thread, and the commands that it starts, may take of the machine.
//!
//! A thread inherits scheduling policy and affinity from the one that starts it, and hands them on to its commands.
//! The control thread may be real-time and pinned; a health check must be neither, nor run on a worker's core.
#![allow(unsafe_code)] // Neither std, rustix nor nix sets a thread's scheduling policy.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Gives up real-time scheduling, and leaves the workers' cores alone where there are others. What fails is said, and
/// is no reason not to probe.
pub(super) fn unprivileged_scheduling(workers: &[usize]) -> Result<(), String> {
    let scheduling = normal_scheduling().map_err(|error| format!("can not leave real-time scheduling: {error}"));
    // EINVAL: no core is left, in this process's cpuset.
    let affinity = sched_setaffinity(None, &cores(workers))
        .or_else(|_| sched_setaffinity(None, &cores(&[])))
        .map_err(|error| format!("can not leave the control thread's core: {error}"));
    scheduling.and(affinity)
}

/// Every core but these. The kernel takes away those that do not exist or are not ours (sched_setaffinity(2)).
fn cores(without: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|core| !without.contains(core)).for_each(|core| set.set(core));
    set
}

/// From a real-time policy to the normal one; SCHED_BATCH and SCHED_IDLE stay as the operator chose.
fn normal_scheduling() -> io::Result<()> {
    // SAFETY: takes no pointer; 0 is the calling thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy < 0 {
        return Err(io::Error::last_os_error());
    }
    if !matches!(policy & !libc::SCHED_RESET_ON_FORK, libc::SCHED_FIFO | libc::SCHED_RR | libc::SCHED_DEADLINE) {
        return Ok(());
    }
    let normal = libc::sched_param { sched_priority: 0 };
    // SAFETY: `normal` outlives the call, which only reads it; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &normal) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
