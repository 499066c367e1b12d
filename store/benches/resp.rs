//! What the protocol costs over loopback, beside a raw TCP stream of the same sizes and beside `redis-server`, in one run.
//!
//! `cargo bench -p warmline-store --bench resp [large|small|tool] [threads]`. One client, the same bytes, for all three: it
//! keeps so many requests under way, and reads into the same memory again and again. The floor does nothing but read requests
//! of known length and write answers of known length, on a thread of its own. They take turns, and rates are medians.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use store::resp::fake::{Fake, Pace};
use store::resp::server::Threads;
use store::resp::{Server, Settings};

const ROUNDS: usize = 7;
/// Keys that are used in turn, so that a value is not always the one that was just touched.
const KEYS: usize = 8;

/// One kind of work.
#[derive(Clone, Copy)]
struct Work {
    write: bool,
    size: usize,
    depth: usize,
    /// Bytes that one round moves, about.
    bytes: usize,
}

fn main() {
    // Cargo says `--bench` to every bench.
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let threads = asked.iter().find_map(|word| word.parse().ok()).unwrap_or(1);
    let wanted = |name: &str| {
        let names: Vec<&String> = asked.iter().filter(|word| word.parse::<usize>().is_err()).collect();
        names.is_empty() || names.iter().any(|word| *word == name)
    };
    let (ours, redis) = (Ours::start(threads), Redis::start());
    println!("{threads} threads of ours; medians of {ROUNDS} rounds in turn");
    if wanted("large") {
        for (size, depths) in [(1 << 20, [1, 8]), (16 << 20, [1, 2])] {
            for depth in depths {
                for write in [false, true] {
                    compare(&ours, &redis, Work { write, size, depth, bytes: 512 << 20 });
                }
            }
        }
    }
    if wanted("small") {
        for depth in [1, 16, 64] {
            for write in [false, true] {
                let bytes = if depth == 1 { 40 << 20 } else { 160 << 20 };
                compare(&ours, &redis, Work { write, size: 4 << 10, depth, bytes });
            }
        }
    }
    if wanted("tool") {
        tool(&ours, &redis);
    }
}

fn compare(ours: &Ours, redis: &Redis, work: Work) {
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        rates[0].push(rate(raw(work), work));
        rates[1].push(rate(ours.port, work));
        rates[2].push(rate(redis.port, work));
    }
    let [raw, ours, redis] = rates.map(median);
    let name =
        format!("{} {:>5} KiB x{}", if work.write { "SET" } else { "GET" }, work.size >> 10, work.depth);
    let (unit, scale) =
        if work.size >= 1 << 20 { ("GiB/s", f64::from(1 << 30)) } else { ("k/s", work.size as f64 * 1e3) };
    println!(
        "{name:18} raw {:8.2} {unit}  ours {:8.2} ({:3.0} % of raw)  redis {:8.2} (ours {:.2}x)",
        raw / scale,
        ours / scale,
        100.0 * ours / raw,
        redis / scale,
        ours / redis
    );
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

// === The client ===

fn get(key: usize) -> Vec<u8> {
    format!("*2\r\n$3\r\nGET\r\n$5\r\nkey:{key}\r\n").into_bytes()
}

fn set(key: usize, size: usize) -> Vec<u8> {
    let mut command = format!("*3\r\n$3\r\nSET\r\n$5\r\nkey:{key}\r\n${size}\r\n").into_bytes();
    command.resize(command.len() + size, b'x');
    command.extend_from_slice(b"\r\n");
    command
}

/// How long an answer is.
fn answered(work: Work) -> usize {
    if work.write { 5 } else { format!("${}\r\n\r\n", work.size).len() + work.size }
}

/// Bytes of values a second.
fn rate(port: u16, work: Work) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a server");
    stream.set_nodelay(true).expect("a socket");
    for key in 0..KEYS {
        stream.write_all(&set(key, work.size)).expect("a write");
        stream.read_exact(&mut [0; 5]).expect("an answer");
    }
    let one = |key: usize| if work.write { set(key, work.size) } else { get(key) };
    // Small requests of a pipeline leave together, as clients send them.
    let batches: Vec<Vec<u8>> = match work.size {
        ..65536 => vec![(0..work.depth).flat_map(|i| one(i % KEYS)).collect()],
        _ => (0..KEYS).map(one).collect(),
    };
    let each = if work.size < 65536 { work.depth } else { 1 };
    let mut answer = vec![0; answered(work) * each];
    let rounds = (work.bytes / work.size / work.depth).max(2);
    let mut turn = |stream: &mut TcpStream, count: usize| {
        for _ in 0..count {
            for i in 0..work.depth / each {
                stream.write_all(&batches[i % batches.len()]).expect("a write");
            }
            for _ in 0..work.depth / each {
                stream.read_exact(&mut answer).expect("an answer");
            }
        }
    };
    turn(&mut stream, rounds.div_ceil(8));
    let began = now();
    turn(&mut stream, rounds);
    (rounds * work.depth * work.size) as f64 / began.elapsed().as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

// === The floor ===

/// Serves one connection of this work, without looking at what it is sent.
fn raw(work: Work) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_nodelay(true).expect("a socket");
        let mut values: Vec<Vec<u8>> = (0..KEYS).map(|_| vec![b'x'; set(0, work.size).len()]).collect();
        let mut short = vec![0; get(0).len()];
        let answer = answered(work);
        for value in &mut values {
            stream.read_exact(value).expect("a value");
            stream.write_all(b"+OK\r\n").expect("a client");
        }
        // A pipeline of small requests is read together, as it was sent.
        let together = if work.size < 65536 { work.depth } else { 1 };
        let mut many = vec![0; short.len() * together];
        let mut large = vec![0; values[0].len() * together];
        let answers = vec![b'x'; answer * together];
        for at in 0.. {
            let value = &mut values[at % KEYS];
            let read = match (work.write, together) {
                (false, 1) => stream.read_exact(&mut short),
                (false, _) => stream.read_exact(&mut many),
                (true, 1) => stream.read_exact(value),
                (true, _) => stream.read_exact(&mut large),
            };
            let written = match (work.write, together) {
                (false, 1) => stream.write_all(&value[..answer]),
                _ => stream.write_all(&answers),
            };
            if read.and(written).is_err() {
                return;
            }
        }
    });
    port
}

// === The servers ===

struct Ours {
    port: u16,
    _threads: Threads,
    _accepts: Threads,
}

impl Ours {
    fn start(threads: usize) -> Self {
        let (threads, accepts) =
            (Threads::start(threads).expect("threads"), Threads::start(1).expect("a thread"));
        let server = Server::new(
            Arc::new(Fake::new(1 << 30, Pace::Now)),
            Settings { flush: true, ..Settings::default() },
        );
        let (tell, told) = mpsc::channel();
        let hands = threads.hands().to_vec();
        accepts.hands()[0].spawn(async move {
            let listener = store::resp::server::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("a port").port()).expect("a bench");
            server.serve(listener, &hands, std::future::pending(), Duration::ZERO).await;
        });
        Self { port: told.recv().expect("a port"), _threads: threads, _accepts: accepts }
    }
}

struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a port").port();
        let number = port.to_string();
        let args = ["--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let child =
            Command::new("redis-server").args(args).stdout(Stdio::null()).spawn().expect("redis-server");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        Self { child, port }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === redis-benchmark ===

fn tool(ours: &Ours, redis: &Redis) {
    println!("redis-benchmark -d 4096 -c 50, requests a second, medians of 3");
    for depth in ["1", "16"] {
        let run = |port: u16| -> Vec<(String, f64)> {
            let port = port.to_string();
            let count = if depth == "1" { "60000" } else { "200000" };
            let args = ["-h", "127.0.0.1", "-p", &port, "-n", count, "-c", "50", "-d", "4096", "-r", "1000"];
            let more = ["-P", depth, "-t", "set,get", "--csv"];
            let out =
                Command::new("redis-benchmark").args(args).args(more).output().expect("redis-benchmark");
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let field =
                |line: &str, at: usize| line.split(',').nth(at).unwrap_or("").trim_matches('"').to_owned();
            text.lines().skip(1).map(|line| (field(line, 0), field(line, 1).parse().unwrap_or(0.0))).collect()
        };
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            mine.push(run(ours.port));
            theirs.push(run(redis.port));
        }
        for at in 0..mine[0].len() {
            let middle = |runs: &[Vec<(String, f64)>]| median(runs.iter().map(|run| run[at].1).collect());
            let (own, other) = (middle(&mine), middle(&theirs));
            println!(
                "  -P {depth:2} {:4} ours {own:9.0}  redis {other:9.0}  {:.2}x",
                mine[0][at].0,
                own / other
            );
        }
    }
}
