//! One segment: an open file, and how much of it is still needed.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::files::{Files, Handle, read_exact, read_full, write_all};
use super::format;

/// A file of records. Whoever holds it can read it, also after its name is gone.
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) salt: u64,
    pub(super) path: PathBuf,
    handle: Box<dyn Handle>,
    /// What it takes on disk.
    size: AtomicU64,
    /// What of it is needed: live objects and graves, with what the footer says of them.
    needed: AtomicU64,
    sealed: AtomicBool,
    /// Whether it could not be compacted, and is left alone.
    stuck: AtomicBool,
}

/// The name of a segment's file.
pub(super) fn name(number: u32) -> String {
    format!("{number:08x}.segment")
}

/// The number in a file's name, if it is one of ours.
pub(super) fn numbered(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".segment")?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    (self::name(number) == name).then_some(number)
}

impl Segment {
    pub(super) fn open(files: &dyn Files, folder: &Path, number: u32, store: u64) -> io::Result<Self> {
        let path = folder.join(name(number));
        let handle = files.open(&path)?;
        let size = handle.len()?;
        Ok(Self::around(handle, path, number, store, size))
    }

    /// A new one, with its head written and room set aside.
    pub(super) fn make(
        files: &dyn Files,
        folder: &Path,
        number: u32,
        store: u64,
        room: u64,
    ) -> io::Result<Self> {
        let path = folder.join(name(number));
        let handle = files.make(&path)?;
        let begun = handle
            .reserve(room)
            .and_then(|()| write_all(&*handle, &mut [IoSlice::new(&format::segment_head(store, number))], 0));
        if let Err(e) = begun {
            // Half a segment is no loss, but room that others could use.
            let _ = files.remove(&path);
            return Err(e);
        }
        Ok(Self::around(handle, path, number, store, room))
    }

    fn around(handle: Box<dyn Handle>, path: PathBuf, number: u32, store: u64, size: u64) -> Self {
        let salt = format::salt(store, number);
        let (size, needed) = (AtomicU64::new(size), AtomicU64::new(0));
        let (sealed, stuck) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { number, salt, path, handle, size, needed, sealed, stuck }
    }

    pub(super) fn handle(&self) -> &dyn Handle {
        &*self.handle
    }

    pub(super) fn read(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        read_exact(self.handle(), to, at)
    }

    pub(super) fn read_some(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        read_full(self.handle(), to, at)
    }

    pub(super) fn write(&self, pieces: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        write_all(self.handle(), pieces, at)
    }

    /// Writes the footer behind the records, cuts the rest off, and brings everything to disk. Records are synced before
    /// the footer is begun, so a whole footer shows that everything before it was written.
    pub(super) fn seal(&self, records_end: u64, records: u64, mut footer: Vec<u8>) -> io::Result<()> {
        self.handle.sync()?;
        let trailer = format::Trailer::of(records_end, records, &footer);
        trailer.encode(self.salt, &mut footer);
        self.write(&mut [IoSlice::new(&footer)], records_end)?;
        let size = records_end + footer.len() as u64;
        self.handle.truncate(size)?;
        self.handle.sync()?;
        self.size.store(size, Ordering::Relaxed);
        self.sealed.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn seen_sealed(&self) {
        self.sealed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Relaxed)
    }

    pub(super) fn give_up(&self) {
        self.stuck.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(super) fn needed(&self) -> u64 {
        self.needed.load(Ordering::Relaxed)
    }

    pub(super) fn need(&self, bytes: u64) {
        self.needed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: u64) {
        let before = self.needed.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "segment {} needed {before}, {bytes} are released", self.number);
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({:08x}, {} of {} bytes needed)", self.number, self.needed(), self.size())
    }
}
