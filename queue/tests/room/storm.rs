//! Everything at once, by seed: threads that enqueue, run, finish, fail, give back, suspend, hold, resume, cancel, retry, pause
//! and stand in line, over a log whose reads fail and block by chance. Then everything drains, and what was acknowledged
//! outside agrees with what happened.
//!
//! `WARMLINE_SEEDS=200 cargo test -p warmline-queue --test room storm` looks for longer.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use queue::entry::{Entry, Outcome};
use queue::format;
use queue::ledger::{Done, Refused, What};
use queue::limits::Limits;
use queue::log::faulty::Chances;
use queue::log::{Faulty, Log, Memory, Patience, TABLES, Table};
use queue::name::{EntryId, QueueName};
use queue::room::{Started, Waiting};

use crate::kit::{Dice, PARTITION, Place, World, block, class, entry, finish, give_back, options, waiting};

const QUEUES: u64 = 9;
const THREADS: u64 = 5;

/// What was acknowledged, kept by those who asked.
#[derive(Default)]
struct Acknowledged {
    entries: HashMap<EntryId, Fate>,
    onces: HashMap<(QueueName, u64), Vec<EntryId>>,
}

#[derive(Default)]
struct Fate {
    enqueued: bool,
    /// How often it ended, minus how often it was tried again.
    ends: i32,
}

struct Storm {
    world: World,
    log: Arc<Faulty<Memory>>,
    told: Mutex<Acknowledged>,
    turns: AtomicUsize,
}

impl Storm {
    fn ended(&self, id: EntryId) {
        let mut told = self.told.lock();
        let fate = told.entries.entry(id).or_default();
        fate.ends += 1;
        assert!(fate.ends <= 1, "{id} ended twice");
    }

    fn step(&self, dice: &mut Dice) {
        match dice.roll(20) {
            0..5 => self.enqueue(dice),
            5..12 => {
                if let Some(started) = self.world.notes.try_started() {
                    self.run(dice, started);
                }
            }
            12 => self.cancel(dice),
            13 => {
                let (world, line) = (&self.world, waiting(&format!("q{}", dice.roll(QUEUES))));
                let deadline = (dice.roll(3) == 0).then(|| world.time.pass(0).plus(dice.roll(20)));
                let standing = world.room.stand(Waiting { deadline, ..line }, |_| ());
                if dice.roll(2) == 0 {
                    return drop(standing);
                }
                // Whoever waits for long would wait for itself: nobody else takes what is started.
                if dice.roll(4) == 0 {
                    self.run_all(dice);
                }
                drop(standing);
                self.turns.fetch_add(1, Ordering::Relaxed);
            }
            14 => {
                if let Some(id) = self.any(dice) {
                    let hold = self.world.ask(What::Hold { seq: id.seq });
                    assert!(!matches!(hold, Err(Refused::Log(_) | Refused::Closing)), "{hold:?}");
                }
            }
            15 | 16 => {
                if let Some(id) = self.any(dice) {
                    let _maybe = self.world.ask(What::Resume { seq: id.seq });
                }
            }
            17 => {
                // Noted before it is known, since it may end at once.
                let Some(id) = self.any(dice) else { return };
                let mut told = self.told.lock();
                if self.world.ask(What::Retry { seq: id.seq }).is_ok() {
                    told.entries.get_mut(&id).unwrap().ends -= 1;
                }
            }
            18 => {
                let name = entry(&format!("q{}", dice.roll(QUEUES)), "").queue;
                let paused = dice.roll(3) == 0;
                let _there = self.world.ask(What::PauseQueue { name, paused });
            }
            _ => {
                self.world.time.pass(dice.roll(30));
                assert_eq!(self.world.room.check(), Ok(()));
            }
        }
    }

    fn any(&self, dice: &mut Dice) -> Option<EntryId> {
        let told = self.told.lock();
        let many = told.entries.len() as u64;
        (many > 0).then(|| *told.entries.keys().nth(dice.roll(many) as usize).unwrap())
    }

    fn enqueue(&self, dice: &mut Dice) {
        let now = self.world.time.pass(0);
        let once = (dice.roll(6) == 0).then(|| dice.roll(5));
        let mut one = entry(&format!("q{}", dice.roll(QUEUES)), "a");
        one.class = class(dice.roll(4) as u8);
        one.once = once.map(|once| once.to_string().into());
        one.keep = if dice.roll(3) == 0 { dice.roll(100) } else { 0 };
        one.not_before = (dice.roll(5) == 0).then(|| now.plus(dice.roll(60)));
        one.deadline = (dice.roll(5) == 0).then(|| now.plus(30 + dice.roll(100)));
        let queue = one.queue.clone();
        match self.world.ask(What::Enqueue(Box::new(one))) {
            Ok(Done::Enqueued(id)) => {
                let mut told = self.told.lock();
                let fate = told.entries.entry(id).or_default();
                assert!(!fate.enqueued, "a number was given twice");
                fate.enqueued = true;
                if let Some(once) = once {
                    told.onces.entry((queue, once)).or_default().push(id);
                }
            }
            Ok(Done::Known(_)) => assert!(once.is_some()),
            // The clock went on meanwhile.
            Err(Refused::Invalid(why)) => assert!(why.starts_with("the entry may not start"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    fn cancel(&self, dice: &mut Dice) {
        let Some(id) = self.any(dice) else { return };
        if self.world.ask(What::Cancel { seq: id.seq }).is_ok() {
            self.ended(id);
        }
    }

    /// What is left, for whoever must find out why.
    fn story(&self) -> String {
        let ids: Vec<EntryId> = self.told.lock().entries.keys().copied().collect();
        let left = ids.iter().filter_map(|id| self.world.room.show(*id).ok());
        let left: Vec<String> = left
            .map(|seen| {
                format!("{} of {} {:?}: {:?}", seen.entry.id, seen.entry.queue, seen.entry.stage, seen.why)
            })
            .collect();
        let room = &self.world.room;
        format!("{:?}\n{:?}\n{:?}\n{}", room.totals(), room.queues(), room.check(), left.join("\n"))
    }

    fn run(&self, dice: &mut Dice, started: Started<Place>) {
        let held = started.hold();
        // Some give the place back first, some last.
        let started = (dice.roll(2) == 0).then_some(started);
        let now = self.world.time.pass(0);
        let what = match dice.roll(8) {
            0 => give_back(&held, None),
            1 => give_back(&held, Some(now.plus(dice.roll(50)))),
            2 => What::Suspend { seq: held.id.seq, lease: held.lease, used: queue::entry::Cost::default() },
            3 => finish(&held, Outcome::Failed),
            _ => finish(&held, Outcome::Done),
        };
        let ends = matches!(what, What::Finish { .. });
        match self.world.ask(what) {
            Ok(_) if ends => self.ended(held.id),
            Ok(_) | Err(Refused::Stale(_)) => {}
            other => panic!("{other:?}"),
        }
        drop(started);
    }

    fn run_all(&self, dice: &mut Dice) {
        while let Some(started) = self.world.notes.try_started() {
            self.run(dice, started);
        }
    }

    /// Everything that can run does, until nothing is left.
    fn drain(&self) {
        let (dice, rounds) = (Mutex::new(Dice(1)), AtomicUsize::new(0));
        self.log.chances(1, Chances::default());
        for number in 0..QUEUES {
            let name = entry(&format!("q{number}"), "").queue;
            let _there = self.world.ask(What::PauseQueue { name, paused: false });
        }
        self.world.until("everything has ended", || {
            self.world.time.pass(20);
            self.run_all(&mut dice.lock());
            let ids: Vec<EntryId> = self.told.lock().entries.keys().copied().collect();
            // What is held back or suspended goes on, now and then.
            if rounds.fetch_add(1, Ordering::Relaxed) % 20 == 0 {
                for id in ids.into_iter().filter(|id| self.world.room.show(*id).is_ok()) {
                    let _aside = self.world.ask(What::Resume { seq: id.seq });
                }
            }
            let left = self.world.room.totals().logs[0].entries;
            left == Some(0)
        });
        self.world.is_empty();
        for table in TABLES.into_iter().filter(|table| !matches!(table, Table::Meta | Table::Debts)) {
            let mut rows = 0;
            let mut visit = |_: &[u8], _: &[u8]| {
                rows += 1;
                ControlFlow::Continue(())
            };
            self.log.scan(&format::all(table), Patience::Wait, &mut visit).unwrap();
            assert_eq!(rows, 0, "{table:?} has rows of nobody");
        }
    }

    /// Everything acknowledged ended once, as far as its asker or the runner heard; what expired the runner heard alone.
    fn agree(&self) {
        for (id, outcome) in self.world.notes.all_over() {
            if outcome == Outcome::Expired {
                self.ended(id);
            }
        }
        for (id, fate) in &self.told.lock().entries {
            assert!(fate.enqueued, "{id} ended and was never acknowledged");
            assert_eq!(fate.ends, 1, "{id} was lost");
        }
    }
}

fn storm(seed: u64) {
    let log = Arc::new(Faulty::new(Memory::new()));
    let mut options = options();
    options.scheduler.fleet = Limits { running: Some(6), ..Limits::default() };
    options.scheduler.cached = 100;
    options.scheduler.refills = 3;
    let world = World::with(4, options);
    world.open(&log);
    log.chances(seed, Chances { commit: 0, block: 300, scan: 100 });
    let storm = Storm { world, log, told: Mutex::default(), turns: AtomicUsize::new(0) };
    let many: Vec<Entry> = (0..120).map(|number| entry(&format!("q{}", number % 3), "first")).collect();
    for done in block(storm.world.room.enqueue_all(PARTITION, many)).unwrap() {
        let Done::Enqueued(id) = done else { panic!("{done:?}") };
        storm.told.lock().entries.entry(id).or_default().enqueued = true;
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let storm = &storm;
                scope.spawn(move || {
                    let mut dice = Dice(seed * THREADS + thread);
                    for _ in 0..200 {
                        storm.step(&mut dice);
                    }
                })
            })
            .collect();
        // Whoever looks on disturbs nobody.
        let looking = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                for queue in storm.world.room.queues() {
                    let listed = storm.world.room.list(&queue.name, 5);
                    assert!(
                        matches!(listed, Ok(_) | Err(Refused::NoQueue(_) | Refused::Log(_))),
                        "{listed:?}"
                    );
                }
                assert!(storm.world.room.totals().depth.running <= 6);
            }
        });
        let ended: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Release);
        looking.join().unwrap();
        for ended in ended {
            ended.unwrap();
        }
    });
    let drained = std::panic::catch_unwind(AssertUnwindSafe(|| storm.drain()));
    if let Err(panic) = drained {
        eprintln!("what is left:\n{}", storm.story());
        std::panic::resume_unwind(panic);
    }
    storm.agree();
}

#[test]
fn everything_at_once_agrees_with_what_was_acknowledged() {
    #[expect(clippy::disallowed_methods, reason = "how long a test looks is for whoever starts it")]
    let variable = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let first = variable("WARMLINE_SEED").unwrap_or(0);
    let seeds = variable("WARMLINE_SEEDS").map_or(12, |seeds| seeds.min(10_000));
    for seed in first..first + seeds {
        if let Err(panic) = std::panic::catch_unwind(|| storm(seed)) {
            eprintln!("seed {seed} failed: WARMLINE_SEED={seed} WARMLINE_SEEDS=1 runs it again");
            std::panic::resume_unwind(panic);
        }
    }
}
