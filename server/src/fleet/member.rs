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
use crate::settings::{self, keys::first_line};

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

/// What an engine may have in flight; 0: as much as comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) requests: u32,
    pub(crate) tokens: u64,
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

    /// Whether a request of so many tokens would be more than the budget of tokens in flight, with so many in flight from
    /// here. An engine that has nothing takes whatever comes: a request that is larger than the budget runs alone.
    pub(crate) fn is_crowded(&self, now: i64, tokens: i64, most: u64) -> bool {
        let now = now.max(0) + i64::from(self.others[3].load(Ordering::Relaxed));
        most > 0 && now > 0 && now + tokens > most as i64
    }

    /// Takes a place for a request of so many tokens. `false`: another request took the last one since somebody looked.
    pub(crate) fn enter(&self, tokens: i64, room: Room) -> bool {
        let others = i64::from(self.others[0].load(Ordering::Relaxed));
        let one_more =
            |now: i64| (room.requests == 0 || now + others < i64::from(room.requests)).then_some(now + 1);
        if self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            return false;
        }
        let more = |now: i64| (!self.is_crowded(now, tokens, room.tokens)).then_some(now + tokens);
        let entered = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !entered {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        entered
    }
}

fn key(path: &std::path::Path) -> Result<HeaderValue, String> {
    let line = first_line("key_file", path)?;
    let mut value = HeaderValue::from_str(&format!("Bearer {line}"))
        .map_err(|_| format!("key_file: {} does not hold a key; allowed is ASCII text", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_look_at_the_same_time_never_take_the_same_last_place() {
        let load = Load::default();
        let room = Room { requests: 3, tokens: 100 };
        let (most, most_tokens) = (AtomicI64::new(0), AtomicI64::new(0));
        let inside = AtomicI64::new(0);
        let inside_tokens = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (load, most, most_tokens) = (&load, &most, &most_tokens);
                let (inside, inside_tokens) = (&inside, &inside_tokens);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let tokens = 10 + (round * 7 + thread * 13) % 50;
                        if load.enter(tokens, room) {
                            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            let now = inside_tokens.fetch_add(tokens, Ordering::SeqCst) + tokens;
                            most_tokens.fetch_max(now, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            inside_tokens.fetch_sub(tokens, Ordering::SeqCst);
                            load.in_flight.fetch_sub(1, Ordering::SeqCst);
                            load.tokens.fetch_sub(tokens, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert!((1..=100).contains(&most_tokens.into_inner()));
        assert_eq!((load.in_flight.into_inner(), load.tokens.into_inner()), (0, 0));
    }

    #[test]
    fn what_is_larger_than_the_budget_runs_alone() {
        let load = Load::default();
        let room = Room { requests: 0, tokens: 100 };
        assert!(load.enter(500, room), "nothing is there: it may");
        assert!(!load.enter(1, room));
        load.tokens.fetch_sub(500, Ordering::Relaxed);
        load.others[3].store(1, Ordering::Relaxed);
        assert!(!load.enter(500, room), "another replica has something there");
        assert!(load.enter(99, room));
    }
}
