//! A master that dies or hands over behind Sentinels.

use std::time::Duration;

use coord::kit::servers::Sentinels;
use coord::op::Claimed;
use coord::{Error, Shard};

use crate::ground::{Load, answered, heard, instance, key_in, name, until, wakes};

const DAY: Duration = Duration::from_hours(24);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_under_use_is_followed_by_another() {
    let mut all = Sentinels::start().await.unwrap();
    let (a, b) = (instance(all.dsn(), "a").await, instance(all.dsn(), "b").await);
    let shard = Shard::all().nth(3).unwrap();
    heard(&a, &b, shard).await;
    let load = Load::begin(&[a.clone(), b.clone(), a.clone()], &key_in(shard, "counter"));
    load.more(30).await;
    let old = all.kill_master().await.unwrap();
    load.fails(6).await;
    let new = all.wait_new_master(old).await.unwrap();
    assert_ne!(old, new);
    load.more(30).await;
    heard(&a, &b, shard).await;
    wakes(&a, &b, shard).await;
    // The old one returns, thinks for a while that it is the master still, and becomes a replica: nobody goes back.
    all.restart_old_master().await.unwrap();
    load.more(30).await;
    let old = all.stores().iter().find(|store| store.port() == old).unwrap();
    let clients = old.send(&["CLIENT", "LIST", "TYPE", "NORMAL"]).await.unwrap();
    let clients: String = redis::from_redis_value(clients).unwrap();
    let asked = clients.lines().filter(|line| line.contains("cmd=eval")).count();
    assert_eq!(asked, 0, "{clients}");
    let told = load.ends_after_a_takeover(&a).await;
    assert!(told.unavailable + told.unknown >= 6, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_died_with_its_master_is_said_to_be_lost_and_its_successor_has_a_greater_fence() {
    let mut all = Sentinels::start().await.unwrap();
    let (a, b) = (instance(all.dsn(), "a").await, instance(all.dsn(), "b").await);
    let claim = key_in(Shard::all().nth(9).unwrap(), "claim");
    a.claim(&claim, &name("first"), DAY).await.unwrap();
    assert_eq!(a.release(&claim, &name("first")).await, Ok(true));
    all.pause_replication().await.unwrap();
    let granted = a.claim(&claim, &name("lost"), DAY).await.unwrap();
    let Claimed::Granted { fence: lost } = granted else { panic!("{granted:?}") };
    let old = all.kill_master().await.unwrap();
    all.wait_new_master(old).await.unwrap();
    let told = answered("the new master answers", async || a.renew(&claim, &name("lost"), DAY).await).await;
    assert!(matches!(told, Err(Error::StateLost { .. })), "{told:?}");
    assert_eq!(a.times_lost(claim.shard()), 1);
    let granted = until("another claims it", async || b.claim(&claim, &name("next"), DAY).await.ok()).await;
    assert!(matches!(granted, Claimed::Granted { fence } if fence > lost), "{granted:?} after {lost}");
    assert!(
        matches!(a.renew(&claim, &name("lost"), DAY).await, Err(Error::Fenced { current }) if current > lost)
    );
}

/// The old master hands over alive: its connections stay open, it takes writes for some seconds more, and then it is a
/// replica. Whoever is still with it then leaves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_handed_over_is_left_when_it_is_a_replica() {
    let all = Sentinels::start().await.unwrap();
    let (a, b) = (instance(all.dsn(), "a").await, instance(all.dsn(), "b").await);
    let counter = key_in(Shard::all().nth(4).unwrap(), "counter");
    assert_eq!(a.add(&counter, 1).await, Ok(1));
    heard(&a, &b, counter.shard()).await;
    // A replica that was just linked is sent nothing for up to a second.
    until("the replica has it", async || {
        let mut sizes = Vec::new();
        for store in all.stores() {
            sizes.push(store.send(&["DBSIZE"]).await.unwrap());
        }
        (sizes[0] == sizes[1]).then_some(())
    })
    .await;
    all.fail_over().await.unwrap();
    // Nobody writes meanwhile: what the old one takes now is gone.
    all.wait_ok().await.unwrap();
    assert_eq!(answered("the new master answers", async || a.add(&counter, 1).await).await, Ok(2));
    assert_eq!(instance(all.dsn(), "c").await.count(&counter).await, Ok(2));
    heard(&b, &a, counter.shard()).await;
    // Two of three Sentinels take connections and say nothing.
    for mute in &all.sentinels()[..2] {
        mute.stop_the_world();
    }
    let d = instance(all.dsn(), "d").await;
    assert_eq!(answered("the third is asked", async || d.count(&counter).await).await, Ok(2));
}
