//! Who is followed: instances by partition, each rank a stream of its own, and an index a partition.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use blocks::{BlockSize, Event, View, Worker};
use events::follow::{Follower, Mark, Settings, Source, Status};
use events::sink::Sink;
use index::{Copy, Index};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::dump;
use super::keep::{Keep, Kept};
use super::question::MAX_NAME;
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
    #[serde(default)]
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
    Disk,
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
}

#[derive(Default)]
struct State {
    parts: HashMap<Partition, Arc<Part>>,
    streams: BTreeMap<Worker, Stream>,
    /// What a peer knows of streams that it could not say the place of: it waits for their registration.
    waiting: HashMap<Worker, Inherited>,
    peers: Vec<String>,
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

/// Streams: each is two sockets and a task.
const MAX_STREAMS: usize = 4_096;
/// Peers that are remembered.
const MAX_PEERS: usize = 64;

/// The group of those who name none.
pub(super) fn default_group() -> String {
    "default".to_owned()
}

impl Registry {
    /// Nobody yet, or those of the last run if something is kept. Followers run on `followers`.
    pub(super) fn new(keep: Option<Keep>, followers: Handle) -> Self {
        Self { state: RwLock::default(), changing: tokio::sync::Mutex::default(), keep, followers }
    }

    /// Follows one more stream.
    pub(super) async fn register(&self, registration: Registration) -> Result<(), Refusal> {
        let waiting = {
            let known = self.state.write().waiting.remove(&registration.worker());
            known.filter(|known| known.registration.partition() == registration.partition())
        };
        let events = waiting.map_or_else(Vec::new, |waiting| waiting.events);
        self.admit(Inherited { registration, mark: None, events }, Whence::Client).await
    }

    /// Follows a stream, going on from a view that was built elsewhere.
    pub(super) async fn inherit(&self, inherited: Inherited) -> Result<(), Refusal> {
        if inherited.registration.endpoint.is_empty() {
            self.state.write().waiting.insert(inherited.registration.worker(), inherited);
            return Ok(());
        }
        self.admit(inherited, Whence::Peer).await
    }

    /// Follows a stream unless it is followed already.
    pub(super) async fn ensure(&self, registration: Registration) -> Result<(), Refusal> {
        let same = |stream: &Stream| stream.registration == registration;
        if self.state.read().streams.get(&registration.worker()).is_some_and(same) {
            return Ok(());
        }
        self.register(registration).await
    }

    /// Follows those who were registered before, going on from what was known of them.
    pub(super) async fn restore(&self, kept: Kept, known: Option<Vec<u8>>) {
        self.state.write().peers = kept.peers;
        let views = known.map_or_else(|| Ok(Vec::new()), |known| dump::read_own(&known));
        let mut views = views.unwrap_or_else(|why| {
            tracing::warn!(
                why,
                "what was known at the last end cannot be read; beginning with what the engines say"
            );
            Vec::new()
        });
        let (mut all, mut whole) = (0, 0);
        for registration in kept.streams {
            let (instance, rank) = (registration.instance_id, registration.dp_rank);
            let at = views.iter().position(|view| view.registration == registration);
            let view = at.map(|at| views.swap_remove(at));
            let view = view.unwrap_or(Inherited { registration, mark: None, events: Vec::new() });
            (all, whole) = (all + 1, whole + usize::from(view.mark.is_some()));
            if let Err(why) = self.admit(view, Whence::Disk).await {
                tracing::warn!(instance, rank, %why, "what was registered is no longer");
            }
        }
        if all > 0 {
            tracing::info!(streams = all, whole, "began with what was kept");
        }
    }

    /// Keeps what is known, if there is a place for it.
    pub(super) async fn keep_views(&self) -> Result<(), String> {
        let Some(keep) = &self.keep else { return Ok(()) };
        keep.write_views(&dump::own(&self.copies().await))
    }

    async fn admit(&self, new: Inherited, from: Whence) -> Result<(), Refusal> {
        let block_size = new.registration.check().map_err(Refusal::Wrong)?;
        let _changing = self.changing.lock().await;
        let worker = new.registration.worker();
        if self.adopt(&new.registration, from)? {
            return Ok(());
        }
        let part = self.part(&new.registration.partition(), block_size)?;
        // What comes from the disk is there; written one by one, it would be cut short by an end in between.
        if from != Whence::Disk
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
        let stream =
            Stream { registration: new.registration, part, follower, inherited: from == Whence::Peer };
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
            match Arc::try_unwrap(stream.follower) {
                Ok(follower) => follower.stop().await,
                // Somebody is copying its view; it ends with that.
                Err(follower) => drop(follower),
            }
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

    /// Whether no view is still being built for the first time.
    pub(super) fn settled(&self) -> bool {
        let state = self.state.read();
        state.streams.values().all(|stream| stream.follower.status().view != View::Recovering)
    }

    /// Every view, each as it is at one moment between two of its batches.
    pub(super) async fn copies(&self) -> Vec<Copied> {
        let streams: Vec<_> = {
            let state = self.state.read();
            let all = state.streams.values();
            all.map(|stream| {
                (stream.registration.clone(), stream.part.index.clone(), stream.follower.clone())
            })
            .collect()
        };
        let mut copies = Vec::with_capacity(streams.len());
        for (registration, index, follower) in streams {
            let worker = registration.worker();
            let look = follower.look(move |mark| {
                let Copy { events, left_out } = index.copy(worker);
                (mark.filter(|_| left_out == 0), events)
            });
            // One that ends meanwhile is no longer registered.
            let Some((mark, events)) = look.await else { continue };
            copies.push(Copied { registration, mark, events });
        }
        copies
    }

    /// The peers that were named, in that order.
    pub(super) fn peers(&self) -> Vec<String> {
        self.state.read().peers.clone()
    }

    /// Remembers a peer.
    pub(super) async fn add_peer(&self, url: String) -> Result<(), Refusal> {
        if super::peers::authority(&url).is_none() || url.len() > MAX_NAME {
            return Err(Refusal::Wrong(format!("url: found `{url}`; allowed is http://host:port")));
        }
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
        let before = self.peers();
        if !before.iter().any(|peer| peer == url) {
            return Err(Refusal::Missing(format!("peer `{url}` is not registered")));
        }
        self.state.write().peers.retain(|peer| peer != url);
        let written = self.write(|_| {}).await;
        if written.is_err() {
            self.state.write().peers = before;
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
    fn check(&self) -> Result<BlockSize, String> {
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
