//! The tiered store of KV blocks: memory over disk, shared by a fleet.

pub mod client;
pub mod resp;
