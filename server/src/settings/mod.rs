//! Everything a person can set, its default, and what it weighs.

pub mod check;
mod files;
pub mod keys;
mod link;
mod load;
mod size;
mod span;
mod store;
mod tiers;
mod webhook;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use files::{Batches, Data, Files};
pub use link::{Link, Role};
pub use load::{Error, Origin, load, variable};
pub use size::Size;
pub use span::Span;
pub use store::Store;
pub use tiers::{Offload, Promotion, Quota, Tiers};
pub use webhook::Webhook;

/// The whole of `warmline.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The front door.
    pub gateway: Gateway,
    /// The operator's door.
    pub admin: Admin,
    /// How an engine is chosen.
    pub routing: Routing,
    /// How engines are watched.
    pub health: Health,
    /// How predictions are held against what engines report.
    pub closed_loop: ClosedLoop,
    /// The store that engines share.
    pub store: Store,
    /// What replicas agree on, and where.
    pub coordination: Coordination,
    /// Who waits when there is no room, and how long.
    pub queue: Queue,
    /// Where what must last lies on this machine.
    pub data: Data,
    /// Files that clients upload, and where they lie.
    pub files: Files,
    /// Batches: files of requests that are answered within a day.
    pub batches: Batches,
    /// Who is told when batches and jobs end.
    pub webhook: Webhook,
    /// The tiered store, where `warmline store` runs.
    pub tiers: Tiers,
    /// Logs.
    pub log: Log,
    /// Models that need a word about their tokenizer; others are served too.
    pub models: Vec<Model>,
    /// The fleet.
    pub engines: Vec<Engine>,
    /// Who may come in; with none, everybody may, and the posture report says so.
    pub tenants: Vec<Tenant>,
}

/// The front door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Where clients connect. Anything but loopback wants keys and a TLS terminator in front.
    pub listen: SocketAddr,
    /// Threads that serve requests; 0 means one a core.
    pub threads: usize,
    /// The largest body that is read. A larger one costs memory while it waits.
    pub max_body_bytes: usize,
    /// The largest head (request line and headers).
    pub max_head_bytes: usize,
    /// Client connections at a time; more are refused at once.
    pub max_connections: usize,
    /// How long a client may take to send its head; a connection that is idle for so long is closed as well.
    pub head_timeout: Span,
    /// How long a client may take to send its body.
    pub body_timeout: Span,
    /// How long a client may take nothing of its answer before it is cut off: slow readers hold engines.
    pub client_stall_timeout: Span,
    /// How long an engine may take to accept a connection.
    pub connect_timeout: Span,
    /// How long an engine may take until its first byte. Long prompts on a busy engine take minutes.
    pub first_byte_timeout: Span,
    /// How long an engine may be silent within an answer.
    pub engine_stall_timeout: Span,
    /// After this much silence a stream gets a comment line, so that nothing between us and the client hangs up.
    pub keep_alive_every: Span,
    /// Engines tried for one request before it fails, the first included.
    pub max_attempts: usize,
    /// How long running requests may take to finish after SIGTERM.
    pub shutdown_grace: Span,
}

/// The operator's door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where `warmline status` and Prometheus connect. Keep it off the public network.
    pub listen: SocketAddr,
    /// A file whose one line is the key that admin calls must bear; none leaves the listener open.
    pub key_file: Option<PathBuf>,
}

/// How an engine is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// The policy.
    pub policy: Policy,
    /// Cost of a prompt token that must be computed. The unit of all costs.
    pub prefill_weight: f64,
    /// Cost of one sequence that is decoding on the engine.
    pub decode_weight: f64,
    /// What is left of a prompt token's cost if its block lies in host memory.
    pub host_discount: f64,
    /// The same for local disk and shared store.
    pub store_discount: f64,
    /// Requests at a time on one engine, unless the engine says otherwise; 0 is no limit.
    pub max_in_flight: usize,
    /// Tokens of prompts and expected answers in flight on one engine, unless the engine says otherwise; 0 is no limit.
    pub max_tokens: u64,
    /// How long a routed prompt counts as cached before the engine's events confirm it.
    pub expect_for: Span,
    /// Decisions kept for `explain`.
    pub journal: usize,
}

/// The rule by which an engine is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The least work still to do: what is cached, discounted by tier, and the load.
    #[default]
    Warm,
    /// Each in turn.
    RoundRobin,
    /// The fewest tokens in flight.
    LeastLoaded,
    /// As `warm`, but on what was sent where, without events.
    Approximate,
}

impl Policy {
    /// Whether it matters to this rule what is cached where.
    pub const fn looks_at_caches(self) -> bool {
        matches!(self, Self::Warm | Self::Approximate)
    }
}

/// How engines are watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Time between probes of an engine.
    pub probe_every: Span,
    /// How long a probe may take.
    pub probe_timeout: Span,
    /// Failures in a row that open an engine's circuit breaker.
    pub trip_after: u32,
    /// How long an open breaker waits before it lets one request try.
    pub retry_after: Span,
    /// `/readyz` answers 200 after this long even if some view is not exact yet.
    pub ready_grace: Span,
}

/// How predictions are held against what engines report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClosedLoop {
    /// Ask engines for usage in streams whose client did not, and keep it from the client.
    pub ask_usage: bool,
    /// Weight of the newest observation in an engine's confidence.
    pub smoothing: f64,
    /// Confidence under which an engine's view is rebuilt without being asked.
    pub rebuild_below: f64,
    /// Observations before a rebuild is considered (and again after one).
    pub min_observations: u32,
}

/// What replicas agree on, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coordination {
    /// `memory` for a single replica; `redis`; or a backend that this program was built with.
    pub backend: String,
    /// Where Redis is: `redis://…`, `redis+sentinel://…`, `redis+cluster://…`, `rediss…` with TLS. It may hold a
    /// password, so better give it by `dsn_file` or by `WARMLINE_COORD_DSN`.
    #[serde(serialize_with = "without_password")]
    pub dsn: String,
    /// A file whose one line is the DSN.
    pub dsn_file: Option<PathBuf>,
    /// The certificate authority of Redis' certificates, as PEM; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// What every key begins with; all replicas of one fleet have the same.
    pub key_prefix: String,
    /// How long state lives that nobody touches, in seconds; 0: for ever.
    pub ttl_sec: i64,
    /// For backends of other makers; not shown, since nobody here knows what is secret in it.
    #[serde(serialize_with = "only_keys")]
    pub custom_params: BTreeMap<String, serde_json::Value>,
    /// How many replicas there are meant to be; with more than one, `memory` is refused.
    pub replicas: usize,
    /// What this replica calls itself, unlike every other; none: host, process and chance.
    pub instance: Option<String>,
    /// A replica that is silent for so long is out of every sum. Shorter reacts sooner and forgives less.
    pub lease: Span,
    /// How often a replica says that it lives, and what it has in hand.
    pub beat: Span,
    /// How long a request may stand at the door while other replicas give up a part of its tenant's limit.
    pub share_patience: Span,
}

/// Who waits when there is no room, and how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// How long a request may stand in line; then it is told that it could not be served.
    pub max_wait: Span,
    /// Requests of one tenant that may stand in line; more are told at once to come back later.
    pub max_line: usize,
    /// Requests that may stand in line in all. Each holds its body in memory.
    pub max_standing: usize,
    /// How often a request may be overtaken by later ones of the same line that are warmer.
    pub overtake: u8,
    /// Among how many of the first of a line the warmest is looked for. Each costs a lookup.
    pub reach: usize,
    /// What of the work a class gets when more urgent ones want everything, in thousandths: urgent, normal, job, batch.
    pub shares: [u32; 4],
    /// Tokens of that share that must have passed a class before its share begins to count.
    pub patience_tokens: u64,
    /// Jobs and lines of batches that run at a time on this replica, together.
    pub jobs_in_flight: u32,
    /// What an acknowledgement of a job means: `fsync` survives a crash of the machine, `write` one of the process.
    pub durability: Durability,
    /// How often a job is tried that an engine fails.
    pub attempts: u16,
    /// How long the outcome of a job can be read.
    pub keep: Span,
}

/// What an acknowledgement means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// It is on the disk.
    #[default]
    Fsync,
    /// It is with the operating system.
    Write,
}

/// How urgent what a tenant sends is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Before everything else.
    Urgent,
    /// As people expect who wait for an answer.
    #[default]
    Normal,
    /// When there is room beside those who wait for an answer.
    Job,
    /// When nothing else wants to run.
    Batch,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A `tracing` filter, such as `info` or `server=debug,events=trace`.
    pub filter: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// For whom logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// A model whose prompts are tokenised here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// The name that clients use.
    pub name: String,
    /// Other names for the same model.
    pub aliases: Vec<String>,
    /// LoRA adapters of this model: the model name that clients use -> the adapter's name in events.
    pub loras: BTreeMap<String, String>,
    /// A Hugging Face `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// A `tokenizer_config.json` or a bare Jinja file with the chat template.
    pub chat_template: Option<PathBuf>,
}

/// One engine of the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// A short name for people; metrics and logs use it.
    pub name: String,
    /// Where its OpenAI API is, such as `http://10.0.0.5:8000`.
    pub url: String,
    /// What it serves; empty means: ask its `/v1/models`.
    pub models: Vec<String>,
    /// Where its KV events are, such as `tcp://10.0.0.5:5557`; `auto` asks its `/kv_event_sources`; none: approximate.
    pub events: Option<String>,
    /// Where its replay socket is.
    pub replay: Option<String>,
    /// The topic that its events carry; empty takes all.
    pub topic: String,
    /// Where its events are told again, with snapshots, for others who follow it; replays so many ports higher as it has
    /// ranks.
    pub relay: Option<String>,
    /// Tokens in a KV block of this engine.
    pub block_size: u32,
    /// Data-parallel ranks, each with its own cache and its own port.
    pub ranks: u32,
    /// Requests at a time; none: `routing.max_in_flight`.
    pub max_in_flight: Option<usize>,
    /// Tokens in flight; none: `routing.max_tokens`.
    pub max_tokens: Option<u64>,
    /// A file with the key that the engine wants.
    pub key_file: Option<PathBuf>,
}

/// Someone who may come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// A short name for people; metrics and logs use it.
    pub name: String,
    /// A file with one key a line; any of them opens.
    pub keys_file: PathBuf,
    /// Requests at a time; none: no limit.
    pub max_in_flight: Option<usize>,
    /// Its part beside other tenants when there is not enough for all.
    pub weight: u32,
    /// How urgent what it sends is.
    pub priority: Priority,
    /// Requests a minute, over all replicas; none: no limit.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers a minute, over all replicas; none: no limit.
    pub tokens_per_minute: Option<u64>,
    /// Models that it may use; empty: all.
    pub models: Vec<String>,
    /// Who is told when its batches and jobs end; none: whoever `webhook` says.
    pub webhook: Webhook,
}

// === Defaults ===

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            threads: 0,
            max_body_bytes: 16 << 20,
            max_head_bytes: 64 << 10,
            max_connections: 16_384,
            head_timeout: Span::seconds(30),
            body_timeout: Span::seconds(60),
            client_stall_timeout: Span::seconds(60),
            connect_timeout: Span::millis(1_000),
            first_byte_timeout: Span::seconds(600),
            engine_stall_timeout: Span::seconds(120),
            keep_alive_every: Span::seconds(15),
            max_attempts: 3,
            shutdown_grace: Span::seconds(30),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8081)), key_file: None }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            policy: Policy::Warm,
            prefill_weight: 1.0,
            decode_weight: 16.0,
            host_discount: 0.2,
            store_discount: 0.5,
            max_in_flight: 0,
            max_tokens: 0,
            expect_for: Span::seconds(5),
            journal: 4_096,
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe_every: Span::millis(1_000),
            probe_timeout: Span::millis(1_000),
            trip_after: 3,
            retry_after: Span::seconds(2),
            ready_grace: Span::seconds(30),
        }
    }
}

impl Default for ClosedLoop {
    fn default() -> Self {
        Self { ask_usage: true, smoothing: 0.1, rebuild_below: 0.5, min_observations: 8 }
    }
}

impl Default for Coordination {
    fn default() -> Self {
        let coord::backend::Config { backend, dsn, key_prefix, ttl_sec, ca_file, custom_params } =
            coord::backend::Config::default();
        Self {
            backend,
            dsn,
            dsn_file: None,
            ca_file,
            key_prefix,
            ttl_sec,
            custom_params,
            replicas: 1,
            instance: None,
            lease: Span::seconds(3),
            beat: Span::millis(500),
            share_patience: Span::millis(100),
        }
    }
}

impl Coordination {
    /// What the room of coordination needs to know of it.
    ///
    /// # Errors
    /// A file that cannot be read or is empty, in words.
    pub fn config(&self) -> Result<coord::backend::Config, String> {
        let dsn = match &self.dsn_file {
            None => self.dsn.clone(),
            Some(path) => keys::first_line("coordination.dsn_file", path)?,
        };
        Ok(coord::backend::Config {
            backend: self.backend.clone(),
            dsn,
            key_prefix: self.key_prefix.clone(),
            ttl_sec: self.ttl_sec,
            ca_file: self.ca_file.clone(),
            custom_params: self.custom_params.clone(),
        })
    }
}

/// Secrets are not shown: whoever dumps the settings sees where Redis is, and not how one gets in.
fn without_password<S: serde::Serializer>(dsn: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = match dsn.rsplit_once('@') {
        Some((before, host)) => {
            let scheme =
                before.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| !scheme.contains(':'));
            format!("{}(hidden)@{host}", scheme.map(|scheme| format!("{scheme}://")).unwrap_or_default())
        }
        None => dsn.to_owned(),
    };
    serializer.serialize_str(&shown)
}

fn only_keys<S: serde::Serializer>(
    params: &BTreeMap<String, serde_json::Value>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(params.keys().map(|key| (key, "(hidden)")))
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            max_wait: Span::seconds(30),
            max_line: 1_000,
            max_standing: 10_000,
            overtake: 4,
            reach: 4,
            shares: [0, 100, 50, 20],
            patience_tokens: 65_536,
            jobs_in_flight: 64,
            durability: Durability::default(),
            attempts: 3,
            keep: Span::seconds(24 * 3_600),
        }
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            name: String::new(),
            keys_file: PathBuf::new(),
            max_in_flight: None,
            weight: 1,
            priority: Priority::default(),
            requests_per_minute: None,
            tokens_per_minute: None,
            models: Vec::new(),
            webhook: Webhook::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            models: Vec::new(),
            events: None,
            replay: None,
            topic: String::new(),
            relay: None,
            block_size: 16,
            ranks: 1,
            max_in_flight: None,
            max_tokens: None,
            key_file: None,
        }
    }
}
