//! What an operator may ask: queues, lines, entries, and why something does not run.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use super::core::{Book, Core};
use super::{Room, Shared, Told};
use crate::entry::{Item, Known, Stage, Terms};
use crate::ledger::{Ledger, Listed, Page, Place, Refused};
use crate::log::Log;
use crate::name::{Class, EntryId, Key, Millis, QueueName};
use crate::scheduler::{Depth, LaneId, QueueId, Sizes, Why};

/// How often an entry that moves is looked for again.
const LOOKS: usize = 16;

/// A durable queue as it stands.
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
    /// How many entries run.
    pub running: usize,
    /// Entries that run.
    pub runs: Vec<Listed>,
    /// Why the first of each class does not run.
    pub why: Vec<(Class, Why)>,
}

/// A line of those who stand in it with nothing but their connection.
#[derive(Clone, Debug)]
pub struct LineSeen {
    /// Its name.
    pub name: QueueName,
    /// What those in it want to run on.
    pub target: Box<str>,
    /// How many stand in it.
    pub standing: usize,
    /// Since when the first has been standing there.
    pub oldest: Option<Millis>,
    /// How many have had their turn and run.
    pub running: usize,
    /// Why the first of each class does not run.
    pub why: Vec<(Class, Why)>,
}

/// Which queues are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Those of this tenant only.
    pub tenant: Option<Box<str>>,
    /// Which of them come first.
    pub first: First,
    /// How many at most.
    pub most: usize,
}

/// Which come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum First {
    /// Those whose first entry has been ready the longest.
    #[default]
    Oldest,
    /// Those with the most entries.
    Deepest,
}

/// Some of the queues.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Those that come first.
    pub queues: Vec<QueueSeen>,
    /// How many more there are.
    pub left_off: usize,
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
    /// The logs that are open.
    pub logs: Vec<LogSeen>,
    /// What was done.
    pub told: Told,
}

/// A log that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSeen {
    /// Its partition.
    pub partition: u32,
    /// Queues in it.
    pub queues: usize,
    /// Entries in whatever stage; `None`: still being counted.
    pub entries: Option<u64>,
    /// Why it writes no more.
    pub poisoned: Option<String>,
}

/// Queues that are looked at without letting others have the lock in between.
const AT_ONCE: usize = 1_000;

impl<P: Send + 'static> Room<P> {
    /// The durable queues that come first, of so many as there may be: whoever decides is not held up.
    pub fn overview(&self, wish: &Wish) -> Overview {
        let shared: &Shared<P> = &self.0.shared;
        let books: Vec<(u32, Vec<u64>)> =
            shared.core.lock().books.iter().map(|(id, book)| (*id, book.ledger.numbers())).collect();
        // The last of those that are kept is on top.
        let mut kept: BinaryHeap<(u64, u32, u64)> = BinaryHeap::new();
        let mut count = 0_usize;
        for (partition, numbers) in books {
            for some in numbers.chunks(AT_ONCE) {
                let core = shared.core.lock();
                let Some(book) = core.books.get(&partition) else { break };
                for number in some {
                    let Some(rank) = core.rank(book, *number, wish) else { continue };
                    count += 1;
                    kept.push((rank, partition, *number));
                    if kept.len() > wish.most {
                        kept.pop();
                    }
                }
            }
        }
        let mut queues = Vec::with_capacity(kept.len());
        for some in kept.into_sorted_vec().chunks(AT_ONCE) {
            let core = shared.core.lock();
            let mut runs = core.all_runs();
            let mut of = |id| runs.remove(&id).unwrap_or_default();
            queues.extend(
                some.iter().filter_map(|(_, partition, number)| core.seen(*partition, *number, &mut of)),
            );
        }
        Overview { left_off: count.saturating_sub(queues.len()), queues }
    }

    /// Every durable queue.
    pub fn queues(&self) -> Vec<QueueSeen> {
        let mut all = self.overview(&Wish { most: usize::MAX, ..Wish::default() }).queues;
        all.sort_by(|one, other| (&one.name, one.partition).cmp(&(&other.name, other.partition)));
        all
    }

    /// One durable queue.
    pub fn queue(&self, name: &QueueName) -> Option<QueueSeen> {
        self.named(name).into_iter().next()
    }

    /// The durable queues of this name, one a partition that has it.
    pub fn named(&self, name: &QueueName) -> Vec<QueueSeen> {
        let core = self.0.shared.core.lock();
        let found = core.books.iter().filter_map(|(partition, book)| {
            let (number, ..) = book.ledger.row(name)?;
            core.seen(*partition, number, |id| core.running(id))
        });
        let mut found: Vec<QueueSeen> = found.collect();
        found.sort_by_key(|queue| queue.partition);
        found
    }

    /// Every line of those who stand with their connection: at most one a tenant and target.
    pub fn lines(&self) -> Vec<LineSeen> {
        let core = self.0.shared.core.lock();
        let line = |((name, target), id): (&(QueueName, Box<str>), &QueueId)| LineSeen {
            name: name.clone(),
            target: target.clone(),
            standing: lanes(*id).map(|lane| core.sched.standing(lane)).sum(),
            oldest: core.oldest(*id),
            running: core.sched.runs(*id),
            why: core.why(*id),
        };
        let mut all: Vec<LineSeen> = core.lines.iter().map(line).collect();
        all.sort_by(|one, other| (&one.name, &one.target).cmp(&(&other.name, &other.target)));
        all
    }

    /// What the scheduler holds.
    pub fn depth(&self) -> Depth {
        self.0.shared.core.lock().sched.depth()
    }

    /// What is in the room.
    pub fn totals(&self) -> Totals {
        let core = self.0.shared.core.lock();
        let seen = |book: &Book| LogSeen {
            partition: book.ledger.partition(),
            queues: book.ledger.count_queues(),
            entries: book.ledger.entries(),
            poisoned: book.poisoned.clone(),
        };
        let mut logs: Vec<LogSeen> = core.books.values().map(seen).collect();
        logs.sort_by_key(|log| log.partition);
        Totals { depth: core.sched.depth(), sizes: core.sched.sizes(), logs, told: core.told }
    }

    /// What each log takes on disk, by partition. Looks at files: it may block.
    pub fn disk_bytes(&self) -> BTreeMap<u32, u64> {
        let logs: Vec<(u32, Arc<dyn Log>)> = {
            let core = self.0.shared.core.lock();
            core.books.iter().map(|(partition, book)| (*partition, book.log.clone())).collect()
        };
        logs.into_iter().map(|(partition, log)| (partition, log.disk_bytes())).collect()
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
        let key = Key { at: entry.at, seq: id.seq };
        let waits = matches!(entry.stage, Stage::Inbox | Stage::Running);
        let why = lane.filter(|_| waits).and_then(|lane| core.sched.why(lane, key));
        Ok(Explained { entry, why })
    }

    /// Entries of a queue, at most so many: those that are ready, then those that are held back or over, then those whose
    /// time comes later. Reads the log: it may block.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn list(&self, name: &QueueName, most: usize) -> Result<Vec<EntryId>, Refused> {
        let queue = self.queue(name).ok_or_else(|| Refused::NoQueue(name.clone()))?;
        let partition = queue.partition;
        let page = self.page(partition, name, None, most, |_| true)?;
        Ok(page.found.into_iter().map(|listed| EntryId { partition, seq: listed.seq }).collect())
    }

    /// A page of the entries of a queue, of those stages that `wanted` says yes to: see [`Ledger::page`]. Reads the log: it
    /// may block.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn page(
        &self,
        partition: u32,
        name: &QueueName,
        from: Option<&Place>,
        most: usize,
        wanted: impl Fn(Stage) -> bool,
    ) -> Result<Page, Refused> {
        let (log, number) = {
            let core = self.0.shared.core.lock();
            let book = core.books.get(&partition).ok_or(Refused::NotHere(partition))?;
            let (number, ..) = book.ledger.row(name).ok_or_else(|| Refused::NoQueue(name.clone()))?;
            (book.log.clone(), number)
        };
        Ledger::page(&*log, number, from, most, wanted)
    }

    /// The invariants of everything under the lock.
    ///
    /// # Errors
    /// The name of the first that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        self.0.shared.core.lock().check()
    }
}

fn lanes(id: QueueId) -> impl Iterator<Item = LaneId> {
    Class::all().map(move |class| LaneId { queue: id, class })
}

fn running((lane, item): (LaneId, &Item)) -> Listed {
    let Key { at, seq } = item.key;
    Listed { seq, stage: Stage::Running, class: lane.class, at }
}

impl<P> Core<P> {
    fn oldest(&self, id: QueueId) -> Option<Millis> {
        lanes(id).filter_map(|lane| self.sched.oldest(lane)).min()
    }

    fn running(&self, id: QueueId) -> Vec<Listed> {
        if self.sched.runs(id) == 0 {
            return Vec::new();
        }
        self.sched.all_runs().filter(|(lane, _)| lane.queue == id).map(running).collect()
    }

    /// What runs, queue by queue: for whoever looks at many of them.
    fn all_runs(&self) -> HashMap<QueueId, Vec<Listed>> {
        let mut runs: HashMap<QueueId, Vec<Listed>> = HashMap::new();
        for (lane, item) in self.sched.all_runs() {
            runs.entry(lane.queue).or_default().push(running((lane, item)));
        }
        runs
    }

    fn why(&self, id: QueueId) -> Vec<(Class, Why)> {
        lanes(id).filter_map(|lane| Some((lane.class, self.sched.why_lane(lane)?))).collect()
    }

    /// Where a queue comes in an overview: least first. `None`: it is not asked for.
    fn rank(&self, book: &Book, number: u64, wish: &Wish) -> Option<u64> {
        let (id, row, entries) = book.ledger.at(number)?;
        if wish.tenant.as_ref().is_some_and(|tenant| *tenant != row.name.tenant) {
            return None;
        }
        Some(match wish.first {
            First::Oldest if book.poisoned.is_some() => u64::MAX,
            First::Oldest => self.oldest(id).map_or(u64::MAX, |at| at.0),
            // What is not counted yet may be the deepest of all.
            First::Deepest => entries.map_or(0, |entries| u64::MAX - entries),
        })
    }

    fn seen(
        &self,
        partition: u32,
        number: u64,
        running: impl FnOnce(QueueId) -> Vec<Listed>,
    ) -> Option<QueueSeen> {
        let book = self.books.get(&partition)?;
        let (id, row, entries) = book.ledger.at(number)?;
        // The scheduler knows nothing of a log that can no longer be written.
        let id = Some(id).filter(|_| book.poisoned.is_none());
        let runs = id.map(running).unwrap_or_default();
        Some(QueueSeen {
            name: row.name.clone(),
            partition,
            terms: row.terms.clone(),
            paused: row.paused,
            entries,
            oldest: id.and_then(|id| self.oldest(id)),
            running: runs.len(),
            runs,
            why: id.map(|id| self.why(id)).unwrap_or_default(),
        })
    }
}
