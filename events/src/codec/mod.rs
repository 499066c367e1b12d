//! Bytes to events and back: every form that engines in use put on the wire.
//!
//! Decoding never panics and never holds more than 128 times its input: lengths are checked against the bytes that are
//! left before anything is reserved. The worst is a list of lists of empty words, two bytes each: 117 times, measured.
//! `tests/fuzz.rs` holds it to that.

mod decode;
mod encode;
mod pack;

pub(crate) use decode::view;
pub use decode::{Batch, Content, Extras, Malformed, Said, Stored, decode};
pub use encode::{compact, stock};
