//! What is told is what is there: against a naive model, alone and through a real publisher, follower and index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blocks::{Event, PrefixHash, TokensHash, View, Worker};
use events::follow::{self, Follower, Source};
use events::publish;
use index::{Index, Matches};
use store::master::name::{Block, Millis, Node, Tenant, Tier, Version};
use store::master::options::Options;
use store::master::{Change, Deaf, Joining, Master, Put, Residency, Terms};
use store::node::desk::Finder;

use super::Residents;
use super::forest::{Forest, On, Seen, Tale};
use crate::sink::IndexSink;

const STORE: Worker = Worker { instance: 1 << 32, rank: 0 };

// === Blocks of a small world: each a path of letters ===

type Path = Vec<u8>;

fn chain(path: &[u8]) -> Vec<TokensHash> {
    path.iter().map(|letter| TokensHash(u64::from(*letter) + 100)).collect()
}

fn prefix(path: &[u8]) -> u64 {
    PrefixHash::chain(&chain(path)).last().unwrap().0
}

fn seen_of(path: &[u8]) -> Seen {
    let parent = path.split_last().filter(|(_, above)| !above.is_empty()).map(|(_, above)| prefix(above));
    Seen { prefix: prefix(path), parent, tokens: chain(path).last().unwrap().0 }
}

fn block(path: &[u8]) -> Block {
    let bytes = |number: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let seen = seen_of(path);
    Block { hash: bytes(seen.prefix), parent: seen.parent.map(bytes), tokens: seen.tokens }
}

/// Every path of up to so many letters out of three.
fn paths(depth: usize) -> Vec<Path> {
    let mut all: Vec<Path> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..depth {
        let to = all.len();
        for at in from..to {
            all.extend((0..3).map(|letter| [&all[at][..], &[letter]].concat()).collect::<Vec<_>>());
        }
        from = to;
    }
    all.split_off(1)
}

struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % bound as u64) as usize
    }
}

/// What may be told of what is there: blocks all of whose ancestors are there, too.
fn tellable(here: &BTreeMap<Path, u8>) -> BTreeMap<u64, u8> {
    let whole = |path: &Path| (1..=path.len()).all(|to| here.contains_key(&path[..to]));
    here.iter().filter(|(path, _)| whole(path)).map(|(path, on)| (prefix(path), *on)).collect()
}

/// Somebody who takes in what is told, and finds fault.
#[derive(Default)]
struct Listener {
    on: BTreeMap<u64, u8>,
    parents: BTreeMap<u64, Option<u64>>,
}

impl Listener {
    fn hear(&mut self, event: &Event) {
        let bit = |tier| On::TIERS.iter().find(|(_, known)| *known == tier).unwrap().0;
        match event {
            Event::Stored(stored) => {
                let mut parent = stored.parent.map(|parent| parent.0);
                for block in &stored.blocks {
                    assert!(
                        parent.is_none_or(|parent| self.on.contains_key(&parent)),
                        "a parent comes first"
                    );
                    let on = self.on.entry(block.engine.0).or_default();
                    assert_eq!(*on & bit(stored.tier), 0, "one event a tier");
                    *on |= bit(stored.tier);
                    assert_eq!(PrefixHash::after(parent.map(PrefixHash), block.tokens).0, block.engine.0);
                    self.parents.insert(block.engine.0, parent);
                    parent = Some(block.engine.0);
                }
            }
            Event::Removed { blocks, tier } => {
                for block in blocks {
                    let on = self.on.get_mut(&block.0).expect("what is taken back was told");
                    assert_ne!(*on & bit(*tier), 0, "from where it was told");
                    *on &= !bit(*tier);
                    if *on == 0 {
                        self.on.remove(&block.0);
                        let orphan = |(child, above): (&u64, &Option<u64>)| {
                            *above == Some(block.0) && self.on.contains_key(child)
                        };
                        assert!(!self.parents.iter().any(orphan), "children leave first");
                    }
                }
            }
            Event::Cleared => panic!("nothing is cleared"),
        }
    }
}

#[test]
fn at_every_moment_what_is_told_is_what_is_whole() {
    let all = paths(4);
    for seed in 0..300 {
        let mut chance = Chance::new(seed);
        let (mut forest, mut listener) = (Forest::default(), Listener::default());
        let mut here: BTreeMap<Path, u8> = BTreeMap::new();
        // Few blocks, so that whole families come together now and then.
        let some: Vec<&Path> = (0..12).map(|_| &all[chance.below(all.len())]).collect();
        let families: Vec<Path> =
            some.iter().flat_map(|path| (1..=path.len()).map(|to| path[..to].to_vec())).collect();
        for step in 0..150 {
            let path = families[chance.below(families.len())].clone();
            let on = [0, 1, 2, 3][chance.below(4)];
            let mut tale = Tale::default();
            forest.set(seen_of(&path), On(on), &mut tale);
            match on {
                0 => here.remove(&path),
                on => here.insert(path, on),
            };
            tale.events.iter().for_each(|event| listener.hear(event));
            assert_eq!(forest.check(), Ok(()), "seed {seed}, step {step}");
            assert_eq!(listener.on, tellable(&here), "seed {seed}, step {step}");
            assert_eq!(
                (forest.told, forest.held_back),
                (listener.on.len(), here.len() - listener.on.len()),
                "seed {seed}, step {step}"
            );
        }
    }
}

#[test]
fn a_chain_that_comes_from_its_end_is_one_run_and_leaves_from_its_end() {
    let path: Path = (0..200).collect();
    let mut forest = Forest::default();
    let mut tale = Tale::default();
    for to in (2..=path.len()).rev() {
        forest.set(seen_of(&path[..to]), On(1), &mut tale);
    }
    assert_eq!((tale.events.len(), forest.told, forest.held_back), (0, 0, 199));
    forest.set(seen_of(&path[..1]), On(1), &mut tale);
    let [Event::Stored(run)] = &tale.events[..] else { panic!("{:?}", tale.events) };
    let named: Vec<u64> = run.blocks.iter().map(|block| block.engine.0).collect();
    let expected: Vec<u64> = (1..=path.len()).map(|to| prefix(&path[..to])).collect();
    assert_eq!(named, expected);
    let mut back = Tale::default();
    forest.set(seen_of(&path[..1]), On::NOWHERE, &mut back);
    let [Event::Removed { blocks, .. }] = &back.events[..] else { panic!("{:?}", back.events) };
    let named: Vec<u64> = blocks.iter().rev().map(|block| block.0).collect();
    assert_eq!(named, expected, "the deepest first");
}

#[test]
fn a_block_that_moves_was_never_away() {
    let mut forest = Forest::default();
    let mut tale = Tale::default();
    for to in 1..=3 {
        forest.set(seen_of(&[0, 1, 2][..to]), On(1), &mut tale);
    }
    let mut moved = Tale::default();
    forest.set(seen_of(&[0]), On(2), &mut moved);
    assert!(matches!(&moved.events[..], [Event::Stored(_), Event::Removed { .. }]), "{:?}", moved.events);
    assert_eq!(moved.blocks, 2, "nothing is said of its children");
}

// === With a master's words, a real publisher, followers and indices ===

struct World {
    residents: Arc<Residents>,
    tenants: [Tenant; 2],
    nodes: [Node; 2],
    /// Path, tenant, key, node, in memory?
    copies: BTreeSet<(Path, usize, u8, usize, bool)>,
}

impl World {
    /// Of the stream only the last `ring` batches can be had one by one.
    fn start(ring: usize) -> Self {
        let any = || "tcp://127.0.0.1:0".to_owned();
        let settings = publish::Settings {
            buffer_steps: ring,
            heartbeat: Duration::from_millis(50),
            ..publish::Settings::of_relay(any(), any(), 16)
        };
        let residents = Residents::start(settings).unwrap();
        // Only a master gives out the words for tenants and nodes.
        let master = Master::new(Options::default(), Arc::new(Deaf), Arc::new(Deaf));
        let tenants = ["a", "b"].map(|name| master.tenant(name).unwrap());
        let joining = |id| Joining { id, life: 1, memory: 1 << 20, disk: 1 << 20 };
        let nodes = ["x", "y"].map(|id| master.join(&joining(id)).unwrap().node);
        Self { residents, tenants, nodes, copies: BTreeSet::new() }
    }

    /// A copy comes if it is not there, and else goes.
    fn turn(&mut self, copy: (Path, usize, u8, usize, bool)) {
        let here = !self.copies.remove(&copy);
        self.say(&copy, &block(&copy.0), here);
        if here {
            self.copies.insert(copy);
        }
    }

    fn say(
        &self,
        (path, tenant, key, node, memory): &(Path, usize, u8, usize, bool),
        block: &Block,
        here: bool,
    ) {
        let key = [&path[..], b"/", &[*key]].concat();
        self.residents.changed(&Change {
            tenant: self.tenants[*tenant],
            key: &key,
            version: Version(1),
            size: 1,
            block,
            node: self.nodes[*node],
            tier: if *memory { Tier::Memory } else { Tier::Disk },
            here,
        });
    }

    fn here(&self) -> BTreeMap<Path, u8> {
        let mut here = BTreeMap::new();
        for (path, _, _, _, memory) in &self.copies {
            *here.entry(path.clone()).or_default() |= if *memory { 1 } else { 2 };
        }
        here
    }

    fn follow(&self) -> (Arc<Index>, Follower) {
        let index = Arc::new(Index::new());
        let source = Source {
            worker: STORE,
            endpoint: self.residents.endpoint().to_owned(),
            bind: false,
            replay: Some(self.residents.replay_endpoint().to_owned()),
            topic: String::new(),
        };
        let follower = Follower::start(source, IndexSink::new(index.clone()), follow::Settings::default());
        (index, follower)
    }

    /// What an index says is what a naive look at the copies says, of every block.
    fn agrees(&self, index: &Index) -> Result<(), String> {
        let here = self.here();
        let held = index.workers().iter().find(|(worker, ..)| *worker == STORE).map_or(0, |(.., held)| *held);
        if held != tellable(&here).len() {
            return Err(format!("{held} blocks are held, {} can be", tellable(&here).len()));
        }
        let mut found = Matches::default();
        for path in paths(4) {
            index.lookup(&chain(&path), &mut found);
            let on = |bits: u8| {
                let there = |to: &usize| here.get(&path[..*to]).is_some_and(|on| on & bits != 0);
                (1..=path.len()).take_while(there).count()
            };
            let told = found
                .of(STORE)
                .map_or((0, 0), |one| (one.on(blocks::Tier::Host), one.on(blocks::Tier::Store)));
            if told != (on(1), on(3)) {
                return Err(format!("{path:?}: {told:?} is told, {:?} is there", (on(1), on(3))));
            }
        }
        index.check()
    }

    /// Waits until everything is said and heard.
    async fn heard(&self, (index, follower): &(Arc<Index>, Follower), who: &str) {
        let mut last = String::new();
        for _ in 0..1_000 {
            let said = self.residents.counts().pending == 0;
            let exact = index.view(STORE) == Some(View::Exact);
            match self.agrees(index) {
                Ok(()) if said && exact => return,
                Ok(()) => last = "it is not exact yet".to_owned(),
                Err(why) => last = why,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{who}: {last}; {:?}", follower.status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_knows_what_is_there_from_the_beginning_or_late() {
    let all = paths(4);
    for seed in 0..4 {
        let mut chance = Chance::new(seed);
        let mut world = World::start(4);
        let early = world.follow();
        for round in 0..4 {
            for _ in 0..400 {
                // Shallow ones more often, or nothing would ever be whole.
                let path = all[chance.below(all.len())].clone();
                let path = path[..=chance.below(path.len())].to_vec();
                let copy =
                    (path, chance.below(2), chance.below(2) as u8, chance.below(2), chance.below(2) == 0);
                world.turn(copy);
            }
            world.heard(&early, &format!("seed {seed}, round {round}: from the beginning")).await;
            // The ring has long lost what came first: only a snapshot says all.
            let late = world.follow();
            world.heard(&late, &format!("seed {seed}, round {round}: late")).await;
            assert_eq!(late.1.status().counters.refused, 0);
        }
        assert_eq!(early.1.status().counters.refused, 0, "no parent was ever unknown");
        let counts = world.residents.counts();
        assert_eq!(counts.blocks, world.here().len());
        assert_eq!(
            (counts.told, counts.told + counts.held_back),
            (tellable(&world.here()).len(), counts.blocks)
        );
        for path in &all {
            let keys: BTreeSet<(u16, Box<[u8]>)> = world
                .residents
                .keys(&[prefix(path)])
                .into_iter()
                .map(|(tenant, key)| (tenant.number(), key))
                .collect();
            let expected =
                world.copies.iter().filter(|(carried, ..)| carried == path).map(|(_, tenant, key, ..)| {
                    let key: Box<[u8]> = [&path[..], b"/", &[*key]].concat().into();
                    (world.tenants[*tenant].number(), key)
                });
            assert_eq!(keys, expected.collect());
        }
        // When all has gone, nothing is remembered.
        for copy in world.copies.clone() {
            world.turn(copy);
        }
        world.heard(&early, &format!("seed {seed}: at the end")).await;
        let counts = world.residents.counts();
        assert_eq!((counts.blocks, counts.objects, counts.told, counts.held_back), (0, 0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_is_no_block_of_ours_is_counted_and_not_told() {
    let mut world = World::start(16);
    let listener = world.follow();
    world.turn((vec![0], 0, 0, 0, true));
    let copy = (vec![0, 1], 0, 0, 0, true);
    let right = block(&copy.0);
    let wrong = [
        Block { tokens: right.tokens + 1, ..right },
        Block { parent: None, ..right },
        Block { parent: Some([7; 32]), ..right },
        Block { hash: std::array::from_fn(|at| right.hash[at] | u8::from(at == 31)), ..right },
    ];
    for block in &wrong {
        world.say(&copy, block, true);
    }
    assert_eq!(world.residents.counts().misfits, 4);
    world.heard(&listener, "beside what is wrong").await;
    for block in &wrong {
        world.say(&copy, block, false);
    }
    world.turn(copy);
    world.heard(&listener, "after it").await;
    assert_eq!(world.residents.counts().misfits, 4, "what goes is not counted again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_hears_how_far_the_master_knows_its_nodes() {
    let mut world = World::start(16);
    world.residents.state(View::Recovering);
    let (index, _follower) = world.follow();
    let is = async |view| {
        for _ in 0..1_000 {
            if index.view(STORE) == Some(view) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    };
    assert!(is(View::Recovering).await, "{:?}", index.view(STORE));
    world.turn((vec![0], 0, 0, 0, true));
    world.residents.state(View::Exact);
    assert!(is(View::Exact).await, "{:?}", index.view(STORE));
    assert_eq!(world.agrees(&index), Ok(()), "what came before it is there when it is exact");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_tells_of_what_is_put_and_what_is_removed() {
    let world = World::start(16);
    let master = Master::new(Options::default(), Arc::new(Deaf), world.residents.clone());
    let tenant = master.tenant("a").unwrap();
    let joined = master.join(&Joining { id: "x", life: 1, memory: 1 << 20, disk: 1 << 20 }).unwrap();
    master.begin_inventory(joined.node, 1).unwrap();
    master.end_inventory(joined.node, 1, 0, Millis(0)).unwrap();
    let put = |path: &[u8]| {
        let reserved =
            master.reserve(&Put { block: Some(block(path)), ..Put::new(tenant, path, 100) }, Millis(0));
        master.commit(reserved.unwrap().put, &Terms::default(), Millis(0)).unwrap();
    };
    let (index, _follower) = world.follow();
    let reach = async |expected: usize| {
        let mut found = Matches::default();
        for _ in 0..1_000 {
            index.lookup(&chain(&[0, 1]), &mut found);
            let told = found.of(STORE).map_or(0, |one| one.on(blocks::Tier::Host));
            if told == expected && world.residents.counts().pending == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{expected} blocks should be told of: {:?}", found.of(STORE));
    };
    put(&[0, 1]);
    reach(0).await;
    assert_eq!(world.residents.counts().held_back, 1);
    put(&[0]);
    reach(2).await;
    assert_eq!(world.residents.keys(&[prefix(&[0, 1]), prefix(&[0])]).len(), 2);
    master.remove(tenant, &[0]).unwrap();
    reach(0).await;
    assert_eq!((world.residents.counts().told, world.residents.counts().held_back), (0, 1));
}

#[test]
fn an_object_costs_two_hundred_bytes_beside_its_key() {
    let world = World::start(16);
    let (many, path) = (20_000_u32, |number: u32| number.to_le_bytes().to_vec());
    for number in 0..many {
        // Each a prompt of its own, and the rest of it.
        let path = path(number);
        let tokens = u64::from(u32::from_le_bytes([path[0], path[1], path[2], path[3]]));
        let prefix = PrefixHash(xxhash_rust::xxh3::xxh3_64(&tokens.to_le_bytes()));
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&prefix.0.to_le_bytes());
        let block = Block { hash, parent: None, tokens: prefix.0 };
        world.say(&(path, 0, 0, 0, true), &block, true);
    }
    while world.residents.counts().pending > 0 {
        std::thread::yield_now();
    }
    let counts = world.residents.counts();
    let keys = many as usize * 6;
    assert_eq!((counts.blocks, counts.told), (many as usize, many as usize));
    let each = (counts.heap_bytes - keys) / many as usize;
    assert!((100..=330).contains(&each), "{each} bytes an object");
}
