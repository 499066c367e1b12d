//! Who waits when no engine has room: a request goes straight through while nobody waits, and else stands in line, in the
//! same lines as everything that is durable.

mod gate;
mod ground;
mod metrics;
mod told;
mod warming;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use queue::entry::{Cost, Order, Terms};
use queue::limits::Limits;
use queue::log::Sync;
use queue::name::{Class, EntryId, Millis, QueueName, Seq};
use queue::room::{Gone, Options, Room, Runner, Standing, Turn, Waiting};
use queue::scheduler::{self, Tenancy};

use self::gate::Gate;
use crate::admin::api::WarmingStatus;
use crate::clock::Clock;
use crate::error::ApiError;
use crate::fleet::shared::Cut;
use crate::fleet::{Ask, EngineId, Fleet, Ticket};
use crate::replicas::Replicas;
use crate::settings::{self, Durability, Priority};
use crate::tokens::Way;

pub use gate::{Pass, Spot};
use ground::Engines;
pub use ground::Hint;
pub use told::Told;
use warming::Warming;

/// The lines of this replica; cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Inner>);

struct Inner {
    room: Room<Spot>,
    fleet: Fleet,
    settings: settings::Queue,
    standing: Arc<Mutex<Crowd>>,
    gate: Arc<Gate>,
    told: told::Counts,
    /// Warms what waits, where engines share a store.
    warming: Option<Arc<Warming>>,
    /// What each log takes on disk, as it was a moment ago: whoever asks must not wait for a disk.
    disk_bytes: Mutex<BTreeMap<u32, u64>>,
}

/// Those who stand in line with their connection.
#[derive(Default)]
struct Crowd {
    /// What each wants, for whoever places it.
    asks: BTreeMap<Seq, Arc<Pending>>,
    /// Those who left and whether they had their turn, where somebody wants to know.
    left: Vec<(Seq, bool, Arc<Pending>)>,
    /// How many of each tenant.
    of: HashMap<Arc<str>, usize>,
    /// How many of all.
    all: usize,
}

/// What a request in line wants.
struct Pending {
    id: String,
    model: String,
    tokens: Vec<u32>,
    bytes: Bytes,
    way: Way,
    cache_salt: Option<String>,
    streams: bool,
    pinned: Option<String>,
    answer: u32,
    tried: Vec<EngineId>,
    tenant: Arc<str>,
    class: Class,
    /// Its blocks, once somebody has looked at them.
    cuts: OnceLock<Vec<Cut>>,
}

/// What something durable asks, as far as it can be known before its turn.
#[derive(Debug)]
pub struct Asked {
    /// The model, as the client wrote it.
    pub model: String,
    /// Its prompt.
    pub tokens: Arc<[u32]>,
    /// How that became tokens.
    pub way: Way,
    /// What keeps its blocks apart from others with the same tokens.
    pub cache_salt: Option<String>,
}

/// Who asks for a place, and how urgent it is.
#[derive(Clone, Debug)]
pub struct Who {
    /// The tenant; one name for all where there are none.
    pub tenant: Arc<str>,
    /// Its line.
    pub class: Class,
}

/// A place on an engine, and the turn that led to it.
pub struct Entered {
    /// The place.
    pub ticket: Ticket,
    /// Ends with the request: then the next may come.
    pub turn: Option<Turn<Spot>>,
    /// How long it stood in line.
    pub waited: Duration,
}

/// The tenant of those who have none.
pub const EVERYBODY: &str = "everybody";
/// Places that became free without a word (an engine that is well again) are looked for so often.
const LOOK: Duration = Duration::from_millis(100);
/// Of so many looks one is at what the logs take on disk.
const DISK: u64 = 20;
/// Blocks of KV cache are counted in this many tokens, whatever the engine's are.
const TOKENS_A_BLOCK: u32 = 16;

/// The clock of the queues is that of the world: what waits may wait longer than a process lives.
struct WallClock(Clock);

impl queue::room::Clock for WallClock {
    fn now(&self) -> Millis {
        Millis(self.0.unix().as_millis() as u64)
    }
}

impl Lines {
    /// The lines to this fleet. `runner` runs what is durable.
    ///
    /// # Errors
    /// A tenant's limit that cannot be shared, in words.
    pub fn new(fleet: Fleet, replicas: &Replicas, runner: Arc<dyn Runner<Spot>>) -> Result<Self, String> {
        let all = fleet.settings();
        let settings = all.queue.clone();
        let standing: Arc<Mutex<Crowd>> = Arc::default();
        let options = Options {
            scheduler: scheduler::Options {
                overtake: settings.overtake,
                reach: settings.reach,
                share: settings.shares,
                patience: settings.patience_tokens,
                class_running: [None, None, Some(settings.jobs_in_flight), Some(settings.jobs_in_flight)],
                ..scheduler::Options::default()
            },
            durability: match settings.durability {
                Durability::Fsync => Sync::Disk,
                Durability::Write => Sync::Write,
            },
            ..Options::default()
        };
        let clock = Arc::new(WallClock(fleet.clock()));
        let gate = Arc::new(Gate::new(&fleet, replicas)?);
        let warming = Warming::new(&fleet, replicas)?;
        let engines = Engines::new(fleet.clone(), standing.clone(), gate.clone());
        let room = Room::new(options, clock, Box::new(engines), runner);
        for tenant in &all.tenants {
            room.tenancy(&tenant.name, Tenancy { weight: tenant.weight, limits: Limits::default() });
        }
        let lines = Self(Arc::new(Inner {
            room,
            fleet: fleet.clone(),
            settings,
            standing,
            gate,
            told: told::Counts::default(),
            warming,
            disk_bytes: Mutex::default(),
        }));
        let told = Arc::downgrade(&lines.0);
        fleet.tell_freed(move || {
            if let Some(lines) = told.upgrade() {
                lines.room.stir(None);
            }
        });
        Ok(lines)
    }

    /// A tenant has used up what it may use in a minute: nothing durable of it runs for so long.
    pub fn shut(&self, tenant: &str, pause: Duration) {
        self.0.gate.shut(tenant, pause);
    }

    /// Everything that waits.
    pub fn room(&self) -> &Room<Spot> {
        &self.0.room
    }

    /// Looks again now and then, for as long as the process lives.
    pub async fn look(self) {
        let mut last = 0;
        let mut measuring = tokio::task::spawn_blocking(|| ());
        for turn in 0_u64.. {
            if turn.is_multiple_of(DISK) && measuring.is_finished() {
                let lines = self.clone();
                measuring = tokio::task::spawn_blocking(move || {
                    let sizes = lines.0.room.disk_bytes();
                    *lines.0.disk_bytes.lock() = sizes;
                });
            }
            tokio::time::sleep(LOOK).await;
            self.0.room.stir(None);
            last = self.0.told.pace(last, LOOK);
        }
    }

    /// Warms what waits, where engines share a store, for as long as the process lives.
    pub async fn warm(self) {
        if let Some(warming) = &self.0.warming {
            warming.run(&self.0.standing, &self.0.room, || self.0.told.rate()).await;
        }
    }

    /// What is durable is warmed as well: this says what an entry asks, from its payload. Called where it may block.
    pub fn warm_jobs(&self, reader: impl Fn(&[u8]) -> Option<Asked> + Send + std::marker::Sync + 'static) {
        if let Some(warming) = &self.0.warming {
            warming.reads_jobs(Arc::new(reader));
        }
    }

    /// Something durable may run.
    pub fn started(&self, id: EntryId) {
        if let Some(warming) = &self.0.warming {
            warming.started(id);
        }
    }

    /// How what waits is warmed, if it is.
    pub fn warming(&self) -> Option<WarmingStatus> {
        self.0.warming.as_ref().map(|warming| warming.told())
    }

    /// What a log takes on disk, as it was a moment ago.
    pub fn disk_bytes(&self, partition: u32) -> u64 {
        self.0.disk_bytes.lock().get(&partition).copied().unwrap_or_default()
    }

    /// A place for this request: at once if nobody waits, else in its turn.
    ///
    /// # Errors
    /// [`ApiError::Busy`] or [`ApiError::Unavailable`] when the line is too long or too slow, and what [`Fleet::place`] says.
    pub async fn enter(&self, ask: &Ask<'_>, body: &Bytes, who: &Who) -> Result<Entered, ApiError> {
        let inner = &*self.0;
        let mut no_room = None;
        if !inner.room.has_line() {
            match inner.fleet.place(ask) {
                Ok(ticket) => return Ok(Entered { ticket, turn: None, waited: Duration::ZERO }),
                Err(ApiError::Busy { message, .. }) => no_room = Some(message),
                Err(error) => return Err(error),
            }
        } else if let Err(error) = inner.fleet.warmth(ask)
            && !matches!(error, ApiError::Busy { .. })
        {
            return Err(error);
        }
        let since = inner.fleet.clock().now();
        let counted = self.join(who)?;
        let mut standing = self.stand(ask, body, who);
        let turn = standing.await_turn().await;
        standing.turned = turn.is_ok();
        let waited = inner.fleet.clock().now().saturating_sub(since);
        inner.told.waited(waited, turn.is_ok());
        match turn {
            Ok(mut turn) => match turn.place.take() {
                Some(Spot { ticket, .. }) => {
                    inner.fleet.journal().amend(ask.id, |entry| {
                        *entry.waited_ms.get_or_insert_default() += waited.as_secs_f64() * 1e3;
                        entry.waited_for = Some(no_room.unwrap_or_else(|| counted.why()));
                    });
                    Ok(Entered { ticket, turn: Some(turn), waited })
                }
                None => Err(ApiError::Internal("a turn came without a place".to_owned())),
            },
            Err(Gone::Expired) => Err(ApiError::Unavailable {
                message: format!(
                    "No engine had room for this request within {}; the line is too slow.",
                    seconds(inner.settings.max_wait.get())
                ),
                retry_after: self.retry_after(),
            }),
            Err(Gone::Closing) => Err(ApiError::Unavailable {
                message: "This replica is going away.".to_owned(),
                retry_after: 1,
            }),
        }
    }

    /// Counts one more of a tenant who stands in line, or says that there are too many.
    fn join(&self, who: &Who) -> Result<Counted, ApiError> {
        let crowd = self.0.standing.clone();
        let joined = crowd.lock().join(who, &self.0.settings);
        let full = match joined {
            Ok(before) => return Ok(Counted { standing: crowd, tenant: who.tenant.clone(), before }),
            Err(full) => full,
        };
        self.0.told.refused();
        // Asked when the crowd is let go: whoever places one of it holds the room, and asks for the crowd.
        let retry_after = self.retry_after();
        Err(match full {
            Full::All(most) => ApiError::Unavailable {
                message: format!("{most} requests stand in line already."),
                retry_after,
            },
            Full::Tenant(most) => ApiError::Busy {
                message: format!(
                    "{most} requests of this tenant stand in line already; it may have no more there."
                ),
                retry_after,
            },
        })
    }

    fn stand(&self, ask: &Ask<'_>, body: &Bytes, who: &Who) -> InLine {
        let inner = &*self.0;
        let target = inner.fleet.target(ask.model);
        let prompt = if ask.way == Way::Bytes { ask.bytes.len() / 4 } else { ask.tokens.len() };
        let tokens = (prompt as u32).saturating_add(ask.answer);
        let pending = Arc::new(Pending::of(ask, body, who));
        let deadline = inner.fleet.clock().unix() + inner.settings.max_wait.get();
        let waiting = Waiting {
            queue: QueueName { tenant: (&*who.tenant).into(), key: "requests".into() },
            terms: Terms { target: target.into(), weight: 1, order: Order::Warm, limits: Limits::default() },
            class: who.class,
            cost: Cost { tokens, blocks: tokens.div_ceil(TOKENS_A_BLOCK) },
            deadline: Some(Millis(deadline.as_millis() as u64)),
            hint: None,
        };
        let mut id = None;
        let standing = inner.room.stand(waiting, |given| {
            inner.standing.lock().asks.insert(given.seq, pending);
            id = Some(given.seq);
        });
        let warming = inner.warming.clone();
        if let Some(warming) = &warming {
            warming.stir();
        }
        InLine { standing: Some(standing), crowd: inner.standing.clone(), id, turned: false, warming }
    }

    /// After how many seconds it makes sense to come again: what stands in line at the pace of late.
    fn retry_after(&self) -> u32 {
        self.0.told.seconds_for(self.0.room.depth().volatile)
    }

    /// Counts.
    pub fn told(&self) -> Told {
        self.0.told.told(self.0.room.depth())
    }

    /// Counts, as Prometheus reads them.
    pub fn metrics(&self, out: &mut String) {
        let disk_bytes = self.0.disk_bytes.lock().values().sum();
        metrics::text(out, &self.told(), &self.0.room.totals(), disk_bytes);
        if let Some(told) = self.warming() {
            warming::text(out, &told);
        }
    }
}

/// Which line is too long, and how long it may be.
enum Full {
    /// That of everybody.
    All(usize),
    /// That of the tenant.
    Tenant(usize),
}

impl Crowd {
    /// Whether nobody is there, nor has left unseen.
    fn is_empty(&self) -> bool {
        self.asks.is_empty() && self.left.is_empty()
    }

    /// How many stood there before, of all and of its tenant.
    fn join(&mut self, who: &Who, settings: &settings::Queue) -> Result<(usize, usize), Full> {
        if self.all >= settings.max_standing {
            return Err(Full::All(settings.max_standing));
        }
        let of = self.of.entry(who.tenant.clone()).or_default();
        if *of >= settings.max_line {
            return Err(Full::Tenant(settings.max_line));
        }
        let before = (self.all, *of);
        *of += 1;
        self.all += 1;
        Ok(before)
    }
}

/// One who is counted in its tenant's line.
struct Counted {
    standing: Arc<Mutex<Crowd>>,
    tenant: Arc<str>,
    before: (usize, usize),
}

impl Counted {
    /// Why it had to stand in line, if not for want of room.
    fn why(&self) -> String {
        match self.before {
            (0, _) => "Durable work stood in line before it.".to_owned(),
            (all, of) => format!("{all} request(s) stood in line before it, {of} of them of its tenant."),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut crowd = self.standing.lock();
        crowd.all -= 1;
        if let Some(of) = crowd.of.get_mut(&self.tenant) {
            *of -= 1;
            if *of == 0 {
                crowd.of.remove(&self.tenant);
            }
        }
    }
}

/// One who stands in line; whoever is dropped leaves it.
struct InLine {
    standing: Option<Standing<Spot>>,
    crowd: Arc<Mutex<Crowd>>,
    id: Option<Seq>,
    /// Whether it had its turn.
    turned: bool,
    warming: Option<Arc<Warming>>,
}

impl InLine {
    async fn await_turn(&mut self) -> Result<Turn<Spot>, Gone> {
        match &mut self.standing {
            Some(standing) => standing.await,
            None => Err(Gone::Closing),
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        // First the line, which may be asking what it wants at this moment.
        self.standing = None;
        let Some(id) = self.id else { return };
        let mut crowd = self.crowd.lock();
        let pending = crowd.asks.remove(&id);
        let Some(warming) = &self.warming else { return };
        if let Some(pending) = pending.filter(|_| crowd.left.len() < warming::MAX_LEFT) {
            crowd.left.push((id, self.turned, pending));
        }
        drop(crowd);
        warming.stir();
    }
}

impl Pending {
    fn of(ask: &Ask<'_>, body: &Bytes, who: &Who) -> Self {
        Self {
            id: ask.id.to_owned(),
            model: ask.model.to_owned(),
            tokens: ask.tokens.to_vec(),
            bytes: if ask.way == Way::Bytes { slice_of(body, ask.bytes) } else { Bytes::new() },
            way: ask.way,
            cache_salt: ask.cache_salt.map(str::to_owned),
            streams: ask.streams,
            pinned: ask.pinned.map(str::to_owned),
            answer: ask.answer,
            tried: ask.tried.clone(),
            tenant: who.tenant.clone(),
            class: who.class,
            cuts: OnceLock::new(),
        }
    }

    /// Of something durable, for whoever looks at its prompt: where it may run is decided without.
    fn of_job(asked: Asked) -> Self {
        Self {
            id: String::new(),
            model: asked.model,
            tokens: asked.tokens.to_vec(),
            bytes: Bytes::new(),
            way: asked.way,
            cache_salt: asked.cache_salt,
            streams: false,
            pinned: None,
            answer: 0,
            tried: Vec::new(),
            tenant: EVERYBODY.into(),
            class: Class::LAST,
            cuts: OnceLock::new(),
        }
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            id: &self.id,
            model: &self.model,
            tokens: &self.tokens,
            bytes: &self.bytes,
            way: self.way,
            cache_salt: self.cache_salt.as_deref(),
            streams: self.streams,
            pinned: self.pinned.as_deref(),
            answer: self.answer,
            hashes: None,
            tried: self.tried.clone(),
        }
    }
}

/// A part of a body without copying it, if it is one.
fn slice_of(body: &Bytes, part: &[u8]) -> Bytes {
    let (start, end) = (body.as_ptr() as usize, body.as_ptr() as usize + body.len());
    let at = part.as_ptr() as usize;
    if at >= start && at + part.len() <= end { body.slice_ref(part) } else { Bytes::copy_from_slice(part) }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

impl Priority {
    /// Its class in the queues.
    pub const fn class(self) -> Class {
        match Class::new(self as u8) {
            Some(class) => class,
            None => Class::LAST,
        }
    }
}
