//! Lists of files, page by page, newest first or oldest first.
//!
//! The shelf lists names in one direction, which is newest first. The other direction takes all names up to the place
//! where the page begins: 80 bytes each.

use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::{Error, File, Files, Id, Purpose, card};
use crate::shelf::{Item, Name};

/// Names that are asked for at a time, and cards that are read at a time.
const NAMES: usize = 1_000;
const AT_ONCE: usize = 16;

/// Which files are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Only those for this.
    pub purpose: Option<Purpose>,
    /// Only those after this one, in the order of the list.
    pub after: Option<Id>,
    /// At most so many.
    pub limit: usize,
    /// The order.
    pub newest_first: bool,
}

/// A page of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The files.
    pub files: Vec<Arc<File>>,
    /// Whether there are more after them.
    pub more: bool,
}

impl Files {
    /// The tenant's files.
    ///
    /// # Errors
    /// [`Error::Shelf`].
    pub async fn list(&self, tenant: Option<&str>, wanted: &Wanted) -> Result<Page, Error> {
        let folder = card::cards(tenant);
        let begin = wanted.after.as_ref().map(|id| card::place(tenant, id));
        let mut page = Page::default();
        if !wanted.newest_first {
            let mut names = self.newer_than(&folder, begin.as_ref()).await?;
            names.reverse();
            for names in names.chunks(NAMES) {
                self.add(&mut page, names, wanted).await?;
                if page.more {
                    break;
                }
            }
            return Ok(page);
        }
        let mut after = begin;
        loop {
            let most = NAMES.min(wanted.limit + 1);
            let names = self.0.shelf.list(&folder, after.as_ref(), most).await?;
            self.add(&mut page, &names, wanted).await?;
            match names.last() {
                Some(last) if !page.more && names.len() == most => after = Some(last.name.clone()),
                _ => return Ok(page),
            }
        }
    }

    /// The names before this one, newest first.
    async fn newer_than(&self, folder: &Name, end: Option<&Name>) -> Result<Vec<Item>, Error> {
        let mut all: Vec<Item> = Vec::new();
        loop {
            let names = self.0.shelf.list(folder, all.last().map(|item| &item.name), NAMES).await?;
            let full = names.len() == NAMES;
            let before = names.into_iter().take_while(|item| end.is_none_or(|end| item.name < *end));
            let had = all.len();
            all.extend(before);
            if !full || all.len() - had < NAMES {
                return Ok(all);
            }
        }
    }

    /// Reads cards, and adds what is wanted until the page is full.
    async fn add(&self, page: &mut Page, names: &[Item], wanted: &Wanted) -> Result<(), Error> {
        let read = |item: Item| {
            let files = self.clone();
            async move { files.card(&item).await }
        };
        let mut cards = stream::iter(names.to_vec()).map(read).buffered(AT_ONCE);
        while let Some(found) = cards.next().await {
            let file = match found {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                // Whose it is sees all others.
                Err(error) if error.is_of_one() => {
                    tracing::warn!(%error, "a file is left out of a list");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.has_expired(&file) || wanted.purpose.is_some_and(|purpose| purpose != file.purpose) {
                continue;
            }
            if page.files.len() == wanted.limit {
                page.more = true;
                break;
            }
            page.files.push(file);
        }
        Ok(())
    }

    /// The file of a card that was listed, unless it is gone again.
    pub(super) async fn card(&self, item: &Item) -> Result<Option<Arc<File>>, Error> {
        let key = item.tag.map(|tag| (item.name.clone(), tag));
        if let Some(file) = key.as_ref().and_then(|key| self.0.cards.get(key)) {
            return Ok(Some(file));
        }
        let Some(bytes) = self.0.shelf.get(&item.name, card::MAX).await? else { return Ok(None) };
        let file = Arc::new(File::read(&bytes)?);
        if let Some(key) = key {
            self.0.cards.insert(key, file.clone());
        }
        Ok(Some(file))
    }
}
