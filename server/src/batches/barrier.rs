//! The end of a batch as all replicas see it: a job of the coordinator with a part for each part of the results. When the
//! last one is settled, some replica makes the files, once.
//!
//! The parts themselves are on the shelf. So whatever the coordinator forgets is said to it again, under a later epoch, and
//! while it is away the batch waits at most [`PATIENCE`] at its end: then its owner makes the files itself. That is safe
//! at any time, for both write the same files and one note says how it ended.

use bytes::Bytes;
use coord::Name;
use coord::jobs::Jobs;
use coord::op::{Opened, Settled};
use tokio::sync::broadcast;
use tokio::time::{Duration, Instant};

use super::note::Made;

/// How long the owner of a batch waits at its end for a replica to make the files.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// A coordinator that did not answer is asked again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// The barrier of one batch, as its owner sees it.
pub(super) struct Barrier {
    jobs: Jobs,
    job: Name,
    payload: Bytes,
    parts: Vec<Name>,
    epoch: u64,
    state: State,
    vanished: broadcast::Receiver<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// What was settled is known to the coordinator.
    Known,
    /// It must be told everything again, not before this.
    Unsaid(Instant),
}

/// Under which name every replica knows what is to be done at the end.
pub(super) fn handler() -> Name {
    Name::new("batch").expect("one word")
}

impl Barrier {
    /// `now_ms` makes its epoch later than those of owners before us.
    pub(super) fn new(jobs: &Jobs, made: &Made, parts: u32, now_ms: u64) -> Self {
        let part = |number| Name::new(format!("{number}")).expect("digits");
        Self {
            jobs: jobs.clone(),
            job: Name::new(format!("batch/{}", made.id)).expect("an id is one word"),
            payload: serde_json::to_vec(made).expect("strings and numbers always serialise").into(),
            parts: (0..parts).map(part).collect(),
            epoch: now_ms,
            state: State::Unsaid(Instant::now()),
            vanished: jobs.vanished(),
        }
    }

    /// Says that a part is there.
    pub(super) async fn settle(&mut self, number: u32) {
        if self.state != State::Known {
            return;
        }
        match self.jobs.settle(&self.job, self.epoch, &self.parts[number as usize]).await {
            Ok(Settled::Accepted { .. } | Settled::Last | Settled::Duplicate) => {}
            Ok(other) => {
                tracing::debug!(job = %self.job, ?other, "the end of a batch is not known as it was; it is said again");
                self.state = State::Unsaid(Instant::now());
            }
            Err(error) => self.later(&error),
        }
    }

    /// Sees to it that the coordinator knows every part that is there.
    pub(super) async fn keep(&mut self, there: impl Iterator<Item = u32>) {
        loop {
            match self.vanished.try_recv() {
                Ok(name) if name != self.job => {}
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => break,
                Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => {
                    self.state = State::Unsaid(Instant::now());
                }
            }
        }
        let State::Unsaid(at) = self.state else { return };
        if at > Instant::now() {
            return;
        }
        self.epoch += 1;
        let opened =
            self.jobs.open(&self.job, self.epoch, &handler(), self.payload.clone(), &self.parts, true).await;
        match opened {
            Ok(Opened::New(_) | Opened::Joined(_)) => {
                self.state = State::Known;
                for number in there {
                    self.settle(number).await;
                }
            }
            Ok(Opened::StaleEpoch { current }) => self.epoch = current,
            Ok(Opened::Over) => {}
            Err(error) => self.later(&error),
        }
    }

    /// Nobody needs it any more.
    pub(super) async fn forget(&self) {
        if let Err(error) = self.jobs.cancel(&self.job, self.epoch).await {
            tracing::debug!(job = %self.job, %error, "the end of a batch is not forgotten yet; its time will come");
        }
    }

    fn later(&mut self, error: &coord::Error) {
        tracing::debug!(job = %self.job, %error, "the coordinator does not hear of a part; it is told again");
        self.state = State::Unsaid(Instant::now() + AGAIN);
    }
}
