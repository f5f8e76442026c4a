//! The tables' memory: one mapping each, on huge pages where there are some, written once from end to end so that no
//! page fault waits for a worker, and a prefetch of a line of it.
//!
//! A table of a gigabyte on 4 KiB pages costs a TLB miss, often itself a cache miss, with each look-up; on 2 MiB pages
//! it does not. Hence the mapping by hand.
#![allow(unsafe_code)] // mmap, and the prefetch instruction, have no safe form.

use std::io;

use crate::simd::{LANES, Simd};

/// Why a table could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Its size is out of range.
    #[error("a table of {asked} entries; expected 1 to {most}")]
    Size {
        /// What was asked for.
        asked: usize,
        /// The most that this table can have.
        most: usize,
    },
    /// The system refused the memory.
    #[error("no {bytes} bytes of memory{}: {source}", if *.huge { " on huge pages" } else { "" })]
    Memory {
        /// How many bytes were asked for.
        bytes: usize,
        /// Whether on reserved huge pages.
        huge: bool,
        /// What the system said.
        source: io::Error,
    },
}

/// Asks the CPU to have the line of `target` at hand soon. Does nothing where there is no such instruction.
#[inline(always)]
pub(crate) fn prefetch<T>(target: &T) {
    prefetch_at(target);
}

/// The same of an address, whatever is there.
#[inline(always)]
pub(crate) fn prefetch_at<T>(target: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it neither faults nor changes anything, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(target.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) target, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = target;
}

/// The numbers that the lower halves of eight hashes lead to, below a `count` of at most 2³² ([`Hash::spread_low`](super::Hash::spread_low)).
#[inline(always)]
pub(crate) fn spread_low<S: Simd>(simd: S, hashes: S::Lanes, count: usize) -> [u64; LANES] {
    let mut numbers = [0; LANES];
    simd.store(simd.shr::<32>(simd.mul_low_halves(hashes, simd.splat(count as u64))), &mut numbers);
    numbers
}

/// [`prefetch`] of the elements that the lower halves of eight hashes lead to.
#[inline(always)]
pub(crate) fn prefetch_by_low<S: Simd, T>(elements: &[T], simd: S, hashes: S::Lanes) {
    for index in spread_low(simd, hashes, elements.len()) {
        prefetch_at(elements.as_ptr().wrapping_add(index as usize));
    }
}

#[cfg(not(loom))]
pub(super) use mapped::Region;

#[cfg(loom)]
pub(super) use boxed::Region;

#[cfg(not(loom))]
mod mapped {
    use std::io;
    use std::ops::Deref;
    use std::ptr::{self, NonNull};

    use super::super::hash::Hash;
    use super::TableError;
    use crate::config::checked::HugePages;

    /// A huge page of x86-64 and of aarch64 with 4 KiB pages.
    const HUGE_PAGE: usize = 2 << 20;

    /// `T`s in a mapping of their own. Behaves as a `Box<[T]>` of defaults.
    pub struct Region<T> {
        first: NonNull<T>,
        len: usize,
        mapping: Mapping,
    }

    // SAFETY: a Region owns its elements as a Box<[T]> does.
    unsafe impl<T: Send> Send for Region<T> {}
    // SAFETY: a shared Region gives out nothing but shared elements.
    unsafe impl<T: Sync> Sync for Region<T> {}

    impl<T: Default> Region<T> {
        /// `len` defaults.
        pub fn new(len: usize, huge_pages: HugePages) -> Result<Region<T>, TableError> {
            const { assert!(!std::mem::needs_drop::<T>() && align_of::<T>() <= 4096) };
            let too_much =
                || TableError::Memory { bytes: usize::MAX, huge: false, source: io::ErrorKind::OutOfMemory.into() };
            let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| *bytes < isize::MAX as usize / 2);
            let mapping = Mapping::new(bytes.ok_or_else(too_much)?, huge_pages)?;
            let first = mapping.usable.cast::<T>();
            for index in 0..len {
                // SAFETY:
                // - the mapping is writable and has room for `len` elements from `usable` on (`Mapping::new`);
                // - it is aligned to a page at least, which no T exceeds (asserted above).
                // Writing each also makes every page present.
                unsafe { first.add(index).write(T::default()) };
            }
            mapping.collapse();
            Ok(Region { first, len, mapping })
        }

        /// Whether it lies on reserved huge pages.
        pub fn on_huge_pages(&self) -> bool {
            self.mapping.huge
        }
    }

    impl<T> Region<T> {
        /// The element that a hash leads to ([`Hash::spread`]), and its number.
        #[inline(always)]
        pub fn home(&self, hash: Hash) -> (usize, &T) {
            let index = hash.spread(self.len);
            // SAFETY:
            // - the upper half of a product of `len` and a number below 2^64 is below `len`;
            // - for the element as in `deref`.
            (index, unsafe { self.first.add(index).as_ref() })
        }

        /// The element that the lower half of a hash leads to ([`Hash::spread_low`]), and its number.
        #[inline(always)]
        pub fn home_by_low(&self, hash: Hash) -> (usize, &T) {
            let index = hash.spread_low(self.len);
            // SAFETY:
            // - the upper half of the product of a number below 2^32 and `len` is below `len`, and below 2^32 in any case;
            // - for the element as in `deref`.
            (index, unsafe { self.first.add(index).as_ref() })
        }
    }

    impl<T> Deref for Region<T> {
        type Target = [T];

        #[inline(always)]
        fn deref(&self) -> &[T] {
            // SAFETY: `new` has written `len` elements from `first` on; they live as long as the mapping, which is
            // ours; nobody has a mutable reference to them.
            unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
        }
    }

    /// Anonymous private memory.
    struct Mapping {
        start: NonNull<libc::c_void>,
        bytes: usize,
        /// The first byte for use: `start`, or the first huge page's boundary after it.
        usable: NonNull<u8>,
        /// On reserved huge pages.
        huge: bool,
        /// Else on transparent ones, as far as there are any.
        wants_huge: bool,
    }

    impl Mapping {
        /// At least `bytes` from `usable` on.
        fn new(bytes: usize, huge_pages: HugePages) -> Result<Mapping, TableError> {
            let whole_pages = bytes.max(1).next_multiple_of(HUGE_PAGE);
            // A small table would waste most of a huge page, of which a machine has reserved but a few.
            if huge_pages == HugePages::Require || huge_pages == HugePages::Auto && bytes >= HUGE_PAGE {
                match map(whole_pages, libc::MAP_HUGETLB) {
                    Ok(start) => {
                        return Ok(Mapping {
                            start,
                            bytes: whole_pages,
                            usable: start.cast(),
                            huge: true,
                            wants_huge: true,
                        });
                    }
                    Err(source) if huge_pages == HugePages::Require => {
                        return Err(TableError::Memory { bytes: whole_pages, huge: true, source });
                    }
                    Err(_) => {}
                }
            }
            // One huge page more than needed: so there is a boundary to start at, or the kernel's transparent huge
            // pages do not fit.
            let bytes = whole_pages + HUGE_PAGE;
            let start = map(bytes, 0).map_err(|source| TableError::Memory { bytes, huge: false, source })?;
            let skip = start.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
            // SAFETY: `skip` is at most HUGE_PAGE, which the mapping has to spare.
            let usable = unsafe { start.cast::<u8>().add(skip) };
            let advice = if huge_pages == HugePages::Never { libc::MADV_NOHUGEPAGE } else { libc::MADV_HUGEPAGE };
            // SAFETY: the range lies in our own mapping. A kernel without transparent huge pages refuses: no harm.
            unsafe { libc::madvise(usable.as_ptr().cast(), whole_pages, advice) };
            Ok(Mapping { start, bytes, usable, huge: false, wants_huge: huge_pages != HugePages::Never })
        }
    }

    impl Mapping {
        /// Asks for huge pages once more, where the kernel had none at hand as pages were first touched: it now makes room.
        fn collapse(&self) {
            if !self.huge && self.wants_huge {
                let bytes = self.bytes - HUGE_PAGE;
                // SAFETY: the range lies in our own mapping, and its contents stay. A kernel before 6.1 refuses: no harm.
                unsafe { libc::madvise(self.usable.as_ptr().cast(), bytes, libc::MADV_COLLAPSE) };
            }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: exactly what `map` returned; nobody uses it any more, as the Region that borrows it out is gone.
            unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
        }
    }

    /// `bytes` of zeroed memory.
    fn map(bytes: usize, flags: libc::c_int) -> Result<NonNull<libc::c_void>, io::Error> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

#[cfg(loom)]
mod boxed {
    use std::ops::Deref;

    use super::super::hash::Hash;
    use super::TableError;
    use crate::config::checked::HugePages;

    /// Loom's atomics keep their history elsewhere, so a plain box does.
    pub struct Region<T>(Box<[T]>);

    impl<T: Default> Region<T> {
        /// `len` defaults.
        pub fn new(len: usize, _: HugePages) -> Result<Region<T>, TableError> {
            Ok(Region((0..len).map(|_| T::default()).collect()))
        }

        /// No.
        pub fn on_huge_pages(&self) -> bool {
            false
        }
    }

    impl<T> Region<T> {
        /// The element that a hash leads to ([`Hash::spread`]), and its number.
        #[inline(always)]
        pub fn home(&self, hash: Hash) -> (usize, &T) {
            let index = hash.spread(self.0.len());
            (index, &self.0[index])
        }

        /// The element that the lower half of a hash leads to ([`Hash::spread_low`]), and its number.
        #[inline(always)]
        pub fn home_by_low(&self, hash: Hash) -> (usize, &T) {
            let index = hash.spread_low(self.0.len());
            (index, &self.0[index])
        }
    }

    impl<T> Deref for Region<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.0
        }
    }
}
