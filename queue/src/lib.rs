//! Durable virtual queues: who waits, who runs, and the proof on disk.

pub mod log;
