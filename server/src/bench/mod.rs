//! `warmline bench`: what the house claims, measured.

pub mod events;
pub mod gateway;
pub mod indexer;
mod process;
pub mod route;
