//! Cores, memory and buffer pools.

use std::ffi::CString;
use std::fs;

use capsule_ffi as ffi;

use super::{Error, dpdk_error};
use crate::config::checked::{Dataplane, HugePages};

/// Buffers that a worker's queues, rings and cache may hold at once, generously: a NIC's two rings of 1,024, bursts under
/// way, what the worker keeps for later.
const BUFFERS_PER_WORKER: usize = 8192;

/// Bytes of one buffer: DPDK's default data room, headroom, mbuf and mempool headers, rounded up.
const BUFFER_SIZE: usize = 2560;

/// Without huge pages no buffer may cross the end of a page (`rte_mempool_get_page_size`), so each takes one.
const BUFFER_PAGE: usize = 4096;

/// Memory besides the buffers: EAL's own, device structures, rings.
const REST_MIB: usize = 64;

/// A live mempool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool(*mut ffi::rte_mempool);

// SAFETY: DPDK's mempools are made for use from many threads; the pointer stays valid until the run ends.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    pub(super) fn as_ptr(self) -> *mut ffi::rte_mempool {
        self.0
    }
}

/// Where the memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) huge_pages: bool,
    /// Buffers per pool; there is one for each NUMA node of our cores.
    pub(super) buffers: usize,
    /// What all of it takes.
    pub(super) mib: usize,
}

/// How much memory, and of which kind.
pub(super) fn plan(setup: &Dataplane) -> Result<Plan, Error> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    plan_with(setup.workers.len(), setup.buffers, setup.huge_pages, free_huge_mib(&meminfo))
}

fn plan_with(workers: usize, asked: usize, wanted: HugePages, free_mib: usize) -> Result<Plan, Error> {
    // A mempool uses its memory best at a power of two minus one.
    let buffers = ((workers + 1) * BUFFERS_PER_WORKER).next_power_of_two() - 1;
    let buffers = buffers.max(asked);
    let mib = REST_MIB + (buffers * BUFFER_SIZE).div_ceil(1 << 20);
    let without = REST_MIB + (buffers * BUFFER_PAGE).div_ceil(1 << 20);
    let huge_pages = match wanted {
        HugePages::Never => false,
        HugePages::Auto => free_mib >= mib,
        HugePages::Require if free_mib < mib => return Err(Error::HugePages { needed_mib: mib, free_mib }),
        HugePages::Require => true,
    };
    Ok(Plan { huge_pages, buffers, mib: if huge_pages { mib } else { without } })
}

/// Huge pages of the default size that are free, from /proc/meminfo.
fn free_huge_mib(meminfo: &str) -> usize {
    let field = |name: &str| -> usize {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    field("HugePages_Free").saturating_sub(field("HugePages_Rsvd")) * field("Hugepagesize") / 1024
}

/// Refuses cores that this process may not use; capsule would only say "Invalid argument".
pub(super) fn check_cores(setup: &Dataplane) -> Result<(), Error> {
    let allowed = allowed_cores();
    for core in setup.workers.iter().copied().chain([setup.control_core]) {
        if !allowed.contains(&core) {
            return Err(Error::Core { core, allowed });
        }
    }
    Ok(())
}

fn allowed_cores() -> Vec<usize> {
    // SAFETY: all zeros is an empty set; the kernel fills it in.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        set
    };
    let most = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: each core is within the set.
    (0..most).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// capsule's pools. It names them so, counting from 0, and keeps them to itself.
pub(super) fn pools() -> impl Iterator<Item = Pool> {
    (0..).map_while(|number: usize| {
        let name = CString::new(format!("mempool{number}")).ok()?;
        // SAFETY: a C string.
        let pool = unsafe { ffi::rte_mempool_lookup(name.as_ptr()) };
        (!pool.is_null()).then_some(Pool(pool))
    })
}

/// The pool nearest to a core, as capsule assigns it.
pub(super) fn pool_of_core(core: usize) -> Result<Pool, Error> {
    // SAFETY: takes a number, gives a number.
    let node = unsafe { ffi::numa_node_of_cpu(core as i32) };
    // SAFETY: the pools live until the run ends.
    pools().find(|pool| unsafe { (*pool.0).socket_id } == node).ok_or_else(|| dpdk_error("finding a core's pool", -2))
}

/// Removes the directory that EAL creates for this process even where it puts nothing into it.
pub(super) fn remove_runtime_directory() {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: EAL is up: a C string that it keeps.
    let path = unsafe { std::ffi::CStr::from_ptr(ffi::rte_eal_get_runtime_dir()) };
    // Refused unless it is empty, which is just what is wanted.
    let _ = fs::remove_dir(std::ffi::OsStr::from_bytes(path.to_bytes()));
}

/// Buffers in a pool.
pub(super) fn size(pool: Pool) -> usize {
    // SAFETY: a live pool, whose size never changes.
    unsafe { (*pool.0).size as usize }
}

/// Buffers out of their pools now.
pub(super) fn held() -> usize {
    // SAFETY: a live pool; the count is a snapshot.
    pools().map(|pool| unsafe { ffi::rte_mempool_in_use_count(pool.0) } as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "HugePages_Total: 900\nHugePages_Free: 700\nHugePages_Rsvd: 100\nHugepagesize: 2048 kB\n";

    #[test]
    fn free_huge_pages_are_those_that_nobody_has_reserved() {
        assert_eq!(free_huge_mib(MEMINFO), 1200);
        assert_eq!(free_huge_mib(""), 0);
    }

    #[test]
    fn huge_pages_are_used_only_where_all_of_it_fits() {
        let plan = plan_with(1, 0, HugePages::Auto, 1200).unwrap();
        assert!(plan.huge_pages);
        assert_eq!(plan.buffers, 16383);
        assert_eq!(plan_with(1, 100, HugePages::Auto, 1200).unwrap(), plan, "as many as the workers need");
        assert_eq!(plan_with(1, 300_000, HugePages::Auto, 1200).unwrap().buffers, 300_000);
        assert!(plan.mib < 128);
        let without = plan_with(1, 0, HugePages::Auto, plan.mib - 1).unwrap();
        assert!(!without.huge_pages);
        assert_eq!(without.mib, 128);
        assert!(!plan_with(1, 0, HugePages::Never, 1200).unwrap().huge_pages);
        assert!(matches!(plan_with(1, 0, HugePages::Require, 0), Err(Error::HugePages { free_mib: 0, .. })));
    }
}
