//! How what nodes and masters say to each other is written as bytes: numbers little-endian, lengths before what they measure.
//!
//! Tenants are written by their names, for each process numbers them for itself; moments as milliseconds from now, for each has a
//! clock of its own. Whatever is read was written by somebody else: it is bounded by the bytes that are there, and what makes no
//! sense is [`Broken`].

use smallvec::SmallVec;
use std::sync::Arc;

use crate::master::name::{Block, Group, Millis, Name, Node, Pin, Tenant, Tier, Version};
use crate::master::{
    Committed, Copying, Error, Found, Glance, Hit, Inventory, Item, Joined, Life, News, Order, PutId,
    Reckoned, Refused, Reserved, Staging, TaskId, Terms, Ticket, Wait, WaitFor, When,
};

/// What was read makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} that makes no sense")]
pub struct Broken(pub &'static str);

/// Whoever knows what the numbers of this process are called outside.
pub trait Names {
    /// Now.
    fn now(&self) -> Millis;
    /// What a tenant is called.
    fn name(&self, tenant: Tenant) -> Arc<str>;
    /// Its number; `None` if there are too many.
    fn tenant(&self, name: &str) -> Option<Tenant>;
}

/// Writes.
pub struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    names: &'a dyn Names,
    now: Millis,
}

/// Reads.
pub struct Reader<'a> {
    bytes: &'a [u8],
    names: &'a dyn Names,
    now: Millis,
}

/// What can be written and read.
pub trait Wire<'a>: Sized {
    /// As bytes.
    fn write(&self, to: &mut Writer<'_>);
    /// What [`Wire::write`] wrote.
    ///
    /// # Errors
    /// [`Broken`].
    fn read(from: &mut Reader<'a>) -> Result<Self, Broken>;
}

/// Places that are made ahead of what was read: a count is only believed as far.
const AHEAD: usize = 256;

// === impl Writer, impl Reader ===

impl<'a> Writer<'a> {
    /// Writes behind what is there.
    pub fn new(out: &'a mut Vec<u8>, names: &'a dyn Names) -> Self {
        Self { out, now: names.now(), names }
    }

    /// One thing more.
    pub fn put<'w>(&mut self, what: &impl Wire<'w>) -> &mut Self {
        what.write(self);
        self
    }

    /// The last thing.
    pub fn add<'w>(&mut self, what: &impl Wire<'w>) {
        what.write(self);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn counted(&mut self, bytes: &[u8]) {
        self.put(&(bytes.len() as u32));
        self.raw(bytes);
    }
}

impl<'a> Reader<'a> {
    /// Reads from the beginning.
    pub fn new(bytes: &'a [u8], names: &'a dyn Names) -> Self {
        Self { bytes, now: names.now(), names }
    }

    /// The next thing.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn take<T: Wire<'a>>(&mut self) -> Result<T, Broken> {
        T::read(self)
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn end(self) -> Result<(), Broken> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Broken("something longer than it should be")) }
    }

    fn raw<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(Broken("something cut short"))?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn counted(&mut self) -> Result<&'a [u8], Broken> {
        let len = self.take::<u32>()? as usize;
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(Broken("a length"))?;
        self.bytes = rest;
        Ok(taken)
    }
}

// === Plain things ===

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl<'a> Wire<'a> for $number {
            fn write(&self, to: &mut Writer<'_>) {
                to.raw(&self.to_le_bytes());
            }
            fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
                from.raw().map(Self::from_le_bytes)
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64);

/// Things that are written as their parts, one after the other.
macro_rules! parts {
    ($($what:ident { $($part:ident),* })*) => {$(
        impl<'a> Wire<'a> for $what {
            fn write(&self, to: &mut Writer<'_>) {
                $(to.put(&self.$part);)*
            }
            fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
                $(let $part = from.take()?;)*
                Ok(Self { $($part),* })
            }
        }
    )*};
}

/// Things that are written as a number.
macro_rules! kinds {
    ($($what:ident { $($kind:ident = $number:literal),* })*) => {$(
        impl<'a> Wire<'a> for $what {
            fn write(&self, to: &mut Writer<'_>) {
                let number: u8 = match self { $(Self::$kind => $number),* };
                to.put(&number);
            }
            fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
                match from.take::<u8>()? {
                    $($number => Ok(Self::$kind),)*
                    _ => Err(Broken(stringify!($what))),
                }
            }
        }
    )*};
}

/// Things that are something else inside.
macro_rules! wrapped {
    ($($what:ident)*) => {$(
        impl<'a> Wire<'a> for $what {
            fn write(&self, to: &mut Writer<'_>) {
                to.put(&self.0);
            }
            fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
                from.take().map($what)
            }
        }
    )*};
}

/// Things that are only handed on.
macro_rules! handed {
    ($($what:ident)*) => {$(
        impl<'a> Wire<'a> for $what {
            fn write(&self, to: &mut Writer<'_>) {
                to.put(&self.raw());
            }
            fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
                from.take().map($what::of)
            }
        }
    )*};
}

impl<'a> Wire<'a> for bool {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&u8::from(*self));
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        match from.take::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Broken("a yes or no")),
        }
    }
}

impl<'a> Wire<'a> for () {
    fn write(&self, _: &mut Writer<'_>) {}

    fn read(_: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(())
    }
}

impl<'a> Wire<'a> for [u8; 32] {
    fn write(&self, to: &mut Writer<'_>) {
        to.raw(self);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        from.raw()
    }
}

impl<'a> Wire<'a> for &'a [u8] {
    fn write(&self, to: &mut Writer<'_>) {
        to.counted(self);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        from.counted()
    }
}

impl<'a> Wire<'a> for Box<[u8]> {
    fn write(&self, to: &mut Writer<'_>) {
        to.counted(self);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        from.counted().map(Into::into)
    }
}

impl<'a> Wire<'a> for String {
    fn write(&self, to: &mut Writer<'_>) {
        to.counted(self.as_bytes());
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        std::str::from_utf8(from.counted()?).map(Into::into).map_err(|_| Broken("a text"))
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.is_some());
        if let Some(some) = self {
            to.put(some);
        }
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        if from.take()? { from.take().map(Some) } else { Ok(None) }
    }
}

impl<'a, T: Wire<'a>, E: Wire<'a>> Wire<'a> for Result<T, E> {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.is_ok());
        match self {
            Ok(good) => to.put(good),
            Err(bad) => to.put(bad),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        if from.take()? { from.take().map(Ok) } else { from.take().map(Err) }
    }
}

impl<'a, A: Wire<'a>, B: Wire<'a>> Wire<'a> for (A, B) {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.0).put(&self.1);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok((from.take()?, from.take()?))
    }
}

impl<'a, A: Wire<'a>, B: Wire<'a>, C: Wire<'a>> Wire<'a> for (A, B, C) {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.0).put(&self.1).put(&self.2);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok((from.take()?, from.take()?, from.take()?))
    }
}

fn many<'a, T: Wire<'a>>(from: &mut Reader<'a>, mut add: impl FnMut(T)) -> Result<(), Broken> {
    let count = from.take::<u32>()? as usize;
    // Nothing that is listed is written as nothing.
    if count > from.bytes.len() {
        return Err(Broken("a count"));
    }
    (0..count).try_for_each(|_| from.take().map(&mut add))
}

impl<'a, T: Wire<'a>> Wire<'a> for Vec<T> {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&(self.len() as u32));
        for one in self {
            to.add(one);
        }
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        let mut all = Self::with_capacity(AHEAD.min(from.bytes.len() / 4));
        many(from, |one| all.push(one))?;
        Ok(all)
    }
}

impl<'a> Wire<'a> for SmallVec<[Node; 4]> {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&(self.len() as u32));
        for one in self {
            to.add(one);
        }
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        let mut all = Self::new();
        many(from, |one| all.push(one))?;
        Ok(all)
    }
}

// === Words of the master ===

wrapped! { Node Version Group }
handed! { PutId TaskId Ticket }

kinds! {
    Tier { Memory = 0, Disk = 1 }
    Pin { None = 0, Soft = 1, Hard = 2 }
    When { Always = 0, Absent = 1, Present = 2 }
    WaitFor { Space = 0, Slot = 1, Quota = 2 }
    Reckoned { Shown = 0, Pending = 1, No = 2 }
}

parts! {
    Name { tenant, key }
    Block { hash, parent, tokens }
    Item { name, version, size, tier, pin, group, block, ends, doubtful }
    Copying { name, version, size, deadline, heat, ends }
    Reserved { put, node }
    Terms { when, life, block, drops }
    Wait { what, node, ticket, until }
    Staging { target, version, deadline }
    Joined { node, inventory }
}

impl<'a> Wire<'a> for Millis {
    /// Milliseconds from now; the end of time stays that.
    fn write(&self, to: &mut Writer<'_>) {
        let from_now = if self.0 == u64::MAX { u64::MAX } else { self.since(to.now) };
        to.put(&from_now);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        let now = from.now;
        from.take().map(|from_now| now.plus(from_now))
    }
}

impl<'a> Wire<'a> for Tenant {
    fn write(&self, to: &mut Writer<'_>) {
        let name = to.names.name(*self);
        to.counted(name.as_bytes());
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        let name = std::str::from_utf8(from.counted()?).map_err(|_| Broken("the name of a tenant"))?;
        from.names.tenant(name).ok_or(Broken("a tenant too many"))
    }
}

impl<'a> Wire<'a> for Inventory {
    fn write(&self, to: &mut Writer<'_>) {
        let from = match self {
            Self::Snapshot => None,
            Self::From(position) => Some(*position),
        };
        to.put(&from);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(from.take::<Option<u64>>()?.map_or(Self::Snapshot, Self::From))
    }
}

impl<'a> Wire<'a> for Life {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Open => to.put(&0_u8),
            Self::Until(ends) => to.put(&1_u8).put(ends),
            Self::Kept => to.put(&2_u8),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        match from.take::<u8>()? {
            0 => Ok(Self::Open),
            1 => from.take().map(Self::Until),
            2 => Ok(Self::Kept),
            _ => Err(Broken("a life")),
        }
    }
}

impl<'a> Wire<'a> for Committed {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Stored(version) => to.put(&0_u8).put(version),
            Self::Overtaken => to.put(&1_u8),
            Self::Unchanged => to.put(&2_u8),
            Self::Replaced { version, old } => to.put(&3_u8).put(version).put(old),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        match from.take::<u8>()? {
            3 => Ok(Self::Replaced { version: from.take()?, old: from.take()? }),
            0 => from.take().map(Self::Stored),
            1 => Ok(Self::Overtaken),
            2 => Ok(Self::Unchanged),
            _ => Err(Broken("what became of a put")),
        }
    }
}

impl<'a> Wire<'a> for Glance {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Here { size, ends } => to.put(&0_u8).put(size).put(ends),
            Self::Unknown => to.put(&1_u8),
            Self::Absent => to.put(&2_u8),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        match from.take::<u8>()? {
            0 => Ok(Self::Here { size: from.take()?, ends: from.take()? }),
            1 => Ok(Self::Unknown),
            2 => Ok(Self::Absent),
            _ => Err(Broken("a glance")),
        }
    }
}

impl<'a> Wire<'a> for Found {
    /// What came of trying to promote it is the master's own affair.
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Here(hit) => {
                to.put(&0_u8).put(&hit.version).put(&hit.size).put(&hit.memory).put(&hit.disk);
            }
            Self::Unknown => to.add(&1_u8),
            Self::Absent => to.add(&2_u8),
        }
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        match from.take::<u8>()? {
            0 => {
                let (version, size) = from.take()?;
                let (memory, disk) = from.take()?;
                Ok(Self::Here(Hit { version, size, memory, disk, promotion: None }))
            }
            1 => Ok(Self::Unknown),
            2 => Ok(Self::Absent),
            _ => Err(Broken("what was found")),
        }
    }
}

impl<'a> Wire<'a> for News {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Released { version, tier } => to.put(&0_u8).put(version).put(tier),
            Self::Offloaded { name, version } => to.put(&1_u8).put(name).put(version),
            Self::OffloadFailed { name, version } => to.put(&2_u8).put(name).put(version),
            Self::Lost { name, version, tier } => to.put(&3_u8).put(name).put(version).put(tier),
            Self::Adopted(item) => to.put(&4_u8).put(item),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(match from.take::<u8>()? {
            0 => Self::Released { version: from.take()?, tier: from.take()? },
            1 => Self::Offloaded { name: from.take()?, version: from.take()? },
            2 => Self::OffloadFailed { name: from.take()?, version: from.take()? },
            3 => Self::Lost { name: from.take()?, version: from.take()?, tier: from.take()? },
            4 => Self::Adopted(from.take()?),
            _ => return Err(Broken("news")),
        })
    }
}

impl<'a> Wire<'a> for Order {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Drop { name, version, tier } => to.put(&0_u8).put(name).put(version).put(tier),
            Self::CancelPut { name, put } => to.put(&1_u8).put(name).put(put),
            Self::CancelTask { name, task } => to.put(&2_u8).put(name).put(task),
            Self::Offload(copying) => to.put(&3_u8).put(copying),
            Self::Promote(task, copying) => to.put(&4_u8).put(task).put(copying),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(match from.take::<u8>()? {
            0 => Self::Drop { name: from.take()?, version: from.take()?, tier: from.take()? },
            1 => Self::CancelPut { name: from.take()?, put: from.take()? },
            2 => Self::CancelTask { name: from.take()?, task: from.take()? },
            3 => Self::Offload(from.take()?),
            4 => Self::Promote(from.take()?, from.take()?),
            _ => return Err(Broken("an order")),
        })
    }
}

/// What there can be too many of: a text that is not made at run time.
const TABLES: [&str; 4] = ["nodes", "tenants", "objects in a shard", "members of a group"];

impl<'a> Wire<'a> for Error {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Stale => to.put(&0_u8),
            Self::UnknownNode => to.put(&1_u8),
            Self::NotExact => to.put(&2_u8),
            Self::WrongHolder => to.put(&3_u8),
            Self::WrongSize { expected } => to.put(&4_u8).put(expected),
            Self::Twice => to.put(&5_u8),
            Self::NoMemory => to.put(&6_u8),
            Self::Absent => to.put(&7_u8),
            Self::Leaving => to.put(&8_u8),
            Self::Gap { expected } => to.put(&9_u8).put(expected),
            Self::OldLife => to.put(&10_u8),
            Self::TooMany { what, most } => {
                let what = TABLES.iter().position(|table| table == what).unwrap_or(TABLES.len());
                to.put(&11_u8).put(&(what as u8)).put(&(*most as u64))
            }
            Self::Taken => to.put(&12_u8),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(match from.take::<u8>()? {
            0 => Self::Stale,
            1 => Self::UnknownNode,
            2 => Self::NotExact,
            3 => Self::WrongHolder,
            4 => Self::WrongSize { expected: from.take()? },
            5 => Self::Twice,
            6 => Self::NoMemory,
            7 => Self::Absent,
            8 => Self::Leaving,
            9 => Self::Gap { expected: from.take()? },
            10 => Self::OldLife,
            11 => {
                let what = TABLES.get(usize::from(from.take::<u8>()?)).copied().unwrap_or("of its kind");
                Self::TooMany { what, most: usize::try_from(from.take::<u64>()?).unwrap_or(usize::MAX) }
            }
            12 => Self::Taken,
            _ => return Err(Broken("an error")),
        })
    }
}

impl<'a> Wire<'a> for Refused {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::Wait(wait) => to.put(&0_u8).put(wait),
            Self::Exists(version) => to.put(&1_u8).put(version),
            Self::TooLarge { size, most } => to.put(&2_u8).put(size).put(most),
            Self::Full => to.put(&3_u8),
            Self::NoNode => to.put(&4_u8),
            Self::Other(error) => to.put(&5_u8).put(error),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(match from.take::<u8>()? {
            0 => Self::Wait(from.take()?),
            1 => Self::Exists(from.take()?),
            2 => Self::TooLarge { size: from.take()?, most: from.take()? },
            3 => Self::Full,
            4 => Self::NoNode,
            5 => Self::Other(from.take()?),
            _ => return Err(Broken("a refusal")),
        })
    }
}
