//! The answer to a lookup, kept in a buffer that can be used again.

use blocks::{Tier, View, Worker};

use crate::run::Plane;

/// How deep workers' caches reach into one chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Sorted by slot during a search.
    found: Vec<Match>,
}

/// How deep one worker's cache reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Whose cache.
    pub worker: Worker,
    /// How far what is known of it can be trusted.
    pub view: View,
    reach: Reach,
    slot: u16,
}

/// How many blocks from the first on are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reach {
    /// On each tier or a nearer one.
    pub(crate) on: [u32; 4],
    /// On any tier, and not only because a request was sent.
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
        sorted.sort_by_key(|found| std::cmp::Reverse((found.blocks(), found.reach)));
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
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Match) -> bool) {
        self.found.retain(keep);
    }

    /// Adds what is held of one run to what was found of a worker in all runs before it, which have `depth`
    /// blocks; whether it holds all of those. Slots come in order: `from` is where to look for the next one.
    #[inline]
    pub(crate) fn extend(&mut self, from: &mut usize, slot: u16, depth: usize, reach: Reach) -> bool {
        if depth == 0 {
            if reach.blocks() > 0 {
                let worker = Worker { instance: 0, rank: 0 };
                self.found.push(Match { worker, view: View::Stale, reach, slot });
            }
            return true;
        }
        // Mostly it is the next one; if not, it may be far.
        if self.found.get(*from).is_some_and(|found| found.slot < slot) {
            *from += 1;
            if self.found.get(*from).is_some_and(|found| found.slot < slot) {
                *from += self.found[*from..].partition_point(|found| found.slot < slot);
            }
        }
        match self.found.get_mut(*from) {
            Some(found) if found.slot == slot => found.reach.extend(depth as u32, reach),
            _ => false,
        }
    }

    /// Puts names to slots. A worker that was forgotten in between is dropped.
    pub(crate) fn resolve(&mut self, name: impl Fn(u16) -> Option<(Worker, View)>) {
        self.found.retain_mut(|found| {
            let named = name(found.slot);
            if let Some((worker, view)) = named {
                (found.worker, found.view) = (worker, view);
            }
            named.is_some()
        });
    }
}

// === impl Match ===

impl Match {
    /// Blocks from the first on that all lie on `tier` or a nearer one. It never shrinks with the distance:
    /// `on(Device)` can be used at once, the rest up to `on(Host)` must come from host memory, and so on.
    pub fn on(&self, tier: Tier) -> usize {
        self.reach.on[tier as usize] as usize
    }

    /// Blocks from the first on that the worker itself has told of; the rest is only expected.
    pub fn told(&self) -> usize {
        self.reach.told as usize
    }

    /// Blocks from the first on that are held at all.
    pub fn blocks(&self) -> usize {
        self.on(Tier::Store)
    }
}

// === impl Reach ===

impl Reach {
    /// What reaches this far on one plane, and nowhere else.
    pub(crate) fn alone(plane: Plane, blocks: usize) -> Self {
        let blocks = blocks as u32;
        let on = std::array::from_fn(|tier| if tier >= plane.nearest() { blocks } else { 0 });
        Self { on, told: if plane == Plane::Expected { 0 } else { blocks } }
    }

    pub(crate) fn blocks(self) -> usize {
        self.on[3] as usize
    }

    /// Continues where all `depth` blocks before are held; whether they are, on any tier.
    fn extend(&mut self, depth: u32, more: Self) -> bool {
        let whole = self.on[3] == depth;
        for (on, more) in self.on.iter_mut().zip(more.on) {
            *on += more * u32::from(*on == depth);
        }
        self.told += more.told * u32::from(self.told == depth);
        whole
    }
}
