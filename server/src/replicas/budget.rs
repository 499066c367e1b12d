//! A budget a minute that all replicas share: each draws a little ahead, so that most requests ask nobody.
//!
//! The bound: in any time T at most `rate x T + burst` are granted, and each replica may have drawn [`AHEAD`] of a second
//! that it has not used. Without the coordinator each replica gives its equal part of rate and burst, so that the bound
//! grows by one burst. What a lost answer granted is lost: never more is given than was granted.

use std::sync::Arc;
use std::time::Duration;

use coord::op::Drawn;
use coord::{Error, Name};
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
        let among = &self.replicas.0.among;
        let had = {
            let mut purse = self.purse.lock();
            if !among.in_reach() {
                return self.spend_alone(&mut purse, cost);
            }
            if purse.balance >= cost {
                purse.balance -= cost;
                return Ok(());
            }
            // What is here, or is owed, goes into this draw: whoever comes meanwhile does not spend it as well.
            std::mem::replace(&mut purse.balance, 0.0)
        };
        let missing = cost - had;
        match self.draw(missing, missing.max(self.ahead())).await {
            Ok(drawn) if drawn.granted > 0.0 => {
                self.purse.lock().balance += drawn.granted - missing;
                Ok(())
            }
            denied => {
                let mut purse = self.purse.lock();
                purse.balance += had;
                match denied {
                    Ok(drawn) => Err(drawn.wait),
                    Err(_) => self.spend_alone(&mut purse, cost),
                }
            }
        }
    }

    /// What was spent turns out to have been more or less than was thought.
    pub fn settle(self: &Arc<Self>, more: f64) {
        let surplus = {
            let mut purse = self.purse.lock();
            if !self.replicas.0.among.in_reach() {
                let (level, at) = self.own(&purse);
                purse.own = Some((level - more, at));
                return;
            }
            // A debt is paid with the next draw; one that is larger than the bucket would only keep everybody out.
            purse.balance = (purse.balance - more).max(-self.burst);
            let surplus = purse.balance - self.ahead().max(1.0);
            if surplus >= 1.0 {
                purse.balance -= surplus;
            }
            surplus
        };
        if surplus >= 1.0 {
            let budget = self.clone();
            // Given back to all. Should that be lost, less is given than might be, never more.
            self.replicas.0.home.spawn(async move { drop(budget.draw(-surplus, -surplus).await) });
        }
    }

    /// What may be in the purse unspent.
    fn ahead(&self) -> f64 {
        self.per_second * AHEAD
    }

    async fn draw(&self, least: f64, most: f64) -> Result<Drawn, Error> {
        let (bucket, among, patience) =
            (self.bucket.clone(), self.replicas.0.among.clone(), self.replicas.0.patience);
        let (per_second, burst) = (self.per_second, self.burst);
        // On the runtime where the connection lives, whichever thread asks.
        let drawing = self
            .replicas
            .0
            .home
            .spawn(async move { among.draw(&bucket, per_second, burst, least, most, patience).await });
        drawing.await.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())))
    }

    /// Nobody answers: our equal part.
    fn spend_alone(&self, purse: &mut Purse, cost: f64) -> Result<(), Duration> {
        let (rate, burst) = self.part();
        // What was drawn ahead is forgotten: it is a fifth of a second's worth, and one book is easier to keep than two.
        purse.balance = purse.balance.min(0.0);
        let (level, now) = self.own(purse);
        let enough = level >= cost.min(burst);
        purse.own = Some((if enough { level - cost } else { level }, now));
        if enough { Ok(()) } else { Err(Duration::from_secs_f64((cost.min(burst) - level) / rate)) }
    }

    /// Rate and burst of our equal part.
    fn part(&self) -> (f64, f64) {
        let parts = self.replicas.0.among.count() as f64;
        (self.per_second / parts, (self.burst / parts).max(1.0))
    }

    /// How full our equal part is, now.
    fn own(&self, purse: &Purse) -> (f64, Duration) {
        let (rate, burst) = self.part();
        let now = self.replicas.0.fleet.clock().now();
        let (level, at) = purse.own.unwrap_or((burst, now));
        ((level + now.saturating_sub(at).as_secs_f64() * rate).min(burst), now)
    }
}
