//! DPDK's hash table (`rte_hash`) as far as a bench needs it: keys of 16 bytes, look-ups in bulk.
//!
//! A crate of its own, so that baton and its other benches need neither the library nor DPDK.

use std::ffi::{CString, c_char, c_int, c_void};

/// Most keys of one look-up (`RTE_HASH_LOOKUP_BULK_MAX`).
pub const BULK: usize = 64;

/// A key.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct Key(pub [u8; 16]);

#[repr(C)]
struct Table {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    fn baton_rte_hash_create(name: *const c_char, entries: u32, lock_free: c_int) -> *mut Table;
    fn rte_hash_add_key(table: *const Table, key: *const c_void) -> i32;
    fn rte_hash_lookup_bulk(table: *const Table, keys: *mut *const c_void, count: u32, positions: *mut i32) -> c_int;
    fn rte_hash_free(table: *mut Table);
}

/// Starts DPDK's environment, once in a process. False if it does not start.
pub fn start(arguments: &[&str]) -> bool {
    let Ok(owned) = arguments.iter().map(|argument| CString::new(*argument)).collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    // EAL keeps the strings.
    let mut pointers: Vec<*mut c_char> = owned.into_iter().map(CString::into_raw).collect();
    // SAFETY: as many valid strings as are said, which live on.
    unsafe { rte_eal_init(pointers.len() as c_int, pointers.as_mut_ptr()) >= 0 }
}

/// A table.
pub struct RteHash(*mut Table);

impl RteHash {
    /// Room for so many keys. `lock_free`: readers and a writer at the same time. None if DPDK has no memory for it.
    pub fn new(name: &str, entries: u32, lock_free: bool) -> Option<RteHash> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name is copied.
        let table = unsafe { baton_rte_hash_create(name.as_ptr(), entries, lock_free.into()) };
        (!table.is_null()).then_some(RteHash(table))
    }

    /// Puts a key in. False if there is no room.
    pub fn insert(&mut self, key: &Key) -> bool {
        // SAFETY: the table lives until it is dropped, and a key has the 16 bytes it was made for.
        unsafe { rte_hash_add_key(self.0, key.0.as_ptr().cast()) >= 0 }
    }

    /// How many of the keys are in it.
    pub fn count(&self, keys: &[Key; BULK]) -> usize {
        let mut pointers: [*const c_void; BULK] = std::array::from_fn(|index| keys[index].0.as_ptr().cast());
        let mut positions = [-1; BULK];
        // SAFETY: as above; both arrays have as many places as are said.
        unsafe { rte_hash_lookup_bulk(self.0, pointers.as_mut_ptr(), BULK as u32, positions.as_mut_ptr()) };
        positions.iter().filter(|position| **position >= 0).count()
    }
}

impl Drop for RteHash {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { rte_hash_free(self.0) };
    }
}
