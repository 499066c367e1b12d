//! What the disk says of itself: space, counts, and what was found when it was opened.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::recover::Hurt;
use super::segment::Segment;

/// How the budget is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What may be used.
    pub budget: u64,
    /// What all files take, with the room that is set aside in the one that is written.
    pub on_disk: u64,
    /// What live objects and needed deletions take of it.
    pub needed: u64,
    /// What compaction can make free.
    pub dead: u64,
    /// How many files.
    pub segments: u64,
}

/// What was found when the disk was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Live objects.
    pub objects: u64,
    /// Files.
    pub segments: u64,
    /// Files that had to be read whole, since they were not sealed, or their footers are damaged.
    pub walked: u64,
    /// Bytes of writes that were never acknowledged, and were discarded.
    pub torn_bytes: u64,
    /// What was there and is not what was written any more.
    pub damage: Vec<Damage>,
}

/// Something that was there and is not what was written any more.
#[derive(Clone, PartialEq, Eq)]
pub struct Damage {
    /// In which file.
    pub segment: u32,
    /// From which byte on.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
    /// Whose object; `None` if that cannot be known any more.
    pub tenant: Option<Vec<u8>>,
    /// Which object; `None` if that cannot be known any more, or it is none. A known one is still there, and reading it fails.
    pub key: Option<Vec<u8>>,
    /// What is wrong.
    pub why: &'static str,
}

/// What was done since the disk was opened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Objects that were put.
    pub puts: AtomicU64,
    /// Objects that were deleted.
    pub deletes: AtomicU64,
    /// Batches that were written.
    pub batches: AtomicU64,
    /// Bytes of puts and deletes.
    pub written_bytes: AtomicU64,
    /// Compactions that ended well.
    pub compactions: AtomicU64,
    /// Bytes that compaction moved.
    pub moved_bytes: AtomicU64,
    /// Bytes that compaction made free.
    pub freed_bytes: AtomicU64,
    /// Writes that were never acknowledged, and were discarded when the disk was opened.
    pub torn_bytes: AtomicU64,
    /// Objects or places that were found damaged, when the disk was opened or an object was read.
    pub damaged: AtomicU64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

impl Damage {
    pub(super) fn of(segment: &Segment, hurt: Hurt) -> Self {
        let Hurt { at, len, names, why } = hurt;
        let (tenant, key) = names.unzip();
        Self { segment: segment.number, at, len, tenant, key, why }
    }

    pub(super) fn of_head(segment: &Segment) -> Self {
        let why = "the head of the segment cannot be read; its records are read all the same";
        Self {
            segment: segment.number,
            at: 0,
            len: super::format::SEGMENT_HEAD,
            tenant: None,
            key: None,
            why,
        }
    }
}

impl fmt::Debug for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, at, len, why, .. } = self;
        write!(f, "{len} bytes from {at} on of segment {segment:08x}")?;
        if let Some(key) = &self.key {
            write!(f, ", the object {:?}", String::from_utf8_lossy(key))?;
        }
        write!(f, ": {why}")
    }
}
