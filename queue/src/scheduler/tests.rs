//! Turns: fairness with its bound at every step, ageing with its bound, how far an entry is overtaken, and what a blocked
//! lane costs.

use std::collections::HashMap;

use super::{Decision, LaneId, Options, QueueId, Tenancy};
use crate::entry::{Order, Terms};
use crate::fair::Fair;
use crate::limits::{Limits, Rate};
use crate::name::{CLASSES, Class, Millis, Seq};

#[path = "../../tests/sim/mod.rs"]
mod sim;

use sim::{Chance, Run, Sim, TARGET};

/// What holds a queue back.
type Block = fn(&mut Sim, QueueId);

fn running(most: u32) -> Limits {
    Limits { running: Some(most), ..Limits::default() }
}

/// What each tenant was served, and the bound of F1 for any two of them, over any time in which both wait: kept as the
/// least and the greatest difference so far.
struct Ledger {
    weights: Vec<(Box<str>, u32)>,
    served: HashMap<Box<str>, i64>,
    /// The largest entry of each.
    largest: HashMap<Box<str>, i64>,
    spans: HashMap<(usize, usize), (f64, f64)>,
}

impl Ledger {
    fn new(members: &[(&str, u32, i64)]) -> Self {
        let weights = members.iter().map(|(name, weight, _)| (Box::from(*name), *weight)).collect();
        let largest = members.iter().map(|(name, _, largest)| (Box::from(*name), *largest)).collect();
        Self { weights, served: HashMap::new(), largest, spans: HashMap::new() }
    }

    fn serve(&mut self, tenant: &str, tokens: i64) {
        *self.served.entry(tenant.into()).or_default() += tokens;
        self.check();
    }

    fn check(&mut self) {
        for (i, (one, w)) in self.weights.iter().enumerate() {
            for (j, (other, v)) in self.weights.iter().enumerate().skip(i + 1) {
                let of = |map: &HashMap<Box<str>, i64>, name: &str, weight: u32| {
                    map.get(name).copied().unwrap_or_default() as f64 / f64::from(weight)
                };
                let apart = of(&self.served, one, *w) - of(&self.served, other, *v);
                let (least, most) = self.spans.entry((i, j)).or_insert((apart, apart));
                (*least, *most) = (least.min(apart), most.max(apart));
                let bound = of(&self.largest, one, *w) + of(&self.largest, other, *v);
                let rounding = 1e-2 * bound + 1.0;
                assert!(
                    *most - *least <= bound + rounding,
                    "{one} and {other} drift {} apart; the bound is {bound}; served {:?}",
                    *most - *least,
                    self.served
                );
            }
        }
    }

    fn share(&self, tenant: &str) -> f64 {
        let all: i64 = self.served.values().sum();
        self.served.get(tenant).copied().unwrap_or_default() as f64 / all as f64
    }
}

// === Fairness ===

struct Crowd {
    tenant: &'static str,
    weight: u32,
    queues: usize,
    entries: usize,
    most: u32,
}

/// Serves until the first tenant has nothing left to wait with, and holds the bound at every start.
fn shares(crowds: &[Crowd], together: usize) -> Ledger {
    let mut sim = Sim::new(Options { fleet: running(together as u32), ..Options::default() });
    let mut chance = Chance(11);
    let mut left: HashMap<Box<str>, usize> = HashMap::new();
    for crowd in crowds {
        sim.tenant(crowd.tenant, crowd.weight, Limits::default());
        let queues: Vec<QueueId> =
            (0..crowd.queues).map(|at| sim.queue(crowd.tenant, &format!("q{at}"))).collect();
        for at in 0..crowd.entries {
            let tokens = chance.cost(crowd.most);
            sim.add(queues[at % crowd.queues], 1, tokens);
        }
        left.insert(crowd.tenant.into(), crowd.entries);
    }
    let members: Vec<(&str, u32, i64)> =
        crowds.iter().map(|crowd| (crowd.tenant, crowd.weight, crowd.most.into())).collect();
    let mut ledger = Ledger::new(&members);
    let mut under_way: Vec<Run> = Vec::new();
    while left.values().all(|left| *left > 0) {
        while let Some(run) = sim.start() {
            *left.get_mut(&run.tenant).expect("a tenant") -= 1;
            ledger.serve(&run.tenant, i64::from(run.item.cost.tokens));
            under_way.push(run);
        }
        let at = chance.below(under_way.len() as u64) as usize;
        let run = under_way.swap_remove(at);
        sim.end(&run, run.item.cost.tokens);
    }
    sim.check();
    ledger
}

#[test]
fn fifty_queues_beside_a_hundred_thousand_with_a_hundred_times_the_entries_get_half() {
    let few = Crowd { tenant: "few", weight: 1, queues: 50, entries: 1_000, most: 1_000 };
    let many = Crowd { tenant: "many", weight: 1, queues: 100_000, entries: 100_000, most: 1_000 };
    let ledger = shares(&[few, many], 1);
    assert!((ledger.share("few") - 0.5).abs() < 0.02, "{:?}", ledger.served);
}

#[test]
fn served_tokens_are_as_weights_whatever_the_sizes_and_the_number_of_queues() {
    let of = |tenant, weight, queues, most: u32| {
        let entries = 6_000 * (2_000 / most).clamp(1, 20) as usize;
        Crowd { tenant, weight, queues, entries, most }
    };
    let cases = [
        ("equal", vec![of("a", 1, 1, 100), of("b", 1, 1, 100)]),
        ("one to three", vec![of("a", 1, 3, 500), of("b", 3, 3, 500)]),
        ("more queues", vec![of("a", 1, 1, 100), of("b", 1, 700, 100)]),
        ("many small ones", vec![of("a", 1, 4, 2_000), of("b", 1, 4, 20)]),
        ("small and heavy", vec![of("a", 3, 1, 1_000), of("b", 1, 90, 10), of("c", 5, 7, 64)]),
    ];
    for (name, crowds) in cases {
        for together in [1, 8] {
            let ledger = shares(&crowds, together);
            let weights: u32 = crowds.iter().map(|crowd| crowd.weight).sum();
            for crowd in &crowds {
                let due = f64::from(crowd.weight) / f64::from(weights);
                let found = ledger.share(crowd.tenant);
                assert!((found - due).abs() / due < 0.05, "{name}: {} got {found} of {due}", crowd.tenant);
            }
        }
    }
}

#[test]
fn true_costs_are_settled_so_that_whoever_understates_gains_nothing() {
    // What each says of the truth: a tenth, ten times, half of it.
    let says = [("a", 1_u32, 0.1), ("b", 3, 10.0), ("c", 1, 0.5)];
    let mut sim = Sim::new(Options { fleet: running(6), ..Options::default() });
    let mut chance = Chance(5);
    let mut used: HashMap<Box<str>, f64> = HashMap::new();
    let mut queues = HashMap::new();
    for (tenant, weight, _) in says {
        sim.tenant(tenant, weight, Limits::default());
        queues.insert(tenant, sim.queue(tenant, "q"));
    }
    let mut truth: HashMap<Seq, u32> = HashMap::new();
    for _ in 0..60_000 {
        for (tenant, _, says) in says {
            // Always some that wait.
            while sim
                .rows
                .get(&super::LaneId { queue: queues[tenant], class: Class::FIRST })
                .map_or(0, std::collections::BTreeMap::len)
                < 8
            {
                let really = 20 + chance.below(200) as u32;
                let key = sim.add(queues[tenant], 0, (f64::from(really) * says) as u32);
                truth.insert(key.seq, really);
            }
        }
        while sim.start().is_some() {}
        let at = chance.below(sim.runs.len() as u64) as usize;
        let run = sim.runs[at].clone();
        let really = truth.remove(&run.item.key.seq).expect("it was added");
        *used.entry(run.tenant.clone()).or_default() += f64::from(really);
        sim.end(&run, really);
    }
    let all: f64 = used.values().sum();
    for (tenant, weight, _) in says {
        let due = f64::from(weight) / 5.0;
        let found = used[tenant] / all;
        assert!((found - due).abs() / due < 0.05, "{tenant} used {found} of {due}");
    }
    sim.check();
}

#[test]
fn entries_that_cost_nothing_and_weights_that_are_huge_do_not_go_for_ever() {
    let mut sim = Sim::new(Options::default());
    sim.tenant("heavy", u32::MAX, Limits::default());
    let (heavy, light) = (sim.queue("heavy", "q"), sim.queue("light", "q"));
    sim.add(light, 0, 1);
    for _ in 0..6_000 {
        sim.add(heavy, 0, 0);
    }
    let at = (0..6_001).position(|_| sim.serve().is_some_and(|run| &*run.tenant == "light"));
    assert!(at.is_some_and(|at| at <= 5_100), "the light one was {at:?}th");
}

#[test]
fn absence_earns_nothing_and_pausing_is_absence() {
    for paused in [false, true] {
        let mut sim = Sim::new(Options::default());
        let (here, away) = (sim.queue("here", "q"), sim.queue("away", "q"));
        for _ in 0..200 {
            sim.add(here, 0, 1_000);
            if paused {
                sim.add(away, 0, 1_000);
            }
        }
        sim.sched.pause(away, paused);
        for _ in 0..100 {
            assert_eq!(&*sim.serve().expect("it has many").tenant, "here");
        }
        if paused {
            sim.sched.pause(away, false);
        } else {
            (0..200).for_each(|_| _ = sim.add(away, 0, 1_000));
        }
        let mut ledger = Ledger::new(&[("here", 1, 1_000), ("away", 1, 1_000)]);
        for _ in 0..100 {
            ledger.serve(&sim.serve().expect("both have many").tenant, 1_000);
        }
        sim.check();
    }
}

#[test]
fn whoever_was_held_back_by_a_limit_catches_up_by_no_more_than_its_credit() {
    // How much others were served meanwhile, and how much of it is caught up.
    for (missed, caught) in [(20_000, 20_000), (3_000_000, Fair::CREDIT as i64)] {
        let mut sim = Sim::new(Options::default());
        sim.tenant("held", 1, running(1));
        let (held, free) = (sim.queue("held", "q"), sim.queue("free", "q"));
        for _ in 0..4_000 {
            sim.add(held, 0, 1_000);
            sim.add(free, 0, 1_000);
        }
        let first = loop {
            let run = sim.start().expect("both have many");
            if &*run.tenant == "held" {
                break run;
            }
            sim.end(&run, 1_000);
        };
        for _ in 0..missed / 1_000 {
            assert_eq!(&*sim.serve().expect("it has many").tenant, "free");
        }
        sim.end(&first, 1_000);
        let mut in_a_row = 0;
        while &*sim.serve().expect("both have many").tenant == "held" {
            in_a_row += 1_000;
        }
        assert!((in_a_row - caught).abs() <= 2_000, "it caught up by {in_a_row}, not by {caught}");
        sim.check();
    }
}

#[test]
fn a_new_queue_of_a_tenant_that_is_held_back_does_not_cost_it_its_credit() {
    let mut sim = Sim::new(Options::default());
    let narrow = Terms { limits: running(1), ..Terms::of(TARGET) };
    let held = sim.queue_of("a", "held", &narrow);
    let (fresh, other) = (sim.queue("a", "fresh"), sim.queue("b", "q"));
    for _ in 0..200 {
        sim.add(held, 0, 100);
        sim.add(other, 0, 100);
    }
    let first = loop {
        let run = sim.start().expect("both have many");
        if &*run.tenant == "a" {
            break run;
        }
        sim.end(&run, 100);
    };
    for _ in 0..50 {
        assert_eq!(&*sim.serve().expect("it has many").tenant, "b");
    }
    // Only the queue is held back; its tenant is present all the time.
    for _ in 0..100 {
        sim.add(fresh, 0, 100);
    }
    let in_a_row = (0..100).take_while(|_| &*sim.serve().expect("it has many").tenant == "a").count();
    assert!((48..=52).contains(&in_a_row), "{in_a_row}");
    sim.end(&first, 100);
    sim.check();
}

#[test]
fn a_refund_is_no_more_than_what_was_paid() {
    let mut sim = Sim::new(Options::default());
    let (over, other) = (sim.queue("over", "q"), sim.queue("other", "q"));
    let mut really = HashMap::new();
    for _ in 0..3_000 {
        sim.add(over, 0, 50_000);
        sim.add(other, 0, 500);
    }
    for _ in 0..2_000 {
        let run = sim.start().expect("both have many");
        sim.end(&run, 500);
        *really.entry(run.tenant).or_insert(0) += 500;
    }
    let apart = i64::from(really["over"]) - i64::from(really["other"]);
    assert!(apart.abs() <= 1_000 + 50_000, "{really:?}");
}

#[test]
fn places_that_are_kept_free_are_kept_and_the_others_are_shared_by_weight() {
    let mut sim = Sim::new(Options { fleet: running(8), ..Options::default() });
    sim.tenant("sure", 1, Limits { guaranteed: 3, ..Limits::default() });
    sim.tenant("a", 1, Limits::default());
    sim.tenant("b", 3, Limits::default());
    let (a, b, sure) = (sim.queue("a", "q"), sim.queue("b", "q"), sim.queue("sure", "q"));
    for _ in 0..4_000 {
        sim.add(a, 0, 100);
        sim.add(b, 0, 10);
    }
    let mut ledger = Ledger::new(&[("a", 1, 100), ("b", 3, 10)]);
    let mut chance = Chance(3);
    for _ in 0..1_500 {
        for run in sim.start_all() {
            ledger.serve(&run.tenant, i64::from(run.item.cost.tokens));
        }
        assert_eq!(sim.runs.len(), 5, "three places are kept free");
        let run = sim.runs[chance.below(5) as usize].clone();
        sim.end(&run, run.item.cost.tokens);
        sim.check();
    }
    sim.start_all();
    (0..10).for_each(|_| _ = sim.add(sure, 3, 1_000));
    let started = sim.start_all();
    assert_eq!(started.len(), 3, "what is guaranteed starts at once, in whatever class");
    assert!(started.iter().all(|run| &*run.tenant == "sure"));
    // One of its own ends: the place is its own again, although others came before.
    sim.end(&started[0], 1_000);
    assert_eq!(&*sim.start().expect("its place is free").tenant, "sure");
    assert!(sim.start().is_none());
    sim.check();
}

#[test]
fn a_place_that_is_kept_free_is_taken_again_when_its_class_has_room() {
    // The class is full, and the other class at the same target may not have what is kept free: when the class had room
    // again, nobody looked at the target, and what was kept free stayed empty.
    let options =
        Options { class_running: [None, None, Some(1), None], fleet: running(4), ..Options::default() };
    let mut sim = Sim::new(options);
    sim.tenant("sure", 1, Limits { guaranteed: 2, ..Limits::default() });
    let (other, sure) = (sim.queue("other", "q"), sim.queue("sure", "q"));
    (0..4).for_each(|_| _ = sim.add(other, 0, 10));
    (0..2).for_each(|_| _ = sim.add(sure, 2, 10));
    let started = sim.start_all();
    let of = |tenant| started.iter().filter(|run| &*run.tenant == tenant).count();
    assert_eq!((of("other"), of("sure")), (2, 1));
    let first = started.iter().find(|run| &*run.tenant == "sure").expect("one of them");
    sim.end(first, 10);
    sim.check();
    assert_eq!(&*sim.start().expect("its place is free").tenant, "sure");
    sim.check();
}

#[test]
fn targets_that_wait_for_a_class_have_its_places_in_turn() {
    // All of them were asked whenever one of the class ended, always in the same order: the first kept the place.
    let mut sim = Sim::new(Options { class_running: [None, None, Some(1), None], ..Options::default() });
    let targets = ["m0", "m1", "m2", "m3", "m4"];
    for target in targets {
        let queue = sim.queue_of("t", target, &Terms::of(target));
        (0..4).for_each(|_| _ = sim.add(queue, 2, 10));
        sim.add(queue, 1, 10);
    }
    // One of them has no engine for now: it holds up nobody, and is asked again.
    sim.engines.free.insert("m2".into(), 0);
    let class = Class::new(2).expect("a class");
    let mut order = Vec::new();
    for round in 0..15 {
        if round == 8 {
            sim.engines.free.insert("m2".into(), 9);
            sim.sched.stir(None);
        }
        let started: Vec<Run> = sim.start_all().into_iter().filter(|run| run.lane.class == class).collect();
        sim.check();
        assert_eq!(started.len(), 1, "as many as may");
        sim.end(&started[0], 10);
        sim.check();
        order.extend(started);
    }
    let of = |runs: &[Run], target: &str| runs.iter().filter(|run| &*run.target == target).count();
    for target in ["m0", "m1", "m3", "m4"] {
        assert_eq!(of(&order[..8], target), 2, "{target}");
    }
    assert!(of(&order[8..], "m2") >= 1, "{order:?}");
    while sim.serve().is_some() {}
    assert!(sim.rows.values().all(std::collections::BTreeMap::is_empty), "all of them ran");
    sim.check();
}

#[test]
fn guarantees_that_are_more_than_there_is_leave_no_place_empty() {
    let mut sim = Sim::new(Options { fleet: running(4), ..Options::default() });
    for tenant in ["a", "b"] {
        sim.tenant(tenant, 1, Limits { guaranteed: 3, ..Limits::default() });
        let queue = sim.queue(tenant, "q");
        (0..9).for_each(|_| _ = sim.add(queue, 0, 10));
    }
    assert_eq!(sim.start_all().len(), 4);
    sim.check();
}

// === Classes ===

#[test]
fn an_urgent_class_overtakes_and_the_others_get_exactly_their_share_once_they_have_waited() {
    let options = Options { patience: 5_000, ..Options::default() };
    let share = options.share;
    let patience = options.patience;
    let mut sim = Sim::new(options);
    let mut chance = Chance(2);
    let queues: Vec<QueueId> = (0..CLASSES).map(|at| sim.queue("t", &format!("q{at}"))).collect();
    let mut served = [0_u64; CLASSES];
    let mut total = 0;
    for round in 0..60_000 {
        for (class, queue) in queues.iter().enumerate() {
            if round == 0 || sim.rows.values().all(|rows| rows.len() < 4) {
                (0..8).for_each(|_| _ = sim.add(*queue, class as u8, 1 + chance.below(100) as u32));
            }
        }
        for (class, queue) in queues.iter().enumerate() {
            let lane = super::LaneId { queue: *queue, class: Class::new(class as u8).expect("a class") };
            if sim.rows[&lane].len() < 4 {
                (0..8).for_each(|_| _ = sim.add(*queue, class as u8, 1 + chance.below(100) as u32));
            }
        }
        let run = sim.serve().expect("all have some");
        let tokens = u64::from(run.item.cost.tokens);
        if total < patience * 1_000 / u64::from(share[1]) - 100 {
            assert_eq!(run.lane.class, Class::FIRST, "nobody has waited long enough yet");
        }
        total += tokens;
        served[run.lane.class.number()] += tokens;
    }
    for class in 1..CLASSES {
        // Its share, less what it waited for at first.
        let due = total as f64 * f64::from(share[class]) / 1e3 - patience as f64;
        assert!((served[class] as f64 - due).abs() < 400.0, "class {class}: {} of {due}", served[class]);
    }
}

/// Q5, as it stands in the head of the room's file, at every start of a random history.
#[test]
fn no_class_is_passed_over_for_longer_than_the_bound_says() {
    for seed in 1..=seeds(60) {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let options = Options {
            patience: 50 + chance.below(400),
            share: [0, 100, 50, 20],
            fleet: running(1 + chance.below(4) as u32),
            ..Options::default()
        };
        let (patience, share) = (options.patience, options.share);
        let most = 1 + chance.below(600) as u32;
        let mut sim = Sim::new(options);
        sim.tenant("limited", 1, running(1));
        let queues: Vec<QueueId> = ["free", "limited"]
            .iter()
            .flat_map(|tenant| [sim.queue(tenant, "x"), sim.queue(tenant, "y")])
            .collect();
        let (mut passed, mut last, mut largest) = ([0_u64; CLASSES], [0_u64; CLASSES], 0);
        let ready = |sim: &Sim| {
            let turns = sim.sched.targets.iter().next().map(|(_, target)| &target.turns);
            std::array::from_fn::<bool, CLASSES, _>(|class| {
                turns.is_some_and(|turns| !turns[class].fair.is_empty())
            })
        };
        for _ in 0..3_000 {
            // Mostly urgent, and sometimes a class dries up.
            for _ in 0..chance.below(4) {
                let class = if chance.one_in(2) { 0 } else { chance.below(4) as u8 };
                let queue = queues[chance.below(4) as usize];
                if !chance.one_in(40) {
                    sim.add(queue, class, chance.cost(most));
                }
            }
            let before = ready(&sim);
            let Some(run) = sim.start() else {
                if !sim.runs.is_empty() {
                    let run = sim.runs[chance.below(sim.runs.len() as u64) as usize].clone();
                    sim.end(&run, run.item.cost.tokens);
                }
                continue;
            };
            let after = ready(&sim);
            let tokens = u64::from(run.item.cost.tokens);
            largest = tokens.max(largest);
            let served = run.lane.class.number();
            for class in 1..CLASSES {
                if class == served {
                    if before[..class].iter().any(|ready| *ready) {
                        last[class] = tokens;
                    }
                    passed[class] = 0;
                } else if before[class] && after[class] {
                    passed[class] += tokens;
                } else {
                    passed[class] = 0;
                }
                let bound =
                    (patience + last[class]) * 1_000 / u64::from(share[class]) + CLASSES as u64 * largest;
                assert!(
                    passed[class] <= bound,
                    "seed {seed}: class {class} was passed over by {} tokens; the bound is {bound}",
                    passed[class]
                );
            }
        }
        sim.check();
    }
}

#[test]
fn a_class_that_went_before_others_with_one_large_entry_waits_until_that_was_its_share() {
    let mut sim = Sim::new(Options { patience: 100, ..Options::default() });
    let (urgent, late) = (sim.queue("t", "urgent"), sim.queue("t", "late"));
    let lane = super::LaneId { queue: late, class: Class::new(1).expect("a class") };
    let mut waits = sim.add(late, 1, 10_000);
    let mut passed = 0;
    let mut turns = Vec::new();
    for _ in 0..3_000 {
        sim.add(urgent, 0, 100);
        let run = sim.serve().expect("both have some");
        if run.lane.class == Class::FIRST {
            passed += 100;
            if passed == 50_000 {
                // Emptied and filled again: the debt is still there.
                sim.cancel(lane, waits);
                waits = sim.add(late, 1, 10_000);
            }
        } else {
            turns.push(passed);
            passed = 0;
            waits = sim.add(late, 1, 10_000);
        }
    }
    assert_eq!(turns[0], 1_100, "patience over share, and the entry that made it more");
    assert!(turns[1..].iter().all(|passed| (91_000..=91_200).contains(passed)), "{turns:?}");
    assert!(turns.len() >= 3, "{turns:?}");
}

#[test]
fn a_class_that_had_its_turns_while_nobody_urgent_was_there_owes_nothing_for_them() {
    let mut sim = Sim::new(Options { patience: 100, ..Options::default() });
    let (urgent, late) = (sim.queue("t", "urgent"), sim.queue("t", "late"));
    for _ in 0..1_000 {
        sim.add(late, 1, 1_000);
    }
    for _ in 0..500 {
        assert_eq!(sim.serve().expect("it has many").lane.queue, late);
    }
    let passed = (0..100)
        .take_while(|_| {
            sim.add(urgent, 0, 100);
            sim.serve().expect("both have some").lane.queue == urgent
        })
        .count();
    assert_eq!(passed, 11, "patience over share");
}

// === Within a lane ===

/// Q4, over random choices of the ground: entries that are ready are overtaken so often at most.
#[test]
fn no_entry_is_overtaken_more_often_than_the_setting_says() {
    for seed in 1..=seeds(40) {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let overtake = chance.below(6) as u8;
        let reach = 1 + chance.below(12) as usize;
        let limits = Limits { tokens: Some(30), ..Limits::default() };
        let mut sim = Sim::new(Options { overtake, reach, cached: 40, ..Options::default() });
        sim.engines.choose = |window, chance| chance.below(window.len() as u64) as usize;
        let orders = [Order::Fifo, Order::Warm, Order::Slack];
        let queues: Vec<QueueId> = orders
            .iter()
            .map(|order| {
                let terms = Terms { order: *order, limits: limits.clone(), ..Terms::of(TARGET) };
                sim.queue_of("t", &format!("{order:?}"), &terms)
            })
            .collect();
        let mut overtaken: HashMap<Seq, u32> = HashMap::new();
        let mut out_of_order = 0;
        for _ in 0..1_500 {
            for _ in 0..chance.below(3) {
                let deadline = chance.one_in(3).then(|| sim.now.plus(1 + chance.below(5_000)));
                let queue = queues[chance.below(3) as usize];
                sim.add_item(queue, 0, 1 + chance.below(20) as u32, 0, deadline);
            }
            sim.now = sim.now.plus(chance.below(3));
            while let Some(run) = sim.start() {
                let rows = &sim.rows[&run.lane];
                let before: Vec<Seq> = rows.range(..run.item.key).map(|(key, _)| key.seq).collect();
                if run.lane.queue == queues[0] {
                    let late = |seq: &Seq| {
                        rows.values()
                            .any(|item| item.key.seq == *seq && item.deadline.is_none_or(|at| at > sim.now))
                    };
                    assert!(!before.iter().any(late), "seed {seed}: first in, first out");
                }
                out_of_order += usize::from(!before.is_empty());
                assert!(before.len() < reach, "seed {seed}: out of reach");
                for seq in before {
                    let times = overtaken.entry(seq).or_default();
                    *times += 1;
                    assert!(*times <= overtake.into(), "seed {seed}: {seq:?} was overtaken {times} times");
                }
            }
            if !sim.runs.is_empty() {
                let run = sim.runs[chance.below(sim.runs.len() as u64) as usize].clone();
                if chance.one_in(6) {
                    // It yields, and comes back to where it was.
                    sim.end(&run, run.item.cost.tokens);
                    let item = crate::entry::Item { overtaken: 0, ..run.item.clone() };
                    overtaken.remove(&item.key.seq);
                    sim.put(run.lane, item);
                } else {
                    sim.end(&run, run.item.cost.tokens);
                }
            }
        }
        sim.check();
        assert!(overtake == 0 || reach == 1 || out_of_order > 20, "seed {seed}: nobody overtook anybody");
    }
}

#[test]
fn the_least_slack_goes_first_among_those_in_reach_and_first_in_first_out_is_never_left() {
    let deadlines = [900, 500, 700, 100, 300];
    // Deadlines in the order in which they went, by order and reach.
    let cases = [
        (Order::Slack, 5, 9, vec![100, 300, 500, 700, 900]),
        (Order::Slack, 2, 9, vec![500, 700, 100, 300, 900]),
        (Order::Slack, 5, 1, vec![100, 900, 500, 700, 300]),
        (Order::Fifo, 5, 9, vec![900, 500, 700, 100, 300]),
    ];
    for (order, reach, overtake, expected) in cases {
        let mut sim = Sim::new(Options { overtake, reach, ..Options::default() });
        sim.now = Millis(0);
        sim.engines.choose = |window, _| window.len() - 1;
        let queue = sim.queue_of("t", "q", &Terms { order, ..Terms::of(TARGET) });
        for deadline in deadlines {
            sim.add_item(queue, 0, 1, 0, Some(Millis(deadline)));
        }
        let mut found = Vec::new();
        while let Some(run) = sim.serve() {
            found.push(run.item.deadline.expect("all have one").0);
        }
        assert_eq!(found, expected, "{order:?} with reach {reach}, overtaken {overtake} times");
    }
}

// === What a blocked lane costs ===

#[test]
fn a_hundred_thousand_blocked_lanes_are_looked_at_once_each_and_never_again() {
    let narrow = Terms { limits: running(0), ..Terms::of(TARGET) };
    let slow = Rate { per_second: 0.0, burst: 1.0 };
    let cases: [(&str, Terms, Option<Limits>, u64, Block); 6] = [
        ("at their queue's limit", narrow.clone(), None, 100_000, |_, _| {}),
        ("at their tenant's limit", Terms::of(TARGET), Some(running(0)), 1, |_, _| {}),
        (
            "at their tenant's rate",
            Terms::of(TARGET),
            Some(Limits { work: Some(slow), ..Limits::default() }),
            2,
            |_, _| {},
        ),
        ("paused", Terms::of(TARGET), None, 0, |sim, queue| sim.sched.pause(queue, true)),
        ("without an engine", Terms::of("nowhere"), None, 1, |_, _| {}),
        ("that nobody takes now", Terms::of(TARGET), None, 100_000, |sim, queue| {
            let lane = super::LaneId { queue, class: Class::FIRST };
            let seqs: Vec<Seq> = sim.rows[&lane].keys().map(|key| key.seq).collect();
            sim.engines.refused.extend(seqs);
        }),
    ];
    for (name, terms, tenant, looks, block) in cases {
        let mut sim = Sim::new(Options::default());
        sim.engines.free.insert("nowhere".to_owned(), 0);
        if let Some(limits) = tenant {
            sim.sched.tenancy("blocked", Tenancy { weight: 1, limits });
        }
        for at in 0..100_000 {
            let queue = sim.queue_of("blocked", &format!("q{at}"), &terms);
            sim.add(queue, 0, 10);
            block(&mut sim, queue);
        }
        let open = sim.queue("open", "q");
        for _ in 0..2_000 {
            sim.add(open, 0, 10);
        }
        let mut served = 0;
        while let Some(run) = sim.serve() {
            served += u64::from(&*run.tenant == "open");
        }
        assert_eq!(served, 2_000, "{name}");
        let found = sim.sched.looks();
        assert!(found <= 2_000 + looks + 10, "lanes {name}: {found} looks for 2000 starts");
        // And none while time goes by, and others come and go.
        let before = sim.sched.looks();
        for _ in 0..1_000 {
            sim.now = sim.now.plus(1_000);
            let _expired = sim.sched.tick(sim.now);
            sim.add(open, 0, 10);
            sim.serve().expect("it is not blocked");
        }
        assert!(
            sim.sched.looks() - before <= 1_000 + 10,
            "lanes {name}: {} looks",
            sim.sched.looks() - before
        );
        sim.check();
    }
}

// === Memory ===

#[test]
fn lanes_that_are_held_back_anywhere_keep_one_entry_each_when_memory_is_short() {
    let mut sim = Sim::new(Options { cached: 100, ..Options::default() });
    sim.tenant("held", 1, running(0));
    sim.engines.free.insert(TARGET.into(), 0);
    let queues: Vec<QueueId> =
        (0..50).map(|at| sim.queue(["held", "free"][at % 2], &format!("q{at}"))).collect();
    for number in 0..1_000 {
        let queue = queues[number % queues.len()];
        sim.add(queue, (number % 2) as u8, 1);
        if number % 7 == 0 {
            assert!(sim.start().is_none(), "a limit, or no place");
        }
        sim.check();
        assert!(sim.sched.depth().cached <= 150, "{:?}", sim.sched.depth());
    }
    sim.tenant("held", 1, running(50));
    sim.engines.free.insert(TARGET.into(), i64::MAX);
    sim.sched.stir(None);
    let mut last: HashMap<LaneId, Seq> = HashMap::new();
    for _ in 0..1_000 {
        let run = sim.serve().expect("all of them run");
        assert!(last.insert(run.lane, run.item.key.seq) < Some(run.item.key.seq), "in order");
        sim.check();
    }
    assert_eq!(sim.sched.depth().cached, 0);
}

#[test]
fn those_who_stand_in_line_take_no_memory_from_durable_lanes() {
    let mut sim = Sim::new(Options { cached: 100, ..Options::default() });
    sim.tenant("t", 1, running(0));
    let (line, queue) = (sim.queue("t", "line"), sim.queue("t", "q"));
    for _ in 0..200 {
        let item = sim.item(1, 0, None);
        sim.sched.stand_in_line(LaneId { queue: line, class: Class::FIRST }, item).expect("it is new");
    }
    (0..24).for_each(|_| _ = sim.add(queue, 0, 1));
    assert_eq!((sim.sched.depth().cached, sim.sched.depth().volatile), (24, 200));
    sim.check();
}

#[test]
fn an_entry_that_is_chosen_twice_takes_what_it_takes_once() {
    let mut sim = Sim::new(Options { fleet: running(3), ..Options::default() });
    let queue = sim.queue("t", "q");
    let lane = LaneId { queue, class: Class::FIRST };
    let key = sim.add(queue, 0, 10);
    let choose = |sim: &mut Sim| match sim.sched.decide(sim.now, &mut sim.engines) {
        Decision::Start(start) => start,
        other => panic!("{other:?}"),
    };
    let first = choose(&mut sim);
    sim.cancel(lane, key);
    assert!(sim.sched.is_gone(first.entry));
    // Nobody should tell it before the first start was refused. If somebody does, nothing is lost by it.
    sim.put(lane, first.item.clone());
    let second = choose(&mut sim);
    sim.check();
    assert_eq!((sim.sched.depth().running, sim.sched.runs(queue)), (1, 1));
    sim.sched.undo(first.entry, first.lease, sim.now);
    assert!(
        sim.sched.may_start(second.entry, second.lease) && !sim.sched.may_start(first.entry, first.lease)
    );
    sim.sched.confirm(second.entry, second.lease);
    sim.sched.ended(second.entry, second.lease, second.item.cost, sim.now).expect("it is held");
    sim.check();
    assert!(sim.sched.forget_queue(queue), "nothing is left of it");
}

#[test]
fn a_place_that_became_free_while_nobody_waited_is_found_by_whoever_comes_next() {
    let mut sim = Sim::new(Options::default());
    let queue = sim.queue("a", "q");
    sim.engines.free.insert(TARGET.into(), 0);
    let key = sim.add(queue, 0, 1);
    assert!(sim.start().is_none(), "there is no place");
    sim.cancel(LaneId { queue, class: Class::new(0).unwrap() }, key);
    // Nobody waits, so nobody is told.
    sim.engines.free.insert(TARGET.into(), 1);
    sim.check();
    sim.add(queue, 0, 1);
    assert!(sim.start().is_some(), "the place is free");
}

/// How many histories: `WARMLINE_SEEDS` asks for more.
#[expect(clippy::disallowed_methods, reason = "how much is tested is said from outside")]
fn seeds(least: u64) -> u64 {
    std::env::var("WARMLINE_SEEDS").ok().and_then(|many| many.parse().ok()).unwrap_or(least)
}
