//! The kit does what it says, with real servers: each fault leaves the trace in the server that it promises.

use std::path::Path;
use std::time::Duration;

use coord::kit::proxy::{Count, Fault, Proxy};
use coord::kit::servers::{Options, Persistence, Server};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, Value};

/// Longer than anything here takes. What must not happen is never waited for this long.
const PATIENCE: Duration = Duration::from_secs(30);

async fn server() -> Server {
    Server::start(Options::default()).await.unwrap()
}

/// A connection that sets itself up as clients do, and then waits for its replies with patience.
async fn connect(dsn: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    Client::open(dsn)?.get_multiplexed_async_connection_with_config(&config).await
}

async fn ask<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> RedisResult<T> {
    redis::Cmd::new().arg(words).query_async(connection).await
}

async fn counter(server: &Server) -> Option<u64> {
    redis::from_redis_value(server.send(&["GET", "counter"]).await.unwrap()).unwrap()
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

// === Servers ===

#[tokio::test]
async fn nothing_is_left_of_a_server() {
    let server = server().await;
    let (pid, folder, address) = (server.pid().unwrap(), server.folder().to_owned(), server.address());
    assert!(runs(pid) && folder.exists());
    drop(server);
    assert!(!runs(pid) && !folder.exists());
    tokio::net::TcpStream::connect(address).await.unwrap_err();
}

/// The thread that started a server ends before the server is used.
#[test]
fn a_server_outlives_the_thread_that_started_it() {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = std::thread::spawn(move || run().block_on(server())).join().unwrap();
    run().block_on(server.send(&["PING"])).unwrap();
}

#[tokio::test]
async fn without_persistence_a_kill_forgets_everything() {
    let mut server = server().await;
    server.send(&["INCR", "counter"]).await.unwrap();
    let (port, pid) = (server.port(), server.pid().unwrap());
    server.kill();
    assert!(!runs(pid) && server.pid().is_none());
    server.send(&["PING"]).await.unwrap_err();
    server.restart().await.unwrap();
    assert_eq!((server.port(), counter(&server).await), (port, None));
}

#[tokio::test]
async fn with_aof_a_kill_forgets_nothing() {
    let mut server =
        Server::start(Options { persistence: Persistence::Aof, ..Options::default() }).await.unwrap();
    for _ in 0..100 {
        server.send(&["INCR", "counter"]).await.unwrap();
    }
    server.restart().await.unwrap();
    assert_eq!(counter(&server).await, Some(100));
}

#[tokio::test]
async fn a_stopped_world_answers_when_it_goes_on() {
    let server = server().await;
    let mut connection = connect(&server.dsn()).await.unwrap();
    server.stop_the_world();
    let asked = tokio::spawn(async move { ask::<u64>(&mut connection, &["INCR", "counter"]).await });
    // Not a matter of time: nothing could ever answer.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!asked.is_finished());
    server.go_on();
    assert_eq!(asked.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn a_flush_empties_it() {
    let server = server().await;
    server.send(&["INCR", "counter"]).await.unwrap();
    server.flush().await.unwrap();
    assert_eq!(counter(&server).await, None);
}

#[tokio::test]
async fn a_password_and_more_arguments_are_heeded() {
    let arguments = ["--maxmemory", "10mb"].map(str::to_owned).to_vec();
    let options = Options { password: Some("sesame".to_owned()), arguments, ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let memory = server.send(&["CONFIG", "GET", "maxmemory"]).await.unwrap();
    let memory: Vec<String> = redis::from_redis_value(memory).unwrap();
    assert_eq!(memory[1], (10 << 20).to_string());
    let stranger = format!("redis://{}/0", server.address());
    let refused = ask::<Value>(&mut connect(&stranger).await.unwrap(), &["PING"]).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"));
}

#[tokio::test]
async fn a_start_that_fails_shows_the_log() {
    let wrong = Options { arguments: vec!["--no-such-thing".to_owned()], ..Options::default() };
    let error = Server::start(wrong).await.unwrap_err();
    assert!(error.contains("no-such-thing"), "{error}");
    let first = server().await;
    let error = Server::start(Options { port: Some(first.port()), ..Options::default() }).await.unwrap_err();
    assert!(error.contains("Address already in use"), "{error}");
}

#[tokio::test]
async fn tls_answers_those_who_trust_its_authority() {
    let server = Server::start(Options { tls: true, ..Options::default() }).await.unwrap();
    assert!(server.dsn().starts_with("rediss://127.0.0.1:"));
    let mut trusting = server.client().unwrap().get_multiplexed_async_connection().await.unwrap();
    assert_eq!(ask::<String>(&mut trusting, &["PING"]).await.unwrap(), "PONG");
    connect(&server.dsn()).await.unwrap_err();
    connect(&server.dsn().replace("rediss", "redis")).await.unwrap_err();
}

// === The proxy ===

/// A server, a proxy in front of it and a connection through it.
async fn through_a_proxy() -> (Server, Proxy, MultiplexedConnection) {
    let server = server().await;
    let proxy = Proxy::start(server.address()).await;
    let connection = connect(&proxy.dsn()).await.unwrap();
    (server, proxy, connection)
}

#[tokio::test]
async fn a_request_whose_reply_is_cut_was_executed() {
    let (server, proxy, mut connection) = through_a_proxy().await;
    proxy.faults().set_for("incr", Fault::CutReply { nth: 1 });
    ask::<Value>(&mut connection, &["PING"]).await.unwrap();
    let error = ask::<u64>(&mut connection, &["INCR", "counter"]).await.unwrap_err();
    assert!(error.is_connection_dropped(), "{error}");
    assert_eq!(counter(&server).await, Some(1));
    assert_eq!(proxy.faults().count("INCR"), Count { forwarded: 1, replies_cut: 1, requests_cut: 0 });
    // Once only.
    let mut connection = connect(&proxy.dsn()).await.unwrap();
    assert_eq!(ask::<u64>(&mut connection, &["INCR", "counter"]).await.unwrap(), 2);
}

#[tokio::test]
async fn a_request_that_is_cut_was_not() {
    let (server, proxy, mut connection) = through_a_proxy().await;
    proxy.faults().set_for("INCR", Fault::CutRequest { nth: 1 });
    let error = ask::<u64>(&mut connection, &["INCR", "counter"]).await.unwrap_err();
    assert!(error.is_connection_dropped(), "{error}");
    assert_eq!(counter(&server).await, None);
    assert_eq!(proxy.faults().count("INCR"), Count { forwarded: 0, replies_cut: 0, requests_cut: 1 });
    let mut connection = connect(&proxy.dsn()).await.unwrap();
    assert_eq!(ask::<u64>(&mut connection, &["INCR", "counter"]).await.unwrap(), 1);
}
