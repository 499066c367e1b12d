//! Frames: a length, a kind, a number that an answer repeats, and a body.
//!
//! Values are no part of a frame: a frame says how long one is, and its bytes follow raw, so that they are read to where they stay.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::codec::{Broken, Names, Reader, Wire, Writer};
use super::lead::LAST_TERM;
use super::settings::Secret;
use crate::master::name::{Millis, Tenant};

/// Bytes before a body: its length, its kind, the number.
pub const HEAD: usize = 13;
/// The longest body between a node and its master: a question about 64 Ki keys of 1 KiB, or 1,000 copies with keys of 4 KiB, are less.
pub const LONGEST: usize = 64 << 20;
/// The longest body before somebody has said who they are, and between nodes: a key, a name, what is known of an object.
pub const SHORT: usize = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first of whoever connects.
    Hello = 1,
    /// Who is welcome.
    Welcome = 2,
    /// Who is not, and where to go instead.
    Sorry = 3,
    /// A question to a master; with number 0, nobody waits for the answer.
    Ask = 4,
    /// Its answer.
    Answer = 5,
    /// There is no answer now.
    No = 6,
    /// There may be orders.
    Orders = 7,
    /// Something became free on a node.
    Space = 8,
    /// Who is where.
    Book = 9,
    /// Nothing, so that there is no silence.
    Beat = 10,
    /// A node wants bytes of another.
    Fetch = 11,
    /// Here they are: they follow.
    Bytes = 12,
    /// They are not there.
    Gone = 13,
    /// A node gives bytes to another: they follow once it is said that there is room.
    Send = 14,
    /// There is room; or, after the bytes, they are there.
    Ready = 15,
    /// They are not taken.
    Refused = 16,
    /// What becomes of them.
    Verdict = 17,
}

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the body.
    pub len: usize,
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub id: u64,
}

/// The first frame of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// To whom somebody wants to speak.
    pub to: Whom,
    /// What everybody must know.
    pub secret: &'a [u8],
    /// The last time that a master led, as far as whoever speaks has seen.
    pub seen: Reign,
}

/// One time that a master leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reign {
    /// In which term.
    pub term: u32,
    /// By chance: two that lead in the same term are told apart by that. It must not be, and happens if whoever counts terms
    /// forgets how far it had come.
    pub mark: u64,
}

/// To whom somebody wants to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// To the master that leads.
    Master,
    /// To a node.
    Node,
}

/// Why somebody is not welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sorry {
    /// This one does not lead; perhaps it is known who does.
    NotMe(Option<String>),
    /// The secret is another.
    Secret,
    /// It is no frame of ours, or of a version that is not spoken here.
    Version,
    /// Too many are there.
    Full,
    /// This master leads in a term that is over: it gives up, and begins a later one.
    Outdone,
    /// The term that somebody says to have seen cannot have been.
    Incredible,
}

/// Ours, and which version of it.
const MAGIC: [u8; 8] = *b"wlink\0\0\x01";

/// No tenant has a number here.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

// === impl Kind, impl Head ===

impl Kind {
    const ALL: [Self; 17] = [
        Self::Hello,
        Self::Welcome,
        Self::Sorry,
        Self::Ask,
        Self::Answer,
        Self::No,
        Self::Orders,
        Self::Space,
        Self::Book,
        Self::Beat,
        Self::Fetch,
        Self::Bytes,
        Self::Gone,
        Self::Send,
        Self::Ready,
        Self::Refused,
        Self::Verdict,
    ];

    fn read(byte: u8) -> Result<Self, Broken> {
        let at = usize::from(byte).checked_sub(1).ok_or(Broken("a kind of frame"))?;
        Self::ALL.get(at).copied().ok_or(Broken("a kind of frame"))
    }
}

impl Head {
    /// What a head says, if its body may be that long.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn read(bytes: [u8; HEAD], longest: usize) -> Result<Self, Broken> {
        let [a, b, c, d, kind, id @ ..] = bytes;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > longest {
            return Err(Broken("the length of a frame"));
        }
        Ok(Self { len, kind: Kind::read(kind)?, id: u64::from_le_bytes(id) })
    }

    /// The first frame of what has arrived: its head, its body, and where the next begins; `None` if it has not ended.
    ///
    /// # Errors
    /// [`Broken`], as soon as the head is there.
    pub fn split(bytes: &[u8], longest: usize) -> Result<Option<(Self, &[u8])>, Broken> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let head = Self::read(*head, longest)?;
        Ok(rest.get(..head.len).map(|body| (head, body)))
    }
}

/// Writes a frame behind what is there.
pub fn frame(out: &mut Vec<u8>, kind: Kind, id: u64, names: &dyn Names, body: impl FnOnce(&mut Writer<'_>)) {
    let begin = out.len();
    out.extend([0; 4]);
    out.push(kind as u8);
    out.extend(id.to_le_bytes());
    body(&mut Writer::new(out, names));
    let len = (out.len() - begin - HEAD) as u32;
    out[begin..begin + 4].copy_from_slice(&len.to_le_bytes());
}

// === Hello ===

impl<'a> Wire<'a> for Hello<'a> {
    fn write(&self, to: &mut Writer<'_>) {
        let whom: u8 = match self.to {
            Whom::Master => 0,
            Whom::Node => 1,
        };
        to.put(&u64::from_le_bytes(MAGIC)).put(&whom).put(&self.secret).put(&self.seen);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        if from.take::<u64>()?.to_le_bytes() != MAGIC {
            return Err(Broken("a greeting"));
        }
        let to = match from.take::<u8>()? {
            0 => Whom::Master,
            1 => Whom::Node,
            _ => return Err(Broken("somebody to speak to")),
        };
        Ok(Self { to, secret: from.take()?, seen: from.take()? })
    }
}

impl<'a> Wire<'a> for Reign {
    fn write(&self, to: &mut Writer<'_>) {
        to.put(&self.term).put(&self.mark);
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        let (term, mark) = (from.take()?, from.take()?);
        if term > LAST_TERM { Err(Broken("a term")) } else { Ok(Self { term, mark }) }
    }
}

impl Reign {
    /// Whether this one is over for whoever has seen the other.
    pub fn is_outdone_by(&self, seen: &Self) -> bool {
        self.term < seen.term || self.term == seen.term && self.mark != seen.mark
    }
}

impl<'a> Wire<'a> for Sorry {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::NotMe(who) => to.put(&0_u8).put(who),
            Self::Secret => to.put(&1_u8),
            Self::Version => to.put(&2_u8),
            Self::Full => to.put(&3_u8),
            Self::Outdone => to.put(&4_u8),
            Self::Incredible => to.put(&5_u8),
        };
    }

    fn read(from: &mut Reader<'a>) -> Result<Self, Broken> {
        match from.take::<u8>()? {
            0 => from.take().map(Self::NotMe),
            1 => Ok(Self::Secret),
            2 => Ok(Self::Version),
            3 => Ok(Self::Full),
            4 => Ok(Self::Outdone),
            5 => Ok(Self::Incredible),
            _ => Err(Broken("an excuse")),
        }
    }
}

impl Sorry {
    /// The same, said of them where they came to.
    pub(super) fn of_them(&self) -> &'static str {
        match self {
            Self::Secret => "they came without the secret; set the same `secret_file` everywhere",
            _ => "that is no greeting, or for another role, or of another version",
        }
    }
}

impl std::fmt::Display for Sorry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotMe(_) => "it does not lead",
            Self::Secret => "its secret is another one: set the same `secret_file` everywhere",
            Self::Version => "it plays another role there, or speaks another version",
            Self::Full => "too many are connected to it",
            Self::Outdone => "there was a later term than its own: it begins anew",
            Self::Incredible => {
                "it does not believe the term that this node has seen: its clock is wrong, or another store's master was \
                 found before; restarted, this node has seen none"
            }
        })
    }
}

impl Names for NoNames {
    fn now(&self) -> Millis {
        Millis(0)
    }

    fn name(&self, _: Tenant) -> Arc<str> {
        "".into()
    }

    fn tenant(&self, _: &str) -> Option<Tenant> {
        None
    }
}

// === One frame at a time, on a connection that nobody else uses ===

/// Reads a short frame, that must come within that time.
///
/// # Errors
/// What the socket says; `InvalidData` for what makes no sense, `TimedOut`.
pub async fn read(stream: &mut TcpStream, within: Duration) -> io::Result<(Head, Vec<u8>)> {
    within_time(within, async {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await?;
        let head = Head::read(head, SHORT).map_err(broken)?;
        let mut body = vec![0; head.len];
        stream.read_exact(&mut body).await?;
        Ok((head, body))
    })
    .await
}

/// Writes a frame, that must be taken within that time.
///
/// # Errors
/// What the socket says, or `TimedOut`.
pub async fn write(
    stream: &mut TcpStream,
    kind: Kind,
    within: Duration,
    body: impl FnOnce(&mut Writer<'_>),
) -> io::Result<()> {
    let mut out = Vec::new();
    frame(&mut out, kind, 0, &NoNames, body);
    within_time(within, stream.write_all(&out)).await
}

/// Reads a body that must be nothing else.
///
/// # Errors
/// `InvalidData`.
pub fn body<'a, T: Wire<'a>>(bytes: &'a [u8]) -> io::Result<T> {
    let mut reader = Reader::new(bytes, &NoNames);
    let body = reader.take().map_err(broken)?;
    reader.end().map_err(broken)?;
    Ok(body)
}

/// What comes within that time, or `TimedOut`.
///
/// # Errors
/// As what is waited for.
pub async fn within_time<T>(within: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(within, io).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// As an error of a socket.
pub fn broken(broken: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, broken)
}

/// Connects and says hello; what the other says then.
///
/// # Errors
/// What the socket says; `PermissionDenied` if this one is not welcome, with the reason.
pub async fn greet(
    address: &str,
    hello: &Hello<'_>,
    within: Duration,
) -> io::Result<(TcpStream, Result<Vec<u8>, Sorry>)> {
    let mut stream = within_time(within, TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    write(&mut stream, Kind::Hello, within, |to| to.add(hello)).await?;
    let (head, said) = read(&mut stream, within).await?;
    match head.kind {
        Kind::Welcome => Ok((stream, Ok(said))),
        Kind::Sorry => Ok((stream, Err(body(&said)?))),
        _ => Err(broken(Broken("a greeting"))),
    }
}

/// Reads the hello of somebody who connected, and what they have seen; or why they are not welcome, as they were told.
///
/// # Errors
/// What the socket says.
pub async fn greeted(
    stream: &mut TcpStream,
    whom: Whom,
    secret: &Secret,
    within: Duration,
) -> io::Result<Result<Reign, Sorry>> {
    stream.set_nodelay(true)?;
    let (head, said) = read(stream, within).await?;
    let sorry = match body::<Hello<'_>>(&said) {
        Ok(hello) if head.kind == Kind::Hello && hello.to == whom => {
            if secret.is(hello.secret) {
                return Ok(Ok(hello.seen));
            }
            Sorry::Secret
        }
        Ok(_) | Err(_) => Sorry::Version,
    };
    write(stream, Kind::Sorry, within, |to| to.add(&sorry)).await?;
    Ok(Err(sorry))
}
