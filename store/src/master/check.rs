//! Whether everything that should hold does: the invariants of the module's doc, counted anew from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::name::{Node, Tenant, Tier};
use super::object::{Flags, List};
use super::order::{Link, Place};
use super::{Master, Tally};

/// A copy as its object sees it, or as its node does.
type Queued = (Tier, Tenant, ListName, u32, Place, u32);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ListName {
    Main,
    Soft,
}

/// Everything that nodes should know, counted from the objects.
#[derive(Default)]
struct Count {
    here: BTreeMap<(Node, Tier), u64>,
    reserved: BTreeMap<(Node, Tier), u64>,
    promised: BTreeMap<Node, u64>,
    puts: BTreeMap<Node, u32>,
    queued: BTreeMap<Node, BTreeSet<Queued>>,
    used: BTreeMap<(Tenant, Tier), u64>,
    bytes: BTreeMap<(Node, Tier, Tenant), u64>,
    groups: BTreeSet<(Tenant, super::name::Group, Place, super::name::Version)>,
    candidates: u64,
    tasks: u64,
    awaited: u64,
    all_puts: usize,
    lives: usize,
    offloads: usize,
    tally: Tally,
}

impl Master {
    /// The invariants of the module's doc. Takes every lock: for tests and for operators who do not trust us.
    ///
    /// # Errors
    /// Which does not hold, and where.
    pub fn check(&self) -> Result<(), String> {
        let shards: Vec<_> = self.shards.iter().map(|shard| shard.lock()).collect();
        let mut count = Count::default();
        for (at, shard) in shards.iter().enumerate() {
            count.shard(at, shard).map_err(|what| format!("shard {at}: {what}"))?;
        }
        self.check_nodes(&count)?;
        self.check_totals(&count)
    }

    fn check_nodes(&self, count: &Count) -> Result<(), String> {
        for member in self.members() {
            let inside = member.lock();
            let node = member.node;
            for tier in Tier::ALL {
                let space = inside.space[tier.at()];
                let here = count.here.get(&(node, tier)).copied().unwrap_or(0);
                let reserved = count.reserved.get(&(node, tier)).copied().unwrap_or(0);
                let of_tier = inside.leaving.iter().filter(|((_, t), _)| *t == tier);
                let leaving: u64 = of_tier.map(|(_, leaving)| leaving.bytes).sum();
                let found = (space.here, space.reserved, space.leaving);
                same("M1: here, reserved, leaving", &found, &(here, reserved, leaving))
                    .map_err(|e| format!("{node:?} {tier:?}: {e}"))?;
            }
            let promised = count.promised.get(&node).copied().unwrap_or(0);
            same("M5: promised", &inside.space[0].promised, &promised)?;
            same("M9: puts", &inside.puts, &count.puts.get(&node).copied().unwrap_or(0))?;
            let listed = inside.listed();
            same("M2: entries", &inside.entries(), &listed.len())?;
            let known = listed.iter().map(|(tier, tenant, list, Link(link), at, version)| {
                let list = if *list == List::Soft { ListName::Soft } else { ListName::Main };
                (*tier, *tenant, list, *link, *at, *version)
            });
            let known: BTreeSet<Queued> = known.collect();
            let queued = count.queued.get(&node).cloned().unwrap_or_default();
            ensure(known == queued && known.len() == listed.len(), "M2: queues")?;
            for ((tier, tenant), queues) in inside.queues() {
                let bytes = count.bytes.get(&(node, *tier, *tenant)).copied().unwrap_or(0);
                same("M2: bytes of a tenant", &queues.bytes, &bytes)?;
            }
            ensure(inside.outbox.agrees(), "M5: orders")?;
        }
        Ok(())
    }

    fn check_totals(&self, count: &Count) -> Result<(), String> {
        for (number, account) in self.tenants.iter().map_while(std::sync::OnceLock::get).enumerate() {
            for tier in Tier::ALL {
                let used = count.used.get(&(Tenant(number as u16), tier)).copied().unwrap_or(0);
                same("M3: used", &account.used(tier), &used)?;
            }
        }
        let gauge = |gauge: &std::sync::atomic::AtomicUsize| gauge.load(Ordering::Relaxed);
        same("M5: tasks", &(gauge(&self.busy.tasks) as u64), &count.tasks)?;
        same("M7: candidates", &(gauge(&self.busy.candidates) as u64), &count.candidates)?;
        same("M8: awaited", &(gauge(&self.busy.awaited) as u64), &count.awaited)?;
        same("M9: puts", &gauge(&self.busy.puts), &count.all_puts)?;
        same("M11: lives", &gauge(&self.busy.lives), &count.lives)?;
        same("M5: offloads", &gauge(&self.busy.offloads), &count.offloads)?;
        let p = count.tally.promotions;
        let ended = p.completed + p.failed + p.expired + p.cancelled;
        same("M6: admitted", &p.admitted, &(ended + count.tasks))?;
        let c = count.tally.candidates;
        let ended = c.admitted + c.expired_evaluated + c.expired_unevaluated + c.settled;
        same("M7: recorded", &c.recorded, &(ended + count.candidates))?;
        let again: u64 = count.tally.again.list().into_iter().map(|(_, times)| times).sum();
        same("M7: met a gate again", &c.admission_rejected, &again)?;
        let w = count.tally.warmed;
        let ended = w.in_time + w.too_late + w.cancelled + w.gone;
        same("M8: asked", &w.asked, &(ended + count.awaited))?;
        let m = count.tally.moves;
        let ended = m.committed + m.revoked + m.displaced;
        same("M9: reserved", &m.reserved, &(ended + count.all_puts as u64))?;
        let groups: BTreeSet<_> = self.groups.list().into_iter().collect();
        ensure(groups == count.groups, "M10: members")
    }
}

impl Count {
    fn shard(&mut self, at: usize, shard: &super::Shard) -> Result<(), String> {
        self.tally += shard.tally;
        same("M4: keys", &shard.keys(), &shard.rows.len())?;
        shard.lives.check(&shard.rows)?;
        self.lives += shard.lives.len();
        for (row, object) in &shard.rows {
            let place = Place::new(at, row);
            let bytes = object.bytes();
            ensure(!object.copies.is_empty(), "M4: no copy")?;
            for copy in &object.copies {
                *self.here.entry((copy.node, copy.tier)).or_default() += bytes;
                *self.used.entry((object.tenant, copy.tier)).or_default() += bytes;
                *self.bytes.entry((copy.node, copy.tier, object.tenant)).or_default() += bytes;
                same("M2: list", &copy.list, &object.pin.list())?;
                let list = match copy.list {
                    List::Main => ListName::Main,
                    List::Soft => ListName::Soft,
                    List::Kept => continue,
                };
                let queued = (copy.tier, object.tenant, list, copy.link.0, place, object.version.0 as u32);
                ensure(self.queued.entry(copy.node).or_default().insert(queued), "M2: twice")?;
            }
            let row = row as u32;
            let state = shard.states.get(&object.tenant);
            let candidate = state.and_then(|state| state.candidates.get(&row));
            same("M5: flag", &object.flags.has(Flags::PROMOTING), &shard.tasks.contains_key(&row))?;
            same("M5: flag", &object.flags.has(Flags::OFFLOADING), &shard.offloads.contains_key(&row))?;
            same("M7: flag", &object.flags.has(Flags::CANDIDATE), &candidate.is_some())?;
            if let Some(candidate) = candidate {
                ensure(object.in_tier(Tier::Disk).next().is_some(), "M7: not on disk")?;
                ensure(!object.flags.has(Flags::PROMOTING), "M7: has a task")?;
                self.awaited += candidate.wanted.len() as u64;
            }
            if object.group != super::name::Group::NONE {
                self.groups.insert((object.tenant, object.group, place, object.version));
            }
        }
        for (row, task) in &shard.tasks {
            let object = shard.rows.get(*row as usize).ok_or("M5: a task of nothing")?;
            ensure(object.copy(task.holder, Tier::Disk).is_some(), "M5: no source")?;
            if task.staged {
                *self.reserved.entry((task.target, Tier::Memory)).or_default() += object.bytes();
                *self.used.entry((object.tenant, Tier::Memory)).or_default() += object.bytes();
            } else {
                *self.promised.entry(task.target).or_default() += object.bytes();
            }
            self.tasks += 1;
            self.awaited += task.history.wanted.len() as u64;
        }
        for (row, offload) in &shard.offloads {
            let object = shard.rows.get(*row as usize).ok_or("M5: an offload of nothing")?;
            ensure(object.copy(offload.node, Tier::Memory).is_some(), "M5: nothing to offload")?;
            *self.reserved.entry((offload.node, Tier::Disk)).or_default() += object.bytes();
            *self.used.entry((object.tenant, Tier::Disk)).or_default() += object.bytes();
            self.offloads += 1;
        }
        for put in &shard.puts {
            *self.reserved.entry((put.node, Tier::Memory)).or_default() += u64::from(put.size);
            *self.used.entry((put.tenant, Tier::Memory)).or_default() += u64::from(put.size);
            *self.puts.entry(put.node).or_default() += 1;
            self.all_puts += 1;
        }
        let objects: usize = shard.states.values().map(|state| state.objects).sum();
        same("M4: objects of tenants", &objects, &shard.rows.len())?;
        let candidates = shard.states.values().map(|state| state.candidates.len() as u64);
        let counted: u64 = candidates.sum();
        let flagged = shard.rows.iter().filter(|(_, o)| o.flags.has(Flags::CANDIDATE)).count() as u64;
        self.candidates += counted;
        same("M7: candidates of objects that are there", &counted, &flagged)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, counted {expected:?}")) }
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}
