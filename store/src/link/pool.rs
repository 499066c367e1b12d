//! What a node asks of other nodes, over connections that are kept for the next time.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::book::{Book, Place};
use super::codec::{Broken, Writer};
use super::frame::{self, Hello, Kind, Reign, Whom, broken, within_time};
use super::peer::{Fetch, Send, give};
use super::settings::Settings;
use crate::arena::{Block, Filling};
use crate::master::name::Node;
use crate::node::desk::Later;
use crate::node::peers::{Fetched, Parcel, Peers, Placed, Sent, Verdict, Which};

/// Other nodes, as a book says where they are. Clones are the same one.
#[derive(Clone)]
pub struct Net(Arc<Inside>);

struct Inside {
    book: Book,
    settings: Settings,
    ways: Mutex<HashMap<String, Arc<Way>>>,
}

/// The way to one node.
struct Way {
    place: Place,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<TcpStream>>,
}

/// A connection for one transfer. Given back when it went well; else it is closed.
struct Lane {
    way: Arc<Way>,
    stream: TcpStream,
    _turn: OwnedSemaphorePermit,
}

/// Bytes that are at another node.
struct There {
    lane: Lane,
    settings: Settings,
    hands: Handle,
}

/// What went wrong with a transfer, and whether the bytes may have arrived.
enum Failed {
    Before(io::Error),
    Refused(String),
    After(io::Error),
}

// === impl Net ===

impl Net {
    /// The nodes of this book.
    pub fn new(book: Book, settings: Settings) -> Self {
        Self(Arc::new(Inside { book, settings, ways: Mutex::default() }))
    }
}

impl Inside {
    /// The way to a node; those to nodes that are elsewhere by now are forgotten.
    fn way(&self, node: Node) -> Result<Arc<Way>, String> {
        let place = self.book.find(node).filter(|place| !place.address.is_empty());
        let place = place.ok_or("it is not known where the other node is")?;
        let mut ways = self.ways.lock();
        if let Some(way) = ways.get(&place.id).filter(|way| way.place == place) {
            return Ok(way.clone());
        }
        let turns = Arc::new(Semaphore::new(self.settings.transfers.max(1)));
        let way = Arc::new(Way { place: place.clone(), turns, idle: Mutex::default() });
        ways.insert(place.id, way.clone());
        Ok(way)
    }

    /// A connection that was kept, or a new one.
    async fn lane(&self, way: &Arc<Way>, kept: bool) -> io::Result<Option<Lane>> {
        let turn = way.turns.clone().acquire_owned().await.map_err(io::Error::other)?;
        let stream = if kept {
            let Some(stream) = way.idle.lock().pop() else { return Ok(None) };
            stream
        } else {
            self.connect(&way.place).await?
        };
        Ok(Some(Lane { way: way.clone(), stream, _turn: turn }))
    }

    async fn connect(&self, place: &Place) -> io::Result<TcpStream> {
        let Settings { secret, connect, .. } = &self.settings;
        let hello = Hello { to: Whom::Node, secret: secret.bytes(), seen: Reign::default() };
        let (stream, said) = frame::greet(&place.address, &hello, *connect).await?;
        let said = said.map_err(|sorry| io::Error::other(sorry.to_string()))?;
        let id: String = frame::body(&said)?;
        if id == place.id {
            return Ok(stream);
        }
        Err(io::Error::other(format!("node {id} is there")))
    }

    async fn fetch(&self, way: &Arc<Way>, fetch: &Fetch, mut to: Filling) -> io::Result<Option<Block>> {
        for kept in [true, false] {
            let Some(mut lane) = self.lane(way, kept).await? else { continue };
            to.clear();
            match self.fetch_on(&mut lane.stream, fetch, &mut to).await {
                Ok(found) => {
                    lane.keep();
                    return if found { Ok(to.freeze().ok()) } else { Ok(None) };
                }
                // It may have been closed since it was used.
                Err(_) if kept => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::NotConnected.into())
    }

    async fn fetch_on(&self, stream: &mut TcpStream, fetch: &Fetch, to: &mut Filling) -> io::Result<bool> {
        let patience = self.settings.patience;
        frame::write(stream, Kind::Fetch, patience, |writer| writer.add(fetch)).await?;
        let (head, _) = frame::read(stream, patience).await?;
        match head.kind {
            Kind::Gone => return Ok(false),
            Kind::Bytes => {}
            _ => return Err(broken(Broken("an answer"))),
        }
        while !to.is_full() {
            let read = within_time(patience, stream.read(to.unfilled())).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.advance(read);
        }
        Ok(true)
    }

    async fn send(&self, way: &Arc<Way>, send: &Send, bytes: &[u8]) -> Result<Lane, Failed> {
        for kept in [true, false] {
            let Some(mut lane) = self.lane(way, kept).await.map_err(Failed::Before)? else { continue };
            match self.send_on(&mut lane.stream, send, bytes).await {
                Ok(()) => return Ok(lane),
                // It may have been closed since it was used.
                Err(Failed::Before(_)) if kept => {}
                Err(Failed::Refused(why)) => {
                    lane.keep();
                    return Err(Failed::Refused(why));
                }
                Err(failed) => return Err(failed),
            }
        }
        Err(Failed::Before(io::ErrorKind::NotConnected.into()))
    }

    async fn send_on(&self, stream: &mut TcpStream, send: &Send, bytes: &[u8]) -> Result<(), Failed> {
        let patience = self.settings.patience;
        let asked = frame::write(stream, Kind::Send, patience, |to| to.add(send)).await;
        asked.map_err(Failed::Before)?;
        // It may have to make room.
        let (head, body) = frame::read(stream, patience).await.map_err(Failed::Before)?;
        match head.kind {
            Kind::Ready => {}
            Kind::Refused => return Err(Failed::Refused(frame::body(&body).map_err(Failed::Before)?)),
            _ => return Err(Failed::Before(broken(Broken("an answer")))),
        }
        give(stream, bytes, patience).await.map_err(Failed::After)?;
        let (head, _) = frame::read(stream, patience).await.map_err(Failed::After)?;
        if head.kind == Kind::Ready { Ok(()) } else { Err(Failed::After(broken(Broken("an answer")))) }
    }
}

impl Lane {
    fn keep(self) {
        self.way.idle.lock().push(self.stream);
    }
}

impl Peers for Net {
    fn fetch(&self, node: Node, which: Which, from: u64, to: Filling) -> Later<Fetched> {
        let inside = self.0.clone();
        Box::pin(async move {
            let way = match inside.way(node) {
                Ok(way) => way,
                Err(why) => return Fetched::Silent(why),
            };
            let fetch = Fetch { which, from, len: to.len() as u64 };
            match inside.fetch(&way, &fetch, to).await {
                Ok(Some(block)) => Fetched::Here(block),
                Ok(None) => Fetched::Gone,
                Err(error) => Fetched::Silent(way.silent(&error)),
            }
        })
    }

    fn send(&self, node: Node, parcel: Parcel) -> Later<Sent> {
        let inside = self.0.clone();
        Box::pin(async move {
            let way = match inside.way(node) {
                Ok(way) => way,
                Err(why) => return Sent::Refused(why),
            };
            let Parcel { which, meta, conditional, term, bytes } = parcel;
            let (meta, len) = (meta.write().into(), bytes.len() as u64);
            let send = Send { which, meta, conditional, term, len };
            match inside.send(&way, &send, bytes.as_ref()).await {
                Ok(lane) => {
                    let (settings, hands) = (inside.settings.clone(), Handle::current());
                    Sent::Placed(Box::new(There { lane, settings, hands }))
                }
                Err(Failed::Before(error)) => Sent::Refused(way.silent(&error)),
                Err(Failed::Refused(why)) => Sent::Refused(why),
                Err(Failed::After(error)) => Sent::Silent(way.silent(&error)),
            }
        })
    }
}

impl Way {
    fn silent(&self, error: &io::Error) -> String {
        let Place { id, address } = &self.place;
        format!("node {id} at {address} does not answer ({error}): ask again")
    }
}

impl Placed for There {
    fn settle(self: Box<Self>, verdict: Verdict) -> Later<bool> {
        let Self { mut lane, settings, hands } = *self;
        let tells = hands.spawn(async move {
            let write = |to: &mut Writer<'_>| to.add(&verdict);
            frame::write(&mut lane.stream, Kind::Verdict, settings.patience, write).await?;
            let (head, _) = frame::read(&mut lane.stream, settings.patience).await?;
            if head.kind != Kind::Ready {
                return Err(broken(Broken("an answer")));
            }
            lane.keep();
            Ok(())
        });
        Box::pin(async move { matches!(tells.await, Ok(Ok(()))) })
    }
}
