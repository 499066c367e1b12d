//! The committer of a log: the one thread that writes it. It takes what has come together, makes one batch of it, syncs
//! once, tells the scheduler, and answers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use super::core::AFTER_FAILURE;
use super::{Shared, safely};
use crate::ledger::{Ask, Ledger, Plan, Refused, Seen, What};
use crate::log::{Batch, Log, Sync};
use crate::name::Millis;

/// Moves that wait for the committer. It has no bound of its own. Whoever waits for an answer has one move here; whoever posts
/// several at once ([`super::Room::send`], [`super::Room::enqueue_all`]) has all of them here, and must bound them; the
/// room itself has at most one start for each place, one end for each entry in memory that is too late, one close for each
/// queue, and one look at what is due.
#[derive(Default)]
pub(super) struct Mailbox {
    inner: Mutex<Posted>,
    came: Condvar,
    /// The same as [`Posted::closed`], for whoever looks often.
    ended: AtomicBool,
}

#[derive(Default)]
struct Posted {
    asks: VecDeque<Ask>,
    /// The entries are to be counted.
    count: bool,
    closed: bool,
}

/// What the committer is to do next.
struct Work {
    asks: Vec<Ask>,
    count: bool,
}

impl Mailbox {
    pub(super) fn post(&self, ask: Ask) {
        self.put(ask);
        self.wake();
    }

    /// The same for whoever holds the lock of the room, so that starts are written in the order in which they were decided;
    /// once the lock is let go, [`Self::wake`].
    pub(super) fn put(&self, ask: Ask) {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            ask.refuse(Refused::Closing);
            return;
        }
        inner.asks.push_back(ask);
    }

    pub(super) fn wake(&self) {
        self.came.notify_one();
    }

    /// Asks for the entries to be counted. Only the committer can begin that: nothing may be committed meanwhile.
    pub(super) fn count(&self) {
        self.inner.lock().count = true;
        self.came.notify_one();
    }

    /// Whether nothing is taken any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Nothing is taken any more; what is being written is written.
    pub(super) fn end(&self) {
        let refused = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            self.ended.store(true, Ordering::Relaxed);
            self.came.notify_all();
            std::mem::take(&mut inner.asks)
        };
        for ask in refused {
            ask.refuse(Refused::Closing);
        }
    }

    /// Waits until there is something, and takes what is there. `None`: it is closed.
    fn take(&self, most: usize, carried: usize) -> Option<Work> {
        let mut inner = self.inner.lock();
        while inner.asks.is_empty() && !inner.count && carried == 0 && !inner.closed {
            self.came.wait(&mut inner);
        }
        if inner.closed {
            return None;
        }
        let some = inner.asks.len().min(most);
        Some(Work { asks: inner.asks.drain(..some).collect(), count: std::mem::take(&mut inner.count) })
    }
}

/// Commits until the end, and sees to it that a panic on the way is not taken for quiet: nothing is written any more, and
/// whoever asks hears so.
pub(super) fn run<P: Send + 'static>(
    shared: &Weak<Shared<P>>,
    partition: u32,
    log: &Arc<dyn Log>,
    mailbox: &Arc<Mailbox>,
    first: Batch,
) {
    let served = catch_unwind(AssertUnwindSafe(|| serve(shared, partition, log, mailbox, first)));
    if served.is_ok() {
        return;
    }
    let refused = catch_unwind(AssertUnwindSafe(|| {
        if let Some(shared) = shared.upgrade() {
            shared.poison(partition, Plan::default(), "its committer panicked");
        }
        serve(shared, partition, log, mailbox, Batch::default());
    }));
    if refused.is_err() {
        mailbox.end();
    }
}

/// Commits, first what is to be written before all else, until the partition is given up, or the room ends.
fn serve<P: Send + 'static>(
    shared: &Weak<Shared<P>>,
    partition: u32,
    log: &Arc<dyn Log>,
    mailbox: &Arc<Mailbox>,
    first: Batch,
) {
    if !first.is_empty()
        && let Some(shared) = shared.upgrade()
        && let Err(error) = safely("writing the log", || log.commit(first, Sync::Write))
    {
        shared.poison(partition, Plan::default(), &error.to_string());
    }
    let mut carried: Vec<Ask> = Vec::new();
    let most = match shared.upgrade() {
        Some(shared) => shared.options.batch.max(1),
        None => return,
    };
    while let Some(work) = mailbox.take(most, carried.len()) {
        let Some(shared) = shared.upgrade() else { break };
        if work.count {
            shared.count(partition, log, mailbox);
        }
        let mut asks = std::mem::take(&mut carried);
        asks.extend(work.asks);
        if !asks.is_empty() {
            carried = shared.commit(partition, &**log, asks);
        }
    }
    for ask in carried {
        ask.refuse(Refused::Closing);
    }
}

impl<P: Send + 'static> Shared<P> {
    /// One batch. What must wait for the next is returned.
    fn commit(&self, partition: u32, log: &dyn Log, asks: Vec<Ask>) -> Vec<Ask> {
        let Some(due_from) = self.due_from(partition) else {
            for ask in asks {
                ask.refuse(Refused::Closing);
            }
            return Vec::new();
        };
        let mut looked = Vec::with_capacity(asks.len());
        let mut carried = Vec::new();
        let mut dealt_with_due = false;
        let mut again_after = None;
        for mut ask in asks {
            let is_due = matches!(ask.what, What::Due { .. });
            dealt_with_due |= is_due;
            match look(&ask.what, due_from, log) {
                Ok(seen) => {
                    ask.seen = seen;
                    looked.push(ask);
                }
                Err(why) => {
                    if is_due {
                        again_after = Some(self.now().plus(AFTER_FAILURE));
                    }
                    unreadable(partition, ask, why);
                }
            }
        }
        let mut plan = Plan::default();
        let undone = {
            let mut core = self.core.lock();
            let now = self.now();
            let core = &mut *core;
            let Some(book) = core.books.get_mut(&partition) else { return Vec::new() };
            let poisoned = book.poisoned.clone();
            for ask in looked {
                match &poisoned {
                    None => carried.extend(book.ledger.prepare(ask, &mut plan, &mut core.sched, now)),
                    Some(why) => {
                        if let What::Start { seq, lease } = ask.what {
                            core.sched.undo(book.ledger.id(seq), lease, now);
                            plan.undone.push((book.ledger.id(seq), lease));
                        }
                        ask.refuse(Refused::Log(why.clone()));
                    }
                }
            }
            core.take_undone(&plan.undone)
        };
        let freed = !undone.is_empty();
        drop(undone);
        if !plan.is_empty() {
            self.write(partition, log, plan);
        } else if freed {
            // What the refused starts had taken of limits is free for others.
            self.pump();
        }
        if dealt_with_due && !carried.iter().any(|ask| matches!(ask.what, What::Due { .. })) {
            self.core.lock().due_done(partition, again_after);
            self.pump();
        }
        carried
    }

    fn write(&self, partition: u32, log: &dyn Log, mut plan: Plan) {
        let batch = std::mem::take(&mut plan.batch);
        let sync = plan.sync.unwrap_or(Sync::Write).min(self.options.durability);
        let since = self.now();
        let committed =
            if batch.is_empty() { Ok(()) } else { safely("writing the log", || log.commit(batch, sync)) };
        match committed {
            Ok(()) => self.pump_after(|core, now| {
                core.told.commits += 1;
                core.told.moves += plan.moves() as u64;
                // Each is rounded to milliseconds as the clock says them; over many that comes out even.
                core.told.commit_millis += now.since(since);
                let Some(book) = core.books.get_mut(&partition) else { return Vec::new() };
                let (news, empty) = book.ledger.tell(plan, &mut core.sched, now);
                for number in empty {
                    book.mailbox.post(Ask::of(What::Close { number }));
                }
                news
            }),
            // Also what a log says it would not take: the books say it is there, and only the log can say what is.
            Err(error) => self.poison(partition, plan, &error.to_string()),
        }
    }

    /// Whether the batch is there is known after the next start; until then nothing more is written, and nothing starts.
    fn poison(&self, partition: u32, plan: Plan, why: &str) {
        tracing::error!(
            partition,
            why,
            "the queue's log could not be written; it takes nothing more until the next start, which finds out what is in it"
        );
        let ran = {
            let mut core = self.core.lock();
            if let Some(book) = core.books.get_mut(&partition) {
                book.poisoned = Some(why.to_owned());
            }
            let places = core.take_starting(partition);
            let now = self.now();
            let ran = core.sched.drop_partition(partition, now);
            drop(core);
            drop(places);
            ran
        };
        plan.refuse(why);
        for (id, lease) in ran {
            self.call(id, |runner| runner.revoked(id, lease));
        }
        // What it had taken of limits is free for other logs, and for those who stand in line.
        self.pump();
    }

    fn due_from(&self, partition: u32) -> Option<Millis> {
        self.core.lock().books.get(&partition).map(|book| book.ledger.due_from())
    }
}

fn look(what: &What, due_from: Millis, log: &dyn Log) -> Result<Seen, Refused> {
    let looked = safely("reading the log", || Ok(Ledger::look(what, due_from, log)));
    looked.unwrap_or_else(|error| Err(Refused::Log(error.to_string())))
}

/// A move of which it could not be read what it must know. (A start reads nothing.) An entry that should expire is out of
/// its lane already, and stays so: its timer is still in the log, and is tried until it can be read.
fn unreadable(partition: u32, ask: Ask, why: Refused) {
    tracing::warn!(partition, what = ask.what.name(), %why, "a move could not be looked at");
    ask.refuse(why);
}
