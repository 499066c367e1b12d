//! Faults and servers for tests: a TCP proxy that breaks things on purpose, and real Redis servers on free ports.

pub mod point;
