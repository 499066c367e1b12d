//! What the store holds, told as KV events: the same stream as an engine's, so that whoever follows engines can follow it.
//!
//! The master says of each copy that it came or went, under locks and very often; here it is written down, and a thread of
//! its own finds out what that means for others. What is written down is the *present*, not a history: a block that
//! changes a thousand times before the thread looks is one block to look at. So the memory that this takes is bounded by
//! what the store holds, and whoever tells never waits for whoever listens.
//!
//! **Names.** A block is called by its prefix hash, which everybody can compute: the blocks of all engines have one name
//! here. A block is told once a tier, however many copies and objects (of several tenants, of the ranks of one engine)
//! carry it.
//!
//! **Tiers.** Memory of the store is told as `CPU` and its disk as `DISK`: where the block lies *in the store*. The store
//! is a worker of its own, so that nobody takes it for an engine's own memory. `STORAGE`, the word of engines for a
//! shared store, would be the wrong one for either: in an index a nearer tier counts for the farther ones as well, and
//! `STORAGE` is the farthest of all. Told so, memory would hide behind disk, and what must be warmed could not be told from what is
//! warm. A block that is in both counts as in memory.

mod forest;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

use blocks::{PrefixHash, TokensHash, View};
use events::codec::Said;
use events::publish::{Publisher, Settings, StartError};
use parking_lot::Mutex;
use smallvec::SmallVec;
use store::master::name::{Block, Tenant, Tier};
use store::master::{Change, Residency};
use store::node::desk::Finder;

use forest::{Forest, On, Seen, Tale};

/// What the store holds, as its event stream tells it. The stream ends when this is dropped.
pub struct Residents {
    book: Arc<Book>,
    endpoint: String,
    replay: String,
    teller: Option<JoinHandle<()>>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different blocks that the store holds.
    pub blocks: usize,
    /// Objects that carry them.
    pub objects: usize,
    /// Blocks that are told of.
    pub told: usize,
    /// Blocks that are not, since one before them is not there.
    pub held_back: usize,
    /// Blocks whose change has not been looked at yet.
    pub pending: usize,
    /// Copies whose block is no block of ours: its hash is not that of its parent and its tokens.
    pub misfits: u64,
    /// Bytes on the heap, keys included, without those of the publisher.
    pub heap_bytes: usize,
}

/// What is written down.
struct Book {
    shelves: Box<[Mutex<Shelf>]>,
    /// Changed blocks, on all shelves.
    pending: AtomicUsize,
    misfits: AtomicU64,
    /// Whether the teller sleeps, so that only the first change after a pause pays for waking it.
    asleep: AtomicBool,
    thread: std::sync::OnceLock<Thread>,
    closing: AtomicBool,
    /// What is to be said of the stream itself.
    state: Mutex<Option<View>>,
    told: AtomicUsize,
    held_back: AtomicUsize,
    forest_bytes: AtomicUsize,
}

/// A part of the book, under a lock of its own.
#[derive(Default)]
struct Shelf {
    blocks: HashMap<u64, Held>,
    /// Blocks that the teller must look at.
    changed: HashSet<u64>,
    objects: usize,
    key_bytes: usize,
}

/// A block that the store holds, or that the teller does not know to be gone.
struct Held {
    parent: Option<u64>,
    tokens: u64,
    objects: SmallVec<[Object; 1]>,
    /// Whether the teller has seen it: if not, it can be forgotten without a word.
    seen: bool,
}

/// An object that carries the block.
struct Object {
    key: Box<[u8]>,
    tenant: Tenant,
    /// In memory, and on disk.
    copies: [u16; 2],
}

/// Whoever reads the book, and says what is new.
struct Teller {
    book: Arc<Book>,
    forest: Forest,
    publisher: Publisher,
    block_size: u32,
}

/// Enough that the shards of a master rarely meet on one.
const SHELVES: usize = 64;
/// Blocks looked at under one lock: a few microseconds.
const AT_ONCE: usize = 64;
/// Blocks in one batch of the stream: as many as in a batch of a snapshot.
const BATCH: usize = 1_000;

// === impl Residents ===

impl Residents {
    /// Begins to publish. Nothing is there yet: give it to the master before its nodes join.
    ///
    /// # Errors
    /// [`StartError`]: an endpoint is taken or makes no sense.
    pub fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        let block_size = settings.block_size;
        let publisher = Publisher::start(settings)?;
        let (endpoint, replay) = (publisher.endpoint().to_owned(), publisher.replay_endpoint().to_owned());
        let book = Arc::new(Book::default());
        let teller = Teller { book: book.clone(), forest: Forest::default(), publisher, block_size };
        let thread = std::thread::Builder::new().name("store-events".to_owned()).spawn(|| teller.run())?;
        let _first = book.thread.set(thread.thread().clone());
        Ok(Arc::new(Self { book, endpoint, replay, teller: Some(thread) }))
    }

    /// Where subscribers connect, with the port that was chosen.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where replays and snapshots are asked for, with the port that was chosen.
    pub fn replay_endpoint(&self) -> &str {
        &self.replay
    }

    /// How far the master knows its nodes: while it still learns what they hold, whoever follows should know that.
    pub fn state(&self, state: View) {
        *self.book.state.lock() = Some(state);
        self.book.wake();
    }

    /// Everything is gone: whoever told of it is no longer the one who knows.
    pub fn forget(&self) {
        for shelf in &self.book.shelves {
            let mut shelf = shelf.lock();
            let before = shelf.changed.len();
            shelf.forget();
            match shelf.changed.len() {
                now if now > before => self.book.pending.fetch_add(now - before, Ordering::SeqCst),
                now => self.book.pending.fetch_sub(before - now, Ordering::SeqCst),
            };
        }
        self.book.wake();
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        let book = &*self.book;
        let mut counts = Counts {
            told: book.told.load(Ordering::Relaxed),
            held_back: book.held_back.load(Ordering::Relaxed),
            pending: book.pending.load(Ordering::SeqCst),
            misfits: book.misfits.load(Ordering::Relaxed),
            heap_bytes: book.forest_bytes.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for shelf in &book.shelves {
            let shelf = shelf.lock();
            counts.blocks += shelf.blocks.len();
            counts.objects += shelf.objects;
            counts.heap_bytes += shelf.key_bytes
                + shelf.blocks.capacity() * (size_of::<(u64, Held)>() + 1)
                + shelf.changed.capacity() * (size_of::<u64>() + 1)
                + (shelf.objects.saturating_sub(shelf.blocks.len())) * size_of::<Object>();
        }
        counts
    }
}

impl Residency for Residents {
    fn changed(&self, change: &Change<'_>) {
        let Some(block) = seen(change.block) else {
            self.book.misfits.fetch_add(u64::from(change.here), Ordering::Relaxed);
            return;
        };
        let known = {
            let mut shelf = self.book.shelf(block.prefix).lock();
            let before = shelf.changed.len();
            let known =
                if change.here { shelf.came(block, change) } else { shelf.went(block.prefix, change) };
            match shelf.changed.len() {
                now if now > before => self.book.pending.fetch_add(now - before, Ordering::SeqCst),
                now => self.book.pending.fetch_sub(before - now, Ordering::SeqCst),
            };
            known
        };
        if !known {
            self.book.misfits.fetch_add(u64::from(change.here), Ordering::Relaxed);
        }
        self.book.wake();
    }
}

impl Finder for Residents {
    /// The objects that carry these blocks, of whatever tenant, in the order of the blocks. What is not there is left out.
    fn keys(&self, prefixes: &[u64]) -> Vec<(Tenant, Box<[u8]>)> {
        let mut found = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let shelf = self.book.shelf(*prefix).lock();
            let objects = shelf.blocks.get(prefix).map_or(&[][..], |held| &held.objects);
            found.extend(objects.iter().map(|object| (object.tenant, object.key.clone())));
        }
        found
    }
}

impl Drop for Residents {
    fn drop(&mut self) {
        self.book.closing.store(true, Ordering::SeqCst);
        if let Some(teller) = self.teller.take() {
            teller.thread().unpark();
            // A panic in it has been said already.
            let _ = teller.join();
        }
    }
}

/// A block of ours; `None` if its hash is not what its parent and its tokens make.
fn seen(block: &Block) -> Option<Seen> {
    let number = |hash: &[u8; 32]| {
        let (number, rest) = hash.split_first_chunk::<8>()?;
        rest.iter().all(|byte| *byte == 0).then(|| u64::from_le_bytes(*number))
    };
    let prefix = number(&block.hash)?;
    let parent = match &block.parent {
        Some(parent) => Some(number(parent)?),
        None => None,
    };
    let made = PrefixHash::after(parent.map(PrefixHash), TokensHash(block.tokens));
    (made.0 == prefix).then_some(Seen { prefix, parent, tokens: block.tokens })
}

// === impl Book ===

impl Default for Book {
    fn default() -> Self {
        Self {
            shelves: (0..SHELVES).map(|_| Mutex::default()).collect(),
            pending: AtomicUsize::new(0),
            misfits: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
            closing: AtomicBool::new(false),
            state: Mutex::default(),
            told: AtomicUsize::new(0),
            held_back: AtomicUsize::new(0),
            forest_bytes: AtomicUsize::new(0),
        }
    }
}

impl Book {
    fn shelf(&self, prefix: u64) -> &Mutex<Shelf> {
        // The upper bits: a map of a shelf uses a hash of its own.
        &self.shelves[(prefix >> 58) as usize % SHELVES]
    }

    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

// === impl Shelf ===

impl Shelf {
    /// A copy came; `false` if the block goes by a name that another one has.
    fn came(&mut self, block: Seen, change: &Change<'_>) -> bool {
        let Seen { prefix, parent, tokens } = block;
        let held = self.blocks.entry(prefix).or_insert_with(|| Held {
            parent,
            tokens,
            objects: SmallVec::new(),
            seen: false,
        });
        if (held.parent, held.tokens) != (parent, tokens) {
            if !held.objects.is_empty() || held.seen {
                return false;
            }
            (held.parent, held.tokens) = (parent, tokens);
        }
        let before = held.on();
        let at = held.find(change).unwrap_or_else(|| {
            held.objects.push(Object { key: change.key.into(), tenant: change.tenant, copies: [0; 2] });
            self.objects += 1;
            self.key_bytes += change.key.len();
            held.objects.len() - 1
        });
        let copies = &mut held.objects[at].copies[tier(change)];
        *copies = copies.saturating_add(1);
        if held.on() != before {
            self.changed.insert(prefix);
        }
        true
    }

    /// A copy went; `false` if nobody knew it.
    fn went(&mut self, prefix: u64, change: &Change<'_>) -> bool {
        let Some(held) = self.blocks.get_mut(&prefix) else { return false };
        let Some(at) = held.find(change) else { return false };
        let before = held.on();
        let object = &mut held.objects[at];
        object.copies[tier(change)] = object.copies[tier(change)].saturating_sub(1);
        if object.copies == [0; 2] {
            held.objects.swap_remove(at);
            self.objects -= 1;
            self.key_bytes -= change.key.len();
        }
        if held.on() == before {
            return true;
        }
        if held.objects.is_empty() && !held.seen {
            // It came and went while nobody looked.
            self.blocks.remove(&prefix);
            self.changed.remove(&prefix);
        } else {
            self.changed.insert(prefix);
        }
        true
    }

    /// Every copy went.
    fn forget(&mut self) {
        let changed = &mut self.changed;
        self.blocks.retain(|prefix, held| {
            if !held.objects.is_empty() {
                held.objects.clear();
                changed.insert(*prefix);
            }
            if !held.seen {
                changed.remove(prefix);
            }
            held.seen
        });
        (self.objects, self.key_bytes) = (0, 0);
    }

    /// What a block has come to; the teller knows it from now on.
    fn look(&mut self, prefix: u64) -> Option<(Seen, On)> {
        let held = self.blocks.get_mut(&prefix)?;
        let looked = (Seen { prefix, parent: held.parent, tokens: held.tokens }, held.on());
        held.seen = true;
        if held.objects.is_empty() {
            self.blocks.remove(&prefix);
            if self.blocks.len() < self.blocks.capacity() / 8 {
                self.blocks.shrink_to(self.blocks.len() * 2);
            }
        }
        Some(looked)
    }
}

impl Held {
    fn on(&self) -> On {
        let bits = |object: &Object| u8::from(object.copies[0] > 0) | u8::from(object.copies[1] > 0) << 1;
        On(self.objects.iter().fold(0, |on, object| on | bits(object)))
    }

    fn find(&self, change: &Change<'_>) -> Option<usize> {
        self.objects.iter().position(|object| object.tenant == change.tenant && *object.key == *change.key)
    }
}

fn tier(change: &Change<'_>) -> usize {
    match change.tier {
        Tier::Memory => 0,
        Tier::Disk => 1,
    }
}

// === impl Teller ===

impl Teller {
    fn run(mut self) {
        loop {
            let state = self.book.state.lock().take();
            // That something is missing is said at once; that nothing is, behind all that was missing.
            state
                .filter(|state| *state != View::Exact)
                .into_iter()
                .for_each(|state| self.publisher.state(state));
            let looked = self.round();
            state
                .filter(|state| *state == View::Exact)
                .into_iter()
                .for_each(|state| self.publisher.state(state));
            if looked > 0 {
                continue;
            }
            if self.book.closing.load(Ordering::SeqCst) {
                return;
            }
            self.book.asleep.store(true, Ordering::SeqCst);
            // Whoever changes something now either sees that it sleeps, or is seen here.
            let idle = self.book.pending.load(Ordering::SeqCst) == 0 && self.book.state.lock().is_none();
            if idle && !self.book.closing.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.book.asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Looks at all that has changed; how many blocks that were.
    fn round(&mut self) -> usize {
        let book = self.book.clone();
        let mut tale = Tale::default();
        let mut looked = 0;
        for shelf in &book.shelves {
            let changed: Vec<u64> = {
                let mut shelf = shelf.lock();
                std::mem::take(&mut shelf.changed).into_iter().collect()
            };
            looked += changed.len();
            for some in changed.chunks(AT_ONCE) {
                let seen: SmallVec<[(Seen, On); AT_ONCE]> = {
                    let mut shelf = shelf.lock();
                    some.iter().filter_map(|prefix| shelf.look(*prefix)).collect()
                };
                for (block, on) in seen {
                    self.forest.set(block, on, &mut tale);
                    self.say(&mut tale, BATCH);
                }
            }
            // Only now: whoever waits until nothing is pending finds everything said and counted.
            self.say(&mut tale, 1);
            if !changed.is_empty() {
                self.publish_counts();
            }
            book.pending.fetch_sub(changed.len(), Ordering::SeqCst);
        }
        looked
    }

    /// Says it, if there is so much of it.
    fn say(&mut self, tale: &mut Tale, least: usize) {
        if tale.blocks < least {
            return;
        }
        tale.blocks = 0;
        let said: Vec<Said> = tale.events.drain(..).map(|event| Said::of(&event, self.block_size)).collect();
        self.publisher.batch(said);
    }

    fn publish_counts(&self) {
        self.book.told.store(self.forest.told, Ordering::Relaxed);
        self.book.held_back.store(self.forest.held_back, Ordering::Relaxed);
        self.book.forest_bytes.store(self.forest.heap_bytes(), Ordering::Relaxed);
    }
}
