//! A node: it holds objects in memory over disk, does what the master orders, and answers clients for every key.
//!
//! `hold` is what is in memory, `work` carries orders out, `serve` answers clients, `member` tells a master what there is; `desk`
//! is what a node asks of its master, in this process or in another one; `peers` is what it asks of other nodes, `share` what it
//! does for them.

pub mod clock;
pub mod desk;
mod hold;
mod member;
pub mod meta;
pub mod options;
pub mod peers;
mod read;
mod serve;
mod share;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::arena::{self, Arena, NoMemory};
use crate::disk::{self, Disk};
use crate::master::name::Node as Number;

use desk::{Away, Desk};
use hold::{Hold, Line};
use peers::Peers;
use work::Lanes;

pub use clock::Clock;
pub use options::Options;
pub use serve::Filling;
pub use share::{Arrived, Arriving};

/// A node. Clones are the same one.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

/// What a node is made of.
pub(crate) struct Inner {
    options: Options,
    desk: Arc<dyn Desk>,
    peers: Option<Arc<dyn Peers>>,
    arena: Arena,
    /// Where values are read that go straight to clients, and where those arrive that go to another node.
    reading: Arena,
    /// Where values are read that other nodes asked for.
    lending: Arena,
    disk: Option<Disk>,
    hold: Hold,
    line: Arc<Line>,
    lanes: Lanes,
    /// What the master calls it.
    number: AtomicU16,
    /// Which life of it this is.
    life: u64,
    /// The last news that were told.
    position: Mutex<u64>,
    /// Bytes that are being copied for the master.
    copying: AtomicU64,
    /// Orders under way.
    working: AtomicU64,
    /// Copies of which it is being found out what became of them.
    unclaimed: AtomicU64,
    /// Told when an order is done: whoever takes orders waits for that.
    room: Notify,
    /// The same, for whoever joins: one told for both would be heard by one of them.
    calm: Notify,
    counts: Counts,
    tasks: Mutex<JoinSet<()>>,
}

/// What a node has done since it began.
#[derive(Debug, Default)]
pub struct Counts {
    /// Values read from memory here.
    pub read_memory: AtomicU64,
    /// Values read from disk here.
    pub read_disk: AtomicU64,
    /// Bytes read from disk for clients.
    pub read_disk_bytes: AtomicU64,
    /// Copies written to disk.
    pub offloaded: AtomicU64,
    /// Bytes of those.
    pub offloaded_bytes: AtomicU64,
    /// Copies that could not be written to disk.
    pub offloads_failed: AtomicU64,
    /// Copies brought to memory.
    pub promoted: AtomicU64,
    /// Bytes of those.
    pub promoted_bytes: AtomicU64,
    /// Promotions that failed here.
    pub promotions_failed: AtomicU64,
    /// Copies on disk that were not what was written.
    pub damaged: AtomicU64,
    /// How often more had to leave memory than was asked for, since what was free lay in too many parts.
    pub made_room: AtomicU64,
    /// Values read from other nodes.
    pub fetched: AtomicU64,
    /// Bytes of those.
    pub fetched_bytes: AtomicU64,
    /// Values read for other nodes.
    pub lent: AtomicU64,
    /// Values put or promoted into other nodes' memory.
    pub sent: AtomicU64,
    /// Other nodes that did not answer when they were asked.
    pub silent: AtomicU64,
    /// Bytes of other nodes' puts and promotions that were left behind here, and forgotten.
    pub orphans: AtomicU64,
    /// How often what the master said had changed before it was done, so that it was asked again.
    pub asked_again: AtomicU64,
}

/// How a node is.
#[derive(Clone, Debug)]
pub struct Look {
    /// Its stable name.
    pub id: String,
    /// Its memory.
    pub memory: arena::Space,
    /// Copies in memory.
    pub copies: usize,
    /// Values that are arriving.
    pub arriving: usize,
    /// Values of other nodes of which it is being found out what became of them.
    pub unclaimed: u64,
    /// Its disk, if it has one.
    pub disk: Option<disk::Space>,
    /// Why nothing is written to disk any more, if so.
    pub poisoned: Option<String>,
    /// Orders of the master that are being carried out.
    pub working: u64,
    /// News that the master has not heard.
    pub unheard: usize,
}

/// Why a node cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is not enough memory.
    #[error(transparent)]
    Memory(#[from] NoMemory),
    /// The master is not there.
    #[error(transparent)]
    Away(#[from] Away),
    /// The master does not take it.
    #[error("the master does not take this node: {0}")]
    Refused(#[from] crate::master::Error),
}

impl Node {
    /// Tells the master what there is, and begins to work. It serves clients once it is given to a
    /// [`resp::Server`](crate::resp::Server), and other nodes once it is given to a [`link::PeerServer`](crate::link::PeerServer).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begin(
        options: Options,
        desk: Arc<dyn Desk>,
        peers: Option<Arc<dyn Peers>>,
        life: u64,
        disk: Option<Disk>,
    ) -> Result<Self, Error> {
        let line = Arc::new(Line::default());
        let inner = Arc::new(Inner {
            arena: Arena::new(options.memory + options.memory / 8 + arena::GRAIN)?,
            reading: Arena::new(options.reading)?,
            lending: Arena::new(options.reading)?,
            peers,
            disk,
            hold: Hold::new(line.clone()),
            line,
            lanes: Lanes::default(),
            number: AtomicU16::new(0),
            life,
            position: Mutex::new(0),
            copying: AtomicU64::new(0),
            working: AtomicU64::new(0),
            unclaimed: AtomicU64::new(0),
            room: Notify::new(),
            calm: Notify::new(),
            counts: Counts::default(),
            tasks: Mutex::new(JoinSet::new()),
            options,
            desk,
        });
        inner.join_first().await?;
        if inner.desk.is_here() {
            inner.tell_at_once();
        }
        let (tells, works) = (inner.clone(), inner.clone());
        {
            let mut tasks = inner.tasks.lock();
            tasks.spawn(async move { tells.tell().await });
            tasks.spawn(async move { works.work().await });
        }
        Ok(Self(inner))
    }

    /// What the master calls it.
    pub fn number(&self) -> Number {
        self.0.number()
    }

    /// Its master.
    pub fn desk(&self) -> &Arc<dyn Desk> {
        &self.0.desk
    }

    /// What it has done.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Its disk, if it has one.
    pub fn disk(&self) -> Option<&Disk> {
        self.0.disk.as_ref()
    }

    /// How it is.
    pub fn look(&self) -> Look {
        let inner = &self.0;
        Look {
            id: inner.options.id.clone(),
            memory: inner.arena.space(),
            copies: inner.hold.len(),
            arriving: inner.hold.writing(),
            unclaimed: inner.unclaimed.load(Ordering::Relaxed),
            disk: inner.disk.as_ref().map(Disk::space),
            poisoned: inner.disk.as_ref().and_then(Disk::poisoned),
            working: inner.working.load(Ordering::Relaxed),
            unheard: inner.line.len(),
        }
    }

    /// Whether nothing is under way: no order, no news.
    pub fn is_idle(&self) -> bool {
        self.0.working.load(Ordering::Relaxed) == 0 && self.0.line.len() == 0
    }

    /// Lets what the master has ordered come to its end, for so long at most: what is in memory only goes to disk, where that
    /// was ordered. Then it ends.
    pub async fn end(&self, grace: Duration) {
        let quiet = async {
            while !self.0.is_done().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(grace, quiet).await.is_err() {
            tracing::warn!(
                working = self.0.working.load(Ordering::Relaxed),
                "the store ends before everything that should be on disk is there"
            );
        }
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        tasks.shutdown().await;
    }
}

impl Inner {
    fn number(&self) -> Number {
        Number(self.number.load(Ordering::Relaxed))
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.look()).finish()
    }
}
