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
