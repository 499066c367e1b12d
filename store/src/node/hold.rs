//! What the node has in memory, what is being written into it, and the news that go to the master.
//!
//! - N1: a copy's bytes are told to be free when its last reader has let go, and not before.
//! - N2: what is being written is known, so that an order to give it up is answered when no late write can land.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::meta::Meta;
use crate::arena::Block;
use crate::master::News;
use crate::master::hash::Spread;
use crate::master::name::{Name, Tier, Version};

/// Parts of the table, each under its own lock.
const PARTS: usize = 64;

/// What the node has in memory.
pub(super) struct Hold {
    parts: Box<[Mutex<Copies>]>,
    /// What is being written, and whether it was given up meanwhile.
    writing: Mutex<HashMap<Version, bool, Spread>>,
    line: Arc<Line>,
}

type Copies = HashMap<Version, Arc<Copy>, Spread>;

/// A copy in memory. Whoever reads it holds it.
pub(super) struct Copy {
    pub(super) name: Name,
    pub(super) meta: Meta,
    /// Taken when it is dropped, before that is told.
    block: Option<Block>,
    line: Arc<Line>,
    /// Whether the master wants to hear when its bytes are free.
    told: AtomicBool,
    /// Whether it may show only if a condition holds, and no master has said yet that it did.
    doubtful: AtomicBool,
}

/// News that the master has not heard.
#[derive(Default)]
pub(super) struct Line {
    news: Mutex<VecDeque<News>>,
    came: Notify,
    /// Where news go at once, if the master is here.
    ears: OnceLock<Ears>,
}

type Ears = Box<dyn Fn(News) + Send + Sync>;

struct Reader(Arc<Copy>);

// === impl Hold ===

impl Hold {
    pub(super) fn new(line: Arc<Line>) -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { parts, writing: Mutex::default(), line }
    }

    fn part(&self, version: Version) -> &Mutex<Copies> {
        &self.parts[version.0 as usize % PARTS]
    }

    /// The copy of this version.
    pub(super) fn get(&self, version: Version) -> Option<Arc<Copy>> {
        self.part(version).lock().get(&version).cloned()
    }

    /// There is a copy from now on; nobody is told of it by that. One that is doubtful is told as such.
    pub(super) fn insert(&self, name: Name, meta: Meta, block: Block, doubtful: bool) {
        let version = meta.version;
        let (told, doubtful) = (AtomicBool::new(true), AtomicBool::new(doubtful));
        let copy = Copy { name, meta, block: Some(block), line: self.line.clone(), told, doubtful };
        self.part(version).lock().insert(version, Arc::new(copy));
    }

    /// The master has it.
    pub(super) fn trust(&self, version: Version) {
        if let Some(copy) = self.get(version) {
            copy.trust();
        }
    }

    /// The master wants it no longer: its bytes are told to be free when they are.
    pub(super) fn drop_copy(&self, version: Version) {
        let copy = self.part(version).lock().remove(&version);
        if copy.is_some() {
            return drop(copy);
        }
        if let Some(given_up) = self.writing.lock().get_mut(&version) {
            *given_up = true;
            return;
        }
        self.line.push(News::Released { version, tier: Tier::Memory });
    }

    /// The master never knew of it: nobody is told.
    pub(super) fn forget(&self, version: Version) {
        let copy = self.part(version).lock().remove(&version);
        if let Some(copy) = copy {
            copy.told.store(false, Ordering::Relaxed);
        }
    }

    /// Something is being written.
    pub(super) fn begin(&self, version: Version) {
        self.writing.lock().insert(version, false);
    }

    /// The same, unless it is being written already.
    pub(super) fn begin_once(&self, version: Version) -> bool {
        self.writing.lock().try_insert(version, false).is_ok()
    }

    /// It no longer is; whether it was given up meanwhile. Then its bytes must be let go of, and [`Hold::released`] said.
    pub(super) fn end(&self, version: Version) -> bool {
        self.writing.lock().remove(&version).unwrap_or(false)
    }

    /// Whether it is being written.
    pub(super) fn is_writing(&self, version: Version) -> bool {
        self.writing.lock().contains_key(&version)
    }

    /// Gives up what is being written, or what was written and never heard of again, or says that there is nothing.
    pub(super) fn give_up(&self, version: Version) {
        if let Some(given_up) = self.writing.lock().get_mut(&version) {
            *given_up = true;
            return;
        }
        self.drop_copy(version);
    }

    /// Its bytes are free.
    pub(super) fn released(&self, version: Version) {
        self.line.push(News::Released { version, tier: Tier::Memory });
    }

    /// Every copy, a part of the table at a time.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Copy>> + '_ {
        self.parts.iter().flat_map(|part| part.lock().values().cloned().collect::<Vec<_>>())
    }

    /// How many copies there are.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    /// How much is being written.
    pub(super) fn writing(&self) -> usize {
        self.writing.lock().len()
    }
}

// === impl Copy ===

impl Copy {
    /// The bytes, held until they are dropped.
    pub(super) fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Reader(self.clone()))
    }

    pub(super) fn len(&self) -> usize {
        self.block.as_ref().map_or(0, Block::len)
    }

    /// The master has it.
    pub(super) fn trust(&self) {
        self.doubtful.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        drop(self.block.take());
        if *self.told.get_mut() {
            self.line.push(News::Released { version: self.meta.version, tier: Tier::Memory });
        }
    }
}

impl AsRef<[u8]> for Reader {
    fn as_ref(&self) -> &[u8] {
        self.0.block.as_ref().map_or(&[], Block::as_ref)
    }
}

// === impl Line ===

impl Line {
    pub(super) fn push(&self, news: News) {
        if let Some(hears) = self.ears.get() {
            return hears(news);
        }
        self.news.lock().push_back(news);
        self.came.notify_one();
    }

    /// From now on they are heard at once.
    pub(super) fn heard_by(&self, ears: Ears) {
        // Only once.
        let _ = self.ears.set(ears);
    }

    /// The first, or none.
    pub(super) fn pop(&self) -> Option<News> {
        self.news.lock().pop_front()
    }

    /// Ends when there may be something.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    /// Forgets them all: a snapshot says the same.
    pub(super) fn clear(&self) {
        self.news.lock().clear();
    }

    pub(super) fn len(&self) -> usize {
        self.news.lock().len()
    }
}
