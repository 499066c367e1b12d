//! From a log to books: queues that are not empty, what ran when the last owner ended, and where to go on.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Desk, Ledger};
use crate::entry::Stage;
use crate::format::{self, Placed, QueueRow, meta};
use crate::log::{Batch, Error, Log, Patience, Span, Sync, Table};
use crate::name::{Class, Millis};
use crate::scheduler::{Debt, DebtOf, LaneId, Scheduler};

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Queues that are not empty.
    pub queues: usize,
    /// Entries that ran when the last owner ended; they run again.
    pub resumed: usize,
}

/// What a log says about itself, read without anybody's lock: queues that are not empty, and nothing of what waits in
/// them.
#[derive(Debug)]
pub struct OnDisk {
    partition: u32,
    next: u64,
    due_mark: Millis,
    next_due: Option<Millis>,
    /// In the order in which they came, also so that a simulation goes the same way twice.
    queues: BTreeMap<u64, QueueRow>,
    debts: Vec<(DebtOf, Debt)>,
    resumed: usize,
}

impl OnDisk {
    /// Reads what is there, and makes ready what ran when the last owner ended. Blocks.
    ///
    /// # Errors
    /// A log that cannot be read, belongs to another partition, or to somebody with a higher fence.
    pub fn read(log: &dyn Log, partition: u32, fence: u64) -> Result<Self, Error> {
        let number = |name: &[u8]| -> Result<Option<u64>, Error> {
            log.get(Table::Meta, name)?.map(|row| format::one_number(Table::Meta, &row)).transpose()
        };
        if let Some(found) = number(meta::PARTITION)?
            && found != u64::from(partition)
        {
            let why = format!("it holds partition {found}, not {partition}");
            return Err(Error::Damaged { table: Table::Meta, why });
        }
        let before = number(meta::FENCE)?.unwrap_or_default();
        if before > fence {
            return Err(Error::Fenced(before));
        }
        let mut found = Self {
            partition,
            next: number(meta::NEXT)?.unwrap_or(1),
            due_mark: Millis(number(meta::DUE)?.unwrap_or_default()),
            next_due: None,
            queues: BTreeMap::new(),
            debts: Vec::new(),
            resumed: 0,
        };
        each(log, &format::all(Table::Queues), |key, value| {
            found.queues.insert(format::one_number(Table::Queues, key)?, QueueRow::decode(value)?);
            Ok(())
        })?;
        let mut batch = Batch::default();
        batch.put(Table::Meta, meta::PARTITION, format::number(u64::from(partition)));
        batch.put(Table::Meta, meta::FENCE, format::number(fence));
        each(log, &format::all(Table::Running), |key, value| {
            batch.delete(Table::Running, Bytes::copy_from_slice(key));
            found.resume(Placed::decode(Table::Running, value)?, &mut batch)
        })?;
        log.commit(batch, Sync::Disk)?;
        each(log, &format::all(Table::Debts), |key, value| {
            found.debts.push(format::debt_row(key, value)?);
            Ok(())
        })?;
        let timers = Span {
            table: Table::Timers,
            from: format::timer(found.due_mark, format::Due::Ready, crate::name::Seq(0)),
            to: Bytes::new(),
        };
        let mut first = None;
        let mut visit = |key: &[u8], _: &[u8]| match format::timer_key(key) {
            Ok((at, ..)) => {
                first = Some(at);
                ControlFlow::Break(())
            }
            // Whoever looks at what is due says so.
            Err(_) => ControlFlow::Continue(()),
        };
        log.scan(&timers, Patience::Wait, &mut visit)?.whole()?;
        found.next_due = first;
        Ok(found)
    }

    /// Running -> Inbox, of what ran when the last owner ended: where it was, so that it goes first.
    fn resume(&mut self, placed: Placed, batch: &mut Batch) -> Result<(), Error> {
        let Placed { queue, class, item, .. } = placed;
        batch.put(Table::Inbox, format::inbox(queue, class, item.key), format::item(&item));
        let row = self.queues.get_mut(&queue).ok_or_else(|| Error::Damaged {
            table: Table::Running,
            why: format!("an entry of queue {queue}, which is not there"),
        })?;
        // M5
        let low = &mut row.low[class.number()];
        if low.is_none_or(|low| item.key < low) {
            *low = Some(item.key);
            batch.put(Table::Queues, format::number(queue), row.encode());
        }
        if let Some(deadline) = item.deadline {
            let timer = format::timer(deadline, format::Due::Expire, item.key.seq);
            batch.put(Table::Timers, timer, Placed { queue, class, stage: Stage::Inbox, item }.encode());
            if deadline < self.due_mark {
                self.due_mark = deadline;
                batch.put(Table::Meta, meta::DUE, format::number(deadline.0));
            }
        }
        self.resumed += 1;
        Ok(())
    }

    /// Tells the scheduler, and opens the books. Touches no disk, and cannot fail. The batch is what is still to be written,
    /// before anything else is: debts as they are in the virtual time of this scheduler.
    pub fn open(self, sched: &mut Scheduler) -> (Ledger, Opened, Batch) {
        let mut ledger = Ledger {
            partition: self.partition,
            next: self.next,
            promised: self.next,
            last: Millis(0),
            numbers: HashMap::new(),
            live: 0,
            desks: HashMap::new(),
            counted: false,
            next_due: self.next_due,
            due_mark: self.due_mark,
            owing: BTreeMap::new(),
            owing_seen: Bytes::new(),
        };
        let mut lanes = Vec::new();
        for (number, row) in self.queues {
            let QueueRow { name, terms, paused, low, .. } = &row;
            let id = sched.add_queue(name.clone(), (self.partition, number), terms, *paused);
            let classes = Class::all().filter(|class| low[class.number()].is_some());
            lanes.extend(classes.map(|class| LaneId { queue: id, class }));
            ledger.numbers.insert(name.clone(), number);
            ledger.desks.insert(number, Desk { id, live: 0, row: Box::new(row), starts: 0 });
        }
        // Before anybody comes to them: they are owed to whoever comes.
        let batch = ledger.open_debts(&self.debts, sched);
        for lane in lanes {
            sched.open(lane);
        }
        let opened = Opened { queues: ledger.desks.len(), resumed: self.resumed };
        (ledger, opened, batch)
    }
}

impl Ledger {
    /// Both at once, for whoever has the scheduler to himself: [`OnDisk::read`], then [`OnDisk::open`].
    ///
    /// # Errors
    /// See [`OnDisk::read`].
    pub fn open(
        log: &dyn Log,
        partition: u32,
        fence: u64,
        sched: &mut Scheduler,
    ) -> Result<(Self, Opened), Error> {
        let (ledger, opened, batch) = OnDisk::read(log, partition, fence)?.open(sched);
        log.commit(batch, Sync::Write)?;
        Ok((ledger, opened))
    }

    /// What tenants owed. A debt that the others have been served since is forgotten, so that rows do not pile up.
    fn open_debts(&mut self, debts: &[(DebtOf, Debt)], sched: &mut Scheduler) -> Batch {
        let mut batch = Batch::default();
        for ((of, _), left) in debts.iter().zip(sched.set_debts(debts)) {
            let key = format::debt(&of.target, of.class, &of.tenant);
            if left.tokens == 0 {
                batch.delete(Table::Debts, key);
            } else {
                batch.put(Table::Debts, key.clone(), format::debt_value(left));
                self.owing.insert(key, of.clone());
            }
        }
        batch
    }
}

/// Counts entries queue by queue, in whatever stage they are, without touching a payload. `begun` is called once all of
/// it is on snapshots: until then nothing may be committed, or an entry that moves is counted twice or never. It ends with the
/// next row once it is not `wanted` any more.
///
/// # Errors
/// A log that cannot be read, or a count that is not wanted any more.
pub fn count(
    log: &dyn Log,
    begun: impl FnOnce(),
    wanted: &(dyn Fn() -> bool + std::marker::Sync),
) -> Result<HashMap<u64, u64>, Error> {
    // M4: an entry is in one of these.
    let tables = [Table::Inbox, Table::Running, Table::Aside, Table::Timers];
    let (begins, all_begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let scans = tables.map(|table| {
            let begins = begins.clone();
            scope.spawn(move || count_table(log, table, begins, wanted))
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
    wanted: &dyn Fn() -> bool,
) -> Result<HashMap<u64, u64>, Error> {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    let mut begins = Some(begins);
    each(log, &format::all(table), |key, value| {
        if let Some(begins) = begins.take() {
            let _nobody_waits = begins.send(());
        }
        if !wanted() {
            let why = "nobody wants it any more".to_owned();
            return Err(Error::Engine { what: "counting what waits".to_owned(), why });
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
    log.scan(span, Patience::Wait, &mut visit)?.whole()?;
    wrong.map_or(Ok(()), Err)
}
