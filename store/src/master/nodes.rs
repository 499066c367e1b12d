//! Nodes come, tell what they have, tell what changes, go and come back.
//!
//! Away -> Recovering -> Exact -> Away or Gone. What a node has is told as a snapshot, then as deltas, each with the node's life
//! (an epoch) and a position. A new life or a gap begins with a snapshot again; until it is complete, nothing of that node
//! is read, and what is not found elsewhere is not known to be absent.

use std::sync::atomic::Ordering;

use super::error::Error;
use super::heat::Heat;
use super::name::{Block, Group, Millis, Name, Node, Pin, Tenant, Tier, Version};
use super::node::{Inside, Member, Space, Standing};
use super::object::{Flags, Object};
use super::options::MAX_NODES;
use super::order::Place;
use super::outbox::Order;
use super::promote::End;
use super::shard::Shard;
use super::{Departs, Master, after};

/// A node that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joining<'a> {
    /// Its stable id: the same after a restart.
    pub id: &'a str,
    /// Which life of it: another after each restart.
    pub life: u64,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of its disk.
    pub disk: u64,
}

/// What a node that joined does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What it is called from now on.
    pub node: Node,
    /// What it is to tell.
    pub inventory: Inventory,
}

/// What a node is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inventory {
    /// Everything.
    Snapshot,
    /// Deltas from this position on.
    From(u64),
}

/// A copy that a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Of which object.
    pub name: Name,
    /// Which version.
    pub version: Version,
    /// How many bytes.
    pub size: u64,
    /// Where.
    pub tier: Tier,
    /// Whether it may be evicted.
    pub pin: Pin,
    /// With what it leaves memory.
    pub group: Group,
    /// Which block it is.
    pub block: Option<Block>,
    /// When it ends by itself, if it does.
    pub ends: Option<Millis>,
    /// Whether the node has not heard that it shows: it was put on a condition, and only a master that decided knows.
    pub doubtful: bool,
}

/// How a master reckons with a copy in a node's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reckoned {
    /// It shows.
    Shown,
    /// It is arriving, or on its way out, or the node is not known well enough to tell: ask again.
    Pending,
    /// Not at all: nobody will ask for it, and no order will drop it.
    No,
}

/// What happened on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A copy was dropped, or a transfer given up: its bytes are free, no late write can land. Also said of what was not there.
    Released {
        /// Which version.
        version: Version,
        /// Where.
        tier: Tier,
    },
    /// An offload is durable.
    Offloaded {
        /// Of which object.
        name: Name,
        /// Which version.
        version: Version,
    },
    /// An offload failed; nothing of it is on disk.
    OffloadFailed {
        /// Of which object.
        name: Name,
        /// Which version.
        version: Version,
    },
    /// A copy is gone that nobody told it to drop: a broken checksum, a lost segment.
    Lost {
        /// Of which object.
        name: Name,
        /// Which version.
        version: Version,
        /// Where.
        tier: Tier,
    },
    /// A copy was found that the master did not order.
    Adopted(Item),
}

/// What an operator sees of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLook {
    /// Its number.
    pub node: Node,
    /// Its stable id.
    pub id: Box<str>,
    /// How far it is known.
    pub standing: Standing,
    /// Nothing new comes to it.
    pub draining: bool,
    /// Which life of it.
    pub life: u64,
    /// The last delta.
    pub position: u64,
    /// Its memory.
    pub memory: Space,
    /// Its disk.
    pub disk: Space,
    /// Transfers into it.
    pub puts: u32,
    /// Puts that wait for space.
    pub waits: usize,
    /// Orders that it has not taken, without those that free something.
    pub orders: usize,
    /// Copies that were dropped and are not confirmed.
    pub leaving: usize,
}

/// Keys of a shard that were removed while not everything was known: 64 KiB or so of them. Then removals must wait.
pub(super) const MAX_BURIED: usize = 1_024;

// === Coming and going ===

impl Master {
    /// These nodes will come: until they have, or are lost, a key that is not found may be theirs.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn expect(&self, ids: &[&str]) -> Result<(), Error> {
        ids.iter().try_for_each(|id| self.named(id).map(drop))
    }

    /// Away or gone -> recovering; or -> exact at once, if it is the same life and nothing was missed.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn join(&self, joining: &Joining<'_>) -> Result<Joined, Error> {
        let member = self.named(joining.id)?;
        let node = member.node;
        let same = {
            let mut inside = member.lock();
            let same = inside.life == joining.life && inside.complete && inside.standing() != Standing::Gone;
            if same {
                Self::resize(&mut inside, joining);
                self.move_to(member, &mut inside, Standing::Exact);
                inside.order_again();
            } else {
                self.move_to(member, &mut inside, Standing::Recovering);
            }
            same.then_some(inside.position + 1)
        };
        self.wake.orders(node);
        if let Some(position) = same {
            self.stir(&self.stirred.holder);
            return Ok(Joined { node, inventory: Inventory::From(position) });
        }
        let new_life = member.lock().life != joining.life;
        self.forget(member, new_life);
        let mut inside = member.lock();
        (inside.life, inside.position) = (joining.life, 0);
        Self::resize(&mut inside, joining);
        Ok(Joined { node, inventory: Inventory::Snapshot })
    }

    /// Recovering -> recovering: a snapshot begins, what was known of the node is forgotten.
    ///
    /// # Errors
    /// [`Error::OldLife`].
    pub fn begin_inventory(&self, node: Node, life: u64) -> Result<(), Error> {
        let member = self.member(node)?;
        Self::of_life(member, life)?;
        {
            self.move_to(member, &mut member.lock(), Standing::Recovering);
        }
        self.forget(member, false);
        member.lock().order_again();
        Ok(())
    }

    /// A part of a snapshot.
    ///
    /// # Errors
    /// [`Error::OldLife`], or [`Error::Stale`] if no snapshot has begun.
    pub fn inventory(&self, node: Node, life: u64, items: &[Item]) -> Result<(), Error> {
        let member = self.member(node)?;
        Self::of_life(member, life)?;
        if member.standing() != Standing::Recovering {
            return Err(Error::Stale);
        }
        for item in items {
            self.adopt(member, item);
        }
        Ok(())
    }

    /// Recovering -> exact: the snapshot is complete, and deltas follow that position.
    ///
    /// # Errors
    /// [`Error::OldLife`], or [`Error::Stale`] if no snapshot has begun.
    pub fn end_inventory(&self, node: Node, life: u64, position: u64, now: Millis) -> Result<(), Error> {
        let member = self.member(node)?;
        Self::of_life(member, life)?;
        {
            let mut inside = member.lock();
            if inside.standing() != Standing::Recovering {
                return Err(Error::Stale);
            }
            inside.position = position;
            self.move_to(member, &mut inside, Standing::Exact);
        }
        self.forget_decided(node);
        self.forget_buried();
        self.stir(&self.stirred.holder);
        self.freed_space(member);
        self.relieve(node, now);
        // While it was recovering it was given none.
        self.wake.orders(node);
        Ok(())
    }

    /// How the master reckons with this copy in a node's memory.
    pub fn reckons_with(&self, node: Node, name: &Name, version: Version) -> Reckoned {
        let Ok(member) = self.member(node) else { return Reckoned::No };
        let (shard, at) = self.find(name.tenant, &name.key);
        let at = at.filter(|at| shard.rows[at.row()].version == version);
        if at.is_some_and(|at| shard.rows[at.row()].copy(node, Tier::Memory).is_some()) {
            return Reckoned::Shown;
        }
        let staged = |at: Place| shard.tasks.get(&(at.row() as u32)).is_some_and(|task| task.target == node);
        let inside = member.lock();
        let pending = at.is_some_and(staged)
            || shard.puts.iter().any(|put| put.version == version)
            || inside.standing() != Standing::Exact
            || inside.leaving.contains_key(&(version, Tier::Memory));
        if pending { Reckoned::Pending } else { Reckoned::No }
    }

    /// From now on, and until [`Master::trust`] is said as often, what is not found is not known to be absent: nodes may come
    /// of which this master has not heard.
    pub fn doubt(&self) {
        self.unsure.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes back one [`Master::doubt`].
    pub fn trust(&self) {
        self.unsure.fetch_sub(1, Ordering::AcqRel);
        self.forget_buried();
    }

    /// Exact -> away: it does not answer. What it has is neither read nor forgotten.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn away(&self, node: Node) -> Result<(), Error> {
        let member = self.member(node)?;
        let mut inside = member.lock();
        if inside.standing() != Standing::Gone {
            self.move_to(member, &mut inside, Standing::Away);
        }
        Ok(())
    }

    /// -> gone: everything that it had is forgotten, and what was under way there is cancelled.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn lost(&self, node: Node) -> Result<(), Error> {
        let member = self.member(node)?;
        self.move_to(member, &mut member.lock(), Standing::Gone);
        self.forget(member, true);
        {
            let mut inside = member.lock();
            let disk: Vec<_> = inside.leaving.keys().copied().collect();
            for (version, tier) in disk {
                inside.released(version, tier);
            }
            inside.outbox.clear();
            inside.space = [Space::default(); 2];
            inside.waits.clear();
        }
        self.wake.space(node);
        self.forget_buried();
        Ok(())
    }

    /// Nothing new comes to it, or again.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn drain(&self, node: Node, draining: bool) -> Result<(), Error> {
        self.member(node)?.lock().draining = draining;
        self.wake.space(node);
        Ok(())
    }

    /// What happened on a node, in the order in which it happened.
    ///
    /// # Errors
    /// [`Error::Gap`] if something was missed: the node is recovering from then on. [`Error::Stale`] if what it is about is gone;
    /// that is harmless, and the position counts.
    pub fn tell(&self, node: Node, life: u64, position: u64, news: &News, now: Millis) -> Result<(), Error> {
        let member = self.member(node)?;
        Self::of_life(member, life)?;
        {
            let mut inside = member.lock();
            if inside.standing() != Standing::Exact {
                return Err(Error::NotExact);
            }
            let expected = inside.position + 1;
            if position != expected {
                self.move_to(member, &mut inside, Standing::Recovering);
                return Err(Error::Gap { expected });
            }
            inside.position = position;
        }
        self.hear(member, news, now)
    }

    /// Orders for a node, of at most so many bytes of copying, or one; what is left over stays.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn take_orders(&self, node: Node, budget: u64) -> Result<Vec<Order>, Error> {
        let member = self.member(node)?;
        let mut inside = member.lock();
        if inside.standing() != Standing::Exact {
            return Ok(Vec::new());
        }
        let orders = inside.outbox.take(budget, |tenant| self.account(tenant).weight());
        drop(inside);
        if orders.iter().any(|order| order.bytes() > 0) {
            self.stir(&self.stirred.slot);
        }
        Ok(orders)
    }

    /// Whether a node has orders to take.
    pub fn has_orders(&self, node: Node) -> bool {
        self.member(node).is_ok_and(|member| !member.lock().outbox.is_empty())
    }

    /// All nodes that were ever named.
    pub fn node_list(&self) -> Vec<NodeLook> {
        let look = |member: &Member| {
            let inside = member.lock();
            NodeLook {
                node: member.node,
                id: member.name.clone(),
                standing: inside.standing(),
                draining: inside.draining,
                life: inside.life,
                position: inside.position,
                memory: inside.space[Tier::Memory.at()],
                disk: inside.space[Tier::Disk.at()],
                puts: inside.puts,
                waits: inside.waits.len(),
                orders: inside.outbox.len(),
                leaving: inside.leaving.len(),
            }
        };
        self.members().map(look).collect()
    }
}

// === What a node tells ===

impl Master {
    fn hear(&self, member: &Member, news: &News, now: Millis) -> Result<(), Error> {
        match news {
            News::Released { version, tier } => {
                let released = member.lock().released(*version, *tier);
                released.ok_or(Error::Stale)?;
                self.freed_space(member);
                return Ok(());
            }
            News::Adopted(item) => self.adopt(member, item),
            News::Offloaded { name, version } => {
                self.with(name, *version, |shard, at| {
                    let here = shard.offloads.get(&(at.row() as u32)).is_some_and(|o| o.node == member.node);
                    if here {
                        self.end_offload(shard, at, true);
                    }
                    here
                })?;
                // A put that waits for its tenant's own objects to leave: this one can now.
                if self.account(name.tenant).quota(Tier::Memory) < u64::MAX {
                    self.wake.space(member.node);
                }
            }
            News::OffloadFailed { name, version } => {
                self.with(name, *version, |shard, at| {
                    let here = shard.offloads.get(&(at.row() as u32)).is_some_and(|o| o.node == member.node);
                    if here {
                        self.offload_failed(shard, at);
                    }
                    here
                })?;
            }
            News::Lost { name, version, tier } => {
                self.with(name, *version, |shard, at| {
                    let there =
                        shard.rows.get(at.row()).is_some_and(|o| o.copy(member.node, *tier).is_some());
                    if there {
                        shard.tally.moves.lost += 1;
                        self.lose(shard, at, member, *tier, Departs::Vanished);
                        self.erase_if_empty(shard, at);
                    }
                    there
                })?;
            }
        }
        // What is on disk now can leave memory; what puts wait for may be that.
        self.relieve(member.node, now);
        Ok(())
    }

    fn with(
        &self,
        name: &Name,
        version: Version,
        act: impl FnOnce(&mut Shard, Place) -> bool,
    ) -> Result<(), Error> {
        let (mut shard, at) = self.find(name.tenant, &name.key);
        let at = at.filter(|at| shard.rows[at.row()].version == version).ok_or(Error::Stale)?;
        if act(&mut shard, at) { Ok(()) } else { Err(Error::Stale) }
    }

    /// A node has a copy: it is readable if it is of the newest version, and dropped if it is not. One that is known is not
    /// counted twice.
    fn adopt(&self, member: &Member, item: &Item) {
        self.next.fetch_max(after(item.version), Ordering::Relaxed);
        let Name { tenant, ref key } = item.name;
        if usize::from(tenant.0) >= self.tenants.len() || item.size > u64::from(u32::MAX) {
            return;
        }
        if member.lock().leaving.contains_key(&(item.version, item.tier)) {
            return;
        }
        let hash = self.hash(tenant, key);
        let at = self.shard_of(hash);
        let mut guard = self.shards[at].lock();
        let shard = &mut *guard;
        let buried = shard.buried.get(&item.name).is_some_and(|removed| *removed >= item.version);
        let known = shard.find(hash, tenant, key);
        let newest = known.map(|row| shard.rows[row as usize].version);
        // Whether its condition held only the master knows that decided: one that did not takes it for nothing.
        let undecided = item.doubtful
            && newest != Some(item.version)
            && !shard.decided.contains(&(member.node, item.version));
        if undecided || buried || newest.is_some_and(|newest| newest > item.version) {
            let mut inside = member.lock();
            inside.drop_copy(item.name.clone(), item.version, item.tier, item.size);
            return self.wake.orders(member.node);
        }
        let row = match known {
            Some(row) if newest == Some(item.version) => {
                // A copy in memory does not know of a life that was kept; that on disk does.
                if let Some(ends) = item.ends.filter(|_| shard.lives.of(row).is_none()) {
                    self.lives_until(shard, row, ends);
                }
                row
            }
            _ => {
                if let Some(row) = known {
                    self.erase(shard, Place::new(at, row as usize), Departs::Ordered);
                }
                let row = shard.insert(hash, Object::of(item), |object| self.hash_of(object));
                let place = Place::new(at, row as usize);
                self.groups.join(&shard.rows[row as usize], place);
                if let Some(ends) = item.ends {
                    self.lives_until(shard, row, ends);
                }
                row
            }
        };
        let place = Place::new(at, row as usize);
        if shard.rows[row as usize].copy(member.node, item.tier).is_some() {
            return;
        }
        // Whatever was under way to make this copy is no longer needed; what it holds is dropped under the same name, so
        // the copy itself counts as that.
        if item.tier == Tier::Disk && shard.offloads.get(&row).is_some_and(|o| o.node == member.node) {
            return self.end_offload(shard, place, true);
        }
        if item.tier == Tier::Memory && shard.tasks.get(&row).is_some_and(|t| t.target == member.node) {
            return;
        }
        if item.doubtful {
            shard.rows[row as usize].flags.set(Flags::DECIDED);
        }
        self.gain(shard, place, member, item.tier, false);
        if item.tier == Tier::Memory {
            self.settle(shard, place);
        }
    }

    /// Everything that a node had is forgotten. In a new life its memory is empty and nothing is under way; what it was told to
    /// drop from disk it is told again.
    fn forget(&self, member: &Member, new_life: bool) {
        let node = member.node;
        for (at, shard) in self.shards.iter().enumerate() {
            let mut guard = shard.lock();
            let shard = &mut *guard;
            while let Some(index) = shard.puts.iter().position(|put| put.node == node) {
                self.displace(shard, at, index);
            }
            let of_task = |(row, task): (&u32, &super::promote::Task)| {
                (task.holder == node || task.target == node).then_some(*row)
            };
            let mut rows: Vec<u32> = shard.tasks.iter().filter_map(of_task).collect();
            rows.sort_unstable();
            for row in rows {
                self.end_task(shard, Place::new(at, row as usize), End::Lost(node));
            }
            let here = |object: &Object| object.copies.iter().any(|copy| copy.node == node);
            let rows: Vec<usize> = shard.rows.iter().filter(|(_, o)| here(o)).map(|(row, _)| row).collect();
            for row in rows {
                let place = Place::new(at, row);
                let object = &shard.rows[row];
                if !new_life && object.flags.has(Flags::DECIDED) && object.copy(node, Tier::Memory).is_some()
                {
                    shard.decided.insert((node, object.version));
                }
                for tier in Tier::ALL {
                    self.lose(shard, place, member, tier, Departs::Vanished);
                }
                self.erase_if_empty(shard, place);
            }
        }
        if new_life {
            self.forget_decided(node);
        }
        let mut inside = member.lock();
        inside.complete = false;
        if new_life {
            inside.outbox.clear();
            let memory: Vec<_> =
                inside.leaving.keys().filter(|(_, tier)| *tier == Tier::Memory).copied().collect();
            for (version, tier) in memory {
                inside.released(version, tier);
            }
            inside.order_again();
        }
    }

    fn named(&self, id: &str) -> Result<&Member, Error> {
        let mut names = self.node_names.write();
        if let Some(node) = names.get(id) {
            return self.member(*node);
        }
        let node = Node(names.len() as u16);
        let too_many = Error::TooMany { what: "nodes", most: MAX_NODES };
        let slot = self.nodes.get(node.at()).ok_or(too_many)?;
        // Before anybody can know of it: it may have anything.
        self.unsure.fetch_add(1, Ordering::AcqRel);
        let member = slot.get_or_init(|| Member::new(node, id));
        names.insert(id.into(), node);
        Ok(member)
    }

    fn of_life(member: &Member, life: u64) -> Result<(), Error> {
        let inside = member.lock();
        let known = inside.life == life && inside.standing() != Standing::Gone;
        if known { Ok(()) } else { Err(Error::OldLife) }
    }

    fn resize(inside: &mut Inside, joining: &Joining<'_>) {
        inside.space(Tier::Memory).capacity = joining.memory;
        inside.space(Tier::Disk).capacity = joining.disk;
    }

    fn move_to(&self, member: &Member, inside: &mut Inside, to: Standing) {
        let unsure = |standing| matches!(standing, Standing::Away | Standing::Recovering);
        // First more unsure, then less: nobody sees a node that is neither read nor waited for.
        if unsure(to) {
            self.unsure.fetch_add(1, Ordering::AcqRel);
        }
        if to == Standing::Exact {
            inside.complete = true;
        }
        if to == Standing::Recovering {
            inside.complete = false;
        }
        let from = member.set(inside, to);
        if unsure(from) {
            self.unsure.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Remembers that a key was removed, as long as a node that is not known yet may bring it back.
    pub(super) fn bury(&self, shard: &mut Shard, tenant: Tenant, key: &[u8]) -> Result<(), Error> {
        if shard.buried.len() >= MAX_BURIED {
            return Err(Error::NotExact);
        }
        shard.buried.insert(Name { tenant, key: key.into() }, Version(self.number()));
        Ok(())
    }

    /// A node has told everything, or comes no more: what was decided about copies that it doubts is said.
    fn forget_decided(&self, node: Node) {
        for shard in &self.shards {
            shard.lock().decided.retain(|(of, _)| *of != node);
        }
    }

    fn forget_buried(&self) {
        if !self.unsure() {
            self.shards.iter().for_each(|shard| shard.lock().buried.clear());
        }
    }
}

impl Inside {
    /// Everything that is on its way out is ordered again: the order, or its answer, may have been lost.
    fn order_again(&mut self) {
        self.outbox.withdraw_drops();
        let mut leaving: Vec<_> = self
            .leaving
            .iter()
            .map(|((version, tier), leaving)| (*version, *tier, leaving.name.clone()))
            .collect();
        leaving.sort_unstable();
        for (version, tier, name) in leaving {
            self.outbox.urgent(Order::Drop { name, version, tier });
        }
    }
}

impl Object {
    fn of(item: &Item) -> Self {
        Self {
            key: item.name.key.clone(),
            version: item.version,
            copies: smallvec::SmallVec::new(),
            lease: Millis(0),
            block: item.block.map(Box::new),
            size: item.size as u32,
            heat: Heat::default(),
            group: item.group,
            tenant: item.name.tenant,
            pin: item.pin,
            flags: Flags::default(),
        }
    }
}
