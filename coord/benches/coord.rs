//! What agreeing costs: commands, time and rates, on memory and on a Redis of its own, each beside its floor.
//!
//! `cargo bench -p warmline-coord --bench coord` starts a `redis-server` on a free port and ends it. Rates are medians of
//! rounds in which ours and the floor take turns, since machines are noisy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord::backend::memory::Memory;
use coord::backend::redis::Redis;
use coord::backend::{Backend, Call, Config, Registry};
use coord::jobs::{Handler, Jobs, Options};
use coord::kit::proxy::Proxy;
use coord::kit::servers::{self, Server};
use coord::op::{Effect, Op, Plan, Task};
use coord::replicas::{Pulse, Replicas, Voice};
use coord::wait::Waits;
use coord::{Coord, Name};
use futures::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// Calls under way at a time: what a busy gateway has.
const TOGETHER: usize = 64;
const ROUNDS: usize = 5;
const SETTLES: usize = 20_000;

fn name(word: impl Into<String>) -> Name {
    Name::new(word).expect("a short word")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * at) as usize]
}

async fn redis(dsn: &str) -> Arc<dyn Backend> {
    let config = Config { backend: "redis".to_owned(), dsn: dsn.to_owned(), ..Config::default() };
    Registry::new().make(&config).await.expect("a backend")
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let server = Server::start(servers::Options::default()).await.expect("a server");
        println!("commands, counted by a proxy in front of Redis");
        commands(&server).await;
        println!("\nsettles a second, {TOGETHER} under way at a time, medians of {ROUNDS} rounds");
        settles(&server).await;
        println!("\nfrom the last settle to the handler, on another instance");
        latency("memory", Arc::new(Memory::new(None)), Duration::from_millis(500)).await;
        latency("redis", redis(&server.dsn()).await, Duration::from_millis(500)).await;
        println!("\na place within a limit that all share (what each request of a limited tenant pays)");
        doors("memory", Arc::new(Memory::new(None))).await;
        doors("redis", redis(&server.dsn()).await).await;
    });
}

// === Commands ===

async fn commands(server: &Server) {
    let proxy = Proxy::start(server.address()).await;
    let backend = redis(&proxy.dsn()).await;
    let coord = Coord::new(backend, name("a"), 1);
    let jobs =
        Jobs::begin(&coord, Vec::new(), Options { sweep: Duration::from_hours(1), ..Options::default() });
    let job = name("counted");
    let parts: Vec<Name> = (0..1_000).map(|i| name(format!("p{i}"))).collect();
    jobs.open(&job, 1, &name("none"), Bytes::new(), &parts, false).await.expect("open");
    jobs.settle(&job, 1, &parts[0]).await.expect("settle");
    let scripts = || {
        let counts = proxy.faults().counts();
        counts.get("EVALSHA").map_or(0, |count| count.forwarded)
            + counts.get("EVAL").map_or(0, |count| count.forwarded)
    };
    let before = scripts();
    for part in &parts[1..501] {
        jobs.settle(&job, 1, part).await.expect("settle");
    }
    println!("  a settle:                            {:.2} (floor 1)", (scripts() - before) as f64 / 500.0);
    jobs.cancel(&job, 1).await.expect("cancel");
    drop(jobs);
    let waits = Waits::begin(&coord);
    let request = name("waited-for");
    waits.expect(&request, &name("set"), vec![name("m")]).await.expect("expect");
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let (waits, request) = (waits.clone(), request.clone());
            tokio::spawn(async move { waits.wait(&request, Duration::from_mins(1)).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = scripts();
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!(
        "  a waiter in a second between polls:  {:.2} (floor 0; 200 wait)",
        (scripts() - before) as f64 / 200.0
    );
    waits.arrive(&request, &name("set"), &name("m"), None).await.expect("arrive");
    for waited in waiting {
        waited.await.expect("a waiter");
    }
}

// === Rates ===

/// So many calls, some at a time.
async fn rate<F, T>(count: usize, call: F) -> f64
where
    F: Fn(usize) -> T + Send + Sync + Clone + 'static,
    T: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let workers: Vec<_> = (0..TOGETHER)
        .map(|_| {
            let (next, call) = (next.clone(), call.clone());
            tokio::spawn(async move {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) as usize;
                    if at >= count {
                        return;
                    }
                    call(at).await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("a worker");
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn open(coord: &Coord, job: &Name, parts: usize) {
    let plan = Plan {
        owner: coord.instance().clone(),
        handler: name("none"),
        payload: Bytes::new(),
        watchdog: Duration::ZERO,
        lease: Duration::from_secs(10),
    };
    let parts: Vec<Name> = (0..parts).map(|i| name(format!("p{i}"))).collect();
    let (first, rest) = parts.split_at(1_000);
    let op = Op::Open { job: job.clone(), epoch: 1, plan, parts: first.to_vec(), sealed: false };
    coord.ask(&op).await.expect("open");
    for chunk in rest.chunks(1_000) {
        let op = Op::AddParts { job: job.clone(), epoch: 1, parts: chunk.to_vec() };
        coord.ask(&op).await.expect("add parts");
    }
}

async fn settling(coord: &Coord, round: usize) -> f64 {
    let job = name(format!("job-{round}"));
    open(coord, &job, SETTLES).await;
    let (settler, at) = (coord.clone(), job.clone());
    let rate = rate(SETTLES, move |part| {
        let (coord, job) = (settler.clone(), at.clone());
        async move {
            let op = Op::Settle { job, epoch: 1, part: name(format!("p{part}")) };
            coord.ask(&op).await.expect("settle");
        }
    });
    let rate = rate.await;
    coord.ask(&Op::Cancel { job, epoch: 1 }).await.expect("cancel");
    rate
}

/// The library alone, calling a script of the server's that does nothing, or as much as a settle does.
async fn evalsha(line: &MultiplexedConnection, sha: &str, keys: usize) -> f64 {
    let (line, sha) = (line.clone(), sha.to_owned());
    rate(SETTLES, move |at| {
        let (mut line, sha) = (line.clone(), sha.clone());
        async move {
            let mut command = redis::cmd("EVALSHA");
            command
                .arg(sha)
                .arg(keys)
                .arg("{floor}:head")
                .arg("{floor}:live")
                .arg("{floor}:job")
                .arg("{floor}:parts");
            command
                .arg("")
                .arg("0")
                .arg("1")
                .arg("3600000")
                .arg("c")
                .arg("job")
                .arg("1")
                .arg(format!("p{at}"));
            line.send_packed_command(&command).await.expect("an answer");
        }
    })
    .await
}

/// The library alone, with the very commands that ours sends, made before the clock starts.
async fn bare(line: &MultiplexedConnection, backend: &Redis, coord: &Coord, round: usize) -> f64 {
    let job = name(format!("bare-{round}"));
    open(coord, &job, SETTLES).await;
    let command = |part: usize| {
        let op = Op::Settle { job: job.clone(), epoch: 1, part: name(format!("p{part}")) };
        backend.command(&Call { op: &op, seen: None, new_life: 1 })
    };
    let commands: Arc<Vec<redis::Cmd>> = Arc::new((0..SETTLES).map(command).collect());
    let line = line.clone();
    let rate = rate(SETTLES, move |at| {
        let (mut line, commands) = (line.clone(), commands.clone());
        async move {
            line.send_packed_command(&commands[at]).await.expect("an answer");
        }
    });
    let rate = rate.await;
    coord.ask(&Op::Cancel { job, epoch: 1 }).await.expect("cancel");
    rate
}

/// As many commands as a settle sends from within the script: what no design with a record of each part can go below.
const AS_MUCH: &str = "redis.call('HINCRBY', KEYS[1], 'changes', 1) redis.call('TIME') \
     redis.call('HMGET', KEYS[3], 'epoch', 'stage', 'left', 'sealed', 'touched', ARGV[8]) \
     redis.call('HSET', KEYS[3], ARGV[8], '1', 'left', 1, 'moved', 1) return {ARGV[3], 1, 'OK', 'accepted', 1}";

async fn settles(server: &Server) {
    let memory = Coord::new(Arc::new(Memory::new(None)), name("a"), 1);
    let config = Config { backend: "redis".to_owned(), dsn: server.dsn(), ..Config::default() };
    let backend = Arc::new(Redis::connect(&config).expect("a backend"));
    let remote = Coord::new(backend.clone(), name("a"), 2);
    let mut line =
        server.client().expect("a client").get_multiplexed_async_connection().await.expect("a line");
    let mut hashes = Vec::new();
    for code in ["return {ARGV[3], 1, 'OK', 'accepted', 1}", AS_MUCH] {
        let sha: String =
            redis::cmd("SCRIPT").arg("LOAD").arg(code).query_async(&mut line).await.expect("a hash");
        hashes.push(sha);
    }
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        rates.entry("memory").or_default().push(settling(&memory, round).await);
        rates.entry("redis").or_default().push(settling(&remote, round).await);
        rates.entry("bare").or_default().push(bare(&line, &backend, &remote, round).await);
        rates.entry("nothing").or_default().push(evalsha(&line, &hashes[0], 3).await);
        rates.entry("as much").or_default().push(evalsha(&line, &hashes[1], 3).await);
    }
    let of = |what: &str| median(rates[what].clone());
    println!("  memory                               {:>9.0}", of("memory"));
    println!("  redis                                {:>9.0}", of("redis"));
    println!(
        "  the library alone, the same EVALSHA  {:>9.0}   ours is {:.0} %",
        of("bare"),
        100.0 * of("redis") / of("bare")
    );
    println!(
        "  a script of the same commands only   {:>9.0}   ours is {:.0} %",
        of("as much"),
        100.0 * of("redis") / of("as much")
    );
    println!(
        "  an empty script                      {:>9.0}   ours is {:.0} %",
        of("nothing"),
        100.0 * of("redis") / of("nothing")
    );
}

// === Latency ===

struct Tell(mpsc::UnboundedSender<Instant>);

impl Handler for Tell {
    fn finish<'a>(&'a self, _task: &'a Task) -> BoxFuture<'a, Result<Vec<Effect>, String>> {
        let _heard = self.0.send(Instant::now());
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

async fn latency(what: &str, backend: Arc<dyn Backend>, poll: Duration) {
    let (sender, mut heard) = mpsc::unbounded_channel();
    let (owner, other) = (Coord::new(backend.clone(), name("a"), 1), Coord::new(backend, name("b"), 2));
    let handlers = vec![(name("tell"), Arc::new(Tell(sender)) as Arc<dyn Handler>)];
    let options = Options { poll, sweep: Duration::from_hours(1), ..Options::default() };
    let owner = Jobs::begin(&owner, handlers, options.clone());
    let other = Jobs::begin(&other, Vec::new(), options);
    // The first notices may be said before anybody hears.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut took = Vec::new();
    for round in 0..300 {
        let job = name(format!("ends-{round}"));
        owner.open(&job, 1, &name("tell"), Bytes::new(), &[name("p")], true).await.expect("open");
        let begun = Instant::now();
        other.settle(&job, 1, &name("p")).await.expect("settle");
        let at = heard.recv().await.expect("the handler");
        took.push(at.duration_since(begun).as_secs_f64() * 1e3);
    }
    println!(
        "  {what:<8} p50 {:.2} ms, p99 {:.2} ms   (polling every {} ms alone: p50 {}, p99 {})",
        quantile(&mut took, 0.5),
        quantile(&mut took, 0.99),
        poll.as_millis(),
        poll.as_millis() / 2,
        poll.as_millis() * 99 / 100
    );
}

// === Doors ===

struct Silent;

impl Voice for Silent {
    fn info(&self) -> Bytes {
        Bytes::new()
    }
    fn cells(&self) -> Vec<(Name, i64)> {
        Vec::new()
    }
}

async fn doors(what: &str, backend: Arc<dyn Backend>) {
    let replicas = Replicas::begin(&Coord::new(backend, name("a"), 1), 1, Pulse::default(), Arc::new(Silent));
    let mut view = replicas.view();
    view.changed().await.expect("a first beat");
    let pool = replicas.pool(&name("tenant"), 1_000);
    drop(replicas.enter(&pool, Duration::from_secs(5)).await.expect("a first place"));
    let sent = || replicas.coord().counters().sent.load(Ordering::Relaxed);
    let before = sent();
    let begun = Instant::now();
    let count = 1_000_000;
    for _ in 0..count {
        drop(replicas.enter(&pool, Duration::ZERO).await.expect("a place"));
    }
    let each = begun.elapsed().as_secs_f64() * 1e9 / f64::from(count);
    let floor = {
        // What taking and giving back any place costs: two turns of an uncontended lock.
        let (lock, gone) = (parking_lot::Mutex::new(0_u64), Notify::new());
        let begun = Instant::now();
        for _ in 0..count {
            *std::hint::black_box(&lock).lock() += 1;
            *std::hint::black_box(&lock).lock() -= 1;
            gone.notify_one();
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    };
    println!(
        "  {what:<8} {each:.0} ns and {:.4} commands a request   (two turns of a lock and a word: {floor:.0} ns)",
        (sent() - before) as f64 / f64::from(count)
    );
}
