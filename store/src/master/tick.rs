//! The background tick: candidates that are due, whatever took too long, and nodes that are too full.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::Master;
use super::candidates::Candidate;
use super::evict::Goal;
use super::name::{Millis, Node, Tenant, Tier, Version};
use super::order::Place;
use super::promote::{Ask, Later, Tried};
use super::shard::Shard;

/// Rows of a shard.
pub(super) type Rows = SmallVec<[u32; 16]>;

/// Nodes where nothing made room for what was so hot: the rest of a tick need not look there again for what is not hotter.
type InVain = SmallVec<[(Node, u8); 2]>;

/// What a tick did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Shards that it looked at.
    pub shards: usize,
    /// Candidates that it tried.
    pub tried: usize,
    /// Of those, how many are being promoted.
    pub admitted: usize,
    /// Candidates that it gave up.
    pub expired: usize,
    /// Puts, tasks and offloads that took too long.
    pub reaped: usize,
    /// Bytes that are on their way out.
    pub evicted: u64,
}

/// A candidate that is due.
struct Due {
    turn: (Millis, Reverse<u8>, Place),
    tenant: Tenant,
    version: Version,
}

impl Master {
    /// Goes a part of the way round the shards; call it every 10 ms, and when woken. Leaves at once when there is nothing.
    pub fn tick(&self, now: Millis) -> Ticked {
        let mut ticked = Ticked::default();
        for member in self.members().filter(|member| member.is_exact()) {
            ticked.evicted += self.relieve(member.node, now);
        }
        let busy = &self.busy;
        let under_way = [&busy.candidates, &busy.tasks, &busy.puts, &busy.offloads, &busy.lives];
        if under_way.iter().all(|many| many.load(Ordering::Relaxed) == 0) {
            return ticked;
        }
        let mut due = Vec::new();
        let shards = self.promotion().shards_a_tick;
        let first = self.cursor.fetch_add(shards, Ordering::Relaxed);
        for at in (first..first + shards).map(|at| at % self.shards.len()) {
            let mut shard = self.shards[at].lock();
            ticked.shards += 1;
            ticked.reaped += self.reap_puts(&mut shard, at, now);
            ticked.reaped += self.reap_tasks(&mut shard, at, now);
            ticked.reaped += self.reap_offloads(&mut shard, at, now);
            self.reap_lives(&mut shard, at, now);
            ticked.expired += self.collect(&mut shard, at, now, &mut due);
        }
        due.sort_unstable_by_key(|due| due.turn);
        due.truncate(self.promotion().tries_a_tick);
        let mut in_vain = InVain::new();
        for due in due {
            ticked.tried += 1;
            ticked.admitted += usize::from(self.try_again(&due, &mut in_vain, now));
        }
        ticked
    }

    /// Candidates of a shard that are due, and how many were given up instead.
    fn collect(&self, shard: &mut Shard, at: usize, now: Millis, due: &mut Vec<Due>) -> usize {
        let options = self.promotion();
        let mut spent = Rows::new();
        let mut late = Rows::new();
        for (tenant, state) in &shard.states {
            for (row, candidate) in &state.candidates {
                if candidate.is_spent(&options, now) {
                    spent.push(*row);
                } else if candidate.is_late(now) {
                    late.push(*row);
                } else if candidate.is_due(&self.stirred, now) {
                    let place = Place::new(at, *row as usize);
                    let deadline = candidate.deadline().unwrap_or(Millis(u64::MAX));
                    let turn = (deadline, Reverse(candidate.score), place);
                    due.push(Due { turn, tenant: *tenant, version: shard.rows[*row as usize].version });
                }
            }
        }
        spent.sort_unstable();
        for row in &spent {
            self.expire(shard, Place::new(at, *row as usize));
        }
        late.sort_unstable();
        for row in late {
            self.too_late(shard, Place::new(at, row as usize), now);
        }
        spent.len()
    }

    /// Those who waited in vain are told so; what only they wanted is no longer tried.
    fn too_late(&self, shard: &mut Shard, at: Place, now: Millis) {
        let row = at.row() as u32;
        let Some(tenant) = shard.rows.get(at.row()).map(|object| object.tenant) else { return };
        let state = shard.states.get_mut(&tenant);
        let Some(candidate) = state.and_then(|state| state.candidates.get_mut(&row)) else { return };
        shard.tally.warmed.too_late += self.late(&mut candidate.wanted, now);
        if candidate.wanted.is_empty() && !candidate.hot {
            self.settle(shard, at);
        }
    }

    /// The very same admission as that of a read, but nothing is counted as one. Under pressure, what is colder makes room.
    fn try_again(&self, due: &Due, in_vain: &mut InVain, now: Millis) -> bool {
        let at = due.turn.2;
        let try_once = |last: bool| {
            let mut shard = self.shard(at);
            let candidate = Self::due_candidate(&mut shard, due)?;
            let score = candidate.score;
            let (size, lately) = self.lately(&shard, at, now);
            let tried = self.admit(&mut shard, at, &Ask { score, demand: None, retry: true }, now);
            match tried {
                Tried::Later(Later::Watermark) if !last && self.promotion().exchange => {}
                Tried::Later(why) => self.refused(&mut shard, at, why, now),
                Tried::Queued(_) | Tried::Never(_) => {}
            }
            Some((tried, lately, size))
        };
        match try_once(false) {
            Some((Tried::Later(Later::Watermark), lately, size)) if self.promotion().exchange => {
                self.exchange(at, due.version, (lately, size), in_vain, now);
                matches!(try_once(true), Some((Tried::Queued(_), ..)))
            }
            Some((Tried::Queued(_), ..)) => true,
            _ => false,
        }
    }

    /// How large it is, and how often it was read lately: what it would displace has cooled down as well.
    fn lately(&self, shard: &Shard, at: Place, now: Millis) -> (u64, u8) {
        let Some(object) = shard.rows.get(at.row()) else { return (0, 0) };
        let state = shard.states.get(&object.tenant);
        let score = state.map_or(0, |state| state.sketch.score(self.hash_of(object), self.moment(now)));
        (object.bytes(), score)
    }

    fn due_candidate<'s>(shard: &'s mut Shard, due: &Due) -> Option<&'s mut Candidate> {
        let row = due.turn.2.row() as u32;
        shard.object(row, due.version)?;
        shard.states.get_mut(&due.tenant)?.candidates.get_mut(&row)
    }

    /// Lets what was read less often leave the memory of the object's holder, until the object would fit.
    fn exchange(&self, at: Place, version: Version, of: (u8, u64), in_vain: &mut InVain, now: Millis) {
        let (heat, size) = of;
        let holder = {
            let mut shard = self.shard(at);
            let object = shard.object(at.row() as u32, version);
            object.and_then(|o| o.in_tier(Tier::Disk).map(|c| c.node).find(|node| self.readable(*node)))
        };
        let Some(member) = holder.and_then(|holder| self.member(holder).ok()) else { return };
        if in_vain.iter().any(|(node, most)| *node == member.node && heat <= *most) {
            return;
        }
        let bytes = {
            let mut inside = member.lock();
            if !inside.takes() {
                return;
            }
            Self::over(&mut inside, size, self.options.high, now)
        };
        // What would not make enough room is not worth dropping.
        if size <= super::node::share(member.lock().space[0].capacity, self.options.high) {
            let goal = Goal { bytes, only: None, colder: Some(heat) };
            if self.evict(member, Tier::Memory, goal, now) < bytes {
                in_vain.push((member.node, heat));
            }
        }
    }

    /// Puts that took too long are displaced.
    fn reap_puts(&self, shard: &mut Shard, at: usize, now: Millis) -> usize {
        let patience = self.options.put_patience;
        let mut reaped = 0;
        while let Some(index) = shard.puts.iter().position(|put| now.since(put.since) >= patience) {
            self.displace(shard, at, index);
            reaped += 1;
        }
        reaped
    }
}
