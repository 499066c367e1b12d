//! A refill that is frozen with its snapshot in its hands, through the whole room: what happens meanwhile is neither lost nor
//! done twice, and everything else goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use queue::entry::{Entry, Outcome};
use queue::ledger::{Done, What};
use queue::log::faulty::{Gate, ScanFault};
use queue::log::{Batch, Error, Faulty, Log, Memory, Patience, Scanned, Span, Sync, Table, Visit};
use queue::name::EntryId;
use queue::room::Started;

use crate::kit::{PARTITION, Place, World, block, entry, give_back, name, wait};

/// A queue of which the first 24 are known, whose refill is under way.
struct Race {
    world: World,
    log: Arc<Faulty<Memory>>,
    gate: Gate,
    /// What must still run.
    left: BTreeSet<EntryId>,
    /// What runs, with its places.
    held: Vec<Started<Place>>,
}

impl Race {
    /// So many entries; the first 20 run, and the read that follows is what the script says.
    fn scripted(entries: usize, script: impl IntoIterator<Item = ScanFault>) -> Self {
        let log = Arc::new(Faulty::new(Memory::new()));
        let world = World::over(0, &log);
        let first = world.enqueue(entry("q", "0"));
        world.until("the count is over", || world.room.queue(&name("q")).unwrap().entries == Some(1));
        let many = (1..entries).map(|number| entry("q", &number.to_string())).collect();
        let done = block(world.room.enqueue_all(PARTITION, many)).unwrap();
        let id = |done: Done| match done {
            Done::Enqueued(id) => id,
            other => panic!("{other:?}"),
        };
        let left: BTreeSet<EntryId> = done.into_iter().map(id).chain([first]).collect();
        log.scans(script);
        let mut race = Self { world, log, gate: Gate::default(), left, held: Vec::new() };
        race.start(20);
        race
    }

    /// The same, and the read is frozen.
    fn frozen(entries: usize) -> Self {
        let gate = Gate::default();
        // What would have to wait goes to a reader; that one takes its snapshot, and stops.
        let mut race = Self::scripted(entries, [ScanFault::BlockAfter(0), ScanFault::Hold(gate.clone())]);
        gate.wait_until_frozen();
        race.gate = gate;
        race
    }

    fn start(&mut self, many: usize) {
        self.world.places(many);
        self.held.extend((0..many).map(|_| self.world.notes.started()));
    }

    /// Gives back what was started at this place of the order.
    fn give_back(&mut self, at: usize) {
        self.world.engines.shut(true);
        let started = self.held.remove(at);
        self.world.ask(give_back(&started.hold(), None)).unwrap();
    }

    fn cancel(&mut self, id: EntryId) {
        let done = self.world.ask(What::Cancel { seq: id.seq });
        assert_eq!(done, Ok(Done::Over(id, Outcome::Cancelled)));
        assert!(self.left.remove(&id));
    }

    fn enqueue(&mut self, many: usize) {
        for _ in 0..many {
            self.left.insert(self.world.enqueue(entry("q", "more")));
        }
    }

    /// Entries that wait, in order.
    fn waiting(&self) -> Vec<EntryId> {
        let held: BTreeSet<EntryId> = self.held.iter().map(|started| started.id).collect();
        self.left.difference(&held).copied().collect()
    }

    /// What is left runs, each once, in its order, one after the other; then nothing is left.
    fn check(mut self) {
        self.gate.open();
        let world = self.world;
        world.engines.shut(true);
        for started in self.held {
            world.finish(&started.hold(), Outcome::Done).unwrap();
            assert!(self.left.remove(&started.id));
        }
        world.engines.shut(false);
        world.places(1);
        for id in self.left {
            let held = world.start();
            assert_eq!(held.id, id, "it is its turn");
            world.finish(&held, Outcome::Done).unwrap();
        }
        world.is_empty();
        assert!(world.notes.is_quiet(), "something runs that should not");
        assert_eq!(self.log.counts().failed, 0);
    }
}

#[test]
fn a_refill_alone_brings_everything_once() {
    Race::frozen(100).check();
}

#[test]
fn rows_removed_during_a_refill_do_not_come_back() {
    let mut race = Race::frozen(100);
    for id in race.waiting() {
        // Some of those that are known, some near, some far.
        if id.seq.0 % 3 == 0 && id.seq.0 < 60 || id.seq.0 > 95 {
            race.cancel(id);
        }
    }
    race.check();
}

#[test]
fn more_rows_removed_than_anybody_remembers_do_not_come_back() {
    let mut race = Race::frozen(120);
    for id in race.waiting().into_iter().skip(10).take(70) {
        race.cancel(id);
    }
    race.enqueue(3);
    race.check();
}

#[test]
fn the_rows_that_a_refill_reads_can_all_be_removed() {
    let mut race = Race::frozen(60);
    for id in race.waiting() {
        race.cancel(id);
    }
    // Beyond anything that is remembered: it is found all the same.
    race.enqueue(1);
    race.check();
}

#[test]
fn entries_that_come_during_a_refill_are_not_lost() {
    let mut race = Race::frozen(30);
    race.enqueue(50);
    race.check();
}

#[test]
fn entries_that_come_and_leave_during_a_refill_stay_away() {
    let mut race = Race::frozen(30);
    race.enqueue(40);
    for id in race.waiting().into_iter().rev().step_by(2).take(15) {
        race.cancel(id);
    }
    race.check();
}

#[test]
fn a_start_confirmed_during_a_refill_is_not_a_ghost_afterwards() {
    let mut race = Race::frozen(100);
    race.start(4);
    assert!(race.gate.is_frozen());
    race.check();
}

#[test]
fn what_is_given_back_during_a_refill_runs_once_more_and_first() {
    let mut race = Race::frozen(100);
    race.start(2);
    for at in [21, 20, 5, 0] {
        race.give_back(at);
    }
    race.check();
}

#[test]
fn so_many_given_back_that_the_refill_is_cancelled_are_all_there() {
    let mut race = Race::frozen(100);
    race.start(4);
    // More than are kept: what is known reaches less far than where the refill began.
    for _ in 0..24 {
        race.give_back(0);
    }
    race.enqueue(5);
    race.check();
}

#[test]
fn what_is_held_back_and_resumed_during_a_refill_is_there_once() {
    let race = Race::frozen(100);
    for id in race.waiting().into_iter().step_by(7) {
        assert_eq!(race.world.ask(What::Hold { seq: id.seq }), Ok(Done::Moved));
    }
    for id in race.waiting().into_iter().step_by(7).step_by(2) {
        assert_eq!(race.world.ask(What::Resume { seq: id.seq }), Ok(Done::Moved));
    }
    race.gate.open();
    for id in race.waiting().into_iter().step_by(7).skip(1).step_by(2) {
        assert_eq!(race.world.ask(What::Resume { seq: id.seq }), Ok(Done::Moved));
    }
    race.check();
}

#[test]
fn a_queue_paused_during_a_refill_starts_nothing_until_it_goes_on() {
    let mut race = Race::frozen(100);
    let pause = |race: &Race, paused| race.world.ask(What::PauseQueue { name: name("q"), paused });
    pause(&race, true).unwrap();
    race.enqueue(3);
    race.world.places(10);
    race.gate.open();
    // Whatever comes of the read, another queue is served and this one is not.
    for _ in 0..50 {
        race.world.enqueue(entry("r", "other"));
        let started = race.world.notes.started();
        assert_eq!(started.queue, name("r"));
        race.world.finish(&started.hold(), Outcome::Done).unwrap();
    }
    race.world.engines.set(crate::kit::TARGET, 0);
    pause(&race, false).unwrap();
    race.check();
}

#[test]
fn other_queues_go_on_while_one_is_read() {
    let race = Race::frozen(100);
    // All that is known of this queue runs; now nothing of it is known, and its read does not end.
    race.world.places(4);
    let four: Vec<_> = (0..4).map(|_| race.world.notes.started()).collect();
    race.world.places(1);
    for round in 0..100 {
        let id = race.world.enqueue(entry("r", "other"));
        let held = race.world.start();
        assert_eq!(held.id, id, "round {round}");
        race.world.finish(&held, Outcome::Done).unwrap();
    }
    assert!(race.gate.is_frozen());
    race.world.engines.set(crate::kit::TARGET, 0);
    let mut race = race;
    race.held.extend(four);
    race.check();
}

#[test]
fn a_read_that_would_block_in_the_middle_is_read_by_somebody_who_may_wait() {
    let race = Race::scripted(100, [ScanFault::BlockAfter(7), ScanFault::Pass]);
    let log = race.log.clone();
    race.check();
    assert!(log.counts().blocked >= 1);
}

#[test]
fn a_read_that_fails_is_tried_again_later_and_loses_nothing() {
    let fail = |rows| ScanFault::FailAfter(rows);
    let script = [ScanFault::BlockAfter(0), fail(0), ScanFault::BlockAfter(2), fail(5)];
    let mut race = Race::scripted(100, script);
    let log = race.log.clone();
    race.world.until("it fails", || log.counts().failed_scans == 1);
    // All that is known runs, and the next has a place: only the read is missing.
    race.start(4);
    race.world.places(1);
    race.enqueue(1);
    assert_eq!(log.counts().failed_scans, 1, "it is not tried again before its time");
    let started = race.world.notes.wait_passing(&race.world.time);
    assert_eq!(log.counts().failed_scans, 2);
    race.held.push(started);
    race.check();
}

#[test]
fn a_read_that_panics_is_tried_again_and_loses_nothing() {
    let log = Arc::new(Panicky::default());
    let world = World::over(0, &log);
    let many: Vec<Entry> = (0..80).map(|_| entry("q", "a")).collect();
    let asked: Vec<_> =
        many.into_iter().map(|entry| world.room.send(PARTITION, What::Enqueue(Box::new(entry)))).collect();
    for asked in asked {
        wait(asked).unwrap();
    }
    world.until("the count is over", || world.room.queue(&name("q")).unwrap().entries == Some(80));
    log.panics.store(4, Ordering::SeqCst);
    world.places(1);
    let mut last = None;
    for _ in 0..80 {
        let started = world.notes.wait_passing(&world.time);
        assert!(Some(started.id) > last, "in order");
        last = Some(started.id);
        let held = started.hold();
        drop(started);
        world.finish(&held, Outcome::Done).unwrap();
    }
    assert_eq!(log.panics.load(Ordering::SeqCst), 0, "it did panic");
    world.is_empty();
}

/// A log that panics so many times when it is read.
#[derive(Default)]
struct Panicky {
    inner: Memory,
    panics: AtomicUsize,
}

impl Log for Panicky {
    fn commit(&self, batch: Batch, sync: Sync) -> Result<(), Error> {
        self.inner.commit(batch, sync)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(table, key)
    }

    fn scan(&self, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        if span.table == Table::Inbox
            && self
                .panics
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
        {
            panic!("a panic that a test asked for");
        }
        self.inner.scan(span, patience, visit)
    }
}
