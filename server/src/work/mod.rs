//! Everything that can wait and must not be lost: requests in durable queues, run when there is room, whatever dies
//! meanwhile.
//!
//! A request that was acknowledged is in the log of a partition. It runs when its turn comes, again if the process died
//! before it finished, and its outcome is kept for a while. What people ask for is made of these: jobs one each, batches of
//! many.

mod errand;
mod operate;
mod partitions;
mod run;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use queue::entry::{Cost, Entry, Known, Lease, Order, Outcome, Terms};
use queue::ledger::{Done, Refused, What};
use queue::limits::Limits;
use queue::name::{Class, EntryId, Millis, QueueName};
use queue::room::{Explained, Hold, Room, Runner, Started};
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use crate::error::ApiError;
use crate::fleet::Fleet;
use crate::lines::{Lines, Spot};
use crate::replicas::{Rates, Replicas};
use crate::settings;

pub use errand::{Errand, Result as ErrandResult, can_wait};
pub use operate::{Sweep, Swept};
pub use partitions::{Owner, name_of, on_disk};

/// What is durable on this replica; cheap to clone.
#[derive(Clone)]
pub struct Work(Arc<Inner>);

struct Inner {
    fleet: Fleet,
    replicas: Replicas,
    settings: settings::Queue,
    data: std::path::PathBuf,
    home: Handle,
    /// Set once: the room is made with its runner, which is this.
    lines: OnceLock<Lines>,
    held: Mutex<BTreeMap<u32, partitions::Held>>,
    /// Why partitions that lie here cannot be opened.
    troubles: Mutex<BTreeMap<u32, String>>,
    /// One at a time makes a partition, or opens one.
    making: tokio::sync::Mutex<()>,
    /// What runs here, so that it can be stopped.
    runs: Mutex<HashMap<(EntryId, Lease), AbortHandle>>,
    over: broadcast::Sender<(EntryId, Outcome)>,
    /// Partitions that were opened here.
    opened: broadcast::Sender<u32>,
    /// What tenants may use in a minute.
    rates: HashMap<String, Rates>,
}

/// Something to put into a durable queue.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which of the tenant's queues.
    pub queue: String,
    /// What is asked.
    pub errand: Errand,
    /// How urgent it is.
    pub class: Class,
    /// Not before.
    pub not_before: Option<Duration>,
    /// Too late after that.
    pub deadline: Option<Duration>,
    /// The same key twice is the same order.
    pub once: Option<String>,
    /// How long its outcome is kept.
    pub keep: Duration,
}

/// Words about ends that nobody has heard yet; a listener that is slower looks for itself.
const OVER: usize = 4_096;

impl Work {
    /// Nothing is opened yet: see [`Work::run`].
    ///
    /// # Errors
    /// A limit that cannot be used, in words.
    pub fn new(fleet: Fleet, replicas: Replicas) -> Result<Self, String> {
        let all = fleet.settings().clone();
        let mut rates = HashMap::new();
        for tenant in &all.tenants {
            let of = Rates::of(tenant, &replicas)?;
            if !of.is_empty() {
                rates.insert(tenant.name.clone(), of);
            }
        }
        Ok(Self(Arc::new(Inner {
            fleet,
            replicas,
            data: all.data.dir.join("queue"),
            settings: all.queue,
            home: Handle::current(),
            lines: OnceLock::new(),
            held: Mutex::default(),
            troubles: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            runs: Mutex::default(),
            over: broadcast::channel(OVER).0,
            opened: broadcast::channel(64).0,
            rates,
        })))
    }

    /// What runs what is started.
    pub fn runner(&self) -> Arc<dyn Runner<Spot>> {
        Arc::new(Runs(Arc::downgrade(&self.0)))
    }

    /// The lines in which it waits.
    pub fn join(&self, lines: &Lines) {
        let _twice = self.0.lines.set(lines.clone());
        let fleet = self.0.fleet.clone();
        lines.warm_jobs(move |payload| Errand::decode(payload).ok()?.asked(&fleet));
    }

    /// Opens what lies in the data directory, keeps it, and takes over what others have left; for as long as the process
    /// lives.
    pub async fn run(self) {
        partitions::keep(&self).await;
    }

    /// Gives everything up in order: another replica can have it at once.
    pub async fn leave(&self) {
        partitions::leave(self).await;
    }

    fn room(&self) -> Result<&Room<Spot>, ApiError> {
        let lines = self.0.lines.get().map(Lines::room);
        lines.ok_or_else(|| ApiError::Internal("the queues are not there yet".to_owned()))
    }

    /// Puts orders of a tenant into a partition of this replica. When it returns they are durable.
    ///
    /// # Errors
    /// What was wrong with the first that was refused; those before it are in.
    pub async fn submit(&self, tenant: &str, orders: Vec<Wanted>) -> Result<Vec<EntryId>, ApiError> {
        let partition = self.a_partition().await?;
        self.submit_to(partition, tenant, orders).await
    }

    /// The same, into this partition.
    ///
    /// # Errors
    /// As [`Work::submit`].
    pub async fn submit_to(
        &self,
        partition: u32,
        tenant: &str,
        orders: Vec<Wanted>,
    ) -> Result<Vec<EntryId>, ApiError> {
        let room = self.room()?;
        let mut entries = Vec::with_capacity(orders.len());
        for order in orders {
            entries.push(self.entry(tenant, order)?);
        }
        let done = room.enqueue_all(partition, entries).await.map_err(refusal)?;
        let id = |done: Done| match done {
            Done::Enqueued(id) | Done::Known(id) => Ok(id),
            other => Err(ApiError::Internal(format!("an order was answered with {other:?}"))),
        };
        done.into_iter().map(id).collect()
    }

    fn entry(&self, tenant: &str, order: Wanted) -> Result<Entry, ApiError> {
        let Wanted { queue, errand, class, not_before, deadline, once, keep } = order;
        let (cost, hint) = self.weigh(&errand);
        let target = self.0.fleet.target(&errand.model).to_owned();
        let queue = QueueName::new(tenant, &format!("{queue}/{target}"))
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let millis = |time: Duration| Millis(time.as_millis() as u64);
        Ok(Entry {
            queue,
            terms: Terms { target: target.into(), weight: 1, order: Order::Warm, limits: Limits::default() },
            class,
            not_before: not_before.map(millis),
            deadline: deadline.map(millis),
            cost,
            hint,
            once: once.map(Into::into),
            keep: keep.as_millis() as u64,
            payload: errand.encode(),
        })
    }

    /// What an errand takes, and where its prompt may lie.
    fn weigh(&self, errand: &Errand) -> (Cost, Option<Arc<[u8]>>) {
        let (prompt, hint) = errand.prompt(&self.0.fleet);
        let tokens = prompt.saturating_add(errand.answer());
        (Cost { tokens, blocks: tokens.div_ceil(16) }, hint)
    }

    /// Everything about an entry of a partition that is open here.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn show(&self, id: EntryId) -> Result<Explained, ApiError> {
        let room = self.room()?.clone();
        let shown = tokio::task::spawn_blocking(move || room.show(id)).await;
        shown.map_err(|error| ApiError::Internal(error.to_string()))?.map_err(refusal)
    }

    /// Takes an entry out, or stops it.
    ///
    /// # Errors
    /// It is over already, or there is none.
    pub async fn cancel(&self, id: EntryId) -> Result<(), ApiError> {
        self.room()?.ask(id.partition, What::Cancel { seq: id.seq }).await.map_err(refusal).map(drop)
    }

    /// Forgets the outcome of an entry.
    ///
    /// # Errors
    /// It is not over, or there is none.
    pub async fn forget(&self, id: EntryId) -> Result<(), ApiError> {
        self.room()?.ask(id.partition, What::Forget { seq: id.seq }).await.map_err(refusal).map(drop)
    }

    /// Hears of every end from now on, of entries in partitions that are open here. Who is too slow misses some.
    pub fn ends(&self) -> broadcast::Receiver<(EntryId, Outcome)> {
        self.0.over.subscribe()
    }

    /// Hears of every partition that is opened here from now on.
    pub fn opened(&self) -> broadcast::Receiver<u32> {
        self.0.opened.subscribe()
    }

    /// Partitions that are open here.
    pub fn partitions(&self) -> Vec<u32> {
        self.0.held.lock().keys().copied().collect()
    }

    /// Partitions that lie here and cannot be opened, and why.
    pub fn troubles(&self) -> BTreeMap<u32, String> {
        self.0.troubles.lock().clone()
    }

    /// A partition that is open here: for orders that belong together.
    ///
    /// # Errors
    /// None can be opened.
    pub async fn partition(&self) -> Result<u32, ApiError> {
        self.a_partition().await
    }

    /// The coordination of this replica.
    pub fn replicas(&self) -> &Replicas {
        &self.0.replicas
    }

    /// The engines.
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// Waits until an entry is over, or until the time is up; then says how it stands.
    ///
    /// # Errors
    /// As [`Work::show`].
    pub async fn wait(&self, id: EntryId, patience: Duration) -> Result<Known, ApiError> {
        let mut ends = self.ends();
        let until = tokio::time::Instant::now() + patience;
        loop {
            let known = self.show(id).await?.entry;
            if known.outcome.is_some() || patience.is_zero() {
                return Ok(known);
            }
            let heard = tokio::time::timeout_at(until, async {
                loop {
                    match ends.recv().await {
                        Ok((over, _)) if over != id => {}
                        _ => return,
                    }
                }
            });
            if heard.await.is_err() {
                return Ok(self.show(id).await?.entry);
            }
        }
    }
}

/// Runs what the room starts, as long as anybody wants it.
struct Runs(Weak<Inner>);

impl Runner<Spot> for Runs {
    fn run(&self, started: Started<Spot>) {
        let Some(inner) = self.0.upgrade() else { return };
        if let Some(lines) = inner.lines.get() {
            lines.started(started.id);
        }
        let key = (started.id, started.lease);
        let work = Work(inner.clone());
        let mut runs = inner.runs.lock();
        let task = inner.home.spawn(async move {
            work.execute(started).await;
            work.0.runs.lock().remove(&key);
        });
        // It may have ended already: then it waits for this lock to take itself out.
        runs.insert(key, task.abort_handle());
    }

    fn revoked(&self, id: EntryId, lease: Lease) {
        let run = self.0.upgrade().and_then(|inner| inner.runs.lock().remove(&(id, lease)));
        if let Some(run) = run {
            run.abort();
        }
    }

    fn over(&self, id: EntryId, outcome: Outcome) {
        if let Some(inner) = self.0.upgrade() {
            let _unheard = inner.over.send((id, outcome));
        }
    }
}

/// Each kind of refusal tells the client what to do next.
pub fn refusal(refused: Refused) -> ApiError {
    match refused {
        Refused::Unknown(_) | Refused::NoQueue(_) => ApiError::NotFound(refused.to_string()),
        Refused::Stale(_) | Refused::Stage { .. } => ApiError::Conflict(refused.to_string()),
        Refused::Invalid(why) => ApiError::invalid(why),
        Refused::Log(why) => {
            tracing::error!(%why, "a durable queue took nothing");
            partitions::no_queue()
        }
        Refused::NotHere(_) => ApiError::NoQueue {
            message: "The durable queue is not open here at the moment; it is taken over, or comes back."
                .to_owned(),
            retry_after: 2,
        },
        Refused::Closing => ApiError::NoQueue {
            message: "This replica gives the queue to another one.".to_owned(),
            retry_after: 1,
        },
    }
}

/// What must be remembered to end a run.
pub(crate) type Held = Hold;

/// Why something does not run, for people.
pub fn why_in_words(why: queue::scheduler::Why) -> String {
    use queue::scheduler::{Held as By, Why};
    let by = |held: By| match held {
        By::Queue => "its queue",
        By::Tenant => "its tenant",
        By::Target => "its model",
        By::Fleet => "everything together",
    };
    match why {
        Why::Turn(0) => "its turn; it is the first of its line".to_owned(),
        Why::Turn(before) => format!("its turn; {before} of its line are before it"),
        Why::Far => "its turn; many of its line are before it".to_owned(),
        Why::Reading => "the disk: its line is being read".to_owned(),
        Why::Paused => "an operator: its queue is paused".to_owned(),
        Why::Held(held, narrow) => format!("the limit of {} on {}", by(held), narrow.name()),
        Why::NoPlace => "an engine: none that serves its model has room".to_owned(),
        Why::Picky => "an engine: none can take the first of its line now".to_owned(),
        Why::Starting => "nothing: its start is being written".to_owned(),
        Why::Running => "its answer: it runs".to_owned(),
    }
}
