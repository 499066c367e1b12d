//! Batches, as OpenAI means them: a file of requests that are answered within a day, and two files with what came of them.
//!
//! [`note`] says what is written down and where, so that any replica can answer; [`begin`] reads a file for the first time;
//! [`drive`] is the way of one batch, on whichever replica owns the log in which its lines wait; [`finish`] makes the files,
//! on any replica. How clients ask is told in `gateway::batches`.

mod barrier;
mod begin;
mod drive;
mod finish;
mod id;
mod line;
mod needs;
mod note;
mod part;
mod show;
mod tidy;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord::Name as Word;
use coord::jobs::Jobs;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::error::ApiError;
use crate::files::{self, Files};
use crate::settings;
use crate::shelf::{self, Shelf};
use crate::webhooks::Webhooks;
use crate::work::Work;

pub use id::Id;
pub use note::{Counts, Ended, Made, Problem, Status, Tokens};
pub use show::{Page, Shown};

/// All batches; cheap to clone.
#[derive(Clone)]
pub struct Batches(Arc<Inner>);

struct Inner {
    shelf: Shelf,
    files: Files,
    work: Work,
    webhooks: Webhooks,
    jobs: Jobs,
    clock: Clock,
    settings: settings::Batches,
    /// The longest line.
    max_line: usize,
    /// Those that are gone on with here, and how to tell them that something has changed.
    driven: parking_lot::Mutex<HashMap<Id, Arc<Notify>>>,
    /// How many of a tenant's batches run at a time here: the others wait for their turn.
    turns: parking_lot::Mutex<HashMap<Option<String>, Arc<Turns>>>,
    /// Told when there is a new one.
    new: Notify,
    counters: Arc<Counters>,
}

/// What happened to batches on this replica.
#[derive(Debug, Default)]
pub struct Counters {
    made: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
    lines_completed: AtomicU64,
    lines_failed: AtomicU64,
    taken_up: AtomicU64,
    open: AtomicU64,
}

/// A batch that a client wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its lines.
    pub input: files::Id,
    /// The path that each line asks.
    pub endpoint: String,
    /// How long it may take, and how the client wrote it.
    pub window: (Duration, String),
    /// Whatever the client wants to read later.
    pub metadata: Option<BTreeMap<String, String>>,
    /// How long the client wants its results.
    pub keep: Option<Duration>,
}

/// Turns of one tenant's batches on one replica.
struct Turns {
    /// To run.
    run: Semaphore,
    /// To come to its end without running: of one that is cancelled or too late no line is begun any more.
    end: Semaphore,
}

/// Batches of one tenant that run at a time on one replica, and as many that only come to their end. Each holds the names
/// of its lines (1.2 MB for 50,000) and what of sixteen hundred lines must be remembered while they run (a megabyte).
const AT_A_TIME: usize = 4;
/// How long outcomes of lines are kept beyond the time of the batch, should nobody come for them.
const WEEK: Duration = Duration::from_hours(7 * 24);
/// Markers are looked for so often, besides when something is said.
const LOOK: Duration = Duration::from_secs(5);
/// Names that are asked for at a time.
const NAMES: usize = 1_000;

impl Batches {
    /// Begins to make the files of batches whose lines are over. Lines run only with [`Batches::run`].
    pub fn new(files: Files, work: Work, webhooks: Webhooks) -> Self {
        let fleet = work.fleet().clone();
        let settings = fleet.settings();
        let counters = Arc::<Counters>::default();
        files.ask_first(Arc::new(needs::Needs::new(files.shelf().clone(), fleet.clock())));
        let finisher = finish::Finisher::new(files.clone(), fleet.clock(), counters.clone());
        let options = coord::jobs::Options {
            lease: settings.coordination.lease.get(),
            // A batch may wait for days, and whoever takes over its log settles what nobody settles.
            watchdog: Duration::ZERO,
            sweep: LOOK,
            ..coord::jobs::Options::default()
        };
        let handlers: Vec<(Word, Arc<dyn coord::jobs::Handler>)> =
            vec![(barrier::handler(), Arc::new(finisher))];
        let jobs = Jobs::begin(work.replicas().coord(), handlers, options);
        Self(Arc::new(Inner {
            shelf: files.shelf().clone(),
            clock: fleet.clock(),
            settings: settings.batches.clone(),
            max_line: settings.gateway.max_body_bytes,
            files,
            work,
            webhooks,
            jobs,
            driven: parking_lot::Mutex::default(),
            turns: parking_lot::Mutex::default(),
            new: Notify::new(),
            counters,
        }))
    }

    /// What happened.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// A new batch of a tenant. It lasts from the moment this returns.
    ///
    /// # Errors
    /// A file that is no file of a batch, no log to put its lines in, or a shelf that does not take it.
    pub async fn create(&self, tenant: Option<&str>, wanted: Wanted) -> Result<Shown, ApiError> {
        let wrong = |message: String| ApiError::Invalid { message, param: Some("input_file_id".to_owned()) };
        let found = self.0.files.find(tenant, &wanted.input).await?;
        let file =
            found.ok_or_else(|| wrong(format!("input_file_id: there is no file {}.", wanted.input)))?;
        if file.purpose != files::Purpose::Batch {
            let purpose = file.purpose.name();
            return Err(wrong(format!(
                "input_file_id: {} was uploaded for {purpose:?}; allowed are files whose purpose is \"batch\".",
                wanted.input
            )));
        }
        let made = Made {
            id: Id::mint(self.0.clock.unix()),
            tenant: tenant.map(str::to_owned),
            partition: self.0.work.partition().await?,
            input: wanted.input,
            endpoint: wanted.endpoint,
            window_s: wanted.window.0.as_secs(),
            window: wanted.window.1,
            metadata: wanted.metadata,
            keep_s: wanted.keep.map(|keep| keep.as_secs()),
        };
        // The marker holds everything: whoever finds it can do the rest.
        let marker = note::marker(made.partition, &made.id);
        note::write(&self.0.shelf, &marker, &made).await.map_err(away)?;
        self.show_to_all(&made).await.map_err(away)?;
        self.0.counters.made.fetch_add(1, Ordering::Relaxed);
        self.0.new.notify_one();
        Ok(Shown::new(made))
    }

    async fn show_to_all(&self, made: &Made) -> Result<(), shelf::Error> {
        let name = note::Kind::Made.of(made.tenant.as_deref(), &made.id);
        note::write_once(&self.0.shelf, &name, made.clone()).await.map(drop)
    }

    /// Goes on with every batch whose log is open here, for as long as the process lives.
    pub async fn run(self) {
        let mut opened = self.0.work.opened();
        let (mut driving, mut unreadable) = (JoinSet::new(), HashSet::new());
        loop {
            for partition in self.0.work.partitions() {
                if let Err(error) = self.take_up(partition, &mut driving, &mut unreadable).await {
                    tracing::warn!(%error, "batches could not be looked for; trying again");
                }
            }
            tokio::select! {
                () = self.0.new.notified() => {}
                said = opened.recv() => {
                    if matches!(said, Err(broadcast::error::RecvError::Closed)) {
                        return;
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            while driving.try_join_next().is_some() {}
        }
    }

    /// Goes on with every batch of a partition that nobody here goes on with.
    async fn take_up(
        &self,
        partition: u32,
        driving: &mut JoinSet<()>,
        unreadable: &mut HashSet<Id>,
    ) -> Result<(), shelf::Error> {
        let folder = note::markers(partition);
        let mut after = None;
        loop {
            let markers = self.0.shelf.list(&folder, after.as_ref(), NAMES).await?;
            for marker in &markers {
                let Some(id) = Id::parse(marker.name.last()) else { continue };
                if self.0.driven.lock().contains_key(&id) {
                    continue;
                }
                let made = match note::read::<Made>(&self.0.shelf, &marker.name).await {
                    Ok(Some(made)) => made,
                    Ok(None) => continue,
                    // It must not hold up all others; an operator finds it in the log, once.
                    Err(error) if error.is_of_one() => {
                        if unreadable.insert(id) {
                            tracing::error!(%error, "a batch cannot be gone on with");
                        }
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let poke = Arc::new(Notify::new());
                self.0.driven.lock().insert(id, poke.clone());
                self.0.counters.taken_up.fetch_add(1, Ordering::Relaxed);
                driving.spawn(drive::look_after(self.clone(), made, poke));
            }
            match markers.last() {
                Some(last) if markers.len() == NAMES => after = Some(last.name.clone()),
                _ => return Ok(()),
            }
        }
    }

    fn turns_of(&self, tenant: Option<&str>) -> Arc<Turns> {
        let mut turns = self.0.turns.lock();
        let new = || Arc::new(Turns { run: Semaphore::new(AT_A_TIME), end: Semaphore::new(AT_A_TIME) });
        turns.entry(tenant.map(str::to_owned)).or_insert_with(new).clone()
    }

    fn now(&self) -> u64 {
        self.0.clock.unix().as_secs()
    }
}

/// The shelf did not do it, for clients.
fn away(error: shelf::Error) -> ApiError {
    files::Error::from(error).into()
}

// === impl Counters ===

impl Counters {
    fn ended(&self, ended: &Ended) {
        let status = match ended.status {
            Status::Completed => &self.completed,
            Status::Failed => &self.failed,
            Status::Expired => &self.expired,
            _ => &self.cancelled,
        };
        status.fetch_add(1, Ordering::Relaxed);
        self.lines_completed.fetch_add(ended.counts.completed, Ordering::Relaxed);
        self.lines_failed.fetch_add(ended.counts.failed, Ordering::Relaxed);
    }

    /// Name, kind, help and value of each metric.
    pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let total = |name, help, counter| (name, "counter", help, load(counter));
        vec![
            total("warmline_batches_made_total", "Batches that this replica took.", &self.made),
            total(
                "warmline_batches_taken_up_total",
                "Batches that it began or went on with.",
                &self.taken_up,
            ),
            ("warmline_batches_open", "gauge", "Batches that it goes on with.", load(&self.open)),
            total(
                "warmline_batches_completed_total",
                "Batches whose files it made, every line having had its chance.",
                &self.completed,
            ),
            total(
                "warmline_batches_failed_total",
                "Batches of which not one line could be used.",
                &self.failed,
            ),
            total(
                "warmline_batches_expired_total",
                "Batches whose time was over before their end.",
                &self.expired,
            ),
            total("warmline_batches_cancelled_total", "Batches that somebody cancelled.", &self.cancelled),
            total(
                "warmline_batches_completed_lines_total",
                "Lines of these with a good answer.",
                &self.lines_completed,
            ),
            total("warmline_batches_failed_lines_total", "Lines of these without one.", &self.lines_failed),
        ]
    }
}
