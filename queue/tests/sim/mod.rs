//! The scheduler alone, in simulated time: a log that is a sorted map, reads that end at once, engines that are numbers.

#![allow(dead_code, reason = "two sets of tests share it, and each needs a part")]

use std::collections::{BTreeMap, HashMap, HashSet};

use queue::entry::{Cost, Item, Lease, Terms};
use queue::inbox::{CAPACITY, Found};
use queue::limits::Limits;
use queue::name::{Class, EntryId, Key, Millis, QueueName, Seq};
use queue::scheduler::{Decision, Ground, LaneId, Options, Placed, QueueId, Scheduler, Tenancy, Window};

pub(crate) const TARGET: &str = "m";

/// Chance from a seed.
pub(crate) struct Chance(pub u64);

impl Chance {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// Mostly small, sometimes large.
    pub(crate) fn cost(&mut self, most: u32) -> u32 {
        let most = if self.one_in(8) { most } else { 1 + most / 16 };
        1 + self.below(most.into()) as u32
    }
}

/// Engines: places, and entries that they do not take now.
pub(crate) struct Engines {
    pub(crate) free: HashMap<String, i64>,
    pub(crate) refused: HashSet<Seq>,
    /// Which of the window goes.
    pub(crate) choose: fn(Window<'_>, &mut Chance) -> usize,
    pub(crate) chance: Chance,
    pub(crate) asked: u64,
}

impl Ground for Engines {
    type Place = ();

    fn place(&mut self, target: &str, _: &str, window: Window<'_>) -> Placed<()> {
        self.asked += 1;
        let free = self.free.entry(target.to_owned()).or_insert(i64::MAX);
        if *free <= 0 {
            return Placed::Full;
        }
        let wanted: Vec<usize> =
            (0..window.len()).filter(|at| !self.refused.contains(&window[*at].key.seq)).collect();
        if wanted.is_empty() {
            return Placed::NotThese;
        }
        *free -= 1;
        if self.refused.is_empty() {
            return Placed::At((self.choose)(window, &mut self.chance), ());
        }
        Placed::At(wanted[0], ())
    }
}

/// An entry that runs.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) entry: EntryId,
    pub(crate) lane: LaneId,
    pub(crate) item: Item,
    pub(crate) lease: Lease,
    pub(crate) tenant: Box<str>,
    pub(crate) target: Box<str>,
}

pub(crate) struct Sim {
    pub(crate) sched: Scheduler,
    pub(crate) now: Millis,
    pub(crate) engines: Engines,
    /// The log: what is ready.
    pub(crate) rows: BTreeMap<LaneId, BTreeMap<Key, Item>>,
    pub(crate) runs: Vec<Run>,
    pub(crate) expired: Vec<Seq>,
    next: u64,
}

impl Sim {
    pub(crate) fn new(options: Options) -> Self {
        let engines = Engines {
            free: HashMap::new(),
            refused: HashSet::new(),
            choose: |_, _| 0,
            chance: Chance(7),
            asked: 0,
        };
        Self {
            sched: Scheduler::new(options),
            now: Millis(1_000),
            engines,
            rows: BTreeMap::new(),
            runs: Vec::new(),
            expired: Vec::new(),
            next: 1,
        }
    }

    pub(crate) fn tenant(&mut self, name: &str, weight: u32, limits: Limits) {
        self.sched.tenancy(name, Tenancy { weight, limits });
    }

    pub(crate) fn queue(&mut self, tenant: &str, key: &str) -> QueueId {
        self.queue_of(tenant, key, &Terms::of(TARGET))
    }

    pub(crate) fn queue_of(&mut self, tenant: &str, key: &str, terms: &Terms) -> QueueId {
        let name = QueueName::new(tenant, key).expect("a name");
        self.next += 1;
        self.sched.add_queue(name, (1, self.next), terms, false)
    }

    /// -> Inbox, and then the scheduler is told.
    pub(crate) fn add(&mut self, queue: QueueId, class: u8, tokens: u32) -> Key {
        self.add_item(queue, class, tokens, 0, None)
    }

    pub(crate) fn add_item(
        &mut self,
        queue: QueueId,
        class: u8,
        tokens: u32,
        blocks: u32,
        deadline: Option<Millis>,
    ) -> Key {
        let item = self.item(tokens, blocks, deadline);
        let lane = LaneId { queue, class: Class::new(class).expect("a class") };
        self.put(lane, item)
    }

    pub(crate) fn item(&mut self, tokens: u32, blocks: u32, deadline: Option<Millis>) -> Item {
        self.next += 1;
        let key = Key { at: self.now, seq: Seq(self.next) };
        let cost = Cost { tokens, blocks };
        Item { key, cost, deadline, attempt: 0, overtaken: 0, remembered: false, hint: None }
    }

    pub(crate) fn put(&mut self, lane: LaneId, item: Item) -> Key {
        let key = item.key;
        self.rows.entry(lane).or_default().insert(key, item.clone());
        self.sched.added(lane, item).expect("it is new");
        key
    }

    /// Inbox -> gone
    pub(crate) fn cancel(&mut self, lane: LaneId, key: Key) {
        self.rows.entry(lane).or_default().remove(&key);
        self.sched.removed(lane, key);
    }

    /// Reads whatever lanes want to read; whether any did.
    pub(crate) fn read(&mut self) -> bool {
        let mut some = false;
        while let Some(hunger) = self.sched.next_read() {
            let rows = self.rows.entry(hunger.lane).or_default();
            let mut found = rows.range(hunger.ticket.from..).map(|(_, item)| item.clone());
            let items = found.by_ref().take(CAPACITY).collect();
            let full = found.next().is_some();
            self.sched.read(&hunger, Found { items, full });
            some = true;
        }
        some
    }

    /// The next start, written and confirmed. `None`: nothing can start.
    pub(crate) fn start(&mut self) -> Option<Run> {
        loop {
            self.read();
            match self.sched.decide(self.now, &mut self.engines) {
                Decision::Idle => {
                    if !self.read() {
                        return None;
                    }
                }
                Decision::Expire { lane, item } => {
                    self.rows.entry(lane).or_default().remove(&item.key);
                    self.sched.removed(lane, item.key);
                    self.expired.push(item.key.seq);
                }
                Decision::Start(start) => {
                    let gone = self.rows.entry(start.lane).or_default().remove(&start.item.key);
                    assert!(start.volatile || gone.is_some(), "{:?} runs and is not there", start.entry);
                    self.sched.confirm(start.entry, start.lease);
                    let tenant = self.sched.queue(start.lane.queue).expect("a queue").0.tenant.clone();
                    let target = self.sched.target_name(start.lane.queue).expect("a target").into();
                    let (entry, lane, lease) = (start.entry, start.lane, start.lease);
                    let run = Run { entry, lane, item: start.item, lease, tenant, target };
                    self.runs.push(run.clone());
                    return Some(run);
                }
            }
        }
    }

    /// Everything that can start.
    pub(crate) fn start_all(&mut self) -> Vec<Run> {
        std::iter::from_fn(|| self.start()).collect()
    }

    /// Running -> Finished, having cost so much; its place is free.
    pub(crate) fn end(&mut self, run: &Run, tokens: u32) {
        let at = self.runs.iter().position(|one| one.entry == run.entry).expect("it runs");
        self.runs.swap_remove(at);
        let used = Cost { tokens, ..run.item.cost };
        self.sched.ended(run.entry, run.lease, used, self.now).expect("it is held");
        if let Some(free) = self.engines.free.get_mut(&*run.target)
            && *free < i64::MAX / 2
        {
            *free += 1;
            // As the room does it: with nobody there is nobody to tell.
            if self.sched.waiting() > 0 {
                self.sched.stir(Some(&run.target));
            }
        }
    }

    /// Starts one and ends it at what was expected.
    pub(crate) fn serve(&mut self) -> Option<Run> {
        let run = self.start()?;
        self.end(&run, run.item.cost.tokens);
        Some(run)
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.sched.check(), Ok(()));
    }
}
