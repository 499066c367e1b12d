//! Which object lies where: all that is known of the disk without reading it.
//!
//! Records come in any order, when the disk is opened as well as later; the one with the highest number counts. A deletion
//! is a record too (a *grave*), and is needed as long as any segment still holds an older put of its key: without it that put
//! would come back with the next start. So each key remembers which segments hold puts that no longer count.
//!
//! - D1: what is live, or a grave that is needed, is counted as needed in exactly one segment.
//! - D2: a key without a live object and without older puts is not in the index.

use std::sync::Arc;

use hashbrown::hash_table::{Entry, HashTable};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::format::{Head, Kind, Size};
use super::segment::Segment;

/// Locks for parts of the index: enough that readers do not meet.
const SHARDS: usize = 64;

/// Segments by their numbers.
pub(super) type Segments = BTreeMap<u32, Arc<Segment>>;

pub(super) struct Index {
    /// What keys are hashed with: users choose keys, and must not choose which of them collide.
    seed: u64,
    shards: Vec<RwLock<HashTable<Slot>>>,
}

/// What is known of one key.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Tenant, key and metadata, one behind the other.
    names: Box<[u8]>,
    tenant: u8,
    key: u16,
    pub(super) kind: Kind,
    pub(super) value: u32,
    pub(super) segment: u32,
    pub(super) at: u64,
    pub(super) seq: u64,
    pub(super) root: u64,
    /// Segments that hold puts of this key that do not count any more; a list, since there is hardly ever more than one.
    #[expect(
        clippy::box_collection,
        reason = "eight bytes in each of a million slots, of which few have any"
    )]
    older: Option<Box<Vec<u32>>>,
}

/// What compaction does with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It is copied.
    Needed,
    /// It goes with its segment.
    Dead,
}

impl Index {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// The live object of a key.
    pub(super) fn get(&self, tenant: &[u8], key: &[u8]) -> Option<Slot> {
        let hash = hash(self.seed, tenant, key);
        let shard = self.shard(hash).read();
        shard.find(hash, |slot| slot.is(tenant, key)).filter(|slot| slot.kind == Kind::Put).cloned()
    }

    /// Whether a key has a live object.
    pub(super) fn has(&self, tenant: &[u8], key: &[u8]) -> bool {
        let hash = hash(self.seed, tenant, key);
        self.shard(hash)
            .read()
            .find(hash, |slot| slot.is(tenant, key))
            .is_some_and(|slot| slot.kind == Kind::Put)
    }

    /// A record is on disk. Whether an object of this key was live before.
    pub(super) fn learn(&self, head: &Head, names: &[u8], segment: &Segment, segments: &Segments) -> bool {
        let (tenant, key) =
            (&names[..head.tenant as usize], &names[head.tenant as usize..][..head.key as usize]);
        let hash = hash(self.seed, tenant, key);
        let mut shard = self.shard(hash).write();
        match shard.entry(hash, |slot| slot.is(tenant, key), |slot| slot.hash(self.seed)) {
            Entry::Vacant(place) => {
                segment.need(head.size().on_disk());
                place.insert(Slot::of(head, names, segment.number));
                false
            }
            Entry::Occupied(mut place) => {
                let slot = place.get_mut();
                let was_live = slot.kind == Kind::Put;
                if head.seq > slot.seq {
                    segment.need(head.size().on_disk());
                    slot.release(segments);
                    if was_live {
                        slot.overtaken(slot.segment);
                    }
                    let older = slot.older.take();
                    *slot = Slot { older, ..Slot::of(head, names, segment.number) };
                } else if head.kind == Kind::Put {
                    slot.overtaken(segment.number);
                }
                was_live
            }
        }
    }

    /// What compaction of a segment does with one of its records.
    pub(super) fn use_of(&self, head: &Head, names: &[u8], segment: u32) -> Use {
        let (tenant, key) = split(head, names);
        let hash = hash(self.seed, tenant, key);
        let shard = self.shard(hash).read();
        let found = shard.find(hash, |slot| slot.is(tenant, key));
        let here = |slot: &&Slot| slot.seq == head.seq && slot.segment == segment && slot.at == head.at;
        match found.filter(here) {
            None => Use::Dead,
            // A grave goes with its segment if all that it covers goes with it, in one step.
            Some(slot) if slot.kind == Kind::Delete && slot.covers_only(segment) => Use::Dead,
            Some(_) => Use::Needed,
        }
    }

    /// A record was copied to another segment: it counts there, if it still counts.
    pub(super) fn moved(&self, to: &Head, names: &[u8], from: &Segment, segment: &Segment) -> bool {
        let (tenant, key) = split(to, names);
        let hash = hash(self.seed, tenant, key);
        let mut shard = self.shard(hash).write();
        let Some(slot) = shard.find_mut(hash, |slot| slot.is(tenant, key)) else { return false };
        let bytes = to.size().on_disk();
        if slot.seq != to.seq || slot.segment != from.number {
            // It was overtaken meanwhile, so the copy is an older put like any other.
            if to.kind == Kind::Put {
                slot.overtaken(segment.number);
            }
            return false;
        }
        segment.need(bytes);
        from.release(bytes);
        (slot.segment, slot.at) = (segment.number, to.at);
        if slot.kind == Kind::Put {
            slot.overtaken(from.number);
        }
        true
    }

    /// A segment is gone, and with it a put of this key: a grave that covered nothing else is gone as well.
    pub(super) fn forget(&self, head: &Head, names: &[u8], segment: u32, segments: &Segments) {
        let (tenant, key) = split(head, names);
        let hash = hash(self.seed, tenant, key);
        let mut shard = self.shard(hash).write();
        let Entry::Occupied(mut place) =
            shard.entry(hash, |slot| slot.is(tenant, key), |slot| slot.hash(self.seed))
        else {
            return;
        };
        let slot = place.get_mut();
        if let Some(older) = &mut slot.older {
            older.retain(|number| *number != segment);
            if older.is_empty() {
                slot.older = None;
            }
        }
        if slot.kind == Kind::Delete && slot.older.is_none() {
            slot.release(segments);
            place.remove();
        }
    }

    /// Takes away graves that cover nothing; once, when all segments were read.
    pub(super) fn sweep(&self, segments: &Segments) {
        for shard in &self.shards {
            shard.write().retain(|slot| {
                let stays = slot.kind == Kind::Put || slot.older.is_some();
                if !stays {
                    slot.release(segments);
                }
                stays
            });
        }
    }

    /// Live objects and graves.
    pub(super) fn count(&self) -> (u64, u64) {
        let mut counted = (0, 0);
        for shard in &self.shards {
            let shard = shard.read();
            let live = shard.iter().filter(|slot| slot.kind == Kind::Put).count();
            counted = (counted.0 + live as u64, counted.1 + (shard.len() - live) as u64);
        }
        counted
    }

    /// Live objects of one part; `None` after the last part.
    pub(super) fn part(&self, number: usize) -> Option<Vec<Slot>> {
        let shard = self.shards.get(number)?.read();
        Some(shard.iter().filter(|slot| slot.kind == Kind::Put).cloned().collect())
    }

    /// The invariants of the module header, against the segments.
    ///
    /// # Errors
    /// What does not hold.
    #[cfg(test)]
    pub(super) fn check(&self, segments: &Segments) -> Result<(), String> {
        let mut needed = BTreeMap::<u32, u64>::new();
        for shard in &self.shards {
            for slot in shard.read().iter() {
                *needed.entry(slot.segment).or_default() += slot.size().on_disk();
                if slot.kind == Kind::Delete && slot.older.is_none() {
                    return Err(format!("D2: a grave covers nothing: {slot:?}"));
                }
            }
        }
        for segment in segments.values() {
            let counted = needed.remove(&segment.number).unwrap_or(0);
            if counted != segment.needed() {
                return Err(format!("D1: {segment:?}, but {counted} bytes are"));
            }
        }
        if needed.is_empty() { Ok(()) } else { Err(format!("D1: in no segment: {needed:?}")) }
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Slot>> {
        // The table takes the low bits and the top seven: these are in between.
        &self.shards[(hash >> 40) as usize % SHARDS]
    }
}

// === impl Slot ===

impl Slot {
    fn of(head: &Head, names: &[u8], segment: u32) -> Self {
        let Head { kind, tenant, key, value, at, seq, root, .. } = *head;
        Self { names: names.into(), tenant, key, kind, value, segment, at, seq, root, older: None }
    }

    pub(super) fn tenant(&self) -> &[u8] {
        &self.names[..self.tenant as usize]
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.names[self.tenant as usize..][..self.key as usize]
    }

    pub(super) fn meta(&self) -> &[u8] {
        &self.names[self.tenant as usize + self.key as usize..]
    }

    pub(super) fn size(&self) -> Size {
        Size { names: self.names.len(), value: self.value as usize }
    }

    fn is(&self, tenant: &[u8], key: &[u8]) -> bool {
        self.key() == key && self.tenant() == tenant
    }

    fn hash(&self, seed: u64) -> u64 {
        hash(seed, self.tenant(), self.key())
    }

    fn release(&self, segments: &Segments) {
        if let Some(segment) = segments.get(&self.segment) {
            segment.release(self.size().on_disk());
        }
    }

    fn overtaken(&mut self, segment: u32) {
        let older = self.older.get_or_insert_default();
        if !older.contains(&segment) {
            older.push(segment);
        }
    }

    fn covers_only(&self, segment: u32) -> bool {
        self.older.as_ref().is_none_or(|older| older.iter().all(|number| *number == segment))
    }
}

/// Tenant and key of a record.
pub(super) fn split<'a>(head: &Head, names: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let (tenant, rest) = names.split_at(head.tenant as usize);
    (tenant, &rest[..head.key as usize])
}

fn hash(seed: u64, tenant: &[u8], key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, xxh3_64_with_seed(tenant, seed))
}
