//! A store in memory that keeps the contract and nothing else: for tests, benches, and as its first implementer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::contract::{
    Answer, Life, Look, Only, Page, Part, Put, Sink, Space, Store, Tenant, Wanted, Warming, Written,
};
use super::refusal::Refusal;

/// Freed space that is kept for the next value of the same length, as an arena would.
const KEPT: usize = 128 << 20;

/// A store in memory; clones share it.
#[derive(Clone)]
pub struct Fake(Arc<Inner>);

/// How fast it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once, as memory does.
    Now,
    /// Later, as a disk does: each answer is waited for.
    Later,
}

struct Inner {
    tenants: RwLock<HashMap<Tenant, Keys>>,
    arena: Arc<Arena>,
    born: AtomicU64,
    pace: Pace,
}

/// The keys of one tenant.
#[derive(Default)]
struct Keys {
    objects: HashMap<Bytes, Object>,
    /// Keys in the order of their birth: a scan goes on from a birth, whatever came or went meanwhile.
    order: BTreeMap<u64, Bytes>,
}

struct Object {
    value: Bytes,
    birth: u64,
    ends: Option<Instant>,
}

/// Space that is counted, and used again.
struct Arena {
    total: usize,
    used: AtomicUsize,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    bytes: usize,
    blocks: HashMap<usize, Vec<Vec<u8>>>,
}

/// Space that goes back when nobody holds it any more.
struct Block {
    bytes: Vec<u8>,
    arena: Arc<Arena>,
}

/// Space that is being filled.
pub struct Filling {
    fake: Fake,
    tenant: Tenant,
    key: Bytes,
    block: Block,
}

// === impl Fake ===

impl Fake {
    /// An empty store of so many bytes.
    pub fn new(total: usize, pace: Pace) -> Self {
        let arena = Arena { total, used: AtomicUsize::new(0), free: Mutex::default() };
        let inner =
            Inner { tenants: RwLock::default(), arena: Arc::new(arena), born: AtomicU64::new(1), pace };
        Self(Arc::new(inner))
    }

    /// Bytes that objects, sinks and readers hold.
    pub fn used(&self) -> usize {
        self.0.arena.used.load(Ordering::Relaxed)
    }

    fn answer<T: Send + 'static>(&self, answer: Result<T, Refusal>) -> Answer<T> {
        match self.0.pace {
            Pace::Now => Answer::Now(answer),
            Pace::Later => Answer::later(async {
                tokio::task::yield_now().await;
                answer
            }),
        }
    }

    fn with<T>(&self, tenant: &Tenant, key: &[u8], ask: impl FnOnce(&Object) -> T) -> Option<T> {
        let tenants = self.0.tenants.read();
        tenants.get(tenant)?.objects.get(key).filter(|object| object.lives()).map(ask)
    }

    fn write(&self, tenant: Tenant, key: Bytes, value: Bytes, put: Put) -> Written {
        let mut tenants = self.0.tenants.write();
        let keys = tenants.entry(tenant).or_default();
        let old = keys.objects.get(&key).filter(|object| object.lives());
        match (put.only, old) {
            (Only::Absent, Some(_)) | (Only::Present, None) => return Written::Unchanged,
            _ => (),
        }
        let ends = match put.life {
            Life::Open => None,
            Life::For(life) => Instant::now().checked_add(life),
            Life::Kept => old.and_then(|old| old.ends),
        };
        let birth = match keys.objects.get(&key) {
            Some(old) => old.birth,
            None => self.0.born.fetch_add(1, Ordering::Relaxed),
        };
        keys.order.insert(birth, key.clone());
        keys.objects.insert(key, Object { value, birth, ends });
        Written::Stored
    }
}

impl Store for Fake {
    type Sink = Filling;
    type Warm = ();

    fn get(&self, tenant: &Tenant, key: &[u8], part: Part) -> Answer<Option<Bytes>> {
        self.answer(Ok(self.with(tenant, key, |object| object.value.slice(part.of(object.value.len())))))
    }

    fn look(&self, tenant: &Tenant, key: &[u8]) -> Answer<Option<Look>> {
        self.answer(Ok(self.with(tenant, key, |object| Look {
            len: object.value.len() as u64,
            life: object.ends.map(|ends| ends.saturating_duration_since(Instant::now())),
        })))
    }

    fn remove(&self, tenant: &Tenant, key: &[u8]) -> Answer<bool> {
        let mut tenants = self.0.tenants.write();
        let removed = tenants.get_mut(tenant).and_then(|keys| {
            let object = keys.objects.remove(key)?;
            keys.order.remove(&object.birth);
            Some(object.lives())
        });
        drop(tenants);
        self.answer(Ok(removed.unwrap_or(false)))
    }

    fn reserve(&self, tenant: &Tenant, key: &[u8], len: usize) -> Answer<Filling> {
        let filling = Arena::take(&self.0.arena, len).map(|block| Filling {
            fake: self.clone(),
            tenant: tenant.clone(),
            key: Bytes::copy_from_slice(key),
            block,
        });
        self.answer(filling.ok_or_else(|| Refusal::full(len)))
    }

    fn scan(&self, tenant: &Tenant, cursor: u64, count: usize) -> Answer<Page> {
        let tenants = self.0.tenants.read();
        let mut page = Page::default();
        if let Some(keys) = tenants.get(tenant) {
            for (birth, key) in keys.order.range(cursor..) {
                if page.keys.len() == count.max(1) {
                    page.next = *birth;
                    break;
                }
                if keys.objects.get(key).is_some_and(Object::lives) {
                    page.keys.push(key.clone());
                }
            }
        }
        drop(tenants);
        self.answer(Ok(page))
    }

    fn count(&self, tenant: &Tenant) -> Answer<u64> {
        let living = |keys: &Keys| keys.objects.values().filter(|object| object.lives()).count() as u64;
        let count = self.0.tenants.read().get(tenant).map_or(0, living);
        self.answer(Ok(count))
    }

    fn clear(&self, tenant: &Tenant) -> Answer<()> {
        let gone = self.0.tenants.write().remove(tenant);
        drop(gone);
        self.answer(Ok(()))
    }

    /// All that it has is in memory, and it knows no blocks.
    fn warm(&self, tenant: &Tenant, wanted: Wanted<'_>, _: Duration) -> Answer<Warming<()>> {
        let known = match wanted {
            Wanted::Keys(keys) => keys.iter().filter(|key| self.with(tenant, key, |_| ()).is_some()).count(),
            Wanted::Blocks(_) => 0,
        };
        self.answer(Ok(Warming { kept: (), known, pending: 0 }))
    }

    fn space(&self) -> Space {
        Space { used: self.used() as u64, total: self.0.arena.total as u64, evicted: 0 }
    }
}

// === impl Object ===

impl Object {
    fn lives(&self) -> bool {
        self.ends.is_none_or(|ends| ends > Instant::now())
    }
}

// === impl Filling ===

impl Sink for Filling {
    fn space(&mut self) -> &mut [u8] {
        &mut self.block.bytes
    }

    fn commit(self, put: Put) -> Answer<Written> {
        let Self { fake, tenant, key, block } = self;
        let written = fake.write(tenant, key, Bytes::from_owner(block), put);
        fake.answer(Ok(written))
    }
}

// === impl Arena ===

impl Arena {
    fn take(arena: &Arc<Self>, len: usize) -> Option<Block> {
        let fits = |used: usize| used.checked_add(len).filter(|used| *used <= arena.total);
        arena.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        let mut free = arena.free.lock();
        let kept = free.blocks.get_mut(&len).and_then(Vec::pop);
        if kept.is_some() {
            free.bytes -= len;
        }
        drop(free);
        Some(Block { bytes: kept.unwrap_or_else(|| vec![0; len]), arena: arena.clone() })
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.arena.used.fetch_sub(bytes.len(), Ordering::Relaxed);
        let mut free = self.arena.free.lock();
        if free.bytes + bytes.len() <= KEPT {
            free.bytes += bytes.len();
            free.blocks.entry(bytes.len()).or_default().push(bytes);
        }
    }
}
