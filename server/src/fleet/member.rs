//! One engine of the fleet: how it is reached, what it has in hand, how it has behaved.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use blocks::{TokensHash, Worker};
use events::follow::Follower;
use http::HeaderValue;
use parking_lot::Mutex;

use super::backlog::Backlog;
use super::breaker::{Allows, Breaker};
use super::history::History;
use super::truth::Truth;
use super::{Engine, EngineId};
use crate::route::Standing;
use crate::settings;

/// One engine. Everything that changes is behind an atomic or a lock of its own.
pub(crate) struct Member {
    pub(crate) engine: Arc<Engine>,
    pub(crate) settings: settings::Engine,
    /// One a data-parallel rank.
    pub(crate) workers: Vec<Worker>,
    /// Tokens in a block; what the engine's events say overrules what was set.
    pub(crate) block_size: AtomicU32,
    pub(crate) models: ArcSwap<Vec<String>>,
    /// Whether it answers probes; innocent until it was asked.
    pub(crate) up: AtomicBool,
    pub(crate) draining: AtomicBool,
    pub(crate) load: Load,
    pub(crate) breaker: Mutex<Breaker>,
    pub(crate) truth: Mutex<Truth>,
    pub(crate) history: Mutex<History>,
    pub(crate) followers: Mutex<Vec<Follower>>,
    /// Prompts whose first block the engine should tell of, and when to look.
    pub(crate) awaited: Mutex<VecDeque<Awaited>>,
    /// The start of its process, as it says; the bits of a float. 0: it does not say.
    pub(crate) started: AtomicU64,
    /// What last went wrong, in words.
    pub(crate) trouble: Mutex<Option<String>>,
}

/// What was sent to an engine and has not come back.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Prompts that are still to be computed.
    pub(crate) backlog: Mutex<Backlog>,
    pub(crate) decoding: AtomicI64,
    pub(crate) in_flight: AtomicI64,
    /// Tokens of the requests in flight: of their prompts, and those that are expected of their answers.
    pub(crate) tokens: AtomicI64,
    pub(crate) served: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) predicted: AtomicU64,
    pub(crate) cached: AtomicU64,
    pub(crate) prompt: AtomicU64,
    /// What it has in hand for other replicas: requests in flight, prompt tokens to compute, sequences that decode, tokens
    /// in flight.
    pub(crate) others: [AtomicU32; 4],
    /// What its metrics say, of all who use it.
    pub(crate) running: AtomicU32,
    pub(crate) waiting: AtomicU32,
}

/// A prompt that an engine served and whose beginning it has not told of yet.
pub(crate) struct Awaited {
    pub(crate) due: Duration,
    pub(crate) worker: Worker,
    pub(crate) root: TokensHash,
    pub(crate) tokens: Arc<[u32]>,
    pub(crate) model: String,
}

/// Prompts that wait to be looked at; more would only say the same again.
const MAX_AWAITED: usize = 32;

impl Member {
    /// # Errors
    /// What is wrong with its settings, in words.
    pub(crate) fn new(id: EngineId, settings: settings::Engine) -> Result<Self, String> {
        settings::check::engine(&settings)?;
        let rest = settings.url.strip_prefix("http://").unwrap_or(&settings.url);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let with_port =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let key = settings.key_file.as_deref().map(key).transpose()?;
        let engine = Engine {
            id,
            name: settings.name.as_str().into(),
            host: HeaderValue::from_str(authority).map_err(|error| error.to_string())?,
            authority: with_port.into(),
            base_path: if path.is_empty() {
                "".into()
            } else {
                format!("/{}", path.trim_end_matches('/')).into()
            },
            bearer: key,
        };
        let workers = (0..settings.ranks).map(|rank| Worker { instance: u64::from(id.0), rank }).collect();
        Ok(Self {
            engine: Arc::new(engine),
            workers,
            block_size: AtomicU32::new(settings.block_size),
            models: ArcSwap::from_pointee(settings.models.clone()),
            up: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            load: Load::default(),
            breaker: Mutex::new(Breaker::new()),
            truth: Mutex::new(Truth::new()),
            history: Mutex::default(),
            followers: Mutex::default(),
            awaited: Mutex::default(),
            started: AtomicU64::new(0),
            trouble: Mutex::default(),
            settings,
        })
    }

    pub(crate) fn standing(&self, now: Duration) -> Standing {
        if self.draining.load(Ordering::Relaxed) {
            return Standing::Draining;
        }
        if !self.up.load(Ordering::Relaxed) {
            return Standing::Down;
        }
        match self.breaker.lock().allows(now) {
            Allows::All => Standing::Ready,
            Allows::Trial => Standing::Trial,
            Allows::None => Standing::Broken,
        }
    }

    /// Whether it says what it has cached.
    pub(crate) fn tells(&self) -> bool {
        !self.followers.lock().is_empty()
    }

    pub(crate) fn serves(&self, model: &str) -> bool {
        self.models.load().iter().any(|served| served == model)
    }

    pub(crate) fn await_root(&self, awaited: Awaited) {
        let mut queue = self.awaited.lock();
        if queue.len() < MAX_AWAITED {
            queue.push_back(awaited);
        }
    }

    /// A new life: nothing that was known of its cache holds.
    pub(crate) fn restarted(&self) {
        for follower in self.followers.lock().iter() {
            follower.restarted();
        }
        self.history.lock().clear();
        self.truth.lock().reset();
        self.awaited.lock().clear();
    }
}

impl Load {
    pub(crate) fn count(gauge: &AtomicI64) -> u32 {
        // Gauges are raised and lowered by different threads; a reader may catch one just below zero.
        gauge.load(Ordering::Relaxed).clamp(0, i64::from(u32::MAX)) as u32
    }
}

fn key(path: &std::path::Path) -> Result<HeaderValue, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("key_file: cannot read {}: {error}", path.display()))?;
    let line = text.lines().next().unwrap_or_default().trim();
    let mut value = HeaderValue::from_str(&format!("Bearer {line}"))
        .map_err(|_| format!("key_file: {} does not hold a key", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}
