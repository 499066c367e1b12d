//! Webhooks: whoever has batches or jobs is told when they end, however long it takes until somebody hears.
//!
//! What is to be told is written down on the shelf before it can happen (a job) or before it is forgotten that it did (a
//! batch), and taken away when it was heard. Whoever owns the partition of the batch or job tells it. It may be heard twice,
//! under the same `webhook-id`, if its teller dies in between; it is never lost within [`DAY`].

mod notice;
mod send;
mod sign;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use queue::entry::Outcome;
use queue::name::EntryId;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use self::notice::{About, Notice};
use self::send::{Connections, Target};
use crate::batches::{Ended, Made};
use crate::clock::Clock;
use crate::error::ApiError;
use crate::settings::Settings;
use crate::shelf::{self, Shelf};
use crate::work::Work;

/// Who is told what; cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    shelf: Shelf,
    work: Work,
    clock: Clock,
    /// With tenants each one's own; without, or for those who have none, everybody's.
    own: HashMap<String, Arc<Target>>,
    common: Option<Arc<Target>>,
    connections: Option<Connections>,
    new: mpsc::UnboundedSender<Notice>,
    heard_of: parking_lot::Mutex<Option<mpsc::UnboundedReceiver<Notice>>>,
    counters: Counters,
}

/// What happened to messages on this replica.
#[derive(Debug, Default)]
pub struct Counters {
    heard: AtomicU64,
    unheard: AtomicU64,
    given_up: AtomicU64,
}

/// Messages under way at a time.
const AT_ONCE: usize = 16;
/// Pauses between tries: the first, each twice as long, up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// After so long nobody is told any more.
pub const DAY: Duration = Duration::from_hours(24);
/// What others have written down, or we before our last start, is looked for so often.
const LOOK: Duration = Duration::from_secs(30);
/// Names that are asked for at a time, and the largest notice.
const NAMES: usize = 1_000;
const MAX: u64 = 16 << 10;

impl Webhooks {
    /// Those whom the settings name.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub fn new(settings: &Settings, shelf: Shelf, work: Work) -> Result<Self, String> {
        let common = Target::read(&settings.webhook).map_err(|why| format!("webhook.{why}"))?.map(Arc::new);
        let mut own = HashMap::new();
        for (i, tenant) in settings.tenants.iter().enumerate() {
            let target =
                Target::read(&tenant.webhook).map_err(|why| format!("tenants[{i}].webhook.{why}"))?;
            if let Some(target) = target {
                own.insert(tenant.name.clone(), Arc::new(target));
            }
        }
        let anybody = common.is_some() || !own.is_empty();
        let (new, heard_of) = mpsc::unbounded_channel();
        Ok(Self(Arc::new(Inner {
            shelf,
            clock: work.fleet().clock(),
            work,
            own,
            common,
            connections: anybody.then(send::connections).transpose()?,
            new,
            heard_of: parking_lot::Mutex::new(Some(heard_of)),
            counters: Counters::default(),
        })))
    }

    /// What happened.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// A batch has ended: its tenant will be told.
    ///
    /// # Errors
    /// It could not be written down: say it again.
    pub async fn of_batch(&self, made: &Made, ended: &Ended) -> Result<(), shelf::Error> {
        let about = About::Batch { id: made.id.clone(), status: ended.status };
        self.write_down(made.tenant.clone(), made.partition, about, ended.at * 1_000).await
    }

    /// A job was made: its tenant will be told when it has ended.
    ///
    /// # Errors
    /// It could not be written down: say it again.
    pub async fn of_job(&self, tenant: Option<&str>, entry: EntryId) -> Result<(), shelf::Error> {
        let now = self.0.clock.unix().as_millis() as u64;
        let about = About::Job { entry: entry.to_string() };
        self.write_down(tenant.map(str::to_owned), entry.partition, about, now).await
    }

    async fn write_down(
        &self,
        tenant: Option<String>,
        partition: u32,
        about: About,
        since_ms: u64,
    ) -> Result<(), shelf::Error> {
        if self.target(tenant.as_deref()).is_none() {
            return Ok(());
        }
        let notice = Notice { tenant, partition, about, since_ms, tries: 0, at_ms: since_ms };
        self.write(&notice).await?;
        let _ended = self.0.new.send(notice);
        Ok(())
    }

    async fn write(&self, notice: &Notice) -> Result<(), shelf::Error> {
        let bytes = serde_json::to_vec(notice).expect("strings and numbers always serialise");
        self.0.shelf.put(&notice.place(), bytes.into()).await
    }

    fn target(&self, tenant: Option<&str>) -> Option<&Arc<Target>> {
        tenant.and_then(|tenant| self.0.own.get(tenant)).or(self.0.common.as_ref())
    }

    /// Tells, for as long as the process lives.
    pub async fn run(self) {
        let heard_of = self.0.heard_of.lock().take();
        let Some(new) = heard_of.filter(|_| self.0.connections.is_some()) else { return };
        let (ends, opened) = (self.0.work.ends(), self.0.work.opened());
        let teller = Teller {
            all: self,
            waits: HashMap::new(),
            due: BTreeMap::new(),
            known: HashSet::new(),
            telling: JoinSet::new(),
        };
        teller.run(new, ends, opened).await;
    }
}

/// Everything that is to be told by this replica. A job that has not ended takes 200 bytes here.
struct Teller {
    all: Webhooks,
    /// Jobs that have not ended.
    waits: HashMap<EntryId, Notice>,
    /// What has happened, by the time from which it is to be told.
    due: BTreeMap<(u64, String), Notice>,
    /// All of these and what is being told, by name.
    known: HashSet<String>,
    telling: JoinSet<(Notice, Result<(), String>)>,
}

impl Teller {
    async fn run(
        mut self,
        mut new: mpsc::UnboundedReceiver<Notice>,
        mut ends: broadcast::Receiver<(EntryId, Outcome)>,
        mut opened: broadcast::Receiver<u32>,
    ) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = self.now();
            while self.telling.len() < AT_ONCE
                && self.due.first_key_value().is_some_and(|(key, _)| key.0 <= now)
            {
                let Some((_, notice)) = self.due.pop_first() else { break };
                self.telling.spawn(tell(self.all.clone(), notice));
            }
            let next = self.due.first_key_value().map_or(u64::MAX, |(key, _)| key.0.saturating_sub(now));
            // Who waits for a place is woken by whoever gives one free.
            let next = if self.telling.len() < AT_ONCE { Duration::from_millis(next) } else { LOOK };
            tokio::select! {
                Some(notice) = new.recv() => self.take(notice).await,
                Some(told) = self.telling.join_next() => if let Ok((notice, told)) = told {
                    self.told(notice, told).await;
                },
                end = ends.recv() => match end {
                    Ok((id, _)) => {
                        if let Some(notice) = self.waits.remove(&id) {
                            self.is_due(notice);
                        }
                    }
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
        self.all.0.clock.unix().as_millis() as u64
    }

    /// Everything that is written down for partitions that are open here, and nothing else.
    async fn look(&mut self) {
        let ours = self.all.0.work.partitions();
        let stays = |notice: &Notice, known: &mut HashSet<String>| {
            let stays = ours.contains(&notice.partition);
            if !stays {
                known.remove(&notice.id());
            }
            stays
        };
        self.waits.retain(|_, notice| stays(notice, &mut self.known));
        self.due.retain(|_, notice| stays(notice, &mut self.known));
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
        if !self.known.insert(notice.id()) {
            return;
        }
        let Some(entry) = notice.entry() else { return self.is_due(notice) };
        self.waits.insert(entry, notice);
        self.look_at_job(entry).await;
    }

    /// A word was missed: every job may have ended.
    async fn look_again(&mut self) {
        let entries: Vec<EntryId> = self.waits.keys().copied().collect();
        for entry in entries {
            self.look_at_job(entry).await;
        }
    }

    async fn look_at_job(&mut self, entry: EntryId) {
        let over = match self.all.0.work.show(entry).await {
            Ok(shown) => shown.entry.outcome.is_some(),
            // Its client has deleted it: whoever tells it will see, and tell nothing.
            Err(ApiError::NotFound(_)) => true,
            Err(_) => false,
        };
        if over && let Some(notice) = self.waits.remove(&entry) {
            self.is_due(notice);
        }
    }

    fn is_due(&mut self, mut notice: Notice) {
        if notice.tries == 0 && notice.entry().is_some() {
            notice.since_ms = self.now();
        }
        self.due.insert((notice.at_ms, notice.id()), notice);
    }

    async fn told(&mut self, mut notice: Notice, told: Result<(), String>) {
        let (id, counters) = (notice.id(), &self.all.0.counters);
        if !self.all.0.work.partitions().contains(&notice.partition) {
            self.known.remove(&id);
            return;
        }
        let now = self.now();
        let done = match told {
            Ok(()) => {
                counters.heard.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(why) => {
                counters.unheard.fetch_add(1, Ordering::Relaxed);
                let late = notice.since_ms + DAY.as_millis() as u64 <= now;
                if late {
                    counters.given_up.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        id,
                        why,
                        tries = notice.tries,
                        "a webhook was not heard for a day; it is given up"
                    );
                } else {
                    tracing::debug!(
                        id,
                        why,
                        tries = notice.tries,
                        "a webhook was not heard; it is told again"
                    );
                }
                late
            }
        };
        let shelf = &self.all.0.shelf;
        let written = if done {
            shelf.delete(&notice.place()).await
        } else {
            let pause = PAUSES.0.saturating_mul(1 << notice.tries.min(16)).min(PAUSES.1);
            notice.tries += 1;
            notice.at_ms = now + pause.as_millis() as u64;
            let written = self.all.write(&notice).await;
            self.due.insert((notice.at_ms, id.clone()), notice);
            written
        };
        if let Err(error) = written {
            tracing::warn!(id, %error, "what became of a webhook could not be written down; it may be told again");
        }
        if done {
            self.known.remove(&id);
        }
    }
}

/// Tells one, if there is anybody to be told and anything to tell.
async fn tell(all: Webhooks, notice: Notice) -> (Notice, Result<(), String>) {
    let target = all.target(notice.tenant.as_deref());
    let (Some(target), Some(connections)) = (target, all.0.connections.as_ref()) else {
        return (notice, Ok(()));
    };
    let mut outcome = None;
    if let Some(entry) = notice.entry() {
        match all.0.work.show(entry).await {
            Ok(shown) if shown.entry.outcome.is_some() => outcome = shown.entry.outcome,
            Ok(_) => return (notice, Err("it runs again".to_owned())),
            Err(ApiError::NotFound(_)) => return (notice, Ok(())),
            Err(error) => return (notice, Err(error.to_string())),
        }
    }
    let now = all.0.clock.unix().as_secs();
    let told = target.tell(connections, &notice.id(), now, notice.message(outcome)).await;
    (notice, told)
}

// === impl Counters ===

impl Counters {
    /// Name, kind, help and value of each metric.
    pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        vec![
            (
                "warmline_webhooks_heard_total",
                "counter",
                "Webhooks that were answered with 2xx.",
                load(&self.heard),
            ),
            (
                "warmline_webhooks_unheard_total",
                "counter",
                "Tries that were not; each is made again.",
                load(&self.unheard),
            ),
            (
                "warmline_webhooks_given_up_total",
                "counter",
                "Webhooks that nobody heard for a day.",
                load(&self.given_up),
            ),
        ]
    }
}
