//! What a node asks of a master, as a message: each is one method of [`Desk`](crate::node::desk::Desk).

use super::codec::{Broken, Reader, Wire, Writer};
use crate::master::name::{Millis, Name, Node, Tenant, Version};
use crate::master::{Item, News, Put, PutId, TaskId, Terms, Ticket};

/// One message to a master. What it says of "this node" is about the one that joined on this connection.
#[derive(Debug)]
pub enum Ask<'a> {
    /// Before anything else.
    Join(Join),
    /// With the life.
    BeginInventory(u64),
    /// With the life.
    Inventory(u64, Vec<Item>),
    /// With the life and the position.
    EndInventory(u64, u64),
    /// With the life and the position.
    Tell(u64, u64, News),
    /// Of so many bytes.
    TakeOrders(u64),
    /// Whether there are orders.
    Pending,
    /// Memory for a promotion of so many bytes.
    Allocate(TaskId, u64),
    /// A promotion is complete.
    Promoted(TaskId),
    /// A promotion failed, and why.
    Failed(TaskId, String),
    /// How the master reckons with a copy in memory here.
    Reckons(Name, Version),
    /// Where objects can be read.
    Get(Tenant, Vec<&'a [u8]>),
    /// What is seen of objects without reading them.
    Glance(Tenant, Vec<&'a [u8]>),
    /// Space for a put.
    Reserve(Put<'a>),
    /// A put is whole.
    Commit(PutId, Terms),
    /// A put will not be.
    Revoke(PutId),
    /// A put will not be, and its bytes may be somewhere.
    Abandon(PutId),
    /// A place in the line is given up.
    ForgetTicket(Ticket),
    /// So many bytes should leave.
    MakeRoom(u64),
    /// Answered by a frame of its own, when something became free there.
    Freed(Node),
    /// Objects go.
    Remove(Tenant, Vec<&'a [u8]>),
    /// All that begin like this go, a shard at a time.
    RemovePrefix(Tenant, &'a [u8], u64),
    /// Keys from a cursor on.
    Scan(Tenant, u64, u64),
    /// How many keys.
    Count(Tenant),
    /// Objects will be read.
    Warm(Tenant, Vec<&'a [u8]>, Millis),
    /// What holds these blocks will be read.
    WarmBlocks(Vec<u64>, Millis),
    /// A promise is taken back.
    Cool(u64),
}

/// A node that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Its stable id.
    pub id: String,
    /// Which life of it.
    pub life: u64,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of its disk.
    pub disk: u64,
    /// Where it listens for other nodes.
    pub address: String,
    /// Nodes that the master before had, by their ids: until they come or are lost, what is not found may be theirs.
    pub knows: Vec<String>,
}

/// How warming began: the number of the promise, how many are known, how many on their way.
pub type Promised = (u64, u64, u64);

impl<'a> Wire<'a> for Join {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.id)
            .put(&self.life)
            .put(&self.memory)
            .put(&self.disk)
            .put(&self.address)
            .put(&self.knows);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(Self {
            id: from.take()?,
            life: from.take()?,
            memory: from.take()?,
            disk: from.take()?,
            address: from.take()?,
            knows: from.take()?,
        })
    }
}

impl<'a> Wire<'a> for Put<'a> {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.tenant).put(&self.key).put(&self.size).put(&self.prefer).put(&self.pin);
        to.put(&self.group).put(&self.block).put(&self.only_new).put(&self.ticket);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(Self {
            tenant: from.take()?,
            key: from.take()?,
            size: from.take()?,
            prefer: from.take()?,
            pin: from.take()?,
            group: from.take()?,
            block: from.take()?,
            only_new: from.take()?,
            ticket: from.take()?,
        })
    }
}

/// The messages, each with its number and what it is made of.
macro_rules! asks {
    ($($ask:ident $number:literal ($($part:ident),*))*) => {
        impl<'a> Wire<'a> for Ask<'a> {
            fn write(&self, to: &mut Writer<'_>) {
                match self {
                    $(asks!(@pattern $ask $($part),*) => {
                        to.put(&$number);
                        $(to.put($part);)*
                    })*
                }
            }

            fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
                match from.take::<u8>()? {
                    $($number => {
                        $(let $part = from.take()?;)*
                        Ok(asks!(@make $ask $($part),*))
                    })*
                    _ => Err(Broken("a question")),
                }
            }
        }
    };
    (@pattern $ask:ident) => { Self::$ask };
    (@pattern $ask:ident $($part:ident),+) => { Self::$ask($($part),+) };
    (@make $ask:ident) => { Self::$ask };
    (@make $ask:ident $($part:ident),+) => { Self::$ask($($part),+) };
}

asks! {
    Join 0_u8 (join)
    BeginInventory 1_u8 (life)
    Inventory 2_u8 (life, items)
    EndInventory 3_u8 (life, position)
    Tell 4_u8 (life, position, news)
    TakeOrders 5_u8 (budget)
    Pending 6_u8 ()
    Allocate 7_u8 (task, size)
    Promoted 8_u8 (task)
    Failed 9_u8 (task, error)
    Reckons 10_u8 (name, version)
    Get 11_u8 (tenant, keys)
    Glance 12_u8 (tenant, keys)
    Reserve 13_u8 (put)
    Commit 14_u8 (put, terms)
    Revoke 15_u8 (put)
    Abandon 16_u8 (put)
    ForgetTicket 17_u8 (ticket)
    MakeRoom 18_u8 (bytes)
    Freed 19_u8 (node)
    Remove 20_u8 (tenant, keys)
    RemovePrefix 21_u8 (tenant, prefix, cursor)
    Scan 22_u8 (tenant, cursor, most)
    Count 23_u8 (tenant)
    Warm 24_u8 (tenant, keys, deadline)
    WarmBlocks 25_u8 (prefixes, deadline)
    Cool 26_u8 (promise)
}
