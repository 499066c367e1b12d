//! What a node is to do, in the order in which it is told: what frees memory at once, then copies by deadline and heat, fair
//! among tenants and between promotions and offloads.
//!
//! Fairness is start-time fair queueing in bytes: the flow (a kind of copy of one tenant) with the least tag goes first, and is
//! pushed back by what it took. A flow that comes back begins at the present.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use super::name::{Millis, Name, Tenant, Tier, Version};
use super::promote::TaskId;
use super::put::PutId;

/// Something for a node to do. What it names may be gone by then: then nothing is to be done, and that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Drop this copy, or give up the transfer that makes it, and tell when its bytes are free:
    /// [`News::Released`](super::News::Released). If there is no such copy, tell the same.
    ///
    /// A node that joins or begins an inventory forgets the drops that it has taken, and answers only those that it takes
    /// from then on: all that are open are ordered again. Otherwise one that was said twice could take away a copy that came in
    /// between.
    Drop {
        /// Of which object.
        name: Name,
        /// Which version.
        version: Version,
        /// Where.
        tier: Tier,
    },
    /// Give up this transfer and tell when no late write can land: [`News::Released`](super::News::Released) of that version in memory.
    CancelPut {
        /// Of which object.
        name: Name,
        /// Which.
        put: PutId,
    },
    /// Give up this promotion.
    CancelTask {
        /// Of which object.
        name: Name,
        /// Which.
        task: TaskId,
    },
    /// Write the copy in memory to disk and tell: [`News::Offloaded`](super::News::Offloaded).
    Offload(Copying),
    /// Bring the copy on disk to memory: [`Master::allocate`](super::Master::allocate) says where.
    Promote(TaskId, Copying),
}

/// What is to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copying {
    /// Of which object.
    pub name: Name,
    /// Which version.
    pub version: Version,
    /// How many bytes.
    pub size: u64,
    /// When it should be done.
    pub deadline: Option<Millis>,
    /// How often it was read lately.
    pub heat: u8,
    /// When the object ends by itself, if it does.
    pub ends: Option<Millis>,
}

/// The orders of one node that it has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Each is about something that the node has, so there are no more than that.
    urgent: VecDeque<Order>,
    flows: HashMap<Flow, Waiting>,
    /// Orders in flows.
    len: usize,
    now: u64,
    next: u64,
}

/// Copies of one kind of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Flow {
    kind: Kind,
    tenant: Tenant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Promote,
    Offload,
}

#[derive(Debug, Default)]
struct Waiting {
    tag: u64,
    /// Those with the least deadline first, of those the hottest.
    orders: BTreeMap<Turn, Order>,
}

type Turn = (Millis, Reverse<u8>, u64);

/// Where an order waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slip {
    flow: Flow,
    turn: Turn,
}

/// Urgent orders that are taken at a time: they cost the node little, but a message should end.
const URGENT: usize = 4_096;

impl Outbox {
    /// Before everything else.
    pub(super) fn urgent(&mut self, order: Order) {
        self.urgent.push_back(order);
    }

    /// Takes back whatever frees something; it is about to be said again.
    pub(super) fn withdraw_drops(&mut self) {
        self.urgent.retain(|order| !matches!(order, Order::Drop { .. } | Order::CancelPut { .. }));
    }

    /// When its turn comes; unless `most` wait already.
    pub(super) fn push(&mut self, order: Order, most: usize) -> Option<Slip> {
        if self.len >= most {
            return None;
        }
        let (kind, copying) = match &order {
            Order::Offload(copying) => (Kind::Offload, copying),
            Order::Promote(_, copying) => (Kind::Promote, copying),
            Order::Drop { .. } | Order::CancelPut { .. } | Order::CancelTask { .. } => return None,
        };
        let flow = Flow { kind, tenant: copying.name.tenant };
        let turn = (copying.deadline.unwrap_or(Millis(u64::MAX)), Reverse(copying.heat), self.next);
        self.next += 1;
        let waiting = self.flows.entry(flow).or_default();
        if waiting.orders.is_empty() {
            waiting.tag = waiting.tag.max(self.now);
        }
        waiting.orders.insert(turn, order);
        self.len += 1;
        Some(Slip { flow, turn })
    }

    /// Takes back an order; false if the node has it already.
    pub(super) fn withdraw(&mut self, slip: Slip) -> bool {
        let Some(waiting) = self.flows.get_mut(&slip.flow) else { return false };
        let found = waiting.orders.remove(&slip.turn).is_some();
        self.len -= usize::from(found);
        self.tidy(slip.flow);
        found
    }

    /// Whether the node has not taken it yet.
    pub(super) fn has(&self, slip: Slip) -> bool {
        self.flows.get(&slip.flow).is_some_and(|waiting| waiting.orders.contains_key(&slip.turn))
    }

    /// Orders of at most `budget` bytes, or one; what is left over stays.
    pub(super) fn take(&mut self, budget: u64, weight: impl Fn(Tenant) -> u32) -> Vec<Order> {
        let urgent = self.urgent.len().min(URGENT);
        let mut taken: Vec<Order> = self.urgent.drain(..urgent).collect();
        let (mut left, mut first) = (budget, budget > 0);
        while let Some(flow) = self.first() {
            let Some(waiting) = self.flows.get_mut(&flow) else { break };
            let Some((turn, order)) = waiting.orders.first_key_value() else { break };
            let (turn, size) = (*turn, order.bytes());
            if size > left && !first {
                break;
            }
            (left, first) = (left.saturating_sub(size), false);
            taken.extend(waiting.orders.remove(&turn));
            self.len -= 1;
            self.now = self.now.max(waiting.tag);
            waiting.tag += size.max(1).saturating_mul(SCALE) / u64::from(weight(flow.tenant).max(1));
            self.tidy(flow);
            if left == 0 {
                break;
            }
        }
        taken
    }

    /// Whether there is nothing to take.
    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.len == 0
    }

    /// Orders that wait, without those that free something.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }

    /// Whether the lengths agree.
    pub(super) fn agrees(&self) -> bool {
        self.len == self.flows.values().map(|waiting| waiting.orders.len()).sum::<usize>()
    }

    fn first(&self) -> Option<Flow> {
        let ready = self.flows.iter().filter(|(_, waiting)| !waiting.orders.is_empty());
        ready.min_by_key(|(flow, waiting)| (waiting.tag, **flow)).map(|(flow, _)| *flow)
    }

    /// A flow without orders that owes nothing is forgotten.
    fn tidy(&mut self, flow: Flow) {
        let all_empty = self.len == 0;
        if all_empty {
            // Nobody is there to whom anything could be owed.
            self.flows.clear();
        } else if self.flows.get(&flow).is_some_and(|w| w.orders.is_empty() && w.tag <= self.now) {
            self.flows.remove(&flow);
        }
    }
}

/// Virtual time of a byte at weight 1.
const SCALE: u64 = 64;

impl Order {
    /// What it costs the node to carry out, in bytes of copying.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Drop { .. } | Self::CancelPut { .. } | Self::CancelTask { .. } => 0,
            Self::Offload(copying) | Self::Promote(_, copying) => copying.size,
        }
    }
}
