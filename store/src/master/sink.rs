//! What the master tells others of its own accord: that somebody has something to do, and where blocks have come to be.

use super::name::{Block, Node, Tenant, Tier, Version};

/// Whom the master wakes. Called under locks: set a flag or notify, and neither wait nor call the master.
pub trait Wake: Send + Sync {
    /// There are orders for this node: see [`Master::take_orders`](super::Master::take_orders).
    fn orders(&self, node: Node);
    /// Memory became free on this node, and puts wait for it.
    fn space(&self, node: Node);
    /// Candidates may be promoted, or memory must be freed: see [`Master::tick`](super::Master::tick).
    fn tick(&self);
}

/// Who is told where blocks are. Called under the lock of the object's shard, so that what is told of one object is in order:
/// write it down, and neither wait nor call the master.
pub trait Residency: Send + Sync {
    /// A copy came or went. Only told of objects that carry a block.
    fn changed(&self, change: &Change<'_>);
}

/// A copy came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// Whose.
    pub tenant: Tenant,
    /// Under which key.
    pub key: &'a [u8],
    /// Which version.
    pub version: Version,
    /// How large.
    pub size: u64,
    /// Which block.
    pub block: &'a Block,
    /// On which node.
    pub node: Node,
    /// In which tier.
    pub tier: Tier,
    /// Whether it is there from now on.
    pub here: bool,
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deaf;

impl Wake for Deaf {
    fn orders(&self, _: Node) {}
    fn space(&self, _: Node) {}
    fn tick(&self) {}
}

impl Residency for Deaf {
    fn changed(&self, _: &Change<'_>) {}
}
