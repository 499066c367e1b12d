//! The answer to a lookup, kept in a buffer that can be used again.

use blocks::{Tier, View, Worker};

/// How deep workers' caches reach into one chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    found: Vec<Match>,
    /// Scratch of the search: slots that still hold every block so far, and on which tier at worst.
    pub(crate) reach: Vec<Reach>,
}

/// How deep one worker's cache reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Whose cache.
    pub worker: Worker,
    /// How far what is known of it can be trusted.
    pub view: View,
    /// See [`Match::on`].
    depth: [u32; 4],
    /// See [`Match::told`].
    told: u32,
    slot: u16,
}

/// A worker that is still in the running during a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) slot: u16,
    /// Blocks so far, for each tier: all of them lie on it or nearer.
    pub(crate) depth: [u32; 4],
    /// Blocks before the first that is only expected.
    pub(crate) told: u32,
}

// === impl Matches ===

impl Matches {
    /// Each worker that holds at least the first block, in no particular order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Match> {
        self.found.iter()
    }

    /// What was found of one worker.
    pub fn of(&self, worker: Worker) -> Option<&Match> {
        self.found.iter().find(|found| found.worker == worker)
    }

    /// The deepest `n`, deepest first; nearer tiers break ties.
    pub fn best(&self, n: usize) -> Vec<Match> {
        let mut sorted = self.found.clone();
        sorted.sort_by_key(|found| std::cmp::Reverse((found.blocks(), found.depth)));
        sorted.truncate(n);
        sorted
    }

    /// Whether nobody holds anything of the chain.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Empties the buffer and keeps its memory.
    pub fn clear(&mut self) {
        self.found.clear();
        self.reach.clear();
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Match) -> bool) {
        self.found.retain(keep);
    }

    /// Notes the end of a worker's run.
    pub(crate) fn push(&mut self, reach: Reach) {
        let worker = Worker { instance: 0, rank: 0 };
        self.found.push(Match {
            worker,
            view: View::Stale,
            depth: reach.depth,
            told: reach.told,
            slot: reach.slot,
        });
    }

    /// Puts names to slots. A worker that was forgotten in between is dropped.
    pub(crate) fn resolve(&mut self, mut name: impl FnMut(u16) -> (Option<Worker>, View)) {
        self.found.retain_mut(|found| {
            let (worker, view) = name(found.slot);
            found.view = view;
            worker.map(|worker| found.worker = worker).is_some()
        });
    }
}

// === impl Match ===

impl Match {
    /// Blocks from the first on that all lie on `tier` or a nearer one. It never shrinks with the distance:
    /// `on(Device)` can be used at once, the rest up to `on(Host)` must come from host memory, and so on.
    pub fn on(&self, tier: Tier) -> usize {
        self.depth[tier as usize] as usize
    }

    /// Blocks from the first on that the worker itself has told of; the rest is only expected.
    pub fn told(&self) -> usize {
        self.told as usize
    }

    /// Blocks from the first on that are held at all.
    pub fn blocks(&self) -> usize {
        self.on(Tier::Store)
    }
}
