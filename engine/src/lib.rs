//! The publisher for engines that are not written in Rust: a C ABI, described for its users in `include/warmline_engine.h`.
//!
//! No panic crosses it, nothing that is lent is kept, and whatever can be checked about a pointer is checked before it is
//! read. This is the only room where `unsafe` is at home.
//!
//! - [`publisher`]: the functions.
//! - `given`: the structures that come in, and how they are read.
//! - `trouble`: what is returned when something does not fit.

mod given;
pub mod publisher;
mod trouble;

pub use given::{Run, Settings};
pub use trouble::Trouble;

/// `WARMLINE_ENGINE_ABI` of the header.
pub const ABI: u32 = 1;
