//! A shelf: bytes under a name, in a local directory or in an S3 bucket, there as a whole or not there at all.
//!
//! Replicas that share a shelf see each other's bytes. What stands on it and for whom is no business of this folder:
//! `files` knows. Guarantees, which [`contract`] holds against every implementation:
//! - P1: a name shows nothing until everything was written, and then everything; a reader never sees a part.
//! - P2: when a write has returned, the bytes survive the death of the process and of the machine.
//! - P3: of two [`Shelf::put_new`] of one name one wins, and both are told.
//! - P4: [`Shelf::list`] gives names in the order of their bytes, and misses none that was there all the time.
//! - P5: a [`Writer`] that is dropped leaves nothing.
//! - P6: an error says nothing about whether it was done: a store may do it, and its answer get lost. So whoever gets one
//!   takes nothing away that may be in use by now.

mod bucket;
mod connect;
#[cfg(test)]
pub(crate) mod faults;
mod local;
mod name;
mod prove;
mod s3;

#[cfg(test)]
mod contract;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

pub(crate) use bucket::MAX_FILE;
pub use name::Name;
pub use s3::Place;
pub(crate) use s3::parse;

/// Bytes under names; cheap to clone.
#[derive(Clone)]
pub struct Shelf(Arc<Kind>);

enum Kind {
    Local(local::Local),
    Bucket(bucket::Bucket),
}

/// Bytes on their way to a shelf. Nothing shows before [`Writer::finish`]; dropping it leaves nothing.
pub struct Writer(Way);

enum Way {
    Local(local::Writer),
    Bucket(bucket::Writer),
}

/// Bytes on their way from a shelf.
pub struct Reading {
    /// How long the whole is.
    pub size: u64,
    /// Which of it comes.
    pub range: Range<u64>,
    /// The bytes, in pieces of a bounded size.
    pub stream: BoxStream<'static, Result<Bytes, Error>>,
}

/// What stands under a name, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: Name,
    /// How long it is.
    pub size: u64,
    /// When it was put there, since 1970.
    pub modified: Duration,
    /// Unlike that of anything else that ever stood under this name; a local directory has no such thing.
    pub tag: Option<u128>,
}

/// Why the shelf did not do it. Each kind says what helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No room is left: make some, or wait until somebody does.
    #[error("no space is left in {0}")]
    Full(String),
    /// We may not: an operator must change rights, keys or settings.
    #[error("{0}")]
    Denied(String),
    /// It cannot be reached, or did not answer: try again.
    #[error("{0}")]
    Away(String),
    /// What is there is not what was written, or more than was asked for: nothing of ours helps.
    #[error("{0}")]
    Damaged(String),
}

impl Error {
    /// Whether it says something about one thing only: whoever goes through many goes on with the others.
    pub fn is_of_one(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }
}

// === impl Shelf ===

impl Shelf {
    /// A directory, which is made with the first write.
    pub fn local(root: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Kind::Local(local::Local::new(root.into()))))
    }

    /// A bucket of an object store that speaks S3.
    ///
    /// # Errors
    /// Settings that make no sense together, in words. Nobody is asked yet.
    pub fn s3(place: &Place) -> Result<Self, String> {
        Ok(Self(Arc::new(Kind::Bucket(s3::open(place)?))))
    }

    /// As a bucket, but in memory.
    #[cfg(test)]
    pub(crate) fn memory() -> Self {
        let store = Arc::new(object_store::memory::InMemory::new());
        Self(Arc::new(Kind::Bucket(bucket::Bucket::new(store, "memory".to_owned(), ""))))
    }

    /// The same, with answers that get lost.
    #[cfg(test)]
    pub(crate) fn forgetful(faults: &Arc<faults::Faults>) -> Self {
        let store = Arc::new(faults::Forgetful::new(faults.clone()));
        Self(Arc::new(Kind::Bucket(bucket::Bucket::new(store, "forgetful".to_owned(), ""))))
    }

    /// Puts bytes under a name, in the place of what was there.
    ///
    /// # Errors
    /// See [`Error`]; then nobody knows which of the two is there (P6).
    pub async fn put(&self, name: &Name, bytes: Bytes) -> Result<(), Error> {
        match &*self.0 {
            Kind::Local(local) => local.put(name, bytes, true).await.map(drop),
            Kind::Bucket(bucket) => bucket.put(name, bytes, true).await.map(drop),
        }
    }

    /// Puts bytes under a name that nobody has; says whether it was free.
    ///
    /// # Errors
    /// See [`Error`]; then nobody knows whether they are there (P6).
    pub async fn put_new(&self, name: &Name, bytes: Bytes) -> Result<bool, Error> {
        match &*self.0 {
            Kind::Local(local) => local.put(name, bytes, false).await,
            Kind::Bucket(bucket) => bucket.put(name, bytes, false).await,
        }
    }

    /// Begins to put bytes of any length under a name, in the place of what was there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn writer(&self, name: &Name) -> Result<Writer, Error> {
        Ok(Writer(match &*self.0 {
            Kind::Local(local) => Way::Local(local.writer(name).await?),
            Kind::Bucket(bucket) => Way::Bucket(bucket.writer(name)),
        }))
    }

    /// The whole, if it is there.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is longer than `most`, and see [`Error`].
    pub async fn get(&self, name: &Name, most: u64) -> Result<Option<Bytes>, Error> {
        let Some(mut reading) = self.read(name, None).await? else { return Ok(None) };
        if reading.size > most {
            return Err(Error::Damaged(format!(
                "{name} has {} bytes, and {most} are the most that it may have",
                reading.size
            )));
        }
        let mut whole = Vec::with_capacity(reading.size as usize);
        while let Some(bytes) = reading.stream.next().await {
            whole.extend_from_slice(&bytes?);
        }
        Ok(Some(whole.into()))
    }

    /// The bytes as a stream, if they are there; of a range, what of it there is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&self, name: &Name, range: Option<Range<u64>>) -> Result<Option<Reading>, Error> {
        match &*self.0 {
            Kind::Local(local) => local.read(name, range).await,
            Kind::Bucket(bucket) => bucket.read(name, range).await,
        }
    }

    /// What stands under a name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head(&self, name: &Name) -> Result<Option<Item>, Error> {
        match &*self.0 {
            Kind::Local(local) => local.head(name).await,
            Kind::Bucket(bucket) => bucket.head(name).await,
        }
    }

    /// The first `most` names in this folder and those below it, after a name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self, folder: &Name, after: Option<&Name>, most: usize) -> Result<Vec<Item>, Error> {
        match &*self.0 {
            Kind::Local(local) => local.list(folder, after, most).await,
            Kind::Bucket(bucket) => bucket.list(folder, after, most).await,
        }
    }

    /// Takes away what is under a name, if anything is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, name: &Name) -> Result<(), Error> {
        match &*self.0 {
            Kind::Local(local) => local.delete(name).await,
            Kind::Bucket(bucket) => bucket.delete(name).await,
        }
    }

    /// Takes away a folder in which nothing is; what is still in it, or is put there meanwhile, stays. A bucket has no
    /// folders. Only for those that come without end, one for each thing: to make one again costs two syncs.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn drop_folder(&self, folder: &Name) -> Result<(), Error> {
        match &*self.0 {
            Kind::Local(local) => local.drop_folder(folder).await,
            Kind::Bucket(_) => Ok(()),
        }
    }

    /// Takes away what crashed writers left, and says how much of it there was. Writers that live are not touched,
    /// in whichever process they are. A bucket keeps parts of broken uploads where nobody sees them: its own rule for
    /// them takes them away (docs/files.md).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sweep(&self, unix: Duration) -> Result<usize, Error> {
        match &*self.0 {
            Kind::Local(local) => local.sweep(unix).await,
            Kind::Bucket(_) => Ok(0),
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Takes more bytes; returns when there is room for the next.
    ///
    /// # Errors
    /// See [`Error`]; the writer is of no use any more.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.0 {
            Way::Local(writer) => writer.write(bytes).await,
            Way::Bucket(writer) => writer.write(bytes).await,
        }
    }

    /// Shows everything under the name. It is durable when this returns.
    ///
    /// # Errors
    /// See [`Error`]; then nobody knows whether it shows (P6).
    pub async fn finish(self) -> Result<(), Error> {
        match self.0 {
            Way::Local(writer) => writer.finish().await,
            Way::Bucket(writer) => writer.finish().await,
        }
    }
}

/// What of a range there is in so many bytes.
fn clamp(range: Option<Range<u64>>, size: u64) -> Range<u64> {
    let range = range.unwrap_or(0..size);
    let end = range.end.min(size);
    range.start.min(end)..end
}
