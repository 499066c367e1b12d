//! What the disk costs: puts and gets beside plain writes and reads of the same sizes, starting with a million objects, and
//! what compaction writes for each byte that becomes free.
//!
//! `cargo bench -p warmline-store --bench disk [-- objects|start|compaction|engine]`. Medians of rounds in which ours and the
//! floor take turns, on the disk of the build folder. Cold reads were dropped from the system's cache before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use store::arena::Arena;
use store::disk::{Counts, Disk, Durability, Options};
use tempfile::TempDir;

const ROUNDS: usize = 5;

fn main() {
    let parts: [(&str, fn()); 4] =
        [("objects", objects), ("start", start), ("compaction", compaction), ("engine", engine)];
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for (name, part) in parts {
        if asked.is_empty() || asked.iter().any(|word| word == name) {
            part();
        }
    }
}

/// Sizes, how many of them in a round, and how many in flight.
const SIZES: [(usize, usize, usize); 5] =
    [(4 << 10, 300, 1), (4 << 10, 16_384, 1024), (1 << 20, 128, 1), (1 << 20, 256, 16), (16 << 20, 16, 2)];

fn objects() {
    println!(
        "MiB/s, medians of {ROUNDS}: puts that are on disk, and verified gets, beside pwrite + fdatasync and pread"
    );
    for (size, many, flight) in SIZES {
        let folder = place();
        let options = Options { delay: Duration::ZERO, budget_bytes: 16 << 30, ..Options::default() };
        let disk = Disk::open(folder.path().join("disk"), options).expect("a disk");
        let arena = Arena::new((64 << 20) + 2 * (size as u64)).expect("memory");
        let mut rates = [const { Vec::new() }; 6];
        let payload = Bytes::from(payload(size));
        for round in 0..ROUNDS {
            let file = floor_file(&folder.path().join(format!("floor-{round}")), size * many);
            rates[0].push(rate(size * many, || {
                for batch in 0..many / flight {
                    for at in 0..flight {
                        file.write_all_at(&payload, ((batch * flight + at) * size) as u64).expect("a write");
                    }
                    file.sync_data().expect("a sync");
                }
            }));
            let key = |at: usize| format!("{round}-{at}");
            rates[1].push(rate(size * many, || {
                for batch in 0..many / flight {
                    let tickets: Vec<_> = (0..flight)
                        .map(|at| disk.put("t", key(batch * flight + at), "", payload.clone()))
                        .collect();
                    for ticket in tickets {
                        ticket.wait().expect("a put");
                    }
                }
            }));
            let mut to = vec![0; size];
            let mut reads = |cold: bool| {
                if cold {
                    forget(folder.path());
                }
                let floor = rate(size * many, || {
                    for at in 0..many {
                        file.read_exact_at(&mut to, (at * size) as u64).expect("a read");
                    }
                });
                let ours = rate(size * many, || {
                    for at in 0..many {
                        let found = disk.find(b"t", key(at).as_bytes()).expect("it is there");
                        let mut filling = arena.alloc(size).expect("room");
                        found.read_now(filling.unfilled()).expect("whole");
                        filling.advance(size);
                        drop(filling.freeze());
                    }
                });
                (floor, ours)
            };
            let (cold, warm) = (reads(true), reads(false));
            for (at, value) in [(2, cold.0), (3, cold.1), (4, warm.0), (5, warm.1)] {
                rates[at].push(value);
            }
        }
        let [write, put, cold, get_cold, warm, get_warm] = rates.map(median);
        println!("  {:6} KiB, {flight:4} in flight", size >> 10);
        for (what, floor, ours) in
            [("put", write, put), ("get, cold", cold, get_cold), ("get, warm", warm, get_warm)]
        {
            println!("    {what:10} {ours:8.0}   plain {floor:8.0}   {:3.0} %", 100.0 * ours / floor);
        }
    }
}

fn start() {
    const OBJECTS: u64 = 1_000_000;
    println!("\nstarting with {OBJECTS} objects of 100 bytes, keys of 40, metadata of 24");
    let folder = place();
    let options = Options {
        delay: Duration::ZERO,
        budget_bytes: 16 << 30,
        durability: Durability::Write,
        ..Options::default()
    };
    let disk = Disk::open(folder.path(), options).expect("a disk");
    let began = now();
    for batch in 0..OBJECTS / 1000 {
        let tickets: Vec<_> = (0..1000)
            .map(|at| disk.put("tenant", format!("{:040}", batch * 1000 + at), vec![7; 24], vec![9; 100]))
            .collect();
        for ticket in tickets {
            ticket.wait().expect("a put");
        }
    }
    println!("  puts, written not synced   {:8.0} a second", OBJECTS as f64 / began.elapsed().as_secs_f64());
    println!(
        "  on disk                    {:8} MiB, {} bytes an object",
        disk.space().on_disk >> 20,
        disk.space().needed / OBJECTS
    );
    disk.close().expect("closed");
    for cold in [true, false] {
        if cold {
            forget(folder.path());
        }
        let (before, began) = (memory(), now());
        let disk = Disk::open(folder.path(), options).expect("a disk");
        let took = began.elapsed().as_secs_f64();
        assert_eq!(disk.recovered().objects, OBJECTS);
        let listed = now();
        assert_eq!(disk.inventory().count() as u64, OBJECTS);
        println!(
            "  start, {}               {:8.2} s, inventory {:.2} s, memory {} bytes an object",
            if cold { "cold" } else { "warm" },
            took,
            listed.elapsed().as_secs_f64(),
            (memory().saturating_sub(before)) * 1024 / OBJECTS
        );
    }
}

fn compaction() {
    println!(
        "\ncompaction: bytes moved for each byte that was put, budget 1 GiB, objects of 1 MiB replaced in no order"
    );
    for percent_live in [50, 70, 85] {
        let folder = place();
        let options = Options {
            delay: Duration::ZERO,
            budget_bytes: 1 << 30,
            segment_bytes: 32 << 20,
            durability: Durability::Write,
            compact_bytes_per_second: u64::MAX / 4,
            ..Options::default()
        };
        let disk = Disk::open(folder.path(), options).expect("a disk");
        let payload = Bytes::from(payload(1 << 20));
        let keys = (1024 - 64) * percent_live / 100;
        let (mut dice, mut refused) = (7_u64, 0);
        let began = now();
        for step in 0..3 * 1024_u64 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = if step < keys { step } else { (dice >> 33) % keys };
            while disk.put("t", key.to_be_bytes().to_vec(), "", payload.clone()).wait().is_err() {
                refused += 1;
                disk.compact_now().expect("a compaction");
            }
        }
        let (moved, put) =
            (Counts::get(&disk.counts().moved_bytes), Counts::get(&disk.counts().written_bytes));
        println!(
            "  {percent_live} % of the budget live   {:.2} bytes written a byte put, {refused} puts had to wait, {:.0} MiB/s",
            1.0 + moved as f64 / put as f64,
            (put >> 20) as f64 / began.elapsed().as_secs_f64()
        );
    }
}

/// The engine that the house has already, with its values apart, for the decision page.
fn engine() {
    println!(
        "\nthe same with an LSM engine that keeps values apart (fjall 3), 1 MiB, a sync each; MiB/s, and bytes written a byte put"
    );
    let folder = place();
    let payload = Bytes::from(payload(1 << 20));
    let ours = {
        let options = Options { delay: Duration::ZERO, budget_bytes: 16 << 30, ..Options::default() };
        let disk = Disk::open(folder.path().join("disk"), options).expect("a disk");
        let before = written_bytes();
        let put = rate(512 << 20, || {
            for at in 0..512 {
                disk.put("t", format!("{at}"), "", payload.clone()).wait().expect("a put");
            }
        });
        disk.close().expect("closed");
        (put, (written_bytes() - before) / f64::from(512 << 20))
    };
    let theirs = {
        use fjall::{Database, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
        let before = written_bytes();
        let db = Database::builder(folder.path().join("engine")).open().expect("an engine");
        let apart =
            || KeyspaceCreateOptions::default().with_kv_separation(Some(KvSeparationOptions::default()));
        let objects = db.keyspace("objects", apart).expect("a table");
        let put = rate(512 << 20, || {
            for at in 0..512 {
                objects.insert(format!("{at}"), &payload[..]).expect("a put");
                db.persist(PersistMode::SyncData).expect("a sync");
            }
        });
        objects.rotate_memtable_and_wait().expect("a flush");
        drop((objects, db));
        (put, (written_bytes() - before) / f64::from(512 << 20))
    };
    for (name, (put, written)) in [("segments", ours), ("engine", theirs)] {
        println!("  {name:10} {put:8.0}   {written:.2}");
    }
}

// === Small words ===

/// On the disk of the build folder: the usual temporary one may be memory.
fn place() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// With room set aside, as our segments have it.
fn floor_file(path: &Path, len: usize) -> File {
    let file =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path).expect("a file");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len as u64).expect("room");
    file.sync_all().expect("a sync");
    file
}

/// Drops what the system has of all files below from its cache.
fn forget(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("a folder").map_while(Result::ok) {
        if entry.path().is_dir() {
            forget(&entry.path());
        } else if let Ok(file) = File::open(entry.path()) {
            file.sync_all().expect("a sync");
            fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
        }
    }
}

fn payload(len: usize) -> Vec<u8> {
    let mut dice = 1_u64;
    let mut next = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// MiB a second.
fn rate(bytes: usize, work: impl FnOnce()) -> f64 {
    let began = now();
    work();
    bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// KiB that this process has.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What this process made the kernel write to a disk.
fn written_bytes() -> f64 {
    let told = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = told.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("a count");
    line.parse().expect("a number")
}
