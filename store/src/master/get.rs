//! Reading: where an object is. A get counts as a touch; everything else here does not.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::Master;
use super::candidates::Waits;
use super::name::{Block, Group, Millis, Node, Pin, Tenant, Tier, Version};
use super::object::Flags;
use super::order::Place;
use super::promote::{Ask, Never, Tried};
use super::shard::Shard;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It can be read.
    Here(Hit),
    /// It was not found where everything is known; but not everything is.
    Unknown,
    /// There is no such object.
    Absent,
}

/// Where an object can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which version.
    pub version: Version,
    /// How many bytes.
    pub size: u64,
    /// Nodes that have it in memory.
    pub memory: SmallVec<[Node; 4]>,
    /// Nodes that have it on disk.
    pub disk: SmallVec<[Node; 4]>,
    /// What came of trying to promote it, if it is on disk only and promotion is on.
    pub promotion: Option<Tried>,
}

/// Whether a key is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It can be read.
    Here,
    /// Not everything is known yet.
    Unknown,
    /// There is no such object.
    Absent,
}

/// What an operator sees of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Which version.
    pub version: Version,
    /// How many bytes.
    pub size: u64,
    /// Where it is, whether that can be read now or not.
    pub copies: Vec<(Node, Tier)>,
    /// Until when it is not evicted because it was read.
    pub lease: Millis,
    /// How often it was read from memory lately.
    pub heat: u8,
    /// How often it was read from disk lately.
    pub disk_heat: u8,
    /// Whether it may be evicted.
    pub pin: Pin,
    /// With what it leaves memory.
    pub group: Group,
    /// When it ends by itself, if it does.
    pub ends: Option<Millis>,
    /// Which block it is.
    pub block: Option<Block>,
    /// Whether it is being promoted.
    pub promoting: bool,
    /// Whether it is being offloaded.
    pub offloading: bool,
    /// What it waits for, if it is a candidate for promotion.
    pub candidate: Option<Waits>,
}

impl Master {
    /// Where an object can be read. What is in memory is leased; what is only on disk is counted, and promoted if it is hot.
    /// Never waits, and never fails because of promotion.
    pub fn get(&self, tenant: Tenant, key: &[u8], now: Millis) -> Found {
        let (mut guard, at) = self.find(tenant, key);
        let shard = &mut *guard;
        let Some(at) = at.filter(|at| !self.bury_if_over(shard, *at, now)) else { return self.miss(shard) };
        let leaving = self.groups.is_leaving(&shard.rows[at.row()]);
        let object = &mut shard.rows[at.row()];
        let readable = |tier| {
            let copies = object.in_tier(tier).map(|copy| copy.node);
            copies.filter(|node| self.readable(*node)).collect::<SmallVec<[Node; 4]>>()
        };
        let memory = if leaving { SmallVec::new() } else { readable(Tier::Memory) };
        let disk = readable(Tier::Disk);
        let (version, size) = (object.version, object.bytes());
        if memory.is_empty() && disk.is_empty() {
            // A copy that cannot be read now may come back.
            shard.tally.moves.misses += 1;
            return Found::Unknown;
        }
        object.flags.set(Flags::READ_MEMORY);
        object.flags.set(Flags::READ_DISK);
        let promotion = if memory.is_empty() {
            shard.tally.moves.hits_disk += 1;
            if leaving { None } else { self.hit_disk(shard, at, now) }
        } else {
            object.flags.clear(Flags::WARMED);
            object.heat.touch(self.moment(now));
            object.lease = object.lease.max(now.plus(self.options.lease));
            shard.tally.moves.hits_memory += 1;
            None
        };
        Found::Here(Hit { version, size, memory, disk, promotion })
    }

    /// Where each of many objects can be read; one after the other, as by themselves.
    pub fn get_many(&self, tenant: Tenant, keys: &[&[u8]], now: Millis) -> Vec<Found> {
        keys.iter().map(|key| self.get(tenant, key, now)).collect()
    }

    /// Whether a key is there. Neither counts nor promotes nor leases.
    pub fn exists(&self, tenant: Tenant, key: &[u8]) -> Presence {
        let (shard, at) = self.find(tenant, key);
        let Some(at) = at else { return self.presence() };
        let object = &shard.rows[at.row()];
        if object.copies.iter().any(|copy| self.readable(copy.node)) {
            Presence::Here
        } else {
            Presence::Unknown
        }
    }

    /// Whether each of many keys is there.
    pub fn exists_many(&self, tenant: Tenant, keys: &[&[u8]], into: &mut Vec<Presence>) {
        into.extend(keys.iter().map(|key| self.exists(tenant, key)));
    }

    /// How many bytes an object has. Neither counts nor promotes nor leases.
    pub fn size(&self, tenant: Tenant, key: &[u8]) -> Option<u64> {
        let (shard, at) = self.find(tenant, key);
        at.map(|at| shard.rows[at.row()].bytes())
    }

    /// What an operator sees of an object. Neither counts nor promotes nor leases.
    pub fn look(&self, tenant: Tenant, key: &[u8], now: Millis) -> Option<Look> {
        let hash = self.hash(tenant, key);
        let (shard, at) = self.find(tenant, key);
        let at = at?;
        let object = &shard.rows[at.row()];
        let state = shard.states.get(&tenant);
        let candidate = state.and_then(|state| state.candidates.get(&(at.row() as u32)));
        Some(Look {
            version: object.version,
            size: object.bytes(),
            copies: object.copies.iter().map(|copy| (copy.node, copy.tier)).collect(),
            lease: object.lease,
            heat: object.heat.score(self.moment(now)),
            disk_heat: state.map_or(0, |state| state.sketch.score(hash, self.moment(now))),
            pin: object.pin,
            group: object.group,
            ends: shard.lives.of(at.row() as u32),
            block: object.block.as_deref().copied(),
            promoting: object.flags.has(Flags::PROMOTING),
            offloading: object.flags.has(Flags::OFFLOADING),
            candidate: candidate.map(super::candidates::Candidate::look),
        })
    }

    /// How many objects a tenant has.
    pub fn count(&self, tenant: Tenant) -> u64 {
        let of = |shard: &Shard| shard.states.get(&tenant).map_or(0, |state| state.objects as u64);
        self.shards.iter().map(|shard| of(&shard.lock())).sum()
    }

    /// Keys of a tenant from a cursor on, a shard at least; and where to go on, 0 at the end. Whatever is there all the time is
    /// told; what comes or goes meanwhile may be.
    pub fn scan(&self, tenant: Tenant, cursor: u64, most: usize) -> (u64, Vec<Box<[u8]>>) {
        let mut keys = Vec::new();
        for at in cursor as usize..self.shards.len() {
            if keys.len() >= most.max(1) {
                return (at as u64, keys);
            }
            let shard = self.shards[at].lock();
            let theirs = shard.rows.iter().filter(|(_, object)| object.tenant == tenant);
            keys.extend(theirs.map(|(_, object)| object.key.clone()));
        }
        (0, keys)
    }

    fn miss(&self, shard: &mut Shard) -> Found {
        shard.tally.moves.misses += 1;
        if self.unsure() { Found::Unknown } else { Found::Absent }
    }

    fn presence(&self) -> Presence {
        if self.unsure() { Presence::Unknown } else { Presence::Absent }
    }

    /// Counts a read from disk; promotes, or records a candidate.
    fn hit_disk(&self, shard: &mut Shard, at: Place, now: Millis) -> Option<Tried> {
        if !self.promotion().on {
            return None;
        }
        let object = &shard.rows[at.row()];
        let (hash, tenant) = (self.hash_of(object), object.tenant);
        let state = shard.states.entry(tenant).or_default();
        let score = state.sketch.touch(hash, state.objects, self.moment(now));
        let tried = self.admit(shard, at, &Ask { score, demand: None, retry: false }, now);
        match tried {
            Tried::Later(why) => self.record(shard, at, why, score, now),
            Tried::Never(Never::InFlight) if score >= self.promotion().threshold => {
                // Whoever asked for it first may leave: it is wanted all the same. And if it fails, it was read just now.
                if let Some(task) = shard.tasks.get_mut(&(at.row() as u32)) {
                    task.history.hit(score, self.promotion().threshold);
                    task.history.refresh(now);
                }
            }
            Tried::Queued(_) | Tried::Never(_) => {}
        }
        Some(tried)
    }

    /// How many candidates there are.
    pub fn candidates(&self) -> usize {
        self.busy.candidates.load(Ordering::Relaxed)
    }
}
