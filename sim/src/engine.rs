//! One engine as a pure machine: jobs and time in, tokens and KV events out.
//!
//! It batches continuously, as vLLM does: each step gives every running sequence one token and spends what is
//! left of the step's token budget on prompts, in order of arrival, a long one in pieces. Time is an argument, so the
//! same machine runs behind HTTP in real time and in a simulation that takes no time at all.
//!
//! Behind its own cache it may have a second tier that it shares with others: see [`second`].

pub mod second;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use blocks::{Block, EngineHash, Event, PrefixHash, Stored, Tier, TokensHash};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cache::{Cache, Id};
use crate::cost::Cost;
use second::{Kept, Loading, Offload, Second};

/// How an engine is built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks in its cache.
    pub blocks: usize,
    /// Sequences that run at a time; others wait.
    pub max_running: usize,
    /// Tokens that one step computes at most.
    pub step_tokens: usize,
    /// What steps cost.
    pub cost: Cost,
    /// Makes the engine's own block hashes unlike anybody else's.
    pub hash_seed: u64,
    /// The tier behind its cache, if there is one.
    pub second: Option<Second>,
}

/// One request. Its whole text is known beforehand, the answer included: a simulated model is never in doubt.
#[derive(Clone, Debug)]
pub struct Job {
    /// Names it.
    pub id: u64,
    /// Tokens of the prompt; at least one.
    pub prompt: usize,
    /// Tokens of the answer; at least one.
    pub output: usize,
    /// The hash of each full block of prompt and answer.
    pub text: Arc<Text>,
}

/// The text of a job in blocks.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// Each block alone.
    pub tokens_hashes: Vec<TokensHash>,
    /// Each block with all before it.
    pub prefix_hashes: Vec<PrefixHash>,
    /// The token ids, where somebody wants to see them in events.
    pub tokens: Vec<u32>,
    /// The LoRA adapter and salt that the hashes are bound to.
    pub lora: Option<String>,
    /// See `lora`.
    pub salt: Option<String>,
}

/// What happened, and when.
#[derive(Clone, Debug)]
pub struct Output {
    /// When.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum What {
    /// A job got one more token.
    Token {
        /// Which.
        job: u64,
        /// How many it has now.
        count: usize,
        /// Prompt tokens that were not computed: found in the cache, or loaded.
        cached: usize,
        /// Of these, the ones that were loaded from the second tier.
        loaded: usize,
        /// Whether that was the last.
        done: bool,
    },
    /// The cache changed.
    Told(Told),
    /// A job that was let in lacks these blocks of its text, and computes nothing until it is known which of them come:
    /// answer with [`Engine::found`], then with [`Engine::loaded`].
    Wants {
        /// Which.
        job: u64,
        /// Its text.
        text: Arc<Text>,
        /// The first block that is wanted.
        first: usize,
        /// How many are, one after the other.
        blocks: usize,
    },
    /// A job goes on with what has arrived; nothing more is loaded for it.
    Stops {
        /// Which.
        job: u64,
    },
    /// These blocks are to be put into the second tier, unless it has them.
    Offloads(Vec<Kept>),
}

/// One change of the cache.
#[derive(Clone, Debug)]
pub enum Told {
    /// These blocks of a text can be found from now on.
    Stored {
        /// The block before the first.
        parent: Option<EngineHash>,
        /// The engine's names.
        hashes: Vec<EngineHash>,
        /// Which block of the text is the first.
        first: usize,
        /// The text.
        text: Arc<Text>,
    },
    /// One copy of a block is gone.
    Removed(EngineHash),
    /// Everything is gone.
    Cleared,
}

/// The machine.
#[derive(Debug)]
pub struct Engine {
    shape: Shape,
    cache: Cache,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    step: Option<Step>,
    /// Changes of the cache since the last step ended: engines tell them at the end of a step.
    told: Vec<Told>,
    /// Sequences that wait for their blocks; they hold the room for them.
    loading: Vec<Loading>,
    /// What is to be said before time goes on.
    said: VecDeque<Output>,
    /// Where cached blocks come from, if they are offloaded when they are evicted.
    origins: HashMap<PrefixHash, Kept>,
}

#[derive(Debug)]
struct Sequence {
    job: Job,
    blocks: Vec<Id>,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    /// Blocks that can be found.
    filled: usize,
    /// Blocks that it did not compute: found or loaded.
    given: usize,
    cached: usize,
    /// Tokens that came from the second tier.
    loaded: usize,
    /// The second tier was asked: it is, once.
    asked: bool,
    output: usize,
    /// Tokens that the step under way computes.
    planned: usize,
}

#[derive(Debug)]
struct Step {
    ends: Duration,
}

// === impl Engine ===

impl Engine {
    /// An idle engine with a cold cache.
    pub fn new(shape: Shape) -> Self {
        let cache = Cache::new(shape.blocks);
        Self {
            shape,
            cache,
            waiting: VecDeque::new(),
            running: Vec::new(),
            step: None,
            told: Vec::new(),
            loading: Vec::new(),
            said: VecDeque::new(),
            origins: HashMap::new(),
        }
    }

    /// How it is built.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its cache, as it truly is.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Sequences that run, and that wait: for room, or for their blocks.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len() + self.loading.len())
    }

    /// Prompt tokens that are still to be computed, as far as it is known before they are.
    pub fn backlog(&self) -> usize {
        let left = |sequence: &Sequence| sequence.job.prompt.saturating_sub(sequence.computed);
        let cached = |sequence: &Sequence| self.hits(&sequence.job) * self.shape.block_size;
        self.running.iter().map(left).sum::<usize>()
            + self
                .loading
                .iter()
                .map(|load| left(&load.sequence) - load.wanted * self.shape.block_size)
                .sum::<usize>()
            + self
                .waiting
                .iter()
                .map(|sequence| left(sequence).saturating_sub(cached(sequence)))
                .sum::<usize>()
    }

    /// Prompt tokens of a job that are cached now. At least the last token is always computed.
    pub fn cached(&self, job: &Job) -> usize {
        self.hits(job) * self.shape.block_size
    }

    /// Whether a job could ever run here.
    pub fn fits(&self, job: &Job) -> bool {
        (job.prompt + job.output).div_ceil(self.shape.block_size) <= self.shape.blocks
    }

    /// A new job.
    pub fn submit(&mut self, job: Job, now: Duration) {
        self.waiting.push_back(Sequence::new(job));
        self.begin(now);
    }

    /// Ends a job at once; whether it was there.
    pub fn abort(&mut self, id: u64) -> bool {
        if let Some(at) = self.loading.iter().position(|load| load.sequence.job.id == id) {
            let load = self.loading.remove(at);
            self.cache.release(&load.sequence.blocks);
            return true;
        }
        let waiting = self.waiting.len();
        self.waiting.retain(|sequence| sequence.job.id != id);
        if let Some(at) = self.running.iter().position(|sequence| sequence.job.id == id) {
            let sequence = self.running.remove(at);
            self.cache.release(&sequence.blocks);
            return true;
        }
        waiting != self.waiting.len()
    }

    /// Empties the cache, if nothing runs. As in a real engine it is told with the next step only.
    pub fn reset(&mut self) -> bool {
        let reset = self.cache.reset();
        if reset {
            self.origins.clear();
            self.told.push(Told::Cleared);
        }
        reset
    }

    /// When something happens: the step under way ends, or a load has taken too long.
    pub fn next_at(&self) -> Option<Duration> {
        let said = self.said.front().map(|said| said.at);
        let step = self.step.as_ref().map(|step| step.ends);
        [said, step, self.next_late()].into_iter().flatten().min()
    }

    /// Ends every step that is over by `now`, and begins the next.
    pub fn advance(&mut self, now: Duration, out: &mut Vec<Output>) {
        loop {
            out.extend(self.said.drain(..));
            let late = self.next_late();
            if let Some(step) =
                self.step.take_if(|step| step.ends <= now && late.is_none_or(|at| step.ends <= at))
            {
                self.finish(step.ends, out);
                self.begin(step.ends);
            } else if let Some(at) = late.filter(|at| *at <= now) {
                self.give_up(at);
            } else {
                // A job that was aborted while it was loading has left room, and no step is there at whose end it is seen.
                self.begin(now);
                if self.said.is_empty() {
                    return;
                }
            }
        }
    }

    /// The engine's own name for a prefix.
    pub fn name(&self, prefix: PrefixHash) -> EngineHash {
        EngineHash(xxh3_64_with_seed(&prefix.0.to_le_bytes(), self.shape.hash_seed))
    }

    fn hits(&self, job: &Job) -> usize {
        let most = (job.prompt - 1) / self.shape.block_size;
        self.cache.matching(&job.text.prefix_hashes[..most.min(job.text.prefix_hashes.len())])
    }
}

// === A step ===

impl Engine {
    /// Plans a step, if none is under way and there is something to do.
    fn begin(&mut self, now: Duration) {
        if self.step.is_some() {
            return;
        }
        let mut budget = self.shape.step_tokens;
        let (mut prefill, mut decoding) = (0, 0);
        let mut crowded = false;
        let mut at = 0;
        while at < self.running.len() {
            let sequence = &self.running[at];
            let left = sequence.goal() - sequence.computed;
            let planned = left.min(budget);
            if !self.grow(at, planned, now) {
                // Every block is in use: the youngest sequence makes room, and begins again later.
                self.preempt();
                crowded = true;
                continue;
            }
            let sequence = &mut self.running[at];
            sequence.planned = planned;
            budget -= planned;
            if sequence.output > 0 {
                decoding += 1;
            } else {
                prefill += planned;
            }
            at += 1;
        }
        // Who just made room must not take it back at once.
        while budget > 0 && !crowded && self.running.len() + self.loading.len() < self.shape.max_running {
            let Some(planned) = self.admit(budget, now) else { break };
            budget -= planned;
            prefill += planned;
        }
        if prefill + decoding > 0 {
            self.step = Some(Step { ends: now + self.shape.cost.step(prefill, decoding) });
        }
    }

    /// Moves the first waiting sequence in, if its prompt finds room; returns the tokens it gets in this step.
    fn admit(&mut self, budget: usize, now: Duration) -> Option<usize> {
        let hits = self.hits(&self.waiting.front()?.job);
        let sequence = self.waiting.front_mut()?;
        let size = self.shape.block_size;
        let hit = &sequence.job.text.prefix_hashes[..hits];
        let needed = sequence.goal().div_ceil(size) - hits;
        if needed + self.cache.free_among(hit) > self.cache.available() {
            return None;
        }
        sequence.blocks = hit.iter().map(|hash| self.cache.share(*hash)).collect();
        sequence.computed = hits * size;
        (sequence.filled, sequence.given) = (hits, hits);
        if sequence.output == 0 {
            (sequence.cached, sequence.loaded) = (sequence.computed, 0);
        }
        let sequence = self.waiting.pop_front()?;
        let lacks = self.lacks(&sequence);
        if lacks > 0 {
            self.ask(sequence, lacks, now);
            return Some(0);
        }
        self.running.push(sequence);
        let at = self.running.len() - 1;
        let planned = budget.min(self.running[at].goal() - self.running[at].computed);
        let grown = self.grow(at, planned, now);
        debug_assert!(grown, "room was counted before");
        self.running[at].planned = planned;
        Some(planned)
    }

    /// Gives a sequence the blocks for so many more tokens; whether there were enough.
    fn grow(&mut self, at: usize, tokens: usize, now: Duration) -> bool {
        let sequence = &mut self.running[at];
        let needed = (sequence.computed + tokens).div_ceil(self.shape.block_size);
        let mut blocks = std::mem::take(&mut sequence.blocks);
        let enough = self.take(&mut blocks, needed, now);
        self.running[at].blocks = blocks;
        enough
    }

    /// Takes blocks until there are `needed`; whether there were enough. What they held is gone.
    fn take(&mut self, blocks: &mut Vec<Id>, needed: usize, now: Duration) -> bool {
        while blocks.len() < needed {
            let Some((id, evicted)) = self.cache.take() else { return false };
            blocks.push(id);
            if let Some(hash) = evicted {
                self.told.push(Told::Removed(self.name(hash)));
                self.evicted(hash, now);
            }
        }
        true
    }

    fn preempt(&mut self) {
        if let Some(mut youngest) = self.running.pop() {
            self.cache.release(&youngest.blocks);
            youngest.blocks.clear();
            (youngest.computed, youngest.filled, youngest.planned) = (0, 0, 0);
            // What was loaded is computed the second time.
            youngest.given = 0;
            self.waiting.push_front(youngest);
        }
    }

    /// What a step computed becomes visible: blocks, tokens, changes of the cache.
    fn finish(&mut self, at: Duration, out: &mut Vec<Output>) {
        let size = self.shape.block_size;
        for sequence in &mut self.running {
            sequence.computed += std::mem::take(&mut sequence.planned);
            let full = (sequence.computed / size).min(sequence.job.text.prefix_hashes.len());
            if full > sequence.filled {
                let first = sequence.filled;
                let text = sequence.job.text.clone();
                let seed = self.shape.hash_seed;
                let name = |hash: &PrefixHash| EngineHash(xxh3_64_with_seed(&hash.0.to_le_bytes(), seed));
                let parent = first.checked_sub(1).map(|before| name(&text.prefix_hashes[before]));
                let hashes = text.prefix_hashes[first..full].iter().map(name).collect();
                for block in first..full {
                    self.cache.fill(sequence.blocks[block], text.prefix_hashes[block]);
                }
                sequence.filled = full;
                if let Some(second) = &self.shape.second {
                    let ends = if second.answers { full } else { full.min(sequence.job.prompt / size) };
                    let computed = first.max(sequence.given)..ends;
                    match second.offload {
                        Offload::Filled if !computed.is_empty() => {
                            let blocks = computed.map(|block| Kept::of(&text, block)).collect();
                            out.push(Output { at, what: What::Offloads(blocks) });
                        }
                        Offload::Filled => {}
                        Offload::Evicted => {
                            let kept = (first..ends).map(|block| Kept::of(&text, block));
                            self.origins.extend(kept.map(|kept| (kept.prefix, kept)));
                        }
                    }
                }
                self.told.push(Told::Stored { parent, hashes, first, text });
            }
        }
        out.extend(self.told.drain(..).map(|told| Output { at, what: What::Told(told) }));
        let cache = &mut self.cache;
        self.running.retain_mut(|sequence| {
            if sequence.computed < sequence.goal() {
                return true;
            }
            sequence.output += 1;
            let done = sequence.output == sequence.job.output;
            let (job, count, cached, loaded) =
                (sequence.job.id, sequence.output, sequence.cached, sequence.loaded);
            out.push(Output { at, what: What::Token { job, count, cached, loaded, done } });
            if done {
                cache.release(&sequence.blocks);
            }
            !done
        });
    }
}

impl Sequence {
    fn new(job: Job) -> Self {
        Self {
            job,
            blocks: Vec::new(),
            computed: 0,
            filled: 0,
            given: 0,
            cached: 0,
            loaded: 0,
            asked: false,
            output: 0,
            planned: 0,
        }
    }

    /// Tokens that must be computed before the next one can be said.
    fn goal(&self) -> usize {
        self.job.prompt + self.output
    }
}

// === impl Told ===

impl Told {
    /// The same, in the words of the house.
    pub fn event(&self) -> Event {
        match self {
            Self::Stored { parent, hashes, first, text } => {
                let contents = &text.tokens_hashes[*first..];
                let blocks = hashes
                    .iter()
                    .zip(contents)
                    .map(|(engine, tokens)| Block { engine: *engine, tokens: *tokens });
                Event::Stored(Stored { parent: *parent, blocks: blocks.collect(), tier: Tier::Device })
            }
            Self::Removed(hash) => Event::Removed { blocks: vec![*hash], tier: Tier::Device },
            Self::Cleared => Event::Cleared,
        }
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            block_size: 16,
            blocks: 50_000,
            max_running: 256,
            step_tokens: 8_192,
            cost: Cost::default(),
            hash_seed: 1,
            second: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A job over the text 0, 1, 2, … of `family`, so that jobs of one family share their prefix.
    fn job(id: u64, family: u64, prompt: usize, output: usize, size: usize) -> Job {
        let tokens_hashes: Vec<_> =
            (0..((prompt + output) / size) as u64).map(|i| TokensHash(family << 32 | i)).collect();
        let prefix_hashes = PrefixHash::chain(&tokens_hashes);
        Job { id, prompt, output, text: Arc::new(Text { tokens_hashes, prefix_hashes, ..Text::default() }) }
    }

    fn small(blocks: usize) -> Engine {
        Engine::new(Shape { block_size: 4, blocks, max_running: 3, step_tokens: 16, ..Shape::default() })
    }

    fn run(engine: &mut Engine) -> Vec<Output> {
        let mut out = Vec::new();
        while let Some(at) = engine.next_at() {
            engine.advance(at, &mut out);
            assert_eq!(engine.cache.check(), Ok(()));
        }
        out
    }

    fn cached(out: &[Output], id: u64) -> usize {
        let last = out.iter().rev().find_map(|output| match output.what {
            What::Token { job, cached, done: true, .. } if job == id => Some(cached),
            _ => None,
        });
        last.expect("the job was finished")
    }

    #[test]
    fn a_prompt_that_was_seen_is_found_except_for_its_last_token() {
        let mut engine = small(100);
        engine.submit(job(1, 7, 12, 1, 4), Duration::ZERO);
        engine.submit(job(2, 7, 12, 1, 4), Duration::from_secs(9));
        run(&mut engine);
        engine.submit(job(3, 7, 12, 1, 4), Duration::from_secs(20));
        engine.submit(job(4, 7, 13, 1, 4), Duration::from_secs(20));
        let out = run(&mut engine);
        assert_eq!((cached(&out, 3), cached(&out, 4)), (8, 12));
    }

    #[test]
    fn a_full_hit_computes_its_last_block_into_a_second_copy() {
        let mut engine = small(100);
        for id in 1..=2 {
            engine.submit(job(id, 7, 12, 1, 4), Duration::ZERO);
            run(&mut engine);
        }
        let copies: Vec<usize> = engine.cache.held().map(|(_, copies)| copies).collect();
        assert_eq!(copies.iter().filter(|copies| **copies == 2).count(), 1, "{copies:?}");
    }

    #[test]
    fn an_aborted_job_frees_its_blocks_at_once() {
        let mut engine = small(100);
        engine.submit(job(1, 7, 40, 50, 4), Duration::ZERO);
        engine.submit(job(2, 8, 40, 50, 4), Duration::ZERO);
        let mut out = Vec::new();
        let at = engine.next_at().unwrap();
        engine.advance(at, &mut out);
        assert!(engine.abort(1) && engine.abort(2) && !engine.abort(2));
        assert_eq!(engine.cache.available(), 100);
        assert_eq!(engine.load(), (0, 0));
    }

    proptest! {
        #[test]
        fn events_tell_exactly_what_is_cached(
            jobs in proptest::collection::vec((0_u64..4, 1_usize..40, 1_usize..20, 0_u64..40), 1..40),
            blocks in 16_usize..64,
        ) {
            let mut engine = small(blocks);
            let mut told: HashMap<EngineHash, usize> = HashMap::new();
            let mut finished = 0;
            let mut now = Duration::ZERO;
            let mut out = Vec::new();
            for (i, (family, prompt, output, pause)) in jobs.iter().enumerate() {
                now += Duration::from_millis(*pause);
                engine.advance(now, &mut out);
                engine.submit(job(i as u64, *family, *prompt, *output, 4), now);
            }
            out.extend(run(&mut engine));
            for output in &out {
                match &output.what {
                    What::Told(Told::Stored { hashes, .. }) => {
                        for hash in hashes {
                            *told.entry(*hash).or_default() += 1;
                        }
                    }
                    What::Told(Told::Removed(hash)) => {
                        let copies = told.get_mut(hash).expect("removed before it was stored");
                        *copies -= 1;
                        if *copies == 0 {
                            told.remove(hash);
                        }
                    }
                    What::Told(Told::Cleared) => told.clear(),
                    What::Token { done, .. } => finished += usize::from(*done),
                    What::Wants { .. } | What::Stops { .. } | What::Offloads(_) => panic!("there is no second tier"),
                }
            }
            prop_assert_eq!(finished, jobs.len());
            let held: HashMap<EngineHash, usize> =
                engine.cache.held().map(|(hash, copies)| (engine.name(hash), copies)).collect();
            // Evictions of the last step are told with the next one.
            let late = engine.told.iter().filter(|told| matches!(told, Told::Removed(_))).count();
            prop_assert_eq!(late, 0);
            prop_assert_eq!(told, held);
            prop_assert_eq!(engine.load(), (0, 0));
            prop_assert_eq!(engine.cache.available(), blocks);
        }
    }
}
