//! Those who stand in line with nothing but their connection: in the same lines, by the same rules, in memory.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::{Room, Shared};
use crate::entry::{Cost, Item, Lease, Terms};
use crate::name::{Class, EntryId, Key, Millis, QueueName, Seq};
use crate::scheduler::{LaneId, QueueId};

/// Volatile queues are in no log.
pub(super) const NOWHERE: u32 = u32::MAX;

/// What stands in line.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Whose line. A line of this name is made if there is none; it is not a durable queue of the same name.
    pub queue: QueueName,
    /// What the line is.
    pub terms: Terms,
    /// How urgent it is.
    pub class: Class,
    /// What it takes.
    pub cost: Cost,
    /// When it is too late to start.
    pub deadline: Option<Millis>,
    /// For whoever places it.
    pub hint: Option<Arc<[u8]>>,
}

/// A place in line. Dropping it leaves the line at once.
pub struct Standing<P: Send + 'static> {
    shared: Weak<Shared<P>>,
    at: Option<(LaneId, Key)>,
    turn: oneshot::Receiver<Result<Turned<P>, Gone>>,
}

/// Its turn has come. Dropping it says that what was started is over, and cost what was expected.
pub struct Turn<P: Send + 'static> {
    shared: Weak<Shared<P>>,
    id: EntryId,
    lease: Lease,
    used: Option<Cost>,
    /// Where; taken once.
    pub place: Option<P>,
}

/// Why nobody is in line any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// It could not start in time.
    #[error("it could not start in time")]
    Expired,
    /// The room is closing.
    #[error("the queues are closing")]
    Closing,
}

/// A turn on its way to whoever waits for it.
pub(super) struct Turned<P> {
    pub(super) id: EntryId,
    pub(super) lease: Lease,
    pub(super) place: P,
}

impl<P: Send + 'static> Room<P> {
    /// Stands in line. `found` hears the id before anybody can be asked to place it.
    pub fn stand(&self, waiting: Waiting, found: impl FnOnce(EntryId)) -> Standing<P> {
        let shared = &self.0.shared;
        let (waits, turn) = oneshot::channel();
        let mut at = None;
        let seq = Seq(shared.next_volatile.fetch_add(1, Ordering::Relaxed));
        found(EntryId { partition: NOWHERE, seq });
        shared.pump_after(|core, now| {
            let key = Key { at: now, seq };
            let item = Item {
                key,
                cost: waiting.cost,
                deadline: waiting.deadline,
                attempt: 0,
                overtaken: 0,
                remembered: false,
                hint: waiting.hint.clone(),
            };
            // Whoever comes after the end hears so at once, since its sender is dropped.
            if core.closed {
                return Vec::new();
            }
            let line = core.line(&waiting);
            let lane = LaneId { queue: line, class: waiting.class };
            match core.sched.stand_in_line(lane, item) {
                Ok(()) => {
                    core.standing.insert(seq, waits);
                    at = Some((lane, key));
                }
                Err(twice) => tracing::error!(%twice, "a number was given twice"),
            }
            Vec::new()
        });
        Standing { shared: Arc::downgrade(shared), at, turn }
    }
}

impl<P> super::Core<P> {
    fn line(&mut self, waiting: &Waiting) -> QueueId {
        let name = (waiting.queue.clone(), waiting.terms.target.clone());
        if let Some(line) = self.lines.get(&name) {
            return *line;
        }
        let line = self.sched.add_queue(waiting.queue.clone(), (NOWHERE, 0), &waiting.terms, false);
        self.lines.insert(name, line);
        line
    }

    /// A line in which nobody stands and of which nobody runs is forgotten.
    pub(super) fn let_line_go(&mut self, line: QueueId) {
        let Some((name, ..)) = self.sched.queue(line) else { return };
        let Some(target) = self.sched.target_name(line) else { return };
        let name = (name, Box::from(target));
        if self.lines.get(&name) == Some(&line) && self.sched.forget_queue(line) {
            self.lines.remove(&name);
        }
    }
}

impl<P: Send + 'static> Future for Standing<P> {
    type Output = Result<Turn<P>, Gone>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(turn) = Pin::new(&mut self.turn).poll(context) else { return Poll::Pending };
        // Nobody answers in a room that closes: then it must still leave the line.
        let Ok(turn) = turn else { return Poll::Ready(Err(Gone::Closing)) };
        self.at = None;
        let shared = self.shared.clone();
        Poll::Ready(turn.map(|turned| Turn::new(shared, turned)))
    }
}

impl<P: Send + 'static> Drop for Standing<P> {
    fn drop(&mut self) {
        let Some((lane, key)) = self.at.take() else { return };
        let Some(shared) = self.shared.upgrade() else { return };
        let mut waits = None;
        shared.pump_after(|core, _| {
            waits = core.standing.remove(&key.seq);
            // Else it had its turn, or none any more, and is not there; and who is at its place now is another.
            if waits.is_some() || core.closed {
                core.sched.removed(lane, key);
                core.let_line_go(lane.queue);
            }
            Vec::new()
        });
        // Its turn may have come in this very moment: then it is given back.
        self.turn.close();
        if let Ok(Ok(turned)) = self.turn.try_recv() {
            drop(Turn::new(self.shared.clone(), turned));
        }
    }
}

impl<P: Send + 'static> Turn<P> {
    pub(super) fn new(shared: Weak<Shared<P>>, turned: Turned<P>) -> Self {
        let Turned { id, lease, place } = turned;
        Self { shared, id, lease, used: None, place: Some(place) }
    }

    /// It really cost so much.
    pub fn used(&mut self, used: Cost) {
        self.used = Some(used);
    }
}

impl<P: Send + 'static> Drop for Turn<P> {
    fn drop(&mut self) {
        drop(self.place.take());
        let Some(shared) = self.shared.upgrade() else { return };
        let (id, lease, used) = (self.id, self.lease, self.used);
        shared.pump_after(|core, now| {
            let Some((lane, _, item)) = core.sched.run(id) else { return Vec::new() };
            let cost = used.unwrap_or(item.cost);
            let _held = core.sched.ended(id, lease, cost, now);
            core.let_line_go(lane.queue);
            Vec::new()
        });
    }
}

impl<P: Send + 'static> fmt::Debug for Turn<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("id", &self.id).finish_non_exhaustive()
    }
}
