//! What can be set about the master.

/// What can be set about the master. Everything has a default that works.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Shards of the metadata, each under its own lock: a power of two, at most 1,024.
    pub shards: usize,
    /// Mixed into the hash of every key, so that nobody outside can choose keys that collide.
    pub seed: u64,
    /// Greater for each master than for any before it: the fence of its coordinator lease.
    pub term: u32,
    /// Eviction begins when more than so many thousandths of a node's memory (or disk) are taken.
    pub high: u32,
    /// And goes on until less than so many are.
    pub low: u32,
    /// Copies that eviction looks at in one go, before it lets others have the locks.
    pub steps: u32,
    /// Milliseconds for which what was just found in memory is not evicted. Longer protects slow readers that do not hold a guard;
    /// but nothing that was read within that time can make room.
    pub lease: u64,
    /// Transfers into a node at a time.
    pub slots: u32,
    /// Milliseconds after which a put that was not committed is displaced.
    pub put_patience: u64,
    /// Milliseconds for which a put keeps its place in the line for space.
    pub wait_patience: u64,
    /// Puts that wait for space on a node at a time.
    pub waits: usize,
    /// The largest value.
    pub largest: u64,
    /// When copies are written to disk.
    pub offload: Offload,
    /// How often a copy must have been read lately to be offloaded rather than dropped when memory is needed.
    pub offload_heat: u8,
    /// Milliseconds after which an offload is given up, and is due in the line of its node.
    pub offload_patience: u64,
    /// Orders of a node that wait to be taken, without those that free something.
    pub orders: usize,
    /// Milliseconds after which a read counts half.
    pub half_life: u64,
    /// Promotion of hot objects that are on disk only.
    pub promotion: Promotion,
}

/// When copies are written to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Never.
    Off,
    /// Once they are in memory: every put costs a write, and eviction frees memory at once.
    AtCommit,
    /// When memory is needed, if they were read [`Options::offload_heat`] times: fewer writes, slower eviction.
    AtEviction,
}

/// What can be set about promotion.
#[derive(Clone, Debug, PartialEq)]
pub struct Promotion {
    /// Without it, nothing is counted and nothing promoted.
    pub on: bool,
    /// Reads within a half-life that make an object hot; 1 to 255.
    pub threshold: u8,
    /// Promotions under way at a time.
    pub at_a_time: usize,
    /// Candidates in all: 50,000 of about 100 bytes are 5 MB.
    pub candidates: usize,
    /// Tries of a candidate after its backoff, without a fresh hit.
    pub retries: u32,
    /// Milliseconds for which a candidate lives after its last hit.
    pub ttl: u64,
    /// Milliseconds before a candidate's first retry; doubles with each.
    pub backoff: u64,
    /// The most milliseconds between two.
    pub backoff_most: u64,
    /// Shards that a tick looks at.
    pub shards_a_tick: usize,
    /// Candidates that a tick tries.
    pub tries_a_tick: usize,
    /// Milliseconds after which a task that is not allocated, or not committed after it was, is given up.
    pub patience: u64,
    /// Milliseconds for which what was promoted is not evicted.
    pub lease: u64,
    /// Whether what was read less often leaves memory for a candidate. Otherwise candidates wait until there is room.
    pub exchange: bool,
}

/// A shard, a node or a group can be only so many.
pub const MAX_NODES: usize = 1_024;
/// Tenants that the master can tell apart; each costs a shard nothing until it has something there.
pub(super) const MAX_TENANTS: usize = 16_384;
/// Members of a group: leaving memory together must stay a short step.
pub(super) const MAX_GROUP: usize = 1_024;

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 1_024,
            seed: 0,
            term: 1,
            high: 950,
            low: 900,
            steps: 256,
            lease: 500,
            slots: 1_024,
            put_patience: 30_000,
            wait_patience: 5_000,
            waits: 1_024,
            largest: 1 << 30,
            offload: Offload::AtCommit,
            offload_heat: 0,
            offload_patience: 30_000,
            orders: 65_536,
            half_life: 300_000,
            promotion: Promotion::default(),
        }
    }
}

impl Default for Promotion {
    fn default() -> Self {
        Self {
            on: false,
            threshold: 2,
            at_a_time: 4_096,
            candidates: 50_000,
            retries: 64,
            ttl: 300_000,
            backoff: 10,
            backoff_most: 5_000,
            shards_a_tick: 64,
            tries_a_tick: 128,
            patience: 30_000,
            lease: 5_000,
            exchange: true,
        }
    }
}

impl Options {
    /// The same, with what makes no sense replaced by the nearest that does.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.shards = self.shards.clamp(1, super::order::Place::SHARDS).next_power_of_two();
        self.high = self.high.clamp(1, 1_000);
        self.low = self.low.min(self.high);
        self.steps = self.steps.max(1);
        self.largest = self.largest.min(u32::MAX.into());
        self.promotion = self.promotion.clamped(self.shards);
        self
    }
}

impl Promotion {
    /// The same, with what makes no sense replaced by the nearest that does.
    pub(super) fn clamped(mut self, shards: usize) -> Self {
        self.threshold = self.threshold.max(1);
        self.shards_a_tick = self.shards_a_tick.clamp(1, shards);
        self.tries_a_tick = self.tries_a_tick.max(1);
        self.backoff = self.backoff.max(1);
        self
    }

    /// How long a candidate waits after so many retries.
    pub(super) fn wait(&self, retries: u32) -> u64 {
        let doubled = self.backoff.saturating_mul(1 << retries.min(40));
        doubled.min(self.backoff_most.max(self.backoff))
    }
}
