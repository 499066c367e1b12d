//! This replica among all others: who lives, what is shared, and what is known where.
//!
//! Everything here is a use of the room `coord`, and each says what it does without it: shares of limits last as long as
//! their lease and then become equal parts; budgets become equal parts; engines and explanations are those of this
//! replica. Nothing here stands between a request and its engine for longer than `coordination.share_patience`.

mod budget;
mod engines;
mod questions;
mod rates;
mod status;
mod voice;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord::backend::Registry;
use coord::replicas::{Place, Pool, Pulse};
use coord::{Coord, Name};
use tokio::runtime::Handle;

use crate::fleet::Fleet;
use crate::settings::Coordination;

pub use budget::Budget;
pub use engines::Watch;
pub use questions::{Answerer, Answering, Answers, Asked};
pub use rates::{Rates, Used};

/// This replica among all others; cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

struct Inner {
    coord: Coord,
    among: coord::replicas::Replicas,
    fleet: Fleet,
    engines: engines::Engines,
    patience: Duration,
    /// Where the connections to the backend live: gateway threads come and go with the listener.
    home: Handle,
    pools: parking_lot::Mutex<BTreeMap<String, Arc<Pool>>>,
    /// Who answers what others ask, by kind.
    answerers: parking_lot::Mutex<BTreeMap<&'static str, questions::Answerer>>,
}

impl Replicas {
    /// Joins the others. A backend that is away is no reason not to begin.
    ///
    /// # Errors
    /// Settings that cannot be used, in words.
    pub async fn join(
        settings: &Coordination,
        registry: &Registry,
        fleet: Fleet,
        places: (std::net::SocketAddr, std::net::SocketAddr),
    ) -> Result<Self, String> {
        let config = settings.config()?;
        let backend = registry.make(&config).await.map_err(|error| format!("coordination.{error}"))?;
        let born = fleet.clock().unix();
        let instance = match &settings.instance {
            Some(name) => name.clone(),
            None => format!("{}.{}.{:04x}", host(), std::process::id(), born.subsec_nanos() & 0xffff),
        };
        let instance = Name::new(instance).map_err(|error| format!("coordination.instance: {error}"))?;
        let seed = xxhash_rust::xxh3::xxh3_64(format!("{instance} {}", born.as_nanos()).as_bytes());
        let coord = Coord::new(backend, instance, seed);
        let pulse =
            Pulse { lease: settings.lease.get(), beat: settings.beat.get(), expected: settings.replicas };
        let voice = Arc::new(voice::Speaker::new(fleet.clone(), places));
        let life = born.as_micros() as u64;
        let among = coord::replicas::Replicas::begin(&coord, life, pulse, voice);
        Ok(Self(Arc::new(Inner {
            coord,
            among,
            fleet,
            engines: engines::Engines::default(),
            patience: settings.share_patience.get(),
            home: Handle::current(),
            pools: parking_lot::Mutex::default(),
            answerers: parking_lot::Mutex::default(),
        })))
    }

    /// Does what must be done for as long as the process lives: hears who is registered, answers questions, passes on what
    /// others have in hand. `watch` begins to watch an engine.
    pub async fn run(self, watch: Watch) {
        let hear = self.0.coord.hear();
        tokio::join!(
            voice::hear(self.0.fleet.clone(), self.0.among.lease(), self.0.among.view()),
            questions::answer(&self, hear),
            engines::follow(&self, watch),
        );
    }

    /// What all replicas ask.
    pub fn coord(&self) -> &Coord {
        &self.0.coord
    }

    /// Where clients reach another replica, if it lives.
    pub fn door_of(&self, instance: &str) -> Option<String> {
        let view = self.0.among.view();
        let view = view.borrow();
        let member = view.members.iter().find(|member| member.instance.as_str() == instance)?;
        voice::door(&member.info)
    }

    /// A limit on what is done at a time, over all replicas.
    ///
    /// # Errors
    /// A name that is none, in words.
    pub fn limit(&self, tenant: &str, most: usize) -> Result<Arc<Pool>, String> {
        let name = Name::new(format!("tenant/{tenant}")).map_err(|error| error.to_string())?;
        let pool = self.0.among.pool(&name, most as u64);
        self.0.pools.lock().insert(tenant.to_owned(), pool.clone());
        Ok(pool)
    }

    /// A place within a limit, if one is free here or can be had from others in a moment.
    pub async fn enter(&self, pool: &Arc<Pool>) -> Option<Place> {
        self.0.among.enter(pool, self.0.patience).await
    }

    /// A place for something that can wait, if there is one beside those that are kept for whoever cannot.
    pub fn enter_behind(&self, pool: &Arc<Pool>) -> Option<Place> {
        self.0.among.enter_behind(pool)
    }

    /// A limit on what is done in a minute, over all replicas.
    ///
    /// # Errors
    /// A name that is none, in words.
    pub fn budget(&self, name: &str, per_minute: u64) -> Result<Arc<Budget>, String> {
        let name = Name::new(format!("budget/{name}")).map_err(|error| error.to_string())?;
        Ok(Arc::new(Budget::new(self.clone(), name, per_minute)))
    }

    /// What a replica that has just started should wait for: the others may hold all of a limit, and may know engines.
    pub fn waiting_for(&self) -> Option<String> {
        let heard = self.0.among.is_settled();
        (!heard).then(|| "the coordinator has not answered yet".to_owned())
    }

    /// Ends in order.
    pub async fn leave(&self) {
        if let Err(error) = self.0.among.leave().await {
            tracing::warn!(%error, "the others were not told that this replica ends; they notice when its lease is over");
        }
    }
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(64).collect();
    if name.is_empty() { "replica".to_owned() } else { name }
}
