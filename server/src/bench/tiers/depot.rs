//! The store in virtual time: the real master decides, and nodes move bytes at the speed that the plan says.
//!
//! A node has a link (its memory and network, as whoever reads and writes sees them) and a disk. Each serves one transfer
//! after the other, whoever wants it: loads, puts, offloads and promotions stand in the same line, so what is copied for later
//! delays what is needed now. In front of a disk is the system's page cache, for the store's disk reads and writes through
//! it: what was just read or written is read again for nothing, so a promotion that follows a load costs the disk no second read.
//! How much of a line one party can take is bounded as in real clients and nodes, by
//! transfers in flight: see [`LOADS`], [`PUTS`] and [`COPIES`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blocks::PrefixHash;
use serde::{Deserialize, Serialize};
use sim::engine::Text;
use sim::engine::second::Kept;
use store::master::name::{Millis, Name, Node, Tenant, Tier, Version};
use store::master::options::{Offload, Options, Promotion};
use store::master::{
    Committed, Deaf, Found, Inventory, Joining, Master, News, Order, Presence, Put, PutId, Refused, Terms,
    Ticket, Wake, Warm, When,
};

/// Blocks of one load that are asked for at a time.
const LOADS: usize = 4;
/// Blocks that one engine puts at a time.
const PUTS: usize = 4;
/// Blocks that a node copies between its tiers at a time.
const COPIES: u64 = 8;
/// How often the master's tick is called, in real nodes too.
const TICK: Duration = Duration::from_millis(10);
/// How often a put asks again for space that is being made.
const AGAIN: Duration = Duration::from_millis(20);
/// Blocks that an engine keeps for the store beside its cache; what comes beyond them is not offloaded.
const STAGED: usize = 2_048;

/// What nodes can do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// How many there are.
    pub nodes: usize,
    /// Bytes of memory of each.
    pub memory: u64,
    /// Bytes of disk of each.
    pub disk: u64,
    /// Bytes a second between a node's memory and engines, in all.
    pub link_rate: f64,
    /// What each transfer waits besides.
    pub link_latency: Duration,
    /// Bytes a second of a node's disk, reads and writes together.
    pub disk_rate: f64,
    /// What each read and write waits besides.
    pub disk_latency: Duration,
    /// Bytes of the system's page cache on each node; 0 is what direct I/O would be.
    pub pages: u64,
}

/// What a store does beyond holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Nothing: memory over disk, and whatever is on disk stays there.
    Holds,
    /// Promotes what was read from disk so often.
    Promotes(u8),
}

/// What an engine is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) engine: usize,
    pub(super) job: u64,
    pub(super) blocks: usize,
    /// That so many were found; otherwise that so many have arrived.
    pub(super) found: bool,
}

/// What was counted here; the master counts the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Loads that found something.
    pub loads: u64,
    /// Loads that were given up because computing was faster.
    pub stopped: u64,
    /// Bytes that were read for loads, from memory and from disk, used or not.
    pub read_memory: u64,
    /// See `read_memory`.
    pub read_disk: u64,
    /// Bytes that were put.
    pub put: u64,
    /// Blocks that were not put because they are there.
    pub known: u64,
    /// Blocks that were not put because there was no room, or too many waited.
    pub dropped: u64,
    /// Bytes that were written to disk.
    pub offloaded: u64,
    /// Bytes that were brought from disk to memory.
    pub promoted: u64,
    /// Of these, bytes that nobody read from there afterwards.
    pub in_vain: u64,
    /// Thousandths of the time for which disks were busy.
    pub disk_busy: u64,
    /// The same of the links.
    pub link_busy: u64,
}

/// The store.
pub(super) struct Depot {
    pub(super) master: Master,
    pub(super) traffic: Traffic,
    tenant: Tenant,
    bell: Arc<Bell>,
    bytes: u64,
    nodes: Vec<Station>,
    hardware: Hardware,
    loads: HashMap<u64, Load>,
    /// What each engine still has to put.
    puts: Vec<Puts>,
    /// Promoted and not read since.
    fresh: HashMap<Version, u64>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    next: u64,
    said: Vec<Said>,
}

/// A node, and the work that it has in hand.
struct Station {
    node: Node,
    position: u64,
    link: Pipe,
    disk: Pipe,
    pages: Pages,
    copying: u64,
    /// Transfers from and to a copy, and whether the master wants its bytes back when they have ended.
    guards: HashMap<(Version, Tier), (u32, bool)>,
}

/// What the system keeps of a disk: what was read or written last.
#[derive(Default)]
struct Pages {
    /// When a copy was there, and its last turn.
    there: HashMap<Version, (Duration, u64)>,
    order: VecDeque<(Version, u64)>,
    turn: u64,
}

/// What serves one transfer after the other.
#[derive(Default)]
struct Pipe {
    free: Duration,
    busy: Duration,
}

/// A job's load.
struct Load {
    engine: usize,
    text: Arc<Text>,
    first: usize,
    wanted: usize,
    /// Blocks that are to be read; none before the look.
    found: usize,
    asked: usize,
    tiers: Vec<Tier>,
    here: Vec<bool>,
    arrived: usize,
}

#[derive(Default)]
struct Puts {
    queue: VecDeque<Kept>,
    waits: Option<(Kept, Option<Ticket>)>,
    in_flight: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Tick,
    Looked {
        job: u64,
    },
    /// A block has left the disk for a job.
    Read {
        job: u64,
        at: usize,
        node: usize,
        version: Version,
    },
    /// A block has arrived at an engine.
    Came {
        job: u64,
        at: usize,
        node: usize,
        version: Version,
        tier: Tier,
    },
    Put {
        engine: usize,
        put: PutId,
    },
    PutAgain {
        engine: usize,
    },
    Offloaded {
        node: usize,
        name: Name,
        version: Version,
    },
    /// A block has left the disk for memory.
    Lifted {
        node: usize,
        target: usize,
        task: store::master::TaskId,
        version: Version,
    },
    Promoted {
        node: usize,
        target: usize,
        task: store::master::TaskId,
        version: Version,
    },
}

/// Remembers what the master called out.
#[derive(Default)]
struct Bell {
    orders: AtomicBool,
}

impl Wake for Bell {
    fn orders(&self, _: Node) {
        self.orders.store(true, Ordering::Relaxed);
    }

    // Puts that wait ask again by themselves, and the tick comes soon.
    fn space(&self, _: Node) {}
    fn tick(&self) {}
}

fn key(prefix: PrefixHash) -> [u8; 8] {
    prefix.0.to_le_bytes()
}

// === impl Depot ===

impl Depot {
    /// Empty nodes for blocks of so many bytes.
    ///
    /// # Errors
    /// What the master says to nodes of this kind.
    pub(super) fn new(hardware: Hardware, care: Care, bytes: u64, engines: usize) -> Result<Self, String> {
        let promotion = match care {
            Care::Holds => Promotion { on: false, ..Promotion::default() },
            Care::Promotes(threshold) => Promotion { on: true, threshold, ..Promotion::default() },
        };
        let offload = if hardware.disk == 0 { Offload::Off } else { Offload::AtCommit };
        let bell = Arc::new(Bell::default());
        let options = Options { offload, promotion, ..Options::default() };
        let master = Master::new(options, bell.clone(), Arc::new(Deaf));
        let tenant = master.tenant("bench").map_err(|error| error.to_string())?;
        let mut depot = Self {
            master,
            traffic: Traffic::default(),
            tenant,
            bell,
            bytes,
            nodes: Vec::new(),
            hardware,
            loads: HashMap::new(),
            puts: (0..engines).map(|_| Puts::default()).collect(),
            fresh: HashMap::new(),
            events: BinaryHeap::new(),
            next: 0,
            said: Vec::new(),
        };
        for at in 0..hardware.nodes {
            let node = depot.join(at).map_err(|error| error.to_string())?;
            let (link, disk) = (Pipe::default(), Pipe::default());
            let (pages, guards) = (Pages::default(), HashMap::new());
            depot.nodes.push(Station { node, position: 0, link, disk, pages, copying: 0, guards });
        }
        depot.at(TICK, Event::Tick);
        Ok(depot)
    }

    fn join(&self, at: usize) -> Result<Node, store::master::Error> {
        let Hardware { memory, disk, .. } = self.hardware;
        let joined = self.master.join(&Joining { id: &format!("node-{at}"), life: 1, memory, disk })?;
        debug_assert_eq!(joined.inventory, Inventory::Snapshot);
        self.master.begin_inventory(joined.node, 1)?;
        self.master.end_inventory(joined.node, 1, 0, Millis(0))?;
        Ok(joined.node)
    }

    /// When something happens.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Lets everything happen that happens by `now`, and says what engines are to be told.
    pub(super) fn advance(&mut self, now: Duration, said: &mut Vec<Said>) {
        while self.next_at().is_some_and(|at| at <= now) {
            let Some(Reverse((at, _, event))) = self.events.pop() else { break };
            self.happens(event, at);
            self.obey(at);
        }
        said.append(&mut self.said);
    }

    /// In which tier these blocks are, as far as all before them are there: what the store's events tell a gateway.
    pub(super) fn reach(&self, prefix: &[PrefixHash], now: Duration) -> Vec<Tier> {
        let tier = |one: &PrefixHash| {
            let look = self.master.look(self.tenant, &key(*one), now.into())?;
            let in_memory = look.copies.iter().any(|(_, tier)| *tier == Tier::Memory);
            Some(if in_memory { Tier::Memory } else { Tier::Disk })
        };
        prefix.iter().map_while(tier).collect()
    }

    /// A request that waits will read these blocks.
    pub(super) fn warm(&mut self, prefix: &[PrefixHash], deadline: Duration, now: Duration) -> Warm {
        let keys: Vec<[u8; 8]> = prefix.iter().copied().map(key).collect();
        let keys: Vec<&[u8]> = keys.iter().map(<[u8; 8]>::as_slice).collect();
        let warm = self.master.warm(self.tenant, &keys, deadline.into(), now.into());
        self.obey(now);
        warm
    }

    /// It no longer waits.
    pub(super) fn cool(&mut self, warm: Warm, now: Duration) {
        self.master.cool(warm);
        self.obey(now);
    }

    /// An engine asks for blocks.
    pub(super) fn wants(&mut self, engine: usize, job: u64, wants: (Arc<Text>, usize, usize), now: Duration) {
        let (text, first, wanted) = wants;
        let (tiers, here) = (Vec::new(), Vec::new());
        let load = Load { engine, text, first, wanted, found: 0, asked: 0, tiers, here, arrived: 0 };
        self.loads.insert(job, load);
        // One question for all of them, and its answer.
        self.at(now + self.hardware.link_latency * 2, Event::Looked { job });
    }

    /// A job goes on without the rest.
    pub(super) fn stops(&mut self, job: u64) {
        self.traffic.stopped += u64::from(self.loads.contains_key(&job));
        if let Some(load) = self.loads.get_mut(&job) {
            load.found = load.asked;
        }
    }

    /// How many of the first so many blocks of a job's load came from memory; the load is forgotten.
    pub(super) fn ended(&mut self, job: u64, blocks: usize) -> usize {
        let Some(load) = self.loads.remove(&job) else { return 0 };
        load.tiers.iter().take(blocks).filter(|tier| **tier == Tier::Memory).count()
    }

    /// An engine has these blocks to put.
    pub(super) fn offloads(&mut self, engine: usize, blocks: Vec<Kept>, now: Duration) {
        for kept in blocks {
            if self.puts[engine].queue.len() < STAGED {
                self.puts[engine].queue.push_back(kept);
            } else {
                self.traffic.dropped += 1;
            }
        }
        self.put(engine, now);
        self.obey(now);
    }

    /// What was counted, over so much time.
    pub(super) fn close(&mut self, now: Duration) -> Traffic {
        let part = |busy: Duration| {
            (busy.as_secs_f64() * 1e3 / (now.as_secs_f64() * self.nodes.len() as f64).max(1e-9)).round()
                as u64
        };
        Traffic {
            in_vain: self.traffic.in_vain + self.fresh.values().sum::<u64>(),
            disk_busy: part(self.nodes.iter().map(|station| station.disk.busy).sum()),
            link_busy: part(self.nodes.iter().map(|station| station.link.busy).sum()),
            ..self.traffic
        }
    }

    fn is_there(&self, prefix: PrefixHash) -> bool {
        self.master.exists(self.tenant, &key(prefix)) == Presence::Here
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.next += 1;
        self.events.push(Reverse((at, self.next, event)));
    }

    fn link(&mut self, node: usize, now: Duration) -> Duration {
        let Hardware { link_rate, link_latency, .. } = self.hardware;
        self.nodes[node].link.take(self.bytes, link_rate, now) + link_latency
    }

    /// When a copy has been read from disk: at once if the system still has it, or with whoever is reading it already.
    fn read_disk(&mut self, node: usize, version: Version, now: Duration) -> Duration {
        match self.nodes[node].pages.find(version) {
            Some(there) => there.max(now),
            None => self.use_disk(node, version, now),
        }
    }

    /// When a copy has been read or written.
    fn use_disk(&mut self, node: usize, version: Version, now: Duration) -> Duration {
        let Hardware { disk_rate, disk_latency, pages, .. } = self.hardware;
        let station = &mut self.nodes[node];
        let done = station.disk.take(self.bytes, disk_rate, now) + disk_latency;
        station.pages.keep(version, done, (pages / self.bytes) as usize);
        done
    }

    fn happens(&mut self, event: Event, now: Duration) {
        match event {
            Event::Tick => {
                self.master.tick(now.into());
                self.at(now + TICK, Event::Tick);
            }
            Event::Looked { job } => self.looked(job, now),
            Event::Read { job, at, node, version } => {
                let done = self.link(node, now);
                self.at(done, Event::Came { job, at, node, version, tier: Tier::Disk });
            }
            Event::Came { job, at, node, version, tier } => {
                self.unguard(node, version, tier, now);
                self.came(job, at, now);
            }
            Event::Put { engine, put } => {
                // Displaced after 30 s, or another engine was faster: either way it is no longer ours.
                let terms = Terms { when: When::Absent, ..Terms::default() };
                match self.master.commit(put, &terms, now.into()) {
                    Ok(Committed::Stored(_) | Committed::Replaced { .. }) => self.traffic.put += self.bytes,
                    Ok(Committed::Overtaken | Committed::Unchanged) => self.traffic.known += 1,
                    Err(_) => self.traffic.dropped += 1,
                }
                self.puts[engine].in_flight -= 1;
                self.put(engine, now);
            }
            Event::PutAgain { engine } => self.put(engine, now),
            Event::Offloaded { node, name, version } => {
                self.nodes[node].copying -= self.bytes;
                // Otherwise the master has given it up, and knows the bytes free by now.
                if !self.unguard(node, version, Tier::Disk, now) {
                    self.traffic.offloaded += self.bytes;
                    self.tell(node, &News::Offloaded { name, version }, now);
                }
            }
            Event::Lifted { node, target, task, version } => {
                let done = if target == node { now } else { self.link(target, now) };
                self.at(done, Event::Promoted { node, target, task, version });
            }
            Event::Promoted { node, target, task, version } => {
                self.nodes[node].copying -= self.bytes;
                if self.master.promoted(task, self.nodes[node].node, now.into()).is_ok() {
                    self.traffic.promoted += self.bytes;
                    self.traffic.in_vain += self.fresh.insert(version, self.bytes).unwrap_or_default();
                }
                self.unguard(node, version, Tier::Disk, now);
                self.unguard(target, version, Tier::Memory, now);
            }
        }
    }
}

// === Loads ===

impl Depot {
    fn looked(&mut self, job: u64, now: Duration) {
        let Some(load) = self.loads.get(&job) else { return };
        let wanted = load.text.prefix_hashes[load.first..load.first + load.wanted].to_vec();
        let found = wanted.into_iter().take_while(|prefix| self.is_there(*prefix)).count();
        let Some(load) = self.loads.get_mut(&job) else { return };
        load.found = found;
        load.here = vec![false; found];
        self.said.push(Said { engine: load.engine, job, blocks: found, found: true });
        self.traffic.loads += u64::from(found > 0);
        for _ in 0..LOADS {
            self.read(job, now);
        }
    }

    /// Asks for the next block of a load.
    fn read(&mut self, job: u64, now: Duration) {
        let Some(load) = self.loads.get_mut(&job).filter(|load| load.asked < load.found) else { return };
        let at = load.asked;
        let prefix = load.text.prefix_hashes[load.first + at];
        load.asked += 1;
        let Found::Here(hit) = self.master.get(self.tenant, &key(prefix), now.into()) else {
            // It has left since the look: those before it are all that comes.
            let Some(load) = self.loads.get_mut(&job) else { return };
            load.found = load.found.min(at);
            self.said.push(Said { engine: load.engine, job, blocks: at, found: true });
            return;
        };
        let (tier, node) = match (hit.memory.first(), hit.disk.first()) {
            (Some(node), _) => (Tier::Memory, *node),
            (None, Some(node)) => (Tier::Disk, *node),
            (None, None) => return,
        };
        let Some(node) = self.nodes.iter().position(|station| station.node == node) else { return };
        if let Some(load) = self.loads.get_mut(&job) {
            load.tiers.push(tier);
        }
        let version = hit.version;
        self.guard(node, version, tier);
        match tier {
            Tier::Memory => {
                self.fresh.remove(&version);
                self.traffic.read_memory += self.bytes;
                let done = self.link(node, now);
                self.at(done, Event::Came { job, at, node, version, tier });
            }
            Tier::Disk => {
                self.traffic.read_disk += self.bytes;
                let done = self.read_disk(node, version, now);
                self.at(done, Event::Read { job, at, node, version });
            }
        }
    }

    fn came(&mut self, job: u64, at: usize, now: Duration) {
        let Some(load) = self.loads.get_mut(&job) else { return };
        load.here[at] = true;
        let before = load.arrived;
        load.arrived += load.here[before..].iter().take_while(|here| **here).count();
        if load.arrived > before {
            self.said.push(Said { engine: load.engine, job, blocks: load.arrived, found: false });
        }
        self.read(job, now);
    }
}

// === Puts ===

impl Depot {
    fn put(&mut self, engine: usize, now: Duration) {
        while self.puts[engine].in_flight < PUTS {
            let puts = &mut self.puts[engine];
            let next = puts.waits.take().or_else(|| puts.queue.pop_front().map(|kept| (kept, None)));
            let Some((kept, ticket)) = next else { return };
            let key = key(kept.prefix);
            // What an engine computes goes to the node of its own machine, if that has room.
            let prefer = Some(self.nodes[engine * self.nodes.len() / self.puts.len()].node);
            let put = Put { prefer, only_new: true, ticket, ..Put::new(self.tenant, &key, self.bytes) };
            match self.master.reserve(&put, now.into()) {
                Ok(reserved) => {
                    let Some(node) = self.nodes.iter().position(|one| one.node == reserved.node) else {
                        return;
                    };
                    self.puts[engine].in_flight += 1;
                    let done = self.link(node, now);
                    self.at(done, Event::Put { engine, put: reserved.put });
                }
                Err(Refused::Exists(_)) => self.traffic.known += 1,
                Err(Refused::Wait(wait)) if wait.until > now.into() => {
                    self.puts[engine].waits = Some((kept, wait.ticket));
                    self.at(now + AGAIN, Event::PutAgain { engine });
                    return;
                }
                Err(_) => self.traffic.dropped += 1,
            }
        }
    }
}

// === What nodes do for the master ===

impl Depot {
    /// Nodes take what they can carry out.
    fn obey(&mut self, now: Duration) {
        while self.bell.orders.swap(false, Ordering::Relaxed) {
            for at in 0..self.nodes.len() {
                self.work(at, now);
            }
        }
    }

    fn work(&mut self, at: usize, now: Duration) {
        loop {
            let budget = (COPIES * self.bytes).saturating_sub(self.nodes[at].copying);
            let orders = self.master.take_orders(self.nodes[at].node, budget).unwrap_or_default();
            if orders.is_empty() {
                return;
            }
            for order in orders {
                self.carry_out(at, order, now);
            }
        }
    }

    fn carry_out(&mut self, at: usize, order: Order, now: Duration) {
        match order {
            Order::Drop { version, tier, .. } => match self.nodes[at].guards.get_mut(&(version, tier)) {
                Some(guard) => guard.1 = true,
                None => self.tell(at, &News::Released { version, tier }, now),
            },
            Order::CancelPut { put, .. } => {
                self.tell(at, &News::Released { version: put.version(), tier: Tier::Memory }, now);
            }
            // A copy that is under way ends by itself, and the master does not take it.
            Order::CancelTask { .. } => {}
            Order::Offload(copying) => {
                self.nodes[at].copying += self.bytes;
                self.guard(at, copying.version, Tier::Disk);
                let done = self.use_disk(at, copying.version, now);
                let (name, version) = (copying.name, copying.version);
                self.at(done, Event::Offloaded { node: at, name, version });
            }
            Order::Promote(task, copying) => {
                let node = self.nodes[at].node;
                // Without memory now, the master tries again by itself.
                let Ok(staging) = self.master.allocate(task, node, copying.size, now.into()) else { return };
                let Some(target) = self.nodes.iter().position(|one| one.node == staging.target) else {
                    return;
                };
                self.nodes[at].copying += self.bytes;
                let version = copying.version;
                self.guard(at, version, Tier::Disk);
                self.guard(target, version, Tier::Memory);
                let done = self.read_disk(at, version, now);
                self.at(done, Event::Lifted { node: at, target, task, version });
            }
        }
    }

    fn tell(&mut self, at: usize, news: &News, now: Duration) {
        let station = &mut self.nodes[at];
        station.position += 1;
        // What the master no longer waits for is no error.
        let _ = self.master.tell(station.node, 1, station.position, news, now.into());
        // Room for the next order.
        self.bell.orders.store(true, Ordering::Relaxed);
    }

    fn guard(&mut self, at: usize, version: Version, tier: Tier) {
        self.nodes[at].guards.entry((version, tier)).or_default().0 += 1;
    }

    /// A transfer has ended; whether the copy was to be dropped meanwhile.
    fn unguard(&mut self, at: usize, version: Version, tier: Tier, now: Duration) -> bool {
        self.bell.orders.store(true, Ordering::Relaxed);
        let guards = &mut self.nodes[at].guards;
        let Some(guard) = guards.get_mut(&(version, tier)) else { return false };
        guard.0 -= 1;
        let (left, dropped) = *guard;
        if left == 0 {
            guards.remove(&(version, tier));
            if dropped {
                self.tell(at, &News::Released { version, tier }, now);
            }
        }
        dropped
    }
}

impl Pipe {
    /// When so many bytes that come now are through.
    fn take(&mut self, bytes: u64, rate: f64, now: Duration) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / rate);
        self.busy += takes;
        self.free = self.free.max(now) + takes;
        self.free
    }
}

impl Pages {
    /// When this copy is there, if it is or will be.
    fn find(&mut self, version: Version) -> Option<Duration> {
        let (there, turn) = self.there.get_mut(&version)?;
        self.turn += 1;
        *turn = self.turn;
        self.order.push_back((version, self.turn));
        Some(*there)
    }

    /// It is there from then on, as one of the last so many.
    fn keep(&mut self, version: Version, there: Duration, most: usize) {
        self.turn += 1;
        self.there.insert(version, (there, self.turn));
        self.order.push_back((version, self.turn));
        while self.there.len() > most {
            let Some((version, turn)) = self.order.pop_front() else { return };
            if self.there.get(&version).is_some_and(|(_, last)| *last == turn) {
                self.there.remove(&version);
            }
        }
    }
}
