//! Offloading: memory -> disk on the same node, ordered at once.

use std::sync::atomic::Ordering;

use super::name::{Millis, Tier};
use super::node::{Member, Standing};
use super::object::Flags;
use super::options::Offload;
use super::order::Place;
use super::outbox::{Copying, Order};
use super::shard::{Offloading, Shard};
use super::{Master, tick};

impl Master {
    /// What was just committed goes to disk, if it is to be there at once.
    pub(super) fn offload_committed(&self, shard: &mut Shard, at: Place, node: &Member, now: Millis) {
        if self.options.offload == Offload::AtCommit && !self.offload(shard, at, node, now) {
            Self::offload_refused(shard, node);
        }
    }

    /// Counts it, unless the node has no disk at all: that is how it was set up, and no trouble.
    pub(super) fn offload_refused(shard: &mut Shard, node: &Member) {
        if node.lock().space[Tier::Disk.at()].capacity > 0 {
            shard.tally.moves.offloads_refused += 1;
        }
    }

    /// In memory -> being offloaded; false if there is no room on disk or in the line of orders. True if it is under way.
    pub(super) fn offload(&self, shard: &mut Shard, at: Place, node: &Member, now: Millis) -> bool {
        let row = at.row() as u32;
        let Some(object) = shard.rows.get_mut(at.row()) else { return false };
        if object.flags.has(Flags::OFFLOADING) {
            return true;
        }
        let bytes = object.bytes();
        let account = self.account(object.tenant);
        if !account.charge(Tier::Disk, bytes) {
            return false;
        }
        let deadline = now.plus(self.options.offload_patience);
        let order = Order::Offload(Copying {
            name: object.name(),
            version: object.version,
            size: bytes,
            deadline: Some(deadline),
            heat: object.heat.score(self.moment(now)),
            ends: shard.lives.of(row),
        });
        let mut inside = node.lock();
        // A node that is drained takes nothing new; what it has in memory is not that.
        // Something empty fits anywhere, but where there is no disk.
        let disk = inside.space[Tier::Disk.at()];
        let fits = inside.standing() == Standing::Exact
            && disk.capacity > 0
            && disk.free() >= bytes
            && !inside.leaving.contains_key(&(object.version, Tier::Disk));
        let slip = fits.then(|| inside.outbox.push(order, self.options.orders)).flatten();
        let Some(slip) = slip else {
            account.give(Tier::Disk, bytes);
            return false;
        };
        inside.space(Tier::Disk).reserved += bytes;
        drop(inside);
        object.flags.set(Flags::OFFLOADING);
        shard.offloads.insert(row, Offloading { node: node.node, deadline, slip });
        shard.tally.moves.offloads += 1;
        self.busy.offloads.fetch_add(1, Ordering::Relaxed);
        self.wake.orders(node.node);
        true
    }

    /// Being offloaded -> on disk too (`done`), or -> not. An order that the node has not taken is taken back; otherwise what it
    /// may have written is dropped.
    pub(super) fn end_offload(&self, shard: &mut Shard, at: Place, done: bool) {
        let Some(ended) = shard.offloads.remove(&(at.row() as u32)) else { return };
        self.busy.offloads.fetch_sub(1, Ordering::Relaxed);
        let Some(object) = shard.rows.get_mut(at.row()) else { return };
        object.flags.clear(Flags::OFFLOADING);
        let Ok(node) = self.member(ended.node) else { return };
        if done {
            shard.tally.moves.offloaded += 1;
            return self.gain(shard, at, node, Tier::Disk, true);
        }
        shard.tally.moves.offloads_failed += 1;
        self.account(object.tenant).give(Tier::Disk, object.bytes());
        let mut inside = node.lock();
        inside.space(Tier::Disk).reserved -= object.bytes();
        if !inside.outbox.withdraw(ended.slip) {
            inside.drop_copy(object.name(), object.version, Tier::Disk, object.bytes());
            drop(inside);
            self.wake.orders(ended.node);
        }
    }

    /// The holder says that it failed: nothing was written that could still land.
    pub(super) fn offload_failed(&self, shard: &mut Shard, at: Place) {
        let Some(ended) = shard.offloads.remove(&(at.row() as u32)) else { return };
        self.busy.offloads.fetch_sub(1, Ordering::Relaxed);
        shard.tally.moves.offloads_failed += 1;
        let Some(object) = shard.rows.get_mut(at.row()) else { return };
        object.flags.clear(Flags::OFFLOADING);
        self.account(object.tenant).give(Tier::Disk, object.bytes());
        let Ok(node) = self.member(ended.node) else { return };
        let mut inside = node.lock();
        inside.space(Tier::Disk).reserved -= object.bytes();
        inside.outbox.withdraw(ended.slip);
    }

    /// Offloads that took too long are given up.
    pub(super) fn reap_offloads(&self, shard: &mut Shard, at: usize, now: Millis) -> usize {
        let late = shard.offloads.iter().filter(|(_, offload)| offload.deadline <= now);
        let mut rows: tick::Rows = late.map(|(row, _)| *row).collect();
        rows.sort_unstable();
        for row in &rows {
            self.end_offload(shard, Place::new(at, *row as usize), false);
        }
        rows.len()
    }
}
