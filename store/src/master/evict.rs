//! Making room: which copies leave, a step at a time.
//!
//! A step looks at one copy: a few locks that are held for a few hundred nanoseconds each. Nobody ever waits for more than that.

use super::name::{Millis, Node, Pin, Tenant, Tier, Version};
use super::node::{Member, Next};
use super::object::{Flags, List};
use super::options::Offload;
use super::order::Place;
use super::shard::Shard;
use super::{Departs, Master};

/// What is to leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    /// So many bytes.
    pub(super) bytes: u64,
    /// Of this tenant only.
    pub(super) only: Option<Tenant>,
    /// Only what was read less often lately.
    pub(super) colder: Option<u8>,
}

/// Whether a copy can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    /// Its disk copy is to be written first.
    Offload,
    Leaves,
}

impl Master {
    /// Makes room on a node as far as its watermarks and the puts that wait ask for it, in a bounded number of steps; the
    /// bytes that are on their way out now.
    pub fn relieve(&self, node: Node, now: Millis) -> u64 {
        let Ok(member) = self.member(node) else { return 0 };
        let mut freed = 0;
        for tier in Tier::ALL {
            let marks = (self.options.high, self.options.low);
            let bytes = member.lock().excess(tier, marks, now);
            freed += self.evict(member, tier, Goal { bytes, only: None, colder: None }, now);
        }
        freed
    }

    /// Lets so many bytes more leave a node's memory: what is free there lies in too many parts.
    pub fn make_room(&self, node: Node, bytes: u64, now: Millis) -> u64 {
        let Ok(member) = self.member(node) else { return 0 };
        self.evict(member, Tier::Memory, Goal { bytes, only: None, colder: None }, now)
    }

    /// Lets copies leave until the goal is met or enough was looked at; how many bytes leave.
    pub(super) fn evict(&self, node: &Member, tier: Tier, goal: Goal, now: Millis) -> u64 {
        let mut freed = 0;
        let mut steps = self.options.steps;
        while freed < goal.bytes && steps > 0 {
            steps -= 1;
            let next = node.lock().next(tier, goal.only, |tenant| self.account(tenant).weight());
            let Some(next) = next else { break };
            freed += self.consider(node, tier, next, goal, now);
        }
        freed
    }

    /// The hand is at a copy: it leaves, or stays.
    fn consider(&self, node: &Member, tier: Tier, next: Next, goal: Goal, now: Millis) -> u64 {
        let mut guard = self.shard(next.at);
        let shard = &mut *guard;
        let at = next.at;
        let Some(object) = shard.rows.get_mut(at.row()) else { return 0 };
        let copy = object.copy(node.node, tier).map(|index| object.copies[index]);
        // Since the hand was there, the copy may have left.
        if object.version.0 as u32 != next.version || copy.is_none_or(|copy| copy.link != next.link) {
            return 0;
        }
        let spared =
            object.flags.clear(Flags::read(tier)) && next.list == List::Main && goal.colder.is_none();
        if spared || goal.colder.is_some_and(|heat| object.heat.score(self.moment(now)) >= heat) {
            return 0;
        }
        let grouped = tier == Tier::Memory && object.group != super::name::Group::NONE;
        match self.verdict(shard, at, node.node, tier, now) {
            Verdict::Stays => 0,
            Verdict::Offload => {
                if !self.offload(shard, at, node, now) {
                    // It cannot be written: what is needed now goes before what may be needed.
                    Self::offload_refused(shard, node);
                    return self.evict_one(shard, at, node, tier);
                }
                0
            }
            Verdict::Leaves if grouped => {
                let of = (shard.rows[at.row()].tenant, shard.rows[at.row()].group);
                drop(guard);
                self.evict_group(of, node, now)
            }
            Verdict::Leaves => self.evict_one(shard, at, node, tier),
        }
    }

    /// Whether the copy of an object on a node can leave.
    fn verdict(&self, shard: &Shard, at: Place, node: Node, tier: Tier, now: Millis) -> Verdict {
        let object = &shard.rows[at.row()];
        let row = at.row() as u32;
        if object.pin == Pin::Hard || object.lease > now {
            return Verdict::Stays;
        }
        match tier {
            Tier::Disk if shard.tasks.get(&row).is_some_and(|task| task.holder == node) => Verdict::Stays,
            Tier::Disk => Verdict::Leaves,
            Tier::Memory if shard.offloads.get(&row).is_some_and(|o| o.node == node) => Verdict::Stays,
            Tier::Memory => {
                let elsewhere =
                    object.copies.iter().any(|c| (c.node, c.tier) != (node, tier) && self.readable(c.node));
                let earned = object.heat.score(self.moment(now)) >= self.options.offload_heat;
                let may = self.options.offload != Offload::Off && earned;
                if elsewhere || !may { Verdict::Leaves } else { Verdict::Offload }
            }
        }
    }

    fn evict_one(&self, shard: &mut Shard, at: Place, node: &Member, tier: Tier) -> u64 {
        let bytes = self.lose(shard, at, node, tier, Departs::Ordered);
        match tier {
            Tier::Memory => {
                shard.tally.moves.evicted_memory += 1;
                shard.tally.moves.evicted_memory_bytes += bytes;
            }
            Tier::Disk => shard.tally.moves.evicted_disk += 1,
        }
        if self.erase_if_empty(shard, at) {
            shard.tally.moves.evicted_last += 1;
        }
        bytes
    }

    /// All members of a group leave memory, or none does; bytes that leave this node.
    ///
    /// While it goes on, nobody is told of the members' copies in memory, so no lease or pin can come between.
    fn evict_group(&self, of: (Tenant, super::name::Group), here: &Member, now: Millis) -> u64 {
        let members = self.groups.members(of.0, of.1);
        if !self.all_can_leave(&members, now) || !self.groups.begin(of.0, of.1) {
            return 0;
        }
        let mut freed = 0;
        if self.all_can_leave(&members, now) {
            for (at, version) in members {
                let mut shard = self.shard(at);
                if shard.object(at.row() as u32, version).is_none() {
                    continue;
                }
                for node in Self::memory_of(&shard, at) {
                    let Ok(member) = self.member(node) else { continue };
                    let bytes = self.evict_one(&mut shard, at, member, Tier::Memory);
                    freed += if node == here.node { bytes } else { 0 };
                }
            }
        }
        self.groups.end(of.0, of.1);
        freed
    }

    /// Whether every copy in memory of every member can leave; what needs a disk copy first is offloaded.
    fn all_can_leave(&self, members: &[(Place, Version)], now: Millis) -> bool {
        let mut all = true;
        for (at, version) in members {
            let mut shard = self.shard(*at);
            if shard.object(at.row() as u32, *version).is_none() {
                continue;
            }
            for node in Self::memory_of(&shard, *at) {
                let Ok(member) = self.member(node) else { continue };
                all &= match self.verdict(&shard, *at, node, Tier::Memory, now) {
                    Verdict::Leaves => true,
                    Verdict::Stays => false,
                    Verdict::Offload => !self.offload(&mut shard, *at, member, now),
                };
            }
        }
        all
    }

    fn memory_of(shard: &Shard, at: Place) -> smallvec::SmallVec<[Node; 4]> {
        let object = shard.rows.get(at.row());
        object.into_iter().flat_map(|object| object.in_tier(Tier::Memory)).map(|copy| copy.node).collect()
    }
}
