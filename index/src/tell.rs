//! Taking in what is told: events, whole views, farewells.

use std::sync::atomic::Ordering::Relaxed;

use blocks::{EngineHash, Event, Stored, Tier, View, Worker};
use parking_lot::RwLockWriteGuard;

use crate::names::{Left, Names, Spot};
use crate::run::Plane;
use crate::shard::Shard;
use crate::workers::Slot;
use crate::{Index, shard};

/// What an event changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Copies that came in.
    pub stored: usize,
    /// Copies that went away.
    pub removed: usize,
    /// Removals of blocks that were not held: counted, not fatal.
    pub unknown: usize,
}

/// Why an event was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The worker does not hold the parent: something was lost before. Recover the view.
    UnknownParent(EngineHash),
    /// There are as many workers as there can be: forget some.
    TooManyWorkers,
}

impl Index {
    /// Applies one change. See [`Refused`] for what it means if it cannot be.
    ///
    /// # Errors
    /// [`Refused`]; then nothing of the event was applied.
    pub fn apply(&self, worker: Worker, event: &Event) -> Result<Applied, Refused> {
        let slot = self.enter(worker)?;
        let mut names = slot.names.lock();
        self.tell(slot.number, &mut names, event)
    }

    /// Exchanges everything that is known of `worker` for what `events` leave behind, in one step: readers see
    /// the old view or the new one. Runs whose parent is unknown are left out, and counted in the answer.
    ///
    /// # Errors
    /// [`Refused::TooManyWorkers`].
    pub fn replace(&self, worker: Worker, events: &[Event]) -> Result<usize, Refused> {
        let hidden = self.workers.write().open().ok_or(Refused::TooManyWorkers)?;
        let mut left_out = 0;
        for event in events {
            // Locked for each event, so that whoever counts what is held need not wait for all of them.
            left_out += usize::from(self.tell(hidden.number, &mut hidden.names.lock(), event).is_err());
        }
        let old = {
            let mut workers = self.workers.write();
            let view = workers.slot(worker).map_or(View::Recovering, |slot| slot.view);
            workers.show(hidden.number, worker, view)
        };
        if let Some(old) = old {
            self.bury(&old);
        }
        Ok(left_out)
    }

    /// Drops everything that is known of `worker`, its view included.
    pub fn forget(&self, worker: Worker) {
        let hidden = self.workers.write().hide(worker);
        if let Some(slot) = hidden {
            self.bury(&slot);
        }
    }

    /// Says how far the view of `worker` can be trusted from now on.
    pub fn set_view(&self, worker: Worker, view: View) {
        self.workers.write().set_view(worker, view);
    }

    /// The slot of a worker, made if need be.
    pub(crate) fn enter(&self, worker: Worker) -> Result<Slot, Refused> {
        if let Some(slot) = self.workers.read().slot(worker) {
            return Ok(slot.clone());
        }
        self.workers.write().enter(worker).cloned().ok_or(Refused::TooManyWorkers)
    }

    fn tell(&self, slot: u16, names: &mut Names, event: &Event) -> Result<Applied, Refused> {
        match event {
            _ if names.gone => Ok(Applied::default()),
            Event::Stored(stored) => self.stored(slot, names, stored),
            Event::Removed { blocks, tier } => Ok(self.removed(slot, names, blocks, *tier)),
            Event::Cleared => Ok(Applied { removed: self.clear(slot, names), ..Applied::default() }),
        }
    }

    fn stored(&self, slot: u16, names: &mut Names, stored: &Stored) -> Result<Applied, Refused> {
        let Some(first) = stored.blocks.first() else { return Ok(Applied::default()) };
        let (number, mut cursor, mut near) = match stored.parent {
            Some(parent) => {
                let name = names.find(parent).ok_or(Refused::UnknownParent(parent))?;
                let spot = names.spot(name);
                (spot.shard as usize, Some(Shard::cursor(spot.place())), Some(name))
            }
            None => (shard::of(first.tokens.as_root()), None, None),
        };
        names.warm(stored.blocks.iter().map(|block| block.engine));
        let mut open = Open::new(self);
        for (done, block) in stored.blocks.iter().enumerate() {
            let shard = open.shard(number);
            let next = shard.step(cursor, block.tokens, stored.blocks.len() - done - 1);
            cursor = Some(next);
            let spot = Spot::new(number, next.place);
            let known = names.find(block.engine);
            let again = known.filter(|name| names.spot(*name) == spot);
            if let Some(name) = again
                && !names.add(name, stored.tier)
            {
                near = Some(name);
                continue;
            }
            if shard.set(next.place, slot, Plane::Told(stored.tier)) {
                names.twin(spot, stored.tier);
            }
            if !names.expected.is_empty() && names.expected.remove(&spot).is_some() {
                shard.clear(next.place, slot, Plane::Expected);
            }
            if let Some(old) = known.filter(|_| again.is_none()) {
                // An engine that gives one name to two blocks means the newer one.
                let before = names.spot(old);
                for tier in names.forget(block.engine, old) {
                    open.shard(before.shard as usize).clear(before.place(), slot, Plane::Told(tier));
                }
            }
            near = again.or_else(|| Some(names.insert(block.engine, spot, stored.tier, near)));
        }
        Ok(Applied { stored: stored.blocks.len(), ..Applied::default() })
    }

    fn removed(&self, slot: u16, names: &mut Names, hashes: &[EngineHash], tier: Tier) -> Applied {
        let mut applied = Applied::default();
        names.warm(hashes.iter().copied());
        let mut open = Open::new(self);
        for engine in hashes {
            match names.subtract(*engine, tier) {
                Some((spot, left)) => {
                    if left == Left::Gone {
                        open.shard(spot.shard as usize).clear(spot.place(), slot, Plane::Told(tier));
                    }
                    applied.removed += 1;
                }
                None => applied.unknown += 1,
            }
        }
        if applied.unknown > 0 {
            self.unknown_removals.fetch_add(applied.unknown as u64, Relaxed);
        }
        applied
    }

    /// Drops every copy that a slot holds, one shard at a time, each in one step.
    fn clear(&self, slot: u16, names: &mut Names) -> usize {
        let held = names.len();
        let mut open = Open::new(self);
        for (spot, tier) in names.take() {
            open.shard(spot.shard as usize).clear(spot.place(), slot, Plane::Told(tier));
        }
        held
    }

    /// Drops what a hidden slot holds, expectations included, and frees it.
    fn bury(&self, slot: &Slot) {
        let mut names = slot.names.lock();
        names.gone = true;
        self.clear(slot.number, &mut names);
        for (spot, _) in std::mem::take(&mut names.expected) {
            self.shards[spot.shard as usize].write().clear(spot.place(), slot.number, Plane::Expected);
        }
        drop(names);
        self.workers.write().close(slot.number);
    }
}

/// The shard that is being changed: locked once for all blocks in a row that lie in it.
struct Open<'a> {
    index: &'a Index,
    locked: Option<(usize, RwLockWriteGuard<'a, Shard>)>,
}

// === impl Open ===

impl<'a> Open<'a> {
    fn new(index: &'a Index) -> Self {
        Self { index, locked: None }
    }

    fn shard(&mut self, number: usize) -> &mut Shard {
        if self.locked.as_ref().is_none_or(|(locked, _)| *locked != number) {
            self.locked = None; // never two at once
            self.locked = Some((number, self.index.shards[number].write()));
        }
        let Some((_, shard)) = &mut self.locked else { unreachable!("it was just locked") };
        shard
    }
}
