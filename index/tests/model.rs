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
    /// Stores the blocks of `path` from `from` on; the last one under a borrowed name, if there is one.
    Store {
        worker: u8,
        path: Path,
        from: usize,
        tier: Tier,
        borrowed: Option<u8>,
    },
    Remove {
        worker: u8,
        path: Path,
        tier: Tier,
        borrowed: Option<u8>,
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

/// What one worker holds: for each of its names the path and the copies on each tier, and what is expected of it.
#[derive(Clone, Debug, Default)]
struct Held {
    names: BTreeMap<EngineHash, (Path, [u32; 4])>,
    expected: Vec<(u64, Path)>,
}

#[derive(Default)]
struct Model(HashMap<u8, Held>);

impl Held {
    fn told(&self, path: &Path) -> Option<Tier> {
        let copies = |tier: Tier| {
            self.names.values().any(|(named, copies)| named == path && copies[tier as usize] > 0)
        };
        Tier::ALL.into_iter().find(|tier| copies(*tier))
    }
}

impl Model {
    fn holds(&self, worker: u8, path: &Path) -> Option<Tier> {
        let held = self.0.get(&worker)?;
        if held.expected.iter().any(|(_, expected)| expected == path) {
            return Some(Tier::Device);
        }
        held.told(path)
    }

    /// Blocks from the first on that all lie on `tier` or nearer.
    fn depth(&self, worker: u8, path: &Path, tier: Tier) -> usize {
        let near =
            |depth: &usize| self.holds(worker, &path[..*depth].to_vec()).is_some_and(|found| found <= tier);
        (1..=path.len()).take_while(near).count()
    }

    fn store(&mut self, worker: u8, stored: &Stored, letters: &[u8]) -> bool {
        let held = self.0.entry(worker).or_default();
        let mut path = match stored.parent.map(|parent| held.names.get(&parent)) {
            Some(None) => return false,
            Some(Some((path, _))) => path.clone(),
            None => Path::new(),
        };
        for (block, letter) in stored.blocks.iter().zip(letters) {
            path.push(*letter);
            held.expected.retain(|(_, expected)| *expected != path);
            let (named, copies) = held.names.entry(block.engine).or_default();
            if *named != path {
                // One name for two blocks means the newer one.
                (*named, *copies) = (path.clone(), [0; 4]);
            }
            copies[stored.tier as usize] += 1;
        }
        true
    }

    fn remove(&mut self, worker: u8, name: EngineHash, tier: Tier) {
        let Some(held) = self.0.get_mut(&worker) else { return };
        let Some((_, copies)) = held.names.get_mut(&name) else { return };
        copies[tier as usize] = copies[tier as usize].saturating_sub(1);
        if *copies == [0; 4] {
            held.names.remove(&name);
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

/// Names that an engine gives to one block after the other, or to one block beside its own.
fn borrowed_name(borrowed: u8) -> EngineHash {
    EngineHash(u64::from(borrowed) + 1)
}

fn stored(number: u8, path: &Path, from: usize, tier: Tier) -> Stored {
    let blocks =
        (from..path.len()).map(|i| Block { engine: name(number, &path[..=i]), tokens: tokens(path)[i] });
    let parent = (from > 0).then(|| name(number, &path[..from]));
    Stored { parent, blocks: blocks.collect(), tier }
}

fn stored_as(number: u8, path: &Path, from: usize, tier: Tier, borrowed: Option<u8>) -> Stored {
    let mut stored = stored(number, path, from, tier);
    if let (Some(last), Some(borrowed)) = (stored.blocks.last_mut(), borrowed) {
        last.engine = borrowed_name(borrowed);
    }
    stored
}

fn path() -> impl Strategy<Value = Path> {
    proptest::collection::vec(0_u8..3, 1..7)
}

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![4 => Just(Tier::Device), 1 => Just(Tier::Host), 1 => Just(Tier::Disk), 1 => Just(Tier::Store)]
}

fn step() -> impl Strategy<Value = Step> {
    let worker = || 0_u8..4;
    let borrowed = || prop_oneof![6 => Just(None), 1 => (0_u8..3).prop_map(Some)];
    prop_oneof![
        12 => (worker(), path(), 0_usize..7, tier(), borrowed()).prop_map(|(worker, path, from, tier, borrowed)| {
            Step::Store { worker, from: from.min(path.len() - 1), path, tier, borrowed }
        }),
        4 => (worker(), path(), tier(), borrowed())
            .prop_map(|(worker, path, tier, borrowed)| Step::Store { worker, path, from: 0, tier, borrowed }),
        10 => (worker(), path(), tier(), borrowed())
            .prop_map(|(worker, path, tier, borrowed)| Step::Remove { worker, path, tier, borrowed }),
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
        Step::Store { worker: number, path, from, tier, borrowed } => {
            let stored = stored_as(number, &path, from, tier, borrowed);
            let taken = model.store(number, &stored, &path[from..]);
            let applied = index.apply(worker(number), &Event::Stored(stored));
            assert_eq!(applied.is_ok(), taken, "{number} {path:?} from {from}");
        }
        Step::Remove { worker: number, path, tier, borrowed } => {
            let name = borrowed.map_or_else(|| name(number, &path), borrowed_name);
            index.apply(worker(number), &Event::Removed { blocks: vec![name], tier }).unwrap();
            model.remove(number, name, tier);
        }
        Step::Clear { worker: number } => {
            index.apply(worker(number), &Event::Cleared).unwrap();
            model.0.entry(number).or_default().names.clear();
        }
        Step::Forget { worker: number } => {
            index.forget(worker(number));
            model.0.remove(&number);
        }
        Step::Replace { worker: number, paths } => {
            let all: Vec<Stored> = paths.iter().map(|path| stored(number, path, 0, Tier::Device)).collect();
            model.0.insert(number, Held::default());
            for (stored, path) in all.iter().zip(&paths) {
                model.store(number, stored, path);
            }
            let events: Vec<Event> = all.into_iter().map(Event::Stored).collect();
            index.replace(worker(number), &events).unwrap();
        }
        Step::Expect { worker: number, path, until } => {
            index.expect(worker(number), &tokens(&path), Duration::from_secs(until));
            let held = model.0.entry(number).or_default();
            for depth in 1..=path.len() {
                let path = path[..depth].to_vec();
                if held.told(&path).is_none() {
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
    fn a_copy_holds_what_lies_below_holes_too(
        steps in proptest::collection::vec(step(), 1..80),
        asked in proptest::collection::vec(path(), 1..6),
    ) {
        let index = Index::new();
        let mut model = Model::default();
        for step in steps {
            take(&index, &mut model, step);
        }
        index.expire(Duration::from_secs(1_000));
        let held = |index: &Index, number: u8| {
            index.workers().iter().find(|(known, ..)| *known == worker(number)).map_or(0, |(_, _, held)| *held)
        };
        for number in 0..4 {
            let (again, copy) = (Index::new(), index.copy(worker(number)));
            prop_assert_eq!(again.replace(worker(number), &copy.events), Ok(0));
            prop_assert_eq!(again.check(), Ok(()));
            prop_assert_eq!(held(&again, number) + copy.left_out, held(&index, number));
            if copy.left_out > 0 {
                continue;
            }
            // What comes back makes the same usable in both.
            for path in &asked {
                let (mut before, mut after) = (Matches::default(), Matches::default());
                // Only its beginning: what lies behind it must have been there.
                let beginning = path[..path.len().div_ceil(2)].to_vec();
                let event = Event::Stored(stored(number, &beginning, 0, Tier::Device));
                index.apply(worker(number), &event).unwrap();
                again.apply(worker(number), &event).unwrap();
                index.lookup(&tokens(path), &mut before);
                again.lookup(&tokens(path), &mut after);
                for tier in Tier::ALL {
                    let depth = |found: &Matches| found.of(worker(number)).map_or(0, |found| found.on(tier));
                    prop_assert_eq!(depth(&before), depth(&after));
                }
            }
        }
    }

    #[test]
    fn memory_returns_when_everything_is_removed(paths in proptest::collection::vec(path(), 1..60)) {
        let index = Index::new();
        for path in &paths {
            index.apply(worker(1), &Event::Stored(stored(1, path, 0, Tier::Device))).unwrap();
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
    let views = [&deep, &shallow].map(|path| [Event::Stored(stored(1, path, 0, Tier::Device))]);
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
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    // The worker stores a chain block by block and removes it from its end, 300 times. The writer counts its steps
    // before and after each; so a reader knows which depths were true at any moment of its question.
    const ROUND: usize = 64;
    let depth_after = |steps: usize| {
        let at = steps % ROUND;
        at.min(ROUND - at)
    };
    let index = Index::new();
    let path: Path = (0..32).map(|i| (i * 7 % 3) as u8).collect();
    let chain = tokens(&path);
    index.apply(worker(2), &Event::Stored(stored(2, &path, 0, Tier::Device))).unwrap();
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let reader = || {
            let mut found = Matches::default();
            let mut moved = 0;
            loop {
                let from = done.load(SeqCst);
                index.lookup(&chain, &mut found);
                let to = begun.load(SeqCst);
                let bystander = found.of(worker(2)).map(index::Match::blocks);
                assert_eq!(bystander, Some(32), "a bystander's answer moved");
                let seen = found.of(worker(1)).map_or(0, index::Match::blocks);
                assert!(
                    (from..=to).any(|step| depth_after(step) == seen),
                    "{seen} between steps {from} and {to}"
                );
                moved += usize::from(seen != 0 && seen != 32);
                if from == 300 * ROUND {
                    return moved;
                }
            }
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for step in 0..300 * ROUND {
            begun.store(step + 1, SeqCst);
            let at = step % ROUND;
            let event = if at < 32 {
                Event::Stored(stored(1, &path[..=at].to_vec(), at, Tier::Device))
            } else {
                Event::Removed { blocks: vec![name(1, &path[..ROUND - at])], tier: Tier::Device }
            };
            index.apply(worker(1), &event).unwrap();
            done.store(step + 1, SeqCst);
        }
        let moved: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(moved > 0, "the readers saw something between nothing and everything");
    });
    assert_eq!(index.check(), Ok(()));
}

/// Asking how much is held must not stop those who ask where: once, it locked the workers twice, and with a writer
/// waiting between the two nobody went on.
#[test]
fn whoever_counts_stops_nobody() {
    let index = Index::new();
    let path: Path = (0..16).map(|i| i % 3).collect();
    index.apply(worker(1), &Event::Stored(stored(1, &path, 0, Tier::Device))).unwrap();
    let chain = tokens(&path);
    let counts = |_| assert_eq!(index.counts().held, 16);
    let lists = |_| assert!(!index.workers().is_empty() && !index.dump(worker(1)).is_empty());
    let marks = |i| index.set_view(worker((i % 3) as u8 + 1), View::Exact);
    let asks = |_| assert!(!index.lookup_batch(&[&chain])[0].is_empty());
    let all: [&(dyn Fn(u64) + Sync); 4] = [&counts, &lists, &marks, &asks];
    std::thread::scope(|scope| {
        for one in all {
            scope.spawn(move || (0..20_000).for_each(one));
        }
    });
}

/// More blocks than one run, one chunk, one line of the table and one page hold, in the order of an engine's names.
#[test]
fn long_chains_and_many_forks_add_up() {
    let index = Index::new();
    let hash = |a: u64, b: u64| TokensHash((a << 32 | b).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let chain_of = |fork: u64| -> Vec<TokensHash> {
        (0..900).map(|at| if at < 10 * fork { hash(0, at) } else { hash(fork, at) }).collect()
    };
    let name = |fork: u64, at: u64| EngineHash(fork << 32 | at);
    let forks = 60;
    for fork in 0..forks {
        let first = if fork == 0 { 0 } else { 10 * fork };
        let chain = chain_of(fork);
        for from in (first..900).step_by(7) {
            let blocks = (from..(from + 7).min(900))
                .map(|at| Block { engine: name(fork, at), tokens: chain[at as usize] });
            let parent = (from > 0).then(|| name(if from == first { 0 } else { fork }, from - 1));
            let event = Event::Stored(Stored { parent, blocks: blocks.collect(), tier: Tier::Device });
            index.apply(worker(1), &event).unwrap();
        }
    }
    assert_eq!(index.check(), Ok(()));
    let mut found = Matches::default();
    for fork in 0..forks {
        index.lookup(&chain_of(fork), &mut found);
        assert_eq!(found.of(worker(1)).map(index::Match::blocks), Some(900), "fork {fork}");
    }
    let again = Index::new();
    assert_eq!(again.replace(worker(1), &index.dump(worker(1))), Ok(0));
    assert_eq!((again.counts().held, again.check()), (index.counts().held, Ok(())));
    // The trunk goes first, then every other block of the forks, then the rest.
    let mut left = index.counts().held;
    for (part, step) in [(0, 1), (1, 2), (1, 1)] {
        for fork in part..forks {
            for at in (10 * fork..900).step_by(step) {
                let applied = index
                    .apply(worker(1), &Event::Removed { blocks: vec![name(fork, at)], tier: Tier::Device });
                left -= applied.unwrap().removed;
                if fork == 0 && part == 0 && at % 300 == 0 {
                    assert_eq!(index.check(), Ok(()));
                }
            }
            if part == 0 {
                break;
            }
        }
        assert_eq!((index.counts().held, index.check()), (left, Ok(())));
    }
    assert_eq!((left, index.counts().heap_bytes), (0, 0));
}
