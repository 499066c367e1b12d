//! The one place of the node that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::master::name::Millis;

/// Time since the process began to care, and the time of day: lives of objects survive a restart by that.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    began: Duration,
}

impl Clock {
    /// A clock that begins now.
    #[expect(clippy::disallowed_methods, reason = "this file is the seam")]
    pub fn start() -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), began }
    }

    /// Now.
    pub fn now(&self) -> Millis {
        Millis(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// What a moment is called outside of this process: milliseconds since 1970.
    pub fn outside(&self, at: Millis) -> u64 {
        at.0.saturating_add(self.since_1970())
    }

    /// A moment of which somebody outside spoke; what is long past is the beginning.
    pub fn inside(&self, at: u64) -> Millis {
        Millis(at.saturating_sub(self.since_1970()))
    }

    fn since_1970(&self) -> u64 {
        u64::try_from(self.began.as_millis()).unwrap_or(u64::MAX)
    }
}
