//! The durable truth: ordered tables, changed by atomic batches, read by scans of one snapshot.
//!
//! A log knows nothing of queues. [`crate::format`] says what lies in its tables; whoever owns a partition is the only one
//! that writes it. An engine on a shared database can be a log as well: it is opened for one partition with a fence, and
//! refuses to commit ([`Error::Fenced`]) once a higher fence has opened the same partition.
//!
//! - L1: a batch is visible whole or not at all, also after a crash.
//! - L2: what was committed with [`Sync::Disk`] survives a crash of the machine; with [`Sync::Write`], of the process.
//! - L3: batches survive a crash in the order of their commits: if one is there, all before it are.
//! - L4: a scan sees one snapshot, which holds at least every batch whose commit returned before the scan began.
//! - L5: after a failed commit nothing is written any more ([`Error::Poisoned`]) until the log is opened again: whether the
//!   failed batch is there is decided by that, and by nothing else.

pub mod contract;
pub mod faulty;
pub mod fjall;
pub mod limits;
pub mod memory;
pub mod stamp;

use std::ops::ControlFlow;

use bytes::Bytes;

pub use faulty::Faulty;
pub use fjall::Fjall;
pub use memory::Memory;

/// What is kept apart from what. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// The format, the fence, the next sequence number.
    Meta = 0,
    /// Queues that are not empty.
    Queues = 1,
    /// Every entry with its payload; values may be large.
    Entries = 2,
    /// What is ready, queue by queue in order; keys and small values only.
    Inbox = 3,
    /// What is leased to a runner.
    Running = 4,
    /// What waits for an event or an operator.
    Aside = 5,
    /// What is to happen at a time, by time.
    Timers = 6,
    /// Idempotency keys.
    Once = 7,
    /// What tenants owe.
    Debts = 8,
}

/// All tables, in the order of their numbers.
pub const TABLES: [Table; 9] = [
    Table::Meta,
    Table::Queues,
    Table::Entries,
    Table::Inbox,
    Table::Running,
    Table::Aside,
    Table::Timers,
    Table::Once,
    Table::Debts,
];

/// Changes that are made together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    edits: Vec<Edit>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where.
    pub table: Table,
    /// Which row.
    pub key: Bytes,
    /// What it is now; `None`: it is gone.
    pub value: Option<Bytes>,
}

/// How much of a crash a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sync {
    /// That of the process.
    Write,
    /// That of the machine.
    Disk,
}

/// Which rows to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where.
    pub table: Table,
    /// The first key that may be read.
    pub from: Bytes,
    /// The first key that may not; empty: to the end of the table.
    pub to: Bytes,
}

/// Whether a reader may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It may.
    Wait,
    /// Only what is in memory; else [`Scanned::WouldBlock`].
    Now,
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// There is nothing more.
    End,
    /// The visitor wanted no more.
    Stopped,
    /// The next row is not in memory. Rows before it were visited.
    WouldBlock,
}

/// Sees one row after the other, in order.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The durable truth.
pub trait Log: Send + std::marker::Sync + 'static {
    /// Makes all changes of a batch, in their order, or none. Blocks; one thread at a time calls it.
    ///
    /// # Errors
    /// See [`Error`].
    fn commit(&self, batch: Batch, sync: Sync) -> Result<(), Error>;

    /// One row. May block.
    ///
    /// # Errors
    /// See [`Error`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Visits the rows of a span in order, on a fresh snapshot.
    ///
    /// # Errors
    /// See [`Error`]; rows before it may have been visited.
    fn scan(&self, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error>;

    /// Bytes on disk, as far as is known.
    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// Why the log did not do as it was asked; each kind says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it open, here or in another process: ask that one, or wait for its end.
    #[error("{0} is open already, here or in another process")]
    Locked(String),
    /// Somebody with a higher fence owns the partition: give it up.
    #[error("the partition was taken over with fence {0}")]
    Fenced(u64),
    /// It was written by a version that this one does not know: use that one.
    #[error("{place}: its format is {found}, this program knows {known}")]
    Format {
        /// Where it is.
        place: String,
        /// What was found.
        found: String,
        /// What is known.
        known: u32,
    },
    /// A commit failed earlier: nothing is written until it is opened again.
    #[error("nothing is written after a failed commit until the log is opened again ({0})")]
    Poisoned(String),
    /// The batch is none that a log takes: correct it. Nothing was written, and later batches are welcome.
    #[error("{table:?}: no log takes this batch: {why}")]
    Batch {
        /// Where.
        table: Table,
        /// What is wrong.
        why: String,
    },
    /// A row is not what the format says.
    #[error("{table:?}: a row is damaged: {why}")]
    Damaged {
        /// Where.
        table: Table,
        /// What is wrong.
        why: String,
    },
    /// The disk, in its own words.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The engine, in its own words.
    #[error("{what}: {why}")]
    Engine {
        /// What was being done.
        what: String,
        /// Why it failed.
        why: String,
    },
}

// === impl Scanned ===

impl Scanned {
    /// Of a scan that may wait ([`Patience::Wait`]): a log that would block all the same has failed, and what it did not
    /// show must not be taken for what is not there.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn whole(self) -> Result<Self, Error> {
        if self != Self::WouldBlock {
            return Ok(self);
        }
        let why = "it would have to wait, although it may".to_owned();
        Err(Error::Engine { what: "reading the log".to_owned(), why })
    }
}

// === impl Batch ===

impl Batch {
    /// A row is there from now on, with this value.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.edits.push(Edit { table, key: key.into(), value: Some(value.into()) });
    }

    /// A row is gone.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.edits.push(Edit { table, key: key.into(), value: None });
    }

    /// The changes, in order.
    pub fn edits(&self) -> &[Edit] {
        &self.edits
    }

    /// The changes, in order.
    pub fn into_edits(self) -> Vec<Edit> {
        self.edits
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }
}

// === impl Table ===

impl Table {
    /// Its name on disk and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Queues => "queues",
            Self::Entries => "entries",
            Self::Inbox => "inbox",
            Self::Running => "running",
            Self::Aside => "aside",
            Self::Timers => "timers",
            Self::Once => "once",
            Self::Debts => "debts",
        }
    }
}
