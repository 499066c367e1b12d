//! A shard: a part of all objects, and what is under way with them, under one lock.

use hashbrown::{HashMap, HashTable};
use slab::Slab;

use super::candidates::Candidate;
use super::counters::Tally;
use super::hash::Spread;
use super::lives::Lives;
use super::name::{Millis, Name, Node, Tenant, Version};
use super::object::{Flags, Object};
use super::outbox::Slip;
use super::promote::Task;
use super::put::Writing;
use crate::sketch::Sketch;

/// A part of all objects, and what is under way with them.
#[derive(Debug, Default)]
pub(super) struct Shard {
    table: HashTable<u32>,
    pub(super) rows: Slab<Object>,
    pub(super) states: HashMap<Tenant, State, Spread>,
    /// Puts under way: few at a time.
    pub(super) puts: Vec<Writing>,
    /// Promotions under way, by the object's row.
    pub(super) tasks: HashMap<u32, Task, Spread>,
    /// Offloads under way, by the object's row.
    pub(super) offloads: HashMap<u32, Offloading, Spread>,
    /// When objects end that do so by themselves.
    pub(super) lives: Lives,
    /// Removed while not everything was known.
    pub(super) buried: std::collections::HashMap<Name, Version>,
    /// Put on a condition that held, by nodes that are telling anew what they have.
    pub(super) decided: std::collections::HashSet<(Node, Version)>,
    pub(super) tally: Tally,
}

/// What a tenant has in a shard besides its objects.
#[derive(Debug, Default)]
pub(super) struct State {
    /// By the object's row.
    pub(super) candidates: HashMap<u32, Candidate, Spread>,
    pub(super) sketch: Sketch,
    pub(super) objects: usize,
}

/// An offload under way: its bytes on disk are reserved, and its memory is not evicted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offloading {
    pub(super) node: Node,
    pub(super) deadline: Millis,
    pub(super) slip: Slip,
}

impl Shard {
    /// The row of an object.
    pub(super) fn find(&self, hash: u64, tenant: Tenant, key: &[u8]) -> Option<u32> {
        let same = |row: &u32| {
            let object = &self.rows[*row as usize];
            object.tenant == tenant && *object.key == *key
        };
        self.table.find(hash, same).copied()
    }

    /// The object in that row, if it is of that version.
    pub(super) fn object(&mut self, row: u32, version: Version) -> Option<&mut Object> {
        self.rows.get_mut(row as usize).filter(|object| object.version == version)
    }

    /// A new row. The key must not be there yet.
    pub(super) fn insert(&mut self, hash: u64, object: Object, hasher: impl Fn(&Object) -> u64) -> u32 {
        // A table that doubles would be half empty: this one grows by an eighth.
        if self.rows.len() == self.rows.capacity() {
            self.rows.reserve_exact((self.rows.len() / 8).max(8));
        }
        self.states.entry(object.tenant).or_default().objects += 1;
        let row = self.rows.insert(object) as u32;
        let rows = &self.rows;
        self.table.insert_unique(hash, row, |row| hasher(&rows[*row as usize]));
        row
    }

    /// Takes an object out; nothing must be under way with it.
    pub(super) fn delete(&mut self, hash: u64, row: u32) -> Option<Object> {
        self.table.find_entry(hash, |found| *found == row).ok()?.remove();
        let object = self.rows.try_remove(row as usize)?;
        if let Some(state) = self.states.get_mut(&object.tenant) {
            state.objects -= 1;
        }
        Some(object)
    }

    /// A put of this key that is under way.
    pub(super) fn put_of(&self, tenant: Tenant, key: &[u8]) -> Option<usize> {
        self.puts.iter().position(|put| put.tenant == tenant && *put.key == *key)
    }

    /// Takes out a candidate.
    pub(super) fn uncandidate(&mut self, row: u32) -> Option<Candidate> {
        let object = self.rows.get_mut(row as usize)?;
        if !object.flags.clear(Flags::CANDIDATE) {
            return None;
        }
        let tenant = object.tenant;
        self.states.get_mut(&tenant)?.candidates.remove(&row)
    }

    /// Keys in the table; for checks.
    pub(super) fn keys(&self) -> usize {
        self.table.len()
    }
}
