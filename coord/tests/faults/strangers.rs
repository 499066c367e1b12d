//! Addresses behind which there is nobody, somebody else, or somebody who does not know us.

use std::time::Duration;

use coord::backend::{Config, Registry};
use coord::kit::servers::{Options, Server};
use coord::op::Op;
use coord::{Coord, Error, Shard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::ground::{answered, heard, instance, key};

const SECRET: &str = "hunter2";

/// Why nothing can be asked there, in words that say where, and give no password away.
async fn refusal(coord: &Coord, address: &str) -> String {
    let mut said = String::new();
    for op in [Op::Add { key: key("counter"), by: 1 }, Op::Probe { shard: Shard::REPLICAS }] {
        match coord.ask_within(&op, Duration::from_secs(4)).await {
            Err(Error::Unavailable(why)) => {
                assert!(why.contains(address) && !why.contains(SECRET), "{why}");
                said = why;
            }
            other => panic!("it was answered: {other:?}"),
        }
    }
    assert!(!coord.backend().describe().contains(SECRET));
    said
}

#[tokio::test]
async fn a_wrong_password_is_told_without_repeating_it() {
    let server =
        Server::start(Options { password: Some("sesame".to_owned()), ..Options::default() }).await.unwrap();
    let address = server.address().to_string();
    for userinfo in [format!(":{SECRET}@"), format!("nobody:{SECRET}@"), String::new()] {
        let stranger = instance(format!("redis://{userinfo}{address}/0"), "a").await;
        let said = refusal(&stranger, &address).await;
        assert!(said.to_lowercase().contains("auth") || said.contains("WRONGPASS"), "{said}");
    }
    assert_eq!(instance(server.dsn(), "a").await.add(&key("counter"), 1).await, Ok(1));
}

#[tokio::test]
async fn a_server_of_another_kind_is_not_believed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _asked = client.read(&mut [0; 4_096]).await;
                let _told = client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
            });
        }
    });
    let coord = instance(format!("redis://:{SECRET}@{address}/0"), "a").await;
    refusal(&coord, &address).await;
    serving.abort();
}

/// A server that is away is no reason not to begin; when it comes, it is used and heard.
#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_used_when_it_comes() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let address = server.address().to_string();
    server.kill();
    let (a, b) = (instance(server.dsn(), "a").await, instance(server.dsn(), "b").await);
    refusal(&a, &address).await;
    server.restart().await.unwrap();
    assert_eq!(answered("the server is there", async || a.add(&key("counter"), 1).await).await, Ok(1));
    heard(&a, &b, Shard::REPLICAS).await;
}

/// The same of every node of a cluster and every Sentinel.
#[tokio::test]
async fn nodes_and_sentinels_that_are_away_are_named() {
    let mut server = Server::start(Options::default()).await.unwrap();
    let address = server.address().to_string();
    server.kill();
    for dsn in [
        format!("redis+cluster://:{SECRET}@{address}"),
        format!("redis+sentinel://:{SECRET}@{address}/mymaster/0"),
    ] {
        refusal(&instance(dsn, "a").await, &address).await;
    }
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_at_once_in_words() {
    for (dsn, word) in [
        (format!("http://:{SECRET}@localhost"), "http"),
        (format!("redis://:{SECRET}@localhost:0"), "port"),
        (format!("redis+sentinel://:{SECRET}@localhost:1"), "master"),
    ] {
        let config = Config { backend: "redis".to_owned(), dsn, ..Config::default() };
        let Err(Error::Invalid(said)) = Registry::new().make(&config).await else { panic!("it was taken") };
        assert!(said.contains(word) && said.contains("allowed are") && !said.contains(SECRET), "{said}");
    }
}
