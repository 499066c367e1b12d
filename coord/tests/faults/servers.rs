//! One server that is killed, emptied or stopped under use.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use coord::jobs::{Jobs, Options as JobOptions};
use coord::kit::servers::{Options, Persistence, Server};
use coord::op::Claimed;
use coord::wait::{Waited, Waits};
use coord::{Coord, Error, Shard};

use crate::ground::{Load, PATIENCE, answered, heard, instance, key_in, name, name_in, names, until, wakes};

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
