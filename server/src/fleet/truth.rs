//! The closed loop: what was predicted against what the engine reported, and what follows from it.
//!
//! Pure: observations in, a confidence and advice out.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::settings::ClosedLoop;

/// How far an engine's view has been right.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    confidence: f64,
    observations: u32,
    /// Observations since the last rebuild, or ever.
    since_rebuild: u32,
    rebuilds: u64,
    /// The beginnings of prompts as the engine told them, newest last.
    roots: VecDeque<Arc<[u32]>>,
    /// Prompts in a row whose first block the engine should have told of and did not.
    unseen: u32,
    mismatch: Option<Mismatch>,
}

/// Our tokens and the engine's differ, so that nothing would ever match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The first token that differs.
    pub position: usize,
    /// Our token there.
    pub ours: Option<u32>,
    /// The engine's.
    pub theirs: Option<u32>,
    /// What that is in words: the texts around, and where in the template it lies.
    pub explanation: String,
}

/// What an observation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Go on.
    None,
    /// The view proves wrong: build it anew.
    Rebuild,
}

/// Beginnings that are kept: the newest ones of so many prompts.
const ROOTS: usize = 32;
/// Tokens kept of each: differences of templates lie at the front. 32 x 4,096 x 4 bytes: 512 KiB an engine.
const ROOT_TOKENS: usize = 4_096;
/// Unseen prompts in a row that are no accident.
const NO_ACCIDENT: u32 = 2;

impl Truth {
    /// Nothing has been observed: believe.
    pub(crate) fn new() -> Self {
        Self {
            confidence: 1.0,
            observations: 0,
            since_rebuild: 0,
            rebuilds: 0,
            roots: VecDeque::new(),
            unseen: 0,
            mismatch: None,
        }
    }

    /// From 0 to 1: how far predictions have come true lately.
    pub(crate) fn confidence(&self) -> f64 {
        self.confidence
    }

    /// How many predictions were held against the truth.
    pub(crate) fn observations(&self) -> u32 {
        self.observations
    }

    /// Rebuilds that were advised.
    pub(crate) fn rebuilds(&self) -> u64 {
        self.rebuilds
    }

    /// How our tokens and the engine's differ, if they do.
    pub(crate) fn mismatch(&self) -> Option<&Mismatch> {
        self.mismatch.as_ref()
    }

    /// A prediction and what came of it, in prompt tokens.
    pub(crate) fn observe(
        &mut self,
        predicted: u32,
        actual: u32,
        prompt: u32,
        block: u32,
        rule: &ClosedLoop,
    ) -> Advice {
        let miss = f64::from(predicted.abs_diff(actual));
        // One block either way is the engine's rounding, not an error of the view.
        let right =
            if miss <= f64::from(block) { 1.0 } else { 1.0 - (miss / f64::from(prompt.max(1))).min(1.0) };
        self.confidence += rule.smoothing * (right - self.confidence);
        self.observations = self.observations.saturating_add(1);
        self.since_rebuild += 1;
        if self.confidence < rule.rebuild_below && self.since_rebuild >= rule.min_observations {
            self.since_rebuild = 0;
            self.rebuilds += 1;
            return Advice::Rebuild;
        }
        Advice::None
    }

    /// The engine told the beginning of a prompt.
    pub(crate) fn root(&mut self, tokens: &[u32]) {
        if self.roots.len() == ROOTS {
            self.roots.pop_front();
        }
        self.roots.push_back(tokens[..tokens.len().min(ROOT_TOKENS)].into());
    }

    /// The engine served a prompt of ours whose first block was not cached, and has told of it since.
    pub(crate) fn seen(&mut self) {
        self.unseen = 0;
        self.mismatch = None;
    }

    /// It served one, and did not tell of it. Returns a difference that was found for the first time.
    pub(crate) fn unseen(
        &mut self,
        ours: &[u32],
        explain: impl FnOnce(usize, Option<u32>, Option<u32>, &[u32]) -> String,
    ) -> Option<&Mismatch> {
        self.unseen += 1;
        if self.unseen < NO_ACCIDENT || self.mismatch.is_some() {
            return None;
        }
        let common = |theirs: &[u32]| ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        // What the engine told of our prompt is what it shares most with, in the beginning or after it.
        let likeness = |theirs: &Arc<[u32]>| common(theirs).max(shifted(ours, theirs));
        let (position, theirs) = match self.roots.iter().max_by_key(|theirs| likeness(theirs)) {
            Some(theirs) => (common(theirs), theirs.clone()),
            None => (0, Arc::from([])),
        };
        let (our, their) = (ours.get(position).copied(), theirs.get(position).copied());
        let explanation = explain(position, our, their, &theirs);
        self.mismatch = Some(Mismatch { position, ours: our, theirs: their, explanation });
        self.mismatch.as_ref()
    }

    /// The engine began a new life; what it was caught at belongs to the old one.
    pub(crate) fn reset(&mut self) {
        *self = Self { rebuilds: self.rebuilds, ..Self::new() };
    }
}

/// Tokens that agree after a few were inserted or left out at the front: a template that says more or less.
fn shifted(ours: &[u32], theirs: &[u32]) -> usize {
    let run = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let one = |by: usize| {
        let (left, right) = (ours.get(by..).unwrap_or(&[]), theirs.get(by..).unwrap_or(&[]));
        run(left, theirs).max(run(ours, right))
    };
    (1..=16).map(one).max().unwrap_or(0)
}

impl Default for Truth {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_is_right_keeps_its_confidence_and_one_that_is_wrong_is_rebuilt_once_in_a_while() {
        let rule = ClosedLoop::default();
        let mut truth = Truth::new();
        for _ in 0..100 {
            assert_eq!(truth.observe(512, 500, 1000, 16, &rule), Advice::None);
        }
        assert!((truth.confidence() - 1.0).abs() < 1e-9);
        let rebuilds = (0..100).filter(|_| truth.observe(0, 900, 1000, 16, &rule) == Advice::Rebuild).count();
        assert!(truth.confidence() < 0.2);
        assert!((2..=12).contains(&rebuilds), "{rebuilds} rebuilds in 100 wrong predictions");
    }

    #[test]
    fn a_template_that_says_one_token_more_is_named() {
        let mut truth = Truth::new();
        let ours: Vec<u32> = (100..164).collect();
        let mut theirs = ours.clone();
        theirs.insert(3, 7);
        truth.root(&(500..600).collect::<Vec<_>>());
        truth.root(&theirs);
        let explain = |position: usize, _: Option<u32>, _: Option<u32>, _: &[u32]| format!("at {position}");
        assert_eq!(truth.unseen(&ours, explain), None);
        let found = truth.unseen(&ours, explain).cloned().unwrap();
        assert_eq!((found.position, found.ours, found.theirs), (3, Some(103), Some(7)));
        truth.seen();
        assert_eq!(truth.mismatch(), None);
    }
}
