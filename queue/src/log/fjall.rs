//! The log on a disk: fjall, an LSM tree in this process, one keyspace a table.
//!
//! ```text
//! FOLDER/warmline-queue   the mark: who has it open, in what state it was left (`mark.rs`)
//! FOLDER/engine/N.jnl     the journal: batches in the order of their commits (`tail.rs`)
//! FOLDER/engine/keyspaces the tables
//! ```
//! How the promises of a log rest on the engine:
//! - L1: a batch is one record of the journal with one checksum. What is read is read through the snapshot that the last
//!   commit left behind ([`Fjall::snapshot`]), for the engine's own would show half a batch.
//! - L2: the journal is synced with `fdatasync` before a commit returns. That is enough: a new journal gets its size and its
//!   name synced before the first batch goes in, and one that grows is a change of size, which `fdatasync` includes.
//! - L3: there is one journal, written under one lock; the one before is synced before the next is begun.
//! - L5: the engine refuses writes after a failed one; so does this file, and keeps the reason, which the engine does not.
//!   It also sees to it that the next life trusts only what the disk has ([`mark::Flag::Doubt`]).

mod mark;
mod tail;

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::fjall::config::FilterPolicy;
use ::fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable,
    Snapshot,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use self::mark::{Flag, Mark};
use self::tail::Rest;
use super::{Batch, Error, Log, Patience, Scanned, Span, Sync, TABLES, Table, Visit, limits, stamp};

/// The smallest bound of the journals that the engine takes: one of them is as large.
pub const MIN_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// A twenty-fourth of a write buffer is the smallest share of a table, and must still be a buffer.
pub const MIN_WRITE_BUFFER_BYTES: u64 = 1024 * 1024;

/// Sealed buffers of one table at which a commit waits. The engine waits at four, without looking whether it will ever end.
const SEALED: usize = 3;

/// How often its share of the write buffer one table may take before a commit waits. The engine seals a buffer when a worker
/// has time for it; while all of them merge it grows, and nothing in the engine stops it.
const SHARES: u64 = 2;

/// Sorted runs of one table at which a commit waits. The engine waits at thirty, in the same way.
const RUNS: usize = 28;

/// From this size on a value lies apart from its key, and is not copied when tables are merged.
const APART: u32 = 1024;

/// How the log uses the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Memory for blocks that were read.
    pub cache_bytes: u64,
    /// Memory for what is not in tables yet, as the engine counts it. It is divided among the tables when the log is made, and
    /// stays so. While tables cannot be written as fast as commits come, a table may take eight times its share before
    /// commits wait: twice for what is being filled, and as much in each of the three that wait to be written.
    pub write_buffer_bytes: u64,
    /// Disk for journals that are still needed by some table; there is one more that is being written.
    pub journal_bytes: u64,
    /// Threads that write and merge tables. A second one keeps a processor busy with nothing while the first merges, since
    /// the engine hands work round in a circle; it is worth that where commits wait for tables to be written.
    pub workers: usize,
}

/// A log in a folder.
pub struct Fjall {
    // Dropped in this order: the engine ends before the folder is free for others.
    /// What the last commit left behind.
    seen: RwLock<Snapshot>,
    tables: [Keyspace; TABLES.len()],
    db: Database,
    mark: Mark,
    folder: PathBuf,
    options: Options,
    /// Whether the mark already says that something was not synced.
    loose: AtomicBool,
    /// Why nothing is written any more.
    poison: Mutex<Option<String>>,
}

impl Log for Fjall {
    fn commit(&self, batch: Batch, sync: Sync) -> Result<(), Error> {
        limits::check(&batch)?;
        let mut poison = self.poison.lock();
        if let Some(why) = &*poison {
            return Err(Error::Poisoned(why.clone()));
        }
        let done = self.write(batch, sync);
        if let Err(e) = &done {
            *poison = Some(self.give_up(e));
        }
        done
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if key.is_empty() || key.len() > limits::MAX_KEY {
            return Ok(None);
        }
        let found = self.snapshot().get(self.table(table), key);
        let found = found.map_err(|e| self.failed("reading", e))?;
        Ok(found.map(Bytes::from))
    }

    /// The engine cannot say what is in memory, so with [`Patience::Now`] every scan would block.
    fn scan(&self, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        if patience == Patience::Now {
            return Ok(Scanned::WouldBlock);
        }
        if !span.to.is_empty() && span.to <= span.from {
            return Ok(Scanned::End);
        }
        let snapshot = self.snapshot();
        let rows = snapshot.range::<&[u8], _>(self.table(span.table), bounds(span));
        for row in rows {
            let (key, value) = row.into_inner().map_err(|e| self.failed("reading", e))?;
            if visit(&key, &value).is_break() {
                return Ok(Scanned::Stopped);
            }
        }
        Ok(Scanned::End)
    }

    fn disk_bytes(&self) -> u64 {
        occupied(&self.folder)
    }
}

impl Drop for Fjall {
    /// What was written and not synced is synced, and the next life is told so: to it a hole is damage, and not a crash.
    fn drop(&mut self) {
        if self.poison.get_mut().is_some() || !*self.loose.get_mut() {
            return;
        }
        let synced = self.db.persist(PersistMode::SyncAll).map_err(|e| self.failed("syncing", e));
        let told = synced.and_then(|()| self.mark.set(Flag::Loose, false)).and_then(|()| self.mark.sync());
        if let Err(e) = told {
            self.give_up(&e);
        }
    }
}

// === impl Fjall: opening ===

impl Fjall {
    /// Opens the log in a folder, or makes one where there is nothing.
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody has it open, [`Error::Format`] if it is something else or of another version,
    /// [`Error::Io`] if the folder cannot be used.
    pub fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let folder = folder.as_ref().to_owned();
        let what = |word: &str| format!("{word} the log in {}", folder.display());
        options.check().map_err(|why| Error::Engine { what: what("opening"), why })?;
        let mark = Mark::take(&folder)?;
        let engine = folder.join("engine");
        discard_half_made(&engine)?;
        mend(&engine, &mark)?;
        let db = open_engine(&engine, options).map_err(|e| failed(what("opening"), e))?;
        let tables = open_tables(&db, options).map_err(|e| failed(what("opening"), e))?;
        // The engine syncs every folder but that one; without it a cut of power could take all tables at once.
        for named in [&engine.join("keyspaces"), &engine, &folder] {
            mark::sync_folder(named).map_err(|source| failing(what("making"), source))?;
        }
        mark.set(Flag::Doubt, false)?;
        mark.set(Flag::Loose, false)?;
        mark.sync()?;
        let (loose, poison) = (AtomicBool::new(false), Mutex::new(None));
        let seen = RwLock::new(db.snapshot());
        let log = Self { seen, tables, db, mark, folder, options, loose, poison };
        log.stamp()?;
        Ok(log)
    }

    /// Reads which format the log has; a log without one holds nothing, or is not ours.
    fn stamp(&self) -> Result<(), Error> {
        let place = self.folder.display().to_string();
        if let Some(found) = self.get(stamp::TABLE, stamp::KEY)? {
            return stamp::check(&found, &place);
        }
        for table in TABLES {
            let mut empty = true;
            let all = Span { table, from: Bytes::new(), to: Bytes::new() };
            self.scan(&all, Patience::Wait, &mut |_, _| {
                empty = false;
                std::ops::ControlFlow::Break(())
            })?;
            if !empty {
                let found = format!("missing, although the table {} holds rows", table.name());
                return Err(Error::Format { place, found, known: stamp::FORMAT });
            }
        }
        let mut first = Batch::default();
        first.put(stamp::TABLE, stamp::KEY, stamp::value());
        self.commit(first, Sync::Disk)
    }
}

fn open_engine(folder: &Path, options: Options) -> ::fjall::Result<Database> {
    Database::builder(folder)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes)
        .worker_threads(options.workers)
        .open()
}

fn open_tables(db: &Database, options: Options) -> ::fjall::Result<[Keyspace; TABLES.len()]> {
    let mut tables = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        tables.push(db.keyspace(table.name(), || tuned(table, options.write_buffer_bytes))?);
    }
    let Ok(tables) = tables.try_into() else { unreachable!("as many as there are tables") };
    Ok(tables)
}

/// What a table is made for.
fn tuned(table: Table, buffer: u64) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default().max_memtable_size(share(table, buffer));
    match table {
        // Read one by one and always there; what is large lies apart.
        Table::Entries => options
            .expect_point_read_hits(true)
            .with_kv_separation(Some(KvSeparationOptions::default().separation_threshold(APART))),
        // Only ever scanned: a filter for single keys would be built for nobody.
        Table::Inbox | Table::Running | Table::Timers | Table::Aside => {
            options.filter_policy(FilterPolicy::disabled())
        }
        Table::Meta | Table::Queues | Table::Once | Table::Debts => options,
    }
}

/// How much of the write buffer is a table's: a quarter for each of those that every entry passes through, since most of
/// what passes is deleted before it is ever written to a table.
const fn share(table: Table, buffer: u64) -> u64 {
    match table {
        Table::Entries | Table::Inbox | Table::Running => buffer / 4,
        _ => buffer / 24,
    }
}

/// Somebody died while making the engine: it holds nothing yet, and does not open.
fn discard_half_made(engine: &Path) -> Result<(), Error> {
    let failed = |source| failing(format!("looking into {}", engine.display()), source);
    let absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let version = std::fs::metadata(engine.join("version")).map(|about| about.len());
    match version {
        Ok(length) if length > 0 => return Ok(()),
        Err(e) if !absent(&e) => return Err(failed(e)),
        _ if !engine.exists() => return Ok(()),
        _ => {}
    }
    let tables = match std::fs::read_dir(engine.join("keyspaces")) {
        Ok(entries) => entries.count(),
        Err(e) if absent(&e) => 0,
        Err(e) => return Err(failed(e)),
    };
    if tables == 0 && tail::holds_nothing(engine).map_err(failed)? {
        return std::fs::remove_dir_all(engine).map_err(failed);
    }
    Err(Error::Engine {
        what: format!("opening {}", engine.display()),
        why: "its file `version` is lost, although there are entries: restore the folder from a copy"
            .to_owned(),
    })
}

/// Leaves of the journal what the engine can read and the disk really has.
fn mend(engine: &Path, mark: &Mark) -> Result<(), Error> {
    let what = |word: &str| format!("{word} the journal in {}", engine.display());
    if !engine.exists() {
        return Ok(());
    }
    if mark.get(Flag::Doubt)? {
        tracing::warn!(folder = %engine.display(), "a commit failed in the last life of this log: its journals are written again");
        for journal in tail::journals(engine).map_err(|source| failing(what("listing"), source))? {
            tail::rewrite(&journal).map_err(|source| failing(what("rewriting"), source))?;
        }
    }
    let Some(journal) = tail::newest(engine).map_err(|source| failing(what("listing"), source))? else {
        return Ok(());
    };
    let found = tail::inspect(&journal).map_err(|source| failing(what("reading"), source))?;
    let loose = mark.get(Flag::Loose)?;
    match found.rest {
        Rest::Clean | Rest::Unknown => Ok(()),
        Rest::Hole { .. } if !loose => Err(Error::Engine {
            what: what("reading"),
            why: format!(
                "{} is damaged at byte {} although it was synced and whole batches follow, so this was no crash: restore \
                 the folder from a copy, or give up what follows with `truncate -s {} {}`",
                journal.display(),
                found.whole,
                found.whole,
                journal.display()
            ),
        }),
        Rest::Torn | Rest::Hole { .. } => {
            if let Rest::Hole { follow } = found.rest {
                tracing::error!(
                    journal = %journal.display(), at = found.whole, batches = follow,
                    "a crash left a hole in what was written and not synced: so many whole batches behind it are cut off as well"
                );
            } else {
                tracing::info!(journal = %journal.display(), at = found.whole, "a batch that a crash left unfinished is cut off");
            }
            tail::cut(&journal, found.whole).map_err(|source| failing(what("ending"), source))
        }
    }
}

// === impl Fjall: writing ===

impl Fjall {
    fn table(&self, table: Table) -> &Keyspace {
        &self.tables[table as usize]
    }

    /// What was committed when it is asked for.
    ///
    /// `Database::snapshot` would show a batch that is half applied: whenever a table was written or merged the engine makes
    /// visible all that has a number so far, also what is just being applied. (`Keyspace::get` shows it always.) So one
    /// snapshot is taken by each commit, when nothing is being applied, and everybody reads a copy of it. It is never
    /// older than the last commit, and so holds up no cleaning.
    fn snapshot(&self) -> Snapshot {
        self.seen.read().clone()
    }

    fn write(&self, batch: Batch, sync: Sync) -> Result<(), Error> {
        if batch.is_empty() {
            return self.write_nothing(sync);
        }
        if sync == Sync::Write && !self.loose.swap(true, Ordering::Relaxed) {
            self.mark.set(Flag::Loose, true)?;
            self.mark.sync()?;
        }
        let mut touched = [false; TABLES.len()];
        let mut writes = self.db.batch().durability(Some(mode(sync)));
        for edit in batch.into_edits() {
            touched[edit.table as usize] = true;
            let table = self.table(edit.table);
            match edit.value {
                Some(value) => writes.insert(table, edit.key, value),
                None => writes.remove(table, edit.key),
            }
        }
        self.wait_for_room(touched)?;
        writes.commit().map_err(|e| self.failed("writing", e))?;
        *self.seen.write() = self.db.snapshot();
        Ok(())
    }

    /// A commit of nothing still promises that all before it are as safe as it is.
    fn write_nothing(&self, sync: Sync) -> Result<(), Error> {
        self.db.persist(mode(sync)).map_err(|e| self.failed("syncing", e))
    }

    /// Waits while tables are written slower than commits come, as long as there is somebody who writes them.
    fn wait_for_room(&self, touched: [bool; TABLES.len()]) -> Result<(), Error> {
        let failed = |e| self.failed("writing", e);
        for table in TABLES.into_iter().filter(|table| touched[*table as usize]) {
            let most = SHARES * share(table, self.options.write_buffer_bytes);
            let tree = self.table(table);
            loop {
                let queued = tree.sealed_memtable_count() >= SEALED || tree.tree.l0_run_count() >= RUNS;
                let large = tree.tree.active_memtable().size() >= most;
                if !queued && !large {
                    break;
                }
                // Says whether the engine has given up.
                self.db.persist(PersistMode::Buffer).map_err(failed)?;
                if large && !queued {
                    // The engine seals after a commit only; what was replayed from a journal may be too large before.
                    tree.rotate_memtable().map_err(failed)?;
                    continue;
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the engine tells nobody when it has made room"
                )]
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Warns the next life. What is said from now on is returned.
    fn give_up(&self, first: &Error) -> String {
        // If this fails as well there is nobody left to tell.
        if let Err(e) = self.mark.set(Flag::Doubt, true) {
            tracing::error!(%e, "the next life of the log cannot be warned");
        }
        let why = format!("{first}; see to the disk of {}, then start again", self.folder.display());
        tracing::error!("the log is closed for writing: {why}");
        why
    }

    fn failed(&self, word: &str, e: ::fjall::Error) -> Error {
        let what = format!("{word} the log in {}", self.folder.display());
        if !matches!(e, ::fjall::Error::Poisoned) {
            return failed(what, e);
        }
        // What happened to a table that was written in the background the engine tells nobody; so the disk is asked.
        let why = match self.probe() {
            Ok(()) => "its disk can be written now".to_owned(),
            Err(e) => e.to_string(),
        };
        Error::Engine { what, why: format!("the engine failed to write a table and gave up ({why})") }
    }

    /// Whether a megabyte can be written where the log is.
    fn probe(&self) -> io::Result<()> {
        let path = self.folder.join("probe");
        let probed = std::fs::write(&path, vec![1; 1024 * 1024]).and_then(|()| File::open(&path)?.sync_all());
        std::fs::remove_file(&path).and(probed)
    }
}

const fn mode(sync: Sync) -> PersistMode {
    match sync {
        Sync::Disk => PersistMode::SyncData,
        Sync::Write => PersistMode::Buffer,
    }
}

/// A span in the engine's words. It takes no bound that is longer than a key can be; the longest key before it does as well.
fn bounds(span: &Span) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let from = match span.from.get(..limits::MAX_KEY) {
        Some(longest) if span.from.len() > limits::MAX_KEY => Bound::Excluded(longest),
        _ if span.from.is_empty() => Bound::Unbounded,
        _ => Bound::Included(&span.from[..]),
    };
    let to = match span.to.get(..limits::MAX_KEY) {
        Some(longest) if span.to.len() > limits::MAX_KEY => Bound::Included(longest),
        _ if span.to.is_empty() => Bound::Unbounded,
        _ => Bound::Excluded(&span.to[..]),
    };
    (from, to)
}

// === Errors and sizes ===

impl Options {
    /// Whether the engine takes them.
    ///
    /// # Errors
    /// What was found and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let least = |name: &str, found: u64, least: u64| {
            if found >= least {
                Ok(())
            } else {
                Err(format!("{name} is {found}, at least {least} is needed"))
            }
        };
        least("journal_bytes", self.journal_bytes, MIN_JOURNAL_BYTES)?;
        least("write_buffer_bytes", self.write_buffer_bytes, MIN_WRITE_BUFFER_BYTES)?;
        least("workers", self.workers as u64, 1)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            // Half of this costs twice the processor (`benches/log.rs`).
            write_buffer_bytes: 192 * 1024 * 1024,
            journal_bytes: MIN_JOURNAL_BYTES,
            workers: 1,
        }
    }
}

fn failing(what: String, source: io::Error) -> Error {
    Error::Io { what, source }
}

fn failed(what: String, e: ::fjall::Error) -> Error {
    match e {
        ::fjall::Error::Io(source) | ::fjall::Error::Storage(::fjall::LsmError::Io(source)) => {
            failing(what, source)
        }
        ::fjall::Error::Locked => Error::Locked(what),
        other => Error::Engine { what, why: format!("{other:?}") },
    }
}

/// What the files of a folder occupy; one that goes away meanwhile occupies nothing.
fn occupied(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => occupied(&entry.path()),
        Ok(about) => about.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
