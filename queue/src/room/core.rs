//! What is under the lock, and the one place where decisions are asked for and handed out.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::commit::Mailbox;
use super::stand::{Gone, Turn, Turned};
use super::told::Told;
use super::{Runner, Shared, Started};
use crate::entry::Lease;
use crate::ledger::{Ask, Ledger, News, What};
use crate::log::{Log, Patience};
use crate::name::{EntryId, Millis, QueueName, Seq};
use crate::scheduler::{Decision, Ground, Hunger, Placed, QueueId, Scheduler, Window};

use super::read::{self, Job};

/// Everything that is decided about. Held while moves are put into mailboxes, whose locks are held for nothing else.
pub(super) struct Core<P> {
    pub(super) sched: Scheduler,
    pub(super) books: HashMap<u32, Book>,
    /// Partitions whose logs are being read: nobody else may open them meanwhile.
    pub(super) opening: HashSet<u32>,
    ground: Box<dyn Ground<Place = P> + Send>,
    /// Starts on their way to the log, with the place that each has taken.
    starting: HashMap<EntryId, (Lease, P)>,
    /// Those who stand in line with nothing but their connection.
    pub(super) standing: HashMap<Seq, Waits<P>>,
    pub(super) lines: HashMap<(QueueName, Box<str>), QueueId>,
    /// Until when the clock sleeps, while it does.
    sleeps_until: Option<Millis>,
    /// Nothing is decided any more.
    pub(super) closed: bool,
    pub(super) told: Told,
}

/// Where somebody waits for a turn.
pub(super) type Waits<P> = oneshot::Sender<Result<Turned<P>, Gone>>;
/// A turn, or why there is none, on its way.
type Given<P> = (Waits<P>, Result<Turned<P>, Gone>);

/// A log that is open.
pub(super) struct Book {
    pub(super) ledger: Ledger,
    pub(super) log: Arc<dyn Log>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Its committer, until somebody waits for its end.
    pub(super) committer: Option<JoinHandle<()>>,
    /// Whoever counts what is in it, until somebody waits for its end.
    pub(super) counter: Option<JoinHandle<()>>,
    /// Somebody has asked to deal with what is due.
    due_asked: bool,
    /// Not before: what is due could not be read.
    due_after: Millis,
    /// When the entries are to be counted again: they could not be.
    pub(super) count_at: Option<Millis>,
    /// Why it writes no more.
    pub(super) poisoned: Option<String>,
}

/// A ground that may panic. Whoever decides goes on: what was asked for waits until somebody stirs, and is asked for again.
struct Careful<'a, P>(&'a mut (dyn Ground<Place = P> + Send));

/// What is done once the lock is let go: others are called and told, and what belongs to them is dropped.
struct Outside<P> {
    /// Committers that have something to do.
    posted: Vec<Arc<Mailbox>>,
    turns: Vec<Given<P>>,
    jobs: Vec<Job>,
    started: Vec<Started<P>>,
    news: Vec<News>,
    dropped: Vec<P>,
}

/// Decisions that are made without letting others have the lock in between.
const AT_ONCE: usize = 128;
/// The clock looks at least so often.
const LOOK: u64 = 500;
/// What could not be read is tried again after so many milliseconds.
pub(super) const AFTER_FAILURE: u64 = 100;

impl Book {
    pub(super) fn new(
        ledger: Ledger,
        log: Arc<dyn Log>,
        mailbox: Arc<Mailbox>,
        committer: JoinHandle<()>,
    ) -> Self {
        Self {
            ledger,
            log,
            mailbox,
            committer: Some(committer),
            counter: None,
            due_asked: false,
            due_after: Millis(0),
            count_at: None,
            poisoned: None,
        }
    }

    /// When it must be looked at.
    fn next_time(&self) -> Option<Millis> {
        if self.poisoned.is_some() {
            return None;
        }
        let due = self.ledger.next_due().filter(|_| !self.due_asked).map(|due| due.max(self.due_after));
        [due, self.count_at].into_iter().flatten().min()
    }
}

impl<P> Ground for Careful<'_, P> {
    type Place = P;

    fn place(&mut self, target: &str, tenant: &str, window: Window<'_>) -> Placed<P> {
        catch_unwind(AssertUnwindSafe(|| self.0.place(target, tenant, window))).unwrap_or_else(|_| {
            tracing::error!(
                target_name = target,
                tenant,
                "whoever finds places panicked; it is asked again when something is free"
            );
            Placed::NotThese
        })
    }
}

impl<P> Outside<P> {
    fn post(&mut self, mailbox: &Arc<Mailbox>, ask: Ask) {
        mailbox.put(ask);
        if self.posted.last().is_none_or(|last| !Arc::ptr_eq(last, mailbox)) {
            self.posted.push(mailbox.clone());
        }
    }
}

impl<P> Core<P> {
    pub(super) fn new(sched: Scheduler, ground: Box<dyn Ground<Place = P> + Send>) -> Self {
        Self {
            sched,
            books: HashMap::new(),
            opening: HashSet::new(),
            ground,
            starting: HashMap::new(),
            standing: HashMap::new(),
            lines: HashMap::new(),
            sleeps_until: None,
            closed: false,
            told: Told::default(),
        }
    }

    pub(super) fn take_starting(&mut self, partition: u32) -> Vec<P> {
        let gone = self.starting.extract_if(|id, _| id.partition == partition);
        gone.map(|(_, (_, place))| place).collect()
    }

    /// Everything that belongs to others, or to a disk: to be dropped outside of the lock.
    pub(super) fn let_all_go(&mut self) -> impl Sized + use<P> {
        let all = (std::mem::take(&mut self.standing), std::mem::take(&mut self.starting));
        (all, std::mem::take(&mut self.books))
    }

    fn next_time(&self) -> Option<Millis> {
        self.books.values().filter_map(Book::next_time).chain(self.sched.next_timer()).min()
    }

    /// Whether something happens before the clock would look.
    fn oversleeps(&self) -> bool {
        let until = self.sleeps_until;
        until.is_some_and(|until| self.next_time().is_some_and(|at| at < until))
    }

    /// - R1: every start that is on its way to a log is known to the scheduler, with its lease, and unconfirmed.
    /// - R2: whoever stands in line is known to the scheduler, and nobody else is there.
    /// - R3: every line has somebody in it, or somebody of it runs.
    /// - R4: every queue that is in the books of a log that can be written is known to the scheduler under its number.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        self.sched.check()?;
        let ensure = |holds: bool, name| if holds { Ok(()) } else { Err(name) };
        let mut starting = self.starting.iter();
        ensure(starting.all(|(id, (lease, _))| self.sched.is_starting(*id, *lease)), "R1")?;
        ensure(self.closed || self.standing.len() == self.sched.depth().volatile, "R2")?;
        ensure(self.lines.values().all(|line| !self.sched.is_bare(*line)), "R3")?;
        for book in self.books.values().filter(|book| book.poisoned.is_none()) {
            let partition = book.ledger.partition();
            for (number, id, row, _) in book.ledger.queues() {
                let known = self.sched.queue(id);
                let same = known.is_some_and(|(name, of, _)| name == row.name && of == number);
                ensure(same && self.sched.partition(id) == Some(partition), "R4")?;
            }
        }
        Ok(())
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
            posted: Vec::new(),
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
                self.say_who_waits(&core);
                let more = !core.closed && core.decide(now, &mut outside);
                self.say_who_waits(&core);
                if core.oversleeps() {
                    self.ticked.notify_one();
                }
                more
            };
            self.carry_out(&mut outside);
            if !more {
                return;
            }
        }
    }

    /// Said before the ground is asked: whoever frees a place after the ground has said that there is none sees that somebody
    /// waits ([`super::Room::has_line`]), and stirs. The other way round a place could become free unseen.
    fn say_who_waits(&self, core: &Core<P>) {
        self.waiting.store(core.sched.waiting(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn carry_out(&self, outside: &mut Outside<P>) {
        for (waits, turn) in outside.turns.drain(..) {
            // Whoever left does not need its turn any more.
            if let Err(Ok(turned)) = waits.send(turn) {
                drop(Turn::new(self.me.clone(), turned));
            }
        }
        for mailbox in outside.posted.drain(..) {
            mailbox.wake();
        }
        for job in outside.jobs.drain(..) {
            self.readers.send(job);
        }
        for started in outside.started.drain(..) {
            let id = started.id;
            self.call(id, |runner| runner.run(started));
        }
        for news in outside.news.drain(..) {
            match news {
                News::Revoked(id, lease) => self.call(id, |runner| runner.revoked(id, lease)),
                News::Over(id, outcome) => self.call(id, |runner| runner.over(id, outcome)),
                News::Started(..) => {}
            }
        }
        outside.dropped.clear();
    }

    /// Tells the runner something. The thread that tells it has more to do, whatever becomes of that.
    pub(super) fn call(&self, id: EntryId, tell: impl FnOnce(&dyn Runner<P>)) {
        if catch_unwind(AssertUnwindSafe(|| tell(&*self.runner))).is_err() {
            tracing::error!(entry = %id, "whoever runs entries panicked; if this one was started it is held until the next start");
        }
    }
}

impl<P: Send + 'static> Core<P> {
    /// Starts that were written may run.
    fn hear(&mut self, news: Vec<News>, outside: &mut Outside<P>) {
        for news in news {
            let News::Started(id, lease) = news else {
                if let News::Over(_, outcome) = news {
                    self.told.ends[outcome as usize] += 1;
                }
                outside.news.push(news);
                continue;
            };
            let Some(place) = self.take_start(id, lease) else { continue };
            let run = self.sched.run(id).map(|(lane, _, item)| (lane, item.clone()));
            match run.and_then(|(lane, item)| Some((self.sched.queue(lane.queue)?.0, lane, item))) {
                Some((queue, lane, item)) => {
                    self.told.starts[lane.class.number()] += 1;
                    outside.started.push(Started { id, queue, lease, item, place });
                }
                None => outside.dropped.push(place),
            }
        }
    }

    /// Whether there may be more to decide.
    fn decide(&mut self, now: Millis, outside: &mut Outside<P>) -> bool {
        for (lane, item) in self.sched.tick(now) {
            if let Some(waits) = self.standing.remove(&item.key.seq) {
                outside.turns.push((waits, Err(Gone::Expired)));
            }
            self.let_line_go(lane.queue);
        }
        for book in self.books.values_mut() {
            if book.next_time().is_none_or(|at| at > now) {
                continue;
            }
            if book.count_at.take_if(|at| *at <= now).is_some() {
                book.mailbox.count();
            }
            if !book.due_asked && book.next_time().is_some_and(|at| at <= now) {
                book.due_asked = true;
                outside.post(&book.mailbox, Ask::of(What::Due { until: now }));
            }
        }
        let mut more = true;
        for _ in 0..AT_ONCE {
            match self.sched.decide(now, &mut Careful(&mut *self.ground)) {
                Decision::Idle => {
                    more = false;
                    break;
                }
                Decision::Start(start) if start.volatile => {
                    if let Some(waits) = self.standing.remove(&start.entry.seq) {
                        self.told.starts[start.lane.class.number()] += 1;
                        let turned = Turned { id: start.entry, lease: start.lease, place: start.place };
                        outside.turns.push((waits, Ok(turned)));
                    } else {
                        debug_assert!(false, "R2: who has a turn stands in line");
                        let _ended = self.sched.ended(start.entry, start.lease, start.item.cost, now);
                        outside.dropped.push(start.place);
                    }
                }
                Decision::Start(start) => {
                    let (id, lease) = (start.entry, start.lease);
                    let Some(book) = self.books.get(&id.partition) else {
                        debug_assert!(false, "R4: the queues of a log leave with its book");
                        let _ended = self.sched.ended(id, lease, start.item.cost, now);
                        outside.dropped.push(start.place);
                        continue;
                    };
                    // Whoever it displaces could never be confirmed; its place is not dropped under the lock.
                    let before = self.starting.insert(id, (lease, start.place));
                    outside.dropped.extend(before.map(|(_, place)| place));
                    outside.post(&book.mailbox, Ask::of(What::Start { seq: id.seq, lease }));
                }
                Decision::Expire { lane, item } => {
                    if let Some(waits) = self.standing.remove(&item.key.seq) {
                        outside.turns.push((waits, Err(Gone::Expired)));
                        self.let_line_go(lane.queue);
                    } else if let Some(book) = self.book_of(lane.queue) {
                        let what = What::Expire { lane, key: item.key };
                        outside.post(&book.mailbox, Ask::of(what));
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
            match read::safely(&job, Patience::Now) {
                Ok(Some(found)) => {
                    self.sched.read(&hunger, found);
                    read_some = true;
                }
                // Whoever may wait finds out, and says, what is wrong.
                Ok(None) | Err(_) => outside.jobs.push(job),
            }
        }
        read_some
    }

    fn job(&self, hunger: Hunger) -> Option<Job> {
        let id = hunger.lane.queue;
        let book = self.book_of(id)?;
        let number = self.sched.number(id)?;
        // M5: nothing is below the mark but graves.
        let from = book.ledger.low(number, hunger.lane.class)?.max(hunger.ticket.from);
        Some(Job { log: book.log.clone(), queue: number, from, hunger })
    }

    fn book_of(&self, queue: QueueId) -> Option<&Book> {
        self.books.get(&self.sched.partition(queue)?)
    }

    /// What is due has been dealt with, or is to be tried again after a time.
    pub(super) fn due_done(&mut self, partition: u32, again_after: Option<Millis>) {
        if let Some(book) = self.books.get_mut(&partition) {
            book.due_asked = false;
            book.due_after = again_after.unwrap_or(Millis(0));
        }
    }

    /// The places of starts that came to nothing: to be dropped outside of the lock.
    pub(super) fn take_undone(&mut self, undone: &[(EntryId, Lease)]) -> Vec<P> {
        undone.iter().filter_map(|(id, lease)| self.take_start(*id, *lease)).collect()
    }

    /// The place of this very start: another of the same entry may be under way.
    fn take_start(&mut self, id: EntryId, lease: Lease) -> Option<P> {
        self.starting.get(&id).filter(|(of, _)| *of == lease)?;
        self.starting.remove(&id).map(|(_, place)| place)
    }
}

/// Wakes the room when something becomes due.
pub(super) fn keep_time<P: Send + 'static>(shared: &Weak<Shared<P>>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let due = {
            let mut core = shared.core.lock();
            // Looked at under the lock: whoever closes either comes later, and wakes it, or has been here.
            if core.closed {
                return;
            }
            let now = shared.now();
            let until = core.next_time().map_or(now.plus(LOOK), |at| at.min(now.plus(LOOK)));
            if until > now {
                core.sleeps_until = Some(until);
                shared.ticked.wait_for(&mut core, Duration::from_millis(until.since(now)));
                core.sleeps_until = None;
            }
            core.next_time().is_some_and(|at| at <= shared.now())
        };
        if due {
            shared.pump();
        }
    }
}
