//! What the lines say of themselves: how many wait, how long it took, how fast they move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use queue::scheduler::Depth;

/// Upper bounds of waiting times, in seconds.
pub(crate) const BOUNDS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

#[derive(Debug, Default)]
pub(super) struct Counts {
    buckets: [AtomicU64; BOUNDS.len()],
    waited: AtomicU64,
    micros: AtomicU64,
    expired: AtomicU64,
    refused: AtomicU64,
    /// Turns in a second, of late, in thousandths.
    pace: AtomicU64,
}

/// Counts, for metrics.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What the queues hold.
    pub depth: Depth,
    /// Requests that waited up to each of [`BOUNDS`].
    pub buckets: [u64; BOUNDS.len()],
    /// Requests that waited for their turn and had it.
    pub waited: u64,
    /// How long all of them waited together.
    pub seconds: f64,
    /// Requests whose turn did not come in time.
    pub expired: u64,
    /// Requests that were turned away since the line was too long.
    pub refused: u64,
}

impl Counts {
    pub(super) fn waited(&self, time: Duration, served: bool) {
        if !served {
            self.expired.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let seconds = time.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.waited.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Measures how fast the line moves; `last` is what this returned before.
    pub(super) fn pace(&self, last: u64, passed: Duration) -> u64 {
        let now = self.waited.load(Ordering::Relaxed);
        let fresh = (now - last.min(now)) as f64 / passed.as_secs_f64() * 1e3;
        let before = self.pace.load(Ordering::Relaxed) as f64;
        // A mean over the last three seconds or so.
        self.pace.store((before + (fresh - before) * 0.03) as u64, Ordering::Relaxed);
        now
    }

    /// Turns in a second, of late.
    pub(super) fn rate(&self) -> f64 {
        self.pace.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// How many seconds so many take, from 1 to 60.
    pub(super) fn seconds_for(&self, waiting: usize) -> u32 {
        let pace = self.rate();
        if pace <= 0.0 {
            return 1;
        }
        (waiting as f64 / pace).ceil().clamp(1.0, 60.0) as u32
    }

    pub(super) fn told(&self, depth: Depth) -> Told {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Told {
            depth,
            buckets: std::array::from_fn(|at| load(&self.buckets[at])),
            waited: load(&self.waited),
            seconds: load(&self.micros) as f64 / 1e6,
            expired: load(&self.expired),
            refused: load(&self.refused),
        }
    }
}
