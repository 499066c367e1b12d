//! The disk of a node: objects in append-only segments, with checksums, deletion, compaction and a byte budget.
//!
//! Puts and deletes are written in batches by one thread and acknowledged by a [`Ticket`] once they are as durable as was
//! asked for; what is found is read straight into memory that the caller has, away from the threads of the runtime.
//! Nothing here decides what lives on disk. The files are drawn in `docs/format.md`.
//!
//! Promises D1 to D6 are in `index.rs` and `core.rs`, where they are kept.

mod compact;
mod core;
mod error;
pub mod files;
pub mod format;
mod index;
mod options;
mod recover;
mod report;
mod segment;
mod ticket;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

use self::core::{Change, Core, Edit};
use self::files::Files;
use crate::arena::{Block, Filling};

pub use self::compact::Compacted;
pub use self::core::{Done, Found};
pub use self::error::Error;
pub use self::options::{Durability, Options};
pub use self::report::{Counts, Damage, Recovered, Space};
pub use self::ticket::Ticket;

/// How often compaction looks whether there is something to do, when nobody tells it.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes after which compaction rests.
const PACE: u64 = 1 << 20;

/// Objects on disk. Dropped, it writes what waits and seals its last segment.
pub struct Disk {
    shared: Arc<Shared>,
    recovered: Recovered,
    readers: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

/// A live object, as the master wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Whose.
    pub tenant: Box<[u8]>,
    /// Which.
    pub key: Box<[u8]>,
    /// What was given with it.
    pub meta: Box<[u8]>,
    /// How long its value is.
    pub len: u64,
    /// What it takes on disk.
    pub on_disk: u64,
}

struct Shared {
    core: Core,
    line: Mutex<Line>,
    /// Told when there is something to write, or the disk closes.
    came: Condvar,
    /// Told when there may be something to compact, or the disk closes.
    dirty: Condvar,
}

/// What waits to be written.
#[derive(Default)]
struct Line {
    waiting: Vec<(Edit, oneshot::Sender<Result<Done, Error>>)>,
    bytes: u64,
    closed: bool,
}

// === Opening and closing ===

impl Disk {
    /// Opens the disk in a folder, or makes one where there is nothing. One process at a time has it. Blocks.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Format`], [`Error::Options`], [`Error::Io`].
    pub fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        Self::open_on(Arc::new(files::Real), folder, options)
    }

    /// The same, on a file system of one's own.
    ///
    /// # Errors
    /// As above.
    pub fn open_on(files: Arc<dyn Files>, folder: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let (core, recovered) = Core::open(files, folder.as_ref(), options)?;
        for damage in &recovered.damage {
            tracing::error!(?damage, "the disk lost something that it had");
        }
        let shared =
            Arc::new(Shared { core, line: Mutex::default(), came: Condvar::new(), dirty: Condvar::new() });
        let mut disk =
            Self { shared, recovered, readers: Arc::new(Semaphore::new(options.readers)), threads: vec![] };
        let (writes, compacts) = (disk.shared.clone(), disk.shared.clone());
        disk.threads.push(thread("disk-writer", move || writes.write())?);
        disk.threads.push(thread("disk-compactor", move || compacts.compact())?);
        Ok(disk)
    }

    /// What was found when it was opened.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Writes what waits, seals the last segment and ends. Dropping does the same, but cannot say what went wrong.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if what was accepted could not be written; [`Error::Io`] if the last segment could not be sealed.
    pub fn close(mut self) -> Result<(), Error> {
        self.end();
        match self.shared.core.poison() {
            Some(why) => Err(Error::Poisoned(why)),
            None => self.shared.core.close(),
        }
    }

    fn end(&mut self) {
        self.shared.line.lock().closed = true;
        self.shared.came.notify_all();
        self.shared.dirty.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the disk had died");
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.end();
        if let Err(error) = self.shared.core.close() {
            tracing::error!(%error, "the last segment of the disk was not sealed: the next start reads it whole");
        }
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|e| Error::io("starting a thread of the disk", e))
}

// === Writing ===

impl Disk {
    /// Writes an object, in place of an older one of this key. A [`Block`] is written from where it is, and held until then.
    pub fn put(
        &self,
        tenant: impl Into<Bytes>,
        key: impl Into<Bytes>,
        meta: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Ticket {
        let change = Change::Put { meta: meta.into(), value: value.into() };
        self.submit(Edit { tenant: tenant.into(), key: key.into(), change })
    }

    /// Takes an object away, durably: it is not there after the next start either.
    pub fn delete(&self, tenant: impl Into<Bytes>, key: impl Into<Bytes>) -> Ticket {
        self.submit(Edit { tenant: tenant.into(), key: key.into(), change: Change::Delete })
    }

    fn submit(&self, edit: Edit) -> Ticket {
        if let Err(e) = edit.check(self.shared.core.options.max_value) {
            return Ticket::refused(e);
        }
        let bytes = edit.size().on_disk();
        let bound = self.shared.core.options.queue_bytes;
        let mut line = self.shared.line.lock();
        if line.closed {
            return Ticket::refused(Error::Closed);
        }
        // One alone is always taken, however large.
        if line.bytes + bytes > bound && line.bytes > 0 {
            return Ticket::refused(Error::Busy { queued: line.bytes, bound });
        }
        let (sender, ticket) = Ticket::new();
        line.bytes += bytes;
        line.waiting.push((edit, sender));
        drop(line);
        self.shared.came.notify_one();
        ticket
    }
}

impl Shared {
    /// The thread that writes: whatever came while the last batch was written is the next one.
    fn write(&self) {
        let (batch, delay) = (self.core.options.batch_bytes, self.core.options.delay);
        loop {
            let mut line = self.line.lock();
            self.came.wait_while(&mut line, |line| line.waiting.is_empty() && !line.closed);
            if line.waiting.is_empty() {
                return;
            }
            if !delay.is_zero() {
                self.came.wait_while_for(&mut line, |line| line.bytes < batch && !line.closed, delay);
            }
            let waiting = std::mem::take(&mut line.waiting);
            // What is being written still waits, as far as memory goes.
            let taken = line.bytes;
            drop(line);
            let (edits, tickets): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            let answers = self.core.commit(edits);
            self.line.lock().bytes -= taken;
            let mut frees = false;
            for (answer, ticket) in answers.into_iter().zip(tickets) {
                frees |= !matches!(answer, Ok(Done::Stored | Done::Absent));
                // Whoever asked may have left.
                let _ = ticket.send(answer);
            }
            if frees {
                self.dirty.notify_one();
            }
        }
    }

    /// The thread that compacts, no faster than it may.
    fn compact(&self) {
        let rate = self.core.options.compact_bytes_per_second as f64;
        let mut owed = 0;
        let mut pace = |bytes: u64| {
            owed += bytes;
            // Short rests are longer than one asks for.
            owed < PACE || !self.rest(Duration::from_secs_f64(std::mem::take(&mut owed) as f64 / rate))
        };
        loop {
            match self.core.compact(&mut pace) {
                Ok(Some(_)) if !self.line.lock().closed => continue,
                // What is poisoned stays so, and was said.
                Ok(_) | Err(Error::Poisoned(_)) => {}
                Err(error) => tracing::warn!(%error, "compaction failed and is tried again"),
            }
            let mut line = self.line.lock();
            if !line.closed {
                self.dirty.wait_for(&mut line, LOOK);
            }
            if line.closed {
                return;
            }
        }
    }

    /// Waits, and says whether the disk was closed meanwhile.
    fn rest(&self, time: Duration) -> bool {
        let mut line = self.line.lock();
        self.dirty.wait_while_for(&mut line, |line| !line.closed, time);
        line.closed
    }
}

// === Reading ===

impl Disk {
    /// Looks an object up, in memory only. What is found can be read as long as it is held, whatever happens to the object.
    pub fn find(&self, tenant: &[u8], key: &[u8]) -> Option<Found> {
        self.shared.core.find(tenant, key)
    }

    /// Reads a value into memory that was set aside for it, on a thread that may wait, and verifies it.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`]; [`Error::Length`] if the memory is not as long as the value.
    pub async fn read(&self, found: &Found, to: Filling) -> Result<Block, Error> {
        if to.len() != found.len() {
            return Err(Error::Length { what: "memory for a value", len: to.len(), bound: found.len() });
        }
        self.read_with(found, to, Found::read_now).await
    }

    /// Reads the part of a value that begins at `from` and is as long as the memory.
    ///
    /// # Errors
    /// As above; [`Error::Length`] if the value ends before that.
    pub async fn read_part(&self, found: &Found, from: usize, to: Filling) -> Result<Block, Error> {
        let end = from.saturating_add(to.len());
        if end > found.len() {
            return Err(Error::Length { what: "a part of a value", len: end, bound: found.len() });
        }
        self.read_with(found, to, move |found, to| found.read_part_now(from, to)).await
    }

    async fn read_with(
        &self,
        found: &Found,
        mut to: Filling,
        how: impl FnOnce(&Found, &mut [u8]) -> Result<(), Error> + Send + 'static,
    ) -> Result<Block, Error> {
        let turn = self.readers.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let found = found.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            to.clear();
            how(&found, to.unfilled())?;
            let len = to.len();
            to.advance(len);
            to.freeze().map_err(|_| Error::Closed)
        });
        let read = reading.await.unwrap_or(Err(Error::Closed));
        if let Err(error @ Error::Damaged { .. }) = &read {
            Counts::add(&self.shared.core.counts.damaged, 1);
            tracing::error!(%error, "an object on disk is damaged");
        }
        read
    }

    /// All live objects, in no order, each part of the index as of one moment: what is put or deleted meanwhile is in it or
    /// not. Ask once, then follow the answers of tickets.
    pub fn inventory(&self) -> impl Iterator<Item = Object> + '_ {
        (0..).map_while(|part| self.shared.core.index.part(part)).flatten().map(|slot| Object {
            tenant: slot.tenant().into(),
            key: slot.key().into(),
            meta: slot.meta().into(),
            len: u64::from(slot.value),
            on_disk: slot.size().on_disk(),
        })
    }

    /// Live objects, and deletions that are still needed.
    pub fn count(&self) -> (u64, u64) {
        self.shared.core.index.count()
    }

    /// How the budget is used.
    pub fn space(&self) -> Space {
        self.shared.core.space()
    }

    /// What was done since it was opened.
    pub fn counts(&self) -> &Counts {
        &self.shared.core.counts
    }

    /// Why nothing is written any more, if so.
    pub fn poisoned(&self) -> Option<String> {
        self.shared.core.poison()
    }

    /// Compacts now, as fast as it goes, until nothing is worth it. Blocks.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Full`], [`Error::NoSpace`], [`Error::Io`].
    pub fn compact_now(&self) -> Result<Compacted, Error> {
        let mut all = Compacted::default();
        while let Some(one) = self.shared.core.compact(&mut |_| true)? {
            all.segments += one.segments;
            all.moved += one.moved;
            all.freed += one.freed;
        }
        Ok(all)
    }

    /// Bytes that wait to be written, or are being written.
    pub fn queued(&self) -> u64 {
        self.shared.line.lock().bytes
    }
}

impl Edit {
    fn check(&self, max_value: usize) -> Result<(), Error> {
        let bounded = |what, len: usize, bound: usize| {
            if len <= bound { Ok(()) } else { Err(Error::Length { what, len, bound }) }
        };
        bounded("the name of a tenant", self.tenant.len(), format::MAX_TENANT)?;
        bounded("a key", self.key.len(), format::MAX_KEY)?;
        if let Change::Put { meta, value } = &self.change {
            bounded("metadata", meta.len(), format::MAX_META)?;
            bounded("a value", value.len(), max_value)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({}, {:?})", self.shared.core.folder.display(), self.space())
    }
}

impl Counts {
    /// One of them.
    pub fn get(counter: &std::sync::atomic::AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
