//! Where event streams meet an index: each change is taken in, and somebody may listen to the beginnings of prompts.

use std::sync::{Arc, OnceLock};

use blocks::{Event, View, Worker};
use events::sink::{Root, Sink, UnknownParent};
use index::Index;

/// An index as a sink of event streams.
pub struct IndexSink {
    index: Arc<Index>,
    roots: OnceLock<Roots>,
}

/// Whoever listens to the beginnings of prompts.
type Roots = Box<dyn Fn(Worker, &Root<'_>) + Send + Sync>;

impl IndexSink {
    /// A sink into this index.
    pub fn new(index: Arc<Index>) -> Arc<Self> {
        Arc::new(Self { index, roots: OnceLock::new() })
    }

    /// Tells somebody of the beginnings of prompts from now on.
    pub fn tell_roots(&self, roots: impl Fn(Worker, &Root<'_>) + Send + Sync + 'static) {
        // There is one listener; a second would be a bug of the wiring, and is ignored.
        let _ = self.roots.set(Box::new(roots));
    }
}

impl Sink for IndexSink {
    fn apply(&self, worker: Worker, event: &Event) -> Result<(), UnknownParent> {
        self.index.apply(worker, event).map(drop).map_err(|_| UnknownParent)
    }

    fn replace(&self, worker: Worker, events: &[Event]) {
        crate::memory::much_is_freed();
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
        if let Some(roots) = self.roots.get() {
            roots(worker, root);
        }
    }
}
