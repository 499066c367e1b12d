//! The one place that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time since the process began to care, and the wall time for people.
///
/// Everything that decides takes `now: Duration` as an argument; only shells hold a clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[expect(clippy::disallowed_methods, reason = "this file is the seam")]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Time since the origin.
    #[inline]
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Seconds since 1970, for logs and ids that people read.
    #[expect(clippy::disallowed_methods, reason = "this file is the seam")]
    pub fn unix(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
