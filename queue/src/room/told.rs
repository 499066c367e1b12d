//! What the room counts of its own work, for metrics.

use crate::entry::Outcome;
use crate::name::CLASSES;

/// How often what was done, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Starts of each class: of what is durable, and of turns of those who stand in line.
    pub starts: [u64; CLASSES],
    /// Ends of durable entries, in the order of [`OUTCOMES`].
    pub ends: [u64; OUTCOMES.len()],
    /// Batches that were committed.
    pub commits: u64,
    /// Moves in them.
    pub moves: u64,
    /// Milliseconds that the commits took together.
    pub commit_millis: u64,
    /// Reads of lanes: refills of what is kept of each in memory.
    pub reads: u64,
}

/// How entries end.
pub const OUTCOMES: [Outcome; 4] = [Outcome::Done, Outcome::Failed, Outcome::Cancelled, Outcome::Expired];

const _: () = {
    let mut at = 0;
    while at < OUTCOMES.len() {
        assert!(OUTCOMES[at] as usize == at);
        at += 1;
    }
};
