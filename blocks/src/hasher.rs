//! Cutting tokens into blocks and hashing each: the algorithm of the published vectors.

use std::num::NonZeroU32;

use twox_hash::xxhash3_64;
use xxhash_rust::const_xxh3::const_custom_default_secret;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Seed, TokensHash};

/// Tokens in a block: at least one, at most [`BlockSize::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(NonZeroU32);

/// How far a block sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// A block is its own `block_size` tokens.
    #[default]
    Plain,
    /// A block also covers the token after it (Eagle drafts need it), so windows overlap by one.
    Eagle,
}

/// The hashes of the images and other media in each block, as far as the list reaches.
pub type MultimodalHashes<'a> = &'a [Vec<u64>];

/// Hashes the blocks of one kind of request: a block size, a seed and a shape.
#[derive(Clone)]
pub struct Hasher {
    block_size: BlockSize,
    seed: Seed,
    shape: Shape,
    /// XXH3 derives this from the seed for every input longer than [`LONG`] bytes; once is enough.
    secret: Box<[u8; SECRET_LEN]>,
}

const SECRET_LEN: usize = 192;
/// Inputs longer than this many bytes are hashed with a derived secret instead of the seed.
const LONG: usize = 240;

// === impl BlockSize ===

impl BlockSize {
    /// No engine in use has blocks larger than this; a larger one is a mistake or an attack.
    pub const MAX: u32 = 1 << 16;

    /// A block size, if it is in range.
    pub fn new(tokens: u32) -> Option<Self> {
        NonZeroU32::new(tokens).filter(|tokens| tokens.get() <= Self::MAX).map(Self)
    }

    /// The number of tokens.
    pub const fn get(self) -> usize {
        self.0.get() as usize
    }
}

impl std::fmt::Display for BlockSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Shape ===

impl Shape {
    /// Tokens that must be known beyond a block's own before it can be hashed.
    pub const fn lookahead(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Eagle => 1,
        }
    }
}

// === impl Hasher ===

impl Hasher {
    /// A hasher for plain blocks.
    pub fn new(block_size: BlockSize, seed: Seed) -> Self {
        let secret = Box::new(const_custom_default_secret(seed.0));
        Self { block_size, seed, shape: Shape::Plain, secret }
    }

    /// The same, for another shape.
    #[must_use]
    pub fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Tokens in a block.
    pub const fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// How far a block sees.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The hash of each full block of `tokens`; the rest of a block is left out.
    pub fn tokens_hashes(&self, tokens: &[u32]) -> Vec<TokensHash> {
        let mut hashes = Vec::with_capacity(self.windows(tokens).len());
        self.for_each(tokens, |hash| hashes.push(hash));
        hashes
    }

    /// Calls `each` with the hash of every full block of `tokens`, in order.
    ///
    /// This is the hot path: which of the two algorithms a block's length wants is decided once, outside
    /// the loop, and the loop itself is nothing but hashing.
    #[inline]
    pub fn for_each(&self, tokens: &[u32], mut each: impl FnMut(TokensHash)) {
        if self.shape != Shape::Plain || cfg!(target_endian = "big") {
            return self.windows(tokens).for_each(|window| each(self.tokens_hash(window)));
        }
        let block = self.block_size.get() * size_of::<u32>();
        let blocks = bytemuck::cast_slice::<u32, u8>(tokens).chunks_exact(block);
        if block > LONG {
            blocks.for_each(|block| each(self.long(block)));
        } else {
            blocks.for_each(|block| each(self.short(block)));
        }
    }

    /// The same for tokens that stand for media: block `i` also hashes `media[i]`, in ascending order.
    pub fn tokens_hashes_with(&self, tokens: &[u32], media: MultimodalHashes<'_>) -> Vec<TokensHash> {
        let hash = |(i, window): (usize, &[u32])| match media.get(i) {
            Some(hashes) if !hashes.is_empty() => self.media_hash(window, hashes),
            _ => self.tokens_hash(window),
        };
        self.windows(tokens).enumerate().map(hash).collect()
    }

    /// The windows of tokens that the blocks of `tokens` are hashed over.
    pub fn windows<'t>(&self, tokens: &'t [u32]) -> impl ExactSizeIterator<Item = &'t [u32]> + use<'t> {
        let (stride, lookahead) = (self.block_size.get(), self.shape.lookahead());
        let full = tokens.len().saturating_sub(lookahead) / stride;
        (0..full).map(move |i| &tokens[i * stride..(i + 1) * stride + lookahead])
    }

    /// The hash of one window.
    #[inline]
    pub fn tokens_hash(&self, window: &[u32]) -> TokensHash {
        if cfg!(target_endian = "little") {
            self.hash(bytemuck::cast_slice(window))
        } else {
            self.hash(&window.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<_>>())
        }
    }

    fn media_hash(&self, window: &[u32], media: &[u64]) -> TokensHash {
        let mut sorted = media.to_vec();
        sorted.sort_unstable();
        let tokens = window.iter().flat_map(|token| token.to_le_bytes());
        let bytes: Vec<u8> = tokens.chain(sorted.iter().flat_map(|hash| hash.to_le_bytes())).collect();
        self.hash(&bytes)
    }

    #[inline]
    fn hash(&self, bytes: &[u8]) -> TokensHash {
        if bytes.len() > LONG { self.long(bytes) } else { self.short(bytes) }
    }

    /// Short inputs: scalar code, and this crate inlines it.
    #[inline]
    fn short(&self, bytes: &[u8]) -> TokensHash {
        TokensHash(xxh3_64_with_seed(bytes, self.seed.0))
    }

    /// Long inputs: vector code, and this crate finds the processor's widest at run time.
    #[inline]
    fn long(&self, bytes: &[u8]) -> TokensHash {
        let hash =
            xxhash3_64::Hasher::oneshot_with_seed_and_secret(self.seed.0, self.secret.as_slice(), bytes);
        TokensHash(hash.unwrap_or_else(|_| unreachable!("the derived secret is long enough")))
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher({} tokens, seed {}, {:?})", self.block_size, self.seed.0, self.shape)
    }
}
