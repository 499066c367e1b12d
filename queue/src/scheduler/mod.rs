//! Which entry runs next: a pure decision over what is known of each lane, what is used of each limit, and the time.
//!
//! The tree: entries contend for a *target* (a model: engines that can run it). Below it are classes, below those a *seat*
//! for each tenant, below that the tenant's *lanes* (a queue in one class). A tenant gets no more by having more queues.
//!
//! It reads no disk and no clock, and starts nothing: it is told what was committed, in that order, and is asked for
//! decisions ([`decide`]). A decision to start a durable entry must be confirmed by the log ([`Scheduler::confirm`]);
//! until then its place is taken, and it can be undone ([`Scheduler::undo`]).
//!
//! - Q1: nothing runs beyond a limit of its queue, tenant, target or the fleet.
//! - Q2: what is ready and not held back has a turn: a lane is in its seat's turns if and only if it is [`At::Ready`], a
//!   seat in its class's if and only if it is ready and has such a lane.
//! - Q3: whoever is held back knows by what, and is looked at again when that changes and not before.
//! - Q4: within a lane an entry is overtaken by later ones at most [`Options::overtake`] times.
//! - Q5: a class that is ready is passed over by at most `(patience + e) / share` tokens of work and one entry of each
//!   class before it has a turn, and gets its share of the work from then on; `e` is the entry that it had the last such turn
//!   with. It holds for shares that are less than everything together. A share of 0 waits for as long as others want.
//!   A class that has a turn because nobody more urgent is ready owes nothing for it.
//! - Q6: nothing that could start waits. What is first at its level and too large for what is left there keeps that level
//!   for itself until something ends there, and is then the first to be asked: small ones do not go past it for ever. If it
//!   leaves or is paused, the level is free at once.
//! - Q7: a target has no place only while somebody waits for one: whoever frees a place tells of it only then.
//! - Q8: of durable lanes there are in memory at most [`Options::cached`] entries, and one more of each lane.

mod ahead;
mod decide;
mod hash;
mod lane;
mod look;
mod told;

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::entry::{Cost, Item, Lease, Order, Terms};
use crate::fair::{Fair, Member};
use crate::inbox;
use crate::limits::{Limits, Narrow, Pool};
use crate::name::{CLASSES, Class, EntryId, Key, Millis, QueueName};

use hash::Spread;
use lane::{Lane, Lanes};

pub use ahead::{Ahead, Coming, Next, Stands};
pub use decide::{Decision, Ground, Placed, Start, Window};
pub use look::{Depth, Held, Sizes, Why};

/// How turns are given.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Limits on everything together.
    pub fleet: Limits,
    /// How often an entry can be overtaken within its lane.
    pub overtake: u8,
    /// Among how many of the first entries of a lane one is chosen.
    pub reach: usize,
    /// The part of the work that a class gets when more urgent ones want everything, in thousandths.
    pub share: [u32; CLASSES],
    /// Entries of a class that run at a time, over all targets.
    pub class_running: [Option<u32>; CLASSES],
    /// Tokens of that part that must have passed a class before its share begins to count.
    pub patience: u64,
    /// Entries of durable lanes that are kept in memory, over all lanes. When there are more, a lane keeps its first only:
    /// fewer save memory, and cost a read a start where there are more lanes than this that have something.
    pub cached: usize,
    /// Refills at a time.
    pub refills: usize,
}

/// What a tenant may use, and its part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tenancy {
    /// Its part beside other tenants; 0 means 1.
    pub weight: u32,
    /// What it may use.
    pub limits: Limits,
}

/// Who runs next.
pub struct Scheduler {
    options: Options,
    fleet: Pool,
    /// Held back by the fleet's limit.
    fleet_full: bool,
    /// Targets whose seats are all held back because what is left is kept free for others, in the order in which they came.
    crowd: VecDeque<u32>,
    /// Targets that have something of a class of which as many run as may, each once, in the order in which they came.
    lines: [VecDeque<u32>; CLASSES],
    /// Targets without a place, or with lanes that nobody could take: each once.
    asking: Vec<u32>,
    targets: slab::Slab<Target>,
    tenants: slab::Slab<Tenant>,
    seats: slab::Slab<Seat>,
    queues: slab::Slab<Queue>,
    target_of: HashMap<Box<str>, u32>,
    tenant_of: HashMap<Box<str>, u32>,
    seat_of: HashMap<(u32, Class, u32), u32, Spread>,
    /// Targets that may have something to start, each once.
    live: VecDeque<u32>,
    timers: BTreeSet<(Millis, Timer)>,
    /// Lanes that want to read, in the order in which they may.
    hungry: VecDeque<LaneId>,
    filling: usize,
    cached: usize,
    running: HashMap<EntryId, Run, Spread>,
    /// How many of each class run.
    of_class: [u32; CLASSES],
    /// Lanes that have something and are not paused.
    waiting: usize,
    leases: u64,
    looks: u64,
    /// Grows with everything that moves what is [`Scheduler::ahead`].
    changes: u64,
    /// Entries of volatile lanes that wait.
    volatile: usize,
    /// Seats that nobody uses and whose tenant still owed something when they were looked at last.
    indebted: VecDeque<u32>,
}

/// A queue, by its place in the table; another may have it once the queue is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub(crate) u32);

/// A queue in one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    /// The queue.
    pub queue: QueueId,
    /// The class.
    pub class: Class,
}

/// What a tenant owes the others of a class of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debt {
    /// In tokens.
    pub tokens: u64,
    /// The virtual time at which it owed them: what others were served later is no longer owed.
    pub at: u64,
}

/// Who owes, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DebtOf {
    /// What is contended for.
    pub target: Box<str>,
    /// In which class.
    pub class: Class,
    /// Who.
    pub tenant: Box<str>,
}

/// A lane that wants to read, and what it wants.
#[derive(Clone, Debug)]
pub struct Hunger {
    /// The lane.
    pub lane: LaneId,
    /// What it calls the refill, and from where it reads.
    pub ticket: inbox::Ticket,
}

struct Target {
    name: Box<str>,
    turns: [Turns; CLASSES],
    pool: Pool,
    at: TargetAt,
    /// Lanes whose first entry nobody could take, although others may go.
    picky: Vec<LaneId>,
    /// In which of `lines` it stands.
    in_line: [bool; CLASSES],
    /// In `asking`.
    asks: bool,
    /// Durable entries that were started on it.
    starts: u64,
    users: u32,
}

/// The seats of one class.
#[derive(Default)]
struct Turns {
    fair: Fair,
    /// What passed this class while it was ready, in thousandths of tokens of its share. Less than nothing: it went before
    /// more urgent ones with more than its share.
    owed: i64,
    /// Lanes that have something and are not paused.
    waiting: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TargetAt {
    /// Nothing to start, as far as is known.
    Idle,
    /// In `live`.
    Live,
    /// No place on its engines.
    NoPlace,
    /// At its limit.
    Full(Narrow),
    /// In `crowd`: what is left of the fleet's limit is kept free for others.
    Crowded,
}

struct Tenant {
    name: Box<str>,
    weight: u32,
    pool: Pool,
    /// Its seats: at most one for each class of each target that it uses.
    seats: Vec<u32>,
    /// Those that are held back by its limits.
    held: Vec<u32>,
    /// Known from the settings: stays.
    named: bool,
    /// Queues and seats that know it.
    users: u32,
}

/// A tenant's lanes of one class for one target.
struct Seat {
    target: u32,
    class: Class,
    tenant: u32,
    fair: Fair,
    tag: u64,
    at: SeatAt,
    /// Whether places are kept free for its tenant.
    kept: bool,
    /// Lanes that have something and are not paused: without any, it is absent.
    present: u32,
    /// Lanes and runs that know it.
    users: u32,
    /// In `indebted`.
    noted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SeatAt {
    /// It has no lane that is ready.
    Idle,
    /// Among the turns of its class.
    Ready,
    /// At its tenant's limit.
    Full(Narrow),
}

struct Queue {
    /// Its name beside its tenant's.
    key: Box<str>,
    /// The log that it is in, and its number there.
    partition: u32,
    number: u64,
    tenant: u32,
    target: u32,
    weight: u32,
    order: Order,
    pool: Option<Box<Pool>>,
    paused: bool,
    lanes: Lanes,
    runs: u32,
}

/// An entry that runs, or is about to.
#[derive(Debug)]
struct Run {
    lane: LaneId,
    seat: u32,
    item: Item,
    lease: Lease,
    confirmed: bool,
    /// It left while its start was on its way to the log.
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Fleet,
    Target(u32),
    Tenant(u32),
    Queue(QueueId),
    /// A refill failed and is tried again.
    Read(LaneId),
    Expire(LaneId, Key),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fleet: Limits::default(),
            overtake: 4,
            reach: 8,
            share: [0, 100, 50, 20],
            class_running: [None; CLASSES],
            patience: 65_536,
            cached: 1 << 20,
            refills: 64,
        }
    }
}

// === Names and settings ===

impl Scheduler {
    /// Nobody waits yet.
    pub fn new(options: Options) -> Self {
        Self {
            fleet: Pool::new(options.fleet.clone()),
            options,
            fleet_full: false,
            crowd: VecDeque::new(),
            lines: Default::default(),
            asking: Vec::new(),
            targets: slab::Slab::new(),
            tenants: slab::Slab::new(),
            seats: slab::Slab::new(),
            queues: slab::Slab::new(),
            target_of: HashMap::new(),
            tenant_of: HashMap::new(),
            seat_of: HashMap::default(),
            live: VecDeque::new(),
            timers: BTreeSet::new(),
            hungry: VecDeque::new(),
            filling: 0,
            cached: 0,
            running: HashMap::default(),
            of_class: [0; CLASSES],
            waiting: 0,
            leases: 0,
            looks: 0,
            changes: 0,
            volatile: 0,
            indebted: VecDeque::new(),
        }
    }

    /// What a tenant may use and what its part is; it stays known.
    pub fn tenancy(&mut self, tenant: &str, tenancy: Tenancy) {
        let id = self.tenant(tenant);
        self.with_tenant(id, |one| {
            one.weight = tenancy.weight.max(1);
            one.pool.set(tenancy.limits);
            one.named = true;
        });
        self.changes += 1;
        self.free_tenant(id);
        self.free_fleet();
    }

    /// What the engines of a target may be given together.
    pub fn limit_target(&mut self, target: &str, limits: Limits) {
        let id = self.target(target);
        self.targets[id as usize].pool.set(limits);
        // Stays known: it has been named.
        self.targets[id as usize].users += 1;
        self.free_target(id);
    }

    fn target(&mut self, name: &str) -> u32 {
        if let Some(id) = self.target_of.get(name) {
            return *id;
        }
        let id = self.targets.insert(Target {
            name: name.into(),
            turns: Default::default(),
            pool: Pool::default(),
            at: TargetAt::Idle,
            picky: Vec::new(),
            in_line: [false; CLASSES],
            asks: false,
            starts: 0,
            users: 0,
        }) as u32;
        self.target_of.insert(name.into(), id);
        id
    }

    fn tenant(&mut self, name: &str) -> u32 {
        if let Some(id) = self.tenant_of.get(name) {
            return *id;
        }
        let id = self.tenants.insert(Tenant {
            name: name.into(),
            weight: 1,
            pool: Pool::default(),
            seats: Vec::new(),
            held: Vec::new(),
            named: false,
            users: 0,
        }) as u32;
        self.tenant_of.insert(name.into(), id);
        id
    }

    fn seat(&mut self, target: u32, class: Class, tenant: u32) -> u32 {
        if let Some(id) = self.seat_of.get(&(target, class, tenant)) {
            return *id;
        }
        let one = &mut self.tenants[tenant as usize];
        let kept = kept_free(one) > 0;
        let fair = Fair::default();
        let seat = Seat {
            target,
            class,
            tenant,
            fair,
            tag: 0,
            at: SeatAt::Idle,
            kept,
            present: 0,
            users: 0,
            noted: false,
        };
        let id = self.seats.insert(seat) as u32;
        self.seat_of.insert((target, class, tenant), id);
        one.seats.push(id);
        one.users += 1;
        self.targets[target as usize].users += 1;
        id
    }

    /// A seat that nobody uses is given up, unless its tenant still owes something: then it is looked at again later.
    fn let_seat_go(&mut self, id: u32) {
        let seat = &self.seats[id as usize];
        let turns = &self.targets[seat.target as usize].turns[seat.class.number()];
        if seat.users > 0 {
            return;
        }
        if turns.fair.owed(seat.tag, 1) > 0 && turns.waiting > 0 {
            self.look_again_at(id);
            return;
        }
        let seat = self.seats.remove(id as usize);
        let one = &mut self.tenants[seat.tenant as usize];
        one.held.retain(|held| *held != id);
        one.seats.retain(|seat| *seat != id);
        self.seat_of.remove(&(seat.target, seat.class, seat.tenant));
        self.let_target_go(seat.target);
        self.let_tenant_go(seat.tenant);
    }

    /// A seat that nobody uses owes something: it is looked at again, and is noted once, however often it is left.
    fn look_again_at(&mut self, id: u32) {
        let seat = &mut self.seats[id as usize];
        if !std::mem::replace(&mut seat.noted, true) {
            self.indebted.push_back(id);
        }
    }

    fn let_tenant_go(&mut self, id: u32) {
        let tenant = &mut self.tenants[id as usize];
        tenant.users -= 1;
        if tenant.users == 0 && !tenant.named {
            let tenant = self.tenants.remove(id as usize);
            self.tenant_of.remove(&tenant.name);
        }
    }

    fn let_target_go(&mut self, id: u32) {
        let target = &mut self.targets[id as usize];
        target.users -= 1;
        if target.users == 0 {
            let target = self.targets.remove(id as usize);
            self.target_of.remove(&target.name);
            self.live.retain(|live| *live != id);
            self.crowd.retain(|crowded| *crowded != id);
            for (line, _) in self.lines.iter_mut().zip(target.in_line).filter(|(_, stands)| *stands) {
                line.retain(|other| *other != id);
            }
            if target.asks {
                self.asking.retain(|asks| *asks != id);
            }
        }
    }

    /// A queue, with what is fixed about it. Of its entries nothing is known yet: see [`Scheduler::open`].
    pub fn add_queue(
        &mut self,
        name: QueueName,
        (partition, number): (u32, u64),
        terms: &Terms,
        paused: bool,
    ) -> QueueId {
        let tenant = self.tenant(&name.tenant);
        let target = self.target(&terms.target);
        self.tenants[tenant as usize].users += 1;
        self.targets[target as usize].users += 1;
        let limits = &terms.limits;
        QueueId(self.queues.insert(Queue {
            key: name.key,
            partition,
            number,
            tenant,
            target,
            weight: terms.weight.max(1),
            order: terms.order,
            pool: (!limits.is_none()).then(|| Box::new(Pool::new(limits.clone()))),
            paused,
            lanes: Lanes::default(),
            runs: 0,
        }) as u32)
    }

    /// Forgets a queue that is known to be empty by whoever counts; `false`: something is known to be there.
    pub fn forget_queue(&mut self, id: QueueId) -> bool {
        let Some(queue) = self.queues.get(id.0 as usize) else { return true };
        if queue.runs > 0 || !queue.lanes.all().all(Lane::is_bare) {
            return false;
        }
        for class in Class::all() {
            self.drop_lane(LaneId { queue: id, class });
        }
        let queue = self.queues.remove(id.0 as usize);
        self.let_target_go(queue.target);
        self.let_tenant_go(queue.tenant);
        true
    }

    /// Forgets everything of a log that is no longer ours, whatever waits or runs there. What ran is returned.
    pub fn drop_partition(&mut self, partition: u32, now: Millis) -> Vec<(EntryId, Lease)> {
        let ran = self.running.iter().filter(|(id, _)| id.partition == partition);
        let ran: Vec<(EntryId, Lease)> = ran.map(|(id, run)| (*id, run.lease)).collect();
        for (id, lease) in &ran {
            let cost = self.running.get(id).map_or(Cost::default(), |run| run.item.cost);
            let _held = self.ended(*id, *lease, cost, now);
        }
        let gone = self.queues.iter().filter(|(_, queue)| queue.partition == partition);
        let gone: Vec<QueueId> = gone.map(|(id, _)| QueueId(id as u32)).collect();
        for id in gone {
            for class in Class::all() {
                let lane = LaneId { queue: id, class };
                self.change(lane, |inbox| {
                    inbox.cancel();
                    *inbox = inbox::Inbox::empty();
                });
                // Q6: what was too large may have been first here.
                self.free_what_it_held(lane);
            }
            self.forget_queue(id);
        }
        ran
    }
}

impl Scheduler {
    /// Changes what is used of a tenant's limits, or what they are; how many places are kept free for it follows.
    fn with_tenant(&mut self, id: u32, change: impl FnOnce(&mut Tenant)) {
        let one = &mut self.tenants[id as usize];
        let before = kept_free(one);
        change(one);
        let after = kept_free(one);
        if before == after {
            return;
        }
        self.fleet.reserved = self.fleet.reserved - before + after;
        if (before > 0) == (after > 0) {
            return;
        }
        for at in 0..self.tenants[id as usize].seats.len() {
            let seat_id = self.tenants[id as usize].seats[at];
            let seat = &mut self.seats[seat_id as usize];
            let turns = &mut self.targets[seat.target as usize].turns[seat.class.number()].fair;
            let ready = seat.at == SeatAt::Ready;
            if ready {
                turns.leave(seat.member(seat_id), seat.tag);
            }
            seat.kept = after > 0;
            if ready {
                turns.join(seat.member(seat_id), &mut seat.tag);
                let target = seat.target;
                self.awaken(target, after > 0);
            }
        }
    }
}

impl Seat {
    /// What it is called among the turns of its class.
    fn member(&self, id: u32) -> Member {
        Member { id, kept: self.kept }
    }
}

/// Places of the fleet's limit that are kept free for a tenant.
fn kept_free(tenant: &Tenant) -> u32 {
    tenant.pool.limits().guaranteed.saturating_sub(tenant.pool.running())
}

#[cfg(test)]
mod tests;
