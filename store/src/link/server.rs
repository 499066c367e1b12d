//! The master's side: serves nodes while this process leads, and sends them elsewhere while it does not.
//!
//! Each time it leads it begins with a master that knows nothing, of a term of its own, and hears everything from the nodes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::book::{Book, Place};
use super::frame::{self, Kind, Reign, Sorry, Whom};
use super::lead::{self, Held, LAST_TERM, Lead};
use super::session;
use super::settings::Settings;
use crate::master::name::Node;
use crate::master::{Joined, Standing};
use crate::node::desk::{Desk, Local, Said};

/// The role of a master, in this process. Clones are the same one.
#[derive(Clone)]
pub struct Masters(Arc<Inside>);

struct Inside {
    settings: Settings,
    lead: Arc<dyn Lead>,
    make: Box<dyn Fn(u32) -> Local + Send + Sync>,
    /// The master, while this process leads.
    office: watch::Sender<Option<Arc<Office>>>,
    /// The last term in which this process led, and leads no longer.
    over: AtomicU32,
    connected: AtomicUsize,
}

/// One time that this process leads. However it ends, it is over before the right to lead is given up: another master may lead
/// from then on.
struct Time<'a> {
    inside: &'a Inside,
    office: Arc<Office>,
}

/// A master, for as long as it leads.
pub(super) struct Office {
    pub(super) desk: Local,
    reign: Reign,
    pub(super) book: Book,
    pub(super) settings: Settings,
    until: watch::Receiver<Instant>,
    /// Which session speaks for a node.
    seats: Mutex<HashMap<String, Arc<Seat>>>,
    ended: watch::Sender<bool>,
    /// A term that somebody has seen, and that this one does not come after; 0: none.
    outdone: watch::Sender<u32>,
}

/// The right of one session to speak for a node.
pub(super) struct Seat {
    /// For which life of it.
    life: u64,
    /// Held for reading while something is done for the session, for writing when another takes its place: nothing of an old
    /// session is done after a new one has joined.
    gone: RwLock<bool>,
    /// Told when it is gone.
    pub(super) left: Notify,
}

/// How often it looks after nodes that are away.
const LOOK: Duration = Duration::from_millis(100);
/// What a failed accept waits.
const BREATH: Duration = Duration::from_millis(50);

// === impl Masters ===

impl Masters {
    /// A master that `make` makes, of a term, each time `lead` lets this process lead.
    pub fn new(
        settings: Settings,
        lead: Arc<dyn Lead>,
        make: impl Fn(u32) -> Local + Send + Sync + 'static,
    ) -> Self {
        let (make, office) = (Box::new(make), watch::Sender::new(None));
        let (over, connected) = (AtomicU32::new(0), AtomicUsize::new(0));
        Self(Arc::new(Inside { settings, lead, make, office, over, connected }))
    }

    /// The master, if this process leads for certain.
    pub fn now(&self) -> Option<Local> {
        self.office().map(|office| office.desk.clone())
    }

    /// Who is where, if this process leads.
    pub fn book(&self) -> Option<Book> {
        self.office().map(|office| office.book.clone())
    }

    /// Which term this is, if this process leads.
    pub fn term(&self) -> Option<u32> {
        self.office().map(|office| office.reign.term)
    }

    /// The last term in which this process led, and leads no longer; 0: none.
    pub fn over(&self) -> u32 {
        self.0.over.load(Ordering::Acquire)
    }

    /// Where the master that leads is reached, if that is known.
    pub fn leader(&self) -> Option<String> {
        self.0.lead.leader()
    }

    fn office(&self) -> Option<Arc<Office>> {
        self.0.office.borrow().clone().filter(|office| !office.left().is_zero())
    }

    /// Leads whenever it may, and serves nodes, until `stop`.
    pub async fn serve(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut sessions = JoinSet::new();
        tokio::select! {
            () = stop => {}
            () = self.lead() => {}
            () = self.accept(listener, &mut sessions) => {}
        }
        sessions.shutdown().await;
    }

    async fn lead(&self) {
        loop {
            let held = self.0.lead.hold().await;
            if held.term > LAST_TERM {
                tracing::error!(term = held.term, "there are no more terms: this master cannot lead");
                tokio::time::sleep(Duration::from_mins(1)).await;
                continue;
            }
            tracing::info!(term = held.term, "this master leads");
            let outdone = self.reign(held).await;
            if let Some(seen) = outdone {
                tracing::warn!(
                    seen,
                    "a node has seen a later master: this one begins anew, in a term after that"
                );
                self.0.lead.after(seen);
            }
            tracing::warn!("this master leads no longer");
        }
    }

    /// As long as the lease lasts, or until it shows that there was a later term.
    async fn reign(&self, mut held: Held) -> Option<u32> {
        let desk = (self.0.make)(held.term);
        let (outdone, mut seen) = watch::channel(0);
        let office = Arc::new(Office {
            reign: Reign { term: desk.term(), mark: RandomState::new().hash_one(held.term) },
            desk: desk.clone(),
            book: Book::default(),
            settings: self.0.settings.clone(),
            until: held.until.clone(),
            seats: Mutex::default(),
            ended: watch::Sender::new(false),
            outdone,
        });
        debug_assert_eq!(office.reign.term, held.term, "a master has the term that it was made for");
        if !self.0.settings.settle.is_zero() {
            desk.master().doubt();
        }
        // After what is held: it goes first.
        let time = Time::begin(&self.0, office);
        let office = &time.office;
        tokio::select! {
            () = desk.run() => None,
            () = office.look_after() => None,
            () = lost(&mut held.until) => None,
            // The office outlives this.
            seen = seen.wait_for(|seen| *seen > 0) => seen.ok().map(|seen| *seen),
        }
    }

    async fn accept(&self, listener: TcpListener, sessions: &mut JoinSet<()>) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let (this, guest) = (self.clone(), Guest::enter(&self.0));
                        sessions.spawn(async move { this.welcome(stream, from, guest).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the master could not be accepted");
                        tokio::time::sleep(BREATH).await;
                    }
                },
                Some(_) = sessions.join_next() => {}
            }
        }
    }

    async fn welcome(&self, mut stream: TcpStream, from: SocketAddr, guest: Guest) {
        let settings = &self.0.settings;
        let within = settings.silence;
        if !guest.fits {
            let _ = frame::write(&mut stream, Kind::Sorry, within, |to| to.add(&Sorry::Full)).await;
            return;
        }
        let seen = match frame::greeted(&mut stream, Whom::Master, &settings.secret, within).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(sorry)) => {
                return tracing::warn!(%from, "somebody came to the master and was sent away: {}", sorry.of_them());
            }
            Err(error) => {
                return tracing::debug!(%from, %error, "somebody came to the master and said nothing");
            }
        };
        let Some(office) = self.office() else {
            let sorry = Sorry::NotMe(self.0.lead.leader());
            let _ = frame::write(&mut stream, Kind::Sorry, within, |to| to.add(&sorry)).await;
            return;
        };
        if office.reign.is_outdone_by(&seen) {
            let clock = office.desk.clock();
            let believed = lead::credible(Duration::from_millis(clock.outside(clock.now())));
            if seen.term > believed {
                tracing::error!(
                    %from,
                    seen = seen.term,
                    believed,
                    "somebody says to have seen a term that cannot have been: the clock of this machine is wrong, or that is \
                     no node of this store"
                );
                let sorry = Sorry::Incredible;
                let _ = frame::write(&mut stream, Kind::Sorry, within, |to| to.add(&sorry)).await;
                return;
            }
            let _ = frame::write(&mut stream, Kind::Sorry, within, |to| to.add(&Sorry::Outdone)).await;
            office.outdone.send_replace(seen.term);
            return;
        }
        if frame::write(&mut stream, Kind::Welcome, within, |to| to.add(&office.reign)).await.is_err() {
            return;
        }
        let mut ended = office.ended.subscribe();
        tokio::select! {
            () = session::converse(stream, &office) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }
}

/// Ends when a lease is lost.
async fn lost(until: &mut watch::Receiver<Instant>) {
    loop {
        let end = *until.borrow_and_update();
        if end <= Instant::now() {
            return;
        }
        tokio::select! {
            () = sleep_until(end) => {}
            changed = until.changed() => if changed.is_err() {
                // Nobody renews it: it lasts as long as it lasts.
                sleep_until(end).await;
                return;
            },
        }
    }
}

/// Somebody who is connected.
struct Guest {
    inside: Arc<Inside>,
    fits: bool,
}

impl Guest {
    fn enter(inside: &Arc<Inside>) -> Self {
        let before = inside.connected.fetch_add(1, Ordering::Relaxed);
        Self { fits: before < inside.settings.connections, inside: inside.clone() }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.inside.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Time ===

impl<'a> Time<'a> {
    fn begin(inside: &'a Inside, office: Arc<Office>) -> Self {
        inside.office.send_replace(Some(office.clone()));
        Self { inside, office }
    }
}

impl Drop for Time<'_> {
    fn drop(&mut self) {
        self.office.ended.send_replace(true);
        self.inside.over.fetch_max(self.office.reign.term, Ordering::AcqRel);
        self.inside.office.send_replace(None);
    }
}

// === impl Office ===

impl Office {
    /// For how long this process certainly leads.
    pub(super) fn left(&self) -> Duration {
        if *self.ended.borrow() { Duration::ZERO } else { lead::left(&self.until) }
    }

    /// A session speaks for a node from now on, and no other does.
    pub(super) fn seat(&self, join: &super::ask::Join) -> Result<(Joined, Arc<Seat>), crate::master::Error> {
        let seat = Arc::new(Seat::of(join.life));
        let mut seats = self.seats.lock();
        // Two lives that are both alive would take the place from each other for ever, and each would forget what the other told.
        // One that is dead is gone once its connection is, or has been silent for too long.
        if seats.get(&join.id).is_some_and(|seat| seat.life != join.life) {
            tracing::error!(
                node = join.id,
                address = join.address,
                "two processes have the id of one node: the second one is refused as long as the first is alive"
            );
            return Err(crate::master::Error::Taken);
        }
        if let Some(old) = seats.insert(join.id.clone(), seat.clone()) {
            old.leave();
        }
        let knows: Vec<&str> = join.knows.iter().map(String::as_str).collect();
        self.desk.master().expect(&knows)?;
        let joining =
            crate::master::Joining { id: &join.id, life: join.life, memory: join.memory, disk: join.disk };
        let joined = match self.desk.join(&joining) {
            Said::Now(joined) => joined?,
            Said::Later(_) => return Err(crate::master::Error::NotExact),
        };
        tracing::info!(node = join.id, address = join.address, "a node has joined");
        self.book.set(joined.node, Place { id: join.id.clone(), address: join.address.clone() });
        Ok((joined, seat))
    }

    /// A session that spoke for a node has ended: unless another does, the node is away.
    pub(super) fn stand_up(&self, id: &str, node: Node, seat: &Arc<Seat>, why: &str) {
        let mut seats = self.seats.lock();
        if seats.get(id).is_some_and(|current| Arc::ptr_eq(current, seat)) {
            seats.remove(id);
            // It joined, so it is known.
            let _ = self.desk.master().away(node);
            if !self.left().is_zero() {
                let lost = self.settings.lost;
                tracing::warn!(
                    node = id,
                    why,
                    ?lost,
                    "a node is away; what only it has is not read, and forgotten once it is lost"
                );
            }
        }
    }

    /// Nodes that are away for too long are lost; and after a while, what nobody has told of is absent.
    async fn look_after(&self) {
        let began = Instant::now();
        let mut doubts = !self.settings.settle.is_zero();
        let mut away: HashMap<Node, Instant> = HashMap::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            if doubts && now - began >= self.settings.settle {
                doubts = false;
                self.desk.master().trust();
            }
            let nodes = self.desk.master().node_list();
            away.retain(|node, _| nodes.iter().any(|n| n.node == *node && n.standing == Standing::Away));
            for node in nodes.iter().filter(|node| node.standing == Standing::Away) {
                let since = *away.entry(node.node).or_insert(now);
                if now - since >= self.settings.lost {
                    tracing::warn!(node = &*node.id, "a node was away for too long, and is given up");
                    let seats = self.seats.lock();
                    // It may have come back this very moment.
                    if !seats.contains_key(&*node.id) {
                        let _ = self.desk.master().lost(node.node);
                    }
                    drop(seats);
                    away.remove(&node.node);
                }
            }
        }
    }
}

// === impl Seat ===

impl Seat {
    fn of(life: u64) -> Self {
        Self { life, gone: RwLock::default(), left: Notify::default() }
    }

    /// Does something for the session, unless its place was taken.
    pub(super) fn act<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let gone = self.gone.read();
        (!*gone).then(act)
    }

    fn leave(&self) {
        *self.gone.write() = true;
        self.left.notify_one();
    }
}
