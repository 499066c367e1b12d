//! Objects that end by themselves: few, so what is known of them is kept beside the others.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use super::hash::Spread;
use super::name::{Millis, Tenant};
use super::order::Place;
use super::shard::Shard;
use super::{Departs, Master};

/// When objects of a shard end, by their rows.
#[derive(Debug, Default)]
pub(super) struct Lives {
    ends: HashMap<u32, Millis, Spread>,
    order: BTreeSet<(Millis, u32)>,
}

impl Lives {
    /// When the object in this row ends; `None`: not by itself.
    pub(super) fn of(&self, row: u32) -> Option<Millis> {
        self.ends.get(&row).copied()
    }

    /// Whether there was something to forget.
    pub(super) fn forget(&mut self, row: u32) -> bool {
        let ends = self.ends.remove(&row);
        ends.is_some_and(|ends| self.order.remove(&(ends, row)))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// M11.
    pub(super) fn check(&self, rows: &slab::Slab<super::Object>) -> Result<(), String> {
        let known = self
            .ends
            .iter()
            .all(|(row, ends)| rows.contains(*row as usize) && self.order.contains(&(*ends, *row)));
        if known && self.ends.len() == self.order.len() { Ok(()) } else { Err("M11: lives".to_owned()) }
    }

    fn first_over(&self, now: Millis) -> Option<u32> {
        self.order.first().filter(|(ends, _)| *ends <= now).map(|(_, row)| *row)
    }
}

/// What is seen of an object by somebody who only looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    /// It can be read.
    Here {
        /// How many bytes.
        size: u64,
        /// When it ends by itself, if it does.
        ends: Option<Millis>,
    },
    /// It cannot be read now, or not everything is known yet.
    Unknown,
    /// There is no such object.
    Absent,
}

impl Master {
    /// How large an object is and how long it lives. Neither counts nor promotes nor leases.
    pub fn glance(&self, tenant: Tenant, key: &[u8], now: Millis) -> Glance {
        let (mut shard, at) = self.find(tenant, key);
        let at = at.filter(|at| !self.bury_if_over(&mut shard, *at, now));
        let Some(at) = at else {
            return if self.unsure() { Glance::Unknown } else { Glance::Absent };
        };
        let object = &shard.rows[at.row()];
        if object.copies.iter().any(|copy| self.readable(copy.node)) {
            Glance::Here { size: object.bytes(), ends: shard.lives.of(at.row() as u32) }
        } else {
            Glance::Unknown
        }
    }

    /// The object in this row ends then.
    pub(super) fn lives_until(&self, shard: &mut Shard, row: u32, ends: Millis) {
        if shard.lives.forget(row) {
            self.busy.lives.fetch_sub(1, Ordering::Relaxed);
        }
        shard.lives.ends.insert(row, ends);
        shard.lives.order.insert((ends, row));
        self.busy.lives.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes an object away whose time is over; whether it was.
    pub(super) fn bury_if_over(&self, shard: &mut Shard, at: Place, now: Millis) -> bool {
        let over = shard.lives.of(at.row() as u32).is_some_and(|ends| ends <= now);
        if over {
            shard.tally.moves.ended += 1;
            self.erase(shard, at, Departs::Ordered);
        }
        over
    }

    /// Takes away what is over in a shard.
    pub(super) fn reap_lives(&self, shard: &mut Shard, at: usize, now: Millis) -> usize {
        let mut reaped = 0;
        while let Some(row) = shard.lives.first_over(now) {
            self.bury_if_over(shard, Place::new(at, row as usize), now);
            reaped += 1;
        }
        reaped
    }
}
