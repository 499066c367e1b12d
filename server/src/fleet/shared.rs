//! The store that engines share, as the fleet knows it: a worker of the index that is no engine.
//!
//! What it holds is told by its own event stream. A prefix that lies there costs less on every engine that uses it, beyond
//! what the engine has itself. A stream that is lost costs the estimate and nothing else: what was told by it counts for
//! less while it is repaired, and for nothing while the store cannot be reached.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blocks::{BlockSize, Chain, Hasher, PrefixHash, Seed, Tier, View, Worker};
use events::follow::{Follower, Settings, Source, Status};
use events::sink::Sink;
use index::Matches;
use parking_lot::Mutex;

use super::member::Member;
use super::status::view_status;
use super::{Ask, Fleet};
use crate::admin::api::StoreStatus;
use crate::endpoint;
use crate::route::Lent;
use crate::settings;
use crate::tokens::Way;

/// The store among the workers of the index: as each of its masters tells it. Ids of engines have 32 bits, so none is ever this.
const STORE: Worker = Worker { instance: 1 << 32, rank: 0 };

/// How far its stream is relied on that is being repaired, and one that cannot be.
const TRUST_RECOVERING: f64 = 0.9;
/// See [`TRUST_RECOVERING`].
const TRUST_STALE: f64 = 0.5;
/// How often it is looked whether the stream is there.
const LOOK: Duration = Duration::from_millis(100);

/// The store.
pub(crate) struct Shared {
    settings: settings::Store,
    /// One of each master that may lead: the one that does tells what there is, the others that they know nothing.
    streams: Vec<Stream>,
}

/// What one master tells.
struct Stream {
    worker: Worker,
    events: String,
    replay: Option<String>,
    follower: Mutex<Option<Follower>>,
    /// Whether it can be reached.
    connected: AtomicBool,
}

/// How far one prompt lies in the store, from its first block on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reach {
    /// Blocks in memory.
    memory: usize,
    /// Blocks in memory or on disk.
    any: usize,
}

impl Shared {
    pub(super) fn new(settings: &settings::Store) -> Option<Self> {
        let events = settings::Store::each(settings.events.as_deref());
        let mut replays = settings::Store::each(settings.replay.as_deref());
        let stream = |(at, events): (u64, &str)| Stream {
            worker: Worker { instance: STORE.instance + at, ..STORE },
            events: events.to_owned(),
            replay: replays.next().map(str::to_owned),
            follower: Mutex::default(),
            connected: AtomicBool::new(false),
        };
        let streams: Vec<Stream> = (0..).zip(events).map(stream).collect();
        (!streams.is_empty()).then(|| Self { settings: settings.clone(), streams })
    }

    /// Whether engines use it for this model.
    pub(super) fn serves(&self, model: &str) -> bool {
        let models = &self.settings.models;
        models.is_empty() || models.iter().any(|known| known == model)
    }

    /// What is left of a prompt token's cost in its memory and on its disk.
    pub(super) fn left(&self) -> [f64; 2] {
        [self.settings.memory_discount, self.settings.disk_discount]
    }

    /// What of a prompt an engine can load from the store, beyond the tokens that it has itself.
    pub(super) fn lends(&self, matches: &Matches, own: u32, most: u32, block: u32) -> Lent {
        let Some((reach, trust)) = self.reach(matches) else { return Lent::default() };
        let tokens = |blocks: usize| (blocks as u32).min(most) * block;
        let memory = tokens(reach.memory).max(own);
        Lent { memory: memory - own, disk: tokens(reach.any).max(memory) - memory, trust }
    }

    /// How far a prompt lies in the store, and how far that is relied on; `None`: nobody who can be reached tells anything of it,
    /// so nothing can be loaded from it either.
    fn reach(&self, matches: &Matches) -> Option<(Reach, f64)> {
        let told = self.streams.iter().filter_map(|stream| stream.reach(matches));
        // Who leads knows most; who does no longer is not reached, or has said that it knows nothing.
        told.max_by(|(one, trust), (other, faith)| one.any.cmp(&other.any).then(trust.total_cmp(faith)))
    }

    fn is_in_reach(&self) -> bool {
        self.streams.iter().any(|stream| stream.connected.load(Ordering::Relaxed))
    }

    /// What it holds, as the master tells it that knows most.
    pub(super) fn status(&self, fleet: &Fleet) -> Option<StoreStatus> {
        let workers = fleet.index().workers();
        let blocks =
            |of: Worker| workers.iter().find(|(worker, ..)| *worker == of).map_or(0, |(.., blocks)| *blocks);
        let connected = |stream: &Stream| stream.connected.load(Ordering::Relaxed);
        let most = self.streams.iter().max_by_key(|stream| (connected(stream), blocks(stream.worker)))?;
        Some(StoreStatus {
            events: most.events.clone(),
            address: self.settings.address.clone(),
            models: self.settings.models.clone(),
            in_reach: connected(most),
            view: view_status(0, most.told()?, blocks(most.worker)),
            warming: None,
        })
    }
}

// === impl Stream ===

impl Stream {
    fn reach(&self, matches: &Matches) -> Option<(Reach, f64)> {
        let found = matches.of(self.worker).filter(|_| self.connected.load(Ordering::Relaxed))?;
        let trust = match found.view {
            View::Exact => 1.0,
            View::Recovering => TRUST_RECOVERING,
            View::Stale => TRUST_STALE,
        };
        // Its memory is told as host memory, and its disk as a disk: see the head of `store::residency`.
        Some((Reach { memory: found.on(Tier::Host), any: found.blocks() }, trust))
    }

    fn follow(&self, sink: &Arc<dyn Sink>) {
        let source = Source {
            worker: self.worker,
            endpoint: endpoint::nth(&self.events, 0),
            bind: endpoint::binds(&self.events),
            replay: self.replay.as_ref().map(|replay| endpoint::nth(replay, 0)),
            topic: String::new(),
        };
        tracing::info!(endpoint = %source.endpoint, replay = ?source.replay, "following what the store holds");
        let seed = u64::from(u32::MAX) << 16 | (self.worker.instance - STORE.instance);
        let settings = Settings { seed, ..Settings::default() };
        *self.follower.lock() = Some(Follower::start(source, sink.clone(), settings));
    }

    fn told(&self) -> Option<Status> {
        self.follower.lock().as_ref().map(Follower::status)
    }

    /// Whether the stream is there, which is said when it changes.
    fn look(&self) {
        let connected = self.told().is_some_and(|status| status.connected);
        if self.connected.swap(connected, Ordering::Relaxed) == connected {
            return;
        }
        if connected {
            tracing::info!(events = self.events, "what the store holds is known");
        } else {
            tracing::warn!(
                events = self.events,
                "the store's events are lost; requests go on without what it holds"
            );
        }
    }
}

/// A prompt in blocks, as some of the engines that may take it cut it.
#[derive(Debug)]
pub(crate) struct Cut {
    size: u32,
    adapter: Option<String>,
    chain: Chain,
}

impl Cut {
    /// What each block is called.
    pub(crate) fn prefixes(&self) -> &[PrefixHash] {
        self.chain.prefix_hashes()
    }
}

impl Fleet {
    /// A prompt as the engines cut it that may load it from the store.
    pub(crate) fn cuts(&self, ask: &Ask<'_>) -> Vec<Cut> {
        let mut cuts: Vec<Cut> = Vec::new();
        let shared = self.shared().filter(|shared| shared.serves(self.target(ask.model)));
        if shared.is_none() || ask.way == Way::Bytes || ask.hashes.is_some() {
            return cuts;
        }
        for member in self.members().iter().filter(|member| self.takes(member, ask.model)) {
            let size = member.block_size.load(Ordering::Relaxed);
            let adapter = self.adapter(member, ask.model);
            let Some(block_size) = BlockSize::new(size) else { continue };
            if cuts.iter().all(|cut| (cut.size, &cut.adapter) != (size, &adapter)) {
                let mut chain =
                    Chain::new(Hasher::new(block_size, Seed::of(adapter.as_deref(), ask.cache_salt)));
                chain.extend(ask.tokens);
                cuts.push(Cut { size, adapter, chain });
            }
        }
        cuts
    }

    /// Which blocks of a prompt the store has on disk only, beyond what every engine that may take it has itself; none
    /// while the store cannot be reached.
    pub(crate) fn cold(&self, ask: &Ask<'_>, cut: &Cut, found: &mut Matches) -> Range<usize> {
        let Some(shared) = self.shared().filter(|shared| shared.is_in_reach()) else { return 0..0 };
        self.index().lookup(cut.chain.tokens_hashes(), found);
        let Some((Reach { memory, any }, _)) = shared.reach(found) else { return 0..0 };
        let own = |member: &Arc<Member>| {
            let deepest = member.workers.iter().filter_map(|worker| found.of(*worker));
            deepest.map(index::Match::blocks).max().unwrap_or(0)
        };
        let members = self.members();
        let may = members.iter().filter(|member| self.takes(member, ask.model));
        let all_have = may.map(own).min().unwrap_or(0);
        // The last token of a prompt is always computed.
        let most = (ask.tokens.len().saturating_sub(1)) / cut.size.max(1) as usize;
        memory.max(all_have)..any.min(most).max(memory.max(all_have))
    }

    /// Follows the store, if there is one, for as long as the process lives.
    pub(crate) async fn follow_store(self, sink: Arc<dyn Sink>) {
        let Some(shared) = self.shared() else { return };
        shared.streams.iter().for_each(|stream| stream.follow(&sink));
        loop {
            shared.streams.iter().for_each(Stream::look);
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use blocks::{Block, EngineHash, Event, Stored};
    use index::Index;

    use super::*;
    use crate::clock::Clock;
    use crate::settings::{Engine, Settings};

    /// 40 tokens: two whole blocks of 16, and the rest.
    const PROMPT: [u32; 40] = [7; 40];

    fn fleet(models: &[&str]) -> Fleet {
        fleet_of("tcp://127.0.0.1:1", models)
    }

    fn fleet_of(events: &str, models: &[&str]) -> Fleet {
        let engine = |name: &str| Engine {
            name: name.to_owned(),
            url: "http://127.0.0.1:1".to_owned(),
            models: vec!["m".to_owned()],
            ..Engine::default()
        };
        let store = settings::Store {
            events: Some(events.to_owned()),
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..settings::Store::default()
        };
        let settings = Settings { engines: vec![engine("a")], store, ..Settings::default() };
        Fleet::new(&settings, Arc::new(Index::new()), Clock::start()).unwrap()
    }

    fn holds(fleet: &Fleet, blocks: std::ops::Range<usize>, tier: Tier) {
        tells(fleet, STORE, blocks, tier);
    }

    fn tells(fleet: &Fleet, master: Worker, blocks: std::ops::Range<usize>, tier: Tier) {
        let hasher = Hasher::new(blocks::BlockSize::new(16).unwrap(), Seed::PLAIN);
        let tokens = hasher.tokens_hashes(&PROMPT);
        let chain = PrefixHash::chain(&tokens);
        for at in blocks {
            let parent = at.checked_sub(1).map(|above| EngineHash(chain[above].0));
            let block = Block { engine: EngineHash(chain[at].0), tokens: tokens[at] };
            let event = Event::Stored(Stored { parent, blocks: vec![block], tier });
            fleet.index().apply(master, &event).unwrap();
        }
    }

    /// What the engine could load: tokens in memory and on disk, trust, and what the request would cost there.
    fn lent(fleet: &Fleet) -> (([u32; 2], f64), f64) {
        let ask = Ask {
            id: "x",
            model: "m",
            tokens: &PROMPT,
            bytes: &[],
            way: Way::Local,
            cache_salt: None,
            streams: false,
            pinned: None,
            answer: 0,
            hashes: None,
            tried: Vec::new(),
        };
        let run = fleet.dry_run(&ask).unwrap();
        let one = &run.candidates[0];
        ((one.store_tokens, one.store_trust), one.cost)
    }

    #[test]
    fn what_lies_in_the_store_is_cheaper_by_its_tier_and_by_what_is_known_of_it() {
        let fleet = fleet(&[]);
        let stream = &fleet.shared().unwrap().streams[0];
        stream.connected.store(true, Ordering::Relaxed);
        assert_eq!(lent(&fleet), (([0, 0], 0.0), 40.0));
        holds(&fleet, 0..2, Tier::Disk);
        fleet.index().set_view(STORE, View::Exact);
        assert_eq!(lent(&fleet), (([0, 32], 1.0), 40.0 - 32.0 * 0.4));
        holds(&fleet, 0..1, Tier::Host);
        let whole = 40.0 - 16.0 * 0.7 - 16.0 * 0.4;
        assert_eq!(lent(&fleet), (([16, 16], 1.0), whole));
        fleet.index().set_view(STORE, View::Stale);
        let (told, cost) = lent(&fleet);
        assert_eq!(told, ([16, 16], TRUST_STALE));
        assert!((cost - f64::midpoint(40.0, whole)).abs() < 1e-9, "{cost}");
        // Out of reach, nothing of it counts.
        stream.connected.store(false, Ordering::Relaxed);
        assert_eq!(lent(&fleet), (([0, 0], 0.0), 40.0));
    }

    #[test]
    fn of_several_masters_the_one_counts_that_knows_and_can_be_reached() {
        let fleet = fleet_of("tcp://127.0.0.1:1,tcp://127.0.0.1:2", &[]);
        let [first, second] = &fleet.shared().unwrap().streams[..] else { panic!("two masters") };
        let connected = |one: bool, other: bool| {
            first.connected.store(one, Ordering::Relaxed);
            second.connected.store(other, Ordering::Relaxed);
        };
        tells(&fleet, first.worker, 0..2, Tier::Disk);
        fleet.index().set_view(first.worker, View::Exact);
        fleet.index().set_view(second.worker, View::Recovering);
        connected(true, true);
        assert_eq!(lent(&fleet).0, ([0, 32], 1.0));
        // It dies: what it told counts no longer, whether the other one has begun to tell or not.
        connected(false, true);
        assert_eq!(lent(&fleet).0.0, [0, 0]);
        tells(&fleet, second.worker, 0..1, Tier::Host);
        assert_eq!(lent(&fleet).0, ([16, 0], TRUST_RECOVERING));
        fleet.index().set_view(second.worker, View::Exact);
        assert_eq!(lent(&fleet).0, ([16, 0], 1.0));
        connected(false, false);
        assert_eq!(lent(&fleet).0.0, [0, 0]);
        assert_eq!(fleet.index().workers().len(), 2, "none is taken for another");
    }

    #[test]
    fn only_engines_of_its_models_use_it() {
        for (models, used) in [(&["m"][..], true), (&["other"], false)] {
            let fleet = fleet(models);
            fleet.shared().unwrap().streams[0].connected.store(true, Ordering::Relaxed);
            holds(&fleet, 0..2, Tier::Host);
            fleet.index().set_view(STORE, View::Exact);
            assert_eq!(lent(&fleet).0.0, if used { [32, 0] } else { [0, 0] });
        }
    }
}
