//! A shelf in a bucket of an object store: small things in one request, large ones in parts that show together.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error as Theirs, GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload,
};
use tokio::task::JoinSet;

use super::{Error, Item, Name, Reading, clamp};

/// One part of a large upload. S3 wants 5 MiB or more and takes 10,000 parts, so that a file may have 78 GiB. A writer
/// holds one part that fills and one that travels: 16 MiB, however long the file.
const PART: usize = 8 << 20;
/// The longest file that parts of this size can make.
pub(crate) const MAX_FILE: u64 = PART as u64 * 10_000;

/// A bucket, and where in it.
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// What people call it.
    place: String,
    /// What every key begins with, with its slash; empty, or the operator's.
    prefix: String,
}

/// An object that nobody sees yet.
pub(super) struct Writer {
    store: Arc<dyn ObjectStore>,
    place: String,
    path: Path,
    filling: Vec<u8>,
    parts: Option<Parts>,
}

/// A large upload under way. Dropped before its end it is called off, so that nobody pays for what nobody sees.
struct Parts {
    upload: Option<Box<dyn MultipartUpload>>,
    /// At most one part at a time.
    travelling: JoinSet<object_store::Result<()>>,
}

// === impl Bucket ===

impl Bucket {
    pub(super) fn new(store: Arc<dyn ObjectStore>, place: String, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { store, place, prefix }
    }

    pub(super) async fn put(&self, name: &Name, bytes: Bytes, replace: bool) -> Result<bool, Error> {
        let mode = if replace { PutMode::Overwrite } else { PutMode::Create };
        match self.store.put_opts(&self.path(name.as_str()), bytes.into(), mode.into()).await {
            Ok(_) => Ok(true),
            Err(Theirs::AlreadyExists { .. } | Theirs::Precondition { .. }) if !replace => Ok(false),
            Err(error) => Err(self.said(&error)),
        }
    }

    pub(super) fn writer(&self, name: &Name) -> Writer {
        Writer {
            store: self.store.clone(),
            place: self.place.clone(),
            path: self.path(name.as_str()),
            filling: Vec::new(),
            parts: None,
        }
    }

    pub(super) async fn read(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
    ) -> Result<Option<Reading>, Error> {
        let mut options = GetOptions::default();
        if let Some(range) = range {
            // Stores refuse ranges that are empty or begin beyond the end.
            let Some(item) = self.head(name).await? else { return Ok(None) };
            let range = clamp(Some(range), item.size);
            if range.is_empty() {
                return Ok(Some(Reading { size: item.size, range, stream: stream::empty().boxed() }));
            }
            options.range = Some(GetRange::Bounded(range));
        }
        let found = self.store.get_opts(&self.path(name.as_str()), options).await;
        let Some(found) = self.if_there(found)? else { return Ok(None) };
        let (size, range, place) = (found.meta.size, found.range.clone(), self.place.clone());
        let stream = found.into_stream().map_err(move |error| said(&place, &error)).boxed();
        Ok(Some(Reading { size, range, stream }))
    }

    pub(super) async fn head(&self, name: &Name) -> Result<Option<Item>, Error> {
        let found = self.store.head(&self.path(name.as_str())).await;
        Ok(self.if_there(found)?.map(|meta| item(name.clone(), &meta)))
    }

    pub(super) async fn list(
        &self,
        folder: &Name,
        after: Option<&Name>,
        most: usize,
    ) -> Result<Vec<Item>, Error> {
        let folder = self.path(folder.as_str());
        let found = match after {
            Some(after) => self.store.list_with_offset(Some(&folder), &self.path(after.as_str())),
            None => self.store.list(Some(&folder)),
        };
        let ours = found.try_filter_map(|meta| {
            let name =
                meta.location.as_ref().strip_prefix(&self.prefix).and_then(|name| Name::new(name).ok());
            std::future::ready(Ok(name.map(|name| item(name, &meta))))
        });
        ours.take(most).try_collect().await.map_err(|error| self.said(&error))
    }

    pub(super) async fn delete(&self, name: &Name) -> Result<(), Error> {
        let deleted = self.store.delete(&self.path(name.as_str())).await;
        self.if_there(deleted).map(drop)
    }

    /// Names have no character that a key would write in another way.
    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    fn if_there<T>(&self, found: object_store::Result<T>) -> Result<Option<T>, Error> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Theirs::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.said(&error)),
        }
    }

    fn said(&self, error: &Theirs) -> Error {
        said(&self.place, error)
    }
}

// === impl Writer ===

impl Writer {
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.filling.len() == PART {
                self.send_part().await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<(), Error> {
        if self.parts.is_none() {
            let put = self.store.put(&self.path, std::mem::take(&mut self.filling).into()).await;
            return put.map(drop).map_err(|error| said(&self.place, &error));
        }
        // There is something in it: a part is sent when the next byte is there.
        self.send_part().await?;
        let Self { place, parts, .. } = self;
        match parts {
            Some(mut parts) => parts.complete().await.map_err(|error| said(&place, &error)),
            None => Ok(()),
        }
    }

    /// Sends what was gathered, as soon as the part before it has arrived.
    async fn send_part(&mut self) -> Result<(), Error> {
        let filled = std::mem::take(&mut self.filling);
        let wrong = |error| said(&self.place, &error);
        if self.parts.is_none() {
            let upload = self.store.put_multipart(&self.path).await.map_err(wrong)?;
            self.parts = Some(Parts { upload: Some(upload), travelling: JoinSet::new() });
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        parts.arrive().await.map_err(wrong)?;
        parts.send(filled.into());
        Ok(())
    }
}

// === impl Parts ===

impl Parts {
    fn send(&mut self, part: PutPayload) {
        if let Some(upload) = &mut self.upload {
            self.travelling.spawn(upload.put_part(part));
        }
    }

    async fn arrive(&mut self) -> object_store::Result<()> {
        while let Some(arrived) = self.travelling.join_next().await {
            arrived??;
        }
        Ok(())
    }

    async fn complete(&mut self) -> object_store::Result<()> {
        self.arrive().await?;
        if let Some(upload) = &mut self.upload {
            upload.complete().await?;
        }
        self.upload = None;
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.travelling.abort_all();
        if let (Some(mut upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "parts of a broken upload stay in the bucket until its own rule takes them away");
                }
            });
        }
    }
}

fn item(name: Name, meta: &ObjectMeta) -> Item {
    let modified = Duration::from_millis(meta.last_modified.timestamp_millis().max(0) as u64);
    let tag = meta.e_tag.as_ref().map(|tag| xxhash_rust::xxh3::xxh3_128(tag.as_bytes()));
    Item { name, size: meta.size, modified, tag }
}

/// The store's words, with what to do about them.
fn said(place: &str, error: &Theirs) -> Error {
    let words = chain(error);
    match error {
        Theirs::PermissionDenied { .. } | Theirs::Unauthenticated { .. } => Error::Denied(format!(
            "{place} does not let us: {words}; files.access_key and files.secret_key (or their files) must be those of \
             somebody who may read, write, list and delete there"
        )),
        Theirs::NotFound { .. } => Error::Denied(format!(
            "{place} is not there: {words}; make the bucket, or set files.url to one that exists"
        )),
        // As the library writes a status: an address may have these digits in its port.
        _ if words.contains("507 Insufficient Storage")
            || words.contains("QuotaExceeded")
            || words.contains("XMinioStorageFull") =>
        {
            Error::Full(place.to_owned())
        }
        _ => Error::Away(format!("{place} does not answer as it should: {words}")),
    }
}

/// What went wrong, down to its cause, each sentence once and in a bounded length.
fn chain(error: &Theirs) -> String {
    const ENOUGH: usize = 600;
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let more = cause.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        source = cause.source();
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(ENOUGH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_is_told_from_one_whose_address_has_the_digits_of_that_status() {
        let error = |words: &str| Theirs::Generic { store: "S3", source: words.into() };
        let full = "Server returned non-2xx status code: 507 Insufficient Storage: no room";
        assert!(matches!(said("s3://a", &error(full)), Error::Full(_)));
        let away = "error sending request for url (http://127.0.0.1:45071/a/b)";
        assert!(matches!(said("s3://a", &error(away)), Error::Away(_)));
    }
}
