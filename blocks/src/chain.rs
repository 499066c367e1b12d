//! A prompt that grows: each turn hashes only the blocks that are new.

use crate::{Hasher, PrefixHash, TokensHash};

/// The blocks of one growing sequence of tokens.
///
/// Invariants:
/// - B1: one prefix hash for each tokens hash.
/// - B2: `tail` never holds a block that could already be hashed.
#[derive(Clone, Debug)]
pub struct Chain {
    hasher: Hasher,
    tokens_hashes: Vec<TokensHash>,
    prefix_hashes: Vec<PrefixHash>,
    /// Tokens at and after the first block that is not yet complete.
    tail: Vec<u32>,
}

impl Chain {
    /// An empty sequence.
    pub fn new(hasher: Hasher) -> Self {
        Self { hasher, tokens_hashes: Vec::new(), prefix_hashes: Vec::new(), tail: Vec::new() }
    }

    /// Appends tokens; returns how many blocks became complete.
    pub fn extend(&mut self, tokens: &[u32]) -> usize {
        let before = self.tokens_hashes.len();
        let rest = self.complete_tail(tokens);
        self.push_blocks(rest);
        debug_assert_eq!(self.check(), Ok(()));
        self.tokens_hashes.len() - before
    }

    /// Tokens in the sequence.
    pub fn len(&self) -> usize {
        self.tokens_hashes.len() * self.hasher.block_size().get() + self.tail.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash of each complete block, alone.
    pub fn tokens_hashes(&self) -> &[TokensHash] {
        &self.tokens_hashes
    }

    /// The hash of each complete block with all before it.
    pub fn prefix_hashes(&self) -> &[PrefixHash] {
        &self.prefix_hashes
    }

    /// The invariants of the type, one line each.
    ///
    /// # Errors
    /// The name of the first invariant that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let block = self.hasher.block_size().get() + self.hasher.shape().lookahead();
        ensure(self.tokens_hashes.len() == self.prefix_hashes.len(), "B1")?;
        ensure(self.tail.len() < block, "B2")
    }

    /// Fills the open block from `tokens` and hashes it if it is complete; returns what was not used.
    ///
    /// With lookahead a completed block's window shares its last token with the next block, which
    /// therefore stays behind in `tail`.
    fn complete_tail<'t>(&mut self, tokens: &'t [u32]) -> &'t [u32] {
        let (stride, lookahead) = (self.hasher.block_size().get(), self.hasher.shape().lookahead());
        let mut rest = tokens;
        while !self.tail.is_empty() && !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(stride + lookahead - self.tail.len()));
            self.tail.extend_from_slice(now);
            rest = later;
            if self.tail.len() < stride + lookahead {
                break;
            }
            let hash = self.hasher.tokens_hash(&self.tail);
            self.push(hash);
            self.tail.drain(..stride);
        }
        rest
    }

    /// Hashes whole blocks straight from the caller's slice; keeps the remainder.
    fn push_blocks(&mut self, tokens: &[u32]) {
        let windows = self.hasher.windows(tokens);
        let used = windows.len() * self.hasher.block_size().get();
        self.tokens_hashes.reserve(windows.len());
        self.prefix_hashes.reserve(windows.len());
        let Self { hasher, tokens_hashes, prefix_hashes, .. } = self;
        let mut parent = prefix_hashes.last().copied();
        hasher.for_each(tokens, |next| {
            tokens_hashes.push(next);
            prefix_hashes.push(*parent.insert(PrefixHash::after(parent, next)));
        });
        self.tail.extend_from_slice(&tokens[used..]);
    }

    fn push(&mut self, next: TokensHash) {
        let parent = self.prefix_hashes.last().copied();
        self.tokens_hashes.push(next);
        self.prefix_hashes.push(PrefixHash::after(parent, next));
    }
}

fn ensure(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(name) }
}
