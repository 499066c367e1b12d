//! Where a follower tells what it has learned; the wiring joins it to the index.

use std::sync::Arc;

use blocks::{Event, View, Worker};

/// A stored run of blocks whose parent the receiver does not hold: something was lost before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parent of a stored block is not known")]
pub struct UnknownParent;

/// The receiving end of one or many followed streams.
pub trait Sink: Send + Sync {
    /// Takes one change into the view of `worker`.
    ///
    /// # Errors
    /// [`UnknownParent`]; then nothing of the event was taken.
    fn apply(&self, worker: Worker, event: &Event) -> Result<(), UnknownParent>;

    /// Exchanges the whole view of `worker` for what `events` leave behind, in one step.
    /// Runs whose parent is unknown are left out.
    fn replace(&self, worker: Worker, events: &[Event]);

    /// Drops everything known of `worker`: its engine restarted or is gone.
    fn forget(&self, worker: Worker);

    /// Says how far the view of `worker` can be trusted from now on.
    fn set_view(&self, worker: Worker, view: View);

    /// The beginning of a prompt was stored, with token ids: what a tokenizer can be held against.
    fn saw_root(&self, _worker: Worker, _root: &Root<'_>) {}
}

/// Two sinks that hear the same.
pub struct Both(pub Arc<dyn Sink>, pub Arc<dyn Sink>);

impl Sink for Both {
    /// What one of them refuses is refused: the view of both is built anew then.
    fn apply(&self, worker: Worker, event: &Event) -> Result<(), UnknownParent> {
        self.0.apply(worker, event)?;
        self.1.apply(worker, event)
    }

    fn replace(&self, worker: Worker, events: &[Event]) {
        self.0.replace(worker, events);
        self.1.replace(worker, events);
    }

    fn forget(&self, worker: Worker) {
        self.0.forget(worker);
        self.1.forget(worker);
    }

    fn set_view(&self, worker: Worker, view: View) {
        self.0.set_view(worker, view);
        self.1.set_view(worker, view);
    }

    fn saw_root(&self, worker: Worker, root: &Root<'_>) {
        self.0.saw_root(worker, root);
        self.1.saw_root(worker, root);
    }
}

/// The first block of a prompt, as the engine tells it.
#[derive(Clone, Copy, Debug)]
pub struct Root<'a> {
    /// Tokens in a block of this engine.
    pub block_size: u32,
    /// The token ids of the run that begins at the prompt's beginning.
    pub tokens: &'a [u32],
    /// The LoRA adapter.
    pub lora: Option<&'a str>,
    /// The cache salt.
    pub salt: Option<&'a str>,
}
