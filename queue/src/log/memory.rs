//! A log in memory: what tests compare with, and what runs where nothing need survive the process.
//!
//! It is shared by cloning, so that whoever "restarts" over the same [`Memory`] finds what the one before left.
//!
//! Rows keep what they were while a scan needs it, so that a scan sees one snapshot (L4) and a commit waits for at most
//! [`CHUNK`] rows of one. The price: a row that changes during scans is there once more for each of them that sees it
//! differently, however often it changes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Batch, Error, Log, Patience, Scanned, Span, Sync, TABLES, Table, Visit, limits, stamp};

/// Rows that a scan looks at under the lock at a time: about 10 microseconds.
const CHUNK: usize = 64;

/// A log in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

/// Invariants, all proved by [`State::check`]:
/// - M1: without readers every row is one version, and that is not a deletion.
/// - M2: versions of a row are in falling order.
/// - M3: every row that has more to it than M1 allows is in `superseded`.
/// - M4: a row that changes keeps of what it was only what somebody reads at that moment ([`Row::thin`]): it has never more
///   versions than there are readers, and one.
#[derive(Debug)]
struct State {
    /// The number of the last commit.
    now: u64,
    tables: [BTreeMap<Bytes, Row>; TABLES.len()],
    /// Which snapshots are being scanned, and by how many.
    readers: BTreeMap<u64, usize>,
    /// What was superseded by which commit while somebody was reading, oldest first.
    superseded: VecDeque<(u64, Table, Bytes)>,
}

/// One row since the commit `since`.
#[derive(Debug)]
struct Row {
    since: u64,
    value: Option<Bytes>,
    before: Option<Box<Row>>,
}

/// A snapshot that is being read; it ends when this is dropped, also by a visitor that panics.
struct Reading<'a> {
    log: &'a Memory,
    at: u64,
}

impl Log for Memory {
    fn commit(&self, batch: Batch, _: Sync) -> Result<(), Error> {
        limits::check(&batch)?;
        self.state.lock().commit(batch);
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let state = self.state.lock();
        Ok(state.tables[table as usize].get(key).and_then(|row| row.value.clone()))
    }

    fn scan(&self, span: &Span, _: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        let reading = self.read();
        let mut from = Bound::Included(span.from.clone());
        loop {
            let (rows, last) = self.state.lock().chunk(span, from, reading.at);
            for (key, value) in rows {
                if visit(&key, &value) == ControlFlow::Break(()) {
                    return Ok(Scanned::Stopped);
                }
            }
            let Some(last) = last else { return Ok(Scanned::End) };
            from = Bound::Excluded(last);
        }
    }
}

// === impl Memory ===

impl Memory {
    /// A log that holds nothing but its format.
    pub fn new() -> Self {
        let state = State {
            now: 0,
            tables: Default::default(),
            readers: BTreeMap::new(),
            superseded: VecDeque::new(),
        };
        let log = Self { state: Arc::new(Mutex::new(state)) };
        let mut first = Batch::default();
        first.put(stamp::TABLE, stamp::KEY, stamp::value());
        log.state.lock().commit(first);
        log
    }

    fn read(&self) -> Reading<'_> {
        let mut state = self.state.lock();
        let at = state.now;
        *state.readers.entry(at).or_default() += 1;
        Reading { log: self, at }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut state = self.log.state.lock();
        let left = state.readers.get_mut(&self.at).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            state.readers.remove(&self.at);
            state.forget();
        }
        debug_assert_eq!(state.check(), Ok(()));
    }
}

// === impl State ===

impl State {
    fn commit(&mut self, batch: Batch) {
        self.now += 1;
        for edit in batch.into_edits() {
            self.set(edit.table, edit.key, edit.value);
        }
        debug_assert_eq!(self.check(), Ok(()));
    }

    fn set(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        let rows = &mut self.tables[table as usize];
        let before = rows.remove(&key).map(Box::new);
        let until = before.as_ref().map(|before| before.since);
        let mut row = Row { since: self.now, value, before };
        row.thin(&self.readers);
        if row.before.is_some() && row.before.as_ref().map(|before| before.since) == until {
            self.superseded.push_back((self.now, table, key.clone()));
        }
        if row.before.is_some() || row.value.is_some() {
            rows.insert(key, row);
        }
    }

    /// Some rows of a span, and the last key that was looked at if there may be more.
    fn chunk(&self, span: &Span, from: Bound<Bytes>, at: u64) -> (Vec<(Bytes, Bytes)>, Option<Bytes>) {
        let within = |key: &Bytes| span.to.is_empty() || *key < span.to;
        let rows = self.tables[span.table as usize].range((from, Bound::Unbounded));
        let mut seen = Vec::new();
        for (looked, (key, row)) in rows.take_while(|(key, _)| within(key)).enumerate() {
            if let Some(value) = row.at(at) {
                seen.push((key.clone(), value.clone()));
            }
            if looked + 1 == CHUNK {
                return (seen, Some(key.clone()));
            }
        }
        (seen, None)
    }

    /// Drops what no reader can see any more.
    fn forget(&mut self) {
        let oldest = self.readers.first_key_value().map_or(self.now, |(at, _)| *at);
        while self.superseded.front().is_some_and(|(since, ..)| *since <= oldest) {
            let Some((_, table, key)) = self.superseded.pop_front() else { return };
            let rows = &mut self.tables[table as usize];
            let Some(row) = rows.get_mut(&key) else { continue };
            row.cut(oldest);
            if row.value.is_none() && row.since <= oldest {
                rows.remove(&key);
            }
        }
    }

    /// The invariants of this structure, one line each; of a large one nothing, since it is looked at row by row.
    fn check(&self) -> Result<(), &'static str> {
        let rows = || self.tables.iter().flatten();
        let sizes: usize = self.tables.iter().map(BTreeMap::len).sum();
        if sizes + self.superseded.len() > 4 * CHUNK {
            return Ok(());
        }
        let plain = |row: &Row| row.before.is_none() && row.value.is_some();
        let told = |key: &Bytes| self.superseded.iter().any(|(.., told)| told == key);
        ensure(!self.readers.is_empty() || rows().all(|(_, row)| plain(row)), "M1")?;
        ensure(rows().all(|(_, row)| row.falls()), "M2")?;
        ensure(rows().all(|(key, row)| plain(row) || told(key)), "M3")
    }
}

// === impl Row ===

impl Row {
    /// What it was in a snapshot.
    fn at(&self, snapshot: u64) -> Option<&Bytes> {
        let mut row = self;
        while row.since > snapshot {
            row = row.before.as_deref()?;
        }
        row.value.as_ref()
    }

    /// Forgets what it was before `oldest`.
    fn cut(&mut self, oldest: u64) {
        let mut row = self;
        while row.since > oldest {
            let Some(before) = row.before.as_deref_mut() else { return };
            row = before;
        }
        row.before = None;
    }

    /// Forgets what it was at times of which nobody reads a snapshot.
    fn thin(&mut self, readers: &BTreeMap<u64, usize>) {
        let mut row = self;
        loop {
            let until = row.since;
            while let Some(before) = row.before.take_if(|of| readers.range(of.since..until).next().is_none())
            {
                row.before = before.before;
            }
            let Some(before) = row.before.as_deref_mut() else { return };
            row = before;
        }
    }

    fn falls(&self) -> bool {
        self.before.as_deref().is_none_or(|before| before.since < self.since && before.falls())
    }
}

fn ensure(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(log: &Memory, key: &str, value: &str) {
        let mut batch = Batch::default();
        batch.put(Table::Inbox, key.to_owned(), value.to_owned());
        log.commit(batch, Sync::Write).unwrap();
    }

    fn delete(log: &Memory, key: &str) {
        let mut batch = Batch::default();
        batch.delete(Table::Inbox, key.to_owned());
        log.commit(batch, Sync::Write).unwrap();
    }

    fn seen(log: &Memory, at: u64) -> String {
        let span = Span { table: Table::Inbox, from: Bytes::new(), to: Bytes::new() };
        let (rows, _) = log.state.lock().chunk(&span, Bound::Unbounded, at);
        let words = |(key, value): &(Bytes, Bytes)| format!("{}{}", key.escape_ascii(), value.escape_ascii());
        rows.iter().map(words).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn old_rows_live_as_long_as_somebody_reads_them_and_no_longer() {
        let log = Memory::new();
        put(&log, "a", "1");
        put(&log, "b", "1");
        let first = log.read();
        put(&log, "a", "2");
        delete(&log, "b");
        let second = log.read();
        put(&log, "a", "3");
        put(&log, "b", "3");
        delete(&log, "c");
        assert_eq!(seen(&log, first.at), "a1 b1");
        assert_eq!(seen(&log, second.at), "a2");
        let now = log.state.lock().now;
        assert_eq!(seen(&log, now), "a3 b3");
        let second_at = second.at;
        drop(first);
        assert_eq!(seen(&log, second_at), "a2", "whoever came later still sees what he saw");
        drop(second);
        let state = log.state.lock();
        assert_eq!(state.check(), Ok(()));
        assert!(state.superseded.is_empty() && state.readers.is_empty(), "{state:?}");
    }

    #[test]
    fn a_row_that_changes_all_the_time_is_there_once_for_each_who_reads_and_once_more() {
        // Each change was once kept, one behind the other, until the last reader was gone; so many that dropping them
        // overflowed the stack.
        let log = Memory::new();
        put(&log, "a", "1");
        let first = log.read();
        let mut second = None;
        for number in 0..100_000 {
            if number % 3 == 2 {
                delete(&log, "a");
            } else {
                put(&log, "a", "2");
            }
            if number == 50_001 {
                second = Some(log.read());
            } else if number > 60_000 {
                // Somebody reads for a moment while it changes.
                let short = log.read();
                put(&log, "a", "2");
                drop(short);
            }
        }
        put(&log, "a", "3");
        delete(&log, "b");
        let second = second.unwrap();
        assert_eq!((seen(&log, first.at), seen(&log, second.at)), ("a1".to_owned(), "a2".to_owned()));
        let most = |log: &Memory| {
            let state = log.state.lock();
            let versions = |row: &Row| std::iter::successors(Some(row), |row| row.before.as_deref()).count();
            state.tables.iter().flatten().map(|(_, row)| versions(row)).max()
        };
        assert_eq!(most(&log), Some(3));
        drop(first);
        assert_eq!(seen(&log, second.at), "a2");
        assert_eq!(most(&log), Some(2));
        drop(second);
        assert_eq!(most(&log), Some(1));
        assert!(log.state.lock().superseded.is_empty());
    }

    #[test]
    fn a_visitor_that_panics_holds_nothing() {
        let log = Memory::new();
        put(&log, "a", "1");
        let span = Span { table: Table::Inbox, from: Bytes::new(), to: Bytes::new() };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            log.scan(&span, Patience::Wait, &mut |_, _| panic!("as the test wants"))
        }));
        assert!(panicked.is_err());
        assert!(log.state.lock().readers.is_empty());
    }
}
