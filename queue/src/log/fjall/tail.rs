//! What a crash left at the end of the engine's journal: found, judged, and cut off.
//!
//! A batch that was being written when the machine died may be on disk with holes, since a disk writes pages in any order.
//! The engine cuts off a batch that ends too early, but refuses to open over one with a hole, and then somebody has to come
//! at night for a batch that nobody was told about. So it is cut off here, before the engine looks. What is not the mark of
//! a crash is left alone: that is damage, and the engine says so.
//!
//! The journal is the engine's (fjall, format 3): batches one after the other, then zeros.
//! ```text
//! batch  1 count:u32 seqno:u64  item*count  3 xxh3(items):u64 "FJL" 3
//! item   2 kind:u8 compression:u8 table:u64 key:u16 value:u32 stored:u32 key.. stored..
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const MAGIC: &[u8; 4] = b"FJL\x03";
const CHUNK: usize = 1024 * 1024;

/// What is in a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whole batches, up to the first that is not.
    pub(super) batches: u64,
    /// Where they end.
    pub(super) whole: u64,
    /// What comes after.
    pub(super) rest: Rest,
}

/// What follows the last whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing, or zeros.
    Clean,
    /// The beginning of a batch, perhaps with holes, and no whole batch after it: it was being written.
    Torn,
    /// A batch with a hole, and whole ones after it: so many.
    Hole {
        /// How many.
        follow: u64,
    },
    /// Something that this file does not know.
    Unknown,
}

/// What one step of reading came to.
enum Step {
    Whole,
    Broken,
    Unknown,
}

/// The journal that was written last, if there is one.
pub(super) fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for path in journals(folder)? {
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(largest, _)| *largest < number)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Every journal in a folder.
pub(super) fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "jnl") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether no journal in a folder holds a batch, or the beginning of one.
pub(super) fn holds_nothing(folder: &Path) -> io::Result<bool> {
    for journal in journals(folder)? {
        let found = inspect(&journal)?;
        if found.whole > 0 || found.rest != Rest::Clean {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a journal from its beginning to the first batch that is not whole.
pub(super) fn inspect(path: &Path) -> io::Result<Found> {
    let mut reader = BufReader::with_capacity(CHUNK, File::open(path)?);
    let mut items = Vec::new();
    let (mut batches, mut whole) = (0, 0);
    loop {
        match batch(&mut reader, &mut items)? {
            Step::Whole => {
                batches += 1;
                whole = reader.stream_position()?;
            }
            Step::Broken => break,
            Step::Unknown => return Ok(Found { batches, whole, rest: Rest::Unknown }),
        }
    }
    Ok(Found { batches, whole, rest: rest(path, whole)? })
}

/// Ends a journal after its last whole batch.
pub(super) fn cut(path: &Path, whole: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(whole)?;
    file.sync_all()
}

/// Writes what can be read of a journal over itself, and syncs it.
///
/// After a failed sync the kernel holds as clean what the disk may not have: the next sync would say yes and do nothing.
pub(super) fn rewrite(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let (mut chunk, zeros) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let read = file.read_at(&mut chunk, at)?;
        if read == 0 {
            break;
        }
        // Room that was set aside and never written would become real.
        if chunk[..read] != zeros[..read] {
            file.write_all_at(&chunk[..read], at)?;
        }
        at += read as u64;
    }
    file.sync_all()
}

/// One batch; `items` is room to be used again.
fn batch(reader: &mut impl Read, items: &mut Vec<u8>) -> io::Result<Step> {
    items.clear();
    let Some([tag]) = take(reader)? else { return Ok(Step::Broken) };
    match tag {
        START => {}
        0 | ITEM | END => return Ok(Step::Broken),
        _ => return Ok(Step::Unknown),
    }
    let Some(head) = take::<12>(reader)? else { return Ok(Step::Broken) };
    let count = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    for _ in 0..count {
        let Some([tag]) = take(reader)? else { return Ok(Step::Broken) };
        match tag {
            ITEM => {}
            0 | START | END => return Ok(Step::Broken),
            _ => return Ok(Step::Unknown),
        }
        let Some(head) = take::<20>(reader)? else { return Ok(Step::Broken) };
        let key = u64::from(u16::from_le_bytes([head[10], head[11]]));
        let stored = u64::from(u32::from_le_bytes([head[16], head[17], head[18], head[19]]));
        items.push(tag);
        items.extend_from_slice(&head);
        let got = reader.by_ref().take(key + stored).read_to_end(items)?;
        if (got as u64) < key + stored {
            return Ok(Step::Broken);
        }
    }
    let Some(tail) = take::<13>(reader)? else { return Ok(Step::Broken) };
    let (sum, magic) = (&tail[1..9], &tail[9..]);
    let whole = tail[0] == END && magic == MAGIC && sum == xxh3_64(items).to_le_bytes();
    Ok(if whole { Step::Whole } else { Step::Broken })
}

/// Judges what follows the last whole batch.
fn rest(path: &Path, whole: u64) -> io::Result<Rest> {
    let file = File::open(path)?;
    let (mut chunk, zeros) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut last = None;
    let mut at = whole;
    loop {
        let read = file.read_at(&mut chunk, at)?;
        if read == 0 {
            break;
        }
        if chunk[..read] != zeros[..read] {
            let within = chunk[..read].iter().rposition(|byte| *byte != 0).unwrap_or(0);
            last = Some(at + within as u64);
        }
        at += read as u64;
    }
    let Some(last) = last else { return Ok(Rest::Clean) };
    let mut rest = vec![0; (last + 1 - whole) as usize];
    file.read_exact_at(&mut rest, whole)?;
    let (mut items, mut follow, mut at) = (Vec::new(), 0, 1);
    while at < rest.len() {
        let mut after = &rest[at..];
        // No batch is without an item.
        let plausible = rest[at] == START && rest.get(at + 13) == Some(&ITEM);
        if plausible && matches!(batch(&mut after, &mut items)?, Step::Whole) {
            follow += 1;
            at = rest.len() - after.len();
        } else {
            at += 1;
        }
    }
    Ok(if follow > 0 { Rest::Hole { follow } } else { Rest::Torn })
}

fn take<const N: usize>(reader: &mut impl Read) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use ::fjall::{Database, PersistMode};
    use tempfile::TempDir;

    use super::*;

    /// A journal as the engine writes it: so many batches of three rows.
    fn journal(batches: u64, value: usize) -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let db = Database::builder(folder.path()).open().unwrap();
        let table = db.keyspace("table", Default::default).unwrap();
        for number in 0..batches {
            let mut batch = db.batch().durability(Some(PersistMode::Buffer));
            batch.insert(&table, number.to_be_bytes(), vec![7; value]);
            batch.insert(&table, [0; 9], b"");
            batch.remove(&table, [9; 3]);
            batch.commit().unwrap();
        }
        drop((table, db));
        let path = newest(folder.path()).unwrap().unwrap();
        (folder, path)
    }

    fn look(path: &Path) -> (u64, Rest) {
        let found = inspect(path).unwrap();
        (found.batches, found.rest)
    }

    fn write(path: &Path, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }

    #[test]
    fn what_the_engine_wrote_is_whole_to_the_last_batch() {
        for (batches, value) in [(0, 0), (1, 0), (1, 100_000), (300, 500)] {
            let (_folder, path) = journal(batches, value);
            assert_eq!(look(&path), (batches, Rest::Clean), "{batches} batches of {value} bytes");
            let found = inspect(&path).unwrap();
            cut(&path, found.whole).unwrap();
            assert_eq!(look(&path), (batches, Rest::Clean), "after the room behind it was given back");
        }
    }

    #[test]
    fn wherever_a_journal_ends_the_batches_before_are_whole() {
        let (_folder, path) = journal(4, 30);
        let whole = inspect(&path).unwrap().whole;
        let one = whole / 4;
        for end in (0..whole).rev() {
            cut(&path, end).unwrap();
            let rest = if end % one == 0 { Rest::Clean } else { Rest::Torn };
            assert_eq!(look(&path), (end / one, rest), "of {whole} bytes {end} are left");
        }
    }

    #[test]
    fn a_hole_in_the_last_batch_is_torn_and_a_hole_before_a_whole_batch_is_not() {
        for (batch, rest) in [(3, Rest::Torn), (2, Rest::Hole { follow: 1 }), (0, Rest::Hole { follow: 3 })] {
            let (_folder, path) = journal(4, 30_000);
            let one = inspect(&path).unwrap().whole / 4;
            write(&path, one * batch + 8_000, &[0; 4_096]);
            assert_eq!(look(&path), (batch, rest));
        }
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let (_folder, path) = journal(4, 30);
        let one = inspect(&path).unwrap().whole / 4;
        write(&path, one * 2, &[200]);
        assert_eq!(look(&path), (2, Rest::Unknown));
    }

    #[test]
    fn a_journal_that_is_written_again_is_what_it_was_and_no_larger() {
        use std::os::unix::fs::MetadataExt;
        let (_folder, path) = journal(50, 500);
        let (before, room) = (std::fs::read(&path).unwrap(), path.metadata().unwrap().blocks());
        rewrite(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == before);
        // One chunk is written as a whole, zeros and all.
        assert!(path.metadata().unwrap().blocks() <= room + CHUNK as u64 / 512);
    }

    #[test]
    fn the_newest_journal_is_the_one_with_the_largest_number() {
        let folder = TempDir::new().unwrap();
        assert_eq!(newest(folder.path()).unwrap(), None);
        for name in ["9.jnl", "10.jnl", "8.jnl", "version", "x.jnl"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(newest(folder.path()).unwrap(), Some(folder.path().join("10.jnl")));
    }
}
