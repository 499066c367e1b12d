//! What a node does for other nodes: it lends the bytes of its copies, and takes bytes whose put or promotion they carry out.
//!
//! - N3: bytes that were taken show when the master says so and not before; whoever sent them may die at any moment. What it left
//!   behind is either reckoned with by the master, or forgotten.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::desk::Away;
use super::meta::Meta;
use super::peers::{Verdict, Which};
use super::{Inner, Node};
use crate::arena;
use crate::disk;
use crate::master::name::{Name, Tier, Version};
use crate::master::{News, Reckoned};

/// How often more is asked to leave for bytes that arrive.
const ROUNDS: usize = 100;
/// How often the master is asked about what was left behind.
const LOOK: Duration = Duration::from_millis(250);
/// Looks at the same copy, each twice as long after the last, two minutes in all: then it is the master's.
const LOOKS: u32 = 9;

/// Memory for bytes that another node sends. Dropped before it is whole, nothing was there.
pub struct Arriving {
    inner: Arc<Inner>,
    name: Name,
    meta: Meta,
    conditional: bool,
    room: Option<arena::Filling>,
}

/// Bytes of which nobody said what became of them, as long as that is being found out.
struct Unclaimed(Weak<Inner>);

/// Bytes that another node sent and that do not show yet.
pub struct Arrived {
    inner: Arc<Inner>,
    name: Name,
    version: Version,
    settled: bool,
}

impl Node {
    /// A part of a copy of this node, for another one: from memory, else from disk; `None` if it is not here, or not that long.
    pub async fn lend(&self, which: &Which, from: u64, len: u64) -> Option<Bytes> {
        let inner = &self.0;
        let (from, len) = (usize::try_from(from).ok()?, usize::try_from(len).ok()?);
        let end = from.checked_add(len)?;
        if let Some(copy) = inner.hold.get(which.version) {
            inner.counts.lent.fetch_add(1, Ordering::Relaxed);
            return (end <= copy.len()).then(|| copy.bytes().slice(from..end));
        }
        let name = inner.named(which)?;
        let (found, _) = inner.on_disk(&name, which.version)?;
        if end > found.len() {
            return None;
        }
        // Memory of its own: nodes that read from each other would else wait for each other's.
        let room = inner.lending.obtain(len).await.ok()?;
        match inner.disk.as_ref()?.read_part(&found, from, room).await {
            Ok(block) => {
                inner.counts.lent.fetch_add(1, Ordering::Relaxed);
                Some(block.into())
            }
            Err(error) => {
                inner.look_at(&error, &name, which.version);
                if !matches!(error, disk::Error::Damaged { .. }) {
                    tracing::warn!(%error, "an object could not be read for another node");
                }
                None
            }
        }
    }

    /// Memory for bytes that another node is about to send.
    ///
    /// # Errors
    /// Why not.
    pub async fn take_in(
        &self,
        which: &Which,
        meta: Meta,
        conditional: bool,
        len: u64,
    ) -> Result<Arriving, String> {
        let inner = &self.0;
        let name = inner.named(which).ok_or("there are too many tenants")?;
        let room = match usize::try_from(len).ok().filter(|_| len <= inner.options.memory) {
            Some(len) => inner.room_for(len).await,
            None => None,
        };
        let room =
            room.ok_or_else(|| format!("memory for {len} bytes is not free here, or in too many parts"))?;
        if inner.hold.get(meta.version).is_some() || !inner.hold.begin_once(meta.version) {
            return Err("the same value is here already".to_owned());
        }
        Ok(Arriving { inner: inner.clone(), name, meta, conditional, room: Some(room) })
    }
}

impl Inner {
    fn named(&self, which: &Which) -> Option<Name> {
        Some(Name { tenant: self.desk.tenant(&which.tenant).ok()?, key: which.key.clone() })
    }

    async fn room_for(&self, len: usize) -> Option<arena::Filling> {
        if let Some(room) = self.arena.alloc(len) {
            return Some(room);
        }
        self.more_room(len, ROUNDS).await
    }

    /// The master has them not: they are forgotten here. One that was told everything in between may have taken them for whole,
    /// and hears that they are gone.
    pub(super) fn disown(&self, name: &Name, version: Version) {
        self.hold.forget(version);
        if !self.desk.is_here() {
            self.line.push(News::Lost { name: name.clone(), version, tier: Tier::Memory });
        }
    }
}

// === impl Unclaimed ===

impl Unclaimed {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.unclaimed.fetch_add(1, Ordering::Relaxed);
        Self(Arc::downgrade(inner))
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.unclaimed.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

// === impl Arriving ===

impl Arriving {
    /// What is still to be written.
    pub fn space(&mut self) -> &mut [u8] {
        self.room.as_mut().map_or(&mut [], arena::Filling::unfilled)
    }

    /// So many more bytes were written.
    pub fn advance(&mut self, bytes: usize) {
        if let Some(room) = &mut self.room {
            room.advance(bytes);
        }
    }

    /// All bytes were written: they are here, and do not show.
    pub fn whole(mut self) -> Option<Arrived> {
        let block = self.room.take().and_then(|room| room.freeze().ok())?;
        let (inner, name, version) = (self.inner.clone(), self.name.clone(), self.meta.version);
        inner.hold.insert(name.clone(), self.meta.clone(), block, self.conditional);
        Some(Arrived { inner, name, version, settled: false })
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Whole, its room is taken: what follows is told by what it became.
        if let Some(room) = self.room.take() {
            drop(room);
            self.inner.end_staging(self.meta.version);
        }
    }
}

// === impl Arrived ===

impl Arrived {
    /// What the master made of it.
    pub fn settle(mut self, verdict: Verdict) {
        self.settled = true;
        let (hold, version) = (&self.inner.hold, self.version);
        match verdict {
            Verdict::Shown => {
                hold.trust(version);
                // An order to give it up was about something else: what shows is never displaced.
                hold.end(version);
            }
            Verdict::NotShown | Verdict::Unknown => {
                self.inner.disown(&self.name, version);
                self.inner.end_staging(version);
            }
        }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        // Nobody says what became of it. If the master gave it up, that has been ordered or will be; if it shows, it must stay.
        if self.inner.hold.end(self.version) {
            self.inner.hold.forget(self.version);
            return self.inner.hold.released(self.version);
        }
        let (inner, name, version) = (Arc::downgrade(&self.inner), self.name.clone(), self.version);
        let unclaimed = Unclaimed::new(&self.inner);
        let asks = async move {
            for look in 0..LOOKS {
                tokio::time::sleep(LOOK * 2_u32.pow(look)).await;
                let Some(inner) = inner.upgrade() else { return };
                let Some(copy) = inner.hold.get(version) else { return };
                match inner.desk.reckons_with(inner.number(), &name, version).wait().await {
                    Ok(Reckoned::Shown) => return copy.trust(),
                    Ok(Reckoned::Pending) | Err(Away) => {}
                    Ok(Reckoned::No) => {
                        inner.counts.orphans.fetch_add(1, Ordering::Relaxed);
                        return inner.disown(&name, version);
                    }
                }
            }
            drop(unclaimed);
        };
        // Without a runtime everything here has ended.
        if let Ok(hands) = tokio::runtime::Handle::try_current() {
            hands.spawn(asks);
        }
    }
}
