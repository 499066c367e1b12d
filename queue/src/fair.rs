//! Turns among siblings, by weight and by what they have cost: start-time fair queueing.
//!
//! Each member has a *tag*: the virtual time at which its turn comes. The least tag goes first, and is then pushed back by
//! its cost over its weight. Virtual time is the tag of whoever went last, and never goes back.
//!
//! - F1: over any time in which two members both wait for a turn, what they were served differs, each divided by its
//!   weight, by at most one largest entry of each: `|Sa/wa - Sb/wb| <= a/wa + b/wb`. What is only found out at the end is
//!   served when it is found out: then `a` is a's largest entry and all that was found out at once.
//! - F2: a member that comes back from absence begins at the present: absence earns nothing. What it owed it still owes.
//! - F3: one that was held back by a limit keeps its tag, but is never more than [`Fair::CREDIT`] behind: otherwise it could
//!   shut out all others once its limit falls. The bound of F1 is then wider by that much.
//!
//! Tags have room for 3.6e15 tokens at weight 1: a million tokens a second for a hundred years without a restart.

use std::collections::BTreeSet;
use std::collections::btree_set::Iter;
use std::iter::Peekable;

/// Turns among siblings, each named by a number.
#[derive(Debug, Default)]
pub(crate) struct Fair {
    ready: BTreeSet<(u64, u32)>,
    /// Those for whom places are kept free: they may go even if nobody else may.
    kept: BTreeSet<(u64, u32)>,
    now: u64,
}

/// A member, and whether places are kept free for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) id: u32,
    pub(crate) kept: bool,
}

/// Tags and members, in the order of their turns.
pub(crate) struct InTurn<'a> {
    common: Peekable<Iter<'a, (u64, u32)>>,
    kept: Peekable<Iter<'a, (u64, u32)>>,
}

/// Virtual time that one token costs at weight 1: weights up to ten divide it, others err by less than a five-thousandth of
/// a token an entry.
const SCALE: u64 = 5_040;

impl Iterator for InTurn<'_> {
    type Item = (u64, u32);

    fn next(&mut self) -> Option<(u64, u32)> {
        match (self.common.peek(), self.kept.peek()) {
            (Some(one), Some(other)) if other < one => self.kept.next(),
            (Some(_), _) => self.common.next(),
            (None, _) => self.kept.next(),
        }
        .copied()
    }
}

impl From<u32> for Member {
    fn from(id: u32) -> Self {
        Self { id, kept: false }
    }
}

impl Fair {
    /// What a member that was held back may have in hand when it comes back, in tokens at weight 1.
    pub(crate) const CREDIT: u64 = 1 << 16;

    /// A member comes back from absence (F2); it has no turns yet.
    pub(crate) fn arrive(&self, tag: &mut u64) {
        *tag = (*tag).max(self.now);
    }

    /// A member has turns from now on (F3).
    pub(crate) fn join(&mut self, member: Member, tag: &mut u64) {
        *tag = self.joined(*tag);
        self.set(member.kept).insert((*tag, member.id));
    }

    /// A member has nothing to run, or may not.
    pub(crate) fn leave(&mut self, member: Member, tag: u64) {
        self.set(member.kept).remove(&(tag, member.id));
    }

    /// Whose turn it is.
    pub(crate) fn first(&self) -> Option<u32> {
        let (common, kept) = (self.ready.first(), self.kept.first());
        match (common, kept) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
        .map(|(_, member)| *member)
    }

    /// Whose turn it is among those for whom places are kept free.
    pub(crate) fn first_kept(&self) -> Option<u32> {
        self.kept.first().map(|(_, member)| *member)
    }

    /// Everybody who waits for a turn, with their tags, in the order in which their turns come.
    pub(crate) fn in_turn(&self) -> InTurn<'_> {
        InTurn { common: self.ready.iter().peekable(), kept: self.kept.iter().peekable() }
    }

    /// The tag that a member has turns with from now on (F3).
    pub(crate) fn joined(&self, tag: u64) -> u64 {
        tag.max(self.now.saturating_sub(Self::CREDIT * SCALE))
    }

    /// A member was served; `ready`: whether it is among those who wait for a turn.
    pub(crate) fn charge(&mut self, member: Member, tag: &mut u64, tokens: u32, weight: u32, ready: bool) {
        self.now = self.now.max(*tag);
        self.shift(member, tag, ready, |tag| charged(tag, tokens, weight));
    }

    /// It cost so many tokens more, or less, than it was charged.
    pub(crate) fn settle(&mut self, member: Member, tag: &mut u64, more: i64, weight: u32, ready: bool) {
        if more == 0 {
            return;
        }
        let by = more.unsigned_abs().saturating_mul(SCALE) / u64::from(weight.max(1));
        let now = self.now;
        self.shift(member, tag, ready, |tag| {
            if more > 0 {
                return tag.saturating_add(by);
            }
            tag.saturating_sub(by).max(now.min(tag).saturating_sub(Self::CREDIT * SCALE))
        });
    }

    /// How far ahead of its turn a member is, in tokens at its weight: what it owes the others.
    pub(crate) fn owed(&self, tag: u64, weight: u32) -> u64 {
        tokens(tag.saturating_sub(self.now), weight)
    }

    /// The tag of a member that owes so much.
    pub(crate) fn tag_of_debt(&self, owed: u64, weight: u32) -> u64 {
        self.now.saturating_add(virtual_time(owed, weight))
    }

    /// Virtual time.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.kept.is_empty()
    }

    pub(crate) fn has(&self, member: Member, tag: u64) -> bool {
        let set = if member.kept { &self.kept } else { &self.ready };
        set.contains(&(tag, member.id))
    }

    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.kept.len()
    }

    fn set(&mut self, kept: bool) -> &mut BTreeSet<(u64, u32)> {
        if kept { &mut self.kept } else { &mut self.ready }
    }

    fn shift(&mut self, member: Member, tag: &mut u64, ready: bool, to: impl FnOnce(u64) -> u64) {
        if ready {
            self.leave(member, *tag);
        }
        *tag = to(*tag);
        if ready {
            self.set(member.kept).insert((*tag, member.id));
        }
    }
}

/// The tag of a member once it was served.
pub(crate) fn charged(tag: u64, tokens: u32, weight: u32) -> u64 {
    // Whoever pays nothing would go first for ever.
    tag.saturating_add((u64::from(tokens.max(1)) * SCALE / u64::from(weight.max(1))).max(1))
}

/// Tokens that so much virtual time is, at a weight.
pub(crate) fn tokens(time: u64, weight: u32) -> u64 {
    (time / SCALE).saturating_mul(u64::from(weight.max(1)))
}

/// Virtual time that so many tokens are, at a weight.
pub(crate) fn virtual_time(tokens: u64, weight: u32) -> u64 {
    tokens.saturating_mul(SCALE) / u64::from(weight.max(1))
}
