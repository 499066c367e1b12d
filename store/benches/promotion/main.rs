//! What promotion brings, and which budget of retries: a trace, or a load like it, against the real master in virtual time.
//!
//! `cargo bench -p warmline-store --bench promotion -- TRACE`, with a trace as Mooncake published them: a JSON object a line,
//! with `timestamp` and `hash_ids`. Without one it makes up conversations. It measures no time: the same load gives the same
//! numbers each time.

mod load;
mod world;

use load::Load;
use store::master::options::Promotion;
use world::{BLOCK, Machine, Outcome, play};

fn main() -> Result<(), String> {
    let trace = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let load = match &trace {
        Some(path) => Load::of_trace(path)?,
        None => Load::of_conversations(),
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    println!(
        "{}: {} requests name {} blocks, {} of them different",
        load.name,
        load.requests.len(),
        load.named,
        load.distinct
    );
    println!("a block has {} MiB", BLOCK >> 20);
    for machine in machines(&load) {
        println!(
            "\nmemory for {:.0} % of all blocks, {:.0} GiB; the disk reads {:.1} GiB/s and writes {:.1} GiB/s; closed for {} of 300 s",
            100.0 * machine.memory as f64 / (load.distinct as u64 * BLOCK) as f64,
            gib(machine.memory),
            gib(machine.reads),
            gib(machine.writes),
            machine.closed
        );
        println!("| {} |", HEADING.join(" | "));
        println!("|{}", " --- |".repeat(HEADING.len()));
        for (name, promotion) in settings() {
            row(name, &play(&load, &promotion, &machine));
        }
    }
    Ok(())
}

/// On what it is compared: memory for a part of all blocks; then a node to which nothing new comes for a minute of every five.
fn machines(load: &Load) -> Vec<Machine> {
    let memory = |percent| load.distinct as u64 * percent * BLOCK / 100;
    let open = |percent| Machine { memory: memory(percent), reads: 2 << 30, writes: 3 << 29, closed: 0 };
    let closed = |percent| Machine { closed: 60, ..open(percent) };
    vec![open(1), open(5), open(20), closed(5), closed(20)]
}

/// What is compared. Candidates *wait* for room, or what is colder makes room for them in *exchange*.
fn settings() -> Vec<(&'static str, Promotion)> {
    let on = || Promotion { on: true, ..Promotion::default() };
    let budget = |retries, seconds: u64| Promotion { retries, ttl: seconds * 1_000, ..on() };
    let wait = |promotion| Promotion { exchange: false, ..promotion };
    let seed = || Promotion { backoff_most: u64::MAX, ..budget(8, 60) };
    vec![
        ("no promotion", Promotion { on: false, ..on() }),
        ("on hit; refused is forgotten", Promotion { candidates: 0, ..on() }),
        ("8 retries, 60 s, wait", wait(seed())),
        ("8 retries, 300 s, wait", wait(Promotion { ttl: 300_000, ..seed() })),
        ("64 retries, 60 s, wait", wait(budget(64, 60))),
        ("64 retries, 300 s, wait", wait(budget(64, 300))),
        ("8 retries, 60 s, exchange", seed()),
        ("64 retries, 300 s, exchange", on()),
        ("256 retries, 1,200 s, exchange", budget(256, 1_200)),
        ("as the last but one, threshold 1", Promotion { threshold: 1, ..on() }),
        ("the same, threshold 3", Promotion { threshold: 3, ..on() }),
    ]
}

const HEADING: [&str; 14] = [
    "setting",
    "found in memory, %",
    "reads from disk",
    "promotions",
    "completed",
    "candidates",
    "admitted",
    "refused again",
    "expired, tried",
    "expired, untried",
    "dropped",
    "GiB promoted",
    "in vain",
    "reads of each",
];

fn row(name: &str, outcome: &Outcome) {
    let Outcome { memory, disk, in_vain, after_promotion, puts_given_up, tally } = *outcome;
    let (promotions, candidates) = (tally.promotions, tally.candidates);
    let gib = |blocks: u64| (blocks * BLOCK) >> 30;
    println!(
        "| {name} | {:.2} | {disk} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.2} |",
        100.0 * memory as f64 / (memory + disk).max(1) as f64,
        promotions.admitted,
        promotions.completed,
        candidates.recorded,
        candidates.admitted,
        candidates.admission_rejected,
        candidates.expired_evaluated,
        candidates.expired_unevaluated,
        candidates.dropped_limit,
        gib(promotions.completed),
        gib(in_vain),
        after_promotion as f64 / promotions.completed.max(1) as f64,
    );
    if puts_given_up > 0 {
        println!("  {puts_given_up} puts were given up");
    }
}
