//! Any order of puts, reads, refusals, failures, removals, losses, warms, cancels and time: nothing leaks, and what the master
//! says is what nodes hold.
//!
//! The model is the nodes: what they really hold, and for each key the version that was committed last.

use std::collections::BTreeMap;

use store::master::name::{Name, Pin, Tier, Version};
use store::master::options::{Offload, Options, Promotion};
use store::master::{
    Found, Inventory, Joining, News, Order, Presence, Put, PutId, Quota, TaskId, Terms, Ticket, Warm,
};

use crate::kit::{Chance, MIB, World, block, key, options};

/// How many histories: `WARMLINE_SEEDS` asks for more.
#[expect(clippy::disallowed_methods, reason = "how much is tested is said from outside")]
fn seeds(least: u64) -> u64 {
    std::env::var("WARMLINE_SEEDS").ok().and_then(|many| many.parse().ok()).unwrap_or(least)
}

const KEYS: u64 = 14;
const STEPS: usize = 220;
/// Enough for everything to happen in some of them.
const HISTORIES: u64 = 1_500;

struct History {
    world: World,
    chance: Chance,
    puts: Vec<(PutId, u32)>,
    tasks: Vec<(usize, TaskId, Name, Version, u64)>,
    staged: Vec<(usize, TaskId, Name, Version, u64, usize)>,
    warms: Vec<Warm>,
    tickets: Vec<(Ticket, u32, u64)>,
    /// What was committed last under each key, unless it was removed.
    newest: BTreeMap<u32, Version>,
    log: Vec<String>,
}

fn chosen(chance: &mut Chance) -> Options {
    let offload = [Offload::Off, Offload::AtCommit, Offload::AtEviction][chance.below(3) as usize];
    Options {
        shards: 1 << chance.below(3),
        offload,
        offload_heat: chance.below(2) as u8,
        lease: chance.below(3) * 50,
        slots: 2 + chance.below(4) as u32,
        waits: 3,
        orders: 4 + chance.below(20) as usize,
        steps: 1 + chance.below(30) as u32,
        promotion: Promotion {
            at_a_time: 1 + chance.below(5) as usize,
            candidates: 1 + chance.below(8) as usize,
            retries: 2 + chance.below(4) as u32,
            ttl: 60_000,
            lease: chance.below(2) * 1_000,
            tries_a_tick: 4,
            ..options().promotion
        },
        ..options()
    }
}

impl History {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let options = chosen(&mut chance);
        let memories: Vec<u64> = (0..=chance.below(3)).map(|_| (4 + chance.below(8)) * MIB).collect();
        let mut world = World::with_nodes(options, &[]);
        for (at, memory) in memories.iter().enumerate() {
            world.add_node(&format!("n{at}"), *memory, (4 + chance.below(20)) * MIB);
        }
        if chance.one_in(2) {
            let quota = Quota { memory: Some(6 * MIB), disk: Some(9 * MIB), weight: 1 };
            world.master.set_quota(world.tenant, quota);
        }
        let (puts, tasks, staged) = (Vec::new(), Vec::new(), Vec::new());
        let (warms, tickets, newest, log) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
        Self { world, chance, puts, tasks, staged, warms, tickets, newest, log }
    }

    fn any_node(&mut self) -> usize {
        self.chance.below(self.world.fakes.len() as u64) as usize
    }

    fn any_key(&mut self) -> u32 {
        // Some are much more wanted than others.
        let range = if self.chance.one_in(2) { 4 } else { KEYS };
        self.chance.below(range) as u32
    }

    fn step(&mut self) {
        let number = self.any_key();
        let what = self.chance.below(100);
        self.log.push(format!("{} {what}: key {number}", self.world.now.0));
        match what {
            0..18 => self.put(number),
            18..26 => self.end_put(),
            26..48 => drop(self.world.get(&key(number))),
            48..62 => self.take(),
            62..74 => self.carry_out(),
            74..80 => self.task(),
            80..84 => self.warm(number),
            84..87 => self.cool(),
            87..89 => self.remove(number),
            89..91 => self.pin(number),
            91..93 => self.lose_copy(),
            93..94 => self.node_leaves(),
            94..97 => drop(self.world.master.tick(self.world.now)),
            _ => {
                let passes = [1, 10, 40, 500, 6_000, 31_000][self.chance.below(6) as usize];
                self.world.pass(passes);
                self.world.master.tick(self.world.now);
            }
        }
    }

    fn put(&mut self, number: u32) {
        let size = (1 + self.chance.below(3)) * MIB / 2;
        let (name, tenant) = (key(number), self.world.tenant);
        let group = store::master::name::Group(u32::from(self.chance.one_in(4)));
        let mut put = Put { group, ..Put::new(tenant, &name, size) };
        put.block = self.chance.one_in(3).then(|| block(number as u8));
        put.pin = if self.chance.one_in(10) { Pin::Soft } else { Pin::None };
        let at = self.any_node();
        put.prefer = self.chance.one_in(2).then(|| self.world.node(at));
        let waited = if self.chance.one_in(3) { self.tickets.pop() } else { None };
        if let Some((ticket, ..)) = waited {
            put.ticket = Some(ticket);
        }
        match self.world.begin(&put) {
            Ok(reserved) => self.puts.push((reserved.put, number)),
            Err(store::master::Refused::Wait(wait)) => {
                self.tickets.extend(wait.ticket.map(|ticket| (ticket, number, size)));
            }
            Err(_) => {}
        }
    }

    fn end_put(&mut self) {
        if self.puts.is_empty() {
            return;
        }
        let at = self.chance.below(self.puts.len() as u64) as usize;
        let (put, number) = self.puts.swap_remove(at);
        match self.chance.below(8) {
            0 => {
                if self.world.master.revoke(put).is_ok() {
                    self.world.fakes.iter_mut().for_each(|fake| drop(fake.open.remove(&put.version())));
                }
            }
            1 => drop(self.world.master.abandon(put)),
            // Nobody ends it.
            2 => {}
            _ => {
                if let Ok(version) = self.world.commit(put) {
                    // One that began later may have been there before: then that one stays.
                    let newest = self.newest.entry(number).or_insert(version);
                    *newest = version.max(*newest);
                }
            }
        }
    }

    fn take(&mut self) {
        let fake = self.any_node();
        let budget = self.chance.below(5) * MIB;
        let orders = self.world.take(fake, budget);
        self.world.fakes[fake].todo.extend(orders);
    }

    /// Carries out the first order; a promotion only becomes known to the holder.
    fn carry_out(&mut self) {
        let fake = self.any_node();
        if self.world.fakes[fake].todo.is_empty() {
            return;
        }
        match self.world.fakes[fake].todo.remove(0) {
            Order::Promote(task, copying) => {
                self.tasks.push((fake, task, copying.name, copying.version, copying.size));
            }
            Order::Offload(copying) if self.chance.one_in(5) => {
                let (name, version) = (copying.name, copying.version);
                let _ = self.world.tell(fake, &News::OffloadFailed { name, version });
            }
            order @ (Order::Drop { .. }
            | Order::CancelPut { .. }
            | Order::CancelTask { .. }
            | Order::Offload(_)) => self.world.carry_out(fake, order),
        }
    }

    /// A task goes on, or fails, or is forgotten.
    fn task(&mut self) {
        let (master, now) = (self.world.master.clone(), self.world.now);
        if self.chance.one_in(2) && !self.tasks.is_empty() {
            let (fake, task, name, version, size) = self.tasks.remove(0);
            let node = self.world.node(fake);
            match self.chance.below(6) {
                0 => drop(master.failed(task, node, "broken", now)),
                1 => {}
                2 => assert!(master.allocate(task, node, size + 1, now).is_err()),
                _ => {
                    if let Ok(staging) = master.allocate(task, node, size, now) {
                        let target =
                            self.world.fakes.iter().position(|fake| fake.node == staging.target).unwrap();
                        self.staged.push((fake, task, name, version, size, target));
                    }
                }
            }
        } else if !self.staged.is_empty() {
            let at = self.chance.below(self.staged.len() as u64) as usize;
            let (fake, task, name, version, size, target) = self.staged.remove(at);
            let node = self.world.node(fake);
            match self.chance.below(5) {
                0 => drop(master.failed(task, node, "broken", now)),
                1 => {}
                _ => {
                    if master.promoted(task, node, now).is_ok() {
                        self.world.fakes[target].holds.insert((version, Tier::Memory), (name, size));
                    }
                }
            }
        }
    }

    fn warm(&mut self, number: u32) {
        let names: Vec<Vec<u8>> = (0..3).map(|more| key((number + more) % KEYS as u32)).collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let deadline = self.world.now.plus(self.chance.below(2_000));
        self.warms.push(self.world.master.warm(self.world.tenant, &names, deadline, self.world.now));
    }

    fn cool(&mut self) {
        if !self.warms.is_empty() {
            let at = self.chance.below(self.warms.len() as u64) as usize;
            let warm = self.warms.swap_remove(at);
            self.world.master.cool(warm);
        }
        if self.chance.one_in(20) {
            self.world.master.clear_candidates();
        }
    }

    fn remove(&mut self, number: u32) {
        let _ = self.world.master.remove(self.world.tenant, &key(number));
        self.newest.remove(&number);
    }

    fn pin(&mut self, number: u32) {
        let pin = [Pin::None, Pin::Soft, Pin::Hard][self.chance.below(3) as usize];
        let (tenant, now) = (self.world.tenant, self.world.now);
        let _ = self.world.master.pin(tenant, &key(number), pin);
        let _ = self.world.master.lease(tenant, &key(number), 100, now);
    }

    fn lose_copy(&mut self) {
        let fake = self.any_node();
        let held = self.world.fakes[fake].holds.len() as u64;
        let at = self.chance.below(held) as usize;
        let lost = self.world.fakes[fake].holds.iter().nth(at).map(|(at, (name, _))| (*at, name.clone()));
        if let Some(((version, tier), name)) = lost {
            self.world.fakes[fake].holds.remove(&(version, tier));
            let _ = self.world.tell(fake, &News::Lost { name, version, tier });
        }
    }

    /// It is away for a moment, loses a message, or restarts.
    fn node_leaves(&mut self) {
        let at = self.any_node();
        let node = self.world.node(at);
        match self.chance.below(4) {
            0 => self.world.master.away(node).unwrap(),
            1 => self.world.fakes[at].position += 1,
            how => {
                if how == 2 {
                    self.world.master.lost(node).unwrap();
                }
                let fake = &mut self.world.fakes[at];
                fake.life += 1;
                fake.position = 0;
                fake.holds.retain(|(_, tier), _| *tier == Tier::Disk);
                fake.open.clear();
                fake.todo.clear();
                self.tasks.retain(|task| task.0 != at);
                self.staged.retain(|task| task.0 != at && task.5 != at);
            }
        }
        if self.chance.one_in(2) {
            self.world.checked();
            self.returns(at);
        }
    }

    fn returns(&mut self, at: usize) {
        let fake = &self.world.fakes[at];
        // A new life knows of no transfer that the master let in before it heard of that life.
        if self.world.master.node_list()[at].life != fake.life {
            self.world.fakes[at].open.clear();
        }
        let fake = &self.world.fakes[at];
        let position = fake.position;
        let joining = Joining { id: &fake.id, life: fake.life, memory: fake.memory, disk: fake.disk };
        let joined = self.world.master.join(&joining).unwrap();
        self.world.fakes[at].forget_drops();
        let missed = joined.inventory != Inventory::From(position + 1);
        if joined.inventory == Inventory::Snapshot || missed {
            self.world.snapshot(at);
        }
    }

    /// What the master says can be read is really there, and is what was committed last.
    fn agrees(&self) {
        for number in 0..KEYS as u32 {
            let tenant = self.world.tenant;
            let look = self.world.look(&key(number));
            let exists = self.world.master.exists(tenant, &key(number));
            assert_eq!(exists == Presence::Here, exists == Presence::Here && look.is_some());
            let Some(look) = look.filter(|_| exists == Presence::Here) else { continue };
            if let Some(newest) = self.newest.get(&number) {
                assert!(look.version <= *newest, "{number}: nobody committed {:?}", look.version);
            }
            for (node, tier) in look.copies {
                let exact = self.world.master.node_list();
                let of = &exact[usize::from(node.number())];
                let fake = &self.world.fakes[usize::from(node.number())];
                // What a node has not been able to tell yet, nobody can know.
                if of.standing == store::master::Standing::Exact
                    && (of.position, of.life) == (fake.position, fake.life)
                {
                    let held = fake.holds.get(&(look.version, tier));
                    assert_eq!(held.map(|(_, size)| *size), Some(look.size), "{number} {node:?} {tier:?}");
                }
            }
        }
    }

    /// Everything comes to rest: nothing is held, and both sides know of the same copies.
    fn settle(&mut self) {
        for at in 0..self.world.fakes.len() {
            self.returns(at);
        }
        self.tasks.clear();
        self.staged.clear();
        for warm in std::mem::take(&mut self.warms) {
            self.world.master.cool(warm);
        }
        for _ in 0..40 {
            self.world.pass(31_000);
            self.world.master.tick(self.world.now);
            self.world.work_all();
        }
        self.world.checked();
        self.agrees();
        let gauges = self.world.master.gauges();
        let busy = (gauges.puts, gauges.promotions, gauges.offloads, gauges.candidates, gauges.awaited);
        assert_eq!(busy, (0, 0, 0, 0, 0), "puts, promotions, offloads, candidates, awaited");
        for (at, look) in self.world.master.node_list().iter().enumerate() {
            let fake = &self.world.fakes[at];
            for (tier, space) in [(Tier::Memory, look.memory), (Tier::Disk, look.disk)] {
                let rest = (space.reserved, space.leaving, space.promised);
                assert_eq!((space.here, rest), (fake.bytes(tier), (0, 0, 0)), "{} {tier:?}", look.id);
            }
            assert_eq!((look.puts, look.leaving, fake.open.len()), (0, 0, 0));
        }
        for number in 0..KEYS as u32 {
            let held = self
                .world
                .fakes
                .iter()
                .any(|fake| fake.holds.iter().any(|(_, (name, _))| *name.key == *key(number)));
            assert_eq!(matches!(self.world.get(&key(number)), Found::Here(_)), held, "{number}");
        }
    }
}

/// What a history came to, for comparing two runs of it.
fn run(seed: u64) -> (store::master::counters::Tally, usize) {
    let mut history = History::new(seed);
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            history.step();
            history.world.checked();
            history.agrees();
        }
        history.settle();
    }));
    if let Err(why) = ran {
        let first = history.log.len().saturating_sub(12);
        panic!("seed {seed}: {:?}\n{}", why.downcast_ref::<String>(), history.log[first..].join("\n"));
    }
    (history.world.master.counters(), history.log.len())
}

#[test]
fn no_history_leaks_a_pin_a_byte_a_slot_or_a_candidate_and_master_and_nodes_agree() {
    let mut all = store::master::counters::Tally::default();
    let many = seeds(HISTORIES);
    for seed in 0..many {
        all += run(seed).0;
    }
    if many < HISTORIES {
        return;
    }
    // The histories must go everywhere, or they prove nothing.
    let p = all.promotions;
    for (what, many) in [
        ("completed", p.completed),
        ("failed", p.failed),
        ("expired", p.expired),
        ("cancelled", p.cancelled),
        ("admitted by the tick", all.candidates.admitted),
        ("expired evaluated", all.candidates.expired_evaluated),
        ("dropped by the limit", all.candidates.dropped_limit),
        ("refused by the watermark", all.rejected.watermark),
        ("refused by the cap", all.rejected.cap),
        ("refused by quota", all.rejected.quota),
        ("being put", all.rejected.being_put),
        ("warm in time", all.warmed.in_time),
        ("warm too late", all.warmed.too_late),
        ("warm cancelled", all.warmed.cancelled),
        ("displaced", all.moves.displaced),
        ("offloaded", all.moves.offloaded),
        ("offloads failed", all.moves.offloads_failed),
        ("evicted from memory", all.moves.evicted_memory),
        ("evicted from disk", all.moves.evicted_disk),
    ] {
        assert!(many > 0, "no history had this: {what}: {all:?}");
    }
}

#[test]
fn a_history_is_the_same_each_time() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

#[test]
fn many_threads_at_once_break_nothing() {
    let mut world = World::with_nodes(
        Options { shards: 8, offload: Offload::AtCommit, high: 800, low: 600, ..options() },
        &[20 * MIB, 20 * MIB],
    );
    for number in 0..40 {
        world.cold(&key(number), MIB);
    }
    let nodes = [world.node(0), world.node(1)];
    let (master, tenant, start) = (world.master.clone(), world.tenant, world.now);
    std::thread::scope(|scope| {
        for worker in 0..4_u64 {
            let master = master.clone();
            scope.spawn(move || {
                let mut chance = Chance::new(worker);
                for round in 0..6_000_u64 {
                    let now = start.plus(round);
                    let name = key(chance.below(60) as u32);
                    match chance.below(12) {
                        0..3 => {
                            if let Ok(reserved) = master.reserve(&Put::new(tenant, &name, MIB), now) {
                                if chance.one_in(4) {
                                    let _ = master.revoke(reserved.put);
                                } else {
                                    let _ = master.commit(reserved.put, &Terms::default(), now);
                                }
                            }
                        }
                        3..7 => drop(master.get(tenant, &name, now)),
                        7 => drop(master.tick(now)),
                        8 => drop(master.pin(tenant, &name, Pin::None)),
                        9 => drop(master.remove(tenant, &name)),
                        10 => {
                            let warm = master.warm(tenant, &[&name], now.plus(5), now);
                            master.cool(warm);
                        }
                        _ => master.check().unwrap(),
                    }
                }
            });
        }
        // Each node has one who tells for it, in order.
        for (node, position) in nodes.into_iter().zip([world.fakes[0].position, world.fakes[1].position]) {
            let master = master.clone();
            scope.spawn(move || {
                let mut position = position;
                for round in 0..3_000_u64 {
                    let now = start.plus(round * 2);
                    for order in master.take_orders(node, 4 * MIB).unwrap() {
                        let mut tell = |news| {
                            position += 1;
                            let _ = master.tell(node, 1, position, &news, now);
                        };
                        match order {
                            Order::Drop { version, tier, .. } => tell(News::Released { version, tier }),
                            Order::CancelPut { put, .. } => {
                                tell(News::Released { version: put.version(), tier: Tier::Memory });
                            }
                            Order::Offload(copying) => {
                                let (name, version) = (copying.name, copying.version);
                                tell(News::Offloaded { name, version });
                            }
                            Order::Promote(task, copying) => {
                                if master.allocate(task, node, copying.size, now).is_ok() {
                                    let _ = master.promoted(task, node, now);
                                }
                            }
                            Order::CancelTask { .. } => {}
                        }
                    }
                }
            });
        }
    });
    world.checked();
}
