//! Every published hash vector, one-shot and grown a token at a time.

use blocks::{BlockSize, Chain, Hasher, PrefixHash, Seed, Shape, TokensHash};
use proptest::prelude::*;
use serde::Deserialize;

const VECTORS: &str = include_str!("block_hashes.json");

#[derive(Deserialize)]
struct Published {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    block_size: u32,
    tokens: Vec<u32>,
    lora_name: Option<String>,
    cache_salt: Option<String>,
    mm_hashes_per_block: Option<Vec<Vec<u64>>>,
    is_eagle: Option<bool>,
    seed: String,
    tokens_hashes: Vec<String>,
    /// One vector is about tokens hashes only.
    prefix_hashes: Option<Vec<String>>,
}

impl Vector {
    fn seed(&self) -> Seed {
        Seed::of(self.lora_name.as_deref(), self.cache_salt.as_deref())
    }

    fn hasher(&self) -> Hasher {
        let shape = if self.is_eagle == Some(true) { Shape::Eagle } else { Shape::Plain };
        Hasher::new(BlockSize::new(self.block_size).unwrap(), self.seed()).shaped(shape)
    }
}

fn published() -> Vec<Vector> {
    let vectors = serde_json::from_str::<Published>(VECTORS).unwrap().vectors;
    assert_eq!(vectors.len(), 18, "the file lost vectors");
    vectors
}

fn numbers(words: &[String]) -> Vec<u64> {
    words.iter().map(|word| word.parse().unwrap()).collect()
}

#[test]
fn every_vector_hashes_as_published() {
    for vector in published() {
        let media = vector.mm_hashes_per_block.clone().unwrap_or_default();
        let hashes = vector.hasher().tokens_hashes_with(&vector.tokens, &media);
        let found: Vec<u64> = hashes.iter().map(|hash| hash.0).collect();
        assert_eq!(found, numbers(&vector.tokens_hashes), "tokens hashes of {}", vector.name);
        if let Some(expected) = &vector.prefix_hashes {
            let found: Vec<u64> = PrefixHash::chain(&hashes).iter().map(|hash| hash.0).collect();
            assert_eq!(found, numbers(expected), "prefix hashes of {}", vector.name);
        }
        assert_eq!(vector.seed().0, vector.seed.parse::<u64>().unwrap(), "seed of {}", vector.name);
    }
}

#[test]
fn a_conversation_that_grows_by_a_token_hashes_the_same() {
    for vector in published().iter().filter(|vector| vector.mm_hashes_per_block.is_none()) {
        let mut chain = Chain::new(vector.hasher());
        let completed: usize = vector.tokens.iter().map(|token| chain.extend(&[*token])).sum();
        let found: Vec<u64> = chain.prefix_hashes().iter().map(|hash| hash.0).collect();
        assert_eq!(found, numbers(vector.prefix_hashes.as_ref().unwrap()), "{}", vector.name);
        assert_eq!((completed, chain.len()), (found.len(), vector.tokens.len()), "{}", vector.name);
    }
}

#[test]
fn blocks_longer_than_the_seeded_path_match_the_plain_algorithm() {
    for size in [60, 61, 64, 256, 1024] {
        let tokens: Vec<u32> = (7..7 + 2 * size).collect();
        let seed = Seed::of(Some("a"), Some("b"));
        let found = Hasher::new(BlockSize::new(size).unwrap(), seed).tokens_hashes(&tokens);
        let plain = tokens.chunks(size as usize).map(|block| {
            let bytes: Vec<u8> = block.iter().flat_map(|token| token.to_le_bytes()).collect();
            TokensHash(xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, seed.0))
        });
        assert_eq!(found, plain.collect::<Vec<_>>(), "block size {size}");
    }
}

proptest! {
    #[test]
    fn growing_in_any_steps_equals_hashing_at_once(
        tokens in proptest::collection::vec(any::<u32>(), 0..300),
        cuts in proptest::collection::vec(0_usize..300, 0..12),
        size in 1_u32..40,
        eagle: bool,
    ) {
        let shape = if eagle { Shape::Eagle } else { Shape::Plain };
        let hasher = Hasher::new(BlockSize::new(size).unwrap(), Seed::PLAIN).shaped(shape);
        let mut chain = Chain::new(hasher.clone());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(tokens.len())).collect();
        cuts.extend([0, tokens.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            chain.extend(&tokens[pair[0]..pair[1]]);
            prop_assert_eq!(chain.check(), Ok(()));
        }
        let whole = hasher.tokens_hashes(&tokens);
        prop_assert_eq!(chain.tokens_hashes(), &whole[..]);
        prop_assert_eq!(chain.prefix_hashes(), &PrefixHash::chain(&whole)[..]);
        prop_assert_eq!(chain.len(), tokens.len());
    }
}
