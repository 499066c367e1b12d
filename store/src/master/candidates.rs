//! Candidates: objects that were refused a promotion for a reason that passes, and are tried again.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::name::{Millis, Tier};
use super::object::Flags;
use super::options::Promotion;
use super::order::Place;
use super::promote::Later;
use super::shard::Shard;
use super::{Master, Stirred};

/// An object that is tried again.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// The most reads lately that were seen.
    pub(super) score: u8,
    /// It was read often enough. Otherwise it is here only for those who wait.
    pub(super) hot: bool,
    /// It was tried by the tick.
    evaluated: bool,
    last_reason: Later,
    retries: u32,
    /// How often what it waits for had happened when it was refused last.
    heard: u32,
    first_seen: Millis,
    pub(super) last_seen: Millis,
    pub(super) retry_after: Millis,
    last_error: Option<Box<str>>,
    /// Who waits for it.
    pub(super) wanted: SmallVec<[Demand; 1]>,
}

/// Somebody waits for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) warm: u64,
    pub(super) deadline: Millis,
}

/// What an operator sees of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// The most reads lately that were seen.
    pub score: u8,
    /// When it became one.
    pub first_seen: Millis,
    /// When it was read last.
    pub last_seen: Millis,
    /// When it is tried next, unless what it waits for happens before.
    pub retry_after: Millis,
    /// How often it was tried after its backoff since it was read last.
    pub retries: u32,
    /// Why it was refused last.
    pub last_reason: Later,
    /// What its holder said last.
    pub last_error: Option<Box<str>>,
    /// How many wait for it.
    pub wanted: usize,
}

impl Candidate {
    pub(super) fn new(score: u8, now: Millis) -> Self {
        Self {
            score,
            hot: false,
            evaluated: false,
            last_reason: Later::Watermark,
            retries: 0,
            heard: 0,
            first_seen: now,
            last_seen: now,
            retry_after: now,
            last_error: None,
            wanted: SmallVec::new(),
        }
    }

    /// The earliest time by which somebody wants it.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.wanted.iter().map(|demand| demand.deadline).min()
    }

    /// It was read.
    pub(super) fn hit(&mut self, score: u8, threshold: u8) {
        self.score = self.score.max(score);
        self.hot |= score >= threshold;
    }

    /// It was read just now, and hot: its life and its budget begin anew.
    pub(super) fn refresh(&mut self, now: Millis) {
        self.last_seen = now;
        self.retries = 0;
    }

    /// Whether somebody waited for it in vain.
    pub(super) fn is_late(&self, now: Millis) -> bool {
        self.wanted.iter().any(|demand| demand.deadline < now)
    }

    pub(super) fn look(&self) -> Waits {
        Waits {
            score: self.score,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            retry_after: self.retry_after,
            retries: self.retries,
            last_reason: self.last_reason,
            last_error: self.last_error.clone(),
            wanted: self.wanted.len(),
        }
    }

    /// Whether it should be tried now: its backoff is over, or what it waits for has happened.
    pub(super) fn is_due(&self, stirred: &Stirred, now: Millis) -> bool {
        self.retry_after <= now || stirred.count(self.last_reason) != self.heard
    }

    /// Whether it was not read for too long, or tried too often.
    pub(super) fn is_spent(&self, options: &Promotion, now: Millis) -> bool {
        now.since(self.last_seen) > options.ttl || self.retries >= options.retries
    }

    /// Tried by the tick, and refused: a try after its backoff counts, one because something happened does not.
    fn refused(&mut self, options: &Promotion, why: Later, now: Millis) {
        self.evaluated = true;
        self.last_reason = why;
        if self.retry_after <= now {
            self.retries += 1;
            self.retry_after = now.plus(options.wait(self.retries));
        }
    }
}

impl Stirred {
    /// How often happened what a refusal waits for.
    pub(super) fn count(&self, why: Later) -> u32 {
        match why {
            Later::Watermark | Later::Quota | Later::NoMemory => self.space.load(Ordering::Relaxed),
            Later::Cap | Later::PushFailed => self.slot.load(Ordering::Relaxed),
            Later::HolderAway => self.holder.load(Ordering::Relaxed),
            Later::BeingPut | Later::Failed | Later::TimedOut => 0,
        }
    }
}

impl Master {
    /// A read of an object that cannot be promoted now: -> candidate, or a candidate still with a fresh budget.
    pub(super) fn record(&self, shard: &mut Shard, at: Place, why: Later, score: u8, now: Millis) {
        let heard = self.stirred.count(why);
        let options = self.promotion();
        let fresh = !Self::is_candidate(shard, at);
        let Some(candidate) = self.candidate(shard, at, score, now) else { return };
        candidate.hit(score, options.threshold);
        candidate.refresh(now);
        candidate.last_reason = why;
        candidate.heard = heard;
        candidate.retry_after = if fresh { now.plus(options.backoff) } else { now };
    }

    /// Somebody waits for an object that cannot be promoted now. False if there are too many candidates.
    pub(super) fn want(&self, shard: &mut Shard, at: Place, why: Later, demand: Demand, now: Millis) -> bool {
        let heard = self.stirred.count(why);
        let backoff = self.promotion().backoff;
        let fresh = !Self::is_candidate(shard, at);
        let Some(candidate) = self.candidate(shard, at, 0, now) else { return false };
        candidate.wanted.push(demand);
        candidate.last_seen = now;
        if fresh {
            (candidate.last_reason, candidate.heard) = (why, heard);
            candidate.retry_after = now.plus(backoff);
        }
        true
    }

    /// A task that ended without success -> candidate again, with what it used of its budget.
    pub(super) fn keep(
        &self,
        shard: &mut Shard,
        at: Place,
        history: Candidate,
        why: Later,
        error: Option<Box<str>>,
    ) {
        let on_disk = shard.rows.get(at.row()).is_some_and(|o| o.in_tier(Tier::Disk).next().is_some());
        let heard = self.stirred.count(why);
        let first_seen = history.first_seen;
        let found = if on_disk { self.candidate(shard, at, history.score, first_seen) } else { None };
        let Some(candidate) = found else {
            return self.unwanted(shard, &history.wanted);
        };
        *candidate = history;
        candidate.evaluated = true;
        candidate.retries += 1;
        candidate.last_reason = why;
        candidate.heard = heard;
        candidate.last_error = error.or(candidate.last_error.take());
        // At once, unless `again`, which knows the time, sets its backoff.
        candidate.retry_after = Millis(0);
    }

    /// What was kept waits for its backoff, or was tried too often.
    pub(super) fn again(&self, shard: &mut Shard, at: Place, now: Millis) {
        let options = self.promotion();
        let Some(object) = shard.rows.get(at.row()) else { return };
        let state = shard.states.get_mut(&object.tenant);
        let Some(candidate) = state.and_then(|s| s.candidates.get_mut(&(at.row() as u32))) else { return };
        candidate.retry_after = now.plus(options.wait(candidate.retries));
        if candidate.is_spent(&options, now) {
            self.expire(shard, at);
        }
    }

    /// The tick tried it and was refused again: still a candidate, or given up.
    pub(super) fn refused(&self, shard: &mut Shard, at: Place, why: Later, now: Millis) {
        let heard = self.stirred.count(why);
        let Some(object) = shard.rows.get(at.row()) else { return };
        let state = shard.states.get_mut(&object.tenant);
        let Some(candidate) = state.and_then(|s| s.candidates.get_mut(&(at.row() as u32))) else { return };
        candidate.refused(&self.promotion(), why, now);
        candidate.heard = heard;
        shard.tally.candidates.admission_rejected += 1;
        let again = &mut shard.tally.again;
        let gate = match why {
            Later::Quota => &mut again.quota,
            Later::Cap => &mut again.cap,
            Later::PushFailed => &mut again.push_failed,
            Later::HolderAway => &mut again.holder_away,
            Later::BeingPut => &mut again.being_put,
            // The last three are no gates: a task ends that way.
            Later::Watermark | Later::NoMemory | Later::Failed | Later::TimedOut => &mut again.watermark,
        };
        *gate += 1;
        if candidate.is_spent(&self.promotion(), now) {
            self.expire(shard, at);
        }
    }

    /// A candidate -> given up.
    pub(super) fn expire(&self, shard: &mut Shard, at: Place) {
        let Some(candidate) = shard.uncandidate(at.row() as u32) else { return };
        self.busy.candidates.fetch_sub(1, Ordering::Relaxed);
        let counters = &mut shard.tally.candidates;
        if candidate.evaluated {
            counters.expired_evaluated += 1;
        } else {
            counters.expired_unevaluated += 1;
        }
        shard.tally.warmed.too_late += candidate.wanted.len() as u64;
        self.busy.awaited.fetch_sub(candidate.wanted.len(), Ordering::Relaxed);
    }

    /// A candidate -> nothing more to do.
    pub(super) fn settle(&self, shard: &mut Shard, at: Place) {
        let Some(candidate) = shard.uncandidate(at.row() as u32) else { return };
        self.busy.candidates.fetch_sub(1, Ordering::Relaxed);
        shard.tally.candidates.settled += 1;
        self.unwanted(shard, &candidate.wanted);
    }

    /// Forgets all candidates and their counters, each shard under its lock; tasks go on.
    pub fn clear_candidates(&self) {
        for shard in &self.shards {
            let mut guard = shard.lock();
            let shard = &mut *guard;
            for state in shard.states.values_mut() {
                for (row, candidate) in std::mem::take(&mut state.candidates) {
                    self.busy.candidates.fetch_sub(1, Ordering::Relaxed);
                    self.busy.awaited.fetch_sub(candidate.wanted.len(), Ordering::Relaxed);
                    shard.tally.warmed.gone += candidate.wanted.len() as u64;
                    if let Some(object) = shard.rows.get_mut(row as usize) {
                        object.flags.clear(Flags::CANDIDATE);
                    }
                }
            }
            shard.tally.candidates = super::counters::Candidates::default();
            shard.tally.again = super::counters::Again::default();
        }
        self.cursor.store(0, Ordering::Relaxed);
    }

    /// The candidate of an object, a new one if there is none yet and the limit allows it.
    fn candidate<'s>(
        &self,
        shard: &'s mut Shard,
        at: Place,
        score: u8,
        now: Millis,
    ) -> Option<&'s mut Candidate> {
        let row = at.row() as u32;
        let object = shard.rows.get_mut(at.row())?;
        let state = shard.states.get_mut(&object.tenant)?;
        if !object.flags.has(Flags::CANDIDATE) {
            let limit = self.promotion().candidates;
            let one_more = |many: usize| (many < limit).then_some(many + 1);
            let counted = &self.busy.candidates;
            if counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                shard.tally.candidates.dropped_limit += 1;
                return None;
            }
            object.flags.set(Flags::CANDIDATE);
            shard.tally.candidates.recorded += 1;
            state.candidates.insert(row, Candidate::new(score, now));
            self.wake.tick();
        }
        state.candidates.get_mut(&row)
    }

    fn is_candidate(shard: &Shard, at: Place) -> bool {
        shard.rows.get(at.row()).is_some_and(|object| object.flags.has(Flags::CANDIDATE))
    }
}
