//! Warming: somebody says what will be read, and by when.

use std::sync::atomic::Ordering;

use super::Master;
use super::candidates::Demand;
use super::name::{Millis, Tenant};
use super::object::Flags;
use super::promote::{Ask, Never, Tried};
use super::shard::Shard;

/// What somebody wants warm. Give it back with [`Master::cool`] when they leave; dropping it changes nothing.
#[derive(Debug)]
#[must_use = "give it back with `cool` when whoever waits leaves"]
pub struct Warm {
    id: u64,
    tenant: Tenant,
    /// Those that are on their way.
    pending: Vec<Box<[u8]>>,
    /// How many objects there are of all that was asked for.
    known: usize,
}

impl Warm {
    /// Keys that were not in memory, and are on their way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many objects there are of all that was asked for, wherever they are.
    pub fn known(&self) -> usize {
        self.known
    }
}

impl Master {
    /// On disk only -> wanted by then: no reads are needed, but every other gate, cap and budget holds. What is on its way
    /// already is not begun again.
    pub fn warm(&self, tenant: Tenant, keys: &[&[u8]], deadline: Millis, now: Millis) -> Warm {
        let id = self.number();
        let mut warm = Warm { id, tenant, pending: Vec::new(), known: 0 };
        for key in keys {
            match self.warm_one(tenant, key, Demand { warm: id, deadline }, now) {
                Some(true) => warm.pending.push((*key).into()),
                Some(false) => {}
                None => continue,
            }
            warm.known += 1;
        }
        warm
    }

    /// Whoever waited has left: what only they wanted, and nobody has begun, is dropped.
    pub fn cool(&self, warm: Warm) {
        for key in &warm.pending {
            let (mut guard, at) = self.find(warm.tenant, key);
            let shard = &mut *guard;
            let Some(at) = at else { continue };
            let row = at.row() as u32;
            if let Some(task) = shard.tasks.get_mut(&row) {
                let before = task.history.wanted.len();
                task.history.wanted.retain(|demand| demand.warm != warm.id);
                let left = before - task.history.wanted.len();
                let unwanted = left > 0 && task.history.wanted.is_empty() && !task.history.hot;
                self.cancelled(shard, left);
                if unwanted {
                    self.cancel_unbegun(shard, at);
                }
                continue;
            }
            let state = shard.states.get_mut(&warm.tenant);
            let Some(candidate) = state.and_then(|state| state.candidates.get_mut(&row)) else { continue };
            let before = candidate.wanted.len();
            candidate.wanted.retain(|demand| demand.warm != warm.id);
            let left = before - candidate.wanted.len();
            let unwanted = left > 0 && candidate.wanted.is_empty() && !candidate.hot;
            self.cancelled(shard, left);
            if unwanted {
                self.settle(shard, at);
            }
        }
    }

    /// Whether it is on its way; `None` if there is no such object.
    fn warm_one(&self, tenant: Tenant, key: &[u8], demand: Demand, now: Millis) -> Option<bool> {
        let hash = self.hash(tenant, key);
        let (mut guard, at) = self.find(tenant, key);
        let shard = &mut *guard;
        shard.tally.warmed.asked += 1;
        let Some(at) = at else {
            shard.tally.warmed.gone += 1;
            return None;
        };
        let moment = self.moment(now);
        let score = shard.states.get(&tenant).map_or(0, |state| state.sketch.score(hash, moment));
        let row = at.row() as u32;
        let object = &mut shard.rows[at.row()];
        if self.in_memory(object) {
            // It will be read: the hand spares it once.
            object.flags.set(Flags::READ_MEMORY);
            shard.tally.warmed.in_time += 1;
            return Some(false);
        }
        self.busy.awaited.fetch_add(1, Ordering::Relaxed);
        let waits = match self.admit(shard, at, &Ask { score, demand: Some(demand), retry: false }, now) {
            Tried::Queued(_) => true,
            Tried::Never(Never::InFlight) => {
                let task = shard.tasks.get_mut(&row);
                task.is_some_and(|task| {
                    task.history.wanted.push(demand);
                    true
                })
            }
            Tried::Later(why) => self.want(shard, at, why, demand, now),
            Tried::Never(_) => false,
        };
        if !waits {
            self.busy.awaited.fetch_sub(1, Ordering::Relaxed);
            shard.tally.warmed.too_late += 1;
        }
        Some(waits)
    }

    /// It is in memory now.
    pub(super) fn warmed(&self, shard: &mut Shard, wanted: &[Demand], now: Millis) {
        let late = wanted.iter().filter(|demand| demand.deadline < now).count();
        shard.tally.warmed.too_late += late as u64;
        shard.tally.warmed.in_time += (wanted.len() - late) as u64;
        self.busy.awaited.fetch_sub(wanted.len(), Ordering::Relaxed);
    }

    /// It will not be.
    pub(super) fn unwanted(&self, shard: &mut Shard, wanted: &[Demand]) {
        shard.tally.warmed.gone += wanted.len() as u64;
        self.busy.awaited.fetch_sub(wanted.len(), Ordering::Relaxed);
    }

    /// Takes out those who waited in vain; how many.
    pub(super) fn late(&self, wanted: &mut smallvec::SmallVec<[Demand; 1]>, now: Millis) -> u64 {
        let before = wanted.len();
        wanted.retain(|demand| demand.deadline >= now);
        let late = before - wanted.len();
        self.busy.awaited.fetch_sub(late, Ordering::Relaxed);
        late as u64
    }

    fn cancelled(&self, shard: &mut Shard, many: usize) {
        shard.tally.warmed.cancelled += many as u64;
        self.busy.awaited.fetch_sub(many, Ordering::Relaxed);
    }
}
