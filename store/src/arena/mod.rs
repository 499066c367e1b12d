//! The memory of a node: one region of a fixed size, given out in blocks that are filled once and then only read.
//!
//! A [`Filling`] belongs to one writer and nobody else sees it; frozen it is a [`Block`], which any number of readers share.
//! The last of them that lets go gives the memory back, so memory is never used again under a transfer. Nothing here knows
//! keys, and nothing is evicted: who holds blocks decides that.
//!
//! - A1: two blocks that are held at the same time share no byte.
//! - A2: every byte comes back: when nothing is held, the whole region is one free part again.
//! - A3: bytes are written only through a [`Filling`], and read only through a [`Block`] or what made it.
//! - A4: no lock is held while bytes are copied; the lock of the free parts covers a few steps in two sorted sets.

mod extents;
mod region;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::extents::Extents;
use self::region::Region;

pub use self::extents::{GRAIN, rounded};

/// One region, shared by whoever holds a clone.
#[derive(Clone)]
pub struct Arena {
    inner: Arc<Inner>,
}

/// Memory that is being written, by one writer. Dropped, it is given back.
pub struct Filling {
    held: Held,
    filled: usize,
}

/// Memory that is complete and never changes. The last clone gives it back.
#[derive(Clone)]
pub struct Block {
    held: Arc<Held>,
}

/// How an arena is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What can be given out at all.
    pub capacity: u64,
    /// What was asked for by those who hold blocks.
    pub asked: u64,
    /// What is set aside for it: the difference is waste inside blocks.
    pub set_aside: u64,
    /// The longest block that can be had now: less than what is free, if that lies in several parts.
    pub largest: u64,
    /// Into how many parts what is free is broken.
    pub parts: u64,
    /// Blocks that are held, being filled or frozen.
    pub blocks: u64,
}

/// Why a region cannot be had; `alloc` never fails this way.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes of memory for blocks cannot be set aside ({source}): ask for less, or allow this process more"
)]
pub struct NoMemory {
    bytes: u64,
    source: io::Error,
}

/// A block that is longer than the whole region: waiting would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block of {len} bytes does not fit into a memory of {capacity}")]
pub struct TooLong {
    /// What was asked for.
    pub len: u64,
    /// What there is.
    pub capacity: u64,
}

/// A filling that is not full cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{filled} of {len} bytes are there: fill the rest, or drop it")]
pub struct NotFull {
    filled: usize,
    len: usize,
    /// The filling, to go on with.
    pub filling: Box<Filling>,
}

struct Inner {
    // Dropped last of all: every `Held` keeps its arena.
    region: Region,
    extents: Mutex<Extents>,
    asked: AtomicU64,
    blocks: AtomicU64,
    /// Told whenever a block came back.
    freed: Notify,
    /// Those who wait for room, the first first: a large block is not starved by small ones behind it.
    line: tokio::sync::Mutex<()>,
    on_freed: Option<OnFreed>,
}

type OnFreed = Box<dyn Fn(u64) + Send + Sync>;

/// The right to one part of a region. It is the only one to that part, and the part is given back with it.
struct Held {
    arena: Arc<Inner>,
    at: usize,
    len: usize,
}

// === impl Arena ===

impl Arena {
    /// A region of so many bytes. The machine gives memory to it as it is first written.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new(bytes: u64) -> Result<Self, NoMemory> {
        Self::make(bytes, None)
    }

    /// The same; `told` hears, after each block that came back, how many bytes it had set aside. It is called by whoever
    /// lets go of a block, outside of any lock, and must not wait.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn telling(bytes: u64, told: impl Fn(u64) + Send + Sync + 'static) -> Result<Self, NoMemory> {
        Self::make(bytes, Some(Box::new(told)))
    }

    fn make(bytes: u64, on_freed: Option<OnFreed>) -> Result<Self, NoMemory> {
        let mapped = usize::try_from(bytes).map_err(io::Error::other).and_then(Region::map);
        let region = mapped.map_err(|source| NoMemory { bytes, source })?;
        let inner = Inner {
            extents: Mutex::new(Extents::new(region.len() as u64)),
            region,
            asked: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            freed: Notify::new(),
            line: tokio::sync::Mutex::new(()),
            on_freed,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Memory for `len` bytes, if there is a part that is long enough. An empty block can always be had.
    pub fn alloc(&self, len: usize) -> Option<Filling> {
        if len == 0 {
            return Some(self.held(0, 0));
        }
        let at = self.inner.extents.lock().take(len as u64)?;
        Some(self.held(at as usize, len))
    }

    /// Waits until there is room, behind those who waited before. Dropping the future leaves the line.
    ///
    /// # Errors
    /// [`TooLong`] if it can never be had.
    pub async fn obtain(&self, len: usize) -> Result<Filling, TooLong> {
        let capacity = self.inner.extents.lock().capacity();
        if rounded(len as u64) > capacity && len > 0 {
            return Err(TooLong { len: len as u64, capacity });
        }
        let _turn = self.inner.line.lock().await;
        loop {
            // Enabled before the look, so that what is freed between the look and the wait is heard.
            let freed = self.inner.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(filling) = self.alloc(len) {
                return Ok(filling);
            }
            freed.await;
        }
    }

    /// How it is used, as of one moment.
    pub fn space(&self) -> Space {
        let extents = self.inner.extents.lock();
        Space {
            capacity: extents.capacity(),
            asked: self.inner.asked.load(Ordering::Relaxed),
            set_aside: extents.capacity() - extents.free(),
            largest: extents.largest(),
            parts: extents.parts() as u64,
            blocks: self.inner.blocks.load(Ordering::Relaxed),
        }
    }

    /// The invariants of what is free.
    ///
    /// # Errors
    /// The name of the first that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        self.inner.extents.lock().check()
    }

    fn held(&self, at: usize, len: usize) -> Filling {
        self.inner.asked.fetch_add(len as u64, Ordering::Relaxed);
        self.inner.blocks.fetch_add(1, Ordering::Relaxed);
        Filling { held: Held { arena: self.inner.clone(), at, len }, filled: 0 }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Arena").field(&self.space()).finish()
    }
}

// === impl Filling ===

impl Filling {
    /// What was asked for.
    pub fn len(&self) -> usize {
        self.held.len
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.held.len == 0
    }

    /// What is there.
    pub fn filled(&self) -> &[u8] {
        &self.held.bytes()[..self.filled]
    }

    /// What is still to be written, for a socket to read into; then say [`Filling::advance`]. It holds zeros, or what some
    /// earlier block left there: whoever advances over what it did not write shows that.
    pub fn unfilled(&mut self) -> &mut [u8] {
        let from = self.filled;
        &mut self.held.bytes_mut()[from..]
    }

    /// So many more bytes were written.
    ///
    /// # Panics
    /// If that is more than there is room for.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.held.len - self.filled, "more was written than there is room for");
        self.filled += bytes;
    }

    /// Copies as much of it as there is room for, and says how much that was.
    pub fn take_from(&mut self, bytes: &[u8]) -> usize {
        let room = self.unfilled();
        let many = room.len().min(bytes.len());
        room[..many].copy_from_slice(&bytes[..many]);
        self.advance(many);
        many
    }

    /// Whether nothing is left to be written.
    pub fn is_full(&self) -> bool {
        self.filled == self.held.len
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// From now on it is only read.
    ///
    /// # Errors
    /// [`NotFull`], with the filling in it.
    pub fn freeze(self) -> Result<Block, NotFull> {
        if self.is_full() {
            return Ok(Block { held: Arc::new(self.held) });
        }
        Err(NotFull { filled: self.filled, len: self.held.len, filling: Box::new(self) })
    }
}

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filling({} of {} bytes)", self.filled, self.held.len)
    }
}

// === impl Block ===

impl Block {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.held.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.len == 0
    }

    /// The same memory, as what a socket writes; it is held until that is dropped.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// How many hold it, here or as [`Bytes`] that were asked for one by one.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.held)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.held.bytes()
    }
}

impl From<Block> for Bytes {
    fn from(block: Block) -> Self {
        Self::from_owner(block)
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes)", self.held.len)
    }
}

// === impl Held ===

impl Held {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the part is inside of the region and belongs to this `Held` alone until its drop (A1). Whoever writes to it
        // has it by `&mut`, so while this borrow lives nobody does.
        unsafe { self.arena.region.slice(self.at, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` shows that nobody else reads or writes the part: a `Held` is never cloned, and
        // behind the `Arc` of a `Block` it is never borrowed mutably.
        unsafe { self.arena.region.slice_mut(self.at, self.len) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.arena.asked.fetch_sub(self.len as u64, Ordering::Relaxed);
        self.arena.blocks.fetch_sub(1, Ordering::Relaxed);
        if self.len == 0 {
            return;
        }
        self.arena.extents.lock().give_back(self.at as u64, self.len as u64);
        self.arena.freed.notify_waiters();
        if let Some(told) = &self.arena.on_freed {
            told(rounded(self.len as u64));
        }
    }
}

#[cfg(test)]
mod tests;
