//! An engine with a tier behind its cache: what is loaded is not computed, what is slow is not waited for, and nobody is stuck.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blocks::{EngineHash, PrefixHash, TokensHash};
use proptest::prelude::*;
use sim::engine::second::{Kept, Offload, Second};
use sim::engine::{Engine, Job, Output, Shape, Text, Told, What};

const SIZE: usize = 4;

/// A job over the text 0, 1, 2, … of `family`, so that jobs of one family share their prefix.
fn job(id: u64, family: u64, prompt: usize, output: usize) -> Job {
    let tokens_hashes: Vec<_> =
        (0..((prompt + output) / SIZE) as u64).map(|i| TokensHash(family << 32 | i)).collect();
    let prefix_hashes = PrefixHash::chain(&tokens_hashes);
    Job { id, prompt, output, text: Arc::new(Text { tokens_hashes, prefix_hashes, ..Text::default() }) }
}

fn engine(blocks: usize, second: Second) -> Engine {
    let shape = Shape { block_size: SIZE, blocks, max_running: 3, step_tokens: 64, ..Shape::default() };
    Engine::new(Shape { second: Some(second), ..shape })
}

/// Lets time pass until nothing happens any more, and nobody answers.
fn run(engine: &mut Engine) -> Vec<Output> {
    let mut out = Vec::new();
    while let Some(at) = engine.next_at() {
        engine.advance(at, &mut out);
        assert_eq!(engine.cache().check(), Ok(()));
    }
    out
}

/// When a job got its first token, how much of its prompt was cached, and how much of that was loaded.
fn first(out: &[Output], id: u64) -> (Duration, usize, usize) {
    let token = out.iter().find_map(|output| match output.what {
        What::Token { job, count: 1, cached, loaded, .. } if job == id => Some((output.at, cached, loaded)),
        _ => None,
    });
    token.expect("the job got a token")
}

fn wants(out: &[Output]) -> Vec<(u64, usize, usize)> {
    let one = |output: &Output| match &output.what {
        What::Wants { job, first, blocks, .. } => Some((*job, *first, *blocks)),
        _ => None,
    };
    out.iter().filter_map(one).collect()
}

fn stops(out: &[Output]) -> Vec<(Duration, u64)> {
    let one = |output: &Output| match output.what {
        What::Stops { job } => Some((output.at, job)),
        _ => None,
    };
    out.iter().filter_map(one).collect()
}

fn offloaded(out: &[Output]) -> Vec<Kept> {
    let one = |output: &Output| match &output.what {
        What::Offloads(blocks) => blocks.clone(),
        _ => Vec::new(),
    };
    out.iter().flat_map(one).collect()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn what_is_loaded_is_not_computed_and_counts_as_cached() {
    let mut engine = engine(1_000, Second::default());
    engine.submit(job(1, 7, 1_001, 1), Duration::ZERO);
    let mut out = Vec::new();
    engine.advance(Duration::ZERO, &mut out);
    assert_eq!(wants(&out), [(1, 0, 250)]);
    assert!(engine.found(1, 200, ms(1)) && engine.loaded(1, 120, ms(3)) && engine.loaded(1, 200, ms(5)));
    assert!(!engine.loaded(1, 200, ms(5)), "it runs");
    out.extend(run(&mut engine));
    // 201 tokens are left: four steps of at most 64.
    let cost = engine.shape().cost;
    let computing = cost.step(64, 0) * 3 + cost.step(9, 0);
    assert_eq!(first(&out, 1), (ms(5) + computing, 800, 800));
    assert_eq!(stops(&out), []);
    // Only what it computed is put there; all of it can be found from now on.
    let text = job(1, 7, 1_001, 1).text;
    assert_eq!(offloaded(&out), (200..250).map(|block| Kept::of(&text, block)).collect::<Vec<_>>());
    assert_eq!(engine.cached(&job(2, 7, 1_001, 1)), 1_000);
}

#[test]
fn own_hits_are_not_asked_for() {
    let mut engine = engine(1_000, Second::default());
    engine.submit(job(1, 7, 400, 1), Duration::ZERO);
    run(&mut engine);
    let now = ms(60_000);
    engine.submit(job(2, 7, 801, 1), now);
    engine.submit(job(3, 7, 401, 1), now);
    let mut out = Vec::new();
    engine.advance(now, &mut out);
    assert_eq!(wants(&out), [(2, 100, 100)], "the third has all it can have");
    engine.found(2, 100, now);
    engine.loaded(2, 100, now);
    out.extend(run(&mut engine));
    assert_eq!((first(&out, 2).1, first(&out, 2).2), (800, 400));
    assert_eq!((first(&out, 3).1, first(&out, 3).2), (400, 0));
}

#[test]
fn others_run_while_a_job_loads() {
    let mut engine = engine(1_000, Second { patience: 100.0, ..Second::default() });
    engine.submit(job(1, 1, 401, 1), Duration::ZERO);
    engine.submit(job(2, 2, 64, 1), Duration::ZERO);
    let mut out = Vec::new();
    engine.advance(Duration::ZERO, &mut out);
    engine.found(1, 100, Duration::ZERO);
    engine.found(2, 0, Duration::ZERO);
    let computed = engine.shape().cost.step(64, 0);
    engine.advance(computed, &mut out);
    assert_eq!(first(&out, 2), (computed, 0, 0));
    assert_eq!((engine.loading(), engine.load()), (1, (0, 1)));
    engine.loaded(1, 100, ms(500));
    out.extend(run(&mut engine));
    assert_eq!(first(&out, 1), (ms(500) + engine.shape().cost.step(1, 0), 400, 400));
}

#[test]
fn a_load_that_takes_longer_than_computing_is_given_up_and_what_came_counts() {
    let mut engine = engine(1_000, Second::default());
    engine.submit(job(1, 1, 65, 1), Duration::ZERO);
    let mut out = Vec::new();
    engine.advance(Duration::ZERO, &mut out);
    engine.found(1, 16, Duration::ZERO);
    engine.loaded(1, 10, ms(1));
    out.extend(run(&mut engine));
    let cost = engine.shape().cost;
    let bound = cost.step(64, 0);
    assert_eq!(stops(&out), [(bound, 1)]);
    assert_eq!(first(&out, 1), (bound + cost.step(25, 0), 40, 40));
    // A tier that does not even say what it has is not waited for either.
    let now = ms(9_000);
    engine.submit(job(2, 2, 65, 1), now);
    out.extend(run(&mut engine));
    assert_eq!(stops(&out)[1..], [(now + bound, 2)]);
    assert_eq!((first(&out, 2).1, first(&out, 2).2), (0, 0));
}

#[test]
fn what_turns_out_to_be_gone_is_not_waited_for() {
    let mut engine = engine(1_000, Second::default());
    engine.submit(job(1, 1, 65, 1), Duration::ZERO);
    let mut out = Vec::new();
    engine.advance(Duration::ZERO, &mut out);
    engine.found(1, 16, ms(0));
    engine.loaded(1, 5, ms(1));
    assert!(engine.found(1, 3, ms(2)), "fewer than have arrived: those are kept");
    out.extend(run(&mut engine));
    assert_eq!((first(&out, 1).2, stops(&out).len()), (20, 0));
}

#[test]
fn an_aborted_load_leaves_its_room_to_the_next() {
    let mut engine = engine(100, Second { patience: 100.0, ..Second::default() });
    engine.submit(job(1, 1, 301, 1), Duration::ZERO);
    engine.submit(job(2, 2, 301, 1), Duration::ZERO);
    let mut out = Vec::new();
    engine.advance(Duration::ZERO, &mut out);
    assert_eq!(wants(&out), [(1, 0, 75)], "there is no room for both");
    engine.found(1, 75, Duration::ZERO);
    assert!(engine.abort(1) && !engine.abort(1));
    assert_eq!(engine.cache().available(), 100);
    engine.advance(ms(10), &mut out);
    assert_eq!(wants(&out)[1..], [(2, 0, 75)]);
    assert!(!engine.loaded(1, 75, ms(11)));
    out.extend(run(&mut engine));
    assert_eq!(first(&out, 2).1, 0);
}

#[test]
fn what_is_evicted_is_put_there_when_its_last_copy_goes() {
    let mut engine = engine(20, Second { offload: Offload::Evicted, ..Second::default() });
    let mut out = Vec::new();
    for id in 1..=2 {
        engine.submit(job(id, 1, 40, 9), ms(10_000 * id));
        out.extend(run(&mut engine));
    }
    assert_eq!(offloaded(&out), []);
    engine.submit(job(3, 3, 79, 1), ms(50_000));
    out.extend(run(&mut engine));
    let text = job(1, 1, 40, 9).text;
    let gone: BTreeSet<PrefixHash> = offloaded(&out).into_iter().map(|kept| kept.prefix).collect();
    assert_eq!(
        gone,
        text.prefix_hashes[..10].iter().copied().collect(),
        "all of the prompt, none of the answer"
    );
    assert_eq!(offloaded(&out).len(), 10, "each once");
}

#[test]
fn an_engine_without_a_second_tier_never_speaks_of_one() {
    let shape = Shape { block_size: SIZE, blocks: 30, max_running: 3, step_tokens: 64, ..Shape::default() };
    let mut engine = Engine::new(shape);
    for id in 0..20 {
        engine.submit(job(id, id % 3, 60, 5), ms(id));
    }
    let out = run(&mut engine);
    assert!(wants(&out).is_empty() && stops(&out).is_empty() && offloaded(&out).is_empty());
    assert!(out.iter().all(|output| !matches!(output.what, What::Token { loaded, .. } if loaded > 0)));
}

/// What a tier does with a load.
#[derive(Clone, Debug)]
enum Tier {
    Silent,
    Finds { part: u64, after: u64, pause: u64, at_a_time: usize, loses: bool },
}

fn any_tier() -> impl Strategy<Value = Tier> {
    let finds = (0_u64..=100, 0_u64..5, 0_u64..9, 1_usize..9, any::<bool>()).prop_map(
        |(part, after, pause, at_a_time, loses)| Tier::Finds { part, after, pause, at_a_time, loses },
    );
    prop_oneof![1 => Just(Tier::Silent), 6 => finds]
}

proptest! {
    #[test]
    fn whatever_the_tier_does_every_job_ends_and_the_cache_is_what_was_told(
        jobs in proptest::collection::vec((0_u64..4, 1_usize..90, 1_usize..12, 0_u64..30, any_tier()), 1..30),
        blocks in 26_usize..60,
        evicted: bool,
        answers: bool,
    ) {
        let offload = if evicted { Offload::Evicted } else { Offload::Filled };
        let mut engine = engine(blocks, Second { offload, answers, patience: 1.0 });
        let mut coming: Vec<(Duration, u64, Job)> = Vec::new();
        let mut now = Duration::ZERO;
        for (i, (family, prompt, output, pause, _)) in jobs.iter().enumerate() {
            now += ms(*pause);
            coming.push((now, i as u64, job(i as u64, *family, *prompt, *output)));
        }
        coming.reverse();
        // What the tier is about to say: when, of which job, whether it finds or loads, and how many blocks.
        let mut says: BTreeMap<(Duration, u64, usize), (bool, usize)> = BTreeMap::new();
        let mut out = Vec::new();
        let mut told: BTreeMap<EngineHash, usize> = BTreeMap::new();
        let (mut finished, mut asked) = (0, BTreeSet::new());
        loop {
            let next = [coming.last().map(|one| one.0), engine.next_at(), says.keys().next().map(|key| key.0)];
            let Some(now) = next.into_iter().flatten().min() else { break };
            if coming.last().is_some_and(|one| one.0 == now) {
                engine.submit(coming.pop().unwrap().2, now);
            } else if says.keys().next().is_some_and(|key| key.0 == now) {
                let ((_, id, _), (finds, blocks)) = says.pop_first().unwrap();
                if finds { engine.found(id, blocks, now) } else { engine.loaded(id, blocks, now) };
            }
            engine.advance(now, &mut out);
            prop_assert_eq!(engine.cache().check(), Ok(()));
            for output in out.drain(..) {
                match output.what {
                    What::Wants { job, text, first, blocks } => {
                        prop_assert!(asked.insert(job), "each asks once");
                        prop_assert!(blocks > 0 && first + blocks <= text.prefix_hashes.len());
                        if let Tier::Finds { part, after, pause, at_a_time, loses } = jobs[job as usize].4 {
                            let found = blocks * part as usize / 100;
                            let mut at = now + ms(after);
                            says.insert((at, job, 0), (true, found));
                            for (turn, arrived) in (at_a_time..found + at_a_time).step_by(at_a_time).enumerate() {
                                at += ms(pause);
                                let lost = loses && arrived > found / 2;
                                says.insert((at, job, turn + 1), (lost, arrived.min(found) / (1 + usize::from(lost))));
                            }
                        }
                    }
                    What::Offloads(kept) => {
                        prop_assert!(!kept.is_empty());
                        for kept in kept {
                            prop_assert!(jobs.iter().any(|(family, ..)| kept.tokens.0 >> 32 == *family));
                        }
                    }
                    What::Stops { job } => prop_assert!(asked.contains(&job)),
                    What::Told(Told::Stored { hashes, .. }) => {
                        for hash in hashes {
                            *told.entry(hash).or_default() += 1;
                        }
                    }
                    What::Told(Told::Removed(hash)) => {
                        let copies = told.get_mut(&hash).expect("removed before it was stored");
                        *copies -= 1;
                        if *copies == 0 {
                            told.remove(&hash);
                        }
                    }
                    What::Told(Told::Cleared) => told.clear(),
                    What::Token { job, cached, loaded, done, .. } => {
                        prop_assert!(loaded <= cached && cached < jobs[job as usize].1);
                        finished += usize::from(done);
                    }
                }
            }
        }
        prop_assert_eq!(finished, jobs.len());
        let held: BTreeMap<EngineHash, usize> =
            engine.cache().held().map(|(hash, copies)| (engine.name(hash), copies)).collect();
        prop_assert_eq!(told, held);
        prop_assert_eq!((engine.load(), engine.loading()), ((0, 0), 0));
        prop_assert_eq!(engine.cache().available(), blocks);
    }
}
