//! A client of a node: one connection, typed results, and an outcome for each item of a batch.
//!
//! Batches are sent without waiting for answers, and answers are taken while the rest is still being sent, so neither side
//! ever waits for the other. A call that fails midway, runs out of time, or is dropped before its end leaves the connection
//! out of step: every later call says [`Error::Broken`], and the caller connects again.

mod reply;

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use crate::resp::contract::{Block, Life, Look, Only, Page, Put, Wanted, Written};
use crate::resp::refusal::Refusal;

pub use reply::{Decoder, Head, Malformed, Reply};

/// What of a value is copied next to its command: cheaper than a slice of its own.
const COPIED: usize = 8 << 10;
/// Commands that are collected before they are sent.
const COLLECTED: usize = 64 << 10;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tenant and its key, where keys are needed.
    pub key: Option<(String, String)>,
    /// How long a call may take in all.
    pub patience: Duration,
    /// The largest answer that is taken.
    pub largest: usize,
}

/// One connection to a node.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    inbox: Inbox,
    options: Options,
    /// Whether a call is under way, or was and did not come to its end.
    midway: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node refused; the connection goes on.
    #[error("the node refused: {0}")]
    Refused(#[from] Refusal),
    /// The connection failed. Whether a write was carried out is not known.
    #[error("the connection to the node failed")]
    Io(#[from] io::Error),
    /// No answer in time. Whether a write was carried out is not known.
    #[error("the node did not answer in time")]
    TimedOut,
    /// That was no answer to what was asked.
    #[error("the node does not speak the protocol: {0}")]
    Protocol(#[from] Malformed),
    /// An earlier call did not come to its end: connect again.
    #[error("an earlier call on this connection did not come to its end; connect again")]
    Broken,
}

/// What an item of a batch came to.
pub type Outcome<T> = Result<T, Refusal>;

/// One write of a batch.
#[derive(Clone, Debug)]
pub struct Write {
    /// Under which key.
    pub key: Bytes,
    /// What.
    pub value: Bytes,
    /// On what condition, and for how long.
    pub put: Put,
}

impl Default for Options {
    fn default() -> Self {
        Self { key: None, patience: Duration::from_secs(30), largest: 512 << 20 }
    }
}

// === impl Client ===

impl Client {
    /// Connects, and says who it is.
    ///
    /// # Errors
    /// [`Error::Refused`] if the key opens nothing.
    pub async fn connect(address: &str, options: Options) -> Result<Self, Error> {
        let patience = options.patience;
        let stream = timeout(patience, TcpStream::connect(address)).await.map_err(|_| Error::TimedOut)??;
        stream.set_nodelay(true)?;
        let inbox = Inbox { decoder: Decoder::default(), bytes: BytesMut::new(), largest: options.largest };
        let key = options.key.clone();
        let mut client = Self { stream, inbox, options, midway: false };
        if let Some((tenant, key)) = key {
            client.one(&[b"AUTH", tenant.as_bytes(), key.as_bytes()]).await?.ok()?;
        }
        Ok(client)
    }

    /// The value of a key; `None` if there is no such key.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.one(&[b"GET", key]).await?.bytes()?)
    }

    /// Reads the value of a key into memory of the caller, without a copy between; its length. What is longer than `place`
    /// breaks the connection, so ask for the length first where it is not known.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn get_into(&mut self, key: &[u8], place: &mut [u8]) -> Result<Option<usize>, Error> {
        let command = encode(&[b"GET", key]);
        self.within(async |stream, inbox| {
            stream.write_all(&command).await?;
            let (mut reads, _) = stream.split();
            inbox.fill(&mut reads, place).await
        })
        .await
    }

    /// A part of a value, both ends included, negative ones from the end; `None` if there is no such key.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn get_range(&mut self, key: &[u8], from: i64, to: i64) -> Result<Option<Bytes>, Error> {
        let (from, to) = (from.to_string(), to.to_string());
        let mut batch = Batch::default();
        batch.command(&[b"EXISTS", key]);
        batch.command(&[b"GETRANGE", key, from.as_bytes(), to.as_bytes()]);
        let mut replies = self.send(batch).await?.into_iter();
        let (there, part) = (next(&mut replies)?.number()?, next(&mut replies)?.bytes()?);
        Ok(part.filter(|part| there > 0 || !part.is_empty()))
    }

    /// The values of many keys, each for itself.
    ///
    /// # Errors
    /// As [`Error`] says, where no item has an answer.
    pub async fn get_many(&mut self, keys: &[&[u8]]) -> Result<Vec<Outcome<Option<Bytes>>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut words: Vec<&[u8]> = Vec::with_capacity(keys.len() + 1);
        words.push(b"MGET");
        words.extend(keys);
        let values = self.one(&words).await?.list()?;
        if values.len() != keys.len() {
            return Err(Malformed("a list of another length than was asked for").into());
        }
        values.into_iter().map(|value| item(value, Reply::bytes)).collect()
    }

    /// Writes a value.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn set(&mut self, key: &[u8], value: Bytes, put: Put) -> Result<Written, Error> {
        let write = Write { key: Bytes::copy_from_slice(key), value, put };
        let outcomes = self.set_many(vec![write]).await?;
        let outcome = outcomes.into_iter().next().ok_or(Malformed("no answer"))?;
        Ok(outcome?)
    }

    /// Writes many values, each for itself.
    ///
    /// # Errors
    /// As [`Error`] says, where no item has an answer.
    pub async fn set_many(&mut self, writes: Vec<Write>) -> Result<Vec<Outcome<Written>>, Error> {
        let mut batch = Batch::default();
        for write in writes {
            batch.set(write);
        }
        self.each(batch, |reply| match reply {
            Reply::Null => Ok(Written::Unchanged),
            other => other.ok().map(|()| Written::Stored),
        })
        .await
    }

    /// Which of the keys are there.
    ///
    /// # Errors
    /// As [`Error`] says, where no item has an answer.
    pub async fn exist(&mut self, keys: &[&[u8]]) -> Result<Vec<Outcome<bool>>, Error> {
        self.each(Batch::of(b"EXISTS", keys), |reply| Ok(reply.number()? > 0)).await
    }

    /// Removes keys; which of them were there.
    ///
    /// # Errors
    /// As [`Error`] says, where no item has an answer.
    pub async fn remove(&mut self, keys: &[&[u8]]) -> Result<Vec<Outcome<bool>>, Error> {
        self.each(Batch::of(b"DEL", keys), |reply| Ok(reply.number()? > 0)).await
    }

    /// Length and life of a key; `None` if there is no such key.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn look(&mut self, key: &[u8]) -> Result<Option<Look>, Error> {
        let mut batch = Batch::default();
        batch.command(&[b"PTTL", key]);
        batch.command(&[b"STRLEN", key]);
        let mut replies = self.send(batch).await?.into_iter();
        let (life, len) = (next(&mut replies)?.number()?, next(&mut replies)?.number()?);
        let life = match life {
            -2 => return Ok(None),
            life => u64::try_from(life).ok().map(Duration::from_millis),
        };
        Ok(Some(Look { len: len.unsigned_abs(), life }))
    }

    /// Some keys from a cursor on; zero begins, and a page that says zero was the last.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn scan(&mut self, cursor: u64, count: usize, pattern: Option<&[u8]>) -> Result<Page, Error> {
        let (cursor, count) = (cursor.to_string(), count.to_string());
        let mut words: Vec<&[u8]> = vec![b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()];
        if let Some(pattern) = pattern {
            words.extend([b"MATCH".as_slice(), pattern]);
        }
        let mut replies = self.one(&words).await?.list()?.into_iter();
        let cursor = next(&mut replies)?.bytes()?.unwrap_or_default();
        let cursor = std::str::from_utf8(&cursor).ok().and_then(|cursor| cursor.parse().ok());
        let keys = next(&mut replies)?.list()?.into_iter().map(Reply::bytes);
        let keys: Result<Vec<_>, Failed> = keys.collect();
        Ok(Page {
            next: cursor.ok_or(Malformed("a cursor that is no number"))?,
            keys: keys?.into_iter().flatten().collect(),
        })
    }

    /// How many keys there are.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn count(&mut self) -> Result<u64, Error> {
        Ok(self.one(&[b"DBSIZE"]).await?.number()?.unsigned_abs())
    }

    /// Says what will be read within that time, under a name that [`Client::cool`] takes back; how much of it is known, and
    /// how much is on its way.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn warm(
        &mut self,
        name: &str,
        within: Duration,
        wanted: Wanted<'_>,
    ) -> Result<(u64, u64), Error> {
        let within = within.as_millis().max(1).to_string();
        let hashes: Vec<String> = match wanted {
            Wanted::Keys(_) => Vec::new(),
            Wanted::Blocks(blocks) => blocks.iter().map(|block| format!("{block:016x}")).collect(),
        };
        let mut words: Vec<&[u8]> = vec![b"WARM", name.as_bytes(), within.as_bytes()];
        match wanted {
            Wanted::Keys(keys) => {
                words.push(b"KEYS");
                words.extend(keys);
            }
            Wanted::Blocks(_) => {
                words.push(b"BLOCKS");
                words.extend(hashes.iter().map(String::as_bytes));
            }
        }
        let mut counts = self.one(&words).await?.list()?.into_iter();
        let (known, pending) = (next(&mut counts)?.number()?, next(&mut counts)?.number()?);
        Ok((known.unsigned_abs(), pending.unsigned_abs()))
    }

    /// Takes back what [`Client::warm`] said under these names; how many of them were open.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn cool(&mut self, names: &[&str]) -> Result<u64, Error> {
        if names.is_empty() {
            return Ok(0);
        }
        let words: Vec<&[u8]> =
            std::iter::once("COOL").chain(names.iter().copied()).map(str::as_bytes).collect();
        Ok(self.one(&words).await?.number()?.unsigned_abs())
    }

    /// Whether the node answers.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn ping(&mut self) -> Result<(), Error> {
        match self.one(&[b"PING"]).await? {
            Reply::Simple(words) if words == "PONG" => Ok(()),
            other => Ok(other.ok()?),
        }
    }

    /// Any command, for what has no method here.
    ///
    /// # Errors
    /// As [`Error`] says; what the node refuses is [`Reply::Refused`].
    pub async fn one(&mut self, words: &[&[u8]]) -> Result<Reply, Error> {
        let mut batch = Batch::default();
        batch.command(words);
        let replies = self.send(batch).await?;
        Ok(next(&mut replies.into_iter())?)
    }

    async fn each<T>(
        &mut self,
        batch: Batch,
        read: impl Fn(Reply) -> Result<T, Failed>,
    ) -> Result<Vec<Outcome<T>>, Error> {
        self.send(batch).await?.into_iter().map(|reply| item(reply, &read)).collect()
    }

    /// Sends and takes at the same time; an answer for each command, in order.
    async fn send(&mut self, batch: Batch) -> Result<Vec<Reply>, Error> {
        let count = batch.commands;
        self.within(async |stream, inbox| {
            let (mut reads, mut writes) = stream.split();
            let sent = batch.write(&mut writes);
            let taken = inbox.take(&mut reads, count);
            let ((), replies) = tokio::try_join!(async { Ok::<_, Error>(sent.await?) }, taken)?;
            Ok(replies)
        })
        .await
    }

    /// A call from its beginning to its end. One that does not reach it leaves its mark.
    async fn within<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut TcpStream, &mut Inbox) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if std::mem::replace(&mut self.midway, true) {
            return Err(Error::Broken);
        }
        let called = timeout(self.options.patience, call(&mut self.stream, &mut self.inbox)).await;
        let answer = called.map_err(|_| Error::TimedOut)?;
        // A refusal is an answer, too.
        self.midway = !matches!(answer, Ok(_) | Err(Error::Refused(_)));
        answer
    }
}

/// Why a reply is not what was hoped for.
#[derive(Debug)]
pub enum Failed {
    /// The node refused.
    Refused(Refusal),
    /// It is something else.
    Other(Malformed),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(refusal) => refusal.into(),
            Failed::Other(malformed) => malformed.into(),
        }
    }
}

impl From<Malformed> for Failed {
    fn from(malformed: Malformed) -> Self {
        Self::Other(malformed)
    }
}

/// A refusal belongs to its item; anything else that is wrong to the whole batch.
fn item<T>(reply: Reply, read: impl Fn(Reply) -> Result<T, Failed>) -> Result<Outcome<T>, Error> {
    match read(reply) {
        Ok(value) => Ok(Ok(value)),
        Err(Failed::Refused(refusal)) => Ok(Err(refusal)),
        Err(Failed::Other(malformed)) => Err(malformed.into()),
    }
}

fn next(replies: &mut impl Iterator<Item = Reply>) -> Result<Reply, Malformed> {
    replies.next().ok_or(Malformed("fewer answers than were asked for"))
}

// === Commands ===

/// Commands on their way: small parts one after the other, large values lent.
#[derive(Default)]
struct Batch {
    text: BytesMut,
    parts: Vec<Bytes>,
    commands: usize,
}

impl Batch {
    fn of(name: &[u8], keys: &[&[u8]]) -> Self {
        let mut batch = Self::default();
        for key in keys {
            batch.command(&[name, key]);
        }
        batch
    }

    fn command(&mut self, words: &[&[u8]]) {
        self.commands += 1;
        self.text.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.word(word);
        }
        self.collect();
    }

    fn set(&mut self, write: Write) {
        let Write { key, value, put } = write;
        let mut life = lived(put.life);
        life.extend(put.block.into_iter().flat_map(block));
        let only = condition(put.only);
        let words = 3 + life.len() + only.len();
        self.commands += 1;
        self.text.extend_from_slice(format!("*{words}\r\n$3\r\nSET\r\n").as_bytes());
        self.word(&key);
        if value.len() < COPIED {
            self.word(&value);
        } else {
            self.text.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
            self.parts.push(self.text.split().freeze());
            self.parts.push(value);
            self.text.extend_from_slice(b"\r\n");
        }
        for word in life.iter().map(String::as_str).chain(only) {
            self.word(word.as_bytes());
        }
        self.collect();
    }

    fn word(&mut self, word: &[u8]) {
        self.text.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        self.text.extend_from_slice(word);
        self.text.extend_from_slice(b"\r\n");
    }

    fn collect(&mut self) {
        if self.text.len() >= COLLECTED {
            self.parts.push(self.text.split().freeze());
        }
    }

    async fn write(mut self, writes: &mut WriteHalf<'_>) -> io::Result<()> {
        self.parts.push(self.text.freeze());
        let mut parts = std::collections::VecDeque::from(self.parts);
        while let Some(first) = parts.front() {
            if first.is_empty() {
                parts.pop_front();
                continue;
            }
            let slices: Vec<io::IoSlice<'_>> =
                parts.iter().take(64).map(|part| io::IoSlice::new(part)).collect();
            let mut count = writes.write_vectored(&slices).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            while let Some(first) = parts.front_mut() {
                let some = count.min(first.len());
                first.advance(some);
                count -= some;
                if !first.is_empty() {
                    break;
                }
                parts.pop_front();
            }
        }
        Ok(())
    }
}

fn encode(words: &[&[u8]]) -> Bytes {
    let mut batch = Batch::default();
    batch.command(words);
    batch.text.freeze()
}

fn block(block: Block) -> [String; 4] {
    let Block { prefix, parent, tokens } = block;
    let parent = parent.map_or_else(|| "-".to_owned(), |parent| format!("{parent:016x}"));
    ["BLOCK".to_owned(), format!("{prefix:016x}"), parent, format!("{tokens:016x}")]
}

fn lived(life: Life) -> Vec<String> {
    match life {
        Life::Open => Vec::new(),
        Life::Kept => vec!["KEEPTTL".to_owned()],
        Life::For(life) => vec!["PX".to_owned(), life.as_millis().max(1).to_string()],
    }
}

fn condition(only: Only) -> Vec<&'static str> {
    match only {
        Only::Always => Vec::new(),
        Only::Absent => vec!["NX"],
        Only::Present => vec!["XX"],
    }
}

// === Answers ===

/// What has arrived and is not answered with yet.
#[derive(Debug)]
struct Inbox {
    decoder: Decoder,
    bytes: BytesMut,
    largest: usize,
}

impl Inbox {
    async fn take(&mut self, reads: &mut ReadHalf<'_>, count: usize) -> Result<Vec<Reply>, Error> {
        let mut replies = Vec::with_capacity(count.min(1024));
        while replies.len() < count {
            match self.decoder.next(&mut self.bytes, self.largest)? {
                Some(reply) => replies.push(reply),
                None => self.read(reads).await?,
            }
        }
        Ok(replies)
    }

    async fn read(&mut self, reads: &mut ReadHalf<'_>) -> Result<(), Error> {
        // Room for all of a large value at once, so that it is read straight to where it stays.
        self.bytes.reserve(self.decoder.wants().saturating_sub(self.bytes.len()).max(16 << 10));
        match reads.read_buf(&mut self.bytes).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    async fn fill(&mut self, reads: &mut ReadHalf<'_>, place: &mut [u8]) -> Result<Option<usize>, Error> {
        let head = loop {
            if let Some(head) = Head::read(&self.bytes)? {
                break head;
            }
            self.read(reads).await?;
        };
        if head.kind != b'$' || head.number < 0 {
            let reply = next(&mut self.take(reads, 1).await?.into_iter())?;
            return match reply.bytes()? {
                None => Ok(None),
                Some(_) => Err(Malformed("not a value").into()),
            };
        }
        let len = head.number as usize;
        if len > place.len() {
            return Err(Malformed("a value that is larger than its place").into());
        }
        self.bytes.advance(head.len);
        let there = len.min(self.bytes.len());
        place[..there].copy_from_slice(&self.bytes[..there]);
        self.bytes.advance(there);
        reads.read_exact(&mut place[there..len]).await?;
        while self.bytes.len() < 2 {
            self.read(reads).await?;
        }
        if *self.bytes.split_to(2) != *b"\r\n" {
            return Err(Malformed("a value that goes on after its end").into());
        }
        Ok(Some(len))
    }
}
