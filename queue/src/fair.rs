//! Turns among siblings, by weight and by what they have cost: start-time fair queueing.
//!
//! Each member has a *tag*: the virtual time at which its turn comes. The least tag goes first, and is then pushed back by
//! its cost over its weight. Virtual time is the tag of whoever went last. Over any time in which two members are both
//! ready, what they were served differs, each divided by its weight, by at most one largest entry of each:
//! `|Sa/wa - Sb/wb| <= a/wa + b/wb`. A member that comes back from emptiness begins at the present: absence earns nothing.
//! One that was held back by a limit keeps its tag, but is never more than [`Fair::CREDIT`] behind: otherwise it could
//! shut out all others once its limit falls.
//!
//! Turns cost a few comparisons in a B-tree. With a million members that is 20 comparisons, most of them in cached nodes;
//! the bench says what it comes to.

use std::collections::BTreeSet;

/// Turns among siblings, each named by a number.
#[derive(Debug, Default)]
pub(crate) struct Fair {
    ready: BTreeSet<(u64, u32)>,
    now: u64,
}

/// Virtual time that one token costs at weight 1. Weights up to this many are told apart.
const SCALE: u64 = 1 << 10;

impl Fair {
    /// What a member that was held back may have in hand when it comes back, in tokens at weight 1.
    pub(crate) const CREDIT: u64 = 1 << 16;

    /// A member has something to run; it had nothing before.
    pub(crate) fn join(&mut self, member: u32, tag: &mut u64) {
        *tag = (*tag).max(self.now);
        self.ready.insert((*tag, member));
    }

    /// A member that was held back may run again.
    pub(crate) fn rejoin(&mut self, member: u32, tag: &mut u64) {
        *tag = (*tag).max(self.now.saturating_sub(Self::CREDIT * SCALE));
        self.ready.insert((*tag, member));
    }

    /// A member has nothing to run, or may not.
    pub(crate) fn leave(&mut self, member: u32, tag: u64) {
        self.ready.remove(&(tag, member));
    }

    /// Whose turn it is.
    pub(crate) fn first(&self) -> Option<u32> {
        self.ready.first().map(|(_, member)| *member)
    }

    /// A member was served; `ready`: whether it is among those who wait for a turn.
    pub(crate) fn charge(&mut self, member: u32, tag: &mut u64, tokens: u32, weight: u32, ready: bool) {
        self.now = self.now.max(*tag);
        self.moved(member, tag, u64::from(tokens.max(1)) * SCALE / u64::from(weight.max(1)), ready);
    }

    /// It cost so many tokens more, or less, than it was charged.
    pub(crate) fn settle(&mut self, member: u32, tag: &mut u64, more: i64, weight: u32, ready: bool) {
        let by = more.unsigned_abs() * SCALE / u64::from(weight.max(1));
        if more >= 0 {
            self.moved(member, tag, by, ready);
        } else {
            if ready {
                self.ready.remove(&(*tag, member));
            }
            *tag = tag.saturating_sub(by).max(self.now.min(*tag).saturating_sub(Self::CREDIT * SCALE));
            if ready {
                self.ready.insert((*tag, member));
            }
        }
    }

    /// How far ahead of its turn a member is, in tokens at its weight: what it owes the others.
    pub(crate) fn owed(&self, tag: u64, weight: u32) -> u64 {
        tag.saturating_sub(self.now) / SCALE * u64::from(weight.max(1))
    }

    /// The tag of a member that owes so much.
    pub(crate) fn tag_of_debt(&self, owed: u64, weight: u32) -> u64 {
        self.now + owed.saturating_mul(SCALE) / u64::from(weight.max(1))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(crate) fn has(&self, member: u32, tag: u64) -> bool {
        self.ready.contains(&(tag, member))
    }

    pub(crate) fn len(&self) -> usize {
        self.ready.len()
    }

    fn moved(&mut self, member: u32, tag: &mut u64, by: u64, ready: bool) {
        if ready {
            self.ready.remove(&(*tag, member));
        }
        *tag = tag.saturating_add(by);
        if ready {
            self.ready.insert((*tag, member));
        }
    }
}
