//! What an operator sees of all candidates at once. Neither counts nor promotes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Master;
use super::candidates::Waits;
use super::name::{Millis, Name};

/// One candidate, and which object it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Of which object.
    pub name: Name,
    /// How many bytes it has.
    pub size: u64,
    /// What is known of it.
    pub waits: Waits,
}

impl Master {
    /// The hottest candidates, at most so many; of those that are as hot, the ones that were seen last. A shard is looked at under its
    /// lock, one after the other.
    pub fn hottest(&self, most: usize) -> Vec<Waiting> {
        // The least of what is kept is on top, and leaves first.
        let mut kept: BinaryHeap<Reverse<Ranked>> = BinaryHeap::new();
        for shard in &self.shards {
            let shard = shard.lock();
            for (tenant, state) in &shard.states {
                for (row, candidate) in &state.candidates {
                    let Some(object) = shard.rows.get(*row as usize) else { continue };
                    let rank = (candidate.score, candidate.last_seen);
                    if kept.len() == most && kept.peek().is_none_or(|least| least.0.rank >= rank) {
                        continue;
                    }
                    let name = Name { tenant: *tenant, key: object.key.clone() };
                    let waiting = Waiting { name, size: object.bytes(), waits: candidate.look() };
                    kept.push(Reverse(Ranked { rank, waiting }));
                    if kept.len() > most {
                        kept.pop();
                    }
                }
            }
        }
        kept.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked.waiting).collect()
    }
}

struct Ranked {
    rank: (u8, Millis),
    waiting: Waiting,
}

impl Ranked {
    /// Names decide between equals, so that the same is always shown.
    fn place(&self) -> ((u8, Millis), &Name) {
        (self.rank, &self.waiting.name)
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}
