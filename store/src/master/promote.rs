//! Promotion: what is on disk only and hot goes to memory. First the gates, then the life of a task.
//!
//! A task: ordered (the source is pinned, a slot taken, memory promised) -> staged (memory reserved) -> completed. Each other
//! way out frees pin, slot and promise at once; bytes that a late write may still reach are free when their node says so.

use std::sync::atomic::Ordering;

use super::Master;
use super::candidates::{Candidate, Demand};
use super::error::Error;
use super::name::{Millis, Node, Tier, Version};
use super::node::{Member, share};
use super::object::Flags;
use super::order::Place;
use super::outbox::{Copying, Order, Slip};
use super::shard::Shard;

/// One task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    at: Place,
    number: u64,
}

/// What came of trying to promote an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Its holder is told to.
    Queued(TaskId),
    /// Not now. It is a candidate.
    Later(Later),
    /// There is nothing to do.
    Never(Never),
}

/// Why not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Later {
    /// Memory is above the watermark.
    Watermark,
    /// Its tenant has as much memory as it may.
    Quota,
    /// As many are under way as may be.
    Cap,
    /// The line of orders of its holder is full.
    PushFailed,
    /// No node that has it can be asked now.
    HolderAway,
    /// It is being put anew.
    BeingPut,
    /// There was no memory when it came to it.
    NoMemory,
    /// The holder could not.
    Failed,
    /// The holder took too long.
    TimedOut,
}

/// Why not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Never {
    /// Promotion is off.
    Off,
    /// There is no such object.
    Gone,
    /// It is in memory.
    InMemory,
    /// It is on its way.
    InFlight,
    /// It was not read often enough.
    Cold,
}

/// Memory for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staging {
    /// On which node.
    pub target: Node,
    /// What it will be there.
    pub version: Version,
    /// By when it is to be committed.
    pub deadline: Millis,
}

/// A promotion under way.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) number: u64,
    /// Whose disk it is read from: that copy is pinned.
    pub(super) holder: Node,
    /// In whose memory it will be: promised, or reserved once staged.
    pub(super) target: Node,
    pub(super) staged: bool,
    pub(super) deadline: Millis,
    slip: Slip,
    /// What it becomes again if it fails.
    pub(super) history: Candidate,
}

/// On what grounds a promotion is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// Reads lately.
    pub(super) score: u8,
    /// Somebody waits for it: no reads are needed.
    pub(super) demand: Option<Demand>,
    /// The tick asks, for a candidate.
    pub(super) retry: bool,
}

/// How a task ends without a copy in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By its holder: nothing that it writes can still land in its own memory.
    Failed(Later, Option<Box<str>>),
    Expired,
    Cancelled,
    /// Cancelled, since this node is lost to it: tried again if the object is on another one's disk.
    Lost(Node),
}

impl TaskId {
    /// What it is called where it is only handed on.
    pub(crate) fn raw(self) -> (u32, u64) {
        (self.at.0, self.number)
    }

    /// What [`TaskId::raw`] was of. One that never was is [`Error::Stale`] wherever it is used.
    pub(crate) fn of((at, number): (u32, u64)) -> Self {
        Self { at: Place(at), number }
    }
}

// === Admission ===

impl Master {
    /// On disk only -> ordered, if every gate lets it through.
    pub(super) fn admit(&self, shard: &mut Shard, at: Place, ask: &Ask, now: Millis) -> Tried {
        let tried = match self.gates(shard, at, ask, now) {
            Ok((holder, target)) => self.begin(shard, at, ask, (holder, target), now),
            Err(tried) => tried,
        };
        let rejected = &mut shard.tally.rejected;
        let gate = match tried {
            Tried::Queued(_) => return tried,
            Tried::Never(Never::Off) => &mut rejected.off,
            Tried::Never(Never::Gone) => &mut rejected.gone,
            Tried::Never(Never::InMemory) => &mut rejected.in_memory,
            Tried::Never(Never::InFlight) => &mut rejected.in_flight,
            Tried::Never(Never::Cold) => &mut rejected.cold,
            Tried::Later(Later::BeingPut) => &mut rejected.being_put,
            Tried::Later(Later::Quota) => &mut rejected.quota,
            Tried::Later(Later::Cap) => &mut rejected.cap,
            Tried::Later(Later::HolderAway) => &mut rejected.holder_away,
            Tried::Later(Later::PushFailed) => &mut rejected.push_failed,
            Tried::Later(Later::Watermark | Later::NoMemory | Later::Failed | Later::TimedOut) => {
                &mut rejected.watermark
            }
        };
        *gate += 1;
        // Whatever is final leaves nothing to try again; a key that cooled down is not final.
        if matches!(tried, Tried::Never(why) if why != Never::Cold) {
            self.settle(shard, at);
        }
        tried
    }

    /// From which disk to which memory, or why not.
    fn gates(&self, shard: &Shard, at: Place, ask: &Ask, now: Millis) -> Result<(Node, Node), Tried> {
        let options = self.promotion();
        if !options.on {
            return Err(Tried::Never(Never::Off));
        }
        let object = shard.rows.get(at.row()).ok_or(Tried::Never(Never::Gone))?;
        if object.flags.has(Flags::PROMOTING) {
            return Err(Tried::Never(Never::InFlight));
        }
        // What is only in memory that cannot be read now has nothing to be promoted from.
        if self.in_memory(object) || object.in_tier(Tier::Disk).next().is_none() {
            return Err(Tried::Never(Never::InMemory));
        }
        if ask.score < options.threshold && ask.demand.is_none() && !ask.retry {
            return Err(Tried::Never(Never::Cold));
        }
        if shard.put_of(object.tenant, &object.key).is_some() {
            return Err(Tried::Later(Later::BeingPut));
        }
        let mut disks = object.in_tier(Tier::Disk).map(|copy| copy.node);
        let holder = disks.find(|node| self.readable(*node)).ok_or(Tried::Later(Later::HolderAway))?;
        if self.busy.tasks.load(Ordering::Relaxed) >= options.at_a_time {
            return Err(Tried::Later(Later::Cap));
        }
        let account = self.account(object.tenant);
        let over = account.used(Tier::Memory).saturating_add(object.bytes()) > account.quota(Tier::Memory);
        if over {
            return Err(Tried::Later(Later::Quota));
        }
        let target = self.target(holder, object.bytes(), now).ok_or(Tried::Later(Later::Watermark))?;
        Ok((holder, target))
    }

    /// Whose memory takes so many bytes more without going above the watermark: the holder's own, or the emptiest. The bytes
    /// are promised then.
    fn target(&self, holder: Node, bytes: u64, now: Millis) -> Option<Node> {
        if self.promise(self.member(holder).ok()?, bytes, now) {
            return Some(holder);
        }
        let mut others: Vec<(u64, Node)> = self
            .members()
            .filter(|member| member.node != holder && member.is_exact())
            .map(|member| {
                let space = member.lock().space[0];
                ((space.settled() + space.promised) * 1_000 / space.capacity.max(1), member.node)
            })
            .collect();
        others.sort_unstable();
        let mut nodes = others.into_iter().filter_map(|(_, node)| self.member(node).ok());
        nodes.find(|member| self.promise(member, bytes, now)).map(|member| member.node)
    }

    fn promise(&self, member: &Member, bytes: u64, now: Millis) -> bool {
        let mut inside = member.lock();
        let fits = inside.takes() && Self::over(&mut inside, bytes, self.options.high, now) == 0;
        if fits {
            inside.space(Tier::Memory).promised += bytes;
        }
        fits
    }

    /// By how much so many bytes more would be above the watermark, once everything that leaves has left.
    pub(super) fn over(inside: &mut super::node::Inside, bytes: u64, high: u32, now: Millis) -> u64 {
        let waited = inside.waited(None, now);
        let space = inside.space[0];
        let taken = space.settled().saturating_add(space.promised + waited).saturating_add(bytes);
        taken.saturating_sub(share(space.capacity, high))
    }

    fn begin(&self, shard: &mut Shard, at: Place, ask: &Ask, way: (Node, Node), now: Millis) -> Tried {
        let (holder, target) = way;
        let number = self.number();
        let task = TaskId { at, number };
        let row = at.row() as u32;
        let Some(object) = shard.rows.get_mut(at.row()) else { return Tried::Never(Never::Gone) };
        let deadline = now.plus(self.promotion().patience);
        let tenant = object.tenant;
        let waits = shard.states.get(&tenant).and_then(|state| state.candidates.get(&row));
        let wanted_by = waits.and_then(Candidate::deadline).into_iter().chain(ask.demand.map(|d| d.deadline));
        let order = Order::Promote(
            task,
            Copying {
                name: object.name(),
                version: object.version,
                size: object.bytes(),
                deadline: wanted_by.min(),
                heat: ask.score,
                ends: shard.lives.of(row),
            },
        );
        let slip = self.member(holder).ok().and_then(|m| m.lock().outbox.push(order, self.options.orders));
        let Some(slip) = slip else {
            if let Ok(target) = self.member(target) {
                target.lock().space(Tier::Memory).promised -= object.bytes();
            }
            return Tried::Later(Later::PushFailed);
        };
        object.flags.set(Flags::PROMOTING);
        let mut history = match shard.uncandidate(row) {
            Some(candidate) => {
                self.busy.candidates.fetch_sub(1, Ordering::Relaxed);
                let counters = &mut shard.tally.candidates;
                *if ask.retry { &mut counters.admitted } else { &mut counters.settled } += 1;
                candidate
            }
            None => Candidate::new(ask.score, now),
        };
        history.hit(ask.score, self.promotion().threshold);
        if !ask.retry && ask.demand.is_none() {
            history.refresh(now);
        }
        history.wanted.extend(ask.demand);
        let task = Task { number, holder, target, staged: false, deadline, slip, history };
        shard.tasks.insert(row, task);
        shard.tally.promotions.admitted += 1;
        self.busy.tasks.fetch_add(1, Ordering::Relaxed);
        self.wake.orders(holder);
        Tried::Queued(TaskId { at, number })
    }
}

// === The life of a task ===

impl Master {
    /// Ordered -> staged: memory for the task, once, for its holder only. Its deadline begins anew.
    ///
    /// # Errors
    /// Whatever does not fit; the task goes on. After [`Error::NoMemory`] it is ended, and tried again later.
    pub fn allocate(&self, task: TaskId, holder: Node, size: u64, now: Millis) -> Result<Staging, Error> {
        let mut guard = self.of_task(task)?;
        let shard = &mut *guard;
        let row = task.at.row() as u32;
        let (found, object) = match (shard.tasks.get_mut(&row), shard.rows.get(task.at.row())) {
            (Some(found), Some(object)) if found.number == task.number => (found, object),
            _ => return Err(Error::Stale),
        };
        if found.holder != holder {
            return Err(Error::WrongHolder);
        }
        if object.bytes() != size {
            return Err(Error::WrongSize { expected: object.bytes() });
        }
        if found.staged {
            return Err(Error::Twice);
        }
        let account = self.account(object.tenant);
        let target = self.member(found.target)?;
        let fits = account.charge(Tier::Memory, size) && {
            let mut inside = target.lock();
            let fits = inside.takes()
                && inside.space[0].free() >= size.saturating_add(inside.waited(None, now))
                // The same copy may still be on its way out there.
                && !inside.leaving.contains_key(&(object.version, Tier::Memory));
            if fits {
                let space = inside.space(Tier::Memory);
                space.promised -= size;
                space.reserved += size;
            } else {
                account.give(Tier::Memory, size);
            }
            fits
        };
        if !fits {
            self.end_task(shard, task.at, End::Failed(Later::NoMemory, None));
            self.again(shard, task.at, now);
            return Err(Error::NoMemory);
        }
        found.staged = true;
        found.deadline = now.plus(self.promotion().patience);
        Ok(Staging { target: found.target, version: object.version, deadline: found.deadline })
    }

    /// Staged -> completed: exactly that copy is readable, leased, and the source no longer pinned.
    ///
    /// # Errors
    /// [`Error::Stale`] if the task was ended before: what was staged is dropped.
    pub fn promoted(&self, task: TaskId, holder: Node, now: Millis) -> Result<(), Error> {
        let mut shard = self.of_task(task)?;
        let found = shard.tasks.get(&(task.at.row() as u32)).filter(|found| found.number == task.number);
        let found = found.ok_or(Error::Stale)?;
        if found.holder != holder {
            return Err(Error::WrongHolder);
        }
        if !found.staged {
            return Err(Error::Stale);
        }
        self.complete(&mut shard, task.at, now);
        Ok(())
    }

    /// Ordered or staged -> failed, and tried again later. A holder that is its own target says with it that nothing it
    /// writes can still land.
    ///
    /// # Errors
    /// [`Error::Stale`] if the task was ended before.
    pub fn failed(&self, task: TaskId, holder: Node, error: &str, now: Millis) -> Result<(), Error> {
        let mut shard = self.of_task(task)?;
        let found = shard.tasks.get(&(task.at.row() as u32)).filter(|found| found.number == task.number);
        if found.ok_or(Error::Stale)?.holder != holder {
            return Err(Error::WrongHolder);
        }
        // Enough for an operator; a candidate must stay small.
        let error: String = error.chars().take(200).collect();
        self.end_task(&mut shard, task.at, End::Failed(Later::Failed, Some(error.into())));
        self.again(&mut shard, task.at, now);
        Ok(())
    }

    fn of_task(&self, task: TaskId) -> Result<parking_lot::MutexGuard<'_, Shard>, Error> {
        self.shards.get(task.at.shard()).map(|shard| shard.lock()).ok_or(Error::Stale)
    }

    fn complete(&self, shard: &mut Shard, at: Place, now: Millis) {
        let row = at.row() as u32;
        let Some(task) = shard.tasks.remove(&row) else { return };
        self.busy.tasks.fetch_sub(1, Ordering::Relaxed);
        let Some(object) = shard.rows.get_mut(at.row()) else { return };
        object.flags.clear(Flags::PROMOTING);
        object.lease = object.lease.max(now.plus(self.promotion().lease));
        // It comes with the heat that brought it here, for whoever would displace it.
        object.heat = super::heat::Heat::of(task.history.score, self.moment(now));
        if !task.history.wanted.is_empty() {
            object.flags.set(Flags::WARMED);
        }
        shard.tally.promotions.completed += 1;
        shard.tally.promotions.completed_bytes += object.bytes();
        self.warmed(shard, &task.history.wanted, now);
        if let Ok(target) = self.member(task.target) {
            self.gain(shard, at, target, Tier::Memory, true);
        }
        self.stir(&self.stirred.slot);
    }

    /// Any stage -> ended, without a copy in memory. What it held is free, but for bytes that somebody may still write to.
    ///
    /// Whoever waits for it is told that it is gone, unless it is tried again: if it failed, [`Master::again`] must follow.
    pub(super) fn end_task(&self, shard: &mut Shard, at: Place, end: End) {
        let row = at.row() as u32;
        let Some(task) = shard.tasks.remove(&row) else { return };
        self.busy.tasks.fetch_sub(1, Ordering::Relaxed);
        let Some(object) = shard.rows.get_mut(at.row()) else { return };
        object.flags.clear(Flags::PROMOTING);
        let bytes = object.bytes();
        let by_holder = matches!(end, End::Failed(..));
        if let Ok(holder) = self.member(task.holder) {
            let mut inside = holder.lock();
            if !inside.outbox.withdraw(task.slip) && !by_holder {
                let id = TaskId { at, number: task.number };
                inside.outbox.urgent(Order::CancelTask { name: object.name(), task: id });
                self.wake.orders(task.holder);
            }
        }
        if let Ok(target) = self.member(task.target) {
            let mut inside = target.lock();
            if task.staged {
                inside.space(Tier::Memory).reserved -= bytes;
                self.account(object.tenant).give(Tier::Memory, bytes);
                // A holder that writes into its own memory has said that it no longer does.
                if !(by_holder && task.target == task.holder) {
                    inside.drop_copy(object.name(), object.version, Tier::Memory, bytes);
                    self.wake.orders(task.target);
                }
            } else {
                inside.space(Tier::Memory).promised -= bytes;
            }
        }
        let promotions = &mut shard.tally.promotions;
        match end {
            End::Failed(why, error) => {
                promotions.failed += 1;
                self.keep(shard, at, task.history, why, error);
            }
            End::Expired => {
                promotions.expired += 1;
                self.keep(shard, at, task.history, Later::TimedOut, None);
            }
            End::Cancelled => {
                promotions.cancelled += 1;
                self.unwanted(shard, &task.history.wanted);
            }
            End::Lost(node) => {
                promotions.cancelled += 1;
                if object.in_tier(Tier::Disk).any(|copy| copy.node != node) {
                    self.keep(shard, at, task.history, Later::HolderAway, None);
                } else {
                    self.unwanted(shard, &task.history.wanted);
                }
            }
        }
        self.stir(&self.stirred.slot);
    }

    /// Tasks that took too long are ended, and tried again; those that nobody waits for any more and that their holder has
    /// not begun are cancelled.
    pub(super) fn reap_tasks(&self, shard: &mut Shard, at: usize, now: Millis) -> usize {
        let late = |task: &Task| task.deadline <= now || task.history.is_late(now);
        let mut rows: super::tick::Rows =
            shard.tasks.iter().filter(|(_, task)| late(task)).map(|(row, _)| *row).collect();
        rows.sort_unstable();
        for row in &rows {
            let place = Place::new(at, *row as usize);
            let Some(task) = shard.tasks.get_mut(row) else { continue };
            shard.tally.warmed.too_late += self.late(&mut task.history.wanted, now);
            if task.deadline <= now {
                self.end_task(shard, place, End::Expired);
                self.again(shard, place, now);
            } else if !task.history.hot && task.history.wanted.is_empty() {
                self.cancel_unbegun(shard, place);
            }
        }
        rows.len()
    }

    /// Ends a task that nobody waits for, unless its holder has begun.
    pub(super) fn cancel_unbegun(&self, shard: &mut Shard, at: Place) {
        let Some(task) = shard.tasks.get(&(at.row() as u32)) else { return };
        let waits = self.member(task.holder).is_ok_and(|holder| holder.lock().outbox.has(task.slip));
        if waits {
            self.end_task(shard, at, End::Cancelled);
        }
    }
}
