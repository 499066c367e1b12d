//! How the disk is used, each setting with its trade-off.

use std::time::Duration;

use super::error::Error;
use super::format;

/// How much of a crash an acknowledged change survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// That of the process: the system has it, and brings it to disk when it likes.
    Write,
    /// That of the machine: each batch is synced.
    Disk,
}

/// How the disk is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What all files may take together. Puts are refused before compaction has no room left to work in.
    pub budget_bytes: u64,
    /// How large a segment is. A large one is swept less often, and moves more when it is; a value that is larger has one of
    /// its own. At most an eighth of the budget.
    pub segment_bytes: u64,
    /// What is acknowledged when. A sync costs 50 to 500 microseconds a batch on a good disk.
    pub durability: Durability,
    /// How long a change waits for others to be written with. Longer batches cost fewer syncs, and each change this much.
    pub delay: Duration,
    /// Bytes from which on a batch waits for nothing more.
    pub batch_bytes: u64,
    /// Bytes that may wait to be written, before changes are refused as [`Error::Busy`].
    pub queue_bytes: u64,
    /// The longest value that is taken.
    pub max_value: usize,
    /// The share of a segment, in hundredths, that must be dead before its rest is moved. A low one saves disk and costs
    /// writes: moving at `d` dead writes `(100 - d) / d` bytes for each that becomes free. When the disk is nearly full,
    /// an eighth is enough.
    pub dead_percent: u8,
    /// Bytes a second that compaction moves at most, so that readers and the writer keep their share of the disk.
    pub compact_bytes_per_second: u64,
    /// Reads at the same time; more wait.
    pub readers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget_bytes: 64 << 30,
            segment_bytes: 256 << 20,
            durability: Durability::Disk,
            delay: Duration::from_millis(2),
            batch_bytes: 16 << 20,
            queue_bytes: 256 << 20,
            max_value: 512 << 20,
            dead_percent: 50,
            compact_bytes_per_second: 256 << 20,
            readers: 16,
        }
    }
}

impl Options {
    /// What puts may not use: room for one segment that is compacted, and one of deletions.
    pub(super) fn kept(&self) -> u64 {
        2 * self.segment_bytes
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |why: String| Err(Error::Options(why));
        if self.segment_bytes < 4096 {
            return wrong(format!(
                "segments of {} bytes are too small, 4096 are the least",
                self.segment_bytes
            ));
        }
        if self.budget_bytes / 8 < self.segment_bytes {
            let (budget, segment) = (self.budget_bytes, self.segment_bytes);
            return wrong(format!("a budget of {budget} bytes is less than eight segments of {segment}"));
        }
        if self.max_value > format::MAX_VALUE {
            return wrong(format!("values of {} bytes, {} are possible", self.max_value, format::MAX_VALUE));
        }
        if !(1..=99).contains(&self.dead_percent) {
            return wrong(format!(
                "{} hundredths that must be dead, 1 to 99 are possible",
                self.dead_percent
            ));
        }
        if self.readers == 0 || self.compact_bytes_per_second == 0 {
            return wrong("nobody may read, or nothing may be compacted".to_owned());
        }
        Ok(())
    }
}
