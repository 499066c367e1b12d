//! Which files batches need that are not over: nobody deletes them, and they do not expire meanwhile.
//!
//! There is no note about it that could disagree with the others: a batch that is made and has not ended needs its input,
//! for whoever goes on with it reads that again from its beginning.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::note::{self, Kind, Made};
use super::{Id, NAMES, WEEK};
use crate::clock::Clock;
use crate::files;
use crate::shelf::{self, Name, Shelf};

/// Batches that are not over and are looked at at a time.
const AT_ONCE: usize = 16;
/// By less than this the clocks of replicas differ: a batch may seem to be older than its input.
const CLOCKS: Duration = Duration::from_hours(1);

/// Answers from what is on the shelf.
pub(super) struct Needs {
    shelf: Shelf,
    clock: Clock,
}

impl files::Needed for Needs {
    fn by<'a>(
        &'a self,
        space: &'a str,
        id: &'a files::Id,
    ) -> BoxFuture<'a, Result<Option<String>, shelf::Error>> {
        let found = self.find(space, id);
        async move { Ok(found.await?.map(|made| format!("the batch `{}`, which is not over", made.id))) }
            .boxed()
    }
}

impl Needs {
    pub(super) fn new(shelf: Shelf, clock: Clock) -> Self {
        Self { shelf, clock }
    }

    /// A batch of this space that needs the file.
    async fn find(&self, space: &str, id: &files::Id) -> Result<Option<Made>, shelf::Error> {
        // None is older than its input.
        let since = id.time().saturating_sub(CLOCKS);
        let over: HashSet<Id> = self.since(&Kind::Ended.all_in(space), since).await?.into_iter().collect();
        let open = self.since(&Kind::Made.all_in(space), since).await?;
        let open = open.into_iter().filter(|id| !over.contains(id));
        let looked = stream::iter(open).map(|batch| async move { self.needs(space, &batch, id).await });
        let mut looked = looked.buffered(AT_ONCE);
        while let Some(found) = looked.try_next().await? {
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The batches that have a note in this folder and were made since then.
    async fn since(&self, folder: &Name, since: Duration) -> Result<Vec<Id>, shelf::Error> {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let names = self.shelf.list(folder, after.as_ref(), NAMES).await?;
            let known = names.iter().filter_map(|item| Id::parse(item.name.last()));
            let before = ids.len();
            // The newest come first.
            ids.extend(known.take_while(|id| id.time() >= since));
            match names.last() {
                Some(last) if names.len() == NAMES && ids.len() > before => after = Some(last.name.clone()),
                _ => return Ok(ids),
            }
        }
    }

    /// The batch, if it needs the file and has not ended meanwhile.
    async fn needs(&self, space: &str, batch: &Id, id: &files::Id) -> Result<Option<Made>, shelf::Error> {
        let place = |kind: Kind| kind.at(space, batch);
        let made = match note::read::<Made>(&self.shelf, &place(Kind::Made)).await {
            Ok(made) => made,
            // Nobody goes on with it.
            Err(error) if error.is_of_one() => {
                tracing::warn!(%batch, %error, "whether a batch needs a file cannot be read");
                None
            }
            Err(error) => return Err(error),
        };
        // One whose log never came back is not waited for for ever: by then no log knows of its lines.
        let Some(made) = made.filter(|made| made.input == *id && made.expires() + WEEK > self.clock.unix())
        else {
            return Ok(None);
        };
        let ended = self.shelf.head(&place(Kind::Ended)).await?.is_some();
        Ok((!ended).then_some(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Needed;

    const NOW: u64 = 1_000;

    async fn made(shelf: &Shelf, tenant: Option<&str>, at: Duration, input: &files::Id) -> Id {
        let made = Made {
            id: Id::mint(at),
            tenant: tenant.map(str::to_owned),
            partition: 1,
            input: input.clone(),
            endpoint: "/v1/completions".to_owned(),
            window_s: 60,
            window: "1m".to_owned(),
            metadata: None,
            keep_s: None,
        };
        note::write(shelf, &Kind::Made.of(tenant, &made.id), &made).await.unwrap();
        made.id
    }

    #[tokio::test]
    async fn a_file_is_needed_by_batches_of_its_tenant_that_are_not_over() {
        let (shelf, clock) = (Shelf::memory(), Clock::start());
        let needs = Needs::new(shelf.clone(), clock);
        let now = clock.unix();
        let ago = |seconds: u64| now.saturating_sub(Duration::from_secs(seconds));
        let input = files::Id::mint(ago(NOW));
        let asked = async |space: &str| needs.by(space, &input).await.unwrap();
        assert_eq!(asked("t-a").await, None);
        // One that needs another file, one of another tenant, one that has ended, one whose log never came back.
        made(&shelf, Some("a"), now, &files::Id::mint(now)).await;
        made(&shelf, Some("b"), now, &input).await;
        let ended = made(&shelf, Some("a"), now, &input).await;
        note::write(&shelf, &Kind::Ended.of(Some("a"), &ended), &()).await.unwrap();
        let old = files::Id::mint(ago(30 * 24 * 3_600));
        made(&shelf, Some("a"), ago(29 * 24 * 3_600), &old).await;
        assert_eq!(asked("t-a").await, None);
        assert_eq!(needs.by("t-a", &old).await, Ok(None));
        // A clock that is behind made it seem to be older than its input.
        let behind = made(&shelf, Some("a"), ago(NOW + 600), &input).await;
        assert!(asked("t-a").await.is_some_and(|by| by.contains(behind.as_str())));
        shelf.put(&Kind::Made.of(Some("a"), &Id::mint(now)), "{".into()).await.unwrap();
        assert!(asked("t-a").await.is_some(), "one that cannot be read says nothing about the others");
        note::write(&shelf, &Kind::Ended.of(Some("a"), &behind), &()).await.unwrap();
        assert_eq!(asked("t-a").await, None);
    }
}
