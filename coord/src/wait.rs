//! Waiting on any replica for work that is done on any other.
//!
//! One subscription an instance wakes all who wait; between wakes a waiter costs nothing but a timer. Notices can be
//! lost, so there is a slow poll behind them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep, timeout_at};

use crate::backend::Heard;
use crate::background::Background;
use crate::coord::{BACKOFF_FIRST, BACKOFF_MOST, Coord};
use crate::error::Error;
use crate::name::Name;
use crate::op::{Left, Op, Reply};
use crate::primitives::{answer, odd};

/// How long the status may take beyond the deadline, once the gate is known to be open.
pub const GRACE: Duration = Duration::from_secs(2);
/// A waiter looks so often by itself, shortened by up to half at random.
pub const POLL: Duration = Duration::from_secs(5);

/// How waiting ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Nothing is pending; what each set said last.
    Done(Vec<(Name, Bytes)>),
    /// The time is over and this is pending: how many of each set.
    TimedOut(Vec<(Name, u64)>),
    /// Nobody has heard of the request, or it was cleaned up: it is not said to be done.
    Unknown,
    /// The coordinator gave no answer in all that time.
    CannotKnow(Error),
}

/// All who wait in this instance.
#[derive(Clone)]
pub struct Waits {
    coord: Coord,
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
    _listening: Arc<Background>,
}

struct Waiting {
    woken: Arc<Notify>,
    count: usize,
}

/// Takes one off the count of those who wait for a request.
struct Place<'a>(&'a Waits, String);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        if let Some(entry) = waiting.get_mut(&self.1) {
            entry.count -= 1;
            if entry.count == 0 {
                waiting.remove(&self.1);
            }
        }
    }
}

impl Waits {
    /// Begins to listen.
    pub fn begin(coord: &Coord) -> Self {
        let waiting: Arc<Mutex<HashMap<String, Waiting>>> = Arc::default();
        let listening = Background::spawn(wake(coord.hear(), waiting.clone()));
        Self { coord: coord.clone(), waiting, _listening: Arc::new(listening) }
    }

    /// Work that a request waits for: members of a set. A request begins with its first set, which may be empty.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn expect(&self, request: &Name, set: &Name, members: Vec<Name>) -> Result<Left, Error> {
        let op = Op::Await { request: request.clone(), set: set.clone(), members };
        answer!(self.coord, op, Reply::Left)
    }

    /// A member is done, or a set has something to say. `NotFound` if the request was cleaned up: it does not come back.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn arrive(
        &self,
        request: &Name,
        set: &Name,
        member: &Name,
        status: Option<Bytes>,
    ) -> Result<Left, Error> {
        let (set, member) = (set.clone(), member.clone());
        answer!(self.coord, Op::Arrive { request: request.clone(), set, member, status }, Reply::Left)
    }

    /// Waits until nothing of the request is pending, for at most so long; then what each set said, with [`GRACE`] on top.
    /// Failures of the backend are waited out.
    pub async fn wait(&self, request: &Name, patience: Duration) -> Waited {
        let deadline = Instant::now() + patience;
        let lost = self.coord.times_lost(request.shard());
        match self.gate(request, deadline).await {
            Ok(()) => {}
            Err(ended) => return ended,
        }
        let mut pause = BACKOFF_FIRST;
        let last = deadline.max(Instant::now()) + GRACE;
        loop {
            let left = last.saturating_duration_since(Instant::now());
            let error = match self.coord.ask_within(&Op::Statuses { request: request.clone() }, left).await {
                // Somebody else here was told of it; what is open now may be what was left of something else.
                Ok(Reply::Statuses(_)) if self.coord.times_lost(request.shard()) != lost => {
                    let why = "it was lost while we waited".to_owned();
                    return Waited::CannotKnow(Error::StateLost { shard: request.shard().number(), why });
                }
                Ok(Reply::Statuses(statuses)) => return Waited::Done(statuses),
                Ok(other) => odd(&Op::Statuses { request: request.clone() }, &other),
                Err(Error::NotFound) => return Waited::Unknown,
                Err(error) => error,
            };
            if !error.is_absence() || Instant::now() + pause >= last {
                return Waited::CannotKnow(error);
            }
            sleep(self.coord.chance().jitter(pause)).await;
            pause = (pause * 2).min(BACKOFF_MOST);
        }
    }

    /// Until all sets are empty.
    async fn gate(&self, request: &Name, deadline: Instant) -> Result<(), Waited> {
        let (woken, _place) = self.enter(request);
        let op = Op::Gate { request: request.clone() };
        let mut pause = BACKOFF_FIRST;
        let mut known: Option<Vec<(Name, u64)>> = None;
        loop {
            let notified = woken.notified();
            tokio::pin!(notified);
            // From here on no notice is missed.
            notified.as_mut().enable();
            // The first look has a chance even if the time is over already.
            let left = deadline.saturating_duration_since(Instant::now()).max(BACKOFF_FIRST);
            let next = match self.coord.ask_within(&op, left).await {
                Ok(Reply::Pending(pending)) if pending.is_empty() => return Ok(()),
                Ok(Reply::Pending(pending)) => {
                    known = Some(pending);
                    pause = BACKOFF_FIRST;
                    POLL
                }
                Ok(other) => return Err(Waited::CannotKnow(odd(&op, &other))),
                Err(Error::NotFound) => return Err(Waited::Unknown),
                Err(error) if error.is_absence() => {
                    if Instant::now() >= deadline {
                        return Err(known.map_or(Waited::CannotKnow(error), Waited::TimedOut));
                    }
                    let now = pause;
                    pause = (pause * 2).min(BACKOFF_MOST);
                    now
                }
                Err(error) => return Err(Waited::CannotKnow(error)),
            };
            let until = (Instant::now() + self.coord.chance().jitter(next)).min(deadline);
            let heard = timeout_at(until, notified).await.is_ok();
            if !heard && Instant::now() >= deadline {
                return Err(known
                    .map_or_else(|| Waited::CannotKnow(Error::Timeout { op: op.name() }), Waited::TimedOut));
            }
        }
    }

    /// Forgets a request. If that fails it is forgotten when its time is over; nothing brings it back.
    pub async fn clean(&self, request: &Name) {
        if let Err(error) = self.coord.ask(&Op::Clean { request: request.clone() }).await {
            tracing::warn!(%request, %error, "a request could not be cleaned up; it goes when its time is over");
        }
    }

    /// Requests that somebody here waits for.
    pub fn waited_for(&self) -> usize {
        self.waiting.lock().len()
    }

    fn enter(&self, request: &Name) -> (Arc<Notify>, Place<'_>) {
        let key = request.as_str().to_owned();
        let mut waiting = self.waiting.lock();
        let entry = waiting
            .entry(key.clone())
            .or_insert_with(|| Waiting { woken: Arc::new(Notify::new()), count: 0 });
        entry.count += 1;
        (entry.woken.clone(), Place(self, key))
    }
}

/// Wakes those whose request is done, and everybody after a gap.
async fn wake(mut notices: broadcast::Receiver<Heard>, waiting: Arc<Mutex<HashMap<String, Waiting>>>) {
    loop {
        match notices.recv().await {
            Ok(Heard::Notice(_, text)) => {
                let text = String::from_utf8_lossy(&text);
                if let Some(request) = text.strip_prefix("request ")
                    && let Some(entry) = waiting.lock().get(request)
                {
                    entry.woken.notify_waiters();
                }
            }
            Ok(Heard::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => {
                for entry in waiting.lock().values() {
                    entry.woken.notify_waiters();
                }
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
