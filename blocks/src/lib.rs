//! Token blocks, their hashes, and the words for where they live.
//!
//! Every other room speaks these words. Nothing here does I/O, reads a clock or
//! waits: tokens go in, hashes come out.
//!
//! ```
//! use blocks::{BlockSize, Chain, Hasher, Seed};
//!
//! let hasher = Hasher::new(BlockSize::new(16).unwrap(), Seed::PLAIN);
//! let mut chain = Chain::new(hasher);
//! chain.extend(&(0..40).collect::<Vec<u32>>());
//! assert_eq!(chain.prefix_hashes().len(), 2); // eight tokens wait for a full block
//! ```

mod chain;
mod event;
mod hash;
mod hasher;
mod place;

pub use chain::Chain;
pub use event::{Block, Event, Stored};
pub use hash::{EngineHash, PrefixHash, Seed, TokensHash};
pub use hasher::{BlockSize, Hasher, MultimodalHashes, Shape};
pub use place::{Tier, View, Worker};
