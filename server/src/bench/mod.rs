//! `warmline bench`: what the house claims, measured.

pub mod events;
pub mod fair;
pub mod gateway;
pub mod indexer;
mod process;
pub mod queue;
pub mod route;
pub mod store;
pub mod tiers;
