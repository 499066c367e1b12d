//! What a master in another process and objects on another node cost: the same questions here, over loopback sockets, and what
//! a bare socket does in the same run.
//!
//! `cargo bench -p warmline-store --bench link`

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::link::{Alone, Masters, Net, PeerServer, Remote, Settings};
use store::master::Deaf;
use store::master::options::Options;
use store::node::desk::{Desk, Local, Nobody};
use store::node::peers::Peers;
use store::node::{self, Node};
use store::resp::contract::{Part, Put, Sink, Store, Tenant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const MIB: usize = 1 << 20;
const BATCH: usize = 128;
const FOR: Duration = Duration::from_millis(700);

async fn remote(id: &str, memory: u64, master: &str) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let remote = Remote::start(Settings::default(), vec![master.to_owned()], address);
    remote.found().await;
    let peers: Arc<dyn Peers> = Arc::new(Net::new(remote.book().clone(), Settings::default()));
    let options = node::Options::new(id, memory);
    let node = Node::begin(options, Arc::new(remote), Some(peers), 1, None).await.expect("a node");
    let serves = PeerServer::new(node.clone(), Settings::default());
    tokio::spawn(async move { serves.serve(listener, std::future::pending()).await });
    node
}

async fn put(node: &Node, key: &[u8], len: usize) {
    let mut sink = node.reserve(&Tenant::default(), key, len).wait().await.expect("space");
    sink.space().fill(7);
    sink.commit(Put::default()).wait().await.expect("a put");
}

/// How many times a second this can be done, so many at a time.
async fn rate<F, T>(at_once: usize, each: impl Fn(usize) -> F) -> f64
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let (begin, mut done) = (Instant::now(), 0_usize);
    let mut under_way = tokio::task::JoinSet::new();
    while begin.elapsed() < FOR || !under_way.is_empty() {
        while under_way.len() < at_once && begin.elapsed() < FOR {
            under_way.spawn(each(done + under_way.len()));
        }
        if under_way.join_next().await.is_some() {
            done += 1;
        }
    }
    done as f64 / begin.elapsed().as_secs_f64()
}

fn keys() -> Arc<Vec<Vec<u8>>> {
    Arc::new((0..BATCH).map(|number| format!("block:{number:016x}").into_bytes()).collect())
}

async fn exists(node: &Node, at_once: usize) -> f64 {
    let keys = keys();
    for key in keys.iter() {
        put(node, key, 64).await;
    }
    let per_second = rate(at_once, |_| {
        let (node, keys) = (node.clone(), keys.clone());
        async move {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            black_box(node.look_many(&Tenant::default(), &keys).wait().await.expect("an answer")).len()
        }
    });
    per_second.await * BATCH as f64
}

async fn get(node: &Node, len: usize, at_once: usize) -> f64 {
    rate(at_once, |turn| {
        let (node, key) = (node.clone(), format!("value-{len}-{}", turn % 16));
        async move {
            let got =
                node.get(&Tenant::default(), key.as_bytes(), Part::Whole).wait().await.expect("an answer");
            assert_eq!(got.expect("a value").len(), len);
        }
    })
    .await
}

/// A question of a few bytes and an answer of so many, on a bare socket: what there is to be had at best.
async fn floor(len: usize, at_once: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (value, mut ask) = (vec![7; len], [0; 64]);
                while stream.read_exact(&mut ask).await.is_ok() && stream.write_all(&value).await.is_ok() {}
            });
        }
    });
    let ways = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    for _ in 0..at_once {
        let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        ways.lock().await.push((stream, vec![0; len]));
    }
    rate(at_once, |_| {
        let ways = ways.clone();
        async move {
            let (mut stream, mut value) = ways.lock().await.pop().expect("a way for each");
            stream.write_all(&[0; 64]).await.expect("a question");
            stream.read_exact(&mut value).await.expect("an answer");
            ways.lock().await.push((stream, value));
        }
    })
    .await
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let make =
            |term| Local::new(Options { term, ..Options::default() }, Arc::new(Deaf), Arc::new(Nobody));
        let settings = Settings { settle: Duration::ZERO, ..Settings::default() };
        let masters = Masters::new(settings, Arc::new(Alone::new(1)), make);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let serves = masters.clone();
        tokio::spawn(async move { serves.serve(listener, std::future::pending()).await });

        let desk: Arc<dyn Desk> = Arc::new(make(1));
        let here =
            Node::begin(node::Options::new("here", 256 << 20), desk, None, 1, None).await.expect("a node");
        let large = remote("large", 256 << 20, &address).await;
        let small = remote("small", 0, &address).await;
        for len in [4 << 10, MIB] {
            for number in 0..16 {
                let key = format!("value-{len}-{number}");
                put(&here, key.as_bytes(), len).await;
                put(&large, key.as_bytes(), len).await;
            }
        }
        println!("{:44} {:>14}", "EXISTS of 128", "keys/s");
        println!("{:44} {:>14.0}", "master in this process, 1 at a time", exists(&here, 1).await);
        println!("{:44} {:>14.0}", "master elsewhere, 1 at a time", exists(&large, 1).await);
        println!("{:44} {:>14.0}", "master in this process, 32 at a time", exists(&here, 32).await);
        println!("{:44} {:>14.0}", "master elsewhere, 32 at a time", exists(&large, 32).await);
        for (len, unit) in [(4 << 10, "4 KiB"), (MIB, "1 MiB")] {
            for at_once in [1, 16] {
                println!(
                    "\n{:44} {:>14} {:>10}",
                    format!("GET {unit}, {at_once} at a time"),
                    "a second",
                    "MiB/s"
                );
                let line = |what: &str, rate: f64| {
                    println!("{what:44} {rate:>14.0} {:>10.0}", rate * len as f64 / MIB as f64);
                };
                line("in memory here, master in this process", get(&here, len, at_once).await);
                line("in memory here, master elsewhere", get(&large, len, at_once).await);
                line("in memory of another node", get(&small, len, at_once).await);
                line("a bare socket", floor(len, at_once).await);
            }
        }
    });
}
