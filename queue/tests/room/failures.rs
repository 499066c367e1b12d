//! Logs that fail, are given up, taken over, or somebody else's: everybody is told, and what was acknowledged is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use parking_lot::Mutex;
use queue::entry::{Entry, Outcome, Stage, Terms};
use queue::ledger::{Done, Refused, What};
use queue::limits::Limits;
use queue::log::faulty::{CommitFault, ScanFault};
use queue::log::fjall::Options;
use queue::log::{Batch, Error, Faulty, Fjall, Log, Memory, Patience, Scanned, Span, Sync, Table, Visit};
use queue::scheduler;
use tempfile::TempDir;

use crate::kit::{PARTITION, TARGET, World, block, entry, finish, name, options, until, wait, waiting};

/// The log fails while it takes an entry; it takes nothing more, and after it was opened again it holds what it should.
fn fails(fault: CommitFault) {
    let log = Arc::new(Faulty::new(Memory::new()));
    let world = World::over(1, &log);
    let runs = world.enqueue(entry("q", "runs"));
    let started = world.notes.started();
    let waits = world.enqueue(entry("q", "waits"));
    let standing = world.room.stand(waiting("line"), |_| ());

    log.commits([Some(fault)]);
    let enqueue = |payload| world.ask(What::Enqueue(Box::new(entry("r", payload))));
    let Err(Refused::Log(why)) = enqueue("fails") else { panic!("it was acknowledged") };
    assert_eq!(why, "writing: a fault that a test asked for", "it says what happened");
    assert_eq!(world.notes.revoked(), (runs, started.lease));
    assert_eq!(enqueue("later"), Err(Refused::Log(why.clone())));
    assert_eq!(world.finish(&started.hold(), Outcome::Done), Err(Refused::Log(why.clone())));
    assert_eq!(world.ask(What::Cancel { seq: waits.seq }), Err(Refused::Log(why.clone())));
    let totals = world.room.totals();
    assert_eq!(totals.logs[0].poisoned, Some(why), "and says so to whoever looks");
    assert_eq!((totals.depth.running, totals.depth.cached), (0, 0));
    assert_eq!(world.room.show(waits).unwrap().entry.stage, Stage::Inbox, "it can be read");
    assert_eq!(world.room.show(waits).unwrap().why, None);
    assert_eq!(world.room.queue(&name("q")).unwrap().running, 0);
    assert_eq!(world.room.check(), Ok(()));
    assert_eq!(log.counts().refused, 0, "nothing was tried after the failure");
    drop(started);
    // What lives in memory goes on.
    drop(block(standing).unwrap());

    log.reopen();
    world.room.give_up(PARTITION);
    assert_eq!(world.room.partitions(), [0_u32; 0]);
    let opened = world.room.open(PARTITION, 1, log.clone()).unwrap();
    assert_eq!(opened.resumed, 1);
    let expected = if fault == CommitFault::After { 3 } else { 2 };
    for number in 0..expected {
        let held = world.start();
        assert!(number > 1 || held.id == [runs, waits][number] || fault == CommitFault::After);
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn a_commit_that_was_not_written_is_told_and_nothing_acknowledged_is_lost() {
    fails(CommitFault::Before);
}

#[test]
fn a_commit_that_was_written_but_failed_is_told_and_nothing_is_done_twice() {
    fails(CommitFault::After);
}

#[test]
fn a_finish_that_fails_is_found_done_or_runs_again() {
    for (fault, again) in [(CommitFault::Before, true), (CommitFault::After, false)] {
        let log = Arc::new(Faulty::new(Memory::new()));
        let world = World::over(1, &log);
        let id = world.enqueue(Entry { keep: 9_000, ..entry("q", "a") });
        let held = world.start();
        log.commits([Some(fault)]);
        assert!(matches!(world.finish(&held, Outcome::Done), Err(Refused::Log(_))));
        log.reopen();
        let world = world.restart(&log);
        world.places(1);
        if again {
            let held = world.start();
            assert_eq!(held.id, id);
            world.finish(&held, Outcome::Done).unwrap();
        }
        assert_eq!(world.room.show(id).unwrap().entry.outcome, Some(Outcome::Done));
        world.time.pass(9_000);
        world.is_empty();
    }
}

#[test]
fn a_start_that_fails_gives_its_place_to_others() {
    let log = Arc::new(Faulty::new(Memory::new()));
    let other = Arc::new(Memory::new());
    let world = World::over(0, &log);
    world.room.open(9, 1, other.clone()).unwrap();
    world.enqueue(entry("q", "a"));
    let in_other = wait(world.room.send(9, What::Enqueue(Box::new(entry("q", "b"))))).unwrap();
    log.commits([Some(CommitFault::Before)]);
    world.places(1);
    let held = world.start();
    assert_eq!(Done::Enqueued(held.id), in_other, "the other log goes on");
    wait(world.room.send(9, finish(&held, Outcome::Done))).unwrap();
    until("its place is free", || world.engines.taken() == 0);
    assert!(world.room.totals().logs[0].poisoned.is_some());
}

#[test]
fn a_failed_log_frees_what_it_had_of_a_limit() {
    let mut options = options();
    options.scheduler.fleet = Limits { running: Some(1), ..Limits::default() };
    let log = Arc::new(Faulty::new(Memory::new()));
    let world = World::with(9, options);
    world.open(&log);
    world.room.open(9, 1, Arc::new(Memory::new())).unwrap();
    world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    let waits = wait(world.room.send(9, What::Enqueue(Box::new(entry("q", "b"))))).unwrap();
    log.commits([Some(CommitFault::Before)]);
    assert!(matches!(world.finish(&started.hold(), Outcome::Done), Err(Refused::Log(_))));
    // Nobody stirs, and no place is dropped: the limit alone lets it go on.
    let next = world.notes.started();
    assert_eq!(Done::Enqueued(next.id), waits);
}

#[test]
fn a_start_that_is_refused_frees_what_it_had_of_a_limit() {
    // An entry is cancelled, and while that is being written it is chosen to start. Its start comes too late and is refused;
    // the next entry waits for the only place of the fleet's limit, and nothing else happens.
    let mut options = options();
    options.scheduler.fleet = Limits { running: Some(1), ..Limits::default() };
    let log = Arc::new(Slow::default());
    let world = World::with(9, options);
    world.open(&log);
    // The place that the refused start gives back tells nobody either.
    world.engines.ring(None);
    world.engines.shut(true);
    let first = world.enqueue(entry("q", "a"));
    let second = world.enqueue(entry("q", "b"));
    let gate = log.hold();
    let cancelled = world.room.send(PARTITION, What::Cancel { seq: first.seq });
    gate.0.recv().unwrap();
    world.engines.shut(false);
    world.room.stir(None);
    assert_eq!((world.room.totals().depth.running, world.engines.taken()), (1, 1), "it was chosen");
    gate.1.send(()).unwrap();
    assert_eq!(wait(cancelled), Ok(Done::Over(first, Outcome::Cancelled)));
    let started = world.notes.started();
    assert_eq!(started.id, second);
    world.finish(&started.hold(), Outcome::Done).unwrap();
    drop(started);
    world.is_empty();
}

#[test]
fn an_entry_that_leaves_and_comes_back_while_its_start_is_under_way_runs_once() {
    // It is held, and at once let go on; a place becomes free while the first is being written, so its start stands behind
    // both. The second start once displaced the first: a place was dropped under the lock, or nobody ran what was started.
    for again in [false, true] {
        let log = Arc::new(Slow::default());
        let world = World::over(0, &log);
        let id = world.enqueue(Entry { keep: 9_000, ..entry("q", "a") });
        let seq = id.seq;
        let (out, back) = if again {
            (What::Cancel { seq }, What::Retry { seq })
        } else {
            (What::Hold { seq }, What::Resume { seq })
        };
        let gate = log.hold();
        let out = world.room.send(PARTITION, out);
        gate.0.recv().unwrap();
        let back = world.room.send(PARTITION, back);
        world.places(2);
        assert_eq!(world.engines.taken(), 1, "it was chosen before anybody heard that it leaves");
        gate.1.send(()).unwrap();
        wait(out).unwrap();
        assert_eq!(wait(back), Ok(Done::Moved));
        let held = world.start();
        assert_eq!(held.id, id);
        world.finish(&held, Outcome::Done).unwrap();
        assert_eq!(world.room.show(id).unwrap().entry.outcome, Some(Outcome::Done));
        world.time.pass(9_000);
        world.is_empty();
        assert!(world.notes.is_quiet(), "it was started twice");
    }
}

#[test]
fn an_entry_that_is_tried_again_does_not_expire_by_what_was_decided_before() {
    let log = Arc::new(Slow::default());
    let world = World::over(0, &log);
    let deadline = Some(world.time.pass(0).plus(500));
    let id = world.enqueue(Entry { keep: 9_000, deadline, ..entry("q", "a") });
    let gate = log.hold();
    let cancelled = world.room.send(PARTITION, What::Cancel { seq: id.seq });
    gate.0.recv().unwrap();
    let again = world.room.send(PARTITION, What::Retry { seq: id.seq });
    world.time.pass(600);
    // It is too late for what is still first in the lane.
    world.places(1);
    gate.1.send(()).unwrap();
    assert_eq!(wait(cancelled), Ok(Done::Over(id, Outcome::Cancelled)));
    assert_eq!(wait(again), Ok(Done::Moved));
    let held = world.start();
    world.finish(&held, Outcome::Done).unwrap();
    assert_eq!(world.room.show(id).unwrap().entry.outcome, Some(Outcome::Done));
    world.time.pass(9_000);
    world.is_empty();
}

/// What a log does when it is told to panic.
#[derive(Default)]
struct Panicky {
    inner: Memory,
    /// The next call of this kind panics.
    next: Mutex<Option<Call>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Commit,
    Get,
    Scan,
}

impl Panicky {
    fn may_panic(&self, call: Call) {
        let now = self.next.lock().take_if(|next| *next == call).is_some();
        assert!(!now, "a panic that a test asked for");
    }
}

impl Log for Panicky {
    fn commit(&self, batch: Batch, sync: Sync) -> Result<(), Error> {
        self.may_panic(Call::Commit);
        self.inner.commit(batch, sync)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.may_panic(Call::Get);
        self.inner.get(table, key)
    }

    fn scan(&self, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        self.may_panic(Call::Scan);
        self.inner.scan(span, patience, visit)
    }
}

#[test]
fn a_log_that_panics_when_it_is_written_has_failed_and_everybody_hears_of_it() {
    let log = Arc::new(Panicky::default());
    let world = World::over(1, &log);
    let id = world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    *log.next.lock() = Some(Call::Commit);
    let why = "writing the log: it panicked".to_owned();
    assert_eq!(world.finish(&started.hold(), Outcome::Done), Err(Refused::Log(why.clone())));
    assert_eq!(world.notes.revoked(), (id, started.lease));
    assert_eq!(world.ask(What::Cancel { seq: id.seq }), Err(Refused::Log(why.clone())));
    assert_eq!(world.room.totals().logs[0].poisoned, Some(why));
    drop(started);
    world.room.give_up(PARTITION);
    world.open(&log);
    let held = world.start();
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn a_log_that_panics_when_it_is_read_for_a_move_refuses_that_move_and_no_other() {
    let log = Arc::new(Panicky::default());
    let world = World::over(0, &log);
    let id = world.enqueue(entry("q", "a"));
    *log.next.lock() = Some(Call::Get);
    let why = "reading the log: it panicked".to_owned();
    assert_eq!(world.ask(What::Cancel { seq: id.seq }), Err(Refused::Log(why)));
    assert_eq!(world.ask(What::Cancel { seq: id.seq }), Ok(Done::Over(id, Outcome::Cancelled)));
    world.is_empty();
}

#[test]
fn a_log_that_panics_when_it_is_opened_can_be_opened_later() {
    let log = Arc::new(Panicky::default());
    let world = World::new(1);
    for call in [Call::Get, Call::Scan, Call::Commit] {
        *log.next.lock() = Some(call);
        let opened = world.room.open(PARTITION, 1, log.clone());
        assert_eq!(opened.unwrap_err().to_string(), "opening the log: it panicked", "{call:?}");
    }
    world.open(&log);
    world.enqueue(entry("q", "a"));
    let held = world.start();
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

/// A log whose table of what is set aside has no end.
#[derive(Default)]
struct Endless {
    inner: Memory,
    scans: AtomicUsize,
}

impl Log for Endless {
    fn commit(&self, batch: Batch, sync: Sync) -> Result<(), Error> {
        self.inner.commit(batch, sync)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(table, key)
    }

    fn scan(&self, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        if span.table != Table::Aside {
            return self.inner.scan(span, patience, visit);
        }
        self.scans.fetch_add(1, Ordering::SeqCst);
        let key = queue::format::aside(1, queue::name::Seq(1));
        while visit(&key, &[]).is_continue() {}
        Ok(Scanned::Stopped)
    }
}

#[test]
fn a_count_ends_with_whoever_wants_it() {
    let log = Arc::new(Endless::default());
    let world = World::over(0, &log);
    world.until("it counts", || log.scans.load(Ordering::SeqCst) == 1);
    let id = world.enqueue(entry("q", "a"));
    world.room.give_up(PARTITION);
    assert_eq!(Arc::strong_count(&log), 1, "nobody reads it any more");
    world.open(&log);
    world.until("it counts", || log.scans.load(Ordering::SeqCst) == 2);
    assert_eq!(world.ask(What::Cancel { seq: id.seq }), Ok(Done::Over(id, Outcome::Cancelled)));
    world.room.close();
    assert_eq!(Arc::strong_count(&log), 1);
}

/// Somebody whose waking panics.
struct Loud;

impl std::task::Wake for Loud {
    fn wake(self: Arc<Self>) {
        panic!("a panic that a test asked for");
    }
}

#[test]
fn a_committer_that_panics_on_the_way_is_a_log_that_has_failed() {
    let log = Arc::new(Slow::default());
    let world = World::over(1, &log);
    world.enqueue(entry("q", "a"));
    let held = world.start();
    let gate = log.hold();
    let mut finished = world.room.send(PARTITION, finish(&held, Outcome::Done));
    gate.0.recv().unwrap();
    let waker = std::task::Waker::from(Arc::new(Loud));
    let polled = std::pin::Pin::new(&mut finished).poll(&mut std::task::Context::from_waker(&waker));
    assert!(polled.is_pending());
    gate.1.send(()).unwrap();
    let why = "its committer panicked".to_owned();
    world.until("it is known", || world.room.totals().logs[0].poisoned == Some(why.clone()));
    let refused = world.ask(What::Enqueue(Box::new(entry("q", "b"))));
    assert_eq!(refused, Err(Refused::Log(why)), "and nobody waits for nothing");
    assert_eq!(world.room.check(), Ok(()));
    world.room.give_up(PARTITION);
    world.open(&log);
    world.is_empty();
}

#[test]
fn a_ground_that_panics_is_asked_again_and_holds_up_nobody_else() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    let (first, other) = (entry("q", "a"), Entry { terms: Terms::of("other"), ..entry("r", "b") });
    let (first, other) = (world.enqueue(first), world.enqueue(other));
    world.engines.panic(TARGET);
    world.places(1);
    world.engines.set("other", 1);
    world.room.stir(Some("other"));
    let held = world.start();
    assert_eq!(held.id, other, "whoever waits for something else");
    world.finish(&held, Outcome::Done).unwrap();
    let held = world.start();
    assert_eq!(held.id, first, "its place was free, and a later word has found it");
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

/// A log whose next commit can be held: it says that it has begun, and waits for a word.
#[derive(Default)]
struct Slow {
    inner: Memory,
    held: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Slow {
    fn hold(&self) -> (Receiver<()>, Sender<()>) {
        let ((begun, begins), (go, goes)) = (channel(), channel());
        *self.held.lock() = Some((begun, goes));
        (begins, go)
    }
}

impl Log for Slow {
    fn commit(&self, batch: Batch, sync: Sync) -> Result<(), Error> {
        let held = self.held.lock().take();
        if let Some((begun, goes)) = held {
            begun.send(()).unwrap();
            goes.recv().unwrap();
        }
        self.inner.commit(batch, sync)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(table, key)
    }

    fn scan(&self, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        self.inner.scan(span, patience, visit)
    }
}

#[test]
fn a_partition_can_be_given_up_and_opened_again_in_the_same_room() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let first = world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    let second = world.enqueue(entry("q", "b"));
    let standing = world.room.stand(waiting("line"), |_| ());
    assert_eq!(world.room.partitions(), [PARTITION]);
    world.room.give_up(PARTITION);
    world.room.give_up(PARTITION);
    assert_eq!(world.notes.revoked(), (first, started.lease));
    assert_eq!(world.finish(&started.hold(), Outcome::Done), Err(Refused::NotHere(PARTITION)));
    assert_eq!(world.room.queues().len(), 0);
    drop(started);
    let turn = block(standing).unwrap();
    let opened = world.room.open(PARTITION, 2, log.clone()).unwrap();
    assert_eq!((opened.queues, opened.resumed), (1, 1));
    drop(turn);
    for id in [first, second] {
        let held = world.start();
        assert_eq!(held.id, id);
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn a_partition_given_up_under_load_loses_and_doubles_nothing() {
    let log = Arc::new(Memory::new());
    let world = World::over(4, &log);
    let mut acknowledged = std::collections::BTreeSet::new();
    let mut done = std::collections::BTreeSet::new();
    let mut unsure = std::collections::BTreeSet::new();
    for round in 0..40_u64 {
        let asked: Vec<_> = (0..20)
            .map(|number| {
                let entry = entry(&format!("q{}", number % 3), "a");
                world.room.send(PARTITION, What::Enqueue(Box::new(entry)))
            })
            .collect();
        let giving = std::thread::scope(|scope| {
            let giving = scope.spawn(|| {
                for _ in 0..round * 3 {
                    std::thread::yield_now();
                }
                world.room.give_up(PARTITION);
            });
            while let Some(started) = world.notes.try_started() {
                assert!(!done.contains(&started.id), "{} runs after its end", started.id);
                match world.finish(&started.hold(), Outcome::Done) {
                    Ok(_) => assert!(done.insert(started.id), "{} ended twice", started.id),
                    Err(Refused::Closing) => drop(unsure.insert(started.id)),
                    Err(Refused::NotHere(_) | Refused::Stale(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            giving.join()
        });
        giving.unwrap();
        for asked in asked {
            match wait(asked) {
                Ok(Done::Enqueued(id)) => drop(acknowledged.insert(id)),
                Err(Refused::Closing | Refused::NotHere(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        world.open(&log);
        assert_eq!(world.room.check(), Ok(()));
    }
    // What is left of earlier leases is stale; what is there runs to its end.
    world.until("everything has ended", || {
        while let Some(started) = world.notes.try_started() {
            let _stale = world.finish(&started.hold(), Outcome::Done);
        }
        world.room.totals().logs[0].entries == Some(0)
    });
    // The runner hears of an end a moment after whoever asked for it.
    world.until("the runner has heard of every end", || {
        let over: std::collections::BTreeSet<_> =
            world.notes.all_over().into_iter().map(|(id, _)| id).collect();
        assert_eq!(over.len(), world.notes.all_over().len(), "something ended twice");
        acknowledged.iter().all(|id| over.contains(id) || unsure.contains(id))
    });
    world.is_empty();
}

#[test]
fn a_partition_is_given_up_by_a_runner_while_it_is_called() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let room = world.room.clone();
    let (of, again) = (room.clone(), log.clone());
    let (tell, told) = std::sync::mpsc::channel();
    world.notes.reacting(move |_| {
        of.give_up(PARTITION);
        let opened = of.open(PARTITION, 1, again.clone());
        let _once = tell.send(opened.map(|_| ()).map_err(|e| e.to_string()));
    });
    let id = world.enqueue(entry("q", "a"));
    let words = "partition 3 is open already, here or in another process".to_owned();
    assert_eq!(told.recv().unwrap(), Err(words), "its last write is under way on this very thread");
    world.notes.calm();
    drop(world.notes.started());
    until("it can be opened by somebody else", || {
        let opened = room.open(PARTITION, 1, log.clone());
        assert!(matches!(opened, Ok(_) | Err(Error::Locked(_))));
        opened.is_ok()
    });
    let held = world.start();
    assert_eq!(held.id, id);
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
    drop(room);
}

#[test]
fn a_log_on_disk_is_let_go_when_it_is_given_up() {
    let folder = TempDir::new().unwrap();
    let small = Options { write_buffer_bytes: 1 << 20, cache_bytes: 1 << 20, ..Options::default() };
    let world = World::over(1, &Arc::new(Fjall::open(folder.path(), small).unwrap()));
    let id = world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    assert!(matches!(Fjall::open(folder.path(), small), Err(Error::Locked(_))));
    world.room.give_up(PARTITION);
    drop(started);
    let found = std::cell::RefCell::new(None);
    // A read that was under way may hold it a little longer.
    until("it is free", || match Fjall::open(folder.path(), small) {
        Ok(log) => found.replace(Some(log)).is_none(),
        Err(e) => {
            assert!(matches!(e, Error::Locked(_)), "{e}");
            false
        }
    });
    world.open(&Arc::new(found.take().unwrap()));
    let held = world.start();
    assert_eq!(held.id, id);
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn two_partitions_share_one_fairness_and_one_limit() {
    let mut options = options();
    options.scheduler.fleet = Limits { running: Some(2), ..Limits::default() };
    let world = World::with(9, options);
    let logs = [Arc::new(Memory::new()), Arc::new(Memory::new())];
    for (number, log) in (1..).zip(&logs) {
        world.room.open(number, 1, log.clone()).unwrap();
    }
    world.engines.shut(true);
    // The same tenant has ten queues in one partition; another has one in the other.
    for number in 0..40 {
        let mine = entry(&format!("q{}", number % 10), "a");
        wait(world.room.send(1, What::Enqueue(Box::new(mine)))).unwrap();
        let queue = queue::name::QueueName::new("other", "q").unwrap();
        let theirs = Entry { queue, ..entry("q", "b") };
        wait(world.room.send(2, What::Enqueue(Box::new(theirs)))).unwrap();
    }
    world.engines.shut(false);
    world.room.stir(None);
    let mut of = [0_i32; 2];
    for number in 0..80 {
        let started = world.notes.started();
        assert!(world.room.totals().depth.running <= 2);
        let held = started.hold();
        of[held.id.partition as usize - 1] += 1;
        if number < 70 {
            assert!((of[0] - of[1]).abs() <= 3, "after {number} starts: {of:?}");
        }
        wait(world.room.send(held.id.partition, finish(&held, Outcome::Done))).unwrap();
    }
    assert_eq!(of, [40, 40]);
    world.is_empty();
}

#[test]
fn a_log_of_another_partition_or_a_later_owner_is_refused() {
    let log = Arc::new(Memory::new());
    let world = World::new(1);
    world.room.open(PARTITION, 5, log.clone()).unwrap();
    world.enqueue(Entry { not_before: Some(queue::name::Millis(u64::MAX)), ..entry("q", "a") });
    let refused = |partition, fence| match world.room.open(partition, fence, log.clone()) {
        Err(e) => e,
        Ok(_) => panic!("it was opened"),
    };
    assert!(matches!(refused(PARTITION, 5), Error::Locked(_)));
    assert_eq!(refused(4, 5).to_string(), "Meta: a row is damaged: it holds partition 3, not 4");
    world.room.give_up(PARTITION);
    let fenced = refused(PARTITION, 4);
    assert!(matches!(fenced, Error::Fenced(5)), "{fenced}");
    let kept = refused(u32::MAX, 1).to_string();
    assert_eq!(kept, "opening partition 4294967295: this number is kept for what lives in memory only");
    assert_eq!(world.room.totals().depth, scheduler::Depth::default(), "nothing is left of what was refused");
    world.room.open(PARTITION, 6, log.clone()).unwrap();
    assert_eq!(world.room.queues().len(), 1);
}

#[test]
fn a_log_that_cannot_be_read_when_it_is_opened_leaves_nothing_behind() {
    let log = Arc::new(Faulty::new(Memory::new()));
    let world = World::over(0, &log);
    for number in 0..9 {
        world.enqueue(entry(&format!("q{number}"), "a"));
    }
    world.until("the count is over", || world.room.totals().logs[0].entries == Some(9));
    world.room.give_up(PARTITION);
    // The queues, what ran, what is owed, what is due: each in turn.
    for (good, rows) in [(0, 4), (1, 0), (2, 0), (3, 0)] {
        let script = std::iter::repeat_n(ScanFault::Pass, good).chain([ScanFault::FailAfter(rows)]);
        log.scans(script);
        let opened = world.room.open(PARTITION, 1, log.clone());
        assert!(matches!(opened, Err(Error::Io { .. })), "scan {good}");
        assert_eq!(world.room.totals().depth, scheduler::Depth::default(), "scan {good}");
        assert_eq!(world.room.partitions(), [0_u32; 0]);
    }
    world.open(&log);
    world.places(9);
    for _ in 0..9 {
        let held = world.start();
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn a_count_that_fails_is_made_again() {
    let log = Arc::new(Faulty::new(Memory::new()));
    let world = World::over(0, &log);
    for number in 0..9 {
        world.enqueue(entry(&format!("q{number}"), "a"));
    }
    world.room.give_up(PARTITION);
    // Four scans to open it, then the count.
    log.scans(std::iter::repeat_n(ScanFault::Pass, 4).chain(std::iter::repeat_n(ScanFault::FailAfter(0), 8)));
    world.open(&log);
    world.enqueue(entry("q0", "b"));
    world.until("the count is made again", || {
        world.time.pass(10);
        world.room.totals().logs[0].entries == Some(10)
    });
    assert_eq!(world.room.queue(&name("q0")).unwrap().entries, Some(2));
    // Lanes may have been read meanwhile, and failed as well: they rest for a while.
    world.time.pass(1_000);
    world.places(9);
    for _ in 0..10 {
        // A lane may have been read in place of a table, and rest.
        let started = world.notes.wait_passing(&world.time);
        world.finish(&started.hold(), Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn a_count_that_would_block_is_no_count() {
    // Taken for the end of a table it once left entries uncounted; their queues were closed over them.
    let log = Arc::new(Faulty::new(Memory::new()));
    let world = World::over(0, &log);
    for _ in 0..9 {
        world.enqueue(entry("q", "a"));
    }
    world.room.give_up(PARTITION);
    log.scans(
        std::iter::repeat_n(ScanFault::Pass, 4).chain(std::iter::repeat_n(ScanFault::BlockAfter(2), 4)),
    );
    world.open(&log);
    world.until("the count is made again", || {
        world.time.pass(10);
        world.room.totals().logs[0].entries.is_some()
    });
    assert_eq!(world.room.queue(&name("q")).unwrap().entries, Some(9));
    log.scans([ScanFault::BlockAfter(0)]);
    let opened = world.room.list(&name("q"), 9);
    assert!(matches!(opened, Err(Refused::Log(_))), "{opened:?}");
}

#[test]
fn what_is_due_and_cannot_be_read_is_tried_again_with_patience() {
    let log = Arc::new(Faulty::new(Memory::new()));
    let world = World::over(1, &log);
    let at = Some(world.time.pass(0).plus(1_000));
    let id = world.enqueue(Entry { not_before: at, ..entry("q", "a") });
    world.until("the count is over", || world.room.totals().logs[0].entries == Some(1));
    log.scans(std::iter::repeat_n(ScanFault::FailAfter(0), 3));
    world.time.pass(1_000);
    world.until("it fails", || log.counts().failed_scans == 1);
    // Other moves go on, and however many there are, nothing is tried before its time.
    for _ in 0..50 {
        let other = world.enqueue(entry("r", "b"));
        let held = world.start();
        assert_eq!(held.id, other);
        world.finish(&held, Outcome::Done).unwrap();
    }
    assert_eq!(log.counts().failed_scans, 1);
    let held = world.notes.wait_passing(&world.time);
    assert_eq!(held.id, id);
    assert_eq!(log.counts().failed_scans, 3);
    world.finish(&held.hold(), Outcome::Done).unwrap();
    drop(held);
    world.is_empty();
}

#[test]
fn a_room_that_is_closed_takes_nothing_and_lets_go_of_everything() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    world.room.close();
    world.room.close();
    assert_eq!(world.ask(What::Enqueue(Box::new(entry("q", "b")))), Err(Refused::Closing));
    assert_eq!(world.finish(&started.hold(), Outcome::Done), Err(Refused::Closing));
    let opened = world.room.open(7, 1, Arc::new(Memory::new()));
    let words = "opening partition 7: the queues are closing";
    assert_eq!(opened.unwrap_err().to_string(), words);
    world.room.give_up(PARTITION);
    world.room.stir(None);
    assert_eq!(Arc::strong_count(&log), 1, "the log is free");
    drop(started);
    assert_eq!(world.engines.taken(), 0);
}
