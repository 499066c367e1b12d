//! The master: where every object is, and what lives where. Pure decisions: it moves no byte, reads no clock and has no thread.
//!
//! Nodes do the work: they ask ([`Master::reserve`], [`Master::allocate`]), take their orders ([`Master::take_orders`]) and tell what
//! came of them ([`Master::tell`]). Time is an argument. Everything can be called from many threads.
//!
//! Locks: objects are in shards, each under its own lock; a node's accounts are under the node's lock. A shard's lock is
//! taken before a group's, that before a node's, never two of a kind at a time: so nobody waits in a circle. Only
//! [`Master::check`] takes all of them, in order. A tenant's account is atomic.
//!
//! What always holds, and what [`Master::check`] looks at:
//! - M1: a node's bytes add up: readable copies, what is reserved for writes under way, and what leaves, each as counted anew.
//! - M2: each readable copy is in its node's queue exactly once, in the one that its pin says.
//! - M3: a tenant is charged for exactly its readable copies and what is reserved for it.
//! - M4: an object has a readable copy, or it is not there.
//! - M5: a task holds one pin, one slot and one promise or reservation; without a task nothing is held.
//! - M6: `admitted = completed + failed + expired + cancelled + in flight`, of promotions.
//! - M7: each candidate is of an object that is on disk and has no task; what was recorded is accounted for.
//! - M8: each key that somebody asked to be warmed is accounted for once.
//! - M9: a put under way holds its bytes and one slot; bytes of one that was displaced are free only when its node says so.
//! - M10: a group's members are known to it, and no others.
//! - M11: whatever ends by itself is known once, and is an object that is there.

mod candidates;
mod check;
pub mod counters;
mod error;
mod evict;
mod flush;
mod get;
mod groups;
pub(crate) mod hash;
pub mod heat;
mod keep;
mod lives;
pub mod name;
mod node;
mod nodes;
mod object;
mod offload;
pub mod options;
mod order;
mod outbox;
mod promote;
mod put;
mod shard;
mod sink;
mod survey;
mod tenants;
mod tick;
mod warm;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard, RwLock};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use counters::{Gauges, Tally};
use groups::Groups;
use heat::Moment;
use name::{Millis, Node, Tenant, Tier, Version};
use node::Member;
use object::{Flags, Object};
use options::{MAX_NODES, MAX_TENANTS, Options, Promotion};
use order::Place;
use promote::End;
use shard::Shard;
use tenants::Account;

pub use candidates::Waits;
pub use error::{Error, Refused, Wait, WaitFor};
pub use flush::Flushed;
pub use get::{Found, Hit, Look, Presence};
pub use lives::Glance;
pub use node::{Space, Standing};
pub use nodes::{Inventory, Item, Joined, Joining, News, NodeLook, Reckoned};
pub use outbox::{Copying, Order};
pub use promote::{Later, Never, Staging, TaskId, Tried};
pub use put::{Committed, Life, Put, PutId, Reserved, Terms, Ticket, When};
pub use sink::{Change, Deaf, Residency, Wake};
pub use survey::Waiting;
pub use tenants::Quota;
pub use tick::Ticked;
pub use warm::Warm;

/// Where every object is, and what lives where.
pub struct Master {
    options: Options,
    /// Those of the options, or what was set since.
    promotion: ArcSwap<Promotion>,
    shards: Box<[Mutex<Shard>]>,
    nodes: Box<[OnceLock<Member>]>,
    node_names: RwLock<HashMap<Box<str>, Node>>,
    tenants: Box<[OnceLock<Account>]>,
    tenant_names: RwLock<HashMap<Box<str>, Tenant>>,
    groups: Groups,
    wake: Arc<dyn Wake>,
    residency: Arc<dyn Residency>,
    /// Of versions, tasks, tickets and warmings: each number is given once.
    next: AtomicU64,
    busy: Busy,
    /// Nodes whose objects are not all known.
    unsure: AtomicUsize,
    /// The shard at which the next tick begins.
    cursor: AtomicUsize,
    stirred: Stirred,
}

/// How much is under way.
#[derive(Debug, Default)]
struct Busy {
    candidates: AtomicUsize,
    tasks: AtomicUsize,
    puts: AtomicUsize,
    offloads: AtomicUsize,
    awaited: AtomicUsize,
    lives: AtomicUsize,
}

/// How often something happened that candidates wait for.
#[derive(Debug, Default)]
struct Stirred {
    space: AtomicU32,
    slot: AtomicU32,
    holder: AtomicU32,
}

/// Bits of a version below the term.
const TERM_SHIFT: u32 = 40;

/// What happens to the bytes of a copy that is no longer readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departs {
    /// The node is told to drop it, and says when they are free.
    Ordered,
    /// Whoever asked drops it, without an order, and says when they are free.
    Handed,
    /// The node has lost it already.
    Vanished,
}

impl Master {
    /// A master that knows nothing yet.
    pub fn new(options: Options, wake: Arc<dyn Wake>, residency: Arc<dyn Residency>) -> Self {
        let options = options.clamped();
        let table = |most: usize| (0..most).map(|_| OnceLock::new()).collect();
        Self {
            shards: (0..options.shards).map(|_| Mutex::default()).collect(),
            nodes: table(MAX_NODES),
            node_names: RwLock::default(),
            tenants: (0..MAX_TENANTS).map(|_| OnceLock::new()).collect(),
            tenant_names: RwLock::default(),
            groups: Groups::default(),
            wake,
            residency,
            next: AtomicU64::new(u64::from(options.term) << TERM_SHIFT | 1),
            busy: Busy::default(),
            unsure: AtomicUsize::new(0),
            cursor: AtomicUsize::new(0),
            stirred: Stirred::default(),
            promotion: ArcSwap::from_pointee(options.promotion.clone()),
            options,
        }
    }

    /// What was set when it began.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What is set about promotion now.
    pub fn promotion(&self) -> arc_swap::Guard<Arc<Promotion>> {
        self.promotion.load()
    }

    /// From now on this is set about promotion. Candidates, and what was counted of them, begin anew: they were chosen by what
    /// was set before. Promotions that are under way go on.
    pub fn set_promotion(&self, promotion: Promotion) {
        self.promotion.store(Arc::new(promotion.clamped(self.shards.len())));
        self.clear_candidates();
    }

    /// Everything that was counted.
    pub fn counters(&self) -> Tally {
        let mut all = Tally::default();
        for shard in &self.shards {
            all += shard.lock().tally;
        }
        all
    }

    /// What is there now.
    pub fn gauges(&self) -> Gauges {
        let read = |gauge: &AtomicUsize| gauge.load(Ordering::Relaxed) as u64;
        Gauges {
            objects: self.shards.iter().map(|shard| shard.lock().rows.len() as u64).sum(),
            candidates: read(&self.busy.candidates),
            promotions: read(&self.busy.tasks),
            puts: read(&self.busy.puts),
            offloads: read(&self.busy.offloads),
            awaited: read(&self.busy.awaited),
        }
    }
}

// === Where things are ===

impl Master {
    fn hash(&self, tenant: Tenant, key: &[u8]) -> u64 {
        let salt = u64::from(tenant.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        xxh3_64_with_seed(key, self.options.seed ^ salt)
    }

    fn hash_of(&self, object: &Object) -> u64 {
        self.hash(object.tenant, &object.key)
    }

    /// Bits that neither the tables (both ends) nor the sketches (from the sixteenth on) begin with.
    fn shard_of(&self, hash: u64) -> usize {
        (hash >> 47) as usize & (self.shards.len() - 1)
    }

    fn shard(&self, at: Place) -> MutexGuard<'_, Shard> {
        self.shards[at.shard()].lock()
    }

    /// The shard of a key, and the key's place in it if it is there.
    fn find(&self, tenant: Tenant, key: &[u8]) -> (MutexGuard<'_, Shard>, Option<Place>) {
        let hash = self.hash(tenant, key);
        let at = self.shard_of(hash);
        let shard = self.shards[at].lock();
        let row = shard.find(hash, tenant, key);
        (shard, row.map(|row| Place::new(at, row as usize)))
    }

    fn member(&self, node: Node) -> Result<&Member, Error> {
        self.nodes.get(node.at()).and_then(OnceLock::get).ok_or(Error::UnknownNode)
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.nodes.iter().map_while(OnceLock::get)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn moment(&self, now: Millis) -> Moment {
        Moment::of(now, self.options.half_life)
    }

    /// Whether everything is known: what is not found is not there.
    pub fn is_sure(&self) -> bool {
        !self.unsure()
    }

    /// Whether nodes are not known completely: what is not found may yet be there.
    fn unsure(&self) -> bool {
        self.unsure.load(Ordering::Acquire) > 0
    }

    /// Whether a copy can be read now.
    fn readable(&self, node: Node) -> bool {
        self.member(node).is_ok_and(Member::is_exact)
    }

    fn in_memory(&self, object: &Object) -> bool {
        object.in_tier(Tier::Memory).any(|copy| self.readable(copy.node))
    }
}

// === Copies come and go, under the lock of their shard ===

impl Master {
    /// -> a readable copy of an object that is there. What was reserved for it becomes its own.
    fn gain(&self, shard: &mut Shard, at: Place, node: &Member, tier: Tier, reserved: bool) {
        let Some(object) = shard.rows.get_mut(at.row()) else { return };
        let what = (object.tenant, at, object.version, object.bytes());
        let copy = node.lock().arrive(node.node, tier, what, object.pin, reserved);
        object.copies.push(copy);
        // What was reserved is charged already.
        if !reserved {
            self.account(object.tenant).add(tier, object.bytes());
        }
        self.tell_residency(object, node.node, tier, true);
    }

    /// A readable copy -> on its way out, or gone. What was under way from it is cancelled. The object stays, even without a copy.
    fn lose(&self, shard: &mut Shard, at: Place, node: &Member, tier: Tier, how: Departs) -> u64 {
        let row = at.row() as u32;
        let Some(object) = shard.rows.get_mut(at.row()) else { return 0 };
        let Some(index) = object.copy(node.node, tier) else { return 0 };
        let copy = object.copies.swap_remove(index);
        let bytes = object.bytes();
        self.account(object.tenant).give(tier, bytes);
        {
            let mut inside = node.lock();
            inside.depart(copy, object.tenant, bytes);
            match how {
                Departs::Ordered => {
                    inside.drop_copy(object.name(), object.version, tier, bytes);
                    self.wake.orders(node.node);
                }
                Departs::Handed => inside.leave(object.name(), object.version, tier, bytes),
                Departs::Vanished => {}
            }
        }
        let in_memory = object.in_tier(Tier::Memory).next().is_some();
        if tier == Tier::Memory && !in_memory && object.flags.clear(Flags::WARMED) {
            shard.tally.warmed.never_used += 1;
        }
        self.tell_residency(object, node.node, tier, false);
        match tier {
            Tier::Memory if shard.offloads.get(&row).is_some_and(|o| o.node == node.node) => {
                self.end_offload(shard, at, false);
            }
            Tier::Disk if shard.tasks.get(&row).is_some_and(|task| task.holder == node.node) => {
                self.end_task(shard, at, End::Lost(node.node));
            }
            Tier::Memory | Tier::Disk => {}
        }
        if how == Departs::Vanished {
            self.stir(&self.stirred.space);
        }
        bytes
    }

    /// Gone, with everything that is under way with it.
    fn erase(&self, shard: &mut Shard, at: Place, how: Departs) {
        let row = at.row() as u32;
        if shard.tasks.contains_key(&row) {
            self.end_task(shard, at, End::Cancelled);
        }
        if shard.offloads.contains_key(&row) {
            self.end_offload(shard, at, false);
        }
        self.settle(shard, at);
        let Some(object) = shard.rows.get(at.row()) else { return };
        let copies: SmallVec<[(Node, Tier); 4]> = object.copies.iter().map(|c| (c.node, c.tier)).collect();
        for (node, tier) in copies {
            if let Ok(node) = self.member(node) {
                self.lose(shard, at, node, tier, how);
            }
        }
        let Some(object) = shard.rows.get(at.row()) else { return };
        let hash = self.hash_of(object);
        if shard.lives.forget(row) {
            self.busy.lives.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(object) = shard.delete(hash, row) {
            self.groups.leave(&object, at);
        }
    }

    /// An object without a copy is gone.
    fn erase_if_empty(&self, shard: &mut Shard, at: Place) -> bool {
        let empty = shard.rows.get(at.row()).is_some_and(|object| object.copies.is_empty());
        if empty {
            self.erase(shard, at, Departs::Vanished);
        } else if shard.rows.get(at.row()).is_some_and(|o| o.in_tier(Tier::Disk).next().is_none()) {
            // Without a copy on disk there is nothing to promote.
            self.settle(shard, at);
        }
        empty
    }

    fn tell_residency(&self, object: &Object, node: Node, tier: Tier, here: bool) {
        let Some(block) = &object.block else { return };
        let (tenant, key, version) = (object.tenant, &*object.key, object.version);
        let size = object.bytes();
        self.residency.changed(&Change { tenant, key, version, size, block, node, tier, here });
    }

    /// Something happened that candidates may wait for.
    fn stir(&self, what: &AtomicU32) {
        what.fetch_add(1, Ordering::Relaxed);
        if self.busy.candidates.load(Ordering::Relaxed) > 0 {
            self.wake.tick();
        }
    }
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master").field("gauges", &self.gauges()).finish_non_exhaustive()
    }
}

/// What a version must be greater than to be newer than this one.
fn after(version: Version) -> u64 {
    version.0.saturating_add(1)
}
