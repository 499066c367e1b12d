//! A room that is being built.
