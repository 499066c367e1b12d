//! What a room costs whoever asks one thing: from enqueue to start, in line, and from the opening of a large log to its first
//! start; each beside its floor in the same run.
//!
//! `cargo bench -p warmline-queue --bench room`, or one part: `-- latency`, `-- restart`. The floors are a sync of a small
//! append on the same disk, a word to another thread and back, and the log opened without a room.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use queue::entry::{Cost, Entry, Order, Outcome, Terms};
use queue::ledger::What;
use queue::log::fjall::Options as LogOptions;
use queue::log::{Fjall, Log, Memory, Sync};
use queue::name::{Class, EntryId, Millis, QueueName};
use queue::room::{Clock, Options, Room, Runner, Started, Waiting};
use queue::scheduler::{Ground, Placed, Window};
use tempfile::TempDir;

const PARTITION: u32 = 1;
/// Entries of a latency, one at a time.
const SENDS: usize = 1_000;
const QUEUES: usize = 10_000;
const WAITING: usize = 1_000_000;

fn main() {
    let parts: [(&str, fn()); 2] = [("latency", latency), ("restart", restart)];
    // Cargo says `--bench` to every bench.
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for (name, part) in parts {
        if asked.is_empty() || asked.iter().any(|word| word == name) {
            part();
        }
    }
}

// === From enqueue to start ===

fn latency() {
    println!("microseconds from enqueue to start, one at a time, nobody else there; p50, p99 of {SENDS}");
    let disk = place();
    let (syncs, words) = (syncs(disk.path()), words());
    row("a sync of a small append", syncs, None);
    let on_disk = |name: &str| Arc::new(open(&disk.path().join(name))) as Arc<dyn Log>;
    row("a log on disk, fsync", starts(on_disk("fsync"), Sync::Disk), Some(syncs[0]));
    row("a log on disk, write", starts(on_disk("write"), Sync::Write), Some(words[0]));
    row("a word to a thread and back", words, None);
    row("a log in memory", starts(Arc::new(Memory::new()), Sync::Write), Some(words[0]));
    row("a place in line", turns(), None);
}

fn row(what: &str, [p50, p99]: [f64; 2], floor: Option<f64>) {
    let beside = floor.map_or(String::new(), |floor| format!("   {:4.1} times its floor", p50 / floor));
    println!("  {what:<30}{p50:9.1} {p99:9.1}{beside}");
}

fn syncs(folder: &Path) -> [f64; 2] {
    let mut file = File::create(folder.join("floor")).expect("a file");
    // As a journal is: its size was set aside and synced before.
    file.set_len(64 << 20).and_then(|()| file.sync_all()).expect("room");
    percentiles((0..SENDS).map(|_| {
        let began = now();
        file.write_all(&[7; 250]).and_then(|()| file.sync_data()).expect("a sync");
        began.elapsed()
    }))
}

fn words() -> [f64; 2] {
    let ((say, heard), (answer, answered)) = (channel::<()>(), channel());
    std::thread::scope(|scope| {
        scope.spawn(move || while heard.recv().is_ok() && answer.send(()).is_ok() {});
        let times = percentiles((0..SENDS).map(|_| {
            let began = now();
            say.send(()).map(|()| answered.recv()).expect("a thread").expect("an answer");
            began.elapsed()
        }));
        drop(say);
        times
    })
}

fn starts(log: Arc<dyn Log>, durability: Sync) -> [f64; 2] {
    let (room, started) = room_over(log, durability);
    let times = percentiles((0..SENDS).map(|at| {
        let began = now();
        let answer = room.send(PARTITION, What::Enqueue(Box::new(entry(at % 16, at))));
        let (begun, at) = started.recv().expect("a start");
        let took = at.duration_since(began);
        answer.blocking_recv().expect("an answer").expect("it was taken");
        let Started { id, lease, item, .. } = begun;
        let (remembered, used, result) = (item.remembered, item.cost, Bytes::new());
        let what = What::Finish { seq: id.seq, lease, remembered, outcome: Outcome::Done, used, result };
        room.send(PARTITION, what).blocking_recv().expect("an answer").expect("it was held");
        took
    }));
    room.close();
    times
}

fn turns() -> [f64; 2] {
    let (room, _nobody) = room_over(Arc::new(Memory::new()), Sync::Write);
    let times = percentiles((0..SENDS).map(|at| {
        let Entry { queue, terms, class, cost, .. } = entry(0, at);
        let waiting = Waiting { queue, terms, class, cost, deadline: None, hint: None };
        let began = now();
        let mut standing = room.stand(waiting, |_| ());
        let turn = Pin::new(&mut standing).poll(&mut Context::from_waker(Waker::noop()));
        let took = began.elapsed();
        assert!(matches!(turn, Poll::Ready(Ok(_))), "there is room, and nobody else");
        took
    }));
    room.close();
    times
}

// === Again ===

fn restart() {
    println!("\nfrom the opening of a log with {WAITING} entries in {QUEUES} queues to the first start");
    let disk = place();
    {
        let (room, started) = room_over(Arc::new(open(disk.path())), Sync::Write);
        // One is held, so that nothing else runs.
        let mut last = None;
        for at in 0..WAITING {
            let answer = room.send(PARTITION, What::Enqueue(Box::new(entry(at % QUEUES, at))));
            if at == 0 {
                drop(started.recv());
            }
            if at % 256 == 0 {
                answer.blocking_recv().expect("an answer").expect("it was taken");
            } else {
                last = Some(answer);
            }
        }
        last.map(|last| last.blocking_recv().expect("an answer").expect("it was taken"));
        room.close();
    }
    let before = resident();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..3 {
        let began = now();
        let log = Arc::new(open(disk.path()));
        let opened = began.elapsed();
        let (room, started) = room_over(log, Sync::Write);
        let taken_in = began.elapsed();
        let (_begun, at) = started.recv().expect("a start");
        for (times, took) in times.iter_mut().zip([opened, taken_in, at.duration_since(began)]) {
            times.push(took);
        }
        let held = resident() - before;
        room.close();
        println!(
            "  the log alone {:5.0} ms, the room {:5.0} ms, the first start {:5.0} ms; {held:.0} MiB more in memory",
            opened.as_secs_f64() * 1e3,
            taken_in.as_secs_f64() * 1e3,
            at.duration_since(began).as_secs_f64() * 1e3
        );
    }
    let [log, _, first] = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!("  median: {first:.0} ms to the first start, {:.0} ms of it beside the log", first - log);
}

// === A room, and whoever is started in it ===

/// One at a time.
struct Alone;

/// Says what was started, and when.
struct Says(Mutex<Sender<(Started<()>, Instant)>>);

struct Wall(Instant);

impl Ground for Alone {
    type Place = ();

    fn place(&mut self, _: &str, _: &str, _: Window<'_>) -> Placed<()> {
        Placed::At(0, ())
    }
}

impl Runner<()> for Says {
    fn run(&self, started: Started<()>) {
        // Nobody listens at the end.
        let _over = self.0.lock().send((started, now()));
    }

    fn over(&self, _: EntryId, _: Outcome) {}
}

impl Clock for Wall {
    fn now(&self) -> Millis {
        Millis(1_763_000_000_000).plus(self.0.elapsed().as_millis() as u64)
    }
}

fn room_over(log: Arc<dyn Log>, durability: Sync) -> (Room<()>, Receiver<(Started<()>, Instant)>) {
    let (says, started) = channel();
    let mut options = Options { durability, ..Options::default() };
    // What waits stays where it is.
    options.scheduler.fleet.running = Some(1);
    let room = Room::new(options, Arc::new(Wall(now())), Box::new(Alone), Arc::new(Says(Mutex::new(says))));
    room.open(PARTITION, 1, log).expect("the log can be read");
    (room, started)
}

fn entry(queue: usize, at: usize) -> Entry {
    Entry {
        queue: QueueName::new(&format!("tenant-{}", queue / 100), &format!("session-{queue:08x}"))
            .expect("a name"),
        terms: Terms { order: Order::Fifo, ..Terms::of("a-model") },
        class: Class::FIRST,
        not_before: None,
        deadline: None,
        cost: Cost { tokens: 500 + (at % 3_000) as u32, blocks: 8 },
        hint: None,
        once: None,
        keep: 0,
        payload: Bytes::from_static(&[7; 200]),
    }
}

// === Small words ===

/// On the disk of the build folder: the usual temporary one may be memory.
fn place() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn open(folder: &Path) -> Fjall {
    Fjall::open(folder, LogOptions::default()).expect("a log")
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// p50 and p99, in microseconds.
fn percentiles(times: impl Iterator<Item = Duration>) -> [f64; 2] {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    [50, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64() * 1e6)
}

/// MiB.
fn resident() -> f64 {
    let told = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = told.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096.0 / 1_048_576.0
}
