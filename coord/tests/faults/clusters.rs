//! A cluster whose slots move and whose masters die.

use std::time::Duration;

use bytes::Bytes;
use coord::backend::Config;
use coord::backend::redis::Redis;
use coord::kit::servers::Cluster;
use coord::op::{Op, Reply};
use coord::{Coord, Error, Key, Shard};
use tokio::time::{Instant, sleep};

use crate::ground::{Load, heard, instance, key_in, name_in, until, wakes};

/// The slot of a shard.
fn slot(cluster: &Cluster, shard: Shard) -> u16 {
    let config = Config { backend: "redis".to_owned(), dsn: cluster.dsn(), ..Config::default() };
    Redis::connect(&config).unwrap().place(shard).1
}

/// The shards that a master has.
async fn shards_of(cluster: &Cluster, master: usize) -> Vec<Shard> {
    let mut shards = Vec::new();
    for shard in Shard::all() {
        if cluster.master_of(slot(cluster, shard)).await.unwrap() == master {
            shards.push(shard);
        }
    }
    shards
}

/// How many commands were answered with the address of another node.
async fn sent_on(cluster: &Cluster) -> u64 {
    let mut all = 0;
    for node in cluster.nodes() {
        let told = node.send(&["INFO", "errorstats"]).await.unwrap();
        let told: String = redis::from_redis_value(told).unwrap();
        let count = told.lines().find_map(|line| line.strip_prefix("errorstat_MOVED:count="));
        all += count.map_or(0, |count| count.trim().parse::<u64>().unwrap());
    }
    all
}

fn repeated(coord: &Coord) -> u64 {
    coord.counters().repeated.load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_under_use_loses_nothing_and_doubles_nothing() {
    let cluster = Cluster::start().await.unwrap();
    let (a, b) = (instance(cluster.dsn(), "a").await, instance(cluster.dsn(), "b").await);
    let shard = shards_of(&cluster, 0).await[0];
    let slot = slot(&cluster, shard);
    let load = Load::begin(&[a.clone(), b.clone(), a.clone(), b.clone()], &key_in(shard, "counter"));
    load.more(50).await;
    for to in [1, 2, 0] {
        cluster.migrate(slot, to).await.unwrap();
        assert_eq!(cluster.master_of(slot).await.unwrap(), to);
        load.more(50).await;
        // Whoever was sent on knows the way from then on; a few are those who listen.
        let before = sent_on(&cluster).await;
        load.more(100).await;
        let after = sent_on(&cluster).await;
        assert!(after < before + 50, "{before} and then {after} were sent on");
    }
    let told = load.ends(&a).await;
    assert_eq!((told.unknown, told.unavailable), (0, 0), "everything was done: {told:?}");
    assert_eq!((repeated(&a), repeated(&b)), (0, 0), "and nothing was asked twice");
    // Those who listen have moved along, also if they ask for nothing.
    cluster.migrate(slot, 1).await.unwrap();
    heard(&a, &b, shard).await;
    wakes(&b, &a, shard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_half_way_is_asked_on_both_sides_and_what_is_apart_waits() {
    let cluster = Cluster::start().await.unwrap();
    let a = instance(cluster.dsn(), "a").await;
    let shards = shards_of(&cluster, 0).await;
    // Nothing is there yet: whoever has the slot sends us on, for this once.
    let (empty, used) = (shards[0], shards[1]);
    let empty_slot = slot(&cluster, empty);
    cluster.begin_migration(empty_slot, 1).await.unwrap();
    assert_eq!(a.ask(&Op::Probe { shard: empty }).await, Ok(Reply::Found(true)));
    assert_eq!(a.ask(&Op::Probe { shard: empty }).await, Ok(Reply::Found(true)));
    let there =
        cluster.nodes()[1].send(&["CLUSTER", "COUNTKEYSINSLOT", &empty_slot.to_string()]).await.unwrap();
    assert_eq!(there, redis::Value::Int(1), "it was asked on the other side");
    // Some keys are there: they are served; one that is not is on neither side with the others, until all are together.
    let (known, fresh) = (key_in(used, "known"), Key::beside(&name_in(used, "known"), "fresh").unwrap());
    a.add(&known, 1).await.unwrap();
    let used_slot = slot(&cluster, used);
    cluster.begin_migration(used_slot, 2).await.unwrap();
    assert_eq!(a.add(&known, 1).await, Ok(2));
    let waiting = tokio::spawn({
        let (a, fresh) = (a.clone(), fresh.clone());
        async move { a.join(&fresh, vec![Bytes::from_static(b"1")]).await }
    });
    // An addition waits as well: that its keys are apart is said before anything is done, so it may be asked again.
    let added = Key::beside(&name_in(used, "known"), "added").unwrap();
    let began = Instant::now();
    let adding = tokio::spawn({
        let (a, added) = (a.clone(), added.clone());
        async move { a.add(&added, 1).await }
    });
    sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "it cannot have been done");
    assert!(!adding.is_finished() || began.elapsed() > Duration::from_secs(1), "it gave up at once");
    for (slot, to) in [(used_slot, 2), (empty_slot, 1)] {
        cluster.finish_migration(slot, to).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap(), Ok(1));
    let told = adding.await.unwrap();
    assert!(matches!(told, Ok(1) | Err(Error::Unavailable(_))), "{told:?}");
    assert_eq!(a.count(&added).await, Ok(i64::from(told.is_ok())));
    assert_eq!(a.add(&known, 1).await, Ok(3));
    assert_eq!(a.ask(&Op::Probe { shard: empty }).await, Ok(Reply::Found(true)));
    assert_eq!(a.counters().losses.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_disturbs_nobody_elses_shards_and_its_own_come_back() {
    let mut cluster = Cluster::start().await.unwrap();
    let (a, b) = (instance(cluster.dsn(), "a").await, instance(cluster.dsn(), "b").await);
    let (dying, staying) = (shards_of(&cluster, 0).await[0], shards_of(&cluster, 1).await[0]);
    heard(&a, &b, dying).await;
    let coords = [a.clone(), b.clone()];
    let (own, others) =
        (Load::begin(&coords, &key_in(dying, "counter")), Load::begin(&coords, &key_in(staying, "counter")));
    own.more(20).await;
    others.more(20).await;
    cluster.kill(0);
    own.fails(4).await;
    others.more(50).await;
    own.more(20).await;
    heard(&a, &b, dying).await;
    wakes(&a, &b, dying).await;
    own.ends_after_a_takeover(&a).await;
    let told = others.ends(&a).await;
    assert_eq!((told.unknown, told.unavailable), (0, 0), "{told:?}");
}

/// The story: lines were looked after only while all of them were quiet, so that one that had gone mute was not found
/// out as long as the others talked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mute_line_of_several_is_found_out_while_the_others_talk() {
    let mut cluster = Cluster::start().await.unwrap();
    let (listener, talker) = (instance(cluster.dsn(), "a").await, instance(cluster.dsn(), "b").await);
    let (mute, talking) = (shards_of(&cluster, 0).await[0], shards_of(&cluster, 1).await[0]);
    heard(&listener, &talker, mute).await;
    let chatter = tokio::spawn({
        let talker = talker.clone();
        async move {
            loop {
                let _heard = talker.tell(talking, Bytes::from_static(b"chatter")).await;
                sleep(Duration::from_millis(100)).await;
            }
        }
    });
    cluster.nodes()[0].stop_the_world();
    until("the replica takes over", async || talker.tell(mute, Bytes::from_static(b"now")).await.ok()).await;
    heard(&listener, &talker, mute).await;
    chatter.abort();
    cluster.kill(0);
}
