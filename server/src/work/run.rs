//! One run of an entry: from the log to the engine that was chosen for it, and back to the log.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use queue::entry::{Cost, Outcome};
use queue::name::Millis;
use queue::room::Started;

use super::errand::{Errand, Result as ErrandResult};
use super::{Held, Work};
use crate::fleet::{Failure, Outcome as Ended, Usage};
use crate::gateway::errand as wire;
use crate::lines::Spot;

/// The first pause before another try; each is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The pause after an engine that was away, or had too much to do. Engines that are broken are given nothing meanwhile.
const AWAY: Duration = Duration::from_secs(5);
/// The shortest pause of a tenant that has used up what it may use in a minute.
const LEAST_WAIT: Duration = Duration::from_secs(1);

impl Work {
    /// Runs an entry to its end, or gives it back.
    pub(super) async fn execute(&self, started: Started<Spot>) {
        let held = started.hold();
        let Started { id, queue, item, place: Spot { mut ticket, pass: _pass }, .. } = started;
        let name = format!("wl-{id}-{}", item.attempt + 1);
        ticket.rename(&name);
        let expected = item.cost;
        let errand = match self.show(id).await {
            Ok(shown) => Errand::decode(&shown.entry.payload),
            Err(error) => Err(error.to_string()),
        };
        let errand = match errand {
            Ok(errand) => errand,
            Err(why) => {
                drop(ticket);
                let result = ErrandResult::failed(
                    &name,
                    "unreadable",
                    format!("What was to run cannot be read: {why}."),
                );
                self.end(&held, Outcome::Failed, Cost::default(), &result).await;
                return;
            }
        };
        let charged = match self.charge(&queue.tenant, expected).await {
            Ok(charged) => charged,
            Err(wait) => {
                drop(ticket);
                self.again(&held, wait, Cost::default(), false).await;
                return;
            }
        };
        let body = Bytes::copy_from_slice(errand.body.get().as_bytes());
        let (status, answer, usage) =
            match wire::post(&ticket, self.0.fleet.settings(), &errand.path, &name, body).await {
                Ok(answered) => answered,
                Err(failure) => {
                    ticket.finish(Ended::Failed(failure));
                    self.settle(&queue.tenant, -charged);
                    self.failed(&held, item.attempt, expected, failure, &name).await;
                    return;
                }
            };
        let again = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some(Failure::Overloaded),
            status if status.is_server_error() => Some(Failure::Garbage),
            _ => None,
        };
        if let Some(failure) = again {
            ticket.finish(Ended::Failed(failure));
            self.settle(&queue.tenant, -charged);
            self.failed(&held, item.attempt, expected, failure, &name).await;
            return;
        }
        ticket.finish(Ended::Served(usage));
        if let Some(usage) = usage {
            self.settle(&queue.tenant, f64::from(usage.prompt) + f64::from(usage.completion) - charged);
        }
        let used = usage.map_or(expected, |usage| cost_of(usage, expected));
        let outcome = if status.is_success() { Outcome::Done } else { Outcome::Failed };
        self.end(&held, outcome, used, &ErrandResult::answered(&name, status, &answer).to(&errand)).await;
    }

    /// Charges a tenant as for a request that does not wait, or says when there will be enough.
    async fn charge(&self, tenant: &str, expected: Cost) -> Result<f64, Duration> {
        let Some(rates) = self.0.rates.get(tenant) else { return Ok(0.0) };
        let charged = rates.charge(f64::from(expected.tokens)).await;
        charged.map_err(|used| {
            let wait = used.wait.clamp(LEAST_WAIT, LONGEST_PAUSE);
            if let Some(lines) = self.0.lines.get() {
                lines.shut(tenant, wait);
            }
            wait
        })
    }

    fn settle(&self, tenant: &str, more: f64) {
        if let Some(rates) = self.0.rates.get(tenant) {
            rates.settle(more);
        }
    }

    /// An engine failed it: again after a pause, or for good.
    async fn failed(&self, held: &Held, attempt: u16, expected: Cost, failure: Failure, name: &str) {
        tracing::debug!(id = %held.id, attempt, failure = failure.name(), "an engine failed something that waits; again after a pause");
        if matches!(failure, Failure::Connect | Failure::Overloaded) {
            // An engine that is away is not the fault of what was sent to it.
            self.again(held, AWAY, Cost::default(), false).await;
            return;
        }
        if attempt + 1 >= self.0.settings.attempts {
            let message = format!("The engine {} at the last of {} attempts.", failure.name(), attempt + 1);
            self.end(held, Outcome::Failed, expected, &ErrandResult::failed(name, "engine_failed", message))
                .await;
            return;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << attempt.min(6)).min(LONGEST_PAUSE);
        self.again(held, pause, expected, true).await;
    }

    async fn again(&self, held: &Held, pause: Duration, used: Cost, counts: bool) {
        let at = Millis((self.0.fleet.clock().unix() + pause).as_millis() as u64);
        let Ok(room) = self.room() else { return };
        if let Err(why) = room.give_back(held, Some(at), used, counts).await {
            tracing::warn!(id = %held.id, %why, "what could not run could not be given back; it runs again after the next start");
        }
    }

    async fn end(&self, held: &Held, outcome: Outcome, used: Cost, result: &ErrandResult) {
        let Ok(room) = self.room() else { return };
        if let Err(why) = room.finish(held, outcome, used, result.encode()).await {
            tracing::warn!(id = %held.id, %why, "what has run could not be finished; if it is still there it runs again");
        }
    }
}

fn cost_of(usage: Usage, expected: Cost) -> Cost {
    let computed = usage.prompt.saturating_sub(usage.cached.unwrap_or(0));
    Cost { tokens: computed.saturating_add(usage.completion), ..expected }
}
