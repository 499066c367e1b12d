//! What would start next: the turns of each target are gone through as if every start found its place, and none is given.
//!
//! It reads what is in memory, changes nothing, and costs what it lists, however much waits: turns are taken from where they
//! stand, one after the other, until enough is found. Listed is what waits for its turn, for a place on an engine, or for a
//! limit on everything together. Not listed is what could not start if all others had left: what is paused, not due, or at a
//! limit of its queue or tenant; and what stands in line with its connection, which whoever stands there knows.
//!
//! The order is that of the decisions, as far as it can be told: costs that turn out to be others, entries that come, and
//! warm ones that overtake change it.

use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;

use smallvec::SmallVec;

use super::decide::pass_over;
use super::lane::{At, Lane};
use super::{LaneId, QueueId, Scheduler, SeatAt};
use crate::entry::{Cost, Order};
use crate::fair::{InTurn, charged};
use crate::inbox::CAPACITY;
use crate::name::{CLASSES, Class, EntryId, Key, Millis};

/// What of the logs would start next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Target by target: they have their turns beside each other.
    pub targets: Vec<Coming>,
    /// Lanes whose turn comes among these, and of which nothing is in memory.
    pub unread: Vec<LaneId>,
}

/// What waits for the same engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// What it runs on.
    pub target: Box<str>,
    /// Entries of logs that have been started on it: how fast these grow is how fast it comes.
    pub starts: u64,
    /// In about the order in which they will start.
    pub entries: Vec<Next>,
}

/// An entry whose turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Its name.
    pub entry: EntryId,
    /// Where it waits.
    pub lane: LaneId,
    /// Its place there.
    pub key: Key,
}

/// What has become of an entry whose turn was to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It waits as before.
    Waits,
    /// Its turn has come.
    Started,
    /// It left, is held back, or is too far behind to be in memory.
    Gone,
}

/// Seats and lanes that are looked at for one target, should many have nothing to list: 0.1 ms at most.
const LOOKS: usize = 1_024;

impl Scheduler {
    /// What of the logs would start next: at most so many, the targets taking turns.
    pub fn ahead(&self, most: usize, now: Millis) -> Ahead {
        let mut unread = Vec::new();
        // There are as many as models.
        let waiting = self.targets.iter().filter(|(_, one)| one.turns.iter().any(|turns| turns.waiting > 0));
        let mut walks: Vec<Walk<'_>> = waiting.map(|(id, _)| Walk::new(self, id as u32, now)).collect();
        let mut left = most;
        let mut going = true;
        while going && left > 0 {
            going = false;
            for walk in &mut walks {
                if left > 0
                    && let Some(next) = walk.step(&mut unread)
                {
                    walk.found.push(next);
                    left -= 1;
                    going = true;
                }
            }
        }
        let targets = walks.into_iter().filter(|walk| !walk.found.is_empty());
        let targets = targets.map(|walk| {
            let target = &self.targets[walk.target as usize];
            Coming { target: target.name.clone(), starts: target.starts, entries: walk.found }
        });
        Ahead { targets: targets.collect(), unread }
    }

    /// What has become of an entry that was listed.
    pub fn stands(&self, next: &Next) -> Stands {
        if let Some(run) = self.running.get(&next.entry) {
            return if run.gone { Stands::Gone } else { Stands::Started };
        }
        let lane = self.lane(next.lane).filter(|lane| lane.at.is_present());
        let here = lane.is_some_and(|lane| {
            lane.known().items().binary_search_by_key(&next.key, |item| item.key).is_ok()
        });
        // Another queue may have this place in the table by now.
        if here && self.id(next.lane, next.key.seq) == Some(next.entry) {
            return Stands::Waits;
        }
        Stands::Gone
    }

    /// Grows whenever [`Self::ahead`] may say something else, unless only time has passed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Lanes of which nothing is in memory, and whose turn comes soon, may read, as long as there is room for more. Whether
    /// any does.
    pub fn read_ahead(&mut self, unread: &[LaneId]) -> bool {
        let before = self.hungry.len();
        if self.cached < self.options.cached {
            for lane in unread {
                self.want(*lane);
            }
        }
        self.hungry.len() > before
    }
}

/// The turns of one target, as far as they have been gone through.
struct Walk<'a> {
    sched: &'a Scheduler,
    target: u32,
    now: Millis,
    classes: [Line<'a, Seat<'a>>; CLASSES],
    owed: [i64; CLASSES],
    /// Lanes of seats that have others in their turns; see [`Walk::beside`].
    picky: HashMap<u32, BTreeMap<(u64, u32), Option<Entries>>>,
    looks: usize,
    found: Vec<Next>,
}

/// The turns of a tenant's lanes.
struct Seat<'a> {
    weight: u32,
    lanes: Line<'a, Entries>,
}

/// What is left of a lane: places among its items, the next one last.
type Entries = SmallVec<[u8; CAPACITY]>;

/// Turns of siblings: those who had none yet, and those who had some and wait for the next.
struct Line<'a, S> {
    fresh: Peekable<InTurn<'a>>,
    /// With how they stood; none: they had no turn, but are not among the others.
    again: BTreeMap<(u64, u32), Option<S>>,
}

impl<'a, S> Line<'a, S> {
    fn new(fresh: InTurn<'a>) -> Self {
        Self { fresh: fresh.peekable(), again: BTreeMap::new() }
    }

    /// Whose turn it is, with their tag, and how they stood if they had one before.
    fn next(&mut self) -> Option<((u64, u32), Option<S>)> {
        let again = self.again.first_key_value().map(|(at, _)| *at);
        match self.fresh.peek() {
            Some(fresh) if again.is_none_or(|again| *fresh < again) => {
                self.fresh.next().map(|fresh| (fresh, None))
            }
            _ => self.again.pop_first(),
        }
    }

    fn is_empty(&mut self) -> bool {
        self.again.is_empty() && self.fresh.peek().is_none()
    }
}

impl<'a> Walk<'a> {
    fn new(sched: &'a Scheduler, target: u32, now: Millis) -> Self {
        let turns = &sched.targets[target as usize].turns;
        let classes = turns.each_ref().map(|turns| Line::new(turns.fair.in_turn()));
        let owed = turns.each_ref().map(|turns| turns.owed);
        let (picky, looks, found) = (HashMap::new(), LOOKS, Vec::new());
        let mut walk = Self { sched, target, now, classes, owed, picky, looks, found };
        walk.beside();
        walk
    }

    /// Lanes that nobody could take when they were asked last are asked whenever a place is free: they have turns as if they
    /// had never been out of them.
    fn beside(&mut self) {
        let sched = self.sched;
        let target = &sched.targets[self.target as usize];
        for id in target.picky.iter().take(LOOKS) {
            let Some(lane) = sched.lane(*id).filter(|lane| lane.at == At::Picky && lane.rest.is_none())
            else {
                continue;
            };
            let seat = &sched.seats[lane.seat as usize];
            let member = (seat.fair.joined(lane.tag), id.queue.0);
            self.picky.entry(lane.seat).or_default().insert(member, None);
        }
        let idle = |id: &u32| sched.seats[*id as usize].at == SeatAt::Idle;
        let alone: Vec<u32> = self.picky.keys().copied().filter(idle).collect();
        for id in alone {
            let seat = &sched.seats[id as usize];
            let tag = target.turns[seat.class.number()].fair.joined(seat.tag);
            self.classes[seat.class.number()].again.insert((tag, id), None);
        }
    }

    fn seat(&mut self, id: u32) -> Seat<'a> {
        let seat = &self.sched.seats[id as usize];
        let mut lanes = Line::new(seat.fair.in_turn());
        lanes.again = self.picky.remove(&id).unwrap_or_default();
        Seat { weight: self.sched.tenants[seat.tenant as usize].weight, lanes }
    }

    /// One more turn: the entry that would have it. `None`: there is nothing more to find.
    fn step(&mut self, unread: &mut Vec<LaneId>) -> Option<Next> {
        while self.looks > 0 {
            let class = self.turn()?;
            let ((tag, id), state) = self.classes[class.number()].next()?;
            let mut seat = state.unwrap_or_else(|| self.seat(id));
            let Some((next, cost)) = self.step_in(&mut seat, class, unread) else { continue };
            if !seat.lanes.is_empty() {
                let tag = charged(tag, cost.tokens, seat.weight);
                self.classes[class.number()].again.insert((tag, id), Some(seat));
            }
            let ready = std::array::from_fn(|class| !self.classes[class].is_empty());
            pass_over(self.owed.iter_mut(), ready, class, cost.tokens, &self.sched.options.share);
            return Some(next);
        }
        None
    }

    fn step_in(
        &mut self,
        seat: &mut Seat<'a>,
        class: Class,
        unread: &mut Vec<LaneId>,
    ) -> Option<(Next, Cost)> {
        while let Some(((tag, queue), left)) = seat.lanes.next() {
            self.looks = self.looks.saturating_sub(1);
            let id = LaneId { queue: QueueId(queue), class };
            let Some(mut left) = left.or_else(|| self.entries(id)) else {
                unread.push(id);
                continue;
            };
            let Some(at) = left.pop() else { continue };
            let row = self.sched.queues.get(queue as usize)?;
            let item = row.lanes.get(class)?.known().items().get(usize::from(at))?;
            if !left.is_empty() {
                seat.lanes.again.insert((charged(tag, item.cost.tokens, row.weight), queue), Some(left));
            }
            let entry = EntryId { partition: row.partition, seq: item.key.seq };
            return Some((Next { entry, lane: id, key: item.key }, item.cost));
        }
        None
    }

    /// See [`Scheduler::turn`].
    fn turn(&mut self) -> Option<Class> {
        let due = i64::try_from(self.sched.options.patience.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let mut aged: Option<(i64, Class)> = None;
        let mut urgent = None;
        for class in Class::all() {
            let owed = self.owed[class.number()];
            if self.classes[class.number()].is_empty() {
                continue;
            }
            if owed > due && aged.is_none_or(|(most, _)| owed > most) {
                aged = Some((owed, class));
            }
            urgent = urgent.or(Some(class));
        }
        aged.map(|(_, class)| class).or(urgent)
    }

    /// What of a lane may have a turn, if anything of it is known; nothing of those who stand in line.
    fn entries(&self, id: LaneId) -> Option<Entries> {
        let lane = self.sched.lane(id)?;
        if lane.rest.is_some() {
            return Some(Entries::new());
        }
        if lane.known().is_hungry() {
            return None;
        }
        let order = self.sched.queues[id.queue.0 as usize].order;
        Some(self.in_order(lane, order))
    }

    fn in_order(&self, lane: &Lane, order: Order) -> Entries {
        let items = lane.known().items();
        let late = |at: &u8| items[usize::from(*at)].deadline.is_some_and(|deadline| deadline <= self.now);
        let alive = (0..items.len() as u8).filter(|at| !late(at));
        if order != Order::Slack {
            return alive.rev().collect();
        }
        let mut waits: SmallVec<[(u8, u8); CAPACITY]> =
            alive.map(|at| (at, items[usize::from(at)].overtaken)).collect();
        let mut turns = Entries::new();
        let options = &self.sched.options;
        while !waits.is_empty() {
            // Q4: up to the first that has been overtaken often enough.
            let window = waits.iter().take(options.reach.max(1));
            let stop = window.clone().position(|(_, overtaken)| *overtaken >= options.overtake);
            let window = window.take(stop.map_or(usize::MAX, |stop| stop + 1)).enumerate();
            let least = window
                .min_by_key(|(_, (at, _))| items[usize::from(*at)].deadline.unwrap_or(Millis(u64::MAX)));
            let first = least.map_or(0, |(first, _)| first);
            waits[..first].iter_mut().for_each(|(_, overtaken)| *overtaken = overtaken.saturating_add(1));
            turns.push(waits.remove(first).0);
        }
        turns.reverse();
        turns
    }
}
