//! What an engine holds, kept in step with what it publishes, so that all of it can be told again.
//!
//! Pure: events in, a snapshot out.

use std::ops::Range;

use blocks::{Block, EngineHash, Event, PrefixHash, Stored, Tier, TokensHash};
use hashbrown::HashMap;

/// The blocks that an engine holds, in runs of those that follow each other, so that telling them all is reading them.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: HashMap<EngineHash, Place>,
    /// By number; a run that holds nothing any more is `None`, and its number is free.
    runs: Vec<Option<Run>>,
    free: Vec<u32>,
    /// Copies beyond the first of one block on one tier. Engines rarely have them.
    more: HashMap<(EngineHash, Tier), u32>,
    /// Stored blocks whose parent was not there. They were not taken in: nobody could use them.
    pub(crate) refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    run: u32,
    at: u32,
}

/// Blocks that follow each other. The last one is held; in between, some may be gone.
#[derive(Debug)]
struct Run {
    /// The block before the first; `None` if that is a root.
    parent: Option<EngineHash>,
    /// What the parent meant: an engine may give its name to another block.
    before: Option<PrefixHash>,
    /// Blocks before the first.
    depth: u32,
    nodes: Vec<Node>,
    held: u32,
}

/// One block. 24 bytes, and 16 more for its name in the map.
#[derive(Clone, Copy, Debug)]
struct Node {
    name: EngineHash,
    tokens: TokensHash,
    /// The tiers that have a copy, a bit each; none: it is gone.
    tiers: u8,
}

/// Blocks of a run that are held, without a gap.
struct Part {
    run: u32,
    blocks: Range<usize>,
}

/// A tree as it is told: parents strictly before children.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) runs: Vec<Stored>,
    /// Different blocks in `runs`.
    pub(crate) blocks: usize,
    /// Blocks that were left out because one before them is gone.
    pub(crate) orphans: usize,
    /// The blocks that are gone: once one of them comes back, so does what hangs below it.
    pub(crate) broken: Vec<EngineHash>,
}

/// Blocks of one run at most: what is hashed when something forks from it.
const LONGEST: usize = 1_024;

// === impl Tree ===

impl Tree {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Stored(stored) => self.store(stored),
            Event::Removed { blocks, tier } => blocks.iter().for_each(|block| self.remove(*block, *tier)),
            Event::Cleared => *self = Self { refused: self.refused, ..Self::default() },
        }
    }

    fn store(&mut self, stored: &Stored) {
        let mut above = match stored.parent.map(|parent| self.nodes.get(&parent)) {
            Some(None) => {
                self.refused += 1;
                return;
            }
            Some(Some(parent)) => Some(*parent),
            None => None,
        };
        for block in &stored.blocks {
            let bit = 1 << stored.tier as u8;
            let known = self.nodes.get(&block.engine).copied();
            let again = known.filter(|place| self.is_there(*place, above, block.tokens));
            let place = again.unwrap_or_else(|| self.put(above, block, bit));
            if again.is_none() {
                if known.is_some() {
                    // An engine that gives one name to two blocks means the newer one.
                    self.forget(block.engine);
                }
                self.nodes.insert(block.engine, place);
            } else if let Some(node) = self.node_mut(place) {
                if node.tiers & bit == 0 {
                    node.tiers |= bit;
                } else {
                    *self.more.entry((block.engine, stored.tier)).or_default() += 1;
                }
            }
            above = Some(place);
        }
    }

    /// Whether this place means such a block behind that one: names alone do not say, they may change their meaning.
    fn is_there(&self, place: Place, above: Option<Place>, tokens: TokensHash) -> bool {
        let before = above.and_then(|above| self.prefix(above));
        self.prefix(place) == Some(PrefixHash::after(before, tokens))
    }

    /// Holds a block that is not held: in its old place, at the end of a run, or in a run of its own.
    fn put(&mut self, above: Option<Place>, block: &Block, tiers: u8) -> Place {
        let fresh = Node { name: block.engine, tokens: block.tokens, tiers };
        if let Some(Place { run: number, at }) = above
            && let Some(run) = self.runs.get_mut(number as usize).and_then(Option::as_mut)
        {
            let next = at as usize + 1;
            let came_back = run.nodes.get(next).is_some_and(|gone| {
                gone.tiers == 0 && (gone.name, gone.tokens) == (fresh.name, fresh.tokens)
            });
            if came_back || next == run.nodes.len() && next < LONGEST {
                if came_back {
                    run.nodes[next] = fresh;
                } else {
                    run.nodes.push(fresh);
                }
                run.held += 1;
                return Place { run: number, at: next as u32 };
            }
        }
        let parent = above.and_then(|above| self.name(above));
        let depth = above.and_then(|above| Some(self.run(above.run)?.depth + above.at + 1)).unwrap_or(0);
        let before = above.and_then(|above| self.prefix(above));
        let run = Some(Run { parent, before, depth, nodes: vec![fresh], held: 1 });
        let number = self.free.pop().unwrap_or_else(|| {
            self.runs.push(None);
            (self.runs.len() - 1) as u32
        });
        self.runs[number as usize] = run;
        Place { run: number, at: 0 }
    }

    fn remove(&mut self, engine: EngineHash, tier: Tier) {
        if !self.more.is_empty()
            && let Some(more) = self.more.get_mut(&(engine, tier))
        {
            *more -= 1;
            if *more == 0 {
                self.more.remove(&(engine, tier));
            }
            return;
        }
        let Some(place) = self.nodes.get(&engine).copied() else { return };
        let Some(node) = self.node_mut(place) else { return };
        node.tiers &= !(1 << tier as u8);
        if node.tiers == 0 {
            self.forget(engine);
        }
    }

    /// Nothing is held under this name any more.
    fn forget(&mut self, engine: EngineHash) {
        let Some(Place { run: number, at }) = self.nodes.remove(&engine) else { return };
        if !self.more.is_empty() {
            self.more.retain(|(name, _), _| *name != engine);
        }
        let Some(run) = self.runs.get_mut(number as usize).and_then(Option::as_mut) else { return };
        run.nodes[at as usize].tiers = 0;
        run.held -= 1;
        if run.held == 0 {
            self.runs[number as usize] = None;
            self.free.push(number);
            return;
        }
        while run.nodes.last().is_some_and(|last| last.tiers == 0) {
            run.nodes.pop();
        }
    }

    /// Everything, in an order in which it can be taken in.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut parts: Vec<(u32, Part)> = Vec::with_capacity(self.runs.len());
        for (number, run) in self.runs.iter().enumerate() {
            let Some(run) = run else { continue };
            let mut at = 0;
            for alike in run.nodes.chunk_by(|a, b| (a.tiers == 0) == (b.tiers == 0)) {
                let blocks = at..at + alike.len();
                at = blocks.end;
                if alike[0].tiers != 0 {
                    parts.push((run.depth + blocks.start as u32, Part { run: number as u32, blocks }));
                }
            }
        }
        // The block before a part lies in one that begins before it.
        parts.sort_by_key(|(depth, part)| (*depth, part.run));
        let mut snapshot = Snapshot::default();
        let mut told: Vec<Vec<Range<usize>>> = vec![Vec::new(); self.runs.len()];
        for (_, part) in parts {
            let Some(run) = self.run(part.run) else { continue };
            let (parent, before) = match part.blocks.start.checked_sub(1) {
                None => (run.parent, run.before),
                Some(at) => (Some(run.nodes[at].name), self.prefix(Place { run: part.run, at: at as u32 })),
            };
            let is_told = |above: &Place| {
                let parts = &told[above.run as usize];
                parts.iter().any(|part| part.contains(&(above.at as usize))) && self.prefix(*above) == before
            };
            match parent {
                Some(parent) if !self.nodes.get(&parent).is_some_and(is_told) => {
                    snapshot.orphans += part.blocks.len();
                    snapshot.broken.push(parent);
                }
                _ => {
                    snapshot.tell(parent, &run.nodes[part.blocks.clone()]);
                    told[part.run as usize].push(part.blocks);
                }
            }
        }
        self.tell_further_copies(&mut snapshot, &told);
        snapshot
    }

    /// Copies beyond the first on a tier. By now everything is known by name.
    fn tell_further_copies(&self, snapshot: &mut Snapshot, told: &[Vec<Range<usize>>]) {
        for ((name, tier), more) in &self.more {
            let Some(place) = self.nodes.get(name) else { continue };
            let (at, Some(run)) = (place.at as usize, self.run(place.run)) else { continue };
            if told[place.run as usize].iter().any(|part| part.contains(&at)) {
                let parent = if at == 0 { run.parent } else { Some(run.nodes[at - 1].name) };
                let blocks = vec![Block { engine: *name, tokens: run.nodes[at].tokens }];
                let copy = Stored { parent, blocks, tier: *tier };
                snapshot.runs.extend(std::iter::repeat_n(copy, *more as usize));
            }
        }
    }

    /// The prefix that ends at a place.
    fn prefix(&self, place: Place) -> Option<PrefixHash> {
        let run = self.run(place.run)?;
        let link = |before, node: &Node| Some(PrefixHash::after(before, node.tokens));
        run.nodes.get(..=place.at as usize)?.iter().fold(run.before, link)
    }

    fn run(&self, number: u32) -> Option<&Run> {
        self.runs.get(number as usize)?.as_ref()
    }

    fn name(&self, place: Place) -> Option<EngineHash> {
        Some(self.run(place.run)?.nodes.get(place.at as usize)?.name)
    }

    fn node_mut(&mut self, place: Place) -> Option<&mut Node> {
        self.runs.get_mut(place.run as usize)?.as_mut()?.nodes.get_mut(place.at as usize)
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Tells blocks that follow each other, on each tier that has them.
    fn tell(&mut self, mut parent: Option<EngineHash>, nodes: &[Node]) {
        for alike in nodes.chunk_by(|a, b| a.tiers == b.tiers) {
            let blocks: Vec<Block> =
                alike.iter().map(|node| Block { engine: node.name, tokens: node.tokens }).collect();
            self.blocks += blocks.len();
            let on = Tier::ALL.into_iter().filter(|tier| alike[0].tiers & (1 << *tier as u8) != 0);
            self.runs.extend(on.map(|tier| Stored { parent, blocks: blocks.clone(), tier }));
            parent = alike.last().map(|last| last.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(parent: Option<u64>, names: &[u64], tier: Tier) -> Event {
        let block = |name: &u64| Block { engine: EngineHash(*name), tokens: TokensHash(name * 10) };
        Event::Stored(Stored {
            parent: parent.map(EngineHash),
            blocks: names.iter().map(block).collect(),
            tier,
        })
    }

    fn removed(names: &[u64], tier: Tier) -> Event {
        Event::Removed { blocks: names.iter().map(|name| EngineHash(*name)).collect(), tier }
    }

    /// Name, parent, tier of every copy that a history leaves behind, told again and taken in by a new tree.
    fn told_again(events: &[Event]) -> (Vec<(u64, Option<u64>, Tier)>, usize) {
        let mut tree = Tree::default();
        for event in events {
            tree.apply(event);
        }
        let snapshot = tree.snapshot();
        let mut again = Tree::default();
        let mut copies = Vec::new();
        for run in &snapshot.runs {
            again.apply(&Event::Stored(run.clone()));
            let mut parent = run.parent.map(|parent| parent.0);
            for block in &run.blocks {
                copies.push((block.engine.0, parent, run.tier));
                parent = Some(block.engine.0);
            }
        }
        assert_eq!(again.refused, 0, "parents come first");
        assert_eq!(again.len() + snapshot.orphans, tree.len());
        assert_eq!(again.len(), snapshot.blocks);
        copies.sort_unstable();
        (copies, snapshot.orphans)
    }

    #[test]
    fn everything_is_told_once_a_copy_with_parents_first() {
        let device = Tier::Device;
        let (copies, orphans) = told_again(&[
            stored(None, &[1, 2, 3], device),
            stored(Some(2), &[4, 5], device),
            stored(Some(5), &[6], Tier::Host),
            stored(None, &[1, 2], Tier::Host),
            stored(None, &[1], device),
            removed(&[3], device),
        ]);
        let host = Tier::Host;
        let expected = vec![
            (1, None, device),
            (1, None, device),
            (1, None, host),
            (2, Some(1), device),
            (2, Some(1), host),
            (4, Some(2), device),
            (5, Some(4), device),
            (6, Some(5), host),
        ];
        assert_eq!((copies, orphans), (expected, 0));
    }

    #[test]
    fn what_hangs_below_an_evicted_block_is_left_out_until_that_comes_back() {
        let evicted = [stored(None, &[1, 2, 3, 4], Tier::Device), removed(&[2], Tier::Device)];
        let (copies, orphans) = told_again(&evicted);
        assert_eq!((copies, orphans), (vec![(1, None, Tier::Device)], 2));
        let [first, second] = evicted;
        let (copies, orphans) = told_again(&[first, second, stored(Some(1), &[2], Tier::Device)]);
        assert_eq!((copies.len(), orphans), (4, 0));
    }

    #[test]
    fn what_is_refused_and_what_is_cleared_is_not_there() {
        let mut tree = Tree::default();
        tree.apply(&stored(Some(9), &[10], Tier::Device));
        tree.apply(&removed(&[10], Tier::Device));
        assert_eq!((tree.len(), tree.refused), (0, 1));
        tree.apply(&stored(None, &[1, 2], Tier::Device));
        tree.apply(&Event::Cleared);
        assert_eq!((tree.len(), tree.snapshot().runs.len()), (0, 0));
    }

    /// Paths of a few letters; all that end in the last letter and are equally long share one name, so that names
    /// change their meaning all the time.
    fn name(path: &[u8]) -> u64 {
        match path.last() {
            Some(2) => path.len() as u64,
            _ => path.iter().fold(7, |name, letter| name * 5 + u64::from(*letter) + 100),
        }
    }

    #[test]
    fn random_histories_are_told_as_a_naive_model_tells_them() {
        use std::collections::BTreeMap;
        for seed in 0..2_000_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |bound: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 20) % bound
            };
            let mut tree = Tree::default();
            let mut model: BTreeMap<u64, (Vec<u8>, [u32; 4])> = BTreeMap::new();
            for _ in 0..60 {
                let path: Vec<u8> = (0..=below(4)).map(|_| below(3) as u8).collect();
                let tier = Tier::ALL[below(2) as usize];
                if below(3) == 0 {
                    tree.apply(&removed(&[name(&path)], tier));
                    if let Some((_, copies)) = model.get_mut(&name(&path)) {
                        copies[tier as usize] = copies[tier as usize].saturating_sub(1);
                        if *copies == [0; 4] {
                            model.remove(&name(&path));
                        }
                    }
                    continue;
                }
                let from = below(path.len() as u64) as usize;
                let parent = (from > 0).then(|| name(&path[..from]));
                // A parent whose name means another block by now would be another path.
                if parent
                    .is_some_and(|parent| model.get(&parent).is_none_or(|(held, _)| held[..] != path[..from]))
                {
                    continue;
                }
                let block = |at: usize| Block {
                    engine: EngineHash(name(&path[..=at])),
                    tokens: TokensHash(path[at].into()),
                };
                let blocks = (from..path.len()).map(block).collect();
                tree.apply(&Event::Stored(Stored { parent: parent.map(EngineHash), blocks, tier }));
                for at in from..path.len() {
                    let entry = model.entry(name(&path[..=at])).or_default();
                    if entry.0 != path[..=at] {
                        *entry = (path[..=at].to_vec(), [0; 4]);
                    }
                    entry.1[tier as usize] += 1;
                }
            }
            let usable = |path: &[u8]| {
                (1..=path.len())
                    .all(|to| model.get(&name(&path[..to])).is_some_and(|(held, _)| held[..] == path[..to]))
            };
            let expected: BTreeMap<u64, [u32; 4]> = model
                .iter()
                .filter(|(_, (path, _))| usable(path))
                .map(|(name, (_, copies))| (*name, *copies))
                .collect();
            let snapshot = tree.snapshot();
            let mut told: BTreeMap<u64, [u32; 4]> = BTreeMap::new();
            for run in &snapshot.runs {
                assert!(
                    run.parent.is_none_or(|parent| told.contains_key(&parent.0)),
                    "seed {seed}: parents come first"
                );
                for block in &run.blocks {
                    told.entry(block.engine.0).or_default()[run.tier as usize] += 1;
                }
            }
            assert_eq!(told, expected, "seed {seed}");
            assert_eq!(
                (snapshot.blocks, snapshot.orphans),
                (expected.len(), model.len() - expected.len()),
                "seed {seed}"
            );
            assert_eq!(snapshot.broken.is_empty(), snapshot.orphans == 0, "seed {seed}");
            assert_eq!(tree.len(), model.len(), "seed {seed}");
        }
    }
}
