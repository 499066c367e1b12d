//! A load generator for routers: keeps connections busy, or sends at a steady rate, and says how long answers took.
//!
//! Every connection leads a conversation of its own whose last turn is new each time, as a chat does; with `--unique`
//! nothing that was sent before is sent again. The result is one line of JSON on stdout.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

/// Load for a router that speaks OpenAI's API.
#[derive(Parser)]
struct Args {
    /// Where it listens.
    #[arg(long)]
    to: SocketAddr,
    /// Size of a request body, within some tens of bytes.
    #[arg(long, default_value_t = 400)]
    bytes: usize,
    /// Ask for a stream.
    #[arg(long)]
    stream: bool,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// How long.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Requests a second over all connections; without it, as many as are answered.
    #[arg(long)]
    rate: Option<f64>,
    /// Ends after so many requests, however long they take.
    #[arg(long)]
    requests: Option<usize>,
    /// No two prompts begin alike.
    #[arg(long)]
    unique: bool,
}

/// What came of it on one connection.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    failed: usize,
    first_failure: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Rc::new(Args::parse());
    let begun = Instant::now();
    let all = LocalSet::new().run_until(load(args.clone())).await;
    let took = begun.elapsed();
    println!("{}", summary(&all, took));
}

async fn load(args: Rc<Args>) -> Seen {
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut users = JoinSet::new();
    for user in 0..args.connections {
        users.spawn_local(converse(args.clone(), user, until));
    }
    let mut all = Seen::default();
    while let Some(seen) = users.join_next().await {
        let seen = seen.expect("a user does not panic");
        all.times.extend(seen.times);
        all.failed += seen.failed;
        all.first_failure = all.first_failure.or(seen.first_failure);
    }
    all
}

async fn converse(args: Rc<Args>, user: usize, until: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut kept = None;
    // With a rate, user k sends at k/rate, k/rate + connections/rate, …: evenly over all of them.
    let pace = args.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
    let begun = Instant::now();
    for turn in 0.. {
        let number = turn * args.connections + user;
        let due = pace.map(|pace| begun + pace.mul_f64(number as f64));
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        if args.requests.map_or(Instant::now() >= until, |requests| number >= requests) {
            break;
        }
        let body = body(&args, user, number);
        // Taken as the request is sent: the timer's own milliseconds are not the router's.
        let at = Instant::now();
        match ask(&mut kept, &args, body).await {
            Ok(()) => seen.times.push(at.elapsed()),
            Err(why) => {
                seen.failed += 1;
                seen.first_failure.get_or_insert(why);
                kept = None;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    seen
}

/// A conversation of about so many bytes whose last turn carries the request's number.
fn body(args: &Args, user: usize, number: usize) -> Bytes {
    let words = "please show me the order that came last week and tell why it was late ";
    let opening = if args.unique { number } else { user };
    let mut messages = vec![serde_json::json!({
        "role": "system",
        "content": format!("{opening:08} You answer briefly and to the point, always."),
    })];
    let each = words.repeat(if args.bytes > 1000 { 8 } else { 2 });
    let frame = 210;
    let mut size = frame;
    while size + each.len() + 32 < args.bytes {
        let role = if messages.len() % 2 == 1 { "user" } else { "assistant" };
        messages.push(serde_json::json!({"role": role, "content": each}));
        size += each.len() + 32;
    }
    let rest = words.repeat(8);
    let rest = &rest[..args.bytes.saturating_sub(size).min(rest.len())];
    messages.push(serde_json::json!({"role": "user", "content": format!("{number:08} {rest}")}));
    serde_json::json!({"model": "sim", "messages": messages, "max_tokens": 20, "stream": args.stream})
        .to_string()
        .into()
}

async fn ask(kept: &mut Option<SendRequest<Full<Bytes>>>, args: &Args, body: Bytes) -> Result<(), String> {
    let say = |error: hyper::Error| error.to_string();
    if kept.as_ref().is_none_or(SendRequest::is_closed) {
        let stream = TcpStream::connect(args.to).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(say)?;
        tokio::task::spawn_local(connection);
        *kept = Some(sender);
    }
    let sender = kept.as_mut().expect("it was just made");
    sender.ready().await.map_err(say)?;
    let request = Request::post("/v1/chat/completions")
        .header("host", "bench")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .expect("the head is well formed");
    let answer = sender.send_request(request).await.map_err(say)?;
    let status = answer.status();
    let text = answer.into_body().collect().await.map_err(say)?.to_bytes();
    // A success that is cut short or empty would make a router look fast.
    let whole = if args.stream { text.ends_with(b"data: [DONE]\n\n") } else { text.ends_with(b"}") };
    if status.is_success() && whole {
        Ok(())
    } else {
        Err(format!("{status}: {}", String::from_utf8_lossy(&text[..text.len().min(200)])))
    }
}

fn summary(all: &Seen, took: Duration) -> serde_json::Value {
    let mut times = all.times.clone();
    times.sort_unstable();
    let at = |part: f64| {
        let place = (times.len().saturating_sub(1) as f64 * part) as usize;
        times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    serde_json::json!({
        "requests": times.len(),
        "failed": all.failed,
        "first_failure": all.first_failure,
        "seconds": took.as_secs_f64(),
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
    })
}
