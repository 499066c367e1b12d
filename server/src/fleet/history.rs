//! What was sent to an engine, for engines that do not say what they have cached: a guess, and treated as one.

use std::collections::{HashMap, VecDeque};

use blocks::PrefixHash;

/// The prefixes that were sent to one engine, the most recent ones.
#[derive(Debug, Default)]
pub(crate) struct History {
    sent: HashMap<PrefixHash, u64>,
    order: VecDeque<(PrefixHash, u64)>,
    clock: u64,
}

/// Blocks that are remembered of one engine: a cache of 4 million tokens at block size 16. 40 bytes each: 10 MiB.
const MOST: usize = 1 << 18;

impl History {
    /// Blocks from the first on that were sent.
    pub(crate) fn depth(&self, prefix: &[PrefixHash]) -> usize {
        prefix.iter().take_while(|hash| self.sent.contains_key(*hash)).count()
    }

    /// These were sent now.
    pub(crate) fn note(&mut self, prefix: &[PrefixHash]) {
        // From the end, so that the beginning, which more prompts share, is forgotten last.
        for hash in prefix.iter().rev() {
            self.clock += 1;
            self.sent.insert(*hash, self.clock);
            self.order.push_back((*hash, self.clock));
        }
        while self.sent.len() > MOST || self.order.len() > 2 * MOST {
            let Some((hash, stamp)) = self.order.pop_front() else { return };
            if self.sent.get(&hash) == Some(&stamp) {
                self.sent.remove(&hash);
            }
        }
    }

    /// The engine began a new life.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_found_and_memory_is_bounded() {
        let mut history = History::default();
        let chain: Vec<PrefixHash> = (0..100).map(PrefixHash).collect();
        history.note(&chain[..60]);
        assert_eq!(history.depth(&chain), 60);
        for round in 1..=2 * (MOST as u64) / 1000 + 2 {
            let other: Vec<PrefixHash> = (0..1000).map(|i| PrefixHash(round << 32 | i)).collect();
            history.note(&other);
        }
        assert_eq!(history.depth(&chain), 0);
        assert!(history.sent.len() <= MOST && history.order.len() <= 2 * MOST);
    }
}
