//! One method a move: what must hold, which rows change, what the scheduler is told.

use std::ops::{Bound, RangeInclusive};

use bytes::Bytes;

use super::ask::new_row;
use super::{Ask, DEBTS_A_CLOSE, Desk, Done, Effect, Ledger, Plan, Refused, STARTS_A_MARK, Seen, What};
use crate::entry::{
    Cost, Entry, Item, Lease, MAX_HINT, MAX_ONCE, MAX_PAYLOAD, MAX_RESULT, Outcome, Stage, Terms,
};
use crate::format::{self, Due, Head, Placed};
use crate::log::{Error, Log, Sync, Table};
use crate::name::{Class, Key, MAX_NAME, Millis, QueueName, Seq};
use crate::scheduler::{DebtOf, LaneId, Scheduler};

/// What a move comes to.
pub(super) type Move = Result<(Effect, u64), Refused>;

impl Ledger {
    /// Reads what a move must know; `due_from` is [`Ledger::due_from`]. No lock is held, and nothing can change meanwhile: only this thread makes moves.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn look(what: &What, due_from: Millis, log: &dyn Log) -> Result<Seen, Refused> {
        match what {
            What::Enqueue(entry) => {
                let Some(once) = &entry.once else { return Ok(Seen::default()) };
                let row = log.get(Table::Once, &format::once(&entry.queue, once))?;
                let pair = row.as_deref().and_then(|row| row.split_first_chunk::<8>());
                let once = pair.map(|(seq, print)| {
                    let print = print.first_chunk::<8>().copied().unwrap_or_default();
                    (Seq(u64::from_be_bytes(*seq)), u64::from_be_bytes(print))
                });
                Ok(Seen { once, ..Seen::default() })
            }
            What::Resume { seq }
            | What::Hold { seq }
            | What::Cancel { seq }
            | What::Retry { seq }
            | What::Forget { seq } => Self::find(*seq, log),
            What::Yield { seq, not_before: Some(_), .. } | What::Finish { seq, remembered: true, .. } => {
                Ok(Self::read(*seq, log)?)
            }
            What::Expire { key, .. } => Self::find(key.seq, log),
            What::Due { until } => Ok(super::due::look(*until, due_from, log)?),
            What::Start { .. }
            | What::Finish { .. }
            | What::Yield { .. }
            | What::Suspend { .. }
            | What::PauseQueue { .. }
            | What::SetTerms { .. }
            | What::Close { .. } => Ok(Seen::default()),
        }
    }

    /// An entry, without where it is.
    pub(super) fn read(seq: Seq, log: &dyn Log) -> Result<Seen, Error> {
        let row = log.get(Table::Entries, &format::number(seq.0))?;
        let entry = row.map(|row| Head::decode(&row)).transpose()?;
        Ok(Seen { entry, ..Seen::default() })
    }

    /// What an entry is; of one that is done it is not kept.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn payload(seq: Seq, log: &dyn Log) -> Result<Option<Bytes>, Refused> {
        Ok(Self::read(seq, log)?.entry.map(|(_, payload, _)| payload))
    }

    /// Everything about an entry: where it is, and what it is.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn find(seq: Seq, log: &dyn Log) -> Result<Seen, Refused> {
        Ok(Self::look_for(seq, log)?)
    }

    /// The same, for whoever wants to know what is wrong.
    pub(super) fn look_for(seq: Seq, log: &dyn Log) -> Result<Seen, Error> {
        let mut seen = Self::read(seq, log)?;
        let Some((head, ..)) = seen.entry.as_mut().filter(|(head, ..)| head.over.is_none()) else {
            return Ok(seen);
        };
        let key = head.item.key;
        let row = format::inbox(head.queue, head.class, key);
        if let Some(value) = log.get(Table::Inbox, &row)? {
            // The row where it is knows how often it was started; its head was written when it came.
            (_, _, head.item) = format::inbox_row(&row, &value)?;
            seen.inbox = true;
            return Ok(seen);
        }
        for (table, row) in
            [(Table::Running, format::number(seq.0)), (Table::Aside, format::aside(head.queue, seq))]
        {
            if let Some(value) = log.get(table, &row)? {
                let placed = Placed::decode(table, &value)?;
                head.item = placed.item.clone();
                seen.aside = Some(placed);
                return Ok(seen);
            }
        }
        if let Some(value) = log.get(Table::Timers, &format::timer(key.at, Due::Ready, seq))? {
            head.item = Placed::decode(Table::Timers, &value)?.item;
            seen.timer = true;
        }
        Ok(seen)
    }

    /// Puts a move into the batch. `Some`: it must wait for the next batch.
    pub fn prepare(&mut self, ask: Ask, plan: &mut Plan, sched: &mut Scheduler, now: Millis) -> Option<Ask> {
        // M3
        let entries = ask.entries();
        if entries.iter().any(|seq| plan.touched.contains(seq)) {
            return Some(ask);
        }
        if let What::Enqueue(entry) = &ask.what
            && let Some(once) = &entry.once
            && !plan.onces.insert(format::once(&entry.queue, once))
        {
            return Some(ask);
        }
        if let What::Close { number } = ask.what
            && self.desks.get(&number).is_some_and(|desk| desk.live <= 0 && sched.runs(desk.id) > 0)
        {
            // A start of an entry that has left is still on its way here.
            return Some(ask);
        }
        if let What::Resume { seq } | What::Retry { seq } = ask.what
            && sched.is_gone(self.id(seq))
        {
            // So is the start of this one: ready again, it could be chosen a second time while the first is under way.
            return Some(ask);
        }
        plan.touched.extend(entries);
        let mut ask = ask;
        let seen = std::mem::take(&mut ask.seen);
        match self.make(&mut ask.what, seen, plan, sched, now) {
            Ok((effect, queue)) => plan.effects.push((effect, queue, ask)),
            Err(why) => {
                if let What::Start { seq, lease } = ask.what {
                    sched.undo(self.id(seq), lease, now);
                    plan.undone.push((self.id(seq), lease));
                }
                ask.refuse(why);
            }
        }
        None
    }

    fn make(
        &mut self,
        what: &mut What,
        seen: Seen,
        plan: &mut Plan,
        sched: &mut Scheduler,
        now: Millis,
    ) -> Move {
        match what {
            What::Enqueue(entry) => self.enqueue(entry, &seen, plan, sched, now),
            What::Start { seq, lease } => self.start(*seq, *lease, plan, sched),
            What::Finish { seq, lease, outcome, used, result, .. } => {
                let result = std::mem::take(result);
                self.finish(*seq, *lease, *outcome, *used, &result, seen, plan, sched, now)
            }
            What::Yield { seq, lease, not_before, used, counts } => {
                self.give_back(*seq, *lease, (*not_before, *counts), *used, seen, plan, sched, now)
            }
            What::Suspend { seq, lease, used } => self.suspend(*seq, *lease, *used, plan, sched),
            What::Resume { seq } => self.resume(*seq, seen, plan, now),
            What::Hold { seq } => self.hold(*seq, seen, plan),
            What::Cancel { seq } => self.cancel(*seq, seen, plan, sched, now),
            What::Expire { key, .. } => {
                self.is_late(*key, &seen, now)?;
                self.expire(key.seq, seen, plan, now)
            }
            What::Retry { seq } => self.retry(*seq, seen, plan, sched, now),
            What::Forget { seq } => self.forget(*seq, seen, plan),
            What::Due { .. } => Ok(self.due(seen, plan, now)),
            What::PauseQueue { name, paused } => self.pause_queue(name, *paused, plan),
            What::SetTerms { name, terms } => self.set_terms(name, terms, plan, sched),
            What::Close { number } => {
                self.close(*number, plan, sched);
                Ok((Effect::Nothing(Done::Moved), 0))
            }
        }
    }

    /// -> Inbox, or -> Scheduled
    fn enqueue(
        &mut self,
        entry: &Entry,
        seen: &Seen,
        plan: &mut Plan,
        sched: &mut Scheduler,
        now: Millis,
    ) -> Move {
        fits_entry(entry)?;
        let print = xxhash_rust::xxh3::xxh3_64(&entry.payload);
        if let Some((seq, before)) = seen.once {
            if before != print {
                let once = entry.once.as_deref().unwrap_or_default();
                return Err(Refused::Invalid(format!(
                    "the idempotency key {once:?} was used for another request of queue {}",
                    entry.queue
                )));
            }
            return Ok((Effect::Nothing(Done::Known(self.id(seq))), 0));
        }
        let at = self.time(now);
        let ready = entry.not_before.map_or(at, |not_before| not_before.max(at));
        if let Some(deadline) = entry.deadline.filter(|deadline| *deadline <= ready) {
            return Err(Refused::Invalid(format!(
                "the entry may not start before {} and not after {}",
                ready.0, deadline.0
            )));
        }
        let number = self.make_queue(&entry.queue, &entry.terms, plan, sched)?;
        let seq = self.mint(&mut plan.batch);
        let key = Key { at: ready, seq };
        let item = Item {
            key,
            cost: entry.cost,
            deadline: entry.deadline,
            attempt: 0,
            overtaken: 0,
            remembered: entry.keep > 0 || entry.once.is_some(),
            hint: entry.hint.clone(),
        };
        let head = Head {
            queue: number,
            name: entry.queue.clone(),
            target: entry.terms.target.clone(),
            class: entry.class,
            came: at,
            keep: entry.keep,
            once: entry.once.clone(),
            item: item.clone(),
            over: None,
            payload: entry.payload.len() as u32,
        };
        plan.batch.put(Table::Entries, format::number(seq.0), head.encode(&entry.payload, &[]));
        if let Some(once) = &entry.once {
            let mut row = seq.0.to_be_bytes().to_vec();
            row.extend(print.to_be_bytes());
            plan.batch.put(Table::Once, format::once(&entry.queue, once), row);
        }
        self.set_expiry(&item, number, entry.class, plan);
        let done = Done::Enqueued(self.id(seq));
        self.lives(number, 1);
        plan.needs(Sync::Disk);
        let scheduled = ready > at;
        let effect = self
            .make_ready(item, number, entry.class, scheduled, plan)
            .map_or(Effect::Nothing(done.clone()), |added| Effect::Added(vec![added], done.clone()));
        Ok((effect, number))
    }

    /// Inbox -> Running. The row need not be on disk before it runs: a crash of the machine would let it run again, which it
    /// does anyway if it had not finished.
    fn start(&mut self, seq: Seq, lease: Lease, plan: &mut Plan, sched: &mut Scheduler) -> Move {
        if !sched.may_start(self.id(seq), lease) {
            return Err(Refused::Stale(self.id(seq)));
        }
        let (lane, _, item) = sched.run(self.id(seq)).ok_or(Refused::Stale(self.id(seq)))?;
        let number = sched.number(lane.queue).ok_or(Refused::Stale(self.id(seq)))?;
        let mut item = item.clone();
        plan.batch.delete(Table::Inbox, format::inbox(number, lane.class, item.key));
        drop_expiry(&item, plan);
        item.attempt = item.attempt.saturating_add(1);
        let placed = Placed { queue: number, class: lane.class, stage: Stage::Running, item };
        plan.batch.put(Table::Running, format::number(seq.0), placed.encode());
        plan.needs(Sync::Write);
        self.raise_low(number, lane, plan, sched);
        Ok((Effect::Started(seq, lease), number))
    }

    /// Running -> Finished
    #[expect(clippy::too_many_arguments, reason = "a finish says all of it")]
    fn finish(
        &mut self,
        seq: Seq,
        lease: Lease,
        outcome: Outcome,
        used: Cost,
        result: &Bytes,
        seen: Seen,
        plan: &mut Plan,
        sched: &Scheduler,
        now: Millis,
    ) -> Move {
        fits("the result", result.len(), 0..=MAX_RESULT)?;
        let (number, class, mut item) = self.held(seq, lease, sched)?;
        item.attempt = item.attempt.saturating_add(1);
        plan.batch.delete(Table::Running, format::number(seq.0));
        self.owe(seq, used, number, class, plan, sched);
        self.end(item, number, outcome, result, seen, plan, now);
        let done = Done::Over(self.id(seq), outcome);
        Ok((Effect::Ended { seq, lease, used, back: None, revoked: false, done }, number))
    }

    /// Running -> Inbox, or -> Scheduled
    #[expect(clippy::too_many_arguments, reason = "a yield says all of it")]
    fn give_back(
        &mut self,
        seq: Seq,
        lease: Lease,
        (not_before, counts): (Option<Millis>, bool),
        used: Cost,
        seen: Seen,
        plan: &mut Plan,
        sched: &mut Scheduler,
        now: Millis,
    ) -> Move {
        let (number, class, mut item) = self.held(seq, lease, sched)?;
        item.attempt = item.attempt.saturating_add(u16::from(counts));
        item.overtaken = 0;
        plan.batch.delete(Table::Running, format::number(seq.0));
        self.owe(seq, used, number, class, plan, sched);
        let at = self.time(now);
        let later = not_before.filter(|not_before| *not_before > at);
        if let Some(later) = later {
            item.key.at = later;
            // Whoever looks for it begins with its head.
            if let Some((head, payload, _)) = seen.entry {
                let head = Head { item: item.clone(), ..head };
                plan.batch.put(Table::Entries, format::number(seq.0), head.encode(&payload, &[]));
            }
        }
        self.set_expiry(&item, number, class, plan);
        plan.needs(Sync::Write);
        let back = self.make_ready(item, number, class, later.is_some(), plan).map(|(_, item)| item);
        Ok((Effect::Ended { seq, lease, used, back, revoked: false, done: Done::Moved }, number))
    }

    /// Running -> Suspended
    fn suspend(&mut self, seq: Seq, lease: Lease, used: Cost, plan: &mut Plan, sched: &Scheduler) -> Move {
        let (number, class, mut item) = self.held(seq, lease, sched)?;
        item.attempt = item.attempt.saturating_add(1);
        plan.batch.delete(Table::Running, format::number(seq.0));
        self.owe(seq, used, number, class, plan, sched);
        let placed = Placed { queue: number, class, stage: Stage::Suspended, item };
        plan.batch.put(Table::Aside, format::aside(number, seq), placed.encode());
        plan.needs(Sync::Disk);
        Ok((Effect::Ended { seq, lease, used, back: None, revoked: false, done: Done::Moved }, number))
    }

    /// Suspended or Paused -> Inbox
    fn resume(&mut self, seq: Seq, seen: Seen, plan: &mut Plan, now: Millis) -> Move {
        let stage = seen.stage().ok_or(Refused::Unknown(self.id(seq)))?;
        let (Stage::Suspended | Stage::Paused, Some(placed)) = (stage, seen.aside) else {
            return Err(Refused::Stage { id: self.id(seq), stage, to: "resumed" });
        };
        let Placed { queue, class, item, .. } = placed;
        plan.batch.delete(Table::Aside, format::aside(queue, seq));
        self.set_expiry(&item, queue, class, plan);
        plan.needs(Sync::Disk);
        let later = item.key.at > self.time(now);
        let effect = match self.make_ready(item, queue, class, later, plan) {
            Some(added) => Effect::Added(vec![added], Done::Moved),
            None => Effect::Nothing(Done::Moved),
        };
        Ok((effect, queue))
    }

    /// Inbox or Scheduled -> Paused
    fn hold(&mut self, seq: Seq, seen: Seen, plan: &mut Plan) -> Move {
        let stage = seen.stage().ok_or(Refused::Unknown(self.id(seq)))?;
        let (Stage::Inbox | Stage::Scheduled, Some((head, ..))) = (stage, &seen.entry) else {
            return Err(Refused::Stage { id: self.id(seq), stage, to: "paused" });
        };
        let (queue, class, item) = (head.queue, head.class, head.item.clone());
        let left = self.take_out(head, stage, plan);
        let placed = Placed { queue, class, stage: Stage::Paused, item };
        plan.batch.put(Table::Aside, format::aside(queue, seq), placed.encode());
        plan.needs(Sync::Disk);
        Ok((Effect::Left(left, Done::Moved), queue))
    }

    /// anything but Finished -> Finished
    fn cancel(&mut self, seq: Seq, seen: Seen, plan: &mut Plan, sched: &Scheduler, now: Millis) -> Move {
        let id = self.id(seq);
        let stage = seen.stage().ok_or(Refused::Unknown(id))?;
        let Some((head, ..)) = &seen.entry else { return Err(Refused::Unknown(id)) };
        let (queue, item) = (head.queue, head.item.clone());
        let done = Done::Over(id, Outcome::Cancelled);
        let effect = match stage {
            Stage::Finished => return Err(Refused::Stage { id, stage, to: "cancelled" }),
            Stage::Inbox | Stage::Scheduled => Effect::Left(self.take_out(head, stage, plan), done),
            Stage::Suspended | Stage::Paused => {
                plan.batch.delete(Table::Aside, format::aside(queue, seq));
                Effect::Left(Vec::new(), done)
            }
            Stage::Running => {
                plan.batch.delete(Table::Running, format::number(seq.0));
                let (_, lease, run) = sched.run(self.id(seq)).ok_or(Refused::Unknown(id))?;
                // What it used nobody knows: what was expected.
                Effect::Ended { seq, lease, used: run.cost, back: None, revoked: true, done }
            }
        };
        self.end(item, queue, Outcome::Cancelled, &Bytes::new(), seen, plan, now);
        Ok((effect, queue))
    }

    /// Whether it is still what was found to be too late: it may have ended meanwhile, and been tried again.
    fn is_late(&mut self, key: Key, seen: &Seen, now: Millis) -> Result<(), Refused> {
        let now = self.time(now);
        let item = seen.entry.as_ref().map(|(head, ..)| &head.item);
        match item.filter(|item| item.key == key && item.deadline.is_some_and(|deadline| deadline <= now)) {
            Some(_) => Ok(()),
            None => Err(Refused::Stale(self.id(key.seq))),
        }
    }

    /// Inbox or Scheduled -> Finished, since it is too late to start
    pub(super) fn expire(&mut self, seq: Seq, seen: Seen, plan: &mut Plan, now: Millis) -> Move {
        let id = self.id(seq);
        let stage = seen.stage().ok_or(Refused::Unknown(id))?;
        let Some((head, ..)) = &seen.entry else { return Err(Refused::Unknown(id)) };
        if !matches!(stage, Stage::Inbox | Stage::Scheduled) {
            return Err(Refused::Stage { id, stage, to: "expired" });
        }
        let (queue, item) = (head.queue, head.item.clone());
        let left = self.take_out(head, stage, plan);
        self.end(item, queue, Outcome::Expired, &Bytes::new(), seen, plan, now);
        Ok((Effect::Left(left, Done::Over(id, Outcome::Expired)), queue))
    }

    /// Finished, but not done -> Inbox
    fn retry(&mut self, seq: Seq, seen: Seen, plan: &mut Plan, sched: &mut Scheduler, now: Millis) -> Move {
        let id = self.id(seq);
        let (mut head, payload, _) = seen.entry.ok_or(Refused::Unknown(id))?;
        match head.over {
            None => {
                return Err(Refused::Stage { id, stage: Stage::Inbox, to: "tried again before it is over" });
            }
            Some((Outcome::Done, _)) => {
                return Err(Refused::Stage {
                    id,
                    stage: Stage::Finished,
                    to: "tried again, since it is done",
                });
            }
            Some((_, over)) => {
                plan.batch.delete(Table::Timers, format::timer(over.plus(head.keep), Due::Forget, seq));
            }
        }
        plan.batch.delete(Table::Aside, format::aside(head.queue, seq));
        let before = head.queue;
        let terms = Terms::of(&head.target);
        head.queue = self.make_queue(&head.name, &terms, plan, sched)?;
        head.over = None;
        // Its deadline is over as well; whoever tries again means it.
        head.item.deadline = None;
        head.item.attempt = 0;
        head.item.key.at = self.time(now);
        if before != head.queue {
            self.lives(before, -1);
            self.lives(head.queue, 1);
        }
        plan.batch.put(Table::Entries, format::number(seq.0), head.encode(&payload, &[]));
        plan.needs(Sync::Disk);
        let added = self.make_ready(head.item.clone(), head.queue, head.class, false, plan);
        Ok((Effect::Added(added.into_iter().collect(), Done::Moved), head.queue))
    }

    /// Finished -> gone
    pub(super) fn forget(&mut self, seq: Seq, seen: Seen, plan: &mut Plan) -> Move {
        let id = self.id(seq);
        let (head, ..) = seen.entry.ok_or(Refused::Unknown(id))?;
        let Some((_, over)) = head.over else {
            return Err(Refused::Stage { id, stage: Stage::Inbox, to: "forgotten before it is over" });
        };
        plan.batch.delete(Table::Entries, format::number(seq.0));
        plan.batch.delete(Table::Aside, format::aside(head.queue, seq));
        plan.batch.delete(Table::Timers, format::timer(over.plus(head.keep), Due::Forget, seq));
        if let Some(once) = &head.once {
            plan.batch.delete(Table::Once, format::once(&head.name, once));
        }
        self.lives(head.queue, -1);
        plan.needs(Sync::Write);
        Ok((Effect::Nothing(Done::Moved), head.queue))
    }
}

// === Queues ===

impl Ledger {
    fn pause_queue(&mut self, name: &QueueName, paused: bool, plan: &mut Plan) -> Move {
        let number = *self.numbers.get(name).ok_or_else(|| Refused::NoQueue(name.clone()))?;
        let Some(desk) = self.desks.get_mut(&number) else { return Err(Refused::NoQueue(name.clone())) };
        desk.row.paused = paused;
        plan.batch.put(Table::Queues, format::number(number), desk.row.encode());
        plan.needs(Sync::Disk);
        Ok((Effect::Paused(desk.id, paused), number))
    }

    fn set_terms(&mut self, name: &QueueName, terms: &Terms, plan: &mut Plan, sched: &mut Scheduler) -> Move {
        fits_queue(name, terms)?;
        let number = self.make_queue(name, terms, plan, sched)?;
        let Some(desk) = self.desks.get_mut(&number) else { return Err(Refused::NoQueue(name.clone())) };
        desk.row.terms = terms.clone();
        desk.row.pinned = true;
        plan.batch.put(Table::Queues, format::number(number), desk.row.encode());
        plan.needs(Sync::Disk);
        Ok((Effect::Terms(number), number))
    }

    /// Forgets a queue, if nothing is left in it.
    fn close(&mut self, number: u64, plan: &mut Plan, sched: &mut Scheduler) {
        let Some(desk) = self.desks.get(&number) else { return };
        // Something may have come since it was found empty, and the scheduler may still be reading.
        if self.counted && desk.is_over() && sched.forget_queue(desk.id) {
            plan.batch.delete(Table::Queues, format::number(number));
            if let Some(desk) = self.desks.remove(&number) {
                self.numbers.remove(&desk.row.name);
            }
            self.forgive(plan, sched);
            plan.needs(Sync::Write);
        }
    }

    /// Takes some debts off the books whose tenants the scheduler has forgotten: each has its turn.
    fn forgive(&mut self, plan: &mut Plan, sched: &Scheduler) {
        for _ in 0..DEBTS_A_CLOSE.min(self.owing.len()) {
            let after = (Bound::Excluded(self.owing_seen.clone()), Bound::Unbounded);
            let next = self.owing.range(after).next().or_else(|| self.owing.first_key_value());
            let Some((key, of)) = next else { return };
            let (key, owes) = (key.clone(), sched.may_owe(of));
            if !owes {
                self.owing.remove(&key);
                plan.batch.delete(Table::Debts, key.clone());
            }
            self.owing_seen = key;
        }
    }

    /// The number of a queue, which is made if it is not there.
    fn make_queue(
        &mut self,
        name: &QueueName,
        terms: &Terms,
        plan: &mut Plan,
        sched: &mut Scheduler,
    ) -> Result<u64, Refused> {
        if let Some(number) = self.numbers.get(name) {
            if let Some(desk) = self.desks.get(number)
                && desk.row.terms.target != terms.target
            {
                return Err(Refused::Invalid(format!(
                    "queue {name} runs on {:?}; found {:?}",
                    desk.row.terms.target, terms.target
                )));
            }
            return Ok(*number);
        }
        let number = self.mint(&mut plan.batch).0;
        let row = new_row(name, terms);
        let id = sched.add_queue(name.clone(), (self.partition, number), terms, false);
        plan.batch.put(Table::Queues, format::number(number), row.encode());
        self.numbers.insert(name.clone(), number);
        self.desks.insert(number, Desk { id, live: 0, row: Box::new(row), starts: 0 });
        Ok(number)
    }

    fn lives(&mut self, number: u64, by: i64) {
        if let Some(desk) = self.desks.get_mut(&number) {
            desk.live += by;
            self.live += by;
        }
    }
}

// === Small steps ===

impl Ledger {
    fn held(&self, seq: Seq, lease: Lease, sched: &Scheduler) -> Result<(u64, Class, Item), Refused> {
        let stale = || Refused::Stale(self.id(seq));
        if !sched.holds(self.id(seq), lease) {
            return Err(stale());
        }
        let (lane, _, item) = sched.run(self.id(seq)).ok_or_else(stale)?;
        let number = sched.number(lane.queue).ok_or_else(stale)?;
        Ok((number, lane.class, item.clone()))
    }

    /// The row of an entry that is ready, or will be: what the scheduler is then told.
    pub(super) fn make_ready(
        &mut self,
        item: Item,
        number: u64,
        class: Class,
        scheduled: bool,
        plan: &mut Plan,
    ) -> Option<(LaneId, Item)> {
        let key = item.key;
        if scheduled {
            let placed = Placed { queue: number, class, stage: Stage::Scheduled, item };
            self.set_timer(key.at, Due::Ready, key.seq, placed.encode(), plan);
            return None;
        }
        plan.batch.put(Table::Inbox, format::inbox(number, class, key), format::item(&item));
        plan.adds.push((number, class, key));
        let desk = self.desks.get_mut(&number)?;
        // M5
        let low = &mut desk.row.low[class.number()];
        if low.is_none_or(|low| key < low) {
            *low = Some(key);
            plan.batch.put(Table::Queues, format::number(number), desk.row.encode());
        }
        Some((LaneId { queue: desk.id, class }, item))
    }

    /// After many starts, where a scan may begin is written down again.
    fn raise_low(&mut self, number: u64, lane: LaneId, plan: &mut Plan, sched: &Scheduler) {
        let Some(desk) = self.desks.get_mut(&number) else { return };
        desk.starts += 1;
        if desk.starts < STARTS_A_MARK {
            return;
        }
        desk.starts = 0;
        let (Some(low), Some(before)) = (sched.low_water(lane), desk.row.low[lane.class.number()]) else {
            return;
        };
        // M5: what this batch has made ready before is not known there.
        let added = plan.adds.iter().filter(|(of, class, _)| *of == number && *class == lane.class);
        let low = added.map(|(_, _, key)| *key).fold(low, Key::min);
        if low > before {
            desk.row.low[lane.class.number()] = Some(low);
            plan.batch.put(Table::Queues, format::number(number), desk.row.encode());
        }
    }

    /// Takes an entry out of the inbox, or off the schedule.
    fn take_out(&self, head: &Head, stage: Stage, plan: &mut Plan) -> Vec<(LaneId, Key)> {
        let key = head.item.key;
        drop_expiry(&head.item, plan);
        if stage == Stage::Scheduled {
            plan.batch.delete(Table::Timers, format::timer(key.at, Due::Ready, key.seq));
            return Vec::new();
        }
        plan.batch.delete(Table::Inbox, format::inbox(head.queue, head.class, key));
        let lane = self.desks.get(&head.queue).map(|desk| LaneId { queue: desk.id, class: head.class });
        lane.map(|lane| (lane, key)).into_iter().collect()
    }

    /// An entry is over: it is kept for a while, or gone.
    #[expect(clippy::too_many_arguments, reason = "an end says all of it")]
    fn end(
        &mut self,
        item: Item,
        number: u64,
        outcome: Outcome,
        result: &Bytes,
        seen: Seen,
        plan: &mut Plan,
        now: Millis,
    ) {
        let seq = item.key.seq;
        plan.needs(Sync::Disk);
        let kept = seen.entry.as_ref().is_some_and(|(head, ..)| head.keep > 0);
        if let Some((head, ..)) = &seen.entry
            && let Some(once) = head.once.as_ref().filter(|_| !kept)
        {
            plan.batch.delete(Table::Once, format::once(&head.name, once));
        }
        let Some((mut head, payload, _)) = seen.entry.filter(|_| kept) else {
            plan.batch.delete(Table::Entries, format::number(seq.0));
            self.lives(number, -1);
            return;
        };
        let at = self.time(now);
        head.over = Some((outcome, at));
        let payload = if outcome == Outcome::Done { Bytes::new() } else { payload };
        head.payload = payload.len() as u32;
        let class = head.class;
        let until = at.plus(head.keep);
        head.item = item.clone();
        plan.batch.put(Table::Entries, format::number(seq.0), head.encode(&payload, result));
        let placed = Placed { queue: number, class, stage: Stage::Finished, item };
        plan.batch.put(Table::Aside, format::aside(number, seq), placed.encode());
        self.set_timer(until, Due::Forget, seq, Bytes::new(), plan);
    }

    fn set_expiry(&mut self, item: &Item, number: u64, class: Class, plan: &mut Plan) {
        let Some(deadline) = item.deadline else { return };
        let placed = Placed { queue: number, class, stage: Stage::Inbox, item: item.clone() };
        self.set_timer(deadline, Due::Expire, item.key.seq, placed.encode(), plan);
    }

    /// What the tenant owes is written with what it has cost, so that it survives a crash.
    fn owe(&mut self, seq: Seq, used: Cost, number: u64, class: Class, plan: &mut Plan, sched: &Scheduler) {
        let Some(desk) = self.desks.get(&number) else { return };
        let key = format::debt(&desk.row.terms.target, class, &desk.row.name.tenant);
        let before = plan.more.get(&key).copied().unwrap_or_default();
        let Some((debt, more)) = sched.debt_after(self.id(seq), used, before) else { return };
        if !self.owing.contains_key(&key) {
            let (target, tenant) = (desk.row.terms.target.clone(), desk.row.name.tenant.clone());
            self.owing.insert(key.clone(), DebtOf { target, class, tenant });
        }
        plan.batch.put(Table::Debts, key.clone(), format::debt_value(debt));
        plan.more.insert(key, more);
    }
}

/// What no log takes is refused at the door: once a batch is made the books are ahead of the log, and cannot be taken back.
fn fits(what: &str, found: usize, allowed: RangeInclusive<usize>) -> Result<(), Refused> {
    if allowed.contains(&found) {
        return Ok(());
    }
    Err(Refused::Invalid(format!("{what}: found {found} bytes; allowed are {}", allowed.end())))
}

fn fits_queue(name: &QueueName, terms: &Terms) -> Result<(), Refused> {
    fits("the tenant", name.tenant.len(), 1..=MAX_NAME)?;
    fits("the queue", name.key.len(), 1..=MAX_NAME)?;
    fits("the target", terms.target.len(), 0..=MAX_NAME)
}

fn fits_entry(entry: &Entry) -> Result<(), Refused> {
    fits_queue(&entry.queue, &entry.terms)?;
    fits("the payload", entry.payload.len(), 0..=MAX_PAYLOAD)?;
    fits("the hint", entry.hint.as_ref().map_or(0, |hint| hint.len()), 0..=MAX_HINT)?;
    entry.once.as_ref().map_or(Ok(()), |once| fits("the idempotency key", once.len(), 1..=MAX_ONCE))
}

fn drop_expiry(item: &Item, plan: &mut Plan) {
    if let Some(deadline) = item.deadline {
        plan.batch.delete(Table::Timers, format::timer(deadline, Due::Expire, item.key.seq));
    }
}
