//! What a node asks of its master, wherever that is, and the master that is in the same process.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::clock::Clock;
use crate::master::name::{Millis, Name, Node, Tenant, Version};
use crate::master::options::{MAX_NODES, Options};
use crate::master::{
    Committed, Error, Found, Glance, Item, Joined, Joining, Master, News, Order, Put, PutId, Reckoned,
    Refused, Reserved, Residency, Staging, TaskId, Terms, Ticket, Wake, Warm,
};

/// What is waited for.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An answer of a master: at once if it is in this process.
pub enum Said<T> {
    /// It is there.
    Now(T),
    /// It comes, unless the master cannot be reached.
    Later(Later<Result<T, Away>>),
}

/// The master did not answer. Whether it did what was asked is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the master of the store cannot be reached")]
pub struct Away;

/// A promise to read something soon; dropped, it is taken back.
pub type Promise = Box<dyn Send + Sync>;

/// How warming began: what is kept as long as it is wanted, how many are known, how many on their way.
pub type Warmed = (Promise, usize, usize);

/// What a node asks of its master. Tenants are numbers of this process, whoever the master is.
pub trait Desk: Send + Sync + 'static {
    /// Whether it is in this process, and answers at once.
    fn is_here(&self) -> bool;
    /// The time by which the master's answers are to be read.
    fn clock(&self) -> &Clock;
    /// The number of a tenant.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    fn tenant(&self, name: &str) -> Result<Tenant, Error>;
    /// The name of a tenant.
    fn name(&self, tenant: Tenant) -> Arc<str>;

    /// See [`Master::get`].
    fn get(&self, tenant: Tenant, key: &[u8]) -> Said<Found>;
    /// [`Desk::get`] of many.
    fn get_many(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Found>>;
    /// See [`Master::glance`].
    fn glance(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Glance>>;
    /// See [`Master::reserve`].
    fn reserve(&self, put: &Put<'_>) -> Said<Result<Reserved, Refused>>;
    /// See [`Master::commit`].
    fn commit(&self, put: PutId, terms: &Terms) -> Said<Result<Committed, Error>>;
    /// See [`Master::revoke`]; nobody waits for it.
    fn revoke(&self, put: PutId);
    /// See [`Master::abandon`]; nobody waits for it.
    fn abandon(&self, put: PutId);
    /// See [`Master::forget_ticket`]; nobody waits for it.
    fn forget_ticket(&self, ticket: Ticket);
    /// See [`Master::make_room`]; nobody waits for it.
    fn make_room(&self, node: Node, bytes: u64);
    /// Ends when something became free on this node since this was called.
    fn freed(&self, node: Node) -> Later<()>;
    /// See [`Master::remove`].
    fn remove(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Result<(), Error>>>;
    /// See [`Master::remove_prefix`].
    fn remove_prefix(&self, tenant: Tenant, prefix: &[u8], cursor: u64) -> Said<Result<(u64, u64), Error>>;
    /// See [`Master::scan`].
    fn scan(&self, tenant: Tenant, cursor: u64, most: usize) -> Said<(u64, Vec<Box<[u8]>>)>;
    /// See [`Master::count`].
    fn count(&self, tenant: Tenant) -> Said<u64>;
    /// See [`Master::warm`].
    fn warm(&self, tenant: Tenant, keys: &[&[u8]], deadline: Millis) -> Said<Warmed>;
    /// [`Desk::warm`] of whatever holds these blocks, by the hashes of their prefixes.
    fn warm_blocks(&self, prefixes: &[u64], deadline: Millis) -> Said<Warmed>;
    /// Objects that were evicted from memory since the start.
    fn evicted(&self) -> u64;

    /// Which master answers: a later one has a greater number.
    fn term(&self) -> u32;
    /// Ends when there is a master that was not told what this node has: another one, or the same after the connection to it
    /// was lost.
    fn parted(&self) -> Later<()>;
    /// See [`Master::reckons_with`].
    fn reckons_with(&self, node: Node, name: &Name, version: Version) -> Said<Reckoned>;
    /// See [`Master::join`].
    fn join(&self, joining: &Joining<'_>) -> Said<Result<Joined, Error>>;
    /// See [`Master::begin_inventory`].
    fn begin_inventory(&self, node: Node, life: u64) -> Said<Result<(), Error>>;
    /// See [`Master::inventory`].
    fn inventory(&self, node: Node, life: u64, items: Vec<Item>) -> Said<Result<(), Error>>;
    /// See [`Master::end_inventory`].
    fn end_inventory(&self, node: Node, life: u64, position: u64) -> Said<Result<(), Error>>;
    /// See [`Master::take_orders`].
    fn take_orders(&self, node: Node, budget: u64) -> Said<Vec<Order>>;
    /// Ends when there may be orders for this node.
    fn ordered(&self, node: Node) -> Later<()>;
    /// Whether there are orders for this node that it has not taken, or something is on its way to its disk.
    fn pending(&self, node: Node) -> Said<bool>;
    /// See [`Master::tell`].
    fn tell(&self, node: Node, life: u64, position: u64, news: &News) -> Said<Result<(), Error>>;
    /// See [`Master::allocate`].
    fn allocate(&self, task: TaskId, holder: Node, size: u64) -> Said<Result<Staging, Error>>;
    /// See [`Master::promoted`].
    fn promoted(&self, task: TaskId, holder: Node) -> Said<Result<(), Error>>;
    /// See [`Master::failed`].
    fn failed(&self, task: TaskId, holder: Node, error: &str) -> Said<Result<(), Error>>;
}

/// Who knows which keys hold a block.
pub trait Finder: Send + Sync {
    /// Keys of blocks that have come to be, of those that are known.
    fn keys(&self, prefixes: &[u64]) -> Vec<(Tenant, Box<[u8]>)>;
}

/// How often the master looks for what is due.
const TICK: Duration = Duration::from_millis(10);

/// Nobody does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

/// A master in this process.
#[derive(Clone)]
pub struct Local(Arc<Inside>);

struct Inside {
    master: Arc<Master>,
    bells: Arc<Bells>,
    clock: Clock,
    finder: Arc<dyn Finder>,
    names: RwLock<Vec<Arc<str>>>,
}

/// Whom the master wakes.
pub struct Bells {
    nodes: Box<[Bell]>,
    tick: Notify,
}

#[derive(Default)]
struct Bell {
    /// For the one node that is in this process.
    orders: Notify,
    /// For whoever tells nodes elsewhere.
    rung: watch::Sender<Rung>,
}

/// How often the master had something for a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rung {
    /// How often there were orders.
    pub orders: u64,
    /// How often something became free.
    pub space: u64,
}

// === impl Said ===

impl<T: Send + 'static> Said<T> {
    /// The answer.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn wait(self) -> Result<T, Away> {
        match self {
            Self::Now(said) => Ok(said),
            Self::Later(later) => later.await,
        }
    }
}

// === impl Bells ===

impl Default for Bells {
    fn default() -> Self {
        Self { nodes: (0..MAX_NODES).map(|_| Bell::default()).collect(), tick: Notify::new() }
    }
}

impl Wake for Bells {
    fn orders(&self, node: Node) {
        let bell = &self.nodes[usize::from(node.number())];
        bell.orders.notify_one();
        bell.rung.send_modify(|rung| rung.orders += 1);
    }

    fn space(&self, node: Node) {
        self.nodes[usize::from(node.number())].rung.send_modify(|rung| rung.space += 1);
    }

    fn tick(&self) {
        self.tick.notify_one();
    }
}

impl Bells {
    /// Ends when there may be something for a tick to do.
    pub async fn ticked(&self) {
        self.tick.notified().await;
    }

    /// Ends when there may be orders for this node.
    pub async fn ordered(&self, node: Node) {
        self.nodes[usize::from(node.number())].orders.notified().await;
    }

    /// Ends when memory became free there, since this was called.
    pub fn freed(&self, node: Node) -> Later<()> {
        let mut rung = self.rung(node);
        let before = rung.borrow_and_update().space;
        // The bells outlive whoever waits.
        Box::pin(async move { drop(rung.wait_for(|now| now.space != before).await) })
    }

    /// How often it rang for this node, from now on.
    pub fn rung(&self, node: Node) -> watch::Receiver<Rung> {
        self.nodes[usize::from(node.number())].rung.subscribe()
    }
}

// === impl Local ===

impl Local {
    /// A master with these options, that tells this one where blocks are.
    pub fn new(options: Options, residency: Arc<dyn Residency>, finder: Arc<dyn Finder>) -> Self {
        let bells = Arc::new(Bells::default());
        let master = Arc::new(Master::new(options, bells.clone(), residency));
        Self(Arc::new(Inside { master, bells, clock: Clock::start(), finder, names: RwLock::default() }))
    }

    /// The master.
    pub fn master(&self) -> &Arc<Master> {
        &self.0.master
    }

    /// Whom it wakes.
    pub fn bells(&self) -> &Arc<Bells> {
        &self.0.bells
    }

    /// Does what is to be done from time to time; never ends.
    pub async fn run(&self) {
        loop {
            // Whether it was woken or not, it looks.
            let _ = timeout(TICK, self.0.bells.ticked()).await;
            self.0.master.tick(self.now());
        }
    }

    fn now(&self) -> Millis {
        self.0.clock.now()
    }
}

impl Desk for Local {
    fn is_here(&self) -> bool {
        true
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn tenant(&self, name: &str) -> Result<Tenant, Error> {
        self.0.master.tenant(name)
    }

    fn name(&self, tenant: Tenant) -> Arc<str> {
        let at = usize::from(tenant.number());
        if let Some(name) = self.0.names.read().get(at) {
            return name.clone();
        }
        let all: Vec<Arc<str>> =
            self.0.master.tenant_list().into_iter().map(|(_, name)| name.into()).collect();
        let name = all.get(at).cloned().unwrap_or_default();
        *self.0.names.write() = all;
        name
    }

    fn get(&self, tenant: Tenant, key: &[u8]) -> Said<Found> {
        Said::Now(self.0.master.get(tenant, key, self.now()))
    }

    fn get_many(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Found>> {
        Said::Now(self.0.master.get_many(tenant, keys, self.now()))
    }

    fn glance(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Glance>> {
        let now = self.now();
        Said::Now(keys.iter().map(|key| self.0.master.glance(tenant, key, now)).collect())
    }

    fn reserve(&self, put: &Put<'_>) -> Said<Result<Reserved, Refused>> {
        Said::Now(self.0.master.reserve(put, self.now()))
    }

    fn commit(&self, put: PutId, terms: &Terms) -> Said<Result<Committed, Error>> {
        Said::Now(self.0.master.commit(put, terms, self.now()))
    }

    fn revoke(&self, put: PutId) {
        // One that was displaced meanwhile is freed by the order to give it up.
        let _ = self.0.master.revoke(put);
    }

    fn abandon(&self, put: PutId) {
        // One that was displaced meanwhile is freed by the order to give it up.
        let _ = self.0.master.abandon(put);
    }

    fn forget_ticket(&self, ticket: Ticket) {
        self.0.master.forget_ticket(ticket);
    }

    fn make_room(&self, node: Node, bytes: u64) {
        self.0.master.make_room(node, bytes, self.now());
    }

    fn freed(&self, node: Node) -> Later<()> {
        self.0.bells.freed(node)
    }

    fn remove(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Result<(), Error>>> {
        Said::Now(keys.iter().map(|key| self.0.master.remove(tenant, key).map(drop)).collect())
    }

    fn remove_prefix(&self, tenant: Tenant, prefix: &[u8], cursor: u64) -> Said<Result<(u64, u64), Error>> {
        Said::Now(self.0.master.remove_prefix(tenant, prefix, cursor))
    }

    fn scan(&self, tenant: Tenant, cursor: u64, most: usize) -> Said<(u64, Vec<Box<[u8]>>)> {
        Said::Now(self.0.master.scan(tenant, cursor, most))
    }

    fn count(&self, tenant: Tenant) -> Said<u64> {
        Said::Now(self.0.master.count(tenant))
    }

    fn warm(&self, tenant: Tenant, keys: &[&[u8]], deadline: Millis) -> Said<Warmed> {
        let warm = self.0.master.warm(tenant, keys, deadline, self.now());
        Said::Now(Kept::promise(&self.0.master, vec![warm]))
    }

    fn warm_blocks(&self, prefixes: &[u64], deadline: Millis) -> Said<Warmed> {
        let keys = self.0.finder.keys(prefixes);
        let mut tenants: Vec<Tenant> = keys.iter().map(|(tenant, _)| *tenant).collect();
        tenants.sort_unstable_by_key(|tenant| tenant.number());
        tenants.dedup();
        let mut warms = Vec::new();
        for tenant in tenants {
            let theirs: Vec<&[u8]> =
                keys.iter().filter(|(t, _)| *t == tenant).map(|(_, key)| &**key).collect();
            warms.push(self.0.master.warm(tenant, &theirs, deadline, self.now()));
        }
        Said::Now(Kept::promise(&self.0.master, warms))
    }

    fn evicted(&self) -> u64 {
        self.0.master.counters().moves.evicted_memory
    }

    fn term(&self) -> u32 {
        self.0.master.options().term
    }

    fn parted(&self) -> Later<()> {
        // It is in this process: whoever asks ends with it.
        Box::pin(std::future::pending())
    }

    fn reckons_with(&self, node: Node, name: &Name, version: Version) -> Said<Reckoned> {
        Said::Now(self.0.master.reckons_with(node, name, version))
    }

    fn join(&self, joining: &Joining<'_>) -> Said<Result<Joined, Error>> {
        Said::Now(self.0.master.join(joining))
    }

    fn begin_inventory(&self, node: Node, life: u64) -> Said<Result<(), Error>> {
        Said::Now(self.0.master.begin_inventory(node, life))
    }

    fn inventory(&self, node: Node, life: u64, items: Vec<Item>) -> Said<Result<(), Error>> {
        Said::Now(self.0.master.inventory(node, life, &items))
    }

    fn end_inventory(&self, node: Node, life: u64, position: u64) -> Said<Result<(), Error>> {
        Said::Now(self.0.master.end_inventory(node, life, position, self.now()))
    }

    fn take_orders(&self, node: Node, budget: u64) -> Said<Vec<Order>> {
        Said::Now(self.0.master.take_orders(node, budget).unwrap_or_default())
    }

    fn ordered(&self, node: Node) -> Later<()> {
        let bells = self.0.bells.clone();
        Box::pin(async move { bells.ordered(node).await })
    }

    fn pending(&self, node: Node) -> Said<bool> {
        Said::Now(self.0.master.has_orders(node))
    }

    fn tell(&self, node: Node, life: u64, position: u64, news: &News) -> Said<Result<(), Error>> {
        Said::Now(self.0.master.tell(node, life, position, news, self.now()))
    }

    fn allocate(&self, task: TaskId, holder: Node, size: u64) -> Said<Result<Staging, Error>> {
        Said::Now(self.0.master.allocate(task, holder, size, self.now()))
    }

    fn promoted(&self, task: TaskId, holder: Node) -> Said<Result<(), Error>> {
        Said::Now(self.0.master.promoted(task, holder, self.now()))
    }

    fn failed(&self, task: TaskId, holder: Node, error: &str) -> Said<Result<(), Error>> {
        Said::Now(self.0.master.failed(task, holder, error, self.now()))
    }
}

impl Finder for Nobody {
    fn keys(&self, _: &[u64]) -> Vec<(Tenant, Box<[u8]>)> {
        Vec::new()
    }
}

// === impl Kept ===

/// Promises that are taken back when nobody keeps them.
struct Kept {
    master: Arc<Master>,
    warms: Vec<Warm>,
}

impl Kept {
    fn promise(master: &Arc<Master>, warms: Vec<Warm>) -> Warmed {
        let known = warms.iter().map(Warm::known).sum();
        let pending = warms.iter().map(Warm::pending).sum();
        (Box::new(Self { master: master.clone(), warms }), known, pending)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for warm in self.warms.drain(..) {
            self.master.cool(warm);
        }
    }
}
