//! What is under the lock, and the one place where decisions are asked for and handed out.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::commit::Mailbox;
use super::stand::{Gone, Turn, Turned};
use super::told::Told;
use super::{Shared, Started};
use crate::entry::Lease;
use crate::ledger::{Ask, Ledger, News, What};
use crate::log::{Log, Patience};
use crate::name::{EntryId, Millis, QueueName, Seq};
use crate::scheduler::{Decision, Ground, Hunger, QueueId, Scheduler};

use super::read::{self, Job};

/// Everything that is decided about.
pub(super) struct Core<P> {
    pub(super) sched: Scheduler,
    pub(super) books: HashMap<u32, Book>,
    ground: Box<dyn Ground<Place = P> + Send>,
    /// Starts on their way to the log, with the place that each has taken.
    starting: HashMap<EntryId, (Lease, P)>,
    /// Those who stand in line with nothing but their connection.
    pub(super) standing: HashMap<Seq, oneshot::Sender<Result<Turned<P>, Gone>>>,
    pub(super) lines: HashMap<(QueueName, Box<str>), QueueId>,
    pub(super) next_volatile: u64,
    pub(super) told: Told,
}

/// A log that is open.
pub(super) struct Book {
    pub(super) ledger: Ledger,
    pub(super) log: Arc<dyn Log>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Somebody has asked to deal with what is due.
    due_asked: bool,
    /// Why it writes no more.
    pub(super) poisoned: Option<String>,
}

/// What is done once the lock is let go.
struct Outside<P> {
    asks: Vec<(Arc<Mailbox>, Ask)>,
    turns: Vec<(oneshot::Sender<Result<Turned<P>, Gone>>, Result<Turned<P>, Gone>)>,
    jobs: Vec<Job>,
    started: Vec<Started<P>>,
    news: Vec<News>,
    dropped: Vec<P>,
}

/// Decisions that are made without letting others have the lock in between.
const AT_ONCE: usize = 128;
/// The clock looks at least so often.
const LOOK: Duration = Duration::from_millis(500);

impl Book {
    pub(super) fn new(ledger: Ledger, log: Arc<dyn Log>, mailbox: Arc<Mailbox>) -> Self {
        Self { ledger, log, mailbox, due_asked: false, poisoned: None }
    }
}

impl<P> Core<P> {
    pub(super) fn new(sched: Scheduler, ground: Box<dyn Ground<Place = P> + Send>) -> Self {
        Self {
            sched,
            books: HashMap::new(),
            ground,
            starting: HashMap::new(),
            standing: HashMap::new(),
            lines: HashMap::new(),
            next_volatile: Seq::VOLATILE,
            told: Told::default(),
        }
    }

    pub(super) fn take_starting(&mut self, partition: u32) -> Vec<P> {
        let gone = self.starting.extract_if(|id, _| id.partition == partition);
        gone.map(|(_, (_, place))| place).collect()
    }

    pub(super) fn let_all_go(&mut self) {
        self.standing.clear();
    }

    fn next_time(&self) -> Option<Millis> {
        let due = self.books.values().filter(|book| !book.due_asked && book.poisoned.is_none());
        due.filter_map(|book| book.ledger.next_due()).chain(self.sched.next_timer()).min()
    }
}

impl<P: Send + 'static> Shared<P> {
    /// Decides for as long as anything can be decided, and carries it out.
    pub(super) fn pump(&self) {
        self.pump_after(|_, _| Vec::new());
    }

    /// The same, after something that is done under the same lock.
    pub(super) fn pump_after(&self, first: impl FnOnce(&mut Core<P>, Millis) -> Vec<News>) {
        let mut outside = Outside {
            asks: Vec::new(),
            turns: Vec::new(),
            jobs: Vec::new(),
            started: Vec::new(),
            news: Vec::new(),
            dropped: Vec::new(),
        };
        let mut first = Some(first);
        loop {
            let more = {
                let mut core = self.core.lock();
                let now = self.now();
                if let Some(first) = first.take() {
                    let news = first(&mut core, now);
                    core.hear(news, &mut outside);
                }
                let before = core.next_time();
                let more = core.decide(now, &mut outside);
                self.waiting.store(core.sched.waiting(), std::sync::atomic::Ordering::Release);
                if core.next_time() < before || before.is_none() {
                    self.ticked.notify_one();
                }
                more
            };
            self.carry_out(&mut outside);
            if !more || self.is_closing() {
                return;
            }
        }
    }

    fn carry_out(&self, outside: &mut Outside<P>) {
        for (waits, turn) in outside.turns.drain(..) {
            // Whoever left does not need its turn any more.
            if let Err(Ok(turned)) = waits.send(turn) {
                drop(Turn::new(self.me.clone(), turned));
            }
        }
        for (mailbox, ask) in outside.asks.drain(..) {
            mailbox.post(ask);
        }
        for job in outside.jobs.drain(..) {
            self.readers.send(job);
        }
        for started in outside.started.drain(..) {
            self.runner.run(started);
        }
        for news in outside.news.drain(..) {
            match news {
                News::Revoked(id, lease) => self.runner.revoked(id, lease),
                News::Over(id, outcome) => self.runner.over(id, outcome),
                News::Started(..) => {}
            }
        }
        outside.dropped.clear();
    }
}

impl<P: Send + 'static> Core<P> {
    /// Starts that were written may run.
    fn hear(&mut self, news: Vec<News>, outside: &mut Outside<P>) {
        for news in news {
            if let News::Started(id, lease) = news
                && let Some((_, place)) = self.starting.remove(&id)
                && let Some((lane, _, item)) = self.sched.run(id)
                && let Some((queue, ..)) = self.sched.queue(lane.queue)
            {
                self.told.starts[lane.class.number()] += 1;
                let started = Started { id, queue: queue.clone(), lease, item: item.clone(), place };
                outside.started.push(started);
            } else {
                if let News::Over(_, outcome) = news {
                    self.told.ends[outcome as usize] += 1;
                }
                outside.news.push(news);
            }
        }
    }

    /// Whether there may be more to decide.
    fn decide(&mut self, now: Millis, outside: &mut Outside<P>) -> bool {
        for (lane, item) in self.sched.tick(now) {
            let _volatile = lane;
            if let Some(waits) = self.standing.remove(&item.key.seq) {
                outside.turns.push((waits, Err(Gone::Expired)));
            }
        }
        for book in self.books.values_mut() {
            let due = book.ledger.next_due().is_some_and(|due| due <= now);
            if due && !book.due_asked && book.poisoned.is_none() {
                book.due_asked = true;
                outside.asks.push((book.mailbox.clone(), Ask::of(What::Due { until: now })));
            }
        }
        let mut more = true;
        for _ in 0..AT_ONCE {
            match self.sched.decide(now, &mut *self.ground) {
                Decision::Idle => {
                    more = false;
                    break;
                }
                Decision::Start(start) if start.volatile => match self.standing.remove(&start.entry.seq) {
                    Some(waits) => {
                        self.told.starts[start.lane.class.number()] += 1;
                        let turned = Turned { id: start.entry, lease: start.lease, place: start.place };
                        outside.turns.push((waits, Ok(turned)));
                    }
                    // It left in this very moment.
                    None => {
                        let _ended = self.sched.ended(start.entry, start.lease, start.item.cost, now);
                        outside.dropped.push(start.place);
                    }
                },
                Decision::Start(start) => {
                    let (id, lease) = (start.entry, start.lease);
                    let Some(book) = self.books.get(&id.partition) else { continue };
                    self.starting.insert(id, (lease, start.place));
                    outside.asks.push((book.mailbox.clone(), Ask::of(What::Start { seq: id.seq, lease })));
                }
                Decision::Expire { lane, item } => {
                    if let Some(waits) = self.standing.remove(&item.key.seq) {
                        outside.turns.push((waits, Err(Gone::Expired)));
                    } else if let Some(book) = self.book_of(lane.queue) {
                        let what = What::Expire { lane, key: item.key };
                        outside.asks.push((book.mailbox.clone(), Ask::of(what)));
                    }
                }
            }
        }
        more |= self.read(now, outside);
        more
    }

    /// Lanes that want to read: from memory at once, else by a thread that may wait. Whether anything was read.
    fn read(&mut self, now: Millis, outside: &mut Outside<P>) -> bool {
        let mut read_some = false;
        while let Some(hunger) = self.sched.next_read() {
            self.told.reads += 1;
            let Some(job) = self.job(hunger.clone()) else {
                self.sched.read_failed(&hunger, now);
                continue;
            };
            match read::read(&job, Patience::Now) {
                Ok(Some(found)) => {
                    self.sched.read(&hunger, found);
                    read_some = true;
                }
                Ok(None) | Err(_) => outside.jobs.push(job),
            }
        }
        read_some
    }

    fn job(&self, hunger: Hunger) -> Option<Job> {
        let id = hunger.lane.queue;
        let book = self.book_of(id)?;
        let (_, number, _) = self.sched.queue(id)?;
        // M5: nothing is below the mark but graves.
        let from = book.ledger.low(number, hunger.lane.class)?.max(hunger.ticket.from);
        Some(Job { log: book.log.clone(), queue: number, from, hunger })
    }

    fn book_of(&self, queue: QueueId) -> Option<&Book> {
        self.books.get(&self.sched.partition(queue)?)
    }

    /// What is due has been dealt with.
    pub(super) fn due_done(&mut self, partition: u32) {
        if let Some(book) = self.books.get_mut(&partition) {
            book.due_asked = false;
        }
    }

    /// The places of starts that came to nothing: to be dropped outside of the lock.
    pub(super) fn take_undone(&mut self, undone: &[EntryId]) -> Vec<P> {
        undone.iter().filter_map(|id| self.starting.remove(id)).map(|(_, place)| place).collect()
    }
}

/// Wakes the room when something becomes due.
pub(super) fn keep_time<P: Send + 'static>(shared: &Weak<Shared<P>>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if shared.is_closing() {
            return;
        }
        let due = {
            let mut core = shared.core.lock();
            let now = shared.now();
            let wait = core.next_time().map_or(LOOK, |at| Duration::from_millis(at.since(now)).min(LOOK));
            if !wait.is_zero() {
                shared.ticked.wait_for(&mut core, wait);
            }
            let now = shared.now();
            core.next_time().is_some_and(|at| at <= now)
        };
        if due {
            shared.pump();
        }
    }
}
