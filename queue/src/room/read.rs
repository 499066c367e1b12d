//! Reads of lanes: a batch of rows from where knowledge ends, on threads that may wait for a disk.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Shared;
use crate::entry::Item;
use crate::format;
use crate::inbox::{CAPACITY, Found};
use crate::log::{Error, Log, Patience, Scanned, Span};
use crate::name::Key;
use crate::scheduler::Hunger;

/// A read that somebody is to do.
pub(super) struct Job {
    pub(super) log: Arc<dyn Log>,
    pub(super) queue: u64,
    pub(super) from: Key,
    pub(super) hunger: Hunger,
}

/// Where jobs are handed in. Bounded by the scheduler: it has at most so many reads under way.
pub(super) struct Readers(Mutex<Option<Sender<Job>>>);

impl Readers {
    pub(super) fn new() -> (Self, Receiver<Job>) {
        let (jobs, taken) = channel();
        (Self(Mutex::new(Some(jobs))), taken)
    }

    pub(super) fn send(&self, job: Job) {
        if let Some(jobs) = &*self.0.lock() {
            let _closing = jobs.send(job);
        }
    }

    pub(super) fn close(&self) {
        *self.0.lock() = None;
    }
}

/// Reads until the room ends.
pub(super) fn serve<P: Send + 'static>(shared: &Weak<Shared<P>>, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let Ok(job) = jobs.lock().recv() else { return };
        let found = safely(&job, Patience::Wait);
        let Some(shared) = shared.upgrade() else { return };
        shared.pump_after(|core, now| {
            match found {
                Ok(Some(found)) => core.sched.read(&job.hunger, found),
                // It was cancelled, or cannot be had.
                Ok(None) => core.sched.read_failed(&job.hunger, now),
                Err(error) => {
                    tracing::warn!(queue = job.queue, %error, "a lane could not be read; it is tried again");
                    core.sched.read_failed(&job.hunger, now);
                }
            }
            Vec::new()
        });
    }
}

/// Reads one batch, whatever the log does.
pub(super) fn safely(job: &Job, patience: Patience) -> Result<Option<Found>, Error> {
    super::safely("reading a lane", || read(job, patience))
}

/// Reads one batch. `None`: it was cancelled, or would have to wait and may not.
fn read(job: &Job, patience: Patience) -> Result<Option<Found>, Error> {
    let class = job.hunger.lane.class;
    let span: Span = format::lane(job.queue, class, job.from);
    let mut items: Vec<Item> = Vec::new();
    let mut full = false;
    let mut wrong = None;
    let mut visit = |key: &[u8], value: &[u8]| {
        if job.hunger.ticket.is_cancelled() {
            return ControlFlow::Break(());
        }
        if items.len() == CAPACITY {
            full = true;
            return ControlFlow::Break(());
        }
        match format::inbox_row(key, value) {
            Ok((_, _, item)) => {
                items.push(item);
                ControlFlow::Continue(())
            }
            Err(error) => {
                wrong = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let scanned = job.log.scan(&span, patience, &mut visit)?;
    if let Some(error) = wrong {
        return Err(error);
    }
    if job.hunger.ticket.is_cancelled() || scanned == Scanned::WouldBlock {
        return Ok(None);
    }
    Ok(Some(Found { items, full }))
}
