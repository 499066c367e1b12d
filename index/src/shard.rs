//! One shard: the blocks below some of the roots, found by the hash of their whole prefix.

use blocks::{PrefixHash, TokensHash};
use hashbrown::HashTable;

use crate::holders::{Holder, Holders};
use crate::matches::{Matches, Reach};
use crate::tell::Place;

/// Shards. Enough that writers below different roots rarely meet, few enough to look at them all.
pub(crate) const COUNT: usize = 64;

/// Which shard the blocks below a root lie in.
pub(crate) fn of(root: PrefixHash) -> usize {
    (root.0 >> 58) as usize
}

/// A node's number within its shard.
pub(crate) type Id = u32;

/// One block, with all before it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) prefix: PrefixHash,
    pub(crate) parent: Option<PrefixHash>,
    pub(crate) tokens: TokensHash,
    pub(crate) depth: u32,
    pub(crate) holders: Holders,
}

#[derive(Debug, Default)]
pub(crate) struct Shard {
    table: HashTable<Id>,
    nodes: Vec<Option<Node>>,
    free: Vec<Id>,
}

/// Chains are searched this many blocks ahead, so that memory answers several questions at once.
const AHEAD: usize = 8;

// === impl Shard ===

impl Shard {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn find(&self, prefix: PrefixHash) -> Option<Id> {
        self.table.find(prefix.0, |id| self.node(*id).prefix == prefix).copied()
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        self.nodes[id as usize].as_ref().unwrap_or_else(|| unreachable!("a number in use names a node"))
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes[id as usize].as_mut().unwrap_or_else(|| unreachable!("a number in use names a node"))
    }

    /// The holder of a block, added with its node if they are not there.
    pub(crate) fn hold(&mut self, place: Place, slot: u16) -> (Id, &mut Holder) {
        let id = match self.find(place.prefix) {
            Some(id) => id,
            None => self.add(place, slot),
        };
        (id, self.node_mut(id).holders.entry(slot))
    }

    fn add(&mut self, place: Place, slot: u16) -> Id {
        let Place { prefix, parent, tokens, depth } = place;
        let node = Node { prefix, parent, tokens, depth, holders: Holders::One(Holder::new(slot)) };
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            (self.nodes.len() - 1) as Id
        });
        self.nodes[id as usize] = Some(node);
        let nodes = &self.nodes;
        self.table
            .insert_unique(prefix.0, id, |id| nodes[*id as usize].as_ref().map_or(0, |node| node.prefix.0));
        id
    }

    /// Changes a worker's copies of a block; afterwards it may hold nothing and is then dropped.
    pub(crate) fn change(&mut self, id: Id, slot: u16, change: impl FnOnce(&mut Holder)) {
        let holders = &mut self.node_mut(id).holders;
        let Some(holder) = holders.of_mut(slot) else { return };
        change(holder);
        if !holder.holds() && !holders.remove(slot) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: Id) {
        let prefix = self.node(id).prefix;
        if let Ok(entry) = self.table.find_entry(prefix.0, |other| *other == id) {
            entry.remove();
        }
        self.nodes[id as usize] = None;
        self.free.push(id);
        self.shrink();
    }

    /// Gives memory back once most of it is unused.
    fn shrink(&mut self) {
        if self.table.is_empty() {
            *self = Self::default();
        } else if self.table.capacity() > 1024 && self.table.len() < self.table.capacity() / 8 {
            let nodes = &self.nodes;
            let prefix = |id: &Id| nodes[*id as usize].as_ref().map_or(0, |node| node.prefix.0);
            self.table.shrink_to(self.table.len() * 2, prefix);
        }
    }

    /// Walks down the chain for as long as anybody holds every block of it.
    pub(crate) fn lookup(&self, prefix: &[PrefixHash], found: &mut Matches) {
        let mut depth = 0;
        let mut reach = std::mem::take(&mut found.reach);
        for chunk in prefix.chunks(AHEAD) {
            // Independent questions, so that their cache misses overlap.
            let mut ids = [None; AHEAD];
            for (id, hash) in ids.iter_mut().zip(chunk) {
                *id = self.find(*hash);
            }
            for id in &ids[..chunk.len()] {
                let holders = id.map_or(&[][..], |id| self.node(id).holders.as_slice());
                if depth == 0 {
                    reach.extend(holders.iter().map(|holder| Reach {
                        slot: holder.slot,
                        depth: [0; 4],
                        told: 0,
                    }));
                }
                depth += 1;
                reach.retain_mut(|reach| {
                    let Some(holder) = holders.iter().find(|holder| holder.slot == reach.slot) else {
                        found.push(*reach);
                        return false;
                    };
                    if !holder.expected() && reach.told == depth - 1 {
                        reach.told = depth;
                    }
                    let nearest = holder.nearest() as usize;
                    for tier in nearest..4 {
                        if reach.depth[tier] == depth - 1 {
                            reach.depth[tier] = depth;
                        }
                    }
                    true
                });
                if reach.is_empty() {
                    found.reach = reach;
                    return;
                }
            }
        }
        reach.drain(..).for_each(|reach| found.push(reach));
        found.reach = reach;
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> {
        self.table.iter().copied()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let lists: usize = self.nodes.iter().flatten().map(|node| node.holders.heap_bytes()).sum();
        self.table.allocation_size()
            + self.nodes.capacity() * size_of::<Option<Node>>()
            + self.free.capacity() * size_of::<Id>()
            + lists
    }
}
