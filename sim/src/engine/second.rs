//! The second tier of an engine: what it computed is put there, and what lies there is loaded instead of computed.
//!
//! It follows vLLM with LMCache: when a job is let in, the blocks that follow its own hits are asked for, once; while
//! they come, the job holds its room and others run; what came counts as cached. A load is bounded: when it has taken
//! as long as computing would ([`Second::patience`]), what has arrived counts and the rest is computed. So a slow or
//! dead tier costs a job at most what it hoped to save, and never an answer.
//!
//! The machine moves no bytes: it says what it wants ([`What::Wants`], [`What::Offloads`]) and is told what came.

use std::time::Duration;

use blocks::{PrefixHash, TokensHash};
use serde::{Deserialize, Serialize};

use super::{Engine, Output, Sequence, Text, What};

/// How an engine uses the tier behind its cache.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Second {
    /// When blocks are put there.
    pub offload: Offload,
    /// Whether blocks that hold a part of an answer are put there too. LMCache leaves them out unless told otherwise.
    pub answers: bool,
    /// A load may take so many times as long as computing the same tokens alone would.
    pub patience: f64,
}

/// When blocks are put into the second tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// As soon as they are computed, as LMCache does: others find them early, and much is written that nobody reads.
    #[default]
    Filled,
    /// When the cache loses its last copy: less is written, and others find it late.
    Evicted,
}

/// A block as the second tier knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// It with all before it.
    pub prefix: PrefixHash,
    /// The block before it with all before that.
    pub parent: Option<PrefixHash>,
    /// It alone.
    pub tokens: TokensHash,
}

/// A sequence that waits for its blocks.
#[derive(Debug)]
pub(super) struct Loading {
    pub(super) sequence: Sequence,
    /// Blocks that may yet come, and those that have: the first ones.
    pub(super) wanted: usize,
    arrived: usize,
    /// Then it goes on without the rest.
    until: Duration,
}

// === What is told from outside ===

impl Engine {
    /// So many of the blocks that a job wants, from the first on, can be loaded; they are on their way. If that is none,
    /// or fewer than have arrived, it goes on at once. May be said again when some turn out to be gone. False if the job does not wait.
    pub fn found(&mut self, job: u64, blocks: usize, now: Duration) -> bool {
        let Some(at) = self.loads(job) else { return false };
        let wanted = self.loading[at].wanted.min(blocks);
        let until = now + self.bound(wanted);
        let load = &mut self.loading[at];
        (load.wanted, load.until) = (wanted, load.until.min(until));
        if load.arrived >= wanted {
            self.go_on(at, now);
        }
        true
    }

    /// So many of the blocks that a job wants have arrived, from the first on. When all have, it goes on. False if
    /// the job does not wait.
    pub fn loaded(&mut self, job: u64, blocks: usize, now: Duration) -> bool {
        let Some(at) = self.loads(job) else { return false };
        let load = &mut self.loading[at];
        load.arrived = load.arrived.max(blocks.min(load.wanted));
        if load.arrived == load.wanted {
            self.go_on(at, now);
        }
        true
    }

    /// Jobs that wait for their blocks.
    pub fn loading(&self) -> usize {
        self.loading.len()
    }

    fn loads(&self, job: u64) -> Option<usize> {
        self.loading.iter().position(|load| load.sequence.job.id == job)
    }

    /// How long a load of so many blocks may take.
    fn bound(&self, blocks: usize) -> Duration {
        let patience = self.shape.second.map_or(0.0, |second| second.patience).clamp(0.0, 1e6);
        self.shape.cost.step(blocks * self.shape.block_size, 0).mul_f64(patience)
    }
}

// === Moves ===

impl Engine {
    /// Blocks of a sequence that was just let in which the second tier is to be asked for.
    pub(super) fn lacks(&self, sequence: &Sequence) -> usize {
        if self.shape.second.is_none() || sequence.asked {
            return 0;
        }
        let most = (sequence.job.prompt - 1) / self.shape.block_size;
        most.min(sequence.job.text.prefix_hashes.len()).saturating_sub(sequence.filled)
    }

    /// -> loading, with room for what is wanted.
    pub(super) fn ask(&mut self, mut sequence: Sequence, lacks: usize, now: Duration) {
        sequence.asked = true;
        let first = sequence.filled;
        let mut blocks = std::mem::take(&mut sequence.blocks);
        let enough = self.take(&mut blocks, first + lacks, now);
        debug_assert!(enough, "room was counted before");
        sequence.blocks = blocks;
        let (job, text) = (sequence.job.id, sequence.job.text.clone());
        self.said.push_back(Output { at: now, what: What::Wants { job, text, first, blocks: lacks } });
        let until = now + self.bound(lacks);
        self.loading.push(Loading { sequence, wanted: lacks, arrived: 0, until });
    }

    /// Loading -> running. Blocks that did not come are filled by computing.
    fn go_on(&mut self, at: usize, now: Duration) {
        let Loading { mut sequence, arrived, .. } = self.loading.remove(at);
        let tokens = arrived * self.shape.block_size;
        sequence.computed += tokens;
        sequence.given += arrived;
        if sequence.output == 0 {
            sequence.cached += tokens;
            sequence.loaded = tokens;
        }
        self.running.push(sequence);
        self.begin(now);
    }

    /// When the first load has taken too long.
    pub(super) fn next_late(&self) -> Option<Duration> {
        self.loading.iter().map(|load| load.until).min()
    }

    /// A load has taken too long.
    pub(super) fn give_up(&mut self, now: Duration) {
        let Some(at) = self.loading.iter().position(|load| load.until <= now) else { return };
        let job = self.loading[at].sequence.job.id;
        self.said.push_back(Output { at: now, what: What::Stops { job } });
        self.go_on(at, now);
    }

    /// A copy of this block is gone; if it was the last, the second tier gets it.
    pub(super) fn evicted(&mut self, hash: PrefixHash, now: Duration) {
        if self.cache.matching(&[hash]) > 0 {
            return;
        }
        let Some(kept) = self.origins.remove(&hash) else { return };
        match self.said.back_mut() {
            Some(Output { at, what: What::Offloads(blocks) }) if *at == now => blocks.push(kept),
            _ => self.said.push_back(Output { at: now, what: What::Offloads(vec![kept]) }),
        }
    }
}

impl Kept {
    /// A block of a text.
    pub fn of(text: &Text, block: usize) -> Self {
        Self {
            prefix: text.prefix_hashes[block],
            parent: block.checked_sub(1).map(|before| text.prefix_hashes[before]),
            tokens: text.tokens_hashes[block],
        }
    }
}

impl Default for Second {
    fn default() -> Self {
        Self { offload: Offload::Filled, answers: false, patience: 1.0 }
    }
}
