//! One run of an entry: from the log to the engine that was chosen for it, and back to the log.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use queue::entry::{Cost, Outcome};
use queue::name::Millis;
use queue::room::Started;

use super::errand::{Errand, Result as ErrandResult};
use super::{Held, Work};
use crate::fleet::{Failure, Outcome as Ended, Ticket, Usage};
use crate::gateway::errand as wire;

/// The first pause before another try; each is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A tenant that has as much in flight as it may have is asked again after this.
const TENANT_FULL: Duration = Duration::from_millis(250);
/// An engine that is away is not the fault of what was sent to it: it may be tried so often.
const AWAY: u16 = 1_000;

impl Work {
    /// Runs an entry to its end, or gives it back.
    pub(super) async fn execute(&self, started: Started<Ticket>) {
        let held = started.hold();
        let Started { id, queue, item, place: mut ticket, .. } = started;
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
        if item.attempt >= AWAY {
            drop(ticket);
            let message = format!("It was started {} times and never came to its end.", item.attempt);
            self.end(
                &held,
                Outcome::Failed,
                Cost::default(),
                &ErrandResult::failed(&name, "attempts", message),
            )
            .await;
            return;
        }
        // The tenant's limit counts what waits as it counts what does not.
        let _place = match self.0.limits.get(&*queue.tenant) {
            None => None,
            Some(pool) => {
                let Some(place) = self.0.replicas.enter(pool).await else {
                    drop(ticket);
                    self.again(&held, TENANT_FULL, Cost::default()).await;
                    return;
                };
                Some(place)
            }
        };
        let body = Bytes::copy_from_slice(errand.body.get().as_bytes());
        let (status, answer, usage) =
            match wire::post(&ticket, self.0.fleet.settings(), &errand.path, &name, body).await {
                Ok(answered) => answered,
                Err(failure) => {
                    ticket.finish(Ended::Failed(failure));
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
            self.failed(&held, item.attempt, expected, failure, &name).await;
            return;
        }
        ticket.finish(Ended::Served(usage));
        let used = usage.map_or(expected, |usage| cost_of(usage, expected));
        let outcome = if status.is_success() { Outcome::Done } else { Outcome::Failed };
        self.end(&held, outcome, used, &ErrandResult::answered(&name, status, &answer).to(&errand)).await;
    }

    /// An engine failed it: again after a pause, or for good.
    async fn failed(&self, held: &Held, attempt: u16, expected: Cost, failure: Failure, name: &str) {
        let fault_of_engine = matches!(failure, Failure::Connect | Failure::Overloaded);
        let most = if fault_of_engine { AWAY } else { self.0.settings.attempts };
        let used = if fault_of_engine { Cost::default() } else { expected };
        if attempt + 1 >= most {
            let message = format!("The engine {} at the last of {} attempts.", failure.name(), attempt + 1);
            self.end(held, Outcome::Failed, used, &ErrandResult::failed(name, "engine_failed", message))
                .await;
            return;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << attempt.min(6)).min(LONGEST_PAUSE);
        tracing::debug!(id = %held.id, attempt, failure = failure.name(), "an engine failed something that waits; again after a pause");
        self.again(held, pause, used).await;
    }

    async fn again(&self, held: &Held, pause: Duration, used: Cost) {
        let at = self.0.fleet.clock().unix() + pause;
        let Ok(room) = self.room() else { return };
        if let Err(why) = room.give_back(held, Some(Millis(at.as_millis() as u64)), used).await {
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
