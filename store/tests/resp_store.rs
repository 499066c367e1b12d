//! Commands over sockets, at once and later: what a store answers is what a client gets, in order, item by item.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::client::{Client, Options, Reply, Write};
use store::resp::contract::{Life, Look, Only, Written};
use store::resp::fake::{Fake, Pace};
use store::resp::server::Threads;
use store::resp::{Code, Put, Server, Settings};
use tokio::net::TcpListener;

async fn client(pace: Pace, settings: Settings) -> (Client, Server<Fake>) {
    let server = Server::new(Arc::new(Fake::new(256 << 20, pace)), settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, &[], pending(), Duration::ZERO).await });
    (Client::connect(&address, Options::default()).await.unwrap(), server)
}

/// Each claim holds for a store that answers at once and for one that does not.
async fn both(check: impl AsyncFn(Client)) {
    for pace in [Pace::Now, Pace::Later] {
        check(client(pace, Settings { flush: true, ..Settings::default() }).await.0).await;
    }
}

fn bytes(len: usize, seed: usize) -> Bytes {
    (0..len).map(|at| (at * 31 + seed + (at >> 8)) as u8).collect()
}

#[tokio::test]
async fn values_of_every_size_come_back_as_they_went() {
    both(async |mut client| {
        for (at, len) in
            [0, 1, 100, 4_096, 65_535, 65_536, 65_537, 1 << 20, 5_000_003].into_iter().enumerate()
        {
            let (key, value) = (format!("key\r\n\0{at}"), bytes(len, at));
            client.set(key.as_bytes(), value.clone(), Put::default()).await.unwrap();
            assert!(client.get(key.as_bytes()).await.unwrap() == Some(value.clone()), "{len} bytes");
            let mut place = vec![0; len + 3];
            assert_eq!(client.get_into(key.as_bytes(), &mut place).await.unwrap(), Some(len));
            assert!(place[..len] == value[..]);
            let part = client.get_range(key.as_bytes(), -5, -2).await.unwrap().unwrap();
            let from = len.saturating_sub(5);
            // As Redis reckons, a place before the beginning is the beginning.
            let to = if len == 0 { 0 } else { len.saturating_sub(2) + 1 };
            assert_eq!(part, value.slice(from..to), "{len} bytes");
        }
        assert_eq!(client.get(b"none").await.unwrap(), None);
        assert_eq!(client.get_into(b"none", &mut []).await.unwrap(), None);
        assert_eq!(client.get_range(b"none", 0, 1).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn conditions_and_lives() {
    both(async |mut client| {
        let put = |only, life| Put { only, life, block: None };
        let value = Bytes::from_static(b"v");
        let mut set = async |put| client.set(b"k", value.clone(), put).await.unwrap();
        assert_eq!(set(put(Only::Present, Life::Open)).await, Written::Unchanged);
        assert_eq!(set(put(Only::Absent, Life::For(Duration::from_secs(100)))).await, Written::Stored);
        assert_eq!(set(put(Only::Absent, Life::Open)).await, Written::Unchanged);
        assert_eq!(set(put(Only::Present, Life::Kept)).await, Written::Stored);
        let look = client.look(b"k").await.unwrap().unwrap();
        assert!(look.life.is_some_and(|life| life > Duration::from_secs(50)), "{look:?}");
        client.set(b"k", Bytes::new(), Put::default()).await.unwrap();
        assert_eq!(client.look(b"k").await.unwrap(), Some(Look { len: 0, life: None }));
        client.set(b"k", Bytes::new(), put(Only::Always, Life::For(Duration::from_millis(1)))).await.unwrap();
        while client.look(b"k").await.unwrap().is_some() {}
        assert_eq!(client.exist(&[b"k"]).await.unwrap(), [Ok(false)]);
    })
    .await;
}

#[tokio::test]
async fn batches_have_an_outcome_for_each_item() {
    both(async |mut client| {
        let keys: Vec<Vec<u8>> = (0..500).map(|i| format!("key:{i}").into_bytes()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let writes = |odd: bool| {
            let some = keys.iter().enumerate().filter(|(i, _)| i % 2 == usize::from(odd));
            some.map(|(i, key)| Write {
                key: Bytes::copy_from_slice(key),
                value: bytes(i * 40, i),
                put: Put::default(),
            })
            .collect::<Vec<_>>()
        };
        assert!(client.set_many(writes(false)).await.unwrap().iter().all(|one| *one == Ok(Written::Stored)));
        for (i, value) in client.get_many(&keys).await.unwrap().into_iter().enumerate() {
            assert!(value == Ok((i % 2 == 0).then(|| bytes(i * 40, i))), "{i}");
        }
        let exist = client.exist(&keys).await.unwrap();
        assert!(exist.iter().enumerate().all(|(i, there)| *there == Ok(i % 2 == 0)));
        let removed = client.remove(&keys[..100]).await.unwrap();
        assert_eq!(removed.iter().filter(|removed| **removed == Ok(true)).count(), 50);
        assert_eq!(client.count().await.unwrap(), 200);
        let mut found = Vec::new();
        let mut cursor = 0;
        loop {
            let page = client.scan(cursor, 7, Some(b"key:[1-4]*")).await.unwrap();
            found.extend(page.keys);
            cursor = page.next;
            if cursor == 0 {
                break;
            }
        }
        found.sort();
        let mut expected: Vec<_> = (100..500).step_by(2).map(|i| Bytes::from(format!("key:{i}"))).collect();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(client.one(&[b"FLUSHALL"]).await.unwrap(), Reply::Simple("OK".into()));
        assert_eq!(client.count().await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn all_of_an_mset_is_written_or_none() {
    let (mut client, _) = client(Pace::Now, Settings { value: 1_000, ..Settings::default() }).await;
    let (small, large) = (bytes(1_000, 1), bytes(1_001, 2));
    let refused = client.one(&[b"MSET", b"a", &small, b"b", &large, b"c", &small]).await.unwrap();
    assert!(matches!(refused, Reply::Refused(refusal) if refusal.code == Code::TooLarge));
    assert_eq!(client.count().await.unwrap(), 0);
    assert_eq!(client.one(&[b"MSET", b"a", &small, b"b", &small]).await.unwrap(), Reply::Simple("OK".into()));
    assert_eq!(client.get(b"b").await.unwrap(), Some(small));
}

#[tokio::test]
async fn a_pipeline_of_everything_is_answered_in_order_on_threads_of_its_own() {
    let threads = Threads::start(2).unwrap();
    let server = Server::new(Arc::new(Fake::new(64 << 20, Pace::Later)), Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = server.clone();
    let hands = threads.hands().to_vec();
    tokio::spawn(async move { serving.serve(listener, &hands, pending(), Duration::ZERO).await });
    let mut clients = Vec::new();
    for number in 0..4usize {
        let mut client = Client::connect(&address, Options::default()).await.unwrap();
        clients.push(tokio::spawn(async move {
            for round in 0..20 {
                let key = format!("{number}:{round}");
                let writes = (0..50)
                    .map(|i| Write {
                        key: Bytes::from(format!("{key}:{i}")),
                        value: bytes(i * 600, i + number),
                        put: Put::default(),
                    })
                    .collect();
                assert!(client.set_many(writes).await.unwrap().iter().all(Result::is_ok));
                for i in (0..50).step_by(7) {
                    let value = client.get(format!("{key}:{i}").as_bytes()).await.unwrap();
                    assert!(value == Some(bytes(i * 600, i + number)));
                }
                let keys: Vec<String> = (0..50).map(|i| format!("{key}:{i}")).collect();
                let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
                assert_eq!(client.remove(&keys).await.unwrap(), vec![Ok(true); 50]);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let seen = server.seen();
    assert!(seen.commands.contains(&("SET", 4 * 20 * 50)), "{seen:?}");
    assert!(seen.commands.contains(&("DEL", 4 * 20 * 50)), "{seen:?}");
}
