//! A file on its way in: content first, then its card, and only then there is a file.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::card::{self, Known};
use super::{Error, File, Files, Id, Purpose};
use crate::settings::Span;
use crate::shelf::{Name, Writer};

/// How often a card is tried that somebody puts and takes away at the same time.
const TRIES: usize = 4;
/// Names that are asked for at a time.
const NAMES: usize = 1_000;

/// A file that does not exist yet. Dropped before its end it leaves nothing.
pub struct Upload {
    files: Files,
    tenant: Option<String>,
    id: Id,
    content: Name,
    /// `None` when it is finished.
    writer: Option<Writer>,
    bytes: u64,
    digest: Xxh3,
    whose: Whose,
    /// What the tenant may still keep, as it was when this began.
    room: u64,
}

/// Who makes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// A client, within the limits of the settings.
    Client,
    /// We, for a client: it counts, but nobody is refused what was computed for him.
    Ours,
}

/// What is known of a file when its content is there.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What its owner calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: Purpose,
    /// How long its owner wants it; `files.keep` may be shorter.
    pub expires_after: Option<Duration>,
}

impl Files {
    /// Begins a file of a client, within the limits of the settings.
    ///
    /// # Errors
    /// [`Error::Quota`] if there is no room at all, and [`Error::Shelf`].
    pub async fn upload(&self, tenant: Option<&str>) -> Result<Upload, Error> {
        self.begin(tenant, self.mint(), Whose::Client).await
    }

    /// Begins a file that we make for a client, under an id that is the same whenever it is made again. If it exists
    /// already, the end of this compares the two.
    ///
    /// # Errors
    /// [`Error::Shelf`].
    pub async fn output(&self, tenant: Option<&str>, id: Id) -> Result<Upload, Error> {
        self.begin(tenant, id, Whose::Ours).await
    }

    async fn begin(&self, tenant: Option<&str>, id: Id, whose: Whose) -> Result<Upload, Error> {
        let room = match whose {
            Whose::Client => self.room(tenant).await?,
            Whose::Ours => u64::MAX,
        };
        if room == 0 {
            return Err(self.too_much());
        }
        let content = card::fresh(tenant, &id);
        let writer = Some(self.0.shelf.writer(&content).await?);
        let (files, tenant, digest) = (self.clone(), tenant.map(str::to_owned), Xxh3::new());
        Ok(Upload { files, tenant, id, content, writer, bytes: 0, digest, whose, room })
    }

    /// How many more bytes the tenant may keep.
    async fn room(&self, tenant: Option<&str>) -> Result<u64, Error> {
        let Some(limit) = self.0.settings.max_total_bytes else { return Ok(u64::MAX) };
        let (folder, mut after, mut kept) = (card::contents(tenant), None, 0);
        loop {
            let items = self.0.shelf.list(&folder, after.as_ref(), NAMES).await?;
            kept += items.iter().map(|item| item.size).sum::<u64>();
            match items.last() {
                Some(last) if items.len() == NAMES => after = Some(last.name.clone()),
                _ => return Ok(limit.saturating_sub(kept)),
            }
        }
    }

    fn too_much(&self) -> Error {
        Error::Quota { limit: self.0.settings.max_total_bytes.unwrap_or_default() }
    }
}

// === impl Upload ===

impl Upload {
    /// How much has come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more of the content; returns when there is room for the next.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Quota`] and [`Error::Shelf`]; the upload is of no use any more.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        let limit = self.files.0.settings.max_file_bytes;
        if self.whose == Whose::Client && self.bytes > limit {
            return Err(Error::TooLarge { limit });
        }
        if self.bytes > self.room {
            return Err(self.files.too_much());
        }
        self.digest.update(bytes);
        let writer = self.writer.as_mut().expect("only the end takes it");
        Ok(writer.write(bytes).await?)
    }

    /// Makes it a file: durable, and seen by all. If there is one with this id and the same content already, it is that
    /// one.
    ///
    /// # Errors
    /// [`Error::Taken`] if there is another one with this id, [`Error::Quota`] and [`Error::Shelf`]; then there is no
    /// new file.
    pub async fn finish(mut self, facts: Facts) -> Result<File, Error> {
        let tenant = self.tenant.as_deref();
        // From the look at the limit to the end one of a tenant at a time. Other replicas may pass at the same moment:
        // by what they show in it the limit can be exceeded.
        let showing = self.files.showing(tenant);
        let _one = if self.room == u64::MAX { None } else { Some(showing.lock().await) };
        if self.room != u64::MAX && self.bytes > self.files.room(tenant).await? {
            return Err(self.files.too_much());
        }
        let writer = self.writer.take().expect("only the end takes it");
        writer.finish().await?;
        let keep = self.files.0.settings.keep.map(Span::get);
        let after = [facts.expires_after, keep].into_iter().flatten().min();
        let file = File::new(Known {
            expires_at: after.map(|after| (self.id.time() + after).as_secs()),
            id: self.id.clone(),
            bytes: self.bytes,
            filename: facts.filename,
            purpose: facts.purpose,
            content: self.content.clone(),
            digest: self.digest.digest128(),
        });
        let kept = self.files.keep(tenant, file).await;
        let counters = &self.files.0.counters;
        match &kept {
            Ok(file) if file.content == self.content => {
                counters.stored.fetch_add(1, Ordering::Relaxed);
                counters.stored_bytes.fetch_add(self.bytes, Ordering::Relaxed);
            }
            // Perhaps the card is there and only the answer got lost: then this is the content of a file. If no card
            // names it, it is taken away when it is old.
            Err(Error::Shelf(_)) => {}
            // It is litter: if it cannot be taken away now, it is later.
            _ => drop(self.files.0.shelf.delete(&self.content).await),
        }
        kept
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.writer.is_some() {
            self.files.0.counters.broken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Files {
    /// Puts a card, which makes the file, or finds that it is there already.
    async fn keep(&self, tenant: Option<&str>, file: File) -> Result<File, Error> {
        let place = card::place(tenant, &file.id);
        for _ in 0..TRIES {
            if self.0.shelf.put_new(&place, file.write().into()).await? {
                return Ok(file);
            }
            let Some(there) = self.0.shelf.get(&place, card::MAX).await? else { continue };
            let there = File::read(&there)?;
            if !there.same(&file) {
                return Err(Error::Taken(file.id));
            }
            // Perhaps it is this very card: put before, and the answer got lost. If it names a content that is gone,
            // the file is made whole again by ours, which is the same.
            if there.content == file.content || self.0.shelf.head(&there.content).await?.is_some() {
                return Ok(there);
            }
            tracing::warn!(file = %file.id, "a file had lost its content; it is put there again");
            self.0.shelf.put(&place, file.write().into()).await?;
            return Ok(file);
        }
        Err(Error::Gone(file.id))
    }

    fn showing(&self, tenant: Option<&str>) -> Arc<tokio::sync::Mutex<()>> {
        let mut showing = self.0.showing.lock();
        showing.entry(tenant.map(str::to_owned)).or_default().clone()
    }
}
