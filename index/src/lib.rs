//! Who holds how much of a prefix, on which tier: told by the event stream, asked by every request.
//!
//! One question matters: *for this chain of blocks, how deep does each worker's cache reach, on each tier?*
//! Answers come with the state of each worker's view, because a view may be behind and then says so.
//!
//! ```
//! use blocks::{Block, EngineHash, Event, Stored, Tier, TokensHash, Worker};
//! use index::{Index, Matches};
//!
//! let index = Index::new();
//! let worker = Worker { instance: 1, rank: 0 };
//! let tokens: Vec<_> = (0..4).map(TokensHash).collect();
//! let blocks = tokens.iter().map(|t| Block { engine: EngineHash(100 + t.0), tokens: *t }).collect();
//! index.apply(worker, &Event::Stored(Stored { parent: None, blocks, tier: Tier::Device })).unwrap();
//!
//! let mut found = Matches::default();
//! index.lookup(&tokens, &mut found);
//! assert_eq!(found.of(worker).unwrap().on(Tier::Device), 4);
//! ```

mod arena;
mod bits;
mod check;
mod dump;
mod expect;
mod matches;
mod names;
mod run;
mod shard;
mod table;
mod tell;
mod workers;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use blocks::{Hasher, TokensHash, View, Worker};
use parking_lot::{Mutex, RwLock};

pub use dump::Copy;
pub use matches::{Match, Matches};
pub use tell::{Applied, Refused};

use expect::Expected;
use shard::Shard;
use workers::Workers;

/// The index. Share it by reference: readers and writers go in parallel.
///
/// All blocks below one root lie in one shard, so a lookup takes one lock, and what it sees of a worker is true at
/// one moment.
///
/// Invariants, all proved by [`Index::check`]:
/// - I1: what a worker's names and expectations say is what runs say it holds, on each tier.
/// - I2: no run is without holdings; holdings are sorted, none is empty, and each has its shortest form.
/// - I3: every run is found by its head, and the prefixes it keeps are those of its blocks.
/// - I4: no block lies in two places.
///
/// Locks, in this order: a worker's names, the expectations, one shard. The workers may be locked alone or
/// before a shard, never together with names, and never twice by one thread.
pub struct Index {
    shards: Box<[RwLock<Shard>]>,
    workers: RwLock<Workers>,
    /// What is expected, by the time at which it expires, oldest first.
    expected: Mutex<VecDeque<Expected>>,
    unknown_removals: AtomicU64,
    unconfirmed: AtomicU64,
}

/// How much is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different blocks.
    pub blocks: usize,
    /// Blocks times their holders.
    pub held: usize,
    /// Removals of blocks that were not held.
    pub unknown_removals: u64,
    /// Expected entries that expired without an event.
    pub unconfirmed: u64,
    /// Bytes on the heap.
    pub heap_bytes: usize,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self {
            shards: (0..shard::COUNT).map(|_| RwLock::default()).collect(),
            workers: RwLock::default(),
            expected: Mutex::default(),
            unknown_removals: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
        }
    }

    /// How deep each worker's cache reaches into this chain. Workers that hold nothing of it are not listed.
    ///
    /// `found` is emptied first; reuse it, and a lookup allocates nothing.
    pub fn lookup(&self, chain: &[TokensHash], found: &mut Matches) {
        found.clear();
        let Some(root) = chain.first() else { return };
        // Names are held first: a slot cannot pass to another worker between the search and its naming.
        let workers = self.workers.read();
        self.shards[shard::of(root.as_root())].read().lookup(chain, found);
        found.resolve(|slot| workers.at(slot).and_then(|slot| Some((slot.worker?, slot.view))));
    }

    /// The same, for these workers only.
    pub fn lookup_among(&self, chain: &[TokensHash], among: &[Worker], found: &mut Matches) {
        self.lookup(chain, found);
        found.retain(|found| among.contains(&found.worker));
    }

    /// The same, for tokens.
    pub fn lookup_tokens(&self, hasher: &Hasher, tokens: &[u32], found: &mut Matches) {
        self.lookup(&hasher.tokens_hashes(tokens), found);
    }

    /// The same, for many chains.
    pub fn lookup_batch(&self, chains: &[&[TokensHash]]) -> Vec<Matches> {
        let one = |chain: &&[TokensHash]| {
            let mut found = Matches::default();
            self.lookup(chain, &mut found);
            found
        };
        chains.iter().map(one).collect()
    }

    /// The state of a worker's view; `None` if nobody has heard of it.
    pub fn view(&self, worker: Worker) -> Option<View> {
        self.workers.read().slot(worker).map(|slot| slot.view)
    }

    /// Every worker, the state of its view, and how many blocks it holds.
    pub fn workers(&self) -> Vec<(Worker, View, usize)> {
        let slots = self.workers.read().all();
        let shown = |slot: workers::Slot| Some((slot.worker?, slot.view, slot.names.lock().len()));
        let mut list: Vec<_> = slots.into_iter().filter_map(shown).collect();
        list.sort_by_key(|(worker, ..)| *worker);
        list
    }

    /// How much is held. Looks at everything, a shard at a time.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            unknown_removals: self.unknown_removals.load(Relaxed),
            unconfirmed: self.unconfirmed.load(Relaxed),
            ..Counts::default()
        };
        let slots = self.workers.read().all();
        for slot in slots {
            let names = slot.names.lock();
            counts.held += if slot.worker.is_some() { names.len() } else { 0 };
            counts.heap_bytes += names.heap_bytes();
        }
        for shard in &self.shards {
            let shard = shard.read();
            counts.blocks += shard.blocks();
            counts.heap_bytes += shard.heap_bytes();
        }
        counts
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}
