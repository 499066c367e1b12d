//! A batch as its notes show it, from any replica, whoever owns it.

use futures::{StreamExt, TryStreamExt, stream};

use super::note::{self, Begun, Cancel, Counts, Ended, Final, Kind, Made, Progress, Status};
use super::{Batches, Id, away};
use crate::error::ApiError;

/// Batches of a page that are read at a time.
const AT_ONCE: usize = 16;

/// A batch, with what is known of it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What was asked.
    pub made: Made,
    /// Where it stands.
    pub status: Status,
    /// When its lines began to run, in seconds since 1970.
    pub begun_at: Option<u64>,
    /// When somebody cancelled it.
    pub cancelling_at: Option<u64>,
    /// When every line was over.
    pub finalizing_at: Option<u64>,
    /// Its lines.
    pub counts: Counts,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
}

/// A page of a tenant's batches, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The batches.
    pub batches: Vec<Shown>,
    /// Whether there are more after them.
    pub more: bool,
}

impl Shown {
    /// One that was made just now.
    pub(super) fn new(made: Made) -> Self {
        Self {
            made,
            status: Status::Validating,
            begun_at: None,
            cancelling_at: None,
            finalizing_at: None,
            counts: Counts::default(),
            ended: None,
        }
    }

    fn of(made: Made, notes: Notes) -> Self {
        let Notes { begun, cancel, progress, last, ended } = notes;
        if let Some(ended) = ended {
            return Self {
                made,
                status: ended.status,
                begun_at: ended.begun_at,
                cancelling_at: ended.cancelling_at,
                finalizing_at: ended.finalizing_at,
                counts: ended.counts,
                ended: Some(ended),
            };
        }
        let progress = progress.unwrap_or_default();
        Self {
            made,
            status: match (&cancel, &last, &begun) {
                (Some(_), ..) => Status::Cancelling,
                (_, Some(_), _) => Status::Finalizing,
                (_, _, Some(_)) => Status::InProgress,
                _ => Status::Validating,
            },
            begun_at: begun.as_ref().map(|begun| begun.at),
            cancelling_at: cancel.map(|cancel| cancel.at),
            finalizing_at: last.map(|last| last.at_ms / 1_000),
            counts: Counts {
                total: begun.map_or(0, |begun| begun.total),
                completed: progress.completed,
                failed: progress.failed,
            },
            ended: None,
        }
    }
}

/// What is written down.
#[derive(Default)]
struct Notes {
    begun: Option<Begun>,
    cancel: Option<Cancel>,
    progress: Option<Progress>,
    last: Option<Final>,
    ended: Option<Ended>,
}

impl Batches {
    /// The tenant's batch.
    ///
    /// # Errors
    /// There is none, or the shelf cannot be read.
    pub async fn find(&self, tenant: Option<&str>, id: &Id) -> Result<Shown, ApiError> {
        let name = Kind::Made.of(tenant, id);
        let made = note::read::<Made>(&self.0.shelf, &name).await.map_err(away)?;
        let made = made.ok_or_else(|| ApiError::NotFound(format!("There is no batch `{id}`.")))?;
        let notes = self.notes(tenant, id).await?;
        Ok(Shown::of(made, notes))
    }

    async fn notes(&self, tenant: Option<&str>, id: &Id) -> Result<Notes, ApiError> {
        let shelf = &self.0.shelf;
        let place = |kind: Kind| kind.of(tenant, id);
        let ended = note::read(shelf, &place(Kind::Ended)).await.map_err(away)?;
        if ended.is_some() {
            return Ok(Notes { ended, ..Notes::default() });
        }
        let names = [Kind::Begun, Kind::Cancel, Kind::Progress, Kind::Final].map(place);
        let (begun, cancel, progress, last) = futures::try_join!(
            note::read(shelf, &names[0]),
            note::read(shelf, &names[1]),
            note::read(shelf, &names[2]),
            note::read(shelf, &names[3]),
        )
        .map_err(away)?;
        // Meanwhile it may have ended, and these may have been taken away.
        let ended = note::read(shelf, &place(Kind::Ended)).await.map_err(away)?;
        Ok(Notes { begun, cancel, progress, last, ended })
    }

    /// The tenant's batches, the newest first, after this one.
    ///
    /// # Errors
    /// The shelf cannot be read.
    pub async fn list(
        &self,
        tenant: Option<&str>,
        after: Option<&Id>,
        limit: usize,
    ) -> Result<Page, ApiError> {
        let after = after.map(|id| Kind::Made.of(tenant, id));
        let names =
            self.0.shelf.list(&note::all_of(tenant), after.as_ref(), limit + 1).await.map_err(away)?;
        let more = names.len() > limit;
        let ids = names.iter().take(limit).filter_map(|item| Id::parse(item.name.last()));
        let found = stream::iter(ids.collect::<Vec<_>>()).map(|id| async move {
            match self.find(tenant, &id).await {
                Ok(shown) => Ok(Some(shown)),
                Err(ApiError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let batches: Vec<Option<Shown>> = found.buffered(AT_ONCE).try_collect().await?;
        Ok(Page { batches: batches.into_iter().flatten().collect(), more })
    }

    /// Stops a batch: what waits is taken out, what runs is stopped, and what is done is in its files.
    ///
    /// # Errors
    /// It has ended otherwise, there is none, or the shelf does not take it.
    pub async fn cancel(&self, tenant: Option<&str>, id: &Id) -> Result<Shown, ApiError> {
        let mut shown = self.find(tenant, id).await?;
        match shown.status {
            Status::Cancelled | Status::Cancelling => return Ok(shown),
            Status::Completed | Status::Failed | Status::Expired | Status::Finalizing => {
                return Err(ApiError::Conflict(format!(
                    "The batch `{id}` is {}; it cannot be cancelled any more.",
                    shown.status.name()
                )));
            }
            Status::Validating | Status::InProgress => {}
        }
        let cancel = Cancel { at: self.now() };
        let name = Kind::Cancel.of(tenant, id);
        let (cancel, _) = note::write_once(&self.0.shelf, &name, cancel).await.map_err(away)?;
        let here = self.0.driven.lock().get(id).cloned();
        if let Some(poke) = here {
            poke.notify_one();
        }
        shown.status = Status::Cancelling;
        shown.cancelling_at = Some(cancel.at);
        Ok(shown)
    }
}
