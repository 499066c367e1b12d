//! What may be used at a time and in a time, at one place of the tree.

use crate::entry::Cost;
use crate::name::Millis;

/// What may be used; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Entries that run at a time.
    pub running: Option<u32>,
    /// Tokens of the entries that run. One entry that is larger runs alone.
    pub tokens: Option<u64>,
    /// Blocks of KV cache of the entries that run. One entry that is larger runs alone.
    pub blocks: Option<u64>,
    /// Starts in a second.
    pub starts: Option<Rate>,
    /// Tokens in a second: charged at the start by what is expected, settled at the end by what was used.
    pub work: Option<Rate>,
    /// So many places of the fleet's limit on what runs are kept free for it.
    pub guaranteed: u32,
}

/// So much in a second, and so much at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// In a second.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

/// Limits and what is used of them.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    limits: Limits,
    running: u32,
    tokens: u64,
    blocks: u64,
    starts: Bucket,
    work: Bucket,
    /// Places that are kept free for those who have fewer than they are guaranteed.
    pub(crate) reserved: u32,
    /// More was used than is allowed when the limits were set; it ends by itself.
    over: bool,
}

/// What is left of a rate, in thousandths: then whole rates and milliseconds are exact. Filled when it is looked at.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Millis,
}

/// Whether there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Free,
    /// Something must end first.
    AfterRelease(Narrow),
    /// At that time, if nobody is faster.
    At(Millis, Narrow),
}

/// Which limit is the narrow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// Entries at a time.
    Running,
    /// Tokens at a time.
    Tokens,
    /// Blocks at a time.
    Blocks,
    /// Starts in a second.
    Starts,
    /// Tokens in a second.
    Work,
}

// === impls ===

impl Limits {
    /// Whether it says anything at all.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Rate {
    /// So much in a minute, of which up to a tenth at once (but at least one).
    pub fn per_minute(much: u64) -> Self {
        Self { per_second: much as f64 / 60.0, burst: (much as f64 / 10.0).max(1.0) }
    }
}

impl Narrow {
    /// In words, for `explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "entries at a time",
            Self::Tokens => "tokens at a time",
            Self::Blocks => "KV blocks at a time",
            Self::Starts => "starts in a second",
            Self::Work => "tokens in a second",
        }
    }
}

impl Pool {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn set(&mut self, limits: Limits) {
        self.limits = limits;
        self.over = self.exceeds();
    }

    /// Whether an entry of this cost may start; `kept`: one of the places that are kept free is its own.
    pub(crate) fn room(&self, cost: Cost, kept: bool, now: Millis) -> Room {
        let Limits { tokens, blocks, starts, work, .. } = &self.limits;
        if self.is_full(kept) {
            return Room::AfterRelease(Narrow::Running);
        }
        let alone = self.running == 0;
        let over = |used: u64, more: u32, most: u64| !alone && used + u64::from(more) > most;
        if tokens.is_some_and(|most| over(self.tokens, cost.tokens, most)) {
            return Room::AfterRelease(Narrow::Tokens);
        }
        if blocks.is_some_and(|most| over(self.blocks, cost.blocks, most)) {
            return Room::AfterRelease(Narrow::Blocks);
        }
        // Work is open as long as anything is left: a large entry leaves a debt that is waited for afterwards.
        let closed = |bucket: &Bucket, rate: &Rate, least: f64| {
            let left = bucket.filled(rate, now);
            (left < least).then(|| now.plus(((least - left) / rate.per_second).ceil().max(1.0) as u64))
        };
        if let Some(at) = starts.as_ref().and_then(|rate| closed(&self.starts, rate, 1e3)) {
            return Room::At(at, Narrow::Starts);
        }
        if let Some(at) = work.as_ref().and_then(|rate| closed(&self.work, rate, 1.0)) {
            return Room::At(at, Narrow::Work);
        }
        Room::Free
    }

    /// Whether no place is left; `kept`: for whom one is kept free. If more is promised than there is, they share it.
    pub(crate) fn is_full(&self, kept: bool) -> bool {
        let reserved = if kept { 0 } else { self.reserved };
        self.limits.running.is_some_and(|most| self.running.saturating_add(reserved) >= most)
    }

    /// An entry starts.
    pub(crate) fn take(&mut self, cost: Cost, now: Millis) {
        self.running += 1;
        self.tokens += u64::from(cost.tokens);
        self.blocks += u64::from(cost.blocks);
        if let Some(rate) = self.limits.starts {
            self.starts.draw(&rate, 1.0, now);
        }
        self.draw(i64::from(cost.tokens), now);
    }

    /// An entry is over, or did not start after all.
    pub(crate) fn release(&mut self, cost: Cost) {
        self.running = self.running.saturating_sub(1);
        self.tokens = self.tokens.saturating_sub(u64::from(cost.tokens));
        self.blocks = self.blocks.saturating_sub(u64::from(cost.blocks));
        self.over = self.over && self.exceeds();
    }

    /// It was more work than was thought, or less.
    pub(crate) fn draw(&mut self, more: i64, now: Millis) {
        if let Some(rate) = self.limits.work {
            self.work.draw(&rate, more as f64, now);
        }
    }

    pub(crate) fn running(&self) -> u32 {
        self.running
    }

    /// Whether more was started than is allowed.
    pub(crate) fn is_over(&self) -> bool {
        !self.over && self.exceeds()
    }

    /// Whether more is used than is allowed; one entry alone may be larger than the limits on size.
    fn exceeds(&self) -> bool {
        let Limits { running, tokens, blocks, .. } = &self.limits;
        running.is_some_and(|most| self.running > most)
            || self.running > 1
                && (tokens.is_some_and(|most| self.tokens > most)
                    || blocks.is_some_and(|most| self.blocks > most))
    }
}

impl Default for Bucket {
    /// Full, since never used.
    fn default() -> Self {
        Self { left: f64::INFINITY, at: Millis(0) }
    }
}

impl Bucket {
    fn filled(&self, rate: &Rate, now: Millis) -> f64 {
        (self.left + now.since(self.at) as f64 * rate.per_second).min(rate.burst.max(1.0) * 1e3)
    }

    fn draw(&mut self, rate: &Rate, much: f64, now: Millis) {
        *self = Self { left: self.filled(rate, now) - much * 1e3, at: now.max(self.at) };
    }
}
