//! Jobs of many parts: settled in any order, any number of times, complete once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Thing, Turn};
use crate::error::Error;
use crate::name::Name;
use crate::op::{End, Job, Left, Op, Opened, Plan, Reply, Settled, Stage, Swept, Task};

/// How long an acknowledged job is remembered, so that what is repeated is recognised.
pub(crate) const REMEMBERED: Duration = Duration::from_hours(1);

/// A job.
#[derive(Clone, Debug)]
pub(super) struct JobState {
    epoch: u64,
    plan: Plan,
    sealed: bool,
    /// Whether each part is settled.
    parts: BTreeMap<Name, bool>,
    left: u64,
    opened: Duration,
    moved: Duration,
    touched: Duration,
    stage: Stage,
    holder: Option<(Name, u64)>,
    /// Until then only the holder may run the handler, or the owner take it.
    free_at: Duration,
    attempts: u64,
}

impl JobState {
    pub(super) fn is_acknowledged(&self) -> bool {
        self.stage == Stage::Acknowledged
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let unsettled = self.parts.values().filter(|settled| !**settled).count() as u64;
        let counted = self.is_acknowledged() || self.left == unsettled;
        let ended = match self.stage {
            Stage::Open => !(self.sealed && self.left == 0),
            Stage::Ended(End::Complete) => self.sealed && self.left == 0,
            Stage::Ended(End::Stalled { .. }) | Stage::Acknowledged => true,
        };
        if counted && ended { Ok(()) } else { Err("C2") }
    }

    fn left(&self) -> Left {
        match self.stage {
            Stage::Open if self.sealed => Left::Sealed(self.left),
            Stage::Open => Left::Open(self.left),
            Stage::Ended(End::Complete) => Left::Sealed(0),
            _ => Left::Over,
        }
    }

    fn add(&mut self, parts: &[Name]) {
        for part in parts {
            if !self.parts.contains_key(part) {
                self.parts.insert(part.clone(), false);
                self.left += 1;
            }
        }
    }

    /// When something must be looked at by itself.
    fn attention(&self, ttl: Option<Duration>) -> Duration {
        let watchdog = self.stalls_at().unwrap_or(Duration::MAX);
        let touch = ttl.map_or(Duration::MAX, |ttl| self.touched + ttl / 4);
        match self.stage {
            Stage::Open => watchdog.min(touch),
            _ => self.free_at.min(touch),
        }
    }

    fn stalls_at(&self) -> Option<Duration> {
        (!self.plan.watchdog.is_zero()).then(|| self.moved + self.plan.watchdog)
    }
}

fn at(job: &Name) -> String {
    format!("j:{job}")
}

impl Turn<'_> {
    fn job(&mut self, name: &Name) -> Option<&mut JobState> {
        match self.get(&at(name)) {
            Some(Thing::Job(job)) => Some(job),
            _ => None,
        }
    }

    /// The job, if this is its epoch.
    fn of_epoch(&mut self, name: &Name, epoch: u64) -> Result<&mut JobState, Left> {
        match self.job(name) {
            None => Err(Left::Unknown),
            Some(job) if job.epoch > epoch => Err(Left::StaleEpoch(job.epoch)),
            Some(job) if job.epoch < epoch => Err(Left::Unknown),
            Some(job) => Ok(job),
        }
    }

    /// Ends the job if nothing is left of it, and plans when to look at it again.
    fn settle_down(&mut self, name: &Name) -> bool {
        let (now, ttl) = (self.now, self.ttl);
        let Some(job) = self.job(name) else { return false };
        let ends = job.stage == Stage::Open && job.sealed && job.left == 0;
        if ends {
            job.stage = Stage::Ended(End::Complete);
            job.free_at = now + job.plan.lease;
        }
        let (due, epoch, owner) = (job.attention(ttl), job.epoch, job.plan.owner.clone());
        self.ground.live.insert(name.clone(), due);
        if ends {
            self.tell(&["ended", name.as_str(), &epoch.to_string(), owner.as_str()]);
        }
        ends
    }

    pub(super) fn jobs(&mut self, op: &Op) -> Result<Reply, Error> {
        match op {
            Op::Open { job, epoch, plan, parts, sealed } => {
                Ok(Reply::Opened(self.open(job, *epoch, plan, parts, *sealed)))
            }
            Op::AddParts { job: name, epoch, parts } => {
                let left = match self.of_epoch(name, *epoch) {
                    Err(left) => left,
                    Ok(job) => {
                        if job.stage == Stage::Open && !job.sealed {
                            job.add(parts);
                        }
                        job.left()
                    }
                };
                Ok(Reply::Left(left))
            }
            Op::Seal { job: name, epoch } => {
                match self.of_epoch(name, *epoch) {
                    Err(left) => return Ok(Reply::Left(left)),
                    Ok(job) if job.stage == Stage::Open => job.sealed = true,
                    Ok(job) => return Ok(Reply::Left(job.left())),
                }
                self.settle_down(name);
                let left = self.job(name).map_or(Left::Unknown, |job| job.left());
                Ok(Reply::Left(left))
            }
            Op::Settle { job, epoch, part } => Ok(Reply::Settled(self.settle(job, *epoch, part))),
            Op::Sweep { instance, can, mine, lease, most, .. } => {
                Ok(Reply::Swept(self.sweep(instance, can, mine, *lease, *most)))
            }
            Op::Keep { job: name, epoch, fence, lease } => {
                let (now, ttl) = (self.now, self.ttl);
                let job = self.held(name, *epoch, *fence)?;
                if job.stage == Stage::Acknowledged {
                    return Err(Error::NotFound);
                }
                job.free_at = now + *lease;
                let due = job.attention(ttl);
                self.ground.live.insert(name.clone(), due);
                Ok(Reply::Fence(*fence))
            }
            Op::Ack { job: name, epoch, fence, effects } => {
                let job = self.held(name, *epoch, *fence)?;
                if job.stage == Stage::Acknowledged {
                    return Ok(Reply::Found(false));
                }
                for effect in effects {
                    self.may(effect)?;
                }
                for effect in effects {
                    self.effect(effect, *fence)?;
                }
                if let Some(job) = self.job(name) {
                    job.stage = Stage::Acknowledged;
                    job.parts.clear();
                }
                self.ground.live.remove(name);
                self.touch_for(&at(name), Some(REMEMBERED));
                Ok(Reply::Found(true))
            }
            Op::Cancel { job: name, epoch } => {
                if self.of_epoch(name, *epoch).is_err() {
                    return Ok(Reply::Found(false));
                }
                self.ground.live.remove(name);
                Ok(Reply::Found(self.remove(&at(name))))
            }
            Op::LookAtJob { job } => Ok(Reply::Job(self.look(job))),
            _ => unreachable!("the caller sorted the operations"),
        }
    }

    fn open(&mut self, name: &Name, epoch: u64, plan: &Plan, parts: &[Name], sealed: bool) -> Opened {
        let now = self.now;
        match self.job(name) {
            Some(job) if job.epoch > epoch => return Opened::StaleEpoch { current: job.epoch },
            Some(job) if job.epoch == epoch => {
                if job.stage != Stage::Open {
                    return Opened::Over;
                }
                if !job.sealed {
                    job.add(parts);
                    job.sealed = sealed;
                }
                self.settle_down(name);
                let left = self.job(name).map_or(Left::Unknown, |job| job.left());
                return Opened::Joined(left);
            }
            _ => {}
        }
        let mut job = JobState {
            epoch,
            plan: plan.clone(),
            sealed,
            parts: BTreeMap::new(),
            left: 0,
            opened: now,
            moved: now,
            touched: now,
            stage: Stage::Open,
            holder: None,
            free_at: now,
            attempts: 0,
        };
        job.add(parts);
        self.put(at(name), Thing::Job(Box::new(job)));
        self.settle_down(name);
        let left = self.job(name).map_or(Left::Unknown, |job| job.left());
        Opened::New(left)
    }

    fn settle(&mut self, name: &Name, epoch: u64, part: &Name) -> Settled {
        let (now, ttl) = (self.now, self.ttl);
        let job = match self.of_epoch(name, epoch) {
            Ok(job) => job,
            Err(Left::StaleEpoch(current)) => return Settled::StaleEpoch { current },
            Err(_) => return Settled::Unknown,
        };
        if job.stage == Stage::Acknowledged {
            // Its parts are gone; whatever comes now comes again, or too late.
            return if job.left == 0 { Settled::Duplicate } else { Settled::TooLate };
        }
        match job.parts.get_mut(part) {
            None => return Settled::Unknown,
            Some(true) => return Settled::Duplicate,
            Some(_) if job.stage != Stage::Open => return Settled::TooLate,
            Some(settled) => *settled = true,
        }
        job.left -= 1;
        job.moved = now;
        let left = job.left;
        let last = job.sealed && left == 0;
        if ttl.is_some_and(|ttl| now >= job.touched + ttl / 4) {
            job.touched = now;
            self.touch(&at(name));
        }
        if last && self.settle_down(name) {
            return Settled::Last;
        }
        Settled::Accepted { left }
    }

    fn sweep(&mut self, instance: &Name, can: &[Name], mine: &[Name], lease: Duration, most: usize) -> Swept {
        let now = self.now;
        let mut names: Vec<Name> = mine.iter().take(most).cloned().collect();
        let mut due: Vec<(Duration, Name)> = self
            .ground
            .live
            .iter()
            .filter(|(name, due)| **due <= now && !mine.contains(name))
            .map(|(name, due)| (*due, name.clone()))
            .collect();
        due.sort();
        names.extend(due.into_iter().map(|(_, name)| name).take(most));
        let mut swept = Swept::default();
        for name in names {
            self.look_after(&name, instance, can, lease, &mut swept);
        }
        swept
    }

    fn look_after(&mut self, name: &Name, instance: &Name, can: &[Name], lease: Duration, swept: &mut Swept) {
        let (now, ttl) = (self.now, self.ttl);
        let Some(job) = self.job(name) else {
            if self.ground.live.remove(name).is_some() {
                swept.vanished.push(name.clone());
            }
            return;
        };
        if job.is_acknowledged() {
            swept.over.push((name.clone(), job.epoch));
            return;
        }
        if job.stage == Stage::Open && job.stalls_at().is_some_and(|at| at <= now) {
            job.stage = Stage::Ended(End::Stalled { left: job.left });
            job.free_at = now + job.plan.lease;
        }
        let mut takes = None;
        if let Stage::Ended(end) = job.stage {
            let free = job.free_at <= now || job.holder.is_none() && job.plan.owner == *instance;
            if free && can.contains(&job.plan.handler) {
                takes = Some(end);
            }
        }
        let touch = ttl.is_some_and(|ttl| now >= job.touched + ttl / 4);
        if touch {
            job.touched = now;
            self.touch(&at(name));
        }
        if let Some(end) = takes {
            let fence = self.next_fence();
            let Some(job) = self.job(name) else { return };
            job.holder = Some((instance.clone(), fence));
            job.free_at = now + lease;
            job.attempts += 1;
            swept.tasks.push(Task {
                job: name.clone(),
                epoch: job.epoch,
                fence,
                handler: job.plan.handler.clone(),
                payload: job.plan.payload.clone(),
                end,
                attempt: job.attempts,
            });
        }
        let Some(job) = self.job(name) else { return };
        // What nobody here can run is looked at again after a while, not at once.
        let due = job.attention(ttl).max(now + lease / 2);
        self.ground.live.insert(name.clone(), due);
    }

    fn held(&mut self, name: &Name, epoch: u64, fence: u64) -> Result<&mut JobState, Error> {
        let job = match self.of_epoch(name, epoch) {
            Ok(job) => job,
            Err(Left::StaleEpoch(current)) => return Err(Error::Fenced { current }),
            Err(_) => return Err(Error::NotFound),
        };
        match job.holder {
            Some((_, held)) if held == fence => Ok(job),
            Some((_, current)) => Err(Error::Fenced { current }),
            None => Err(Error::NotFound),
        }
    }

    fn look(&mut self, name: &Name) -> Option<Job> {
        let now = self.now;
        let job = self.job(name)?;
        let due = match job.stage {
            Stage::Open => job.stalls_at(),
            Stage::Ended(_) => Some(job.free_at),
            Stage::Acknowledged => None,
        };
        let pending = job.parts.iter().filter(|(_, settled)| !**settled).map(|(part, _)| part.clone());
        Some(Job {
            epoch: job.epoch,
            stage: job.stage,
            sealed: job.sealed,
            left: job.left,
            parts: job.parts.len() as u64,
            pending: pending.take(Job::SHOWN).collect(),
            owner: job.plan.owner.clone(),
            handler: job.plan.handler.clone(),
            holder: job.holder.clone(),
            attempts: job.attempts,
            age: now.saturating_sub(job.opened),
            quiet: now.saturating_sub(job.moved),
            due: due.map(|due| due.saturating_sub(now)),
        })
    }
}
