//! `warmline bench store`: what the tiered store does over its protocol, beside a raw TCP stream and `redis-server` in one run.
//!
//! Every server is a process of its own, driven by the same client over loopback. They take turns, and rates are medians.

mod floor;
mod stream;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::process::{Process, free, now, percentiles};
use crate::settings::{Settings, Size};
use crate::store::{Whole, start_whole};
use stream::{Client, Work};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Objects of the measurements that need many.
    pub objects: usize,
    /// Rounds of each row; its rate is the median.
    pub rounds: usize,
    /// Threads of ours that serve clients.
    pub threads: usize,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// One client, values in turn.
    pub streams: Vec<Row>,
    /// `redis-benchmark` with the same flags against both.
    pub tool: Vec<Tool>,
    /// Many objects.
    pub many: Many,
    /// From the second touch of 60 objects of 1 MiB on disk until all are in memory, in seconds.
    pub promotion_s: f64,
    /// Starting again with as many objects on disk.
    pub restart: Restart,
}

/// Bytes of values a second.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// A socket at either end, and nothing else.
    pub raw: f64,
    /// Ours, in memory alone.
    pub ours: f64,
    /// Ours, with every value on its way to disk as well.
    pub tiered: f64,
    /// `redis-server`, in memory alone.
    pub redis: Option<f64>,
}

/// Requests a second.
#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    /// What was done.
    pub name: String,
    /// Ours.
    pub ours: f64,
    /// `redis-server`.
    pub redis: f64,
}

/// A store of many small objects.
#[derive(Clone, Debug, Serialize)]
pub struct Many {
    /// How many.
    pub objects: usize,
    /// Keys a second that two clients ask for, 128 an `EXISTS`.
    pub exists_keys_per_second: f64,
    /// The same of `redis-server`.
    pub redis_exists_keys_per_second: Option<f64>,
    /// Milliseconds of one such question when nothing else happens: the median and the slowest hundredth.
    pub exists_idle_ms: [f64; 2],
    /// The same while another client overwrites what is there: what a busy neighbour costs on these cores.
    pub exists_writing_ms: [f64; 2],
    /// The same while memory is full and another client writes what is new, so that as much must leave.
    pub exists_evicting_ms: [f64; 2],
    /// Objects that left meanwhile, a second.
    pub evicted_per_second: f64,
    /// Bytes of the process for each object beyond key and value.
    pub bytes_an_object: f64,
}

/// Starting again.
#[derive(Clone, Debug, Serialize)]
pub struct Restart {
    /// Objects that were there before.
    pub objects: u64,
    /// Objects that were there after it.
    pub found: u64,
    /// Seconds until the first answer.
    pub seconds: f64,
}

/// Bytes of a small value, with a key of 16.
const SMALL: usize = 256;
const KEY: usize = 16;
/// Keys of one question.
const TOGETHER: usize = 128;
/// How long a load with many questions goes on.
const ASKING: Duration = Duration::from_secs(4);

/// Measures, in a folder that is empty.
///
/// # Errors
/// What stood in the way.
pub fn measure(plan: Plan, data: &Path, say: impl Fn(&str)) -> Result<Measured, String> {
    let redis = redis()?;
    if redis.is_none() {
        say("redis-server is not installed: its columns stay empty");
    }
    let memory = Store { threads: plan.threads, ..Store::default() }.start(data)?;
    let tiered = Store { threads: plan.threads, folder: Some("tiered"), ..Store::default() }.start(data)?;
    let streams = streams(plan, &memory, &tiered, redis.as_ref(), &say)?;
    let tool = match &redis {
        Some(redis) => tool(&memory, redis, &say)?,
        None => Vec::new(),
    };
    drop((memory, tiered));
    let many = many(plan, data, redis.as_ref(), &say)?;
    drop(redis);
    say("60 objects of 1 MiB come back to memory");
    let promotion_s = promotion(&data.join("promotion"))?;
    say("starting again");
    let restart = restart(plan, data)?;
    Ok(Measured { streams, tool, many, promotion_s, restart })
}

// === Streams ===

fn streams(
    plan: Plan,
    memory: &Process,
    tiered: &Process,
    redis: Option<&Process>,
    say: &impl Fn(&str),
) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (size, depths, bytes) in
        [(16 << 20, [1, 2], 512 << 20), (1 << 20, [1, 8], 512 << 20), (4 << 10, [1, 16], 48 << 20)]
    {
        for (depth, write) in depths.into_iter().flat_map(|depth| [(depth, false), (depth, true)]) {
            let work = Work { write, size, depth, bytes };
            say(&work.name());
            let mut rates = [const { Vec::new() }; 4];
            for _ in 0..plan.rounds {
                rates[0].push(stream::rate(floor::serve(work)?, work)?);
                rates[1].push(stream::rate(memory.address, work)?);
                rates[2].push(stream::rate(tiered.address, work)?);
                if let Some(redis) = redis {
                    rates[3].push(stream::rate(redis.address, work)?);
                }
            }
            let [raw, ours, tiered, redis] = rates.map(median);
            let (raw, ours, tiered) = (raw.unwrap_or(0.0), ours.unwrap_or(0.0), tiered.unwrap_or(0.0));
            rows.push(Row { name: work.name(), raw, ours, tiered, redis });
        }
    }
    Ok(rows)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

// === redis-benchmark ===

fn tool(ours: &Process, redis: &Process, say: &impl Fn(&str)) -> Result<Vec<Tool>, String> {
    let mut rows = Vec::new();
    for depth in ["1", "16"] {
        say(&format!("redis-benchmark -P {depth}"));
        let run = |process: &Process| -> Result<Vec<(String, f64)>, String> {
            let port = process.address.port().to_string();
            let count = if depth == "1" { "60000" } else { "200000" };
            let args = ["-h", "127.0.0.1", "-p", &port, "-n", count, "-c", "50", "-d", "4096", "-r", "1000"];
            let more = ["-P", depth, "-t", "set,get", "--csv"];
            let out = Command::new("redis-benchmark").args(args).args(more).output();
            let text = out.map_err(|error| format!("redis-benchmark: {error}"))?.stdout;
            let field =
                |line: &str, at: usize| line.split(',').nth(at).unwrap_or("").trim_matches('"').to_owned();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines = text.lines().skip(1);
            Ok(lines.map(|line| (field(line, 0), field(line, 1).parse().unwrap_or(0.0))).collect())
        };
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            own.push(run(ours)?);
            other.push(run(redis)?);
        }
        for (at, (what, _)) in own[0].iter().enumerate() {
            let middle = |runs: &[Vec<(String, f64)>]| {
                median(runs.iter().filter_map(|run| run.get(at)).map(|(_, rate)| *rate).collect())
                    .unwrap_or(0.0)
            };
            rows.push(Tool { name: format!("{what} -P {depth}"), ours: middle(&own), redis: middle(&other) });
        }
    }
    Ok(rows)
}

// === Many objects ===

fn key(number: usize) -> [u8; KEY] {
    let mut key = *b"kv:0000000000000";
    for (at, digit) in key.iter_mut().enumerate().skip(3) {
        *digit = b'0' + ((number / 10_usize.pow((KEY - 1 - at) as u32)) % 10) as u8;
    }
    key
}

fn many(plan: Plan, data: &Path, redis: Option<&Process>, say: &impl Fn(&str)) -> Result<Many, String> {
    let bytes = (plan.objects * SMALL) as u64;
    // As much as fits to just below the high watermark.
    let memory = Size(bytes * 100 / 94);
    let ours = Store { threads: plan.threads, memory, ..Store::default() }.start(data)?;
    let empty = ours.rss_mib()?;
    say(&format!("{} objects", plan.objects));
    fill(&ours, 0..plan.objects)?;
    let bytes_an_object =
        ((ours.rss_mib()? - empty) * 1_048_576.0 - bytes as f64) / plan.objects as f64 - KEY as f64;
    say("EXISTS, 128 keys a question");
    let rate = ask_much(&ours, plan.objects)?;
    let redis_rate = match redis {
        None => None,
        Some(redis) => {
            fill(redis, 0..plan.objects)?;
            Some(ask_much(redis, plan.objects)?)
        }
    };
    let idle = ask(&ours, plan.objects)?;
    say("the same while others write");
    let writing = ask_beside(&ours, plan.objects, 0)?;
    say("the same while memory is full and others write");
    let mut counts = Client::connect(ours.address)?;
    let (before, begun) = (counts.evicted()?, now());
    let evicting = ask_beside(&ours, plan.objects, plan.objects)?;
    let evicted = (counts.evicted()? - before) as f64 / begun.elapsed().as_secs_f64();
    Ok(Many {
        objects: plan.objects,
        exists_keys_per_second: rate,
        redis_exists_keys_per_second: redis_rate,
        exists_idle_ms: idle,
        exists_writing_ms: writing,
        exists_evicting_ms: evicting,
        evicted_per_second: evicted,
        bytes_an_object,
    })
}

/// Writes these objects, many under way at a time.
fn fill(process: &Process, numbers: std::ops::Range<usize>) -> Result<(), String> {
    let mut client = Client::connect(process.address)?;
    let value = [b'v'; SMALL];
    for first in numbers.clone().step_by(512) {
        let some = first..(first + 512).min(numbers.end);
        client.set_many(some.map(key), &value)?;
    }
    Ok(())
}

/// Keys a second, by two clients.
fn ask_much(process: &Process, objects: usize) -> Result<f64, String> {
    let begun = now();
    let asked = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|client| {
                scope.spawn(move || {
                    let mut asks = Client::connect(process.address)?;
                    let (mut keys, mut at) = (0, client * 7_919);
                    while begun.elapsed() < ASKING {
                        keys += asks.exist_batches(16, TOGETHER, |i| key((at + i * 31) % objects))?;
                        at += 16 * TOGETHER * 31;
                    }
                    Ok::<usize, String>(keys)
                })
            })
            .collect();
        let asked = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| Err("a client died".to_owned())));
        asked.sum::<Result<usize, String>>()
    })?;
    Ok(asked as f64 / begun.elapsed().as_secs_f64())
}

/// How long single questions take.
fn ask(process: &Process, objects: usize) -> Result<[f64; 2], String> {
    let mut client = Client::connect(process.address)?;
    let (begun, mut times, mut at) = (now(), Vec::new(), 0);
    while begun.elapsed() < ASKING {
        let one = now();
        client.exist_batches(1, TOGETHER, |i| key((at + i * 31) % objects))?;
        times.push(one.elapsed());
        at += TOGETHER * 31;
    }
    Ok(percentiles(&mut times))
}

/// How long single questions take while another client writes, from this number on.
fn ask_beside(process: &Process, objects: usize, first: usize) -> Result<[f64; 2], String> {
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let mut from = first;
            while !ends.load(Ordering::Relaxed) {
                // What is there is overwritten again and again; what is new is always new.
                let some = if first == 0 { from % objects.saturating_sub(4_096).max(1) } else { from };
                fill(process, some..some + 4_096)?;
                from += 4_096;
            }
            Ok::<_, String>(())
        });
        let asked = ask(process, objects);
        ends.store(true, Ordering::Relaxed);
        writes.join().unwrap_or_else(|_| Err("the writer died".to_owned()))?;
        asked
    })
}

// === Promotion ===

const HOT: usize = 60;

fn promotion(folder: &Path) -> Result<f64, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let mut settings = Settings::default();
    settings.tiers.folder = Some(folder.to_owned());
    (settings.tiers.memory, settings.tiers.disk) = (Size::mib(256), Size::mib(1024));
    (settings.tiers.listen, settings.tiers.admin) = (free()?, free()?);
    let name = |number: usize| key(number);
    let value = vec![b'v'; 1 << 20];
    let Whole { running, address, .. } = runtime.block_on(start_whole(&settings))?;
    let mut client = Client::connect(address)?;
    for number in 0..HOT {
        client.set_many(std::iter::once(name(number)), &value)?;
    }
    drop(client);
    runtime.block_on(running.stop());
    (settings.tiers.listen, settings.tiers.admin) = (free()?, free()?);
    let Whole { running, address, local } = runtime.block_on(start_whole(&settings))?;
    let mut client = Client::connect(address)?;
    let touch = |client: &mut Client| (0..HOT).try_for_each(|number| client.get(&name(number), value.len()));
    touch(&mut client)?;
    let begun = now();
    touch(&mut client)?;
    let master = local.master();
    while master.counters().promotions.completed < HOT as u64 {
        if begun.elapsed() > Duration::from_mins(1) {
            return Err(format!("only {:?} came back", master.counters().promotions));
        }
        std::thread::yield_now();
    }
    let seconds = begun.elapsed().as_secs_f64();
    drop(client);
    runtime.block_on(running.stop());
    Ok(seconds)
}

// === Starting again ===

fn restart(plan: Plan, data: &Path) -> Result<Restart, String> {
    let disk = Size(((plan.objects * (SMALL + 256)) as u64 * 2).max(256 << 20));
    let store = Store { threads: plan.threads, folder: Some("restart"), disk, ..Store::default() };
    let first = store.start(data)?;
    fill(&first, 0..plan.objects)?;
    let objects = Client::connect(first.address)?.count()?;
    first.end(Duration::from_mins(5))?;
    let begun = now();
    let again = store.start(data)?;
    let mut client = Client::connect(again.address)?;
    client.get(&key(plan.objects / 2), SMALL)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Restart { objects, found: client.count()?, seconds })
}

// === Servers ===

/// A store of ours.
#[derive(Clone, Copy)]
struct Store {
    threads: usize,
    memory: Size,
    disk: Size,
    folder: Option<&'static str>,
}

impl Default for Store {
    fn default() -> Self {
        Self { threads: 0, memory: Size::mib(1024), disk: Size::mib(4096), folder: None }
    }
}

impl Store {
    fn start(self, data: &Path) -> Result<Process, String> {
        let (address, admin) = (free()?, free()?);
        let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
        command.args(["store", "--listen", &address.to_string(), "--admin-listen", &admin.to_string()]);
        command.args(["--memory", &self.memory.to_string(), "--disk", &self.disk.to_string()]);
        command.env("WARMLINE_TIERS_THREADS", self.threads.to_string()).env("WARMLINE_LOG_FILTER", "error");
        if let Some(folder) = self.folder {
            command.arg("--data").arg(data.join(folder));
        }
        Process::start(&mut command, address)
    }
}

/// `redis-server` that keeps nothing; `None` if it is not installed.
fn redis() -> Result<Option<Process>, String> {
    if Command::new("redis-server").arg("--version").output().is_err() {
        return Ok(None);
    }
    let address = free()?;
    let port = address.port().to_string();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    Process::start(&mut command, address).map(Some)
}

// === Showing ===

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const GIB: f64 = (1 << 30) as f64;
        writeln!(f, "one client, GiB/s         raw TCP   memory   of raw   + disk    redis    ours/redis")?;
        for row in &self.streams {
            let Row { name, raw, ours, tiered, redis } = row;
            let [raw_, ours_, tiered_] = [raw, ours, tiered].map(|rate| rate / GIB);
            write!(f, "{name:24} {raw_:8.3} {ours_:8.3} {:6.0} % {tiered_:8.3}", 100.0 * ours / raw)?;
            match redis {
                Some(redis) => writeln!(f, " {:8.3} {:8.2}", redis / GIB, ours / redis)?,
                None => writeln!(f)?,
            }
        }
        if !self.tool.is_empty() {
            writeln!(f, "\nredis-benchmark -c 50 -d 4096, requests/s       ours      redis    ours/redis")?;
        }
        for Tool { name, ours, redis } in &self.tool {
            writeln!(f, "{name:40} {ours:10.0} {redis:10.0} {:8.2}", ours / redis)?;
        }
        let many = &self.many;
        writeln!(f, "\n{} objects of {SMALL} bytes in memory", many.objects)?;
        writeln!(f, "EXISTS of {TOGETHER}, two clients: {:.0} k keys/s", many.exists_keys_per_second / 1e3)?;
        if let Some(redis) = many.redis_exists_keys_per_second {
            writeln!(f, "    redis: {:.0} k keys/s", redis / 1e3)?;
        }
        let [idle, writing, evicting] =
            [many.exists_idle_ms, many.exists_writing_ms, many.exists_evicting_ms];
        writeln!(f, "EXISTS of {TOGETHER}, one client, idle: p50 {:.3} ms, p99 {:.3} ms", idle[0], idle[1])?;
        writeln!(
            f,
            "    while another client overwrites: p50 {:.3} ms, p99 {:.3} ms",
            writing[0], writing[1]
        )?;
        writeln!(
            f,
            "    while {:.0} objects a second are evicted: p50 {:.3} ms, p99 {:.3} ms ({:.2} times idle, {:.2} times overwriting)",
            many.evicted_per_second,
            evicting[0],
            evicting[1],
            evicting[1] / idle[1],
            evicting[1] / writing[1]
        )?;
        writeln!(f, "bytes of the process for an object beyond key and value: {:.0}", many.bytes_an_object)?;
        writeln!(f, "\n60 x 1 MiB from disk to memory, from the second touch: {:.3} s", self.promotion_s)?;
        let Restart { objects, found, seconds } = self.restart;
        write!(f, "restart with {objects} objects on disk: {found} found, first answer after {seconds:.2} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_all_different_and_of_one_length() {
        assert_eq!(&key(0), b"kv:0000000000000");
        assert_eq!(&key(1_234_567), b"kv:0000001234567");
    }
}
