//! Who holds how much of a prefix, on which tier: told by the event stream, asked by every request.
//!
//! One question matters: *for this chain of blocks, how deep does each worker's cache reach, on each tier?*
//! Answers come with the state of each worker's view, because a view may be behind and then says so.
//!
//! ```
//! use blocks::{Block, EngineHash, Event, PrefixHash, Stored, Tier, TokensHash, Worker};
//! use index::{Index, Matches};
//!
//! let index = Index::new();
//! let worker = Worker { instance: 1, rank: 0 };
//! let tokens: Vec<_> = (0..4).map(TokensHash).collect();
//! let blocks = tokens.iter().map(|t| Block { engine: EngineHash(100 + t.0), tokens: *t }).collect();
//! index.apply(worker, &Event::Stored(Stored { parent: None, blocks, tier: Tier::Device })).unwrap();
//!
//! let mut found = Matches::default();
//! index.lookup(&PrefixHash::chain(&tokens), &mut found);
//! assert_eq!(found.of(worker).unwrap().on(Tier::Device), 4);
//! ```

mod holders;
mod matches;
mod shard;
mod tell;
mod worker;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use blocks::{Event, Hasher, PrefixHash, TokensHash, View, Worker};
use parking_lot::{Mutex, RwLock};

pub use matches::{Match, Matches};
pub use tell::{Applied, Refused};

use shard::Shard;
use worker::Workers;

/// The index. Share it by reference: readers and writers go in parallel.
///
/// All blocks below one root lie in one shard, so a lookup takes one lock, and what it sees of a worker is true at
/// one moment.
///
/// Invariants, all proved by [`Index::check`]:
/// - I1: what a worker's map names is held by that worker, as often as it says, and nothing else is.
/// - I2: no node is without holders, no holder without a copy or an expectation.
/// - I3: every node is found by its prefix.
pub struct Index {
    shards: Box<[RwLock<Shard>]>,
    workers: RwLock<Workers>,
    /// Expected entries by the time at which they expire, oldest first.
    expected: Mutex<std::collections::VecDeque<worker::Expected>>,
    /// Removals of blocks that were not held, and entries that nobody confirmed.
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
    pub fn lookup(&self, prefix: &[PrefixHash], found: &mut Matches) {
        found.clear();
        let Some(root) = prefix.first() else { return };
        // Names are held first: a slot cannot pass to another worker between the search and its naming.
        let workers = self.workers.read();
        self.shards[shard::of(*root)].read().lookup(prefix, found);
        found.resolve(|slot| workers.of(slot));
    }

    /// The same, for these workers only.
    pub fn lookup_among(&self, prefix: &[PrefixHash], among: &[Worker], found: &mut Matches) {
        self.lookup(prefix, found);
        found.retain(|found| among.contains(&found.worker));
    }

    /// The same, for tokens.
    pub fn lookup_tokens(&self, hasher: &Hasher, tokens: &[u32], found: &mut Matches) {
        self.lookup(&PrefixHash::chain(&hasher.tokens_hashes(tokens)), found);
    }

    /// The same, for many chains.
    pub fn lookup_batch(&self, chains: &[&[PrefixHash]]) -> Vec<Matches> {
        let one = |chain: &&[PrefixHash]| {
            let mut found = Matches::default();
            self.lookup(chain, &mut found);
            found
        };
        chains.iter().map(one).collect()
    }

    /// The state of a worker's view; `None` if nobody has heard of it.
    pub fn view(&self, worker: Worker) -> Option<View> {
        let workers = self.workers.read();
        workers.slot(worker).map(|slot| workers.of(slot).1)
    }

    /// Every worker, the state of its view, and how many blocks it holds.
    pub fn workers(&self) -> Vec<(Worker, View, usize)> {
        self.workers.read().list()
    }

    /// How much is held.
    pub fn counts(&self) -> Counts {
        use std::sync::atomic::Ordering::Relaxed;
        let mut counts = Counts {
            unknown_removals: self.unknown_removals.load(Relaxed),
            unconfirmed: self.unconfirmed.load(Relaxed),
            held: self.workers.read().list().iter().map(|(_, _, held)| held).sum(),
            heap_bytes: self.workers.read().heap_bytes(),
            ..Counts::default()
        };
        for shard in &self.shards {
            let shard = shard.read();
            counts.blocks += shard.len();
            counts.heap_bytes += shard.heap_bytes();
        }
        counts
    }

    /// Applies one change. See [`Refused`] for what it means if it cannot be.
    ///
    /// # Errors
    /// [`Refused`]; then nothing of the event was applied.
    pub fn apply(&self, worker: Worker, event: &Event) -> Result<Applied, Refused> {
        self.tell(worker, event)
    }

    /// A request was sent to `worker` that will create these blocks: count them as held until `until`, unless
    /// an event confirms them before.
    pub fn expect(&self, worker: Worker, prefix: &[PrefixHash], tokens: &[TokensHash], until: Duration) {
        self.insert_expected(worker, prefix, tokens, until);
    }

    /// Drops what was expected until `now` and has not been confirmed.
    pub fn expire(&self, now: Duration) {
        self.drop_expected(now);
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}
