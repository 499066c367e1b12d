//! What the drills stand on: a clock on the wall, a few places, a runner that hands on what is started.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use queue::entry::{Cost, Entry, Order, Outcome, Terms};
use queue::ledger::{Done, Refused, What};
use queue::log::fjall::Options;
use queue::log::{Fjall, Log};
use queue::name::{Class, EntryId, Millis, QueueName};
use queue::room::{self, Clock, Hold, Room, Runner, Started};
use queue::scheduler::{Ground, Placed, Window};

pub(crate) const PARTITION: u32 = 1;

/// The time of day.
pub(crate) struct Wall;

impl Clock for Wall {
    #[expect(clippy::disallowed_methods, reason = "the clock of this process")]
    fn now(&self) -> Millis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Millis(since.map_or(0, |since| since.as_millis() as u64))
    }
}

/// Places that are counted.
#[derive(Clone)]
pub(crate) struct Places(Arc<Inner>);

struct Inner {
    free: Mutex<usize>,
    room: OnceLock<Room<Place>>,
}

/// One that was taken; whoever drops it tells the room.
pub(crate) struct Place(Places);

impl Ground for Places {
    type Place = Place;

    fn place(&mut self, _: &str, _: &str, _: Window<'_>) -> Placed<Place> {
        let mut free = self.0.free.lock();
        if *free == 0 {
            return Placed::Full;
        }
        *free -= 1;
        Placed::At(0, Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.0.free.lock() += 1;
        if let Some(room) = self.0.0.room.get() {
            room.stir(None);
        }
    }
}

/// Hands on what it is told.
pub(crate) struct HandOn<F> {
    started: Mutex<Sender<Started<Place>>>,
    note: F,
}

/// What a runner is told.
pub(crate) enum Told<'a> {
    Run(&'a Started<Place>),
    Over,
}

impl<F: Fn(Told<'_>) + Send + Sync + 'static> Runner<Place> for HandOn<F> {
    fn run(&self, started: Started<Place>) {
        (self.note)(Told::Run(&started));
        // Whoever took them may have ended.
        let _over = self.started.lock().send(started);
    }

    fn over(&self, _: EntryId, _: Outcome) {
        (self.note)(Told::Over);
    }
}

/// A room with so many places, and where starts come out.
pub(crate) fn room(
    places: usize,
    note: impl Fn(Told<'_>) + Send + Sync + 'static,
) -> (Room<Place>, Receiver<Started<Place>>) {
    let (started, comes) = channel();
    let places = Places(Arc::new(Inner { free: Mutex::new(places), room: OnceLock::new() }));
    let runner = Arc::new(HandOn { started: Mutex::new(started), note });
    let room = Room::new(room::Options::default(), Arc::new(Wall), Box::new(places.clone()), runner);
    let _first = places.0.room.set(room.clone());
    (room, comes)
}

/// The log in a folder, with small buffers, so that tables are written and merged all the time.
pub(crate) fn log(folder: &str) -> Result<Arc<dyn Log>, String> {
    let options = Options { write_buffer_bytes: 1 << 20, cache_bytes: 1 << 20, ..Options::default() };
    Ok(Arc::new(Fjall::open(folder, options).map_err(|e| e.to_string())?))
}

pub(crate) fn ask(room: &Room<Place>, what: What) -> Result<Done, Refused> {
    room.send(PARTITION, what).blocking_recv().unwrap_or(Err(Refused::Closing))
}

pub(crate) fn finish(held: &Hold) -> What {
    let Hold { id, lease, remembered } = *held;
    let used = Cost { tokens: 7, blocks: 1 };
    What::Finish { seq: id.seq, lease, remembered, outcome: Outcome::Done, used, result: bytes::Bytes::new() }
}

pub(crate) fn entry(tenant: &str, key: &str, payload: String) -> Result<Entry, String> {
    Ok(Entry {
        queue: QueueName::new(tenant, key).map_err(|e| e.to_string())?,
        terms: Terms { order: Order::Fifo, ..Terms::of("m") },
        class: Class::FIRST,
        not_before: None,
        deadline: None,
        cost: Cost { tokens: 10, blocks: 1 },
        hint: None,
        once: None,
        keep: 0,
        payload: payload.into(),
    })
}

/// A sequence that a seed decides.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}
