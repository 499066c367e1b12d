//! The tiered store of KV blocks: a master that decides what lives where, nodes that hold it in memory over disk, and the
//! protocol that clients speak to it.

pub mod arena;
pub mod client;
pub mod disk;
pub mod link;
pub mod master;
pub mod node;
pub mod resp;
mod sketch;

// Tests and benches of the sketch and the master look at both.
pub use sketch::Sketch;
