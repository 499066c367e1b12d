//! A network that loses requests, replies, or everything: what is known of an operation afterwards, and what it costs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord::coord::PATIENCE as CALL;
use coord::jobs::{Handler, Jobs, Options as JobOptions};
use coord::kit::proxy::{Fault, Proxy};
use coord::kit::servers::{Options, Server};
use coord::op::{Effect, Left, Op, Opened, Settled, Task};
use coord::wait::{Waited, Waits};
use coord::{Coord, Error, Name, Shard};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::ground::{PATIENCE, heard, instance, key, name, names, until};

/// A server, a proxy in front of it, and an instance behind that.
async fn through_a_proxy() -> (Server, Proxy, Coord) {
    let server = Server::start(Options::default()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let coord = instance(proxy.dsn(), "a").await;
    (server, proxy, coord)
}

/// Both ways of calling a script: by its hash, and as a whole when the server does not know it yet.
#[tokio::test]
async fn an_addition_whose_reply_is_cut_is_unknown_and_was_made_once() {
    let (_server, proxy, coord) = through_a_proxy().await;
    let counter = key("counter");
    for (command, count) in [("EVAL", 1), ("EVALSHA", 2)] {
        proxy.faults().set_for(command, Fault::CutReply { nth: 1 });
        let told = coord.add(&counter, 1).await;
        assert_eq!(told, Err(Error::OutcomeUnknown { op: "add" }), "{command}");
        assert_eq!(proxy.faults().count(command).replies_cut, 1);
        assert_eq!(coord.count(&counter).await, Ok(count), "{command}");
    }
    let pushed = key("list");
    coord.push(&pushed, Bytes::from_static(b"1")).await.unwrap();
    proxy.faults().set_for("EVALSHA", Fault::CutReply { nth: 1 });
    coord.push(&pushed, Bytes::from_static(b"2")).await.unwrap_err();
    assert_eq!(coord.list(&pushed).await.unwrap(), [Bytes::from_static(b"1"), Bytes::from_static(b"2")]);
}

#[tokio::test]
async fn an_addition_that_is_cut_on_its_way_was_not_made() {
    let (_server, proxy, coord) = through_a_proxy().await;
    let counter = key("counter");
    for command in ["EVAL", "EVALSHA"] {
        proxy.faults().set_for(command, Fault::CutRequest { nth: 1 });
        let told = coord.add(&counter, 1).await;
        assert!(
            matches!(told, Err(Error::OutcomeUnknown { .. } | Error::Unavailable(_))),
            "{command}: {told:?}"
        );
        assert_eq!(proxy.faults().count(command).requests_cut, 1);
        assert_eq!(coord.count(&counter).await, Ok(0), "{command}");
        // So that the script is known the next time, with nothing added.
        coord.add(&counter, 0).await.unwrap();
    }
}

#[tokio::test]
async fn what_may_be_done_twice_is_asked_again_and_ends_right() {
    let (_server, proxy, coord) = through_a_proxy().await;
    let (set, job) = (key("set"), name("job"));
    let cut = || proxy.faults().set_for("EVALSHA", Fault::CutReply { nth: 1 });
    assert_eq!(coord.join(&set, vec![Bytes::from_static(b"1")]).await, Ok(1));
    cut();
    assert_eq!(coord.join(&set, vec![Bytes::from_static(b"2")]).await, Ok(2));

    let jobs = Jobs::begin(&coord, Vec::new(), quiet());
    let parts = names("p", 3);
    cut();
    let opened = jobs.open(&job, 1, &name("nobody"), Bytes::new(), &parts, true).await;
    assert_eq!(opened, Ok(Opened::New(Left::Sealed(3))), "the script was not known, so nothing was cut");
    assert_eq!(jobs.settle(&job, 1, &parts[0]).await, Ok(Settled::Accepted { left: 2 }));
    cut();
    assert_eq!(jobs.settle(&job, 1, &parts[1]).await, Ok(Settled::Duplicate), "it was done the first time");
    cut();
    assert_eq!(jobs.settle(&job, 1, &parts[2]).await, Ok(Settled::Duplicate));
    let found = jobs.look(&job).await.unwrap().unwrap();
    assert_eq!((found.left, found.stage), (0, coord::op::Stage::Ended(coord::op::End::Complete)));
    assert!(coord.counters().repeated.load(std::sync::atomic::Ordering::Relaxed) >= 3);
}

/// Jobs that look after nothing by themselves.
fn quiet() -> JobOptions {
    let never = Duration::from_hours(1);
    JobOptions { poll: never, sweep: never, ..JobOptions::default() }
}

#[tokio::test]
async fn settling_a_part_costs_one_command() {
    let (_server, proxy, coord) = through_a_proxy().await;
    let parts = names("p", 101);
    let job = name("job");
    for op in [
        Op::Open { job: job.clone(), epoch: 1, plan: plan(), parts: parts.clone(), sealed: true },
        Op::Settle { job: job.clone(), epoch: 1, part: parts[100].clone() },
    ] {
        coord.ask(&op).await.unwrap();
    }
    proxy.faults().forget();
    for part in &parts[..100] {
        coord.ask(&Op::Settle { job: job.clone(), epoch: 1, part: part.clone() }).await.unwrap();
    }
    assert_eq!(proxy.faults().count("EVALSHA").forwarded, 100);
    assert_eq!(proxy.faults().count("EVAL").forwarded, 0);
    // Listening costs a ping now and then, and nothing else is sent.
    let others: Vec<_> = proxy.faults().counts().into_keys().filter(|name| name != "EVALSHA").collect();
    assert!(
        others
            .iter()
            .all(|name| name == "PING" || name == "SSUBSCRIBE" || name == "HELLO" || name == "CLIENT"),
        "{others:?}"
    );
}

fn plan() -> coord::op::Plan {
    let (watchdog, lease) = (Duration::ZERO, Duration::from_secs(10));
    coord::op::Plan { owner: name("a"), handler: name("nobody"), payload: Bytes::new(), watchdog, lease }
}

/// Fifty who wait ask once each, and then only when a poll is due, which is never sooner than half of [`coord::wait::POLL`].
#[tokio::test]
async fn idle_waiters_cost_nothing_between_polls() {
    let (_server, proxy, coord) = through_a_proxy().await;
    let waits = Waits::begin(&coord);
    let (request, set, member) = (name("request"), name("set"), name("member"));
    waits.expect(&request, &set, vec![member.clone()]).await.unwrap();
    coord.ask(&Op::Gate { request: request.clone() }).await.unwrap();
    // The first moment of listening is a gap, after which everybody looks again.
    heard(&coord, &coord, request.shard()).await;
    proxy.faults().forget();
    let began = Instant::now();
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (waits, request) = (waits.clone(), request.clone());
            tokio::spawn(async move { waits.wait(&request, PATIENCE).await })
        })
        .collect();
    until("all look", async || (proxy.faults().count("EVALSHA").forwarded >= 50).then_some(())).await;
    sleep(Duration::from_secs(1)).await;
    let sent = proxy.faults().count("EVALSHA").forwarded;
    let polls = began.elapsed().as_millis() / (coord::wait::POLL / 2).as_millis();
    assert!(u128::from(sent) <= 50 * (1 + polls), "{sent} commands in {:?}", began.elapsed());
    waits.arrive(&request, &set, &member, Some(Bytes::from_static(b"well"))).await.unwrap();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), Waited::Done(vec![(set.clone(), Bytes::from_static(b"well"))]));
    }
}

/// Runs when a job ends, and says so.
struct Says(mpsc::UnboundedSender<Name>);

impl Handler for Says {
    fn finish<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Vec<Effect>, String>> {
        let said = self.0.send(task.job.clone()).map_err(|error| error.to_string());
        Box::pin(std::future::ready(said.map(|()| Vec::new())))
    }
}

/// Nobody polls here and nobody sweeps: only the notice of the last part can have told its owner.
#[tokio::test]
async fn the_owner_of_a_job_is_told_of_its_end_by_a_notice() {
    let (server, _proxy, owner) = through_a_proxy().await;
    let other = instance(server.dsn(), "b").await;
    let (sender, mut ended) = mpsc::unbounded_channel();
    let jobs = Jobs::begin(&owner, vec![(name("says"), Arc::new(Says(sender)) as Arc<dyn Handler>)], quiet());
    let (job, parts) = (name("job"), names("p", 2));
    jobs.open(&job, 1, &name("says"), Bytes::new(), &parts, true).await.unwrap();
    // The first moment of listening is a gap, after which an owner looks by itself.
    heard(&owner, &other, job.shard()).await;
    for part in parts {
        other.ask(&Op::Settle { job: job.clone(), epoch: 1, part }).await.unwrap();
    }
    let told = tokio::time::timeout(PATIENCE, ended.recv()).await.expect("the owner is told");
    assert_eq!(told, Some(job));
}

/// The same while nobody hears: whoever listens again looks once, since something may have been missed.
#[tokio::test]
async fn what_ended_while_nobody_listened_is_found_as_soon_as_somebody_does() {
    let (server, proxy, owner) = through_a_proxy().await;
    let other = instance(server.dsn(), "b").await;
    let (sender, mut ended) = mpsc::unbounded_channel();
    let jobs = Jobs::begin(&owner, vec![(name("says"), Arc::new(Says(sender)) as Arc<dyn Handler>)], quiet());
    let (job, parts) = (name("job"), names("p", 1));
    jobs.open(&job, 1, &name("says"), Bytes::new(), &parts, true).await.unwrap();
    heard(&owner, &other, job.shard()).await;
    proxy.faults().set(Fault::Refuse);
    let settle = Op::Settle { job: job.clone(), epoch: 1, part: parts[0].clone() };
    other.ask(&settle).await.unwrap();
    // Nobody takes the notice through; what is asked now is refused, so that only a later look can find the end.
    assert!(owner.ask_within(&Op::Probe { shard: job.shard() }, Duration::from_millis(500)).await.is_err());
    proxy.faults().set(Fault::Pass);
    let told = tokio::time::timeout(PATIENCE, ended.recv()).await.expect("the owner looks");
    assert_eq!(told, Some(job));
}

// === Half open ===

#[tokio::test]
async fn a_line_that_is_mute_ends_a_call_within_its_patience_and_is_not_used_again() {
    let (_server, proxy, coord) = through_a_proxy().await;
    let (counter, set) = (key("counter"), key("set"));
    coord.add(&counter, 1).await.unwrap();
    coord.join(&set, Vec::new()).await.unwrap();
    heard(&coord, &coord, Shard::REPLICAS).await;
    proxy.faults().set(Fault::HalfOpen);
    let began = Instant::now();
    assert_eq!(coord.add(&counter, 1).await, Err(Error::OutcomeUnknown { op: "add" }));
    let told = coord.join(&set, vec![Bytes::from_static(b"1")]).await;
    assert!(matches!(told, Err(Error::Timeout { .. } | Error::Unavailable(_))), "{told:?}");
    assert!(began.elapsed() < CALL * 8, "{:?}", began.elapsed());
    proxy.faults().set(Fault::Pass);
    assert_eq!(
        coord.count(&counter).await,
        Ok(1),
        "a mute line is never answered again, so this is a new one"
    );
    assert_eq!(coord.join(&set, vec![Bytes::from_static(b"2")]).await, Ok(1));
    heard(&coord, &coord, Shard::REPLICAS).await;
}

/// The story: whoever has less patience than a line is given to answer took its verdict along when it left, and a mute
/// line was asked for ever.
#[tokio::test]
async fn a_mute_line_is_found_out_also_by_those_who_have_little_patience() {
    let (_server, proxy, coord) = through_a_proxy().await;
    let counter = key("counter");
    let count = Op::Count { key: counter.clone() };
    coord.add(&counter, 1).await.unwrap();
    let short = Duration::from_millis(300);
    proxy.faults().set(Fault::HalfOpen);
    assert_eq!(coord.ask_within(&count, short).await, Err(Error::Timeout { op: "count" }));
    proxy.faults().set(Fault::Pass);
    until("a new line", async || coord.ask_within(&count, short).await.ok()).await;
}
