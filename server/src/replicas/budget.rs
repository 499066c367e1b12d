//! A budget a minute that all replicas share: each draws a little ahead, so that most requests ask nobody.
//!
//! The bound: in any time T at most `rate x T + burst` are granted, and each replica may have drawn [`AHEAD`] of a second
//! that it has not used. Without the coordinator each replica gives its equal part of rate and burst, so that the bound
//! grows by one burst. What a lost answer granted is lost: never more is given than was granted.

use std::time::Duration;

use coord::Name;
use parking_lot::Mutex;

use super::Replicas;

/// A budget of requests or tokens a minute.
pub struct Budget {
    replicas: Replicas,
    bucket: Name,
    per_second: f64,
    burst: f64,
    purse: Mutex<Purse>,
}

/// What this replica has in hand.
struct Purse {
    /// Drawn and not spent; below zero: spent and not drawn.
    balance: f64,
    /// Its equal part, for when nobody answers: how full, and when that was.
    own: Option<(f64, Duration)>,
}

/// Seconds of the rate that are drawn ahead.
const AHEAD: f64 = 0.2;
/// Seconds of the rate that may be spent at once.
const BURST: f64 = 10.0;

impl Budget {
    pub(super) fn new(replicas: Replicas, bucket: Name, per_minute: u64) -> Self {
        let per_second = per_minute as f64 / 60.0;
        let burst = (per_second * BURST).max(1.0);
        Self { replicas, bucket, per_second, burst, purse: Mutex::new(Purse { balance: 0.0, own: None }) }
    }

    /// Spends so much, or says how long to wait.
    ///
    /// # Errors
    /// The time until it should be possible.
    pub async fn spend(&self, cost: f64) -> Result<(), Duration> {
        let missing = {
            let mut purse = self.purse.lock();
            if purse.balance >= cost {
                purse.balance -= cost;
                return Ok(());
            }
            cost - purse.balance
        };
        let (bucket, among) = (self.bucket.clone(), self.replicas.0.among.clone());
        let (per_second, burst) = (self.per_second, self.burst);
        let most = missing.max(per_second * AHEAD);
        // On the runtime where the connection lives, whichever thread asks.
        let drawn = self
            .replicas
            .0
            .home
            .spawn(async move { among.draw(&bucket, per_second, burst, missing, most).await });
        match drawn.await {
            Ok(Ok(drawn)) if drawn.granted > 0.0 => {
                self.purse.lock().balance += drawn.granted - cost;
                Ok(())
            }
            Ok(Ok(drawn)) => Err(drawn.wait),
            Ok(Err(_)) | Err(_) => self.spend_alone(cost),
        }
    }

    /// What was spent turns out to have been more or less than was thought.
    pub fn settle(&self, more: f64) {
        let mut purse = self.purse.lock();
        purse.balance = (purse.balance - more).min(self.burst);
    }

    /// Nobody answers: our equal part.
    fn spend_alone(&self, cost: f64) -> Result<(), Duration> {
        let parts = self.replicas.0.among.count() as f64;
        let (rate, burst) = (self.per_second / parts, (self.burst / parts).max(1.0));
        let now = self.replicas.0.fleet.clock().now();
        let mut purse = self.purse.lock();
        let (level, at) = purse.own.unwrap_or((burst, now));
        let level = (level + now.saturating_sub(at).as_secs_f64() * rate).min(burst);
        let enough = level >= cost.min(burst);
        purse.own = Some((if enough { level - cost } else { level }, now));
        if enough { Ok(()) } else { Err(Duration::from_secs_f64((cost.min(burst) - level) / rate)) }
    }
}
