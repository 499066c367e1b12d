//! Durable virtual queues: who waits, who runs, and the proof on disk.

pub mod entry;
mod fair;
pub mod format;
pub mod inbox;
pub mod ledger;
pub mod limits;
pub mod log;
pub mod name;
pub mod room;
pub mod scheduler;

// Tests in here and in `tests/` share a simulation.
#[cfg(test)]
extern crate self as queue;
