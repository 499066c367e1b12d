//! Once and latest: work that many ask for is done once, and work that a newer version has overtaken is not done at all.

use std::time::Duration;

use crate::coord::Coord;
use crate::error::Error;
use crate::name::{Key, Name};
use crate::op::{Claimed, Op, Reply, Stats};
use crate::primitives::answer;

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is yours to hand on; withdraw it if you cannot.
    Fresh,
    /// Work for the same key is on its way and has not begun, so it will see what you have written.
    Covered {
        /// Whose.
        by: Name,
    },
}

/// Whether a version is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is: do the work.
    Latest,
    /// It is not: skip it, and say so to whoever waits for it.
    Overtaken {
        /// The newest.
        by: i64,
    },
}

impl Coord {
    /// Offers work for a key. `work` names it, and keeps its name when it is tried again: a retry is not its own
    /// duplicate. Ask [`Coord::begun`] when the work begins to read: whatever is written after that is fresh again, so
    /// that the last write of a burst is never dropped.
    ///
    /// # Errors
    /// Fails closed: whoever cannot know must not drop the work. See [`Error`].
    pub async fn offer(&self, key: &Key, work: &Name, ttl: Duration) -> Result<Offered, Error> {
        match self.claim(key, work, ttl).await? {
            Claimed::Granted { .. } => Ok(Offered::Fresh),
            Claimed::Held { by, .. } => Ok(Offered::Covered { by }),
        }
    }

    /// The work begins.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn begun(&self, key: &Key, work: &Name) -> Result<bool, Error> {
        self.release(key, work).await
    }

    /// The work could not be handed on: the next who offers it is fresh.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn withdraw(&self, key: &Key, work: &Name) -> Result<bool, Error> {
        self.release(key, work).await
    }

    /// A version that is newer than all before it. The same work gets the same again, as long as nobody came after it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn next_version(&self, key: &Key, work: &Name) -> Result<i64, Error> {
        answer!(self, Op::Bump { key: key.clone(), token: work.clone() }, Reply::Count)
    }

    /// Whether work of this version is still worth doing. A version that nobody remembers is: better twice than never.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn freshness(&self, key: &Key, version: i64) -> Result<Freshness, Error> {
        let newest = answer!(self, Op::Version { key: key.clone() }, Reply::Count)?;
        Ok(if newest > version { Freshness::Overtaken { by: newest } } else { Freshness::Latest })
    }

    /// Adds to the statistics of a request. Count `number` up with each addition: the same one counts once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stats_add(
        &self,
        space: &Name,
        request: &Name,
        number: u64,
        stats: Stats,
    ) -> Result<Stats, Error> {
        let from = self.instance().clone();
        let op = Op::StatsAdd { space: space.clone(), request: request.clone(), from, seq: number, stats };
        answer!(self, op, Reply::Stats)
    }

    /// Takes the statistics of a request away, as a whole.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stats_take(&self, space: &Name, request: &Name) -> Result<Option<Stats>, Error> {
        let op = Op::StatsTake { space: space.clone(), request: request.clone(), token: self.token() };
        answer!(self, op, Reply::Taken)
    }
}
