//! The backend of a single replica, and the model of every other: shared state as plain data behind one lock.

mod jobs;
mod replicas;
mod requests;
mod things;
mod world;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{Answer, Backend, Call, Heard, MAX_UNHEARD};
use crate::clock::Clock;
use crate::error::Error;

pub(crate) use jobs::REMEMBERED;
pub(crate) use requests::{MAX_STATS, TAKEN_FOR};
pub use world::World;

/// State in this process. Handles that are cloned share it.
#[derive(Clone)]
pub struct Memory {
    world: Arc<Mutex<World>>,
    clock: Clock,
    notices: broadcast::Sender<Heard>,
}

impl Memory {
    /// An empty state on the system's clock.
    pub fn new(ttl: Option<Duration>) -> Self {
        Self::on(Clock::system(), ttl)
    }

    /// An empty state on this clock.
    pub fn on(clock: Clock, ttl: Option<Duration>) -> Self {
        let (notices, _) = broadcast::channel(MAX_UNHEARD);
        Self { world: Arc::new(Mutex::new(World::new(ttl))), clock, notices }
    }

    /// Forgets everything, as a server does that lost its disk. Only tests have a use for it.
    pub fn flush(&self) {
        self.world.lock().flush();
    }

    /// A copy of the state, to put back later: what a failover to a replica that was behind does.
    pub fn snapshot(&self) -> World {
        self.world.lock().clone()
    }

    /// Puts a copy back.
    pub fn restore(&self, world: World) {
        *self.world.lock() = world;
    }

    /// Does one operation.
    pub fn apply(&self, call: Call<'_>) -> Answer {
        let mut notices = Vec::new();
        let answer = self.world.lock().apply(self.clock.unix(), call, &mut notices);
        for notice in notices {
            // Nobody listening is no failure.
            let _unheard = self.notices.send(Heard::Notice(call.op.shard(), notice.into()));
        }
        answer
    }
}

impl Backend for Memory {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(std::future::ready(Ok(self.apply(call))))
    }

    fn hear(&self) -> broadcast::Receiver<Heard> {
        self.notices.subscribe()
    }

    fn describe(&self) -> String {
        "memory of this process".to_owned()
    }
}

#[cfg(test)]
mod tests;
