//! Any node answers for any key, wherever it lies.

use std::sync::atomic::Ordering;
use std::time::Duration;

use store::link::{Secret, Settings};
use store::master::options::Options;
use store::resp::contract::{Only, Part, Put, Sink, Store, Wanted, Written};

use crate::contract;
use crate::kit::{Chief, MIB, Plan, checked, key, options, settings, settle, until, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_master_is_elsewhere_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let chief = Chief::begin(1, options()).await;
    let home = Plan::new("one", 64 * MIB, &[&chief]).on(folder.path()).begin().await;
    contract::holds(&home.node).await;
    checked(&chief, &[&home]).await;
}

/// Node `small` has no memory: whatever is put there lies on the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_objects_all_lie_on_another_one_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let chief = Chief::begin(1, options()).await;
    let large = Plan::new("large", 64 * MIB, &[&chief]).on(folder.path()).begin().await;
    let small = Plan::new("small", 0, &[&chief]).begin().await;
    contract::holds(&small.node).await;
    let counts = small.node.counts();
    assert!(counts.sent.load(Ordering::Relaxed) > 0 && counts.fetched.load(Ordering::Relaxed) > 0);
    assert_eq!(small.node.look().memory.asked, 0, "but for empty ones");
    checked(&chief, &[&large, &small]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_all_sizes_and_their_parts_come_from_memory_and_disk_of_other_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let chief = Chief::begin(1, Options { high: 1_000, low: 1_000, ..options() }).await;
    let holder = Plan::new("holder", 20 * MIB, &[&chief]).on(folder.path()).begin().await;
    let other = Plan::new("other", 0, &[&chief]).begin().await;
    let sizes = [0, 1, 64, 4_095, 16_384, 16_385, 300_000, 1 << 20, 5 << 20, 16 << 20];
    for (number, size) in sizes.iter().enumerate() {
        assert_eq!(holder.put(&key(number), &value(number, 0, *size)).await.unwrap(), Written::Stored);
    }
    settle(&chief, &[&holder, &other]).await;
    for (number, size) in sizes.iter().enumerate() {
        let all = value(number, 0, *size);
        let got = other.get(&key(number)).await.unwrap().unwrap_or_else(|| panic!("{size}"));
        assert!(got == all, "{size}");
        for part in [Part::Between(0, 0), Part::Between(-5, -2), Part::Between(1, 70_000)] {
            let got = other.node.get(&other.tenant, &key(number), part).wait().await.unwrap().unwrap();
            assert!(got == all[part.of(all.len())], "{part:?} of {size}");
        }
    }
    let keys: Vec<Vec<u8>> = (0..sizes.len()).map(key).collect();
    let asked: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let all = other.node.get_many(&other.tenant, &asked).wait().await.unwrap();
    for (number, got) in all.into_iter().enumerate() {
        assert!(got.unwrap().unwrap() == value(number, 0, sizes[number]));
    }
    let counts = holder.node.counts();
    assert!(counts.lent.load(Ordering::Relaxed) > 0);
    // Not all of it fits into its memory.
    assert!(holder.node.look().copies < sizes.len());
    checked(&chief, &[&holder, &other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_reads_stays_what_it_was_while_it_is_replaced() {
    let chief = Chief::begin(1, options()).await;
    let holder = Plan::new("holder", 16 * MIB, &[&chief]).begin().await;
    let other = Plan::new("other", 16 * MIB, &[&chief]).begin().await;
    holder.put(b"k", &value(0, 0, 3 << 20)).await.unwrap();
    let mut held = Vec::new();
    for turn in 0..6 {
        held.push((turn, other.find(b"k").await.unwrap()));
        let puts = if turn % 2 == 0 { &other } else { &holder };
        puts.put(b"k", &value(0, turn + 1, 3 << 20)).await.unwrap();
    }
    for (turn, bytes) in &held {
        assert!(*bytes == value(0, *turn, 3 << 20), "{turn}");
    }
    drop(held);
    checked(&chief, &[&holder, &other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_hold_for_values_that_are_passed_on_and_who_leaves_leaves_nothing_behind() {
    let chief = Chief::begin(1, options()).await;
    let large = Plan::new("large", 16 * MIB, &[&chief]).begin().await;
    let small = Plan::new("small", 0, &[&chief]).begin().await;
    let absent = Put { only: Only::Absent, ..Put::default() };
    let present = Put { only: Only::Present, ..Put::default() };
    assert_eq!(small.put_as(b"k", b"1", present).await.unwrap(), Written::Unchanged);
    assert_eq!(small.put_as(b"k", b"2", absent).await.unwrap(), Written::Stored);
    assert_eq!(small.put_as(b"k", b"3", absent).await.unwrap(), Written::Unchanged);
    assert_eq!(large.find(b"k").await.as_deref(), Some(b"2".as_slice()));
    // Overtaken by one that began later.
    let mut early = small.node.reserve(&small.tenant, b"k", 1).wait().await.unwrap();
    small.put(b"k", b"5").await.unwrap();
    early.space().copy_from_slice(b"4");
    assert_eq!(early.commit(Put::default()).wait().await.unwrap(), Written::Stored);
    assert_eq!(large.find(b"k").await.as_deref(), Some(b"5".as_slice()));
    drop(small.node.reserve(&small.tenant, b"gone", 1 << 20).wait().await.unwrap());
    assert_eq!(large.find(b"gone").await, None);
    until(|| large.node.look().copies == 1).await;
    checked(&chief, &[&large, &small]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hot_on_one_nodes_disk_is_promoted_into_another_nodes_memory() {
    let folder = tempfile::tempdir().unwrap();
    let chief = Chief::begin(1, Options { high: 1_000, low: 900, ..options() }).await;
    let disk = Plan::new("disk", 4 * MIB, &[&chief]).on(folder.path()).begin().await;
    for number in 0..16 {
        disk.put(&key(number), &value(number, 0, 1 << 20)).await.unwrap();
    }
    let roomy = Plan::new("roomy", 64 * MIB, &[&chief]).begin().await;
    let keys: Vec<Vec<u8>> = (0..16).map(key).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let wanted = Wanted::Keys(&keys);
    let warming = roomy.node.warm(&roomy.tenant, wanted, Duration::from_mins(1)).wait().await.unwrap();
    assert_eq!(warming.known, 16);
    let pending = warming.pending as u64;
    assert!(pending > 0);
    until(|| chief.desk().master().counters().promotions.completed == pending).await;
    assert!(roomy.node.look().copies > 0, "some of it is in the other node's memory");
    drop(warming);
    for number in 0..16 {
        assert!(disk.find(&key(number)).await.unwrap() == value(number, 0, 1 << 20));
        assert!(roomy.find(&key(number)).await.unwrap() == value(number, 0, 1 << 20));
    }
    checked(&chief, &[&disk, &roomy]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_waits_for_space_is_woken_by_a_master_elsewhere() {
    let full = Options { high: 1_000, low: 1_000, wait_patience: 20_000, ..options() };
    let chief = Chief::begin(1, full).await;
    let home = Plan::new("one", 4 * MIB, &[&chief]).begin().await;
    let mut held = Vec::new();
    for number in 0..4 {
        home.put(&key(number), &value(number, 0, 1 << 20)).await.unwrap();
        held.push(home.find(&key(number)).await.unwrap());
    }
    let put = async { home.put(b"more", &value(9, 0, 1 << 20)).await };
    let lets_go = async {
        until(|| chief.desk().master().node_list()[0].waits == 1).await;
        // It asks once more before it waits; what is freed before that needs nobody to wake it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        held.clear();
    };
    let (put, ()) = tokio::join!(put, lets_go);
    assert_eq!(put.unwrap(), Written::Stored);
    checked(&chief, &[&home]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_is_taken_back_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let off = Options {
        promotion: store::master::options::Promotion { at_a_time: 0, on: true, ..Default::default() },
        ..options()
    };
    let chief = Chief::begin(1, Options { high: 1_000, ..off }).await;
    let home = Plan::new("one", MIB, &[&chief]).on(folder.path()).begin().await;
    for number in 0..4 {
        home.put(&key(number), &value(number, 0, 500_000)).await.unwrap();
    }
    settle(&chief, &[&home]).await;
    let keys = [key(0)];
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let warming =
        home.node.warm(&home.tenant, Wanted::Keys(&keys), Duration::from_mins(1)).wait().await.unwrap();
    assert_eq!((warming.known, warming.pending, chief.desk().master().gauges().awaited), (1, 1, 1));
    drop(warming);
    until(|| chief.desk().master().gauges().awaited == 0).await;
    assert_eq!(chief.desk().master().counters().warmed.cancelled, 1);
    checked(&chief, &[&home]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_the_secret_is_let_in_by_nobody() {
    let chief = Chief::begin(1, options()).await;
    let wrong = Settings { secret: Secret::new(b"another secret"), ..settings() };
    let stranger = store::link::Remote::start(wrong, vec![chief.address.to_string()], String::new());
    let home = Plan::new("one", MIB, &[&chief]).begin().await;
    home.put(b"k", b"v").await.unwrap();
    assert!(!stranger.is_up());
    assert_eq!(chief.desk().master().node_list().len(), 1);
}
