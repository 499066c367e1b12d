//! Completion of many parts: register a job, settle its parts anywhere and any number of times, and its handler's effect
//! happens once.
//!
//! The last part puts the completion on record in the same step. The instance that registered the job runs its handler;
//! if it is gone, any other that knows the handler takes over when the lease is up, with a higher fence. The effects of a
//! handler are made together with its acknowledgement, in one step: so they happen once, whoever dies when. What a handler
//! does elsewhere it should mark with job, epoch and fence.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use crate::backend::Heard;
use crate::background::Background;
use crate::coord::{Coord, Loss};
use crate::error::Error;
use crate::kit::point::Points;
use crate::name::{Name, Shard};
use crate::op::{Effect, Job, Left, Op, Opened, Plan, Reply, Settled, Task};
use crate::primitives::{answer, odd};

/// What runs when a job ends. Known by one name on every instance that can run it.
pub trait Handler: Send + Sync + 'static {
    /// Does what is to be done, and says which effects are to be made together with the acknowledgement. It is dropped
    /// where it stands if another instance takes over. An error leaves the job to be tried again when the lease is up.
    fn finish<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Vec<Effect>, String>>;
}

/// How jobs are looked after.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a handler, or a dead owner, keeps others away; renewed at a third of it.
    pub lease: Duration,
    /// An owner looks at its own jobs so often, should a notice be lost.
    pub poll: Duration,
    /// Everybody looks at everything that is due so often.
    pub sweep: Duration,
    /// A job without a settled part for so long is given up; zero: never.
    pub watchdog: Duration,
    /// Handlers at a time.
    pub handlers: usize,
    /// Where tests kill us.
    pub points: Points,
}

/// Jobs of this instance, and the completions that fall to it.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>, #[expect(dead_code, reason = "ends the worker when dropped")] Arc<Background>);

struct Inner {
    coord: Coord,
    handlers: BTreeMap<Name, Arc<dyn Handler>>,
    options: Options,
    /// Jobs that were registered here and whose end has not been seen.
    mine: Mutex<HashMap<Name, Mine>>,
    running: Mutex<HashSet<(Name, u64)>>,
    room: Arc<Semaphore>,
    nudges: mpsc::UnboundedSender<()>,
    vanished: broadcast::Sender<Name>,
}

/// A job of ours.
#[derive(Clone, Copy)]
struct Mine {
    epoch: u64,
    /// How often its shard had been lost when it was registered.
    lost: u64,
}

/// Parts that one call carries: a larger job is registered in several, and sealed with the last.
const PARTS_A_CALL: usize = 1_000;
/// Jobs that one sweep of a shard looks after.
const MOST: usize = 64;
/// Own jobs of a shard that one poll asks about; more take turns.
const MINE: usize = 64;

/// Whatever needs a whole number beyond this loses its last digits in Lua.
const MAX_EPOCH: u64 = 1 << 53;

impl Default for Options {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            poll: Duration::from_millis(500),
            sweep: Duration::from_secs(2),
            watchdog: Duration::from_mins(30),
            handlers: 64,
            points: Points::none(),
        }
    }
}

// === impl Jobs ===

impl Jobs {
    /// Begins to look after jobs; ends when the last clone is gone.
    pub fn begin(coord: &Coord, handlers: Vec<(Name, Arc<dyn Handler>)>, options: Options) -> Self {
        let (nudges, nudged) = mpsc::unbounded_channel();
        let (vanished, _) = broadcast::channel(64);
        let inner = Arc::new(Inner {
            coord: coord.clone(),
            handlers: handlers.into_iter().collect(),
            room: Arc::new(Semaphore::new(options.handlers)),
            options,
            mine: Mutex::default(),
            running: Mutex::default(),
            nudges,
            vanished,
        });
        let worker =
            Background::spawn(look_after(Arc::downgrade(&inner), coord.hear(), coord.losses(), nudged));
        Self(inner, Arc::new(worker))
    }

    /// Registers a job, or joins it if this epoch is known. With `sealed` no more parts may be added; without parts it is
    /// complete at once.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(
        &self,
        job: &Name,
        epoch: u64,
        handler: &Name,
        payload: Bytes,
        parts: &[Name],
        sealed: bool,
    ) -> Result<Opened, Error> {
        if epoch >= MAX_EPOCH {
            return Err(Error::Invalid(format!("epoch: found {epoch}; allowed is less than {MAX_EPOCH}")));
        }
        let inner = &self.0;
        let plan = Plan {
            owner: inner.coord.instance().clone(),
            handler: handler.clone(),
            payload,
            watchdog: inner.options.watchdog,
            lease: inner.options.lease,
        };
        let (first, rest) = parts.split_at(parts.len().min(PARTS_A_CALL));
        let op = Op::Open {
            job: job.clone(),
            epoch,
            plan,
            parts: first.to_vec(),
            sealed: sealed && rest.is_empty(),
        };
        // Known as ours before it is asked: if the answer is lost, the poll still finds it.
        let lost = inner.coord.times_lost(job.shard());
        inner.mine.lock().insert(job.clone(), Mine { epoch, lost });
        inner.options.points.pass("open.asked");
        let mut opened = answer!(inner.coord, op, Reply::Opened)?;
        inner.options.points.pass("open.answered");
        if matches!(opened, Opened::Over | Opened::StaleEpoch { .. }) {
            self.forget(job, epoch);
            return Ok(opened);
        }
        let new = matches!(opened, Opened::New(_));
        for chunk in rest.chunks(PARTS_A_CALL) {
            self.add_parts(job, epoch, chunk.to_vec()).await?;
        }
        if sealed && !rest.is_empty() {
            let left = self.seal(job, epoch).await?;
            opened = if new { Opened::New(left) } else { Opened::Joined(left) };
        }
        if matches!(opened, Opened::New(Left::Sealed(0)) | Opened::Joined(Left::Sealed(0))) {
            self.nudge();
        }
        Ok(opened)
    }

    /// Adds parts to a job that is not sealed; parts that are known, settled or not, stay as they are.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn add_parts(&self, job: &Name, epoch: u64, parts: Vec<Name>) -> Result<Left, Error> {
        let mut left = Left::Unknown;
        for chunk in parts.chunks(PARTS_A_CALL) {
            let op = Op::AddParts { job: job.clone(), epoch, parts: chunk.to_vec() };
            left = answer!(self.0.coord, op, Reply::Left)?;
        }
        Ok(left)
    }

    /// No more parts will come; with none left the job is complete.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn seal(&self, job: &Name, epoch: u64) -> Result<Left, Error> {
        let left = answer!(self.0.coord, Op::Seal { job: job.clone(), epoch }, Reply::Left)?;
        if left == Left::Sealed(0) {
            self.nudge();
        }
        Ok(left)
    }

    /// A part is done. May be said any number of times, by anybody.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn settle(&self, job: &Name, epoch: u64, part: &Name) -> Result<Settled, Error> {
        self.0.options.points.pass("settle.asked");
        let op = Op::Settle { job: job.clone(), epoch, part: part.clone() };
        let settled = answer!(self.0.coord, op, Reply::Settled)?;
        self.0.options.points.pass("settle.answered");
        if settled == Settled::Last {
            self.0.options.points.pass("settle.last");
            self.nudge();
        }
        Ok(settled)
    }

    /// Forgets a job: nobody will be told of its end.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cancel(&self, job: &Name, epoch: u64) -> Result<bool, Error> {
        let gone = answer!(self.0.coord, Op::Cancel { job: job.clone(), epoch }, Reply::Found)?;
        self.forget(job, epoch);
        Ok(gone)
    }

    /// Everything about a job.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn look(&self, job: &Name) -> Result<Option<Job>, Error> {
        answer!(self.0.coord, Op::LookAtJob { job: job.clone() }, Reply::Job)
    }

    /// Jobs whose state was gone when somebody here looked: build them again from what is durable.
    pub fn vanished(&self) -> broadcast::Receiver<Name> {
        self.0.vanished.subscribe()
    }

    /// Jobs that were registered here and whose end has not been seen.
    pub fn mine(&self) -> usize {
        self.0.mine.lock().len()
    }

    fn nudge(&self) {
        let _ended = self.0.nudges.send(());
    }

    fn forget(&self, job: &Name, epoch: u64) {
        self.0.forget(job, epoch);
    }
}

// === The worker ===

async fn look_after(
    jobs: std::sync::Weak<Inner>,
    mut notices: broadcast::Receiver<Heard>,
    mut losses: broadcast::Receiver<Loss>,
    mut nudged: mpsc::UnboundedReceiver<()>,
) {
    let (mut next_poll, mut next_sweep) = (Instant::now(), Instant::now());
    let mut turn = 0;
    loop {
        let Some(inner) = jobs.upgrade() else { return };
        let (poll, sweep) = (inner.options.poll, inner.options.sweep);
        let jitter = |time| inner.coord.chance().jitter(time);
        let now = Instant::now();
        if now >= next_sweep {
            next_sweep = now + jitter(sweep);
            next_poll = now + poll;
            for shard in Shard::all() {
                inner.sweep(shard, turn).await;
            }
        } else if now >= next_poll {
            next_poll = now + poll;
            turn += 1;
            inner.sweep_mine(turn).await;
        }
        drop(inner);
        let shards = tokio::select! {
            // In this order, so that a simulation goes the same way twice.
            biased;
            () = sleep_until(next_poll.min(next_sweep)) => Vec::new(),
            // Whoever asked first was told, and that need not have been a sweep.
            _ = losses.recv() => Vec::new(),
            nudge = nudged.recv() => {
                if nudge.is_none() {
                    return;
                }
                while nudged.try_recv().is_ok() {}
                next_poll = Instant::now();
                Vec::new()
            }
            notice = notices.recv() => match notice {
                Ok(Heard::Notice(shard, text)) => concerned(&jobs, shard, &text),
                Ok(Heard::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    next_poll = Instant::now();
                    Vec::new()
                }
                Err(broadcast::error::RecvError::Closed) => {
                    sleep(poll).await;
                    Vec::new()
                }
            },
        };
        if let Some(inner) = jobs.upgrade() {
            inner.mourn();
            for shard in shards {
                inner.sweep(shard, turn).await;
            }
        }
    }
}

/// Whether a notice is of a job of ours.
fn concerned(jobs: &std::sync::Weak<Inner>, shard: Shard, text: &[u8]) -> Vec<Shard> {
    let text = String::from_utf8_lossy(text);
    let mut words = text.split(' ');
    let (kind, job) = (words.next(), words.next().unwrap_or_default());
    let Some(inner) = jobs.upgrade().filter(|_| kind == Some("ended")) else { return Vec::new() };
    let ours = Name::new(job).is_ok_and(|job| inner.mine.lock().contains_key(&job));
    if ours { vec![shard] } else { Vec::new() }
}

impl Inner {
    fn forget(&self, job: &Name, epoch: u64) {
        let mut mine = self.mine.lock();
        if mine.get(job).is_some_and(|mine| mine.epoch == epoch) {
            mine.remove(job);
        }
    }

    /// Shards in which something of ours is open.
    async fn sweep_mine(self: &Arc<Self>, turn: usize) {
        let mut shards: Vec<Shard> = self.mine.lock().keys().map(Name::shard).collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            self.sweep(shard, turn).await;
        }
    }

    async fn sweep(self: &Arc<Self>, shard: Shard, turn: usize) {
        let mut mine: Vec<Name> = {
            let mine = self.mine.lock();
            mine.keys().filter(|name| name.shard() == shard).cloned().collect()
        };
        if mine.len() > MINE {
            mine.sort_unstable();
            let at = turn * MINE % mine.len();
            mine.rotate_left(at);
            mine.truncate(MINE);
        }
        let most = MOST.min(self.room.available_permits());
        if most == 0 {
            return;
        }
        let op = Op::Sweep {
            shard,
            instance: self.coord.instance().clone(),
            can: self.handlers.keys().cloned().collect(),
            mine,
            lease: self.options.lease,
            most,
        };
        // Whatever a lost answer took is free again when its lease is up.
        let swept = match self.coord.ask_within(&op, self.options.lease / 2).await {
            Ok(Reply::Swept(swept)) => swept,
            Ok(other) => {
                tracing::error!(error = %odd(&op, &other), "a sweep failed");
                return;
            }
            // Of a loss the worker hears like everybody else.
            Err(error) => {
                tracing::debug!(%error, "a sweep had no answer");
                return;
            }
        };
        for (name, epoch) in swept.over {
            let mut mine = self.mine.lock();
            if mine.get(&name).is_some_and(|mine| mine.epoch <= epoch) {
                mine.remove(&name);
            }
        }
        for name in swept.vanished {
            self.mine.lock().remove(&name);
            let _unheard = self.vanished.send(name);
        }
        for task in swept.tasks {
            self.options.points.pass("task.taken");
            self.run(task);
        }
    }

    /// Jobs of a shard that was lost since they were registered may be gone: whoever registered them should know.
    fn mourn(&self) {
        let mut mine = self.mine.lock();
        let gone = mine.extract_if(|name, mine| mine.lost != self.coord.times_lost(name.shard()));
        let gone: Vec<Name> = gone.map(|(name, _)| name).collect();
        drop(mine);
        for name in gone {
            let _unheard = self.vanished.send(name);
        }
    }

    fn run(self: &Arc<Self>, task: Task) {
        if !self.running.lock().insert((task.job.clone(), task.fence)) {
            return;
        }
        let inner = self.clone();
        tokio::spawn(async move {
            let _room = inner.room.clone().acquire_owned().await;
            let ended = inner.finish(&task).await;
            inner.running.lock().remove(&(task.job.clone(), task.fence));
            match ended {
                Ok(()) | Err(Error::Fenced { .. } | Error::NotFound) => inner.forget(&task.job, task.epoch),
                Err(error) => {
                    tracing::warn!(job = %task.job, epoch = task.epoch, attempt = task.attempt, %error, "a completion is not done; it is tried again when its lease is up");
                }
            }
        });
    }

    /// Runs the handler while the lease is kept, then acknowledges.
    async fn finish(&self, task: &Task) -> Result<(), Error> {
        let Some(handler) = self.handlers.get(&task.handler) else { return Ok(()) };
        let effects = tokio::select! {
            biased;
            done = handler.finish(task) => done.map_err(Error::Invalid)?,
            lost = self.keep(task) => return Err(lost),
        };
        self.options.points.pass("handler.done");
        let (job, epoch, fence) = (task.job.clone(), task.epoch, task.fence);
        self.coord.ask_within(&Op::Ack { job, epoch, fence, effects }, self.options.lease).await?;
        self.options.points.pass("ack.answered");
        Ok(())
    }

    /// Goes on until the task is somebody else's.
    async fn keep(&self, task: &Task) -> Error {
        let lease = self.options.lease;
        let op = Op::Keep { job: task.job.clone(), epoch: task.epoch, fence: task.fence, lease };
        loop {
            sleep(lease / 3).await;
            match self.coord.ask_within(&op, lease / 3).await {
                Ok(_) => {}
                Err(error @ (Error::Fenced { .. } | Error::NotFound | Error::StateLost { .. })) => {
                    return error;
                }
                // Without an answer we go on: the acknowledgement is fenced.
                Err(error) => tracing::debug!(job = %task.job, %error, "a lease could not be renewed"),
            }
        }
    }
}
