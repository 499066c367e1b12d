//! Why the disk did not do as it was asked; each kind says what to do next.

use std::io;
use std::sync::Arc;

use super::format;

/// What went wrong. It can be told to everybody who waited for the same batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has the folder open: ask that one, or wait for its end.
    #[error("{0} is open already, here or in another process")]
    Locked(String),
    /// It was written by a version that this one does not know, or by something else: use that one, or another folder.
    #[error("{place}: {found}; this program knows format {known}", known = format::FORMAT)]
    Format {
        /// Where it is.
        place: String,
        /// What was found.
        found: String,
    },
    /// The options do not fit each other: correct them.
    #[error("the disk cannot be used like this: {0}")]
    Options(String),
    /// A tenant, a key, its metadata or a value is too long, or empty where it must not be: correct it.
    #[error("{what} of {len} bytes, {bound} are allowed")]
    Length {
        /// Which.
        what: &'static str,
        /// What was asked for.
        len: usize,
        /// What is allowed.
        bound: usize,
    },
    /// The budget is used up. Delete something, or wait: what is dead is made free by compaction.
    #[error(
        "the disk is full: {on_disk} of {budget} bytes are used, of which {dead} are dead and will be free after compaction, \
         {kept} are kept free for compaction, and {wanted} are wanted"
    )]
    Full {
        /// What may be used.
        budget: u64,
        /// What is used.
        on_disk: u64,
        /// What of it nobody needs.
        dead: u64,
        /// What puts may not use.
        kept: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// The file system has no room, although the budget does: make room there, or set a smaller budget. Nothing was written.
    #[error("the file system is full before the budget is: {0}")]
    NoSpace(String),
    /// More is waiting to be written than may wait: try again when some of it is done.
    #[error("{queued} bytes wait to be written already, {bound} may")]
    Busy {
        /// What waits.
        queued: u64,
        /// What may.
        bound: u64,
    },
    /// A write or a sync failed: nothing is written until the folder is opened again. What is there can be read.
    #[error("nothing is written after a failure until the disk is opened again ({0})")]
    Poisoned(String),
    /// The object's bytes are not what was written: delete it, or put it again. The disk may be dying.
    #[error("{place}: {why}: delete the object or put it again, and look at the disk")]
    Damaged {
        /// Where it lies.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// The disk is being closed.
    #[error("the disk is closed")]
    Closed,
    /// The file system, in its own words.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: Arc<io::Error>,
    },
}

impl Error {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }

    /// Whether the file system has no room for it.
    pub(super) fn no_space(e: &io::Error) -> bool {
        matches!(
            e.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}
