//! What clients see of a node.

use std::time::Duration;

use store::master::Quota;
use store::master::name::Pin;
use store::master::options::Options;
use store::node::{self, Node};
use store::resp::contract::{Life, Part, Put, Sink, Store, Wanted, Written};
use store::resp::refusal::Code;

use crate::contract;
use crate::kit::{MIB, World, disk, key, options, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_the_contract_with_memory_and_disk_and_with_memory_alone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    contract::holds(&world.node).await;
    world.checked().await;
    let world = World::begin_on(64 * MIB, options(), None).await;
    contract::holds(&world.node).await;
    world.checked().await;
}

/// The contract again, with so little memory that whatever is not read at once is on disk only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_the_contract_when_memory_is_always_full() {
    let folder = tempfile::tempdir().unwrap();
    let little = Options { high: 100, low: 50, ..options() };
    let world = World::begin(folder.path(), MIB, little).await;
    contract::holds(&world.node).await;
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_all_sizes_come_back_as_they_were_from_memory_and_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 20 * MIB, options()).await;
    let sizes = [0, 1, 63, 64, 65, 4_095, 4_096, 100_000, 1 << 20, 5 << 20, 16 << 20];
    for (number, size) in sizes.iter().enumerate() {
        assert_eq!(world.put(&key(number), &value(number, *size)).await.unwrap(), Written::Stored);
    }
    for turn in 0..3 {
        for (number, size) in sizes.iter().enumerate() {
            let got = world.get(&key(number)).await.unwrap_or_else(|| panic!("{size} in turn {turn}"));
            assert!(got == value(number, *size), "{size} bytes in turn {turn}");
            let part =
                world.node.get(&world.tenant, &key(number), Part::Between(-5, -2)).wait().await.unwrap();
            let all = value(number, *size);
            assert_eq!(part.unwrap(), all[Part::Between(-5, -2).of(all.len())]);
        }
    }
    let counts = world.node.counts();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert!(read(&counts.read_disk) > 0 && read(&counts.read_memory) > 0, "both tiers were read");
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_waits_for_space_that_eviction_makes_and_readers_keep_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 8 * MIB, options()).await;
    world.put(b"held", &value(0, 1 << 20)).await.unwrap();
    let held = world.get(b"held").await.unwrap();
    for number in 1..100 {
        assert_eq!(
            world.put(&key(number), &value(number, 1 << 20)).await.unwrap(),
            Written::Stored,
            "{number}"
        );
    }
    assert!(held == value(0, 1 << 20), "memory is never used again under a reader");
    for number in 1..100 {
        assert!(world.get(&key(number)).await.unwrap() == value(number, 1 << 20), "{number}");
    }
    drop(held);
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_without_a_disk_says_so_in_its_time_and_goes_on() {
    let full = Options { high: 1_000, low: 1_000, wait_patience: 50, ..options() };
    let world = World::begin_on(4 * MIB, full, None).await;
    let mut held = Vec::new();
    for number in 0..4 {
        world.put(&key(number), &value(number, 1 << 20)).await.unwrap();
        held.push(world.get(&key(number)).await.unwrap());
    }
    // Readers hold everything: evicting makes no room.
    let refused = world.put(b"more", &value(9, 1 << 20)).await.unwrap_err();
    assert_eq!(refused.code, Code::Full, "{refused}");
    let too_large = world.put(b"large", &value(9, 5 << 20)).await.unwrap_err();
    assert_eq!(too_large.code, Code::TooLarge, "{too_large}");
    held.clear();
    assert_eq!(world.put(b"more", &value(9, 1 << 20)).await.unwrap(), Written::Stored);
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_has_the_word_that_says_what_to_do() {
    let hasty = Options { wait_patience: 50, slots: 1, ..options() };
    let world = World::begin_on(8 * MIB, hasty, None).await;
    let master = world.desk.master().clone();
    let tenant = master.tenant(world.tenant.name()).unwrap();
    let put = async |key: &[u8], len: usize| world.put(key, &value(1, len)).await.map_err(|no| no.code);
    // As many values arrive as may: there is space, so it is not full.
    let arriving = world.node.reserve(&world.tenant, b"arrives", 10).wait().await.unwrap();
    assert_eq!(put(b"k", 10).await, Err(Code::Busy));
    drop(arriving);
    assert_eq!(put(b"k", 10).await, Ok(Written::Stored));
    // The tenant has what it may, and none of it can leave.
    master.set_quota(tenant, Quota { memory: Some(MIB), ..Quota::default() });
    assert_eq!(put(b"own", MIB as usize - 10).await, Ok(Written::Stored));
    for key in [&b"own"[..], b"k"] {
        master.pin(tenant, key, Pin::Hard).unwrap();
    }
    assert_eq!(put(b"more", 10).await, Err(Code::Quota));
    assert_eq!(put(b"large", MIB as usize + 1).await, Err(Code::TooLarge));
    master.set_quota(tenant, Quota::default());
    // There is space, but for others than those who keep all of it.
    assert_eq!(put(b"rest", 7 * MIB as usize).await, Ok(Written::Stored));
    master.pin(tenant, b"rest", Pin::Hard).unwrap();
    assert_eq!(put(b"more", 10).await, Err(Code::Full));
    // It is not known yet whether it is there: neither a miss nor an error of a disk.
    master.doubt();
    let get =
        async |key: &[u8]| world.node.get(&world.tenant, key, Part::Whole).wait().await.map_err(|no| no.code);
    assert_eq!(get(b"none").await, Err(Code::Loading));
    let looked = Store::look(&world.node, &world.tenant, b"none").wait().await.map_err(|no| no.code);
    assert_eq!(looked, Err(Code::Loading));
    master.trust();
    assert_eq!(get(b"none").await, Ok(None));
    // Nobody takes puts, and what is there is still read.
    master.drain(master.node_list()[0].node, true).unwrap();
    assert_eq!(put(b"more", 10).await, Err(Code::Unavailable));
    assert_eq!(get(b"k").await.unwrap().as_deref(), Some(&value(1, 10)[..]));
    // Another node does, and this one cannot reach it.
    let desk = std::sync::Arc::new(world.desk.clone());
    let other = Node::begin(node::Options::new("two", 8 * MIB), desk, None, 1, None).await.unwrap();
    assert_eq!(put(b"more", 10).await, Err(Code::WrongNode));
    other.end(Duration::from_secs(20)).await;
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_the_middle_of_a_put_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let patience = Options { put_patience: 30, ..options() };
    let world = World::begin(folder.path(), 8 * MIB, patience).await;
    drop(world.node.reserve(&world.tenant, b"gone", 1 << 20).wait().await.unwrap());
    assert_eq!(world.get(b"gone").await, None);
    // One that takes too long is displaced, and hears so; its bytes are free only when it lets go of them.
    let mut slow = world.node.reserve(&world.tenant, b"slow", 1 << 20).wait().await.unwrap();
    let displaced = || world.desk.master().counters().moves.displaced == 1;
    while !displaced() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    slow.space().fill(1);
    assert_eq!(world.desk.master().node_list()[0].memory.leaving, MIB);
    let refused = slow.commit(Put::default()).wait().await.unwrap_err();
    assert_eq!(refused.code, Code::Busy, "{refused}");
    assert_eq!(world.get(b"slow").await, None);
    // And one that is dropped after it was displaced.
    let late = world.node.reserve(&world.tenant, b"late", 1 << 20).wait().await.unwrap();
    while world.desk.master().counters().moves.displaced < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(late);
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_ends_by_itself_and_outlasts_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 8 * MIB, options()).await;
    let life = |life| Put { life: Life::For(life), ..Put::default() };
    world.put_as(b"short", b"1", life(Duration::from_millis(5))).await.unwrap();
    world.put_as(b"long", b"2", life(Duration::from_secs(1_000))).await.unwrap();
    world.put_as(b"long", b"3", Put { life: Life::Kept, ..Put::default() }).await.unwrap();
    while world.desk.master().counters().moves.ended == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.get(b"short").await, None);
    world.checked().await;
    world.end().await;
    let world = World::begin(folder.path(), 8 * MIB, options()).await;
    let look = world.node.look_many(&world.tenant, &[b"long", b"short"]).wait().await.unwrap();
    let long = look[0].clone().unwrap().unwrap().life.unwrap();
    assert!(long > Duration::from_mins(15) && long <= Duration::from_secs(1_000), "{long:?}");
    assert_eq!(
        (world.get(b"long").await.as_deref(), look[1].clone().unwrap()),
        (Some(b"3".as_slice()), None)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_soon_comes_to_memory_without_a_read_and_not_when_it_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    world.put(b"a", &value(1, 1 << 20)).await.unwrap();
    world.settle().await;
    world.end().await;
    let world = World::begin(folder.path(), 64 * MIB, options()).await;
    let wanted: [&[u8]; 2] = [b"a", b"missing"];
    let warming =
        world.node.warm(&world.tenant, Wanted::Keys(&wanted), Duration::from_mins(1)).wait().await.unwrap();
    assert_eq!((warming.known, warming.pending), (1, 1));
    while world.desk.master().counters().promotions.completed == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(warming);
    assert!(world.get(b"a").await.unwrap() == value(1, 1 << 20));
    let warmed = world.desk.master().counters().warmed;
    assert_eq!((warmed.asked, warmed.in_time, warmed.gone), (2, 1, 1));
    assert_eq!(world.node.counts().read_disk.load(std::sync::atomic::Ordering::Relaxed), 0);
    world.checked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_at_once_never_see_a_wrong_byte_and_leak_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = store::disk::Disk::open(folder.path(), disk(256 * MIB)).unwrap();
    let world = std::sync::Arc::new(World::begin_on(6 * MIB, options(), Some(disk)).await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8_usize {
        let world = world.clone();
        clients.spawn(async move {
            let mut dice = client as u64 * 977 + 13;
            for _ in 0..400 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let number = (dice >> 33) as usize % 40;
                let size = 1_000 + number * 10_000;
                match (dice >> 20) % 8 {
                    0..=2 => {
                        world.put(&key(number), &value(number, size)).await.unwrap();
                    }
                    3 => {
                        let _ = world.node.remove(&world.tenant, &key(number)).wait().await.unwrap();
                    }
                    4 => drop(world.node.reserve(&world.tenant, &key(number), size).wait().await.unwrap()),
                    _ => {
                        if let Some(got) = world.get(&key(number)).await {
                            assert!(got == value(number, size), "{number}");
                        }
                    }
                }
            }
        });
    }
    clients.join_all().await;
    world.checked().await;
}
