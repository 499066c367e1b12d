//! What promotion brings, and which budget of retries: a trace, or a load like it, against the real master in virtual time.
//!
//! `cargo bench -p warmline-store --bench promotion -- TRACE`, with a trace as Mooncake published them: a JSON object a line,
//! with `timestamp` and `hash_ids`. Without one it makes up conversations. It measures no time: the same load gives the same
//! numbers each time.

mod load;
mod world;

use load::Load;
use store::master::options::Promotion;
use world::{BLOCK, Outcome, READS, WRITES, play};

/// Memory, in thousandths of all blocks.
const MEMORY: [u64; 3] = [10, 50, 200];

fn main() -> Result<(), String> {
    let trace = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let load = match &trace {
        Some(path) => Load::of_trace(path)?,
        None => Load::of_conversations(),
    };
    let gib = |bytes: u64| bytes as f64 / (1 << 30) as f64;
    println!("{}: {} requests name {} blocks, {} of them different", load.name, load.requests.len(), load.named, load.distinct);
    println!(
        "a block has {} MiB; the disk reads {:.1} GiB/s and writes {:.1} GiB/s",
        BLOCK >> 20,
        gib(READS),
        gib(WRITES)
    );
    for share in MEMORY {
        let memory = load.distinct as u64 * share / 1_000 * BLOCK;
        println!("\nmemory: {} % of all blocks, {:.0} GiB", share as f64 / 10.0, gib(memory));
        heading();
        for (name, promotion) in settings() {
            row(name, &play(&load, &promotion, memory));
        }
    }
    Ok(())
}

/// What is compared.
fn settings() -> Vec<(&'static str, Promotion)> {
    let on = || Promotion { on: true, ..Promotion::default() };
    let budget = |retries, seconds: u64| Promotion { retries, ttl: seconds * 1_000, ..on() };
    let wait = |retries, seconds| Promotion { exchange: false, ..budget(retries, seconds) };
    let uncapped = |promotion| Promotion { backoff_most: u64::MAX, ..promotion };
    vec![
        ("no promotion", Promotion { on: false, ..on() }),
        ("on hit, refused is forgotten", Promotion { candidates: 0, ..on() }),
        ("wait: 8, 60 s, uncapped", uncapped(wait(8, 60))),
        ("wait: 8, 300 s", wait(8, 300)),
        ("wait: 16, 60 s", wait(16, 60)),
        ("wait: 64, 60 s", wait(64, 60)),
        ("wait: 64, 300 s", wait(64, 300)),
        ("wait: 256, 1,200 s", wait(256, 1_200)),
        ("exchange: 8, 60 s, uncapped", uncapped(budget(8, 60))),
        ("exchange: 64, 300 s", on()),
        ("wait: 64, 300 s, threshold 1", Promotion { threshold: 1, ..wait(64, 300) }),
        ("wait: 64, 300 s, threshold 3", Promotion { threshold: 3, ..wait(64, 300) }),
        ("exchange: 64, 300 s, threshold 1", Promotion { threshold: 1, ..on() }),
        ("exchange: 64, 300 s, threshold 3", Promotion { threshold: 3, ..on() }),
    ]
}

fn heading() {
    println!(
        "| {:<34} | memory | found | disk | promoted | admitted | recorded | of those admitted | refused again | expired tried | untried | dropped | settled | GiB | in vain | reads/promotion |",
        "setting"
    );
    println!("|{}", " --- |".repeat(16));
}

fn row(name: &str, outcome: &Outcome) {
    let Outcome { memory, disk, in_vain, after_promotion, puts_given_up, tally } = *outcome;
    let (promotions, candidates) = (tally.promotions, tally.candidates);
    let found = memory + disk;
    let gib = |blocks: u64| (blocks * BLOCK) >> 30;
    println!(
        "| {name:<34} | {:.2} % | {found} | {disk} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} ({:.0} %) | {:.2} |",
        100.0 * memory as f64 / found.max(1) as f64,
        promotions.completed,
        promotions.admitted,
        candidates.recorded,
        candidates.admitted,
        candidates.admission_rejected,
        candidates.expired_evaluated,
        candidates.expired_unevaluated,
        candidates.dropped_limit,
        candidates.settled,
        gib(promotions.completed),
        gib(in_vain),
        100.0 * in_vain as f64 / promotions.completed.max(1) as f64,
        after_promotion as f64 / promotions.completed.max(1) as f64,
    );
    if puts_given_up > 0 {
        println!("  {puts_given_up} puts were given up");
    }
}
