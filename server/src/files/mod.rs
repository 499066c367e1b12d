//! Files of tenants, as OpenAI's Files API means them: bytes with a name and a purpose, under an id that says when.
//!
//! How they come in and go out over HTTP is told in `gateway::files`; where the bytes lie is told in `shelf`. On the
//! shelf a file is two things (docs/files.md): its content, written first, and its card, written last and only once. A
//! file exists from the moment its card does (F1), its content never changes (F2), and what has no card is litter
//! that [`Files::tidy`] takes away (F3).

mod card;
mod id;
mod keep;
pub mod lines;
mod list;
mod tidy;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use quick_cache::sync::Cache;

use crate::clock::Clock;
use crate::settings::{self, Settings};
use crate::shelf::{self, Reading, Shelf};

pub(crate) use card::space;
pub use card::{File, Purpose};
pub use id::Id;
pub use keep::{Facts, Upload};
use lines::Lines;
pub use list::{Page, Wanted};

/// Cards in memory, so that a list asks a bucket for each only once: about 600 bytes each, 6 MB.
const CARDS: usize = 10_000;

/// All files; cheap to clone.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    shelf: Shelf,
    settings: settings::Files,
    clock: Clock,
    /// Cards of a bucket by name and tag: a card never changes, but its name may come again after a delete.
    cards: Cache<(shelf::Name, u128), Arc<File>>,
    /// Who is showing a file right now, by tenant: a limit on all of a tenant's bytes is looked at and kept in one step.
    showing: parking_lot::Mutex<HashMap<Option<String>, Arc<tokio::sync::Mutex<()>>>>,
    /// Who is asked before a file is taken away.
    needed: OnceLock<Arc<dyn Needed>>,
    counters: Counters,
}

/// Who may need a file for longer than its owner wants it.
pub trait Needed: Send + Sync {
    /// Who needs this file of the tenant whose space it is, in words that its owner understands.
    fn by<'a>(&'a self, space: &'a str, id: &'a Id) -> BoxFuture<'a, Result<Option<String>, shelf::Error>>;
}

/// What happened to files.
#[derive(Debug, Default)]
pub struct Counters {
    stored: AtomicU64,
    stored_bytes: AtomicU64,
    read_bytes: AtomicU64,
    broken: AtomicU64,
    deleted: AtomicU64,
    tidied: AtomicU64,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is larger than one may be: send less.
    #[error("the file is larger than the limit of {limit} bytes (files.max_file_bytes)")]
    TooLarge {
        /// The setting.
        limit: u64,
    },
    /// All files of the tenant together would be larger than they may be: delete some.
    #[error(
        "with this file all files together would be larger than the limit of {limit} bytes; delete some first"
    )]
    Quota {
        /// The setting.
        limit: u64,
    },
    /// There is another file with this id.
    #[error("there is a file {0} already, and it is another one")]
    Taken(Id),
    /// It was deleted, or has expired.
    #[error("the file {0} is gone")]
    Gone(Id),
    /// It is needed: wait until it is not, or stop what needs it.
    #[error("the file {id} is needed by {by}")]
    Needed {
        /// The file.
        id: Id,
        /// Who needs it.
        by: String,
    },
    /// The shelf did not do it.
    #[error(transparent)]
    Shelf(#[from] shelf::Error),
}

impl Error {
    /// Whether it says something about one file only.
    fn is_of_one(&self) -> bool {
        matches!(self, Self::Shelf(error) if error.is_of_one())
    }
}

// === impl Files ===

impl Files {
    /// Files where the settings say. Nothing is read or written yet.
    ///
    /// # Errors
    /// Settings that cannot be used, in words.
    pub fn open(settings: &Settings, clock: Clock) -> Result<Self, String> {
        let shelf = match settings.files.place()? {
            Some(place) => Shelf::s3(&place)?,
            None => Shelf::local(settings.data.dir.join("files")),
        };
        Ok(Self::on(shelf, settings.files.clone(), clock))
    }

    fn on(shelf: Shelf, settings: settings::Files, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            shelf,
            settings,
            clock,
            cards: Cache::new(CARDS),
            showing: parking_lot::Mutex::default(),
            needed: OnceLock::new(),
            counters: Counters::default(),
        }))
    }

    /// Whoever is asked before a file is taken away. There is one.
    pub fn ask_first(&self, needed: Arc<dyn Needed>) {
        let _twice = self.0.needed.set(needed);
    }

    /// Whether the place of files keeps its promises; what is there is not touched.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub async fn prove(&self) -> Result<(), String> {
        self.0.shelf.prove(&id::chance()).await
    }

    /// The limits.
    pub fn settings(&self) -> &settings::Files {
        &self.0.settings
    }

    /// Where they lie; others may keep things there under names of their own.
    pub fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// What happened.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// An id for a new file, unlike any other.
    pub fn mint(&self) -> Id {
        Id::mint(self.0.clock.unix())
    }

    /// The tenant's file, if there is one.
    ///
    /// # Errors
    /// [`Error::Shelf`].
    pub async fn find(&self, tenant: Option<&str>, id: &Id) -> Result<Option<File>, Error> {
        Ok(self.find_old(tenant, id).await?.filter(|file| !self.has_expired(file)))
    }

    /// The same, also if its time is over and it was not taken away yet: for whoever needs it.
    ///
    /// # Errors
    /// [`Error::Shelf`].
    pub async fn find_old(&self, tenant: Option<&str>, id: &Id) -> Result<Option<File>, Error> {
        let found = self.0.shelf.get(&card::place(tenant, id), card::MAX).await?;
        Ok(found.map(|bytes| File::read(&bytes)).transpose()?)
    }

    /// The content of a file, or a range of it.
    ///
    /// # Errors
    /// [`Error::Gone`] if it was deleted meanwhile, and [`Error::Shelf`].
    pub async fn read(&self, file: &File, range: Option<Range<u64>>) -> Result<Reading, Error> {
        let reading = self.0.shelf.read(&file.content, range).await?;
        let reading = reading.ok_or_else(|| Error::Gone(file.id.clone()))?;
        if reading.size != file.bytes {
            let why =
                format!("the content of {} has {} bytes instead of {}", file.id, reading.size, file.bytes);
            return Err(shelf::Error::Damaged(why).into());
        }
        self.0.counters.read_bytes.fetch_add(reading.range.end - reading.range.start, Ordering::Relaxed);
        Ok(reading)
    }

    /// The content of a file line by line, none longer than `most` bytes.
    ///
    /// # Errors
    /// As [`Files::read`].
    pub async fn lines(&self, file: &File, most: usize) -> Result<Lines, Error> {
        Ok(Lines::new(self.read(file, None).await?.stream, most))
    }

    /// Takes a file away; says whether there was one.
    ///
    /// # Errors
    /// [`Error::Needed`] and [`Error::Shelf`].
    pub async fn delete(&self, tenant: Option<&str>, id: &Id) -> Result<bool, Error> {
        let Some(file) = self.find(tenant, id).await? else { return Ok(false) };
        if let Some(by) = self.needed_by(&space(tenant), &file).await? {
            return Err(Error::Needed { id: id.clone(), by });
        }
        self.take_away(tenant, &file).await?;
        self.0.counters.deleted.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// The card first: from then on there is no file, and its content is litter if we die now.
    async fn take_away(&self, tenant: Option<&str>, file: &File) -> Result<(), Error> {
        self.0.shelf.delete(&card::place(tenant, &file.id)).await?;
        self.0.shelf.delete(&file.content).await?;
        Ok(())
    }

    /// Who needs a file, if anybody does.
    async fn needed_by(&self, space: &str, file: &File) -> Result<Option<String>, Error> {
        match self.0.needed.get() {
            Some(needed) if file.purpose == Purpose::Batch => Ok(needed.by(space, &file.id).await?),
            _ => Ok(None),
        }
    }

    fn has_expired(&self, file: &File) -> bool {
        file.expires_at.is_some_and(|at| at <= self.0.clock.unix().as_secs())
    }
}

// === impl Counters ===

impl Counters {
    /// Name, kind, help and value of each metric.
    pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        vec![
            ("warmline_files_stored_total", "counter", "Files that were stored.", load(&self.stored)),
            ("warmline_files_stored_bytes_total", "counter", "Their bytes.", load(&self.stored_bytes)),
            (
                "warmline_files_read_bytes_total",
                "counter",
                "Bytes of files that were asked for.",
                load(&self.read_bytes),
            ),
            (
                "warmline_files_broken_total",
                "counter",
                "Files that were begun and not stored: refused, broken off, or no room.",
                load(&self.broken),
            ),
            ("warmline_files_deleted_total", "counter", "Files that were deleted.", load(&self.deleted)),
            (
                "warmline_files_tidied_total",
                "counter",
                "Expired files and litter that were taken away.",
                load(&self.tidied),
            ),
        ]
    }
}
