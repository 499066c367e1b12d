//! A process that the tests of the disk kill: it puts, replaces and deletes numbered objects, and says what was acknowledged.
//!
//! `store-disk-drill FOLDER disk|write` opens the disk and goes on for ever with a budget so small that compaction runs all
//! the time. Each round it says what it will try before it tries, and what was acknowledged after, a line each: `try ROUND
//! put|delete KEY`, `done ROUND KEY`, `full KEY`. A value is told by its key and its round.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use store::disk::{Disk, Durability, Error, Options};

/// Keys that are used again and again.
const KEYS: u64 = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, durability, first] = &arguments[..] else {
        eprintln!("usage: store-disk-drill FOLDER disk|write FIRST-ROUND");
        return ExitCode::FAILURE;
    };
    let durability = if durability == "disk" { Durability::Disk } else { Durability::Write };
    let first: u64 = first.parse().unwrap_or(0);
    match run(folder, durability, first) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// How the drill uses its disk; the test looks at it in the same way.
fn options(durability: Durability) -> Options {
    let (budget_bytes, segment_bytes, delay) = (2 << 20, 128 << 10, Duration::ZERO);
    Options { budget_bytes, segment_bytes, delay, durability, ..Options::default() }
}

fn run(folder: &str, durability: Durability, first: u64) -> Result<(), Error> {
    let disk = Disk::open(folder, options(durability))?;
    say(format_args!("opened {} {}", disk.recovered().objects, disk.recovered().damage.len()));
    for round in first.. {
        let mut tickets = Vec::new();
        for step in 0..8 {
            let mixed = (round * 8 + step).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let key = mixed % KEYS;
            let deletes = (mixed / KEYS).is_multiple_of(4);
            say(format_args!("try {round} {} {key}", if deletes { "delete" } else { "put" }));
            let name = format!("key-{key}");
            let ticket = if deletes {
                disk.delete("t", name)
            } else {
                disk.put("t", name, round.to_be_bytes().to_vec(), value(key, round))
            };
            tickets.push((key, ticket));
        }
        for (key, ticket) in tickets {
            match ticket.wait() {
                Ok(_) => say(format_args!("done {round} {key}")),
                Err(Error::Full { .. }) => say(format_args!("full {round} {key}")),
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// Every byte is told by the key and the round.
fn value(key: u64, round: u64) -> Vec<u8> {
    let len = 500 + (key * 7919 + round * 104_729) % 24_000;
    (0..len).map(|at| ((key * 31 + round * 17 + at) % 255) as u8 + 1).collect()
}

/// One write a line, at once: whoever counts acknowledgements must not miss one.
fn say(line: std::fmt::Arguments<'_>) {
    let told = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
    told.and_then(|()| std::io::stdout().flush()).expect("somebody listens");
}
