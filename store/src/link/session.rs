//! One node at its master: what it asks is answered in its order, and it is woken when there is something for it.
//!
//! One task a connection: it reads, does everything that has arrived, and writes all answers at once. While a node does not take
//! its answers nothing of it is read, so nothing piles up.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::ask::{Ask, Promised};
use super::book::Place;
use super::codec::{Broken, Names, Reader, Wire, Writer};
use super::frame::{Head, Kind, LONGEST, broken, frame, within_time};
use super::server::{Office, Seat};
use crate::master::name::{Millis, Node, Tenant};
use crate::master::options::MAX_NODES;
use crate::master::{Order, Staging};
use crate::node::desk::{Desk, Local, Promise, Rung, Said};

/// Answers that are written at once.
const AT_ONCE: usize = 1 << 20;
/// Orders in one answer, in bytes or so.
const ORDERS: usize = 1 << 20;
/// Keys that one page of a scan begins with at most.
const PAGE: u64 = 10_000;
/// Promises that a node may keep at a time: one a waiting request.
const PROMISES: usize = 1 << 20;
/// What is read at a time.
const READ: usize = 64 << 10;

/// A conversation with one node.
struct Session<'a> {
    office: &'a Arc<Office>,
    names: Named<'a>,
    /// As whom it joined.
    joined: Option<(String, Node, Arc<Seat>)>,
    rung: Option<watch::Receiver<Rung>>,
    /// How often it had rung for orders when that was told.
    told: u64,
    /// Orders that were taken from the master and did not fit into an answer.
    orders: VecDeque<Order>,
    promises: HashMap<u64, Promise>,
    next_promise: u64,
    /// Why it ended, once it has.
    why: String,
    /// Nodes of which it wants to hear that something became free, and those where it did.
    waits: HashSet<Node>,
    listening: JoinSet<()>,
    free: mpsc::UnboundedSender<Node>,
}

/// Names as the master has them.
struct Named<'a>(&'a Local);

/// Talks with one node until either side ends.
pub(super) async fn converse(stream: TcpStream, office: &Arc<Office>) {
    // At most one for each node that there is.
    let (free, freed) = mpsc::unbounded_channel();
    let mut session = Session {
        office,
        names: Named(&office.desk),
        joined: None,
        rung: None,
        told: u64::MAX,
        orders: VecDeque::new(),
        promises: HashMap::new(),
        next_promise: 1,
        why: String::new(),
        waits: HashSet::new(),
        listening: JoinSet::new(),
        free,
    };
    if let Err(error) = session.run(stream, freed).await {
        tracing::debug!(%error, node = session.joined.as_ref().map(|joined| &*joined.0), "a session with a node ended");
        session.why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
            _ => error.to_string(),
        };
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some((id, node, seat)) = self.joined.take() {
            self.office.stand_up(&id, node, &seat, &self.why);
        }
    }
}

impl Session<'_> {
    async fn run(
        &mut self,
        mut stream: TcpStream,
        mut freed: mpsc::UnboundedReceiver<Node>,
    ) -> io::Result<()> {
        let settings = &self.office.settings;
        let silence = settings.silence;
        let mut beat = interval(settings.beat);
        let mut book = self.office.book.follow();
        book.mark_changed();
        let (mut input, mut out) = (BytesMut::new(), Vec::new());
        let mut heard = Instant::now();
        loop {
            input.reserve(READ);
            let left = self.joined.as_ref().map(|joined| joined.2.clone());
            tokio::select! {
                biased;
                () = gone(left.as_deref()) => return Err(io::Error::other("another session speaks for this node")),
                read = stream.read_buf(&mut input) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    heard = Instant::now();
                }
                told = rung(&mut self.rung, self.told) => {
                    self.told = told;
                    frame(&mut out, Kind::Orders, 0, &self.names, |_| ());
                }
                Some(node) = freed.recv() => {
                    self.waits.remove(&node);
                    frame(&mut out, Kind::Space, 0, &self.names, |to| to.add(&node));
                }
                // The book outlives its readers.
                _ = book.changed(), if self.joined.is_some() => {
                    let all = book.borrow_and_update().clone();
                    frame(&mut out, Kind::Book, 0, &self.names, |to| to.add(&pages(&all)));
                }
                _ = beat.tick() => {
                    if heard.elapsed() >= silence {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the node is silent"));
                    }
                    let evicted = self.office.desk.evicted();
                    frame(&mut out, Kind::Beat, 0, &self.names, |to| to.add(&evicted));
                }
            }
            loop {
                let more = self.answer_all(&mut input, &mut out)?;
                // What was done while this process may no longer have led is not said.
                if self.office.left().is_zero() {
                    return Err(io::Error::other("this master leads no longer"));
                }
                within_time(silence, stream.write_all(&out)).await?;
                out.clear();
                out.shrink_to(AT_ONCE);
                if !more {
                    break;
                }
            }
        }
    }

    /// Answers what has arrived; whether more has than was answered.
    fn answer_all(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> io::Result<bool> {
        let names = Named(&self.office.desk);
        while out.len() < AT_ONCE {
            let Some((head, body)) = Head::split(input, LONGEST).map_err(broken)? else { return Ok(false) };
            match head.kind {
                Kind::Ask => {
                    let mut reader = Reader::new(body, &names);
                    let ask: Ask<'_> = reader.take().map_err(broken)?;
                    reader.end().map_err(broken)?;
                    self.answer(head.id, ask, out)?;
                }
                Kind::Beat => {}
                _ => return Err(broken(Broken("a frame for somebody else"))),
            }
            input.advance(super::frame::HEAD + head.len);
        }
        Ok(true)
    }

    fn answer(&mut self, id: u64, ask: Ask<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        let begin = out.len();
        let left = self.office.left();
        if left.is_zero() {
            return Err(io::Error::other("this master leads no longer"));
        }
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        if let Ask::Join(join) = ask {
            if self.joined.is_some() {
                return Err(broken(Broken("a second node on one connection")));
            }
            let seated = self.office.seat(&join);
            let answer = seated.map(|(joined, seat)| {
                self.rung = Some(self.office.desk.bells().rung(joined.node));
                self.joined = Some((join.id, joined.node, seat));
                joined
            });
            frame(out, Kind::Answer, id, &self.names, |to| {
                to.put(&left).put(&answer);
            });
            return Ok(());
        }
        let Some((_, node, seat)) = &self.joined else {
            frame(out, Kind::No, id, &self.names, |_| ());
            return Ok(());
        };
        let (node, seat) = (*node, seat.clone());
        let names = Named(&self.office.desk);
        let mut done = Ok(());
        frame(out, Kind::Answer, id, &names, |to| {
            to.put(&left);
            done = seat.act(|| self.carry_out(node, ask, to)).unwrap_or(Err(Broken("a node that came anew")));
        });
        if id == 0 {
            out.truncate(begin);
        }
        done.map_err(broken)
    }

    /// Does what is asked, and writes what came of it.
    fn carry_out(&mut self, node: Node, ask: Ask<'_>, to: &mut Writer<'_>) -> Result<(), Broken> {
        let desk = &self.office.desk;
        match ask {
            Ask::Join(_) => return Err(Broken("a second node on one connection")),
            Ask::BeginInventory(life) => say(to, desk.begin_inventory(node, life))?,
            Ask::Inventory(life, items) => say(to, desk.inventory(node, life, items))?,
            Ask::EndInventory(life, position) => say(to, desk.end_inventory(node, life, position))?,
            Ask::Tell(life, position, news) => say(to, desk.tell(node, life, position, &news))?,
            Ask::TakeOrders(budget) => self.take_orders(node, budget, to)?,
            Ask::Pending => {
                let waits = matches!(desk.pending(node), Said::Now(true));
                to.put(&(waits || !self.orders.is_empty()));
            }
            Ask::Allocate(task, size) => {
                say::<Result<Staging, _>>(to, desk.allocate(task, node, size))?;
            }
            Ask::Promoted(task) => say(to, desk.promoted(task, node))?,
            Ask::Failed(task, error) => say(to, desk.failed(task, node, &error))?,
            Ask::Reckons(name, version) => say(to, desk.reckons_with(node, &name, version))?,
            Ask::Get(tenant, keys) => say(to, desk.get_many(tenant, &keys))?,
            Ask::Glance(tenant, keys) => say(to, desk.glance(tenant, &keys))?,
            Ask::Reserve(put) => say(to, desk.reserve(&put))?,
            Ask::Commit(put, terms) => say(to, desk.commit(put, &terms))?,
            Ask::Revoke(put) => desk.revoke(put),
            Ask::Abandon(put) => desk.abandon(put),
            Ask::ForgetTicket(ticket) => desk.forget_ticket(ticket),
            Ask::MakeRoom(bytes) => desk.make_room(node, bytes),
            Ask::Freed(node) => self.listen(node)?,
            Ask::Remove(tenant, keys) => say(to, desk.remove(tenant, &keys))?,
            Ask::RemovePrefix(tenant, prefix, cursor) => say(to, desk.remove_prefix(tenant, prefix, cursor))?,
            Ask::Scan(tenant, cursor, most) => say(to, desk.scan(tenant, cursor, most.min(PAGE) as usize))?,
            Ask::Count(tenant) => say(to, desk.count(tenant))?,
            Ask::Warm(tenant, keys, deadline) => {
                let warmed = desk.warm(tenant, &keys, deadline);
                self.promise(warmed, to)?;
            }
            Ask::WarmBlocks(prefixes, deadline) => {
                let warmed = desk.warm_blocks(&prefixes, deadline);
                self.promise(warmed, to)?;
            }
            Ask::Cool(promise) => drop(self.promises.remove(&promise)),
        }
        Ok(())
    }

    /// As many as fit into an answer; the others wait here, and are lost with the session as an answer would be.
    fn take_orders(&mut self, node: Node, budget: u64, to: &mut Writer<'_>) -> Result<(), Broken> {
        if self.orders.is_empty() {
            self.orders.extend(now(self.office.desk.take_orders(node, budget))?);
        }
        let mut bytes = 0;
        let fit = self.orders.iter().take_while(|order| {
            bytes += 128 + key_of(order).len();
            bytes <= ORDERS
        });
        let fit = fit.count();
        let taken: Vec<Order> = self.orders.drain(..fit).collect();
        to.put(&taken);
        Ok(())
    }

    fn promise(&mut self, warmed: Said<(Promise, usize, usize)>, to: &mut Writer<'_>) -> Result<(), Broken> {
        let (promise, known, pending) = now(warmed)?;
        let mut number = 0;
        if pending > 0 && self.promises.len() < PROMISES {
            number = self.next_promise;
            self.next_promise += 1;
            self.promises.insert(number, promise);
        }
        let promised: Promised = (number, known as u64, pending as u64);
        to.put(&promised);
        Ok(())
    }

    /// Tells it once when something becomes free there.
    fn listen(&mut self, node: Node) -> Result<(), Broken> {
        if usize::from(node.number()) >= MAX_NODES {
            return Err(Broken("the number of a node"));
        }
        while self.listening.try_join_next().is_some() {}
        if self.waits.insert(node) {
            let (freed, free) = (self.office.desk.bells().freed(node), self.free.clone());
            self.listening.spawn(async move {
                freed.await;
                let _ = free.send(node);
            });
        }
        Ok(())
    }
}

/// Writes what the master said.
fn say<'a, T: Wire<'a>>(to: &mut Writer<'_>, said: Said<T>) -> Result<(), Broken> {
    to.put(&now(said)?);
    Ok(())
}

/// What a master in this process said: it never waits.
fn now<T>(said: Said<T>) -> Result<T, Broken> {
    match said {
        Said::Now(said) => Ok(said),
        Said::Later(_) => Err(Broken("a master")),
    }
}

fn key_of(order: &Order) -> &[u8] {
    match order {
        Order::Drop { name, .. } | Order::CancelPut { name, .. } | Order::CancelTask { name, .. } => {
            &name.key
        }
        Order::Offload(copying) | Order::Promote(_, copying) => &copying.name.key,
    }
}

async fn gone(seat: Option<&Seat>) {
    match seat {
        Some(seat) => seat.left.notified().await,
        None => std::future::pending().await,
    }
}

/// How often it rang for orders, once that is not what was told.
async fn rung(rung: &mut Option<watch::Receiver<Rung>>, told: u64) -> u64 {
    match rung {
        // The bells outlive whoever listens.
        Some(rung) => rung.wait_for(|now| now.orders != told).await.map_or(told, |now| now.orders),
        None => std::future::pending().await,
    }
}

/// Who is where, as it is written.
fn pages(all: &BTreeMap<Node, Place>) -> Vec<(Node, String, String)> {
    all.iter().map(|(node, place)| (*node, place.id.clone(), place.address.clone())).collect()
}

// === impl Named ===

impl Names for Named<'_> {
    fn now(&self) -> Millis {
        self.0.clock().now()
    }

    fn name(&self, tenant: Tenant) -> Arc<str> {
        self.0.name(tenant)
    }

    fn tenant(&self, name: &str) -> Option<Tenant> {
        self.0.tenant(name).ok()
    }
}
