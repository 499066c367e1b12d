//! Telling what is written down for partitions that are open here, until it was heard or a day is over.
//!
//! A job's notice waits here for the end of its job; how that ended is written down with it before it is told, for the log
//! forgets outcomes after `queue.keep`, and a receiver may be away for longer. Which is told next is decided in [`turns`].
//!
//! [`turns`]: super::turns

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use queue::entry::Outcome;
use queue::name::EntryId;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use super::notice::{self, Notice};
use super::turns::{Turns, Whose};
use super::{DAY, Webhooks};
use crate::error::ApiError;
use crate::shelf;

/// Ends of jobs that are written down at a time: a store takes 50 ms for one.
const WRITES: usize = 16;
/// Pauses between tries of one message: the first, each twice as long, up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// What others have written down, or we before our last start, is looked for so often.
const LOOK: Duration = Duration::from_secs(30);
/// Names that are asked for at a time, and the largest notice.
const NAMES: usize = 1_000;
const MAX: u64 = 16 << 10;

/// Everything that is to be told by this replica. A job that has not ended takes 200 bytes here.
pub(super) struct Teller {
    all: Webhooks,
    /// Jobs that have not ended.
    waits: HashMap<EntryId, Notice>,
    /// Jobs that have, which is still to be written down.
    ended: VecDeque<Notice>,
    writing: JoinSet<Notice>,
    /// What has happened and is written down.
    turns: Turns,
    telling: JoinSet<(Whose, Notice, Told)>,
    /// All of these, by name.
    known: HashSet<String>,
}

/// What came of telling.
#[derive(Debug)]
enum Told {
    /// It was heard, and is not written down any more.
    Heard,
    /// It was not, and is told again.
    Unheard,
    /// It was not heard for a day.
    GivenUp,
    /// There is nobody to be told, or nobody knows any more what.
    Void,
    /// Its job is made to run again.
    RunsAgain,
    /// Another replica tells it.
    Elsewhere,
    /// It could not be looked at now.
    Later,
}

impl Teller {
    pub(super) fn new(all: Webhooks) -> Self {
        Self {
            all,
            waits: HashMap::new(),
            ended: VecDeque::new(),
            writing: JoinSet::new(),
            turns: Turns::default(),
            telling: JoinSet::new(),
            known: HashSet::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut new: mpsc::UnboundedReceiver<Notice>,
        mut ends: broadcast::Receiver<(EntryId, Outcome)>,
        mut opened: broadcast::Receiver<u32>,
    ) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while self.writing.len() < WRITES
                && let Some(notice) = self.ended.pop_front()
            {
                self.writing.spawn(write_down(self.all.clone(), notice));
            }
            let now = self.now();
            while let Some((whose, notice)) = self.turns.next(now) {
                self.telling.spawn(tell(self.all.clone(), whose, notice));
            }
            let next = self.turns.wakes().map_or(LOOK, |at| Duration::from_millis(at.saturating_sub(now)));
            tokio::select! {
                Some(notice) = new.recv() => self.take(notice).await,
                Some(written) = self.writing.join_next() => if let Ok(notice) = written {
                    self.is_due(notice);
                },
                Some(told) = self.telling.join_next() => if let Ok((whose, notice, told)) = told {
                    self.told(&whose, notice, &told).await;
                },
                end = ends.recv() => match end {
                    Ok((id, outcome)) => self.has_ended(id, outcome),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_again().await,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                _ = opened.recv() => self.look().await,
                _ = looks.tick() => self.look().await,
                () = tokio::time::sleep(next.min(LOOK)) => {}
            }
        }
    }

    fn now(&self) -> u64 {
        self.all.now()
    }

    /// Everything that is written down for partitions that are open here, and nothing else.
    async fn look(&mut self) {
        let ours = self.all.0.work.partitions();
        let known = &mut self.known;
        let mut stays = |notice: &Notice| {
            let stays = ours.contains(&notice.partition);
            if !stays {
                known.remove(&notice.id());
            }
            stays
        };
        self.waits.retain(|_, notice| stays(notice));
        self.ended.retain(|notice| stays(notice));
        self.turns.retain(stays);
        for partition in ours {
            if let Err(error) = self.look_at(partition).await {
                tracing::warn!(%error, "webhooks could not be looked for; trying again");
            }
        }
    }

    async fn look_at(&mut self, partition: u32) -> Result<(), shelf::Error> {
        let (folder, mut after) = (notice::folder(partition), None);
        loop {
            let names = self.all.0.shelf.list(&folder, after.as_ref(), NAMES).await?;
            for item in &names {
                if self.known.contains(item.name.last()) {
                    continue;
                }
                let Some(bytes) = self.all.0.shelf.get(&item.name, MAX).await? else { continue };
                match serde_json::from_slice::<Notice>(&bytes) {
                    Ok(notice) => self.take(notice).await,
                    Err(error) => tracing::warn!(name = %item.name, %error, "a webhook cannot be read"),
                }
            }
            match names.last() {
                Some(last) if names.len() == NAMES => after = Some(last.name.clone()),
                _ => return Ok(()),
            }
        }
    }

    async fn take(&mut self, notice: Notice) {
        if self.known.insert(notice.id()) {
            self.wait_or_tell(notice).await;
        }
    }

    /// Tells it if it has happened as far as is known; else waits for the end of its job.
    async fn wait_or_tell(&mut self, notice: Notice) {
        match notice.entry() {
            Some(entry) if !notice.has_ended() => {
                self.waits.insert(entry, notice);
                self.look_at_job(entry).await;
            }
            _ => self.is_due(notice),
        }
    }

    /// A word was missed: every job may have ended.
    async fn look_again(&mut self) {
        let entries: Vec<EntryId> = self.waits.keys().copied().collect();
        for entry in entries {
            self.look_at_job(entry).await;
        }
    }

    async fn look_at_job(&mut self, entry: EntryId) {
        match self.all.0.work.show(entry).await {
            Ok(shown) => {
                if let Some(outcome) = shown.entry.outcome {
                    self.has_ended(entry, outcome);
                }
            }
            // Nobody knows any more how it ended: whoever tells it sees that, and tells nothing.
            Err(ApiError::NotFound(_)) => {
                if let Some(notice) = self.waits.remove(&entry) {
                    self.is_due(notice);
                }
            }
            Err(_) => {}
        }
    }

    /// Waits -> ended.
    fn has_ended(&mut self, entry: EntryId, outcome: Outcome) {
        if let Some(mut notice) = self.waits.remove(&entry) {
            notice.ends(outcome);
            notice.since_ms = self.now();
            self.ended.push_back(notice);
        }
    }

    fn is_due(&mut self, notice: Notice) {
        self.turns.add(self.all.whose(notice.tenant.as_deref()), notice);
    }

    async fn told(&mut self, whose: &Whose, mut notice: Notice, told: &Told) {
        let (counters, now) = (&self.all.0.counters, self.now());
        let (counted, heard) = match told {
            Told::Heard => (Some(&counters.heard), Some(true)),
            Told::Unheard => (Some(&counters.unheard), Some(false)),
            Told::GivenUp => (Some(&counters.given_up), Some(false)),
            Told::Void => (Some(&counters.void), None),
            Told::RunsAgain | Told::Elsewhere | Told::Later => (None, None),
        };
        if let Some(counter) = counted {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.turns.over(whose, heard, now);
        match told {
            Told::Heard | Told::GivenUp | Told::Void | Told::Elsewhere => {
                self.known.remove(&notice.id());
            }
            Told::Unheard | Told::Later => self.is_due(notice),
            Told::RunsAgain => {
                notice.runs_again();
                self.wait_or_tell(notice).await;
            }
        }
    }
}

/// Writes down how a job ended. If that fails the log still knows, for `queue.keep`.
async fn write_down(all: Webhooks, notice: Notice) -> Notice {
    if let Err(error) = all.write(&notice).await {
        tracing::warn!(id = notice.id(), %error, "how a job ended could not be written down for its webhook");
    }
    notice
}

/// Tells one, if there is anybody to be told and anything to tell, and writes down what came of it.
async fn tell(all: Webhooks, whose: Whose, mut notice: Notice) -> (Whose, Notice, Told) {
    let ours = |notice: &Notice| all.0.work.partitions().contains(&notice.partition);
    let told = if ours(&notice) { try_to_tell(&all, &mut notice).await } else { Told::Elsewhere };
    // Meanwhile it may have become somebody else's, who does not know what came of it: it may be heard twice.
    let told = if ours(&notice) { told } else { Told::Elsewhere };
    let written = match told {
        Told::Heard | Told::GivenUp | Told::Void => all.0.shelf.delete(&notice.place()).await,
        Told::Unheard | Told::Later => {
            let pause = PAUSES.0.saturating_mul(1 << notice.tries.min(16)).min(PAUSES.1);
            notice.tries += 1;
            notice.at_ms = all.now() + pause.as_millis() as u64;
            all.write(&notice).await
        }
        Told::RunsAgain | Told::Elsewhere => Ok(()),
    };
    if let Err(error) = written {
        let id = notice.id();
        tracing::warn!(id, %error, "what became of a webhook could not be written down; it may be told again");
    }
    (whose, notice, told)
}

async fn try_to_tell(all: &Webhooks, notice: &mut Notice) -> Told {
    let target = all.target(notice.tenant.as_deref());
    let (Some(target), Some(connections)) = (target, all.0.connections.as_ref()) else {
        return Told::Void;
    };
    if let Some(entry) = notice.entry() {
        // What the log says is newer than what is written down: an operator may have made it run again.
        match all.0.work.show(entry).await {
            Ok(shown) => match shown.entry.outcome {
                Some(outcome) => notice.ends(outcome),
                None => return Told::RunsAgain,
            },
            Err(_) if notice.has_ended() => {}
            Err(ApiError::NotFound(_)) => return Told::Void,
            Err(_) => return Told::Later,
        }
    }
    let (id, now) = (notice.id(), all.now());
    let Err(why) = target.tell(connections, &id, now / 1_000, notice.message()).await else {
        return Told::Heard;
    };
    let tries = notice.tries;
    if notice.since_ms + DAY.as_millis() as u64 <= all.now() {
        tracing::warn!(id, why, tries, "a webhook was not heard for a day; it is given up");
        return Told::GivenUp;
    }
    // One that is told again is no news; and a receiver that hears none of them is asked once a minute.
    if tries == 0 {
        tracing::warn!(id, why, "a webhook was not heard; it is told again, for a day");
    } else {
        tracing::debug!(id, why, tries, "a webhook was not heard; it is told again");
    }
    Told::Unheard
}
