//! The node's side: a master elsewhere, found among several addresses, and found again when it is gone.
//!
//! Many questions are under way on one connection; answers come in any order. There is no time limit of a single one: a master
//! that is silent is given up with everything that was asked of it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep, timeout};

use super::ask::{Ask, Join, Promised};
use super::book::{Book, Place};
use super::codec::{Broken, Names, Reader, Wire};
use super::frame::{self, HEAD, Head, Hello, Kind, LONGEST, Reign, Sorry, Whom, broken, frame};
use super::settings::Settings;
use crate::master::name::{Millis, Name, Node, Tenant, Version};
use crate::master::{
    Committed, Error, Found, Glance, Item, Joined, Joining, News, Order, Put, PutId, Reckoned, Refused,
    Reserved, Staging, TaskId, Terms, Ticket,
};
use crate::node::Clock;
use crate::node::desk::{Away, Desk, Later, Promise, Said, Warmed};

/// A master elsewhere. Clones are the same one; the last that is dropped leaves it.
#[derive(Clone)]
pub struct Remote(Arc<Kept>);

struct Kept {
    inside: Arc<Inside>,
    task: AbortHandle,
}

struct Inside {
    settings: Settings,
    masters: Vec<String>,
    /// Where this node listens for others.
    address: String,
    clock: Clock,
    tenants: RwLock<Tenants>,
    session: RwLock<Option<Arc<Session>>>,
    /// Where the master of the session is.
    at: Mutex<Option<String>>,
    /// Which session there is; 0: none.
    up: watch::Sender<u64>,
    /// The session in which this node has joined.
    joined: AtomicU64,
    /// The last that led, as far as was seen.
    seen: Mutex<Reign>,
    book: Book,
    orders: Notify,
    space: Mutex<HashMap<Node, Listening>>,
    evicted: AtomicU64,
    /// How often an answer came too late to be believed.
    late: AtomicU64,
    hands: Handle,
}

/// Tenants, as this process numbers them.
#[derive(Default)]
struct Tenants {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Tenant>,
}

/// Whoever waits for space on a node.
#[derive(Default)]
struct Listening {
    freed: watch::Sender<u64>,
    /// In which session the master was asked to tell, and has not yet.
    asked: u64,
}

/// One connection to a master.
struct Session {
    number: u64,
    stream: TcpStream,
    /// What could not be written at once.
    out: Mutex<Out>,
    wants: Notify,
    pending: Mutex<HashMap<u64, Pending>>,
    next: AtomicU64,
}

#[derive(Default)]
struct Out {
    bytes: BytesMut,
    /// Made once.
    scratch: Vec<u8>,
    closed: bool,
}

struct Pending {
    asked: Instant,
    to: oneshot::Sender<Bytes>,
}

/// A promise of a master, taken back when it is dropped.
struct Cool {
    inside: Weak<Inside>,
    session: u64,
    promise: u64,
}

/// Bytes of questions that wait to be written: then the master is as good as away.
const UNSENT: usize = 64 << 20;
/// The first pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is said that no master is found.
const GRUMBLE: Duration = Duration::from_secs(5);
/// What is read at a time.
const READ: usize = 64 << 10;
/// Tenants that are told apart, as by a master.
const TENANTS: usize = 16_384;

// === impl Remote ===

impl Remote {
    /// Looks for the master that leads among these addresses, from now on. Other nodes are told that this one listens at
    /// `address`. Runs on the runtime that calls it.
    pub fn start(settings: Settings, masters: Vec<String>, address: String) -> Self {
        let inside = Arc::new(Inside {
            settings,
            masters,
            address,
            clock: Clock::start(),
            tenants: RwLock::default(),
            session: RwLock::default(),
            at: Mutex::default(),
            up: watch::Sender::new(0),
            joined: AtomicU64::new(0),
            seen: Mutex::default(),
            book: Book::default(),
            orders: Notify::new(),
            space: Mutex::default(),
            evicted: AtomicU64::new(0),
            late: AtomicU64::new(0),
            hands: Handle::current(),
        });
        let seeks = inside.clone();
        let task = tokio::spawn(async move { seeks.seek().await }).abort_handle();
        Self(Arc::new(Kept { inside, task }))
    }

    /// Ends when there is a master.
    pub async fn found(&self) {
        let mut up = self.0.inside.up.subscribe();
        drop(up.wait_for(|session| *session != 0).await);
    }

    /// Whether there is a master now.
    pub fn is_up(&self) -> bool {
        *self.0.inside.up.borrow() != 0
    }

    /// Where the master is, if there is one now.
    pub fn master(&self) -> Option<String> {
        self.0.inside.at.lock().clone()
    }

    /// The highest term that was seen.
    pub fn term(&self) -> u32 {
        self.0.inside.seen.lock().term
    }

    /// Where other nodes are.
    pub fn book(&self) -> &Book {
        &self.0.inside.book
    }

    /// How often an answer came too late to be believed.
    pub fn late(&self) -> u64 {
        self.0.inside.late.load(Ordering::Relaxed)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
        self.inside.leave();
    }
}

// === Finding a master ===

impl Inside {
    async fn seek(self: Arc<Self>) {
        // However this ends, even with its runtime: whoever waits for an answer hears that none comes.
        let _leaves = Leaves(&self);
        let mut number = 0;
        let mut pause = PAUSE;
        let mut told: Option<String> = None;
        let mut turn = 0;
        let mut grumbled = Instant::now();
        loop {
            let Some(next) =
                told.take().or_else(|| self.masters.get(turn % self.masters.len().max(1)).cloned())
            else {
                return tracing::error!("no address of a master is set");
            };
            turn += 1;
            match self.meet(&next).await {
                Ok(Ok((stream, term))) => {
                    number += 1;
                    pause = PAUSE;
                    tracing::info!(master = next, term, "found the master of the store");
                    *self.at.lock() = Some(next.clone());
                    let error = self.converse(stream, number).await;
                    tracing::warn!(master = next, %error, "lost the master of the store");
                    self.leave();
                    // The same one first: a connection is lost more often than a master.
                    turn -= 1;
                    grumbled = Instant::now();
                }
                Ok(Err(Sorry::NotMe(who))) => {
                    told = who.filter(|who| *who != next && turn % (2 * self.masters.len()) != 0);
                }
                Ok(Err(sorry)) => Self::grumble(&mut grumbled, &next, &sorry),
                Err(error) => Self::grumble(&mut grumbled, &next, &error),
            }
            // A round is made without a rest, then each rest is longer.
            if told.is_none() && turn.is_multiple_of(self.masters.len().max(1)) {
                sleep(pause).await;
                pause = (pause * 2).min(self.settings.pause);
            } else {
                sleep(PAUSE.min(pause)).await;
            }
        }
    }

    /// Says now and then why there is no master: soon it is another one, or somebody should look.
    fn grumble(last: &mut Instant, master: &str, why: &dyn std::fmt::Display) {
        tracing::debug!(master, %why, "no master of the store here");
        if last.elapsed() >= GRUMBLE {
            *last = Instant::now();
            tracing::warn!(master, %why, "no master of the store is found; it is still looked for");
        }
    }

    async fn meet(&self, address: &str) -> io::Result<Result<(TcpStream, u32), Sorry>> {
        let Settings { secret, connect, .. } = &self.settings;
        let seen = *self.seen.lock();
        let hello = Hello { to: Whom::Master, secret: secret.bytes(), seen };
        let (stream, said) = frame::greet(address, &hello, *connect).await?;
        let said = match said {
            Ok(said) => said,
            Err(sorry) => return Ok(Err(sorry)),
        };
        let reign: Reign = frame::body(&said)?;
        if reign.is_outdone_by(&seen) {
            return Ok(Err(Sorry::Outdone));
        }
        *self.seen.lock() = reign;
        Ok(Ok((stream, reign.term)))
    }

    /// No master is there: everything that was asked is answered by that.
    fn leave(&self) {
        self.up.send_replace(0);
        *self.at.lock() = None;
        let session = self.session.write().take();
        if let Some(session) = session {
            session.close();
        }
        for listening in self.space.lock().values_mut() {
            listening.freed.send_modify(|times| *times += 1);
        }
        self.orders.notify_one();
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.session.read().clone()
    }

    /// Talks until the connection ends, and says why it did.
    async fn converse(&self, stream: TcpStream, number: u64) -> io::Error {
        let session = Arc::new(Session {
            number,
            stream,
            out: Mutex::default(),
            wants: Notify::new(),
            pending: Mutex::default(),
            next: AtomicU64::new(1),
        });
        *self.session.write() = Some(session.clone());
        self.up.send_replace(number);
        let ended = tokio::select! {
            ended = self.hear(&session) => ended,
            ended = session.speak() => ended,
            ended = self.beat(&session) => ended,
        };
        ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    async fn beat(&self, session: &Session) -> io::Result<()> {
        let mut beat = interval(self.settings.beat);
        loop {
            beat.tick().await;
            session.send(|out| frame(out, Kind::Beat, 0, self, |_| ())).map_err(|Away| closed())?;
        }
    }

    async fn hear(&self, session: &Session) -> io::Result<()> {
        let mut input = BytesMut::new();
        let mut stream = &session.stream;
        loop {
            while let Some((head, _)) = Head::split(&input, LONGEST).map_err(broken)? {
                input.advance(HEAD);
                let body = input.split_to(head.len).freeze();
                self.take(session, head, body)?;
            }
            input.reserve(READ);
            let silence = self.settings.silence;
            let read = match timeout(silence, read_some(&mut stream, &mut input)).await {
                Ok(read) => read?,
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the master is silent")),
            };
            if read == 0 {
                return Err(closed());
            }
        }
    }

    fn take(&self, session: &Session, head: Head, body: Bytes) -> io::Result<()> {
        match head.kind {
            Kind::Answer => {
                let Some(pending) = session.pending.lock().remove(&head.id) else { return Ok(()) };
                let (left, answer) =
                    body.split_first_chunk::<8>().ok_or_else(|| broken(Broken("an answer")))?;
                let left = Duration::from_millis(u64::from_le_bytes(*left));
                // The master had its lease for so long from some moment after it was asked: by then another may lead (L2).
                if pending.asked.elapsed() >= left {
                    self.late.fetch_add(1, Ordering::Relaxed);
                    return Err(io::Error::other("the master answered too late to be believed"));
                }
                let answer = body.slice_ref(answer);
                // Whoever asked may have left.
                let _ = pending.to.send(answer);
            }
            Kind::No => drop(session.pending.lock().remove(&head.id)),
            Kind::Orders => self.orders.notify_one(),
            Kind::Space => {
                let node = self.read::<Node>(&body)?;
                if let Some(listening) = self.space.lock().get_mut(&node) {
                    listening.asked = 0;
                    listening.freed.send_modify(|times| *times += 1);
                }
            }
            Kind::Book => {
                let all = self.read::<Vec<(Node, String, String)>>(&body)?;
                self.book
                    .become_this(all.into_iter().map(|(node, id, address)| (node, Place { id, address })));
            }
            Kind::Beat => self.evicted.store(self.read(&body)?, Ordering::Relaxed),
            _ => return Err(broken(Broken("a frame for somebody else"))),
        }
        Ok(())
    }

    fn read<'a, T: Wire<'a>>(&'a self, body: &'a [u8]) -> io::Result<T> {
        let mut reader = Reader::new(body, self);
        let read = reader.take().map_err(broken)?;
        reader.end().map_err(broken)?;
        Ok(read)
    }

    // === Asking ===

    fn ask_in(&self, session: &Session, ask: &Ask<'_>) -> Result<oneshot::Receiver<Bytes>, Away> {
        let (to, answer) = oneshot::channel();
        let id = session.next.fetch_add(1, Ordering::Relaxed);
        session.pending.lock().insert(id, Pending { asked: Instant::now(), to });
        let sent = session.send(|out| frame(out, Kind::Ask, id, self, |to| to.add(ask)));
        if sent.is_err() {
            session.pending.lock().remove(&id);
        }
        sent.map(|()| answer)
    }

    /// Asks; a reply that makes no sense is as good as none, and ends the session.
    fn ask<T: for<'a> Wire<'a> + Send + 'static>(self: &Arc<Self>, ask: &Ask<'_>) -> Later<Result<T, Away>> {
        let Some(session) = self.session() else { return Box::pin(std::future::ready(Err(Away))) };
        self.ask_of(&session, ask)
    }

    fn ask_of<T: for<'a> Wire<'a> + Send + 'static>(
        self: &Arc<Self>,
        session: &Arc<Session>,
        ask: &Ask<'_>,
    ) -> Later<Result<T, Away>> {
        let asked = self.ask_in(session, ask);
        let (inside, session) = (self.clone(), session.clone());
        Box::pin(async move {
            let answer = asked?.await.map_err(|_| Away)?;
            inside.read(&answer).map_err(|error| {
                tracing::error!(%error, "the master said something that makes no sense");
                session.close();
                Away
            })
        })
    }

    fn say(&self, ask: &Ask<'_>) {
        if let Some(session) = self.session() {
            // A master that is gone hears nothing; one that comes is told everything.
            let _ = session.send(|out| frame(out, Kind::Ask, 0, self, |to| to.add(ask)));
        }
    }

    /// What is undone if whoever asked has left before the answer came.
    fn ask_or_undo<T: for<'a> Wire<'a> + Send + 'static>(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        undo: impl FnOnce(&Self, T) + Send + 'static,
    ) -> Later<Result<T, Away>> {
        let answer = self.ask::<T>(ask);
        let (to, said) = oneshot::channel();
        let inside = self.clone();
        self.hands.spawn(async move {
            if let Err(Ok(unheard)) = to.send(answer.await) {
                undo(&inside, unheard);
            }
        });
        Box::pin(async move { said.await.unwrap_or(Err(Away)) })
    }

    fn warmed(self: &Arc<Self>, ask: &Ask<'_>) -> Said<Warmed> {
        let session = self.session().map_or(0, |session| session.number);
        let inside = Arc::downgrade(self);
        let promised =
            self.ask_or_undo::<Promised>(ask, |inside, (promise, ..)| inside.say(&Ask::Cool(promise)));
        Said::Later(Box::pin(async move {
            let (promise, known, pending) = promised.await?;
            let kept: Promise = Box::new(Cool { inside, session, promise });
            Ok((kept, known as usize, pending as usize))
        }))
    }
}

/// Nobody looks for a master any more.
struct Leaves<'a>(&'a Inside);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for Cool {
    fn drop(&mut self) {
        let Some(inside) = self.inside.upgrade() else { return };
        // A session that ended took it back by that.
        if self.promise != 0 && inside.session().is_some_and(|session| session.number == self.session) {
            inside.say(&Ask::Cool(self.promise));
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")
}

async fn read_some(stream: &mut &TcpStream, into: &mut BytesMut) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read_buf(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

// === impl Session ===

impl Session {
    /// Writes a frame: at once, if nothing waits and the socket takes it.
    fn send(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Away> {
        let mut out = self.out.lock();
        if out.closed || out.bytes.len() > UNSENT {
            return Err(Away);
        }
        let mut scratch = std::mem::take(&mut out.scratch);
        scratch.clear();
        write(&mut scratch);
        let written = if out.bytes.is_empty() { self.stream.try_write(&scratch).unwrap_or(0) } else { 0 };
        if written < scratch.len() {
            // What went wrong shows when it is written again.
            out.bytes.extend_from_slice(&scratch[written..]);
            self.wants.notify_one();
        }
        scratch.shrink_to(READ);
        out.scratch = scratch;
        Ok(())
    }

    /// Writes what could not be written at once.
    async fn speak(&self) -> io::Result<()> {
        loop {
            self.wants.notified().await;
            loop {
                {
                    let mut out = self.out.lock();
                    if out.closed {
                        return Err(closed());
                    }
                    match self.stream.try_write(&out.bytes) {
                        Ok(written) => out.bytes.advance(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                    if out.bytes.is_empty() {
                        break;
                    }
                }
                self.stream.ready(Interest::WRITABLE).await?;
            }
        }
    }

    fn close(&self) {
        self.out.lock().closed = true;
        self.wants.notify_one();
        // Whoever waits hears by that.
        self.pending.lock().clear();
    }
}

// === impl Names ===

impl Names for Inside {
    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn name(&self, tenant: Tenant) -> Arc<str> {
        self.tenants.read().names.get(usize::from(tenant.number())).cloned().unwrap_or_default()
    }

    fn tenant(&self, name: &str) -> Option<Tenant> {
        if let Some(tenant) = self.tenants.read().numbers.get(name) {
            return Some(*tenant);
        }
        let mut tenants = self.tenants.write();
        if let Some(tenant) = tenants.numbers.get(name) {
            return Some(*tenant);
        }
        let tenant = Tenant(u16::try_from(tenants.names.len()).ok().filter(|n| usize::from(*n) < TENANTS)?);
        let name: Arc<str> = name.into();
        tenants.names.push(name.clone());
        tenants.numbers.insert(name, tenant);
        Some(tenant)
    }
}

// === impl Desk ===

/// Asks, and gives the answer later.
macro_rules! later {
    ($this:expr, $ask:expr) => {
        Said::Later($this.0.inside.ask(&$ask))
    };
}

impl Desk for Remote {
    fn is_here(&self) -> bool {
        false
    }

    fn clock(&self) -> &Clock {
        &self.0.inside.clock
    }

    fn tenant(&self, name: &str) -> Result<Tenant, Error> {
        Names::tenant(&*self.0.inside, name).ok_or(Error::TooMany { what: "tenants", most: TENANTS })
    }

    fn name(&self, tenant: Tenant) -> Arc<str> {
        Names::name(&*self.0.inside, tenant)
    }

    fn get(&self, tenant: Tenant, key: &[u8]) -> Said<Found> {
        let found = self.0.inside.ask::<Vec<Found>>(&Ask::Get(tenant, vec![key]));
        Said::Later(Box::pin(async move { found.await?.pop().ok_or(Away) }))
    }

    fn get_many(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Found>> {
        self.each(keys.len(), &Ask::Get(tenant, keys.to_vec()))
    }

    fn glance(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Glance>> {
        self.each(keys.len(), &Ask::Glance(tenant, keys.to_vec()))
    }

    fn reserve(&self, put: &Put<'_>) -> Said<Result<Reserved, Refused>> {
        let had = put.ticket;
        let undo = move |inside: &Inside, said: Result<Reserved, Refused>| match said {
            Ok(reserved) => inside.say(&Ask::Revoke(reserved.put)),
            Err(Refused::Wait(wait)) => {
                // A place that it had before is given up by whoever had it.
                if let Some(ticket) = wait.ticket.filter(|ticket| Some(*ticket) != had) {
                    inside.say(&Ask::ForgetTicket(ticket));
                }
            }
            Err(_) => {}
        };
        Said::Later(self.0.inside.ask_or_undo(&Ask::Reserve(*put), undo))
    }

    fn commit(&self, put: PutId, terms: &Terms) -> Said<Result<Committed, Error>> {
        later!(self, Ask::Commit(put, *terms))
    }

    fn revoke(&self, put: PutId) {
        self.0.inside.say(&Ask::Revoke(put));
    }

    fn abandon(&self, put: PutId) {
        self.0.inside.say(&Ask::Abandon(put));
    }

    fn forget_ticket(&self, ticket: Ticket) {
        self.0.inside.say(&Ask::ForgetTicket(ticket));
    }

    fn make_room(&self, _: Node, bytes: u64) {
        self.0.inside.say(&Ask::MakeRoom(bytes));
    }

    fn freed(&self, node: Node) -> Later<()> {
        let inside = &self.0.inside;
        let Some(session) = inside.session() else { return Box::pin(sleep(PAUSE)) };
        let mut space = inside.space.lock();
        let listening = space.entry(node).or_default();
        let mut freed = listening.freed.subscribe();
        let asks = listening.asked != session.number;
        listening.asked = session.number;
        drop(space);
        if asks {
            // Written before whatever is asked next, so that nothing is missed in between.
            let ask = Ask::Freed(node);
            let _ = session.send(|out| frame(out, Kind::Ask, 0, &**inside, |to| to.add(&ask)));
        }
        Box::pin(async move { drop(freed.changed().await) })
    }

    fn remove(&self, tenant: Tenant, keys: &[&[u8]]) -> Said<Vec<Result<(), Error>>> {
        self.each(keys.len(), &Ask::Remove(tenant, keys.to_vec()))
    }

    fn remove_prefix(&self, tenant: Tenant, prefix: &[u8], cursor: u64) -> Said<Result<(u64, u64), Error>> {
        later!(self, Ask::RemovePrefix(tenant, prefix, cursor))
    }

    fn scan(&self, tenant: Tenant, cursor: u64, most: usize) -> Said<(u64, Vec<Box<[u8]>>)> {
        later!(self, Ask::Scan(tenant, cursor, most as u64))
    }

    fn count(&self, tenant: Tenant) -> Said<u64> {
        later!(self, Ask::Count(tenant))
    }

    fn warm(&self, tenant: Tenant, keys: &[&[u8]], deadline: Millis) -> Said<Warmed> {
        self.0.inside.warmed(&Ask::Warm(tenant, keys.to_vec(), deadline))
    }

    fn warm_blocks(&self, prefixes: &[u64], deadline: Millis) -> Said<Warmed> {
        self.0.inside.warmed(&Ask::WarmBlocks(prefixes.to_vec(), deadline))
    }

    fn evicted(&self) -> u64 {
        self.0.inside.evicted.load(Ordering::Relaxed)
    }

    fn term(&self) -> u32 {
        self.0.inside.seen.lock().term
    }

    fn parted(&self) -> Later<()> {
        let mut up = self.0.inside.up.subscribe();
        let joined = self.0.inside.joined.load(Ordering::Acquire);
        Box::pin(async move { drop(up.wait_for(|session| *session != 0 && *session != joined).await) })
    }

    fn reckons_with(&self, _: Node, name: &Name, version: Version) -> Said<Reckoned> {
        later!(self, Ask::Reckons(name.clone(), version))
    }

    fn join(&self, joining: &Joining<'_>) -> Said<Result<Joined, Error>> {
        let inside = self.0.inside.clone();
        let Some(session) = inside.session() else {
            return Said::Later(Box::pin(std::future::ready(Err(Away))));
        };
        // One session joins once: anew is on a new one.
        if inside.joined.load(Ordering::Acquire) == session.number {
            session.close();
            return Said::Later(Box::pin(std::future::ready(Err(Away))));
        }
        let knows = inside.book.all().values().map(|place| place.id.clone()).collect();
        let join = Join {
            id: joining.id.to_owned(),
            life: joining.life,
            memory: joining.memory,
            disk: joining.disk,
            address: inside.address.clone(),
            knows,
        };
        let answer = inside.ask_of::<Result<Joined, Error>>(&session, &Ask::Join(join));
        Said::Later(Box::pin(async move {
            let joined = answer.await?;
            if joined.is_ok() {
                inside.joined.store(session.number, Ordering::Release);
            }
            Ok(joined)
        }))
    }

    fn begin_inventory(&self, _: Node, life: u64) -> Said<Result<(), Error>> {
        later!(self, Ask::BeginInventory(life))
    }

    fn inventory(&self, _: Node, life: u64, items: Vec<Item>) -> Said<Result<(), Error>> {
        later!(self, Ask::Inventory(life, items))
    }

    fn end_inventory(&self, _: Node, life: u64, position: u64) -> Said<Result<(), Error>> {
        later!(self, Ask::EndInventory(life, position))
    }

    fn take_orders(&self, _: Node, budget: u64) -> Said<Vec<Order>> {
        later!(self, Ask::TakeOrders(budget))
    }

    fn ordered(&self, _: Node) -> Later<()> {
        let inside = self.0.inside.clone();
        Box::pin(async move { inside.orders.notified().await })
    }

    fn pending(&self, _: Node) -> Said<bool> {
        later!(self, Ask::Pending)
    }

    fn tell(&self, _: Node, life: u64, position: u64, news: &News) -> Said<Result<(), Error>> {
        later!(self, Ask::Tell(life, position, news.clone()))
    }

    fn allocate(&self, task: TaskId, _: Node, size: u64) -> Said<Result<Staging, Error>> {
        later!(self, Ask::Allocate(task, size))
    }

    fn promoted(&self, task: TaskId, _: Node) -> Said<Result<(), Error>> {
        later!(self, Ask::Promoted(task))
    }

    fn failed(&self, task: TaskId, _: Node, error: &str) -> Said<Result<(), Error>> {
        later!(self, Ask::Failed(task, error.to_owned()))
    }
}

impl Remote {
    /// Asks about many; as many answers as keys, or none.
    fn each<T: for<'a> Wire<'a> + Send + 'static>(&self, many: usize, ask: &Ask<'_>) -> Said<Vec<T>> {
        let answers = self.0.inside.ask::<Vec<T>>(ask);
        Said::Later(Box::pin(async move {
            answers.await.and_then(|all| if all.len() == many { Ok(all) } else { Err(Away) })
        }))
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({:?}, session {})", self.0.inside.masters, *self.0.inside.up.borrow())
    }
}
