//! The words of the master: times, tenants, nodes, versions, tiers, and what an object is called.

/// Time since some fixed moment, in milliseconds; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// A tenant, by its place in the table of tenants. Get one from [`Master::tenant`](super::Master::tenant).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(pub(crate) u16);

/// A node, by its place in the table of nodes: the same for the same stable id, for as long as the master lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub(crate) u16);

/// What was put under a key by one put. A later put of the same key has a greater one.
///
/// The upper bits are the master's term, so that a master that takes over gives out greater ones than any before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A group whose members leave memory together; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u32);

/// Where a copy lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// In a node's arena.
    Memory,
    /// In a node's segments.
    Disk,
}

/// Whether a copy may be evicted from memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    /// When its turn comes.
    #[default]
    None,
    /// When nothing else can.
    Soft,
    /// Never.
    Hard,
}

/// What an object is called: whose it is, and its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Whose.
    pub tenant: Tenant,
    /// Any bytes.
    pub key: Box<[u8]>,
}

/// What a block of tokens is known as; the master hands it on and never reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Its prefix hash.
    pub hash: [u8; 32],
    /// That of the block before it.
    pub parent: Option<[u8; 32]>,
    /// The hash of its own tokens.
    pub tokens: u64,
}

// === impls ===

impl Millis {
    /// So much later.
    #[must_use]
    pub fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// How long ago `earlier` was; nothing if it is yet to come.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<std::time::Duration> for Millis {
    fn from(time: std::time::Duration) -> Self {
        Self(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Tenant {
    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl Node {
    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    pub(super) fn at(self) -> usize {
        self.0.into()
    }
}

impl Tier {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Disk];

    pub(super) fn at(self) -> usize {
        self as usize
    }
}

impl Group {
    /// No group.
    pub const NONE: Self = Self(0);
}
