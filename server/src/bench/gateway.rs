//! `warmline bench gateway`: what the gateway costs a request, beside a bare proxy of the same HTTP library.
//!
//! Every part is a process of its own, so that its CPU time can be read from the kernel: an engine that answers at
//! once, a proxy that understands nothing, and the gateway itself, round-robin and warm.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
pub fn measure(plan: Plan, folder: &Path, mut progress: impl FnMut(&str)) -> Result<Vec<Row>, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let engine = free()?;
    let _null = Middle::start(
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
    let bare = Middle::start(Command::new(&me).args(bare), proxy)?;
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
            let warm_up = Plan { time: plan.time / 4, ..plan };
            runtime.block_on(load(warm_up, middle.address, &body))?;
            let before = middle.cpu()?;
            let mut times = runtime.block_on(load(plan, middle.address, &body))?;
            let cpu = middle.cpu()?.saturating_sub(before);
            times.sort_unstable();
            let at = |part: f64| {
                times
                    .get(((times.len().saturating_sub(1)) as f64 * part) as usize)
                    .map_or(0.0, |time| time.as_secs_f64() * 1e3)
            };
            rows.push(Row {
                who,
                what,
                requests_s: times.len() as f64 / plan.time.as_secs_f64(),
                cpu_us: cpu.as_secs_f64() * 1e6 / times.len().max(1) as f64,
                p50_ms: at(0.5),
                p99_ms: at(0.99),
                rss_mib: middle.rss_mib()?,
            });
        }
    }
    Ok(rows)
}

fn gateway(me: &Path, folder: &Path, engine: SocketAddr, policy: &str) -> Result<Middle, String> {
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
    let middle = Middle::start(Command::new(me).arg("serve").arg("--config").arg(&config), listen)?;
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

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Sends the same request on every connection, again and again; returns how long each took.
async fn load(plan: Plan, to: SocketAddr, body: &Bytes) -> Result<Vec<Duration>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicU64::new(0));
    let mut users = tokio::task::JoinSet::new();
    for _ in 0..plan.connections {
        let (stop, failed, body) = (stop.clone(), failed.clone(), body.clone());
        users.spawn(async move {
            let mut times = Vec::new();
            let Ok(stream) = TcpStream::connect(to).await else { return times };
            let _ = stream.set_nodelay(true);
            let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
                return times;
            };
            tokio::spawn(connection);
            while !stop.load(Ordering::Relaxed) {
                let request = Request::builder()
                    .method(Method::POST)
                    .uri("/v1/chat/completions")
                    .header(header::HOST, "bench");
                let request =
                    request.header(header::CONTENT_TYPE, "application/json").body(Full::new(body.clone()));
                let at = now();
                let answered = async {
                    let answer = sender.send_request(request.map_err(|error| error.to_string())?).await;
                    let answer = answer.map_err(|error| error.to_string())?;
                    let good = answer.status().is_success();
                    answer.into_body().collect().await.map_err(|error| error.to_string())?;
                    if good { Ok(()) } else { Err("not a success".to_owned()) }
                };
                if answered.await.is_ok() {
                    times.push(at.elapsed());
                    continue;
                }
                failed.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                if sender.is_closed() {
                    return times;
                }
            }
            times
        });
    }
    tokio::time::sleep(plan.time).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    while let Some(times) = users.join_next().await {
        all.extend(times.map_err(|error| error.to_string())?);
    }
    if all.is_empty() {
        Err(format!("nothing came back from {to}; {} requests failed", failed.load(Ordering::Relaxed)))
    } else {
        Ok(all)
    }
}

/// A child process that is measured; it is killed when dropped.
struct Middle {
    child: Child,
    address: SocketAddr,
}

impl Middle {
    fn start(command: &mut Command, address: SocketAddr) -> Result<Self, String> {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let middle = Self { child, address };
        let begun = now();
        while std::net::TcpStream::connect(address).is_err() {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err(format!("nobody listens on {address}"));
            }
            std::thread::yield_now();
        }
        Ok(middle)
    }

    /// User and system time so far; the kernel counts in hundredths of a second.
    fn cpu(&self) -> Result<Duration, String> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .map_err(|error| error.to_string())?;
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
    }

    fn rss_mib(&self) -> Result<f64, String> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))
            .map_err(|error| error.to_string())?;
        let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
        Ok(pages * 4096.0 / 1_048_576.0)
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> Result<SocketAddr, String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

/// The rows as people read them.
pub fn table(rows: &[Row]) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "{:<18} {:<22} {:>11} {:>12} {:>9} {:>9} {:>9}\n",
        "", "", "requests/s", "CPU us each", "p50 ms", "p99 ms", "RSS MiB"
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<18} {:<22} {:>11.0} {:>12.0} {:>9.2} {:>9.2} {:>9.0}",
            row.what, row.who, row.requests_s, row.cpu_us, row.p50_ms, row.p99_ms, row.rss_mib
        );
    }
    out
}
