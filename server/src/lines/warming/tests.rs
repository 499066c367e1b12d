//! What is asked is wanted, once, within bounds, and taken back: against a naive store, in any order of events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use queue::entry::{Cost, Item, Terms};
use queue::name::{Class, EntryId, Key, Millis, QueueName, Seq};
use queue::scheduler::{Coming, LaneId, Options, Scheduler};

use super::ahead::{Ahead, Pace};
use super::plan::{Ask, Cold, Gone, InLine, Plan, Steps};
use crate::admin::api::WarmingEnds;

const SECOND: Duration = Duration::from_secs(1);

fn cold(prefixes: impl IntoIterator<Item = u64>) -> Vec<Cold> {
    prefixes.into_iter().enumerate().map(|(at, prefix)| Cold { prefix, at: at as u32 }).collect()
}

/// Somebody: every other one is in a log.
fn waits(number: u64) -> EntryId {
    match number % 2 {
        0 => EntryId { partition: 7, seq: Seq(number) },
        _ => EntryId { partition: u32::MAX, seq: Seq(Seq::VOLATILE | number) },
    }
}

fn one(number: u64, turn: u64, prefixes: impl IntoIterator<Item = u64>) -> InLine {
    InLine { who: waits(number), turn_in: SECOND * turn as u32, cold: cold(prefixes) }
}

fn asked(steps: &Steps) -> Vec<Vec<u64>> {
    steps.ask.iter().map(|ask| ask.blocks.iter().map(|block| block.prefix).collect()).collect()
}

#[test]
fn each_block_is_asked_for_once_for_whoever_comes_first() {
    let mut plan = Plan::new(100);
    let steps = plan.step(SECOND, &[one(1, 2, [1, 2, 3]), one(2, 5, [1, 2, 9])], &[]);
    assert_eq!(asked(&steps), [vec![1, 2, 3], vec![9]]);
    assert_eq!([steps.ask[0].within, steps.ask[1].within], [SECOND * 2, SECOND * 5]);
    assert_eq!((plan.counts.asked_blocks, plan.counts.shared_blocks), (4, 2));
    // Nothing is new.
    let steps = plan.step(SECOND, &[one(1, 2, [1, 2, 3]), one(2, 5, [1, 2, 9])], &[]);
    assert_eq!((asked(&steps).len(), steps.cool.len()), (0, 0));
    assert_eq!(plan.counts.shared_blocks, 2, "it is said once a request");
}

#[test]
fn a_block_that_is_named_twice_is_asked_for_once_and_no_turn_is_nearer_than_a_second() {
    let mut plan = Plan::new(10);
    let soon = InLine { turn_in: Duration::from_millis(3), ..one(1, 1, [1, 2, 1]) };
    let steps = plan.step(SECOND, &[soon], &[]);
    assert_eq!((asked(&steps), steps.ask[0].within), (vec![vec![1, 2]], SECOND));
}

#[test]
fn what_the_first_leaves_behind_is_asked_for_by_the_next() {
    let mut plan = Plan::new(100);
    let first = plan.step(SECOND, &[one(1, 2, [1, 2]), one(2, 5, [1, 2])], &[]);
    let gone = Gone { who: waits(1), turned: true, cold: cold([2]) };
    let steps = plan.step(SECOND, &[one(2, 4, [2])], &[gone]);
    assert_eq!(steps.cool, [first.ask[0].id]);
    assert_eq!(asked(&steps), [vec![2]]);
    assert_eq!((plan.counts.in_time_blocks, plan.counts.late_blocks, plan.counts.unused_blocks), (1, 1, 0));
}

#[test]
fn the_beginning_of_a_prompt_has_the_room_that_there_is() {
    let mut plan = Plan::new(3);
    let line = [one(1, 1, [1, 2]), one(2, 2, [3, 4, 5])];
    assert_eq!(asked(&plan.step(SECOND, &line, &[])), [vec![1, 2], vec![3]]);
    assert_eq!((plan.blocks(), plan.counts.over_budget), (3, 1));
    assert_eq!(asked(&plan.step(SECOND, &line, &[])).len(), 0, "there is no room yet");
    // Two have come to memory: there is room again.
    let line = [one(1, 1, []), one(2, 2, [3, 4, 5])];
    assert_eq!(asked(&plan.step(SECOND, &line, &[])), [vec![4, 5]]);
    assert_eq!(plan.counts.over_budget, 1, "it is said once a request");
}

#[test]
fn what_did_not_come_in_its_time_is_asked_for_again() {
    let mut plan = Plan::new(10);
    let first = plan.step(SECOND, &[one(1, 2, [1])], &[]);
    assert!(plan.step(SECOND * 2, &[one(1, 2, [1])], &[]).ask.is_empty());
    let again = plan.step(SECOND * 3, &[one(1, 2, [1])], &[]);
    assert_eq!((again.cool, again.ask.len()), (vec![first.ask[0].id], 1));
    assert_eq!(plan.counts.asked_blocks, 1, "a block counts once a request");
}

#[test]
fn what_another_replica_asks_for_is_left_to_it_for_a_while() {
    let mut plan = Plan::new(10);
    let mut steps = plan.step(SECOND, &[one(1, 9, [1, 2, 3])], &[]);
    plan.elsewhere(&mut steps.ask[0], &cold([1, 2]), SECOND * 4);
    assert_eq!(asked(&steps), [vec![3]]);
    assert_eq!((plan.counts.asked_blocks, plan.counts.elsewhere_blocks, plan.blocks()), (1, 2, 1));
    assert!(plan.step(SECOND * 3, &[one(1, 9, [1, 2, 3])], &[]).ask.is_empty());
    assert_eq!(asked(&plan.step(SECOND * 4, &[one(1, 9, [1, 2, 3])], &[])), [vec![1, 2]]);
}

#[test]
fn many_blocks_are_asked_for_in_parts() {
    let mut plan = Plan::new(4_096);
    let steps = plan.step(SECOND, &[one(1, 9, 0..2_500)], &[]);
    assert_eq!(asked(&steps).iter().map(Vec::len).collect::<Vec<_>>(), [1_024, 1_024, 452]);
}

/// A store that believes what it is told.
#[derive(Default)]
struct Naive {
    open: BTreeMap<u64, BTreeSet<u64>>,
}

impl Naive {
    fn hear(&mut self, cool: &[u64], ask: &[Ask]) {
        for id in cool {
            self.open.remove(id);
        }
        for ask in ask.iter().filter(|ask| !ask.blocks.is_empty()) {
            let blocks = ask.blocks.iter().map(|block| block.prefix).collect();
            assert!(self.open.insert(ask.id, blocks).is_none(), "an id is used once");
        }
    }
}

#[test]
fn in_any_order_of_events_nothing_is_asked_twice_or_left_behind() {
    let (mut of_jobs, mut of_all) = (0, 0);
    for seed in 0_u64..400 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % bound
        };
        let budget = 1 + below(12) as usize;
        let (mut plan, mut store) = (Plan::new(budget), Naive::default());
        // Prompts are a stem and a rest of their own; what is in memory changes as it likes.
        let mut line: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut warm: BTreeSet<u64> = BTreeSet::new();
        let mut now = Duration::ZERO;
        for who in 0..120 {
            now += Duration::from_millis(below(900));
            let mut gone = Vec::new();
            match below(6) {
                0..=2 => {
                    let (stem, rest) = (below(3) * 100, 10_000 + who * 100);
                    let prompt = (stem..stem + below(5)).chain(rest..rest + below(5)).collect();
                    line.insert(who, prompt);
                }
                3 => {
                    let at = below(line.len().max(1) as u64) as usize;
                    if let Some(left) = line.keys().nth(at).copied() {
                        let prompt = line.remove(&left).unwrap();
                        let still = prompt.into_iter().filter(|block| !warm.contains(block));
                        // Sometimes nobody says that somebody left.
                        if below(4) > 0 {
                            gone.push(Gone { who: waits(left), turned: below(2) == 0, cold: cold(still) });
                        }
                    }
                }
                4 => {
                    let all: Vec<u64> = line.values().flatten().copied().collect();
                    if !all.is_empty() {
                        let block = all[below(all.len() as u64) as usize];
                        if !warm.remove(&block) {
                            warm.insert(block);
                        }
                    }
                }
                _ if below(4) == 0 => {
                    plan.forget();
                    store = Naive::default();
                }
                _ => {}
            }
            let seen: Vec<InLine> = line
                .iter()
                .map(|(who, prompt)| {
                    one(*who, 1 + who % 7, prompt.iter().copied().filter(|block| !warm.contains(block)))
                })
                .collect();
            let mut steps = plan.step(now, &seen, &gone);
            let all_asked = plan.blocks();
            let mut others_ask = false;
            if let Some(ask) = steps.ask.first_mut().filter(|_| below(4) == 0) {
                others_ask = true;
                let theirs = ask.blocks.clone();
                let some = &theirs[..below(theirs.len() as u64 + 1) as usize];
                plan.elsewhere(ask, some, now + SECOND);
            }
            store.hear(&steps.cool, &steps.ask);
            assert_eq!(plan.check(), Ok(()), "seed {seed}");
            let open: Vec<u64> = store.open.values().flatten().copied().collect();
            let wanted: BTreeSet<u64> = line.values().flatten().copied().collect();
            let mine: BTreeSet<u64> = plan.owned();
            assert!(mine.iter().all(|block| open.contains(block) && wanted.contains(block)), "seed {seed}");
            // What waits, is cold, and fits, is asked for: unless it is another's.
            if all_asked < budget && !others_ask {
                let missing = seen.iter().flat_map(|one| one.cold.iter().map(|cold| (one.who, cold.prefix)));
                let missing = missing.filter(|(_, block)| !mine.contains(block));
                assert!(missing.clone().all(|(who, block)| plan.is_elsewhere(who, block)), "seed {seed}");
            }
        }
        let gone: Vec<Gone> =
            line.keys().map(|number| Gone { who: waits(*number), turned: true, cold: Vec::new() }).collect();
        let steps = plan.step(now, &[], &gone);
        store.hear(&steps.cool, &steps.ask);
        assert!(store.open.is_empty() && plan.blocks() == 0, "seed {seed}: all is taken back");
        let counts = plan.counts;
        assert_eq!(
            counts.asked_blocks,
            counts.in_time_blocks + counts.late_blocks + counts.unused_blocks,
            "seed {seed}"
        );
        let WarmingEnds { asked_blocks, in_time_blocks, late_blocks, unused_blocks } = counts.of_jobs;
        assert_eq!(asked_blocks, in_time_blocks + late_blocks + unused_blocks, "seed {seed}");
        assert!(asked_blocks <= counts.asked_blocks && late_blocks <= counts.late_blocks, "seed {seed}");
        of_jobs += asked_blocks;
        of_all += counts.asked_blocks;
    }
    assert!(of_jobs > of_all / 4 && of_jobs < of_all * 3 / 4, "both kinds are there: {of_jobs} of {of_all}");
}

#[test]
fn what_was_for_entries_of_logs_is_counted_apart() {
    let mut plan = Plan::new(100);
    plan.step(SECOND, &[one(1, 2, [1, 2]), one(2, 5, [3, 4, 5]), one(4, 6, [6])], &[]);
    assert_eq!(plan.warmed(), [1, 2]);
    let turned = [
        Gone { who: waits(1), turned: true, cold: Vec::new() },
        Gone { who: waits(2), turned: true, cold: cold([5]) },
    ];
    plan.step(SECOND, &[], &turned);
    let jobs = WarmingEnds { asked_blocks: 4, in_time_blocks: 2, late_blocks: 1, unused_blocks: 1 };
    assert_eq!(plan.counts.of_jobs, jobs);
    let all = [plan.counts.asked_blocks, plan.counts.in_time_blocks, plan.counts.late_blocks];
    assert_eq!((all, plan.counts.unused_blocks), ([6, 4, 1], 1));
}

// === When turns of entries of logs come ===

/// What queues of two models say of their next: so many entries each.
fn coming(sched: &mut Scheduler, next: &mut u64, entries: [(&str, usize); 2]) -> Vec<Coming> {
    for (target, many) in entries {
        let name = QueueName::new("t", target).unwrap();
        let queue = sched.add_queue(name, (7, *next), &Terms::of(target), false);
        for _ in 0..many {
            *next += 1;
            let key = Key { at: Millis(1), seq: Seq(*next) };
            let cost = Cost { tokens: 1, blocks: 1 };
            let item =
                Item { key, cost, deadline: None, attempt: 0, overtaken: 0, remembered: false, hint: None };
            sched.added(LaneId { queue, class: Class::LAST }, item).unwrap();
        }
    }
    sched.ahead(100, Millis(1)).targets
}

#[test]
fn turns_come_at_the_pace_of_their_model_and_what_is_far_off_is_left_alone() {
    let mut sched = Scheduler::new(Options::default());
    let mut listed = coming(&mut sched, &mut 0, [("fast", 20), ("slow", 20)]);
    let starts = |listed: &mut Vec<Coming>, fast: u64, slow: u64| {
        for one in listed {
            one.starts = if &*one.target == "fast" { fast } else { slow };
        }
    };
    let mut ahead = Ahead::default();
    ahead.list(listed.clone(), SECOND, SECOND * 10);
    let turns = |ahead: &Ahead| -> Vec<u64> { ahead.turns().map(|(turn_in, _)| turn_in.as_secs()).collect() };
    let each_twice: Vec<u64> = (1..=10).flat_map(|at| [at, at]).collect();
    assert_eq!(turns(&ahead), each_twice, "of what has not moved, one a second");
    // For a minute ten a second of the one, and one in twenty seconds of the other.
    for second in 2..=62 {
        starts(&mut listed, second * 10, second / 20);
        ahead.list(listed.clone(), SECOND * second as u32, SECOND * 10);
    }
    let fast = turns(&ahead).iter().filter(|turn_in| **turn_in < 3).count();
    let all: Vec<EntryId> = ahead.turns().map(|(_, id)| id).collect();
    assert_eq!((fast, all.len()), (20, 21), "{:?}", turns(&ahead));
    let first_of_the_slow = listed.iter().find(|one| &*one.target == "slow").unwrap().entries[0].entry;
    assert_eq!(all[20], first_of_the_slow, "the first of each is never left alone");
}

#[test]
fn a_pace_is_a_mean_and_what_stands_still_goes_on_at_one_a_second() {
    let mut pace = Pace::default();
    assert_eq!(pace.turn_in(0), SECOND);
    (1..=60).for_each(|at| pace.count(at * 4, SECOND * at as u32));
    assert!((3.9..=4.0).contains(&(1.0 / pace.turn_in(0).as_secs_f64())), "{pace:?}");
    // A count that begins anew is none.
    pace.count(0, SECOND * 61);
    assert!(pace.turn_in(0) < SECOND, "{pace:?}");
    (62..=200).for_each(|at| pace.count(0, SECOND * at));
    assert_eq!(pace.turn_in(4), SECOND * 5);
}
