//! A master and one node in virtual time. The node's disk is a model: it copies one block after the other, each way, at a
//! bounded rate; everything else takes no time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use store::master::counters::Tally;
use store::master::name::{Millis, Name, Node, Tenant, Tier, Version};
use store::master::options::{Offload, Options, Promotion};
use store::master::{
    Deaf, Found, Joining, Master, News, Order, Presence, Put, Refused, TaskId, Terms, Ticket,
};

use crate::load::Load;

/// 512 tokens of 32 KiB each: about what a large model with latent attention keeps in a byte a number.
pub(crate) const BLOCK: u64 = 16 << 20;
/// Copies that the node has taken and not finished: half a second of reading.
pub(crate) const WINDOW: u64 = 64;
/// Microseconds between two ticks.
const TICK: u64 = 10_000;
/// How long a put waits for memory.
const PATIENCE: u64 = 5_000_000;
/// How long it goes on after the last request: candidates and copies under way come to an end.
const AFTER: u64 = 600_000_000;

/// What the node can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Bytes that the disk reads in a second, for readers and promotions together.
    pub(crate) reads: u64,
    /// Bytes that it writes in a second.
    pub(crate) writes: u64,
    /// Seconds of every five minutes in which nothing new comes to the node: it drains, or its memory is held.
    pub(crate) closed: u64,
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) memory: u64,
    pub(crate) disk: u64,
    /// Copies that a promotion brought to memory, and that left it, or were there at the end, without having been read.
    pub(crate) in_vain: u64,
    /// Reads from memory of what a promotion had brought there.
    pub(crate) after_promotion: u64,
    pub(crate) puts_given_up: u64,
    pub(crate) tally: Tally,
}

struct World<'a> {
    master: Master,
    tenant: Tenant,
    node: Node,
    position: u64,
    /// Microseconds.
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    reads: Lane,
    writes: Lane,
    /// Copies taken and not finished.
    copying: u64,
    puts: VecDeque<Waiting>,
    /// What promotions brought to memory; whether it has been read there.
    promoted: HashMap<Version, bool>,
    load: &'a Load,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Tick,
    Request(usize),
    Close(bool),
    Written(Name, Version),
    Read(TaskId, Version),
}

/// One direction of the disk: until when it is busy.
struct Lane {
    rate: u64,
    until: u64,
}

/// A put that waits for memory.
struct Waiting {
    key: [u8; 4],
    since: u64,
    ticket: Option<Ticket>,
}

/// Plays a load through a master with these settings and a node like this.
pub(crate) fn play(load: &Load, promotion: &Promotion, machine: &Machine) -> Outcome {
    let mut world = World::new(load, promotion, machine);
    let end = load.requests.last().map_or(0, |request| request.at * 1_000) + AFTER;
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.happens(event);
        world.serve();
    }
    world.finish()
}

impl<'a> World<'a> {
    fn new(load: &'a Load, promotion: &Promotion, machine: &Machine) -> Self {
        let options =
            Options { offload: Offload::AtCommit, promotion: promotion.clone(), ..Options::default() };
        let master = Master::new(options, Arc::new(Deaf), Arc::new(Deaf));
        let tenant = master.tenant("a").expect("there is room for one");
        // All of it fits twice: nothing ever leaves the disk.
        let disk = 2 * load.distinct as u64 * BLOCK;
        let node = master
            .join(&Joining { id: "n", life: 1, memory: machine.memory, disk })
            .expect("there is room for one")
            .node;
        master.begin_inventory(node, 1).expect("it has joined");
        master.end_inventory(node, 1, 0, Millis(0)).expect("a snapshot has begun");
        let mut world = Self {
            master,
            tenant,
            node,
            position: 0,
            now: 0,
            events: BinaryHeap::new(),
            number: 0,
            reads: Lane { rate: machine.reads, until: 0 },
            writes: Lane { rate: machine.writes, until: 0 },
            copying: 0,
            puts: VecDeque::new(),
            promoted: HashMap::new(),
            load,
            outcome: Outcome::default(),
        };
        world.later(TICK, Event::Tick);
        for at in (1..=20).filter(|_| machine.closed > 0).map(|round| round * 300_000_000 - 150_000_000) {
            world.later(at, Event::Close(true));
            world.later(at + machine.closed * 1_000_000, Event::Close(false));
        }
        for (number, request) in load.requests.iter().enumerate() {
            world.later(request.at * 1_000, Event::Request(number));
        }
        world
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick => {
                self.master.tick(self.millis());
                self.later(self.now + TICK, Event::Tick);
            }
            Event::Request(number) => self.request(number),
            Event::Close(closed) => self.master.drain(self.node, closed).expect("it has joined"),
            Event::Written(name, version) => {
                self.copying -= 1;
                self.tell(&News::Offloaded { name, version });
            }
            Event::Read(task, version) => {
                self.copying -= 1;
                if self.master.promoted(task, self.node, self.millis()).is_ok() {
                    self.promoted.insert(version, false);
                }
            }
        }
    }

    /// Reads the part of the prompt that is there, from its beginning; puts the rest.
    fn request(&mut self, number: usize) {
        let keys: Vec<[u8; 4]> = self.load.requests[number].blocks.iter().map(|b| b.to_le_bytes()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(<[u8; 4]>::as_slice).collect();
        let mut there = Vec::with_capacity(keys.len());
        self.master.exists_many(self.tenant, &keys, &mut there);
        let (here, missing) = keys.split_at(there.iter().take_while(|p| **p == Presence::Here).count());
        for found in self.master.get_many(self.tenant, here, self.millis()) {
            let Found::Here(hit) = found else { continue };
            if hit.memory.is_empty() {
                self.outcome.disk += 1;
                self.reads.take(self.now);
            } else {
                self.outcome.memory += 1;
                if let Some(read) = self.promoted.get_mut(&hit.version) {
                    *read = true;
                    self.outcome.after_promotion += 1;
                }
            }
        }
        let since = self.now;
        let key = |key: &&[u8]| <[u8; 4]>::try_from(*key).ok();
        self.puts.extend(missing.iter().filter_map(key).map(|key| Waiting { key, since, ticket: None }));
    }

    /// Whatever can be done now: orders and puts, until neither is left or can go on.
    fn serve(&mut self) {
        loop {
            let budget = (WINDOW - self.copying.min(WINDOW)) * BLOCK;
            let orders = self.master.take_orders(self.node, budget).expect("it has joined");
            let idle = orders.is_empty();
            for order in orders {
                self.obey(order);
            }
            if !self.put() && idle {
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Drop { version, tier, .. } => {
                if tier == Tier::Memory && self.promoted.remove(&version) == Some(false) {
                    self.outcome.in_vain += 1;
                }
                self.tell(&News::Released { version, tier });
            }
            Order::CancelPut { put, .. } => {
                self.tell(&News::Released { version: put.version(), tier: Tier::Memory });
            }
            // The copy that it would have become is dropped by an order of its own.
            Order::CancelTask { .. } => {}
            Order::Offload(copying) => {
                self.copying += 1;
                let done = self.writes.take(self.now);
                self.later(done, Event::Written(copying.name, copying.version));
            }
            Order::Promote(task, copying) => {
                if self.master.allocate(task, self.node, copying.size, self.millis()).is_ok() {
                    self.copying += 1;
                    let done = self.reads.take(self.now);
                    self.later(done, Event::Read(task, copying.version));
                }
            }
        }
    }

    /// Puts that wait, the first one first; whether any ended.
    fn put(&mut self) -> bool {
        let mut ended = false;
        while let Some(waiting) = self.puts.front_mut() {
            let now = Millis(self.now / 1_000);
            let ticket = waiting.ticket;
            let put = Put { ticket, only_new: true, ..Put::new(self.tenant, &waiting.key, BLOCK) };
            match self.master.reserve(&put, now) {
                Ok(reserved) => {
                    self.master.commit(reserved.put, &Terms::default(), now).expect("nobody displaced it");
                }
                Err(Refused::Wait(_) | Refused::NoNode) if self.now - waiting.since >= PATIENCE => {
                    if let Some(ticket) = ticket {
                        self.master.forget_ticket(ticket);
                    }
                    self.outcome.puts_given_up += 1;
                }
                Err(Refused::Wait(wait)) => {
                    waiting.ticket = wait.ticket;
                    return ended;
                }
                Err(Refused::NoNode) => return ended,
                Err(Refused::Exists(_)) => {}
                Err(why) => unreachable!("{why}"),
            }
            self.puts.pop_front();
            ended = true;
        }
        ended
    }

    fn tell(&mut self, news: &News) {
        self.position += 1;
        // What it is about may be gone by now.
        let _ = self.master.tell(self.node, 1, self.position, news, self.millis());
    }

    fn finish(mut self) -> Outcome {
        self.master.check().expect("everything adds up");
        self.outcome.in_vain += self.promoted.values().filter(|read| !**read).count() as u64;
        self.outcome.tally = self.master.counters();
        self.outcome
    }

    fn later(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn millis(&self) -> Millis {
        Millis(self.now / 1_000)
    }
}

impl Lane {
    /// One block more; when it is done.
    fn take(&mut self, now: u64) -> u64 {
        self.until = self.until.max(now) + BLOCK * 1_000_000 / self.rate;
        self.until
    }
}
