//! Following one engine: a pure state machine, and the sockets around it.

mod core;
mod shell;

pub use core::{Action, Core, Counters, Mark, Phase, Settings};
pub use shell::{Follower, Looker, Source, Status};
