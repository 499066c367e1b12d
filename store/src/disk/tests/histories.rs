//! Random histories of puts, deletes, compactions, failures, kills and cuts of power, against a ledger of acknowledgements.
//!
//! The ledger knows, for each key, what was acknowledged last and what was tried since: after a crash it is one of these.

use std::collections::BTreeMap;

use super::kit::*;
use crate::disk::core::{Core, Done};
use crate::disk::files::{Faults, Memory};
use crate::disk::options::{Durability, Options};

/// What a key may be now: numbers of values, `None` for nothing. The first is what was acknowledged.
type Ledger = BTreeMap<String, Vec<Option<u64>>>;

struct History {
    seed: u64,
    dice: Dice,
    files: Memory,
    /// Whether the machine may have stopped: then its power is cut.
    stops: bool,
    options: Options,
    ledger: Ledger,
    next: u64,
    crashes: u64,
}

fn length(number: u64) -> usize {
    (number * 7919 % 2400) as usize
}

impl History {
    fn new(seed: u64, durability: Durability) -> Self {
        let options = Options { budget_bytes: 10 * 16_384, durability, ..options() };
        let (dice, ledger) = (Dice(seed), Ledger::new());
        Self { seed, dice, files: Memory::default(), stops: false, options, ledger, next: 1, crashes: 0 }
    }

    fn key(&mut self) -> String {
        format!("key-{}", self.dice.roll(24))
    }

    fn run(&mut self, lives: u64) {
        for life in 0..lives {
            let (core, found) = open(&self.files, self.options);
            assert_eq!(found.damage, [], "seed {}, life {life}", self.seed);
            self.agree(&core, life);
            if self.dice.roll(2) == 0 {
                let some = Some(self.dice.roll(30));
                let unreserved = self.dice.roll(2) == 0;
                let fault = match self.dice.roll(5) {
                    0 => Faults { sync: some, ..Faults::default() },
                    1 => Faults { write: some, ..Faults::default() },
                    2 => Faults { room: Some(self.dice.roll(60_000)), unreserved, ..Faults::default() },
                    3 => Faults { stop: some, unreserved, ..Faults::default() },
                    _ => Faults { short: true, ..Faults::default() },
                };
                self.stops = fault.stop.is_some();
                self.files.fail(fault);
            }
            for _ in 0..self.dice.roll(60) {
                self.step(&core);
            }
            self.end(core);
        }
        let (core, _) = open(&self.files, self.options);
        self.agree(&core, lives);
    }

    fn step(&mut self, core: &Core) {
        if self.dice.roll(12) == 0 {
            // Stops anywhere.
            let mut left = self.dice.roll(20);
            let _ = core.compact(&mut |_| {
                left = left.saturating_sub(1);
                left > 0
            });
            return;
        }
        let mut edits = Vec::new();
        let mut tried = Vec::new();
        for _ in 0..=self.dice.roll(6) {
            let key = self.key();
            if self.dice.roll(3) == 0 {
                edits.push(delete(&key));
                tried.push((key, None));
            } else {
                self.next += 1;
                edits.push(put(&key, value(self.next, length(self.next))));
                tried.push((key, Some(self.next)));
            }
        }
        for ((key, now), answer) in tried.into_iter().zip(core.commit(edits)) {
            let known = self.ledger.entry(key).or_insert_with(|| vec![None]);
            match answer {
                Ok(done) => {
                    assert_eq!(now.is_none(), matches!(done, Done::Deleted | Done::Absent));
                    *known = vec![now];
                }
                // It may be there or not, and what was before it as well.
                Err(_) => known.push(now),
            }
        }
        if core.poison().is_none() {
            core.check().unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        }
    }

    fn end(&mut self, core: Core) {
        match self.dice.roll(4) + if std::mem::take(&mut self.stops) { 2 } else { 0 } {
            0 => {
                let _ = core.close();
                drop(core);
                self.files.kill();
            }
            1 => {
                drop(core);
                self.files.kill();
            }
            _ => {
                drop(core);
                let share = [0, 30, 70, 97][self.dice.roll(4) as usize];
                let Self { files, dice, .. } = self;
                if self.options.durability == Durability::Disk {
                    files.cut_power(&mut || dice.roll(100) < share);
                } else {
                    files.kill();
                }
                self.crashes += 1;
            }
        }
    }

    /// Each key is one of what it may be; from then on it is that.
    fn agree(&mut self, core: &Core, life: u64) {
        let seed = self.seed;
        for (key, known) in &mut self.ledger {
            let there = get(core, key).unwrap_or_else(|e| panic!("seed {seed}, life {life}: {e}"));
            let which = known.iter().find(|one| one.map(|number| value(number, length(number))) == there);
            let which =
                *which.unwrap_or_else(|| panic!("seed {seed}, life {life}: {key} is none of {known:?}"));
            *known = vec![which];
        }
        let live = self.ledger.values().filter(|known| known[0].is_some()).count() as u64;
        assert_eq!(core.index.count().0, live, "seed {seed}, life {life}");
        let listed: usize = (0..).map_while(|part| core.index.part(part)).map(|part| part.len()).sum();
        assert_eq!(listed as u64, live);
        core.check().unwrap_or_else(|e| panic!("seed {seed}, life {life}: {e}"));
    }
}

#[test]
fn whatever_happens_acknowledged_objects_are_there_and_deleted_ones_are_not() {
    let mut crashes = 0;
    for seed in seeds(400) {
        let mut history = History::new(seed, Durability::Disk);
        history.run(12);
        crashes += history.crashes;
    }
    assert!(crashes > 1000, "{crashes}");
}

#[test]
fn without_syncs_the_same_holds_as_long_as_the_machine_lives() {
    for seed in seeds(100) {
        History::new(seed, Durability::Write).run(12);
    }
}

/// The ledger itself notices what is wrong.
#[test]
fn the_ledger_sees_a_lost_object() {
    let mut history = History::new(1, Durability::Disk);
    history.run(3);
    let key =
        history.ledger.iter().find(|(_, known)| known[0].is_some()).map(|(key, _)| key.clone()).unwrap();
    let (core, _) = open(&history.files, history.options);
    commit(&core, delete(&key)).unwrap();
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| history.agree(&core, 3)));
    assert!(seen.is_err());
}
