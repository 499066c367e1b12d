//! What is known of each worker: its slot, its view, and which block each of its engine hashes names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use blocks::{EngineHash, PrefixHash, View, Worker};
use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::shard::Id;

/// All workers. A slot is a worker's number in holders; it may be hidden while its view is being built.
#[derive(Default)]
pub(crate) struct Workers {
    by_name: HashMap<Worker, u16>,
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    /// Distinguishes the lives of a slot.
    generation: u32,
}

struct Slot {
    /// `None` while hidden.
    name: Option<Worker>,
    view: View,
    generation: u32,
    map: Arc<Mutex<Map>>,
}

/// Which block each engine hash of one worker names, and how many copies the engine told.
#[derive(Default)]
pub(crate) struct Map {
    table: HashTable<Named>,
    /// Set when the slot has been given up: whoever still holds the map must not write.
    pub(crate) gone: bool,
}

/// One engine hash and what it names. Sixteen bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) engine: EngineHash,
    pub(crate) node: Id,
    pub(crate) shard: u8,
}

/// An entry that was made because a request was sent.
pub(crate) struct Expected {
    pub(crate) until: Duration,
    pub(crate) slot: u16,
    pub(crate) generation: u32,
    pub(crate) root: PrefixHash,
    pub(crate) prefixes: Vec<PrefixHash>,
}

// === impl Workers ===

impl Workers {
    pub(crate) fn slot(&self, worker: Worker) -> Option<u16> {
        self.by_name.get(&worker).copied()
    }

    /// A worker's slot and map, made if need be.
    pub(crate) fn enter(&mut self, worker: Worker) -> Option<u16> {
        if let Some(slot) = self.slot(worker) {
            return Some(slot);
        }
        let slot = self.open()?;
        self.show(slot, worker, View::Recovering);
        Some(slot)
    }

    /// A hidden slot. `None` if there are as many workers as there can be.
    pub(crate) fn open(&mut self) -> Option<u16> {
        self.generation += 1;
        let slot =
            Slot { name: None, view: View::Recovering, generation: self.generation, map: Arc::default() };
        if let Some(free) = self.free.pop() {
            self.slots[free as usize] = Some(slot);
            return Some(free);
        }
        let number = u16::try_from(self.slots.len()).ok()?;
        self.slots.push(Some(slot));
        Some(number)
    }

    /// Gives a hidden slot to a worker; returns the slot it had before, which is hidden from now on.
    pub(crate) fn show(&mut self, slot: u16, worker: Worker, view: View) -> Option<u16> {
        let before = self.by_name.insert(worker, slot);
        if let Some(old) = before.and_then(|slot| self.slots[slot as usize].as_mut()) {
            old.name = None;
        }
        if let Some(new) = self.slots[slot as usize].as_mut() {
            new.name = Some(worker);
            new.view = view;
        }
        before
    }

    /// Hides a worker.
    pub(crate) fn hide(&mut self, worker: Worker) -> Option<u16> {
        let slot = self.by_name.remove(&worker)?;
        if let Some(hidden) = self.slots[slot as usize].as_mut() {
            hidden.name = None;
        }
        Some(slot)
    }

    /// Frees a hidden slot that nobody holds any more.
    pub(crate) fn close(&mut self, slot: u16) {
        self.slots[slot as usize] = None;
        self.free.push(slot);
    }

    pub(crate) fn set_view(&mut self, worker: Worker, view: View) {
        let Some(slot) = self.enter(worker) else { return };
        if let Some(slot) = self.slots[slot as usize].as_mut() {
            slot.view = view;
        }
    }

    pub(crate) fn map(&self, slot: u16) -> Option<Arc<Mutex<Map>>> {
        self.slots.get(slot as usize)?.as_ref().map(|slot| slot.map.clone())
    }

    pub(crate) fn generation(&self, slot: u16) -> Option<u32> {
        self.slots.get(slot as usize)?.as_ref().map(|slot| slot.generation)
    }

    pub(crate) fn of(&self, slot: u16) -> (Option<Worker>, View) {
        match self.slots.get(slot as usize) {
            Some(Some(slot)) => (slot.name, slot.view),
            _ => (None, View::Stale),
        }
    }

    pub(crate) fn view_of(&self, slot: u16) -> View {
        self.of(slot).1
    }

    pub(crate) fn list(&self) -> Vec<(Worker, View, usize)> {
        let shown = self.slots.iter().flatten().filter_map(|slot| Some((slot.name?, slot)));
        let mut list: Vec<_> =
            shown.map(|(worker, slot)| (worker, slot.view, slot.map.lock().len())).collect();
        list.sort_by_key(|(worker, ..)| *worker);
        list
    }

    pub(crate) fn numbers(&self) -> Vec<u16> {
        (0..self.slots.len() as u16).filter(|slot| self.slots[*slot as usize].is_some()).collect()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.slots.iter().flatten().map(|slot| slot.map.lock().table.allocation_size()).sum()
    }
}

// === impl Map ===

impl Map {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, engine: EngineHash) -> Option<Named> {
        self.table.find(spread(engine), |named| named.engine == engine).copied()
    }

    pub(crate) fn insert(&mut self, named: Named) {
        self.table.insert_unique(spread(named.engine), named, |named| spread(named.engine));
    }

    pub(crate) fn remove(&mut self, engine: EngineHash) {
        if let Ok(entry) = self.table.find_entry(spread(engine), |named| named.engine == engine) {
            entry.remove();
        }
        if self.table.is_empty() {
            self.table = HashTable::new();
        } else if self.table.capacity() > 1024 && self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(self.table.len() * 2, |named| spread(named.engine));
        }
    }

    /// Drops the name of a block that has got another one.
    pub(crate) fn rename(&mut self, shard: u8, node: Id) {
        self.table.retain(|named| named.shard != shard || named.node != node);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Named> {
        self.table.iter()
    }

    pub(crate) fn take(&mut self) -> Vec<Named> {
        std::mem::take(&mut self.table).into_iter().collect()
    }
}

/// Engine hashes are an engine's to choose; small numbers must not crowd one corner of the table.
fn spread(engine: EngineHash) -> u64 {
    engine.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ engine.0
}
