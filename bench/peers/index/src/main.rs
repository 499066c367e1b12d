//! Our index and those of the public crate dynamo-kv-router, on the same workload, in one process.
//!
//! `cargo run --release -- [--blocks N] [--workers N] [--chain N] [--shared N] [--holders N] [--lookups N]
//! [--event N] [--removal tail|random] [--asked whole|half|miss] [--rounds N] [--only 1]`
//! prints blocks stored and removed a second of CPU time, lookups a second, their median and slowest hundredth,
//! and bytes a held block by a counting allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use blocks::{Block, EngineHash, Event, PrefixHash, Stored, Tier, TokensHash, Worker};
use dynamo_kv_router::indexer::concurrent_radix_tree_compressed::ConcurrentRadixTreeCompressed;
use dynamo_kv_router::indexer::positional::PositionalIndexer;
use dynamo_kv_router::indexer::{KvIndexerInterface, RadixTree, ThreadPoolIndexer};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, RouterEvent,
};
use futures::FutureExt as _;
use index::{Index, Matches};

struct Counting;
static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Plan {
    blocks: usize,
    workers: u64,
    chain: usize,
    shared: usize,
    holders: u64,
    lookups: usize,
    /// Blocks an event.
    event: usize,
    removal: Removal,
    asked: Ask,
    /// Ours alone, for a profiler.
    only: bool,
    rounds: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Removal {
    Tail,
    Random,
}

/// How much of a question is known to anybody.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Whole,
    Half,
    Miss,
}

/// One run of blocks of one worker: at most sixteen, behind a parent.
#[derive(Clone)]
struct Run {
    worker: u64,
    parent: Option<u64>,
    from: usize,
    blocks: Vec<(u64, u64)>,
}

struct Load {
    runs: Vec<Run>,
    removals: Vec<(u64, Vec<u64>)>,
    asked: Vec<Asked>,
    held: usize,
}

/// A question, and how deep the best answer is.
struct Asked {
    chain: Vec<TokensHash>,
    depth: usize,
}

/// What every contender can do. Events are made before the clock runs.
trait Contender {
    type Event;
    fn stored(run: &Run, id: u64) -> Self::Event;
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
    fn stored(run: &Run, _: u64) -> Self::Event {
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

fn peers_stored(run: &Run, id: u64) -> RouterEvent {
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
    fn stored(run: &Run, id: u64) -> RouterEvent {
        peers_stored(run, id)
    }
    fn removed(worker: u64, hashes: &[u64], id: u64) -> RouterEvent {
        peers_removed(worker, hashes, id)
    }
    fn apply(&mut self, event: RouterEvent) {
        self.0.apply_event(event).expect("parents come first");
    }
    fn settle(&mut self) {}
    fn lookup(&mut self, chain: &[TokensHash]) -> (usize, usize) {
        let scores = self.0.find_matches(local(chain), false).scores;
        (scores.values().max().copied().unwrap_or(0) as usize, scores.len())
    }
}

impl<T: KvIndexerInterface> Contender for Pool<T> {
    type Event = RouterEvent;
    fn stored(run: &Run, id: u64) -> RouterEvent {
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

fn mix(a: u64, b: u64) -> u64 {
    let mut mixed = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0x2545_f491_4f6c_dd1d).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn load(plan: &Plan) -> Load {
    let own = plan.chain - plan.shared;
    let count = (plan.blocks / (own + plan.shared / 16).max(1) / plan.holders as usize).max(1);
    let mut runs = Vec::new();
    let mut chains = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for chain in 0..count as u64 {
        // Sixteen chains in a row share their beginning, and lie with the same workers.
        let family = chain / 16;
        let tokens: Vec<TokensHash> = (0..plan.chain as u64)
            .map(|i| TokensHash(if (i as usize) < plan.shared { mix(family | 1 << 40, i) } else { mix(chain | 1 << 50, i) }))
            .collect();
        let prefix = PrefixHash::chain(&tokens);
        for holder in 0..plan.holders {
            let worker = (mix(family, 7) + holder) % plan.workers;
            // The positional index believes that engines name blocks as it does itself; so all of them do here.
            let engine = |i: usize| prefix[i].0;
            let first = (0..plan.chain).find(|i| seen.insert((worker, engine(*i)))).unwrap_or(plan.chain);
            seen.extend((first..plan.chain).map(|i| (worker, engine(i))));
            for from in (first..plan.chain).step_by(plan.event) {
                let to = (from + plan.event).min(plan.chain);
                let blocks = (from..to).map(|i| (engine(i), tokens[i].0)).collect();
                runs.push(Run { worker, parent: from.checked_sub(1).map(engine), from, blocks });
            }
        }
        chains.push(tokens);
    }
    let mut removals: Vec<(u64, Vec<u64>)> = Vec::new();
    if plan.removal == Removal::Random {
        // Any block of any worker, as many an event: what no engine does, and no index should mind.
        let mut of_worker: Vec<Vec<u64>> = vec![Vec::new(); plan.workers as usize];
        runs.iter().for_each(|run| of_worker[run.worker as usize].extend(run.blocks.iter().map(|(engine, _)| *engine)));
        for (worker, blocks) in of_worker.iter_mut().enumerate() {
            blocks.sort_unstable_by_key(|hash| mix(*hash, 11));
            removals.extend(blocks.chunks(plan.event).map(|hashes| (worker as u64, hashes.to_vec())));
        }
        removals.sort_unstable_by_key(|(_, hashes)| mix(hashes[0], 13));
    } else {
        // Tail first, as engines evict: the last run of everything goes before the first.
        for run in runs.iter().rev() {
            let hashes: Vec<u64> = run.blocks.iter().rev().map(|(engine, _)| *engine).collect();
            removals.extend(hashes.chunks(plan.event).map(|hashes| (run.worker, hashes.to_vec())));
        }
    }
    let ask = |(i, chain): (usize, &Vec<TokensHash>)| {
        let depth = match plan.asked {
            Ask::Whole => plan.chain,
            Ask::Half => plan.chain / 2 + i % (plan.chain / 2),
            Ask::Miss => 0,
        };
        let strange = (depth..plan.chain).map(|at| TokensHash(mix(i as u64 | 1 << 60, at as u64)));
        Asked { chain: chain[..depth].iter().copied().chain(strange).collect(), depth }
    };
    let asked = chains.iter().enumerate().map(ask).collect();
    Load { held: seen.len(), runs, removals, asked }
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

fn measure<C: Contender>(name: &'static str, plan: &Plan, load: &Load, make: impl FnOnce() -> C) -> Row {
    let before = HELD.load(Relaxed);
    let mut one = make();
    let store = |run: &Run, id| C::stored(run, id);
    let stored = load.held as f64 / tell(&mut one, &load.runs, store).as_secs_f64();
    let bytes = (HELD.load(Relaxed) as f64 - before as f64) / load.held as f64;
    let mut times = Vec::with_capacity(plan.lookups);
    for i in 0..plan.lookups {
        let asked = &load.asked[mix(i as u64, 3) as usize % load.asked.len()];
        // Whoever asks has just hashed the question: it is warm.
        black_box(asked.chain.iter().fold(0, |sum, hash| sum ^ hash.0));
        let at = Instant::now();
        let (depth, _) = black_box(one.lookup(&asked.chain));
        times.push(at.elapsed());
        assert_eq!(depth, asked.depth, "{name} must find what is there");
    }
    let lookups = plan.lookups as f64 / times.iter().sum::<Duration>().as_secs_f64();
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

fn plan() -> Plan {
    let mut plan = Plan { blocks: 1_000_000, workers: 16, chain: 64, shared: 16, holders: 1, lookups: 200_000, event: 16, removal: Removal::Tail, asked: Ask::Whole, only: false, rounds: 3 };
    let args: Vec<String> = std::env::args().skip(1).collect();
    for pair in args.chunks(2) {
        let number = || pair.get(1).and_then(|number| number.parse::<usize>().ok()).expect("a number behind each flag");
        match pair[0].as_str() {
            "--blocks" => plan.blocks = number(),
            "--workers" => plan.workers = number() as u64,
            "--chain" => plan.chain = number(),
            "--shared" => plan.shared = number(),
            "--holders" => plan.holders = number() as u64,
            "--only" => plan.only = number() == 1,
            "--rounds" => plan.rounds = number().max(1),
            "--event" => plan.event = number(),
            "--removal" if pair[1] == "random" => plan.removal = Removal::Random,
            "--removal" if pair[1] == "tail" => plan.removal = Removal::Tail,
            "--asked" if pair[1] == "whole" => plan.asked = Ask::Whole,
            "--asked" if pair[1] == "half" => plan.asked = Ask::Half,
            "--asked" if pair[1] == "miss" => plan.asked = Ask::Miss,
            "--lookups" => plan.lookups = number(),
            other => panic!("unknown flag {other}; see the top of src/main.rs"),
        }
    }
    plan
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn main() {
    let plan = plan();
    let load = load(&plan);
    println!(
        "{} held blocks, chains of {} ({} shared), {} workers, {} holders, {} blocks an event, removal {:?}, asked {:?}; blocks/s of CPU time",
        load.held, plan.chain, plan.shared, plan.workers, plan.holders, plan.event, plan.removal, plan.asked
    );
    if plan.only {
        print(&[measure("warmline", &plan, &load, || Ours(Index::new(), Matches::default()))]);
        return;
    }
    // Machines are noisy: everybody has a turn in each round, and the median of the rounds counts.
    let round = |_| {
        [
            measure("warmline", &plan, &load, || Ours(Index::new(), Matches::default())),
            measure("compressed tree", &plan, &load, || {
                Pool(ThreadPoolIndexer::new(ConcurrentRadixTreeCompressed::new(), 1, 16), runtime())
            }),
            measure("positional", &plan, &load, || Pool(ThreadPoolIndexer::new(PositionalIndexer::new(32), 1, 16), runtime())),
            measure("plain radix", &plan, &load, || Radix(RadixTree::new())),
        ]
    };
    let rounds: Vec<[Row; 4]> = (0..plan.rounds).map(round).collect();
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
        plan.rounds,
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
