//! The token ids of pieces of text seen before, bounded in bytes.
//!
//! Entries are found by content, so it does not matter whether a conversation's new rendering extends the old one:
//! templates rewrite history, and whatever they leave alone is found again wherever it stands.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Bytes that the ids of one model's segments may take. English has about four bytes of text to a token of four
/// bytes, so this remembers some 64 MB of text: 2,000 conversations of 8,000 tokens. A fleet's caches hold more,
/// but a segment that is not found here costs microseconds, not a prefill.
const BYTES: u64 = 64 << 20;

/// What an entry costs besides its ids: key, pointer, counts and the cache's own slot, as its authors state it.
const ENTRY_BYTES: u64 = 96;

/// Locks; each guards `BYTES / SHARDS` = 4 MiB, so the longest segment kept is a million tokens.
const SHARDS: usize = 16;

/// Shorter texts are tokenised in less time than they are looked up.
const SHORTEST: usize = 24;

type Key = u128;
type Ids = Arc<[u32]>;

/// Pieces of text and their token ids.
pub(super) struct Segments {
    /// Chosen at start and told nobody: with a known hash a client could craft a text that answers for another's.
    seed: u64,
    cache: Cache<Key, Ids, ByBytes, Hashed>,
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    miss_bytes: AtomicU64,
}

/// How often a piece of text was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Segments found.
    pub hits: u64,
    /// Segments tokenised.
    pub misses: u64,
    /// Bytes of text found.
    pub hit_bytes: u64,
    /// Bytes of text tokenised.
    pub miss_bytes: u64,
    /// Bytes held.
    pub held_bytes: u64,
    /// The most bytes that are ever held.
    pub limit_bytes: u64,
}

impl Segments {
    pub(super) fn new() -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(BYTES)
            .estimated_items_capacity((BYTES / 4_096) as usize)
            .shards(SHARDS)
            .build()
            .expect("capacities are set");
        Self {
            seed: crate::chance::number(),
            cache: Cache::with_options(options, ByBytes, Hashed, DefaultLifecycle::default()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            hit_bytes: AtomicU64::new(0),
            miss_bytes: AtomicU64::new(0),
        }
    }

    /// Hands the ids of `text` to `take`, making them with `make` if they are not known.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn with<E>(
        &self,
        text: &str,
        make: impl FnOnce() -> Result<Vec<u32>, E>,
        take: impl FnOnce(&[u32]),
    ) -> Result<(), E> {
        if text.len() < SHORTEST {
            take(&make()?);
            return Ok(());
        }
        let key = xxh3_128_with_seed(text.as_bytes(), self.seed);
        if let Some(ids) = self.cache.get(&key) {
            count(&self.hits, &self.hit_bytes, text);
            take(&ids);
            return Ok(());
        }
        count(&self.misses, &self.miss_bytes, text);
        let ids = make()?;
        take(&ids);
        self.cache.insert(key, ids.into());
        Ok(())
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            hit_bytes: self.hit_bytes.load(Ordering::Relaxed),
            miss_bytes: self.miss_bytes.load(Ordering::Relaxed),
            held_bytes: self.cache.weight(),
            limit_bytes: BYTES,
        }
    }
}

fn count(times: &AtomicU64, bytes: &AtomicU64, text: &str) {
    times.fetch_add(1, Ordering::Relaxed);
    bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Ids> for ByBytes {
    fn weight(&self, _: &Key, ids: &Ids) -> u64 {
        ids.len() as u64 * 4 + ENTRY_BYTES
    }
}

/// Keys are hashes already.
#[derive(Clone)]
struct Hashed;

impl BuildHasher for Hashed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(0)
    }
}

struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: Key) {
        self.0 = (key >> 64) as u64 ^ key as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_under_its_bound() {
        let segments = Segments::new();
        let ids = vec![7; 2_048];
        for i in 0..20_000 {
            let text = format!("{i:>64}");
            segments.with(&text, || Ok::<_, ()>(ids.clone()), |got| assert_eq!(got, ids)).unwrap();
        }
        let stats = segments.stats();
        assert_eq!((stats.hits, stats.misses), (0, 20_000));
        assert!(stats.held_bytes <= stats.limit_bytes, "{stats:?}");
        assert!(stats.held_bytes > stats.limit_bytes / 2, "{stats:?}");
    }

    #[test]
    fn a_text_is_tokenised_once() {
        let segments = Segments::new();
        let text = "a text that is longer than the shortest kept";
        let mut made = 0;
        for _ in 0..3 {
            let make = || {
                made += 1;
                Ok::<_, ()>(vec![1, 2])
            };
            segments.with(text, make, |ids| assert_eq!(ids, [1, 2])).unwrap();
        }
        assert_eq!((made, segments.stats().hits), (1, 2));
    }
}
