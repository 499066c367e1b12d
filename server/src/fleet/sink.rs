//! Where the event streams meet the index: each change is taken in, and the beginnings of prompts are remembered.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use blocks::{Event, View, Worker};
use events::sink::{Root, Sink, UnknownParent};
use index::Index;

use super::Fleet;

/// The index as a sink of event streams. It knows the fleet once there is one.
pub struct IndexSink {
    index: Arc<Index>,
    fleet: OnceLock<Fleet>,
}

impl IndexSink {
    /// A sink into this index.
    pub fn new(index: Arc<Index>) -> Arc<Self> {
        Arc::new(Self { index, fleet: OnceLock::new() })
    }

    /// Tells the fleet of the beginnings of prompts from now on.
    pub fn introduce(&self, fleet: Fleet) {
        // A sink is introduced once; a second fleet would be a bug of the wiring, and is ignored.
        let _ = self.fleet.set(fleet);
    }
}

impl Sink for IndexSink {
    fn apply(&self, worker: Worker, event: &Event) -> Result<(), UnknownParent> {
        self.index.apply(worker, event).map(drop).map_err(|_| UnknownParent)
    }

    fn replace(&self, worker: Worker, events: &[Event]) {
        match self.index.replace(worker, events) {
            Ok(0) => {}
            Ok(orphans) => {
                tracing::debug!(%worker, orphans, "runs without a parent were left out of a new view");
            }
            Err(refused) => tracing::error!(%worker, ?refused, "a new view was not taken"),
        }
    }

    fn forget(&self, worker: Worker) {
        self.index.forget(worker);
    }

    fn set_view(&self, worker: Worker, view: View) {
        self.index.set_view(worker, view);
    }

    fn saw_root(&self, worker: Worker, root: &Root<'_>) {
        let Some(fleet) = self.fleet.get() else { return };
        let members = fleet.members();
        let Some(member) = members.iter().find(|member| member.workers.contains(&worker)) else { return };
        let believed = member.block_size.swap(root.block_size.max(1), Ordering::Relaxed);
        if believed != root.block_size {
            tracing::info!(
                engine = %member.settings.name, believed, told = root.block_size,
                "the engine's blocks have another size than was set; its events are believed"
            );
        }
        member.truth.lock().root(root.tokens);
    }
}
