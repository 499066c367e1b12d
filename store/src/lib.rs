//! The tiered store of KV blocks: memory over disk, on the nodes of a fleet.

pub mod arena;
pub mod disk;
