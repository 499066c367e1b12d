//! What an operator may ask: queues, entries, and why something does not run.

use super::{Room, Shared};
use crate::entry::{Known, Stage, Terms};
use crate::ledger::{Ledger, Refused};
use crate::name::{Class, EntryId, Millis, QueueName};
use crate::scheduler::{Depth, LaneId, Why};

/// A queue as it stands.
#[derive(Clone, Debug)]
pub struct QueueSeen {
    /// Its name.
    pub name: QueueName,
    /// Its partition.
    pub partition: u32,
    /// What it is.
    pub terms: Terms,
    /// Held back by an operator.
    pub paused: bool,
    /// Entries in whatever stage; `None`: still being counted.
    pub entries: Option<u64>,
    /// Since when the first that is ready has been ready, if that is known.
    pub oldest: Option<Millis>,
    /// Entries that run.
    pub running: usize,
    /// Why the first of each class does not run.
    pub why: Vec<(Class, Why)>,
}

/// An entry, and why it does not run.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The entry.
    pub entry: Known,
    /// Why it does not run, if it is ready.
    pub why: Option<Why>,
}

/// What is in the room.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// What the scheduler holds.
    pub depth: Depth,
    /// Entries of each log, if they have been counted; and why it writes no more, if so.
    pub logs: Vec<(u32, Option<u64>, u64, Option<String>)>,
}

impl<P: Send + 'static> Room<P> {
    /// Every durable queue.
    pub fn queues(&self) -> Vec<QueueSeen> {
        let core = self.0.shared.core.lock();
        let mut all = Vec::new();
        for book in core.books.values() {
            for (_, id, row, entries) in book.ledger.queues() {
                let lanes = || Class::all().map(|class| LaneId { queue: id, class });
                all.push(QueueSeen {
                    name: row.name.clone(),
                    partition: book.ledger.partition(),
                    terms: row.terms.clone(),
                    paused: row.paused,
                    entries,
                    oldest: lanes().filter_map(|lane| core.sched.oldest(lane)).min(),
                    running: core.sched.runs(id),
                    why: lanes().filter_map(|lane| Some((lane.class, core.sched.why_lane(lane)?))).collect(),
                });
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// One durable queue.
    pub fn queue(&self, name: &QueueName) -> Option<QueueSeen> {
        self.queues().into_iter().find(|queue| queue.name == *name)
    }

    /// What is in the room.
    pub fn totals(&self) -> Totals {
        let core = self.0.shared.core.lock();
        let logs = core.books.values().map(|book| {
            let entries = book.ledger.queues().map(|(.., entries)| entries).sum::<Option<u64>>();
            (book.ledger.partition(), entries, book.log.disk_bytes(), book.poisoned.clone())
        });
        let mut logs: Vec<_> = logs.collect();
        logs.sort_by_key(|log| log.0);
        Totals { depth: core.sched.depth(), logs }
    }

    /// An entry, with payload and result, and why it does not run. Reads the log: it may block.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn show(&self, id: EntryId) -> Result<Explained, Refused> {
        let shared: &Shared<P> = &self.0.shared;
        let log = shared.core.lock().books.get(&id.partition).map(|book| book.log.clone());
        let seen = Ledger::find(id.seq, &*log.ok_or(Refused::Unknown(id))?)?;
        let entry = seen.known(id).ok_or(Refused::Unknown(id))?;
        let core = shared.core.lock();
        let lane = core.books.get(&id.partition).and_then(|book| {
            let queue = book.ledger.queue(&entry.queue)?;
            Some(LaneId { queue, class: entry.class })
        });
        let key = crate::name::Key { at: entry.at, seq: id.seq };
        let waits = matches!(entry.stage, Stage::Inbox | Stage::Running);
        let why = lane.filter(|_| waits).and_then(|lane| core.sched.why(lane, key));
        Ok(Explained { entry, why })
    }

    /// Entries of a queue that are ready, from a place on. Reads the log: it may block.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn list(&self, name: &QueueName, most: usize) -> Result<Vec<EntryId>, Refused> {
        let (log, partition, number) = {
            let core = self.0.shared.core.lock();
            let found = core.books.values().find_map(|book| {
                let (number, ..) = book.ledger.row(name)?;
                Some((book.log.clone(), book.ledger.partition(), number))
            });
            found.ok_or_else(|| Refused::NoQueue(name.clone()))?
        };
        let seqs = Ledger::list(&*log, number, most)?;
        Ok(seqs.into_iter().map(|seq| EntryId { partition, seq }).collect())
    }

    /// The invariants of everything under the lock.
    ///
    /// # Errors
    /// The name of the first that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        self.0.shared.core.lock().sched.check()
    }
}
