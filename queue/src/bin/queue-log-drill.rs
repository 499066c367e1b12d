//! A process that the fault tests kill: it commits numbered batches to a log and says which were acknowledged.
//!
//! `queue-log-drill FOLDER disk|write|mixed BYTES UNTIL` opens the log, goes on after the last number that is there, and
//! ends when `UNTIL` is acknowledged. Each batch changes several tables, so that half of one would be seen, and some
//! payloads are eight times as large. In `mixed` every tenth batch is synced. It says, a line each:
//! `opened LAST`, `made NUMBER disk|write`, `failed NUMBER: WHY` (and what a second attempt was answered), `refused: WHY`.

use std::io::Write;
use std::process::ExitCode;

use queue::log::fjall::Options;
use queue::log::{Batch, Error, Fjall, Log, Sync, Table};

/// How many entries there are, how many of them in the inbox: what is older is deleted.
const KEPT: (u64, u64) = (200, 50);

struct Drill {
    log: Fjall,
    syncs: String,
    bytes: u64,
}

impl Drill {
    fn last(&self) -> Result<u64, Error> {
        let last = self.log.get(Table::Debts, b"last")?;
        Ok(last.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))).unwrap_or(0))
    }

    fn sync(&self, number: u64) -> Sync {
        match self.syncs.as_str() {
            "disk" => Sync::Disk,
            "mixed" if number.is_multiple_of(10) => Sync::Disk,
            _ => Sync::Write,
        }
    }

    fn batch(&self, number: u64) -> Batch {
        let key = |number: u64| number.to_be_bytes().to_vec();
        let length = if number.is_multiple_of(8) { self.bytes * 8 } else { self.bytes };
        let mut batch = Batch::default();
        batch.put(Table::Running, "number", key(number));
        // Every byte is told by the number, and none is zero: a hole would be seen.
        batch.put(Table::Entries, key(number), vec![(number % 255) as u8 + 1; length as usize]);
        batch.put(Table::Inbox, key(number), key(number));
        if number > KEPT.0 {
            batch.delete(Table::Entries, key(number - KEPT.0));
        }
        if number > KEPT.1 {
            batch.delete(Table::Inbox, key(number - KEPT.1));
        }
        batch.put(Table::Debts, "last", key(number));
        batch
    }

    fn run(&self, until: u64, mut say: impl FnMut(String)) -> Result<(), Error> {
        let last = self.last()?;
        say(format!("opened {last}"));
        for number in last + 1..=until {
            let sync = self.sync(number);
            match self.log.commit(self.batch(number), sync) {
                Ok(()) => say(format!("made {number} {}", if sync == Sync::Disk { "disk" } else { "write" })),
                Err(e) => {
                    say(format!("failed {number}: {e}"));
                    let again = self.log.commit(self.batch(number), sync);
                    say(format!(
                        "again {number}: {}",
                        again.map_or_else(|e| e.to_string(), |()| "made".to_owned())
                    ));
                    say(format!("seen {}", self.last()?));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, syncs, bytes, until] = &arguments[..] else {
        eprintln!("usage: queue-log-drill FOLDER disk|write|mixed BYTES UNTIL");
        return ExitCode::FAILURE;
    };
    let (Ok(bytes), Ok(until)) = (bytes.parse(), until.parse()) else {
        eprintln!("BYTES and UNTIL are numbers");
        return ExitCode::FAILURE;
    };
    // One write a line, at once: whoever counts acknowledgements must not miss one.
    let say = |line: String| {
        let told = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
        told.and_then(|()| std::io::stdout().flush()).expect("somebody listens");
    };
    // Small buffers, so that tables are written and merged all the time.
    let options = Options { write_buffer_bytes: 1024 * 1024, cache_bytes: 1024 * 1024, ..Options::default() };
    let opened = Fjall::open(folder, options).map(|log| Drill { log, syncs: syncs.clone(), bytes });
    match opened.and_then(|drill| drill.run(until, say)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(format!("refused: {e}"));
            ExitCode::FAILURE
        }
    }
}
