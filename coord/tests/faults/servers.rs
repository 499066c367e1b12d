//! One server that is killed, emptied or stopped under use.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use coord::jobs::{Jobs, Options as JobOptions};
use coord::kit::proxy::Proxy;
use coord::kit::servers::{Options, Persistence, Server};
use coord::op::{Claimed, Op};
use coord::wait::{Waited, Waits};
use coord::{Coord, Error, Shard};

use crate::ground::{
    Load, PATIENCE, answered, heard, instance, key, key_in, name, name_in, names, until, wakes,
};

const DAY: Duration = Duration::from_hours(24);

fn losses(coord: &Coord) -> u64 {
    coord.counters().losses.load(Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_keeps_everything_may_be_killed_under_use() {
    let options = Options { persistence: Persistence::Aof, ..Options::default() };
    let mut server = Server::start(options).await.unwrap();
    let (a, b) = (instance(server.dsn(), "a").await, instance(server.dsn(), "b").await);
    let shard = Shard::all().nth(5).unwrap();
    let claim = key_in(shard, "claim");
    let held = a.claim(&claim, &name("token"), DAY).await.unwrap();
    heard(&a, &b, shard).await;
    let load = Load::begin(&[a.clone(), b.clone(), a.clone(), b.clone()], &key_in(shard, "counter"));
    load.more(20).await;
    for _ in 0..2 {
        server.kill();
        load.fails(4).await;
        server.restart().await.unwrap();
        load.more(20).await;
    }
    heard(&a, &b, shard).await;
    wakes(&a, &b, shard).await;
    let told = load.ends(&a).await;
    assert!(told.unavailable > 0, "{told:?}");
    assert_eq!(a.claim(&claim, &name("token"), DAY).await.unwrap(), held);
    assert_eq!((losses(&a), losses(&b)), (0, 0));
}

/// How a server comes to forget everything.
#[derive(Clone, Copy, Debug)]
enum Forgets {
    Restarted,
    Flushed,
}

async fn forget(server: &mut Server, how: Forgets) {
    match how {
        Forgets::Restarted => server.restart().await.unwrap(),
        Forgets::Flushed => server.flush().await.unwrap(),
    }
}

/// Nobody looks after jobs by themselves here, so that it is this very loss that tells of them.
fn quiet() -> JobOptions {
    JobOptions { poll: DAY, sweep: DAY, ..JobOptions::default() }
}

async fn what_is_forgotten_is_said_once_to_each_and_never_taken_for_done(how: Forgets) {
    let mut server = Server::start(Options::default()).await.unwrap();
    let coords = [instance(server.dsn(), "a").await, instance(server.dsn(), "b").await];
    let [a, _] = &coords;
    let shards: Vec<Shard> = Shard::all().take(3).collect();
    let claims = shards.iter().map(|shard| key_in(*shard, "claim")).collect::<Vec<_>>();
    let mut fences = Vec::new();
    for claim in &claims {
        let granted = a.claim(claim, &name("before"), DAY).await.unwrap();
        let Claimed::Granted { fence } = granted else { panic!("{granted:?}") };
        fences.push(fence);
        assert!(matches!(coords[1].claim(claim, &name("other"), DAY).await, Ok(Claimed::Held { .. })));
    }
    let jobs = Jobs::begin(a, Vec::new(), quiet());
    let job = name_in(shards[1], "job");
    jobs.open(&job, 1, &name("nobody"), Bytes::new(), &names("p", 3), true).await.unwrap();
    let (mut vanished, mut lost) = (jobs.vanished(), a.losses());
    let waits = Waits::begin(a);
    let request = name_in(shards[2], "request");
    waits.expect(&request, &name("set"), names("m", 2)).await.unwrap();
    let waiting = tokio::spawn({
        let (waits, request) = (waits.clone(), request.clone());
        async move { waits.wait(&request, PATIENCE).await }
    });
    until("somebody waits", async || (waits.waited_for() > 0).then_some(())).await;

    forget(&mut server, how).await;

    // Whoever asks first in a shard is told, and that may be a waiter or a look after jobs.
    for coord in &coords {
        for claim in &claims[..2] {
            let told =
                answered("a loss is told", async || coord.claim(claim, &name("after"), DAY).await).await;
            let said = matches!(told, Err(Error::StateLost { shard, .. }) if shard == claim.shard().number());
            let before = told.is_ok() && std::ptr::eq(coord, a) && claim.shard() == job.shard();
            assert!(said || before, "{told:?}");
            assert_eq!(coord.times_lost(claim.shard()), 1);
        }
    }
    let ended = waiting.await.unwrap();
    assert!(matches!(ended, Waited::Unknown | Waited::CannotKnow(Error::StateLost { .. })), "{ended:?}");
    for (claim, before) in claims.iter().zip(fences) {
        let _once = a.claim(claim, &name("after"), DAY).await;
        let granted = a.claim(claim, &name("after"), DAY).await.unwrap();
        assert!(
            matches!(granted, Claimed::Granted { fence } if fence > before),
            "{granted:?} after {before}"
        );
    }
    assert_eq!((losses(a), losses(&coords[1])), (3, 2));
    for _ in 0..3 {
        assert!(shards.contains(&lost.recv().await.unwrap().shard));
    }
    let gone =
        tokio::time::timeout(PATIENCE, vanished.recv()).await.expect("somebody says that the job is gone");
    assert_eq!((gone.unwrap(), jobs.mine()), (job.clone(), 0));
    assert_eq!(jobs.look(&job).await.unwrap(), None);
    assert!(vanished.try_recv().is_err());
}

#[tokio::test]
async fn what_a_restart_forgets_is_said_once_to_each_and_never_taken_for_done() {
    what_is_forgotten_is_said_once_to_each_and_never_taken_for_done(Forgets::Restarted).await;
}

#[tokio::test]
async fn what_a_flush_forgets_is_said_once_to_each_and_never_taken_for_done() {
    what_is_forgotten_is_said_once_to_each_and_never_taken_for_done(Forgets::Flushed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_makes_nothing_happen_twice() {
    let server = Server::start(Options::default()).await.unwrap();
    let (a, b) = (instance(server.dsn(), "a").await, instance(server.dsn(), "b").await);
    let shard = Shard::all().nth(7).unwrap();
    let load = Load::begin(&[a.clone(), b.clone(), a.clone(), b.clone()], &key_in(shard, "counter"));
    load.more(20).await;
    server.stop_the_world();
    load.fails(6).await;
    server.go_on();
    load.more(20).await;
    let told = load.ends(&b).await;
    assert!(told.unknown > 0, "what it had been sent before it stood still is unknown: {told:?}");
    heard(&a, &b, shard).await;
    wakes(&a, &b, shard).await;
    assert_eq!((losses(&a), losses(&b)), (0, 0));
}

/// The story: a state that went back can look like one that is done. Another operation of the same instance was told
/// that it was lost, and the waiter, which asked after it, found nothing pending.
#[tokio::test]
async fn what_went_back_in_time_is_not_taken_for_done() {
    let server = Server::start(Options::default()).await.unwrap();
    let (a, b) = (instance(server.dsn(), "a").await, instance(server.dsn(), "b").await);
    let waits = Waits::begin(&a);
    let (request, set) = (name("request"), name("set"));
    let shard = request.shard();
    waits.expect(&request, &set, Vec::new()).await.unwrap();
    let keys: Vec<String> = redis::from_redis_value(server.send(&["KEYS", "*"]).await.unwrap()).unwrap();
    for key in &keys {
        server.send(&["COPY", key, &format!("{key}.before")]).await.unwrap();
    }
    waits.expect(&request, &set, names("m", 1)).await.unwrap();
    heard(&a, &b, shard).await;
    let waiting = tokio::spawn({
        let (waits, request) = (waits.clone(), request.clone());
        async move { waits.wait(&request, PATIENCE).await }
    });
    until("somebody waits", async || (waits.waited_for() > 0).then_some(())).await;
    for key in &keys {
        server.send(&["COPY", &format!("{key}.before"), key, "REPLACE"]).await.unwrap();
    }
    let told = a.ask(&Op::Probe { shard }).await;
    assert!(matches!(told, Err(Error::StateLost { .. })) || waiting.is_finished(), "{told:?}");
    until("the waiter looks again", async || {
        let _once = b.tell(shard, Bytes::from(format!("request {request}"))).await;
        waiting.is_finished().then_some(())
    })
    .await;
    let ended = waiting.await.unwrap();
    assert!(matches!(ended, Waited::CannotKnow(Error::StateLost { .. })), "{ended:?}");
}

/// The story: behind a name that moves, or a balancer, a plain address may lead to a server that has become a replica.
/// Its connection was kept, so that nothing could be written until somebody restarted us, and questions went on being
/// answered with what the replica knew.
#[tokio::test]
async fn a_server_that_became_a_replica_is_left_and_answers_no_questions() {
    let (server, other) =
        (Server::start(Options::default()).await.unwrap(), Server::start(Options::default()).await.unwrap());
    let proxy = Proxy::start(server.address()).await;
    let a = instance(proxy.dsn(), "a").await;
    let counter = key("counter");
    a.add(&counter, 1).await.unwrap();
    assert_eq!(a.count(&counter).await, Ok(1));
    // It becomes the replica of its own copy, so that it could answer if it were asked to.
    follow(&other, &server).await;
    other.send(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    follow(&server, &other).await;
    for op in [Op::Add { key: counter.clone(), by: 1 }, Op::Count { key: counter.clone() }] {
        proxy.faults().forget();
        for _ in 0..2 {
            let told = a.ask_within(&op, Duration::from_secs(1)).await;
            assert!(matches!(&told, Err(Error::Unavailable(why)) if why.contains("read only")), "{told:?}");
        }
        assert!(proxy.faults().connections() > 0, "nobody stays with it");
    }
}

/// Makes one the replica of the other, and waits until it has everything.
async fn follow(replica: &Server, master: &Server) {
    replica.send(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await.unwrap();
    until("a replica", async || {
        let up = replica.info("master_link_status").await.as_deref() == Some("up");
        (up && replica.send(&["DBSIZE"]).await.unwrap() == redis::Value::Int(2)).then_some(())
    })
    .await;
}
