//! Simulated engines before a store behind a real socket: what one computed another loads, and a store in trouble costs no answer.

use blocks::TokensHash;
use sim::engine::second::Second;
use sim::http::{Behind, Running, Settings, serve_before};
use store::resp::fake::{Fake, Pace};
use store::resp::{self, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

const BLOCK: usize = 16 * 64;

/// A store behind a socket that can be ended, with every connection.
struct Standing {
    fake: Fake,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Standing {
    async fn end(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

/// A store of so many bytes.
async fn store(bytes: usize) -> (String, Standing) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fake = Fake::new(bytes, Pace::Later);
    let server = Server::new(Arc::new(fake.clone()), resp::Settings::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        server.serve(listener, &[], async move { drop(stopped.await) }, Duration::ZERO).await;
    });
    (address, Standing { fake, stop, task })
}

fn shelf(address: &str) -> Shelf {
    Shelf::new(Options { pause: Duration::ZERO, ..Options::new(address, "m") })
}

fn kept(number: u64) -> Kept {
    let parent = number.checked_sub(1).map(PrefixHash);
    Kept { prefix: PrefixHash(number), parent, tokens: TokensHash(number * 7) }
}

fn chain(blocks: std::ops::Range<u64>) -> Vec<PrefixHash> {
    blocks.map(PrefixHash).collect()
}

#[tokio::test]
async fn blocks_are_values_under_names_that_say_what_they_are() {
    let (address, _standing) = store(1 << 20).await;
    let shelf = shelf(&address);
    let blocks =
        |range: std::ops::Range<u64>| range.map(|i| (kept(i), Bytes::from(vec![i as u8; BLOCK]))).collect();
    let written = shelf.put(blocks(0..5)).await.unwrap();
    assert_eq!(written, Written { stored: 5, ..Written::default() });
    let again = shelf.put(blocks(3..8)).await.unwrap();
    assert_eq!(again, Written { stored: 3, known: 2, refused: 0 });
    assert_eq!(shelf.look(chain(2..20)).await, Ok(6));
    let values = shelf.get(chain(6..20)).await.unwrap();
    assert_eq!(values, [vec![6; BLOCK], vec![7; BLOCK]]);
    let mut client = Client::connect(&address, client::Options::default()).await.unwrap();
    assert_eq!(client.count().await.unwrap(), 8);
    assert_eq!(client.get(b"kv:m:0000000000000003").await.unwrap().unwrap(), vec![3; BLOCK]);
    // Those of another model are others.
    let other = Shelf::new(Options::new(&address, "n"));
    assert_eq!(other.look(chain(0..3)).await, Ok(0));
}

#[tokio::test]
async fn the_command_says_which_block_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let last = b"NX\r\n";
        while !heard.ends_with(last) && stream.read_buf(&mut heard).await.unwrap() > 0 {}
        stream.write_all(b"+OK\r\n").await.unwrap();
        heard
    });
    let written = shelf(&address).put(vec![(kept(1), Bytes::from_static(b"value"))]).await.unwrap();
    assert_eq!(written.stored, 1);
    let text = String::from_utf8(heard.await.unwrap()).unwrap();
    let words: Vec<&str> = text.split("\r\n").filter(|word| !word.starts_with(['$', '*'])).collect();
    let block = ["BLOCK", "0000000000000001", "0000000000000000", "0000000000000007"];
    assert_eq!(words[..3], ["SET", "kv:m:0000000000000001", "value"]);
    assert_eq!((&words[3..7], words[7]), (&block[..], "NX"));
}

#[tokio::test]
async fn whatever_is_wrong_with_a_store_is_an_error_in_words_and_it_is_tried_again() {
    let (address, standing) = store(4 * BLOCK).await;
    let blocks =
        |range: std::ops::Range<u64>| range.map(|i| (kept(i), Bytes::from(vec![0; BLOCK]))).collect();
    let shelf = shelf(&address);
    let written = shelf.put(blocks(0..8)).await.unwrap();
    assert_eq!((written.stored, written.refused), (4, 4), "full");
    standing.end().await;
    let why = shelf.look(chain(0..3)).await.unwrap_err();
    assert!(why.starts_with(&format!("the store at {address}: ")), "{why}");
    // Somebody who takes the connection and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        patience: Duration::from_millis(50),
        ..Options::new(&mute.local_addr().unwrap().to_string(), "m")
    };
    let why = Shelf::new(options).look(chain(0..3)).await.unwrap_err();
    assert!(why.ends_with("the node did not answer in time"), "{why}");
    // After a failure nobody connects for a moment.
    let nobody = Shelf::new(Options { pause: Duration::from_hours(1), ..Options::new("127.0.0.1:1", "m") });
    nobody.look(chain(0..1)).await.unwrap_err();
    let why = nobody.look(chain(0..1)).await.unwrap_err();
    assert_eq!(why, "the store at 127.0.0.1:1 failed a moment ago");
}

// === Engines ===

/// An engine before a store; its patience is no part of what is tested.
async fn engine(shelf: Shelf) -> Running {
    let mut settings = Settings { speed: 50.0, events: None, ..Settings::default() };
    settings.shape.second = Some(Second { patience: 1e6, ..Second::default() });
    serve_before(settings, Some(Behind { offload: Arc::new(shelf), bytes_a_token: 64 })).await.unwrap()
}

async fn http(engine: &Running, request: String) -> String {
    let mut stream = TcpStream::connect(engine.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Prompt, cached and loaded tokens of one request.
async fn ask(engine: &Running) -> (u64, u64, u64) {
    let body = serde_json::json!({"model": "sim", "prompt": "a question that is always the same ".repeat(20), "max_tokens": 3});
    let body = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: engine\r\nconnection: close\r\ncontent-type: application/json";
    let answer = http(engine, format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let usage = serde_json::from_str::<serde_json::Value>(body).unwrap()["usage"].clone();
    let details = &usage["prompt_tokens_details"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
    (number(&usage["prompt_tokens"]), number(&details["cached_tokens"]), number(&details["loaded_tokens"]))
}

/// Waits until an engine's metric is at least so much.
async fn until(engine: &Running, name: &str, least: f64) {
    loop {
        let text =
            http(engine, "GET /metrics HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n".to_owned()).await;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        if line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= least {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_engine_loads_what_another_computed_over_the_wire() {
    let (address, _standing) = store(64 << 20).await;
    let (one, two) = (engine(shelf(&address)).await, engine(shelf(&address)).await);
    assert_eq!(ask(&one).await, (700, 0, 0));
    until(&one, "sim:blocks_offloaded_total", 43.0).await;
    assert_eq!(ask(&two).await, (700, 688, 688));
    assert_eq!(ask(&two).await, (700, 688, 0), "it has them itself now");
}

#[tokio::test]
async fn engines_answer_when_the_store_is_full_or_dies() {
    let (address, standing) = store(5 * BLOCK).await;
    let (one, two) = (engine(shelf(&address)).await, engine(shelf(&address)).await);
    ask(&one).await;
    until(&one, "sim:blocks_refused_total", 38.0).await;
    assert!(standing.fake.used() > 0);
    assert_eq!(ask(&two).await, (700, 80, 80), "what found room");
    standing.end().await;
    let three = engine(shelf(&address)).await;
    assert_eq!(ask(&three).await, (700, 0, 0));
    until(&three, "sim:loads_failed_total", 1.0).await;
    until(&three, "sim:blocks_refused_total", 43.0).await;
}
