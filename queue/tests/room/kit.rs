//! What the tests of the room share: a world with a clock, engines whose places are counted, a runner that notes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use queue::entry::{Cost, Entry, Lease, Order, Outcome, Terms};
use queue::ledger::{Done, Refused, What};
use queue::limits::Limits;
use queue::log::{Log, Sync};
use queue::name::{Class, EntryId, Millis, QueueName, Seq};
use queue::room::{Clock, Hold, Options, Room, Runner, Started, Waiting};
use queue::scheduler::{self, Ground, Placed, Window};

pub(crate) const PARTITION: u32 = 3;
pub(crate) const TARGET: &str = "m";
/// After so long what must happen has not happened. No test is decided by it unless it fails.
pub(crate) const NEVER: Duration = Duration::from_secs(30);

/// A clock that stands still until it is told.
#[derive(Default)]
pub(crate) struct Time(AtomicU64);

impl Clock for Time {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

impl Time {
    pub(crate) fn pass(&self, millis: u64) -> Millis {
        Millis(self.0.fetch_add(millis, Ordering::SeqCst) + millis)
    }
}

/// Places of engines, by target.
#[derive(Clone, Default)]
pub(crate) struct Engines(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    free: HashMap<String, usize>,
    taken: usize,
    /// Nobody gets a place, whatever is free.
    shut: bool,
    /// Whoever asks for a place for this target next hears a panic.
    panics: Option<String>,
    /// Whom a place tells when it is free again: it says so from within its drop, as the gateway's do.
    bell: Option<Room<Place>>,
}

/// A place that was taken.
#[derive(Debug)]
pub(crate) struct Place {
    engines: Engines,
    target: String,
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engines")
    }
}

impl Ground for Engines {
    type Place = Place;

    fn place(&mut self, target: &str, _: &str, window: Window<'_>) -> Placed<Place> {
        assert!(!window.is_empty());
        let mut places = self.0.lock();
        let panics = places.panics.take_if(|of| *of == target).is_some();
        assert!(!panics, "a panic that a test asked for");
        if places.shut {
            return Placed::Full;
        }
        let Some(free) = places.free.get_mut(target).filter(|free| **free > 0) else { return Placed::Full };
        *free -= 1;
        places.taken += 1;
        Placed::At(0, Place { engines: self.clone(), target: target.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let bell = {
            let mut places = self.engines.0.lock();
            *places.free.entry(self.target.clone()).or_default() += 1;
            places.taken -= 1;
            places.bell.clone()
        };
        if let Some(room) = bell {
            room.stir(None);
        }
    }
}

impl Engines {
    pub(crate) fn taken(&self) -> usize {
        self.0.lock().taken
    }

    pub(crate) fn shut(&self, shut: bool) {
        self.0.lock().shut = shut;
    }

    pub(crate) fn panic(&self, target: &str) {
        self.0.lock().panics = Some(target.to_owned());
    }

    pub(crate) fn set(&self, target: &str, free: usize) {
        self.0.lock().free.insert(target.to_owned(), free);
    }

    pub(crate) fn ring(&self, room: Option<Room<Place>>) {
        let before = std::mem::replace(&mut self.0.lock().bell, room);
        drop(before);
    }
}

/// Notes what it is told, and can do something about it at once.
#[derive(Default)]
pub(crate) struct Notes {
    told: Mutex<Told>,
    came: Condvar,
    react: Mutex<Option<Arc<React>>>,
}

/// What a runner does from within its call.
pub(crate) type React = dyn Fn(&Event) + Send + std::marker::Sync;

#[derive(Default)]
struct Told {
    started: VecDeque<Started<Place>>,
    revoked: Vec<(EntryId, Lease)>,
    over: Vec<(EntryId, Outcome)>,
}

/// What a runner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Run(Hold),
    Revoked(EntryId, Lease),
    Over(EntryId, Outcome),
}

impl Runner<Place> for Notes {
    fn run(&self, started: Started<Place>) {
        let hold = started.hold();
        self.note(|told| told.started.push_back(started));
        self.react(Event::Run(hold));
    }

    fn revoked(&self, id: EntryId, lease: Lease) {
        self.note(|told| told.revoked.push((id, lease)));
        self.react(Event::Revoked(id, lease));
    }

    fn over(&self, id: EntryId, outcome: Outcome) {
        self.note(|told| told.over.push((id, outcome)));
        self.react(Event::Over(id, outcome));
    }
}

impl Notes {
    fn note(&self, note: impl FnOnce(&mut Told)) {
        note(&mut self.told.lock());
        self.came.notify_all();
    }

    fn react(&self, event: Event) {
        let react = self.react.lock().clone();
        if let Some(react) = react {
            react(&event);
        }
    }

    /// From now on this is done from within each call.
    pub(crate) fn reacting(&self, react: impl Fn(&Event) + Send + std::marker::Sync + 'static) {
        *self.react.lock() = Some(Arc::new(react));
    }

    pub(crate) fn calm(&self) {
        let before = self.react.lock().take();
        drop(before);
    }

    fn wait<T>(&self, what: &str, mut until: impl FnMut(&mut Told) -> Option<T>) -> T {
        let mut told = self.told.lock();
        loop {
            if let Some(found) = until(&mut told) {
                return found;
            }
            assert!(!self.came.wait_for(&mut told, NEVER).timed_out(), "{what} never happened");
        }
    }

    /// The next that is started.
    pub(crate) fn started(&self) -> Started<Place> {
        self.wait("a start", |told| told.started.pop_front())
    }

    /// The next that is started, while time goes by.
    pub(crate) fn wait_passing(&self, time: &Time) -> Started<Place> {
        for _ in 0..NEVER.as_millis() {
            if let Some(started) = self.try_started() {
                return started;
            }
            time.pass(10);
            pause();
        }
        panic!("a start never happened")
    }

    /// The next that has been started already, if there is one.
    pub(crate) fn try_started(&self) -> Option<Started<Place>> {
        self.told.lock().started.pop_front()
    }

    /// Everything that has ended so far.
    pub(crate) fn all_over(&self) -> Vec<(EntryId, Outcome)> {
        self.told.lock().over.clone()
    }

    pub(crate) fn revoked(&self) -> (EntryId, Lease) {
        self.wait("a revocation", |told| told.revoked.pop())
    }

    pub(crate) fn over(&self, id: EntryId) -> Outcome {
        let found = |told: &mut Told| {
            let at = told.over.iter().position(|(over, _)| *over == id)?;
            Some(told.over.remove(at).1)
        };
        self.wait("an end", found)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let told = self.told.lock();
        told.started.is_empty() && told.revoked.is_empty()
    }
}

/// A room and everything around it.
pub(crate) struct World {
    pub(crate) room: Room<Place>,
    pub(crate) time: Arc<Time>,
    pub(crate) engines: Engines,
    pub(crate) notes: Arc<Notes>,
}

pub(crate) fn options() -> Options {
    Options {
        scheduler: scheduler::Options { refills: 4, ..scheduler::Options::default() },
        durability: Sync::Write,
        batch: 8,
        readers: 2,
    }
}

impl World {
    /// A room with so many places for [`TARGET`], and no log.
    pub(crate) fn new(places: usize) -> Self {
        Self::with(places, options())
    }

    pub(crate) fn with(places: usize, options: Options) -> Self {
        let time = Arc::new(Time(AtomicU64::new(1_000_000)));
        let (engines, notes) = (Engines::default(), Arc::new(Notes::default()));
        engines.set(TARGET, places);
        let room = Room::new(options, time.clone(), Box::new(engines.clone()), notes.clone());
        engines.ring(Some(room.clone()));
        Self { room, time, engines, notes }
    }

    /// A room with so many places over this log.
    pub(crate) fn over(places: usize, log: &Arc<impl Log>) -> Self {
        let world = Self::new(places);
        world.open(log);
        world
    }

    pub(crate) fn open(&self, log: &Arc<impl Log>) {
        self.room.open(PARTITION, 1, log.clone()).expect("the log opens");
    }

    /// The process ends without a word to anybody, and begins anew over the same log.
    pub(crate) fn restart(self, log: &Arc<impl Log>) -> Self {
        let now = self.time.now();
        drop(self);
        let world = Self::new(0);
        world.time.0.store(now.0, Ordering::SeqCst);
        world.open(log);
        world
    }

    pub(crate) fn ask(&self, what: What) -> Result<Done, Refused> {
        wait(self.room.send(PARTITION, what))
    }

    pub(crate) fn enqueue(&self, entry: Entry) -> EntryId {
        match self.ask(What::Enqueue(Box::new(entry))) {
            Ok(Done::Enqueued(id)) => id,
            other => panic!("it was not enqueued: {other:?}"),
        }
    }

    pub(crate) fn finish(&self, held: &Hold, outcome: Outcome) -> Result<Done, Refused> {
        self.ask(finish(held, outcome))
    }

    /// Places that are free from now on.
    pub(crate) fn places(&self, free: usize) {
        self.engines.set(TARGET, free);
        self.room.stir(Some(TARGET));
    }

    /// The next start, its id and what must be remembered; its place is free again.
    pub(crate) fn start(&self) -> Hold {
        self.notes.started().hold()
    }

    /// Waits until something is so. What is asked changes by itself, or never.
    pub(crate) fn until(&self, what: &str, is: impl Fn() -> bool) {
        assert!(comes_true(is), "{what} never happened: {:?}", self.room.totals());
    }

    /// Nothing is left anywhere: no entry, no queue, no run, no place.
    pub(crate) fn is_empty(&self) {
        self.until("an empty room", || {
            let totals = self.room.totals();
            let counted = totals.logs.iter().all(|log| log.entries == Some(0));
            totals.depth == scheduler::Depth { reading: totals.depth.reading, ..Default::default() }
                && counted
        });
        self.until("no place taken", || self.engines.taken() == 0);
        assert_eq!(self.room.check(), Ok(()));
        assert!(!self.room.has_line());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.notes.calm();
        self.engines.ring(None);
        self.room.close();
        let left = std::mem::take(&mut *self.notes.told.lock());
        drop(left);
        if !std::thread::panicking() {
            assert_eq!(self.engines.taken(), 0, "a place leaked");
        }
    }
}

pub(crate) fn until(what: &str, is: impl Fn() -> bool) {
    assert!(comes_true(is), "{what} never happened");
}

fn comes_true(is: impl Fn() -> bool) -> bool {
    (0..NEVER.as_millis()).any(|_| {
        let so = is();
        if !so {
            pause();
        }
        so
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is waited for tells nobody; how long it takes decides nothing"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Waits for an answer without a runtime.
pub(crate) fn wait(answer: tokio::sync::oneshot::Receiver<Result<Done, Refused>>) -> Result<Done, Refused> {
    answer.blocking_recv().unwrap_or(Err(Refused::Closing))
}

pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

pub(crate) fn name(key: &str) -> QueueName {
    QueueName::new("t", key).expect("sane")
}

pub(crate) fn class(number: u8) -> Class {
    Class::new(number).expect("a class")
}

/// An entry of a queue, in order.
pub(crate) fn entry(key: &str, payload: &str) -> Entry {
    Entry {
        queue: name(key),
        terms: fifo(),
        class: class(1),
        not_before: None,
        deadline: None,
        cost: Cost { tokens: 10, blocks: 1 },
        hint: None,
        once: None,
        keep: 0,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub(crate) fn fifo() -> Terms {
    Terms { order: Order::Fifo, ..Terms::of(TARGET) }
}

pub(crate) fn at_most(running: u32) -> Terms {
    Terms { limits: Limits { running: Some(running), ..Limits::default() }, ..fifo() }
}

pub(crate) fn finish(held: &Hold, outcome: Outcome) -> What {
    let Hold { id, lease, remembered } = *held;
    let used = Cost { tokens: 10, blocks: 1 };
    What::Finish { seq: id.seq, lease, remembered, outcome, used, result: Bytes::from_static(b"result") }
}

pub(crate) fn give_back(held: &Hold, not_before: Option<Millis>) -> What {
    let used = Cost { tokens: 10, blocks: 1 };
    What::Yield { seq: held.id.seq, lease: held.lease, not_before, used, counts: true }
}

/// Somebody who stands in line.
pub(crate) fn waiting(key: &str) -> Waiting {
    Waiting {
        queue: name(key),
        terms: fifo(),
        class: class(0),
        cost: Cost { tokens: 5, blocks: 1 },
        deadline: None,
        hint: None,
    }
}

pub(crate) fn id(seq: u64) -> EntryId {
    EntryId { partition: PARTITION, seq: Seq(seq) }
}

/// A sequence that a seed decides.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}
