//! What a durable queue does in a second and how soon it begins again after a kill: enqueue, run, finish, each acknowledged
//! only once it is on disk, as `bench/peers/queue/run.py` asks of others.
//!
//! Items go to keyed queues of which each runs one at a time; their handler notes that it was started, and is done. Producer
//! and handler live in the process that is measured.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use parking_lot::Mutex;
use queue::entry::{Cost, Entry, Order, Outcome, Terms};
use queue::ledger::{Done, Refused, What};
use queue::limits::Limits;
use queue::log::Fjall;
use queue::log::fjall::Options;
use queue::name::{Class, EntryId, Millis, QueueName, Seq};
use queue::room::{self, Clock, Room, Runner, Started};
use queue::scheduler::{Ground, Placed, Window};
use serde::Serialize;

use super::process::{now, percentiles};

/// What is measured.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Items of the throughput.
    pub items: usize,
    /// Queues that they are spread over.
    pub queues: usize,
    /// Producers, each of which waits for its acknowledgement before it sends again.
    pub connections: usize,
    /// Items of the latency, one at a time.
    pub sends: usize,
    /// Items that wait when the process is killed.
    pub queued: usize,
}

/// What this process plays for the one that measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Takes items whose handlers never end, says so, and waits to be killed.
    Hold,
    /// Opens what was left, says when the first is started, and runs all.
    Resume,
}

/// What was measured; the names are those of the peers' benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    name: &'static str,
    version: &'static str,
    items_per_second: f64,
    acked_per_second: f64,
    latency_ms: Middle,
    latency_from_ack_ms: Middle,
    cpu_us_per_item: f64,
    first_dispatch_s: f64,
    first_new_dispatch_s: f64,
    rss_mib: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Middle {
    p50: f64,
    p99: f64,
}

const PARTITION: u32 = 1;
/// Generous: a machine on which nothing happens for so long is broken.
const PATIENCE: Duration = Duration::from_mins(2);
/// Items before anything is measured.
const WARM: usize = 1_000;

/// Measures in a folder that is empty.
///
/// # Errors
/// A disk that cannot be written, a child that does not do its part, or an item that was acknowledged and is lost.
pub fn measure(plan: Plan, data: &Path, say: impl Fn(&str)) -> Result<Measured, String> {
    let folder = |name: &str| {
        let folder = data.join(name);
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok::<_, String>(folder)
    };
    let busy = Stage::open(&folder("busy")?, true)?;
    say("warming up");
    busy.together(WARM, plan.queues, plan.connections)?;
    say("one at a time");
    let [latency, from_ack] = busy.alone(plan.sends, plan.queues)?;
    say("all at once");
    let all = busy.together(plan.items, plan.queues, plan.connections)?;
    let rss_mib = resident()?;
    drop(busy);
    say("kill -9, and again");
    let (first, fresh) = killed(plan, &folder("killed")?)?;
    Ok(Measured {
        name: "warmline",
        version: env!("CARGO_PKG_VERSION"),
        items_per_second: all.started,
        acked_per_second: all.acked,
        latency_ms: latency,
        latency_from_ack_ms: from_ack,
        cpu_us_per_item: all.cpu_us,
        first_dispatch_s: first.as_secs_f64(),
        first_new_dispatch_s: fresh.as_secs_f64(),
        rss_mib,
    })
}

/// What a child does.
///
/// # Errors
/// A log that cannot be opened, or an item that was refused.
pub fn play(role: Role, plan: Plan, data: &Path) -> Result<(), String> {
    match role {
        Role::Hold => {
            let stage = Stage::open(data, false)?;
            stage.send_all(plan.queued, plan.queues, plan.connections)?;
            tell("held")?;
            // Until it is killed, or whoever measures has ended.
            let mut line = String::new();
            let _ended = std::io::stdin().read_line(&mut line);
            Ok(())
        }
        Role::Resume => {
            let stage = Stage::open(data, true)?;
            let (mut begun, mut seen) = ([false; 2], HashSet::new());
            while seen.len() < plan.queued {
                let start = stage.next()?;
                let kinds = [("first", true), ("new", start.fresh)];
                for ((word, is), said) in kinds.into_iter().zip(&mut begun) {
                    if is && !*said {
                        tell(word)?;
                        *said = true;
                    }
                }
                seen.insert(start.seq);
            }
            tell("all")
        }
    }
}

fn tell(word: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").and_then(|()| out.flush()).map_err(|error| error.to_string())
}

// === A room, its handler and its producers ===

struct Stage {
    room: Room<()>,
    starts: Mutex<Receiver<Begun>>,
    producers: tokio::runtime::Runtime,
}

/// A handler was started.
struct Begun {
    seq: Seq,
    at: Instant,
    /// It had not been started before.
    fresh: bool,
}

/// Everything fits: only the queues have limits.
struct Anywhere;

/// Notes the start, and is done.
struct Handler {
    room: OnceLock<Room<()>>,
    starts: Mutex<Sender<Begun>>,
    ends: bool,
}

/// The time of day.
struct Wall(crate::clock::Clock);

/// What happened when all were sent at once.
struct AllAtOnce {
    started: f64,
    acked: f64,
    cpu_us: f64,
}

impl Clock for Wall {
    fn now(&self) -> Millis {
        Millis(self.0.unix().as_millis() as u64)
    }
}

impl Ground for Anywhere {
    type Place = ();

    fn place(&mut self, _: &str, _: &str, _: Window<'_>) -> Placed<()> {
        Placed::At(0, ())
    }
}

impl Runner<()> for Handler {
    fn run(&self, started: Started<()>) {
        let Started { id, item, lease, .. } = started;
        let begun = Begun { seq: id.seq, at: now(), fresh: item.attempt == 0 };
        // Nobody may be listening any more.
        let _over = self.starts.lock().send(begun);
        if let Some(room) = self.room.get().filter(|_| self.ends) {
            let (remembered, outcome, used) = (item.remembered, Outcome::Done, item.cost);
            let what = What::Finish { seq: id.seq, lease, remembered, outcome, used, result: Bytes::new() };
            drop(room.send(PARTITION, what));
        }
    }

    fn over(&self, _: EntryId, _: Outcome) {}
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The handler holds the room, and the room the handler.
        self.room.close();
    }
}

impl Stage {
    fn open(data: &Path, ends: bool) -> Result<Self, String> {
        let (starts, comes) = channel();
        let handler = Arc::new(Handler { room: OnceLock::new(), starts: Mutex::new(starts), ends });
        let clock = Arc::new(Wall(crate::clock::Clock::start()));
        let options = room::Options::default();
        let room = Room::new(options, clock, Box::new(Anywhere), handler.clone());
        let _first = handler.room.set(room.clone());
        let log = Fjall::open(data, Options::default()).map_err(|error| error.to_string())?;
        room.open(PARTITION, 1, Arc::new(log)).map_err(|error| error.to_string())?;
        let producers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        let producers = producers.map_err(|error| error.to_string())?;
        Ok(Self { room, starts: Mutex::new(comes), producers })
    }

    fn next(&self) -> Result<Begun, String> {
        self.starts.lock().recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no item was started for {} s", PATIENCE.as_secs()),
            RecvTimeoutError::Disconnected => "the room has ended".to_owned(),
        })
    }

    /// Each producer sends when its last item was acknowledged. When the last acknowledgement came.
    fn send_all(&self, items: usize, queues: usize, connections: usize) -> Result<Instant, String> {
        let connections = connections.clamp(1, items.max(1));
        self.producers.block_on(async {
            let each = (0..connections).map(|first| {
                let room = self.room.clone();
                tokio::spawn(async move {
                    for at in (first..items).step_by(connections) {
                        match room.enqueue(PARTITION, entry(at, queues)?).await {
                            Ok(Done::Enqueued(_)) => {}
                            Ok(other) => return Err(format!("an item was answered with {other:?}")),
                            Err(why) => return Err(refused(&why)),
                        }
                    }
                    Ok(())
                })
            });
            for producer in each.collect::<Vec<_>>() {
                producer.await.map_err(|error| error.to_string())??;
            }
            Ok(now())
        })
    }

    fn together(&self, items: usize, queues: usize, connections: usize) -> Result<AllAtOnce, String> {
        let (before, begun) = (processor()?, now());
        let acked = std::thread::scope(|scope| {
            let sent = scope.spawn(|| self.send_all(items, queues, connections));
            let mut last = begun;
            for _ in 0..items {
                last = self.next()?.at.max(last);
            }
            let acked = sent.join().map_err(|_| "a producer panicked".to_owned())??;
            Ok::<_, String>((last, acked))
        });
        let (last, acked) = acked?;
        self.settle()?;
        let cpu_us = processor()?.saturating_sub(before).as_secs_f64() * 1e6 / items as f64;
        let rate = |until: Instant| items as f64 / until.duration_since(begun).as_secs_f64();
        Ok(AllAtOnce { started: rate(last), acked: rate(acked), cpu_us })
    }

    /// Until the last has ended, so that its end is in the bill.
    fn settle(&self) -> Result<(), String> {
        let begun = now();
        while self.room.totals().depth.running > 0 {
            if begun.elapsed() > PATIENCE {
                return Err("items that were started did not end".to_owned());
            }
            pause(Duration::from_millis(1));
        }
        Ok(())
    }

    fn alone(&self, sends: usize, queues: usize) -> Result<[Middle; 2], String> {
        let (mut from_call, mut from_ack) = (Vec::new(), Vec::new());
        for at in 0..sends {
            let entry = entry(at, queues)?;
            let called = now();
            let answer = self.room.send(PARTITION, What::Enqueue(Box::new(entry)));
            let answer = self.producers.block_on(answer).unwrap_or(Err(Refused::Closing));
            let acked = now();
            answer.map_err(|why| refused(&why))?;
            let start = self.next()?.at;
            from_call.push(start.duration_since(called));
            from_ack.push(start.saturating_duration_since(acked));
            self.settle()?;
        }
        let middle = |mut times: Vec<Duration>| {
            let [p50, p99] = percentiles(&mut times);
            // A start may come before its acknowledgement is heard; what is too short to be measured is a microsecond.
            Middle { p50: p50.max(1e-3), p99: p99.max(1e-3) }
        };
        Ok([middle(from_call), middle(from_ack)])
    }
}

fn refused(why: &Refused) -> String {
    format!("an item was refused: {why}")
}

fn entry(at: usize, queues: usize) -> Result<Entry, String> {
    let limits = Limits { running: Some(1), ..Limits::default() };
    Ok(Entry {
        queue: QueueName::new("bench", &format!("key-{}", at % queues)).map_err(|error| error.to_string())?,
        terms: Terms { order: Order::Fifo, limits, ..Terms::of("line") },
        class: Class::FIRST,
        not_before: None,
        deadline: None,
        cost: Cost { tokens: 1, blocks: 0 },
        hint: None,
        once: None,
        keep: 0,
        payload: Bytes::from(at.to_string()),
    })
}

// === Killed ===

/// A child whose lines are read; it is killed when dropped.
struct Player {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    born: Instant,
}

impl Player {
    fn start(role: &str, plan: Plan, data: &Path) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["bench", "queue", "--play", role, "--data"]).arg(data);
        for (flag, value) in
            [("--queued", plan.queued), ("--queues", plan.queues), ("--connections", plan.connections)]
        {
            command.arg(flag).arg(value.to_string());
        }
        let born = now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("a child could not be started: {error}"))?;
        let lines = child.stdout.take().ok_or("a child without output")?;
        Ok(Self { child, lines: BufReader::new(lines), born })
    }

    fn says(&mut self, word: &str) -> Result<Duration, String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).map_err(|error| error.to_string())?;
        let after = self.born.elapsed();
        if line.trim() == word {
            return Ok(after);
        }
        Err(format!("a child was to say {word:?}, and said {:?}", line.trim()))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From the new life's first instant to its first start, and to the first of what had not been started before.
fn killed(plan: Plan, data: &Path) -> Result<(Duration, Duration), String> {
    let mut held = Player::start("hold", plan, data)?;
    held.says("held")?;
    // SIGKILL.
    drop(held);
    let mut again = Player::start("resume", plan, data)?;
    let first = again.says("first")?;
    // With a queue for each item all of them had been started.
    let fresh = if plan.queued > plan.queues { again.says("new")? } else { first };
    // Every one that was acknowledged.
    again.says("all")?;
    Ok((first, fresh))
}

// === What the kernel says ===

fn processor() -> Result<Duration, String> {
    let text = std::fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

fn resident() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/self/statm").map_err(|error| error.to_string())?;
    let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    Ok(pages * 4096.0 / 1_048_576.0)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark looks now and then")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// For people.
pub fn table(measured: &Measured, plan: Plan) -> String {
    let mut out = String::new();
    let mut row = |what: &str, value: String| {
        let _infallible = writeln!(out, "  {what:<44}{value:>14}");
    };
    row(
        &format!("items/s, {} over {} queues", plan.items, plan.queues),
        format!("{:.0}", measured.items_per_second),
    );
    row("of them acknowledged/s, on disk", format!("{:.0}", measured.acked_per_second));
    row("CPU us an item, producer and handler included", format!("{:.1}", measured.cpu_us_per_item));
    let pair = |middle: Middle| format!("{:.2} / {:.2}", middle.p50, middle.p99);
    row("call to start alone, p50 / p99 ms", pair(measured.latency_ms));
    row("acknowledgement to start, p50 / p99 ms", pair(measured.latency_from_ack_ms));
    row(
        &format!("kill -9 with {} to first start, s", plan.queued),
        format!("{:.3}", measured.first_dispatch_s),
    );
    row("to the first new one, s", format!("{:.3}", measured.first_new_dispatch_s));
    row("memory MiB", format!("{:.0}", measured.rss_mib));
    out
}
