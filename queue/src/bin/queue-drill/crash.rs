//! Work that is killed: threads that enqueue, run, finish, give back and cancel, and say so.
//!
//! The lines, each written at once to a file that outlives the process: `opening`, `opened QUEUES RESUMED`, `asked PAYLOAD`,
//! `enqueued ID QUEUE PAYLOAD`, `once KEY ID`, `started ID QUEUE`, `runs ID PAYLOAD`, `finishing ID`, `finished ID`, `back ID`,
//! `cancelling ID`, `cancelled ID`, `drained ENTRIES`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use parking_lot::Mutex;
use queue::ledger::{Done, Refused, What};
use queue::room::{Clock, Hold, Room, Started};

use crate::ground::{self, Dice, PARTITION, Place, Told, Wall, ask, entry};

const THREADS: u64 = 4;
/// Idempotency keys are kept for longer than any test goes on.
const KEPT: u64 = 24 * 3_600 * 1_000;

/// Where facts go. A file keeps what was written to it when the writer is killed.
#[derive(Clone)]
struct Facts(Arc<Mutex<File>>);

impl Facts {
    fn open(path: &str) -> Result<Self, String> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        Ok(Self(Arc::new(Mutex::new(file.map_err(|e| format!("{path}: {e}"))?))))
    }

    fn say(&self, line: &str) {
        self.0.lock().write_all(format!("{line}\n").as_bytes()).expect("facts can be written");
    }
}

type Starts = Arc<Mutex<Receiver<Started<Place>>>>;

fn open(folder: &str, facts: &Facts) -> Result<(Room<Place>, Starts), String> {
    facts.say("opening");
    let log = ground::log(folder)?;
    let notes = facts.clone();
    let (room, starts) = ground::room(6, move |told| {
        if let Told::Run(started) = told {
            notes.say(&format!("started {} {}", started.id, started.queue.key));
        }
    });
    let opened = room.open(PARTITION, 1, log).map_err(|e| e.to_string())?;
    facts.say(&format!("opened {} {}", opened.queues, opened.resumed));
    Ok((room, Arc::new(Mutex::new(starts))))
}

/// Works until it is killed.
pub(crate) fn work(folder: &str, facts: &str) -> Result<(), String> {
    let facts = Facts::open(facts)?;
    let (room, starts) = open(folder, &facts)?;
    let life = Wall.now().0;
    std::thread::scope(|scope| {
        let worked: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (room, starts, facts) = (&room, &starts, &facts);
                scope.spawn(move || {
                    let mut dice = Dice(life * THREADS + thread);
                    for number in 0_u64.. {
                        enqueue(room, facts, &mut dice, &format!("{life}.{thread}.{number}"))?;
                        // As many ends as beginnings, and now and then one more: what earlier lives left is done as well.
                        for _ in 0..=dice.roll(2) {
                            let started = starts.lock().try_recv();
                            if let Ok(started) = started {
                                run(room, facts, &mut dice, started)?;
                            }
                        }
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        worked.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })
}

fn enqueue(room: &Room<Place>, facts: &Facts, dice: &mut Dice, payload: &str) -> Result<(), String> {
    let wrong = |why: Refused| format!("enqueue: {why}");
    if dice.roll(12) == 0 {
        let key = format!("key{}", dice.roll(16));
        let mut one = entry("t", "once", format!("of {key}"))?;
        one.once = Some(key.clone().into());
        one.keep = KEPT;
        return match ask(room, What::Enqueue(Box::new(one))).map_err(wrong)? {
            Done::Enqueued(id) | Done::Known(id) => {
                facts.say(&format!("once {key} {id}"));
                Ok(())
            }
            other => Err(format!("{other:?}")),
        };
    }
    let queue = format!("q{}", dice.roll(5));
    facts.say(&format!("asked {payload}"));
    let id =
        match ask(room, What::Enqueue(Box::new(entry("t", &queue, payload.to_owned())?))).map_err(wrong)? {
            Done::Enqueued(id) => id,
            other => return Err(format!("{other:?}")),
        };
    facts.say(&format!("enqueued {id} {queue} {payload}"));
    if dice.roll(20) == 0 {
        facts.say(&format!("cancelling {id}"));
        if ask(room, What::Cancel { seq: id.seq }).is_ok() {
            facts.say(&format!("cancelled {id}"));
        }
    }
    Ok(())
}

fn run(room: &Room<Place>, facts: &Facts, dice: &mut Dice, started: Started<Place>) -> Result<(), String> {
    let held = started.hold();
    match room.show(held.id) {
        Ok(seen) => {
            let payload = String::from_utf8_lossy(&seen.entry.payload).replace(' ', "-");
            facts.say(&format!("runs {} {payload}", held.id));
        }
        // It was cancelled under the runner's feet.
        Err(Refused::Unknown(_)) => return Ok(()),
        Err(why) => return Err(format!("show: {why}")),
    }
    if dice.roll(10) == 0 {
        let used = queue::entry::Cost { tokens: 3, blocks: 1 };
        let back = What::Yield { seq: held.id.seq, lease: held.lease, not_before: None, used, counts: true };
        return match ask(room, back) {
            Ok(_) => {
                facts.say(&format!("back {}", held.id));
                Ok(())
            }
            Err(Refused::Stale(_)) => Ok(()),
            Err(why) => Err(format!("give back: {why}")),
        };
    }
    end(room, facts, &held)
}

fn end(room: &Room<Place>, facts: &Facts, held: &Hold) -> Result<(), String> {
    facts.say(&format!("finishing {}", held.id));
    match ask(room, ground::finish(held)) {
        Ok(_) => facts.say(&format!("finished {}", held.id)),
        Err(Refused::Stale(_)) => {}
        Err(why) => return Err(format!("finish: {why}")),
    }
    Ok(())
}

/// Runs what is left, and says how many entries are still known: those whose outcome is kept.
pub(crate) fn drain(folder: &str, facts: &str) -> Result<(), String> {
    let facts = Facts::open(facts)?;
    let (room, starts) = open(folder, &facts)?;
    let starts = starts.lock();
    loop {
        if let Ok(started) = starts.recv_timeout(std::time::Duration::from_millis(20)) {
            end(&room, &facts, &started.hold())?;
            continue;
        }
        let totals = room.totals();
        let left = room.queues().iter().filter(|queue| queue.name.key.as_ref() != "once").count();
        if totals.depth.running == 0 && totals.depth.cached == 0 && left == 0 && !room.has_line() {
            room.check().map_err(|broken| format!("invariant {broken} does not hold"))?;
            facts.say(&format!("drained {}", totals.logs[0].entries.unwrap_or(u64::MAX)));
            room.close();
            return Ok(());
        }
    }
}
