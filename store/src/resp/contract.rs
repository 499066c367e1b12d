//! What the protocol stands in front of: a store that answers at once where it can, and later where it must.
//!
//! The contract, which `resp::fake` keeps and `store/tests/contract` can be run against any other:
//! - K1: a tenant sees its own keys only.
//! - K2: what a sink holds is invisible until its commit, and never seen if the sink is dropped.
//! - K3: bytes that were handed out stay what they were, however long they are held and whatever replaces the object.
//! - K4: missing and empty are different answers.
//! - K5: a scan tells every key at least once that was there from its beginning to its end.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::refusal::Refusal;

/// Whose keys they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

/// An answer that must be waited for. It owns what it needs, and is dropped when whoever asked is gone.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// An answer, now or later. One that is there costs no task switch.
pub enum Answer<T> {
    /// It is there.
    Now(Result<T, Refusal>),
    /// It must be waited for: disk, another machine, space that is being made.
    Later(Later<T>),
}

/// Which part of a value is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// From one byte to another, both included; negative ones count from the end.
    Between(i64, i64),
}

/// On what condition something is written, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The condition.
    pub only: Only,
    /// For how long.
    pub life: Life,
    /// Which block of tokens it is, if the client says so.
    pub block: Option<Block>,
}

/// What a block of tokens is known as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// The hash of its tokens and all before.
    pub prefix: u64,
    /// That of the block before it, unless it is the first.
    pub parent: Option<u64>,
    /// The hash of its own tokens.
    pub tokens: u64,
}

/// What somebody will read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// These keys.
    Keys(&'a [&'a [u8]]),
    /// Whatever holds these blocks, by the hashes of their prefixes.
    Blocks(&'a [u64]),
}

/// How warming began.
#[derive(Debug)]
pub struct Warming<W> {
    /// Given back when it is dropped.
    pub kept: W,
    /// What is known here, of all that is wanted.
    pub known: usize,
    /// What was not in memory and is on its way.
    pub pending: usize,
}

/// A condition of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Only {
    /// None.
    #[default]
    Always,
    /// The key is not there.
    Absent,
    /// The key is there.
    Present,
}

/// How long an object lives if nothing else removes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Until it is evicted.
    #[default]
    Open,
    /// At most so long.
    For(Duration),
    /// As long as the object that it replaces would have.
    Kept,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there, for everybody.
    Stored,
    /// The condition did not hold; nothing changed.
    Unchanged,
}

/// What is known of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its bytes.
    pub len: u64,
    /// How long it has still to live; `None`: until it is evicted.
    pub life: Option<Duration>,
}

/// Some keys, and where the next ones are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where to go on; zero at the end.
    pub next: u64,
    /// The keys.
    pub keys: Vec<Bytes>,
}

/// How much there is, for `INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in use.
    pub used: u64,
    /// Bytes there are.
    pub total: u64,
    /// Objects evicted since the start.
    pub evicted: u64,
}

/// What many keys answered, each for itself.
pub type Each<T> = Vec<Result<T, Refusal>>;

/// The store. It is asked from many threads at once.
pub trait Store: Send + Sync + 'static {
    /// Space that is being filled.
    type Sink: Sink;
    /// A promise to read something soon. Dropped, it is taken back.
    type Warm: Send + 'static;

    /// The value of a key, or a part of it; `None` if there is no such key. A part beyond the end is empty.
    fn get(&self, tenant: &Tenant, key: &[u8], part: Part) -> Answer<Option<Bytes>>;

    /// What is known of a key. It does not count as a hit.
    fn look(&self, tenant: &Tenant, key: &[u8]) -> Answer<Option<Look>>;

    /// Takes a key away; whether it was there. Who reads it at the moment reads on.
    fn remove(&self, tenant: &Tenant, key: &[u8]) -> Answer<bool>;

    /// Space for a value whose length has just been announced. It is filled, then committed or dropped.
    fn reserve(&self, tenant: &Tenant, key: &[u8], len: usize) -> Answer<Self::Sink>;

    /// Some keys from a cursor on, about `count` of them. Zero begins.
    fn scan(&self, tenant: &Tenant, cursor: u64, count: usize) -> Answer<Page>;

    /// How many keys a tenant has.
    fn count(&self, tenant: &Tenant) -> Answer<u64>;

    /// Takes all keys of a tenant away.
    fn clear(&self, tenant: &Tenant) -> Answer<()>;

    /// How full it is. Asked for `INFO`, so it must not wait.
    fn space(&self) -> Space;

    /// Somebody will read this within that time: what is not in memory is brought there, if it can be.
    fn warm(&self, tenant: &Tenant, wanted: Wanted<'_>, within: Duration) -> Answer<Warming<Self::Warm>>;

    /// [`Store::get`] of many keys; a store that can ask for them together should.
    fn get_many(&self, tenant: &Tenant, keys: &[&[u8]]) -> Answer<Each<Option<Bytes>>> {
        together(keys.iter().map(|key| self.get(tenant, key, Part::Whole)))
    }

    /// [`Store::look`] of many keys.
    fn look_many(&self, tenant: &Tenant, keys: &[&[u8]]) -> Answer<Each<Option<Look>>> {
        together(keys.iter().map(|key| self.look(tenant, key)))
    }

    /// [`Store::remove`] of many keys.
    fn remove_many(&self, tenant: &Tenant, keys: &[&[u8]]) -> Answer<Each<bool>> {
        together(keys.iter().map(|key| self.remove(tenant, key)))
    }
}

/// Space for one value. Dropped without a commit, nothing was ever written.
pub trait Sink: Send + 'static {
    /// All of the space, as long as was reserved, the same at each call. A socket is read into it.
    fn space(&mut self) -> &mut [u8];

    /// Every byte was filled: let the object be seen.
    fn commit(self, put: Put) -> Answer<Written>;
}

// === impl Tenant ===

impl Tenant {
    /// The tenant of this name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    /// Who everybody is where no keys are configured.
    fn default() -> Self {
        Self::new("default")
    }
}

// === impl Answer ===

impl<T> Answer<T> {
    /// A good answer that is there.
    pub const fn now(value: T) -> Self {
        Self::Now(Ok(value))
    }

    /// A refusal that is there.
    pub const fn refused(refusal: Refusal) -> Self {
        Self::Now(Err(refusal))
    }

    /// An answer that must be waited for.
    pub fn later(answer: impl Future<Output = Result<T, Refusal>> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }

    /// The answer, waited for where it must be.
    ///
    /// # Errors
    /// What the store refused.
    pub async fn wait(self) -> Result<T, Refusal> {
        match self {
            Self::Now(answer) => answer,
            Self::Later(answer) => answer.await,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

// === impl Part ===

impl Part {
    /// Which bytes of a value of this length are meant, as Redis reckons.
    pub fn of(self, len: usize) -> Range<usize> {
        let Self::Between(from, to) = self else { return 0..len };
        let size = i64::try_from(len).unwrap_or(i64::MAX);
        if from < 0 && to < 0 && from > to {
            return 0..0;
        }
        let place = |at: i64| if at < 0 { size.saturating_add(at).max(0) } else { at };
        let (from, to) = (place(from), place(to).min(size - 1));
        if from > to { 0..0 } else { from as usize..to as usize + 1 }
    }
}

// === Many at once ===

/// All answers in their order. Those that must be waited for are waited for at the same time.
pub fn together<T: Send + 'static>(answers: impl Iterator<Item = Answer<T>>) -> Answer<Each<T>> {
    let answers: Vec<Answer<T>> = answers.collect();
    if answers.iter().any(|answer| matches!(answer, Answer::Later(_))) {
        return Answer::later(All(answers));
    }
    Answer::now(there(answers))
}

/// Those that are there.
fn there<T>(answers: Vec<Answer<T>>) -> Each<T> {
    let there = |answer| match answer {
        Answer::Now(answer) => Some(answer),
        Answer::Later(_) => None,
    };
    answers.into_iter().filter_map(there).collect()
}

/// Polls all that are not there yet, whenever one of them wakes. Batches are short, so this is cheaper than a task each.
struct All<T>(Vec<Answer<T>>);

impl<T> Unpin for All<T> {}

impl<T> Future for All<T> {
    type Output = Result<Each<T>, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        use std::task::Poll;
        let mut missing = false;
        for answer in &mut self.0 {
            if let Answer::Later(later) = answer {
                match later.as_mut().poll(cx) {
                    Poll::Ready(done) => *answer = Answer::Now(done),
                    Poll::Pending => missing = true,
                }
            }
        }
        if missing { Poll::Pending } else { Poll::Ready(Ok(there(std::mem::take(&mut self.0)))) }
    }
}
