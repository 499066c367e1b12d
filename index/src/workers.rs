//! All workers: their slots, how far their views can be trusted, and their names for blocks.

use std::collections::HashMap;
use std::sync::Arc;

use blocks::{View, Worker};
use parking_lot::Mutex;

use crate::names::Names;

/// All workers. A slot is a worker's number in holdings; it may be hidden while its view is being built.
#[derive(Default)]
pub(crate) struct Workers {
    by_name: HashMap<Worker, u16>,
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    /// Distinguishes the lives of a slot.
    generation: u32,
}

/// What is known of one worker, or of one that is being built.
#[derive(Clone)]
pub(crate) struct Slot {
    /// `None` while hidden.
    pub(crate) worker: Option<Worker>,
    pub(crate) view: View,
    pub(crate) number: u16,
    pub(crate) generation: u32,
    pub(crate) names: Arc<Mutex<Names>>,
}

// === impl Workers ===

impl Workers {
    pub(crate) fn slot(&self, worker: Worker) -> Option<&Slot> {
        self.at(*self.by_name.get(&worker)?)
    }

    pub(crate) fn at(&self, number: u16) -> Option<&Slot> {
        self.slots.get(number as usize)?.as_ref()
    }

    /// A worker's slot, made if need be. `None` if there are as many workers as there can be.
    pub(crate) fn enter(&mut self, worker: Worker) -> Option<&Slot> {
        if !self.by_name.contains_key(&worker) {
            let slot = self.open()?;
            self.show(slot.number, worker, View::Recovering);
        }
        self.slot(worker)
    }

    /// A hidden slot. `None` if there are as many workers as there can be.
    pub(crate) fn open(&mut self) -> Option<Slot> {
        let number = match self.free.pop() {
            Some(free) => free,
            None => u16::try_from(self.slots.len()).ok()?,
        };
        if number as usize == self.slots.len() {
            self.slots.push(None);
        }
        self.generation += 1;
        let names = Arc::default();
        let slot = Slot { worker: None, view: View::Recovering, number, generation: self.generation, names };
        self.slots[number as usize] = Some(slot.clone());
        Some(slot)
    }

    /// Gives a hidden slot to a worker; returns the slot it had before, which is hidden from now on.
    pub(crate) fn show(&mut self, number: u16, worker: Worker, view: View) -> Option<Slot> {
        let before = self.hide(worker);
        self.by_name.insert(worker, number);
        if let Some(new) = self.slots[number as usize].as_mut() {
            new.worker = Some(worker);
            new.view = view;
        }
        before
    }

    /// Hides a worker.
    pub(crate) fn hide(&mut self, worker: Worker) -> Option<Slot> {
        let number = self.by_name.remove(&worker)?;
        let hidden = self.slots[number as usize].as_mut()?;
        hidden.worker = None;
        Some(hidden.clone())
    }

    /// Frees a hidden slot that nobody holds any more.
    pub(crate) fn close(&mut self, number: u16) {
        self.slots[number as usize] = None;
        self.free.push(number);
    }

    pub(crate) fn set_view(&mut self, worker: Worker, view: View) {
        let Some(number) = self.enter(worker).map(|slot| slot.number) else { return };
        if let Some(slot) = self.slots[number as usize].as_mut() {
            slot.view = view;
        }
    }

    /// All slots, hidden ones included. Names may be locked only after the workers are not.
    pub(crate) fn all(&self) -> Vec<Slot> {
        self.slots.iter().flatten().cloned().collect()
    }
}
