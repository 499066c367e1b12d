//! Both logs keep what every log promises, and the one on disk never differs from the one in memory.
//!
//! `WARMLINE_SEEDS=1000` asks for more histories than the 24 of every run.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use queue::log::fjall::Options;
use queue::log::{
    Batch, Error, Fjall, Log, Memory, Patience, Scanned, Span, Sync, TABLES, Table, contract, stamp,
};
use tempfile::TempDir;

/// Small buffers, so that tables are written and merged within a test.
fn small() -> Options {
    Options { write_buffer_bytes: 1024 * 1024, cache_bytes: 1024 * 1024, ..Options::default() }
}

fn open(folder: &Path) -> Fjall {
    Fjall::open(folder, small()).unwrap()
}

#[test]
fn the_log_in_memory_keeps_every_promise() {
    contract::run(&|| {
        let log = Memory::new();
        Box::new(move || Box::new(log.clone()))
    })
    .unwrap();
}

#[test]
fn the_log_on_disk_keeps_every_promise() {
    contract::run(&|| {
        let folder = TempDir::new().unwrap();
        Box::new(move || Box::new(open(folder.path())))
    })
    .unwrap();
}

/// A sequence that a seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn table(&mut self) -> Table {
        TABLES[1 + self.roll(TABLES.len() as u64 - 1) as usize]
    }

    /// Few keys, so that they meet; short and long ones, and the bytes at both ends.
    fn key(&mut self) -> Bytes {
        let letters = [0x00, 0x01, b'a', b'b', 0xfe, 0xff];
        let length = if self.roll(50) == 0 { 2_000 } else { 1 + self.roll(3) };
        (0..length).map(|i| if i < 3 { letters[self.roll(6) as usize] } else { b'z' }).collect()
    }

    /// Empty, small, and large enough to lie apart and to fill a buffer.
    fn value(&mut self) -> Bytes {
        let length = match self.roll(40) {
            0 => 0,
            1 => 70_000,
            2..5 => 1_000 + self.roll(2_000),
            _ => self.roll(60),
        };
        Bytes::from(vec![self.roll(256) as u8; length as usize])
    }

    fn batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..self.roll(12) {
            let (table, key) = (self.table(), self.key());
            if self.roll(3) == 0 {
                batch.delete(table, key);
            } else {
                batch.put(table, key, self.value());
            }
        }
        batch
    }

    fn span(&mut self) -> Span {
        let from = if self.roll(4) == 0 { Bytes::new() } else { self.key() };
        let to = if self.roll(3) == 0 { Bytes::new() } else { self.key() };
        Span { table: self.table(), from, to }
    }
}

/// At most so many rows of a span, and how it ended.
fn rows(log: &dyn Log, span: &Span, at_most: usize) -> (Vec<(Bytes, Bytes)>, Scanned) {
    let mut rows = Vec::new();
    let scanned = log.scan(span, Patience::Wait, &mut |key, value| {
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if rows.len() == at_most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (rows, scanned.unwrap())
}

fn history(seed: u64) {
    let folder = TempDir::new().unwrap();
    let (mut disk, memory) = (open(folder.path()), Memory::new());
    let mut dice = Dice(seed);
    for step in 0..600 {
        let told = format!("seed {seed}, step {step}");
        match dice.roll(100) {
            0 => {
                drop(disk);
                disk = open(folder.path());
            }
            1..60 => {
                let batch = dice.batch();
                let sync = if dice.roll(40) == 0 { Sync::Disk } else { Sync::Write };
                disk.commit(batch.clone(), sync).unwrap();
                memory.commit(batch, sync).unwrap();
            }
            60..75 => {
                let (table, key) = (dice.table(), dice.key());
                assert_eq!(disk.get(table, &key).unwrap(), memory.get(table, &key).unwrap(), "{told}");
            }
            _ => {
                let (span, at_most) = (dice.span(), 1 + dice.roll(40) as usize);
                let (found, wanted) = (rows(&disk, &span, at_most), rows(&memory, &span, at_most));
                assert!(found == wanted, "{told}: {span:?}: found {found:?}, wanted {wanted:?}");
            }
        }
    }
    drop(disk);
    let disk = open(folder.path());
    for table in TABLES {
        let all = Span { table, from: Bytes::new(), to: Bytes::new() };
        assert!(rows(&disk, &all, usize::MAX) == rows(&memory, &all, usize::MAX), "seed {seed}: {table:?}");
    }
}

#[test]
fn the_log_on_disk_never_differs_from_the_one_in_memory() {
    #[expect(clippy::disallowed_methods, reason = "how long a test looks is for whoever starts it")]
    let seeds = std::env::var("WARMLINE_SEEDS")
        .map_or(24, |seeds| seeds.parse().expect("WARMLINE_SEEDS is a number"));
    (0..seeds).for_each(history);
}

// === Folders ===

fn refused(folder: &Path) -> (Error, String) {
    let Err(e) = Fjall::open(folder, small()) else { panic!("{} was opened", folder.display()) };
    let words = e.to_string();
    (e, words)
}

#[test]
fn a_folder_is_one_logs_at_a_time() {
    let folder = TempDir::new().unwrap();
    let log = open(folder.path());
    let (e, words) = refused(folder.path());
    assert!(matches!(e, Error::Locked(_)), "{e:?}");
    assert_eq!(words, format!("{} is open already, here or in another process", folder.path().display()));
    drop(log);
    open(folder.path());
}

#[test]
fn what_is_no_log_is_refused_with_what_was_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    std::fs::write(path.join("holiday.jpg"), "sun").unwrap();
    let (e, words) = refused(path);
    assert!(matches!(e, Error::Format { .. }), "{e:?}");
    assert!(words.contains("holiday.jpg") && words.contains("empty folder"), "{words}");
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1, "nothing was left there");

    let file = path.join("holiday.jpg");
    let (_, words) = refused(&file);
    assert!(words.contains("holiday.jpg") && words.contains("os error"), "{words}");
    let (_, words) = refused(&file.join("below"));
    assert!(words.contains("Not a directory"), "{words}");

    let foreign = path.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("warmline-queue"), "a shopping list of some length: milk, bread, butter\n")
        .unwrap();
    let (e, words) = refused(&foreign);
    assert!(matches!(e, Error::Format { .. }) && words.contains("a shopping list"), "{words}");
}

#[test]
fn the_root_of_a_disk_of_its_own_is_an_empty_folder() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("lost+found")).unwrap();
    open(folder.path());
}

#[test]
fn a_format_of_the_future_is_refused() {
    let folder = TempDir::new().unwrap();
    let log = open(folder.path());
    let mut batch = Batch::default();
    batch.put(stamp::TABLE, stamp::KEY, 2_u32.to_be_bytes().to_vec());
    log.commit(batch, Sync::Disk).unwrap();
    drop(log);
    let (e, words) = refused(folder.path());
    assert!(matches!(e, Error::Format { .. }), "{e:?}");
    assert_eq!(words, format!("{}: its format is 2, this program knows 1", folder.path().display()));
}

#[test]
fn a_log_whose_format_is_lost_is_refused_unless_it_is_empty() {
    let folder = TempDir::new().unwrap();
    let unstamp = |others: &[Table]| {
        let log = open(folder.path());
        let mut batch = Batch::default();
        batch.delete(stamp::TABLE, stamp::KEY);
        for table in others {
            batch.put(*table, "row", "value");
        }
        log.commit(batch, Sync::Disk).unwrap();
    };
    unstamp(&[]);
    assert_eq!(open(folder.path()).get(stamp::TABLE, stamp::KEY).unwrap(), Some(stamp::value()));
    unstamp(&[Table::Debts]);
    let (_, words) = refused(folder.path());
    assert!(words.contains("missing, although the table debts holds rows"), "{words}");
}

#[test]
fn options_that_the_engine_does_not_take_are_named() {
    let folder = TempDir::new().unwrap();
    let wrong = [
        (Options { journal_bytes: 1, ..small() }, "journal_bytes is 1, at least 67108864 is needed"),
        (Options { write_buffer_bytes: 2, ..small() }, "write_buffer_bytes is 2, at least 1048576 is needed"),
        (Options { workers: 0, ..small() }, "workers is 0, at least 1 is needed"),
    ];
    for (options, wanted) in wrong {
        let words = Fjall::open(folder.path(), options).err().unwrap().to_string();
        assert!(words.ends_with(wanted), "{words}");
    }
}

#[test]
fn a_log_is_opened_with_a_smaller_buffer_than_it_was_written_with() {
    let folder = TempDir::new().unwrap();
    let rows = |log: &Fjall, life: u32| {
        for i in 0..40_u32 {
            let mut batch = Batch::default();
            batch.put(Table::Inbox, format!("{life} {i}"), vec![7; 100_000]);
            log.commit(batch, Sync::Write).unwrap();
        }
    };
    rows(&Fjall::open(folder.path(), Options::default()).unwrap(), 1);
    let log = open(folder.path());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        rows(&log, 2);
        tell.send(log).map_err(drop)
    });
    let log = told.recv_timeout(Duration::from_mins(1)).expect("commits do not wait for ever");
    let all = Span { table: Table::Inbox, from: Bytes::new(), to: Bytes::new() };
    assert_eq!(crate::rows(&log, &all, usize::MAX).0.len(), 80);
}

#[test]
fn what_is_on_disk_is_counted() {
    let folder = TempDir::new().unwrap();
    let log = open(folder.path());
    let before = log.disk_bytes();
    let mut batch = Batch::default();
    batch.put(Table::Entries, "entry", vec![7; 4 << 20]);
    log.commit(batch, Sync::Disk).unwrap();
    let grown = log.disk_bytes() - before;
    assert!(grown >= 4 << 20, "{grown} more bytes after four megabytes");
}

/// The engine's files of a log with three synced batches of 30,000 bytes.
fn three_batches(folder: &Path) -> std::path::PathBuf {
    drop(with_three_batches(folder, Sync::Disk));
    folder.join("engine/0.jnl")
}

fn with_three_batches(folder: &Path, sync: Sync) -> Fjall {
    let log = open(folder);
    for i in 0..3 {
        let mut batch = Batch::default();
        batch.put(Table::Entries, format!("entry {i}"), vec![7; 30_000]);
        log.commit(batch, sync).unwrap();
    }
    log
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn damage_after_a_life_that_ended_in_peace_is_no_crash_although_not_all_of_it_was_synced() {
    let (folder, killed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let log = with_three_batches(folder.path(), Sync::Write);
    // What is left of a process that is killed now.
    copy(folder.path(), killed.path());
    drop(log);
    for folder in [&folder, &killed] {
        let journal = folder.path().join("engine/0.jnl");
        let mut bytes = std::fs::read(&journal).unwrap();
        bytes[20_000] ^= 1;
        std::fs::write(&journal, &bytes).unwrap();
    }
    let (_, words) = refused(folder.path());
    assert!(words.contains("this was no crash"), "{words}");
    assert_eq!(open(killed.path()).get(Table::Entries, b"entry 0").unwrap(), None);
}

#[test]
fn damage_that_no_crash_explains_is_refused_with_what_can_be_done() {
    let folder = TempDir::new().unwrap();
    let journal = three_batches(folder.path());
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    let (_, words) = refused(folder.path());
    let advice = words.rsplit_once('`').unwrap().0.rsplit_once('`').unwrap().1;
    let Some(("truncate -s", rest)) = advice.match_indices(' ').nth(1).map(|(at, _)| advice.split_at(at))
    else {
        panic!("{words}");
    };
    let (length, path) = rest.trim().split_once(' ').unwrap();
    assert_eq!(Path::new(path), journal);
    // What it advises does what it says.
    std::fs::OpenOptions::new().write(true).open(&journal).unwrap().set_len(length.parse().unwrap()).unwrap();
    assert_eq!(open(folder.path()).get(Table::Entries, b"entry 0").unwrap(), None);
}

#[test]
fn a_batch_that_was_not_finished_is_cut_off_and_the_others_are_there() {
    let folder = TempDir::new().unwrap();
    let journal = three_batches(folder.path());
    let mut bytes = std::fs::read(&journal).unwrap();
    let last = bytes.iter().rposition(|byte| *byte == 7).unwrap();
    // A page of the last batch never reached the disk, the ones behind it did.
    bytes[last - 10_000..last - 6_000].fill(0);
    std::fs::write(&journal, &bytes).unwrap();
    let log = open(folder.path());
    assert!(log.get(Table::Entries, b"entry 1").unwrap().is_some());
    assert_eq!(log.get(Table::Entries, b"entry 2").unwrap(), None);
    let mut batch = Batch::default();
    batch.put(Table::Entries, "entry 3", "value");
    log.commit(batch, Sync::Disk).unwrap();
    drop(log);
    assert!(open(folder.path()).get(Table::Entries, b"entry 3").unwrap().is_some());
}

#[test]
fn a_log_whose_making_was_not_finished_is_made_again() {
    let folder = TempDir::new().unwrap();
    drop(open(folder.path()));
    let engine = folder.path().join("engine");
    let half = |version: Option<&str>| {
        std::fs::remove_dir_all(&engine).unwrap();
        std::fs::create_dir_all(engine.join("keyspaces")).unwrap();
        std::fs::write(engine.join("lock"), "").unwrap();
        std::fs::write(engine.join("0.jnl"), vec![0; 1_000_000]).unwrap();
        if let Some(version) = version {
            std::fs::write(engine.join("version"), version).unwrap();
        }
    };
    for version in [None, Some("")] {
        half(version);
        let log = open(folder.path());
        assert_eq!(log.get(stamp::TABLE, stamp::KEY).unwrap(), Some(stamp::value()));
    }
}

#[test]
fn a_log_that_lost_the_file_that_names_its_version_is_not_made_again() {
    let folder = TempDir::new().unwrap();
    three_batches(folder.path());
    let version = folder.path().join("engine/version");
    let kept = std::fs::read(&version).unwrap();
    std::fs::remove_file(&version).unwrap();
    let (_, words) = refused(folder.path());
    assert!(words.contains("`version` is lost"), "{words}");
    std::fs::write(&version, kept).unwrap();
    assert!(open(folder.path()).get(Table::Entries, b"entry 2").unwrap().is_some());
}
