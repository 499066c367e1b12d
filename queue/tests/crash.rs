//! A real process under load is killed a hundred times, also while it recovers, and in the end its log agrees with the ledger
//! of acknowledgements that was kept outside of it.
//!
//! The process is `queue-drill`; what it says of itself is in its file `bin/queue-drill/crash.rs`. Between lives the log is
//! looked into, row by row. `WARMLINE_CHAOS=50` asks for fifty times as many rounds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use queue::entry::Stage;
use queue::format::{self, Due, Head, Placed, QueueRow, meta};
use queue::log::fjall::Options;
use queue::log::{Fjall, Log, Patience, Table};
use queue::name::{Class, EntryId, Key};
use tempfile::TempDir;

struct Process {
    child: Child,
}

impl Process {
    fn start(folder: &Path, mode: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_queue-drill"));
        command.arg(folder.join("log")).arg(folder.join("facts")).args(mode);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child }
    }

    /// SIGKILL, and not before it can be seen that the process has not ended by itself.
    fn kill(mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "it ended by itself: {}", self.complaint());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn complaint(&mut self) -> String {
        let mut said = String::new();
        if let Some(errors) = &mut self.child.stderr {
            std::io::Read::read_to_string(errors, &mut said).unwrap();
        }
        said
    }
}

fn facts(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("facts")).unwrap_or_default()
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process works meanwhile; how far it comes decides nothing"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

// === The ledger outside ===

/// What one entry is known to have done, in the order in which it was said.
#[derive(Debug, Default)]
struct Fate {
    enqueued: bool,
    queue: String,
    payload: Option<String>,
    starts: u32,
    /// Somebody asked for its end, and may not have lived to hear the answer.
    ending: bool,
    ended: bool,
}

#[derive(Default)]
struct Ledger {
    entries: BTreeMap<EntryId, Fate>,
    onces: HashMap<String, BTreeSet<EntryId>>,
    /// The ids under which a payload ran: more than one would be an entry that was doubled.
    payloads: HashMap<String, BTreeSet<EntryId>>,
    /// The last first start of each queue.
    last: HashMap<String, EntryId>,
    asked: BTreeSet<String>,
    lives: u32,
    drained: Option<u64>,
}

impl Ledger {
    fn read(facts: &str) -> Self {
        let mut ledger = Self::default();
        for line in facts.lines() {
            ledger.hear(line);
        }
        ledger
    }

    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let id = |at: usize| words[at].parse::<EntryId>().unwrap_or_else(|e| panic!("{line}: {e}"));
        match words[0] {
            "opened" => self.lives += 1,
            "asked" => assert!(self.asked.insert(words[1].to_owned()), "{line}: the drill says it once"),
            "enqueued" => {
                let fate = self.entries.entry(id(1)).or_default();
                assert!(!fate.enqueued, "{line}: a number was given twice");
                (fate.enqueued, fate.queue) = (true, words[2].to_owned());
                assert!(
                    fate.payload.as_deref().is_none_or(|payload| payload == words[3]),
                    "{line}: {fate:?}"
                );
                fate.payload = Some(words[3].to_owned());
            }
            "once" => drop(self.onces.entry(words[1].to_owned()).or_default().insert(id(2))),
            "started" => {
                let fate = self.entries.entry(id(1)).or_default();
                assert!(!fate.ended, "{line}: it starts after its end was acknowledged");
                fate.starts += 1;
                // Everything in a queue is ready when it comes, and in order: whoever starts for the first time came later
                // than all who did before. (Who asks for the same again may hold a start up for one batch.)
                if fate.starts == 1 && words[2] != "once" {
                    let last = self.last.insert(words[2].to_owned(), id(1));
                    assert!(last.is_none_or(|last| last < id(1)), "{line}: after {last:?}");
                }
            }
            "runs" => {
                let fate = self.entries.entry(id(1)).or_default();
                assert!(
                    fate.payload.as_deref().is_none_or(|payload| payload == words[2]),
                    "{line}: {fate:?}"
                );
                fate.payload = Some(words[2].to_owned());
                let ran = self.payloads.entry(words[2].to_owned()).or_default();
                ran.insert(id(1));
                assert_eq!(ran.len(), 1, "{line}: it was doubled: {ran:?}");
            }
            "finishing" | "cancelling" => self.entries.entry(id(1)).or_default().ending = true,
            "finished" | "cancelled" => {
                let fate = self.entries.entry(id(1)).or_default();
                assert!(!fate.ended, "{line}: it ended twice");
                fate.ended = true;
            }
            "drained" => self.drained = Some(words[1].parse().unwrap()),
            "opening" | "back" => {}
            other => panic!("{other:?} is no fact"),
        }
    }

    /// Everything acknowledged has come to its end, or somebody asked for that and was killed.
    fn check(&self) {
        for (id, fate) in self.entries.iter().filter(|(_, fate)| fate.enqueued) {
            assert!(fate.ended || fate.ending, "{id} was lost: {fate:?}");
        }
        for (key, ids) in &self.onces {
            assert_eq!(ids.len(), 1, "{key} is several entries");
        }
    }
}

// === The log inside ===

fn options() -> Options {
    Options { write_buffer_bytes: 1 << 20, cache_bytes: 1 << 20, ..Options::default() }
}

fn rows(log: &dyn Log, table: Table, mut each: impl FnMut(&[u8], &[u8])) {
    let mut visit = |key: &[u8], value: &[u8]| {
        each(key, value);
        ControlFlow::Continue(())
    };
    log.scan(&format::all(table), Patience::Wait, &mut visit).unwrap();
}

/// Every row has those it belongs to: entries are in one stage each, queues are there for all of them and for nobody else,
/// low-water marks are below what is ready, idempotency keys and debts are somebody's. Returns how many entries there are.
fn whole(folder: &Path) -> u64 {
    let log = Fjall::open(folder.join("log"), options()).unwrap();
    let mut queues: BTreeMap<u64, (QueueRow, u64)> = BTreeMap::new();
    rows(&log, Table::Queues, |key, value| {
        let number = format::one_number(Table::Queues, key).unwrap();
        queues.insert(number, (QueueRow::decode(value).unwrap(), 0));
    });
    let next = log.get(Table::Meta, meta::NEXT).unwrap();
    let next = next.map_or(1, |row| format::one_number(Table::Meta, &row).unwrap());
    let mut stages: BTreeMap<u64, Vec<(Stage, u64, Class, Key)>> = BTreeMap::new();
    rows(&log, Table::Inbox, |key, value| {
        let (queue, class, item) = format::inbox_row(key, value).unwrap();
        let low = queues[&queue].0.low[class.number()];
        assert!(low.is_some_and(|low| low <= item.key), "M5: {:?} below {low:?}", item.key);
        stages.entry(item.key.seq.0).or_default().push((Stage::Inbox, queue, class, item.key));
    });
    for table in [Table::Running, Table::Aside] {
        rows(&log, table, |_, value| {
            let Placed { queue, class, stage, item } = Placed::decode(table, value).unwrap();
            stages.entry(item.key.seq.0).or_default().push((stage, queue, class, item.key));
        });
    }
    rows(&log, Table::Timers, |key, value| {
        let (_, due, seq) = format::timer_key(key).unwrap();
        if due == Due::Ready {
            let Placed { queue, class, stage, item } = Placed::decode(Table::Timers, value).unwrap();
            stages.entry(seq.0).or_default().push((stage, queue, class, item.key));
        }
    });
    let (mut entries, mut onces) = (0, BTreeSet::new());
    rows(&log, Table::Entries, |key, value| {
        let seq = format::one_number(Table::Entries, key).unwrap();
        let (head, ..) = Head::decode(&bytes::Bytes::copy_from_slice(value)).unwrap();
        let at = stages.remove(&seq).unwrap_or_default();
        let [(stage, queue, class, _)] = at[..] else { panic!("M4: {seq} is at {at:?}") };
        assert_eq!((queue, class), (head.queue, head.class), "{seq}");
        assert_eq!(stage == Stage::Finished, head.over.is_some(), "{seq}");
        let (row, many) = queues.get_mut(&queue).unwrap_or_else(|| panic!("{seq} has no queue"));
        assert_eq!(row.name, head.name, "{seq}");
        assert!(seq < next, "{seq} is beyond what was promised");
        *many += 1;
        entries += 1;
        if let Some(once) = head.once {
            assert!(onces.insert(format::once(&head.name, &once)), "two entries have the key {once}");
        }
    });
    assert!(stages.is_empty(), "rows of entries that are not there: {stages:?}");
    rows(&log, Table::Once, |key, _| assert!(onces.remove(key), "an idempotency key of nobody"));
    assert!(onces.is_empty(), "entries whose idempotency keys are not known: {onces:?}");
    rows(&log, Table::Debts, |key, value| {
        let (of, _) = format::debt_row(key, value).unwrap();
        assert_eq!((&*of.target, &*of.tenant), ("m", "t"));
    });
    entries
}

#[test]
fn a_hundred_kills_lose_nothing_and_do_nothing_twice() {
    #[expect(clippy::disallowed_methods, reason = "how long a test looks is for whoever starts it")]
    let times = std::env::var("WARMLINE_CHAOS").map_or(1, |times| times.parse().expect("a number"));
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let mut dice = Dice(u64::from(std::process::id()));
    let mut lives = 0;
    for round in 0..100 * times {
        let process = Process::start(folder, None);
        if round % 5 == 4 {
            // While it starts, reads its log, or makes ready what ran: wherever that finds it.
            pause(Duration::from_micros(dice.roll(60_000)));
        } else {
            // In the middle of its work: after so many more facts, and a moment.
            let (before, wanted) = (facts(folder).lines().count(), dice.roll(150) as usize);
            let mut process = process;
            while facts(folder).matches("\nopened").count() <= lives
                || facts(folder).lines().count() < before + wanted
            {
                assert!(
                    process.child.try_wait().unwrap().is_none(),
                    "round {round}: {}",
                    process.complaint()
                );
                pause(Duration::from_millis(2));
            }
            pause(Duration::from_micros(dice.roll(3_000)));
            process.kill();
            lives = facts(folder).matches("\nopened").count();
            if round % 10 == 0 {
                whole(folder);
            }
            continue;
        }
        process.kill();
        lives = facts(folder).matches("\nopened").count();
    }
    let mut last = Process::start(folder, Some("drain"));
    let ended = last.child.wait().unwrap();
    assert!(ended.success(), "{}", last.complaint());

    let facts = facts(folder);
    let ledger = Ledger::read(&facts);
    ledger.check();
    let left = whole(folder);
    assert_eq!(Some(left), ledger.drained, "the room counts what the log has");
    // What is kept is one entry for each idempotency key, whether its asker heard so or not.
    assert!(left >= ledger.onces.len() as u64 && left <= 16, "{left} of {}", ledger.onces.len());
    let ended = ledger.entries.values().filter(|fate| fate.ended).count();
    let again = ledger.entries.values().filter(|fate| fate.starts > 1).count();
    println!("{} lives, {} entries, {ended} ended, {again} ran again", ledger.lives, ledger.entries.len());
    assert!(
        ended > 200 && again > 20,
        "the load was too light to show anything: {ended} ended, {again} again"
    );
}

#[test]
fn the_ledger_outside_sees_what_is_wrong() {
    let wrong = |facts: &str| std::panic::catch_unwind(|| Ledger::read(facts).check()).is_err();
    let fine = "asked p\nenqueued 1-2 q p\nstarted 1-2 q\nruns 1-2 p\nfinishing 1-2\nfinished 1-2\n";
    assert!(!wrong(fine));
    assert!(wrong("enqueued 1-2 q p\n"), "lost");
    assert!(wrong(&format!("{fine}started 1-2 q\n")), "starts after its end");
    assert!(wrong(&format!("{fine}finished 1-2\n")), "ends twice");
    assert!(wrong(&format!("{fine}runs 1-3 p\n")), "doubled");
    assert!(wrong("started 1-3 q\nstarted 1-2 q\n"), "out of order");
    assert!(wrong("once key 1-2\nonce key 1-3\n"), "two entries of one key");
}
