//! Our index and those of the public crate dynamo-kv-router, on the same workload, in one process.
//!
//! `cargo run --release -- [--blocks N] [--workers N] [--chain N] [--shared N] [--holders N] [--lookups N]`
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
    chains: Vec<(Vec<TokensHash>, Vec<PrefixHash>)>,
    held: usize,
}

/// What every contender can do.
trait Contender {
    fn store(&mut self, run: &Run);
    fn remove(&mut self, worker: u64, hashes: &[u64]);
    fn settle(&mut self);
    /// The deepest match.
    fn lookup(&mut self, chain: &(Vec<TokensHash>, Vec<PrefixHash>)) -> usize;
}

struct Ours(Index, Matches);
struct Radix(RadixTree, u64);
struct Pool<T: KvIndexerInterface>(T, tokio::runtime::Runtime, u64);

impl Contender for Ours {
    fn store(&mut self, run: &Run) {
        let blocks = run.blocks.iter().map(|(engine, tokens)| Block { engine: EngineHash(*engine), tokens: TokensHash(*tokens) });
        let stored = Stored { parent: run.parent.map(EngineHash), blocks: blocks.collect(), tier: Tier::Device };
        self.0.apply(Worker { instance: run.worker, rank: 0 }, &Event::Stored(stored)).expect("parents come first");
    }
    fn remove(&mut self, worker: u64, hashes: &[u64]) {
        let blocks = hashes.iter().map(|hash| EngineHash(*hash)).collect();
        self.0.apply(Worker { instance: worker, rank: 0 }, &Event::Removed { blocks, tier: Tier::Device }).expect("known");
    }
    fn settle(&mut self) {}
    fn lookup(&mut self, chain: &(Vec<TokensHash>, Vec<PrefixHash>)) -> usize {
        self.0.lookup(&chain.1, &mut self.1);
        self.1.iter().map(index::Match::blocks).max().unwrap_or(0)
    }
}

fn stored(run: &Run, id: u64) -> RouterEvent {
    let blocks = run.blocks.iter().map(|(engine, tokens)| KvCacheStoredBlockData {
        block_hash: ExternalSequenceBlockHash(*engine),
        tokens_hash: LocalBlockHash(*tokens),
        mm_extra_info: None,
    });
    let data = KvCacheStoreData { parent_hash: run.parent.map(ExternalSequenceBlockHash), start_position: Some(run.from as u32), blocks: blocks.collect() };
    RouterEvent::new(run.worker, KvCacheEvent { event_id: id, data: KvCacheEventData::Stored(data), dp_rank: 0 })
}

fn removed(worker: u64, hashes: &[u64], id: u64) -> RouterEvent {
    let block_hashes = hashes.iter().map(|hash| ExternalSequenceBlockHash(*hash)).collect();
    let data = KvCacheEventData::Removed(KvCacheRemoveData { block_hashes });
    RouterEvent::new(worker, KvCacheEvent { event_id: id, data, dp_rank: 0 })
}

fn local(chain: &(Vec<TokensHash>, Vec<PrefixHash>)) -> Vec<LocalBlockHash> {
    chain.0.iter().map(|hash| LocalBlockHash(hash.0)).collect()
}

impl Contender for Radix {
    fn store(&mut self, run: &Run) {
        self.1 += 1;
        self.0.apply_event(stored(run, self.1)).expect("parents come first");
    }
    fn remove(&mut self, worker: u64, hashes: &[u64]) {
        self.1 += 1;
        self.0.apply_event(removed(worker, hashes, self.1)).expect("known");
    }
    fn settle(&mut self) {}
    fn lookup(&mut self, chain: &(Vec<TokensHash>, Vec<PrefixHash>)) -> usize {
        self.0.find_matches(local(chain), false).scores.values().max().copied().unwrap_or(0) as usize
    }
}

impl<T: KvIndexerInterface> Contender for Pool<T> {
    fn store(&mut self, run: &Run) {
        self.2 += 1;
        self.1.block_on(self.0.apply_event(stored(run, self.2)));
    }
    fn remove(&mut self, worker: u64, hashes: &[u64]) {
        self.2 += 1;
        self.1.block_on(self.0.apply_event(removed(worker, hashes, self.2)));
    }
    fn settle(&mut self) {
        self.1.block_on(self.0.flush());
    }
    fn lookup(&mut self, chain: &(Vec<TokensHash>, Vec<PrefixHash>)) -> usize {
        let found = self.1.block_on(self.0.find_matches(local(chain))).expect("the pool runs");
        found.scores.values().max().copied().unwrap_or(0) as usize
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
            (first + 1..plan.chain).for_each(|i| drop(seen.insert((worker, engine(i)))));
            for from in (first..plan.chain).step_by(16) {
                let to = (from + 16).min(plan.chain);
                let blocks = (from..to).map(|i| (engine(i), tokens[i].0)).collect();
                runs.push(Run { worker, parent: from.checked_sub(1).map(engine), from, blocks });
            }
        }
        chains.push((tokens, prefix));
    }
    Load { held: seen.len(), runs, chains }
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

fn measure(name: &'static str, plan: &Plan, load: &Load, mut make: impl FnMut() -> Box<dyn Contender>) -> Row {
    let before = HELD.load(Relaxed);
    let mut one = make();
    let cpu = cpu_time();
    load.runs.iter().for_each(|run| one.store(run));
    one.settle();
    let stored = load.held as f64 / (cpu_time() - cpu).as_secs_f64();
    let bytes = (HELD.load(Relaxed).saturating_sub(before)) as f64 / load.held as f64;
    let mut times = Vec::with_capacity(plan.lookups);
    let start = Instant::now();
    for i in 0..plan.lookups {
        let chain = &load.chains[mix(i as u64, 3) as usize % load.chains.len()];
        let at = Instant::now();
        let depth = black_box(one.lookup(chain));
        times.push(at.elapsed());
        assert_eq!(depth, plan.chain, "{name} must find the whole chain");
    }
    let lookups = plan.lookups as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    let (p50, p99) = (at(0.5), at(0.99));
    // Tail first, as engines evict: the last run of everything goes before the first.
    let cpu = cpu_time();
    for run in load.runs.iter().rev() {
        let hashes: Vec<u64> = run.blocks.iter().rev().map(|(engine, _)| *engine).collect();
        one.remove(run.worker, &hashes);
    }
    one.settle();
    let removed = load.held as f64 / (cpu_time() - cpu).as_secs_f64();
    drop(times);
    let left = (HELD.load(Relaxed).saturating_sub(before)) as f64 / load.held as f64;
    Row { name, stored, removed, lookups, p50, p99, bytes, left }
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat");
    let of_main = || -> Option<u64> { text.ok()?.split(' ').next()?.parse().ok() };
    // Every thread counts: those of a pool do the work.
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let sum: u64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(if sum > 0 { sum } else { of_main().unwrap_or(0) })
}

fn plan() -> Plan {
    let mut plan = Plan { blocks: 1_000_000, workers: 16, chain: 64, shared: 16, holders: 1, lookups: 200_000 };
    let args: Vec<String> = std::env::args().skip(1).collect();
    for pair in args.chunks(2) {
        let number = || pair.get(1).and_then(|number| number.parse::<usize>().ok()).expect("a number behind each flag");
        match pair[0].as_str() {
            "--blocks" => plan.blocks = number(),
            "--workers" => plan.workers = number() as u64,
            "--chain" => plan.chain = number(),
            "--shared" => plan.shared = number(),
            "--holders" => plan.holders = number() as u64,
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
        "{} held blocks, chains of {} ({} shared), {} workers, {} holders, {} lookups; events/s of CPU time",
        load.held, plan.chain, plan.shared, plan.workers, plan.holders, plan.lookups
    );
    let rows = [
        measure("warmline", &plan, &load, || Box::new(Ours(Index::new(), Matches::default()))),
        measure("compressed tree", &plan, &load, || {
            Box::new(Pool(ThreadPoolIndexer::new(ConcurrentRadixTreeCompressed::new(), 1, 16), runtime(), 0))
        }),
        measure("positional", &plan, &load, || {
            Box::new(Pool(ThreadPoolIndexer::new(PositionalIndexer::new(32), 1, 16), runtime(), 0))
        }),
        measure("plain radix", &plan, &load, || Box::new(Radix(RadixTree::new(), 0))),
    ];
    println!(
        "{:<16} {:>11} {:>12} {:>12} {:>9} {:>9} {:>12} {:>12}",
        "", "stored M/s", "removed M/s", "lookups M/s", "p50 us", "p99 us", "bytes/block", "left/block"
    );
    for Row { name, stored, removed, lookups, p50, p99, bytes, left } in &rows {
        println!(
            "{name:<16} {:>11.2} {:>12.2} {:>12.3} {p50:>9.2} {p99:>9.2} {bytes:>12.1} {left:>12.1}",
            stored / 1e6,
            removed / 1e6,
            lookups / 1e6
        );
    }
    let (ours, peer) = (&rows[0], &rows[1]);
    println!(
        "ours / compressed tree: stored {:.2}x, removed {:.2}x, lookups {:.2}x, memory {:.2}x",
        ours.stored / peer.stored,
        ours.removed / peer.removed,
        ours.lookups / peer.lookups,
        ours.bytes / peer.bytes
    );
}
