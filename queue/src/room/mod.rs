//! The room in motion: one scheduler, a committer for each log, readers, and a clock that wakes them.
//!
//! All decisions are made under one lock, which is never held while a disk is waited for. What is dropped or called that
//! belongs to others (places, runners, callbacks) is dropped and called outside of it, so that it may ask the room at once.

mod ahead;
mod commit;
mod core;
mod look;
mod read;
mod stand;
mod told;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::entry::{Cost, Entry, Item, Lease, Outcome};
use crate::ledger::{self, Ask, Done, OnDisk, Opened, Refused, What};
use crate::limits::Limits;
use crate::log::{self, Log, Sync};
use crate::name::{EntryId, Millis, QueueName, Seq};
use crate::scheduler::{self, Ground, Scheduler, Tenancy};

use commit::Mailbox;
use core::{Book, Core};
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
    /// Lanes that have something and are not paused: with none, whoever comes need not stand in line.
    waiting: AtomicUsize,
    next_volatile: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Committers of partitions that were given up on these very threads; none: somebody waits for its end.
    ending: Mutex<HashMap<u32, Option<JoinHandle<()>>>>,
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
            waiting: AtomicUsize::new(0),
            next_volatile: AtomicU64::new(Seq::VOLATILE),
            threads: Mutex::default(),
            ending: Mutex::default(),
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

    /// Takes a log's partition into the room: what waits in it waits here from now on. Blocks while the log is read;
    /// everybody else goes on meanwhile.
    ///
    /// # Errors
    /// [`log::Error::Locked`] if it is open here; a log that cannot be read, belongs to another partition, or to somebody
    /// with a higher fence.
    pub fn open(&self, partition: u32, fence: u64, log: Arc<dyn Log>) -> Result<Opened, log::Error> {
        let shared = &self.0.shared;
        shared.reserve(partition)?;
        let found = safely("opening the log", || OnDisk::read(&*log, partition, fence));
        let mailbox = Arc::new(Mailbox::default());
        // The first thing that it does: nothing is committed before the count has its snapshots.
        mailbox.count();
        let opened = {
            let mut core = shared.core.lock();
            core.opening.remove(&partition);
            let found = found?;
            if core.closed {
                return Err(cannot_open(partition, "the queues are closing"));
            }
            let (of, its_log, its_mailbox) = (shared.me.clone(), log.clone(), mailbox.clone());
            let (first, comes) = std::sync::mpsc::channel();
            let committer = thread("queue-commit", move || {
                if let Ok(first) = comes.recv() {
                    commit::run(&of, partition, &its_log, &its_mailbox, first);
                }
            })
            .map_err(|error| cannot_open(partition, &format!("no thread for it: {error}")))?;
            let core = &mut *core;
            let (ledger, opened, settled) = found.open(&mut core.sched);
            let _waits = first.send(settled);
            core.books.insert(partition, Book::new(ledger, log, mailbox, committer));
            opened
        };
        shared.pump();
        Ok(opened)
    }

    /// Gives a partition up: what waits in it waits here no longer. What ran is revoked. When it returns nothing more is
    /// written (unless a runner asks for it while it is being called: then soon after), and a count of what is in it has
    /// ended. Whoever reads in that moment, the room for itself or somebody by [`Room::show`] and the like, has the log in
    /// hand until then: a log on disk may say a little longer that it is open ([`log::Error::Locked`]); try again. Whoever
    /// gives it up while another does returns at once.
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

    /// Running -> Inbox, or -> Scheduled; `counts`: as one of its attempts
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn give_back(
        &self,
        held: &Hold,
        not_before: Option<Millis>,
        used: Cost,
        counts: bool,
    ) -> Result<Done, Refused> {
        let what = What::Yield { seq: held.id.seq, lease: held.lease, not_before, used, counts };
        self.ask(held.id.partition, what).await
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

    /// Something about where entries could run has changed. Cheap if nobody waits. Whoever frees a place calls it *after*
    /// the place can be seen to be free.
    pub fn stir(&self, target: Option<&str>) {
        if self.has_line() {
            self.0.shared.core.lock().sched.stir(target);
            self.0.shared.pump();
        }
    }

    /// Whether anybody waits for anything.
    pub fn has_line(&self) -> bool {
        // See `say_who_waits`.
        fence(Ordering::SeqCst);
        self.0.shared.waiting.load(Ordering::Relaxed) > 0
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

    /// Ends everything that moves, and lets go of the logs. What was acknowledged is in them; what runs, runs again once they
    /// are opened. Whoever stands in line hears of it.
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
    /// A thread that is waited for at the end.
    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        match thread(name, work) {
            Ok(thread) => threads.push(thread),
            Err(error) => tracing::error!(%error, name, "a thread of the queues could not be started"),
        }
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Puts a move where the partition's committer finds it.
    fn post(&self, partition: u32, ask: Ask) {
        let (mailbox, closed) = {
            let core = self.core.lock();
            (core.books.get(&partition).map(|book| book.mailbox.clone()), core.closed)
        };
        match mailbox {
            Some(mailbox) => mailbox.post(ask),
            None if closed => ask.refuse(Refused::Closing),
            None => ask.refuse(Refused::NotHere(partition)),
        }
    }

    /// Nobody else opens this partition while its log is read, and whoever had it has written for the last time.
    fn reserve(&self, partition: u32) -> Result<(), log::Error> {
        let locked = || log::Error::Locked(format!("partition {partition}"));
        if partition == stand::NOWHERE {
            return Err(cannot_open(partition, "this number is kept for what lives in memory only"));
        }
        let committer = match self.ending.lock().get_mut(&partition) {
            // Itself, within a call to the runner; or whoever waits for its end has it.
            Some(ending) => {
                let other = ending.take_if(|one| one.thread().id() != std::thread::current().id());
                Some(other.ok_or_else(locked)?)
            }
            None => None,
        };
        if let Some(committer) = committer {
            let _panicked = committer.join();
            self.ending.lock().remove(&partition);
        }
        let mut core = self.core.lock();
        if core.closed {
            return Err(cannot_open(partition, "the queues are closing"));
        }
        if core.books.contains_key(&partition) || !core.opening.insert(partition) {
            return Err(locked());
        }
        Ok(())
    }

    fn close(&self) {
        let committers: Vec<JoinHandle<()>> = {
            let mut core = self.core.lock();
            if core.closed {
                return;
            }
            core.closed = true;
            for book in core.books.values() {
                book.mailbox.end();
            }
            core.books.values_mut().filter_map(|book| book.committer.take()).collect()
        };
        self.ticked.notify_all();
        self.readers.close();
        let ending = std::mem::take(&mut *self.ending.lock()).into_values().flatten();
        join(committers.into_iter().chain(ending));
        // Committers start them.
        let counters: Vec<JoinHandle<()>> =
            self.core.lock().books.values_mut().filter_map(|book| book.counter.take()).collect();
        join(counters);
        join(std::mem::take(&mut *self.threads.lock()));
        let all = self.core.lock().let_all_go();
        drop(all);
    }

    fn give_up(&self, partition: u32) {
        let committer = {
            let mut core = self.core.lock();
            let committer = core.books.get_mut(&partition).and_then(|book| {
                book.mailbox.end();
                book.committer.take()
            });
            // It is not open, or somebody else is giving it up.
            let Some(committer) = committer else { return };
            committer
        };
        // What it is writing is written, told and run before it is revoked.
        if committer.thread().id() == std::thread::current().id() {
            self.ending.lock().insert(partition, Some(committer));
        } else {
            let _panicked = committer.join();
        }
        let counter = self.core.lock().books.get_mut(&partition).and_then(|book| book.counter.take());
        join(counter);
        let (book, ran, places) = {
            let mut core = self.core.lock();
            let now = self.now();
            let Some(book) = core.books.remove(&partition) else { return };
            (book, core.sched.drop_partition(partition, now), core.take_starting(partition))
        };
        drop(places);
        drop(book);
        for (id, lease) in ran {
            self.call(id, |runner| runner.revoked(id, lease));
        }
        self.pump();
    }

    /// Counts what is in a log. Called by its committer: once the count has its snapshots, that may go on.
    fn count(&self, partition: u32, log: &Arc<dyn Log>, mailbox: &Arc<Mailbox>) {
        if let Some(book) = self.core.lock().books.get_mut(&partition) {
            book.ledger.begin_count();
        }
        let (begun, counting) = std::sync::mpsc::channel();
        let (of, log, its_mailbox) = (self.me.clone(), log.clone(), mailbox.clone());
        let counter = thread("queue-count", move || {
            let tell = || {
                let _nobody_waits = begun.send(());
            };
            let counts = ledger::count(&*log, tell, &|| !its_mailbox.has_ended());
            drop(log);
            if let Some(shared) = of.upgrade() {
                shared.counted(partition, &its_mailbox, counts);
            }
        });
        match counter {
            Ok(counter) => {
                if let Some(book) = self.core.lock().books.get_mut(&partition) {
                    book.counter = Some(counter);
                }
                let _panicked = counting.recv();
            }
            Err(error) => {
                let why = format!("no thread for it: {error}");
                let error = log::Error::Engine { what: "counting what waits".to_owned(), why };
                self.counted(partition, mailbox, Err(error));
            }
        }
    }

    fn counted(&self, partition: u32, of: &Arc<Mailbox>, counts: Result<HashMap<u64, u64>, log::Error>) {
        if of.has_ended() {
            return;
        }
        let mut core = self.core.lock();
        let again = self.now().plus(core::AFTER_FAILURE);
        // It may have been given up meanwhile, and opened anew.
        let book = core.books.get_mut(&partition).filter(|book| Arc::ptr_eq(&book.mailbox, of));
        let Some(book) = book else { return };
        match counts {
            Ok(counts) => {
                for number in book.ledger.count(&counts) {
                    book.mailbox.post(Ask::of(What::Close { number }));
                }
            }
            Err(error) => {
                tracing::warn!(partition, %error, "what waits could not be counted; it is tried again");
                book.count_at = Some(again);
                self.ticked.notify_all();
            }
        }
    }
}

/// Waits for the end of threads. The last clone of a room may be dropped by a runner, on one of these.
fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    let this = std::thread::current().id();
    for thread in threads.into_iter().filter(|thread| thread.thread().id() != this) {
        let _panicked = thread.join();
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// A log that panics has failed, like any other.
fn safely<T>(what: &str, work: impl FnOnce() -> Result<T, log::Error>) -> Result<T, log::Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(log::Error::Engine { what: what.to_owned(), why: "it panicked".to_owned() }))
}

fn cannot_open(partition: u32, why: &str) -> log::Error {
    log::Error::Engine { what: format!("opening partition {partition}"), why: why.to_owned() }
}
