//! Taking in what is told: events, whole views, expectations, farewells, and the proof that it all adds up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use blocks::{Block, EngineHash, Event, PrefixHash, Stored, Tier, TokensHash, View, Worker};
use parking_lot::Mutex;

use crate::holders::Holder;
use crate::worker::{Expected, Map, Named};
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

/// Expectations that are kept at a time; beyond it new ones are not made. At 64 blocks each: 32 MiB.
const MAX_EXPECTED: usize = 1 << 16;

impl Index {
    pub(crate) fn tell(&self, worker: Worker, event: &Event) -> Result<Applied, Refused> {
        let (slot, map) = self.enter(worker)?;
        let mut map = map.lock();
        match event {
            Event::Stored(stored) => self.stored(slot, &mut map, stored),
            Event::Removed { blocks, tier } => Ok(self.removed(slot, &mut map, blocks, *tier)),
            Event::Cleared => Ok(Applied { removed: self.clear(slot, &mut map), ..Applied::default() }),
        }
    }

    /// Exchanges everything that is known of `worker` for what `events` leave behind, in one step: readers see
    /// the old view or the new one. Runs whose parent is unknown are left out, and counted in the answer.
    ///
    /// # Errors
    /// [`Refused::TooManyWorkers`].
    pub fn replace(&self, worker: Worker, events: &[Event]) -> Result<usize, Refused> {
        let (hidden, map) = {
            let mut workers = self.workers.write();
            let slot = workers.open().ok_or(Refused::TooManyWorkers)?;
            (slot, workers.map(slot).ok_or(Refused::TooManyWorkers)?)
        };
        let mut left_out = 0;
        {
            let mut map = map.lock();
            for event in events {
                match event {
                    Event::Stored(stored) => {
                        left_out += usize::from(self.stored(hidden, &mut map, stored).is_err());
                    }
                    Event::Removed { blocks, tier } => drop(self.removed(hidden, &mut map, blocks, *tier)),
                    Event::Cleared => drop(self.clear(hidden, &mut map)),
                }
            }
        }
        let old = {
            let mut workers = self.workers.write();
            let view = workers.slot(worker).map_or(View::Recovering, |slot| workers.view_of(slot));
            workers.show(hidden, worker, view)
        };
        if let Some(old) = old {
            self.bury(old);
        }
        Ok(left_out)
    }

    /// Drops everything that is known of `worker`, its view included.
    pub fn forget(&self, worker: Worker) {
        let hidden = self.workers.write().hide(worker);
        if let Some(slot) = hidden {
            self.bury(slot);
        }
    }

    /// Says how far the view of `worker` can be trusted from now on.
    pub fn set_view(&self, worker: Worker, view: View) {
        self.workers.write().set_view(worker, view);
    }

    /// Everything that `worker` holds, as events that would build it again: parents come before their children.
    pub fn dump(&self, worker: Worker) -> Vec<Event> {
        let Some(map) = self.workers.read().slot(worker).and_then(|slot| self.workers.read().map(slot))
        else {
            return Vec::new();
        };
        let map = map.lock();
        let slot = self.workers.read().slot(worker).unwrap_or_default();
        let mut held: Vec<(u32, Named)> = map.iter().map(|named| (self.depth(*named), *named)).collect();
        held.sort_unstable_by_key(|(depth, named)| (*depth, named.engine));
        let mut told: HashMap<PrefixHash, EngineHash> = HashMap::new();
        let mut events = Vec::new();
        for (_, named) in held {
            let shard = self.shards[named.shard as usize].read();
            let node = shard.node(named.node);
            let parent = node.parent.map(|parent| told.get(&parent).copied());
            // A block below a hole cannot be told: whoever learns it would refuse it.
            let (Some(holder), None | Some(Some(_))) = (node.holders.of(slot), parent) else { continue };
            told.insert(node.prefix, named.engine);
            for (tier, copies) in Tier::ALL.into_iter().zip(holder.copies) {
                let blocks = vec![Block { engine: named.engine, tokens: node.tokens }];
                let event = Event::Stored(Stored { parent: parent.flatten(), blocks, tier });
                events.extend(std::iter::repeat_n(event, copies as usize));
            }
        }
        events
    }

    fn depth(&self, named: Named) -> u32 {
        self.shards[named.shard as usize].read().node(named.node).depth
    }

    /// The invariants of [`Index`], one line each. Takes as long as everything is large.
    ///
    /// # Errors
    /// The name of the first invariant that does not hold, and where.
    pub fn check(&self) -> Result<(), String> {
        let workers = self.workers.read();
        let mut named = HashMap::new();
        for slot in workers.numbers() {
            let Some(map) = workers.map(slot) else { continue };
            for entry in map.lock().iter() {
                let twice = named.insert((entry.shard, entry.node, slot), entry.engine);
                ensure(twice.is_none(), || format!("I1: two names of slot {slot} for one block"))?;
                let shard = self.shards[entry.shard as usize].read();
                let held =
                    shard.node(entry.node).holders.of(slot).is_some_and(|holder| holder.copies != [0; 4]);
                ensure(held, || format!("I1: slot {slot} names a block that it does not hold"))?;
            }
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let shard = shard.read();
            for id in shard.ids() {
                let node = shard.node(id);
                let holders = node.holders.as_slice();
                ensure(!holders.is_empty() && holders.iter().all(|holder| holder.holds()), || {
                    format!("I2: an empty holder in {number}")
                })?;
                ensure(shard.find(node.prefix) == Some(id), || {
                    format!("I3: a node of {number} is not found")
                })?;
                let known = |holder: &&Holder| named.contains_key(&(number as u8, id, holder.slot));
                let told = holders.iter().filter(|holder| holder.copies != [0; 4]);
                ensure(told.clone().all(|holder| known(&holder)), || {
                    format!("I1: a copy without a name in {number}")
                })?;
            }
        }
        Ok(())
    }
}

// === Events ===

impl Index {
    fn enter(&self, worker: Worker) -> Result<(u16, Arc<Mutex<Map>>), Refused> {
        {
            let workers = self.workers.read();
            if let Some(slot) = workers.slot(worker) {
                return workers.map(slot).map(|map| (slot, map)).ok_or(Refused::TooManyWorkers);
            }
        }
        let mut workers = self.workers.write();
        let slot = workers.enter(worker).ok_or(Refused::TooManyWorkers)?;
        workers.map(slot).map(|map| (slot, map)).ok_or(Refused::TooManyWorkers)
    }

    fn stored(&self, slot: u16, map: &mut Map, stored: &Stored) -> Result<Applied, Refused> {
        if map.gone {
            return Ok(Applied::default());
        }
        let (number, parent) = match stored.parent {
            Some(parent) => {
                let named = map.get(parent).ok_or(Refused::UnknownParent(parent))?;
                (named.shard as usize, Some(named.node))
            }
            None => match stored.blocks.first() {
                Some(root) => (shard::of(root.tokens.as_root()), None),
                None => return Ok(Applied::default()),
            },
        };
        let mut shard = self.shards[number].write();
        let mut before = parent.map(|id| (shard.node(id).prefix, shard.node(id).depth));
        for block in &stored.blocks {
            let place = Place::behind(before, block.tokens);
            before = Some((place.prefix, place.depth));
            // An engine that gives one name to two blocks means the newer one.
            if let Some(named) = map.get(block.engine) {
                if shard.node(named.node).prefix == place.prefix && named.shard as usize == number {
                    shard.change(named.node, slot, |holder| add(holder, stored.tier));
                    continue;
                }
                drop(shard);
                map.remove(block.engine);
                self.shards[named.shard as usize]
                    .write()
                    .change(named.node, slot, |holder| holder.copies = [0; 4]);
                shard = self.shards[number].write();
            }
            let (id, holder) = shard.hold(place, slot);
            // Two names for one block of one worker: the newer one counts, with the copies of both.
            let renamed = holder.copies != [0; 4];
            add(holder, stored.tier);
            if renamed {
                map.rename(number as u8, id);
            }
            map.insert(Named { engine: block.engine, node: id, shard: number as u8 });
        }
        Ok(Applied { stored: stored.blocks.len(), ..Applied::default() })
    }

    fn removed(&self, slot: u16, map: &mut Map, hashes: &[EngineHash], tier: Tier) -> Applied {
        let mut applied = Applied::default();
        for engine in hashes {
            let Some(named) = map.get(*engine) else {
                applied.unknown += 1;
                continue;
            };
            let mut left = true;
            let mut there = false;
            self.shards[named.shard as usize].write().change(named.node, slot, |holder| {
                let copies = &mut holder.copies[tier as usize];
                there = *copies > 0;
                *copies = copies.saturating_sub(1);
                left = holder.copies != [0; 4];
            });
            if !left {
                map.remove(*engine);
            }
            applied.removed += usize::from(there);
            applied.unknown += usize::from(!there);
        }
        if applied.unknown > 0 {
            self.unknown_removals.fetch_add(applied.unknown as u64, Relaxed);
        }
        applied
    }

    /// Drops every copy that a slot holds, one shard at a time, each in one step.
    fn clear(&self, slot: u16, map: &mut Map) -> usize {
        let mut all = map.take();
        all.sort_unstable_by_key(|named| named.shard);
        for of_one in all.chunk_by(|a, b| a.shard == b.shard) {
            let mut shard = self.shards[of_one[0].shard as usize].write();
            for named in of_one {
                shard.change(named.node, slot, |holder| holder.copies = [0; 4]);
            }
        }
        all.len()
    }

    /// Drops what a hidden slot holds, expectations included, and frees it.
    fn bury(&self, slot: u16) {
        let Some(map) = self.workers.read().map(slot) else { return };
        let mut map = map.lock();
        map.gone = true;
        self.clear(slot, &mut map);
        drop(map);
        let generation = self.workers.read().generation(slot);
        let mut expected = self.expected.lock();
        let of_slot = |entry: &Expected| entry.slot == slot && Some(entry.generation) == generation;
        let (gone, kept): (Vec<_>, Vec<_>) = expected.drain(..).partition(of_slot);
        expected.extend(kept);
        drop(expected);
        for entry in &gone {
            self.withdraw(entry, u32::MAX);
        }
        self.workers.write().close(slot);
    }
}

// === Expectations ===

impl Index {
    pub(crate) fn insert_expected(
        &self,
        worker: Worker,
        prefix: &[PrefixHash],
        tokens: &[TokensHash],
        until: Duration,
    ) {
        let Some(root) = prefix.first() else { return };
        let Ok((slot, map)) = self.enter(worker) else { return };
        let Some(generation) = self.workers.read().generation(slot) else { return };
        let map = map.lock();
        let mut expected = self.expected.lock();
        if map.gone || expected.len() >= MAX_EXPECTED {
            return;
        }
        let mut shard = self.shards[shard::of(*root)].write();
        let mut before = None;
        let mut prefixes = Vec::new();
        for (hash, tokens) in prefix.iter().zip(tokens) {
            let place = Place { prefix: *hash, ..Place::behind(before, *tokens) };
            before = Some((place.prefix, place.depth));
            let (_, holder) = shard.hold(place, slot);
            if holder.copies == [0; 4] {
                holder.expected_until = holder.expected_until.max(tenths(until));
                prefixes.push(*hash);
            }
        }
        if !prefixes.is_empty() {
            let at = expected.partition_point(|entry| entry.until <= until);
            expected.insert(at, Expected { until, slot, generation, root: *root, prefixes });
        }
    }

    pub(crate) fn drop_expected(&self, now: Duration) {
        loop {
            let entry = {
                let mut expected = self.expected.lock();
                match expected.front() {
                    Some(entry) if entry.until <= now => expected.pop_front(),
                    _ => return,
                }
            };
            let Some(entry) = entry else { return };
            if self.workers.read().generation(entry.slot) == Some(entry.generation) {
                let unconfirmed = self.withdraw(&entry, tenths(now));
                self.unconfirmed.fetch_add(unconfirmed as u64, Relaxed);
            }
        }
    }

    fn withdraw(&self, entry: &Expected, until: u32) -> usize {
        let mut shard = self.shards[shard::of(entry.root)].write();
        let mut withdrawn = 0;
        for prefix in &entry.prefixes {
            let Some(id) = shard.find(*prefix) else { continue };
            shard.change(id, entry.slot, |holder| {
                // Somebody may have expected it for longer since.
                if holder.expected() && holder.expected_until <= until {
                    holder.expected_until = 0;
                    withdrawn += 1;
                }
            });
        }
        withdrawn
    }
}

/// Where a block stands: all that a new node needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) prefix: PrefixHash,
    pub(crate) parent: Option<PrefixHash>,
    pub(crate) tokens: TokensHash,
    pub(crate) depth: u32,
}

impl Place {
    fn behind(before: Option<(PrefixHash, u32)>, tokens: TokensHash) -> Self {
        let parent = before.map(|(prefix, _)| prefix);
        let depth = before.map_or(0, |(_, depth)| depth + 1);
        Self { prefix: PrefixHash::after(parent, tokens), parent, tokens, depth }
    }
}

/// A time as holders keep it.
fn tenths(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / 100 + 1).unwrap_or(u32::MAX)
}

fn add(holder: &mut Holder, tier: Tier) {
    let copies = &mut holder.copies[tier as usize];
    *copies = copies.saturating_add(1);
    holder.expected_until = 0;
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
