//! The room in motion: one scheduler, a committer for each log, readers, and a clock that wakes them.
//!
//! All decisions are made under one lock, which is never held while a disk is waited for. What is dropped or called that
//! belongs to others (places, runners) is dropped and called outside of it.

mod commit;
mod core;
mod look;
mod read;
mod stand;
mod told;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::entry::{Cost, Entry, Item, Lease, Outcome};
use crate::ledger::{self, Ask, Done, Ledger, Opened, Refused, What};
use crate::limits::Limits;
use crate::log::{self, Log, Sync};
use crate::name::{EntryId, Millis, QueueName};
use crate::scheduler::{self, Ground, Scheduler, Tenancy};

use commit::Mailbox;
use core::Core;
use read::Readers;

pub use look::{Explained, First, LineSeen, LogSeen, Overview, QueueSeen, Totals, Wish};
pub use stand::{Gone, Standing, Turn, Waiting};
pub use told::{OUTCOMES, Told};

/// How a room works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How turns are given.
    pub scheduler: scheduler::Options,
    /// What an acknowledgement means.
    pub durability: Sync,
    /// Moves that are committed together at most.
    pub batch: usize,
    /// Threads that read logs.
    pub readers: usize,
}

/// What the time is.
pub trait Clock: Send + std::marker::Sync + 'static {
    /// Now.
    fn now(&self) -> Millis;
}

/// Runs what has been started. Called from threads of the room: it must not wait.
pub trait Runner<P>: Send + std::marker::Sync + 'static {
    /// An entry of a log may run, at this place, until it is finished or given back with its lease.
    fn run(&self, started: Started<P>);
    /// An entry was taken away from whoever runs it: drop the work.
    fn revoked(&self, id: EntryId, lease: Lease) {
        let _ = (id, lease);
    }
    /// An entry is over.
    fn over(&self, id: EntryId, outcome: Outcome) {
        let _ = (id, outcome);
    }
}

/// An entry that may run.
#[derive(Debug)]
pub struct Started<P> {
    /// Which entry.
    pub id: EntryId,
    /// Of which queue.
    pub queue: QueueName,
    /// The right to run it.
    pub lease: Lease,
    /// What the scheduler knew of it; `attempt` counts earlier starts.
    pub item: Item,
    /// Where.
    pub place: P,
}

/// Who waits, who runs; cheap to clone. It ends with [`Room::close`], or when the last clone is gone.
pub struct Room<P: Send + 'static>(Arc<Handle<P>>);

impl<P: Send + 'static> Clone for Room<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Ends the threads with the last who could ask for anything.
struct Handle<P: Send + 'static> {
    shared: Arc<Shared<P>>,
}

impl<P: Send + 'static> Drop for Handle<P> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

pub(crate) struct Shared<P: Send + 'static> {
    me: Weak<Self>,
    core: Mutex<Core<P>>,
    /// Told when the next timer may have moved.
    ticked: Condvar,
    runner: Arc<dyn Runner<P>>,
    clock: Arc<dyn Clock>,
    readers: Readers,
    options: Options,
    closing: AtomicBool,
    /// Lanes that have something: with none, whoever comes need not stand in line.
    waiting: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { scheduler: scheduler::Options::default(), durability: Sync::Disk, batch: 256, readers: 2 }
    }
}

// === impl Room ===

impl<P: Send + 'static> Room<P> {
    /// A room without a log: only what lives in memory can wait in it until [`Room::open`].
    pub fn new(
        options: Options,
        clock: Arc<dyn Clock>,
        ground: Box<dyn Ground<Place = P> + Send>,
        runner: Arc<dyn Runner<P>>,
    ) -> Self {
        let (readers, jobs) = Readers::new();
        let threads = options.readers.max(1);
        let shared = Arc::new_cyclic(|me| Shared {
            me: me.clone(),
            core: Mutex::new(Core::new(Scheduler::new(options.scheduler.clone()), ground)),
            ticked: Condvar::new(),
            runner,
            clock,
            readers,
            options,
            closing: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            threads: Mutex::default(),
        });
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads {
            let (of, jobs) = (Arc::downgrade(&shared), jobs.clone());
            shared.spawn("queue-reader", move || read::serve(&of, &jobs));
        }
        let of = Arc::downgrade(&shared);
        shared.spawn("queue-clock", move || core::keep_time(&of));
        Self(Arc::new(Handle { shared }))
    }

    /// Takes a log's partition into the room: what waits in it waits here from now on.
    ///
    /// # Errors
    /// A log that cannot be read, belongs to another partition, or to somebody with a higher fence.
    pub fn open(&self, partition: u32, fence: u64, log: Arc<dyn Log>) -> Result<Opened, log::Error> {
        let shared = &self.0.shared;
        let mailbox = Arc::new(Mailbox::default());
        let opened = {
            let mut core = shared.core.lock();
            if core.books.contains_key(&partition) {
                return Err(log::Error::Locked(format!("partition {partition}")));
            }
            let (ledger, opened) = Ledger::open(&*log, partition, fence, &mut core.sched)?;
            core.books.insert(partition, core::Book::new(ledger, log.clone(), mailbox.clone()));
            opened
        };
        // Nothing is committed until the count has its snapshots.
        let (begun, counting) = std::sync::mpsc::channel();
        let (of, counted) = (Arc::downgrade(shared), log.clone());
        shared.spawn("queue-count", move || {
            let counts = ledger::count(&*counted, || {
                let _nobody_waits = begun.send(());
            });
            if let Some(shared) = of.upgrade() {
                shared.counted(partition, counts);
            }
        });
        let _panicked = counting.recv();
        let of = Arc::downgrade(shared);
        shared.spawn("queue-commit", move || commit::serve(&of, partition, &log, &mailbox));
        shared.pump();
        Ok(opened)
    }

    /// Gives a partition up: what waits in it waits here no longer. What ran is revoked.
    pub fn give_up(&self, partition: u32) {
        self.0.shared.give_up(partition);
    }

    /// The partitions that are open here.
    pub fn partitions(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.0.shared.core.lock().books.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// -> Inbox, or -> Scheduled. When it returns, the entry is as durable as the settings say.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn enqueue(&self, partition: u32, entry: Entry) -> Result<Done, Refused> {
        self.ask(partition, What::Enqueue(Box::new(entry))).await
    }

    /// The same for several, with one wait.
    ///
    /// # Errors
    /// The first that was refused; others may have been taken.
    pub async fn enqueue_all(&self, partition: u32, entries: Vec<Entry>) -> Result<Vec<Done>, Refused> {
        let asked: Vec<_> =
            entries.into_iter().map(|entry| self.send(partition, What::Enqueue(Box::new(entry)))).collect();
        let mut done = Vec::with_capacity(asked.len());
        for answer in asked {
            done.push(answer.await.unwrap_or(Err(Refused::Closing))?);
        }
        Ok(done)
    }

    /// Running -> Finished
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn finish(
        &self,
        started: &Hold,
        outcome: Outcome,
        used: Cost,
        result: Bytes,
    ) -> Result<Done, Refused> {
        let Hold { id, lease, remembered } = *started;
        let what = What::Finish { seq: id.seq, lease, remembered, outcome, used, result };
        self.ask(id.partition, what).await
    }

    /// Running -> Inbox, or -> Scheduled
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn give_back(
        &self,
        held: &Hold,
        not_before: Option<Millis>,
        used: Cost,
    ) -> Result<Done, Refused> {
        self.ask(held.id.partition, What::Yield { seq: held.id.seq, lease: held.lease, not_before, used })
            .await
    }

    /// Running -> Suspended
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn suspend(&self, held: &Hold, used: Cost) -> Result<Done, Refused> {
        self.ask(held.id.partition, What::Suspend { seq: held.id.seq, lease: held.lease, used }).await
    }

    /// Any other move.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn ask(&self, partition: u32, what: What) -> Result<Done, Refused> {
        self.send(partition, what).await.unwrap_or(Err(Refused::Closing))
    }

    /// Asks for a move now; the answer comes when it is made.
    pub fn send(&self, partition: u32, what: What) -> tokio::sync::oneshot::Receiver<Result<Done, Refused>> {
        let (ask, answer) = Ask::answered(what);
        self.0.shared.post(partition, ask);
        answer
    }

    /// Something about where entries could run has changed. Cheap if nobody waits.
    pub fn stir(&self, target: Option<&str>) {
        if self.has_line() {
            self.0.shared.core.lock().sched.stir(target);
            self.0.shared.pump();
        }
    }

    /// Whether anybody waits for anything.
    pub fn has_line(&self) -> bool {
        self.0.shared.waiting.load(Ordering::Acquire) > 0
    }

    /// What a tenant may use, and its part.
    pub fn tenancy(&self, tenant: &str, tenancy: Tenancy) {
        self.0.shared.core.lock().sched.tenancy(tenant, tenancy);
        self.0.shared.pump();
    }

    /// What the engines of a target may be given together.
    pub fn limit_target(&self, target: &str, limits: Limits) {
        self.0.shared.core.lock().sched.limit_target(target, limits);
        self.0.shared.pump();
    }

    /// Ends everything that moves. What was acknowledged is in the logs.
    pub fn close(&self) {
        self.0.shared.close();
    }
}

/// An entry that is held, as far as its runner must remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which entry.
    pub id: EntryId,
    /// The right to run it.
    pub lease: Lease,
    /// See [`Item::remembered`].
    pub remembered: bool,
}

impl<P> Started<P> {
    /// What must be remembered to finish it.
    pub fn hold(&self) -> Hold {
        Hold { id: self.id, lease: self.lease, remembered: self.item.remembered }
    }
}

// === impl Shared ===

impl<P: Send + 'static> Shared<P> {
    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        match spawned {
            Ok(thread) => self.threads.lock().push(thread),
            Err(error) => tracing::error!(%error, name, "a thread of the queues could not be started"),
        }
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Puts a move where the partition's committer finds it.
    fn post(&self, partition: u32, ask: Ask) {
        let mailbox = self.core.lock().books.get(&partition).map(|book| book.mailbox.clone());
        match mailbox {
            Some(mailbox) => mailbox.post(ask),
            None => ask.refuse(Refused::Closing),
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn close(&self) {
        if self.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        let mailboxes: Vec<Arc<Mailbox>> =
            self.core.lock().books.values().map(|book| book.mailbox.clone()).collect();
        for mailbox in mailboxes {
            mailbox.close();
        }
        self.readers.close();
        self.ticked.notify_all();
        let this = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The last clone may be dropped by a runner, on one of these.
            if thread.thread().id() != this {
                let _panicked = thread.join();
            }
        }
        self.core.lock().let_all_go();
    }

    fn give_up(&self, partition: u32) {
        let Some(book) = self.core.lock().books.remove(&partition) else { return };
        book.mailbox.close();
        let (ran, places) = {
            let mut core = self.core.lock();
            let now = self.now();
            (core.sched.drop_partition(partition, now), core.take_starting(partition))
        };
        drop(places);
        for (id, lease) in ran {
            self.runner.revoked(id, lease);
        }
        self.pump();
    }

    fn counted(&self, partition: u32, counts: Result<HashMap<u64, u64>, log::Error>) {
        let mut core = self.core.lock();
        let Some(book) = core.books.get_mut(&partition) else { return };
        match counts {
            Ok(counts) => {
                for number in book.ledger.count(&counts) {
                    book.mailbox.post(Ask::of(What::Close { number }));
                }
            }
            Err(error) => {
                tracing::error!(partition, %error, "what waits could not be counted: depths stay unknown");
            }
        }
    }
}
