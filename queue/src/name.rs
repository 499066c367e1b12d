//! What things are called: queues, entries, priority classes, and the key that is an entry's order.

use std::fmt;
use std::str::FromStr;

/// A queue's name: who it belongs to, and what it is among theirs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName {
    /// Whose it is: fairness is among these.
    pub tenant: Box<str>,
    /// Which of theirs.
    pub key: Box<str>,
}

/// An entry's name, for ever: its partition and its sequence number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The log that holds it.
    pub partition: u32,
    /// Its number in that log. Entries that live in memory only have [`Seq::VOLATILE`] set.
    pub seq: Seq,
}

/// A number that is given once in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// A point in time: milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// How urgent an entry is; 0 is the most urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u8);

/// How many classes there are.
pub const CLASSES: usize = 4;

/// An entry's place in its lane, which is its queue in one class: first whose time came first, then who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The time from which it may run.
    pub at: Millis,
    /// Its number.
    pub seq: Seq,
}

/// A name of a queue or a tenant that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: found {found}; allowed are 1 to {most} bytes without control characters")]
pub struct BadName {
    what: &'static str,
    found: String,
    most: usize,
}

/// The longest name of a tenant or a queue.
pub const MAX_NAME: usize = 255;

// === impls ===

impl QueueName {
    /// The queue of this name.
    ///
    /// # Errors
    /// A part that is empty, too long, or has control characters.
    pub fn new(tenant: &str, key: &str) -> Result<Self, BadName> {
        for (what, part) in [("tenant", tenant), ("queue", key)] {
            let sane = (1..=MAX_NAME).contains(&part.len()) && !part.chars().any(char::is_control);
            if !sane {
                let shown: String = part.chars().take(40).collect();
                return Err(BadName {
                    what,
                    found: format!("{shown:?} ({} bytes)", part.len()),
                    most: MAX_NAME,
                });
            }
        }
        Ok(Self { tenant: tenant.into(), key: key.into() })
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.key)
    }
}

impl Seq {
    /// Set in the numbers of entries that live in memory only.
    pub const VOLATILE: u64 = 1 << 63;

    /// Whether the entry lives in memory only.
    pub const fn is_volatile(self) -> bool {
        self.0 & Self::VOLATILE != 0
    }
}

impl Millis {
    /// So many milliseconds later.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds since then; 0 if that is later.
    pub const fn since(self, then: Self) -> u64 {
        self.0.saturating_sub(then.0)
    }
}

impl Class {
    /// The most urgent.
    pub const FIRST: Self = Self(0);
    /// The least urgent.
    pub const LAST: Self = Self(CLASSES as u8 - 1);

    /// The class of this number, if there is one.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < CLASSES { Some(Self(number)) } else { None }
    }

    /// Every class, the most urgent first.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..CLASSES as u8).map(Self)
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

impl Key {
    /// Before all others.
    pub const MIN: Self = Self { at: Millis(0), seq: Seq(0) };

    /// The least key that is greater.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.seq.0.checked_add(1) {
            Some(seq) => Self { at: self.at, seq: Seq(seq) },
            None => Self { at: Millis(self.at.0.saturating_add(1)), seq: Seq(0) },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.partition, self.seq.0)
    }
}

impl FromStr for EntryId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("found {text:?}; an entry's id looks like 3-1f4 (partition and number, hexadecimal)");
        let (partition, seq) = text.split_once('-').ok_or_else(wrong)?;
        let partition = u32::from_str_radix(partition, 16).map_err(|_| wrong())?;
        let seq = u64::from_str_radix(seq, 16).map_err(|_| wrong())?;
        Ok(Self { partition, seq: Seq(seq) })
    }
}
