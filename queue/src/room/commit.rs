//! The committer of a log: the one thread that writes it. It takes what has come together, makes one batch of it, syncs
//! once, tells the scheduler, and answers.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use crate::ledger::{Ask, Ledger, Plan, Refused, What};
use crate::log::{Log, Sync};
use crate::name::{EntryId, Millis};

/// Moves that wait for the committer. Bounded by who posts: each caller waits for its answer, and the scheduler has at most
/// as many starts under way as there are places.
#[derive(Default)]
pub(super) struct Mailbox {
    inner: Mutex<Posted>,
    came: Condvar,
}

#[derive(Default)]
struct Posted {
    asks: VecDeque<Ask>,
    closed: bool,
}

impl Mailbox {
    pub(super) fn post(&self, ask: Ask) {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            ask.refuse(Refused::Closing);
            return;
        }
        inner.asks.push_back(ask);
        self.came.notify_one();
    }

    pub(super) fn close(&self) {
        let refused = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            self.came.notify_all();
            std::mem::take(&mut inner.asks)
        };
        for ask in refused {
            ask.refuse(Refused::Closing);
        }
    }

    /// Waits until there is something, and takes what is there. `None`: it is closed.
    fn take(&self, most: usize, carried: usize) -> Option<Vec<Ask>> {
        let mut inner = self.inner.lock();
        while inner.asks.is_empty() && carried == 0 && !inner.closed {
            self.came.wait(&mut inner);
        }
        if inner.closed {
            return None;
        }
        let some = inner.asks.len().min(most);
        Some(inner.asks.drain(..some).collect())
    }
}

/// Commits until the partition is given up, or the room ends.
pub(super) fn serve<P: Send + 'static>(
    shared: &Weak<Shared<P>>,
    partition: u32,
    log: &Arc<dyn Log>,
    mailbox: &Mailbox,
) {
    let mut carried: Vec<Ask> = Vec::new();
    let most = match shared.upgrade() {
        Some(shared) => shared.options.batch.max(1),
        None => return,
    };
    while let Some(came) = mailbox.take(most, carried.len()) {
        let Some(shared) = shared.upgrade() else { break };
        let mut asks = std::mem::take(&mut carried);
        asks.extend(came);
        carried = shared.commit(partition, &**log, asks);
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
        for mut ask in asks {
            dealt_with_due |= matches!(ask.what, What::Due { .. });
            match Ledger::look(&ask.what, due_from, log) {
                Ok(seen) => {
                    ask.seen = seen;
                    looked.push(ask);
                }
                Err(why) => self.refuse(partition, ask, why),
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
                            plan.undone.push(book.ledger.id(seq));
                        }
                        ask.refuse(Refused::Log(why.clone()));
                    }
                }
            }
            core.take_undone(&plan.undone)
        };
        drop(undone);
        if !plan.is_empty() {
            self.write(partition, log, plan);
        }
        if dealt_with_due && !carried.iter().any(|ask| matches!(ask.what, What::Due { .. })) {
            self.core.lock().due_done(partition);
            self.pump();
        }
        carried
    }

    fn write(&self, partition: u32, log: &dyn Log, mut plan: Plan) {
        let batch = std::mem::take(&mut plan.batch);
        let sync = plan.sync.unwrap_or(Sync::Write).min(self.options.durability);
        let since = self.now();
        let committed = if batch.is_empty() { Ok(()) } else { log.commit(batch, sync) };
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
            self.runner.revoked(id, lease);
        }
    }

    fn refuse(&self, partition: u32, ask: Ask, why: Refused) {
        tracing::warn!(partition, what = ask.what.name(), %why, "a move could not be looked at");
        let undone = {
            let mut core = self.core.lock();
            let now = self.now();
            match ask.what {
                What::Start { seq, lease } => {
                    let id = EntryId { partition, seq };
                    core.sched.undo(id, lease, now);
                    core.take_undone(&[id])
                }
                // It is out of its lane already, and is there all the same.
                What::Expire { lane, key } => {
                    core.sched.removed(lane, key);
                    core.sched.distrust(lane);
                    Vec::new()
                }
                _ => Vec::new(),
            }
        };
        drop(undone);
        ask.refuse(why);
    }

    fn due_from(&self, partition: u32) -> Option<Millis> {
        self.core.lock().books.get(&partition).map(|book| book.ledger.due_from())
    }
}
