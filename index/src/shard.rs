//! One shard: the runs below some of the roots, found by the prefix that ends with their first block.

use blocks::{PrefixHash, Tier, TokensHash};

use crate::arena::{Arena, Id};
use crate::bits::{Bits, MOST};
use crate::matches::{Matches, Reach};
use crate::run::{Holding, Plane, Run, Sparse};
use crate::table::Table;

/// Shards. Enough that writers below different roots rarely meet, few enough to look at them all.
pub(crate) const COUNT: usize = 64;

/// Which shard the blocks below a root lie in.
pub(crate) fn of(root: PrefixHash) -> usize {
    (root.0 >> 58) as usize
}

/// The runs below some of the roots.
///
/// A block lies in one run only, at one place, for as long as anybody holds anything of that run. A run is
/// never split: whatever comes behind one of its blocks other than the next is a run of its own, found by its
/// head. So a place stays valid while it is held.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    heads: Table,
    runs: Arena<Run>,
    sparse: Sparse,
}

/// Where a block lies within a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) run: Id,
    pub(crate) at: u8,
}

/// A way down a chain while its blocks are being stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) place: Place,
    /// The prefix that ends here, if it had to be computed anyway.
    prefix: Option<PrefixHash>,
}

// === impl Shard ===

impl Shard {
    pub(crate) fn run(&self, id: Id) -> &Run {
        self.runs.get(id).unwrap_or_else(|| unreachable!("a run that is held stays"))
    }

    fn run_mut(&mut self, id: Id) -> &mut Run {
        self.runs.get_mut(id).unwrap_or_else(|| unreachable!("a run that is held stays"))
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = (Id, &Run)> {
        self.runs.iter()
    }

    pub(crate) fn sparse(&self) -> &Sparse {
        &self.sparse
    }

    /// Whether every run is found by its head, and nothing else is.
    pub(crate) fn is_whole(&self) -> bool {
        self.heads.is_whole(|id| spread(self.run(id).head))
            && self.runs().all(|(id, run)| self.headed(PrefixHash(run.head)) == Some(id))
    }

    pub(crate) fn headed(&self, head: PrefixHash) -> Option<Id> {
        let at = self.heads.find(spread(head.0), |id| self.run(id).head == head.0)?;
        Some(self.heads.id(at))
    }

    /// The place of the block that comes next, made if it is not there. Whoever makes it must [`Shard::set`] it.
    /// `more` are likely to follow.
    pub(crate) fn step(&mut self, behind: Option<Cursor>, tokens: TokensHash, more: usize) -> Cursor {
        let Some(Cursor { place: Place { run: id, at }, prefix }) = behind else {
            return self.fork(None, tokens, more);
        };
        let run = self.run(id);
        let next = at as usize + 1;
        if run.tokens().get(next) == Some(&tokens) {
            return Cursor { place: Place { run: id, at: next as u8 }, prefix: None };
        }
        let prefix = prefix.unwrap_or_else(|| run.prefix(at as usize));
        let depth = run.depth + next as u32;
        if next < run.tokens().len() || next == MOST {
            self.run_mut(id).fork(at, prefix);
            return self.fork(Some((prefix, depth)), tokens, more);
        }
        let head = prefix.then(tokens);
        if let Some(id) = self.headed(head) {
            return Cursor { place: Place { run: id, at: 0 }, prefix: Some(head) };
        }
        self.run_mut(id).push(tokens, head, more);
        Cursor { place: Place { run: id, at: next as u8 }, prefix: Some(head) }
    }

    /// The run that begins with this block, made if it is not there.
    fn fork(&mut self, behind: Option<(PrefixHash, u32)>, tokens: TokensHash, more: usize) -> Cursor {
        let head = PrefixHash::after(behind.map(|(prefix, _)| prefix), tokens);
        let at_head = |run| Cursor { place: Place { run, at: 0 }, prefix: Some(head) };
        if let Some(id) = self.headed(head) {
            return at_head(id);
        }
        let id = self.runs.insert(Run::new(behind, tokens, more + 1));
        if self.heads.is_full() {
            self.rebuild(); // the new run is among the runs already
        } else {
            self.heads.insert(spread(head.0), id);
        }
        at_head(id)
    }

    /// A block that is held, as the beginning of a way down.
    pub(crate) fn cursor(place: Place) -> Cursor {
        Cursor { place, prefix: None }
    }

    /// A worker holds a block from now on; whether it held it already.
    pub(crate) fn set(&mut self, place: Place, slot: u16, plane: Plane) -> bool {
        let Self { runs, sparse, .. } = self;
        runs.get_mut(place.run).is_some_and(|run| run.set(place.at, slot, plane, sparse))
    }

    /// A worker holds a block no longer; whether it did. A run that nobody holds is dropped.
    pub(crate) fn clear(&mut self, place: Place, slot: u16, plane: Plane) -> bool {
        let Self { runs, sparse, .. } = self;
        let Some(run) = runs.get_mut(place.run) else { return false };
        let held = run.clear(place.at, slot, plane, sparse);
        if run.holdings.is_empty() {
            self.drop_run(place.run);
        }
        held
    }

    pub(crate) fn holds(&self, place: Place, slot: u16, plane: Plane) -> bool {
        self.runs.get(place.run).is_some_and(|run| run.holds(place.at, slot, plane, &self.sparse))
    }

    fn drop_run(&mut self, id: Id) {
        let head = spread(self.run(id).head);
        if let Some(at) = self.heads.find(head, |other| other == id) {
            self.heads.remove(head, at);
        }
        self.runs.take(id);
        if self.heads.is_sparse() {
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        self.heads.rebuild(self.runs.iter().map(|(id, run)| (spread(run.head), id)));
    }

    /// Different blocks that are held.
    pub(crate) fn blocks(&self) -> usize {
        self.runs.iter().map(|(_, run)| run.held(&self.sparse)).sum()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.heads.heap_bytes()
            + self.runs.heap_bytes()
            + self.sparse.heap_bytes()
            + self.runs.iter().map(|(_, run)| run.heap_bytes()).sum::<usize>()
    }
}

/// All roots of a shard begin with the same bits.
fn spread(head: u64) -> u64 {
    head.rotate_left(32)
}

// === Lookup ===

impl Shard {
    /// Goes down the chain for as long as anybody holds every block of it.
    pub(crate) fn lookup(&self, chain: &[TokensHash], found: &mut Matches) {
        let mut depth = 0;
        let mut head = chain[0].as_root();
        while let Some(id) = self.headed(head) {
            let run = self.run(id);
            let rest = &chain[depth..];
            let matched = run.tokens().iter().zip(rest).take_while(|(ours, asked)| ours == asked).count();
            if matched == 0 {
                return; // two prefixes with one hash
            }
            let on = self.gather(run, matched, depth, found);
            depth += matched;
            if !on || depth == chain.len() {
                return;
            }
            head = run.prefix(matched - 1).then(chain[depth]);
        }
    }

    /// Adds what is held of one run to what was found before it; whether anybody holds all of it.
    fn gather(&self, run: &Run, matched: usize, depth: usize, found: &mut Matches) -> bool {
        let mut on = false;
        let mut from = 0;
        let mut rest = &run.holdings[..];
        while let [first, others @ ..] = rest {
            // Nearly always there is one plane without a hole.
            let alone = others.first().is_none_or(|next| next.slot != first.slot);
            let reach = match first.dense().filter(|_| alone) {
                Some(len) => Reach::alone(first.plane, len.min(matched)),
                None => self.union(rest, matched),
            };
            let all_before = found.extend(&mut from, first.slot, depth, reach);
            on |= all_before && reach.blocks() == matched;
            rest = others;
            while let [next, others @ ..] = rest
                && next.slot == first.slot
            {
                rest = others;
            }
        }
        on
    }

    /// How far all planes of the first worker reach together.
    fn union(&self, holdings: &[Holding], matched: usize) -> Reach {
        let slot = holdings[0].slot;
        let (mut any, mut told) = (Bits::default(), Bits::default());
        let mut reach = Reach::default();
        let mut rest = holdings;
        for tier in Tier::ALL {
            while let [first, others @ ..] = rest
                && first.slot == slot
                && first.plane <= Plane::Told(tier)
            {
                let bits = first.bits(&self.sparse);
                any = any.or(bits);
                if first.plane != Plane::Expected {
                    told = told.or(bits);
                }
                rest = others;
            }
            reach.on[tier as usize] = any.leading().min(matched) as u32;
        }
        reach.told = told.leading().min(matched) as u32;
        reach
    }
}
