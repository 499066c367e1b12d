//! The Redis protocol, versions 2 and 3, in front of any store.
//!
//! Bytes become commands (`decode`), commands become answers (`session`), answers become bytes (`out`): none of the three
//! knows a socket. `server` moves the bytes, `house` is what connections share, `contract` is what a store must do.

pub mod access;
pub mod command;
pub mod contract;
pub mod counters;
pub mod decode;
pub mod fake;
pub mod glob;
pub mod house;
pub mod inline;
pub mod out;
mod pool;
pub mod refusal;
pub mod server;
pub mod session;
pub mod settings;

pub use contract::{Answer, Part, Put, Sink, Store, Tenant};
pub use refusal::{Code, Refusal};
pub use server::Server;
pub use settings::Settings;
