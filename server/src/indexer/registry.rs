//! Who is followed: instances by partition, each rank a stream of its own, and an index a partition.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blocks::{BlockSize, Event, View, Worker};
use events::follow::{Follower, Looker, Mark, Settings, Source, Status};
use events::sink::Sink;
use index::{Copy, Index};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::dump;
use super::keep::Keep;
use super::question::MAX_NAME;
use crate::clock::Clock;
use crate::endpoint;
use crate::sink::IndexSink;

/// Whose prefixes may be compared: engines of one model, in one group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Partition {
    pub(super) model: String,
    pub(super) group: String,
}

/// One stream to follow, as it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The engine.
    pub instance_id: u64,
    /// Its data-parallel rank.
    #[serde(default, deserialize_with = "or_none")]
    pub dp_rank: u32,
    /// What it serves.
    pub model_name: String,
    /// Instances of other groups are never compared with it.
    #[serde(default = "default_group")]
    pub routing_group: String,
    /// Tokens in one of its blocks.
    pub block_size: u32,
    /// Where its events are.
    pub endpoint: String,
    /// Where they are told again.
    #[serde(default)]
    pub replay_endpoint: Option<String>,
}

/// Why something was not registered or not found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// It is not there.
    #[error("{0}")]
    Missing(String),
    /// There is no room for more.
    #[error("{0} streams are registered, and no more are taken: unregister some")]
    Full(usize),
    /// It could not be written down.
    #[error("the registry could not be written: {0}")]
    Disk(String),
}

/// Whence a stream comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whence {
    Client,
    Peer,
    Start,
}

/// A view that was built elsewhere, or before.
pub(super) struct Inherited {
    pub(super) registration: Registration,
    /// Where it stands; `None`: it can be shown, and nobody can go on from it.
    pub(super) mark: Option<Mark>,
    pub(super) events: Vec<Event>,
}

/// Everything that is followed.
pub(super) struct Registry {
    state: RwLock<State>,
    /// Held while something changes and is written down; readers never wait for it.
    changing: tokio::sync::Mutex<()>,
    keep: Option<Keep>,
    followers: Handle,
    clock: Clock,
}

#[derive(Default)]
struct State {
    parts: HashMap<Partition, Arc<Part>>,
    streams: BTreeMap<Worker, Stream>,
    /// What a peer knows of streams that it could not say the place of: it waits for their registration.
    waiting: HashMap<Worker, Inherited>,
    /// Peers that were registered, and those that were named for this run only.
    peers: Vec<String>,
    named: Vec<String>,
}

/// One partition's index.
pub(super) struct Part {
    pub(super) block_size: BlockSize,
    pub(super) index: Arc<Index>,
    sink: Arc<IndexSink>,
    /// Streams whose blocks have another size than was registered.
    sizes: Arc<Mutex<HashMap<Worker, u32>>>,
}

struct Stream {
    registration: Registration,
    part: Arc<Part>,
    follower: Arc<Follower>,
    /// It came from a peer: whoever registers it for the first time here is not told that it is there already.
    inherited: bool,
    /// Set once its view was something else than being built for the first time.
    settled: AtomicBool,
    since: Duration,
}

/// How one stream is doing.
pub(super) struct Standing {
    pub(super) registration: Registration,
    pub(super) status: Status,
    pub(super) blocks: usize,
    /// The size that its events say, if that is not what was registered.
    pub(super) other_size: Option<u32>,
}

/// A view and what is needed to go on from it.
pub(super) struct Copied {
    pub(super) registration: Registration,
    pub(super) mark: Option<Mark>,
    pub(super) events: Vec<Event>,
}

/// How long a stream that cannot be reached counts as being built.
const GRACE: Duration = Duration::from_secs(10);
/// How long one view may take to be copied: an engine that floods its follower keeps it busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Streams: each is two sockets and a task.
const MAX_STREAMS: usize = 4_096;
/// Peers that are remembered.
const MAX_PEERS: usize = 64;

/// A number, or the usual one where there is none.
fn or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    Ok(Option::<u32>::deserialize(from)?.unwrap_or_default())
}

/// The group of those who name none.
pub(super) fn default_group() -> String {
    "default".to_owned()
}

impl Registry {
    /// Nobody yet, or those of the last run if something is kept. Followers run on `followers`.
    pub(super) fn new(keep: Option<Keep>, followers: Handle) -> Self {
        let clock = Clock::start();
        Self { state: RwLock::default(), changing: tokio::sync::Mutex::default(), keep, followers, clock }
    }

    /// Follows one more stream.
    pub(super) async fn register(&self, registration: Registration) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        let known = self.state.write().waiting.remove(&registration.worker());
        let known = known.filter(|known| known.registration.says_as(&registration));
        let events = known.map_or_else(Vec::new, |known| known.events);
        self.admit(Inherited { registration, mark: None, events }, Whence::Client).await
    }

    /// Begins with all that is known: who is kept and what was known of them, what a peer knows, and who is to be followed from
    /// the start. Of two views of one stream the peer's is newer; one that can be gone on from is better than one that cannot.
    pub(super) async fn begin(
        &self,
        kept: Vec<Registration>,
        before: Vec<Inherited>,
        peer: Vec<Inherited>,
        wanted: Vec<Registration>,
    ) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        let mut views: HashMap<Worker, Inherited> = HashMap::new();
        for view in before.into_iter().chain(peer) {
            let worker = view.registration.worker();
            if view.mark.is_some() || views.get(&worker).is_none_or(|other| other.mark.is_none()) {
                views.insert(worker, view);
            }
        }
        // Whoever is named at the start is meant as named, wherever it was before.
        let ours = |worker: Worker| wanted.iter().any(|wanted| wanted.worker() == worker);
        let kept: Vec<_> = kept.into_iter().filter(|kept| !ours(kept.worker())).collect();
        let (mut all, mut whole) = (0, 0);
        for registration in kept.into_iter().chain(wanted.iter().cloned()) {
            let worker = registration.worker();
            // The place may be another one: whether it is the same life is proved.
            let same = |view: &Inherited| view.registration.says_as(&registration);
            let view = views.remove(&worker).filter(same);
            let (mark, events) = view.map_or_else(Default::default, |view| (view.mark, view.events));
            (all, whole) = (all + 1, whole + usize::from(mark.is_some()));
            if let Err(why) = self.admit(Inherited { registration, mark, events }, Whence::Start).await {
                if ours(worker) {
                    return Err(why);
                }
                tracing::warn!(instance = worker.instance, rank = worker.rank, %why, "what was registered is no longer");
            }
        }
        for view in views.into_values() {
            let worker = view.registration.worker();
            if view.registration.endpoint.is_empty() {
                self.state.write().waiting.insert(worker, view);
                continue;
            }
            (all, whole) = (all + 1, whole + usize::from(view.mark.is_some()));
            if let Err(why) = self.admit(view, Whence::Peer).await {
                tracing::warn!(instance = worker.instance, rank = worker.rank, %why, "a view is not taken over");
            }
        }
        if all > 0 {
            tracing::info!(streams = all, gone_on_from = whole, "began with what is known");
        }
        self.write(|_| {}).await
    }

    /// What was known at the last end has been taken up.
    pub(super) fn forget_views(&self) {
        if let Some(keep) = &self.keep {
            keep.forget_views();
        }
    }

    /// Keeps what is known, if there is a place for it.
    pub(super) async fn keep_views(&self) -> Result<(), String> {
        let Some(keep) = &self.keep else { return Ok(()) };
        keep.write_views(&dump::own(&self.copies().await))
    }

    /// Only while `changing` is held.
    async fn admit(&self, new: Inherited, from: Whence) -> Result<(), Refusal> {
        let block_size = new.registration.check().map_err(Refusal::Wrong)?;
        let worker = new.registration.worker();
        if self.adopt(&new.registration, from)? {
            return Ok(());
        }
        let part = self.part(&new.registration.partition(), block_size)?;
        // Those of the start are written together: one by one, what is kept would be cut short by an end in between.
        if from == Whence::Client
            && let Err(refusal) = self.write(|all| all.push(new.registration.clone())).await
        {
            self.sweep();
            return Err(refusal);
        }
        if !new.events.is_empty() {
            part.sink.replace(worker, &new.events);
        }
        let follower = {
            let _runtime = self.followers.enter();
            let seed = worker.instance.rotate_left(32) ^ u64::from(worker.rank) ^ 1;
            let settings = Settings { seed, ..Settings::default() };
            let source = new.registration.source();
            Arc::new(Follower::resume(source, part.sink.clone(), settings, new.mark.as_ref()))
        };
        let (settled, since) = (AtomicBool::new(false), self.clock.now());
        let inherited = from == Whence::Peer;
        let stream = Stream { registration: new.registration, part, follower, inherited, settled, since };
        self.state.write().streams.insert(worker, stream);
        Ok(())
    }

    /// Whether a registration is there already and belongs, from now on, to whoever asks for it.
    fn adopt(&self, new: &Registration, from: Whence) -> Result<bool, Refusal> {
        let worker = new.worker();
        let mut state = self.state.write();
        let ours = state.streams.range(Worker { rank: 0, ..worker }..=Worker { rank: u32::MAX, ..worker });
        for (_, stream) in ours {
            let other = &stream.registration;
            if other.partition() != new.partition() {
                return Err(Refusal::Conflict(format!(
                    "instance {} is registered already for model `{}` in group `{}`",
                    worker.instance, other.model_name, other.routing_group
                )));
            }
        }
        let full = state.streams.len() >= MAX_STREAMS;
        match state.streams.get_mut(&worker) {
            Some(stream) if stream.inherited && from == Whence::Client && stream.registration == *new => {
                stream.inherited = false;
                Ok(true)
            }
            Some(_) => Err(Refusal::Conflict(format!(
                "instance {} rank {} is registered already",
                worker.instance, worker.rank
            ))),
            None if full => Err(Refusal::Full(MAX_STREAMS)),
            None => Ok(false),
        }
    }

    fn part(&self, partition: &Partition, block_size: BlockSize) -> Result<Arc<Part>, Refusal> {
        let mut state = self.state.write();
        let part = match state.parts.entry(partition.clone()) {
            Entry::Occupied(part) => part.get().clone(),
            Entry::Vacant(place) => place.insert(Arc::new(Part::new(block_size))).clone(),
        };
        if part.block_size != block_size {
            return Err(Refusal::Conflict(format!(
                "block_size: found {block_size}; the others of model `{}` in group `{}` have {}",
                partition.model, partition.group, part.block_size
            )));
        }
        Ok(part)
    }

    /// Stops following an instance, or one rank of it; what was known of it is dropped.
    pub(super) async fn unregister(
        &self,
        instance: u64,
        model: &str,
        group: Option<&str>,
        rank: Option<u32>,
    ) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        let meant = |registration: &Registration| {
            registration.instance_id == instance
                && registration.model_name == model
                && group.is_none_or(|group| registration.routing_group == group)
                && rank.is_none_or(|rank| registration.dp_rank == rank)
        };
        if !self.state.read().streams.values().any(|stream| meant(&stream.registration)) {
            let rank = rank.map_or_else(String::new, |rank| format!(" rank {rank}"));
            let group = group.map_or_else(String::new, |group| format!(" in group `{group}`"));
            return Err(Refusal::Missing(format!(
                "instance {instance}{rank} is not registered for model `{model}`{group}"
            )));
        }
        self.write(|all| all.retain(|registration| !meant(registration))).await?;
        let gone: Vec<Stream> = {
            let mut state = self.state.write();
            let gone = state.streams.extract_if(.., |_, stream| meant(&stream.registration));
            gone.map(|(_, stream)| stream).collect()
        };
        for stream in gone {
            let worker = stream.registration.worker();
            stream.follower.stop().await;
            stream.part.index.forget(worker);
            stream.part.sizes.lock().remove(&worker);
        }
        self.sweep();
        Ok(())
    }

    /// Drops partitions that nobody is in.
    fn sweep(&self) {
        let mut state = self.state.write();
        let State { parts, streams, .. } = &mut *state;
        parts.retain(|_, part| streams.values().any(|stream| Arc::ptr_eq(&stream.part, part)));
    }

    /// The partition that a question is about.
    pub(super) fn find(&self, partition: &Partition) -> Option<Arc<Part>> {
        self.state.read().parts.get(partition).cloned()
    }

    /// All partitions.
    pub(super) fn parts(&self) -> Vec<Arc<Part>> {
        self.state.read().parts.values().cloned().collect()
    }

    /// How every stream is doing, by instance and rank.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let state = self.state.read();
        let mut blocks = HashMap::new();
        for part in state.parts.values() {
            blocks.extend(part.index.workers().into_iter().map(|(worker, _, blocks)| (worker, blocks)));
        }
        let one = |(worker, stream): (&Worker, &Stream)| Standing {
            registration: stream.registration.clone(),
            status: stream.follower.status(),
            blocks: blocks.get(worker).copied().unwrap_or(0),
            other_size: stream.part.sizes.lock().get(worker).copied(),
        };
        state.streams.iter().map(one).collect()
    }

    /// Whether no view is still being built for the first time. One that has been something else since, and one of an engine
    /// that is not there, keep nobody waiting.
    pub(super) fn settled(&self) -> bool {
        let state = self.state.read();
        let now = self.clock.now();
        let settled = |stream: &Stream| {
            let status = stream.follower.status();
            let lost = !status.connected && now.saturating_sub(stream.since) > GRACE;
            if status.view != View::Recovering {
                stream.settled.store(true, Ordering::Relaxed);
            }
            stream.settled.load(Ordering::Relaxed) || lost
        };
        state.streams.values().all(settled)
    }

    /// How far each view can be trusted, and what last went wrong with it.
    pub(super) fn views(&self) -> Vec<(Worker, View, Option<String>)> {
        let state = self.state.read();
        let one = |(worker, stream): (&Worker, &Stream)| {
            let status = stream.follower.status();
            (*worker, status.view, status.trouble)
        };
        state.streams.iter().map(one).collect()
    }

    /// Every view, each as it is at one moment between two of its batches. Those that take too long are left out.
    pub(super) async fn copies(&self) -> Vec<Copied> {
        let lookers: Vec<(Registration, Arc<Index>, Looker)> = {
            let state = self.state.read();
            let one = |stream: &Stream| {
                (stream.registration.clone(), stream.part.index.clone(), stream.follower.looker())
            };
            state.streams.values().map(one).collect()
        };
        let mut looks = tokio::task::JoinSet::new();
        for (registration, index, looker) in lookers {
            let worker = registration.worker();
            let look = looker.look(move |mark| {
                let Copy { events, left_out } = index.copy(worker);
                (mark.filter(|_| left_out == 0), events)
            });
            looks.spawn(async move {
                let seen = tokio::time::timeout(PATIENCE, look).await;
                if seen.is_err() {
                    tracing::warn!(%worker, "its view is left out: it could not be looked at in time");
                }
                // One that has ended meanwhile is no longer registered.
                let (mark, events) = seen.ok().flatten()?;
                Some(Copied { registration, mark, events })
            });
        }
        let mut copies: Vec<Copied> = looks.join_all().await.into_iter().flatten().collect();
        copies.sort_by_key(|copied| copied.registration.worker());
        copies
    }

    /// The peers that were named for this run, and those that were registered.
    pub(super) fn peers(&self) -> Vec<String> {
        let state = self.state.read();
        let registered = state.peers.iter().filter(|peer| !state.named.contains(peer));
        state.named.iter().chain(registered).cloned().collect()
    }

    /// The peers of this run, and those that were registered before.
    pub(super) fn know_peers(&self, named: Vec<String>, registered: Vec<String>) {
        let mut state = self.state.write();
        (state.named, state.peers) = (named, registered);
    }

    /// Remembers a peer.
    pub(super) async fn add_peer(&self, url: String) -> Result<(), Refusal> {
        super::peers::check(&url).map_err(|why| Refusal::Wrong(format!("url: {why}")))?;
        let _changing = self.changing.lock().await;
        {
            let mut state = self.state.write();
            if state.peers.contains(&url) {
                return Ok(());
            }
            if state.peers.len() >= MAX_PEERS {
                return Err(Refusal::Conflict(format!(
                    "{MAX_PEERS} peers are registered, and no more are taken"
                )));
            }
            state.peers.push(url.clone());
        }
        let written = self.write(|_| {}).await;
        if written.is_err() {
            self.state.write().peers.retain(|peer| *peer != url);
        }
        written
    }

    /// Forgets a peer.
    pub(super) async fn remove_peer(&self, url: &str) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        if !self.peers().iter().any(|peer| peer == url) {
            return Err(Refusal::Missing(format!("peer `{url}` is not registered")));
        }
        let before = {
            let mut state = self.state.write();
            let before = (state.named.clone(), state.peers.clone());
            state.named.retain(|peer| peer != url);
            state.peers.retain(|peer| peer != url);
            before
        };
        let written = self.write(|_| {}).await;
        if written.is_err() {
            let mut state = self.state.write();
            (state.named, state.peers) = before;
        }
        written
    }

    /// Writes down what is registered, changed by `change`, before it is true.
    async fn write(&self, change: impl FnOnce(&mut Vec<Registration>)) -> Result<(), Refusal> {
        let Some(keep) = &self.keep else { return Ok(()) };
        let (mut all, peers) = {
            let state = self.state.read();
            let all: Vec<_> = state.streams.values().map(|stream| stream.registration.clone()).collect();
            (all, state.peers.clone())
        };
        change(&mut all);
        keep.write(all, peers).await.map_err(Refusal::Disk)
    }
}

// === impl Part ===

impl Part {
    fn new(block_size: BlockSize) -> Self {
        let index = Arc::new(Index::new());
        let sink = IndexSink::new(index.clone());
        let sizes = Arc::<Mutex<HashMap<Worker, u32>>>::default();
        let told = sizes.clone();
        sink.tell_roots(move |worker, root| {
            let before = if root.block_size as usize == block_size.get() {
                told.lock().remove(&worker)
            } else {
                told.lock().insert(worker, root.block_size).or(Some(root.block_size))
            };
            if before.is_some_and(|before| before != root.block_size) {
                tracing::info!(%worker, told = root.block_size, "the engine's blocks have another size than before");
            }
        });
        Self { block_size, index, sink, sizes }
    }
}

// === impl Registration ===

impl Registration {
    pub(super) fn worker(&self) -> Worker {
        Worker { instance: self.instance_id, rank: self.dp_rank }
    }

    pub(super) fn partition(&self) -> Partition {
        Partition { model: self.model_name.clone(), group: self.routing_group.clone() }
    }

    /// Whether what the other one says of its blocks can be compared with what this one says.
    fn says_as(&self, other: &Self) -> bool {
        self.partition() == other.partition() && self.block_size == other.block_size
    }

    fn source(&self) -> Source {
        Source {
            worker: self.worker(),
            endpoint: endpoint::nth(&self.endpoint, 0),
            bind: endpoint::binds(&self.endpoint),
            replay: self.replay_endpoint.clone(),
            topic: String::new(),
        }
    }

    /// The block size, if all of it makes sense.
    pub(super) fn check(&self) -> Result<BlockSize, String> {
        for (key, name) in [("model_name", &self.model_name), ("routing_group", &self.routing_group)] {
            if name.is_empty() || name.len() > MAX_NAME {
                return Err(format!("{key}: found {} bytes; allowed is 1 to {MAX_NAME}", name.len()));
            }
        }
        endpoint::check(&self.endpoint).map_err(|why| format!("endpoint: {why}"))?;
        if let Some(replay) = &self.replay_endpoint {
            endpoint::check(replay).map_err(|why| format!("replay_endpoint: {why}"))?;
        }
        BlockSize::new(self.block_size).ok_or_else(|| {
            format!("block_size: found {}; allowed is 1 to {}", self.block_size, BlockSize::MAX)
        })
    }
}
