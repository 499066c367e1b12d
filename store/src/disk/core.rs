//! The disk without its threads: one writer at a time, any number of readers, and what is known of each segment.
//!
//! - D3: an object shows when its batch is as durable as was promised, and not before.
//! - D4: what is read is verified; wrong bytes are never handed out.
//! - D5: after a failed write or sync nothing is written until the folder is opened again.
//! - D6: what all files take never exceeds the budget.

use std::any::Any;
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;

use parking_lot::{Mutex, RwLock};

use super::error::Error;
use super::files::{Files, read_full};
use super::format::{self, Copy, Head, Kind, SEGMENT_HEAD, Size, TRAILER};
use super::index::{Index, Segments, Slot};
use super::options::{Durability, Options};
use super::recover::{self, Reading};
use super::report::{Counts, Damage, Recovered, Space};
use super::segment::{self, Segment};

/// The file that says whose folder it is, and that is locked.
pub(super) const MARK: &str = "warmline-disk";

pub(super) struct Core {
    pub(super) files: Arc<dyn Files>,
    pub(super) folder: PathBuf,
    pub(super) store: u64,
    pub(super) options: Options,
    pub(super) index: Index,
    pub(super) segments: RwLock<Segments>,
    pub(super) counts: Counts,
    writer: Mutex<Writer>,
    /// One compaction at a time.
    pub(super) compacting: Mutex<()>,
    next_segment: AtomicU32,
    /// What all files take, with the room that was set aside in those that are written.
    pub(super) on_disk: AtomicU64,
    poison: Mutex<Option<String>>,
    // Dropped last: until then the folder is nobody else's.
    _lock: Box<dyn Any + Send + Sync>,
}

struct Writer {
    active: Option<Active>,
    next_seq: u64,
}

/// The segment that is written.
struct Active {
    segment: Arc<Segment>,
    end: u64,
    room: u64,
    footer: Vec<u8>,
    records: u64,
}

/// One change, as it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) tenant: Bytes,
    pub(super) key: Bytes,
    pub(super) change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Put { meta: Bytes, value: Bytes },
    Delete,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The object is there, and was not before.
    Stored,
    /// The object is there in place of an older one.
    Replaced,
    /// The object is gone.
    Deleted,
    /// There was none.
    Absent,
}

/// Changes that go into one segment with one write.
#[derive(Default)]
struct Run {
    heads: Vec<u8>,
    /// What is written, in order: parts of `heads`, and values.
    parts: Vec<Part>,
    records: Vec<(usize, Head, std::ops::Range<usize>)>,
    len: u64,
    /// The same with what the footer will say of it.
    on_disk: u64,
    /// Deletions of what is not there, as things are after this run.
    absent: Vec<usize>,
    /// What is live in here, whatever the index says.
    live: HashMap<(Bytes, Bytes), bool>,
}

enum Part {
    Heads(std::ops::Range<usize>),
    Value(Bytes),
}

/// An object that was found, and can be read as long as this is held, whatever is deleted or compacted.
#[derive(Clone)]
pub struct Found {
    segment: Arc<Segment>,
    slot: Slot,
}

// === Opening ===

impl Core {
    pub(super) fn open(
        files: Arc<dyn Files>,
        folder: &Path,
        options: Options,
    ) -> Result<(Self, Recovered), Error> {
        options.check()?;
        let what = || format!("opening {}", folder.display());
        files.make_folder(folder).map_err(|e| Error::io(what(), e))?;
        let lock = files.lock(&folder.join(MARK)).map_err(|e| Error::io(what(), e))?;
        let lock = lock.ok_or_else(|| Error::Locked(folder.display().to_string()))?;
        let numbers = numbers(&*files, folder).map_err(|e| Error::io(what(), e))?;
        let store = take_mark(&*files, folder, &numbers)?;
        let mut core = Self {
            files,
            folder: folder.to_owned(),
            store,
            options,
            index: Index::new(store),
            segments: RwLock::default(),
            counts: Counts::default(),
            writer: Mutex::new(Writer { active: None, next_seq: 1 }),
            compacting: Mutex::new(()),
            next_segment: AtomicU32::new(numbers.last().map_or(1, |last| last + 1)),
            on_disk: AtomicU64::new(0),
            poison: Mutex::new(None),
            _lock: lock,
        };
        let recovered = core.recover(&numbers)?;
        Ok((core, recovered))
    }

    fn recover(&mut self, numbers: &[u32]) -> Result<Recovered, Error> {
        let mut recovered = Recovered::default();
        for number in numbers {
            let segment = Segment::open(&*self.files, &self.folder, *number, self.store);
            let segment = segment.map_err(|e| self.failed("opening", *number, e))?;
            let segment = Arc::new(segment);
            self.segments.write().insert(*number, segment.clone());
            self.read_back(&segment, &mut recovered)?;
        }
        self.index.sweep(&self.segments.read());
        let empty: Vec<Arc<Segment>> = {
            let segments = self.segments.read();
            segments
                .values()
                .filter(|segment| segment.size() <= SEGMENT_HEAD + TRAILER as u64)
                .cloned()
                .collect()
        };
        for segment in empty {
            self.files.remove(&segment.path).map_err(|e| self.failed("removing", segment.number, e))?;
            self.segments.write().remove(&segment.number);
        }
        let synced = self.files.sync_folder(&self.folder);
        synced.map_err(|e| Error::io(format!("syncing {}", self.folder.display()), e))?;
        let on_disk = self.segments.read().values().map(|segment| segment.size()).sum();
        self.on_disk.store(on_disk, Ordering::Relaxed);
        (recovered.objects, _) = self.index.count();
        recovered.segments = self.segments.read().len() as u64;
        self.counts.torn_bytes.fetch_add(recovered.torn_bytes, Ordering::Relaxed);
        self.counts.damaged.fetch_add(recovered.damage.len() as u64, Ordering::Relaxed);
        Ok(recovered)
    }

    /// Learns what is in a segment. One that was not sealed is sealed now: nothing is ever appended to an old file.
    fn read_back(&self, segment: &Segment, recovered: &mut Recovered) -> Result<(), Error> {
        let mut head = [0; SEGMENT_HEAD as usize];
        let have = read_full(segment.handle(), &mut head, 0)
            .map_err(|e| self.failed("reading", segment.number, e))?;
        let known = format::read_segment_head(&head[..have]);
        if let Some(known) = known
            && known != (format::FORMAT, segment.number, self.store)
        {
            let found =
                format!("{} is a segment of another disk, or of another format", segment.path.display());
            return Err(Error::Format { place: self.folder.display().to_string(), found });
        }
        if known.is_none() && head.iter().any(|byte| *byte != 0) {
            recovered.damage.push(Damage::of_head(segment));
        }
        let failed = |doing: &str, e| self.failed(doing, segment.number, e);
        let segments = self.segments.read();
        let mut last = 0;
        let (mut footer, mut records) = (Vec::new(), 0);
        let reading = recover::read(segment, &mut |head, names| {
            last = last.max(head.seq);
            head.encode(Copy::Footer, segment.salt, names, &mut footer);
            records += 1;
            self.index.learn(&head, names, segment, &segments);
        });
        let reading = reading.map_err(|e| failed("reading", e))?;
        let mut writer = self.writer.lock();
        writer.next_seq = writer.next_seq.max(last + 1);
        drop(writer);
        let Reading { sealed, end, torn, damage } = reading;
        recovered.torn_bytes += torn;
        recovered.damage.extend(damage.into_iter().map(|hurt| Damage::of(segment, hurt)));
        if sealed {
            segment.seen_sealed();
            return Ok(());
        }
        recovered.walked += 1;
        let head = format::segment_head(self.store, segment.number);
        match write_again(segment, &head, end).and_then(|()| segment.seal(end, records, footer)) {
            // It can be read all the same, and is walked over again next time.
            Err(e) if Error::no_space(&e) => tracing::warn!(error = %e, "there is no room to seal a segment"),
            done => done.map_err(|e| failed("sealing", e))?,
        }
        Ok(())
    }
}

/// What is in the cache may not be on disk, if a sync failed in the last life: the system takes it for written. So it is
/// written once more before it is relied on.
fn write_again(segment: &Segment, head: &[u8], end: u64) -> io::Result<()> {
    segment.write(&mut [IoSlice::new(head)], 0)?;
    let mut bytes = vec![0; (1 << 20).min(end as usize)];
    let mut at = head.len() as u64;
    while at < end {
        let many = ((end - at) as usize).min(bytes.len());
        let have = segment.read_some(&mut bytes[..many], at)?;
        if have == 0 {
            break;
        }
        segment.write(&mut [IoSlice::new(&bytes[..have])], at)?;
        at += have as u64;
    }
    Ok(())
}

fn numbers(files: &dyn Files, folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> =
        files.list(folder)?.iter().filter_map(|name| segment::numbered(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads whose folder this is, or makes it ours if there is nothing in it.
fn take_mark(files: &dyn Files, folder: &Path, numbers: &[u32]) -> Result<u64, Error> {
    let path = folder.join(MARK);
    let failed = |e| Error::io(format!("reading {}", path.display()), e);
    let file = files.open(&path).map_err(failed)?;
    let mut bytes = [0; format::MARK];
    let have = read_full(&*file, &mut bytes, 0).map_err(failed)?;
    let wrong = |found: String| Error::Format { place: folder.display().to_string(), found };
    let (store, whole) = match format::read_mark(&bytes[..have]) {
        Some((format::FORMAT, store)) => (store, format::mark(store) == bytes[..have]),
        Some((found, _)) => return Err(wrong(format!("its format is {found}"))),
        None if numbers.is_empty() => (files.chance(), false),
        // The mark is gone, and any segment knows whose it is.
        None => {
            let heads = numbers.iter().filter_map(|number| {
                let file = files.open(&folder.join(segment::name(*number))).ok()?;
                let mut head = [0; SEGMENT_HEAD as usize];
                let have = read_full(&*file, &mut head, 0).ok()?;
                format::read_segment_head(&head[..have])
            });
            let known: Vec<(u32, u32, u64)> = heads.collect();
            match known.first() {
                Some((format::FORMAT, _, store)) => (*store, false),
                Some((found, ..)) => return Err(wrong(format!("its format is {found}"))),
                None => {
                    return Err(wrong("neither its mark nor the head of any segment can be read".to_owned()));
                }
            }
        }
    };
    if !whole {
        let failed = |e| Error::io(format!("writing {}", path.display()), e);
        super::files::write_all(&*file, &mut [IoSlice::new(&format::mark(store))], 0).map_err(failed)?;
        file.truncate(format::MARK as u64).and_then(|()| file.sync()).map_err(failed)?;
        files.sync_folder(folder).map_err(failed)?;
    }
    Ok(store)
}

// === Writing ===

impl Core {
    /// Makes all changes in their order, and answers each.
    pub(super) fn commit(&self, edits: Vec<Edit>) -> Vec<Result<Done, Error>> {
        let mut answers: Vec<Option<Result<Done, Error>>> = edits.iter().map(|_| None).collect();
        let mut writer = self.writer.lock();
        let mut run = Run::default();
        for (at, edit) in edits.into_iter().enumerate() {
            if let Err(e) = self.must_be_well() {
                answers[at] = Some(Err(e));
                continue;
            }
            if matches!(edit.change, Change::Delete) && !self.is_live(&run, &edit) {
                // If that is so because of this run, it is so only if the run is written.
                run.absent.push(at);
                continue;
            }
            let wanted = edit.size().on_disk();
            if !writer.has_room(&run, wanted) {
                self.flush(&mut writer, std::mem::take(&mut run), &mut answers);
                if let Err(e) = self.roll(&mut writer, wanted, matches!(edit.change, Change::Delete)) {
                    answers[at] = Some(Err(e));
                    continue;
                }
            }
            writer.add(&mut run, at, edit, self.options.durability);
        }
        self.flush(&mut writer, run, &mut answers);
        answers.into_iter().map(|answer| answer.unwrap_or(Err(Error::Closed))).collect()
    }

    fn is_live(&self, run: &Run, edit: &Edit) -> bool {
        let names = (edit.tenant.clone(), edit.key.clone());
        run.live.get(&names).copied().unwrap_or_else(|| self.index.has(&edit.tenant, &edit.key))
    }

    /// Writes a run, brings it to disk, and shows it.
    fn flush(&self, writer: &mut Writer, run: Run, answers: &mut [Option<Result<Done, Error>>]) {
        let written = match &writer.active {
            Some(active) if !run.records.is_empty() => self.write(active, &run),
            _ => Ok(()),
        };
        for at in &run.absent {
            answers[*at] = Some(written.clone().map(|()| Done::Absent));
        }
        if let Err(e) = written {
            for (at, ..) in run.records {
                answers[at] = Some(Err(e.clone()));
            }
            return;
        }
        let Some(active) = &mut writer.active else { return };
        if run.records.is_empty() {
            return;
        }
        active.end += run.len;
        let segments = self.segments.read();
        for (at, head, names) in run.records {
            let names = &run.heads[names];
            head.encode(Copy::Footer, active.segment.salt, names, &mut active.footer);
            active.records += 1;
            let before = self.index.learn(&head, names, &active.segment, &segments);
            answers[at] = Some(Ok(match (head.kind, before) {
                (Kind::Put, false) => Done::Stored,
                (Kind::Put, true) => Done::Replaced,
                (Kind::Delete, _) => Done::Deleted,
            }));
            let counter = if head.kind == Kind::Put { &self.counts.puts } else { &self.counts.deletes };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.counts.batches.fetch_add(1, Ordering::Relaxed);
        self.counts.written_bytes.fetch_add(run.len, Ordering::Relaxed);
    }

    fn write(&self, active: &Active, run: &Run) -> Result<(), Error> {
        let segment = &active.segment;
        let mut pieces: Vec<IoSlice<'_>> =
            run.parts.iter().map(|part| IoSlice::new(part.bytes(&run.heads))).collect();
        if let Err(e) = segment.write(&mut pieces, active.end) {
            // Without room nothing is in doubt, as long as what was begun can be taken back.
            if Error::no_space(&e)
                && segment.handle().truncate(active.end).and_then(|()| segment.handle().sync()).is_ok()
            {
                return Err(Error::NoSpace(format!("writing {}: {e}", segment.path.display())));
            }
            return Err(self.give_up("writing", segment.number, e));
        }
        if self.options.durability == Durability::Disk {
            segment.handle().sync().map_err(|e| self.give_up("syncing", segment.number, e))?;
        }
        Ok(())
    }

    /// Seals the segment that is written, and begins another that has room for so much.
    fn roll(&self, writer: &mut Writer, wanted: u64, frees: bool) -> Result<(), Error> {
        // The run before this may just have failed.
        self.must_be_well()?;
        let room = self.options.segment_bytes.max(SEGMENT_HEAD + wanted + TRAILER as u64);
        let gained = writer.active.as_ref().map_or(0, |active| active.room - active.final_size());
        let on_disk = self.on_disk.load(Ordering::Relaxed) - gained;
        // What makes room may use what is kept for making room.
        let kept = if frees { self.options.segment_bytes } else { self.options.kept() };
        if on_disk + room + kept > self.options.budget_bytes {
            return Err(self.full(kept, room));
        }
        self.seal(writer)?;
        let segment = self.begin(room)?;
        let (end, footer) = (SEGMENT_HEAD, Vec::new());
        writer.active = Some(Active { segment, end, room, footer, records: 0 });
        Ok(())
    }

    /// A new segment, whose name survives a cut of power.
    pub(super) fn begin(&self, room: u64) -> Result<Arc<Segment>, Error> {
        let number = self.next_segment.fetch_add(1, Ordering::Relaxed);
        let made = Segment::make(&*self.files, &self.folder, number, self.store, room);
        let segment = match made {
            Ok(segment) => Arc::new(segment),
            Err(e) if Error::no_space(&e) => {
                return Err(Error::NoSpace(format!("{}: {e}", self.folder.display())));
            }
            Err(e) => return Err(self.give_up("making", number, e)),
        };
        if let Err(e) = self.files.sync_folder(&self.folder) {
            return Err(self.give_up("making", number, e));
        }
        self.on_disk.fetch_add(room, Ordering::Relaxed);
        self.segments.write().insert(number, segment.clone());
        Ok(segment)
    }

    fn seal(&self, writer: &mut Writer) -> Result<(), Error> {
        let Some(active) = writer.active.take() else { return Ok(()) };
        let Active { segment, end, room, footer, records } = active;
        segment.seal(end, records, footer).map_err(|e| self.give_up("sealing", segment.number, e))?;
        self.shrunk(room, segment.size());
        Ok(())
    }

    /// A segment was sealed: what was set aside and not used is free.
    pub(super) fn shrunk(&self, room: u64, size: u64) {
        if size > room {
            self.on_disk.fetch_add(size - room, Ordering::Relaxed);
        } else {
            self.on_disk.fetch_sub(room - size, Ordering::Relaxed);
        }
    }

    /// Seals what is written, so that the next start need not walk over it.
    pub(super) fn close(&self) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        if self.poison().is_some() {
            return Ok(());
        }
        self.seal(&mut writer)
    }

    pub(super) fn full(&self, kept: u64, wanted: u64) -> Error {
        let Space { on_disk, dead, .. } = self.space();
        Error::Full { budget: self.options.budget_bytes, on_disk, dead, kept, wanted }
    }

    /// Nothing is written any more; the first reason is kept.
    pub(super) fn give_up(&self, doing: &str, segment: u32, e: io::Error) -> Error {
        let error = self.failed(doing, segment, e);
        self.poison.lock().get_or_insert_with(|| error.to_string());
        tracing::error!(%error, "nothing is written to the disk any more until it is opened again");
        error
    }

    fn failed(&self, doing: &str, segment: u32, e: io::Error) -> Error {
        Error::io(format!("{doing} {}", self.folder.join(segment::name(segment)).display()), e)
    }

    /// Nothing is written after a failure (D5).
    pub(super) fn must_be_well(&self) -> Result<(), Error> {
        self.poison().map_or(Ok(()), |why| Err(Error::Poisoned(why)))
    }

    /// Why nothing is written any more.
    pub(super) fn poison(&self) -> Option<String> {
        self.poison.lock().clone()
    }
}

// === Reading ===

impl Core {
    pub(super) fn find(&self, tenant: &[u8], key: &[u8]) -> Option<Found> {
        loop {
            let slot = self.index.get(tenant, key)?;
            // Between the two looks compaction may have moved it, and taken its segment away: then it is elsewhere.
            if let Some(segment) = self.segments.read().get(&slot.segment).cloned() {
                return Some(Found { segment, slot });
            }
        }
    }

    pub(super) fn space(&self) -> Space {
        let segments = self.segments.read();
        let needed: u64 = segments.values().map(|segment| segment.needed()).sum();
        let sealed = segments.values().filter(|segment| segment.is_sealed());
        let (size, of_sealed) =
            sealed.fold((0, 0), |sum, segment| (sum.0 + segment.size(), sum.1 + segment.needed()));
        Space {
            budget: self.options.budget_bytes,
            on_disk: self.on_disk.load(Ordering::Relaxed),
            needed,
            dead: size.saturating_sub(of_sealed),
            segments: segments.len() as u64,
        }
    }

    /// The invariants of the index, against the segments.
    ///
    /// # Errors
    /// What does not hold.
    #[cfg(test)]
    pub(super) fn check(&self) -> Result<(), String> {
        let _writer = self.writer.lock();
        self.index.check(&self.segments.read())?;
        let taken: u64 = self.segments.read().values().map(|segment| segment.size()).sum();
        let on_disk = self.on_disk.load(Ordering::Relaxed);
        if taken == on_disk {
            Ok(())
        } else {
            Err(format!("D6: {taken} bytes are taken, {on_disk} are counted"))
        }
    }
}

impl Found {
    /// How long the value is.
    pub fn len(&self) -> usize {
        self.slot.value as usize
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.slot.value == 0
    }

    /// What was given with it.
    pub fn meta(&self) -> &[u8] {
        self.slot.meta()
    }

    /// Reads and verifies all of the value. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    ///
    /// # Panics
    /// If the length is not that of the value.
    pub fn read_now(&self, to: &mut [u8]) -> Result<(), Error> {
        assert_eq!(to.len(), self.len(), "a value is read whole");
        let at = self.slot.at + self.slot.size().to_value();
        self.fetch(to, at)?;
        if format::root(&format::sums(to)) == self.slot.root {
            return Ok(());
        }
        // Nobody may go on with them.
        to.fill(0);
        Err(self.damaged("the value is not what was written"))
    }

    /// Reads and verifies a part of the value, from `from` on. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    ///
    /// # Panics
    /// If the part is not in the value.
    pub fn read_part_now(&self, from: usize, to: &mut [u8]) -> Result<(), Error> {
        assert!(from <= self.len() && to.len() <= self.len() - from, "a part that is not in the value");
        if to.is_empty() {
            return Ok(());
        }
        let Some(sums) = self.sums()? else { return self.part_of_all(from, to) };
        let (first, last) = (from / format::CHUNK, (from + to.len() - 1) / format::CHUNK);
        let mut chunk = vec![0; format::CHUNK];
        for number in first..=last {
            let begins = number * format::CHUNK;
            let chunk = &mut chunk[..format::CHUNK.min(self.len() - begins)];
            self.fetch(chunk, self.slot.at + self.slot.size().to_value() + begins as u64)?;
            if sums.get(8 * number..8 * number + 8) != Some(&format::sum(chunk)[..]) {
                to.fill(0);
                return Err(self.damaged("a part of the value is not what was written"));
            }
            let (low, high) = (from.max(begins), (from + to.len()).min(begins + chunk.len()));
            to[low - from..high - from].copy_from_slice(&chunk[low - begins..high - begins]);
        }
        Ok(())
    }

    /// The hashes of all chunks, if they lie beside the value and are whole.
    fn sums(&self) -> Result<Option<Vec<u8>>, Error> {
        let size = self.slot.size();
        let mut sums = vec![0; size.sums()];
        if sums.is_empty() {
            return Ok(None);
        }
        self.fetch(&mut sums, self.slot.at + (format::HEAD + size.names) as u64)?;
        Ok((format::root(&sums) == self.slot.root).then_some(sums))
    }

    fn part_of_all(&self, from: usize, to: &mut [u8]) -> Result<(), Error> {
        let mut all = vec![0; self.len()];
        self.read_now(&mut all)?;
        to.copy_from_slice(&all[from..from + to.len()]);
        Ok(())
    }

    fn fetch(&self, to: &mut [u8], at: u64) -> Result<(), Error> {
        match self.segment.read(to, at) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("the file ends before it"))
            }
            Err(e) => Err(Error::io(format!("reading {}", self.place()), e)),
        }
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Damaged { place: self.place(), why: why.to_owned() }
    }

    fn place(&self) -> String {
        let key = String::from_utf8_lossy(self.slot.key()).into_owned();
        format!("the object {key:?} at byte {} of {}", self.slot.at, self.segment.path.display())
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Found({}, {} bytes)", self.place(), self.len())
    }
}

// === impl Writer, Active, Run, Edit ===

impl Writer {
    fn has_room(&self, run: &Run, wanted: u64) -> bool {
        self.active.as_ref().is_some_and(|active| active.final_size() + run.on_disk + wanted <= active.room)
    }

    fn add(&mut self, run: &mut Run, answer: usize, edit: Edit, durability: Durability) {
        let Some(active) = &mut self.active else { return };
        let (at, size) = (active.end + run.len, edit.size());
        let Edit { tenant, key, change } = edit;
        let (kind, meta, value) = match change {
            Change::Put { meta, value } => (Kind::Put, meta, value),
            Change::Delete => (Kind::Delete, Bytes::new(), Bytes::new()),
        };
        let sums = format::sums(&value);
        let head = Head {
            kind,
            settled: durability == Durability::Disk,
            tenant: tenant.len() as u8,
            key: key.len() as u16,
            meta: meta.len() as u16,
            value: value.len() as u32,
            seq: self.next_seq,
            batch: active.end,
            root: format::root(&sums),
            at,
        };
        self.next_seq += 1;
        let names = [&tenant[..], &key, &meta].concat();
        let from = run.heads.len();
        head.encode(Copy::Head, active.segment.salt, &names, &mut run.heads);
        let names_at = from + format::HEAD..run.heads.len();
        if size.sums() > 0 {
            run.heads.extend_from_slice(&sums);
        }
        run.heads.resize(from + size.to_value() as usize, 0);
        run.parts.push(Part::Heads(from..run.heads.len()));
        let from = run.heads.len();
        let padding = size.to_repeat() - size.to_value() - value.len() as u64;
        run.heads.resize(from + padding as usize, 0);
        let repeat = run.heads.len();
        head.encode(Copy::Repeat, active.segment.salt, &names, &mut run.heads);
        run.heads.resize(repeat + (size.record() - size.to_repeat()) as usize, 0);
        run.parts.push(Part::Value(value));
        run.parts.push(Part::Heads(from..run.heads.len()));
        run.records.push((answer, head, names_at));
        run.len += size.record();
        run.on_disk += size.on_disk();
        run.live.insert((tenant, key), kind == Kind::Put);
    }
}

impl Active {
    /// How large it will be when it is sealed now.
    fn final_size(&self) -> u64 {
        self.end + self.footer.len() as u64 + TRAILER as u64
    }
}

impl Part {
    fn bytes<'a>(&'a self, heads: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Heads(range) => &heads[range.clone()],
            Self::Value(value) => value,
        }
    }
}

impl Edit {
    pub(super) fn size(&self) -> Size {
        let (meta, value) = match &self.change {
            Change::Put { meta, value } => (meta.len(), value.len()),
            Change::Delete => (0, 0),
        };
        Size { names: self.tenant.len() + self.key.len() + meta, value }
    }
}
