//! Removing, pinning and leasing.

use smallvec::SmallVec;

use super::error::Error;
use super::name::{Millis, Pin, Tenant, Version};
use super::order::Place;
use super::{Departs, Master};

impl Master {
    /// Readable -> gone, everywhere; and what is under way with it is cancelled. A put of the same key that is under way goes on.
    ///
    /// # Errors
    /// [`Error::Absent`]; [`Error::NotExact`] if it is not known yet whether it is there, and too much was removed to remember it.
    pub fn remove(&self, tenant: Tenant, key: &[u8]) -> Result<Version, Error> {
        let (mut shard, at) = self.find(tenant, key);
        if self.unsure() {
            self.bury(&mut shard, tenant, key)?;
        }
        let at = at.ok_or(Error::Absent)?;
        let version = shard.rows[at.row()].version;
        shard.tally.moves.removed += 1;
        self.erase(&mut shard, at, Departs::Ordered);
        Ok(version)
    }

    /// Removes what begins like this, a shard at a time from a cursor on; how many, and where to go on, 0 at the end.
    ///
    /// # Errors
    /// As [`Master::remove`]; what was removed until then is.
    pub fn remove_prefix(&self, tenant: Tenant, prefix: &[u8], cursor: u64) -> Result<(u64, u64), Error> {
        let Some(shard) = self.shards.get(cursor as usize) else { return Ok((0, 0)) };
        let mut shard = shard.lock();
        let ours = |object: &super::Object| object.tenant == tenant && object.key.starts_with(prefix);
        let rows: SmallVec<[usize; 64]> =
            shard.rows.iter().filter(|(_, object)| ours(object)).map(|(row, _)| row).collect();
        for row in &rows {
            if self.unsure() {
                let key = shard.rows[*row].key.clone();
                self.bury(&mut shard, tenant, &key)?;
            }
            shard.tally.moves.removed += 1;
            self.erase(&mut shard, Place::new(cursor as usize, *row), Departs::Ordered);
        }
        let next = (cursor + 1) % self.shards.len() as u64;
        Ok((rows.len() as u64, next))
    }

    /// Changes whether an object may be evicted.
    ///
    /// # Errors
    /// [`Error::Absent`], or [`Error::Leaving`] if its group is on its way out.
    pub fn pin(&self, tenant: Tenant, key: &[u8], pin: Pin) -> Result<(), Error> {
        let (mut shard, at) = self.find(tenant, key);
        let at = at.ok_or(Error::Absent)?;
        let object = &mut shard.rows[at.row()];
        if self.groups.is_leaving(object) {
            return Err(Error::Leaving);
        }
        object.pin = pin;
        let what = (object.tenant, at, object.version, object.bytes());
        for copy in &mut object.copies {
            self.member(copy.node)?.lock().requeue(copy, what, pin);
        }
        Ok(())
    }

    /// Keeps an object from being evicted for a while.
    ///
    /// # Errors
    /// [`Error::Absent`], or [`Error::Leaving`] if its group is on its way out.
    pub fn lease(&self, tenant: Tenant, key: &[u8], millis: u64, now: Millis) -> Result<Millis, Error> {
        let (mut shard, at) = self.find(tenant, key);
        let at = at.ok_or(Error::Absent)?;
        let object = &mut shard.rows[at.row()];
        if self.groups.is_leaving(object) {
            return Err(Error::Leaving);
        }
        object.lease = object.lease.max(now.plus(millis));
        Ok(object.lease)
    }
}
