//! What a node asks of other nodes, wherever those are.

use super::desk::Later;
use super::meta::Meta;
use crate::arena::{Block, Filling};
use crate::master::name::{Node, Version};

/// A copy, by names that mean the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// Whose.
    pub tenant: String,
    /// Under which key.
    pub key: Box<[u8]>,
    /// Which version.
    pub version: Version,
}

/// Bytes that go to another node's memory.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Of which object.
    pub which: Which,
    /// What is known of it besides.
    pub meta: Meta,
    /// Whether it shows only if a condition holds.
    pub conditional: bool,
    /// The master under whom it is sent: a node that knows a later one does not take it.
    pub term: u32,
    /// The bytes.
    pub bytes: Block,
}

/// What another node said of a copy that was wanted.
#[derive(Debug)]
pub enum Fetched {
    /// Here it is.
    Here(Block),
    /// It does not have it any more.
    Gone,
    /// It did not answer, and why.
    Silent(String),
}

/// What became of bytes that were sent to another node.
pub enum Sent {
    /// They are there, and the master decides whether they show.
    Placed(Box<dyn Placed>),
    /// They are not there, and nothing of them will be: why.
    Refused(String),
    /// Nobody knows, and why.
    Silent(String),
}

/// What the master made of bytes that another node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They show.
    Shown,
    /// They do not, and the master reckons with them no more.
    NotShown,
    /// The master does not know them.
    Unknown,
}

/// Bytes that another node has and does not show. Dropped without a verdict, that node finds out by itself.
pub trait Placed: Send {
    /// What is to be done with them: that node is told even if nobody waits. The answer says whether it heard.
    fn settle(self: Box<Self>, verdict: Verdict) -> Later<bool>;
}

/// What a node asks of other nodes.
pub trait Peers: Send + Sync + 'static {
    /// The bytes of a copy from `from` on, as many as there is memory for.
    fn fetch(&self, node: Node, which: Which, from: u64, to: Filling) -> Later<Fetched>;
    /// Sends bytes into another node's memory.
    fn send(&self, node: Node, parcel: Parcel) -> Later<Sent>;
}
