//! What the scheduler knows of one lane: its first entries, how far that knowledge reaches, and a refill under way.
//!
//! It reads no disk. It is told what was committed, in that order, and merges what a refill found with what was told
//! meanwhile. Everything rests on one number, the *edge*:
//!
//! - N1: every entry that is ready in the log and sorts below the edge is in `items` or is `leaving`; and nothing else is
//!   in `items`. At [`Edge::End`] that is all there is.
//! - N2: `items` are sorted, each key once, at most [`CAPACITY`] of them.
//! - N3: a refill reads from the edge on. If the edge moves below where it began, what it brings would leave a hole: it is
//!   cancelled. It never moves above, since only a refill can prove that.
//! - N4: while a refill is under way, everything told at or above the edge and below the *horizon* is in the overlay; what
//!   lies at or above the horizon is not believed, neither from the overlay nor from the refill. The horizon only shrinks.
//! - N5: a batch that is full proves nothing beyond its last row, whatever the overlay holds.
//!
//! A lane is empty only if its edge is the end and nothing is in it. What is not known is never taken for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use crate::entry::Item;
use crate::name::Key;

/// A lane of which nothing is known yet.
pub(crate) static UNKNOWN: Inbox = Inbox::with_edge(Edge::At(Key::MIN));

/// Entries that are kept of a lane: 24 items of 64 bytes are 1.5 KiB, and one batch of reading fills a run of them.
pub const CAPACITY: usize = 24;
/// With fewer than this the lane asks for more.
pub const LOW: usize = CAPACITY / 3;

/// What is known of one lane.
#[derive(Debug)]
pub struct Inbox {
    /// Most lanes have one or two.
    items: SmallVec<[Item; 2]>,
    /// Taken by a decision that the log has not confirmed; few, and soon gone.
    leaving: SmallVec<[Key; 1]>,
    edge: Edge,
    refill: Option<Box<Refill>>,
    /// How often an entry that was crowded out had been overtaken: whatever is read again counts from here.
    overtaken: u8,
}

/// How far knowledge reaches: everything below is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Keys below this one.
    At(Key),
    /// All there is.
    End,
}

/// A refill under way.
#[derive(Debug)]
struct Refill {
    ticket: Ticket,
    /// What was told since it began, sorted by key; the last word on each.
    overlay: Vec<(Key, Told)>,
    horizon: Edge,
}

/// The last word on a key.
#[derive(Debug)]
enum Told {
    Added(Item),
    Removed,
}

/// Names a refill and tells it when nobody wants it any more.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Where to read from.
    pub from: Key,
    cancelled: Arc<AtomicBool>,
}

/// What a refill found: rows in order from [`Ticket::from`] on.
#[derive(Debug, Default)]
pub struct Found {
    /// The rows.
    pub items: Vec<Item>,
    /// Whether there may be more behind them.
    pub full: bool,
}

/// The same entry was added twice: what was told is not what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry was added twice without having left: {0:?}")]
pub struct Twice(pub Key);

/// Where an entry stood when it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Among the items.
    Cached,
    /// A decision had taken it that was not confirmed.
    Leaving,
    /// Beyond what is known.
    Unknown,
}

// === What is told ===

impl Inbox {
    /// A lane of which nothing is known yet.
    pub fn unknown() -> Self {
        Self::with_edge(Edge::At(Key::MIN))
    }

    /// A lane that is known to be empty.
    pub fn empty() -> Self {
        Self::with_edge(Edge::End)
    }

    const fn with_edge(edge: Edge) -> Self {
        Self {
            items: SmallVec::new_const(),
            leaving: SmallVec::new_const(),
            edge,
            refill: None,
            overtaken: 0,
        }
    }

    /// An entry became ready.
    ///
    /// # Errors
    /// It is here already.
    pub fn added(&mut self, item: Item) -> Result<(), Twice> {
        let key = item.key;
        if self.leaving.contains(&key) {
            return Err(Twice(key));
        }
        if self.edge <= Edge::At(key) {
            // Whoever reads from the edge on will find it; a reader under way may have passed.
            return self.refill.as_mut().map_or(Ok(()), |refill| refill.added(item));
        }
        let Err(at) = self.items.binary_search_by_key(&key, |item| item.key) else { return Err(Twice(key)) };
        if at == CAPACITY {
            self.shrink(key);
        } else {
            self.items.insert(at, item);
            self.crowd_out();
        }
        debug_assert_eq!(self.check(), Ok(()));
        Ok(())
    }

    /// An entry is no longer ready: it runs, or was taken out, or its decision was confirmed.
    pub fn removed(&mut self, key: Key) -> Left {
        let left = if let Some(at) = self.leaving.iter().position(|leaving| *leaving == key) {
            self.leaving.swap_remove(at);
            Left::Leaving
        } else if let Ok(at) = self.items.binary_search_by_key(&key, |item| item.key) {
            self.items.remove(at);
            Left::Cached
        } else {
            Left::Unknown
        };
        // A reader under way may bring the row; below the edge it reads nothing.
        if self.edge <= Edge::At(key)
            && let Some(refill) = &mut self.refill
        {
            refill.tell(key, Told::Removed);
        }
        debug_assert_eq!(self.check(), Ok(()));
        left
    }

    /// Takes out the entry at this place, for a decision that is yet to be confirmed by [`Self::removed`]. Those before
    /// it have been overtaken.
    pub fn take(&mut self, at: usize) -> Option<Item> {
        if at >= self.items.len() {
            return None;
        }
        let item = self.items.remove(at);
        for passed in self.items.iter_mut().take(at) {
            passed.overtaken = passed.overtaken.saturating_add(1);
        }
        self.leaving.push(item.key);
        debug_assert_eq!(self.check(), Ok(()));
        Some(item)
    }

    /// A decision came to nothing, and its entry is as ready as before.
    pub fn put_back(&mut self, item: Item) {
        let Some(at) = self.leaving.iter().position(|leaving| *leaving == item.key) else { return };
        self.leaving.swap_remove(at);
        // Above the edge the log has it, and nobody may have passed it: rows of `leaving` are dropped only at the merge.
        if Edge::At(item.key) < self.edge {
            if let Err(at) = self.items.binary_search_by_key(&item.key, |other| other.key) {
                self.items.insert(at, item);
            }
            self.crowd_out();
        }
        debug_assert_eq!(self.check(), Ok(()));
    }

    /// Forgets what can be read again.
    pub fn forget(&mut self) {
        if let Some(first) = self.items.first() {
            let first = first.key;
            self.overtaken = self.items.iter().map(|item| item.overtaken).fold(self.overtaken, u8::max);
            self.items = SmallVec::new_const();
            self.shrink(first);
        }
    }

    /// Forgets all but the first: it can be read again.
    pub fn thin(&mut self) {
        let Some(second) = self.items.get(1).map(|item| item.key) else { return };
        self.overtaken = self.items.iter().skip(1).map(|item| item.overtaken).fold(self.overtaken, u8::max);
        // What they lay in is given back as well.
        self.items = std::mem::take(&mut self.items).into_iter().take(1).collect();
        self.shrink(second);
    }

    /// Nothing is known any more but what is leaving.
    #[must_use]
    pub fn doubted(mut self) -> Self {
        self.cancel();
        Self { leaving: self.leaving, ..Self::unknown() }
    }

    fn crowd_out(&mut self) {
        while self.items.len() > CAPACITY {
            if let Some(last) = self.items.pop() {
                self.overtaken = self.overtaken.max(last.overtaken);
                self.shrink(last.key);
            }
        }
    }

    /// Knowledge reaches less far: `key` is beyond it from now on.
    fn shrink(&mut self, key: Key) {
        self.edge = self.edge.min(Edge::At(key));
        // N3. Whatever was in the overlay is in the log as well, and the next reader finds it.
        self.cancel();
    }
}

// === Refills ===

impl Inbox {
    /// Begins a refill, unless one is under way or there is nothing to find.
    pub fn begin(&mut self) -> Option<Ticket> {
        let Edge::At(from) = self.edge else { return None };
        if self.refill.is_some() || self.items.len() >= CAPACITY {
            return None;
        }
        let ticket = Ticket { from, cancelled: Arc::default() };
        self.refill =
            Some(Box::new(Refill { ticket: ticket.clone(), overlay: Vec::new(), horizon: Edge::End }));
        Some(ticket)
    }

    /// Takes in what a refill found. Whether it was still wanted.
    pub fn finish(&mut self, ticket: &Ticket, found: Found) -> bool {
        let Some(refill) = self.refill.take_if(|refill| refill.ticket.is(ticket)) else { return false };
        let last = found.items.last().map(|item| item.key.next());
        // N5, then N4.
        let proved = match last {
            Some(beyond) if found.full => Edge::At(beyond),
            None if found.full => Edge::At(ticket.from),
            _ => Edge::End,
        };
        let proved = proved.min(refill.horizon);
        let mut overlay = refill.overlay.into_iter().peekable();
        let mut rows = found.items.into_iter().peekable();
        self.edge = proved;
        loop {
            let row = rows.peek().map(|item| item.key);
            let told = overlay.peek().map(|(key, _)| *key);
            let item = match (row, told) {
                (None, None) => break,
                (Some(row), told) if told.is_none_or(|told| row < told) => rows.next(),
                (row, told) => {
                    // The overlay has the last word on a row that both know.
                    if row == told {
                        rows.next();
                    }
                    match overlay.next() {
                        Some((_, Told::Added(item))) => Some(item),
                        _ => None,
                    }
                }
            };
            let Some(mut item) = item else { continue };
            if proved <= Edge::At(item.key) {
                break;
            }
            if self.leaving.contains(&item.key) {
                continue;
            }
            if self.items.len() == CAPACITY {
                self.edge = Edge::At(item.key);
                break;
            }
            debug_assert!(
                self.items.last().is_none_or(|last| last.key < item.key),
                "what is merged is appended"
            );
            item.overtaken = item.overtaken.max(self.overtaken);
            self.items.push(item);
        }
        if self.edge == Edge::End {
            self.overtaken = 0;
        }
        debug_assert_eq!(self.check(), Ok(()));
        true
    }

    /// A refill failed: the edge stays, and the next one begins there again.
    pub fn fail(&mut self, ticket: &Ticket) -> bool {
        self.refill.take_if(|refill| refill.ticket.is(ticket)).is_some()
    }

    /// Nobody waits for the refill any more.
    pub fn cancel(&mut self) {
        if let Some(refill) = self.refill.take() {
            refill.ticket.cancelled.store(true, Ordering::Release);
        }
    }
}

impl Refill {
    fn added(&mut self, item: Item) -> Result<(), Twice> {
        let known = self.overlay.binary_search_by_key(&item.key, |(key, _)| *key);
        if let Ok(at) = known
            && matches!(self.overlay[at].1, Told::Added(_))
        {
            return Err(Twice(item.key));
        }
        self.tell(item.key, Told::Added(item));
        Ok(())
    }

    fn tell(&mut self, key: Key, told: Told) {
        if self.horizon <= Edge::At(key) {
            return;
        }
        match self.overlay.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => self.overlay[at].1 = told,
            Err(at) => self.overlay.insert(at, (key, told)),
        }
        // N4: nothing is thrown away, since a row that was removed would come back; it is no longer believed instead.
        if self.overlay.len() > CAPACITY
            && let Some((last, _)) = self.overlay.pop()
        {
            self.horizon = Edge::At(last);
        }
    }
}

impl Ticket {
    /// Whether nobody wants what this refill finds.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cancelled, &other.cancelled)
    }
}

// === Questions ===

impl Inbox {
    /// What is known to be ready, in order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// How far knowledge reaches.
    pub fn edge(&self) -> Edge {
        self.edge
    }

    /// Whether nothing is known to be there, whatever there may be.
    pub fn is_bare(&self) -> bool {
        self.items.is_empty() && self.leaving.is_empty()
    }

    /// Whether nothing is known that could run, but there may be something.
    pub fn is_hungry(&self) -> bool {
        self.items.is_empty() && self.edge != Edge::End
    }

    /// Whether more should be read soon.
    pub fn is_low(&self) -> bool {
        self.items.len() < LOW && self.edge != Edge::End && self.refill.is_none()
    }

    /// Whether a refill is under way.
    pub fn is_filling(&self) -> bool {
        self.refill.is_some()
    }

    /// No entry of the log sorts below this: where a scan may begin. `None`: there is none at all.
    pub fn low_water(&self) -> Option<Key> {
        let first = self.items.first().map(|item| item.key);
        let leaving = self.leaving.iter().min().copied();
        let edge = match self.edge {
            Edge::At(key) => Some(key),
            Edge::End => None,
        };
        [first, leaving, edge].into_iter().flatten().min()
    }

    /// The invariants of the file header that can be seen from here.
    ///
    /// # Errors
    /// The name of the first that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let below = |key: Key| Edge::At(key) < self.edge;
        let sorted = self.items.iter().zip(self.items.iter().skip(1)).all(|(a, b)| a.key < b.key);
        ensure(self.items.iter().all(|item| below(item.key)), "N1")?;
        ensure(!self.items.iter().any(|item| self.leaving.contains(&item.key)), "N1")?;
        ensure(sorted && self.items.len() <= CAPACITY, "N2")?;
        let Some(refill) = &self.refill else { return Ok(()) };
        ensure(self.edge == Edge::At(refill.ticket.from), "N3")?;
        ensure(refill.overlay.len() <= CAPACITY, "N4")?;
        ensure(refill.overlay.iter().all(|(key, _)| Edge::At(*key) < refill.horizon && !below(*key)), "N4")
    }
}

fn ensure(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(name) }
}

#[cfg(test)]
mod tests;
