//! Our index and those of the public crate dynamo-kv-router, on the same workload, in one process.
//!
//! `cargo run --release -- [--blocks N] [--workers N] [--chain N] [--shared N] [--holders N] [--lookups N]
//! [--event N] [--removal tail|random] [--asked whole|half|miss] [--rounds N] [--only 1]`
//! prints blocks stored and removed a second of CPU time, lookups a second, their median and slowest hundredth,
//! and bytes a held block by a counting allocator.

use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use blocks::{Block, EngineHash, Event, Stored, Tier, TokensHash, Worker};

#[path = "../../../../index/benches/counting.rs"]
mod counting;
#[path = "../../../../index/benches/load.rs"]
mod load;

use dynamo_kv_router::indexer::concurrent_radix_tree_compressed::ConcurrentRadixTreeCompressed;
use dynamo_kv_router::indexer::positional::PositionalIndexer;
use dynamo_kv_router::indexer::{KvIndexerInterface, RadixTree, ThreadPoolIndexer};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, RouterEvent,
};
use futures::FutureExt as _;
use index::{Index, Matches};
use counting::{Counting, HELD};
use load::{Ask, Load, Plan, Removal, Told, mix};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What every contender can do. Events are made before the clock runs.
trait Contender {
    type Event;
    fn stored(run: &Told, id: u64) -> Self::Event;
    fn removed(worker: u64, hashes: &[u64], id: u64) -> Self::Event;
    fn apply(&mut self, event: Self::Event);
    /// Waits until everything was applied.
    fn settle(&mut self);
    /// The deepest match, and how many workers match at all, from nothing but the hash of each block.
    fn lookup(&mut self, chain: &[TokensHash]) -> (usize, usize);
}

struct Ours(Index, Matches);
struct Radix(RadixTree);
struct Pool<T: KvIndexerInterface>(T, tokio::runtime::Runtime);

impl Contender for Ours {
    type Event = (Worker, Event);
    fn stored(run: &Told, _: u64) -> Self::Event {
        let blocks = run.blocks.iter().map(|(engine, tokens)| Block { engine: EngineHash(*engine), tokens: TokensHash(*tokens) });
        let stored = Stored { parent: run.parent.map(EngineHash), blocks: blocks.collect(), tier: Tier::Device };
        (Worker { instance: run.worker, rank: 0 }, Event::Stored(stored))
    }
    fn removed(worker: u64, hashes: &[u64], _: u64) -> Self::Event {
        let blocks = hashes.iter().map(|hash| EngineHash(*hash)).collect();
        (Worker { instance: worker, rank: 0 }, Event::Removed { blocks, tier: Tier::Device })
    }
    fn apply(&mut self, (worker, event): Self::Event) {
        self.0.apply(worker, &event).expect("parents come first");
    }
    fn settle(&mut self) {}
    fn lookup(&mut self, chain: &[TokensHash]) -> (usize, usize) {
        self.0.lookup(chain, &mut self.1);
        (self.1.iter().map(index::Match::blocks).max().unwrap_or(0), self.1.iter().len())
    }
}

fn peers_stored(run: &Told, id: u64) -> RouterEvent {
    let blocks = run.blocks.iter().map(|(engine, tokens)| KvCacheStoredBlockData {
        block_hash: ExternalSequenceBlockHash(*engine),
        tokens_hash: LocalBlockHash(*tokens),
        mm_extra_info: None,
    });
    let data = KvCacheStoreData { parent_hash: run.parent.map(ExternalSequenceBlockHash), start_position: Some(run.from as u32), blocks: blocks.collect() };
    RouterEvent::new(run.worker, KvCacheEvent { event_id: id, data: KvCacheEventData::Stored(data), dp_rank: 0 })
}

fn peers_removed(worker: u64, hashes: &[u64], id: u64) -> RouterEvent {
    let block_hashes = hashes.iter().map(|hash| ExternalSequenceBlockHash(*hash)).collect();
    let data = KvCacheEventData::Removed(KvCacheRemoveData { block_hashes });
    RouterEvent::new(worker, KvCacheEvent { event_id: id, data, dp_rank: 0 })
}

/// The peers take their question by value; the copy is part of asking.
fn local(chain: &[TokensHash]) -> Vec<LocalBlockHash> {
    chain.iter().map(|hash| LocalBlockHash(hash.0)).collect()
}

impl Contender for Radix {
    type Event = RouterEvent;
    fn stored(run: &Told, id: u64) -> RouterEvent {
        peers_stored(run, id)
    }
    fn removed(worker: u64, hashes: &[u64], id: u64) -> RouterEvent {
        peers_removed(worker, hashes, id)
    }
    fn apply(&mut self, event: RouterEvent) {
        // A block whose parent it dropped is an error here; then there is nothing to do.
        let _ = self.0.apply_event(event);
    }
    fn settle(&mut self) {}
    fn lookup(&mut self, chain: &[TokensHash]) -> (usize, usize) {
        let scores = self.0.find_matches(local(chain), false).scores;
        (scores.values().max().copied().unwrap_or(0) as usize, scores.len())
    }
}

impl<T: KvIndexerInterface> Contender for Pool<T> {
    type Event = RouterEvent;
    fn stored(run: &Told, id: u64) -> RouterEvent {
        peers_stored(run, id)
    }
    fn removed(worker: u64, hashes: &[u64], id: u64) -> RouterEvent {
        peers_removed(worker, hashes, id)
    }
    fn apply(&mut self, event: RouterEvent) {
        // Ready at once: it hands the event to the pool.
        self.0.apply_event(event).now_or_never().expect("handing over does not wait");
    }
    fn settle(&mut self) {
        self.1.block_on(self.0.flush());
    }
    fn lookup(&mut self, chain: &[TokensHash]) -> (usize, usize) {
        let found = self.0.find_matches(local(chain)).now_or_never().expect("a lookup does not wait").expect("the pool runs");
        (found.scores.values().max().copied().unwrap_or(0) as usize, found.scores.len())
    }
}

/// How to measure, beside what.
struct Settings {
    plan: Plan,
    lookups: usize,
    rounds: usize,
    /// Ours alone, for a profiler.
    only: bool,
}

struct Row {
    name: &'static str,
    stored: f64,
    removed: f64,
    lookups: f64,
    p50: f64,
    p99: f64,
    bytes: f64,
    left: f64,
}

fn measure<C: Contender>(name: &'static str, settings: &Settings, load: &Load, make: impl FnOnce() -> C) -> Row {
    let before = HELD.load(Relaxed);
    let mut one = make();
    let store = |run: &Told, id| C::stored(run, id);
    let stored = load.held as f64 / tell(&mut one, &load.told, store).as_secs_f64();
    let bytes = (HELD.load(Relaxed) as f64 - before as f64) / load.held as f64;
    let mut times = Vec::with_capacity(settings.lookups);
    for i in 0..settings.lookups {
        let asked = &load.asked[mix(i as u64, 3) as usize % load.asked.len()];
        // Whoever asks has just hashed the question: it is warm.
        black_box(asked.chain.iter().fold(0, |sum, hash| sum ^ hash.0));
        let at = Instant::now();
        let (depth, _) = black_box(one.lookup(&asked.chain));
        times.push(at.elapsed());
        assert_eq!(depth, asked.depth, "{name} must find what is there");
    }
    let lookups = settings.lookups as f64 / times.iter().sum::<Duration>().as_secs_f64();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    let (p50, p99) = (at(0.5), at(0.99));
    drop(times);
    let remove = |(worker, hashes): &(u64, Vec<u64>), id| C::removed(*worker, hashes, 1_000_000_000 + id);
    let removed = load.held as f64 / tell(&mut one, &load.removals, remove).as_secs_f64();
    let left = (HELD.load(Relaxed) as f64 - before as f64) / load.held as f64;
    Row { name, stored, removed, lookups, p50, p99, bytes, left }
}

/// CPU time, of all threads, that it takes to apply these events. They are made a few at a time beside the clock,
/// as if they had just been decoded.
fn tell<C: Contender, T>(one: &mut C, all: &[T], make: impl Fn(&T, u64) -> C::Event) -> Duration {
    let mut spent = Duration::ZERO;
    let mut id = 0;
    for some in all.chunks(1024) {
        let mut events = Vec::with_capacity(some.len());
        for one in some {
            id += 1;
            events.push(make(one, id));
        }
        let start = cpu_time();
        events.into_iter().for_each(|event| one.apply(event));
        one.settle();
        spent += cpu_time() - start;
    }
    spent
}

/// CPU time of all threads of this process, ended ones included.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that outlives the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "this system has no clock of CPU time");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn settings() -> Settings {
    let mut settings = Settings { plan: Plan::default(), lookups: 200_000, rounds: 3, only: false };
    let args: Vec<String> = std::env::args().skip(1).collect();
    for pair in args.chunks(2) {
        let plan = &mut settings.plan;
        let word = pair.get(1).map_or("", String::as_str);
        let number = || word.parse::<usize>().expect("a number behind each flag");
        match (pair[0].as_str(), word) {
            ("--blocks", _) => plan.blocks = number(),
            ("--workers", _) => plan.workers = number() as u64,
            ("--chain", _) => plan.chain = number(),
            ("--shared", _) => plan.shared = number(),
            ("--holders", _) => plan.holders = number() as u64,
            ("--event", _) => plan.event = number(),
            ("--removal", "tail") => plan.removal = Removal::Tail,
            ("--removal", "random") => plan.removal = Removal::Random,
            ("--asked", "whole") => plan.asked = Ask::Whole,
            ("--asked", "half") => plan.asked = Ask::Half,
            ("--asked", "miss") => plan.asked = Ask::Miss,
            ("--lookups", _) => settings.lookups = number(),
            ("--rounds", _) => settings.rounds = number().max(1),
            ("--only", _) => settings.only = number() == 1,
            (other, _) => panic!("unknown flag {other}; see the top of src/main.rs"),
        }
    }
    settings
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn main() {
    let settings = settings();
    let plan = settings.plan;
    let load = Load::new(&plan);
    println!(
        "{} held blocks, chains of {} ({} shared), {} workers, {} holders, {} blocks an event, removal {:?}, asked {:?}; blocks/s of CPU time",
        load.held, plan.chain, plan.shared, plan.workers, plan.holders, plan.event, plan.removal, plan.asked
    );
    if settings.only {
        print(&[measure("warmline", &settings, &load, || Ours(Index::new(), Matches::default()))]);
        return;
    }
    // Machines are noisy: everybody has a turn in each round, and the median of the rounds counts.
    let round = |_| {
        [
            measure("warmline", &settings, &load, || Ours(Index::new(), Matches::default())),
            measure("compressed tree", &settings, &load, || {
                Pool(ThreadPoolIndexer::new(ConcurrentRadixTreeCompressed::new(), 1, 16), runtime())
            }),
            measure("positional", &settings, &load, || Pool(ThreadPoolIndexer::new(PositionalIndexer::new(32), 1, 16), runtime())),
            measure("plain radix", &settings, &load, || Radix(RadixTree::new())),
        ]
    };
    let rounds: Vec<[Row; 4]> = (0..settings.rounds).map(round).collect();
    let rows = [0, 1, 2, 3].map(|row| {
        let median = |of: fn(&Row) -> f64| median(rounds.iter().map(|round| of(&round[row])).collect());
        Row {
            name: rounds[0][row].name,
            stored: median(|row| row.stored),
            removed: median(|row| row.removed),
            lookups: median(|row| row.lookups),
            p50: median(|row| row.p50),
            p99: median(|row| row.p99),
            bytes: median(|row| row.bytes),
            left: median(|row| row.left),
        }
    });
    print(&rows);
    let ratio = |of: fn(&Row) -> f64| median(rounds.iter().map(|[ours, peer, ..]| of(ours) / of(peer)).collect());
    println!(
        "warmline / compressed tree, median of {} rounds: stored {:.2}x, removed {:.2}x, lookups {:.2}x, memory {:.2}x",
        settings.rounds,
        ratio(|row| row.stored),
        ratio(|row| row.removed),
        ratio(|row| row.lookups),
        ratio(|row| row.bytes)
    );
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

fn print(rows: &[Row]) {
    println!(
        "{:<16} {:>11} {:>12} {:>12} {:>9} {:>9} {:>12} {:>12}",
        "", "stored M/s", "removed M/s", "lookups M/s", "p50 us", "p99 us", "bytes/block", "left/block"
    );
    for Row { name, stored, removed, lookups, p50, p99, bytes, left } in rows {
        println!(
            "{name:<16} {:>11.2} {:>12.2} {:>12.3} {p50:>9.2} {p99:>9.2} {bytes:>12.1} {left:>12.1}",
            stored / 1e6,
            removed / 1e6,
            lookups / 1e6
        );
    }
}
