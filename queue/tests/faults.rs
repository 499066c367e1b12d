//! What the log on disk keeps when its process is killed, its disk is full, its sync fails, or its power is cut.
//!
//! The process is `queue-log-drill`, the disk is `faults/disk.c` between it and its files, and what a disk holds after a cut
//! of power is the model in `faults/power.rs`. `WARMLINE_CHAOS=50` asks for fifty times as many rounds.

#[path = "faults/power.rs"]
mod power;

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use power::{Disk, Event};
use queue::log::fjall::Options;
use queue::log::{Error, Fjall, Log, Patience, Span, Table};
use tempfile::TempDir;

/// Far longer than anything here is silent.
const PATIENCE: Duration = Duration::from_mins(1);

/// `disk.c` as a library.
static DISK: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = TempDir::new().unwrap();
    let library = folder.path().join("disk.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/disk.c");
    let ran = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .args([source, "-lpthread"])
        .output()
        .expect("cc, to build the failing disk");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    (folder, library)
});

/// What the drill does, and with what disk.
#[derive(Clone, Copy)]
struct Drill<'a> {
    folder: &'a Path,
    syncs: &'a str,
    bytes: u64,
    until: u64,
    disk: &'a [(&'a str, String)],
}

impl Drill<'_> {
    fn start(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_queue-log-drill"));
        command.arg(self.folder).args([self.syncs, &self.bytes.to_string(), &self.until.to_string()]);
        if !self.disk.is_empty() {
            command.env("LD_PRELOAD", &DISK.1).env("DISK_FOLDER", self.folder);
        }
        for (name, value) in self.disk {
            command.env(name, value);
        }
        command.stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Everything it says until it ends.
    fn run(&self) -> Vec<String> {
        let mut child = self.start();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line).map_err(drop))
        });
        let mut lines = Vec::new();
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    child.kill().unwrap();
                    panic!("it hangs after {:?}", lines.last());
                }
            }
        }
        reader.join().unwrap().unwrap();
        assert_ne!(child.wait().unwrap().code(), Some(99), "the disk had to end it");
        lines
    }
}

/// The last number that was acknowledged, and the last that was acknowledged as being on disk.
fn acknowledged<'a>(lines: impl IntoIterator<Item = &'a String>) -> (u64, u64) {
    let mut last = (0, 0);
    for line in lines {
        if let Some((number, sync)) = line.strip_prefix("made ").and_then(|line| line.split_once(' ')) {
            let number: u64 = number.parse().unwrap();
            assert_eq!(number, last.0.max(number - 1) + 1, "numbers follow each other");
            last = (number, if sync == "disk" { number } else { last.1 });
        }
    }
    last
}

fn line<'a>(lines: &'a [String], prefix: &str) -> &'a str {
    let found = lines.iter().find(|line| line.starts_with(prefix));
    let end = &lines[lines.len().saturating_sub(3)..];
    found.unwrap_or_else(|| {
        panic!("nothing begins with {prefix:?} in {} lines that end with {end:?}", lines.len())
    })
}

fn options() -> Options {
    Options { write_buffer_bytes: 1024 * 1024, cache_bytes: 1024 * 1024, ..Options::default() }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

fn numbers(log: &Fjall, table: Table, mut each: impl FnMut(u64, &[u8])) -> Vec<u64> {
    let span = Span { table, from: Bytes::new(), to: Bytes::new() };
    let mut numbers = Vec::new();
    let scanned = log.scan(&span, Patience::Wait, &mut |key, value| {
        each(number(key), value);
        numbers.push(number(key));
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    numbers
}

/// Opens the log and checks that it holds the batches up to one number: all of each, in order, and nothing else (L1, L3).
fn whole(folder: &Path, bytes: u64) -> Result<u64, Error> {
    let log = Fjall::open(folder, options())?;
    let read = |table, key: &[u8]| log.get(table, key).unwrap().map_or(0, |bytes| number(&bytes));
    let last = read(Table::Debts, b"last");
    assert_eq!(read(Table::Running, b"number"), last, "two tables of one batch");
    let entries = numbers(&log, Table::Entries, |number, payload| {
        let length = if number.is_multiple_of(8) { bytes * 8 } else { bytes };
        let told = (number % 255) as u8 + 1;
        assert!(
            payload.len() as u64 == length && payload.iter().all(|byte| *byte == told),
            "payload {number}"
        );
    });
    assert_eq!(entries, (last.saturating_sub(200) + 1..=last).collect::<Vec<_>>(), "the entries of {last}");
    let inbox = numbers(&log, Table::Inbox, |key, value| assert_eq!(number(value), key));
    assert_eq!(inbox, (last.saturating_sub(50) + 1..=last).collect::<Vec<_>>(), "the inbox of {last}");
    Ok(last)
}

/// A sequence that a seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn rounds(usual: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "how long a test looks is for whoever starts it")]
    let times =
        std::env::var("WARMLINE_CHAOS").map_or(1, |times| times.parse().expect("WARMLINE_CHAOS is a number"));
    usual * times
}

// === The process dies ===

fn killed(syncs: &str) {
    let folder = TempDir::new().unwrap();
    let mut dice = Dice(7);
    let mut last = 0;
    for round in 0..rounds(30) {
        let drill = Drill { folder: folder.path(), syncs, bytes: 3_000, until: u64::MAX, disk: &[] };
        let mut child = drill.start();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut lines: Vec<String> = output.by_ref().take(1 + dice.roll(150) as usize).collect();
        child.kill().unwrap();
        lines.extend(output);
        child.wait().unwrap();
        assert_eq!(line(&lines, "opened "), format!("opened {last}"), "round {round}");
        let made = acknowledged(&lines).0.max(last);
        last = whole(folder.path(), 3_000).unwrap();
        assert!(
            last == made || last == made + 1,
            "round {round}: {made} were acknowledged, {last} are there"
        );
    }
    assert!(last > 30, "{last} batches in all rounds: nothing was tested");
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged_and_leaves_no_half() {
    killed("disk");
}

#[test]
fn a_killed_process_loses_nothing_even_without_syncs() {
    killed("write");
}

// === The disk is full ===

/// Runs until the disk fails, and checks what was said and what is left. Whether anything failed that matters.
fn fails(disk: &[(&str, String)], syncs: &str, wanted: &[&str]) -> bool {
    let folder = TempDir::new().unwrap();
    let drill = Drill { folder: folder.path(), syncs, bytes: 2_000, until: 2_000, disk };
    let lines = drill.run();
    let (made, _) = acknowledged(&lines);
    let told = format!("{disk:?}: {:?}", &lines[lines.len().saturating_sub(3)..]);
    let reason = |line: &str| wanted.iter().any(|wanted| line.contains(wanted));
    // The engine may do without the tidying that failed.
    let failed = made < drill.until;
    if !failed {
        assert_eq!(lines.last(), Some(&format!("made {made} {syncs}")));
    } else if lines.iter().any(|line| line.starts_with("refused: ")) {
        assert!(reason(line(&lines, "refused: ")) && made == 0, "{told}");
    } else {
        assert!(reason(line(&lines, "failed ")), "{told}");
        let again = line(&lines, "again ");
        assert!(
            again.contains("nothing is written after a failed commit until the log is opened again"),
            "{told}"
        );
        assert!(reason(again) && again.contains(folder.path().to_str().unwrap()), "{told}");
        assert!(again.contains("start again"), "{told}");
        assert_eq!(line(&lines, "seen "), format!("seen {made}"), "a failed batch is not seen: {told}");
    }
    let last = whole(folder.path(), 2_000).unwrap();
    assert!(last == made || last == made + 1, "{told}: {made} were acknowledged, {last} are there");
    // And it goes on.
    let drill = Drill { until: last + 300, disk: &[], ..drill };
    assert_eq!(acknowledged(&drill.run()).0, last + 300, "{told}");
    assert_eq!(whole(folder.path(), 2_000).unwrap(), last + 300, "{told}");
    failed
}

#[test]
fn a_full_disk_poisons_the_log_and_loses_nothing_that_was_acknowledged() {
    let mut dice = Dice(11);
    for round in 0..rounds(12) {
        // From the first file that is made to the middle of the work.
        let room = if round < 3 { 1 + dice.roll(4_000) } else { dice.roll(6_000_000) };
        let syncs = ["disk", "write"][round as usize % 2];
        let failed = fails(&[("DISK_FULL_AFTER", room.to_string())], syncs, &["No space left on device"]);
        assert!(failed, "room for {room} bytes is not enough");
    }
}

#[test]
fn a_disk_that_takes_half_of_every_write_is_no_failure() {
    let folder = TempDir::new().unwrap();
    let disk = [("DISK_SHORT", "yes".to_owned())];
    let drill = Drill { folder: folder.path(), syncs: "write", bytes: 2_000, until: 600, disk: &disk };
    assert_eq!(acknowledged(&drill.run()), (600, 0));
    assert_eq!(whole(folder.path(), 2_000).unwrap(), 600);
}

#[test]
fn a_folder_that_may_not_be_used_is_said_so() {
    let folder = TempDir::new().unwrap();
    for denied in ["warmline-queue", "0.jnl"] {
        let disk = [("DISK_DENIES", denied.to_owned())];
        let drill = Drill { folder: folder.path(), syncs: "disk", bytes: 10, until: 10, disk: &disk };
        let lines = drill.run();
        let refused = line(&lines, "refused: ");
        assert!(refused.contains("Permission denied"), "{refused}");
        assert!(refused.contains(folder.path().to_str().unwrap()), "{refused}");
    }
    let drill = Drill { folder: folder.path(), syncs: "disk", bytes: 10, until: 10, disk: &[] };
    assert_eq!(acknowledged(&drill.run()), (10, 10));
}

/// The engine waits for room in its buffers for ever if the tables that would make it cannot be written.
#[test]
fn whoever_waits_for_tables_is_told_when_they_cannot_be_written() {
    let folder = TempDir::new().unwrap();
    // The entries; there is time to fill all buffers before the first table fails.
    let disk = [("DISK_DENIES", "keyspaces/3/tables/".to_owned()), ("DISK_DAWDLES", "2000".to_owned())];
    let drill = Drill { folder: folder.path(), syncs: "write", bytes: 5_000, until: 5_000, disk: &disk };
    let lines = drill.run();
    let failed = line(&lines, "failed ");
    assert!(
        failed.contains("the engine failed to write a table and gave up (its disk can be written now)"),
        "{failed}"
    );
    let (made, _) = acknowledged(&lines);
    let last = whole(folder.path(), 5_000).unwrap();
    assert!(last == made || last == made + 1, "{made} were acknowledged, {last} are there");
}

// === A sync fails ===

#[test]
fn a_failed_sync_poisons_the_log_and_loses_nothing_that_was_acknowledged() {
    let mut dice = Dice(13);
    let mut failed = 0;
    for round in 0..rounds(12) {
        let nth = if round < 4 { 1 + dice.roll(100) } else { 100 + dice.roll(700) };
        // A table that was not synced is known to the engine only, whose words are poor.
        let wanted = ["Input/output error", "the engine failed to write a table and gave up"];
        failed += u64::from(fails(&[("DISK_SYNC_FAILS", nth.to_string())], "disk", &wanted));
    }
    assert!(failed >= rounds(12) / 2, "{failed} of {} failed syncs were noticed", rounds(12));
}

// === The power is cut ===

/// What a life on the model's disk left to tell.
fn traced(folder: &Path, trace: &Path, syncs: &str, bytes: u64, until: u64, more: &[(&str, String)]) {
    let mut disk = vec![("DISK_TRACE", trace.to_str().unwrap().to_owned())];
    disk.extend_from_slice(more);
    let drill = Drill { folder, syncs, bytes, until, disk: &disk };
    drill.run();
}

/// Cuts the power at `cuts` moments from `from` on, and checks what is left each time.
fn cut(events: &[Event], from: usize, cuts: u64, bytes: u64, dice: &mut Dice) {
    let mut moments: Vec<usize> =
        (0..cuts).map(|_| from + dice.roll((events.len() - from) as u64 + 1) as usize).collect();
    moments.sort_unstable();
    let (mut disk, mut told, mut said) = (Disk::default(), Vec::new(), String::new());
    for at in 0..=events.len() {
        for moment in moments.iter().filter(|moment| **moment == at) {
            // Nothing that was not synced, or some of it, or nearly all.
            let share = [0, 30, 50, 97][dice.roll(4) as usize];
            let image = TempDir::new().unwrap();
            disk.cut(image.path(), &mut || dice.roll(100) < share);
            let (made, synced) = acknowledged(&told);
            let told = format!("cut at {moment} of {}, {share} of 100 pages", events.len());
            let last = whole(image.path(), bytes).unwrap_or_else(|e| panic!("{told}: {e}"));
            assert!(
                (synced..=made + 1).contains(&last),
                "{told}: {synced} were on disk, {made} were made, {last} are there"
            );
            assert_eq!(whole(image.path(), bytes).unwrap(), last, "{told}: opened twice");
        }
        let Some(event) = events.get(at) else { break };
        disk.happen(event);
        if let Event::Said(words) = event {
            said.push_str(words);
            while let Some((line, rest)) = said.split_once('\n') {
                told.push(line.to_owned());
                said = rest.to_owned();
            }
        }
    }
}

fn cut_while(syncs: &str, bytes: u64, until: u64, cuts: u64, seed: u64) -> Vec<Event> {
    let (folder, traces) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let trace = traces.path().join("trace");
    traced(folder.path(), &trace, syncs, bytes, until, &[]);
    let events = power::trace(&trace);
    assert!(events.len() as u64 > until, "{} events of {until} batches", events.len());
    cut(&events, 0, cuts, bytes, &mut Dice(seed));
    events
}

#[test]
fn a_cut_of_power_loses_nothing_that_was_synced() {
    cut_while("disk", 2_000, 600, rounds(20), 17);
}

#[test]
fn a_cut_of_power_while_the_log_is_made_leaves_nothing_that_is_in_the_way() {
    let (folder, traces) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let trace = traces.path().join("trace");
    traced(folder.path(), &trace, "disk", 100, 3, &[]);
    cut(&power::trace(&trace), 0, rounds(40), 100, &mut Dice(37));
}

#[test]
fn a_cut_of_power_leaves_the_first_batches_even_without_syncs() {
    cut_while("mixed", 2_000, 600, rounds(20), 19);
    cut_while("write", 2_000, 600, rounds(10), 23);
}

#[test]
fn a_cut_of_power_while_journals_are_changed_loses_nothing() {
    // A journal has 64 megabytes.
    let events = cut_while("disk", 60_000, 1_000, rounds(6), 29);
    let second = |event: &Event| matches!(event, Event::Sync { name, .. } if name == "1.jnl");
    assert!(events.iter().any(second), "there was a second journal");
}

/// A sync failed, so the log was opened again, on a machine that was never off: what it showed then, and said was on disk
/// afterwards, must not be what only the kernel had.
#[test]
fn what_a_failed_sync_left_only_in_memory_is_brought_to_disk_by_the_next_life() {
    let mut dice = Dice(31);
    for _ in 0..rounds(4) {
        let (folder, traces) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let trace = traces.path().join("trace");
        let nth = 100 + dice.roll(100);
        traced(folder.path(), &trace, "disk", 2_000, 600, &[("DISK_SYNC_FAILS", nth.to_string())]);
        let first = power::trace(&trace).len();
        traced(folder.path(), &trace, "disk", 2_000, 600, &[]);
        let events = power::trace(&trace);
        assert!(events[..first].iter().any(|event| matches!(event, Event::FailedSync(_))), "a sync failed");
        cut(&events, first, rounds(5), 2_000, &mut dice);
    }
}
