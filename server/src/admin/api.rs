//! What the operator's API says, in types that the command line shares.

pub mod queues;

use serde::{Deserialize, Serialize};

use crate::fleet::Mismatch;
use crate::posture::Surface;
use crate::route::{Standing, Why};
use crate::settings::Policy;
use crate::tokens::Way;

/// `GET /status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Whether `/readyz` would say yes, and if not, why.
    pub ready: bool,
    /// See `ready`.
    pub waiting_for: Option<String>,
    /// The rule by which engines are chosen.
    pub policy: Policy,
    /// The engines.
    pub engines: Vec<EngineStatus>,
    /// The store that engines share, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    /// What the index holds.
    pub index: IndexStatus,
    /// Requests that are being served now.
    pub in_flight: u64,
    /// What waits.
    #[serde(default)]
    pub waiting: queues::Waiting,
    /// What is open, and to whom.
    pub posture: Vec<Surface>,
    /// All replicas that live, this one among them.
    #[serde(default)]
    pub replicas: Vec<ReplicaStatus>,
    /// How this one stands with the others.
    #[serde(default)]
    pub coordination: CoordinationStatus,
}

/// One replica, as it says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub instance: String,
    /// Whether it is the one that answers.
    pub me: bool,
    /// Seconds since the others know it.
    pub age_s: f64,
    /// Seconds until it is dead to them, if it says nothing more.
    pub left_s: f64,
    /// The version that runs.
    pub version: String,
    /// Where its clients connect.
    pub gateway: String,
    /// Where its operators connect.
    pub admin: String,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Whether its `/readyz` would say yes.
    pub ready: bool,
    /// What it waits for.
    pub waiting_for: Option<String>,
    /// Requests that it serves now.
    pub in_flight: u64,
    /// Requests that it has served.
    pub served: u64,
}

/// How a replica stands with the others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CoordinationStatus {
    /// What they agree through.
    pub backend: String,
    /// What this replica calls itself.
    pub instance: String,
    /// Why nothing new is known of the others.
    pub trouble: Option<String>,
    /// Seconds since something was last heard of them.
    pub heard_s: Option<f64>,
    /// Operations that were sent.
    pub sent: u64,
    /// Of these, repetitions.
    pub repeated: u64,
    /// Operations without an answer.
    pub unanswered: u64,
    /// Times that the shared state was found to be lost.
    pub losses: u64,
    /// What this replica holds of common limits.
    pub shares: Vec<ShareStatus>,
}

/// What a replica holds of a tenant's limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShareStatus {
    /// Whose.
    pub tenant: String,
    /// Requests at this moment.
    pub used: u64,
    /// How many it may have without asking.
    pub held: u64,
    /// How many all replicas may have together.
    pub limit: u64,
}

/// One engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether it may be chosen.
    pub standing: Standing,
    /// What it serves.
    pub models: Vec<String>,
    /// Its caches, one a data-parallel rank; none if it does not tell of them.
    pub views: Vec<ViewStatus>,
    /// How far predictions of its cached tokens have come true lately, from 0 to 1.
    pub confidence: f64,
    /// Predictions that were held against the truth.
    pub observations: u32,
    /// Views that were built anew because predictions failed.
    pub rebuilds: u64,
    /// Our tokens and its own differ: it is routed approximately.
    pub mismatch: Option<Mismatch>,
    /// Requests in flight, by our count.
    pub in_flight: u32,
    /// Prompt tokens that it still has to compute for us.
    pub backlog_tokens: u32,
    /// Sequences that it decodes for us.
    pub decoding: u32,
    /// What its own metrics say: requests that run and wait, of all who use it.
    pub running: u32,
    /// See `running`.
    pub waiting: u32,
    /// Requests that it served.
    pub served: u64,
    /// Requests that it failed.
    pub failed: u64,
    /// Prompt tokens that it served, where it said how many.
    pub prompt_tokens: u64,
    /// Of these, found in its cache.
    pub cached_tokens: u64,
    /// Of these, predicted.
    pub predicted_tokens: u64,
    /// Tokens in one of its blocks.
    pub block_size: u32,
    /// What last went wrong.
    pub trouble: Option<String>,
}

/// The store that engines share, as this replica knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Where its events are.
    pub events: String,
    /// Where it speaks the protocol of Redis.
    pub address: Option<String>,
    /// Models whose engines use it; empty: all.
    pub models: Vec<String>,
    /// Whether its events can be had; if not, what it holds counts for nothing.
    pub in_reach: bool,
    /// What it holds.
    pub view: ViewStatus,
    /// How what waits is warmed there, if it is.
    pub warming: Option<WarmingStatus>,
}

/// How what waits is warmed in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmingStatus {
    /// Whether the store answers.
    pub in_reach: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// Requests in line whose blocks are on their way.
    pub requests: usize,
    /// Jobs and lines of batches whose blocks are on their way.
    pub jobs: usize,
    /// Blocks that are on their way.
    pub blocks: usize,
    /// What has happened.
    pub counts: WarmingCounts,
}

/// What blocks that were asked for came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmingEnds {
    /// Blocks that the store was asked to warm.
    pub asked_blocks: u64,
    /// Of these, in memory when the turn of whoever waited for them came.
    pub in_time_blocks: u64,
    /// Of these, not in memory then.
    pub late_blocks: u64,
    /// Of these, for whoever left without a turn.
    pub unused_blocks: u64,
}

/// What has happened in warming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmingCounts {
    /// Blocks that the store was asked to warm.
    pub asked_blocks: u64,
    /// Of these, on their way by the store's own word.
    pub taken_objects: u64,
    /// Asked blocks that were in memory when the turn of their request came.
    pub in_time_blocks: u64,
    /// Asked blocks that were not.
    pub late_blocks: u64,
    /// Asked blocks whose request left the line without its turn.
    pub unused_blocks: u64,
    /// What of all this was for jobs and lines of batches.
    pub of_jobs: WarmingEnds,
    /// Blocks that were on their way already for another request of this replica.
    pub shared_blocks: u64,
    /// Blocks that another replica had asked for.
    pub elsewhere_blocks: u64,
    /// Times that a request's blocks had to wait, since enough others were on their way.
    pub over_budget: u64,
    /// Times that the coordinator did not say whether another replica asks: then it was asked anyway.
    pub unsure: u64,
    /// Times that the store was away, slow, or refused.
    pub failed: u64,
}

/// One followed cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ViewStatus {
    /// The data-parallel rank.
    pub rank: u32,
    /// `exact`, `recovering` or `stale`.
    pub view: String,
    /// Whether the event stream is connected.
    pub connected: bool,
    /// The last sequence that was applied.
    pub sequence: Option<u64>,
    /// Blocks that it holds.
    pub blocks: usize,
    /// What has happened to its stream.
    #[serde(flatten)]
    pub counts: StreamCounts,
    /// Runs whose tokens do not fill their blocks.
    pub misfits: u64,
    /// Replays that failed or were silent.
    pub failed_replays: u64,
    /// Silences of a publisher with a heartbeat that were too long.
    pub silences: u64,
    /// What last went wrong.
    pub trouble: Option<String>,
}

/// What has happened to a stream since it was first followed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamCounts {
    /// Batches that were applied.
    pub batches: u64,
    /// Holes in the stream.
    pub gaps: u64,
    /// New lives of the engine.
    pub restarts: u64,
    /// Views that were built anew.
    pub rebuilds: u64,
    /// Of these, from a snapshot.
    pub snapshots: u64,
    /// Stored runs whose parent was not known.
    pub refused: u64,
    /// Payloads that could not be read.
    pub undecodable: u64,
}

impl From<&events::follow::Counters> for StreamCounts {
    fn from(counters: &events::follow::Counters) -> Self {
        let events::follow::Counters {
            batches,
            gaps,
            restarts,
            rebuilds,
            snapshots,
            refused,
            undecodable,
            ..
        } = *counters;
        Self { batches, gaps, restarts, rebuilds, snapshots, refused, undecodable }
    }
}

/// What the index holds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct IndexStatus {
    /// Different blocks.
    pub blocks: usize,
    /// Blocks times their holders.
    pub held: usize,
    /// Bytes on the heap.
    pub heap_bytes: usize,
}

/// `GET /explain/{request id}`: why a request went where it went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The request id.
    pub id: String,
    /// Seconds since 1970.
    pub at: f64,
    /// The model.
    pub model: String,
    /// How its prompt became tokens.
    pub way: Way,
    /// Tokens of the prompt, as far as they are known here.
    pub prompt_tokens: u32,
    /// The rule.
    pub policy: Policy,
    /// Each engine that was tried, in order.
    pub attempts: Vec<Attempt>,
    /// Prompt tokens that were predicted to be cached on the last of them.
    pub predicted_tokens: Option<u32>,
    /// What the engine said.
    pub cached_tokens: Option<u32>,
    /// Milliseconds that it stood in line, over all attempts; none: it had a place at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<f64>,
    /// Why it had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_for: Option<String>,
    /// Which replica served it, if another one was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
}

/// One decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// Who was chosen.
    pub engine: String,
    /// What decided.
    pub why: Why,
    /// Who else could have been, and at what cost.
    pub candidates: Vec<Considered>,
    /// How it ended; none while it goes on.
    pub outcome: Option<String>,
    /// Milliseconds until the first byte.
    pub first_byte_ms: Option<f64>,
    /// Milliseconds in all.
    pub total_ms: Option<f64>,
}

/// One candidate of a decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Considered {
    /// Which engine.
    pub engine: String,
    /// Whether it could be chosen.
    pub standing: Standing,
    /// Its view: `exact`, `recovering`, `stale`, or `none` if it does not tell.
    pub view: String,
    /// Prompt tokens that lie on its device, in host memory or nearer, and anywhere.
    pub cached_tokens: [u32; 3],
    /// How far that was relied on.
    pub trust: f64,
    /// Prompt tokens beyond these that lie in the memory and on the disk of the store that engines share.
    #[serde(default)]
    pub store_tokens: [u32; 2],
    /// How far that was relied on.
    #[serde(default)]
    pub store_trust: f64,
    /// Prompt tokens before this request.
    pub backlog_tokens: u32,
    /// Sequences that decoded.
    pub decoding: u32,
    /// Requests in flight.
    pub in_flight: u32,
    /// The cost, in prompt tokens to compute.
    pub cost: f64,
}

/// `POST /route`: where a body would go now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DryRun {
    /// The model.
    pub model: String,
    /// How its prompt became tokens.
    pub way: Way,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The rule.
    pub policy: Policy,
    /// Who would be chosen.
    pub engine: Option<String>,
    /// What would decide.
    pub why: Option<Why>,
    /// Who else could be, and at what cost.
    pub candidates: Vec<Considered>,
}
