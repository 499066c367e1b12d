//! Taking away batches that ended long ago. Their files have times of their own.

use std::time::Duration;

use super::note::{self, Kind};
use super::{Batches, NAMES};
use crate::shelf::{self, Name};

/// How often.
const EVERY: Duration = Duration::from_hours(1);

impl Batches {
    /// Tidies now and every hour, for as long as the process lives. Any number of replicas may do it.
    pub async fn keep_tidy(self) {
        loop {
            match self.tidy(self.0.clock.unix()).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "took away batches that ended long ago"),
                Err(error) => {
                    tracing::warn!(%error, "old batches could not be taken away; trying again in an hour");
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn tidy(&self, unix: Duration) -> Result<usize, shelf::Error> {
        let (shelf, keep) = (&self.0.shelf, self.0.settings.keep.get());
        let (mut count, mut after): (usize, Option<Name>) = (0, None);
        loop {
            let ended = shelf.list(&note::ended(), after.as_ref(), NAMES).await?;
            for item in ended.iter().filter(|item| item.modified + keep < unix) {
                self.drop_parts(&note::parts_beside(&item.name)).await?;
                // The end goes last: as long as it is there, this is done again.
                for kind in Kind::ALL {
                    shelf.delete(&kind.beside(&item.name)).await?;
                }
                count += 1;
            }
            match ended.last() {
                Some(last) if ended.len() == NAMES => after = Some(last.name.clone()),
                _ => return Ok(count),
            }
        }
    }
}
