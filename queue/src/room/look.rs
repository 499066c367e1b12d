//! What an operator may ask: queues, entries, and why something does not run.

use super::core::{Book, Core};
use super::{Room, Shared};
use crate::entry::{Known, Stage, Terms};
use crate::format::QueueRow;
use crate::ledger::{Ledger, Refused};
use crate::name::{Class, EntryId, Millis, QueueName};
use crate::scheduler::{Depth, LaneId, QueueId, Sizes, Why};

/// How often an entry that moves is looked for again.
const LOOKS: usize = 16;

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
    /// What it remembers beside that.
    pub sizes: Sizes,
    /// Entries of each log, if they have been counted; and why it writes no more, if so.
    pub logs: Vec<(u32, Option<u64>, u64, Option<String>)>,
}

impl<P: Send + 'static> Room<P> {
    /// Every durable queue.
    pub fn queues(&self) -> Vec<QueueSeen> {
        let mut all: Vec<QueueSeen> = {
            let core = self.0.shared.core.lock();
            let books = core.books.values();
            books.flat_map(|book| book.ledger.queues().map(|queue| core.seen(book, queue))).collect()
        };
        all.sort_by(|one, other| (&one.name, one.partition).cmp(&(&other.name, other.partition)));
        all
    }

    /// One durable queue.
    pub fn queue(&self, name: &QueueName) -> Option<QueueSeen> {
        let core = self.0.shared.core.lock();
        core.books.values().find_map(|book| Some(core.seen(book, book.ledger.row(name)?)))
    }

    /// What is in the room. Looks at files: it may block.
    pub fn totals(&self) -> Totals {
        let (depth, sizes, mut books) = {
            let core = self.0.shared.core.lock();
            let books = core.books.values().map(|book| {
                let entries = book.ledger.queues().map(|(.., entries)| entries).sum::<Option<u64>>();
                (book.ledger.partition(), entries, book.log.clone(), book.poisoned.clone())
            });
            (core.sched.depth(), core.sched.sizes(), books.collect::<Vec<_>>())
        };
        books.sort_by_key(|book| book.0);
        let logs = books
            .into_iter()
            .map(|(partition, entries, log, poisoned)| (partition, entries, log.disk_bytes(), poisoned));
        Totals { depth, sizes, logs: logs.collect() }
    }

    /// An entry, with payload and result, and why it does not run. Reads the log: it may block.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn show(&self, id: EntryId) -> Result<Explained, Refused> {
        let shared: &Shared<P> = &self.0.shared;
        let log = shared.core.lock().books.get(&id.partition).map(|book| book.log.clone());
        let log = log.ok_or(Refused::NotHere(id.partition))?;
        let mut seen = Ledger::find(id.seq, &*log)?;
        // It may move while it is looked for: seldom, and ever more seldom so many times in a row.
        for _ in 0..LOOKS {
            if !seen.is_torn() {
                break;
            }
            seen = Ledger::find(id.seq, &*log)?;
        }
        let entry = seen.known(id).ok_or(Refused::Unknown(id))?;
        let core = shared.core.lock();
        let writable = core.books.get(&id.partition).filter(|book| book.poisoned.is_none());
        let lane = writable.and_then(|book| {
            let queue = book.ledger.queue(&entry.queue)?;
            Some(LaneId { queue, class: entry.class })
        });
        let key = crate::name::Key { at: entry.at, seq: id.seq };
        let waits = matches!(entry.stage, Stage::Inbox | Stage::Running);
        let why = lane.filter(|_| waits).and_then(|lane| core.sched.why(lane, key));
        Ok(Explained { entry, why })
    }

    /// Entries of a queue, at most so many: those that are ready, then those that are held back or over. Reads the log: it
    /// may block.
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
        self.0.shared.core.lock().check()
    }
}

impl<P> Core<P> {
    fn seen(&self, book: &Book, queue: (u64, QueueId, &QueueRow, Option<u64>)) -> QueueSeen {
        let (_, id, row, entries) = queue;
        // The scheduler knows nothing of a log that can no longer be written.
        let lanes = || {
            let known = Class::all().filter(|_| book.poisoned.is_none());
            known.map(|class| LaneId { queue: id, class })
        };
        QueueSeen {
            name: row.name.clone(),
            partition: book.ledger.partition(),
            terms: row.terms.clone(),
            paused: row.paused,
            entries,
            oldest: lanes().filter_map(|lane| self.sched.oldest(lane)).min(),
            running: if book.poisoned.is_none() { self.sched.runs(id) } else { 0 },
            why: lanes().filter_map(|lane| Some((lane.class, self.sched.why_lane(lane)?))).collect(),
        }
    }
}
