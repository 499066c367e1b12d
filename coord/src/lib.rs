//! What replicas must agree on: shared primitives, three things built on them, and backends behind one trait.
//!
//! - [`name`], [`op`], [`error`]: what can be asked, what can be answered, what can go wrong.
//! - [`backend`]: who answers: the memory of this process, Redis, or whatever is registered.
//! - [`coord`]: asks, repeats what may be repeated, notices what was lost; [`primitives`] are its typed methods.
//! - [`jobs`]: completion of many parts, once.
//! - [`wait`]: waiting on any replica for work done on any other.
//! - [`once`]: work done once, work done for the latest version, statistics.
//! - [`replicas`]: who lives, and the shares of common limits; [`share`] decides, without I/O.
//! - [`kit`]: servers and faults for tests: what a backend must survive.

pub mod backend;
mod background;
pub mod clock;
pub mod conform;
pub mod coord;
pub mod error;
pub mod jobs;
pub mod kit;
pub mod name;
pub mod once;
pub mod op;
pub mod primitives;
pub mod replicas;
pub mod share;

pub mod wait;

pub use coord::Coord;
pub use error::Error;
pub use name::{Key, Name, Shard};
