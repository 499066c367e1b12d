//! Questions: what waits, what is held back and by what, and whether the invariants hold.

use std::collections::{HashSet, VecDeque};

use super::lane::{At, Lane, member};
use super::{LaneId, QueueId, Scheduler, SeatAt, TargetAt};
use crate::entry::{Item, Lease};
use crate::limits::Narrow;
use crate::name::{CLASSES, Class, EntryId, Key, Millis, QueueName};

/// Why something does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has its turn when it comes: so many of its lane are known to be before it.
    Turn(usize),
    /// It is too far behind to be in memory.
    Far,
    /// Its lane is being read.
    Reading,
    /// Its queue is paused.
    Paused,
    /// A limit.
    Held(Held, Narrow),
    /// No engine has room for anything of its target.
    NoPlace,
    /// No engine has room for the first of its lane.
    Picky,
    /// Its start is being written.
    Starting,
    /// It runs.
    Running,
}

/// Whose limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The queue's.
    Queue,
    /// The tenant's.
    Tenant,
    /// The target's.
    Target,
    /// That on everything, or what of it is kept free for others.
    Fleet,
}

/// What the scheduler holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Queues that are not empty.
    pub queues: usize,
    /// Entries that run.
    pub running: usize,
    /// Entries of durable lanes that are in memory.
    pub cached: usize,
    /// Entries that wait in memory and nowhere else.
    pub volatile: usize,
    /// Reads under way.
    pub reading: usize,
    /// How many of each class run.
    pub of_class: [u32; CLASSES],
}

/// What the scheduler remembers, for whoever looks for what grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What is contended for.
    pub targets: usize,
    /// Tenants that are named, have a queue, or owe something.
    pub tenants: usize,
    /// Their seats, one for each class of each target.
    pub seats: usize,
    /// Times at which something is looked at.
    pub timers: usize,
    /// Notes of who is to be looked at when something changes.
    pub notes: usize,
}

impl Scheduler {
    /// How much it remembers.
    pub fn sizes(&self) -> Sizes {
        let held: usize = self.tenants.iter().map(|(_, tenant)| tenant.held.len()).sum();
        let picky: usize = self.targets.iter().map(|(_, target)| target.picky.len()).sum();
        let lines: usize = self.lines.iter().map(VecDeque::len).sum();
        let lists = self.live.len() + self.crowd.len() + self.hungry.len() + self.indebted.len();
        let lists = lists + lines + self.asking.len();
        Sizes {
            targets: self.targets.len(),
            tenants: self.tenants.len(),
            seats: self.seats.len(),
            timers: self.timers.len(),
            notes: held + picky + lists,
        }
    }

    /// What it holds.
    pub fn depth(&self) -> Depth {
        Depth {
            queues: self.queues.len(),
            running: self.running.len(),
            cached: self.cached,
            volatile: self.volatile,
            reading: self.filling,
            of_class: self.of_class,
        }
    }

    /// How often a lane was looked at for a decision: once a start, and once whenever one turned out to be held back.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Lanes that have something, or may have, and are not paused.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The queue of this place in the table: its name, its number in the log, and whether it is paused.
    pub fn queue(&self, id: QueueId) -> Option<(QueueName, u64, bool)> {
        let queue = self.queues.get(id.0 as usize)?;
        let tenant = self.tenants[queue.tenant as usize].name.clone();
        Some((QueueName { tenant, key: queue.key.clone() }, queue.number, queue.paused))
    }

    /// The number of a queue in its log.
    pub fn number(&self, id: QueueId) -> Option<u64> {
        self.queues.get(id.0 as usize).map(|queue| queue.number)
    }

    /// Why the first entry of a lane does not run.
    pub fn why_lane(&self, id: LaneId) -> Option<Why> {
        let lane = self.lane(id)?;
        let seat = &self.seats[lane.seat as usize];
        let target = &self.targets[seat.target as usize];
        Some(match lane.at {
            At::Empty => return None,
            At::Paused => Why::Paused,
            At::Reading => Why::Reading,
            At::Picky => Why::Picky,
            At::Full(narrow) => Why::Held(Held::Queue, narrow),
            At::Ready => match (seat.at, target.at) {
                (SeatAt::Full(narrow), _) => Why::Held(Held::Tenant, narrow),
                (_, TargetAt::Crowded) => Why::Held(Held::Fleet, Narrow::Running),
                (_, TargetAt::Full(narrow)) => Why::Held(Held::Target, narrow),
                _ if self.fleet_full => Why::Held(Held::Fleet, Narrow::Running),
                _ if self.is_full(id.class) => Why::Held(Held::Fleet, Narrow::Running),
                (_, TargetAt::NoPlace) => Why::NoPlace,
                _ => Why::Turn(0),
            },
        })
    }

    /// Why an entry does not run.
    pub fn why(&self, id: LaneId, key: Key) -> Option<Why> {
        if let Some(run) = self.id(id, key.seq).and_then(|id| self.running.get(&id)) {
            return Some(if run.confirmed { Why::Running } else { Why::Starting });
        }
        let of_lane = self.why_lane(id)?;
        if of_lane != Why::Turn(0) {
            return Some(of_lane);
        }
        let items = self.lane(id)?.known().items();
        Some(match items.binary_search_by_key(&key, |item| item.key) {
            Ok(before) => Why::Turn(before),
            Err(_) => Why::Far,
        })
    }

    /// The least key of a lane that the log may hold: where a scan may begin. `None`: nothing is there.
    pub fn low_water(&self, id: LaneId) -> Option<Key> {
        let lane = self.lane(id)?;
        lane.known().low_water()
    }

    /// The first entry of a lane that is known, and since when it could run.
    pub fn oldest(&self, id: LaneId) -> Option<Millis> {
        self.lane(id)?.known().items().first().map(|item| item.key.at)
    }

    /// Entries of a volatile lane that wait.
    pub fn standing(&self, id: LaneId) -> usize {
        self.lane(id).and_then(|lane| lane.rest.as_ref()).map_or(0, |rest| rest.len())
    }

    /// The log that a queue is in.
    pub fn partition(&self, id: QueueId) -> Option<u32> {
        self.queues.get(id.0 as usize).map(|queue| queue.partition)
    }

    /// What a queue runs on.
    pub fn target_name(&self, id: QueueId) -> Option<&str> {
        let queue = self.queues.get(id.0 as usize)?;
        Some(&self.targets[queue.target as usize].name)
    }

    /// How many entries of a queue run.
    pub fn runs(&self, id: QueueId) -> usize {
        self.queues.get(id.0 as usize).map_or(0, |queue| queue.runs as usize)
    }

    /// Whether nothing of a queue is in memory: nothing waits or leaves, and nothing runs.
    pub fn is_bare(&self, id: QueueId) -> bool {
        let Some(queue) = self.queues.get(id.0 as usize) else { return true };
        queue.runs == 0 && queue.lanes.all().all(Lane::is_bare)
    }

    /// Whether a start with this lease is on its way to the log.
    pub fn is_starting(&self, id: EntryId, lease: Lease) -> bool {
        self.running.get(&id).is_some_and(|run| run.lease == lease && !run.confirmed)
    }

    /// Entries that run, each with its lane.
    pub fn all_runs(&self) -> impl Iterator<Item = (LaneId, &Item)> {
        self.running.values().map(|run| (run.lane, &run.item))
    }

    /// The invariants of the file header.
    ///
    /// # Errors
    /// The name of the first that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let pools = self.tenants.iter().map(|(_, tenant)| &tenant.pool);
        let pools = pools.chain(self.targets.iter().map(|(_, target)| &target.pool)).chain([&self.fleet]);
        let pools = pools.chain(self.queues.iter().filter_map(|(_, queue)| queue.pool.as_deref()));
        ensure(pools.into_iter().all(|pool| !pool.is_over()), "Q1")?;
        let kept: u32 = self.tenants.iter().map(|(_, tenant)| super::kept_free(tenant)).sum();
        ensure(self.fleet.reserved == kept, "Q1")?;
        ensure(self.of_class.iter().sum::<u32>() as usize == self.running.len(), "Q1")?;
        ensure(self.fleet.running() as usize == self.running.len(), "Q1")?;
        let picky: HashSet<LaneId> =
            self.targets.iter().flat_map(|(_, target)| target.picky.iter().copied()).collect();
        let mut waiting = 0;
        let mut ready_lanes = 0;
        let (mut cached, mut cached_lanes) = (0, 0);
        for (at, queue) in &self.queues {
            for class in Class::all() {
                let id = LaneId { queue: QueueId(at as u32), class };
                let Some(lane) = queue.lanes.get(class) else { continue };
                lane.known().check()?;
                let seat = &self.seats[lane.seat as usize];
                ensure(seat.fair.has(member(id), lane.tag) == (lane.at == At::Ready), "Q2")?;
                let nothing = lane.known().items().is_empty() && !lane.known().is_hungry();
                ensure(nothing == (lane.at == At::Empty), "Q2")?;
                ensure((lane.at == At::Paused) == (queue.paused && !nothing), "Q3")?;
                let reads = lane.asked || lane.resting || lane.known().is_filling();
                ensure(lane.at != At::Reading || reads, "Q3")?;
                ensure(lane.at != At::Picky || picky.contains(&id), "Q3")?;
                waiting += u32::from(lane.at.is_present());
                ready_lanes += usize::from(lane.at == At::Ready);
                let everything = lane.rest.as_ref().map(|rest| rest.len());
                let known = lane.known().items().len();
                if everything.is_none() {
                    cached += known;
                    cached_lanes += usize::from(known > 0);
                }
                ensure(everything.is_none_or(|all| known == all || known > 0 && known < all), "N1")?;
            }
        }
        ensure(cached == self.cached && cached <= self.options.cached + cached_lanes, "Q8")?;
        let all: usize = self.seats.iter().map(|(_, seat)| seat.fair.len()).sum();
        ensure(all == ready_lanes, "Q2")?;
        for (at, seat) in &self.seats {
            let target = &self.targets[seat.target as usize];
            let turns = &target.turns[seat.class.number()];
            ensure(turns.fair.has(seat.member(at as u32), seat.tag) == (seat.at == SeatAt::Ready), "Q2")?;
            ensure(seat.at != SeatAt::Ready || !seat.fair.is_empty(), "Q2")?;
            ensure(seat.at != SeatAt::Idle || seat.fair.is_empty(), "Q2")?;
            let tenant = &self.tenants[seat.tenant as usize];
            ensure(!matches!(seat.at, SeatAt::Full(_)) || tenant.held.contains(&(at as u32)), "Q3")?;
            ensure(seat.kept == (super::kept_free(tenant) > 0), "Q1")?;
            ensure(tenant.seats.contains(&(at as u32)), "Q3")?;
        }
        let counted: u32 =
            self.targets.iter().flat_map(|(_, target)| target.turns.iter().map(|turns| turns.waiting)).sum();
        ensure(counted == waiting && self.waiting == waiting as usize, "Q2")?;
        for (at, target) in &self.targets {
            let crowded = self.crowd.iter().filter(|id| **id == at as u32).count();
            ensure(crowded == usize::from(target.at == TargetAt::Crowded), "Q3")?;
            let live = self.live.iter().filter(|id| **id == at as u32).count();
            ensure(live == usize::from(target.at == TargetAt::Live), "Q2")?;
            let ready = |class: Class| !target.turns[class.number()].fair.is_empty() && !self.is_full(class);
            let unseen = |class: Class| !target.in_line[class.number()];
            let lost = |class: Class| ready(class) && unseen(class);
            ensure(!Class::all().any(lost) || target.at != TargetAt::Idle, "Q3")?;
            let kept = |class: Class| {
                let kept = target.turns[class.number()].fair.first_kept().is_some();
                kept && !self.is_full(class) && unseen(class)
            };
            ensure(!Class::all().any(kept) || target.at != TargetAt::Crowded, "Q3")?;
            for (class, line) in self.lines.iter().enumerate() {
                let stands = line.iter().filter(|id| **id == at as u32).count();
                ensure(stands == usize::from(target.in_line[class]), "Q3")?;
            }
            let asks = self.asking.iter().filter(|id| **id == at as u32).count();
            ensure(asks == usize::from(target.asks), "Q3")?;
            ensure(target.asks || target.at != TargetAt::NoPlace && target.picky.is_empty(), "Q3")?;
            let waiting = target.turns.iter().any(|turns| turns.waiting > 0);
            ensure(waiting || target.at != TargetAt::NoPlace, "Q7")?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(name) }
}
