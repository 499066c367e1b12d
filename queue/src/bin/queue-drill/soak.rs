//! Steady work for minutes over queues and tenants that come and go, and what the process occupies meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use parking_lot::Mutex;
use queue::ledger::{Done, Refused, What};
use queue::log::Sync;
use queue::name::Class;
use queue::room::{Clock, Room, Started, Waiting};

use crate::ground::{self, Dice, PARTITION, Place, Told, Wall, ask, entry};

const THREADS: u64 = 4;
/// Between two looks.
const LOOK: u64 = 10;
/// A step of a thread, then so long a pause: the load is steady, not as much as the machine can do.
const PAUSE: Duration = Duration::from_millis(2);

/// What is looked at: its name, how much more than in the beginning is still flat (a part, and so much), and its unit.
const LOOKED_AT: [(&str, f64, f64); 10] = [
    ("rss MiB", 0.10, 4.0),
    ("disk MiB", 0.25, 16.0),
    ("threads", 0.0, 0.0),
    ("queues", 0.5, 50.0),
    ("tenants", 0.5, 20.0),
    ("seats", 0.5, 40.0),
    ("targets", 0.0, 0.0),
    ("timers", 0.5, 50.0),
    ("notes", 0.5, 50.0),
    ("debts", 0.5, 40.0),
];

type Look = [f64; LOOKED_AT.len()];

struct Soak {
    room: Room<Place>,
    starts: Mutex<Receiver<Started<Place>>>,
    over: AtomicBool,
    enqueued: AtomicU64,
    ended: &'static AtomicU64,
}

static ENDED: AtomicU64 = AtomicU64::new(0);

/// Works for so many minutes, and says whether what it occupies is flat.
pub(crate) fn run(minutes: u64, folder: Option<&str>) -> Result<(), String> {
    let own = std::env::temp_dir().join(format!("queue-drill-{}", std::process::id()));
    let folder = folder.map_or_else(|| own.display().to_string(), str::to_owned);
    let log = ground::log(&folder)?;
    let (room, starts) = ground::room(32, |told| {
        if matches!(told, Told::Over) {
            ENDED.fetch_add(1, Ordering::Relaxed);
        }
    });
    room.open(PARTITION, 1, log.clone()).map_err(|e| e.to_string())?;
    println!("{minutes} minutes in {folder}; an acknowledgement means {:?}", Sync::Disk);
    let soak = Soak {
        room,
        starts: Mutex::new(starts),
        over: AtomicBool::new(false),
        enqueued: AtomicU64::new(0),
        ended: &ENDED,
    };
    let looks = std::thread::scope(|scope| {
        let soak = &soak;
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || soak.work(thread))).collect();
        let looks: Vec<Look> = (0..minutes * 60 / LOOK)
            .map_while(|at| {
                pause(Duration::from_secs(LOOK));
                let failed = threads.iter().any(std::thread::ScopedJoinHandle::is_finished);
                (!failed).then(|| soak.look((at + 1) * LOOK, &*log))
            })
            .collect();
        soak.over.store(true, Ordering::Release);
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked".to_owned())??;
        }
        Ok::<_, String>(looks)
    })?;
    soak.room.check().map_err(|broken| format!("invariant {broken} does not hold"))?;
    soak.room.close();
    drop(log);
    let _left_there = std::fs::remove_dir_all(&own);
    verdict(&looks)
}

impl Soak {
    fn work(&self, thread: u64) -> Result<(), String> {
        let mut dice = Dice(thread + 1);
        for number in 0_u64.. {
            if self.over.load(Ordering::Acquire) {
                break;
            }
            // Queues live for some fifty entries, tenants for some three hundred.
            let (tenant, key) = (format!("t{thread}-{}", number / 300), format!("q{}", number / 50));
            let mut one = entry(&tenant, &key, "x".repeat(200 + dice.roll(800) as usize))?;
            one.class = Class::new(dice.roll(4) as u8).unwrap_or(Class::LAST);
            one.not_before = (dice.roll(5) == 0).then(|| Wall.now().plus(dice.roll(2_000)));
            one.deadline = (dice.roll(5) == 0).then(|| Wall.now().plus(3_000 + dice.roll(5_000)));
            one.once = (dice.roll(8) == 0).then(|| format!("{number}").into());
            one.keep = if dice.roll(4) == 0 { dice.roll(3_000) } else { 0 };
            let done =
                ask(&self.room, What::Enqueue(Box::new(one))).map_err(|why| format!("enqueue: {why}"))?;
            let Done::Enqueued(id) = done else { return Err(format!("{done:?}")) };
            self.enqueued.fetch_add(1, Ordering::Relaxed);
            if dice.roll(15) == 0 {
                let _already_over = ask(&self.room, What::Cancel { seq: id.seq });
            }
            if dice.roll(6) == 0 {
                let terms = queue::entry::Terms::of("m");
                let name = entry(&tenant, &key, String::new())?.queue;
                let cost = queue::entry::Cost { tokens: 5, blocks: 1 };
                let deadline = Some(Wall.now().plus(dice.roll(100)));
                let line = Waiting { queue: name, terms, class: Class::FIRST, cost, deadline, hint: None };
                drop(self.room.stand(line, |_| ()));
            }
            for _ in 0..2 {
                let started = self.starts.lock().try_recv();
                if let Ok(started) = started {
                    self.end(&mut dice, &started)?;
                }
            }
            pause(PAUSE);
        }
        Ok(())
    }

    fn end(&self, dice: &mut Dice, started: &Started<Place>) -> Result<(), String> {
        let held = started.hold();
        let used = queue::entry::Cost { tokens: 1 + dice.roll(30) as u32, blocks: 1 };
        let (seq, lease) = (held.id.seq, held.lease);
        let what = match dice.roll(12) {
            0 => What::Yield { seq, lease, not_before: None, used, counts: true },
            1 => What::Yield {
                seq,
                lease,
                not_before: Some(Wall.now().plus(dice.roll(500))),
                used,
                counts: false,
            },
            _ => ground::finish(&held),
        };
        match ask(&self.room, what) {
            Ok(_) | Err(Refused::Stale(_)) => Ok(()),
            Err(why) => Err(format!("an end: {why}")),
        }
    }

    fn look(&self, seconds: u64, log: &dyn queue::log::Log) -> Look {
        let totals = self.room.totals();
        let sizes = totals.sizes;
        let mib = f64::from(1 << 20);
        let look = [
            status("VmRSS:") / 1024.0,
            log.disk_bytes() as f64 / mib,
            status("Threads:"),
            totals.depth.queues as f64,
            sizes.tenants as f64,
            sizes.seats as f64,
            sizes.targets as f64,
            sizes.timers as f64,
            sizes.notes as f64,
            debts(log),
        ];
        let words = LOOKED_AT.iter().zip(look).map(|((name, ..), value)| format!("{name} {value:.0}"));
        let words: Vec<String> = words.collect();
        println!(
            "{seconds:>4} s: {}; entries {}, enqueued {}, ended {}",
            words.join(", "),
            totals.logs[0].entries.unwrap_or_default(),
            self.enqueued.load(Ordering::Relaxed),
            self.ended.load(Ordering::Relaxed),
        );
        look
    }
}

/// Rows of what tenants owe.
fn debts(log: &dyn queue::log::Log) -> f64 {
    let mut rows = 0.0;
    let mut visit = |_: &[u8], _: &[u8]| {
        rows += 1.0;
        std::ops::ControlFlow::Continue(())
    };
    let all = queue::format::all(queue::log::Table::Debts);
    let read = log.scan(&all, queue::log::Patience::Wait, &mut visit);
    if read.is_ok() { rows } else { f64::NAN }
}

/// A number from what the kernel says of this process.
fn status(line: &str) -> f64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let found = status.lines().find_map(|found| found.strip_prefix(line));
    let number = found.and_then(|found| found.split_whitespace().next()?.parse().ok());
    number.unwrap_or(f64::NAN)
}

/// Compares a time near the beginning, when everything has been there once, with the end.
fn verdict(looks: &[Look]) -> Result<(), String> {
    let part = |from: f64, to: f64| {
        let at = |part: f64| (looks.len() as f64 * part) as usize;
        &looks[at(from)..at(to)]
    };
    let (early, late) = (part(0.2, 0.4), part(0.8, 1.0));
    if early.is_empty() || late.is_empty() {
        return Err("too short to say anything: at least one minute is needed".to_owned());
    }
    let mut grows = Vec::new();
    for (at, (name, part, more)) in LOOKED_AT.iter().enumerate() {
        let (before, after) = (median(early, at), median(late, at));
        // What cannot be read is not flat.
        let flat = after <= before * (1.0 + part) + more;
        println!("{name}: {before:.1}, then {after:.1}: {}", if flat { "flat" } else { "grows" });
        if !flat {
            grows.push(*name);
        }
    }
    if grows.is_empty() {
        println!("verdict: flat");
        return Ok(());
    }
    Err(format!("verdict: {} grows", grows.join(", ")))
}

fn median(looks: &[Look], at: usize) -> f64 {
    let mut values: Vec<f64> = looks.iter().map(|look| look[at]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[expect(clippy::disallowed_methods, reason = "steady work has a pace, and looks are so far apart")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
