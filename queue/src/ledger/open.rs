//! From a log to books: queues that are not empty, what ran when the last owner ended, and where to go on.

use std::collections::HashMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Desk, Ledger};
use crate::entry::Stage;
use crate::format::{self, Placed, QueueRow, meta};
use crate::log::{Batch, Error, Log, Patience, Span, Sync, Table};
use crate::name::{Class, Millis, QueueName};
use crate::scheduler::{LaneId, Scheduler};

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Queues that are not empty.
    pub queues: usize,
    /// Entries that ran when the last owner ended; they run again.
    pub resumed: usize,
}

impl Ledger {
    /// Reads the metadata of queues that are not empty, and nothing of what waits in them.
    ///
    /// # Errors
    /// A log that cannot be read, belongs to another partition, or to somebody with a higher fence.
    pub fn open(
        log: &dyn Log,
        partition: u32,
        fence: u64,
        sched: &mut Scheduler,
    ) -> Result<(Self, Opened), Error> {
        let number = |name: &[u8]| -> Result<Option<u64>, Error> {
            log.get(Table::Meta, name)?.map(|row| format::one_number(Table::Meta, &row)).transpose()
        };
        let damaged = |why: String| Error::Damaged { table: Table::Meta, why };
        if let Some(found) = number(meta::PARTITION)?
            && found != u64::from(partition)
        {
            return Err(damaged(format!("it holds partition {found}, not {partition}")));
        }
        let before = number(meta::FENCE)?.unwrap_or_default();
        if before > fence {
            return Err(Error::Fenced(before));
        }
        let next = number(meta::NEXT)?.unwrap_or(1);
        let due_mark = Millis(number(meta::DUE)?.unwrap_or_default());
        let mut ledger = Self {
            partition,
            next,
            promised: next,
            last: Millis(0),
            numbers: HashMap::new(),
            live: 0,
            desks: HashMap::new(),
            counted: false,
            next_due: None,
            due_mark,
        };
        each(log, &format::all(Table::Queues), |key, value| {
            let number = format::one_number(Table::Queues, key)?;
            ledger.open_queue(number, QueueRow::decode(value)?, sched);
            Ok(())
        })?;
        let mut batch = Batch::default();
        batch.put(Table::Meta, meta::PARTITION, format::number(u64::from(partition)));
        batch.put(Table::Meta, meta::FENCE, format::number(fence));
        let resumed = ledger.resume_all(log, &mut batch)?;
        ledger.open_lanes(sched);
        log.commit(batch, Sync::Disk)?;
        each(log, &format::all(Table::Debts), |key, value| {
            let (target, class, tenant) = format::debt_key(key)?;
            sched.set_debt(&target, class, &tenant, format::one_number(Table::Debts, value)?);
            Ok(())
        })?;
        let timers = Span {
            table: Table::Timers,
            from: format::timer(due_mark, format::Due::Ready, crate::name::Seq(0)),
            to: Bytes::new(),
        };
        let mut first = None;
        let mut visit = |key: &[u8], _: &[u8]| {
            first = Some(format::timer_key(key).map(|(at, ..)| at));
            ControlFlow::Break(())
        };
        log.scan(&timers, Patience::Wait, &mut visit)?;
        ledger.next_due = first.transpose()?;
        let opened = Opened { queues: ledger.desks.len(), resumed };
        Ok((ledger, opened))
    }

    fn open_queue(&mut self, number: u64, row: QueueRow, sched: &mut Scheduler) {
        let QueueRow { name, terms, paused, .. } = &row;
        let id = sched.add_queue(name.clone(), (self.partition, number), terms, *paused);
        self.numbers.insert(QueueName::clone(name), number);
        self.desks.insert(number, Desk { id, live: 0, row: Box::new(row), starts: 0 });
    }

    /// Running -> Inbox, of everything that ran when the last owner ended: where it was, so that it goes first.
    fn resume_all(&mut self, log: &dyn Log, batch: &mut Batch) -> Result<usize, Error> {
        let mut resumed = 0;
        each(log, &format::all(Table::Running), |key, value| {
            let Placed { queue, class, item, .. } = Placed::decode(Table::Running, value)?;
            batch.delete(Table::Running, Bytes::copy_from_slice(key));
            batch.put(Table::Inbox, format::inbox(queue, class, item.key), format::item(&item));
            if let Some(deadline) = item.deadline {
                let timer = format::timer(deadline, format::Due::Expire, item.key.seq);
                let placed = Placed { queue, class, stage: Stage::Inbox, item: item.clone() };
                batch.put(Table::Timers, timer, placed.encode());
                if deadline < self.due_mark {
                    self.due_mark = deadline;
                    batch.put(Table::Meta, meta::DUE, format::number(deadline.0));
                }
            }
            let desk = self.desks.get_mut(&queue).ok_or_else(|| Error::Damaged {
                table: Table::Running,
                why: format!("an entry of queue {queue}, which is not there"),
            })?;
            let low = &mut desk.row.low[class.number()];
            if low.is_none_or(|low| item.key < low) {
                *low = Some(item.key);
                batch.put(Table::Queues, format::number(queue), desk.row.encode());
            }
            resumed += 1;
            Ok(())
        })?;
        Ok(resumed)
    }

    fn open_lanes(&self, sched: &mut Scheduler) {
        // In the order in which they came, also so that a simulation goes the same way twice.
        let mut desks: Vec<(&u64, &Desk)> = self.desks.iter().collect();
        desks.sort_unstable_by_key(|(number, _)| **number);
        for (_, desk) in desks {
            for class in Class::all().filter(|class| desk.row.low[class.number()].is_some()) {
                sched.open(LaneId { queue: desk.id, class });
            }
        }
    }
}

/// Counts entries queue by queue, in whatever stage they are, without touching a payload. `begun` is called once all of
/// it is on snapshots: until then nothing may be committed, or an entry that moves is counted twice or never.
///
/// # Errors
/// A log that cannot be read.
pub fn count(log: &dyn Log, begun: impl FnOnce()) -> Result<HashMap<u64, u64>, Error> {
    // M4: an entry is in one of these.
    let tables = [Table::Inbox, Table::Running, Table::Aside, Table::Timers];
    let (begins, all_begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let scans = tables.map(|table| {
            let begins = begins.clone();
            scope.spawn(move || count_table(log, table, begins))
        });
        drop(begins);
        // Each says once that it has begun, and at the latest by its end.
        for () in all_begun.iter().take(tables.len()) {}
        begun();
        let mut counts: HashMap<u64, u64> = HashMap::new();
        for scan in scans {
            let counted = scan.join().map_err(|_| Error::Engine {
                what: "counting what waits".to_owned(),
                why: "it panicked".to_owned(),
            })??;
            for (queue, count) in counted {
                *counts.entry(queue).or_default() += count;
            }
        }
        Ok(counts)
    })
}

fn count_table(
    log: &dyn Log,
    table: Table,
    begins: std::sync::mpsc::Sender<()>,
) -> Result<HashMap<u64, u64>, Error> {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    let mut begins = Some(begins);
    each(log, &format::all(table), |key, value| {
        if let Some(begins) = begins.take() {
            let _nobody_waits = begins.send(());
        }
        let queue = match table {
            Table::Inbox | Table::Aside => format::one_number(table, key)?,
            Table::Timers if format::timer_key(key)?.1 != format::Due::Ready => return Ok(()),
            _ => Placed::decode(table, value)?.queue,
        };
        *counts.entry(queue).or_default() += 1;
        Ok(())
    })?;
    if let Some(begins) = begins.take() {
        let _nobody_waits = begins.send(());
    }
    Ok(counts)
}

/// Visits every row of a span, and stops at the first that is wrong.
pub(crate) fn each(
    log: &dyn Log,
    span: &Span,
    mut row: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut wrong = None;
    let mut visit = |key: &[u8], value: &[u8]| match row(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            wrong = Some(error);
            ControlFlow::Break(())
        }
    };
    log.scan(span, Patience::Wait, &mut visit)?;
    wrong.map_or(Ok(()), Err)
}
