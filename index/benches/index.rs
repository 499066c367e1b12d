//! The index, beside the floor that memory sets: events in, questions answered, memory, and both at once.
//!
//! `cargo bench -p warmline-index --bench index [-- --quick]` prints a row for each shape of load. A floor is what it
//! takes to touch one random cache line a block, a whole event's at a time, in as much memory as the names take.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod counting;
mod load;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use blocks::{Block, EngineHash, Event, Stored, Tier, TokensHash, Worker};
use counting::{Counting, HELD};
use index::{Index, Matches};
use load::{Ask, Load, Plan, Removal, Told, mix};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Questions a row.
const LOOKUPS: usize = 100_000;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let plan = Plan::default();
    let mut rows =
        vec![("1 M blocks, 16 workers, chains of 64", plan), ("4 holders", Plan { holders: 4, ..plan })];
    if !quick {
        rows.extend([
            ("1 block an event", Plan { event: 1, ..plan }),
            ("random removal", Plan { removal: Removal::Random, ..plan }),
            ("nothing shared", Plan { shared: 0, ..plan }),
            ("60 of 64 shared, 16 holders", Plan { shared: 60, holders: 16, ..plan }),
            ("chains of 1,000", Plan { chain: 1000, ..plan }),
            ("half known", Plan { asked: Ask::Half, ..plan }),
            ("unknown", Plan { asked: Ask::Miss, ..plan }),
            ("100 k blocks, 8 workers", Plan { blocks: 100_000, workers: 8, ..plan }),
            ("256 workers", Plan { workers: 256, ..plan }),
            ("1,000 workers, all hold each chain", Plan { workers: 1000, holders: 1000, ..plan }),
            ("10 M blocks, 1,000 workers", Plan { blocks: 10_000_000, workers: 1000, ..plan }),
        ]);
    }
    println!(
        "{:<38} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "floor", "stored", "removed", "p50 us", "p99 us", "workers", "bytes", "left"
    );
    println!("{:<38} {:>8} {:>8} {:>8} {:>26} {:>17}", "", "M/s", "M/s", "M/s", "a lookup", "a block");
    for (name, plan) in rows {
        row(name, &plan);
    }
    while_told();
}

fn row(name: &str, plan: &Plan) {
    let load = Load::new(plan);
    let before = HELD.load(Relaxed);
    let index = Index::new();
    let stored = timed(&load.told, stored, |event| {
        let _ = black_box(index.apply(event.0, &event.1));
    });
    let bytes = (HELD.load(Relaxed) - before) as f64 / load.held as f64;
    assert_eq!(index.counts().held, load.held, "everything was taken in");
    let (p50, p99, workers) = ask(&index, &load);
    let removed = timed(&load.removals, removed, |event| {
        let _ = black_box(index.apply(event.0, &event.1));
    });
    let left = (HELD.load(Relaxed) - before) as f64 / load.held as f64;
    let floor = floor(load.held, plan.event);
    let rate = |time: Duration| load.held as f64 / time.as_secs_f64() / 1e6;
    println!(
        "{name:<38} {floor:>8.1} {:>8.1} {:>8.1} {p50:>8.2} {p99:>8.2} {workers:>8.1} {bytes:>8.1} {left:>8.1}",
        rate(stored),
        rate(removed)
    );
}

/// How long the work takes, without making what it works on: that happens a few at a time beside the clock.
fn timed<T, U>(all: &[T], make: impl Fn(&T) -> U, mut work: impl FnMut(&U)) -> Duration {
    let mut spent = Duration::ZERO;
    for some in all.chunks(1024) {
        let made: Vec<U> = some.iter().map(&make).collect();
        let start = Instant::now();
        made.iter().for_each(&mut work);
        spent += start.elapsed();
    }
    spent
}

/// The median and the slowest hundredth of questions, in microseconds, and how many workers match on average.
fn ask(index: &Index, load: &Load) -> (f64, f64, f64) {
    let mut found = Matches::default();
    let mut matching = 0;
    let one = |i: usize| {
        let asked = &load.asked[mix(i as u64, 3) as usize % load.asked.len()];
        // Whoever asks has just hashed the question: it is warm.
        black_box(asked.chain.iter().fold(0, |sum, hash| sum ^ hash.0));
        let start = Instant::now();
        index.lookup(&asked.chain, &mut found);
        let time = start.elapsed();
        matching += found.iter().len();
        assert_eq!(found.iter().map(index::Match::blocks).max().unwrap_or(0), asked.depth, "the right depth");
        time
    };
    let mut times: Vec<Duration> = (0..LOOKUPS).map(one).collect();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    (at(0.5), at(0.99), matching as f64 / LOOKUPS as f64)
}

fn stored(told: &Told) -> (Worker, Event) {
    let block =
        |(engine, tokens): &(u64, u64)| Block { engine: EngineHash(*engine), tokens: TokensHash(*tokens) };
    let blocks = told.blocks.iter().map(block).collect();
    let stored = Stored { parent: told.parent.map(EngineHash), blocks, tier: Tier::Device };
    (Worker { instance: told.worker, rank: 0 }, Event::Stored(stored))
}

fn removed((worker, hashes): &(u64, Vec<u64>)) -> (Worker, Event) {
    let blocks = hashes.iter().map(|hash| EngineHash(*hash)).collect();
    (Worker { instance: *worker, rank: 0 }, Event::Removed { blocks, tier: Tier::Device })
}

/// Random cache lines touched a second, in millions: `batch` that do not wait for each other, then the next.
fn floor(blocks: usize, batch: usize) -> f64 {
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line([u64; 8]);
    // Names take one line for seven or eight of them.
    let lines = vec![Line([1; 8]); (blocks / 8).max(1)];
    let mut at = 0;
    let touch = |(number, _): (usize, &u8)| {
        let line = |i: usize| &lines[mix((number + i) as u64, at) as usize % lines.len()];
        at = (0..batch).map(|i| line(i).0[0]).fold(at, u64::wrapping_add);
    };
    let events = vec![0_u8; blocks / batch];
    let start = Instant::now();
    events.iter().enumerate().for_each(touch);
    black_box(at);
    blocks as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// The time of a lookup while another thread applies events without a pause, beside the time when all is quiet.
fn while_told() {
    let plan = Plan::default();
    let load = Load::new(&plan);
    let index = Index::new();
    let half = load.told.len() / 2;
    let of_told = |told: &Told| index.apply(stored(told).0, &stored(told).1).map(drop);
    assert!(load.told.iter().all(|told| of_told(told).is_ok()), "parents come first");
    // Another half comes and goes under other names.
    let strange = Load::new(&Plan { workers: 7, ..plan });
    let idle = ask(&index, &load);
    let done = AtomicBool::new(false);
    let applied = AtomicUsize::new(0);
    let mut busy = (0.0, 0.0, 0.0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let elsewhere = |(worker, event): (Worker, Event)| (Worker { rank: 1, ..worker }, event);
            while !done.load(Relaxed) {
                for told in strange.told[..half].iter().take_while(|_| !done.load(Relaxed)) {
                    let (worker, event) = elsewhere(stored(told));
                    applied.fetch_add(usize::from(index.apply(worker, &event).is_ok()), Relaxed);
                }
                for told in strange.told[..half].iter().rev().take_while(|_| !done.load(Relaxed)) {
                    let names = told.blocks.iter().rev().map(|(engine, _)| *engine).collect();
                    let (worker, event) = elsewhere(removed(&(told.worker, names)));
                    applied.fetch_add(usize::from(index.apply(worker, &event).is_ok()), Relaxed);
                }
            }
        });
        busy = ask(&index, &load);
        done.store(true, Relaxed);
    });
    println!(
        "\nlookups while another thread applied {} events: p50 {:.2} us ({:.2} idle), p99 {:.2} us ({:.2} idle, {:.1}x)",
        applied.load(Relaxed),
        busy.0,
        idle.0,
        busy.1,
        idle.1,
        busy.1 / idle.1
    );
}
