//! What the scheduler is told: queues that open, entries that come and go, moves that were confirmed, reads that ended.

use super::lane::At;
use std::collections::HashMap;

use super::{Debt, DebtOf, Hunger, LaneId, QueueId, Run, Scheduler, SeatAt, TargetAt, Timer};
use crate::entry::{Cost, Item, Lease, Terms};
use crate::fair;
use crate::inbox::{Found, Left, Twice};
use crate::limits::{Narrow, Pool};
use crate::name::{Class, EntryId, Key, Millis, Seq};

/// How long a lane waits after a read that failed.
const AFTER_FAILURE: u64 = 100;

/// A lease that nobody holds any more, or never held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entry is not held with this lease")]
pub struct Stale;

// === Queues ===

impl Scheduler {
    /// A lane of which the log may hold entries: it is read when its turn comes.
    pub fn open(&mut self, lane: LaneId) {
        self.make_lane(lane, false, false);
        self.review(lane);
    }

    /// Holds a queue back, or lets it go on.
    pub fn pause(&mut self, id: QueueId, paused: bool) {
        let Some(queue) = self.queues.get_mut(id.0 as usize) else { return };
        queue.paused = paused;
        for class in Class::all() {
            let lane = LaneId { queue: id, class };
            if paused {
                self.review(lane);
                self.spare(lane);
                self.free_what_it_held(lane);
            } else {
                self.loosen(lane);
            }
        }
    }

    /// Changes what a queue may use, and its part.
    pub fn set_terms(&mut self, id: QueueId, terms: &Terms) {
        let Some(queue) = self.queues.get_mut(id.0 as usize) else { return };
        self.changes += 1;
        queue.weight = terms.weight.max(1);
        queue.order = terms.order;
        match &mut queue.pool {
            Some(pool) => pool.set(terms.limits.clone()),
            None if terms.limits.is_none() => {}
            None => {
                let mut pool = Pool::new(terms.limits.clone());
                for run in self.running.values().filter(|run| run.lane.queue == id) {
                    pool.take(run.item.cost, Millis(0));
                }
                pool.set(terms.limits.clone());
                queue.pool = Some(Box::new(pool));
            }
        }
        self.free_queue(id);
    }

    /// What is known of a lane is wrong: it is read anew.
    pub fn distrust(&mut self, id: LaneId) {
        self.change(id, |inbox| *inbox = std::mem::replace(inbox, crate::inbox::Inbox::unknown()).doubted());
    }

    /// A lane that cannot run keeps nothing that can be read again, if memory is short.
    pub(super) fn spare(&mut self, id: LaneId) {
        if self.cached > self.options.cached
            && self
                .lane(id)
                .is_some_and(|lane| lane.rest.is_none() && !matches!(lane.at, At::Ready | At::Empty))
        {
            self.keep_place(id, crate::inbox::Inbox::forget);
        }
    }

    /// If memory is short, a lane keeps its first entry: all that a turn needs. Called wherever a lane gains entries, since
    /// what is held back further up (by a tenant's limit, or for want of a place) is never spared.
    fn thin(&mut self, id: LaneId) {
        if self.cached > self.options.cached
            && self.lane(id).is_some_and(|lane| lane.rest.is_none() && lane.known().items().len() > 1)
        {
            self.keep_place(id, crate::inbox::Inbox::thin);
        }
    }
}

// === Entries ===

impl Scheduler {
    /// -> Inbox
    ///
    /// # Errors
    /// It is there already: what was told is not what was committed.
    pub fn added(&mut self, lane: LaneId, item: Item) -> Result<(), Twice> {
        self.make_lane(lane, true, false);
        let told = self.change(lane, |inbox| inbox.added(item)).unwrap_or(Ok(()));
        self.thin(lane);
        told
    }

    /// -> Inbox, of an entry that lives in memory only and so has its lane to itself and its like.
    ///
    /// # Errors
    /// It is there already.
    pub fn stand_in_line(&mut self, lane: LaneId, item: Item) -> Result<(), Twice> {
        self.make_lane(lane, true, true);
        let Some(rest) = self.lane_mut(lane).and_then(|lane| lane.rest.as_mut()) else {
            return Err(Twice(item.key));
        };
        if rest.insert(item.key, item.clone()).is_some() {
            return Err(Twice(item.key));
        }
        self.volatile += 1;
        if let Some(deadline) = item.deadline {
            self.wake_at(deadline, Timer::Expire(lane, item.key));
        }
        self.change(lane, |inbox| inbox.added(item)).unwrap_or(Ok(()))
    }

    /// Inbox -> out of it: cancelled, expired, moved aside. If its start is on its way to the log, that start will be
    /// rejected.
    pub fn removed(&mut self, lane: LaneId, key: Key) -> Left {
        if let Some(id) = self.id(lane, key.seq)
            && let Some(run) = self.running.get_mut(&id)
            && !run.confirmed
        {
            run.gone = true;
        }
        self.drop_volatile(lane, key);
        let first = self.lane(lane).and_then(|lane| lane.known().items().first());
        let first = first.is_some_and(|item| item.key == key);
        let left = self.change(lane, |inbox| inbox.removed(key)).unwrap_or(Left::Unknown);
        if first {
            self.free_what_it_held(lane);
        }
        left
    }

    /// Q6: what was first in a lane has left, or may not. If a level was kept for it, others may go.
    pub(super) fn free_what_it_held(&mut self, id: LaneId) {
        let Some(lane) = self.lane(id) else { return };
        let size = |narrow: Narrow| matches!(narrow, Narrow::Tokens | Narrow::Blocks);
        let seat = &self.seats[lane.seat as usize];
        let (target, tenant) = (seat.target, seat.tenant);
        if matches!(seat.at, SeatAt::Full(narrow) if size(narrow)) {
            self.free_tenant(tenant);
        }
        if matches!(self.targets[target as usize].at, TargetAt::Full(narrow) if size(narrow)) {
            self.free_target(target);
        }
        self.free_fleet();
    }

    pub(super) fn id(&self, lane: LaneId, seq: Seq) -> Option<EntryId> {
        let queue = self.queues.get(lane.queue.0 as usize)?;
        Some(EntryId { partition: queue.partition, seq })
    }

    pub(super) fn drop_volatile(&mut self, lane: LaneId, key: Key) {
        let gone = self.lane_mut(lane).and_then(|lane| lane.rest.as_mut()?.remove(&key));
        if let Some(item) = gone {
            self.volatile -= 1;
            if let Some(deadline) = item.deadline {
                self.timers.remove(&(deadline, Timer::Expire(lane, key)));
            }
        }
    }

    /// Whether a start may still be written: its entry has not left since it was decided.
    pub fn may_start(&self, id: EntryId, lease: Lease) -> bool {
        self.running.get(&id).is_some_and(|run| run.lease == lease && !run.gone && !run.confirmed)
    }

    /// Whether a start of this entry is on its way to the log although the entry has left: it will be refused.
    pub fn is_gone(&self, id: EntryId) -> bool {
        self.running.get(&id).is_some_and(|run| run.gone)
    }

    /// Inbox -> Running: the log has it.
    pub fn confirm(&mut self, id: EntryId, lease: Lease) {
        let Some(run) = self.running.get_mut(&id).filter(|run| run.lease == lease) else { return };
        run.confirmed = true;
        let (lane, key) = (run.lane, run.item.key);
        self.change(lane, |inbox| inbox.removed(key));
    }

    /// A start that came to nothing: what it took is free again, and the entry is where it was, unless it left meanwhile.
    pub fn undo(&mut self, id: EntryId, lease: Lease, now: Millis) {
        if self.running.get(&id).is_none_or(|run| run.lease != lease || run.confirmed) {
            return;
        }
        let Some(run) = self.end(id, lease, Cost::default(), now) else { return };
        if !run.gone {
            self.change(run.lane, |inbox| inbox.put_back(run.item));
            self.thin(run.lane);
        }
    }

    /// Whether this lease holds this entry, confirmed.
    pub fn holds(&self, id: EntryId, lease: Lease) -> bool {
        self.running.get(&id).is_some_and(|run| run.lease == lease && run.confirmed)
    }

    /// The lease and the place of an entry that runs.
    pub fn run(&self, id: EntryId) -> Option<(LaneId, Lease, &Item)> {
        self.running.get(&id).map(|run| (run.lane, run.lease, &run.item))
    }

    /// Running -> out of it; `used`: what it really cost. What it is then the caller knows.
    ///
    /// # Errors
    /// It is not held with this lease.
    pub fn ended(
        &mut self,
        id: EntryId,
        lease: Lease,
        used: Cost,
        now: Millis,
    ) -> Result<(LaneId, Item), Stale> {
        let run = self.end(id, lease, used, now).ok_or(Stale)?;
        Ok((run.lane, run.item))
    }

    fn end(&mut self, id: EntryId, lease: Lease, used: Cost, now: Millis) -> Option<Run> {
        if self.running.get(&id)?.lease != lease {
            return None;
        }
        let run = self.running.remove(&id)?;
        self.release(&run, used, now);
        Some(run)
    }

    /// What a run had taken is free again.
    pub(super) fn release(&mut self, run: &Run, used: Cost, now: Millis) {
        let class = run.lane.class;
        let was_full = self.is_full(class);
        self.of_class[class.number()] -= 1;
        if was_full {
            // One place, one target; if it cannot go, the next is asked by whoever decides.
            self.next_in_line(class);
        }
        let cost = run.item.cost;
        let more = i64::from(used.tokens.max(1)) - i64::from(cost.tokens.max(1));
        let queue = &mut self.queues[run.lane.queue.0 as usize];
        queue.runs -= 1;
        if let Some(pool) = &mut queue.pool {
            pool.release(cost);
            pool.draw(more, now);
        }
        let (tenant, target) = (queue.tenant, queue.target);
        self.charge_more(run, more);
        self.with_tenant(tenant, |one| {
            one.pool.release(cost);
            one.pool.draw(more, now);
        });
        for pool in [&mut self.targets[target as usize].pool, &mut self.fleet] {
            pool.release(cost);
            pool.draw(more, now);
        }
        self.seats[run.seat as usize].users -= 1;
        self.let_seat_go(run.seat);
        self.free_queue(run.lane.queue);
        self.free_tenant(tenant);
        self.free_target(target);
        self.free_fleet();
    }

    fn charge_more(&mut self, run: &Run, more: i64) {
        self.changes += u64::from(more != 0);
        let seat = &mut self.seats[run.seat as usize];
        let queue = &mut self.queues[run.lane.queue.0 as usize];
        if let Some(lane) = queue.lanes.get_mut(run.lane.class) {
            let ready = lane.at == At::Ready;
            seat.fair.settle(super::lane::member(run.lane), &mut lane.tag, more, queue.weight, ready);
        }
        let weight = self.tenants[seat.tenant as usize].weight;
        let fair = &mut self.targets[seat.target as usize].turns[seat.class.number()].fair;
        let (member, ready) = (seat.member(run.seat), seat.at == SeatAt::Ready);
        fair.settle(member, &mut seat.tag, more, weight, ready);
    }

    /// What a tenant will owe the others of its class and target once this entry has ended with this cost, and others of
    /// its entries in the same batch with so much more than was thought.
    pub fn debt_after(&self, id: EntryId, used: Cost, more: i64) -> Option<(Debt, i64)> {
        let run = self.running.get(&id)?;
        let seat = &self.seats[run.seat as usize];
        let weight = self.tenants[seat.tenant as usize].weight;
        let fair = &self.targets[seat.target as usize].turns[seat.class.number()].fair;
        let more = more + i64::from(used.tokens.max(1)) - i64::from(run.item.cost.tokens.max(1));
        let tokens = fair.owed(seat.tag, weight).saturating_add_signed(more);
        Some((Debt { tokens, at: fair.now() }, more))
    }

    /// What tenants owed before a restart. What is left of each debt is returned: others were served after it was written.
    pub fn set_debts(&mut self, debts: &[(DebtOf, Debt)]) -> Vec<Debt> {
        let mut last: HashMap<(&str, Class), u64> = HashMap::new();
        for (DebtOf { target, class, .. }, debt) in debts {
            let last = last.entry((&**target, *class)).or_default();
            *last = debt.at.max(*last);
        }
        let mut left = |of: &DebtOf, debt: &Debt| {
            let passed = last.get(&(&*of.target, of.class)).map_or(0, |last| last - debt.at);
            self.set_debt(of, debt.tokens, passed)
        };
        debts.iter().map(|(of, debt)| left(of, debt)).collect()
    }

    /// Whether a tenant may owe something there. Who is forgotten owes nothing.
    pub fn may_owe(&self, of: &DebtOf) -> bool {
        let (target, tenant) = (self.target_of.get(&of.target), self.tenant_of.get(&of.tenant));
        let seat = target.zip(tenant).map(|(target, tenant)| (*target, of.class, *tenant));
        seat.is_some_and(|seat| self.seat_of.contains_key(&seat))
    }

    fn set_debt(&mut self, of: &DebtOf, tokens: u64, passed: u64) -> Debt {
        let weight = self.tenant_of.get(&of.tenant).map_or(1, |id| self.tenants[*id as usize].weight);
        let tokens = tokens.saturating_sub(fair::tokens(passed, weight));
        let target = self.target(&of.target);
        if tokens == 0 {
            return Debt { tokens, at: self.targets[target as usize].turns[of.class.number()].fair.now() };
        }
        let tenant = self.tenant(&of.tenant);
        let id = self.seat(target, of.class, tenant);
        let seat = &mut self.seats[id as usize];
        let fair = &mut self.targets[target as usize].turns[of.class.number()].fair;
        let ready = seat.at == SeatAt::Ready;
        if ready {
            fair.leave(seat.member(id), seat.tag);
        }
        // Another log may have said more.
        seat.tag = seat.tag.max(fair.tag_of_debt(tokens, weight));
        if ready {
            fair.join(seat.member(id), &mut seat.tag);
        }
        let (left, unused) = (Debt { tokens, at: fair.now() }, seat.users == 0);
        if unused && !ready {
            self.look_again_at(id);
        }
        left
    }
}

// === Reads ===

impl Scheduler {
    /// The next lane that may read; it is under way from now on, until [`Self::read`] or [`Self::read_failed`].
    pub fn next_read(&mut self) -> Option<Hunger> {
        while self.filling < self.options.refills && (self.cached < self.options.cached || self.filling == 0)
        {
            let id = self.hungry.pop_front()?;
            let Some(lane) = self.lane_mut(id) else { continue };
            lane.asked = false;
            if let Some(ticket) = lane.inbox_mut().begin() {
                self.filling += 1;
                return Some(Hunger { lane: id, ticket });
            }
            self.loosen_reader(id);
        }
        None
    }

    /// A read came to its end.
    pub fn read(&mut self, hunger: &Hunger, found: Found) {
        self.filling -= 1;
        let (id, ticket) = (hunger.lane, &hunger.ticket);
        self.change(id, |inbox| inbox.finish(ticket, found));
        self.thin(id);
        self.loosen_reader(id);
    }

    /// A read failed, or was cancelled.
    pub fn read_failed(&mut self, hunger: &Hunger, now: Millis) {
        self.filling -= 1;
        let id = hunger.lane;
        let Some(lane) = self.lane_mut(id) else { return };
        if lane.inbox_mut().fail(&hunger.ticket) {
            lane.resting = true;
            self.wake_at(now.plus(AFTER_FAILURE), Timer::Read(id));
        } else {
            self.loosen_reader(id);
        }
    }

    fn loosen_reader(&mut self, id: LaneId) {
        if self.lane(id).is_some_and(|lane| lane.at == At::Reading && !lane.known().is_filling()) {
            self.loosen(id);
        }
    }
}

// === Time, and places that become free ===

impl Scheduler {
    /// When it must be looked at again, should nothing happen until then.
    pub fn next_timer(&self) -> Option<Millis> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What has become due. Entries that expired are returned: they have left.
    pub fn tick(&mut self, now: Millis) -> Vec<(LaneId, Item)> {
        let mut expired = Vec::new();
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Fleet => self.free_fleet(),
                Timer::Target(id) if self.targets.contains(id as usize) => self.free_target(id),
                Timer::Tenant(id) if self.tenants.contains(id as usize) => self.free_tenant(id),
                Timer::Queue(id) => self.free_queue(id),
                Timer::Read(id) => {
                    if let Some(lane) = self.lane_mut(id) {
                        lane.resting = false;
                    }
                    self.loosen_reader(id);
                }
                Timer::Expire(lane, key) => {
                    let rest = self.lane(lane).and_then(|lane| lane.rest.as_ref());
                    if let Some(item) = rest.and_then(|rest| rest.get(&key)).cloned() {
                        self.removed(lane, key);
                        expired.push((lane, item));
                    }
                }
                Timer::Target(_) | Timer::Tenant(_) => {}
            }
        }
        expired
    }

    /// Something about where entries could run has changed: an engine has room again, or is there again.
    pub fn stir(&mut self, target: Option<&str>) {
        if let Some(name) = target {
            if let Some(id) = self.target_of.get(name).copied() {
                self.stir_target(id);
            }
        } else {
            for id in std::mem::take(&mut self.asking) {
                self.targets[id as usize].asks = false;
                self.stir_target(id);
            }
        }
    }

    fn stir_target(&mut self, id: u32) {
        let target = &mut self.targets[id as usize];
        let picky = std::mem::take(&mut target.picky);
        if target.at == TargetAt::NoPlace {
            self.liven(id);
        }
        for lane in picky {
            if self.lane(lane).is_some_and(|lane| lane.at == At::Picky) {
                self.loosen(lane);
            }
        }
    }

    pub(super) fn liven(&mut self, id: u32) {
        let target = &mut self.targets[id as usize];
        if target.turns.iter().any(|turns| !turns.fair.is_empty()) {
            target.at = TargetAt::Live;
            self.live.push_back(id);
        } else {
            target.at = TargetAt::Idle;
        }
    }

    pub(super) fn free_queue(&mut self, id: QueueId) {
        for class in Class::all() {
            let lane = LaneId { queue: id, class };
            if self.lane(lane).is_some_and(|lane| matches!(lane.at, At::Full(_))) {
                self.loosen(lane);
            }
        }
    }

    /// At most the tenant's seats that are held back: its classes times the targets it uses. All are looked at, since the
    /// one that waits longest may have no engine, while another has.
    pub(super) fn free_tenant(&mut self, id: u32) {
        for seat_id in std::mem::take(&mut self.tenants[id as usize].held) {
            let seat = &mut self.seats[seat_id as usize];
            seat.at = SeatAt::Idle;
            if !seat.fair.is_empty() {
                self.seat_ready(seat_id);
            }
        }
    }

    pub(super) fn free_target(&mut self, id: u32) {
        if matches!(self.targets[id as usize].at, TargetAt::Full(_)) {
            self.liven(id);
        }
    }

    pub(super) fn free_fleet(&mut self) {
        self.fleet_full = false;
    }

    /// The tenant's places that are kept free, in the books.
    pub(super) fn enter_pools(&mut self, queue: QueueId, cost: Cost, now: Millis) {
        let one = &mut self.queues[queue.0 as usize];
        one.runs += 1;
        let (tenant, target) = (one.tenant, one.target);
        if let Some(pool) = &mut one.pool {
            pool.take(cost, now);
        }
        self.with_tenant(tenant, |one| one.pool.take(cost, now));
        self.targets[target as usize].pool.take(cost, now);
        self.fleet.take(cost, now);
    }
}
