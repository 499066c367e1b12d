//! Servers and faults for tests: real Redis servers on free ports, and ways to break things on purpose.
//!
//! - [`servers`]: a server, a cluster or a set of sentinels, each gone when its value is dropped.
//! - [`proxy`]: what a network does to a request: it is lost, its reply is lost, or nothing ever comes.
//! - [`faulty`]: the same for a backend as such, by a seed.
//! - [`point`]: places in our own code where the process dies.

pub mod faulty;
pub mod point;
pub mod proxy;
pub mod servers;
