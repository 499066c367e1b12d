//! The one place that reads clocks: wall time for the memory backend, and a clock that tests turn by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Tells the time since 1970.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Hand(Arc<AtomicU64>),
    /// The runtime's: in tests that pause it, time that passes only while everybody waits.
    Runtime(tokio::time::Instant, Duration),
}

impl Clock {
    /// The system's wall clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is [put forward](Self::advance).
    pub fn by_hand(start: Duration) -> Self {
        Self(Source::Hand(Arc::new(AtomicU64::new(start.as_micros() as u64))))
    }

    /// A clock that stands at `start` and goes on as the runtime's does.
    pub fn of_runtime(start: Duration) -> Self {
        Self(Source::Runtime(tokio::time::Instant::now(), start))
    }

    /// Since 1970.
    pub fn unix(&self) -> Duration {
        match &self.0 {
            Source::System => wall(),
            Source::Hand(micros) => Duration::from_micros(micros.load(Ordering::Relaxed)),
            Source::Runtime(origin, start) => *start + origin.elapsed(),
        }
    }

    /// Puts a clock by hand forward; the system's goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Source::Hand(micros) = &self.0 {
            micros.fetch_add(by.as_micros() as u64, Ordering::Relaxed);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock of the room")]
fn wall() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
