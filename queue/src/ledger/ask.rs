//! What can be asked of a log's books, and what the answer is.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::entry::{Cost, Entry, Known, Lease, Outcome, Stage, Terms};
use crate::format::{Due, Head, Placed, QueueRow};
use crate::name::{EntryId, Key, Millis, QueueName, Seq};
use crate::scheduler::LaneId;

/// A move that somebody asks for, and who waits for the answer.
#[derive(Debug)]
pub struct Ask {
    /// What is to be done.
    pub what: What,
    /// What was read for it.
    pub seen: Seen,
    reply: Option<oneshot::Sender<Result<Done, Refused>>>,
}

/// A move.
#[derive(Debug)]
#[allow(missing_docs, reason = "each move has its arrow; its fields are named after what they are")]
pub enum What {
    /// -> Inbox, or -> Scheduled
    Enqueue(Box<Entry>),
    /// Inbox -> Running, as was decided
    Start { seq: Seq, lease: Lease },
    /// Running -> Finished
    Finish { seq: Seq, lease: Lease, remembered: bool, outcome: Outcome, used: Cost, result: Bytes },
    /// Running -> Inbox, or -> Scheduled; `counts`: as one of its attempts
    Yield { seq: Seq, lease: Lease, not_before: Option<Millis>, used: Cost, counts: bool },
    /// Running -> Suspended
    Suspend { seq: Seq, lease: Lease, used: Cost },
    /// Suspended or Paused -> Inbox
    Resume { seq: Seq },
    /// Inbox or Scheduled -> Paused
    Hold { seq: Seq },
    /// anything but Finished -> Finished
    Cancel { seq: Seq },
    /// Inbox -> Finished, since it is too late to start
    Expire { lane: LaneId, key: Key },
    /// Finished, but not done -> Inbox
    Retry { seq: Seq },
    /// Finished -> gone
    Forget { seq: Seq },
    /// Scheduled -> Inbox, Inbox -> Finished, Finished -> gone: whatever is due
    Due { until: Millis },
    /// Holds a queue back, or lets it go on. A queue that is held back stays when it is empty.
    PauseQueue { name: QueueName, paused: bool },
    /// Changes what a queue is; it stays when it is empty.
    SetTerms { name: QueueName, terms: Terms },
    /// Forgets a queue, if nothing is left in it.
    Close { number: u64 },
}

/// What was read for a move.
#[derive(Debug, Default)]
pub struct Seen {
    /// The entry, with payload and result.
    pub(super) entry: Option<(Head, Bytes, Bytes)>,
    /// Where it is, beside Inbox.
    pub(super) aside: Option<Placed>,
    /// Whether it is in the inbox, with this key.
    pub(super) inbox: bool,
    /// Whether it is scheduled.
    pub(super) timer: bool,
    /// The entry that has this idempotency key.
    pub(super) once: Option<(Seq, u64)>,
    /// What is due.
    pub(super) due: Vec<DueRow>,
    /// Until when everything was looked at, damaged or not.
    pub(super) due_until: Option<Millis>,
    /// When the next thing is due after those.
    pub(super) next_due: Option<Millis>,
}

/// Something that is due.
#[derive(Debug)]
pub(super) struct DueRow {
    pub(super) at: Millis,
    pub(super) due: Due,
    pub(super) seq: Seq,
    /// The entry that becomes ready.
    pub(super) placed: Option<Placed>,
    /// The entry that expires or is forgotten.
    pub(super) seen: Seen,
}

/// A move was made, or had been made before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The entry waits.
    Enqueued(EntryId),
    /// This idempotency key was known: it is this entry.
    Known(EntryId),
    /// It is where it was to go.
    Moved,
    /// It is over.
    Over(EntryId, Outcome),
}

/// Why a move was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such entry, or it is known no longer.
    #[error("there is no entry {0}, or it is known no longer")]
    Unknown(EntryId),
    /// There is no such queue.
    #[error("there is no queue {0}")]
    NoQueue(QueueName),
    /// It is not held with this lease any more: drop the work, do not try again.
    #[error("entry {0} is not held with this lease any more")]
    Stale(EntryId),
    /// It is at a stage from which this move does not lead.
    #[error("entry {id} is {}, and cannot be {to}", .stage.name())]
    Stage {
        /// Which entry.
        id: EntryId,
        /// Where it is.
        stage: Stage,
        /// What was asked.
        to: &'static str,
    },
    /// What was asked cannot be done by anybody.
    #[error("{0}")]
    Invalid(String),
    /// The log could not be read or written; whether the move was made is known after the next start.
    #[error("the queue's log failed: {0}")]
    Log(String),
    /// The partition is not open here, or no longer: ask whoever owns it.
    #[error("partition {0} is not open here; ask its owner")]
    NotHere(u32),
    /// The room is closing.
    #[error("the queues are closing")]
    Closing,
}

impl From<crate::log::Error> for Refused {
    fn from(error: crate::log::Error) -> Self {
        Self::Log(error.to_string())
    }
}

// === impl Ask ===

impl Ask {
    /// A move that nobody waits for.
    pub fn of(what: What) -> Self {
        Self { what, seen: Seen::default(), reply: None }
    }

    /// A move, and where its answer comes.
    pub fn answered(what: What) -> (Self, oneshot::Receiver<Result<Done, Refused>>) {
        let (reply, answer) = oneshot::channel();
        (Self { what, seen: Seen::default(), reply: Some(reply) }, answer)
    }

    pub(super) fn answer(self, answer: Result<Done, Refused>) {
        match (self.reply, answer) {
            // Whoever asked may have left; the move is made all the same.
            (Some(reply), answer) => drop(reply.send(answer)),
            (None, Err(why)) => tracing::debug!(what = self.what.name(), %why, "a move was not made"),
            (None, Ok(_)) => {}
        }
    }

    /// Answers without having been prepared.
    pub fn refuse(self, why: Refused) {
        self.answer(Err(why));
    }

    /// Entries of which at most one move may be in a batch.
    pub(super) fn entries(&self) -> Vec<Seq> {
        match &self.what {
            What::Start { seq, .. }
            | What::Finish { seq, .. }
            | What::Yield { seq, .. }
            | What::Suspend { seq, .. }
            | What::Resume { seq }
            | What::Hold { seq }
            | What::Cancel { seq }
            | What::Retry { seq }
            | What::Forget { seq } => vec![*seq],
            What::Expire { key, .. } => vec![key.seq],
            What::Due { .. } => self.seen.due.iter().map(|row| row.seq).collect(),
            // Whether it is known is known as long as nobody ends it.
            What::Enqueue(_) => self.seen.once.iter().map(|(seq, _)| *seq).collect(),
            What::PauseQueue { .. } | What::SetTerms { .. } | What::Close { .. } => Vec::new(),
        }
    }
}

impl What {
    /// Its name in logs and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Enqueue(_) => "enqueue",
            Self::Start { .. } => "start",
            Self::Finish { .. } => "finish",
            Self::Yield { .. } => "yield",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
            Self::Hold { .. } => "hold",
            Self::Cancel { .. } => "cancel",
            Self::Expire { .. } => "expire",
            Self::Retry { .. } => "retry",
            Self::Forget { .. } => "forget",
            Self::Due { .. } => "due",
            Self::PauseQueue { .. } => "pause",
            Self::SetTerms { .. } => "terms",
            Self::Close { .. } => "close",
        }
    }
}

impl Seen {
    /// Whether the entry moved while it was read: it is there, but was found nowhere.
    pub fn is_torn(&self) -> bool {
        self.entry.is_some() && self.stage().is_none()
    }

    /// Where the entry is, as far as was read.
    pub(super) fn stage(&self) -> Option<Stage> {
        let (head, ..) = self.entry.as_ref()?;
        Some(match (&head.over, &self.aside) {
            (Some(_), _) => Stage::Finished,
            (None, Some(placed)) => placed.stage,
            (None, None) if self.inbox => Stage::Inbox,
            (None, None) if self.timer => Stage::Scheduled,
            (None, None) => return None,
        })
    }
}

/// A row of a queue that is not there yet.
pub(super) fn new_row(name: &QueueName, terms: &Terms) -> QueueRow {
    QueueRow { name: name.clone(), terms: terms.clone(), paused: false, pinned: false, low: [None; _] }
}

impl Seen {
    /// What was read, in the form for whoever asks.
    pub fn known(self, id: EntryId) -> Option<Known> {
        let stage = self.stage()?;
        let (head, payload, result) = self.entry?;
        let item = head.item;
        Some(Known {
            id,
            queue: head.name,
            target: head.target,
            class: head.class,
            stage,
            outcome: head.over.map(|(outcome, _)| outcome),
            came: head.came,
            at: item.key.at,
            deadline: item.deadline,
            cost: item.cost,
            attempt: item.attempt,
            payload,
            result,
        })
    }
}
