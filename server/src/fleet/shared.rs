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

/// The store among the workers of the index. Ids of engines have 32 bits, so none is ever this.
pub(crate) const STORE: Worker = Worker { instance: 1 << 32, rank: 0 };

/// How far its stream is relied on that is being repaired, and one that cannot be.
const TRUST_RECOVERING: f64 = 0.9;
/// See [`TRUST_RECOVERING`].
const TRUST_STALE: f64 = 0.5;
/// How often it is looked whether the stream is there.
const LOOK: Duration = Duration::from_millis(100);

/// The store.
pub(crate) struct Shared {
    settings: settings::Store,
    follower: Mutex<Option<Follower>>,
    /// Whether its stream can be reached.
    connected: AtomicBool,
}

/// How far one prompt lies in the store, from its first block on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Blocks in memory.
    pub(crate) memory: usize,
    /// Blocks in memory or on disk.
    pub(crate) any: usize,
}

impl Shared {
    pub(super) fn new(settings: &settings::Store) -> Option<Self> {
        settings.events.as_ref()?;
        let connected = AtomicBool::new(false);
        Some(Self { settings: settings.clone(), follower: Mutex::default(), connected })
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
        let Some(trust) = matches.of(STORE).and_then(|found| self.trust(found.view)) else {
            return Lent::default();
        };
        let reach = reach(matches);
        let tokens = |blocks: usize| (blocks as u32).min(most) * block;
        let memory = tokens(reach.memory).max(own);
        Lent { memory: memory - own, disk: tokens(reach.any).max(memory) - memory, trust }
    }

    /// How far what it tells is relied on; `None`: it cannot be reached, so nothing can be loaded from it either.
    pub(super) fn trust(&self, view: View) -> Option<f64> {
        self.connected.load(Ordering::Relaxed).then_some(match view {
            View::Exact => 1.0,
            View::Recovering => TRUST_RECOVERING,
            View::Stale => TRUST_STALE,
        })
    }

    fn follow(&self, sink: &Arc<dyn Sink>) {
        let Some(events) = &self.settings.events else { return };
        let source = Source {
            worker: STORE,
            endpoint: endpoint::nth(events, 0),
            bind: endpoint::binds(events),
            replay: self.settings.replay.as_ref().map(|replay| endpoint::nth(replay, 0)),
            topic: String::new(),
        };
        tracing::info!(endpoint = %source.endpoint, replay = ?source.replay, "following what the store holds");
        let settings = Settings { seed: u64::from(u32::MAX) << 16, ..Settings::default() };
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
            tracing::info!("what the store holds is known");
        } else {
            tracing::warn!("the store's events are lost; requests go on without what it holds");
        }
    }

    pub(super) fn status(&self, fleet: &Fleet) -> Option<StoreStatus> {
        let status = self.told()?;
        let workers = fleet.index().workers();
        let blocks = workers.iter().find(|(worker, ..)| *worker == STORE).map_or(0, |(.., blocks)| *blocks);
        Some(StoreStatus {
            events: self.settings.events.clone().unwrap_or_default(),
            address: self.settings.address.clone(),
            models: self.settings.models.clone(),
            in_reach: self.connected.load(Ordering::Relaxed),
            view: view_status(0, status, blocks),
            warming: None,
        })
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

/// How far one prompt lies in the store.
pub(crate) fn reach(matches: &Matches) -> Reach {
    let Some(found) = matches.of(STORE) else { return Reach::default() };
    // Its memory is told as host memory, and its disk as a disk: see the head of `store::residency`.
    Reach { memory: found.on(Tier::Host), any: found.blocks() }
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
        let in_reach = self.shared().is_some_and(|shared| shared.connected.load(Ordering::Relaxed));
        if !in_reach {
            return 0..0;
        }
        self.index().lookup(cut.chain.tokens_hashes(), found);
        let Reach { memory, any } = reach(found);
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
        shared.follow(&sink);
        loop {
            shared.look();
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
        let engine = |name: &str| Engine {
            name: name.to_owned(),
            url: "http://127.0.0.1:1".to_owned(),
            models: vec!["m".to_owned()],
            ..Engine::default()
        };
        let store = settings::Store {
            events: Some("tcp://127.0.0.1:1".to_owned()),
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..settings::Store::default()
        };
        let settings = Settings { engines: vec![engine("a")], store, ..Settings::default() };
        Fleet::new(&settings, Arc::new(Index::new()), Clock::start()).unwrap()
    }

    fn holds(fleet: &Fleet, blocks: std::ops::Range<usize>, tier: Tier) {
        let hasher = Hasher::new(blocks::BlockSize::new(16).unwrap(), Seed::PLAIN);
        let tokens = hasher.tokens_hashes(&PROMPT);
        let chain = PrefixHash::chain(&tokens);
        for at in blocks {
            let parent = at.checked_sub(1).map(|above| EngineHash(chain[above].0));
            let block = Block { engine: EngineHash(chain[at].0), tokens: tokens[at] };
            let event = Event::Stored(Stored { parent, blocks: vec![block], tier });
            fleet.index().apply(STORE, &event).unwrap();
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
        let shared = fleet.shared().unwrap();
        shared.connected.store(true, Ordering::Relaxed);
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
        shared.connected.store(false, Ordering::Relaxed);
        assert_eq!(lent(&fleet), (([0, 0], 0.0), 40.0));
    }

    #[test]
    fn only_engines_of_its_models_use_it() {
        for (models, used) in [(&["m"][..], true), (&["other"], false)] {
            let fleet = fleet(models);
            fleet.shared().unwrap().connected.store(true, Ordering::Relaxed);
            holds(&fleet, 0..2, Tier::Host);
            fleet.index().set_view(STORE, View::Exact);
            assert_eq!(lent(&fleet).0.0, if used { [32, 0] } else { [0, 0] });
        }
    }
}
