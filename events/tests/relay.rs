//! A relay between libzmq and us: what a stock engine cannot tell again, its relay can; and what it does not know, it says.

mod common;

use std::time::Duration;

use blocks::View;
use common::{Followed, Peer, WORKER, of};
use events::follow::Source;
use events::publish::{Form, Settings};
use events::relay::Relay;
use serde_json::json;

const ANY: &str = "tcp://127.0.0.1:*";

fn relay(engine: &Peer) -> Relay {
    let source = Source {
        worker: WORKER,
        endpoint: of(engine, "live").to_owned(),
        bind: false,
        replay: Some(of(engine, "replay").to_owned()),
        topic: String::new(),
    };
    let settings = Settings {
        endpoint: "tcp://127.0.0.1:0".to_owned(),
        replay: "tcp://127.0.0.1:0".to_owned(),
        topic: "kv@relay".to_owned(),
        block_size: 2,
        buffer_steps: 16,
        heartbeat: Duration::from_millis(200),
        rank: None,
        form: Form::Compact,
    };
    Relay::start(source, settings).unwrap()
}

fn listen(relay: &Relay) -> Followed {
    Followed::start(relay.endpoint(), Some(relay.replay_endpoint()), false, "kv@")
}

async fn until(relay: &Relay, view: View, last: u64) {
    for _ in 0..3_000 {
        let status = relay.status();
        if status.view == view && status.last == Some(last) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", relay.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_late_gets_from_the_relay_what_the_engine_cannot_tell_again() {
    let mut engine = Peer::engine(ANY, ANY, "topic", false, 5);
    let relay = relay(&engine);
    let early = listen(&relay);
    engine.store(None, 1, false);
    // Heard from the first word on, so it is exact; one by one, because the engine's ring is small.
    until(&relay, View::Exact, 0).await;
    for hash in 2..=60 {
        engine.store(Some(hash - 1), hash, false);
        until(&relay, View::Exact, hash - 1).await;
    }
    early.until(View::Exact, 1..=60).await;
    // The engine's ring holds five batches and the relay's sixteen: this one needs a snapshot.
    let late = listen(&relay);
    let status = late.until(View::Exact, 1..=60).await;
    assert!(status.counters.snapshots >= 1 && status.counters.refused == 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_came_late_itself_says_so_until_the_engine_clears() {
    let mut engine = Peer::engine(ANY, ANY, "topic", false, 2);
    for hash in 1..=9 {
        engine.store((hash > 1).then(|| hash - 1), hash, false);
    }
    let relay = relay(&engine);
    let listener = listen(&relay);
    listener.until(View::Stale, []).await;
    engine.store(None, 20, false);
    listener.until(View::Stale, [20]).await;
    let late = listen(&relay);
    late.until(View::Stale, [20]).await;
    engine.ask(&json!({ "events": [{ "type": "AllBlocksCleared" }] }));
    listener.until(View::Exact, []).await;
    late.until(View::Exact, []).await;
    engine.store(None, 30, false);
    listener.until(View::Exact, [30]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_behind_a_relay_is_recovering_and_its_next_life_replaces_the_view() {
    let mut engine = Peer::engine(ANY, ANY, "topic", false, 100);
    engine.store(None, 1, false);
    let (live, replay) = (of(&engine, "live").to_owned(), of(&engine, "replay").to_owned());
    let relay = relay(&engine);
    let listener = listen(&relay);
    listener.until(View::Exact, [1]).await;
    engine.child.kill().unwrap();
    listener.until(View::Recovering, [1]).await;
    drop(engine);
    let mut engine = Peer::engine(&live, &replay, "topic", false, 100);
    engine.store(None, 21, false);
    engine.store(Some(21), 22, false);
    listener.until(View::Exact, [21, 22]).await;
    // And a relay that is gone is noticed as an engine would be.
    drop(relay);
    listener.until(View::Recovering, [21, 22]).await;
}
