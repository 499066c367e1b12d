//! What instances say of themselves, and what they hold of common limits.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::world::{Thing, Turn};
use crate::error::Error;
use crate::name::Name;
use crate::op::{Beaten, Drawn, Held, Member, Op, Reply, Want};

/// An instance that beat and has not been silent for too long.
#[derive(Clone, Debug)]
pub(super) struct MemberState {
    life: u64,
    pub(super) fence: u64,
    pub(super) until: Duration,
    since: Duration,
    ttl: Duration,
    info: Bytes,
    cells: Vec<(Name, i64)>,
    /// The last word about its shares.
    turn: u64,
}

/// A share of a pool, of one life of an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    fence: u64,
    held: u64,
    wanted: u64,
}

impl Turn<'_> {
    pub(super) fn replicas(&mut self, op: &Op) -> Result<Reply, Error> {
        match op {
            Op::Beat { instance, life, ttl, info, cells } => {
                let known = self.ground.members.get(instance);
                let known = known.map(|member| (member.life, member.fence, member.since, member.turn));
                let (fence, since, turn) = match known {
                    Some((later, current, ..)) if later > *life => return Err(Error::Fenced { current }),
                    Some((same, fence, since, turn)) if same == *life => (fence, since, turn),
                    _ => (self.next_fence(), self.now, 0),
                };
                let (life, info, cells, until) = (*life, info.clone(), cells.clone(), self.now + *ttl);
                let state = MemberState { life, fence, until, since, ttl: *ttl, info, cells, turn };
                self.ground.members.insert(instance.clone(), state);
                Ok(Reply::Beaten(self.roll(instance, fence)))
            }
            Op::Leave { instance, fence } => {
                let ours = self.ground.members.get(instance).is_some_and(|member| member.fence == *fence);
                if ours {
                    self.ground.members.remove(instance);
                    self.tell(&["left", instance.as_str()]);
                }
                Ok(Reply::Found(ours))
            }
            Op::Hold { instance, fence, turn, wants } => {
                let member = self.ground.members.get_mut(instance).filter(|member| member.fence == *fence);
                let member = member.ok_or(Error::NotFound)?;
                if member.turn > *turn {
                    return Err(Error::Fenced { current: member.turn });
                }
                member.turn = *turn;
                let ttl = member.ttl;
                let back = self.ground.lost_at.is_some_and(|lost| self.now < lost + ttl);
                let young = self.now < self.ground.born + ttl;
                let held = wants.iter().map(|want| self.hold(instance, *fence, want, back, young)).collect();
                Ok(Reply::Held(held))
            }
            Op::Draw { bucket, per_second, burst, least, most } => {
                let place = format!("u:{bucket}");
                let level = match self.get(&place) {
                    Some(Thing::Bucket { level, at }) => {
                        let (level, at) = (*level, *at);
                        (level + self.now.saturating_sub(at).as_secs_f64() * per_second).min(*burst)
                    }
                    _ => *burst,
                };
                // What is larger than the bucket passes when it is full, and is paid back after it.
                let enough = level >= least.min(*burst);
                let granted = if enough { level.min(*most).max(*least) } else { 0.0 };
                let missing = (least.min(*burst) - level).max(0.0);
                let wait = if enough || *per_second <= 0.0 { 0.0 } else { missing / per_second };
                let at = self.now;
                // When it would be full again it need not be remembered: whatever is not there is full.
                let full = (burst - (level - granted)).max(0.0) / per_second.max(1e-9);
                let end = at + Duration::from_secs_f64(full.min(1e9)) + Duration::from_secs(1);
                self.put_until(place, Thing::Bucket { level: level - granted, at }, Some(end));
                Ok(Reply::Drawn(Drawn { granted, wait: Duration::from_secs_f64(wait.min(1e9)) }))
            }
            _ => unreachable!("the caller sorted the operations"),
        }
    }

    fn roll(&self, instance: &Name, fence: u64) -> Beaten {
        let mut others: BTreeMap<Name, i64> = BTreeMap::new();
        for (name, member) in &self.ground.members {
            if name != instance {
                for (cell, value) in &member.cells {
                    *others.entry(cell.clone()).or_default() += value;
                }
            }
        }
        let member = |(name, member): (&Name, &MemberState)| Member {
            instance: name.clone(),
            fence: member.fence,
            age: self.now.saturating_sub(member.since),
            left: member.until.saturating_sub(self.now),
            info: member.info.clone(),
        };
        let members = self.ground.members.iter().map(member).collect();
        Beaten { fence, members, others: others.into_iter().collect() }
    }

    fn hold(&mut self, instance: &Name, fence: u64, want: &Want, back: bool, young: bool) -> Held {
        let mut pool = self.ground.pools.remove(&want.pool).unwrap_or_default();
        let before = pool.get(instance).filter(|held| held.fence == fence).map_or(0, |held| held.held);
        let members = &self.ground.members;
        pool.retain(|name, holding| {
            members.get(name).is_some_and(|member| member.fence == holding.fence) && name != instance
        });
        let others: u64 = pool.values().map(|holding| holding.held).sum();
        let wanted: u64 = pool.values().map(|holding| holding.wanted).sum();
        let mut mine = want.wish.min(want.limit.saturating_sub(others));
        if back {
            // Others may hold what the state has forgotten; they have one lease of time to say so.
            mine = mine.min(want.had);
        } else if young {
            mine = mine.min(want.had.max(want.part));
        }
        let mine = mine.max(want.used);
        let missing = want.need.saturating_sub(mine);
        if mine > 0 || missing > 0 {
            pool.insert(instance.clone(), Holding { fence, held: mine, wanted: missing });
        }
        if !pool.is_empty() {
            self.ground.pools.insert(want.pool.clone(), pool);
        }
        if missing > 0 {
            self.tell(&["hold", want.pool.as_str(), instance.as_str()]);
        }
        if mine < before && wanted > 0 {
            self.tell(&["free", want.pool.as_str()]);
        }
        Held { mine, total: others + mine, wanted }
    }
}
