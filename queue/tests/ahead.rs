//! What is said to start next does start next: after any history, against the starts that follow.
//!
//! `WARMLINE_SEEDS=10000 cargo test -p warmline-queue --test ahead` runs more histories; a failure prints its seed.

use std::collections::BTreeMap;

use queue::entry::{Order, Terms};
use queue::inbox::CAPACITY;
use queue::limits::Limits;
use queue::name::{Class, EntryId, Key};
use queue::scheduler::{LaneId, Next, Options, QueueId, Stands, Tenancy};

#[path = "sim/mod.rs"]
mod sim;

use sim::{Chance, Run, Sim, TARGET};

const TARGETS: [&str; 2] = [TARGET, "n"];
const TENANTS: [(&str, u32); 3] = [("a", 1), ("b", 3), ("c", 1)];
const ORDERS: [Order; 3] = [Order::Fifo, Order::Warm, Order::Slack];
const NONE_FREE: i64 = 0;
const ALL_FREE: i64 = i64::MAX / 2;

/// How many histories: `WARMLINE_SEEDS` asks for more.
#[expect(clippy::disallowed_methods, reason = "how much is tested is said from outside")]
fn seeds(least: u64) -> u64 {
    std::env::var("WARMLINE_SEEDS").ok().and_then(|many| many.parse().ok()).unwrap_or(least)
}

fn lane(queue: QueueId, class: u8) -> LaneId {
    LaneId { queue, class: Class::new(class).expect("a class") }
}

fn options() -> Options {
    Options { overtake: 2, reach: 4, patience: 4, share: [0, 300, 200, 100], ..Options::default() }
}

struct World {
    sim: Sim,
    chance: Chance,
    queues: Vec<QueueId>,
    paused: Vec<QueueId>,
    /// All that was ever said to come.
    said: BTreeMap<EntryId, Next>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut sim = Sim::new(options());
        let mut queues = Vec::new();
        for (tenant, weight) in TENANTS {
            // Places are kept free for one of them: it has turns of its own.
            let limits = Limits { guaranteed: u32::from(tenant == "c") * 2, ..Limits::default() };
            sim.sched.tenancy(tenant, Tenancy { weight, limits });
            for target in TARGETS {
                for order in ORDERS {
                    let terms = Terms { order, weight: 1 + queues.len() as u32 % 3, ..Terms::of(target) };
                    queues.push(sim.queue_of(tenant, &format!("{target}-{order:?}"), &terms));
                }
            }
        }
        let chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Self { sim, chance, queues, paused: Vec::new(), said: BTreeMap::new() }
    }

    fn free(&mut self, free: i64) {
        for target in TARGETS {
            self.sim.engines.free.insert(target.to_owned(), free);
            self.sim.sched.stir(Some(target));
        }
    }

    fn some_queue(&mut self) -> QueueId {
        self.queues[self.chance.below(self.queues.len() as u64) as usize]
    }

    fn some_entry(&mut self) -> Option<(LaneId, Key)> {
        let all: Vec<_> =
            self.sim.rows.iter().flat_map(|(lane, rows)| rows.keys().map(|key| (*lane, *key))).collect();
        (!all.is_empty()).then(|| all[self.chance.below(all.len() as u64) as usize])
    }

    /// Something happens.
    fn step(&mut self) {
        match self.chance.below(13) {
            12 if !self.sim.runs.is_empty() => {
                let at = self.chance.below(self.sim.runs.len() as u64) as usize;
                let (run, used) = (self.sim.runs[at].clone(), self.chance.cost(64));
                self.sim.end(&run, used);
                self.free(NONE_FREE);
            }
            0..=5 => {
                let (queue, class) = (self.some_queue(), self.chance.below(4) as u8);
                if self.sim.rows.get(&lane(queue, class)).is_some_and(|rows| rows.len() >= CAPACITY) {
                    return;
                }
                let tokens = self.chance.cost(64);
                let deadline = self.chance.one_in(3).then(|| self.sim.now.plus(1 + self.chance.below(60)));
                self.sim.add_item(queue, class, tokens, 0, deadline);
            }
            6..=8 => {
                let some = 1 + self.chance.below(3) as i64;
                self.free(some);
                for run in self.sim.start_all() {
                    // Some run on.
                    if self.chance.one_in(4) {
                        continue;
                    }
                    let used = self.chance.cost(64);
                    // What ends frees its place, and others start there.
                    self.sim.end(&run, used);
                }
                self.free(NONE_FREE);
            }
            9 => {
                if let Some((lane, key)) = self.some_entry() {
                    self.sim.cancel(lane, key);
                }
            }
            10 => {
                let queue = self.some_queue();
                let at = self.paused.iter().position(|paused| *paused == queue);
                match at {
                    Some(at) => _ = self.paused.swap_remove(at),
                    None => self.paused.push(queue),
                }
                self.sim.sched.pause(queue, at.is_none());
            }
            _ => {
                // Nobody takes what is here now, although there are places: each lane is asked, and is out of turns.
                let all = self.sim.rows.values().flat_map(|rows| rows.keys().map(|key| key.seq)).collect();
                self.sim.engines.refused = all;
                self.free(ALL_FREE);
                let none = self.sim.start_all();
                assert!(none.is_empty());
                self.sim.engines.refused.clear();
                for free in self.sim.engines.free.values_mut() {
                    *free = NONE_FREE;
                }
            }
        }
        self.sim.check();
    }

    /// What comes next, with whatever had to be read for it; and that it is said whenever it changes.
    fn ahead(&mut self, most: usize) -> BTreeMap<String, Vec<Next>> {
        loop {
            let ahead = self.sim.sched.ahead(most, self.sim.now);
            if !self.sim.sched.read_ahead(&ahead.unread) {
                assert!(ahead.unread.is_empty());
                let of = |coming: queue::scheduler::Coming| (coming.target.into_string(), coming.entries);
                let ahead: BTreeMap<String, Vec<Next>> = ahead.targets.into_iter().map(of).collect();
                self.said.extend(ahead.values().flatten().map(|next| (next.entry, *next)));
                return ahead;
            }
            assert!(self.sim.read());
        }
    }

    /// What became of all that was said to come is what became of it.
    fn check_said(&self) {
        for (id, next) in &self.said {
            let runs = self.sim.runs.iter().any(|run| run.entry == *id);
            let waits = self.sim.rows.get(&next.lane).is_some_and(|rows| rows.contains_key(&next.key));
            let expected = match (runs, waits && !self.paused.contains(&next.lane.queue)) {
                (true, _) => Stands::Started,
                (false, true) => Stands::Waits,
                (false, false) => Stands::Gone,
            };
            assert_eq!(self.sim.sched.stands(next), expected, "{next:?}");
        }
    }
}

fn by_target(runs: &[Run]) -> BTreeMap<String, Vec<EntryId>> {
    let mut all: BTreeMap<String, Vec<EntryId>> = BTreeMap::new();
    for run in runs {
        all.entry(run.target.to_string()).or_default().push(run.entry);
    }
    all
}

#[test]
fn what_is_said_to_come_next_comes_next() {
    for seed in 0..seeds(1_500) {
        let mut world = World::new(seed);
        for _ in 0..20 + seed % 100 {
            world.sim.now = world.sim.now.plus(world.chance.below(3));
            let (before, changes) = (world.ahead(64), world.sim.sched.changes());
            world.step();
            let same = world.sim.sched.changes() == changes;
            assert!(!same || world.ahead(64) == before, "seed {seed}: it changed, and nobody said so");
            world.ahead(64);
            world.check_said();
        }
        let most = [5, 64, 1_000][seed as usize % 3];
        let waiting: usize = world.sim.rows.values().map(BTreeMap::len).sum();
        let said = world.ahead(most);
        let listed: usize = said.values().map(Vec::len).sum();
        assert!(listed <= most.min(waiting), "seed {seed}");
        let starts = world.sim.sched.ahead(most, world.sim.now).targets.into_iter();
        let starts: BTreeMap<String, u64> =
            starts.map(|coming| (coming.target.into_string(), coming.starts)).collect();
        // Now all can go.
        world.free(ALL_FREE);
        let came = by_target(&world.sim.start_all());
        if listed < most {
            let all: usize = came.values().map(Vec::len).sum();
            assert_eq!(listed, all, "seed {seed}: some of what came was not said to");
        }
        for (target, said) in &said {
            let said: Vec<EntryId> = said.iter().map(|next| next.entry).collect();
            assert_eq!(said[..], came[target][..said.len()], "seed {seed}, {target}");
        }
        world.check_said();
        // How many have been started is said with those that come.
        let queue = world.queues.iter().find(|queue| !world.paused.contains(queue));
        if let Some(queue) = queue.copied() {
            world.free(NONE_FREE);
            world.sim.add(queue, 1, 1);
            let target = world.sim.sched.target_name(queue).unwrap().to_owned();
            let after = world.sim.sched.ahead(most, world.sim.now).targets;
            let after = after.iter().find(|coming| *coming.target == *target).expect("one waits");
            let before = starts
                .get(&target)
                .map(|before| before + came.get(&target).map_or(0, |came| came.len() as u64));
            assert!(before.is_none_or(|before| before == after.starts), "seed {seed}");
        }
    }
}

#[test]
fn of_a_long_lane_only_what_is_in_memory_is_said_to_come() {
    let mut world = World::new(1);
    world.free(NONE_FREE);
    let queue = world.queues[0];
    let keys: Vec<Key> = (0..1_000).map(|_| world.sim.add(queue, 3, 10)).collect();
    let said = world.ahead(1_000);
    let said: Vec<Key> = said[TARGET].iter().map(|next| next.key).collect();
    assert_eq!(said[..], keys[..CAPACITY]);
}

#[test]
fn those_who_stand_in_line_are_not_among_them() {
    let mut world = World::new(1);
    world.free(NONE_FREE);
    let line = world.sim.queue("a", "requests");
    for _ in 0..100 {
        let item = world.sim.item(10, 0, None);
        world.sim.sched.stand_in_line(lane(line, 1), item).unwrap();
    }
    assert!(world.ahead(10).is_empty());
    let key = world.sim.add(world.queues[0], 1, 10);
    let said = world.ahead(10);
    assert_eq!(said[TARGET].iter().map(|next| next.key).collect::<Vec<_>>(), [key]);
}

#[test]
fn what_a_limit_of_its_own_holds_back_is_not_said_to_come_and_what_waits_for_a_place_is() {
    let one = || Limits { running: Some(1), ..Limits::default() };
    let mut world = World::new(1);
    let limited = Terms { limits: one(), ..Terms::of(TARGET) };
    let queue = world.sim.queue_of("a", "limited", &limited);
    world.free(ALL_FREE);
    (0..3).for_each(|_| _ = world.sim.add(queue, 1, 10));
    let runs = world.sim.start_all();
    assert_eq!(runs.len(), 1);
    assert!(world.ahead(10).is_empty(), "its queue's limit holds the others back");
    world.sim.end(&runs[0], 10);
    world.free(NONE_FREE);
    assert_eq!(world.ahead(10)[TARGET].len(), 2, "they wait for a place only");

    // At the limit of its tenant.
    let mut world = World::new(1);
    world.sim.sched.tenancy("b", Tenancy { weight: 1, limits: one() });
    let queue = world.queues.iter().find(|queue| &*world.sim.sched.queue(**queue).unwrap().0.tenant == "b");
    let queue = *queue.unwrap();
    world.free(ALL_FREE);
    (0..3).for_each(|_| _ = world.sim.add(queue, 1, 10));
    assert_eq!(world.sim.start_all().len(), 1);
    assert!(world.ahead(10).is_empty(), "its tenant's limit holds the others back");
}

#[test]
fn lanes_that_nobody_has_read_are_read_for_it() {
    let mut world = World::new(1);
    world.free(NONE_FREE);
    let (known, unknown) = (world.queues[0], world.sim.queue("c", "as after a restart"));
    let first = world.sim.add(known, 1, 10);
    let item = world.sim.item(10, 0, None);
    let second = item.key;
    world.sim.rows.entry(lane(unknown, 1)).or_default().insert(second, item);
    world.sim.sched.open(lane(unknown, 1));
    assert!(world.sim.start().is_none(), "there is no place");
    let keys = |world: &mut World| -> Vec<Key> {
        let mut keys: Vec<Key> = world.ahead(10)[TARGET].iter().map(|next| next.key).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&mut world), [first, second]);
    // It changed nothing that is decided.
    world.free(ALL_FREE);
    assert_eq!(world.sim.start_all().len(), 2);
    world.sim.check();
}
