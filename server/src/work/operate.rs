//! An operator's hands on durable queues: what lies in them, and what is done to one entry or to all of a queue.

use queue::entry::{Outcome, Stage};
use queue::ledger::{Listed, Place, Refused, What};
use queue::name::{EntryId, QueueName, Seq};
use queue::room::{Overview, QueueSeen, Wish};

use super::{Work, refusal};
use crate::error::ApiError;

/// What was done to all of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries that it was done to.
    pub entries: u64,
    /// There may be more: ask again.
    pub more: bool,
}

/// What is done to all entries of a queue that it can be done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// What waits is cancelled; what runs comes to its end.
    Cancel,
    /// What is over is forgotten.
    Forget,
    /// What ended so is tried again.
    Retry(Outcome),
}

/// Entries that are read, moved and waited for at a time: about one batch of the committer.
const PAGE: usize = 256;
/// Entries after which a request answers, whether or not there are more: a second or so of a disk that syncs.
const MOST: u64 = 5_000;

impl Work {
    /// The durable queues that come first.
    ///
    /// # Errors
    /// The queues are not there yet.
    pub async fn overview(&self, wish: Wish) -> Result<Overview, ApiError> {
        let room = self.room()?.clone();
        blocking(move || Ok(room.overview(&wish))).await
    }

    /// The queues of this name that are open here, one a partition.
    ///
    /// # Errors
    /// The queues are not there yet.
    pub fn named(&self, name: &QueueName) -> Result<Vec<QueueSeen>, ApiError> {
        Ok(self.room()?.named(name))
    }

    /// The first entries of a queue in a partition, and whether there are more. Those that run are not among them.
    ///
    /// # Errors
    /// There is no such queue, or it cannot be read.
    pub async fn entries(
        &self,
        partition: u32,
        name: &QueueName,
        most: usize,
    ) -> Result<(Vec<Listed>, bool), ApiError> {
        let (room, name) = (self.room()?.clone(), name.clone());
        blocking(move || {
            let mut found = Vec::new();
            let mut from = None;
            loop {
                let left = most - found.len();
                let page = room.page(partition, &name, from.as_ref(), left, |_| true)?;
                found.extend(page.found);
                from = page.next;
                if from.is_none() || found.len() >= most {
                    return Ok((found, from.is_some()));
                }
            }
        })
        .await
    }

    /// Holds a queue back, or lets it go on, in every partition that is open here and has it.
    ///
    /// # Errors
    /// There is no such queue here.
    pub async fn pause_queue(&self, name: &QueueName, paused: bool) -> Result<(), ApiError> {
        let room = self.room()?;
        for queue in room.named(name) {
            let what = What::PauseQueue { name: name.clone(), paused };
            room.ask(queue.partition, what).await.map_err(refusal)?;
        }
        Ok(())
    }

    /// Does something to all entries of a queue that are open here.
    ///
    /// # Errors
    /// A log that cannot be read or written. What was done before is done.
    pub async fn sweep(&self, name: &QueueName, sweep: Sweep) -> Result<Swept, ApiError> {
        let room = self.room()?;
        let mut swept = Swept::default();
        for queue in room.named(name) {
            let partition = queue.partition;
            let mut from: Option<Place> = None;
            loop {
                if swept.entries >= MOST {
                    return Ok(Swept { more: true, ..swept });
                }
                let (reading, of, begin) = (room.clone(), name.clone(), from.take());
                let page = blocking(move || page(&reading, partition, &of, begin.as_ref(), sweep)).await;
                let (seqs, next) = match page {
                    Ok(page) => page,
                    // Its last entry has just left, and the queue with it.
                    Err(ApiError::NotFound(_)) => break,
                    Err(error) => return Err(error),
                };
                let asked: Vec<_> =
                    seqs.into_iter().map(|seq| room.send(partition, sweep.what(seq))).collect();
                for answer in asked {
                    match answer.await.unwrap_or(Err(Refused::Closing)) {
                        Ok(_) => swept.entries += 1,
                        // It has moved since it was read: then it is not meant any more.
                        Err(Refused::Unknown(_) | Refused::Stage { .. } | Refused::Stale(_)) => {}
                        Err(refused) => return Err(refusal(refused)),
                    }
                }
                from = next;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(swept)
    }

    /// Holds an entry back, or lets it go on.
    ///
    /// # Errors
    /// It runs or is over, or there is none.
    pub async fn pause(&self, id: EntryId, paused: bool) -> Result<(), ApiError> {
        let what = if paused { What::Hold { seq: id.seq } } else { What::Resume { seq: id.seq } };
        self.room()?.ask(id.partition, what).await.map_err(refusal).map(drop)
    }

    /// Tries an entry again that ended badly.
    ///
    /// # Errors
    /// It is not over, or done, or there is none.
    pub async fn retry(&self, id: EntryId) -> Result<(), ApiError> {
        self.room()?.ask(id.partition, What::Retry { seq: id.seq }).await.map_err(refusal).map(drop)
    }
}

impl Sweep {
    fn wants(self, stage: Stage) -> bool {
        match self {
            Self::Cancel => !matches!(stage, Stage::Running | Stage::Finished),
            Self::Forget | Self::Retry(_) => stage == Stage::Finished,
        }
    }

    fn what(self, seq: Seq) -> What {
        match self {
            Self::Cancel => What::Cancel { seq },
            Self::Forget => What::Forget { seq },
            Self::Retry(_) => What::Retry { seq },
        }
    }
}

type Room = queue::room::Room<crate::lines::Spot>;

/// The next entries that something can be done to, and where to go on.
fn page(
    room: &Room,
    partition: u32,
    name: &QueueName,
    from: Option<&Place>,
    sweep: Sweep,
) -> Result<(Vec<Seq>, Option<Place>), Refused> {
    let page = room.page(partition, name, from, PAGE, |stage| sweep.wants(stage))?;
    let ended_so = |listed: &Listed| match sweep {
        Sweep::Retry(outcome) => {
            let id = EntryId { partition, seq: listed.seq };
            room.show(id).is_ok_and(|shown| shown.entry.outcome == Some(outcome))
        }
        Sweep::Cancel | Sweep::Forget => true,
    };
    let found = page.found.into_iter().filter(ended_so);
    Ok((found.map(|listed| listed.seq).collect(), page.next))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::Internal(error.to_string()))?.map_err(refusal)
}
