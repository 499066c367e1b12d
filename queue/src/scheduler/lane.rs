//! A queue in one class, where it stands, and the one function that moves it.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::{LaneId, Scheduler, SeatAt, TargetAt, Timer};
use crate::entry::Item;
use crate::fair::Member;
use crate::inbox::{CAPACITY, Found, Inbox, UNKNOWN};
use crate::limits::Narrow;
use crate::name::{Class, Key, Millis};

/// A queue in one class.
pub(crate) struct Lane {
    class: Class,
    pub(super) seat: u32,
    pub(super) tag: u64,
    pub(super) at: At,
    /// It is among those that want to read.
    pub(super) asked: bool,
    /// A read has failed; until its time comes it is not tried again.
    pub(super) resting: bool,
    /// Nothing is known of it yet if there is none: most queues of a large log just wait.
    inbox: Option<Box<Inbox>>,
    /// The log of a lane that has none: everything that waits, in memory.
    #[expect(clippy::box_collection, reason = "most lanes have none, and there may be a million")]
    pub(super) rest: Option<Box<BTreeMap<Key, Item>>>,
}

/// The lanes of a queue. Most have one: it lies in the queue's own row, so that a turn looks at one place less.
#[derive(Default)]
pub(super) struct Lanes(SmallVec<[Lane; 1]>);

/// Where a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// There is nothing that could have a turn.
    Empty,
    /// It has a turn when it comes.
    Ready,
    /// It wants to read before anything can be said.
    Reading,
    /// At its queue's limit.
    Full(Narrow),
    /// Nobody could take what is first, although others may be taken.
    Picky,
    /// Its queue is paused.
    Paused,
}

impl At {
    /// Whether it would run if it could: whoever is absent earns nothing.
    pub(super) fn is_present(self) -> bool {
        !matches!(self, Self::Empty | Self::Paused)
    }
}

impl Lanes {
    pub(super) fn get(&self, class: Class) -> Option<&Lane> {
        self.0.iter().find(|lane| lane.class == class)
    }

    pub(super) fn get_mut(&mut self, class: Class) -> Option<&mut Lane> {
        self.0.iter_mut().find(|lane| lane.class == class)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Lane> {
        self.0.iter()
    }

    fn add(&mut self, lane: Lane) {
        self.0.push(lane);
    }

    fn take(&mut self, class: Class) -> Option<Lane> {
        let at = self.0.iter().position(|lane| lane.class == class)?;
        Some(self.0.swap_remove(at))
    }
}

impl Lane {
    pub(super) fn known(&self) -> &Inbox {
        self.inbox.as_deref().unwrap_or(&UNKNOWN)
    }

    pub(super) fn inbox_mut(&mut self) -> &mut Inbox {
        self.inbox.get_or_insert_with(|| Box::new(Inbox::unknown()))
    }

    pub(super) fn is_bare(&self) -> bool {
        self.known().is_bare()
    }
}

impl Scheduler {
    pub(super) fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.queues.get(id.queue.0 as usize)?.lanes.get(id.class)
    }

    pub(super) fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.queues.get_mut(id.queue.0 as usize)?.lanes.get_mut(id.class)
    }

    /// The lane, made if it is not there.
    pub(super) fn make_lane(&mut self, id: LaneId, known: bool, volatile: bool) {
        let queue = &self.queues[id.queue.0 as usize];
        if queue.lanes.get(id.class).is_some() {
            return;
        }
        let seat = self.seat(queue.target, id.class, queue.tenant);
        self.seats[seat as usize].users += 1;
        let lane = Lane {
            class: id.class,
            seat,
            tag: 0,
            at: At::Empty,
            asked: false,
            resting: false,
            inbox: known.then(|| Box::new(Inbox::empty())),
            rest: volatile.then(Box::default),
        };
        self.queues[id.queue.0 as usize].lanes.add(lane);
    }

    pub(super) fn drop_lane(&mut self, id: LaneId) {
        self.stand(id, At::Empty);
        let Some(mut lane) = self.queues[id.queue.0 as usize].lanes.take(id.class) else { return };
        if let Some(inbox) = &mut lane.inbox {
            inbox.cancel();
        }
        let seat = lane.seat;
        self.seats[seat as usize].users -= 1;
        self.let_seat_go(seat);
    }

    /// Changes what is known of a lane, and moves the lane to where it then belongs. One that is held back because of what
    /// was first in it is looked at again if that is something else now.
    pub(super) fn change<R>(&mut self, id: LaneId, change: impl FnOnce(&mut Inbox) -> R) -> Option<R> {
        let reach = self.options.reach.max(1);
        let window = self.lane(id)?.is_held().then(|| self.lane(id).map(|lane| lane.window(reach)));
        let result = self.keep_place(id, change);
        if window.is_some_and(|window| window != self.lane(id).map(|lane| lane.window(reach))) {
            self.loosen(id);
        }
        result
    }

    /// The same for a lane that stays where it is, although less of it may be known.
    pub(super) fn keep_place<R>(&mut self, id: LaneId, change: impl FnOnce(&mut Inbox) -> R) -> Option<R> {
        let lane = self.lane_mut(id)?;
        let (before, volatile) = (lane.known().items().len(), lane.rest.is_some());
        let result = change(lane.inbox_mut());
        lane.feed();
        let after = lane.known().items().len();
        // Of a full one the last may be another.
        self.changes += u64::from(after != before || after == CAPACITY);
        if !volatile {
            self.cached = self.cached + after - before;
        }
        self.review(id);
        Some(result)
    }

    /// Moves a lane to where it belongs. Paused, held back and empty are looked at here, and every change passes here.
    pub(super) fn review(&mut self, id: LaneId) {
        let Some(queue) = self.queues.get(id.queue.0 as usize) else { return };
        let Some(lane) = queue.lanes.get(id.class) else { return };
        let nothing = lane.known().items().is_empty();
        let to = match lane.at {
            _ if nothing && !lane.known().is_hungry() => At::Empty,
            _ if queue.paused => At::Paused,
            // Once read, it has a turn again.
            At::Reading if nothing => At::Reading,
            held @ (At::Full(_) | At::Picky) => held,
            _ => At::Ready,
        };
        self.stand(id, to);
    }

    /// Lets a lane that was held back have turns again.
    pub(super) fn loosen(&mut self, id: LaneId) {
        if self
            .lane(id)
            .is_some_and(|lane| matches!(lane.at, At::Full(_) | At::Picky | At::Paused | At::Reading))
        {
            self.stand(id, At::Ready);
            self.review(id);
        }
    }

    /// The only writer of [`Lane::at`], and of who has a turn in a seat.
    pub(super) fn stand(&mut self, id: LaneId, to: At) {
        let Some(lane) = self.queues[id.queue.0 as usize].lanes.get_mut(id.class) else {
            return;
        };
        let from = lane.at;
        if from == to {
            return;
        }
        lane.at = to;
        self.changes += 1;
        let seat_id = lane.seat;
        let seat = &mut self.seats[seat_id as usize];
        let target = &mut self.targets[seat.target as usize];
        let turns = &mut target.turns[id.class.number()];
        if to.is_present() && !from.is_present() {
            seat.fair.arrive(&mut lane.tag);
            if seat.present == 0 {
                turns.fair.arrive(&mut seat.tag);
            }
            seat.present += 1;
            turns.waiting += 1;
            self.waiting += 1;
        } else if from.is_present() && !to.is_present() {
            seat.present -= 1;
            turns.waiting -= 1;
            self.waiting -= 1;
            if turns.waiting == 0 {
                turns.owed = turns.owed.min(0);
            }
            // Whoever frees a place when nobody waits tells nobody: the next one asks again.
            if target.at == TargetAt::NoPlace && target.turns.iter().all(|turns| turns.waiting == 0) {
                target.at = TargetAt::Idle;
            }
        }
        let turns = &mut target.turns[id.class.number()];
        let member = member(id);
        if to == At::Ready {
            seat.fair.join(member, &mut lane.tag);
            if seat.at == SeatAt::Idle {
                self.seat_ready(seat_id);
            }
        } else if from == At::Ready {
            seat.fair.leave(member, lane.tag);
            if seat.fair.is_empty() && seat.at == SeatAt::Ready {
                turns.fair.leave(seat.member(seat_id), seat.tag);
                seat.at = SeatAt::Idle;
            }
        }
    }

    /// A seat has turns from now on.
    pub(super) fn seat_ready(&mut self, id: u32) {
        self.changes += 1;
        let seat = &mut self.seats[id as usize];
        let target = &mut self.targets[seat.target as usize];
        target.turns[seat.class.number()].fair.join(seat.member(id), &mut seat.tag);
        seat.at = SeatAt::Ready;
        let (target, kept) = (seat.target, seat.kept);
        self.awaken(target, kept);
    }

    /// A target has something that it had not before; `kept`: of somebody for whom places are kept free.
    pub(super) fn awaken(&mut self, id: u32, kept: bool) {
        match self.targets[id as usize].at {
            TargetAt::Idle => self.liven(id),
            TargetAt::Crowded if kept || !self.fleet.is_full(false) => {
                self.crowd.retain(|crowded| *crowded != id);
                self.liven(id);
            }
            _ => {}
        }
    }

    /// A lane wants to read: when its turn comes, [`Scheduler::next_read`] says so.
    pub(super) fn want(&mut self, id: LaneId) {
        let Some(lane) = self.lane_mut(id) else { return };
        if lane.rest.is_none() && !lane.asked && !lane.resting && !lane.known().is_filling() {
            lane.asked = true;
            self.hungry.push_back(id);
        }
    }

    pub(super) fn wake_at(&mut self, at: Millis, timer: Timer) {
        self.timers.insert((at, timer));
    }
}

impl Lane {
    /// Whether it waits for something that what is first in it asks for.
    fn is_held(&self) -> bool {
        matches!(self.at, At::Full(Narrow::Tokens | Narrow::Blocks) | At::Picky)
    }

    /// Changes with what may be chosen from.
    fn window(&self, reach: usize) -> (usize, Option<Key>, Option<Key>) {
        let items = self.known().items();
        let many = items.len().min(reach);
        let key = |at: usize| items.get(at).map(|item| item.key);
        (many, key(0), key(many.saturating_sub(1)))
    }

    /// A lane without a log is refilled from memory, at once.
    fn feed(&mut self) {
        if self.rest.is_none() {
            return;
        }
        while self.known().is_low() {
            let Some(ticket) = self.inbox_mut().begin() else { return };
            let Some(rest) = &self.rest else { return };
            let mut rows = rest.range(ticket.from..).map(|(_, item)| item.clone());
            let items: Vec<Item> = rows.by_ref().take(CAPACITY).collect();
            let full = rows.next().is_some();
            self.inbox_mut().finish(&ticket, Found { items, full });
        }
    }
}

/// What a lane is called among the turns of its seat.
pub(super) fn member(id: LaneId) -> Member {
    // A seat has lanes of one class only.
    Member::from(id.queue.0)
}
