//! The primitives, one typed method each.

use std::time::Duration;

use bytes::Bytes;

use crate::coord::Coord;
use crate::error::Error;
use crate::name::{Key, Name, Shard};
use crate::op::{Claimed, Expect, Op, Put, Reply, Value};

/// Takes the one reply that an operation can have.
macro_rules! answer {
    ($coord:expr, $op:expr, $reply:path) => {{
        let op = $op;
        match $coord.ask(&op).await? {
            $reply(reply) => Ok(reply),
            other => Err($crate::primitives::odd(&op, &other)),
        }
    }};
}
pub(crate) use answer;

/// A backend that answers something else than it was asked has a bug.
pub(crate) fn odd(op: &Op, reply: &Reply) -> Error {
    Error::Invalid(format!("the backend answered `{}` with {reply:?}", op.name()))
}

impl Coord {
    /// Adds to a counter, which starts at zero. An answer that is lost is `OutcomeUnknown`: it is never added twice.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn add(&self, key: &Key, by: i64) -> Result<i64, Error> {
        answer!(self, Op::Add { key: key.clone(), by }, Reply::Count)
    }

    /// What a counter stands at.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count(&self, key: &Key) -> Result<i64, Error> {
        answer!(self, Op::Count { key: key.clone() }, Reply::Count)
    }

    /// Claims a key for a token, or renews its claim. The fence tells its holder from every earlier one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn claim(&self, key: &Key, token: &Name, ttl: Duration) -> Result<Claimed, Error> {
        answer!(self, Op::Claim { key: key.clone(), token: token.clone(), ttl }, Reply::Claimed)
    }

    /// Goes on holding a claim; `NotFound` if its time was over, `Fenced` if another token has it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn renew(&self, key: &Key, token: &Name, ttl: Duration) -> Result<u64, Error> {
        answer!(self, Op::Renew { key: key.clone(), token: token.clone(), ttl }, Reply::Fence)
    }

    /// Lets a claim go; whether this token held it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn release(&self, key: &Key, token: &Name) -> Result<bool, Error> {
        answer!(self, Op::Release { key: key.clone(), token: token.clone() }, Reply::Found)
    }

    /// Who holds a claim, with which fence, and for how long unless renewed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn holder(&self, key: &Key) -> Result<Option<(Name, u64, Duration)>, Error> {
        answer!(self, Op::Holder { key: key.clone() }, Reply::Holder)
    }

    /// Puts members into a set; its size.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn join(&self, key: &Key, members: Vec<Bytes>) -> Result<u64, Error> {
        answer!(self, Op::Join { key: key.clone(), members }, Reply::Size)
    }

    /// Takes members out of a set; its size.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn part(&self, key: &Key, members: Vec<Bytes>) -> Result<u64, Error> {
        answer!(self, Op::Part { key: key.clone(), members }, Reply::Size)
    }

    /// The members of a set, sorted.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn members(&self, key: &Key) -> Result<Vec<Bytes>, Error> {
        answer!(self, Op::Members { key: key.clone() }, Reply::Values)
    }

    /// Appends to a list; its length. An answer that is lost is `OutcomeUnknown`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn push(&self, key: &Key, value: Bytes) -> Result<u64, Error> {
        answer!(self, Op::Push { key: key.clone(), value }, Reply::Size)
    }

    /// A list, in order.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self, key: &Key) -> Result<Vec<Bytes>, Error> {
        answer!(self, Op::List { key: key.clone() }, Reply::Values)
    }

    /// A value.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        answer!(self, Op::Get { key: key.clone() }, Reply::Value)
    }

    /// Writes a value if what is expected holds, and if nobody with a later fence has written.
    ///
    /// # Errors
    /// `Fenced`, and see [`Error`].
    pub async fn put(&self, key: &Key, value: Bytes, expect: Expect, fence: u64) -> Result<Put, Error> {
        answer!(self, Op::Put { key: key.clone(), value, expect, fence, ttl: None }, Reply::Put)
    }

    /// Sets how long a key lives from now; whether it is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn expire(&self, key: &Key, ttl: Duration) -> Result<bool, Error> {
        answer!(self, Op::Expire { key: key.clone(), ttl }, Reply::Found)
    }

    /// Removes a key of whatever type; whether it was there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: &Key) -> Result<bool, Error> {
        answer!(self, Op::Delete { key: key.clone() }, Reply::Found)
    }

    /// Writes a row of a table that all replicas share; its stamp. A stamp other than zero writes only over older rows.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn table_put(
        &self,
        table: &Name,
        field: &Name,
        value: Bytes,
        stamp: u64,
    ) -> Result<u64, Error> {
        let (table, field) = (table.clone(), field.clone());
        answer!(self, Op::TablePut { table, field, value, stamp }, Reply::Stamp)
    }

    /// All rows of a table: field, value, stamp.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn table(&self, table: &Name) -> Result<Vec<(Name, Bytes, u64)>, Error> {
        answer!(self, Op::Table { table: table.clone() }, Reply::Table)
    }

    /// Tells everybody who listens; may be lost on the way.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tell(&self, shard: Shard, notice: Bytes) -> Result<bool, Error> {
        answer!(self, Op::Tell { shard, notice }, Reply::Found)
    }
}
