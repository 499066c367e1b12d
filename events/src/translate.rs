//! From an engine's words to the house's: tokens become hashes, salts are inherited, groups that do not count are left out.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use blocks::{Block, BlockSize, EngineHash, Event, Hasher, Seed, Shape, Tier, TokensHash};

use crate::codec::{Content, Said, Stored};
use crate::sink::Root;

/// Salted blocks that are remembered for one worker. An engine says a salt only with the first block of a
/// prompt; later blocks inherit it. At 64 bytes a block: 64 MiB at most. Beyond it the children of salted
/// blocks are hashed without salt, so they are missed, never taken for another's.
const MAX_SALTED: usize = 1 << 20;
/// Kinds of attention whose blocks hold the whole prefix. Windows and states forget; they do not count.
const WHOLE: [&str; 4] = ["full_attention", "mla_attention", "mla", "full"];

/// Turns what one worker says into events; remembers what later events leave out.
#[derive(Debug, Default)]
pub struct Translator {
    /// Hashers by block size, seed and shape: a seed costs a derived secret.
    hashers: HashMap<(u32, Seed, bool), Hasher>,
    /// The salt of each salted block, and how many copies of the block there are, on whatever tier.
    salted: HashMap<EngineHash, (Arc<str>, u32)>,
    /// A run on the device was left out since this was last asked.
    misfit: bool,
    /// KV cache groups whose blocks do not hold the whole prefix.
    partial: BTreeSet<u32>,
    /// What was left out, and why.
    pub counts: Counts,
}

/// What a translator left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events of types that nobody has heard of.
    pub unknown_events: u64,
    /// Events with a medium that nobody has heard of; they count as the farthest tier.
    pub unknown_media: u64,
    /// Events of groups that do not hold the whole prefix.
    pub partial_groups: u64,
    /// Runs on the device whose tokens do not fill their blocks (masked ones, say): the view lacks them.
    pub misfits: u64,
    /// Runs on farther tiers that came without token ids, as offloading connectors tell them.
    pub untold: u64,
    /// Salted blocks that could not be remembered.
    pub forgotten_salts: u64,
}

// === impl Translator ===

impl Translator {
    /// The event for the index, if there is one. `root` hears the beginnings of prompts.
    pub fn translate(&mut self, said: Said, root: impl FnOnce(&Root<'_>)) -> Option<Event> {
        match said {
            Said::Stored(stored) => self.stored(*stored, root),
            Said::Removed { hashes, medium, group } => {
                if group.is_some_and(|group| self.partial.contains(&group)) {
                    self.counts.partial_groups += 1;
                    return None;
                }
                if !self.salted.is_empty() {
                    for hash in &hashes {
                        self.release(*hash);
                    }
                }
                Some(Event::Removed { blocks: hashes, tier: self.tier(medium.as_deref()) })
            }
            Said::Cleared => {
                self.salted.clear();
                Some(Event::Cleared)
            }
            Said::Unknown => {
                self.counts.unknown_events += 1;
                None
            }
        }
    }

    /// Forgets what was remembered of the blocks: the worker's view begins anew.
    pub fn reset(&mut self) {
        self.salted.clear();
        self.partial.clear();
        self.misfit = false;
    }

    /// Whether later events may lean on something that was said before, besides the blocks themselves.
    pub fn remembers(&self) -> bool {
        !self.salted.is_empty() || !self.partial.is_empty()
    }

    /// Whether a run on the device was left out since this was last asked: a view without it is not exact.
    pub fn take_misfit(&mut self) -> bool {
        std::mem::take(&mut self.misfit)
    }

    fn stored(&mut self, stored: Stored, root: impl FnOnce(&Root<'_>)) -> Option<Event> {
        if stored.kind.as_deref().is_some_and(|kind| !WHOLE.contains(&kind)) {
            self.partial.extend(stored.group.filter(|_| self.partial.len() < 64));
            self.counts.partial_groups += 1;
            return None;
        }
        let salt = self.salt(&stored);
        let Some(hashes) = self.hashes(&stored, salt.as_deref()) else {
            self.left_out(&stored);
            return None;
        };
        if let Some(salt) = &salt {
            self.remember(&stored.hashes, salt);
        }
        if let (None, Content::Tokens(tokens)) = (stored.parent, &stored.content) {
            let (lora, salt) = (stored.lora_name.as_deref(), salt.as_deref());
            root(&Root { block_size: stored.block_size, tokens, lora, salt });
        }
        let blocks =
            stored.hashes.iter().zip(hashes).map(|(engine, tokens)| Block { engine: *engine, tokens });
        let blocks = blocks.collect();
        let tier = self.tier(stored.medium.as_deref());
        Some(Event::Stored(blocks::Stored { parent: stored.parent, blocks, tier }))
    }

    /// The salt of a run: said outright, said with its first block, or inherited.
    fn salt(&self, stored: &Stored) -> Option<Arc<str>> {
        let said = stored.cache_salt.as_deref().or_else(|| {
            // Words are untagged: the LoRA adapter's name stands on every block, what else is there is the salt.
            let words = &stored.extras.first()?.words;
            words.iter().map(String::as_str).find(|word| Some(*word) != stored.lora_name.as_deref())
        });
        match (said, stored.parent) {
            (Some(salt), _) => Some(salt.into()),
            (None, Some(parent)) if !self.salted.is_empty() => {
                self.salted.get(&parent).map(|(salt, _)| salt.clone())
            }
            _ => None,
        }
    }

    fn remember(&mut self, hashes: &[EngineHash], salt: &Arc<str>) {
        for hash in hashes {
            if let Some((_, copies)) = self.salted.get_mut(hash) {
                *copies = copies.saturating_add(1);
            } else if self.salted.len() >= MAX_SALTED {
                self.counts.forgotten_salts += 1;
            } else {
                self.salted.insert(*hash, (salt.clone(), 1));
            }
        }
    }

    /// One copy is gone; with the last one the salt is forgotten.
    fn release(&mut self, hash: EngineHash) {
        if let Entry::Occupied(mut salted) = self.salted.entry(hash) {
            let copies = &mut salted.get_mut().1;
            *copies -= 1;
            if *copies == 0 {
                salted.remove();
            }
        }
    }

    /// A run whose blocks cannot be hashed. On farther tiers some engines never say tokens: that only makes
    /// those tiers look emptier than they are. On the device it means that the view is not exact.
    fn left_out(&mut self, stored: &Stored) {
        let untold = matches!(&stored.content, Content::Tokens(tokens) if tokens.is_empty());
        if untold && self.tier(stored.medium.as_deref()) != Tier::Device {
            self.counts.untold += 1;
        } else {
            self.counts.misfits += 1;
            self.misfit = true;
        }
    }

    /// One hash a block, or nothing if tokens and blocks do not fit together.
    fn hashes(&mut self, stored: &Stored, salt: Option<&str>) -> Option<Vec<TokensHash>> {
        let (tokens, shape) = match &stored.content {
            Content::Hashes(hashes) => return (hashes.len() == stored.hashes.len()).then(|| hashes.clone()),
            Content::Tokens(tokens) => (tokens, Shape::Plain),
            Content::Pairs(tokens) => (tokens, Shape::Eagle),
        };
        let size = BlockSize::new(stored.block_size)?;
        if tokens.len() != stored.hashes.len() * size.get() + shape.lookahead() {
            return None;
        }
        let seed = Seed::of(stored.lora_name.as_deref(), salt);
        // Seeds come from names that clients choose: keep a few, not all.
        if self.hashers.len() >= 1024 {
            self.hashers.clear();
        }
        let key = (stored.block_size, seed, shape == Shape::Eagle);
        let hasher = self.hashers.entry(key).or_insert_with(|| Hasher::new(size, seed).shaped(shape));
        if stored.extras.iter().all(|extra| extra.media.is_empty()) {
            return Some(hasher.tokens_hashes(tokens));
        }
        let media: Vec<Vec<u64>> =
            stored.extras.iter().map(|extra| extra.media.iter().map(|id| media_hash(id)).collect()).collect();
        Some(hasher.tokens_hashes_with(tokens, &media))
    }

    fn tier(&mut self, medium: Option<&str>) -> Tier {
        let Some(word) = medium else { return Tier::Device };
        Tier::from_medium(word).unwrap_or_else(|| {
            self.counts.unknown_media += 1;
            Tier::Store
        })
    }
}

/// The number for a medium's identifier: the first sixteen digits if it is hexadecimal (as engines' content
/// hashes are), else a hash of it.
fn media_hash(id: &str) -> u64 {
    id.get(..16)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .unwrap_or_else(|| xxhash_rust::xxh3::xxh3_64(id.as_bytes()))
}
