//! What a durable log costs: commits, items and scans, each beside its floor on the same disk in the same run.
//!
//! `cargo bench -p warmline-queue --bench log`. The floors are `fdatasync` of a small append, and the engine without our
//! trait around it. Rates are medians of rounds in which ours and the floor take turns, since machines are noisy.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use queue::log::fjall::Options;
use queue::log::{Batch, Fjall, Log, Memory, Patience, Span, Sync, Table};
use tempfile::TempDir;

const ROUNDS: usize = 5;
/// Moves in a batch: what one group commit of a busy room holds.
const MOVES: u64 = 32;
const PAYLOAD: usize = 200;
/// Entries that were finished, and lie before those that wait.
const GRAVES: u64 = 100_000;
/// What a cache of one queue asks for.
const ROWS: usize = 24;

fn main() {
    let parts: [(&str, fn()); 4] =
        [("producer", producer), ("moves", moves), ("scans", scans), ("opening", opening)];
    // Cargo says `--bench` to every bench.
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for (name, part) in parts {
        if asked.is_empty() || asked.iter().any(|word| word == name) {
            part();
        }
    }
}

// === One producer ===

fn producer() {
    const COMMITS: u64 = 400;
    println!("one producer, a sync each, commits a second, medians of {ROUNDS} rounds");
    let disk = place();
    let append = File::create(disk.path().join("append")).expect("a file");
    // As a journal is: its size was set aside and synced before.
    let room = File::create(disk.path().join("room")).expect("a file");
    room.set_len(64 << 20).and_then(|()| room.sync_all()).expect("room");
    let floor = |mut file: &File| {
        per_second(COMMITS, || {
            for _ in 0..COMMITS {
                file.write_all(&[7; PAYLOAD + 50]).and_then(|()| file.sync_data()).expect("a sync");
            }
        })
    };
    let mut log = open(&disk, "log");
    let bare = Bare::open(&disk.path().join("bare"));
    let mut rates = [const { Vec::new() }; 4];
    for round in 0..ROUNDS as u64 {
        rates[0].push(floor(&append));
        rates[3].push(floor(&room));
        rates[1].push(per_second(COMMITS, || {
            for i in 0..COMMITS {
                bare.enqueue(&[round * COMMITS + i], PersistMode::SyncData);
            }
        }));
        rates[2].push(per_second(COMMITS, || {
            for i in 0..COMMITS {
                enqueue(&mut log, &[round * COMMITS + i], Sync::Disk);
            }
        }));
    }
    let [append, bare, ours, floor] = rates.map(median);
    println!("  fdatasync, file grows        {append:8.0}");
    println!("  fdatasync, room set aside    {floor:8.0}");
    println!("  the engine alone             {bare:8.0}   {:3.0} % of the disk", 100.0 * bare / floor);
    println!("  the log                      {ours:8.0}   {:3.0} % of the disk", 100.0 * ours / floor);
}

// === Three moves ===

/// What a round took: items a second, microseconds of processor an item.
#[derive(Clone, Copy)]
struct Cost {
    rate: f64,
    cpu: f64,
}

fn moves() {
    println!("\nenqueue, start, finish of an entry of {PAYLOAD} bytes, in batches of {MOVES} moves");
    for (sync, items) in [(Sync::Disk, 9_600), (Sync::Write, 64_000)] {
        moves_with(sync, items);
    }
}

fn moves_with(sync: Sync, items: u64) {
    let disk = place();
    let bare = Bare::open(&disk.path().join("bare"));
    let mut log = open(&disk, "log");
    let mut memory = Memory::new();
    let mode = if sync == Sync::Disk { PersistMode::SyncData } else { PersistMode::Buffer };
    let (mut floor, mut ours, mut model) = (Vec::new(), Vec::new(), Vec::new());
    let mut written = [0.0; 2];
    for round in 0..ROUNDS as u64 {
        let first = round * items;
        let before = written_bytes();
        floor.push(cost(items, || {
            each_batch(first, items, |numbers| {
                bare.enqueue(numbers, mode);
                bare.start(numbers, mode);
                bare.finish(numbers, mode);
            });
        }));
        let between = written_bytes();
        ours.push(cost(items, || life(&mut log, first, items, sync)));
        written[0] += between - before;
        written[1] += written_bytes() - between;
        model.push(cost(items, || life(&mut memory, first, items, sync)));
    }
    let (floor, ours, model) = (middle(floor), middle(ours), middle(model));
    // Keys and values of all five changes of an item.
    let said = (items * ROUNDS as u64) as f64 * (PAYLOAD as f64 + 5.0 * 24.0);
    println!("  {sync:?}: items a second, µs of processor an item, bytes on disk a byte said");
    println!(
        "    the engine alone           {:8.0}  {:5.1}  {:4.1}",
        floor.rate,
        floor.cpu,
        written[0] / said
    );
    let share = 100.0 * ours.rate / floor.rate;
    println!(
        "    the log                    {:8.0}  {:5.1}  {:4.1}   {share:3.0} % of the engine",
        ours.rate,
        ours.cpu,
        written[1] / said
    );
    println!("    the log in memory          {:8.0}  {:5.1}", model.rate, model.cpu);
}

fn life(log: &mut impl Log, first: u64, items: u64, sync: Sync) {
    each_batch(first, items, |numbers| {
        enqueue(log, numbers, sync);
        let mut batch = Batch::default();
        for number in numbers {
            batch.delete(Table::Inbox, key(*number));
            batch.put(Table::Running, key(*number), LEASE);
        }
        log.commit(batch, sync).expect("a commit");
        let mut batch = Batch::default();
        for number in numbers {
            batch.delete(Table::Running, key(*number));
            batch.delete(Table::Entries, key(*number));
        }
        log.commit(batch, sync).expect("a commit");
    });
}

fn enqueue(log: &mut impl Log, numbers: &[u64], sync: Sync) {
    let mut batch = Batch::default();
    for number in numbers {
        batch.put(Table::Entries, key(*number), payload(*number));
        batch.put(Table::Inbox, key(*number), Bytes::new());
    }
    log.commit(batch, sync).expect("a commit");
}

fn each_batch(first: u64, items: u64, mut each: impl FnMut(&[u64])) {
    let numbers: Vec<u64> = (first..first + items).collect();
    numbers.chunks(MOVES as usize).for_each(&mut each);
}

/// The engine without our trait: the same writes, its own defaults.
struct Bare {
    db: Database,
    entries: Keyspace,
    inbox: Keyspace,
    running: Keyspace,
}

impl Bare {
    fn open(folder: &Path) -> Self {
        let db = Database::builder(folder).worker_threads(2).open().expect("an engine");
        let table = |name| db.keyspace(name, KeyspaceCreateOptions::default).expect("a table");
        let (entries, inbox, running) = (table("entries"), table("inbox"), table("running"));
        Self { db, entries, inbox, running }
    }

    fn enqueue(&self, numbers: &[u64], mode: PersistMode) {
        let mut batch = self.db.batch().durability(Some(mode));
        for number in numbers {
            batch.insert(&self.entries, key(*number), payload(*number));
            batch.insert(&self.inbox, key(*number), Bytes::new());
        }
        batch.commit().expect("a commit");
    }

    fn start(&self, numbers: &[u64], mode: PersistMode) {
        let mut batch = self.db.batch().durability(Some(mode));
        for number in numbers {
            batch.remove(&self.inbox, key(*number));
            batch.insert(&self.running, key(*number), LEASE);
        }
        batch.commit().expect("a commit");
    }

    fn finish(&self, numbers: &[u64], mode: PersistMode) {
        let mut batch = self.db.batch().durability(Some(mode));
        for number in numbers {
            batch.remove(&self.running, key(*number));
            batch.remove(&self.entries, key(*number));
        }
        batch.commit().expect("a commit");
    }
}

// === Scans ===

fn scans() {
    println!("\na scan of {ROWS} rows, behind {GRAVES} entries that are gone");
    let disk = place();
    let large = open(&disk, "buffer");
    let small = Options { write_buffer_bytes: 1024 * 1024, ..Options::default() };
    let small = Fjall::open(disk.path().join("tables"), small).expect("a log");
    let logs: [(&str, &dyn Log); 3] = [
        ("rows in the write buffer", &large),
        ("rows in tables", &small),
        ("the log in memory", &Memory::new()),
    ];
    for (name, log) in logs {
        for numbers in (0..GRAVES + 10_000).collect::<Vec<_>>().chunks(1_000) {
            let mut batch = Batch::default();
            for number in numbers {
                batch.put(Table::Inbox, key(*number), Bytes::new());
            }
            log.commit(batch, Sync::Write).expect("a commit");
        }
        for numbers in (0..GRAVES).collect::<Vec<_>>().chunks(1_000) {
            let mut batch = Batch::default();
            for number in numbers {
                batch.delete(Table::Inbox, key(*number));
            }
            log.commit(batch, Sync::Write).expect("a commit");
        }
        let start = median((0..21).map(|_| scan(log, 0)).collect());
        let anchor = median((0..1_001).map(|i| scan(log, GRAVES + i)).collect());
        println!("  {name:26}   from the start {start:9.1} µs, from an anchor {anchor:6.1} µs");
    }
}

/// Microseconds until the last of some rows was seen.
fn scan(log: &dyn Log, from: u64) -> f64 {
    let span = Span { table: Table::Inbox, from: key(from), to: Bytes::new() };
    let mut seen = 0;
    let began = now();
    let scanned = log.scan(&span, Patience::Wait, &mut |_, _| {
        seen += 1;
        if seen == ROWS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let took = began.elapsed();
    scanned.expect("a scan");
    assert_eq!(seen, ROWS);
    took.as_secs_f64() * 1e6
}

// === Opening ===

fn opening() {
    const WAITING: u64 = 1_000_000;
    println!("\nopening again");
    let disk = place();
    let made = now();
    let mut log = open(&disk, "log");
    println!("  a new log                    {:8.0} ms", made.elapsed().as_secs_f64() * 1e3);
    for numbers in (0..WAITING).collect::<Vec<_>>().chunks(1_000) {
        enqueue(&mut log, numbers, Sync::Write);
    }
    drop(log);
    let (began, before) = (now(), processor());
    let log = open(&disk, "log");
    let (took, busy) = (began.elapsed(), processor().saturating_sub(before));
    let first = scan(&log, 0);
    println!(
        "  one with {WAITING} entries    {:8.0} ms, {} of them on a processor",
        took.as_secs_f64() * 1e3,
        busy.as_millis()
    );
    println!(
        "  its first {ROWS} rows           {:8.3} ms; {} MiB are on disk",
        first / 1e3,
        log.disk_bytes() >> 20
    );
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    println!("  memory of this process, at most: {}", peak.trim());
}

// === Small words ===

const LEASE: &[u8] = &[1; 16];

/// On the disk of the build folder: the usual temporary one may be memory.
fn place() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn open(disk: &TempDir, name: &str) -> Fjall {
    Fjall::open(disk.path().join(name), Options::default()).expect("a log")
}

/// A queue, a class, a time and a number, as in an inbox.
fn key(number: u64) -> Bytes {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&7_u64.to_be_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

fn payload(number: u64) -> Bytes {
    Bytes::copy_from_slice(&[number as u8; PAYLOAD])
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn per_second(times: u64, work: impl FnOnce()) -> f64 {
    let began = now();
    work();
    times as f64 / began.elapsed().as_secs_f64()
}

fn cost(items: u64, work: impl FnOnce()) -> Cost {
    let (began, before) = (now(), processor());
    work();
    let took = began.elapsed().as_secs_f64();
    let cpu = processor().saturating_sub(before).as_secs_f64() * 1e6 / items as f64;
    Cost { rate: items as f64 / took, cpu }
}

fn middle(costs: Vec<Cost>) -> Cost {
    Cost {
        rate: median(costs.iter().map(|cost| cost.rate).collect()),
        cpu: median(costs.iter().map(|cost| cost.cpu).collect()),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Time that all threads of this process had a processor, in hundredths of a second as the kernel tells it.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// What this process made the kernel write to a disk.
fn written_bytes() -> f64 {
    let told = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = told.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("a count");
    line.parse().expect("a number")
}
