//! The tiered store of KV blocks: a master that decides what lives where, nodes that hold it in memory over disk.

pub mod master;
mod sketch;

// Tests and benches of the sketch and the master look at both.
pub use sketch::Sketch;
