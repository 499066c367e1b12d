//! What an engine holds, kept in step with what it publishes, so that all of it can be told again.
//!
//! Pure: events in, a snapshot out.

use blocks::{Block, EngineHash, Event, Stored, Tier, TokensHash};
use hashbrown::HashMap;

/// The blocks that an engine holds.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: HashMap<EngineHash, Node>,
    /// Copies beyond the first of one block on one tier. Engines rarely have them.
    more: HashMap<(EngineHash, Tier), u32>,
    /// Stored blocks whose parent was not there. They were not taken in: nobody could use them.
    pub(crate) refused: u64,
}

/// One block. 40 bytes with its name.
#[derive(Clone, Copy, Debug)]
struct Node {
    tokens: TokensHash,
    /// The block before it, if `depth` is not 0.
    parent: EngineHash,
    depth: u32,
    /// The tiers that have a copy, a bit each.
    tiers: u8,
    /// Where the last snapshot put it.
    run: u32,
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

/// Not in any run.
const NOWHERE: u32 = u32::MAX;

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
        let mut depth = match stored.parent.map(|parent| self.nodes.get(&parent)) {
            Some(None) => {
                self.refused += 1;
                return;
            }
            Some(Some(parent)) => parent.depth + 1,
            None => 0,
        };
        let mut parent = stored.parent.unwrap_or(EngineHash(0));
        for Block { engine, tokens } in &stored.blocks {
            let fresh = Node { tokens: *tokens, parent, depth, tiers: 0, run: NOWHERE };
            let node = self.nodes.entry(*engine).or_insert(fresh);
            if (node.tokens, node.parent, node.depth) != (*tokens, parent, depth) {
                // An engine that gives one name to two blocks means the newer one.
                *node = fresh;
                self.more.retain(|(name, _), _| name != engine);
            }
            let bit = 1 << stored.tier as u8;
            if node.tiers & bit == 0 {
                node.tiers |= bit;
            } else {
                *self.more.entry((*engine, stored.tier)).or_default() += 1;
            }
            (parent, depth) = (*engine, depth + 1);
        }
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
        if let Some(node) = self.nodes.get_mut(&engine) {
            node.tiers &= !(1 << tier as u8);
            if node.tiers == 0 {
                self.nodes.remove(&engine);
            }
        }
    }

    /// Everything, in an order in which it can be taken in.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let mut order: Vec<(u32, EngineHash)> =
            self.nodes.iter().map(|(name, node)| (node.depth, *name)).collect();
        order.sort_unstable();
        let mut snapshot = Snapshot::default();
        // The runs on a block's nearest tier; further tiers and copies repeat parts of them.
        let mut masks: Vec<u8> = Vec::new();
        for (depth, name) in order {
            let Some(&Node { tokens, parent, tiers, .. }) = self.nodes.get(&name) else { continue };
            let above = if depth == 0 { None } else { self.nodes.get(&parent) };
            let in_place = above.is_some_and(|above| above.depth + 1 == depth && above.run != NOWHERE);
            let run = match above {
                _ if depth > 0 && !in_place => {
                    snapshot.orphans += 1;
                    if above.is_none_or(|above| above.depth + 1 != depth) {
                        snapshot.broken.push(parent);
                    }
                    NOWHERE
                }
                Some(above)
                    if extends(&snapshot.runs[above.run as usize], parent)
                        && masks[above.run as usize] == tiers =>
                {
                    above.run
                }
                _ => {
                    let parent = (depth > 0).then_some(parent);
                    snapshot.runs.push(Stored { parent, blocks: Vec::new(), tier: nearest(tiers) });
                    masks.push(tiers);
                    (snapshot.runs.len() - 1) as u32
                }
            };
            if let Some(run) = snapshot.runs.get_mut(run as usize) {
                run.blocks.push(Block { engine: name, tokens });
                snapshot.blocks += 1;
            }
            if let Some(node) = self.nodes.get_mut(&name) {
                node.run = run;
            }
        }
        self.tell_further_copies(&mut snapshot, &masks);
        snapshot
    }

    /// What a block has beyond one copy on its nearest tier. By now everything is known by name.
    fn tell_further_copies(&self, snapshot: &mut Snapshot, masks: &[u8]) {
        let mut further = Vec::new();
        for (run, mask) in snapshot.runs.iter().zip(masks) {
            let others =
                Tier::ALL.into_iter().filter(|tier| *tier != run.tier && mask & (1 << *tier as u8) != 0);
            further.extend(others.map(|tier| Stored { tier, ..run.clone() }));
        }
        for ((name, tier), more) in &self.more {
            let Some(node) = self.nodes.get(name).filter(|node| node.run != NOWHERE) else { continue };
            let parent = (node.depth > 0).then_some(node.parent);
            let blocks = vec![Block { engine: *name, tokens: node.tokens }];
            let copy = Stored { parent, blocks, tier: *tier };
            further.extend(std::iter::repeat_n(copy, *more as usize));
        }
        snapshot.runs.extend(further);
    }
}

fn extends(run: &Stored, parent: EngineHash) -> bool {
    run.blocks.last().is_some_and(|last| last.engine == parent)
}

fn nearest(tiers: u8) -> Tier {
    Tier::ALL.into_iter().find(|tier| tiers & (1 << *tier as u8) != 0).unwrap_or(Tier::Store)
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
}
