//! Putting: space is reserved, a node transfers, the object shows as a whole or not at all.

use std::sync::atomic::Ordering;

use super::error::{Error, Refused, Wait, WaitFor};
use super::evict::Goal;
use super::heat::Heat;
use super::name::{Block, Group, Millis, Name, Node, Pin, Tenant, Tier, Version};
use super::node::{Inside, Member, Waiting};
use super::object::{Flags, Object};
use super::options::MAX_GROUP;
use super::order::Place;
use super::outbox::Order;
use super::shard::Shard;
use super::{Departs, Master};

/// What is to be put.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Whose.
    pub tenant: Tenant,
    /// Under which key.
    pub key: &'a [u8],
    /// How many bytes.
    pub size: u64,
    /// Where it should be put; elsewhere if that node takes nothing.
    pub prefer: Option<Node>,
    /// Whether it may be evicted.
    pub pin: Pin,
    /// With what it leaves memory.
    pub group: Group,
    /// Which block it is.
    pub block: Option<Block>,
    /// Only if nothing is there yet.
    pub only_new: bool,
    /// Its place in the line, if it waited.
    pub ticket: Option<Ticket>,
}

/// The right to transfer and commit one put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PutId {
    shard: u16,
    version: Version,
}

/// Space for a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// What to commit or revoke.
    pub put: PutId,
    /// Where to put it.
    pub node: Node,
}

/// A place in the line for space on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    node: Node,
    number: u64,
}

/// On what terms a put shows, decided when it is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// On what condition.
    pub when: When,
    /// For how long.
    pub life: Life,
    /// Which block it is; `None` leaves what was said when space was reserved.
    pub block: Option<Block>,
    /// Whoever commits drops what is replaced in the memory of the same node without being ordered to, and tells when it is
    /// free: see [`Committed::Replaced`].
    pub drops: bool,
}

/// A condition of a put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// None.
    #[default]
    Always,
    /// Nothing is there under its key.
    Absent,
    /// Something is.
    Present,
}

/// How long an object lives if nothing else removes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Until it is evicted.
    #[default]
    Open,
    /// Until then.
    Until(Millis),
    /// As long as what it replaces would have.
    Kept,
}

/// What became of a put that was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is readable.
    Stored(Version),
    /// It is readable; and this older version in the same memory is to be dropped by whoever committed.
    Replaced {
        /// What is readable.
        version: Version,
        /// What is to be dropped.
        old: Version,
    },
    /// One that began later was committed first: it is as if this one had been there just before. Its bytes are free.
    Overtaken,
    /// The condition did not hold. Its bytes are free.
    Unchanged,
}

/// A put under way.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) version: Version,
    pub(super) tenant: Tenant,
    pub(super) key: Box<[u8]>,
    pub(super) size: u32,
    pub(super) node: Node,
    pub(super) since: Millis,
    pin: Pin,
    group: Group,
    block: Option<Box<Block>>,
}

impl<'a> Put<'a> {
    /// A put with nothing special about it.
    pub fn new(tenant: Tenant, key: &'a [u8], size: u64) -> Self {
        let (pin, group) = (Pin::None, Group::NONE);
        Self { tenant, key, size, prefer: None, pin, group, block: None, only_new: false, ticket: None }
    }
}

impl Ticket {
    /// What it is called where it is only handed on.
    pub(crate) fn raw(self) -> (u16, u64) {
        (self.node.0, self.number)
    }

    /// What [`Ticket::raw`] was of.
    pub(crate) fn of((node, number): (u16, u64)) -> Self {
        Self { node: Node(node), number }
    }
}

impl PutId {
    /// What it is called where it is only handed on.
    pub(crate) fn raw(self) -> (u16, u64) {
        (self.shard, self.version.0)
    }

    /// What [`PutId::raw`] was of. One that never was is [`Error::Stale`] wherever it is used.
    pub(crate) fn of((shard, version): (u16, u64)) -> Self {
        Self { shard, version: Version(version) }
    }

    /// What the object will be.
    pub fn version(self) -> Version {
        self.version
    }
}

// === Moves ===

impl Master {
    /// -> under way: the tenant is charged, the bytes and a slot are taken.
    ///
    /// # Errors
    /// [`Refused::Wait`] if it is worth asking again; eviction has been started then.
    pub fn reserve(&self, put: &Put<'_>, now: Millis) -> Result<Reserved, Refused> {
        let most = self.options.largest.min(self.account(put.tenant).quota(Tier::Memory));
        if put.size > most {
            return Err(Refused::TooLarge { size: put.size, most });
        }
        if put.group != Group::NONE && self.groups.len(put.tenant, put.group) >= MAX_GROUP {
            return Err(Error::TooMany { what: "members of a group", most: MAX_GROUP }.into());
        }
        let node = self.choose(put, now)?;
        self.keep_quota(put, node, now);
        let reserved = self.reserve_at(put, node, now);
        if reserved.is_err() {
            self.relieve(node, now);
        }
        reserved
    }

    /// Under way -> readable, and what was there under the key is gone; or, if its condition does not hold, nothing, and its bytes
    /// are free at once.
    ///
    /// Puts of one key may be under way at the same time: the one that began last is the one that stays.
    ///
    /// # Errors
    /// [`Error::Stale`] if the put was displaced or revoked: the node drops what it has and tells that it is free.
    pub fn commit(&self, put: PutId, terms: &Terms, now: Millis) -> Result<Committed, Error> {
        let mut guard = self.shards.get(usize::from(put.shard)).ok_or(Error::Stale)?.lock();
        let shard = &mut *guard;
        let index = shard.puts.iter().position(|w| w.version == put.version).ok_or(Error::Stale)?;
        let node = self.member(shard.puts[index].node)?;
        let hash = self.hash(shard.puts[index].tenant, &shard.puts[index].key);
        let old = shard.find(hash, shard.puts[index].tenant, &shard.puts[index].key);
        let old = old.map(|row| Place::new(put.shard.into(), row as usize));
        let old = old.filter(|at| !self.bury_if_over(shard, *at, now));
        let newer = old.is_some_and(|at| shard.rows[at.row()].version > put.version);
        let shows = match terms.when {
            When::Always => true,
            When::Absent => old.is_none(),
            When::Present => old.is_some(),
        };
        let mut writing = shard.puts.swap_remove(index);
        self.busy.puts.fetch_sub(1, Ordering::Relaxed);
        if newer || !shows {
            self.give_back(shard, &writing);
            drop(guard);
            self.freed_space(node);
            return Ok(if shows { Committed::Overtaken } else { Committed::Unchanged });
        }
        let ends = match terms.life {
            Life::Open => None,
            Life::Until(ends) => Some(ends),
            Life::Kept => old.and_then(|at| shard.lives.of(at.row() as u32)),
        };
        let mut dropped = None;
        if let Some(at) = old {
            shard.tally.moves.removed += 1;
            let object = &shard.rows[at.row()];
            if terms.drops && object.copy(node.node, Tier::Memory).is_some() {
                dropped = Some(object.version);
                self.lose(shard, at, node, Tier::Memory, Departs::Handed);
            }
            self.erase(shard, at, Departs::Ordered);
        }
        if let Some(block) = terms.block {
            writing.block = Some(Box::new(block));
        }
        let object = writing.into_object(now, self);
        let row = shard.insert(hash, object, |object| self.hash_of(object));
        let at = Place::new(put.shard.into(), row as usize);
        if terms.when != When::Always {
            shard.rows[at.row()].flags.set(Flags::DECIDED);
        }
        self.gain(shard, at, node, Tier::Memory, true);
        node.lock().puts -= 1;
        self.groups.join(&shard.rows[at.row()], at);
        if let Some(ends) = ends {
            self.lives_until(shard, row, ends);
        }
        shard.tally.moves.committed += 1;
        self.offload_committed(shard, at, node, now);
        drop(guard);
        self.freed_slot(node);
        let version = put.version;
        Ok(dropped.map_or(Committed::Stored(version), |old| Committed::Replaced { version, old }))
    }

    /// Under way -> gone, told by whoever has the buffer: no late write can land, and its bytes are free at once.
    ///
    /// # Errors
    /// [`Error::Stale`] if the put was displaced before.
    pub fn revoke(&self, put: PutId) -> Result<(), Error> {
        let mut shard = self.shards.get(usize::from(put.shard)).ok_or(Error::Stale)?.lock();
        let index = shard.puts.iter().position(|w| w.version == put.version).ok_or(Error::Stale)?;
        let writing = shard.puts.swap_remove(index);
        self.busy.puts.fetch_sub(1, Ordering::Relaxed);
        self.give_back(&mut shard, &writing);
        drop(shard);
        self.freed_space(self.member(writing.node)?);
        Ok(())
    }

    /// What a put held that will not be.
    fn give_back(&self, shard: &mut Shard, writing: &Writing) {
        shard.tally.moves.revoked += 1;
        self.account(writing.tenant).give(Tier::Memory, writing.size.into());
        if let Ok(node) = self.member(writing.node) {
            let mut inside = node.lock();
            inside.space(Tier::Memory).reserved -= u64::from(writing.size);
            inside.puts -= 1;
        }
    }

    /// Under way -> displaced, told by somebody who has not the buffer: its bytes are free when the node says so.
    ///
    /// # Errors
    /// [`Error::Stale`] if it was displaced before.
    pub fn abandon(&self, put: PutId) -> Result<(), Error> {
        let mut shard = self.shards.get(usize::from(put.shard)).ok_or(Error::Stale)?.lock();
        let index = shard.puts.iter().position(|w| w.version == put.version).ok_or(Error::Stale)?;
        self.displace(&mut shard, put.shard.into(), index);
        Ok(())
    }

    /// Gives up a place in the line for space.
    pub fn forget_ticket(&self, ticket: Ticket) {
        if let Ok(node) = self.member(ticket.node) {
            node.lock().waits.retain(|waiting| waiting.ticket != ticket.number);
            self.wake.space(ticket.node);
        }
    }

    /// Under way -> displaced: late writes may still land, so the bytes leave, and are free when the node says so.
    pub(super) fn displace(&self, shard: &mut Shard, at: usize, index: usize) {
        let writing = shard.puts.swap_remove(index);
        shard.tally.moves.displaced += 1;
        self.busy.puts.fetch_sub(1, Ordering::Relaxed);
        let bytes = u64::from(writing.size);
        self.account(writing.tenant).give(Tier::Memory, bytes);
        let Ok(node) = self.member(writing.node) else { return };
        let name = Name { tenant: writing.tenant, key: writing.key };
        let put = PutId { shard: at as u16, version: writing.version };
        {
            let mut inside = node.lock();
            inside.space(Tier::Memory).reserved -= bytes;
            inside.puts -= 1;
            inside.leave(name.clone(), writing.version, Tier::Memory, bytes);
            inside.outbox.urgent(Order::CancelPut { name, put });
        }
        self.wake.orders(writing.node);
        self.freed_slot(node);
    }
}

// === How a reservation is decided ===

impl Master {
    /// Where to: where it is wanted or has waited, else where most is free.
    fn choose(&self, put: &Put<'_>, now: Millis) -> Result<Node, Refused> {
        let wanted = put.ticket.map(|ticket| ticket.node).or(put.prefer);
        if let Some(member) = wanted.and_then(|node| self.member(node).ok()) {
            let inside = member.lock();
            if inside.takes() && inside.space[0].capacity >= put.size {
                return Ok(member.node);
            }
        }
        let mut best: Option<(bool, u64, Node)> = None;
        let mut largest = 0;
        for member in self.members().filter(|member| member.is_exact()) {
            let mut inside = member.lock();
            let space = inside.space[0];
            if !inside.takes() {
                continue;
            }
            largest = largest.max(space.capacity);
            if space.capacity >= put.size {
                let free = space.free().saturating_sub(inside.waited(None, now));
                let offer =
                    (free >= put.size, space.capacity - space.settled().min(space.capacity), member.node);
                best = best.max(Some(offer));
            }
        }
        match best {
            Some((.., node)) => Ok(node),
            None if largest == 0 => Err(Refused::NoNode),
            None => Err(Refused::TooLarge { size: put.size, most: largest }),
        }
    }

    /// A tenant that would have too much lets its own objects leave, and nobody else's.
    fn keep_quota(&self, put: &Put<'_>, node: Node, now: Millis) {
        let account = self.account(put.tenant);
        let here = self.member(node).into_iter();
        for member in here.chain(self.members().filter(|member| member.node != node)) {
            let wanted = account.used(Tier::Memory).saturating_add(put.size);
            let bytes = wanted.saturating_sub(account.quota(Tier::Memory));
            if bytes == 0 {
                return;
            }
            self.evict(member, Tier::Memory, Goal { bytes, only: Some(put.tenant), colder: None }, now);
        }
    }

    /// Takes the bytes and a slot of that node.
    fn reserve_at(&self, put: &Put<'_>, node: Node, now: Millis) -> Result<Reserved, Refused> {
        let hash = self.hash(put.tenant, put.key);
        let at = self.shard_of(hash);
        let mut guard = self.shards[at].lock();
        let shard = &mut *guard;
        if let Some(row) = shard.find(hash, put.tenant, put.key).filter(|_| put.only_new) {
            let at = Place::new(at, row as usize);
            if !self.bury_if_over(shard, at, now) {
                return Err(Refused::Exists(shard.rows[at.row()].version));
            }
        }
        if shard.rows.len() + shard.puts.len() >= Place::ROWS {
            return Err(Error::TooMany { what: "objects in a shard", most: Place::ROWS }.into());
        }
        let member = self.member(node)?;
        let account = self.account(put.tenant);
        if !account.charge(Tier::Memory, put.size) {
            let until = now.plus(self.options.wait_patience);
            let wait = Wait { what: WaitFor::Quota, node: Some(node), ticket: put.ticket, until };
            return Err(Refused::Wait(wait));
        }
        if let Err(refused) = self.take_space(&mut member.lock(), node, put, now) {
            account.give(Tier::Memory, put.size);
            return Err(refused);
        }
        let version = Version(self.number());
        shard.puts.push(Writing {
            version,
            tenant: put.tenant,
            key: put.key.into(),
            size: put.size as u32,
            node,
            since: now,
            pin: put.pin,
            group: put.group,
            block: put.block.map(Box::new),
        });
        shard.tally.moves.reserved += 1;
        self.busy.puts.fetch_add(1, Ordering::Relaxed);
        Ok(Reserved { put: PutId { shard: at as u16, version }, node })
    }

    /// Bytes and a slot, unless others came before.
    fn take_space(&self, inside: &mut Inside, node: Node, put: &Put<'_>, now: Millis) -> Result<(), Refused> {
        if !inside.takes() {
            return Err(Refused::NoNode);
        }
        let waits_here = put.ticket.filter(|ticket| ticket.node == node).map(|ticket| ticket.number);
        let ahead = inside.waited(waits_here, now);
        let known = inside.waits.iter().find(|waiting| Some(waiting.ticket) == waits_here).copied();
        let space = inside.space[0];
        let fits = space.free() >= ahead.saturating_add(put.size);
        if fits && inside.puts < self.options.slots {
            inside.waits.retain(|waiting| Some(waiting.ticket) != waits_here);
            inside.space(Tier::Memory).reserved += put.size;
            inside.puts += 1;
            return Ok(());
        }
        let what = if fits { WaitFor::Slot } else { WaitFor::Space };
        let waiting = match known {
            Some(waiting) => waiting,
            // It waited as long as it may.
            None if waits_here.is_some() => return Err(Refused::Full),
            None if inside.waits.len() >= self.options.waits => return Err(Refused::Full),
            None => {
                let until = now.plus(self.options.wait_patience);
                let waiting = Waiting { ticket: self.number(), bytes: put.size, until };
                inside.waits.push_back(waiting);
                waiting
            }
        };
        let ticket = Some(Ticket { node, number: waiting.ticket });
        Err(Refused::Wait(Wait { what, node: Some(node), ticket, until: waiting.until }))
    }

    /// Memory became free: who waits for it looks again.
    pub(super) fn freed_space(&self, node: &Member) {
        if !node.lock().waits.is_empty() {
            self.wake.space(node.node);
        }
        self.stir(&self.stirred.space);
    }

    /// A transfer ended.
    pub(super) fn freed_slot(&self, node: &Member) {
        if !node.lock().waits.is_empty() {
            self.wake.space(node.node);
        }
    }
}

impl Writing {
    fn into_object(self, now: Millis, master: &Master) -> Object {
        Object {
            key: self.key,
            version: self.version,
            copies: smallvec::SmallVec::new(),
            lease: now,
            block: self.block,
            size: self.size,
            heat: Heat::cold(master.moment(now)),
            group: self.group,
            tenant: self.tenant,
            pin: self.pin,
            flags: Flags::default(),
        }
    }
}
