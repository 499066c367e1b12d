//! How much of what waits in logs may run at a time: of a tenant within its limit, and of all tenants together.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord::replicas::{Place, Pool};
use parking_lot::Mutex;

use crate::fleet::{Fleet, Ticket};
use crate::replicas::Replicas;

/// Where something runs: a place on an engine and, of what is durable, the right to run.
pub struct Spot {
    /// The place on an engine.
    pub ticket: Ticket,
    /// To be dropped after the place: whoever is told that something may run finds its engine free.
    pub pass: Option<Pass>,
}

/// Lets durable work run.
pub(super) struct Gate {
    replicas: Replicas,
    fleet: Fleet,
    limits: HashMap<String, Arc<Pool>>,
    most: u32,
    running: Arc<AtomicU32>,
    /// Tenants that have used up what they may use in a minute, and until when.
    shut: Mutex<HashMap<String, Duration>>,
}

/// The right to run something durable.
pub struct Pass {
    place: Option<Place>,
    running: Arc<AtomicU32>,
    /// Is told when it is free again, if it was ever used.
    fleet: Option<Fleet>,
}

impl Gate {
    /// # Errors
    /// A tenant's name that cannot be shared, in words.
    pub(super) fn new(fleet: &Fleet, replicas: &Replicas) -> Result<Self, String> {
        let settings = fleet.settings();
        let mut limits = HashMap::new();
        for tenant in &settings.tenants {
            if let Some(most) = tenant.max_in_flight {
                limits.insert(tenant.name.clone(), replicas.limit(&tenant.name, most)?);
            }
        }
        Ok(Self {
            replicas: replicas.clone(),
            fleet: fleet.clone(),
            limits,
            most: settings.queue.jobs_in_flight,
            running: Arc::default(),
            shut: Mutex::default(),
        })
    }

    /// Something durable of this tenant may run. Asked within a decision: what comes of it must not be dropped there, but
    /// used, or given [back](Pass::unused).
    pub(super) fn pass(&self, tenant: &str) -> Option<Pass> {
        if self.is_shut(tenant) {
            return None;
        }
        let most = self.most;
        let one_more = |running: u32| (running < most).then_some(running + 1);
        self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let mut pass = Pass { place: None, running: self.running.clone(), fleet: None };
        if let Some(pool) = self.limits.get(tenant) {
            pass.place = Some(self.replicas.enter_behind(pool)?);
        }
        pass.fleet = Some(self.fleet.clone());
        Some(pass)
    }

    /// A tenant has used up what it may use in a minute: nothing of it runs for so long.
    pub(super) fn shut(&self, tenant: &str, pause: Duration) {
        let until = self.fleet.clock().now() + pause;
        self.shut.lock().insert(tenant.to_owned(), until);
    }

    fn is_shut(&self, tenant: &str) -> bool {
        let mut shut = self.shut.lock();
        let Some(until) = shut.get(tenant) else { return false };
        if self.fleet.clock().now() < *until {
            return true;
        }
        shut.remove(tenant);
        false
    }
}

impl Pass {
    /// It was not needed: nobody is told.
    pub(super) fn unused(mut self) {
        self.fleet = None;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        drop(self.place.take());
        self.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(fleet) = &self.fleet {
            fleet.freed();
        }
    }
}
