//! Nodes that do what they are told, as far as a test lets them, and remember what they really hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use store::master::name::{Block, Group, Millis, Name, Node, Pin, Tenant, Tier, Version};
use store::master::options::{Options, Promotion};
use store::master::{
    Change, Committed, Error, Found, Hit, Inventory, Item, Joining, Look, Master, News, NodeLook, Order, Put,
    PutId, Refused, Reserved, Residency, TaskId, Terms, Tried, Wake,
};

/// A mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// A master, its nodes and a clock.
pub(crate) struct World {
    pub(crate) master: Arc<Master>,
    pub(crate) ears: Arc<Ears>,
    pub(crate) now: Millis,
    pub(crate) fakes: Vec<Fake>,
    pub(crate) tenant: Tenant,
    /// Versions of what lay on disks before this master.
    pub(crate) older: u64,
}

/// Which key and version came to be where, or left.
pub(crate) type Told = (Box<[u8]>, Version, Node, Tier, bool);

/// Hears everything.
#[derive(Default)]
pub(crate) struct Ears {
    pub(crate) ticks: AtomicU32,
    pub(crate) spaces: AtomicU32,
    pub(crate) orders: AtomicU32,
    pub(crate) changes: Mutex<Vec<Told>>,
}

/// A node.
pub(crate) struct Fake {
    pub(crate) id: String,
    pub(crate) node: Node,
    pub(crate) life: u64,
    pub(crate) position: u64,
    pub(crate) memory: u64,
    pub(crate) disk: u64,
    /// What it really holds.
    pub(crate) holds: BTreeMap<(Version, Tier), (Name, u64)>,
    /// Transfers that began and have not ended.
    pub(crate) open: BTreeMap<Version, (Name, u64)>,
    /// Orders that it took and has not carried out.
    pub(crate) todo: Vec<Order>,
}

impl Wake for Ears {
    fn orders(&self, _: Node) {
        self.orders.fetch_add(1, Ordering::Relaxed);
    }

    fn space(&self, _: Node) {
        self.spaces.fetch_add(1, Ordering::Relaxed);
    }

    fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }
}

impl Residency for Ears {
    fn changed(&self, change: &Change<'_>) {
        let told = (change.key.into(), change.version, change.node, change.tier, change.here);
        self.changes.lock().unwrap().push(told);
    }
}

/// Few shards, promotion on, and no offload unless a test asks for it.
pub(crate) fn options() -> Options {
    Options {
        shards: 4,
        offload: store::master::options::Offload::Off,
        lease: 0,
        promotion: Promotion { on: true, shards_a_tick: 4, lease: 0, ..Promotion::default() },
        ..Options::default()
    }
}

pub(crate) fn key(number: u32) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

pub(crate) fn block(number: u8) -> Block {
    Block { hash: [number; 32], parent: None, tokens: number.into() }
}

impl World {
    /// One node with so many bytes of memory, and plenty of disk.
    pub(crate) fn new(options: Options, memory: u64) -> Self {
        Self::with_nodes(options, &[memory])
    }

    pub(crate) fn with_nodes(options: Options, memories: &[u64]) -> Self {
        let ears = Arc::new(Ears::default());
        let master = Arc::new(Master::new(options, ears.clone(), ears.clone()));
        let tenant = master.tenant("a").unwrap();
        let mut world = Self { master, ears, now: Millis(1_000_000), fakes: Vec::new(), tenant, older: 0 };
        for (at, memory) in memories.iter().enumerate() {
            world.add_node(&format!("node-{at}"), *memory, 1_000 * MIB);
        }
        world
    }

    pub(crate) fn add_node(&mut self, id: &str, memory: u64, disk: u64) -> usize {
        let joined = self.master.join(&Joining { id, life: 1, memory, disk }).unwrap();
        assert_eq!(joined.inventory, Inventory::Snapshot);
        let (holds, open) = (BTreeMap::new(), BTreeMap::new());
        let (life, position, todo) = (1, 0, Vec::new());
        let id = id.to_owned();
        self.fakes.push(Fake { id, node: joined.node, life, position, memory, disk, holds, open, todo });
        self.snapshot(self.fakes.len() - 1);
        self.fakes.len() - 1
    }

    pub(crate) fn node(&self, fake: usize) -> Node {
        self.fakes[fake].node
    }

    pub(crate) fn look_node(&self, fake: usize) -> NodeLook {
        self.master.node_list().into_iter().find(|look| look.node == self.node(fake)).unwrap()
    }

    pub(crate) fn checked(&self) {
        self.master.check().unwrap();
    }

    pub(crate) fn pass(&mut self, millis: u64) {
        self.now = self.now.plus(millis);
    }

    /// Everything that a node holds, told at once.
    pub(crate) fn snapshot(&mut self, fake: usize) {
        self.fakes[fake].forget_drops();
        let Fake { node, life, position, .. } = self.fakes[fake];
        let items: Vec<Item> = self.fakes[fake].items();
        self.master.begin_inventory(node, life).unwrap();
        for part in items.chunks(3) {
            self.master.inventory(node, life, part).unwrap();
        }
        self.master.end_inventory(node, life, position, self.now).unwrap();
    }

    // === What clients do ===

    pub(crate) fn reserve(&self, put: &Put<'_>) -> Result<Reserved, Refused> {
        self.master.reserve(put, self.now)
    }

    pub(crate) fn begin(&mut self, put: &Put<'_>) -> Result<Reserved, Refused> {
        let reserved = self.master.reserve(put, self.now)?;
        let name = Name { tenant: put.tenant, key: put.key.into() };
        let fake = self.fakes.iter_mut().find(|fake| fake.node == reserved.node).unwrap();
        fake.open.insert(reserved.put.version(), (name, put.size));
        Ok(reserved)
    }

    pub(crate) fn commit(&mut self, put: PutId) -> Result<Version, Error> {
        // Every other node drops what it replaces without being told to.
        let drops = put.version().0.is_multiple_of(2);
        let done = self.master.commit(put, &Terms { drops, ..Terms::default() }, self.now)?;
        for fake in &mut self.fakes {
            let Some(bytes) = fake.open.remove(&put.version()) else { continue };
            match done {
                Committed::Stored(version) => drop(fake.holds.insert((version, Tier::Memory), bytes)),
                Committed::Replaced { version, old } => {
                    let name = bytes.0.clone();
                    fake.holds.insert((version, Tier::Memory), bytes);
                    fake.todo.push(Order::Drop { name, version: old, tier: Tier::Memory });
                }
                Committed::Overtaken | Committed::Unchanged => {}
            }
        }
        Ok(put.version())
    }

    pub(crate) fn put_as(&mut self, put: &Put<'_>) -> Version {
        let reserved = self.begin(put).unwrap_or_else(|why| panic!("{why}"));
        self.commit(reserved.put).unwrap()
    }

    pub(crate) fn put(&mut self, key: &[u8], size: u64) -> Version {
        self.put_as(&Put::new(self.tenant, key, size))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Found {
        self.master.get(self.tenant, key, self.now)
    }

    pub(crate) fn hit(&self, key: &[u8]) -> Hit {
        match self.get(key) {
            Found::Here(hit) => hit,
            other => panic!("{} is {other:?}", String::from_utf8_lossy(key)),
        }
    }

    pub(crate) fn tried(&self, key: &[u8]) -> Option<Tried> {
        self.hit(key).promotion
    }

    pub(crate) fn look(&self, key: &[u8]) -> Option<Look> {
        self.master.look(self.tenant, key, self.now)
    }

    pub(crate) fn in_memory(&self, key: &[u8]) -> bool {
        self.look(key).is_some_and(|look| look.copies.iter().any(|(_, tier)| *tier == Tier::Memory))
    }

    /// An object that is on disk only.
    pub(crate) fn on_disk(&mut self, fake: usize, tenant: Tenant, key: &[u8], size: u64) -> Version {
        self.older += 1;
        let version = Version(self.older);
        let name = Name { tenant, key: key.into() };
        let (pin, group, tier) = (Pin::None, Group::NONE, Tier::Disk);
        self.fakes[fake].holds.insert((version, tier), (name.clone(), size));
        let item = Item { name, version, size, tier, pin, group, block: None, ends: None, doubtful: false };
        self.tell(fake, &News::Adopted(item)).unwrap();
        version
    }

    /// A copy of the same version in the memory of another node.
    pub(crate) fn also(&mut self, fake: usize, key: &[u8], version: Version, size: u64) {
        self.another(fake, key, version, size, Tier::Memory);
    }

    /// A copy of the same version on the disk of another node.
    pub(crate) fn same_on_disk(&mut self, fake: usize, key: &[u8], version: Version, size: u64) {
        self.another(fake, key, version, size, Tier::Disk);
    }

    fn another(&mut self, fake: usize, key: &[u8], version: Version, size: u64, tier: Tier) {
        let name = Name { tenant: self.tenant, key: key.into() };
        self.fakes[fake].holds.insert((version, tier), (name.clone(), size));
        let (pin, group) = (Pin::None, Group::NONE);
        let item = Item { name, version, size, tier, pin, group, block: None, ends: None, doubtful: false };
        self.tell(fake, &News::Adopted(item)).unwrap();
    }

    pub(crate) fn cold(&mut self, key: &[u8], size: u64) -> Version {
        self.on_disk(0, self.tenant, key, size)
    }

    // === What nodes do ===

    pub(crate) fn tell(&mut self, fake: usize, news: &News) -> Result<(), Error> {
        self.fakes[fake].position += 1;
        let Fake { node, life, position, .. } = self.fakes[fake];
        self.master.tell(node, life, position, news, self.now)
    }

    pub(crate) fn take(&mut self, fake: usize, budget: u64) -> Vec<Order> {
        self.master.take_orders(self.node(fake), budget).unwrap()
    }

    /// Tasks that are ordered, with their keys.
    pub(crate) fn take_tasks(&mut self, fake: usize) -> Vec<(TaskId, Vec<u8>)> {
        let orders = self.take(fake, u64::MAX);
        let task = |order| match order {
            Order::Promote(task, copying) => Some((task, copying.name.key.into_vec())),
            _ => None,
        };
        orders.into_iter().filter_map(task).collect()
    }

    /// Takes orders and carries out all of them, until there are none.
    pub(crate) fn work(&mut self, fake: usize) {
        loop {
            let orders = self.take(fake, u64::MAX);
            self.fakes[fake].todo.extend(orders);
            if self.fakes[fake].todo.is_empty() {
                return;
            }
            while !self.fakes[fake].todo.is_empty() {
                let order = self.fakes[fake].todo.remove(0);
                self.carry_out(fake, order);
            }
        }
    }

    pub(crate) fn work_all(&mut self) {
        for _ in 0..2 {
            (0..self.fakes.len()).for_each(|fake| self.work(fake));
        }
    }

    pub(crate) fn carry_out(&mut self, fake: usize, order: Order) {
        let node = self.node(fake);
        match order {
            Order::Drop { version, tier, .. } => {
                self.fakes[fake].holds.remove(&(version, tier));
                if tier == Tier::Memory {
                    self.fakes[fake].open.remove(&version);
                }
                let _ = self.tell(fake, &News::Released { version, tier });
            }
            Order::CancelPut { put, .. } => {
                self.fakes[fake].open.remove(&put.version());
                let (version, tier) = (put.version(), Tier::Memory);
                let _ = self.tell(fake, &News::Released { version, tier });
            }
            Order::CancelTask { .. } => {}
            Order::Offload(copying) => {
                let (name, version) = (copying.name, copying.version);
                if self.fakes[fake].holds.contains_key(&(version, Tier::Memory)) {
                    self.fakes[fake].holds.insert((version, Tier::Disk), (name.clone(), copying.size));
                    let _ = self.tell(fake, &News::Offloaded { name, version });
                } else {
                    let _ = self.tell(fake, &News::OffloadFailed { name, version });
                }
            }
            Order::Promote(task, copying) => {
                if !self.fakes[fake].holds.contains_key(&(copying.version, Tier::Disk)) {
                    let _ = self.master.failed(task, node, "not here", self.now);
                    return;
                }
                let Ok(staging) = self.master.allocate(task, node, copying.size, self.now) else { return };
                assert_eq!(staging.version, copying.version);
                if self.master.promoted(task, node, self.now).is_ok() {
                    let target = self.fakes.iter_mut().find(|fake| fake.node == staging.target).unwrap();
                    let held = (copying.name, copying.size);
                    target.holds.insert((copying.version, Tier::Memory), held);
                }
            }
        }
    }
}

impl Fake {
    /// It joins, or begins an inventory: what it is to drop it is told again.
    pub(crate) fn forget_drops(&mut self) {
        self.todo.retain(|order| !matches!(order, Order::Drop { .. } | Order::CancelPut { .. }));
    }

    pub(crate) fn items(&self) -> Vec<Item> {
        let item = |((version, tier), (name, size)): (&(Version, Tier), &(Name, u64))| Item {
            name: name.clone(),
            version: *version,
            size: *size,
            tier: *tier,
            pin: Pin::None,
            group: Group::NONE,
            block: None,
            ends: None,
            doubtful: false,
        };
        self.holds.iter().map(item).collect()
    }

    pub(crate) fn bytes(&self, tier: Tier) -> u64 {
        self.holds.iter().filter(|((_, t), _)| *t == tier).map(|(_, (_, size))| size).sum()
    }

    pub(crate) fn keys(&self, tier: Tier) -> BTreeSet<Vec<u8>> {
        let of = self.holds.iter().filter(|((_, t), _)| *t == tier);
        of.map(|(_, (name, _))| name.key.to_vec()).collect()
    }
}

/// Numbers that look like chance, the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}
