//! `warmline bench events`: listeners that join an engine's stream late, and what the stream costs whom.
//!
//! The story of the ring that has moved on: an engine has said hundreds of thousands of batches, its ring holds sixteen of
//! them, and listeners come with nothing. They must hold all that the engine holds soon, refuse nothing, and the live
//! stream must not notice.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use blocks::{BlockSize, EngineHash, Event, Hasher, Seed, Tier, TokensHash, View, Worker};
use events::codec::{self, Batch, Content, Said, Stored};
use events::follow::{Follower, Settings, Source};
use events::publish::{self, Form, Publisher, Run, Says};
use events::sink::{Sink, UnknownParent};
use events::stock;
use events::translate::Translator;
use index::{Index, Matches};
use serde::Serialize;

use super::process::now;
use crate::sink::IndexSink;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Batches before anybody listens.
    pub batches: usize,
    /// Blocks that the engine holds by then.
    pub blocks: usize,
    /// Listeners that join at once.
    pub listeners: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The stories, one for each size of cache.
    pub stories: Vec<Story>,
    /// What a call of the engine costs its own thread, in nanoseconds: the median, and that of a stored run of 16 as hashes.
    pub call_ns: f64,
    /// The floor of a call: a message of the same size into the same kind of queue.
    pub floor_ns: f64,
    /// Bytes a block on the wire, runs of 16 blocks of 16 tokens: as token ids, and compact.
    pub bytes_a_block: [f64; 2],
    /// Blocks decoded and applied to an index, millions a second of one core: as token ids, and compact.
    pub applied_m: [f64; 2],
    /// Many engines at once.
    pub crowd: Crowd,
}

/// Many engines at once, all followed into one index.
#[derive(Clone, Debug, Serialize)]
pub struct Crowd {
    /// Engines.
    pub engines: usize,
    /// Batches a second of all of them: wished for, and applied.
    pub batches_s: [f64; 2],
    /// Holes in any of the streams.
    pub gaps: u64,
    /// Cores that the followers took, and the engines.
    pub cores: [f64; 2],
    /// Resident memory of the whole process in MiB, a second after the start and at the end.
    pub rss_mib: [f64; 2],
}

/// One engine and those who came late.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    /// Blocks that the engine held when they came.
    pub blocks: usize,
    /// Batches that it had said.
    pub batches: u64,
    /// Milliseconds from nothing to exact, a listener each.
    pub exact_ms: Vec<f64>,
    /// Batches that were said while they joined.
    pub said_meanwhile: u64,
    /// Runs that any of them refused.
    pub refused: u64,
    /// Chains that were looked up in each afterwards, and how many were found whole in all of them.
    pub chains: [usize; 2],
    /// The longest a live batch took to reach a listener that was there before, in milliseconds: before and while the
    /// others joined.
    pub live_ms: [f64; 2],
    /// The longest that the publisher's voice was busy with one thing, in milliseconds: in this time it says nothing else.
    pub turn_ms: [f64; 2],
    /// The floor of both: how late a thread of this machine woke that does nothing but wake every millisecond.
    pub late_ms: [f64; 2],
    /// Resident memory of the whole process, MiB: before the engine, before the listeners, at the end.
    pub rss_mib: [f64; 3],
}

const WORKER: Worker = Worker { instance: 1, rank: 0 };
/// Blocks a chain.
const CHAIN: usize = 64;
/// Batches in the ring.
const RING: usize = 16;
/// Live batches a second while others join.
const LIVE: u64 = 3_250;

/// Runs everything; `progress` hears of each part.
///
/// # Errors
/// What went wrong, in words.
pub fn measure(plan: Plan, mut progress: impl FnMut(&str)) -> Result<Measured, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // The witness has a thread of its own: it measures the publisher, not how busy the others keep their runtime.
    let witness = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let witness = witness.map_err(|error| error.to_string())?;
    let mut stories = Vec::new();
    progress(&format!("{} batches, {} blocks, {} listeners", plan.batches, plan.blocks, plan.listeners));
    stories.push(runtime.block_on(story(plan, witness.handle()))?);
    let large = Plan { batches: 0, blocks: 1_000_000, ..plan };
    progress(&format!("{} blocks, {} listeners", large.blocks, large.listeners));
    stories.push(runtime.block_on(story(large, witness.handle()))?);
    progress("a hundred engines, a thousand batches a second each");
    let crowd = crowd()?;
    progress("a call, a block, an index");
    let (call_ns, floor_ns) = calls()?;
    Ok(Measured {
        stories,
        call_ns,
        floor_ns,
        bytes_a_block: bytes(),
        applied_m: [applied(false), applied(true)],
        crowd,
    })
}

// === The story ===

/// An engine that grows chains and evicts the oldest, tail first.
struct Engine {
    publisher: Publisher,
    /// Chains with their names, oldest first; the last one grows.
    chains: VecDeque<Vec<u64>>,
    held: usize,
    next: u64,
    said: u64,
    sent: Arc<Mutex<Vec<Instant>>>,
}

impl Engine {
    fn new() -> Result<Self, String> {
        let settings = publish::Settings {
            endpoint: "tcp://127.0.0.1:0".to_owned(),
            replay: "tcp://127.0.0.1:0".to_owned(),
            topic: "kv-events".to_owned(),
            block_size: 16,
            buffer_steps: RING,
            heartbeat: Duration::from_secs(1),
            rank: Some(0),
            form: Form::Compact,
        };
        let publisher = Publisher::start(settings).map_err(|error| error.to_string())?;
        Ok(Self { publisher, chains: VecDeque::new(), held: 0, next: 1, said: 0, sent: Arc::default() })
    }

    /// One batch: so many blocks more, and as many fewer once there are enough.
    fn step(&mut self, blocks: usize, most: usize) {
        let mut said = Vec::new();
        if self.chains.back().is_none_or(|chain| chain.len() + blocks > CHAIN) {
            self.chains.push_back(Vec::with_capacity(CHAIN));
        }
        let Some(chain) = self.chains.back_mut() else { return };
        let names: Vec<u64> = (self.next..self.next + blocks as u64).collect();
        said.push(Said::Stored(Box::new(Stored {
            hashes: names.iter().map(|name| EngineHash(*name)).collect(),
            parent: chain.last().map(|name| EngineHash(*name)),
            content: Content::Hashes(names.iter().map(|name| says(*name)).collect()),
            block_size: 16,
            medium: Some(Tier::Device.medium().to_owned()),
            ..Stored::default()
        })));
        chain.extend(names);
        self.next += blocks as u64;
        self.held += blocks;
        while self.held > most
            && let Some(oldest) = self.chains.front_mut()
        {
            match oldest.pop() {
                Some(name) => {
                    self.held -= 1;
                    said.push(Said::Removed { hashes: vec![EngineHash(name)], medium: None, group: None });
                }
                None => drop(self.chains.pop_front()),
            }
        }
        if let Ok(mut sent) = self.sent.lock() {
            sent.push(now());
        }
        self.publisher.batch(said);
        self.said += 1;
    }

    fn listen(&self) -> Listener {
        let index = Arc::new(Index::new());
        let sink = Arc::new(Timed {
            inner: IndexSink::new(index.clone()),
            exact: OnceLock::new(),
            applied: AtomicU64::new(0),
            arrived: Mutex::default(),
        });
        let source = Source {
            worker: WORKER,
            endpoint: self.publisher.endpoint().to_owned(),
            bind: false,
            replay: Some(self.publisher.replay_endpoint().to_owned()),
            topic: String::new(),
        };
        let begun = now();
        Listener { follower: Follower::start(source, sink.clone(), Settings::default()), sink, index, begun }
    }
}

/// What a block says: as random as its name.
fn says(name: u64) -> TokensHash {
    TokensHash((name ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

struct Listener {
    follower: Follower,
    sink: Arc<Timed>,
    index: Arc<Index>,
    begun: Instant,
}

/// A sink that notes when its view becomes exact, and when each stored run arrives.
struct Timed {
    inner: Arc<IndexSink>,
    exact: OnceLock<Instant>,
    applied: AtomicU64,
    /// The newest block of each run that came live.
    arrived: Mutex<Vec<(u64, Instant)>>,
}

impl Sink for Timed {
    fn apply(&self, worker: Worker, event: &Event) -> Result<(), UnknownParent> {
        if let (Event::Stored(stored), Ok(mut arrived)) = (event, self.arrived.lock()) {
            arrived.extend(stored.blocks.last().map(|block| (block.engine.0, now())));
            self.applied.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.apply(worker, event)
    }

    fn replace(&self, worker: Worker, events: &[Event]) {
        self.inner.replace(worker, events);
    }

    fn forget(&self, worker: Worker) {
        self.inner.forget(worker);
    }

    fn set_view(&self, worker: Worker, view: View) {
        if view == View::Exact {
            self.exact.get_or_init(now);
        }
        self.inner.set_view(worker, view);
    }
}

async fn story(plan: Plan, elsewhere: &tokio::runtime::Handle) -> Result<Story, String> {
    let first_rss = rss_mib();
    let mut engine = Engine::new()?;
    // With a history: a block a batch, so that nearly all of it has been evicted. Without: just fill the cache.
    let (batches, a_batch) = if plan.batches > 0 { (plan.batches, 1) } else { (plan.blocks / 16, 16) };
    (0..batches).for_each(|_| engine.step(a_batch, plan.blocks));
    let (blocks, said) = (engine.held, engine.said);
    // One that is there before the others notices if the live stream halts. It has caught up when it is exact.
    let witness = {
        let _entered = elsewhere.enter();
        engine.listen()
    };
    until(|| witness.sink.exact.get().is_some()).await?;
    let metronome = Metronome::start();
    live(&mut engine, plan, a_batch, Duration::from_secs(1), || false).await;
    let late_before = metronome.latest();
    let turn_before = engine.publisher.longest_turn();
    let quiet = slowest(&engine, &witness, said, a_batch);
    let before = rss_mib();
    let joined_at = engine.said;
    let listeners: Vec<Listener> = (0..plan.listeners).map(|_| engine.listen()).collect();
    let all_exact = || listeners.iter().all(|one| one.sink.exact.get().is_some());
    live(&mut engine, plan, a_batch, Duration::from_secs(30), all_exact).await;
    let (late, turn) = (metronome.latest(), engine.publisher.longest_turn());
    let said_meanwhile = engine.said - joined_at;
    let busy = slowest(&engine, &witness, joined_at, a_batch);
    let newest = engine.next - 1;
    let holds = |one: &Listener, name: u64| {
        let chain: Vec<TokensHash> =
            engine.chains.back().into_iter().flatten().map(|name| says(*name)).collect();
        let mut found = Matches::default();
        one.index.lookup(&chain, &mut found);
        found.of(WORKER).is_some_and(|found| found.blocks() == chain.len()) && name == newest
    };
    until(|| listeners.iter().all(|one| holds(one, newest))).await?;
    let (mut asked, mut whole) = (0, 0);
    for chain in engine.chains.iter().filter(|chain| !chain.is_empty()).step_by(7) {
        let hashes: Vec<TokensHash> = chain.iter().map(|name| says(*name)).collect();
        let found_whole = |one: &Listener| {
            let mut found = Matches::default();
            one.index.lookup(&hashes, &mut found);
            found.of(WORKER).is_some_and(|found| found.blocks() == hashes.len())
        };
        asked += 1;
        whole += usize::from(listeners.iter().all(found_whole));
    }
    let milliseconds = |one: &Listener| {
        one.sink
            .exact
            .get()
            .map_or(f64::NAN, |at| at.saturating_duration_since(one.begun).as_secs_f64() * 1e3)
    };
    Ok(Story {
        blocks,
        batches: said,
        exact_ms: listeners.iter().map(milliseconds).collect(),
        said_meanwhile,
        refused: listeners.iter().map(|one| one.follower.status().counters.refused).sum(),
        chains: [asked, whole],
        live_ms: [quiet, busy],
        turn_ms: [turn_before, turn].map(|turn| turn.as_secs_f64() * 1e3),
        late_ms: [late_before, late],
        rss_mib: [first_rss, before, rss_mib()],
    })
}

/// A thread that wakes every millisecond and notes how late it is.
struct Metronome {
    latest_us: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
}

impl Metronome {
    fn start() -> Self {
        let (latest_us, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (latest, stop) = (latest_us.clone(), done.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begun = now();
                #[expect(clippy::disallowed_methods, reason = "being woken is what is measured")]
                std::thread::sleep(Duration::from_millis(1));
                latest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        });
        Self { latest_us, done }
    }

    /// The latest since this was last asked, in milliseconds.
    fn latest(&self) -> f64 {
        (self.latest_us.swap(0, Ordering::Relaxed) as f64 / 1e3 - 1.0).max(0.0)
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Goes on saying batches at an even pace until it is enough.
async fn live(engine: &mut Engine, plan: Plan, a_batch: usize, most: Duration, enough: impl Fn() -> bool) {
    let begun = now();
    let mut said = 0;
    while begun.elapsed() < most && !enough() {
        let due = (begun.elapsed().as_secs_f64() * LIVE as f64) as u64;
        while said < due {
            engine.step(a_batch, plan.blocks);
            said += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The longest that any batch from this one on took to reach the witness, in milliseconds.
fn slowest(engine: &Engine, witness: &Listener, from: u64, a_batch: usize) -> f64 {
    let (Ok(sent), Ok(arrived)) = (engine.sent.lock(), witness.sink.arrived.lock()) else { return f64::NAN };
    let took = arrived.iter().filter_map(|(name, at)| {
        // Blocks are numbered, and each batch has as many.
        let batch = (name - 1) / a_batch as u64;
        let sent = sent.get(batch as usize).filter(|_| batch >= from)?;
        Some(at.saturating_duration_since(*sent).as_secs_f64() * 1e3)
    });
    took.fold(0.0, f64::max)
}

async fn until(done: impl Fn() -> bool) -> Result<(), String> {
    let begun = now();
    while !done() {
        if begun.elapsed() > Duration::from_mins(1) {
            return Err("a listener did not catch up within a minute".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

// === The crowd ===

const ENGINES: usize = 100;
/// Batches a second of each.
const PACE: u64 = 1_000;
/// Blocks that each holds: what comes in drives out what came so many batches ago.
const HELD: u64 = 2_000;

fn crowd() -> Result<Crowd, String> {
    let runtime = |name: &str| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(name).enable_all().build().map_err(|error| error.to_string())
    };
    let (engines, listeners) = (runtime("bench-engines")?, runtime("bench-listen")?);
    let settings = stock::Settings {
        endpoint: "tcp://127.0.0.1:0".to_owned(),
        replay: Some("tcp://127.0.0.1:0".to_owned()),
        topic: "kv".to_owned(),
        buffer_steps: 1_000,
    };
    let index = Arc::new(Index::new());
    let (mut publishers, mut followers) = (Vec::new(), Vec::new());
    for instance in 0..ENGINES as u64 {
        let publisher = Arc::new(engines.block_on(stock::Publisher::start(settings.clone()))?);
        let source = Source {
            worker: Worker { instance, rank: 0 },
            endpoint: publisher.endpoint().to_owned(),
            bind: false,
            replay: publisher.replay_endpoint().map(str::to_owned),
            topic: String::new(),
        };
        let _entered = listeners.enter();
        let settings = Settings { seed: instance + 1, ..Settings::default() };
        followers.push(Follower::start(source, IndexSink::new(index.clone()), settings));
        publishers.push(publisher);
    }
    for publisher in publishers {
        engines.spawn(async move {
            let (begun, mut said) = (now(), 0);
            loop {
                let due = (begun.elapsed().as_secs_f64() * PACE as f64) as u64;
                while said < due {
                    publisher.publish(&small(said));
                    said += 1;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let applied = || followers.iter().map(|one| one.status().counters.batches).sum::<u64>();
    let wait = |time| listeners.block_on(async move { tokio::time::sleep(time).await });
    wait(Duration::from_secs(3));
    let (before, cpu, rss, begun) = (applied(), cores_us()?, rss_mib(), now());
    wait(Duration::from_secs(6));
    let (took, after) = (begun.elapsed().as_secs_f64(), cores_us()?);
    let measured = Crowd {
        engines: ENGINES,
        batches_s: [(ENGINES as u64 * PACE) as f64, (applied() - before) as f64 / took],
        gaps: followers.iter().map(|one| one.status().counters.gaps).sum(),
        cores: [0, 1].map(|of| (after[of] - cpu[of]) as f64 / 1e6 / took),
        rss_mib: [rss, rss_mib()],
    };
    drop(followers);
    engines.shutdown_background();
    listeners.shutdown_background();
    Ok(measured)
}

/// One block in, and one out.
fn small(number: u64) -> Batch {
    let stored = Stored {
        hashes: vec![EngineHash(number)],
        content: Content::Tokens(vec![number as u32; 16]),
        block_size: 16,
        medium: Some("GPU".to_owned()),
        ..Stored::default()
    };
    let mut said = vec![Said::Stored(Box::new(stored))];
    if let Some(old) = number.checked_sub(HELD) {
        said.push(Said::Removed { hashes: vec![EngineHash(old)], medium: None, group: None });
    }
    Batch { timestamp: 1.0, said, rank: Some(0), ..Batch::default() }
}

/// CPU time so far of the threads of the followers, and of those of the engines, in microseconds.
fn cores_us() -> Result<[u64; 2], String> {
    let mut times = [0; 2];
    for thread in std::fs::read_dir("/proc/self/task").map_err(|error| error.to_string())?.flatten() {
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let nanoseconds: u64 = text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
        match name.trim() {
            "bench-listen" => times[0] += nanoseconds / 1_000,
            "bench-engines" => times[1] += nanoseconds / 1_000,
            _ => {}
        }
    }
    Ok(times)
}

// === The small figures ===

/// What a call costs the engine's thread, and what a message into the same kind of queue costs.
fn calls() -> Result<(f64, f64), String> {
    let engine = Engine::new()?;
    let names: Vec<EngineHash> = (1..=16).map(EngineHash).collect();
    let hashes: Vec<TokensHash> = names.iter().map(|name| says(name.0)).collect();
    let run = Run {
        parent: None,
        blocks: &names,
        content: Says::Hashes(&hashes),
        lora: None,
        salt: None,
        tier: Tier::Device,
    };
    let call = median_ns(|| engine.publisher.stored(black_box(&run)));
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Vec<u64>, Vec<u64>)>(100_000);
    let drain = std::thread::spawn(move || while receiver.blocking_recv().is_some() {});
    let floor = median_ns(|| {
        let message = (vec![1_u64; 16], vec![2_u64; 16]);
        let _ = black_box(sender.try_send(message));
    });
    drop(sender);
    drain.join().map_err(|_| "the floor's thread panicked".to_owned())?;
    Ok((call, floor))
}

/// The median of a thousand short bursts.
fn median_ns(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..1_000)
        .map(|_| {
            let begun = now();
            (0..16).for_each(|_| work());
            begun.elapsed().as_secs_f64() * 1e9 / 16.0
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

fn batch(number: u64, compact: bool) -> Batch {
    let names: Vec<u64> = (number * 64..number * 64 + 64).collect();
    let tokens = |name: u64| {
        (0..16).map(move |at| (name as u32).wrapping_mul(2_654_435_761).wrapping_add(at) % 151_936)
    };
    let hasher =
        Hasher::new(BlockSize::new(16).unwrap_or_else(|| unreachable!("16 is a block size")), Seed::PLAIN);
    let said = names.chunks(16).map(|run| {
        let ids: Vec<u32> = run.iter().flat_map(|name| tokens(*name)).collect();
        let content =
            if compact { Content::Hashes(hasher.tokens_hashes(&ids)) } else { Content::Tokens(ids) };
        Said::Stored(Box::new(Stored {
            hashes: run.iter().map(|name| EngineHash(name.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect(),
            content,
            block_size: 16,
            medium: Some("GPU".to_owned()),
            ..Stored::default()
        }))
    });
    Batch { timestamp: 1.0, said: said.collect(), rank: Some(0), epoch: None, state: None }
}

fn bytes() -> [f64; 2] {
    [codec::stock(&batch(1, false)), codec::compact(&batch(1, true))].map(|bytes| bytes.len() as f64 / 64.0)
}

/// Millions of blocks a second of one core from payloads to an index, the median of five rounds.
fn applied(compact: bool) -> f64 {
    let encode = |number| {
        let batch = batch(number, compact);
        if compact { codec::compact(&batch) } else { codec::stock(&batch) }
    };
    let payloads: Vec<Vec<u8>> = (0..4_000).map(encode).collect();
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let (index, mut translator) = (Index::new(), Translator::default());
            let begun = now();
            for payload in &payloads {
                for said in codec::decode(payload).map(|batch| batch.said).unwrap_or_default() {
                    if let Some(event) = translator.translate(said, |_| {}) {
                        let _ = black_box(index.apply(WORKER, &event));
                    }
                }
            }
            let took = begun.elapsed().as_secs_f64();
            assert_eq!(index.counts().held, payloads.len() * 64, "everything was taken in");
            payloads.len() as f64 * 64.0 / took / 1e6
        })
        .collect();
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn rss_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .map_or(0.0, |pages: f64| pages * 4096.0 / 1_048_576.0)
}

/// The result as people read it.
pub fn table(measured: &Measured) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for story in &measured.stories {
        let exact: Vec<String> = story.exact_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{} blocks after {} batches, a ring of {RING}: exact after {} ms; {} batches said meanwhile, {} runs refused, \
             {} of {} chains found whole by all;\n  a live batch took {:.1} ms at most before, {:.1} ms while they joined; the publisher's longest \
             turn was {:.1} and {:.1} ms\n  (a thread of this machine that only wakes was late by {:.1} and {:.1} ms); memory {:.0}, {:.0}, {:.0} MiB",
            story.blocks,
            story.batches,
            exact.join(", "),
            story.said_meanwhile,
            story.refused,
            story.chains[1],
            story.chains[0],
            story.live_ms[0],
            story.live_ms[1],
            story.turn_ms[0],
            story.turn_ms[1],
            story.late_ms[0],
            story.late_ms[1],
            story.rss_mib[0],
            story.rss_mib[1],
            story.rss_mib[2],
        );
    }
    let Crowd { engines, batches_s, gaps, cores, rss_mib } = &measured.crowd;
    let _ = writeln!(
        out,
        "{engines} engines, {:.0} batches/s wished for: {:.0} applied, {gaps} holes; following took {:.2} cores, the engines {:.2}; \
         memory {:.0}, {:.0} MiB",
        batches_s[0], batches_s[1], cores[0], cores[1], rss_mib[0], rss_mib[1],
    );
    let [ids, compact] = measured.bytes_a_block;
    let _ = writeln!(
        out,
        "a stored run of 16 costs the engine's thread {:.0} ns (a message into such a queue: {:.0})\n\
         bytes a block: {ids:.1} as token ids, {compact:.1} compact ({:.2}x)\n\
         decoded and applied: {:.1} M blocks/s as token ids, {:.1} M compact",
        measured.call_ns,
        measured.floor_ns,
        compact / ids,
        measured.applied_m[0],
        measured.applied_m[1],
    );
    out
}
