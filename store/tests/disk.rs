//! The disk with its threads, on the machine's file system: a process that is killed thirty times, and many who read, write
//! and compact at once.
//!
//! The process is `store-disk-drill`. `WARMLINE_CHAOS=50` asks for fifty times as many kills.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use store::arena::{Arena, Block};
use store::disk::{Counts, Disk, Done, Durability, Error, Options};
use tempfile::TempDir;

fn options() -> Options {
    let (budget_bytes, segment_bytes, delay) = (2 << 20, 128 << 10, Duration::ZERO);
    Options { budget_bytes, segment_bytes, delay, ..Options::default() }
}

fn block(arena: &Arena, bytes: &[u8]) -> Block {
    let mut filling = arena.alloc(bytes.len()).unwrap();
    filling.take_from(bytes);
    filling.freeze().unwrap()
}

async fn read(disk: &Disk, arena: &Arena, key: &str) -> Option<Result<Vec<u8>, Error>> {
    let found = disk.find(b"t", key.as_bytes())?;
    let to = arena.obtain(found.len()).await.unwrap();
    Some(disk.read(&found, to).await.map(|block| block.as_ref().to_vec()))
}

// === Many at once ===

#[tokio::test]
async fn blocks_go_to_disk_and_come_back_into_the_arena() {
    let folder = TempDir::new().unwrap();
    let arena = Arena::new(1 << 20).unwrap();
    let disk = Disk::open(folder.path(), options()).unwrap();
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    let ticket = disk.put("t", "key", "meta", block(&arena, &bytes));
    assert_eq!(ticket.await.unwrap(), Done::Stored);
    assert_eq!(arena.space().blocks, 0, "what was written is let go");
    assert_eq!(read(&disk, &arena, "key").await.unwrap().unwrap(), bytes);
    let found = disk.find(b"t", b"key").unwrap();
    let part = disk.read_part(&found, 70_000, arena.alloc(5).unwrap()).await.unwrap();
    assert_eq!(part.as_ref(), &bytes[70_000..70_005]);
    let wrong = disk.read_part(&found, 99_999, arena.alloc(5).unwrap()).await.unwrap_err();
    assert_eq!(wrong.to_string(), "a part of a value of 100004 bytes, 100000 are allowed");
    assert!(disk.read(&found, arena.alloc(5).unwrap()).await.is_err());
    let listed: Vec<_> = disk.inventory().collect();
    assert_eq!(
        (listed.len(), listed[0].len, &*listed[0].key, &*listed[0].meta),
        (1, 100_000, &b"key"[..], &b"meta"[..])
    );
    assert_eq!(disk.delete("t", "key").await.unwrap(), Done::Deleted);
    assert_eq!(disk.delete("t", "key").await.unwrap(), Done::Absent);
    assert!(disk.find(b"t", b"key").is_none() && disk.inventory().next().is_none());
    let late = disk.read(&found, arena.alloc(100_000).unwrap()).await.unwrap();
    assert_eq!(late.as_ref(), bytes, "who found it may read it");
    disk.close().unwrap();
}

#[tokio::test]
async fn what_is_too_long_or_too_much_is_refused_at_once() {
    let folder = TempDir::new().unwrap();
    let small = Options { max_value: 1000, queue_bytes: 3000, delay: Duration::from_secs(5), ..options() };
    let disk = Disk::open(folder.path(), small).unwrap();
    let refused = disk.put("t", "k", "", vec![0; 1001]).await.unwrap_err();
    assert_eq!(refused.to_string(), "a value of 1001 bytes, 1000 are allowed");
    assert!(matches!(disk.put("t", vec![0; 5000], "", "v").await, Err(Error::Length { what: "a key", .. })));
    assert!(matches!(disk.put("t", "k", vec![0; 5000], "v").await, Err(Error::Length { .. })));
    assert!(matches!(disk.put(vec![b't'; 256], "k", "", "v").await, Err(Error::Length { .. })));
    let waits: Vec<_> = (0..2).map(|i| disk.put("t", format!("{i}"), "", vec![1; 1000])).collect();
    let busy = disk.put("t", "k", "", vec![1; 1000]).await.unwrap_err();
    assert!(matches!(busy, Error::Busy { bound: 3000, .. }), "{busy}");
    // Closing writes what waits.
    disk.close().unwrap();
    for ticket in waits {
        assert_eq!(ticket.await.unwrap(), Done::Stored);
    }
    assert_eq!(Disk::open(folder.path(), small).unwrap().recovered().objects, 2);
}

#[tokio::test]
async fn a_part_of_a_batch_is_written_within_its_bound_and_a_whole_one_at_once() {
    let ever = Duration::from_secs(30);
    let bounded = |delay| Options { batch_bytes: 3_000, delay, ..options() };
    let folder = TempDir::new().unwrap();
    let disk = Disk::open(folder.path(), bounded(Duration::from_millis(20))).unwrap();
    let alone = tokio::time::timeout(ever, disk.put("t", "alone", "", vec![1; 10])).await;
    assert_eq!(alone.expect("nobody waits for a batch to fill").unwrap(), Done::Stored);
    disk.close().unwrap();
    let disk = Disk::open(folder.path(), bounded(Duration::from_hours(1))).unwrap();
    let mut first = std::pin::pin!(disk.put("t", "0", "", vec![1; 1_000]));
    let early = tokio::time::timeout(Duration::from_millis(50), first.as_mut()).await;
    assert!(early.is_err(), "others may come within the hour: {early:?}");
    let others: Vec<_> = (1..3).map(|i| disk.put("t", format!("{i}"), "", vec![1; 1_000])).collect();
    for ticket in others {
        assert_eq!(tokio::time::timeout(ever, ticket).await.expect("it is full").unwrap(), Done::Stored);
    }
    assert_eq!(first.await.unwrap(), Done::Stored);
    disk.close().unwrap();
}

#[test]
fn readers_writers_and_compaction_do_not_get_into_each_others_way() {
    let folder = TempDir::new().unwrap();
    let disk = Disk::open(folder.path(), Options { durability: Durability::Write, ..options() }).unwrap();
    let (over, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let value = |key: u64, round: u64| vec![(key * 16 + round % 16) as u8; 3000 + key as usize];
    std::thread::scope(|scope| {
        for reader in 0..3_u64 {
            let (disk, over, read) = (&disk, &over, &read);
            scope.spawn(move || {
                let mut at = reader;
                while !over.load(Ordering::Relaxed) {
                    at = (at * 5 + 1) % 16;
                    let Some(found) = disk.find(b"t", format!("key-{at}").as_bytes()) else { continue };
                    let round = u64::from(found.meta()[0]);
                    let mut bytes = vec![0; found.len()];
                    found.read_now(&mut bytes).unwrap();
                    assert_eq!(bytes, value(at, round), "the bytes belong to the metadata");
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..400_u64 {
            let key = round * 7 % 16;
            let ticket = disk.put("t", format!("key-{key}"), vec![round as u8], value(key, round % 256));
            match ticket.wait() {
                Ok(_) | Err(Error::Full { .. }) => {}
                Err(e) => panic!("{e}"),
            }
            if round % 40 == 0 {
                disk.compact_now().unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    disk.compact_now().unwrap();
    let space = disk.space();
    assert!(space.on_disk <= space.budget && Counts::get(&disk.counts().compactions) > 0, "{space:?}");
    assert!(read.load(Ordering::Relaxed) > 0);
}

// === A process is killed ===

/// What a key may be: the round of its value, or nothing.
type Ledger = BTreeMap<u64, Vec<Option<u64>>>;

fn value(key: u64, round: u64) -> Vec<u8> {
    let len = 500 + (key * 7919 + round * 104_729) % 24_000;
    (0..len).map(|at| ((key * 31 + round * 17 + at) % 255) as u8 + 1).collect()
}

fn hear(ledger: &mut Ledger, tried: &mut BTreeMap<(u64, u64), Vec<Option<u64>>>, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    match words[0] {
        "try" => {
            let what = (words[2] == "put").then(|| number(1));
            ledger.entry(number(3)).or_insert_with(|| vec![None]).push(what);
            tried.entry((number(1), number(3))).or_default().push(what);
        }
        "done" | "full" => {
            // The first that was tried in this round and not answered yet.
            let waiting = tried.get_mut(&(number(1), number(2))).unwrap();
            let what = waiting.remove(0);
            if words[0] == "done" {
                let known = ledger.get_mut(&number(2)).unwrap();
                // What was tried before it is over; what was tried after it may be there.
                let at = known.iter().rposition(|one| *one == what).unwrap().saturating_sub(waiting.len());
                known.drain(..at);
                known[0] = what;
            }
        }
        _ => {}
    }
}

/// Every key is one of what it may be, and from then on it is that.
fn agree(folder: &Path, ledger: &mut Ledger, told: &str) {
    let disk = Disk::open(folder, options()).unwrap();
    assert_eq!(disk.recovered().damage, [], "{told}");
    for (key, known) in ledger.iter_mut() {
        let there = disk.find(b"t", format!("key-{key}").as_bytes()).map(|found| {
            let mut bytes = vec![0; found.len()];
            found.read_now(&mut bytes).unwrap_or_else(|e| panic!("{told}: {e}"));
            let round = u64::from_be_bytes(found.meta().try_into().unwrap());
            assert_eq!(bytes, value(*key, round), "{told}: wrong bytes of {key}");
            round
        });
        assert!(known.contains(&there), "{told}: {key} is {there:?}, none of {known:?}");
        *known = vec![there];
    }
    let live = ledger.values().filter(|known| known[0].is_some()).count() as u64;
    assert_eq!(disk.count().0, live, "{told}");
}

fn killed(durability: &str) {
    #[expect(clippy::disallowed_methods, reason = "how long a test looks is for whoever starts it")]
    let times = std::env::var("WARMLINE_CHAOS").map_or(1, |times| times.parse().expect("a number"));
    let folder = TempDir::new().unwrap();
    let (mut ledger, mut dice, mut first, mut done) = (Ledger::new(), 7_u64, 0, 0);
    for kill in 0..30 * times {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = Command::new(env!("CARGO_BIN_EXE_store-disk-drill"))
            .args([folder.path().to_str().unwrap(), durability, &first.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let wanted = 1 + (dice >> 33) as usize % 700;
        let mut lines: Vec<String> = output.by_ref().take(wanted).collect();
        assert_eq!(lines.len(), wanted, "it ended by itself");
        child.kill().unwrap();
        lines.extend(output);
        child.wait().unwrap();
        let mut tried = BTreeMap::new();
        for line in &lines {
            hear(&mut ledger, &mut tried, line);
            done += u64::from(line.starts_with("done"));
            if let Some(round) = line.strip_prefix("try ").and_then(|rest| rest.split(' ').next()) {
                first = round.parse::<u64>().unwrap() + 1;
            }
        }
        agree(folder.path(), &mut ledger, &format!("{durability}, kill {kill}"));
    }
    assert!(done > 1000, "{done}: it did too little to show anything");
    let disk = Disk::open(folder.path(), options()).unwrap();
    assert!(disk.space().on_disk <= disk.space().budget);
}

#[test]
fn a_process_killed_thirty_times_loses_nothing_that_was_acknowledged() {
    killed("disk");
}

#[test]
fn a_killed_process_loses_nothing_even_without_syncs() {
    killed("write");
}
