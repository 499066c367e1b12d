//! `warmline bench gateway`: what the gateway costs a request, beside a bare proxy of the same HTTP library.
//!
//! Every part is a process of its own, so that its CPU time can be read from the kernel: an engine that answers at
//! once, a proxy that understands nothing, and the gateway itself, round-robin and warm.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};

use super::process::{Process, free, now, percentiles};

/// What a child process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// An engine that answers at once.
    Null,
    /// A proxy that understands nothing.
    Bare,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Client connections.
    pub connections: usize,
    /// How long each row is measured.
    pub time: Duration,
    /// Streams at a time, when their memory is measured.
    pub streams: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Under full load, a row a load and a middle.
    pub full: Vec<Row>,
    /// At ease, and what memory does.
    pub steady: Vec<Steady>,
}

/// How somebody in the middle behaves when there is no hurry, and what it keeps.
#[derive(Clone, Debug, Serialize)]
pub struct Steady {
    /// Who.
    pub who: &'static str,
    /// Latency at 200 requests a second.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// Resident memory before, and after 20,000 and 40,000 prompts of 8 KiB that were never seen before.
    pub unique_mib: [f64; 3],
    /// Resident memory before, while that many streams are open, and after they have ended.
    pub streams_mib: [f64; 3],
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who stood in the middle.
    pub who: &'static str,
    /// What was sent.
    pub what: &'static str,
    /// Requests a second.
    pub requests_s: f64,
    /// CPU time of the one in the middle.
    pub cpu_us: f64,
    /// Latency as the client saw it under full load.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// Resident memory after the row.
    pub rss_mib: f64,
}

const PLAIN: &str = r#"{"id":"x","object":"chat.completion","created":1,"model":"sim","choices":[{"index":0,"message":{"role":"assistant","content":"warm line cache token block prefix engine queue river stone garden window paper signal north winter copper silver"},"finish_reason":"stop"}],"usage":{"prompt_tokens":90,"completion_tokens":20,"total_tokens":110,"prompt_tokens_details":{"cached_tokens":0}}}"#;
const CHUNKS: usize = 20;
/// Asks the null engine for a stream that takes its time.
const SLOW: &[u8] = b"\"max_tokens\":9999";
/// Events of a slow stream, and the time between two.
const SLOW_EVENTS: usize = 12;
const SLOW_PAUSE: Duration = Duration::from_secs(1);
/// Requests a second at ease.
const EASE: f64 = 200.0;
/// Prompts that were never seen before, twice: at the end of the first half everything that is bounded is full.
const UNIQUE: usize = 20_000;

// === Children ===

/// Plays a part until it is killed.
///
/// # Errors
/// An address that cannot be bound.
pub fn play(role: Role, listen: SocketAddr, engine: Option<String>) -> Result<(), String> {
    let listener =
        std::net::TcpListener::bind(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let engine: Arc<str> = engine.unwrap_or_default().into();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            let (listener, engine) = (listener.try_clone(), engine.clone());
            scope.spawn(move || -> Result<(), String> {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| error.to_string())?;
                let listener = listener.map_err(|error| error.to_string())?;
                runtime.block_on(accept(role, listener, engine))
            });
        }
    });
    Ok(())
}

async fn accept(role: Role, listener: std::net::TcpListener, engine: Arc<str>) -> Result<(), String> {
    let listener = TcpListener::from_std(listener).map_err(|error| error.to_string())?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // A socket that refuses the option still works, only later.
        let _ = stream.set_nodelay(true);
        let engine = engine.clone();
        tokio::spawn(async move {
            let upstream: Arc<tokio::sync::Mutex<Option<SendRequest<Incoming>>>> = Arc::default();
            let service = service_fn(move |request| {
                let (engine, upstream) = (engine.clone(), upstream.clone());
                async move {
                    match role {
                        Role::Null => null(request).await,
                        Role::Bare => bare(&engine, &upstream, request).await,
                    }
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn null(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let whole = |text: String| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let (kind, body) = match path.as_str() {
        "/v1/models" => ("application/json", whole(r#"{"object":"list","data":[{"id":"sim"}]}"#.to_owned())),
        "/v1/chat/completions" if body.windows(SLOW.len()).any(|window| window == SLOW) => {
            let pause = Box::pin(tokio::time::sleep(Duration::ZERO));
            ("text/event-stream", Slow { left: SLOW_EVENTS, pause }.boxed())
        }
        "/v1/chat/completions" if body.windows(13).any(|window| window == b"\"stream\":true") => {
            ("text/event-stream", Ticks { left: CHUNKS + 2 }.boxed())
        }
        "/v1/chat/completions" => ("application/json", whole(PLAIN.to_owned())),
        _ => ("application/json", whole("{}".to_owned())),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    Ok(response)
}

/// A stream that says one event a poll, so that each is a chunk and a write of its own.
struct Ticks {
    left: usize,
}

impl hyper::body::Body for Ticks {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        use std::task::Poll;
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        // Every other poll waits a turn: the event before goes out first.
        context.waker().wake_by_ref();
        let text = match self.left {
            0 => "data: [DONE]\n\n",
            1 => {
                "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":90,\"completion_tokens\":20,\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n"
            }
            _ => {
                "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"sim\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" warm\"},\"finish_reason\":null}]}\n\n"
            }
        };
        Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(text.as_bytes())))))
    }
}

/// A stream that says one event a second.
struct Slow {
    left: usize,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl hyper::body::Body for Slow {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        use std::task::Poll;
        if self.left == 0 {
            return Poll::Ready(None);
        }
        std::task::ready!(self.pause.as_mut().poll(context));
        self.left -= 1;
        self.pause = Box::pin(tokio::time::sleep(SLOW_PAUSE));
        let text = if self.left == 0 {
            "data: [DONE]\n\n"
        } else {
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" warm\"}}]}\n\n"
        };
        Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(text.as_bytes())))))
    }
}

async fn bare(
    engine: &str,
    upstream: &tokio::sync::Mutex<Option<SendRequest<Incoming>>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let mut kept = upstream.lock().await;
    if kept.as_ref().is_none_or(SendRequest::is_closed) {
        let stream = TcpStream::connect(engine).await.expect("the null engine listens");
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        *kept = Some(sender);
    }
    let sender = kept.as_mut().unwrap_or_else(|| unreachable!("it was just made"));
    sender.ready().await?;
    Ok(sender.send_request(request).await?.map(BodyExt::boxed))
}

// === The measurement ===

/// Runs every row; `progress` hears of each before it begins.
///
/// # Errors
/// A child that does not start, in words.
pub fn measure(plan: Plan, folder: &Path, mut progress: impl FnMut(&str)) -> Result<Measured, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let engine = free()?;
    let _null = Process::start(
        Command::new(&me).args(["bench", "gateway", "--play", "null", "--listen", &engine.to_string()]),
        engine,
    )?;
    let proxy = free()?;
    let bare = [
        "bench",
        "gateway",
        "--play",
        "bare",
        "--listen",
        &proxy.to_string(),
        "--engine",
        &engine.to_string(),
    ];
    let bare = Process::start(Command::new(&me).args(bare), proxy)?;
    let turns = gateway(&me, folder, engine, "round-robin")?;
    let warm = gateway(&me, folder, engine, "warm")?;
    let middles = [("bare proxy", &bare), ("warmline, round-robin", &turns), ("warmline, warm", &warm)];
    let loads =
        [("400 B", body(400, false)), ("8 KiB", body(8 << 10, false)), ("400 B, streamed", body(400, true))];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for (what, body) in loads {
        for (who, middle) in middles {
            progress(&format!("{who}, {what}"));
            let body = body.clone();
            let same = Arc::new(move |_: usize| body.clone());
            let warm_up = Pace::Full(plan.time / 4);
            runtime.block_on(load(plan.connections, warm_up, middle.address, same.clone()))?;
            let before = middle.cpu()?;
            let mut times =
                runtime.block_on(load(plan.connections, Pace::Full(plan.time), middle.address, same))?;
            let cpu = middle.cpu()?.saturating_sub(before);
            let at = percentiles(&mut times);
            rows.push(Row {
                who,
                what,
                requests_s: times.len() as f64 / plan.time.as_secs_f64(),
                cpu_us: cpu.as_secs_f64() * 1e6 / times.len().max(1) as f64,
                p50_ms: at[0],
                p99_ms: at[1],
                rss_mib: middle.rss_mib()?,
            });
        }
    }
    let mut steady = Vec::new();
    let engine_alone = Process::alone(engine);
    for (who, middle) in [("engine alone", &engine_alone)].into_iter().chain(middles) {
        progress(&format!("{who}, at ease and in memory"));
        steady.push(runtime.block_on(at_ease(plan, who, middle))?);
    }
    Ok(Measured { full: rows, steady })
}

async fn at_ease(plan: Plan, who: &'static str, middle: &Process) -> Result<Steady, String> {
    let plain = body(400, false);
    let ease = Pace::Rate(EASE, plan.time * 2);
    let mut times = load(plan.connections, ease, middle.address, Arc::new(move |_| plain.clone())).await?;
    let [p50_ms, p99_ms] = percentiles(&mut times);
    let mut unique_mib = [middle.rss_mib()?, 0.0, 0.0];
    for part in 0..2 {
        let never_seen = move |number: usize| unique_body(part * UNIQUE + number);
        load(plan.connections, Pace::Count(UNIQUE), middle.address, Arc::new(never_seen)).await?;
        unique_mib[part + 1] = middle.rss_mib()?;
    }
    let streams_mib = hold_streams(plan.streams, middle).await?;
    Ok(Steady { who, p50_ms, p99_ms, unique_mib, streams_mib })
}

/// Opens so many streams at a time; resident memory before, during and after.
async fn hold_streams(count: usize, middle: &Process) -> Result<[f64; 3], String> {
    let before = middle.rss_mib()?;
    let slow = String::from_utf8_lossy(&body(400, true)).replace("\"max_tokens\":20", "\"max_tokens\":9999");
    let slow = Bytes::from(slow);
    let begun = Arc::new(AtomicU64::new(0));
    let mut users = tokio::task::JoinSet::new();
    for _ in 0..count {
        // No faster than connections can be taken: a full queue of them would be refused.
        while users.len() as u64 > begun.load(Ordering::Relaxed) + 64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if let Some(Ok(Err(trouble))) = users.try_join_next() {
                return Err(format!("a stream of {count} at a time broke: {trouble}"));
            }
        }
        let (slow, begun, to) = (slow.clone(), begun.clone(), middle.address);
        users.spawn(async move {
            let mut sender = connect(to).await?;
            let answer = ask(&mut sender, slow).await?;
            let mut body = answer.into_body();
            let mut first = true;
            while let Some(frame) = body.frame().await {
                frame.map_err(|error| error.to_string())?;
                begun.fetch_add(u64::from(std::mem::take(&mut first)), Ordering::Relaxed);
            }
            Ok::<_, String>(())
        });
    }
    while begun.load(Ordering::Relaxed) < count as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if let Some(Ok(Err(trouble))) = users.try_join_next() {
            return Err(format!("a stream of {count} at a time broke: {trouble}"));
        }
    }
    let during = middle.rss_mib()?;
    while let Some(ended) = users.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok([before, during, middle.rss_mib()?])
}

fn gateway(me: &Path, folder: &Path, engine: SocketAddr, policy: &str) -> Result<Process, String> {
    let (listen, admin) = (free()?, free()?);
    let wrong = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::write(folder.join("tokenizer.json"), sim::model::tokenizer_json()).map_err(wrong)?;
    std::fs::write(folder.join("chat_template.jinja"), sim::model::CHAT_TEMPLATE).map_err(wrong)?;
    let config = folder.join(format!("{policy}.toml"));
    let model = if policy == "warm" {
        format!(
            "[[models]]\nname = \"sim\"\ntokenizer = \"{0}/tokenizer.json\"\nchat_template = \"{0}/chat_template.jinja\"\n",
            folder.display()
        )
    } else {
        String::new()
    };
    let text = format!(
        "[gateway]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n[routing]\npolicy = \"{policy}\"\n[health]\nready_grace = \"0s\"\n\
         [log]\nfilter = \"error\"\n{model}[[engines]]\nname = \"a\"\nurl = \"http://{engine}\"\n[[engines]]\nname = \"b\"\nurl = \"http://{engine}\"\n"
    );
    std::fs::write(&config, text).map_err(wrong)?;
    let middle = Process::start(Command::new(me).arg("serve").arg("--config").arg(&config), listen)?;
    // The engines' models are learned by the first probe.
    std::net::TcpStream::connect(listen).map_err(|error| error.to_string())?;
    Ok(middle)
}

/// A conversation of about so many bytes: a system prompt, turns, a question.
fn body(bytes: usize, stream: bool) -> Bytes {
    let words = "please show me the order that came last week and tell why it was late ";
    let mut messages = vec![
        serde_json::json!({"role": "system", "content": "You answer briefly and to the point, always."}),
    ];
    while serde_json::to_string(&messages).map_or(0, |text| text.len()) + 120 < bytes {
        let role = if messages.len() % 2 == 1 { "user" } else { "assistant" };
        messages.push(
            serde_json::json!({"role": role, "content": words.repeat(if bytes > 1000 { 8 } else { 2 })}),
        );
    }
    serde_json::json!({"model": "sim", "messages": messages, "max_tokens": 20, "stream": stream})
        .to_string()
        .into()
}

/// A prompt of 8 KiB no part of which was ever sent.
fn unique_body(number: usize) -> Bytes {
    let text = String::from_utf8_lossy(&body(8 << 10, false)).replace("order", &format!("order {number}"));
    Bytes::from(text)
}

/// How fast requests are sent, and when it is enough.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as they are answered.
    Full(Duration),
    /// So many a second over all connections.
    Rate(f64, Duration),
    /// So many in all, as fast as they are answered.
    Count(usize),
}

impl Pace {
    /// When the request with this number is to be sent, counted from the beginning; `None`: no more.
    fn due(self, number: usize, now: Duration) -> Option<Duration> {
        match self {
            Self::Full(time) => (now < time).then_some(now),
            Self::Rate(rate, time) => {
                Some(Duration::from_secs_f64(number as f64 / rate)).filter(|due| *due < time)
            }
            Self::Count(count) => (number < count).then_some(now),
        }
    }
}

/// Sends requests over several connections, each with one at a time; returns how long each took.
async fn load(
    connections: usize,
    pace: Pace,
    to: SocketAddr,
    body: Arc<impl Fn(usize) -> Bytes + Send + Sync + 'static>,
) -> Result<Vec<Duration>, String> {
    let begun = now();
    let mut users = tokio::task::JoinSet::new();
    for user in 0..connections {
        let body = body.clone();
        users.spawn(async move {
            let (mut times, mut trouble) = (Vec::new(), None);
            let mut kept = None;
            for turn in 0.. {
                let number = turn * connections + user;
                let Some(due) = pace.due(number, begun.elapsed()) else { break };
                // A timer that is due at once still waits for the next millisecond.
                if let Some(wait) = due.checked_sub(begun.elapsed()).filter(|wait| !wait.is_zero()) {
                    tokio::time::sleep(wait).await;
                }
                let body = body(number);
                let at = now();
                match once(&mut kept, to, body).await {
                    Ok(()) => times.push(at.elapsed()),
                    Err(why) => {
                        (kept, trouble) = (None, Some(why));
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            (times, trouble)
        });
    }
    let (mut all, mut trouble) = (Vec::new(), None);
    while let Some(user) = users.join_next().await {
        let (times, why) = user.map_err(|error| error.to_string())?;
        all.extend(times);
        trouble = trouble.or(why);
    }
    if all.is_empty() {
        return Err(format!("nothing came back from {to}: {}", trouble.unwrap_or_default()));
    }
    Ok(all)
}

async fn once(
    kept: &mut Option<SendRequest<Full<Bytes>>>,
    to: SocketAddr,
    body: Bytes,
) -> Result<(), String> {
    if kept.as_ref().is_none_or(SendRequest::is_closed) {
        *kept = Some(connect(to).await?);
    }
    let Some(sender) = kept else { return Err("no connection".to_owned()) };
    ask(sender, body).await?.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(())
}

async fn connect(to: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request; its answer if it is a success.
async fn ask(sender: &mut SendRequest<Full<Bytes>>, body: Bytes) -> Result<Response<Incoming>, String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/chat/completions")
        .header(header::HOST, "bench")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if answer.status().is_success() { Ok(answer) } else { Err(answer.status().to_string()) }
}

/// Streams that the limit on open files allows: the gateway needs two files for each.
pub fn most_streams() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    files.map_or(usize::MAX, |files: usize| (files.saturating_sub(400) / 2).max(1))
}

/// The rows as people read them.
pub fn table(measured: &Measured) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "{:<18} {:<22} {:>11} {:>12} {:>9} {:>9} {:>9}\n",
        "", "", "requests/s", "CPU us each", "p50 ms", "p99 ms", "RSS MiB"
    );
    for row in &measured.full {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<18} {:<22} {:>11.0} {:>12.0} {:>9.2} {:>9.2} {:>9.0}",
            row.what, row.who, row.requests_s, row.cpu_us, row.p50_ms, row.p99_ms, row.rss_mib
        );
    }
    let alone = measured.steady.first().map_or([0.0; 2], |alone| [alone.p50_ms, alone.p99_ms]);
    let _ = writeln!(
        out,
        "\n{:<22} {:>12} {:>12}   {:<30} {:<30}",
        "at 200 requests/s",
        "added p50 ms",
        "added p99 ms",
        "RSS MiB: 0, 20,000, 40,000",
        "RSS MiB: before, with streams,"
    );
    let _ = writeln!(
        out,
        "{:<22} {:>12} {:>12}   {:<30} {:<30}",
        "", "", "", "unique 8-KiB prompts", "after them"
    );
    for row in &measured.steady {
        let three = |mib: [f64; 3]| {
            if mib[0] <= 0.0 { String::new() } else { mib.map(|mib| format!("{mib:.0}")).join("  ") }
        };
        let _ = writeln!(
            out,
            "{:<22} {:>12.2} {:>12.2}   {:<30} {:<30}",
            row.who,
            row.p50_ms - alone[0],
            row.p99_ms - alone[1],
            three(row.unique_mib),
            three(row.streams_mib)
        );
    }
    out
}
