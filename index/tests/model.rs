//! The index against a naive model: the same random histories, the same answer to every question.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use blocks::{Block, BlockSize, EngineHash, Event, Hasher, Seed, Stored, Tier, TokensHash, View, Worker};
use index::{Index, Matches};
use proptest::prelude::*;

/// The texts of these tests: a few letters, so that prefixes are shared and collide.
type Path = Vec<u8>;

#[derive(Clone, Debug)]
enum Step {
    /// Stores the blocks of `path` from `from` on.
    Store {
        worker: u8,
        path: Path,
        from: usize,
        tier: Tier,
    },
    Remove {
        worker: u8,
        path: Path,
        tier: Tier,
    },
    Clear {
        worker: u8,
    },
    Forget {
        worker: u8,
    },
    Replace {
        worker: u8,
        paths: Vec<Path>,
    },
    Expect {
        worker: u8,
        path: Path,
        until: u64,
    },
    Expire {
        now: u64,
    },
}

/// What one worker holds: for each path its copies on each tier, and what is expected of it.
#[derive(Clone, Debug, Default)]
struct Held {
    copies: BTreeMap<Path, [u32; 4]>,
    expected: Vec<(u64, Path)>,
}

#[derive(Default)]
struct Model(HashMap<u8, Held>);

impl Model {
    fn holds(&self, worker: u8, path: &Path) -> Option<Tier> {
        let held = self.0.get(&worker)?;
        let copies = held.copies.get(path).copied().unwrap_or_default();
        if held.expected.iter().any(|(_, expected)| expected == path) {
            return Some(Tier::Device);
        }
        Tier::ALL.into_iter().find(|tier| copies[*tier as usize] > 0)
    }

    /// Blocks from the first on that all lie on `tier` or nearer.
    fn depth(&self, worker: u8, path: &Path, tier: Tier) -> usize {
        let near =
            |depth: &usize| self.holds(worker, &path[..*depth].to_vec()).is_some_and(|found| found <= tier);
        (1..=path.len()).take_while(near).count()
    }

    fn store(&mut self, worker: u8, path: &Path, from: usize, tier: Tier) -> bool {
        let held = self.0.entry(worker).or_default();
        if from > 0 && !held.copies.contains_key(&path[..from]) {
            return false;
        }
        for depth in from + 1..=path.len() {
            let path = path[..depth].to_vec();
            held.expected.retain(|(_, expected)| *expected != path);
            held.copies.entry(path).or_default()[tier as usize] += 1;
        }
        true
    }

    fn remove(&mut self, worker: u8, path: &Path, tier: Tier) {
        let Some(held) = self.0.get_mut(&worker) else { return };
        let Some(copies) = held.copies.get_mut(path) else { return };
        copies[tier as usize] = copies[tier as usize].saturating_sub(1);
        if *copies == [0; 4] {
            held.copies.remove(path);
        }
    }
}

fn worker(number: u8) -> Worker {
    Worker { instance: u64::from(number), rank: u32::from(number % 2) }
}

fn tokens(path: &Path) -> Vec<TokensHash> {
    hasher().tokens_hashes(&path.iter().map(|letter| u32::from(*letter)).collect::<Vec<_>>())
}

fn hasher() -> Hasher {
    Hasher::new(BlockSize::new(1).unwrap(), Seed::PLAIN)
}

/// Each worker names blocks in its own way.
fn name(number: u8, path: &[u8]) -> EngineHash {
    EngineHash(
        path.iter()
            .fold(u64::from(number) + 1, |hash, letter| hash.wrapping_mul(31) + u64::from(*letter) + 7),
    )
}

fn stored(number: u8, path: &Path, from: usize, tier: Tier) -> Event {
    let blocks =
        (from..path.len()).map(|i| Block { engine: name(number, &path[..=i]), tokens: tokens(path)[i] });
    let parent = (from > 0).then(|| name(number, &path[..from]));
    Event::Stored(Stored { parent, blocks: blocks.collect(), tier })
}

fn path() -> impl Strategy<Value = Path> {
    proptest::collection::vec(0_u8..3, 1..7)
}

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![4 => Just(Tier::Device), 1 => Just(Tier::Host), 1 => Just(Tier::Disk), 1 => Just(Tier::Store)]
}

fn step() -> impl Strategy<Value = Step> {
    let worker = || 0_u8..4;
    prop_oneof![
        12 => (worker(), path(), 0_usize..7, tier())
            .prop_map(|(worker, path, from, tier)| Step::Store { worker, from: from.min(path.len() - 1), path, tier }),
        4 => (worker(), path(), Just(0), tier())
            .prop_map(|(worker, path, from, tier)| Step::Store { worker, path, from, tier }),
        10 => (worker(), path(), tier()).prop_map(|(worker, path, tier)| Step::Remove { worker, path, tier }),
        1 => worker().prop_map(|worker| Step::Clear { worker }),
        1 => worker().prop_map(|worker| Step::Forget { worker }),
        1 => (worker(), proptest::collection::vec(path(), 0..5))
            .prop_map(|(worker, paths)| Step::Replace { worker, paths }),
        3 => (worker(), path(), 0_u64..50).prop_map(|(worker, path, until)| Step::Expect { worker, path, until }),
        1 => (0_u64..60).prop_map(|now| Step::Expire { now }),
    ]
}

fn take(index: &Index, model: &mut Model, step: Step) {
    match step {
        Step::Store { worker: number, path, from, tier } => {
            let applied = index.apply(worker(number), &stored(number, &path, from, tier));
            assert_eq!(
                applied.is_ok(),
                model.store(number, &path, from, tier),
                "{number} {path:?} from {from}"
            );
        }
        Step::Remove { worker: number, path, tier } => {
            let event = Event::Removed { blocks: vec![name(number, &path)], tier };
            index.apply(worker(number), &event).unwrap();
            model.remove(number, &path, tier);
        }
        Step::Clear { worker: number } => {
            index.apply(worker(number), &Event::Cleared).unwrap();
            model.0.entry(number).or_default().copies.clear();
        }
        Step::Forget { worker: number } => {
            index.forget(worker(number));
            model.0.remove(&number);
        }
        Step::Replace { worker: number, paths } => {
            let events: Vec<Event> = paths.iter().map(|path| stored(number, path, 0, Tier::Device)).collect();
            index.replace(worker(number), &events).unwrap();
            model.0.insert(number, Held::default());
            for path in paths {
                model.store(number, &path, 0, Tier::Device);
            }
        }
        Step::Expect { worker: number, path, until } => {
            index.expect(worker(number), &tokens(&path), Duration::from_secs(until));
            let held = model.0.entry(number).or_default();
            for depth in 1..=path.len() {
                let path = path[..depth].to_vec();
                if !held.copies.contains_key(&path) {
                    held.expected.push((until, path));
                }
            }
        }
        Step::Expire { now } => {
            index.expire(Duration::from_secs(now));
            for held in model.0.values_mut() {
                held.expected.retain(|(until, _)| *until > now);
            }
        }
    }
}

fn compare(index: &Index, model: &Model, path: &Path) {
    let mut found = Matches::default();
    index.lookup(&tokens(path), &mut found);
    for number in 0..4 {
        for tier in Tier::ALL {
            let depth = found.of(worker(number)).map_or(0, |found| found.on(tier));
            assert_eq!(depth, model.depth(number, path, tier), "worker {number} on {tier} for {path:?}");
        }
    }
    let matching = (0..4).filter(|number| model.depth(*number, path, Tier::Store) > 0).count();
    assert_eq!(found.iter().len(), matching, "only workers that hold something are listed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_lookup_agrees_with_the_model(steps in proptest::collection::vec((step(), path()), 1..120)) {
        let index = Index::new();
        let mut model = Model::default();
        for (step, asked) in steps {
            let of = match &step {
                Step::Store { path, .. } | Step::Remove { path, .. } | Step::Expect { path, .. } => path.clone(),
                _ => asked.clone(),
            };
            take(&index, &mut model, step);
            compare(&index, &model, &of);
            compare(&index, &model, &asked);
            prop_assert_eq!(index.check(), Ok(()));
        }
    }

    #[test]
    fn a_dump_builds_the_same_view_again(steps in proptest::collection::vec(step(), 1..80), asked in path()) {
        let index = Index::new();
        let mut model = Model::default();
        for step in steps {
            take(&index, &mut model, step);
        }
        index.expire(Duration::from_secs(1_000));
        for number in 0..4 {
            let again = Index::new();
            prop_assert_eq!(again.replace(worker(number), &index.dump(worker(number))), Ok(0));
            let (mut before, mut after) = (Matches::default(), Matches::default());
            let prefix = tokens(&asked);
            index.lookup(&prefix, &mut before);
            again.lookup(&prefix, &mut after);
            for tier in Tier::ALL {
                let depth = |found: &Matches| found.of(worker(number)).map_or(0, |found| found.on(tier));
                prop_assert_eq!(depth(&before), depth(&after));
            }
        }
    }

    #[test]
    fn memory_returns_when_everything_is_removed(paths in proptest::collection::vec(path(), 1..60)) {
        let index = Index::new();
        for path in &paths {
            index.apply(worker(1), &stored(1, path, 0, Tier::Device)).unwrap();
        }
        for path in &paths {
            let blocks = (1..=path.len()).rev().map(|depth| name(1, &path[..depth])).collect();
            index.apply(worker(1), &Event::Removed { blocks, tier: Tier::Device }).unwrap();
        }
        let counts = index.counts();
        prop_assert_eq!((counts.blocks, counts.held, counts.heap_bytes), (0, 0, 0));
    }
}

#[test]
fn readers_see_the_old_view_or_the_new_one_and_nothing_between() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let index = Index::new();
    let deep: Path = (0..64).map(|i| i % 3).collect();
    let shallow: Path = deep[..16].to_vec();
    let views = [vec![stored(1, &deep, 0, Tier::Device)], vec![stored(1, &shallow, 0, Tier::Device)]];
    index.replace(worker(1), &views[0]).unwrap();
    index.set_view(worker(1), View::Exact);
    let prefix = tokens(&deep);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            let mut found = Matches::default();
            let mut seen = [0_u32; 2];
            while !done.load(Ordering::Relaxed) {
                index.lookup(&prefix, &mut found);
                match found.of(worker(1)).map(|found| (found.blocks(), found.view)) {
                    Some((64, View::Exact)) => seen[0] += 1,
                    Some((16, View::Exact)) => seen[1] += 1,
                    other => panic!("a mixture or a hole: {other:?}"),
                }
            }
            seen
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for i in 0..4_000 {
            index.replace(worker(1), &views[i % 2]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert_eq!(index.check(), Ok(()));
}

#[test]
fn lookups_during_events_only_return_what_was_true_at_some_moment() {
    use std::sync::atomic::{AtomicBool, Ordering};

    // The worker stores a chain block by block and removes it from its end: at every moment the truth is a
    // depth between 0 and 32, and it moves by one. A torn read would show a worker that holds nothing of the
    // first block but something of later ones, which the index could only answer with a wrong depth.
    let index = Index::new();
    let path: Path = (0..32).map(|i| (i * 7 % 3) as u8).collect();
    let prefix = tokens(&path);
    index.apply(worker(2), &stored(2, &path, 0, Tier::Device)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            let mut found = Matches::default();
            while !done.load(Ordering::Relaxed) {
                index.lookup(&prefix, &mut found);
                assert_eq!(
                    found.of(worker(2)).map(index::Match::blocks),
                    Some(32),
                    "a bystander's answer moved"
                );
                assert!(found.of(worker(1)).map_or(0, index::Match::blocks) <= 32);
            }
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for _ in 0..300 {
            for depth in 0..32 {
                index.apply(worker(1), &stored(1, &path[..=depth].to_vec(), depth, Tier::Device)).unwrap();
            }
            for depth in (1..=32).rev() {
                let blocks = vec![name(1, &path[..depth])];
                index.apply(worker(1), &Event::Removed { blocks, tier: Tier::Device }).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert_eq!(index.check(), Ok(()));
}
