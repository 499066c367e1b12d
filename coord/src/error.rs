//! What can go wrong, and what the caller may conclude from it.

use crate::op::Class;

/// Why an operation has no answer. Each kind says what is known of its effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The backend could not be asked; nothing was done. Try again later, or do without.
    #[error("the coordinator cannot be reached: {0}")]
    Unavailable(String),
    /// No answer within the deadline. The operation changes nothing, or nothing more when it is done again.
    #[error("the coordinator gave no answer to `{op}` in time")]
    Timeout {
        /// Which operation.
        op: &'static str,
    },
    /// The operation was sent and its answer was lost: it was done once or not at all. Read before you do it again.
    #[error("nobody can say whether `{op}` was done: its answer was lost")]
    OutcomeUnknown {
        /// Which operation.
        op: &'static str,
    },
    /// Somebody has taken over since. Drop the work; do not retry.
    #[error("another holder has taken over (its fence is {current})")]
    Fenced {
        /// The fence of whoever holds it now.
        current: u64,
    },
    /// There is no such thing: it never was, or its time is over. It does not mean "done" or "empty".
    #[error("there is nothing of that name")]
    NotFound,
    /// The backend has forgotten: it was emptied, or a failover took it back in time. Build it again from what is
    /// durable; the operation was not done.
    #[error("the coordinator has lost its state (shard {shard}): {why}")]
    StateLost {
        /// Which part of it.
        shard: usize,
        /// How that was noticed.
        why: String,
    },
    /// The key holds something of another type. Choose another key.
    #[error("the key holds something else: {0}")]
    WrongType(String),
    /// The request makes no sense; fix it.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Whether it may help to ask again after a while, given what kind of operation it was.
    pub fn may_be_retried(&self, class: Class) -> bool {
        match self {
            Self::Unavailable(_) | Self::Timeout { .. } | Self::OutcomeUnknown { .. } => {
                class != Class::Resolve
            }
            _ => false,
        }
    }

    /// Whether the backend is away or mute, rather than having said no.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout { .. } | Self::OutcomeUnknown { .. })
    }
}
