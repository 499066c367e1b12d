//! `warmline bench indexer`: the indexer service from outside, fed by a stock engine, perhaps beside somebody else's.
//!
//! Each contestant is a process of its own that registers the same engine over HTTP, and is asked the same questions by the
//! same client; what it costs is read from the kernel.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blocks::{BlockSize, EngineHash, Hasher, Seed};
use events::codec::{Batch, Content, Said, Stored};
use events::publish::{self, Form};
use events::stock::{Publisher, Settings};
use index::Matches;
use serde::Serialize;
use serde_json::{Value, json};

use super::process::{Process, free, now, percentiles};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Blocks that the engine holds.
    pub blocks: usize,
    /// How long each kind of question is asked.
    pub time: Duration,
    /// Somebody else's indexer: a program that takes a port.
    pub beside: Option<String>,
}

/// One contestant.
#[derive(Clone, Debug, Serialize)]
pub struct Contestant {
    /// Who.
    pub who: String,
    /// Milliseconds from its registration to the first answer that has all of the last prompt, while the engine goes on.
    pub cold_ms: Option<f64>,
    /// Of a sample of prompts, the part that it then finds whole.
    pub cold_found: f64,
    /// Resident memory in MiB: with nothing, with everything, and after the questions.
    pub rss_mib: [f64; 3],
    /// Questions.
    pub rows: Vec<Row>,
    /// Milliseconds from the restart of an engine until nothing of its old cache is found any more.
    pub restart_ms: Option<f64>,
    /// What it says of a stock engine whose ring has moved on, and the part of a sample of prompts that it finds whole.
    pub moved_on: (String, f64),
    /// The same of an engine that can tell everything again, and milliseconds until it was so.
    pub snapshot: (String, f64, Option<f64>),
}

/// One kind of question.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is asked, and in which form.
    pub what: String,
    /// Answers a second.
    pub answers_s: f64,
    /// CPU time of the contestant for each.
    pub cpu_us: f64,
    /// As the client sees it.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Blocks that the engine held.
    pub blocks: usize,
    /// The floor: microseconds of one core to hash and look up 2k, 16k and 128k tokens, with nothing around it.
    pub floor_us: [f64; 3],
    /// Ours first.
    pub contestants: Vec<Contestant>,
}

const BLOCK: usize = 16;
/// Blocks of a prompt: those of 128k tokens first, then shorter ones.
const LONG: usize = 8_192;
const SHORT: usize = 1_024;
/// Long prompts.
const LONGS: usize = 8;
/// Tokens that are asked about.
const SIZES: [usize; 3] = [2_048, 16_384, 131_072];
/// Clients that ask at the same time.
const CLIENTS: usize = 2;
/// How long anything may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(15);
const MODEL: &str = "m";

/// Runs everything; `progress` hears of each part.
///
/// # Errors
/// What went wrong, in words.
pub fn measure(plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Measured, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut contestants = Vec::new();
    let address = free()?;
    let mut ours = Command::new(me);
    ours.args(["indexer", "--json", "--listen", &address.to_string()]).env("RUST_LOG", "error");
    progress("warmline");
    contestants.push(contest("warmline", &mut ours, address, plan, &runtime, &mut progress)?);
    if let Some(program) = &plan.beside {
        let address = free()?;
        let mut theirs = Command::new(program);
        theirs.arg(address.port().to_string()).env("RUST_LOG", "error");
        let who = program.rsplit('/').next().unwrap_or(program);
        progress(who);
        contestants.push(contest(who, &mut theirs, address, plan, &runtime, &mut progress)?);
    }
    progress("the floor");
    Ok(Measured { blocks: Prompts::new(plan.blocks).blocks(), floor_us: floor(plan.blocks), contestants })
}

// === The engine ===

/// All prompts that the engine holds.
#[derive(Clone, Copy)]
struct Prompts {
    short: usize,
}

impl Prompts {
    fn new(blocks: usize) -> Self {
        Self { short: (blocks.saturating_sub(LONGS * LONG) / SHORT).max(1) }
    }

    fn count(self) -> usize {
        LONGS + self.short
    }

    fn blocks(self) -> usize {
        LONGS * LONG + self.short * SHORT
    }

    fn len(number: usize) -> usize {
        if number < LONGS { LONG } else { SHORT }
    }

    fn tokens(number: usize) -> Vec<u32> {
        let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..Self::len(number) * BLOCK)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % 151_936) as u32
            })
            .collect()
    }

    /// A prompt as the engine tells it: a batch a step, 64 blocks each.
    fn batches(number: usize) -> Vec<Batch> {
        let tokens = Self::tokens(number);
        let name =
            |at: usize| EngineHash(((number as u64) << 32 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let run = |first: usize| {
            let blocks = first..(first + BLOCK).min(Self::len(number));
            Said::Stored(Box::new(Stored {
                parent: first.checked_sub(1).map(name),
                content: Content::Tokens(tokens[blocks.start * BLOCK..blocks.end * BLOCK].to_vec()),
                hashes: blocks.map(name).collect(),
                block_size: BLOCK as u32,
                medium: Some("GPU".to_owned()),
                ..Stored::default()
            }))
        };
        let runs: Vec<Said> = (0..Self::len(number)).step_by(BLOCK).map(run).collect();
        runs.chunks(4)
            .map(|said| Batch { timestamp: 1.0, said: said.to_vec(), rank: Some(0), ..Batch::default() })
            .collect()
    }
}

fn tell(number: usize, mut say: impl FnMut(Batch)) {
    for batch in Prompts::batches(number) {
        say(batch);
    }
}

fn engine(
    runtime: &tokio::runtime::Runtime,
    at: &str,
    replay: &str,
    ring: usize,
) -> Result<Arc<Publisher>, String> {
    let settings = Settings {
        endpoint: at.to_owned(),
        replay: Some(replay.to_owned()),
        topic: "kv".to_owned(),
        buffer_steps: ring,
    };
    // The port of one that has just ended may be free a moment later.
    let begun = now();
    loop {
        match runtime.block_on(Publisher::start(settings.clone())) {
            Ok(publisher) => return Ok(Arc::new(publisher)),
            Err(why) if begun.elapsed() > PATIENCE => return Err(why),
            Err(_) => pause(),
        }
    }
}

/// An engine that goes on: a small batch every few milliseconds, as one does that serves.
struct Going(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Going {
    fn on(mut say: impl FnMut(&Batch) + Send + 'static) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let thread = std::thread::spawn(move || {
            for number in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let said = Said::Stored(Box::new(Stored {
                    hashes: vec![EngineHash(number | 1 << 62)],
                    content: Content::Tokens(vec![number as u32; BLOCK]),
                    block_size: BLOCK as u32,
                    medium: Some("GPU".to_owned()),
                    ..Stored::default()
                }));
                say(&Batch { timestamp: 1.0, said: vec![said], rank: Some(0), ..Batch::default() });
                pause();
            }
        });
        Self(done, Some(thread))
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

// === One contestant ===

fn contest(
    who: &str,
    command: &mut Command,
    address: SocketAddr,
    plan: &Plan,
    runtime: &tokio::runtime::Runtime,
    progress: &mut impl FnMut(&str),
) -> Result<Contestant, String> {
    let process = Process::start(command, address)?;
    let mut client = Client::new(address)?;
    let prompts = Prompts::new(plan.blocks);
    let empty = process.rss_mib()?;

    // An engine that has run for a while, and goes on.
    let publisher = engine(runtime, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", usize::MAX)?;
    let (at, replay) =
        (publisher.endpoint().to_owned(), publisher.replay_endpoint().unwrap_or_default().to_owned());
    for number in 0..prompts.count() {
        tell(number, |batch| publisher.publish(&batch));
    }
    let going = publisher.clone();
    let going = Going::on(move |batch| going.publish(batch));
    let last = prompts.count() - 1;
    let begun = now();
    client.register(1, &at, &replay)?;
    let cold = until(|| client.finds(1, last))?.map(|at| (at - begun).as_secs_f64() * 1e3);
    let sample: Vec<usize> = (0..prompts.count()).step_by(prompts.count().div_ceil(24)).collect();
    let cold_found = client.found(1, &sample)?;
    drop(going);
    let full = process.rss_mib()?;
    let mut rows = Vec::new();
    for tokens in SIZES {
        for form in [Some(Wire::Json), (who == "warmline").then_some(Wire::Bare)].into_iter().flatten() {
            progress(&format!("  {} tokens, {}", tokens, form.name()));
            rows.push(ask(&process, tokens, form, plan.time)?);
        }
    }

    let rss_mib = [empty, full, process.rss_mib()?];
    progress("  a restart of the engine");
    drop(publisher);
    let reborn = engine(runtime, &at, &replay, usize::MAX)?;
    let begun = now();
    let voice = reborn.clone();
    let going = Going::on(move |batch| voice.publish(batch));
    let restart_ms = until(|| Ok(!client.finds_any(1, 0)?))?.map(|at| (at - begun).as_secs_f64() * 1e3);
    drop(going);
    client.unregister(1)?;
    drop(reborn);

    progress("  a ring that has moved on");
    let short: Vec<usize> = (LONGS..prompts.count()).take(64).collect();
    let moved = engine(runtime, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", 16)?;
    for number in &short {
        tell(*number, |batch| moved.publish(&batch));
    }
    let (at, replay) = (moved.endpoint().to_owned(), moved.replay_endpoint().unwrap_or_default().to_owned());
    let going = Going::on(move |batch| moved.publish(batch));
    client.register(2, &at, &replay)?;
    settle();
    let moved_on = (client.state(2)?, client.found(2, &short)?);
    drop(going);
    client.unregister(2)?;

    progress("  one that can tell everything again");
    let publisher = publish::Publisher::start(publish::Settings {
        endpoint: "tcp://127.0.0.1:0".to_owned(),
        replay: "tcp://127.0.0.1:0".to_owned(),
        topic: "kv".to_owned(),
        block_size: BLOCK as u32,
        buffer_steps: 16,
        heartbeat: Duration::from_secs(1),
        rank: Some(0),
        form: Form::AsGiven,
    });
    let publisher = publisher.map_err(|error| error.to_string())?;
    for number in &short {
        tell(*number, |batch| publisher.batch(batch.said));
    }
    let (at, replay) = (publisher.endpoint().to_owned(), publisher.replay_endpoint().to_owned());
    let going = Going::on(move |batch| publisher.batch(batch.said.clone()));
    let begun = now();
    client.register(3, &at, &replay)?;
    let whole = until(|| Ok(client.found(3, &short)? >= 1.0))?.map(|at| (at - begun).as_secs_f64() * 1e3);
    let snapshot = (client.state(3)?, client.found(3, &short)?, whole);
    drop(going);
    Ok(Contestant {
        who: who.to_owned(),
        cold_ms: cold,
        cold_found,
        rss_mib,
        rows,
        restart_ms,
        moved_on,
        snapshot,
    })
}

/// How a question is put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Json,
    Bare,
}

impl Wire {
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Bare => "bare numbers",
        }
    }
}

fn ask(process: &Process, tokens: usize, form: Wire, time: Duration) -> Result<Row, String> {
    let requests: Vec<Vec<u8>> =
        (0..LONGS).map(|number| request(form, &Prompts::tokens(number)[..tokens])).collect();
    // Everything is asked once before the clock runs, and the answer is looked at.
    let mut client = Client::new(process.address)?;
    for request in &requests {
        let answer = client.send(request)?;
        let well = match form {
            Wire::Json => json_tokens(&answer, 1) == tokens,
            Wire::Bare => answer.get(16..20) == Some(&(tokens as u32).to_le_bytes()),
        };
        if !well {
            return Err(format!(
                "asked about {tokens} tokens, the answer was {}",
                String::from_utf8_lossy(&answer)
            ));
        }
    }
    let (requests, address) = (Arc::new(requests), process.address);
    let cpu = process.cpu()?;
    let begun = now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|first| {
            let requests = requests.clone();
            std::thread::spawn(move || -> Result<Vec<Duration>, String> {
                let mut client = Client::new(address)?;
                let mut times = Vec::new();
                for number in first.. {
                    if begun.elapsed() > time {
                        break;
                    }
                    let at = now();
                    client.send(&requests[number % LONGS])?;
                    times.push(at.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.join().map_err(|_| "a client panicked".to_owned())??);
    }
    let took = begun.elapsed().as_secs_f64();
    let cpu_us = process.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / times.len().max(1) as f64;
    let answers_s = times.len() as f64 / took;
    let [p50_ms, p99_ms] = percentiles(&mut times);
    Ok(Row {
        what: format!("{}k tokens, {}", tokens / 1_024, form.name()),
        answers_s,
        cpu_us,
        p50_ms,
        p99_ms,
    })
}

fn request(form: Wire, tokens: &[u32]) -> Vec<u8> {
    let (target, kind, body) = match form {
        Wire::Json => (
            "/query".to_owned(),
            "application/json",
            json!({"model_name": MODEL, "token_ids": tokens}).to_string().into_bytes(),
        ),
        Wire::Bare => {
            let bare = "application/octet-stream";
            (
                format!("/query?model_name={MODEL}"),
                bare,
                tokens.iter().flat_map(|token| token.to_le_bytes()).collect(),
            )
        }
    };
    let accept = if form == Wire::Bare { "accept: application/octet-stream\r\n" } else { "" };
    let mut request = format!(
        "POST {target} HTTP/1.1\r\nhost: bench\r\ncontent-type: {kind}\r\n{accept}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// Hashing and looking up with nothing around it: what no service of this kind can be below.
fn floor(blocks: usize) -> [f64; 3] {
    let index = index::Index::new();
    let worker = blocks::Worker { instance: 1, rank: 0 };
    let mut translator = events::translate::Translator::default();
    for number in 0..Prompts::new(blocks).count() {
        for batch in Prompts::batches(number) {
            for said in batch.said {
                if let Some(event) = translator.translate(said, |_| {}) {
                    // Parents come first here.
                    let _ = index.apply(worker, &event);
                }
            }
        }
    }
    let size = BlockSize::new(BLOCK as u32).unwrap_or_else(|| unreachable!("16 is a block size"));
    let prompts: Vec<Vec<u32>> = (0..LONGS).map(Prompts::tokens).collect();
    SIZES.map(|tokens| {
        let mut found = Matches::default();
        let mut times: Vec<Duration> = (0..400)
            .map(|at| {
                let tokens = &prompts[at % LONGS][..tokens];
                let begun = now();
                index.lookup(&Hasher::new(size, Seed::PLAIN).tokens_hashes(tokens), &mut found);
                let took = begun.elapsed();
                assert_eq!(
                    found.of(worker).map(index::Match::blocks),
                    Some(tokens.len() / BLOCK),
                    "all of it is held"
                );
                took
            })
            .collect();
        percentiles(&mut times)[0] * 1e3
    })
}

// === The client ===

/// A connection that is kept, and as little around it as possible: the client's time is not what is measured.
struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn new(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        // A socket that refuses the options still works, only later.
        let _ = (stream.set_nodelay(true), stream.set_read_timeout(Some(PATIENCE)));
        Ok(Self { reader: BufReader::with_capacity(64 << 10, stream) })
    }

    /// The body of a successful answer.
    fn send(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        let text = |error: std::io::Error| error.to_string();
        self.reader.get_mut().write_all(request).map_err(text)?;
        let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
        loop {
            line.clear();
            if self.reader.read_line(&mut line).map_err(text)? == 0 {
                return Err("the connection was closed".to_owned());
            }
            if line.trim().is_empty() {
                break;
            }
            if status.is_empty() {
                status.clone_from(&line);
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).map_err(text)?;
        let code = status.split(' ').nth(1).unwrap_or_default();
        if code.starts_with('2') {
            Ok(body)
        } else {
            Err(format!("{code}: {}", String::from_utf8_lossy(&body)))
        }
    }

    fn post(&mut self, path: &str, body: &Value) -> Result<Vec<u8>, String> {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: "
        );
        self.send(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes())
    }

    fn register(&mut self, instance: u64, endpoint: &str, replay: &str) -> Result<(), String> {
        let body = json!({
            "instance_id": instance, "endpoint": endpoint, "replay_endpoint": replay, "model_name": MODEL, "block_size": BLOCK,
        });
        self.post("/register", &body).map(drop)
    }

    fn unregister(&mut self, instance: u64) -> Result<(), String> {
        self.post("/unregister", &json!({"instance_id": instance, "model_name": MODEL})).map(drop)
    }

    /// Tokens of a prompt that an instance holds.
    fn held(&mut self, instance: u64, number: usize) -> Result<usize, String> {
        let answer = self.send(&request(Wire::Json, &Prompts::tokens(number)))?;
        Ok(json_tokens(&answer, instance))
    }

    fn finds(&mut self, instance: u64, number: usize) -> Result<bool, String> {
        Ok(self.held(instance, number)? == Prompts::len(number) * BLOCK)
    }

    fn finds_any(&mut self, instance: u64, number: usize) -> Result<bool, String> {
        Ok(self.held(instance, number)? > 0)
    }

    /// The part of these prompts that an instance holds whole.
    fn found(&mut self, instance: u64, sample: &[usize]) -> Result<f64, String> {
        let mut whole = 0;
        for number in sample {
            whole += usize::from(self.finds(instance, *number)?);
        }
        Ok(whole as f64 / sample.len() as f64)
    }

    /// What is said of an instance: the state of its view, or whatever there is instead.
    fn state(&mut self, instance: u64) -> Result<String, String> {
        let answer = self.send(b"GET /workers HTTP/1.1\r\nhost: bench\r\n\r\n")?;
        let workers: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        let worker =
            workers.as_array().into_iter().flatten().find(|worker| worker["instance_id"] == instance);
        let worker = worker.ok_or("the instance is not listed")?;
        let state = worker["view"].as_str().or_else(|| worker["status"].as_str());
        Ok(state.unwrap_or("nothing").to_owned())
    }
}

fn json_tokens(answer: &[u8], instance: u64) -> usize {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    answer["scores"][instance.to_string()]["0"].as_u64().unwrap_or(0) as usize
}

/// When it was so; `None` if it was not for all of our patience.
fn until(mut so: impl FnMut() -> Result<bool, String>) -> Result<Option<std::time::Instant>, String> {
    let begun = now();
    while begun.elapsed() < PATIENCE {
        // A model that nobody is registered for any more is not found at all.
        if so()? {
            return Ok(Some(now()));
        }
        pause();
    }
    Ok(None)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark has a pace")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

#[expect(clippy::disallowed_methods, reason = "both are given the same time")]
fn settle() {
    std::thread::sleep(Duration::from_secs(3));
}

/// The result as people read it.
pub fn table(measured: &Measured) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let [small, middle, large] = measured.floor_us;
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        out,
        "{} blocks of {BLOCK} tokens; hashing and looking up alone: {small:.1} us for 2k tokens, {middle:.1} for 16k, {large:.0} for 128k\n",
        measured.blocks
    );
    for one in &measured.contestants {
        let ms = |ms: Option<f64>| {
            ms.map_or_else(|| format!("never within {} s", PATIENCE.as_secs()), |ms| format!("{ms:.0} ms"))
        };
        let _ = writeln!(
            out,
            "{}\n  cold start: all of the last prompt after {}, {:.0} % of a sample found whole; memory {:.0}, {:.0}, later {:.0} MiB",
            one.who,
            ms(one.cold_ms),
            one.cold_found * 100.0,
            one.rss_mib[0],
            one.rss_mib[1],
            one.rss_mib[2]
        );
        for row in &one.rows {
            let _ = writeln!(
                out,
                "  {:<26} {:>8.0} answers/s {:>8.0} us CPU {:>8.2} ms p50 {:>8.2} ms p99",
                row.what, row.answers_s, row.cpu_us, row.p50_ms, row.p99_ms
            );
        }
        let (state, found, whole) = &one.snapshot;
        let _ = writeln!(
            out,
            "  the engine restarts: nothing of its old cache is found after {}\n  the ring of a stock engine has moved on: called {}, {:.0} % \
             found whole\n  the same engine with snapshots: called {state}, {:.0} % found whole, after {}",
            ms(one.restart_ms),
            one.moved_on.0,
            one.moved_on.1 * 100.0,
            found * 100.0,
            ms(*whole)
        );
    }
    out
}
