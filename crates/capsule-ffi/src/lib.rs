//! capsule's C side, bound to the DPDK that is installed.
//!
//! capsule 0.1.5 was written for DPDK 19.11 and names things that DPDK has since renamed or dropped. This crate takes
//! the place of its `capsule-ffi`, so that capsule itself stays unmodified: the declarations come from the installed
//! headers, and what differs between them and what capsule expects is put right here, each with its reason.
//! baton's ports call the same functions directly for their bursts.

#![cfg(target_os = "linux")]

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, PoisonError};

pub use bindings::*;

mod bindings {
    #![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
    #![allow(
        unsafe_op_in_unsafe_fn,
        unnecessary_transmutes,
        dead_code,
        clippy::all,
        clippy::undocumented_unsafe_blocks
    )]

    use super::{rte_eth_rx_mq_mode, rte_mbuf};

    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

/// DPDK's packet buffer, as far as baton and capsule look into it.
///
/// By hand, because its fields move in and out of anonymous unions from release to release, which gives them other
/// names in Rust, while their place is part of DPDK's ABI. shim.c asserts every offset at compile time.
#[repr(C, align(64))]
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct rte_mbuf {
    /// Where the buffer starts, headroom included.
    pub buf_addr: *mut c_void,
    buf_iova: u64,
    /// Where the data starts, counted from `buf_addr`.
    pub data_off: u16,
    /// How many own it.
    pub refcnt: u16,
    /// How many buffers the packet is spread over.
    pub nb_segs: u16,
    /// The port it came from.
    pub port: u16,
    /// Offload flags (`RTE_MBUF_F_*`).
    pub ol_flags: u64,
    /// What the driver says it is (`RTE_PTYPE_*`).
    pub packet_type: u32,
    /// Bytes of data in all segments.
    pub pkt_len: u32,
    /// Bytes of data in this segment.
    pub data_len: u16,
    /// The VLAN tag that the driver took out.
    pub vlan_tci: u16,
    hash: [u16; 4],
    vlan_tci_outer: u16,
    /// Bytes from `buf_addr` to the buffer's end.
    pub buf_len: u16,
    /// Where it goes when it is freed.
    pub pool: *mut rte_mempool,
    second_cache_line: [u64; 8],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<rte_mbuf>() == 128);
    assert!(offset_of!(rte_mbuf, data_off) == 16);
    assert!(offset_of!(rte_mbuf, ol_flags) == 24);
    assert!(offset_of!(rte_mbuf, pkt_len) == 36);
    assert!(offset_of!(rte_mbuf, data_len) == 40);
    assert!(offset_of!(rte_mbuf, buf_len) == 54);
    assert!(offset_of!(rte_mbuf, pool) == 56);
};

/// How packets are spread over receive queues. DPDK 21.11 renamed the constants; shim.c asserts the value.
#[allow(non_camel_case_types, missing_docs)]
pub mod rte_eth_rx_mq_mode {
    pub type Type = std::os::raw::c_uint;
    /// By a hash of the flow.
    pub const ETH_MQ_RX_RSS: Type = 1;
}

// RSS hash functions, `RTE_ETH_RSS_*` since 21.11: written with RTE_BIT64, which bindgen does not evaluate. shim.c asserts
// the values.
/// IPv4 and IPv6, their fragments and what else they carry.
pub const ETH_RSS_IP: u64 = 0xa38c;
/// TCP over IPv4 and IPv6.
pub const ETH_RSS_TCP: u64 = 0x10410;
/// UDP over IPv4 and IPv6.
pub const ETH_RSS_UDP: u64 = 0x20820;
/// SCTP over IPv4 and IPv6.
pub const ETH_RSS_SCTP: u64 = 0x1040;

/// The offload by which a driver frees sent buffers without looking at their pool: none, so that capsule never asks
/// for it. It holds only if all buffers of a queue come from one pool, and ours come from two where the ports sit on
/// different NUMA nodes.
pub const DEV_TX_OFFLOAD_MBUF_FAST_FREE: u64 = 0;

/// What a port can be asked to leave out on its way to us: TCP's and UDP's checksums, and cutting TCP into segments.
/// shim.c asserts the value.
const RX_OFFLOADS: u64 = 0x1c;
/// What it can do to what we send: TCP's checksum, cutting TCP into segments, buffers of several parts.
const TX_OFFLOADS: u64 = 0x8028;

/// The ports that are to have these offloads.
static OFFLOADING: Mutex<Vec<CString>> = Mutex::new(Vec::new());

/// Has a port configured with offloads: it hands over, and takes, TCP segments of up to 64 KiB. capsule knows of none,
/// so this is asked for here before it configures its ports. A driver that lacks one of them refuses the port.
pub fn with_offloads(port: CString) {
    OFFLOADING.lock().unwrap_or_else(PoisonError::into_inner).push(port);
}

/// Configures a port, with offloads if they were asked for.
///
/// # Safety
///
/// As of DPDK's function of this name: `conf` points to a configuration.
pub unsafe fn rte_eth_dev_configure(port: u16, rx: u16, tx: u16, conf: *const rte_eth_conf) -> c_int {
    // SAFETY: the caller's promise; it holds numbers, and pointers that are copied as such.
    let mut conf = unsafe { conf.read() };
    let asked = OFFLOADING.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|name| {
        let mut id = 0;
        // SAFETY: a C string and a place for the answer.
        unsafe { rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) == 0 && id == port }
    });
    if asked {
        conf.rxmode.offloads |= RX_OFFLOADS;
        conf.txmode.offloads |= TX_OFFLOADS;
    }
    // SAFETY: the caller's promise, and a configuration that outlives the call.
    unsafe { eal::rte_eth_dev_configure(port, rx, tx, &conf) }
}

mod eal {
    use super::{c_char, c_int, rte_cpuset_t, rte_eth_conf};

    unsafe extern "C" {
        pub fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
        pub fn rte_thread_set_affinity(cpus: *mut rte_cpuset_t) -> c_int;
        pub fn rte_eth_dev_configure(port: u16, rx: u16, tx: u16, conf: *const rte_eth_conf) -> c_int;
    }
}

/// Initialises EAL, in today's words for the options that capsule spells as DPDK 19.11 did.
///
/// # Safety
///
/// As of DPDK's function of this name: `argv` points to `argc` C strings.
pub unsafe fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller's promise.
    let given = unsafe { std::slice::from_raw_parts(argv, count) };
    let mut arguments: Vec<*mut c_char> = given
        .iter()
        .map(|&argument| {
            // SAFETY: the caller's promise: a C string.
            match unsafe { CStr::from_ptr(argument) }.to_bytes() {
                b"--master-lcore" => c"--main-lcore".as_ptr().cast_mut(),
                b"--pci-whitelist" => c"--allow".as_ptr().cast_mut(),
                _ => argument,
            }
        })
        .collect();
    // SAFETY: `argc` C strings; EAL reorders the array, which is ours, and copies what it keeps.
    unsafe { eal::rte_eal_init(argc, arguments.as_mut_ptr()) }
}

/// Pins the calling thread to `cpus` and makes it known to EAL.
///
/// capsule's workers are threads of its own. Without an lcore id they would have no mempool cache, and each buffer would
/// cost a round through the shared ring: half the throughput.
///
/// # Safety
///
/// As of DPDK's function of this name: `cpus` points to a CPU set.
pub unsafe fn rte_thread_set_affinity(cpus: *mut rte_cpuset_t) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { eal::rte_thread_set_affinity(cpus) };
    if result != 0 {
        return result;
    }
    // The main thread has an id already; a second one would be taken from another thread.
    // SAFETY: reads a thread-local variable of EAL.
    if unsafe { _rte_lcore_id() } != LCORE_ID_ANY {
        return 0;
    }
    // SAFETY: takes no argument; EAL is up, as capsule pins no thread before.
    unsafe { rte_thread_register() }
}

/// What `rte_lcore_id()` says of a thread that EAL does not know.
const LCORE_ID_ANY: c_uint = c_uint::MAX;

mod kni;
pub use kni::*;
