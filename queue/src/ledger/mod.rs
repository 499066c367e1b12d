//! Moves between stages: what each asks, whether it may be, which rows it changes, and what the scheduler is then told.
//!
//! One thread makes all moves of a log, in three steps: what a move must know is read ([`Ledger::look`], no lock); what it
//! changes goes into a batch ([`Ledger::prepare`], under the lock, no disk); and once the batch is committed, the scheduler
//! is told, in the order of the batch ([`Ledger::tell`]).
//!
//! - M1: the log is written before the scheduler is told, and before anybody has an answer.
//! - M2: the scheduler is told of every commit, in their order, before the next batch is prepared.
//! - M3: of one entry at most one move is in a batch: a second waits for the next, and sees what the first did. One that
//!   makes an entry ready again also waits until the start that was decided before it left has been refused.
//! - M4: an entry is in exactly one of Inbox, Running, Aside and Timers (to become ready), or over, or gone.
//! - M5: no ready entry sorts below the low-water mark of its lane in the queue's row.

mod ask;
mod due;
mod list;
mod moves;
mod open;

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::entry::{Cost, Item, Lease, Outcome};
use crate::format::{self, QueueRow, meta};
use crate::log::{Batch, Sync, Table};
use crate::name::{CLASSES, Class, EntryId, Key, Millis, QueueName, Seq};
use crate::scheduler::{DebtOf, LaneId, QueueId, Scheduler};

pub use ask::{Ask, Done, Refused, Seen, What};
pub use list::{Listed, Page, Place};
pub use open::{OnDisk, Opened, count};

/// The books of one log.
#[derive(Debug)]
pub struct Ledger {
    partition: u32,
    /// The next number, and below which numbers are promised to nobody else after a restart.
    next: u64,
    promised: u64,
    /// Times never go backwards, whatever the clock does.
    last: Millis,
    numbers: HashMap<QueueName, u64>,
    /// Entries of all queues, as far as they are counted.
    live: i64,
    desks: HashMap<u64, Desk>,
    /// Whether [`Desk::live`] is the truth, and not only what changed since the log was opened.
    counted: bool,
    /// When something becomes due for the first time, or earlier.
    next_due: Option<Millis>,
    /// No timer in the log is before this: where a scan may begin after a restart.
    due_mark: Millis,
    /// Debts that have a row: those of tenants that come and go would pile up.
    owing: BTreeMap<Bytes, DebtOf>,
    /// Which of them was looked at last.
    owing_seen: Bytes,
}

/// What is known of a queue beside what the scheduler knows.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) id: QueueId,
    /// Entries in whatever stage; see [`Ledger::counted`].
    live: i64,
    row: Box<QueueRow>,
    /// Starts since the low-water marks were written.
    starts: u32,
}

/// A batch, and what is to be told when it is committed.
#[derive(Default)]
pub struct Plan {
    /// The changes.
    pub batch: Batch,
    /// How durable they must be.
    pub sync: Option<Sync>,
    /// Each with the number of the queue that it is about.
    effects: Vec<(Effect, u64, Ask)>,
    touched: HashSet<Seq>,
    onces: HashSet<Bytes>,
    /// What becomes ready with this batch: the scheduler does not know of it yet.
    adds: Vec<(u64, Class, Key)>,
    /// Starts that may not be: the scheduler has undone them.
    pub undone: Vec<(EntryId, Lease)>,
    /// By how much what ends in this batch cost more than was thought, by the key of the debt.
    more: HashMap<Bytes, i64>,
    /// The earliest timer that this batch sets.
    first_timer: Option<Millis>,
}

/// What the scheduler is told of a move.
#[derive(Debug)]
enum Effect {
    Nothing(Done),
    Added(Vec<(LaneId, Item)>, Done),
    Started(Seq, Lease),
    Ended { seq: Seq, lease: Lease, used: Cost, back: Option<Item>, revoked: bool, done: Done },
    Left(Vec<(LaneId, Key)>, Done),
    Paused(QueueId, bool),
    Terms(u64),
}

/// What happened in a commit that others must hear of.
#[derive(Debug)]
pub enum News {
    /// A start is written: it may run.
    Started(EntryId, Lease),
    /// An entry was taken from its runner.
    Revoked(EntryId, Lease),
    /// An entry is over.
    Over(EntryId, Outcome),
}

/// Numbers are promised in such portions: one row for so many entries, and at most so many are skipped by a restart.
const PORTION: u64 = 10_000;
/// After so many starts the low-water marks of a queue are written: so many dead rows at most are passed over after a
/// restart, and a row of a hundred bytes is one more in so many.
const STARTS_A_MARK: u32 = 256;
/// Debts that are looked at with each queue that is forgotten: more than a queue can have left behind.
const DEBTS_A_CLOSE: usize = 2 * CLASSES;

// === impl Ledger ===

impl Ledger {
    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The id of an entry of this log.
    pub fn id(&self, seq: Seq) -> EntryId {
        EntryId { partition: self.partition, seq }
    }

    /// When something becomes due.
    pub fn next_due(&self) -> Option<Millis> {
        self.next_due
    }

    /// The queue of this name.
    pub fn queue(&self, name: &QueueName) -> Option<QueueId> {
        let number = self.numbers.get(name)?;
        Some(self.desks.get(number)?.id)
    }

    /// The lane of a queue by its number.
    pub fn lane(&self, number: u64, class: Class) -> Option<LaneId> {
        self.desks.get(&number).map(|desk| LaneId { queue: desk.id, class })
    }

    /// Queues with their rows, and how many entries each has, if that is known yet.
    pub fn queues(&self) -> impl Iterator<Item = (u64, QueueId, &QueueRow, Option<u64>)> {
        let depth = |desk: &Desk| self.counted.then_some(desk.live.max(0) as u64);
        self.desks.iter().map(move |(number, desk)| (*number, desk.id, &*desk.row, depth(desk)))
    }

    /// A queue's row.
    pub fn row(&self, name: &QueueName) -> Option<(u64, QueueId, &QueueRow, Option<u64>)> {
        let number = *self.numbers.get(name)?;
        let desk = self.desks.get(&number)?;
        Some((number, desk.id, &desk.row, self.counted.then_some(desk.live.max(0) as u64)))
    }

    /// The queue of this number.
    pub fn at(&self, number: u64) -> Option<(QueueId, &QueueRow, Option<u64>)> {
        let desk = self.desks.get(&number)?;
        Some((desk.id, &desk.row, self.counted.then_some(desk.live.max(0) as u64)))
    }

    /// The numbers of all queues, in no order.
    pub fn numbers(&self) -> Vec<u64> {
        self.desks.keys().copied().collect()
    }

    /// How many queues there are.
    pub fn count_queues(&self) -> usize {
        self.desks.len()
    }

    /// Entries of all queues, if they have been counted.
    pub fn entries(&self) -> Option<u64> {
        self.counted.then_some(self.live.max(0) as u64)
    }

    /// Where a read of a lane may begin.
    pub fn low(&self, queue: u64, class: Class) -> Option<Key> {
        self.desks.get(&queue)?.row.low[class.number()]
    }

    /// A count of what is in the log begins now: only what changes from here on is to be added to it.
    pub fn begin_count(&mut self) {
        for desk in self.desks.values_mut() {
            desk.live = 0;
        }
        self.live = 0;
        self.counted = false;
    }

    /// What was in the log when the count began has been counted: queue by queue. Those that are empty are returned.
    pub fn count(&mut self, counts: &HashMap<u64, u64>) -> Vec<u64> {
        for (number, desk) in &mut self.desks {
            let counted = counts.get(number).copied().unwrap_or_default() as i64;
            desk.live += counted;
            self.live += counted;
        }
        self.counted = true;
        let over = self.desks.iter().filter(|(_, desk)| desk.is_over());
        let mut over: Vec<u64> = over.map(|(number, _)| *number).collect();
        over.sort_unstable();
        over
    }

    /// A time that is not before any that was given.
    fn time(&mut self, now: Millis) -> Millis {
        self.last = self.last.max(now);
        self.last
    }

    fn mint(&mut self, batch: &mut Batch) -> Seq {
        if self.next >= self.promised {
            self.promised = self.next + PORTION;
            batch.put(Table::Meta, meta::NEXT, format::number(self.promised));
        }
        self.next += 1;
        Seq(self.next - 1)
    }

    /// What a batch did is committed: tells the scheduler, in order. Returns what else must hear of it, and queues that are
    /// empty now.
    pub fn tell(&mut self, plan: Plan, sched: &mut Scheduler, now: Millis) -> (Vec<News>, Vec<u64>) {
        let mut news = Vec::new();
        let mut empty = Vec::new();
        for (effect, number, ask) in plan.effects {
            let done = self.effect(effect, sched, now, &mut news);
            if self.counted && self.desks.get(&number).is_some_and(Desk::is_over) {
                empty.push(number);
            }
            ask.answer(Ok(done));
        }
        empty.sort_unstable();
        empty.dedup();
        (news, empty)
    }

    fn effect(&mut self, effect: Effect, sched: &mut Scheduler, now: Millis, news: &mut Vec<News>) -> Done {
        match effect {
            Effect::Nothing(done) => done,
            Effect::Added(all, done) => {
                for (lane, item) in all {
                    if let Err(twice) = sched.added(lane, item) {
                        // M2 is broken: the cache of this lane can no longer be trusted, and is read anew.
                        tracing::error!(%twice, "an entry was told twice; the lane is read anew");
                        sched.distrust(lane);
                    }
                }
                done
            }
            Effect::Started(seq, lease) => {
                sched.confirm(self.id(seq), lease);
                news.push(News::Started(self.id(seq), lease));
                Done::Moved
            }
            Effect::Ended { seq, lease, used, back, revoked, done } => {
                let ended = sched.ended(self.id(seq), lease, used, now);
                if let (Some(item), Ok((lane, _))) = (back, ended)
                    && sched.added(lane, item).is_err()
                {
                    sched.distrust(lane);
                }
                if revoked {
                    news.push(News::Revoked(self.id(seq), lease));
                }
                if let Done::Over(id, outcome) = done {
                    news.push(News::Over(id, outcome));
                }
                done
            }
            Effect::Left(all, done) => {
                for (lane, key) in all {
                    sched.removed(lane, key);
                }
                if let Done::Over(id, outcome) = done {
                    news.push(News::Over(id, outcome));
                }
                done
            }
            Effect::Paused(queue, paused) => {
                sched.pause(queue, paused);
                Done::Moved
            }
            Effect::Terms(number) => {
                if let Some(desk) = self.desks.get(&number) {
                    sched.set_terms(desk.id, &desk.row.terms);
                }
                Done::Moved
            }
        }
    }
}

impl Desk {
    /// Whether nothing is left that would need it.
    fn is_over(&self) -> bool {
        self.live <= 0 && !self.row.pinned && !self.row.paused
    }
}

impl Plan {
    /// Whether there is nothing to commit and nobody to answer.
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.batch.is_empty()
    }

    /// How many moves it makes.
    pub fn moves(&self) -> usize {
        self.effects.len()
    }

    /// The commit failed: everybody hears of it.
    pub fn refuse(self, why: &str) {
        for (_, _, ask) in self.effects {
            ask.answer(Err(Refused::Log(why.to_owned())));
        }
    }

    fn needs(&mut self, sync: Sync) {
        self.sync = self.sync.max(Some(sync));
    }
}
