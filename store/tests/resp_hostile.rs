//! Clients that mean harm, or have gone wrong: each is cut off by its bound, and others are served meanwhile.
//!
//! Real sockets. Nothing here takes a time for granted: what is claimed is that something ends, not when.

#[path = "frames/mod.rs"]
mod frames;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::client::{Client, Error, Options};
use store::resp::access::Access;
use store::resp::command::TABLE;
use store::resp::fake::{Fake, Pace};
use store::resp::{Code, Put, Server, Settings, Tenant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use frames::encode;

/// Nothing takes so long.
const EVER: Duration = Duration::from_secs(30);

struct Ground {
    server: Server<Fake>,
    fake: Fake,
    address: String,
}

async fn ground(settings: Settings) -> Ground {
    ground_of(Fake::new(64 << 20, Pace::Now), settings).await
}

async fn ground_of(fake: Fake, settings: Settings) -> Ground {
    let server = Server::new(Arc::new(fake.clone()), settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, &[], pending(), Duration::ZERO).await });
    Ground { server, fake, address }
}

/// Short waits, so that tests are.
fn hasty() -> Settings {
    Settings { patience: Duration::from_millis(200), ..Settings::default() }
}

impl Ground {
    async fn raw(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    async fn client(&self) -> Client {
        Client::connect(&self.address, Options { patience: EVER, ..Options::default() }).await.unwrap()
    }

    /// Somebody else is served, from its first byte to its last.
    async fn serves(&self) {
        let mut client = self.client().await;
        let value = Bytes::from(vec![7; 300_000]);
        client.set(b"other", value.clone(), Put::default()).await.unwrap();
        assert_eq!(client.get(b"other").await.unwrap(), Some(value));
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = timeout(EVER, async {
            while !holds(self) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "never: {what}; {:?}", self.server.seen());
    }
}

/// Everything until the server closes.
async fn last_words(stream: &mut TcpStream) -> String {
    let mut words = Vec::new();
    let ended = timeout(EVER, stream.read_to_end(&mut words)).await.expect("it is closed");
    // A reset is an end, too.
    let _ = ended;
    String::from_utf8_lossy(&words).into_owned()
}

#[tokio::test]
async fn a_command_that_never_ends_is_cut_off() {
    let ground = ground(hasty()).await;
    let mut loris = ground.raw().await;
    let dripping = tokio::spawn(async move {
        for byte in
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$900000\r\n".iter().chain(std::iter::repeat_n(&b'x', 900_000))
        {
            if loris.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it was listened to for hours");
    });
    ground.until("it is cut off", |ground| ground.server.seen().half_sent == 1).await;
    ground.serves().await;
    timeout(EVER, dripping).await.unwrap().unwrap();
    assert_eq!(ground.server.seen().arriving, 0);
}

#[tokio::test]
async fn half_a_value_and_gone_leaves_nothing() {
    let ground = ground(Settings::default()).await;
    let mut half = ground.raw().await;
    half.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nhalf of it").await.unwrap();
    ground.until("space is taken", |ground| ground.server.seen().arriving == 1_000_000).await;
    assert_eq!(ground.fake.used(), 1_000_000);
    drop(half);
    ground.until("it is given back", |ground| ground.fake.used() == 0).await;
    ground.until("nobody is there", |ground| ground.server.seen().connections == 0).await;
    assert_eq!(ground.server.seen().arriving, 0);
    assert_eq!(ground.client().await.get(b"k").await.unwrap(), None, "it was never written");
}

#[tokio::test]
async fn a_huge_length_takes_no_space_and_the_client_stays_in_step() {
    let settings = Settings { value: 1 << 20, ..Settings::default() };
    let ground = ground(settings).await;
    let mut liar = ground.raw().await;
    liar.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000000\r\n").await.unwrap();
    let mut client = ground.client().await;
    let large = client.set(b"k", Bytes::from(vec![1; (1 << 20) + 1]), Put::default()).await;
    let Err(Error::Refused(refusal)) = large else { panic!("{large:?}") };
    assert_eq!(refusal.code, Code::TooLarge);
    assert_eq!(ground.fake.used(), 0);
    client.ping().await.unwrap();
    let full = ground
        .client()
        .await
        .set_many(
            (0..80)
                .map(|i| store::client::Write {
                    key: Bytes::from(format!("{i}")),
                    value: Bytes::from(vec![1; 1 << 20]),
                    put: Put::default(),
                })
                .collect(),
        )
        .await
        .unwrap();
    let (stored, refused): (Vec<_>, Vec<_>) = full.into_iter().partition(Result::is_ok);
    assert_eq!((stored.len(), refused.len()), (64, 16), "each item has its own outcome");
    assert!(refused.iter().all(|refused| refused.as_ref().is_err_and(|refusal| refusal.code == Code::Full)));
    drop(liar);
}

/// A value that is a command if somebody takes it for one, wherever it is cut off.
fn tempting(len: usize) -> Vec<u8> {
    b"\r\n*3\r\n$3\r\nSET\r\n$6\r\nstolen\r\n$1\r\n1".iter().copied().cycle().take(len).collect()
}

#[tokio::test]
async fn a_value_that_is_refused_is_read_to_its_end_and_nothing_in_it_is_a_command() {
    const ROOM: usize = 150_000;
    let settings = || Settings { value: 200_000, arriving: 100_000, ..Settings::default() };
    let check = async |settings: Settings, sent: &[&[u8]], word: &str| {
        for pace in [Pace::Now, Pace::Later] {
            let ground = ground_of(Fake::new(ROOM, pace), settings.clone()).await;
            let mut stream = ground.raw().await;
            let frame = encode(sent);
            // At once, and in two parts.
            for parts in [frame.len(), frame.len() / 2] {
                for part in frame.chunks(parts.max(1)) {
                    stream.write_all(part).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            stream.write_all(b"*1\r\n$4\r\nPING\r\nQUIT\r\n").await.unwrap();
            let words = last_words(&mut stream).await;
            let lines: Vec<&str> = words.split_terminator("\r\n").collect();
            let shown = sent[0].escape_ascii();
            assert_eq!(lines.len(), 4, "{shown}: {words}");
            assert!(lines[..2].iter().all(|line| line.starts_with(word)), "{shown}: {words}");
            let after = if word == "-NOAUTH" { "-NOAUTH Authentication required." } else { "+PONG" };
            assert_eq!(lines[2..], [after, "+OK"], "{shown}");
            ground.until("all is given back", |ground| ground.server.seen().connections == 0).await;
            assert_eq!((ground.server.seen().arriving, ground.fake.used()), (0, 0), "{shown}");
        }
    };
    for len in [200_001, 1 << 20] {
        check(settings(), &[b"SET", b"k", &tempting(len)], "-TOOLARGE").await;
        check(settings(), &[b"MSET", b"a", b"1", b"b", &tempting(len)], "-TOOLARGE").await;
    }
    check(settings(), &[b"SET", b"k", &tempting(ROOM + 1)], "-FULL").await;
    check(settings(), &[b"SET", b"k", &tempting(120_000)], "-BUSY").await;
    check(settings(), &[b"MSET", b"a", b"1", b"b", &tempting(120_000)], "-BUSY").await;
    let long = vec![b'k'; settings().command.argument + 1];
    check(settings(), &[b"SET", &long, &tempting(10_000)], "-TOOLARGE").await;
    check(settings(), &[b"MSET", b"a", b"1", b"b", &tempting(10_000), b"c"], "-ERR wrong number").await;
    check(settings(), &[b"SETEX", b"k", b"soon", &tempting(10_000)], "-ERR value is not an integer").await;
    check(settings(), &[b"SET", b"k", &tempting(10_000), b"EX", b"0"], "-ERR invalid expire time").await;
    check(settings(), &[b"SETT", b"k", &tempting(3_000)], "-ERR unknown command").await;
    let mut access = Access::default();
    access.allow(Tenant::new("a"), b"secret-a");
    check(Settings { access, ..settings() }, &[b"SET", b"k", &tempting(10_000)], "-NOAUTH").await;
}

#[tokio::test]
async fn all_values_that_arrive_at_once_are_bounded() {
    let ground = ground(Settings { arriving: 3_000_000, ..Settings::default() }).await;
    let mut liars = Vec::new();
    for _ in 0..5 {
        let mut liar = ground.raw().await;
        liar.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n").await.unwrap();
        liars.push(liar);
    }
    ground.until("three are let in", |ground| ground.server.seen().arriving == 3_000_000).await;
    let busy = ground.client().await.set(b"k", Bytes::from(vec![0; 100_000]), Put::default()).await;
    assert!(matches!(busy, Err(Error::Refused(refusal)) if refusal.code == Code::Busy));
    assert!(ground.fake.used() <= 3_100_000);
    drop(liars);
    ground.until("they are gone", |ground| ground.server.seen().arriving == 0).await;
    ground.serves().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    const MOST: usize = 200;
    let ground = ground(Settings { connections: MOST, ..Settings::default() }).await;
    let mut kept = Vec::new();
    for _ in 0..MOST {
        let mut client = ground.client().await;
        client.ping().await.unwrap();
        kept.push(client);
    }
    for _ in 0..10_000 - MOST {
        let mut refused = ground.raw().await;
        assert_eq!(last_words(&mut refused).await, "-ERR max number of clients reached\r\n");
    }
    let seen = ground.server.seen();
    assert_eq!((seen.connections, seen.turned_away), (MOST, 10_000 - MOST as u64));
    assert_eq!(seen.accepted, MOST as u64, "who was turned away was never let in");
    for client in &mut kept {
        client.ping().await.unwrap();
    }
    drop(kept);
    ground.until("they are gone", |ground| ground.server.seen().connections == 0).await;
    ground.serves().await;
}

#[tokio::test]
async fn who_never_reads_holds_a_bounded_part_and_is_cut_off() {
    const VALUE: usize = 1 << 20;
    let settings = Settings { unsent: 4 * VALUE, patience: Duration::from_secs(1), ..Settings::default() };
    let ground = ground(settings).await;
    let mut client = ground.client().await;
    client.set(b"large", Bytes::from(vec![3; VALUE]), Put::default()).await.unwrap();
    let mut deaf = ground.raw().await;
    let asking =
        tokio::spawn(
            async move { while deaf.write_all(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n").await.is_ok() {} },
        );
    ground.until("answers were given", |ground| ground.server.seen().hits > 4).await;
    ground.serves().await;
    // The value is replaced while it is lent: what is lent stays, and is counted, until the reader is gone.
    client.set(b"large", Bytes::from_static(b"new"), Put::default()).await.unwrap();
    client.remove(&[b"other"]).await.unwrap();
    ground.until("it is cut off", |ground| ground.server.seen().unread == 1).await;
    timeout(EVER, asking).await.unwrap().unwrap();
    ground.until("what it held is free", |ground| ground.fake.used() == 3).await;
    let seen = ground.server.seen();
    assert!(seen.hits < 100, "it was answered far beyond what may wait: {seen:?}");
}

#[tokio::test]
async fn what_is_not_the_protocol_is_said_and_closed() {
    let ground = ground(Settings::default()).await;
    let check = async |sent: &[u8], words: &str| {
        let mut stream = ground.raw().await;
        stream.write_all(sent).await.unwrap();
        assert_eq!(last_words(&mut stream).await, words, "{:?}", String::from_utf8_lossy(sent));
    };
    check(b"*1\r\n$4\r\nPING\r\n*x\r\n", "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n").await;
    check(b"*1\r\n:4\r\n", "-ERR Protocol error: expected '$', got ':'\r\n").await;
    check(b"*1\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n").await;
    check(b"GET \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n").await;
    check(&vec![b'x'; 70_000], "-ERR Protocol error: too big inline request\r\n").await;
    check(b"*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPING\r\n", "+OK\r\n").await;
    assert_eq!(ground.server.seen().broken, 5);
    ground.serves().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_all() {
    let ground = ground(Settings::default()).await;
    let mut stream = ground.raw().await;
    stream.write_all(b"SET k v\r\nGET k\r\nPING").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(last_words(&mut stream).await, "+OK\r\n$1\r\nv\r\n");
}

#[tokio::test]
async fn who_does_nothing_is_closed_where_that_is_set_and_nowhere_else() {
    let ground = ground(Settings { idle: Some(Duration::from_millis(50)), ..hasty() }).await;
    let mut idle = ground.raw().await;
    assert_eq!(last_words(&mut idle).await, "");
    assert_eq!(ground.server.seen().idle, 1);
    let ground = self::ground(hasty()).await;
    let mut idle = ground.client().await;
    sleep(Duration::from_secs(1)).await;
    idle.ping().await.unwrap();
}

#[tokio::test]
async fn a_key_opens_its_tenant_and_no_other() {
    let mut access = Access::default();
    access.allow(Tenant::new("a"), b"secret-a");
    access.allow(Tenant::new("a"), b"second-a");
    access.allow(Tenant::new("b"), b"secret-b");
    let ground = ground(Settings { access, ..Settings::default() }).await;
    let options =
        |name: &str, key: &str| Options { key: Some((name.into(), key.into())), ..Options::default() };
    let enter = async |name: &str, key: &str| Client::connect(&ground.address, options(name, key)).await;
    let mut a = enter("a", "secret-a").await.unwrap();
    a.set(b"k", Bytes::from_static(b"of a"), Put::default()).await.unwrap();
    let mut b = enter("default", "secret-b").await.unwrap();
    assert_eq!(b.get(b"k").await.unwrap(), None);
    assert_eq!(b.count().await.unwrap(), 0);
    assert_eq!(b.scan(0, 10, None).await.unwrap().keys.len(), 0);
    assert_eq!(b.remove(&[b"k"]).await.unwrap(), [Ok(false)]);
    assert_eq!(
        enter("a", "second-a").await.unwrap().get(b"k").await.unwrap(),
        Some(Bytes::from_static(b"of a"))
    );
    for (name, key) in
        [("a", "secret-b"), ("b", "secret-a"), ("a", ""), ("a", "secret-aa"), ("c", "secret-a")]
    {
        let refused = enter(name, key).await;
        assert!(
            matches!(&refused, Err(Error::Refused(refusal)) if refusal.code == Code::WrongPass),
            "{refused:?}"
        );
    }
    let mut stranger = ground.client().await;
    let refused = stranger.get(b"k").await;
    assert!(matches!(&refused, Err(Error::Refused(refusal)) if refusal.code == Code::NoAuth), "{refused:?}");
    let refused = stranger.set(b"k", Bytes::from(vec![0; 10_000]), Put::default()).await;
    assert!(matches!(&refused, Err(Error::Refused(refusal)) if refusal.code == Code::NoAuth), "{refused:?}");
    let mut stream = ground.raw().await;
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n").await.unwrap();
    assert_eq!(last_words(&mut stream).await, "-ERR Protocol error: unauthenticated bulk length\r\n");
}

#[tokio::test]
async fn who_has_not_said_who_they_are_is_told_nothing_but_that() {
    let mut access = Access::default();
    access.allow(Tenant::new("a"), b"secret-a");
    let ground = ground(Settings { access, ..Settings::default() }).await;
    let mut stream = ground.raw().await;
    let closed = TABLE.iter().filter(|command| !["AUTH", "HELLO", "QUIT", "RESET"].contains(&command.name));
    let closed: Vec<_> = closed.collect();
    for command in &closed {
        let more = command.arity.unsigned_abs() as usize - 1;
        let words = "$1\r\n1\r\n".repeat(more);
        let sent = format!("*{}\r\n${}\r\n{}\r\n{words}", more + 1, command.name.len(), command.name);
        stream.write_all(sent.as_bytes()).await.unwrap();
    }
    stream.write_all(b"QUIT\r\n").await.unwrap();
    let words = last_words(&mut stream).await;
    assert_eq!(words, "-NOAUTH Authentication required.\r\n".repeat(closed.len()) + "+OK\r\n");
    ground.until("it is counted", |ground| ground.server.seen().connections == 0).await;
    assert_eq!(ground.server.seen().refusals, [("NOAUTH", closed.len() as u64)]);
    assert_eq!(ground.fake.used(), 0);
}

#[tokio::test]
async fn the_end_waits_for_what_was_begun() {
    let fake = Fake::new(1 << 20, Pace::Now);
    let server = Server::new(Arc::new(fake), Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.clone();
    let serves = tokio::spawn(async move {
        serving.serve(listener, &[], async { drop(stopped.await) }, EVER).await;
    });
    let mut idle = TcpStream::connect(&address).await.unwrap();
    let mut half = TcpStream::connect(&address).await.unwrap();
    half.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$30000\r\n").await.unwrap();
    while server.seen().arriving == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    assert_eq!(last_words(&mut idle).await, "");
    half.write_all(&vec![b'x'; 30_000]).await.unwrap();
    half.write_all(b"\r\n").await.unwrap();
    assert_eq!(last_words(&mut half).await, "+OK\r\n");
    timeout(EVER, serves).await.unwrap().unwrap();
    assert!(TcpStream::connect(&address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_call_that_was_dropped_midway_is_not_answered_with_the_next() {
    let ground = ground(Settings::default()).await;
    let mut client = ground.client().await;
    tokio::select! {
        biased;
        answer = client.get(b"a") => panic!("{answer:?} before anything was waited for"),
        () = async {} => (),
    }
    assert!(matches!(client.get(b"b").await, Err(Error::Broken)));
}
