//! What the master knows of a node: its space, what leaves first, what is on its way out, and what it is to do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::name::{Millis, Name, Node, Pin, Tenant, Tier, Version};
use super::object::{Copy, List};
use super::order::{Entries, Link, Place, Sieve};
use super::outbox::{Order, Outbox};

/// A node.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) name: Box<str>,
    /// A copy of what is inside, to be read without the lock.
    standing: AtomicU8,
    inside: Mutex<Inside>,
}

/// How far the master's picture of a node can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its inventory is being told: what it has is not known yet.
    Recovering,
    /// Everything is known.
    Exact,
    /// It does not answer; it may come back with everything.
    Away,
    /// It left for good, or was lost: nothing of it is waited for.
    Gone,
}

/// What is known of a node, under its lock.
#[derive(Debug)]
pub(super) struct Inside {
    standing: Standing,
    /// Nothing new comes to it.
    pub(super) draining: bool,
    /// Which life of the node this is.
    pub(super) life: u64,
    /// A snapshot of this life is complete, and nothing was missed since.
    pub(super) complete: bool,
    /// The last delta of this life.
    pub(super) position: u64,
    pub(super) space: [Space; 2],
    entries: Entries,
    queues: BTreeMap<(Tier, Tenant), Queues>,
    pub(super) leaving: HashMap<(Version, Tier), Leaving>,
    pub(super) outbox: Outbox,
    /// Transfers under way.
    pub(super) puts: u32,
    pub(super) waits: VecDeque<Waiting>,
    stuck: Stuck,
}

/// How much of what leaves does not go: somebody reads it, perhaps slowly. Puts cannot wait for that.
#[derive(Clone, Copy, Debug, Default)]
struct Stuck {
    since: Millis,
    /// The least that was leaving since then.
    least: u64,
    /// The least that was leaving in the window before.
    before: u64,
}

/// What leaves and has not gone within so many milliseconds is not counted on.
const WINDOW: u64 = 50;

impl Stuck {
    fn look(&mut self, leaving: u64, now: Millis) -> u64 {
        self.least = self.least.min(leaving);
        if now.since(self.since) >= WINDOW {
            (self.since, self.before, self.least) = (now, self.least, leaving);
        }
        self.before.min(leaving)
    }
}

/// Where the bytes of a tier of a node are: `capacity = here + reserved + leaving + free`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// All.
    pub capacity: u64,
    /// Of readable copies.
    pub here: u64,
    /// Set aside for copies that are being written.
    pub reserved: u64,
    /// Of copies that were dropped; somebody may still read them or write to them.
    pub leaving: u64,
    /// Of promotions to here for which nothing is reserved yet. Not part of the sum.
    pub promised: u64,
}

/// What of one tenant is in a tier of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queues {
    pub(super) main: Sieve,
    pub(super) soft: Sieve,
    /// Copies that are in neither.
    kept: u32,
    pub(super) bytes: u64,
}

/// A copy that was dropped, or a transfer that was given up, until the node says that its bytes are free.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    pub(super) name: Name,
    pub(super) bytes: u64,
}

/// A put that waits for space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) ticket: u64,
    pub(super) bytes: u64,
    pub(super) until: Millis,
}

/// A copy whose turn it may be to leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) link: Link,
    pub(super) at: Place,
    pub(super) version: u32,
    pub(super) list: List,
}

impl Space {
    /// What is free now.
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.here + self.reserved + self.leaving)
    }

    /// What will be taken once everything that leaves has left.
    pub fn settled(&self) -> u64 {
        self.here + self.reserved
    }
}

// === impl Member ===

impl Member {
    pub(super) fn new(node: Node, name: &str) -> Self {
        let standing = Standing::Away;
        let inside = Inside {
            standing,
            draining: false,
            life: 0,
            complete: false,
            position: 0,
            space: [Space::default(); 2],
            entries: Entries::default(),
            queues: BTreeMap::new(),
            leaving: HashMap::new(),
            outbox: Outbox::default(),
            puts: 0,
            waits: VecDeque::new(),
            stuck: Stuck::default(),
        };
        Self { node, name: name.into(), standing: AtomicU8::new(standing as u8), inside: Mutex::new(inside) }
    }

    /// The lock: taken after that of a shard, never before, and never two at a time.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock()
    }

    /// Its standing; may be told a moment late.
    pub(super) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            x if x == Standing::Recovering as u8 => Standing::Recovering,
            x if x == Standing::Exact as u8 => Standing::Exact,
            x if x == Standing::Away as u8 => Standing::Away,
            _ => Standing::Gone,
        }
    }

    pub(super) fn is_exact(&self) -> bool {
        self.standing.load(Ordering::Acquire) == Standing::Exact as u8
    }

    /// Changes the standing; what it was.
    pub(super) fn set(&self, inside: &mut Inside, standing: Standing) -> Standing {
        self.standing.store(standing as u8, Ordering::Release);
        std::mem::replace(&mut inside.standing, standing)
    }
}

// === impl Inside ===

impl Inside {
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether it takes new copies.
    pub(super) fn takes(&self) -> bool {
        self.standing == Standing::Exact && !self.draining
    }

    pub(super) fn space(&mut self, tier: Tier) -> &mut Space {
        &mut self.space[tier.at()]
    }

    /// -> a readable copy. Its bytes were counted as reserved, or are new if `reserved` is false.
    pub(super) fn arrive(
        &mut self,
        node: Node,
        tier: Tier,
        what: (Tenant, Place, Version, u64),
        pin: Pin,
        reserved: bool,
    ) -> Copy {
        let (tenant, at, version, bytes) = what;
        let space = self.space(tier);
        space.here += bytes;
        if reserved {
            space.reserved -= bytes;
        }
        let queues = self.queues.entry((tier, tenant)).or_default();
        queues.bytes += bytes;
        let list = pin.list();
        let link = match list {
            List::Main => self.entries.push(&mut queues.main, at, version),
            List::Soft => self.entries.push(&mut queues.soft, at, version),
            List::Kept => {
                queues.kept += 1;
                Link::NONE
            }
        };
        Copy { node, tier, list, link }
    }

    /// A readable copy -> leaving, or -> gone if nobody is to be told.
    pub(super) fn depart(&mut self, copy: Copy, tenant: Tenant, bytes: u64) {
        self.space(copy.tier).here -= bytes;
        let key = (copy.tier, tenant);
        let Some(queues) = self.queues.get_mut(&key) else { return };
        queues.bytes -= bytes;
        match copy.list {
            List::Main => self.entries.remove(&mut queues.main, copy.link),
            List::Soft => self.entries.remove(&mut queues.soft, copy.link),
            List::Kept => queues.kept -= 1,
        }
        if queues.main.len + queues.soft.len + queues.kept == 0 {
            self.queues.remove(&key);
        }
    }

    /// From one queue to another.
    pub(super) fn requeue(&mut self, copy: &mut Copy, what: (Tenant, Place, Version, u64), pin: Pin) {
        let (tenant, .., bytes) = what;
        self.depart(*copy, tenant, bytes);
        *copy = self.arrive(copy.node, copy.tier, what, pin, false);
    }

    /// Bytes that are not free before the node says so.
    pub(super) fn leave(&mut self, name: Name, version: Version, tier: Tier, bytes: u64) {
        self.space(tier).leaving += bytes;
        let before = self.leaving.insert((version, tier), Leaving { name, bytes });
        // The same copy cannot leave twice: as long as it does, no other is written there.
        debug_assert!(before.is_none());
    }

    /// The same, and the node is told to drop them.
    pub(super) fn drop_copy(&mut self, name: Name, version: Version, tier: Tier, bytes: u64) {
        self.leave(name.clone(), version, tier, bytes);
        self.outbox.urgent(Order::Drop { name, version, tier });
    }

    /// Leaving -> free.
    pub(super) fn released(&mut self, version: Version, tier: Tier) -> Option<Leaving> {
        let leaving = self.leaving.remove(&(version, tier))?;
        self.space(tier).leaving -= leaving.bytes;
        Some(leaving)
    }

    /// Bytes that must leave: down to the low watermark if it is above the high one, and what puts wait for.
    pub(super) fn excess(&mut self, tier: Tier, marks: (u32, u32), now: Millis) -> u64 {
        let waited = if tier == Tier::Memory { self.waited(None, now) } else { 0 };
        let space = self.space[tier.at()];
        let settled = space.settled();
        let part = |thousandths: u32| share(space.capacity, thousandths);
        let above = if settled > part(marks.0) { settled - part(marks.1).min(settled) } else { 0 };
        let stuck = if tier == Tier::Memory { self.stuck.look(space.leaving, now) } else { 0 };
        above.max((settled + stuck + waited).saturating_sub(space.capacity))
    }

    /// Bytes for which puts wait that came before this one.
    pub(super) fn waited(&mut self, before: Option<u64>, now: Millis) -> u64 {
        self.waits.retain(|waiting| waiting.until >= now);
        let ahead = self.waits.iter().take_while(|waiting| Some(waiting.ticket) != before);
        ahead.map(|waiting| waiting.bytes).sum()
    }

    /// The copy whose turn it is to leave: of that tenant, or of the one that has most for its weight. First those that are
    /// not pinned, of all tenants; then those that are softly.
    pub(super) fn next(
        &mut self,
        tier: Tier,
        only: Option<Tenant>,
        weight: impl Fn(Tenant) -> u32,
    ) -> Option<Next> {
        for list in [List::Main, List::Soft] {
            let fruitful = |queues: &Queues| {
                let sieve = if list == List::Main { &queues.main } else { &queues.soft };
                // The first time round, the hand only takes away what protected a copy that was read.
                sieve.len > 0 && sieve.fruitless < sieve.len.saturating_mul(2)
            };
            let range = match only {
                Some(tenant) => (tier, tenant)..=(tier, tenant),
                None => (tier, Tenant(0))..=(tier, Tenant(u16::MAX)),
            };
            let most = self
                .queues
                .range(range)
                .filter(|(_, queues)| fruitful(queues))
                .max_by_key(|((_, tenant), queues)| {
                    u128::from(queues.bytes) * 1_000 / u128::from(weight(*tenant).max(1))
                })
                .map(|(key, _)| *key);
            let Some(queues) = most.and_then(|key| self.queues.get_mut(&key)) else { continue };
            let sieve = if list == List::Main { &mut queues.main } else { &mut queues.soft };
            let (link, at, version) = self.entries.next(sieve)?;
            return Some(Next { link, at, version, list });
        }
        // Nothing can leave now; whoever asks next begins anew, for leases end.
        for queues in self.queues.values_mut() {
            (queues.main.fruitless, queues.soft.fruitless) = (0, 0);
        }
        None
    }

    /// Everything of every queue; for checks.
    pub(super) fn listed(&self) -> Vec<(Tier, Tenant, List, Link, Place, u32)> {
        let mut all = Vec::new();
        for ((tier, tenant), queues) in &self.queues {
            for (list, sieve) in [(List::Main, &queues.main), (List::Soft, &queues.soft)] {
                let entries = self.entries.list(sieve).into_iter();
                all.extend(entries.map(|(link, at, v)| (*tier, *tenant, list, link, at, v)));
            }
        }
        all
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = (&(Tier, Tenant), &Queues)> {
        self.queues.iter()
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }
}

/// So many thousandths of a whole.
pub(super) fn share(whole: u64, thousandths: u32) -> u64 {
    (u128::from(whole) * u128::from(thousandths) / 1_000) as u64
}
