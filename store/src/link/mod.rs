//! The store over many processes: a master that nodes reach by sockets, nodes that read from and write to each other, and masters
//! that take over from each other.
//!
//! [`Masters`] serves a master while it leads, [`Remote`] is what a node has in place of a master in its own process, [`PeerServer`]
//! and [`Net`] are the two sides between nodes. `lead` says who may lead, `frame` and `codec` are the wire.
//!
//! What always holds, and what `store/tests/link.rs` tries to break:
//! - L1: bytes that a client gets are bytes that were put under that key; else it gets a miss or a refusal with a code word.
//! - L2: an answer of a master counts only while its lease lasted for certain, by the clock of the node that asked; so a master
//!   that was stopped and wakes up commits nothing, however late its answers arrive.
//! - L3: a node goes with the highest term that it has seen, and never back.
//! - L4: a session is told everything before anything is believed: what is not found before is not known to be absent.
//! - L5: whatever comes from a socket is bounded: frames, what is held for one that has not ended, connections, promises.

pub mod ask;
mod book;
pub mod codec;
pub mod frame;
pub mod lead;
mod peer;
mod pool;
mod remote;
mod server;
mod session;
mod settings;

pub use book::{Book, Place};
pub use lead::{Alone, Held, Lead, Noted};
pub use peer::PeerServer;
pub use pool::Net;
pub use remote::Remote;
pub use server::Masters;
pub use settings::{Secret, Settings};
