//! Promotion, restart, damage and full disks, on the real disk of a node.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use store::disk::Disk;
use store::master::options::{Offload, Options};
use store::resp::contract::{Store, Written};

use crate::kit::{MIB, World, disk, key, options, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_and_is_on_disk_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 8 * MIB, options()).await;
    for number in 0..200 {
        world.put(&key(number), &value(number, 100_000)).await.unwrap();
    }
    for number in 0..50 {
        assert!(world.node.remove(&world.tenant, &key(number)).wait().await.unwrap());
    }
    for number in 100..120 {
        world.put(&key(number), &value(number + 1, 50_000)).await.unwrap();
    }
    world.end().await;
    let world = World::begin(folder.path(), 8 * MIB, options()).await;
    for number in 0..200 {
        let wanted = match number {
            0..50 => None,
            100..120 => Some(value(number + 1, 50_000)),
            _ => Some(value(number, 100_000)),
        };
        assert!(world.get(&key(number)).await.as_deref() == wanted.as_deref(), "{number}");
    }
    assert_eq!(world.node.count(&world.tenant).wait().await.unwrap(), 150);
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_touch_brings_it_to_memory_and_a_get_never_waits_for_that() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    for number in 0..30 {
        world.put(&key(number), &value(number, 1 << 20)).await.unwrap();
    }
    world.end().await;
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    for _ in 0..2 {
        for number in 0..30 {
            assert!(world.get(&key(number)).await.unwrap() == value(number, 1 << 20));
        }
    }
    while world.desk.master().counters().promotions.completed < 30 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let from_disk = world.node.counts().read_disk.load(Ordering::Relaxed);
    for number in 0..30 {
        assert!(world.get(&key(number)).await.unwrap() == value(number, 1 << 20));
    }
    assert_eq!(world.node.counts().read_disk.load(Ordering::Relaxed), from_disk, "all of it is in memory");
    world.checked().await;
}

fn segments(folder: &std::path::Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "segment")).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_is_never_returned_and_the_object_is_gone_and_can_be_put_again() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    for number in 0..40 {
        world.put(&key(number), &value(number, 50_000)).await.unwrap();
    }
    world.end().await;
    for path in segments(folder.path()) {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        for at in [10_000, middle] {
            bytes[at] ^= 0x40;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    let mut gone = Vec::new();
    for number in 0..40 {
        match world.get(&key(number)).await {
            Some(got) => assert!(got == value(number, 50_000), "{number}"),
            None => gone.push(number),
        }
    }
    assert!(!gone.is_empty() && gone.len() <= 2 * segments(folder.path()).len(), "{gone:?}");
    assert_eq!(world.node.counts().damaged.load(Ordering::Relaxed), gone.len() as u64);
    assert_eq!(world.desk.master().counters().moves.lost, gone.len() as u64);
    for number in gone {
        assert_eq!(world.put(&key(number), &value(number, 50_000)).await.unwrap(), Written::Stored);
        assert!(world.get(&key(number)).await.unwrap() == value(number, 50_000));
    }
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promotion_of_what_is_damaged_fails_and_leaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    world.put(b"a", &value(1, 50_000)).await.unwrap();
    world.end().await;
    let path = &segments(folder.path())[0];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    let warming =
        world.node.warm(&world.tenant, store::resp::contract::Wanted::Keys(&[b"a"]), Duration::from_mins(1));
    let warming = warming.wait().await.unwrap();
    while world.desk.master().gauges().objects > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.get(b"a").await, None);
    drop(warming);
    let promotions = world.desk.master().counters().promotions;
    assert_eq!((promotions.admitted, promotions.completed), (1, 0));
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_costs_what_is_oldest_there_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Disk::open(folder.path(), disk(16 * MIB)).unwrap();
    let world = World::begin_on(4 * MIB, options(), Some(opened)).await;
    for number in 0..200 {
        assert_eq!(world.put(&key(number), &value(number, 250_000)).await.unwrap(), Written::Stored);
    }
    world.checked().await;
    let (mut found, mut newest) = (0, 0);
    for number in 0..200 {
        if let Some(got) = world.get(&key(number)).await {
            assert!(got == value(number, 250_000), "{number}");
            (found, newest) = (found + 1, number);
        }
    }
    assert!(found >= 30 && newest == 199, "{found} are there, up to {newest}");
    assert!(world.node.disk().unwrap().space().on_disk <= 16 * MIB);
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_offloading_what_leaves_memory_is_gone_and_a_restart_begins_empty() {
    let folder = tempfile::tempdir().unwrap();
    let off = Options { offload: Offload::Off, ..options() };
    let world = World::begin(folder.path(), 4 * MIB, off.clone()).await;
    for number in 0..40 {
        world.put(&key(number), &value(number, 250_000)).await.unwrap();
    }
    let there = world.node.count(&world.tenant).wait().await.unwrap();
    assert!((10..=16).contains(&there), "{there}");
    world.end().await;
    let world = World::begin(folder.path(), 4 * MIB, off).await;
    assert_eq!(world.node.count(&world.tenant).wait().await.unwrap(), 0);
}

/// Empty values fit anywhere; but a node without a disk is not told to write them, nor does it leave an order unanswered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_where_there_is_no_disk_not_even_what_is_empty() {
    let world = World::begin_on(4 * MIB, options(), None).await;
    for number in 0..20 {
        world.put(&key(number), b"").await.unwrap();
        assert!(world.node.remove(&world.tenant, &key(number)).wait().await.unwrap());
    }
    assert_eq!(world.desk.master().counters().moves.offloads, 0);
    world.checked().await;
    assert_eq!(world.desk.master().node_list()[0].leaving, 0);
}
