//! A simulated engine as its clients meet it: OpenAI's forms, vLLM's errors, and each fault that it can have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocks::PrefixHash;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sim::engine::second::{Kept, Second};
use sim::http::{Behind, Faults, Offload, Running, Settings, Soon, Written, serve, serve_before};
use tokio::net::TcpStream;

async fn engine(faults: Faults) -> Running {
    serve(Settings { speed: 100.0, loras: vec!["sql".to_owned()], faults, ..Settings::default() })
        .await
        .unwrap()
}

/// Status and body; `Err` if the connection broke.
async fn call(engine: &Running, path: &str, body: Option<Value>) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(engine.address()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("host", "engine");
    let request =
        request.header("content-type", "application/json").body(Full::new(Bytes::from(body))).unwrap();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn ask(engine: &Running, path: &str, body: Value) -> Value {
    let (status, text) = call(engine, path, Some(body)).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn hello(words: &str) -> Value {
    json!({"model": "sim", "messages": [{"role": "user", "content": words}], "max_tokens": 20})
}

async fn metric(engine: &Running, name: &str) -> f64 {
    let (_, text) = call(engine, "/metrics", None).await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_chat_is_counted_as_tokenize_counts_it_and_repeated_it_is_cached() {
    let engine = engine(Faults::default()).await;
    let body = hello(&"how are you ".repeat(20));
    let tokens = ask(&engine, "/tokenize", body.clone()).await;
    let (first, second) = (
        ask(&engine, "/v1/chat/completions", body.clone()).await,
        ask(&engine, "/v1/chat/completions", body).await,
    );
    let prompt = tokens["count"].as_u64().unwrap();
    assert_eq!(tokens["tokens"].as_array().unwrap().len() as u64, prompt);
    assert_eq!(first["usage"]["prompt_tokens"], prompt);
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(second["usage"]["prompt_tokens_details"]["cached_tokens"], (prompt - 1) / 16 * 16);
    assert_eq!(first["choices"][0]["message"], second["choices"][0]["message"]);
    assert_eq!(first["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn adapters_and_salts_do_not_share_blocks() {
    let engine = engine(Faults::default()).await;
    let plain = hello(&"tell me a story ".repeat(10));
    let with = |key: &str, value: &str| {
        let mut body = plain.clone();
        body[key] = json!(value);
        body
    };
    for body in [plain.clone(), with("model", "sql"), with("cache_salt", "mine"), with("cache_salt", "yours")]
    {
        let answer = ask(&engine, "/v1/chat/completions", body.clone()).await;
        assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "{body}");
    }
}

#[tokio::test]
async fn a_stream_says_role_words_reason_usage_and_done_in_this_order() {
    let engine = engine(Faults::default()).await;
    let mut body = hello("hi");
    let whole = ask(&engine, "/v1/chat/completions", body.clone()).await;
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let (_, text) = call(&engine, "/v1/chat/completions", Some(body)).await.unwrap();
    let events: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let words: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(words, whole["choices"][0]["message"]["content"]);
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks[chunks.len() - 1]["usage"]["completion_tokens"], 20);
}

#[tokio::test]
async fn bad_requests_are_refused_in_the_form_of_an_error_object() {
    let engine = engine(Faults::default()).await;
    let unknown = json!({"model": "nobody", "messages": [{"role": "user", "content": "x"}]});
    let cases = [
        (unknown, StatusCode::NOT_FOUND),
        (json!({"model": "sim"}), StatusCode::BAD_REQUEST),
        (json!({"model": "sim", "messages": []}), StatusCode::BAD_REQUEST),
        (json!({"model": "sim", "messages": [{"role": "user", "content": 7}]}), StatusCode::BAD_REQUEST),
    ];
    for (body, expected) in cases {
        let (status, text) = call(&engine, "/v1/chat/completions", Some(body.clone())).await.unwrap();
        assert_eq!(status, expected, "{body}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert!(error["error"]["message"].is_string(), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_engine() {
    let engine = serve(Settings { speed: 0.5, ..Settings::default() }).await.unwrap();
    let mut body = hello("write for a long time");
    body["max_tokens"] = json!(5_000);
    let asking = call(&engine, "/v1/chat/completions", Some(body));
    assert!(tokio::time::timeout(Duration::from_millis(200), asking).await.is_err());
    let freed = async {
        while metric(&engine, "vllm:request_aborted_total").await < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.expect("the request was aborted");
    assert!(metric(&engine, "vllm:num_requests_running").await.abs() < f64::EPSILON);
    assert!(metric(&engine, "vllm:kv_cache_usage_perc").await.abs() < f64::EPSILON);
}

#[tokio::test]
async fn each_fault_shows_and_can_be_taken_back() {
    let engine = engine(Faults::default()).await;
    let chat = || call(&engine, "/v1/chat/completions", Some(hello("hi")));
    let set = async |faults: Faults| ask(&engine, "/sim/faults", json!(faults)).await;

    set(Faults { status: Some(503), ..Faults::default() }).await;
    assert_eq!(chat().await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);

    set(Faults { die_after: Some(3), ..Faults::default() }).await;
    let mut stream = hello("hi");
    stream["stream"] = json!(true);
    assert!(call(&engine, "/v1/chat/completions", Some(stream)).await.is_err(), "the connection breaks");

    set(Faults { hang: true, ..Faults::default() }).await;
    assert!(tokio::time::timeout(Duration::from_millis(200), chat()).await.is_err());

    set(Faults { garbage: true, ..Faults::default() }).await;
    let garbage = chat().await;
    let sense = garbage.is_ok_and(|(_, text)| serde_json::from_str::<Value>(&text).is_ok());
    assert!(!sense, "garbage makes no sense");

    set(Faults { template_prefix: "x".to_owned(), ..Faults::default() }).await;
    let longer = ask(&engine, "/tokenize", hello("hi")).await["count"].as_u64().unwrap();
    set(Faults::default()).await;
    let right = ask(&engine, "/tokenize", hello("hi")).await["count"].as_u64().unwrap();
    assert_eq!(longer, right + 1);
    assert_eq!(chat().await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn an_engine_tells_where_its_events_are() {
    let engine = engine(Faults::default()).await;
    let (_, text) = call(&engine, "/kv_event_sources", None).await.unwrap();
    let sources: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(sources["0"]["endpoint"], engine.events().unwrap());
    assert_eq!(sources["0"]["replay_endpoint"], engine.replay().unwrap());
}

// === With a tier behind its cache ===

/// Blocks in memory, and what is wrong with them.
#[derive(Default)]
struct Shelf {
    blocks: Mutex<HashMap<PrefixHash, Bytes>>,
    away: AtomicBool,
    spoils: AtomicBool,
    stuck: AtomicBool,
}

/// As a tier that engines share.
#[derive(Clone, Default)]
struct Shared(Arc<Shelf>);

impl Shared {
    fn soon<T: Send + 'static>(&self, answer: impl FnOnce(&Shelf) -> T + Send + 'static) -> Soon<T> {
        let shelf = self.0.clone();
        Box::pin(async move {
            if shelf.stuck.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if shelf.away.load(Ordering::Relaxed) { Err("away".to_owned()) } else { Ok(answer(&shelf)) }
        })
    }
}

impl Offload for Shared {
    fn look(&self, blocks: Vec<PrefixHash>) -> Soon<usize> {
        self.soon(move |shelf| {
            let held = shelf.blocks.lock().unwrap();
            blocks.iter().take_while(|block| held.contains_key(*block)).count()
        })
    }

    fn get(&self, blocks: Vec<PrefixHash>) -> Soon<Vec<Bytes>> {
        self.soon(move |shelf| {
            let held = shelf.blocks.lock().unwrap();
            let spoils = shelf.spoils.load(Ordering::Relaxed);
            let one = |block: &PrefixHash| {
                held.get(block)
                    .map(|bytes| if spoils { Bytes::from(vec![0; bytes.len()]) } else { bytes.clone() })
            };
            blocks.iter().map_while(one).collect()
        })
    }

    fn put(&self, blocks: Vec<(Kept, Bytes)>) -> Soon<Written> {
        self.soon(move |shelf| {
            let stored = blocks.len();
            shelf.blocks.lock().unwrap().extend(blocks.into_iter().map(|(kept, bytes)| (kept.prefix, bytes)));
            Written { stored, ..Written::default() }
        })
    }
}

/// An engine before a tier for which it has so much patience.
async fn before(shared: &Shared, patience: f64) -> Running {
    let mut settings = Settings { speed: 10.0, ..Settings::default() };
    settings.shape.second = Some(Second { patience, ..Second::default() });
    let behind = Behind { offload: Arc::new(shared.clone()), bytes_a_token: 100 };
    serve_before(settings, Some(behind)).await.unwrap()
}

const WORDS: &str = "the same long question once more ";

/// Cached tokens of a prompt of many words, and those of them that were loaded.
async fn cached(engine: &Running) -> (u64, u64) {
    let answer = ask(engine, "/v1/chat/completions", hello(&WORDS.repeat(40))).await;
    let details = &answer["usage"]["prompt_tokens_details"];
    (details["cached_tokens"].as_u64().unwrap(), details["loaded_tokens"].as_u64().unwrap_or_default())
}

/// Waits until a metric is at least so much: what follows has a cause that is under way.
async fn until(engine: &Running, name: &str, least: f64) {
    while metric(engine, name).await < least {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_one_engine_computed_another_loads_and_says_so() {
    let shared = Shared::default();
    let (one, two) = (before(&shared, 1e6).await, before(&shared, 1e6).await);
    assert_eq!(cached(&one).await, (0, 0));
    until(&one, "sim:blocks_offloaded_total", 83.0).await;
    let (all, loaded) = cached(&two).await;
    assert_eq!((all, loaded), (1_328, 1_328), "each full block of the prompt");
    assert_eq!(metric(&two, "vllm:external_prefix_cache_hits_total").await as u64, 1_328);
    // It has them itself now.
    assert_eq!(cached(&two).await, (1_328, 0));
    assert!(shared.0.blocks.lock().unwrap().values().all(|bytes| bytes.len() == 1_600));
}

#[tokio::test]
async fn a_tier_that_is_away_lies_or_hangs_costs_no_answer() {
    let shared = Shared::default();
    let one = before(&shared, 1e6).await;
    shared.0.away.store(true, Ordering::Relaxed);
    assert_eq!(cached(&one).await, (0, 0));
    assert_eq!(metric(&one, "sim:loads_failed_total").await as u64, 1);
    until(&one, "sim:blocks_refused_total", 83.0).await;
    shared.0.away.store(false, Ordering::Relaxed);
    let two = before(&shared, 1e6).await;
    cached(&two).await;
    until(&two, "sim:blocks_offloaded_total", 83.0).await;
    shared.0.spoils.store(true, Ordering::Relaxed);
    let three = before(&shared, 1e6).await;
    assert_eq!(cached(&three).await, (0, 0));
    assert_eq!(metric(&three, "sim:loads_with_wrong_bytes_total").await as u64, 1);
    shared.0.stuck.store(true, Ordering::Relaxed);
    let four = before(&shared, 1.0).await;
    assert_eq!(cached(&four).await, (0, 0));
    assert_eq!(metric(&four, "sim:loads_given_up_total").await as u64, 1);
}
