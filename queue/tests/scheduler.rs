//! The scheduler from outside: limits at every level, that nothing that could start waits, pauses, time, and debts that
//! survive a restart.
//!
//! `WARMLINE_SEEDS=10000 cargo test -p warmline-queue --test scheduler` runs more histories; a failure prints its seed.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use queue::entry::{Cost, Entry, Item, Outcome, Terms};
use queue::ledger::{Ask, Ledger, News, Plan, What};
use queue::limits::{Limits, Narrow, Rate};
use queue::log::{Log, Memory, Sync};
use queue::name::{Class, Key, Millis, QueueName, Seq};
use queue::scheduler::{Decision, Held, LaneId, Options, QueueId, Scheduler, Tenancy, Why};

mod sim;

use sim::{Chance, Engines, Run, Sim, TARGET};

/// How many histories: `WARMLINE_SEEDS` asks for more.
#[expect(clippy::disallowed_methods, reason = "how much is tested is said from outside")]
fn seeds(least: u64) -> u64 {
    std::env::var("WARMLINE_SEEDS").ok().and_then(|many| many.parse().ok()).unwrap_or(least)
}

fn lane(queue: QueueId, class: u8) -> LaneId {
    LaneId { queue, class: Class::new(class).expect("a class") }
}

// === One limit at a time ===

#[derive(Clone, Copy, Debug)]
enum Level {
    Queue,
    Tenant,
    Target,
    Fleet,
}

const LEVELS: [(Level, Held); 4] = [
    (Level::Queue, Held::Queue),
    (Level::Tenant, Held::Tenant),
    (Level::Target, Held::Target),
    (Level::Fleet, Held::Fleet),
];

/// Two queues of which one is limited where it is said; the other is of another tenant and target.
fn limited(level: Level, limits: &Limits) -> (Sim, QueueId, QueueId) {
    let fleet = if matches!(level, Level::Fleet) { limits.clone() } else { Limits::default() };
    let mut sim = Sim::new(Options { fleet, ..Options::default() });
    let mut terms = Terms::of(TARGET);
    match level {
        Level::Queue => terms.limits = limits.clone(),
        Level::Tenant => sim.sched.tenancy("a", Tenancy { weight: 1, limits: limits.clone() }),
        Level::Target => sim.sched.limit_target(TARGET, limits.clone()),
        Level::Fleet => {}
    }
    let one = sim.queue_of("a", "one", &terms);
    let other = sim.queue_of("b", "other", &Terms::of("elsewhere"));
    (sim, one, other)
}

#[test]
fn each_limit_holds_at_each_level_and_says_so_and_lets_go_with_a_release() {
    let none = Limits::default;
    let cases = [
        (Narrow::Running, Limits { running: Some(3), ..none() }, 3),
        (Narrow::Tokens, Limits { tokens: Some(35), ..none() }, 3),
        (Narrow::Blocks, Limits { blocks: Some(11), ..none() }, 5),
    ];
    for (level, held) in LEVELS {
        for (narrow, limits, most) in &cases {
            let (mut sim, one, other) = limited(level, limits);
            for _ in 0..10 {
                sim.add_item(one, 1, 10, 2, None);
            }
            let runs = sim.start_all();
            assert_eq!(runs.len(), *most, "{level:?}, {narrow:?}");
            let first = *sim.rows[&lane(one, 1)].first_key_value().expect("some wait").0;
            let why = sim.sched.why(lane(one, 1), first);
            // The fleet does not remember which of its limits it was.
            let expected = if matches!(level, Level::Fleet) { Narrow::Running } else { *narrow };
            assert_eq!(why, Some(Why::Held(held, expected)), "{level:?}, {narrow:?}");
            sim.add_item(other, 1, 1, 1, None);
            let beside = sim.start_all().len();
            assert_eq!(
                beside,
                usize::from(!matches!(level, Level::Fleet)),
                "{level:?}: others are not held back"
            );
            sim.end(&runs[0], 10);
            let started = sim.start_all();
            assert!(started.iter().filter(|run| run.lane.queue == one).count() <= 1);
            assert!(!started.is_empty(), "{level:?}, {narrow:?}: a release lets one go");
            sim.check();
        }
    }
}

#[test]
fn rates_hold_at_each_level_and_let_go_when_their_time_has_come() {
    let rate = Rate { per_second: 10.0, burst: 3.0 };
    let work = Rate { per_second: 1_000.0, burst: 100.0 };
    // Starts at once, and the time between two after that.
    let cases = [
        (Limits { starts: Some(rate), ..Limits::default() }, 3, 100),
        (Limits { work: Some(work), ..Limits::default() }, 2, 60),
    ];
    for (level, _) in LEVELS {
        for (limits, at_once, between) in &cases {
            let (mut sim, one, _) = limited(level, limits);
            (0..50).for_each(|_| _ = sim.add(one, 0, 60));
            let mut starts = Vec::new();
            for _ in 0..20 {
                for run in sim.start_all() {
                    starts.push(sim.now.0 - 1_000);
                    sim.end(&run, 60);
                }
                let next = sim.sched.next_timer().expect("it waits for a time");
                assert!(next > sim.now, "a timer that is due would be looked at for ever");
                sim.now = next;
                assert!(sim.sched.tick(sim.now).is_empty());
            }
            assert_eq!(starts.iter().filter(|at| **at == 0).count(), *at_once, "{level:?}");
            let paced = starts[*at_once + 1..].windows(2).all(|pair| pair[1] - pair[0] == *between);
            assert!(paced, "{level:?}: {starts:?}");
            sim.check();
        }
    }
}

#[test]
fn what_was_really_used_counts_for_the_rate_of_work() {
    let work = Rate { per_second: 1_000.0, burst: 100.0 };
    for (really, wait) in [(1_000, 910), (10, 0)] {
        let (mut sim, one, _) = limited(Level::Tenant, &Limits { work: Some(work), ..Limits::default() });
        (0..5).for_each(|_| _ = sim.add(one, 0, 90));
        let run = sim.start().expect("nothing was used");
        sim.end(&run, really);
        let begun = sim.now;
        while sim.start().is_none() {
            sim.now = sim.sched.next_timer().expect("it waits for a time");
            sim.sched.tick(sim.now);
        }
        let waited = sim.now.since(begun);
        assert!(waited.abs_diff(wait) <= 9, "{really} used: {waited} ms, not {wait}");
    }
}

#[test]
fn all_levels_are_asked_before_any_is_taken() {
    let mut sim =
        Sim::new(Options { fleet: Limits { running: Some(1), ..Limits::default() }, ..Options::default() });
    sim.sched.tenancy("a", Tenancy { weight: 1, limits: Limits { running: Some(1), ..Limits::default() } });
    let (first, second) = (sim.queue("b", "q"), sim.queue("a", "q"));
    sim.add(first, 0, 1);
    let run = sim.start().expect("there is room");
    (0..3).for_each(|_| _ = sim.add(second, 0, 1));
    assert!(sim.start().is_none(), "the fleet has no room");
    sim.check();
    sim.end(&run, 1);
    // Had the tenant's place been taken by the attempt, nothing could start now.
    assert_eq!(&*sim.start().expect("there is room").tenant, "a");
    sim.check();
}

#[test]
fn an_entry_that_is_larger_than_a_limit_on_size_runs_alone() {
    for (level, _) in LEVELS {
        for limits in [
            Limits { tokens: Some(100), ..Limits::default() },
            Limits { blocks: Some(100), ..Limits::default() },
        ] {
            let (mut sim, one, _) = limited(level, &limits);
            let small: Vec<Key> = (0..4).map(|_| sim.add_item(one, 0, 10, 10, None)).collect();
            let large = sim.add_item(one, 0, 5_000, 5_000, None);
            let after: Vec<Key> = (0..4).map(|_| sim.add_item(one, 0, 10, 10, None)).collect();
            let runs = sim.start_all();
            // Others in reach may go before it, but not for ever, and nothing beside it.
            while let Some(run) = sim.runs.first().cloned() {
                let alone = sim.runs.iter().all(|run| run.item.key != large) || sim.runs.len() == 1;
                assert!(alone, "{level:?}: something runs beside it");
                sim.end(&run, run.item.cost.tokens);
                sim.start_all();
            }
            assert!(
                sim.rows[&lane(one, 0)].is_empty(),
                "{level:?}: all of {small:?} {large:?} {after:?} ran"
            );
            assert!(runs.len() >= 4);
            sim.check();
        }
    }
}

#[test]
fn small_entries_do_not_go_past_a_large_one_for_ever() {
    for (level, _) in &LEVELS[1..] {
        let (mut sim, one, _) = limited(*level, &Limits { tokens: Some(100), ..Limits::default() });
        let big = sim.queue("a", "big");
        for _ in 0..10 {
            sim.add(one, 0, 10);
        }
        sim.start_all();
        let large = sim.add(big, 0, 90);
        let mut ended = 0;
        while sim.rows[&lane(big, 0)].contains_key(&large) {
            let run = sim.runs[0].clone();
            sim.end(&run, 10);
            sim.add(one, 0, 10);
            sim.start_all();
            ended += 1;
            assert!(ended < 30, "{level:?}: it waits for ever");
        }
    }
}

#[test]
fn limits_that_change_while_things_run_hold_from_then_on() {
    for (level, _) in LEVELS {
        if matches!(level, Level::Fleet) {
            continue;
        }
        let (mut sim, one, _) = limited(level, &Limits { running: Some(5), ..Limits::default() });
        (0..40).for_each(|_| _ = sim.add(one, 0, 10));
        assert_eq!(sim.start_all().len(), 5);
        let set = |sim: &mut Sim, most| {
            let limits = Limits { running: most, ..Limits::default() };
            match level {
                Level::Queue => sim.sched.set_terms(one, &Terms { limits, ..Terms::of(TARGET) }),
                Level::Tenant => sim.sched.tenancy("a", Tenancy { weight: 1, limits }),
                _ => sim.sched.limit_target(TARGET, limits),
            }
        };
        set(&mut sim, Some(2));
        sim.check();
        for left in [4, 3, 2] {
            let run = sim.runs[0].clone();
            sim.end(&run, 10);
            assert_eq!(sim.start_all().len(), usize::from(left < 2), "{level:?}: {left} run");
            sim.check();
        }
        set(&mut sim, Some(9));
        assert_eq!(sim.start_all().len(), 7, "{level:?}: more is allowed at once");
        set(&mut sim, None);
        assert_eq!(sim.start_all().len(), 40 - 12 + 3 - 3, "{level:?}: no limit");
        sim.check();
    }
}

#[test]
fn what_a_large_entry_held_back_goes_on_when_that_entry_leaves() {
    for (level, _) in LEVELS {
        let (mut sim, one, _) = limited(level, &Limits { tokens: Some(100), ..Limits::default() });
        sim.add(one, 0, 90);
        assert_eq!(sim.start_all().len(), 1);
        let large = sim.add(one, 0, 50);
        (0..3).for_each(|_| _ = sim.add(one, 0, 3));
        let before = sim.start_all().len();
        assert_eq!(before, 0, "{level:?}: it is kept for the large one");
        sim.cancel(lane(one, 0), large);
        assert_eq!(sim.start_all().len(), 3, "{level:?}");
        sim.check();
    }
}

#[test]
fn what_a_large_entry_held_back_goes_on_when_its_log_is_given_up() {
    for (level, _) in LEVELS.into_iter().filter(|(level, _)| !matches!(level, Level::Queue)) {
        let (mut sim, one, _) = limited(level, &Limits { tokens: Some(100), ..Limits::default() });
        sim.add(one, 0, 90);
        assert_eq!(sim.start_all().len(), 1);
        let gone = QueueName::new("a", "gone").expect("a name");
        let gone = sim.sched.add_queue(gone, (2, 1), &Terms::of(TARGET), false);
        sim.add(gone, 0, 50);
        (0..3).for_each(|_| _ = sim.add(one, 0, 3));
        assert_eq!(sim.start_all().len(), 0, "{level:?}: it is kept for the large one");
        assert!(sim.sched.drop_partition(2, sim.now).is_empty(), "nothing of it ran");
        sim.rows.remove(&lane(gone, 0));
        assert_eq!(sim.start_all().len(), 3, "{level:?}");
        sim.check();
    }
}

// === Nothing that could start waits ===

/// Limits as a naive person would count them: in whole thousandths, by going through all that runs.
struct Count {
    limits: Limits,
    starts: Tank,
    work: Tank,
}

/// A rate in thousandths; a full one is filled to the brim.
struct Tank {
    left: Option<i64>,
    at: u64,
}

impl Tank {
    fn fill(&mut self, rate: Option<Rate>, now: Millis) -> i64 {
        let Some(rate) = rate else { return i64::MAX };
        let brim = (rate.burst.max(1.0) * 1e3) as i64;
        let left = self.left.map_or(brim, |left| left + ((now.0 - self.at) as f64 * rate.per_second) as i64);
        self.left = Some(left.min(brim));
        self.at = now.0;
        left.min(brim)
    }

    fn draw(&mut self, rate: Option<Rate>, much: i64, now: Millis) {
        if rate.is_some() {
            let left = self.fill(rate, now);
            self.left = Some(left - much * 1_000);
        }
    }
}

impl Count {
    fn new(limits: Limits) -> Self {
        Self { limits, starts: Tank { left: None, at: 0 }, work: Tank { left: None, at: 0 } }
    }

    /// Whether there is no room for it, and whether that is for its size only.
    fn blocks(&mut self, cost: Cost, runs: &[&Run], reserved: usize, now: Millis) -> Option<bool> {
        let full = self.limits.running.is_some_and(|most| runs.len() + reserved >= most as usize);
        let slow =
            self.starts.fill(self.limits.starts, now) < 1_000 || self.work.fill(self.limits.work, now) < 1;
        if full || slow {
            return Some(false);
        }
        let sum = |of: fn(Cost) -> u32| runs.iter().map(|run| u64::from(of(run.item.cost))).sum::<u64>();
        let tokens = sum(|cost| cost.tokens) + u64::from(cost.tokens);
        let blocks = sum(|cost| cost.blocks) + u64::from(cost.blocks);
        let large = self.limits.tokens.is_some_and(|most| tokens > most)
            || self.limits.blocks.is_some_and(|most| blocks > most);
        (large && !runs.is_empty()).then_some(true)
    }
}

const TENANTS: [&str; 3] = ["a", "b", "c"];
const TARGETS: [&str; 2] = ["m", "n"];

struct World {
    sim: Sim,
    chance: Chance,
    fleet: Count,
    tenants: BTreeMap<Box<str>, Count>,
    targets: BTreeMap<Box<str>, Count>,
    queues: BTreeMap<QueueId, (Box<str>, Box<str>, Count)>,
    paused: HashSet<QueueId>,
    sizes: bool,
    reach: usize,
    kept: Kept,
}

/// Levels that are kept for an entry that is too large for what is left there.
#[derive(Default)]
struct Kept {
    tenants: HashSet<(Box<str>, Box<str>, Class)>,
    targets: HashSet<Box<str>>,
    fleet: bool,
}

impl Kept {
    /// Something ended there, or what it was kept for has left: it is asked again.
    fn free(&mut self, tenant: &str, target: &str) {
        self.tenants.retain(|(name, ..)| **name != *tenant);
        self.targets.remove(target);
        self.fleet = false;
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let sizes = chance.one_in(2);
        let rates = chance.one_in(2);
        let fleet = some_limits(&mut chance, sizes, rates, 12);
        let reach = 1 + chance.below(6) as usize;
        let options =
            Options { fleet: fleet.clone(), reach, overtake: 255, patience: 60, ..Options::default() };
        let mut sim = Sim::new(options);
        let mut world_tenants = BTreeMap::new();
        for (at, tenant) in TENANTS.iter().enumerate() {
            let mut limits = some_limits(&mut chance, sizes, rates, 6);
            limits.guaranteed = chance.below(3) as u32;
            sim.sched.tenancy(tenant, Tenancy { weight: 1 + at as u32, limits: limits.clone() });
            world_tenants.insert(Box::from(*tenant), Count::new(limits));
        }
        let mut targets = BTreeMap::new();
        for target in TARGETS {
            let limits = some_limits(&mut chance, sizes, rates, 8);
            sim.sched.limit_target(target, limits.clone());
            targets.insert(Box::from(target), Count::new(limits));
            if chance.one_in(2) {
                sim.engines.free.insert(target.to_owned(), 1 + chance.below(6) as i64);
            }
        }
        let mut queues = BTreeMap::new();
        for at in 0..10 {
            let (tenant, target) = (TENANTS[at % 3], TARGETS[chance.below(2) as usize]);
            let limits =
                if chance.one_in(2) { some_limits(&mut chance, sizes, rates, 4) } else { Limits::default() };
            let terms =
                Terms { limits: limits.clone(), weight: 1 + chance.below(3) as u32, ..Terms::of(target) };
            let queue = sim.queue_of(tenant, &format!("q{at}"), &terms);
            queues.insert(queue, (Box::from(tenant), Box::from(target), Count::new(limits)));
        }
        let fleet = Count::new(fleet);
        let paused = HashSet::new();
        Self {
            sim,
            chance,
            fleet,
            tenants: world_tenants,
            targets,
            queues,
            paused,
            sizes,
            reach,
            kept: Kept::default(),
        }
    }

    fn step(&mut self) {
        match self.chance.below(20) {
            0..8 => {
                let many = self.queues.len() as u64;
                let queue = *self.queues.keys().nth(self.chance.below(many) as usize).expect("a queue");
                for _ in 0..=self.chance.below(4) {
                    let (class, tokens) = (self.chance.below(4) as u8, self.chance.cost(60));
                    let blocks = 1 + self.chance.below(6) as u32;
                    self.sim.add_item(queue, class, tokens, blocks, None);
                }
            }
            8..14 => {
                if !self.sim.runs.is_empty() {
                    let at = self.chance.below(self.sim.runs.len() as u64) as usize;
                    let run = self.sim.runs[at].clone();
                    let really =
                        if self.chance.one_in(3) { self.chance.cost(90) } else { run.item.cost.tokens };
                    let more = i64::from(really.max(1)) - i64::from(run.item.cost.tokens.max(1));
                    let now = self.sim.now;
                    self.levels(run.lane.queue, |level| level.work.draw(level.limits.work, more, now));
                    self.sim.end(&run, really);
                    self.kept.free(&run.tenant, &run.target);
                }
            }
            14 => {
                let waits: Vec<(LaneId, Key)> = self
                    .sim
                    .rows
                    .iter()
                    .flat_map(|(lane, rows)| rows.keys().map(|key| (*lane, *key)))
                    .collect();
                if !waits.is_empty() {
                    let (lane, key) = waits[self.chance.below(waits.len() as u64) as usize];
                    let first =
                        self.sim.rows[&lane].first_key_value().is_some_and(|(first, _)| *first == key);
                    self.sim.cancel(lane, key);
                    if first {
                        self.free(lane.queue);
                    }
                }
            }
            15 => {
                let many = self.queues.len() as u64;
                let queue = *self.queues.keys().nth(self.chance.below(many) as usize).expect("a queue");
                if !self.paused.remove(&queue) {
                    self.paused.insert(queue);
                }
                let paused = self.paused.contains(&queue);
                self.sim.sched.pause(queue, paused);
                if paused && self.sim.rows.iter().any(|(lane, rows)| lane.queue == queue && !rows.is_empty())
                {
                    self.free(queue);
                }
            }
            16 => {
                // An engine changes its mind about some.
                self.sim.engines.refused.clear();
                let seqs: Vec<Seq> =
                    self.sim.rows.values().flat_map(|rows| rows.keys().map(|key| key.seq)).collect();
                for seq in seqs {
                    if self.chance.one_in(5) {
                        self.sim.engines.refused.insert(seq);
                    }
                }
                self.sim.sched.stir(None);
            }
            17 => {
                let tenant = TENANTS[self.chance.below(3) as usize];
                let mut limits = some_limits(&mut self.chance, self.sizes, false, 6);
                let count = self.tenants.get_mut(tenant).expect("a tenant");
                // Rates stay: what is left of another rate nobody could say.
                (limits.starts, limits.work) = (count.limits.starts, count.limits.work);
                limits.guaranteed = self.chance.below(3) as u32;
                count.limits = limits.clone();
                self.sim.sched.tenancy(tenant, Tenancy { weight: 1 + self.chance.below(4) as u32, limits });
            }
            _ => self.sim.now = self.sim.now.plus(self.chance.below(8)),
        }
        // Time that has come is looked at; nothing else tells the scheduler of it.
        let expired = self.sim.sched.tick(self.sim.now);
        assert!(expired.is_empty());
    }

    fn levels(&mut self, queue: QueueId, mut each: impl FnMut(&mut Count)) {
        let (tenant, target, own) = self.queues.get_mut(&queue).expect("a queue");
        each(own);
        each(self.tenants.get_mut(tenant).expect("a tenant"));
        each(self.targets.get_mut(target).expect("a target"));
        each(&mut self.fleet);
    }

    fn free(&mut self, queue: QueueId) {
        let (tenant, target, _) = &self.queues[&queue];
        self.kept.free(tenant, target);
    }

    /// Whether there is no room for this, by level from the queue to the fleet, and whether for its size only.
    fn blocked(&mut self, queue: QueueId, cost: Cost) -> [Option<bool>; 4] {
        let now = self.sim.now;
        let (tenant, target, own) = self.queues.get_mut(&queue).expect("a queue");
        let runs =
            |pick: &dyn Fn(&Run) -> bool| self.sim.runs.iter().filter(|run| pick(run)).collect::<Vec<_>>();
        let of_tenant = |name: &str| self.sim.runs.iter().filter(|run| *run.tenant == *name).count();
        let free =
            |name: &str, count: &Count| (count.limits.guaranteed as usize).saturating_sub(of_tenant(name));
        let kept: usize = self.tenants.iter().map(|(name, count)| free(name, count)).sum();
        let mine = free(tenant, &self.tenants[tenant]);
        let reserved = if mine > 0 { 0 } else { kept };
        [
            own.blocks(cost, &runs(&|run| run.lane.queue == queue), 0, now),
            self.tenants.get_mut(tenant).expect("a tenant").blocks(
                cost,
                &runs(&|run| run.tenant == *tenant),
                0,
                now,
            ),
            self.targets.get_mut(target).expect("a target").blocks(
                cost,
                &runs(&|run| run.target == *target),
                0,
                now,
            ),
            self.fleet.blocks(cost, &runs(&|_| true), reserved, now),
        ]
    }

    /// Starts all that can, and says what is against each start. Then nothing else could.
    fn decide(&mut self) {
        loop {
            // What keeps a level may start something elsewhere in the same breath, and be held back by that.
            self.could_start();
            let before = self.sim.runs.len();
            let Some(run) = self.sim.start() else { break };
            self.sim.runs.truncate(before);
            let blocked = self.blocked(run.lane.queue, run.item.cost);
            assert_eq!(blocked, [None; 4], "{run:?} was started although there is no room");
            assert!(!self.paused.contains(&run.lane.queue), "{run:?} is of a paused queue");
            let now = self.sim.now;
            let tokens = i64::from(run.item.cost.tokens);
            self.levels(run.lane.queue, |level| {
                level.starts.draw(level.limits.starts, 1, now);
                level.work.draw(level.limits.work, tokens, now);
            });
            self.sim.runs.push(run);
        }
        for (id, item, tenant, target) in self.could_start() {
            let kept = self.kept.fleet
                || self.kept.targets.contains(&target)
                || self.kept.tenants.contains(&(tenant, target, id.class));
            assert!(kept, "{item:?} of {id:?} could start and does not: {:?}", self.sim.sched.why_lane(id));
            assert!(self.sizes, "without limits on size nothing is kept for anybody");
        }
        self.sim.check();
    }

    /// What could start by every limit; and what is too large for a level keeps that from now on.
    fn could_start(&mut self) -> Vec<(LaneId, Item, Box<str>, Box<str>)> {
        let lanes: Vec<LaneId> = self.sim.rows.keys().copied().collect();
        let mut fits = Vec::new();
        for id in lanes {
            let items: Vec<Item> = self.sim.rows[&id].values().take(self.reach).cloned().collect();
            let Some(head) = items.first() else { continue };
            if self.paused.contains(&id.queue) {
                continue;
            }
            let (tenant, target, _) = &self.queues[&id.queue];
            let (tenant, target) = (tenant.clone(), target.clone());
            match self.blocked(id.queue, head.cost) {
                [Some(_), ..] | [_, Some(false), ..] | [_, _, Some(false), _] | [.., Some(false)] => {}
                [_, Some(true), ..] => drop(self.kept.tenants.insert((tenant, target, id.class))),
                [_, _, Some(true), _] => drop(self.kept.targets.insert(target)),
                [.., Some(true)] => self.kept.fleet = true,
                [None, None, None, None] => {
                    let placeable = self.sim.engines.free.get(&*target).is_none_or(|free| *free > 0);
                    let refused = |seq| self.sim.engines.refused.contains(&seq);
                    // If no engine wants the first, those behind it are offered as they fit then, until the next stir.
                    let offered = !self.sizes || !refused(head.key.seq);
                    let wanted: Vec<Item> =
                        items.iter().filter(|item| !refused(item.key.seq)).cloned().collect();
                    let one = wanted.into_iter().find(|item| self.blocked(id.queue, item.cost) == [None; 4]);
                    if let (true, true, Some(one)) = (placeable, offered, one) {
                        fits.push((id, one, tenant, target));
                    }
                }
            }
        }
        fits
    }
}

fn some_limits(chance: &mut Chance, sizes: bool, rates: bool, most: u64) -> Limits {
    // Whole rates, so that a naive count in thousandths is exact.
    let rate = |chance: &mut Chance, per_second: u64, burst: u64| Rate {
        per_second: (1 + chance.below(per_second)) as f64,
        burst: (1 + chance.below(burst)) as f64,
    };
    Limits {
        running: (!chance.one_in(3)).then(|| 1 + chance.below(most) as u32),
        tokens: (sizes && chance.one_in(2)).then(|| 5 + chance.below(90)),
        blocks: (sizes && chance.one_in(3)).then(|| 2 + chance.below(20)),
        starts: (rates && chance.one_in(3)).then(|| rate(chance, 600, 4)),
        work: (rates && chance.one_in(3)).then(|| rate(chance, 4_000, 60)),
        guaranteed: 0,
    }
}

#[test]
fn whatever_could_start_by_every_limit_starts_and_nothing_else() {
    for seed in 1..=seeds(300) {
        let told = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..400 {
                world.step();
                world.decide();
            }
        });
        if let Err(why) = told {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(why);
        }
    }
}

// === Pauses and time ===

#[test]
fn a_paused_queue_starts_nothing_at_whatever_stage_its_entries_are() {
    let mut sim = Sim::new(Options::default());
    let queue = sim.queue("a", "q");
    let here = lane(queue, 0);
    (0..60).for_each(|_| _ = sim.add(queue, 0, 1));
    let running = sim.start().expect("it is not paused");
    // Decided, and not yet confirmed.
    let Decision::Start(starting) = sim.sched.decide(sim.now, &mut sim.engines) else {
        panic!("it can start")
    };
    sim.sched.pause(queue, true);
    assert!(sim.start().is_none());
    assert_eq!(sim.sched.why_lane(here), Some(Why::Paused));
    // Whatever comes, goes, is undone or ends meanwhile wakes nothing.
    sim.sched.undo(starting.entry, starting.lease, sim.now);
    sim.add(queue, 0, 1);
    sim.add(queue, 1, 1);
    let cancelled = *sim.rows[&here].first_key_value().expect("some wait").0;
    sim.cancel(here, cancelled);
    sim.end(&running, 1);
    sim.sched.stir(None);
    sim.sched.tick(sim.now.plus(1_000_000));
    sim.check();
    assert!(sim.start().is_none());
    sim.sched.pause(queue, false);
    assert_eq!(sim.start_all().len(), 60, "all but the one that ended and the one that left");
    sim.check();
    // A queue that is paused when it is opened.
    let name = QueueName::new("a", "later").expect("a name");
    let paused = sim.sched.add_queue(name, (1, 99), &Terms::of(TARGET), true);
    sim.sched.open(lane(paused, 0));
    let item = sim.item(1, 0, None);
    sim.rows.entry(lane(paused, 0)).or_default().insert(item.key, item);
    assert!(sim.start().is_none());
    sim.sched.pause(paused, false);
    assert_eq!(sim.start_all().len(), 1);
    sim.check();
}

#[test]
fn who_waits_in_memory_only_is_told_the_moment_it_is_too_late() {
    let mut sim =
        Sim::new(Options { fleet: Limits { running: Some(1), ..Limits::default() }, ..Options::default() });
    let queue = sim.queue("a", "q");
    let here = lane(queue, 0);
    // A hundred, of which the cache knows 24; each is too late at its time.
    for at in 0..100 {
        let item = sim.item(1, 0, Some(Millis(2_000 + at)));
        sim.sched.stand_in_line(here, item).expect("it is new");
    }
    let first = sim.sched.decide(sim.now, &mut sim.engines);
    assert!(matches!(first, Decision::Start(_)));
    let mut gone = Vec::new();
    while let Some(next) = sim.sched.next_timer() {
        sim.now = next;
        for (lane, item) in sim.sched.tick(sim.now) {
            assert_eq!(lane, here);
            assert_eq!(item.deadline, Some(sim.now), "neither early nor late");
            gone.push(item.key.seq);
        }
        sim.check();
    }
    assert_eq!(gone.len(), 99);
    assert_eq!(sim.sched.depth().volatile, 0);
    assert_eq!(sim.sched.waiting(), 0);
}

#[test]
fn a_wait_of_years_is_waited() {
    let year = 365 * 24 * 3_600 * 1_000;
    let mut sim = Sim::new(Options::default());
    sim.now = Millis(1_763_000_000_000);
    let slow = Rate { per_second: 1.0 / 3.0 / (year as f64 / 1e3), burst: 1.0 };
    sim.sched.tenancy("a", Tenancy { weight: 1, limits: Limits { starts: Some(slow), ..Limits::default() } });
    let queue = sim.queue("a", "q");
    sim.add_item(queue, 0, 1, 0, Some(sim.now.plus(5 * year)));
    sim.add_item(queue, 0, 1, 0, Some(sim.now.plus(2 * year)));
    sim.add_item(queue, 0, 1, 0, None);
    assert_eq!(sim.start_all().len(), 1);
    let next = sim.sched.next_timer().expect("it waits for a time");
    assert!(next.since(sim.now).abs_diff(3 * year) < 10, "{} ms", next.since(sim.now));
    sim.now = sim.now.plus(3 * year - 1_000);
    sim.sched.tick(sim.now);
    assert!(sim.start().is_none(), "a second too early");
    assert_eq!(sim.expired.len(), 0, "what is late is found when its turn comes");
    sim.now = next;
    sim.sched.tick(sim.now);
    assert_eq!(sim.start_all().len(), 1);
    assert_eq!(sim.expired.len(), 1, "two years were not enough for the second");
    let far = Millis(u64::MAX);
    sim.now = far;
    sim.sched.tick(far);
    sim.check();
}

// === Debts ===

/// The ledger and its log, without threads.
struct Books {
    log: Memory,
    ledger: Ledger,
    sched: Scheduler,
    engines: Engines,
    running: HashMap<Seq, (queue::entry::Lease, Box<str>, u32)>,
}

const NOW: Millis = Millis(5_000);

impl Books {
    fn open(log: Memory, fence: u64) -> Self {
        let mut sched = Scheduler::new(Options::default());
        sched.tenancy("heavy", Tenancy { weight: 2, limits: Limits::default() });
        let (mut ledger, _) = Ledger::open(&log, 1, fence, &mut sched).expect("memory can be read");
        let counts = queue::ledger::count(&log, || {}, &|| true).expect("memory can be read");
        assert!(ledger.count(&counts).is_empty());
        let engines = Sim::new(Options::default()).engines;
        Self { log, ledger, sched, engines, running: HashMap::new() }
    }

    fn make(&mut self, moves: Vec<What>) {
        let mut plan = Plan::default();
        for what in moves {
            let mut ask = Ask::of(what);
            ask.seen =
                Ledger::look(&ask.what, self.ledger.due_from(), &self.log).expect("memory can be read");
            let carried = self.ledger.prepare(ask, &mut plan, &mut self.sched, NOW);
            assert!(carried.is_none());
        }
        self.log.commit(std::mem::take(&mut plan.batch), Sync::Disk).expect("memory can be written");
        let (news, _) = self.ledger.tell(plan, &mut self.sched, NOW);
        for news in news {
            assert!(!matches!(news, News::Revoked(..)));
        }
    }

    fn enqueue(&mut self, tenant: &str, tokens: u32) {
        let entry = Entry {
            queue: QueueName::new(tenant, "q").expect("a name"),
            terms: Terms::of(TARGET),
            class: Class::FIRST,
            not_before: None,
            deadline: None,
            cost: Cost { tokens, blocks: 0 },
            hint: None,
            once: None,
            keep: 0,
            payload: Bytes::from_static(b"work"),
        };
        self.make(vec![What::Enqueue(Box::new(entry))]);
    }

    fn start(&mut self) -> (Seq, Box<str>) {
        loop {
            while let Some(hunger) = self.sched.next_read() {
                let (_, number, _) = self.sched.queue(hunger.lane.queue).expect("a queue");
                let span = queue::format::lane(number, hunger.lane.class, hunger.ticket.from);
                let mut items = Vec::new();
                let mut visit = |key: &[u8], value: &[u8]| {
                    items.push(queue::format::inbox_row(key, value).expect("a row").2);
                    std::ops::ControlFlow::Continue(())
                };
                self.log.scan(&span, queue::log::Patience::Wait, &mut visit).expect("memory can be read");
                let full = items.len() > queue::inbox::CAPACITY;
                items.truncate(queue::inbox::CAPACITY);
                self.sched.read(&hunger, queue::inbox::Found { items, full });
            }
            if let Decision::Start(start) = self.sched.decide(NOW, &mut self.engines) {
                let tenant = self.sched.queue(start.lane.queue).expect("a queue").0.tenant.clone();
                self.make(vec![What::Start { seq: start.entry.seq, lease: start.lease }]);
                self.running.insert(start.entry.seq, (start.lease, tenant.clone(), start.item.cost.tokens));
                return (start.entry.seq, tenant);
            }
        }
    }

    fn finish(&mut self, ends: &[(Seq, u32)]) {
        let moves = ends.iter().map(|(seq, tokens)| {
            let (lease, ..) = self.running.remove(seq).expect("it runs");
            let used = Cost { tokens: *tokens, blocks: 0 };
            let (remembered, outcome, result) = (false, Outcome::Done, Bytes::new());
            What::Finish { seq: *seq, lease, remembered, outcome, used, result }
        });
        let moves = moves.collect();
        self.make(moves);
    }

    /// How many tokens the others get before this tenant has its next turn.
    fn passed_over(&mut self, tenant: &str) -> u64 {
        let mut tokens = 0;
        loop {
            let (seq, whose) = self.start();
            if &*whose == tenant {
                return tokens;
            }
            let cost = self.running[&seq].2;
            tokens += u64::from(cost);
            self.finish(&[(seq, cost)]);
        }
    }

    fn crash(self, fence: u64) -> Self {
        Self::open(self.log, fence)
    }
}

#[test]
fn what_a_tenant_owes_survives_a_crash_and_is_paid_once() {
    // Weight 2 owes twice as many tokens for the same wait. Two entries that end in one batch owe for both.
    let mut books = Books::open(Memory::new(), 1);
    for _ in 0..300 {
        books.enqueue("heavy", 100);
        books.enqueue("light", 100);
    }
    let mut mine = Vec::new();
    while mine.len() < 2 {
        let (seq, whose) = books.start();
        if &*whose == "heavy" {
            mine.push(seq);
        } else {
            books.finish(&[(seq, 100)]);
        }
    }
    books.finish(&[(mine[0], 4_100), (mine[1], 6_100)]);
    let mut books = books.crash(2);
    let waited = books.passed_over("heavy");
    assert!(waited.abs_diff(5_000) <= 200, "it owes 10000 at weight 2, and waited for {waited}");
    // Half paid, by others only: the row of the debtor is as old as it was.
    let mut books = Books::open(Memory::new(), 1);
    for _ in 0..300 {
        books.enqueue("heavy", 100);
        books.enqueue("light", 100);
    }
    let first = loop {
        let (seq, whose) = books.start();
        if &*whose == "heavy" {
            break seq;
        }
        books.finish(&[(seq, 100)]);
    };
    books.finish(&[(first, 10_100)]);
    for _ in 0..25 {
        let (seq, whose) = books.start();
        assert_eq!(&*whose, "light");
        books.finish(&[(seq, 100)]);
    }
    for fence in 2..4 {
        books = books.crash(fence);
    }
    let waited = books.passed_over("heavy");
    assert!(
        waited.abs_diff(2_500) <= 300,
        "half of it was paid before the crash, and it waited for {waited}"
    );
    assert_eq!(books.sched.check(), Ok(()));
}
