//! The oracle: a simulated engine, a hostile network, and the follower's claim of exactness held against the truth.
//!
//! Each seed is one history: the engine stores, removes, clears and restarts; messages are dropped, doubled,
//! delayed and cut off; replays are late, cut off or never answered; the follower is killed, and another goes on from a copy
//! of its view, or from nothing. `WARMLINE_SEEDS=100000` asks for so many histories. Whenever the follower says `Exact` and has heard
//! of everything that was said, its view must equal the engine's cache.

mod chance;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocks::{EngineHash, Event, View, Worker};
use bytes::Bytes;
use chance::Chance;
use events::codec::{Batch, Content, Said, Stored, stock};
use events::follow::{Action, Core, Settings};
use events::sink::{Sink, UnknownParent};

const WORKER: Worker = Worker { instance: 1, rank: 0 };

/// Copies of each block: what a view comes to.
type Cache = BTreeMap<u64, u32>;

/// The simplest sink that is exact: it counts copies and refuses unknown parents.
#[derive(Default)]
struct Model(Mutex<(Cache, Option<View>)>);

fn take(cache: &mut Cache, event: &Event) -> Result<(), UnknownParent> {
    match event {
        Event::Stored(stored) => {
            if stored.parent.is_some_and(|parent| !cache.contains_key(&parent.0)) {
                return Err(UnknownParent);
            }
            for block in &stored.blocks {
                *cache.entry(block.engine.0).or_default() += 1;
            }
        }
        Event::Removed { blocks, .. } => {
            for EngineHash(hash) in blocks {
                if let Some(copies) = cache.get_mut(hash) {
                    *copies -= 1;
                    if *copies == 0 {
                        cache.remove(hash);
                    }
                }
            }
        }
        Event::Cleared => cache.clear(),
    }
    Ok(())
}

impl Sink for Model {
    fn apply(&self, _: Worker, event: &Event) -> Result<(), UnknownParent> {
        take(&mut self.0.lock().unwrap().0, event)
    }

    fn replace(&self, _: Worker, events: &[Event]) {
        let mut cache = Cache::new();
        for event in events {
            let _ = take(&mut cache, event);
        }
        self.0.lock().unwrap().0 = cache;
    }

    fn forget(&self, _: Worker) {
        *self.0.lock().unwrap() = (Cache::new(), None);
    }

    fn set_view(&self, _: Worker, view: View) {
        self.0.lock().unwrap().1 = Some(view);
    }
}

impl Chance {
    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

/// An engine with a cache, a ring and a life.
struct Engine {
    cache: Cache,
    parents: BTreeMap<u64, Option<u64>>,
    ring: VecDeque<(u64, Bytes)>,
    ring_size: usize,
    next: u64,
    fresh: u64,
    clock: f64,
    /// Blocks that were evicted and may be computed again.
    gone: Vec<u64>,
    /// Whether it answers with all that it holds once the ring has moved on.
    snapshots: bool,
}

impl Engine {
    fn new(ring_size: usize, life: u64, snapshots: bool) -> Self {
        let (cache, parents, ring, gone) = (Cache::new(), BTreeMap::new(), VecDeque::new(), Vec::new());
        let (fresh, clock) = (life << 32, life as f64 * 1e6);
        Self { cache, parents, ring, ring_size, next: 0, fresh, clock, gone, snapshots }
    }

    fn reaches(&self, hash: u64) -> bool {
        reaches(&self.cache, &self.parents, hash)
    }

    /// What a publisher with a tree answers, one message after the other.
    fn snapshot(&self, epoch: u64) -> Vec<(u64, Bytes)> {
        // Names grow from parents to children.
        let told: Vec<u64> = self.cache.keys().copied().filter(|hash| self.reaches(*hash)).collect();
        let broken: Vec<u64> = self
            .cache
            .keys()
            .filter_map(|hash| self.parents[hash].filter(|parent| !self.cache.contains_key(parent)))
            .collect();
        let orphans = self.cache.len() - told.len();
        let version = self.next - 1;
        let batches = 1 + told.chunks(3).len() as u64;
        let numbers = [version, epoch, told.len() as u64, orphans as u64, 0, batches];
        let header: Vec<u8> = numbers.iter().chain(&broken).flat_map(|number| number.to_be_bytes()).collect();
        let batch = |said| {
            Bytes::from(stock(&Batch { timestamp: 0.0, said, rank: Some(0), epoch: None, state: None }))
        };
        let mut all = vec![(-2_i64 as u64, Bytes::from(header)), (version, batch(vec![Said::Cleared]))];
        for few in told.chunks(3) {
            let copies = few.iter().flat_map(|hash| std::iter::repeat_n(*hash, self.cache[hash] as usize));
            all.push((version, batch(copies.map(|hash| Self::say(self.parents[&hash], &[hash])).collect())));
        }
        all
    }

    /// A block that was evicted is computed again, under its old name.
    fn back(&mut self, chance: &mut Chance) -> Option<Said> {
        let hash = *self.gone.get(chance.below(self.gone.len()))?;
        let parent = self.parents[&hash];
        if self.cache.contains_key(&hash) || !parent.is_none_or(|parent| self.reaches(parent)) {
            return None;
        }
        *self.cache.entry(hash).or_default() += 1;
        Some(Self::say(parent, &[hash]))
    }

    fn stored(&mut self, parent: Option<u64>, count: usize) -> Said {
        let hashes: Vec<u64> = (0..count as u64).map(|i| self.fresh + i + 1).collect();
        self.fresh += count as u64;
        for (i, hash) in hashes.iter().enumerate() {
            *self.cache.entry(*hash).or_default() += 1;
            self.parents.insert(*hash, if i == 0 { parent } else { Some(hashes[i - 1]) });
        }
        Self::say(parent, &hashes)
    }

    /// A second copy of a block that is there: a full hit computes its last block again.
    fn again(&mut self, hash: u64) -> Said {
        *self.cache.entry(hash).or_default() += 1;
        Self::say(self.parents[&hash], &[hash])
    }

    fn say(parent: Option<u64>, hashes: &[u64]) -> Said {
        Said::Stored(Box::new(Stored {
            hashes: hashes.iter().map(|hash| EngineHash(*hash)).collect(),
            parent: parent.map(EngineHash),
            content: Content::Tokens(hashes.iter().flat_map(|hash| [*hash as u32, 1]).collect()),
            block_size: 2,
            ..Stored::default()
        }))
    }

    fn step(&mut self, chance: &mut Chance) -> Bytes {
        let mut said = Vec::new();
        for _ in 0..=chance.below(3) {
            let known: Vec<u64> = self.cache.keys().copied().collect();
            let any = known.get(chance.below(known.len())).copied();
            match (chance.below(20), any) {
                (0, _) => {
                    self.cache.clear();
                    self.gone.clear();
                    said.push(Said::Cleared);
                }
                (1..=2, Some(hash)) if self.reaches(hash) => said.push(self.again(hash)),
                (16, Some(_)) => said.extend(self.back(chance)),
                (3..=8, Some(hash)) => {
                    let copies = self.cache.get_mut(&hash).unwrap();
                    *copies -= 1;
                    if *copies == 0 {
                        self.cache.remove(&hash);
                        self.gone.push(hash);
                    }
                    said.push(Said::Removed { hashes: vec![EngineHash(hash)], medium: None, group: None });
                }
                (9..=15, parent) if parent.is_none_or(|parent| self.reaches(parent)) => {
                    said.push(self.stored(parent, 1 + (self.fresh % 3) as usize));
                }
                _ => said.push(self.stored(None, 2)),
            }
        }
        self.clock += 1.0;
        let payload = Bytes::from(stock(&Batch {
            timestamp: self.clock,
            said,
            rank: Some(0),
            epoch: None,
            state: None,
        }));
        if self.ring.len() == self.ring_size {
            self.ring.pop_front();
        }
        self.ring.push_back((self.next, payload.clone()));
        self.next += 1;
        payload
    }
}

/// Whether a block and all before it are there: only then can it be used.
fn reaches(cache: &Cache, parents: &BTreeMap<u64, Option<u64>>, hash: u64) -> bool {
    let mut at = Some(hash);
    while let Some(hash) = at {
        if !cache.contains_key(&hash) {
            return false;
        }
        at = parents[&hash];
    }
    true
}

/// How a history went.
#[derive(Default)]
struct Tally {
    exact: u32,
    compared: u32,
    recovered: bool,
}

struct World {
    chance: Chance,
    engine: Engine,
    core: Core,
    model: Arc<Model>,
    settings: Settings,
    now: Duration,
    /// Messages under way on the live socket.
    wire: VecDeque<(u64, Bytes)>,
    /// The replay under way, as it will be answered.
    answers: VecDeque<Option<(u64, Bytes)>>,
    answering: bool,
    /// Whether the network loses nothing any more.
    well: bool,
    lives: u64,
    connected: bool,
    log: Vec<String>,
    /// The cache after each sequence, of each life.
    truths: BTreeMap<(u64, u64), Cache>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let ring = [4, 16, 1_000][chance.below(3)];
        let model = Arc::new(Model::default());
        let replay = !chance.one_in(8);
        let snapshots = chance.one_in(2);
        let settings =
            Settings { replay, replay_timeout: Duration::from_secs(1), seed, ..Settings::default() };
        let core = Core::new(WORKER, model.clone(), settings);
        let engine = Engine::new(ring, 1, snapshots);
        let mut world = Self {
            chance,
            engine,
            core,
            model,
            settings,
            now: Duration::ZERO,
            wire: VecDeque::new(),
            answers: VecDeque::new(),
            answering: true,
            well: false,
            lives: 1,
            connected: false,
            log: vec![format!("ring {ring}, replay {replay}, snapshots {snapshots}")],
            truths: BTreeMap::new(),
        };
        for _ in 0..world.chance.below(6) {
            // Said before anybody listened.
            world.say();
        }
        world
    }

    fn act(&mut self, action: Option<Action>) {
        let Some(Action::Replay { from }) = action else { return };
        self.answering = !self.chance.one_in(6);
        let floor = self.engine.next - self.engine.ring.len() as u64;
        self.answers = if self.engine.snapshots && from < floor {
            self.engine.snapshot(self.lives).into_iter().map(Some).collect()
        } else {
            self.engine.ring.iter().filter(|(sequence, _)| *sequence >= from).cloned().map(Some).collect()
        };
        self.answers.push_back(None);
        self.log.push(format!(
            "asked for {from}, {} answers, answered {}",
            self.answers.len(),
            self.answering
        ));
    }

    fn connect(&mut self) {
        self.connected = true;
        self.wire.clear();
        let action = self.core.connected(self.now);
        self.act(action);
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.wire.clear();
        self.answers.clear();
        self.core.disconnected();
    }

    /// The follower is killed, and another one takes its place: from a copy of its view, or from nothing.
    fn heir(&mut self) {
        if self.connected {
            self.disconnect();
        }
        let mark = self.core.mark().filter(|_| !self.chance.one_in(4));
        self.log.push(format!("an heir from {mark:?}"));
        if mark.is_none() {
            self.model.0.lock().unwrap().0.clear();
        }
        let settings = Settings { seed: self.chance.next(), ..self.settings };
        self.core = Core::new(WORKER, self.model.clone(), settings);
        if let Some(mark) = &mark {
            self.core.resume(mark);
        }
    }

    fn say(&mut self) -> Bytes {
        let mut chance = Chance(self.chance.next());
        let payload = self.engine.step(&mut chance);
        self.truths.insert((self.lives, self.engine.next - 1), self.engine.cache.clone());
        payload
    }

    fn engine_steps(&mut self) {
        let payload = self.say();
        let sequence = self.engine.next - 1;
        if self.connected && !self.chance.one_in(25) {
            self.wire.push_back((sequence, payload.clone()));
            if self.chance.one_in(40) {
                self.wire.push_back((sequence, payload));
            }
        } else {
            self.log.push(format!("{sequence} is lost"));
        }
    }

    fn restart(&mut self) {
        self.lives += 1;
        self.log.push(format!("life {}", self.lives));
        self.engine = Engine::new(self.engine.ring_size, self.lives, self.engine.snapshots);
        let told = self.chance.one_in(2);
        if self.connected {
            self.disconnect();
        }
        for _ in 0..self.chance.below(12) {
            self.say();
        }
        if told {
            let action = self.core.restarted(self.now);
            self.act(action);
        }
    }

    fn turn(&mut self) {
        self.now += Duration::from_millis(50);
        match self.chance.below(100) {
            0..=34 => self.engine_steps(),
            35..=69 => {
                if let Some((sequence, payload)) = self.wire.pop_front() {
                    let action = self.core.live(sequence, payload, self.now);
                    self.act(action);
                }
            }
            70..=91 => self.replay(),
            92..=94 if self.connected => self.disconnect(),
            92..=96 => self.connect(),
            97 if self.chance.one_in(6) => self.restart(),
            97 if self.chance.one_in(3) => self.heir(),
            98 if self.chance.one_in(4) => {
                let action = self.core.distrusted(self.now);
                self.act(action);
            }
            _ => {
                let action = self.core.tick(self.now);
                self.act(action);
            }
        }
    }

    fn replay(&mut self) {
        if !self.answering || !self.connected {
            return;
        }
        let action = match self.answers.pop_front() {
            Some(Some(_)) if !self.well && self.chance.one_in(60) => None,
            Some(Some((sequence, payload))) => self.core.replayed(sequence, payload, self.now),
            Some(None) => self.core.replay_ended(self.now),
            None => None,
        };
        self.act(action);
    }

    /// Exact means: the view is what the cache was after the last batch that was heard, in one life of the engine;
    /// and if that was the last batch of all, in this one.
    fn compare(&self, tally: &mut Tally) -> Result<(), String> {
        self.core.check().map_err(str::to_owned)?;
        let (view, said) = &*self.model.0.lock().unwrap();
        if *said != Some(self.core.view()) {
            return Err(format!("the sink believes {said:?}, the follower {:?}", self.core.view()));
        }
        if self.core.view() != View::Exact {
            return Ok(());
        }
        tally.exact += 1;
        let Some(last) = self.core.last() else {
            return if view.is_empty() {
                Ok(())
            } else {
                Err(format!("nothing was heard, but we have {view:?}"))
            };
        };
        let now = self.truths.get(&(self.lives, last));
        // What hangs below an evicted block cannot be used, and a snapshot does not tell it.
        let usable = |cache: &Cache| -> Cache {
            let reached = |(hash, _): &(&u64, &u32)| reaches(cache, &self.engine.parents, **hash);
            cache.iter().filter(reached).map(|(hash, copies)| (*hash, *copies)).collect()
        };
        if now.is_some_and(|now| now == view || self.engine.snapshots && usable(now) == usable(view)) {
            tally.compared += u32::from(last + 1 == self.engine.next);
            return Ok(());
        }
        // An engine's new life is not known before something shows it.
        if (1..self.lives).any(|life| self.truths.get(&(life, last)) == Some(view)) {
            return Ok(());
        }
        let truth = now.cloned().unwrap_or_default();
        let ours: Vec<_> = view.iter().filter(|entry| !truth.contains_key(entry.0)).take(3).collect();
        let theirs: Vec<_> = truth.iter().filter(|entry| !view.contains_key(entry.0)).take(3).collect();
        Err(format!("exact after {last}, but only we have {ours:?} and only the engine {theirs:?}"))
    }

    /// The network heals: with a ring that reaches back, or after a clear, the view must become exact by itself.
    fn heal(&mut self, tally: &mut Tally) -> Result<(), String> {
        if !self.connected {
            self.connect();
        }
        (self.answering, self.well) = (true, true);
        for _ in 0..4_000 {
            self.now += Duration::from_millis(50);
            let action = self.core.tick(self.now);
            self.act(action);
            self.answering = true;
            self.replay();
            if let Some((sequence, payload)) = self.wire.pop_front() {
                let action = self.core.live(sequence, payload, self.now);
                self.act(action);
            }
            self.compare(tally)?;
            if self.core.view() == View::Exact && self.wire.is_empty() && self.answers.is_empty() {
                tally.recovered = true;
                return Ok(());
            }
        }
        Ok(())
    }
}

fn history(seed: u64) -> Result<Tally, String> {
    let mut world = World::new(seed);
    let mut tally = Tally::default();
    world.connect();
    let told = |why: String, world: &World| {
        format!(
            "seed {seed}: {why}\n{}",
            world.log.iter().rev().take(12).cloned().collect::<Vec<_>>().join("\n")
        )
    };
    for _ in 0..400 {
        world.turn();
        world.compare(&mut tally).map_err(|why| told(why, &world))?;
    }
    // What is still on the wire arrives, then the engine clears its cache: that can always be followed.
    world.engine.cache.clear();
    let payload = Bytes::from(stock(&Batch {
        timestamp: 9e9,
        said: vec![Said::Cleared],
        rank: Some(0),
        epoch: None,
        state: None,
    }));
    world.engine.ring.push_back((world.engine.next, payload.clone()));
    if world.connected {
        world.wire.push_back((world.engine.next, payload));
    }
    world.truths.insert((world.lives, world.engine.next), Cache::new());
    world.engine.next += 1;
    world.heal(&mut tally).map_err(|why| told(why, &world))?;
    Ok(tally)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how many histories is nothing that the program reads")]
fn whenever_the_follower_says_exact_its_view_is_the_engines_cache() {
    let seeds = std::env::var("WARMLINE_SEEDS")
        .map_or(3_000, |seeds| seeds.parse().expect("WARMLINE_SEEDS is a number"));
    let (mut exact, mut compared, mut recovered) = (0, 0, 0);
    for seed in 0..seeds {
        match history(seed) {
            Ok(tally) => {
                exact += u64::from(tally.exact);
                compared += u64::from(tally.compared);
                recovered += u64::from(tally.recovered);
            }
            Err(why) => panic!("{why}"),
        }
    }
    println!(
        "{seeds} histories: compared {exact} times, {compared} of them with everything heard; {recovered} healed"
    );
    // The claim would be empty if exactness were never said: nearly every history must come back to it.
    assert!(exact > seeds * 20 && compared > seeds * 4, "too little was compared: {exact}, {compared}");
    assert!(recovered * 100 > seeds * 90, "only {recovered} of {seeds} histories healed");
}

#[test]
fn the_same_seed_tells_the_same_history() {
    let log = |seed| {
        let mut world = World::new(seed);
        world.connect();
        (0..300).for_each(|_| world.turn());
        world.log
    };
    assert_eq!(log(7), log(7));
    assert_ne!(log(7), log(8));
}
