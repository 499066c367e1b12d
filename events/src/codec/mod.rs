//! Bytes to events and back: every form that engines in use put on the wire.
//!
//! Decoding never panics and never allocates more than a small multiple of its input: lengths are
//! checked against the bytes that are left before anything is reserved.

mod decode;
mod encode;
mod pack;

pub(crate) use decode::view;
pub use decode::{Batch, Content, Extras, Malformed, Said, Stored, decode};
pub use encode::{compact, stock};
