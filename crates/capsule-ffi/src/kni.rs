//! The kernel NIC interface, which DPDK has dropped (23.11) and Debian does not build: capsule names it, so it is here,
//! and refuses. baton never turns it on.

use std::os::raw::{c_char, c_int, c_uint};

use crate::{rte_ether_addr, rte_mbuf, rte_mempool};

/// A KNI device: there are none.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub enum rte_kni {}

/// What capsule would set.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy)]
pub struct rte_kni_conf {
    pub name: [c_char; 32],
    pub group_id: u16,
    pub mbuf_size: c_uint,
    pub mac_addr: [u8; 6],
}

impl Default for rte_kni_conf {
    fn default() -> Self {
        rte_kni_conf { name: [0; 32], group_id: 0, mbuf_size: 0, mac_addr: rte_ether_addr::default().addr_bytes }
    }
}

/// What capsule would be called back by.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy, Default)]
pub struct rte_kni_ops {
    pub port_id: u16,
    pub change_mtu: Option<extern "C" fn(u16, c_uint) -> c_int>,
    pub config_network_if: Option<extern "C" fn(u16, u8) -> c_int>,
    pub config_mac_address: Option<extern "C" fn(u16, *mut u8) -> c_int>,
    pub config_promiscusity: Option<extern "C" fn(u16, u8) -> c_int>,
}

const ENOTSUP: c_int = 95;

/// Refuses.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_init(_max: c_uint) -> c_int {
    -ENOTSUP
}

/// Does nothing.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_close() {}

/// Refuses.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_alloc(_: *mut rte_mempool, _: *const rte_kni_conf, _: *mut rte_kni_ops) -> *mut rte_kni {
    std::ptr::null_mut()
}

/// Refuses.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_release(_: *mut rte_kni) -> c_int {
    -ENOTSUP
}

/// Refuses.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_handle_request(_: *mut rte_kni) -> c_int {
    -ENOTSUP
}

/// Receives nothing.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_rx_burst(_: *mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    0
}

/// Sends nothing.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_tx_burst(_: *mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    0
}

/// The name of none.
///
/// # Safety
///
/// None needed; unsafe as the function that it stands for.
pub unsafe fn rte_kni_get_name(_: *const rte_kni) -> *const c_char {
    c"".as_ptr()
}
