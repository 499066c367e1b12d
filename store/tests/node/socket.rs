//! A node behind its server, spoken to over a socket: what goes beyond the words of Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use store::client::{Client, Options as Connecting};
use store::disk::Disk;
use store::master::name::Tenant as Number;
use store::master::{Change, Residency};
use store::node::desk::{Finder, Local};
use store::node::{self, Node};
use store::resp::contract::{Block, Put, Wanted, Written};
use store::resp::{Server, Settings};

use crate::kit::{MIB, disk, options, value};

/// Knows which keys hold which blocks, as the master tells it.
#[derive(Default)]
struct Book(Mutex<Vec<Line>>);

/// A block's prefix, and the object that holds it.
type Line = (u64, Number, Box<[u8]>);

impl Residency for Book {
    fn changed(&self, change: &Change<'_>) {
        let prefix = u64::from_le_bytes(change.block.hash[..8].try_into().unwrap());
        let mut book = self.0.lock();
        book.retain(|(known, ..)| *known != prefix || change.here);
        if change.here && !book.iter().any(|(known, ..)| *known == prefix) {
            book.push((prefix, change.tenant, change.key.into()));
        }
    }
}

impl Finder for Book {
    fn keys(&self, prefixes: &[u64]) -> Vec<(Number, Box<[u8]>)> {
        let book = self.0.lock();
        let of = |prefix: &u64| book.iter().find(|(known, ..)| known == prefix);
        prefixes.iter().filter_map(of).map(|(_, tenant, key)| (*tenant, key.clone())).collect()
    }
}

struct Scene {
    desk: Local,
    node: Node,
    address: String,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

async fn scene(folder: &std::path::Path) -> Scene {
    let book = Arc::new(Book::default());
    let desk = Local::new(options(), book.clone(), book);
    let mut node_options = node::Options::new("one", 64 * MIB);
    node_options.disk = Some((folder.into(), disk(256 * MIB)));
    let opened = Disk::open(folder, disk(256 * MIB)).unwrap();
    let node = Node::begin(node_options, Arc::new(desk.clone()), None, 1, Some(opened)).await.unwrap();
    let runs = desk.clone();
    tokio::spawn(async move { runs.run().await });
    let listener = store::resp::server::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::new(Arc::new(node.clone()), Settings::default());
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(async move {
        server.serve(listener, &[], async { drop(stopped.await) }, Duration::from_secs(20)).await;
    });
    Scene { desk, node, address, stop, serving }
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_warmed_by_their_prefixes_and_cooled_by_name_or_with_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let first = scene(folder.path()).await;
    let mut client = Client::connect(&first.address, Connecting::default()).await.unwrap();
    for number in 0..3_u64 {
        let parent = number.checked_sub(1).map(|before| 0xa0 + before);
        let block = Some(Block { prefix: 0xa0 + number, parent, tokens: number });
        let put = Put { block, ..Put::default() };
        let value = Bytes::from(value(number as usize, 100_000));
        assert_eq!(client.set(format!("k{number}").as_bytes(), value, put).await.unwrap(), Written::Stored);
    }
    drop(client);
    first.stop.send(()).unwrap();
    first.serving.await.unwrap();
    first.node.end(Duration::from_secs(20)).await;
    drop(first.node);

    // What was said of blocks is on disk as well.
    let scene = scene(folder.path()).await;
    let mut client = Client::connect(&scene.address, Connecting::default()).await.unwrap();
    let minute = Duration::from_mins(1);
    let begun = client.warm("r1", minute, Wanted::Blocks(&[0xa0, 0xa1, 0xff])).await.unwrap();
    assert_eq!(begun, (2, 2));
    let counters = || scene.desk.master().counters();
    until(|| counters().promotions.completed == 2).await;
    assert_eq!(client.cool(&["r1", "r2"]).await.unwrap(), 1);
    // By key; and a name that is used again stands for the new wish only.
    assert_eq!(client.warm("r2", minute, Wanted::Keys(&[b"k0", b"none"])).await.unwrap(), (1, 0));
    assert_eq!(client.warm("r2", minute, Wanted::Keys(&[b"k2"])).await.unwrap(), (1, 1));
    until(|| counters().promotions.completed == 3).await;
    drop(client);
    until(|| scene.desk.master().gauges().awaited == 0).await;
    scene.desk.master().check().unwrap();
    let warmed = counters().warmed;
    assert_eq!(warmed.asked, warmed.in_time + warmed.gone + warmed.cancelled + warmed.too_late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_in_words_and_the_connection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let scene = scene(folder.path()).await;
    let mut client = Client::connect(&scene.address, Connecting::default()).await.unwrap();
    let wrong: [(&[&[u8]], &str); 7] = [
        (&[b"SET", b"k", b"v", b"BLOCK", b"1", b"-"], "syntax"),
        (&[b"SET", b"k", b"v", b"BLOCK", b"xyz", b"-", b"1"], "hexadecimal"),
        (&[b"SET", b"k", b"v", b"BLOCK", b"11111111111111111", b"-", b"1"], "hexadecimal"),
        (&[b"WARM", b"n", b"soon", b"KEYS", b"k"], "integer"),
        (&[b"WARM", b"n", b"10", b"THINGS", b"k"], "syntax"),
        (&[b"WARM", b"n", b"10", b"BLOCKS", b"zz"], "hexadecimal"),
        (&[b"WARM", b"n", b"0", b"KEYS", b"k"], "invalid"),
    ];
    for (words, why) in wrong {
        let reply = client.one(words).await.unwrap();
        let store::client::Reply::Refused(refusal) = reply else { panic!("{words:?}: {reply:?}") };
        assert!(refusal.words.contains(why), "{words:?}: {refusal}");
    }
    assert_eq!(client.get(b"k").await.unwrap(), None);
    client.ping().await.unwrap();
}
