//! The bytes of every row: keys that sort as they should, and values with a version. Drawn in `docs/format.md`.
//!
//! Numbers are big-endian, in keys and in values. Nothing here knows what a row is for.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::entry::{Cost, Item, Order, Outcome, Stage, Terms};
use crate::limits::{Limits, Rate};
use crate::log::{Error, Span, Table, stamp};
use crate::name::{CLASSES, Class, Key, Millis, QueueName, Seq};
use crate::scheduler::{Debt, DebtOf};

/// The version of each value: that of the log.
const VERSION: u8 = stamp::FORMAT as u8;

/// Names of rows in [`Table::Meta`].
pub mod meta {
    /// The partition that this log holds.
    pub const PARTITION: &[u8] = b"partition";
    /// The fence of its owner.
    pub const FENCE: &[u8] = b"fence";
    /// No timer is before this time.
    pub const DUE: &[u8] = b"due";
    /// Sequence numbers below this one may have been given.
    pub const NEXT: &[u8] = b"next";
}

/// What a queue is.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueRow {
    /// Its name.
    pub name: QueueName,
    /// What it is.
    pub terms: Terms,
    /// Held back by an operator.
    pub paused: bool,
    /// Stays when it is empty.
    pub pinned: bool,
    /// No entry of a class is ready below this. `None`: there never was one.
    pub low: [Option<Key>; CLASSES],
}

/// An entry without its payload, which follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its queue.
    pub queue: u64,
    /// Its queue's name, and what that runs on.
    pub name: QueueName,
    /// What its queue runs on.
    pub target: Box<str>,
    /// How urgent it is.
    pub class: Class,
    /// When it came.
    pub came: Millis,
    /// How long its outcome is kept.
    pub keep: u64,
    /// Its idempotency key.
    pub once: Option<Box<str>>,
    /// What the scheduler knows of it; `attempt` as of the last time it was written: until it is over the row where it is
    /// knows better.
    pub item: Item,
    /// How it ended, and when.
    pub over: Option<(Outcome, Millis)>,
    /// How long the payload is; what follows it is the result.
    pub payload: u32,
}

/// An entry that is at a place other than the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its queue.
    pub queue: u64,
    /// Its class.
    pub class: Class,
    /// Where it is.
    pub stage: Stage,
    /// What the scheduler knows of it.
    pub item: Item,
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Due {
    /// A scheduled entry becomes ready.
    Ready = 0,
    /// An entry can no longer start in time.
    Expire = 1,
    /// The outcome of an entry need not be kept any longer.
    Forget = 2,
}

// === Keys ===

/// The key of a queue or an entry.
pub fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// The key of an entry that is ready.
pub fn inbox(queue: u64, class: Class, key: Key) -> Bytes {
    let mut bytes = BytesMut::with_capacity(25);
    bytes.put_u64(queue);
    bytes.put_u8(class.number() as u8);
    bytes.put_u64(key.at.0);
    bytes.put_u64(key.seq.0);
    bytes.freeze()
}

/// The rows of one lane from a key on.
pub fn lane(queue: u64, class: Class, from: Key) -> Span {
    let mut to = BytesMut::with_capacity(9);
    to.put_u64(queue);
    to.put_u8(class.number() as u8 + 1);
    Span { table: Table::Inbox, from: inbox(queue, class, from), to: to.freeze() }
}

/// The key of an entry of a queue that is aside, or over.
pub fn aside(queue: u64, seq: Seq) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16);
    bytes.put_u64(queue);
    bytes.put_u64(seq.0);
    bytes.freeze()
}

/// The rows of one queue that are aside, or over, from a number on.
pub fn aside_of(queue: u64, from: Seq) -> Span {
    Span { table: Table::Aside, from: aside(queue, from), to: number(queue + 1) }
}

/// The key of something that happens at a time.
pub fn timer(at: Millis, due: Due, seq: Seq) -> Bytes {
    let mut bytes = BytesMut::with_capacity(17);
    bytes.put_u64(at.0);
    bytes.put_u8(due as u8);
    bytes.put_u64(seq.0);
    bytes.freeze()
}

/// The key of an idempotency key of a queue.
pub fn once(name: &QueueName, once: &str) -> Bytes {
    let mut bytes = BytesMut::with_capacity(4 + name.tenant.len() + name.key.len() + once.len());
    put_str(&mut bytes, &name.tenant);
    put_str(&mut bytes, &name.key);
    bytes.put_slice(once.as_bytes());
    bytes.freeze()
}

/// The key of what a tenant owes.
pub fn debt(target: &str, class: Class, tenant: &str) -> Bytes {
    let mut bytes = BytesMut::with_capacity(3 + target.len() + tenant.len());
    bytes.put_u8(class.number() as u8);
    put_str(&mut bytes, target);
    bytes.put_slice(tenant.as_bytes());
    bytes.freeze()
}

/// Everything in a table.
pub fn all(table: Table) -> Span {
    Span { table, from: Bytes::new(), to: Bytes::new() }
}

// === Values ===

impl QueueRow {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(160);
        out.put_u8(VERSION);
        out.put_u8(u8::from(self.paused) | u8::from(self.pinned) << 1);
        for low in &self.low {
            put_option(&mut out, low.as_ref(), |out, low| put_key(out, *low));
        }
        let Terms { target, weight, order, limits } = &self.terms;
        out.put_u32(*weight);
        out.put_u8(match order {
            Order::Fifo => 0,
            Order::Warm => 1,
            Order::Slack => 2,
        });
        let Limits { running, tokens, blocks, starts, work, guaranteed } = limits;
        put_option(&mut out, running.as_ref(), |out, running| out.put_u32(*running));
        put_option(&mut out, tokens.as_ref(), |out, tokens| out.put_u64(*tokens));
        put_option(&mut out, blocks.as_ref(), |out, blocks| out.put_u64(*blocks));
        for rate in [starts, work] {
            put_option(&mut out, rate.as_ref(), |out, rate| {
                out.put_f64(rate.per_second);
                out.put_f64(rate.burst);
            });
        }
        out.put_u32(*guaranteed);
        put_str(&mut out, &self.name.tenant);
        put_str(&mut out, &self.name.key);
        put_str(&mut out, target);
        out.freeze()
    }

    /// From bytes.
    ///
    /// # Errors
    /// A row that is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut row = Reader::new(Table::Queues, bytes)?;
        let flags = row.u8()?;
        let mut low = [None; CLASSES];
        for low in &mut low {
            *low = row.option(Reader::key)?;
        }
        let weight = row.u32()?;
        let order = match row.u8()? {
            0 => Order::Fifo,
            1 => Order::Warm,
            2 => Order::Slack,
            other => return Err(row.damaged(format!("an order of {other}"))),
        };
        let running = row.option(Reader::u32)?;
        let tokens = row.option(Reader::u64)?;
        let blocks = row.option(Reader::u64)?;
        let rate = |row: &mut Reader<'_>| Ok(Rate { per_second: row.f64()?, burst: row.f64()? });
        let starts = row.option(rate)?;
        let work = row.option(rate)?;
        let limits = Limits { running, tokens, blocks, starts, work, guaranteed: row.u32()? };
        let name = QueueName { tenant: row.str()?, key: row.str()? };
        let terms = Terms { target: row.str()?, weight, order, limits };
        Ok(Self { name, terms, paused: flags & 1 != 0, pinned: flags & 2 != 0, low })
    }
}

impl Head {
    /// As bytes, with payload and result behind it.
    pub fn encode(&self, payload: &[u8], result: &[u8]) -> Bytes {
        debug_assert_eq!(payload.len(), self.payload as usize);
        let mut out = BytesMut::with_capacity(128 + payload.len() + result.len());
        out.put_u8(VERSION);
        out.put_u64(self.queue);
        out.put_u8(self.class.number() as u8);
        out.put_u64(self.came.0);
        out.put_u64(self.keep);
        put_option(&mut out, self.over.as_ref(), |out, (outcome, at)| {
            out.put_u8(match outcome {
                Outcome::Done => 0,
                Outcome::Failed => 1,
                Outcome::Cancelled => 2,
                Outcome::Expired => 3,
            });
            out.put_u64(at.0);
        });
        put_option(&mut out, self.once.as_ref(), |out, once| put_str(out, once));
        put_str(&mut out, &self.name.tenant);
        put_str(&mut out, &self.name.key);
        put_str(&mut out, &self.target);
        put_key(&mut out, self.item.key);
        put_item(&mut out, &self.item);
        out.put_u32(self.payload);
        out.put_slice(payload);
        out.put_slice(result);
        out.freeze()
    }

    /// From bytes: with payload and result.
    ///
    /// # Errors
    /// A row that is damaged.
    pub fn decode(bytes: &Bytes) -> Result<(Self, Bytes, Bytes), Error> {
        let mut row = Reader::new(Table::Entries, bytes)?;
        let queue = row.u64()?;
        let class = row.class()?;
        let came = row.millis()?;
        let keep = row.u64()?;
        let over = row.option(|row| {
            let outcome = match row.u8()? {
                0 => Outcome::Done,
                1 => Outcome::Failed,
                2 => Outcome::Cancelled,
                3 => Outcome::Expired,
                other => return Err(row.damaged(format!("an outcome of {other}"))),
            };
            Ok((outcome, row.millis()?))
        })?;
        let once = row.option(Reader::str)?;
        let name = QueueName { tenant: row.str()?, key: row.str()? };
        let target = row.str()?;
        let key = row.key()?;
        let item = row.item(key)?;
        let payload = row.u32()?;
        let at = bytes.len() - row.rest.len();
        row.bytes(payload as usize)?;
        let end = at + payload as usize;
        let head = Self { queue, name, target, class, came, keep, once, item, over, payload };
        Ok((head, bytes.slice(at..end), bytes.slice(end..)))
    }
}

/// What the inbox says of an entry.
pub fn item(item: &Item) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    out.put_u8(VERSION);
    put_item(&mut out, item);
    out.freeze()
}

/// An entry of the inbox, from key and value.
///
/// # Errors
/// A row that is damaged.
pub fn inbox_row(key: &[u8], value: &[u8]) -> Result<(u64, Class, Item), Error> {
    let mut of_key = Reader { table: Table::Inbox, rest: key };
    let (queue, class, key) = (of_key.u64()?, of_key.class()?, of_key.key()?);
    Ok((queue, class, Reader::new(Table::Inbox, value)?.item(key)?))
}

impl Placed {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        out.put_u64(self.queue);
        out.put_u8(self.class.number() as u8);
        out.put_u8(match self.stage {
            Stage::Scheduled => 0,
            Stage::Inbox => 1,
            Stage::Running => 2,
            Stage::Suspended => 3,
            Stage::Paused => 4,
            Stage::Finished => 5,
        });
        put_key(&mut out, self.item.key);
        put_item(&mut out, &self.item);
        out.freeze()
    }

    /// From bytes.
    ///
    /// # Errors
    /// A row that is damaged.
    pub fn decode(table: Table, bytes: &[u8]) -> Result<Self, Error> {
        let mut row = Reader::new(table, bytes)?;
        let (queue, class) = (row.u64()?, row.class()?);
        let stage = match row.u8()? {
            0 => Stage::Scheduled,
            1 => Stage::Inbox,
            2 => Stage::Running,
            3 => Stage::Suspended,
            4 => Stage::Paused,
            5 => Stage::Finished,
            other => return Err(row.damaged(format!("a stage of {other}"))),
        };
        let key = row.key()?;
        Ok(Self { queue, class, stage, item: row.item(key)? })
    }
}

/// A number alone.
///
/// # Errors
/// A row that is damaged.
pub fn one_number(table: Table, bytes: &[u8]) -> Result<u64, Error> {
    Reader { table, rest: bytes }.u64()
}

/// What a timer's key says.
///
/// # Errors
/// A row that is damaged.
pub fn timer_key(key: &[u8]) -> Result<(Millis, Due, Seq), Error> {
    let mut row = Reader { table: Table::Timers, rest: key };
    let at = row.millis()?;
    let due = match row.u8()? {
        0 => Due::Ready,
        1 => Due::Expire,
        2 => Due::Forget,
        other => return Err(row.damaged(format!("something due of kind {other}"))),
    };
    Ok((at, due, Seq(row.u64()?)))
}

/// What a row of debts says: who owes, and what.
///
/// # Errors
/// A row that is damaged.
pub fn debt_row(key: &[u8], value: &[u8]) -> Result<(DebtOf, Debt), Error> {
    let mut row = Reader { table: Table::Debts, rest: key };
    let class = row.class()?;
    let target = row.str()?;
    let tenant = std::str::from_utf8(row.rest).map_err(|error| row.damaged(error.to_string()))?.into();
    let mut row = Reader { table: Table::Debts, rest: value };
    Ok((DebtOf { target, class, tenant }, Debt { tokens: row.u64()?, at: row.u64()? }))
}

/// What a tenant owes, as bytes.
pub fn debt_value(debt: Debt) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16);
    bytes.put_u64(debt.tokens);
    bytes.put_u64(debt.at);
    bytes.freeze()
}

// === Small steps ===

fn put_str(out: &mut BytesMut, text: &str) {
    // Names are bounded; a longer one is refused long before it comes here.
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

fn put_key(out: &mut BytesMut, key: Key) {
    out.put_u64(key.at.0);
    out.put_u64(key.seq.0);
}

fn put_item(out: &mut BytesMut, item: &Item) {
    out.put_u32(item.cost.tokens);
    out.put_u32(item.cost.blocks);
    out.put_u64(item.deadline.map_or(u64::MAX, |deadline| deadline.0));
    out.put_u16(item.attempt);
    out.put_u8(u8::from(item.remembered));
    let hint = item.hint.as_deref().unwrap_or_default();
    out.put_u16(hint.len() as u16);
    out.put_slice(hint);
}

fn put_option<T>(out: &mut BytesMut, value: Option<&T>, put: impl FnOnce(&mut BytesMut, &T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// Takes a row apart, and says what is wrong with it instead of panicking.
struct Reader<'a> {
    table: Table,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(table: Table, bytes: &'a [u8]) -> Result<Self, Error> {
        let mut row = Self { table, rest: bytes };
        match row.u8()? {
            VERSION => Ok(row),
            other => Err(row.damaged(format!("it has version {other}, and {VERSION} is known"))),
        }
    }

    fn damaged(&self, why: String) -> Error {
        Error::Damaged { table: self.table, why }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.damaged(format!("it ends {} bytes too early", N - self.rest.len())));
        };
        self.rest = rest;
        Ok(*taken)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Error> {
        if self.rest.len() < length {
            return Err(self.damaged(format!("it ends {} bytes too early", length - self.rest.len())));
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        Ok(u8::from_be_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn f64(&mut self) -> Result<f64, Error> {
        Ok(f64::from_be_bytes(self.take()?))
    }

    fn millis(&mut self) -> Result<Millis, Error> {
        Ok(Millis(self.u64()?))
    }

    fn key(&mut self) -> Result<Key, Error> {
        Ok(Key { at: self.millis()?, seq: Seq(self.u64()?) })
    }

    fn class(&mut self) -> Result<Class, Error> {
        let number = self.u8()?;
        Class::new(number).ok_or_else(|| self.damaged(format!("a class of {number}")))
    }

    fn str(&mut self) -> Result<Box<str>, Error> {
        let length = self.u16()? as usize;
        let bytes = self.bytes(length)?;
        std::str::from_utf8(bytes).map(Into::into).map_err(|error| self.damaged(error.to_string()))
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<Option<T>, Error> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            other => Err(self.damaged(format!("something is neither there nor not: {other}"))),
        }
    }

    fn item(&mut self, key: Key) -> Result<Item, Error> {
        let cost = Cost { tokens: self.u32()?, blocks: self.u32()? };
        let deadline = Some(self.millis()?).filter(|deadline| deadline.0 != u64::MAX);
        let attempt = self.u16()?;
        let remembered = self.u8()? != 0;
        let length = self.u16()? as usize;
        let hint = Some(self.bytes(length)?).filter(|hint| !hint.is_empty()).map(Arc::from);
        Ok(Item { key, cost, deadline, attempt, overtaken: 0, remembered, hint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let key = Key { at: Millis(9), seq: Seq(4) };
        let hint = Some(Arc::from(&[1_u8, 2, 3][..]));
        let item = Item {
            key,
            cost: Cost { tokens: 5, blocks: 6 },
            deadline: Some(Millis(77)),
            attempt: 2,
            overtaken: 0,
            remembered: true,
            hint,
        };
        Head {
            queue: 7,
            name: QueueName::new("a", "b").expect("sane"),
            target: "m".into(),
            class: Class::LAST,
            came: Millis(3),
            keep: 8,
            once: Some("k".into()),
            item,
            over: Some((Outcome::Expired, Millis(12))),
            payload: 7,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let head = head();
        let bytes = head.encode(b"payload", b"result");
        let want = (head.clone(), Bytes::from_static(b"payload"), Bytes::from_static(b"result"));
        assert_eq!(Head::decode(&bytes).expect("whole"), want);
        let placed = Placed { queue: 7, class: head.class, stage: Stage::Suspended, item: head.item.clone() };
        assert_eq!(Placed::decode(Table::Aside, &placed.encode()).expect("whole"), placed);
        let limits = Limits {
            running: Some(3),
            tokens: None,
            blocks: Some(9),
            starts: Some(Rate { per_second: 0.5, burst: 2.0 }),
            work: None,
            guaranteed: 1,
        };
        let row = QueueRow {
            name: head.name.clone(),
            terms: Terms { target: "m".into(), weight: 3, order: Order::Slack, limits },
            paused: true,
            pinned: false,
            low: [None, Some(head.item.key), None, None],
        };
        assert_eq!(QueueRow::decode(&row.encode()).expect("whole"), row);
        let key = inbox(7, head.class, head.item.key);
        assert_eq!(inbox_row(&key, &item(&head.item)).expect("whole"), (7, head.class, head.item));
    }

    #[test]
    fn a_row_that_was_cut_anywhere_is_damaged_and_nothing_worse() {
        let whole = head().encode(b"payload", b"");
        for length in 0..whole.len() {
            let error = Head::decode(&whole.slice(..length)).expect_err("it was cut");
            assert!(matches!(error, Error::Damaged { table: Table::Entries, .. }), "{length}: {error}");
        }
    }

    #[test]
    fn keys_sort_as_their_entries_do() {
        let key = |class: u8, at: u64, seq: u64| {
            inbox(1, Class::new(class).expect("a class"), Key { at: Millis(at), seq: Seq(seq) })
        };
        let keys = [key(0, 1, 9), key(0, 2, 1), key(0, 256, 0), key(1, 0, 0), key(3, 0, 0)];
        assert!(keys.is_sorted());
        let span = lane(1, Class::FIRST, Key::MIN);
        assert!(keys.iter().filter(|key| **key >= span.from && **key < span.to).count() == 3);
    }
}
