//! Work: orders of the master are carried out, those of one object one after the other, within a budget of bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::time::{Instant, timeout};

use super::Inner;
use super::desk::Away;
use super::hold::Copy;
use super::meta::Meta;
use super::peers::{Parcel, Sent, Verdict};
use crate::disk;
use crate::master::name::{Name, Tier, Version};
use crate::master::{self, Copying, News, Order, Staging, TaskId};

/// What is done to one object's place on disk, one after the other: two changes of it must not overtake each other.
#[derive(Default)]
pub(super) struct Lanes {
    waiting: Mutex<HashMap<Name, VecDeque<(Job, Under)>>>,
    /// When something that goes wrong again and again was last said.
    said: Mutex<Option<Instant>>,
    unsaid: AtomicU64,
}

enum Job {
    /// The copy, and when the object ends by itself.
    Write(Version, Arc<Copy>, Option<u64>),
    Delete(Version),
}

/// How long a promotion waits for a part of memory that is long enough.
const ROOM: Duration = Duration::from_secs(1);
/// How often a disk that refuses is spoken of.
const GRUMBLE: Duration = Duration::from_secs(10);

/// An order under way.
struct Under {
    inner: Arc<Inner>,
    bytes: u64,
}

/// What is done to one object, by the task that does it.
struct Lane {
    inner: Arc<Inner>,
    name: Name,
    open: bool,
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Its runtime ended in the middle: what waits holds the node, which holds what waits.
        if self.open {
            let waited = self.inner.lanes.waiting.lock().remove(&self.name);
            drop(waited);
        }
    }
}

// === Taking orders ===

impl Inner {
    /// Takes orders and carries them out, until the node ends.
    pub(super) async fn work(self: Arc<Self>) {
        loop {
            let free = self.options.copying.saturating_sub(self.copying.load(Ordering::Acquire));
            if free == 0 {
                self.room.notified().await;
                continue;
            }
            match self.desk.take_orders(self.number(), free).wait().await {
                Ok(orders) if !orders.is_empty() => {
                    for order in orders {
                        self.carry_out(order);
                    }
                }
                Ok(_) => self.desk.ordered(self.number()).await,
                Err(Away) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn carry_out(self: &Arc<Self>, order: Order) {
        match order {
            Order::Drop { version, tier: Tier::Memory, .. } => self.hold.drop_copy(version),
            Order::Drop { name, version, tier: Tier::Disk } => self.enter(name, Job::Delete(version), 0),
            Order::CancelPut { put, .. } => self.hold.give_up(put.version()),
            // Its memory is given up by an order of its own; without memory it ends when it asks for some.
            Order::CancelTask { .. } => {}
            Order::Offload(copying) => self.offload(copying),
            Order::Promote(task, copying) => {
                let under = self.under(copying.size);
                let inner = self.clone();
                tokio::spawn(async move {
                    inner.promote(task, &copying).await;
                    drop(under);
                });
            }
        }
    }

    fn under(self: &Arc<Self>, bytes: u64) -> Under {
        self.working.fetch_add(1, Ordering::AcqRel);
        self.copying.fetch_add(bytes, Ordering::AcqRel);
        Under { inner: self.clone(), bytes }
    }

    /// Whether nothing is ordered, under way or untold.
    pub(super) async fn is_done(&self) -> bool {
        self.working.load(Ordering::Acquire) == 0
            && self.line.len() == 0
            && !matches!(self.desk.pending(self.number()).wait().await, Ok(true))
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.inner.copying.fetch_sub(self.bytes, Ordering::AcqRel);
        self.inner.working.fetch_sub(1, Ordering::AcqRel);
        self.inner.room.notify_one();
        self.inner.calm.notify_one();
    }
}

// === Memory -> disk ===

impl Inner {
    fn offload(self: &Arc<Self>, copying: Copying) {
        let Copying { name, version, size, ends, .. } = copying;
        let ends = ends.map(|ends| self.desk.clock().outside(ends));
        match self.hold.get(version) {
            Some(copy) if self.disk.is_some() => {
                // What is ordered to be kept shows.
                copy.trust();
                self.enter(name, Job::Write(version, copy, ends), size);
            }
            _ => self.line.push(News::OffloadFailed { name, version }),
        }
    }

    fn enter(self: &Arc<Self>, name: Name, job: Job, bytes: u64) {
        let under = self.under(bytes);
        let mut waiting = self.lanes.waiting.lock();
        if let Some(line) = waiting.get_mut(&name) {
            return line.push_back((job, under));
        }
        waiting.insert(name.clone(), VecDeque::new());
        drop(waiting);
        let inner = self.clone();
        tokio::spawn(async move {
            let (mut job, mut under) = (job, under);
            let mut lane = Lane { inner, name, open: true };
            loop {
                lane.inner.change(&lane.name, job).await;
                drop(under);
                let mut waiting = lane.inner.lanes.waiting.lock();
                let Some(next) = waiting.get_mut(&lane.name).and_then(VecDeque::pop_front) else {
                    waiting.remove(&lane.name);
                    drop(waiting);
                    lane.open = false;
                    break;
                };
                (job, under) = next;
            }
        });
    }

    async fn change(&self, name: &Name, job: Job) {
        let Some(disk) = &self.disk else {
            // What was to be written was refused when it was ordered; what is to be deleted is not there.
            if let Job::Delete(version) = job {
                self.line.push(News::Released { version, tier: Tier::Disk });
            }
            return;
        };
        let tenant = self.desk.name(name.tenant).as_bytes().to_vec();
        match job {
            Job::Write(version, copy, ends) => {
                let size = copy.len() as u64;
                let meta = Meta { ends, ..copy.meta.clone() };
                let written = disk.put(tenant, name.key.to_vec(), meta.write(), copy.bytes()).await;
                drop(copy);
                let name = name.clone();
                match written {
                    Ok(_) => {
                        self.counts.offloaded.fetch_add(1, Ordering::Relaxed);
                        self.counts.offloaded_bytes.fetch_add(size, Ordering::Relaxed);
                        self.line.push(News::Offloaded { name, version });
                    }
                    Err(error) => {
                        self.counts.offloads_failed.fetch_add(1, Ordering::Relaxed);
                        self.grumble("an object could not be written to disk, and is in memory only", &error);
                        self.line.push(News::OffloadFailed { name, version });
                    }
                }
            }
            Job::Delete(version) => {
                if self.on_disk(name, version).is_some() {
                    match disk.delete(tenant, name.key.to_vec()).await {
                        Ok(_) => {}
                        // Its bytes are not free: that is not said.
                        Err(error) => {
                            return self.grumble("an object could not be deleted from disk", &error);
                        }
                    }
                }
                self.line.push(News::Released { version, tier: Tier::Disk });
            }
        }
    }

    fn grumble(&self, what: &str, error: &disk::Error) {
        let lanes = &self.lanes;
        let unsaid = lanes.unsaid.fetch_add(1, Ordering::Relaxed);
        let mut said = lanes.said.lock();
        if said.is_none_or(|said| said.elapsed() >= GRUMBLE) {
            *said = Some(Instant::now());
            lanes.unsaid.store(0, Ordering::Relaxed);
            tracing::warn!(%error, times = unsaid + 1, "{what}");
        }
    }
}

// === Disk -> memory ===

impl Inner {
    /// The life of a promotion here: memory from the master, the bytes from disk, and then it is told.
    async fn promote(&self, task: TaskId, copying: &Copying) {
        let Copying { name, version, size, .. } = copying;
        let (Some(disk), Some((found, meta))) = (&self.disk, self.on_disk(name, *version)) else {
            self.line.push(News::Lost { name: name.clone(), version: *version, tier: Tier::Disk });
            return self.failed(task, "it is not on disk any more").await;
        };
        let staging = match self.desk.allocate(task, self.number(), *size).wait().await {
            Ok(Ok(staging)) => staging,
            // The master has given it up, or tries again by itself.
            Ok(Err(_)) | Err(Away) => return,
        };
        if staging.target != self.number() {
            return self.promote_to(task, copying, &staging, &found, meta).await;
        }
        self.hold.begin(*version);
        let Ok(Ok(room)) = timeout(ROOM, self.arena.obtain(found.len())).await else {
            self.end_staging(*version);
            return self.failed(task, "memory is free in too many parts").await;
        };
        let block = match disk.read(&found, room).await {
            Ok(block) => block,
            Err(error) => {
                self.look_at(&error, name, *version);
                self.end_staging(*version);
                return self.failed(task, &error.to_string()).await;
            }
        };
        self.hold.insert(name.clone(), meta, block, false);
        match self.desk.promoted(task, self.number()).wait().await {
            Ok(Ok(())) => {
                self.hold.end(*version);
                self.counts.promoted.fetch_add(1, Ordering::Relaxed);
                self.counts.promoted_bytes.fetch_add(*size, Ordering::Relaxed);
            }
            // It was given up meanwhile: what is staged is let go of, and said to be free when that is ordered.
            Ok(Err(_)) => {
                self.hold.forget(*version);
                self.end_staging(*version);
            }
            // Whether the master has it will show when everything is told.
            Err(Away) => drop(self.hold.end(*version)),
        }
    }

    /// The same, when memory was found on another node.
    async fn promote_to(
        &self,
        task: TaskId,
        copying: &Copying,
        staging: &Staging,
        found: &disk::Found,
        meta: Meta,
    ) {
        let Copying { name, version, size, .. } = copying;
        let (Some(disk), Some(peers)) = (&self.disk, &self.peers) else {
            return self.failed(task, "memory was found on another node, and this one cannot reach it").await;
        };
        let Ok(Ok(room)) = timeout(ROOM, self.lending.obtain(found.len())).await else {
            return self.failed(task, "too much is on its way to other nodes").await;
        };
        let bytes = match disk.read(found, room).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.look_at(&error, name, *version);
                return self.failed(task, &error.to_string()).await;
            }
        };
        let which = self.which(name, *version);
        let parcel = Parcel { which, meta, conditional: false, term: self.desk.term(), bytes };
        let placed = match peers.send(staging.target, parcel).await {
            Sent::Placed(placed) => placed,
            Sent::Refused(why) | Sent::Silent(why) => return self.failed(task, &why).await,
        };
        match self.desk.promoted(task, self.number()).wait().await {
            Ok(Ok(())) => {
                drop(placed.settle(Verdict::Shown));
                self.counts.sent.fetch_add(1, Ordering::Relaxed);
                self.counts.promoted.fetch_add(1, Ordering::Relaxed);
                self.counts.promoted_bytes.fetch_add(*size, Ordering::Relaxed);
            }
            Ok(Err(_)) => drop(placed.settle(Verdict::Unknown)),
            // That node finds out what became of it.
            Err(Away) => {}
        }
    }

    /// Nothing writes to it any more; an order to give it up that came meanwhile is answered.
    pub(super) fn end_staging(&self, version: Version) {
        if self.hold.end(version) {
            self.hold.released(version);
        }
    }

    async fn failed(&self, task: TaskId, why: &str) {
        self.counts.promotions_failed.fetch_add(1, Ordering::Relaxed);
        match self.desk.failed(task, self.number(), why).wait().await {
            Ok(Ok(()) | Err(master::Error::Stale)) | Err(Away) => {}
            Ok(Err(error)) => tracing::debug!(%error, why, "a failed promotion was not taken back"),
        }
    }
}
