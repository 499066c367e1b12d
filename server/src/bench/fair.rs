//! Who waits how long: the real scheduler with tenants and engines in virtual time, beside what it promises.
//!
//! Engines are slots that work off tokens at a constant pace. The first-in-first-out line beside it is the same scheduler with
//! everybody in one queue. It measures no time of this machine: the same seed gives the same answer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::fmt::Write as _;

use queue::entry::{Cost, Item, Lease, Order, Terms};
use queue::inbox::{CAPACITY, Found};
use queue::limits::Limits;
use queue::name::{Class, EntryId, Key, Millis, QueueName, Seq};
use queue::scheduler::{Decision, Ground, LaneId, Options, Placed, Scheduler, Tenancy, Window};
use serde::Serialize;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// A small tenant beside one that sends a hundred times as much.
    beside: Vec<Waited>,
    /// Served tokens of weights one and three, by tenths of the time: the part of the first.
    weights: Vec<f64>,
    /// An urgent class that wants everything, and three that wait for their share.
    classes: Vec<Served>,
    /// Fifty queues of one tenant beside many of another: their parts.
    flows: Vec<Flows>,
}

/// How long the entries of the small tenant waited, in seconds.
#[derive(Clone, Debug, Serialize)]
struct Waited {
    how: &'static str,
    p50_s: f64,
    p99_s: f64,
    longest_s: f64,
    /// The most that any of them may have waited, by what is promised; where something is.
    bound_s: Option<f64>,
    /// Entries that waited for longer than theirs.
    beyond: Option<usize>,
}

#[derive(Clone, Debug, Serialize)]
struct Served {
    class: usize,
    /// Its part of the work, and what it was promised.
    part: f64,
    promised: Option<f64>,
    /// The most work that passed it at a time, in tokens, and the bound.
    passed: u64,
    bound: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
struct Flows {
    how: &'static str,
    /// The part that the fifty have of the work.
    fifty: f64,
}

/// Slots of the engines together, and tokens that each works off in a millisecond.
const SLOTS: u32 = 8;
const PACE: u64 = 20;
/// The largest entry.
const MOST: u32 = 8_000;
const TARGET: &str = "model";

/// How much of it.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Breaks ties and draws sizes.
    pub seed: u64,
    /// Minutes that the small tenant and the large one send.
    pub minutes: u32,
    /// Queues of the tenant that has many.
    pub queues: usize,
}

/// Measures.
pub fn measure(plan: Plan) -> Measured {
    let Plan { seed, minutes, queues } = plan;
    let length = f64::from(minutes) * 60_000.0;
    let beside = [("alone", How::Alone), ("fair", How::Fair), ("first in, first out", How::Fifo)];
    Measured {
        beside: beside.map(|(name, how)| one_beside_hundred(seed, length, name, how)).into(),
        weights: weights(seed),
        classes: classes(seed),
        flows: flows(seed, queues),
    }
}

// === The world ===

/// Numbers that look like chance.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    /// Mostly small, now and then the largest.
    fn tokens(&mut self) -> u32 {
        let most = if self.below(10) == 0 { MOST } else { MOST / 8 };
        1 + self.below(most.into()) as u32
    }

    /// Between two arrivals that come so often.
    fn gap(&mut self, mean_ms: f64) -> f64 {
        let part = (self.below(1 << 32) as f64 + 1.0) / (1_u64 << 32) as f64;
        -part.ln() * mean_ms
    }
}

struct Anywhere;

impl Ground for Anywhere {
    type Place = ();

    fn place(&mut self, _: &str, _: &str, _: Window<'_>) -> Placed<()> {
        Placed::At(0, ())
    }
}

/// A start.
#[derive(Clone)]
struct Start {
    seq: Seq,
    lane: LaneId,
    waited: u64,
    tokens: u32,
}

struct World {
    sched: Scheduler,
    now: Millis,
    lanes: HashMap<(&'static str, usize, u8), LaneId>,
    rows: HashMap<LaneId, BTreeMap<Key, Item>>,
    ends: BinaryHeap<Reverse<(Millis, EntryId, Lease, u32)>>,
    next: u64,
}

impl World {
    fn new(options: Options) -> Self {
        let fleet = Limits { running: Some(SLOTS), ..Limits::default() };
        Self {
            sched: Scheduler::new(Options { fleet, ..options }),
            now: Millis(0),
            lanes: HashMap::new(),
            rows: HashMap::new(),
            ends: BinaryHeap::new(),
            next: 1,
        }
    }

    fn add(&mut self, tenant: &'static str, queue: usize, class: u8, tokens: u32) -> Seq {
        let sched = &mut self.sched;
        let (next, lanes) = (&mut self.next, &mut self.lanes);
        let lane = *lanes.entry((tenant, queue, class)).or_insert_with(|| {
            *next += 1;
            let name = QueueName { tenant: tenant.into(), key: format!("q{queue}").into() };
            let terms = Terms { order: Order::Fifo, ..Terms::of(TARGET) };
            let class = Class::new(class).unwrap_or(Class::LAST);
            LaneId { queue: sched.add_queue(name, (1, *next), &terms, false), class }
        });
        *next += 1;
        let key = Key { at: self.now, seq: Seq(*next) };
        let cost = Cost { tokens, blocks: 0 };
        let item =
            Item { key, cost, deadline: None, attempt: 0, overtaken: 0, remembered: false, hint: None };
        self.rows.entry(lane).or_default().insert(key, item.clone());
        // A number is given once.
        let _twice = self.sched.added(lane, item);
        key.seq
    }

    fn read(&mut self) {
        while let Some(hunger) = self.sched.next_read() {
            let rows = self.rows.entry(hunger.lane).or_default();
            let mut found = rows.range(hunger.ticket.from..).map(|(_, item)| item.clone());
            let items = found.by_ref().take(CAPACITY).collect();
            let full = found.next().is_some();
            self.sched.read(&hunger, Found { items, full });
        }
    }

    /// What can start now.
    fn start(&mut self) -> Option<Start> {
        self.read();
        let Decision::Start(start) = self.sched.decide(self.now, &mut Anywhere) else { return None };
        self.sched.confirm(start.entry, start.lease);
        self.rows.entry(start.lane).or_default().remove(&start.item.key);
        let tokens = start.item.cost.tokens;
        let end = self.now.plus((u64::from(tokens)).div_ceil(PACE));
        self.ends.push(Reverse((end, start.entry, start.lease, tokens)));
        let (seq, lane) = (start.item.key.seq, start.lane);
        Some(Start { seq, lane, waited: self.now.since(start.item.key.at), tokens })
    }

    /// When the next one ends.
    fn next_end(&self) -> Option<Millis> {
        self.ends.peek().map(|Reverse((at, ..))| *at)
    }

    fn end(&mut self) {
        if let Some(Reverse((at, entry, lease, tokens))) = self.ends.pop() {
            self.now = self.now.max(at);
            let used = Cost { tokens, blocks: 0 };
            // It runs: nobody takes it away here.
            let _stale = self.sched.ended(entry, lease, used, self.now);
        }
    }
}

// === One beside a hundred times as much ===

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Alone,
    Fair,
    Fifo,
}

fn one_beside_hundred(seed: u64, length: f64, name: &'static str, how: How) -> Waited {
    let mut world = World::new(Options::default());
    // The small one wants a fiftieth of the fleet, the other twice of it.
    let mean = f64::from(MOST) * (0.1 / 2.0 + 0.9 / 16.0);
    let small_every = mean / PACE as f64 / f64::from(SLOTS) * 50.0;
    let mut chance = [Chance::new(seed), Chance::new(seed ^ 0xbeef)];
    let mut arrives = [chance[0].gap(small_every), chance[1].gap(small_every / 100.0)];
    let mut small: HashMap<Seq, u64> = HashMap::new();
    let mut ahead = 0_u64;
    let (mut waits, mut bounds) = (Vec::new(), Vec::new());
    loop {
        let first = usize::from(arrives[0] > arrives[1] && how != How::Alone);
        let at = Millis(arrives[first] as u64);
        if let Some(end) = world.next_end().filter(|end| *end <= at) {
            debug_assert!(end >= world.now, "time goes on");
            world.end();
        } else {
            if arrives[first] > length {
                break;
            }
            world.now = world.now.max(at);
            let tokens = chance[first].tokens();
            let tenant = match (how, first) {
                (How::Fifo, _) => "all",
                (_, 0) => "small",
                _ => "big",
            };
            let seq = world.add(tenant, 0, 1, tokens);
            if first == 0 {
                // F1: until it starts, the other is served at most what we are, and one largest entry of each; the slots
                // take up so much work in that time, once the first of them is free.
                let most = 2 * ahead + u64::from(tokens) + 2 * u64::from(MOST);
                small.insert(seq, u64::from(MOST).div_ceil(PACE) + most.div_ceil(PACE * u64::from(SLOTS)));
                ahead += u64::from(tokens);
            }
            let every = if first == 0 { small_every } else { small_every / 100.0 };
            arrives[first] += chance[first].gap(every);
        }
        while let Some(start) = world.start() {
            if let Some(bound) = small.remove(&start.seq) {
                ahead -= u64::from(start.tokens);
                waits.push(start.waited);
                bounds.push(bound);
            }
        }
    }
    let beyond = waits.iter().zip(&bounds).filter(|(waited, bound)| waited > bound).count();
    let promised = how == How::Fair;
    waits.sort_unstable();
    let quantile = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    Waited {
        how: name,
        p50_s: quantile(0.5),
        p99_s: quantile(0.99),
        longest_s: quantile(1.0),
        bound_s: promised.then(|| bounds.iter().copied().max().unwrap_or_default() as f64 / 1e3),
        beyond: promised.then_some(beyond),
    }
}

// === Who always wants more ===

/// Serves so many starts; before each, whoever is short of entries sends some.
fn saturated(
    world: &mut World,
    chance: &mut Chance,
    senders: &[(&'static str, usize, u8)],
    starts: usize,
    mut started: impl FnMut(&Start),
) {
    let mut waiting: HashMap<LaneId, (usize, usize)> = HashMap::new();
    for (at, (tenant, queue, class)) in senders.iter().enumerate() {
        for _ in 0..2 {
            let tokens = chance.tokens();
            world.add(tenant, *queue, *class, tokens);
        }
        waiting.insert(world.lanes[&(*tenant, *queue, *class)], (at, 2));
    }
    let mut many = 0;
    while many < starts {
        let Some(start) = world.start() else {
            world.end();
            continue;
        };
        many += 1;
        started(&start);
        let Some((at, left)) = waiting.get_mut(&start.lane) else { continue };
        let (tenant, queue, class) = senders[*at];
        *left -= 1;
        while *left < 2 {
            let tokens = chance.tokens();
            world.add(tenant, queue, class, tokens);
            *left += 1;
        }
    }
}

fn weights(seed: u64) -> Vec<f64> {
    const STARTS: usize = 20_000;
    let mut world = World::new(Options::default());
    for (tenant, weight) in [("one", 1), ("three", 3)] {
        world.sched.tenancy(tenant, Tenancy { weight, limits: Limits::default() });
    }
    let senders = [("one", 0, 1), ("three", 0, 1)];
    let mut starts = Vec::with_capacity(STARTS);
    saturated(&mut world, &mut Chance::new(seed), &senders, STARTS, |start| starts.push(start.clone()));
    let one = world.lanes[&senders[0]];
    let part = |starts: &[Start]| {
        let tokens = |starts: &mut dyn Iterator<Item = &Start>| {
            starts.map(|start| u64::from(start.tokens)).sum::<u64>()
        };
        let own = tokens(&mut starts.iter().filter(|start| start.lane == one));
        own as f64 / tokens(&mut starts.iter()) as f64
    };
    starts.chunks(STARTS / 10).map(part).collect()
}

fn classes(seed: u64) -> Vec<Served> {
    const STARTS: usize = 60_000;
    let options = Options::default();
    let (share, patience) = (options.share, options.patience);
    let mut world = World::new(options);
    let senders: Vec<(&'static str, usize, u8)> = (0..4).map(|class| ("all", class, class as u8)).collect();
    let (mut served, mut passed, mut longest) = ([0_u64; 4], [0_u64; 4], [0_u64; 4]);
    saturated(&mut world, &mut Chance::new(seed), &senders, STARTS, |start| {
        for class in 0..4 {
            if class == start.lane.class.number() {
                served[class] += u64::from(start.tokens);
                passed[class] = 0;
            } else {
                passed[class] += u64::from(start.tokens);
                longest[class] = longest[class].max(passed[class]);
            }
        }
    });
    let all: u64 = served.iter().sum();
    let of = |class: usize| {
        let promised = (share[class] > 0).then(|| f64::from(share[class]) / 1e3);
        // Q5 of the scheduler.
        let bound =
            promised.map(|part| ((patience + u64::from(MOST)) as f64 / part) as u64 + 4 * u64::from(MOST));
        Served { class, part: served[class] as f64 / all as f64, promised, passed: longest[class], bound }
    };
    (0..4).map(of).collect()
}

fn flows(seed: u64, many: usize) -> Vec<Flows> {
    [("fair among tenants", "many"), ("fair among queues", "few")]
        .map(|(how, other)| {
            let mut world = World::new(Options::default());
            let mut senders: Vec<(&'static str, usize, u8)> = (0..50).map(|at| ("few", at, 1)).collect();
            // Among queues: they are all of one tenant.
            senders.extend((50..50 + many).map(|at| (other, at, 1)));
            let mut starts = Vec::new();
            saturated(&mut world, &mut Chance::new(seed), &senders, 40_000, |start| {
                starts.push(start.clone());
            });
            let own: HashSet<LaneId> = senders[..50].iter().map(|one| world.lanes[one]).collect();
            let (mut fifty, mut all) = (0, 0);
            for start in &starts {
                all += u64::from(start.tokens);
                fifty += if own.contains(&start.lane) { u64::from(start.tokens) } else { 0 };
            }
            Flows { how, fifty: fifty as f64 / all as f64 }
        })
        .into()
}

// === For people ===

/// A bar of a part of a whole.
fn bar(part: f64, width: usize) -> String {
    let full = (part.clamp(0.0, 1.0) * width as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "·".repeat(width - full))
}

/// A bar on a scale of powers of ten, from a hundredth of a second to three hours.
fn log_bar(seconds: f64) -> String {
    bar((seconds.max(0.01) * 100.0).log10() / 6.0, 36)
}

/// Tables and charts.
pub fn table(measured: &Measured) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _infallible = writeln!(out, "{text}");
    };
    line("a tenant beside one that sends a hundred times as much: seconds until it starts (8 slots)".into());
    line(format!("  {:<21}{:>9}{:>9}{:>9}{:>9}", "", "p50", "p99", "longest", "bound"));
    for one in &measured.beside {
        let bound = one.bound_s.map_or_else(|| "-".to_owned(), |bound| format!("{bound:.2}"));
        let Waited { how, p50_s, p99_s, longest_s, .. } = one;
        line(format!("  {how:<21}{p50_s:>9.2}{p99_s:>9.2}{longest_s:>9.2}{bound:>9}"));
        if let Some(beyond) = one.beyond {
            line(format!("  {:<21}{beyond:>9} waited for longer than the bound of their own", ""));
        }
    }
    line(format!("  p99, each step ten times:      {:<12}{:<12}{:<12}", "0.01 s", "1 s", "100 s"));
    for one in &measured.beside {
        line(format!("  {:<21}{}", one.how, log_bar(one.p99_s)));
    }
    line(String::new());
    line(
        "weights one and three, both want everything: the part of the first, tenth by tenth of the time"
            .into(),
    );
    for part in &measured.weights {
        line(format!("  {:>5.1} %  {}", 100.0 * part, bar(*part, 48)));
    }
    line(String::new());
    line(
        "classes that all want everything: parts of the work, and the most that passed a class at a time"
            .into(),
    );
    line(format!("  {:<9}{:>9}{:>10}{:>14}{:>12}", "class", "part", "promised", "tokens", "bound"));
    for one in &measured.classes {
        let promised =
            one.promised.map_or_else(|| "the rest".to_owned(), |part| format!("{:.1} %", 100.0 * part));
        let bound = one.bound.map_or_else(|| "-".to_owned(), |bound| bound.to_string());
        let Served { class, part, passed, .. } = one;
        line(format!(
            "  {class:<9}{:>7.1} %{promised:>10}{passed:>14}{bound:>12}  {}",
            100.0 * part,
            bar(*part, 24)
        ));
    }
    line(String::new());
    line("fifty queues of a tenant beside many of another (--queues): the part of the fifty".into());
    for one in &measured.flows {
        line(format!("  {:<21}{:>7.2} %  {}", one.how, 100.0 * one.fifty, bar(one.fifty, 48)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Plan, measure};

    #[test]
    fn what_is_promised_is_kept_and_first_in_first_out_keeps_none_of_it() {
        let measured = measure(Plan { seed: 1, minutes: 20, queues: 10_000 });
        let [alone, fair, fifo] = &measured.beside[..] else { panic!("three ways") };
        assert_eq!(fair.beyond, Some(0));
        assert!(fair.p99_s <= fair.bound_s.expect("it is promised"));
        assert!(alone.p99_s <= fair.p99_s && 100.0 * fair.p99_s < fifo.p99_s, "{:?}", measured.beside);
        assert!(measured.weights.iter().all(|part| (part - 0.25).abs() < 0.0125), "{:?}", measured.weights);
        for class in &measured.classes[1..] {
            let promised = class.promised.expect("it has a share");
            assert!((class.part - promised).abs() < 0.1 * promised, "{class:?}");
            assert!(class.passed <= class.bound.expect("it has a share"), "{class:?}");
        }
        assert!((measured.flows[0].fifty - 0.5).abs() < 0.01, "{:?}", measured.flows);
        assert!(measured.flows[1].fifty < 0.01, "{:?}", measured.flows);
    }
}
