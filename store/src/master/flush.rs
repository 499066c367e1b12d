//! Emptying a node before it is taken away: what only its memory has goes to its disk.

use super::Master;
use super::error::Error;
use super::name::{Millis, Node, Tier};
use super::node::Member;
use super::object::{Flags, Object};
use super::order::Place;

/// What a step of a flush came to, in objects that only this node's memory has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Ordered to be written to disk now.
    pub ordered: u64,
    /// On their way to disk already.
    pub under_way: u64,
    /// Not ordered: no space on disk, the tenant's quota, a full line of orders. Try again later.
    pub refused: u64,
    /// Where to go on, 0 at the end.
    pub next: u64,
}

impl Flushed {
    /// Objects that would be lost with this node's memory.
    pub fn left(&self) -> u64 {
        self.ordered + self.under_way + self.refused
    }
}

impl Master {
    /// Looks at a shard, from a cursor on: what is only in this node's memory is ordered to its disk.
    ///
    /// # Errors
    /// [`Error::UnknownNode`].
    pub fn flush(&self, node: Node, cursor: u64, now: Millis) -> Result<Flushed, Error> {
        let member = self.member(node)?;
        let Some(shard) = self.shards.get(cursor as usize) else { return Ok(Flushed::default()) };
        let mut flushed = Flushed { next: (cursor + 1) % self.shards.len() as u64, ..Flushed::default() };
        let mut guard = shard.lock();
        let only_here = guard.rows.iter().filter(|(_, object)| self.is_only_in(member, object));
        let rows: Vec<usize> = only_here.map(|(row, _)| row).collect();
        for row in rows {
            let under_way = guard.rows.get(row).is_some_and(|object| object.flags.has(Flags::OFFLOADING));
            let place = Place::new(cursor as usize, row);
            *if under_way {
                &mut flushed.under_way
            } else if self.offload(&mut guard, place, member, now) {
                &mut flushed.ordered
            } else {
                &mut flushed.refused
            } += 1;
        }
        Ok(flushed)
    }

    /// Whether an object is nowhere else than in this node's memory, or in that of nodes that are drained as well.
    fn is_only_in(&self, member: &Member, object: &Object) -> bool {
        let stays = |copy: &super::object::Copy| {
            copy.tier == Tier::Disk && self.readable(copy.node)
                || self.member(copy.node).is_ok_and(|other| other.lock().takes())
        };
        object.copy(member.node, Tier::Memory).is_some()
            && !object
                .copies
                .iter()
                .any(|copy| (copy.node, copy.tier) != (member.node, Tier::Memory) && stays(copy))
    }
}
