//! The whole room without its threads against a naive model: any sequence of moves, decisions, reads, crashes and restarts
//! agrees with a list of entries. Nothing is lost, nothing runs twice at a time or after its end, the order within a lane is
//! kept as far as promised, no limit is exceeded, and what may run does run.
//!
//! `WARMLINE_SEEDS=100000 cargo test -p warmline-queue --test model` runs more histories; a failure prints its seed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use queue::entry::{Cost, Entry, Item, Lease, Order, Outcome, Stage, Terms};
use queue::format;
use queue::inbox::{CAPACITY, Found};
use queue::ledger::{self, Ask, Done, Ledger, News, Plan, Refused, What};
use queue::limits::Limits;
use queue::log::{Batch, Log, Memory, Patience, Sync};
use queue::name::{Class, EntryId, Key, Millis, QueueName, Seq};
use queue::scheduler::{Decision, Ground, Hunger, LaneId, Options, Placed, Scheduler, Tenancy, Window};
use tokio::sync::oneshot::Receiver;

const PARTITION: u32 = 7;
const TENANTS: [&str; 3] = ["a", "b", "c"];
const QUEUES: [&str; 3] = ["x", "y", "z"];
const TARGETS: [&str; 2] = ["m", "n"];

struct Chance(u64);

impl Chance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// Places of engines: some free ones of each target, and moods.
struct Engines {
    free: HashMap<String, i64>,
    chance: Chance,
    moody: bool,
}

impl Ground for Engines {
    type Place = String;

    fn place(&mut self, target: &str, _: &str, window: Window<'_>) -> Placed<String> {
        let free = self.free.get_mut(target).expect("a target");
        if *free <= 0 {
            return Placed::Full;
        }
        if self.moody && self.chance.one_in(12) {
            return Placed::NotThese;
        }
        *free -= 1;
        Placed::At(self.chance.below(window.len() as u64) as usize, target.to_owned())
    }
}

/// An entry as the model knows it.
#[derive(Clone, Debug)]
struct Model {
    queue: QueueName,
    class: Class,
    key: Key,
    deadline: Option<Millis>,
    stage: Stage,
    keep: bool,
    /// Later entries of its lane that were started before it while it was ready.
    overtaken: u32,
    outcome: Option<Outcome>,
}

struct World {
    chance: Chance,
    log: Arc<Memory>,
    sched: Scheduler,
    ledger: Ledger,
    engines: Engines,
    now: Millis,
    entries: BTreeMap<Seq, Model>,
    /// What runs, with its lease and place.
    running: HashMap<Seq, (Lease, String, bool)>,
    starting: HashMap<Seq, (Lease, String)>,
    mail: VecDeque<Sent>,
    reads: Vec<(Hunger, Result<Found, ()>)>,
    paused: Vec<QueueName>,
    onces: HashMap<(QueueName, String), Seq>,
    events: Vec<String>,
    minted: u64,
}

/// A move on its way, and what the model does when it is made.
struct Sent {
    ask: Ask,
    answer: Receiver<Result<Done, Refused>>,
    then: Then,
}

enum Then {
    Enqueued(Box<Entry>),
    Started(Seq, Lease),
    Ended(Seq, Outcome),
    Back(Seq, Option<Millis>),
    Aside(Seq, Stage),
    Resumed(Seq),
    Retried(Seq),
    Forgotten(Seq),
    Paused(QueueName, bool),
    Expired(Seq),
    Nothing,
}

fn options() -> Options {
    Options {
        fleet: Limits { running: Some(7), ..Limits::default() },
        overtake: 2,
        reach: 4,
        patience: 40,
        class_running: [None, None, Some(3), Some(2)],
        cached: 60,
        refills: 2,
        ..Options::default()
    }
}

fn settle(sched: &mut Scheduler) {
    let limits = |running, tokens, guaranteed| Limits { running, tokens, guaranteed, ..Limits::default() };
    sched.tenancy("a", Tenancy { weight: 1, limits: limits(Some(3), Some(40), 1) });
    sched.tenancy("b", Tenancy { weight: 3, limits: limits(Some(4), None, 2) });
    sched.limit_target("n", limits(Some(4), None, 0));
}

impl World {
    fn new(seed: u64) -> Self {
        let log = Arc::new(Memory::new());
        let mut sched = Scheduler::new(options());
        settle(&mut sched);
        let (mut ledger, _) = Ledger::open(&*log, PARTITION, 1, &mut sched).expect("an empty log");
        ledger.count(&HashMap::new());
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        chance.below(2);
        let free = TARGETS.iter().map(|target| ((*target).to_owned(), 3)).collect();
        let engines = Engines { free, chance: Chance(seed | 1), moody: true };
        Self {
            chance,
            log,
            sched,
            ledger,
            engines,
            now: Millis(1_000),
            entries: BTreeMap::new(),
            running: HashMap::new(),
            starting: HashMap::new(),
            mail: VecDeque::new(),
            reads: Vec::new(),
            paused: Vec::new(),
            onces: HashMap::new(),
            events: Vec::new(),
            minted: 0,
        }
    }

    fn note(&mut self, event: String) {
        if self.events.len() == 80 {
            self.events.remove(0);
        }
        self.events.push(event);
    }

    fn send(&mut self, what: What, then: Then) {
        let (ask, answer) = Ask::answered(what);
        self.mail.push_back(Sent { ask, answer, then });
    }

    fn any(&mut self, stage: Stage) -> Option<Seq> {
        let all: Vec<Seq> =
            self.entries.iter().filter(|(_, entry)| entry.stage == stage).map(|(seq, _)| *seq).collect();
        if all.is_empty() { None } else { Some(all[self.chance.below(all.len() as u64) as usize]) }
    }

    fn step(&mut self) {
        match self.chance.below(100) {
            0..26 => self.enqueue(),
            26..46 => self.commit(),
            46..60 => self.decide(),
            60..74 => self.end_one(),
            74..77 => {
                let Some(seq) = self.any(Stage::Inbox).or_else(|| self.any(Stage::Scheduled)) else { return };
                let back_to_back = self.chance.one_in(2);
                if self.chance.one_in(2) {
                    self.send(What::Hold { seq }, Then::Aside(seq, Stage::Paused));
                    if back_to_back {
                        self.send(What::Resume { seq }, Then::Resumed(seq));
                    }
                } else {
                    self.send(What::Cancel { seq }, Then::Ended(seq, Outcome::Cancelled));
                    if back_to_back && self.entries[&seq].keep {
                        self.send(What::Retry { seq }, Then::Retried(seq));
                    }
                }
                // Chosen before either is written.
                if back_to_back && self.chance.one_in(2) {
                    self.decide();
                }
            }
            77..80 => {
                let Some(seq) = self.any(Stage::Suspended).or_else(|| self.any(Stage::Paused)) else {
                    return;
                };
                self.send(What::Resume { seq }, Then::Resumed(seq));
            }
            80..82 => {
                let Some(seq) = self.any(Stage::Running) else { return };
                self.send(What::Cancel { seq }, Then::Ended(seq, Outcome::Cancelled));
            }
            82..84 => {
                let Some(seq) = self.any(Stage::Finished) else { return };
                if self.chance.one_in(2) {
                    self.send(What::Retry { seq }, Then::Retried(seq));
                } else {
                    self.send(What::Forget { seq }, Then::Forgotten(seq));
                }
            }
            84..87 => {
                let name = self.name();
                let paused = !self.paused.contains(&name) && self.chance.one_in(3);
                self.send(What::PauseQueue { name: name.clone(), paused }, Then::Paused(name, paused));
            }
            87..93 => self.read(),
            93..97 => {
                self.now = self.now.plus(self.chance.below(30));
                let expired = self.sched.tick(self.now);
                assert!(expired.is_empty(), "nothing here lives in memory only: {expired:?}");
                if self.ledger.next_due().is_some_and(|due| due <= self.now) {
                    self.send(What::Due { until: self.now }, Then::Nothing);
                }
            }
            97 => {
                let target = TARGETS[self.chance.below(2) as usize];
                self.sched.stir(Some(target));
            }
            98 => self.sched.stir(None),
            _ => {
                if self.chance.one_in(3) {
                    self.crash();
                }
            }
        }
        self.check();
    }

    fn name(&mut self) -> QueueName {
        let tenant = TENANTS[self.chance.below(3) as usize];
        let key = QUEUES[self.chance.below(3) as usize];
        QueueName::new(tenant, key).expect("sane")
    }

    fn enqueue(&mut self) {
        let queue = self.name();
        // A queue of a name always has the same target.
        let target = TARGETS[usize::from(&*queue.key == "y")];
        let order = match &*queue.key {
            "x" => Order::Fifo,
            "y" => Order::Warm,
            _ => Order::Slack,
        };
        let limits = if &*queue.key == "z" {
            Limits { running: Some(2), ..Limits::default() }
        } else {
            Limits::default()
        };
        let not_before = self.chance.one_in(6).then(|| self.now.plus(self.chance.below(60)));
        let deadline = self.chance.one_in(6).then(|| self.now.plus(1 + self.chance.below(120)));
        let once = self.chance.one_in(8).then(|| format!("{}", self.chance.below(4)).into_boxed_str());
        self.minted += 1;
        let payload = match &once {
            Some(once) => Bytes::from(format!("of {once}")),
            None => Bytes::from(format!("payload {}", self.minted)),
        };
        let entry = Entry {
            queue,
            terms: Terms { target: target.into(), weight: 1, order, limits },
            class: Class::new(self.chance.below(4) as u8).expect("a class"),
            not_before,
            deadline,
            cost: Cost { tokens: 1 + self.chance.below(20) as u32, blocks: 1 },
            hint: None,
            once,
            keep: if self.chance.one_in(3) { 50 } else { 0 },
            payload,
        };
        self.send(What::Enqueue(Box::new(entry.clone())), Then::Enqueued(Box::new(entry)));
    }

    /// One batch of what has come, as the committer makes it.
    fn commit(&mut self) {
        let many = 1 + self.chance.below(6) as usize;
        let mut sent: Vec<Sent> = self.mail.drain(..many.min(self.mail.len())).collect();
        let mut plan = Plan::default();
        let mut carried: Vec<usize> = Vec::new();
        let mut waiting = Vec::new();
        for (at, one) in sent.iter_mut().enumerate() {
            let mut ask = std::mem::replace(&mut one.ask, Ask::of(What::Close { number: 0 }));
            match Ledger::look(&ask.what, self.ledger.due_from(), &*self.log) {
                Ok(seen) => ask.seen = seen,
                Err(error) => panic!("memory can be read: {error}"),
            }
            if let Some(ask) = self.ledger.prepare(ask, &mut plan, &mut self.sched, self.now) {
                one.ask = ask;
                carried.push(at);
            } else {
                waiting.push(at);
            }
        }
        for (id, lease) in std::mem::take(&mut plan.undone) {
            let (of, place) = self.starting.remove(&id.seq).expect("it was decided");
            assert_eq!(of, lease, "{}", self.story());
            self.free(&place);
        }
        let batch: Batch = std::mem::take(&mut plan.batch);
        self.log.commit(batch, Sync::Write).expect("memory can be written");
        let (news, empty) = self.ledger.tell(plan, &mut self.sched, self.now);
        let mut kept = VecDeque::new();
        for (at, one) in sent.into_iter().enumerate() {
            if carried.contains(&at) {
                kept.push_back(one);
            } else {
                self.made(one);
            }
        }
        for one in self.mail.drain(..) {
            kept.push_back(one);
        }
        self.mail = kept;
        self.follow_time();
        for number in empty {
            self.send(What::Close { number }, Then::Nothing);
        }
        self.hear(news);
    }

    fn hear(&mut self, news: Vec<News>) {
        for news in news {
            match news {
                News::Started(id, lease) => {
                    let (held, place) = self.starting.remove(&id.seq).expect("it was decided");
                    assert_eq!(held, lease);
                    let remembered = self.sched.run(id).expect("it runs").2.remembered;
                    self.running.insert(id.seq, (lease, place, remembered));
                }
                News::Revoked(id, lease) => {
                    // Its runner may have said in this very moment that it is done.
                    if let Some((held, place, _)) = self.running.remove(&id.seq) {
                        assert_eq!(held, lease);
                        self.free(&place);
                    }
                }
                News::Over(id, outcome) => {
                    // Whoever is due ends without having been asked.
                    if let Some(entry) = self.entries.get_mut(&id.seq)
                        && outcome == Outcome::Expired
                        && matches!(entry.stage, Stage::Inbox | Stage::Scheduled)
                    {
                        let late = entry.deadline.is_some_and(|deadline| deadline <= self.now);
                        assert!(late, "it expired too early: {entry:?}");
                        self.over(id.seq, outcome);
                    }
                }
            }
        }
    }

    /// A move was made or refused: the model follows.
    fn made(&mut self, mut sent: Sent) {
        let answer = sent.answer.try_recv();
        match sent.then {
            Then::Enqueued(entry) => match answer.expect("answered") {
                Ok(Done::Enqueued(id)) => {
                    assert!(!self.entries.contains_key(&id.seq), "a number was given twice");
                    let later = entry.not_before.is_some_and(|at| at > self.now);
                    let at = if later { entry.not_before.expect("later") } else { self.now };
                    if let Some(once) = &entry.once {
                        let before = self.onces.insert((entry.queue.clone(), once.to_string()), id.seq);
                        assert!(before.is_none_or(|before| !self.entries.contains_key(&before)), "twice");
                    }
                    self.note(format!("{} -> {} {:?} at {at:?}", id, entry.queue, entry.class));
                    let model = Model {
                        queue: entry.queue,
                        class: entry.class,
                        key: Key { at, seq: id.seq },
                        deadline: entry.deadline,
                        stage: if later { Stage::Scheduled } else { Stage::Inbox },
                        keep: entry.keep > 0,
                        overtaken: 0,
                        outcome: None,
                    };
                    self.entries.insert(id.seq, model);
                }
                Ok(Done::Known(id)) => {
                    let once = entry.once.expect("it has a key").to_string();
                    assert_eq!(self.onces.get(&(entry.queue, once)), Some(&id.seq));
                    assert!(self.entries.contains_key(&id.seq), "an entry that is gone is known");
                }
                Err(Refused::Invalid(_)) if entry.deadline.is_some() => {}
                other => panic!("{other:?}"),
            },
            Then::Started(seq, lease) => match answer {
                Ok(Ok(_)) => {
                    let entry = self.entries.get_mut(&seq).expect("known");
                    assert_eq!(entry.stage, Stage::Inbox, "{lease:?} {entry:?}");
                    entry.stage = Stage::Running;
                }
                // It left meanwhile.
                _ => assert!(
                    self.entries.get(&seq).is_none_or(|entry| entry.stage != Stage::Running),
                    "a start was refused for nothing"
                ),
            },
            Then::Ended(seq, outcome) => {
                if answer.is_ok_and(|answer| answer.is_ok()) {
                    let stage = self.entries.get(&seq).map(|entry| entry.stage);
                    assert!(
                        stage.is_some_and(|stage| stage != Stage::Finished),
                        "ended twice: {seq:?} {stage:?}"
                    );
                    self.over(seq, outcome);
                }
            }
            Then::Back(seq, until) => {
                if answer.is_ok_and(|answer| answer.is_ok()) {
                    let now = self.now;
                    let entry = self.entries.get_mut(&seq).expect("it ran");
                    assert_eq!(entry.stage, Stage::Running);
                    let until = until.filter(|until| *until > now);
                    entry.stage = if until.is_some() { Stage::Scheduled } else { Stage::Inbox };
                    entry.key.at = until.unwrap_or(entry.key.at);
                    entry.overtaken = 0;
                }
            }
            Then::Aside(seq, stage) => {
                if answer.is_ok_and(|answer| answer.is_ok()) {
                    self.entries.get_mut(&seq).expect("known").stage = stage;
                }
            }
            Then::Resumed(seq) => {
                if answer.is_ok_and(|answer| answer.is_ok()) {
                    let now = self.now;
                    let entry = self.entries.get_mut(&seq).expect("known");
                    assert!(matches!(entry.stage, Stage::Suspended | Stage::Paused), "{entry:?}");
                    entry.stage = if entry.key.at > now { Stage::Scheduled } else { Stage::Inbox };
                    entry.overtaken = 0;
                }
            }
            Then::Retried(seq) => {
                if answer.is_ok_and(|answer| answer.is_ok()) {
                    let now = self.now;
                    let entry = self.entries.get_mut(&seq).expect("known");
                    assert_eq!(entry.stage, Stage::Finished);
                    assert_ne!(entry.outcome, Some(Outcome::Done));
                    entry.stage = Stage::Inbox;
                    entry.outcome = None;
                    entry.deadline = None;
                    entry.key.at = now;
                    entry.overtaken = 0;
                }
            }
            Then::Forgotten(seq) => {
                if answer.is_ok_and(|answer| answer.is_ok()) {
                    let entry = self.entries.remove(&seq).expect("known");
                    assert_eq!(entry.stage, Stage::Finished);
                }
            }
            Then::Paused(name, paused) => {
                if answer.is_ok_and(|answer| answer.is_ok()) {
                    self.paused.retain(|other| *other != name);
                    if paused {
                        self.paused.push(name);
                    }
                }
            }
            Then::Expired(seq) => {
                if answer.is_ok_and(|answer| answer.is_ok())
                    && self.entries.get(&seq).is_some_and(|entry| entry.stage == Stage::Inbox)
                {
                    self.over(seq, Outcome::Expired);
                }
            }
            Then::Nothing => {}
        }
    }

    /// What is due happens without being asked for: the model looks into the log to see when.
    fn follow_time(&mut self) {
        let due: Vec<Seq> = self.entries.keys().copied().collect();
        for seq in due {
            let entry = &self.entries[&seq];
            if entry.stage == Stage::Scheduled && entry.key.at <= self.now {
                let seen = Ledger::find(seq, &*self.log).expect("readable");
                let id = EntryId { partition: PARTITION, seq };
                if seen.known(id).is_some_and(|known| known.stage == Stage::Inbox) {
                    self.entries.get_mut(&seq).expect("known").stage = Stage::Inbox;
                }
            } else if entry.stage == Stage::Finished {
                let seen = Ledger::find(seq, &*self.log).expect("readable");
                if seen.known(EntryId { partition: PARTITION, seq }).is_none() {
                    self.entries.remove(&seq);
                }
            }
        }
    }

    fn over(&mut self, seq: Seq, outcome: Outcome) {
        let entry = self.entries.get_mut(&seq).expect("known");
        if entry.keep {
            entry.stage = Stage::Finished;
            entry.outcome = Some(outcome);
        } else {
            self.entries.remove(&seq);
        }
    }

    fn free(&mut self, place: &str) {
        *self.engines.free.get_mut(place).expect("a target") += 1;
        self.sched.stir(Some(place));
    }

    fn decide(&mut self) {
        for _ in 0..=self.chance.below(4) {
            match self.sched.decide(self.now, &mut self.engines) {
                Decision::Idle => break,
                Decision::Expire { lane, item } => {
                    self.note(format!("expire {:?}", item.key));
                    let seq = item.key.seq;
                    self.send(What::Expire { lane, key: item.key }, Then::Expired(seq));
                }
                Decision::Start(start) => {
                    let seq = start.entry.seq;
                    self.note(format!("start {} with {:?}", start.entry, start.lease));
                    self.may_start(&start.item, start.lane);
                    assert!(
                        self.starting.insert(seq, (start.lease, start.place)).is_none(),
                        "it starts twice: {}",
                        self.story()
                    );
                    self.send(What::Start { seq, lease: start.lease }, Then::Started(seq, start.lease));
                }
            }
        }
        self.begin_reads();
    }

    /// A start is right by everything that the model knows.
    fn may_start(&mut self, item: &Item, lane: LaneId) {
        let seq = item.key.seq;
        let entry =
            self.entries.get(&seq).unwrap_or_else(|| panic!("a ghost starts: {}", self.story())).clone();
        assert_eq!(entry.stage, Stage::Inbox, "{entry:?}\n{}", self.story());
        assert_eq!(entry.key, item.key, "{}", self.story());
        assert_eq!(entry.class, lane.class);
        assert!(!self.paused.contains(&entry.queue), "a paused queue starts: {}", self.story());
        assert!(entry.deadline.is_none_or(|deadline| deadline > self.now), "too late: {}", self.story());
        // Q4: earlier entries of the lane have been overtaken once more.
        let leaving = &self.starting;
        for (other, before) in &mut self.entries {
            let late = before.deadline.is_some_and(|deadline| deadline <= self.now);
            let ready = before.stage == Stage::Inbox && !late;
            let same = before.queue == entry.queue && before.class == entry.class && ready;
            if same && before.key < entry.key && !leaving.contains_key(other) {
                before.overtaken += 1;
                let events = || self.events.join("\n");
                assert!(
                    before.overtaken <= 2,
                    "overtaken too often: {before:?} by {entry:?} at {:?}: {}",
                    self.now,
                    events()
                );
            }
        }
    }

    fn begin_reads(&mut self) {
        while let Some(hunger) = self.sched.next_read() {
            // The snapshot is taken now, and the answer comes later.
            let found = self.scan(&hunger);
            self.reads.push((hunger, found));
        }
    }

    fn scan(&mut self, hunger: &Hunger) -> Result<Found, ()> {
        if self.chance.one_in(10) {
            return Err(());
        }
        let (_, number, _) = self.sched.queue(hunger.lane.queue).expect("it is there");
        let low = self.ledger.low(number, hunger.lane.class).expect("it has entries");
        let most = if self.chance.one_in(4) { self.chance.below(CAPACITY as u64) as usize } else { CAPACITY };
        let mut items = Vec::new();
        let mut full = false;
        let mut visit = |key: &[u8], value: &[u8]| {
            if items.len() == most {
                full = true;
                return ControlFlow::Break(());
            }
            items.push(format::inbox_row(key, value).expect("whole").2);
            ControlFlow::Continue(())
        };
        let span = format::lane(number, hunger.lane.class, low.max(hunger.ticket.from));
        self.log.scan(&span, Patience::Wait, &mut visit).expect("memory can be read");
        Ok(Found { items, full })
    }

    fn read(&mut self) {
        self.begin_reads();
        if self.reads.is_empty() {
            return;
        }
        let at = self.chance.below(self.reads.len() as u64) as usize;
        let (hunger, found) = self.reads.swap_remove(at);
        match found {
            Ok(found) if !hunger.ticket.is_cancelled() => self.sched.read(&hunger, found),
            _ => self.sched.read_failed(&hunger, self.now),
        }
    }

    fn end_one(&mut self) {
        let Some(seq) = self.any(Stage::Running) else { return };
        let Some((lease, place, remembered)) = self.running.remove(&seq) else { return };
        self.free(&place);
        let used = Cost { tokens: 1 + self.chance.below(30) as u32, blocks: 1 };
        self.note(format!("end {seq:?}"));
        match self.chance.below(6) {
            0 => {
                let until = self.chance.one_in(2).then(|| self.now.plus(self.chance.below(40)));
                self.send(
                    What::Yield { seq, lease, not_before: until, used, counts: true },
                    Then::Back(seq, until),
                );
            }
            1 => self.send(What::Suspend { seq, lease, used }, Then::Aside(seq, Stage::Suspended)),
            n => {
                let outcome = if n == 2 { Outcome::Failed } else { Outcome::Done };
                let what = What::Finish { seq, lease, remembered, outcome, used, result: Bytes::new() };
                self.send(what, Then::Ended(seq, outcome));
            }
        }
    }

    /// The process dies: what was not committed is gone, what ran is ready again.
    fn crash(&mut self) {
        self.note("crash".to_owned());
        self.mail.clear();
        self.reads.clear();
        self.starting.clear();
        self.running.clear();
        for free in self.engines.free.values_mut() {
            *free = 3;
        }
        self.sched = Scheduler::new(options());
        settle(&mut self.sched);
        let (ledger, opened) = Ledger::open(&*self.log, PARTITION, 1, &mut self.sched).expect("it is whole");
        self.ledger = ledger;
        let ran = self.entries.values().filter(|entry| entry.stage == Stage::Running).count();
        assert_eq!(opened.resumed, ran, "{}", self.story());
        for entry in self.entries.values_mut() {
            entry.overtaken = 0;
            if entry.stage == Stage::Running {
                entry.stage = Stage::Inbox;
            }
        }
        let counts = ledger::count(&*self.log, || (), &|| true).expect("readable");
        let counted: u64 = counts.values().sum();
        assert_eq!(counted, self.entries.len() as u64, "{}", self.story());
        for number in self.ledger.count(&counts) {
            self.send(What::Close { number }, Then::Nothing);
        }
    }

    fn check(&self) {
        assert_eq!(self.sched.check(), Ok(()), "{}", self.story());
        let running = self.entries.values().filter(|entry| entry.stage == Stage::Running).count();
        assert!(running <= 7, "more runs than the fleet may: {}", self.story());
    }

    /// Everything that may run comes to its end, and the books are empty.
    fn drain(&mut self) {
        self.engines.moody = false;
        while !self.mail.is_empty() {
            self.commit();
        }
        for name in self.paused.clone() {
            self.send(What::PauseQueue { name: name.clone(), paused: false }, Then::Paused(name, false));
        }
        for round in 0.. {
            if round >= 20_000 {
                let left = self.ledger.queues().map(|(number, id, row, live)| {
                    let lanes = Class::all().map(|class| LaneId { queue: id, class });
                    let known: Vec<_> =
                        lanes.map(|lane| (self.sched.why_lane(lane), self.sched.low_water(lane))).collect();
                    (number, row.name.to_string(), live, self.sched.runs(id), row.paused, known)
                });
                let left: Vec<_> = left.collect();
                panic!("something does not move: {}\n{:#?}\n{left:?}", self.story(), self.entries);
            }
            self.now = self.now.plus(5);
            let _due = self.sched.tick(self.now);
            if self.ledger.next_due().is_some_and(|due| due <= self.now) {
                self.send(What::Due { until: self.now }, Then::Nothing);
            }
            self.sched.stir(None);
            self.decide();
            while !self.reads.is_empty() {
                self.read();
            }
            for stage in [Stage::Suspended, Stage::Paused] {
                if let Some(seq) = self.any(stage) {
                    self.send(What::Resume { seq }, Then::Resumed(seq));
                }
            }
            if let Some(seq) = self.any(Stage::Finished) {
                self.send(What::Forget { seq }, Then::Forgotten(seq));
            }
            if let Some(seq) = self.running.keys().min().copied() {
                let (lease, place, remembered) = self.running.remove(&seq).expect("there");
                self.free(&place);
                let used = Cost { tokens: 3, blocks: 1 };
                let outcome = Outcome::Done;
                let what = What::Finish { seq, lease, remembered, outcome, used, result: Bytes::new() };
                self.send(what, Then::Ended(seq, outcome));
            }
            while !self.mail.is_empty() {
                self.commit();
            }
            self.check();
            if self.entries.is_empty() && self.ledger.queues().count() == 0 {
                break;
            }
        }
        assert_eq!(self.sched.depth().running, 0);
        assert_eq!(self.sched.depth().cached, 0);
        assert_eq!(self.sched.depth().queues, 0, "{}", self.story());
        for table in [
            queue::log::Table::Entries,
            queue::log::Table::Inbox,
            queue::log::Table::Running,
            queue::log::Table::Aside,
            queue::log::Table::Once,
            queue::log::Table::Queues,
        ] {
            let mut rows = 0;
            let mut visit = |_: &[u8], _: &[u8]| {
                rows += 1;
                ControlFlow::Continue(())
            };
            self.log.scan(&format::all(table), Patience::Wait, &mut visit).expect("readable");
            assert_eq!(rows, 0, "{table:?} has rows of nobody; {}", self.story());
        }
    }

    fn story(&self) -> String {
        format!("the last events were:\n{}", self.events.join("\n"))
    }
}

#[test]
fn any_sequence_of_moves_agrees_with_a_list_of_entries() {
    #[expect(clippy::disallowed_methods, reason = "how many histories is up to whoever runs the test")]
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = variable("WARMLINE_SEEDS").unwrap_or(2_000);
    let first = variable("WARMLINE_SEED").unwrap_or(0);
    for seed in first..first + seeds {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            let steps = 50 + world.chance.below(400);
            for _ in 0..steps {
                world.step();
            }
            world.drain();
        });
        if let Err(panic) = result {
            eprintln!("seed {seed} failed: WARMLINE_SEED={seed} WARMLINE_SEEDS=1 runs it again");
            std::panic::resume_unwind(panic);
        }
    }
}
