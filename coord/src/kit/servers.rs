//! Real Redis servers on loopback, each in a folder of its own and gone when its value is dropped.
//!
//! - [`Server`]: one server, plain or with TLS.
//!
//! Nothing here stands in for Redis: without `redis-server` on the `PATH` every start fails and says so.

mod certificate;
mod port;
mod process;
mod server;

pub use server::{Options, Persistence, Server};
