//! Taking away what nobody can see any more: expired files, content without a card, unfinished writes of the dead.
//!
//! Any number of replicas may do it at the same time: each step takes away what was of no use before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Error, File, Files, card};
use crate::shelf::{Item, Name, Shelf};

/// How often.
const EVERY: Duration = Duration::from_hours(1);
/// Content whose card is not there is litter when it is this old: between the two lie moments, but clocks differ.
const OLD: Duration = Duration::from_hours(24);
/// Names that are asked for at a time.
const NAMES: usize = 1_000;

impl Files {
    /// Tidies now and every hour, for as long as the process lives.
    pub async fn keep_tidy(self) {
        loop {
            match self.tidy(self.0.clock.unix()).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "took away expired files and litter"),
                Err(error) => {
                    tracing::warn!(%error, "the place of files could not be tidied; trying again in an hour");
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Takes away what is of no use at this time, and says how much it was.
    ///
    /// # Errors
    /// [`Error::Shelf`].
    pub async fn tidy(&self, unix: Duration) -> Result<usize, Error> {
        let shelf = &self.0.shelf;
        let mut count = shelf.sweep(unix).await?;
        // Cards and contents come in the same order, so one walk along both tells which belong together.
        let mut cards = Walk::new(shelf, card::CARDS);
        let mut contents = Walk::new(shelf, card::CONTENTS);
        let mut card = cards.next().await?;
        while let Some(content) = contents.next().await? {
            let owner = owner(&content.name);
            while let Some(before) = card.take_if(|card| whose(&card.name) < owner) {
                count += usize::from(self.expire(&before, unix).await?);
                card = cards.next().await?;
            }
            let litter = match &card {
                _ if content.modified + OLD >= unix => false,
                Some(card) if whose(&card.name) == owner => match self.card_to_tidy(card).await? {
                    Card::Is(file) => file.content != content.name,
                    Card::Gone => true,
                    // Which content it names nobody knows.
                    Card::Unreadable => false,
                },
                _ => true,
            };
            if litter {
                shelf.delete(&content.name).await?;
                count += 1;
            }
        }
        while let Some(last) = card {
            count += usize::from(self.expire(&last, unix).await?);
            card = cards.next().await?;
        }
        self.0.counters.tidied.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    /// Takes a file away if its time is over. Its content is taken by its own name: the card knows it.
    async fn expire(&self, item: &Item, unix: Duration) -> Result<bool, Error> {
        let Card::Is(file) = self.card_to_tidy(item).await? else { return Ok(false) };
        if file.expires_at.is_none_or(|at| at > unix.as_secs()) {
            return Ok(false);
        }
        let space = whose(&item.name).split('/').next().unwrap_or_default();
        if self.needed_by(space, &file).await?.is_some() {
            return Ok(false);
        }
        self.0.shelf.delete(&item.name).await?;
        self.0.shelf.delete(&file.content).await?;
        Ok(true)
    }

    /// A card; one that cannot be read must not keep all others from being tidied.
    async fn card_to_tidy(&self, item: &Item) -> Result<Card, Error> {
        match self.card(item).await {
            Ok(Some(file)) => Ok(Card::Is(file)),
            Ok(None) => Ok(Card::Gone),
            Err(error) if error.is_of_one() => {
                tracing::warn!(name = %item.name, %error, "a file is left as it is");
                Ok(Card::Unreadable)
            }
            Err(error) => Err(error),
        }
    }
}

/// What a card turned out to be.
enum Card {
    Is(Arc<File>),
    Gone,
    Unreadable,
}

/// All names in a folder, in order, a page in memory.
struct Walk<'a> {
    shelf: &'a Shelf,
    folder: Name,
    page: VecDeque<Item>,
    after: Option<Name>,
    ended: bool,
}

impl<'a> Walk<'a> {
    fn new(shelf: &'a Shelf, folder: &str) -> Self {
        let folder = Name::new(folder).expect("one of two words");
        Self { shelf, folder, page: VecDeque::new(), after: None, ended: false }
    }

    async fn next(&mut self) -> Result<Option<Item>, Error> {
        if self.page.is_empty() && !self.ended {
            self.page = self.shelf.list(&self.folder, self.after.as_ref(), NAMES).await?.into();
            self.ended = self.page.len() < NAMES;
            self.after = self.page.back().map(|item| item.name.clone());
        }
        Ok(self.page.pop_front())
    }
}

/// Tenant and id of a card.
fn whose(card: &Name) -> &str {
    card.as_str().split_once('/').map_or("", |(_, whose)| whose)
}

/// Tenant and id of the card that belongs to a content.
fn owner(content: &Name) -> &str {
    whose(content).rsplit_once('.').map_or("", |(owner, _)| owner)
}
