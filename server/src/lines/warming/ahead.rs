//! What waits in logs, as far as its turn is near: when it will come, and what its prompt is.
//!
//! The queues say what they have in memory of what would start next, in the order of turns ([`Room::ahead`]); how fast the
//! entries of a model start says when. The prompt of each is read and tokenised once, on a thread that may block, one batch at
//! a time, and remembered for as long as it waits. What is no request with a prompt that can be tokenised here is passed over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use queue::name::EntryId;
use queue::room::Room;
use queue::scheduler::{Coming, Next, Stands};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::{Asked, Pending, Spot};

/// What an entry of a log asks of an engine, if its payload says so; may take long.
pub(in crate::lines) type Reader = dyn Fn(&[u8]) -> Option<Asked> + Send + Sync;

/// What waits in logs.
#[derive(Default)]
pub(super) struct Ahead {
    /// What [`Room::changes`] said when it was looked at last, and when that was.
    seen: Option<(u64, Duration)>,
    /// In the order of their turns.
    coming: Vec<(Duration, Next)>,
    paces: HashMap<Box<str>, Pace>,
    prompts: HashMap<EntryId, Prompt>,
    /// Whose prompts are being read.
    reading: Option<(Vec<EntryId>, JoinHandle<Read>)>,
}

/// What was read: none, for what has no prompt that can be had here.
type Read = Vec<(EntryId, Option<Asked>)>;

/// What is known of the prompt of an entry whose turn comes.
struct Prompt {
    next: Next,
    /// When its turn was to come, when that was said last.
    turn_in: Duration,
    asks: Asks,
}

enum Asks {
    /// Nobody has looked.
    Unread,
    /// Nothing that could be warmed.
    Nothing,
    This(Arc<Pending>),
}

/// Entries whose turn may come while nobody looks, and whether it has. Shared with whoever runs them.
#[derive(Default)]
pub(super) struct Turned(Mutex<HashMap<EntryId, bool>>);

/// How many entries of a model start in a second, of late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    starts: u64,
    at: Duration,
    rate: f64,
}

/// Whose turn comes, and who left.
#[derive(Default)]
pub(super) struct Jobs {
    /// In the order of their turns, with the time until each.
    pub(super) line: Vec<(Duration, EntryId, Arc<Pending>)>,
    /// Those whose turn has come.
    pub(super) turned: Vec<(EntryId, Arc<Pending>)>,
}

/// What is asked of it.
pub(super) struct Wish<'a> {
    /// How many of those whose turn comes are known.
    pub(super) listed: usize,
    /// How many of these are looked at.
    pub(super) most: usize,
    /// What comes later is left alone, but for the first of each model.
    pub(super) horizon: Duration,
    /// For whom something was asked: they stay for as long as they wait.
    pub(super) knows: &'a (dyn Fn(EntryId) -> bool + Sync),
}

/// The queues are not looked at more often, however much moves.
const AGAIN: Duration = Duration::from_millis(50);
/// Prompts that are read in one go.
const AT_ONCE: usize = 16;
/// Tokens of prompts that are remembered: sixteen mebibytes, and four more of hashes.
const REMEMBERED: usize = 4 << 20;
/// Paces are means over so long.
const MEAN: f64 = 3.0;

impl Ahead {
    /// What waits now, and what has left since this was asked last.
    pub(super) async fn look(
        &mut self,
        room: &Room<Spot>,
        turned: &Turned,
        now: Duration,
        wish: &Wish<'_>,
    ) -> Jobs {
        self.take_read().await;
        let mut jobs = Jobs::default();
        if self.is_due(room, now) {
            let coming = room.ahead(wish.listed);
            self.list(coming, now, wish.horizon);
            // Before it is asked what became of the others: what starts from now on is noted.
            turned.watch(self.coming.iter().map(|(_, next)| next.entry));
            self.part(room, turned, wish, &mut jobs);
        }
        let near = self.near(wish);
        for (turn_in, next) in near {
            if let Some(Prompt { asks: Asks::This(pending), .. }) = self.prompts.get(&next.entry) {
                jobs.line.push((turn_in, next.entry, pending.clone()));
            }
        }
        jobs
    }

    /// Reads what is not known of those whose turn comes first, unless something is being read.
    pub(super) fn read(
        &mut self,
        room: &Room<Spot>,
        reader: &Arc<Reader>,
        wish: &Wish<'_>,
        done: &Arc<Notify>,
    ) {
        let mut room_left = REMEMBERED.saturating_sub(self.remembered());
        if self.reading.is_some() || room_left == 0 {
            return;
        }
        let unread = |(_, next): &(Duration, Next)| {
            matches!(self.prompts.get(&next.entry), Some(Prompt { asks: Asks::Unread, .. }))
        };
        let unread: Vec<EntryId> =
            self.near(wish).into_iter().filter(unread).map(|(_, next)| next.entry).take(AT_ONCE).collect();
        if unread.is_empty() {
            return;
        }
        let (room, reader, done) = (room.clone(), reader.clone(), done.clone());
        let ids = unread.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut read = Vec::with_capacity(unread.len());
            for id in unread {
                // What cannot be read is said by whoever is to run it.
                let asks = room.payload(id).ok().and_then(|payload| reader(&payload));
                room_left = room_left.saturating_sub(asks.as_ref().map_or(0, |asks| asks.tokens.len()));
                read.push((id, asks));
                if room_left == 0 {
                    break;
                }
            }
            done.notify_one();
            read
        });
        self.reading = Some((ids, reading));
    }

    /// Whether anything may have changed.
    fn is_due(&mut self, room: &Room<Spot>, now: Duration) -> bool {
        if self.seen.is_some_and(|(_, at)| now < at + AGAIN) {
            return false;
        }
        let changes = room.changes();
        let same = self.seen.is_some_and(|(before, _)| before == changes);
        self.seen = Some((changes, now));
        !same
    }

    /// Takes down what comes soon, with the time until each turn; of each model at least the first.
    pub(super) fn list(&mut self, coming: Vec<Coming>, now: Duration, horizon: Duration) {
        self.coming.clear();
        let mut paces = HashMap::with_capacity(coming.len());
        for Coming { target, starts, entries } in coming {
            let mut pace = self.paces.remove(&target).unwrap_or(Pace { starts, at: now, rate: 0.0 });
            pace.count(starts, now);
            let turns =
                entries.into_iter().enumerate().map(|(place, next)| (place, pace.turn_in(place), next));
            let soon = turns.filter(|(place, turn_in, _)| *place == 0 || *turn_in <= horizon);
            self.coming.extend(soon.map(|(_, turn_in, next)| (turn_in, next)));
            paces.insert(target, pace);
        }
        self.paces = paces;
        self.coming.sort_by_key(|(turn_in, _)| *turn_in);
        for (turn_in, next) in &self.coming {
            let prompt = self.prompts.entry(next.entry);
            let prompt = prompt.or_insert(Prompt { next: *next, turn_in: *turn_in, asks: Asks::Unread });
            (prompt.next, prompt.turn_in) = (*next, *turn_in);
        }
    }

    /// Those who are not among what comes any more: some are only farther behind, some had their turn.
    fn part(&mut self, room: &Room<Spot>, turned: &Turned, wish: &Wish<'_>, jobs: &mut Jobs) {
        let here: std::collections::HashSet<EntryId> =
            self.coming.iter().map(|(_, next)| next.entry).collect();
        let away: Vec<Next> = self
            .prompts
            .values()
            .map(|prompt| prompt.next)
            .filter(|next| !here.contains(&next.entry))
            .collect();
        let asked: Vec<Next> = away.iter().copied().filter(|next| (wish.knows)(next.entry)).collect();
        let became = room.stand_still(&asked);
        let mut waits = Vec::new();
        for (next, became) in asked.into_iter().zip(became) {
            match became {
                Stands::Waits => waits.push(next.entry),
                Stands::Started => turned.note(next.entry),
                Stands::Gone => {}
            }
        }
        for next in away {
            let id = next.entry;
            if waits.contains(&id) {
                self.coming.extend(self.prompts.get(&id).map(|prompt| (prompt.turn_in, next)));
                continue;
            }
            let had = turned.forget(id);
            if let Some(Prompt { asks: Asks::This(pending), .. }) = self.prompts.remove(&id)
                && had
            {
                jobs.turned.push((id, pending));
            }
        }
    }

    /// As many as are asked for, and those for whom something was asked.
    fn near(&self, wish: &Wish<'_>) -> Vec<(Duration, Next)> {
        let turns = self.coming.iter().enumerate();
        let near = turns.filter(|(at, (_, next))| *at < wish.most || (wish.knows)(next.entry));
        near.map(|(_, turn)| *turn).collect()
    }

    /// Takes in what was read.
    async fn take_read(&mut self) {
        let Some((ids, reading)) = self.reading.take_if(|(_, reading)| reading.is_finished()) else { return };
        // If somebody panics over one of them, none of them is warmed, rather than all of them read for ever.
        let read = reading.await.unwrap_or_else(|_| ids.into_iter().map(|id| (id, None)).collect());
        for (id, asks) in read {
            if let Some(prompt) = self.prompts.get_mut(&id) {
                prompt.asks = asks.map_or(Asks::Nothing, |asks| Asks::This(Arc::new(Pending::of_job(asks))));
            }
        }
    }

    fn remembered(&self) -> usize {
        let tokens = |prompt: &Prompt| match &prompt.asks {
            Asks::This(pending) => pending.tokens.len(),
            _ => 0,
        };
        self.prompts.values().map(tokens).sum()
    }
}

#[cfg(test)]
impl Ahead {
    /// Whose turns come when.
    pub(super) fn turns(&self) -> impl Iterator<Item = (Duration, EntryId)> {
        self.coming.iter().map(|(turn_in, next)| (*turn_in, next.entry))
    }
}

// === impl Turned ===

impl Turned {
    /// An entry may run. Called wherever one is started: it costs a look into a table, and does not wait.
    pub(super) fn note(&self, id: EntryId) {
        if let Some(had) = self.0.lock().get_mut(&id) {
            *had = true;
        }
    }

    fn watch(&self, ids: impl Iterator<Item = EntryId>) {
        let mut watched = self.0.lock();
        ids.for_each(|id| _ = watched.entry(id).or_default());
    }

    /// Whether it had its turn.
    fn forget(&self, id: EntryId) -> bool {
        self.0.lock().remove(&id).unwrap_or_default()
    }
}

// === impl Pace ===

impl Pace {
    /// So many have been started by now.
    pub(super) fn count(&mut self, starts: u64, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        let fresh = starts.saturating_sub(self.starts) as f64 / passed;
        self.rate += (fresh - self.rate) * (1.0 - (-passed / MEAN).exp());
        (self.starts, self.at) = (starts, now);
    }

    /// When the turn of whoever is at a place will come; of what has not moved of late, one a second.
    pub(super) fn turn_in(&self, place: usize) -> Duration {
        let rate = if self.rate < LEAST { 1.0 } else { self.rate };
        Duration::from_secs_f64((place + 1) as f64 / rate)
    }
}

/// What is slower than one a minute stands still, as far as anybody can tell.
const LEAST: f64 = 1.0 / 60.0;
