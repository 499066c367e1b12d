//! The three hashes of a block, and the seed that tells apart what must never be shared.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// What one block says, alone: equal content, equal hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TokensHash(pub u64);

/// A block and all before it: one number names a whole prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PrefixHash(pub u64);

/// The name that an engine gave to a block of its own; only that engine can compute it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct EngineHash(pub u64);

/// What every tokens hash of a request starts from: plain, or bound to a LoRA adapter and a salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seed(pub u64);

// === impl TokensHash ===

impl TokensHash {
    /// The hash of the prefix that consists of this block alone.
    pub const fn as_root(self) -> PrefixHash {
        PrefixHash(self.0)
    }
}

// === impl PrefixHash ===

impl PrefixHash {
    /// The hash of this prefix with one more block.
    #[must_use]
    #[inline]
    pub fn then(self, next: TokensHash) -> Self {
        let mut link = [0_u8; 16];
        link[..8].copy_from_slice(&self.0.to_le_bytes());
        link[8..].copy_from_slice(&next.0.to_le_bytes());
        Self(xxh3_64_with_seed(&link, Seed::PLAIN.0))
    }

    /// The hash of `next` behind an optional parent.
    #[inline]
    pub fn after(parent: Option<Self>, next: TokensHash) -> Self {
        parent.map_or_else(|| next.as_root(), |parent| parent.then(next))
    }

    /// The prefix hash of each block of a chain that begins at the root.
    pub fn chain(blocks: &[TokensHash]) -> Vec<Self> {
        let mut parent = None;
        let link = |next: &TokensHash| *parent.insert(Self::after(parent, *next));
        blocks.iter().map(link).collect()
    }
}

// === impl EngineHash ===

impl EngineHash {
    /// The number for an engine hash that came as bytes.
    ///
    /// Up to eight bytes are the number itself, big-endian. Of longer ones the last eight
    /// count: that is what vLLM publishes for the same block when it is configured for
    /// integers, so both forms name a block alike.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let tail = &bytes[bytes.len().saturating_sub(8)..];
        Self(tail.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

// === impl Seed ===

impl Seed {
    /// No LoRA adapter, no salt.
    pub const PLAIN: Self = Self(1337);

    /// The seed for a LoRA adapter and a cache salt; an empty name counts as none.
    pub fn of(lora_name: Option<&str>, cache_salt: Option<&str>) -> Self {
        let mut seed = Self::PLAIN.0;
        if let Some(name) = lora_name.filter(|name| !name.is_empty()) {
            seed = seed.wrapping_add(xxh3_64(name.as_bytes()));
        }
        if let Some(salt) = cache_salt.filter(|salt| !salt.is_empty()) {
            seed = seed.wrapping_add(xxh3_64_with_seed(salt.as_bytes(), 1));
        }
        Self(seed)
    }
}
