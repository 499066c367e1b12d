//! What every log promises, each promise by name, against a log that is opened again and again.
//!
//! It is what writers of a log call from their tests. Failing disks and dying processes are not here: a suite cannot bring
//! them about from inside (`queue/tests/faults.rs` does).

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use super::limits::MAX_KEY;
use super::{Batch, Error, Log, Patience, Scanned, Span, Sync, TABLES, Table, stamp};

/// Opens one log, the same each time. What was opened before is closed by then.
pub type Open<'a> = &'a dyn Fn() -> Box<dyn Log>;

/// Nothing, or what was found instead of what was promised.
pub type Kept = Result<(), String>;

/// One thing that every log must keep.
pub struct Promise {
    /// Its name: what is broken, if it is.
    pub name: &'static str,
    kept: fn(Open<'_>) -> Kept,
}

/// Longer than any commit takes, shorter than patience.
const LONG: Duration = Duration::from_secs(30);

/// Every promise. Each wants a log of its own that was never opened.
pub const PROMISES: [Promise; 20] = [
    Promise { name: "a new log holds its format and nothing else", kept: new_is_empty },
    Promise { name: "L1: a batch changes several tables at once", kept: several_tables },
    Promise {
        name: "L1: two reads, one after the other, never see a batch and then half of it",
        kept: reads_go_forward,
    },
    Promise { name: "L1: one scan never sees half a batch", kept: scans_are_whole },
    Promise { name: "the last edit of a row in a batch wins", kept: last_edit_wins },
    Promise { name: "an empty batch changes nothing, with either kind of sync", kept: empty_batch },
    Promise { name: "a value may be empty, and is not a missing one", kept: empty_value },
    Promise { name: "keys are any bytes, and ordered as bytes", kept: any_bytes },
    Promise {
        name: "the longest key is stored, a longer or an empty one is refused and harms nothing",
        kept: long_keys,
    },
    Promise { name: "a value of a megabyte comes back as it was", kept: large_value },
    Promise { name: "tables are apart", kept: tables_are_apart },
    Promise { name: "a span has its first key and not its last", kept: spans },
    Promise { name: "a span that ends before it begins is empty", kept: empty_spans },
    Promise { name: "a scan stops where its visitor stops", kept: stops },
    Promise { name: "who has no patience is told so, or sees the truth", kept: impatience },
    Promise { name: "L4: a scan sees what was committed before it began", kept: sees_what_was },
    Promise {
        name: "L4: a scan does not see what is committed meanwhile, and does not hold it up",
        kept: one_snapshot,
    },
    Promise { name: "L4: a later scan sees it, although an earlier one is not over", kept: nested_scans },
    Promise { name: "L2: everything is there after opening again", kept: survives },
    Promise {
        name: "L3: what was there last before closing is there last after opening",
        kept: order_survives,
    },
];

/// Checks every promise, each on what `fresh` gives: a way to open a log that was never opened.
///
/// # Errors
/// The first promise that is broken, and how.
pub fn run(fresh: &dyn Fn() -> Box<dyn Fn() -> Box<dyn Log>>) -> Kept {
    for promise in PROMISES {
        let open = fresh();
        (promise.kept)(&*open).map_err(|why| format!("broken promise `{}`: {why}", promise.name))?;
    }
    Ok(())
}

// === Atomic batches ===

fn new_is_empty(open: Open<'_>) -> Kept {
    for time in ["first", "second"] {
        let log = open();
        for table in TABLES {
            let wanted = match table {
                stamp::TABLE => vec![(Bytes::from_static(stamp::KEY), stamp::value())],
                _ => Vec::new(),
            };
            same(&format!("{} at the {time} opening", table.name()), all(&*log, table)?, wanted)?;
        }
    }
    Ok(())
}

fn several_tables(open: Open<'_>) -> Kept {
    let log = open();
    let mut batch = Batch::default();
    batch.put(Table::Entries, "entry", "payload");
    batch.put(Table::Inbox, "entry", "");
    commit(&*log, batch)?;
    let mut batch = Batch::default();
    batch.delete(Table::Inbox, "entry");
    batch.put(Table::Running, "entry", "lease");
    commit(&*log, batch)?;
    same("the entry", get(&*log, Table::Entries, b"entry")?, Some(Bytes::from("payload")))?;
    same("the inbox", get(&*log, Table::Inbox, b"entry")?, None)?;
    same("the running", get(&*log, Table::Running, b"entry")?, Some(Bytes::from("lease")))
}

/// Commits the numbers from 1 to `to`, each in one batch to all `rows`, while `read` reads on another thread.
fn while_counting(
    log: &dyn Log,
    to: u64,
    rows: &[(Table, String)],
    read: &(dyn Fn() -> Kept + std::marker::Sync),
) -> Kept {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u32;
            // At least one read, whoever is faster.
            loop {
                read()?;
                reads += 1;
                if over.load(Ordering::Acquire) && reads > 10 {
                    return Ok(());
                }
            }
        });
        let written = (1..=to).try_for_each(|number| {
            let mut batch = Batch::default();
            for (table, key) in rows {
                // Large enough that tables are written meanwhile.
                let mut value = number.to_be_bytes().to_vec();
                value.resize(100, 7);
                batch.put(*table, key.clone(), value);
            }
            commit(log, batch)
        });
        over.store(true, Ordering::Release);
        let read = reader.join().map_err(|_| "the reader panicked".to_owned())?;
        written.and(read)
    })
}

fn reads_go_forward(open: Open<'_>) -> Kept {
    let log = open();
    let rows: Vec<_> = (0..400).map(|i| (TABLES[1 + i % 8], format!("row {i}"))).collect();
    let (first, last) = (rows[0].clone(), rows[399].clone());
    while_counting(&*log, 400, &rows, &|| {
        let early = number(get(&*log, first.0, first.1.as_bytes())?);
        let late = number(get(&*log, last.0, last.1.as_bytes())?);
        if late >= early { Ok(()) } else { Err(format!("batch {early}, and then only batch {late}")) }
    })
}

fn scans_are_whole(open: Open<'_>) -> Kept {
    let log = open();
    let rows: Vec<_> = (0..200).map(|i| (Table::Inbox, format!("row {i:03}"))).collect();
    while_counting(&*log, 300, &rows, &|| {
        let seen: Vec<u64> =
            all(&*log, Table::Inbox)?.into_iter().map(|(_, value)| number(Some(value))).collect();
        let whole = seen.is_empty() || seen.len() == 200 && seen.iter().all(|value| *value == seen[0]);
        if whole { Ok(()) } else { Err(format!("one scan saw {seen:?}")) }
    })
}

fn last_edit_wins(open: Open<'_>) -> Kept {
    let check = |log: &dyn Log| {
        same("put, then deleted", get(log, Table::Inbox, b"gone")?, None)?;
        same("deleted, then put", get(log, Table::Inbox, b"back")?, Some(Bytes::from("new")))?;
        same("put twice", get(log, Table::Inbox, b"twice")?, Some(Bytes::from("second")))?;
        same("put, deleted, put", get(log, Table::Inbox, b"thrice")?, Some(Bytes::from("last")))?;
        same("the same key elsewhere", get(log, Table::Running, b"gone")?, Some(Bytes::from("here")))
    };
    let log = open();
    let mut batch = Batch::default();
    batch.put(Table::Inbox, "back", "old");
    batch.put(Table::Inbox, "gone", "old");
    commit(&*log, batch)?;
    let mut batch = Batch::default();
    batch.put(Table::Inbox, "gone", "new");
    batch.put(Table::Running, "gone", "here");
    batch.delete(Table::Inbox, "gone");
    batch.delete(Table::Inbox, "back");
    batch.put(Table::Inbox, "back", "new");
    batch.put(Table::Inbox, "twice", "first");
    batch.put(Table::Inbox, "twice", "second");
    batch.put(Table::Inbox, "thrice", "first");
    batch.delete(Table::Inbox, "thrice");
    batch.put(Table::Inbox, "thrice", "last");
    commit(&*log, batch)?;
    check(&*log)?;
    drop(log);
    check(&*open())
}

fn empty_batch(open: Open<'_>) -> Kept {
    let log = open();
    put(&*log, Table::Inbox, "row", "value")?;
    for sync in [Sync::Write, Sync::Disk] {
        log.commit(Batch::default(), sync).map_err(words)?;
    }
    same("the inbox", keys(&*log, Table::Inbox)?, vec![Bytes::from("row")])?;
    put(&*log, Table::Inbox, "another", "value")
}

// === Keys and values ===

fn empty_value(open: Open<'_>) -> Kept {
    let log = open();
    put(&*log, Table::Inbox, "empty", "")?;
    put(&*log, Table::Entries, "empty", "")?;
    drop(log);
    let log = open();
    for table in [Table::Inbox, Table::Entries] {
        same("an empty value", get(&*log, table, b"empty")?, Some(Bytes::new()))?;
        same("a scan", all(&*log, table)?, vec![(Bytes::from("empty"), Bytes::new())])?;
        same("a missing value", get(&*log, table, b"missing")?, None)?;
    }
    Ok(())
}

fn any_bytes(open: Open<'_>) -> Kept {
    let ordered: [&'static [u8]; 12] = [
        b"\x00",
        b"\x00\x00",
        b"\x00\x00\x01",
        b"\x00\xff",
        b"\x01",
        b"a",
        b"a\x00",
        b"a\x00b",
        b"a\xff",
        b"b",
        b"\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    let log = open();
    for key in ordered.iter().rev() {
        put(&*log, Table::Timers, Bytes::from_static(key), *key)?;
    }
    let wanted: Vec<Bytes> = ordered.iter().map(|key| Bytes::from_static(key)).collect();
    same("the order", keys(&*log, Table::Timers)?, wanted.clone())?;
    for (i, from) in wanted.iter().enumerate() {
        let found = scan(&*log, Table::Timers, from.clone(), Bytes::new())?;
        let found: Vec<Bytes> = found.into_iter().map(|(key, _)| key).collect();
        same(&format!("from {from:?}"), found, wanted[i..].to_vec())?;
        same(&format!("the row {from:?}"), get(&*log, Table::Timers, from)?, Some(from.clone()))?;
    }
    drop(log);
    same("the order after opening again", keys(&*open(), Table::Timers)?, wanted)
}

fn long_keys(open: Open<'_>) -> Kept {
    let longest = Bytes::from(vec![b'k'; MAX_KEY]);
    let log = open();
    put(&*log, Table::Queues, longest.clone(), "value")?;
    for bad in [Bytes::new(), Bytes::from(vec![b'k'; MAX_KEY + 1])] {
        let mut batch = Batch::default();
        batch.put(Table::Queues, "beside", "value");
        batch.put(Table::Queues, bad.clone(), "value");
        match log.commit(batch, Sync::Write) {
            Err(Error::Batch { table: Table::Queues, .. }) => {}
            other => return Err(format!("a key of {} bytes was answered with {other:?}", bad.len())),
        }
        same("reading such a key", get(&*log, Table::Queues, &bad)?, None)?;
    }
    put(&*log, Table::Queues, "after", "value")?;
    let longer = Bytes::from(vec![b'k'; MAX_KEY + 1]);
    let last = |from: &Bytes, to: &Bytes| {
        let rows = scan(&*log, Table::Queues, from.clone(), to.clone())?;
        Ok::<_, String>(rows.last().map(|(key, _)| key.len()))
    };
    same("to a key that is too long", last(&Bytes::new(), &longer)?, Some(MAX_KEY))?;
    same("from the longest key", last(&longest, &Bytes::new())?, Some(MAX_KEY))?;
    same("from a key that is too long", last(&longer, &Bytes::new())?, None)?;
    drop(log);
    same("what is there", keys(&*open(), Table::Queues)?, vec![Bytes::from("after"), longest])
}

fn large_value(open: Open<'_>) -> Kept {
    let large: Bytes = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let log = open();
    for i in 0..4 {
        put(&*log, Table::Entries, format!("large {i}"), large.clone())?;
        put(&*log, Table::Once, format!("large {i}"), large.clone())?;
    }
    drop(log);
    let log = open();
    for table in [Table::Entries, Table::Once] {
        let found = get(&*log, table, b"large 3")?;
        same("whether it is the same", found == Some(large.clone()), true)?;
        same(
            "how many there are",
            all(&*log, table)?.iter().filter(|(_, value)| *value == large).count(),
            4,
        )?;
    }
    Ok(())
}

fn tables_are_apart(open: Open<'_>) -> Kept {
    let log = open();
    for table in TABLES {
        put(&*log, table, "row", table.name())?;
    }
    let mut batch = Batch::default();
    batch.delete(Table::Aside, "row");
    commit(&*log, batch)?;
    for table in TABLES {
        let wanted = (table != Table::Aside).then(|| Bytes::from(table.name()));
        same(table.name(), get(&*log, table, b"row")?, wanted)?;
    }
    Ok(())
}

// === Scans ===

fn letters(log: &dyn Log) -> Kept {
    "abcdefgh".chars().try_for_each(|letter| put(log, Table::Inbox, letter.to_string(), letter.to_string()))
}

fn spelled(log: &dyn Log, from: &'static str, to: &'static str) -> Result<String, String> {
    let rows = scan(log, Table::Inbox, Bytes::from(from), Bytes::from(to))?;
    Ok(rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect())
}

fn spans(open: Open<'_>) -> Kept {
    let log = open();
    letters(&*log)?;
    let mut batch = Batch::default();
    batch.delete(Table::Inbox, "d");
    commit(&*log, batch)?;
    let cases = [
        ("", "", "abcefgh"),
        ("c", "", "cefgh"),
        ("", "c", "ab"),
        ("b", "f", "bce"),
        ("d", "e", ""),
        ("d", "d\0", ""),
        ("b", "b\0", "b"),
        ("aa", "cc", "bc"),
        ("h", "", "h"),
        ("i", "", ""),
        ("g", "zzz", "gh"),
    ];
    for (from, to, wanted) in cases {
        same(&format!("from {from:?} to {to:?}"), spelled(&*log, from, to)?, wanted.to_owned())?;
    }
    Ok(())
}

fn empty_spans(open: Open<'_>) -> Kept {
    let log = open();
    letters(&*log)?;
    for (from, to) in [("c", "c"), ("d", "c"), ("z", "a")] {
        same(&format!("from {from:?} to {to:?}"), spelled(&*log, from, to)?, String::new())?;
    }
    Ok(())
}

fn stops(open: Open<'_>) -> Kept {
    let log = open();
    letters(&*log)?;
    for wanted in 1..=9 {
        let mut seen = 0;
        let scanned = visit(&*log, Table::Inbox, &mut |_, _| {
            seen += 1;
            if seen == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let (rows, how) = if wanted <= 8 { (wanted, Scanned::Stopped) } else { (8, Scanned::End) };
        same(&format!("stopped at {wanted}"), (seen, scanned), (rows, how))?;
    }
    Ok(())
}

fn impatience(open: Open<'_>) -> Kept {
    let log = open();
    letters(&*log)?;
    let span = Span { table: Table::Inbox, from: Bytes::new(), to: Bytes::new() };
    let mut seen = String::new();
    let scanned = log.scan(&span, Patience::Now, &mut |key, _| {
        seen.push_str(&String::from_utf8_lossy(key));
        ControlFlow::Continue(())
    });
    match scanned.map_err(words)? {
        Scanned::WouldBlock if "abcdefgh".starts_with(&seen) => Ok(()),
        Scanned::End => same("the whole of it", seen, "abcdefgh".to_owned()),
        other => Err(format!("{other:?} after {seen:?}")),
    }
}

fn sees_what_was(open: Open<'_>) -> Kept {
    let log = open();
    for i in 0..300_u32 {
        put(&*log, Table::Inbox, i.to_be_bytes().to_vec(), "")?;
        if i % 3 == 0 {
            let mut batch = Batch::default();
            batch.delete(Table::Inbox, (i / 2).to_be_bytes().to_vec());
            commit(&*log, batch)?;
        }
        let wanted: Vec<u32> = (0..=i).filter(|row| !(0..=i).step_by(3).any(|by| by / 2 == *row)).collect();
        let found: Vec<u32> = keys(&*log, Table::Inbox)?
            .iter()
            .map(|key| key.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
            .collect();
        same(&format!("after {i}"), found, wanted)?;
    }
    Ok(())
}

/// Rows enough that no log has them all in its hands at once.
const MANY: u32 = 1_000;

fn many(log: &dyn Log) -> Result<Vec<Bytes>, String> {
    let rows: Vec<Bytes> = (0..MANY).map(|i| Bytes::from(format!("row {i:05}"))).collect();
    let mut batch = Batch::default();
    for row in &rows {
        batch.put(Table::Inbox, row.clone(), "old");
    }
    commit(log, batch)?;
    Ok(rows)
}

/// Deletes the second half, changes the first, and puts rows between and behind.
fn upheaval() -> Batch {
    let mut batch = Batch::default();
    for i in 0..MANY {
        let row = format!("row {i:05}");
        batch.put(Table::Inbox, format!("{row} and a half"), "new");
        if i < MANY / 2 {
            batch.put(Table::Inbox, row, "new");
        } else {
            batch.delete(Table::Inbox, row);
        }
    }
    batch.put(Table::Inbox, "zebra", "new");
    batch
}

fn one_snapshot(open: Open<'_>) -> Kept {
    let log = open();
    let rows = many(&*log)?;
    let (ask, asked) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let log = &*log;
        scope.spawn(move || {
            // Twice, so that something is superseded that superseded.
            while asked.recv().is_ok() {
                let done = commit(log, upheaval()).and_then(|()| commit(log, upheaval()));
                if tell.send(done).is_err() {
                    return;
                }
            }
        });
        let (mut seen, mut meanwhile) = (Vec::new(), Ok(()));
        let scanned = visit(log, Table::Inbox, &mut |key, value| {
            seen.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if seen.len() == 3 {
                meanwhile = match ask.send(()).map(|()| told.recv_timeout(LONG)) {
                    Ok(Ok(done)) => done,
                    other => Err(format!("a commit waited for a scan: {other:?}")),
                };
            }
            ControlFlow::Continue(())
        });
        drop(ask);
        meanwhile?;
        same("how it ended", scanned?, Scanned::End)?;
        let wanted: Vec<_> = rows.into_iter().map(|row| (row, Bytes::from("old"))).collect();
        same("what it saw", seen, wanted)?;
        same("rows afterwards", keys(log, Table::Inbox)?.len() as u32, MANY + MANY / 2 + 1)
    })
}

fn nested_scans(open: Open<'_>) -> Kept {
    let log = open();
    letters(&*log)?;
    let mut found = Vec::new();
    let mut broken = Ok(());
    let scanned = visit(&*log, Table::Inbox, &mut |key, value| {
        found.push(format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)));
        let row = Bytes::from("h");
        broken = put(&*log, Table::Inbox, row, format!("{}", found.len())).and_then(|()| {
            let now = get(&*log, Table::Inbox, b"h")?;
            same("the row now", now, Some(Bytes::from(found.len().to_string())))?;
            let rows = all(&*log, Table::Inbox)?;
            same("its value in a scan", rows[7].1.clone(), Bytes::from(found.len().to_string()))
        });
        if broken.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    broken?;
    same("how it ended", scanned, Scanned::End)?;
    same("what the first scan saw last", found.last().map(String::as_str), Some("h=h"))
}

// === Opening again ===

fn survives(open: Open<'_>) -> Kept {
    let mut wanted: Vec<(Bytes, Bytes)> = Vec::new();
    for life in 0..4_u32 {
        let log = open();
        same(&format!("at the start of life {life}"), all(&*log, Table::Entries)?, wanted.clone())?;
        for i in 0..50_u32 {
            let (key, value) = (format!("{life} {i:03}"), format!("value {i}"));
            let sync = if i % 2 == 0 { Sync::Disk } else { Sync::Write };
            let mut batch = Batch::default();
            batch.put(Table::Entries, key.clone(), value.clone());
            log.commit(batch, sync).map_err(words)?;
            wanted.push((Bytes::from(key), Bytes::from(value)));
        }
        let (gone, _) = wanted.remove(life as usize);
        let mut batch = Batch::default();
        batch.delete(Table::Entries, gone);
        commit(&*log, batch)?;
    }
    same("at the end", all(&*open(), Table::Entries)?, wanted)
}

fn order_survives(open: Open<'_>) -> Kept {
    let mut last = None;
    for life in 0..3_u64 {
        let log = open();
        same("the last batch of the life before", get(&*log, Table::Debts, b"row")?, last)?;
        for i in 0..100 {
            put(&*log, Table::Debts, "row", (life * 1_000 + i).to_string())?;
        }
        last = Some(Bytes::from((life * 1_000 + 99).to_string()));
    }
    Ok(())
}

// === Small words ===

fn words(e: Error) -> String {
    e.to_string()
}

fn same<T: PartialEq + Debug>(what: &str, found: T, wanted: T) -> Kept {
    if found == wanted { Ok(()) } else { Err(format!("{what}: found {found:?}, wanted {wanted:?}")) }
}

fn commit(log: &dyn Log, batch: Batch) -> Kept {
    log.commit(batch, Sync::Write).map_err(words)
}

fn put(log: &dyn Log, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Kept {
    let mut batch = Batch::default();
    batch.put(table, key, value);
    commit(log, batch)
}

fn get(log: &dyn Log, table: Table, key: &[u8]) -> Result<Option<Bytes>, String> {
    log.get(table, key).map_err(words)
}

fn number(value: Option<Bytes>) -> u64 {
    let first = |value: Bytes| value.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    value.map_or(0, first)
}

fn visit(log: &dyn Log, table: Table, visit: super::Visit<'_>) -> Result<Scanned, String> {
    let span = Span { table, from: Bytes::new(), to: Bytes::new() };
    log.scan(&span, Patience::Wait, visit).map_err(words)
}

fn scan(log: &dyn Log, table: Table, from: Bytes, to: Bytes) -> Result<Vec<(Bytes, Bytes)>, String> {
    let mut rows = Vec::new();
    let scanned = log.scan(&Span { table, from, to }, Patience::Wait, &mut |key, value| {
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    });
    same("how a scan ended", scanned.map_err(words)?, Scanned::End)?;
    Ok(rows)
}

fn all(log: &dyn Log, table: Table) -> Result<Vec<(Bytes, Bytes)>, String> {
    scan(log, table, Bytes::new(), Bytes::new())
}

fn keys(log: &dyn Log, table: Table) -> Result<Vec<Bytes>, String> {
    Ok(all(log, table)?.into_iter().map(|(key, _)| key).collect())
}
