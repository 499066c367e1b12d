//! The whole shared state as data: what an operation does to it, at a given time. No I/O, no clock.
//!
//! Invariants, proved by [`World::check`] and held against every backend by the conformance suite:
//! - C1: a shard's fences only grow.
//! - C2: a job is over only if none of its parts is unsettled, or its watchdog gave it up.
//! - C3: what is due is found by a sweep: every job that is not acknowledged stands in the list of its shard.
//! - C4: what has outlived its time is not there, and does not pile up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::jobs::JobState;
use super::replicas::MemberState;
use super::requests::{StatsState, WaitState};
use crate::backend::{Answer, Call, Stand};
use crate::error::Error;
use crate::name::{Name, SHARDS};
use crate::op::{Op, Reply, Value};

/// The state of all shards.
#[derive(Clone, Debug)]
pub struct World {
    ttl: Option<Duration>,
    shards: Vec<Ground>,
}

/// The state of one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Ground {
    life: Option<u64>,
    changes: u64,
    /// When its life began.
    pub(super) born: Duration,
    fence: u64,
    /// When somebody last noticed that state was lost.
    pub(super) lost_at: Option<Duration>,
    kept: HashMap<String, Kept>,
    ends: BTreeSet<(Duration, String)>,
    /// Jobs, and when to look at each.
    pub(super) live: BTreeMap<Name, Duration>,
    pub(super) members: BTreeMap<Name, MemberState>,
    pub(super) pools: BTreeMap<Name, BTreeMap<Name, super::replicas::Holding>>,
    /// Statistics by the time of their last change: the oldest leave first.
    pub(super) stats: BTreeSet<(Duration, String)>,
}

#[derive(Clone, Debug)]
struct Kept {
    end: Option<Duration>,
    thing: Thing,
}

/// What a key can hold. One type a key: asking for another is refused.
#[derive(Clone, Debug)]
pub(super) enum Thing {
    Counter(i64),
    Claim { token: Name, fence: u64 },
    Set(BTreeSet<Bytes>),
    List(Vec<Bytes>),
    Value(Value),
    Version { number: i64, token: Name },
    Table(BTreeMap<Name, (Bytes, u64)>),
    Bucket { level: f64, at: Duration },
    Job(Box<JobState>),
    Wait(WaitState),
    Stats(StatsState),
    Taken(crate::op::Stats),
}

/// One operation at one time in one shard.
pub(super) struct Turn<'a> {
    pub(super) now: Duration,
    pub(super) ttl: Option<Duration>,
    pub(super) ground: &'a mut Ground,
    pub(super) notices: &'a mut Vec<String>,
}

// === impl World ===

impl World {
    /// Nothing yet.
    pub fn new(ttl: Option<Duration>) -> Self {
        Self { ttl, shards: (0..SHARDS).map(|_| Ground::default()).collect() }
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        *self = Self::new(self.ttl);
    }

    /// Does one operation, whole or not at all. What listeners should hear is put to `notices`.
    pub fn apply(&mut self, now: Duration, call: Call<'_>, notices: &mut Vec<String>) -> Answer {
        let ground = &mut self.shards[call.op.shard().number()];
        ground.expire(now);
        if let Some(lost) = ground.recognise(now, &call) {
            return lost;
        }
        let changes = call.op.class() != crate::op::Class::Read;
        ground.changes += u64::from(changes);
        let mut turn = Turn { now, ttl: self.ttl, ground, notices };
        let done = turn.run(call.op);
        let stand = Stand { life: turn.ground.life.unwrap_or_default(), changes: turn.ground.changes };
        debug_assert_eq!(self.check(), Ok(()));
        match done {
            Ok(reply) => Answer::Done(stand, reply),
            Err(error) => Answer::Refused(stand, error),
        }
    }

    /// Things that are kept, of whatever kind: for tests of what piles up.
    pub fn size(&self) -> usize {
        self.shards.iter().map(|ground| ground.kept.len() + ground.live.len() + ground.ends.len()).sum()
    }

    /// The invariants of the module header.
    ///
    /// # Errors
    /// The name of the first that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        for ground in &self.shards {
            for kept in ground.kept.values() {
                match &kept.thing {
                    Thing::Claim { fence, .. } => ensure(*fence <= ground.fence, "C1")?,
                    Thing::Job(job) => job.check()?,
                    _ => {}
                }
            }
            for member in ground.members.values() {
                ensure(member.fence <= ground.fence, "C1")?;
            }
            let jobs = ground.kept.iter().filter_map(|(key, kept)| match &kept.thing {
                Thing::Job(job) if !job.is_acknowledged() => Some(key),
                _ => None,
            });
            for key in jobs {
                let name = key.trim_start_matches("j:");
                ensure(ground.live.keys().any(|live| live.as_str() == name), "C3")?;
            }
            let ends = ground.kept.values().filter(|kept| kept.end.is_some()).count();
            ensure(ends == ground.ends.len(), "C4")?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(name) }
}

// === impl Ground ===

impl Ground {
    /// Whether this is the state that the caller knows; begins a life if there is none.
    fn recognise(&mut self, now: Duration, call: &Call<'_>) -> Option<Answer> {
        if self.life.is_none() {
            self.born = now;
        }
        let life = *self.life.get_or_insert(call.new_life);
        let seen = call.seen?;
        if seen.life == life && self.changes >= seen.changes {
            return None;
        }
        if seen.life == life {
            // It went back in time. From here on it is another life, so that everybody notices.
            self.life = Some(call.new_life);
        }
        self.lost_at = Some(now);
        Some(Answer::Lost(Stand { life: self.life.unwrap_or(life), changes: self.changes }))
    }

    fn expire(&mut self, now: Duration) {
        while let Some((end, key)) = self.ends.first().cloned().filter(|(end, _)| *end <= now) {
            self.ends.remove(&(end, key.clone()));
            self.kept.remove(&key);
        }
        self.members.retain(|_, member| member.until > now);
    }
}

// === impl Turn ===

impl Turn<'_> {
    /// A fence that is greater than every one before it, also before a loss: as long as clocks go forward.
    pub(super) fn next_fence(&mut self) -> u64 {
        self.ground.fence = (self.ground.fence + 1).max(self.now.as_micros() as u64);
        self.ground.fence
    }

    pub(super) fn get(&mut self, key: &str) -> Option<&mut Thing> {
        self.ground.kept.get_mut(key).map(|kept| &mut kept.thing)
    }

    /// Puts a thing, to live as long as everything does that nobody touches.
    pub(super) fn put(&mut self, key: String, thing: Thing) {
        let end = self.ttl.map(|ttl| self.now + ttl);
        self.put_until(key, thing, end);
    }

    pub(super) fn put_until(&mut self, key: String, thing: Thing, end: Option<Duration>) {
        self.remove(&key);
        if let Some(end) = end {
            self.ground.ends.insert((end, key.clone()));
        }
        self.ground.kept.insert(key, Kept { end, thing });
    }

    /// Lets a thing live so long from now.
    pub(super) fn touch_for(&mut self, key: &str, ttl: Option<Duration>) -> bool {
        let end = ttl.map(|ttl| self.now + ttl);
        let Some(kept) = self.ground.kept.get_mut(key) else { return false };
        if let Some(old) = std::mem::replace(&mut kept.end, end) {
            self.ground.ends.remove(&(old, key.to_owned()));
        }
        if let Some(end) = end {
            self.ground.ends.insert((end, key.to_owned()));
        }
        true
    }

    pub(super) fn touch(&mut self, key: &str) {
        self.touch_for(key, self.ttl);
    }

    pub(super) fn remove(&mut self, key: &str) -> bool {
        let Some(kept) = self.ground.kept.remove(key) else { return false };
        if let Some(end) = kept.end {
            self.ground.ends.remove(&(end, key.to_owned()));
        }
        true
    }

    pub(super) fn left_of(&self, key: &str) -> Duration {
        let end = self.ground.kept.get(key).and_then(|kept| kept.end);
        end.map_or(Duration::ZERO, |end| end.saturating_sub(self.now))
    }

    pub(super) fn tell(&mut self, words: &[&str]) {
        self.notices.push(words.join(" "));
    }

    fn run(&mut self, op: &Op) -> Result<Reply, Error> {
        match op {
            Op::Beat { .. } | Op::Leave { .. } | Op::Hold { .. } | Op::Draw { .. } => self.replicas(op),
            Op::Open { .. }
            | Op::AddParts { .. }
            | Op::Seal { .. }
            | Op::Settle { .. }
            | Op::Sweep { .. }
            | Op::Keep { .. }
            | Op::Ack { .. }
            | Op::Cancel { .. }
            | Op::LookAtJob { .. } => self.jobs(op),
            Op::Await { .. }
            | Op::Arrive { .. }
            | Op::Gate { .. }
            | Op::Statuses { .. }
            | Op::Clean { .. }
            | Op::StatsAdd { .. }
            | Op::StatsTake { .. } => self.requests(op),
            Op::Tell { notice, .. } => {
                self.notices.push(String::from_utf8_lossy(notice).into_owned());
                Ok(Reply::Found(true))
            }
            Op::Probe { .. } => Ok(Reply::Found(true)),
            _ => self.things(op),
        }
    }
}
