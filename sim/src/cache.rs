//! An engine's prefix cache: physical blocks, reference counts, and the least recently used first to go.
//!
//! It follows vLLM: a block is found by the hash of its whole prefix; a free block keeps its content until it
//! is needed; the same content may lie in two blocks (a fully cached prompt computes its last block again).
//!
//! Invariants, all proved by [`Cache::check`]:
//! - S1: a block is free if and only if nobody refers to it.
//! - S2: each hash leads to the blocks that bear it, and to no other.

use std::collections::BTreeMap;

use blocks::PrefixHash;
use hashbrown::HashMap;

/// A physical block's number.
pub type Id = u32;

/// The cache.
#[derive(Debug)]
pub struct Cache {
    blocks: Vec<Physical>,
    /// Free blocks, the one that has been free for longest first.
    free: BTreeMap<u64, Id>,
    by_hash: HashMap<PrefixHash, Vec<Id>>,
    clock: u64,
}

#[derive(Clone, Debug, Default)]
struct Physical {
    refs: u32,
    hash: Option<PrefixHash>,
    /// Where it stands in `free`.
    freed: u64,
}

// === impl Cache ===

impl Cache {
    /// An empty cache of so many blocks.
    pub fn new(blocks: usize) -> Self {
        let free = (0..blocks as u32).map(|id| (u64::from(id), id)).collect();
        let physical = (0..blocks as u64).map(|freed| Physical { freed, ..Physical::default() }).collect();
        Self { blocks: physical, free, by_hash: HashMap::new(), clock: blocks as u64 }
    }

    /// How many of these blocks, from the first on, are cached.
    pub fn matching(&self, prefix: &[PrefixHash]) -> usize {
        prefix.iter().take_while(|hash| self.by_hash.contains_key(*hash)).count()
    }

    /// Blocks that could be had now.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Of `prefix`, the blocks that are cached but that nobody refers to: taking them uses up free ones.
    pub fn free_among(&self, prefix: &[PrefixHash]) -> usize {
        prefix
            .iter()
            .filter(|hash| self.by_hash[*hash].iter().all(|id| self.blocks[*id as usize].refs == 0))
            .count()
    }

    /// Blocks in all.
    pub fn size(&self) -> usize {
        self.blocks.len()
    }

    /// Refers to a block that is cached.
    pub fn share(&mut self, hash: PrefixHash) -> Id {
        let ids = &self.by_hash[&hash];
        // A copy that is in use already costs no free block.
        let id = ids.iter().copied().find(|id| self.blocks[*id as usize].refs > 0).unwrap_or(ids[0]);
        let block = &mut self.blocks[id as usize];
        if block.refs == 0 {
            self.free.remove(&block.freed);
        }
        block.refs += 1;
        id
    }

    /// A block to write into, and the hash whose copy was lost for it. `None` if every block is in use.
    pub fn take(&mut self) -> Option<(Id, Option<PrefixHash>)> {
        let (_, id) = self.free.pop_first()?;
        let block = &mut self.blocks[id as usize];
        block.refs = 1;
        let evicted = block.hash.take();
        if let Some(hash) = evicted {
            self.unlink(hash, id);
        }
        Some((id, evicted))
    }

    /// A block that was written is complete: it can be found from now on.
    pub fn fill(&mut self, id: Id, hash: PrefixHash) {
        self.blocks[id as usize].hash = Some(hash);
        self.by_hash.entry(hash).or_default().push(id);
    }

    /// A sequence lets go of its blocks. The last go to the front of the queue: they are worth least.
    pub fn release(&mut self, ids: &[Id]) {
        for id in ids.iter().rev() {
            let block = &mut self.blocks[*id as usize];
            block.refs -= 1;
            if block.refs == 0 {
                self.clock += 1;
                block.freed = self.clock;
                self.free.insert(self.clock, *id);
            }
        }
    }

    /// Forgets all content that nobody is using; returns whether that was all there was.
    pub fn reset(&mut self) -> bool {
        if self.free.len() != self.blocks.len() {
            return false;
        }
        self.by_hash.clear();
        self.blocks.iter_mut().for_each(|block| block.hash = None);
        true
    }

    /// Every cached block with its number of copies.
    pub fn held(&self) -> impl Iterator<Item = (PrefixHash, usize)> {
        self.by_hash.iter().map(|(hash, ids)| (*hash, ids.len()))
    }

    /// The invariants of the module header, one line each.
    ///
    /// # Errors
    /// The name of the first invariant that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let ensure = |holds: bool, name| if holds { Ok(()) } else { Err(name) };
        let unused = self.blocks.iter().filter(|block| block.refs == 0).count();
        let free = |(freed, id): (&u64, &Id)| {
            let block = &self.blocks[*id as usize];
            block.refs == 0 && block.freed == *freed
        };
        ensure(unused == self.free.len() && self.free.iter().all(free), "S1")?;
        let hashed = self.blocks.iter().filter(|block| block.hash.is_some()).count();
        let linked = self.by_hash.values().map(Vec::len).sum::<usize>();
        let right = |(hash, ids): (&PrefixHash, &Vec<Id>)| {
            !ids.is_empty() && ids.iter().all(|id| self.blocks[*id as usize].hash == Some(*hash))
        };
        ensure(hashed == linked && self.by_hash.iter().all(right), "S2")
    }

    fn unlink(&mut self, hash: PrefixHash, id: Id) {
        if let Some(ids) = self.by_hash.get_mut(&hash) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_hash.remove(&hash);
            }
        }
    }
}
