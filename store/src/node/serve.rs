//! Answering clients: any key of any tenant, whatever holds it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::desk::{Away, Promise, Said, Warmed};
use super::meta::Meta;
use super::peers::{Parcel, Sent, Verdict};
use super::read::{away, unknown};
use super::{Inner, Node};
use crate::arena;
use crate::master::name::{Block, Group, Name, Node as Number, Pin};
use crate::master::{self, Committed, Glance, PutId, Refused, Reserved, Terms, Ticket, Wait, WaitFor, When};
use crate::resp::contract::{
    self, Answer, Each, Life, Look, Only, Page, Part, Put, Sink, Space, Store, Tenant, Wanted, Warming,
    Written, together,
};
use crate::resp::refusal::{Code, Refusal};

/// How often a put asks for more to leave, when what is free is enough but lies in too many parts.
const ROUNDS: usize = 200;
/// How long whoever asks so waits each time.
const ROUND: Duration = Duration::from_millis(10);
/// How often a put that waits for a tenant's quota asks again by itself.
const LEASE: Duration = Duration::from_millis(50);

/// Space for a value that arrives.
pub struct Filling {
    inner: Arc<Inner>,
    put: PutId,
    name: Name,
    /// In whose memory it is to be, as the master of that term calls it; `None`: here.
    elsewhere: Option<(Number, u32)>,
    /// It is on its way to there: what becomes of it is seen to.
    passed: bool,
    /// Taken at the commit.
    room: Option<arena::Filling>,
}

/// A place in the line for space, given up when whoever waits leaves.
struct Waits {
    inner: Arc<Inner>,
    ticket: Option<Ticket>,
}

impl Store for Node {
    type Sink = Filling;
    type Warm = Promise;

    fn get(&self, tenant: &Tenant, key: &[u8], part: Part) -> Answer<Option<Bytes>> {
        let inner = &self.0;
        let tenant = match inner.tenant(tenant) {
            Ok(tenant) => tenant,
            Err(refusal) => return Answer::refused(refusal),
        };
        match inner.desk.get(tenant, key) {
            Said::Now(found) => inner.read(&found, tenant, key, part),
            Said::Later(later) => {
                let (inner, key) = (inner.clone(), Box::<[u8]>::from(key));
                Answer::later(async move {
                    let found = later.await.map_err(|_| away())?;
                    inner.read(&found, tenant, &key, part).wait().await
                })
            }
        }
    }

    fn get_many(&self, tenant: &Tenant, keys: &[&[u8]]) -> Answer<Each<Option<Bytes>>> {
        let inner = &self.0;
        let tenant = match inner.tenant(tenant) {
            Ok(tenant) => tenant,
            Err(refusal) => return Answer::refused(refusal),
        };
        match inner.desk.get_many(tenant, keys) {
            Said::Now(found) => {
                let read =
                    found.iter().zip(keys).map(|(found, key)| inner.read(found, tenant, key, Part::Whole));
                together(read)
            }
            Said::Later(later) => {
                let keys: Vec<Box<[u8]>> = keys.iter().map(|key| (*key).into()).collect();
                let inner = inner.clone();
                Answer::later(async move {
                    let found = later.await.map_err(|_| away())?;
                    let read = found
                        .iter()
                        .zip(&keys)
                        .map(|(found, key)| inner.read(found, tenant, key, Part::Whole));
                    together(read).wait().await
                })
            }
        }
    }

    fn look(&self, tenant: &Tenant, key: &[u8]) -> Answer<Option<Look>> {
        then(self.look_many(tenant, &[key]), |mut each| each.pop().unwrap_or(Ok(None)))
    }

    fn look_many(&self, tenant: &Tenant, keys: &[&[u8]]) -> Answer<Each<Option<Look>>> {
        let inner = self.0.clone();
        self.0.asked(
            tenant,
            |tenant| self.0.desk.glance(tenant, keys),
            move |glances| {
                let now = inner.desk.clock().now();
                let look = |glance| match glance {
                    Glance::Here { size, ends } => Ok(Some(Look {
                        len: size,
                        life: ends.map(|ends| Duration::from_millis(ends.since(now))),
                    })),
                    Glance::Absent => Ok(None),
                    Glance::Unknown => Err(unknown()),
                };
                Ok(glances.into_iter().map(look).collect())
            },
        )
    }

    fn remove(&self, tenant: &Tenant, key: &[u8]) -> Answer<bool> {
        then(self.remove_many(tenant, &[key]), |mut each| each.pop().unwrap_or(Ok(false)))
    }

    fn remove_many(&self, tenant: &Tenant, keys: &[&[u8]]) -> Answer<Each<bool>> {
        self.0.asked(
            tenant,
            |tenant| self.0.desk.remove(tenant, keys),
            |removed| {
                let there = |removed| match removed {
                    Ok(()) => Ok(true),
                    Err(master::Error::Absent) => Ok(false),
                    Err(_) => Err(unknown()),
                };
                Ok(removed.into_iter().map(there).collect())
            },
        )
    }

    fn reserve(&self, tenant: &Tenant, key: &[u8], len: usize) -> Answer<Filling> {
        let inner = &self.0;
        let tenant = match inner.tenant(tenant) {
            Ok(tenant) => tenant,
            Err(refusal) => return Answer::refused(refusal),
        };
        let name = Name { tenant, key: key.into() };
        match inner.ask_space(&name, len, None) {
            Said::Now(Ok(reserved)) => inner.clone().room(name, len, reserved),
            Said::Now(Err(Refused::Wait(wait))) => {
                Answer::later(inner.clone().wait_for_space(name, len, wait))
            }
            Said::Now(Err(refused)) => Answer::refused(no(refused, len)),
            Said::Later(later) => {
                let inner = inner.clone();
                Answer::later(async move {
                    match later.await.map_err(|_| away())? {
                        Ok(reserved) => inner.room(name, len, reserved).wait().await,
                        Err(Refused::Wait(wait)) => inner.wait_for_space(name, len, wait).await,
                        Err(refused) => Err(no(refused, len)),
                    }
                })
            }
        }
    }

    fn scan(&self, tenant: &Tenant, cursor: u64, count: usize) -> Answer<Page> {
        self.0.asked(
            tenant,
            |tenant| self.0.desk.scan(tenant, cursor, count),
            |(next, keys)| Ok(Page { next, keys: keys.into_iter().map(Bytes::from).collect() }),
        )
    }

    fn count(&self, tenant: &Tenant) -> Answer<u64> {
        self.0.asked(tenant, |tenant| self.0.desk.count(tenant), Ok)
    }

    fn clear(&self, tenant: &Tenant) -> Answer<()> {
        let inner = self.0.clone();
        let tenant = match inner.tenant(tenant) {
            Ok(tenant) => tenant,
            Err(refusal) => return Answer::refused(refusal),
        };
        Answer::later(async move {
            let mut cursor = 0;
            loop {
                let removed =
                    inner.desk.remove_prefix(tenant, b"", cursor).wait().await.map_err(|_| away())?;
                (_, cursor) = removed.map_err(|_| unknown())?;
                if cursor == 0 {
                    return Ok(());
                }
                // A shard at a time, so that others are served in between.
                tokio::task::yield_now().await;
            }
        })
    }

    fn space(&self) -> Space {
        let inner = &self.0;
        Space { used: inner.arena.space().asked, total: inner.options.memory, evicted: inner.desk.evicted() }
    }

    fn warm(&self, tenant: &Tenant, wanted: Wanted<'_>, within: Duration) -> Answer<Warming<Promise>> {
        let desk = &self.0.desk;
        let deadline = desk.clock().now().plus(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        self.0.asked(
            tenant,
            |tenant| match wanted {
                Wanted::Keys(keys) => desk.warm(tenant, keys, deadline),
                Wanted::Blocks(blocks) => desk.warm_blocks(blocks, deadline),
            },
            |(kept, known, pending): Warmed| Ok(Warming { kept, known, pending }),
        )
    }
}

// === Asking ===

impl Inner {
    fn tenant(&self, tenant: &Tenant) -> Result<master::name::Tenant, Refusal> {
        self.desk.tenant(tenant.name()).map_err(|error| Refusal::err(error.to_string()))
    }

    /// Asks the master, and makes an answer of what it says.
    fn asked<A: Send + 'static, T: Send + 'static>(
        &self,
        tenant: &Tenant,
        ask: impl FnOnce(master::name::Tenant) -> Said<A>,
        answer: impl FnOnce(A) -> Result<T, Refusal> + Send + 'static,
    ) -> Answer<T> {
        match self.tenant(tenant).map(ask) {
            Ok(Said::Now(said)) => Answer::Now(answer(said)),
            Ok(Said::Later(later)) => Answer::later(async move { answer(later.await.map_err(|_| away())?) }),
            Err(refusal) => Answer::refused(refusal),
        }
    }

    fn ask_space(&self, name: &Name, len: usize, ticket: Option<Ticket>) -> Said<Result<Reserved, Refused>> {
        let put = master::Put {
            prefer: Some(self.number()),
            ticket,
            ..master::Put::new(name.tenant, &name.key, len as u64)
        };
        self.desk.reserve(&put)
    }

    /// Memory for what the master has let in.
    fn room(self: Arc<Self>, name: Name, len: usize, reserved: Reserved) -> Answer<Filling> {
        let put = reserved.put;
        let elsewhere = (reserved.node != self.number()).then(|| (reserved.node, self.desk.term()));
        let mut filling = Filling { inner: self.clone(), put, name, elsewhere, passed: false, room: None };
        if elsewhere.is_some() {
            return self.room_to_pass(filling, len);
        }
        self.hold.begin(put.version());
        filling.room = self.arena.alloc(len);
        if filling.room.is_some() {
            return Answer::now(filling);
        }
        Answer::later(async move {
            if let Some(room) = self.more_room(len, ROUNDS).await {
                filling.room = Some(room);
                return Ok(filling);
            }
            Err(Refusal::new(Code::Full, format!("memory for {len} bytes is free in too many parts")))
        })
    }

    /// Memory of which enough is free, but in too many parts: more is asked to leave, up to so many times.
    pub(super) async fn more_room(&self, len: usize, rounds: usize) -> Option<arena::Filling> {
        for _ in 0..rounds {
            // More leaves than was asked for: next to something that leaves there may be a part that is long enough.
            self.desk.make_room(self.number(), len as u64);
            self.counts.made_room.fetch_add(1, Ordering::Relaxed);
            if let Ok(Ok(room)) = timeout(ROUND, self.arena.obtain(len)).await {
                return Some(room);
            }
        }
        None
    }

    /// Memory for what goes on to another node.
    fn room_to_pass(self: Arc<Self>, mut filling: Filling, len: usize) -> Answer<Filling> {
        if self.peers.is_none() {
            return Answer::refused(Refusal::new(
                Code::WrongNode,
                "this node takes nothing now, and cannot pass values on: put it at another one",
            ));
        }
        filling.room = self.reading.alloc(len);
        if filling.room.is_some() {
            return Answer::now(filling);
        }
        Answer::later(async move {
            let room = self.reading.obtain(len).await;
            filling.room = Some(room.map_err(|long| Refusal::new(Code::TooLarge, long.to_string()))?);
            Ok(filling)
        })
    }

    async fn wait_for_space(
        self: Arc<Self>,
        name: Name,
        len: usize,
        first: Wait,
    ) -> Result<Filling, Refusal> {
        let mut waits = Waits { inner: self.clone(), ticket: first.ticket };
        let until = first.until;
        let mut wait = first;
        loop {
            // Listening begins before the master is asked again, so that nothing is missed in between.
            let freed = self.desk.freed(wait.node.unwrap_or_else(|| self.number()));
            match self.ask_space(&name, len, waits.ticket).wait().await.map_err(|Away| away())? {
                Ok(reserved) => {
                    waits.ticket = None;
                    return self.clone().room(name, len, reserved).wait().await;
                }
                Err(Refused::Wait(again)) => {
                    waits.ticket = again.ticket.or(waits.ticket);
                    wait = again;
                }
                // Its place in the line ended with its time: there is space, and no transfer ended.
                Err(Refused::Full) if wait.what == WaitFor::Slot => return Err(in_vain(wait.what, len)),
                Err(refused) => return Err(no(refused, len)),
            }
            let now = self.desk.clock().now();
            if now >= until {
                return Err(in_vain(wait.what, len));
            }
            // The end of a lease lets a tenant's own objects leave, and nobody says so.
            let patience = Duration::from_millis(until.since(now) + 1);
            let patience = if wait.what == WaitFor::Quota { patience.min(LEASE) } else { patience };
            let _ = timeout(patience, freed).await;
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.inner.desk.forget_ticket(ticket);
        }
    }
}

/// An answer that is made of another.
fn then<A: Send + 'static, T: Send + 'static>(
    answer: Answer<A>,
    make: impl FnOnce(A) -> Result<T, Refusal> + Send + 'static,
) -> Answer<T> {
    match answer {
        Answer::Now(answer) => Answer::Now(answer.and_then(make)),
        Answer::Later(later) => Answer::later(async move { make(later.await?) }),
    }
}

fn no(refused: Refused, len: usize) -> Refusal {
    let code = match refused {
        Refused::TooLarge { .. } => Code::TooLarge,
        Refused::Full => return Refusal::full(len),
        Refused::NoNode => Code::Unavailable,
        Refused::Wait(_) => Code::Busy,
        Refused::Exists(_) | Refused::Other(_) => Code::Err,
    };
    Refusal::new(code, refused.to_string())
}

fn too_late(error: &master::Error) -> Refusal {
    Refusal::new(Code::Busy, format!("the value took too long to arrive: {error}"))
}

fn in_vain(what: WaitFor, len: usize) -> Refusal {
    match what {
        WaitFor::Quota => {
            Refusal::new(Code::Quota, format!("no room for {len} bytes within the tenant's quota in time"))
        }
        WaitFor::Slot => Refusal::new(Code::Busy, "too many values arrive at once"),
        WaitFor::Space => Refusal::full(len),
    }
}

// === impl Filling ===

impl Sink for Filling {
    fn space(&mut self) -> &mut [u8] {
        self.room.as_mut().map_or(&mut [], arena::Filling::unfilled)
    }

    fn commit(mut self, put: Put) -> Answer<Written> {
        let block = self.room.take().and_then(|mut room| {
            let len = room.unfilled().len();
            room.advance(len);
            room.freeze().ok()
        });
        let Some(block) = block else { return Answer::refused(Refusal::err("a value was not there")) };
        let clock = self.inner.desk.clock();
        let now = clock.now();
        let life = match put.life {
            Life::Open => master::Life::Open,
            Life::For(life) => {
                master::Life::Until(now.plus(u64::try_from(life.as_millis()).unwrap_or(u64::MAX)))
            }
            Life::Kept => master::Life::Kept,
        };
        let when = match put.only {
            Only::Always => When::Always,
            Only::Absent => When::Absent,
            Only::Present => When::Present,
        };
        let terms = Terms {
            when,
            life,
            block: put.block.map(block_of),
            drops: self.inner.desk.is_here() && self.elsewhere.is_none(),
        };
        let ends = match life {
            master::Life::Until(ends) => Some(clock.outside(ends)),
            // It is told by the master what that is.
            master::Life::Open | master::Life::Kept => None,
        };
        let meta = Meta {
            version: self.put.version(),
            pin: Pin::None,
            group: Group::NONE,
            ends,
            block: terms.block.map(Box::new),
        };
        let conditional = when != When::Always;
        if let Some((node, term)) = self.elsewhere {
            let which = self.inner.which(&self.name, meta.version);
            let parcel = Parcel { which, meta, conditional, term, bytes: block };
            self.passed = true;
            let ending = tokio::spawn(self.pass_on(node, parcel, terms));
            return Answer::later(async move { ending.await.unwrap_or_else(|_| Err(away())) });
        }
        // Before the master shows it: whoever is told of it finds it.
        self.inner.hold.insert(self.name.clone(), meta, block, conditional);
        match self.inner.desk.commit(self.put, &terms) {
            Said::Now(said) => Answer::Now(self.committed(Ok(said), conditional)),
            // It comes to its end even if whoever asked has left.
            Said::Later(later) => {
                let ending = tokio::spawn(async move { self.committed(later.await, conditional) });
                Answer::later(async move { ending.await.unwrap_or_else(|_| Err(away())) })
            }
        }
    }
}

impl Filling {
    /// Sends it to the node where it is to be, and lets it show there.
    async fn pass_on(self, node: Number, parcel: Parcel, terms: Terms) -> Result<Written, Refusal> {
        let (desk, conditional) = (self.inner.desk.clone(), parcel.conditional);
        let sent = match &self.inner.peers {
            Some(peers) => peers.send(node, parcel).await,
            None => Sent::Refused("this node cannot pass values on".to_owned()),
        };
        let placed = match sent {
            Sent::Placed(placed) => placed,
            Sent::Refused(why) => {
                desk.revoke(self.put);
                return Err(Refusal::new(Code::Busy, why));
            }
            Sent::Silent(why) => {
                // It may be there: its bytes are free when that node says so.
                desk.abandon(self.put);
                return Err(Refusal::new(Code::Unavailable, why));
            }
        };
        let (verdict, written) = match desk.commit(self.put, &terms).wait().await {
            // It is not asked to drop what was there: the node that has it is.
            Ok(Ok(Committed::Stored(_) | Committed::Replaced { .. })) => {
                (Verdict::Shown, Ok(Written::Stored))
            }
            Ok(Ok(Committed::Overtaken)) => (Verdict::NotShown, Ok(Written::Stored)),
            Ok(Ok(Committed::Unchanged)) => (Verdict::NotShown, Ok(Written::Unchanged)),
            Ok(Err(error)) => (Verdict::Unknown, Err(too_late(&error))),
            // That node finds out what became of it.
            Err(Away) => return Err(away()),
        };
        self.inner.counts.sent.fetch_add(1, Ordering::Relaxed);
        let heard = placed.settle(verdict);
        // Until that node knows that the condition held, another master would not learn of it.
        if conditional && verdict == Verdict::Shown && !heard.await {
            return Err(away());
        }
        written
    }

    /// What became of it; from here on nothing is left to be undone.
    fn committed(
        &self,
        said: Result<Result<Committed, master::Error>, Away>,
        conditional: bool,
    ) -> Result<Written, Refusal> {
        let hold = &self.inner.hold;
        let version = self.put.version();
        let written = match said {
            Ok(Ok(stored @ (Committed::Stored(_) | Committed::Replaced { .. }))) => {
                if conditional {
                    hold.trust(version);
                }
                if let Committed::Replaced { old, .. } = stored {
                    hold.drop_copy(old);
                }
                Ok(Written::Stored)
            }
            Ok(Ok(Committed::Overtaken)) => {
                self.inner.disown(&self.name, version);
                Ok(Written::Stored)
            }
            Ok(Ok(Committed::Unchanged)) => {
                self.inner.disown(&self.name, version);
                Ok(Written::Unchanged)
            }
            Ok(Err(error)) => {
                self.inner.disown(&self.name, version);
                Err(too_late(&error))
            }
            // Whether it was taken will show when everything is told again.
            Err(Away) => Err(away()),
        };
        self.inner.end_staging(version);
        written
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.elsewhere.is_some() {
            if !self.passed {
                self.inner.desk.revoke(self.put);
            }
            return;
        }
        let Some(room) = self.room.take() else {
            // It was committed; or there never was room, and nothing was written.
            if self.inner.hold.is_writing(self.put.version()) {
                self.give_up();
            }
            return;
        };
        drop(room);
        self.give_up();
    }
}

impl Filling {
    fn give_up(&self) {
        let version = self.put.version();
        if self.inner.hold.end(version) {
            self.inner.hold.released(version);
        } else {
            self.inner.desk.revoke(self.put);
        }
    }
}

/// A block as the master knows it.
fn block_of(block: contract::Block) -> Block {
    Block { hash: wide(block.prefix), parent: block.parent.map(wide), tokens: block.tokens }
}

/// A hash of eight bytes in the room of thirty-two, little-endian.
fn wide(hash: u64) -> [u8; 32] {
    let mut wide = [0; 32];
    wide[..8].copy_from_slice(&hash.to_le_bytes());
    wide
}
