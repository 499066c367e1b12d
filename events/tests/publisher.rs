//! Our publisher over real sockets: cold followers, a ring that has moved on, many at once, and libzmq that knows nothing of it.

mod common;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use blocks::{EngineHash, Tier, View};
use common::{Followed, Peer};
use events::publish::{Form, Publisher, Run, Says, Settings};
use serde_json::{Value, json};

fn settings(buffer_steps: usize) -> Settings {
    Settings {
        endpoint: "tcp://127.0.0.1:0".to_owned(),
        replay: "tcp://127.0.0.1:0".to_owned(),
        topic: "kv@ours".to_owned(),
        block_size: 2,
        buffer_steps,
        heartbeat: Duration::from_millis(200),
        rank: Some(0),
        form: Form::Compact,
    }
}

/// An engine that stores chains of three and forgets the oldest ones, tail first.
struct Engine {
    publisher: Publisher,
    held: BTreeSet<u64>,
    chains: VecDeque<[u64; 3]>,
    next: u64,
    most: usize,
}

impl Engine {
    fn new(buffer_steps: usize, most: usize) -> Self {
        let publisher = Publisher::start(settings(buffer_steps)).unwrap();
        Self { publisher, held: BTreeSet::new(), chains: VecDeque::new(), next: 1, most }
    }

    fn step(&mut self) {
        let chain = [self.next, self.next + 1, self.next + 2];
        self.next += 3;
        let tokens: Vec<u32> = chain.iter().flat_map(|name| [*name as u32, 7]).collect();
        self.publisher.stored(&Run {
            parent: None,
            blocks: &chain.map(EngineHash),
            content: Says::Tokens(&tokens),
            lora: None,
            salt: None,
            tier: Tier::Device,
        });
        self.held.extend(chain);
        self.chains.push_back(chain);
        if self.chains.len() > self.most
            && let Some([a, b, c]) = self.chains.pop_front()
        {
            self.publisher.removed(&[EngineHash(c), EngineHash(b), EngineHash(a)], Tier::Device);
            self.held.retain(|name| ![a, b, c].contains(name));
        }
    }

    fn follow(&self) -> Followed {
        Followed::start(self.publisher.endpoint(), Some(self.publisher.replay_endpoint()), false, "kv@")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_follower_gets_everything_although_the_ring_has_moved_on() {
    let mut engine = Engine::new(16, 500);
    (0..2_000).for_each(|_| engine.step());
    let followed = [engine.follow(), engine.follow(), engine.follow()];
    // The engine goes on while they catch up.
    for _ in 0..500 {
        engine.step();
        tokio::task::yield_now().await;
    }
    for one in &followed {
        let status = one.until(View::Exact, engine.held.iter().copied()).await;
        assert!(status.counters.snapshots >= 1, "{status:?}");
        assert_eq!(status.counters.refused, 0, "{status:?}");
    }
    (0..100).for_each(|_| engine.step());
    for one in &followed {
        one.until(View::Exact, engine.held.iter().copied()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_ring_comes_from_the_ring() {
    let mut engine = Engine::new(10_000, 50);
    (0..200).for_each(|_| engine.step());
    let followed = engine.follow();
    let status = followed.until(View::Exact, engine.held.iter().copied()).await;
    assert_eq!((status.counters.snapshots, status.counters.refused), (0, 0), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_cache_is_an_empty_snapshot() {
    let mut engine = Engine::new(4, 500);
    (0..100).for_each(|_| engine.step());
    engine.publisher.cleared();
    // Heartbeats push the clear out of the ring.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let followed = engine.follow();
    let status = followed.until(View::Exact, []).await;
    assert_eq!(status.counters.snapshots, 1, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_life_of_a_publisher_replaces_the_old_view() {
    let mut first = Engine::new(16, 500);
    (0..100).for_each(|_| first.step());
    let followed = first.follow();
    followed.until(View::Exact, first.held.iter().copied()).await;
    let (endpoint, replay) =
        (first.publisher.endpoint().to_owned(), first.publisher.replay_endpoint().to_owned());
    drop(first);
    let publisher = loop {
        // The old sockets close as their tasks end.
        match Publisher::start(Settings {
            endpoint: endpoint.clone(),
            replay: replay.clone(),
            ..settings(16)
        }) {
            Ok(publisher) => break publisher,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let mut second =
        Engine { publisher, held: BTreeSet::new(), chains: VecDeque::new(), next: 10_000, most: 9 };
    (0..300).for_each(|_| second.step());
    let status = followed.until(View::Exact, second.held.iter().copied()).await;
    assert!(status.counters.rebuilds >= 2 && status.counters.refused == 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn libzmq_that_knows_nothing_of_snapshots_hears_our_publisher() {
    let mut engine = Engine::new(0, 5);
    let (live, replay) =
        (engine.publisher.endpoint().to_owned(), engine.publisher.replay_endpoint().to_owned());
    let (heard, snapshot) = tokio::task::spawn_blocking(move || {
        let mut peer = Peer::start(&json!({ "role": "subscriber", "live": live, "replay": replay }));
        // The subscription is on its way, and each heartbeat is a batch: three are heard, sooner or later.
        let heard = peer.ask(&json!({ "hear": 3 }));
        (0..100).for_each(|_| engine.step());
        // What the engine said last may still be on its way to the publisher's thread.
        let snapshot = loop {
            let snapshot = peer.ask(&json!({ "ask": 0, "delimiter": true, "patience": 10_000 }));
            if snapshot["frames"].as_array().is_some_and(|frames| frames.len() > 2) {
                break snapshot;
            }
        };
        (heard, snapshot)
    })
    .await
    .unwrap();
    let sequences = |frames: &Value| -> Vec<u64> {
        frames.as_array().unwrap().iter().map(|frame| frame[1].as_u64().unwrap()).collect()
    };
    let live = sequences(&heard["heard"]);
    assert_eq!((live.len(), live[1] - live[0], live[2] - live[1]), (3, 1, 1), "{heard}");
    assert_eq!(snapshot["ended"], json!(true));
    let frames = sequences(&snapshot["frames"]);
    assert_eq!(frames[0], u64::MAX - 1, "the header comes first: {snapshot}");
    assert!(frames.len() >= 3 && frames[1..].iter().all(|sequence| *sequence == frames[1]), "{snapshot}");
}

/// What was told, if it was told with the snapshot; `None` if the follower came while steps were still on their way: without a
/// heartbeat it may have them all, or miss one and not hear of that.
async fn told_with_the_snapshot() -> Option<()> {
    const LOOKS: usize = 300;
    // No ring, and no heartbeat that would tell it later.
    let settings = Settings { heartbeat: Duration::from_mins(10), ..settings(0) };
    let publisher = Publisher::start(settings).unwrap();
    let mut engine = Engine { publisher, held: BTreeSet::new(), chains: VecDeque::new(), next: 1, most: 500 };
    engine.publisher.state(View::Stale);
    (0..10).for_each(|_| engine.step());
    let followed = engine.follow();
    let before = followed.within(LOOKS, &(engine.held.clone(), Some(View::Stale))).await?;
    // Two, if it was asked while the last steps were still on their way.
    assert!(before.counters.snapshots <= 2, "{before:?}");
    if before.counters.snapshots == 0 {
        return None;
    }
    engine.publisher.state(View::Exact);
    let status = followed.within(LOOKS, &(engine.held.clone(), Some(View::Exact))).await?;
    // Once, the status kept the old view until 64 messages more had come, or a silence had been too long.
    assert_eq!(status.counters.silences, before.counters.silences, "{status:?}");
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_source_that_is_not_in_step_is_told_with_the_snapshot() {
    for _ in 0..20 {
        if told_with_the_snapshot().await.is_some() {
            return;
        }
    }
    panic!("nobody was told with the snapshot");
}
