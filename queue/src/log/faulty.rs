//! A log that fails, blocks and waits on command: what tests put between the room and a log.
//!
//! Faults come by script (the next commit, the next scans) and by chance (a seed and a share); everything is counted.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{Batch, Error, Log, Patience, Scanned, Span, Sync, Table, Visit};

/// A log around a log.
pub struct Faulty<L> {
    inner: L,
    state: Mutex<State>,
}

/// How a commit fails. A disk can do both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// The batch is not there, now and after the next start.
    Before,
    /// The batch is there.
    After,
}

/// What happens to a scan.
#[derive(Clone, Debug)]
pub enum ScanFault {
    /// It visits so many rows, then answers [`Scanned::WouldBlock`]; if there are fewer, or as many, it ends as it should.
    BlockAfter(usize),
    /// It visits so many rows, then fails.
    FailAfter(usize),
    /// It takes its snapshot, then waits.
    Hold(Gate),
    /// It is what it should be: for scripts that mean a later scan.
    Pass,
}

/// Where a scan waits with its snapshot in its hands.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    inner: Arc<(Mutex<Passage>, Condvar)>,
}

#[derive(Debug, Default)]
struct Passage {
    frozen: bool,
    open: bool,
}

/// What was asked of the log, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commits that were made, the failed ones that were made nevertheless among them.
    pub committed: u64,
    /// Commits that failed by script or by chance.
    pub failed: u64,
    /// Commits that came after a failed one.
    pub refused: u64,
    /// Single rows asked for.
    pub gets: u64,
    /// Scans begun.
    pub scans: u64,
    /// Rows they visited.
    pub rows: u64,
    /// Scans that answered [`Scanned::WouldBlock`].
    pub blocked: u64,
    /// Scans that failed by script or by chance.
    pub failed_scans: u64,
}

/// Shares of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chances {
    /// Commits that fail; half of them are made nevertheless.
    pub commit: u32,
    /// Scans that block after a few rows.
    pub block: u32,
    /// Scans that fail after a few rows.
    pub scan: u32,
}

#[derive(Debug, Default)]
struct State {
    commits: VecDeque<Option<CommitFault>>,
    scans: VecDeque<ScanFault>,
    chances: Chances,
    seed: u64,
    poisoned: bool,
    counts: Counts,
}

impl<L: Log> Log for Faulty<L> {
    fn commit(&self, batch: Batch, sync: Sync) -> Result<(), Error> {
        let fault = {
            let mut state = self.state.lock();
            if state.poisoned {
                state.counts.refused += 1;
                return Err(Error::Poisoned("a fault that a test asked for".to_owned()));
            }
            let fault = state.next_commit();
            state.poisoned = fault.is_some();
            state.counts.failed += u64::from(fault.is_some());
            state.counts.committed += u64::from(fault != Some(CommitFault::Before));
            fault
        };
        if fault != Some(CommitFault::Before) {
            self.inner.commit(batch, sync)?;
        }
        fault.map_or(Ok(()), |_| Err(asked_for("writing")))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.state.lock().counts.gets += 1;
        self.inner.get(table, key)
    }

    fn scan(&self, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        let fault = self.state.lock().next_scan();
        let scanned = match fault {
            ScanFault::Pass => self.inner.scan(span, patience, &mut |key, value| {
                self.state.lock().counts.rows += 1;
                visit(key, value)
            }),
            ScanFault::BlockAfter(rows) => self.first(rows, span, patience, visit, Ok(Scanned::WouldBlock)),
            ScanFault::FailAfter(rows) => self.first(rows, span, patience, visit, Err(asked_for("reading"))),
            ScanFault::Hold(gate) => self.held(&gate, span, patience, visit),
        };
        let mut state = self.state.lock();
        state.counts.blocked += u64::from(matches!(scanned, Ok(Scanned::WouldBlock)));
        state.counts.failed_scans += u64::from(scanned.is_err());
        scanned
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
}

// === impl Faulty ===

impl<L: Log> Faulty<L> {
    /// A log that does what `inner` does until it is told otherwise.
    pub fn new(inner: L) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// What happens to the next commits, one after the other: `None` is no fault. After a fault the log is poisoned.
    pub fn commits(&self, script: impl IntoIterator<Item = Option<CommitFault>>) {
        self.state.lock().commits.extend(script);
    }

    /// What happens to the next scans, one after the other.
    pub fn scans(&self, script: impl IntoIterator<Item = ScanFault>) {
        self.state.lock().scans.extend(script);
    }

    /// Holds the next scan that no script speaks of yet.
    pub fn hold(&self) -> Gate {
        let gate = Gate::default();
        self.scans([ScanFault::Hold(gate.clone())]);
        gate
    }

    /// From now on faults come by chance where no script says otherwise; the same seed brings the same faults.
    pub fn chances(&self, seed: u64, chances: Chances) {
        let mut state = self.state.lock();
        state.seed = seed;
        state.chances = chances;
    }

    /// A new start: what was poisoned is not any more, and no script is left.
    pub fn reopen(&self) {
        let mut state = self.state.lock();
        *state = State { counts: state.counts, chances: state.chances, seed: state.seed, ..State::default() };
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// The log inside.
    pub fn inner(&self) -> &L {
        &self.inner
    }

    /// Visits some rows, then ends as told, unless the span or the visitor ended it before.
    fn first(
        &self,
        rows: usize,
        span: &Span,
        patience: Patience,
        visit: Visit<'_>,
        end: Result<Scanned, Error>,
    ) -> Result<Scanned, Error> {
        if rows == 0 {
            return end;
        }
        let (mut left, mut stopped) = (rows, false);
        let scanned = self.inner.scan(span, patience, &mut |key, value| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            self.state.lock().counts.rows += 1;
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        if scanned == Scanned::Stopped && !stopped { end } else { Ok(scanned) }
    }

    /// Reads everything, waits, and only then shows it.
    fn held(&self, gate: &Gate, span: &Span, patience: Patience, visit: Visit<'_>) -> Result<Scanned, Error> {
        let mut rows = Vec::new();
        let scanned = self.inner.scan(span, patience, &mut |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        });
        gate.pass();
        for (key, value) in rows {
            self.state.lock().counts.rows += 1;
            if visit(&key, &value).is_break() {
                return Ok(Scanned::Stopped);
            }
        }
        scanned
    }
}

impl State {
    fn next_commit(&mut self) -> Option<CommitFault> {
        if let Some(fault) = self.commits.pop_front() {
            return fault;
        }
        let chance = self.chances.commit;
        self.happens(chance)
            .then(|| if self.draw().is_multiple_of(2) { CommitFault::Before } else { CommitFault::After })
    }

    fn next_scan(&mut self) -> ScanFault {
        self.counts.scans += 1;
        if let Some(fault) = self.scans.pop_front() {
            return fault;
        }
        let Chances { block, scan, .. } = self.chances;
        if self.happens(block) {
            ScanFault::BlockAfter(self.few())
        } else if self.happens(scan) {
            ScanFault::FailAfter(self.few())
        } else {
            ScanFault::Pass
        }
    }

    fn happens(&mut self, of_a_thousand: u32) -> bool {
        of_a_thousand > 0 && self.draw() % 1_000 < u64::from(of_a_thousand)
    }

    fn few(&mut self) -> usize {
        (self.draw() % 8) as usize
    }

    /// The next of a sequence that the seed decides (splitmix64).
    fn draw(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

// === impl Gate ===

impl Gate {
    /// Waits until the scan has its snapshot: what is committed from now on it does not see.
    pub fn wait_until_frozen(&self) {
        let (passage, changed) = &*self.inner;
        changed.wait_while(&mut passage.lock(), |passage| !passage.frozen);
    }

    /// Whether a scan has its snapshot.
    pub fn is_frozen(&self) -> bool {
        self.inner.0.lock().frozen
    }

    /// Lets the scan go on.
    pub fn open(&self) {
        let (passage, changed) = &*self.inner;
        passage.lock().open = true;
        changed.notify_all();
    }

    fn pass(&self) {
        let (passage, changed) = &*self.inner;
        let mut passage = passage.lock();
        passage.frozen = true;
        changed.notify_all();
        changed.wait_while(&mut passage, |passage| !passage.open);
    }
}

fn asked_for(what: &str) -> Error {
    Error::Io { what: what.to_owned(), source: std::io::Error::other("a fault that a test asked for") }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    fn log() -> Faulty<Memory> {
        let log = Faulty::new(Memory::new());
        for key in ["a", "b", "c"] {
            commit(&log, key).unwrap();
        }
        log
    }

    fn commit(log: &Faulty<Memory>, key: &'static str) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.put(Table::Inbox, key, "value");
        log.commit(batch, Sync::Disk)
    }

    fn scan(log: &Faulty<Memory>) -> (String, Result<Scanned, String>) {
        let span = Span { table: Table::Inbox, from: Bytes::new(), to: Bytes::new() };
        let mut seen = String::new();
        let scanned = log.scan(&span, Patience::Wait, &mut |key, _| {
            seen.push_str(std::str::from_utf8(key).unwrap());
            ControlFlow::Continue(())
        });
        (seen, scanned.map_err(|e| e.to_string()))
    }

    #[test]
    fn a_failed_commit_is_there_or_not_as_the_script_says_and_poisons_either_way() {
        for (fault, there) in [(CommitFault::Before, "abc"), (CommitFault::After, "abcd")] {
            let log = log();
            log.commits([Some(fault)]);
            assert!(matches!(commit(&log, "d"), Err(Error::Io { .. })));
            assert!(matches!(commit(&log, "e"), Err(Error::Poisoned(_))));
            log.reopen();
            assert_eq!(scan(&log), (there.to_owned(), Ok(Scanned::End)), "{fault:?}");
            commit(&log, "f").unwrap();
            let counts = log.counts();
            assert_eq!((counts.failed, counts.refused), (1, 1));
            assert_eq!(counts.committed, 4 + u64::from(fault == CommitFault::After));
        }
    }

    #[test]
    fn scans_block_and_fail_where_the_script_says() {
        let log = log();
        let failed = || Err("reading: a fault that a test asked for".to_owned());
        log.scans([
            ScanFault::BlockAfter(0),
            ScanFault::BlockAfter(2),
            ScanFault::BlockAfter(3),
            ScanFault::FailAfter(1),
            ScanFault::Pass,
        ]);
        let wanted = [
            ("", Ok(Scanned::WouldBlock)),
            ("ab", Ok(Scanned::WouldBlock)),
            ("abc", Ok(Scanned::End)),
            ("a", failed()),
            ("abc", Ok(Scanned::End)),
            ("abc", Ok(Scanned::End)),
        ];
        for (seen, scanned) in wanted {
            assert_eq!(scan(&log), (seen.to_owned(), scanned));
        }
        let counts = log.counts();
        assert_eq!((counts.scans, counts.rows, counts.blocked, counts.failed_scans), (6, 12, 2, 1));
    }

    #[test]
    fn a_held_scan_shows_what_there_was_when_it_froze() {
        let log = log();
        let gate = log.hold();
        std::thread::scope(|scope| {
            let held = scope.spawn(|| scan(&log));
            gate.wait_until_frozen();
            commit(&log, "d").unwrap();
            assert_eq!(scan(&log).0, "abcd", "other scans are not held");
            gate.open();
            assert_eq!(held.join().unwrap(), ("abc".to_owned(), Ok(Scanned::End)));
        });
    }

    #[test]
    fn the_same_seed_brings_the_same_faults() {
        let run = |seed| {
            let log = log();
            log.chances(seed, Chances { commit: 100, block: 200, scan: 200 });
            let mut told = Vec::new();
            for _ in 0..100 {
                told.push((scan(&log), commit(&log, "d").is_ok()));
                log.reopen();
            }
            (told, log.counts())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).0, run(2).0);
        let counts = run(1).1;
        assert!(counts.failed > 0 && counts.blocked > 0 && counts.failed_scans > 0, "{counts:?}");
    }
}
