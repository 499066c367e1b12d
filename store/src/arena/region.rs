//! One mapping of zeroed memory: the only place of the store that touches raw pointers.
//!
//! The kernel gives pages to it as they are first written, two megabytes at a time where it can.

use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Memory from `start` on, initialised to zeros by the kernel.
pub(super) struct Region {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is an address and a length; who may touch which byte is decided by whoever calls `slice` and `slice_mut`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A region of so many bytes; none needs no mapping.
    pub(super) fn map(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self { start: NonNull::dangling(), len });
        }
        // SAFETY: an anonymous mapping at a place that the kernel chooses touches no memory that anybody has.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        // SAFETY: the range is the mapping that was just made. It is advice: a kernel without large pages says no.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("a mapping at zero"))?;
        Ok(Self { start, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes to read.
    ///
    /// # Safety
    /// Nobody writes to them while the slice lives.
    pub(super) unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        self.must_hold(at, len);
        // SAFETY: inside of the mapping, as was just seen, and initialised by the kernel; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), len) }
    }

    /// Bytes to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the region is shared, its parts are not: that is the caller's promise"
    )]
    pub(super) unsafe fn slice_mut(&self, at: usize, len: usize) -> &mut [u8] {
        self.must_hold(at, len);
        // SAFETY: as in `slice`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), len) }
    }

    fn must_hold(&self, at: usize, len: usize) {
        assert!(at <= self.len && len <= self.len - at, "a part that is not in the region");
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping is this region's alone, and whoever has a part of it keeps the region alive.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
            debug_assert!(unmapped.is_ok(), "{unmapped:?}");
        }
    }
}
