//! Webhooks: whoever has batches or jobs is told when they end, however long it takes until somebody hears.
//!
//! What is to be told is written down on the shelf before it can happen (a job) or before it is forgotten that it did (a
//! batch), and taken away when it was heard. Whoever owns the partition of the batch or job tells it ([`teller`]). It may
//! be heard twice, under the same `webhook-id`, if its teller dies in between; it is never lost within [`DAY`].

mod notice;
mod send;
mod sign;
mod teller;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use queue::name::EntryId;
use tokio::sync::mpsc;

use self::notice::{About, Notice};
use self::send::{Connections, Target};
use self::teller::Teller;
use self::turns::Whose;
use crate::batches::{Ended, Made};
use crate::clock::Clock;
use crate::settings::Settings;
use crate::shelf::{self, Shelf};
use crate::work::Work;

/// Who is told what; cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    shelf: Shelf,
    work: Work,
    clock: Clock,
    /// With tenants each one's own; without, or for those who have none, everybody's.
    own: HashMap<String, Arc<Target>>,
    common: Option<Arc<Target>>,
    connections: Option<Connections>,
    new: mpsc::UnboundedSender<Notice>,
    heard_of: parking_lot::Mutex<Option<mpsc::UnboundedReceiver<Notice>>>,
    counters: Counters,
}

/// What happened to messages on this replica.
#[derive(Debug, Default)]
pub struct Counters {
    heard: AtomicU64,
    unheard: AtomicU64,
    given_up: AtomicU64,
    void: AtomicU64,
}

/// After so long nobody is told any more.
pub const DAY: Duration = Duration::from_hours(24);

impl Webhooks {
    /// Those whom the settings name.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub fn new(settings: &Settings, shelf: Shelf, work: Work) -> Result<Self, String> {
        let common = Target::read(&settings.webhook).map_err(|why| format!("webhook.{why}"))?.map(Arc::new);
        let mut own = HashMap::new();
        for (i, tenant) in settings.tenants.iter().enumerate() {
            let target =
                Target::read(&tenant.webhook).map_err(|why| format!("tenants[{i}].webhook.{why}"))?;
            if let Some(target) = target {
                own.insert(tenant.name.clone(), Arc::new(target));
            }
        }
        let anybody = common.is_some() || !own.is_empty();
        let (new, heard_of) = mpsc::unbounded_channel();
        Ok(Self(Arc::new(Inner {
            shelf,
            clock: work.fleet().clock(),
            work,
            own,
            common,
            connections: anybody.then(send::connections).transpose()?,
            new,
            heard_of: parking_lot::Mutex::new(Some(heard_of)),
            counters: Counters::default(),
        })))
    }

    /// What happened.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// A batch has ended: its tenant will be told.
    ///
    /// # Errors
    /// It could not be written down: say it again.
    pub async fn of_batch(&self, made: &Made, ended: &Ended) -> Result<(), shelf::Error> {
        let about = About::Batch { id: made.id.clone(), status: ended.status };
        self.write_down(made.tenant.clone(), made.partition, about, ended.at * 1_000).await
    }

    /// A job was made: its tenant will be told when it has ended.
    ///
    /// # Errors
    /// It could not be written down: say it again.
    pub async fn of_job(&self, tenant: Option<&str>, entry: EntryId) -> Result<(), shelf::Error> {
        let about = About::Job { entry: entry.to_string(), end: None };
        self.write_down(tenant.map(str::to_owned), entry.partition, about, self.now()).await
    }

    async fn write_down(
        &self,
        tenant: Option<String>,
        partition: u32,
        about: About,
        since_ms: u64,
    ) -> Result<(), shelf::Error> {
        if self.target(tenant.as_deref()).is_none() {
            return Ok(());
        }
        let notice = Notice { tenant, partition, about, since_ms, tries: 0, at_ms: since_ms };
        self.write(&notice).await?;
        let _ended = self.0.new.send(notice);
        Ok(())
    }

    async fn write(&self, notice: &Notice) -> Result<(), shelf::Error> {
        let bytes = serde_json::to_vec(notice).expect("strings and numbers always serialise");
        self.0.shelf.put(&notice.place(), bytes.into()).await
    }

    fn now(&self) -> u64 {
        self.0.clock.unix().as_millis() as u64
    }

    /// Whose receiver is told what is a tenant's.
    fn whose(&self, tenant: Option<&str>) -> Whose {
        tenant.filter(|tenant| self.0.own.contains_key(*tenant)).map(str::to_owned)
    }

    fn target(&self, tenant: Option<&str>) -> Option<&Arc<Target>> {
        tenant.and_then(|tenant| self.0.own.get(tenant)).or(self.0.common.as_ref())
    }

    /// Tells, for as long as the process lives.
    pub async fn run(self) {
        let heard_of = self.0.heard_of.lock().take();
        let Some(new) = heard_of.filter(|_| self.0.connections.is_some()) else { return };
        let (ends, opened) = (self.0.work.ends(), self.0.work.opened());
        Teller::new(self).run(new, ends, opened).await;
    }
}

// === impl Counters ===

impl Counters {
    /// Name, kind, help and value of each metric.
    pub fn rows(&self) -> Vec<(&'static str, &'static str, &'static str, f64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        vec![
            (
                "warmline_webhooks_heard_total",
                "counter",
                "Webhooks that were answered with 2xx.",
                load(&self.heard),
            ),
            (
                "warmline_webhooks_unheard_total",
                "counter",
                "Tries that were not; each is made again.",
                load(&self.unheard),
            ),
            (
                "warmline_webhooks_given_up_total",
                "counter",
                "Webhooks that nobody heard for a day.",
                load(&self.given_up),
            ),
            (
                "warmline_webhooks_void_total",
                "counter",
                "Webhooks of which nobody knew any more what to tell, or whom.",
                load(&self.void),
            ),
        ]
    }
}
