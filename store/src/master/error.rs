//! Why the master says no, and what to do then.

use super::name::{Millis, Node, Version};
use super::put::Ticket;

/// Why a move was refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What it is about was displaced, cancelled or reaped, or another master gave it out. Drop the work; do not retry.
    #[error("this was given up in the meantime; drop what was transferred")]
    Stale,
    /// No node of that number ever joined. Join first.
    #[error("no such node; it must join first")]
    UnknownNode,
    /// The node's inventory is not complete, or it is away. Finish the inventory first.
    #[error("the node's inventory is not complete; send a snapshot first")]
    NotExact,
    /// Another node has that task. Drop the work.
    #[error("another node has this task")]
    WrongHolder,
    /// The object is of another size.
    #[error("the object has {expected} bytes")]
    WrongSize {
        /// What it has.
        expected: u64,
    },
    /// Memory for this task was given out already.
    #[error("memory for this task was given out already")]
    Twice,
    /// No memory now. The task is ended; the master tries again by itself.
    #[error("no memory for this promotion now; the master tries again")]
    NoMemory,
    /// There is no such object.
    #[error("no such object")]
    Absent,
    /// The object's group is leaving memory. Try again in a moment.
    #[error("the object's group is leaving memory; try again")]
    Leaving,
    /// A delta does not follow the last. Send a snapshot.
    #[error("the next delta has position {expected}; send a snapshot")]
    Gap {
        /// What would have followed.
        expected: u64,
    },
    /// Another life of the node has joined since. Join again.
    #[error("another life of this node has joined; join again")]
    OldLife,
    /// Another process speaks for this node and is alive: a copied data folder, or an id that is set twice. Try again in a while.
    #[error(
        "another process has the id of this node, and is alive: is its data folder a copy, or `tiers.id` set twice?"
    )]
    Taken,
    /// A table of fixed size is full.
    #[error("there is room for {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
}

/// Why a put was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not yet: ask again with the same ticket when woken, until `until`.
    #[error("not yet: waits for {}", .0.what)]
    Wait(Wait),
    /// It is there already, and the put was to be of something new.
    #[error("the object exists already")]
    Exists(Version),
    /// No node has so much memory, or values may not be so large, or the tenant may not use so much.
    #[error("{size} bytes are more than the {most} that may be put here")]
    TooLarge {
        /// What was to be put.
        size: u64,
        /// What could be.
        most: u64,
    },
    /// Too many wait, or this one waited too long. Drop the value, or try much later.
    #[error("memory is full, and nothing became free in time")]
    Full,
    /// No node takes puts now.
    #[error("no node takes puts now")]
    NoNode,
    /// Something else; see there.
    #[error(transparent)]
    Other(#[from] Error),
}

/// What a put waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What.
    pub what: WaitFor,
    /// Where.
    pub node: Option<Node>,
    /// Its place in the line for space.
    pub ticket: Option<Ticket>,
    /// After that it is refused.
    pub until: Millis,
}

/// What a put waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Memory; eviction has been started.
    Space,
    /// One of the node's transfers to end.
    Slot,
    /// The tenant's own objects to leave.
    Quota,
}

impl std::fmt::Display for WaitFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Space => "memory",
            Self::Slot => "a transfer to end",
            Self::Quota => "memory within the tenant's quota",
        })
    }
}
