//! Requests whose work is done in many places: what is pending, what was said of it, how much it was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::world::{Thing, Turn};
use crate::error::Error;
use crate::name::Name;
use crate::op::{Left, Op, Reply, Stats};

/// A request that somebody may wait for.
#[derive(Clone, Debug, Default)]
pub(super) struct WaitState {
    pending: BTreeMap<Name, BTreeSet<Name>>,
    statuses: BTreeMap<Name, Bytes>,
}

/// Statistics of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct StatsState {
    stats: Stats,
    /// The last addition of each who adds.
    seen: BTreeMap<Name, u64>,
    changed: std::time::Duration,
}

/// Statistics that a shard keeps of requests that nobody came to fetch; the oldest leave first.
pub(crate) const MAX_STATS: usize = 1_000;
/// How long statistics that were taken can be taken again by the same token.
pub(crate) const TAKEN_FOR: std::time::Duration = std::time::Duration::from_mins(1);

impl WaitState {
    fn left(&self) -> u64 {
        self.pending.values().map(BTreeSet::len).sum::<usize>() as u64
    }
}

impl Turn<'_> {
    pub(super) fn requests(&mut self, op: &Op) -> Result<Reply, Error> {
        match op {
            Op::Await { request, set, members } => {
                let place = at(request);
                let mut wait = match self.get(&place) {
                    Some(Thing::Wait(wait)) => std::mem::take(wait),
                    _ => WaitState::default(),
                };
                if !members.is_empty() {
                    wait.pending.entry(set.clone()).or_default().extend(members.iter().cloned());
                }
                let left = wait.left();
                self.put(place, Thing::Wait(wait));
                Ok(Reply::Left(Left::Open(left)))
            }
            Op::Arrive { request, set, member, status } => {
                let wait = self.wait(request)?;
                if let Some(status) = status {
                    wait.statuses.insert(set.clone(), status.clone());
                }
                let mut was_there = false;
                if let Some(members) = wait.pending.get_mut(set) {
                    was_there = members.remove(member);
                    if members.is_empty() {
                        wait.pending.remove(set);
                    }
                }
                let left = wait.left();
                self.touch(&at(request));
                if was_there && left == 0 {
                    self.tell(&["request", request.as_str()]);
                }
                Ok(Reply::Left(Left::Open(left)))
            }
            Op::Gate { request } => {
                let wait = self.wait(request)?;
                let pending = wait.pending.iter().map(|(set, members)| (set.clone(), members.len() as u64));
                Ok(Reply::Pending(pending.collect()))
            }
            Op::Statuses { request } => {
                let wait = self.wait(request)?;
                let statuses = wait.statuses.iter().map(|(set, status)| (set.clone(), status.clone()));
                Ok(Reply::Statuses(statuses.collect()))
            }
            Op::Clean { request } => Ok(Reply::Found(self.remove(&at(request)))),
            Op::StatsAdd { space, request, from, seq, stats } => {
                Ok(Reply::Stats(self.stats_add(space, request, from, *seq, *stats)))
            }
            Op::StatsTake { space, request, token } => {
                let taken = format!("r:{space} {request} {token}");
                if let Some(Thing::Taken(stats)) = self.get(&taken) {
                    return Ok(Reply::Taken(Some(*stats)));
                }
                let place = format!("s:{space} {request}");
                let Some(Thing::Stats(state)) = self.get(&place) else { return Ok(Reply::Taken(None)) };
                let (stats, changed) = (state.stats, state.changed);
                self.ground.stats.remove(&(changed, place.clone()));
                self.remove(&place);
                self.put_until(taken, Thing::Taken(stats), Some(self.now + TAKEN_FOR));
                Ok(Reply::Taken(Some(stats)))
            }
            _ => unreachable!("the caller sorted the operations"),
        }
    }

    fn wait(&mut self, request: &Name) -> Result<&mut WaitState, Error> {
        match self.get(&at(request)) {
            Some(Thing::Wait(wait)) => Ok(wait),
            _ => Err(Error::NotFound),
        }
    }

    fn stats_add(&mut self, space: &Name, request: &Name, from: &Name, seq: u64, stats: Stats) -> Stats {
        let place = format!("s:{space} {request}");
        let mut state = match self.get(&place) {
            Some(Thing::Stats(state)) => std::mem::take(state),
            _ => StatsState::default(),
        };
        self.ground.stats.remove(&(state.changed, place.clone()));
        let seen = state.seen.entry(from.clone()).or_default();
        if seq > *seen {
            *seen = seq;
            state.stats = state.stats.plus(stats);
        }
        state.changed = self.now;
        let sum = state.stats;
        self.ground.stats.insert((self.now, place.clone()));
        self.put(place, Thing::Stats(state));
        while self.ground.stats.len() > MAX_STATS
            && let Some((_, oldest)) = self.ground.stats.pop_first()
        {
            self.remove(&oldest);
        }
        sum
    }
}

fn at(request: &Name) -> String {
    format!("w:{request}")
}
