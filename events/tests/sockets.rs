//! Over real sockets, against libzmq itself (pyzmq): following, replay in both framings, peers that die, and our publisher.

mod common;

use std::io::Write;

use blocks::View;
use common::{Followed, Peer, of};
use events::codec::{Batch, Said};
use events::stock::{self, Publisher};
use serde_json::{Value, json};

const ANY: &str = "tcp://127.0.0.1:*";

// === Following ===

async fn joins_late_then_follows(framing: &str) {
    let mut engine = Peer::engine(ANY, ANY, framing, false, 100);
    engine.store(None, 1, false);
    engine.store(Some(1), 2, false);
    let followed = Followed::start(of(&engine, "live"), Some(of(&engine, "replay")), false, "kv@");
    followed.until(View::Exact, [1, 2]).await;
    engine.store(Some(2), 3, false);
    followed.until(View::Exact, [1, 2, 3]).await;
    engine.store(Some(3), 4, true);
    engine.store(Some(4), 5, false);
    let status = followed.until(View::Exact, 1..=5).await;
    assert!(status.counters.replays >= 2 && status.counters.gaps >= 1, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_follower_catches_up_by_replay_and_repairs_a_gap() {
    joins_late_then_follows("topic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_without_a_topic_are_understood_too() {
    joins_late_then_follows("bare").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_ipc_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("ipc://{}", folder.path().join(name).display());
    let mut engine = Peer::engine(&at("live"), &at("replay"), "topic", false, 100);
    engine.store(None, 1, false);
    let followed = Followed::start(&at("live"), Some(&at("replay")), false, "");
    followed.until(View::Exact, [1]).await;
    engine.store(Some(1), 2, false);
    followed.until(View::Exact, [1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_that_has_moved_on_makes_the_view_stale_until_a_clear() {
    let mut engine = Peer::engine(ANY, ANY, "topic", false, 2);
    for hash in 1..=5 {
        engine.store((hash > 1).then(|| hash - 1), hash, false);
    }
    let followed = Followed::start(of(&engine, "live"), Some(of(&engine, "replay")), false, "kv@");
    followed.until(View::Stale, []).await;
    engine.ask(&json!({ "events": [{ "type": "AllBlocksCleared" }] }));
    followed.until(View::Exact, []).await;
    engine.store(None, 9, false);
    followed.until(View::Exact, [9]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_is_noticed_and_its_next_life_replaces_the_old_view() {
    let mut engine = Peer::engine(ANY, ANY, "topic", false, 100);
    engine.store(None, 1, false);
    let (live, replay) = (of(&engine, "live").to_owned(), of(&engine, "replay").to_owned());
    let followed = Followed::start(&live, Some(&replay), false, "kv@");
    followed.until(View::Exact, [1]).await;
    engine.child.kill().unwrap();
    followed.until(View::Recovering, [1]).await;
    drop(engine);
    let mut engine = Peer::engine(&live, &replay, "topic", false, 100);
    engine.store(None, 21, false);
    engine.store(Some(21), 22, false);
    followed.until(View::Exact, [21, 22]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_connects_is_followed_by_binding() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let live = format!("tcp://127.0.0.1:{port}");
    let mut engine = Peer::engine(&live, ANY, "topic", true, 100);
    // Said while nobody was there to hear it.
    engine.store(None, 1, false);
    let followed = Followed::start(&live, Some(of(&engine, "replay")), true, "kv@");
    followed.until(View::Exact, [1]).await;
    engine.store(Some(1), 2, false);
    engine.store(Some(2), 3, false);
    followed.until(View::Exact, [1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_batch_is_counted_and_does_not_end_the_stream() {
    let mut engine = Peer::engine(ANY, ANY, "topic", false, 100);
    engine.store(None, 1, false);
    let followed = Followed::start(of(&engine, "live"), Some(of(&engine, "replay")), false, "kv@");
    followed.until(View::Exact, [1]).await;
    engine.ask(&json!({ "raw": "c1" }));
    let status = followed.until(View::Stale, [1]).await;
    assert!(status.counters.undecodable >= 1, "{status:?}");
    engine.store(Some(1), 2, false);
    followed.until(View::Stale, [1, 2]).await;
}

// === Our publisher, heard by libzmq ===

#[tokio::test(flavor = "multi_thread")]
async fn libzmq_hears_our_publisher_and_its_replay_begins_where_the_ring_does() {
    let settings = stock::Settings {
        endpoint: "tcp://127.0.0.1:0".to_owned(),
        replay: Some("tcp://127.0.0.1:0".to_owned()),
        topic: "kv@sim".to_owned(),
        buffer_steps: 3,
    };
    let publisher = Publisher::start(settings).await.unwrap();
    let (live, replay) = (publisher.endpoint().to_owned(), publisher.replay_endpoint().unwrap().to_owned());
    let batch = Batch { timestamp: 1.0, said: vec![Said::Cleared], rank: Some(0), epoch: None, state: None };
    let (heard, covered, evicted, next, bare) = tokio::task::spawn_blocking(move || {
        let mut peer = Peer::start(&json!({ "role": "subscriber", "live": live, "replay": replay }));
        // The subscription is on its way: say one thing until it is heard.
        let heard = loop {
            publisher.publish(&batch);
            writeln!(peer.child.stdin.as_mut().unwrap(), "{}", json!({ "hear": 1 })).unwrap();
            (0..20).for_each(|_| publisher.publish(&batch));
            let heard = peer.answer();
            if heard["heard"].as_array().is_some_and(|heard| !heard.is_empty()) {
                break heard;
            }
        };
        let ask = |peer: &mut Peer, from: u64, delimiter: bool, patience: u64| {
            peer.ask(&json!({ "ask": from, "delimiter": delimiter, "patience": patience }))
        };
        let evicted = ask(&mut peer, 0, true, 10_000);
        let last = evicted["frames"].as_array().unwrap().last().unwrap()[1].as_u64().unwrap();
        let covered = ask(&mut peer, last, true, 10_000);
        let next = ask(&mut peer, last + 1, true, 10_000);
        let bare = ask(&mut peer, 0, false, 300);
        (heard, covered, evicted, next, bare)
    })
    .await
    .unwrap();
    assert_eq!(heard["heard"][0][0], "kv@sim");
    let sequences = |answer: &Value| -> Vec<u64> {
        answer["frames"].as_array().unwrap().iter().map(|frame| frame[1].as_u64().unwrap()).collect()
    };
    let begins = sequences(&evicted)[0];
    assert!(begins > 0, "the start was evicted, and nothing but this number says so");
    assert_eq!(sequences(&evicted), [begins, begins + 1, begins + 2]);
    assert_eq!(sequences(&covered), [begins + 2]);
    assert_eq!((sequences(&next), &next["ended"]), (vec![], &json!(true)));
    assert_eq!((sequences(&bare), &bare["ended"]), (vec![], &json!(false)), "no delimiter, no answer");
}
