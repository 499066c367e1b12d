//! Where a follower tells what it has learned; the wiring joins it to the index.

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
