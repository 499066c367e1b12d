//! The coordinator as the rest of the house sees it: asks a backend, repeats what may be repeated, notices what was lost.
//!
//! Rules, each held by a test:
//! - R1: an operation whose repetition would do something twice is sent once.
//! - R2: nothing outlives its deadline.
//! - R3: state that is not what was seen before is reported as lost, to whoever asks first and to all who listen; it is
//!   never taken for an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backend::{Answer, Backend, Call, Heard, Stand};
use crate::error::Error;
use crate::name::{Name, SHARDS, Shard};
use crate::op::{Class, Op, Reply};

/// The first pause before something is asked again; doubling, each shortened by up to half at random.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// The longest.
pub const BACKOFF_MOST: Duration = Duration::from_secs(2);
/// How long an operation may take in all if nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Asks a backend in the name of one instance; cheap to clone.
#[derive(Clone)]
pub struct Coord(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    instance: Name,
    seen: [Mutex<Option<Stand>>; SHARDS as usize],
    lost: [AtomicU64; SHARDS as usize],
    chance: Chance,
    losses: broadcast::Sender<Loss>,
    counters: Counters,
}

/// State that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Where.
    pub shard: Shard,
    /// How it was noticed.
    pub why: String,
}

/// What has been asked so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Operations that were sent, attempts included.
    pub sent: AtomicU64,
    /// Of these, repetitions.
    pub repeated: AtomicU64,
    /// Operations without an answer.
    pub unanswered: AtomicU64,
    /// Losses of state.
    pub losses: AtomicU64,
}

/// A little chance, the same for the same seed.
#[derive(Debug)]
pub struct Chance(AtomicU64);

// === impl Chance ===

impl Chance {
    /// Chance from a seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A time between half of this and all of it.
    pub fn jitter(&self, time: Duration) -> Duration {
        time.mul_f64(0.5 + (self.next() >> 11) as f64 / (1_u64 << 54) as f64)
    }
}

// === impl Coord ===

impl Coord {
    /// Asks this backend. `instance` names us among all who do; `seed` makes our random numbers unlike theirs.
    pub fn new(backend: Arc<dyn Backend>, instance: Name, seed: u64) -> Self {
        let (losses, _) = broadcast::channel(64);
        Self(Arc::new(Inner {
            backend,
            instance,
            seen: std::array::from_fn(|_| Mutex::new(None)),
            lost: std::array::from_fn(|_| AtomicU64::new(0)),
            chance: Chance::new(seed),
            losses,
            counters: Counters::default(),
        }))
    }

    /// Our name.
    pub fn instance(&self) -> &Name {
        &self.0.instance
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// What has been asked so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Random numbers of this instance.
    pub fn chance(&self) -> &Chance {
        &self.0.chance
    }

    /// A name that nobody else has.
    pub fn token(&self) -> Name {
        let text = format!("{}:{:016x}", self.0.instance, self.0.chance.next());
        // A token is a name, and names have an end; what matters is at the back.
        let from = text.len().saturating_sub(crate::name::MAX_NAME);
        let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        Name::new(&text[from..]).unwrap_or_else(|_| self.0.instance.clone())
    }

    /// Hears notices from now on.
    pub fn hear(&self) -> broadcast::Receiver<Heard> {
        self.0.backend.hear()
    }

    /// Hears of lost state from now on.
    pub fn losses(&self) -> broadcast::Receiver<Loss> {
        self.0.losses.subscribe()
    }

    /// How often the state of this shard was found to be lost, by whichever operation came first. Whoever relies on
    /// something for longer than one operation compares: only that first operation is told.
    pub fn times_lost(&self, shard: Shard) -> u64 {
        self.0.lost[shard.number()].load(Ordering::Acquire)
    }

    /// Asks, for at most [`PATIENCE`].
    ///
    /// # Errors
    /// See [`Error`]; each kind says what is known.
    pub async fn ask(&self, op: &Op) -> Result<Reply, Error> {
        self.ask_within(op, PATIENCE).await
    }

    /// Asks, for at most so long.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ask_within(&self, op: &Op, patience: Duration) -> Result<Reply, Error> {
        let deadline = Instant::now() + patience;
        let mut pause = BACKOFF_FIRST;
        let mut last = Error::Timeout { op: op.name() };
        let mut repeated = false;
        // R2: the first attempt is cut as well.
        while let Ok(tried) = timeout_at(deadline, self.once(op, repeated)).await {
            match tried {
                Ok(reply) => return Ok(reply),
                Err(error) if !error.may_be_retried(op.class()) => return self.unanswered(error),
                Err(error) => last = error,
            }
            repeated = true;
            let pausing = self.0.chance.jitter(pause);
            if Instant::now() + pausing >= deadline {
                break;
            }
            sleep(pausing).await;
            pause = (pause * 2).min(BACKOFF_MOST);
        }
        self.unanswered(match (last, op.class()) {
            // It was cut on its way, and nobody may do it again.
            (Error::Timeout { op }, Class::Resolve) => Error::OutcomeUnknown { op },
            // It may have been done, and may be done again: what matters is that there is no answer.
            (Error::OutcomeUnknown { op }, _) => Error::Timeout { op },
            (last, _) => last,
        })
    }

    fn unanswered(&self, error: Error) -> Result<Reply, Error> {
        if error.is_absence() {
            self.0.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        Err(error)
    }

    /// One attempt.
    async fn once(&self, op: &Op, repeated: bool) -> Result<Reply, Error> {
        let shard = op.shard();
        let seen = *self.0.seen[shard.number()].lock();
        let call = Call { op, seen, new_life: self.0.chance.next() | 1 };
        self.0.counters.sent.fetch_add(1, Ordering::Relaxed);
        self.0.counters.repeated.fetch_add(u64::from(repeated), Ordering::Relaxed);
        match self.0.backend.call(call).await? {
            Answer::Done(stand, reply) => {
                self.see(shard, stand);
                Ok(reply)
            }
            Answer::Refused(stand, error) => {
                self.see(shard, stand);
                Err(error)
            }
            Answer::Lost(stand) => Err(self.lose(shard, seen, stand)),
        }
    }

    fn see(&self, shard: Shard, stand: Stand) {
        let mut seen = self.0.seen[shard.number()].lock();
        match &mut *seen {
            None => *seen = Some(stand),
            Some(known) if known.life == stand.life => known.changes = known.changes.max(stand.changes),
            // Said before a loss that somebody has noticed since.
            Some(_) => {}
        }
    }

    fn lose(&self, shard: Shard, sent: Option<Stand>, stand: Stand) -> Error {
        let mut seen = self.0.seen[shard.number()].lock();
        let first = *seen == sent || seen.is_some_and(|now| sent.is_some_and(|sent| now.life == sent.life));
        if first {
            *seen = Some(stand);
            // Before anybody can have an answer from the new life.
            self.0.lost[shard.number()].fetch_add(1, Ordering::Release);
        }
        drop(seen);
        let why = match sent {
            Some(sent) => format!(
                "it was {:08x} with {} changes and is {:08x} with {}",
                sent.life as u32, sent.changes, stand.life as u32, stand.changes
            ),
            None => "it is not what it was".to_owned(),
        };
        if first {
            self.0.counters.losses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(shard = shard.number(), %why, "the coordinator has lost state");
            let _unheard = self.0.losses.send(Loss { shard, why: why.clone() });
        }
        Error::StateLost { shard: shard.number(), why }
    }
}
