//! Nodes die under load: whoever asks others gets right bytes, a miss, or a refusal with a code word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store::link::Settings;
use store::master::Standing;
use store::master::options::Options;
use store::resp::refusal::Code;

use crate::chance::Chance;
use crate::kit::{Chief, Home, MIB, Plan, checked, key, options, settings, settle, until, value};

const KEYS: usize = 40;

fn size(number: usize) -> usize {
    [10, 5_000, 100_000, 700_000][number % 4]
}

/// Whether these are bytes that somebody put under this key.
fn is_right(number: usize, got: &[u8]) -> bool {
    (0..4).any(|turn| got == value(number, turn, size(number)))
}

/// Puts and reads at random until it is told to stop.
async fn load(home: Arc<Home>, seed: u64, stop: Arc<AtomicBool>) -> usize {
    let mut chance = Chance(seed);
    let mut served = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = chance.below(KEYS);
        let done = if chance.below(3) == 0 {
            home.put(&key(number), &value(number, chance.below(4), size(number))).await.map(|_| None)
        } else {
            home.get(&key(number)).await
        };
        match done {
            Ok(Some(got)) => assert!(is_right(number, &got), "wrong bytes of {number}"),
            Ok(None) => {}
            Err(refused) => {
                let known =
                    matches!(refused.code, Code::Unavailable | Code::Loading | Code::Busy | Code::Full);
                assert!(known, "{refused}");
                tokio::task::yield_now().await;
            }
        }
        served += 1;
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_under_load_costs_what_it_alone_had_in_memory_and_comes_back_with_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    // What a dead node had asked for is given up by that.
    let chief = Chief::begin(1, Options { put_patience: 1_000, ..options() }).await;
    let plan = Plan::new("mortal", 16 * MIB, &[&chief]).on(folder.path());
    let other = Arc::new(Plan::new("other", 4 * MIB, &[&chief]).on(folder.path()).begin().await);
    let small = Arc::new(Plan::new("small", 0, &[&chief]).begin().await);
    for turn in 0..3_u64 {
        let mortal = plan.begin().await;
        // What is acknowledged and on its disk survives it.
        let durable: Vec<usize> = (1_000..1_010).collect();
        for number in &durable {
            mortal.put(&key(*number), &value(*number, 0, 50_000)).await.unwrap();
        }
        settle(&chief, &[&mortal, &other, &small]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let loads = [&other, &small].map(|home| tokio::spawn(load(home.clone(), turn * 7, stop.clone())));
        for number in 0..KEYS {
            let _ = mortal.put(&key(number), &value(number, 1, size(number))).await;
        }
        mortal.kill();
        let away = || {
            let nodes = chief.desk().master().node_list();
            nodes.iter().any(|node| &*node.id == "mortal" && node.standing == Standing::Away)
        };
        until(away).await;
        for number in &durable {
            let refused = other.get(&key(*number)).await.unwrap_err();
            assert!(matches!(refused.code, Code::Loading | Code::Unavailable), "{refused}");
        }
        let mortal = plan.begin().await;
        for number in &durable {
            let found = other.find(&key(*number)).await;
            assert!(found.as_deref() == Some(&value(*number, 0, 50_000)[..]), "{number}");
        }
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            assert!(load.await.unwrap() > 0);
        }
        checked(&chief, &[&mortal, &other, &small]).await;
        mortal.kill();
        until(away).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_come_back_is_lost_and_what_it_had_is_absent_then() {
    let short = Settings { lost: Duration::from_millis(300), ..settings() };
    let lead = Arc::new(store::link::Alone::new(1));
    let chief = Chief::lead(lead, options(), short, None).await;
    let mortal = Plan::new("mortal", 8 * MIB, &[&chief]).begin().await;
    let other = Plan::new("other", 8 * MIB, &[&chief]).begin().await;
    mortal.put(b"k", b"v").await.unwrap();
    assert_eq!(other.find(b"k").await.as_deref(), Some(b"v".as_slice()));
    mortal.kill();
    assert_eq!(other.find(b"k").await, None);
    assert_eq!(other.put(b"k", b"w").await.unwrap(), store::resp::contract::Written::Stored);
    let again = Plan::new("mortal", 8 * MIB, &[&chief]).begin().await;
    assert_eq!(again.find(b"k").await.as_deref(), Some(b"w".as_slice()));
    checked(&chief, &[&other, &again]).await;
}

/// A data folder was copied with its id: each of the two took the other's place, dozens of times a second, and the master forgot
/// each time what the other one had told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_with_one_id_the_first_is_served_and_the_second_waits_until_it_is_gone() {
    let chief = Chief::begin(1, options()).await;
    let plan = Plan::new("one", 8 * MIB, &[&chief]);
    let first = plan.begin().await;
    first.put(b"k", b"v").await.unwrap();
    let waits = tokio::spawn({
        let plan = plan.clone();
        async move { plan.begin().await }
    });
    // Ten times as long as it took to be displaced.
    for _ in 0..100 {
        assert_eq!(first.get(b"k").await.unwrap().as_deref(), Some(b"v".as_slice()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!waits.is_finished());
    first.kill();
    let second = waits.await.unwrap();
    assert_eq!(second.find(b"k").await, None);
    second.put(b"k", b"w").await.unwrap();
    checked(&chief, &[&second]).await;
}

/// A put goes to another node, and the one that carries it dies before it is told what became of it: nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_left_in_another_ones_memory_is_found_out() {
    use store::master::name::{Group, Pin, Version};
    use store::node::meta::Meta;
    use store::node::peers::Which;
    let chief = Chief::begin(1, options()).await;
    let home = Plan::new("one", 8 * MIB, &[&chief]).begin().await;
    let version = Version(1 << 40 | 1 << 39);
    let which = Which { tenant: "default".to_owned(), key: b"k"[..].into(), version };
    let meta = Meta { version, pin: Pin::None, group: Group::NONE, ends: None, block: None };
    let mut arriving = home.node.take_in(&which, meta, false, 5).await.unwrap();
    arriving.space().copy_from_slice(b"bytes");
    arriving.advance(5);
    let arrived = arriving.whole().unwrap();
    assert_eq!(home.node.look().copies, 1);
    let (tells, told) = std::sync::mpsc::channel();
    let hands = tokio::runtime::Handle::current();
    hands.spawn(async move {
        drop(arrived);
        tells.send(()).unwrap();
    });
    tokio::task::spawn_blocking(move || told.recv().unwrap()).await.unwrap();
    until(|| home.node.look().copies == 0).await;
    assert_eq!(home.node.counts().orphans.load(Ordering::Relaxed), 1);
    checked(&chief, &[&home]).await;
}
