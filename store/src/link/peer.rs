//! A node's side towards other nodes: it lends them bytes of its copies, and takes what they put or promote into its memory.
//!
//! One transfer at a time on a connection: bytes go from the socket to where they stay, and from where they are to the socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::codec::{Broken, Reader, Wire, Writer};
use super::frame::{self, Kind, NoNames, Sorry, Whom, broken, within_time};
use super::settings::Settings;
use crate::master::name::Version;
use crate::node::Node;
use crate::node::meta::Meta;
use crate::node::peers::{Verdict, Which};

/// Serves other nodes.
pub struct PeerServer {
    node: Node,
    settings: Settings,
    connected: AtomicUsize,
}

/// What another node wants to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Of which copy.
    pub which: Which,
    /// From where.
    pub from: u64,
    /// How much.
    pub len: u64,
}

/// What another node wants to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Send {
    /// Of which object.
    pub which: Which,
    /// What is known of it besides, as [`Meta::write`] writes it.
    pub meta: Box<[u8]>,
    /// Whether it shows only if a condition holds.
    pub conditional: bool,
    /// Under which master.
    pub term: u32,
    /// How much.
    pub len: u64,
}

/// How long a connection of another node may do nothing.
const IDLE: Duration = Duration::from_mins(5);
/// How long it may take a node to hear from the master what becomes of its bytes.
const VERDICT: Duration = Duration::from_mins(1);
/// What a socket must take within the patience of the settings.
const CHUNK: usize = 256 << 10;
/// Values up to this go out in one piece with what stands before them.
const SMALL: usize = 16 << 10;
/// What a failed accept waits.
const BREATH: Duration = Duration::from_millis(50);

// === impl PeerServer ===

impl PeerServer {
    /// Serves other nodes for this one.
    pub fn new(node: Node, settings: Settings) -> Self {
        Self { node, settings, connected: AtomicUsize::new(0) }
    }

    /// Serves until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let this = Arc::new(self);
        let mut guests = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let this = this.clone();
                        guests.spawn(async move { this.welcome(stream).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection of another node could not be accepted");
                        tokio::time::sleep(BREATH).await;
                    }
                },
                Some(_) = guests.join_next() => {}
            }
        }
        guests.shutdown().await;
    }

    async fn welcome(&self, mut stream: TcpStream) {
        let before = self.connected.fetch_add(1, Ordering::Relaxed);
        let served = self.serve_one(&mut stream, before < self.settings.connections).await;
        self.connected.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = served {
            tracing::debug!(%error, "a connection of another node ended");
        }
    }

    async fn serve_one(&self, stream: &mut TcpStream, fits: bool) -> io::Result<()> {
        let patience = self.settings.patience;
        if !fits {
            return frame::write(stream, Kind::Sorry, patience, |to| to.add(&Sorry::Full)).await;
        }
        if let Err(sorry) = frame::greeted(stream, Whom::Node, &self.settings.secret, patience).await? {
            let from = stream.peer_addr()?;
            tracing::warn!(%from, "somebody came as another node and was sent away: {}", sorry.of_them());
            return Ok(());
        }
        let id = self.node.look().id;
        frame::write(stream, Kind::Welcome, patience, |to| to.add(&id)).await?;
        loop {
            let (head, body) = frame::read(stream, IDLE).await?;
            match head.kind {
                Kind::Fetch => self.lend(stream, &frame::body(&body)?).await?,
                Kind::Send => self.take(stream, frame::body(&body)?).await?,
                _ => return Err(broken(Broken("a frame for somebody else"))),
            }
        }
    }

    async fn lend(&self, stream: &mut TcpStream, fetch: &Fetch) -> io::Result<()> {
        let patience = self.settings.patience;
        // They are held until the last of them is sent.
        let Some(bytes) = self.node.lend(&fetch.which, fetch.from, fetch.len).await else {
            return frame::write(stream, Kind::Gone, patience, |_| ()).await;
        };
        let mut head = Vec::new();
        frame::frame(&mut head, Kind::Bytes, 0, &NoNames, |_| ());
        if bytes.len() <= SMALL {
            head.extend_from_slice(&bytes);
            return within_time(patience, stream.write_all(&head)).await;
        }
        within_time(patience, stream.write_all(&head)).await?;
        give(stream, &bytes, patience).await
    }

    async fn take(&self, stream: &mut TcpStream, send: Send) -> io::Result<()> {
        let patience = self.settings.patience;
        let meta = Meta::read(&send.meta).ok_or_else(|| broken(Broken("what is known of an object")))?;
        let later = self.node.desk().term();
        let taken = if send.term < later {
            Err(format!("it is of term {}, and there is term {later} by now", send.term))
        } else if meta.version == send.which.version {
            self.node.take_in(&send.which, meta, send.conditional, send.len).await
        } else {
            Err("it is of two versions".to_owned())
        };
        let mut arriving = match taken {
            Ok(arriving) => arriving,
            Err(why) => return frame::write(stream, Kind::Refused, patience, |to| to.add(&why)).await,
        };
        frame::write(stream, Kind::Ready, patience, |_| ()).await?;
        while !arriving.space().is_empty() {
            let read = within_time(patience, stream.read(arriving.space())).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            arriving.advance(read);
        }
        let arrived = arriving.whole().ok_or_else(|| broken(Broken("a value")))?;
        // From here on it is found out what becomes of it, even if nobody says so: see `Arrived`.
        frame::write(stream, Kind::Ready, patience, |_| ()).await?;
        let (head, body) = frame::read(stream, VERDICT).await?;
        if head.kind != Kind::Verdict {
            return Err(broken(Broken("a verdict")));
        }
        arrived.settle(frame::body(&body)?);
        frame::write(stream, Kind::Ready, patience, |_| ()).await
    }
}

/// Writes bytes, each part of which must be taken within that time.
pub(super) async fn give(stream: &mut TcpStream, bytes: &[u8], patience: Duration) -> io::Result<()> {
    for part in bytes.chunks(CHUNK) {
        within_time(patience, stream.write_all(part)).await?;
    }
    Ok(())
}

// === What they say ===

impl<'a> Wire<'a> for Which {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.tenant).put(&self.key).put(&self.version);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(Self { tenant: from.take()?, key: from.take()?, version: from.take::<Version>()? })
    }
}

impl<'a> Wire<'a> for Fetch {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.which).put(&self.from).put(&self.len);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(Self { which: from.take()?, from: from.take()?, len: from.take()? })
    }
}

impl<'a> Wire<'a> for Send {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.which).put(&self.meta).put(&self.conditional).put(&self.term).put(&self.len);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        Ok(Self {
            which: from.take()?,
            meta: from.take()?,
            conditional: from.take()?,
            term: from.take()?,
            len: from.take()?,
        })
    }
}

impl<'a> Wire<'a> for Verdict {
    fn write(&self, to: &mut Writer<'_>) {
        let verdict: u8 = match self {
            Self::Shown => 0,
            Self::NotShown => 1,
            Self::Unknown => 2,
        };
        to.put(&verdict);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        match from.take::<u8>()? {
            0 => Ok(Self::Shown),
            1 => Ok(Self::NotShown),
            2 => Ok(Self::Unknown),
            _ => Err(Broken("a verdict")),
        }
    }
}
