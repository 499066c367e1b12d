//! What is counted. Names come from tables, never from clients, so their number is bounded.

use std::sync::atomic::{AtomicU64, Ordering};

use super::command::{COUNT, TABLE};
use super::refusal::Code;

/// What one connection has counted since it last told.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Commands by their place in the table; the last one counts names that are in no table.
    pub commands: [u32; COUNT + 1],
    /// Refusals by code.
    pub refusals: [u32; Code::ALL.len()],
    /// Keys that were read and there.
    pub hits: u32,
    /// Keys that were read and not there.
    pub misses: u32,
    touched: bool,
}

/// What a server has counted.
#[derive(Debug)]
pub struct Counters {
    commands: [AtomicU64; COUNT + 1],
    refusals: [AtomicU64; Code::ALL.len()],
    hits: AtomicU64,
    misses: AtomicU64,
    /// Bytes that came.
    pub received: AtomicU64,
    /// Bytes that went.
    pub sent: AtomicU64,
    /// Connections that were let in.
    pub accepted: AtomicU64,
    /// Connections that were one too many.
    pub turned_away: AtomicU64,
    /// Connections that were closed because they did not speak the protocol.
    pub broken: AtomicU64,
    /// Connections that were closed in the middle of a command that did not go on.
    pub half_sent: AtomicU64,
    /// Connections that were closed because their answers were not taken.
    pub unread: AtomicU64,
    /// Connections that were closed because they did nothing.
    pub idle: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Connections there are.
    pub connections: usize,
    /// Connections that were let in.
    pub accepted: u64,
    /// Connections that were one too many.
    pub turned_away: u64,
    /// Closed: not the protocol.
    pub broken: u64,
    /// Closed: a command that did not go on.
    pub half_sent: u64,
    /// Closed: answers that were not taken.
    pub unread: u64,
    /// Closed: nothing was asked.
    pub idle: u64,
    /// Bytes that came.
    pub received: u64,
    /// Bytes that went.
    pub sent: u64,
    /// Bytes of values that are arriving.
    pub arriving: usize,
    /// Keys that were read and there.
    pub hits: u64,
    /// Keys that were read and not there.
    pub misses: u64,
    /// Commands by name, those of no name as `unknown`; without those that never came.
    pub commands: Vec<(&'static str, u64)>,
    /// Refusals by code word; without those that never were.
    pub refusals: Vec<(&'static str, u64)>,
}

// === impl Tally ===

impl Default for Tally {
    fn default() -> Self {
        Self { commands: [0; COUNT + 1], refusals: [0; Code::ALL.len()], hits: 0, misses: 0, touched: false }
    }
}

impl Tally {
    /// One command, by its place in the table.
    pub fn command(&mut self, index: Option<usize>) {
        self.commands[index.unwrap_or(COUNT)] += 1;
        self.touched = true;
    }

    /// One refusal.
    pub fn refusal(&mut self, code: Code) {
        let place = Code::ALL.iter().position(|other| *other == code).unwrap_or(0);
        self.refusals[place] += 1;
        self.touched = true;
    }

    /// One key that was read.
    pub fn read(&mut self, there: bool) {
        if there {
            self.hits += 1;
        } else {
            self.misses += 1;
        }
    }
}

// === impl Counters ===

impl Default for Counters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            commands: std::array::from_fn(|_| zero()),
            refusals: std::array::from_fn(|_| zero()),
            hits: zero(),
            misses: zero(),
            received: zero(),
            sent: zero(),
            accepted: zero(),
            turned_away: zero(),
            broken: zero(),
            half_sent: zero(),
            unread: zero(),
            idle: zero(),
        }
    }
}

impl Counters {
    /// One more.
    pub fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over what a connection has counted.
    pub fn add(&self, tally: &mut Tally) {
        if !std::mem::take(&mut tally.touched) {
            return;
        }
        let add = |to: &AtomicU64, from: &mut u32| {
            let count = std::mem::take(from);
            if count > 0 {
                to.fetch_add(count.into(), Ordering::Relaxed);
            }
        };
        self.commands.iter().zip(&mut tally.commands).for_each(|(to, from)| add(to, from));
        self.refusals.iter().zip(&mut tally.refusals).for_each(|(to, from)| add(to, from));
        add(&self.hits, &mut tally.hits);
        add(&self.misses, &mut tally.misses);
    }

    /// Commands of every name.
    pub fn commands(&self) -> u64 {
        self.commands.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// All of them, now.
    pub fn seen(&self, connections: usize, arriving: usize) -> Seen {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let names = TABLE.iter().map(|command| command.name).chain(["unknown"]);
        let words = Code::ALL.iter().map(|code| if *code == Code::Other { "other" } else { code.word() });
        let some = |(name, counter)| Some((name, get(counter))).filter(|(_, count)| *count > 0);
        Seen {
            connections,
            arriving,
            accepted: get(&self.accepted),
            turned_away: get(&self.turned_away),
            broken: get(&self.broken),
            half_sent: get(&self.half_sent),
            unread: get(&self.unread),
            idle: get(&self.idle),
            received: get(&self.received),
            sent: get(&self.sent),
            hits: get(&self.hits),
            misses: get(&self.misses),
            commands: names.zip(&self.commands).filter_map(some).collect(),
            refusals: words.zip(&self.refusals).filter_map(some).collect(),
        }
    }
}
