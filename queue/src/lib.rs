//! Durable virtual queues: who waits, who runs, and the proof on disk.

pub mod entry;
mod fair;
pub mod inbox;
pub mod limits;
pub mod log;
pub mod name;
pub mod scheduler;
