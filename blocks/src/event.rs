//! What a cache says about itself, after decoding: the one vocabulary between stream and index.

use crate::{EngineHash, Tier, TokensHash};

/// One change of one worker's cache. Order matters: events are applied as they were said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Blocks came in, each the child of the one before it.
    Stored(Stored),
    /// One copy of each of these blocks went away from a tier.
    Removed {
        /// The engine's names for them.
        blocks: Vec<EngineHash>,
        /// Where they lay.
        tier: Tier,
    },
    /// Everything went away, on every tier.
    Cleared,
}

/// A run of blocks that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The block before the first; `None` at the beginning of a prompt.
    pub parent: Option<EngineHash>,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
    /// Where they lie now.
    pub tier: Tier,
}

/// A block as both sides name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The engine's own name, by which it will be removed.
    pub engine: EngineHash,
    /// What it says.
    pub tokens: TokensHash,
}
