//! What replicas must agree on: shared primitives, three things built on them, and backends behind one trait.
//!
//! - [`kit`]: servers and faults for tests: what a backend must survive.

pub mod kit;
