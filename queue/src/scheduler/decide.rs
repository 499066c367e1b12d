//! One decision: who goes next, and where. Nothing is written here and nothing is started.

use smallvec::SmallVec;

use super::lane::{At, member};
use super::{LaneId, Run, Scheduler, SeatAt, TargetAt, Timer, Turns};
use crate::entry::{Cost, Item, Lease, Order};
use crate::limits::Room;
use crate::name::{CLASSES, Class, EntryId, Millis};

/// What is to be done next.
#[derive(Debug)]
pub enum Decision<P> {
    /// Start this. A durable entry's start must be written and then confirmed.
    Start(Start<P>),
    /// This cannot start in time any more: finish it as expired. It has left the lane of a volatile queue; of a durable one
    /// it leaves when that is told.
    Expire {
        /// Where it waits.
        lane: LaneId,
        /// The entry.
        item: Item,
    },
    /// Nothing can start now.
    Idle,
}

/// A start that was decided.
#[derive(Debug)]
pub struct Start<P> {
    /// Its name.
    pub entry: EntryId,
    /// Where it waited.
    pub lane: LaneId,
    /// The entry.
    pub item: Item,
    /// The right to run it.
    pub lease: Lease,
    /// Where it runs.
    pub place: P,
    /// It lives in memory only: the decision needs no log.
    pub volatile: bool,
}

/// The first entries of a lane, in their order, of which one may go.
pub type Window<'a> = &'a [&'a Item];

/// Where entries can run. Asked within a decision: it must not wait.
pub trait Ground {
    /// A place that was taken. Dropping it gives it back.
    type Place;

    /// Finds a place for one of these entries of a tenant, preferably the one that is cheapest to run now.
    fn place(&mut self, target: &str, tenant: &str, window: Window<'_>) -> Placed<Self::Place>;
}

/// What the ground says.
#[derive(Debug)]
pub enum Placed<P> {
    /// The entry at this place of the window goes here.
    At(usize, P),
    /// None of these can go now, but others for the same target may. The lane is asked again after [`Scheduler::stir`], and
    /// when there are others among its first.
    NotThese,
    /// Nothing can go for this target until somebody says so by [`Scheduler::stir`].
    Full,
}

impl Scheduler {
    /// Decides once. Call it again until it says [`Decision::Idle`].
    pub fn decide<G: Ground + ?Sized>(&mut self, now: Millis, ground: &mut G) -> Decision<G::Place> {
        // One a decision, so that seats with old debts do not pile up.
        if let Some(id) = self.indebted.pop_front()
            && let Some(seat) = self.seats.get_mut(id as usize)
        {
            seat.noted = false;
            self.let_seat_go(id);
        }
        loop {
            while !self.fleet_full
                && let Some(id) = self.live.pop_front()
            {
                match self.decide_for(id, now, ground) {
                    Decision::Idle => {}
                    decision => {
                        // Targets take turns.
                        if self.targets.get(id as usize).is_some_and(|target| target.at == TargetAt::Live) {
                            self.live.push_back(id);
                        }
                        return decision;
                    }
                }
                let turns = &self.targets[id as usize].turns;
                let could =
                    Class::all().any(|class| !self.is_full(class) && !turns[class.number()].fair.is_empty());
                let target = &mut self.targets[id as usize];
                if target.at == TargetAt::Live {
                    if self.fleet_full {
                        self.live.push_front(id);
                    } else if could {
                        target.at = TargetAt::Crowded;
                        self.crowd.push_back(id);
                    } else {
                        target.at = TargetAt::Idle;
                    }
                    self.stand_in_lines(id);
                }
            }
            if self.fleet_full {
                return Decision::Idle;
            }
            // Whoever was first in the line of a class that has room again could not go, or there is room for more.
            if Class::all().any(|class| !self.is_full(class) && self.next_in_line(class)) {
                continue;
            }
            if self.fleet.is_full(false) {
                return Decision::Idle;
            }
            // What was kept free for others is not needed any more.
            let Some(id) = self.crowd.pop_front() else { return Decision::Idle };
            self.liven(id);
        }
    }

    /// A target that nothing can start for now stands in the line of each full class of which it has something.
    fn stand_in_lines(&mut self, id: u32) {
        for class in Class::all() {
            if !self.is_full(class) {
                continue;
            }
            let target = &mut self.targets[id as usize];
            let stands = &mut target.in_line[class.number()];
            let out = matches!(target.at, TargetAt::Idle | TargetAt::Crowded);
            if out && !*stands && !target.turns[class.number()].fair.is_empty() {
                *stands = true;
                self.lines[class.number()].push_back(id);
            }
        }
    }

    /// Wakes the first of the line of a class that has something of it and may be looked at for it. Whether there was one.
    pub(super) fn next_in_line(&mut self, class: Class) -> bool {
        while let Some(id) = self.lines[class.number()].pop_front() {
            let target = &mut self.targets[id as usize];
            target.in_line[class.number()] = false;
            let fair = &target.turns[class.number()].fair;
            // Whoever waits for something else comes to its end here again, and then stands in line again.
            let may = match target.at {
                TargetAt::Idle => !fair.is_empty(),
                TargetAt::Crowded => fair.first_kept().is_some(),
                _ => false,
            };
            if may {
                self.crowd.retain(|crowded| *crowded != id);
                self.liven(id);
                return true;
            }
        }
        false
    }

    /// Whoever stirs everything asks for this target again.
    fn ask_again(&mut self, id: u32) {
        if !std::mem::replace(&mut self.targets[id as usize].asks, true) {
            self.asking.push(id);
        }
    }

    /// Goes through the seats of a target whose turn it is, until one has something that may start.
    fn decide_for<G: Ground + ?Sized>(&mut self, id: u32, now: Millis, ground: &mut G) -> Decision<G::Place> {
        while self.targets[id as usize].at == TargetAt::Live
            && !self.fleet_full
            && let Some((class, seat)) = self.turn(id)
        {
            let Some(queue) = self.seats[seat as usize].fair.first() else {
                debug_assert!(false, "Q2: a seat with a turn has a lane");
                return Decision::Idle;
            };
            let lane = LaneId { queue: super::QueueId(queue), class };
            if let Some(decision) = self.decide_in(id, seat, lane, now, ground) {
                return decision;
            }
        }
        Decision::Idle
    }

    /// Whether as many entries of a class run as may.
    pub(super) fn is_full(&self, class: Class) -> bool {
        self.options.class_running[class.number()].is_some_and(|most| self.of_class[class.number()] >= most)
    }

    /// The class and the seat whose turn it is.
    fn turn(&self, target: u32) -> Option<(Class, u32)> {
        let turns = &self.targets[target as usize].turns;
        // Of the last places only those have a turn for whom they are kept free.
        let kept = self.fleet.is_full(false);
        let due = i64::try_from(self.options.patience.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let mut aged: Option<(i64, Class, u32)> = None;
        let mut urgent = None;
        for class in Class::all().filter(|class| !self.is_full(*class)) {
            let Turns { fair, owed, .. } = &turns[class.number()];
            let Some(seat) = (if kept { fair.first_kept() } else { fair.first() }) else { continue };
            // Q5: whoever has been passed over for too long comes first.
            if *owed > due && aged.is_none_or(|(most, ..)| *owed > most) {
                aged = Some((*owed, class, seat));
            }
            urgent = urgent.or(Some((class, seat)));
        }
        aged.map(|(_, class, seat)| (class, seat)).or(urgent)
    }

    /// Tries the lane whose turn it is. `None`: it has been moved out of the way, and the next may try.
    fn decide_in<G: Ground + ?Sized>(
        &mut self,
        target_id: u32,
        seat_id: u32,
        id: LaneId,
        now: Millis,
        ground: &mut G,
    ) -> Option<Decision<G::Place>> {
        self.looks += 1;
        let queue = &self.queues[id.queue.0 as usize];
        let lane = queue.lanes.get(id.class)?;
        let Some(head) = lane.known().items().first() else {
            self.stand(id, At::Reading);
            self.want(id);
            return None;
        };
        if head.deadline.is_some_and(|deadline| deadline <= now) {
            let item = head.clone();
            self.expire(id, &item);
            return Some(Decision::Expire { lane: id, item });
        }
        let tenant_id = queue.tenant;
        let tenant = &self.tenants[tenant_id as usize];
        let target = &self.targets[target_id as usize];
        let kept = self.seats[seat_id as usize].kept;
        let room = |item: &Item| {
            // The narrowest level first: there it waits.
            let own = queue.pool.as_ref().map_or(Room::Free, |pool| pool.room(item.cost, false, now));
            let levels = [
                (Level::Queue, own),
                (Level::Tenant, tenant.pool.room(item.cost, false, now)),
                (Level::Target, target.pool.room(item.cost, false, now)),
                (Level::Fleet, self.fleet.room(item.cost, kept, now)),
            ];
            levels.into_iter().find(|(_, room)| *room != Room::Free)
        };
        if let Some((level, room)) = room(head) {
            self.hold(level, room, id, seat_id, target_id, tenant_id);
            return None;
        }
        let reach = match queue.order {
            Order::Fifo => 1,
            Order::Warm | Order::Slack => self.options.reach.max(1),
        };
        let mut window: SmallVec<[&Item; 8]> = SmallVec::new();
        let mut places: SmallVec<[usize; 8]> = SmallVec::new();
        for (at, item) in lane.known().items().iter().take(reach).enumerate() {
            let late = item.deadline.is_some_and(|deadline| deadline <= now);
            if at == 0 || !late && room(item).is_none() {
                window.push(item);
                places.push(at);
            }
            // Q4: nobody goes before one that has been overtaken often enough.
            if item.overtaken >= self.options.overtake {
                break;
            }
        }
        if queue.order == Order::Slack {
            let least = (0..window.len()).min_by_key(|at| window[*at].deadline.unwrap_or(Millis(u64::MAX)));
            let least = least.unwrap_or_default();
            (window, places) =
                (SmallVec::from_slice(&[window[least]]), SmallVec::from_slice(&[places[least]]));
        }
        let placed = ground.place(&target.name, &tenant.name, &window);
        drop(window);
        match placed {
            Placed::At(at, place) => {
                let at = places.get(at).copied().unwrap_or_default();
                Some(Decision::Start(self.start(id, seat_id, at, place, now)?))
            }
            Placed::NotThese => {
                self.stand(id, At::Picky);
                self.targets[target_id as usize].picky.push(id);
                self.ask_again(target_id);
                self.spare(id);
                None
            }
            Placed::Full => {
                self.targets[target_id as usize].at = TargetAt::NoPlace;
                self.ask_again(target_id);
                None
            }
        }
    }

    fn start<P>(&mut self, id: LaneId, seat_id: u32, at: usize, place: P, now: Millis) -> Option<Start<P>> {
        let item = self.change(id, |inbox| inbox.take(at))??;
        let full: [bool; CLASSES] =
            std::array::from_fn(|at| Class::new(at as u8).is_some_and(|class| self.is_full(class)));
        let cost = item.cost;
        let queue = &mut self.queues[id.queue.0 as usize];
        let weight = queue.weight;
        let lane = queue.lanes.get_mut(id.class)?;
        let volatile = lane.rest.is_some();
        let ready = lane.at == At::Ready;
        let low = lane.known().is_low();
        let seat = &mut self.seats[seat_id as usize];
        seat.users += 1;
        seat.fair.charge(member(id), &mut lane.tag, cost.tokens, weight, ready);
        let weight = self.tenants[seat.tenant as usize].weight;
        let target = &mut self.targets[seat.target as usize];
        target.starts += u64::from(!volatile);
        let turns = &mut target.turns;
        let ready = seat.at == SeatAt::Ready;
        let member = seat.member(seat_id);
        turns[id.class.number()].fair.charge(member, &mut seat.tag, cost.tokens, weight, ready);
        // One at its own limit is not passed over by anybody.
        let ready = std::array::from_fn(|class| !turns[class].fair.is_empty() && !full[class]);
        let owed = turns.iter_mut().map(|turns| &mut turns.owed);
        pass_over(owed, ready, id.class, cost.tokens, &self.options.share);
        self.enter_pools(id.queue, cost, now);
        self.leases += 1;
        let lease = Lease(self.leases);
        let run = Run { lane: id, seat: seat_id, item: item.clone(), lease, confirmed: false, gone: false };
        self.of_class[id.class.number()] += 1;
        let entry = self.id(id, item.key.seq)?;
        if let Some(before) = self.running.insert(entry, run) {
            // Nothing runs twice, and what the first had taken must not stay taken for ever; its lease holds nothing now.
            tracing::error!(%entry, ?before, "an entry was chosen while a start of it was under way; that start is refused");
            self.release(&before, Cost::default(), now);
        }
        if volatile {
            self.drop_volatile(id, item.key);
            self.confirm(entry, lease);
        } else if low {
            self.want(id);
        }
        Some(Start { entry, lane: id, item, lease, place, volatile })
    }

    fn expire(&mut self, id: LaneId, item: &Item) {
        if self.lane(id).is_some_and(|lane| lane.rest.is_some()) {
            self.removed(id, item.key);
        } else {
            // Until the log says that it is gone it is out of the way.
            self.change(id, |inbox| inbox.take(0));
        }
    }

    /// Whoever cannot go waits where it is narrow, and nowhere else.
    fn hold(&mut self, level: Level, room: Room, lane: LaneId, seat_id: u32, target: u32, tenant: u32) {
        let (at, narrow) = match room {
            Room::Free => return,
            Room::AfterRelease(narrow) => (None, narrow),
            Room::At(at, narrow) => (Some(at), narrow),
        };
        let timer = match level {
            Level::Queue => {
                self.stand(lane, At::Full(narrow));
                self.spare(lane);
                Timer::Queue(lane.queue)
            }
            Level::Tenant => {
                self.changes += 1;
                let seat = &mut self.seats[seat_id as usize];
                let fair = &mut self.targets[target as usize].turns[seat.class.number()].fair;
                fair.leave(seat.member(seat_id), seat.tag);
                seat.at = SeatAt::Full(narrow);
                self.tenants[tenant as usize].held.push(seat_id);
                Timer::Tenant(tenant)
            }
            Level::Target => {
                self.targets[target as usize].at = TargetAt::Full(narrow);
                Timer::Target(target)
            }
            Level::Fleet => {
                self.fleet_full = true;
                Timer::Fleet
            }
        };
        if let Some(at) = at {
            self.wake_at(at, timer);
        }
    }
}

/// Q5: a class was served; what that is to the others, and to its own share.
pub(super) fn pass_over<'a>(
    owed: impl Iterator<Item = &'a mut i64>,
    ready: [bool; CLASSES],
    served: Class,
    tokens: u32,
    share: &[u32; CLASSES],
) {
    let tokens = i64::from(tokens.max(1));
    let urgent = Class::all().take_while(|class| *class != served);
    let went_before = urgent.into_iter().any(|class| ready[class.number()]);
    for (class, owed) in Class::all().zip(owed) {
        let part = tokens * i64::from(share[class.number()]);
        if class != served {
            let ready = ready[class.number()];
            if ready || *owed < 0 {
                *owed = owed.saturating_add(part).min(if ready { i64::MAX } else { 0 });
            }
        } else if went_before {
            *owed = owed.saturating_add(part).saturating_sub(tokens * 1_000);
        } else {
            // Nobody was kept from anything.
            *owed = (*owed).min(owed.saturating_sub(tokens * 1_000).max(0));
        }
    }
}

/// Where it can be narrow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    Queue,
    Tenant,
    Target,
    Fleet,
}
