//! The store as a process of its own, and what of it others hear.

pub mod residency;
