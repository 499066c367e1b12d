//! The front door: HTTP in, one engine chosen, its answer out byte for byte.
//!
//! [`handle`] is the way of one request, [`upstream`] the connections to engines, [`relay`] an answer on its way,
//! [`serve`] the threads and connections,
//! [`files`] OpenAI's Files, [`batches`] its Batches. Nothing else in the house touches a client.

mod arriving;
mod batches;
mod edit;
pub(crate) mod errand;
mod files;
mod form;
mod handle;
mod jobs;
mod keys;
mod relay;
mod serve;
mod sse;
mod upstream;
pub(crate) mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::admin::api::DryRun;
use crate::batches::Batches;
use crate::error::ApiError;
use crate::files::Files;
use crate::fleet::{Ask, Fleet};
use crate::lines::Lines;
use crate::prompt::{Kind, Request};
use crate::replicas::Replicas;
use crate::settings::Settings;
use crate::webhooks::Webhooks;
use crate::work::Work;

pub(crate) use handle::decoded;
pub use serve::run;

/// The gateway; cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    fleet: Fleet,
    settings: Settings,
    keys: keys::Keys,
    lines: Lines,
    work: Work,
    files: Files,
    batches: Batches,
    webhooks: Webhooks,
    /// Places for uploads: each holds buffers.
    uploads: tokio::sync::Semaphore,
    counters: Arc<Counters>,
    /// Makes request ids unlike those of another process.
    seed: u64,
    minted: AtomicU64,
}

/// What has passed through the front door.
#[derive(Debug, Default)]
pub struct Counters {
    requests: Counter,
    answered: Counter,
    refused: Counter,
    failed: Counter,
    retries: Counter,
    clients_left: Counter,
    broken_answers: Counter,
    connections: Counter,
    connections_ended: Counter,
    connections_refused: Counter,
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

// === impl Gateway ===

impl Gateway {
    /// A gateway to this fleet.
    ///
    /// # Errors
    /// Keys that cannot be read, in words.
    pub fn new(
        fleet: Fleet,
        replicas: Replicas,
        files: Files,
        lines: Lines,
        work: Work,
        batches: Batches,
        webhooks: Webhooks,
    ) -> Result<Self, String> {
        let settings = fleet.settings().clone();
        let unix = fleet.clock().unix();
        let seed =
            xxhash_rust::xxh3::xxh3_64(format!("{}-{}", unix.as_nanos(), std::process::id()).as_bytes());
        let keys = keys::Keys::load(&settings.tenants, seed, replicas)?;
        Ok(Self(Arc::new(Inner {
            fleet,
            settings,
            keys,
            lines,
            work,
            uploads: tokio::sync::Semaphore::new(
                files.settings().max_uploads.min(tokio::sync::Semaphore::MAX_PERMITS),
            ),
            files,
            batches,
            webhooks,
            counters: Arc::default(),
            seed,
            minted: AtomicU64::new(0),
        })))
    }

    /// The gateway for as long as others keep it.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<Self> + Send + Sync + 'static {
        let weak = Arc::downgrade(&self.0);
        move || weak.upgrade().map(Self)
    }

    /// The engines behind it.
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// What is durable.
    pub fn work(&self) -> &Work {
        &self.0.work
    }

    /// Those who wait.
    pub fn lines(&self) -> &Lines {
        &self.0.lines
    }

    /// The files of clients.
    pub fn stored(&self) -> &Files {
        &self.0.files
    }

    /// The batches of clients.
    pub fn batches(&self) -> &Batches {
        &self.0.batches
    }

    /// Those who are told of ends.
    pub fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    /// What has passed.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Where the body of a chat or completion would go now; nothing changes.
    ///
    /// # Errors
    /// What the gateway itself would have answered.
    pub async fn dry_run(&self, body: &Bytes) -> Result<DryRun, ApiError> {
        let asked = Request::read(Kind::Chat, body)
            .or_else(|error| Request::read(Kind::Completion, body).map_err(|_| error))?;
        let (way, tokens) = self.tokens(&asked, body).await;
        self.0.fleet.dry_run(&Ask {
            id: "dry-run",
            model: &asked.model,
            tokens: &tokens,
            bytes: body,
            way,
            cache_salt: asked.cache_salt.as_deref(),
            streams: asked.stream,
            pinned: None,
            answer: 0,
            hashes: None,
            tried: Vec::new(),
        })
    }

    fn mint(&self) -> String {
        let number = self.0.minted.fetch_add(1, Ordering::Relaxed);
        let mixed = xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), self.0.seed);
        format!("wl-{mixed:016x}")
    }
}

// === impl Counters ===

impl Counters {
    /// Name, kind, help and value of each metric.
    pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let open = self.connections.get().saturating_sub(self.connections_ended.get());
        vec![
            (
                "warmline_gateway_requests_total",
                "counter",
                "Requests that came in.",
                self.requests.get() as f64,
            ),
            (
                "warmline_gateway_answered_total",
                "counter",
                "Requests with a good answer.",
                self.answered.get() as f64,
            ),
            (
                "warmline_gateway_refused_total",
                "counter",
                "Requests that were refused (4xx).",
                self.refused.get() as f64,
            ),
            (
                "warmline_gateway_failed_total",
                "counter",
                "Requests that failed (5xx).",
                self.failed.get() as f64,
            ),
            (
                "warmline_gateway_retries_total",
                "counter",
                "Attempts on another engine.",
                self.retries.get() as f64,
            ),
            (
                "warmline_gateway_clients_left_total",
                "counter",
                "Answers whose client left before their end.",
                self.clients_left.get() as f64,
            ),
            (
                "warmline_gateway_broken_answers_total",
                "counter",
                "Answers that an engine broke off.",
                self.broken_answers.get() as f64,
            ),
            ("warmline_gateway_connections", "gauge", "Client connections.", open as f64),
            (
                "warmline_gateway_connections_refused_total",
                "counter",
                "Connections beyond gateway.max_connections.",
                self.connections_refused.get() as f64,
            ),
        ]
    }
}

impl Counter {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
