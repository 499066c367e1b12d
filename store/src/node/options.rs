//! How a node is made.

use std::path::PathBuf;

use crate::disk;

/// How a node is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its stable name: what it has on disk is known by it after a restart.
    pub id: String,
    /// Bytes of values in memory. The memory itself is an eighth larger, so that what is free in many parts is enough.
    pub memory: u64,
    /// Where its segments lie, and how they are used; without it, it has memory only.
    pub disk: Option<(PathBuf, disk::Options)>,
    /// Memory for what is read from disk and goes straight to clients; at least as much as the largest value.
    pub reading: u64,
    /// Bytes that are copied between memory and disk at a time, for the master.
    pub copying: u64,
}

/// What is kept free of a disk's budget, in hundredths, beyond two segments: where live objects are dense, compaction moves
/// much for each byte that becomes free.
const KEPT: u64 = 20;

impl Options {
    /// A node with so much memory, and everything else as it usually is.
    pub fn new(id: &str, memory: u64) -> Self {
        Self { id: id.to_owned(), memory, disk: None, reading: 256 << 20, copying: 64 << 20 }
    }

    /// How the disk of a budget is used: a segment is a sixty-fourth of it, of 1 to 256 MiB.
    pub fn disk_of(budget: u64) -> disk::Options {
        let segment_bytes = (budget / 64).clamp(1 << 20, 256 << 20).min(budget / 8);
        disk::Options { budget_bytes: budget, segment_bytes, ..disk::Options::default() }
    }

    /// Bytes of values that the master may put on disk.
    pub(super) fn on_disk(&self) -> u64 {
        self.disk.as_ref().map_or(0, |(_, disk)| {
            let usable = disk.budget_bytes.saturating_sub(2 * disk.segment_bytes);
            usable / 100 * (100 - KEPT)
        })
    }
}
