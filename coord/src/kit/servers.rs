//! Real Redis servers on loopback, each in a folder of its own and gone when its value is dropped.
//!
//! - [`Server`]: one server, plain or with TLS.
//! - [`Cluster`]: three masters with a replica each, whose slots move when they are told to.
//! - [`Sentinels`]: a master, a replica, and three who watch them.
//!
//! Nothing here stands in for Redis: without `redis-server` on the `PATH` every start fails and says so.

mod certificate;
mod cluster;
mod port;
mod process;
mod sentinels;
mod server;
mod view;

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use cluster::{Cluster, Promotion};
pub use sentinels::Sentinels;
pub use server::{Options, Persistence, Server};

/// How long servers may take to agree. Sentinels that were not scheduled for two seconds do nothing for thirty.
const AGREEMENT: Duration = Duration::from_mins(1);

/// Asking again until servers agree.
struct Patience {
    what: &'static str,
    end: Instant,
}

impl Patience {
    fn with(what: &'static str) -> Self {
        Self { what, end: Instant::now() + AGREEMENT }
    }

    /// Not yet, for this reason: waits a moment, or gives the reason back if there is no more time.
    async fn not_yet(&self, reason: String) -> Result<(), String> {
        ensure(Instant::now() < self.end, || format!("{}: not within {AGREEMENT:?}: {reason}", self.what))?;
        sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
