//! What waits: an entry as its sender gives it, as the scheduler knows it, and how it ends.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::Limits;
use crate::name::{Class, EntryId, Key, Millis, QueueName};

/// What running an entry takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Work: prompt tokens that must be computed, and tokens of the answer. Fairness counts these.
    pub tokens: u32,
    /// Blocks of KV cache that it occupies while it runs.
    pub blocks: u32,
}

/// Something that is to run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it waits. The first entry makes the queue, with [`Entry::terms`].
    pub queue: QueueName,
    /// What the queue is to be, if this entry makes it.
    pub terms: Terms,
    /// How urgent it is.
    pub class: Class,
    /// Not before; `None`: now.
    pub not_before: Option<Millis>,
    /// What cannot start by then is not run at all.
    pub deadline: Option<Millis>,
    /// What it takes, as far as is known.
    pub cost: Cost,
    /// What whoever places it wants to know of it without reading the payload; at most [`MAX_HINT`] bytes.
    pub hint: Option<Arc<[u8]>>,
    /// The same key twice in the same queue is the same entry, for as long as it is known.
    pub once: Option<Box<str>>,
    /// How long its outcome can be read after its end, in milliseconds; 0: it is forgotten at once.
    pub keep: u64,
    /// What it is.
    pub payload: Bytes,
}

/// The longest hint: 64 block hashes.
pub const MAX_HINT: usize = 512;
/// The longest idempotency key.
pub const MAX_ONCE: usize = 255;
/// The longest payload. It lies in one row with the result, and a log takes rows of a gibibyte.
pub const MAX_PAYLOAD: usize = 256 << 20;
/// The longest result.
pub const MAX_RESULT: usize = 256 << 20;

/// What a queue is, fixed by its first entry and by operators.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// What its entries run on: they contend with those of other queues with the same target only.
    pub target: Box<str>,
    /// Its part beside the other queues of its tenant.
    pub weight: u32,
    /// In which order its entries go.
    pub order: Order,
    /// What it may use.
    pub limits: Limits,
}

/// In which order the entries of a lane go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they came.
    Fifo,
    /// Warm ones first, as far as nobody is overtaken too often.
    #[default]
    Warm,
    /// Those with the least time left first, among the first few, as far as nobody is overtaken too often.
    Slack,
}

/// What the scheduler knows of an entry that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place in its lane.
    pub key: Key,
    /// What it takes.
    pub cost: Cost,
    /// When it is too late to start.
    pub deadline: Option<Millis>,
    /// How often it was started before.
    pub attempt: u16,
    /// How often later ones went before it.
    pub overtaken: u8,
    /// More is known of it than its payload: when it ends, its row must be read.
    pub remembered: bool,
    /// For whoever places it.
    pub hint: Option<Arc<[u8]>>,
}

/// Where an entry is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Not before a certain time.
    Scheduled,
    /// Ready to run when its turn comes.
    Inbox,
    /// Leased to a runner until it finishes, yields or loses the lease.
    Running,
    /// Waits for an event.
    Suspended,
    /// Held back by an operator.
    Paused,
    /// Over; its outcome is kept for a while.
    Finished,
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It ran to its end.
    Done,
    /// It ran, and failed for good.
    Failed,
    /// Somebody took it out.
    Cancelled,
    /// It could not start in time.
    Expired,
}

/// The right to run an entry: given with each start, never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub u64);

/// Everything that is known of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub id: EntryId,
    /// Its queue.
    pub queue: QueueName,
    /// What its queue runs on.
    pub target: Box<str>,
    /// How urgent it is.
    pub class: Class,
    /// Where it is.
    pub stage: Stage,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// When it came, and from when it may run or could run.
    pub came: Millis,
    /// From when it may run.
    pub at: Millis,
    /// When it is too late to start.
    pub deadline: Option<Millis>,
    /// What it takes.
    pub cost: Cost,
    /// How often it was started.
    pub attempt: u16,
    /// What it is; of one that is done it is not kept.
    pub payload: Bytes,
    /// What came of it.
    pub result: Bytes,
}

// === impls ===

impl Terms {
    /// A queue for this target with nothing special about it.
    pub fn of(target: &str) -> Self {
        Self { target: target.into(), weight: 1, order: Order::default(), limits: Limits::default() }
    }
}

impl Stage {
    /// Its name in messages and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Inbox => "waiting",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Paused => "paused",
            Self::Finished => "finished",
        }
    }
}

impl Outcome {
    /// Its name in messages and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}
